package grant_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"hallpass/access"
	"hallpass/audit"
	"hallpass/ca/krl"
	"hallpass/evidence"
	"hallpass/grant"
	"hallpass/statement"
)

func TestIssue(t *testing.T) {
	w := newWorld(t)
	ev, r := w.approved(func(r *access.Request) { r.Command = "uptime" })
	w.pass(10 * time.Minute)
	cred := w.issue(w.issuer(nil, nil), ev)

	want := access.Handle{
		Request: r.ID, Kind: "ssh", Serial: first, CA: w.ca.Fingerprint(), Principals: []string{"web-1/deploy"},
		NotBefore: noon.Add(10 * time.Minute), NotAfter: noon.Add(70 * time.Minute),
	}
	if diff := cmp.Diff(want, cred.Handle); diff != "" {
		t.Errorf("handle (-want +got):\n%s", diff)
	}
	cert := certificate(t, cred)
	if got := statement.MarshalKey(cert.Key); got != r.PublicKey {
		t.Errorf("certified %s, want %s", got, r.PublicKey)
	}
	if cert.ValidBefore != uint64(want.NotAfter.Unix()) || cert.Serial != first || cert.KeyId != "hallpass:"+r.ID+":alice" {
		t.Errorf("certificate %+v", cert)
	}
	options := map[string]string{"force-command": "uptime", "source-address": "127.0.0.0/8"}
	if diff := cmp.Diff(options, cert.CriticalOptions); diff != "" {
		t.Errorf("critical options (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(map[string]string{"permit-pty": ""}, cert.Extensions); diff != "" {
		t.Errorf("extensions (-want +got):\n%s", diff)
	}

	// The record has the handle first, and then the credential with what it
	// was issued on.
	events := w.events(audit.Query{Request: r.ID})
	if len(events) != 2 || events[0].Type != audit.CredentialPrepared || events[1].Type != audit.CredentialIssued {
		t.Fatalf("events: %+v", events)
	}
	if diff := cmp.Diff(&cred, events[1].Credential); diff != "" {
		t.Errorf("recorded credential (-issued +recorded):\n%s", diff)
	}
	if diff := cmp.Diff(&ev, events[1].Evidence); diff != "" {
		t.Errorf("recorded evidence (-given +recorded):\n%s", diff)
	}
	w.verify()
}

func TestIssueGrantsWhatApproversLeave(t *testing.T) {
	w := newWorld(t)
	st := w.sign("alice", w.request(nil))
	shorter := func(d *access.Decision) { d.Duration = 600 }
	cred := w.issue(w.issuer(nil, nil), access.Evidence{Request: st, Decisions: []access.Statement{
		w.decision("bob", st, nil), w.decision("carol", st, shorter),
	}})
	if got := cred.Handle.NotAfter.Sub(cred.Handle.NotBefore); got != 10*time.Minute {
		t.Errorf("grant of %s, want 10m", got)
	}
	w.verify()
}

// Whoever carries the evidence can put more into it: statements in other
// people's names, by keys that are nobody's. The record of who approved is of
// those alone who did.
func TestIssueRecordsWhatCounts(t *testing.T) {
	w := newWorld(t)
	ev, r := w.approved(nil)
	w.people["carol"] = newKey(t) // a stranger's, who calls himself carol
	forged := w.decision("carol", ev.Request, nil)
	outside := w.decision("dave", ev.Request, nil)
	more := access.Evidence{Request: ev.Request, Decisions: []access.Statement{forged, ev.Decisions[0], outside}}
	w.issue(w.issuer(nil, nil), more)
	events := w.events(audit.Query{Request: r.ID, Type: audit.CredentialIssued})
	if len(events) != 1 {
		t.Fatalf("%d credentials were issued", len(events))
	}
	if d := cmp.Diff(&ev, events[0].Evidence); d != "" {
		t.Error(d)
	}
	w.verify()
}

func TestIssueWaitsForTheStart(t *testing.T) {
	w := newWorld(t)
	start := noon.Add(2 * time.Hour)
	ev, r := w.approved(func(r *access.Request) { r.Start = &start })
	i := w.issuer(nil, nil)
	for _, early := range []time.Duration{0, 2*time.Hour - time.Second} {
		w.clock.Store(int64(early / time.Second))
		w.refused(i, ev, access.CodeUnavailable)
	}
	if n := w.uses.n.Load(); n != 0 {
		t.Errorf("the key was used %d times before the start", n)
	}
	if e := w.events(audit.Query{Request: r.ID}); len(e) != 0 {
		t.Errorf("waiting left events: %+v", e)
	}
	w.clock.Store(int64(2 * time.Hour / time.Second))
	if cred := w.issue(i, ev); !cred.Handle.NotBefore.Equal(start) {
		t.Errorf("begins %s, want %s", cred.Handle.NotBefore, start)
	}
	w.verify()
}

// Every way in which evidence can be bad: refused, recorded, the key not
// touched, no serial spent, and nothing in the ledger.
func TestIssueRefuses(t *testing.T) {
	for _, tt := range []struct {
		name     string
		evidence func(w *world) access.Evidence
		code     access.Code
		verified bool // the request's own signature is good, so it is on its record
	}{
		{"no approval", func(w *world) access.Evidence {
			return access.Evidence{Request: w.sign("alice", w.request(nil))}
		}, access.CodeDenied, true},
		{"denied by an approver", func(w *world) access.Evidence {
			st := w.sign("alice", w.request(nil))
			no := w.decision("bob", st, func(d *access.Decision) { d.Verdict = access.Deny })
			return access.Evidence{Request: st, Decisions: []access.Statement{no, w.decision("carol", st, nil)}}
		}, access.CodeDenied, true},
		{"approved outside the group", func(w *world) access.Evidence {
			st := w.sign("alice", w.request(nil))
			return access.Evidence{Request: st, Decisions: []access.Statement{w.decision("dave", st, nil)}}
		}, access.CodeDenied, true},
		{"longer than a certificate may live", func(w *world) access.Evidence {
			return access.Evidence{Request: w.sign("alice", w.request(func(r *access.Request) {
				r.Resource, r.Duration = "ssh/lab-1", 24*3600+1
			}))}
		}, access.CodeDenied, true},
		{"longer than policy allows", func(w *world) access.Evidence {
			ev, _ := w.approved(func(r *access.Request) { r.Duration = 8*3600 + 1 })
			return ev
		}, access.CodeDenied, true},
		{"policy has changed", func(w *world) access.Evidence {
			ev, _ := w.approved(nil)
			w.policy(policyYAML + "  - {name: freeze, when: 'true', deny: nothing today}\n")
			return ev
		}, access.CodeDenied, true},
		{"approver has left", func(w *world) access.Evidence {
			ev, _ := w.approved(nil)
			book := w.book.Load()
			w.rules(policyYAML, strings.Replace(string(book.Directory.Data()), "  bob: {groups: [sre]", "  bob: {groups: [dev]", 1), catalogYAML)
			return ev
		}, access.CodeDenied, true},
		{"approved by the requester", func(w *world) access.Evidence {
			st := w.sign("alice", w.request(nil))
			return access.Evidence{Request: st, Decisions: []access.Statement{w.decision("alice", st, nil)}}
		}, access.CodeForbidden, false},
		{"approval of another request", func(w *world) access.Evidence {
			ev, _ := w.approved(nil)
			other, _ := w.approved(nil)
			ev.Decisions = other.Decisions
			return ev
		}, access.CodeMismatch, false},
		{"request changed after approval", func(w *world) access.Evidence {
			ev, r := w.approved(nil)
			r.Login = "root"
			ev.Request = w.sign("alice", r)
			return ev
		}, access.CodeMismatch, false},
		{"request changed without signing", func(w *world) access.Evidence {
			ev, _ := w.approved(nil)
			ev.Request.Payload = strings.Replace(ev.Request.Payload, `"deploy"`, `"root"`, 1)
			return ev
		}, access.CodeUnverified, false},
		{"request signed by somebody else", func(w *world) access.Evidence {
			st := w.sign("dave", w.request(nil))
			return access.Evidence{Request: st, Decisions: []access.Statement{w.decision("bob", st, nil)}}
		}, access.CodeUnverified, false},
		{"approval signed by an unknown key, in bob's name", func(w *world) access.Evidence {
			st := w.sign("alice", w.request(nil))
			w.people["bob"] = newKey(w.t)
			return access.Evidence{Request: st, Decisions: []access.Statement{w.decision("bob", st, nil)}}
		}, access.CodeDenied, true},
		{"no signature", func(w *world) access.Evidence {
			ev, _ := w.approved(nil)
			ev.Request.Signature = ""
			return ev
		}, access.CodeUnverified, false},
		{"nothing", func(w *world) access.Evidence { return access.Evidence{} }, access.CodeUnverified, false},
		{"stale", func(w *world) access.Evidence {
			ev, _ := w.approved(nil)
			w.pass(access.EvidenceAge + time.Second)
			return ev
		}, access.CodeStale, false},
		{"ten megabytes", func(w *world) access.Evidence {
			ev, _ := w.approved(nil)
			ev.Request.Payload += strings.Repeat(" ", 10<<20)
			return ev
		}, access.CodeMalformed, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			ev := tt.evidence(w)
			i := w.issuer(nil, nil)
			err := w.refused(i, ev, tt.code)
			w.refused(i, ev, tt.code)

			if n := w.uses.n.Load(); n != 0 {
				t.Errorf("the key was used %d times", n)
			}
			if serial, err := w.log.NextSerial(context.Background(), w.ca.Fingerprint(), krl.Series("web-1")); err != nil || serial != first {
				t.Errorf("next serial is %d, error %v", serial, err)
			}
			refusals := w.events(audit.Query{Type: audit.CredentialRefused})
			if len(refusals) != 1 {
				t.Fatalf("refused twice on the same evidence: %d events", len(refusals))
			}
			e := refusals[0]
			if e.Code != tt.code || !strings.HasPrefix(e.Why, err.Error()) || e.Digests == nil {
				t.Errorf("event %+v doesn't say why: %v", e, err)
			}
			if (e.Request != "") != tt.verified {
				t.Errorf("event is filed under request %q", e.Request)
			}
			if len(ev.Request.Payload) < 1<<20 {
				if diff := cmp.Diff(&ev, e.Evidence); diff != "" {
					t.Errorf("evidence in the event (-given +recorded):\n%s", diff)
				}
			} else if e.Evidence != nil {
				t.Error("the event keeps all of it")
			}
			if n := len(w.events(audit.Query{Type: "credential."})); n != 1 {
				t.Errorf("%d credential events, want the refusal alone", n)
			}
			w.verify()
		})
	}
}

