package workflows_test

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/mock"
	"go.temporal.io/api/sdk/v1"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/log"
	"go.temporal.io/sdk/temporal"
	sdktest "go.temporal.io/sdk/testsuite"
	sdkworker "go.temporal.io/sdk/worker"
	"golang.org/x/crypto/ssh"

	"hallpass/access"
	"hallpass/activities"
	"hallpass/audit"
	"hallpass/evidence"
	"hallpass/grant"
	"hallpass/statement"
	"hallpass/workflows"
)

// The rulebook of all tests: one resource for each way to be allowed.
const (
	policyFile = `
locks: {groups: [security]}
rules:
  - name: open
    when: resource.labels.env == "dev"
    max_duration: 8h
    approvals: none
  - name: production
    when: resource.labels.env == "prod"
    max_duration: 8h
    approvals:
      - {count: 1, from: [sre]}
    approval_window: 1h
    revoke: [security]
  - name: crown
    when: resource.labels.env == "crown"
    max_duration: 8h
    approvals:
      - {count: 2, from: [sre]}
    approval_window: 1h
  - name: council
    when: resource.labels.env == "council"
    approvals:
      - {count: 2, from: [sre]}
      - {count: 1, from: [security]}
    denies: 2
    approval_window: 1h
  - name: slow
    when: resource.labels.env == "slow"
    approvals:
      - {count: 1, from: [sre]}
    approval_window: 1h
    escalate:
      - {after: 10m, ask: [security]}
      - {after: 30m, notify: [dev]}
  - name: closed
    when: resource.labels.env == "closed"
    deny: nobody logs in here
`
	catalogFile = `
resources:
  ssh/dev-1: {labels: {env: dev}, logins: [deploy]}
  ssh/web-1: {labels: {env: prod}, logins: [deploy]}
  ssh/crown-1: {labels: {env: crown}, logins: [deploy]}
  ssh/council-1: {labels: {env: council}, logins: [deploy]}
  ssh/slow-1: {labels: {env: slow}, logins: [deploy]}
  ssh/closed-1: {labels: {env: closed}, logins: [deploy]}
`
)

// groups of the people in the tests. Bob, carol and erin may approve; trent may
// revoke; mallory is known and may nothing; eve isn't in the directory.
var groups = map[string]string{
	"alice": "dev", "bob": "sre", "carol": "sre", "erin": "sre", "trent": "security", "mallory": "dev", "eve": "",
}

// world is a whole hallpass around one workflow, in Temporal's test
// environment, where time skips ahead: real keys and signatures, the real
// rulebook, issuer, ledger and audit log. Only the kind is a toy, so that a
// test can break it.
type world struct {
	t      *testing.T
	env    *sdktest.TestWorkflowEnvironment
	signer map[string]ssh.Signer
	log    *audit.Log
	ledger *ledger
	kind   *lock
	issuer *grant.Issuer
	acts   *activities.Activities
	people string // the directory file
	book   atomic.Pointer[evidence.Rulebook]
	start  time.Time

	req        access.Request
	request    access.Statement
	duration   time.Duration
	upserts    int
	attributes map[string]any // search attributes, where countUpserts was called
	events     []string       // activities and timers in the order in which they began
}

func newWorld(t *testing.T) *world {
	t.Helper()
	suite := new(sdktest.WorkflowTestSuite)
	if !testing.Verbose() { // it writes down every payload, which takes longer than most tests
		suite.SetLogger(log.NewStructuredLogger(slog.New(slog.DiscardHandler)))
	}
	w := &world{
		t:        t,
		env:      suite.NewTestWorkflowEnvironment(),
		signer:   map[string]ssh.Signer{},
		kind:     &lock{open: map[string]access.Handle{}},
		start:    time.Date(2026, 3, 2, 9, 0, 0, 0, time.UTC),
		duration: 30 * time.Minute,
	}
	w.env.SetStartTime(w.start)
	// The machine may be busy with other things: real time without progress, and
	// what the SDK takes for a deadlock.
	w.env.SetTestTimeout(2 * time.Minute)
	w.env.SetWorkerOptions(sdkworker.Options{DeadlockDetectionTimeout: time.Minute})

	var people strings.Builder
	people.WriteString("users:\n")
	for name, group := range groups {
		_, key, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		if w.signer[name], err = ssh.NewSignerFromKey(key); err != nil {
			t.Fatal(err)
		}
		if group != "" {
			fmt.Fprintf(&people, "  %s: {groups: [%s], keys: [%q]}\n", name, group, statement.MarshalKey(w.signer[name].PublicKey()))
		}
	}
	w.people = people.String()
	rulebook := func() *evidence.Rulebook { return w.book.Load() }

	dir := t.TempDir()
	if _, err := audit.CreateKey(filepath.Join(dir, "key"), filepath.Join(dir, "pub"), "hallpass.test"); err != nil {
		t.Fatal(err)
	}
	key, err := audit.ReadKey(filepath.Join(dir, "key"))
	if err != nil {
		t.Fatal(err)
	}
	w.log, err = audit.Open(t.Context(), audit.Options{Database: filepath.Join(dir, "audit.db"), Key: key, Now: w.env.Now})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.log.Close() })
	w.load(policyFile)

	w.acts = &activities.Activities{Rulebook: rulebook, Log: w.log, Now: w.env.Now}
	w.ledger = &ledger{Log: w.log}
	w.issuer = &grant.Issuer{Kinds: map[string]grant.Kind{"ssh": w.kind}, Rulebook: rulebook, Ledger: w.ledger, Now: w.env.Now}
	w.env.RegisterWorkflow(workflows.AccessRequest)
	w.env.RegisterActivity(w.acts)
	w.env.RegisterActivity(&activities.Issuing{Issuer: w.issuer, Begun: func(context.Context) time.Time { return w.env.Now() }})
	w.watch()
	w.ask("ssh/web-1", nil)
	return w
}

