// Package activities is what the workflows do outside themselves: each one
// calls the part that knows (evidence, audit, grant), records what came of it,
// and says by its error whether that is final. Who gets in, and whose word counts,
// is decided there. What is refused here is what came to the wrong place, such as a
// request under another's workflow, and work for an issuer whose clock is wrong.
//
// Activities belong to the role "workflows" and run beside the workflow.
// Issuing belongs to the role "issuer" of one kind and runs on that kind's own
// queue, access.IssueQueue, in a process that may hold a key.
//
// All of them are safe to repeat, and are repeated: a worker may die after any
// line of them. What they record is recorded once. An error that isn't a
// refusal says "not now"; nobody's request ends by it. What is a refusal is
// decided by Fail alone.
package activities

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
	"go.temporal.io/sdk/activity"

	"hallpass/access"
	"hallpass/audit"
	"hallpass/evidence"
	"hallpass/grant"
	"hallpass/notify"
	"hallpass/policy"
	"hallpass/statement"
)

// Recorder is the part of audit.Log that the workflow's activities need.
type Recorder interface {
	// Receive records that a request was received and what is ruled on it, once, and
	// whether policy's limits leave room for it.
	Receive(ctx context.Context, in audit.Reception) error
	// Review judges a review statement and records it, once.
	Review(ctx context.Context, book *evidence.Rulebook, st access.Statement, now time.Time) (access.ReviewTask, error)
	// Reviewed says how a review stands.
	Reviewed(ctx context.Context, request string) (access.ReviewTask, error)
	// ReviewTask reads how a review stands, false if there is none.
	ReviewTask(ctx context.Context, request string) (access.ReviewTask, bool, error)
	// OpenReviews lists those that aren't done.
	OpenReviews(ctx context.Context, limit int) ([]access.ReviewTask, error)
	// Append records an event, once per request and step.
	Append(ctx context.Context, e audit.Event) (int64, error)
	// Entry is what the ledger holds of a request, false if nothing.
	Entry(ctx context.Context, request string) (audit.Entry, bool, error)
	// End records that a request has ended, once, and bars its issue for ever.
	End(ctx context.Context, e audit.End) (audit.Entry, error)
	// Received is when a request was first heard of, false if it never was.
	Received(ctx context.Context, request string) (time.Time, bool, error)
	// Asked is a request as it was received, false if it never was.
	Asked(ctx context.Context, request string) (access.Statement, bool, error)
	// Extended is what is on record of a grant, false if the request has none.
	Extended(ctx context.Context, request string) (access.Extended, bool, error)
	// Past is what is on record of the requester's earlier requests.
	Past(ctx context.Context, requester, resource, request string) (access.Past, error)
	// Lock judges a lock statement and records it, once.
	Lock(ctx context.Context, book *evidence.Rulebook, st access.Statement, now time.Time) (access.Lock, error)
	// Locks says what is locked.
	Locks(ctx context.Context) (audit.Locks, error)
	// Delegate judges a delegation statement and records it, once.
	Delegate(ctx context.Context, book *evidence.Rulebook, st access.Statement, now time.Time) (access.Delegation, error)
	// Delegations says what is delegated.
	Delegations(ctx context.Context) (evidence.Delegations, error)
	// Live lists requests that haven't ended.
	Live(ctx context.Context, requester string, resources []string, after string, limit int) ([]access.Live, error)
	// OpenGrants lists the handles of those that the ledger has.
	OpenGrants(ctx context.Context, after string, limit int) ([]access.Handle, error)
	// Orphan records that nothing runs for an open grant, and says whether it
	// still is open.
	Orphan(ctx context.Context, request, why string) (bool, error)
}

// Activities are the activities of the workflow worker. They need no key: they
// advise the workflow, and the issuer judges for itself.
type Activities struct {
	Rulebook func() *evidence.Rulebook
	Log      Recorder
	MinGrant time.Duration    // the shortest grant; zero is access.MinGrant
	Lookups  evidence.Lookups // nil: there are none
	Now      func() time.Time

	// For sweeps: who says what runs, and how old a grant has to be for that
	// to count.
	Temporal Temporal
	Grace    time.Duration
	Channels *notify.Channels // nil: nobody is told of anything
}

// DecideOutput is the first ruling, and for those who are asked what there was
// before.
type DecideOutput struct {
	access.Standing
	Past   *access.Past `json:"past,omitempty"`
	Notify bool         `json:"notify,omitempty"` // there are channels to tell
}

