package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"go.temporal.io/api/enums/v1"
	"go.temporal.io/api/history/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"
	sdkworker "go.temporal.io/sdk/worker"
	"google.golang.org/protobuf/proto"

	"hallpass/access"
	"hallpass/testsuite/devtest"
	"hallpass/testsuite/measure"
	"hallpass/transport"
)

var (
	groups = map[string]string{"alice": "dev", "bob": "sre", "carol": "dev"}
	files  = map[string]string{
		"hallpass.yaml": `temporal: {namespace: default}
policy: policy.yaml
directory: directory.yaml
catalog: catalog.yaml
audit: {database: audit.db, key: audit.key, public_key: audit.pub}
issuers: {ssh: {key: "file:ssh_ca"}}
service: {address: "127.0.0.1:7280"}
limits: {min_grant: 1s}
`,
		"policy.yaml": `rules:
  - {name: open, when: resource.labels.env == "dev", max_duration: 24h, approvals: none}
  - name: production
    when: resource.labels.env == "prod"
    max_duration: 24h
    approvals: [{count: 1, from: [sre]}]
    approval_window: 24h
`,
		"catalog.yaml": `resources:
  ssh/web-1: {labels: {env: prod}, logins: [deploy]}
  ssh/web-2: {labels: {env: dev}, logins: [deploy]}
`,
	}
)

// world is hallpass dev in a process and folder of its own, and beside it a
// worker for bare workflows on the same Temporal.
type world struct {
	*devtest.Server
	people    devtest.People
	folder    string
	namespace string // that requests go to
}

// world starts one and gives it to f.
func (b *bench) world(f func(*world) error) (err error) {
	dir, err := os.MkdirTemp(b.dir, "dev-")
	if err != nil {
		return err
	}
	w := &world{folder: dir, namespace: "default"}
	if w.people, err = devtest.Furnish(dir, files, groups); err != nil {
		return err
	}
	if w.Server, err = devtest.Serve(b.ctx, b.program, dir); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.Stop()) }()
	stop, err := serveBare(w.Client, filepath.Join(dir, "bare.db"), bareQueue, bareIssueQueue)
	if err != nil {
		return err
	}
	defer stop()
	return f(w)
}

// topology gives f the processes of docker-compose.yml, from the same files: Temporal's roles,
// PostgreSQL, a worker of the workflows and an issuer, which talk over TLS, and beside them
// a worker for bare workflows. It has the same people and resources as the others.
func (b *bench) topology(f func(*world) error) (err error) {
	tests, err := b.compile("testsuite/topology")
	if err != nil {
		return err
	}
	t, stop, err := devtest.Deploy(tests, b.program)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop()) }()
	c, err := t.Dial(b.ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	stopBare, err := serveBare(c, t.Database, bareQueue, bareIssueQueue)
	if err != nil {
		return err
	}
	defer stopBare()
	return f(&world{Server: &devtest.Server{Client: c}, people: t.People, namespace: t.Namespace})
}

// serveBare serves queues of bare workflows, whose transactions go to a disk, until stop is
// called. The activities that are done in line go with the workflows.
func serveBare(c client.Client, where string, queues ...string) (stop func(), err error) {
	disk, err := openDisk(where)
	if err != nil {
		return nil, err
	}
	var workers []sdkworker.Worker
	stop = func() {
		for _, w := range workers {
			w.Stop()
		}
		_ = disk.db.Close() // nobody reads it
	}
	for _, queue := range queues {
		o := sdkworker.Options{DisableWorkflowWorker: true}
		if queue == bareQueue {
			o = sdkworker.Options{MaxConcurrentWorkflowTaskPollers: 16} // as hallpass's
		}
		w := sdkworker.New(c, queue, o)
		w.RegisterActivity(&bareActivities{disk})
		if queue == bareQueue {
			w.RegisterWorkflow(bare)
		}
		if err := w.Start(); err != nil {
			stop()
			return nil, err
		}
		workers = append(workers, w)
	}
	return stop, nil
}

// env is the environment of commands that somebody runs.
func (w *world) env(name string) []string {
	return append(os.Environ(), "HOME="+filepath.Join(w.folder, "people", name), "SSH_AUTH_SOCK=",
		"HALLPASS_CONFIG="+w.Config, "HALLPASS_TEMPORAL_ADDRESS="+w.Address,
		"HALLPASS_TEMPORAL_NAMESPACE="+w.namespace, "HALLPASS_USER="+name, "HALLPASS_KEY="+w.people[name].Key)
}

// asked is a request that has been submitted.
type asked struct {
	request access.Request
	signed  access.Statement
	history *watch
}

// sign is a request that somebody has signed.
func (w *world) sign(who, resource string, d time.Duration) (req access.Request, st access.Statement, err error) {
	if req, err = w.people.Request(who, resource, "deploy", d); err == nil {
		st, err = w.people.Sign(who, req)
	}
	return req, st, err
}

// ask submits a request of alice's.
func (w *world) ask(ctx context.Context, resource string, d time.Duration) (asked, error) {
	return w.askAs(ctx, "alice", resource, d)
}

