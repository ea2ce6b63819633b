// Record plays one real request for each way a request can end, and what else is
// a workflow, on real Temporal servers in folders of their own, and writes down the
// histories that aren't there yet.
//
//	go run ./testsuite/histories/record -hallpass bin/hallpass
//
// It takes some seconds.
package main

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"time"

	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/client"

	"hallpass/access"
	"hallpass/statement"
	"hallpass/testsuite/devtest"
	"hallpass/testsuite/histories"
	"hallpass/transport"
)

const (
	config = `issuers: {ssh: {key: "file:ssh_ca", host_key: "file:ssh_host_ca"}}
limits: {min_grant: 1s}
sweep: {every: 24h, grace: 1s}
`
	policy = `locks: {groups: [security]}
hosts: {enroll: [security]}
rules:
  - {name: open, when: resource.labels.env == "dev", max_duration: 8h, approvals: none}
  - name: production
    when: resource.labels.env == "prod"
    max_duration: 8h
    approvals: [{count: 1, from: [sre]}]
    approval_window: 1h
    revoke: [security]
  - name: crown
    when: resource.labels.env == "crown"
    max_duration: 8h
    approvals: [{count: 2, from: [sre]}]
    approval_window: 1h
  - name: hurried
    when: resource.labels.env == "hurry"
    max_duration: 8h
    approvals: [{count: 1, from: [sre]}]
    approval_window: 2s
  - name: slow
    when: resource.labels.env == "slow"
    approvals: [{count: 1, from: [sre]}]
    denies: 2
    approval_window: 1h
    escalate: [{after: 1s, ask: [security]}, {after: 2s, notify: [sre]}]
  - name: glass
    when: resource.labels.env == "glass"
    max_duration: 8h
    approvals: [{count: 1, from: [sre]}]
    emergency: {tell: [dev], review: {from: [security, sre], count: 2, within: 2s}, reason: 5}
  - {name: closed, when: resource.labels.env == "closed", deny: nobody logs in here}
`
	catalog = `resources:
  ssh/dev-1: {labels: {env: dev}, logins: [deploy]}
  ssh/web-1: {labels: {env: prod}, logins: [deploy]}
  ssh/crown-1: {labels: {env: crown}, logins: [deploy]}
  ssh/hurry-1: {labels: {env: hurry}, logins: [deploy]}
  ssh/slow-1: {labels: {env: slow}, logins: [deploy]}
  ssh/glass-1: {labels: {env: glass}, logins: [deploy]}
  ssh/closed-1: {labels: {env: closed}, logins: [deploy]}
  ssh/lost-1: {labels: {env: dev}, logins: [deploy]}
  ssh/lost-2: {labels: {env: prod}, logins: [deploy]}
  ssh/lost-3: {labels: {env: dev}, logins: [deploy]}
`
)

// groups of the people who play; eve and ingrid aren't in the directory.
var groups = map[string]string{"alice": "dev", "bob": "sre", "carol": "sre", "dave": "dev", "frank": "dev", "trent": "security", "eve": "", "ingrid": ""}

// play is a recording. It asks and steers; the end of a request is waited for.
type play struct {
	name string
	play func(*request)
}

