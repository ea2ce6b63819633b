package workflows_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/mock"

	"hallpass/access"
	"hallpass/audit"
	"hallpass/workflows"
)

const extendPolicy = `
rules:
  - name: production
    when: resource.labels.env == "prod"
    max_duration: 1h
    total: 2h
    approvals: [{count: 1, from: [sre]}]
    limits: {user: {running: 1, per_hour: 3}, both: {cooldown: 10m}}
  - {name: lab, when: resource.labels.env == "dev", max_duration: 1h, approvals: none, limits: {user: {per_hour: 3}}}
`

// granted has a grant made by the issuer itself, which the request that will
// run then extends.
func (w *world) granted() access.Request {
	w.t.Helper()
	w.load(extendPolicy)
	w.ask("ssh/web-1", nil)
	w.onRecord()
	first := w.req
	if _, err := w.issuer.Issue(context.Background(), access.Evidence{
		Request: w.request, Decisions: []access.Statement{w.decision("bob", access.Approve)},
	}); err != nil {
		w.t.Fatal(err)
	}
	return first
}

// onRecord puts the request on record, as Decide does.
func (w *world) onRecord() {
	w.t.Helper()
	digests := w.book.Load().Digests()
	err := w.log.Receive(context.Background(), audit.Reception{Event: audit.Event{
		Request: w.req.ID, RequestHash: w.request.Hash(), Actor: w.req.Signer, Requester: w.req.Signer, Resource: w.req.Resource,
		Statement: &w.request, Digests: &digests,
	}})
	if err != nil {
		w.t.Fatal(err)
	}
}

func TestExtend(t *testing.T) {
	for _, test := range []struct {
		name   string
		change func(*access.Request)
		play   func(w *world, first access.Request)
		want   access.State
		why    string
		after  time.Duration // when it is over
	}{
		{
			name: "approved and left alone", want: access.StateExpired, after: time.Hour,
			play: func(w *world, _ access.Request) { w.at(10*time.Minute, func() { w.approve("bob") }) },
		},
		{
			name: "the grant was given back while people decided", want: access.StateDenied, why: "has ended: released", after: 10 * time.Minute,
			play: func(w *world, first access.Request) {
				w.at(5*time.Minute, func() {
					if err := w.issuer.Revoke(context.Background(), audit.End{Request: first.ID, State: access.StateReleased}); err != nil {
						t.Error(err)
					}
				})
				w.at(10*time.Minute, func() { w.approve("bob") })
			},
		},
		{
			name: "the grant ran out while people decided", want: access.StateDenied, why: "has ended at", after: 31 * time.Minute,
			play: func(w *world, _ access.Request) { w.at(31*time.Minute, func() { w.approve("bob") }) },
		},
		{
			name: "what it extends is taken away", want: access.StateRevoked, why: "another grant of the same row", after: 20 * time.Minute,
			play: func(w *world, first access.Request) {
				w.at(time.Minute, func() { w.approve("bob") })
				w.at(15*time.Minute, func() { w.env.SignalWorkflow(access.MessageLook, nil) }) // by whomever
				w.at(20*time.Minute, func() {
					if err := w.issuer.Revoke(context.Background(), audit.End{Request: first.ID, State: access.StateRevoked}); err != nil {
						t.Error(err)
					}
					w.env.SignalWorkflow(access.MessageLook, nil)
				})
			},
		},
		{
			name: "what it extends is taken away, after many have said so before there was anything", want: access.StateRevoked, why: "another grant of the same row", after: 20 * time.Minute,
			play: func(w *world, first access.Request) {
				w.at(time.Minute, func() {
					for range 100 {
						w.env.SignalWorkflow(access.MessageLook, nil)
					}
				})
				w.at(2*time.Minute, func() { w.approve("bob") })
				w.at(20*time.Minute, func() {
					if err := w.issuer.Revoke(context.Background(), audit.End{Request: first.ID, State: access.StateRevoked}); err != nil {
						t.Error(err)
					}
					w.env.SignalWorkflow(access.MessageLook, nil)
				})
			},
		},
		{name: "past the maximum", change: func(r *access.Request) { r.Duration = 3600 + 1800 + 1 }, want: access.StateDenied, why: "longer than the 1h"},
		{name: "of somebody else's", change: func(r *access.Request) { r.Signer = "mallory" }, want: access.StateDenied, why: "is alice's"},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := newWorld(t)
			first := w.granted()
			w.env.OnSignalExternalWorkflow(mock.Anything, mock.Anything, mock.Anything, access.MessageLook, mock.Anything).Return(nil).Maybe()
			w.ask("ssh/web-1", func(r *access.Request) {
				r.Extends = first.ID
				if test.change != nil {
					test.change(r)
				}
			})
			if w.req.Signer != "alice" {
				w.request = w.sign(w.req.Signer, w.req)
			}
			if test.play != nil {
				test.play(w, first)
			}
			w.env.ExecuteWorkflow(workflows.AccessRequest, access.Submission{Request: w.request})
			var out access.Outcome
			if err := w.env.GetWorkflowResult(&out); err != nil {
				t.Fatal(err)
			}
			if out.State != test.want || !strings.Contains(out.Why, test.why) {
				t.Errorf("it is %s: %s; want %s: %s", out.State, out.Why, test.want, test.why)
			}
			if took := w.env.Now().Sub(w.start).Round(time.Minute); took != test.after {
				t.Errorf("it was over after %s, want %s", took, test.after)
			}
		})
	}
}

