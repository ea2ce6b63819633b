package audit

import (
	"bytes"
	"encoding/json"
	"strings"
	"time"
	"unicode"

	"hallpass/access"
	"hallpass/internal/wording"
)

// Types of events.
const (
	RulebookChanged    = "rulebook.changed"    // File: a version of policy, directory or catalog, once per digest
	RulebookBroken     = "rulebook.broken"     // Why: a changed file that can't be read; the old one stays in force
	RequestReceived    = "request.received"    // Statement: the request
	RequestLimited     = "request.limited"     // Why: a limit of policy left no room for it
	RequestRuled       = "request.ruled"       // Ruling: what policy says of it
	RequestEscalated   = "request.escalated"   // Asked: who was asked or told, because nobody had decided for so long
	DecisionAccepted   = "decision.accepted"   // Statement: a decision that counts; a denial that ends the request is in that end
	StatementRefused   = "statement.refused"   // Statement, Code, Why: a message that changed nothing
	CredentialPrepared = "credential.prepared" // Handle: chosen, in the ledger, nothing granted yet; Extended
	CredentialIssued   = "credential.issued"   // Evidence, Ruling, Credential: durable before the credential leaves the issuer
	CredentialRefused  = "credential.refused"  // Evidence, Code, Why: the issuer said no
	RequestDenied      = "request.denied"      // State: the request's end
	RequestTimedOut    = "request.timed-out"   // State: the request's end
	RequestCancelled   = "request.cancelled"   // State, Statement: the request's end
	GrantExtended      = "grant.extended"      // Handle: of the request that extends it; with that one's credential.prepared
	GrantExpired       = "grant.expired"       // State: the request's end
	GrantReleased      = "grant.released"      // State, Statement: the request's end
	GrantRevoked       = "grant.revoked"       // State, Statement: the request's end
	EmergencyGranted   = "emergency.granted"   // Ruling: somebody broke the glass; with its credential.issued
	ReviewOpened       = "review.opened"       // the same under no request, for looking up what is open
	ReviewSigned       = "review.signed"       // Statement: somebody has signed an access by break-glass off
	ReviewOverdue      = "review.overdue"      // Why: the time for it is over, and nobody or too few have
	ReviewDone         = "review.done"         // Why: everybody has who had to
	LockSet            = "lock.set"            // Statement: a user, resource or host is locked from here on
	LockLifted         = "lock.lifted"         // Statement: a lock is no more
	DelegationGiven    = "delegation.given"    // Statement: somebody may decide in another's place from here on
	DelegationRevoked  = "delegation.revoked"  // Statement: he may no more
)

// Types lists all event types.
func Types() []string {
	return append([]string{
		RulebookChanged, RulebookBroken,
		RequestReceived, RequestLimited, RequestRuled, RequestEscalated, DecisionAccepted, StatementRefused,
		CredentialPrepared, CredentialIssued, CredentialRefused,
		RequestDenied, RequestTimedOut, RequestCancelled,
		GrantExtended, GrantExpired, GrantReleased, GrantRevoked,
		EmergencyGranted, ReviewOpened, ReviewSigned, ReviewOverdue, ReviewDone,
		LockSet, LockLifted, DelegationGiven, DelegationRevoked,
	}, append(hostTypes(), sweepTypes()...)...)
}

var known = func() map[string]bool {
	known := map[string]bool{}
	for _, typ := range Types() {
		known[typ] = true
	}
	return known
}()

// ends says which event tells of which end. The final states are its keys.
var ends = map[access.State]string{
	access.StateDenied:    RequestDenied,
	access.StateTimedOut:  RequestTimedOut,
	access.StateCancelled: RequestCancelled,
	access.StateExpired:   GrantExpired,
	access.StateReleased:  GrantReleased,
	access.StateRevoked:   GrantRevoked,
}

// ledgered says whether an event of this type goes with a change of the ledger,
// or is one.
func ledgered(typ string) bool {
	for _, end := range ends {
		if typ == end {
			return true
		}
	}
	return typ == CredentialPrepared || typ == CredentialIssued || typ == LockSet || typ == LockLifted || typ == DelegationGiven || typ == DelegationRevoked ||
		typ == GrantExtended || typ == EmergencyGranted || typ == ReviewOpened || typ == HostEnrolled || typ == HostCertified || typ == SweepOrphan || typ == SweepStray
}

// Bounds on what one event may hold.
const (
	MaxEvent     = 32 << 20 // bytes of a leaf; a rulebook file has to fit
	MaxStatement = 64 << 10 // bytes of a refused statement that is kept whole
	maxStep      = 200      // bytes of a step
	maxWhy       = 4000     // bytes of a reason; the rest is cut off
)

// version of the event format. It is in every event, so that a reader knows
// what it is looking at.
const version = 1

