package ca

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/big"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"hallpass/access"
	"hallpass/ca/krl"
)

const requestID = "0197a3c4-5d6e-7f80-9abc-def012345678"

// noon is what the CA's clock says in tests.
var noon = time.Date(2026, 3, 2, 12, 0, 0, 0, time.UTC)

func clock() time.Time { return noon }

// counter is a signer that counts how often its key is touched.
type counter struct {
	ssh.AlgorithmSigner
	uses atomic.Int64
}

func (c *counter) Sign(r io.Reader, data []byte) (*ssh.Signature, error) {
	c.uses.Add(1)
	return c.AlgorithmSigner.Sign(r, data)
}

func (c *counter) SignWithAlgorithm(r io.Reader, data []byte, alg string) (*ssh.Signature, error) {
	c.uses.Add(1)
	return c.AlgorithmSigner.SignWithAlgorithm(r, data, alg)
}

func signerOf(t testing.TB, key crypto.Signer) ssh.AlgorithmSigner {
	t.Helper()
	s, err := ssh.NewSignerFromSigner(key)
	if err != nil {
		t.Fatal(err)
	}
	return s.(ssh.AlgorithmSigner)
}

func newEd25519(t testing.TB) ssh.AlgorithmSigner {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return signerOf(t, key)
}

func newECDSA(t testing.TB, curve elliptic.Curve) ssh.AlgorithmSigner {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return signerOf(t, key)
}

// rsaKey makes one key of a size per test binary: they take long.
func rsaKey(t testing.TB, bits int) ssh.AlgorithmSigner {
	t.Helper()
	once, _ := rsaKeys.LoadOrStore(bits, sync.OnceValues(func() (*rsa.PrivateKey, error) {
		return rsa.GenerateKey(rand.Reader, bits)
	}))
	key, err := once.(func() (*rsa.PrivateKey, error))()
	if err != nil {
		t.Fatal(err)
	}
	return signerOf(t, key)
}

var rsaKeys sync.Map

func newCA(t testing.TB, s ssh.AlgorithmSigner) (*CA, *counter) {
	t.Helper()
	c := &counter{AlgorithmSigner: s}
	authority, err := New(c, clock)
	if err != nil {
		t.Fatal(err)
	}
	return authority, c
}

// good is a spec that nothing is wrong with.
func good(t testing.TB) Spec {
	return Spec{
		Request:    requestID,
		Requester:  "alice",
		Principals: []string{"web-1/deploy"},
		PublicKey:  newEd25519(t).PublicKey(),
		Serial:     1,
		NotBefore:  noon,
		NotAfter:   noon.Add(time.Hour),
		Options:    access.SSHOptions{Extensions: []string{"permit-pty"}},
	}
}

// fakeKey says what it likes about itself.
type fakeKey struct {
	typ  string
	wire []byte
}

func (k fakeKey) Type() string                        { return k.typ }
func (k fakeKey) Marshal() []byte                     { return k.wire }
func (k fakeKey) Verify([]byte, *ssh.Signature) error { return nil }

// dss is a DSA public key (RFC 4253, section 6.6).
func dss(t testing.TB) ssh.PublicKey {
	t.Helper()
	p := new(big.Int).SetBit(big.NewInt(1), 1023, 1)
	q := new(big.Int).SetBit(big.NewInt(1), 159, 1)
	return wireKey(t, ssh.Marshal(struct {
		Name       string
		P, Q, G, Y *big.Int
	}{"ssh-dss", p, q, big.NewInt(2), big.NewInt(4)}))
}

// fido is an Ed25519 key as a FIDO token has it (PROTOCOL.u2f).
func fido(t testing.TB) ssh.PublicKey {
	t.Helper()
	public := newEd25519(t).PublicKey().(ssh.CryptoPublicKey).CryptoPublicKey().(ed25519.PublicKey)
	return wireKey(t, ssh.Marshal(struct {
		Name        string
		Key         []byte
		Application string
	}{ssh.KeyAlgoSKED25519, public, "ssh:"}))
}

