package worker

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	exporter "go.opentelemetry.io/otel/exporters/prometheus"
	"go.opentelemetry.io/otel/metric"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/contrib/opentelemetry"
)

// metrics counts what a process does: what the Temporal SDK counts, and what
// workflows and activities count through it. docs/operate.md lists what is
// hallpass's own. No label has a name, a resource or a request in it.
type metrics struct {
	registry *prometheus.Registry
	meter    metric.Meter
}

func newMetrics() (*metrics, error) {
	m := &metrics{registry: prometheus.NewRegistry()}
	reader, err := exporter.New(exporter.WithRegisterer(m.registry), exporter.WithoutScopeInfo(), exporter.WithoutTargetInfo())
	if err != nil {
		return nil, fmt.Errorf("make metrics: %w", err)
	}
	m.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	m.meter = sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader)).Meter("hallpass")
	return m, nil
}

func (m *metrics) handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{MaxRequestsInFlight: 2, Timeout: probeTimeout})
}

// sdk is how the Temporal SDK counts, nil if it needn't.
func (m *metrics) sdk() client.MetricsHandler {
	if m == nil {
		return nil
	}
	return opentelemetry.NewMetricsHandler(opentelemetry.MetricsHandlerOptions{
		Meter: m.meter, UseMonotonicCounters: true,
		// A counter that can't be made is no reason not to work.
		OnError: func(error) {},
	})
}

// watch has a value asked for whenever metrics are. What can't be found out
// then is left out.
func (m *metrics) watch(name, about string, value func(context.Context) (float64, bool)) error {
	if m == nil {
		return nil
	}
	_, err := m.meter.Float64ObservableGauge(name, metric.WithDescription(about),
		metric.WithFloat64Callback(func(ctx context.Context, o metric.Float64Observer) error {
			ctx, cancel := context.WithTimeout(ctx, time.Second)
			defer cancel()
			if v, ok := value(ctx); ok {
				o.Observe(v)
			}
			return nil
		}))
	if err != nil {
		return fmt.Errorf("make metric %s: %w", name, err)
	}
	return nil
}
