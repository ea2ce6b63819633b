package topology

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"golang.org/x/crypto/ssh"

	"hallpass/access"
	"hallpass/audit"
	"hallpass/ca"
	"hallpass/catalog"
	"hallpass/cli"
)

const (
	inFlight = 6                // people at a time
	long     = 20 * time.Second // of each grant
	visit    = 2 * time.Minute  // of one that is given back before that
)

// TestEachPartKilled has HALLPASS_TOPOLOGY_REQUESTS (60) requests with an
// approval each run their lives, half of them by way of Temporal and half by the
// service, while each process is killed with kill -9 and
// started again in turn. Nothing is lost, nothing is issued twice, and nothing
// lives past its grant. Beside them one person logs in to both hosts, and is
// shut out of them when he has given the grant back, and another reads a
// database with logins of Vault's.
func TestEachPartKilled(t *testing.T) {
	w := furnish(t)
	w.furnishVault(w.database())
	w.furnishHosts()
	w.run()
	w.enroll()
	// Nobody comes to the audit log as the owner of its tables.
	if who := w.pg.Value(t, "audit", "SELECT string_agg(DISTINCT usename, ' ' ORDER BY usename) FROM pg_stat_activity WHERE datname = 'audit' AND usename LIKE 'hallpass%'"); who != "hallpass_service hallpass_writer" {
		t.Errorf("who has connections to the audit log: %s", who)
	}
	wanted := 60
	if text := os.Getenv("HALLPASS_TOPOLOGY_REQUESTS"); text != "" {
		var err error
		if wanted, err = strconv.Atoi(text); err != nil {
			t.Fatal(err)
		}
	}
	victims := []string{"history", "matching", "frontend", "postgres", "workflows-1", "issuer-1", "service", "vault", "issuer-vault"}

	// Some of the requests before each death, and the rest after the last.
	var granted, served, visited, opened atomic.Int64
	var left atomic.Int64
	left.Store(int64(wanted))
	var people sync.WaitGroup
	for i := range inFlight {
		who := caller{person: "alice", folder: filepath.Join(w.dir, "people/alice", fmt.Sprintf("terminal-%d", i))}
		if i%2 == 1 {
			who.service = "https://" + w.service
		}
		people.Go(func() {
			for left.Add(-1) >= 0 {
				if err := w.live(t.Context(), who); err != nil {
					t.Error(err)
					return
				}
				if who.service != "" {
					served.Add(1)
				}
				granted.Add(1)
			}
		})
	}
	beside, enough := context.WithCancel(t.Context())
	defer enough()
	repeat := func(done *atomic.Int64, what func(context.Context) error) {
		people.Go(func() {
			for beside.Err() == nil {
				if err := what(t.Context()); err != nil {
					t.Error(err)
					return
				}
				done.Add(1)
			}
		})
	}
	for name := range w.hosts {
		repeat(&visited, func(ctx context.Context) error { return w.visit(ctx, name) })
	}
	repeat(&opened, w.open)
	early := []byte(nil)
	for i, victim := range victims {
		due := int64((i + 1) * wanted / (len(victims) + 2))
		w.poll(fmt.Sprintf("%d grants", due), func() error {
			if t.Failed() {
				t.FailNow()
			}
			if n := granted.Load(); n < due {
				return fmt.Errorf("there are %d", n)
			}
			return nil
		})
		if early == nil {
			var err error
			if early, err = w.log().Checkpoint(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		began := time.Now()
		w.kill(victim)
		w.restart(victim)
		who, what := &granted, "grant"
		switch victim {
		case "service":
			who, what = &served, "grant by the service"
		case "vault", "issuer-vault":
			who, what = &opened, "login of Vault's"
		}
		before := who.Load()
		w.poll("a "+what+" after the death of "+victim, func() error {
			if t.Failed() {
				t.FailNow()
			}
			if who.Load() == before {
				return fmt.Errorf("none")
			}
			return nil
		})
		t.Logf("%s killed after %d grants; the next %s came after %s", victim, granted.Load(), what, time.Since(began).Round(10*time.Millisecond))
		if victim == "service" {
			w.poll("the service to answer", w.list)
		}
	}
	enough()
	people.Wait()
	if n := granted.Load(); n != int64(wanted) {
		t.Fatalf("%d of %d requests were granted", n, wanted)
	}
	for name := range w.programs {
		w.ready(name)
	}
	if n := served.Load(); n < int64(wanted/4) {
		t.Errorf("%d of %d requests went by the service", n, wanted)
	}
	t.Logf("%d grants by the service; %d logins on hosts, each refused after its grant was given back; %d logins of Vault's", served.Load(), visited.Load(), opened.Load())
	w.forget(t.Context())
	w.accounts(t, wanted, early)
	w.nothingLeft(t)
}

// live is one request's life as two people see it: asked, approved, granted.
// While something is down they try again, as people do, with the same request.
func (w *world) live(ctx context.Context, who caller) error {
	id, err := w.ask(ctx, who, "ssh/web-1", long)
	if err == nil {
		err = w.approve(ctx, who, id)
	}
	if err != nil {
		return err
	}
	return w.receive(ctx, who, id)
}

// alice is the one who asks, by way of Temporal.
var alice = caller{person: "alice"}

func (w *world) ask(ctx context.Context, who caller, resource string, d time.Duration) (id string, err error) {
	return id, wait("a request to be taken", func() error {
		code, out, errs := w.by(ctx, who, "request", resource, "--for", access.ShortDuration(d), "--reason", "topology", "--no-wait", "--output", "json")
		if code != cli.ExitOK {
			if taken := cancelIt.FindStringSubmatch(errs); taken != nil {
				w.unheard.Store(taken[1], who)
				w.visits.Store(taken[1], d)
			}
			return fmt.Errorf("request: exit code %d: %s", code, errs)
		}
		var a struct{ ID string }
		err := json.Unmarshal([]byte(out), &a)
		id = a.ID
		return err
	})
}

// cancelIt is in what is said where nobody knows whether a request was taken.
var cancelIt = regexp.MustCompile(`hallpass cancel ([0-9a-f-]{36})`)

// forget cancels the requests whose makers didn't hear that they were taken, those that
// were and that wait for somebody. None is helped on by it: each has its ruling before.
func (w *world) forget(ctx context.Context) {
	w.unheard.Range(func(id, who any) bool {
		w.poll("request "+id.(string)+" to be cancelled", func() error {
			code, out, errs := w.by(ctx, who.(caller), "show", id.(string), "--output", "json")
			if code == cli.ExitNotFound {
				w.t.Logf("request %s wasn't answered, and wasn't taken", id)
				return nil
			}
			var s access.Status
			if code != cli.ExitOK {
				return fmt.Errorf("show: exit code %d: %s", code, errs)
			}
			if err := json.Unmarshal([]byte(out), &s); err != nil {
				return err
			}
			switch {
			case s.State == access.StatePending && s.Standing.Effect == access.EffectAsk:
				if code, _, errs := w.by(ctx, who.(caller), "cancel", id.(string)); code != cli.ExitOK {
					return fmt.Errorf("cancel: exit code %d: %s", code, errs)
				}
			case s.State != access.StateActive && !s.State.Final():
				return fmt.Errorf("it is %s", s.State)
			}
			w.t.Logf("request %s wasn't answered, and was %s", id, s.State)
			return nil
		})
		return true
	})
}

// approve has bob approve what somebody has asked for, by the same way.
func (w *world) approve(ctx context.Context, who caller, id string) error {
	return wait("its approval", func() error {
		code, _, errs := w.by(ctx, caller{person: "bob", service: who.service}, "approve", id)
		// It may have been heard although the answer was lost.
		if code != cli.ExitOK && w.state(ctx, who, id) == access.StatePending {
			return fmt.Errorf("approve: exit code %d: %s", code, errs)
		}
		return nil
	})
}

func (w *world) granted(ctx context.Context, who caller, id string) error {
	return wait("its grant", func() error {
		if s := w.state(ctx, who, id); s != access.StateActive && !s.Final() {
			return fmt.Errorf("request %s is %q", id, s)
		}
		return nil
	})
}

// receive waits until somebody has the certificate for a host that a request of
// his gives, and keeps it for accounts. What has ended meanwhile gives none.
func (w *world) receive(ctx context.Context, who caller, id string) error {
	return wait("its certificate", func() error {
		code, out, errs := w.by(ctx, who, "wait", id, "--output", "json")
		if code != cli.ExitOK {
			if w.state(ctx, who, id).Final() {
				return nil
			}
			return fmt.Errorf("wait: exit code %d: %s", code, errs)
		}
		return w.hold(id, out)
	})
}

// hold keeps the certificate that hallpass wait says it has put into a file, as it
// would stand in the log.
func (w *world) hold(id, said string) error {
	var got struct{ Certificate string }
	if err := json.Unmarshal([]byte(said), &got); err != nil {
		return err
	}
	line, err := os.ReadFile(got.Certificate)
	if err != nil {
		return err
	}
	key, _, _, _, err := ssh.ParseAuthorizedKey(line)
	if err != nil {
		return err
	}
	w.held.Store(id, ca.Marshal(key.(*ssh.Certificate)))
	return nil
}

func (w *world) state(ctx context.Context, who caller, id string) access.State {
	code, out, _ := w.by(ctx, who, "show", id, "--output", "json")
	var s access.Status
	if code != cli.ExitOK || json.Unmarshal([]byte(out), &s) != nil {
		return access.StatePending // nobody can say
	}
	return s.State
}

// list has the service give out the list of revoked certificates, as hosts do.
func (w *world) list() error {
	c := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: w.pool("service-ca/ca.pem"), MinVersion: tls.VersionTLS13}}}
	answer, err := c.Get("https://" + w.service + "/v1/krl")
	if err != nil {
		return err
	}
	_ = answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("the service answers %s", answer.Status)
	}
	return nil
}

