package transport

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	commonpb "go.temporal.io/api/common/v1"
	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
	workflowpb "go.temporal.io/api/workflow/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/temporal"

	"hallpass/access"
	"hallpass/evidence"
	"hallpass/statement"
)

// How long one call may take before the service counts as unreachable. They
// leave room for a worker that is just starting.
const (
	callTimeout  = 10 * time.Second
	sendTimeout  = 20 * time.Second
	firstTimeout = time.Second           // of a query, before it is looked at whether anybody can answer it
	pollerDelay  = 50 * time.Millisecond // between queries to a Temporal that has just started, and hasn't heard of its workers yet
)

// sweepWait is how long sweep waits. One that meets no issuer gives each kind
// two minutes.
const sweepWait = 5 * time.Minute

// Temporal talks to Temporal directly.
type Temporal struct {
	Client  client.Client
	Address string // for messages

	// Recall works out the status of a request that ended from its history.
	Recall func(ctx context.Context, id string) (access.Status, error)
}

// Close closes the client.
func (b *Temporal) Close() { b.Client.Close() }

// Submit starts the workflow of a request.
func (b *Temporal) Submit(ctx context.Context, in access.Submission, req access.Request) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	_, err := b.Client.ExecuteWorkflow(ctx, client.StartWorkflowOptions{
		ID:                                       access.WorkflowID(req.ID),
		TaskQueue:                                access.TaskQueue,
		WorkflowIDReusePolicy:                    enumspb.WORKFLOW_ID_REUSE_POLICY_REJECT_DUPLICATE,
		WorkflowExecutionErrorWhenAlreadyStarted: true,
		StaticSummary:                            req.Line(),
		TypedSearchAttributes: temporal.NewSearchAttributes(
			temporal.NewSearchAttributeKeyKeyword(access.AttrRequester).ValueSet(req.Signer),
			temporal.NewSearchAttributeKeyKeyword(access.AttrResource).ValueSet(req.Resource),
			temporal.NewSearchAttributeKeyKeyword(access.AttrState).ValueSet(string(access.StatePending)),
		),
	}, access.Workflow, in)
	var started *serviceerror.WorkflowExecutionAlreadyStarted
	if errors.As(err, &started) {
		return access.Errorf(access.CodeDuplicate, "request %s has been submitted before", req.ID).WithHint("hallpass show %s", req.ID)
	}
	return b.translate(ctx, err)
}

// Status asks the workflow.
func (b *Temporal) Status(ctx context.Context, id string) (access.Status, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	s, how, err := b.ask(ctx, id, enumspb.QUERY_REJECT_CONDITION_NOT_COMPLETED_CLEANLY)
	if err != nil || how == "" {
		return s, b.about(ctx, id, err)
	}
	broken := access.Errorf(access.CodeEnded, "the workflow of request %s was ended from outside: %s", id, how).
		WithHint("hallpass request … asks anew; what was issued ends by itself")
	if s, _, err = b.ask(ctx, id, enumspb.QUERY_REJECT_CONDITION_NONE); err != nil {
		return access.Status{}, broken
	}
	return s, broken
}

// ask has a worker say how a request stands. If none answers soon, and it has ended
// on a build, its history says it: Temporal asks no other build, and in time that
// one is gone. Where this program can't replay it, the worker may only have been
// slow, and is asked once more. how is how the workflow was ended from outside,
// where reject has that kept from being asked.
func (b *Temporal) ask(ctx context.Context, id string, reject enumspb.QueryRejectCondition) (s access.Status, how string, err error) {
	query := &client.QueryWorkflowWithOptionsRequest{WorkflowID: access.WorkflowID(id), QueryType: access.QueryStatus, QueryRejectCondition: reject}
	first, cancel := context.WithTimeout(ctx, firstTimeout)
	defer cancel()
	answer, err := b.Client.QueryWorkflowWithOptions(first, query)
	var failed *serviceerror.FailedPrecondition
	if slow := late(first, err); ctx.Err() == nil && (slow || errors.As(err, &failed)) {
		is, derr := b.Client.DescribeWorkflowExecution(ctx, query.WorkflowID, "")
		info := is.GetWorkflowExecutionInfo()
		var lost error
		if derr == nil && info.GetCloseTime() != nil && info.GetVersioningInfo().GetBehavior() == enumspb.VERSIONING_BEHAVIOR_PINNED {
			if s, lost = b.Recall(ctx, id); lost == nil {
				return s, "", nil
			}
		}
		if slow {
			answer, err = b.Client.QueryWorkflowWithOptions(ctx, query)
		}
		for !slow && errors.As(err, &failed) && wait(first, pollerDelay) {
			answer, err = b.Client.QueryWorkflowWithOptions(ctx, query)
		}
		if err != nil && lost != nil {
			err = lost
		}
	}
	switch {
	case err != nil:
		return access.Status{}, "", err
	case answer.QueryRejected != nil:
		return access.Status{}, strings.ToLower(answer.QueryRejected.GetStatus().String()), nil
	}
	if err := answer.QueryResult.Get(&s); err != nil {
		return access.Status{}, "", fmt.Errorf("read status of %s: %w", id, err)
	}
	if s.ID != id {
		return access.Status{}, "", elsewhere(id, s.ID)
	}
	return s, "", nil
}

