package audit

import (
	"cmp"
	"context"
	"encoding/json"
	"maps"
	"slices"
	"time"

	"hallpass/access"
	"hallpass/statement"
)

// fewest is how many requests have to have been approved, and none refused,
// before that says something.
const fewest = 3

// Review is what a log says of a time: who had what, on whose word, and what
// became of it. It is made in the same pass over the log that verifies it.
type Review struct {
	Log        string      `json:"log"`        // name and hash of the log's key
	Checkpoint string      `json:"checkpoint"` // the signed checkpoint that it was made from
	Size       int64       `json:"size"`       // events that it covers
	From       time.Time   `json:"from"`       // requests that were heard of, and grants that were open, from here on
	To         time.Time   `json:"to"`         // up to, not including
	Counts     Counts      `json:"counts"`
	Requests   []Reviewed  `json:"requests"`   // in the order in which they were heard of
	Candidates []Candidate `json:"candidates"` // those with the most requests first
	Users      []Tally     `json:"users"`      // by name
	Resources  []Tally     `json:"resources"`  // by name
}

// How a grant was used, as far as that is known.
const (
	UseSeen    = "used"    // a host has told of a session
	UseNever   = "never"   // a host that tells of sessions told of none
	UseUnknown = "unknown" // nobody tells: no host of it had enrolled, or it is Vault, whose own audit log knows
)

// How the review of an access by break-glass stands, at the end of the time.
const (
	ReviewedDone = "done"
	ReviewedOpen = "open"
	ReviewedLate = "overdue"
)

// Who or what denied a request.
const (
	DeniedByPolicy = "policy"
	DeniedByPerson = "approver" // a decision, or a revoke before anything was granted
	DeniedByLimit  = "limit"    // of policy: too many running, too often, or too soon
	DeniedByLock   = "lock"
	DeniedByGrant  = "grant"  // that it was to extend: it was over, or extended before
	DeniedByIssuer = "issuer" // by the files, the locks or the time of the issue
)

// Reviewed is one request.
type Reviewed struct {
	Request    string         `json:"request"`
	Requester  string         `json:"requester"`
	Resource   string         `json:"resource"`
	Login      string         `json:"login,omitempty"`
	Actions    []string       `json:"actions,omitempty"`
	Command    string         `json:"command,omitempty"`
	Reason     string         `json:"reason,omitempty"`
	Ticket     string         `json:"ticket,omitempty"`
	Asked      time.Time      `json:"asked,omitzero"`        // when it was first heard of; zero if the log doesn't say
	Duration   access.Seconds `json:"duration"`              // asked for
	Rules      []string       `json:"rules,omitempty"`       // that matched
	Automatic  bool           `json:"automatic,omitempty"`   // granted on nobody's word
	ApprovedBy []string       `json:"approved_by,omitempty"` // on whose word it was granted
	Emergency  bool           `json:"emergency,omitempty"`   // break-glass: granted on nobody's word, and not automatic
	Review     string         `json:"review,omitempty"`      // of that: done, open or overdue
	ReviewedBy []string       `json:"reviewed_by,omitempty"` // who has signed it off so far
	DeniedBy   string         `json:"denied_by,omitempty"`   // policy, limit, approver, lock, grant or issuer
	Escalated  int            `json:"escalated,omitempty"`   // steps of the escalation that it reached
	From       time.Time      `json:"from,omitzero"`         // of the grant, zero where there was none
	Until      time.Time      `json:"until,omitzero"`        // when it ended, or will end
	Use        string         `json:"use,omitempty"`         // of the grant: used, never or unknown
	Sessions   int            `json:"sessions,omitempty"`
	Extends    string         `json:"extends,omitempty"` // the request whose grant it extends; sessions go on under that one
	State      access.State   `json:"state"`             // its end, or as far as the log knows pending or active
	EndedBy    string         `json:"ended_by,omitempty"`
	EndedWhy   string         `json:"ended_why,omitempty"`

	asks   []string // rules that asked for approvals
	effect access.Effect
	index  int64
	issued time.Time
	word   access.Type // of the statement that ended it

	refused, limited bool      // there is an event that says so
	over             bool      // so was what it extends, by the first ruling
	due              time.Time // of the review
}