// accounts waits for the last grant to end, and then goes through the books.
func (w *world) accounts(t *testing.T, atLeast int, since []byte) {
	log := w.log()
	w.poll("all grants to end", func() error {
		n, err := log.CountOpen(t.Context())
		if err == nil && n > 0 {
			err = fmt.Errorf("%d are open", n)
		}
		return err
	})
	temporal := w.dial()
	w.poll("all requests to have an outcome", func() error {
		for _, status := range []string{"Running", "Failed", "Terminated", "TimedOut", "Canceled"} {
			n, err := temporal.CountWorkflow(t.Context(), &workflowservice.CountWorkflowExecutionsRequest{
				Namespace: namespace, Query: fmt.Sprintf("WorkflowType = %q AND ExecutionStatus = %q", access.Workflow, status),
			})
			if err != nil {
				return err
			}
			if n.Count > 0 && status != "Running" {
				t.Fatalf("%d requests are %s in Temporal", n.Count, status)
			}
			if n.Count > 0 {
				return fmt.Errorf("%d run: %s", n.Count, w.running(t.Context(), temporal))
			}
		}
		return nil
	})

	// Every request that was received has ended, and each was issued once.
	received, issued := map[string]bool{}, map[string][]string{}
	type identity struct {
		ca     string
		serial uint64
	}
	serials := map[identity]string{}
	for rec, err := range log.Events(t.Context(), audit.Query{}) {
		if err != nil {
			t.Fatal(err)
		}
		switch rec.Event.Type {
		case audit.RequestReceived:
			received[rec.Event.Request] = true
		case audit.CredentialIssued:
			issued[rec.Event.Request] = append(issued[rec.Event.Request], rec.Event.Credential.Certificate)
		}
	}
	if len(received) < atLeast {
		t.Errorf("%d requests are on record, %d were made", len(received), atLeast)
	}
	for id := range received {
		entry, found, err := log.Entry(t.Context(), id)
		switch {
		case err != nil:
			t.Fatal(err)
		case !found || !entry.Ended.Final():
			t.Errorf("request %s has no outcome: %+v", id, entry)
			continue
		case entry.Credential == nil:
			continue // nobody approved it: the answer to its maker was lost
		}
		if once := []string{entry.Credential.Certificate}; !slices.Equal(issued[id], once) {
			t.Errorf("request %s has %q in the ledger, and in the log %q", id, once, issued[id])
		}
		h := entry.Handle
		longest := long
		if d, is := w.visits.Load(id); is {
			longest = d.(time.Duration)
		}
		if h.NotAfter.Sub(h.NotBefore) > longest {
			t.Errorf("the grant of %s went from %s to %s", id, h.NotBefore, h.NotAfter)
		}
		if h.Kind == catalog.KindVault {
			continue
		}
		is := identity{h.CA, h.Serial}
		if other, twice := serials[is]; twice {
			t.Errorf("requests %s and %s have one serial, %d of %s", id, other, h.Serial, h.CA)
		}
		serials[is] = id
		key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(entry.Credential.Certificate))
		if err != nil {
			t.Fatal(err)
		}
		certificate := key.(*ssh.Certificate)
		if end := time.Unix(int64(certificate.ValidBefore), 0); end.After(h.NotAfter) || certificate.Serial != h.Serial {
			t.Errorf("the certificate of %s ends %s, its grant %s", id, end, h.NotAfter)
		}
	}
	// What people have had is what is on record, and there is no other certificate.
	had := 0
	w.held.Range(func(id, line any) bool {
		had++
		if recorded := issued[id.(string)]; !slices.Equal(recorded, []string{line.(string)}) {
			t.Errorf("somebody had %q for request %s, and on record is %q", line, id, recorded)
		}
		return true
	})
	if had < atLeast/2 { // some ended before anybody had them: something was down
		t.Errorf("people had %d certificates for %d requests", had, atLeast)
	}
	if len(serials) < atLeast {
		t.Errorf("%d certificates for %d requests", len(serials), atLeast)
	}
	report, err := log.Verify(t.Context(), audit.VerifyOptions{Since: since})
	if err != nil || !report.OK {
		t.Fatalf("the audit log doesn't verify: %v %+v", err, report.Problems)
	}
	// The published checkpoint is one of this log, so it hasn't forked.
	if published, err := os.ReadFile(w.env["HALLPASS_AUDIT_PUBLISH"]); err != nil {
		t.Error(err)
	} else if report, err := log.Verify(t.Context(), audit.VerifyOptions{Since: published}); err != nil || !report.OK {
		t.Errorf("the log doesn't go on from the published checkpoint: %v %+v", err, report.Problems)
	}
	t.Logf("%d requests, %d certificates, of which %d were seen in people's hands, %d events, verified", len(received), len(serials), had, report.Events)
}

