package worker

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	commonpb "go.temporal.io/api/common/v1"
	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
	workflowpb "go.temporal.io/api/workflow/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"

	"hallpass/access"
)

// cluster answers for Temporal: by state of each request, and what its list
// says.
type cluster struct {
	client.Client
	states    map[string]enumspb.WorkflowExecutionStatus
	listed    []string
	query     string
	described []string
	listErr   error
	err       error
}

func (c *cluster) ListWorkflow(_ context.Context, r *workflowservice.ListWorkflowExecutionsRequest) (*workflowservice.ListWorkflowExecutionsResponse, error) {
	c.query = r.GetQuery()
	at := len(r.GetNextPageToken()) // a page each
	out := &workflowservice.ListWorkflowExecutionsResponse{}
	if at < len(c.listed) {
		out.Executions = []*workflowpb.WorkflowExecutionInfo{{Execution: &commonpb.WorkflowExecution{WorkflowId: access.WorkflowID(c.listed[at])}}}
		out.NextPageToken = []byte(strings.Repeat("x", at+1))
	}
	return out, c.listErr
}

func (c *cluster) DescribeWorkflowExecution(_ context.Context, id, _ string) (*workflowservice.DescribeWorkflowExecutionResponse, error) {
	c.described = append(c.described, access.RequestID(id))
	if c.err != nil {
		return nil, c.err
	}
	state, ok := c.states[access.RequestID(id)]
	if !ok {
		return nil, serviceerror.NewNotFound("no such workflow")
	}
	return &workflowservice.DescribeWorkflowExecutionResponse{WorkflowExecutionInfo: &workflowpb.WorkflowExecutionInfo{Status: state}}, nil
}

func TestRunning(t *testing.T) {
	c := &cluster{listed: []string{"b", "other", "c"}, states: map[string]enumspb.WorkflowExecutionStatus{
		"completed": enumspb.WORKFLOW_EXECUTION_STATUS_COMPLETED, "failed": enumspb.WORKFLOW_EXECUTION_STATUS_FAILED,
		"canceled": enumspb.WORKFLOW_EXECUTION_STATUS_CANCELED, "terminated": enumspb.WORKFLOW_EXECUTION_STATUS_TERMINATED,
		"timed-out": enumspb.WORKFLOW_EXECUTION_STATUS_TIMED_OUT, "running": enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING,
		"continued": enumspb.WORKFLOW_EXECUTION_STATUS_CONTINUED_AS_NEW, "unknown": enumspb.WORKFLOW_EXECUTION_STATUS_UNSPECIFIED, "new": 99,
	}}
	want := map[string]bool{"b": true, "c": true, "absent": false,
		"completed": false, "failed": false, "canceled": false, "terminated": false, "timed-out": false,
		"running": true, "continued": true, "unknown": true, "new": true,
	}
	var ids []string
	for id := range want {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	p := &parts{}
	if _, err := p.Running(t.Context(), ids); access.CodeOf(err) != access.CodeUnavailable {
		t.Errorf("without a connection: %v", err)
	}
	var cl client.Client = c
	p.temporal.Store(&cl)
	got, err := p.Running(t.Context(), ids)
	if err != nil || len(got) != len(want) {
		t.Fatalf("%v, %v", got, err)
	}
	for id, runs := range want {
		if got[id] != runs {
			t.Errorf("%s runs: %t, want %t", id, got[id], runs)
		}
	}
	if slices.Contains(c.described, "b") || len(c.described) != 10 {
		t.Errorf("asked about each of %v", c.described)
	}
	if want := "WorkflowType = 'AccessRequest' AND ExecutionStatus = 'Running' AND WorkflowId BETWEEN 'access-absent' AND 'access-unknown'"; c.query != want {
		t.Errorf("query %s, want %s", c.query, want)
	}
	// What isn't known isn't concluded.
	for name, broken := range map[string]*cluster{
		"list":         {listErr: errors.New("down")},
		"unavailable":  {err: serviceerror.NewUnavailable("down")},
		"no namespace": {err: serviceerror.NewNamespaceNotFound("default")},
		"forbidden":    {err: serviceerror.NewPermissionDenied("no", "")},
	} {
		cl = broken
		if got, err := p.Running(t.Context(), []string{"a"}); err == nil {
			t.Errorf("%s: %v", name, got)
		}
	}
	if _, err := p.Running(t.Context(), []string{"a' OR WorkflowId = 'b"}); err == nil {
		t.Error("a quote is taken")
	}
}
