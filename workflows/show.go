package workflows

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"hallpass/access"
)

// What operators filter by. Temporal never encrypts it: names and times only.
var (
	attrRequester = temporal.NewSearchAttributeKeyKeyword(access.AttrRequester)
	attrResource  = temporal.NewSearchAttributeKeyKeyword(access.AttrResource)
	attrState     = temporal.NewSearchAttributeKeyKeyword(access.AttrState)
	attrApprovers = temporal.NewSearchAttributeKeyKeywordList(access.AttrApprovers)
	attrExpires   = temporal.NewSearchAttributeKeyTime(access.AttrExpires)
)

// enter moves the request to a state and shows it.
func (r *request) enter(ctx workflow.Context, state access.State) {
	r.status.State = state
	r.show(ctx)
}

// shown are the search attributes that Temporal has of a request.
type shown struct {
	state     access.State
	requester string
	resource  string
	approvers []string
	expires   time.Time
}

// show tells operators how the request stands, at the price of one event, of one write
// into what Temporal lists by, and of one action where that is billed: unless the search
// attributes say it already, as those that the request was started with mostly do while
// it is pending.
func (r *request) show(ctx workflow.Context) {
	workflow.SetCurrentDetails(ctx, r.details())
	if r.shown == nil {
		r.shown = startedWith(ctx)
	}
	is := *r.shown
	is.state = r.status.State
	attributes := []temporal.SearchAttributeUpdate{attrState.ValueSet(string(is.state))}
	if r.verified {
		is.requester, is.resource = r.status.Standing.Request.Signer, r.status.Standing.Request.Resource
		attributes = append(attributes, attrRequester.ValueSet(is.requester), attrResource.ValueSet(is.resource))
	}
	if names := r.approvers(func(v access.Voice) string { return v.Signer }); len(names) > 0 {
		is.approvers = names
		attributes = append(attributes, attrApprovers.ValueSet(names))
	}
	if r.status.Ends != nil {
		is.expires = *r.status.Ends
		attributes = append(attributes, attrExpires.ValueSet(is.expires))
	}
	if is.same(*r.shown) {
		return
	}
	if err := workflow.UpsertTypedSearchAttributes(ctx, attributes...); err != nil {
		workflow.GetLogger(ctx).Error("search attributes not set", "request", r.status.ID, "error", err)
		return
	}
	*r.shown = is
	// The SDK keeps them too, for a workflow that reads them or continues as new, as several
	// times as much as what is in them, until this goes away: for a grant that waits for
	// its end, and nothing but that. What else comes brings them back.
	//lint:ignore SA1019 what takes its place is made of it
	workflow.GetInfo(ctx).SearchAttributes = nil
}

// startedWith are those that a request was started with.
func startedWith(ctx workflow.Context) *shown {
	has := workflow.GetTypedSearchAttributes(ctx)
	state, _ := has.GetKeyword(attrState)
	requester, _ := has.GetKeyword(attrRequester)
	resource, _ := has.GetKeyword(attrResource)
	approvers, _ := has.GetKeywordList(attrApprovers)
	expires, _ := has.GetTime(attrExpires)
	return &shown{access.State(state), requester, resource, approvers, expires}
}

func (s shown) same(as shown) bool {
	return s.state == as.state && s.requester == as.requester && s.resource == as.resource && slices.Equal(s.approvers, as.approvers) && s.expires.Equal(as.expires)
}

// details is the request in Markdown, as the Temporal UI shows it. Like search
// attributes it holds names and times only: no reason, ticket or comment, and
// no line that could quote one. It is put together without fmt, whose stack the request's
// coroutine would keep.
func (r *request) details() string {
	if !r.verified {
		return "**" + string(r.status.State) + "** · the request could not be verified\n"
	}
	lines := []string{"**" + string(r.status.State) + "** · " + r.what() + "\n"}
	standing := &r.status.Standing
	if rules := standing.Ruling.Rules; len(rules) > 0 {
		lines = append(lines, "- rules: "+strings.Join(rules, ", "))
	}
	for i := range standing.Voices {
		voice, said := &standing.Voices[i], "approved"
		if voice.Verdict == access.Deny {
			said = "denied"
		}
		lines = append(lines, "- "+said+" by "+access.Who(voice.Signer, voice.For)+" at "+clock(voice.Time))
	}
	switch r.status.State {
	case access.StatePending:
		for i := range r.status.Escalated {
			asked := &r.status.Escalated[i]
			lines = append(lines, "- after "+asked.After.String()+" asked: "+strings.Join(slices.Concat(asked.Ask, asked.Notify), ", "))
		}
		for _, set := range standing.Missing {
			lines = append(lines, "- missing: "+strconv.Itoa(set.Count)+" from "+strings.Join(set.Groups, " or "))
		}
		if r.status.Deadline != nil {
			lines = append(lines, "- times out at "+clock(*r.status.Deadline))
		}
	case access.StateScheduled:
		lines = append(lines, "- starts at "+clock(*r.status.Starts))
	case access.StateIssuing:
		lines = append(lines, "- waits for an issuer on queue `"+access.IssueQueue(standing.Resource.Kind)+"`")
	case access.StateActive:
		lines = append(lines, "- ends at "+clock(*r.status.Ends))
		if over := r.status.Handle.Over(); over.After(*r.status.Ends) {
			lines = append(lines, "- open sessions may stay until "+clock(over))
		}
	}
	if handle := r.status.Handle; handle != nil && handle.Serial > 0 {
		lines = append(lines, "- serial "+strconv.FormatUint(handle.Serial, 10)+" of CA "+handle.CA)
	}
	if r.status.By != "" {
		lines = append(lines, "- ended by "+r.status.By)
	}
	return strings.Join(append(lines, ""), "\n")
}

// what is the request in a few words.
func (r *request) what() string {
	request := &r.status.Standing.Request
	return request.Resource + access.AsWhat(request.Login, request.Actions) + " for " + request.Signer + ", " + request.Duration.String()
}

// approvers are the people whose approvals count, in the order they gave them,
// each as name says.
func (r *request) approvers(name func(access.Voice) string) []string {
	var names []string
	for _, voice := range r.status.Standing.Voices {
		if voice.Verdict == access.Approve {
			names = append(names, name(voice))
		}
	}
	return names
}

// clock is not a part of those that call it, several of which do so often that it would
// double the stack that a request's coroutine keeps.
//
//go:noinline
func clock(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05 UTC") }
