package workflows_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/mock"
	"go.temporal.io/sdk/client"

	"hallpass/access"
	"hallpass/audit"
	"hallpass/evidence"
	"hallpass/grant"
	"hallpass/workflows"
)

// lock signs a lock by name, changed by change.
func (w *world) lock(name, kind, what string, changes ...func(*access.Lock)) (access.Lock, access.Statement) {
	w.t.Helper()
	l := access.Lock{Header: w.header(name, access.TypeLock), Action: access.ActionLock, Kind: kind, Name: what, Reason: "laptop stolen"}
	for _, change := range changes {
		change(&l)
	}
	return l, w.sign(name, l)
}

func unlocks(of access.Lock) func(*access.Lock) {
	return func(l *access.Lock) { l.Action, l.Lock, l.Reason = access.ActionUnlock, of.ID, "" }
}

// record puts a lock statement into the log, as the workflow Lock would.
func (w *world) record(st access.Statement) {
	w.t.Helper()
	if _, err := w.log.Lock(context.Background(), w.acts.Rulebook(), st, w.env.Now()); err != nil {
		w.t.Error(err)
	}
}

// locks has trent lock something and tells the request.
func (w *world) locks(kind, what string) access.Lock {
	w.t.Helper()
	l, st := w.lock("trent", kind, what)
	w.record(st)
	w.env.SignalWorkflow(access.MessageLock, st)
	return l
}

