package attacks

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/client"
	sdkworker "go.temporal.io/sdk/worker"
	"golang.org/x/crypto/ssh"

	"hallpass/access"
	"hallpass/audit"
	"hallpass/statement"
	"hallpass/testsuite/devtest"
	"hallpass/testsuite/sshdtest"
)

// patience is far more than anything here takes on a busy machine.
const patience = 90 * time.Second

var groups = map[string]string{"alice": "dev", "bob": "sre", "carol": "dev, sre", "dave": "security", "mallory": ""}

const (
	config = `temporal: {namespace: default}
policy: policy.yaml
directory: directory.yaml
catalog: catalog.yaml
audit: {database: audit.db, key: audit.key, public_key: audit.pub}
issuers: {ssh: {key: "file:ssh_ca"}}
service: {address: "127.0.0.1:7280"}
limits: {min_grant: 1s}
`
	policy = `rules:
  - name: production
    when: resource.labels.env == "prod" && "dev" in requester.groups
    max_duration: 8h
    approvals: [{count: 1, from: [sre]}]
    approval_window: 1h
    revoke: [security]
  - {name: sandbox, when: resource.labels.env == "dev", max_duration: 8h, approvals: none}
  - name: narrow
    when: resource.labels.env == "narrow"
    max_duration: 1h
    approvals: none
    ssh: {extensions: [permit-pty], force_command: "echo forced", source_address: [127.0.0.0/8]}
  - name: elsewhere
    when: resource.labels.env == "elsewhere"
    max_duration: 1h
    approvals: none
    ssh: {source_address: [203.0.113.0/24]}
locks: {groups: [security]}
`
	catalog = `resources:
  ssh/web-1: {labels: {env: prod}, logins: [LOGIN]}
  ssh/sandbox: {labels: {env: dev}, logins: [LOGIN]}
  ssh/narrow: {labels: {env: narrow}, logins: [LOGIN]}
  ssh/elsewhere: {labels: {env: elsewhere}, logins: [LOGIN]}
`
)

// stack is a running hallpass dev with everything in it, and the people who
// use it and attack it. All tests share one.
type stack struct {
	*devtest.Server
	devtest.People
	program, dir string
}

var (
	begin   = sync.OnceValues(serve)
	running *stack
)

func TestMain(m *testing.M) {
	code := m.Run()
	if running != nil {
		_ = running.Stop() // what it has to say is in its log, which goes
		_ = os.RemoveAll(running.dir)
	}
	os.Exit(code)
}

func serve() (*stack, error) {
	program, err := filepath.Abs(os.Getenv("HALLPASS_BIN"))
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "hallpass-attacks-")
	if err != nil {
		return nil, err
	}
	s := &stack{program: program, dir: dir}
	s.People, err = devtest.Furnish(dir, map[string]string{
		"hallpass.yaml": config, "policy.yaml": policy, "catalog.yaml": strings.ReplaceAll(catalog, "LOGIN", login()),
	}, groups)
	if err != nil {
		return nil, err
	}
	s.Server, err = devtest.Serve(context.Background(), program, dir)
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	running = s
	return s, nil
}

// attack gives a test the stack.
func attack(t *testing.T) *stack {
	t.Helper()
	if os.Getenv("HALLPASS_BIN") == "" {
		t.Skip("HALLPASS_BIN is not set; make attack builds bin/hallpass and sets it")
	}
	s, err := begin()
	must(t, err)
	return s
}

// login is whoever runs the tests: sshd lets nobody else in.
var login = sync.OnceValue(func() string {
	u, err := user.Current()
	if err != nil {
		return "nobody"
	}
	return u.Username
})

func must(t testing.TB, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// eventually waits until f says yes.
func eventually(t testing.TB, what string, f func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	tick := time.NewTicker(30 * time.Millisecond)
	defer tick.Stop()
	for !f() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("%s: not within %s", what, patience)
		}
	}
}

// asked is a request that somebody has made.
type asked struct {
	access.Request
	signed access.Statement
	key    ssh.Signer // that is to be certified
}

// request makes a request without submitting it.
func (s *stack) request(t testing.TB, who, resource string, edit ...func(*access.Request)) asked {
	t.Helper()
	var a asked
	_, private, err := ed25519.GenerateKey(rand.Reader)
	must(t, err)
	a.key, err = ssh.NewSignerFromKey(private)
	must(t, err)
	a.Request, err = s.Request(who, resource, login(), time.Hour)
	must(t, err)
	a.PublicKey = statement.MarshalKey(a.key.PublicKey())
	for _, f := range edit {
		f(&a.Request)
	}
	a.signed, err = s.Sign(who, a.Request)
	must(t, err)
	return a
}

// submit starts the workflow of a request under a workflow id, as anybody can.
func submit(t testing.TB, c client.Client, id string, st access.Statement) client.WorkflowRun {
	t.Helper()
	run, err := c.ExecuteWorkflow(t.Context(), client.StartWorkflowOptions{
		ID: access.WorkflowID(id), TaskQueue: access.TaskQueue,
		WorkflowIDReusePolicy: enums.WORKFLOW_ID_REUSE_POLICY_ALLOW_DUPLICATE,
	}, access.Workflow, access.Submission{Request: st})
	must(t, err)
	return run
}

