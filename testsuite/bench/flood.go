package main

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"hallpass/access"
	"hallpass/testsuite/measure"
)

const (
	floodRate = 1000 // bad signals a second that are offered
	floodEach = 2000 // to one request: Temporal takes no more
	floodOver = 16   // requests at a time: Temporal takes the signals of one in turn
	flooders  = 128  // signals on their way at a time

	// So many revocations, of which the slowest hundredth is more than one; or as
	// many as there are within so much time.
	floodRevoked = 200
	floodTime    = 10 * time.Minute
)

// flood measures what the revocation of carol's grants takes while alice sends as
// many bad signals as she can, up to floodRate.
func (b *bench) flood() error {
	return b.world(func(w *world) error {
		note := func(name, base string, t measure.Times, also map[string]float64) {
			also["revocations"] = float64(len(t))
			b.add(row{Name: name, Base: base, P50: t.At(0.5).Seconds(), P99: t.At(0.99).Seconds(), N: len(t), Also: also})
		}
		const list, answer = "command to list at the host", "command to its answer"
		n, within := b.times(floodRevoked), time.Duration(b.scale*float64(floodTime))
		grants, err := w.grants(b.ctx, "carol", 2*n)
		if err != nil {
			return err
		}
		arrived, command, err := b.revocations(w, grants[:n], within)
		if err != nil {
			return err
		}
		note(list, "", arrived, map[string]float64{})
		note(answer, "", command, map[string]float64{})

		ctx, stop := context.WithCancel(b.ctx)
		defer stop()
		var sent atomic.Int64
		done := make(chan error, 1)
		began := time.Now()
		go func() { done <- w.flood(ctx, &sent) }()
		arrived, command, err = b.revocations(w, grants[n:], within)
		took := time.Since(began)
		stop()
		if err := errors.Join(err, <-done); err != nil {
			return err
		}
		note(list+", under the flood", list, arrived, map[string]float64{"bad signals/s": float64(sent.Load()) / took.Seconds()})
		note(answer+", under the flood", answer, command, map[string]float64{})
		return nil
	})
}

// flood sends bad signals to requests of alice's until ctx ends, and counts
// those that Temporal took.
func (w *world) flood(ctx context.Context, sent *atomic.Int64) error {
	var senders sync.WaitGroup
	defer senders.Wait()
	seats := make(chan struct{}, flooders)
	tick := time.NewTicker(time.Second / floodRate)
	defer tick.Stop()
	names := []string{access.MessageDecision, access.MessageRevoke, access.MessageRelease}
	for {
		var targets []asked
		var bad [][]access.Statement
		for range floodOver {
			a, err := w.ask(ctx, "ssh/web-1", time.Hour)
			if err != nil && ctx.Err() != nil {
				return nil
			}
			all, berr := w.bad(a)
			if err := errors.Join(err, berr); err != nil {
				return err
			}
			targets, bad = append(targets, a), append(bad, all)
		}
		for n := range floodEach * floodOver {
			select {
			case <-ctx.Done():
				return nil
			case <-tick.C: // one that nobody was there for is dropped
			}
			select {
			case <-ctx.Done():
				return nil
			case seats <- struct{}{}:
			}
			senders.Go(func() {
				defer func() { <-seats }()
				to, n := n%floodOver, n/floodOver
				err := w.Client.SignalWorkflow(ctx, access.WorkflowID(targets[to].request.ID), "", names[n%len(names)], bad[to][n%len(bad[to])])
				if err == nil {
					sent.Add(1)
				}
			})
		}
	}
}

// bad are statements that somebody may send and that change nothing.
func (w *world) bad(a asked) (all []access.Statement, err error) {
	own, err := w.people.Sign("alice", access.Decision{
		Header: w.people.Header("alice", access.TypeDecision), Request: a.request.ID, RequestHash: a.signed.Hash(), Verdict: access.Approve,
	})
	forged := own
	forged.Payload += " "
	return []access.Statement{own, forged, {}, {Payload: "{}"}, a.signed}, err
}
