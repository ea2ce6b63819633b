package worker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	oteltrace "go.opentelemetry.io/otel/trace"
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
			traces, err := newTracing(trace.NewTracerProvider(trace.WithSpanProcessor(spans)), slog.New(slog.DiscardHandler))
			if err != nil {
				t.Fatal(err)
			}
			var suite sdktest.WorkflowTestSuite
			env := suite.NewTestWorkflowEnvironment()
			env.SetWorkerOptions(sdkworker.Options{Interceptors: []interceptor.WorkerInterceptor{traces.interceptor}})
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

// A call of the service is in its caller's trace. Of what a caller sends no more
// than the name of a trace is taken, and nothing of what isn't one.
func TestTraceOfACall(t *testing.T) {
	const id = "0af7651916cd43dd8448eb211c80319c"
	for _, tt := range []struct {
		name    string
		header  http.Header
		trace   string // "": a new one
		ignored bool
	}{
		{name: "nothing", header: http.Header{}},
		{name: "a trace", header: http.Header{"Traceparent": {"00-" + id + "-b7ad6b7169203331-01"}}, trace: id},
		{name: "one that isn't kept", header: http.Header{"Traceparent": {"00-" + id + "-b7ad6b7169203331-00"}}, trace: id, ignored: true},
		{name: "more than a trace", header: http.Header{
			"Traceparent": {"00-" + id + "-b7ad6b7169203331-01"}, "Tracestate": {"vendor=alice"}, "Baggage": {"who=alice"},
		}, trace: id},
		{name: "rubbish", header: http.Header{"Traceparent": {"alice"}}},
		{name: "no trace at all", header: http.Header{"Traceparent": {"00-00000000000000000000000000000000-b7ad6b7169203331-01"}}},
		{name: "long", header: http.Header{"Traceparent": {"00-" + id + "-b7ad6b7169203331-01" + strings.Repeat("0", 10_000)}}},
		{name: "upper case", header: http.Header{"Traceparent": {"00-" + strings.ToUpper(id) + "-b7ad6b7169203331-01"}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			spans := tracetest.NewSpanRecorder()
			traces, err := newTracing(trace.NewTracerProvider(trace.WithSpanProcessor(spans)), slog.New(slog.DiscardHandler))
			if err != nil {
				t.Fatal(err)
			}
			r := httptest.NewRequest(http.MethodPost, "/v1/locks", nil)
			r.Header, r.Pattern = tt.header, "POST /v1/locks"
			ctx, end := traces.hear(r)
			end(errors.New("alice"))
			span := oteltrace.SpanContextFromContext(ctx)
			switch kept := spans.Ended(); {
			case tt.trace != "" && span.TraceID().String() != tt.trace, !span.IsValid(), tt.trace == "" && span.TraceID().String() == id:
				t.Errorf("the trace is %s", span.TraceID())
			case span.TraceState().Len() > 0:
				t.Errorf("what goes on is %s", span.TraceState())
			case tt.ignored != (len(kept) == 0):
				t.Errorf("kept are %v", kept)
			case !tt.ignored && (kept[0].Name() != "POST /v1/locks" || kept[0].Status().Description != "error" || strings.Contains(fmt.Sprint(kept[0]), "alice")):
				t.Errorf("the span is %+v", kept[0])
			}
			// The other end: what goes out is what comes in.
			out := http.Header{}
			traces.Begin(ctx, "POST /v1/locks", out)(nil)
			if got := out.Get("Traceparent"); !strings.HasPrefix(got, "00-"+span.TraceID().String()+"-") {
				t.Errorf("the header is %q", got)
			}
		})
	}
}
