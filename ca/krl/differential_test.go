package krl

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"hallpass/testsuite/process"
)

// fixed is a key that is always the same, so that an input that was found is
// about the same list again.
func fixed(t testing.TB, name byte) ssh.Signer {
	t.Helper()
	seed := make([]byte, ed25519.SeedSize)
	seed[0] = name
	s, err := ssh.NewSignerFromKey(ed25519.NewKeyFromSeed(seed))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// asked has ssh-keygen -Q say which serials of a CA a list revokes. An error
// means that it can't read the list.
func asked(t *testing.T, data []byte, ca ssh.Signer, serials []uint64) (map[uint64]bool, error) {
	t.Helper()
	dir := t.TempDir()
	write := func(name string, data []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	args := []string{"-Q", "-f", write("krl", data)}
	files := map[string]uint64{}
	for _, s := range serials {
		cert := &ssh.Certificate{Key: fixed(t, 's').PublicKey(), Serial: s, CertType: ssh.UserCert, ValidPrincipals: []string{"x"}, ValidBefore: ssh.CertTimeInfinity}
		if err := cert.SignCert(rand.Reader, ca); err != nil {
			t.Fatal(err)
		}
		path := write(fmt.Sprintf("%d.pub", s), ssh.MarshalAuthorizedKey(cert))
		args, files[path] = append(args, path), s
	}
	out, err := exec.Command("ssh-keygen", args...).CombinedOutput() // it fails where anything is revoked
	said := map[uint64]bool{}
	for line := range strings.Lines(string(out)) {
		path, verdict, found := strings.Cut(strings.TrimSpace(line), ": ")
		path, _, _ = strings.Cut(path, " (") // the comment
		if s, ours := files[path]; found && ours {
			said[s] = verdict == "REVOKED"
		}
	}
	if len(said) != len(files) {
		return nil, fmt.Errorf("%w: %s", err, out)
	}
	return said, nil
}

// around are the serials at the edges of ranges, and beside them, of which
// there are some.
func around(ranges []Range) (serials []uint64) {
	seen := map[uint64]bool{0: true} // serial 0 is none of ours
	for _, r := range ranges {
		for _, s := range []uint64{r.First - 1, r.First, r.First + 1, r.Last, r.Last + 1} {
			if !seen[s] && len(serials) < 40 {
				seen[s], serials = true, append(serials, s)
			}
		}
	}
	return serials
}

// FuzzMarshalAgainstOpenSSH has ssh-keygen read lists that we have written.
func FuzzMarshalAgainstOpenSSH(f *testing.F) {
	process.Installed(f, "ssh-keygen")
	f.Add([]byte{1}, uint64(0))
	f.Add([]byte{1, 1, 1, 1, 2, 3, 4, 255, 0, 7}, uint64(1)<<32)
	f.Add([]byte("every gap of another width"), uint64(5))
	f.Add([]byte{255, 255, 255, 255, 1, 1, 1}, ^uint64(0)-2000)
	f.Fuzz(func(t *testing.T, gaps []byte, first uint64) {
		if len(gaps) == 0 || len(gaps) > 2000 {
			return
		}
		var serials []uint64
		s := first
		for i, g := range gaps {
			step := uint64(g)
			if g == 255 && i+2 < len(gaps) { // a wide one
				step = uint64(binary.BigEndian.Uint16(gaps[i:])) << (gaps[i+2] % 32)
			}
			if step == 0 && i > 0 || s+step == 0 {
				continue
			}
			if s+step < s {
				break
			}
			s += step
			serials = append(serials, s)
		}
		if len(serials) == 0 {
			return
		}
		ca := fixed(t, 'c')
		l := &List{Version: 1, Generated: time.Unix(1_800_000_000, 0), CAs: []CA{{Key: ca.PublicKey(), Ranges: Join(serials...)}}}
		data, err := l.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		ask := around(l.CAs[0].Ranges)
		said, err := asked(t, data, ca, ask)
		if err != nil {
			t.Fatalf("ssh-keygen can't read it: %v", err)
		}
		for _, s := range ask {
			if ours := l.Revoked(ca.PublicKey(), s); ours != said[s] {
				t.Errorf("serial %d: revoked is %v for us, %v for ssh-keygen", s, ours, said[s])
			}
		}
	})
}

// FuzzParseAgainstOpenSSH has ssh-keygen read what we can read.
func FuzzParseAgainstOpenSSH(f *testing.F) {
	process.Installed(f, "ssh-keygen")
	for _, serials := range shapes {
		data, err := (&List{Version: 1, Generated: time.Unix(1, 0), CAs: []CA{{Key: fixed(f, 'c').PublicKey(), Ranges: Join(serials...)}}}).Marshal()
		if err != nil {
			f.Fatal(err)
		}
		if len(data) < 1024 {
			f.Add(data)
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		ca := fixed(t, 'c')
		l, err := Parse(data)
		if err != nil {
			return // we may be stricter; what we write, OpenSSH reads
		}
		ask := []uint64{1, 1 << 40}
		for _, c := range l.CAs {
			ask = append(ask, around(c.Ranges)...)
		}
		said, err := asked(t, data, ca, ask)
		if err != nil {
			t.Fatalf("ssh-keygen can't read it: %v", err)
		}
		for s, theirs := range said {
			if ours := l.Revoked(ca.PublicKey(), s); ours != theirs {
				t.Errorf("serial %d: revoked is %v for us, %v for ssh-keygen", s, ours, theirs)
			}
		}
	})
}
