package audit

import (
	"context"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"hallpass/access"
)

const lockPolicy = "locks: {groups: [security]}\n" + worldPolicy

// lock signs a lock, changed by change.
func (w *world) lock(who, kind, name string, change ...func(*access.Lock)) (access.Lock, access.Statement) {
	w.t.Helper()
	l := access.Lock{Header: w.header(access.TypeLock, who), Action: access.ActionLock, Kind: kind, Name: name, Reason: "stolen"}
	for _, f := range change {
		f(&l)
	}
	return l, w.sign(who, l)
}

func (w *world) unlock(who string, of access.Lock) (access.Lock, access.Statement) {
	w.t.Helper()
	return w.lock(who, of.Kind, of.Name, func(l *access.Lock) { l.Action, l.Lock, l.Reason = access.ActionUnlock, of.ID, "" })
}

// say has the log take a lock statement, a second later.
func (w *world) say(st access.Statement) error {
	w.tick()
	_, err := w.log.Lock(context.Background(), w.book, st, w.now)
	return err
}

func (w *world) mustSay(st access.Statement) {
	w.t.Helper()
	if err := w.say(st); err != nil {
		w.t.Fatal(err)
	}
}

// wantLocks checks what is held, as this log sees it and as one opened anew.
func (w *world) wantLocks(words int64, held ...string) {
	w.t.Helper()
	fresh, err := OpenReader(context.Background(), w.path, w.public)
	if err != nil {
		w.t.Fatal(err)
	}
	defer func() { _ = fresh.Close() }()
	for _, r := range []*Reader{w.log.Reader, fresh} {
		locks, err := r.Locks(context.Background())
		if err != nil {
			w.t.Fatal(err)
		}
		var ids []string
		for _, h := range locks.Held {
			ids = append(ids, h.Lock.ID)
		}
		if d := cmp.Diff(held, ids); d != "" || locks.Words != words {
			w.t.Errorf("%d words, want %d; held: %s", locks.Words, words, d)
		}
	}
}

func wantRefusal(t *testing.T, err error, code access.Code, message string) {
	t.Helper()
	if access.CodeOf(err) != code || !strings.Contains(err.Error(), message) {
		t.Errorf("got %q: %v, want %q: %s", access.CodeOf(err), err, code, message)
	}
}

func TestLocks(t *testing.T) {
	w := newWorld(t)
	w.rulebook(lockPolicy)
	w.wantLocks(0)
	alice, st := w.lock("carol", access.LockUser, "alice")
	w.mustSay(st)
	w.mustSay(st) // again
	w.wantLocks(1, alice.ID)
	host, hostSt := w.lock("carol", access.LockHost, "web-1")
	w.mustSay(hostSt)
	w.wantLocks(2, alice.ID, host.ID)

	_, forged := w.unlock("alice", alice)
	wantRefusal(t, w.say(forged), access.CodeForbidden, "alice is in none of the groups")
	_, other := w.lock("carol", access.LockUser, "dave", func(l *access.Lock) { l.ID = alice.ID })
	wantRefusal(t, w.say(other), access.CodeDuplicate, "was said before, with another content")
	_, open := w.unlock("carol", alice)
	w.mustSay(open)
	w.mustSay(open)
	w.wantLocks(3, host.ID)
	wantRefusal(t, w.say(st), access.CodeEnded, "was lifted")
	_, again := w.unlock("carol", alice)
	wantRefusal(t, w.say(again), access.CodeNotFound, "there is no lock")
	w.wantLocks(3, host.ID)

	// Who locked loses the right to: what was said stays said.
	w.rulebook(worldPolicy)
	w.mustSay(hostSt)
	w.wantLocks(3, host.ID)
	_, late := w.unlock("carol", host)
	wantRefusal(t, w.say(late), access.CodeForbidden, "carol is in none of the groups")
	report := w.verify(VerifyOptions{})
	if !report.OK || report.Statements != 3 {
		t.Errorf("%+v", report)
	}
}

