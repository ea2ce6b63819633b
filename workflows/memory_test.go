package workflows_test

import (
	"runtime"
	"strings"
	"testing"
	"time"

	"hallpass/access"
)

// A grant that runs has two goroutines in its worker: its own, and the one that waits
// for what comes from outside. Each keeps a stack for as long as the grant is in memory.
func TestARunningGrantHasTwoCoroutines(t *testing.T) {
	w := newWorld(t)
	w.ask("ssh/web-1", nil)
	var stacks []string
	w.at(5*time.Minute, func() { w.approve("bob") })
	w.at(6*time.Minute, func() {
		all := make([]byte, 1<<20)
		for stack := range strings.SplitSeq(string(all[:runtime.Stack(all, true)]), "\n\n") {
			if strings.Contains(stack, "hallpass/workflows.") && !strings.Contains(stack, "workflows_test.") {
				stacks = append(stacks, stack)
			}
		}
	})
	w.run(access.StateExpired)
	if len(stacks) != 2 {
		t.Errorf("%d coroutines:\n%s", len(stacks), strings.Join(stacks, "\n\n"))
	}
}
