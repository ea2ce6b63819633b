package workflows

import (
	"fmt"
	"slices"
	"time"

	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"hallpass/access"
	"hallpass/activities"
	"hallpass/notify"
)

// pauses are how long after a try, by which not all channels were told, the
// next one comes. Then it is given up.
var pauses = [...]time.Duration{10 * time.Second, time.Minute, 10 * time.Minute, time.Hour, 0}

// lastWord is how long a request that has ended waits for the news of it to be
// told. Nothing but the workflow's own end waits for that.
const lastWord = time.Minute

// tell has an event told, where the worker that decided has channels. It goes on
// beside the request, which never waits for it.
func (r *request) tell(ctx workflow.Context, event notify.Event, asked *access.Asking) {
	if !r.notifies {
		return
	}
	m := r.message(ctx, event, asked)
	r.telling++
	workflow.Go(ctx, func(ctx workflow.Context) {
		defer func() { r.telling-- }()
		deliver(ctx, m)
	})
}

// deliver tells a message until all channels have it, or it is too late to
// matter.
func deliver(ctx workflow.Context, m notify.Message) {
	ctx = workflow.WithActivityOptions(ctx, workflow.ActivityOptions{
		Summary:                "tell: " + string(m.Event),
		StartToCloseTimeout:    time.Minute,
		ScheduleToCloseTimeout: 10 * time.Minute,
		RetryPolicy:            &temporal.RetryPolicy{InitialInterval: time.Second, BackoffCoefficient: 2, MaximumAttempts: 3},
	})
	in := activities.NotifyInput{Message: m}
	for _, pause := range pauses {
		var out activities.NotifyOutput
		err := workflow.ExecuteActivity(ctx, hallpass.Notify, in).Get(ctx, &out)
		if err == nil && !out.Again {
			return
		}
		if err == nil {
			in.Had = out.Had
		}
		if pause > 0 {
			_ = workflow.Sleep(ctx, pause) // the context is never cancelled
		}
	}
	workflow.GetLogger(ctx).Warn("not everybody was told", "request", m.Request, "event", m.Event)
}

// told waits a moment until the last news has been told.
func (r *request) told(ctx workflow.Context) {
	if r.telling > 0 {
		// It is left running: what comes next is the workflow's end.
		timer := workflow.NewTimerWithOptions(ctx, lastWord, workflow.TimerOptions{Summary: "until everybody is told"})
		r.wait(ctx, func() bool { return timer.IsReady() || r.telling == 0 })
	}
}

// message is how the request stands, for people.
func (r *request) message(ctx workflow.Context, event notify.Event, asked *access.Asking) notify.Message {
	request, standing := r.status.Standing.Request, r.status.Standing
	m := notify.Message{
		ID: request.ID + "." + string(event), Event: event, Time: workflow.Now(ctx).UTC(),
		Request: request.ID, Requester: request.Signer, Resource: request.Resource, Login: request.Login, Actions: request.Actions,
		Duration: request.Duration, Extends: request.Extends, State: r.status.State, Rules: standing.Ruling.Rules, Approvers: r.approvers(access.Voice.Who),
		Deadline: r.status.Deadline, Ends: r.status.Ends, Reason: request.Reason, Ticket: request.Ticket,
	}
	for _, need := range standing.Ruling.Needs {
		for _, set := range need.Sets {
			m.Groups = append(m.Groups, set.Groups...)
		}
	}
	steps := r.status.Escalated
	if asked != nil {
		m.ID += fmt.Sprintf(".%d", asked.After)
		m.Groups, steps = nil, []access.Asking{*asked} // the others know
	}
	for _, step := range steps {
		m.Groups, m.Told = append(m.Groups, step.Ask...), append(m.Told, step.Notify...)
	}
	slices.Sort(m.Groups)
	m.Groups = slices.Compact(m.Groups)
	slices.Sort(m.Told)
	m.Told = slices.Compact(m.Told)
	if event != notify.Asked && event != notify.Escalated {
		m.Deadline = nil
	}
	if event == notify.Ended {
		m.By, m.Why, m.Ends = r.status.By, r.status.Why, nil
	}
	return m
}
