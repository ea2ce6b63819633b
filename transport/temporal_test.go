package transport

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/mock"
	commonpb "go.temporal.io/api/common/v1"
	enumspb "go.temporal.io/api/enums/v1"
	querypb "go.temporal.io/api/query/v1"
	"go.temporal.io/api/serviceerror"
	workflowpb "go.temporal.io/api/workflow/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/mocks"
	"go.temporal.io/sdk/temporal"
	"google.golang.org/protobuf/types/known/timestamppb"

	"hallpass/access"
	"hallpass/activities"
)

const testID = "01990000-0000-7000-8000-000000000000"

func TestSubmitTellsTemporalNothingPrivate(t *testing.T) {
	var got client.StartWorkflowOptions
	m := &mocks.Client{}
	m.On("ExecuteWorkflow", mock.Anything, mock.Anything, access.Workflow, mock.Anything).Run(func(args mock.Arguments) {
		got = args.Get(1).(client.StartWorkflowOptions)
	}).Return(nil, nil)
	req := access.Request{
		Header:   access.Header{ID: testID, Signer: "alice"},
		Resource: "ssh/web-1", Login: "deploy", Duration: 1800, Reason: "SECRET", Ticket: "SECRET",
	}
	check(t, (&Temporal{Client: m}).Submit(context.Background(), access.Submission{}, req))
	if got.ID != "access-"+testID || got.TaskQueue != access.TaskQueue || got.StaticSummary != "alice wants ssh/web-1 as deploy for 30m" ||
		got.WorkflowIDReusePolicy != enumspb.WORKFLOW_ID_REUSE_POLICY_REJECT_DUPLICATE || !got.WorkflowExecutionErrorWhenAlreadyStarted {
		t.Errorf("%+v", got)
	}
	attrs := map[string]any{}
	for k, v := range got.TypedSearchAttributes.GetUntypedValues() {
		attrs[k.GetName()] = v
	}
	want := map[string]any{access.AttrRequester: "alice", access.AttrResource: "ssh/web-1", access.AttrState: "pending"}
	if diff := cmp.Diff(want, attrs); diff != "" {
		t.Error(diff)
	}
}