// running says which requests run, and how far each is.
func (w *world) running(ctx context.Context, temporal client.Client) string {
	run, err := temporal.ListWorkflow(ctx, &workflowservice.ListWorkflowExecutionsRequest{
		Namespace: namespace, PageSize: 10, Query: fmt.Sprintf("WorkflowType = %q AND ExecutionStatus = 'Running'", access.Workflow),
	})
	if err != nil {
		return err.Error()
	}
	var said []string
	for _, e := range run.Executions {
		_, out, errs := w.as(ctx, "bob", "show", strings.TrimPrefix(e.Execution.WorkflowId, access.WorkflowID("")))
		said = append(said, e.Execution.WorkflowId, out, errs)
		events := temporal.GetWorkflowHistory(ctx, e.Execution.WorkflowId, "", false, enumspb.HISTORY_EVENT_FILTER_TYPE_ALL_EVENT)
		for events.HasNext() {
			if event, err := events.Next(); err == nil {
				said = append(said, fmt.Sprintf("%d %s %s", event.EventId, event.EventTime.AsTime().Format(time.StampMilli), event.EventType))
			}
		}
	}
	return strings.Join(said, "\n")
}

// unnoticed is longer than a request takes on a busy machine, and shorter than
// the 10 seconds after which a task is missed that was handed to nobody.
const unnoticed = 8 * time.Second