// The refusal isn't final until it is on record.
func TestRefusalMustBeRecorded(t *testing.T) {
	w := newWorld(t)
	ledger := &faulty{Ledger: w.log, before: "Append"}
	w.refused(w.issuer(nil, ledger), access.Evidence{Request: w.sign("alice", w.request(nil))}, "")
	if ledger.before != "" {
		t.Error("it was not tried")
	}
}

func TestIssueWithoutRulebookOrKind(t *testing.T) {
	w := newWorld(t)
	ev, _ := w.approved(nil)
	i := w.issuer(nil, nil)
	i.Kinds = nil
	w.refused(i, ev, access.CodeUnavailable)
	for _, book := range []func() *evidence.Rulebook{nil, func() *evidence.Rulebook { return nil }} {
		i := w.issuer(nil, nil)
		i.Rulebook = book
		w.refused(i, ev, access.CodeUnavailable)
	}
	if e := w.events(audit.Query{Type: "credential."}); len(e) != 0 {
		t.Errorf("events: %+v", e)
	}
}

// However a request ended, before or after it got a handle or a credential,
// nothing is issued on it.
func TestIssueAfterTheEnd(t *testing.T) {
	for _, tt := range []struct {
		name   string
		state  access.State
		issued bool
	}{
		{"denied", access.StateDenied, false},
		{"timed out", access.StateTimedOut, false},
		{"cancelled", access.StateCancelled, false},
		{"revoked before it was issued", access.StateRevoked, false},
		{"expired", access.StateExpired, true},
		{"revoked", access.StateRevoked, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			ev, r := w.approved(nil)
			i := w.issuer(nil, nil)
			if tt.issued {
				handle := w.issue(i, ev).Handle
				if tt.state == access.StateExpired {
					w.pass(handle.Over().Sub(w.now()))
				}
			}
			used := w.uses.n.Load()
			for range 2 {
				if err := i.Revoke(context.Background(), audit.End{Request: r.ID, State: tt.state, Why: "test"}); err != nil {
					t.Fatal(err)
				}
			}
			w.refused(i, ev, access.CodeEnded)
			if w.uses.n.Load() != used {
				t.Error("the key was used after the end")
			}
			if e := w.events(audit.Query{Request: r.ID, Type: audit.CredentialRefused}); len(e) != 1 || e[0].Code != access.CodeEnded {
				t.Errorf("refusals: %+v", e)
			}
		})
	}
}

