package audit

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"hallpass/access"
	"hallpass/statement"
)

// asking is who asks for what, and its place in the log.
type asking struct {
	request, requester, resource string
	extends                      string // the request whose grant it extends

	received bool      // it is on record that it was received:
	index    int64     // in this event,
	at       time.Time // at this time
}

// scope is one of policy's three limits, with whose it is.
type scope struct {
	access.Limit
	requester, resource string // "" for whichever
}

// scopes are those of the limits that limit something.
func scopes(l access.Limits, requester, resource string) (out []scope) {
	for _, s := range []scope{{l.User, requester, ""}, {l.Resource, "", resource}, {l.Both, requester, resource}} {
		if s.Limit != (access.Limit{}) {
			out = append(out, s)
		}
	}
	return out
}

// has says whether something of a requester and a resource counts here.
func (s scope) has(requester, resource string) bool {
	return (s.requester == "" || s.requester == requester) && (s.resource == "" || s.resource == resource)
}

func (s scope) String() string {
	switch {
	case s.resource == "":
		return s.requester
	case s.requester == "":
		return s.resource
	}
	return s.requester + " on " + s.resource
}

// where selects events of this scope.
func (s scope) where() (terms string, args []any) {
	if s.requester != "" {
		terms, args = terms+" AND requester = ?", append(args, s.requester)
	}
	if s.resource != "" {
		terms, args = terms+" AND resource = ?", append(args, s.resource)
	}
	return terms, args
}

// counts are what a log says of a scope, and are asked only where its limit
// needs them.
type counts interface {
	// running are the grants that haven't ended, and when the first of them
	// will, of others than the request. Those that another extends don't count.
	running(s scope, now time.Time, who asking) (n int, first time.Time, err error)
	// asked is when the n-th last request before the place in the log was
	// received, if that was after since, but for those that a limit refused.
	asked(s scope, n int, place int64, since time.Time) (time.Time, bool, error)
	// denied is when somebody denied a request last, if that was after since.
	denied(s scope, since time.Time) (time.Time, bool, error)
	// overdue is a request of the requester's, by break-glass, whose review was
	// due before now and isn't done; "" if there is none.
	overdue(requester string, now time.Time) (request string, due time.Time, err error)
}

// roomAt comes before the time at which there is room.
const roomAt = "; there is room at "

// exhausted says which limit leaves no room, nil where there is room. Grants that
// have yet to begin don't run, so only the issuer counts them.
func exhausted(c counts, ruling access.Ruling, who asking, now time.Time, later bool) (*access.Error, error) {
	say := func(s scope, free time.Time, format string, args ...any) *access.Error {
		return access.Errorf(access.CodeLimited, "%s %s"+roomAt+"%s", s, fmt.Sprintf(format, args...), ceilSecond(free).Format(time.RFC3339))
	}
	if ruling.Emergency != nil {
		request, due, err := c.overdue(who.requester, now)
		if err != nil {
			return nil, err
		}
		if request != "" {
			return access.Errorf(access.CodeLimited, "%s breaks no more glass until request %s is signed off, which was due at %s",
				who.requester, request, due.UTC().Truncate(time.Second).Format(time.RFC3339)).WithHint("hallpass reviews"), nil
		}
	}
	for _, s := range scopes(ruling.Limits, who.requester, who.resource) {
		if s.Cooldown > 0 {
			at, denied, err := c.denied(s, now.Add(-s.Cooldown.Duration()))
			if err != nil {
				return nil, err
			}
			if denied {
				return say(s, at.Add(s.Cooldown.Duration()), "was denied at %s, after which policy grants nothing for %s", at.Format(time.RFC3339), s.Cooldown), nil
			}
		}
		if s.PerHour > 0 && !who.received {
			return access.Errorf(access.CodeLimited, "it isn't on record when request %s was received, so it doesn't count among the %d within an hour that policy allows", clip(who.request), s.PerHour), nil
		}
		if s.PerHour > 0 {
			at, many, err := c.asked(s, s.PerHour, who.index, who.at.Add(-time.Hour))
			if err != nil {
				return nil, err
			}
			if many {
				return say(s, at.Add(time.Hour), "has had %s, as many as policy allows within an hour", plural(int64(s.PerHour), "1 request", "requests")), nil
			}
		}
		if s.Running > 0 && !later {
			n, first, err := c.running(s, now, who)
			if err != nil {
				return nil, err
			}
			if n >= s.Running {
				return say(s, first, "has %s running, and policy allows %d at once", plural(int64(n), "1 grant", "grants"), s.Running), nil
			}
		}
	}
	return nil, nil
}

