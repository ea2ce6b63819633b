package statement

import (
	"bytes"
	"encoding/base64"
	"errors"
	"io"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/hiddeco/sshsig"
	"golang.org/x/crypto/ssh"

	"hallpass/access"
	"hallpass/testsuite/process"
)

func TestSignAndOpen(t *testing.T) {
	signers := map[string]ssh.Signer{}
	for _, typ := range []string{"ed25519", "ecdsa-256", "ecdsa-384", "ecdsa-521", "rsa-3072"} {
		signers[typ] = newSigner(t, typ)
	}
	for _, typ := range []string{"ed25519", "ecdsa-256"} {
		signers["sk-"+typ] = newSecurityKey(t, typ, touched)
	}
	for name, s := range signers {
		t.Run(name, func(t *testing.T) {
			keys := owned("alice", s.PublicKey())
			want := request(t)
			st := mustSign(t, s, want)
			got, user, err := OpenRequest(st, keys)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(want, got); d != "" {
				t.Error(d)
			}
			if d := cmp.Diff(access.User{Name: "alice", Groups: []string{"dev"}}, user); d != "" {
				t.Error(d)
			}
			if !strings.Contains(st.Payload, "<nginx> & look") {
				t.Errorf("payload is escaped: %s", st.Payload)
			}
		})
	}
}

func TestOpenEveryType(t *testing.T) {
	s := newSigner(t, "ed25519")
	d := decision()
	d.Duration, d.Comment = 600, "only ten minutes"
	got, user, err := OpenDecision(mustSign(t, s, d), owned("bob", s.PublicKey()))
	if err != nil || user.Name != "bob" {
		t.Fatal(user, err)
	}
	if diff := cmp.Diff(d, got); diff != "" {
		t.Error(diff)
	}
	for _, typ := range []access.Type{access.TypeRelease, access.TypeRevoke, access.TypeCancel} {
		want := stop(typ)
		got, _, err := OpenStop(mustSign(t, s, want), typ, owned("alice", s.PublicKey()))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
	}
}

// A statement of one type must not open as another, whatever its payload says.
func TestTypesDontMix(t *testing.T) {
	s := newSigner(t, "ed25519")
	keys := owned("alice", s.PublicKey())
	types := []access.Type{access.TypeRequest, access.TypeDecision, access.TypeRelease, access.TypeRevoke, access.TypeCancel, access.TypeRead}
	for _, signedAs := range types {
		for _, openedAs := range types {
			if signedAs == openedAs {
				continue
			}
			st := signRaw(t, s, `{"type":"`+string(openedAs)+`"}`, signedAs.Namespace())
			_, err := Verify(st, openedAs)
			wantError(t, err, access.CodeUnverified, `signature is for "`+signedAs.Namespace()+`", not for "`+openedAs.Namespace()+`"`)
		}
	}
	// A payload of another type under the right namespace.
	st := signRaw(t, s, string(must(encode(stop(access.TypeRevoke)))), access.TypeRelease.Namespace())
	_, _, err := OpenStop(st, access.TypeRelease, keys)
	wantError(t, err, access.CodeMalformed, `type is "revoke", not "release"`)
	_, _, err = OpenStop(st, access.TypeRequest, keys)
	wantError(t, err, access.CodeUnverified, `signature is for "release@hallpass", not for "request@hallpass"`)
	_, err = Verify(st, "knock")
	wantError(t, err, access.CodeMalformed, `type "knock" is not one of ours`)
}

func must(b []byte, err error) []byte {
	if err != nil {
		panic(err)
	}
	return b
}

