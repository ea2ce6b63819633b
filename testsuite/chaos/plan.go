// Package chaos plays work and faults on a whole hallpass that runs, and has
// package check judge what came of it, from outside.
//
//	make chaos SEED=7 MINUTES=30
//
// What is done and what is broken is planned ahead, from the seed alone: the
// same seed, length and scene are the same plan. What comes of it also depends
// on the machine. The tests here play on hallpass dev; those of package
// topology on PostgreSQL, Temporal's roles and hallpass's as processes.
package chaos

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"time"

	"hallpass/testsuite/chaos/check"
)

// Scene is what there is to break.
type Scene struct {
	Parts  []string // processes to kill and start again
	Pause  []string // of these, those that can be stopped and go on
	Clocks []string // of these, those whose clock can be moved
	Links  []string // connections to cut, hold up and slow down
	Disks  []string // to fill
	Whole  bool     // all is one process
	Vault  bool     // there is a database to ask for, by way of Vault
}

// Step is one thing that is done: a word that somebody says, or a fault.
type Step struct {
	At time.Duration `json:"at_ns"` // from the beginning
	Do string        `json:"do"`

	// Of a word.
	Request  int    `json:"request,omitempty"`  // which, from 1
	Who      string `json:"who,omitempty"`      // in whose name
	Key      string `json:"key,omitempty"`      // by whose key, where it isn't his
	About    int    `json:"about,omitempty"`    // the request it is about, where that isn't the one it is sent to
	Resource string `json:"resource,omitempty"` // of ask and lock
	User     string `json:"user,omitempty"`     // of lock
	Seconds  int    `json:"seconds,omitempty"`  // of the grant that is asked for or left; of the lock
	Starts   int    `json:"starts,omitempty"`   // of ask: so many seconds later, and not before
	Extends  int    `json:"extends,omitempty"`  // the request whose grant it extends
	Signal   bool   `json:"signal,omitempty"`   // said by a signal, which hears no answer

	// Of a fault.
	On    string        `json:"on,omitempty"`
	Lasts time.Duration `json:"lasts_ns,omitempty"`
	By    time.Duration `json:"by_ns,omitempty"` // of clock and slow
}

func (s Step) String() string {
	line, _ := json.Marshal(s) // strings and numbers
	return string(line)
}

// What can be done.
const (
	ask, approve, deny, release, revoke, cancel = "ask", "approve", "deny", "release", "revoke", "cancel"
	lock, unlock, login                         = "lock", "unlock", "login"
	kill, pause, full, cut, stall, slow, clock  = "kill", "pause", "full", "cut", "stall", "slow", "clock"
)

// The people and what they can have.
var (
	groups = map[string]string{
		"alice": "dev", "erin": "dev", "frank": "dev, sre", "bob": "sre", "carol": "sre", "dave": "security", "gina": "security", "mallory": "",
	}
	requesters = []string{"alice", "erin", "frank"}
	approvers  = []string{"bob", "carol", "frank"}
	guards     = []string{"dave", "gina"}
	others     = []string{"alice", "erin", "frank", "bob", "mallory"} // who may not lock

	// Resources are what there is to ask for, and what each takes.
	Resources = map[string]check.Need{
		"ssh/sandbox": nil,
		"ssh/web-1":   {{Count: 1, Group: "sre"}},
		"ssh/db-1":    {{Count: 2, Group: "sre"}},
		"ssh/vault-1": {{Count: 1, Group: "sre"}, {Count: 1, Group: "security"}},
		Database:      {{Count: 1, Group: "sre"}},
	}
	names = []string{"ssh/sandbox", "ssh/web-1", "ssh/db-1", "ssh/vault-1"}
)

// Database is the resource that Vault makes logins for, where there is a Vault.
const Database = "vault/orders-db"

const (
	window  = 15 * time.Second // for approvals
	longest = 20               // seconds of a grant
	lag     = 2 * time.Minute  // for which Vault may be late, which tries again more and more seldom where the database is away
	ahead   = 30 * time.Second // how far an issuer's clock goes ahead where it still issues
)

