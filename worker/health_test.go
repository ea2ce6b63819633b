package worker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"hallpass/access"
	"hallpass/codec"
)

func get(t *testing.T, address, path string) (int, string) {
	t.Helper()
	answer, err := http.Get("http://" + address + path)
	if err != nil {
		return 0, err.Error()
	}
	defer func() { _ = answer.Body.Close() }()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer.StatusCode, string(body)
}

// A worker without Temporal lives, counts, and says what it waits for.
func TestHealthOfAWorkerThatWaits(t *testing.T) {
	_, c := furnishedConfig(t)
	c.Temporal.Address, c.Health.Address = address(freePort(t)), address(freePort(t))
	c.Service.Address = address(freePort(t))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- Run(ctx, c, c.Roles(), quiet) }()
	var is Readiness
	eventually(t, "it says what it waits for", func() bool {
		status, body := get(t, c.Health.Address, "/ready")
		is = Readiness{}
		return status == http.StatusServiceUnavailable && json.Unmarshal([]byte(body), &is) == nil &&
			len(is.Parts) > 0 && strings.Contains(is.Parts[0].Detail, "doesn't answer")
	})
	ok := map[string]bool{}
	for _, f := range is.Parts {
		ok[f.Part] = f.OK
		if f.Part == "temporal" && !strings.Contains(f.Detail, c.Temporal.Address) {
			t.Errorf("doesn't say where it looks for Temporal: %s", f.Detail)
		}
	}
	want := map[string]bool{
		"process": false, "temporal": false, "queue hallpass": false, "queue hallpass-issue-ssh": false,
		"audit log": true, "rulebook": true, "the SSH CA": true, "the SSH CA of hosts": true, "service": true,
	}
	if diff := cmp.Diff(want, ok); diff != "" {
		t.Error(diff)
	}
	if status, body := get(t, c.Health.Address, "/live"); status != http.StatusOK || !strings.Contains(body, "true") {
		t.Errorf("live: %d %s", status, body)
	}
	status, body := get(t, c.Health.Address, "/metrics")
	for _, name := range []string{"\nhallpass_open_grants 0\n", "\ngo_goroutines ", "\nprocess_resident_memory_bytes "} {
		if !strings.Contains(body, name) {
			t.Errorf("metrics (%d) don't have %s", status, strings.TrimSpace(name))
		}
	}
	if status, _ := get(t, c.Health.Address, "/debug/pprof/"); status != http.StatusNotFound {
		t.Errorf("it serves more than it should: %d", status)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// Keys that can't be read any more are said where people look, while the last
// good ones count.
func TestBrokenCodecKeysAreSaid(t *testing.T) {
	f, c := furnishedConfig(t)
	c.Temporal.Address, c.Health.Address = address(freePort(t)), address(freePort(t))
	c.Temporal.Codec = f.Path("codec.keys")
	write := func(text string) {
		t.Helper()
		if err := errors.Join(os.WriteFile(f.Path("new"), []byte(text), 0o600), os.Rename(f.Path("new"), c.Temporal.Codec)); err != nil {
			t.Fatal(err)
		}
	}
	good := codec.NewKey(time.Now()) + "\n"
	write(good)
	ctx, cancel := context.WithCancel(t.Context())
	var log syncBuffer
	done := make(chan error, 1)
	go func() { done <- Run(ctx, c, []string{RoleWorkflows}, NewLog(&log)) }()
	says := func(what string) func() bool {
		return func() bool {
			_, body := get(t, c.Health.Address, "/ready")
			var is Readiness
			_ = json.Unmarshal([]byte(body), &is)
			for _, f := range is.Parts {
				if f.Part == "codec keys" {
					return f.OK && strings.Contains(f.Detail, what)
				}
			}
			return false
		}
	}
	errorLines := func() int { return strings.Count(log.String(), `"level":"ERROR"`) }
	eventually(t, "all is well", says("in force"))
	write("half a file")
	eventually(t, "it says so", says("the last good version is in force, because "))
	eventually(t, "it is in the log", func() bool { return errorLines() == 1 && strings.Contains(log.String(), "codec keys") })
	write(good)
	eventually(t, "all is well again", func() bool { return says("in force")() && !says("because")() })
	write("half of another file")
	eventually(t, "it is in the log again", func() bool { return errorLines() >= 2 })
	if n := errorLines(); n != 2 {
		t.Errorf("%d error lines: %s", n, log.String())
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// The service needs no Temporal to be of use to hosts.
func TestServiceAloneIsReadyWithoutTemporal(t *testing.T) {
	_, c := furnishedConfig(t)
	c.Temporal.Address, c.Health.Address = address(freePort(t)), address(freePort(t))
	c.Service.Address = address(freePort(t))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- Run(ctx, c, []string{RoleService}, quiet) }()
	var body string
	eventually(t, "it is ready", func() bool {
		var status int
		status, body = get(t, c.Health.Address, "/ready")
		return status == http.StatusOK
	})
	if !strings.Contains(body, "not connected to temporal") {
		t.Errorf("doesn't say that Temporal is away: %s", body)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// What docs/operate.md alerts on is what the Temporal SDK's timer is called
// once it has come out at /metrics.
func TestAlertNamesAMetric(t *testing.T) {
	text, err := os.ReadFile("../docs/operate.md")
	if err != nil {
		t.Fatal(err)
	}
	m, err := newMetrics()
	if err != nil {
		t.Fatal(err)
	}
	m.sdk().Timer("temporal_activity_schedule_to_start_latency").Record(time.Second)
	w := httptest.NewRecorder()
	m.handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	names := regexp.MustCompile("temporal_[a-z_]+").FindAllString(string(text), -1)
	if len(names) == 0 {
		t.Error("no alert")
	}
	for _, name := range names {
		if !strings.Contains(w.Body.String(), "\n"+name+"{") {
			t.Errorf("there is no %s in\n%s", name, w.Body)
		}
	}
}

func TestReady(t *testing.T) {
	fine := func(context.Context) (string, error) { return "fine", nil }
	bad := func(context.Context) (string, error) {
		return "", access.Errorf(access.CodeUnavailable, "it is\ngone").WithHint("start it")
	}
	slow := func(ctx context.Context) (string, error) { <-ctx.Done(); return "", ctx.Err() }
	for _, tt := range []struct {
		name   string
		health *health
		want   Readiness
	}{
		{"all fine", &health{probes: []probe{{part: "a", ask: fine}}}, Readiness{true, []Finding{{Part: "a", OK: true, Detail: "fine"}}}},
		{"one is not", &health{probes: []probe{{part: "a", ask: fine}, {part: "b", ask: bad}}},
			Readiness{false, []Finding{{Part: "a", OK: true, Detail: "fine"}, {Part: "b", Detail: "it is gone", Hint: "start it"}}}},
		{"one that may be missing is not", &health{probes: []probe{{part: "b", ask: bad, may: true}}},
			Readiness{true, []Finding{{Part: "b", Detail: "it is gone", Hint: "start it"}}}},
		{"one takes too long", &health{probes: []probe{{part: "c", ask: slow}}},
			Readiness{false, []Finding{{Part: "c", Detail: "doesn't answer within 3s"}}}},
		{"stopping", &health{stage: stopping, idle: true}, Readiness{false, []Finding{{Part: "process", Detail: "stopping"}}}},
		{"starting", &health{stage: starting, trouble: access.Errorf(access.CodeUnavailable, "vault is sealed").WithHint("unseal it")}, Readiness{false, []Finding{{Part: "process", Detail: "starting: vault is sealed", Hint: "unseal it"}}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				got := tt.health.ready(t.Context())
				if diff := cmp.Diff(tt.want, got, cmp.FilterPath(func(p cmp.Path) bool { return p.Last().String() == ".err" }, cmp.Ignore())); diff != "" {
					t.Error(diff)
				}
			})
		})
	}
}

// A probe that doesn't look at its deadline holds nobody up, and neither it nor
// the others are asked more often than once in a while, whatever they said.
func TestReadyWaitsForNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		var hanging, others atomic.Int32
		h := &health{probes: []probe{
			{part: "b", ask: func(context.Context) (string, error) { hanging.Add(1); <-release; return "late", nil }},
			{part: "a", ask: func(context.Context) (string, error) { others.Add(1); return "fine", nil }},
		}}
		start := time.Now()
		got := h.ready(t.Context())
		if took := time.Since(start); took != probeTimeout {
			t.Errorf("took %s", took)
		}
		want := []Finding{{Part: "b", Detail: "doesn't answer within 3s"}, {Part: "a", OK: true, Detail: "fine"}}
		if diff := cmp.Diff(want, got.Parts, cmp.FilterPath(func(p cmp.Path) bool { return p.Last().String() == ".err" }, cmp.Ignore())); diff != "" || got.Ready {
			t.Error(diff, got.Ready)
		}
		start = time.Now()
		for range 10 { // they would queue
			if h.ready(t.Context()).Ready {
				t.Error("ready")
			}
		}
		if took := time.Since(start); took != 0 || others.Load() != 1 {
			t.Errorf("bad news isn't shared: took %s, asked %d times", took, others.Load())
		}
		<-time.After(probeEvery)
		h.ready(t.Context())
		if others.Load() != 2 || hanging.Load() != 1 {
			t.Errorf("asked %d and %d times, want 2 and, as it still hangs, 1", others.Load(), hanging.Load())
		}
		// It counts when it comes.
		close(release)
		<-time.After(probeEvery)
		if got := h.ready(t.Context()); !got.Ready {
			t.Errorf("it has answered: %+v", got)
		}
	})
}

