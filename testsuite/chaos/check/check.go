// Package check says whether access was given as it should have been, by what
// can be seen from outside: the exported audit log, the certificates that
// people received, the logins that an sshd took, those of Vault's that a database
// took, and what was left behind.
//
// It shares no code with hallpass, so that a flaw there isn't here as well.
// Signatures are checked by ssh-keygen, certificates by golang.org/x/crypto/ssh,
// and the log's tree is computed anew (RFC 6962).
package check

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
)

// Rule is something that has to hold, whatever happens.
type Rule string

// The rules.
const (
	Approved Rule = "no access without enough approvals"
	Begun    Rule = "no access before its start"
	InTime   Rule = "no access after its end"
	Recorded Rule = "no access without its record"
	Ends     Rule = "every request ends"
	OneLog   Rule = "the audit log verifies and is one"
	Behind   Rule = "nothing stays behind"
)

// Rules lists all of them.
func Rules() []Rule { return []Rule{Approved, Begun, InTime, Recorded, Ends, OneLog, Behind} }

// Violation is a rule that didn't hold, and where.
type Violation struct {
	Rule Rule
	What string
}

func (v Violation) String() string { return string(v.Rule) + ": " + v.What }

// Person is somebody with a key.
type Person struct {
	Key    ssh.PublicKey
	Groups []string
}

// Need is what access to a resource takes: for each set, so many approvals by
// distinct people of its group, none of them the requester.
type Need []Set

// Set is one of them.
type Set struct {
	Count int
	Group string
}

// World is what was arranged beforehand.
type World struct {
	People    map[string]Person
	Resources map[string]Need // "ssh/name", and "vault/name" where Vault makes logins to a database
	Lockers   string          // the group that may lock
	Login     string          // the only one there is
	CA        ssh.PublicKey
	Lag       time.Duration // for which a database may take a login after its end, since Vault or the database was away
	Skew      time.Duration // by how far the clock of an issuer that issues was ahead at most, in Seen.Ahead
	Making    time.Duration // how long whoever reads a login of Vault's waits for it
}

// Held is a certificate that somebody has received.
type Held struct {
	Request     string
	Certificate string // as in an authorized_keys file
	At          time.Time
}

// Login is an attempt to log in with a certificate.
type Login struct {
	Request string
	Began   time.Time // all clocks are the one of the machine
	Worked  bool
	List    time.Time // when the host began to fetch the key revocation list that it had
}

// Opened is a login to a database that somebody has received of Vault.
type Opened struct {
	Request string
	At      time.Time
}

// Over is a request whose early end somebody was told of: from then on, a host
// that fetches the list lets nobody in on it.
type Over struct {
	Request string
	At      time.Time
}

// Locked is a lock of which somebody was told that nothing lives under it any
// more, or an unlock of which he was told that it worked.
type Locked struct {
	Lock               string // its id
	Payload, Signature string // what he said
	At                 time.Time
}

// Ahead is a time in which an issuer's clock was ahead.
type Ahead struct {
	From, To time.Time
	Whole    bool // so were the clocks of all parts, and what waits for a start didn't wait for it
}

// Span is the time between two moments.
type Span struct{ From, To time.Time }

// Stray is a login that is in the database when all is over.
type Stray struct {
	Login   string // its name, as Vault makes them: it ends with when that was, in seconds since 1970
	Request string // of whoever was given it; "": nobody was
}

// Seen is all that is judged.
type Seen struct {
	World       World
	Exports     [][]byte // of the log as JSON Lines, in the order in which they were made
	Checkpoints [][]byte // signed notes, kept meanwhile
	Unverified  []string // what hallpass audit verify complained of, by itself and of each checkpoint
	Asked       []string // ids of requests that were taken
	Held        []Held
	Logins      []Login
	HostLog     string // sshd's, at LogLevel VERBOSE
	Opened      []Opened
	Database    []Login // attempts to log in to the database with what was opened, which knows no list
	Over        []Over
	Stopped     []string // requests whose denial or early end was accepted
	Locked      []Locked
	Ahead       []Ahead
	Broken      []Span // when Vault or its database was broken, a way to either, or between them
	Strays      []Stray
	Left        []string // what is there that shouldn't be
}

