package activities

import (
	"context"
	"fmt"
	"slices"
	"time"

	"hallpass/access"
	"hallpass/audit"
)

// sweptAtOnce is how many open grants one call of Orphans looks at.
const sweptAtOnce = 200

// Temporal is what a sweep asks Temporal.
type Temporal interface {
	// Running says, of each request, whether its workflow runs. It fails
	// rather than leaving out one that it doesn't know about.
	Running(ctx context.Context, requests []string) (map[string]bool, error)
}

// OrphansInput asks for the open grants for which nothing runs.
type OrphansInput struct {
	After string `json:"after,omitempty"` // the last request that was looked at before
}

// Orphans are open grants for which nothing runs any more.
type Orphans struct {
	Handles []access.Handle `json:"handles,omitempty"`
	Looked  int             `json:"looked"`          // how many open grants were looked at
	Kinds   []string        `json:"kinds,omitempty"` // of these and of the catalog, sorted
	After   string          `json:"after,omitempty"` // where to go on; "" if there are no more
}

// Orphans holds some of the open grants in the ledger against what runs in
// Temporal, and records those for which nothing does. A grant that is younger
// than the grace is left alone. If Temporal doesn't answer, nothing is
// concluded. It has no refusals.
func (a *Activities) Orphans(ctx context.Context, in OrphansInput) (Orphans, error) {
	open, err := a.Log.OpenGrants(ctx, in.After, sweptAtOnce)
	if err != nil {
		return Orphans{}, again(err)
	}
	out := Orphans{Looked: len(open)}
	if len(open) == sweptAtOnce {
		out.After = open[len(open)-1].Request
	}
	for _, r := range a.Rulebook().Catalog.Resources() {
		out.Kinds = append(out.Kinds, r.Kind)
	}
	now := a.Now()
	var ids []string
	for _, h := range open {
		out.Kinds = append(out.Kinds, h.Kind)
		if now.Sub(h.NotBefore) >= a.Grace {
			ids = append(ids, h.Request)
		}
	}
	slices.Sort(out.Kinds)
	out.Kinds = slices.Compact(out.Kinds)
	if len(ids) == 0 {
		return out, nil
	}
	running, err := a.Temporal.Running(ctx, ids)
	if err != nil {
		return Orphans{}, again(err)
	}
	for _, h := range open {
		if runs, asked := running[h.Request]; !asked || runs {
			continue
		}
		still, err := a.Log.Orphan(ctx, h.Request, "its workflow doesn't run any more")
		if err != nil {
			return Orphans{}, again(err)
		}
		if still {
			out.Handles = append(out.Handles, h)
		}
	}
	return out, nil
}

// Stuck records what a sweep couldn't do, once for the same thing. It has no
// refusals.
func (a *Activities) Stuck(ctx context.Context, f access.Finding) error {
	e := audit.Event{Type: audit.SweepStuck, Request: f.Request, Step: audit.SweepStuck, Why: f.Why}
	if f.Request == "" {
		// An issuer that stays away is worth one event a day.
		e.Step = fmt.Sprintf("%s:%s:%s", audit.SweepStuck, f.Kind, a.Now().UTC().Format(time.DateOnly))
	}
	_, err := a.Log.Append(ctx, e)
	return again(err)
}

// StraysInput asks the issuer of a kind for credentials without a grant.
type StraysInput struct {
	Kind   string `json:"kind"`
	Cursor string `json:"cursor,omitempty"` // where to go on
}

// Strays is what an issuer has found, and done about it.
type Strays struct {
	Looked   int              `json:"looked"`
	Cursor   string           `json:"cursor,omitempty"` // where to go on; "" if that was all
	Findings []access.Finding `json:"findings,omitempty"`
}

// Strays has the issuer hold some of the credentials that exist against the
// ledger, and revoke those without a grant. It has no refusals.
func (i *Issuing) Strays(ctx context.Context, in StraysInput) (Strays, error) {
	out, err := i.Issuer.Sweep(ctx, in.Kind, in.Cursor)
	return Strays{Looked: out.Looked, Cursor: out.Next, Findings: out.Findings}, again(err)
}
