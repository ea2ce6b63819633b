// Package statement signs and opens hallpass's messages: requests, decisions,
// releases, revokes, cancels, locks and delegations. The format is specified in
// docs/spec/statement.md.
//
// A client that has something to say uses [FindSigner] and [Sign]. Whoever has
// to act on a statement uses [OpenRequest], [OpenDecision], [OpenStop], [OpenLock]
// or [OpenDelegation], which verify first and parse afterwards, so that only bytes signed by a key of the
// directory ever reach the parser. [Verify] and the Parse functions are the two
// halves by themselves, for tools that work offline.
//
// What an opened statement promises: its payload is byte for byte what the key
// signed, under the namespace of its type; the key belongs to the user that the
// payload names; a FIDO key was touched, and its PIN given where the directory
// demands it; and every field is within the bounds of package access and safe
// to show on a terminal. What it does not promise: that it is recent, that it
// was not seen before, and that its signer may say this. Package evidence
// judges that.
//
// All refusals are of type [*access.Error].
package statement

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/hiddeco/sshsig"
	"golang.org/x/crypto/ssh"

	"hallpass/access"
	"hallpass/internal/wording"
)

// MaxSignature bounds an armored signature, in bytes. The largest that can be
// valid, by an RSA key of 8192 bits, has under 3300.
const MaxSignature = 8 << 10

// Keys says whose key it is. *directory.Directory is one.
type Keys interface {
	// Owner is the user that key belongs to, false if it is nobody's.
	Owner(key ssh.PublicKey) (access.User, bool)
	// PinRequired says whether the user's signatures have to prove that a
	// FIDO key was unlocked by PIN or fingerprint.
	PinRequired(user string) bool
}

// Verified is what a valid signature proves.
type Verified struct {
	Type         access.Type
	Payload      []byte        // the signed bytes
	Key          ssh.PublicKey // the key that signed; Verify doesn't know whose it is
	UserVerified bool          // a FIDO key that was unlocked by PIN or fingerprint
}

// Sign encodes payload, an access.Request, access.Decision, access.Stop, access.Lock,
// access.Delegation or one of those around hosts, once and signs these bytes. Everything that would make the statement refused
// later is refused here, before the key is used; and what the key returned is
// verified, so that a broken agent is noticed at home.
func Sign(signer ssh.Signer, payload any) (access.Statement, error) {
	h, ok := header(payload)
	if !ok {
		return access.Statement{}, access.Errorf(access.CodeMalformed, "a %T can't be signed", payload)
	}
	if err := CheckKey(signer.PublicKey()); err != nil {
		return access.Statement{}, err
	}
	data, err := encode(payload)
	if err != nil {
		return access.Statement{}, access.Errorf(access.CodeMalformed, "payload can't be encoded: %v", err)
	}
	if err := parse(data, h.Type); err != nil {
		return access.Statement{}, err
	}
	sig, err := sshsig.Sign(bytes.NewReader(data), signer, sshsig.HashSHA512, h.Type.Namespace())
	if err != nil {
		return access.Statement{}, access.Errorf(access.CodeUnverified, "key %s doesn't sign: %s", ssh.FingerprintSHA256(signer.PublicKey()), reason(err))
	}
	st := access.Statement{Payload: string(data), Signature: string(sshsig.Armor(sig))}
	if _, err := Verify(st, h.Type); err != nil {
		return access.Statement{}, err
	}
	return st, nil
}