// A credential that was judged under other locks than there are isn't recorded.
func TestIssuedUnderOtherLocks(t *testing.T) {
	w := newWorld(t)
	w.rulebook(lockPolicy)
	ctx := context.Background()
	r, st := w.ask("alice")
	yes := w.decision("bob", access.Approve, r, st)
	ev := access.Evidence{Request: st, Decisions: []access.Statement{yes}}
	entry, err := w.log.Reserve(ctx, st.Hash(), w.handle(r), Event{Digests: w.digests()})
	if err != nil {
		t.Fatal(err)
	}
	cred := w.certificate(*entry.Handle, w.spec(r, *entry.Handle))
	judged := w.issued(ev)
	lock, lockSt := w.lock("carol", access.LockUser, "dave") // of somebody else, even
	w.mustSay(lockSt)
	wantRefusal(t, w.log.Issued(ctx, cred, judged), access.CodeUnavailable, "locked or unlocked meanwhile")
	judged.Locks = 2
	wantRefusal(t, w.log.Issued(ctx, cred, judged), access.CodeUnavailable, "locked or unlocked meanwhile")
	judged.Locks = 1
	if err := w.log.Issued(ctx, cred, judged); err != nil {
		t.Fatal(err)
	}
	_, open := w.unlock("carol", lock)
	w.mustSay(open)
	if err := w.log.Issued(ctx, cred, judged); err != nil {
		t.Errorf("saying again what is on record: %v", err)
	}
	if report := w.verify(VerifyOptions{}); !report.OK {
		t.Error(report.Problems)
	}
}

// What a lock did shows in the log: a credential that was issued under it, a
// request that was ended by a lock which isn't there or is on another, a lock
// that nobody entitled has signed.
func TestVerifyLocks(t *testing.T) {
	approved := func(w *world) (access.Request, access.Evidence) {
		r, st := w.ask("alice")
		return r, access.Evidence{Request: st, Decisions: []access.Statement{w.decision("bob", access.Approve, r, st)}}
	}
	event := func(w *world, l access.Lock, st access.Statement, locks int64) Event {
		return Event{Type: lockType(l), Step: lockStep(l.ID), Actor: l.Signer, Statement: &st, Digests: w.digests(), Locks: locks}
	}
	for _, tt := range []struct {
		name, problem string
		do            func(w *world)
	}{
		{"ended by a lock", "", func(w *world) {
			r, ev := approved(w)
			w.grant(r, ev)
			l, st := w.lock("carol", access.LockUser, "alice")
			w.mustSay(st)
			_, open := w.unlock("carol", l)
			w.mustSay(open)
			w.end(End{Request: r.ID, State: access.StateRevoked, By: "carol", Statement: &st, Digests: w.digests()})
		}},
		{"denied by a lock on the host", "", func(w *world) {
			r, _ := approved(w)
			_, st := w.lock("carol", access.LockHost, "web-1")
			w.mustSay(st)
			w.end(End{Request: r.ID, State: access.StateDenied, By: "carol", Statement: &st, Digests: w.digests()})
		}},
		{"ended by a lock on another", "the lock that ended it is on user dave, the request is alice's for ssh/web-1", func(w *world) {
			r, _ := approved(w)
			_, st := w.lock("carol", access.LockUser, "dave")
			w.mustSay(st)
			w.end(End{Request: r.ID, State: access.StateDenied, By: "carol", Statement: &st, Digests: w.digests()})
		}},
		{"ended by a lock that was never set", "the lock that ended it is not in the log before it", func(w *world) {
			r, _ := approved(w)
			_, st := w.lock("carol", access.LockUser, "alice")
			w.end(End{Request: r.ID, State: access.StateDenied, By: "carol", Statement: &st, Digests: w.digests()})
		}},
		{"issued under a lock", "by the rules of the day it was not allowed (deny): user alice is locked by carol: stolen", func(w *world) {
			r, ev := approved(w)
			_, st := w.lock("carol", access.LockUser, "alice")
			w.mustSay(st)
			entry, _ := w.log.Reserve(context.Background(), ev.Request.Hash(), w.handle(r), Event{Digests: w.digests()})
			e := w.issued(ev)
			e.Locks = 1
			if err := w.log.Issued(context.Background(), w.certificate(*entry.Handle, w.spec(r, *entry.Handle)), e); err != nil {
				w.t.Fatal(err)
			}
		}},
		{"issued as if there were no locks", "it was judged under 0 lock statements, there were 1 before it", func(w *world) {
			r, ev := approved(w)
			_, st := w.lock("carol", access.LockUser, "dave")
			w.mustSay(st)
			entry, _ := w.log.Reserve(context.Background(), ev.Request.Hash(), w.handle(r), Event{Digests: w.digests()})
			cred := w.certificate(*entry.Handle, w.spec(r, *entry.Handle))
			e := w.issued(ev)
			e.Type, e.Request, e.RequestHash, e.Step, e.Credential = CredentialIssued, r.ID, ev.Request.Hash(), CredentialIssued, &cred
			w.record(e)
		}},
		{"lock by nobody entitled", "the lock statement: dave is in none of the groups that may lock and unlock", func(w *world) {
			l, st := w.lock("dave", access.LockUser, "alice")
			w.record(event(w, l, st, 0))
		}},
		{"lock by a stranger", "the lock statement: lock is signed by", func(w *world) {
			l, st := w.lock("eve", access.LockUser, "alice")
			w.record(event(w, l, st, 0))
		}},
		{"unlock by nobody entitled", "the lock statement: alice is in none of the groups that may lock and unlock", func(w *world) {
			l, st := w.lock("carol", access.LockUser, "alice")
			w.mustSay(st)
			open, openSt := w.unlock("alice", l)
			w.record(event(w, open, openSt, 1))
		}},
		{"lock in another's place", "it is not in the place of the lock", func(w *world) {
			l, st := w.lock("carol", access.LockUser, "alice")
			e := event(w, l, st, 0)
			e.Step = lockStep("01900000-0000-7000-8000-0000000000ff")
			w.record(e)
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			w.rulebook(lockPolicy)
			tt.do(w)
			report := w.verify(VerifyOptions{})
			switch {
			case tt.problem == "" && !report.OK:
				t.Error(report.Problems)
			case tt.problem != "" && (report.OK || !strings.Contains(report.Problems[0].What, tt.problem)):
				t.Errorf("got %v, want %s", report.Problems, tt.problem)
			}
		})
	}
}

