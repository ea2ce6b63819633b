package statement

import (
	"crypto/rsa"
	"encoding/base64"
	"strings"

	"golang.org/x/crypto/ssh"

	"hallpass/access"
)

// Bounds on RSA keys, in bits. Under 3072 they are too weak; far over it, a
// stranger's signature takes long to check.
const (
	MinRSA = 3072
	MaxRSA = 8192
)

// maxKeyLine bounds a written key, in bytes. RSA with 8192 bits has 1400.
const maxKeyLine = 4 << 10

// ParseKey reads a public key written as "type base64", exactly as MarshalKey
// writes it, and refuses what CheckKey refuses.
func ParseKey(s string) (ssh.PublicKey, error) {
	bad := access.Errorf(access.CodeMalformed, "public key %q is not of the form \"type base64\"", clip(s)).
		WithHint("take the first two words of the .pub file")
	if len(s) > maxKeyLine {
		return nil, access.Errorf(access.CodeMalformed, "public key is longer than %d bytes", maxKeyLine)
	}
	typ, data, ok := strings.Cut(s, " ")
	if !ok {
		return nil, bad
	}
	blob, err := base64.StdEncoding.Strict().DecodeString(data)
	if err != nil {
		return nil, bad
	}
	key, err := ssh.ParsePublicKey(blob)
	if err != nil {
		return nil, access.Errorf(access.CodeMalformed, "public key of type %q can't be read: %s", clip(typ), reason(err))
	}
	if err := CheckKey(key); err != nil {
		return nil, err
	}
	// Another spelling of the same key, such as a type that isn't the one
	// inside, must not pass as another key.
	if MarshalKey(key) != s {
		return nil, bad
	}
	return key, nil
}

// MarshalKey writes a key as "type base64".
func MarshalKey(k ssh.PublicKey) string {
	return k.Type() + " " + base64.StdEncoding.EncodeToString(k.Marshal())
}

// CheckKey accepts the keys that may sign statements and be certified:
// Ed25519, ECDSA on NIST curves, RSA of 3072 to 8192 bits, and the FIDO
// (sk-) forms of the first two. Certificates and DSA are refused.
func CheckKey(k ssh.PublicKey) error {
	switch k.Type() {
	case ssh.KeyAlgoED25519, ssh.KeyAlgoECDSA256, ssh.KeyAlgoECDSA384, ssh.KeyAlgoECDSA521,
		ssh.KeyAlgoSKED25519, ssh.KeyAlgoSKECDSA256:
		return nil
	case ssh.KeyAlgoRSA:
		return checkRSA(k)
	case "ssh-dss":
		return access.Errorf(access.CodeMalformed, "DSA keys are refused").WithHint("make a new key: ssh-keygen -t ed25519")
	}
	if strings.Contains(k.Type(), "-cert-v0") {
		return access.Errorf(access.CodeMalformed, "public key is a certificate").WithHint("use the plain key that it certifies")
	}
	return access.Errorf(access.CodeMalformed, "public key type %q is not supported", clip(k.Type())).
		WithHint("make a new key: ssh-keygen -t ed25519")
}

func checkRSA(k ssh.PublicKey) error {
	if _, ok := k.(ssh.CryptoPublicKey); !ok { // as ssh-agent's client returns it
		parsed, err := ssh.ParsePublicKey(k.Marshal())
		if err != nil {
			return access.Errorf(access.CodeMalformed, "RSA key can't be read: %s", reason(err))
		}
		k = parsed
	}
	c, _ := k.(ssh.CryptoPublicKey)
	if c == nil {
		return access.Errorf(access.CodeMalformed, "RSA key can't be read")
	}
	r, ok := c.CryptoPublicKey().(*rsa.PublicKey)
	if !ok {
		return access.Errorf(access.CodeMalformed, "RSA key can't be read")
	}
	if bits := r.N.BitLen(); bits < MinRSA || bits > MaxRSA {
		return access.Errorf(access.CodeMalformed, "RSA key has %d bits, not %d to %d", bits, MinRSA, MaxRSA).
			WithHint("make a new key: ssh-keygen -t ed25519")
	}
	return nil
}

// isFIDO says whether a security key holds the private half.
func isFIDO(k ssh.PublicKey) bool {
	return k.Type() == ssh.KeyAlgoSKED25519 || k.Type() == ssh.KeyAlgoSKECDSA256
}
