package statement

import (
	"encoding/base64"
	"encoding/json"
	"math"
	"strconv"
	"strings"

	"golang.org/x/crypto/ssh"

	"hallpass/access"
)

// OpenJoin verifies and parses a host statement and finds its signer.
func OpenJoin(st access.Statement, keys Keys) (access.Join, access.User, error) {
	return open(st, access.TypeHost, keys, ParseJoin)
}

// OpenRenewal verifies and parses what a host's agent has signed. The key is
// the agent's, which the caller compares with the one the host enrolled with.
func OpenRenewal(st access.Statement) (access.Renewal, ssh.PublicKey, error) {
	return openAgent(st, access.TypeRenew, ParseRenewal)
}

// OpenSession is OpenRenewal for reports.
func OpenSession(st access.Statement) (access.Session, ssh.PublicKey, error) {
	return openAgent(st, access.TypeSession, ParseSession)
}

func openAgent[T any](st access.Statement, typ access.Type, parse func([]byte) (T, error)) (T, ssh.PublicKey, error) {
	var none T
	v, err := Verify(st, typ)
	if err != nil {
		return none, nil, err
	}
	p, err := parse(v.Payload)
	return p, v.Key, err
}

// ParseJoin reads the payload of a host statement strictly, without a
// signature.
func ParseJoin(payload []byte) (access.Join, error) {
	f := read(payload)
	j := access.Join{
		Header:   f.header(access.TypeHost),
		Resource: f.text("resource", required, access.CheckResource),
		Until:    f.time("until", required),
		CAs:      f.list("cas", access.MaxJoinCAs, access.CheckFingerprint),
	}
	if f.err == nil && !j.Until.After(j.Time) {
		f.fail("until is not after the statement itself")
	}
	if f.err == nil && j.Until.Sub(j.Time) > access.MaxJoin {
		f.fail("until is more than %s after the statement itself", access.ShortDuration(access.MaxJoin))
	}
	if err := f.end(); err != nil {
		return access.Join{}, err
	}
	return j, nil
}

// ParseRenewal reads the payload of a renew statement strictly, without a
// signature.
func ParseRenewal(payload []byte) (access.Renewal, error) {
	f := read(payload)
	r := access.Renewal{
		Header:  f.header(access.TypeRenew),
		HostKey: f.text("host_key", required, func(s string) error { _, err := ParseKey(s); return err }),
	}
	if err := f.end(); err != nil {
		return access.Renewal{}, err
	}
	return r, nil
}

// ParseSession reads the payload of a session statement strictly, without a
// signature.
func ParseSession(payload []byte) (access.Session, error) {
	f := read(payload)
	s := access.Session{
		Header:  f.header(access.TypeSession),
		Event:   f.text("event", required, checkEvent),
		Request: f.text("request", required, checkID),
		Serial:  f.serial("serial"),
		KeyID:   f.text("key_id", required, line("key_id", access.MaxReason)),
		Login:   f.text("login", required, access.CheckLogin),
		Source:  f.text("source", optional, line("source", access.MaxTicket)),
		Session: f.text("session", required, access.CheckSession),
		Why:     f.text("why", optional, line("why", access.MaxReason)),
	}
	if err := f.end(); err != nil {
		return access.Session{}, err
	}
	return s, nil
}

func checkEvent(s string) error {
	if s != access.SessionOpened && s != access.SessionClosed && s != access.SessionEnded {
		return access.Errorf(access.CodeMalformed, "event %q is not opened, closed or ended", clip(s))
	}
	return nil
}

// serial is the serial of a certificate, from 1.
func (f *fields) serial(name string) uint64 {
	n, ok := take[json.Number](f, name, required, "a number")
	if !ok {
		return 0
	}
	v, err := strconv.ParseUint(n.String(), 10, 64)
	if err != nil || v < 1 || v > math.MaxInt64 {
		f.fail("%s %s is not a whole number from 1", name, clip(n.String()))
	}
	return v
}

// Token writes a statement as one word that survives copying: base64url of its
// JSON.
func Token(st access.Statement) (string, error) {
	data, err := encode(st)
	if err != nil {
		return "", access.Errorf(access.CodeMalformed, "token can't be written: %v", err)
	}
	return base64.RawURLEncoding.EncodeToString(data), nil
}

// maxToken bounds a token, in characters.
const maxToken = 64 << 10

// ParseToken reads what Token wrote. It verifies nothing.
func ParseToken(s string) (access.Statement, error) {
	bad := access.Errorf(access.CodeMalformed, "this is not a join token").WithHint("make one with: hallpass host token NAME")
	s = strings.TrimSpace(s)
	if len(s) > maxToken {
		return access.Statement{}, bad
	}
	data, err := base64.RawURLEncoding.Strict().DecodeString(s)
	if err != nil {
		return access.Statement{}, bad
	}
	var st access.Statement
	again := []byte(nil)
	if err = json.Unmarshal(data, &st); err == nil {
		again, err = encode(st)
	}
	if err != nil || string(again) != string(data) || st.Payload == "" {
		return access.Statement{}, bad
	}
	return st, nil
}
