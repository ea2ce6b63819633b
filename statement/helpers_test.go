package statement

import (
	"bytes"
	"crypto"
	//lint:ignore SA1019 to show that it is refused
	"crypto/dsa"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"io"
	"math/big"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hiddeco/sshsig"
	"golang.org/x/crypto/ssh"

	"hallpass/access"
)

var signedAt = time.Date(2026, 5, 4, 3, 2, 1, 0, time.UTC)

const (
	requestID  = "0190a1b2-c3d4-7e5f-8a6b-7c8d9e0f1a2b"
	decisionID = "0190a1b2-c3d5-7000-b000-000000000000"
)

func request(t testing.TB) access.Request {
	t.Helper()
	return access.Request{
		Header:    access.Header{Type: access.TypeRequest, ID: requestID, Signer: "alice", Time: signedAt},
		Resource:  "ssh/web-1",
		Login:     "deploy",
		Duration:  1800,
		Reason:    "restart <nginx> & look",
		PublicKey: MarshalKey(newSigner(t, "ed25519").PublicKey()),
	}
}

func decision() access.Decision {
	return access.Decision{
		Header:      access.Header{Type: access.TypeDecision, ID: decisionID, Signer: "bob", Time: signedAt},
		Request:     requestID,
		RequestHash: strings.Repeat("0123456789abcdef", 4),
		Verdict:     access.Approve,
	}
}

func stop(typ access.Type) access.Stop {
	return access.Stop{
		Header:      access.Header{Type: typ, ID: decisionID, Signer: "alice", Time: signedAt},
		Request:     requestID,
		RequestHash: strings.Repeat("0123456789abcdef", 4),
		Reason:      "done",
	}
}

// rsaKeys are made once each: they are slow.
var rsaKeys = map[string]func() *rsa.PrivateKey{
	"rsa-2048": sync.OnceValue(func() *rsa.PrivateKey { return newRSA(2048) }),
	"rsa-3071": sync.OnceValue(func() *rsa.PrivateKey { return newRSA(3071) }),
	"rsa-3072": sync.OnceValue(func() *rsa.PrivateKey { return newRSA(3072) }),
}

func newRSA(bits int) *rsa.PrivateKey {
	k, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		panic(err)
	}
	return k
}

// newKey makes a private key that ssh-keygen would make for the type.
func newKey(t testing.TB, typ string) crypto.Signer {
	t.Helper()
	var k crypto.Signer
	var err error
	switch typ {
	case "ed25519":
		_, k, err = ed25519.GenerateKey(rand.Reader)
	case "ecdsa-256":
		k, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case "ecdsa-384":
		k, err = ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case "ecdsa-521":
		k, err = ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	default:
		k = rsaKeys[typ]()
	}
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func newSigner(t testing.TB, typ string) ssh.Signer {
	t.Helper()
	s, err := ssh.NewSignerFromSigner(newKey(t, typ))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func dsaSigner(t testing.TB) ssh.Signer {
	t.Helper()
	k := &dsa.PrivateKey{}
	if err := dsa.GenerateParameters(&k.Parameters, rand.Reader, dsa.L1024N160); err != nil {
		t.Fatal(err)
	}
	if err := dsa.GenerateKey(k, rand.Reader); err != nil {
		t.Fatal(err)
	}
	s, err := ssh.NewSignerFromKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func certSigner(t testing.TB) ssh.Signer {
	t.Helper()
	s := newSigner(t, "ed25519")
	cert := &ssh.Certificate{Key: s.PublicKey(), CertType: ssh.UserCert, ValidPrincipals: []string{"x"}, ValidBefore: ssh.CertTimeInfinity}
	if err := cert.SignCert(rand.Reader, newSigner(t, "ed25519")); err != nil {
		t.Fatal(err)
	}
	c, err := ssh.NewCertSigner(cert, s)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

const (
	touched  = 0x01
	unlocked = 0x04
)

// securityKey is a FIDO authenticator in software, after PROTOCOL.u2f. It
// reports the flags that it is told to.
type securityKey struct {
	private crypto.Signer
	public  ssh.PublicKey
	flags   byte
	rest    []byte // replaces flags and counter if set
}

const application = "ssh:"

func newSecurityKey(t testing.TB, typ string, flags byte) *securityKey {
	t.Helper()
	k := &securityKey{private: newKey(t, typ), flags: flags}
	var wire []byte
	switch p := k.private.Public().(type) {
	case ed25519.PublicKey:
		wire = ssh.Marshal(struct {
			Name        string
			Key         []byte
			Application string
		}{ssh.KeyAlgoSKED25519, p, application})
	case *ecdsa.PublicKey:
		point, err := p.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		wire = ssh.Marshal(struct {
			Name, Curve string
			Point       []byte
			Application string
		}{ssh.KeyAlgoSKECDSA256, "nistp256", point, application})
	}
	public, err := ssh.ParsePublicKey(wire)
	if err != nil {
		t.Fatal(err)
	}
	k.public = public
	return k
}

func (k *securityKey) PublicKey() ssh.PublicKey { return k.public }

func (k *securityKey) Sign(r io.Reader, data []byte) (*ssh.Signature, error) {
	rest := binary.BigEndian.AppendUint32([]byte{k.flags}, 7)
	app, msg := sha256.Sum256([]byte(application)), sha256.Sum256(data)
	signed := bytes.Join([][]byte{app[:], rest, msg[:]}, nil)
	if k.rest != nil {
		rest = k.rest
	}
	switch p := k.private.(type) {
	case ed25519.PrivateKey:
		return &ssh.Signature{Format: k.public.Type(), Blob: ed25519.Sign(p, signed), Rest: rest}, nil
	case *ecdsa.PrivateKey:
		digest := sha256.Sum256(signed)
		x, y, err := ecdsa.Sign(r, p, digest[:])
		if err != nil {
			return nil, err
		}
		return &ssh.Signature{Format: k.public.Type(), Blob: ssh.Marshal(struct{ R, S *big.Int }{x, y}), Rest: rest}, nil
	}
	return nil, errors.New("unsupported key")
}

// keyring is a directory in memory.
type keyring struct {
	owners map[string]access.User // by written key
	pins   map[string]bool
}

func (k keyring) Owner(key ssh.PublicKey) (access.User, bool) {
	u, ok := k.owners[MarshalKey(key)]
	return u, ok
}

func (k keyring) PinRequired(user string) bool { return k.pins[user] }

func owned(name string, key ssh.PublicKey) keyring {
	return keyring{
		owners: map[string]access.User{MarshalKey(key): {Name: name, Groups: []string{"dev"}}},
		pins:   map[string]bool{},
	}
}

func mustSign(t testing.TB, s ssh.Signer, payload any) access.Statement {
	t.Helper()
	st, err := Sign(s, payload)
	if err != nil {
		t.Fatal(err)
	}
	return st
}

// signRaw signs what Sign would refuse.
func signRaw(t testing.TB, s ssh.Signer, payload, namespace string) access.Statement {
	t.Helper()
	sig, err := sshsig.Sign(strings.NewReader(payload), s, sshsig.HashSHA512, namespace)
	if err != nil {
		t.Fatal(err)
	}
	return access.Statement{Payload: payload, Signature: string(sshsig.Armor(sig))}
}

// wantError checks code and message.
func wantError(t *testing.T, err error, code access.Code, message string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error; want %q", message)
	}
	if err.Error() != message {
		t.Errorf("got  %s\nwant %s", err, message)
	}
	if got := access.CodeOf(err); got != code {
		t.Errorf("code %q, want %q", got, code)
	}
}
