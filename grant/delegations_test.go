package grant_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"hallpass/access"
	"hallpass/audit"
	"hallpass/evidence"
	"hallpass/grant"
	"hallpass/statement"
)

// delegation signs that dave decides in bob's place for an hour.
func (w *world) delegation(edit func(*access.Delegation)) (access.Delegation, access.Statement) {
	w.t.Helper()
	until := w.now().Add(time.Hour)
	d := access.Delegation{
		Header: access.Header{Type: access.TypeDelegation, ID: statement.NewID(), Signer: "bob", Time: w.now()},
		Action: access.ActionDelegate, To: "dave", Until: &until,
	}
	if edit != nil {
		edit(&d)
	}
	return d, w.sign(d.Signer, d)
}

// delegate has the log record a delegation.
func (w *world) delegate(edit func(*access.Delegation)) (access.Delegation, access.Statement) {
	w.t.Helper()
	d, st := w.delegation(edit)
	if _, err := w.log.Delegate(context.Background(), w.book.Load(), st, w.now()); err != nil {
		w.t.Fatal(err)
	}
	return d, st
}

func (w *world) takeBack(d access.Delegation) {
	w.t.Helper()
	w.delegate(func(r *access.Delegation) { r.Action, r.Until, r.Delegation = access.ActionRevoke, nil, d.ID })
}

// throughDave is a request of alice's that dave has approved in bob's place.
func (w *world) throughDave() (access.Evidence, access.Request) {
	w.t.Helper()
	r := w.request(nil)
	st := w.sign("alice", r)
	return access.Evidence{Request: st, Decisions: []access.Statement{
		w.decision("dave", st, func(d *access.Decision) { d.For = "bob" }),
	}}, r
}

// Whoever owns Temporal sends the issuer what he likes: it counts what is on
// record, by the files of the moment, and nothing else.
func TestIssueThroughDelegations(t *testing.T) {
	const not = "not allowed: needs 1 approval from sre; approve by dave for bob (delegated) doesn't count: "
	for _, tt := range []struct {
		name string
		do   func(w *world) (sent []access.Statement)
		why  string // "" for issued
	}{
		{"on record", func(w *world) []access.Statement { w.delegate(nil); return nil }, ""},
		{"not at all", func(*world) []access.Statement { return nil }, not + "no delegation by bob to dave is in force"},
		{"sent along, not on record", func(w *world) []access.Statement {
			_, st := w.delegation(nil)
			return []access.Statement{st}
		}, not + "no delegation by bob to dave is in force"},
		{"sent along, revoked", func(w *world) []access.Statement {
			d, st := w.delegate(nil)
			w.takeBack(d)
			return []access.Statement{st}
		}, not + "no delegation by bob to dave is in force"},
		{"sent along, made up", func(w *world) []access.Statement {
			d, _ := w.delegation(nil)
			return []access.Statement{w.sign("dave", d)}
		}, not + "no delegation by bob to dave is in force"},
		{"left out, and on record", func(w *world) []access.Statement { w.delegate(nil); return nil }, ""},
		{"over meanwhile", func(w *world) []access.Statement {
			w.delegate(func(d *access.Delegation) { until := d.Time.Add(time.Minute); d.Until = &until })
			w.pass(time.Minute)
			return nil
		}, not + "the delegation by bob ended at 2026-03-02T12:01:00Z"},
		{"the giver has left the group", func(w *world) []access.Statement {
			w.delegate(nil)
			w.member("bob", "dev")
			return nil
		}, not + "bob has delegated none of the groups that decide on it"},
		{"policy wants him in person meanwhile", func(w *world) []access.Statement {
			w.delegate(nil)
			book := w.book.Load()
			policy := strings.Replace(string(book.Policy.Data()), "    approvals:\n", "    in_person: true\n    approvals:\n", 1)
			w.rules(policy, string(book.Directory.Data()), string(book.Catalog.Data()))
			return nil
		}, not + `rule "production" takes decisions in person only`},
		{"the giver has left", func(w *world) []access.Statement {
			w.delegate(nil)
			w.member("bob", "")
			return nil
		}, not + "there is no bob in the directory"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			i := w.issuer(nil, nil)
			ev, _ := w.throughDave()
			ev.Delegations = tt.do(w)
			if tt.why == "" {
				w.issue(i, ev)
				issued := w.events(audit.Query{Type: audit.CredentialIssued})
				if len(issued) != 1 || len(issued[0].Evidence.Delegations) != 1 {
					t.Errorf("on record is %+v", issued)
				}
				w.verify()
				return
			}
			if err := w.refused(i, ev, access.CodeDenied); err.Error() != tt.why {
				t.Errorf("got  %v\nwant %s", err, tt.why)
			}
			if w.uses.n.Load() != 0 {
				t.Error("the CA key was used")
			}
			// What was sent along is in no record: it has no bound.
			if refused := w.events(audit.Query{Type: audit.CredentialRefused}); len(refused) != 1 || len(refused[0].Evidence.Delegations) != 0 {
				t.Errorf("on record is %+v", refused)
			}
		})
	}
}

