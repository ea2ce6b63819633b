package grant

import (
	"context"
	"fmt"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"hallpass/access"
	"hallpass/audit"
	"hallpass/ca"
	"hallpass/ca/krl"
)

// How fresh a key revocation list is kept. Hosts take one older than
// krl.MaxAge for a sign that something is wrong.
const (
	krlEvery   = time.Minute      // a new one is made at least that often
	krlLook    = 10 * time.Second // whether it is time to
	krlTimeout = 2 * time.Minute  // for making one
)

// KRLStore is the part of audit.Log that a KRL needs.
type KRLStore interface {
	// DraftKRL returns what a new list has to say, under a version higher
	// than any before.
	DraftKRL(ctx context.Context, ca ssh.PublicKey) (krl.List, error)
	// Unlisted says whether no list names a certificate, whatever has become of
	// its request: it ran to its end, or out by every clock.
	Unlisted(ctx context.Context, h access.Handle) (bool, error)
	// PublishKRL puts a signed list in force, unless there is a later one.
	PublishKRL(ctx context.Context, k audit.KRL) error
	// KRL returns the list in force.
	KRL(ctx context.Context) (audit.KRL, error)
}

// KRL keeps the key revocation list in force: the one of all SSH CAs that the
// ledger knows, signed by this one. Any number of them, in one process or in
// many, may share a store: versions only grow, and a later one says all that
// an earlier one does, but for what has run out.
//
// It is safe for concurrent use.
type KRL struct {
	CA    *ca.CA
	Store KRLStore
	Now   func() time.Time // nil: time.Now

	mu      sync.Mutex
	next    *round
	running sync.Mutex // held by the round under way
}

// round is one making of a list, for all who asked before it began.
type round struct {
	done chan struct{}
	err  error
}

// Publish returns when a list is in force that knows of everything that was in
// the ledger when Publish was called. Many calls at a time share a list.
func (k *KRL) Publish(ctx context.Context) error {
	k.mu.Lock()
	r := k.next
	if r == nil {
		r = &round{done: make(chan struct{})}
		k.next = r
		go k.run(r) //nolint:gosec // G118: the list is for all who wait, not for this caller
	}
	k.mu.Unlock()
	select {
	case <-r.done:
		return r.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// run makes a list as soon as nobody else does. Those who ask from then on are
// served by the next round.
func (k *KRL) run(r *round) {
	k.running.Lock()
	defer k.running.Unlock()
	k.mu.Lock()
	k.next = nil
	k.mu.Unlock()
	// Not a caller's context: it serves them all.
	ctx, cancel := context.WithTimeout(context.Background(), krlTimeout)
	defer cancel()
	r.err = k.publish(ctx)
	close(r.done)
}

func (k *KRL) publish(ctx context.Context) error {
	draft, err := k.Store.DraftKRL(ctx, k.CA.PublicKey())
	if err != nil {
		return fmt.Errorf("collect revoked certificates: %w", err)
	}
	list, err := draft.Marshal()
	if err != nil {
		return fmt.Errorf("write key revocation list: %w", err)
	}
	signature, err := k.CA.SignKRL(list)
	if err != nil {
		return fmt.Errorf("sign key revocation list: %w", err)
	}
	if err := k.Store.PublishKRL(ctx, audit.KRL{Version: draft.Version, List: list, Signature: signature}); err != nil {
		return fmt.Errorf("publish key revocation list: %w", err)
	}
	return nil
}

// Keep makes a list at once and sees to it that the one in force isn't old,
// until ctx ends. It tells failed of each time that it couldn't make one, and
// goes on.
func (k *KRL) Keep(ctx context.Context, failed func(error)) {
	err := k.Publish(ctx)
	tick := time.NewTicker(krlLook)
	defer tick.Stop()
	for {
		if err != nil && ctx.Err() == nil {
			failed(err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		err = k.Refresh(ctx)
	}
}

// Refresh makes a new list if there is none in force or it is about to be a
// minute old.
func (k *KRL) Refresh(ctx context.Context) error {
	have, err := k.Store.KRL(ctx)
	if err == nil {
		var list *krl.List
		if list, err = krl.Parse(have.List); err == nil {
			if age := k.now().Sub(list.Generated); age >= 0 && age < krlEvery-krlLook {
				return nil
			}
		}
	}
	return k.Publish(ctx)
}

func (k *KRL) now() time.Time {
	if k.Now == nil {
		return time.Now()
	}
	return k.Now()
}
