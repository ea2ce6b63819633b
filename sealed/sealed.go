// Package sealed is how a secret travels from the issuer to the requester: as
// an age file, encrypted to the key that the requester's client made for this
// one request. Whoever carries or keeps it, Temporal, the ledger, the audit
// log, holds nothing that opens anything. The format is specified in
// docs/spec/sealed.md.
//
// What is promised: only the holder of the key can read it, and every change
// of it is noticed. What isn't: who wrote it. Anybody can encrypt to a
// recipient, so a client compares what it opens with Vault's word on the token.
package sealed

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"strings"

	"filippo.io/age"
	"filippo.io/age/armor"

	"hallpass/access"
)

// Bounds, in bytes.
const (
	MaxText  = 128 << 10 // of the armored file
	maxPlain = 64 << 10  // of what is in it
	maxToken = 1000
)

// Secret is what is sealed. Printing or logging one doesn't show it.
type Secret struct {
	Request       string `json:"request"`        // the request's id
	WrappingToken string `json:"wrapping_token"` // unwraps, once, to the token that may read
	Reads         []Read `json:"reads"`          // what the token may read, in the order of the request's actions
}

// Read is one path in Vault that a Secret's token may read.
type Read struct {
	Action string `json:"action"`
	Path   string `json:"path"`

	// With makes it a write with exactly these parameters, or with none if it
	// is empty. Nil: a read.
	With map[string]string `json:"with,omitzero"`
}

func (Secret) String() string       { return "(sealed)" }
func (Secret) GoString() string     { return "(sealed)" }
func (Secret) LogValue() slog.Value { return slog.StringValue("(sealed)") }

// NewKey makes a key and its recipient: "AGE-SECRET-KEY-1…" and "age1…". The
// key is the requester's, and never leaves his machine.
func NewKey() (key, recipient string, err error) {
	id, err := age.GenerateX25519Identity()
	if err != nil {
		return "", "", err
	}
	return id.String(), id.Recipient().String(), nil
}

// CheckRecipient says whether a secret can be sealed to a recipient. Refusals
// are *access.Error, CodeMalformed.
func CheckRecipient(recipient string) error {
	return encrypt(io.Discard, recipient, nil)
}

// encrypt refuses text that isn't a recipient, and those that nobody can have
// the key of.
func encrypt(to io.Writer, recipient string, plain []byte) error {
	bad := access.Errorf(access.CodeMalformed, "recipient is not an age X25519 recipient")
	r, err := age.ParseX25519Recipient(recipient)
	if err != nil {
		return bad
	}
	w, err := age.Encrypt(to, r)
	if err != nil {
		return bad
	}
	if _, err := w.Write(plain); err != nil {
		return err
	}
	return w.Close()
}

// Seal encrypts a secret to a recipient. The result differs each time.
func Seal(recipient string, s Secret) (string, error) {
	if err := s.check(); err != nil {
		return "", err
	}
	plain, err := encode(s)
	if err != nil {
		return "", err
	}
	var text strings.Builder
	a := armor.NewWriter(&text)
	if err := encrypt(a, recipient, plain); err != nil {
		return "", err
	}
	if err := a.Close(); err != nil {
		return "", err
	}
	return text.String(), nil
}

// Open decrypts a text that Seal made. Refusals are *access.Error: CodeMismatch
// if it was sealed for another key, CodeUnverified if it was changed,
// CodeMalformed if it isn't a sealed secret at all. None quotes anything.
func Open(key, text string) (Secret, error) {
	refused := func(code access.Code, format string, args ...any) (Secret, error) {
		return Secret{}, access.Errorf(code, format, args...)
	}
	id, err := age.ParseX25519Identity(key)
	if err != nil {
		return refused(access.CodeMalformed, "the key is not an age X25519 key")
	}
	if len(text) > MaxText {
		return refused(access.CodeMalformed, "the sealed secret is longer than %d bytes", MaxText)
	}
	r, err := age.Decrypt(armor.NewReader(strings.NewReader(text)), id)
	var other *age.NoIdentityMatchError
	var broken *armor.Error
	switch {
	case errors.As(err, &other):
		return refused(access.CodeMismatch, "the sealed secret is for another key")
	case errors.As(err, &broken):
		return refused(access.CodeMalformed, "this is not a sealed secret: it is not an armored age file")
	case err != nil:
		return refused(access.CodeUnverified, "the sealed secret was changed on its way, or is damaged")
	}
	plain, err := io.ReadAll(io.LimitReader(r, maxPlain+1))
	if err != nil {
		return refused(access.CodeUnverified, "the sealed secret was changed on its way, or is damaged")
	}
	var s Secret
	if err := decode(plain, &s); err != nil {
		return refused(access.CodeMalformed, "what is sealed is not in the form that the issuer writes")
	}
	if err := s.check(); err != nil {
		return Secret{}, err
	}
	return s, nil
}

// encode writes the one form of a secret.
func encode(s Secret) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(s); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

// decode reads the form that encode writes, and nothing else: what is unknown,
// repeated or spelled in another way, encoding again shows.
func decode(plain []byte, s *Secret) error {
	if err := json.Unmarshal(plain, s); err != nil {
		return err
	}
	again, err := encode(*s)
	if err == nil && !bytes.Equal(plain, again) {
		err = errors.New("another form")
	}
	return err
}

// check holds both ends to the bounds.
func (s Secret) check() error {
	if s.Request == "" || len(s.Request) > access.MaxName {
		return access.Errorf(access.CodeMalformed, "the secret names no request")
	}
	if s.WrappingToken == "" || len(s.WrappingToken) > maxToken || strings.ContainsFunc(s.WrappingToken, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return access.Errorf(access.CodeMalformed, "the secret has no wrapping token")
	}
	if len(s.Reads) == 0 || len(s.Reads) > access.MaxActions {
		return access.Errorf(access.CodeMalformed, "the secret has %d reads, not 1 to %d", len(s.Reads), access.MaxActions)
	}
	seen := map[string]bool{}
	for _, r := range s.Reads {
		if err := access.CheckName("action", r.Action); err != nil {
			return err
		}
		if seen[r.Action] {
			return access.Errorf(access.CodeMalformed, "action %s is in the secret twice", r.Action)
		}
		seen[r.Action] = true
		if len(r.Path) > 2*access.MaxPath+1 {
			return access.Errorf(access.CodeMalformed, "a path in the secret is longer than %d bytes", 2*access.MaxPath+1)
		}
		// Path and role together may be twice as long as each.
		for part := range strings.SplitSeq(r.Path, "/") {
			if err := access.CheckPath("path", part); err != nil {
				return err
			}
		}
		if err := access.CheckWith(r.With); err != nil {
			return err
		}
	}
	return nil
}