// plays are the recordings where nobody is told of anything.
var plays = []play{
	{"expired", func(r *request) { r.ask("alice", "ssh/dev-1", 3*time.Second, nil) }},
	{"approved-expired", func(r *request) {
		r.ask("alice", "ssh/web-1", 3*time.Second, nil)
		r.await(access.StatePending)
		r.signal(access.MessageDecision, r.decision("bob", access.Approve, 2))
	}},
	{"denied", func(r *request) {
		r.ask("alice", "ssh/web-1", time.Hour, nil)
		r.update(access.MessageDecision, r.decision("bob", access.Deny, 0))
	}},
	{"denied-by-policy", func(r *request) { r.ask("alice", "ssh/closed-1", time.Hour, nil) }},
	{"denied-unverified", func(r *request) { r.ask("eve", "ssh/dev-1", time.Hour, nil) }},
	{"timed-out", func(r *request) { r.ask("alice", "ssh/hurry-1", time.Hour, nil) }},
	{"cancelled", func(r *request) {
		r.ask("alice", "ssh/web-1", time.Hour, nil)
		r.signal(access.MessageCancel, r.stop("alice", access.TypeCancel))
	}},
	{"scheduled-expired", func(r *request) {
		start := statement.Time(time.Now().Add(4 * time.Second))
		r.ask("alice", "ssh/dev-1", 2*time.Second, &start)
	}},
	{"scheduled-cancelled", func(r *request) {
		start := statement.Time(time.Now().Add(time.Hour))
		r.ask("alice", "ssh/dev-1", time.Hour, &start)
		r.await(access.StateScheduled)
		r.update(access.MessageCancel, r.stop("alice", access.TypeCancel))
	}},
	{"refused-by-issuer", func(r *request) {
		start := statement.Time(time.Now().Add(4 * time.Second))
		r.ask("dave", "ssh/dev-1", time.Hour, &start)
		r.await(access.StateScheduled)
		r.leaves("dave")
	}},
	{"cancelled-by-operator", func(r *request) {
		r.ask("alice", "ssh/web-1", time.Hour, nil)
		r.await(access.StatePending)
		r.check(r.client.CancelWorkflow(r.ctx, access.WorkflowID(r.req.ID), ""))
	}},
	{"released", func(r *request) {
		r.ask("alice", "ssh/crown-1", time.Hour, nil)
		r.update(access.MessageDecision, r.decision("bob", access.Approve, 0))
		r.update(access.MessageDecision, r.decision("carol", access.Approve, 1800))
		r.await(access.StateActive)
		r.update(access.MessageRelease, r.stop("alice", access.TypeRelease))
	}},
	{"revoked", func(r *request) {
		r.ask("alice", "ssh/web-1", time.Hour, nil)
		r.update(access.MessageDecision, r.decision("bob", access.Approve, 0))
		r.await(access.StateActive)
		r.signal(access.MessageRevoke, r.stop("trent", access.TypeRevoke))
	}},
	{"revoked-by-operator", func(r *request) {
		r.ask("alice", "ssh/dev-1", time.Hour, nil)
		r.await(access.StateActive)
		r.check(r.client.CancelWorkflow(r.ctx, access.WorkflowID(r.req.ID), ""))
	}},
	{"locked", func(r *request) {
		r.ask("alice", "ssh/lost-1", time.Hour, nil)
		r.await(access.StateActive)
		r.lock("trent", "ssh/lost-1")
	}},
	{"locked-taken-back", func(r *request) {
		r.ask("alice", "ssh/lost-3", time.Hour, nil)
		r.await(access.StateActive)
		r.lock("trent", "ssh/lost-3")
	}},
	{"pending-locked", func(r *request) {
		r.ask("alice", "ssh/lost-2", time.Hour, nil)
		r.await(access.StatePending)
		r.lock("trent", "ssh/lost-2")
	}},
	{"escalated-expired", func(r *request) {
		r.ask("alice", "ssh/slow-1", 3*time.Second, nil)
		r.signal(access.MessageDecision, r.decision("bob", access.Deny, 0))
		r.until("everybody was asked", func(s access.Status) bool { return len(s.Escalated) == 2 })
		r.signal(access.MessageDecision, r.decision("trent", access.Approve, 0))
	}},
	{"delegated-expired", func(r *request) {
		r.ask("alice", "ssh/web-1", 3*time.Second, nil)
		r.await(access.StatePending)
		r.delegate("bob", "frank")
		r.signal(access.MessageDecision, r.sign("frank", access.Decision{
			Header: r.people.Header("frank", access.TypeDecision), Request: r.req.ID, RequestHash: r.signed.Hash(), Verdict: access.Approve, For: "bob",
		}))
	}},
	{"refused-messages", func(r *request) {
		r.ask("alice", "ssh/crown-1", time.Hour, nil)
		approval := r.decision("bob", access.Approve, 0)
		for range 2 {
			r.signal(access.MessageDecision, approval)
			r.signal(access.MessageDecision, r.decision("alice", access.Approve, 0))
			r.signal(access.MessageDecision, r.decision("eve", access.Approve, 0))
			r.signal(access.MessageRevoke, access.Statement{})
			r.signal(access.MessageCancel, "not a statement")
		}
		r.until("approved by one", func(s access.Status) bool { return len(s.Standing.Voices) == 1 })
		r.refused(access.MessageDecision, approval)
		r.refused(access.MessageRelease, r.stop("carol", access.TypeRelease))
		r.signal(access.MessageDecision, r.decision("carol", access.Approve, 0))
		r.await(access.StateActive)
		r.signal(access.MessageDecision, r.decision("carol", access.Deny, 0))
		r.signal(access.MessageRelease, r.stop("alice", access.TypeRelease))
		r.signal(access.MessageRelease, r.stop("alice", access.TypeRelease))
	}},
	{"odd-messages", func(r *request) {
		r.ask("alice", "ssh/crown-1", time.Hour, nil)
		approval := r.decision("bob", access.Approve, 0)
		r.signal(access.MessageDecision, "not a statement")
		r.signal(access.MessageDecision, map[string]any{"payload": approval.Payload, "signature": approval.Signature, "x": 1})
		r.signal(access.MessageRevoke, nil)
		r.signal(access.MessageCancel, []byte("bytes"))
		r.until("all refused", func(s access.Status) bool { return s.Refused == 4 })
		r.signal(access.MessageCancel, r.stop("alice", access.TypeCancel))
	}},
	{"extended-released", func(r *request) {
		r.ask("alice", "ssh/dev-1", time.Hour, nil)
		r.await(access.StateActive)
		x := r.extension("alice", "ssh/dev-1")
		x.await(access.StateActive)
		r.update(access.MessageRelease, r.stop("alice", access.TypeRelease))
		r.ends("extension-of-", x) // with it
	}},
	{"extension-revoked", func(r *request) {
		r.ask("alice", "ssh/web-1", time.Hour, nil)
		r.update(access.MessageDecision, r.decision("bob", access.Approve, 0))
		r.await(access.StateActive)
		first := *r
		*r = *first.extension("alice", "ssh/web-1")
		r.signal(access.MessageDecision, r.decision("carol", access.Approve, 0))
		r.await(access.StateActive)
		r.signal(access.MessageRevoke, r.stop("trent", access.TypeRevoke))
		r.ends("extended-by-", &first)
	}},
	{"emergency-released", breakGlass},
	{"stopped", func(r *request) {
		r.ask("alice", "ssh/web-1", time.Hour, nil)
		r.update(access.MessageDecision, r.decision("bob", access.Approve, 0))
		r.await(access.StateActive)
		in := access.Stopping{Request: r.req.ID, Message: access.MessageRevoke, Statement: r.stop("trent", access.TypeRevoke)}
		var out access.Stopped
		r.play("stop-of-", access.StopWorkflowID(statement.NewID()), access.WorkflowStop, in, &out)
		if r.err == nil && out.State != access.StateRevoked {
			r.check(fmt.Errorf("the stop came to %+v", out))
		}
	}},
	{"sweep", func(r *request) {
		r.ask("alice", "ssh/dev-1", time.Hour, nil)
		r.until("granted for as long as a sweep wants", func(s access.Status) bool {
			return s.State == access.StateActive && time.Since(*s.Granted) > 2*time.Second
		})
		if r.err == nil {
			r.check(r.client.TerminateWorkflow(r.ctx, access.WorkflowID(r.req.ID), "", "to be swept up"))
		}
		r.run, r.kept = nil, nil
		var out access.Swept
		r.play("", access.SweepNow, access.WorkflowSweep, access.Sweeping{}, &out)
		if r.err == nil && (out.Ended != 1 || out.Stuck != 0) {
			r.check(fmt.Errorf("swept %+v", out))
		}
	}},
	{"host-enrolled", func(r *request) {
		key := r.people["ingrid"].Signer // an agent's, and nobody's in the directory
		public := statement.MarshalKey(key.PublicKey())
		join := access.Join{Header: r.people.Header("trent", access.TypeHost), Resource: "ssh/dev-1", Until: statement.Time(time.Now().Add(time.Hour))}
		enrolled := r.enroll("", join.ID, access.Enrolment{Statement: r.sign("trent", join), HostKey: public, AgentKey: public})
		renewal := access.Renewal{Header: r.people.Header(enrolled.Host, access.TypeRenew), HostKey: public}
		told := r.enroll("renewal-of-", renewal.ID, access.Enrolment{Statement: r.sign("ingrid", renewal)})
		if r.err == nil && told.Certificate == "" {
			r.check(errors.New("the host has no certificate"))
		}
	}},
	{"locks", func(r *request) { r.play("", "locks-recorded", access.WorkflowLocks, nil, nil) }},
	{"delegations", func(r *request) { r.play("", "delegations-recorded", access.WorkflowDelegations, nil, nil) }},
	{"reviews", func(r *request) { r.play("", "reviews-recorded", access.WorkflowReviews, nil, nil) }},
}

