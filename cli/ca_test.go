package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/crypto/ssh"

	"hallpass/ca"
)

// secrets is a terminal on which passphrases are typed.
type secrets struct {
	io.ReadWriter
	typed []string
}

func (s *secrets) Close() error { return nil }
func (s *secrets) ReadPassword() ([]byte, error) {
	if len(s.typed) == 0 {
		return nil, io.EOF
	}
	secret := s.typed[0]
	s.typed = s.typed[1:]
	return []byte(secret), nil
}

// caRun runs a command line with a configuration whose CA is to be in dir.
func caRun(t *testing.T, dir string, typed []string, args ...string) result {
	t.Helper()
	env := map[string]string{"HOME": dir, "HALLPASS_CONFIG": filepath.Join(dir, "hallpass.yaml")}
	var stdout, stderr bytes.Buffer
	get := func(name string) string { return env[name] }
	a := &app{
		ctx: context.Background(), stdin: strings.NewReader(""), env: get, now: time.Now,
		out: newPrinter(&stdout, get), err: newPrinter(&stderr, get),
		console: func() (console, error) {
			if typed == nil {
				return nil, errNoTerminal
			}
			return &secrets{&bytes.Buffer{}, typed}, nil
		},
	}
	code := a.main(append([]string{"ca"}, args...))
	return result{code, stdout.String(), stderr.String()}
}

func caDir(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	check(t, os.WriteFile(filepath.Join(dir, "hallpass.yaml"), []byte("issuers: {ssh: {key: 'file:ssh_ca'}}\n"), 0o600))
	check(t, os.WriteFile(filepath.Join(dir, "catalog.yaml"), []byte(testCatalog), 0o600))
	return dir
}

func TestCAInit(t *testing.T) {
	for _, tt := range []struct {
		name   string
		args   []string
		typed  []string
		file   string // that the key is in
		secret string
		typ    string
	}{
		{"as configured", nil, nil, "ssh_ca", "", ssh.KeyAlgoED25519},
		{"a file", []string{"mine", "--type", "ecdsa-p256"}, nil, "mine", "", ssh.KeyAlgoECDSA256},
		{"encrypted, typed", []string{"--passphrase"}, []string{"s3cret", "s3cret"}, "ssh_ca", "s3cret", ssh.KeyAlgoED25519},
		{"encrypted, from a file", []string{"--passphrase-file", "secret"}, nil, "ssh_ca", "first line", ssh.KeyAlgoED25519},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := caDir(t)
			t.Chdir(dir)
			check(t, os.WriteFile("secret", []byte("first line\r\nsecond\n"), 0o600))
			r := caRun(t, dir, tt.typed, append([]string{"init"}, tt.args...)...)
			if r.code != ExitOK || !strings.Contains(r.stdout, `key: "file:`+filepath.Join(dir, tt.file)) {
				t.Fatalf("exit %d\n%s%s", r.code, r.stdout, r.stderr)
			}
			if tt.secret != "" && strings.Contains(r.stdout+r.stderr, tt.secret) {
				t.Error("the passphrase is shown")
			}
			asked := false
			signer, err := ca.Open("file:"+filepath.Join(dir, tt.file), ca.OpenOptions{Passphrase: func(string) ([]byte, error) {
				asked = true
				return []byte(tt.secret), nil
			}})
			check(t, err)
			if asked != (tt.secret != "") || signer.PublicKey().Type() != tt.typ {
				t.Errorf("encrypted: %t, type %s", asked, signer.PublicKey().Type())
			}

			// Once more changes nothing.
			if r := caRun(t, dir, tt.typed, append([]string{"init"}, tt.args...)...); r.code != ExitError || !strings.Contains(r.stderr, "exists") {
				t.Errorf("a second time: exit %d, %s", r.code, r.stderr)
			}
			again, err := ca.Open("file:"+filepath.Join(dir, tt.file), ca.OpenOptions{Passphrase: func(string) ([]byte, error) {
				return []byte(tt.secret), nil
			}})
			check(t, err)
			if !bytes.Equal(again.PublicKey().Marshal(), signer.PublicKey().Marshal()) {
				t.Error("the key has changed")
			}
		})
	}
}

