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

const extendPolicy = `
rules:
  - name: production
    when: resource.labels.env == "prod"
    max_duration: 1h
    total: 2h
    approvals: [{count: 1, from: [sre]}]
    limits: {user: {running: 1}}
  - {name: lab, when: resource.labels.env == "test", max_duration: 1h, approvals: none}
`

// longer is evidence for a request to extend another by half an hour, changed by
// edit and approved by bob.
func (w *world) longer(of access.Request, edit func(*access.Request)) (access.Evidence, access.Request) {
	w.t.Helper()
	r := w.request(func(r *access.Request) {
		r.Resource, r.Login, r.Extends, r.Duration = of.Resource, of.Login, of.ID, 1800
		if edit != nil {
			edit(r)
		}
	})
	st := w.sign(r.Signer, r)
	return access.Evidence{Request: st, Decisions: []access.Statement{w.decision("bob", st, nil)}}, r
}

func TestExtension(t *testing.T) {
	w := newWorld(t)
	w.policy(extendPolicy)
	i := w.issuer(nil, nil)
	ev, first := w.approved(nil)
	was := w.issue(i, ev)

	w.pass(50 * time.Minute)
	ev, second := w.longer(first, nil)
	got := w.issue(i, ev)
	// It begins at once and goes on from where the first one ends.
	if h := got.Handle; !h.NotBefore.Equal(w.now()) || !h.NotAfter.Equal(was.Handle.NotAfter.Add(30*time.Minute)) || h.Extends != first.ID {
		t.Errorf("the extension is %+v, of %+v", h, was.Handle)
	}
	if again := w.issue(i, ev); again.Handle.Serial != got.Handle.Serial {
		t.Errorf("issued again it is %+v", again.Handle)
	}
	// The first one runs out, and the second is extended, by less than asked.
	w.pass(20 * time.Minute)
	if err := i.Revoke(context.Background(), audit.End{Request: first.ID, State: access.StateExpired}); err != nil {
		t.Fatal(err)
	}
	ev, third := w.longer(second, nil)
	ev.Decisions = []access.Statement{w.decision("bob", ev.Request, func(d *access.Decision) { d.Duration = 600 })}
	last := w.issue(i, ev)
	if !last.Handle.NotAfter.Equal(was.Handle.NotAfter.Add(40 * time.Minute)) {
		t.Errorf("the second extension ends at %s", last.Handle.NotAfter)
	}
	// It is 1h40m by now: half an hour more is too long, 20 minutes are not.
	ev, _ = w.longer(third, nil)
	err := w.refused(i, ev, access.CodeDenied)
	if !strings.Contains(err.Error(), "2h10m in all is longer than the 2h") {
		t.Errorf("past the total: %v", err)
	}
	ev, _ = w.longer(third, func(r *access.Request) { r.Duration = 1200 })
	w.issue(i, ev)
	w.verify()
}

func TestExtensionIsRefused(t *testing.T) {
	w := newWorld(t)
	w.policy(extendPolicy)
	i := w.issuer(nil, nil)
	ev, r := w.approved(nil)
	w.issue(i, ev)
	never := w.request(nil)
	for name, c := range map[string]struct {
		of   access.Request
		edit func(*access.Request)
		want access.Code
	}{
		"somebody else's":  {r, func(r *access.Request) { r.Signer = "dave" }, access.CodeForbidden},
		"another login":    {r, func(r *access.Request) { r.Login = "root" }, access.CodeMismatch},
		"another resource": {r, func(r *access.Request) { r.Resource = "ssh/lab-1" }, access.CodeMismatch},
		"another command":  {r, func(r *access.Request) { r.Command = "id" }, access.CodeMismatch},
		"never granted":    {never, nil, access.CodeNotFound},
		"past the maximum": {r, func(r *access.Request) { r.Duration = 3601 }, access.CodeDenied},
	} {
		ev, _ := w.longer(c.of, c.edit)
		if err := w.refused(i, ev, c.want); err == nil {
			t.Error(name)
		}
	}
	// Without total, max_duration is all that there is.
	lab := w.request(func(r *access.Request) { r.Resource, r.Duration = "ssh/lab-1", 2400 })
	w.issue(i, access.Evidence{Request: w.sign("alice", lab)})
	ev, _ = w.longer(lab, nil)
	ev.Decisions = nil
	w.refused(i, ev, access.CodeDenied)
	ev, _ = w.longer(lab, func(r *access.Request) { r.Duration = 1200 })
	ev.Decisions = nil
	w.issue(i, ev)

	// Over by itself, and given back.
	w.pass(time.Hour)
	ev, _ = w.longer(r, nil)
	w.refused(i, ev, access.CodeDenied)
	ev, r = w.approved(nil)
	w.issue(i, ev)
	ev, _ = w.longer(r, nil)
	if err := i.Revoke(context.Background(), audit.End{Request: r.ID, State: access.StateReleased}); err != nil {
		t.Fatal(err)
	}
	w.refused(i, ev, access.CodeDenied)
	w.verify()
}