// A lock meets a request in each of its states.
func TestLocked(t *testing.T) {
	const why = "locked by trent: laptop stolen"
	for _, test := range []struct {
		name     string
		resource string // default ssh/web-1
		prepare  func(w *world)
		want     access.State
		by       string
		why      string // its beginning
		opened   int
		refused  int
	}{
		{name: "before it was asked", resource: "ssh/dev-1", want: access.StateDenied, why: "user alice is locked by trent: laptop stolen", prepare: func(w *world) {
			_, st := w.lock("trent", access.LockUser, "alice")
			w.record(st)
		}},
		{name: "lifted before it was asked", resource: "ssh/dev-1", want: access.StateExpired, opened: 1, prepare: func(w *world) {
			l, st := w.lock("trent", access.LockUser, "alice")
			w.record(st)
			_, st = w.lock("trent", access.LockUser, "alice", unlocks(l))
			w.record(st)
		}},
		{name: "pending", want: access.StateDenied, by: "trent", why: why, prepare: func(w *world) {
			w.at(time.Minute, func() { w.locks(access.LockUser, "alice") })
			w.at(2*time.Minute, func() { t.Error("it lives on") })
		}},
		{name: "scheduled", want: access.StateDenied, by: "trent", why: why, prepare: func(w *world) {
			w.ask("ssh/dev-1", func(r *access.Request) { start := r.Time.Add(time.Hour); r.Start = &start })
			w.at(time.Minute, func() { w.want(access.StateScheduled); w.locks(access.LockHost, "dev-1") })
		}},
		{name: "issuing, the issuer is down", resource: "ssh/dev-1", want: access.StateRevoked, by: "trent", why: why, prepare: func(w *world) {
			w.ledger.down = w.before(10 * time.Minute)
			w.at(time.Minute, func() { w.want(access.StateIssuing); w.locks(access.LockUser, "alice") })
		}},
		{name: "while the issuer issues, and the signal is late", resource: "ssh/dev-1", want: access.StateDenied, why: "refused by the issuer: not allowed: user alice is locked by trent", opened: 1, prepare: func(w *world) {
			first := true
			w.kind.onIssue = func(grant.Order) error {
				if first {
					_, st := w.lock("trent", access.LockUser, "alice")
					w.record(st)
				}
				first = false
				return nil
			}
		}},
		{name: "active", resource: "ssh/dev-1", want: access.StateRevoked, by: "trent", why: why, opened: 1, prepare: func(w *world) {
			w.at(time.Minute, func() { w.want(access.StateActive); w.locks(access.LockResource, "ssh/dev-1") })
			w.at(2*time.Minute, func() { t.Error("it lives on") })
		}},
		{name: "active, told twice", resource: "ssh/dev-1", want: access.StateRevoked, by: "trent", why: why, opened: 1, prepare: func(w *world) {
			w.at(time.Minute, func() {
				_, st := w.lock("trent", access.LockUser, "alice")
				w.record(st)
				w.env.SignalWorkflowSkippingWorkflowTask(access.MessageLock, st)
				w.env.SignalWorkflow(access.MessageLock, st)
			})
		}, refused: 1},
		{name: "the approver, after he approved", resource: "ssh/crown-1", want: access.StateTimedOut, prepare: func(w *world) {
			w.at(time.Minute, func() { w.approve("bob") })
			w.at(2*time.Minute, func() { _, st := w.lock("trent", access.LockUser, "bob"); w.record(st) })
			w.at(3*time.Minute, func() { w.approve("carol") })
		}},
		{name: "the approver, before he approves", want: access.StateTimedOut, refused: 1, prepare: func(w *world) {
			w.at(1*time.Minute, func() { _, st := w.lock("trent", access.LockUser, "bob"); w.record(st) })
			w.at(2*time.Minute, func() { w.approve("bob") })
		}},

		// What isn't a lock on it changes nothing.
		{name: "on another", resource: "ssh/dev-1", want: access.StateExpired, opened: 1, refused: 1, prepare: func(w *world) {
			w.at(time.Minute, func() { w.locks(access.LockUser, "mallory") })
		}},
		{name: "signed by nobody entitled", resource: "ssh/dev-1", want: access.StateExpired, opened: 1, refused: 1, prepare: func(w *world) {
			w.at(time.Minute, func() {
				_, st := w.lock("mallory", access.LockUser, "alice")
				w.env.SignalWorkflow(access.MessageLock, st)
			})
		}},
		{name: "never recorded", resource: "ssh/dev-1", want: access.StateExpired, opened: 1, refused: 1, prepare: func(w *world) {
			w.at(time.Minute, func() {
				_, st := w.lock("trent", access.LockUser, "alice")
				w.env.SignalWorkflow(access.MessageLock, st)
			})
		}},
		{name: "lifted, and said again", resource: "ssh/dev-1", want: access.StateExpired, opened: 1, refused: 1, prepare: func(w *world) {
			l, st := w.lock("trent", access.LockUser, "alice")
			w.record(st)
			_, open := w.lock("trent", access.LockUser, "alice", unlocks(l))
			w.record(open)
			w.at(time.Minute, func() { w.env.SignalWorkflow(access.MessageLock, st) })
		}},
		{name: "an unlock", resource: "ssh/dev-1", want: access.StateExpired, opened: 1, refused: 1, prepare: func(w *world) {
			w.at(time.Minute, func() {
				l, _ := w.lock("trent", access.LockUser, "alice")
				_, st := w.lock("trent", access.LockUser, "alice", unlocks(l))
				w.env.SignalWorkflow(access.MessageLock, st)
			})
		}},
		{name: "over by itself", resource: "ssh/dev-1", want: access.StateExpired, opened: 1, refused: 1, prepare: func(w *world) {
			_, st := w.lock("trent", access.LockHost, "web-1", func(l *access.Lock) { end := l.Time.Add(30 * time.Second); l.Until = &end })
			w.record(st)
			w.at(time.Minute, func() { w.env.SignalWorkflow(access.MessageLock, st) })
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := newWorld(t)
			if test.resource != "" {
				w.ask(test.resource, nil)
			}
			if test.prepare != nil {
				test.prepare(w)
			}
			got := w.run(test.want)
			if got.By != test.by || !strings.HasPrefix(got.Why, test.why) || got.Refused != test.refused {
				t.Errorf("ended by %q: %s; %d refused; want %q: %s; %d", got.By, got.Why, got.Refused, test.by, test.why, test.refused)
			}
			if w.kind.opened < test.opened || w.kind.opened > test.opened+1 || test.opened == 0 && w.kind.opened > 0 {
				t.Errorf("%d credentials came to be, want %d", w.kind.opened, test.opened)
			}
			w.ended(test.want)
			if strings.Contains(w.details(), "stolen") {
				t.Errorf("the reason is in the details: %s", w.details())
			}
			report, err := w.log.Verify(context.Background(), audit.VerifyOptions{})
			if err != nil {
				t.Fatal(err)
			}
			for _, p := range report.Problems { // the toy's credentials are no certificates
				if strings.Contains(p.What, "lock") {
					t.Error(p)
				}
			}
		})
	}
}