// event is what is read of an audit event; docs/spec/audit-log.md has all.
type event struct {
	Time      time.Time  `json:"time"`
	Type      string     `json:"type"`
	Request   string     `json:"request"`
	Requester string     `json:"requester"`
	Resource  string     `json:"resource"`
	Code      string     `json:"code"`
	Statement *statement `json:"statement"`
	Evidence  *struct {
		Request   statement   `json:"request"`
		Decisions []statement `json:"decisions"`
	} `json:"evidence"`
	Credential *struct {
		Certificate string `json:"certificate"`
		Handle      struct {
			Accessor  string    `json:"accessor"`
			NotBefore time.Time `json:"not_before"`
			NotAfter  time.Time `json:"not_after"`
		} `json:"handle"`
	} `json:"credential"`
	Ruling *struct {
		At time.Time `json:"at"`
	} `json:"ruling"`
}

// judged is when the issuer judged, by its own clock: that may have been put back
// before it wrote the event.
func (e event) judged() time.Time {
	if e.Ruling != nil && e.Ruling.At.After(e.Time) {
		return e.Ruling.At
	}
	return e.Time
}

type statement struct {
	Payload   string `json:"payload"`
	Signature string `json:"signature"`
}

// word is what is read of any statement's payload.
type word struct {
	Type        string     `json:"type"`
	ID          string     `json:"id"`
	Signer      string     `json:"signer"`
	Time        time.Time  `json:"time"`
	Resource    string     `json:"resource"`
	Login       string     `json:"login"`
	Duration    int64      `json:"duration"`
	Start       *time.Time `json:"start"`
	PublicKey   string     `json:"public_key"`
	Extends     string     `json:"extends"`
	Request     string     `json:"request"`
	RequestHash string     `json:"request_hash"`
	Verdict     string     `json:"verdict"`
	Action      string     `json:"action"`
	Kind        string     `json:"kind"`
	Name        string     `json:"name"`
	Until       *time.Time `json:"until"`
	Lock        string     `json:"lock"`
}

// ends are the events that end a request.
var ends = map[string]bool{
	"request.denied": true, "request.timed-out": true, "request.cancelled": true,
	"grant.expired": true, "grant.released": true, "grant.revoked": true,
}

// checker is one check under way.
type checker struct {
	Seen
	ctx        context.Context
	keys       *keyring
	violations []Violation

	events []event
	locks  map[string]set       // by id: all that there were
	had    map[string]time.Time // by request: when somebody first had what it gave
	issued map[string]*issued   // by request
	ended  map[string]int       // by request: the event that ended it
}

// set is a lock on record.
type set struct {
	at int // its event
	word
}

// issued is a credential on record: a certificate, or the accessor of a token of
// Vault's.
type issued struct {
	at       int // its event
	line     string
	cert     *ssh.Certificate // nil: Vault's
	who      string
	resource string
	ends     time.Time
	asked    time.Time
	starts   time.Time     // not before; zero: at once
	duration time.Duration // that was asked for, and left by approvers
	extends  string
}

// Check judges what was seen. An error means that it couldn't.
func Check(ctx context.Context, s Seen) (_ []Violation, err error) {
	c := &checker{Seen: s, ctx: ctx, locks: map[string]set{}, had: map[string]time.Time{}, issued: map[string]*issued{}, ended: map[string]int{}}
	for _, h := range s.Held {
		first(c.had, h.Request, h.At)
	}
	for _, o := range s.Opened {
		first(c.had, o.Request, o.At)
	}
	if c.keys, err = newKeyring(s.World.People); err != nil {
		return nil, err
	}
	defer func() { err = c.keys.close(err) }()
	if c.log() {
		c.record()
		c.requests()
		c.certificates()
		c.logins()
		c.database()
	}
	c.strays()
	for _, what := range s.Left {
		c.violated(Behind, "%s", what)
	}
	return c.violations, c.keys.broken
}

// first keeps the earliest time of each request.
func first(times map[string]time.Time, request string, at time.Time) {
	if was, known := times[request]; !known || at.Before(was) {
		times[request] = at
	}
}

func (c *checker) violated(r Rule, format string, args ...any) {
	c.violations = append(c.violations, Violation{r, fmt.Sprintf(format, args...)})
}