// Decide judges a new request by the rulebook of this moment, and records the
// request and the ruling. That policy says no is not an error: the standing
// says so. A refusal means that nothing in the submission can be relied on,
// not even its id, or that the request has ended before.
func (a *Activities) Decide(ctx context.Context, in access.Submission) (DecideOutput, error) {
	known, err := a.extending(ctx, in.Request)
	if err != nil {
		return DecideOutput{}, err
	}
	locks, err := a.Log.Locks(ctx)
	if err != nil {
		return DecideOutput{}, again(err)
	}
	now := a.Now()
	book := a.Rulebook().Under(locks.Held).Informed(ctx, a.Lookups, in.Request, now)
	standing, err := book.Judge(access.Evidence{Request: in.Request}, now, known)
	if err != nil {
		return DecideOutput{}, a.refuse(ctx, string(access.TypeRequest), in.Request, err)
	}
	request := standing.Request
	// The workflow's id is what keeps a request from running twice at a time.
	if id := activity.GetInfo(ctx).WorkflowExecution.ID; id != access.WorkflowID(request.ID) {
		err := access.Errorf(access.CodeMismatch, "request %s can't run as workflow %q", request.ID, id)
		return DecideOutput{}, a.refuse(ctx, string(access.TypeRequest), in.Request, err)
	}
	entry, _, err := a.Log.Entry(ctx, request.ID)
	if err != nil {
		return DecideOutput{}, again(err)
	}
	if entry.Ended != "" {
		err := access.Errorf(access.CodeEnded, "request %s has ended before: %s", request.ID, entry.Ended)
		return DecideOutput{}, a.refuse(ctx, string(access.TypeRequest), in.Request, err)
	}

	standing, code := evidence.Bar(standing, nil, now)
	received := audit.Event{
		Request: request.ID, RequestHash: in.Request.Hash(), Actor: request.Signer, Requester: request.Signer, Resource: request.Resource,
		Statement: &in.Request, Digests: &standing.Ruling.Digests,
	}
	limited := a.Log.Receive(ctx, audit.Reception{
		Event: received, Ruling: standing.Ruling, Later: request.Start != nil && request.Start.After(a.Now()), Locks: locks.Words,
		Code: code, Why: standing.Why, Denied: standing.Effect == access.EffectDeny,
	})
	switch access.CodeOf(limited) {
	case access.CodeLimited:
		standing, _ = evidence.Bar(standing, limited, now)
	case access.CodeMismatch:
		return DecideOutput{}, a.refuse(ctx, string(access.TypeRequest), in.Request, limited)
	default:
		if limited != nil {
			return DecideOutput{}, again(limited)
		}
	}
	out := DecideOutput{Standing: standing, Notify: a.Channels != nil}
	if standing.Effect == access.EffectAsk {
		past, err := a.Log.Past(ctx, request.Signer, request.Resource, request.ID)
		if err != nil {
			return DecideOutput{}, again(err)
		}
		out.Past = &past
	}
	return out, nil
}

// HearInput is one message on one request.
type HearInput struct {
	Message   string           `json:"message"` // its name, access.MessageDecision and so on
	Statement access.Statement `json:"statement"`
	Evidence  access.Evidence  `json:"evidence"` // the request, and the decisions that count so far

	// Deadline is set once the time for approvals is over: what was signed
	// after it comes too late, what was only delivered after it does not.
	Deadline *time.Time `json:"deadline,omitempty"`
	// Stopped is how the request ends if the message stops it.
	Stopped access.State `json:"stopped,omitempty"`
	// Refused is set if the workflow refuses the message, whatever it says:
	// Hear then just records that.
	Refused *access.Error `json:"refused,omitempty"`
}

// HearOutput is what came of a message that was accepted: a decision's new
// standing and evidence, or a stop; a lock is one. Or of an approval that was
// refused because none is needed any more: how the request stands without it.
type HearOutput struct {
	Standing access.Standing `json:"standing,omitzero"`
	Evidence access.Evidence `json:"evidence,omitzero"`
	Stop     *access.Stop    `json:"stop,omitempty"`
	Digests  *access.Digests `json:"digests,omitempty"` // the files that the stop was checked by
	Refused  *access.Error   `json:"refused,omitempty"` // why the approval was
}

