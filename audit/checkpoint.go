package audit

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"hallpass/access"
)

// maxCheckpoint bounds a signed checkpoint that is read: three lines and a
// few signatures.
const maxCheckpoint = 16 << 10

// Checkpoint is a signed statement of the log: so many events, and this is
// their hash. It is a signed note (C2SP signed-note) whose text is a C2SP
// tlog-checkpoint: the origin, which is the name of the log's key, the size
// and the root hash.
type Checkpoint struct {
	Origin string
	Size   int64
	Root   tlog.Hash
}

func (c Checkpoint) text() string {
	return fmt.Sprintf("%s\n%d\n%s\n", c.Origin, c.Size, base64.StdEncoding.EncodeToString(c.Root[:]))
}

func (c Checkpoint) sign(signer note.Signer) ([]byte, error) {
	msg, err := note.Sign(&note.Note{Text: c.text()}, signer)
	if err != nil {
		return nil, fmt.Errorf("sign checkpoint: %w", err)
	}
	return msg, nil
}

// OpenCheckpoint verifies a signed checkpoint with the log's public key
// ("name+hash+key", as CreateKey writes it). Signatures by other keys, such
// as those of witnesses, are passed over.
func OpenCheckpoint(msg []byte, key string) (Checkpoint, error) {
	v, err := parsePublicKey(key)
	if err != nil {
		return Checkpoint{}, err
	}
	return openCheckpoint(msg, v)
}

func openCheckpoint(msg []byte, v note.Verifier) (Checkpoint, error) {
	if len(msg) > maxCheckpoint {
		return Checkpoint{}, access.Errorf(access.CodeMalformed, "checkpoint is longer than %d bytes", maxCheckpoint)
	}
	n, err := note.Open(msg, note.VerifierList(v))
	if err != nil {
		var unverified *note.UnverifiedNoteError
		if errors.As(err, &unverified) {
			return Checkpoint{}, access.Errorf(access.CodeUnverified, "checkpoint is not signed by the log's key %s", v.Name())
		}
		return Checkpoint{}, access.Errorf(access.CodeUnverified, "checkpoint: %v", err)
	}
	c, err := parseCheckpoint(n.Text)
	if err != nil {
		return Checkpoint{}, err
	}
	if c.Origin != v.Name() {
		return Checkpoint{}, access.Errorf(access.CodeUnverified, "checkpoint is of the log %q, not of %q", clip(c.Origin), v.Name())
	}
	return c, nil
}

func parseCheckpoint(text string) (c Checkpoint, err error) {
	lines := strings.Split(text, "\n")
	if len(lines) != 4 || lines[0] == "" || lines[3] != "" {
		return c, access.Errorf(access.CodeMalformed, "checkpoint is not three lines: origin, size and root hash")
	}
	size, err := strconv.ParseInt(lines[1], 10, 64)
	if err != nil || size < 0 || strconv.FormatInt(size, 10) != lines[1] {
		return c, access.Errorf(access.CodeMalformed, "checkpoint size %q is not a number of events", clip(lines[1]))
	}
	root, err := base64.StdEncoding.Strict().DecodeString(lines[2])
	if err != nil || len(root) != tlog.HashSize || base64.StdEncoding.EncodeToString(root) != lines[2] {
		return c, access.Errorf(access.CodeMalformed, "checkpoint root %q is not a base64 SHA-256", clip(lines[2]))
	}
	return Checkpoint{Origin: lines[0], Size: size, Root: tlog.Hash(root)}, nil
}

// CreateKey makes the log's Ed25519 key. The private half goes into a file
// that only its owner can read, the public half into another; neither may
// exist. The name is the log's: it is in every checkpoint, so it should be
// unique among those who compare them, such as "audit.example.com"; it has no
// spaces and no "+". Both halves are in the format of
// golang.org/x/mod/sumdb/note.
func CreateKey(privatePath, publicPath, name string) (publicKey string, err error) {
	private, public, err := note.GenerateKey(rand.Reader, name)
	if err != nil {
		return "", fmt.Errorf("make audit key: %w", err)
	}
	if _, err := note.NewVerifier(public); err != nil {
		return "", access.Errorf(access.CodeMalformed, "audit key name %q has spaces, a plus sign or nothing in it", clip(name))
	}
	if err := writeNew(privatePath, private+"\n", 0o600); err != nil {
		return "", err
	}
	if err := writeNew(publicPath, public+"\n", 0o644); err != nil {
		return "", err
	}
	return public, nil
}

func writeNew(path, text string, mode os.FileMode) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return fmt.Errorf("write audit key: %w", err)
	}
	if _, err := f.WriteString(text); err != nil {
		_ = f.Close()
		return fmt.Errorf("write audit key: %w", err)
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("write audit key: %w", err)
	}
	return nil
}

// ReadKey reads a private key that CreateKey wrote, for Options.Key. It
// refuses a file that others can read.
func ReadKey(path string) (string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return "", fmt.Errorf("read audit key: %w", err)
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return "", access.Errorf(access.CodeForbidden, "audit key %s can be read by others (mode %04o)", path, mode).
			WithHint("chmod 600 %s", path)
	}
	return readKey(path)
}

// ReadPublicKey reads a public key that CreateKey wrote.
func ReadPublicKey(path string) (string, error) {
	key, err := readKey(path)
	if err != nil {
		return "", err
	}
	if _, err := parsePublicKey(key); err != nil {
		return "", err
	}
	return key, nil
}

func readKey(path string) (string, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("read audit key: %w", err)
	}
	return string(bytes.TrimSpace(data)), nil
}

// parsePublicKey's errors don't show the key: somebody may have given the
// private one.
func parsePublicKey(key string) (note.Verifier, error) {
	if strings.HasPrefix(key, "PRIVATE+KEY+") {
		return nil, access.Errorf(access.CodeMalformed, "this is the log's private key where its public key belongs")
	}
	v, err := note.NewVerifier(key)
	if err != nil {
		return nil, access.Errorf(access.CodeMalformed, "audit public key is not of the form name+hash+key")
	}
	return v, nil
}

// parseKey gives both halves of a private key.
func parseKey(key string) (note.Signer, note.Verifier, error) {
	bad := access.Errorf(access.CodeMalformed, "audit key is not of the form PRIVATE+KEY+name+hash+key")
	signer, err := note.NewSigner(key)
	if err != nil {
		return nil, nil, bad
	}
	// NewSigner has found five parts, the last one being the algorithm (1)
	// and the seed.
	data, err := base64.StdEncoding.DecodeString(strings.SplitN(key, "+", 5)[4])
	if err != nil || len(data) != 1+ed25519.SeedSize {
		return nil, nil, bad
	}
	public := ed25519.NewKeyFromSeed(data[1:]).Public().(ed25519.PublicKey)
	vkey, err := note.NewEd25519VerifierKey(signer.Name(), public)
	if err != nil {
		return nil, nil, bad
	}
	verifier, err := note.NewVerifier(vkey)
	if err != nil {
		return nil, nil, bad
	}
	return signer, verifier, nil
}
