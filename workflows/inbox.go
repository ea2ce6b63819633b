package workflows

import (
	"fmt"

	"go.temporal.io/sdk/workflow"

	"hallpass/access"
	"hallpass/activities"
)

// maxMessages is how many messages one request hears. Each costs a few events,
// and Temporal ends a workflow for good at about 50,000; a signal that isn't
// heard still costs up to four, and the server takes at most 10,000 signals.
const maxMessages = 1000

// messages are the names of all messages. Where several signals wait, those
// that stop a request go before those that let it go on, whatever order they
// came in: Temporal keeps the order of signals of one name only.
var messages = [...]string{access.MessageLock, access.MessageCancel, access.MessageRelease, access.MessageRevoke, access.MessageDecision}

// inbox is where messages wait. They are heard one at a time.
type inbox struct {
	signals [len(messages)]workflow.ReceiveChannel
	hearing workflow.Mutex
	waiting int // messages that somebody holds and that aren't answered yet
	heard   int
}

// quiet says whether everything that was said has been heard and answered.
func (b *inbox) quiet(ctx workflow.Context) bool {
	return b.waiting == 0 && !b.signalled() && workflow.AllHandlersFinished(ctx)
}

// signalled says whether a signal waits.
func (b *inbox) signalled() bool {
	for _, signals := range b.signals {
		if signals.Len() > 0 {
			return true
		}
	}
	return false
}

// next takes the signal that is to be heard next.
func (b *inbox) next() (name string, st access.Statement, ok bool) {
	for i, signals := range b.signals {
		// What isn't even shaped like a statement is dropped and logged by the SDK.
		if signals.ReceiveAsync(&st) {
			return messages[i], st, true
		}
	}
	return "", st, false
}

// listen opens the inbox for signals and updates.
func (r *request) listen(ctx workflow.Context) error {
	ctx, _ = workflow.NewDisconnectedContext(ctx)
	r.inbox.hearing = workflow.NewMutex(ctx)
	for i, name := range messages {
		r.inbox.signals[i] = workflow.GetSignalChannel(ctx, name)
		err := workflow.SetUpdateHandlerWithOptions(ctx, name,
			func(ctx workflow.Context, st access.Statement) (access.Status, error) {
				return r.answer(ctx, name, st)
			},
			workflow.UpdateHandlerOptions{
				Description: "a signed " + name,
				Validator:   func(st access.Statement) error { return r.glance(name, st) },
			})
		if err != nil {
			return fmt.Errorf("set update handler %s: %w", name, err)
		}
	}
	workflow.Go(ctx, func(ctx workflow.Context) {
		for {
			_ = workflow.Await(ctx, r.inbox.signalled) // the context is never cancelled
			for name, st, ok := r.inbox.next(); ok; name, st, ok = r.inbox.next() {
				if refusal := r.hear(ctx, name, st); refusal != nil {
					workflow.GetLogger(ctx).Warn("signal refused", "request", r.status.ID, "message", name, "code", refusal.Code, "why", refusal.Message)
				}
			}
		}
	})
	return nil
}

// glance refuses an update on sight, at no cost: nothing of it is in the
// history, and nothing in the audit log. So it refuses only what no signer can
// be held to, or what is too late to matter.
func (r *request) glance(name string, st access.Statement) error {
	switch {
	case len(st.Payload) > access.MaxPayload || len(st.Signature) > access.MaxPayload:
		return activities.Fail(access.Errorf(access.CodeMalformed, "statement is longer than %d bytes", access.MaxPayload))
	case r.inbox.heard >= maxMessages:
		return activities.Fail(tooMany())
	}
	if late := r.late(name); late != nil {
		return activities.Fail(late)
	}
	return nil
}

// answer hears an update and says how the request stands then.
func (r *request) answer(ctx workflow.Context, name string, st access.Statement) (access.Status, error) {
	ctx, _ = workflow.NewDisconnectedContext(ctx)
	if refusal := r.hear(ctx, name, st); refusal != nil {
		return access.Status{}, activities.Fail(refusal)
	}
	if r.end != nil {
		// Whoever stops a request wants to read that it stops.
		_ = workflow.Await(ctx, func() bool {
			return r.status.State == access.StateRevoking || r.status.State.Final()
		})
	}
	return r.status, nil
}

// hear takes one message, whichever way it came. A message that is refused
// changes nothing but a count.
func (r *request) hear(ctx workflow.Context, name string, st access.Statement) *access.Error {
	r.inbox.waiting++
	defer func() { r.inbox.waiting-- }()
	_ = r.inbox.hearing.Lock(ctx) // the context is never cancelled
	defer r.inbox.hearing.Unlock()
	_ = workflow.Await(ctx, func() bool { return r.decided })

	refusal := r.weigh(ctx, name, st)
	if refusal != nil {
		r.status.Refused++
	}
	return refusal
}

func (r *request) weigh(ctx workflow.Context, name string, st access.Statement) *access.Error {
	if r.inbox.heard >= maxMessages {
		return tooMany()
	}
	r.inbox.heard++
	in := activities.HearInput{Message: name, Statement: st, Evidence: r.status.Evidence, Refused: r.late(name), Stopped: r.stopped(name)}
	if due := r.status.Deadline; due != nil && r.status.State == access.StatePending && !workflow.Now(ctx).Before(*due) {
		in.Deadline = due
	}
	var out activities.HearOutput
	if err := local(ctx, "check "+name, hallpass.Hear, in, &out); err != nil {
		return activities.Refusal(err)
	}
	if late := r.late(name); late != nil {
		return late // the request moved on while the message was checked
	}
	if out.Stop == nil {
		r.judge(out.Standing, out.Evidence)
	}
	if end := out.End(in); end != nil {
		r.stop(*end)
		return nil
	}
	if out.Standing.Effect == access.EffectAsk || r.status.State == access.StateScheduled {
		r.show(ctx) // otherwise the next state shows it, at once
	}
	return nil
}

// late refuses what can't change anything any more.
func (r *request) late(name string) *access.Error {
	switch {
	case r.status.State.Final():
		return access.Errorf(access.CodeEnded, "the request has ended: %s", r.status.State)
	case r.end != nil:
		return access.Errorf(access.CodeEnded, "the request is ending: %s", r.end.State)
	case name == access.MessageDecision && r.handed:
		return access.Errorf(access.CodeEnded, "the request has been decided and is with the issuer").
			WithHint("to end it all the same: hallpass revoke %s", r.status.ID)
	}
	return nil
}

// stopped is what a stop makes of the request. Whoever takes back a request
// that hasn't been granted yet withdraws it, and whoever revokes or locks one denies it;
// whoever cancels a running grant gives it back: what they want is plain, and
// refusing it would leave access open.
func (r *request) stopped(name string) access.State {
	active := r.status.State == access.StateActive
	switch {
	case (name == access.MessageRevoke || name == access.MessageLock) && r.handed:
		return access.StateRevoked
	case name == access.MessageRevoke || name == access.MessageLock:
		return access.StateDenied
	case name == access.MessageRelease && r.handed, active:
		return access.StateReleased
	default:
		return access.StateCancelled
	}
}

func tooMany() *access.Error {
	return access.Errorf(access.CodeForbidden, "the request has had %d messages and hears no more", maxMessages)
}
