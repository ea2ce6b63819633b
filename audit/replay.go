package audit

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"golang.org/x/crypto/ssh"

	"hallpass/access"
	"hallpass/ca/krl"
	"hallpass/catalog"
	"hallpass/directory"
	"hallpass/evidence"
	"hallpass/policy"
	"hallpass/statement"
)

// replay lives through the events of a log, or of a proof, in their order, and
// judges each by what was known then: the files of the day and the request's
// own past.
type replay struct {
	schema   int // version of the tables; 0 without a database
	report   *Report
	files    map[string]string // content by fileStep
	latest   access.Digests    // the versions recorded last
	opened   opened
	requests map[string]*story
	serials  map[serial]int64 // where it was given
	locks    Locks
	said     map[string]access.Lock // all that were set, by their statement's hash
	given    delegations
	ever     map[[2]string]bool // giver and delegate of all that ever were
	hosts    hosts
	counts   counted
	partial  bool // a proof: the events of one request alone
	lastTime time.Time
}

type serial struct {
	ca string
	n  uint64
}

// story is what the events told of one request so far. What only an open
// request needs is dropped when it ends.
type story struct {
	hash      string
	requester string
	received  time.Time // when it was first heard of; zero if the log doesn't say
	had       had       // requests before it
	request   access.Statement
	ruled     *access.Digests // by the last event of the request that cites files
	handle    *access.Handle
	prepared  *preparation // nil where there was nothing to count
	issued    *access.Credential
	glass     glass
	begin     time.Time        // of the row of grants that this one extends
	row       int              // how many they are
	extends   *access.Extended // what it extends, as of when it was prepared
	extension *access.Handle   // what extends it; nil: nothing does
	unissued  bool             // it ended without a credential
	ended     access.State
	entry     [sha256.Size]byte // of the ledger's entry, once ended
}

func newReplay(r *Report) *replay {
	return &replay{
		report: r, files: map[string]string{}, requests: map[string]*story{}, serials: map[serial]int64{}, said: map[string]access.Lock{}, ever: map[[2]string]bool{}, hosts: hosts{},
		opened: opened{
			policies: map[string]*policy.Policy{}, directories: map[string]*directory.Directory{}, catalogs: map[string]*catalog.Catalog{},
		},
	}
}

// opened are the files that have been parsed.
type opened struct {
	policies    map[string]*policy.Policy
	directories map[string]*directory.Directory
	catalogs    map[string]*catalog.Catalog
}

// file parses the version of a file that an event cites, once.
func file[T any](p *replay, cache map[string]T, name, digest string, parse func(string, []byte) (T, error)) (T, error) {
	if v, ok := cache[digest]; ok {
		return v, nil
	}
	var none T
	content, ok := p.files[fileStep(name, digest)]
	if !ok {
		return none, fmt.Errorf("the %s %s is not in the log before it", name, orNone(digest))
	}
	v, err := parse(name, []byte(content))
	if err != nil {
		return none, fmt.Errorf("the %s of the day can't be read: %w", name, err)
	}
	cache[digest] = v
	return v, nil
}

func orNone(digest string) string {
	if digest == "" {
		return "of no digest"
	}
	return clip(digest)
}

func (p *replay) directory(d access.Digests) (*directory.Directory, error) {
	return file(p, p.opened.directories, FileDirectory, d.Directory, directory.Parse)
}

func (p *replay) rulebook(d access.Digests) (*evidence.Rulebook, error) {
	pol, err := file(p, p.opened.policies, FilePolicy, d.Policy, policy.Parse)
	if err != nil {
		return nil, err
	}
	dir, err := p.directory(d)
	if err != nil {
		return nil, err
	}
	cat, err := file(p, p.opened.catalogs, FileCatalog, d.Catalog, catalog.Parse)
	if err != nil {
		return nil, err
	}
	return &evidence.Rulebook{Policy: pol, Directory: dir, Catalog: cat}, nil
}

// digests are the files that e was judged by: those it cites, or else those
// recorded last.
func (p *replay) digests(e *Event) access.Digests {
	if d := e.digests(); d != nil {
		return *d
	}
	return p.latest
}

