package service

import (
	"errors"
	"maps"
	"math"
	"slices"
	"sync"
	"time"

	"hallpass/access"
)

// What one person may call. A command that waits makes about one call in ten
// seconds; one that lists what is pending makes one for each.
const (
	callsPerSecond = 20.0
	callsAtOnce    = 200 // after a pause
	callsOpen      = 32  // that are worked on, or wait, at the same moment
	listedPerCall  = 100 // a list of so many counts as one more call
)

// What one person may begin: requests, delegations, reviews, and locks where he has no right
// to them. Each is a workflow's work, and stays on record. A machine of two cores with all of hallpass on
// it takes some twenty requests in a second, from everybody (docs/performance.md).
const (
	asksPerSecond = 2.0
	asksAtOnce    = 50 // after a pause
)

// What one person may say. A request hears a thousand messages, from whomever, so
// nobody gets to use up more than a few of them.
const (
	saysToOne = 10   // statements of one kind to one request
	saysTo    = 2000 // pairs of a kind and a request
	saysFor   = 24 * time.Hour
)

// What one host may ask an issuer for, as one that joins and as one that is in: its agent
// asks once a day, when it is told to reload, and again after a minute if it got no answer.
const (
	renewsPerSecond = 0.1
	renewsAtOnce    = 10 // after a pause
	renewsOpen      = 2  // at the same moment
)

// What one host may tell. A session makes two reports or three, and each takes the audit
// log a moment, in which nothing is issued.
const (
	reportsPerSecond = 100.0
	reportsAtOnce    = 2000 // after a pause
	reportsOpen      = 2    // messages at the same moment
)

// guests are those who have called, each with what he may still ask for. Only
// who is in the directory is let in, so there are no more than it has users.
type guests struct {
	now func() time.Time

	mu sync.Mutex
	of map[string]*guest
}

// guest is one of them.
type guest struct {
	calls, asks allowance

	open int

	said  map[string][]string // ids of statements, by kind and request
	since time.Time           // when there were none
}

// allowance is what is left of something that comes back with time.
type allowance struct {
	left float64
	at   time.Time // when that was so
}

// take takes some of it, or says how long to wait until there is as much.
func (a *allowance) take(now time.Time, cost, most, perSecond float64) (wait time.Duration) {
	a.left = min(most, a.left+max(0, now.Sub(a.at).Seconds())*perSecond)
	a.at = now
	if a.left < cost {
		return time.Duration(math.Ceil((cost-a.left)/perSecond)) * time.Second
	}
	a.left -= cost
	return 0
}

// full says whether all of it has come back.
func (a allowance) full(now time.Time, most, perSecond float64) bool {
	return a.left+max(0, now.Sub(a.at).Seconds())*perSecond >= most
}

// enter counts a call that costs as much as so many. It says how long to stay
// away if that is too much, and otherwise returns what to call at the end.
func (g *guests) enter(name string, cost float64) (leave func(), wait time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := g.now()
	one := g.of[name]
	if one == nil {
		one = &guest{calls: allowance{callsAtOnce, now}, asks: allowance{asksAtOnce, now}}
		g.of[name] = one
	}
	if one.open >= callsOpen {
		return nil, time.Second
	}
	if wait := one.calls.take(now, min(cost, callsAtOnce), callsAtOnce, callsPerSecond); wait > 0 {
		return nil, wait
	}
	one.open++
	return func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		one.open--
	}, 0
}

// ask counts what begins something, of somebody who has entered, and says how long to wait if
// it is one too many.
func (g *guests) ask(name string) (wait time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.of[name].asks.take(g.now(), 1, asksAtOnce, asksPerSecond)
}

// say counts a statement of somebody who has entered. If that is too much, full is
// when there is room again, and here says that it is so of this kind and request,
// and not of all of them. Otherwise unsay takes the statement back, which wasn't
// heard. The same one again isn't counted: it is heard once.
func (g *guests) say(name, kind, request, id string) (unsay func(), full time.Time, here bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	one := g.of[name]
	unsay = func() {}
	if now := g.now(); one.said == nil || now.Sub(one.since) >= saysFor {
		one.said, one.since = map[string][]string{}, now
	}
	to := kind + " " + request
	before, known := one.said[to]
	switch {
	case slices.Contains(before, id):
	case len(before) >= saysToOne, !known && len(one.said) >= saysTo:
		return unsay, one.since.Add(saysFor), known
	default:
		one.said[to] = append(before, id)
		unsay = func() {
			g.mu.Lock()
			defer g.mu.Unlock()
			if i := slices.Index(one.said[to], id); i >= 0 {
				one.said[to] = slices.Delete(one.said[to], i, i+1)
			}
			if len(one.said[to]) == 0 {
				delete(one.said, to)
			}
		}
	}
	return unsay, time.Time{}, false
}

