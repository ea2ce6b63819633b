package workflows_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.temporal.io/sdk/temporal"

	"hallpass/access"
	"hallpass/activities"
	"hallpass/audit"
	"hallpass/grant"
	"hallpass/statement"
)

// Every way a request can end, and every race on the way there.
func TestEndings(t *testing.T) {
	const (
		released  = "released by alice: because release"
		cancelled = "cancelled by alice: because cancel"
	)
	for _, test := range []struct {
		name     string
		resource string // default ssh/web-1
		prepare  func(w *world)
		want     access.State
		by       string
		why      string // part of it
		opened   int    // credentials that came to be
	}{
		// Without anybody's help.
		{name: "automatic, expired", resource: "ssh/dev-1", want: access.StateExpired, why: "ran to its end", opened: 1},
		{name: "closed by policy", resource: "ssh/closed-1", want: access.StateDenied, why: "nobody logs in here"},
		{name: "nobody answers", want: access.StateTimedOut, why: "not approved within 1h"},

		// Approvals.
		{name: "approved, expired", want: access.StateExpired, opened: 1, prepare: func(w *world) {
			w.at(5*time.Minute, func() { w.want(access.StatePending); w.approve("bob") })
			w.at(6*time.Minute, func() { w.want(access.StateActive) })
			w.at(34*time.Minute, func() { w.want(access.StateActive) })
			w.at(36*time.Minute, func() { t.Error("the grant outlived its end") })
		}},
		{name: "denied", want: access.StateDenied, by: "bob", prepare: func(w *world) {
			w.at(5*time.Minute, func() { w.deny("bob") })
		}},
		{name: "two are needed, one approves", resource: "ssh/crown-1", want: access.StateTimedOut, prepare: func(w *world) {
			w.at(time.Minute, func() { w.approve("bob") })
		}},
		{name: "two are needed, the same one twice", resource: "ssh/crown-1", want: access.StateTimedOut, prepare: func(w *world) {
			w.at(1*time.Minute, func() { w.approve("bob") })
			w.at(2*time.Minute, func() { w.approve("bob") })
		}},
		{name: "two are needed, two approve", resource: "ssh/crown-1", want: access.StateExpired, opened: 1, prepare: func(w *world) {
			w.at(1*time.Minute, func() { w.approve("bob") })
			w.at(2*time.Minute, func() { w.want(access.StatePending); w.approve("carol") })
			w.at(3*time.Minute, func() { w.want(access.StateActive) })
		}},
		{name: "approved and denied by two", resource: "ssh/crown-1", want: access.StateDenied, by: "carol", prepare: func(w *world) {
			w.at(1*time.Minute, func() { w.approve("bob") })
			w.at(2*time.Minute, func() { w.deny("carol") })
		}},
		{name: "the requester approves", want: access.StateTimedOut, prepare: func(w *world) {
			w.at(1*time.Minute, func() { w.approve("alice") })
		}},
		{name: "approval and denial together", want: access.StateDenied, by: "carol", prepare: func(w *world) {
			w.at(5*time.Minute, func() {
				w.env.SignalWorkflowSkippingWorkflowTask(access.MessageDecision, w.decision("bob", access.Approve))
				w.deny("carol")
			})
		}},
		{name: "denial and approval together", want: access.StateDenied, by: "carol", prepare: func(w *world) {
			w.at(5*time.Minute, func() {
				w.env.SignalWorkflowSkippingWorkflowTask(access.MessageDecision, w.decision("carol", access.Deny))
				w.approve("bob")
			})
		}},
		{name: "approval and cancel together", want: access.StateCancelled, by: "alice", why: cancelled, prepare: func(w *world) {
			w.at(5*time.Minute, func() {
				w.env.SignalWorkflowSkippingWorkflowTask(access.MessageDecision, w.decision("bob", access.Approve))
				w.cancel()
			})
		}},
		{name: "decision before the first ruling", want: access.StateExpired, opened: 1, prepare: func(w *world) {
			w.at(0, func() { w.approve("bob") })
		}},
		{name: "approved in the last second", want: access.StateExpired, opened: 1, prepare: func(w *world) {
			w.at(time.Hour-time.Second, func() { w.approve("bob") })
		}},
		{name: "approved a second too late", want: access.StateTimedOut, prepare: func(w *world) {
			w.at(time.Hour+time.Second, func() { w.approve("bob") })
		}},
		{name: "denied after the grant began", want: access.StateExpired, opened: 1, prepare: func(w *world) {
			w.at(1*time.Minute, func() { w.approve("bob") })
			w.at(2*time.Minute, func() { w.deny("carol") })
		}},

		// Several sets, and more than one denial.
		{name: "two of sre and one of security", resource: "ssh/council-1", want: access.StateExpired, opened: 1, prepare: func(w *world) {
			w.at(1*time.Minute, func() { w.approve("trent") })
			w.at(2*time.Minute, func() { w.approve("bob") })
			w.at(3*time.Minute, func() { w.want(access.StatePending); w.approve("carol") })
			w.at(4*time.Minute, func() { w.want(access.StateActive) })
		}},
		{name: "three of sre, none of security", resource: "ssh/council-1", want: access.StateTimedOut, prepare: func(w *world) {
			w.at(1*time.Minute, func() { w.approve("bob"); w.approve("carol"); w.approve("erin") })
		}},
		{name: "one denial of two", resource: "ssh/council-1", want: access.StateExpired, opened: 1, prepare: func(w *world) {
			w.at(1*time.Minute, func() { w.deny("erin") })
			w.at(2*time.Minute, func() { w.want(access.StatePending); w.deny("erin"); w.deny("alice") })
			w.at(3*time.Minute, func() { w.want(access.StatePending); w.approve("trent"); w.approve("bob"); w.approve("carol") })
		}},
		{name: "two denials of two", resource: "ssh/council-1", want: access.StateDenied, by: "trent", why: "denied by erin, trent", prepare: func(w *world) {
			w.at(1*time.Minute, func() { w.deny("erin") })
			w.at(2*time.Minute, func() { w.approve("bob"); w.want(access.StatePending); w.deny("trent") })
		}},

		// Escalation.
		{name: "asked later, answers", resource: "ssh/slow-1", want: access.StateExpired, opened: 1, prepare: func(w *world) {
			w.at(10*time.Minute-time.Second, func() { w.approve("trent") })
			w.at(11*time.Minute, func() { w.want(access.StatePending); w.approve("trent") })
			w.at(12*time.Minute, func() { w.want(access.StateActive) })
		}},
		{name: "asked first, answers late", resource: "ssh/slow-1", want: access.StateExpired, opened: 1, prepare: func(w *world) {
			w.at(59*time.Minute, func() { w.want(access.StatePending); w.approve("bob") })
		}},
		{name: "asked later, denies", resource: "ssh/slow-1", want: access.StateDenied, by: "trent", prepare: func(w *world) {
			w.at(11*time.Minute, func() { w.deny("trent") })
		}},
		{name: "only told, approves", resource: "ssh/slow-1", want: access.StateTimedOut, why: "needs 1 approval from security or sre", prepare: func(w *world) {
			w.at(40*time.Minute, func() { w.approve("mallory") })
		}},
		{name: "cancelled between the steps", resource: "ssh/slow-1", want: access.StateCancelled, by: "alice", prepare: func(w *world) {
			w.at(20*time.Minute, func() { w.cancel() })
		}},

		// Sessions that may finish.
		{name: "grace, expired", resource: "ssh/dev-1", want: access.StateExpired, why: "ran to its end", opened: 1, prepare: func(w *world) {
			w.kind.grace = time.Hour
			w.at(29*time.Minute, func() { w.want(access.StateActive) })
			w.at(31*time.Minute, func() {
				w.want(access.StateActive)
				if s := w.status(); !s.Ends.Before(w.env.Now()) || s.Why != "has ended; sessions that are open may stay until 2026-03-02 10:30:00 UTC" {
					t.Errorf("in its grace: %s, ends %s", s.Why, s.Ends)
				}
			})
			w.at(89*time.Minute, func() { w.want(access.StateActive) })
			w.at(91*time.Minute, func() { t.Error("the request outlived its grace") })
		}},
		{name: "grace, revoked", resource: "ssh/dev-1", want: access.StateRevoked, by: "trent", opened: 1, prepare: func(w *world) {
			w.kind.grace = time.Hour
			w.at(45*time.Minute, func() { w.revoke("trent") })
			w.at(46*time.Minute, func() { t.Error("a revocation waits for the grace") })
		}},
		{name: "grace, released", resource: "ssh/dev-1", want: access.StateReleased, by: "alice", why: released, opened: 1, prepare: func(w *world) {
			w.kind.grace = time.Hour
			w.at(10*time.Minute, w.release)
			w.at(11*time.Minute, func() { t.Error("a release waits for the grace") })
		}},

		// The start that was asked for.
		{name: "starts later", resource: "ssh/dev-1+2h", want: access.StateExpired, opened: 1, prepare: func(w *world) {
			w.at(119*time.Minute, func() { w.want(access.StateScheduled) })
			w.at(121*time.Minute, func() { w.want(access.StateActive) })
			w.at(149*time.Minute, func() { w.want(access.StateActive) })
		}},
		{name: "starts later, cancelled meanwhile", resource: "ssh/dev-1+2h", want: access.StateCancelled, by: "alice", prepare: func(w *world) {
			w.at(time.Hour, w.cancel)
		}},
		{name: "starts later, denied meanwhile", resource: "ssh/web-1+2h", want: access.StateDenied, by: "carol", prepare: func(w *world) {
			w.at(time.Minute, func() { w.approve("bob") })
			w.at(time.Hour, func() { w.want(access.StateScheduled); w.deny("carol") })
		}},
		{name: "starts later, released meanwhile", resource: "ssh/dev-1+2h", want: access.StateCancelled, by: "alice", why: released, prepare: func(w *world) {
			w.at(time.Hour, w.release)
		}},
		{name: "start has passed when it is approved", resource: "ssh/web-1+2m", want: access.StateExpired, opened: 1, prepare: func(w *world) {
			w.at(30*time.Minute, func() { w.approve("bob") })
			w.at(59*time.Minute, func() { w.want(access.StateActive) })
		}},

		// Stopped before the grant.
		{name: "cancelled while pending", want: access.StateCancelled, by: "alice", why: cancelled, prepare: func(w *world) {
			w.at(time.Minute, w.cancel)
		}},
		{name: "released while pending", want: access.StateCancelled, by: "alice", why: released, prepare: func(w *world) {
			w.at(time.Minute, w.release)
		}},
		{name: "revoked while pending", want: access.StateDenied, by: "trent", prepare: func(w *world) {
			w.at(time.Minute, func() { w.revoke("trent") })
		}},
		{name: "cancelled before the first ruling", resource: "ssh/dev-1", want: access.StateCancelled, by: "alice", prepare: func(w *world) {
			w.at(0, w.cancel)
		}},

		// Stopped while it is issued.
		{name: "cancelled while issuing", resource: "ssh/dev-1", want: access.StateCancelled, by: "alice", prepare: func(w *world) {
			w.ledger.down = w.before(2 * time.Hour)
			w.at(time.Hour, func() { w.want(access.StateIssuing); w.cancel() })
		}},
		{name: "revoked while issuing", resource: "ssh/web-1", want: access.StateRevoked, by: "trent", prepare: func(w *world) {
			w.ledger.down = w.before(2 * time.Hour)
			w.at(time.Minute, func() { w.approve("bob") })
			w.at(time.Hour, func() { w.want(access.StateIssuing); w.revoke("trent") })
		}},
		{name: "released while issuing", resource: "ssh/dev-1", want: access.StateReleased, by: "alice", prepare: func(w *world) {
			w.ledger.down = w.before(2 * time.Hour)
			w.at(time.Minute, w.release)
		}},
		{name: "released while the reply is lost", resource: "ssh/dev-1", want: access.StateReleased, by: "alice", prepare: func(w *world) {
			w.ledger.lose = w.before(time.Minute)
			w.at(10*time.Second, func() { w.want(access.StateIssuing); w.release() })
		}, opened: 1},

		// Stopped while it runs.
		{name: "released", resource: "ssh/dev-1", want: access.StateReleased, by: "alice", why: released, opened: 1, prepare: func(w *world) {
			w.at(time.Minute, w.release)
		}},
		{name: "cancelled while active gives it back", resource: "ssh/dev-1", want: access.StateReleased, by: "alice", why: cancelled, opened: 1, prepare: func(w *world) {
			w.at(time.Minute, w.cancel)
		}},
		{name: "revoked by a revoker", want: access.StateRevoked, by: "trent", why: "revoked by trent: because revoke", opened: 1, prepare: func(w *world) {
			w.at(time.Minute, func() { w.approve("bob") })
			w.at(2*time.Minute, func() { w.revoke("trent") })
		}},
		{name: "revoked by another approver", want: access.StateRevoked, by: "carol", opened: 1, prepare: func(w *world) {
			w.at(time.Minute, func() { w.approve("bob") })
			w.at(2*time.Minute, func() { w.revoke("carol") })
		}},
		{name: "revoked and released together", want: access.StateReleased, by: "alice", opened: 1, prepare: func(w *world) {
			w.at(time.Minute, func() { w.approve("bob") })
			w.at(2*time.Minute, func() {
				w.env.SignalWorkflowSkippingWorkflowTask(access.MessageRevoke, w.stop("carol", access.TypeRevoke))
				w.release()
			})
		}},
		{name: "revoked by one who may not", want: access.StateExpired, opened: 1, prepare: func(w *world) {
			w.at(time.Minute, func() { w.approve("bob") })
			w.at(2*time.Minute, func() { w.revoke("mallory") })
		}},
		{name: "released by somebody else", want: access.StateExpired, opened: 1, prepare: func(w *world) {
			w.at(time.Minute, func() { w.approve("bob") })
			w.at(2*time.Minute, func() { w.env.SignalWorkflow(access.MessageRelease, w.stop("mallory", access.TypeRelease)) })
		}},

		// Stopped while it is taken back.
		{name: "cancelled and revoked while revoking", resource: "ssh/dev-1", want: access.StateExpired, opened: 1, prepare: func(w *world) {
			w.kind.onRevoke = func() error { return downBefore(w, 40*time.Minute) }
			w.at(35*time.Minute, func() {
				w.want(access.StateRevoking)
				if ending := w.status().Ending; ending != access.StateExpired {
					w.t.Errorf("while it is taken back its ending is %q, want %q", ending, access.StateExpired)
				}
				w.cancel()
			})
			w.at(36*time.Minute, func() { w.revoke("trent") })
			w.at(37*time.Minute, w.env.CancelWorkflow)
			w.at(39*time.Minute, func() { w.want(access.StateRevoking) })
		}},
		{name: "revoke fails fifty times", resource: "ssh/dev-1", want: access.StateReleased, by: "alice", opened: 1, prepare: func(w *world) {
			failures := 0
			w.kind.onRevoke = func() error {
				if failures++; failures <= 50 {
					return fmt.Errorf("%w, attempt %d", errDown, failures)
				}
				return nil
			}
			w.at(time.Minute, w.release)
		}},

		// The issuer.
		{name: "issuer down for twenty hours", resource: "ssh/dev-1", want: access.StateExpired, opened: 1, prepare: func(w *world) {
			w.ledger.down = w.before(20 * time.Hour)
			w.at(19*time.Hour, func() { w.want(access.StateIssuing) })
			w.at(20*time.Hour+2*time.Minute, func() { w.want(access.StateActive) })
		}},
		{name: "issuer down until the evidence is stale", resource: "ssh/dev-1", want: access.StateDenied, why: "refused by the issuer: ", prepare: func(w *world) {
			w.ledger.down = w.before(48 * time.Hour)
		}},
		{name: "kind down beyond the end of the grant", resource: "ssh/dev-1", want: access.StateDenied, why: "the grant has ended", prepare: func(w *world) {
			w.kind.onIssue = func(grant.Order) error { return errDown }
		}},
		{name: "issuer refuses for good", resource: "ssh/dev-1", want: access.StateDenied, why: "no such door", prepare: func(w *world) {
			w.kind.onIssue = func(grant.Order) error { return access.Errorf(access.CodeDenied, "no such door") }
		}},

		// An operator of Temporal cancels.
		{name: "cancelled in Temporal before the first ruling", want: access.StateCancelled, why: "operator of Temporal", prepare: func(w *world) {
			w.at(0, w.env.CancelWorkflow)
		}},
		{name: "cancelled in Temporal while pending", want: access.StateCancelled, why: "operator of Temporal", prepare: func(w *world) {
			w.at(time.Minute, w.env.CancelWorkflow)
		}},
		{name: "cancelled in Temporal while scheduled", resource: "ssh/dev-1+2h", want: access.StateCancelled, prepare: func(w *world) {
			w.at(time.Minute, w.env.CancelWorkflow)
		}},
		{name: "cancelled in Temporal while issuing", resource: "ssh/dev-1", want: access.StateCancelled, prepare: func(w *world) {
			w.ledger.down = w.before(2 * time.Hour)
			w.at(time.Minute, w.env.CancelWorkflow)
		}},
		{name: "cancelled in Temporal while active", resource: "ssh/dev-1", want: access.StateRevoked, why: "operator of Temporal", opened: 1, prepare: func(w *world) {
			w.at(time.Minute, w.env.CancelWorkflow)
		}},

		// Repeated and misplaced signals.
		{name: "everything twice", want: access.StateReleased, by: "alice", opened: 1, prepare: func(w *world) {
			w.at(time.Minute, func() {
				st := w.decision("bob", access.Approve)
				w.env.SignalWorkflowSkippingWorkflowTask(access.MessageDecision, st)
				w.env.SignalWorkflow(access.MessageDecision, st)
			})
			w.at(2*time.Minute, func() {
				st := w.stop("alice", access.TypeRelease)
				w.env.SignalWorkflowSkippingWorkflowTask(access.MessageRelease, st)
				w.env.SignalWorkflow(access.MessageRelease, st)
			})
		}},
		{name: "a release as a cancel", resource: "ssh/dev-1", want: access.StateExpired, opened: 1, prepare: func(w *world) {
			w.at(time.Minute, func() { w.env.SignalWorkflow(access.MessageCancel, w.stop("alice", access.TypeRelease)) })
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := newWorld(t)
			resource, delay, later := strings.Cut(test.resource, "+")
			if resource == "" {
				resource = "ssh/web-1"
			}
			w.ask(resource, func(r *access.Request) {
				if later {
					d, err := time.ParseDuration(delay)
					if err != nil {
						t.Fatal(err)
					}
					start := w.start.Add(d)
					r.Start = &start
				}
			})
			if test.prepare != nil {
				test.prepare(w)
			}
			got := w.run(test.want)
			if got.By != test.by {
				t.Errorf("ended by %q, want %q", got.By, test.by)
			}
			if !strings.Contains(got.Why, test.why) {
				t.Errorf("why is %q, want %q in it", got.Why, test.why)
			}
			if test.opened >= 0 && w.kind.opened != test.opened {
				t.Errorf("%d credentials were issued, want %d", w.kind.opened, test.opened)
			}
			w.ended(test.want)
		})
	}
}

