package worker

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/sdk/resource"
	"go.opentelemetry.io/otel/sdk/trace"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/contrib/opentelemetry"
	"go.temporal.io/sdk/interceptor"
)

// flushTimeout is how long the last traces have to get away when a process
// ends. Nobody waits for them otherwise.
const flushTimeout = 3 * time.Second

// traces sends traces to where OpenTelemetry's own OTEL_EXPORTER_OTLP_ENDPOINT
// says, by gRPC, or nowhere if it doesn't: from the command that asks to the
// issuer that signs, in one trace. Spans have ids of workflows and names of
// activities in them, and nothing of what is asked for.
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
	tracing, err := opentelemetry.NewTracingInterceptor(opentelemetry.TracerOptions{
		Tracer: provider.Tracer("hallpass"), DisableBaggage: true,
		DisableQueryTracing:     true, // whoever waits asks all the time
		AllowInvalidParentSpans: true, // anybody may start a workflow
	})
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

// traced is a client that sends its traces before it goes.
type traced struct {
	client.Client
	flush func()
}

func (t traced) Close() {
	t.Client.Close()
	t.flush()
}