// received puts live requests into the log that no workflow of this test runs.
func (w *world) received(n int, handed bool) (ids []string) {
	w.t.Helper()
	for range n {
		w.ask("ssh/dev-1", nil)
		ctx, digests := context.Background(), w.acts.Rulebook().Digests()
		e := audit.Event{
			Type: audit.RequestReceived, Step: "received", Request: w.req.ID, RequestHash: w.request.Hash(), Actor: "alice",
			Requester: "alice", Resource: w.req.Resource, Statement: &w.request, Digests: &digests,
		}
		if _, err := w.log.Append(ctx, e); err != nil {
			w.t.Fatal(err)
		}
		if handed {
			if _, err := w.issuer.Issue(ctx, access.Evidence{Request: w.request}); err != nil {
				w.t.Fatal(err)
			}
		}
		ids = append(ids, w.req.ID)
	}
	return ids
}

// hears says what becomes of the signal to each request.
func (w *world) hears(how func(request string, st access.Statement) error) (told func() []string) {
	var mu sync.Mutex
	var ids []string
	w.env.OnSignalExternalWorkflow(mock.Anything, mock.Anything, mock.Anything, access.MessageLock, mock.Anything).Return(
		func(_ string, id, _, _ string, arg any) error {
			st, ok := arg.(access.Statement)
			if !ok {
				w.t.Errorf("the signal carries %T", arg)
			}
			mu.Lock()
			ids = append(ids, access.RequestID(id))
			mu.Unlock()
			return how(access.RequestID(id), st)
		})
	return func() []string {
		mu.Lock()
		defer mu.Unlock()
		slices.Sort(ids)
		return ids
	}
}

// runLock runs the workflow Lock to its end.
func (w *world) runLock(l access.Lock, st access.Statement) access.Locked {
	w.t.Helper()
	w.env.RegisterWorkflow(workflows.Lock)
	w.env.SetStartWorkflowOptions(client.StartWorkflowOptions{ID: access.LockWorkflowID(l.ID), TaskQueue: access.TaskQueue})
	w.env.ExecuteWorkflow(workflows.Lock, access.Locking{Statement: st})
	var out access.Locked
	if err := errors.Join(w.env.GetWorkflowError(), w.env.GetWorkflowResult(&out)); err != nil || !w.env.IsWorkflowCompleted() {
		w.t.Fatalf("completed: %t, %v", w.env.IsWorkflowCompleted(), err)
	}
	return out
}

func (w *world) wantEnds(state access.State, ids []string) {
	w.t.Helper()
	for _, id := range ids {
		entry, _, err := w.log.Entry(context.Background(), id)
		if err != nil || entry.Ended != state {
			w.t.Errorf("%s ended as %q, want %s (%v)", id, entry.Ended, state, err)
		}
	}
	if open := w.kind.living(); len(open) > 0 {
		w.t.Errorf("%v live under the lock", open)
	}
}

