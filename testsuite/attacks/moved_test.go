package attacks

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.temporal.io/api/command/v1"
	"go.temporal.io/api/common/v1"
	"go.temporal.io/api/enums/v1"
	"go.temporal.io/api/taskqueue/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/converter"
	sdkworker "go.temporal.io/sdk/worker"
	"golang.org/x/crypto/ssh"

	"hallpass/access"
	"hallpass/audit"
	"hallpass/ca"
	"hallpass/statement"
	"hallpass/testsuite/chaos"
	"hallpass/testsuite/process"
	"hallpass/testsuite/sshdtest"
)

// Bob has approved, and the request waits for an issuer. By the time that there
// is one, policy asks for more, or who signed has left: that is what it is
// judged by.
func TestFilesSwappedBeforeTheIssue(t *testing.T) {
	r := apart(t, "swapped")
	r.start(t, "workflows")
	directory := r.Directory()
	for _, c := range []struct {
		name, file, before, after string
		want                      access.State
	}{
		{"nothing is changed", "policy.yaml", policy, policy, access.StateActive},
		{"policy asks for two", "policy.yaml", policy, strings.Replace(policy, "count: 1, from: [sre]", "count: 2, from: [sre]", 1), access.StateDenied},
		{"policy asks others", "policy.yaml", policy, strings.Replace(policy, "count: 1, from: [sre]", "count: 1, from: [security]", 1), access.StateDenied},
		{"policy denies it", "policy.yaml", policy, strings.Replace(policy, "rules:\n", "rules:\n  - {name: closed, when: true, deny: nobody gets in today}\n", 1), access.StateDenied},
		{"policy allows less", "policy.yaml", policy, strings.Replace(policy, "max_duration: 8h\n    approvals: [", "max_duration: 10m\n    approvals: [", 1), access.StateDenied},
		{"policy is broken, and the last good one unknown", "policy.yaml", policy, "rules: [", ""},
		{"bob has left", "directory.yaml", directory, r.Directory("bob"), access.StateDenied},
		{"bob has another key", "directory.yaml", directory, strings.Replace(directory, marshal(r, "bob"), marshal(r, "mallory"), 1), access.StateDenied},
		{"bob isn't asked any more", "directory.yaml", directory, strings.Replace(directory, "bob: {groups: [sre]", "bob: {groups: [dev]", 1), access.StateDenied},
		{"alice has left", "directory.yaml", directory, r.Directory("alice"), access.StateDenied},
		{"the resource is gone", "catalog.yaml", r.read(t, "catalog.yaml"), strings.Replace(r.read(t, "catalog.yaml"), "ssh/web-1:", "ssh/web-2:", 1), access.StateDenied},
	} {
		if c.want != access.StateActive && c.before == c.after {
			t.Fatalf("%s: nothing is swapped", c.name)
		}
		a := r.ask(t, "alice", "ssh/web-1")
		await(t, r.Client, a, access.StatePending)
		must(t, say(t, r.Client, a, access.MessageDecision, r.decide(t, "bob", "bob", a, access.Approve)))
		await(t, r.Client, a, access.StateIssuing)
		refused := r.count(t, asked{}, audit.CredentialRefused) // of one that doesn't verify it doesn't say which
		r.replace(t, c.file, c.after)
		r.start(t, "issuer:ssh")
		if c.want == "" { // the issuer doesn't even start
			r.gone(t, "issuer:ssh")
			if got := status(t, r.Client, a); got.State != access.StateIssuing || r.issued(t, a) != 0 {
				t.Errorf("%s: %s, %s", c.name, got.State, got.Why)
			}
			must(t, r.Client.TerminateWorkflow(t.Context(), access.WorkflowID(a.ID), "", "over"))
		} else {
			got := await(t, r.Client, a, c.want)
			r.stop("issuer:ssh")
			refused = r.count(t, asked{}, audit.CredentialRefused) - refused
			if active := c.want == access.StateActive; r.issued(t, a) > 0 != active || refused > 0 == active {
				t.Errorf("%s: %s, %s; issued %d times, refused %d", c.name, got.State, got.Why, r.issued(t, a), refused)
			}
		}
		r.replace(t, c.file, c.before)
	}

	// Who has left when he says so hasn't said anything.
	a := r.ask(t, "alice", "ssh/web-1")
	await(t, r.Client, a, access.StatePending)
	approval := r.decide(t, "bob", "bob", a, access.Approve)
	r.replace(t, "directory.yaml", r.Directory("bob"))
	if err := say(t, r.Client, a, access.MessageDecision, approval); err == nil {
		t.Error("the approval of somebody who has left is taken")
	}
	if got := status(t, r.Client, a); got.State != access.StatePending || len(got.Standing.Voices) != 0 {
		t.Errorf("%s, with %+v", got.State, got.Standing.Voices)
	}
	r.replace(t, "directory.yaml", directory)
	must(t, say(t, r.Client, a, access.MessageDecision, approval))
	r.verifies(t)
}