func downBefore(w *world, age time.Duration) error {
	if w.before(age)() {
		return errDown
	}
	return nil
}

// A stop that meets an attempt to issue which is already under way: the attempt
// ends after the tombstone is there, and leaves nothing alive.
func TestRevokeOvertakesIssue(t *testing.T) {
	w := newWorld(t)
	w.ask("ssh/dev-1", nil)
	overtaken := false
	w.kind.onIssue = func(o grant.Order) error {
		// While the kind is opening, another process ends the request.
		_, err := w.log.End(context.Background(), audit.End{Request: o.Request.ID, State: access.StateReleased, By: "alice", Why: "meanwhile"})
		overtaken = true
		return err
	}
	w.run(access.StateDenied)
	if !overtaken {
		t.Error("the race did not happen")
	}
	w.ended(access.StateReleased)
}

// What an approver narrows is what is granted.
func TestNarrowed(t *testing.T) {
	w := newWorld(t)
	w.at(time.Minute, func() {
		w.env.SignalWorkflow(access.MessageDecision, w.decision("bob", access.Approve, func(d *access.Decision) { d.Duration = 10 * 60 }))
	})
	w.at(2*time.Minute, func() {
		w.want(access.StateActive)
		if s := w.status(); s.Ends == nil || s.Granted == nil || s.Ends.Sub(*s.Granted) != 10*time.Minute {
			t.Errorf("granted from %v to %v, want 10m", s.Granted, s.Ends)
		}
	})
	w.run(access.StateExpired)
	if age := w.env.Now().Sub(w.start); age > 12*time.Minute {
		t.Errorf("ended after %s, want 11m", age)
	}
}