// ceilSecond is t in whole seconds, rounded up.
func ceilSecond(t time.Time) time.Time { return t.Add(time.Second - 1).UTC().Truncate(time.Second) }

// counting counts in a write transaction: nobody else's grant can come
// between counting and recording.
type counting struct{ *tx }

func (t counting) running(s scope, now time.Time, who asking) (n int, first time.Time, err error) {
	open := running{}
	const query = `SELECT l.request, l.handle,
		(SELECT requester FROM events e WHERE e.request = l.request AND e.step = 'credential.prepared' AND e.step <> ''),
		(SELECT resource FROM events e WHERE e.request = l.request AND e.step = 'credential.prepared' AND e.step <> '')
		FROM ledger l WHERE l.ended = '' AND l.handle <> ''`
	err = t.read(func(row scanner) error {
		var id, handle, requester, resource string
		var h access.Handle
		if err := row.Scan(&id, &handle, &requester, &resource); err != nil {
			return err
		}
		if err := json.Unmarshal([]byte(handle), &h); err != nil {
			return err
		}
		open[id] = grantee{requester, resource, h.Extends, h.Over()}
		return nil
	}, query)
	n, first = open.count(s, now, who)
	return n, first, err
}

// running are the grants that haven't ended, by request.
type running map[string]grantee

type grantee struct {
	requester, resource, extends string

	over time.Time
}

// count counts those of a scope. A grant and those that extend it are one.
func (r running) count(s scope, now time.Time, who asking) (n int, first time.Time) {
	extended := map[string]bool{who.request: true, who.extends: true}
	for _, g := range r {
		extended[g.extends] = true
	}
	for id, g := range r {
		if !extended[id] && s.has(g.requester, g.resource) && g.over.After(now) {
			n++
			if first.IsZero() || g.over.Before(first) {
				first = g.over
			}
		}
	}
	return n, first
}

func (t counting) asked(s scope, n int, place int64, since time.Time) (at time.Time, many bool, err error) {
	terms, args := s.where()
	query := fmt.Sprintf(`SELECT time FROM events WHERE type = 'request.received' AND idx < ? AND time > ?%s AND NOT EXISTS
		(SELECT 1 FROM events l WHERE l.request = events.request AND l.step = 'limited' AND l.step <> '')
		ORDER BY time DESC LIMIT 1 OFFSET %d`, terms, n-1)
	var milli int64
	many, err = t.find([]any{&milli}, query, append([]any{place, since.UnixMilli()}, args...)...)
	return time.UnixMilli(milli).UTC(), many, err
}

func (t counting) denied(s scope, since time.Time) (at time.Time, denied bool, err error) {
	terms, args := s.where()
	query := "SELECT leaf FROM events WHERE type = 'request.denied' AND actor <> '' AND time > ?" + terms + " ORDER BY time DESC"
	err = t.read(func(row scanner) error {
		var leaf []byte
		if err := row.Scan(&leaf); err != nil || denied {
			return err
		}
		e, err := ParseEvent(leaf)
		if err != nil {
			return broken("an event of a denial: %v", err)
		}
		if at, denied = e.Time, spoken(&e); !denied {
			at = time.Time{}
		}
		return nil
	}, query, append([]any{since.UnixMilli()}, args...)...)
	return at, denied, err
}

// spoken says whether e is the end of a request that somebody has denied. A
// lock isn't about the request.
func spoken(e *Event) bool {
	if e.Type != RequestDenied || e.Actor == "" || e.Statement == nil {
		return false
	}
	typ, err := ending(e.State, *e.Statement)
	return err == nil && typ != access.TypeLock
}

// place looks up where a request was received.
func (t *tx) place(request, requester, resource string) (asking, error) {
	who := asking{request: request, requester: requester, resource: resource}
	f, err := t.at(slot{request, receivedStep})
	if err != nil || !f.found {
		return who, err
	}
	e, err := ParseEvent(f.leaf)
	if err != nil {
		return who, broken("event %d: %v", f.index, err)
	}
	who.received, who.index, who.at = true, f.index, e.Time
	return who, nil
}

// The steps of a request's events that Receive writes.
const (
	receivedStep = "received"
	limitedStep  = "limited"
	ruledStep    = "ruled"
)