// Whoever reaches the issuer's queue can't have a grant be over before it is: it
// could be revoked no more, and would count for no limit.
func TestNotExpiredBeforeItsEnd(t *testing.T) {
	w := newWorld(t)
	ev, r := w.approved(nil)
	i := w.issuer(nil, nil)
	handle := w.issue(i, ev).Handle
	expired := audit.End{Request: r.ID, State: access.StateExpired}
	for _, left := range []time.Duration{handle.Over().Sub(w.now()), time.Second} {
		w.pass(handle.Over().Sub(w.now()) - left)
		if err := i.Revoke(context.Background(), expired); access.CodeOf(err) != access.CodeUnavailable {
			t.Errorf("expired %s before its end: %v", left, err)
		}
		if entry, _, err := w.log.Entry(context.Background(), r.ID); err != nil || entry.Ended != "" {
			t.Fatalf("ended as %q, %v", entry.Ended, err)
		}
	}
	if err := i.Revoke(context.Background(), audit.End{Request: r.ID, State: access.StateRevoked}); err != nil {
		t.Errorf("revoked after that: %v", err)
	}
	w.verify()
}

// Two requests under one id: the first that gets a handle is the only one.
func TestIssueOfAnotherPayloadUnderTheSameID(t *testing.T) {
	w := newWorld(t)
	i := w.issuer(nil, nil)
	first, r := w.approved(nil)
	cred := w.issue(i, first)
	used := w.uses.n.Load()

	r.Duration = 1800
	st := w.sign("alice", r)
	second := access.Evidence{Request: st, Decisions: []access.Statement{w.decision("bob", st, nil)}}
	w.refused(i, second, access.CodeMismatch)
	if w.uses.n.Load() != used {
		t.Error("the key was used")
	}
	if e := w.events(audit.Query{Request: r.ID, Type: audit.CredentialRefused}); len(e) != 1 || e[0].RequestHash != st.Hash() {
		t.Errorf("refusals: %+v", e)
	}
	if diff := cmp.Diff(cred, w.issue(i, first)); diff != "" {
		t.Errorf("the first one's credential has changed:\n%s", diff)
	}
	w.verify()
}