// event judges one event.
func (p *replay) event(index int64, e *Event) {
	if behind := p.lastTime.Sub(e.Time); behind > access.ClockSkew {
		p.report.warn(index, e, "its time is %s before an earlier event's", access.ShortDuration(behind))
	}
	if e.Time.After(p.lastTime) {
		p.lastTime = e.Time
	}
	if p.report.From.IsZero() || e.Time.Before(p.report.From) {
		p.report.From = e.Time
	}
	if e.Time.After(p.report.To) {
		p.report.To = e.Time
	}
	if err := p.judge(index, e); err != nil {
		p.report.problem(index, e, "%v", err)
	}
}

func (p *replay) judge(index int64, e *Event) error {
	if e.Type == RulebookChanged {
		return p.changed(e)
	}
	if d := e.digests(); d != nil {
		for _, f := range each(d) {
			if _, ok := p.files[fileStep(f.name, f.digest)]; !ok && f.digest != "" {
				return fmt.Errorf("it cites the %s %s, which is not in the log before it", f.name, clip(f.digest))
			}
		}
	}
	if e.Type == StatementRefused {
		return p.refused(e)
	}
	if e.Type == LockSet || e.Type == LockLifted {
		return p.locked(e)
	}
	if e.Type == DelegationGiven || e.Type == DelegationRevoked {
		return p.delegated(e)
	}
	if about, err := p.hosts.judge(p, index, e); about {
		return err
	}
	if about, err := p.swept(e); about {
		return err
	}
	if e.Request == "" || e.Type == CredentialRefused || e.Type == RulebookBroken {
		return nil // says of itself that nothing in it can be relied on
	}
	s := p.requests[e.Request]
	if s == nil {
		s = &story{}
		p.requests[e.Request] = s
		p.report.Requests++
	}
	if e.RequestHash != "" {
		if s.hash == "" {
			s.hash = e.RequestHash
		} else if s.hash != e.RequestHash {
			return fmt.Errorf("it is about a request of the hash %s; before, that id's was %s", clip(e.RequestHash), clip(s.hash))
		}
	}
	if e.State == "" && e.digests() != nil {
		s.ruled = e.digests()
	}
	switch e.Type {
	case RequestReceived:
		s.had = p.counts.received(e)
		return p.received(e, s)
	case GrantExtended:
		step, free := extendedStep, s.extension == nil
		if !free { // by one that ended without a credential; a proof has nothing of that one
			by := p.requests[s.extension.Request]
			step, free = extendedStep+":"+s.extension.Request, p.partial || by != nil && by.unissued
		}
		if e.Handle.Extends != e.Request || e.Step != step || !free || s.ended != "" || s.issued == nil {
			return fmt.Errorf("the request had no grant that %s could extend", clip(e.Handle.Request))
		}
		s.extension = e.Handle
	case EmergencyGranted, ReviewSigned, ReviewOverdue, ReviewDone:
		return p.broke(e, s)
	case RequestLimited:
		p.counts.limited(e)
	case DecisionAccepted:
		return p.accepted(index, e, s)
	case CredentialPrepared:
		return p.prepared(index, e, s)
	case CredentialIssued:
		return p.issued(e, s)
	}
	if e.State != "" {
		return p.ended(e, s)
	}
	return nil
}

func (p *replay) changed(e *Event) error {
	f := e.File
	if d := digestOf(f.Content); d != f.Digest {
		return fmt.Errorf("the %s in it has the digest %s, not %s", f.Name, d, clip(f.Digest))
	}
	if e.Step != fileStep(f.Name, f.Digest) || e.Request != "" {
		return fmt.Errorf("it is not in the place of the %s %s", f.Name, f.Digest)
	}
	p.files[e.Step] = f.Content
	switch f.Name {
	case FilePolicy:
		p.latest.Policy = f.Digest
	case FileDirectory:
		p.latest.Directory = f.Digest
	case FileCatalog:
		p.latest.Catalog = f.Digest
	default:
		return fmt.Errorf("the rulebook has no file %q", clip(f.Name))
	}
	p.report.Files++
	return nil
}

