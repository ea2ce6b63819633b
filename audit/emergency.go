package audit

import (
	"context"
	"fmt"
	"strings"
	"time"

	"hallpass/access"
	"hallpass/evidence"
	"hallpass/policy"
	"hallpass/statement"
)

// Steps of what follows from an access by break-glass.
const (
	emergencyStep = "emergency"
	overdueStep   = "overdue"
	reviewedStep  = "reviewed"
	reviewPrefix  = "review:" // of the opened task, which is about no request, and of each statement
)

// openReviews finds the tasks that aren't done by the index on steps, as
// lockSteps does.
const openReviews = `events INDEXED BY events_step WHERE request = '' AND step >= 'review:' AND step < 'review;' AND step <> ''
	AND NOT EXISTS (SELECT 1 FROM events d WHERE d.request = substr(events.step, 8) AND d.step = 'reviewed' AND d.step <> '')`

// broke records, with the credential, that somebody broke the glass, and opens
// the review of it.
func (t *tx) broke(issued Event) error {
	em := issued.Ruling.Emergency
	e := Event{
		Type: EmergencyGranted, Time: issued.Time, Request: issued.Request, RequestHash: issued.RequestHash, Step: emergencyStep,
		Actor: issued.Requester, Requester: issued.Requester, Resource: issued.Resource, Ruling: issued.Ruling,
		Why: fmt.Sprintf("BREAK-GLASS: %s has %s without approval; it has to be signed off within %s by %s",
			issued.Requester, issued.Resource, em.Within, reviewers(em.Review)),
	}
	if _, err := t.append(e); err != nil {
		return err
	}
	e.Type, e.Request, e.RequestHash, e.Step, e.Actor = ReviewOpened, "", "", reviewPrefix+issued.Request, ""
	_, err := t.append(e)
	return err
}

// reviewers says for people who has to sign it off.
func reviewers(needs []access.Need) string {
	var parts []string
	for _, s := range policy.Missing(needs, 0, nil) {
		parts = append(parts, fmt.Sprintf("%d of %s", s.Count, strings.Join(s.Groups, " or ")))
	}
	return strings.Join(parts, " and ")
}

// overdue finds a review of what the requester did that should have been done.
func (t counting) overdue(requester string, now time.Time) (request string, due time.Time, err error) {
	err = t.read(func(row scanner) error {
		var leaf []byte
		if err := row.Scan(&leaf); err != nil {
			return err
		}
		e, err := ParseEvent(leaf)
		if err != nil || e.Ruling == nil || e.Ruling.Emergency == nil {
			return broken("the task %s of a review can't be read", clip(e.Step))
		}
		if at := e.Time.Add(e.Ruling.Emergency.Within.Duration()); !now.Before(at) && (request == "" || at.Before(due)) {
			request, due = strings.TrimPrefix(e.Step, reviewPrefix), at
		}
		return nil
	}, "SELECT leaf FROM "+openReviews+" AND requester = ?", requester)
	return request, due, err
}

// ReviewTask reads how the review of an access by break-glass stands, false if
// the request isn't one that was granted.
func (r *Reader) ReviewTask(ctx context.Context, request string) (task access.ReviewTask, found bool, err error) {
	if request == "" {
		return task, false, nil
	}
	task.Request = request
	var voters []policy.Voter
	var day heard
	all, err := r.all(ctx, Query{Request: request})
	if err != nil {
		return task, false, err
	}
	for _, rec := range all {
		switch e := rec.Event; e.Type {
		case CredentialIssued:
			task.Statement = e.Evidence.Request
		case EmergencyGranted:
			if e.Ruling == nil || e.Ruling.Emergency == nil {
				return task, false, broken("event %d says nothing of an emergency", rec.Index)
			}
			found = true
			task.Requester, task.Resource, task.Granted, task.Emergency = e.Requester, e.Resource, e.Time, *e.Ruling.Emergency
			task.Due = e.Time.Add(task.Emergency.Within.Duration())
		case ReviewSigned:
			book, err := day.bookOf(ctx, r.db, &e)
			if err != nil {
				return task, false, err
			}
			voice, user, err := reviewOf(book, task, &e)
			if err != nil {
				return task, false, broken("event %d: %v", rec.Index, err)
			}
			task.Signed, voters = append(task.Signed, voice), append(voters, policy.Voter{User: user})
		case ReviewDone:
			task.Done = true
		}
	}
	if !task.Done {
		task.Missing = policy.Missing(task.Emergency.Review, 0, voters)
	}
	return task, found, nil
}

// reviewOf reads a review that is on record, by the files of its day.
func reviewOf(book *evidence.Rulebook, task access.ReviewTask, e *Event) (access.Voice, access.User, error) {
	if e.Statement == nil {
		return access.Voice{}, access.User{}, fmt.Errorf("the review is missing in it")
	}
	review, user, err := book.CheckReview(task, *e.Statement, e.Time)
	switch {
	case err != nil:
		return access.Voice{}, access.User{}, fmt.Errorf("the review: %w", err)
	case e.Actor != user.Name || e.Step != reviewPrefix+user.Name:
		return access.Voice{}, access.User{}, fmt.Errorf("the review is %s's, not %s's", user.Name, clip(e.Actor))
	}
	return access.Voice{Signer: user.Name, Verdict: access.Approve, Comment: review.Comment, Time: review.Time}, user, nil
}

