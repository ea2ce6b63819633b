package audit

import (
	"context"
	"slices"

	"hallpass/access"
)

// Bounds on how far Past looks back.
const (
	maxPast = 100 // grants and requests
	maxLast = 3   // grants that are named
)

// Past is what the log says of a requester's earlier requests, for people to
// compare a new one with. The request named is left out. It is what the events
// say, unverified, and no more than the last hundred of each.
func (r *Reader) Past(ctx context.Context, requester, resource, request string) (access.Past, error) {
	var past access.Past
	conn, end, err := r.snapshot(ctx)
	if err != nil {
		return past, err
	}
	defer end()
	for rec, err := range events(ctx, conn, Query{Requester: requester, Type: RequestReceived, Limit: maxPast + 1, Last: true}) {
		if err != nil {
			return past, err
		}
		if rec.Event.Request == request {
			continue
		}
		if past.Hours == nil {
			past.Hours = make([]int, 24)
		}
		past.Asked++
		past.Hours[rec.Event.Time.UTC().Hour()]++
	}
	var grants []Grant
	for rec, err := range events(ctx, conn, Query{Requester: requester, Resource: resource, Type: CredentialIssued, Limit: maxPast, Last: true}) {
		if err != nil {
			return past, err
		}
		g, err := grantOf(rec.Index, &rec.Event)
		if err != nil {
			return past, broken("event %d: %v", rec.Index, err)
		}
		past.Grants++
		past.Longest = max(past.Longest, access.InSeconds(rec.Event.Credential.Handle.NotAfter.Sub(rec.Event.Credential.Handle.NotBefore)))
		grants = append(grants, g)
	}
	for _, g := range slices.Backward(grants[max(0, len(grants)-maxLast):]) {
		for rec, err := range events(ctx, conn, Query{Request: g.Request, After: g.Index}) {
			if err != nil {
				return past, err
			}
			g.end(&rec.Event)
		}
		past.Last = append(past.Last, access.PastGrant{
			Request: g.Request, From: g.From, Until: g.Until, Ended: g.Ended, Login: g.Login, ApprovedBy: g.ApprovedBy,
		})
	}
	return past, nil
}
