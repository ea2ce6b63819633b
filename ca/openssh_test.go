package ca

import (
	"crypto/elliptic"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/crypto/ssh"

	"hallpass/access"
	"hallpass/testsuite/sshdtest"
)

func TestSSHKeygenReads(t *testing.T) {
	for name, signer := range map[string]ssh.AlgorithmSigner{
		"ED25519":     newEd25519(t),
		"ECDSA P-256": newECDSA(t, elliptic.P256()),
		"RSA 3072":    rsaKey(t, 3072),
	} {
		t.Run(name, func(t *testing.T) {
			authority, _ := newCA(t, signer)
			s := good(t)
			s.Serial = 42
			s.Principals = principals(MaxPrincipals)
			s.Command = `echo "a b" && uptime`
			s.Options.Extensions = Extensions()
			s.Options.SourceAddress = []string{"10.0.0.0/8", "2001:db8::/32"}
			p, err := authority.Prepare(s)
			if err != nil {
				t.Fatal(err)
			}
			cert, err := authority.Issue(p)
			if err != nil {
				t.Fatal(err)
			}
			t.Setenv("TZ", "UTC")
			var lines []string
			for line := range strings.Lines(run(t, "ssh-keygen", "-L", "-f", sshdtest.WriteCert(t, cert))) {
				lines = append(lines, strings.TrimSpace(line))
			}
			want := []string{
				"Type: ssh-ed25519-cert-v01@openssh.com user certificate",
				"Public key: ED25519-CERT " + ssh.FingerprintSHA256(s.PublicKey),
				fmt.Sprintf("Signing CA: %s %s (using %s)", strings.Fields(name)[0], authority.Fingerprint(), cert.Signature.Format),
				`Key ID: "hallpass:` + requestID + `:alice"`,
				"Serial: 42",
				"Valid: from 2026-03-02T11:55:00 to 2026-03-02T13:00:00",
				"Principals:",
			}
			want = append(want, s.Principals...)
			want = append(want,
				"Critical Options:",
				`force-command echo "a b" && uptime`,
				"source-address 10.0.0.0/8,2001:db8::/32",
				"Extensions:",
			)
			want = append(want, Extensions()...)
			if diff := cmp.Diff(want, lines[1:]); diff != "" {
				t.Errorf("ssh-keygen -L (-want +got):\n%s", diff)
			}
		})
	}
}

