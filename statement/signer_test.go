package statement

import (
	"encoding/base64"
	"encoding/pem"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"hallpass/access"
)

// serveAgent runs an ssh-agent that holds keys of these types, and returns its
// socket and keys.
func serveAgent(t *testing.T, types ...string) (string, []ssh.PublicKey) {
	t.Helper()
	ring := agent.NewKeyring()
	for _, typ := range types {
		if err := ring.Add(agent.AddedKey{PrivateKey: newKey(t, typ)}); err != nil {
			t.Fatal(err)
		}
	}
	return listenAgent(t, ring), agentList(t, ring)
}

func agentList(t *testing.T, ring agent.Agent) (keys []ssh.PublicKey) {
	t.Helper()
	list, err := ring.List()
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range list {
		key, err := ssh.ParsePublicKey(k.Marshal())
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, key)
	}
	return keys
}

func listenAgent(t *testing.T, ring agent.Agent) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "agent") // t.TempDir may be too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(dir, "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = l.Close()
		_ = os.RemoveAll(dir)
	})
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				_ = agent.ServeAgent(ring, c) // ends with the connection
				_ = c.Close()
			}()
		}
	}()
	return socket
}

// writeKey writes a private key as ssh-keygen does, and its public half beside.
func writeKey(t *testing.T, path, typ, passphrase string) ssh.PublicKey {
	t.Helper()
	k := newKey(t, typ)
	var block *pem.Block
	var err error
	if passphrase == "" {
		block, err = ssh.MarshalPrivateKey(k, "")
	} else {
		block, err = ssh.MarshalPrivateKeyWithPassphrase(k, "", []byte(passphrase))
	}
	if err != nil {
		t.Fatal(err)
	}
	public, err := ssh.NewPublicKey(k.Public())
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, path, pem.EncodeToMemory(block), 0o600)
	write(t, path+".pub", ssh.MarshalAuthorizedKey(public), 0o644)
	return public
}

func write(t *testing.T, path string, data []byte, mode os.FileMode) {
	t.Helper()
	if err := os.WriteFile(path, data, mode); err != nil {
		t.Fatal(err)
	}
}

// found finds a signer, signs with it, and says where it came from.
func found(t *testing.T, o SignerOptions) (string, ssh.PublicKey) {
	t.Helper()
	s, err := FindSigner(o)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}()
	mustSign(t, s, request(t))
	return s.Source, s.PublicKey()
}

func same(t *testing.T, got, want ssh.PublicKey) {
	t.Helper()
	if MarshalKey(got) != MarshalKey(want) {
		t.Errorf("got key %s, want %s", ssh.FingerprintSHA256(got), ssh.FingerprintSHA256(want))
	}
}

func TestFindSignerInAgent(t *testing.T) {
	socket, keys := serveAgent(t, "rsa-2048", "rsa-3072", "ed25519", "ecdsa-256")
	home := t.TempDir()
	writeKey(t, filepath.Join(home, ".ssh", "id_ed25519"), "ed25519", "")

	t.Run("the first that is good enough", func(t *testing.T) {
		source, key := found(t, SignerOptions{AgentSocket: socket, Home: home})
		if source != "ssh-agent" {
			t.Error(source)
		}
		same(t, key, keys[1]) // RSA: signs with SHA-2
	})
	t.Run("the wanted one", func(t *testing.T) {
		_, key := found(t, SignerOptions{AgentSocket: socket, Want: func(k ssh.PublicKey) bool { return k.Type() == keys[3].Type() }})
		same(t, key, keys[3])
	})
	t.Run("by fingerprint", func(t *testing.T) {
		_, key := found(t, SignerOptions{AgentSocket: socket, Key: ssh.FingerprintSHA256(keys[2])})
		same(t, key, keys[2])
	})
	t.Run("by public key file", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "k.pub")
		write(t, path, ssh.MarshalAuthorizedKey(keys[2]), 0o644)
		_, key := found(t, SignerOptions{AgentSocket: socket, Key: path})
		same(t, key, keys[2])
	})
	t.Run("weak by fingerprint", func(t *testing.T) {
		_, err := FindSigner(SignerOptions{AgentSocket: socket, Key: ssh.FingerprintSHA256(keys[0])})
		wantError(t, err, access.CodeMalformed, "RSA key has 2048 bits, not 3072 to 8192")
	})
	t.Run("unknown fingerprint", func(t *testing.T) {
		_, err := FindSigner(SignerOptions{AgentSocket: socket, Key: "SHA256:x"})
		wantError(t, err, access.CodeNotFound, "ssh-agent has no key SHA256:x")
	})
	t.Run("fingerprint without agent", func(t *testing.T) {
		_, err := FindSigner(SignerOptions{Key: "SHA256:x"})
		wantError(t, err, access.CodeNotFound, "key SHA256:x can't be looked for: no ssh-agent is running")
	})
	t.Run("file behind the agent", func(t *testing.T) {
		path := filepath.Join(home, ".ssh", "id_ed25519")
		source, _ := found(t, SignerOptions{AgentSocket: socket, Home: home, Want: func(k ssh.PublicKey) bool { return MarshalKey(k) == MarshalKey(publicHalf(path)) }})
		if source != path {
			t.Error(source)
		}
	})
}

