package audit

import (
	"context"
	"fmt"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"hallpass/access"
	"hallpass/evidence"
	"hallpass/statement"
)

// A request that is never received by the log's word, because whoever runs the
// workflow left that out, is in the review by its credential all the same.
func TestReviewSeesWhatWasOnlyIssued(t *testing.T) {
	w := newWorld(t)
	r, st := w.request("alice")
	yes := w.decision("bob", access.Approve, r, st)
	w.grant(r, access.Evidence{Request: st, Decisions: []access.Statement{yes}})
	w.live()
	review, report, err := w.log.AccessReview(context.Background(), t0, t0.Add(time.Hour))
	if err != nil || !report.OK {
		t.Fatal(err, report.Problems)
	}
	if review.Counts.Requests != 3 || review.Counts.Granted != 2 || review.Counts.Denied != 1 || !review.Requests[0].Asked.IsZero() ||
		review.Requests[0].ApprovedBy[0] != "bob" || review.Requests[0].State != access.StateActive {
		t.Errorf("%+v", review)
	}
	if fmt.Sprint(review.Size) != fmt.Sprint(report.Size) || review.Checkpoint != report.Checkpoint {
		t.Error("the review is of another log than the report")
	}
}

// Of a log that doesn't verify there is no review.
func TestNoReviewOfAChangedLog(t *testing.T) {
	w := newWorld(t)
	w.live()
	w.edit("DELETE FROM events WHERE idx = 12")
	w.reading(t, func(r *Reader) {
		review, report, err := r.AccessReview(context.Background(), t0, t0.Add(time.Hour))
		if err != nil || report.OK || len(report.Problems) == 0 || review.Requests != nil || review.Checkpoint != "" {
			t.Errorf("%+v, %+v, %v", review, report, err)
		}
	})
}

func (w *world) reading(t *testing.T, do func(*Reader)) {
	t.Helper()
	r, err := OpenReader(context.Background(), w.path, w.public)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Close() }()
	do(r)
}

// BenchmarkReview makes the review of a log of 100,000 events, and reports how
// much memory that took at its peak, above what the test itself holds.
func BenchmarkReview(b *testing.B) {
	const lives = 16_667 // of six events
	w := newWorld(b)
	fill(w, lives)
	w.now = w.now.Add(time.Minute)
	r, err := OpenReader(context.Background(), w.path, w.public)
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = r.Close() }()
	runtime.GC()
	var before, during runtime.MemStats
	runtime.ReadMemStats(&before)
	var peak atomic.Uint64
	stop := make(chan struct{})
	go func() {
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				return
			case <-tick.C:
				runtime.ReadMemStats(&during)
				peak.Store(max(peak.Load(), during.HeapInuse))
			}
		}
	}()
	for b.Loop() {
		review, report, err := r.AccessReview(context.Background(), t0, w.now)
		if err != nil || !report.OK {
			b.Fatal(err, report.Problems)
		}
		if len(review.Requests) != lives {
			b.Fatalf("%d requests", len(review.Requests))
		}
		b.ReportMetric(float64(report.Size), "events")
	}
	close(stop)
	b.ReportMetric(float64(peak.Load()-before.HeapInuse)/(1<<20), "MiB-peak")
}

// fill writes whole lives, many to a transaction.
func fill(w *world, lives int) {
	w.t.Helper()
	const each = 50
	for at := 0; at < lives; at += each {
		_, err := update(context.Background(), w.log, func(t *tx) (struct{}, error) {
			for i := at; i < min(at+each, lives); i++ {
				if err := w.life(t, i); err != nil {
					return struct{}{}, err
				}
			}
			return struct{}{}, nil
		})
		if err != nil {
			w.t.Fatal(err)
		}
	}
}

