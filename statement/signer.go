package statement

import (
	"bytes"
	"encoding/base64"
	"errors"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"hallpass/access"
)

// SignerOptions say where FindSigner looks.
type SignerOptions struct {
	// Key names the key: the path of a private or public key file, or a
	// fingerprint "SHA256:…" of a key in the agent. Empty: the first that
	// fits, of the agent's keys and the usual files below Home/.ssh.
	Key string
	// Data is a private key itself, not encrypted: in OpenSSH's or PEM's form,
	// or either in base64 on one line. It comes before everything else.
	Data string
	// AgentSocket is the path of ssh-agent's socket ($SSH_AUTH_SOCK). Empty:
	// no agent.
	AgentSocket string
	// Home is the folder that .ssh is in. Empty: only the agent is looked at.
	Home string
	// Passphrase is asked when an encrypted file has to be opened. Nil:
	// encrypted files are refused with a hint.
	Passphrase func(path string) ([]byte, error)
	// Want says whether a key is of use, such as known to the directory. It
	// is asked before any passphrase. Nil: every key is. A key named by Key
	// isn't asked about.
	Want func(ssh.PublicKey) bool
}

// Signer is a key that can sign. Close it when done: a key in the agent keeps
// its connection open.
type Signer struct {
	ssh.AlgorithmSigner
	Source string // "ssh-agent", or the path of the file
	key    ssh.PublicKey
	conn   io.Closer
}

// PublicKey is the key as the file or agent names it, parsed.
func (s *Signer) PublicKey() ssh.PublicKey { return s.key }

// Close ends the connection to the agent, where there is one.
func (s *Signer) Close() error {
	if s.conn == nil {
		return nil
	}
	return s.conn.Close()
}

// agentPatience bounds how long an agent may take to list its keys. Signing
// isn't bounded: it may wait for a touch.
const agentPatience = 5 * time.Second

// maxKeyFile bounds a key file, in bytes.
const maxKeyFile = 64 << 10

// usualFiles are the names that ssh-keygen gives, best first. FIDO keys are
// missing, since only ssh-agent can use them.
var usualFiles = []string{"id_ed25519", "id_ecdsa", "id_rsa"}

// FindSigner finds the key to sign with: in ssh-agent if it is there, since
// that needs no passphrase, else in its file. Files that others can read are
// refused, as ssh does.
func FindSigner(o SignerOptions) (*Signer, error) {
	if o.Data != "" {
		return fromData(o.Data)
	}
	a, agentErr := dialAgent(o.AgentSocket, agentPatience)
	s, err := find(o, a, agentErr)
	if err != nil || s.Source != sourceAgent {
		// Nothing was written to the agent, so nothing can be lost here.
		_ = a.Close()
	}
	return s, err
}

func find(o SignerOptions, a *agentKeys, agentErr error) (*Signer, error) {
	switch {
	case strings.HasPrefix(o.Key, "SHA256:"):
		for _, k := range a.keys {
			if ssh.FingerprintSHA256(k) == o.Key {
				return a.signer(k)
			}
		}
		if agentErr != nil {
			return nil, access.Errorf(access.CodeNotFound, "key %s can't be looked for: %v", clip(o.Key), agentErr).
				WithHint("start ssh-agent, or name a key file")
		}
		return nil, access.Errorf(access.CodeNotFound, "ssh-agent has no key %s", clip(o.Key)).WithHint("ssh-add -l lists its keys")
	case o.Key != "":
		s, err := fromFile(o.Key, a, o.Passphrase, nil)
		if errors.Is(err, errNoFile) {
			return nil, access.Errorf(access.CodeNotFound, "key file %s is not there", o.Key)
		}
		return s, err
	}

	var unwanted []ssh.PublicKey
	want := func(k ssh.PublicKey) bool {
		if CheckKey(k) != nil {
			return false
		}
		if o.Want == nil || o.Want(k) {
			return true
		}
		unwanted = append(unwanted, k)
		return false
	}
	for _, k := range a.keys {
		if want(k) {
			return a.signer(k)
		}
	}
	for _, name := range usualFiles {
		if o.Home == "" {
			break
		}
		s, err := fromFile(filepath.Join(o.Home, ".ssh", name), a, o.Passphrase, want)
		if !errors.Is(err, errNoFile) && !errors.Is(err, errUnwanted) {
			return s, err
		}
	}
	if len(unwanted) > 0 {
		return nil, access.Errorf(access.CodeNotFound, "none of your %d keys in ssh-agent and ~/.ssh is in the directory", len(unwanted)).
			WithHint("ask for this line in the directory: %s", MarshalKey(unwanted[0]))
	}
	e := access.Errorf(access.CodeNotFound, "no signing key found: none in ssh-agent, and no id_ed25519, id_ecdsa or id_rsa in ~/.ssh")
	if agentErr != nil {
		e = access.Errorf(access.CodeNotFound, "no signing key found: %v, and no id_ed25519, id_ecdsa or id_rsa in ~/.ssh", agentErr)
	}
	return nil, e.WithHint("make one with ssh-keygen -t ed25519, or name its file with HALLPASS_KEY")
}