// End is the end that an accepted message brings, nil if the request goes on.
func (o HearOutput) End(in HearInput) *audit.End {
	switch {
	case o.Stop != nil:
		return &audit.End{
			Request: o.Stop.Request, State: in.Stopped, By: o.Stop.Signer, Why: Because(*o.Stop), Statement: &in.Statement, Digests: o.Digests,
		}
	case o.Standing.Effect == access.EffectDeny:
		// What denies is the message itself: Hear takes no other in that case.
		return &audit.End{
			Request: o.Standing.Request.ID, State: access.StateDenied, By: denier(o.Standing.Voices), Why: o.Standing.Why,
			Statement: &in.Statement, Digests: &o.Standing.Ruling.Digests,
		}
	}
	return nil
}

// Because is the line about a stop, for people.
func Because(stop access.Stop) string {
	why := fmt.Sprintf("%s by %s", map[access.Type]string{
		access.TypeCancel: "cancelled", access.TypeRelease: "released", access.TypeRevoke: "revoked", access.TypeLock: "locked",
	}[stop.Type], stop.Signer)
	if stop.Reason != "" {
		why += ": " + stop.Reason
	}
	return why
}

// denier is whose denial came last: the one that was one too many.
func denier(voices []access.Voice) string {
	for _, voice := range slices.Backward(voices) {
		if voice.Verdict == access.Deny {
			return voice.Signer
		}
	}
	return ""
}

// Hear judges one message and records the decision that counts, the end that a
// denial or a stop brings, or the refusal.
//
// A word that ends the request ends it in the ledger before Hear returns. From
// then on nobody who carries the evidence can leave that word out: neither a
// worker that forgets it nor an operator who resets the workflow to before it.
func (a *Activities) Hear(ctx context.Context, in HearInput) (HearOutput, error) {
	book, err := a.delegated(ctx)
	if err != nil {
		return HearOutput{}, err
	}
	known, err := a.waiting(ctx, in.Evidence)
	if err != nil {
		return HearOutput{}, err
	}
	if in.Message == access.MessageDecision && in.Refused == nil {
		book = book.Informed(ctx, a.Lookups, in.Evidence.Request, a.Now())
	}
	out, signer, err := a.hear(book, in, known)
	if err != nil {
		failure := a.refuse(ctx, in.Message, in.Statement, err)
		if out.Refused = Refusal(failure); out.Refused != nil && out.Standing.Effect == access.EffectAllow {
			return out, nil
		}
		return HearOutput{}, failure
	}
	if end := out.End(in); end != nil {
		entry, err := a.Log.End(ctx, *end)
		switch {
		case err != nil:
			return HearOutput{}, again(err)
		case entry.Ended != end.State:
			err := access.Errorf(access.CodeEnded, "request %s has ended before: %s", end.Request, entry.Ended)
			return HearOutput{}, a.refuse(ctx, in.Message, in.Statement, err)
		}
		return out, nil
	}
	_, err = a.Log.Append(ctx, audit.Event{
		Type:        audit.DecisionAccepted,
		Request:     out.Standing.Request.ID,
		RequestHash: in.Evidence.Request.Hash(),
		Step:        "decision:" + fingerprint(in.Statement),
		Actor:       signer,
		Requester:   out.Standing.Request.Signer,
		Resource:    out.Standing.Request.Resource,
		Statement:   &in.Statement,
		Why:         out.Standing.Why,
		Digests:     &out.Standing.Ruling.Digests,
	})
	if err != nil {
		return HearOutput{}, again(err)
	}
	return out, nil
}

// delegated is the rulebook of this moment, under the locks and with the delegations of
// this moment.
func (a *Activities) delegated(ctx context.Context) (*evidence.Rulebook, error) {
	locks, err := a.Log.Locks(ctx)
	if err != nil {
		return nil, again(err)
	}
	given, err := a.Log.Delegations(ctx)
	return a.Rulebook().Under(locks.Held).Through(given), again(err)
}

// waiting is what is known of a request that may have waited.
func (a *Activities) waiting(ctx context.Context, ev access.Evidence) (evidence.Known, error) {
	known, err := a.extending(ctx, ev.Request)
	if err != nil {
		return known, err
	}
	request, err := statement.ParseRequest([]byte(ev.Request.Payload))
	if err != nil {
		return known, nil // whoever judges it will say so
	}
	received, found, err := a.Log.Received(ctx, request.ID)
	if err != nil {
		return known, again(err)
	}
	if known.Asked = received; !found {
		known.Asked = a.Now()
	}
	return known, nil
}

// extending is what is known of a request: of the grant that it extends, if it does,
// what is on record.
func (a *Activities) extending(ctx context.Context, st access.Statement) (evidence.Known, error) {
	known := evidence.Known{MinGrant: a.MinGrant}
	request, err := statement.ParseRequest([]byte(st.Payload))
	if err != nil || request.Extends == "" {
		return known, nil // whoever judges it will say so
	}
	x, found, err := a.Log.Extended(ctx, request.Extends)
	if found {
		known.Extends = &x
	}
	return known, again(err)
}

