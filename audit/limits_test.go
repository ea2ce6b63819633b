package audit

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"hallpass/access"
)

// Grants are counted and recorded in one transaction, whoever else writes.
func TestReserveCounts(t *testing.T) {
	w := newWorld(t)
	other, err := Open(context.Background(), Options{Database: w.path, Key: w.private, Now: w.clock})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = other.Close() }()
	const many = 20
	ruling := access.Ruling{Limits: access.Limits{User: access.Limit{Running: 4}, Both: access.Limit{Cooldown: 60}}, Digests: *w.digests()}
	event := Event{Ruling: &ruling, Requester: "alice", Resource: "ssh/web-1"}
	var handles [many]access.Handle
	for i := range handles {
		r, _ := w.request("alice")
		handles[i] = w.handle(r)
	}
	var passed, refused atomic.Int32
	var all sync.WaitGroup
	for i, h := range handles {
		all.Go(func() {
			switch _, err := []*Log{w.log, other}[i%2].Reserve(context.Background(), "a hash", h, event); access.CodeOf(err) {
			case "":
				passed.Add(1)
			case access.CodeLimited:
				refused.Add(1)
			default:
				t.Error(err)
			}
		})
	}
	all.Wait()
	if passed.Load() != 4 || refused.Load() != many-4 {
		t.Errorf("%d passed and %d were refused, want 4 and %d", passed.Load(), refused.Load(), many-4)
	}
	// Whoever has a place keeps it.
	for _, h := range handles {
		_, found, err := w.log.Entry(context.Background(), h.Request)
		if err != nil {
			t.Fatal(err)
		}
		if _, err = w.log.Reserve(context.Background(), "a hash", h, event); found != (err == nil) {
			t.Errorf("reserving again where it was there (%t) gave %v", found, err)
		}
	}
}

// Requests that come at the same moment have one order, and the first ones are
// received.
func TestReceiveCounts(t *testing.T) {
	w := newWorld(t)
	const many = 12
	limits := access.Ruling{Limits: access.Limits{Resource: access.Limit{PerHour: 5}}}
	var passed atomic.Int32
	var all sync.WaitGroup
	events := make([]Event, many)
	for i := range events {
		r, st := w.request([]string{"alice", "dave"}[i%2])
		events[i] = Event{Request: r.ID, RequestHash: st.Hash(), Actor: r.Signer, Requester: r.Signer, Resource: r.Resource, Statement: &st, Digests: w.digests()}
	}
	for _, e := range events {
		all.Go(func() {
			first := w.log.Receive(context.Background(), Reception{Event: e, Ruling: limits})
			if again := w.log.Receive(context.Background(), Reception{Event: e, Ruling: limits}); (first == nil) != (again == nil) {
				t.Errorf("said again, it is %v after %v", again, first)
			}
			if first == nil {
				passed.Add(1)
			}
		})
	}
	all.Wait()
	if passed.Load() != 5 {
		t.Errorf("%d were received, want 5", passed.Load())
	}
	w.now = w.now.Add(time.Hour + time.Second)
	r, st := w.request("alice")
	late := Event{Request: r.ID, RequestHash: st.Hash(), Actor: "alice", Requester: "alice", Resource: r.Resource, Statement: &st, Digests: w.digests()}
	if err := w.log.Receive(context.Background(), Reception{Event: late, Ruling: limits}); err != nil {
		t.Errorf("an hour later: %v", err)
	}
	if report := w.verify(VerifyOptions{}); !report.OK {
		t.Errorf("log: %+v", report.Problems)
	}
}