// log reads the last export, and sees that all others and the checkpoints are
// of the same log.
func (c *checker) log() bool {
	for _, what := range c.Unverified {
		c.violated(OneLog, "%s", what)
	}
	if len(c.Exports) == 0 {
		c.violated(OneLog, "there is none")
		return false
	}
	last := c.Exports[len(c.Exports)-1]
	for i, earlier := range c.Exports {
		if !bytes.HasPrefix(last, earlier) {
			c.violated(OneLog, "export %d of %d isn't how the last one begins", i+1, len(c.Exports))
		}
	}
	var leaves [][]byte
	for line := range bytes.Lines(last) {
		var l struct {
			Index int             `json:"index"`
			Event json.RawMessage `json:"event"`
		}
		var e event
		if err := json.Unmarshal(line, &l); err != nil {
			c.violated(OneLog, "line %d of the export: %v", len(leaves)+1, err)
			return false
		}
		if err := json.Unmarshal(l.Event, &e); err != nil {
			c.violated(OneLog, "event %d: %v", l.Index, err)
			return false
		}
		if l.Index != len(leaves) {
			c.violated(OneLog, "event %d follows %d events", l.Index, len(leaves))
			return false
		}
		leaves, c.events = append(leaves, l.Event), append(c.events, e)
	}
	for i, note := range c.Checkpoints {
		size, root, err := parseNote(note)
		switch {
		case err != nil:
			c.violated(OneLog, "checkpoint %d: %v", i+1, err)
		case size > len(leaves):
			c.violated(OneLog, "checkpoint %d is of %d events, and there are %d", i+1, size, len(leaves))
		case !bytes.Equal(root, tree(leaves[:size])):
			c.violated(OneLog, "checkpoint %d is of another log", i+1)
		}
	}
	return true
}

// record goes through the log in its order: what was locked when, which
// credentials were issued on what, and what ended.
func (c *checker) record() {
	locks := map[string]word{} // that nobody has lifted, by id
	denied := map[string]bool{}
	taken := map[string]string{} // by serial or accessor
	lifts := map[string]bool{}   // unlocks by id
	for i, e := range c.events {
		if w, about := c.locking(e.Statement); about && e.Type != "statement.refused" && !c.entitled(e.Statement) {
			c.violated(Approved, "event %d: %s by %s, a lock that nobody entitled has signed", i, e.Type, w.Signer)
			continue
		}
		switch {
		case e.Type == "lock.set" || e.Type == "lock.lifted":
			if w, about := c.locking(e.Statement); !about {
				c.violated(Approved, "event %d: a lock that nobody has signed", i)
			} else if w.Action == "unlock" {
				lifts[w.ID] = true
				delete(locks, w.Lock)
			} else {
				locks[w.ID], c.locks[w.ID] = w, set{i, w}
			}
		case e.Type == "decision.accepted":
			if w, ok := c.said(e.Statement, "decision"); ok && w.Verdict == "deny" {
				denied[w.Request] = true
			}
		case ends[e.Type]:
			if first, twice := c.ended[e.Request]; twice {
				c.violated(Ends, "request %s ends twice, by events %d and %d", e.Request, first, i)
				continue
			}
			c.ended[e.Request] = i
		case e.Type == "credential.issued":
			is, ok := c.issue(i, e, locks)
			if !ok {
				continue
			}
			if denied[e.Request] {
				c.violated(Approved, "event %d: request %s was denied before it was granted", i, e.Request)
			}
			if other, twice := taken[is.name(e)]; twice {
				c.violated(Recorded, "requests %s and %s have one %s", other, e.Request, is.name(e))
			}
			if _, twice := c.issued[e.Request]; twice {
				c.violated(Recorded, "request %s was issued twice", e.Request)
			}
			if end, over := c.ended[e.Request]; over {
				c.violated(InTime, "event %d: request %s was granted, and had ended by event %d", i, e.Request, end)
			}
			taken[is.name(e)], c.issued[e.Request] = e.Request, is
		}
	}
	for _, l := range c.Locked {
		_, known := c.locks[l.Lock]
		st := &statement{l.Payload, l.Signature}
		if w, about := c.locking(st); !about || w.ID != l.Lock || !c.entitled(st) {
			c.violated(Approved, "lock %s wasn't refused, and nobody entitled has signed it", l.Lock)
		} else if !known && !lifts[l.Lock] {
			c.violated(Recorded, "lock %s was said to be in force, and isn't on record", l.Lock)
		}
	}
}

// locking reads a statement that claims to be a lock or an unlock.
func (c *checker) locking(st *statement) (w word, about bool) {
	if st == nil || json.Unmarshal([]byte(st.Payload), &w) != nil {
		return w, false
	}
	return w, w.Type == "lock"
}

// entitled says whether somebody has signed a lock or an unlock who may.
func (c *checker) entitled(st *statement) bool {
	w, ok := c.said(st, "lock")
	return ok && c.in(w.Signer, c.World.Lockers)
}