// A handle chosen on other evidence, or by other rules, may be too long now.
func TestIssueOfAHandleThatIsTooLongNow(t *testing.T) {
	w := newWorld(t)
	ev, _ := w.approved(nil)
	kind := &broken{Kind: w.ssh(), fail: "before"}
	w.refused(w.issuer(kind, nil), ev, "") // reserves an hour

	narrowed := ev
	narrowed.Decisions = append([]access.Statement{
		w.decision("carol", ev.Request, func(d *access.Decision) { d.Duration = 1800 }),
	}, ev.Decisions...)
	w.refused(w.issuer(nil, nil), narrowed, access.CodeDenied)
	if n := w.uses.n.Load(); n != 0 {
		t.Errorf("the key was used %d times", n)
	}
	w.issue(w.issuer(nil, nil), ev) // which is still good
	w.refused(w.issuer(nil, nil), narrowed, access.CodeDenied)
	w.verify()
}

// A handle waits for its issuer no longer than its own time.
func TestIssueOfAHandleWhoseTimeIsOver(t *testing.T) {
	for _, tt := range []struct {
		late time.Duration
		code access.Code
	}{{time.Hour - time.Second, ""}, {time.Hour, access.CodeEnded}} {
		w := newWorld(t)
		ev, r := w.approved(nil)
		kind := &tokens{}
		w.refused(w.issuer(&broken{Kind: kind, fail: "before"}, nil), ev, "")
		w.pass(tt.late)
		if tt.code == "" {
			w.issue(w.issuer(kind, nil), ev)
		} else {
			w.refused(w.issuer(kind, nil), ev, tt.code)
		}
		if kind.alive(r.ID) != (tt.code == "") {
			t.Errorf("%s late: alive %t", tt.late, kind.alive(r.ID))
		}
	}
}

