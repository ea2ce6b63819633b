// Package workflows holds the durable side of hallpass:
//
//   - AccessRequest is one request's life, from the question to the end of the grant.
//   - Stop ends a request beside it, where it hears no more.
//   - Lock takes one lock statement to the record and to the requests under it;
//     Locks lists what is locked.
//   - Delegate takes one delegation, or its revocation, to the record; Delegations
//     lists those in force.
//   - EmergencyReview tells people of access by break-glass until it is signed off;
//     Reviews lists what is open.
//   - Sweep ends grants whose workflow is gone, and credentials that no grant has.
//   - HostCertificate has an issuer take in a host, or renew it.
//
// A workflow keeps time and order and carries evidence to the issuer; it is
// trusted with nothing else. AccessRequest never fails: whatever happens to a request is
// an access.Outcome, and a part that is down only makes it wait. Once a request
// was given to an issuer, its end always goes through Revoke, which is repeated
// until it worked, whatever ended the request, and where the reply to Issue was
// lost too.
//
// No clock, randomness, environment or map order in here: what depends on them
// comes out of activities.
package workflows

import (
	"fmt"
	"time"

	"go.temporal.io/sdk/workflow"

	"hallpass/access"
	"hallpass/activities"
	"hallpass/audit"
	"hallpass/notify"
	"hallpass/policy"
)

// AccessRequest is the workflow of one request. Its id has to be
// access.WorkflowID of the request's id. It returns no errors of the request's
// making: denied, timed out and cancelled are outcomes.
//
// It takes the messages decision, release, revoke, cancel and lock, each as a signal
// or as an update, and answers the query status. Cancelling it in Temporal
// withdraws the request, or revokes the grant.
func AccessRequest(ctx workflow.Context, in access.Submission) (access.Outcome, error) {
	r, err := open(ctx, in)
	if err != nil {
		return access.Outcome{}, err
	}
	// From here on only see sees a cancellation.
	ctx, _ = workflow.NewDisconnectedContext(ctx)
	return r.run(ctx), nil
}

// Only their methods' names are used in here.
var (
	hallpass *activities.Activities
	issuer   *activities.Issuing
)

// request is one request while it lives. Temporal runs one of its methods at a
// time, and another only while one waits.
type request struct {
	status   access.Status // what the query answers
	decided  bool          // the first ruling is there; messages wait for it
	verified bool          // the request is what its id says, so its end has to be recorded
	handed   bool          // the issuer has been asked, so only the issuer can end it
	end      *audit.End    // how the request ends; set once
	shown    *shown        // what operators see of it; nil: what it was started with
	inbox    inbox
	notifies bool            // there are channels to tell
	telling  int             // messages that are being told
	review   workflow.Future // the start of the review, where glass was broken; nil where not
}

// open sets the handlers up, before anything can block, so that no message
// finds the door shut.
func open(ctx workflow.Context, in access.Submission) (*request, error) {
	r := &request{
		status: access.Status{
			ID:       access.RequestID(workflow.GetInfo(ctx).WorkflowExecution.ID),
			State:    access.StatePending,
			Why:      "waits for its first ruling",
			Evidence: access.Evidence{Request: in.Request},
			Asked:    workflow.Now(ctx).UTC(),
		},
	}
	err := workflow.SetQueryHandler(ctx, access.QueryStatus, func() (access.Status, error) { return r.status, nil })
	if err != nil {
		return nil, fmt.Errorf("set query handler: %w", err)
	}
	return r, r.listen(ctx)
}

// withdraw makes of a cancellation in Temporal one more way to end the request.
// Nothing else here sees it, so no step has to be written for it.
func (r *request) withdraw() {
	if r.status.State == access.StateActive {
		r.stop(audit.End{State: access.StateRevoked, Why: "revoked by an operator of Temporal"})
	} else {
		r.stop(audit.End{State: access.StateCancelled, Why: "cancelled by an operator of Temporal"})
	}
}

// run is the life of a request. What ends it early skips the steps between.
func (r *request) run(ctx workflow.Context) access.Outcome {
	for _, step := range []func(workflow.Context){r.decide, r.awaitDecisions, r.awaitStart, r.issue, r.awaitEnd} {
		if r.end == nil {
			step(ctx)
		}
	}
	r.finish(ctx)
	return access.Outcome{
		State:   r.status.State,
		Why:     r.status.Why,
		By:      r.status.By,
		Handle:  r.status.Handle,
		Refused: r.status.Refused,
	}
}

// decide gets the first ruling.
func (r *request) decide(ctx workflow.Context) {
	in := access.Submission{Request: r.status.Evidence.Request}
	var standing activities.DecideOutput
	var err error
	r.aside(ctx, func(ctx workflow.Context) { err = local(ctx, "decide by policy", hallpass.Decide, in, &standing) })
	if err != nil {
		r.stop(audit.End{State: access.StateDenied, Why: activities.Refusal(err).Message})
	} else {
		r.verified = true
		r.status.Asked = standing.Request.Time
		r.status.Past, r.notifies = standing.Past, standing.Notify
		r.judge(standing.Standing, r.status.Evidence)
		if standing.Effect == access.EffectDeny {
			r.stop(audit.End{State: access.StateDenied, Why: standing.Why})
		}
	}
	r.decided = true
}