// refused checks who is said to have tried. Nothing else in it can be relied on.
func (p *replay) refused(e *Event) error {
	if e.Actor == "" {
		return nil
	}
	if e.Statement == nil {
		return fmt.Errorf("the statement by which %s is named is missing in it", clip(e.Actor))
	}
	dir, err := p.directory(p.digests(e))
	if err != nil {
		return err
	}
	if author, _ := statement.Author(*e.Statement, dir); author.Name != e.Actor {
		return fmt.Errorf("the refused statement is not %s's", clip(e.Actor))
	}
	p.report.Statements++
	return nil
}

// locked takes in a lock statement. A proof has only the one that ended its
// request, which counts by itself.
func (p *replay) locked(e *Event) error {
	book, err := p.rulebook(p.digests(e))
	if err != nil {
		return err
	}
	locks := &p.locks
	if p.partial {
		locks = &Locks{Words: e.Locks}
	}
	lock, err := locks.hear(book, e)
	if err != nil {
		return err
	}
	p.report.Statements++
	if lock.Action == access.ActionLock {
		p.said[e.Statement.Hash()] = lock
	}
	return nil
}

// delegated takes in a delegation statement, under the locks there were.
func (p *replay) delegated(e *Event) error {
	book, err := p.rulebook(p.digests(e))
	if err != nil {
		return err
	}
	d, err := p.given.hear(book.Under(p.locks.Held), e)
	if err != nil {
		return err
	}
	p.report.Statements++
	if d.Action == access.ActionDelegate {
		p.ever[[2]string{d.Signer, d.To}] = true
	}
	return nil
}

// restingOn are the delegations that a credential's evidence has with it: all
// of them on record before it, and revoked by nobody. A proof, which is about
// one request, has only what is in the evidence.
func (p *replay) restingOn(book *evidence.Rulebook, ev *access.Evidence) (evidence.Delegations, error) {
	if !p.partial {
		on := p.given.held.Of(ev.Delegations)
		if len(on) != len(ev.Delegations) {
			return nil, fmt.Errorf("it rests on a delegation that is not in the log before it, or was revoked")
		}
		return on, nil
	}
	var on evidence.Delegations
	for _, st := range ev.Delegations {
		d, _, err := statement.OpenDelegation(st, book.Directory)
		if err != nil {
			return nil, fmt.Errorf("the delegation that it rests on: %w", err)
		}
		if d.Action == access.ActionDelegate {
			on = append(on, evidence.Delegated{Delegation: d, Statement: st})
		}
	}
	return on, nil
}

// endedByLock checks that a lock which ended a request was set before, and is
// on that request. It may have been lifted between being heard and the end.
func (p *replay) endedByLock(e *Event, request access.Statement) error {
	lock, ok := p.said[e.Statement.Hash()]
	if !ok {
		return fmt.Errorf("the lock that ended it is not in the log before it")
	}
	if request.Payload == "" {
		return fmt.Errorf("the request that it ends is not in the log before it")
	}
	req, err := statement.ParseRequest([]byte(request.Payload))
	if err != nil {
		return err
	}
	book, err := p.rulebook(p.digests(e))
	if err != nil {
		return err
	}
	switch {
	case !book.Covers(lock, req.Signer, req.Resource):
		return fmt.Errorf("the lock that ended it is on %s %s, the request is %s's for %s", lock.Kind, lock.Name, req.Signer, req.Resource)
	case e.Actor != lock.Signer:
		return fmt.Errorf("the lock is %s's, not %s's", lock.Signer, clip(e.Actor))
	}
	p.report.Statements++
	return nil
}

func (p *replay) received(e *Event, s *story) error {
	if e.Statement == nil {
		return fmt.Errorf("the request is missing in it")
	}
	dir, err := p.directory(p.digests(e))
	if err != nil {
		return err
	}
	request, user, err := statement.OpenRequest(*e.Statement, dir)
	if err != nil {
		return fmt.Errorf("the request: %w", err)
	}
	p.report.Statements++
	hash := e.Statement.Hash()
	if s.hash == "" {
		s.hash = hash
	}
	switch {
	case request.ID != e.Request:
		return fmt.Errorf("the request in it has the id %s", request.ID)
	case s.hash != hash:
		return fmt.Errorf("the request in it has the hash %s, not %s", hash, clip(s.hash))
	case e.Requester != user.Name:
		return fmt.Errorf("the requester is %s, not %s", user.Name, clip(e.Requester))
	case e.Resource != request.Resource:
		return fmt.Errorf("the request is for %s, not %s", request.Resource, clip(e.Resource))
	}
	s.requester, s.request, s.received = user.Name, *e.Statement, e.Time
	return nil
}