// Granted says whether there was access.
func (r *Reviewed) Granted() bool { return !r.From.IsZero() }

// in says whether the request belongs to the time.
func (r *Reviewed) in(from, to time.Time) bool {
	return r.asked(from, to) || r.Granted() && r.From.Before(to) && r.Until.After(from)
}

// asked says whether it was first heard of in the time.
func (r *Reviewed) asked(from, to time.Time) bool {
	return !r.Asked.IsZero() && !r.Asked.Before(from) && r.Asked.Before(to)
}

// Counts sums requests up.
type Counts struct {
	Requests  int            `json:"requests"`
	Granted   int            `json:"granted"`
	Automatic int            `json:"automatic"` // of those granted
	Emergency int            `json:"emergency"` // of those granted: break-glass
	Overdue   int            `json:"overdue"`   // of those: not reviewed in time
	Escalated int            `json:"escalated"` // of all
	Denied    int            `json:"denied"`
	TimedOut  int            `json:"timed_out"`
	Cancelled int            `json:"cancelled"`
	Revoked   int            `json:"revoked"` // of those granted
	Never     int            `json:"never"`   // of those granted: never used
	Held      access.Seconds `json:"held"`    // how long the grants were open within the time, together
}

func (c *Counts) add(r *Reviewed, from, to time.Time) {
	c.Requests++
	if r.Escalated > 0 {
		c.Escalated++
	}
	switch r.State {
	case access.StateDenied:
		c.Denied++
	case access.StateTimedOut:
		c.TimedOut++
	case access.StateCancelled:
		c.Cancelled++
	case access.StateRevoked:
		if r.Granted() {
			c.Revoked++
		}
	}
	if !r.Granted() {
		return
	}
	c.Granted++
	if r.Automatic {
		c.Automatic++
	}
	if r.Emergency {
		c.Emergency++
	}
	if r.Review == ReviewedLate {
		c.Overdue++
	}
	if r.Use == UseNever {
		c.Never++
	}
	begin, end := r.From, r.Until
	if begin.Before(from) {
		begin = from
	}
	if end.After(to) {
		end = to
	}
	c.Held += access.InSeconds(max(0, end.Sub(begin)))
}

// Tally is the counts of one user or resource.
type Tally struct {
	Name string `json:"name"`
	Counts
}

// Candidate is a rule that has asked people about one resource and never heard
// a no: a candidate for being automatic. It counts the requests that were
// first heard of in the time.
type Candidate struct {
	Rule      string         `json:"rule"`
	Resource  string         `json:"resource"`
	Requests  int            `json:"requests"` // all of them approved
	Users     int            `json:"users"`    // who asked
	Approvers []string       `json:"approvers"`
	Wait      access.Seconds `json:"wait"` // from the request to the credential, the median
}

// AccessReview verifies the log and says what it has on the time from <= t < to. Of
// a log that doesn't verify there is no review: the report says why, and the
// review is empty.
//
// What was granted, when and on whose word has been judged again on the way.
// That something was refused, and for how long it waited, is the word of the
// workflow's worker.
func (r *Reader) AccessReview(ctx context.Context, from, to time.Time) (Review, Report, error) {
	report := Report{Log: r.PublicKey()}
	conn, end, err := r.snapshot(ctx)
	if err != nil {
		return Review{}, report, err
	}
	defer end()
	have, err := checkSchema(ctx, r.db, conn)
	if err != nil {
		return Review{}, report, err
	}
	v := &verification{ctx: ctx, db: r.db, conn: conn, report: &report, verifier: r.verifier, replay: newReplay(&report)}
	v.replay.schema = have
	g := &gathering{from: from, to: to, replay: v.replay, open: map[string]*Reviewed{}, hosts: map[string]bool{}}
	v.watch = g.event
	if err := v.run(); err != nil {
		return Review{}, report, err
	}
	if report.OK = len(report.Problems) == 0; !report.OK {
		return Review{}, report, nil
	}
	review := g.sum()
	review.Log, review.Checkpoint, review.Size = report.Log, report.Checkpoint, report.Size
	return review, report, nil
}

// gathering takes events in, in their order, after they were judged.
type gathering struct {
	from, to time.Time
	replay   *replay
	open     map[string]*Reviewed // all that may belong to the time
	hosts    map[string]bool      // that have enrolled
	told     map[string]bool      // resources that a host tells of, by catalog and hosts; nil: not made
	catalog  string               // its digest
}