// name is what nobody else's credential has.
func (is *issued) name(e event) string {
	if is.cert == nil {
		return "accessor " + e.Credential.Handle.Accessor
	}
	return fmt.Sprintf("serial %d", is.cert.Serial)
}

// issue judges one credential: who asked, who approved, what is in it.
func (c *checker) issue(i int, e event, locks map[string]word) (*issued, bool) {
	bad := func(format string, args ...any) (*issued, bool) {
		c.violated(Approved, "event %d, request %s: %s", i, e.Request, fmt.Sprintf(format, args...))
		return nil, false
	}
	if e.Evidence == nil || e.Credential == nil {
		return bad("issued on no evidence")
	}
	asked, ok := c.said(&e.Evidence.Request, "request")
	if !ok {
		return bad("%s hasn't signed it", asked.Signer)
	}
	if asked.ID != e.Request || asked.Signer != e.Requester || asked.Resource != e.Resource {
		return bad("%s asked for %s in request %s", asked.Signer, asked.Resource, asked.ID)
	}
	need, known := c.World.Resources[asked.Resource]
	if !known {
		return bad("%s isn't there to be had", asked.Resource)
	}
	is := &issued{
		at: i, line: e.Credential.Certificate, who: asked.Signer, resource: asked.Resource,
		asked: asked.Time, duration: time.Duration(asked.Duration) * time.Second, extends: asked.Extends,
	}
	if asked.Start != nil {
		is.starts = *asked.Start
	}
	if begins := e.Credential.Handle.NotBefore; begins.Before(is.starts) {
		c.violated(Begun, "event %d: request %s was granted from %s before its start on", i, e.Request, is.starts.Sub(begins))
	}
	// The issuer judged by its own clock, and no later than somebody had it.
	judged := e.judged()
	if had, known := c.had[e.Request]; known {
		if latest := had.Add(c.ahead(asked.Time, had)); latest.Before(judged) {
			judged = latest
		}
	}
	sum := sha256.Sum256([]byte(e.Evidence.Request.Payload))
	hash := hex.EncodeToString(sum[:])
	voices := map[string]bool{}
	for _, st := range e.Evidence.Decisions {
		w, ok := c.said(&st, "decision")
		switch {
		case !ok || w.Request != asked.ID || w.RequestHash != hash || w.Signer == asked.Signer:
			continue // counts for nothing, so it can't be what was missing
		case w.Verdict == "deny":
			return bad("%s has denied it", w.Signer)
		case w.Verdict == "approve" && !c.locked(locks, "user", w.Signer, judged):
			voices[w.Signer] = true
			if w.Duration > 0 {
				is.duration = min(is.duration, time.Duration(w.Duration)*time.Second)
			}
		}
	}
	if !c.enough(need, slices.Sorted(maps.Keys(voices))) {
		return bad("%s for %s takes %v, and there are %v", asked.Resource, asked.Signer, need, slices.Sorted(maps.Keys(voices)))
	}
	if c.locked(locks, "user", asked.Signer, judged) || c.locked(locks, "resource", asked.Resource, judged) {
		return bad("%s or %s was locked", asked.Signer, asked.Resource)
	}
	if strings.HasPrefix(asked.Resource, "vault/") {
		is.ends = e.Credential.Handle.NotAfter
		if e.Credential.Handle.Accessor == "" || is.line != "" {
			return bad("it was given no token of Vault's")
		}
		return is, true
	}
	cert, err := parseCertificate(is.line)
	if err != nil {
		return bad("%v", err)
	}
	is.cert, is.ends = cert, time.Unix(int64(cert.ValidBefore), 0)
	checker := ssh.CertChecker{
		IsUserAuthority: func(k ssh.PublicKey) bool { return bytes.Equal(k.Marshal(), c.World.CA.Marshal()) },
		Clock:           func() time.Time { return time.Unix(int64(cert.ValidBefore)-1, 0) },
	}
	_, name, _ := strings.Cut(asked.Resource, "/")
	principal := name + "/" + asked.Login
	switch key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(asked.PublicKey)); {
	case err != nil || !bytes.Equal(key.Marshal(), cert.Key.Marshal()):
		return bad("the certificate is for another key than the one that %s asked for", asked.Signer)
	case cert.CertType != ssh.UserCert || !slices.Equal(cert.ValidPrincipals, []string{principal}):
		return bad("the certificate is for %q, not %s", cert.ValidPrincipals, principal)
	case !checker.IsUserAuthority(cert.SignatureKey):
		return bad("the certificate is by another CA")
	}
	if err := checker.CheckCert(principal, cert); err != nil {
		return bad("the certificate doesn't verify: %v", err)
	}
	return is, true
}