func TestWidened(t *testing.T) {
	w := newWorld(t)
	var r *reply
	w.at(time.Minute, func() {
		r = w.update(access.MessageDecision, w.decision("bob", access.Approve, func(d *access.Decision) { d.Duration = 60 * 60 }))
	})
	w.run(access.StateTimedOut)
	if !r.done || r.refusal == nil {
		t.Errorf("an approval for longer than asked was answered with %v", r.err)
	}
}

// A credential that is past its end when it arrives is taken back at once.
func TestIssuedTooLate(t *testing.T) {
	w := newWorld(t)
	w.ask("ssh/dev-1", func(r *access.Request) { r.Duration = 60 })
	// It is issued, and every reply is lost for an hour.
	w.ledger.lose = w.before(time.Hour)
	w.run(access.StateExpired)
	w.ended(access.StateExpired)
}

// Updates are heard as signals are, and answered.
func TestUpdates(t *testing.T) {
	w := newWorld(t)
	w.ask("ssh/crown-1", nil)
	var odd, own, first, again, signalled, last, late, strange, release, over *reply
	w.at(30*time.Second, func() {
		st := w.decision("bob", access.Approve)
		odd = w.update(access.MessageDecision, map[string]any{"payload": st.Payload, "signature": st.Signature, "x": 1})
	})
	w.at(1*time.Minute, func() { own = w.update(access.MessageDecision, w.decision("alice", access.Approve)) })
	w.at(2*time.Minute, func() { first = w.update(access.MessageDecision, w.decision("bob", access.Approve)) })
	w.at(3*time.Minute, func() { again = w.update(access.MessageDecision, w.decision("bob", access.Approve)) })
	w.at(4*time.Minute, func() {
		st := w.decision("carol", access.Approve)
		w.env.SignalWorkflow(access.MessageDecision, st)
		signalled = w.update(access.MessageDecision, st)
	})
	w.at(5*time.Minute, func() { last = w.update(access.MessageDecision, w.decision("erin", access.Deny)) })
	w.at(6*time.Minute, func() {
		late = w.update(access.MessageRelease, access.Statement{Payload: strings.Repeat("x", access.MaxPayload+1)})
	})
	w.at(7*time.Minute, func() { strange = w.update(access.MessageRelease, w.stop("mallory", access.TypeRelease)) })
	w.at(8*time.Minute, func() { release = w.update(access.MessageRelease, w.stop("alice", access.TypeRelease)) })
	w.kind.onRevoke = func() error { return downBefore(w, 10*time.Minute) }
	w.at(9*time.Minute, func() { over = w.update(access.MessageRevoke, w.stop("bob", access.TypeRevoke)) })
	got := w.run(access.StateReleased)

	odd.want(t, access.CodeMalformed)
	own.want(t, access.CodeForbidden)
	first.want(t, "")
	if s := first.status; s.State != access.StatePending || len(s.Standing.Voices) != 1 || len(s.Standing.Missing) != 1 {
		t.Errorf("after the first approval the update answered %+v", s.Standing)
	}
	again.want(t, access.CodeDuplicate)
	if !signalled.done || signalled.refusal == nil {
		t.Errorf("a statement that was signalled and then sent as an update was answered with %v", signalled.err)
	}
	last.want(t, access.CodeEnded)
	if last.refusal != nil && !strings.Contains(last.refusal.Hint, "hallpass revoke "+w.req.ID) {
		t.Errorf("the refusal of a late denial says %q on what to do", last.refusal.Hint)
	}
	late.want(t, access.CodeMalformed)
	strange.want(t, access.CodeForbidden)
	release.want(t, "")
	if release.status.State != access.StateRevoking {
		t.Errorf("release answered with %s, want %s", release.status.State, access.StateRevoking)
	}
	over.want(t, access.CodeEnded)
	for name, r := range map[string]*reply{"a third field": odd, "late denial": last, "oversized": late, "after the end": over} {
		if !r.early {
			t.Errorf("%s: costs history events, want it refused by the validator", name)
		}
	}
	if got.Refused == 0 {
		t.Error("refused messages aren't counted")
	}
}

