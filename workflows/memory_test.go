package workflows_test

import (
	"runtime"
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