// Of a key in Vault, init says how it is made, and makes none.
func TestCAInitVault(t *testing.T) {
	dir := caDir(t)
	r := caRun(t, dir, nil, "init", "vault:ssh/transit/hallpass", "--type", "rsa-4096")
	for _, want := range []string{
		"vault write -f 'ssh/transit/keys/hallpass' type='rsa-4096'\n", "vault policy write 'hallpass-ssh-ca' - <<'EOF'\n",
		"path \"ssh/transit/sign/hallpass\" {\n  capabilities = [\"update\"]\n}\n", "#   issuers: {ssh: {key: \"vault:ssh/transit/hallpass@1\"}}\n",
	} {
		if r.code != ExitOK || !strings.Contains(r.stdout, want) {
			t.Errorf("exit %d, no %q in\n%s%s", r.code, want, r.stdout, r.stderr)
		}
	}
	check(t, os.WriteFile(filepath.Join(dir, "hallpass.yaml"), []byte("issuers: {ssh: {key: 'vault:transit/ca@3'}}\n"), 0o600))
	r = caRun(t, dir, nil, "init", "--output", "json")
	var got CASetup
	if err := json.Unmarshal([]byte(r.stdout), &got); err != nil || got.Source != "vault:transit/ca@3" || got.Type != "ed25519" ||
		!strings.Contains(got.Script, "vault write -f 'transit/keys/ca' type='ed25519'\n") {
		t.Errorf("%v, exit %d\n%s%s", err, r.code, r.stdout, r.stderr)
	}
}

func TestCARefuses(t *testing.T) {
	for _, tt := range []struct {
		name  string
		args  string
		typed []string
		code  int
		want  string
	}{
		{"type", "init --type rsa", nil, ExitUsage, "--type is rsa"},
		{"type of a key in Vault", "init vault:transit/ca --type rsa-2048", nil, ExitUsage, "--type is rsa-2048, not one of ed25519, ecdsa-p256, ecdsa-p384, rsa-4096"},
		{"passphrase of a key in Vault", "init vault:transit/ca --passphrase", nil, ExitUsage, "a key in Vault has no passphrase"},
		{"no key of Vault's", "init vault:ca", nil, ExitUsage, "is not vault:MOUNT/KEY"},
		{"no such key of Vault's", "show vault:ca", nil, ExitUsage, "is not vault:MOUNT/KEY"},
		{"no Vault", "show vault:transit/ca", nil, ExitUsage, "issuers.vault.address is not configured, and the SSH CA's key is in Vault"},
		{"two files", "init a b", nil, ExitUsage, "unexpected argument"},
		{"no terminal", "init --passphrase", nil, ExitUsage, "no terminal"},
		{"empty passphrase", "init --passphrase", []string{"", ""}, ExitUsage, "empty"},
		{"passphrases differ", "init --passphrase", []string{"a", "b"}, ExitUsage, "differ"},
		{"both passphrases", "init --passphrase --passphrase-file x", nil, ExitUsage, "exclude"},
		{"no passphrase file", "init --passphrase-file missing", nil, ExitError, "no such file"},
		{"no key yet", "show", nil, ExitNotFound, "ssh_ca.pub"},
		{"login without host", "show made --login root", nil, ExitUsage, "goes with --host"},
		{"unknown host", "show made --host web-9", nil, ExitNotFound, "ssh/web-9"},
		{"host of another kind", "show made --host db/web-1 --login root", nil, ExitUsage, "not of kind ssh"},
		{"bad login", "show made --host web-1 --login a/b", nil, ExitUsage, "login"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := caDir(t)
			t.Chdir(dir)
			_, err := ca.Create("made", "ed25519", nil, "")
			check(t, err)
			r := caRun(t, dir, tt.typed, strings.Fields(tt.args)...)
			if r.code != tt.code || !strings.Contains(r.stderr, tt.want) || r.stdout != "" {
				t.Errorf("exit %d, want %d\n%s%s", r.code, tt.code, r.stdout, r.stderr)
			}
			if _, err := os.Stat("ssh_ca"); err == nil {
				t.Error("a key was made")
			}
		})
	}
}