// What isn't a lock doesn't lock, and what isn't an unlock doesn't unlock: the
// log refuses to say what is locked at all.
func TestForgedLockEvent(t *testing.T) {
	for _, who := range []string{"dave", "eve"} {
		w := newWorld(t)
		w.rulebook(lockPolicy)
		l, st := w.lock(who, access.LockUser, "alice")
		w.record(Event{Type: LockSet, Step: lockStep(l.ID), Actor: who, Statement: &st, Digests: w.digests()})
		if locks, err := w.log.Locks(context.Background()); access.CodeOf(err) != access.CodeUnverified || len(locks.Held) > 0 {
			t.Errorf("%s: %v, %v", who, locks, err)
		}
	}
}

func TestProofOfARequestEndedByALock(t *testing.T) {
	w := newWorld(t)
	w.rulebook(lockPolicy)
	_, first := w.lock("carol", access.LockUser, "dave")
	w.mustSay(first)
	r, st := w.ask("alice")
	ev := access.Evidence{Request: st, Decisions: []access.Statement{w.decision("bob", access.Approve, r, st)}}
	entry, err := w.log.Reserve(context.Background(), st.Hash(), w.handle(r), Event{Digests: w.digests()})
	if err != nil {
		t.Fatal(err)
	}
	e := w.issued(ev)
	e.Locks = 1
	if err := w.log.Issued(context.Background(), w.certificate(*entry.Handle, w.spec(r, *entry.Handle)), e); err != nil {
		t.Fatal(err)
	}
	_, lockSt := w.lock("carol", access.LockUser, "alice")
	w.mustSay(lockSt)
	w.end(End{Request: r.ID, State: access.StateRevoked, By: "carol", Why: "locked", Statement: &lockSt, Digests: w.digests()})
	p, err := w.log.Prove(context.Background(), r.ID)
	if err != nil {
		t.Fatal(err)
	}
	report, err := CheckProof(encodeProof(t, p), w.public)
	if err != nil || !report.OK || report.Grant == nil || report.Grant.Ended != access.StateRevoked {
		t.Errorf("%v: %+v", err, report)
	}
}

func TestLive(t *testing.T) {
	w := newWorld(t)
	var ids []string
	for _, who := range []string{"alice", "dave", "alice", "alice"} {
		r, _ := w.ask(who)
		ids = append(ids, r.ID)
	}
	w.end(End{Request: ids[2], State: access.StateDenied})
	r, st := w.ask("alice")
	w.grant(r, access.Evidence{Request: st, Decisions: []access.Statement{w.decision("bob", access.Approve, r, st)}})
	prepared, pst := w.ask("alice")
	w.prepare(prepared, pst)
	web := func(id string) access.Live {
		return access.Live{Request: id, Resource: "ssh/web-1", Handed: id == r.ID || id == prepared.ID, Granted: id == r.ID}
	}
	for _, tt := range []struct {
		name, requester string
		resources       []string
		after           string
		limit           int
		want            []access.Live
	}{
		{"alice's", "alice", nil, "", 10, []access.Live{web(ids[0]), web(ids[3]), web(r.ID), web(prepared.ID)}},
		{"the first two", "alice", nil, "", 2, []access.Live{web(ids[0]), web(ids[3])}},
		{"those behind", "alice", nil, ids[3], 2, []access.Live{web(r.ID), web(prepared.ID)}},
		{"nobody's", "zoe", nil, "", 10, nil},
		{"the resource's", "", []string{"ssh/web-2", "ssh/web-1"}, "", 10, []access.Live{web(ids[0]), web(ids[1]), web(ids[3]), web(r.ID), web(prepared.ID)}},
		{"of no resource", "", nil, "", 10, nil},
	} {
		got, err := w.log.Live(context.Background(), tt.requester, tt.resources, tt.after, tt.limit)
		if err != nil {
			t.Fatal(err)
		}
		if len(got) == 0 {
			got = nil
		}
		if d := cmp.Diff(tt.want, got); d != "" {
			t.Errorf("%s: %s", tt.name, d)
		}
	}
}