func (p *replay) accepted(index int64, e *Event, s *story) error {
	if e.Statement == nil {
		return fmt.Errorf("the decision is missing in it")
	}
	if s.ended != "" {
		// It was heard when the end was on its way. Nothing came of it.
		p.report.warn(index, e, "the request had ended before: %s", s.ended)
	}
	return p.decision(e, s)
}

func (p *replay) decision(e *Event, s *story) error {
	dir, err := p.directory(p.digests(e))
	if err != nil {
		return err
	}
	d, user, err := statement.OpenDecision(*e.Statement, dir)
	if err != nil {
		return fmt.Errorf("the decision: %w", err)
	}
	p.report.Statements++
	switch {
	case d.Request != e.Request || s.hash != "" && d.RequestHash != s.hash:
		return fmt.Errorf("the decision is about another request")
	case e.Actor != user.Name:
		return fmt.Errorf("the decision is %s's, not %s's", user.Name, clip(e.Actor))
	case user.Name == s.requester:
		return fmt.Errorf("%s decides on a request of his own", user.Name)
	case d.For != "" && d.For == s.requester:
		return fmt.Errorf("%s decides in the place of %s, who asks", user.Name, d.For)
	case d.For != "" && !p.partial && !p.ever[[2]string{d.For, user.Name}]:
		return fmt.Errorf("%s decides in the place of %s, who has delegated nothing to him before it", user.Name, d.For)
	}
	return nil
}

func (p *replay) prepared(index int64, e *Event, s *story) error {
	h := e.Handle
	switch {
	case h.Request != e.Request:
		return fmt.Errorf("the handle is of request %s", clip(h.Request))
	case e.RequestHash == "":
		return fmt.Errorf("the hash of the request is missing in it")
	case s.ended != "":
		return fmt.Errorf("the request had ended before: %s", s.ended)
	case s.handle != nil:
		return fmt.Errorf("the request has a handle already")
	case h.Extends == "" && e.Extended != nil:
		return fmt.Errorf("it says what it extends, and extends nothing")
	case h.Extends != "" && e.Extended == nil && p.partial:
		return fmt.Errorf("it doesn't say when the grant that it extends begins and ends; that takes the log")
	}
	s.handle, s.begin = h, h.NotBefore
	if h.Extends != "" && !p.partial {
		x := p.requests[h.Extends]
		if x == nil || x.issued == nil || x.ended != "" || x.extension == nil || x.extension.Request != e.Request {
			return fmt.Errorf("it extends request %s, which had no grant that could be extended", clip(h.Extends))
		}
		if same, err := equalJSON(h, x.extension); err != nil || !same {
			return fmt.Errorf("it has another handle than request %s was extended by", clip(h.Extends))
		}
		s.begin, s.row = x.begin, x.row+1
		s.extends = &access.Extended{Request: h.Extends, Statement: x.request, Begin: x.begin, End: x.issued.Handle.NotAfter, By: x.extension.Request, Row: x.row}
		if said := e.Extended; said != nil && (!said.Begin.Equal(x.begin) || !said.End.Equal(s.extends.End)) {
			return fmt.Errorf("it says that what it extends lasts from %s to %s, which was from %s to %s",
				said.Begin.Format(time.RFC3339), said.End.Format(time.RFC3339), x.begin.Format(time.RFC3339), s.extends.End.Format(time.RFC3339))
		}
	}
	if h.Extends != "" && p.partial {
		s.extends = &access.Extended{Request: h.Extends, Begin: e.Extended.Begin, End: e.Extended.End}
	}
	if s.extends != nil {
		if why := s.extends.Refused(e.Request, e.Time); why != "" {
			return fmt.Errorf("it extends what can't be extended: %s", why)
		}
	}
	p.prepare(e, s)
	if h.Serial != 0 {
		return p.gave(h.CA, h.Serial, index)
	}
	return nil
}