func (g *gathering) event(index int64, e *Event) {
	if e.Type == HostEnrolled {
		g.hosts[e.Host.Name], g.told = true, nil
		return
	}
	if e.Request == "" || e.Type == StatementRefused || e.Type == HostCertified {
		return
	}
	r := g.open[e.Request]
	if e.Type == CredentialRefused {
		// Nothing in it can be relied on, but that an issuer has said no.
		if r != nil {
			r.refused = true
		}
		return
	}
	if r == nil {
		if e.Type != RequestReceived && e.Type != CredentialIssued && e.State == "" {
			return
		}
		r = &Reviewed{Request: e.Request, Requester: e.Requester, Resource: e.Resource, State: access.StatePending, index: index}
		g.open[e.Request] = r
	}
	switch e.Type {
	case RequestReceived:
		r.Asked = e.Time
		if e.Statement != nil {
			r.ask(e.Statement.Payload)
		}
	case RequestRuled:
		if e.Ruling != nil {
			r.Rules, r.effect, r.over = e.Ruling.Rules, e.Ruling.Effect, e.Code == access.CodeEnded
			r.asks = nil
			for _, n := range e.Ruling.Needs {
				r.asks = append(r.asks, n.Rule)
			}
		}
	case RequestLimited:
		r.limited = true
	case RequestEscalated:
		r.Escalated++
	case CredentialIssued:
		if grant, err := grantOf(index, e); err == nil {
			r.ask(e.Evidence.Request.Payload)
			r.Rules, r.ApprovedBy, r.Automatic = grant.Rules, grant.ApprovedBy, len(grant.ApprovedBy) == 0
			r.From, r.Until, r.State, r.issued = grant.From, grant.Until, access.StateActive, e.Time
			r.Use = UseUnknown
			if g.tells(e.digests(), r.Resource) {
				r.Use = UseNever
			}
			if r.Extends = e.Credential.Handle.Extends; r.Extends != "" {
				r.Use = UseUnknown // sessions that were open go on under the other's id
				if was := g.open[r.Extends]; was != nil && was.Until.After(r.From) && was.Until.Before(r.Until) {
					r.From = was.Until // until there it is that one's time
				}
			}
		}
	case EmergencyGranted:
		// By the issuer, in one transaction with the credential and after it.
		r.Emergency, r.Automatic, r.Review = true, false, ReviewedOpen
		if e.Ruling != nil && e.Ruling.Emergency != nil {
			r.due = e.Time.Add(e.Ruling.Emergency.Within.Duration())
		}
	case ReviewSigned:
		r.ReviewedBy = append(r.ReviewedBy, e.Actor)
	case ReviewDone:
		r.Review = ReviewedDone
	case SessionOpened:
		r.Sessions++
		r.Use = UseSeen
	}
	if e.State != "" {
		r.end(e)
		if !r.in(g.from, g.to) {
			delete(g.open, e.Request)
		}
	}
}

// ask takes in what was asked for.
func (r *Reviewed) ask(payload string) {
	q, err := statement.ParseRequest([]byte(payload))
	if err != nil {
		return
	}
	r.Login, r.Actions, r.Command, r.Reason, r.Ticket, r.Duration = q.Login, q.Actions, q.Command, q.Reason, q.Ticket, q.Duration
}

func (r *Reviewed) end(e *Event) {
	r.State, r.EndedBy, r.EndedWhy = e.State, e.Actor, e.Why
	if e.Statement != nil {
		var h access.Header
		if json.Unmarshal([]byte(e.Statement.Payload), &h) == nil {
			r.word = h.Type
		}
	}
	if r.Granted() && e.Time.Before(r.Until) {
		r.Until = e.Time
		if r.From.After(r.Until) {
			r.From = r.Until // an extension whose own time never came
		}
	}
	if e.State == access.StateDenied {
		switch {
		case r.word == access.TypeLock:
			r.DeniedBy = DeniedByLock
		case r.word != "":
			r.DeniedBy = DeniedByPerson
		case r.refused:
			r.DeniedBy = DeniedByIssuer
		case r.limited:
			r.DeniedBy = DeniedByLimit
		case r.effect == access.EffectDeny || r.effect == "":
			r.DeniedBy = DeniedByPolicy
		case r.over:
			r.DeniedBy = DeniedByGrant
		default:
			// Policy didn't, and nobody did later: it was under a lock when it
			// was asked for. Nothing else makes a first ruling deny.
			r.DeniedBy = DeniedByLock
		}
	}
}

