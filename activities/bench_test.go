package activities_test

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	"hallpass/access"
	"hallpass/activities"
	"hallpass/audit"
	"hallpass/testsuite/measure"
)

// BenchmarkHear is what the worker does with an approval: it verifies the signatures, asks
// policy, and has the decision on record, on disk, before it returns.
func BenchmarkHear(b *testing.B) {
	s := newScene(b)
	s.now = time.Now().UTC().Truncate(time.Second)
	s.acts.Now = time.Now
	dir, ctx := b.TempDir(), context.Background()
	if _, err := audit.CreateKey(filepath.Join(dir, "key"), filepath.Join(dir, "pub"), "bench"); err != nil {
		b.Fatal(err)
	}
	key, err := audit.ReadKey(filepath.Join(dir, "key"))
	if err != nil {
		b.Fatal(err)
	}
	log, err := audit.Open(ctx, audit.Options{Database: filepath.Join(dir, "log.db"), Key: key})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = log.Close() })
	if err := log.RecordRulebook(ctx, s.acts.Rulebook()); err != nil {
		b.Fatal(err)
	}
	s.acts.Log = log
	var times measure.Times
	for b.Loop() {
		b.StopTimer()
		s.req.Header = s.header("alice", access.TypeRequest)
		s.request = s.sign("alice", s.req)
		in := activities.HearInput{Message: access.MessageDecision, Statement: s.decision("bob"), Evidence: access.Evidence{Request: s.request}}
		b.StartTimer()
		began := time.Now()
		out, err := s.acts.Hear(ctx, in)
		times = append(times, time.Since(began))
		if err != nil || len(out.Evidence.Decisions) != 1 {
			b.Fatal(out, err)
		}
	}
	measure.Report(b, times)
}