// Nothing that anybody sends makes a workflow fail or changes the request, and
// all of it is on the record.
func TestHostileSignals(t *testing.T) {
	w := newWorld(t)
	other := statement.NewID()
	good := w.decision("bob", access.Approve)
	hostile := map[string]any{
		"empty":             access.Statement{},
		"unsigned":          access.Statement{Payload: good.Payload},
		"changed":           access.Statement{Payload: strings.Replace(good.Payload, "approve", "deny", 1), Signature: good.Signature},
		"by a stranger":     w.decision("eve", access.Approve),
		"outside the group": w.decision("mallory", access.Approve),
		"own":               w.decision("alice", access.Approve),
		"another request":   w.decision("bob", access.Approve, func(d *access.Decision) { d.Request = other }),
		"a changed request": w.decision("bob", access.Approve, func(d *access.Decision) { d.RequestHash = strings.Repeat("0", 64) }),
		"from the future":   w.decision("bob", access.Approve, func(d *access.Decision) { d.Time = d.Time.Add(time.Hour) }),
		"from the past":     w.decision("bob", access.Approve, func(d *access.Decision) { d.Time = d.Time.Add(-time.Hour) }),
		"in bob's name":     w.sign("eve", access.Decision{Header: w.header("bob", access.TypeDecision), Request: w.req.ID, RequestHash: w.request.Hash(), Verdict: access.Approve}),
		"another type":      w.stop("alice", access.TypeRelease),
		"the request":       w.request,
		"large":             access.Statement{Payload: strings.Repeat("a", 1<<20), Signature: good.Signature},
		"a string":          "approve",
		"a number":          7,
		"nothing":           nil,
		"a list":            []string{"approve"},
		"an odd object":     map[string]any{"payload": 1, "signature": map[string]int{}},
		"bytes":             []byte("\x1b[31m\xff"),
		"a third field":     map[string]any{"payload": good.Payload, "signature": good.Signature, "x": 1},
	}
	age := time.Minute
	for _, message := range hostile {
		for _, name := range []string{access.MessageDecision, access.MessageRevoke, access.MessageCancel} {
			w.at(age, func() { w.env.SignalWorkflow(name, message) })
		}
		w.at(age+30*time.Second, func() {
			if s := w.status(); s.State != access.StatePending && s.State != access.StateActive || len(s.Standing.Voices) != 0 {
				t.Errorf("a hostile signal made the request %s with %+v", s.State, s.Standing.Voices)
			}
		})
		age += time.Minute
	}
	w.run(access.StateTimedOut)
	// Nothing and an empty statement are the same words, and said once.
	if n, want := w.recorded(audit.StatementRefused), 3*(len(hostile)-1); n != want {
		t.Errorf("%d refusals are on the record, want %d", n, want)
	}
	w.ended(access.StateTimedOut)
}

