package audit

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"hallpass/access"
	"hallpass/evidence"
)

// delegates signs that somebody decides in who's place for an hour, changed by
// change.
func (w *world) delegates(who, to string, change ...func(*access.Delegation)) (access.Delegation, access.Statement) {
	w.t.Helper()
	d := access.Delegation{Header: w.header(access.TypeDelegation, who), Action: access.ActionDelegate, To: to, Reason: "on leave"}
	until := d.Time.Add(time.Hour)
	d.Until = &until
	for _, f := range change {
		f(&d)
	}
	return d, w.sign(who, d)
}

func (w *world) revokes(who string, of access.Delegation) access.Statement {
	w.t.Helper()
	_, st := w.delegates(who, of.To, func(d *access.Delegation) {
		d.Action, d.Until, d.Delegation, d.Reason = access.ActionRevoke, nil, of.ID, ""
	})
	return st
}

// delegate has the log take a delegation statement, a second later.
func (w *world) delegate(st access.Statement) error {
	w.tick()
	_, err := w.log.Delegate(context.Background(), w.book, st, w.now)
	return err
}

func (w *world) mustDelegate(st access.Statement) {
	w.t.Helper()
	if err := w.delegate(st); err != nil {
		w.t.Fatal(err)
	}
}

// instead is a decision in another's place.
func (w *world) instead(who, of string, r access.Request, st access.Statement) access.Statement {
	w.t.Helper()
	return w.sign(who, access.Decision{Header: w.header(access.TypeDecision, who), Request: r.ID, RequestHash: st.Hash(), Verdict: access.Approve, For: of})
}

// rests is the event of a credential whose evidence is what counts of ev by the
// delegations given.
func (w *world) rests(ev access.Evidence, given evidence.Delegations) Event {
	w.t.Helper()
	standing, counts, err := w.book.Through(given).Settle(ev, w.now, evidence.Known{})
	if err != nil {
		w.t.Fatal(err)
	}
	return Event{Evidence: &counts, Ruling: &standing.Ruling, Requester: standing.Request.Signer, Resource: standing.Request.Resource}
}

func (w *world) wantDelegations(want ...string) evidence.Delegations {
	w.t.Helper()
	fresh, err := OpenReader(context.Background(), w.path, w.public)
	if err != nil {
		w.t.Fatal(err)
	}
	defer func() { _ = fresh.Close() }()
	var given evidence.Delegations
	for _, r := range []*Reader{w.log.Reader, fresh} {
		if given, err = r.Delegations(context.Background()); err != nil {
			w.t.Fatal(err)
		}
		var ids []string
		for _, g := range given {
			ids = append(ids, g.Delegation.ID)
		}
		if d := cmp.Diff(want, ids); d != "" {
			w.t.Errorf("delegations: %s", d)
		}
	}
	return given
}

func TestDelegations(t *testing.T) {
	w := newWorld(t)
	w.rulebook(lockPolicy)
	w.wantDelegations()
	first, st := w.delegates("bob", "dave")
	w.mustDelegate(st)
	w.mustDelegate(st) // again
	w.wantDelegations(first.ID)
	_, other := w.delegates("bob", "carol", func(d *access.Delegation) { d.ID = first.ID })
	wantRefusal(t, w.delegate(other), access.CodeDuplicate, "was said before, with another content")
	wantRefusal(t, w.delegate(w.revokes("dave", first)), access.CodeForbidden, "is bob's: he revokes it")
	_, circle := w.delegates("dave", "bob")
	wantRefusal(t, w.delegate(circle), access.CodeForbidden, "it would go in a circle: bob delegates to dave already")
	second, st2 := w.delegates("dave", "carol")
	w.mustDelegate(st2)
	w.wantDelegations(first.ID, second.ID)

	off := w.revokes("bob", first)
	w.mustDelegate(off)
	w.mustDelegate(off)
	w.wantDelegations(second.ID)
	wantRefusal(t, w.delegate(st), access.CodeEnded, "was revoked, or is over") // nobody says it again
	wantRefusal(t, w.delegate(w.revokes("carol", first)), access.CodeNotFound, "no delegation "+first.ID+" is in force")
	w.mustDelegate(w.revokes("carol", second)) // who may lock
	w.wantDelegations()

	// Who is locked delegates nothing, and the log verifies that, too.
	_, lockSt := w.lock("carol", access.LockUser, "bob")
	w.mustSay(lockSt)
	_, st3 := w.delegates("bob", "dave")
	wantRefusal(t, w.delegate(st3), access.CodeForbidden, "user bob is locked by carol")

	report := w.verify(VerifyOptions{})
	if !report.OK || report.Statements != 5 {
		t.Errorf("%+v", report)
	}
}