func (w *world) askAs(ctx context.Context, who, resource string, d time.Duration) (a asked, err error) {
	if a.request, a.signed, err = w.sign(who, resource, d); err != nil {
		return a, err
	}
	temporal := transport.Temporal{Client: w.Client}
	if err = temporal.Submit(ctx, access.Submission{Request: a.signed}, a.request); err != nil {
		return a, err
	}
	a.history = follow(ctx, w.Client, access.WorkflowID(a.request.ID))
	return a, nil
}

// grants gives somebody as many grants of ssh/web-1, each asked for and approved.
func (w *world) grants(ctx context.Context, who string, n int) (all []asked, err error) {
	for range n {
		a, err := w.askAs(ctx, who, "ssh/web-1", 24*time.Hour)
		if err == nil {
			err = w.approve(ctx, a)
		}
		if err == nil {
			_, err = a.history.until(issued)
		}
		if err != nil {
			return nil, err
		}
		all = append(all, a)
	}
	return all, nil
}

// approve sends bob's approval, as a signal.
func (w *world) approve(ctx context.Context, a asked) error {
	st, err := w.people.Sign("bob", access.Decision{
		Header:  w.people.Header("bob", access.TypeDecision),
		Request: a.request.ID, RequestHash: a.signed.Hash(), Verdict: access.Approve,
	})
	if err != nil {
		return err
	}
	return w.Client.SignalWorkflow(ctx, access.WorkflowID(a.request.ID), "", access.MessageDecision, st)
}

// release gives the grant back, as a signal of alice's.
func (w *world) release(ctx context.Context, a asked) error {
	st, err := w.people.Sign("alice", access.Stop{Header: w.people.Header("alice", access.TypeRelease), Request: a.request.ID, RequestHash: a.signed.Hash()})
	if err != nil {
		return err
	}
	return w.Client.SignalWorkflow(ctx, access.WorkflowID(a.request.ID), "", access.MessageRelease, st)
}

// watch follows the history of a workflow as it grows.
type watch struct {
	events client.HistoryEventIterator
	seen   []sighting // so far
}

// sighting is an event, when it happened by Temporal's clock, when it was seen
// here, and what it takes in the history.
type sighting struct {
	event    enums.EventType
	at, seen time.Time
	bytes    int
}

// start starts a workflow and follows it.
func start(ctx context.Context, c client.Client, id string, in bareInput) (*watch, error) {
	o := client.StartWorkflowOptions{ID: id, TaskQueue: bareQueue}
	if in.Same {
		o.TypedSearchAttributes = temporal.NewSearchAttributes(shown(access.StatePending)...)
		o.StaticSummary = "alice wants ssh/web-1 as deploy for 4h"
	}
	if _, err := c.ExecuteWorkflow(ctx, o, bare, in); err != nil {
		return nil, err
	}
	return follow(ctx, c, id), nil
}

func follow(ctx context.Context, c client.Client, id string) *watch {
	return &watch{events: c.GetWorkflowHistory(ctx, id, "", true, enums.HISTORY_EVENT_FILTER_TYPE_ALL_EVENT)}
}

// until waits for the next event of a type.
func (w *watch) until(typ enums.EventType) (*history.HistoryEvent, error) {
	for w.events.HasNext() {
		event, err := w.events.Next()
		if err != nil {
			return nil, err
		}
		w.seen = append(w.seen, sighting{event.EventType, event.EventTime.AsTime(), time.Now(), proto.Size(event)})
		switch event.EventType {
		case typ:
			return event, nil
		case enums.EVENT_TYPE_ACTIVITY_TASK_FAILED:
			return nil, fmt.Errorf("an activity failed: %s", event.GetActivityTaskFailedEventAttributes().GetFailure().GetMessage())
		}
	}
	return nil, fmt.Errorf("the workflow ended without %s", typ)
}

// Steps that requests and bare workflows pass alike.
const (
	ruled  = enums.EVENT_TYPE_WORKFLOW_TASK_COMPLETED
	issued = enums.EVENT_TYPE_ACTIVITY_TASK_COMPLETED
	over   = enums.EVENT_TYPE_WORKFLOW_EXECUTION_COMPLETED
)

// inFlight runs op so many times, so many at a time, and says how long each of
// them took and all together.
func inFlight(ctx context.Context, flight, times int, op func(context.Context) error) (each measure.Times, all time.Duration, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var next atomic.Int64
	var group sync.WaitGroup
	took := make([]measure.Times, flight)
	begin := time.Now()
	for i := range flight {
		group.Go(func() {
			for next.Add(1) <= int64(times) && ctx.Err() == nil {
				from := time.Now()
				if err := op(ctx); err != nil {
					cancel(err)
					return
				}
				took[i] = append(took[i], time.Since(from))
			}
		})
	}
	group.Wait()
	all = time.Since(begin)
	for _, t := range took {
		each = append(each, t...)
	}
	return each, all, context.Cause(ctx)
}