// rollingRestart replaces two issuers and two workflow workers, one after the
// other and twice, as upgrades do, while requests come in. Nobody notices.
func (w *world) rollingRestart(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	var asked, slowest atomic.Int64
	var people sync.WaitGroup
	var mu sync.Mutex
	var requests []string
	late := map[string]time.Duration{} // by request
	for i, how := range []struct {
		resource, service string
		approved          bool
	}{
		{resource: "ssh/web-2"}, {resource: "ssh/web-2"}, {resource: "ssh/web-2", service: "https://" + w.service}, {resource: "ssh/web-1", approved: true},
	} {
		people.Go(func() {
			alice := caller{person: "alice", service: how.service, folder: filepath.Join(w.dir, "people/alice", fmt.Sprintf("rolling-%d", i))}
			bob := caller{person: "bob", service: how.service}
			for ctx.Err() == nil {
				began := time.Now()
				args := []string{"request", how.resource, "--for", access.ShortDuration(long), "--reason", "topology", "--output", "json"}
				if how.approved {
					args = append(args, "--no-wait")
				} else {
					args = append(args, "--timeout", "1m")
				}
				out, ok := w.does(t, alice, args...)
				if !ok {
					return
				}
				asked.Add(1)
				var a struct{ ID string }
				if err := json.Unmarshal([]byte(out), &a); err != nil {
					t.Error(err)
				}
				if how.approved {
					if _, ok := w.does(t, bob, "approve", a.ID); !ok {
						return
					}
					if out, ok = w.does(t, alice, "wait", a.ID, "--timeout", "1m", "--output", "json"); !ok {
						return
					}
				}
				if err := w.hold(a.ID, out); err != nil {
					t.Error(err)
				}
				took := time.Since(began)
				slowest.Store(max(slowest.Load(), took.Milliseconds()))
				mu.Lock()
				requests = append(requests, a.ID)
				if took > unnoticed {
					late[a.ID] = took
				}
				mu.Unlock()
			}
		})
	}
	stopped := map[string]time.Time{}
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"issuer-1", "workflows-1", "issuer-2", "workflows-2", "issuer-1", "workflows-1", "issuer-2", "workflows-2"} {
		before := asked.Load()
		stopped[fmt.Sprintf("hallpass@%s:%d", host, w.programs[name].process.Pid())] = time.Now()
		w.replace(t, name)
		w.poll("more requests", func() error {
			if n := asked.Load(); n < before+10 {
				return fmt.Errorf("%d since %s was replaced", n-before, name)
			}
			return nil
		})
	}
	stop()
	people.Wait()
	t.Logf("%d requests, none failed, the slowest took %d ms, %d more than %s", asked.Load(), slowest.Load(), len(late), unnoticed)
	w.accounts(t, int(asked.Load()), nil)
	temporal := w.dial()
	for _, id := range requests {
		if busy := nothingLost(t, temporal, id, stopped); busy {
			delete(late, id)
		}
	}
	if len(late) > 0 {
		t.Errorf("these requests took more than %s: %v", unnoticed, late)
	}

	// What they have counted is what operators are told to look at.
	counted := w.page(t, "workflows-1", "/metrics") + w.page(t, "workflows-2", "/metrics") + w.page(t, "issuer-1", "/metrics")
	for _, name := range []string{
		`hallpass_requests_ended_total{`, `state="expired"`, "hallpass_revoke_lag_seconds_bucket{", "hallpass_open_grants 0\n",
		"hallpass_checkpoint_age_seconds ", "temporal_activity_schedule_to_start_latency_seconds_bucket{",
	} {
		if !strings.Contains(counted, name) {
			t.Errorf("nobody has counted %s", name)
		}
	}
	if strings.Contains(counted, "alice") || strings.Contains(counted, "web-2") {
		t.Error("the metrics say who asked for what")
	}
	// And each line about a request has its id.
	if log := w.programs["issuer-2"].process.Output(); !regexp.MustCompile(`"msg":"done","activity":"Issue",.*"request":"[0-9a-f-]{36}"`).MatchString(log) {
		t.Errorf("the issuer's log doesn't say what it issued for: %s", tail(log, 5))
	}
}

