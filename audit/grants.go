package audit

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"hallpass/access"
)

// Grant is one access that was given: who had what, when, why, and on whose
// word.
type Grant struct {
	Index      int64           `json:"index"` // of the event credential.issued
	Request    string          `json:"request"`
	Requester  string          `json:"requester"`
	Resource   string          `json:"resource"`
	Login      string          `json:"login,omitempty"`
	Command    string          `json:"command,omitempty"`
	From       time.Time       `json:"from"`
	Until      time.Time       `json:"until"`           // when it ended, or will end
	Ended      access.State    `json:"ended,omitempty"` // "" if its end isn't recorded
	EndedBy    string          `json:"ended_by,omitempty"`
	EndedWhy   string          `json:"ended_why,omitempty"`
	Reason     string          `json:"reason,omitempty"`
	Ticket     string          `json:"ticket,omitempty"`
	ApprovedBy []string        `json:"approved_by,omitempty"` // empty: by the rules alone
	Rules      []string        `json:"rules,omitempty"`
	Serial     uint64          `json:"serial,omitempty"`
	Digests    *access.Digests `json:"digests,omitempty"`
}

// Grants lists the accesses that the query selects, in the order in which they
// were issued. From and To select those that were open at some time between
// the two; Type is not looked at. What is in it is as the events say: Verify
// checks them.
func (r *Reader) Grants(ctx context.Context, q Query) ([]Grant, error) {
	conn, end, err := r.snapshot(ctx)
	if err != nil {
		return nil, err
	}
	defer end()
	from, limit, last := q.From, q.Limit, q.Last
	q.Type, q.From, q.Limit = CredentialIssued, time.Time{}, 0
	var issued []Record
	for rec, err := range events(ctx, conn, q) {
		if err != nil {
			return nil, err
		}
		issued = append(issued, rec)
	}
	var grants []Grant
	for _, rec := range issued {
		g, err := grantOf(rec.Index, &rec.Event)
		if err != nil {
			return nil, broken("event %d: %v", rec.Index, err)
		}
		for stop, err := range events(ctx, conn, Query{Request: g.Request, After: rec.Index}) {
			if err != nil {
				return nil, err
			}
			g.end(&stop.Event)
		}
		if !from.IsZero() && !g.Until.After(from) {
			continue
		}
		grants = append(grants, g)
	}
	if limit > 0 && len(grants) > limit {
		if last {
			return grants[len(grants)-limit:], nil
		}
		return grants[:limit], nil
	}
	return grants, nil
}

// grantOf reads what an event credential.issued says.
func grantOf(index int64, e *Event) (Grant, error) {
	if e.Type != CredentialIssued { // whatever the columns say
		return Grant{}, fmt.Errorf("it is %s", clip(e.Type))
	}
	var request access.Request
	if err := json.Unmarshal([]byte(e.Evidence.Request.Payload), &request); err != nil {
		return Grant{}, fmt.Errorf("the request in it can't be read: %w", err)
	}
	h := e.Credential.Handle
	g := Grant{
		Index: index, Request: e.Request, Requester: e.Requester, Resource: e.Resource,
		Login: request.Login, Command: request.Command, Reason: request.Reason, Ticket: request.Ticket,
		From: h.NotBefore, Until: h.Over(), Serial: h.Serial, Digests: e.digests(),
	}
	if e.Time.After(g.From) {
		g.From = e.Time
	}
	if e.Ruling != nil {
		g.Rules = e.Ruling.Rules
	}
	for _, st := range e.Evidence.Decisions {
		var d access.Decision
		if err := json.Unmarshal([]byte(st.Payload), &d); err != nil {
			return Grant{}, fmt.Errorf("a decision in it can't be read: %w", err)
		}
		if d.Verdict == access.Approve {
			g.ApprovedBy = append(g.ApprovedBy, access.Who(d.Signer, d.For))
		}
	}
	return g, nil
}

// end takes in the event that ended the grant, if e is that.
func (g *Grant) end(e *Event) {
	if e.State == "" || e.Request != g.Request {
		return
	}
	g.Ended, g.EndedBy, g.EndedWhy = e.State, e.Actor, e.Why
	if e.Time.Before(g.Until) {
		g.Until = e.Time
	}
}