// A FIDO key in the agent signs with its flags.
func TestFindSignerSecurityKeyInAgent(t *testing.T) {
	k := newSecurityKey(t, "ed25519", touched|unlocked)
	socket := listenAgent(t, fidoAgent{agent.NewKeyring(), k})
	s, err := FindSigner(SignerOptions{AgentSocket: socket})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	v, err := Verify(mustSign(t, s, request(t)), access.TypeRequest)
	if err != nil || !v.UserVerified {
		t.Errorf("%+v, %v", v, err)
	}

	// Its file is only a reference to it.
	path := filepath.Join(t.TempDir(), "id_ed25519_sk")
	write(t, path, []byte("-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\n"), 0o600)
	write(t, path+".pub", ssh.MarshalAuthorizedKey(k.PublicKey()), 0o644)
	source, key := found(t, SignerOptions{AgentSocket: socket, Key: path})
	if source != "ssh-agent" {
		t.Error(source)
	}
	same(t, key, k.PublicKey())
	_, err = FindSigner(SignerOptions{Key: path})
	wantError(t, err, access.CodeNotFound, path+" belongs to a security key, which only ssh-agent can use")
}

// fidoAgent holds one security key.
type fidoAgent struct {
	agent.Agent
	key *securityKey
}

func (a fidoAgent) List() ([]*agent.Key, error) {
	return []*agent.Key{{Format: a.key.public.Type(), Blob: a.key.public.Marshal()}}, nil
}

func (a fidoAgent) Sign(_ ssh.PublicKey, data []byte) (*ssh.Signature, error) {
	return a.key.Sign(nil, data)
}

func TestFindSignerFiles(t *testing.T) {
	home := t.TempDir()
	dir := filepath.Join(home, ".ssh")
	rsaKey := writeKey(t, filepath.Join(dir, "id_rsa"), "rsa-3072", "")
	_, key := found(t, SignerOptions{Home: home})
	same(t, key, rsaKey)
	ecdsaKey := writeKey(t, filepath.Join(dir, "id_ecdsa"), "ecdsa-256", "")
	_, key = found(t, SignerOptions{Home: home})
	same(t, key, ecdsaKey)
	edKey := writeKey(t, filepath.Join(dir, "id_ed25519"), "ed25519", "secret")

	asked := ""
	ask := func(path string) ([]byte, error) { asked = path; return []byte("secret"), nil }
	_, key = found(t, SignerOptions{Home: home, Passphrase: ask})
	same(t, key, edKey)
	if asked != filepath.Join(dir, "id_ed25519") {
		t.Errorf("asked for %q", asked)
	}

	t.Run("no passphrase for an unwanted key", func(t *testing.T) {
		_, key := found(t, SignerOptions{
			Home:       home,
			Want:       func(k ssh.PublicKey) bool { return k.Type() != ssh.KeyAlgoED25519 },
			Passphrase: func(string) ([]byte, error) { t.Error("asked"); return nil, errors.New("no") },
		})
		same(t, key, ecdsaKey)
	})
	t.Run("no passphrase when the agent has it", func(t *testing.T) {
		private, err := ssh.ParseRawPrivateKeyWithPassphrase(must(os.ReadFile(filepath.Join(dir, "id_ed25519"))), []byte("secret"))
		if err != nil {
			t.Fatal(err)
		}
		ring := agent.NewKeyring()
		if err := ring.Add(agent.AddedKey{PrivateKey: private}); err != nil {
			t.Fatal(err)
		}
		source, key := found(t, SignerOptions{Key: filepath.Join(dir, "id_ed25519"), AgentSocket: listenAgent(t, ring)})
		same(t, key, edKey)
		if source != "ssh-agent" {
			t.Error(source)
		}
	})
	t.Run("public key file next to the private one", func(t *testing.T) {
		source, key := found(t, SignerOptions{Key: filepath.Join(dir, "id_ecdsa.pub")})
		same(t, key, ecdsaKey)
		if source != filepath.Join(dir, "id_ecdsa") {
			t.Error(source)
		}
	})
	t.Run("nobody to ask", func(t *testing.T) {
		_, err := FindSigner(SignerOptions{Home: home})
		wantError(t, err, access.CodeNotFound, filepath.Join(dir, "id_ed25519")+" is encrypted, and there is no terminal to ask for its passphrase")
	})
	t.Run("wrong passphrase", func(t *testing.T) {
		_, err := FindSigner(SignerOptions{Home: home, Passphrase: func(string) ([]byte, error) { return []byte("hunter2"), nil }})
		if err == nil || access.CodeOf(err) != access.CodeMalformed || strings.Contains(err.Error(), "hunter2") {
			t.Error(err)
		}
	})
	t.Run("no answer", func(t *testing.T) {
		_, err := FindSigner(SignerOptions{Home: home, Passphrase: func(string) ([]byte, error) { return nil, errors.New("interrupted") }})
		wantError(t, err, access.CodeNotFound, filepath.Join(dir, "id_ed25519")+" is encrypted, and its passphrase wasn't given: interrupted")
	})
}