func (s *stack) ask(t testing.TB, who, resource string, edit ...func(*access.Request)) asked {
	t.Helper()
	a := s.request(t, who, resource, edit...)
	submit(t, s.Client, a.ID, a.signed)
	return a
}

// decide signs a decision with one person's key in a name.
func (s *stack) decide(t testing.TB, key, name string, a asked, v access.Verdict) access.Statement {
	t.Helper()
	st, err := s.Sign(key, access.Decision{
		Header: s.Header(name, access.TypeDecision), Request: a.ID, RequestHash: a.signed.Hash(), Verdict: v,
	})
	must(t, err)
	return st
}

// say sends a message as an update and gives what was answered.
func say(t testing.TB, c client.Client, a asked, message string, content any) error {
	t.Helper()
	h, err := c.UpdateWorkflow(t.Context(), client.UpdateWorkflowOptions{
		WorkflowID: access.WorkflowID(a.ID), UpdateName: message, Args: []any{content}, WaitForStage: client.WorkflowUpdateStageCompleted,
	})
	if err == nil {
		err = h.Get(t.Context(), nil)
	}
	return err
}

// status asks a request how it is, again where nobody answers: the machine is busy, or a
// worker has just been started. Any other error is one.
func status(t testing.TB, c client.Client, a asked) (s access.Status) {
	t.Helper()
	eventually(t, "somebody to say how the request is", func() bool {
		value, err := c.QueryWorkflow(t.Context(), access.WorkflowID(a.ID), "", access.QueryStatus)
		if unanswered(err) {
			return false
		}
		must(t, err)
		must(t, value.Get(&s))
		return true
	})
	return s
}

func unanswered(err error) bool {
	var (
		late *serviceerror.DeadlineExceeded
		away *serviceerror.Unavailable
		none *serviceerror.FailedPrecondition // no worker polls
	)
	return errors.Is(err, context.DeadlineExceeded) || errors.As(err, &late) || errors.As(err, &away) || errors.As(err, &none)
}

func await(t testing.TB, c client.Client, a asked, state access.State) access.Status {
	t.Helper()
	var s access.Status
	eventually(t, "state "+string(state), func() bool {
		s = status(t, c, a)
		if s.State.Final() && s.State != state {
			t.Fatalf("the request is %s: %s", s.State, s.Why)
		}
		return s.State == state
	})
	return s
}

// issued is how many credentials the record has of a request.
func (s *stack) issued(t testing.TB, a asked) int {
	t.Helper()
	return s.count(t, a, audit.CredentialIssued)
}

// count is how many events of a type the record has of a request.
func (s *stack) count(t testing.TB, a asked, typ string) (n int) {
	t.Helper()
	public, err := audit.ReadPublicKey(filepath.Join(s.dir, "audit.pub"))
	must(t, err)
	log, err := audit.OpenReader(t.Context(), filepath.Join(s.dir, "audit.db"), public)
	must(t, err)
	defer func() { _ = log.Close() }()
	for _, err := range log.Events(t.Context(), audit.Query{Request: a.ID, Type: typ}) {
		must(t, err)
		n++
	}
	return n
}

// verifies has the whole record verified.
func (s *stack) verifies(t testing.TB) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), s.program, "audit", "verify")
	cmd.Env = append(os.Environ(), "HALLPASS_CONFIG="+filepath.Join(s.dir, "hallpass.yaml"))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("audit verify: %v\n%s", err, out)
	}
}

// certificate is the one of an active request.
func certificate(t testing.TB, s access.Status) *ssh.Certificate {
	t.Helper()
	if s.Credential == nil {
		t.Fatalf("no credential: %s", s.Why)
	}
	key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(s.Credential.Certificate))
	must(t, err)
	cert, ok := key.(*ssh.Certificate)
	if !ok {
		t.Fatal("not a certificate")
	}
	return cert
}

// keyFile writes the private key of a request as ssh reads it.
func keyFile(t testing.TB, key ed25519.PrivateKey) string {
	t.Helper()
	block, err := ssh.MarshalPrivateKey(key, "")
	must(t, err)
	path := filepath.Join(t.TempDir(), "id")
	must(t, os.WriteFile(path, pem.EncodeToMemory(block), 0o600))
	return path
}

// host is a real sshd that trusts the stack's CA, as web-1, sandbox and the
// others at once, with lines in front of its configuration.
func (s *stack) host(t testing.TB, lines ...string) *sshdtest.Server {
	t.Helper()
	line, err := os.ReadFile(filepath.Join(s.dir, "ssh_ca.pub"))
	must(t, err)
	ca, _, _, _, err := ssh.ParseAuthorizedKey(line)
	must(t, err)
	var principals []string
	for _, name := range []string{"web-1", "sandbox", "narrow", "elsewhere"} {
		principals = append(principals, name+"/"+login())
	}
	return sshdtest.Start(t, sshdtest.Config{CA: []ssh.PublicKey{ca}, Principals: map[string][]string{login(): principals}, Lines: lines})
}

