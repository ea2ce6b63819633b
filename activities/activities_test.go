package activities_test

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"
	sdktest "go.temporal.io/sdk/testsuite"
	sdkworker "go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"
	"golang.org/x/crypto/ssh"

	"hallpass/access"
	"hallpass/activities"
	"hallpass/audit"
	"hallpass/evidence"
	"hallpass/statement"
)

// notes is a record in memory that keeps the rule "once per request and step",
// and can be out of order.
type notes struct {
	events []audit.Event
	ended  map[string]access.State
	ends   []audit.End
	open   []access.Handle // in the order of the requests
	err    error
}

func (n *notes) Append(_ context.Context, e audit.Event) (int64, error) {
	if n.err != nil {
		return 0, n.err
	}
	for i, have := range n.events {
		if have.Request == e.Request && have.Step == e.Step {
			if have.RequestHash != e.RequestHash {
				return 0, access.Errorf(access.CodeMismatch, "request %s is another", e.Request)
			}
			return int64(i), nil
		}
	}
	n.events = append(n.events, e)
	return int64(len(n.events) - 1), nil
}

func (n *notes) Entry(_ context.Context, request string) (audit.Entry, bool, error) {
	state, found := n.ended[request]
	return audit.Entry{Request: request, Ended: state}, found, n.err
}

func (n *notes) End(_ context.Context, e audit.End) (audit.Entry, error) {
	if n.err == nil && n.ended[e.Request] == "" {
		n.ended[e.Request] = e.State
		n.ends = append(n.ends, e)
	}
	return audit.Entry{Request: e.Request, Ended: n.ended[e.Request]}, n.err
}

func (n *notes) Receive(ctx context.Context, in audit.Reception) error {
	received := in.Event
	received.Type, received.Step = audit.RequestReceived, "received"
	ruled := audit.Event{Type: audit.RequestRuled, Step: "ruled", Request: received.Request, Ruling: &in.Ruling, Code: in.Code, Why: in.Why}
	if _, err := n.Append(ctx, received); err != nil {
		return err
	}
	_, err := n.Append(ctx, ruled)
	return err
}

func (n *notes) Extended(context.Context, string) (access.Extended, bool, error) {
	return access.Extended{}, false, n.err
}

func (n *notes) Review(context.Context, *evidence.Rulebook, access.Statement, time.Time) (access.ReviewTask, error) {
	return access.ReviewTask{}, n.err
}

func (n *notes) Reviewed(context.Context, string) (access.ReviewTask, error) {
	return access.ReviewTask{}, n.err
}

func (n *notes) ReviewTask(context.Context, string) (access.ReviewTask, bool, error) {
	return access.ReviewTask{}, false, n.err
}

func (n *notes) OpenReviews(context.Context, int) ([]access.ReviewTask, error) { return nil, n.err }

// Lock has no part in these tests: package audit's own and the workflows' try it.
func (n *notes) Received(_ context.Context, request string) (time.Time, bool, error) {
	for _, e := range n.events {
		if e.Request == request && e.Type == audit.RequestReceived {
			return e.Time, true, n.err
		}
	}
	return time.Time{}, false, n.err
}

func (n *notes) Asked(context.Context, string) (access.Statement, bool, error) {
	return access.Statement{}, false, n.err
}

func (n *notes) Past(context.Context, string, string, string) (access.Past, error) {
	return access.Past{Grants: 7}, n.err
}

func (n *notes) Lock(context.Context, *evidence.Rulebook, access.Statement, time.Time) (access.Lock, error) {
	return access.Lock{}, n.err
}

func (n *notes) Locks(context.Context) (audit.Locks, error) { return audit.Locks{}, n.err }

func (n *notes) Delegate(context.Context, *evidence.Rulebook, access.Statement, time.Time) (access.Delegation, error) {
	return access.Delegation{}, n.err
}

func (n *notes) Delegations(context.Context) (evidence.Delegations, error) { return nil, n.err }

func (n *notes) Live(context.Context, string, []string, string, int) ([]access.Live, error) {
	return nil, n.err
}

func (n *notes) OpenGrants(_ context.Context, after string, limit int) ([]access.Handle, error) {
	var page []access.Handle
	for _, h := range n.open {
		if h.Request > after && n.ended[h.Request] == "" && len(page) < limit {
			page = append(page, h)
		}
	}
	return page, n.err
}