// enough says whether distinct people fill all sets. It tries all ways.
func (c *checker) enough(need Need, voices []string) bool {
	for i, set := range need {
		if set.Count == 0 {
			continue
		}
		rest := slices.Clone(need)
		rest[i].Count--
		for k, who := range voices {
			if c.in(who, set.Group) && c.enough(rest, slices.Delete(slices.Clone(voices), k, k+1)) {
				return true
			}
		}
		return false
	}
	return true
}

func (c *checker) in(who, group string) bool {
	return slices.Contains(c.World.People[who].Groups, group)
}

// locked says whether something was locked at a time.
func (c *checker) locked(locks map[string]word, kind, name string, at time.Time) bool {
	for _, w := range locks {
		if w.Kind == kind && w.Name == name && (w.Until == nil || at.Before(*w.Until)) {
			return true
		}
	}
	return false
}

// requests sees that each has ended. What was refused before it was taken for a
// request, such as an extension of what was never granted, has no other end.
func (c *checker) requests() {
	known, refused := map[string]bool{}, map[string]bool{}
	for _, e := range c.events {
		switch e.Type {
		case "request.received":
			known[e.Request] = true
		case "statement.refused":
			if w, ok := c.said(e.Statement, "request"); ok && w.ID == e.Request {
				refused[e.Request] = true
			}
		}
	}
	for _, id := range c.Asked {
		if !known[id] && !refused[id] {
			c.violated(Ends, "request %s was taken, and isn't on record", id)
		}
	}
	for _, id := range slices.Sorted(maps.Keys(known)) {
		if _, over := c.ended[id]; !over {
			c.violated(Ends, "request %s has no end", id)
		}
	}
	for _, id := range c.Stopped {
		if end, over := c.ended[id]; over {
			if typ := c.events[end].Type; typ == "grant.expired" || typ == "request.timed-out" {
				c.violated(InTime, "request %s was stopped, and ended as %s", id, typ)
			}
		}
	}
}

// ahead is how far an issuer's clock may have been ahead between two moments.
func (c *checker) ahead(from, to time.Time) time.Duration {
	for _, s := range c.Ahead {
		if s.From.Before(to) && s.To.After(from) {
			return c.World.Skew
		}
	}
	return 0
}

// early sees that nobody had access before its start.
func (c *checker) early(is *issued, request, what string, at time.Time) {
	most := time.Duration(0)
	for _, a := range c.Ahead {
		if a.Whole && a.From.Before(at) && a.To.After(is.asked) {
			most = c.World.Skew
		}
	}
	if early := is.starts.Sub(at); early > most {
		c.violated(Begun, "%s request %s, %s before its start", what, request, early)
	}
}

// certificates holds those that people have against those on record.
func (c *checker) certificates() {
	for _, h := range c.Held {
		is := c.issued[h.Request]
		if is == nil || strings.TrimSpace(is.line) != strings.TrimSpace(h.Certificate) {
			c.violated(Recorded, "the certificate of request %s isn't on record", h.Request)
			continue
		}
		c.early(is, h.Request, "somebody had the certificate of", h.At)
		// It began no later than it was received.
		latest := h.At.Add(is.duration + c.ahead(is.asked, h.At))
		if extended := c.issued[is.extends]; is.extends != "" {
			if extended == nil {
				c.violated(Approved, "request %s extends %s, which was never granted", h.Request, is.extends)
				continue
			}
			latest = extended.ends.Add(is.duration)
		}
		if is.ends.After(latest) {
			c.violated(InTime, "the certificate of request %s ends %s later than was approved", h.Request, is.ends.Sub(latest))
		}
	}
}

// What sshd writes about a login, and about one with a certificate.
var (
	letIn    = regexp.MustCompile(`\bAccepted \S+ for `)
	accepted = regexp.MustCompile(`\bAccepted publickey for (\S+) from .* ID (\S+) \(serial (\d+)\) CA `)
)