var errCrash = errors.New("crash")

// faulty is a ledger that fails once: before doing what is asked, or after it
// was done, when the answer is lost.
type faulty struct {
	grant.Ledger
	before, after string
}

func (f *faulty) at(point *string, method string) error {
	if *point != method {
		return nil
	}
	*point = ""
	return errCrash
}

func (f *faulty) Entry(ctx context.Context, request string) (audit.Entry, bool, error) {
	if err := f.at(&f.before, "Entry"); err != nil {
		return audit.Entry{}, false, err
	}
	return f.Ledger.Entry(ctx, request)
}

func (f *faulty) Reserve(ctx context.Context, hash string, h access.Handle, e audit.Event) (audit.Entry, error) {
	if err := f.at(&f.before, "Reserve"); err != nil {
		return audit.Entry{}, err
	}
	entry, err := f.Ledger.Reserve(ctx, hash, h, e)
	return entry, errors.Join(err, f.at(&f.after, "Reserve"))
}

func (f *faulty) Issued(ctx context.Context, c access.Credential, e audit.Event) error {
	if err := f.at(&f.before, "Issued"); err != nil {
		return err
	}
	return errors.Join(f.Ledger.Issued(ctx, c, e), f.at(&f.after, "Issued"))
}

func (f *faulty) Append(ctx context.Context, e audit.Event) (int64, error) {
	if err := f.at(&f.before, "Append"); err != nil {
		return 0, err
	}
	return f.Ledger.Append(ctx, e)
}

// broken is a kind whose Issue fails, before or after it has made the
// credential. It keeps what was made.
type broken struct {
	grant.Kind
	fail string
	made []access.Credential
}

func (k *broken) Issue(ctx context.Context, o grant.Order, h access.Handle) (access.Credential, error) {
	if k.fail == "before" {
		return access.Credential{}, errCrash
	}
	c, err := k.Kind.Issue(ctx, o, h)
	k.made = append(k.made, c)
	if k.fail == "after" {
		return access.Credential{}, errCrash
	}
	return c, err
}

