package measure

import (
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func TestAt(t *testing.T) {
	var hundred Times
	for i := range 100 {
		hundred = append(hundred, time.Duration(100-i))
	}
	for _, c := range []struct {
		times Times
		p     float64
		want  time.Duration
	}{
		{nil, 0.5, 0},
		{Times{7}, 0, 7}, {Times{7}, 0.5, 7}, {Times{7}, 1, 7},
		{Times{3, 1, 2}, 0.5, 2},
		{hundred, 0, 1}, {hundred, 0.5, 51}, {hundred, 0.99, 100}, {hundred, 1, 100},
	} {
		if got := c.times.At(c.p); got != c.want {
			t.Errorf("%v of %d times is %d, want %d", c.p, len(c.times), got, c.want)
		}
	}
	if hundred[0] != 100 {
		t.Error("At has put the times in another order")
	}
}

func TestLoop(t *testing.T) {
	runs := 0
	r := testing.Benchmark(func(b *testing.B) { Loop(b, func() { runs++ }) })
	for _, unit := range []string{"op/s", "p50-ns", "p99-ns"} {
		if r.Extra[unit] <= 0 {
			t.Errorf("%s is %v", unit, r.Extra[unit])
		}
	}
	if runs < r.N {
		t.Errorf("%d runs, %d reported", runs, r.N)
	}
}

// Each of b.N is done once, so many at a time.
func TestInFlight(t *testing.T) {
	const flight = 4
	var done sync.Map
	r := testing.Benchmark(func(b *testing.B) {
		done.Clear()
		var came atomic.Int64
		InFlight(b, flight, func(n int) error {
			// The first ones wait for each other.
			for came.Add(1); came.Load() < min(flight, int64(b.N)); runtime.Gosched() {
			}
			if _, twice := done.LoadOrStore(n, true); twice {
				return fmt.Errorf("%d is done twice", n)
			}
			return nil
		})
	})
	for n := range r.N {
		if _, ok := done.Load(n); !ok {
			t.Fatalf("%d of %d isn't done", n, r.N)
		}
	}
	if r.Extra["op/s"] <= 0 {
		t.Errorf("%v", r.Extra)
	}
}