// Review judges a review statement by the rulebook, at now and under the locks
// there are, and records it. Saying it again changes nothing.
//
// Whether it is done already is looked at in the transaction that records the
// statement: nothing is signed off past the end.
//
// Errors: those of evidence.Rulebook.CheckReview; CodeNotFound if the request
// isn't an access by break-glass.
func (l *Log) Review(ctx context.Context, book *evidence.Rulebook, st access.Statement, now time.Time) (access.ReviewTask, error) {
	none := access.ReviewTask{}
	said, user, err := statement.OpenReview(st, book.Directory)
	if err != nil {
		return none, err
	}
	locks, err := l.Locks(ctx)
	if err != nil {
		return none, access.Errorf(access.CodeUnavailable, "find out what is locked: %v", err)
	}
	task, found, err := l.ReviewTask(ctx, said.Request)
	switch {
	case err != nil:
		return none, access.Errorf(access.CodeUnavailable, "read the review: %v", err)
	case !found:
		return none, access.Errorf(access.CodeNotFound, "request %s is no access by break-glass", said.Request).WithHint("hallpass reviews")
	}
	now = now.UTC().Truncate(time.Millisecond) // as the event will have it
	step := reviewPrefix + user.Name
	if _, _, err := book.Under(locks.Held).CheckReview(task, st, now); err != nil {
		before, _ := l.all(ctx, Query{Request: said.Request, step: step})
		for _, rec := range before {
			if rec.Event.Statement != nil && rec.Event.Statement.Payload == st.Payload {
				return l.Reviewed(ctx, said.Request)
			}
		}
		return none, err
	}
	digests := book.Digests()
	signed := Event{
		Type: ReviewSigned, Time: now, Request: said.Request, RequestHash: task.Statement.Hash(), Step: step, Actor: user.Name,
		Requester: task.Requester, Resource: task.Resource, Statement: &st, Digests: &digests, Why: "signed off by " + user.Name,
	}
	_, err = update(ctx, l, func(t *tx) (struct{}, error) {
		// Somebody else may have been the last one meanwhile.
		done, err := t.at(slot{said.Request, reviewedStep})
		if err != nil {
			return struct{}{}, err
		}
		own, err := t.at(slot{said.Request, step})
		if err != nil || done.found && own.found {
			return struct{}{}, err
		}
		if done.found {
			return struct{}{}, access.Errorf(access.CodeEnded, "the review is done")
		}
		_, err = t.append(signed)
		return struct{}{}, err
	}, slot{said.Request, reviewedStep}, slot{said.Request, step})
	if err != nil {
		return none, err
	}
	return l.Reviewed(ctx, said.Request)
}

// Reviewed reads how a review stands, and records it if it is done (review.done):
// whoever signs last, and whoever looks later, sees that nobody is missing.
func (l *Log) Reviewed(ctx context.Context, request string) (access.ReviewTask, error) {
	task, found, err := l.ReviewTask(ctx, request)
	switch {
	case err != nil:
		return access.ReviewTask{}, err
	case !found:
		return access.ReviewTask{}, access.Errorf(access.CodeNotFound, "request %s is no access by break-glass", clip(request))
	case task.Done || len(task.Missing) > 0:
		return task, nil
	}
	var names []string
	for _, v := range task.Signed {
		names = append(names, v.Signer)
	}
	_, err = l.Append(ctx, Event{
		Type: ReviewDone, Request: request, RequestHash: task.Statement.Hash(), Step: reviewedStep,
		Requester: task.Requester, Resource: task.Resource, Why: "signed off by " + strings.Join(names, ", "),
	})
	task.Done = err == nil
	return task, err
}

// OpenReviews lists the reviews that aren't done, oldest first and at most
// limit of them.
func (r *Reader) OpenReviews(ctx context.Context, limit int) ([]access.ReviewTask, error) {
	ids, err := list(ctx, r.db, fmt.Sprintf("SELECT substr(step, 8) FROM %s ORDER BY step LIMIT %d", openReviews, limit))
	if err != nil {
		return nil, err
	}
	var tasks []access.ReviewTask
	for _, id := range ids {
		task, found, err := r.ReviewTask(ctx, id)
		if err != nil {
			return nil, err
		}
		if found && !task.Done {
			tasks = append(tasks, task)
		}
	}
	return tasks, nil
}

// glass is what a replay knows of one access by break-glass.
type glass struct {
	emergency *access.Emergency // as policy has it; nil: it is none
	task      *access.ReviewTask
	voters    []policy.Voter
}

// broke judges the events of an access by break-glass.
func (p *replay) broke(e *Event, s *story) error {
	switch e.Type {
	case EmergencyGranted:
		same, err := equalJSON(s.glass.emergency, e.Ruling.Emergency)
		if err != nil || !same || s.glass.emergency == nil || s.glass.task != nil {
			return fmt.Errorf("the credential before it isn't one of this emergency")
		}
		s.glass.task = &access.ReviewTask{
			Request: e.Request, Statement: s.request, Requester: s.requester, Granted: e.Time,
			Due: e.Time.Add(s.glass.emergency.Within.Duration()), Emergency: *s.glass.emergency,
		}
		p.counts.broke(s.glass.task)
	case ReviewSigned, ReviewDone, ReviewOverdue:
		task := s.glass.task
		if task == nil {
			return fmt.Errorf("the request is no access by break-glass")
		}
		if e.Type == ReviewSigned {
			book, err := p.rulebook(p.digests(e))
			if err != nil {
				return err
			}
			voice, user, err := reviewOf(book, *task, e)
			if err != nil {
				return err
			}
			p.report.Statements++
			task.Signed, s.glass.voters = append(task.Signed, voice), append(s.glass.voters, policy.Voter{User: user})
		}
		if missing := policy.Missing(task.Emergency.Review, 0, s.glass.voters); e.Type == ReviewDone && len(missing) > 0 {
			return fmt.Errorf("the review isn't done: it %s", "needs "+policy.Describe(missing))
		}
		if e.Type == ReviewDone {
			task.Done = true
			p.counts.reviewed(e.Request)
		}
	}
	return nil
}
