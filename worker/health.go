package worker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"time"

	"go.temporal.io/api/serviceerror"
	"go.temporal.io/api/workflowservice/v1"

	"hallpass/access"
	"hallpass/internal/wording"
)

// Readiness is what GET /ready answers: with 200 if all parts work, else with
// 503. Nothing in it is secret.
type Readiness struct {
	Ready bool      `json:"ready"`
	Parts []Finding `json:"parts"`
}

// health answers for one process: whether it lives, whether it can do its
// work, and how much of it it has done.
//
//	GET /live     the process can answer; nothing else is asked. Not answering is a reason to end it
//	GET /ready    each part that its roles need, and what is wrong with it. Not ready is no reason to
//	              end a process: what is down is waited for. One that is stopping isn't ready
//	GET /metrics  for Prometheus
//
// The zero value answers nobody and counts nothing.
type health struct {
	metrics *metrics // nil: nothing is counted

	mu      sync.Mutex
	probes  []probe
	stage   string // what it does instead of polling task queues; "" while it does that
	trouble error  // what it waits for in that stage
	idle    bool   // it has no task queue to poll
	changes int    // of the above

	asking sync.Mutex
	latest Readiness
	asked  time.Time
	since  int                 // of changes, what latest has heard
	open   map[int]chan answer // by probe: asked, and its answer hasn't been taken
}

// answer is what a probe says.
type answer struct {
	detail string
	err    error
}

// probe is one part that a process needs.
type probe struct {
	part string
	ask  func(context.Context) (detail string, err error)
	may  bool // be missing
}

// The stages before and after.
const (
	starting = "starting"
	stopping = "stopping"
)

const (
	probeTimeout = 3 * time.Second // for all parts together
	probeEvery   = time.Second     // more often than that, answers are repeated
	probeKey     = 10 * time.Second
)

// startHealth listens on health.address until ctx ends, if there is one. The
// process lives from here on, and isn't ready.
func startHealth(ctx context.Context, c *Config, log *slog.Logger) (h *health, stop func(), err error) {
	h = &health{stage: starting}
	address := c.Health.Address
	if address == "" {
		return h, func() {}, nil
	}
	if h.metrics, err = newMetrics(); err != nil {
		return nil, nil, err
	}
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, nil, access.Errorf(access.CodeUnavailable, "%s, for health.address, is taken by another program", address).
			WithHint("stop it, or name another in hallpass.yaml or HALLPASS_HEALTH_ADDRESS: each worker on a machine needs its own")
	} else if err != nil {
		return nil, nil, access.Errorf(access.CodeMalformed, "health.address: can't listen on %s: %v", address, err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /live", func(w http.ResponseWriter, _ *http.Request) { reply(w, http.StatusOK, map[string]bool{"live": true}) })
	mux.HandleFunc("GET /ready", h.serveReady)
	mux.Handle("GET /metrics", h.metrics.handler())
	server := &http.Server{
		Handler: mux, ReadHeaderTimeout: probeTimeout, ReadTimeout: probeTimeout, WriteTimeout: 2 * probeTimeout,
		IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			log.Error("health.address is not served any more", "error", err)
		}
	}()
	log.Info("says how it is", "address", "http://"+l.Addr().String())
	if a, ok := l.Addr().(*net.TCPAddr); ok && !a.IP.IsLoopback() {
		log.Warn("health.address is off loopback: who can reach it sees /ready and /metrics, over plain HTTP", "address", l.Addr().String())
	}
	return h, func() { _ = server.Close(); <-done }, nil
}

func reply(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // who doesn't listen doesn't hear
}

func (h *health) serveReady(w http.ResponseWriter, r *http.Request) {
	ready := h.ready(r.Context())
	status := http.StatusOK
	if !ready.Ready {
		status = http.StatusServiceUnavailable
	}
	reply(w, status, ready)
}

// ready asks all parts, at the same time, and waits probeTimeout for them at the
// most. Askers that come together, or soon after, get one answer.
func (h *health) ready(ctx context.Context) Readiness {
	h.asking.Lock()
	defer h.asking.Unlock()
	h.mu.Lock()
	probes, stage, trouble, changes := h.probes, h.stage, h.trouble, h.changes
	if h.idle && stage == starting {
		stage = ""
	}
	h.mu.Unlock()
	if !h.asked.IsZero() && h.since == changes && time.Since(h.asked) < probeEvery {
		return h.latest
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), probeTimeout)
	defer cancel()
	out := Readiness{Ready: stage == ""}
	if stage != "" {
		f := finding("process", "", trouble)
		f.OK, f.Detail = false, strings.TrimSuffix(stage+": "+f.Detail, ": ")
		out.Parts = []Finding{f}
	}
	answers := make([]chan answer, len(probes))
	for i, p := range probes {
		answers[i] = h.ask(ctx, i, p)
	}
	for i, p := range probes {
		a := answer{err: context.DeadlineExceeded}
		select {
		case a = <-answers[i]:
			delete(h.open, i)
		case <-ctx.Done():
			select {
			case a = <-answers[i]: // in time, while another was waited for
				delete(h.open, i)
			default:
			}
		}
		if errors.Is(a.err, context.DeadlineExceeded) {
			a.err = access.Errorf(access.CodeUnavailable, "doesn't answer within %s", access.ShortDuration(probeTimeout))
		}
		f := finding(p.part, a.detail, a.err)
		out.Ready = out.Ready && (f.OK || p.may)
		out.Parts = append(out.Parts, f)
	}
	h.latest, h.asked, h.since = out, time.Now(), changes
	return out
}