// By how much clocks are wrong: those of issuers, and the one that all parts have
// where they are one process. Temporal's timers go by that one as well, and what
// was begun by it while it was wrong comes late by as much once it is right.
var (
	issuers = []time.Duration{-26 * time.Hour, -30 * time.Minute, -3 * time.Minute, -10 * time.Second, 10 * time.Second, ahead, 26 * time.Hour}
	whole   = []time.Duration{-time.Minute, -ahead, -10 * time.Second, 10 * time.Second, ahead}
)

// Plan makes the plan of a seed, in the order of its steps. Requests are made
// and things broken for so long; what people say of the last requests comes up
// to half a minute later.
func Plan(seed uint64, lasts time.Duration, s Scene) []Step {
	p := &planner{rand: rand.New(rand.NewPCG(seed, 0x6368616f73)), lasts: lasts, scene: s}
	for at := p.between(0, time.Second); at < lasts; at += p.between(200*time.Millisecond, 1500*time.Millisecond) {
		p.request(at)
	}
	for at := p.between(3*time.Second, 9*time.Second); at < lasts; at += p.between(6*time.Second, 14*time.Second) {
		p.lock(at)
	}
	// Two at a time: processes, and all else. Where all is one process, it gets
	// the time to begin again.
	rest := 7 * time.Second
	if s.Whole {
		rest = 20 * time.Second
	}
	p.faults(p.processes(), rest)
	p.faults(p.surroundings(), 7*time.Second)
	slices.SortStableFunc(p.steps, func(a, b Step) int { return int(a.At - b.At) })
	return p.steps
}

// WritePlan is a plan as JSON Lines.
func WritePlan(plan []Step) []byte {
	var out bytes.Buffer
	for _, s := range plan {
		out.WriteString(s.String() + "\n")
	}
	return out.Bytes()
}

// ReadPlan reads what WritePlan has written, for a scene that has what it breaks.
func ReadPlan(text []byte, scene Scene) (plan []Step, err error) {
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	asked := map[int]bool{0: true}
	for {
		var s Step
		if err := d.Decode(&s); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return nil, fmt.Errorf("step %d: %w", len(plan)+1, err)
		}
		if s.Do == ask {
			asked[s.Request] = true
		}
		plan = append(plan, s)
	}
	if len(plan) == 0 {
		return nil, errors.New("it has no steps")
	}
	for i, s := range plan {
		bad := func(why string) ([]Step, error) { return nil, fmt.Errorf("step %d, %s: %s", i+1, s, why) }
		switch s.Do {
		case ask, approve, deny, release, revoke, cancel, login:
			if s.Request == 0 || !asked[s.Request] || !asked[s.About] || !asked[s.Extends] {
				return bad("nobody asks for what it is about")
			}
		case lock, unlock:
		default:
			on := map[string][]string{
				kill: scene.Parts, pause: scene.Pause, clock: scene.Clocks, cut: scene.Links, stall: scene.Links, slow: scene.Links, full: scene.Disks,
			}
			if !slices.Contains(on[s.Do], s.On) {
				return bad("there is no such thing to break here: a plan is for the STACKS that it was made for")
			}
			continue
		}
		_, who := groups[s.Who]
		_, key := groups[s.Key]
		if !who && s.Do != login || !key && s.Key != "" {
			return bad("there is nobody of that name")
		}
	}
	return plan, nil
}

type planner struct {
	rand     *rand.Rand
	lasts    time.Duration
	scene    Scene
	requests int
	steps    []Step
}

func (p *planner) between(from, to time.Duration) time.Duration {
	return from + time.Duration(p.rand.Int64N(int64(to-from)))
}

func (p *planner) chance(percent int) bool { return p.rand.IntN(100) < percent }

func pick[T any](p *planner, from []T) T { return from[p.rand.IntN(len(from))] }

// names are what there is to ask for.
func (p *planner) names() []string {
	if p.scene.Vault {
		return append(slices.Clone(names), Database)
	}
	return names
}

// shuffled are the same people in another order, without one.
func (p *planner) shuffled(people []string, without string) []string {
	all := slices.DeleteFunc(slices.Clone(people), func(who string) bool { return who == without })
	p.rand.Shuffle(len(all), func(i, k int) { all[i], all[k] = all[k], all[i] })
	return all
}

func (p *planner) add(s Step) { p.steps = append(p.steps, s) }