const sourceAgent = "ssh-agent"

// agentKeys is a connection to ssh-agent with the keys that it has. The zero
// value has none.
type agentKeys struct {
	conn   net.Conn
	client agent.ExtendedAgent
	keys   []ssh.PublicKey
}

// dialAgent lists the agent's keys. On an error it still returns an agent
// without keys, since the caller may find a file.
func dialAgent(socket string, patience time.Duration) (*agentKeys, error) {
	if socket == "" {
		return &agentKeys{}, errors.New("no ssh-agent is running")
	}
	conn, err := net.DialTimeout("unix", socket, patience)
	if err != nil {
		return &agentKeys{}, errors.New("ssh-agent doesn't answer")
	}
	a := &agentKeys{conn: conn, client: agent.NewClient(conn)}
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return a, errors.New("ssh-agent hung up")
	}
	list, err := a.client.List()
	if err != nil {
		return a, errors.New("ssh-agent doesn't list its keys")
	}
	if err := conn.SetDeadline(time.Time{}); err != nil {
		return a, errors.New("ssh-agent hung up")
	}
	for _, k := range list {
		// The client's own type hides what kind of key it is. What can't be
		// parsed can't sign for us either.
		if key, err := ssh.ParsePublicKey(k.Marshal()); err == nil {
			a.keys = append(a.keys, key)
		}
	}
	return a, nil
}

func (a *agentKeys) Close() error {
	if a.conn == nil {
		return nil
	}
	return a.conn.Close()
}

func (a *agentKeys) signer(key ssh.PublicKey) (*Signer, error) {
	if err := CheckKey(key); err != nil {
		return nil, err
	}
	return &Signer{AlgorithmSigner: agentSigner{a.client, key}, Source: sourceAgent, key: key, conn: a.conn}, nil
}

func (a *agentKeys) has(key ssh.PublicKey) bool {
	for _, k := range a.keys {
		if bytes.Equal(k.Marshal(), key.Marshal()) {
			return true
		}
	}
	return false
}

// agentSigner signs with one key of the agent.
type agentSigner struct {
	agent agent.ExtendedAgent
	key   ssh.PublicKey
}

func (s agentSigner) PublicKey() ssh.PublicKey { return s.key }

func (s agentSigner) Sign(_ io.Reader, data []byte) (*ssh.Signature, error) {
	return s.agent.Sign(s.key, data)
}

func (s agentSigner) SignWithAlgorithm(_ io.Reader, data []byte, algorithm string) (*ssh.Signature, error) {
	switch algorithm {
	case ssh.KeyAlgoRSASHA512:
		return s.agent.SignWithFlags(s.key, data, agent.SignatureFlagRsaSha512)
	case ssh.KeyAlgoRSASHA256:
		return s.agent.SignWithFlags(s.key, data, agent.SignatureFlagRsaSha256)
	}
	return s.agent.Sign(s.key, data)
}

// Reasons to look further; no caller of FindSigner sees them.
var (
	errUnwanted = errors.New("key is not of use")
	errNoFile   = errors.New("file is not there")
)