func TestOpenRefuses(t *testing.T) {
	s, other := newSigner(t, "ed25519"), newSigner(t, "ed25519")
	keys := owned("alice", s.PublicKey())
	good := mustSign(t, s, request(t))
	fingerprint := ssh.FingerprintSHA256(s.PublicKey())
	invalid := "signature of request by " + fingerprint + " is not valid: signature did not verify"
	change := func(fn func(*access.Statement)) access.Statement {
		st := good
		fn(&st)
		return st
	}
	for _, tt := range []struct {
		name string
		st   access.Statement
		code access.Code
		want string
	}{
		{"another byte", change(func(s *access.Statement) { s.Payload = strings.Replace(s.Payload, "1800", "1801", 1) }), access.CodeUnverified, invalid},
		{"a space more", change(func(s *access.Statement) { s.Payload += " " }), access.CodeUnverified, invalid},
		{"no payload", change(func(s *access.Statement) { s.Payload = "" }), access.CodeUnverified, invalid},
		{"no signature", change(func(s *access.Statement) { s.Signature = "" }), access.CodeUnverified, "request is not signed"},
		{"payload too long", change(func(s *access.Statement) { s.Payload = strings.Repeat(" ", access.MaxPayload+1) }), access.CodeMalformed, "payload is longer than 16384 bytes"},
		{"payload as long as may be", change(func(s *access.Statement) { s.Payload = strings.Repeat(" ", access.MaxPayload) }), access.CodeUnverified, invalid},
		{"stranger's key", mustSign(t, other, request(t)), access.CodeUnverified,
			"request is signed by " + ssh.FingerprintSHA256(other.PublicKey()) + ", which is nobody's key in the directory"},
		{"stranger's rubbish isn't parsed", signRaw(t, other, "{{{", "request@hallpass"), access.CodeUnverified,
			"request is signed by " + ssh.FingerprintSHA256(other.PublicKey()) + ", which is nobody's key in the directory"},
		{"somebody else's name", func() access.Statement { r := request(t); r.Signer = "bob"; return mustSign(t, s, r) }(), access.CodeUnverified,
			"request names bob as its signer, but is signed by a key of alice"},
		{"own rubbish", signRaw(t, s, "{{{", "request@hallpass"), access.CodeMalformed, "payload is not one JSON object"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r, u, err := OpenRequest(tt.st, keys)
			wantError(t, err, tt.code, tt.want)
			if d := cmp.Diff(access.Request{}, r); d != "" || u.Name != "" {
				t.Errorf("something came out with the error: %s %v", d, u)
			}
		})
	}
}

func TestUnarmor(t *testing.T) {
	s := newSigner(t, "ed25519")
	good := mustSign(t, s, request(t)).Signature
	blob := must(base64.StdEncoding.DecodeString(strings.TrimSuffix(strings.TrimPrefix(good, armorBegin), armorEnd+"\n")))
	armor := func(b []byte) string {
		return armorBegin + base64.StdEncoding.EncodeToString(b) + armorEnd
	}
	patch := func(old, new string) string {
		if bytes.Count(blob, []byte(old)) != 1 {
			t.Fatalf("%q isn't there once", old)
		}
		return armor(bytes.Replace(blob, []byte(old), []byte(new), 1))
	}
	str := func(s string) string { return string(ssh.Marshal(struct{ S string }{s})) }
	const pre = "signature is not an armored SSH signature: "

	for _, tt := range []struct{ name, in, want string }{
		{"as signed", good, ""},
		{"one long line", armor(blob), ""},
		{"no final line end", strings.TrimSuffix(good, "\n"), ""},
		{"text before", "x\n" + good, pre + "it doesn't begin with -----BEGIN SSH SIGNATURE-----"},
		{"line end before", "\n" + good, pre + "it doesn't begin with -----BEGIN SSH SIGNATURE-----"},
		{"text behind", good + "x", pre + "it doesn't end with -----END SSH SIGNATURE-----"},
		{"two line ends", good + "\n", pre + "it doesn't end with -----END SSH SIGNATURE-----"},
		{"twice", good + good, pre + "the base64 is damaged"},
		{"damaged, then good", armorBegin + "!" + armorEnd + "\n" + good, pre + "the base64 is damaged"},
		{"headers", strings.Replace(good, armorBegin, armorBegin+"A: b\n\n", 1), pre + "the base64 is damaged"},
		{"dos line ends", strings.ReplaceAll(good, "\n", "\r\n"), pre + "it doesn't begin with -----BEGIN SSH SIGNATURE-----"},
		{"cut short", good[:len(good)/2], pre + "it doesn't end with -----END SSH SIGNATURE-----"},
		{"cut short inside", armor(blob[:len(blob)-1]), pre + "unmarshal error for field Signature of type blob"},
		{"other armor", strings.ReplaceAll(good, "SSH SIGNATURE", "PGP SIGNATURE"), pre + "it doesn't begin with -----BEGIN SSH SIGNATURE-----"},
		{"nothing inside", armor(nil), pre + "parse error in message type 0"},
		{"other magic", patch("SSHSIG", "SSHSIX"), pre + `invalid magic preamble "SSHSIX": expected "SSHSIG"`},
		{"version 2", patch("SSHSIG\x00\x00\x00\x01", "SSHSIG\x00\x00\x00\x02"), pre + "unsupported signature version 2: expected 1"},
		{"md5", patch(str("sha512"), str("md5")), pre + `unsupported hash algorithm "md5": must be "sha256" or "sha512"`},
		{"sha1", patch(str("sha512"), str("sha1")), pre + `unsupported hash algorithm "sha1": must be "sha256" or "sha512"`},
		{"terminal escape in hash", patch(str("sha512"), str("\x1b[31m")), pre + `unsupported hash algorithm "\x1b[31m": must be "sha256" or "sha512"`},
		{"reserved bytes", patch(str("request@hallpass")+str(""), str("request@hallpass")+str("x")), pre + "it is not in canonical form"},
		{"trailing bytes", armor(append(bytes.Clone(blob), 0)), pre + "parse error in message type 0"},
		{"too long", good + strings.Repeat("\n", MaxSignature-len(good)+1), "signature is longer than 8192 bytes"},
		{"as long as may be", good + strings.Repeat("\n", MaxSignature-len(good)), pre + "it doesn't end with -----END SSH SIGNATURE-----"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := unarmor(tt.in)
			got := ""
			if err != nil {
				got = err.Error()
			}
			if !strings.HasPrefix(got, tt.want) || (tt.want == "") != (err == nil) {
				t.Errorf("got  %s\nwant %s", got, tt.want)
			}
		})
	}
}

