package ca

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"hallpass/access"
	"hallpass/testsuite/process"
)

func TestPrepareHost(t *testing.T) {
	c, users := hostCA(t), hostCA(t)
	c.Spare(users.PublicKey())
	many := make([]string, maxHostNames+1)
	for i := range many {
		many[i] = "h" + strings.Repeat("x", i)[:i%60] + string(rune('a'+i%26)) + string(rune('a'+i/26))
	}
	for _, tt := range []struct {
		name string
		edit func(*HostSpec)
		code access.Code
	}{
		{"good", nil, ""},
		{"an address", func(s *HostSpec) { s.Names = []string{"10.0.0.7", "2001:db8::1"} }, ""},
		{"as many names as can be", func(s *HostSpec) { s.Names = many[:maxHostNames] }, ""},
		{"one name more", func(s *HostSpec) { s.Names = many }, access.CodeDenied},
		{"no names", func(s *HostSpec) { s.Names = nil }, access.CodeMalformed},
		{"an empty name", func(s *HostSpec) { s.Names = []string{""} }, access.CodeMalformed},
		{"a pattern", func(s *HostSpec) { s.Names = []string{"*.example.com"} }, access.CodeMalformed},
		{"two in one", func(s *HostSpec) { s.Names = []string{"a,b"} }, access.CodeMalformed},
		{"upper case", func(s *HostSpec) { s.Names = []string{"Web-1"} }, access.CodeMalformed},
		{"a name twice", func(s *HostSpec) { s.Names = []string{"a", "a"} }, access.CodeMalformed},
		{"serial 0", func(s *HostSpec) { s.Serial = 0 }, access.CodeMalformed},
		{"another kind", func(s *HostSpec) { s.Resource = "db/web-1" }, access.CodeMalformed},
		{"the CA's own key", func(s *HostSpec) { s.PublicKey = c.PublicKey() }, access.CodeForbidden},
		{"the key of the CA of users", func(s *HostSpec) { s.PublicKey = users.PublicKey() }, access.CodeForbidden},
		{"no key", func(s *HostSpec) { s.PublicKey = nil }, access.CodeMalformed},
		{"as long as can be", func(s *HostSpec) { s.NotAfter = s.NotBefore.Add(MaxHostLifetime) }, ""},
		{"a second longer", func(s *HostSpec) { s.NotAfter = s.NotBefore.Add(MaxHostLifetime + time.Second) }, access.CodeDenied},
		{"over", func(s *HostSpec) { s.NotBefore, s.NotAfter = hostNow.Add(-time.Hour), hostNow }, access.CodeEnded},
		{"not yet", func(s *HostSpec) { s.NotBefore = hostNow.Add(access.ClockSkew + time.Second) }, access.CodeUnavailable},
	} {
		t.Run(tt.name, func(t *testing.T) {
			spec := HostSpec{Resource: "ssh/web-1", Names: []string{"web-1"}, PublicKey: hostSubject(t), Serial: 7,
				NotBefore: hostNow, NotAfter: hostNow.Add(time.Hour)}
			if tt.edit != nil {
				tt.edit(&spec)
			}
			p, err := c.PrepareHost(spec)
			if access.CodeOf(err) != tt.code {
				t.Fatalf("%v, want %q", err, tt.code)
			}
			if err != nil {
				return
			}
			cert, err := c.Issue(p)
			if err != nil {
				t.Fatal(err)
			}
			if cert.CertType != ssh.HostCert || cert.KeyId != "hallpass-host:web-1" || len(cert.CriticalOptions)+len(cert.Extensions) != 0 {
				t.Errorf("%+v", cert)
			}
			checker := ssh.CertChecker{IsUserAuthority: func(ssh.PublicKey) bool { return true }}
			if _, err := checker.Authenticate(connection{}, cert); err == nil {
				t.Error("it logs somebody in")
			}
		})
	}
}

// connection is that of somebody who tries to log in.
type connection struct{ ssh.ConnMetadata }

func (connection) User() string { return "web-1" }

var hostNow = time.Date(2031, 5, 6, 7, 8, 9, 0, time.UTC)

func hostCA(t testing.TB) *CA {
	t.Helper()
	dir := t.TempDir()
	if _, err := Create(filepath.Join(dir, "ca"), "ed25519", nil, ""); err != nil {
		t.Fatal(err)
	}
	signer, err := Open("file:"+filepath.Join(dir, "ca"), OpenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	c, err := New(signer, func() time.Time { return hostNow })
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func hostSubject(t testing.TB) ssh.PublicKey {
	t.Helper()
	key, err := Create(filepath.Join(t.TempDir(), "host"), "ed25519", nil, "")
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// ssh-keygen reads a host certificate as one.
func TestOpenSSHReadsAHostCertificate(t *testing.T) {
	tool := process.Installed(t, "ssh-keygen")
	c := hostCA(t)
	p, err := c.PrepareHost(HostSpec{Resource: "ssh/web-1", Names: []string{"web-1", "10.0.0.7"}, PublicKey: hostSubject(t), Serial: 7,
		NotBefore: hostNow, NotAfter: hostNow.Add(time.Hour)})
	if err != nil {
		t.Fatal(err)
	}
	cert, err := c.Issue(p)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "cert.pub")
	if err := os.WriteFile(file, []byte(Marshal(cert)+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(tool, "-L", "-f", file).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, want := range []string{"host certificate", `Key ID: "hallpass-host:web-1"`, "Serial: 7", "10.0.0.7", "Critical Options: (none)", "Extensions: (none)"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
}
