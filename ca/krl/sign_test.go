package krl

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"hallpass/access"
	"hallpass/statement"
	"hallpass/testsuite/process"
)

func signed(t testing.TB, ca ssh.Signer) (list []byte, signature string) {
	t.Helper()
	list, err := (&List{Version: 7, Generated: time.Unix(1_900_000_000, 0), CAs: []CA{{ca.PublicKey(), Join(1, 5)}}}).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	if signature, err = Sign(ca, list); err != nil {
		t.Fatal(err)
	}
	return list, signature
}

func TestOpen(t *testing.T) {
	ca, old, stranger := newSigner(t), newSigner(t), newSigner(t)
	list, signature := signed(t, ca)
	_, byStranger := signed(t, stranger)
	otherNamespace, err := statement.SignData(ca, "request@hallpass", list)
	if err != nil {
		t.Fatal(err)
	}
	garbage := []byte("not a list")
	overGarbage, err := Sign(ca, garbage)
	if err != nil {
		t.Fatal(err)
	}
	changed := append([]byte(nil), list...)
	changed[19] ^= 1 // in the version
	trusted := []ssh.PublicKey{old.PublicKey(), ca.PublicKey()}
	for _, tt := range []struct {
		name      string
		list      []byte
		signature string
		trusted   []ssh.PublicKey
		code      access.Code
	}{
		{"good", list, signature, trusted, ""},
		{"nobody trusted", list, signature, nil, access.CodeUnverified},
		{"another CA trusted", list, signature, []ssh.PublicKey{stranger.PublicKey()}, access.CodeUnverified},
		{"by a stranger", list, byStranger, trusted, access.CodeUnverified},
		{"one bit changed", changed, signature, trusted, access.CodeUnverified},
		{"cut short", list[:len(list)-1], signature, trusted, access.CodeUnverified},
		{"longer", append(list[:len(list):len(list)], 0), signature, trusted, access.CodeUnverified},
		{"empty", nil, signature, trusted, access.CodeUnverified},
		{"no signature", list, "", trusted, access.CodeUnverified},
		{"for another purpose", list, otherNamespace, trusted, access.CodeUnverified},
		{"signed garbage", garbage, overGarbage, trusted, access.CodeMalformed},
		{"too long", make([]byte, MaxSize+1), signature, trusted, access.CodeMalformed},
	} {
		t.Run(tt.name, func(t *testing.T) {
			header := EncodeSignature(tt.signature)
			signature, err := DecodeSignature(header)
			if err != nil || strings.ContainsAny(header, "\r\n ") {
				t.Fatalf("header %q, error %v", header, err)
			}
			l, err := Open(tt.list, signature, tt.trusted)
			if access.CodeOf(err) != tt.code || (err == nil) != (tt.code == "") {
				t.Fatalf("error %v, want code %q", err, tt.code)
			}
			if err == nil && (l.Version != 7 || !l.Revoked(ca.PublicKey(), 5)) {
				t.Errorf("read %+v", l)
			}
		})
	}
	if _, err := DecodeSignature("????"); access.CodeOf(err) != access.CodeUnverified {
		t.Errorf("damaged header: %v", err)
	}
}

// Whoever trusts nothing of ours checks a list with OpenSSH alone.
func TestOpenSSHVerifiesTheSignature(t *testing.T) {
	tool := process.Installed(t, "ssh-keygen")
	ca := newSigner(t)
	list, signature := signed(t, ca)
	dir := t.TempDir()
	for name, data := range map[string]string{
		"allowed": "ca namespaces=\"" + Namespace + "\" " + string(ssh.MarshalAuthorizedKey(ca.PublicKey())),
		"sig":     signature,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command(tool, "-Y", "verify", "-f", filepath.Join(dir, "allowed"), "-I", "ca", "-n", Namespace, "-s", filepath.Join(dir, "sig"))
	cmd.Stdin = strings.NewReader(string(list))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("ssh-keygen: %v\n%s", err, out)
	}
}

// FuzzOpen: a list is read as Parse reads it if a trusted key has signed its very
// bytes, and not at all otherwise, whatever signature comes with it in the header.
func FuzzOpen(f *testing.F) {
	ca, stranger := newSigner(f), newSigner(f)
	trusted := []ssh.PublicKey{ca.PublicKey()}
	good, signature := signed(f, ca)
	_, byStranger := signed(f, stranger)
	f.Add(EncodeSignature(signature), good)
	f.Add(EncodeSignature(byStranger), good)
	f.Add(EncodeSignature(signature), good[:len(good)-1])
	f.Add(EncodeSignature(signature+"\n"), []byte("not a list"))
	f.Add(" "+EncodeSignature("x")+"\r\n", []byte(nil))
	f.Add("====", []byte("SSHKRL\n\x00"))
	text := func(l *List) string {
		data, err := l.Marshal()
		if err != nil {
			return err.Error()
		}
		return string(data)
	}
	f.Fuzz(func(t *testing.T, header string, list []byte) {
		if sent, err := DecodeSignature(header); err != nil {
			if access.CodeOf(err) != access.CodeUnverified || access.CheckText("error", err.Error(), 1000) != nil {
				t.Errorf("%q", err)
			}
		} else {
			// Breaks of lines are all that base64 leaves open, and a header has none.
			if again := EncodeSignature(sent); again != strings.NewReplacer("\r", "", "\n", "").Replace(header) {
				t.Errorf("%q is read and written as %q", header, again)
			}
			l, err := Open(list, sent, trusted)
			switch {
			case err == nil && (!bytes.Equal(list, good) || l.Version != 7):
				t.Errorf("%q is taken with the signature %q", list, sent)
			case err != nil && access.CodeOf(err) != access.CodeUnverified && access.CodeOf(err) != access.CodeMalformed,
				err != nil && (l != nil || access.CheckText("error", err.Error(), 1000) != nil):
				t.Errorf("%q, with %v", err, l)
			}
		}
		for _, by := range []ssh.Signer{ca, stranger} {
			ours := by == ca
			signature, err := Sign(by, list)
			if err != nil {
				t.Fatal(err)
			}
			l, err := Open(list, signature, trusted)
			plain, perr := Parse(list)
			switch {
			case !ours && access.CodeOf(err) != access.CodeUnverified:
				t.Errorf("signed by a stranger: %v", err)
			case ours && access.CodeOf(err) != access.CodeOf(perr), ours && err == nil && text(l) != text(plain):
				t.Errorf("opened: %v; read: %v", err, perr)
			}
		}
	})
}