// Lock tells each live request under it, and returns when they have ended: at
// once where they are quick, and where some need seconds, without ending them
// from here.
func TestLockTells(t *testing.T) {
	for name, late := range map[string]time.Duration{"prompt": 0, "late": 5 * time.Second} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			handed := w.received(3, true)
			waiting := w.received(2, false)
			told := w.hears(func(id string, st access.Statement) error {
				end := func() {
					err := w.issuer.Revoke(context.Background(), audit.End{Request: id, State: access.StateRevoked, By: "trent", Why: "heard", Statement: &st})
					if err != nil {
						t.Error(err)
					}
				}
				if late > 0 && id == waiting[1] {
					w.env.RegisterDelayedCallback(end, late)
				} else {
					end()
				}
				return nil
			})
			l, st := w.lock("trent", access.LockUser, "alice")
			out := w.runLock(l, st)
			if out.Refused != nil || out.Lock.ID != l.ID || !slices.Equal(out.Told, append(handed, waiting...)) || !slices.Equal(told(), out.Told) {
				t.Errorf("%+v", out)
			}
			w.wantEnds(access.StateRevoked, out.Told)
			if age := w.env.Now().Sub(w.start); age < late || age > late+4*time.Second || late == 0 && age > 0 {
				t.Errorf("it took %s", age)
			}
			for rec, err := range w.log.Events(context.Background(), audit.Query{Type: audit.GrantRevoked}) {
				if err != nil || rec.Event.Why != "heard" {
					t.Errorf("%+v, %v", rec.Event, err)
				}
			}
			if report, err := w.log.Verify(context.Background(), audit.VerifyOptions{}); err != nil || strings.Contains(report.OneLine(), "lock") {
				t.Error(report.Problems)
			}
			if d := w.details(); !strings.Contains(d, "user alice · by trent") || strings.Contains(d, "stolen") {
				t.Error(d)
			}
			locks, err := w.log.Locks(context.Background())
			if err != nil || len(locks.Held) != 1 || locks.Held[0].Statement != st {
				t.Errorf("%+v, %v", locks, err)
			}
		})
	}
}

// A request that hears of the lock ends in the ledger, and is taken back by an
// issuer, who may be away: Lock returns when that is done.
func TestLockWaitsForIssuers(t *testing.T) {
	w := newWorld(t)
	handed := w.received(2, true)
	const away = 10 * time.Minute
	down := w.before(away)
	w.kind.onRevoke = func() error {
		if down() {
			return errDown
		}
		return nil
	}
	w.hears(func(id string, st access.Statement) error {
		_, err := w.log.End(context.Background(), audit.End{Request: id, State: access.StateRevoked, By: "trent", Why: "heard", Statement: &st})
		return err
	})
	l, st := w.lock("trent", access.LockUser, "alice")
	w.runLock(l, st)
	w.wantEnds(access.StateRevoked, handed)
	if age := w.env.Now().Sub(w.start); age < away {
		t.Errorf("it returned after %s, and the issuer was away for %s", age, away)
	}
}

// away is a kind whose issuer can't take back one request for a while.
type away struct {
	*lock
	is func(request string) bool
}

func (a *away) Revoke(ctx context.Context, h access.Handle) error {
	if a.is(h.Request) {
		return errDown
	}
	return a.lock.Revoke(ctx, h)
}

// One hears the lock and its issuer is away, and another is deaf: both are taken back.
func TestLockWaitsForEach(t *testing.T) {
	w := newWorld(t)
	k := &away{lock: w.kind, is: func(string) bool { return false }}
	w.issuer.Kinds = map[string]grant.Kind{"ssh": k}
	ids := w.received(2, true)
	const gone = 10 * time.Minute
	down := w.before(gone)
	k.is = func(id string) bool { return id == ids[0] && down() }
	w.hears(func(id string, st access.Statement) error {
		if id != ids[0] {
			return nil // deaf
		}
		_, err := w.log.End(context.Background(), audit.End{Request: id, State: access.StateRevoked, By: "trent", Why: "heard", Statement: &st})
		return err
	})
	l, st := w.lock("trent", access.LockUser, "alice")
	w.runLock(l, st)
	if age := w.env.Now().Sub(w.start); age < gone || len(w.kind.living()) > 0 {
		t.Errorf("Lock returned after %s; living: %v", age, w.kind.living())
	}
}

