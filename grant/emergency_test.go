package grant_test

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"hallpass/access"
	"hallpass/audit"
	"hallpass/grant"
	"hallpass/statement"
)

const glassPolicy = `
rules:
  - name: production
    when: resource.labels.env == "prod"
    max_duration: 8h
    approvals: [{count: 1, from: [sre]}]
    emergency: {tell: [dev], review: {from: [sre], count: 2, within: 2h}}
  - {name: lab, when: resource.labels.env == "test", approvals: [{count: 1, from: [sre]}]}
`

// breaks is a request of alice's that breaks the glass, received.
func (w *world) breaks(edit func(*access.Request)) (access.Evidence, access.Request) {
	w.t.Helper()
	r := w.request(func(r *access.Request) {
		r.Mode, r.Reason = access.ModeEmergency, "the shop is down and nobody answers"
		if edit != nil {
			edit(r)
		}
	})
	st := w.sign(r.Signer, r)
	if err := w.receive(r, st); err != nil && access.CodeOf(err) != access.CodeLimited {
		w.t.Fatal(err)
	}
	return access.Evidence{Request: st}, r
}

// review is by's review of a request.
func (w *world) review(by string, r access.Request, st access.Statement, edit func(*access.Review)) access.Statement {
	v := access.Review{
		Header:  access.Header{Type: access.TypeReview, ID: statement.NewID(), Signer: by, Time: w.now()},
		Request: r.ID, RequestHash: st.Hash(), Comment: "looked at the sessions",
	}
	if edit != nil {
		edit(&v)
	}
	return w.sign(by, v)
}

func (w *world) reviewed(st access.Statement) (access.ReviewTask, error) {
	return w.log.Review(context.Background(), w.book.Load(), st, w.now())
}

func TestBreakGlass(t *testing.T) {
	w := newWorld(t)
	w.policy(glassPolicy)
	i := w.issuer(nil, nil)
	ev, r := w.breaks(nil)
	w.issue(i, ev) // at once, on nobody's word
	loud := w.events(audit.Query{Request: r.ID, Type: audit.EmergencyGranted})
	if len(loud) != 1 || !strings.HasPrefix(loud[0].Why, "BREAK-GLASS: alice has ssh/web-1 without approval") {
		t.Errorf("on record is %+v", loud)
	}

	for name, c := range map[string]struct {
		st   access.Statement
		want access.Code
	}{
		"who took it":      {w.review("alice", r, ev.Request, nil), access.CodeForbidden},
		"not in the group": {w.review("dave", r, ev.Request, nil), access.CodeForbidden},
		"another request":  {w.review("bob", r, ev.Request, func(v *access.Review) { v.RequestHash = strings.Repeat("0", 64) }), access.CodeMismatch},
		"an unknown one":   {w.review("bob", r, ev.Request, func(v *access.Review) { v.Request = statement.NewID() }), access.CodeNotFound},
		"from the future":  {w.review("bob", r, ev.Request, func(v *access.Review) { v.Time = w.now().Add(time.Hour) }), access.CodeStale},
		"before it":        {w.review("bob", r, ev.Request, func(v *access.Review) { v.Time = w.now().Add(-time.Hour) }), access.CodeStale},
		"an approval":      {w.decision("bob", ev.Request, nil), access.CodeUnverified},
	} {
		if _, err := w.reviewed(c.st); access.CodeOf(err) != c.want {
			t.Errorf("%s: %v, want code %s", name, err, c.want)
		}
	}

	first := w.review("bob", r, ev.Request, nil)
	for range 2 { // saying it again changes nothing
		task, err := w.reviewed(first)
		if err != nil || task.Done || len(task.Missing) != 1 || task.Missing[0].Count != 1 {
			t.Fatalf("after one of two: %+v, %v", task, err)
		}
	}
	if _, err := w.reviewed(w.review("bob", r, ev.Request, nil)); access.CodeOf(err) != access.CodeDuplicate {
		t.Errorf("bob once more: %v", err)
	}
	if open, err := w.log.OpenReviews(context.Background(), 10); err != nil || len(open) != 1 || open[0].Request != r.ID {
		t.Errorf("open are %+v, %v", open, err)
	}
	// It can be signed off also when the access is long over.
	w.pass(90 * time.Minute)
	if err := i.Revoke(context.Background(), audit.End{Request: r.ID, State: access.StateExpired}); err != nil {
		t.Fatal(err)
	}
	task, err := w.reviewed(w.review("carol", r, ev.Request, nil))
	if err != nil || !task.Done {
		t.Fatalf("after two of two: %+v, %v", task, err)
	}
	if open, err := w.log.OpenReviews(context.Background(), 10); err != nil || len(open) != 0 {
		t.Errorf("open are %+v, %v", open, err)
	}
	w.pass(3 * time.Hour)
	again, _ := w.breaks(nil)
	w.issue(i, again)
	w.verify()
}