func (n *notes) Orphan(ctx context.Context, request, why string) (bool, error) {
	if n.ended[request] != "" {
		return false, n.err
	}
	_, err := n.Append(ctx, audit.Event{Type: audit.SweepOrphan, Request: request, Step: audit.SweepOrphan, Why: why})
	return err == nil, err
}

func (n *notes) types() string {
	var types []string
	for _, e := range n.events {
		types = append(types, e.Type)
	}
	return strings.Join(types, " ")
}

type scene struct {
	t       testing.TB
	now     time.Time
	signer  map[string]ssh.Signer
	notes   *notes
	acts    *activities.Activities
	req     access.Request
	request access.Statement
}

func newScene(t testing.TB) *scene {
	t.Helper()
	s := &scene{
		t:      t,
		now:    time.Date(2026, 3, 2, 9, 0, 0, 0, time.UTC),
		signer: map[string]ssh.Signer{},
		notes:  &notes{ended: map[string]access.State{}},
	}
	people := "users:\n"
	for name, group := range map[string]string{"alice": "dev", "bob": "sre", "carol": "sre"} {
		_, key, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		if s.signer[name], err = ssh.NewSignerFromKey(key); err != nil {
			t.Fatal(err)
		}
		people += fmt.Sprintf("  %s: {groups: [%s], keys: [%q]}\n", name, group, statement.MarshalKey(s.signer[name].PublicKey()))
	}
	book, err := evidence.NewRulebook(
		[]byte("rules:\n  - {name: production, when: 'true', max_duration: 1h, approvals: [{count: 2, from: [sre]}], approval_window: 1h}\n"),
		[]byte(people),
		[]byte("resources:\n  ssh/web-1: {logins: [deploy]}\n"))
	if err != nil {
		t.Fatal(err)
	}
	s.acts = &activities.Activities{
		Rulebook: func() *evidence.Rulebook { return book },
		Log:      s.notes,
		Now:      func() time.Time { return s.now },
	}
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	subject, err := ssh.NewSignerFromKey(key)
	if err != nil {
		t.Fatal(err)
	}
	s.req = access.Request{
		Header: s.header("alice", access.TypeRequest), Resource: "ssh/web-1", Login: "deploy",
		Duration: 600, PublicKey: statement.MarshalKey(subject.PublicKey()),
	}
	s.request = s.sign("alice", s.req)
	return s
}

func (s *scene) header(name string, typ access.Type) access.Header {
	return access.Header{Type: typ, ID: statement.NewID(), Signer: name, Time: s.now}
}

func (s *scene) sign(name string, payload any) access.Statement {
	s.t.Helper()
	st, err := statement.Sign(s.signer[name], payload)
	if err != nil {
		s.t.Fatal(err)
	}
	return st
}

func (s *scene) decision(name string) access.Statement {
	return s.sign(name, access.Decision{
		Header: s.header(name, access.TypeDecision), Request: s.req.ID, RequestHash: s.request.Hash(), Verdict: access.Approve,
	})
}

// run runs one activity as a workflow of that id does, once.
func (s *scene) run(id string, activity, in, out any) error {
	s.t.Helper()
	env := new(sdktest.WorkflowTestSuite).NewTestWorkflowEnvironment()
	// On a busy machine the usual second is no sign of a deadlock.
	env.SetWorkerOptions(sdkworker.Options{DeadlockDetectionTimeout: time.Minute})
	env.RegisterActivity(s.acts)
	env.SetStartWorkflowOptions(client.StartWorkflowOptions{ID: id})
	var failure error
	env.ExecuteWorkflow(func(ctx workflow.Context) error {
		ctx = workflow.WithLocalActivityOptions(ctx, workflow.LocalActivityOptions{
			StartToCloseTimeout: time.Minute,
			RetryPolicy:         &temporal.RetryPolicy{MaximumAttempts: 1},
		})
		failure = workflow.ExecuteLocalActivity(ctx, activity, in).Get(ctx, out)
		return nil
	})
	if err := env.GetWorkflowError(); err != nil {
		s.t.Fatal(err)
	}
	return failure
}