// wait is false once the time is over.
func wait(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// late says whether a call failed because its time was over. Temporal's clock may
// be the first to say so.
func late(ctx context.Context, err error) bool {
	var deadline *serviceerror.DeadlineExceeded
	return err != nil && (errors.Is(ctx.Err(), context.DeadlineExceeded) || errors.Is(err, context.DeadlineExceeded) || errors.As(err, &deadline))
}

// run runs a workflow, or joins the one of that id that runs, and reads its result
// into out.
func (b *Temporal) run(ctx context.Context, o client.StartWorkflowOptions, out any, workflow string, in ...any) error {
	o.TaskQueue = access.TaskQueue
	run, err := b.Client.ExecuteWorkflow(ctx, o, workflow, in...)
	if err != nil {
		return fmt.Errorf("%w: %w", errUnstarted, err)
	}
	return run.Get(ctx, out)
}

// errUnstarted: Temporal hasn't said that it took a workflow.
var errUnstarted = errors.New("start workflow")

// look has a worker look something up.
func (b *Temporal) look(ctx context.Context, what, summary, workflow string, out any) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return b.translate(ctx, b.run(ctx, client.StartWorkflowOptions{
		ID: what + "-" + statement.NewID(), StaticSummary: summary,
		WorkflowExecutionTimeout: time.Minute, // nobody waits for it any longer
	}, out, workflow))
}

// Send delivers a statement as an update, whose id is the statement's.
func (b *Temporal) Send(ctx context.Context, id, message, statementID string, st access.Statement) (access.Status, error) {
	ctx, cancel := context.WithTimeout(ctx, sendTimeout)
	defer cancel()
	handle, err := b.Client.UpdateWorkflow(ctx, client.UpdateWorkflowOptions{
		UpdateID:     statementID,
		WorkflowID:   access.WorkflowID(id),
		UpdateName:   message,
		Args:         []any{st},
		WaitForStage: client.WorkflowUpdateStageCompleted,
	})
	var s access.Status
	if err == nil {
		err = handle.Get(ctx, &s)
	}
	if err == nil {
		return s, nil
	}
	err = b.about(ctx, id, err)
	if access.CodeOf(err) == access.CodeDeaf && message != access.MessageDecision {
		return b.stop(ctx, statementID, access.Stopping{Request: id, Message: message, Statement: st})
	}
	if access.CodeOf(err) == access.CodeNotFound {
		// Temporal answers the same for a workflow that has ended.
		if s, serr := b.Status(ctx, id); serr == nil && s.State.Final() {
			return s, access.TooLate(s)
		}
	}
	return access.Status{}, err
}

// stop ends a request beside its workflow, which hears nothing any more.
func (b *Temporal) stop(ctx context.Context, statementID string, in access.Stopping) (access.Status, error) {
	var out access.Stopped
	err := b.run(ctx, client.StartWorkflowOptions{ID: access.StopWorkflowID(statementID), StaticSummary: in.Message + " of request " + in.Request},
		&out, access.WorkflowStop, in)
	if err != nil {
		return access.Status{}, b.translate(ctx, err)
	}
	if out.Refused != nil {
		return access.Status{}, out.Refused
	}
	s, err := b.Status(ctx, in.Request)
	switch code := access.CodeOf(err); {
	case err == nil:
	case code == access.CodeUnavailable, code == access.CodeEnded, code == access.CodeNotFound:
		s.ID = in.Request // it is over, whether the request can say so or not
	default:
		return access.Status{}, err
	}
	s.State, s.Ending, s.Credential = out.State, "", nil // whether it has noticed or not
	return s, nil
}

// List reads search attributes.
func (b *Temporal) List(ctx context.Context, f Filter) ([]Summary, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	query, err := f.Query()
	if err != nil {
		return nil, err
	}
	limit := f.Limit
	if limit <= 0 {
		limit = 50
	}
	var found []Summary
	var page []byte
	for {
		answer, err := b.Client.ListWorkflow(ctx, &workflowservice.ListWorkflowExecutionsRequest{
			Query: query, PageSize: int32(min(limit-len(found), 200)), NextPageToken: page,
		})
		if err != nil {
			return nil, b.translate(ctx, err)
		}
		for _, e := range answer.GetExecutions() {
			s, err := summarize(e)
			if err != nil {
				return nil, err
			}
			found = append(found, s)
		}
		if page = answer.GetNextPageToken(); len(page) == 0 || len(found) >= limit {
			return found, nil
		}
	}
}