// A flood of messages is heard up to a bound and then ignored.
func TestFlood(t *testing.T) {
	w := newWorld(t)
	for i := range 4 {
		w.at(time.Duration(i)*time.Minute, func() {
			for range 300 {
				w.env.SignalWorkflow(access.MessageDecision, access.Statement{Payload: "{}"})
			}
		})
	}
	var r *reply
	w.at(10*time.Minute, func() { r = w.update(access.MessageDecision, w.decision("bob", access.Approve)) })
	got := w.run(access.StateTimedOut)
	r.want(t, access.CodeDeaf)
	if got.Refused != 1200 {
		t.Errorf("%d messages were refused, want 1200", got.Refused)
	}
	if locals := w.count("local Hear"); locals != 1000 {
		t.Errorf("%d messages were heard, want 1000", locals)
	}
}

// Ten thousand approvals by one who may approve, each well signed: one counts, and
// the request, which takes two people, ends as it would have without the others.
func TestTenThousandApprovals(t *testing.T) {
	w := newWorld(t)
	w.ask("ssh/crown-1", nil)
	for i := range 100 {
		w.at(time.Minute+time.Duration(i)*100*time.Millisecond, func() {
			approval := w.decision("bob", access.Approve)
			for range 100 {
				w.env.SignalWorkflow(access.MessageDecision, approval)
			}
		})
	}
	w.at(2*time.Minute, func() {
		if s := w.status(); s.State != access.StatePending || len(s.Standing.Voices) != 1 || len(s.Evidence.Decisions) != 1 {
			t.Errorf("after the flood: %s, %+v", s.State, s.Standing.Voices)
		}
	})
	got := w.run(access.StateTimedOut)
	w.ended(access.StateTimedOut)
	if got.Refused != 9999 {
		t.Errorf("%d were refused, want 9999", got.Refused)
	}
	if heard := w.count("local Hear"); heard != 1000 {
		t.Errorf("%d were heard, want 1000", heard)
	}
	// What was heard is on record, once: one that counts, and each as refused.
	if accepted, refused := w.recorded(audit.DecisionAccepted), w.recorded(audit.StatementRefused); accepted != 1 || refused != 10 {
		t.Errorf("%d accepted and %d refused on record", accepted, refused)
	}
	if w.kind.opened != 0 {
		t.Error("it was issued")
	}
}

// A workflow that isn't named after the request ends, and leaves the request
// itself alone.
func TestWrongWorkflowID(t *testing.T) {
	for name, id := range map[string]string{
		"no request":      "something",
		"another request": access.WorkflowID(statement.NewID()),
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.as(id)
			got := w.run(access.StateDenied)
			if !strings.Contains(got.Why, "can't run as workflow") {
				t.Errorf("why is %q", got.Why)
			}
			w.ended("")
			if w.kind.opened != 0 {
				t.Error("it was issued")
			}
		})
	}
}

// A request that doesn't verify ends, is on the record, and can't end the
// request whose id it bears.
func TestForgedRequest(t *testing.T) {
	for name, forge := range map[string]func(w *world) access.Statement{
		"unsigned": func(w *world) access.Statement { return access.Statement{Payload: w.request.Payload} },
		"changed": func(w *world) access.Statement {
			return access.Statement{Payload: w.request.Payload + " ", Signature: w.request.Signature}
		},
		"by eve":    func(w *world) access.Statement { return w.sign("eve", w.req) },
		"empty":     func(w *world) access.Statement { return access.Statement{} },
		"oversized": func(w *world) access.Statement { return access.Statement{Payload: strings.Repeat("x", 1<<20)} },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.request = forge(w)
			w.run(access.StateDenied)
			w.ended("")
			if n := w.recorded(audit.StatementRefused); n != 1 {
				t.Errorf("%d refusals on the record, want 1", n)
			}
		})
	}
}