// fromFile makes a signer of a private key file, or of the public half of one,
// preferring the agent if it holds the key. want may be nil.
func fromFile(path string, a *agentKeys, passphrase func(string) ([]byte, error), want func(ssh.PublicKey) bool) (*Signer, error) {
	data, mode, err := readKeyFile(path)
	if err != nil {
		return nil, err
	}
	if key, _, _, _, err := ssh.ParseAuthorizedKey(data); err == nil { // a .pub file
		if a.has(key) {
			return a.signer(key)
		}
		if private, ok := strings.CutSuffix(path, ".pub"); ok {
			s, err := fromFile(private, a, passphrase, want)
			switch {
			case errors.Is(err, errNoFile):
				return nil, access.Errorf(access.CodeNotFound, "%s is a public key, and neither ssh-agent nor %s has the private half", path, private).
					WithHint("ssh-add the private key, or name its file")
			case err == nil && !bytes.Equal(s.key.Marshal(), key.Marshal()):
				return nil, access.Errorf(access.CodeMalformed, "%s and %s are not halves of one key", path, private)
			}
			return s, err
		}
		return nil, access.Errorf(access.CodeNotFound, "%s is a public key, and ssh-agent doesn't have the private half", path).
			WithHint("name the private key file, or add it with ssh-add")
	}

	if mode.Perm()&0o077 != 0 {
		return nil, access.Errorf(access.CodeForbidden, "private key %s can be used by others (mode %04o)", path, mode.Perm()).
			WithHint("chmod 600 %s", path)
	}
	private, err := ssh.ParsePrivateKey(data)
	var locked *ssh.PassphraseMissingError
	if errors.As(err, &locked) {
		public := locked.PublicKey // nil for the older PEM formats
		if public == nil {
			public = publicHalf(path)
		}
		if public != nil {
			if want != nil && !want(public) {
				return nil, errUnwanted
			}
			if a.has(public) {
				return a.signer(public)
			}
		}
		if passphrase == nil {
			return nil, access.Errorf(access.CodeNotFound, "%s is encrypted, and there is no terminal to ask for its passphrase", path).
				WithHint("ssh-add %s", path)
		}
		secret, askErr := passphrase(path)
		if askErr != nil {
			return nil, access.Errorf(access.CodeNotFound, "%s is encrypted, and its passphrase wasn't given: %v", path, askErr)
		}
		private, err = ssh.ParsePrivateKeyWithPassphrase(data, secret)
		clear(secret)
	}
	if err != nil {
		if key := publicHalf(path); key != nil && isFIDO(key) {
			if a.has(key) {
				return a.signer(key)
			}
			return nil, access.Errorf(access.CodeNotFound, "%s belongs to a security key, which only ssh-agent can use", path).WithHint("ssh-add %s", path)
		}
		return nil, access.Errorf(access.CodeMalformed, "private key %s can't be opened: %s", path, reason(err))
	}
	if err := CheckKey(private.PublicKey()); err != nil {
		return nil, err
	}
	if want != nil && !want(private.PublicKey()) {
		return nil, errUnwanted
	}
	signer, ok := private.(ssh.AlgorithmSigner)
	if !ok {
		return nil, access.Errorf(access.CodeMalformed, "private key %s can't choose its signature algorithm", path)
	}
	return &Signer{AlgorithmSigner: signer, Source: path, key: private.PublicKey()}, nil
}

// fromData makes a signer of a private key. What is wrong is told without a
// byte of it.
func fromData(data string) (*Signer, error) {
	const name = "the signing key in the environment"
	if len(data) > maxKeyFile {
		return nil, access.Errorf(access.CodeMalformed, "%s is longer than a key file (%d bytes)", name, maxKeyFile)
	}
	pem := []byte(strings.TrimSpace(data) + "\n")
	if !bytes.HasPrefix(pem, []byte("-----BEGIN")) {
		decoded, err := base64.StdEncoding.DecodeString(strings.TrimSpace(data))
		if err != nil {
			return nil, access.Errorf(access.CodeMalformed, "%s is neither a private key nor one in base64", name)
		}
		pem = decoded
	}
	private, err := ssh.ParsePrivateKey(pem)
	var locked *ssh.PassphraseMissingError
	if errors.As(err, &locked) {
		return nil, access.Errorf(access.CodeMalformed, "%s is encrypted, and there is nobody to ask for its passphrase", name).
			WithHint("make one without: ssh-keygen -t ed25519 -N ''")
	}
	if err != nil {
		return nil, access.Errorf(access.CodeMalformed, "%s can't be opened: it is damaged or of an unknown kind", name)
	}
	if err := CheckKey(private.PublicKey()); err != nil {
		return nil, err
	}
	signer, ok := private.(ssh.AlgorithmSigner)
	if !ok {
		return nil, access.Errorf(access.CodeMalformed, "%s can't choose its signature algorithm", name)
	}
	return &Signer{AlgorithmSigner: signer, Source: name, key: private.PublicKey()}, nil
}

// publicHalf is the key in the .pub file next to a private key, nil if there
// is none.
func publicHalf(path string) ssh.PublicKey {
	data, _, err := readKeyFile(path + ".pub")
	if err != nil {
		return nil
	}
	key, _, _, _, err := ssh.ParseAuthorizedKey(data)
	if err != nil {
		return nil
	}
	return key
}

// readKeyFile reads a small file, and its mode from the same open file.
func readKeyFile(path string) ([]byte, fs.FileMode, error) {
	info, err := os.Stat(path) // opening a pipe would wait for its writer
	if err == nil && !info.Mode().IsRegular() {
		return nil, 0, access.Errorf(access.CodeMalformed, "%s is not a file", path)
	}
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, 0, errNoFile
	}
	if err != nil {
		return nil, 0, unreadable(path, err)
	}
	defer func() { _ = f.Close() }() // only read
	if info, err = f.Stat(); err != nil {
		return nil, 0, unreadable(path, err)
	}
	data, err := io.ReadAll(io.LimitReader(f, maxKeyFile+1))
	if err != nil {
		return nil, 0, unreadable(path, err)
	}
	if len(data) > maxKeyFile {
		return nil, 0, access.Errorf(access.CodeMalformed, "%s is longer than a key file (%d bytes)", path, maxKeyFile)
	}
	return data, info.Mode(), nil
}

func unreadable(path string, err error) error {
	var p *fs.PathError
	if errors.As(err, &p) {
		err = p.Err
	}
	return access.Errorf(access.CodeNotFound, "key file %s can't be read: %v", path, err)
}