// Of two circles' halves at the same moment one is first.
func TestDelegationsAtTheSameMoment(t *testing.T) {
	w := newWorld(t)
	w.rulebook(lockPolicy)
	_, one := w.delegates("bob", "dave")
	_, two := w.delegates("dave", "bob")
	w.tick()
	var taken, refused int
	var mu sync.Mutex
	var all sync.WaitGroup
	for _, st := range []access.Statement{one, two} {
		all.Go(func() {
			var err error
			for again := true; again; again = access.CodeOf(err) == access.CodeUnavailable {
				_, err = w.log.Delegate(context.Background(), w.book, st, w.now)
			}
			mu.Lock()
			defer mu.Unlock()
			switch access.CodeOf(err) {
			case "":
				taken++
			case access.CodeForbidden:
				refused++
			default:
				t.Error(err)
			}
		})
	}
	all.Wait()
	if taken != 1 || refused != 1 {
		t.Errorf("%d taken, %d refused", taken, refused)
	}
	if report := w.verify(VerifyOptions{}); !report.OK {
		t.Error(report.Problems)
	}
}

// A credential that rests on a delegation which was revoked since it was judged,
// or which nobody has recorded, isn't recorded.
func TestIssuedThroughDelegations(t *testing.T) {
	w := newWorld(t)
	ctx := context.Background()
	r, st := w.ask("alice")
	first, on := w.delegates("bob", "dave")
	yes := w.instead("dave", "bob", r, st)
	entry, err := w.log.Reserve(ctx, st.Hash(), w.handle(r), Event{Digests: w.digests()})
	if err != nil {
		t.Fatal(err)
	}
	cred := w.certificate(*entry.Handle, w.spec(r, *entry.Handle))
	ev := access.Evidence{Request: st, Decisions: []access.Statement{yes}}
	judged := w.rests(ev, evidence.Delegations{{Delegation: first, Statement: on}})
	wantRefusal(t, w.log.Issued(ctx, cred, judged), access.CodeUnavailable, "the delegation by bob, which it rests on, was revoked meanwhile")
	w.mustDelegate(on)
	if judged = w.rests(ev, w.wantDelegations(first.ID)); len(judged.Evidence.Delegations) != 1 {
		t.Fatalf("it rests on %+v", judged.Evidence)
	}
	w.mustDelegate(w.revokes("bob", first))
	wantRefusal(t, w.log.Issued(ctx, cred, judged), access.CodeUnavailable, "the delegation by bob, which it rests on, was revoked meanwhile")

	// And with another one, that nobody revokes before, it is.
	second, on := w.delegates("bob", "dave")
	w.mustDelegate(on)
	ev.Decisions = []access.Statement{w.instead("dave", "bob", r, st)}
	w.accept("dave", r, ev.Decisions[0])
	if err := w.log.Issued(ctx, cred, w.rests(ev, w.wantDelegations(second.ID))); err != nil {
		t.Fatal(err)
	}
	w.mustDelegate(w.revokes("bob", second)) // what was granted stays
	report := w.verify(VerifyOptions{})
	if !report.OK || report.Issued != 1 {
		t.Errorf("%+v", report)
	}
	grants, err := w.log.Grants(ctx, Query{})
	if err != nil || len(grants) != 1 || strings.Join(grants[0].ApprovedBy, " ") != "dave for bob (delegated)" {
		t.Errorf("%+v, %v", grants, err)
	}
	// The evidence has what a proof needs.
	p, err := w.log.Prove(ctx, r.ID)
	if err != nil {
		t.Fatal(err)
	}
	proved, err := CheckProof(encodeProof(t, p), w.public)
	if err != nil || !proved.OK || proved.Grant == nil || strings.Join(proved.Grant.ApprovedBy, " ") != "dave for bob (delegated)" {
		t.Errorf("%v: %+v", err, proved)
	}
}