// load puts a policy in force.
func (w *world) load(policy string) {
	book, err := evidence.NewRulebook([]byte(policy), []byte(w.people), []byte(catalogFile))
	if err != nil {
		w.t.Error(err)
		return
	}
	err = w.log.RecordFiles(context.Background(),
		audit.File{Name: audit.FilePolicy, Digest: book.Digests().Policy, Content: policy},
		audit.File{Name: audit.FileDirectory, Digest: book.Digests().Directory, Content: w.people},
		audit.File{Name: audit.FileCatalog, Digest: book.Digests().Catalog, Content: catalogFile})
	if err != nil {
		w.t.Error(err)
	}
	w.book.Store(book)
}

// moves puts somebody into another group.
func (w *world) moves(name, group string) {
	key := statement.MarshalKey(w.signer[name].PublicKey())
	was := fmt.Sprintf("%s: {groups: [%s], keys: [%q]}", name, groups[name], key)
	w.people = strings.Replace(w.people, was, fmt.Sprintf("%s: {groups: [%s], keys: [%q]}", name, group, key), 1)
	w.load(policyFile)
}

// ask makes the request that will run, from alice, and lets the test change it
// before it is signed.
func (w *world) ask(resource string, change func(*access.Request)) {
	w.t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		w.t.Fatal(err)
	}
	subject, err := ssh.NewSignerFromKey(key)
	if err != nil {
		w.t.Fatal(err)
	}
	w.req = access.Request{
		Header:    w.header("alice", access.TypeRequest),
		Resource:  resource,
		Login:     "deploy",
		Duration:  access.InSeconds(w.duration),
		Reason:    "reads the logs",
		PublicKey: statement.MarshalKey(subject.PublicKey()),
	}
	if change != nil {
		change(&w.req)
	}
	w.request = w.sign("alice", w.req)
	w.env.SetStartWorkflowOptions(client.StartWorkflowOptions{ID: access.WorkflowID(w.req.ID), TaskQueue: access.TaskQueue})
}

func (w *world) header(name string, typ access.Type) access.Header {
	return access.Header{Type: typ, ID: statement.NewID(), Signer: name, Time: statement.Time(w.env.Now())}
}

func (w *world) sign(name string, payload any) access.Statement {
	w.t.Helper()
	st, err := statement.Sign(w.signer[name], payload)
	if err != nil {
		w.t.Fatal(err)
	}
	return st
}

// decision is a decision on the request, signed now.
func (w *world) decision(name string, verdict access.Verdict, changes ...func(*access.Decision)) access.Statement {
	d := access.Decision{
		Header:      w.header(name, access.TypeDecision),
		Request:     w.req.ID,
		RequestHash: w.request.Hash(),
		Verdict:     verdict,
	}
	for _, change := range changes {
		change(&d)
	}
	return w.sign(name, d)
}

// stop is a release, revoke or cancel of the request, signed now.
func (w *world) stop(name string, typ access.Type) access.Statement {
	return w.sign(name, access.Stop{
		Header:      w.header(name, typ),
		Request:     w.req.ID,
		RequestHash: w.request.Hash(),
		Reason:      "because " + string(typ),
	})
}

// at runs do when the workflow is that old.
func (w *world) at(age time.Duration, do func()) { w.env.RegisterDelayedCallback(do, age) }

// The messages, as signals.
func (w *world) approve(name string) {
	w.env.SignalWorkflow(access.MessageDecision, w.decision(name, access.Approve))
}
func (w *world) deny(name string) {
	w.env.SignalWorkflow(access.MessageDecision, w.decision(name, access.Deny))
}
func (w *world) release() {
	w.env.SignalWorkflow(access.MessageRelease, w.stop("alice", access.TypeRelease))
}
func (w *world) cancel() {
	w.env.SignalWorkflow(access.MessageCancel, w.stop("alice", access.TypeCancel))
}
func (w *world) revoke(name string) {
	w.env.SignalWorkflow(access.MessageRevoke, w.stop(name, access.TypeRevoke))
}