// Carol may approve, but not her own request, however she writes her name.
func TestSelfApprovalInAnotherForm(t *testing.T) {
	s := attack(t)
	a := s.ask(t, "carol", "ssh/web-1")
	await(t, s.Client, a, access.StatePending)
	for _, name := range []string{
		"carol", "Carol", "CAROL", "caroL", " carol", "carol ", "carol\t", "carol\x00", "carol\n", "carol.", "carol\u200b", "\ufeffcarol",
		"c\u0430rol",       // Cyrillic а
		"\uff43arol",       // fullwidth c
		"caro\u2113",       // script small l
		"ca\u0301rol",      // combining accent
		"carol\u202e",      // right-to-left override
		"carol@dev", "sre", // others that aren't there
		"bob", "dave", "", // others that are, and nobody
	} {
		if err := say(t, s.Client, a, access.MessageDecision, s.forge(t, "carol", access.Decision{
			Header: s.Header(name, access.TypeDecision), Request: a.ID, RequestHash: a.signed.Hash(), Verdict: access.Approve,
		})); err == nil {
			t.Errorf("carol's approval as %q was taken", name)
		}
	}
	if got := status(t, s.Client, a); got.State != access.StatePending || len(got.Standing.Voices) != 0 {
		t.Errorf("%s, with %+v", got.State, got.Standing.Voices)
	}
	// Signed in the same way, but by bob in his own name, it counts.
	must(t, say(t, s.Client, a, access.MessageDecision, s.forge(t, "bob", access.Decision{
		Header: s.Header("bob", access.TypeDecision), Request: a.ID, RequestHash: a.signed.Hash(), Verdict: access.Approve,
	})))
	await(t, s.Client, a, access.StateActive)
	s.verifies(t)
}

// Whoever owns Temporal holds bob's approval back, lets carol's denial end the
// request, resets the workflow to before that, without what was said since, and
// delivers the approval. The denial stays: whether policy rules anew, or the
// workflow waits for decisions again.
func TestResetToBeforeTheDenial(t *testing.T) {
	s := attack(t)
	for task, name := range []string{"to the ruling", "to the wait"} {
		t.Run(name, func(t *testing.T) {
			a := s.ask(t, "alice", "ssh/web-1")
			await(t, s.Client, a, access.StatePending)
			approval := s.decide(t, "bob", "bob", a, access.Approve)
			must(t, say(t, s.Client, a, access.MessageDecision, s.decide(t, "carol", "carol", a, access.Deny)))
			await(t, s.Client, a, access.StateDenied)

			before, err := s.Client.DescribeWorkflowExecution(t.Context(), access.WorkflowID(a.ID), "")
			must(t, err)
			_, err = s.Client.ResetWorkflowExecution(t.Context(), &workflowservice.ResetWorkflowExecutionRequest{
				Namespace: "default", WorkflowExecution: before.WorkflowExecutionInfo.Execution,
				Reason: "attack", WorkflowTaskFinishEventId: tasks(t, s.Client, a)[task], RequestId: statement.NewID(),
				ResetReapplyExcludeTypes: []enums.ResetReapplyExcludeType{enums.RESET_REAPPLY_EXCLUDE_TYPE_SIGNAL, enums.RESET_REAPPLY_EXCLUDE_TYPE_UPDATE},
			})
			must(t, err)
			after, err := s.Client.DescribeWorkflowExecution(t.Context(), access.WorkflowID(a.ID), "")
			must(t, err)
			if after.WorkflowExecutionInfo.Execution.RunId == before.WorkflowExecutionInfo.Execution.RunId {
				t.Fatal("the workflow wasn't reset, so the test shows nothing")
			}
			_ = say(t, s.Client, a, access.MessageDecision, approval) // whatever is answered
			_ = s.Client.SignalWorkflow(t.Context(), access.WorkflowID(a.ID), "", access.MessageDecision, approval)
			eventually(t, "an end", func() bool { return status(t, s.Client, a).State.Final() || s.issued(t, a) > 0 })
			if got := status(t, s.Client, a); got.State != access.StateDenied || got.Credential != nil || s.issued(t, a) != 0 {
				t.Errorf("%s: %s; issued %d times", got.State, got.Why, s.issued(t, a))
			}
			s.verifies(t)
		})
	}
}

// tasks are the events in which workflow tasks of a request were completed.
func tasks(t testing.TB, c client.Client, a asked) []int64 {
	t.Helper()
	ids := completed(t, c, access.WorkflowID(a.ID))
	if len(ids) < 2 {
		t.Fatalf("%d workflow tasks", len(ids))
	}
	return ids
}

// completed are the events in which tasks of a workflow were completed.
func completed(t testing.TB, c client.Client, workflow string) (ids []int64) {
	t.Helper()
	for events := c.GetWorkflowHistory(t.Context(), workflow, "", false, enums.HISTORY_EVENT_FILTER_TYPE_ALL_EVENT); events.HasNext(); {
		e, err := events.Next()
		must(t, err)
		if e.EventType == enums.EVENT_TYPE_WORKFLOW_TASK_COMPLETED {
			ids = append(ids, e.EventId)
		}
	}
	return ids
}