// A crash anywhere, then another issuer ten minutes later: the same identity
// and validity once there was a handle, and one credential in the ledger.
func TestCrash(t *testing.T) {
	for _, tt := range []struct {
		name          string
		kind          string
		before, after string
		reserved      bool // the crash left a handle
		issued        bool // the crash left a recorded credential
	}{
		{name: "before anything", before: "Entry"},
		{name: "after Prepare", before: "Reserve"},
		{name: "after Reserve", after: "Reserve", reserved: true},
		{name: "before the kind issued", kind: "before", reserved: true},
		{name: "after the kind issued", kind: "after", reserved: true},
		{name: "before it was recorded", before: "Issued", reserved: true},
		{name: "after it was recorded", after: "Issued", reserved: true, issued: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			ev, r := w.approved(nil)
			kind := &broken{Kind: w.ssh(), fail: tt.kind}
			_, err := w.issuer(kind, &faulty{Ledger: w.log, before: tt.before, after: tt.after}).Issue(context.Background(), ev)
			if !errors.Is(err, errCrash) || access.CodeOf(err) != "" {
				t.Fatalf("error %v, want the crash", err)
			}
			entry, found, err := w.log.Entry(context.Background(), r.ID)
			if err != nil || found != tt.reserved || (entry.Credential != nil) != tt.issued {
				t.Fatalf("the crash left %+v, %t, error %v", entry, found, err)
			}

			w.pass(10 * time.Minute)
			kind.fail = ""
			next := w.issuer(kind, w.openLog())
			cred := w.issue(next, ev)
			begin := noon
			if !tt.reserved {
				begin = w.now()
			} else if diff := cmp.Diff(*entry.Handle, cred.Handle); diff != "" {
				t.Errorf("handle (-before the crash +after):\n%s", diff)
			}
			if !cred.Handle.NotBefore.Equal(begin) || !cred.Handle.NotAfter.Equal(begin.Add(time.Hour)) {
				t.Errorf("grant from %s to %s, want an hour from %s", cred.Handle.NotBefore, cred.Handle.NotAfter, begin)
			}
			if tt.issued && cred.Certificate != entry.Credential.Certificate {
				t.Error("another certificate than the one on record")
			}
			// Whatever was made is ended by one revocation.
			for _, c := range kind.made {
				if diff := cmp.Diff(cred.Handle, c.Handle); diff != "" {
					t.Errorf("something else was made (-issued +made):\n%s", diff)
				}
				if cert := certificate(t, c); cert.Serial != cred.Handle.Serial {
					t.Errorf("a certificate with serial %d was made, want %d", cert.Serial, cred.Handle.Serial)
				}
			}
			if diff := cmp.Diff(cred, w.issue(next, ev)); diff != "" {
				t.Errorf("a repeat differs (-first +repeat):\n%s", diff)
			}
			if n := len(w.events(audit.Query{Request: r.ID, Type: audit.CredentialIssued})); n != 1 {
				t.Errorf("%d credentials on record", n)
			}
			w.verify()
		})
	}
}

// Issuers in several processes get the same evidence at the same time: one
// credential comes out of all of them.
func TestIssuersRace(t *testing.T) {
	w := newWorld(t)
	var logs []*audit.Log
	for range 3 {
		logs = append(logs, w.openLog())
	}
	for range rounds(10) {
		ev, r := w.approved(nil)
		creds := make([]access.Credential, 6)
		var all sync.WaitGroup
		for n := range creds {
			i := w.issuer(nil, logs[n%len(logs)])
			all.Go(func() {
				var err error
				if creds[n], err = i.Issue(context.Background(), ev); err != nil {
					t.Errorf("Issue: %v", err)
				}
			})
		}
		all.Wait()
		for _, c := range creds[1:] {
			if diff := cmp.Diff(creds[0], c); diff != "" {
				t.Fatalf("two credentials:\n%s", diff)
			}
		}
		if n := len(w.events(audit.Query{Request: r.ID, Type: audit.CredentialIssued})); n != 1 {
			t.Fatalf("%d credentials on record", n)
		}
	}
	w.verify()
}

