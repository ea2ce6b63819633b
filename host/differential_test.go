package host

import (
	"crypto/ed25519"
	"encoding/base64"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"

	"golang.org/x/crypto/ssh"

	testprocess "hallpass/testsuite/process"
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

// issuedID is the key id of a certificate that ssh-keygen takes for a user's, if it
// is one that the CA gives: sessions with others are no business of the agent's.
var issuedID = regexp.MustCompile(`(?m)^ +Type: \S+ user certificate\n(?s:.*)^ +Key ID: "hallpass:[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}:[a-z0-9][a-z0-9._@+-]{0,62}"$`)

// sorted says whether options are as PROTOCOL.certkeys demands: in order, each
// once, and the value of one is nothing or one text. OpenSSH reads others as well;
// golang.org/x/crypto/ssh, with which the CA issues and the agent reads, doesn't.
func sorted(options []byte) bool {
	for last, first := "", true; len(options) > 0; first = false {
		var option struct {
			Name, Value string
			Rest        []byte `ssh:"rest"`
		}
		var value struct{ Text string }
		if ssh.Unmarshal(options, &option) != nil || option.Value != "" && ssh.Unmarshal([]byte(option.Value), &value) != nil || !first && option.Name <= last {
			return false
		}
		last, options = option.Name, option.Rest
	}
	return true
}

// FuzzReadAuthInfoAgainstOpenSSH has certificates read that the CA would never
// make: what the agent takes for a grant, OpenSSH reads in the same way; and what
// OpenSSH lets in on a key id of hallpass's the agent takes for a grant, unless its
// options aren't sorted.
func FuzzReadAuthInfoAgainstOpenSSH(f *testing.F) {
	testprocess.Installed(f, "ssh-keygen")
	f.Setenv("TZ", "UTC")
	const id = "hallpass:0190a1b2-c3d4-7e5f-8a6b-7c8d9e0f1a2b:alice"
	option := func(name, value string) []byte { return list(name, string(list(value))) }
	_, caKey, _ := ed25519.GenerateKey(nil)
	ca, err := ssh.NewSignerFromKey(caKey)
	must(f, err)
	subject, _, _ := ed25519.GenerateKey(nil)
	// both has a certificate read by us, nil if it is no grant, and by ssh-keygen, ""
	// if it refuses it: then sshd lets nobody in with it.
	both := func(t testing.TB, w wire) (*grant, string) {
		w.Name, w.Nonce, w.Key, w.SignatureByCA = ssh.CertAlgoED25519v01, []byte("nonce"), subject, ca.PublicKey().Marshal()
		body := ssh.Marshal(w)
		signature, err := ca.Sign(nil, body)
		must(t, err)
		blob := append(body, ssh.Marshal(struct{ S []byte }{ssh.Marshal(signature)})...)
		line := ssh.CertAlgoED25519v01 + " " + base64.StdEncoding.EncodeToString(blob)
		g, err := readAuthInfo("publickey "+line+"\n", []ssh.PublicKey{ca.PublicKey()})
		if err != nil {
			t.Errorf("one certificate: %v", err)
		}
		file := filepath.Join(t.TempDir(), "id-cert.pub")
		must(t, os.WriteFile(file, []byte(line+"\n"), 0o600))
		out, err := exec.CommandContext(t.Context(), "ssh-keygen", "-L", "-f", file).Output()
		if err != nil {
			return g, ""
		}
		return g, string(out)
	}
	first := wire{
		KeyID: id, Principals: list("web-1/root"), Critical: option("force-command", "true"), Extensions: list("permit-pty", ""),
		Serial: 7, Type: ssh.UserCert, Before: 2e9,
	}
	if g, out := both(f, first); g == nil || !issuedID.MatchString(out) {
		f.Fatalf("not even a good certificate is read by both, but as %v and\n%s", g, out)
	}
	for _, w := range []wire{
		first,
		{KeyID: id, Principals: list("a/b", "c/d"), Extensions: option("grace@hallpass", "30s"), Serial: ^uint64(0), Type: ssh.UserCert, After: 1e9, Before: ^uint64(0)},
		{KeyID: id + "\x00x", Critical: list("force-command", "raw"), Extensions: append(list("x", ""), list("x", "")...), Serial: 1, Type: ssh.HostCert, After: 3, Before: 2},
		{KeyID: id, Principals: list("a\x00b", ""), Critical: []byte{0, 0}, Extensions: list("b", "", "a", ""), Type: ssh.UserCert, Before: 1 << 40},
		{KeyID: id, Principals: list("web-1/root"), Critical: append(list("a", ""), option("source-address", "10.0.0.0/8")...), Extensions: append(option("a", ""), list("b", "")...), Type: ssh.UserCert, Before: 2e9},
		// What only OpenSSH reads.
		{KeyID: id, Principals: list("web-1/root"), Extensions: list("permit-pty", "", "grace@hallpass", ""), Type: ssh.UserCert, Before: 2e9},
		{KeyID: id, Principals: list("web-1/root"), Extensions: list("a", "", "a", ""), Type: ssh.UserCert, Before: 2e9},
		{KeyID: id, Principals: list("web-1/root"), Extensions: list("a", "raw"), Type: ssh.UserCert, Before: 2e9},
		// What neither takes for a grant.
		{KeyID: "hallpass:x:alice", Principals: list("web-1/root"), Type: ssh.UserCert, Before: 2e9},
		{KeyID: "hallpass-host:web-1", Principals: list("web-1"), Type: ssh.HostCert, Before: 2e9},
	} {
		f.Add(w.KeyID, w.Principals, w.Critical, w.Extensions, w.Serial, w.Type, w.After, w.Before)
	}
	f.Fuzz(func(t *testing.T, keyID string, principals, critical, extensions []byte, serial uint64, typ uint32, after, before uint64) {
		g, out := both(t, wire{
			Serial: serial, Type: typ, KeyID: keyID, Principals: principals, After: after, Before: before, Critical: critical, Extensions: extensions,
		})
		if g == nil && issuedID.MatchString(out) && sorted(critical) && sorted(extensions) {
			t.Errorf("no grant, and ssh-keygen reads\n%s", out)
		}
		if g == nil || out == "" {
			return
		}
		var read []string
		for line := range strings.Lines(out) {
			read = append(read, strings.TrimRight(strings.TrimLeft(line, " "), "\n"))
		}
		want := []string{"Key ID: " + fmt.Sprintf("\"hallpass:%s:%s\"", g.request, g.requester), fmt.Sprintf("Serial: %d", g.cert.Serial), "Type: " + ssh.CertAlgoED25519v01 + " user certificate"}
		for _, p := range g.cert.ValidPrincipals {
			if plain(p) {
				want = append(want, p)
			}
		}
		for critical, options := range map[bool]map[string]string{true: g.cert.CriticalOptions, false: g.cert.Extensions} {
			for name, value := range options {
				if plain(name) && (value == "" || plain(value)) && !slices.ContainsFunc(read, func(line string) bool { return says(line, name, value, critical) }) {
					t.Errorf("ssh-keygen doesn't read %q %q (critical: %t) but\n%s", name, value, critical, out)
				}
			}
		}
		for _, w := range want {
			if !slices.Contains(read, w) {
				t.Errorf("ssh-keygen doesn't read %q but\n%s", w, out)
			}
		}
		// A certificate without an end, or with one beyond all calendars, has none
		// for OpenSSH, and has ended for us.
		if end := g.end.UTC().Format("2006-01-02T15:04:05"); !g.end.IsZero() && g.end.Before(time.Unix(1<<33, 0)) && !strings.Contains(out, " to "+end+"\n") && !strings.Contains(out, "before "+end+"\n") {
			t.Errorf("ends %s, and ssh-keygen reads\n%s", end, out)
		}
	})
}

// plain says whether ssh-keygen writes text as it is, on a line of its own.
func plain(text string) bool {
	return text != "" && text == strings.TrimSpace(text) && !strings.ContainsFunc(text, func(r rune) bool { return r > unicode.MaxASCII || !unicode.IsPrint(r) })
}

// says says whether a line of ssh-keygen's is an option of that value, which it
// writes in its own way where it knows the name, and in hexadecimal otherwise.
func says(line, name, value string, critical bool) bool {
	said, ok := strings.CutPrefix(line, name)
	switch {
	case !ok:
		return false
	case critical && (name == "force-command" || name == "source-address"):
		return said == " "+value
	case value == "" && (said == "" || said == " UNKNOWN FLAG OPTION"):
		return true
	}
	raw := list(value)
	return said == fmt.Sprintf(" UNKNOWN OPTION: %x (len %d)", raw, len(raw))
}
