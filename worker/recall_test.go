package worker

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	historypb "go.temporal.io/api/history/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/converter"

	"hallpass/access"
	"hallpass/codec"
)

// What a request's history says of it is what its worker said last.
func TestRecall(t *testing.T) {
	files, err := filepath.Glob("../testsuite/histories/*.json")
	if err != nil {
		t.Fatal(err)
	}
	recalled := 0
	for _, file := range files {
		h := history(t, file)
		begin := h.Events[0].GetWorkflowExecutionStartedEventAttributes()
		if begin.WorkflowType.Name != access.Workflow {
			continue
		}
		recalled++
		id := access.RequestID(begin.WorkflowId)
		s, err := recall(h, &codec.Ring{}, id)
		if err != nil {
			t.Errorf("%s: %v", file, err)
			continue
		}
		var want access.Outcome
		result := h.Events[len(h.Events)-1].GetWorkflowExecutionCompletedEventAttributes().GetResult()
		if err := converter.GetDefaultDataConverter().FromPayloads(result, &want); err != nil {
			t.Fatal(err)
		}
		got := access.Outcome{State: s.State, Why: s.Why, By: s.By, Handle: s.Handle, Refused: s.Refused}
		if diff := cmp.Diff(want, got); diff != "" || s.ID != id || s.Evidence.Request.Payload == "" {
			t.Errorf("%s: %s, id %q (-want +got):\n%s", file, id, s.ID, diff)
		}
	}
	if recalled < 15 {
		t.Errorf("%d histories of requests", recalled)
	}
}

// A history that this program can't replay is no reason to make something up.
func TestRecallOfAnotherProgram(t *testing.T) {
	h := history(t, "../testsuite/histories/expired.json")
	begin := h.Events[0].GetWorkflowExecutionStartedEventAttributes()
	id := access.RequestID(begin.WorkflowId)
	for _, e := range h.Events {
		if a := e.GetActivityTaskScheduledEventAttributes(); a != nil {
			a.ActivityType.Name = "Conjure"
		}
	}
	s, err := recall(h, &codec.Ring{}, id)
	if access.CodeOf(err) != access.CodeUnavailable || !strings.Contains(err.Error(), "can't replay its history") || s.ID != "" {
		t.Errorf("%+v, %v", s, err)
	}
	h = history(t, "../testsuite/histories/locked.json")
	h.Events[0].GetWorkflowExecutionStartedEventAttributes().WorkflowType.Name = "Other"
	if _, err := recall(h, &codec.Ring{}, id); access.CodeOf(err) != access.CodeUnavailable {
		t.Errorf("a workflow of another type: %v", err)
	}
}

func history(t *testing.T, file string) *historypb.History {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	h, err := client.HistoryFromJSON(f, client.HistoryJSONOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return h
}