// Issue and Revoke at the same time, again and again: where the end is on
// record first, no credential leaves, and none stays alive.
func TestIssueRacesRevoke(t *testing.T) {
	w := newWorld(t)
	kind := &tokens{}
	logs := []*audit.Log{w.openLog(), w.openLog()}
	var granted, ended int
	for range rounds(100) {
		ev, r := w.approved(nil)
		end := audit.End{Request: r.ID, State: access.StateRevoked, By: "bob"}
		var all sync.WaitGroup
		start := make(chan struct{})
		errs := make([]error, len(logs))
		for n, log := range logs {
			i := w.issuer(kind, log)
			all.Go(func() { <-start; _, errs[n] = i.Issue(context.Background(), ev) })
		}
		all.Go(func() {
			<-start
			if err := w.issuer(kind, nil).Revoke(context.Background(), end); err != nil {
				t.Errorf("Revoke: %v", err)
			}
		})
		close(start)
		all.Wait()

		if kind.alive(r.ID) {
			t.Fatal("a credential is alive after Issue and Revoke have returned")
		}
		var order []string
		for _, e := range w.events(audit.Query{Request: r.ID}) {
			if e.Type == audit.CredentialIssued || e.Type == audit.GrantRevoked {
				order = append(order, e.Type)
			}
		}
		left := false
		for _, err := range errs {
			switch access.CodeOf(err) {
			case "":
				if err != nil {
					t.Fatalf("Issue: %v", err)
				}
				left = true
				granted++
			case access.CodeEnded:
				ended++
			default:
				t.Fatalf("Issue: %v", err)
			}
		}
		want := []string{audit.GrantRevoked}
		if left {
			want = []string{audit.CredentialIssued, audit.GrantRevoked}
		}
		if diff := cmp.Diff(want, order); diff != "" {
			t.Fatalf("a credential left: %t; the record says (-want +got):\n%s", left, diff)
		}
	}
	t.Logf("granted %d, too late %d", granted, ended)
}

// The same, one step at a time: the end comes while the kind is at work.
func TestRevokeWhileTheKindIssues(t *testing.T) {
	w := newWorld(t)
	ev, r := w.approved(nil)
	kind := &tokens{}
	i := w.issuer(kind, nil)
	kind.issuing = func() {
		if err := i.Revoke(context.Background(), audit.End{Request: r.ID, State: access.StateCancelled}); err != nil {
			t.Error(err)
		}
		kind.revoking = func(context.Context) error { return errCrash } // from now on
	}
	// The credential was made after all, and can't be taken back just now:
	// that isn't a refusal yet.
	w.refused(i, ev, access.CodeUnavailable)
	if !kind.alive(r.ID) {
		t.Fatal("nothing was made; the test tests nothing")
	}
	kind.issuing, kind.revoking = nil, nil
	w.refused(i, ev, access.CodeEnded)
	if kind.alive(r.ID) {
		t.Error("a credential is alive that nobody will revoke")
	}
	if e := w.events(audit.Query{Request: r.ID, Type: audit.CredentialIssued}); len(e) != 0 {
		t.Errorf("events: %+v", e)
	}
}

// A caller that has gone away doesn't leave a credential behind.
func TestTooLateAndNobodyWaits(t *testing.T) {
	w := newWorld(t)
	ev, r := w.approved(nil)
	kind := &tokens{}
	i := w.issuer(kind, nil)
	ctx, cancel := context.WithCancel(context.Background())
	kind.issuing = func() {
		if err := i.Revoke(context.Background(), audit.End{Request: r.ID, State: access.StateCancelled}); err != nil {
			t.Error(err)
		}
	}
	kind.revoking = func(ctx context.Context) error { return ctx.Err() }
	i.Ledger = cancelling{w.log, cancel}
	_, _ = i.Issue(ctx, ev)                    // nobody hears what it says
	if ctx.Err() == nil || kind.revoked != 2 { // by Revoke, and by Issue
		t.Fatalf("revoked %d times, caller gone: %v; the test tests nothing", kind.revoked, ctx.Err())
	}
	if kind.alive(r.ID) {
		t.Error("a credential is alive that nobody will revoke")
	}
}

// An issuer dies with the credential made and not recorded, the request ends,
// and the rules change: what was made is revoked all the same.
func TestTooLateAndNotAllowedAnyMore(t *testing.T) {
	w := newWorld(t)
	ev, r := w.approved(nil)
	kind := &tokens{}
	w.refused(w.issuer(kind, &faulty{Ledger: w.log, before: "Issued"}), ev, "")
	if _, err := w.log.End(context.Background(), audit.End{Request: r.ID, State: access.StateRevoked}); err != nil {
		t.Fatal(err)
	}
	if !kind.alive(r.ID) {
		t.Fatal("nothing was made; the test tests nothing")
	}
	w.policy(policyYAML + "  - {name: freeze, when: 'true', deny: nothing today}\n")
	w.refused(w.issuer(kind, nil), ev, access.CodeEnded)
	if kind.alive(r.ID) {
		t.Error("a credential is alive that nobody will revoke")
	}
}

