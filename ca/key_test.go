package ca

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"hallpass/access"
)

// run runs a program of OpenSSH and returns what it printed.
func run(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
	return string(out)
}

func TestCreateAndOpen(t *testing.T) {
	for _, tt := range []struct {
		typ, format, passphrase string
	}{
		{"ed25519", ssh.KeyAlgoED25519, ""},
		{"ed25519", ssh.KeyAlgoED25519, "correct horse"},
		{"ecdsa-p256", ssh.KeyAlgoECDSA256, ""},
		{"ecdsa-p256", ssh.KeyAlgoECDSA256, "correct horse"},
	} {
		name := tt.typ
		if tt.passphrase != "" {
			name += ", encrypted"
		}
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "ssh_ca")
			key, err := Create(path, tt.typ, []byte(tt.passphrase), "hallpass CA")
			if err != nil {
				t.Fatal(err)
			}
			if key.Type() != tt.format {
				t.Errorf("key has type %s, want %s", key.Type(), tt.format)
			}
			if fi, err := os.Stat(path); err != nil || fi.Mode() != 0o600 {
				t.Errorf("mode %v, error %v", fi.Mode(), err)
			}
			public, err := os.ReadFile(path + ".pub")
			if err != nil {
				t.Fatal(err)
			}
			if got := run(t, "ssh-keygen", "-y", "-P", tt.passphrase, "-f", path); got != string(public) {
				t.Errorf("ssh-keygen reads %q, %s.pub is %q", got, path, public)
			}
			asked := 0
			signer, err := Open("file:"+path, OpenOptions{Passphrase: func(p string) ([]byte, error) {
				asked++
				return []byte(tt.passphrase), nil
			}})
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(signer.PublicKey().Marshal(), key.Marshal()) {
				t.Error("opened another key than was made")
			}
			if want := map[bool]int{true: 1, false: 0}[tt.passphrase != ""]; asked != want {
				t.Errorf("asked for the passphrase %d times, want %d", asked, want)
			}
			issueOne(t, signer)
			entries, err := os.ReadDir(filepath.Dir(path))
			if err != nil || len(entries) != 2 {
				t.Errorf("left %v, error %v", entries, err)
			}
		})
	}
}

// issueOne shows that a signer works.
func issueOne(t *testing.T, signer ssh.Signer) *ssh.Certificate {
	t.Helper()
	cert, err := tryIssue(t, signer)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// tryIssue says what comes of a signer's signature.
func tryIssue(t *testing.T, signer ssh.Signer) (*ssh.Certificate, error) {
	t.Helper()
	authority, err := New(signer, clock)
	if err != nil {
		t.Fatal(err)
	}
	p, err := authority.Prepare(good(t))
	if err != nil {
		t.Fatal(err)
	}
	return authority.Issue(p)
}

func TestCreateRefuses(t *testing.T) {
	dir := t.TempDir()
	write := func(name string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	private, public := write("private"), write("public.pub")
	for _, tt := range []struct {
		name, path, typ, comment, want string
	}{
		{"private key exists", private, "ed25519", "", "file exists"},
		{"public key exists", strings.TrimSuffix(public, ".pub"), "ed25519", "", "file already exists"},
		{"no such folder", filepath.Join(dir, "no", "ca"), "ed25519", "", "no such file"},
		{"unknown type", filepath.Join(dir, "x"), "rsa", "", `"rsa"`},
		{"two lines of comment", filepath.Join(dir, "x"), "ed25519", "a\nssh-ed25519 AAAA", "U+000A"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := Create(tt.path, tt.typ, nil, tt.comment); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want one with %q", err, tt.want)
			}
		})
	}
	for _, path := range []string{private, public} {
		if b, err := os.ReadFile(path); err != nil || string(b) != "precious" {
			t.Errorf("%s holds %q, error %v", path, b, err)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "public")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a private key was made beside another's public key: %v", err)
	}
}