// life is one request from beginning to end.
func (w *world) life(t *tx, i int) error {
	header := func(typ access.Type, who string) access.Header {
		w.now = w.now.Add(time.Second)
		return access.Header{Type: typ, ID: fmt.Sprintf("01900000-0000-7000-%s-%012d", map[access.Type]string{access.TypeRequest: "8000", access.TypeDecision: "8001", access.TypeRelease: "8002"}[typ], i), Signer: who, Time: w.now}
	}
	who := []string{"alice", "dave"}[i%2]
	r := access.Request{Header: header(access.TypeRequest, who), Resource: fmt.Sprintf("ssh/web-%d", 1+i%2), Login: "deploy", Duration: 1800,
		Reason: "disk is full", PublicKey: statement.MarshalKey(key(w.t, "session").PublicKey())}
	st := w.sign(who, r)
	ev := access.Evidence{Request: st}
	received := Event{Type: RequestReceived, Time: w.now, Request: r.ID, RequestHash: st.Hash(), Step: "received", Actor: who, Requester: who, Resource: r.Resource, Statement: &st, Digests: w.digests()}
	standing, err := w.book.Judge(ev, w.now, evidence.Known{})
	if err != nil {
		return err
	}
	ruled := Event{Type: RequestRuled, Time: w.now, Request: r.ID, RequestHash: st.Hash(), Step: "ruled", Ruling: &standing.Ruling, Why: standing.Why}
	yes := w.sign("bob", access.Decision{Header: header(access.TypeDecision, "bob"), Request: r.ID, RequestHash: st.Hash(), Verdict: access.Approve})
	accepted := Event{Type: DecisionAccepted, Time: w.now, Request: r.ID, Step: "decision:" + yes.Hash(), Actor: "bob", Statement: &yes, Digests: w.digests()}
	ev.Decisions = []access.Statement{yes}
	h := access.Handle{Request: r.ID, Kind: "ssh", Serial: uint64(i + 1), CA: w.ca.Fingerprint(), Principals: []string{r.Resource[4:] + "/deploy"},
		NotBefore: w.now, NotAfter: w.now.Add(r.Duration.Duration())}
	prepared := Event{Type: CredentialPrepared, Time: w.now, Request: r.ID, RequestHash: st.Hash(), Step: CredentialPrepared, Handle: &h, Digests: w.digests()}
	cred := w.certificate(h, w.spec(r, h))
	issued := w.issued(ev)
	issued.Type, issued.Time, issued.Request, issued.RequestHash, issued.Step, issued.Credential = CredentialIssued, w.now, r.ID, st.Hash(), CredentialIssued, &cred
	bye := w.sign(who, access.Stop{Header: header(access.TypeRelease, who), Request: r.ID, RequestHash: st.Hash()})
	ended := Event{Type: GrantReleased, Time: w.now, Request: r.ID, RequestHash: st.Hash(), Step: "ended", Actor: who, State: access.StateReleased, Statement: &bye}
	for _, e := range []Event{received, ruled, accepted, prepared, issued, ended} {
		if _, err := t.append(e); err != nil {
			return err
		}
	}
	t.write("INSERT INTO serials (ca, last) VALUES (?, ?) ON CONFLICT (ca) DO UPDATE SET last = excluded.last", h.CA, int64(h.Serial))
	return t.put(Entry{Request: r.ID, RequestHash: st.Hash(), Handle: &h, Credential: &cred, Ended: access.StateReleased, EndedAt: ended.Time})
}

