package worker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	enumspb "go.temporal.io/api/enums/v1"
	historypb "go.temporal.io/api/history/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/interceptor"
	sdklog "go.temporal.io/sdk/log"
	sdkworker "go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"

	"hallpass/access"
	"hallpass/codec"
	"hallpass/internal/wording"
	"hallpass/workflows"
)

// Recall works out the status of a request that has ended from its history,
// without a worker. Temporal asks nobody but the build that a request ended on,
// and in time that build is gone. The history is no more to be trusted than a
// worker's answer.
func (c *Config) Recall(ctx context.Context, cl client.Client, id string) (access.Status, error) {
	ring, err := c.openRing()
	if err != nil {
		return access.Status{}, err
	}
	return remember(ctx, cl, ring, id)
}

// maxRecalls is how many histories the service replays at a time: one may be
// 50 MB, and a replay goes on when nobody waits for it any more.
const maxRecalls = 4

// recall is Recall for those who come to the service, with the keys that it has.
func (p *parts) recall(ctx context.Context, cl client.Client, id string) (access.Status, error) {
	select {
	case p.recalls <- struct{}{}:
		defer func() { <-p.recalls }()
		return remember(ctx, cl, p.ring, id)
	case <-ctx.Done():
		return access.Status{}, access.Errorf(access.CodeUnavailable, "%d histories are being replayed already", maxRecalls)
	}
}

func remember(ctx context.Context, cl client.Client, ring *codec.Ring, id string) (access.Status, error) {
	var history historypb.History
	events := cl.GetWorkflowHistory(ctx, access.WorkflowID(id), "", false, enumspb.HISTORY_EVENT_FILTER_TYPE_ALL_EVENT)
	for events.HasNext() {
		event, err := events.Next()
		if err != nil {
			return access.Status{}, fmt.Errorf("read the history of request %s: %w", id, err)
		}
		history.Events = append(history.Events, event)
	}
	return recall(&history, ring, id)
}

func recall(history *historypb.History, ring *codec.Ring, id string) (access.Status, error) {
	asked := &questioner{}
	replayer, err := sdkworker.NewWorkflowReplayerWithOptions(sdkworker.WorkflowReplayerOptions{
		DataConverter: ring.Converter(), FailureConverter: ring.FailureConverter(), Interceptors: []interceptor.WorkerInterceptor{asked},
	})
	if err != nil {
		return access.Status{}, fmt.Errorf("replay request %s: %w", id, err)
	}
	replayer.RegisterWorkflowWithOptions(workflows.AccessRequest, workflow.RegisterOptions{Name: access.Workflow})
	err = replayer.ReplayWorkflowHistoryWithOptions(sdklog.NewStructuredLogger(slog.New(slog.DiscardHandler)), history,
		sdkworker.ReplayWorkflowHistoryOptions{OriginalExecution: workflow.Execution{ID: access.WorkflowID(id)}})
	if err == nil && asked.status == nil {
		err = errors.New("it is not a request's")
	}
	if err != nil {
		return access.Status{}, access.Errorf(access.CodeUnavailable, "no worker is left of the build that request %s ended on, and this program can't replay its history: %s", id, wording.Line(err.Error())).
			WithHint("what was done is in the audit log: hallpass audit log --request %s", id)
	}
	return asked.status()
}

// questioner keeps the answer to the query status.
type questioner struct {
	interceptor.WorkerInterceptorBase
	status func() (access.Status, error)
}

func (q *questioner) InterceptWorkflow(_ workflow.Context, next interceptor.WorkflowInboundInterceptor) interceptor.WorkflowInboundInterceptor {
	return &questioned{interceptor.WorkflowInboundInterceptorBase{Next: next}, q}
}

type questioned struct {
	interceptor.WorkflowInboundInterceptorBase
	by *questioner
}

func (q *questioned) Init(out interceptor.WorkflowOutboundInterceptor) error {
	return q.Next.Init(&answering{interceptor.WorkflowOutboundInterceptorBase{Next: out}, q.by})
}

type answering struct {
	interceptor.WorkflowOutboundInterceptorBase
	to *questioner
}

func (a *answering) SetQueryHandler(ctx workflow.Context, name string, handler any) error {
	if status, is := handler.(func() (access.Status, error)); is && name == access.QueryStatus {
		a.to.status = status
	}
	return a.Next.SetQueryHandler(ctx, name, handler)
}