func TestCAShow(t *testing.T) {
	dir := caDir(t)
	key, err := ca.Create(filepath.Join(dir, "ssh_ca"), "ed25519", nil, "")
	check(t, err)
	check(t, os.Remove(filepath.Join(dir, "ssh_ca"))) // it isn't needed

	r := caRun(t, dir, nil, "show", "--host", "web-1", "--output", "json")
	if r.code != ExitOK {
		t.Fatalf("exit %d\n%s", r.code, r.stderr)
	}
	var got CAKey
	check(t, json.Unmarshal([]byte(r.stdout), &got))
	line := strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key))) + " hallpass SSH CA"
	want := CAKey{
		Source: "file:" + filepath.Join(dir, "ssh_ca"), Type: "ssh-ed25519",
		Fingerprint: ssh.FingerprintSHA256(key), PublicKey: line,
		Host: &CAHost{
			Resource:   "ssh/web-1",
			Principals: map[string][]string{"deploy": {"web-1/deploy"}, "root": {"web-1/root"}},
			SSHD:       []string{"TrustedUserCAKeys /etc/ssh/hallpass_ca.pub", "AuthorizedPrincipalsFile /etc/ssh/hallpass_principals/%u"},
		},
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(CAHost{})); diff != "" {
		t.Errorf("ca show (-want +got):\n%s", diff)
	}

	r = caRun(t, dir, nil, "show", "--host", "ssh/new-1", "--login", "admin")
	for _, want := range []string{
		"  echo '" + line + "' > /etc/ssh/hallpass_ca.pub\n",
		"  echo 'new-1/admin' > /etc/ssh/hallpass_principals/admin\n",
		"  TrustedUserCAKeys /etc/ssh/hallpass_ca.pub\n",
	} {
		if !strings.Contains(r.stdout, want) {
			t.Errorf("no %q in\n%s", want, r.stdout)
		}
	}
	if r := caRun(t, dir, nil, "show", filepath.Join(dir, "ssh_ca.pub")); r.code != ExitOK || !strings.Contains(r.stdout, want.Fingerprint) {
		t.Errorf("by the public file: exit %d\n%s%s", r.code, r.stdout, r.stderr)
	}
}

// However many keys are on their way in or out, what to do next is said once.
func TestRotationText(t *testing.T) {
	var out bytes.Buffer
	a := &app{now: time.Now}
	until := time.Now().Add(time.Hour)
	a.rotationText(newPrinter(&out, noEnv), Rotation{
		Key:     CAKey{Fingerprint: "SHA256:now", Source: "file:ssh_ca"},
		Trusted: []TrustedKey{{Fingerprint: "SHA256:a"}, {Fingerprint: "SHA256:b"}, {Fingerprint: "SHA256:c", Signed: true, Live: 2, Until: &until}, {Fingerprint: "SHA256:d", Signed: true}},
	}, "trusted")
	for want, n := range map[string]int{
		"  signs  SHA256:now  file:ssh_ca\n": 1, "  next   SHA256:a\n": 1, "  next   SHA256:b\n": 1, "  last   SHA256:c  2 certificates until": 1,
		"  last   SHA256:d  no certificates left\n": 1, "make it issuers.ssh.key": 1, "hosts refuse them without it": 1, "Take the last one out of trusted": 1,
	} {
		if got := strings.Count(out.String(), want); got != n {
			t.Errorf("%q is there %d times, not %d, in\n%s", want, got, n, out.String())
		}
	}
}