// The check of the locks must not cost more with each event of the log.
func TestLocksUseTheIndex(t *testing.T) {
	l, _, _ := newLog(t)
	for _, query := range []string{"SELECT count(*) FROM " + lockSteps, "SELECT idx, leaf FROM " + lockSteps + " AND idx >= 7 ORDER BY idx"} {
		var id, parent, unused int
		var plan string
		if err := l.Reader.db.QueryRow("EXPLAIN QUERY PLAN "+query).Scan(&id, &parent, &unused, &plan); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(plan, "events_step") {
			t.Errorf("%s: %s", query, plan)
		}
	}
}

func BenchmarkLocks(b *testing.B) {
	w := newWorld(b)
	w.rulebook(lockPolicy)
	_, st := w.lock("carol", access.LockUser, "alice")
	if err := w.say(st); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := w.log.Locks(context.Background()); err != nil {
			b.Fatal(err)
		}
	}
}

// A lock denies or revokes; the log doesn't take another end on its word.
func TestLockCancelsNothing(t *testing.T) {
	w := newWorld(t)
	w.rulebook(lockPolicy)
	r, _ := w.ask("alice")
	_, st := w.lock("carol", access.LockUser, "alice")
	w.mustSay(st)
	_, err := w.log.End(context.Background(), End{Request: r.ID, State: access.StateCancelled, By: "carol", Statement: &st, Digests: w.digests()})
	if access.CodeOf(err) != access.CodeMalformed {
		t.Errorf("got %v", err)
	}
}

// A request goes on record with the ruling on it, and only under the locks that it was
// ruled under: what is locked later finds the request.
func TestRulingUnderLocks(t *testing.T) {
	w := newWorld(t)
	w.rulebook(lockPolicy)
	r, st := w.request("alice")
	ruling := access.Ruling{Effect: access.EffectAsk, Why: "needs somebody", Digests: *w.digests()}
	in := Reception{Ruling: ruling, Why: ruling.Why, Event: Event{
		Request: r.ID, RequestHash: st.Hash(), Actor: "alice", Requester: "alice", Resource: r.Resource, Statement: &st, Digests: w.digests(),
	}}
	lock, lockSt := w.lock("carol", access.LockUser, "alice")
	w.mustSay(lockSt)
	wantRefusal(t, w.log.Receive(context.Background(), in), access.CodeUnavailable, "locked or unlocked meanwhile")
	if on := w.events(Query{Request: r.ID}); len(on) > 0 {
		t.Fatalf("on record: %+v", on)
	}
	in.Locks = 1
	for range 2 {
		if err := w.log.Receive(context.Background(), in); err != nil {
			t.Fatal(err)
		}
	}
	on := w.events(Query{Request: r.ID})
	if len(on) != 2 || on[0].Event.Type != RequestReceived || on[1].Event.Type != RequestRuled || on[1].Event.Why != ruling.Why {
		t.Errorf("on record: %+v", on)
	}
	_, open := w.unlock("carol", lock)
	w.mustSay(open)
	wantRefusal(t, w.log.Receive(context.Background(), in), access.CodeUnavailable, "locked or unlocked meanwhile")
}

// A limit that leaves no room is why the request isn't granted, unless it is denied as it is.
func TestRulingOfALimit(t *testing.T) {
	w := newWorld(t)
	ruling := access.Ruling{Limits: access.Limits{User: access.Limit{PerHour: 1}}, Why: "allowed", Digests: *w.digests()}
	for i, want := range []string{"allowed", "has had 1 request", "allowed"} {
		r, st := w.request("alice")
		err := w.log.Receive(context.Background(), Reception{Ruling: ruling, Why: ruling.Why, Denied: i == 2, Event: Event{
			Request: r.ID, RequestHash: st.Hash(), Actor: "alice", Requester: "alice", Resource: r.Resource, Statement: &st, Digests: w.digests(),
		}})
		if limited := access.CodeOf(err) == access.CodeLimited; limited != (i > 0) {
			t.Errorf("request %d: %v", i, err)
		}
		on := w.events(Query{Request: r.ID, Type: RequestRuled})
		if len(on) != 1 || !strings.Contains(on[0].Event.Why, want) {
			t.Errorf("request %d: %+v, want %q", i, on, want)
		}
	}
}