func marshal(r *roles, who string) string {
	return statement.MarshalKey(r.People[who].Signer.PublicKey())
}

func (r *roles) read(t testing.TB, name string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(r.dir, name))
	must(t, err)
	return string(data)
}

// Somebody on the issuer's queue says that he has taken a real grant back, and
// hasn't: the record and the list that hosts go by have its end all the same.
func TestRoguePollerRevokesNothing(t *testing.T) {
	r := apart(t, "revoker")
	r.start(t, "workflows")
	r.start(t, "issuer:ssh")
	grants := map[access.State]asked{}
	certs := map[access.State]*ssh.Certificate{}
	for _, end := range []access.State{access.StateReleased, access.StateRevoked} {
		a := r.ask(t, "alice", "ssh/web-1")
		await(t, r.Client, a, access.StatePending)
		must(t, say(t, r.Client, a, access.MessageDecision, r.decide(t, "bob", "bob", a, access.Approve)))
		grants[end], certs[end] = a, certificate(t, await(t, r.Client, a, access.StateActive))
	}
	r.stop("issuer:ssh")

	var claimed atomic.Int64
	poller := sdkworker.New(r.Client, access.IssueQueue("ssh"), sdkworker.Options{DisableWorkflowWorker: true})
	poller.RegisterActivityWithOptions(func(context.Context, audit.End) error { claimed.Add(1); return nil }, activity.RegisterOptions{Name: "Revoke"})
	must(t, poller.Start())
	must(t, say(t, r.Client, grants[access.StateReleased], access.MessageRelease, r.word(t, "alice", access.TypeRelease, grants[access.StateReleased])))
	must(t, say(t, r.Client, grants[access.StateRevoked], access.MessageRevoke, r.word(t, "dave", access.TypeRevoke, grants[access.StateRevoked])))
	for end, a := range grants {
		await(t, r.Client, a, end)
		if n := r.count(t, a, "grant."+string(end)); n != 1 {
			t.Errorf("%s: its end is on record %d times", end, n)
		}
	}
	poller.Stop()
	if claimed.Load() != 2 {
		t.Fatalf("the poller was asked %d times, so the test shows nothing", claimed.Load())
	}

	// The list is made by whoever has the CA's key, when he is back.
	r.start(t, "issuer:ssh")
	list := filepath.Join(t.TempDir(), "krl")
	for end, cert := range certs {
		file := sshdtest.WriteCert(t, cert)
		eventually(t, string(end)+" is in the list", func() bool {
			cmd := exec.CommandContext(t.Context(), r.program, "ca", "krl", list)
			cmd.Env = r.env
			if cmd.Run() != nil {
				return false // none yet
			}
			out, _ := exec.CommandContext(t.Context(), "ssh-keygen", "-Q", "-f", list, file).CombinedOutput() // exits 1 where it is revoked
			return strings.Contains(string(out), "REVOKED")
		})
	}
	r.verifies(t)
}

