package audit

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"hallpass/access"
)

// What there was before is counted for this requester and this resource alone,
// without the request that is asked about.
func TestPast(t *testing.T) {
	w := newWorld(t)
	granted, denied := w.live()
	again, _ := w.ask("alice")
	hours := make([]int, 24)
	hours[granted.Time.Hour()] = 1
	from := w.grants()[0]
	for _, c := range []struct {
		name, requester, resource, request string
		want                               access.Past
	}{
		{"had it", "alice", again.Resource, again.ID, access.Past{Grants: 1, Longest: 1800, Asked: 1, Hours: hours, Last: []access.PastGrant{{
			Request: granted.ID, Login: "deploy", From: from.From, Until: from.Until, Ended: access.StateReleased, ApprovedBy: []string{"bob"},
		}}}},
		{"another resource", "alice", "ssh/web-2", again.ID, access.Past{Asked: 1, Hours: hours}},
		{"denied before", "dave", again.Resource, again.ID, access.Past{Asked: 1, Hours: hours}},
		{"only this one", "dave", again.Resource, denied.ID, access.Past{}},
		{"nobody", "zoe", again.Resource, again.ID, access.Past{}},
	} {
		got, err := w.log.Past(context.Background(), c.requester, c.resource, c.request)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, diff)
		}
	}
}

// An event that isn't what its columns say is an error, and no grant.
func TestPastOfAnotherEvent(t *testing.T) {
	w := newWorld(t)
	w.live()
	ask, _ := w.ask("alice")
	w.edit(fmt.Sprintf("UPDATE events SET leaf = (SELECT leaf FROM events WHERE type = '%s') WHERE type = '%s'", RequestReceived, CredentialIssued))
	w.open()
	if past, err := w.log.Past(t.Context(), "alice", ask.Resource, ask.ID); access.CodeOf(err) != access.CodeUnverified {
		t.Errorf("past: %+v, %v", past, err)
	}
	if grants, err := w.log.Grants(t.Context(), Query{}); access.CodeOf(err) != access.CodeUnverified {
		t.Errorf("grants: %+v, %v", grants, err)
	}
}

// Nobody waits for what somebody else reads longer than he wants to.
func TestPastWaitsForNobodyElse(t *testing.T) {
	w := newWorld(t)
	db := w.log.Reader.db
	db.SetMaxOpenConns(1)
	all, err := db.Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	past := func(ctx context.Context, who string) <-chan error {
		done := make(chan error, 1)
		go func() {
			_, err := w.log.Past(ctx, who, "ssh/web-1", "")
			done <- err
		}()
		return done
	}
	patient := past(t.Context(), "alice")
	for end := time.Now().Add(10 * time.Second); db.Stats().WaitCount == 0; runtime.Gosched() {
		if time.Now().After(end) {
			t.Fatal("alice doesn't wait for the database")
		}
	}
	hurried, leave := context.WithCancel(t.Context())
	leave()
	select {
	case err := <-past(hurried, "dave"):
		if !errors.Is(err, context.Canceled) {
			t.Errorf("dave hears %v", err)
		}
	case <-time.After(10 * time.Second):
		t.Error("dave waits for what alice reads")
	}
	if err := errors.Join(all.Close(), <-patient); err != nil {
		t.Error(err)
	}
}