// EscalateInput is a request that nobody has decided on for so long.
type EscalateInput struct {
	Evidence access.Evidence `json:"evidence"`
	After    access.Seconds  `json:"after"` // the step of the escalation
}

// EscalateOutput is how the request stands now that others may decide, and who
// they are: nobody, if policy has no such step any more.
type EscalateOutput struct {
	Standing access.Standing `json:"standing"`
	Asked    *access.Asking  `json:"asked,omitempty"`
}

// Escalate records who is asked from now on, once for each step. Whether the
// step was reached is judged again with each decision: this only tells.
func (a *Activities) Escalate(ctx context.Context, in EscalateInput) (EscalateOutput, error) {
	book, err := a.delegated(ctx)
	if err != nil {
		return EscalateOutput{}, err
	}
	known, err := a.waiting(ctx, in.Evidence)
	if err != nil {
		return EscalateOutput{}, err
	}
	now := a.Now()
	if reached := known.Asked.Add(in.After.Duration()); now.Before(reached) {
		now = reached // by less than it takes to record a request
	}
	standing, err := book.Informed(ctx, a.Lookups, in.Evidence.Request, now).Judge(in.Evidence, now, known)
	if err != nil {
		return EscalateOutput{}, Fail(err)
	}
	out := EscalateOutput{Standing: standing}
	for _, step := range policy.Steps(standing.Ruling.Needs, policy.Ever) {
		if step.After == in.After && standing.Effect == access.EffectAsk {
			out.Asked = &access.Asking{Step: step, Time: now.UTC().Truncate(time.Second)}
		}
	}
	if out.Asked == nil {
		return out, nil
	}
	request := standing.Request
	_, err = a.Log.Append(ctx, audit.Event{
		Type:        audit.RequestEscalated,
		Request:     request.ID,
		RequestHash: in.Evidence.Request.Hash(),
		Step:        "escalated:" + in.After.String(),
		Requester:   request.Signer,
		Resource:    request.Resource,
		Asked:       out.Asked,
		Why:         fmt.Sprintf("after %s without an answer: %s", in.After, standing.Why),
		Digests:     &standing.Ruling.Digests,
	})
	return out, again(err)
}

// hear judges one message. An approval that isn't needed any more is refused
// with how the request stands without it; all else that is refused has none.
func (a *Activities) hear(book *evidence.Rulebook, in HearInput, known evidence.Known) (out HearOutput, signer string, err error) {
	if in.Refused != nil {
		return out, "", in.Refused
	}
	now, digests := a.Now(), book.Digests()
	if in.Message == access.MessageLock {
		lock, err := book.CheckLocked(in.Evidence.Request, in.Statement, now)
		if err != nil {
			return out, "", err
		}
		request, err := statement.ParseRequest([]byte(in.Evidence.Request.Payload))
		stop := access.Stop{Header: lock.Header, Request: request.ID, RequestHash: in.Evidence.Request.Hash(), Reason: lock.Reason}
		return HearOutput{Stop: &stop, Digests: &digests}, lock.Signer, err
	}
	if in.Message != access.MessageDecision {
		stop, _, err := book.CheckStop(in.Evidence.Request, in.Statement, access.Type(in.Message), now)
		return HearOutput{Stop: &stop, Digests: &digests}, stop.Signer, err
	}
	out.Standing, out.Evidence, err = book.Hear(in.Evidence, in.Statement, now, known)
	unneeded := false
	if access.CodeOf(err) == access.CodeForbidden {
		if out.Standing, unneeded = book.Unneeded(in.Evidence, in.Statement, now, known); unneeded {
			out.Evidence = in.Evidence
		}
	}
	if err != nil && !unneeded {
		return HearOutput{}, "", err
	}
	decision, perr := statement.ParseDecision([]byte(in.Statement.Payload))
	if perr != nil {
		return HearOutput{}, "", perr
	}
	if in.Deadline != nil {
		if late := evidence.CheckDeadline(decision, *in.Deadline); late != nil {
			return HearOutput{}, "", late
		}
	}
	return out, decision.Signer, err
}

// Close ends a request that was never given to an issuer, so that no evidence
// can have it issued later. It has no refusals.
func (a *Activities) Close(ctx context.Context, end audit.End) error {
	_, err := a.Log.End(ctx, unspoken(end))
	return again(err)
}