func summarize(e *workflowpb.WorkflowExecutionInfo) (Summary, error) {
	s := Summary{ID: access.RequestID(e.GetExecution().GetWorkflowId()), Asked: e.GetStartTime().AsTime()}
	fields := e.GetSearchAttributes().GetIndexedFields()
	for name, into := range map[string]any{
		access.AttrRequester: &s.Requester,
		access.AttrResource:  &s.Resource,
		access.AttrState:     &s.State,
		access.AttrApprovers: &s.Approvers,
		access.AttrExpires:   &s.Expires,
	} {
		if err := decode(fields[name], into); err != nil {
			return Summary{}, fmt.Errorf("read %s of %s: %w", name, s.ID, err)
		}
	}
	if t := e.GetCloseTime(); t != nil {
		ended := t.AsTime()
		s.Ended = &ended
	}
	switch status := e.GetStatus(); status {
	case enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING, enumspb.WORKFLOW_EXECUTION_STATUS_COMPLETED, enumspb.WORKFLOW_EXECUTION_STATUS_CONTINUED_AS_NEW:
	default:
		s.Workflow = strings.ToLower(status.String())
	}
	return s, nil
}

func decode(p *commonpb.Payload, into any) error {
	if p == nil || len(p.GetData()) == 0 {
		return nil
	}
	return converter.GetDefaultDataConverter().FromPayload(p, into)
}

// about translates an error of a call about one request.
func (b *Temporal) about(ctx context.Context, id string, err error) error {
	var gone *serviceerror.NotFound
	if errors.As(err, &gone) {
		return access.Errorf(access.CodeNotFound, "no request %s", id).WithHint("hallpass list")
	}
	return b.translate(ctx, err)
}

// translate turns Temporal's errors into ours: a refusal keeps its code and
// words, and what says that somebody isn't there becomes CodeUnavailable.
func (b *Temporal) translate(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	var app *temporal.ApplicationError
	if errors.As(err, &app) {
		var refusal access.Error // as package activities attaches it
		if !app.HasDetails() || app.Details(&refusal) != nil || refusal.Code == "" {
			refusal = access.Error{Code: access.Code(app.Type()), Message: app.Message()}
		}
		return &refusal
	}
	if errors.Is(ctx.Err(), context.Canceled) {
		return context.Canceled
	}
	var (
		unavailable *serviceerror.Unavailable
		deadline    *serviceerror.DeadlineExceeded
		notReady    *serviceerror.WorkflowNotReady
		failed      *serviceerror.FailedPrecondition
		timeout     *client.WorkflowUpdateServiceTimeoutOrCanceledError
	)
	switch {
	case errors.As(err, &unavailable):
		return Unreachable(b.Address, err)
	case errors.As(err, &deadline), errors.As(err, &notReady), errors.As(err, &failed), errors.As(err, &timeout), errors.Is(err, context.DeadlineExceeded):
		return access.Errorf(access.CodeUnavailable, "no worker answers on task queue %s at %s", access.TaskQueue, b.Address).
			WithHint("hallpass worker starts one; what was sent is kept and handled then")
	}
	return err
}

// Unreachable says that nothing answers at address.
func Unreachable(address string, err error) error {
	if address == "" {
		address = "the configured address"
	}
	return access.Errorf(access.CodeUnavailable, "can't reach Temporal at %s: %v", address, err).
		WithHint("hallpass dev starts everything on this machine; hallpass config show lists what is configured")
}

// lockLine is what operators see of a lock in Temporal's lists. No reason: it
// is never encrypted.
func lockLine(l access.Lock) string {
	line := fmt.Sprintf("%s %ss %s %s", l.Signer, l.Action, l.Kind, l.Name)
	if l.Until != nil {
		line += " until " + l.Until.UTC().Format(time.RFC3339)
	}
	return line
}

// Lock runs the workflow of a lock.
func (b *Temporal) Lock(ctx context.Context, st access.Statement, l access.Lock) (access.Locked, error) {
	ctx, cancel := context.WithTimeout(ctx, sendTimeout)
	defer cancel()
	id := access.LockWorkflowID(l.ID)
	var out access.Locked
	err := b.run(ctx, client.StartWorkflowOptions{ID: id, StaticSummary: lockLine(l)}, &out, access.WorkflowLock, access.Locking{Statement: st})
	if late(ctx, err) {
		asking, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTimeout)
		defer cancel()
		// Without an answer nobody knows whether it was recorded.
		value, qerr := b.Client.QueryWorkflow(asking, id, "", access.QueryStatus)
		if qerr == nil {
			_ = value.Get(&out)
		} else if errors.Is(err, errUnstarted) {
			return out, Unreachable(b.Address, err) // nor may it be kept anywhere
		}
		return out, b.translate(asking, context.DeadlineExceeded)
	}
	if err == nil && out.Refused != nil {
		return out, out.Refused
	}
	return out, b.translate(ctx, err)
}

