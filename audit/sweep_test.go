package audit

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"hallpass/access"
)

func TestOpenGrants(t *testing.T) {
	w := newWorld(t)
	ctx := context.Background()
	var ids []string
	for range 5 {
		r, st := w.ask("alice")
		w.prepare(r, st)
		ids = append(ids, r.ID)
	}
	w.end(End{Request: ids[1], State: access.StateRevoked})
	w.end(End{Request: "01900000-0000-7000-8000-00000000ffff", State: access.StateCancelled}) // never had a handle
	want := []string{ids[0], ids[2], ids[3], ids[4]}
	var got []string
	for after := ""; ; {
		page, err := w.log.OpenGrants(ctx, after, 3)
		if err != nil {
			t.Fatal(err)
		}
		for _, h := range page {
			got, after = append(got, h.Request), h.Request
			if h.Kind != "ssh" || h.Serial == 0 {
				t.Errorf("%+v", h)
			}
		}
		if len(page) < 3 {
			break
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("open are %v, want %v", got, want)
	}
	if server != nil {
		return // testPostgresPlans
	}
	plan := sqlitePlan(t, w.log, "SELECT handle FROM ledger WHERE ended = '' AND request > ? ORDER BY request LIMIT ?", "", 3)
	if !strings.Contains(fmt.Sprint(plan), "USING INDEX ledger_open") {
		t.Errorf("plan %q", plan)
	}
}

// An orphan is recorded once, while it is open, and its end comes after.
func TestOrphan(t *testing.T) {
	w := newWorld(t)
	ctx := context.Background()
	granted, _ := w.live()
	r, st := w.ask("alice")
	for id, want := range map[string]bool{granted.ID: false, r.ID: false, "unknown": false} {
		if open, err := w.log.Orphan(ctx, id, "terminated"); err != nil || open != want {
			t.Errorf("%s: %t, %v", id, open, err)
		}
	}
	w.prepare(r, st)
	for range 2 {
		if open, err := w.log.Orphan(ctx, r.ID, "its workflow was terminated"); err != nil || !open {
			t.Errorf("%t, %v", open, err)
		}
	}
	w.end(End{Request: r.ID, State: access.StateRevoked, Why: "swept"})
	if open, err := w.log.Orphan(ctx, r.ID, "terminated"); err != nil || open {
		t.Errorf("%t, %v", open, err)
	}
	w.record(Event{Type: SweepStuck, Request: r.ID, Step: SweepStuck, Why: "no issuer"})
	var types []string
	for rec, err := range w.log.Events(ctx, Query{Request: r.ID}) {
		if err != nil {
			t.Fatal(err)
		}
		types = append(types, rec.Event.Type)
		if e := rec.Event; e.Type == SweepOrphan && (e.Requester != "alice" || e.Resource != "ssh/web-1" || e.Why != "its workflow was terminated") {
			t.Errorf("%+v", e)
		}
	}
	if want := []string{RequestReceived, RequestRuled, CredentialPrepared, SweepOrphan, GrantRevoked, SweepStuck}; !slices.Equal(types, want) {
		t.Errorf("events %v, want %v", types, want)
	}
	if report := w.verify(VerifyOptions{}); !report.OK || len(report.Warnings) > 0 {
		t.Errorf("%+v", report)
	}
	proof, err := w.log.Prove(ctx, r.ID)
	if err != nil {
		t.Fatal(err)
	}
	if report, err := checkProof(t, proof, w.public); err != nil || !report.OK {
		t.Errorf("%+v, %v", report, err)
	}
}

// What a sweep can't have found is a fault of the log.
func TestVerifySweep(t *testing.T) {
	for _, tt := range []struct {
		name string
		e    func(granted access.Request) Event
		want string
	}{
		{"orphan of nothing", func(access.Request) Event { return Event{Type: SweepOrphan, Request: "nobody"} }, "no credential was prepared for the request"},
		{"orphan that had ended", func(r access.Request) Event { return Event{Type: SweepOrphan, Request: r.ID} }, "the request had ended before: released"},
		{"somebody's word", func(r access.Request) Event { return Event{Type: SweepStuck, Request: r.ID, Actor: "bob"} }, "it says more than what a sweep found"},
		{"an end", func(r access.Request) Event {
			return Event{Type: SweepStuck, Request: r.ID, State: access.StateRevoked}
		}, "it says more than what a sweep found"},
		{"stray that is nobody's", func(r access.Request) Event {
			return Event{Type: SweepStray, Request: r.ID, Step: SweepStray}
		}, "it doesn't name the credential that it is about"},
		{"stray of another", func(r access.Request) Event {
			h := access.Handle{Request: "other", Kind: "vault", Accessor: "a"}
			return Event{Type: SweepStray, Request: r.ID, Step: SweepStep(SweepStray, h), Handle: &h}
		}, "it doesn't name the credential that it is about"},
		{"revoked under another name", func(r access.Request) Event {
			h := access.Handle{Request: r.ID, Kind: "vault", Accessor: "a"}
			return Event{Type: SweepRevoked, Request: r.ID, Step: SweepStep(SweepStray, h), Handle: &h}
		}, "it doesn't name the credential that it is about"},
		{"stray of a request that has another", func(r access.Request) Event {
			h := access.Handle{Request: r.ID, Kind: "vault", Accessor: "a"}
			return Event{Type: SweepStray, Request: r.ID, Step: SweepStep(SweepStray, h), Handle: &h}
		}, ""},
		{"a lease of a request", func(r access.Request) Event { return Event{Type: SweepLease, Request: r.ID, Why: "old"} }, "it doesn't say which lease it is about, and that alone"},
		{"a lease of nothing", func(access.Request) Event { return Event{Type: SweepLease} }, "it doesn't say which lease it is about, and that alone"},
		{"a lease", func(access.Request) Event { return Event{Type: SweepLease, Why: "the lease db/a/1 is nobody's"} }, ""},
		{"stuck", func(r access.Request) Event { return Event{Type: SweepStuck, Request: r.ID, Why: "no issuer"} }, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			granted, _ := w.live()
			_, err := update(context.Background(), w.log, func(x *tx) (int64, error) { return x.append(tt.e(granted)) })
			if err != nil {
				t.Fatal(err)
			}
			report := w.verify(VerifyOptions{})
			if tt.want == "" {
				if !report.OK {
					t.Error(report.Problems)
				}
				return
			}
			wantProblem(t, report, atAll, tt.want)
		})
	}
}

