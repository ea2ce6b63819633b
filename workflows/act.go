package workflows

import (
	"time"

	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"hallpass/access"
	"hallpass/activities"
)

// patience is how regular activities are repeated: for ever, and never more
// than 15 s after the part that was down is back. Repeating one costs no
// history.
var patience = temporal.RetryPolicy{
	InitialInterval:    time.Second,
	BackoffCoefficient: 2,
	MaximumInterval:    15 * time.Second,
}

// local runs an activity inside the workflow task, where it costs one event
// and no round trip. Where that fails three times it goes on as a regular
// activity on the workflow's own queue: a local one that is repeated for long
// keeps the workflow task open at three events every few seconds, which would
// fill the history within two days, and nobody would see why. The error is nil
// or a refusal.
func local(ctx workflow.Context, summary string, activity, in, out any) error {
	ctx = workflow.WithLocalActivityOptions(ctx, workflow.LocalActivityOptions{
		Summary:             summary,
		StartToCloseTimeout: 10 * time.Second,
		RetryPolicy: &temporal.RetryPolicy{
			InitialInterval:    100 * time.Millisecond,
			BackoffCoefficient: 2,
			MaximumAttempts:    3,
		},
	})
	err := workflow.ExecuteLocalActivity(ctx, activity, in).Get(ctx, out)
	if err == nil || activities.Refusal(err) != nil {
		return err
	}
	workflow.GetLogger(ctx).Warn("local activity failed, going on as a regular one", "activity", summary, "error", err)
	return steadily(workflow.WithActivityOptions(ctx, workflow.ActivityOptions{
		Summary:             summary,
		StartToCloseTimeout: 30 * time.Second,
		RetryPolicy:         &patience,
	}), activity, in, out)
}

// onIssuer is where Issue and Revoke run: on the queue of the resource's kind,
// for as long as it takes.
func (r *request) onIssuer(ctx workflow.Context, summary string) workflow.Context {
	return onIssuer(ctx, r.status.Standing.Resource.Kind, summary)
}

func onIssuer(ctx workflow.Context, kind, summary string) workflow.Context {
	return workflow.WithActivityOptions(ctx, workflow.ActivityOptions{
		TaskQueue:           access.IssueQueue(kind),
		Summary:             summary,
		StartToCloseTimeout: 30 * time.Second,
		RetryPolicy:         &patience,
	})
}

// steadily runs a regular activity until it has worked, was refused, or ctx is
// cancelled. That somebody ends it by hand in Temporal is none of these: it
// starts over.
func steadily(ctx workflow.Context, activity, in, out any) error {
	for {
		err := workflow.ExecuteActivity(ctx, activity, in).Get(ctx, out)
		if err == nil || activities.Refusal(err) != nil || ctx.Err() != nil {
			return err
		}
		workflow.GetLogger(ctx).Error("activity ended without a result, starting over", "error", err)
		_ = workflow.Sleep(ctx, time.Minute) // if ctx is cancelled, so is the next attempt
	}
}
