package histories

import (
	"cmp"
	"fmt"
	"strings"

	"go.temporal.io/api/enums/v1"
	"go.temporal.io/api/history/v1"
	"google.golang.org/protobuf/proto"
)

// Cost is what a workflow costs whoever runs Temporal.
type Cost struct {
	Actions int // as Temporal Cloud bills them: https://docs.temporal.io/cloud/actions
	Events  int // of the history
	Bytes   int // of the history, as Temporal stores it but for its compression

	Signals, Updates int // the messages among the actions
}

// Of adds up what is in a history. Queries, heartbeats and refused updates are
// billed too and leave nothing there; a signal is found where it was received.
func Of(h *history.History) Cost {
	c := Cost{Events: len(h.Events), Bytes: proto.Size(h)}
	marked := map[int64]bool{} // the workflow tasks whose markers are counted
	for _, e := range h.Events {
		switch e.EventType {
		case enums.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED:
			c.Signals++
			c.Actions++
		case enums.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_ACCEPTED:
			c.Updates++
			c.Actions++
		case enums.EVENT_TYPE_WORKFLOW_EXECUTION_STARTED,
			enums.EVENT_TYPE_TIMER_STARTED,
			enums.EVENT_TYPE_UPSERT_WORKFLOW_SEARCH_ATTRIBUTES,
			enums.EVENT_TYPE_START_CHILD_WORKFLOW_EXECUTION_INITIATED: // the child's start is one more, in its own history
			c.Actions++
		case enums.EVENT_TYPE_ACTIVITY_TASK_STARTED: // with the last attempt
			c.Actions += int(e.GetActivityTaskStartedEventAttributes().GetAttempt())
		case enums.EVENT_TYPE_MARKER_RECORDED: // all of a task are one
			if task := e.GetMarkerRecordedEventAttributes().GetWorkflowTaskCompletedEventId(); !marked[task] {
				marked[task] = true
				c.Actions++
			}
		}
	}
	return c
}

// Row is a line of the table in docs/performance.md.
func (c Cost) Row(name string) string {
	var messages []string
	for _, m := range []struct {
		n    int
		name string
	}{{c.Signals, "signal"}, {c.Updates, "update"}} {
		switch {
		case m.n == 1:
			messages = append(messages, "1 "+m.name)
		case m.n > 1:
			messages = append(messages, fmt.Sprintf("%d %ss", m.n, m.name))
		}
	}
	return fmt.Sprintf("| %s | %s | %d | %d | %.1f |\n", strings.ReplaceAll(name, "-", " "), cmp.Or(strings.Join(messages, ", "), " "), c.Actions, c.Events, float64(c.Bytes)/1024)
}
