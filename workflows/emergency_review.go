package workflows

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.temporal.io/sdk/workflow"

	"hallpass/access"
	"hallpass/activities"
	"hallpass/notify"
)

// People are reminded of a review no more often than this once it is overdue,
// and no less.
const (
	leastReminder = time.Hour
	mostReminder  = 24 * time.Hour
)

// EmergencyReview is the workflow of the review of one access by break-glass.
// Its id has to be access.ReviewWorkflowID of the request's. It tells those who
// have to look at the access, takes their statements (the message review, as a
// signal or as an update), reminds, and ends when it is done.
//
// It keeps time and nothing else: what is signed and what is overdue is in the
// ledger, which bars the requester from breaking more glass. So whoever ends
// this workflow in Temporal, or starts it again, changes nothing of that.
func EmergencyReview(ctx workflow.Context, in access.ReviewTask) (access.ReviewTask, error) {
	ctx, _ = workflow.NewDisconnectedContext(ctx) // nobody withdraws a review
	r := &review{task: access.ReviewTask{Request: in.Request, Reminded: in.Reminded}}
	if err := r.listen(ctx); err != nil {
		return r.task, err
	}
	again := r.run(ctx)
	_ = workflow.Await(ctx, func() bool { // the context is never cancelled
		return r.waiting == 0 && r.signals.Len() == 0 && workflow.AllHandlersFinished(ctx)
	})
	if again && !r.task.Done {
		return r.task, workflow.NewContinueAsNewError(ctx, EmergencyReview, access.ReviewTask{Request: r.task.Request, Reminded: r.task.Reminded})
	}
	return r.task, nil
}

type review struct {
	task     access.ReviewTask
	signals  workflow.ReceiveChannel
	hearing  workflow.Mutex
	waiting  int
	heard    int
	notifies bool
}

// listen takes review statements in.
func (r *review) listen(ctx workflow.Context) error {
	r.hearing = workflow.NewMutex(ctx)
	r.signals = workflow.GetSignalChannel(ctx, access.MessageReview)
	if err := workflow.SetQueryHandler(ctx, access.QueryStatus, func() (access.ReviewTask, error) { return r.task, nil }); err != nil {
		return fmt.Errorf("set query handler: %w", err)
	}
	err := workflow.SetUpdateHandlerWithOptions(ctx, access.MessageReview,
		func(ctx workflow.Context, st access.Statement) (access.ReviewTask, error) {
			ctx, _ = workflow.NewDisconnectedContext(ctx)
			if refusal := r.hear(ctx, st); refusal != nil {
				return access.ReviewTask{}, activities.Fail(refusal)
			}
			return r.task, nil
		},
		workflow.UpdateHandlerOptions{Description: "a signed review", Validator: func(st access.Statement) error {
			if len(st.Payload) > access.MaxPayload || len(st.Signature) > access.MaxPayload {
				return activities.Fail(access.Errorf(access.CodeMalformed, "statement is longer than %d bytes", access.MaxPayload))
			}
			if r.heard >= maxMessages {
				return activities.Fail(tooMany())
			}
			return nil
		}})
	if err != nil {
		return fmt.Errorf("set update handler: %w", err)
	}
	workflow.Go(ctx, func(ctx workflow.Context) {
		for {
			var st access.Statement
			r.signals.Receive(ctx, &st)
			if refusal := r.hear(ctx, st); refusal != nil {
				workflow.GetLogger(ctx).Warn("signal refused", "review of", r.task.Request, "code", refusal.Code, "why", refusal.Message)
			}
		}
	})
	return nil
}

// hear has one statement checked and recorded.
func (r *review) hear(ctx workflow.Context, st access.Statement) *access.Error {
	r.waiting++
	defer func() { r.waiting-- }()
	_ = r.hearing.Lock(ctx) // the context is never cancelled
	defer r.hearing.Unlock()
	if r.heard >= maxMessages {
		return tooMany()
	}
	r.heard++
	var task access.ReviewTask
	if err := local(ctx, "check review", hallpass.Review, st, &task); err != nil {
		return activities.Refusal(err)
	}
	if task.Request != r.task.Request { // it counts, and elsewhere
		return access.Errorf(access.CodeMismatch, "the review is of request %s", task.Request)
	}
	r.take(ctx, task)
	return nil
}

