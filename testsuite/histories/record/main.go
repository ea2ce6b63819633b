// Record plays one real request for each way a request can end, on a real
// Temporal server in a folder of its own, and writes their histories down.
//
//	go run ./testsuite/histories/record -hallpass bin/hallpass
//
// It takes some seconds.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"time"

	"go.temporal.io/sdk/client"

	"hallpass/access"
	"hallpass/statement"
	"hallpass/testsuite/devtest"
	"hallpass/testsuite/histories"
)

const (
	config = `issuers: {ssh: {key: "file:ssh_ca"}}
limits: {min_grant: 1s}
`
	policy = `locks: {groups: [security]}
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
  - {name: closed, when: resource.labels.env == "closed", deny: nobody logs in here}
`
	catalog = `resources:
  ssh/dev-1: {labels: {env: dev}, logins: [deploy]}
  ssh/web-1: {labels: {env: prod}, logins: [deploy]}
  ssh/crown-1: {labels: {env: crown}, logins: [deploy]}
  ssh/hurry-1: {labels: {env: hurry}, logins: [deploy]}
  ssh/slow-1: {labels: {env: slow}, logins: [deploy]}
  ssh/closed-1: {labels: {env: closed}, logins: [deploy]}
  ssh/lost-1: {labels: {env: dev}, logins: [deploy]}
  ssh/lost-2: {labels: {env: prod}, logins: [deploy]}
`
)

// groups of the people who play; eve isn't in the directory.
var groups = map[string]string{"alice": "dev", "bob": "sre", "carol": "sre", "dave": "dev", "frank": "dev", "trent": "security", "eve": ""}

// plays are the recordings, by name. Each asks and steers; the end is waited
// for.
var plays = []struct {
	name string
	play func(*request)
}{
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
	// Those of refused-messages are from before such ones were put on record.
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

func record(ctx context.Context, program, out string) (err error) {
	dir, err := os.MkdirTemp("", "hallpass-record-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	people, err := devtest.Furnish(dir, map[string]string{"hallpass.yaml": config, "policy.yaml": policy, "catalog.yaml": catalog}, groups)
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
	run    client.WorkflowRun
	locked string // workflow id of the lock that ended it
	given  string // workflow id of the delegation that its approval rests on
	err    error
}

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
	var err error
	r.req, err = r.people.Request(name, resource, "deploy", duration)
	r.check(err)
	r.req.Start = start
	if r.err != nil {
		return
	}
	r.signed = r.sign(name, r.req)
	r.run, err = r.client.ExecuteWorkflow(r.ctx, client.StartWorkflowOptions{
		ID:        access.WorkflowID(r.req.ID),
		TaskQueue: access.TaskQueue,
	}, access.Workflow, access.Submission{Request: r.signed})
	r.check(err)
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
	r.locked = access.LockWorkflowID(l.ID)
	var out access.Locked
	r.play(r.locked, access.WorkflowLock, access.Locking{Statement: st}, &out)
	if r.err == nil && (len(out.Told) != 1 || out.Refused != nil) {
		r.check(fmt.Errorf("the lock told %v; refused: %w", out.Told, out.Refused))
	}
}

// play runs another workflow beside the request's, to its end.
func (r *request) play(id, workflow string, in, out any) {
	run, err := r.client.ExecuteWorkflow(r.ctx, client.StartWorkflowOptions{ID: id, TaskQueue: access.TaskQueue}, workflow, in)
	r.check(err)
	if r.err == nil {
		r.check(run.Get(r.ctx, out))
	}
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
	r.given = access.DelegationWorkflowID(d.ID)
	var out access.Delegated
	r.play(r.given, access.WorkflowDelegate, access.Delegating{Statement: st}, &out)
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

// send sends a message as an update and returns what came of it.
func (r *request) send(message string, st access.Statement) error {
	handle, err := r.client.UpdateWorkflow(r.ctx, client.UpdateWorkflowOptions{
		WorkflowID:   access.WorkflowID(r.req.ID),
		UpdateName:   message,
		Args:         []any{st},
		WaitForStage: client.WorkflowUpdateStageCompleted,
	})
	if err != nil {
		return err
	}
	var status access.Status
	return handle.Get(r.ctx, &status)
}

func (r *request) update(message string, st access.Statement) {
	if r.err == nil {
		r.check(r.send(message, st))
	}
}

func (r *request) refused(message string, st access.Statement) {
	if r.err == nil && r.send(message, st) == nil {
		r.check(fmt.Errorf("%s was not refused", message))
	}
}

// await waits until the request is in a state.
func (r *request) await(state access.State) {
	r.until("in state "+string(state), func(s access.Status) bool { return s.State == state })
}

// until waits until the request's status is as it should be.
func (r *request) until(what string, ok func(access.Status) bool) {
	for giveUp := time.Now().Add(30 * time.Second); r.err == nil; time.Sleep(20 * time.Millisecond) {
		var status access.Status
		value, err := r.client.QueryWorkflow(r.ctx, access.WorkflowID(r.req.ID), "", access.QueryStatus)
		if err == nil {
			err = value.Get(&status)
		}
		r.check(err)
		if ok(status) {
			return
		}
		if time.Now().After(giveUp) {
			r.check(fmt.Errorf("never was %s; it is %s: %s", what, status.State, status.Why))
		}
	}
}

// finish waits for the end and writes the history down.
func (r *request) finish(path string) error {
	var outcome access.Outcome
	if r.err == nil {
		ctx, cancel := context.WithTimeout(r.ctx, time.Minute)
		defer cancel()
		r.check(r.run.Get(ctx, &outcome))
	}
	if r.err != nil {
		return fmt.Errorf("%s: %w", path, r.err)
	}
	for what, id := range map[string]string{"lock-of-": r.locked, "delegation-of-": r.given} {
		if id == "" {
			continue
		}
		h, err := histories.Download(r.ctx, r.client, id, "")
		if err == nil {
			err = histories.Write(filepath.Join(filepath.Dir(path), what+filepath.Base(path)), h)
		}
		if err != nil {
			return err
		}
	}
	h, err := histories.Download(r.ctx, r.client, access.WorkflowID(r.req.ID), "")
	if err != nil {
		return err
	}
	fmt.Printf("%-28s %3d events  %s: %s\n", filepath.Base(path), len(h.Events), outcome.State, outcome.Why)
	return histories.Write(path, h)
}
