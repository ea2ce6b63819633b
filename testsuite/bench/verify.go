package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"hallpass/audit"
	"hallpass/testsuite/measure"
)

// verify has hallpass audit verify read a log of a million small events, and
// one of real requests, and proves requests out of them.
func (b *bench) verify() error {
	if err := b.verifySmall(b.times(1_000_000)); err != nil {
		return err
	}
	return b.verifyReal(b.times(1000))
}

func (b *bench) verifySmall(n int) error {
	dir, err := os.MkdirTemp(b.dir, "audit-")
	if err != nil {
		return err
	}
	private, public := filepath.Join(dir, "audit.key"), filepath.Join(dir, "audit.pub")
	if _, err := audit.CreateKey(private, public, "bench"); err != nil {
		return err
	}
	key, err := audit.ReadKey(private)
	if err != nil {
		return err
	}
	l, err := audit.Open(b.ctx, audit.Options{Database: filepath.Join(dir, "audit.db"), Key: key})
	if err != nil {
		return err
	}
	const writers = 256
	var next atomic.Int64
	var group sync.WaitGroup
	failed := make([]error, writers)
	for w := range writers {
		group.Go(func() {
			for i := int(next.Add(1)); i <= n && failed[w] == nil; i = int(next.Add(1)) {
				_, failed[w] = l.Append(b.ctx, audit.Event{
					Type: audit.RequestRuled, Request: fmt.Sprintf("r%d", i/7), Step: fmt.Sprint(i), Requester: "alice", Resource: "ssh/web-1",
				})
			}
		})
	}
	group.Wait()
	if err := errors.Join(append(failed, l.Close())...); err != nil {
		return err
	}
	config := filepath.Join(dir, "hallpass.yaml")
	if err := os.WriteFile(config, []byte("audit: {database: audit.db, public_key: audit.pub}\n"), 0o600); err != nil {
		return err
	}
	return b.judge("small events", config, fmt.Sprintf("r%d", n/14), 3)
}

// verifyReal takes the log of requests that were asked for, approved, issued,
// released and revoked.
func (b *bench) verifyReal(requests int) error {
	return b.world(func(w *world) error {
		if _, _, err := inFlight(b.ctx, 16, requests-1, op(w.life).run); err != nil {
			return err
		}
		a, err := w.askAndApprove(b.ctx)
		if err == nil {
			_, err = a.history.until(issued)
		}
		if err == nil {
			err = w.release(b.ctx, a)
		}
		if err == nil {
			_, err = a.history.until(over)
		}
		if err != nil {
			return err
		}
		return b.judge("whole requests", w.Config, a.request.ID, 3)
	})
}

// judge verifies a log in a process of its own, so many times, and proves one
// request out of it.
func (b *bench) judge(what, config, request string, times int) error {
	type verdict struct {
		Events     int64 `json:"events"`
		Statements int64 `json:"statements"`
	}
	run := func(args ...string) (out []byte, took time.Duration, mib float64, err error) {
		cmd := exec.CommandContext(b.ctx, b.program, append(args, "--config", config)...)
		var stdout, stderr bytes.Buffer
		cmd.Stdout, cmd.Stderr = &stdout, &stderr
		began := time.Now()
		if err := cmd.Start(); err != nil {
			return nil, 0, 0, err
		}
		// Its peak is looked at while it runs: what the kernel says of one that has ended
		// begins with the memory of whoever started it.
		ended := make(chan error, 1)
		go func() { ended <- cmd.Wait() }()
		for look := time.NewTicker(5 * time.Millisecond); ; {
			select {
			case err = <-ended:
				look.Stop()
				if err != nil {
					return nil, 0, 0, fmt.Errorf("hallpass %v: %w\n%s%s", args, err, &stdout, &stderr)
				}
				return stdout.Bytes(), time.Since(began), mib, nil
			case <-look.C:
				if now, err := peak(cmd.Process.Pid); err == nil { // else it has just ended
					mib = max(mib, now)
				}
			}
		}
	}
	var verified measure.Times
	var most float64
	var v verdict
	for i := range times + 1 {
		out, took, mib, err := run("audit", "verify", "--output", "json")
		if err == nil {
			err = json.Unmarshal(out, &v)
		}
		if err != nil {
			return err
		}
		most = max(most, mib)
		if i > 0 { // the first one finds nothing of the file in memory
			verified = append(verified, took)
		}
	}
	b.add(row{
		Name: "audit verify, " + what, P50: verified.At(0.5).Seconds(), P99: verified.At(0.99).Seconds(), N: len(verified),
		PerSecond: float64(v.Events) / verified.At(0.5).Seconds(),
		Also:      map[string]float64{"events": float64(v.Events), "signatures": float64(v.Statements), "MiB at most": most},
	})
	var proved measure.Times
	var size int
	for i := range max(times, 10) + 1 {
		out, took, _, err := run("audit", "prove", request)
		if err != nil {
			return err
		}
		if i > 0 {
			proved, size = append(proved, took), len(out)
		}
	}
	b.add(row{
		Name: "audit prove, out of " + what, P50: proved.At(0.5).Seconds(), P99: proved.At(0.99).Seconds(), N: len(proved),
		Also: map[string]float64{"bytes": float64(size)},
	})
	return nil
}
