package worker

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/interceptor"
	"go.temporal.io/sdk/temporal"
	sdktest "go.temporal.io/sdk/testsuite"
	sdkworker "go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"

	"hallpass/access"
	"hallpass/activities"
)

// Errors name people, resources and reasons, which nobody's collector has to
// know: spans have the code alone.
func TestTracesSayNoErrors(t *testing.T) {
	for _, tt := range []struct {
		name string
		err  error
		code string
	}{
		{"refusal", activities.Fail(access.Errorf(access.CodeForbidden, "alice may not have ssh/web-1").WithHint("ask carol")), "forbidden"},
		{"not now", activities.Fail(fmt.Errorf("alice's ssh/web-1: connection refused")), "unavailable"},
		{"a stranger's", temporal.NewNonRetryableApplicationError("alice may not have ssh/web-1", "about alice", nil), "error"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			spans := tracetest.NewSpanRecorder()
			tracing, err := newTracing(trace.NewTracerProvider(trace.WithSpanProcessor(spans)))
			if err != nil {
				t.Fatal(err)
			}
			var suite sdktest.WorkflowTestSuite
			env := suite.NewTestWorkflowEnvironment()
			env.SetWorkerOptions(sdkworker.Options{Interceptors: []interceptor.WorkerInterceptor{tracing}})
			env.RegisterActivityWithOptions(func(context.Context) error { return tt.err }, activity.RegisterOptions{Name: "Issue"})
			env.ExecuteWorkflow(func(ctx workflow.Context) error {
				return workflow.ExecuteActivity(workflow.WithActivityOptions(ctx, workflow.ActivityOptions{
					StartToCloseTimeout: time.Second, RetryPolicy: &temporal.RetryPolicy{MaximumAttempts: 1},
				}), "Issue").Get(ctx, nil)
			})
			var coded bool
			for _, s := range spans.Ended() {
				said := fmt.Sprint(s.Name(), s.Status(), s.Events(), s.Attributes())
				for _, private := range []string{"alice", "web-1", "carol"} {
					if strings.Contains(said, private) {
						t.Errorf("%s says %q: %s", s.Name(), private, said)
					}
				}
				coded = coded || s.Name() == "RunActivity:Issue" && s.Status().Description == tt.code
			}
			if !coded {
				t.Errorf("no span of the activity has the code %s: %v", tt.code, spans.Ended())
			}
		})
	}
}