// ask asks a probe, unless it still is about an earlier question: not all of
// them know when to give up.
func (h *health) ask(ctx context.Context, i int, p probe) chan answer {
	if before, is := h.open[i]; is && len(before) == 0 {
		return before
	}
	if h.open == nil {
		h.open = map[int]chan answer{}
	}
	heard := make(chan answer, 1) // what comes too late is nobody's
	h.open[i] = heard
	go func() {
		detail, err := p.ask(ctx)
		heard <- answer{detail, err}
	}()
	return heard
}

// add makes a part one of those that have to work.
func (h *health) add(part string, ask func(context.Context) (string, error)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.probes = append(h.probes, probe{part: part, ask: ask})
	h.changes++
}

// mention has a part in the answer that a process is ready without.
func (h *health) mention(part string, ask func(context.Context) (string, error)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.probes = append(h.probes, probe{part: part, ask: ask, may: true})
	h.changes++
}

// addTemporal makes Temporal one of them, where there is a task queue. The
// service alone is ready without: hosts get their lists all the same.
func (h *health) addTemporal(ask func(context.Context) (string, error), queues bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.idle = !queues
	h.probes = append(h.probes, probe{part: "temporal", ask: ask, may: !queues})
	h.changes++
}

// enter says what the process does, "" for serving, and why it isn't further.
func (h *health) enter(stage string, why error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.stage, h.trouble = stage, why
	h.changes++
}

// seldom asks at most once in a while and repeats what it heard. Trouble is
// asked about every time.
func seldom(every time.Duration, ask func(context.Context) (string, error)) func(context.Context) (string, error) {
	var (
		mu     sync.Mutex
		detail string
		asked  time.Time
	)
	return func(ctx context.Context) (_ string, err error) {
		mu.Lock()
		defer mu.Unlock()
		if !asked.IsZero() && time.Since(asked) < every {
			return detail, nil
		}
		asked = time.Time{}
		if detail, err = ask(ctx); err == nil {
			asked = time.Now()
		}
		return detail, err
	}
}

// askTemporal says whether Temporal answers, and has the namespace.
func (p *parts) askTemporal(ctx context.Context) (string, error) {
	o, err := p.config.profile()
	if err != nil {
		return "", err
	}
	cl := p.temporal.Load()
	if cl == nil {
		return "", access.Errorf(access.CodeUnavailable, "not connected to temporal at %s yet", o.Address)
	}
	_, err = (*cl).WorkflowService().DescribeNamespace(ctx, &workflowservice.DescribeNamespaceRequest{Namespace: o.Namespace})
	var absent *serviceerror.NamespaceNotFound
	switch {
	case errors.As(err, &absent):
		return "", noNamespace(o)
	case ctx.Err() != nil:
		return "", ctx.Err()
	case turnedAway(err):
		return "", p.config.away(o, err)
	case err != nil:
		return "", access.Errorf(access.CodeUnavailable, "temporal at %s: %s", o.Address, cause(err))
	}
	detail := fmt.Sprintf("%s, namespace %s", o.Address, o.Namespace)
	if unseen := p.unseen.Load(); unseen != nil && *unseen != "" {
		detail += "; " + *unseen
	}
	return detail, nil
}

// askQueue says whether a task queue is being polled.
func (p *parts) askQueue(s *station) func(context.Context) (string, error) {
	build := seldom(probeKey, func(ctx context.Context) (string, error) { as, _ := p.askBuild(ctx); return as, nil })
	return func(ctx context.Context) (string, error) {
		if !s.polls.Load() {
			return "", access.Errorf(access.CodeUnavailable, "task queue %s isn't polled yet", s.queue)
		}
		as := ""
		if s.builds {
			as, _ = build(ctx)
		}
		return "polls " + s.queue + as, nil
	}
}

// askAudit says whether the audit log takes events.
func (p *parts) askAudit(ctx context.Context) (string, error) {
	if err := p.audit.Writable(ctx); err != nil {
		return "", err
	}
	return "takes events", nil
}

// askBook says which rulebook is in force. A broken file is no reason not to
// work: the last good one counts.
func (p *parts) askBook(context.Context) (string, error) {
	return inForce(p.book.files.Broken())
}

func inForce(broken error) (string, error) {
	if broken != nil {
		return "the last good version is in force, because " + wording.Line(broken.Error()), nil
	}
	return "in force", nil
}