// What a process enters counts at once.
func TestReadyHearsOfStages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &health{stage: starting}
		if h.ready(t.Context()).Ready {
			t.Error("ready while starting")
		}
		h.enter("", nil)
		if !h.ready(t.Context()).Ready {
			t.Error("bad news outlives its stage")
		}
		h.enter(stopping, nil)
		if h.ready(t.Context()).Ready {
			t.Error("ready while stopping")
		}
	})
}

// Good news is repeated for a while, bad news is asked about again.
func TestSeldom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked atomic.Int32
		broken := false
		ask := seldom(10*time.Second, func(context.Context) (string, error) {
			asked.Add(1)
			if broken {
				return "", errors.New("broken")
			}
			return "fine", nil
		})
		for _, step := range []struct {
			after  time.Duration
			broken bool
			asked  int32
			err    bool
		}{{0, false, 1, false}, {9 * time.Second, true, 1, false}, {time.Second, true, 2, true}, {0, true, 3, true}, {0, false, 4, false}, {0, true, 4, false}} {
			<-time.After(step.after)
			broken = step.broken
			if _, err := ask(t.Context()); asked.Load() != step.asked || err != nil != step.err {
				t.Fatalf("%+v: asked %d times, error %v", step, asked.Load(), err)
			}
		}
	})
}