// withRest makes a signer add bytes behind its signatures.
type withRest struct {
	ssh.Signer
	rest []byte
}

func (w withRest) Sign(r io.Reader, data []byte) (*ssh.Signature, error) {
	sig, err := w.Signer.Sign(r, data)
	if err == nil {
		sig.Rest = w.rest
	}
	return sig, err
}

func TestTrailingBytesBehindSignature(t *testing.T) {
	st := signRaw(t, withRest{newSigner(t, "ed25519"), []byte{1}}, "{}", "request@hallpass")
	_, err := Verify(st, access.TypeRequest)
	wantError(t, err, access.CodeUnverified, "signature is not an armored SSH signature: it has trailing bytes")
}

func TestSecurityKeys(t *testing.T) {
	for _, typ := range []string{"ed25519", "ecdsa-256"} {
		for _, tt := range []struct {
			name     string
			flags    byte
			rest     []byte
			pin      bool
			verified bool
			want     string // a part of the error
		}{
			{name: "touch", flags: touched},
			{name: "touch and PIN", flags: touched | unlocked, verified: true},
			{name: "touch and PIN, demanded", flags: touched | unlocked, pin: true, verified: true},
			{name: "touch, PIN demanded", flags: touched, pin: true, want: "is signed without PIN, which the directory requires"},
			{name: "bit beside the PIN's", flags: touched | 0x02 | 0x08, pin: true, want: "is signed without PIN, which the directory requires"},
			{name: "nothing", flags: 0, want: "signature missing required user presence flag"},
			{name: "PIN without touch", flags: unlocked, want: "signature missing required user presence flag"},
			{name: "flags changed after signing", flags: touched, rest: []byte{touched | unlocked, 0, 0, 0, 7}, want: "signature did not verify"},
			{name: "counter changed after signing", flags: touched, rest: []byte{touched, 0, 0, 0, 8}, want: "signature did not verify"},
			{name: "no flags", flags: touched, rest: []byte{}, want: "it has trailing bytes"},
			{name: "short counter", flags: touched, rest: []byte{touched, 0, 0, 7}, want: "it has trailing bytes"},
			{name: "long counter", flags: touched, rest: []byte{touched, 0, 0, 0, 7, 0}, want: "it has trailing bytes"},
		} {
			t.Run(typ+"/"+tt.name, func(t *testing.T) {
				k := newSecurityKey(t, typ, tt.flags)
				k.rest = tt.rest
				keys := owned("alice", k.PublicKey())
				keys.pins["alice"] = tt.pin
				st := signRaw(t, k, string(must(encode(request(t)))), "request@hallpass")
				_, _, err := OpenRequest(st, keys)
				if tt.want != "" {
					if err == nil || !strings.Contains(err.Error(), tt.want) || access.CodeOf(err) != access.CodeUnverified {
						t.Fatalf("got %v, want %s", err, tt.want)
					}
					return
				}
				if err != nil {
					t.Fatal(err)
				}
				if v, err := Verify(st, access.TypeRequest); err != nil || v.UserVerified != tt.verified {
					t.Errorf("user verified: %v, %v", v.UserVerified, err)
				}
			})
		}
	}
}

