package audit

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"fmt"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"hallpass/access"
	"hallpass/ca"
	"hallpass/evidence"
	"hallpass/statement"
)

// world is a log with people, a rulebook and a CA around it, and a clock.
type world struct {
	t       testing.TB
	log     *Log
	path    string
	private string
	public  string
	book    *evidence.Rulebook
	ca      *ca.CA
	now     time.Time
	ids     int
}

const worldPolicy = `rules:
  - name: web
    when: resource.kind == "ssh" && "dev" in requester.groups
    max_duration: 8h
    approvals:
      - {count: 1, from: [sre]}
    revoke: [security]
`

const worldCatalog = `resources:
  ssh/web-1:
    logins: [deploy]
  ssh/web-2:
    logins: [deploy]
`

// key makes somebody's key, always the same one for the same name.
func key(t testing.TB, name string) ssh.Signer {
	t.Helper()
	seed := sha256.Sum256([]byte(name))
	signer, err := ssh.NewSignerFromKey(ed25519.NewKeyFromSeed(seed[:]))
	if err != nil {
		t.Fatal(err)
	}
	return signer
}

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{t: t, now: t0}
	w.private, w.public = testKey(t)
	w.path = newDatabase(t)
	var err error
	w.ca, err = ca.New(key(t, "ca"), w.clock)
	if err != nil {
		t.Fatal(err)
	}
	w.open()
	w.rulebook(worldPolicy)
	return w
}

func (w *world) clock() time.Time { return w.now }

func (w *world) open() {
	w.t.Helper()
	l, err := Open(context.Background(), Options{Database: w.path, Key: w.private, Now: w.clock})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = l.Close() })
	w.log = l
}

func (w *world) rulebook(policy string) {
	w.t.Helper()
	directory := "users:\n"
	for _, u := range [][2]string{{"alice", "dev"}, {"bob", "sre"}, {"carol", "security"}, {"dave", "dev"}} {
		directory += "  " + u[0] + ":\n    groups: [" + u[1] + "]\n    keys:\n      - " + statement.MarshalKey(key(w.t, u[0]).PublicKey()) + "\n"
	}
	var err error
	if w.book, err = evidence.NewRulebook([]byte(policy), []byte(directory), []byte(worldCatalog)); err != nil {
		w.t.Fatal(err)
	}
	if err := w.log.RecordRulebook(context.Background(), w.book); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) tick() { w.now = w.now.Add(time.Second) }

// header makes the header of somebody's next statement.
func (w *world) header(typ access.Type, signer string) access.Header {
	w.tick()
	w.ids++
	return access.Header{Type: typ, ID: fmt.Sprintf("01900000-0000-7000-8000-%012d", w.ids), Signer: signer, Time: w.now}
}

func (w *world) sign(who string, payload any) access.Statement {
	w.t.Helper()
	st, err := statement.Sign(key(w.t, who), payload)
	if err != nil {
		w.t.Fatal(err)
	}
	return st
}

func (w *world) request(who string) (access.Request, access.Statement) {
	w.t.Helper()
	r := access.Request{
		Header: w.header(access.TypeRequest, who), Resource: "ssh/web-1", Login: "deploy", Duration: 1800,
		Reason: "disk is full", PublicKey: statement.MarshalKey(key(w.t, "session").PublicKey()),
	}
	return r, w.sign(who, r)
}

func (w *world) decision(who string, verdict access.Verdict, r access.Request, st access.Statement) access.Statement {
	w.t.Helper()
	return w.sign(who, access.Decision{Header: w.header(access.TypeDecision, who), Request: r.ID, RequestHash: st.Hash(), Verdict: verdict})
}

func (w *world) stop(who string, typ access.Type, r access.Request, st access.Statement) *access.Statement {
	w.t.Helper()
	stop := w.sign(who, access.Stop{Header: w.header(typ, who), Request: r.ID, RequestHash: st.Hash(), Reason: "done"})
	return &stop
}

