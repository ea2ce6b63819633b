package grant

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"hallpass/vault"
)

// tokenLeases are the leases of the tokens that the token role has made: when
// Vault made them, which says whose they are, and never changes.
type tokenLeases struct {
	mu   sync.Mutex
	made map[string]time.Time // by id
}

// finishRevocation has Vault go on where it was interrupted.
//
// Vault revokes a token in steps: it is marked, and opens nothing from then on;
// then its leases end, and its own lease as the last one; then its accessor
// goes. If Vault crashes in between, it doesn't go on by itself, nor for anybody
// who has the accessor, and what was read with the token lives as long as the
// token would have. But the token's own lease is there as long as there are
// others, and to revoke that one does it all again. It is the one that was made
// when the token was, to the nanosecond.
func (k *Vault) finishRevocation(ctx context.Context, accessor string) error {
	fail := func(err error) error {
		return fmt.Errorf("vault was interrupted when it revoked a token, and what was read with it may not have ended: %w", err)
	}
	token, err := k.token(ctx, accessor)
	if err != nil {
		return fail(err)
	}
	if token["issue_time"] == nil { // no token, or no lease of its own any more
		return nil
	}
	made, err := issued(token)
	if err != nil {
		return fail(err)
	}
	ids, err := k.leasesMade(ctx, made)
	if err != nil {
		return fail(err)
	}
	if len(ids) != 1 {
		return fail(fmt.Errorf("%d leases below %s were made at %s", len(ids), k.mintPath(), made.Format(time.RFC3339Nano)))
	}
	if _, err := k.Vault.Write(ctx, "sys/leases/revoke", map[string]any{"lease_id": ids[0], "sync": true}); err != nil {
		return fail(err)
	}
	return nil
}

// leasesMade finds the leases of tokens that were made at a time.
func (k *Vault) leasesMade(ctx context.Context, made time.Time) ([]string, error) {
	l := &k.tokenLeases
	l.mu.Lock() // one looks for all: there may be many leases, and many to finish
	defer l.mu.Unlock()
	find := func() (ids []string) {
		for id, at := range l.made {
			if at.Equal(made) {
				ids = append(ids, id)
			}
		}
		return ids
	}
	if ids := find(); len(ids) > 0 {
		return ids, nil
	}
	names, err := k.list(ctx, "sys/leases/lookup/"+k.mintPath()+"/")
	if err != nil {
		return nil, err
	}
	old := l.made
	l.made = map[string]time.Time{}
	var unknown []string
	for _, name := range names {
		id := k.mintPath() + "/" + name
		if at, ok := old[id]; ok {
			l.made[id] = at
		} else {
			unknown = append(unknown, id)
		}
	}
	var mu sync.Mutex
	found := map[string]time.Time{}
	err = beside(ctx, unknown, func(ctx context.Context, id string) error {
		data, err := k.Vault.Write(ctx, "sys/leases/lookup", map[string]any{"lease_id": id})
		if vault.Missing(err) {
			return nil
		}
		if err != nil {
			return err
		}
		at, err := issued(data)
		if err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		found[id] = at
		return nil
	})
	maps.Copy(l.made, found)
	ids := find()
	slices.Sort(ids)
	return ids, err
}

// issued is when Vault made a lease, or the token that it belongs to.
func issued(data map[string]any) (time.Time, error) {
	text, _ := data["issue_time"].(string)
	at, err := time.Parse(time.RFC3339Nano, text)
	if err != nil {
		return at, otherwise(data["issue_time"], "a time")
	}
	return at, nil
}
