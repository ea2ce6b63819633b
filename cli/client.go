package cli

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
)

// backend is all that the commands need of the service. It carries statements
// and answers; it is trusted with neither. Errors are *access.Error where the
// service refused something or can't be reached, and the context's own error
// when that ended.
type backend interface {
	// Submit starts the request. It returns when the request is durable;
	// submitting the same request again is CodeDuplicate.
	Submit(ctx context.Context, in access.Submission, req access.Request) error
	// Status says how the request with this full id stands. A request whose
	// workflow was ended from outside returns its last status and CodeEnded.
	Status(ctx context.Context, id string) (access.Status, error)
	// List finds requests: open ones first, then the latest to end.
	List(ctx context.Context, f filter) ([]summary, error)
	// Send delivers a statement and returns when it was accepted, with the
	// status then, or refused. Sending the same statement again, by its id,
	// changes nothing.
	Send(ctx context.Context, id, message, statementID string, st access.Statement) (access.Status, error)
	// Lock delivers a lock or unlock, and returns when everything under it has
	// ended. An error with a result means that it is in force, and that the
	// rest takes longer.
	Lock(ctx context.Context, st access.Statement, l access.Lock) (access.Locked, error)
	// Review delivers a review of the request with this full id.
	Review(ctx context.Context, id, statementID string, st access.Statement) (access.ReviewTask, error)
	// Reviews lists those that aren't done.
	Reviews(ctx context.Context) ([]access.ReviewTask, error)
	// Locks lists the locks in force.
	Locks(ctx context.Context) (evidence.Locks, error)
	// Delegate delivers a delegation, or what revokes one.
	Delegate(ctx context.Context, st access.Statement, d access.Delegation) (access.Delegated, error)
	// Delegations lists those in force.
	Delegations(ctx context.Context) (evidence.Delegations, error)
	// Sweep sweeps once and returns when that is done, or joins a sweep that
	// somebody else has asked for. An error with a result means that it goes
	// on, and that this is what it has done so far.
	Sweep(ctx context.Context) (access.Swept, error)
	Close()
}

// filter chooses requests; zero fields choose all.
type filter struct {
	Prefix    string // of the request's id
	Requester string
	Resource  string
	States    []access.State
	Limit     int // zero: 50
}

// summary is what a list shows of a request. It comes from search attributes
// and may lag behind its status by a moment.
type summary struct {
	ID        string       `json:"id"`
	State     access.State `json:"state"`
	Requester string       `json:"requester"`
	Resource  string       `json:"resource"`
	Approvers []string     `json:"approvers,omitempty"`
	Asked     time.Time    `json:"asked"`
	Expires   *time.Time   `json:"expires,omitempty"`
	Ended     *time.Time   `json:"ended,omitempty"`
	Workflow  string       `json:"workflow,omitempty"` // how its workflow ended, where it wasn't by itself
}

// How long one call may take before the service counts as unreachable. They
// leave room for a worker that is just starting.
const (
	callTimeout  = 10 * time.Second
	sendTimeout  = 20 * time.Second
	firstTimeout = time.Second // of a query, before it is looked at whether anybody can answer it
)

// temporalBackend talks to Temporal directly.
type temporalBackend struct {
	client  client.Client
	address string // for messages

	// recall works out the status of a request that ended from its history.
	recall func(ctx context.Context, id string) (access.Status, error)
}

func (b *temporalBackend) Close() { b.client.Close() }

// summaryLine is what operators see of a request in Temporal's lists. No
// reason and no ticket: it is never encrypted.
func summaryLine(r access.Request) string {
	return fmt.Sprintf("%s %s %s%s for %s%s", r.Signer, wants(r.Mode), r.Resource, asWhat(r.Login, r.Actions), r.Duration, longer(r.Extends))
}

// wants is the verb for what a requester does.
func wants(mode string) string {
	if mode == access.ModeEmergency {
		return "takes by BREAK-GLASS"
	}
	return "wants"
}

// longer stands behind the duration of an extension.
func longer(extends string) string {
	if extends != "" {
		return " longer"
	}
	return ""
}

// asWhat is what stands behind a resource's name: a login, or actions.
func asWhat(login string, actions []string) string {
	s := ""
	if login != "" {
		s = " as " + login
	}
	if len(actions) > 0 {
		s += " (" + strings.Join(actions, ", ") + ")"
	}
	return s
}

