package workflows_test

import (
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"hallpass/access"
)

// A grant that runs has one goroutine in its worker, also when a message has been heard
// meanwhile. Each keeps a stack for as long as the grant is in memory.
func TestARunningGrantHasOneCoroutine(t *testing.T) {
	w := newWorld(t)
	w.ask("ssh/web-1", nil)
	var stacks []string
	w.at(5*time.Minute, func() { w.approve("bob") })
	w.at(5*time.Minute+30*time.Second, func() { w.revoke("alice") }) // who mustn't
	w.at(6*time.Minute, func() {
		all := make([]byte, 1<<20)
		for stack := range strings.SplitSeq(string(all[:runtime.Stack(all, true)]), "\n\n") {
			if strings.Contains(stack, "hallpass/workflows.") && !strings.Contains(stack, "workflows_test.") {
				stacks = append(stacks, stack)
			}
		}
	})
	if got := w.run(access.StateExpired); got.Refused != 1 {
		t.Errorf("%d messages were refused, not 1", got.Refused)
	}
	if len(stacks) != 1 {
		t.Errorf("%d coroutines:\n%s", len(stacks), strings.Join(stacks, "\n\n"))
	}
}

// A flood of signals of other names, each another one, of which Temporal's library keeps a
// channel each: what one of them costs doesn't grow with how many came before.
func TestForeignSignals(t *testing.T) {
	allocated := func(signals int) float64 {
		w := newWorld(t)
		w.ask("ssh/web-1", nil)
		for i := range 100 {
			w.at(time.Minute+time.Duration(i)*100*time.Millisecond, func() {
				for k := range signals / 100 {
					w.env.SignalWorkflow("foreign-"+strconv.Itoa(i)+"-"+strconv.Itoa(k), "x")
				}
			})
		}
		w.at(2*time.Minute, func() { w.approve("bob") })
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		w.run(access.StateExpired)
		runtime.ReadMemStats(&after)
		return float64(after.TotalAlloc - before.TotalAlloc)
	}
	none := allocated(0)
	few, many := (allocated(500)-none)/500, (allocated(4000)-none)/4000
	if many > 3*few {
		t.Errorf("one of 500 takes %.0f bytes, one of 4000 takes %.0f", few, many)
	}
}