// One of those that are told first can't be taken back: the others are told all the same.
func TestLockTellsAllBeforeItWaits(t *testing.T) {
	w := newWorld(t)
	k := &away{lock: w.kind, is: func(string) bool { return false }}
	w.issuer.Kinds = map[string]grant.Kind{"ssh": k}
	ids := w.received(1, true)
	ids = append(ids, w.received(199, false)...)
	ids = append(ids, w.received(1, true)...)
	const gone = 3 * time.Hour
	down := w.before(gone)
	k.is = func(id string) bool { return id == ids[0] && down() }
	var at time.Duration
	w.hears(func(id string, st access.Statement) error {
		if id == ids[200] {
			at = w.env.Now().Sub(w.start)
		}
		state := access.StateDenied
		if id == ids[0] || id == ids[200] {
			state = access.StateRevoked
		}
		_, err := w.log.End(context.Background(), audit.End{Request: id, State: state, By: "trent", Why: "heard", Statement: &st})
		return err
	})
	l, st := w.lock("trent", access.LockUser, "alice")
	w.runLock(l, st)
	if at > time.Minute {
		t.Errorf("the 201st was told after %s", at)
	}
}

// Temporal lets a workflow have 2000 activities at a time, and one that wants more is
// stuck: so many are taken back at once, and the rest after them.
func TestLockTakesBackSomeAtATime(t *testing.T) {
	const atOnce = 500
	w := newWorld(t)
	var mu sync.Mutex
	tried, succeeded := map[string]int{}, false
	// As long as fewer have been tried, all fail, and each twice, so that one too many had
	// the time to be tried as well. Where no more come, some succeed in the end.
	k := &away{lock: w.kind, is: func(id string) bool {
		mu.Lock()
		defer mu.Unlock()
		if succeeded {
			return false
		}
		tried[id]++
		succeeded = tried[id] > 2 && len(tried) >= atOnce || tried[id] > 8
		return !succeeded
	}}
	w.issuer.Kinds = map[string]grant.Kind{"ssh": k}
	ids := w.received(atOnce+1, true)
	w.hears(func(id string, st access.Statement) error {
		_, err := w.log.End(context.Background(), audit.End{Request: id, State: access.StateRevoked, By: "trent", Why: "heard", Statement: &st})
		return err
	})
	l, st := w.lock("trent", access.LockUser, "alice")
	w.runLock(l, st)
	w.wantEnds(access.StateRevoked, ids)
	if len(tried) != atOnce {
		t.Errorf("%d were tried while the issuer was away, want %d", len(tried), atOnce)
	}
}

// Requests whose workflow is gone, or doesn't listen, are ended all the same.
func TestLockEndsTheDeaf(t *testing.T) {
	for name, how := range map[string]error{"gone": errors.New("workflow execution not found"), "deaf": nil} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			handed := w.received(2, true)
			waiting := w.received(1, false)
			w.hears(func(string, access.Statement) error { return how })
			l, st := w.lock("trent", access.LockHost, "dev-1")
			if out := w.runLock(l, st); !slices.Equal(out.Told, append(handed, waiting...)) {
				t.Errorf("%+v", out)
			}
			w.wantEnds(access.StateRevoked, handed)
			w.wantEnds(access.StateDenied, waiting)
			if report, err := w.log.Verify(context.Background(), audit.VerifyOptions{}); err != nil || strings.Contains(report.OneLine(), "lock") {
				t.Error(report.Problems)
			}
		})
	}
}

// Many requests are told page by page.
func TestLockOfMany(t *testing.T) {
	w := newWorld(t)
	ids := w.received(250, false)
	w.hears(func(id string, st access.Statement) error {
		_, err := w.log.End(context.Background(), audit.End{Request: id, State: access.StateDenied, By: "trent", Statement: &st})
		return err
	})
	l, st := w.lock("trent", access.LockUser, "alice")
	if out := w.runLock(l, st); !slices.Equal(out.Told, ids) {
		t.Errorf("%d were told, want %d", len(out.Told), len(ids))
	}
	w.wantEnds(access.StateDenied, ids)
}

