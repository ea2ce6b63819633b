package grant_test

import (
	"context"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"hallpass/access"
	"hallpass/audit"
	"hallpass/grant"
	"hallpass/statement"
)

// limited is a policy with these limits.
func limited(limits string) string {
	return `
rules:
  - {name: production, when: resource.labels.env == "prod", max_duration: 8h, approvals: [{count: 1, from: [sre]}]}
  - {name: test-machines, when: resource.labels.env == "test", max_duration: 8h, approvals: none, limits: ` + limits + `}
`
}

// lab asks for a test machine, which needs nobody, and has that received.
func (w *world) lab(who string) access.Evidence {
	w.t.Helper()
	r := w.request(func(r *access.Request) { r.Resource, r.Signer, r.Duration = "ssh/lab-1", who, 600 })
	st := w.sign(who, r)
	if err := w.receive(r, st); err != nil && access.CodeOf(err) != access.CodeLimited {
		w.t.Fatal(err)
	}
	return access.Evidence{Request: st}
}

// receive records a request as the workflow's worker does, with what policy
// says of limits, and returns what comes of it.
func (w *world) receive(r access.Request, st access.Statement) error {
	digests := w.book.Load().Digests()
	return w.log.Receive(context.Background(), audit.Reception{Event: audit.Event{
		Request: r.ID, RequestHash: st.Hash(), Actor: r.Signer, Requester: r.Signer, Resource: r.Resource, Statement: &st, Digests: &digests,
	}, Ruling: w.book.Load().Decide(r, nil, w.now())})
}

// Requests at the same moment, by several issuers with ledgers of their own on
// one log: exactly as many pass as policy lets run.
func TestLimitHoldsAtTheSameMoment(t *testing.T) {
	for _, limits := range []string{"{user: {running: 3}}", "{resource: {running: 3}}", "{both: {running: 3}}"} {
		t.Run(limits, func(t *testing.T) {
			w := newWorld(t)
			w.policy(limited(limits))
			const many = 24
			issuers := []*grant.Issuer{w.issuer(nil, nil), w.issuer(nil, w.openLog())}
			var evidence [many]access.Evidence
			for i := range evidence {
				r := w.request(func(r *access.Request) { r.Resource = "ssh/lab-1" })
				evidence[i] = access.Evidence{Request: w.sign("alice", r)} // as a rogue worker does it: it asks the issuer at once
			}
			var passed, refused atomic.Int32
			var all sync.WaitGroup
			for i := range many {
				all.Go(func() {
					switch _, err := issuers[i%2].Issue(context.Background(), evidence[i]); access.CodeOf(err) {
					case "":
						passed.Add(1)
					case access.CodeLimited:
						refused.Add(1)
					}
				})
			}
			all.Wait()
			if passed.Load() != 3 || refused.Load() != many-3 {
				t.Errorf("%d passed and %d were refused by the limit, want 3 and %d", passed.Load(), refused.Load(), many-3)
			}
			if n := len(w.events(audit.Query{Type: audit.CredentialRefused})); n != many-3 {
				t.Errorf("%d refusals are on record, want %d", n, many-3)
			}
			w.verify()
		})
	}
}

func TestRunningGrantsMakeRoomWhenTheyEnd(t *testing.T) {
	w := newWorld(t)
	w.policy(limited("{user: {running: 1}}"))
	i := w.issuer(nil, nil)
	first := w.issue(i, w.lab("alice"))
	w.issue(i, w.lab("dave")) // somebody else's limit is his own
	second := w.lab("alice")
	err := w.refused(i, second, access.CodeLimited)
	want := "alice has 1 grant running, and policy allows 1 at once; there is room at 2026-03-02T12:10:00Z"
	if err.Error() != want {
		t.Errorf("refused with %q, want %q", err, want)
	}
	if err := i.Revoke(context.Background(), audit.End{Request: first.Handle.Request, State: access.StateRevoked}); err != nil {
		t.Fatal(err)
	}
	third := w.issue(i, w.lab("alice"))
	w.refused(i, w.lab("alice"), access.CodeLimited)
	// Its own end makes room, though nobody has recorded it.
	w.pass(third.Handle.NotAfter.Sub(w.now()))
	w.issue(i, w.lab("alice"))
	w.verify()
}