// A request that has ended isn't started over, by whatever is done to its
// workflow; and another request doesn't get in under its id, or under the id of
// somebody else's.
func TestWorkflowIDAgain(t *testing.T) {
	s := attack(t)
	first := s.ask(t, "alice", "ssh/sandbox")
	await(t, s.Client, first, access.StateActive)
	stop, err := s.Sign("alice", access.Stop{Header: s.Header("alice", access.TypeRelease), Request: first.ID, RequestHash: first.signed.Hash()})
	must(t, err)
	must(t, say(t, s.Client, first, access.MessageRelease, stop))
	await(t, s.Client, first, access.StateReleased)

	other := s.request(t, "alice", "ssh/sandbox")
	twin := s.request(t, "alice", "ssh/sandbox", func(r *access.Request) { r.ID, r.Reason = first.ID, "another one" })
	for name, c := range map[string]struct {
		id string
		st access.Statement
	}{
		"the same request once more":               {first.ID, first.signed},
		"another request under the same id":        {first.ID, twin.signed},
		"another request in its workflow":          {first.ID, other.signed},
		"the request in another's workflow":        {other.ID, first.signed},
		"a statement of another type":              {first.ID, stop},
		"nothing":                                  {first.ID, access.Statement{}},
		"a request whose id isn't one at all":      {"../" + first.ID, first.signed},
		"a request under its id in another letter": {strings.ToUpper(first.ID), first.signed},
	} {
		var outcome access.Outcome
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		must(t, submit(t, s.Client, c.id, c.st).Get(ctx, &outcome))
		cancel()
		if outcome.State != access.StateDenied || outcome.Handle != nil {
			t.Errorf("%s is %s: %s", name, outcome.State, outcome.Why)
		}
	}
	if n := s.issued(t, first) + s.issued(t, other); n != 1 {
		t.Errorf("%d credentials", n)
	}
	s.verifies(t)
}

// Somebody on the issuer's queue answers in the issuer's place. What he makes up
// no host takes; what names another request, be it made up or a real certificate
// for the same key, the client doesn't keep; and the record knows nothing of either.
func TestRoguePollerOnTheIssuersQueue(t *testing.T) {
	s := attack(t)
	const namespace = "poller"
	c, err := s.Namespace(t.Context(), namespace)
	must(t, err)
	t.Cleanup(c.Close)
	worker := exec.Command(s.program, "worker", "--role", "workflows")
	worker.Env = append(os.Environ(), "HALLPASS_CONFIG="+filepath.Join(s.dir, "hallpass.yaml"),
		"HALLPASS_TEMPORAL_ADDRESS="+s.Address, "HALLPASS_TEMPORAL_NAMESPACE="+namespace)
	must(t, worker.Start())
	t.Cleanup(func() { _ = worker.Process.Signal(os.Interrupt); _ = worker.Wait() })

	_, private, err := ed25519.GenerateKey(rand.Reader)
	must(t, err)
	key, err := ssh.NewSignerFromKey(private)
	must(t, err)
	withKey := func(r *access.Request) { r.PublicKey = statement.MarshalKey(key.PublicKey()) }
	live := s.ask(t, "dave", "ssh/sandbox", withKey)
	real := *await(t, s.Client, live, access.StateActive).Credential

	poller := sdkworker.New(c, access.IssueQueue("ssh"), sdkworker.Options{DisableWorkflowWorker: true})
	other := statement.NewID()
	named := func(req access.Request) string { // the request that a certificate names
		if req.Signer == "bob" {
			return other
		}
		return req.ID
	}
	poller.RegisterActivityWithOptions(func(_ context.Context, ev access.Evidence) (access.Credential, error) {
		req, err := statement.ParseRequest([]byte(ev.Request.Payload))
		if err != nil {
			return access.Credential{}, err
		}
		if req.Signer == "dave" {
			replayed := real
			replayed.Handle.Request = req.ID
			return replayed, nil
		}
		return counterfeit(req, named(req), s.People["mallory"].Signer)
	}, activity.RegisterOptions{Name: "Issue"})
	poller.RegisterActivityWithOptions(func(context.Context, audit.End) error { return nil }, activity.RegisterOptions{Name: "Revoke"})
	must(t, poller.Start())
	t.Cleanup(poller.Stop)

	a := s.request(t, "alice", "ssh/sandbox", withKey)
	submit(t, c, a.ID, a.signed)
	cert := certificate(t, await(t, c, a, access.StateActive))
	host := s.host(t)
	if r := host.Login(t, keyFile(t, private), sshdtest.WriteCert(t, cert), "true"); !r.Refused() {
		t.Errorf("the counterfeit opens the host: %s", r)
	}
	if s.issued(t, a) != 0 {
		t.Error("the counterfeit is on record")
	}
	if r := host.Login(t, keyFile(t, private), sshdtest.WriteCert(t, certificate(t, access.Status{Credential: &real})), "true"); !r.OK() {
		t.Errorf("the real one doesn't open the host, so the test shows nothing: %s", r)
	}

	// One that names another request isn't even kept by who asked.
	public := filepath.Join(t.TempDir(), "id.pub")
	must(t, os.WriteFile(public, ssh.MarshalAuthorizedKey(key.PublicKey()), 0o600))
	for who, flags := range map[string][]string{"bob": nil, "dave": {"--key", public}} {
		home := t.TempDir()
		hallpass := func(args ...string) (string, error) {
			cmd := exec.CommandContext(t.Context(), s.program, args...)
			cmd.Env = append(worker.Env, "SSH_AUTH_SOCK=", "HALLPASS_USER="+who, "HALLPASS_KEY="+s.People[who].Key, "HALLPASS_HOME="+home)
			out, err := cmd.CombinedOutput()
			return string(out), err
		}
		out, err := hallpass(append([]string{"request", "ssh/sandbox", "--for", "10m", "--reason", "x", "--no-wait"}, flags...)...)
		if err != nil {
			t.Fatalf("%s: %v: %s", who, err, out)
		}
		b := asked{Request: access.Request{Header: access.Header{ID: regexp.MustCompile("[0-9a-f]{8}-[0-9a-f-]{27}").FindString(out)}}}
		await(t, c, b, access.StateActive)
		if out, err := hallpass("wait", b.ID); err == nil || !strings.Contains(out, "belongs to another request; it was not kept") {
			t.Errorf("%s: wait: %v\n%s", who, err, out)
		}
		kept(t, home)
		if s.issued(t, b) != 0 {
			t.Errorf("%s: what the poller handed out is on record", who)
		}
	}
	s.verifies(t)
}