func wireKey(t testing.TB, wire []byte) ssh.PublicKey {
	t.Helper()
	key, err := ssh.ParsePublicKey(wire)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func principals(n int) []string {
	var out []string
	for i := range n {
		out = append(out, fmt.Sprintf("web-%d/deploy", i))
	}
	return out
}

func TestPrepare(t *testing.T) {
	authority, uses := newCA(t, newEd25519(t))
	certified := func() ssh.PublicKey {
		p, err := authority.Prepare(good(t))
		if err != nil {
			t.Fatal(err)
		}
		cert, err := authority.Issue(p)
		if err != nil {
			t.Fatal(err)
		}
		return cert
	}()
	uses.uses.Store(0)
	other, _ := newCA(t, newECDSA(t, elliptic.P384()))
	authority.Spare(other.PublicKey())

	ahead := access.ClockSkew
	for _, tt := range []struct {
		name string
		edit func(*Spec)
		code access.Code // "" if it passes
		want string      // in the error
	}{
		{"good", func(s *Spec) {}, "", ""},

		{"no request", func(s *Spec) { s.Request = "" }, access.CodeMalformed, "request id"},
		{"request of version 4", func(s *Spec) { s.Request = "0197a3c4-5d6e-4f80-9abc-def012345678" }, access.CodeMalformed, "UUIDv7"},
		{"request in upper case", func(s *Spec) { s.Request = strings.ToUpper(requestID) }, access.CodeMalformed, "UUIDv7"},
		{"no requester", func(s *Spec) { s.Requester = "" }, access.CodeMalformed, "requester is empty"},
		{"requester with colon", func(s *Spec) { s.Requester = "alice:bob" }, access.CodeMalformed, "requester"},
		{"requester with newline", func(s *Spec) { s.Requester = "alice\nbob" }, access.CodeMalformed, "requester"},
		{"requester with NUL", func(s *Spec) { s.Requester = "alice\x00" }, access.CodeMalformed, "requester"},

		{"serial 0", func(s *Spec) { s.Serial = 0 }, access.CodeMalformed, "serial is 0"},
		{"a series without a count", func(s *Spec) { s.Serial = krl.Serial(krl.Series("web-1"), 0) }, access.CodeMalformed, "begin at 1 in each series"},
		{"largest serial", func(s *Spec) { s.Serial = 1<<64 - 1 }, "", ""},
		{"serial of its series", func(s *Spec) { s.Serial = krl.Serial(krl.Series("web-1"), 1) }, "", ""},
		{"serial of another series", func(s *Spec) { s.Serial = krl.Serial(krl.Series("web-2"), 1) }, access.CodeMalformed, "is not of the series of web-1"},
		{"serial of one of two series", func(s *Spec) {
			s.Serial, s.Principals = krl.Serial(krl.Series("web-1"), 1), []string{"web-1/deploy", "web-2/deploy"}
		}, access.CodeMalformed, "is not of the series of web-2"},

		{"principals nil", func(s *Spec) { s.Principals = nil }, access.CodeMalformed, "no principals"},
		{"principals empty", func(s *Spec) { s.Principals = []string{} }, access.CodeMalformed, "no principals"},
		{"256 principals", func(s *Spec) { s.Principals = principals(256) }, "", ""},
		{"257 principals", func(s *Spec) { s.Principals = principals(257) }, access.CodeDenied, "at most 256"},
		{"principal empty", func(s *Spec) { s.Principals = []string{"web-1/deploy", ""} }, access.CodeMalformed, "principal"},
		{"principal is a login", func(s *Spec) { s.Principals = []string{"root"} }, access.CodeMalformed, "not of the form"},
		{"principal without login", func(s *Spec) { s.Principals = []string{"web-1/"} }, access.CodeMalformed, "login is empty"},
		{"principal without resource", func(s *Spec) { s.Principals = []string{"/root"} }, access.CodeMalformed, "resource name is empty"},
		{"principal with two slashes", func(s *Spec) { s.Principals = []string{"web-1/a/b"} }, access.CodeMalformed, "login"},
		{"principal with comma", func(s *Spec) { s.Principals = []string{"web-1/deploy,root"} }, access.CodeMalformed, "login"},
		{"principal with star", func(s *Spec) { s.Principals = []string{"web-*/deploy"} }, access.CodeMalformed, "resource name"},
		{"principal with question mark", func(s *Spec) { s.Principals = []string{"web-1/deplo?"} }, access.CodeMalformed, "login"},
		{"principal with space", func(s *Spec) { s.Principals = []string{"web-1/deploy "} }, access.CodeMalformed, "login"},
		{"principal with newline", func(s *Spec) { s.Principals = []string{"web-1/deploy\nroot"} }, access.CodeMalformed, "login"},
		{"principal with NUL", func(s *Spec) { s.Principals = []string{"web-1/root\x00"} }, access.CodeMalformed, "login"},
		{"principal twice", func(s *Spec) { s.Principals = []string{"a/b", "c/d", "a/b"} }, access.CodeMalformed, "twice"},
		{"login of 63 bytes", func(s *Spec) { s.Principals = []string{"a/" + strings.Repeat("x", 63)} }, "", ""},
		{"login of 64 bytes", func(s *Spec) { s.Principals = []string{"a/" + strings.Repeat("x", 64)} }, access.CodeMalformed, "longer"},

		{"no key", func(s *Spec) { s.PublicKey = nil }, access.CodeMalformed, "no public key"},
		{"key is a certificate", func(s *Spec) { s.PublicKey = certified }, access.CodeForbidden, "itself a certificate"},
		{"key is a certificate in disguise", func(s *Spec) { s.PublicKey = fakeKey{ssh.KeyAlgoED25519, certified.Marshal()} }, access.CodeForbidden, "itself a certificate"},
		{"key is the CA's", func(s *Spec) { s.PublicKey = authority.PublicKey() }, access.CodeForbidden, "CA's own"},
		{"key is the CA's in disguise", func(s *Spec) { s.PublicKey = fakeKey{"x", authority.PublicKey().Marshal()} }, access.CodeForbidden, "CA's own"},
		{"key is another CA's", func(s *Spec) { s.PublicKey = other.PublicKey() }, access.CodeForbidden, "another CA"},
		{"key is another CA's in disguise", func(s *Spec) { s.PublicKey = fakeKey{"x", other.PublicKey().Marshal()} }, access.CodeForbidden, "another CA"},
		{"key is garbage", func(s *Spec) { s.PublicKey = fakeKey{ssh.KeyAlgoED25519, []byte("x")} }, access.CodeMalformed, "can't be read"},
		{"DSA", func(s *Spec) { s.PublicKey = dss(t) }, access.CodeForbidden, "type ssh-dss"},
		{"FIDO", func(s *Spec) { s.PublicKey = fido(t) }, "", ""},
		{"key is an agent's", func(s *Spec) {
			k := s.PublicKey
			s.PublicKey = &agent.Key{Format: k.Type(), Blob: k.Marshal()}
		}, "", ""},
		{"ECDSA P-256", func(s *Spec) { s.PublicKey = newECDSA(t, elliptic.P256()).PublicKey() }, "", ""},
		{"ECDSA P-521", func(s *Spec) { s.PublicKey = newECDSA(t, elliptic.P521()).PublicKey() }, "", ""},
		{"RSA 2048", func(s *Spec) { s.PublicKey = rsaKey(t, 2048).PublicKey() }, access.CodeForbidden, "RSA of 2048 bits"},
		{"RSA 3071", func(s *Spec) { s.PublicKey = rsaKey(t, 3071).PublicKey() }, access.CodeForbidden, "RSA of 3071 bits"},
		{"RSA 3072", func(s *Spec) { s.PublicKey = rsaKey(t, 3072).PublicKey() }, "", ""},

		{"24 hours", func(s *Spec) { s.NotAfter = noon.Add(MaxLifetime) }, "", ""},
		{"24 hours and a second", func(s *Spec) { s.NotAfter = noon.Add(MaxLifetime + time.Second) }, access.CodeDenied, "at most 1d"},
		{"milliseconds for seconds", func(s *Spec) { s.NotAfter = time.Unix(noon.UnixMilli(), 0) }, access.CodeDenied, "at most 1d"},
		{"a second", func(s *Spec) { s.NotAfter = noon.Add(time.Second) }, "", ""},
		{"no time at all", func(s *Spec) { s.NotAfter = noon }, access.CodeMalformed, "before it begins"},
		{"ends before it begins", func(s *Spec) { s.NotAfter = noon.Add(-time.Second) }, access.CodeMalformed, "before it begins"},
		{"a fraction at the end", func(s *Spec) { s.NotAfter = s.NotAfter.Add(time.Nanosecond) }, access.CodeMalformed, "whole seconds"},
		{"a fraction at the beginning", func(s *Spec) { s.NotBefore = s.NotBefore.Add(time.Nanosecond) }, access.CodeMalformed, "whole seconds"},
		{"no times", func(s *Spec) { s.NotBefore, s.NotAfter = time.Time{}, time.Time{} }, access.CodeMalformed, "before it begins"},
		{"no beginning", func(s *Spec) { s.NotBefore = time.Time{} }, access.CodeDenied, "at most 1d"},
		{"no end", func(s *Spec) { s.NotAfter = time.Time{} }, access.CodeMalformed, "before it begins"},
		{"ended just now", func(s *Spec) { s.NotBefore, s.NotAfter = noon.Add(-time.Hour), noon }, access.CodeEnded, "have ended"},
		{"a second before its end", func(s *Spec) { s.NotBefore, s.NotAfter = noon.Add(-time.Hour), noon.Add(time.Second) }, "", ""},
		{"begins as far ahead as clocks differ", func(s *Spec) { s.NotBefore = noon.Add(ahead) }, "", ""},
		{"begins a second later", func(s *Spec) { s.NotBefore = noon.Add(ahead + time.Second) }, access.CodeUnavailable, "yet to come"},

		{"no extensions", func(s *Spec) { s.Options.Extensions = nil }, "", ""},
		{"every extension", func(s *Spec) { s.Options.Extensions = Extensions() }, "", ""},
		{"unknown extension", func(s *Spec) { s.Options.Extensions = []string{"permit-everything"} }, access.CodeDenied, "permit-everything"},
		{"no-touch-required", func(s *Spec) { s.Options.Extensions = []string{"no-touch-required"} }, access.CodeDenied, "no-touch-required"},
		{"extension in another case", func(s *Spec) { s.Options.Extensions = []string{"permit-PTY"} }, access.CodeDenied, "permit-PTY"},
		{"extension twice", func(s *Spec) { s.Options.Extensions = []string{"permit-pty", "permit-pty"} }, access.CodeMalformed, "twice"},

		{"command", func(s *Spec) { s.Command = "uptime -p" }, "", ""},
		{"command of 1000 bytes", func(s *Spec) { s.Command = strings.Repeat("x", access.MaxCommand) }, "", ""},
		{"command of 1001 bytes", func(s *Spec) { s.Command = strings.Repeat("x", access.MaxCommand+1) }, access.CodeMalformed, "longer"},
		{"command with newline", func(s *Spec) { s.Command = "true\nfalse" }, access.CodeMalformed, "U+000A"},
		{"command is blank", func(s *Spec) { s.Command = " " }, access.CodeMalformed, "blank"},
		{"forced command is blank", func(s *Spec) { s.Options.ForceCommand = "  " }, access.CodeMalformed, "blank"},
		{"command begins with a space", func(s *Spec) { s.Command = " true" }, "", ""},
		{"forced command with NUL", func(s *Spec) { s.Options.ForceCommand = "true\x00" }, access.CodeMalformed, "U+0000"},
		{"forced command as asked for", func(s *Spec) { s.Command, s.Options.ForceCommand = "true", "true" }, "", ""},
		{"forced command other than asked for", func(s *Spec) { s.Command, s.Options.ForceCommand = "true", "false" }, access.CodeDenied, "policy forces another"},

		{"source addresses", func(s *Spec) {
			s.Options.SourceAddress = []string{"10.0.0.0/8", "2001:db8::/32", "192.0.2.1", "0.0.0.0/0"}
		}, "", ""},
		{"source addresses empty", func(s *Spec) { s.Options.SourceAddress = []string{} }, access.CodeDenied, "empty list"},
		{"64 source addresses", func(s *Spec) { s.Options.SourceAddress = addresses(64) }, "", ""},
		{"65 source addresses", func(s *Spec) { s.Options.SourceAddress = addresses(65) }, access.CodeDenied, "at most 64"},
		{"source address with host bits", func(s *Spec) { s.Options.SourceAddress = []string{"10.0.0.7/8"} }, access.CodeMalformed, "10.0.0.7/8"},
		{"source address with comma", func(s *Spec) { s.Options.SourceAddress = []string{"10.0.0.0/8,0.0.0.0/0"} }, access.CodeMalformed, "source address"},
		{"source address negated", func(s *Spec) { s.Options.SourceAddress = []string{"!10.0.0.0/8"} }, access.CodeMalformed, "source address"},
		{"source address with zone", func(s *Spec) { s.Options.SourceAddress = []string{"fe80::1%eth0"} }, access.CodeMalformed, "source address"},
		{"source address in long form", func(s *Spec) { s.Options.SourceAddress = []string{"2001:0db8::/32"} }, access.CodeMalformed, "source address"},
		{"source address v4 in v6", func(s *Spec) { s.Options.SourceAddress = []string{"::ffff:10.0.0.1"} }, access.CodeMalformed, "source address"},
		{"source address is a name", func(s *Spec) { s.Options.SourceAddress = []string{"localhost"} }, access.CodeMalformed, "localhost"},
		{"source address is empty", func(s *Spec) { s.Options.SourceAddress = []string{""} }, access.CodeMalformed, "source address"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := good(t)
			tt.edit(&s)
			p, err := authority.Prepare(s)
			if got := access.CodeOf(err); got != tt.code {
				t.Fatalf("code %q, want %q; error: %v", got, tt.code, err)
			}
			if tt.code != "" && (p != nil || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("got %v and error %q, want one with %q", p, err, tt.want)
			}
			if tt.code != "" && strings.ContainsAny(err.Error(), "\n\x00") {
				t.Errorf("error %q isn't one clean line", err)
			}
			if n := uses.uses.Load(); n != 0 {
				t.Errorf("the key was used %d times", n)
			}
		})
	}
}

