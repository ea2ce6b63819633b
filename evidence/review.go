package evidence

import (
	"slices"
	"time"

	"hallpass/access"
	"hallpass/policy"
	"hallpass/statement"
)

// CheckReview checks a review statement that is new to the task it is about:
// whether its signer is one of those who have to look at the access, which is
// never who took it, and hasn't signed before.
func (r *Rulebook) CheckReview(task access.ReviewTask, st access.Statement, now time.Time) (access.Review, access.User, error) {
	fail := func(err error) (access.Review, access.User, error) { return access.Review{}, access.User{}, err }
	review, user, err := statement.OpenReview(st, r.Directory)
	if err != nil {
		return fail(err)
	}
	switch {
	case review.Request != task.Request || review.RequestHash != task.Statement.Hash():
		return fail(mismatch(access.TypeReview))
	case user.Name == task.Requester:
		return fail(access.Errorf(access.CodeForbidden, "nobody reviews what he did himself"))
	}
	if err := checkTime("review", review.Time, task.Granted, now); err != nil {
		return fail(err)
	}
	if lock, locked := r.lockOn(user.Name, access.Resource{}, now); locked {
		return fail(access.Errorf(access.CodeForbidden, "%s, so his word doesn't count", lock.Why()))
	}
	if !policy.Eligible(task.Emergency.Review, policy.Voter{User: user}) {
		ruling := access.Ruling{Needs: task.Emergency.Review}
		return fail(access.Errorf(access.CodeForbidden, "%s is in none of the groups that review this: %s", user.Name, policy.DescribeReview(policy.Missing(ruling.Needs, 0, nil))))
	}
	if slices.ContainsFunc(task.Signed, func(v access.Voice) bool { return v.Signer == user.Name }) {
		return fail(access.Errorf(access.CodeDuplicate, "%s has signed it off already", user.Name))
	}
	if task.Done {
		return fail(access.Errorf(access.CodeEnded, "the review is done"))
	}
	return review, user, nil
}