func (s *scene) decide() (access.Standing, error) {
	var standing access.Standing
	err := s.run(access.WorkflowID(s.req.ID), s.acts.Decide, access.Submission{Request: s.request}, &standing)
	return standing, err
}

func (s *scene) hear(in activities.HearInput) (activities.HearOutput, error) {
	var out activities.HearOutput
	in.Evidence.Request = s.request
	err := s.run(access.WorkflowID(s.req.ID), s.acts.Hear, in, &out)
	return out, err
}

func (s *scene) want(types string) {
	s.t.Helper()
	if got := s.notes.types(); got != types {
		s.t.Errorf("on the record is %q, want %q", got, types)
	}
}

func wantRefusal(t *testing.T, err error, code access.Code) {
	t.Helper()
	refusal := activities.Refusal(err)
	if code == "" && err != nil || code != "" && (refusal == nil || refusal.Code != code) {
		t.Errorf("error is %v, want the code %q", err, code)
	}
}

func TestDecide(t *testing.T) {
	s := newScene(t)
	for range 2 { // a worker that died after it was recorded does it again
		standing, err := s.decide()
		if err != nil || standing.Effect != access.EffectAsk {
			t.Fatalf("standing is %+v, %v", standing, err)
		}
	}
	s.want("request.received request.ruled")
	if e := s.notes.events[0]; e.Actor != "alice" || e.Requester != "alice" || e.Resource != "ssh/web-1" || e.RequestHash != s.request.Hash() {
		t.Errorf("recorded is %+v", e)
	}
}

func TestDecideRefuses(t *testing.T) {
	for _, test := range []struct {
		name    string
		prepare func(*scene)
		code    access.Code
		actor   string
	}{
		{"unsigned", func(s *scene) { s.request.Signature = "" }, access.CodeUnverified, ""},
		{"stale", func(s *scene) { s.now = s.now.Add(access.EvidenceAge + time.Second) }, access.CodeStale, "alice"},
		{"ended before", func(s *scene) { s.notes.ended[s.req.ID] = access.StateDenied }, access.CodeEnded, "alice"},
		{"of another workflow", func(s *scene) { s.req.ID = statement.NewID() }, access.CodeMismatch, "alice"},
		{"of no request's workflow", func(s *scene) { s.req.ID = strings.Repeat("x", 900) }, access.CodeMismatch, "alice"},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := newScene(t)
			test.prepare(s)
			for range 2 {
				_, err := s.decide()
				wantRefusal(t, err, test.code)
			}
			s.want("statement.refused")
			if e := s.notes.events[0]; e.Code != test.code || e.Why == "" || e.Actor != test.actor || len(e.Request) > 36 {
				t.Errorf("recorded is %+v", e)
			}
		})
	}
}

// Somebody's request under the id of another's is refused for good, and not
// tried for ever.
func TestDecideTakenID(t *testing.T) {
	s := newScene(t)
	if _, err := s.decide(); err != nil {
		t.Fatal(err)
	}
	id := s.req.ID
	s.req.Header = s.header("bob", access.TypeRequest)
	s.req.ID = id
	s.request = s.sign("bob", s.req)
	_, err := s.decide()
	wantRefusal(t, err, access.CodeMismatch)
	s.want("request.received request.ruled statement.refused")
}

// The time for approvals counts by when they were signed, once it is over.
func TestHearDeadline(t *testing.T) {
	for _, test := range []struct {
		name   string
		signed time.Duration // after the deadline
		code   access.Code
	}{
		{"signed in time", -time.Second, ""},
		{"signed at the deadline", 0, ""},
		{"signed after it", time.Second, access.CodeEnded},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := newScene(t)
			deadline := s.now.Add(time.Minute)
			s.now = deadline.Add(test.signed)
			st := s.decision("bob")
			s.now = deadline.Add(time.Hour)
			_, err := s.hear(activities.HearInput{Message: access.MessageDecision, Statement: st, Deadline: &deadline})
			wantRefusal(t, err, test.code)
		})
	}
}