// The issuer's clock goes wrong on a running stack. By as much as clocks may differ
// it issues for as long as was approved, from what it takes for now. By more, it
// issues nothing and refuses nobody: it says what the two clocks are, and issues
// once its own is right again.
func TestClockOfTheIssuerMoves(t *testing.T) {
	if runtime.GOOS != "linux" || runtime.GOARCH != "amd64" {
		process.Unable(t, "clocks of processes are moved on Linux on amd64 alone")
	}
	r := apart(t, "clocks")
	r.start(t, "workflows")
	issuer := r.start(t, "issuer:ssh")
	t.Cleanup(func() { _ = chaos.MoveClock(issuer, 0) }) // it is to stop in order
	const length = 10 * time.Minute
	saysSo := func() int {
		said, err := os.ReadFile(r.log("issuer:ssh"))
		must(t, err)
		return strings.Count(string(said), "nothing is issued: by the issuer's clock")
	}
	for _, c := range []struct {
		by    time.Duration
		waits bool
	}{
		{by: 0}, {by: 10 * time.Second}, {by: -10 * time.Second}, {by: time.Hour, waits: true},
		{by: -time.Hour, waits: true}, {by: 26 * time.Hour, waits: true}, {by: -26 * time.Hour, waits: true}, {by: 0},
	} {
		must(t, chaos.MoveClock(issuer, c.by))
		before := saysSo()
		earliest := time.Now().Add(c.by + length).Truncate(time.Second)
		a := r.ask(t, "alice", "ssh/sandbox", func(q *access.Request) { q.Duration = access.InSeconds(length) })
		if c.waits {
			eventually(t, "the issuer says why it doesn't issue", func() bool { return saysSo() > before })
			await(t, r.Client, a, access.StateIssuing)
			if issued, refused := r.issued(t, a), r.count(t, asked{}, audit.CredentialRefused); issued != 0 || refused != 0 {
				t.Errorf("with the clock at %s: issued %d times, %d refusals on record", c.by, issued, refused)
			}
			must(t, chaos.MoveClock(issuer, 0))
			c.by, earliest = 0, time.Now().Add(length).Truncate(time.Second)
		}
		cert := certificate(t, await(t, r.Client, a, access.StateActive))
		from, until := time.Unix(int64(cert.ValidAfter), 0), time.Unix(int64(cert.ValidBefore), 0)
		t.Logf("with the clock at %s: from %s until %s from now", c.by, time.Until(from).Round(time.Second), time.Until(until).Round(time.Second))
		if until.Sub(from) != length+ca.BackDate {
			t.Errorf("with the clock at %s it lasts from %s until %s", c.by, from, until)
		}
		if latest := time.Now().Add(c.by + length); until.Before(earliest) || until.After(latest) {
			t.Errorf("with the clock at %s it ends at %s, not from %s to %s", c.by, until, earliest, latest)
		}
	}
	r.verifies(t)
}

// Somebody on the queue of workflows answers a task of a request's with
// "continue as new", and hands it another request. Whoever takes over denies
// it: under the id of one, there is no other.
func TestContinuedAsAnother(t *testing.T) {
	const namespace = "continued"
	r := apart(t, namespace)
	r.start(t, "issuer:ssh")
	for _, c := range []struct {
		name     string
		resource string
		pending  bool // it was received, and bob has approved it
		other    func(a asked) access.Statement
		want     access.State
	}{
		{"nothing is changed", "ssh/sandbox", false, func(a asked) access.Statement { return a.signed }, access.StateActive},
		{"as another of hers", "ssh/sandbox", false, func(asked) access.Statement { return r.request(t, "alice", "ssh/sandbox").signed }, access.StateDenied},
		{"as somebody else's", "ssh/sandbox", false, func(asked) access.Statement { return r.request(t, "bob", "ssh/sandbox").signed }, access.StateDenied},
		{"as nothing", "ssh/sandbox", false, func(asked) access.Statement { return access.Statement{} }, access.StateDenied},
		{"as what she didn't sign", "ssh/sandbox", false, func(a asked) access.Statement {
			return access.Statement{Payload: edit(t, a.signed.Payload, `"duration":3600`, `"duration":7200`), Signature: a.signed.Signature}
		}, access.StateDenied},
		{"approved, as another of hers", "ssh/web-1", true, func(asked) access.Statement { return r.request(t, "alice", "ssh/sandbox").signed }, access.StateDenied},
		{"approved, as an edited one", "ssh/web-1", true, func(a asked) access.Statement {
			a.Duration = access.InSeconds(8 * time.Hour)
			return r.signed(t, "alice", "request@hallpass", text(t, a.Request))
		}, access.StateDenied},
	} {
		a := r.request(t, "alice", c.resource)
		other := c.other(a)
		var approval access.Statement
		if c.pending {
			r.start(t, "workflows")
			submit(t, r.Client, a.ID, a.signed)
			await(t, r.Client, a, access.StatePending)
			approval = r.decide(t, "bob", "bob", a, access.Approve)
			r.stop("workflows")
			must(t, r.Client.SignalWorkflow(t.Context(), access.WorkflowID(a.ID), "", access.MessageDecision, access.Statement{})) // for a task
		} else {
			submit(t, r.Client, a.ID, a.signed)
		}
		r.continueAs(t, namespace, a, other)
		r.start(t, "workflows")
		if c.pending {
			must(t, r.Client.SignalWorkflow(t.Context(), access.WorkflowID(a.ID), "", access.MessageDecision, approval))
		}
		got := await(t, r.Client, a, c.want)
		want := map[access.State]int{access.StateActive: 1}[c.want]
		issued := r.issued(t, a)
		if q, err := statement.ParseRequest([]byte(other.Payload)); err == nil && q.ID != a.ID {
			issued += r.issued(t, asked{Request: q})
		}
		if issued != want {
			t.Errorf("%s: %s, %s; issued %d times", c.name, got.State, got.Why, issued)
		}
		r.stop("workflows")
	}
	r.verifies(t)
}

