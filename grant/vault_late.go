package grant

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"hallpass/access"
	"hallpass/vault"
)

// Vault looks at the token when a read begins, and hands out what it gives even if
// the token has been revoked meanwhile: for as long as the engine takes, the lease
// is not there yet, and when it is, nothing ends it but its own time, which is the
// token's. Where that is still ahead, as when a grant is released or revoked,
// EndLate ends it.
const (
	// lateFor is how long it looks for what may come after the end. Vault lets no
	// request take longer than 90 s, unless it is told to (default_max_request_duration).
	lateFor = 2 * time.Minute
	// lateMost is how long it goes on where it can't look.
	lateMost = 10 * time.Minute

	lateEvery = time.Second      // a look, and no more often than
	lateShare = 10               // so many times what one takes,
	lateRest  = 10 * time.Second // but for this

	// lateSkew is how far a token's end may be from the grant's: what it ends
	// before it, for the time that minting takes, and how wrong clocks may be.
	lateSkew = 5 * time.Minute
)

// late are the grants that ended a short while ago, by accessor.
type late struct {
	mu   sync.Mutex
	ends map[string]ending
}

// ending is one of them.
type ending struct {
	access.Handle
	at time.Time
}

// watch takes one in that ends now. Where its time is over, Vault sees to it.
func (l *late) watch(h access.Handle, now time.Time) {
	if len(h.Reads) == 0 || !now.Before(h.NotAfter) {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ends == nil {
		l.ends = map[string]ending{}
	}
	l.ends[h.Accessor] = ending{access.Handle{Request: h.Request, Accessor: h.Accessor, Reads: h.Reads, NotAfter: h.NotAfter}, now}
}

func (l *late) list() (grants []access.Handle) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range l.ends {
		grants = append(grants, e.Handle)
	}
	return grants
}

// forget drops those for which nothing can come any more after a look that began
// then, and found out about all paths but some.
func (l *late) forget(looked time.Time, but map[string]bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	maps.DeleteFunc(l.ends, func(_ string, e ending) bool {
		wait := lateFor
		if slices.ContainsFunc(e.Reads, func(path string) bool { return but[path] }) {
			wait = lateMost
		}
		return e.at.Add(wait).Before(looked)
	})
}

// byMark tells by their end whose leases are.
func byMark(grants []access.Handle) marks {
	m := marks{}
	for _, h := range grants {
		mark := int(vault.Mark(h.Accessor))
		m[mark] = append(m[mark], h)
	}
	return m
}

// marks are grants by the marks of their tokens.
type marks map[int][]access.Handle

// grant finds the one that a lease of a path is of, by when it ends.
func (m marks) grant(path string, expires time.Time) (access.Handle, bool) {
	for _, h := range m[expires.Nanosecond()] {
		if slices.Contains(h.Reads, path) && expires.Sub(h.NotAfter).Abs() <= lateSkew {
			return h, true
		}
	}
	return access.Handle{}, false
}

// EndLate ends what is read on grants while they end, and is handed out after that,
// until ctx is done. It is for the grants that this process has revoked; what it
// doesn't live to do a sweep does. It has each lease recorded before it ends it, and
// ends it also where that fails; and it reports what goes wrong.
func (k *Vault) EndLate(ctx context.Context, record func(ctx context.Context, lease, why string) error, report func(error)) {
	known := map[string]time.Time{} // the ends of leases, by id, of the paths that were looked at last
	for wait := lateEvery; ; {
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
		begun := k.now()
		if known = k.endLate(ctx, known, record, report); ctx.Err() != nil {
			return
		}
		wait = min(max(lateEvery, lateShare*k.now().Sub(begun)), lateRest)
	}
}

// endLate looks once. It says what it knows for the next time.
func (k *Vault) endLate(ctx context.Context, known map[string]time.Time, record func(context.Context, string, string) error, report func(error)) map[string]time.Time {
	begun, grants := k.now(), k.late.list()
	if len(grants) == 0 {
		return known
	}
	of := byMark(grants)
	paths := map[string]bool{}
	for _, h := range grants {
		for _, path := range h.Reads {
			paths[path] = true
		}
	}
	there, failed := map[string]time.Time{}, map[string]bool{}
	var errs []error
	for path := range paths {
		if err := k.endLateBelow(ctx, path, of, known, there, record); err != nil {
			failed[path] = true
			errs = append(errs, fmt.Errorf("below %s: %w", path, err))
		}
	}
	if err := errors.Join(errs...); err != nil && ctx.Err() == nil {
		report(fmt.Errorf("look for what was read on grants while they ended: %w", err))
	}
	k.late.forget(begun, failed)
	return there
}

// endLateBelow ends what is late below one path. What it learns of the ends of
// others, it adds to there.
func (k *Vault) endLateBelow(ctx context.Context, path string, of marks, known, there map[string]time.Time, record func(context.Context, string, string) error) error {
	names, err := k.list(ctx, "sys/leases/lookup/"+path+"/")
	if err != nil {
		return fmt.Errorf("list leases: %w", err)
	}
	var look []string
	for _, name := range names {
		id := path + "/" + name
		at, ok := known[id]
		if _, late := of.grant(path, at); ok && !late {
			there[id] = at
		} else if !strings.HasSuffix(id, "/") { // what ends so has leases of another path below it
			look = append(look, id) // also what was somebody's, and may be ending
		}
	}
	var mu sync.Mutex
	return beside(ctx, look, func(ctx context.Context, id string) error {
		l, found, err := k.lease(ctx, id)
		if err != nil || !found || l.ttl <= 0 {
			return err
		}
		h, late := of.grant(path, l.expires)
		if late {
			why := whose(l, h)
			recording, stop := context.WithTimeout(ctx, cleanUp)
			err := record(recording, id, why)
			stop()
			if end := k.endLease(ctx, id); end != nil {
				err = errors.Join(err, fmt.Errorf("%s; it could not be revoked: %w", why, end))
			}
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		there[id] = l.expires
		return nil
	})
}
