package policy

import (
	"fmt"
	"slices"
	"strings"

	"hallpass/access"
)

// Directory is what lints and cases ask of the directory.
type Directory interface {
	User(name string) (access.User, bool)
	Users() []access.User
	Members(group string) []string
}

// Catalog is what they ask of the catalog.
type Catalog interface {
	Resource(name string) (access.Resource, bool)
	Resources() []access.Resource
}

// Lint finds rules that can't do what they seem to, given who there is and
// what there is: approvals that nobody or too few people can give, rules that
// match no resource or requester, resources that no rule lets anybody have.
// A policy with such problems loads and decides all the same.
func (p *Policy) Lint(dir Directory, cat Catalog) Problems {
	l := linter{p: p, users: dir.Users(), dir: dir, cat: cat, resources: cat.Resources()}
	for _, r := range p.rules {
		l.lintRevokers(r)
		l.lintApprovals(r)
		l.lintMusts(r)
	}
	l.lintLockers()
	l.lintEnrollers()
	l.lintResources()
	slices.SortStableFunc(l.out, func(a, b Problem) int { return a.Line - b.Line })
	return l.out
}

type linter struct {
	p         *Policy
	dir       Directory
	cat       Catalog
	users     []access.User
	resources []access.Resource
	out       Problems
}

func (l *linter) say(at position, format string, args ...any) {
	l.out = append(l.out, Problem{File: l.p.name, Line: max(at.line, 1), Column: max(at.column, 1), Message: fmt.Sprintf(format, args...)})
}

func (l *linter) lintRevokers(r *rule) {
	for _, g := range r.Revoke {
		if len(l.dir.Members(g)) == 0 {
			l.say(r.pos["revoke"], "nobody in the directory is in group %s", g)
		}
	}
}

func (l *linter) lintApprovals(r *rule) {
	if e := r.Emergency; e != nil {
		for _, g := range slices.Concat(e.Tell, e.Review.Groups) {
			if len(l.dir.Members(g)) == 0 {
				l.say(r.pos["emergency"], "nobody in the directory is in group %s", g)
			}
		}
	}
	for _, step := range r.Escalate {
		for _, g := range slices.Concat(step.Ask, step.Notify) {
			if len(l.dir.Members(g)) == 0 {
				l.say(r.pos["escalate"], "nobody in the directory is in group %s", g)
			}
		}
	}
	sets := reached(access.Need{Sets: r.Approvals, Escalate: r.Escalate}, Ever)
	alone := true // is each set by itself possible?
	for i, s := range sets {
		at := r.pos[setField(i)]
		var members []string
		for _, g := range s.Groups {
			m := l.dir.Members(g)
			if len(m) == 0 {
				l.say(at, "nobody in the directory is in group %s", g)
			}
			members = append(members, m...)
		}
		members = sorted(members)
		if len(members) > 0 && len(members) < s.Count {
			l.say(at, "%d approvals are asked for, but only %d can give one: %s", s.Count, len(members), strings.Join(members, ", "))
		}
		if len(members) < s.Count {
			alone = false
		}
	}
	if r.Denies > 1 {
		var may []string
		for _, s := range sets {
			for _, g := range s.Groups {
				may = append(may, l.dir.Members(g)...)
			}
		}
		if may = sorted(may); len(may) < r.Denies {
			l.say(r.pos["denies"], "%d denials end a request, but only %d can deny: %s", r.Denies, len(may), strings.Join(may, ", "))
		}
	}
	if !alone || len(sets) == 0 {
		return
	}
	need := []access.Need{{Rule: r.Name, Sets: sets}}
	if missing := Missing(need, 0, Voters(l.users, 0)); missing != nil {
		l.say(r.pos["approvals"], "the sets can't all be given by different people: %s would be missing", Describe(missing))
		return
	}
	// Nobody approves his own request: who may ask and is needed can't have
	// it.
	var stuck []string
	for _, u := range l.users {
		if !Eligible(need, Voter{User: u}) || !l.mayAsk(r, u) {
			continue
		}
		others := slices.DeleteFunc(slices.Clone(l.users), func(o access.User) bool { return o.Name == u.Name })
		if Missing(need, 0, Voters(others, 0)) != nil {
			stuck = append(stuck, u.Name)
		}
	}
	if len(stuck) > 0 {
		l.say(r.pos["approvals"], "too few others can approve when one of these asks: %s", strings.Join(stuck, ", "))
	}
}

// mayAsk says whether the musts of a rule let u be the requester.
func (l *linter) mayAsk(r *rule, u access.User) bool {
	in := &Input{Requester: u}
	return !slices.ContainsFunc(r.musts, func(m must) bool {
		return (m.field == mustUser || m.field == mustGroup) && !m.met(in)
	})
}

// lintMusts finds rules that match nothing there is.
func (l *linter) lintMusts(r *rule) {
	at := r.pos["when"]
	for _, m := range r.musts {
		switch m.field {
		case mustUser:
			if _, ok := l.dir.User(m.value); !ok {
				l.say(at, "never matches: there is no user %s in the directory", m.value)
				return
			}
		case mustGroup:
			if len(l.dir.Members(m.value)) == 0 {
				l.say(at, "never matches: nobody in the directory is in group %s", m.value)
				return
			}
		default:
			if !slices.ContainsFunc(l.resources, func(res access.Resource) bool { return m.met(&Input{Resource: res}) }) {
				l.say(at, "never matches: no resource in the catalog has %s", m)
				return
			}
		}
	}
	if !slices.ContainsFunc(l.resources, func(res access.Resource) bool { return r.mayConcern(res) }) {
		l.say(at, "never matches: no resource in the catalog meets all of the condition")
	}
}

// mayConcern says whether the musts of a rule let it match the resource.
func (r *rule) mayConcern(res access.Resource) bool {
	in := &Input{Resource: res}
	return !slices.ContainsFunc(r.musts, func(m must) bool {
		return m.field != mustUser && m.field != mustGroup && !m.met(in)
	})
}

func (l *linter) lintResources() {
	var orphans []string
	for _, res := range l.resources {
		if !slices.ContainsFunc(l.p.rules, func(r *rule) bool { return r.Deny == "" && r.mayConcern(res) }) {
			orphans = append(orphans, res.Name)
		}
	}
	const most = 5
	if n := len(orphans); n > most {
		orphans = append(orphans[:most], fmt.Sprintf("and %d more", n-most))
	}
	if len(orphans) > 0 {
		l.say(position{1, 1}, "no rule lets anybody have %s", strings.Join(orphans, ", "))
	}
}
