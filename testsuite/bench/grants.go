package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"time"

	"go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/client"

	"hallpass/access"
	"hallpass/audit"
	"hallpass/statement"
	"hallpass/testsuite/measure"
)

// grants has more and more grants run at the same time and looks at the memory
// of each part. A worker with bare workflows that wait on a timer shows what Temporal
// needs for that in a worker.
func (b *bench) grants() error { return b.apart(making, bareTogether, b.fill) }

// fill has grants run until there are enough, looks, and goes on. All of the grants
// end within the same two seconds.
func (b *bench) fill(w *world, parts []part) error {
	steps := []int{b.times(1000), b.times(3000), b.times(10_000)}
	// Time to start them all at some twenty a second, to look, and for the bursts.
	burst := b.times(500)
	ends := time.Now().Add(time.Duration(steps[2]+2*burst)*time.Second/12 + 4*time.Minute)
	memory := make([][]float64, len(parts))
	running := 0
	for _, want := range steps {
		_, took, err := inFlight(b.ctx, 16, want-running, func(ctx context.Context) error {
			a, err := w.ask(ctx, "ssh/web-2", time.Until(ends))
			if err == nil {
				_, err = a.history.until(issued)
			}
			if err != nil {
				return err
			}
			// The timer beside it that needs no hallpass.
			id := "bare-" + statement.NewID()
			history, err := start(ctx, w.Client, id, bareInput{Hold: time.Until(ends) + 24*time.Hour}) // none ends while these are measured
			if err == nil {
				_, err = history.until(issued)
			}
			return err
		})
		if err != nil {
			return err
		}
		running = want
		fmt.Printf("  %d grants and as many bare workflows run, the last of them started in %s\n", want, took.Round(time.Second))
		for i, p := range parts {
			mib, err := resident(p.pid)
			if err != nil {
				return err
			}
			memory[i] = append(memory[i], mib)
		}
	}
	if err := b.bursts(w, burst, running); err != nil {
		return err
	}
	if time.Now().After(ends) {
		return errors.New("the first grants ended before the last began")
	}
	for i, p := range parts {
		for k, n := range steps {
			r := row{Name: fmt.Sprintf("%s, grants: %d", p.name, n), Line: p.name, X: float64(n), Also: map[string]float64{"MiB": memory[i][k]}}
			if k > 0 {
				r.Also["KiB for each more"] = (memory[i][k] - memory[i][k-1]) * 1024 / float64(n-steps[k-1])
			}
			b.add(r)
		}
	}
	return b.lag(w, ends, running)
}

// bursts has n more end within the same second or two, while the others run:
// first bare workflows, whose activity after the timer does nothing, and then
// grants. Both are measured by Temporal's clock, from when the timer is due
// until that activity is done.
func (b *bench) bursts(w *world, n, running int) error {
	timers := fmt.Sprintf("%d bare timers among %d, until the activity behind is done", n, running)
	for _, who := range []struct {
		row   row
		begin func(ctx context.Context, ends time.Time) (id string, history *watch, err error)
	}{
		{row{Name: timers}, func(ctx context.Context, ends time.Time) (string, *watch, error) {
			id := "bare-" + statement.NewID()
			history, err := start(ctx, w.Client, id, bareInput{Hold: time.Until(ends), Revoke: true})
			return id, history, err
		}},
		{row{Name: fmt.Sprintf("%d grants among %d, until they are taken back", n, running), Base: timers}, func(ctx context.Context, ends time.Time) (string, *watch, error) {
			a, err := w.ask(ctx, "ssh/web-2", time.Until(ends))
			return access.WorkflowID(a.request.ID), a.history, err
		}},
	} {
		ends := time.Now().Add(time.Duration(n)*time.Second/12 + 20*time.Second)
		var mu sync.Mutex
		var ids []string
		_, _, err := inFlight(b.ctx, 16, n, func(ctx context.Context) error {
			id, history, err := who.begin(ctx, ends)
			if err == nil {
				_, err = history.until(issued)
			}
			mu.Lock()
			defer mu.Unlock()
			ids = append(ids, id)
			return err
		})
		if err != nil {
			return err
		}
		var lags measure.Times
		for _, id := range ids {
			lag, err := late(b.ctx, w.Client, id)
			if err != nil {
				return fmt.Errorf("%s: %w", id, err)
			}
			lags = append(lags, lag)
		}
		r := who.row
		r.P50, r.P99, r.N, r.PerSecond = lags.At(0.5).Seconds(), lags.At(0.99).Seconds(), n, float64(n)/lags.At(1).Seconds()
		b.add(r)
	}
	return nil
}

// late waits for a workflow's last timer, and for the activity after it, and
// says how long after the timer was due that was done.
func late(ctx context.Context, c client.Client, id string) (time.Duration, error) {
	var due time.Time
	fired := false
	for events := c.GetWorkflowHistory(ctx, id, "", true, enums.HISTORY_EVENT_FILTER_TYPE_ALL_EVENT); events.HasNext(); {
		e, err := events.Next()
		if err != nil {
			return 0, err
		}
		switch e.EventType {
		case enums.EVENT_TYPE_TIMER_STARTED:
			due = e.EventTime.AsTime().Add(e.GetTimerStartedEventAttributes().StartToFireTimeout.AsDuration())
		case enums.EVENT_TYPE_TIMER_FIRED:
			fired = true
		case enums.EVENT_TYPE_ACTIVITY_TASK_COMPLETED:
			if fired {
				return e.EventTime.AsTime().Sub(due), nil
			}
		}
	}
	return 0, errors.New("it ended without a timer and an activity after it")
}

// lag waits until all grants are over and says how long after their end each
// was taken back.
func (b *bench) lag(w *world, ends time.Time, running int) error {
	public, err := audit.ReadPublicKey(filepath.Join(w.folder, "audit.pub"))
	if err != nil {
		return err
	}
	log, err := audit.OpenReader(b.ctx, filepath.Join(w.folder, "audit.db"), public)
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }()
	due := map[string]time.Time{} // by request
	for after := ""; len(due) < running; {
		open, err := log.OpenGrants(b.ctx, after, 1000)
		if err != nil {
			return err
		}
		if len(open) == 0 {
			return fmt.Errorf("%d grants are open, %d were made", len(due), running)
		}
		for _, h := range open {
			after, due[h.Request] = h.Request, h.NotAfter
		}
	}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	late := time.After(time.Until(ends) + time.Duration(running)*200*time.Millisecond + time.Minute)
	for {
		open, err := log.OpenGrants(b.ctx, "", 1)
		if err != nil {
			return err
		}
		if len(open) == 0 {
			break
		}
		select {
		case <-tick.C:
		case <-late:
			return fmt.Errorf("grants are open %s after their end", time.Since(ends).Round(time.Second))
		case <-b.ctx.Done():
			return b.ctx.Err()
		}
	}
	var lags measure.Times
	for record, err := range log.Events(b.ctx, audit.Query{Type: audit.GrantExpired}) {
		if err != nil {
			return err
		}
		if end, is := due[record.Event.Request]; is { // not one of a burst
			lags = append(lags, record.Event.Time.Sub(end))
		}
	}
	if len(lags) != running {
		return fmt.Errorf("%d grants have expired, %d were made", len(lags), running)
	}
	b.add(row{
		Name: fmt.Sprintf("%d that end at the same time, taken back after", running),
		P50:  lags.At(0.5).Seconds(), P99: lags.At(0.99).Seconds(), N: len(lags),
		PerSecond: float64(len(lags)) / lags.At(1).Seconds(),
	})
	return nil
}
