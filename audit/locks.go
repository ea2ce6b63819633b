package audit

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"hallpass/access"
	"hallpass/evidence"
	"hallpass/statement"
)

// Locks is what the lock statements in the log add up to. There is no table of
// locks: the events themselves are read, so that nothing else has to agree with
// them, and each is judged again by the files of its day, so that an event that
// nobody entitled has signed locks nothing and lifts nothing.
type Locks struct {
	Held  evidence.Locks // those that nobody has lifted; some may have ended by themselves
	Words int64          // how many lock statements there are, unlocks too: the version of Held
}

// errMeanwhile refuses what was judged under other locks than there are now.
func errMeanwhile() error {
	return access.Errorf(access.CodeUnavailable, "something was locked or unlocked meanwhile; try again")
}

// hear takes in one lock event. The book is the one of its day, without locks.
func (l *Locks) hear(book *evidence.Rulebook, e *Event) (access.Lock, error) {
	if e.Statement == nil {
		return access.Lock{}, errors.New("the lock statement is missing in it")
	}
	if e.Locks != l.Words {
		return access.Lock{}, fmt.Errorf("it was judged under %d lock statements, there were %d before it", e.Locks, l.Words)
	}
	lock, user, err := book.Under(l.Held).CheckLock(*e.Statement, e.Time)
	switch {
	case err != nil:
		return access.Lock{}, fmt.Errorf("the lock statement: %w", err)
	case e.Step != lockStep(lock.ID) || e.Type != lockType(lock):
		return access.Lock{}, fmt.Errorf("it is not in the place of the %s %s", lock.Action, lock.ID)
	case e.Actor != user.Name:
		return access.Lock{}, fmt.Errorf("the lock is %s's, not %s's", user.Name, clip(e.Actor))
	}
	l.Held, l.Words = l.Held.After(lock, *e.Statement), l.Words+1
	return lock, nil
}

func lockType(l access.Lock) string {
	if l.Action == access.ActionUnlock {
		return LockLifted
	}
	return LockSet
}

// lockStep is the step of a lock statement's event. Ids are given once.
func lockStep(id string) string { return "lock:" + id }

// lockSteps finds all of them by the index on steps, which is on those that
// aren't empty. SQLite alone would choose another index, over all that is
// about no request.
const lockSteps = "events INDEXED BY events_step WHERE request = '' AND step >= 'lock:' AND step < 'lock;' AND step <> ''"

// lockCache is what a Reader has read of the locks so far.
type lockCache struct {
	mu    sync.Mutex
	locks Locks
	heard
}

// heard is how far statements that are about no request have been read.
type heard struct {
	next int64 // the events from here on haven't been
	day  access.Digests
	book *evidence.Rulebook // of that day
}

// read gives each new event of some steps, such as lockSteps, to take, with the
// rulebook of its day.
func (h *heard) read(ctx context.Context, q querier, what, steps string, take func(*evidence.Rulebook, *Event) error) error {
	var found []content // first, since taking it in takes a connection of its own
	err := scan(ctx, q, func(row scanner) error {
		c := content{found: true}
		err := row.Scan(&c.index, &c.leaf)
		found = append(found, c)
		return err
	}, "SELECT idx, leaf FROM "+steps+" AND idx >= ? ORDER BY idx", h.next)
	if err != nil {
		return fmt.Errorf("read %s: %w", what, err)
	}
	for _, c := range found {
		e, err := ParseEvent(c.leaf)
		if err != nil {
			return broken("event %d: %v", c.index, err)
		}
		book, err := h.bookOf(ctx, q, &e)
		if err != nil {
			return err
		}
		if err := take(book, &e); err != nil {
			return broken("event %d: %v", c.index, err)
		}
		h.next = c.index + 1
	}
	return nil
}

// Locks reads what is locked. It reads only what is new since it was last
// called; what it returns is as of a moment within the call.
//
// An error that isn't CodeUnavailable means that the log has been tampered
// with: nothing should be granted until somebody has looked at it.
func (r *Reader) Locks(ctx context.Context) (Locks, error) {
	c := &r.locks
	c.mu.Lock()
	defer c.mu.Unlock()
	err := c.read(ctx, r.db, "locks", lockSteps, func(book *evidence.Rulebook, e *Event) error {
		_, err := c.locks.hear(book, e)
		return err
	})
	if err != nil {
		return Locks{}, err
	}
	return c.locks, nil
}

// bookOf is the rulebook that an event cites.
func (h *heard) bookOf(ctx context.Context, q querier, e *Event) (*evidence.Rulebook, error) {
	if e.Digests == nil {
		return nil, broken("the event %s cites no files", clip(e.Step))
	}
	if h.book != nil && h.day == *e.Digests {
		return h.book, nil
	}
	var files [3][]byte
	for i, f := range each(e.Digests) {
		var leaf []byte
		err := q.QueryRowContext(ctx, "SELECT leaf FROM events WHERE request = '' AND step = ? AND step <> ''", fileStep(f.name, f.digest)).Scan(&leaf)
		if err != nil {
			return nil, fmt.Errorf("read the %s of the day: %w", f.name, explain(err))
		}
		event, err := ParseEvent(leaf)
		if err != nil || event.File == nil || digestOf(event.File.Content) != f.digest {
			return nil, broken("the %s %s is not what it was", f.name, clip(f.digest))
		}
		files[i] = []byte(event.File.Content)
	}
	book, err := evidence.NewRulebook(files[0], files[1], files[2])
	if err != nil {
		return nil, fmt.Errorf("read the files of the day: %w", err)
	}
	h.day, h.book = *e.Digests, book
	return book, nil
}