// A statement that isn't good changes nothing but the record of refusals.
func TestLockRefused(t *testing.T) {
	for _, tt := range []struct {
		name string
		st   func(w *world) (access.Lock, access.Statement)
		code access.Code
	}{
		{"by nobody entitled", func(w *world) (access.Lock, access.Statement) { return w.lock("mallory", access.LockUser, "alice") }, access.CodeForbidden},
		{"by a stranger", func(w *world) (access.Lock, access.Statement) { return w.lock("eve", access.LockUser, "alice") }, access.CodeUnverified},
		{"not signed", func(w *world) (access.Lock, access.Statement) {
			l, st := w.lock("trent", access.LockUser, "alice")
			return l, access.Statement{Payload: st.Payload}
		}, access.CodeUnverified},
		{"another type", func(w *world) (access.Lock, access.Statement) {
			return access.Lock{Header: w.header("trent", access.TypeLock)}, w.stop("trent", access.TypeRevoke)
		}, access.CodeUnverified},
		{"unlock by the locked one", func(w *world) (access.Lock, access.Statement) {
			l, st := w.lock("trent", access.LockUser, "alice")
			w.record(st)
			return w.lock("alice", access.LockUser, "alice", unlocks(l))
		}, access.CodeForbidden},
		{"unlock of nothing", func(w *world) (access.Lock, access.Statement) {
			l, _ := w.lock("trent", access.LockUser, "alice")
			return w.lock("trent", access.LockUser, "alice", unlocks(l))
		}, access.CodeNotFound},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			ids := w.received(1, true)
			l, st := tt.st(w)
			before, _ := w.log.Locks(context.Background())
			out := w.runLock(l, st)
			if out.Refused == nil || out.Refused.Code != tt.code || len(out.Told) != 0 {
				t.Errorf("%+v %+v", out, out.Refused)
			}
			after, err := w.log.Locks(context.Background())
			if err != nil || after.Words != before.Words {
				t.Errorf("%d lock statements became %d, %v", before.Words, after.Words, err)
			}
			if entry, _, _ := w.log.Entry(context.Background(), ids[0]); entry.Ended != "" {
				t.Errorf("the request ended: %s", entry.Ended)
			}
			n := 0
			for e, err := range w.log.Events(context.Background(), audit.Query{Type: audit.StatementRefused}) {
				if err != nil || e.Event.Code != tt.code {
					t.Errorf("%+v, %v", e.Event, err)
				}
				n++
			}
			if n != 1 {
				t.Errorf("%d refusals on record", n)
			}
		})
	}
}

func TestUnlockAndList(t *testing.T) {
	w := newWorld(t)
	user, userSt := w.lock("trent", access.LockUser, "alice")
	w.record(userSt)
	_, hostSt := w.lock("trent", access.LockHost, "web-1", func(l *access.Lock) { end := l.Time.Add(time.Hour); l.Until = &end })
	w.record(hostSt)
	_, over := w.lock("trent", access.LockHost, "web-2", func(l *access.Lock) { end := l.Time.Add(time.Second); l.Until = &end })
	w.record(over)
	open, st := w.lock("trent", access.LockUser, "alice", unlocks(user))
	if out := w.runLock(open, st); out.Refused != nil || out.Lock.Lock != user.ID || len(out.Told) != 0 {
		t.Errorf("%+v", out)
	}

	w2 := newWorld(t)
	w2.acts.Log = w.log
	w2.env.RegisterWorkflow(workflows.Locks)
	w2.env.SetStartTime(w.start.Add(2 * time.Second))
	w2.env.ExecuteWorkflow(workflows.Locks)
	var held evidence.Locks
	if err := w2.env.GetWorkflowResult(&held); err != nil || len(held) != 1 || held[0].Statement != hostSt || held[0].Lock.Name != "web-1" {
		t.Errorf("%+v, %v", held, err)
	}
}