// What somebody who can write into the log makes of delegations shows.
func TestVerifyDelegations(t *testing.T) {
	event := func(w *world, d access.Delegation, st access.Statement) Event {
		return Event{Type: delegationType(d), Step: delegationStep(d), Actor: d.Signer, Statement: &st, Digests: w.digests()}
	}
	// issue records a credential on a decision by dave in bob's place, past the checks.
	issue := func(w *world, given evidence.Delegations, change func(*access.Evidence)) {
		r, st := w.ask("alice")
		ev := access.Evidence{Request: st, Decisions: []access.Statement{w.instead("dave", "bob", r, st)}}
		e := w.rests(ev, given)
		if change != nil {
			change(e.Evidence)
		}
		h := w.prepare(r, st)
		cred := w.certificate(h, w.spec(r, h))
		e.Type, e.Request, e.RequestHash, e.Step, e.Credential = CredentialIssued, r.ID, st.Hash(), CredentialIssued, &cred
		w.record(e)
	}
	for _, tt := range []struct {
		name, problem string
		do            func(w *world)
	}{
		{"never recorded", "it rests on a delegation that is not in the log before it, or was revoked", func(w *world) {
			d, st := w.delegates("bob", "dave")
			issue(w, evidence.Delegations{{Delegation: d, Statement: st}}, nil)
		}},
		{"revoked before", "it rests on a delegation that is not in the log before it, or was revoked", func(w *world) {
			d, st := w.delegates("bob", "dave")
			w.mustDelegate(st)
			w.mustDelegate(w.revokes("bob", d))
			issue(w, evidence.Delegations{{Delegation: d, Statement: st}}, nil)
		}},
		{"left out of the evidence", "by the rules of the day it was not allowed (ask): needs 1 approval from sre", func(w *world) {
			d, st := w.delegates("bob", "dave")
			w.mustDelegate(st)
			issue(w, evidence.Delegations{{Delegation: d, Statement: st}}, func(ev *access.Evidence) { ev.Delegations = nil })
		}},
		{"to another", "by the rules of the day it was not allowed (ask): needs 1 approval from sre", func(w *world) {
			_, st := w.delegates("bob", "carol")
			w.mustDelegate(st)
			d, mine := w.delegates("bob", "dave")
			issue(w, evidence.Delegations{{Delegation: d, Statement: mine}}, func(ev *access.Evidence) { ev.Delegations = []access.Statement{st} })
		}},
		{"over", "by the rules of the day it was not allowed (ask): needs 1 approval from sre", func(w *world) {
			d, st := w.delegates("bob", "dave")
			w.mustDelegate(st)
			w.now = w.now.Add(2 * time.Hour)
			later := w.now.Add(time.Hour)
			d.Until = &later
			issue(w, evidence.Delegations{{Delegation: d, Statement: w.sign("bob", d)}}, func(ev *access.Evidence) { ev.Delegations = []access.Statement{st} })
		}},
		{"by who has nothing", "the delegation statement: carol is not in sre: nobody delegates more than he has", func(w *world) {
			d, st := w.delegates("carol", "dave", func(d *access.Delegation) { d.Groups = []string{"sre"} })
			w.record(event(w, d, st))
		}},
		{"by another than it says", "the delegation statement: delegation names bob as its signer, but is signed by a key of dave", func(w *world) {
			d, _ := w.delegates("bob", "dave")
			w.record(event(w, d, w.sign("dave", d)))
		}},
		{"under another's name", "the delegation is bob's, not dave's", func(w *world) {
			d, st := w.delegates("bob", "dave")
			e := event(w, d, st)
			e.Actor = "dave"
			w.record(e)
		}},
		{"in another's place", "it is not in the place of the delegation", func(w *world) {
			d, st := w.delegates("bob", "dave")
			e := event(w, d, st)
			e.Step += "0"
			w.record(e)
		}},
		{"of who was locked", "user bob is locked by carol: stolen, so nothing is delegated by or to him", func(w *world) {
			_, lockSt := w.lock("carol", access.LockUser, "bob")
			w.mustSay(lockSt)
			d, st := w.delegates("bob", "dave")
			w.record(event(w, d, st))
		}},
		{"revoked by nobody entitled", "he revokes it, or somebody whom policy lets lock", func(w *world) {
			d, st := w.delegates("bob", "dave")
			w.mustDelegate(st)
			off := access.Delegation{Header: w.header(access.TypeDelegation, "dave"), Action: access.ActionRevoke, To: "dave", Delegation: d.ID}
			w.record(event(w, off, w.sign("dave", off)))
		}},
		{"accepted for who has delegated nothing", "dave decides in the place of bob, who has delegated nothing to him before it", func(w *world) {
			r, st := w.ask("alice")
			w.accept("dave", r, w.instead("dave", "bob", r, st))
		}},
		{"accepted for the requester", "dave decides in the place of alice, who asks", func(w *world) {
			_, on := w.delegates("alice", "dave")
			w.mustDelegate(on)
			r, st := w.ask("alice")
			w.accept("dave", r, w.instead("dave", "alice", r, st))
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			w.rulebook(lockPolicy)
			tt.do(w)
			report := w.verify(VerifyOptions{})
			found := false
			for _, p := range report.Problems {
				found = found || strings.Contains(p.What, tt.problem)
			}
			if report.OK || !found {
				t.Errorf("got %v, want %s", report.Problems, tt.problem)
			}
		})
	}
}

