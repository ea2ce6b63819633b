package workflows

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"go.temporal.io/sdk/workflow"

	"hallpass/access"
	"hallpass/activities"
	"hallpass/audit"
	"hallpass/statement"
)

// maxMessages is how many messages one request hears. Each costs a few events,
// and Temporal ends a workflow for good at about 50,000; a signal that isn't
// heard still costs up to four, and the server takes at most 10,000 signals.
const maxMessages = 1000

// maxLooks is how often a request looks into the ledger because it is told to.
// Told when there is nothing to look for, it doesn't, and that costs no more
// than any signal that isn't heard.
const maxLooks = 20

// messages are the names of all messages. Where several signals wait, those
// that stop a request go before those that let it go on, whatever order they
// came in: Temporal keeps the order of signals of one name only.
var messages = [...]string{access.MessageLock, access.MessageCancel, access.MessageRelease, access.MessageRevoke, access.MessageDecision}

// inbox is where what comes from outside waits. Messages are heard one at a time. It has
// the channels itself: to ask which signals wait looks at all that ever came, of any name.
type inbox struct {
	signals   [len(messages)]workflow.ReceiveChannel
	told      workflow.ReceiveChannel // to look into the ledger
	cancelled workflow.Context        // when somebody cancels the workflow in Temporal
	listening bool                    // a coroutine takes the signals
	looking   bool                    // one looks
	hearing   workflow.Mutex
	waiting   int // messages that somebody holds and that aren't answered yet
	heard     int
	looks     int // into the ledger
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

// message is one message to a request.
type message struct {
	name string
	access.Statement
	odd *access.Error // why it is no statement, whose payload is all of it then
}

// next takes the signal that is to be heard next.
func (b *inbox) next() (m message, ok bool) {
	for i, signals := range b.signals {
		var data json.RawMessage
		if signals.ReceiveAsync(&data) { // in an encoding nobody can read, it is dropped and logged by the SDK
			return read(messages[i], data), true
		}
	}
	return message{}, false
}

// read reads a signal. One that is no statement is put on record as it is.
func read(name string, data []byte) message {
	st, err := statement.ParseEnvelope(data)
	if err == nil {
		return message{name: name, Statement: st}
	}
	m := message{name: name, Statement: access.Statement{Payload: strings.ToValidUTF8(string(data), "\uFFFD")}}
	_ = errors.As(err, &m.odd) // ParseEnvelope has no others
	return m
}

// listen opens the inbox for whatever comes from outside.
func (r *request) listen(ctx workflow.Context) error {
	r.inbox.cancelled, r.inbox.told = ctx, workflow.GetSignalChannel(ctx, access.MessageLook)
	r.inbox.hearing = workflow.NewMutex(ctx)
	for i, name := range messages {
		r.inbox.signals[i] = workflow.GetSignalChannel(ctx, name)
		err := workflow.SetUpdateHandlerWithOptions(ctx, name,
			func(ctx workflow.Context, data json.RawMessage) (access.Status, error) {
				var st access.Statement
				_ = json.Unmarshal(data, &st) // glance has read it more strictly
				return r.answer(ctx, message{name: name, Statement: st})
			},
			workflow.UpdateHandlerOptions{
				Description: "a signed " + name,
				Validator:   func(data json.RawMessage) error { return r.glance(name, data) },
			})
		if err != nil {
			return fmt.Errorf("set update handler %s: %w", name, err)
		}
	}
	return nil
}

// comes says whether something has come from outside that nobody sees to yet.
func (r *request) comes() bool { return r.toLook() || r.toHear() || r.gone() }

func (r *request) toLook() bool {
	return !r.inbox.looking && r.inbox.looks < maxLooks && r.inbox.told.Len() > 0
}
func (r *request) toHear() bool { return !r.inbox.listening && r.inbox.signalled() }
func (r *request) gone() bool   { return r.inbox.cancelled.Err() != nil && r.end == nil }

// see has what has come seen to, by coroutines of its own, which end with that: one
// is a goroutine, whose stack a worker keeps for every request in its memory.
func (r *request) see(ctx workflow.Context) {
	if r.toLook() {
		r.inbox.looking = true
		workflow.Go(ctx, func(ctx workflow.Context) {
			r.look(ctx)
			r.inbox.looking = false
		})
	}
	if r.toHear() {
		r.inbox.listening = true
		workflow.Go(ctx, func(ctx workflow.Context) {
			for r.hearSignal(ctx) {
			}
			r.inbox.listening = false
		})
	}
	if r.gone() {
		r.withdraw()
	}
}

// hearSignal hears the signal that is to be heard next, if there is one.
func (r *request) hearSignal(ctx workflow.Context) bool {
	m, ok := r.inbox.next()
	if !ok {
		return false
	}
	if refusal := r.hear(ctx, m); refusal != nil {
		workflow.GetLogger(ctx).Warn("signal refused", "request", r.status.ID, "message", m.name, "code", refusal.Code, "why", refusal.Message)
	}
	return true
}

// look looks into the ledger as often as it is told to: a grant ends with one that it
// extends, or that extends it. Whoever sends that learns nothing and changes
// nothing by it.
func (r *request) look(ctx workflow.Context) {
	for r.inbox.looks < maxLooks && r.inbox.told.ReceiveAsync(nil) {
		if !r.handed || r.end != nil {
			continue
		}
		r.inbox.looks++
		var state access.State
		_ = local(ctx, "look whether it has ended", hallpass.Look, r.status.ID, &state) // has no refusals
		if state != "" {
			r.stop(audit.End{State: state, Why: string(state) + " beside it, or with another grant of the same row of extensions"})
		}
	}
}

// glance refuses an update on sight, at no cost: nothing of it is in the
// history, and nothing in the audit log. So it refuses only what no signer can
// be held to, or what is too late to matter.
func (r *request) glance(name string, data []byte) error {
	st, err := statement.ParseEnvelope(data)
	switch {
	case err != nil:
		return activities.Fail(err)
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
func (r *request) answer(ctx workflow.Context, m message) (access.Status, error) {
	ctx, _ = workflow.NewDisconnectedContext(ctx)
	if refusal := r.hear(ctx, m); refusal != nil {
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
func (r *request) hear(ctx workflow.Context, m message) *access.Error {
	r.inbox.waiting++
	defer func() { r.inbox.waiting-- }()
	_ = r.inbox.hearing.Lock(ctx) // the context is never cancelled
	defer r.inbox.hearing.Unlock()
	_ = workflow.Await(ctx, func() bool { return r.decided })

	refusal := r.weigh(ctx, m)
	if refusal != nil {
		r.status.Refused++
	}
	return refusal
}

func (r *request) weigh(ctx workflow.Context, m message) *access.Error {
	if r.inbox.heard >= maxMessages {
		return tooMany()
	}
	r.inbox.heard++
	in := activities.HearInput{Message: m.name, Statement: m.Statement, Evidence: r.status.Evidence, Refused: r.late(m.name), Stopped: r.stopped(m.name)}
	if m.odd != nil {
		in.Refused = m.odd
	}
	if due := r.status.Deadline; due != nil && r.status.State == access.StatePending && !workflow.Now(ctx).Before(*due) {
		in.Deadline = due
	}
	var out activities.HearOutput
	if err := local(ctx, "check "+m.name, hallpass.Hear, in, &out); err != nil {
		return activities.Refusal(err)
	}
	if late := r.late(m.name); late != nil {
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
	return out.Refused // an approval that isn't needed; the request goes on without it
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
	return access.Errorf(access.CodeDeaf, "the request has had %d messages and hears no more", maxMessages)
}