// reply is what came of an update.
type reply struct {
	done    bool
	status  access.Status
	refusal *access.Error
	err     error
	early   bool // refused by the validator
}

// update sends a message as an update. The reply is there after the run.
func (w *world) update(name string, message any) *reply {
	r := &reply{}
	w.env.UpdateWorkflow(name, "", &sdktest.TestUpdateCallback{
		OnAccept: func() {},
		OnReject: func(err error) {
			r.done, r.early, r.err, r.refusal = true, true, err, activities.Refusal(err)
		},
		OnComplete: func(result any, err error) {
			r.done, r.err, r.refusal = true, err, activities.Refusal(err)
			if status, ok := result.(access.Status); ok {
				r.status = status
			}
		},
	}, message)
	return r
}

// want checks the code that an update was refused with, "" for none.
func (r *reply) want(t *testing.T, code access.Code) {
	t.Helper()
	switch {
	case !r.done:
		t.Errorf("the update was never answered")
	case code == "" && r.err != nil:
		t.Errorf("the update was refused: %v", r.err)
	case code != "" && (r.refusal == nil || r.refusal.Code != code):
		t.Errorf("the update was answered with %v %+v, want a refusal with code %s", r.err, r.refusal, code)
	}
}

// status asks the workflow how it stands.
func (w *world) status() access.Status {
	w.t.Helper()
	value, err := w.env.QueryWorkflow(access.QueryStatus)
	if err != nil {
		w.t.Fatal(err)
	}
	var status access.Status
	if err := value.Get(&status); err != nil {
		w.t.Fatal(err)
	}
	return status
}

// before says whether the workflow is younger than age.
func (w *world) before(age time.Duration) func() bool {
	return func() bool { return w.env.Now().Before(w.start.Add(age)) }
}

// want checks the state at this moment.
func (w *world) want(state access.State) {
	w.t.Helper()
	if got := w.status(); got.State != state {
		w.t.Errorf("after %s the request is %s (%s), want %s", w.env.Now().Sub(w.start), got.State, got.Why, state)
	}
}

// run runs the workflow to its end and checks what has to hold at every end:
// the workflow has not failed, nothing lives, what the ledger says is what the
// outcome says, and the evidence can't be issued any more.
func (w *world) run(want access.State) access.Outcome {
	w.t.Helper()
	w.env.ExecuteWorkflow(workflows.AccessRequest, access.Submission{Request: w.request})
	if !w.env.IsWorkflowCompleted() {
		w.t.Fatal("the workflow hangs")
	}
	if err := w.env.GetWorkflowError(); err != nil {
		w.t.Fatalf("the workflow failed: %v", err)
	}
	var got access.Outcome
	if err := w.env.GetWorkflowResult(&got); err != nil {
		w.t.Fatal(err)
	}
	if got.State != want {
		w.t.Errorf("outcome is %s (%s), want %s", got.State, got.Why, want)
	}
	if status := w.status(); status.State != got.State || status.Why != got.Why || status.Credential != nil || status.EndedAt == nil {
		w.t.Errorf("status at the end is %+v, outcome %+v", status, got)
	}
	if open := w.kind.living(); len(open) > 0 {
		w.t.Errorf("%v lives after the end", open)
	}
	return got
}

// ended checks that the ledger holds the end, and that the issuer refuses the
// evidence from here on.
func (w *world) ended(state access.State) {
	w.t.Helper()
	entry, _, err := w.log.Entry(context.Background(), w.req.ID)
	if err != nil {
		w.t.Fatal(err)
	}
	if entry.Ended != state {
		w.t.Errorf("the ledger says the request ended as %q, want %q", entry.Ended, state)
	}
	if state == "" {
		return
	}
	if _, err := w.issuer.Issue(context.Background(), w.status().Evidence); err == nil {
		w.t.Error("the issuer issues after the end")
	}
	if open := w.kind.living(); len(open) > 0 {
		w.t.Errorf("%v lives after the end", open)
	}
}

// recorded counts the audit events of a type on the request.
func (w *world) recorded(typ string) (n int) {
	w.t.Helper()
	for e, err := range w.log.Events(context.Background(), audit.Query{Request: w.req.ID, Type: typ}) {
		if err != nil {
			w.t.Fatal(err)
		}
		_ = e
		n++
	}
	return n
}