// Reception is a request that was received, and what is ruled on it.
type Reception struct {
	Event  Event         // what it was received as (request.received)
	Ruling access.Ruling // whose limits are counted; one that denies leaves nothing to count
	Later  bool          // the grant begins later, so it doesn't count as running yet
	Locks  int64         // the lock statements that it was ruled under

	// What is on record with the ruling (request.ruled). Why becomes that of the limit
	// which leaves no room, unless it is Denied as it is.
	Code   access.Code
	Why    string
	Denied bool
}

// Receive records that a request was received (request.received), unless it
// was before, and counts whether policy's limits leave room for it: CodeLimited
// says that they don't, and is on record (request.limited). Saying it again
// says the same. In the same transaction goes the ruling on record (request.ruled):
// CodeUnavailable says that something was locked or unlocked since, and that nothing is
// put on record. So whatever is locked from here on finds the request there.
//
// Whether there is room when it is issued is counted again, by Reserve.
func (l *Log) Receive(ctx context.Context, in Reception) error {
	e := in.Event
	e.Type, e.Step = RequestReceived, receivedStep
	ruled := Event{
		Type: RequestRuled, Step: ruledStep, Request: e.Request, RequestHash: e.RequestHash, Requester: e.Requester, Resource: e.Resource,
		Ruling: &in.Ruling, Code: in.Code, Why: in.Why,
	}
	request := plain(e.Request)
	refusal, err := update(ctx, l, func(t *tx) (*access.Error, error) {
		if err := t.underLocks(in.Locks); err != nil {
			return nil, err
		}
		refusal, err := t.receive(e, in.Ruling, in.Later)
		if err != nil {
			return nil, err
		}
		if refusal != nil && !in.Denied {
			ruled.Why = refusal.Error()
		}
		_, err = t.append(ruled)
		return refusal, err
	}, slot{request, receivedStep}, slot{request, limitedStep}, slot{request, ruledStep})
	if err == nil && refusal != nil {
		return refusal
	}
	return err
}

// receive is what Receive does but for the ruling.
func (t *tx) receive(e Event, ruling access.Ruling, later bool) (*access.Error, error) {
	p := slot{plain(e.Request), receivedStep}
	was, err := t.at(p)
	if err != nil {
		return nil, err
	}
	if e.Time.IsZero() {
		e.Time = t.log.now()
	}
	if _, err := t.append(e); err != nil {
		return nil, err
	}
	if was.found {
		return t.wasLimited(p.request)
	}
	if ruling.Effect == access.EffectDeny || unbounded(ruling) {
		return nil, nil
	}
	who, err := t.place(p.request, plain(e.Requester), plain(e.Resource))
	if err != nil {
		return nil, err
	}
	if e.Statement != nil {
		if request, err := statement.ParseRequest([]byte(e.Statement.Payload)); err == nil {
			who.extends = request.Extends
		}
	}
	refusal, err := exhausted(counting{t}, ruling, who, who.at, later)
	if err != nil || refusal == nil {
		return nil, err
	}
	limited := Event{
		Type: RequestLimited, Time: e.Time, Request: e.Request, RequestHash: e.RequestHash, Step: limitedStep,
		Requester: e.Requester, Resource: e.Resource, Code: refusal.Code, Why: refusal.Message, Digests: e.Digests,
	}
	_, err = t.append(limited)
	return refusal, err
}

// wasLimited is the refusal that is on record of a request, nil if there is
// none.
func (t *tx) wasLimited(request string) (*access.Error, error) {
	f, err := t.at(slot{request, limitedStep})
	if err != nil || !f.found {
		return nil, err
	}
	e, err := ParseEvent(f.leaf)
	if err != nil {
		return nil, broken("event %d: %v", f.index, err)
	}
	return access.Errorf(access.CodeLimited, "%s", e.Why), nil
}

// room says whether limits leave room for a grant that is about to be
// prepared.
func (t *tx) room(ruling access.Ruling, h access.Handle, requester, resource string, now time.Time) (*access.Error, error) {
	if unbounded(ruling) {
		return nil, nil
	}
	who, err := t.place(h.Request, requester, resource)
	if err != nil {
		return nil, err
	}
	who.extends = h.Extends
	return exhausted(counting{t}, ruling, who, now, false)
}

// unbounded says whether there is nothing to count.
func unbounded(r access.Ruling) bool { return r.Limits == (access.Limits{}) && r.Emergency == nil }