// Of what there is more than a hundred of, the last hundred count, and the grants
// that are named are the last ones. What somebody has done to the ledger or to an
// older event keeps nobody from being asked.
func TestPastIsBounded(t *testing.T) {
	w := newWorld(t)
	ctx := context.Background()
	var granted []access.Request
	for i := range maxPast + 5 {
		w.now = w.now.Add(20 * time.Minute)
		r, st := w.ask("alice")
		if i >= 2 && i < 5 {
			continue // these get nothing
		}
		yes := w.decision("bob", access.Approve, r, st)
		w.accept("bob", r, yes)
		w.grant(r, access.Evidence{Request: st, Decisions: []access.Statement{yes}})
		granted = append(granted, r)
	}
	latest := granted[len(granted)-1]
	w.end(End{Request: latest.ID, State: access.StateExpired})
	ask, _ := w.ask("alice")
	hours := make([]int, 24)
	for _, rec := range w.events(Query{Requester: "alice", Type: RequestReceived, Limit: maxPast + 1, Last: true})[:maxPast] {
		hours[rec.Event.Time.Hour()]++
	}
	look := func() access.Past {
		t.Helper()
		past, err := w.log.Past(ctx, "alice", ask.Resource, ask.ID)
		if err != nil {
			t.Fatal(err)
		}
		return past
	}
	past := look()
	if past.Asked != maxPast || past.Grants != maxPast || past.Longest != 1800 {
		t.Errorf("asked %d, granted %d, the longest for %s", past.Asked, past.Grants, past.Longest)
	}
	if diff := cmp.Diff(hours, past.Hours); diff != "" {
		t.Errorf("hours (-want +got):\n%s", diff)
	}
	if len(past.Last) != maxLast || past.Last[0].Request != latest.ID || past.Last[0].Ended != access.StateExpired ||
		past.Last[maxLast-1].Request != granted[len(granted)-maxLast].ID || past.Last[1].Ended != "" {
		t.Errorf("last: %+v", past.Last)
	}
	w.edit(
		fmt.Sprintf("UPDATE ledger SET handle = '' WHERE request = '%s'", granted[50].ID),
		fmt.Sprintf("DELETE FROM ledger WHERE request = '%s'", granted[51].ID),
		fmt.Sprintf("UPDATE events SET leaf = x'7b' WHERE request = '%s' AND type = '%s'", granted[52].ID, CredentialIssued),
	)
	w.open()
	if diff := cmp.Diff(past, look()); diff != "" {
		t.Errorf("after the ledger was changed (-want +got):\n%s", diff)
	}
}

// Who has looked before is told the same as who looks for the first time, whatever has
// been asked, granted and ended in between, and remembers of no more people than it may.
func TestPastReadsOn(t *testing.T) {
	w := newWorld(t)
	ctx := context.Background()
	const every = 7
	for i := range maxPast + 3*every {
		w.now = w.now.Add(time.Minute)
		r, st := w.ask("alice")
		if i%3 > 0 {
			yes := w.decision("bob", access.Approve, r, st)
			w.accept("bob", r, yes)
			w.grant(r, access.Evidence{Request: st, Decisions: []access.Statement{yes}})
		}
		if i%every > 0 {
			continue
		}
		for _, turn := range []string{"running", "ended"} {
			first, err := OpenReader(ctx, w.path, w.public)
			if err != nil {
				t.Fatal(err)
			}
			want, err := first.Past(ctx, "alice", r.Resource, r.ID)
			if err := errors.Join(err, first.Close()); err != nil {
				t.Fatal(err)
			}
			got, err := w.log.Past(ctx, "alice", r.Resource, r.ID)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Fatalf("after %d requests, the last of them %s (-want +got):\n%s", i+1, turn, diff)
			}
			w.end(End{Request: r.ID, State: access.StateRevoked})
		}
	}
	for i := range maxPasts + 1 {
		if _, err := w.log.Past(ctx, fmt.Sprint("user", i), "ssh/web-1", ""); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(w.log.past.known); n == 0 || n > maxPasts {
		t.Errorf("remembers %d", n)
	}
}

func (w *world) events(q Query) (all []Record) {
	w.t.Helper()
	for rec, err := range w.log.Events(context.Background(), q) {
		if err != nil {
			w.t.Fatal(err)
		}
		all = append(all, rec)
	}
	return all
}

func (w *world) grants() []Grant {
	w.t.Helper()
	all, err := w.log.Grants(context.Background(), Query{})
	if err != nil {
		w.t.Fatal(err)
	}
	return all
}