// watch keeps count of what costs history events.
func (w *world) watch() {
	w.env.SetOnLocalActivityStartedListener(func(info *activity.Info, _ context.Context, _ []any) {
		w.events = append(w.events, "local "+info.ActivityType.Name)
	})
	w.env.SetOnActivityStartedListener(func(info *activity.Info, _ context.Context, _ converter.EncodedValues) {
		w.events = append(w.events, fmt.Sprintf("%s %s", info.TaskQueue, info.ActivityType.Name))
	})
	w.env.SetOnTimerScheduledListener(func(_ string, d time.Duration) {
		w.events = append(w.events, "timer "+d.String())
	})
}

// countUpserts keeps count of upserts and of what they set.
func (w *world) countUpserts() {
	w.attributes = map[string]any{}
	w.env.OnUpsertTypedSearchAttributes(mock.Anything).Run(func(args mock.Arguments) {
		w.upserts++
		for key, value := range args.Get(0).(temporal.SearchAttributes).GetUntypedValues() {
			w.attributes[key.GetName()] = value
		}
	}).Return(nil)
}

// count says how often something began.
func (w *world) count(event string) (n int) {
	for _, e := range w.events {
		if e == event {
			n++
		}
	}
	return n
}

// as runs the workflow under another id.
func (w *world) as(id string) {
	w.env.SetStartWorkflowOptions(client.StartWorkflowOptions{ID: id, TaskQueue: access.TaskQueue})
}

// details are the current details, as the Temporal UI asks for them.
func (w *world) details() string {
	w.t.Helper()
	value, err := w.env.QueryWorkflow("__temporal_workflow_metadata")
	if err != nil {
		w.t.Fatal(err)
	}
	var metadata sdk.WorkflowMetadata
	if err := value.Get(&metadata); err != nil {
		w.t.Fatal(err)
	}
	return metadata.CurrentDetails
}

// flaky is a record that can be out of order.
type flaky struct {
	activities.Recorder
	broken   atomic.Bool
	accepted func() // when a decision is on the record
}

func (f *flaky) Append(ctx context.Context, e audit.Event) (int64, error) {
	if f.broken.Load() {
		return 0, errDown
	}
	index, err := f.Recorder.Append(ctx, e)
	if f.accepted != nil && e.Type == audit.DecisionAccepted {
		f.accepted()
	}
	return index, err
}

func (f *flaky) Receive(ctx context.Context, in audit.Reception) error {
	if f.broken.Load() {
		return errDown
	}
	return f.Recorder.Receive(ctx, in)
}

func (f *flaky) End(ctx context.Context, e audit.End) (audit.Entry, error) {
	if f.broken.Load() {
		return audit.Entry{}, errDown
	}
	return f.Recorder.End(ctx, e)
}

// ledger is the issuer's. It can be down, and so the issuer; and it can lose
// every reply that says a credential is recorded, so that there is one and the
// workflow doesn't get it.
type ledger struct {
	*audit.Log
	down, lose func() bool
}

func (l *ledger) Entry(ctx context.Context, request string) (audit.Entry, bool, error) {
	entry, found, err := l.Log.Entry(ctx, request)
	if l.down != nil && l.down() || entry.Credential != nil && l.lose != nil && l.lose() {
		return audit.Entry{}, false, errDown
	}
	return entry, found, err
}

func (l *ledger) Issued(ctx context.Context, cred access.Credential, e audit.Event) error {
	if err := l.Log.Issued(ctx, cred, e); err != nil {
		return err
	}
	if l.lose != nil && l.lose() {
		return errDown
	}
	return nil
}

// lock is a kind of grant that keeps in mind what is open, and can be broken.
type lock struct {
	mu       sync.Mutex
	open     map[string]access.Handle
	opened   int
	grace    time.Duration             // that what it opened may stay
	onIssue  func(o grant.Order) error // before it opens
	onRevoke func() error              // before it closes
}

var errDown = errors.New("it does not answer")

func (l *lock) Prepare(_ context.Context, o grant.Order) (access.Handle, error) {
	h := access.Handle{Request: o.Request.ID, Kind: "ssh", Serial: 1, CA: "SHA256:toy", NotBefore: o.NotBefore, NotAfter: o.NotAfter}
	if l.grace > 0 {
		until := o.NotAfter.Add(l.grace)
		h.Until = &until
	}
	return h, nil
}

func (l *lock) Issue(_ context.Context, o grant.Order, h access.Handle) (access.Credential, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.onIssue != nil {
		if err := l.onIssue(o); err != nil {
			return access.Credential{}, err
		}
	}
	l.open[h.Request] = h
	l.opened++
	return access.Credential{Handle: h, Certificate: "toy " + h.Request}, nil
}

func (l *lock) Revoke(_ context.Context, h access.Handle) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.onRevoke != nil {
		if err := l.onRevoke(); err != nil {
			return err
		}
	}
	delete(l.open, h.Request)
	return nil
}

func (l *lock) living() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var ids []string
	for id := range l.open {
		ids = append(ids, id)
	}
	return ids
}
