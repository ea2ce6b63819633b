package audit

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"hallpass/access"
	"hallpass/evidence"
	"hallpass/statement"
)

// delegations is what the delegation statements in the log add up to. Like
// locks they are in no table but in the events themselves, each judged again by
// the files of its day: an event that isn't signed by who is said to delegate
// gives nobody anything.
type delegations struct {
	held  evidence.Delegations // those that nobody has revoked; some may have ended by themselves
	words int64                // how many statements there are, the revoking ones too: the version of held
}

// hear takes in one delegation event. The book is the one of its day.
func (d *delegations) hear(book *evidence.Rulebook, e *Event) (access.Delegation, error) {
	if e.Statement == nil {
		return access.Delegation{}, errors.New("the delegation statement is missing in it")
	}
	x, user, err := book.Through(d.held).CheckDelegation(*e.Statement, e.Time)
	switch {
	case err != nil:
		return access.Delegation{}, fmt.Errorf("the delegation statement: %w", err)
	case e.Step != delegationStep(x) || e.Type != delegationType(x):
		return access.Delegation{}, fmt.Errorf("it is not in the place of the delegation %s", x.ID)
	case e.Actor != user.Name:
		return access.Delegation{}, fmt.Errorf("the delegation is %s's, not %s's", user.Name, clip(e.Actor))
	}
	d.held, d.words = d.held.After(x, *e.Statement, e.Time), d.words+1
	return x, nil
}

func delegationType(d access.Delegation) string {
	if d.Action == access.ActionRevoke {
		return DelegationRevoked
	}
	return DelegationGiven
}

// delegationStep is the step of a delegation statement's event: each is given
// once and revoked once.
func delegationStep(d access.Delegation) string {
	if d.Action == access.ActionRevoke {
		return "delegation:" + d.Delegation + ":revoked"
	}
	return "delegation:" + d.ID
}

// delegationSteps finds all of them, as lockSteps does.
const delegationSteps = "events INDEXED BY events_step WHERE request = '' AND step >= 'delegation:' AND step < 'delegation;' AND step <> ''"

// delegationCache is what a Reader has read of the delegations so far.
type delegationCache struct {
	mu sync.Mutex
	delegations
	heard
}

// Delegations reads those that nobody has revoked, oldest first; what has ended
// by itself may be among them. It reads only what is new since it was last
// called; what it returns is as of a moment within the call.
//
// An error that isn't CodeUnavailable means that the log has been tampered
// with.
func (r *Reader) Delegations(ctx context.Context) (evidence.Delegations, error) {
	d, err := r.delegated(ctx)
	return d.held, err
}

func (r *Reader) delegated(ctx context.Context) (delegations, error) {
	c := &r.delegations
	c.mu.Lock()
	defer c.mu.Unlock()
	err := c.read(ctx, r.db, "delegations", delegationSteps, func(book *evidence.Rulebook, e *Event) error {
		_, err := c.hear(book, e)
		return err
	})
	if err != nil {
		return delegations{}, err
	}
	return c.delegations, nil
}