// judge takes over a standing and the evidence for it.
func (r *request) judge(standing access.Standing, evidence access.Evidence) {
	r.status.Standing, r.status.Evidence, r.status.Why = standing, evidence, standing.Why
}

// awaitDecisions waits until enough people have approved, or the time for it
// is over. As many valid denials as policy asks for end the request.
func (r *request) awaitDecisions(ctx workflow.Context) {
	missing := func() bool { return r.status.Standing.Effect == access.EffectAsk }
	if missing() {
		ruling := r.status.Standing.Ruling
		deadline := ruling.At.Add(ruling.Window.Duration()).UTC()
		r.status.Deadline = &deadline
		r.enter(ctx, access.StatePending)
		r.tell(ctx, notify.Asked, nil)
		enough := func() bool { return !missing() && r.inbox.quiet(ctx) }
		for _, step := range policy.Steps(ruling.Needs, ruling.Window.Duration()) {
			r.sleep(ctx, ruling.At.Add(step.After.Duration()), "until others are asked", enough)
			r.escalate(ctx, step.After, enough)
		}
		r.sleep(ctx, deadline, "time for approvals", enough)
	}
	r.hearOut(ctx)
	if missing() {
		why := fmt.Sprintf("not approved within %s: %s", r.status.Standing.Ruling.Window, r.status.Standing.Why)
		r.stop(audit.End{State: access.StateTimedOut, Why: why})
	}
}

// escalate asks those whom the next step of policy's escalation names, unless
// there is nothing to ask any more. What comes of a message and of this must
// not overtake each other: both change how the request stands.
func (r *request) escalate(ctx workflow.Context, after access.Seconds, enough func() bool) {
	_ = r.inbox.hearing.Lock(ctx) // the context is never cancelled
	defer r.inbox.hearing.Unlock()
	if r.end != nil || enough() || r.status.Standing.Effect != access.EffectAsk {
		return
	}
	in := activities.EscalateInput{Evidence: r.status.Evidence, After: after}
	var out activities.EscalateOutput
	if err := local(ctx, "ask others", hallpass.Escalate, in, &out); err != nil {
		workflow.GetLogger(ctx).Warn("not escalated", "request", r.status.ID, "error", err)
		return
	}
	if out.Standing.Effect == access.EffectDeny {
		return // by a policy or lock of today; whoever decides hears of it
	}
	r.judge(out.Standing, r.status.Evidence)
	if out.Asked != nil {
		r.status.Escalated = append(r.status.Escalated, *out.Asked)
		r.tell(ctx, notify.Escalated, out.Asked)
	}
	r.show(ctx)
}

// awaitStart waits for the start that was asked for. Approvers may still deny.
func (r *request) awaitStart(ctx workflow.Context) {
	start := r.status.Standing.Request.Start
	if start == nil || !start.After(workflow.Now(ctx)) {
		return
	}
	r.status.Starts = start
	r.enter(ctx, access.StateScheduled)
	r.sleep(ctx, *start, "start of the grant", never)
	r.hearOut(ctx)
}

// hearOut lets those finish who have spoken already: a denial or a cancel that
// came together with the last approval counts, and so does an approval that is
// being checked while the time for it runs out.
func (r *request) hearOut(ctx workflow.Context) {
	r.wait(ctx, func() bool { return r.end != nil || r.inbox.quiet(ctx) })
}

// issue has the credential issued, however long it takes to reach an issuer.
func (r *request) issue(ctx workflow.Context) {
	r.enter(ctx, access.StateIssuing)
	r.handed = true
	issuing, cancel := workflow.WithCancel(r.onIssuer(ctx, "issue "+r.what()))
	defer cancel() // an attempt that is under way meets the end in the ledger
	var credential access.Credential
	var refused error
	answered := false
	workflow.Go(issuing, func(issuing workflow.Context) {
		refused = steadily(issuing, issuer.Issue, r.status.Evidence, &credential)
		answered = true
	})
	r.wait(ctx, func() bool { return r.end != nil || answered })
	switch {
	case !answered:
		return
	case refused != nil:
		// It may be refused because of a word that is still being heard.
		r.hearOut(ctx)
		r.stop(audit.End{State: access.StateDenied, Why: "refused by the issuer: " + activities.Refusal(refused).Message})
		return
	}
	handle := &credential.Handle
	r.status.Credential, r.status.Handle = &credential, handle
	r.status.Granted, r.status.Ends = &handle.NotBefore, &handle.NotAfter
	if r.status.Standing.Ruling.Emergency != nil {
		r.openReview(ctx)
	}
}

// abandon is PARENT_CLOSE_POLICY_ABANDON: the review goes on when the request
// has ended.
const abandon = 2

