package grant

import (
	"context"
	"crypto/sha256"
	"fmt"
	"maps"
	"slices"
	"time"

	"hallpass/access"
	"hallpass/audit"
)

// Sweeper is a Kind that can look where its credentials live. SSH isn't one:
// a certificate lives nowhere, and what ended is in every key revocation list
// that is made.
type Sweeper interface {
	Kind

	// Look lists some of the kind's credentials that exist, and what is stuck
	// there, from a cursor on; "" is the beginning. It lists none that anybody
	// but an issuer of hallpass has made, and may leave out those that live
	// says are a live grant's. Ended lists grants that were ended early: what
	// is there of them is stuck.
	Look(ctx context.Context, cursor string, live audit.Living, ended func() ([]access.Handle, error)) (Sight, error)
}

// Sight is what a Sweeper has seen.
type Sight struct {
	Looked int    // how many there were to look at
	Next   string // where to go on; "" if that was all

	// Found are credentials, as far as the place tells: the request that they
	// were made for, their identity, NotBefore for when they were made, and
	// NotAfter.
	Found []access.Handle

	// Stuck is what doesn't go away by itself as it should, by a name each.
	Stuck map[string]Stuck
}

// Stuck is something that somebody has to look at, or, where there is an End,
// that is of a grant that has ended: End takes it away, and can be called again.
type Stuck struct {
	Why   string
	Since time.Time
	End   func(context.Context) error
}

// endFor is how long a step goes on taking away what is stuck. What is left is
// found by the next sweep.
const endFor = 15 * time.Second

// Swept is what one step of Sweep came to.
type Swept struct {
	Looked   int
	Next     string
	Findings []access.Finding
}

// Sweep holds some of the credentials that exist against the ledger, and
// revokes those that no live grant has: an issuer died before it had written
// one down, or while it took one back. One that is younger than the grace is
// left alone, as it may be about to be written down. What it finds is on
// record before it is revoked, and so is what it can't revoke.
//
// A kind that is no Sweeper has nothing to look at.
func (i *Issuer) Sweep(ctx context.Context, kind, cursor string) (Swept, error) {
	k, ok := i.Kinds[kind]
	if !ok {
		return Swept{}, access.Errorf(access.CodeUnavailable, "this issuer has no kind %q", kind)
	}
	sweeper, ok := k.(Sweeper)
	if !ok {
		return Swept{}, nil
	}
	live, err := i.Ledger.LiveHandles(ctx, kind)
	if err != nil {
		return Swept{}, fmt.Errorf("find out which grants live: %w", err)
	}
	sight, err := sweeper.Look(ctx, cursor, live, func() ([]access.Handle, error) { return i.Ledger.EndedHandles(ctx, kind, i.now()) })
	if err != nil {
		return Swept{}, err
	}
	out := Swept{Looked: sight.Looked, Next: sight.Next}
	for _, h := range sight.Found {
		if i.now().Sub(h.NotBefore) < i.Grace {
			continue
		}
		finding, found, err := i.stray(ctx, k, h)
		if err != nil {
			return Swept{}, err
		}
		if found {
			out.Findings = append(out.Findings, finding)
		}
	}
	ends, stop := context.WithTimeout(ctx, endFor)
	defer stop()
	for _, name := range slices.Sorted(maps.Keys(sight.Stuck)) {
		s := sight.Stuck[name]
		if s.End != nil && ends.Err() != nil {
			continue
		}
		if i.now().Sub(s.Since) < i.Grace {
			continue // it may be on its way
		}
		finding := access.Finding{What: access.SweptStuck, Kind: kind, Why: s.Why}
		if s.End != nil {
			if err := i.RecordLease(ctx, name, s.Why); err != nil {
				return Swept{}, err
			}
			if err := s.End(ctx); err != nil {
				finding.Why = fmt.Sprintf("%s; it could not be revoked: %v", s.Why, err)
			} else {
				finding.What, finding.Why = access.SweptRevoked, s.Why+"; revoked"
			}
		}
		if finding.What == access.SweptStuck {
			if err := i.recordOf(ctx, audit.SweepStuck, name, finding.Why); err != nil {
				return Swept{}, err
			}
		}
		out.Findings = append(out.Findings, finding)
	}
	return out, nil
}

// RecordLease records a lease in Vault of a grant that has ended, once.
func (i *Issuer) RecordLease(ctx context.Context, lease, why string) error {
	return i.recordOf(ctx, audit.SweepLease, lease, why)
}

// recordOf records something that was found under a name, once.
func (i *Issuer) recordOf(ctx context.Context, typ, name, why string) error {
	e := audit.Event{Type: typ, Step: fmt.Sprintf("%s:%x", typ, sha256.Sum256([]byte(name))), Why: why}
	if _, err := i.Ledger.Append(ctx, e); err != nil {
		return fmt.Errorf("record what a sweep found: %w", err)
	}
	return nil
}

// stray revokes a credential that no live grant has, and says whether it was
// one.
func (i *Issuer) stray(ctx context.Context, k Kind, h access.Handle) (access.Finding, bool, error) {
	finding := access.Finding{What: access.SweptRevoked, Kind: h.Kind, Request: h.Request, Why: "no live grant has it; revoked"}
	still, err := i.Ledger.Stray(ctx, h, "no live grant has this credential, which was made at "+h.NotBefore.UTC().Format(time.RFC3339))
	if err != nil {
		return finding, false, fmt.Errorf("record a credential without a grant: %w", err)
	}
	if !still {
		return finding, false, nil
	}
	e := audit.Event{Type: audit.SweepRevoked, Request: h.Request, Handle: &h, Why: "revoked by the sweep"}
	if err := k.Revoke(ctx, h); err != nil {
		finding.What, finding.Why = access.SweptStuck, fmt.Sprintf("no live grant has it, and it could not be revoked: %v", err)
		e.Type, e.Why = audit.SweepStuck, finding.Why
	}
	e.Step = audit.SweepStep(e.Type, h)
	if _, err := i.Ledger.Append(ctx, e); err != nil {
		return finding, false, fmt.Errorf("record what became of a credential without a grant: %w", err)
	}
	return finding, true, nil
}