// encode is json.Marshal without the escaping of <, > and &, so that people
// who look at the payload see what they wrote.
func encode(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

// Verify checks the signature over the exact payload under typ's namespace. It
// says which key signed, not whose that is, and leaves the payload unread.
//
// The signature must be one armored SSHSIG and nothing beside it, by a key
// that CheckKey accepts, with SHA-256 or SHA-512, RSA with SHA-2 only. A FIDO
// key must have been touched.
func Verify(st access.Statement, typ access.Type) (Verified, error) {
	if err := checkType(typ); err != nil {
		return Verified{}, err
	}
	if len(st.Payload) > access.MaxPayload {
		return Verified{}, access.Errorf(access.CodeMalformed, "payload is longer than %d bytes", access.MaxPayload)
	}
	if st.Signature == "" {
		return Verified{}, access.Errorf(access.CodeUnverified, "%s is not signed", typ)
	}
	sig, err := unarmor(st.Signature)
	if err != nil {
		return Verified{}, err
	}
	if err := CheckKey(sig.PublicKey); err != nil {
		return Verified{}, err
	}
	if sig.Namespace != typ.Namespace() {
		return Verified{}, access.Errorf(access.CodeUnverified, "signature is for %q, not for %q", clip(sig.Namespace), typ.Namespace())
	}
	if err := sshsig.Verify(strings.NewReader(st.Payload), sig, sig.PublicKey, sig.HashAlgorithm, typ.Namespace()); err != nil {
		return Verified{}, access.Errorf(access.CodeUnverified, "signature of %s by %s is not valid: %v",
			typ, ssh.FingerprintSHA256(sig.PublicKey), reason(err))
	}
	return Verified{
		Type:         typ,
		Payload:      []byte(st.Payload),
		Key:          sig.PublicKey,
		UserVerified: userVerified(sig),
	}, nil
}

// The flags that a FIDO authenticator signs along (WebAuthn, section 6.1;
// PROTOCOL.u2f).
const flagUserVerified = 0x04

// userVerified reads the flags byte of a FIDO signature. Its signature covers
// the byte, so it is only good after Verify.
func userVerified(sig *sshsig.Signature) bool {
	return isFIDO(sig.PublicKey) && sig.Signature.Rest[0]&flagUserVerified != 0
}

// The first and last line of an armored signature (PROTOCOL.sshsig, section 1).
const (
	armorBegin = "-----BEGIN " + sshsig.PEMType + "-----\n"
	armorEnd   = "\n-----END " + sshsig.PEMType + "-----"
)

// unarmor reads an SSHSIG of which nothing can be changed without making it
// invalid or another signature: no text around the armor, no headers, no
// reserved or trailing bytes. Only the line breaks are free, since OpenSSH and
// others wrap at different widths.
func unarmor(s string) (*sshsig.Signature, error) {
	if len(s) > MaxSignature {
		return nil, access.Errorf(access.CodeMalformed, "signature is longer than %d bytes", MaxSignature)
	}
	bad := func(why string) error {
		return access.Errorf(access.CodeUnverified, "signature is not an armored SSH signature: %s", why)
	}
	body, ok := strings.CutPrefix(s, armorBegin)
	if !ok {
		return nil, bad("it doesn't begin with " + strings.TrimSuffix(armorBegin, "\n"))
	}
	body, ok = strings.CutSuffix(strings.TrimSuffix(body, "\n"), armorEnd)
	if !ok {
		return nil, bad("it doesn't end with " + strings.TrimPrefix(armorEnd, "\n"))
	}
	blob, err := base64.StdEncoding.Strict().DecodeString(body) // skips line breaks
	if err != nil || strings.Contains(body, "\r") {
		return nil, bad("the base64 is damaged")
	}
	sig, err := sshsig.ParseSignature(blob)
	if err != nil {
		return nil, bad(reason(err))
	}
	if !bytes.Equal(sig.Marshal(), blob) {
		return nil, bad("it is not in canonical form")
	}
	if len(sig.Signature.Rest) != restLen(sig.PublicKey) {
		return nil, bad("it has trailing bytes")
	}
	return sig, nil
}

// restLen is how many bytes follow the signature proper: of a FIDO key one of
// flags and four of counter, else none.
func restLen(k ssh.PublicKey) int {
	if isFIDO(k) {
		return 5
	}
	return 0
}

// OpenRequest verifies and parses a request statement and finds its requester.
func OpenRequest(st access.Statement, keys Keys) (access.Request, access.User, error) {
	return open(st, access.TypeRequest, keys, ParseRequest)
}

// OpenDecision verifies and parses a decision statement and finds its signer.
func OpenDecision(st access.Statement, keys Keys) (access.Decision, access.User, error) {
	return open(st, access.TypeDecision, keys, ParseDecision)
}

// ReadDecision is the rest of OpenDecision, for who has called Verify for that type.
func ReadDecision(v Verified, keys Keys) (access.Decision, access.User, error) {
	if v.Type != access.TypeDecision {
		return access.Decision{}, access.User{}, access.Errorf(access.CodeMalformed, "a %s is no decision", v.Type)
	}
	return verified(v, keys, ParseDecision)
}

// OpenStop verifies and parses a release, revoke or cancel statement and finds
// its signer.
func OpenStop(st access.Statement, typ access.Type, keys Keys) (access.Stop, access.User, error) {
	return open(st, typ, keys, func(payload []byte) (access.Stop, error) { return ParseStop(payload, typ) })
}

// OpenReview verifies and parses a review statement and finds its signer.
func OpenReview(st access.Statement, keys Keys) (access.Review, access.User, error) {
	return open(st, access.TypeReview, keys, ParseReview)
}

// OpenLock verifies and parses a lock statement and finds its signer.
func OpenLock(st access.Statement, keys Keys) (access.Lock, access.User, error) {
	return open(st, access.TypeLock, keys, ParseLock)
}

// OpenDelegation verifies and parses a delegation statement and finds its
// signer.
func OpenDelegation(st access.Statement, keys Keys) (access.Delegation, access.User, error) {
	return open(st, access.TypeDelegation, keys, ParseDelegation)
}

// open goes from the outside in: signature, owner, payload, name. Bytes that
// nobody of the directory has signed are never parsed.
func open[T content](st access.Statement, typ access.Type, keys Keys, parse func([]byte) (T, error)) (T, access.User, error) {
	v, err := Verify(st, typ)
	if err != nil {
		var none T
		return none, access.User{}, err
	}
	return verified(v, keys, parse)
}

// content is what a statement says, once it is opened.
type content interface {
	access.Request | access.Decision | access.Stop | access.Review | access.Lock | access.Delegation | access.Join | access.Read
}

// verified is open from the owner on.
func verified[T content](v Verified, keys Keys, parse func([]byte) (T, error)) (p T, signer access.User, err error) {
	var none T
	typ := v.Type
	owner, ok := keys.Owner(v.Key)
	if !ok {
		return none, access.User{}, access.Errorf(access.CodeUnverified, "%s is signed by %s, which is nobody's key in the directory",
			typ, ssh.FingerprintSHA256(v.Key)).WithHint("the directory needs this line: %s", MarshalKey(v.Key))
	}
	if p, err = parse(v.Payload); err != nil {
		return none, access.User{}, err
	}
	if h, _ := header(p); h.Signer != owner.Name {
		return none, access.User{}, access.Errorf(access.CodeUnverified, "%s names %s as its signer, but is signed by a key of %s", typ, h.Signer, owner.Name)
	}
	if keys.PinRequired(owner.Name) && !v.UserVerified {
		return none, access.User{}, access.Errorf(access.CodeUnverified, "%s by %s is signed without PIN, which the directory requires",
			typ, owner.Name).WithHint("sign with a security key made by: ssh-keygen -t ed25519-sk -O verify-required")
	}
	return p, owner, nil
}

// Author says whose word st is: the user whose key signed it, as a statement of
// whatever type. It is false where the signature isn't valid or the key is
// nobody's. What the payload says doesn't matter, and isn't read: this is for
// the record of what Open refuses, and nothing may be done on it.
func Author(st access.Statement, keys Keys) (access.User, bool) {
	for _, typ := range []access.Type{access.TypeRequest, access.TypeDecision, access.TypeRelease, access.TypeRevoke, access.TypeCancel, access.TypeReview, access.TypeDelegation} {
		if v, err := Verify(st, typ); err == nil {
			return keys.Owner(v.Key)
		}
	}
	return access.User{}, false
}

// header is what every payload has, false if it is no payload.
func header(payload any) (access.Header, bool) {
	switch p := payload.(type) {
	case access.Request:
		return p.Header, true
	case access.Decision:
		return p.Header, true
	case access.Stop:
		return p.Header, true
	case access.Review:
		return p.Header, true
	case access.Lock:
		return p.Header, true
	case access.Delegation:
		return p.Header, true
	case access.Join:
		return p.Header, true
	case access.Renewal:
		return p.Header, true
	case access.Session:
		return p.Header, true
	case access.Read:
		return p.Header, true
	}
	return access.Header{}, false
}

// NewID makes the id of a statement: a UUIDv7 (RFC 9562) in lower case.
func NewID() string { return uuid.Must(uuid.NewV7()).String() }

// CheckID says whether s is the id of a statement, as NewID makes them.
func CheckID(s string) error { return checkID(s) }

// Time is t as statements carry it: UTC, whole seconds.
func Time(t time.Time) time.Time { return t.UTC().Truncate(time.Second) }

// clip keeps what a stranger sent short enough to quote in an error.
func clip(s string) string { return wording.Short(s) }

// reason is what x/crypto and others say, safe to show: their errors may quote
// what a stranger sent.
func reason(err error) string {
	return wording.Short(wording.Line(strings.TrimPrefix(err.Error(), "ssh: ")))
}