// over says since when somebody knew of each early end, be it by a lock that it
// lived under.
func (c *checker) over() map[string]time.Time {
	over := map[string]time.Time{}
	for _, o := range c.Over {
		first(over, o.Request, o.At)
	}
	for _, l := range c.Locked {
		lock := c.locks[l.Lock]
		for id, is := range c.issued {
			end, ended := c.ended[id]
			lived := is.at < lock.at && (!ended || end > lock.at && c.events[end].Type != "grant.expired")
			if lived && (lock.Kind == "user" && lock.Name == is.who || lock.Kind == "resource" && lock.Name == is.resource) {
				first(over, id, l.At)
			}
		}
	}
	return over
}

// database holds the logins that Vault gave against the record.
func (c *checker) database() {
	for _, o := range c.Opened {
		is := c.issued[o.Request]
		if is == nil {
			c.violated(Recorded, "a login to the database was given on request %s, which has no token on record", o.Request)
			continue
		}
		c.early(is, o.Request, "somebody had the login of", o.At)
		if latest := o.At.Add(is.duration + c.ahead(is.asked, o.At)); is.ends.After(latest) {
			c.violated(InTime, "the token of request %s ends %s later than was approved", o.Request, is.ends.Sub(latest))
		}
	}
	over := c.over()
	for _, l := range c.Database {
		is := c.issued[l.Request]
		if !l.Worked || is == nil {
			continue
		}
		ended := is.ends
		if at, early := over[l.Request]; early && at.Before(ended) {
			ended = at
		}
		c.early(is, l.Request, "somebody logged in to the database on", l.Began)
		if late := l.Began.Sub(ended); late > c.World.Lag {
			c.violated(InTime, "somebody logged in to the database on request %s, %s after its end", l.Request, late)
		}
	}
}

// strays judges the logins that are left in the database. One that Vault has no
// lease of isn't hallpass's to take; but there is none unless something broke while
// it was made.
func (c *checker) strays() {
	for _, s := range c.Strays {
		seconds, err := strconv.ParseInt(s.Login[strings.LastIndex(s.Login, "-")+1:], 10, 64)
		made := time.Unix(seconds, 0)
		switch {
		case s.Request != "":
			c.violated(Behind, "the login of request %s is in the database", s.Request)
		case err != nil:
			c.violated(Behind, "a login is in the database that doesn't say when it was made: %s", s.Login)
		case !slices.ContainsFunc(c.Broken, func(b Span) bool {
			return b.From.Before(made.Add(time.Second+c.World.Making)) && b.To.After(made)
		}):
			c.violated(Behind, "a login is in the database of which nobody was told, and nothing was broken when it was made: %s", s.Login)
		}
	}
}

// logins holds what the host did against what it should have done.
func (c *checker) logins() {
	over := c.over()
	for _, l := range c.Logins {
		is := c.issued[l.Request]
		if l.Worked && is != nil {
			c.early(is, l.Request, "somebody logged in on", l.Began)
		}
		switch {
		case !l.Worked:
		case is == nil:
			c.violated(Recorded, "somebody logged in on request %s, which has no certificate on record", l.Request)
		case l.Began.Unix() >= is.ends.Unix():
			c.violated(InTime, "somebody logged in on request %s, %s after its end", l.Request, l.Began.Sub(is.ends))
		case !over[l.Request].IsZero() && l.List.After(over[l.Request]):
			c.violated(InTime, "somebody logged in on request %s, which was over before the host fetched its list", l.Request)
		}
	}
	bySerial := map[uint64]*issued{}
	for _, is := range c.issued {
		if is.cert != nil {
			bySerial[is.cert.Serial] = is
		}
	}
	for line := range strings.Lines(c.HostLog) {
		if !letIn.MatchString(line) {
			continue
		}
		m := accepted.FindStringSubmatch(line)
		if m == nil {
			c.violated(Recorded, "the host let somebody in without a certificate: %s", strings.TrimSpace(line))
			continue
		}
		serial, err := strconv.ParseUint(m[3], 10, 64)
		if is := bySerial[serial]; err != nil || is == nil || is.cert.KeyId != m[2] || m[1] != c.World.Login {
			c.violated(Recorded, "the host let %s in with serial %s, key id %s, which isn't on record", m[1], m[3], m[2])
		}
	}
}

func parseCertificate(line string) (*ssh.Certificate, error) {
	key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(line))
	if err != nil {
		return nil, fmt.Errorf("the certificate can't be read: %w", err)
	}
	cert, ok := key.(*ssh.Certificate)
	if !ok {
		return nil, fmt.Errorf("a key of type %s isn't a certificate", key.Type())
	}
	return cert, nil
}