// kept makes sure that there is no certificate in somebody's folder.
func kept(t testing.TB, home string) {
	t.Helper()
	files := 0
	must(t, filepath.WalkDir(home, func(path string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			files++
			data, err := os.ReadFile(path)
			must(t, err)
			if strings.Contains(string(data), "-cert-v01@openssh.com") || strings.HasSuffix(path, "-cert.pub") {
				t.Errorf("%s is kept", path)
			}
		}
		return err
	}))
	if files == 0 {
		t.Error("the folder is empty, so it shows nothing")
	}
}

// counterfeit is a credential for a request, whose certificate names one.
func counterfeit(req access.Request, named string, ca ssh.Signer) (access.Credential, error) {
	key, err := statement.ParseKey(req.PublicKey)
	if err != nil {
		return access.Credential{}, err
	}
	now := time.Now().UTC().Truncate(time.Second)
	cert := &ssh.Certificate{
		Key: key, Serial: 1, CertType: ssh.UserCert, KeyId: "hallpass:" + named + ":" + req.Signer,
		ValidPrincipals: []string{"sandbox/" + req.Login},
		ValidAfter:      uint64(now.Add(-time.Minute).Unix()), ValidBefore: uint64(now.Add(time.Hour).Unix()),
	}
	if err := cert.SignCert(rand.Reader, ca); err != nil {
		return access.Credential{}, err
	}
	return access.Credential{
		Handle: access.Handle{
			Request: req.ID, Kind: "ssh", Serial: 1, CA: ssh.FingerprintSHA256(ca.PublicKey()),
			Principals: cert.ValidPrincipals, NotBefore: now, NotAfter: now.Add(time.Hour),
		},
		Certificate: strings.TrimSpace(string(ssh.MarshalAuthorizedKey(cert))),
	}, nil
}

// What policy forces on a session is in the certificate, is the host's law, and
// isn't the requester's to change.
func TestForcedOptionsReachTheHost(t *testing.T) {
	s := attack(t)
	host := s.host(t)
	grant := func(resource string, edit ...func(*access.Request)) (string, *ssh.Certificate) {
		_, private, err := ed25519.GenerateKey(rand.Reader)
		must(t, err)
		key, err := ssh.NewSignerFromKey(private)
		must(t, err)
		a := s.ask(t, "alice", resource, append(edit, func(r *access.Request) { r.PublicKey = statement.MarshalKey(key.PublicKey()) })...)
		return keyFile(t, private), certificate(t, await(t, s.Client, a, access.StateActive))
	}
	key, cert := grant("ssh/narrow")
	if cert.CriticalOptions["force-command"] != "echo forced" || cert.CriticalOptions["source-address"] != "127.0.0.0/8" || len(cert.CriticalOptions) != 2 {
		t.Errorf("critical options are %q", cert.CriticalOptions)
	}
	r := host.Login(t, key, sshdtest.WriteCert(t, cert), "echo my own")
	if !r.OK() || !strings.Contains(r.String(), "forced") || strings.Contains(r.String(), "my own") {
		t.Errorf("with a forced command: %s", r)
	}
	key, cert = grant("ssh/elsewhere")
	if r := host.Login(t, key, sshdtest.WriteCert(t, cert), "true"); !r.Refused() {
		t.Errorf("from an address that isn't allowed: %s", r)
	}
	a := s.request(t, "alice", "ssh/narrow", func(r *access.Request) { r.Command = "echo my own" })
	var outcome access.Outcome
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	must(t, submit(t, s.Client, a.ID, a.signed).Get(ctx, &outcome))
	if outcome.State != access.StateDenied || s.issued(t, a) != 0 {
		t.Errorf("another command than the forced one is %s: %s", outcome.State, outcome.Why)
	}
}

