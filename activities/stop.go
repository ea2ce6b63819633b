package activities

import (
	"context"
	"slices"

	"github.com/google/uuid"

	"hallpass/access"
	"hallpass/audit"
	"hallpass/statement"
)

// StopOutput is a grant that somebody's word has ended.
type StopOutput struct {
	End      audit.End `json:"end"`
	Kind     string    `json:"kind"` // of the resource
	Resource string    `json:"resource"`
}

// Stop judges a word that ends a grant, by what is on record of the request, and
// ends the request in the ledger. A refusal is recorded. A grant that the same
// word has ended before is ended again: Revoke may not have come to its end.
func (a *Activities) Stop(ctx context.Context, in access.Stopping) (out StopOutput, err error) {
	refuse := func(code access.Code, format string, args ...any) (StopOutput, error) {
		return StopOutput{}, a.refuse(ctx, in.Message, in.Statement, access.Errorf(code, format, args...))
	}
	if !slices.Contains([]string{access.MessageRelease, access.MessageRevoke, access.MessageCancel}, in.Message) {
		in.Message = "stop" // it becomes part of an event
		return refuse(access.CodeMalformed, "the message isn't %s, %s or %s", access.MessageRelease, access.MessageRevoke, access.MessageCancel)
	}
	if uuid.Validate(in.Request) != nil {
		return refuse(access.CodeMalformed, "%.40q is not a request's id", in.Request)
	}
	grant, found, err := a.Log.Extended(ctx, in.Request)
	if err != nil {
		return StopOutput{}, again(err)
	}
	if !found {
		return refuse(access.CodeNotFound, "there is no grant of such a request")
	}
	request, err := statement.ParseRequest([]byte(grant.Statement.Payload))
	if err != nil {
		return StopOutput{}, again(err) // what was granted on can be read
	}
	hear := HearInput{Message: in.Message, Statement: in.Statement, Evidence: access.Evidence{Request: grant.Statement}, Stopped: access.StateReleased}
	if in.Message == access.MessageRevoke {
		hear.Stopped = access.StateRevoked
	}
	heard, err := a.Hear(ctx, hear)
	if err != nil {
		return StopOutput{}, err
	}
	out = StopOutput{End: *heard.End(hear), Resource: request.Resource}
	out.Kind, _ = access.SplitResource(request.Resource)
	return out, nil
}