// Look says how a request has ended in the ledger, "" if it hasn't. It has no
// refusals.
func (a *Activities) Look(ctx context.Context, request string) (access.State, error) {
	entry, _, err := a.Log.Entry(ctx, request)
	return entry.Ended, again(err)
}

// unspoken is an end on nobody's word. Hear has recorded those that somebody
// signed; whose word it is said to be here is hearsay from Temporal, and would
// stand in the record under a person's name.
func unspoken(end audit.End) audit.End {
	return audit.End{Request: end.Request, State: end.State, Why: end.Why}
}

// refuse records that a message changed nothing, and who signed it if somebody
// of the directory did, and passes the refusal on. A refusal that can't be
// recorded isn't one yet.
func (a *Activities) refuse(ctx context.Context, message string, st access.Statement, err error) error {
	failure := Fail(err)
	refusal := Refusal(failure)
	if refusal == nil {
		return failure
	}
	book := a.Rulebook()
	digests := book.Digests()
	author, _ := statement.Author(st, book.Directory)
	_, err = a.Log.Append(ctx, audit.Event{
		Type:      audit.StatementRefused,
		Request:   requestID(ctx),
		Step:      "refused:" + message + ":" + fingerprint(st),
		Actor:     author.Name,
		Code:      refusal.Code,
		Why:       refusal.Message,
		Statement: &st,
		Digests:   &digests,
	})
	if err != nil {
		return again(err)
	}
	return failure
}

// requestID is the request that the workflow is named after, or "" if it is
// named otherwise. Of a request that doesn't verify nothing else is known.
func requestID(ctx context.Context) string {
	id := access.RequestID(activity.GetInfo(ctx).WorkflowExecution.ID)
	if uuid.Validate(id) != nil {
		return ""
	}
	return id
}

// fingerprint tells statements apart by every byte of them; ids are their
// signers' choice.
func fingerprint(st access.Statement) string {
	sum := sha256.Sum256([]byte(st.Payload + "\x00" + st.Signature))
	return hex.EncodeToString(sum[:])
}

// Issuing are the activities of an issuer.
type Issuing struct {
	Issuer *grant.Issuer
	// Begun is when the work at hand was given out, by another clock than the
	// issuer's; nil: by that of Temporal's server.
	Begun func(context.Context) time.Time
}

// Issue has the issuer judge the evidence for itself and issue. Repeated, it
// gives the same credential. While clocks differ it says "not now".
func (i *Issuing) Issue(ctx context.Context, ev access.Evidence) (access.Credential, error) {
	if err := i.clocks(ctx); err != nil {
		return access.Credential{}, Fail(err)
	}
	credential, err := i.Issuer.Issue(ctx, ev)
	if err != nil {
		return access.Credential{}, Fail(err)
	}
	return credential, nil
}

// clocks keeps an issuer whose clock is wrong from issuing: what it made would
// work before it was to begin, or live past its end, and a lock could be over for
// it alone. Temporal has no say in what is issued; with another time than it is,
// it only delays, which it can anyway. Nothing is recorded: it isn't about the
// request.
func (i *Issuing) clocks(ctx context.Context) error {
	now, begun := time.Now, func(ctx context.Context) time.Time { return activity.GetInfo(ctx).StartedTime }
	if i.Issuer.Now != nil {
		now = i.Issuer.Now
	}
	if i.Begun != nil {
		begun = i.Begun
	}
	ours, theirs := now(), begun(ctx)
	if ours.Sub(theirs).Abs() <= access.ClockSkew {
		return nil
	}
	return access.Errorf(access.CodeUnavailable,
		"nothing is issued: by the issuer's clock it is %s, and Temporal gave this out at %s by its own, more than %s apart; set the clocks of both machines, such as by NTP",
		ours.UTC().Format(time.RFC3339), theirs.UTC().Format(time.RFC3339), access.ShortDuration(access.ClockSkew))
}

// Revoke ends a request that was given to the issuer, whatever became of it
// there: afterwards nothing of it lives, and nothing of it can be issued. It
// returns the ids of the requests that have ended with it, because they extend
// each other. It has no refusals.
func (i *Issuing) Revoke(ctx context.Context, end audit.End) (with []string, err error) {
	if err := i.Issuer.Revoke(ctx, unspoken(end)); err != nil {
		return nil, again(err)
	}
	if end.State != access.StateReleased && end.State != access.StateRevoked {
		return nil, nil
	}
	row, err := i.Issuer.Row(ctx, end.Request)
	for _, h := range row {
		with = append(with, h.Request)
	}
	return with, again(err)
}
