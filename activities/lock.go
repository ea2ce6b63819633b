package activities

import (
	"context"
	"time"

	"hallpass/access"
	"hallpass/evidence"
)

// Lock judges a lock statement by the rulebook of this moment and records it:
// from then on it counts. A refusal is recorded.
func (a *Activities) Lock(ctx context.Context, st access.Statement) (access.Lock, error) {
	lock, err := a.Log.Lock(ctx, a.Rulebook(), st, a.Now())
	if err != nil {
		return access.Lock{}, a.refuse(ctx, string(access.TypeLock), st, err)
	}
	return lock, nil
}

// reachAtOnce is how many requests one call of Reach finds.
const reachAtOnce = 200

// ReachInput asks for the requests under a lock.
type ReachInput struct {
	Lock  access.Lock `json:"lock"`
	After string      `json:"after,omitempty"` // the last one that was found before
}

// Reach finds live requests under a lock, by the catalog of this moment, some
// at a time and none when there are no more. It has no refusals.
func (a *Activities) Reach(ctx context.Context, in ReachInput) ([]access.Live, error) {
	requester, resources := a.Rulebook().Reach(in.Lock)
	live, err := a.Log.Live(ctx, requester, resources, in.After, reachAtOnce)
	return live, again(err)
}

// lingerEvery is how often Linger looks.
const lingerEvery = 25 * time.Millisecond

// LingerInput asks which of these requests live on.
type LingerInput struct {
	Requests []string      `json:"requests"`
	Patience time.Duration `json:"patience,omitempty"` // how long to wait for them to end
}

// Linger waits until the requests have ended in the ledger, or patience has,
// and says which haven't. It waits here because a timer of the workflow takes a
// second where a request takes a tenth of one. It has no refusals.
func (a *Activities) Linger(ctx context.Context, in LingerInput) (live []string, err error) {
	patience := time.NewTimer(in.Patience)
	defer patience.Stop()
	tick := time.NewTicker(lingerEvery)
	defer tick.Stop()
	for live = in.Requests; ; {
		var still []string
		for _, id := range live {
			entry, _, err := a.Log.Entry(ctx, id)
			if err != nil {
				return nil, again(err)
			}
			if entry.Ended == "" {
				still = append(still, id)
			}
		}
		if live = still; len(live) == 0 {
			return nil, nil
		}
		select {
		case <-ctx.Done():
			return nil, again(ctx.Err())
		case <-patience.C:
			return live, nil
		case <-tick.C:
		}
	}
}

// maxLocks bounds the answer of Locks, which Temporal has to carry.
const maxLocks = 1000

// Locks lists the locks in force at a time, oldest first, and if they are more
// than 1000 the latest. It has no refusals.
func (a *Activities) Locks(ctx context.Context, at time.Time) (evidence.Locks, error) {
	locks, err := a.Log.Locks(ctx)
	if err != nil {
		return nil, again(err)
	}
	held := locks.Held.InForce(at)
	return held[max(0, len(held)-maxLocks):], nil
}