func TestOpenRefuses(t *testing.T) {
	dir := t.TempDir()
	plain, locked := filepath.Join(dir, "plain"), filepath.Join(dir, "locked")
	if _, err := Create(plain, "ed25519", nil, ""); err != nil {
		t.Fatal(err)
	}
	if _, err := Create(locked, "ed25519", []byte("right"), ""); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(plain)
	if err != nil {
		t.Fatal(err)
	}
	write := func(name string, data []byte, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		return "file:" + path
	}
	pkcs8 := filepath.Join(dir, "pkcs8")
	run(t, "ssh-keygen", "-q", "-t", "ecdsa", "-m", "PKCS8", "-N", "", "-f", pkcs8)
	say := func(passphrase string, err error) OpenOptions {
		return OpenOptions{Passphrase: func(string) ([]byte, error) { return []byte(passphrase), err }}
	}
	for _, tt := range []struct {
		name, source string
		options      OpenOptions
		want         string // "" if it opens
	}{
		{"only its owner reads", write("0600", data, 0o600), OpenOptions{}, ""},
		{"only its owner reads, and nobody writes", write("0400", data, 0o400), OpenOptions{}, ""},
		{"the group reads", write("0640", data, 0o640), OpenOptions{}, "chmod 600"},
		{"the world reads", write("0604", data, 0o604), OpenOptions{}, "mode 0604"},
		{"the group writes", write("0620", data, 0o620), OpenOptions{}, "mode 0620"},
		{"missing", "file:" + filepath.Join(dir, "missing"), OpenOptions{}, "no such file"},
		{"a folder", "file:" + dir, OpenOptions{}, "not a regular file"},
		{"empty", write("empty", nil, 0o600), OpenOptions{}, "not a private key"},
		{"public key", write("public", []byte("ssh-ed25519 AAAA"), 0o600), OpenOptions{}, "not a private key"},
		{"cut short", write("short", data[:len(data)/2], 0o600), OpenOptions{}, "not a private key"},
		{"another format", "file:" + pkcs8, OpenOptions{}, "not a private key in OpenSSH's format"},
		{"64 kB and a byte", write("large", append(bytes.Clone(data), make([]byte, maxKeyFile+1-len(data))...), 0o600), OpenOptions{}, "larger"},
		{"encrypted", "file:" + locked, say("right", nil), ""},
		{"encrypted, nobody to ask", "file:" + locked, OpenOptions{}, "no passphrase"},
		{"encrypted, wrong passphrase", "file:" + locked, say("wrong", nil), "passphrase is wrong"},
		{"encrypted, no answer", "file:" + locked, say("", errors.New("interrupted")), "interrupted"},
		{"a bare path", plain, OpenOptions{}, "not file:PATH"},
		{"no path", "file:", OpenOptions{}, "not file:PATH"},
		{"another scheme", "pkcs11:x", OpenOptions{}, "not file:PATH"},
		{"agent by name", "agent:ssh_ca", OpenOptions{}, "not file:PATH"},
		{"agent without socket", "agent:SHA256:x", OpenOptions{}, "SSH_AUTH_SOCK"},
		{"agent that isn't there", "agent:SHA256:x", OpenOptions{AgentSocket: filepath.Join(dir, "socket")}, "no such file"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			signer, err := Open(tt.source, tt.options)
			if tt.want == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if signer != nil || err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want one with %q", err, tt.want)
			}
			if err != nil && (strings.Contains(err.Error(), "wrong\"") || strings.Contains(err.Error(), "right")) {
				t.Errorf("error %q tells the passphrase", err)
			}
		})
	}
}

// startAgent runs a real ssh-agent on a socket.
func startAgent(t *testing.T, socket string) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, "ssh-agent", "-D", "-a", socket)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 5 * time.Second
	stdout, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	stop = sync.OnceFunc(func() {
		cancel()
		_ = cmd.Wait() // it was told to end
		_ = os.Remove(socket)
	})
	t.Cleanup(stop)
	// It says where it listens once it does.
	if line, err := bufio.NewReader(stdout).ReadString('\n'); err != nil || !strings.Contains(line, socket) {
		t.Fatalf("ssh-agent said %q, error %v", line, err)
	}
	return stop
}

