package audit

import (
	"fmt"
	"strings"
	"time"

	"hallpass/access"
	"hallpass/statement"
)

// counted counts for policy's limits as a replay goes through the log. It says
// of each moment what the database said then.
type counted struct {
	open    running
	had     []asked // requests that were received within the last hours, in the order of the log; none of them is asked for later
	before  had     // of the request that is being counted for
	denials map[string]time.Time
	tasks   map[string]*access.ReviewTask // that aren't done, by request
}

type asked struct {
	request, requester, resource string

	at      time.Time
	limited bool
}

// remember is how long a request is kept to be counted for those that are
// received after it: the hour that counts, and as much again for clocks that
// differ.
const remember = 2 * time.Hour

// had is how many requests were received within the hour before another one:
// by its requester, for its resource, and both. That is noted when that one is
// received, since it may be prepared days later.
type had struct{ requester, resource, both int }

func (c *counted) received(e *Event) (before had) {
	for len(c.had) > 0 && e.Time.Sub(c.had[0].at) > remember {
		c.had = c.had[1:]
	}
	for _, a := range c.had {
		if a.limited || !a.at.After(e.Time.Add(-time.Hour)) {
			continue
		}
		if a.requester == e.Requester {
			before.requester++
		}
		if a.resource == e.Resource {
			before.resource++
		}
		if a.requester == e.Requester && a.resource == e.Resource {
			before.both++
		}
	}
	c.had = append(c.had, asked{request: e.Request, requester: e.Requester, resource: e.Resource, at: e.Time})
	return before
}

func (c *counted) limited(e *Event) {
	for i := range c.had {
		if c.had[i].request == e.Request {
			c.had[i].limited = true
		}
	}
}

func (c *counted) prepared(e *Event) {
	if c.open == nil {
		c.open = running{}
	}
	c.open[e.Request] = grantee{e.Requester, e.Resource, e.Handle.Extends, e.Handle.Over()}
}

func (c *counted) ended(e *Event) {
	delete(c.open, e.Request)
	if !spoken(e) {
		return
	}
	if c.denials == nil {
		c.denials = map[string]time.Time{}
	}
	for _, s := range []scope{{requester: e.Requester}, {resource: e.Resource}, {requester: e.Requester, resource: e.Resource}} {
		if key := s.String(); e.Time.After(c.denials[key]) {
			c.denials[key] = e.Time
		}
	}
}

// These three are what counting has from the database.

func (c *counted) running(s scope, now time.Time, who asking) (n int, first time.Time, err error) {
	n, first = c.open.count(s, now, who)
	return n, first, nil
}

func (c *counted) asked(s scope, n int, _ int64, since time.Time) (time.Time, bool, error) {
	count := c.before.both
	switch {
	case s.resource == "":
		count = c.before.requester
	case s.requester == "":
		count = c.before.resource
	}
	return since, count >= n, nil // when the n-th last was, nobody asks here
}

func (c *counted) denied(s scope, since time.Time) (time.Time, bool, error) {
	at := c.denials[s.String()]
	return at, at.After(since), nil
}

func (c *counted) overdue(requester string, now time.Time) (request string, due time.Time, err error) {
	for id, task := range c.tasks {
		if task.Requester == requester && task.Overdue(now) && (request == "" || task.Due.Before(due)) {
			request, due = id, task.Due
		}
	}
	return request, due, nil
}

func (c *counted) broke(task *access.ReviewTask) {
	if c.tasks == nil {
		c.tasks = map[string]*access.ReviewTask{}
	}
	c.tasks[task.Request] = task
}

func (c *counted) reviewed(request string) { delete(c.tasks, request) }

// preparation is what there was to count when a handle was prepared: whether
// there was room is known once the request is, by the rules of that moment.
type preparation struct {
	digests access.Digests
	at      time.Time    // that the rules were asked about
	context access.Facts // that they were asked in
	ruled   access.Limits
	broken  bool   // by break-glass
	why     string // there was no room for it
}

// prepare counts what there is when a handle is prepared, and then the handle.
func (p *replay) prepare(e *Event, s *story) {
	defer p.counts.prepared(e)
	if p.partial || e.Ruling == nil || e.digests() == nil {
		return
	}
	s.prepared = &preparation{digests: *e.digests(), at: judgedAt(e), context: e.Ruling.Context, ruled: e.Ruling.Limits, broken: e.Ruling.Emergency != nil}
	who := asking{request: e.Request, requester: e.Requester, resource: e.Resource, extends: e.Handle.Extends}
	if !s.received.IsZero() {
		who.received, who.at = true, s.received
	}
	p.counts.before = s.had
	if no, _ := exhausted(&p.counts, *e.Ruling, who, e.Time, false); no != nil { // counting what is in memory has no errors
		s.prepared.why, _, _ = strings.Cut(no.Message, roomAt) // there was, by now
	}
}

// hadRoom checks that a credential was prepared under the limits of the day,
// and that they left room for it.
func (p *replay) hadRoom(e *Event, s *story) error {
	was := s.prepared
	if was == nil {
		if p.partial {
			return nil
		}
		// Nobody has said what it was prepared under.
		was = &preparation{digests: *e.digests(), at: judgedAt(e)}
		if e.Ruling != nil {
			was.context = e.Ruling.Context
		}
	}
	book, err := p.rulebook(was.digests)
	if err != nil {
		return err
	}
	if !book.Policy.Limited() && s.glass.emergency == nil {
		return nil
	}
	request, err := statement.ParseRequest([]byte(e.Evidence.Request.Payload))
	if err != nil {
		return err
	}
	ruling := book.With(was.context).Decide(request, s.extends, was.at)
	switch {
	case s.glass.emergency != nil && !was.broken:
		return fmt.Errorf("it was prepared as if nobody broke the glass")
	case book.Silent(request, was.context) != "":
		return fmt.Errorf("it was prepared in silence of %s, which policy asks", book.Silent(request, was.context))
	case ruling.Effect == access.EffectDeny:
		return fmt.Errorf("it was prepared under rules that deny it: %s", ruling.Why)
	case ruling.Limits != was.ruled:
		return fmt.Errorf("it was prepared under other limits than policy's")
	case was.why != "":
		return fmt.Errorf("policy's limits left no room for it: %s", was.why)
	}
	return nil
}