// A request that has ended can't be run again.
func TestRunAgain(t *testing.T) {
	w := newWorld(t)
	if _, err := w.log.End(t.Context(), audit.End{Request: w.req.ID, State: access.StateDenied, Why: "earlier"}); err != nil {
		t.Fatal(err)
	}
	w.at(time.Minute, func() { w.approve("bob") })
	got := w.run(access.StateDenied)
	if !strings.Contains(got.Why, "has ended before") || w.kind.opened != 0 {
		t.Errorf("a request that ended was run again: %+v", got)
	}
}

// The record can't be written for a while: the request waits for it, and every
// message that came meanwhile counts.
func TestRecordDown(t *testing.T) {
	w := newWorld(t)
	flaky := &flaky{Recorder: w.log}
	w.acts.Log = flaky
	flaky.broken.Store(true)
	w.at(time.Minute, func() { w.approve("bob") })
	w.at(2*time.Hour, func() { w.want(access.StatePending); flaky.broken.Store(false) })
	w.at(2*time.Hour+time.Minute, func() { w.want(access.StateActive); flaky.broken.Store(true); w.release() })
	w.at(2*time.Hour+10*time.Minute, func() { flaky.broken.Store(false) })
	w.run(access.StateReleased)
	w.ended(access.StateReleased)
	// Three times inside the workflow task, and from then on by the server.
	if local, regular := w.count("local Decide"), w.count(access.TaskQueue+" Decide"); local != 3 || regular == 0 {
		t.Errorf("Decide ran %d times as a local activity and %d times as a regular one, want 3 and more than none", local, regular)
	}
}

// The deadline passes while the record is down and a message is being heard.
// What was signed in time counts, however late it is delivered; what was signed
// after the deadline doesn't.
func TestDeadlinePassesMeanwhile(t *testing.T) {
	for _, test := range []struct {
		name  string
		carol bool
		want  access.State
	}{
		{"signed in time and delivered late", true, access.StateExpired},
		{"signed too late", false, access.StateTimedOut},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := newWorld(t)
			flaky := &flaky{Recorder: w.log}
			w.acts.Log = flaky
			var inTime access.Statement
			w.at(59*time.Minute, func() {
				flaky.broken.Store(true)
				inTime = w.decision("carol", access.Approve)
				w.approve("mallory")
			})
			w.at(65*time.Minute, func() { w.want(access.StatePending); w.approve("bob") })
			w.at(66*time.Minute, func() {
				if test.carol {
					w.env.SignalWorkflow(access.MessageDecision, inTime)
				}
			})
			w.at(70*time.Minute, func() { flaky.broken.Store(false) })
			w.run(test.want)
			w.ended(test.want)
			if test.carol {
				if voices := w.status().Standing.Voices; len(voices) != 1 || voices[0].Signer != "carol" {
					t.Errorf("approved by %+v, want carol alone", voices)
				}
			}
		})
	}
}

// The request ends while a message is being heard: the message is too late,
// and its sender is told so.
func TestEndsMeanwhile(t *testing.T) {
	w := newWorld(t)
	flaky := &flaky{Recorder: w.log}
	w.acts.Log = flaky
	var r *reply
	w.at(time.Minute, func() {
		flaky.broken.Store(true)
		r = w.update(access.MessageDecision, w.decision("bob", access.Approve))
	})
	w.at(2*time.Minute, w.env.CancelWorkflow)
	w.at(3*time.Minute, func() { flaky.broken.Store(false) })
	w.run(access.StateCancelled)
	r.want(t, access.CodeEnded)
	if voices := w.status().Standing.Voices; len(voices) != 0 {
		t.Errorf("%+v counts in a request that was cancelled first", voices)
	}
}

// deafened records nothing of messages while the workflow is young, and all else.
type deafened struct {
	activities.Recorder
	young func() bool
}

func (d *deafened) Append(ctx context.Context, e audit.Event) (int64, error) {
	if (e.Type == audit.DecisionAccepted || e.Type == audit.StatementRefused) && d.young() {
		return 0, errDown
	}
	return d.Recorder.Append(ctx, e)
}

// A message that came before the first ruling and isn't answered yet keeps nobody
// from cancelling the request.
func TestCancelledWhileTheFirstMessageIsHeard(t *testing.T) {
	const want = access.StateCancelled
	for _, resource := range []string{"ssh/web-1", "ssh/dev-1"} { // one that waits for people, one that doesn't
		t.Run(resource, func(t *testing.T) {
			w := newWorld(t)
			w.ask(resource, nil)
			w.acts.Log = &deafened{w.log, w.before(20 * time.Minute)}
			w.at(0, func() { w.approve("bob") })
			w.at(time.Minute, w.env.CancelWorkflow)
			w.at(2*time.Minute, func() {
				entry, _, err := w.log.Entry(context.Background(), w.req.ID)
				if err != nil || entry.Ended != want {
					t.Errorf("a minute after it was cancelled it has ended as %q, %v", entry.Ended, err)
				}
			})
			w.run(want)
		})
	}
}

// Nobody who has spoken before the end is left without an answer, nor out of
// the record.
func TestLastWords(t *testing.T) {
	w := newWorld(t)
	var replies []*reply
	w.at(time.Minute, func() {
		w.cancel()
		for _, name := range []string{"bob", "carol", "mallory"} {
			w.approve(name)
			replies = append(replies, w.update(access.MessageRevoke, w.stop(name, access.TypeCancel)))
		}
	})
	got := w.run(access.StateCancelled)
	for _, r := range replies {
		if !r.done || r.err == nil {
			t.Errorf("an update at the end was answered with %v", r.err)
		}
	}
	if n := w.recorded(audit.StatementRefused); n < 3 || got.Refused < 3 {
		t.Errorf("%d refusals were recorded and %d counted, want the three late approvals at least", n, got.Refused)
	}
}

// Policy changes between two approvals that were sent together, so that the
// first one's yes doesn't stand: the request goes on waiting, and isn't over.
func TestPolicyChangesMeanwhile(t *testing.T) {
	w := newWorld(t)
	stricter := strings.Replace(policyFile, "count: 1", "count: 3", 1)
	w.acts.Log = &flaky{Recorder: w.log, accepted: func() { w.load(stricter) }}
	w.at(time.Minute, func() {
		w.env.SignalWorkflowSkippingWorkflowTask(access.MessageDecision, w.decision("bob", access.Approve))
		w.approve("carol")
	})
	w.at(2*time.Minute, func() { w.want(access.StatePending); w.approve("erin") })
	w.at(3*time.Minute, func() { w.want(access.StateActive) })
	w.run(access.StateExpired)
}

