package evidence

import (
	"context"
	"time"

	"hallpass/access"
	"hallpass/policy"
	"hallpass/statement"
)

// Lookups ask other systems. Package lookup has them.
type Lookups interface {
	// Look makes the look-ups of these names for a request. One that fails is
	// a fact that says so.
	Look(ctx context.Context, names []string, r access.Request) access.Facts
}

// With is the rulebook with what look-ups have said of the request that it is
// to judge. The rulebook itself is not changed.
func (r *Rulebook) With(facts access.Facts) *Rulebook {
	c := *r
	c.facts = facts
	return &c
}

// Facts are those that the rulebook was made with.
func (r *Rulebook) Facts() access.Facts { return r.facts }

// Silent says which look-up the facts say nothing of, although policy needs to
// have it made to judge a request; "" if there is none. A record of a judgement
// has all of them.
func (r *Rulebook) Silent(req access.Request, facts access.Facts) string {
	requester, _ := r.Directory.User(req.Signer)
	for _, name := range r.Policy.Lookups(policy.Input{Request: req, Requester: requester, Resource: r.resource(req.Resource)}) {
		if _, ok := facts[name]; ok {
			continue
		}
		if name != policy.AllLookups {
			return "the look-up " + name
		}
		if len(facts) == 0 { // which there are, only the configuration of the day knows
			return "all look-ups"
		}
	}
	return ""
}

// Informed is the rulebook with what policy needs to have looked up to judge a
// request, now: whoever judges asks for himself. Nothing is looked up for a
// request that doesn't verify. Without look-ups each fails.
func (r *Rulebook) Informed(ctx context.Context, l Lookups, request access.Statement, now time.Time) *Rulebook {
	if !r.Policy.HasLookups() {
		return r
	}
	req, requester, err := statement.OpenRequest(request, r.Directory)
	if err != nil {
		return r // whoever judges it will say so
	}
	resource, ok := r.Catalog.Resource(req.Resource)
	if !ok {
		return r
	}
	names := r.Policy.Lookups(policy.Input{Request: req, Requester: requester, Resource: resource, Now: now})
	if len(names) == 0 {
		return r
	}
	if l != nil {
		return r.With(l.Look(ctx, names, req))
	}
	facts := access.Facts{}
	for _, name := range names {
		facts[name] = access.Fact{Failed: "there are no look-ups here", Time: now.UTC().Truncate(time.Second)}
	}
	return r.With(facts)
}
