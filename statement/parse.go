package statement

import (
	"bytes"
	"encoding/json"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"hallpass/access"
)

// timeLayout is the one way to write a time: RFC 3339, UTC, whole seconds.
const timeLayout = "2006-01-02T15:04:05Z"

var (
	idForm        = regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`)
	hashForm      = regexp.MustCompile(`^[0-9a-f]{64}$`)
	recipientForm = regexp.MustCompile(`^age1[02-9ac-hj-np-z]{58}$`)
)

// ParseRequest reads the payload of a request strictly. It knows nothing of
// signatures: use OpenRequest for whatever is to be acted on.
func ParseRequest(payload []byte) (access.Request, error) {
	f := read(payload)
	r := access.Request{
		Header:    f.header(access.TypeRequest),
		Resource:  f.text("resource", required, access.CheckResource),
		Login:     f.text("login", optional, access.CheckLogin),
		Actions:   f.names("actions", access.MaxActions),
		Command:   f.text("command", optional, line("command", access.MaxCommand)),
		Duration:  f.seconds("duration", required),
		Start:     f.start(),
		Reason:    f.text("reason", optional, line("reason", access.MaxReason)),
		Ticket:    f.text("ticket", optional, line("ticket", access.MaxTicket)),
		Extends:   f.text("extends", optional, checkID),
		Mode:      f.text("mode", optional, checkMode),
		PublicKey: f.text("public_key", optional, func(s string) error { _, err := ParseKey(s); return err }),
		Recipient: f.text("recipient", optional, form(recipientForm, "recipient", "an age X25519 recipient, age1…")),
	}
	switch {
	case r.Extends == "" && r.Mode != "" && r.Start != nil:
		f.fail("break-glass has no start: access begins at once")
	case r.Extends == "":
	case r.Start != nil:
		f.fail("an extension has no start: it goes on where the grant ends")
	case r.Mode != "":
		f.fail("an extension has no mode")
	case r.Extends == r.ID:
		f.fail("a request doesn't extend itself")
	}
	if err := f.end(); err != nil {
		return access.Request{}, err
	}
	return r, nil
}

// ParseDecision reads the payload of a decision strictly, without a signature.
func ParseDecision(payload []byte) (access.Decision, error) {
	f := read(payload)
	d := access.Decision{
		Header:      f.header(access.TypeDecision),
		Request:     f.text("request", required, checkID),
		RequestHash: f.text("request_hash", required, checkHash),
		Verdict:     access.Verdict(f.text("verdict", required, checkVerdict)),
		Duration:    f.seconds("duration", optional),
		For:         f.text("for", optional, func(s string) error { return access.CheckName("for", s) }),
		Comment:     f.text("comment", optional, line("comment", access.MaxReason)),
	}
	if d.Verdict == access.Deny && d.Duration != 0 {
		f.fail("duration is only for approvals")
	}
	if d.For != "" && d.For == d.Signer {
		f.fail("nobody is his own delegate: leave for out")
	}
	if err := f.end(); err != nil {
		return access.Decision{}, err
	}
	return d, nil
}

// ParseReview reads the payload of a review strictly, without a signature.
func ParseReview(payload []byte) (access.Review, error) {
	f := read(payload)
	r := access.Review{
		Header:      f.header(access.TypeReview),
		Request:     f.text("request", required, checkID),
		RequestHash: f.text("request_hash", required, checkHash),
		Comment:     f.text("comment", optional, line("comment", access.MaxReason)),
	}
	if err := f.end(); err != nil {
		return access.Review{}, err
	}
	return r, nil
}

// ParseStop reads the payload of a release, revoke or cancel strictly, without
// a signature.
func ParseStop(payload []byte, typ access.Type) (access.Stop, error) {
	if typ != access.TypeRelease && typ != access.TypeRevoke && typ != access.TypeCancel {
		return access.Stop{}, access.Errorf(access.CodeMalformed, "type %q is not release, revoke or cancel", clip(string(typ)))
	}
	f := read(payload)
	s := access.Stop{
		Header:      f.header(typ),
		Request:     f.text("request", required, checkID),
		RequestHash: f.text("request_hash", required, checkHash),
		Reason:      f.text("reason", optional, line("reason", access.MaxReason)),
	}
	if err := f.end(); err != nil {
		return access.Stop{}, err
	}
	return s, nil
}

// ParseLock reads the payload of a lock strictly, without a signature.
func ParseLock(payload []byte) (access.Lock, error) {
	f := read(payload)
	l := access.Lock{
		Header: f.header(access.TypeLock),
		Action: access.Action(f.text("action", required, checkAction)),
		Kind:   f.text("kind", required, func(s string) error { return nil }),
		Lock:   f.text("lock", optional, checkID),
		Reason: f.text("reason", optional, line("reason", access.MaxReason)),
	}
	l.Name = f.text("name", required, func(s string) error { return access.CheckLocked(l.Kind, s) })
	if t := f.time("until", optional); !t.IsZero() {
		l.Until = &t
	}
	switch unlock := l.Action == access.ActionUnlock; {
	case unlock && l.Lock == "":
		f.fail("field %q is missing: which lock is lifted", "lock")
	case unlock && l.Until != nil:
		f.fail("until is only for locks")
	case !unlock && l.Lock != "":
		f.fail("lock is only for unlocking")
	case !unlock && l.Reason == "":
		f.fail("field %q is missing: nobody is locked out without one", "reason")
	case l.Until != nil && !l.Until.After(l.Time):
		f.fail("until is not after the lock itself")
	}
	if err := f.end(); err != nil {
		return access.Lock{}, err
	}
	return l, nil
}

// ParseDelegation reads the payload of a delegation strictly, without a
// signature.
func ParseDelegation(payload []byte) (access.Delegation, error) {
	f := read(payload)
	d := access.Delegation{
		Header:     f.header(access.TypeDelegation),
		Action:     access.Action(f.text("action", required, checkDelegates)),
		To:         f.text("to", required, func(s string) error { return access.CheckName("to", s) }),
		Groups:     f.names("groups", access.MaxGroups),
		Delegation: f.text("delegation", optional, checkID),
		Reason:     f.text("reason", optional, line("reason", access.MaxReason)),
	}
	if t := f.time("until", optional); !t.IsZero() {
		d.Until = &t
	}
	switch revoke := d.Action == access.ActionRevoke; {
	case revoke && d.Delegation == "":
		f.fail("field %q is missing: which one is revoked", "delegation")
	case revoke && (d.Until != nil || d.Groups != nil):
		f.fail("until and groups are only for delegating")
	case revoke:
	case d.Delegation != "":
		f.fail("delegation is only for revoking")
	case d.Until == nil:
		f.fail("field %q is missing: no delegation is for ever", "until")
	case !d.Until.After(d.Time):
		f.fail("until is not after the delegation itself")
	case d.Until.After(d.Time.Add(access.MaxDelegation)):
		f.fail("a delegation lasts %s at most", access.ShortDuration(access.MaxDelegation))
	case d.To == d.Signer:
		f.fail("nobody delegates to himself")
	}
	if err := f.end(); err != nil {
		return access.Delegation{}, err
	}
	return d, nil
}

// parse reads a payload of any type for its errors alone.
func parse(payload []byte, typ access.Type) (err error) {
	switch typ {
	case access.TypeRequest:
		_, err = ParseRequest(payload)
	case access.TypeDecision:
		_, err = ParseDecision(payload)
	case access.TypeReview:
		_, err = ParseReview(payload)
	case access.TypeLock:
		_, err = ParseLock(payload)
	case access.TypeDelegation:
		_, err = ParseDelegation(payload)
	case access.TypeHost:
		_, err = ParseJoin(payload)
	case access.TypeRenew:
		_, err = ParseRenewal(payload)
	case access.TypeSession:
		_, err = ParseSession(payload)
	case access.TypeRead:
		_, err = ParseRead(payload)
	default:
		_, err = ParseStop(payload, typ)
	}
	return err
}

func checkType(typ access.Type) error {
	switch typ {
	case access.TypeRequest, access.TypeDecision, access.TypeRelease, access.TypeRevoke, access.TypeCancel, access.TypeReview, access.TypeLock, access.TypeDelegation,
		access.TypeHost, access.TypeRenew, access.TypeSession, access.TypeRead:
		return nil
	}
	return access.Errorf(access.CodeMalformed, "type %q is not one of ours", clip(string(typ)))
}

// fields is a payload taken apart. A field is taken out when it is read, so
// that what is left at the end is unknown. The first failure stays; reading
// goes on with zero values, which nobody sees.
type fields struct {
	values map[string]any // string, json.Number or []string
	err    error
}

func (f *fields) fail(format string, args ...any) {
	f.failed(access.Errorf(access.CodeMalformed, format, args...))
}

func (f *fields) failed(err error) {
	if f.err == nil {
		f.err = err
	}
}

// read takes a payload apart. Values are strings, numbers and lists of
// strings: null, true, false and nested objects don't occur in statements.
func read(payload []byte) *fields {
	f := &fields{values: map[string]any{}}
	switch {
	case len(payload) > access.MaxPayload:
		f.fail("payload is longer than %d bytes", access.MaxPayload)
	case !utf8.Valid(payload):
		f.fail("payload is not valid UTF-8")
	case !json.Valid(payload):
		f.fail("payload is not one JSON object")
	case bytes.TrimLeft(payload, " \t\r\n")[0] != '{':
		f.fail("payload is not a JSON object")
	default:
		f.object(payload)
	}
	return f
}

// object reads what is known to be one valid JSON object.
func (f *fields) object(payload []byte) {
	dec := json.NewDecoder(bytes.NewReader(payload))
	dec.UseNumber()
	next := func() json.Token {
		t, err := dec.Token()
		if err != nil {
			f.fail("payload can't be read: %v", err)
		}
		return t
	}
	next() // the opening brace
	for f.err == nil && dec.More() {
		name, _ := next().(string)
		if _, ok := f.values[name]; ok {
			f.fail("field %q is there twice", clip(name))
			return
		}
		switch v := next().(type) {
		case string, json.Number:
			f.values[name] = v
		case json.Delim:
			if v != '[' {
				f.fail("field %q is an object", clip(name))
				return
			}
			list := []string{}
			for f.err == nil && dec.More() {
				s, ok := next().(string)
				if !ok {
					f.fail("field %q is not a list of strings", clip(name))
					return
				}
				list = append(list, s)
			}
			next() // the closing bracket
			f.values[name] = list
		default: // null, true, false
			f.fail("field %q is neither a string, a number nor a list", clip(name))
			return
		}
	}
}

// end reports the first failure, or a field that nobody asked for.
func (f *fields) end() error {
	if f.err == nil && len(f.values) > 0 {
		var names []string
		for name := range f.values {
			names = append(names, name)
		}
		f.fail("unknown field %q", clip(slices.Min(names)))
	}
	return f.err
}

const (
	required = true
	optional = false
)

// take removes a field and returns its value, which must be of type T. ok is
// false if the field is absent or something is wrong already.
func take[T any](f *fields, name string, required bool, want string) (v T, ok bool) {
	raw, found := f.values[name]
	delete(f.values, name)
	if f.err != nil {
		return v, false
	}
	if !found {
		if required {
			f.fail("field %q is missing", name)
		}
		return v, false
	}
	if v, ok = raw.(T); !ok {
		f.fail("field %q is not %s", name, want)
	}
	return v, ok
}

// text takes a string that passes check. A field with nothing in it is left
// out, not left empty: there is one way to say nothing.
func (f *fields) text(name string, required bool, check func(string) error) string {
	s, ok := take[string](f, name, required, "a string")
	if !ok {
		return ""
	}
	if s == "" {
		f.fail("field %q is empty", name)
		return ""
	}
	// U+FFFD is what a decoder makes of an unpaired surrogate escape. Decoders
	// differ there, so no payload may depend on it.
	if strings.ContainsRune(s, utf8.RuneError) {
		f.fail("field %q contains U+FFFD or an unpaired surrogate", name)
		return ""
	}
	if err := check(s); err != nil {
		f.failed(err)
		return ""
	}
	return s
}

func (f *fields) header(typ access.Type) access.Header {
	return access.Header{
		Type: access.Type(f.text("type", required, func(s string) error {
			if s != string(typ) {
				return access.Errorf(access.CodeMalformed, "type is %q, not %q", clip(s), typ)
			}
			return nil
		})),
		ID:     f.text("id", required, checkID),
		Signer: f.text("signer", required, func(s string) error { return access.CheckName("signer", s) }),
		Time:   f.time("time", required),
	}
}

func (f *fields) time(name string, required bool) time.Time {
	var t time.Time
	f.text(name, required, func(s string) (err error) {
		// Parse alone would let fractions of a second pass. The year 1 is no
		// time but Go's word for none.
		if t, err = time.Parse(timeLayout, s); err != nil || t.Format(timeLayout) != s || t.Year() < 1970 {
			return access.Errorf(access.CodeMalformed, "%s %q is not of the form %s", name, clip(s), timeLayout)
		}
		return nil
	})
	return t
}

func (f *fields) start() *time.Time {
	if t := f.time("start", optional); !t.IsZero() {
		return &t
	}
	return nil
}

func (f *fields) seconds(name string, required bool) access.Seconds {
	n, ok := take[json.Number](f, name, required, "a number")
	if !ok {
		return 0
	}
	v, err := strconv.ParseInt(n.String(), 10, 64)
	if err != nil || v < 1 || v > int64(access.InSeconds(access.MaxGrant)) {
		f.fail("%s %s is not a whole number of seconds from 1 to %d", name, clip(n.String()), access.InSeconds(access.MaxGrant))
		return 0
	}
	return access.Seconds(v)
}

func (f *fields) names(name string, most int) []string {
	return f.list(name, most, func(s string) error { return access.CheckName(name, s) })
}

func (f *fields) list(name string, most int, check func(string) error) []string {
	list, ok := take[[]string](f, name, optional, "a list")
	if !ok {
		return nil
	}
	if len(list) == 0 || len(list) > most {
		f.fail("%s has %d entries, not 1 to %d", name, len(list), most)
		return nil
	}
	for i, s := range list {
		if err := check(s); err != nil {
			f.failed(err)
			return nil
		}
		if slices.Contains(list[:i], s) {
			f.fail("%s has %q twice", name, s)
			return nil
		}
	}
	return list
}

func line(field string, max int) func(string) error {
	return func(s string) error { return access.CheckText(field, s, max) }
}

func form(re *regexp.Regexp, field, want string) func(string) error {
	return func(s string) error {
		if !re.MatchString(s) {
			return access.Errorf(access.CodeMalformed, "%s %q is not %s", field, clip(s), want)
		}
		return nil
	}
}

var (
	checkID   = form(idForm, "id", "a UUIDv7 in lower case")
	checkHash = form(hashForm, "request_hash", "a SHA-256 in lower-case hex")
)

func checkAction(s string) error {
	if a := access.Action(s); a != access.ActionLock && a != access.ActionUnlock {
		return access.Errorf(access.CodeMalformed, "action %q is not lock or unlock", clip(s))
	}
	return nil
}

func checkDelegates(s string) error {
	if a := access.Action(s); a != access.ActionDelegate && a != access.ActionRevoke {
		return access.Errorf(access.CodeMalformed, "action %q is not delegate or revoke", clip(s))
	}
	return nil
}

func checkMode(s string) error {
	if s != access.ModeEmergency {
		return access.Errorf(access.CodeMalformed, "mode %q is not %s", clip(s), access.ModeEmergency)
	}
	return nil
}

func checkVerdict(s string) error {
	if v := access.Verdict(s); v != access.Approve && v != access.Deny {
		return access.Errorf(access.CodeMalformed, "verdict %q is not approve or deny", clip(s))
	}
	return nil
}
