package histories

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.temporal.io/api/enums/v1"
	"go.temporal.io/api/history/v1"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/log"
	sdkworker "go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"

	"hallpass/access"
	"hallpass/workflows"
)

// Every recorded history replays, of every release. Between them they have every
// ending of a request, and every type of workflow.
func TestReplay(t *testing.T) {
	files, err := filepath.Glob("*.json")
	if err != nil {
		t.Fatal(err)
	}
	released, err := filepath.Glob("v*/*.json")
	if err != nil {
		t.Fatal(err)
	}
	endings, types := map[access.State]bool{}, map[string]bool{}
	for _, file := range slices.Concat(files, released) {
		t.Run(strings.TrimSuffix(file, ".json"), func(t *testing.T) {
			h := read(t, file)
			replayer := sdkworker.NewWorkflowReplayer()
			for _, typ := range workflows.Types() {
				replayer.RegisterWorkflowWithOptions(typ.Func, workflow.RegisterOptions{Name: typ.Name})
			}
			started := h.Events[0].GetWorkflowExecutionStartedEventAttributes()
			options := sdkworker.ReplayWorkflowHistoryOptions{OriginalExecution: workflow.Execution{ID: started.GetWorkflowId(), RunID: started.GetOriginalExecutionRunId()}}
			quiet := log.NewStructuredLogger(slog.New(slog.DiscardHandler))
			if err := replayer.ReplayWorkflowHistoryWithOptions(quiet, h, options); err != nil {
				t.Fatal(err)
			}
			is := started.GetWorkflowType().GetName()
			if types[is] = true; is == access.Workflow {
				endings[outcome(t, h).State] = true
			}
		})
	}
	for _, state := range access.States() {
		if state.Final() && !endings[state] {
			t.Errorf("no recorded history ends as %s", state)
		}
	}
	for _, typ := range workflows.Types() {
		if !types[typ.Name] {
			t.Errorf("no recorded history is of the workflow %s", typ.Name)
		}
	}
}

// What a request costs on a real server, event for event, so that it can't
// creep up.
func TestCost(t *testing.T) {
	const (
		task     = " WorkflowTaskScheduled WorkflowTaskStarted WorkflowTaskCompleted "
		activity = " ActivityTaskScheduled ActivityTaskStarted ActivityTaskCompleted "
		decide   = "WorkflowExecutionStarted" + task + "MarkerRecorded "
		approve  = "TimerStarted WorkflowExecutionSignaled" + task + "MarkerRecorded TimerCanceled "
		grant    = "UpsertWorkflowSearchAttributes" + activity + task + "UpsertWorkflowSearchAttributes TimerStarted TimerFired" +
			task + "UpsertWorkflowSearchAttributes" + activity +
			task + "UpsertWorkflowSearchAttributes WorkflowExecutionCompleted"
	)
	for _, test := range []struct {
		file, want string
		events     int
	}{
		{"expired.json", decide + grant, 27},
		{"approved-expired.json", decide + approve + grant, 34},
	} {
		var got []string
		for _, event := range read(t, test.file).Events {
			got = append(got, event.EventType.String())
		}
		want := strings.Fields(test.want)
		if len(want) != test.events {
			t.Errorf("%s: the test lists %d events, want %d", test.file, len(want), test.events)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", test.file, diff)
		}
	}
}

// What each ending costs, as docs/performance.md says, so that it can't creep up
// unnoticed: a workflow that does more doesn't replay, and what is recorded of
// it then costs what the page has to say.
func TestCostPage(t *testing.T) {
	const page = "../../docs/performance.md"
	files, err := filepath.Glob("*.json")
	if err != nil {
		t.Fatal(err)
	}
	var want strings.Builder
	want.WriteString("| what happens | messages | actions | events | KiB |\n|---|---|---|---|---|\n")
	for _, file := range files {
		want.WriteString(Of(read(t, file)).Row(strings.TrimSuffix(file, ".json")))
	}
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(text), "<!-- cost -->\n"+want.String()+"<!-- /cost -->") {
		t.Errorf("%s doesn't say between its marks for the cost:\n%s", page, want.String())
	}
}

