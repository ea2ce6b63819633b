// Package measure says how long things take that benchmarks repeat: the median
// and the slow ones, beside the average that testing.B gives.
package measure

import (
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// Times are how long each of several repetitions took, in any order.
type Times []time.Duration

// At is the time that a share p of the repetitions, from 0 to 1, stayed below
// or reached: 0.5 is the median. It is 0 if there are none.
func (t Times) At(p float64) time.Duration {
	if len(t) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(t))
	return sorted[min(len(sorted)-1, max(0, int(p*float64(len(sorted)))))]
}

// maxTimes bounds what one benchmark keeps. What comes after isn't timed one
// by one.
const maxTimes = 1 << 18

// Loop runs op as often as the benchmark asks for, and reports what Report
// does.
func Loop(b *testing.B, op func()) {
	times := make(Times, 0, maxTimes)
	for b.Loop() {
		start := time.Now()
		op()
		if len(times) < maxTimes {
			times = append(times, time.Since(start))
		}
	}
	Report(b, times)
}

// InFlight has so many do op at any time, b.N times in all, each with its number, and reports
// what Report does. Who has something to prepare does that first, for b.N of them.
func InFlight(b *testing.B, flight int, op func(n int) error) {
	times := make(Times, b.N)
	var next atomic.Int64
	var all sync.WaitGroup
	b.ResetTimer()
	for range flight {
		all.Go(func() {
			for n := int(next.Add(1) - 1); n < b.N; n = int(next.Add(1) - 1) {
				start := time.Now()
				if err := op(n); err != nil {
					b.Error(err)
					return
				}
				times[n] = time.Since(start)
			}
		})
	}
	all.Wait()
	b.StopTimer()
	Report(b, times)
}

// Report reports operations per second as "op/s", and the median and the 99th
// percentile of the times as "p50-ns" and "p99-ns".
func Report(b *testing.B, times Times) {
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "op/s")
	b.ReportMetric(float64(times.At(0.5)), "p50-ns")
	b.ReportMetric(float64(times.At(0.99)), "p99-ns")
}
