package ca

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
)

// transitTimeout bounds one conversation with Vault.
const transitTimeout = 15 * time.Second

// Vault reads and writes paths of Vault's API, logged in as somebody who may.
// Where there is nothing, the data is nil.
type Vault interface {
	Read(ctx context.Context, path string) (data map[string]any, err error)
	Write(ctx context.Context, path string, body map[string]any) (data map[string]any, err error)
}

// TransitKey is a key in Vault's transit engine: "vault:MOUNT/NAME@VERSION".
type TransitKey struct {
	Mount   string // such as "transit"
	Name    string
	Version int // from 1
}

// transitForm has no "..", nothing that has to be escaped in a path, and no
// version 0, which would be the latest of the moment.
var transitForm = regexp.MustCompile(`^vault:([A-Za-z0-9_-]+(?:/[A-Za-z0-9_-]+)*)/([A-Za-z0-9_][A-Za-z0-9_.-]*)(?:@([1-9][0-9]{0,5}))?$`)

// ParseTransitKey reads a key source. Without a version it is 1: a key that is
// rotated in Vault is another CA, which hosts have to be told of first.
func ParseTransitKey(source string) (TransitKey, error) {
	m := transitForm.FindStringSubmatch(source)
	if m == nil {
		return TransitKey{}, fmt.Errorf("CA key source %.80q is not vault:MOUNT/KEY or vault:MOUNT/KEY@VERSION", source)
	}
	k := TransitKey{Mount: m[1], Name: m[2], Version: 1}
	if m[3] != "" {
		k.Version, _ = strconv.Atoi(m[3]) // six digits
	}
	return k, nil
}

// String is the key as a source, with its version.
func (k TransitKey) String() string { return fmt.Sprintf("vault:%s/%s@%d", k.Mount, k.Name, k.Version) }

// TransitTypes are the types of key that can be a CA, by Vault's names.
func TransitTypes() []string { return []string{"ed25519", "ecdsa-p256", "ecdsa-p384", "rsa-4096"} }

// openTransit finds a key in Vault. The key can't leave Vault: one that may be
// exported is refused.
func openTransit(v Vault, source string) (ssh.Signer, error) {
	k, err := ParseTransitKey(source)
	if err != nil {
		return nil, err
	}
	if v == nil {
		return nil, fmt.Errorf("CA key %s is in Vault, and no login to Vault is configured (issuers.vault)", k)
	}
	ctx, cancel := context.WithTimeout(context.Background(), transitTimeout)
	defer cancel()
	data, err := v.Read(ctx, k.Mount+"/keys/"+k.Name)
	if err != nil {
		return nil, fmt.Errorf("CA key %s: %w", k, err)
	}
	if data == nil {
		return nil, fmt.Errorf("CA key %s: there is no such key in Vault; hallpass ca init %[1]s says how to make one", k)
	}
	public, err := k.public(data)
	if err != nil {
		return nil, fmt.Errorf("CA key %s: %w", k, err)
	}
	signer, err := ssh.NewSignerFromSigner(&transit{vault: v, key: k, public: public})
	if err != nil {
		return nil, fmt.Errorf("CA key %s: %w", k, err)
	}
	return signer, nil
}

// public is the public half of the key's version, as Vault describes the key,
// if it is one to certify with.
func (k TransitKey) public(data map[string]any) (crypto.PublicKey, error) {
	for _, risk := range []string{"exportable", "allow_plaintext_backup"} {
		if set, known := data[risk].(bool); set || !known {
			return nil, fmt.Errorf("it can be taken out of Vault (%s): make one that can't", risk)
		}
	}
	typ, _ := data["type"].(string)
	wrongType := fmt.Errorf("it has the type %.40q; it has to be one of %s", typ, strings.Join(TransitTypes(), ", "))
	versions, _ := data["keys"].(map[string]any)
	version, there := versions[strconv.Itoa(k.Version)]
	if !there {
		return nil, fmt.Errorf("it has no version %d", k.Version)
	}
	described, _ := version.(map[string]any)
	text, _ := described["public_key"].(string)
	switch typ {
	case "ed25519":
		raw, err := base64.StdEncoding.DecodeString(text)
		if err != nil || len(raw) != ed25519.PublicKeySize {
			return nil, errors.New("vault gives no Ed25519 public key for it")
		}
		return ed25519.PublicKey(raw), nil
	case "ecdsa-p256", "ecdsa-p384", "rsa-4096":
	default:
		return nil, wrongType
	}
	block, _ := pem.Decode([]byte(text))
	if block == nil {
		return nil, errors.New("vault gives no public key for it")
	}
	public, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("the public key that vault gives for it: %w", err)
	}
	switch p := public.(type) {
	case *ecdsa.PublicKey:
		if p.Curve == elliptic.P256() || p.Curve == elliptic.P384() {
			return p, nil
		}
	case *rsa.PublicKey:
		return p, nil // New looks at its size
	}
	return nil, wrongType
}

// transit is a key in Vault, as a crypto.Signer. What it signs is checked by
// whoever asks: Vault is another machine.
type transit struct {
	vault  Vault
	key    TransitKey
	public crypto.PublicKey
}

func (t *transit) Public() crypto.PublicKey { return t.public }

// Sign has Vault sign: a message with Ed25519, and a hash of one with the
// others.
func (t *transit) Sign(_ io.Reader, digest []byte, o crypto.SignerOpts) ([]byte, error) {
	body := map[string]any{
		"input":       base64.StdEncoding.EncodeToString(digest),
		"key_version": t.key.Version,
	}
	if hash := o.HashFunc(); hash != 0 {
		name, ok := map[crypto.Hash]string{crypto.SHA256: "sha2-256", crypto.SHA384: "sha2-384", crypto.SHA512: "sha2-512"}[hash]
		if !ok {
			return nil, fmt.Errorf("vault is not asked for signatures over %s", hash)
		}
		body["prehashed"], body["hash_algorithm"] = true, name
		if _, ok := t.public.(*rsa.PublicKey); ok {
			body["signature_algorithm"] = "pkcs1v15"
		} else {
			body["marshaling_algorithm"] = "asn1"
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), transitTimeout)
	defer cancel()
	data, err := t.vault.Write(ctx, t.key.Mount+"/sign/"+t.key.Name, body)
	if err != nil {
		return nil, fmt.Errorf("sign with %s: %w", t.key, err)
	}
	text, _ := data["signature"].(string)
	signature, ok := strings.CutPrefix(text, fmt.Sprintf("vault:v%d:", t.key.Version))
	if !ok {
		return nil, fmt.Errorf("sign with %s: vault gives no signature of that version", t.key)
	}
	raw, err := base64.StdEncoding.DecodeString(signature)
	if err != nil {
		return nil, fmt.Errorf("sign with %s: vault gives a signature that can't be read", t.key)
	}
	return raw, nil
}

// TransitSetup is what an operator of Vault types to make a key, and a policy
// that can use it and do nothing else.
func TransitSetup(k TransitKey, typ string) string {
	return fmt.Sprintf(`set -eu
vault secrets list | grep -q '^%[1]s/' || vault secrets enable -path='%[1]s' transit
vault write -f '%[1]s/keys/%[2]s' type='%[3]s'
vault policy write 'hallpass-ssh-ca' - <<'EOF'
path "%[1]s/keys/%[2]s" {
  capabilities = ["read"]
}
path "%[1]s/sign/%[2]s" {
  capabilities = ["update"]
}
EOF
`, k.Mount, k.Name, typ)
}