// told are the recordings where people are told by a channel.
var told = []play{
	{"told-approved-expired", func(r *request) {
		r.ask("alice", "ssh/web-1", 3*time.Second, nil)
		r.await(access.StatePending)
		r.signal(access.MessageDecision, r.decision("bob", access.Approve, 2))
	}},
	{"told-emergency-released", breakGlass},
}

// breakGlass takes access at once, and has it signed off when that is overdue.
func breakGlass(r *request) {
	r.start("alice", "ssh/glass-1", time.Hour, func(q *access.Request) { q.Mode = access.ModeEmergency })
	r.await(access.StateActive)
	id := access.ReviewWorkflowID(r.req.ID)
	r.keep("review-of-", id)
	until := func(what string, ok func(access.ReviewTask) bool) { until(r, id, what, ok) }
	until("overdue", func(t access.ReviewTask) bool { return t.Reminded == 3 })
	sign := func(name string) access.Statement {
		return r.sign(name, access.Review{Header: r.people.Header(name, access.TypeReview), Request: r.req.ID, RequestHash: r.signed.Hash()})
	}
	if r.err == nil {
		r.check(r.client.SignalWorkflow(r.ctx, id, "", access.MessageReview, sign("bob")))
	}
	until("signed off by one", func(t access.ReviewTask) bool { return len(t.Signed) == 1 })
	if r.err == nil && r.send(id, access.MessageReview, sign("alice")) == nil {
		r.check(errors.New("alice reviewed what she did herself"))
	}
	if r.err == nil {
		r.check(r.send(id, access.MessageReview, sign("trent")))
	}
	r.update(access.MessageRelease, r.stop("alice", access.TypeRelease))
	until("done", func(t access.ReviewTask) bool { return t.Done })
}