// The certificate that a host got doesn't let anybody in, and the one that
// somebody got for his login makes no host: also where all trust both CAs for
// both, and a host's name is among the principals.
func TestCertificatesOfTheOtherType(t *testing.T) {
	r := apart(t, "types")
	r.env = append(r.env, "HALLPASS_ISSUERS_SSH_HOST_KEY=file:"+filepath.Join(r.dir, "host_ca"))
	r.hallpass(t, "", "ca", "init", filepath.Join(r.dir, "host_ca"))
	r.replace(t, "policy.yaml", policy+"hosts: {enroll: [sre]}\n")
	r.replace(t, "catalog.yaml", edit(t, r.read(t, "catalog.yaml"), "ssh/sandbox: {", "ssh/sandbox: {address: 127.0.0.1, "))
	r.start(t, "workflows")
	r.start(t, "issuer:ssh")
	newKey := func() (ed25519.PrivateKey, ssh.Signer) {
		_, private, err := ed25519.GenerateKey(rand.Reader)
		must(t, err)
		key, err := ssh.NewSignerFromKey(private)
		must(t, err)
		return private, key
	}

	// What a host gets, and what somebody gets who asks for a login on it.
	hosts, hostKey := newKey()
	join := access.Join{Header: r.Header("carol", access.TypeHost), Resource: "ssh/sandbox", Until: statement.Time(time.Now().Add(time.Hour))}
	st, err := r.Sign("carol", join)
	must(t, err)
	run, err := r.Client.ExecuteWorkflow(t.Context(), client.StartWorkflowOptions{ID: access.HostWorkflowID(join.ID), TaskQueue: access.TaskQueue},
		access.HostWorkflow, access.Enrolment{Statement: st, HostKey: statement.MarshalKey(hostKey.PublicKey()), AgentKey: marshal(r, "mallory")})
	must(t, err)
	var answer access.Statement
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	must(t, run.Get(ctx, &answer))
	told, _, err := statement.OpenEnrolled(answer)
	must(t, err)
	ofHost := certificate(t, access.Status{Credential: &access.Credential{Certificate: told.Certificate}})
	users, userKey := newKey()
	a := r.ask(t, "alice", "ssh/sandbox", func(q *access.Request) { q.PublicKey = statement.MarshalKey(userKey.PublicKey()) })
	ofUser := certificate(t, await(t, r.Client, a, access.StateActive))
	if ofHost.CertType != ssh.HostCert || ofUser.CertType != ssh.UserCert || len(told.HostCAs) != 1 || len(told.UserCAs) != 1 {
		t.Fatalf("a host's certificate of type %d, a user's of type %d, %q, %q", ofHost.CertType, ofUser.CertType, told.HostCAs, told.UserCAs)
	}

	// A host that lets in whom either CA has signed, by any name that is in either.
	var cas []ssh.PublicKey
	for _, line := range slices.Concat(told.UserCAs, told.HostCAs) {
		ca, err := statement.ParseKey(line)
		must(t, err)
		cas = append(cas, ca)
	}
	host := sshdtest.Start(t, sshdtest.Config{CA: cas, Principals: map[string][]string{login(): slices.Concat(ofHost.ValidPrincipals, ofUser.ValidPrincipals)}})
	if got := host.Login(t, keyFile(t, hosts), sshdtest.WriteCert(t, ofHost), "true"); !got.Refused() {
		t.Errorf("in with a host's certificate: %s", got)
	}
	if got := host.Login(t, keyFile(t, users), sshdtest.WriteCert(t, ofUser), "true"); !got.OK() {
		t.Errorf("a user's doesn't work, so the test shows nothing: %s", got)
	}

	// A machine that shows either to people whose known_hosts has the line of
	// docs/hosts.md, or one for each CA.
	ours := "@cert-authority * " + told.HostCAs[0] + "\n"
	for _, known := range []string{ours, ours + "@cert-authority * " + told.UserCAs[0] + "\n"} {
		file := filepath.Join(t.TempDir(), "known_hosts")
		must(t, os.WriteFile(file, []byte(known), 0o600))
		for _, c := range []struct {
			name  string
			cert  *ssh.Certificate
			key   ssh.Signer
			taken bool
		}{{"a host's", ofHost, hostKey, true}, {"a user's", ofUser, userKey, false}} {
			shown, err := ssh.NewCertSigner(c.cert, c.key)
			must(t, err)
			if taken, said := dialAs(t, shown, file); taken != c.taken {
				t.Errorf("%s certificate, with %s: ssh says %s", c.name, known, said)
			}
		}
	}
}

