package workflows_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"go.temporal.io/sdk/client"

	"hallpass/access"
	"hallpass/audit"
	"hallpass/evidence"
	"hallpass/statement"
	"hallpass/workflows"
)

// delegates signs that to decides in name's place for an hour.
func (w *world) delegates(name, to string) (access.Delegation, access.Statement) {
	w.t.Helper()
	until := statement.Time(w.env.Now().Add(time.Hour))
	d := access.Delegation{Header: w.header(name, access.TypeDelegation), Action: access.ActionDelegate, To: to, Until: &until, Reason: "on leave"}
	return d, w.sign(name, d)
}

// takesBack signs that a delegation is revoked.
func (w *world) takesBack(name string, d access.Delegation) access.Statement {
	return w.sign(name, access.Delegation{Header: w.header(name, access.TypeDelegation), Action: access.ActionRevoke, To: d.To, Delegation: d.ID})
}

// delegated puts a delegation statement into the log, as the workflow Delegate
// would.
func (w *world) delegated(st access.Statement) {
	w.t.Helper()
	if _, err := w.log.Delegate(context.Background(), w.acts.Rulebook(), st, w.env.Now()); err != nil {
		w.t.Error(err)
	}
}

func inPlaceOf(name string) func(*access.Decision) { return func(d *access.Decision) { d.For = name } }

// A decision in another's place, from the workflow to the credential.
func TestDelegatedDecisions(t *testing.T) {
	w := newWorld(t)
	w.countUpserts()
	w.ask("ssh/crown-1", nil)
	var early, late, own *reply
	var given access.Delegation
	w.at(1*time.Minute, func() {
		early = w.update(access.MessageDecision, w.decision("mallory", access.Approve, inPlaceOf("bob")))
	})
	w.at(2*time.Minute, func() {
		d, st := w.delegates("bob", "mallory")
		given = d
		w.delegated(st)
		late = w.update(access.MessageDecision, w.decision("mallory", access.Approve, inPlaceOf("bob")))
	})
	w.at(3*time.Minute, func() {
		if d := w.details(); !strings.Contains(d, "approved by mallory for bob (delegated) at") {
			t.Error(d)
		}
		own = w.update(access.MessageDecision, w.decision("bob", access.Approve))
	})
	w.at(4*time.Minute, func() { w.approve("carol") })
	w.at(5*time.Minute, func() { w.want(access.StateActive); w.delegated(w.takesBack("bob", given)) }) // what is granted stays
	w.run(access.StateExpired)
	early.want(t, access.CodeForbidden)
	late.want(t, "")
	own.want(t, access.CodeDuplicate)
	if status := w.status(); status.Standing.Why != "approved by mallory for bob (delegated), carol" {
		t.Error(status.Standing.Why)
	}
	if report, err := w.log.Verify(context.Background(), audit.VerifyOptions{}); err != nil || !reportsOnlyToyCredentials(report) {
		t.Errorf("%+v, %v", report, err)
	}
}

// reportsOnlyToyCredentials says whether all that is wrong is that the kind of
// these tests makes no certificates.
func reportsOnlyToyCredentials(r audit.Report) bool {
	for _, p := range r.Problems {
		if !strings.Contains(p.What, "toy") && !strings.Contains(p.What, "certificate") && !strings.Contains(p.What, "serial") {
			return false
		}
	}
	return true
}

// Revoked between the decision and the issue: the issuer says no, and why.
func TestDelegationRevokedMeanwhile(t *testing.T) {
	w := newWorld(t)
	w.ask("ssh/web-1", func(r *access.Request) { start := r.Time.Add(30 * time.Minute); r.Start = &start })
	d, st := w.delegates("bob", "mallory")
	w.delegated(st)
	w.at(time.Minute, func() {
		w.env.SignalWorkflow(access.MessageDecision, w.decision("mallory", access.Approve, inPlaceOf("bob")))
	})
	w.at(2*time.Minute, func() { w.want(access.StateScheduled); w.delegated(w.takesBack("trent", d)) })
	got := w.run(access.StateDenied)
	if !strings.Contains(got.Why, "refused by the issuer: not allowed: needs 1 approval from sre; approve by mallory for bob (delegated) doesn't count: no delegation by bob to mallory is in force") {
		t.Error(got.Why)
	}
	if w.kind.opened != 0 {
		t.Error("it was issued")
	}
}

// The workflow Delegate records what it is given, and answers a refusal.
func TestDelegateWorkflow(t *testing.T) {
	for _, tt := range []struct {
		name string
		make func(w *world) access.Statement
		code access.Code
		held int
	}{
		{"taken", func(w *world) access.Statement { _, st := w.delegates("bob", "mallory"); return st }, "", 1},
		{"taken before", func(w *world) access.Statement { _, st := w.delegates("bob", "mallory"); w.delegated(st); return st }, "", 1},
		{"revoked", func(w *world) access.Statement {
			d, st := w.delegates("bob", "mallory")
			w.delegated(st)
			return w.takesBack("bob", d)
		}, "", 0},
		{"by a stranger", func(w *world) access.Statement { _, st := w.delegates("eve", "mallory"); return st }, access.CodeUnverified, 0},
		{"to a stranger", func(w *world) access.Statement { _, st := w.delegates("bob", "eve"); return st }, access.CodeNotFound, 0},
		{"no statement", func(*world) access.Statement { return access.Statement{Payload: "{}"} }, access.CodeUnverified, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			w.env.RegisterWorkflow(workflows.Delegate)
			st := tt.make(w)
			w.env.SetStartWorkflowOptions(client.StartWorkflowOptions{ID: "delegation-x", TaskQueue: access.TaskQueue})
			w.env.ExecuteWorkflow(workflows.Delegate, access.Delegating{Statement: st})
			var out access.Delegated
			if err := w.env.GetWorkflowResult(&out); err != nil {
				t.Fatal(err)
			}
			if got := access.CodeOf(asError(out.Refused)); got != tt.code {
				t.Errorf("refused with %q: %+v", got, out.Refused)
			}
			given, err := w.log.Delegations(context.Background())
			if err != nil || len(given) != tt.held {
				t.Errorf("%d in force, %v", len(given), err)
			}
			if tt.code != "" && w.refusals() != 1 {
				t.Error("the refusal is not on record")
			}
		})
	}
}

func asError(e *access.Error) error {
	if e == nil {
		return nil
	}
	return e
}

// refusals counts the statements that were refused.
func (w *world) refusals() (n int) {
	for _, err := range w.log.Events(context.Background(), audit.Query{Type: audit.StatementRefused}) {
		if err != nil {
			w.t.Fatal(err)
		}
		n++
	}
	return n
}

func TestDelegationsWorkflow(t *testing.T) {
	w := newWorld(t)
	d, st := w.delegates("bob", "mallory")
	w.delegated(st)
	w.env.RegisterWorkflow(workflows.Delegations)
	w.env.ExecuteWorkflow(workflows.Delegations)
	var got evidence.Delegations
	if err := w.env.GetWorkflowResult(&got); err != nil {
		t.Fatal(err)
	}
	if len(got) != 1 || got[0].Delegation.ID != d.ID || got[0].Statement != st {
		t.Errorf("%+v", got)
	}
}
