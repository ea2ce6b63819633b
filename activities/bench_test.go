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

// recorded is a scene with a log on disk, and a clock that goes.
func recorded(b *testing.B) *scene {
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
	return s
}

// asks makes another request of alice's.
func (s *scene) asks() {
	s.req.Header = s.header("alice", access.TypeRequest)
	s.request = s.sign("alice", s.req)
}

// BenchmarkDecide is what the worker does with a request: it verifies the signature, asks
// policy, has request and ruling on record, on disk, and reads what the requester did
// before, which those who are asked see.
func BenchmarkDecide(b *testing.B) {
	s := recorded(b)
	var times measure.Times
	for b.Loop() {
		b.StopTimer()
		s.asks()
		var out activities.DecideOutput
		err := s.run(access.WorkflowID(s.req.ID), func(ctx context.Context, in access.Submission) (activities.DecideOutput, error) {
			b.StartTimer()
			began := time.Now()
			out, err := s.acts.Decide(ctx, in)
			times = append(times, time.Since(began))
			b.StopTimer()
			return out, err
		}, access.Submission{Request: s.request}, &out)
		if err != nil || out.Effect != access.EffectAsk || out.Past == nil {
			b.Fatal(out, err)
		}
		b.StartTimer()
	}
	measure.Report(b, times)
}

// BenchmarkHear is what the worker does with an approval: it verifies the signatures, asks
// policy, and has the decision on record, on disk, before it returns.
func BenchmarkHear(b *testing.B) {
	s := recorded(b)
	var times measure.Times
	for b.Loop() {
		b.StopTimer()
		s.asks()
		in := activities.HearInput{Message: access.MessageDecision, Statement: s.decision("bob"), Evidence: access.Evidence{Request: s.request}}
		b.StartTimer()
		began := time.Now()
		out, err := s.acts.Hear(context.Background(), in)
		times = append(times, time.Since(began))
		if err != nil || len(out.Evidence.Decisions) != 1 {
			b.Fatal(out, err)
		}
	}
	measure.Report(b, times)
}