// Who said no is what a review is read for: each way to be denied is told from
// the others, by what is on record of it.
func TestReviewSaysWhoDenied(t *testing.T) {
	const limited = "locks: {groups: [security]}\n" + worldPolicy + "    limits: {user: {per_hour: 1}}\n  - {name: shut, when: 'request.reason == \"shut\"', deny: nobody}\n"
	w := newWorld(t)
	w.rulebook(limited)
	ctx := context.Background()
	lock := func(name string) access.Statement {
		l := access.Lock{Header: w.header(access.TypeLock, "carol"), Action: access.ActionLock, Kind: access.LockUser, Name: name, Reason: "stolen"}
		st := w.sign("carol", l)
		if _, err := w.log.Lock(ctx, w.book, st, w.now); err != nil {
			t.Fatal(err)
		}
		return st
	}
	// decide is what the activity Decide records.
	var code access.Code
	decide := func(who, reason string) (access.Request, access.Statement, access.Standing) {
		w.tick()
		r, _ := w.request(who)
		r.Reason = reason
		st := w.sign(who, r)
		locks, err := w.log.Locks(ctx)
		if err != nil {
			t.Fatal(err)
		}
		standing, err := w.book.Under(locks.Held).Judge(access.Evidence{Request: st}, w.now, evidence.Known{})
		if err != nil {
			t.Fatal(err)
		}
		over := w.log.Receive(ctx, Reception{
			Event:  Event{Request: r.ID, RequestHash: st.Hash(), Requester: who, Resource: r.Resource, Actor: who, Statement: &st, Digests: w.digests()},
			Ruling: standing.Ruling, Locks: locks.Words, Code: code, Why: standing.Why, Denied: standing.Effect == access.EffectDeny,
		})
		if over != nil && access.CodeOf(over) != access.CodeLimited {
			t.Fatal(over)
		}
		if over != nil {
			standing.Effect, standing.Why = access.EffectDeny, over.Error()
		}
		return r, st, standing
	}
	want := map[string]string{}
	denied := func(r access.Request, by string, e End) {
		e.Request, e.State = r.ID, access.StateDenied
		w.end(e)
		want[r.ID] = by
	}

	r, st, _ := decide("alice", "first")
	no := w.decision("bob", access.Deny, r, st)
	denied(r, DeniedByPerson, End{By: "bob", Statement: &no, Digests: w.digests()})
	r, _, standing := decide("alice", "second within the hour")
	if standing.Effect != access.EffectDeny || standing.Ruling.Effect != access.EffectAsk {
		t.Fatalf("the limit left room, or is policy's own word: %+v", standing)
	}
	denied(r, DeniedByLimit, End{Why: standing.Why})
	w.now = w.now.Add(2 * time.Hour)
	r, _, _ = decide("alice", "shut")
	denied(r, DeniedByPolicy, End{})
	r, st, _ = decide("alice", "the issuer says no")
	w.record(Event{Type: CredentialRefused, Request: r.ID, RequestHash: st.Hash(), Step: "refused", Code: access.CodeDenied, Evidence: &access.Evidence{Request: st}})
	denied(r, DeniedByIssuer, End{})
	w.now = w.now.Add(2 * time.Hour)
	r, _, _ = decide("alice", "locked while it waits")
	word := lock("alice")
	denied(r, DeniedByLock, End{By: "carol", Statement: &word, Digests: w.digests()})
	w.now = w.now.Add(2 * time.Hour)
	r, _, _ = decide("alice", "locked before it was asked")
	denied(r, DeniedByLock, End{})
	w.now = w.now.Add(2 * time.Hour)
	code = access.CodeEnded
	r, _, _ = decide("dave", "extends what is over")
	denied(r, DeniedByGrant, End{})

	review, report, err := w.log.AccessReview(ctx, t0, w.now.Add(time.Minute))
	if err != nil || !report.OK {
		t.Fatal(err, report.Problems)
	}
	if len(review.Requests) != len(want) || review.Counts.Denied != len(want) {
		t.Errorf("%d requests, %d denied, want %d", len(review.Requests), review.Counts.Denied, len(want))
	}
	for _, got := range review.Requests {
		if got.DeniedBy != want[got.Request] {
			t.Errorf("%q: denied by %q, want %q", got.Reason, got.DeniedBy, want[got.Request])
		}
	}
}