func main() {
	program := flag.String("hallpass", "bin/hallpass", "the program that serves")
	out := flag.String("out", "testsuite/histories", "folder to write the histories to")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := record(ctx, *program, *out); err != nil {
		fmt.Fprintln(os.Stderr, "record:", err)
		os.Exit(1)
	}
}

// record plays those, or the ones of these names, whose histories aren't in out.
// What is there stays as it is.
func record(ctx context.Context, program, out string, names ...string) error {
	if err := os.MkdirAll(out, 0o755); err != nil {
		return err
	}
	missing := func(all []play) []play {
		return slices.DeleteFunc(slices.Clone(all), func(p play) bool {
			_, err := os.Stat(filepath.Join(out, p.name+".json"))
			return err == nil || len(names) > 0 && !slices.Contains(names, p.name)
		})
	}
	hears := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer hears.Close()
	channels := fmt.Sprintf("channels: {siem: {type: webhook, url: %q, secret_file: secret}}\nallow: [127.0.0.0/8]\n", hears.URL)
	secret := "whsec_" + base64.StdEncoding.EncodeToString([]byte(rand.Text()+rand.Text()))
	return errors.Join(
		stage(ctx, program, out, map[string]string{"hallpass.yaml": config}, missing(plays)),
		stage(ctx, program, out, map[string]string{"hallpass.yaml": config + "notify: channels.yaml\n", "channels.yaml": channels, "secret": secret}, missing(told)),
	)
}

// stage plays some on a server of their own, all at once.
func stage(ctx context.Context, program, out string, files map[string]string, plays []play) (err error) {
	if len(plays) == 0 {
		return nil
	}
	dir, err := os.MkdirTemp("", "hallpass-record-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	files["policy.yaml"], files["catalog.yaml"] = policy, catalog
	people, err := devtest.Furnish(dir, files, groups)
	if err != nil {
		return err
	}
	server, err := devtest.Serve(ctx, program, dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, server.Stop()) }()

	done := make(chan error)
	for _, p := range plays {
		go func() {
			r := &request{ctx: ctx, client: server.Client, people: people, dir: dir}
			p.play(r)
			done <- r.finish(filepath.Join(out, p.name+".json"))
		}()
	}
	for range plays {
		err = errors.Join(err, <-done)
	}
	return err
}