func TestTranslate(t *testing.T) {
	b := &Temporal{Address: "temporal.example:7233"}
	refusal := access.Errorf(access.CodeForbidden, "nobody decides on a request of his own").WithHint("ask bob")
	for _, tt := range []struct {
		name string
		err  error
		code access.Code
		say  string
	}{
		{"refusal", activities.Fail(refusal), access.CodeForbidden, "nobody decides"},
		{"refusal without details", temporal.NewApplicationError("no", string(access.CodeStale)), access.CodeStale, "no"},
		{"down", serviceerror.NewUnavailable("refused"), access.CodeUnavailable, "can't reach Temporal at temporal.example:7233"},
		{"no worker", serviceerror.NewDeadlineExceeded("late"), access.CodeUnavailable, "no worker answers on task queue hallpass"},
		{"no poller", serviceerror.NewFailedPrecondition("no poller"), access.CodeUnavailable, "no worker answers"},
		{"update timed out", client.NewWorkflowUpdateServiceTimeoutOrCanceledError(context.DeadlineExceeded), access.CodeUnavailable, "no worker answers"},
		{"other", errors.New("odd"), "", "odd"},
	} {
		err := b.translate(context.Background(), tt.err)
		if access.CodeOf(err) != tt.code || !strings.Contains(err.Error(), tt.say) {
			t.Errorf("%s: %v (%s)", tt.name, err, access.CodeOf(err))
		}
	}
	if hint(b.translate(context.Background(), activities.Fail(refusal))) != "ask bob" {
		t.Error("the hint got lost")
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := b.translate(ctx, serviceerror.NewCanceled("x")); !errors.Is(err, context.Canceled) {
		t.Errorf("interrupted: %v", err)
	}
	if err := b.about(context.Background(), testID, serviceerror.NewNotFound("x")); access.CodeOf(err) != access.CodeNotFound {
		t.Errorf("not found: %v", err)
	}
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func hint(err error) string {
	var e *access.Error
	if errors.As(err, &e) {
		return e.Hint
	}
	return ""
}

func payload(t *testing.T, v any) *commonpb.Payload {
	t.Helper()
	p, err := converter.GetDefaultDataConverter().ToPayload(v)
	check(t, err)
	return p
}

func TestStatusOfATerminatedWorkflow(t *testing.T) {
	m := &mocks.Client{}
	rejecting := mock.MatchedBy(func(r *client.QueryWorkflowWithOptionsRequest) bool {
		return r.QueryRejectCondition == enumspb.QUERY_REJECT_CONDITION_NOT_COMPLETED_CLEANLY
	})
	m.On("QueryWorkflowWithOptions", mock.Anything, rejecting).Return(&client.QueryWorkflowWithOptionsResponse{
		QueryRejected: &querypb.QueryRejected{Status: enumspb.WORKFLOW_EXECUTION_STATUS_TERMINATED},
	}, nil).Once()
	m.On("QueryWorkflowWithOptions", mock.Anything, mock.Anything).Return(&client.QueryWorkflowWithOptionsResponse{
		QueryResult: encoded{payload(t, access.Status{ID: testID, State: access.StateActive})},
	}, nil)
	s, err := (&Temporal{Client: m}).Status(context.Background(), testID)
	if access.CodeOf(err) != access.CodeEnded || s.State != access.StateActive || !strings.Contains(err.Error(), "terminated") {
		t.Errorf("%v, %v", s.State, err)
	}
}

// A request that has ended on a build without workers is worked out from its
// history; nobody else's silence is taken for that.
func TestStatusWithNobodyToAsk(t *testing.T) {
	closed := timestamppb.Now()
	nobody, late := serviceerror.NewFailedPrecondition("no pollers"), serviceerror.NewDeadlineExceeded("too late")
	for _, tt := range []struct {
		name     string
		err      error
		closed   *timestamppb.Timestamp
		behavior enumspb.VersioningBehavior
		recalls  bool
	}{
		{"ended on a build", nobody, closed, enumspb.VERSIONING_BEHAVIOR_PINNED, true},
		{"ended on a build, and Temporal waits", late, closed, enumspb.VERSIONING_BEHAVIOR_PINNED, true},
		{"lives on a build", nobody, nil, enumspb.VERSIONING_BEHAVIOR_PINNED, false},
		{"lives on a build, and Temporal waits", late, nil, enumspb.VERSIONING_BEHAVIOR_PINNED, false},
		{"ended, on no build", nobody, closed, enumspb.VERSIONING_BEHAVIOR_UNSPECIFIED, false},
	} {
		m := &mocks.Client{}
		m.On("QueryWorkflowWithOptions", mock.Anything, mock.Anything).Return(nil, tt.err)
		m.On("DescribeWorkflowExecution", mock.Anything, access.WorkflowID(testID), "").Return(&workflowservice.DescribeWorkflowExecutionResponse{
			WorkflowExecutionInfo: &workflowpb.WorkflowExecutionInfo{CloseTime: tt.closed, VersioningInfo: &workflowpb.WorkflowExecutionVersioningInfo{Behavior: tt.behavior}},
		}, nil)
		b := &Temporal{Client: m, Recall: func(_ context.Context, id string) (access.Status, error) {
			return access.Status{ID: id, State: access.StateExpired}, nil
		}}
		s, err := b.Status(context.Background(), testID)
		if tt.recalls && (err != nil || s.State != access.StateExpired) || !tt.recalls && access.CodeOf(err) != access.CodeUnavailable {
			t.Errorf("%s: %+v, %v", tt.name, s.State, err)
		}
	}
}

// What is decided on is what was asked about: a worker can't have people sign
// for one request what they meant for another.
func TestStatusOfAnotherRequest(t *testing.T) {
	m := &mocks.Client{}
	m.On("QueryWorkflowWithOptions", mock.Anything, mock.Anything).Return(&client.QueryWorkflowWithOptionsResponse{
		QueryResult: encoded{payload(t, access.Status{ID: strings.Replace(testID, "0199", "019a", 1), State: access.StatePending})},
	}, nil)
	s, err := (&Temporal{Client: m}).Status(context.Background(), testID)
	if access.CodeOf(err) != access.CodeMismatch || s.ID != "" {
		t.Errorf("%+v, %v", s, err)
	}
}

type encoded struct{ p *commonpb.Payload }

func (e encoded) HasValue() bool { return true }
func (e encoded) Get(v any) error {
	return converter.GetDefaultDataConverter().FromPayload(e.p, v)
}

func TestSendToAnEndedRequest(t *testing.T) {
	m := &mocks.Client{}
	m.On("UpdateWorkflow", mock.Anything, mock.MatchedBy(func(o client.UpdateWorkflowOptions) bool {
		return o.UpdateID == "the-decision" && o.UpdateName == access.MessageDecision && o.WorkflowID == "access-"+testID
	})).Return(nil, serviceerror.NewNotFound("workflow execution already completed"))
	m.On("QueryWorkflowWithOptions", mock.Anything, mock.Anything).Return(&client.QueryWorkflowWithOptionsResponse{
		QueryResult: encoded{payload(t, access.Status{ID: testID, State: access.StateExpired})},
	}, nil)
	_, err := (&Temporal{Client: m}).Send(context.Background(), testID, access.MessageDecision, "the-decision", access.Statement{})
	if access.CodeOf(err) != access.CodeEnded || !strings.Contains(err.Error(), "is expired") {
		t.Errorf("%v", err)
	}
}

func TestListReadsSearchAttributes(t *testing.T) {
	m := &mocks.Client{}
	var queries []string
	m.On("ListWorkflow", mock.Anything, mock.Anything).Run(func(args mock.Arguments) {
		queries = append(queries, args.Get(1).(*workflowservice.ListWorkflowExecutionsRequest).Query)
	}).Return(&workflowservice.ListWorkflowExecutionsResponse{Executions: []*workflowpb.WorkflowExecutionInfo{{
		Execution: &commonpb.WorkflowExecution{WorkflowId: "access-" + testID},
		Status:    enumspb.WORKFLOW_EXECUTION_STATUS_TERMINATED,
		SearchAttributes: &commonpb.SearchAttributes{IndexedFields: map[string]*commonpb.Payload{
			access.AttrRequester: payload(t, "alice"), access.AttrResource: payload(t, "ssh/web-1"),
			access.AttrState: payload(t, "active"), access.AttrApprovers: payload(t, []string{"bob"}),
		}},
	}}}, nil)
	b := &Temporal{Client: m}
	got, err := b.List(context.Background(), Filter{Prefix: "0199", Requester: "alice", Resource: "ssh/web-1", States: []access.State{"active", "pending"}})
	check(t, err)
	if len(got) != 1 || got[0].ID != testID || got[0].Requester != "alice" || got[0].State != "active" || got[0].Approvers[0] != "bob" || got[0].Workflow != "terminated" {
		t.Errorf("%+v", got)
	}
	want := "WorkflowType = 'AccessRequest' AND WorkflowId STARTS_WITH 'access-0199' AND HallpassRequester = 'alice'" +
		" AND HallpassResource = 'ssh/web-1' AND HallpassState IN ('active', 'pending')"
	if queries[0] != want {
		t.Errorf("query %s", queries[0])
	}
	for _, f := range []Filter{{Prefix: "' OR 1=1"}, {Requester: "a' OR 'b"}, {Resource: "ssh/x' OR '"}} {
		if _, err := b.List(context.Background(), f); err == nil || len(queries) != 1 {
			t.Errorf("%+v was sent", f)
		}
	}
}

type lockRun struct {
	client.WorkflowRun
	out access.Locked
	err error
}

func (r lockRun) Get(_ context.Context, v any) error {
	*v.(*access.Locked) = r.out
	return r.err
}

// Operators of Temporal see who locks what, and not why.
func TestLockTellsTemporalNothingPrivate(t *testing.T) {
	until := time.Date(2026, 11, 20, 10, 0, 0, 0, time.UTC)
	l := access.Lock{Header: access.Header{ID: testID, Signer: "bob"}, Action: access.ActionLock, Kind: "user", Name: "alice", Reason: "SECRET", Until: &until}
	for _, tt := range []struct {
		run  lockRun
		code access.Code
	}{
		{lockRun{out: access.Locked{Lock: l}}, ""},
		{lockRun{out: access.Locked{Refused: access.Errorf(access.CodeForbidden, "no")}}, access.CodeForbidden},
		{lockRun{err: errors.New("odd")}, ""},
	} {
		m := &mocks.Client{}
		m.On("ExecuteWorkflow", mock.Anything, mock.MatchedBy(func(o client.StartWorkflowOptions) bool {
			return o.ID == "lock-"+testID && o.TaskQueue == access.TaskQueue && o.StaticSummary == "bob locks user alice until 2026-11-20T10:00:00Z"
		}), access.WorkflowLock, mock.Anything).Return(tt.run, nil)
		out, err := (&Temporal{Client: m}).Lock(context.Background(), access.Statement{}, l)
		if access.CodeOf(err) != tt.code || (err == nil) != (tt.run.err == nil && tt.run.out.Refused == nil) || err == nil && out.Lock.ID != testID {
			t.Errorf("%+v, %v", out, err)
		}
	}
}

// A worker that was only slow is asked again, where its build's history can't be
// replayed here.
func TestStatusOfASlowWorker(t *testing.T) {
	m := &mocks.Client{}
	m.On("QueryWorkflowWithOptions", mock.Anything, mock.Anything).Return(nil, serviceerror.NewDeadlineExceeded("late")).Once()
	m.On("QueryWorkflowWithOptions", mock.Anything, mock.Anything).Return(&client.QueryWorkflowWithOptionsResponse{
		QueryResult: encoded{payload(t, access.Status{ID: testID, State: access.StateExpired})},
	}, nil)
	m.On("DescribeWorkflowExecution", mock.Anything, access.WorkflowID(testID), "").Return(&workflowservice.DescribeWorkflowExecutionResponse{
		WorkflowExecutionInfo: &workflowpb.WorkflowExecutionInfo{CloseTime: timestamppb.Now(), VersioningInfo: &workflowpb.WorkflowExecutionVersioningInfo{Behavior: enumspb.VERSIONING_BEHAVIOR_PINNED}},
	}, nil)
	b := &Temporal{Client: m, Recall: func(context.Context, string) (access.Status, error) {
		return access.Status{}, access.Errorf(access.CodeUnavailable, "this program can't replay its history")
	}}
	if s, err := b.Status(context.Background(), testID); err != nil || s.State != access.StateExpired {
		t.Errorf("%v, %v", s.State, err)
	}
}

// A Temporal that has just started refuses queries until a worker has come to it.
func TestStatusRightAfterAStart(t *testing.T) {
	m := &mocks.Client{}
	m.On("QueryWorkflowWithOptions", mock.Anything, mock.Anything).Return(nil, serviceerror.NewFailedPrecondition("no poller")).Twice()
	m.On("QueryWorkflowWithOptions", mock.Anything, mock.Anything).Return(&client.QueryWorkflowWithOptionsResponse{
		QueryResult: encoded{payload(t, access.Status{ID: testID, State: access.StateActive})},
	}, nil)
	m.On("DescribeWorkflowExecution", mock.Anything, access.WorkflowID(testID), "").Return(&workflowservice.DescribeWorkflowExecutionResponse{
		WorkflowExecutionInfo: &workflowpb.WorkflowExecutionInfo{},
	}, nil)
	if s, err := (&Temporal{Client: m}).Status(context.Background(), testID); err != nil || s.State != access.StateActive {
		t.Errorf("%v, %v", s.State, err)
	}
}

type stopRun struct{ client.WorkflowRun }

func (stopRun) Get(_ context.Context, v any) error {
	*v.(*access.Stopped) = access.Stopped{State: access.StateRevoked}
	return nil
}

// What has ended a request that hears no more has ended it, also where that can't
// say so.
func TestStopOfADeafRequestWorks(t *testing.T) {
	m := &mocks.Client{}
	m.On("UpdateWorkflow", mock.Anything, mock.Anything).Return(nil, activities.Fail(access.Errorf(access.CodeDeaf, "it hears no more")))
	m.On("ExecuteWorkflow", mock.Anything, mock.MatchedBy(func(o client.StartWorkflowOptions) bool {
		return o.ID == "stop-the-revoke" && o.TaskQueue == access.TaskQueue
	}), access.WorkflowStop, mock.Anything).Return(stopRun{}, nil)
	m.On("QueryWorkflowWithOptions", mock.Anything, mock.Anything).Return(nil, serviceerror.NewUnavailable("away"))
	s, err := (&Temporal{Client: m}).Send(context.Background(), testID, access.MessageRevoke, "the-revoke", access.Statement{})
	if err != nil || s.ID != testID || s.State != access.StateRevoked {
		t.Errorf("%+v, %v", s, err)
	}
}

// A lock is in force as soon as it is recorded, also where Temporal is the first
// to say that the rest takes too long.
func TestLockThatTakesLong(t *testing.T) {
	l := access.Lock{Header: access.Header{ID: testID, Signer: "bob"}, Action: access.ActionLock, Kind: "user", Name: "alice"}
	value, err := converter.GetDefaultDataConverter().ToPayload(access.Locked{Lock: l})
	check(t, err)
	m := &mocks.Client{}
	m.On("ExecuteWorkflow", mock.Anything, mock.Anything, access.WorkflowLock, mock.Anything).Return(lockRun{err: serviceerror.NewDeadlineExceeded("late")}, nil)
	m.On("QueryWorkflow", mock.Anything, "lock-"+testID, "", access.QueryStatus).Return(encoded{value}, nil)
	out, err := (&Temporal{Client: m}).Lock(context.Background(), access.Statement{}, l)
	if access.CodeOf(err) != access.CodeUnavailable || out.Lock.ID != testID {
		t.Errorf("%+v, %v", out, err)
	}
}

// A lock that Temporal never took isn't said to be kept.
func TestLockThatWasNotTaken(t *testing.T) {
	l := access.Lock{Header: access.Header{ID: testID, Signer: "bob"}, Action: access.ActionLock, Kind: "user", Name: "alice"}
	m := &mocks.Client{}
	m.On("ExecuteWorkflow", mock.Anything, mock.Anything, access.WorkflowLock, mock.Anything).Return(nil, serviceerror.NewDeadlineExceeded("late"))
	m.On("QueryWorkflow", mock.Anything, "lock-"+testID, "", access.QueryStatus).Return(nil, serviceerror.NewUnavailable("away"))
	_, err := (&Temporal{Client: m, Address: "temporal.example:7233"}).Lock(context.Background(), access.Statement{}, l)
	if access.CodeOf(err) != access.CodeUnavailable || !strings.Contains(err.Error(), "can't reach Temporal at temporal.example:7233") {
		t.Error(err)
	}
}

// A query that begins late in the first second has its own time to be answered.
func TestStatusOfAWorkerThatCameLate(t *testing.T) {
	m := &mocks.Client{}
	m.On("QueryWorkflowWithOptions", mock.Anything, mock.Anything).Return(nil, serviceerror.NewFailedPrecondition("no poller")).Once()
	m.On("QueryWorkflowWithOptions", mock.MatchedBy(func(ctx context.Context) bool {
		until, ok := ctx.Deadline()
		return ok && time.Until(until) > 2*firstTimeout
	}), mock.Anything).Return(&client.QueryWorkflowWithOptionsResponse{
		QueryResult: encoded{payload(t, access.Status{ID: testID, State: access.StateActive})},
	}, nil)
	m.On("DescribeWorkflowExecution", mock.Anything, access.WorkflowID(testID), "").Return(&workflowservice.DescribeWorkflowExecutionResponse{
		WorkflowExecutionInfo: &workflowpb.WorkflowExecutionInfo{},
	}, nil)
	if s, err := (&Temporal{Client: m}).Status(context.Background(), testID); err != nil || s.State != access.StateActive {
		t.Errorf("%v, %v", s.State, err)
	}
}