func addresses(n int) []string {
	var out []string
	for i := range n {
		out = append(out, fmt.Sprintf("10.0.%d.0/24", i))
	}
	return out
}

func TestBackDateWithinCap(t *testing.T) {
	if BackDate < 0 || BackDate > 5*time.Minute {
		t.Errorf("BackDate is %s", BackDate)
	}
	if MaxLifetime > 24*time.Hour {
		t.Errorf("MaxLifetime is %s", MaxLifetime)
	}
}

func TestIssue(t *testing.T) {
	authority, uses := newCA(t, newEd25519(t))
	s := good(t)
	s.Serial = 7
	s.Command = "uptime"
	s.Options.SourceAddress = []string{"10.0.0.0/8", "192.0.2.1"}
	s.Options.Extensions = []string{"permit-pty", "permit-user-rc"}
	p, err := authority.Prepare(s)
	if err != nil {
		t.Fatal(err)
	}
	s.Principals[0] = "web-2/root" // the caller's slice is the caller's
	cert, err := authority.Issue(p)
	if err != nil {
		t.Fatal(err)
	}
	if n := uses.uses.Load(); n != 1 {
		t.Errorf("the key was used %d times", n)
	}
	want := &ssh.Certificate{
		Key:             s.PublicKey,
		Serial:          7,
		CertType:        ssh.UserCert,
		KeyId:           "hallpass:" + requestID + ":alice",
		ValidPrincipals: []string{"web-1/deploy"},
		ValidAfter:      uint64(noon.Add(-5 * time.Minute).Unix()),
		ValidBefore:     uint64(noon.Add(time.Hour).Unix()),
		SignatureKey:    authority.PublicKey(),
		Permissions: ssh.Permissions{
			CriticalOptions: map[string]string{"force-command": "uptime", "source-address": "10.0.0.0/8,192.0.2.1"},
			Extensions:      map[string]string{"permit-pty": "", "permit-user-rc": ""},
		},
	}
	read, rest := parse(t, Marshal(cert))
	if rest != want.KeyId {
		t.Errorf("comment %q, want the key id", rest)
	}
	if len(read.Nonce) != 32 {
		t.Errorf("nonce has %d bytes", len(read.Nonce))
	}
	want.Nonce, want.Signature = read.Nonce, read.Signature
	if diff := cmp.Diff(want.Marshal(), read.Marshal()); diff != "" {
		t.Errorf("certificate (-want +got):\n%s", diff)
	}
	checker := ssh.CertChecker{
		IsUserAuthority:          func(k ssh.PublicKey) bool { return string(k.Marshal()) == string(authority.PublicKey().Marshal()) },
		SupportedCriticalOptions: []string{"force-command", "source-address"},
		Clock:                    clock,
	}
	if err := checker.CheckCert("web-1/deploy", read); err != nil {
		t.Error(err)
	}
}