// Keys that can't be unlocked by a PIN can't satisfy one that is demanded.
func TestPinDemandedOfOtherKeys(t *testing.T) {
	s := newSigner(t, "ed25519")
	keys := owned("alice", s.PublicKey())
	keys.pins["alice"] = true
	_, _, err := OpenRequest(mustSign(t, s, request(t)), keys)
	wantError(t, err, access.CodeUnverified, "request by alice is signed without PIN, which the directory requires")
	var e *access.Error
	if !errors.As(err, &e) || e.Hint == "" {
		t.Error("no hint")
	}
}

// sha1 makes RSA keys sign as they did in the last century.
type sha1 struct{ ssh.AlgorithmSigner }

func (s sha1) Sign(r io.Reader, data []byte) (*ssh.Signature, error) {
	return s.SignWithAlgorithm(r, data, ssh.KeyAlgoRSA)
}

func TestWeakSignaturesRefused(t *testing.T) {
	t.Run("rsa-sha1", func(t *testing.T) {
		s := sha1{newSigner(t, "rsa-3072").(ssh.AlgorithmSigner)}
		sig, err := s.Sign(nil, []byte("x"))
		if err != nil {
			t.Fatal(err)
		}
		blob := sshsig.Signature{Version: 1, PublicKey: s.PublicKey(), Namespace: "request@hallpass", HashAlgorithm: sshsig.HashSHA512, Signature: sig}
		_, err = Verify(access.Statement{Signature: string(sshsig.Armor(&blob))}, access.TypeRequest)
		wantError(t, err, access.CodeUnverified, `signature is not an armored SSH signature: invalid signature format "ssh-rsa": expected "rsa-sha2-256" or "rsa-sha2-512"`)
	})
	t.Run("rsa-3071", func(t *testing.T) {
		_, err := Verify(signRaw(t, newSigner(t, "rsa-3071"), "{}", "request@hallpass"), access.TypeRequest)
		wantError(t, err, access.CodeMalformed, "RSA key has 3071 bits, not 3072 to 8192")
	})
	t.Run("dsa", func(t *testing.T) {
		_, err := Verify(signRaw(t, dsaSigner(t), "{}", "request@hallpass"), access.TypeRequest)
		wantError(t, err, access.CodeMalformed, "DSA keys are refused")
	})
	t.Run("certificate", func(t *testing.T) {
		_, err := Verify(signRaw(t, certSigner(t), "{}", "request@hallpass"), access.TypeRequest)
		wantError(t, err, access.CodeMalformed, "public key is a certificate")
	})
	t.Run("sha256 is fine", func(t *testing.T) {
		sig, err := sshsig.Sign(strings.NewReader("{}"), newSigner(t, "ed25519"), sshsig.HashSHA256, "request@hallpass")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Verify(access.Statement{Payload: "{}", Signature: string(sshsig.Armor(sig))}, access.TypeRequest); err != nil {
			t.Error(err)
		}
	})
}

// refusing fails the test if it is asked to sign.
type refusing struct {
	ssh.Signer
	t *testing.T
}

func (r refusing) Sign(io.Reader, []byte) (*ssh.Signature, error) {
	r.t.Error("the key was used")
	return nil, errors.New("refused")
}

func TestSignRefusesBeforeTheKeyIsUsed(t *testing.T) {
	long := request(t)
	long.Reason = strings.Repeat("x", access.MaxReason+1)
	fraction := request(t)
	fraction.Time = signedAt.Add(1)
	local := decision()
	local.Type = access.TypeRequest
	broken := request(t)
	broken.Reason = "\xff"
	for _, tt := range []struct {
		name    string
		signer  ssh.Signer
		payload any
		want    string
	}{
		{"long reason", newSigner(t, "ed25519"), long, "reason is longer than 1000 bytes"},
		{"fraction of a second", newSigner(t, "ed25519"), fraction, `time "2026-05-04T03:02:01.000000001Z" is not of the form 2006-01-02T15:04:05Z`},
		{"wrong type", newSigner(t, "ed25519"), local, `field "resource" is missing`},
		{"not UTF-8", newSigner(t, "ed25519"), broken, `field "reason" contains U+FFFD or an unpaired surrogate`},
		{"not ours", newSigner(t, "ed25519"), "x", "a string can't be signed"},
		{"short RSA key", newSigner(t, "rsa-2048"), request(t), "RSA key has 2048 bits, not 3072 to 8192"},
		{"DSA", dsaSigner(t), request(t), "DSA keys are refused"},
		{"certificate", certSigner(t), request(t), "public key is a certificate"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Sign(refusing{tt.signer, t}, tt.payload)
			wantError(t, err, access.CodeMalformed, tt.want)
		})
	}
}

