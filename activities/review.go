package activities

import (
	"context"
	"fmt"

	"hallpass/access"
	"hallpass/audit"
	"hallpass/policy"
)

// Review judges a review statement by the rulebook of this moment and records
// it. A refusal is recorded.
func (a *Activities) Review(ctx context.Context, st access.Statement) (access.ReviewTask, error) {
	task, err := a.Log.Review(ctx, a.Rulebook(), st, a.Now())
	if err != nil {
		return access.ReviewTask{}, a.refuse(ctx, string(access.TypeReview), st, err)
	}
	return task, nil
}

// ReviewingOutput is how a review stands.
type ReviewingOutput struct {
	access.ReviewTask
	Notify bool `json:"notify,omitempty"` // there are channels to tell
}

// Reviewing looks how the review of a request stands. That there is none is its
// only refusal.
func (a *Activities) Reviewing(ctx context.Context, request string) (ReviewingOutput, error) {
	task, err := a.Log.Reviewed(ctx, request)
	return ReviewingOutput{task, a.Channels != nil}, Fail(err)
}

// Overdue records, once, that the time for the review of a request is over,
// if by the record it is: nothing that its caller says is taken for true. It
// has no refusals.
func (a *Activities) Overdue(ctx context.Context, request string) error {
	task, found, err := a.Log.ReviewTask(ctx, request)
	if err != nil || !found || !task.Overdue(a.Now()) {
		return again(err)
	}
	_, err = a.Log.Append(ctx, audit.Event{
		Type: audit.ReviewOverdue, Request: task.Request, RequestHash: task.Statement.Hash(), Step: "overdue",
		Requester: task.Requester, Resource: task.Resource,
		Why: fmt.Sprintf("not signed off within %s; missing: %s", task.Emergency.Within, missing(task)),
	})
	return again(err)
}

func missing(task access.ReviewTask) string {
	return policy.DescribeReview(task.Missing)
}

// Reviews lists the reviews that aren't done, oldest first and at most limit of
// them. It has no refusals.
func (a *Activities) Reviews(ctx context.Context, limit int) ([]access.ReviewTask, error) {
	tasks, err := a.Log.OpenReviews(ctx, limit)
	return tasks, again(err)
}
