package worker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/sdk/resource"
	"go.opentelemetry.io/otel/sdk/trace"
	oteltrace "go.opentelemetry.io/otel/trace"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/contrib/opentelemetry"
	"go.temporal.io/sdk/interceptor"
	"go.temporal.io/sdk/temporal"

	"hallpass/access"
)

// flushTimeout is how long the last traces have to get away when a process
// ends. Nobody waits for them otherwise.
const flushTimeout = 3 * time.Second

// traces sends traces to where OpenTelemetry's own OTEL_EXPORTER_OTLP_ENDPOINT
// says, by gRPC, or nowhere if it doesn't: from the command that asks to the
// issuer that signs, in one trace. Spans have ids of workflows and names of
// activities in them and the codes of errors, and nothing of what is asked for.
//
// That traces don't get away is nobody's concern but the log's.
func (c *Config) traces(ctx context.Context, log *slog.Logger) (_ interceptor.Interceptor, flush func(), err error) {
	endpoint := cmp.Or(c.getenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"), c.getenv("OTEL_EXPORTER_OTLP_ENDPOINT"))
	if endpoint == "" {
		return nil, func() {}, nil
	}
	exporter, err := otlptracegrpc.New(ctx, otlptracegrpc.WithEndpointURL(endpoint))
	if err != nil {
		return nil, nil, fmt.Errorf("OTEL_EXPORTER_OTLP_ENDPOINT: %w", err)
	}
	name := cmp.Or(c.getenv("OTEL_SERVICE_NAME"), "hallpass")
	provider := trace.NewTracerProvider(trace.WithBatcher(exporter), trace.WithResource(resource.NewSchemaless(attribute.String("service.name", name))))
	tracing, err := newTracing(provider)
	if err != nil {
		return nil, nil, fmt.Errorf("make traces: %w", err)
	}
	return tracing, func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), flushTimeout)
		defer cancel()
		if err := provider.Shutdown(ctx); err != nil {
			log.Warn("the last traces are lost", "error", oneLine(err.Error()))
		}
	}, nil
}

func newTracing(provider *trace.TracerProvider) (interceptor.Interceptor, error) {
	return opentelemetry.NewTracingInterceptor(opentelemetry.TracerOptions{
		Tracer: provider.Tracer("hallpass"), DisableBaggage: true,
		DisableQueryTracing:     true, // whoever waits asks all the time
		AllowInvalidParentSpans: true, // anybody may start a workflow
		SpanStarter: func(ctx context.Context, t oteltrace.Tracer, name string, o ...oteltrace.SpanStartOption) oteltrace.Span {
			_, span := t.Start(ctx, name, o...)
			return &discreet{Span: span}
		},
	})
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
	flush func()
}

func (t traced) Close() {
	t.Client.Close()
	t.flush()
}