// A repeat must be the same grant: one revocation by serial covers all copies.
func TestIssueRepeated(t *testing.T) {
	authority, _ := newCA(t, newECDSA(t, elliptic.P256()))
	p, err := authority.Prepare(good(t))
	if err != nil {
		t.Fatal(err)
	}
	a, err := authority.Issue(p)
	if err != nil {
		t.Fatal(err)
	}
	b, err := authority.Issue(p)
	if err != nil {
		t.Fatal(err)
	}
	if string(a.Nonce) == string(b.Nonce) {
		t.Error("two certificates have the same nonce")
	}
	x, y := *a, *b
	x.Nonce, x.Signature, y.Nonce, y.Signature = nil, nil, nil, nil
	if string(x.Marshal()) != string(y.Marshal()) {
		t.Errorf("certificates differ in more than nonce and signature:\n%v\n%v", a, b)
	}
	if !maps.Equal(a.Extensions, map[string]string{"permit-pty": ""}) {
		t.Errorf("extensions %v", a.Extensions)
	}
}

func TestIssueRefusesForeignPrepared(t *testing.T) {
	one, _ := newCA(t, newEd25519(t))
	two, uses := newCA(t, newEd25519(t))
	p, err := one.Prepare(good(t))
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range []*Prepared{p, nil, {}} {
		if _, err := two.Issue(p); err == nil || uses.uses.Load() != 0 {
			t.Errorf("Issue of another CA's: error %v, %d uses of the key", err, uses.uses.Load())
		}
	}
}

