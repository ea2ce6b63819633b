package worker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	"go.opentelemetry.io/otel/sdk/trace"
	oteltrace "go.opentelemetry.io/otel/trace"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/contrib/opentelemetry"
	"go.temporal.io/sdk/interceptor"
	"go.temporal.io/sdk/temporal"

	"hallpass/access"
	"hallpass/internal/wording"
)

// flushTimeout is how long the last traces have to get away when a process
// ends. Nobody waits for them otherwise.
const flushTimeout = 3 * time.Second

// tracing makes the spans of a process, and sends them away. A nil one makes
// none. Spans have ids of workflows and names of activities and of calls in them
// and the codes of errors, and nothing of what is asked for.
type tracing struct {
	interceptor interceptor.Interceptor
	tracer      oteltrace.Tracer
	provider    *trace.TracerProvider
	log         *slog.Logger
}

// traces sends traces to where OpenTelemetry's own OTEL_EXPORTER_OTLP_ENDPOINT
// says, by gRPC, or nowhere if it doesn't: from the command that asks to the
// issuer that signs, in one trace, whether the command goes by the service or
// not. The caller closes it, also where it is nil.
//
// That traces don't get away is nobody's concern but the log's.
func (c *Config) traces(ctx context.Context, log *slog.Logger) (*tracing, error) {
	endpoint := cmp.Or(c.getenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"), c.getenv("OTEL_EXPORTER_OTLP_ENDPOINT"))
	if endpoint == "" {
		return nil, nil
	}
	exporter, err := otlptracegrpc.New(ctx, otlptracegrpc.WithEndpointURL(endpoint))
	if err != nil {
		return nil, fmt.Errorf("OTEL_EXPORTER_OTLP_ENDPOINT: %w", err)
	}
	name := cmp.Or(c.getenv("OTEL_SERVICE_NAME"), "hallpass")
	return newTracing(trace.NewTracerProvider(trace.WithBatcher(exporter), trace.WithResource(resource.NewSchemaless(attribute.String("service.name", name)))), log)
}

func newTracing(provider *trace.TracerProvider, log *slog.Logger) (*tracing, error) {
	t := &tracing{tracer: provider.Tracer("hallpass"), provider: provider, log: log}
	var err error
	t.interceptor, err = opentelemetry.NewTracingInterceptor(opentelemetry.TracerOptions{
		Tracer: t.tracer, DisableBaggage: true,
		DisableQueryTracing:     true, // whoever waits asks all the time
		AllowInvalidParentSpans: true, // anybody may start a workflow
		SpanStarter: func(ctx context.Context, t oteltrace.Tracer, name string, o ...oteltrace.SpanStartOption) oteltrace.Span {
			_, span := t.Start(ctx, name, o...)
			return &discreet{Span: span}
		},
	})
	if err != nil {
		return nil, fmt.Errorf("make traces: %w", err)
	}
	return t, nil
}

// Close sends what wasn't sent yet.
func (t *tracing) Close() {
	if t == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), flushTimeout)
	defer cancel()
	if err := t.provider.Shutdown(ctx); err != nil {
		t.log.Warn("the last traces are lost", "error", wording.Line(err.Error()))
	}
}

// Begin begins the span of a call of the service, and puts it into the call's
// header as W3C's traceparent.
func (t *tracing) Begin(ctx context.Context, call string, header http.Header) (end func(error)) {
	ctx, span := t.tracer.Start(ctx, call, oteltrace.WithSpanKind(oteltrace.SpanKindClient))
	propagation.TraceContext{}.Inject(ctx, propagation.HeaderCarrier(header))
	return ending(span)
}

// hear begins the span of a call that came to the service, by somebody who has
// said who he is, in the trace that its traceparent names; in a new one if it
// names none or isn't one. Nothing else that he sends is taken on:
// what is in tracestate would be kept in Temporal.
//
// Whether the trace is kept is his choice, as it is with access to Temporal. So
// nothing relies on traces.
func (t *tracing) hear(r *http.Request) (ctx context.Context, end func(error)) {
	from := oteltrace.SpanContextFromContext(propagation.TraceContext{}.Extract(context.Background(), propagation.HeaderCarrier(r.Header)))
	ctx = oteltrace.ContextWithRemoteSpanContext(r.Context(), from.WithTraceState(oteltrace.TraceState{}))
	ctx, span := t.tracer.Start(ctx, r.Pattern, oteltrace.WithSpanKind(oteltrace.SpanKindServer))
	return ctx, ending(span)
}

// ending ends a span with the code of an error.
func ending(span oteltrace.Span) func(error) {
	return func(err error) {
		if err != nil {
			span.SetStatus(codes.Error, codeOf(err))
		}
		span.End()
	}
}

// discreet is a span that says of an error its code alone: messages name
// people and resources.
type discreet struct {
	oteltrace.Span
	code string // of the error that was recorded last
}

// RecordError keeps the code for SetStatus, which comes after it.
func (d *discreet) RecordError(err error, _ ...oteltrace.EventOption) {
	if err != nil {
		d.code = codeOf(err)
	}
}

func (d *discreet) SetStatus(status codes.Code, _ string) { d.Span.SetStatus(status, d.code) }

// codeOf is the code of a refusal, or of what Fail made of an error; "error" of
// all others, which might say anything.
func codeOf(err error) string {
	code := access.CodeOf(err)
	var app *temporal.ApplicationError
	if code == "" && errors.As(err, &app) {
		code = access.Code(app.Type())
	}
	switch code {
	case access.CodeMalformed, access.CodeUnverified, access.CodeStale, access.CodeMismatch, access.CodeDuplicate, access.CodeForbidden,
		access.CodeDenied, access.CodeLimited, access.CodeDeaf, access.CodeNotFound, access.CodeEnded, access.CodeUnavailable:
		return string(code)
	}
	return "error"
}

// traced is a client that sends its traces before it goes.
type traced struct {
	client.Client
	tracing *tracing
}

func (t traced) Close() {
	t.Client.Close()
	t.tracing.Close()
}
