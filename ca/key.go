package ca

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"hallpass/access"
	"hallpass/internal/newfile"
	"hallpass/internal/wording"
)

// agentTimeout bounds one conversation with ssh-agent.
const agentTimeout = 10 * time.Second

// maxRefusal is how much is heard of what an agent says of itself, in bytes.
const maxRefusal = 500

// maxQuoted is how much is said of what is wrong with a key file, in bytes.
const maxQuoted = 250

// maxKeyFile is more than any OpenSSH key file needs.
const maxKeyFile = 64 << 10

// OpenOptions says where Open finds what a source leaves out.
type OpenOptions struct {
	// Passphrase is asked for the passphrase of an encrypted key file.
	// Without it, encrypted files are refused.
	Passphrase func(path string) ([]byte, error)

	// AgentSocket is the path of ssh-agent's socket, usually the value of
	// SSH_AUTH_SOCK.
	AgentSocket string

	// Vault is where keys of Vault's transit engine are. Without it they are
	// refused.
	Vault Vault
}

// Open finds a CA key:
//
//   - "file:PATH" is a private key file in OpenSSH's format, plain or
//     encrypted, that only its owner can read.
//   - "agent:SHA256:…" is a key that ssh-agent holds, or another program that
//     speaks its protocol, such as hallpass-kms for keys in a cloud's KMS, by
//     its fingerprint. The agent is asked anew for every signature, so it may be
//     restarted. One that can't be reached, or says why it can't use the key, is
//     access.CodeUnavailable: later it may.
//   - "vault:MOUNT/KEY@VERSION" is a key in Vault's transit engine, which is
//     asked for every signature. Without a version it is version 1.
func Open(source string, o OpenOptions) (ssh.Signer, error) {
	scheme, rest, _ := strings.Cut(source, ":")
	switch {
	case scheme == "file" && rest != "":
		return openFile(rest, o.Passphrase)
	case scheme == "agent" && strings.HasPrefix(rest, "SHA256:"):
		return openAgent(o.AgentSocket, rest)
	case scheme == "vault":
		return openTransit(o.Vault, source)
	}
	return nil, fmt.Errorf("CA key source %.80q is not file:PATH, agent:SHA256:FINGERPRINT or vault:MOUNT/KEY", source)
}

func openFile(path string, passphrase func(string) ([]byte, error)) (ssh.Signer, error) {
	data, err := readPrivate(path)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(data)
	if block == nil || block.Type != "OPENSSH PRIVATE KEY" {
		return nil, fmt.Errorf("CA key file %s is not a private key in OpenSSH's format", path)
	}
	key, err := ssh.ParseRawPrivateKey(data)
	var locked *ssh.PassphraseMissingError
	if errors.As(err, &locked) {
		if passphrase == nil {
			return nil, fmt.Errorf("CA key file %s is encrypted and no passphrase was given", path)
		}
		var secret []byte
		if secret, err = passphrase(path); err != nil {
			return nil, fmt.Errorf("passphrase of CA key file %s: %w", path, err)
		}
		key, err = ssh.ParseRawPrivateKeyWithPassphrase(data, secret)
		clear(secret)
		if errors.Is(err, x509.IncorrectPasswordError) {
			return nil, fmt.Errorf("CA key file %s: the passphrase is wrong", path)
		}
	}
	var signer ssh.Signer
	if err == nil {
		signer, err = ssh.NewSignerFromKey(key)
	}
	if err != nil { // which may quote what is in the file
		return nil, fmt.Errorf("CA key file %s: %s", path, wording.Clip(wording.Line(err.Error()), maxQuoted))
	}
	// Its two halves needn't belong together, in a file that is damaged.
	probe := []byte("hallpass")
	sig, err := signer.Sign(rand.Reader, probe)
	if err == nil {
		err = signer.PublicKey().Verify(probe, sig)
	}
	if err != nil {
		return nil, fmt.Errorf("CA key file %s is damaged, what it signs isn't good: %w", path, err)
	}
	return signer, nil
}

// readPrivate reads a file that must be nobody else's to read. It looks at the
// file it has opened, so that the answer is about what it reads.
func readPrivate(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("CA key file: %w", err)
	}
	defer f.Close() //nolint:errcheck // read only
	fi, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("CA key file: %w", err)
	}
	if !fi.Mode().IsRegular() {
		return nil, fmt.Errorf("CA key file %s is not a regular file", path)
	}
	if mode := fi.Mode().Perm(); mode&0o077 != 0 {
		return nil, fmt.Errorf("CA key file %s has mode %04o, so others can read or change it; run: chmod 600 %s", path, mode, path)
	}
	data, err := io.ReadAll(io.LimitReader(f, maxKeyFile+1))
	if err != nil {
		return nil, fmt.Errorf("CA key file: %w", err)
	}
	if len(data) > maxKeyFile {
		return nil, fmt.Errorf("CA key file %s is larger than %d bytes", path, maxKeyFile)
	}
	return data, nil
}

// agentSigner signs with a key in ssh-agent, over a connection of its own each
// time.
type agentSigner struct {
	socket string
	key    ssh.PublicKey
}