// request plans a request's whole life.
func (p *planner) request(at time.Duration) {
	p.requests++
	n, who, resource := p.requests, pick(p, requesters), pick(p, p.names())
	seconds, starts := 3+p.rand.IntN(longest-2), 0
	if p.chance(20) {
		starts = 3 + p.rand.IntN(12)
	}
	p.add(Step{At: at, Do: ask, Request: n, Who: who, Resource: resource, Seconds: seconds, Starts: starts})
	granted := p.decisions(at, n, who, resource)
	p.after(granted, n, who, starts+seconds)
	if !p.chance(20) || resource == Database { // Vault's logins aren't extended, but asked for anew
		return
	}
	p.requests++
	again := granted + p.between(time.Second, 4*time.Second)
	p.add(Step{At: again, Do: ask, Request: p.requests, Who: who, Resource: resource, Seconds: 3 + p.rand.IntN(8), Extends: n})
	p.after(p.decisions(again, p.requests, who, resource), p.requests, who, 10)
}

// decisions plans what is said of a request that waits, and returns when the
// last of it is.
func (p *planner) decisions(at time.Duration, n int, who, resource string) time.Duration {
	say := func(s Step) {
		at += p.between(100*time.Millisecond, 1500*time.Millisecond)
		s.At, s.Request, s.Signal = at, n, p.chance(30)
		p.add(s)
	}
	if p.chance(35) { // somebody tries what he mustn't
		switch p.rand.IntN(5) {
		case 0:
			say(Step{Do: approve, Who: who}) // his own
		case 1:
			say(Step{Do: approve, Who: "mallory"})
		case 2:
			say(Step{Do: approve, Who: pick(p, approvers), Key: who})
		case 3:
			say(Step{Do: approve, Who: pick(p, approvers), About: 1 + p.rand.IntN(n)})
		default:
			say(Step{Do: revoke, Who: pick(p, []string{"mallory", "erin", "alice"})})
		}
	}
	ending := p.rand.IntN(100)
	sre, security := p.shuffled(approvers, who), p.shuffled(guards, who)
	for _, set := range Resources[resource] {
		from := &sre
		if set.Group == "security" {
			from = &security
		}
		for range set.Count {
			if ending < 12 { // one of them doesn't, nor does anybody else
				break
			}
			s := Step{Do: approve, Who: (*from)[0]}
			*from = (*from)[1:]
			if p.chance(15) {
				s.Seconds = 2 + p.rand.IntN(6)
			}
			say(s)
		}
	}
	switch {
	case ending < 6:
		say(Step{Do: deny, Who: pick(p, approvers)})
	case ending < 10:
		say(Step{Do: cancel, Who: who})
	}
	return at
}

// after plans what comes after the grant, or after the last word on it, where
// that starts later.
func (p *planner) after(at time.Duration, n int, who string, seconds int) {
	lives := time.Duration(seconds) * time.Second
	for range 2 + p.rand.IntN(2) {
		p.add(Step{At: at + p.between(time.Second, lives+4*time.Second), Do: login, Request: n})
	}
	end := at + p.between(time.Second, lives)
	switch roll := p.rand.IntN(100); {
	case roll < 25:
		p.add(Step{At: end, Do: release, Request: n, Who: who, Signal: p.chance(30)})
	case roll < 50:
		p.add(Step{At: end, Do: revoke, Request: n, Who: pick(p, guards), Signal: p.chance(30)})
	default:
		return
	}
	for range 2 { // what is over is tried again
		p.add(Step{At: end + p.between(time.Second, 8*time.Second), Do: login, Request: n})
	}
}

// lock plans a lock, which ends by itself, and mostly before.
func (p *planner) lock(at time.Duration) {
	s := Step{At: at, Do: lock, Seconds: 5 + p.rand.IntN(6)}
	p.guard(&s)
	if p.chance(50) {
		s.User = pick(p, []string{"alice", "erin", "frank"})
	} else {
		s.Resource = pick(p, p.names())
	}
	p.add(s)
	if p.chance(60) {
		s.Do, s.At = unlock, at+p.between(2*time.Second, 5*time.Second)
		p.guard(&s)
		p.add(s)
	}
}