// Key ids that look like somebody's grant, by whoever has a CA's key: another CA
// opens nothing; the stolen one opens hosts, and the record is none the wiser,
// nor does sshd's log say two things of one login. A grant that is taken back
// is known by its serial, whatever else has its key id.
func TestForgedKeyID(t *testing.T) {
	s := attack(t)
	line, err := os.ReadFile(filepath.Join(s.dir, "ssh_ca"))
	must(t, err)
	stolen, err := ssh.ParsePrivateKey(line)
	must(t, err)
	public, private, err := ed25519.GenerateKey(rand.Reader)
	must(t, err)
	key, err := ssh.NewPublicKey(public)
	must(t, err)
	file := keyFile(t, private)
	revoked := filepath.Join(t.TempDir(), "krl")
	must(t, os.WriteFile(revoked, nil, 0o600))
	host := s.host(t, "RevokedKeys "+revoked)

	a := s.request(t, "alice", "ssh/sandbox", func(r *access.Request) { r.PublicKey = statement.MarshalKey(key) })
	submit(t, s.Client, a.ID, a.signed)
	real := certificate(t, await(t, s.Client, a, access.StateActive))
	carols := s.ask(t, "carol", "ssh/web-1") // which nobody approves
	await(t, s.Client, carols, access.StatePending)

	const accepted = "Accepted publickey for "
	log := func() []string { // sshd ends a line for a terminal
		return strings.Split(strings.ReplaceAll(strings.TrimSpace(host.Log(t)), "\r\n", "\n"), "\n")
	}
	// raw says that a key id has what ends a line. To syslog sshd writes that as
	// \n and \r; to standard error, where this one writes, as it is.
	raw := func(keyID string) bool { return strings.ContainsAny(keyID, "\r\n") }
	// login logs in, and gives what sshd says of it.
	login := func(name string, cert *ssh.Certificate) (sshdtest.Result, string) {
		before := len(log())
		r := host.Login(t, file, sshdtest.WriteCert(t, cert), "true")
		var said []string
		for _, l := range log()[before:] {
			if strings.HasPrefix(l, accepted) {
				said = append(said, l)
			}
			if strings.ContainsFunc(l, func(r rune) bool { return r < ' ' || r > '~' }) && !raw(cert.KeyId) {
				t.Errorf("%s: sshd logs %q", name, l)
			}
		}
		if want := map[bool]int{true: 1}[r.OK()]; len(said) != want && !raw(cert.KeyId) {
			t.Errorf("%s: sshd says of %d logins, not %d: %q", name, len(said), want, said)
		}
		return r, strings.Join(said, "\n")
	}
	const serial = 1 << 40
	sign := func(keyID string, n uint64, by ssh.Signer) *ssh.Certificate {
		cert := &ssh.Certificate{
			Key: key, Serial: n, CertType: ssh.UserCert, KeyId: keyID, ValidPrincipals: real.ValidPrincipals,
			ValidAfter: uint64(time.Now().Add(-time.Minute).Unix()), ValidBefore: uint64(time.Now().Add(time.Hour).Unix()),
		}
		must(t, cert.SignCert(rand.Reader, by))
		return cert
	}

	r, said := login("alice's own", real)
	if end := fmt.Sprintf(" ID %s (serial %d) CA ED25519 %s", real.KeyId, real.Serial, ssh.FingerprintSHA256(stolen.PublicKey())); !r.OK() || !strings.HasSuffix(said, end) {
		t.Fatalf("alice's own: %s\nsshd says %q, want %q at the end", r, said, end)
	}
	if r, _ := login("hers by another CA", sign(real.KeyId, real.Serial, s.People["mallory"].Signer)); !r.Refused() {
		t.Errorf("hers by another CA opens the host: %s", r)
	}
	hers := "hallpass:" + a.ID + ":"
	for name, c := range map[string]struct {
		keyID string
		opens bool
	}{
		"her request in bob's name":     {hers + "bob", true},
		"carol's request":               {"hallpass:" + carols.ID + ":carol", true},
		"hers in capitals":              {"hallpass:" + strings.ToUpper(a.ID) + ":alice", true},
		"a part more":                   {real.KeyId + ":bob", true},
		"a line more":                   {real.KeyId + "\n" + accepted + "root from 10.0.0.1 port 1 ssh2: ED25519-CERT SHA256:x ID " + hers + "bob (serial 7) CA ED25519 SHA256:x", true},
		"a carriage return":             {real.KeyId + "\r" + accepted + "root", true},
		"NUL":                           {real.KeyId + "\x00:bob", false}, // OpenSSH reads it as no text
		"a terminal's escape sequence":  {real.KeyId + "\x1b[2J", true},
		"one that isn't ASCII":          {real.KeyId + "\u202e\u009b2J", true},
		"the serial and the CA with it": {real.KeyId + " (serial 7) CA ED25519 SHA256:x", true},
		"4 KiB":                         {strings.Repeat("a", 4<<10), true},
		"none":                          {"", true},
	} {
		if r, _ := login(name, sign(c.keyID, serial, stolen)); r.OK() != c.opens {
			t.Errorf("%s: %s", name, r)
		}
	}
	for _, q := range []asked{a, carols} {
		if n := s.count(t, q, "session."); n != 0 {
			t.Errorf("%d sessions are on record", n)
		}
	}
	if mine, hers := s.issued(t, a), s.issued(t, carols); mine != 1 || hers != 0 {
		t.Errorf("issued %d times for alice, %d for carol", mine, hers)
	}

	must(t, say(t, s.Client, a, access.MessageRelease, s.word(t, "alice", access.TypeRelease, a)))
	await(t, s.Client, a, access.StateReleased)
	var list string
	eventually(t, "her certificate to be in the list", func() bool {
		cmd := exec.CommandContext(t.Context(), s.program, "ca", "krl", revoked)
		cmd.Env = append(os.Environ(), "HALLPASS_CONFIG="+filepath.Join(s.dir, "hallpass.yaml"))
		if cmd.Run() != nil {
			return false // none yet
		}
		out, err := exec.CommandContext(t.Context(), "ssh-keygen", "-Q", "-l", "-f", revoked).CombinedOutput()
		must(t, err)
		list = string(out)
		out, _ = exec.CommandContext(t.Context(), "ssh-keygen", "-Q", "-f", revoked, sshdtest.WriteCert(t, real)).CombinedOutput()
		return strings.Contains(string(out), "REVOKED")
	})
	if strings.Contains(list, "hallpass:") || !strings.Contains(list, fmt.Sprint(real.Serial)) {
		t.Errorf("the list is not of serials:\n%s", list)
	}
	if r, _ := login("alice's own, given back", real); !r.Refused() {
		t.Errorf("alice's own, given back: %s", r)
	}
	if r, _ := login("her serial in bob's name", sign(hers+"bob", real.Serial, stolen)); !r.Refused() {
		t.Errorf("her serial in bob's name: %s", r)
	}
	s.verifies(t)
}

