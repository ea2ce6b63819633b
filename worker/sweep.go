package worker

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"

	"hallpass/access"
)

// listAtOnce is how many workflows Temporal lists in one answer.
const listAtOnce = 1000

// Running says of requests, in the order of their ids, whether their workflow
// runs. That it does may be out of date by a moment. That it doesn't is what
// Temporal said of that one workflow just now.
func (p *parts) Running(ctx context.Context, requests []string) (map[string]bool, error) {
	cl := p.temporal.Load()
	if cl == nil {
		return nil, access.Errorf(access.CodeUnavailable, "there is no connection to temporal")
	}
	runs := map[string]bool{}
	if len(requests) == 0 {
		return runs, nil
	}
	// The list says of nearly all of them that they run, at a price of one
	// call for many. It says nothing of the others: it may lag behind.
	first, last := access.WorkflowID(requests[0]), access.WorkflowID(requests[len(requests)-1])
	if strings.ContainsAny(first+last, `'"\`) {
		return nil, fmt.Errorf("the ledger has a request with a quote in its id")
	}
	ask := &workflowservice.ListWorkflowExecutionsRequest{PageSize: listAtOnce, Query: fmt.Sprintf(
		"WorkflowType = '%s' AND ExecutionStatus = 'Running' AND WorkflowId BETWEEN '%s' AND '%s'", access.Workflow, first, last)}
	for {
		answer, err := (*cl).ListWorkflow(ctx, ask)
		if err != nil {
			return nil, fmt.Errorf("list running requests: %w", err)
		}
		for _, e := range answer.GetExecutions() {
			runs[access.RequestID(e.GetExecution().GetWorkflowId())] = true
		}
		if ask.NextPageToken = answer.GetNextPageToken(); len(ask.NextPageToken) == 0 {
			break
		}
	}
	answers := make(map[string]bool, len(requests))
	for _, id := range requests {
		answers[id] = runs[id]
		if runs[id] {
			continue
		}
		var err error
		if answers[id], err = describe(ctx, *cl, id); err != nil {
			return nil, err
		}
	}
	return answers, nil
}

// describe says whether one request's workflow runs: anything but an end that
// Temporal knows of, or a workflow that it knows nothing of, is running.
func describe(ctx context.Context, cl client.Client, request string) (bool, error) {
	answer, err := cl.DescribeWorkflowExecution(ctx, access.WorkflowID(request), "")
	var absent *serviceerror.NotFound
	if errors.As(err, &absent) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("ask whether request %s runs: %w", request, err)
	}
	switch answer.GetWorkflowExecutionInfo().GetStatus() {
	case enumspb.WORKFLOW_EXECUTION_STATUS_COMPLETED, enumspb.WORKFLOW_EXECUTION_STATUS_FAILED, enumspb.WORKFLOW_EXECUTION_STATUS_CANCELED,
		enumspb.WORKFLOW_EXECUTION_STATUS_TERMINATED, enumspb.WORKFLOW_EXECUTION_STATUS_TIMED_OUT:
		return false, nil
	default:
		return true, nil
	}
}

// schedule sees to it that Temporal starts a sweep every so often. One that an
// operator has paused stays so.
func (p *parts) schedule(ctx context.Context, cl client.Client) error {
	every := p.config.Sweep.Every
	spec := client.ScheduleSpec{Intervals: []client.ScheduleIntervalSpec{{Every: every}}}
	_, err := cl.ScheduleClient().Create(ctx, client.ScheduleOptions{
		ID:   access.SweepSchedule,
		Spec: spec,
		Action: &client.ScheduleWorkflowAction{
			ID: "sweep", Workflow: access.WorkflowSweep, Args: []any{access.Sweeping{}}, TaskQueue: access.TaskQueue,
			StaticSummary: "sweep up what has lost its workflow",
		},
		Overlap:       enumspb.SCHEDULE_OVERLAP_POLICY_SKIP,
		CatchupWindow: time.Minute, // the next one finds all that this one would have
	})
	if !errors.Is(err, temporal.ErrScheduleAlreadyRunning) {
		return scheduled(err)
	}
	return scheduled(cl.ScheduleClient().GetHandle(ctx, access.SweepSchedule).Update(ctx, client.ScheduleUpdateOptions{
		DoUpdate: func(in client.ScheduleUpdateInput) (*client.ScheduleUpdate, error) {
			s := in.Description.Schedule
			if s.Spec != nil && len(s.Spec.Intervals) == 1 && s.Spec.Intervals[0].Every == every {
				return nil, temporal.ErrSkipScheduleUpdate
			}
			s.Spec = &spec
			return &client.ScheduleUpdate{Schedule: &s}, nil
		},
	}))
}

func scheduled(err error) error {
	if err == nil {
		return nil
	}
	return refused(err, "schedule sweeps").WithHint("hallpass sweep sweeps once; without a schedule nobody does by himself")
}