func openAgent(socket, fingerprint string) (ssh.Signer, error) {
	if socket == "" {
		return nil, errors.New("CA key is in ssh-agent and no agent socket is known; set SSH_AUTH_SOCK")
	}
	s := &agentSigner{socket: socket}
	err := s.talk(func(a agent.ExtendedAgent) error {
		keys, err := a.List()
		if err != nil {
			return access.Errorf(access.CodeUnavailable, "%v", err)
		}
		for _, k := range keys {
			if ssh.FingerprintSHA256(k) == fingerprint {
				s.key, err = ssh.ParsePublicKey(k.Marshal())
				return err
			}
		}
		if why := refusal(a); why != "" {
			return access.Errorf(access.CodeUnavailable, "it doesn't hold the CA key %.80s: %s", fingerprint, why)
		}
		return fmt.Errorf("it doesn't hold the CA key %.80s; add it with ssh-add", fingerprint)
	})
	if err != nil {
		return nil, err
	}
	return s, nil
}

func (s *agentSigner) talk(do func(agent.ExtendedAgent) error) (err error) {
	conn, err := net.DialTimeout("unix", s.socket, agentTimeout)
	if err != nil {
		return access.Errorf(access.CodeUnavailable, "ssh-agent at %s: %v", s.socket, err)
	}
	defer conn.Close() //nolint:errcheck // nothing is left to lose
	if err := conn.SetDeadline(time.Now().Add(agentTimeout)); err != nil {
		return fmt.Errorf("ssh-agent at %s: %w", s.socket, err)
	}
	if err := do(agent.NewClient(conn)); err != nil {
		return fmt.Errorf("ssh-agent at %s: %w", s.socket, err)
	}
	return nil
}

func (s *agentSigner) PublicKey() ssh.PublicKey { return s.key }

func (s *agentSigner) Sign(rand io.Reader, data []byte) (*ssh.Signature, error) {
	return s.SignWithAlgorithm(rand, data, s.key.Type())
}

// SignWithAlgorithm implements ssh.AlgorithmSigner, which is what lets New
// keep RSA keys away from SHA-1.
func (s *agentSigner) SignWithAlgorithm(_ io.Reader, data []byte, algorithm string) (sig *ssh.Signature, err error) {
	var flags agent.SignatureFlags
	switch algorithm {
	case ssh.KeyAlgoRSASHA256:
		flags = agent.SignatureFlagRsaSha256
	case ssh.KeyAlgoRSASHA512:
		flags = agent.SignatureFlagRsaSha512
	case ssh.KeyAlgoRSA:
		return nil, errors.New("ssh-agent: SHA-1 signatures are not made")
	}
	err = s.talk(func(a agent.ExtendedAgent) error {
		if sig, err = a.SignWithFlags(s.key, data, flags); err != nil {
			if why := refusal(a); why != "" {
				err = errors.New(why)
			}
		}
		return err
	})
	return sig, err
}

// refusal asks an agent why it has just refused something. hallpass-kms knows;
// others don't, and the answer is "".
func refusal(a agent.ExtendedAgent) string {
	answer, err := a.Extension("refusal@hallpass", nil)
	var said struct {
		Text string `sshtype:"6"`
	}
	if err != nil || ssh.Unmarshal(answer, &said) != nil {
		return ""
	}
	return wording.Line(wording.Clip(said.Text, maxRefusal))
}

// Create makes a key of type "ed25519" or "ecdsa-p256" and writes it to path,
// mode 0600, in OpenSSH's format, encrypted if there is a passphrase, and its
// public half to path.pub. Existing files are never overwritten. A crash
// leaves either no file at path or a whole one; path.pub may be missing then,
// and ssh-keygen -y makes it again.
func Create(path, typ string, passphrase []byte, comment string) (ssh.PublicKey, error) {
	if err := access.CheckText("comment of the CA key", comment, access.MaxReason); err != nil {
		return nil, err
	}
	var private crypto.Signer
	var err error
	switch typ {
	case "ed25519":
		_, private, err = ed25519.GenerateKey(rand.Reader)
	case "ecdsa-p256":
		private, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	default:
		return nil, fmt.Errorf("CA key type %.80q is not ed25519 or ecdsa-p256", typ)
	}
	if err != nil {
		return nil, fmt.Errorf("make CA key: %w", err)
	}
	public, err := ssh.NewPublicKey(private.Public())
	if err != nil {
		return nil, fmt.Errorf("make CA key: %w", err)
	}
	var block *pem.Block
	if len(passphrase) > 0 {
		block, err = ssh.MarshalPrivateKeyWithPassphrase(private, comment, passphrase)
	} else {
		block, err = ssh.MarshalPrivateKey(private, comment)
	}
	if err != nil {
		return nil, fmt.Errorf("make CA key: %w", err)
	}
	line := bytes.TrimSuffix(ssh.MarshalAuthorizedKey(public), []byte("\n"))
	if comment != "" {
		line = append(append(line, ' '), comment...)
	}
	// An old path.pub without path would end up naming another key.
	if _, err := os.Lstat(path + ".pub"); err == nil {
		return nil, fmt.Errorf("CA key: %s.pub: %w", path, os.ErrExist)
	}
	if err := newfile.Write(path, pem.EncodeToMemory(block), 0o600); err != nil {
		return nil, fmt.Errorf("CA key: %w", err)
	}
	if err := newfile.Write(path+".pub", append(line, '\n'), 0o644); err != nil {
		return nil, fmt.Errorf("CA key: %w", err)
	}
	return public, nil
}
