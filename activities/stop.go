package activities

import (
	"context"
	"slices"

	"hallpass/access"
	"hallpass/audit"
	"hallpass/statement"
)

// StopOutput is a request that somebody's word has ended.
type StopOutput struct {
	End      audit.End `json:"end"`
	Kind     string    `json:"kind"` // of the resource
	Resource string    `json:"resource"`
}

// Stop judges a word that ends a request, by what is on record of that, and ends
// it in the ledger: nothing is issued on it from then on. A refusal is recorded.
// What the same word has ended before is ended again: Revoke may not have come to
// its end.
func (a *Activities) Stop(ctx context.Context, in access.Stopping) (out StopOutput, err error) {
	refuse := func(code access.Code, format string, args ...any) (StopOutput, error) {
		return StopOutput{}, a.refuse(ctx, in.Message, in.Statement, access.Errorf(code, format, args...))
	}
	if !slices.Contains([]string{access.MessageRelease, access.MessageRevoke, access.MessageCancel}, in.Message) {
		in.Message = "stop" // it becomes part of an event
		return refuse(access.CodeMalformed, "the message isn't %s, %s or %s", access.MessageRelease, access.MessageRevoke, access.MessageCancel)
	}
	if err := statement.CheckID(in.Request); err != nil {
		return refuse(access.CodeMalformed, "request: %v", err)
	}
	asked, found, err := a.Log.Asked(ctx, in.Request)
	if err != nil {
		return StopOutput{}, again(err)
	}
	if !found {
		return refuse(access.CodeNotFound, "there is no such request")
	}
	revoked, withdrawn := access.StateDenied, access.StateCancelled
	grant, granted, err := a.Log.Extended(ctx, in.Request)
	if err != nil {
		return StopOutput{}, again(err)
	}
	if granted {
		asked, revoked, withdrawn = grant.Statement, access.StateRevoked, access.StateReleased
	}
	request, err := statement.ParseRequest([]byte(asked.Payload))
	if err != nil {
		return StopOutput{}, again(err) // what is on record can be read
	}
	hear := HearInput{Message: in.Message, Statement: in.Statement, Evidence: access.Evidence{Request: asked}, Stopped: withdrawn}
	if in.Message == access.MessageRevoke {
		hear.Stopped = revoked
	}
	heard, err := a.Hear(ctx, hear)
	if err != nil {
		return StopOutput{}, err
	}
	out = StopOutput{End: *heard.End(hear), Resource: request.Resource}
	out.Kind, _ = access.SplitResource(request.Resource)
	return out, nil
}