// gave refuses a serial of a CA that was given before.
func (p *replay) gave(ca string, n uint64, index int64) error {
	key := serial{ca, n}
	if first, taken := p.serials[key]; taken {
		return fmt.Errorf("serial %d of CA %s was given in event %d already", n, clip(ca), first)
	}
	p.serials[key] = index
	return nil
}

func (p *replay) issued(e *Event, s *story) error {
	p.report.Issued++
	cred := e.Credential
	switch {
	case s.handle == nil:
		return fmt.Errorf("a credential was issued that was never prepared")
	case s.ended != "":
		return fmt.Errorf("a credential was issued after the request had ended: %s", s.ended)
	case s.issued != nil:
		return fmt.Errorf("a second credential was issued on the same request")
	}
	s.issued = cred
	if same, err := equalJSON(s.handle, &cred.Handle); err != nil || !same {
		return fmt.Errorf("the credential's handle is not the one that was prepared")
	}
	if hash := e.Evidence.Request.Hash(); hash != s.hash {
		return fmt.Errorf("the evidence is of a request of the hash %s, not %s", hash, clip(s.hash))
	}
	digests := e.digests()
	if digests == nil {
		return fmt.Errorf("it doesn't cite the files that it was judged by")
	}
	book, err := p.rulebook(*digests)
	if err != nil {
		return err
	}
	if !p.partial && e.Locks != p.locks.Words {
		return fmt.Errorf("it was judged under %d lock statements, there were %d before it", e.Locks, p.locks.Words)
	}
	asked := s.received
	if asked.IsZero() {
		asked = judgedAt(e) // so it has waited for nobody
	}
	if e.Ruling != nil {
		book = book.With(e.Ruling.Context) // what it was judged by
	}
	given, err := p.restingOn(book, e.Evidence)
	if err != nil {
		return err
	}
	standing, err := book.Under(p.locks.Held).Through(given).Judge(*e.Evidence, judgedAt(e), evidence.Known{MinGrant: time.Second, Asked: asked, Extends: p.extending(e, s)})
	if err != nil {
		return fmt.Errorf("the evidence doesn't hold: %w", err)
	}
	p.report.Statements += 1 + int64(len(e.Evidence.Decisions)+len(given))
	if standing.Effect != access.EffectAllow {
		return fmt.Errorf("by the rules of the day it was not allowed (%s): %s", standing.Effect, standing.Why)
	}
	if silent := book.Silent(standing.Request, standing.Ruling.Context); silent != "" {
		return fmt.Errorf("policy asks %s, of which it says nothing", silent)
	}
	if len(standing.Dropped) > 0 {
		return fmt.Errorf("the evidence names people who didn't count: %s", standing.Dropped[0])
	}
	request := standing.Request
	switch {
	case request.ID != e.Request:
		return fmt.Errorf("the evidence is of request %s", request.ID)
	case e.Requester != request.Signer || e.Resource != request.Resource:
		return fmt.Errorf("the evidence is for %s and %s, the event for %s and %s",
			request.Signer, request.Resource, clip(e.Requester), clip(e.Resource))
	}
	if s.request.Payload == "" {
		// Whoever runs the workflow can leave out that it was received.
		s.requester, s.request = request.Signer, e.Evidence.Request
	}
	s.glass.emergency = standing.Ruling.Emergency
	if err := p.hadRoom(e, s); err != nil {
		return err
	}
	return checkCredential(*cred, standing, e.Time)
}

// extending is what the request of a credential extends. A proof is about one
// request: of the other one it has what was recorded with the handle, and that
// it asked for the same it takes the log to know.
func (p *replay) extending(e *Event, s *story) *access.Extended {
	if s.extends != nil && p.partial {
		x := *s.extends
		x.Statement = e.Evidence.Request
		return &x
	}
	return s.extends
}

