package host

import (
	"crypto/ed25519"
	"encoding/base64"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"

	"golang.org/x/crypto/ssh"
)

// wire is a certificate as PROTOCOL.certkeys has it, whose parts may be
// anything.
type wire struct {
	Name                    string
	Nonce                   []byte
	Key                     []byte
	Serial                  uint64
	Type                    uint32
	KeyID                   string
	Principals              []byte
	After, Before           uint64
	Critical, Extensions    []byte
	Reserved, SignatureByCA []byte
}

// list is text as principals, and as names and values of options, are on the
// wire.
func list(texts ...string) (out []byte) {
	for _, s := range texts {
		out = append(out, ssh.Marshal(struct{ S string }{s})...)
	}
	return out
}

// FuzzReadAuthInfoAgainstOpenSSH has certificates read that the CA would never
// make: what the agent takes for a grant, OpenSSH reads in the same way.
func FuzzReadAuthInfoAgainstOpenSSH(f *testing.F) {
	if _, err := exec.LookPath("ssh-keygen"); err != nil {
		f.Skip("ssh-keygen is not installed")
	}
	f.Setenv("TZ", "UTC")
	const id = "hallpass:0190a1b2-c3d4-7e5f-8a6b-7c8d9e0f1a2b:alice"
	option := func(name, value string) []byte { return list(name, string(list(value))) }
	f.Add(id, list("web-1/root"), option("force-command", "true"), list("permit-pty", ""), uint64(7), uint32(ssh.UserCert), uint64(0), uint64(2e9))
	f.Add(id, list("a/b", "c/d"), []byte{}, option("grace@hallpass", "30s"), ^uint64(0), uint32(ssh.UserCert), uint64(1e9), ^uint64(0))
	f.Add(id+"\x00x", []byte{}, list("force-command", "raw"), append(list("x", ""), list("x", "")...), uint64(1), uint32(ssh.HostCert), uint64(3), uint64(2))
	f.Add(id, list("a\x00b", ""), []byte{0, 0}, list("b", "", "a", ""), uint64(0), uint32(ssh.UserCert), uint64(0), uint64(1<<40))
	_, caKey, _ := ed25519.GenerateKey(nil)
	ca, err := ssh.NewSignerFromKey(caKey)
	must(f, err)
	subject, _, _ := ed25519.GenerateKey(nil)
	f.Fuzz(func(t *testing.T, keyID string, principals, critical, extensions []byte, serial uint64, typ uint32, after, before uint64) {
		body := ssh.Marshal(wire{
			Name: ssh.CertAlgoED25519v01, Nonce: []byte("nonce"), Key: subject, Serial: serial, Type: typ, KeyID: keyID, Principals: principals,
			After: after, Before: before, Critical: critical, Extensions: extensions, SignatureByCA: ca.PublicKey().Marshal(),
		})
		signature, err := ca.Sign(nil, body)
		must(t, err)
		blob := append(body, ssh.Marshal(struct{ S []byte }{ssh.Marshal(signature)})...)
		line := ssh.CertAlgoED25519v01 + " " + base64.StdEncoding.EncodeToString(blob)
		g, err := readAuthInfo("publickey "+line+"\n", []ssh.PublicKey{ca.PublicKey()})
		if g == nil || err != nil {
			return
		}
		file := filepath.Join(t.TempDir(), "id-cert.pub")
		must(t, os.WriteFile(file, []byte(line+"\n"), 0o600))
		out, err := exec.CommandContext(t.Context(), "ssh-keygen", "-L", "-f", file).Output()
		if err != nil {
			return // sshd lets nobody in with it
		}
		var read []string
		for line := range strings.Lines(string(out)) {
			read = append(read, strings.TrimRight(strings.TrimLeft(line, " "), "\n"))
		}
		want := []string{"Key ID: " + fmt.Sprintf("\"hallpass:%s:%s\"", g.request, g.requester), fmt.Sprintf("Serial: %d", g.cert.Serial), "Type: " + ssh.CertAlgoED25519v01 + " user certificate"}
		for _, p := range g.cert.ValidPrincipals {
			if p != "" && p == strings.TrimSpace(p) && !strings.ContainsFunc(p, func(r rune) bool { return r > unicode.MaxASCII || !unicode.IsPrint(r) }) {
				want = append(want, p)
			}
		}
		for _, w := range want {
			if !slices.Contains(read, w) {
				t.Errorf("ssh-keygen doesn't read %q but\n%s", w, out)
			}
		}
		// A certificate without an end, or with one beyond all calendars, has none
		// for OpenSSH, and has ended for us.
		if end := g.end.UTC().Format("2006-01-02T15:04:05"); !g.end.IsZero() && g.end.Before(time.Unix(1<<33, 0)) && !strings.Contains(string(out), " to "+end+"\n") && !strings.Contains(string(out), "before "+end+"\n") {
			t.Errorf("ends %s, and ssh-keygen reads\n%s", end, out)
		}
	})
}