// member puts somebody into another group, or out of the directory.
func (w *world) member(name, group string) {
	w.t.Helper()
	book := w.book.Load()
	var lines []string
	for line := range strings.Lines(string(book.Directory.Data())) {
		if strings.HasPrefix(line, "  "+name+":") {
			if group == "" {
				continue
			}
			line = fmt.Sprintf("  %s: {groups: [%s], keys: ['%s']}\n", name, group, statement.MarshalKey(w.people[name].PublicKey()))
		}
		lines = append(lines, line)
	}
	w.rules(string(book.Policy.Data()), strings.Join(lines, ""), string(book.Catalog.Data()))
}

// Who decides in another's place doesn't take back what that one has said: the
// first of several denials is on record, and stands, whoever leaves it out.
func TestDelegateDoesNotTakeBackADenial(t *testing.T) {
	w := newWorld(t)
	w.policy(`rules:
  - {name: two-say-no, when: resource.labels.env == "prod", max_duration: 8h, approvals: [{count: 1, from: [sre]}], denies: 2}
`)
	w.delegate(nil)
	i := w.issuer(nil, nil)
	ev, r := w.throughDave()
	deny := w.decision("bob", ev.Request, func(d *access.Decision) { d.Verdict = access.Deny })
	if _, err := w.log.Append(context.Background(), audit.Event{
		Type: audit.DecisionAccepted, Request: r.ID, Step: "decision:bob", Actor: "bob", Statement: &deny,
	}); err != nil {
		t.Fatal(err)
	}
	w.refused(i, ev, access.CodeDenied)
	if w.uses.n.Load() != 0 {
		t.Error("the CA key was used")
	}
}

// A delegation that is revoked while the kind makes the credential: it is
// neither recorded nor handed out.
func TestRevokedWhileTheKindIssues(t *testing.T) {
	w := newWorld(t)
	d, _ := w.delegate(nil)
	ev, request := w.throughDave()
	kind := &tokens{}
	kind.issuing = sync.OnceFunc(func() { w.takeBack(d) })
	i := w.issuer(kind, nil)
	w.refused(i, ev, access.CodeUnavailable) // and once more
	if err := w.refused(i, ev, access.CodeDenied); !strings.Contains(err.Error(), "no delegation by bob to dave is in force") {
		t.Error(err)
	}
	if issued := w.events(audit.Query{Type: audit.CredentialIssued}); len(issued) != 0 {
		t.Errorf("%d credentials on record", len(issued))
	}
	if err := i.Revoke(context.Background(), audit.End{Request: request.ID, State: access.StateRevoked}); err != nil {
		t.Fatal(err)
	}
	if kind.alive(request.ID) {
		t.Error("the credential that came too late lives")
	}
}

// undecided is a ledger that can't say what is delegated.
type undecided struct{ grant.Ledger }

func (undecided) Delegations(context.Context) (evidence.Delegations, error) {
	return nil, access.Errorf(access.CodeUnverified, "the audit log has been changed")
}

func TestIssueWithoutKnowingWhatIsDelegated(t *testing.T) {
	w := newWorld(t)
	ev, _ := w.approved(nil)
	if err := w.refused(w.issuer(nil, undecided{w.log}), ev, access.CodeUnavailable); !strings.Contains(err.Error(), "find out what is delegated") {
		t.Error(err)
	}
}