// Who broke the glass had nobody's approval, and that is not an automatic
// grant: it stands out, with how its review went, also when that was signed off
// long after the grant was over.
func TestReviewTellsBreakGlass(t *testing.T) {
	w := newWorld(t)
	w.rulebook(worldPolicy + "    emergency: {tell: [security], review: {from: [security], count: 1, within: 24h}}\n")
	ctx := context.Background()
	breaks := func() (access.Request, access.Statement) {
		r, _ := w.request("alice")
		r.Mode, r.Reason = access.ModeEmergency, "the site is down and nobody answers"
		st := w.sign("alice", r)
		standing, err := w.book.Judge(access.Evidence{Request: st}, w.now, evidence.Known{})
		if err != nil || standing.Effect != access.EffectAllow {
			t.Fatal(standing.Why, err)
		}
		w.record(Event{Type: RequestReceived, Request: r.ID, RequestHash: st.Hash(), Step: "received", Actor: "alice", Requester: "alice", Resource: r.Resource, Statement: &st, Digests: w.digests()})
		w.record(Event{Type: RequestRuled, Request: r.ID, RequestHash: st.Hash(), Step: "ruled", Ruling: &standing.Ruling, Why: standing.Why})
		w.tick()
		entry, err := w.log.Reserve(ctx, st.Hash(), w.handle(r), Event{Ruling: &standing.Ruling, Requester: "alice", Resource: r.Resource})
		if err != nil {
			t.Fatal(err)
		}
		if err := w.log.Issued(ctx, w.certificate(*entry.Handle, w.spec(r, *entry.Handle)), w.issued(access.Evidence{Request: st})); err != nil {
			t.Fatal(err)
		}
		w.end(End{Request: r.ID, State: access.StateExpired})
		return r, st
	}
	r, st := breaks()
	signed := w.sign("carol", access.Review{Header: w.header(access.TypeReview, "carol"), Request: r.ID, RequestHash: st.Hash(), Comment: "seen"})
	if _, err := w.log.Review(ctx, w.book, signed, w.now); err != nil {
		t.Fatal(err)
	}
	breaks()
	w.now = w.now.Add(time.Hour)
	soon, report, err := w.log.AccessReview(ctx, t0, w.now)
	if err != nil || !report.OK {
		t.Fatal(err, report.Problems)
	}
	w.now = w.now.Add(48 * time.Hour)
	late, _, err := w.log.AccessReview(ctx, t0, w.now)
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []struct {
		of     Review
		states [2]string
	}{{soon, [2]string{ReviewedDone, ReviewedOpen}}, {late, [2]string{ReviewedDone, ReviewedLate}}} {
		if n := want.of.Counts; n.Granted != 2 || n.Automatic != 0 || n.Emergency != 2 || len(want.of.Requests) != 2 {
			t.Fatalf("%d: %+v", i, n)
		}
		for j, got := range want.of.Requests {
			if !got.Emergency || got.Automatic || got.Review != want.states[j] {
				t.Errorf("%d: request %d: break-glass %t, automatic %t, review %q, want %q", i, j, got.Emergency, got.Automatic, got.Review, want.states[j])
			}
		}
	}
	if by := late.Requests[0].ReviewedBy; len(by) != 1 || by[0] != "carol" {
		t.Errorf("signed off by %v", by)
	}
}

// An extension is a grant of its own that goes on where the other one ends: its
// time isn't counted twice, and that no session names it says nothing, since
// those that were open go on under the request that it extends.
func TestReviewOfAnExtension(t *testing.T) {
	w := newWorld(t)
	issued := func(extends string, from, until time.Time) *Event {
		r, st := w.request("alice")
		e := w.issued(access.Evidence{Request: st})
		e.Type, e.Time, e.Request, e.Requester, e.Resource = CredentialIssued, from, r.ID, "alice", r.Resource
		e.Credential = &access.Credential{Handle: access.Handle{Request: r.ID, Kind: "ssh", NotBefore: from, NotAfter: until, Extends: extends}}
		return &e
	}
	g := &gathering{from: t0, to: t0.Add(24 * time.Hour), replay: newReplay(&Report{}), open: map[string]*Reviewed{}, hosts: map[string]bool{"web-1": true}, told: map[string]bool{"ssh/web-1": true}}
	g.catalog = w.digests().Catalog
	end := t0.Add(time.Hour)
	first := issued("", t0, end)
	g.event(1, first)
	g.event(2, issued(first.Request, t0.Add(30*time.Minute), end.Add(30*time.Minute)))
	review := g.sum()
	if len(review.Requests) != 2 {
		t.Fatalf("%d requests", len(review.Requests))
	}
	was, more := review.Requests[0], review.Requests[1]
	if was.Use != UseNever || was.Extends != "" || !was.Until.Equal(end) {
		t.Errorf("the grant: %+v", was)
	}
	if more.Use != UseUnknown || more.Extends != first.Request || !more.From.Equal(end) || !more.Until.Equal(end.Add(30*time.Minute)) {
		t.Errorf("its extension: %+v", more)
	}
	if review.Counts.Held != 90*60 {
		t.Errorf("held %s, want 1h30m", review.Counts.Held)
	}

	// Both were given back before the extension's own time began.
	back := t0.Add(45 * time.Minute)
	for i, request := range []string{first.Request, more.Request} {
		g.event(int64(3+i), &Event{Type: GrantReleased, Time: back, Request: request, State: access.StateReleased})
	}
	review = g.sum()
	for _, r := range review.Requests {
		if r.Until.Before(r.From) || !r.Until.Equal(back) {
			t.Errorf("given back at %s: from %s until %s", back, r.From, r.Until)
		}
	}
	if review.Counts.Held != 45*60 {
		t.Errorf("held %s, want 45m", review.Counts.Held)
	}
}
