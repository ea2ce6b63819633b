//go:build linux

package main

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"hallpass/kms/allow"
	"hallpass/kms/allow/allowtest"
)

// patience is how long a test waits for what is to come.
const patience = time.Minute

// TestMain makes this program hallpass-kms, for tests that run it.
func TestMain(m *testing.M) {
	if os.Getenv("HALLPASS_KMS_TEST") == "run" {
		main()
		return
	}
	os.Exit(m.Run())
}

// program is hallpass-kms as a process of its own.
type program struct {
	t      *testing.T
	socket string
	cmd    *exec.Cmd

	mu   sync.Mutex
	said bytes.Buffer
}

func (p *program) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.said.Write(b)
}

// log is what it has said so far.
func (p *program) log() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.said.String()
}

// folder is one whose paths are short enough for sockets.
func folder(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "kms")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// command is hallpass-kms with nothing of this process's environment that
// could lead it to a KMS.
func command(t *testing.T, env []string, args ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, args...)
	cmd.Env = append([]string{"HALLPASS_KMS_TEST=run", "PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir()}, env...)
	return cmd
}

// start starts it, and waits until it listens.
func start(t *testing.T, env []string, args ...string) *program {
	t.Helper()
	p := &program{t: t, socket: filepath.Join(folder(t), "s")}
	p.cmd = command(t, env, append(args, "-socket", p.socket)...)
	p.run()
	return p
}

func (p *program) run() {
	p.t.Helper()
	p.cmd.Stderr = p
	if err := p.cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { _ = p.cmd.Wait(); close(done) }()
	p.t.Cleanup(func() {
		_ = p.cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-done:
		case <-time.After(patience):
			p.t.Error("it doesn't end")
			_ = p.cmd.Process.Kill()
			<-done
		}
		if code := p.cmd.ProcessState.ExitCode(); code != 0 {
			p.t.Errorf("it ends with %d", code)
		}
		if p.t.Failed() {
			p.t.Logf("it said:\n%s", p.log())
		}
	})
	p.until(func() bool { return strings.Contains(p.log(), `"listens"`) })
}

// until waits for something.
func (p *program) until(f func() bool) {
	p.t.Helper()
	for deadline := time.Now().Add(patience); !f(); <-time.After(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			p.t.Fatalf("it didn't come; it said:\n%s", p.log())
		}
	}
}

// talk has a conversation with it, as the issuer has.
func (p *program) talk(f func(agent.ExtendedAgent)) {
	p.t.Helper()
	conn, err := net.Dial("unix", p.socket)
	if err != nil {
		p.t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		p.t.Fatal(err)
	}
	f(agent.NewClient(conn))
}

// keys waits until it has opened so many keys.
func (p *program) keys(n int) (list []*agent.Key) {
	p.t.Helper()
	p.until(func() bool {
		p.talk(func(a agent.ExtendedAgent) {
			var err error
			if list, err = a.List(); err != nil {
				p.t.Fatal(err)
			}
		})
		return len(list) == n
	})
	return list
}

// sign has it sign, and gives the refusal if there is one.
func (p *program) sign(key ssh.PublicKey, data []byte) (signature *ssh.Signature, err error) {
	p.t.Helper()
	p.talk(func(a agent.ExtendedAgent) {
		var flags agent.SignatureFlags
		if key.Type() == ssh.KeyAlgoRSA {
			flags = agent.SignatureFlagRsaSha512
		}
		if signature, err = a.SignWithFlags(key, data, flags); err != nil {
			err = errors.New(why(a))
		}
	})
	return signature, err
}

// why asks for the last refusal.
func why(a agent.ExtendedAgent) string {
	answer, err := a.Extension(refusal, nil)
	if err != nil {
		return ""
	}
	var said struct {
		Text string `sshtype:"6"`
	}
	if err := ssh.Unmarshal(answer, &said); err != nil {
		return err.Error()
	}
	return said.Text
}

// signsCertificates has it sign a certificate as hallpass makes one, and looks
// at the signature.
func (p *program) signsCertificates(key ssh.PublicKey) {
	p.t.Helper()
	data := allowtest.Unsigned(allowtest.Certificate(p.t, key, time.Now()))
	signature, err := p.sign(key, data)
	if err != nil {
		p.t.Fatal(err)
	}
	if err := key.Verify(data, signature); err != nil {
		p.t.Error(err)
	}
	if want := algorithm(key); signature.Format != want {
		p.t.Errorf("signature is %s, want %s", signature.Format, want)
	}
	p.until(func() bool { return strings.Contains(p.log(), `certificate 42 of \"hallpass:0198`) })
}

// softKey writes a key file, and gives its URI.
func softKey(t *testing.T, private crypto.Signer) (uri string, key ssh.PublicKey) {
	t.Helper()
	key, err := ssh.NewPublicKey(private.Public())
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "key.pem")
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return "softkms:path=" + path, key
}