// broken signs with what it is told to.
type broken struct {
	ssh.AlgorithmSigner
	sign func(data []byte) (*ssh.Signature, error)
}

func (b broken) Sign(_ io.Reader, data []byte) (*ssh.Signature, error) { return b.sign(data) }
func (b broken) SignWithAlgorithm(_ io.Reader, data []byte, _ string) (*ssh.Signature, error) {
	return b.sign(data)
}

func TestIssueChecksTheSignature(t *testing.T) {
	key, other := newEd25519(t), newEd25519(t)
	for name, sign := range map[string]func([]byte) (*ssh.Signature, error){
		"fails":         func([]byte) (*ssh.Signature, error) { return nil, errors.New("the agent is locked") },
		"another key":   func(d []byte) (*ssh.Signature, error) { return other.Sign(rand.Reader, d) },
		"another text":  func(d []byte) (*ssh.Signature, error) { return key.Sign(rand.Reader, d[1:]) },
		"no signature":  func([]byte) (*ssh.Signature, error) { return &ssh.Signature{}, nil },
		"another algo.": func([]byte) (*ssh.Signature, error) { return &ssh.Signature{Format: "ssh-rsa"}, nil },
	} {
		t.Run(name, func(t *testing.T) {
			authority, err := New(broken{key, sign}, clock)
			if err != nil {
				t.Fatal(err)
			}
			p, err := authority.Prepare(good(t))
			if err != nil {
				t.Fatal(err)
			}
			if cert, err := authority.Issue(p); cert != nil || access.CodeOf(err) != access.CodeUnavailable {
				t.Errorf("got %v, error %v", cert, err)
			}
		})
	}
}