// judgedAt is the moment that the issuer judged at: the one that conditions of
// the policy saw as now, which is a moment before the event.
func judgedAt(e *Event) time.Time {
	if r := e.Ruling; r != nil && !r.At.After(e.Time.Add(access.ClockSkew)) && !r.At.Before(e.Time.Add(-access.ClockSkew)) {
		return r.At
	}
	return e.Time
}

func (p *replay) ended(e *Event, s *story) error {
	if ends[e.State] != e.Type {
		return fmt.Errorf("state %s doesn't go with it", clip(string(e.State)))
	}
	if s.ended != "" {
		return fmt.Errorf("the request had ended before: %s", s.ended)
	}
	request, ruled := s.request, s.ruled
	s.ended = e.State
	p.counts.ended(e)
	entry, err := entryOf(e, s)
	if err != nil {
		return err
	}
	s.entry = sha256.Sum256(entry)
	s.unissued = s.issued == nil
	s.request, s.issued, s.ruled, s.prepared, s.extension = access.Statement{}, nil, nil, nil, nil
	if e.State == access.StateExpired && s.handle != nil && e.Time.Add(access.ClockSkew).Before(s.handle.Over()) {
		return fmt.Errorf("the grant wasn't over before %s", s.handle.Over().Format(time.RFC3339))
	}
	if e.Statement == nil {
		if e.Actor != "" {
			return fmt.Errorf("the statement by which %s ended it is missing in it", clip(e.Actor))
		}
		return nil
	}
	typ, err := ending(e.State, *e.Statement)
	if err != nil {
		return err
	}
	if typ == access.TypeDecision {
		return p.decision(e, s)
	}
	if typ == access.TypeLock {
		return p.endedByLock(e, request)
	}
	stop, err := statement.ParseStop([]byte(e.Statement.Payload), typ)
	if err != nil {
		return fmt.Errorf("the %s: %w", typ, err)
	}
	if stop.Time.After(e.Time.Add(access.ClockSkew)) {
		return fmt.Errorf("the %s was signed after the event", typ)
	}
	if request.Payload == "" {
		return fmt.Errorf("the request that it ends is not in the log before it")
	}
	// It takes access away, so it is good enough if it was by the files of the
	// end or by those that the request was ruled by, and when it was signed or
	// when it was heard.
	by := []access.Digests{p.digests(e)}
	if ruled != nil {
		by = append(by, *ruled)
	}
	var user access.User
	for i := range 2 * len(by) {
		at := []time.Time{e.Time, stop.Time}[i%2]
		if said, who, no := p.stop(by[i/2], request, *e.Statement, typ, at); no == nil {
			stop, user, err = said, who, nil
			break
		} else if i == 0 {
			err = no
		}
	}
	if err != nil {
		return fmt.Errorf("the %s: %w", typ, err)
	}
	p.report.Statements++
	if stop.Request != e.Request || e.Actor != user.Name {
		return fmt.Errorf("the %s is %s's of request %s, the event says %s", typ, user.Name, stop.Request, clip(e.Actor))
	}
	return nil
}

func (p *replay) stop(d access.Digests, request, st access.Statement, typ access.Type, at time.Time) (access.Stop, access.User, error) {
	book, err := p.rulebook(d)
	if err != nil {
		return access.Stop{}, access.User{}, err
	}
	return book.CheckStop(request, st, typ, at)
}

// entryOf is the ledger's entry, as it should be after these events.
func entryOf(e *Event, s *story) ([]byte, error) {
	entry := Entry{Handle: s.handle, Credential: s.issued, Ended: s.ended}
	if s.handle != nil {
		entry.RequestHash = s.hash
	}
	if e != nil {
		entry.EndedAt = e.Time
	}
	return json.Marshal(entry)
}