// nothingLost goes through a request's history for a task that timed out after
// one of these workers, by their identities, was to do it when it was stopped. At
// any other time Temporal itself loses one if it takes more than a second to take
// down that it has begun: it is busy.
func nothingLost(t *testing.T, temporal client.Client, id string, stopped map[string]time.Time) (busy bool) {
	t.Helper()
	events := temporal.GetWorkflowHistory(t.Context(), access.WorkflowID(id), "", false, enumspb.HISTORY_EVENT_FILTER_TYPE_ALL_EVENT)
	type start struct {
		who string
		at  time.Time
	}
	started := map[int64]start{}
	for events.HasNext() {
		e, err := events.Next()
		if err != nil {
			t.Fatal(err)
		}
		if a := e.GetWorkflowTaskStartedEventAttributes(); a != nil {
			started[e.EventId] = start{a.Identity, e.EventTime.AsTime()}
		}
		if a := e.GetWorkflowTaskTimedOutEventAttributes(); a != nil {
			lost := started[a.StartedEventId]
			t.Logf("request %s: a workflow task of %s timed out: %s", id, lost.who, a.TimeoutType)
			at, stops := stopped[lost.who]
			switch {
			case stops && lost.at.After(at.Add(-time.Second)):
				t.Errorf("request %s: a workflow task was lost by a worker that stopped", id)
			case lost.who != "":
				busy = true
			}
		}
		if a := e.GetActivityTaskStartedEventAttributes(); a.GetLastFailure().GetTimeoutFailureInfo() != nil {
			t.Logf("request %s: an activity was lost: %v", id, a.LastFailure) // by either; who waited for it was late
		}
	}
	return busy
}

// page is what a worker says of itself.
func (w *world) page(t testing.TB, name, path string) string {
	t.Helper()
	answer, err := http.Get("http://" + w.programs[name].health + path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = answer.Body.Close() }()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}