// What was ended early is listed as long as its time isn't over, by the index, and
// nothing else: not what is open, has run out, or is of another kind.
func TestEndedHandles(t *testing.T) {
	w := newWorld(t)
	ctx, now := context.Background(), w.now
	reserve := func(kind string, lasts time.Duration) string {
		r, st := w.ask("alice")
		h := access.Handle{Request: r.ID, Kind: kind, Accessor: r.ID, Reads: []string{"db/a"}, NotBefore: now, NotAfter: now.Add(lasts)}
		if kind == "ssh" {
			h.Accessor, h.Reads, h.CA, h.Serial = "", nil, "SHA256:x", 7
		}
		if _, err := w.log.Reserve(ctx, st.Hash(), h, Event{Actor: "alice", Requester: "alice", Resource: r.Resource}); err != nil {
			t.Fatal(err)
		}
		return r.ID
	}
	var want []string
	for _, state := range []access.State{access.StateReleased, access.StateRevoked} {
		id := reserve("vault", time.Hour)
		w.end(End{Request: id, State: state})
		want = append(want, id)
	}
	reserve("vault", time.Hour)
	w.end(End{Request: reserve("vault", time.Hour), State: access.StateExpired})
	w.end(End{Request: reserve("vault", time.Minute), State: access.StateRevoked})
	w.end(End{Request: reserve("ssh", time.Hour), State: access.StateRevoked})
	ended, err := w.log.EndedHandles(ctx, "vault", now.Add(time.Minute))
	var got []string
	for _, h := range ended {
		got = append(got, h.Request)
		if h.Kind != "vault" || !slices.Equal(h.Reads, []string{"db/a"}) || !h.NotAfter.Equal(now.Add(time.Hour)) {
			t.Errorf("%+v", h)
		}
	}
	slices.Sort(got)
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("%v, %v, want %v", got, err, want)
	}
	if server != nil {
		return // testPostgresPlans
	}
	if plan := sqlitePlan(t, w.log, endedQuery, "2026", "vault"); !strings.Contains(fmt.Sprint(plan), "USING INDEX ledger_revoked") {
		t.Errorf("plan %q", plan)
	}
}

// A stray is recorded once, and isn't one while an open grant has it.
func TestStray(t *testing.T) {
	w := newWorld(t)
	ctx := context.Background()
	r, st := w.ask("alice")
	own := w.prepare(r, st)
	other := own
	other.Serial, other.Accessor = 0, "accessor"
	live, err := w.log.LiveHandles(ctx, "ssh")
	if err != nil || !live.Has(own) || live.Has(other) {
		t.Errorf("own %t, other %t, %v", live.Has(own), live.Has(other), err)
	}
	if none, err := w.log.LiveHandles(ctx, "vault"); err != nil || none.Has(own) {
		t.Error(err)
	}
	for _, want := range []struct {
		h    access.Handle
		says bool
	}{{own, false}, {other, true}, {other, true}, {access.Handle{Request: "unknown", Kind: "vault", Accessor: "b"}, true}} {
		if is, err := w.log.Stray(ctx, want.h, "nobody has it"); err != nil || is != want.says {
			t.Errorf("%+v: %t, %v", want.h, is, err)
		}
	}
	w.end(End{Request: r.ID, State: access.StateRevoked})
	if is, err := w.log.Stray(ctx, own, "it had ended"); err != nil || !is {
		t.Errorf("after the end: %t, %v", is, err)
	}
	w.record(Event{Type: SweepRevoked, Request: r.ID, Step: SweepStep(SweepRevoked, own), Handle: &own})
	n := 0
	for _, err := range w.log.Events(ctx, Query{Type: SweepStray}) {
		if err != nil {
			t.Fatal(err)
		}
		n++
	}
	if n != 3 {
		t.Errorf("%d strays on record, want 3", n)
	}
	if report := w.verify(VerifyOptions{}); !report.OK {
		t.Error(report.Problems)
	}
	proof, err := w.log.Prove(ctx, r.ID)
	if err != nil {
		t.Fatal(err)
	}
	if report, err := checkProof(t, proof, w.public); err != nil || !report.OK {
		t.Errorf("%+v, %v", report, err)
	}
}

// Of a stray that an open grant has, the log says that it can't be.
func TestVerifyStrayOfAnOpenGrant(t *testing.T) {
	w := newWorld(t)
	r, st := w.ask("alice")
	h := w.prepare(r, st)
	at, err := update(context.Background(), w.log, func(x *tx) (int64, error) {
		return x.append(Event{Type: SweepStray, Request: r.ID, Step: SweepStep(SweepStray, h), Handle: &h})
	})
	if err != nil {
		t.Fatal(err)
	}
	wantProblem(t, w.verify(VerifyOptions{}), at, "the credential is that of an open grant")
}