// request is one request being played. The first error sticks.
type request struct {
	ctx    context.Context
	client client.Client
	people devtest.People
	dir    string
	req    access.Request
	signed access.Statement
	run    client.WorkflowRun // nil if there is no request, or none any more
	kept   []kept
	err    error
}

// kept is a workflow whose history is kept, in the file of the recording with
// something before its name.
type kept struct{ before, id string }

func (r *request) keep(before, id string) { r.kept = append(r.kept, kept{before, id}) }

func (r *request) check(err error) {
	if r.err == nil {
		r.err = err
	}
}

func (r *request) sign(name string, payload any) access.Statement {
	st, err := r.people.Sign(name, payload)
	r.check(err)
	return st
}

func (r *request) ask(name, resource string, duration time.Duration, start *time.Time) {
	r.start(name, resource, duration, func(q *access.Request) { q.Start = start })
}

// start asks for something that is changed before it is signed.
func (r *request) start(name, resource string, duration time.Duration, change func(*access.Request)) {
	var err error
	r.req, err = r.people.Request(name, resource, "deploy", duration)
	r.check(err)
	change(&r.req)
	if r.err != nil {
		return
	}
	r.signed = r.sign(name, r.req)
	temporal := transport.Temporal{Client: r.client} // as clients do
	r.check(temporal.Submit(r.ctx, access.Submission{Request: r.signed}, r.req))
	r.run = r.client.GetWorkflow(r.ctx, access.WorkflowID(r.req.ID), "")
	r.keep("", access.WorkflowID(r.req.ID))
}

// extension asks for an hour more of what r has.
func (r *request) extension(name, resource string) *request {
	x := &request{ctx: r.ctx, client: r.client, people: r.people, dir: r.dir, err: r.err}
	x.start(name, resource, time.Hour, func(q *access.Request) { q.Extends = r.req.ID })
	return x
}

// ends waits for the end of another request, and keeps its history as well.
func (r *request) ends(before string, other *request) {
	if r.check(other.err); r.err == nil {
		r.check(other.run.Get(r.ctx, nil))
	}
	r.keep(before, access.WorkflowID(other.req.ID))
}

func (r *request) decision(name string, verdict access.Verdict, duration access.Seconds) access.Statement {
	return r.sign(name, access.Decision{
		Header: r.people.Header(name, access.TypeDecision), Request: r.req.ID, RequestHash: r.signed.Hash(),
		Verdict: verdict, Duration: duration,
	})
}

func (r *request) stop(name string, typ access.Type) access.Statement {
	return r.sign(name, access.Stop{Header: r.people.Header(name, typ), Request: r.req.ID, RequestHash: r.signed.Hash()})
}

// lock locks the resource, and keeps the lock's own history as well.
func (r *request) lock(name, resource string) {
	l := access.Lock{Header: r.people.Header(name, access.TypeLock), Action: access.ActionLock, Kind: access.LockResource, Name: resource, Reason: "to be recorded"}
	st := r.sign(name, l)
	if r.err != nil {
		return
	}
	var out access.Locked
	r.play("lock-of-", access.LockWorkflowID(l.ID), access.WorkflowLock, access.Locking{Statement: st}, &out)
	if r.err == nil && (len(out.Told) != 1 || out.Refused != nil) {
		r.check(fmt.Errorf("the lock told %v; refused: %w", out.Told, out.Refused))
	}
}

// play runs another workflow beside the request's, to its end, and keeps its
// history as well. in may be nil, for none.
func (r *request) play(before, id, workflow string, in, out any) {
	if r.err != nil {
		return
	}
	var args []any
	if in != nil {
		args = append(args, in)
	}
	r.keep(before, id)
	run, err := r.client.ExecuteWorkflow(r.ctx, client.StartWorkflowOptions{ID: id, TaskQueue: access.TaskQueue}, workflow, args...)
	r.check(err)
	if r.err == nil {
		r.check(run.Get(r.ctx, out))
	}
}