// continueAs takes the next workflow task, in a worker's place, and continues
// the request's workflow as new with another submission.
func (r *roles) continueAs(t testing.TB, namespace string, a asked, other access.Statement) {
	t.Helper()
	input, err := converter.GetDefaultDataConverter().ToPayloads(access.Submission{Request: other})
	must(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	queue := &taskqueue.TaskQueue{Name: access.TaskQueue}
	for {
		task, err := r.Client.WorkflowService().PollWorkflowTaskQueue(ctx, &workflowservice.PollWorkflowTaskQueueRequest{
			Namespace: namespace, TaskQueue: queue, Identity: "attack",
		})
		must(t, err)
		if len(task.GetTaskToken()) == 0 {
			continue // none yet
		}
		if id := task.GetWorkflowExecution().GetWorkflowId(); id != access.WorkflowID(a.ID) {
			continue // a running grant's; it comes again
		}
		_, err = r.Client.WorkflowService().RespondWorkflowTaskCompleted(ctx, &workflowservice.RespondWorkflowTaskCompletedRequest{
			Namespace: namespace, TaskToken: task.TaskToken, Identity: "attack",
			Commands: []*command.Command{{
				CommandType: enums.COMMAND_TYPE_CONTINUE_AS_NEW_WORKFLOW_EXECUTION,
				Attributes: &command.Command_ContinueAsNewWorkflowExecutionCommandAttributes{
					ContinueAsNewWorkflowExecutionCommandAttributes: &command.ContinueAsNewWorkflowExecutionCommandAttributes{
						WorkflowType: &common.WorkflowType{Name: access.Workflow}, TaskQueue: queue, Input: input,
					},
				},
			}},
		})
		must(t, err)
		described, err := r.Client.DescribeWorkflowExecution(ctx, access.WorkflowID(a.ID), "")
		must(t, err)
		if described.WorkflowExecutionInfo.Execution.RunId == task.WorkflowExecution.RunId {
			t.Fatal("the workflow wasn't continued as new, so the test shows nothing")
		}
		return
	}
}

// A plain client answers in the issuer's place, by the id of the activity that
// waits for it. Who asked keeps nothing of that, and it isn't on record.
func TestIssueAnsweredByAClient(t *testing.T) {
	const namespace = "answered"
	r := apart(t, namespace)
	r.start(t, "workflows")
	out := r.hallpass(t, "alice", "request", "ssh/sandbox", "--for", "10m", "--reason", "x", "--no-wait")
	a := asked{Request: access.Request{Header: access.Header{ID: regexp.MustCompile("[0-9a-f]{8}-[0-9a-f-]{27}").FindString(out)}}}
	await(t, r.Client, a, access.StateIssuing)
	var waiting string
	eventually(t, "an activity to wait", func() bool {
		described, err := r.Client.DescribeWorkflowExecution(t.Context(), access.WorkflowID(a.ID), "")
		must(t, err)
		for _, p := range described.PendingActivities {
			if p.ActivityType.Name == "Issue" {
				waiting = p.ActivityId
			}
		}
		return waiting != ""
	})
	// For a key that the client has.
	forged, err := counterfeit(access.Request{
		Header: access.Header{ID: a.ID, Signer: "alice"}, Login: login(), PublicKey: marshal(r, "mallory"),
	}, a.ID, r.People["mallory"].Signer)
	must(t, err, r.Client.CompleteActivityByID(t.Context(), namespace, access.WorkflowID(a.ID), "", waiting, forged, nil))
	await(t, r.Client, a, access.StateActive)

	cmd := exec.CommandContext(t.Context(), r.program, "wait", a.ID)
	cmd.Env = append(r.env, "HALLPASS_USER=alice", "HALLPASS_KEY="+r.People["alice"].Key, "HALLPASS_HOME="+r.home("alice"))
	if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(out), "is for another key; it was not kept") {
		t.Errorf("wait: %v\n%s", err, out)
	}
	kept(t, r.home("alice"))
	r.start(t, "issuer:ssh")
	if n := r.count(t, a, "credential."); n != 0 {
		t.Errorf("%d credentials are on record", n)
	}
	// It can be ended as any other, which gives nobody anything.
	r.hallpass(t, "alice", "release", a.ID)
	await(t, r.Client, a, access.StateReleased)
	if n := r.count(t, a, "credential."); n != 0 {
		t.Errorf("%d credentials are on record after its end", n)
	}
	r.verifies(t)
}