// One CA, two hosts, and every way in which a certificate can be the wrong
// one. The servers and the client are OpenSSH's.
func TestSSHD(t *testing.T) {
	signer := newEd25519(t)
	keyFile, key := sshdtest.NewKey(t)
	now := time.Now().UTC().Truncate(time.Second)

	user := sshdtest.User(t)
	web1 := sshdtest.Start(t, sshdtest.Config{
		CA:         []ssh.PublicKey{signer.PublicKey()},
		Principals: map[string][]string{user: {"web-1/" + user}},
	})
	web2 := sshdtest.Start(t, sshdtest.Config{
		CA:         []ssh.PublicKey{signer.PublicKey()},
		Principals: map[string][]string{user: {"web-2/" + user}},
	})
	bare := sshdtest.Start(t, sshdtest.Config{
		CA:    []ssh.PublicKey{signer.PublicKey()},
		Lines: []string{"AuthorizedPrincipalsFile none"},
	})

	// issue makes a certificate of the CA whose clock is off by shift.
	issue := func(t *testing.T, signer ssh.Signer, shift time.Duration, edit func(*Spec)) string {
		t.Helper()
		authority, err := New(signer, func() time.Time { return now.Add(shift) })
		if err != nil {
			t.Fatal(err)
		}
		s := Spec{
			Request:    requestID,
			Requester:  "alice",
			Principals: []string{"web-1/" + user},
			PublicKey:  key,
			Serial:     1,
			NotBefore:  now.Add(shift),
			NotAfter:   now.Add(shift + 10*time.Minute),
		}
		if edit != nil {
			edit(&s)
		}
		p, err := authority.Prepare(s)
		if err != nil {
			t.Fatal(err)
		}
		cert, err := authority.Issue(p)
		if err != nil {
			t.Fatal(err)
		}
		return sshdtest.WriteCert(t, cert)
	}
	options := func(o access.SSHOptions) func(*Spec) { return func(s *Spec) { s.Options = o } }

	for _, tt := range []struct {
		name    string
		host    *sshdtest.Server
		cert    string
		refused bool
		stdout  string
	}{
		{"the host it is for", web1, issue(t, signer, 0, nil), false, "asked\n"},
		{"another host", web2, issue(t, signer, 0, nil), true, ""},
		{"a host that compares principals with logins", bare, issue(t, signer, 0, nil), true, ""},
		{"both hosts, by two principals", web2, issue(t, signer, 0, func(s *Spec) {
			s.Principals = []string{"web-1/" + user, "web-2/" + user}
		}), false, "asked\n"},
		{"another login", web1, issue(t, signer, 0, func(s *Spec) { s.Principals = []string{"web-1/another"} }), true, ""},
		{"another CA", web1, issue(t, newEd25519(t), 0, nil), true, ""},
		{"ECDSA CA that isn't trusted", web1, issue(t, newECDSA(t, elliptic.P256()), 0, nil), true, ""},
		{"expired", web1, issue(t, signer, -time.Hour, nil), true, ""},
		{"not begun", web1, issue(t, signer, time.Hour, nil), true, ""},
		{"host four minutes behind the CA", web1, issue(t, signer, 4*time.Minute, nil), false, "asked\n"},
		{"one command", web1, issue(t, signer, 0, func(s *Spec) { s.Command = "echo forced" }), false, "forced\n"},
		{"command by policy", web1, issue(t, signer, 0, options(access.SSHOptions{ForceCommand: "echo policy"})), false, "policy\n"},
		{"from an address it is for", web1, issue(t, signer, 0, options(access.SSHOptions{SourceAddress: []string{"10.0.0.0/8", "127.0.0.0/8"}})), false, "asked\n"},
		{"from this very address", web1, issue(t, signer, 0, options(access.SSHOptions{SourceAddress: []string{"127.0.0.1"}})), false, "asked\n"},
		{"from another address", web1, issue(t, signer, 0, options(access.SSHOptions{SourceAddress: []string{"10.0.0.0/8"}})), true, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := tt.host.Login(t, keyFile, tt.cert, "echo asked")
			if r.Refused() != tt.refused || !tt.refused && (!r.OK() || r.Stdout != tt.stdout) {
				t.Errorf("refused: want %t, stdout %q; got %s", tt.refused, tt.stdout, r)
			}
		})
	}

	t.Run("another's key", func(t *testing.T) {
		other, _ := sshdtest.NewKey(t)
		if r := web1.Login(t, other, issue(t, signer, 0, nil), "true"); !r.Refused() {
			t.Errorf("a stolen certificate without its key: %s", r)
		}
	})
	t.Run("terminal", func(t *testing.T) {
		for _, ext := range []string{"", "permit-pty"} {
			cert := issue(t, signer, 0, func(s *Spec) {
				if ext != "" {
					s.Options.Extensions = []string{ext}
				}
			})
			r := web1.Login(t, keyFile, cert, "tty", "-tt")
			if got := strings.Contains(r.Stdout, "/dev/"); got != (ext != "") {
				t.Errorf("with extension %q: a terminal: %t; %s", ext, got, r)
			}
		}
	})
	t.Run("log names request and requester", func(t *testing.T) {
		want := fmt.Sprintf(`ID "hallpass:%s:alice" (serial 1)`, requestID)
		if log := web1.Log(t); !strings.Contains(log, want) {
			t.Errorf("no %q in\n%s", want, log)
		}
	})
}

// Each type of key signs certificates that sshd accepts, and each type of
// subject key gets in.
func TestSSHDKeyTypes(t *testing.T) {
	keyFile, key := sshdtest.NewKey(t)
	user := sshdtest.User(t)
	for name, signer := range map[string]ssh.AlgorithmSigner{
		"ECDSA P-256": newECDSA(t, elliptic.P256()),
		"ECDSA P-521": newECDSA(t, elliptic.P521()),
		"RSA 3072":    rsaKey(t, 3072),
	} {
		t.Run(name, func(t *testing.T) {
			authority, err := New(signer, nil)
			if err != nil {
				t.Fatal(err)
			}
			host := sshdtest.Start(t, sshdtest.Config{
				CA:         []ssh.PublicKey{authority.PublicKey()},
				Principals: map[string][]string{user: {"web-1/" + user}},
			})
			now := time.Now().Truncate(time.Second)
			p, err := authority.Prepare(Spec{
				Request: requestID, Requester: "alice", Principals: []string{"web-1/" + user},
				PublicKey: key, Serial: 1, NotBefore: now, NotAfter: now.Add(time.Minute),
			})
			if err != nil {
				t.Fatal(err)
			}
			cert, err := authority.Issue(p)
			if err != nil {
				t.Fatal(err)
			}
			if r := host.Login(t, keyFile, sshdtest.WriteCert(t, cert), "true"); !r.OK() {
				t.Error(r)
			}
		})
	}
}