// The directory of the moment of issue decides, and it is said why an approval
// has stopped counting.
func TestGroupsChangeMeanwhile(t *testing.T) {
	t.Run("while others are waited for", func(t *testing.T) {
		w := newWorld(t)
		w.ask("ssh/crown-1", nil)
		w.at(1*time.Minute, func() { w.approve("bob") })
		w.at(2*time.Minute, func() { w.moves("bob", "dev"); w.approve("carol") })
		w.at(3*time.Minute, func() {
			w.want(access.StatePending)
			s := w.status().Standing
			if want := []string{"approve by bob doesn't count: the signer is in none of the groups that decide on it"}; !slices.Equal(s.Dropped, want) {
				t.Errorf("dropped: %q, want %q", s.Dropped, want)
			}
			w.approve("erin")
		})
		w.at(4*time.Minute, func() { w.want(access.StateActive) })
		w.run(access.StateExpired)
	})
	t.Run("before it is issued", func(t *testing.T) {
		w := newWorld(t)
		w.acts.Log = &flaky{Recorder: w.log, accepted: func() { w.moves("bob", "dev") }}
		w.at(time.Minute, func() { w.approve("bob") })
		const want = "refused by the issuer: not allowed: needs 1 approval from sre; approve by bob doesn't count: the signer is in none of the groups that decide on it"
		if got := w.run(access.StateDenied); got.Why != want {
			t.Errorf("why is %q, want %q", got.Why, want)
		}
	})
}

// Whoever carries the evidence can leave out a denial that didn't end the
// request by itself. The issuer finds it on record.
func TestDenialLeftOut(t *testing.T) {
	w := newWorld(t)
	w.ask("ssh/council-1", nil)
	w.at(1*time.Minute, func() { w.deny("erin") })
	w.at(2*time.Minute, func() {
		second := w.decision("trent", access.Deny) // withheld from the workflow, but not from the issuer's record
		_, err := w.log.Append(context.Background(), audit.Event{
			Type: audit.DecisionAccepted, Request: w.req.ID, Step: "decision:second", Actor: "trent", Statement: &second,
		})
		if err != nil {
			t.Error(err)
		}
		w.approve("bob")
		w.approve("carol")
		rogue := access.Evidence{Request: w.request, Decisions: []access.Statement{
			w.decision("bob", access.Approve), w.decision("carol", access.Approve),
		}}
		if _, err := w.issuer.Issue(context.Background(), rogue); access.CodeOf(err) != access.CodeDenied || !strings.Contains(err.Error(), "denied by erin, trent") {
			t.Errorf("the issuer says %v", err)
		}
	})
	w.run(access.StateTimedOut)
}

// Who was asked when is in the status and in the audit log, and the log
// verifies.
func TestEscalated(t *testing.T) {
	w := newWorld(t)
	w.ask("ssh/slow-1", nil)
	asking := func(after access.Seconds, ask, notify []string) access.Asking {
		return access.Asking{Step: access.Step{After: after, Ask: ask, Notify: notify}, Time: w.start.Add(after.Duration())}
	}
	want := []access.Asking{asking(600, []string{"security"}, nil), asking(1800, nil, []string{"dev"})}
	w.at(9*time.Minute, func() {
		if s := w.status(); s.Why != "needs 1 approval from sre" || s.Escalated != nil {
			t.Errorf("before the first step: %s, %v", s.Why, s.Escalated)
		}
	})
	w.at(11*time.Minute, func() {
		if s := w.status(); s.Why != "needs 1 approval from security or sre" || len(s.Escalated) != 1 {
			t.Errorf("after the first step: %s, %v", s.Why, s.Escalated)
		}
		if text := w.details(); !strings.Contains(text, "- after 10m asked: security\n- missing: 1 from security or sre\n") {
			t.Errorf("details are\n%s", text)
		}
	})
	w.at(31*time.Minute, func() {
		if diff := cmp.Diff(want, w.status().Escalated); diff != "" {
			t.Errorf("asked (-want +got):\n%s", diff)
		}
		w.approve("trent")
	})
	w.run(access.StateExpired)
	var got []access.Asking
	for e, err := range w.log.Events(context.Background(), audit.Query{Request: w.req.ID, Type: audit.RequestEscalated}) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, *e.Event.Asked)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("on record (-want +got):\n%s", diff)
	}
	// The approval was good only because of the step, and the log says so. The
	// kind here is a toy, so its certificate and serial are all that doesn't hold.
	report, err := w.log.Verify(context.Background(), audit.VerifyOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range report.Problems {
		if !strings.Contains(p.What, "certificate") && !strings.Contains(p.What, "serial") {
			t.Errorf("verify: %+v", p)
		}
	}
}

// A request dated back reaches no step sooner, whoever runs the workflow: the
// issuer knows when it was first heard of.
func TestDatedBack(t *testing.T) {
	w := newWorld(t)
	w.ask("ssh/slow-1", func(r *access.Request) { r.Time = r.Time.Add(-20 * time.Minute) })
	w.at(time.Minute, func() {
		w.approve("trent")
		rogue := access.Evidence{Request: w.request, Decisions: []access.Statement{w.decision("trent", access.Approve)}}
		if _, err := w.issuer.Issue(context.Background(), rogue); access.CodeOf(err) != access.CodeDenied {
			t.Errorf("the issuer says %v", err)
		}
	})
	w.at(2*time.Minute, func() { w.want(access.StatePending); w.cancel() })
	w.run(access.StateCancelled)

	// And one that nobody heard of has not waited at all.
	w = newWorld(t)
	w.ask("ssh/slow-1", func(r *access.Request) { r.Time = r.Time.Add(-20 * time.Minute) })
	rogue := access.Evidence{Request: w.request, Decisions: []access.Statement{w.decision("trent", access.Approve)}}
	if _, err := w.issuer.Issue(context.Background(), rogue); access.CodeOf(err) != access.CodeDenied {
		t.Errorf("the issuer says %v", err)
	}
}