// onlySign hides a signer's other methods.
type onlySign struct{ ssh.Signer }

func TestNew(t *testing.T) {
	certified := func() ssh.Signer {
		authority, _ := newCA(t, newEd25519(t))
		subject := newEd25519(t)
		s := good(t)
		s.PublicKey = subject.PublicKey()
		p, err := authority.Prepare(s)
		if err != nil {
			t.Fatal(err)
		}
		cert, err := authority.Issue(p)
		if err != nil {
			t.Fatal(err)
		}
		signer, err := ssh.NewCertSigner(cert, subject)
		if err != nil {
			t.Fatal(err)
		}
		return signer
	}()
	for _, tt := range []struct {
		name   string
		signer ssh.Signer
		want   string // in the error
		format string // of its signatures
	}{
		{"Ed25519", newEd25519(t), "", "ssh-ed25519"},
		{"ECDSA P-256", newECDSA(t, elliptic.P256()), "", "ecdsa-sha2-nistp256"},
		{"ECDSA P-384", newECDSA(t, elliptic.P384()), "", "ecdsa-sha2-nistp384"},
		{"RSA 3071", rsaKey(t, 3071), "RSA of 3071 bits", ""},
		{"RSA 3072", rsaKey(t, 3072), "", "rsa-sha2-512"},
		{"RSA that may sign with SHA-1", onlySign{rsaKey(t, 3072)}, "can't be told", ""},
		{"certificate", certified, "ssh-ed25519-cert-v01@openssh.com", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			authority, err := New(tt.signer, clock)
			if tt.want != "" {
				if err == nil || !strings.Contains(err.Error(), tt.want) {
					t.Fatalf("error %v, want one with %q", err, tt.want)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			p, err := authority.Prepare(good(t))
			if err != nil {
				t.Fatal(err)
			}
			cert, err := authority.Issue(p)
			if err != nil {
				t.Fatal(err)
			}
			if cert.Signature.Format != tt.format {
				t.Errorf("signature is %s, want %s", cert.Signature.Format, tt.format)
			}
			if got := authority.Fingerprint(); got != ssh.FingerprintSHA256(tt.signer.PublicKey()) {
				t.Errorf("fingerprint %s", got)
			}
		})
	}
}

// parse reads what Marshal wrote.
func parse(t testing.TB, line string) (cert *ssh.Certificate, comment string) {
	t.Helper()
	key, comment, options, rest, err := ssh.ParseAuthorizedKey([]byte(line))
	if err != nil || len(options) != 0 || len(rest) != 0 {
		t.Fatalf("read certificate %q: options %q, rest %q, error %v", line, options, rest, err)
	}
	return key.(*ssh.Certificate), comment
}

// A key that could certify but whose lists nobody would take is none for a CA.
func TestNewRefusesAnRSAKeyThatIsTooLong(t *testing.T) {
	n := new(big.Int).Lsh(big.NewInt(1), 9000)
	key, err := ssh.NewPublicKey(&rsa.PublicKey{N: n.Add(n, big.NewInt(1)), E: 65537})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := New(named{key}, nil); err == nil || !strings.Contains(err.Error(), "8192") {
		t.Error(err)
	}
}

// named is a signer that only says its key.
type named struct{ key ssh.PublicKey }

func (n named) PublicKey() ssh.PublicKey { return n.key }

func (n named) Sign(io.Reader, []byte) (*ssh.Signature, error) { return nil, errors.New("no") }