func (b *temporalBackend) Submit(ctx context.Context, in access.Submission, req access.Request) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	_, err := b.client.ExecuteWorkflow(ctx, client.StartWorkflowOptions{
		ID:                                       access.WorkflowID(req.ID),
		TaskQueue:                                access.TaskQueue,
		WorkflowIDReusePolicy:                    enumspb.WORKFLOW_ID_REUSE_POLICY_REJECT_DUPLICATE,
		WorkflowExecutionErrorWhenAlreadyStarted: true,
		StaticSummary:                            summaryLine(req),
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

func (b *temporalBackend) Status(ctx context.Context, id string) (access.Status, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	query := &client.QueryWorkflowWithOptionsRequest{
		WorkflowID: access.WorkflowID(id), QueryType: access.QueryStatus,
		QueryRejectCondition: enumspb.QUERY_REJECT_CONDITION_NOT_COMPLETED_CLEANLY,
	}
	answer, err := b.query(ctx, query)
	if errors.Is(err, errOrphan) {
		return b.recall(ctx, id)
	} else if err != nil {
		return access.Status{}, b.about(ctx, id, err)
	}
	var broken error
	if answer.QueryRejected != nil {
		how := strings.ToLower(answer.QueryRejected.GetStatus().String())
		broken = access.Errorf(access.CodeEnded, "the workflow of request %s was ended from outside: %s", id, how).
			WithHint("hallpass request … asks anew; what was issued ends by itself")
		query.QueryRejectCondition = enumspb.QUERY_REJECT_CONDITION_NONE
		if answer, err = b.query(ctx, query); errors.Is(err, errOrphan) {
			s, _ := b.recall(ctx, id)
			return s, broken
		} else if err != nil {
			return access.Status{}, broken
		}
	}
	var s access.Status
	if err := answer.QueryResult.Get(&s); err != nil {
		return access.Status{}, fmt.Errorf("read status of %s: %w", id, err)
	}
	if s.ID != id {
		return access.Status{}, access.Errorf(access.CodeMismatch, "asked about request %s, the service answers about %q", id, s.ID)
	}
	return s, broken
}

// errOrphan: the request has ended on a build that no worker runs any more, and
// Temporal asks no other about it.
var errOrphan = errors.New("nobody is left to ask")

// query asks a worker, and if none answers soon, it looks whether any can
// before it asks again.
func (b *temporalBackend) query(ctx context.Context, query *client.QueryWorkflowWithOptionsRequest) (*client.QueryWorkflowWithOptionsResponse, error) {
	first, cancel := context.WithTimeout(ctx, firstTimeout)
	defer cancel()
	answer, err := b.client.QueryWorkflowWithOptions(first, query)
	var failed *serviceerror.FailedPrecondition
	late := err != nil && first.Err() != nil
	if ctx.Err() != nil || !late && !errors.As(err, &failed) {
		return answer, err
	}
	is, derr := b.client.DescribeWorkflowExecution(ctx, query.WorkflowID, "")
	info := is.GetWorkflowExecutionInfo()
	if derr == nil && info.GetCloseTime() != nil && info.GetVersioningInfo().GetBehavior() == enumspb.VERSIONING_BEHAVIOR_PINNED {
		return nil, errOrphan
	}
	if !late {
		return nil, err
	}
	return b.client.QueryWorkflowWithOptions(ctx, query)
}

func (b *temporalBackend) Send(ctx context.Context, id, message, statementID string, st access.Statement) (access.Status, error) {
	ctx, cancel := context.WithTimeout(ctx, sendTimeout)
	defer cancel()
	handle, err := b.client.UpdateWorkflow(ctx, client.UpdateWorkflowOptions{
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
	if access.CodeOf(err) == access.CodeNotFound {
		// Temporal answers the same for a workflow that has ended.
		if s, serr := b.Status(ctx, id); serr == nil && s.State.Final() {
			return s, tooLate(s)
		}
	}
	return access.Status{}, err
}

// tooLate refuses on this side what the service would refuse.
func tooLate(s access.Status) error {
	return access.Errorf(access.CodeEnded, "request %s is %s: nothing can be said to it any more", s.ID, s.State)
}

func (b *temporalBackend) List(ctx context.Context, f filter) ([]summary, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	query, err := f.query()
	if err != nil {
		return nil, err
	}
	limit := f.Limit
	if limit <= 0 {
		limit = 50
	}
	var found []summary
	var page []byte
	for {
		answer, err := b.client.ListWorkflow(ctx, &workflowservice.ListWorkflowExecutionsRequest{
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

// query writes the filter in Temporal's visibility language. Everything in it
// has been checked to hold no quote.
func (f filter) query() (string, error) {
	and := []string{"WorkflowType = '" + access.Workflow + "'"}
	if f.Prefix != "" {
		if !idPrefix(f.Prefix) {
			return "", notAnID(f.Prefix)
		}
		and = append(and, "WorkflowId STARTS_WITH '"+access.WorkflowID(f.Prefix)+"'")
	}
	if f.Requester != "" {
		if err := access.CheckName("requester", f.Requester); err != nil {
			return "", err
		}
		and = append(and, access.AttrRequester+" = '"+f.Requester+"'")
	}
	if f.Resource != "" {
		if err := access.CheckResource(f.Resource); err != nil {
			return "", err
		}
		and = append(and, access.AttrResource+" = '"+f.Resource+"'")
	}
	if len(f.States) > 0 {
		states := make([]string, len(f.States))
		for i, s := range f.States {
			states[i] = "'" + string(s) + "'"
		}
		and = append(and, access.AttrState+" IN ("+strings.Join(states, ", ")+")")
	}
	return strings.Join(and, " AND "), nil
}

func summarize(e *workflowpb.WorkflowExecutionInfo) (summary, error) {
	s := summary{ID: access.RequestID(e.GetExecution().GetWorkflowId()), Asked: e.GetStartTime().AsTime()}
	fields := e.GetSearchAttributes().GetIndexedFields()
	for name, into := range map[string]any{
		access.AttrRequester: &s.Requester,
		access.AttrResource:  &s.Resource,
		access.AttrState:     &s.State,
		access.AttrApprovers: &s.Approvers,
		access.AttrExpires:   &s.Expires,
	} {
		if err := decode(fields[name], into); err != nil {
			return summary{}, fmt.Errorf("read %s of %s: %w", name, s.ID, err)
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
func (b *temporalBackend) about(ctx context.Context, id string, err error) error {
	var gone *serviceerror.NotFound
	if errors.As(err, &gone) {
		return access.Errorf(access.CodeNotFound, "no request %s", id).WithHint("hallpass list")
	}
	return b.translate(ctx, err)
}

// translate turns Temporal's errors into ours: a refusal keeps its code and
// words, and what says that somebody isn't there becomes CodeUnavailable.
func (b *temporalBackend) translate(ctx context.Context, err error) error {
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
		return unreachable(b.address, err)
	case errors.As(err, &deadline), errors.As(err, &notReady), errors.As(err, &failed), errors.As(err, &timeout), errors.Is(err, context.DeadlineExceeded):
		return access.Errorf(access.CodeUnavailable, "no worker answers on task queue %s at %s", access.TaskQueue, b.address).
			WithHint("hallpass worker starts one; what was sent is kept and handled then")
	}
	return err
}

// unreachable says that nothing answers at address.
func unreachable(address string, err error) error {
	if address == "" {
		address = "the configured address"
	}
	return access.Errorf(access.CodeUnavailable, "can't reach Temporal at %s: %v", address, err).
		WithHint("hallpass dev starts everything on this machine; hallpass config check shows what is configured")
}

// idPrefix says whether s can be the beginning of a request's id.
func idPrefix(s string) bool {
	if s == "" || len(s) > 36 {
		return false
	}
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') && c != '-' {
			return false
		}
	}
	return true
}

func notAnID(s string) *failure {
	return usagef("%s is not a request's id or the beginning of one", s).withHint("hallpass list shows them")
}

// shortIDs shortens ids as far as they stay apart from each other and keep
// the whole millisecond that they were made in.
func shortIDs(ids []string) map[string]string {
	const least = 13
	short := make(map[string]string, len(ids))
	for _, id := range ids {
		n := least
		for _, other := range ids {
			for other != id && n < len(id) && strings.HasPrefix(other, id[:min(n, len(id))]) {
				n++
			}
		}
		short[id] = id[:min(n, len(id))]
	}
	return short
}