// dialAs has the real ssh connect to a server with a host key, and says whether
// it took it for the host: it then asks to be let in, and nobody is.
func dialAs(t testing.TB, hostKey ssh.Signer, known string) (taken bool, said string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer func() { _ = l.Close() }()
	go func() {
		c := &ssh.ServerConfig{PublicKeyCallback: func(ssh.ConnMetadata, ssh.PublicKey) (*ssh.Permissions, error) {
			return nil, errors.New("nobody")
		}}
		c.AddHostKey(hostKey)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_, _, _, _ = ssh.NewServerConn(conn, c) // refuses, or the client has
			_ = conn.Close()
		}
	}()
	_, port, err := net.SplitHostPort(l.Addr().String())
	must(t, err)
	out, _ := exec.CommandContext(t.Context(), "ssh", "-F", "none", "-p", port, "-o", "UserKnownHostsFile="+known, "-o", "GlobalKnownHostsFile=none",
		"-o", "StrictHostKeyChecking=yes", "-o", "BatchMode=yes", "-o", "IdentityAgent=none", "-o", "HostKeyAlgorithms=ssh-ed25519-cert-v01@openssh.com",
		"-o", "IdentityFile=none", login()+"@127.0.0.1", "true").CombinedOutput()
	return strings.Contains(string(out), "Permission denied"), string(out)
}

// Alice has a grant, and signals it until it hears nothing any more, so that
// nobody can take it away. It is taken away at once, and given back as well.
func TestRevokedUnderAFlood(t *testing.T) {
	s := attack(t)
	for name, c := range map[string]struct {
		by, command string
		args        []string
		want        access.State
		signals     int // 2000 are taken
	}{
		"release": {"alice", "release", nil, access.StateReleased, 1010},
		"revoke":  {"dave", "revoke", []string{"--reason", "attack"}, access.StateRevoked, 2100},
	} {
		t.Run(name, func(t *testing.T) {
			a := s.ask(t, "alice", "ssh/web-1")
			await(t, s.Client, a, access.StatePending)
			must(t, say(t, s.Client, a, access.MessageDecision, s.decide(t, "bob", "bob", a, access.Approve)))
			await(t, s.Client, a, access.StateActive)
			var senders sync.WaitGroup
			var refused atomic.Int64
			for k := range 10 {
				senders.Go(func() {
					for range c.signals / 10 {
						message := []string{access.MessageDecision, access.MessageRevoke, access.MessageRelease}[k%3]
						if s.Client.SignalWorkflow(t.Context(), access.WorkflowID(a.ID), "", message, access.Statement{Payload: "{}"}) != nil {
							refused.Add(1)
						}
					}
				})
			}
			senders.Wait()
			if n := refused.Load(); n < int64(c.signals-2000) {
				t.Errorf("Temporal has refused %d of %d signals", n, c.signals)
			}
			// Busy with the flood, it may not say at once.
			is := func() (now access.Status) {
				if value, err := s.Client.QueryWorkflow(t.Context(), access.WorkflowID(a.ID), "", access.QueryStatus); err == nil {
					must(t, value.Get(&now))
				}
				return now
			}
			eventually(t, "the request to be deaf", func() bool { return is().Refused >= 1000 })

			cmd := exec.CommandContext(t.Context(), s.program, append([]string{c.command, a.ID}, c.args...)...)
			cmd.Env = append(os.Environ(), "HOME="+t.TempDir(), "SSH_AUTH_SOCK=", "HALLPASS_CONFIG="+filepath.Join(s.dir, "hallpass.yaml"),
				"HALLPASS_TEMPORAL_ADDRESS="+s.Address, "HALLPASS_USER="+c.by, "HALLPASS_KEY="+s.People[c.by].Key)
			out, err := cmd.CombinedOutput()
			if err != nil || !strings.Contains(string(out), string(c.want)) {
				t.Fatalf("%v: %s", err, out)
			}
			if n := s.count(t, a, "grant."+string(c.want)); n != 1 {
				t.Errorf("its end is on record %d times", n)
			}
			if refused.Load() > 0 {
				return // it takes not even the signal to look, and ends at its time
			}
			eventually(t, "the request to notice", func() bool { return is().State == c.want })
			if is().Credential != nil {
				t.Error("it still has its credential")
			}
		})
	}
	s.verifies(t)
}