// guard picks who locks or unlocks: one time in five somebody who may not, or
// another in the name of one who may.
func (p *planner) guard(s *Step) {
	s.Who, s.Key = pick(p, guards), ""
	if p.chance(20) {
		if other := pick(p, others); p.chance(50) {
			s.Who = other
		} else {
			s.Key = other
		}
	}
}

// usurps says whether it is a lock or an unlock that has to be refused.
func (s Step) usurps() bool { return s.Key != "" || !slices.Contains(guards, s.Who) }

// faults plans one after the other, with a rest between, until all are undone.
func (p *planner) faults(kinds []func() Step, rest time.Duration) {
	if len(kinds) == 0 {
		return
	}
	for at := p.between(2*time.Second, 6*time.Second); ; {
		s := pick(p, kinds)()
		s.At = at
		if at += s.Lasts; at > p.lasts {
			return
		}
		p.add(s)
		at += p.between(2*time.Second, rest)
	}
}

func (p *planner) processes() (kinds []func() Step) {
	if len(p.scene.Parts) > 0 {
		kinds = append(kinds, func() Step {
			return Step{Do: kill, On: pick(p, p.scene.Parts), Lasts: p.between(0, 3*time.Second)}
		})
	}
	if len(p.scene.Pause) > 0 {
		kinds = append(kinds, func() Step {
			return Step{Do: pause, On: pick(p, p.scene.Pause), Lasts: p.between(200*time.Millisecond, 6*time.Second)}
		})
	}
	return kinds
}

func (p *planner) surroundings() (kinds []func() Step) {
	if len(p.scene.Links) > 0 {
		for _, do := range []string{cut, stall, slow} {
			kinds = append(kinds, func() Step {
				s := Step{Do: do, On: pick(p, p.scene.Links), Lasts: p.between(500*time.Millisecond, 6*time.Second)}
				if do == slow {
					s.By = p.between(20*time.Millisecond, 400*time.Millisecond)
				}
				return s
			})
		}
	}
	if len(p.scene.Disks) > 0 {
		kinds = append(kinds, func() Step {
			return Step{Do: full, On: pick(p, p.scene.Disks), Lasts: p.between(time.Second, 6*time.Second)}
		})
	}
	if len(p.scene.Clocks) > 0 {
		wrong := issuers
		if p.scene.Whole {
			wrong = whole
		}
		kinds = append(kinds, func() Step {
			return Step{Do: clock, On: pick(p, p.scene.Clocks), By: pick(p, wrong), Lasts: p.between(2*time.Second, 9*time.Second)}
		})
	}
	return kinds
}

// Policy is what Resources say, as hallpass reads it.
func Policy() string {
	return fmt.Sprintf(`locks: {groups: [security]}
rules:
  - {name: sandbox, when: resource.labels.env == "dev" && "dev" in requester.groups, max_duration: 1h, total: 2h, approvals: none, revoke: [security]}
  - name: one
    when: resource.labels.env == "prod" && "dev" in requester.groups
    max_duration: 1h
    total: 2h
    approvals: [{count: 1, from: [sre]}]
    approval_window: %[1]s
    revoke: [security]
  - name: two
    when: resource.labels.env == "data" && "dev" in requester.groups
    max_duration: 1h
    total: 2h
    approvals: [{count: 2, from: [sre]}]
    approval_window: %[1]s
    revoke: [security]
  - name: both
    when: resource.labels.env == "secret" && "dev" in requester.groups
    max_duration: 1h
    total: 2h
    approvals: [{count: 1, from: [sre]}, {count: 1, from: [security]}]
    approval_window: %[1]s
    revoke: [security]
`, window)
}

// Catalog is what Resources are, for a login.
func Catalog(login string) string {
	return fmt.Sprintf(`resources:
  ssh/sandbox: {labels: {env: dev}, logins: [%[1]s]}
  ssh/web-1: {labels: {env: prod}, logins: [%[1]s]}
  ssh/db-1: {labels: {env: data}, logins: [%[1]s]}
  ssh/vault-1: {labels: {env: secret}, logins: [%[1]s]}
`, login)
}

// Groups are the people, and the group or groups of each. Mallory is in none.
func Groups() map[string]string { return groups }