func TestHear(t *testing.T) {
	s := newScene(t)
	in := activities.HearInput{Message: access.MessageDecision, Statement: s.decision("bob")}
	for range 2 {
		out, err := s.hear(in)
		if err != nil || len(out.Evidence.Decisions) != 1 || len(out.Standing.Voices) != 1 || out.Stop != nil {
			t.Fatalf("heard %+v, %v", out, err)
		}
	}
	s.want("decision.accepted")
	if e := s.notes.events[0]; e.Actor != "bob" || e.Digests == nil {
		t.Errorf("recorded is %+v", e)
	}

	// Two people may give their decisions the same id; both are recorded.
	d := access.Decision{Header: s.header("carol", access.TypeDecision), Request: s.req.ID, RequestHash: s.request.Hash(), Verdict: access.Approve}
	bobs, err := statement.ParseDecision([]byte(in.Statement.Payload))
	if err != nil {
		t.Fatal(err)
	}
	d.ID = bobs.ID
	if _, err := s.hear(activities.HearInput{Message: access.MessageDecision, Statement: s.sign("carol", d)}); err != nil {
		t.Fatal(err)
	}
	s.want("decision.accepted decision.accepted")

	// What the workflow refuses is recorded and isn't looked at.
	_, err = s.hear(activities.HearInput{Message: access.MessageDecision, Statement: s.decision("carol"), Refused: access.Errorf(access.CodeEnded, "too late")})
	wantRefusal(t, err, access.CodeEnded)
	s.want("decision.accepted decision.accepted statement.refused")
	if e := s.notes.events[2]; e.Actor != "carol" {
		t.Errorf("who tried is %q", e.Actor)
	}
}

// The record of a refusal names who signed it, whatever name is in it, and
// nobody where the signature isn't good or the key isn't known.
func TestWhoTried(t *testing.T) {
	for _, test := range []struct {
		name  string
		say   func(*scene) access.Statement
		actor string
	}{
		{"decides on his own", func(s *scene) access.Statement {
			return s.sign("alice", access.Decision{Header: s.header("alice", access.TypeDecision), Request: s.req.ID, RequestHash: s.request.Hash(), Verdict: access.Approve})
		}, "alice"},
		{"under another's name", func(s *scene) access.Statement {
			return s.sign("alice", access.Decision{Header: s.header("bob", access.TypeDecision), Request: s.req.ID, RequestHash: s.request.Hash(), Verdict: access.Approve})
		}, "alice"},
		{"a request for a decision", func(s *scene) access.Statement { return s.request }, "alice"},
		{"changed after it was signed", func(s *scene) access.Statement {
			st := s.decision("bob")
			st.Payload += " "
			return st
		}, ""},
		{"by nobody's key", func(s *scene) access.Statement {
			_, key, err := ed25519.GenerateKey(rand.Reader)
			if err != nil {
				s.t.Fatal(err)
			}
			if s.signer["stranger"], err = ssh.NewSignerFromKey(key); err != nil {
				s.t.Fatal(err)
			}
			return s.sign("stranger", access.Decision{Header: s.header("bob", access.TypeDecision), Request: s.req.ID, RequestHash: s.request.Hash(), Verdict: access.Approve})
		}, ""},
		{"nothing", func(*scene) access.Statement { return access.Statement{} }, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := newScene(t)
			_, err := s.hear(activities.HearInput{Message: access.MessageDecision, Statement: test.say(s)})
			if activities.Refusal(err) == nil {
				t.Fatalf("heard, %v", err)
			}
			s.want("statement.refused")
			if e := s.notes.events[0]; e.Actor != test.actor || e.Digests == nil {
				t.Errorf("recorded is %+v, want the actor %q", e, test.actor)
			}
		})
	}
}