// record appends an event of any kind, past the checks of Append.
func (w *world) record(e Event) int64 {
	w.t.Helper()
	w.tick()
	index, err := update(context.Background(), w.log, func(t *tx) (int64, error) { return t.append(e) })
	if err != nil {
		w.t.Fatal(err)
	}
	return index
}

func (w *world) digests() *access.Digests {
	d := w.book.Digests()
	return &d
}

// ask records a request and its ruling.
func (w *world) ask(who string) (access.Request, access.Statement) {
	w.t.Helper()
	r, st := w.request(who)
	w.record(Event{Type: RequestReceived, Request: r.ID, RequestHash: st.Hash(), Step: "received", Actor: who, Requester: who,
		Resource: r.Resource, Statement: &st, Digests: w.digests()})
	standing, err := w.book.Judge(access.Evidence{Request: st}, w.now, evidence.Known{})
	if err != nil {
		w.t.Fatal(err)
	}
	w.record(Event{Type: RequestRuled, Request: r.ID, RequestHash: st.Hash(), Step: "ruled", Ruling: &standing.Ruling, Why: standing.Why})
	return r, st
}

func (w *world) accept(who string, r access.Request, decision access.Statement) {
	w.t.Helper()
	w.record(Event{Type: DecisionAccepted, Request: r.ID, Step: "decision:" + decision.Hash(), Actor: who, Statement: &decision, Digests: w.digests()})
}

// handle chooses one, with a serial that the log has given out.
func (w *world) handle(r access.Request) access.Handle {
	w.t.Helper()
	n, err := w.log.NextSerial(context.Background(), w.ca.Fingerprint(), 0)
	if err != nil {
		w.t.Fatal(err)
	}
	return access.Handle{Request: r.ID, Kind: "ssh", Serial: n, CA: w.ca.Fingerprint(), Principals: []string{"web-1/deploy"},
		NotBefore: w.now, NotAfter: w.now.Add(r.Duration.Duration())}
}

func (w *world) spec(r access.Request, h access.Handle) ca.Spec {
	return ca.Spec{Request: r.ID, Requester: r.Signer, Principals: h.Principals, PublicKey: key(w.t, "session").PublicKey(), Serial: h.Serial,
		NotBefore: h.NotBefore, NotAfter: h.NotAfter, Options: access.SSHOptions{Extensions: []string{"permit-pty"}}}
}

func (w *world) certificate(h access.Handle, spec ca.Spec) access.Credential {
	w.t.Helper()
	p, err := w.ca.Prepare(spec)
	if err != nil {
		w.t.Fatal(err)
	}
	cert, err := w.ca.Issue(p)
	if err != nil {
		w.t.Fatal(err)
	}
	return access.Credential{Handle: h, Certificate: ca.Marshal(cert)}
}

// issued is the event of a credential on this evidence.
func (w *world) issued(ev access.Evidence) Event {
	w.t.Helper()
	standing, err := w.book.Judge(ev, w.now, evidence.Known{})
	if err != nil {
		w.t.Fatal(err)
	}
	return Event{Evidence: &ev, Ruling: &standing.Ruling, Requester: standing.Request.Signer, Resource: standing.Request.Resource}
}

// grant takes a request to its credential, as the issuer does.
func (w *world) grant(r access.Request, ev access.Evidence) access.Credential {
	w.t.Helper()
	w.tick()
	ctx := context.Background()
	entry, err := w.log.Reserve(ctx, ev.Request.Hash(), w.handle(r), Event{Digests: w.digests()})
	if err != nil {
		w.t.Fatal(err)
	}
	cred := w.certificate(*entry.Handle, w.spec(r, *entry.Handle))
	if err := w.log.Issued(ctx, cred, w.issued(ev)); err != nil {
		w.t.Fatal(err)
	}
	return cred
}

func (w *world) end(e End) {
	w.t.Helper()
	w.tick()
	if e.State == access.StateExpired {
		w.until(e.Request)
	}
	if _, err := w.log.End(context.Background(), e); err != nil {
		w.t.Fatal(err)
	}
}