// Of several extensions at the same moment one passes, and who takes one of a
// row away takes all of it.
func TestRowOfExtensions(t *testing.T) {
	for _, end := range []access.State{access.StateReleased, access.StateRevoked} {
		for _, first := range []bool{true, false} {
			w := newWorld(t)
			w.policy(strings.ReplaceAll(extendPolicy, "limits: {user: {running: 1}}", ""))
			kind := &tokens{}
			issuers := []*grant.Issuer{w.issuer(kind, nil), w.issuer(kind, w.openLog())}
			ev, r := w.approved(nil)
			w.issue(issuers[0], ev)
			var passed atomic.Int32
			var second atomic.Value
			var all sync.WaitGroup
			for n := range 8 {
				ev, longer := w.longer(r, nil)
				all.Go(func() {
					if _, err := issuers[n%2].Issue(context.Background(), ev); err == nil {
						passed.Add(1)
						second.Store(longer.ID)
					} else if access.CodeOf(err) != access.CodeDenied {
						t.Error(err)
					}
				})
			}
			all.Wait()
			if passed.Load() != 1 {
				t.Fatalf("%d extensions passed, want 1", passed.Load())
			}
			other := second.Load().(string)
			id, rest := r.ID, other
			if !first {
				id, rest = other, r.ID
			}
			if err := issuers[0].Revoke(context.Background(), audit.End{Request: id, State: end}); err != nil {
				t.Fatal(err)
			}
			for _, one := range []string{id, rest} {
				if entry, _, err := w.log.Entry(context.Background(), one); err != nil || entry.Ended != end || kind.alive(one) {
					t.Errorf("after %s of one, the other is %+v (%v), alive: %t", end, entry.Ended, err, kind.alive(one))
				}
			}
		}
	}
}

// That an extension is refused costs the running grant nothing.
func TestRefusedExtensionLeavesTheGrant(t *testing.T) {
	w := newWorld(t)
	w.policy(extendPolicy)
	i := w.issuer(nil, nil)
	ev, r := w.approved(nil)
	w.issue(i, ev)
	_, longer := w.longer(r, nil)
	for _, end := range []access.State{access.StateDenied, access.StateCancelled, access.StateTimedOut} {
		longer.ID = statement.NewID()
		if err := i.Revoke(context.Background(), audit.End{Request: longer.ID, State: end}); err != nil {
			t.Fatal(err)
		}
	}
	if entry, _, err := w.log.Entry(context.Background(), r.ID); err != nil || entry.Ended != "" {
		t.Errorf("the grant is %s, %v", entry.Ended, err)
	}
}

// A row of extensions is bounded: what would be one too many is denied, by
// whoever judges it first.
func TestLongRowOfExtensions(t *testing.T) {
	w := newWorld(t)
	w.policy("rules:\n  - {name: lab, when: resource.labels.env == \"test\", max_duration: 1h, total: 1d, approvals: none}\n")
	i := w.issuer(&tokens{}, nil)
	last := w.request(func(r *access.Request) { r.Resource, r.Duration = "ssh/lab-1", 60 })
	w.issue(i, access.Evidence{Request: w.sign("alice", last)})
	extend := func() access.Evidence {
		ev, r := w.longer(last, func(r *access.Request) { r.Duration = 60 })
		last, ev.Decisions = r, nil
		return ev
	}
	for range access.MaxExtensions {
		w.issue(i, extend())
	}
	of := last.ID
	err := w.refused(i, extend(), access.CodeDenied)
	if want := "the grant of request " + of + " is the last of a row of 100 extensions, which is all that there can be"; err.Error() != want {
		t.Errorf("one too many: %v, want %s", err, want)
	}
	x, found, err := w.log.Extended(context.Background(), of)
	if err != nil || !found || x.Refused(last.ID, w.now()) == "" {
		t.Errorf("for whoever decides it is %+v (%t, %v)", x, found, err)
	}
	// The ledger says so for itself.
	h := access.Handle{Request: last.ID, Kind: "ssh", NotBefore: w.now(), NotAfter: w.now().Add(3 * time.Hour), Extends: of}
	if _, err := w.log.Reserve(context.Background(), "a hash", h, audit.Event{}); access.CodeOf(err) != access.CodeDenied {
		t.Errorf("reserved: %v", err)
	}
}