// What isn't a delegation delegates nothing: the log refuses to say what is
// delegated at all.
func TestForgedDelegationEvent(t *testing.T) {
	for _, who := range []string{"dave", "eve"} {
		w := newWorld(t)
		d, _ := w.delegates("bob", "dave")
		st := w.sign(who, d)
		w.record(Event{Type: DelegationGiven, Step: delegationStep(d), Actor: "bob", Statement: &st, Digests: w.digests()})
		if given, err := w.log.Delegations(context.Background()); access.CodeOf(err) != access.CodeUnverified || len(given) > 0 {
			t.Errorf("%s: %v, %v", who, given, err)
		}
	}
}

// A delegation is forgotten when it is of no use to anybody, in the same way by
// whoever reads the log from its beginning.
func TestDelegationsOverLongAgo(t *testing.T) {
	w := newWorld(t)
	for range 3 {
		_, st := w.delegates("bob", "dave")
		w.mustDelegate(st)
		w.now = w.now.Add(26 * time.Hour)
	}
	if given, err := w.log.Delegations(context.Background()); err != nil || len(given) != 1 {
		t.Errorf("%d are kept, %v", len(given), err)
	}
	last, st := w.delegates("bob", "dave")
	w.mustDelegate(st)
	w.wantDelegations(last.ID)
	if report := w.verify(VerifyOptions{}); !report.OK {
		t.Error(report.Problems)
	}
}

func TestDelegationsUseTheIndex(t *testing.T) {
	l, _, _ := newLog(t)
	var id, parent, unused int
	var plan string
	if err := l.Reader.db.QueryRow("EXPLAIN QUERY PLAN SELECT count(*) FROM "+delegationSteps).Scan(&id, &parent, &unused, &plan); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(plan, "events_step") {
		t.Error(plan)
	}
}

func TestDelegateWhenTheLogIsUnreadable(t *testing.T) {
	w := newWorld(t)
	d, st := w.delegates("bob", "dave")
	w.record(Event{Type: DelegationGiven, Step: delegationStep(d), Actor: "bob", Statement: &st, Digests: w.digests(), Time: w.now.Add(48 * time.Hour)})
	_, other := w.delegates("bob", "carol")
	err := w.delegate(other)
	if access.CodeOf(err) != access.CodeUnavailable || errors.Is(err, context.Canceled) || !strings.Contains(fmt.Sprint(err), "the audit log has been changed") {
		t.Errorf("got %v", err)
	}
}