// machines are the hosts that have shown that they are the ones they say, each with what
// it may still ask and tell, and the join tokens that are used. What has all of it is
// forgotten once there are many.
type machines struct {
	now func() time.Time

	mu    sync.Mutex
	of    map[string]*machine
	joins map[string]*allowance // by the id of the token
}

func newMachines(now func() time.Time) machines {
	return machines{now: now, of: map[string]*machine{}, joins: map[string]*allowance{}}
}

// manyMachines is how many there are before those are forgotten that have all.
const manyMachines = 1000

// machine is one of them.
type machine struct {
	renewals, reports allowance
	renewing, telling int

	refused map[reportID]*access.Error // reports that were refused: those of the last few hundred, so that one that comes again takes nothing
}

// maxRefusals is how many of them are kept.
const maxRefusals = 500

// reportID is what a report has alone: it is one event of one request.
type reportID struct{ request, id string }

func (m *machines) host(name string) *machine {
	one := m.of[name]
	if one == nil {
		now := m.now()
		if len(m.of) >= manyMachines {
			maps.DeleteFunc(m.of, func(_ string, is *machine) bool {
				return is.renewing+is.telling == 0 && is.renewals.full(now, renewsAtOnce, renewsPerSecond) && is.reports.full(now, reportsAtOnce, reportsPerSecond)
			})
		}
		one = &machine{renewals: allowance{renewsAtOnce, now}, reports: allowance{reportsAtOnce, now}}
		m.of[name] = one
	}
	return one
}

// renew counts a renewal. It says how long to stay away if that is one too many, and
// otherwise returns what to call at the end.
func (m *machines) renew(name string) (leave func(), wait time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	one := m.host(name)
	if one.renewing >= renewsOpen {
		return nil, time.Second
	}
	if wait := one.renewals.take(m.now(), 1, renewsAtOnce, renewsPerSecond); wait > 0 {
		return nil, wait
	}
	one.renewing++
	return m.leave(&one.renewing), 0
}

// join counts what is sent with a join token, and says how long to stay away if that is
// one too many. Only who has that very token can use it up.
func (m *machines) join(id string) (wait time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now, one := m.now(), m.joins[id]
	if one == nil {
		if len(m.joins) >= manyMachines {
			maps.DeleteFunc(m.joins, func(_ string, is *allowance) bool { return is.full(now, renewsAtOnce, renewsPerSecond) })
		}
		one = &allowance{renewsAtOnce, now}
		m.joins[id] = one
	}
	return one.take(now, 1, renewsAtOnce, renewsPerSecond)
}

// tell counts so many reports that a host has signed, and that are neither on record nor
// were refused. It says how long the host shall keep them if that is too much, and
// otherwise returns what to call at the end.
func (m *machines) tell(name string, n int) (leave func(), wait time.Duration) {
	if n == 0 {
		return func() {}, 0
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	one := m.host(name)
	if one.telling >= reportsOpen {
		return nil, time.Second
	}
	// A message is taken whole, and what is too much of it is waited for before the next.
	if wait := one.reports.take(m.now(), 1, reportsAtOnce, reportsPerSecond); wait > 0 {
		return nil, wait
	}
	one.reports.left -= float64(n - 1)
	one.telling++
	return m.leave(&one.telling), 0
}

// refuse keeps in mind why a report was refused, if it was.
func (m *machines) refuse(name string, id reportID, err error) {
	var refusal *access.Error
	if !errors.As(err, &refusal) || refusal.Code == access.CodeUnavailable {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	one := m.host(name)
	if one.refused == nil || len(one.refused) >= maxRefusals {
		one.refused = map[reportID]*access.Error{}
	}
	one.refused[id] = refusal
}

// refusal is why a report was refused, nil if it wasn't, as far as that is known.
func (m *machines) refusal(name string, id reportID) *access.Error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if one := m.of[name]; one != nil {
		return one.refused[id]
	}
	return nil
}

func (m *machines) leave(of *int) func() {
	return func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		*of--
	}
}