// take takes over how the review stands, and shows it.
func (r *review) take(ctx workflow.Context, task access.ReviewTask) {
	task.Reminded = r.task.Reminded
	r.task = task
	var b strings.Builder
	fmt.Fprintf(&b, "**break-glass** · %s had %s\n\n", task.Requester, task.Resource)
	for _, voice := range task.Signed {
		fmt.Fprintf(&b, "- signed off by %s at %s\n", voice.Signer, clock(voice.Time))
	}
	for _, set := range task.Missing {
		fmt.Fprintf(&b, "- missing: %d from %s\n", set.Count, strings.Join(set.Groups, " or "))
	}
	fmt.Fprintf(&b, "- due at %s\n", clock(task.Due))
	workflow.SetCurrentDetails(ctx, b.String())
}

// run reminds people until the review is done. It says whether to go on in a
// run of its own.
func (r *review) run(ctx workflow.Context) (again bool) {
	var out activities.ReviewingOutput
	if err := local(ctx, "look how it stands", hallpass.Reviewing, r.task.Request, &out); err != nil {
		workflow.GetLogger(ctx).Warn("nothing to review", "request", r.task.Request, "error", err)
		return false
	}
	r.notifies = out.Notify
	r.take(ctx, out.ReviewTask)
	for !r.task.Done {
		if wait := r.reminder().Sub(workflow.Now(ctx)); wait > 0 {
			_, _ = workflow.AwaitWithOptions(ctx, workflow.AwaitOptions{ // the context is never cancelled
				Timeout: wait, TimerOptions: workflow.TimerOptions{Summary: "until people are reminded"},
			}, func() bool { return r.task.Done })
			continue
		}
		if r.task.Reminded > 0 { // it may have been signed off past this workflow
			if local(ctx, "look how it stands", hallpass.Reviewing, r.task.Request, &out) == nil {
				r.take(ctx, out.ReviewTask)
			}
			if r.task.Done {
				return false
			}
		}
		if r.task.Overdue(workflow.Now(ctx)) {
			_ = local(ctx, "record that it is overdue", hallpass.Overdue, r.task.Request, nil) // has no refusals
		}
		r.tell(ctx)
		for r.task.Reminded++; !r.reminder().After(workflow.Now(ctx)); r.task.Reminded++ { //nolint:revive // missed ones aren't made up for
		}
		if workflow.GetInfo(ctx).GetContinueAsNewSuggested() {
			return true
		}
	}
	return false
}

// reminder is when people are told next: at once, at half of the time, when it
// is over, and then again and again.
func (r *review) reminder() time.Time {
	within := r.task.Emergency.Within.Duration()
	switch n := r.task.Reminded; n {
	case 0:
		return r.task.Granted
	case 1:
		return r.task.Granted.Add(within / 2)
	default:
		return r.task.Due.Add(time.Duration(n-2) * min(max(within, leastReminder), mostReminder))
	}
}

// tell tells the groups, where there are channels.
func (r *review) tell(ctx workflow.Context) {
	if !r.notifies {
		return
	}
	var request access.Request
	_ = json.Unmarshal([]byte(r.task.Statement.Payload), &request) // it has been verified
	m := notify.Message{
		ID: fmt.Sprintf("%s.review.%d", r.task.Request, r.task.Reminded), Event: notify.Review, Time: workflow.Now(ctx).UTC(),
		Request: r.task.Request, Requester: r.task.Requester, Resource: r.task.Resource, Login: request.Login, Actions: request.Actions,
		Duration: request.Duration, Told: r.task.Emergency.Tell, Deadline: &r.task.Due, Reason: request.Reason, Ticket: request.Ticket,
	}
	if r.task.Reminded == 0 {
		m.Event = notify.Emergency
	}
	for _, set := range r.task.Missing {
		m.Groups = append(m.Groups, set.Groups...)
	}
	slices.Sort(m.Groups)
	m.Groups = slices.Compact(m.Groups)
	r.waiting++
	workflow.Go(ctx, func(ctx workflow.Context) {
		defer func() { r.waiting-- }()
		deliver(ctx, m)
	})
}

// Reviews is a workflow that lists the reviews that aren't done, oldest first.
// It changes nothing.
func Reviews(ctx workflow.Context) ([]access.ReviewTask, error) {
	ctx, _ = workflow.NewDisconnectedContext(ctx)
	var tasks []access.ReviewTask
	err := local(ctx, "look what is to be reviewed", hallpass.Reviews, access.MostReviews, &tasks)
	return tasks, err
}