// Locks has a worker list the locks in force.
func (b *Temporal) Locks(ctx context.Context) (held evidence.Locks, err error) {
	err = b.look(ctx, "locks", "list what is locked", access.WorkflowLocks, &held)
	return held, err
}

// Review delivers a review to the workflow that waits for it.
func (b *Temporal) Review(ctx context.Context, id, statementID string, st access.Statement) (access.ReviewTask, error) {
	ctx, cancel := context.WithTimeout(ctx, sendTimeout)
	defer cancel()
	// The workflow may be gone, and the review has to be done all the same.
	start := b.Client.NewWithStartWorkflowOperation(client.StartWorkflowOptions{
		ID: access.ReviewWorkflowID(id), TaskQueue: access.TaskQueue, StaticSummary: "BREAK-GLASS to be signed off",
		WorkflowIDConflictPolicy: enumspb.WORKFLOW_ID_CONFLICT_POLICY_USE_EXISTING,
	}, access.WorkflowReview, access.ReviewTask{Request: id})
	var task access.ReviewTask
	handle, err := b.Client.UpdateWithStartWorkflow(ctx, client.UpdateWithStartWorkflowOptions{
		StartWorkflowOperation: start,
		UpdateOptions: client.UpdateWorkflowOptions{
			UpdateID: statementID, UpdateName: access.MessageReview, Args: []any{st}, WaitForStage: client.WorkflowUpdateStageCompleted,
		},
	})
	if err == nil {
		err = handle.Get(ctx, &task)
	}
	return task, b.translate(ctx, err)
}

// Reviews has a worker list what is to be reviewed.
func (b *Temporal) Reviews(ctx context.Context) (tasks []access.ReviewTask, err error) {
	err = b.look(ctx, "reviews", "list what has to be reviewed", access.WorkflowReviews, &tasks)
	return tasks, err
}

// Delegate runs the workflow of a delegation.
func (b *Temporal) Delegate(ctx context.Context, st access.Statement, d access.Delegation) (access.Delegated, error) {
	ctx, cancel := context.WithTimeout(ctx, sendTimeout)
	defer cancel()
	line := fmt.Sprintf("%s revokes the delegation to %s", d.Signer, d.To)
	if d.Action == access.ActionDelegate {
		line = d.Why() // no reason: it is never encrypted
	}
	var out access.Delegated
	err := b.run(ctx, client.StartWorkflowOptions{ID: access.DelegationWorkflowID(d.ID), StaticSummary: line},
		&out, access.WorkflowDelegate, access.Delegating{Statement: st})
	if err == nil && out.Refused != nil {
		return out, out.Refused
	}
	return out, b.translate(ctx, err)
}

// Delegations has a worker list those in force.
func (b *Temporal) Delegations(ctx context.Context) (given evidence.Delegations, err error) {
	err = b.look(ctx, "delegations", "list what is delegated", access.WorkflowDelegations, &given)
	return given, err
}

// Sweep starts the workflow of a sweep, or joins the one that runs.
func (b *Temporal) Sweep(ctx context.Context) (out access.Swept, err error) {
	ctx, cancel := context.WithTimeout(ctx, sweepWait)
	defer cancel()
	run, err := b.Client.ExecuteWorkflow(ctx, client.StartWorkflowOptions{
		ID: access.SweepNow, TaskQueue: access.TaskQueue, StaticSummary: "sweep up what has lost its workflow, now",
		WorkflowIDConflictPolicy: enumspb.WORKFLOW_ID_CONFLICT_POLICY_USE_EXISTING,
	}, access.WorkflowSweep, access.Sweeping{})
	for err == nil {
		// Asked again and again, because an answer may get lost on its way.
		asking, cancel := context.WithTimeout(ctx, callTimeout)
		err = run.Get(asking, &out)
		again := late(asking, err) && ctx.Err() == nil
		cancel()
		if err == nil {
			return out, nil
		}
		if again {
			err = nil
		}
	}
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		asking, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTimeout)
		defer cancel()
		if value, qerr := b.Client.QueryWorkflow(asking, access.SweepNow, "", access.QueryStatus); qerr == nil {
			_ = value.Get(&out)
		}
	}
	return out, b.translate(context.WithoutCancel(ctx), err)
}