// Lock judges a lock statement by the rulebook, at now and under the locks
// there are, and records it: from then on it is in force, or the lock that it
// names is lifted. Saying it again changes nothing, and says the same.
//
// Errors: those of evidence.Rulebook.CheckLock; CodeDuplicate for another
// statement with the same id; CodeEnded for a lock that is over; and
// CodeUnavailable, worth another try at once, if another was recorded meanwhile.
func (l *Log) Lock(ctx context.Context, book *evidence.Rulebook, st access.Statement, now time.Time) (access.Lock, error) {
	locks, err := l.Locks(ctx)
	if err != nil {
		// It is not this statement that is refused.
		return access.Lock{}, access.Errorf(access.CodeUnavailable, "find out what is locked: %v", err)
	}
	now = now.UTC().Truncate(time.Millisecond) // as the event will have it
	lock, user, err := book.Under(locks.Held).CheckLock(st, now)
	if err != nil {
		if again, found, lerr := l.lockSaid(ctx, st); lerr != nil || found {
			return again, lerr
		}
		return access.Lock{}, err
	}
	digests := book.Digests()
	e := Event{
		Type: lockType(lock), Time: now, Step: lockStep(lock.ID), Actor: user.Name, Why: lock.Why(),
		Statement: &st, Digests: &digests, Locks: locks.Words,
	}
	switch lock.Kind {
	case access.LockUser:
		e.Requester = lock.Name
	case access.LockResource:
		e.Resource = lock.Name
	}
	if lock.Action == access.ActionUnlock {
		e.Why = fmt.Sprintf("%s %s is unlocked by %s", lock.Kind, lock.Name, lock.Signer)
		if lock.Reason != "" {
			e.Why += ": " + lock.Reason
		}
	}
	said, err := update(ctx, l, func(t *tx) (bool, error) {
		if was, err := t.at(slot{"", e.Step}); was.found || err != nil {
			return was.found, err
		}
		if err := t.underLocks(e.Locks); err != nil {
			return false, err
		}
		_, err := t.append(e)
		return false, err
	}, slot{"", e.Step})
	if err != nil || !said {
		return lock, err
	}
	again, _, err := l.lockSaid(ctx, st)
	return again, err
}

// lockSaid finds out whether a lock statement was recorded before, and whether
// it still holds.
func (l *Log) lockSaid(ctx context.Context, st access.Statement) (access.Lock, bool, error) {
	lock, err := statement.ParseLock([]byte(st.Payload))
	if err != nil {
		return access.Lock{}, false, nil
	}
	var leaf []byte
	err = l.Reader.db.QueryRowContext(ctx, "SELECT leaf FROM events WHERE request = '' AND step = ? AND step <> ''", lockStep(lock.ID)).Scan(&leaf)
	if errors.Is(err, sql.ErrNoRows) {
		return access.Lock{}, false, nil
	} else if err != nil {
		return access.Lock{}, false, fmt.Errorf("read locks: %w", explain(err))
	}
	e, err := ParseEvent(leaf)
	if err != nil {
		return access.Lock{}, false, broken("lock %s: %v", lock.ID, err)
	}
	if e.Statement == nil || e.Statement.Payload != st.Payload {
		return access.Lock{}, true, access.Errorf(access.CodeDuplicate, "lock %s was said before, with another content", lock.ID)
	}
	locks, err := l.Locks(ctx)
	if err != nil {
		return access.Lock{}, true, err
	}
	if _, held := locks.Held.Find(lock.ID); !held && lock.Action == access.ActionLock {
		return access.Lock{}, true, access.Errorf(access.CodeEnded, "lock %s was lifted", lock.ID)
	}
	return lock, true, nil
}

// underLocks refuses what was judged under other locks than there are.
func (t *tx) underLocks(words int64) error {
	var n int64
	if _, err := t.find([]any{&n}, "SELECT count(*) FROM "+lockSteps); err != nil {
		return err
	}
	if n != words {
		return errMeanwhile()
	}
	return nil
}

// Live lists the requests by a requester, or for any of the resources, that
// were received and haven't ended, in the order of their ids, from behind
// after on and at most limit of them.
func (r *Reader) Live(ctx context.Context, requester string, resources []string, after string, limit int) ([]access.Live, error) {
	const query = `SELECT e.request, e.resource, coalesce(l.handle, '') <> '', coalesce(l.credential, '') <> '' FROM events e LEFT JOIN ledger l ON l.request = e.request
		WHERE e.%s = ? AND e.type = ? AND e.request > ? AND coalesce(l.ended, '') = '' ORDER BY e.request LIMIT ?`
	column, values := "resource", resources
	if requester != "" {
		column, values = "requester", []string{requester}
	}
	var live []access.Live
	for _, value := range values {
		rows, err := r.db.QueryContext(ctx, fmt.Sprintf(query, column), value, RequestReceived, after, limit)
		if err != nil {
			return nil, fmt.Errorf("read live requests: %w", explain(err))
		}
		for rows.Next() {
			var one access.Live
			if err := rows.Scan(&one.Request, &one.Resource, &one.Handed, &one.Granted); err != nil {
				return nil, errors.Join(fmt.Errorf("read live requests: %w", err), rows.Close())
			}
			live = append(live, one)
		}
		if err := errors.Join(rows.Err(), rows.Close()); err != nil {
			return nil, fmt.Errorf("read live requests: %w", explain(err))
		}
	}
	slices.SortFunc(live, func(a, b access.Live) int { return strings.Compare(a.Request, b.Request) })
	return live[:min(len(live), limit)], nil
}