// What docs/operate.md says a request costs that is granted, for sizing: the least
// and the most of those recorded, but for the one that somebody floods.
func TestCostOfGranted(t *testing.T) {
	const page, flooded = "../../docs/operate.md", "refused-messages.json"
	files, err := filepath.Glob("*.json")
	if err != nil {
		t.Fatal(err)
	}
	var actions, events, bytes []int
	for _, file := range files {
		h := read(t, file)
		if h.Events[0].GetWorkflowExecutionStartedEventAttributes().GetWorkflowType().GetName() != access.Workflow || file == flooded {
			continue
		}
		switch outcome(t, h).State {
		case access.StateExpired, access.StateReleased, access.StateRevoked:
			c := Of(h)
			actions, events, bytes = append(actions, c.Actions), append(events, c.Events), append(bytes, c.Bytes)
		}
	}
	if len(actions) < 10 {
		t.Fatalf("only %d recorded requests were granted", len(actions))
	}
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf("[%d to %d actions, %d to %d events and %.0f to %.0f KiB](performance.md#what-a-request-costs-temporal) for a request that is granted",
		slices.Min(actions), slices.Max(actions), slices.Min(events), slices.Max(events), float64(slices.Min(bytes))/1024, float64(slices.Max(bytes))/1024)
	if !strings.Contains(string(text), want) {
		t.Errorf("%s doesn't say %s", page, want)
	}
}

// Cost counts what Temporal Cloud's list of actions does.
func TestCostOf(t *testing.T) {
	event := func(typ enums.EventType) *history.HistoryEvent { return &history.HistoryEvent{EventType: typ} }
	marker := func(task int64) *history.HistoryEvent {
		return &history.HistoryEvent{EventType: enums.EVENT_TYPE_MARKER_RECORDED, Attributes: &history.HistoryEvent_MarkerRecordedEventAttributes{
			MarkerRecordedEventAttributes: &history.MarkerRecordedEventAttributes{WorkflowTaskCompletedEventId: task},
		}}
	}
	activity := func(attempt int32) *history.HistoryEvent {
		return &history.HistoryEvent{EventType: enums.EVENT_TYPE_ACTIVITY_TASK_STARTED, Attributes: &history.HistoryEvent_ActivityTaskStartedEventAttributes{
			ActivityTaskStartedEventAttributes: &history.ActivityTaskStartedEventAttributes{Attempt: attempt},
		}}
	}
	for _, c := range []struct {
		name    string
		events  []*history.HistoryEvent
		actions int
	}{
		{"start", []*history.HistoryEvent{event(enums.EVENT_TYPE_WORKFLOW_EXECUTION_STARTED), event(enums.EVENT_TYPE_WORKFLOW_TASK_COMPLETED)}, 1},
		{"messages", []*history.HistoryEvent{event(enums.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED), event(enums.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_ACCEPTED), event(enums.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_COMPLETED)}, 2},
		{"a timer", []*history.HistoryEvent{event(enums.EVENT_TYPE_TIMER_STARTED), event(enums.EVENT_TYPE_TIMER_FIRED)}, 1},
		{"a child", []*history.HistoryEvent{event(enums.EVENT_TYPE_START_CHILD_WORKFLOW_EXECUTION_INITIATED), event(enums.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_STARTED)}, 1},
		{"a signal to another", []*history.HistoryEvent{event(enums.EVENT_TYPE_SIGNAL_EXTERNAL_WORKFLOW_EXECUTION_INITIATED), event(enums.EVENT_TYPE_EXTERNAL_WORKFLOW_EXECUTION_SIGNALED)}, 0},
		{"search attributes", []*history.HistoryEvent{event(enums.EVENT_TYPE_UPSERT_WORKFLOW_SEARCH_ATTRIBUTES)}, 1},
		{"local activities of one task, and of another", []*history.HistoryEvent{marker(4), marker(4), marker(9)}, 2},
		{"an activity at the third attempt", []*history.HistoryEvent{event(enums.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED), activity(3), event(enums.EVENT_TYPE_ACTIVITY_TASK_COMPLETED)}, 3},
	} {
		if got := Of(&history.History{Events: c.events}); got.Actions != c.actions || got.Events != len(c.events) {
			t.Errorf("%s: %+v, want %d actions", c.name, got, c.actions)
		}
	}
}

func read(t *testing.T, file string) *history.History {
	t.Helper()
	h, err := Read(file)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// outcome is what the recorded workflow returned.
func outcome(t *testing.T, h *history.History) access.Outcome {
	t.Helper()
	last := h.Events[len(h.Events)-1]
	if last.EventType != enums.EVENT_TYPE_WORKFLOW_EXECUTION_COMPLETED {
		t.Fatalf("the history ends with %s", last.EventType)
	}
	var o access.Outcome
	payloads := last.GetWorkflowExecutionCompletedEventAttributes().GetResult()
	if err := converter.GetDefaultDataConverter().FromPayloads(payloads, &o); err != nil {
		t.Fatal(err)
	}
	return o
}