// tells says whether a host that the resource is on has enrolled by now.
func (g *gathering) tells(d *access.Digests, resource string) bool {
	if len(g.hosts) == 0 || d == nil {
		return false
	}
	if g.told == nil || g.catalog != d.Catalog {
		book, err := g.replay.rulebook(*d)
		if err != nil {
			return false
		}
		g.told, g.catalog = map[string]bool{}, d.Catalog
		for host := range g.hosts {
			if own, ok := book.Catalog.Resource("ssh/" + host); ok {
				for _, on := range book.On(own) {
					g.told[on.Name] = true
				}
			}
		}
	}
	return g.told[resource]
}

// sum makes the review of what was gathered.
func (g *gathering) sum() Review {
	out := Review{From: g.from, To: g.to, Requests: []Reviewed{}, Candidates: []Candidate{}, Users: []Tally{}, Resources: []Tally{}}
	users, resources := map[string]*Tally{}, map[string]*Tally{}
	rules := map[[2]string]*tried{}
	for _, r := range g.open {
		if !r.in(g.from, g.to) {
			continue
		}
		out.Requests = append(out.Requests, *r)
	}
	slices.SortFunc(out.Requests, func(a, b Reviewed) int { return cmp.Compare(a.index, b.index) })
	for i := range out.Requests {
		r := &out.Requests[i]
		if r.Review == ReviewedOpen && !g.to.Before(r.due) {
			r.Review = ReviewedLate
		}
		out.Counts.add(r, g.from, g.to)
		tally(users, r.Requester).add(r, g.from, g.to)
		tally(resources, r.Resource).add(r, g.from, g.to)
		if !r.asked(g.from, g.to) {
			continue
		}
		for _, rule := range r.asks {
			t := rules[[2]string{rule, r.Resource}]
			if t == nil {
				t = &tried{users: map[string]bool{}, approvers: map[string]bool{}}
				rules[[2]string{rule, r.Resource}] = t
			}
			t.take(r)
		}
	}
	for _, of := range []struct {
		by map[string]*Tally
		to *[]Tally
	}{{users, &out.Users}, {resources, &out.Resources}} {
		for _, name := range slices.Sorted(maps.Keys(of.by)) {
			*of.to = append(*of.to, *of.by[name])
		}
	}
	for key, t := range rules {
		if t.no || len(t.waits) < fewest {
			continue
		}
		slices.Sort(t.waits)
		out.Candidates = append(out.Candidates, Candidate{
			Rule: key[0], Resource: key[1], Requests: len(t.waits), Users: len(t.users),
			Approvers: slices.Sorted(maps.Keys(t.approvers)), Wait: t.waits[len(t.waits)/2],
		})
	}
	slices.SortFunc(out.Candidates, func(a, b Candidate) int {
		return cmp.Or(cmp.Compare(b.Requests, a.Requests), cmp.Compare(a.Rule, b.Rule), cmp.Compare(a.Resource, b.Resource))
	})
	return out
}

func tally(of map[string]*Tally, name string) *Counts {
	if of[name] == nil {
		of[name] = &Tally{Name: name}
	}
	return &of[name].Counts
}

// tried is what became of the requests that a rule asked people about.
type tried struct {
	no        bool // somebody has refused one, or taken its grant away, or nobody answered
	users     map[string]bool
	approvers map[string]bool
	waits     []access.Seconds
}

func (t *tried) take(r *Reviewed) {
	taken := r.State == access.StateRevoked && r.EndedBy != ""
	if taken || r.State == access.StateTimedOut || r.DeniedBy == DeniedByPerson {
		t.no = true
	}
	if !r.Granted() {
		return
	}
	t.users[r.Requester] = true
	for _, who := range r.ApprovedBy {
		t.approvers[who] = true
	}
	t.waits = append(t.waits, access.InSeconds(r.issued.Sub(r.Asked)))
}