// enroll plays what a host asks for, and says what it is told.
func (r *request) enroll(before, id string, in access.Enrolment) access.Enrolled {
	var told access.Statement
	r.play(before, access.HostWorkflowID(id), access.HostWorkflow, in, &told)
	if r.err != nil {
		return access.Enrolled{}
	}
	out, _, err := statement.OpenEnrolled(told)
	r.check(err)
	return out
}

// delegate has somebody decide in name's place, and keeps that history as well.
func (r *request) delegate(name, to string) {
	d := access.Delegation{Header: r.people.Header(name, access.TypeDelegation), Action: access.ActionDelegate, To: to, Reason: "to be recorded"}
	until := d.Time.Add(time.Hour)
	d.Until = &until
	st := r.sign(name, d)
	if r.err != nil {
		return
	}
	var out access.Delegated
	r.play("delegation-of-", access.DelegationWorkflowID(d.ID), access.WorkflowDelegate, access.Delegating{Statement: st}, &out)
	if r.err == nil && out.Refused != nil {
		r.check(out.Refused)
	}
}

// leaves takes a user out of the directory, all at once.
func (r *request) leaves(name string) {
	if r.err == nil {
		path := filepath.Join(r.dir, "directory.yaml")
		r.check(os.WriteFile(path+".new", []byte(r.people.Directory(name)), 0o600))
		r.check(os.Rename(path+".new", path))
	}
}

func (r *request) signal(message string, content any) {
	if r.err == nil {
		r.check(r.client.SignalWorkflow(r.ctx, access.WorkflowID(r.req.ID), "", message, content))
	}
}

// send sends a message to a workflow as an update and returns what came of it.
func (r *request) send(id, message string, st access.Statement) error {
	handle, err := r.client.UpdateWorkflow(r.ctx, client.UpdateWorkflowOptions{
		WorkflowID:   id,
		UpdateName:   message,
		Args:         []any{st},
		WaitForStage: client.WorkflowUpdateStageCompleted,
	})
	if err != nil {
		return err
	}
	return handle.Get(r.ctx, nil)
}

func (r *request) update(message string, st access.Statement) {
	if r.err == nil {
		r.check(r.send(access.WorkflowID(r.req.ID), message, st))
	}
}

func (r *request) refused(message string, st access.Statement) {
	if r.err == nil && r.send(access.WorkflowID(r.req.ID), message, st) == nil {
		r.check(fmt.Errorf("%s was not refused", message))
	}
}

// await waits until the request is in a state.
func (r *request) await(state access.State) {
	r.until("in state "+string(state), func(s access.Status) bool { return s.State == state })
}

// until waits until the request's status is as it should be.
func (r *request) until(what string, ok func(access.Status) bool) {
	until(r, access.WorkflowID(r.req.ID), what, ok)
}

// until waits until the status of a workflow, which may not have begun, is as it
// should be.
func until[S any](r *request, id, what string, ok func(S) bool) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for giveUp := time.Now().Add(90 * time.Second); r.err == nil; <-tick.C {
		var status S
		value, err := r.client.QueryWorkflow(r.ctx, id, "", access.QueryStatus)
		if err == nil {
			err = value.Get(&status)
		}
		if err == nil && ok(status) {
			return
		}
		absent, late := (*serviceerror.NotFound)(nil), (*serviceerror.DeadlineExceeded)(nil) // of a busy machine
		if !errors.As(err, &absent) && !errors.As(err, &late) {
			r.check(err)
		}
		if time.Now().After(giveUp) {
			r.check(fmt.Errorf("%s never was %s: %+v", id, what, status))
		}
	}
}

// finish waits for the end and writes down the histories that are kept.
func (r *request) finish(path string) error {
	if r.err == nil && r.run != nil {
		ctx, cancel := context.WithTimeout(r.ctx, time.Minute)
		defer cancel()
		r.check(r.run.Get(ctx, nil))
	}
	if r.err != nil {
		return fmt.Errorf("%s: %w", path, r.err)
	}
	for _, k := range r.kept {
		h, err := histories.Download(r.ctx, r.client, k.id, "")
		if err != nil {
			return err
		}
		file := k.before + filepath.Base(path)
		fmt.Printf("%-40s %3d events\n", file, len(h.Events))
		if err := histories.Write(filepath.Join(filepath.Dir(path), file), h); err != nil {
			return err
		}
	}
	return nil
}