// openReview starts the workflow that has an access by break-glass signed off.
// The access doesn't wait for it. That it must be is in the ledger already.
func (r *request) openReview(ctx workflow.Context) {
	ctx = workflow.WithChildOptions(ctx, workflow.ChildWorkflowOptions{
		WorkflowID: access.ReviewWorkflowID(r.status.ID), ParentClosePolicy: abandon, StaticSummary: "BREAK-GLASS to be signed off: " + r.what(),
	})
	r.review = workflow.ExecuteChildWorkflow(ctx, access.WorkflowReview, access.ReviewTask{Request: r.status.ID}).GetChildWorkflowExecution()
}

// awaitEnd waits for the end of the grant. The timer ends at the credential's
// own end, never after it. Where policy lets sessions finish, the request lives
// on until they have to be gone: they can be taken back until then.
func (r *request) awaitEnd(ctx workflow.Context) {
	r.enter(ctx, access.StateActive)
	r.tell(ctx, notify.Granted, nil)
	r.sleep(ctx, *r.status.Ends, "end of the grant", never)
	if over := r.status.Handle.Over(); r.end == nil && over.After(*r.status.Ends) {
		r.status.Why = "has ended; sessions that are open may stay until " + clock(over)
		r.enter(ctx, access.StateActive)
		r.sleep(ctx, over, "end of the last session", never)
	}
	r.stop(audit.End{State: access.StateExpired, Why: "ran to its end"})
}

// finish takes back what was granted, records the end and answers whoever is
// still waiting.
func (r *request) finish(ctx workflow.Context) {
	r.status.Why, r.status.By, r.status.Ended = r.end.Why, r.end.By, r.end.Statement
	switch {
	case r.handed:
		r.status.Ending = r.end.State
		r.enter(ctx, access.StateRevoking)
		r.status.Credential = nil
		// Revoke has no refusals either.
		var with []string
		r.aside(ctx, func(ctx workflow.Context) {
			_ = steadily(r.onIssuer(ctx, "take back "+r.what()), issuer.Revoke, *r.end, &with)
		})
		for _, id := range with {
			// One that has no workflow any more has ended all the same.
			_ = workflow.SignalExternalWorkflow(ctx, access.WorkflowID(id), "", access.MessageLook, nil).Get(ctx, nil)
		}
	case r.verified:
		// Close has no refusals, so it has worked when it returns.
		_ = local(ctx, "record the end", hallpass.Close, *r.end, nil)
	}
	now := workflow.Now(ctx).UTC()
	r.status.EndedAt, r.status.Ending = &now, ""
	r.enter(ctx, r.end.State)
	r.count(ctx, now)
	if r.verified {
		r.tell(ctx, notify.Ended, nil)
	}
	r.told(ctx)
	if r.review != nil {
		r.wait(ctx, r.review.IsReady)
		if err := r.review.Get(ctx, nil); err != nil {
			workflow.GetLogger(ctx).Warn("review not started; hallpass review does it", "request", r.status.ID, "error", err)
		}
	}
	r.wait(ctx, func() bool { return r.inbox.quiet(ctx) }) // nobody is left without an answer
}

// count counts the ending, and how long after the end of a grant all of it was
// taken back. The SDK does neither on replay.
func (r *request) count(ctx workflow.Context, now time.Time) {
	metrics := workflow.GetMetricsHandler(ctx)
	metrics.WithTags(map[string]string{"state": string(r.end.State)}).Counter("hallpass_requests_ended").Inc(1)
	if r.end.State == access.StateExpired && r.status.Handle != nil {
		metrics.Timer("hallpass_revoke_lag").Record(max(0, now.Sub(r.status.Handle.Over())))
	}
}

// stop says how the request ends, unless that has been said. The steps see it
// and make way.
func (r *request) stop(end audit.End) {
	if r.end == nil {
		end.Request = r.status.ID
		r.end = &end
	}
}

// sleep waits until a time, until the request ends, or for done.
func (r *request) sleep(ctx workflow.Context, until time.Time, summary string, done func() bool) {
	awake := func() bool { return r.end != nil || done() }
	if wait := until.Sub(workflow.Now(ctx)); wait > 0 && !awake() {
		// A timer that is left running would wake the workflow for nothing.
		timing, cancel := workflow.WithCancel(ctx)
		defer cancel()
		timer := workflow.NewTimerWithOptions(timing, wait, workflow.TimerOptions{Summary: summary})
		r.wait(ctx, func() bool { return timer.IsReady() || awake() })
	}
}

// wait waits for done, and has what comes from outside meanwhile seen to.
func (r *request) wait(ctx workflow.Context, done func() bool) {
	for {
		_ = workflow.Await(ctx, func() bool { return r.comes() || done() }) // the context isn't cancelled meanwhile
		if !r.comes() {
			return
		}
		r.see(ctx)
	}
}

// aside has f done by a coroutine of its own, and waits for it as wait does. What is read
// in f takes a lot of stack, too, which the request's own coroutine would keep until its end.
func (r *request) aside(ctx workflow.Context, f func(workflow.Context)) {
	done := false
	workflow.Go(ctx, func(ctx workflow.Context) {
		f(ctx)
		done = true
	})
	r.wait(ctx, func() bool { return done })
}

func never() bool { return false }