// cancelling cancels its caller once the credential is refused.
type cancelling struct {
	grant.Ledger
	cancel func()
}

func (c cancelling) Issued(ctx context.Context, cred access.Credential, e audit.Event) error {
	defer c.cancel()
	return c.Ledger.Issued(ctx, cred, e)
}

func TestRevoke(t *testing.T) {
	w := newWorld(t)
	ev, r := w.approved(nil)
	kind := &tokens{}
	i := w.issuer(kind, nil)
	w.issue(i, ev)
	end := audit.End{Request: r.ID, State: access.StateReleased, By: "alice"}

	kind.revoking = func(context.Context) error { return errCrash }
	if err := i.Revoke(context.Background(), end); !errors.Is(err, errCrash) {
		t.Errorf("error %v, want the kind's", err)
	}
	if !kind.alive(r.ID) {
		t.Error("dead, and nobody has revoked it")
	}
	kind.revoking = nil
	for range 2 {
		if err := i.Revoke(context.Background(), end); err != nil {
			t.Error(err)
		}
	}
	if kind.alive(r.ID) {
		t.Error("alive after Revoke")
	}
	if e := w.events(audit.Query{Request: r.ID, Type: audit.GrantReleased}); len(e) != 1 || e[0].Actor != "alice" {
		t.Errorf("events: %+v", e)
	}

	i.Kinds = nil
	if err := i.Revoke(context.Background(), end); access.CodeOf(err) != access.CodeUnavailable {
		t.Errorf("without its kind: error %v", err)
	}
	if err := i.Revoke(context.Background(), audit.End{Request: r.ID, State: access.StateActive}); err == nil {
		t.Error("ended as active")
	}
}

// rounds is n, or fewer with -short.
func rounds(n int) int {
	if testing.Short() {
		return max(1, n/10)
	}
	return n
}

// Whoever moves the issuer's clock moves the beginning of what is issued then,
// and neither its length nor, once it is written down, its end. Evidence that is
// too old or not yet true by the clock is refused until the clock says otherwise.
func TestClockMoves(t *testing.T) {
	w := newWorld(t)
	ev, r := w.approved(nil)
	for _, step := range []time.Duration{-48 * time.Hour, 0, 25 * time.Hour} {
		w.clock.Store(int64(step / time.Second))
		if step == 0 {
			continue // where it is issued below
		}
		if _, err := w.issuer(nil, nil).Issue(context.Background(), ev); access.CodeOf(err) != access.CodeStale {
			t.Errorf("with the clock at %s: %v", step, err)
		}
	}
	w.clock.Store(0)
	first := w.issue(w.issuer(nil, nil), ev)
	end := noon.Add(r.Duration.Duration())
	if !first.Handle.NotAfter.Equal(end) {
		t.Fatalf("ends %s, want %s", first.Handle.NotAfter, end)
	}
	for _, step := range []time.Duration{-4 * time.Minute, -48 * time.Hour, r.Duration.Duration() / 2, r.Duration.Duration() + time.Hour, 48 * time.Hour, 0} {
		w.clock.Store(int64(step / time.Second))
		cred, err := w.issuer(nil, nil).Issue(context.Background(), ev)
		if err != nil {
			continue // a refusal gives nobody more time
		}
		if cert := certificate(t, cred); cert.ValidBefore != uint64(end.Unix()) || cert.Serial != first.Handle.Serial {
			t.Errorf("with the clock at %s: serial %d until %d", step, cert.Serial, cert.ValidBefore)
		}
	}
	w.clock.Store(0)
	w.verify()
}