// What one request costs, so that it can't creep up: each line is one or more
// events in the history.
func TestCost(t *testing.T) {
	for name, test := range map[string]struct {
		resource string
		started  string // whose it is said to be by whoever starts it; "": nobody's
		prepare  func(w *world)
		want     []string
		upserts  int
	}{
		"automatic": {
			resource: "ssh/dev-1",
			want:     []string{"local Decide", "hallpass-issue-ssh Issue", "timer 30m0s", "hallpass-issue-ssh Revoke"},
			upserts:  4, // issuing, active, revoking, expired
		},
		"approved": {
			resource: "ssh/web-1",
			prepare:  func(w *world) { w.at(time.Minute, func() { w.approve("bob") }) },
			want:     []string{"local Decide", "timer 1h0m0s", "local Hear", "hallpass-issue-ssh Issue", "timer 30m0s", "hallpass-issue-ssh Revoke"},
			upserts:  5, // pending, too
		},
		"approved, started as clients do": {
			resource: "ssh/web-1",
			started:  "alice",
			prepare:  func(w *world) { w.at(time.Minute, func() { w.approve("bob") }) },
			want:     []string{"local Decide", "timer 1h0m0s", "local Hear", "hallpass-issue-ssh Issue", "timer 30m0s", "hallpass-issue-ssh Revoke"},
			upserts:  4,
		},
		"approved, started as somebody else's": {
			resource: "ssh/web-1",
			started:  "mallory",
			prepare:  func(w *world) { w.at(time.Minute, func() { w.approve("bob") }) },
			want:     []string{"local Decide", "timer 1h0m0s", "local Hear", "hallpass-issue-ssh Issue", "timer 30m0s", "hallpass-issue-ssh Revoke"},
			upserts:  5,
		},
		"escalated": {
			resource: "ssh/slow-1",
			prepare:  func(w *world) { w.at(15*time.Minute, func() { w.approve("trent") }) },
			want: []string{"local Decide", "timer 10m0s", "local Escalate", "timer 20m0s", "local Hear",
				"hallpass-issue-ssh Issue", "timer 30m0s", "hallpass-issue-ssh Revoke"},
			upserts: 5, // what is shown doesn't change when others are asked
		},
		"approved before others are asked": {
			resource: "ssh/slow-1",
			prepare:  func(w *world) { w.at(time.Minute, func() { w.approve("bob") }) },
			want:     []string{"local Decide", "timer 10m0s", "local Hear", "hallpass-issue-ssh Issue", "timer 30m0s", "hallpass-issue-ssh Revoke"},
			upserts:  5,
		},
		"timed out": {
			resource: "ssh/web-1",
			want:     []string{"local Decide", "timer 1h0m0s", "local Close"},
			upserts:  2,
		},
		"denied by policy": {
			resource: "ssh/closed-1",
			want:     []string{"local Decide", "local Close"},
			upserts:  1,
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.ask(test.resource, nil)
			w.countUpserts()
			if test.started != "" {
				err := w.env.SetTypedSearchAttributesOnStart(temporal.NewSearchAttributes(
					temporal.NewSearchAttributeKeyKeyword(access.AttrRequester).ValueSet(test.started),
					temporal.NewSearchAttributeKeyKeyword(access.AttrResource).ValueSet(test.resource),
					temporal.NewSearchAttributeKeyKeyword(access.AttrState).ValueSet(string(access.StatePending))))
				if err != nil {
					t.Fatal(err)
				}
			}
			if test.prepare != nil {
				test.prepare(w)
			}
			w.env.ExecuteWorkflow(access.Workflow, access.Submission{Request: w.request})
			if err := w.env.GetWorkflowError(); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, w.events); diff != "" {
				t.Errorf("what the request cost (-want +got):\n%s", diff)
			}
			if test.started != "" && w.attributes[access.AttrRequester] != "alice" {
				t.Errorf("shown as %v's", w.attributes[access.AttrRequester])
			}
			if w.upserts != test.upserts {
				t.Errorf("%d upserts of search attributes, want %d", w.upserts, test.upserts)
			}
		})
	}
}

// Operators see names and times, and never what people wrote.
func TestShown(t *testing.T) {
	w := newWorld(t)
	w.ask("ssh/crown-1", func(r *access.Request) { r.Reason, r.Ticket = "zebra crossing", "ZEBRA-1" })
	w.countUpserts()
	w.at(time.Minute, func() {
		w.env.SignalWorkflow(access.MessageDecision, w.decision("bob", access.Approve, func(d *access.Decision) { d.Comment = "zebra agreed" }))
	})
	var pending, active string
	w.at(2*time.Minute, func() { pending = w.details(); w.approve("carol") })
	w.at(3*time.Minute, func() { active = w.details() })
	w.at(4*time.Minute, func() { w.env.SignalWorkflow(access.MessageRelease, w.stop("alice", access.TypeRelease)) })
	w.env.ExecuteWorkflow(access.Workflow, access.Submission{Request: w.request})
	done := w.details()
	for _, test := range []struct{ name, text, want string }{
		{"pending", pending, "**pending** · ssh/crown-1 as deploy for alice, 30m\n\n- rules: crown\n- approved by bob at 2026-03-02 09:01:00 UTC\n- missing: 1 from sre\n- times out at 2026-03-02 10:00:00 UTC\n"},
		{"active", active, "- ends at 2026-03-02 09:32:00 UTC\n- serial 1 of CA SHA256:toy\n"},
		{"released", done, "- ended by alice\n"},
	} {
		if !strings.Contains(test.text, test.want) {
			t.Errorf("%s: details are\n%s\nwant\n%s", test.name, test.text, test.want)
		}
		if strings.Contains(strings.ToLower(test.text), "zebra") || strings.Contains(test.text, "because") {
			t.Errorf("%s: details quote what people wrote:\n%s", test.name, test.text)
		}
	}
	if text := fmt.Sprint(w.attributes); strings.Contains(strings.ToLower(text), "zebra") {
		t.Errorf("search attributes quote what people wrote: %s", text)
	}
	for name, want := range map[string]any{
		access.AttrRequester: "alice",
		access.AttrResource:  "ssh/crown-1",
		access.AttrState:     "released",
		access.AttrApprovers: []string{"bob", "carol"},
		access.AttrExpires:   time.Date(2026, 3, 2, 9, 32, 0, 0, time.UTC),
	} {
		if diff := cmp.Diff(want, w.attributes[name]); diff != "" {
			t.Errorf("search attribute %s (-want +got):\n%s", name, diff)
		}
	}
}
