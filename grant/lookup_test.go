package grant_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"hallpass/access"
	"hallpass/audit"
	"hallpass/grant"
	"hallpass/lookup"
)

const oncallYAML = `
rules:
  - name: production
    when: resource.labels.env == "prod"
    max_duration: 8h
    approvals:
      - {count: 1, from: [sre]}
    auto: context.oncall.user == requester.name
`

// pager is a system that says who is on call; "" is an error of its own.
func pager(t *testing.T, who string) (*lookup.Set, *atomic.Pointer[string], *atomic.Int64) {
	t.Helper()
	var on atomic.Pointer[string]
	var asked atomic.Int64
	on.Store(&who)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		if *on.Load() == "" {
			http.Error(w, "down", http.StatusBadGateway)
			return
		}
		_, _ = fmt.Fprintf(w, `{"oncalls": [{"user": {"email": "%s@example.com"}, "escalation_level": 1, "start": null, "end": null}]}`, *on.Load())
	}))
	t.Cleanup(s.Close)
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil { // whatever the umask
		t.Fatal(err)
	}
	path := filepath.Join(dir, "lookups.yaml")
	file := "allow: [127.0.0.0/8]\nlookups:\n  oncall: {kind: pagerduty, url: \"" + s.URL + "\", domain: example.com}\n"
	if err := os.WriteFile(path, []byte(file), 0o600); err != nil {
		t.Fatal(err)
	}
	set, err := lookup.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	return set, &on, &asked
}

// The issuer asks for itself, right before it issues: what the workflow was
// told counts for nothing. What it heard is in the record, by which anybody
// judges again later, with the other system long gone.
func TestIssuerLooksUpForItself(t *testing.T) {
	w := newWorld(t)
	w.policy(oncallYAML)
	lookups, on, asked := pager(t, "alice")
	i := w.issuer(nil, nil)
	i.Lookups = lookups
	ev := access.Evidence{Request: w.sign("alice", w.request(nil))}
	w.issue(i, ev)
	if asked.Load() != 1 {
		t.Errorf("asked %d times", asked.Load())
	}
	issued := w.events(audit.Query{Type: audit.CredentialIssued})
	if got := string(issued[0].Ruling.Context["oncall"].Value); got != `{"user":"alice","users":["alice"]}` {
		t.Errorf("recorded %s", got)
	}
	w.issue(i, ev) // again is the same credential

	// Not on call any more: not without somebody's approval. Where nobody says,
	// not yet: what is down delays, and is no refusal.
	for n, row := range []struct {
		who, want string
		code      access.Code
	}{
		{"carol", "not allowed: needs 1 approval from sre", access.CodeDenied},
		{"", "not allowed yet: needs 1 approval from sre; look-up oncall failed: it answers 502", access.CodeUnavailable},
	} {
		on.Store(&row.who)
		ev := access.Evidence{Request: w.sign("alice", w.request(nil))}
		if err := w.refused(i, ev, row.code); err.Error() != row.want {
			t.Errorf("on call is %q: %v", row.who, err)
		}
		refused := w.events(audit.Query{Type: audit.CredentialRefused})
		if len(refused) != 1 || n == 0 && refused[0].Why != row.want {
			t.Errorf("recorded: %+v", refused)
		}
		// With one it is issued, whatever the look-up says.
		ev.Decisions = append(ev.Decisions, w.decision("bob", ev.Request, nil))
		w.issue(i, ev)
	}
	// Without look-ups there is nobody to say so.
	bare := w.issuer(nil, nil)
	if err := w.refused(bare, access.Evidence{Request: w.sign("alice", w.request(nil))}, access.CodeUnavailable); !strings.Contains(err.Error(), "there are no look-ups here") {
		t.Error(err)
	}
	w.verify()
}