// A key in the environment comes as CI systems hand secrets on: with the last
// line's end or without, with Windows' line ends, in base64 on one line.
func TestFindSignerData(t *testing.T) {
	dir := t.TempDir()
	file := func(name, passphrase string) (string, ssh.PublicKey) {
		path := filepath.Join(dir, name+passphrase)
		key := writeKey(t, path, name, passphrase)
		return string(must(os.ReadFile(path))), key
	}
	plain, key := file("ed25519", "")
	for name, data := range map[string]string{
		"as it is": plain, "without the last line's end": strings.TrimSpace(plain), "with spaces": "\n " + plain + "\n\n",
		"Windows": strings.ReplaceAll(plain, "\n", "\r\n"), "base64": base64.StdEncoding.EncodeToString([]byte(plain)),
		"base64 with a line end": base64.StdEncoding.EncodeToString([]byte(plain)) + "\n",
	} {
		source, got := found(t, SignerOptions{Data: data, Key: "/nosuch"})
		same(t, got, key)
		if source != "the signing key in the environment" {
			t.Errorf("%s: %s", name, source)
		}
	}
	locked, _ := file("ecdsa-256", "secret")
	for _, tt := range []struct{ name, data, want string }{
		{"encrypted", locked, "the signing key in the environment is encrypted, and there is nobody to ask for its passphrase"},
		{"cut off", plain[:100], "the signing key in the environment can't be opened: it is damaged or of an unknown kind"},
		{"public", MarshalKey(key), "the signing key in the environment is neither a private key nor one in base64"},
		{"base64 of something", "aGVsbG8=", "the signing key in the environment can't be opened: it is damaged or of an unknown kind"},
		{"long", strings.Repeat("A", maxKeyFile+1), "the signing key in the environment is longer than a key file (65536 bytes)"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := FindSigner(SignerOptions{Data: tt.data})
			wantError(t, err, access.CodeMalformed, tt.want)
		})
	}
}

