package activities

import (
	"context"
	"time"

	"hallpass/access"
	"hallpass/evidence"
)

// Delegate judges a delegation statement by the rulebook of this moment and
// records it: from then on it counts. A refusal is recorded.
func (a *Activities) Delegate(ctx context.Context, st access.Statement) (access.Delegation, error) {
	d, err := a.Log.Delegate(ctx, a.Rulebook(), st, a.Now())
	if err != nil {
		return access.Delegation{}, a.refuse(ctx, string(access.TypeDelegation), st, err)
	}
	return d, nil
}

// maxDelegations bounds the answer of Delegations, which Temporal has to carry.
const maxDelegations = 1000

// Delegations lists what is delegated at a time, oldest first, and if it is more
// than 1000 the latest. It has no refusals.
func (a *Activities) Delegations(ctx context.Context, at time.Time) (evidence.Delegations, error) {
	given, err := a.Log.Delegations(ctx)
	if err != nil {
		return nil, again(err)
	}
	given = given.Open(at)
	return given[max(0, len(given)-maxDelegations):], nil
}