func newP256(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func newEd25519(t testing.TB) ed25519.PrivateKey {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func TestKeyFile(t *testing.T) {
	big, err := rsa.GenerateKey(rand.Reader, 3072)
	if err != nil {
		t.Fatal(err)
	}
	for name, private := range map[string]crypto.Signer{"Ed25519": newEd25519(t), "P-256": newP256(t), "RSA": big} {
		t.Run(name, func(t *testing.T) {
			uri, key := softKey(t, private)
			p := start(t, []string{"HALLPASS_KMS_USER_CA=" + uri})
			if list := p.keys(1); list[0].Comment != "the SSH CA" || string(list[0].Marshal()) != string(key.Marshal()) {
				t.Errorf("lists %v", list)
			}
			p.signsCertificates(key)
			if _, err := p.sign(key, []byte(allow.Trial)); err != nil {
				t.Error(err)
			}
			if _, err := p.sign(key, []byte("pay 100")); err == nil || !strings.Contains(err.Error(), "certificates, key revocation lists and what hosts are told alone") {
				t.Errorf("something else: %v", err)
			}
			other, err := ssh.NewPublicKey(newEd25519(t).Public())
			if err != nil {
				t.Fatal(err)
			}
			if _, err := p.sign(other, []byte(allow.Trial)); err == nil || !strings.Contains(err.Error(), "not one of those here") {
				t.Errorf("another key: %v", err)
			}
			p.talk(func(a agent.ExtendedAgent) {
				if name == "RSA" {
					if _, err := a.Sign(key, []byte(allow.Trial)); err == nil {
						t.Error("signs with SHA-1")
					} else if said := why(a); !strings.Contains(said, "rsa-sha2-512 alone") {
						t.Errorf("SHA-1: %q", said)
					}
				}
				if err := a.Add(agent.AddedKey{PrivateKey: newEd25519(t)}); err == nil {
					t.Error("takes keys")
				}
				if a.RemoveAll() == nil || a.Lock([]byte("x")) == nil {
					t.Error("does what other agents do")
				}
				if list, err := a.List(); err != nil || len(list) != 1 {
					t.Errorf("afterwards: %v, %v", list, err)
				}
				if said := why(a); said != "" {
					t.Errorf("nothing was refused, and it says %q", said)
				}
			})
		})
	}
}

// Two keys, neither of which signs what the other one does.
func TestRolesApart(t *testing.T) {
	userURI, user := softKey(t, newEd25519(t))
	hostURI, host := softKey(t, newP256(t))
	p := start(t, nil, "-user-ca", userURI, "-host-ca", hostURI)
	p.keys(2)
	p.signsCertificates(user)
	c := allowtest.Certificate(t, host, time.Now())
	if _, err := p.sign(host, allowtest.Unsigned(c)); err == nil || !strings.Contains(err.Error(), "the CA of hosts signs no certificates of type 1") {
		t.Errorf("a user's certificate by the CA of hosts: %v", err)
	}
	c.CertType, c.KeyId, c.ValidPrincipals = ssh.HostCert, "hallpass-host:web-1", []string{"web-1"}
	if _, err := p.sign(host, allowtest.Unsigned(c)); err != nil {
		t.Error(err)
	}
	c.SignatureKey = user
	if _, err := p.sign(user, allowtest.Unsigned(c)); err == nil || !strings.Contains(err.Error(), "the SSH CA signs no certificates of type 2") {
		t.Errorf("a host's certificate by the CA of users: %v", err)
	}
}

func TestRefusesToStart(t *testing.T) {
	uri, _ := softKey(t, newP256(t))
	open := filepath.Join(t.TempDir(), "pin")
	if err := os.WriteFile(open, []byte("123456\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	wide := folder(t)
	if err := os.Chmod(wide, 0o755); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(folder(t), "s")
	if err := os.WriteFile(file, []byte("important"), 0o600); err != nil {
		t.Fatal(err)
	}
	taken := start(t, nil, "-user-ca", uri).socket
	for _, row := range []struct {
		name string
		args []string
		code int
		want string
	}{
		{"no key", []string{"-socket", "s"}, 2, "which key?"},
		{"no socket", []string{"-user-ca", uri}, 2, "which socket?"},
		{"one key for both", []string{"-user-ca", uri, "-host-ca", uri}, 2, "are one key"},
		{"an argument", []string{"-user-ca", uri, "s3cr3t"}, 2, "is not a flag"},
		{"no URI", []string{"-user-ca", "%zzs3cr3t"}, 2, "-user-ca: the URI can't be read"},
		{"a URI without a scheme", []string{"-user-ca", "/etc/key"}, 2, "can't be read"},
		{"another scheme", []string{"-host-ca", "vault:transit/ca"}, 2, `-host-ca: the URI begins with "vault", not with one of awskms, azurekms, cloudkms, pkcs11, softkms`},
		{"a long one", []string{"-user-ca", "awskms:key-id=" + strings.Repeat("1", 1000)}, 2, "can't be read"},
		{"a secret of Azure", []string{"-user-ca", "azurekms:vault=v;name=n;client-secret=s3cr3t"}, 2, "has client-secret in it"},
		{"credentials that others read", []string{"-user-ca", "awskms:key-id=1?credentials-file=" + open}, 2, "chmod 600 " + open},
		{"credentials that aren't there", []string{"-user-ca", "cloudkms:projects/p?credentials-file=/nowhere"}, 2, "no such file"},
		{"a relative path", []string{"-user-ca", "softkms:path=key.pem"}, 2, "is not an absolute path"},
		{"no path", []string{"-user-ca", "softkms:name=x"}, 2, "has no path"},
		{"a folder that others reach", []string{"-user-ca", uri, "-socket", filepath.Join(wide, "s")}, 1, "chmod 700 " + wide},
		{"no folder", []string{"-user-ca", uri, "-socket", filepath.Join(wide, "no", "s")}, 1, "no such file"},
		{"a file in the socket's place", []string{"-user-ca", uri, "-socket", file}, 1, "is no socket"},
		{"another's socket", []string{"-user-ca", uri, "-socket", taken}, 1, "listens on " + taken + " already"},
	} {
		var said bytes.Buffer
		cmd := command(t, nil, row.args...)
		cmd.Stdout, cmd.Stderr = &said, &said
		_ = cmd.Run() // its code is looked at
		if code := cmd.ProcessState.ExitCode(); code != row.code || !strings.Contains(said.String(), row.want) || strings.Count(said.String(), "\n") != 1 {
			t.Errorf("%s: exit status %d, want %d; it said %q, want one line with %q", row.name, code, row.code, said.String(), row.want)
		}
		if row.name != "an argument" && strings.Contains(said.String(), "s3cr3t") {
			t.Errorf("%s: it repeats a secret: %q", row.name, said.String())
		}
	}
	if data, err := os.ReadFile(file); err != nil || string(data) != "important" {
		t.Errorf("the file is %q, %v", data, err)
	}
}

// The socket is its owner's alone; one that a killed process has left is
// replaced.
func TestSocket(t *testing.T) {
	uri, _ := softKey(t, newP256(t))
	p := start(t, nil, "-user-ca", uri)
	if info, err := os.Stat(p.socket); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("socket: %v, %v", info.Mode(), err)
	}
	left := filepath.Join(folder(t), "s")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: left, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	_ = l.Close()
	p = &program{t: t, socket: left, cmd: command(t, nil, "-user-ca", uri, "-socket", left)}
	p.run()
	p.keys(1)
}

// systemd hands over a socket that belongs to the issuer's user. Whoever else
// gets to it, because its mode is wrong, is turned away.
func TestSocketOfSystemd(t *testing.T) {
	dir := folder(t)
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	uri, _ := softKey(t, newP256(t))
	socket := filepath.Join(dir, "s")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(socket, 0o666); err != nil {
		t.Fatal(err)
	}
	f, err := l.File()
	if err != nil {
		t.Fatal(err)
	}
	program := &program{t: t, socket: socket, cmd: command(t, []string{"LISTEN_FDS=1"}, "-user-ca", uri)}
	program.cmd.ExtraFiles = []*os.File{f}
	program.cmd.Args = append([]string{"sh", "-c", `LISTEN_PID=$$ exec "$@"`, "sh"}, append([]string{program.cmd.Path}, program.cmd.Args[1:]...)...)
	if program.cmd.Path, err = exec.LookPath("sh"); err != nil {
		t.Fatal(err)
	}
	program.run()
	l.SetUnlinkOnClose(false)
	_, _ = f.Close(), l.Close()
	program.keys(1)

	if os.Getuid() != 0 {
		t.Skip("only root can be somebody else")
	}
	list := exec.Command("ssh-add", "-l")
	list.Env = []string{"SSH_AUTH_SOCK=" + socket}
	list.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	if out, err := list.CombinedOutput(); err == nil || strings.Contains(string(out), "SHA256:") {
		t.Errorf("somebody else is served: %v, %s", err, out)
	}
	program.until(func() bool { return strings.Contains(program.log(), `"msg":"turned away","uid":65534`) })
	if !strings.Contains(program.log(), fmt.Sprintf(`"for_uid":%d`, os.Getuid())) {
		t.Error("it doesn't say whom it serves")
	}
}

// OpenSSH's own tools can ask it for the public key, as the issuer's operator
// does.
func TestOpenSSH(t *testing.T) {
	uri, key := softKey(t, newP256(t))
	p := start(t, nil, "-user-ca", uri)
	p.keys(1)
	cmd := exec.Command("ssh-add", "-L")
	cmd.Env = []string{"SSH_AUTH_SOCK=" + p.socket}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("ssh-add: %v\n%s", err, out)
	}
	if want := strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key))) + " the SSH CA\n"; string(out) != want {
		t.Errorf("ssh-add -L says %q, want %q", out, want)
	}
}