// until moves the clock to when nothing is left of a grant, if that is later.
func (w *world) until(request string) {
	w.t.Helper()
	entry, _, err := w.log.Entry(context.Background(), request)
	if err != nil {
		w.t.Fatal(err)
	}
	if h := entry.Handle; h != nil && h.Over().After(w.now) {
		w.now = h.Over()
	}
}

// The events of a whole life, by index; 0 to 2 are the rulebook's.
const (
	atReceived = iota + 3
	atRuled
	atDecision
	atPrepared
	atIssued
	atReleased
	atReceived2
	atRuled2
	atDenial
	atDenied2
	atRefused
	atAll
)

// live lets a request be approved, issued and released, and another be denied.
func (w *world) live() (granted, denied access.Request) {
	w.t.Helper()
	r, st := w.ask("alice")
	yes := w.decision("bob", access.Approve, r, st)
	w.accept("bob", r, yes)
	w.grant(r, access.Evidence{Request: st, Decisions: []access.Statement{yes}})
	w.end(End{Request: r.ID, State: access.StateReleased, By: "alice", Statement: w.stop("alice", access.TypeRelease, r, st)})

	r2, st2 := w.ask("dave")
	no := w.decision("bob", access.Deny, r2, st2)
	w.accept("bob", r2, no)
	w.end(End{Request: r2.ID, State: access.StateDenied, By: "bob", Why: "denied by bob", Statement: &no})
	w.record(Event{Type: StatementRefused, Request: r2.ID, Step: "refused", Code: access.CodeEnded, Why: "too late", Statement: &no})
	return r, r2
}

func (w *world) verify(o VerifyOptions) Report {
	w.t.Helper()
	r, err := OpenReader(context.Background(), w.path, w.public)
	if err != nil {
		w.t.Fatal(err)
	}
	defer func() { _ = r.Close() }()
	report, err := r.Verify(context.Background(), o)
	if err != nil {
		w.t.Fatal(err)
	}
	return report
}

// edit changes the file behind the log's back.
func (w *world) edit(statements ...string) {
	w.t.Helper()
	if err := w.log.Close(); err != nil {
		w.t.Fatal(err)
	}
	db := behind(w.t, w.path)
	for _, s := range statements {
		if _, err := db.Exec(words(s)); err != nil {
			w.t.Fatalf("%s: %v", s, err)
		}
	}
}

// wantProblem fails the test unless the first problem is of this event and
// says so.
func wantProblem(t testing.TB, r Report, index int64, what string) {
	t.Helper()
	if r.OK || len(r.Problems) == 0 {
		t.Fatalf("nothing was found, want event %d: %s", index, what)
	}
	if p := r.Problems[0]; p.Index != index || !strings.Contains(p.What, what) {
		t.Errorf("found %q, want event %d: %s", p, index, what)
	}
}

func TestWholeLifeVerifies(t *testing.T) {
	w := newWorld(t)
	granted, _ := w.live()
	report := w.verify(VerifyOptions{})
	if !report.OK || len(report.Warnings) > 0 {
		t.Fatalf("problems %v, warnings %v", report.Problems, report.Warnings)
	}
	if report.Size != atAll || report.Events != atAll || report.Requests != 2 || report.Issued != 1 || report.Files != 3 || report.Statements != 8 {
		t.Errorf("report %+v", report)
	}
	grants, err := w.log.Grants(context.Background(), Query{})
	if err != nil || len(grants) != 1 {
		t.Fatalf("grants %v, %v", grants, err)
	}
	g := grants[0]
	if g.Request != granted.ID || g.Requester != "alice" || g.Resource != "ssh/web-1" || g.Login != "deploy" || g.Reason != "disk is full" ||
		len(g.ApprovedBy) != 1 || g.ApprovedBy[0] != "bob" || g.Ended != access.StateReleased || g.EndedBy != "alice" || g.Serial != 1 ||
		!g.Until.Before(g.From.Add(time.Minute)) {
		t.Errorf("grant %+v", g)
	}
}