func TestAgent(t *testing.T) {
	dir, err := os.MkdirTemp("", "agent") // socket paths are at most 104 bytes long
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	socket := filepath.Join(dir, "s")

	add := func(t *testing.T, path string) {
		t.Helper()
		cmd := exec.Command("ssh-add", "-q", path)
		cmd.Env = append(os.Environ(), "SSH_AUTH_SOCK="+socket)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("ssh-add: %v\n%s", err, out)
		}
	}
	for _, tt := range []struct {
		typ, bits, format string
	}{
		{"ed25519", "256", ssh.KeyAlgoED25519},
		{"ecdsa", "256", ssh.KeyAlgoECDSA256},
		{"rsa", "3072", ssh.KeyAlgoRSASHA512},
	} {
		t.Run(tt.typ, func(t *testing.T) {
			stop := startAgent(t, socket)
			path := filepath.Join(t.TempDir(), "ca")
			run(t, "ssh-keygen", "-q", "-t", tt.typ, "-b", tt.bits, "-N", "", "-f", path)
			public, err := os.ReadFile(path + ".pub")
			if err != nil {
				t.Fatal(err)
			}
			key, _, _, _, err := ssh.ParseAuthorizedKey(public)
			if err != nil {
				t.Fatal(err)
			}
			source := "agent:" + ssh.FingerprintSHA256(key)
			if _, err := Open(source, OpenOptions{AgentSocket: socket}); err == nil || !strings.Contains(err.Error(), "ssh-add") {
				t.Errorf("before it was added: error %v", err)
			}
			add(t, path)
			signer, err := Open(source, OpenOptions{AgentSocket: socket})
			if err != nil {
				t.Fatal(err)
			}
			if got := issueOne(t, signer).Signature.Format; got != tt.format {
				t.Errorf("signature is %s, want %s", got, tt.format)
			}

			// A restarted agent is found again, once it has the key.
			authority, err := New(signer, clock)
			if err != nil {
				t.Fatal(err)
			}
			p, err := authority.Prepare(good(t))
			if err != nil {
				t.Fatal(err)
			}
			stop()
			if _, err := authority.Issue(p); err == nil {
				t.Error("issued without the agent")
			}
			startAgent(t, socket)
			if _, err := authority.Issue(p); err == nil {
				t.Error("issued by an agent without the key")
			}
			add(t, path)
			if _, err := authority.Issue(p); err != nil {
				t.Error(err)
			}
		})
	}
}

// mute is an agent that holds a key and doesn't sign with it, and says why.
type mute struct {
	agent.ExtendedAgent
	why string
}

func (m mute) SignWithFlags(ssh.PublicKey, []byte, agent.SignatureFlags) (*ssh.Signature, error) {
	return nil, errors.New("the protocol has no words for this")
}

func (m mute) Extension(name string, _ []byte) ([]byte, error) {
	if name != "refusal@hallpass" {
		return nil, agent.ErrExtensionUnsupported
	}
	return ssh.Marshal(struct {
		Text string `sshtype:"6"`
	}{m.why}), nil
}

// An agent's own words for what is wrong reach whoever asks why nothing is
// signed, one line of them.
func TestAgentSaysWhy(t *testing.T) {
	dir, err := os.MkdirTemp("", "agent") // socket paths are at most 104 bytes long
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	public, err := ssh.NewPublicKey(private.Public())
	if err != nil {
		t.Fatal(err)
	}
	held := agent.NewKeyring().(agent.ExtendedAgent)
	if err := held.Add(agent.AddedKey{PrivateKey: private}); err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(dir, "s")
	o := OpenOptions{AgentSocket: socket}
	source := "agent:" + ssh.FingerprintSHA256(public)
	if _, err := Open(source, o); access.CodeOf(err) != access.CodeUnavailable || !strings.Contains(err.Error(), socket) {
		t.Errorf("without an agent: %v", err)
	}
	answers := make(chan agent.Agent, 1)
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			_ = agent.ServeAgent(<-answers, conn)
			_ = conn.Close()
		}
	}()

	answers <- mute{agent.NewKeyring().(agent.ExtendedAgent), "the KMS\n says\x1b no" + strings.Repeat("!", 1000)}
	_, err = Open(source, o)
	if access.CodeOf(err) != access.CodeUnavailable || !strings.Contains(err.Error(), ": the KMS says no!") || strings.ContainsAny(err.Error(), "\n\x1b") || len(err.Error()) > 800 {
		t.Errorf("without the key: %v", err)
	}
	answers <- held // it can't say why
	signer, err := Open(source, o)
	if err != nil {
		t.Fatal(err)
	}
	authority, err := New(signer, clock)
	if err != nil {
		t.Fatal(err)
	}
	answers <- mute{held, "AccessDeniedException: not with this key"}
	if err := authority.Try(); access.CodeOf(err) != access.CodeUnavailable || !strings.Contains(err.Error(), "AccessDeniedException: not with this key") {
		t.Errorf("a KMS that refuses: %v", err)
	}
	answers <- mute{held, ""}
	if err := authority.Try(); access.CodeOf(err) != access.CodeUnavailable || !strings.Contains(err.Error(), "failed to sign") {
		t.Errorf("an agent that refuses without a word: %v", err)
	}
	answers <- held
	if err := authority.Try(); err != nil {
		t.Error(err)
	}
}
