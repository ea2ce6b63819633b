package check

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/bits"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/crypto/ssh"
)

// keyring has ssh-keygen verify signatures.
type keyring struct {
	dir    string
	asked  map[statement]bool
	broken error // why no signature can be verified
}

func newKeyring(people map[string]Person) (*keyring, error) {
	dir, err := os.MkdirTemp("", "chaos-keys-")
	if err != nil {
		return nil, err
	}
	var lines strings.Builder
	for _, name := range slices.Sorted(maps.Keys(people)) {
		if p := people[name]; len(p.Groups) > 0 {
			lines.WriteString(name + " " + string(ssh.MarshalAuthorizedKey(p.Key)))
		}
	}
	k := &keyring{dir: dir, asked: map[statement]bool{}}
	if err := os.WriteFile(k.path("allowed_signers"), []byte(lines.String()), 0o600); err != nil {
		return nil, k.close(err)
	}
	return k, nil
}

func (k *keyring) path(name string) string { return filepath.Join(k.dir, name) }

func (k *keyring) close(err error) error { return errors.Join(err, os.RemoveAll(k.dir)) }

// said reads a statement, and says whether the one who is named in it has
// signed it as a statement of this type.
func (c *checker) said(st *statement, typ string) (w word, ok bool) {
	if st == nil || json.Unmarshal([]byte(st.Payload), &w) != nil || w.Type != typ {
		return w, false
	}
	k := c.keys
	known, before := k.asked[*st]
	if before || k.broken != nil {
		return w, known
	}
	if err := os.WriteFile(k.path("signature"), []byte(st.Signature), 0o600); err != nil {
		k.broken = err
		return w, false
	}
	cmd := exec.CommandContext(c.ctx, "ssh-keygen", "-Y", "verify", "-f", k.path("allowed_signers"), "-I", w.Signer, "-n", typ+"@hallpass", "-s", k.path("signature"))
	cmd.Stdin = strings.NewReader(st.Payload)
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		k.broken = fmt.Errorf("ssh-keygen: %w: %s", err, out)
	}
	k.asked[*st] = err == nil
	return w, err == nil
}

// parseNote reads a checkpoint: origin, size and root, then signatures.
func parseNote(note []byte) (size int, root []byte, err error) {
	lines := strings.Split(string(note), "\n")
	if len(lines) < 5 || lines[3] != "" {
		return 0, nil, errors.New("not three lines and signatures")
	}
	if size, err = strconv.Atoi(lines[1]); err != nil || size < 0 {
		return 0, nil, fmt.Errorf("size %q", lines[1])
	}
	root, err = base64.StdEncoding.DecodeString(lines[2])
	return size, root, err
}

// tree is the root of the Merkle tree over leaves (RFC 6962, section 2.1).
func tree(leaves [][]byte) []byte {
	switch len(leaves) {
	case 0:
		sum := sha256.Sum256(nil)
		return sum[:]
	case 1:
		sum := sha256.Sum256(append([]byte{0}, leaves[0]...))
		return sum[:]
	}
	k := 1 << (bits.Len(uint(len(leaves)-1)) - 1) // the largest power of two below
	sum := sha256.Sum256(slices.Concat([]byte{1}, tree(leaves[:k]), tree(leaves[k:])))
	return sum[:]
}