// Delegate judges a delegation statement by the rulebook, at now, by the locks
// and the delegations there are, and records it: from then on it counts, or the
// delegation that it names counts no more. Saying it again changes nothing, and
// says the same.
//
// Errors: those of evidence.Rulebook.CheckDelegation; CodeDuplicate for another
// statement with the same id; CodeEnded for a delegation that is over; and
// CodeUnavailable, worth another try at once, if another was recorded meanwhile.
func (l *Log) Delegate(ctx context.Context, book *evidence.Rulebook, st access.Statement, now time.Time) (access.Delegation, error) {
	none := access.Delegation{}
	unavailable := func(err error) (access.Delegation, error) { // it is not this statement that is refused
		return none, access.Errorf(access.CodeUnavailable, "find out what is delegated: %v", err)
	}
	locks, err := l.Locks(ctx)
	if err != nil {
		return unavailable(err)
	}
	given, err := l.delegated(ctx)
	if err != nil {
		return unavailable(err)
	}
	now = now.UTC().Truncate(time.Millisecond) // as the event will have it
	d, user, err := book.Under(locks.Held).Through(given.held).CheckDelegation(st, now)
	if err != nil {
		if again, found, lerr := l.delegationSaid(ctx, st, now); lerr != nil || found {
			return again, lerr
		}
		return none, err
	}
	digests := book.Digests()
	e := Event{
		Type: delegationType(d), Time: now, Step: delegationStep(d), Actor: user.Name, Why: delegationWhy(d, given.held),
		Statement: &st, Digests: &digests,
	}
	said, err := update(ctx, l, func(t *tx) (bool, error) {
		if was, err := t.at(slot{"", e.Step}); was.found || err != nil {
			return was.found, err
		}
		if err := t.underLocks(locks.Words); err != nil {
			return false, err
		}
		var n int64
		if _, err := t.find([]any{&n}, "SELECT count(*) FROM "+delegationSteps); err != nil {
			return false, err
		}
		if n != given.words {
			return false, access.Errorf(access.CodeUnavailable, "something was delegated or revoked meanwhile; try again")
		}
		_, err := t.append(e)
		return false, err
	}, slot{"", e.Step})
	if err != nil || !said {
		return d, err
	}
	again, _, err := l.delegationSaid(ctx, st, now)
	return again, err
}

// delegationWhy is the line about the statement that people read.
func delegationWhy(d access.Delegation, given evidence.Delegations) string {
	why := d.Why()
	if g, ok := given.Find(d.Delegation); ok {
		why = fmt.Sprintf("%s decides in the place of %s no more, by %s", d.To, g.Delegation.Signer, d.Signer)
	}
	if d.Reason != "" {
		why += ": " + d.Reason
	}
	return why
}

// delegationSaid finds out whether a delegation statement was recorded before,
// and whether it still holds.
func (l *Log) delegationSaid(ctx context.Context, st access.Statement, now time.Time) (access.Delegation, bool, error) {
	d, err := statement.ParseDelegation([]byte(st.Payload))
	if err != nil {
		return access.Delegation{}, false, nil
	}
	before, err := l.all(ctx, Query{Type: delegationType(d), step: delegationStep(d)})
	if err != nil {
		return access.Delegation{}, false, err
	}
	if len(before) == 0 {
		return access.Delegation{}, false, nil
	}
	switch s := before[0].Event.Statement; {
	case s != nil && s.Payload == st.Payload:
	case d.Action == access.ActionRevoke:
		return access.Delegation{}, false, nil // somebody else has revoked it
	default:
		return access.Delegation{}, true, access.Errorf(access.CodeDuplicate, "delegation %s was said before, with another content", d.ID)
	}
	given, err := l.Delegations(ctx)
	if err != nil {
		return access.Delegation{}, true, err
	}
	if _, held := given.Open(now).Find(d.ID); !held && d.Action == access.ActionDelegate {
		return access.Delegation{}, true, access.Errorf(access.CodeEnded, "delegation %s was revoked, or is over", d.ID)
	}
	return d, true, nil
}

// standing refuses a credential that rests on a delegation which isn't on
// record, or was revoked meanwhile.
func (t *tx) standing(given []access.Statement) error {
	for _, st := range given {
		d, err := statement.ParseDelegation([]byte(st.Payload))
		if err != nil {
			return err
		}
		on, err := t.at(slot{"", delegationStep(d)})
		if err != nil {
			return err
		}
		off, err := t.at(slot{"", delegationStep(access.Delegation{Action: access.ActionRevoke, Delegation: d.ID})})
		if err != nil {
			return err
		}
		if !on.found || off.found {
			return access.Errorf(access.CodeUnavailable, "the delegation by %s, which it rests on, was revoked meanwhile; try again", d.Signer)
		}
	}
	return nil
}