// Event is one thing that happened. It holds no secrets: statements are
// public, credentials are public or encrypted to the requester.
//
// Time has milliseconds, UTC; Append puts in the log's clock where it is zero.
// Requester and Resource say whose request it is about; where they are empty,
// Append takes them from the request's earlier events.
type Event struct {
	Version     int                `json:"v"` // 1; set by Append
	Time        time.Time          `json:"time"`
	Type        string             `json:"type"`
	Request     string             `json:"request,omitempty"`      // the request's id
	RequestHash string             `json:"request_hash,omitempty"` // SHA-256 of the request's payload, lower-case hex
	Step        string             `json:"step,omitempty"`         // with Request, what makes Append idempotent; "" is never the same
	Actor       string             `json:"actor,omitempty"`        // whose word or deed it is; "" is hallpass's own
	Requester   string             `json:"requester,omitempty"`    // who the access is for
	Resource    string             `json:"resource,omitempty"`     // "kind/name"
	State       access.State       `json:"state,omitempty"`        // with the events that end a request
	Code        access.Code        `json:"code,omitempty"`         // with refusals
	Why         string             `json:"why,omitempty"`          // one line for people
	Digests     *access.Digests    `json:"digests,omitempty"`      // the files it was judged by; they must be in the log
	Locks       int64              `json:"locks,omitempty"`        // with lock and credential.issued events: it was judged under the locks that so many lock statements before it make
	Statement   *access.Statement  `json:"statement,omitempty"`
	Oversized   string             `json:"oversized,omitempty"` // SHA-256 of the payload of a refused statement too big to keep, lower-case hex
	Evidence    *access.Evidence   `json:"evidence,omitempty"`
	Ruling      *access.Ruling     `json:"ruling,omitempty"`
	Handle      *access.Handle     `json:"handle,omitempty"`
	Credential  *access.Credential `json:"credential,omitempty"`
	File        *File              `json:"file,omitempty"`
	Host        *Host              `json:"host,omitempty"`     // with enrolments and host certificates
	Asked       *access.Asking     `json:"asked,omitempty"`    // with request.escalated
	Extended    *Extended          `json:"extended,omitempty"` // with credential.prepared: of the grant that it extends
}

// Extended is when a grant that is extended ends, and when the first one of its
// row began: what the length of an extension is judged by.
type Extended struct {
	Begin time.Time `json:"begin"`
	End   time.Time `json:"end"`
}

// File is one version of a rulebook file.
type File struct {
	Name    string `json:"name"`    // policy, directory or catalog
	Digest  string `json:"digest"`  // "sha256:" and lower-case hex
	Content string `json:"content"` // the bytes of the file
}

// The names of rulebook files.
const (
	FilePolicy    = "policy"
	FileDirectory = "directory"
	FileCatalog   = "catalog"
)

// digests are the rulebook files that e was judged by, or nil.
func (e *Event) digests() *access.Digests {
	switch {
	case e.Digests != nil:
		return e.Digests
	case e.Ruling != nil && e.Ruling.Digests != (access.Digests{}):
		return &e.Ruling.Digests
	}
	return nil
}

// cited is one file that an event cites.
type cited struct{ name, digest string }

// each lists the files that d names.
func each(d *access.Digests) []cited {
	return []cited{{FilePolicy, d.Policy}, {FileDirectory, d.Directory}, {FileCatalog, d.Catalog}}
}

// normalize brings e into the one form in which it is recorded.
func (e *Event) normalize(now time.Time) error {
	e.Version = version
	if e.Time.IsZero() {
		e.Time = now
	}
	e.Time = e.Time.UTC().Truncate(time.Millisecond)
	e.Why = wording.Clip(e.Why, maxWhy)
	for _, s := range []*string{&e.Type, &e.Request, &e.Step, &e.Actor, &e.Requester, &e.Resource, &e.Why} {
		*s = plain(*s)
	}
	e.Why = strings.Map(func(r rune) rune {
		if unicode.In(r, unicode.C, unicode.Zl, unicode.Zp) {
			return '?' // it is shown to people, and may quote what a stranger sent
		}
		return r
	}, e.Why)
	if s := e.Statement; e.Type == StatementRefused && s != nil && len(s.Payload)+len(s.Signature) > MaxStatement {
		e.Oversized, e.Statement = s.Hash(), nil
	}
	return e.check()
}

// plain is s as text that every database takes.
func plain(s string) string {
	return strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\x00", "\uFFFD")
}