func TestBreakGlassIsRefused(t *testing.T) {
	w := newWorld(t)
	w.policy(glassPolicy)
	i := w.issuer(nil, nil)
	for name, edit := range map[string]func(*access.Request){
		"without a reason":   func(r *access.Request) { r.Reason = "" },
		"a reason too short": func(r *access.Request) { r.Reason = "please" },
		"where forbidden":    func(r *access.Request) { r.Resource = "ssh/lab-1" },
		"for too long":       func(r *access.Request) { r.Duration = 9 * 3600 },
	} {
		ev, _ := w.breaks(edit)
		if err := w.refused(i, ev, access.CodeDenied); err == nil {
			t.Error(name)
		}
	}
	w.verify()
}

// An overdue review bars its requester from breaking more glass, and nobody
// from anything else; the issuer looks for itself.
func TestOverdueReviewBars(t *testing.T) {
	w := newWorld(t)
	w.policy(glassPolicy)
	i := w.issuer(nil, nil)
	ev, r := w.breaks(nil)
	w.issue(i, ev)
	w.pass(2*time.Hour - time.Second)
	second, _ := w.breaks(nil) // not overdue yet
	w.issue(i, second)
	w.pass(time.Second)
	third := w.request(func(r *access.Request) { r.Mode, r.Reason = access.ModeEmergency, "the shop is down once more" })
	st := w.sign("alice", third)
	want := "alice breaks no more glass until request " + r.ID + " is signed off, which was due at 2026-03-02T14:00:00Z"
	if err := w.receive(third, st); access.CodeOf(err) != access.CodeLimited || err.Error() != want {
		t.Errorf("received with %v, want %s", err, want)
	}
	if err := w.refused(i, access.Evidence{Request: st}, access.CodeLimited); err.Error() != want {
		t.Errorf("refused with %v, want %s", err, want)
	}
	others, _ := w.breaks(func(r *access.Request) { r.Signer = "dave" })
	w.issue(i, others)
	usual, _ := w.approved(nil)
	w.issue(i, usual)
	for _, name := range []string{"bob", "carol"} {
		if _, err := w.reviewed(w.review(name, r, ev.Request, nil)); err != nil {
			t.Fatal(err)
		}
	}
	fourth, _ := w.breaks(nil)
	w.issue(i, fourth)
	w.verify()
}

// Evidence can't be made an emergency, nor less of one, by who carries it.
func TestModeIsSigned(t *testing.T) {
	w := newWorld(t)
	w.policy(glassPolicy)
	i := w.issuer(nil, nil)
	plain := w.request(func(r *access.Request) { r.Reason = "the shop is down and nobody answers" })
	st := w.sign("alice", plain)
	plain.Mode = access.ModeEmergency
	forged, err := json.Marshal(plain)
	if err != nil {
		t.Fatal(err)
	}
	w.refused(i, access.Evidence{Request: access.Statement{Payload: string(forged), Signature: st.Signature}}, access.CodeUnverified)
}

// A log whose issuer hides that glass was broken, or was barred, doesn't verify.
func TestVerifyKnowsOfBreakGlass(t *testing.T) {
	for name, ledger := range map[string]func(*world) grant.Ledger{
		"not said": func(w *world) grant.Ledger { return quiet{w.log} },
		"barred":   func(w *world) grant.Ledger { return w.log },
	} {
		w := newWorld(t)
		w.policy(glassPolicy)
		ev, _ := w.breaks(nil)
		w.issue(w.issuer(nil, ledger(w)), ev)
		if name == "barred" {
			w.pass(2 * time.Hour)
			ev, _ := w.breaks(nil)
			w.issue(w.issuer(nil, quiet{w.log}), ev)
		}
		report, err := w.log.Verify(context.Background(), audit.VerifyOptions{})
		if err != nil || report.OK {
			t.Errorf("%s: verify says %+v, %v", name, report.Problems, err)
		}
	}
}

// quiet is a ledger whose issuer says nothing of emergencies.
type quiet struct{ grant.Ledger }

func (q quiet) Reserve(ctx context.Context, hash string, h access.Handle, e audit.Event) (audit.Entry, error) {
	ruling := *e.Ruling
	ruling.Emergency = nil
	e.Ruling = &ruling
	return q.Ledger.Reserve(ctx, hash, h, e)
}

func (q quiet) Issued(ctx context.Context, c access.Credential, e audit.Event) error {
	ruling := *e.Ruling
	ruling.Emergency = nil
	e.Ruling = &ruling
	return q.Ledger.Issued(ctx, c, e)
}