func TestHealthAddressTaken(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	_, c := furnishedConfig(t)
	c.Health.Address = l.Addr().String()
	err = Run(t.Context(), c, []string{RoleWorkflows}, quiet)
	want := fmt.Sprintf("%s, for health.address, is taken by another program", l.Addr())
	if err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

// Who listens where others can hear is told that this is without TLS.
func TestHealthOffLoopbackIsSaid(t *testing.T) {
	for host, said := range map[string]bool{"127.0.0.1": false, "localhost": false, "0.0.0.0": true} {
		log := &syncBuffer{}
		c := &Config{}
		c.Health.Address = net.JoinHostPort(host, "0")
		_, stop, err := startHealth(t.Context(), c, slog.New(slog.NewJSONHandler(log, nil)))
		if err != nil {
			t.Fatal(err)
		}
		stop()
		if got := strings.Contains(log.String(), `"level":"WARN","msg":"health.address is off loopback: who can reach it sees /ready and /metrics, over plain HTTP"`); got != said {
			t.Errorf("%s: %s", host, log)
		}
	}
}

// refusing is an agent without a key that says why.
type refusing struct{ agent.ExtendedAgent }

func (refusing) Extension(string, []byte) ([]byte, error) {
	return ssh.Marshal(struct {
		Text string `sshtype:"6"`
	}{"AccessDeniedException: not with this key"}), nil
}

// An issuer whose CA key is elsewhere waits for it, and is not ready; what keeps
// the key says why.
func TestHealthOfAnIssuerWithoutItsKey(t *testing.T) {
	dir, err := os.MkdirTemp("", "agent") // socket paths are at most 104 bytes long
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	socket := dir + "/s"
	_, c := furnishedConfig(t)
	c.Health.Address, c.Issuers.SSH.Key = address(freePort(t)), "agent:SHA256:AAAA"
	c.env = environ(map[string]string{"SSH_AUTH_SOCK": socket})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- Run(ctx, c, []string{RoleIssuerSSH}, quiet) }()
	says := func(want string) {
		t.Helper()
		eventually(t, "it says "+want, func() bool {
			status, body := get(t, c.Health.Address, "/ready")
			return status == http.StatusServiceUnavailable && strings.Contains(body, want)
		})
	}
	says("ssh-agent at " + socket + ": ")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_ = agent.ServeAgent(refusing{agent.NewKeyring().(agent.ExtendedAgent)}, conn)
			_ = conn.Close()
		}
	}()
	says("AccessDeniedException: not with this key")
	cancel()
	if err := <-done; err != nil && !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	_ = l.Close()
}