// A word that ends a request is in the ledger when it has been heard: whoever
// ends or resets the workflow right then can't have the request issued without
// it any more.
func TestHearEnds(t *testing.T) {
	for _, test := range []struct {
		name    string
		signer  string
		message string
		state   access.State
	}{
		{"denial", "bob", access.MessageDecision, access.StateDenied},
		{"cancel", "alice", access.MessageCancel, access.StateCancelled},
		{"release of a grant", "alice", access.MessageRelease, access.StateReleased},
		{"revoke before the grant", "bob", access.MessageRevoke, access.StateDenied},
		{"revoke of a grant", "bob", access.MessageRevoke, access.StateRevoked},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := newScene(t)
			in := activities.HearInput{Message: test.message, Stopped: test.state}
			if test.message == access.MessageDecision {
				in.Stopped = access.StateCancelled // what a stop would do isn't what a denial does
				in.Statement = s.sign(test.signer, access.Decision{
					Header: s.header(test.signer, access.TypeDecision), Request: s.req.ID, RequestHash: s.request.Hash(),
					Verdict: access.Deny, Comment: "not today",
				})
			} else {
				in.Statement = s.sign(test.signer, access.Stop{
					Header: s.header(test.signer, access.Type(test.message)), Request: s.req.ID, RequestHash: s.request.Hash(), Reason: "not today",
				})
			}
			for range 2 { // a worker that died after it was recorded hears it again
				out, err := s.hear(in)
				if err != nil || (out.Stop == nil) != (test.message == access.MessageDecision) {
					t.Fatalf("heard %+v, %v", out, err)
				}
			}
			s.want("")
			if len(s.notes.ends) != 1 {
				t.Fatalf("ended %d times", len(s.notes.ends))
			}
			end := s.notes.ends[0]
			if end.Request != s.req.ID || end.State != test.state || end.By != test.signer || !strings.HasSuffix(end.Why, ": not today") ||
				end.Statement == nil || *end.Statement != in.Statement || end.Digests == nil {
				t.Errorf("the end on record is %+v", end)
			}
			_, err := s.decide()
			wantRefusal(t, err, access.CodeEnded)
		})
	}
}

// What comes when the ledger says that it is over, such as to a workflow that
// was reset, is refused, and doesn't change how it ended.
func TestHearTooLate(t *testing.T) {
	s := newScene(t)
	s.notes.ended[s.req.ID] = access.StateExpired
	stop := s.sign("alice", access.Stop{Header: s.header("alice", access.TypeCancel), Request: s.req.ID, RequestHash: s.request.Hash()})
	_, err := s.hear(activities.HearInput{Message: access.MessageCancel, Statement: stop, Stopped: access.StateCancelled})
	wantRefusal(t, err, access.CodeEnded)
	s.want("statement.refused")
	if got := s.notes.ended[s.req.ID]; got != access.StateExpired {
		t.Errorf("it has ended as %s", got)
	}
}

// Whoever can run activities can end a request, and not put a person's name to
// it: only Hear does, of a word that was signed.
func TestCloseOnNobodysWord(t *testing.T) {
	s := newScene(t)
	forged := audit.End{
		Request: s.req.ID, State: access.StateRevoked, Why: "w", By: "bob",
		Statement: &access.Statement{Payload: "{}", Signature: "none"}, Digests: &access.Digests{},
	}
	if err := s.run("any", s.acts.Close, forged, nil); err != nil {
		t.Fatal(err)
	}
	want := audit.End{Request: s.req.ID, State: access.StateRevoked, Why: "w"}
	if len(s.notes.ends) != 1 || s.notes.ends[0] != want {
		t.Errorf("the end on record is %+v, want %+v", s.notes.ends, want)
	}
}

// While the record can't be written nothing is decided, refused or closed, and
// all of it is tried again, whatever the record's error says.
func TestRecordOutOfOrder(t *testing.T) {
	for _, broken := range []error{
		errors.New("disk full"),
		access.Errorf(access.CodeUnverified, "the log has been tampered with"),
		access.Errorf(access.CodeMalformed, "the event can't be recorded"),
	} {
		s := newScene(t)
		s.notes.err = broken
		_, decided := s.decide()
		_, heard := s.hear(activities.HearInput{Message: access.MessageDecision, Statement: s.decision("bob")})
		_, refused := s.hear(activities.HearInput{Message: access.MessageDecision})
		closed := s.run("any", s.acts.Close, audit.End{Request: s.req.ID, State: access.StateDenied}, nil)
		for name, err := range map[string]error{"Decide": decided, "Hear": heard, "Hear, refusing": refused, "Close": closed} {
			var app *temporal.ApplicationError
			if !errors.As(err, &app) || app.NonRetryable() {
				t.Errorf("%s with %q failed with %v, want an error that is retried", name, broken, err)
			}
		}
	}
}
