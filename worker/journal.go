package worker

import (
	"context"
	"log/slog"
	"time"

	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/interceptor"

	"hallpass/access"
	"hallpass/activities"
	"hallpass/internal/wording"
)

// journal writes a line about each activity, with the request that it was for,
// and counts refusals by their code. Reasons, resources and names stay in the
// audit log, which the request's id leads to.
type journal struct {
	interceptor.WorkerInterceptorBase
	log *slog.Logger
}

func (j *journal) InterceptActivity(_ context.Context, next interceptor.ActivityInboundInterceptor) interceptor.ActivityInboundInterceptor {
	return &journalled{ActivityInboundInterceptorBase: interceptor.ActivityInboundInterceptorBase{Next: next}, log: j.log}
}

type journalled struct {
	interceptor.ActivityInboundInterceptorBase
	log *slog.Logger
}

func (j *journalled) ExecuteActivity(ctx context.Context, in *interceptor.ExecuteActivityInput) (any, error) {
	began, info := time.Now(), activity.GetInfo(ctx)
	out, err := j.Next.ExecuteActivity(ctx, in)
	log := j.log.With("activity", info.ActivityType.Name, "took_ms", time.Since(began).Milliseconds(), "attempt", info.Attempt)
	if id := access.RequestID(info.WorkflowExecution.ID); id != "" {
		log = log.With("request", id)
	} else {
		log = log.With("workflow", info.WorkflowExecution.ID)
	}
	refusal := activities.Refusal(err)
	switch {
	case err == nil:
		log.Info("done")
	case refusal != nil:
		activity.GetMetricsHandler(ctx).WithTags(map[string]string{"code": string(refusal.Code)}).Counter("hallpass_refusals").Inc(1)
		log.Info("refused", "code", refusal.Code)
	case ctx.Err() != nil:
		log.Info("interrupted")
	default:
		log.Warn("not done; it is tried again", "error", wording.Line(err.Error()))
	}
	return out, err
}