func TestFindSignerRefusesFiles(t *testing.T) {
	dir := t.TempDir()
	file := func(name string, data string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		write(t, path, []byte(data), mode)
		return path
	}
	for _, mode := range []os.FileMode{0o640, 0o604, 0o620, 0o601, 0o644} {
		path := filepath.Join(dir, "open"+mode.String())
		writeKey(t, path, "ed25519", "")
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		_, err := FindSigner(SignerOptions{Key: path})
		if err == nil || !strings.Contains(err.Error(), "can be used by others") || access.CodeOf(err) != access.CodeForbidden {
			t.Errorf("mode %v: %v", mode, err)
		}
		var e *access.Error
		if !errors.As(err, &e) || e.Hint != "chmod 600 "+path {
			t.Errorf("hint %+v", e)
		}
	}
	for _, mode := range []os.FileMode{0o600, 0o400} {
		path := filepath.Join(dir, "closed"+mode.String())
		writeKey(t, path, "ed25519", "")
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		found(t, SignerOptions{Key: path})
	}

	weak := filepath.Join(dir, "weak")
	writeKey(t, weak, "rsa-2048", "")
	lonely := file("lonely.pub", ed25519Line+" x\n", 0o644)
	mixed := filepath.Join(dir, "mixed")
	writeKey(t, mixed, "ed25519", "")
	write(t, mixed+".pub", []byte(ed25519Line+"\n"), 0o644)
	half := file("half", ed25519Line+"\n", 0o644)
	for _, tt := range []struct{ name, path, want string }{
		{"missing", filepath.Join(dir, "none"), "key file " + filepath.Join(dir, "none") + " is not there"},
		{"rubbish", file("rubbish", "x", 0o600), "private key " + filepath.Join(dir, "rubbish") + " can't be opened: no key found"},
		{"weak", weak, "RSA key has 2048 bits, not 3072 to 8192"},
		{"public half alone", lonely, lonely + " is a public key, and neither ssh-agent nor " + strings.TrimSuffix(lonely, ".pub") + " has the private half"},
		{"public half under another name", half, half + " is a public key, and ssh-agent doesn't have the private half"},
		{"two halves", mixed + ".pub", mixed + ".pub and " + mixed + " are not halves of one key"},
		{"too long", file("long", strings.Repeat("x", maxKeyFile+1), 0o600), filepath.Join(dir, "long") + " is longer than a key file (65536 bytes)"},
		{"folder", dir, dir + " is not a file"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := FindSigner(SignerOptions{Key: tt.path})
			if err == nil || err.Error() != tt.want || access.CodeOf(err) == "" {
				t.Errorf("got  %v\nwant %s", err, tt.want)
			}
		})
	}
}

func TestFindSignerNothing(t *testing.T) {
	for _, tt := range []struct {
		name   string
		socket string
		want   string
	}{
		{"no agent", "", "no signing key found: no ssh-agent is running, and no id_ed25519, id_ecdsa or id_rsa in ~/.ssh"},
		{"dead agent", filepath.Join(t.TempDir(), "s"), "no signing key found: ssh-agent doesn't answer, and no id_ed25519, id_ecdsa or id_rsa in ~/.ssh"},
		{"empty agent", func() string { s, _ := serveAgent(t); return s }(), "no signing key found: none in ssh-agent, and no id_ed25519, id_ecdsa or id_rsa in ~/.ssh"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := FindSigner(SignerOptions{Home: t.TempDir(), AgentSocket: tt.socket})
			wantError(t, err, access.CodeNotFound, tt.want)
			var e *access.Error
			if !errors.As(err, &e) || !strings.Contains(e.Hint, "ssh-keygen -t ed25519") {
				t.Errorf("hint %q", e.Hint)
			}
		})
	}
}

func TestFindSignerNoneKnown(t *testing.T) {
	socket, keys := serveAgent(t, "ed25519")
	home := t.TempDir()
	writeKey(t, filepath.Join(home, ".ssh", "id_ecdsa"), "ecdsa-256", "")
	_, err := FindSigner(SignerOptions{AgentSocket: socket, Home: home, Want: func(ssh.PublicKey) bool { return false }})
	wantError(t, err, access.CodeNotFound, "none of your 2 keys in ssh-agent and ~/.ssh is in the directory")
	var e *access.Error
	if !errors.As(err, &e) || !strings.Contains(e.Hint, MarshalKey(keys[0])) {
		t.Errorf("hint %q", e.Hint)
	}
}

// An agent that takes the connection and never answers must not hold anybody
// up for ever.
func TestAgentWithoutAnswer(t *testing.T) {
	dir, err := os.MkdirTemp("", "agent")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	l, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	a, err := dialAgent(filepath.Join(dir, "s"), 20*time.Millisecond)
	if err == nil || err.Error() != "ssh-agent doesn't list its keys" || len(a.keys) != 0 {
		t.Errorf("%v, %d keys", err, len(a.keys))
	}
	if err := a.Close(); err != nil {
		t.Error(err)
	}
}