// A look-up that is down delays what it alone decides on, for as long as
// evidence is good, and nothing else: not what is missing an approval anyway,
// and not what a rule denies.
func TestLookupThatIsDownDelays(t *testing.T) {
	const more = oncallYAML + `  - {name: command, when: request.command == "reboot", approvals: [{count: 1, from: [sre]}]}
  - {name: not-root, when: request.login == "root", deny: nobody is root}
  - {name: lab, when: resource.labels.env == "test", approvals: [{count: 1, from: [sre]}], auto: now.within("never"), max_duration: 8h}
  - {name: lab-too, when: resource.labels.env == "test", approvals: none, revoke: [sre]}
windows: {never: {zone: UTC, times: [{from: "00:00", to: "00:01"}]}}
`
	w := newWorld(t)
	w.policy(more)
	lookups, on, _ := pager(t, "")
	i := w.issuer(nil, nil)
	i.Lookups = lookups
	ask := func(edit func(*access.Request)) access.Evidence {
		return access.Evidence{Request: w.sign("alice", w.request(edit))}
	}
	for name, c := range map[string]struct {
		ev   access.Evidence
		want access.Code
	}{
		"the look-up alone decides":   {ask(nil), access.CodeUnavailable},
		"another rule needs somebody": {ask(func(r *access.Request) { r.Command = "reboot" }), access.CodeDenied},
		"another rule denies":         {ask(func(r *access.Request) { r.Login = "root" }), access.CodeDenied},
		"no rule asks it":             {ask(func(r *access.Request) { r.Resource = "ssh/lab-1" }), access.CodeDenied},
	} {
		if _, err := i.Issue(context.Background(), c.ev); access.CodeOf(err) != c.want {
			t.Errorf("%s: %v, want code %s", name, err, c.want)
		}
	}
	ev := ask(nil)
	w.refused(i, ev, access.CodeUnavailable)
	w.pass(23 * time.Hour)
	w.refused(i, ev, access.CodeUnavailable)
	alice := "alice"
	on.Store(&alice)
	w.issue(i, ev)
	nobody := ""
	on.Store(&nobody)
	ev = ask(nil)
	w.pass(access.EvidenceAge + time.Second)
	w.refused(i, ev, access.CodeStale)
	w.verify()
}

// A request that nobody of the directory has signed makes nobody ask.
func TestStrangersLookNothingUp(t *testing.T) {
	w := newWorld(t)
	w.policy(oncallYAML)
	lookups, _, asked := pager(t, "alice")
	i := w.issuer(nil, nil)
	i.Lookups = lookups
	w.people["eve"] = newKey(t)
	for _, st := range []access.Statement{
		w.sign("eve", w.request(nil)), {Payload: "{}"}, w.sign("alice", w.request(func(r *access.Request) { r.Resource = "ssh/none" })),
		w.sign("alice", w.request(func(r *access.Request) { r.Resource = "ssh/lab-1" })), // a rule that asks nothing
	} {
		_, _ = i.Issue(context.Background(), access.Evidence{Request: st})
	}
	if asked.Load() != 0 {
		t.Errorf("asked %d times", asked.Load())
	}
}

// oncall are rules that let whoever is on call in, so many times at once.
const oncall = `
rules:
  - name: oncall
    when: resource.labels.env == "prod" && context.oncall.user == requester.name
    max_duration: 8h
    approvals: none
    limits: {user: {running: %d}}
`

// Limits of a rule that asks other systems for whether it holds are counted by
// what was said when the handle was prepared, by a verifier as well.
func TestLimitsWhereALookupDecides(t *testing.T) {
	w := newWorld(t)
	w.policy(fmt.Sprintf(oncall, 2))
	lookups, on, _ := pager(t, "alice")
	i := w.issuer(nil, nil)
	i.Lookups = lookups
	ask := func() access.Evidence { return access.Evidence{Request: w.sign("alice", w.request(nil))} }
	w.issue(i, ask())
	w.verify()
	// Prepared in one context, and issued in another one.
	forgetful := w.issuer(nil, unlimited{w.log})
	forgetful.Lookups = lookups
	bob := "bob"
	w.issue(i, ask())
	w.refused(i, ask(), access.CodeLimited)
	w.verify()
	on.Store(&bob)
	w.refused(i, ask(), access.CodeDenied)
	alice := "alice"
	on.Store(&alice)
	w.issue(forgetful, ask())
	report, err := w.log.Verify(context.Background(), audit.VerifyOptions{})
	if err != nil || report.OK || !strings.Contains(report.Problems[0].What, "limits") {
		t.Errorf("with one too many, verify says %+v, %v", report.Problems, err)
	}
}

// Who says that he prepared it while no rule held gets past no limit by that.
func TestPreparedInAContextThatDenies(t *testing.T) {
	w := newWorld(t)
	w.policy(fmt.Sprintf(oncall, 1))
	lookups, _, _ := pager(t, "alice")
	i := w.issuer(nil, unasked{w.log})
	i.Lookups = lookups
	w.issue(i, access.Evidence{Request: w.sign("alice", w.request(nil))})
	report, err := w.log.Verify(context.Background(), audit.VerifyOptions{})
	if err != nil || report.OK || !strings.Contains(report.Problems[0].What, "prepared under rules that deny it") {
		t.Errorf("verify says %+v, %v", report.Problems, err)
	}
}

// unasked is a ledger whose issuer says that the look-up failed, and so no
// rule with limits held.
type unasked struct{ grant.Ledger }

func (u unasked) Reserve(ctx context.Context, hash string, h access.Handle, e audit.Event) (audit.Entry, error) {
	ruling := *e.Ruling
	ruling.Limits, ruling.Context = access.Limits{}, access.Facts{"oncall": {Failed: "no answer"}}
	e.Ruling = &ruling
	return u.Ledger.Reserve(ctx, hash, h, e)
}