// A limit says no at once, with when there is room, and the issuer isn't asked.
func TestLimited(t *testing.T) {
	for name, test := range map[string]struct {
		prepare func(w *world)
		why     string
	}{
		"running": {func(w *world) { w.granted() }, "alice has 1 grant running, and policy allows 1 at once; there is room at 2026-03-02T09:30:00Z"},
		"per hour": {func(w *world) {
			w.load(extendPolicy)
			for range 3 {
				w.ask("ssh/dev-1", nil)
				w.onRecord()
			}
		}, "alice has had 3 requests, as many as policy allows within an hour; there is room at 2026-03-02T10:00:00Z"},
		"cool-down": {func(w *world) {
			w.load(extendPolicy)
			w.onRecord()
			no, digests := w.decision("bob", access.Deny), w.book.Load().Digests()
			_, err := w.log.End(context.Background(), audit.End{Request: w.req.ID, State: access.StateDenied, By: "bob", Statement: &no, Digests: &digests})
			if err != nil {
				t.Fatal(err)
			}
		}, "alice on ssh/web-1 was denied at 2026-03-02T09:00:00Z, after which policy grants nothing for 10m; there is room at 2026-03-02T09:10:00Z"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			test.prepare(w)
			w.ask("ssh/web-1", nil)
			w.env.ExecuteWorkflow(workflows.AccessRequest, access.Submission{Request: w.request})
			var out access.Outcome
			if err := w.env.GetWorkflowResult(&out); err != nil || out.State != access.StateDenied || out.Why != test.why {
				t.Errorf("it is %s: %s (%v); want denied: %s", out.State, out.Why, err, test.why)
			}
			if n := w.recorded(audit.RequestLimited); n != 1 || w.count(access.IssueQueue("ssh")+" Issue") != 0 {
				t.Errorf("%d events say so, want 1; the issuer was asked: %d", n, w.count(access.IssueQueue("ssh")+" Issue"))
			}
		})
	}
}

// That what it extends was over before anybody decided is on record with the
// ruling, which by itself allows it.
func TestExtendWhatIsOver(t *testing.T) {
	w := newWorld(t)
	first := w.granted()
	if err := w.issuer.Revoke(t.Context(), audit.End{Request: first.ID, State: access.StateReleased}); err != nil {
		t.Fatal(err)
	}
	w.ask("ssh/web-1", func(r *access.Request) { r.Extends = first.ID })
	w.run(access.StateDenied)
	for rec, err := range w.log.Events(t.Context(), audit.Query{Request: w.req.ID, Type: audit.RequestRuled}) {
		if err != nil {
			t.Fatal(err)
		}
		if e := rec.Event; e.Code != access.CodeEnded || e.Ruling.Effect != access.EffectAsk || !strings.Contains(e.Why, "has ended: released") {
			t.Errorf("on record is %q, %s: %s", e.Code, e.Ruling.Effect, e.Why)
		}
		return
	}
	t.Error("no ruling is on record")
}

// Those who are told of an extension are told that it is one.
func TestToldOfAnExtension(t *testing.T) {
	w := newWorld(t)
	first := w.granted()
	w.ask("ssh/web-1", func(r *access.Request) { r.Extends = first.ID })
	chat := &channel{}
	w.tells(map[string]*channel{"chat": chat})
	w.at(time.Minute, func() {
		if err := w.issuer.Revoke(context.Background(), audit.End{Request: first.ID, State: access.StateReleased}); err != nil {
			t.Error(err)
		}
		w.cancel()
	})
	w.run(access.StateCancelled)
	if len(chat.got) == 0 || chat.got[0].Extends != first.ID || !strings.HasSuffix(chat.got[0].Title(), " longer") {
		t.Errorf("told was %+v", chat.got)
	}
}
