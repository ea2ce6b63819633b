package topology

import (
	"context"
	"encoding/hex"
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/grpc"

	"hallpass/cli"
)

// collecting is an OpenTelemetry collector that keeps the kinds and names of
// spans, by trace.
type collecting struct {
	collector.UnimplementedTraceServiceServer
	mu    sync.Mutex
	spans map[string][]string
	all   strings.Builder
}

func (c *collecting) Export(_ context.Context, in *collector.ExportTraceServiceRequest) (*collector.ExportTraceServiceResponse, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, r := range in.ResourceSpans {
		for _, s := range r.ScopeSpans {
			for _, span := range s.Spans {
				id := hex.EncodeToString(span.TraceId)
				c.spans[id] = append(c.spans[id], strings.TrimPrefix(span.Kind.String(), "SPAN_KIND_")+" "+span.Name)
			}
		}
	}
	c.all.WriteString(in.String())
	return &collector.ExportTraceServiceResponse{}, nil
}

// TestWhatItSays listens to what processes say of themselves: in traces, and
// when they are asked.
func TestWhatItSays(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &collecting{spans: map[string][]string{}}
	s := grpc.NewServer()
	collector.RegisterTraceServiceServer(s, c)
	go func() { _ = s.Serve(l) }()
	t.Cleanup(s.Stop)

	w := furnish(t)
	w.env["OTEL_EXPORTER_OTLP_ENDPOINT"] = "http://" + l.Addr().String()
	w.run("workflows-1", "issuer-1", "service")
	t.Run("one trace", func(t *testing.T) {
		t.Run("by Temporal", func(t *testing.T) { w.oneTrace(t, c) })
		w.env["HALLPASS_SERVICE"] = "https://" + w.service
		t.Run("by the service", func(t *testing.T) { w.oneTrace(t, c, "CLIENT POST /v1/requests", "SERVER POST /v1/requests") })
	})
	t.Run("ready", w.readySaysWhich)
}

// oneTrace follows a request from the command to the certificate: one trace
// over all processes, with these spans on the way to Temporal. (The workflow
// itself is in it once it has ended.)
func (w *world) oneTrace(t *testing.T, c *collecting, way ...string) {
	c.mu.Lock()
	c.spans = map[string][]string{}
	c.mu.Unlock()
	code, _, errs := w.as(t.Context(), "alice", "request", "ssh/web-2", "--for", "10m", "--reason", "words for nobody's trace", "--timeout", "1m")
	if code != cli.ExitOK {
		t.Fatal(errs)
	}
	want := append(way, "CLIENT StartWorkflow:AccessRequest", "SERVER RunActivity:Decide", "CLIENT StartActivity:Issue", "SERVER RunActivity:Issue")
	w.poll("the trace", func() error {
		c.mu.Lock()
		defer c.mu.Unlock()
		for _, names := range c.spans {
			if !slices.ContainsFunc(want, func(name string) bool { return !slices.Contains(names, name) }) {
				return nil
			}
		}
		return fmt.Errorf("no trace has all of %q: %q", want, slices.Collect(maps.Values(c.spans)))
	})
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, private := range []string{"words for nobody", "web-2"} {
		if strings.Contains(c.all.String(), private) {
			t.Errorf("a trace says %q", private)
		}
	}
}

// readySaysWhich: while PostgreSQL is away, workers say so, and that it is; the
// moment that it is back, they are ready.
func (w *world) readySaysWhich(t *testing.T) {
	w.pg.Stop()
	w.poll("workers to notice", func() error {
		for name := range w.programs {
			if w.programs[name].health == "" {
				continue
			}
			err := isReady(w.programs[name].health)
			if err == nil || !strings.Contains(err.Error(), "Part:audit log OK:false") {
				return fmt.Errorf("%s: %w", name, err)
			}
			if !strings.Contains(err.Error(), "PostgreSQL can't be reached") && !strings.Contains(err.Error(), "doesn't answer within") {
				t.Errorf("%s doesn't say what is wrong: %v", name, err)
			}
		}
		return nil
	})
	w.pg.Restart(t)
	for name := range w.programs {
		w.ready(name)
	}
}