// liar signs with another key than it says.
type liar struct{ says, does ssh.Signer }

func (l liar) PublicKey() ssh.PublicKey { return l.says.PublicKey() }
func (l liar) Sign(r io.Reader, data []byte) (*ssh.Signature, error) {
	return l.does.Sign(r, data)
}

func TestSignChecksWhatTheKeyReturned(t *testing.T) {
	_, err := Sign(liar{newSigner(t, "ed25519"), newSigner(t, "ed25519")}, request(t))
	if err == nil || !strings.Contains(err.Error(), "signature did not verify") {
		t.Error(err)
	}
	_, err = Sign(newSecurityKey(t, "ed25519", 0), request(t))
	if err == nil || !strings.Contains(err.Error(), "user presence") {
		t.Error(err)
	}
}

func TestNewIDAndTime(t *testing.T) {
	a, b := NewID(), NewID()
	if checkID(a) != nil || a == b || a > b {
		t.Errorf("ids %s, %s", a, b)
	}
	if got := Time(signedAt.Add(999_999_999)); !got.Equal(signedAt) || got.Location() != signedAt.Location() {
		t.Errorf("got %v", got)
	}
}

func FuzzVerify(f *testing.F) {
	st := mustSign(f, newSigner(f, "ed25519"), decision())
	f.Add(st.Signature)
	f.Add(mustSign(f, newSecurityKey(f, "ecdsa-256", touched), decision()).Signature)
	f.Add(mustSign(f, newSigner(f, "rsa-3072"), decision()).Signature)
	f.Add("")
	f.Add(armorBegin + "U1NIU0lH" + armorEnd)
	f.Fuzz(func(t *testing.T, signature string) {
		// The wire format may be re-armored, so compare what is inside.
		v, err := Verify(access.Statement{Payload: st.Payload, Signature: signature}, access.TypeDecision)
		checkFuzzed(t, err)
		if err == nil && CheckKey(v.Key) != nil {
			t.Errorf("verified by a key that is refused: %s", v.Key.Type())
		}
	})
}

// checkFuzzed holds every refusal to the form that people get to see.
func checkFuzzed(t *testing.T, err error) {
	t.Helper()
	if err == nil {
		return
	}
	if code := access.CodeOf(err); code != access.CodeMalformed && code != access.CodeUnverified {
		t.Errorf("code %q of %v", code, err)
	}
	if e := access.CheckText("error", err.Error(), 1000); e != nil {
		t.Errorf("error can't be shown: %v: %q", e, err)
	}
}

func BenchmarkVerify(b *testing.B) {
	for name, s := range map[string]ssh.Signer{
		"ed25519":    newSigner(b, "ed25519"),
		"ecdsa-256":  newSigner(b, "ecdsa-256"),
		"rsa-3072":   newSigner(b, "rsa-3072"),
		"sk-ed25519": newSecurityKey(b, "ed25519", touched),
	} {
		b.Run(name, func(b *testing.B) {
			st := mustSign(b, s, request(b))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := Verify(st, access.TypeRequest); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkOpenRequest(b *testing.B) {
	s := newSigner(b, "ed25519")
	keys := owned("alice", s.PublicKey())
	st := mustSign(b, s, request(b))
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := OpenRequest(st, keys); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkSign(b *testing.B) {
	s, r := newSigner(b, "ed25519"), request(b)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Sign(s, r); err != nil {
			b.Fatal(err)
		}
	}
}

// The security key that these tests make up signs as OpenSSH expects.
func TestOpenSSHVerifiesSecurityKeys(t *testing.T) {
	process.Installed(t, "ssh-keygen")
	for _, typ := range []string{"ed25519", "ecdsa-256"} {
		dir := t.TempDir()
		k := newSecurityKey(t, typ, touched|unlocked)
		st := mustSign(t, k, request(t))
		write(t, filepath.Join(dir, "sig"), []byte(st.Signature), 0o600)
		write(t, filepath.Join(dir, "allowed"), []byte("alice "+MarshalKey(k.PublicKey())+"\n"), 0o600)
		cmd := exec.Command("ssh-keygen", "-Y", "verify", "-f", filepath.Join(dir, "allowed"), "-I", "alice", "-n", "request@hallpass", "-s", filepath.Join(dir, "sig"))
		cmd.Stdin = strings.NewReader(st.Payload)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%s: %v: %s", typ, err, out)
		}
	}
}