func TestRequestsPerHour(t *testing.T) {
	w := newWorld(t)
	w.policy(limited("{user: {per_hour: 2}}"))
	i := w.issuer(nil, nil)
	w.issue(i, w.lab("alice"))
	w.pass(10 * time.Minute)
	w.issue(i, w.lab("alice"))
	w.pass(10 * time.Minute)

	r := w.request(func(r *access.Request) { r.Resource, r.Duration = "ssh/lab-1", 600 })
	st := w.sign("alice", r)
	const want = "alice has had 2 requests, as many as policy allows within an hour; there is room at 2026-03-02T13:00:00Z"
	for range 2 { // saying it again says the same
		if err := w.receive(r, st); access.CodeOf(err) != access.CodeLimited || err.Error() != want {
			t.Fatalf("receiving a third one gave %v, want %s", err, want)
		}
	}
	if got := w.events(audit.Query{Type: audit.RequestLimited}); len(got) != 1 || got[0].Why != want {
		t.Errorf("on record are %+v", got)
	}
	w.refused(i, access.Evidence{Request: st}, access.CodeLimited)
	// What nobody has received can't be counted.
	err := w.refused(i, access.Evidence{Request: w.sign("alice", w.request(func(r *access.Request) { r.Resource = "ssh/lab-1" }))}, access.CodeLimited)
	if !strings.Contains(err.Error(), "isn't on record") {
		t.Errorf("a request that wasn't received: %v", err)
	}
	// Those that were refused don't count: there is room when it was said.
	w.pass(40 * time.Minute)
	w.issue(i, w.lab("alice"))
	w.refused(i, w.lab("alice"), access.CodeLimited)
	w.verify()
}

func TestNothingIsGrantedAfterADenial(t *testing.T) {
	w := newWorld(t)
	w.policy(limited("{both: {cooldown: 30m}}"))
	i := w.issuer(nil, nil)
	waiting, denied := w.lab("alice"), w.lab("alice")
	w.deny("bob", denied.Request)
	w.pass(time.Minute)
	const want = "alice on ssh/lab-1 was denied at 2026-03-02T12:00:00Z, after which policy grants nothing for 30m; there is room at 2026-03-02T12:30:00Z"
	if err := w.refused(i, waiting, access.CodeLimited); err.Error() != want {
		t.Errorf("refused with %q, want %q", err, want)
	}
	w.issue(i, w.lab("dave"))
	w.pass(30 * time.Minute)
	w.issue(i, w.lab("alice"))
	w.verify()
}

// deny ends a request by somebody's denial.
func (w *world) deny(by string, st access.Statement) {
	w.t.Helper()
	no := w.decision(by, st, func(d *access.Decision) { d.Verdict = access.Deny })
	request, err := statement.ParseRequest([]byte(st.Payload))
	if err != nil {
		w.t.Fatal(err)
	}
	digests := w.book.Load().Digests()
	_, err = w.log.End(context.Background(), audit.End{
		Request: request.ID, State: access.StateDenied, Why: "denied by " + by, By: by, Statement: &no, Digests: &digests,
	})
	if err != nil {
		w.t.Fatal(err)
	}
}

// A token that was made for a grant that there is no room for is taken back.
func TestLimitDiscardsWhatWasPrepared(t *testing.T) {
	w := newWorld(t)
	w.policy(limited("{user: {running: 1}}"))
	kind := &discarding{}
	i := w.issuer(kind, nil)
	w.issue(i, w.lab("alice"))
	w.refused(i, w.lab("alice"), access.CodeLimited)
	if kind.discarded != 1 {
		t.Errorf("%d handles were taken back, want 1", kind.discarded)
	}
}

type discarding struct {
	tokens
	discarded int
}

func (d *discarding) Discard(context.Context, access.Handle) error {
	d.discarded++
	return nil
}

// A log in which a grant was prepared although there was no room doesn't
// verify.
func TestVerifyCountsForItself(t *testing.T) {
	w := newWorld(t)
	w.policy(limited("{user: {running: 1}}"))
	forgetful := w.issuer(nil, unlimited{w.log})
	w.issue(forgetful, w.lab("alice"))
	w.issue(forgetful, w.lab("alice"))
	report, err := w.log.Verify(context.Background(), audit.VerifyOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if report.OK || !strings.Contains(report.Problems[0].What, "limits") {
		t.Errorf("verify says %+v", report.Problems)
	}
}

// unlimited is a ledger whose issuer forgets the limits.
type unlimited struct{ grant.Ledger }

func (u unlimited) Reserve(ctx context.Context, hash string, h access.Handle, e audit.Event) (audit.Entry, error) {
	ruling := *e.Ruling
	ruling.Limits = access.Limits{}
	e.Ruling = &ruling
	return u.Ledger.Reserve(ctx, hash, h, e)
}