func (e *Event) check() error {
	switch {
	case e.Version != version:
		return access.Errorf(access.CodeMalformed, "event version %d is not %d", e.Version, version)
	case !known[e.Type]:
		return access.Errorf(access.CodeMalformed, "event type %q is unknown", clip(e.Type))
	case len(e.Step) > maxStep:
		return access.Errorf(access.CodeMalformed, "event step is longer than %d bytes", maxStep)
	case len(e.Request) > maxStep:
		return access.Errorf(access.CodeMalformed, "event request is longer than %d bytes", maxStep)
	case e.Time.Year() < 2000 || e.Time.Year() > 9999:
		return access.Errorf(access.CodeMalformed, "event time %s is out of range", e.Time.Format(time.RFC3339))
	case e.Type == RulebookChanged && e.File == nil:
		return access.Errorf(access.CodeMalformed, "%s event without a file", e.Type)
	case e.Type == RequestEscalated && e.Asked == nil:
		return access.Errorf(access.CodeMalformed, "%s event without who was asked", e.Type)
	case (e.Type == EmergencyGranted || e.Type == ReviewOpened) && (e.Ruling == nil || e.Ruling.Emergency == nil):
		return access.Errorf(access.CodeMalformed, "%s event without an emergency", e.Type)
	case (e.Type == CredentialPrepared || e.Type == GrantExtended) && e.Handle == nil:
		return access.Errorf(access.CodeMalformed, "%s event without a handle", e.Type)
	case e.Type == CredentialIssued && (e.Credential == nil || e.Evidence == nil):
		return access.Errorf(access.CodeMalformed, "%s event without credential and evidence", e.Type)
	}
	return nil
}

// encode is e's leaf: the bytes that are hashed, stored and proven.
func (e *Event) encode() ([]byte, error) {
	leaf, err := json.Marshal(e)
	if err == nil && bytes.Contains(leaf, []byte(`\ufffd`)) {
		// Invalid UTF-8 becomes this escape once and the character itself
		// ever after. Take the form that stays.
		var again Event
		if err = json.Unmarshal(leaf, &again); err == nil {
			leaf, err = json.Marshal(&again)
		}
	}
	if err != nil {
		return nil, access.Errorf(access.CodeMalformed, "event can't be written as JSON: %v", err)
	}
	if len(leaf) > MaxEvent {
		return nil, access.Errorf(access.CodeMalformed, "event of %d bytes is longer than %d", len(leaf), MaxEvent)
	}
	return leaf, nil
}

// ParseEvent reads a leaf. It takes only the one form that the log writes:
// unknown and repeated fields, another order, white space and trailing data
// are refused.
func ParseEvent(leaf []byte) (Event, error) {
	if len(leaf) > MaxEvent {
		return Event{}, access.Errorf(access.CodeMalformed, "event of %d bytes is longer than %d", len(leaf), MaxEvent)
	}
	if e, ok := parseText(leaf); ok {
		return e, nil
	}
	return parseJSON(leaf)
}

// parseJSON reads a leaf whatever is in it.
func parseJSON(leaf []byte) (e Event, err error) {
	if err := json.Unmarshal(leaf, &e); err != nil {
		return Event{}, access.Errorf(access.CodeMalformed, "event is not the JSON it should be: %v", err)
	}
	if err := e.check(); err != nil {
		return Event{}, err
	}
	// What json.Unmarshal overlooks, writing it again doesn't.
	again, err := e.encode()
	if err != nil {
		return Event{}, err
	}
	if !bytes.Equal(again, leaf) {
		return Event{}, access.Errorf(access.CodeMalformed, "event is not in the form that the log writes (unknown, repeated or misplaced field)")
	}
	return e, nil
}

// parseText is a short way for leaves that have nothing in them but text, which
// is written as it is. What it takes, parseJSON takes as well, and reads the same;
// of what it doesn't take it says nothing.
func parseText(leaf []byte) (e Event, ok bool) {
	rest, ok := bytes.CutPrefix(leaf, []byte(`{"v":1`))
	if !ok {
		return e, false
	}
	e.Version = version
	var at string
	for _, field := range [...]struct {
		name string
		to   *string
	}{
		{`,"time":"`, &at}, {`,"type":"`, &e.Type}, {`,"request":"`, &e.Request}, {`,"request_hash":"`, &e.RequestHash}, {`,"step":"`, &e.Step},
		{`,"actor":"`, &e.Actor}, {`,"requester":"`, &e.Requester}, {`,"resource":"`, &e.Resource}, {`,"state":"`, (*string)(&e.State)},
		{`,"code":"`, (*string)(&e.Code)}, {`,"why":"`, &e.Why},
	} {
		value, has := bytes.CutPrefix(rest, []byte(field.name))
		if !has {
			continue
		}
		n := 0
		for n < len(value) && asItIs[value[n]] {
			n++
		}
		if n == 0 || n == len(value) || value[n] != '"' {
			return e, false
		}
		*field.to, rest = string(value[:n]), value[n+1:]
	}
	var err error
	if e.Time, err = time.Parse(time.RFC3339Nano, at); err != nil || e.Time.Location() != time.UTC || e.Time.Format(time.RFC3339Nano) != at {
		return e, false
	}
	return e, string(rest) == "}" && e.check() == nil
}

// asItIs are the bytes that stand for themselves in what encoding/json writes.
var asItIs = func() (is [256]bool) {
	for c := byte(' '); c <= '~'; c++ {
		is[c] = !strings.ContainsRune(`"\<>&`, rune(c))
	}
	return is
}()

// clip keeps an unchecked string short enough to quote in an error.
func clip(s string) string { return wording.Short(s) }