// finish compares the ledger and the serials with what the events told.
func (p *replay) finish(ctx context.Context, q querier) error {
	seen := 0
	rows, err := q.QueryContext(ctx, entryQuery)
	if err != nil {
		return fmt.Errorf("read ledger: %w", explain(err))
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		entry, stored, _, err := scanTexts(rows)
		if err != nil {
			return err
		}
		about := &Event{Request: entry.Request}
		// What json.Unmarshal overlooks, such as a field that is there twice, the
		// database's own functions read in another way.
		if written, err := entry.texts(); err != nil {
			return fmt.Errorf("read ledger: %w", err)
		} else if written != stored {
			p.report.problem(-1, about, "the ledger's entry is not in the form that the log writes (unknown, repeated or misplaced field)")
		}
		s := p.requests[entry.Request]
		if s == nil || s.handle == nil && s.ended == "" {
			p.report.problem(-1, about, "the ledger has an entry of which the events say nothing")
			continue
		}
		seen++
		want := s.entry
		if s.ended == "" {
			data, err := entryOf(nil, s)
			if err != nil {
				return fmt.Errorf("read ledger: %w", err)
			}
			want = sha256.Sum256(data)
		}
		entry.Request = ""
		got, err := json.Marshal(entry)
		if err != nil {
			return fmt.Errorf("read ledger: %w", err)
		}
		if sha256.Sum256(got) != want {
			p.report.problem(-1, about, "the ledger's entry is not what the events say")
		}
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("read ledger: %w", explain(err))
	}
	for id, s := range p.requests {
		if s.glass.emergency != nil && s.glass.task == nil {
			p.report.problem(-1, &Event{Request: id}, "the glass was broken, and no event says so")
		}
	}
	if want := p.entries(); seen != want {
		p.report.problem(-1, nil, "the ledger has %d entries, the events make %d", seen, want)
	}
	if err := p.hosts.finish(ctx, p, q); err != nil {
		return err
	}
	if err := p.lists(ctx, q); err != nil {
		return err
	}
	last := map[string]uint64{}
	for key := range p.serials {
		series, n := krl.Split(key.n)
		counter := serialCounter(key.ca, series)
		last[counter] = max(last[counter], n)
	}
	for ca, n := range last {
		var have int64
		err := q.QueryRowContext(ctx, "SELECT coalesce(max(last), 0) FROM serials WHERE ca = ?", ca).Scan(&have)
		if err != nil {
			return fmt.Errorf("read serials: %w", explain(err))
		}
		if have < 0 || uint64(have) < n {
			p.report.problem(-1, nil, "the serials of CA %s stand at %d, but %d was given", clip(ca), have, n)
		}
	}
	return nil
}

// lists looks at the list of revoked certificates that is in force. No event tells of it, but it
// is signed by a CA whose key is there, and says which version it is.
func (p *replay) lists(ctx context.Context, q querier) error {
	if p.schema < 2 {
		return nil
	}
	var keys []ssh.PublicKey
	rows, err := q.QueryContext(ctx, "SELECT fingerprint, key FROM cas")
	if err != nil {
		return fmt.Errorf("read keys of CAs: %w", explain(err))
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var fingerprint, text string
		if err := rows.Scan(&fingerprint, &text); err != nil {
			return fmt.Errorf("read keys of CAs: %w", explain(err))
		}
		key, err := statement.ParseKey(text)
		if err != nil || ssh.FingerprintSHA256(key) != fingerprint {
			p.report.problem(-1, nil, "the key of the SSH CA %s is another one", clip(fingerprint))
			continue
		}
		keys = append(keys, key)
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("read keys of CAs: %w", explain(err))
	}
	var taken, version int64
	var k KRL
	err = q.QueryRowContext(ctx, "SELECT taken, version, list, signature FROM krl").Scan(&taken, &version, &k.List, &k.Signature)
	if errors.Is(err, sql.ErrNoRows) || err == nil && version == 0 && taken >= 0 {
		return nil // none was made yet
	} else if err != nil {
		return fmt.Errorf("read key revocation list: %w", explain(err))
	}
	switch list, err := krl.Open(k.List, k.Signature, keys); {
	case err != nil:
		p.report.problem(-1, nil, "the key revocation list in force: %v", err)
	case int64(list.Version) != version || version > taken:
		p.report.problem(-1, nil, "the key revocation list in force is of version %d; the log says %d, and that %d were taken", list.Version, version, taken)
	}
	return nil
}

// entries is how many requests have to be in the ledger.
func (p *replay) entries() (n int) {
	for _, s := range p.requests {
		if s.handle != nil || s.ended != "" {
			n++
		}
	}
	return n
}
