package policy

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"hallpass/access"
)

// A second, slow and plain implementation of what the package promises, with
// which the first is compared on random rules, requests and approvals. It
// knows nothing of indexes, matching or YAML.

// truth is a condition's outcome: CEL's && and || give the same whichever
// side they look at first, errors included.
type truth int

const (
	no truth = iota
	yes
	failed
)

func and(a, b truth) truth {
	switch {
	case a == no || b == no:
		return no
	case a == yes && b == yes:
		return yes
	}
	return failed
}

func not(a truth) truth { return [...]truth{yes, no, failed}[a] }

func of(b bool) truth {
	if b {
		return yes
	}
	return no
}

// expr is a condition as text and as a function.
type expr struct {
	text string
	eval func(Input) truth
}

type rng struct{ *rand.Rand }

func pick[T any](r rng, of ...T) T { return of[r.IntN(len(of))] }

var (
	modelUsers  = []string{"alice", "bob", "carol", "dave", "erin", "frank"}
	modelGroups = []string{"dev", "sre", "dba", "sec"}
	modelNames  = []string{"ssh/a", "ssh/b", "db/a"}
	modelEnvs   = []string{"prod", "test", ""}
)

func (r rng) expr(depth int) expr {
	if depth > 0 {
		switch r.IntN(5) {
		case 0, 1:
			a, b := r.expr(depth-1), r.expr(depth-1)
			return expr{a.text + " && " + b.text, func(in Input) truth { return and(a.eval(in), b.eval(in)) }}
		case 2:
			a, b := r.expr(depth-1), r.expr(depth-1)
			return expr{"(" + a.text + " || " + b.text + ")", func(in Input) truth { return not(and(not(a.eval(in)), not(b.eval(in)))) }}
		case 3:
			a := r.expr(depth - 1)
			return expr{"!(" + a.text + ")", func(in Input) truth { return not(a.eval(in)) }}
		}
	}
	text := func(format string, v string, eval func(Input) bool) expr {
		return expr{fmt.Sprintf(format, v), func(in Input) truth { return of(eval(in)) }}
	}
	switch r.IntN(9) {
	case 0:
		v := pick(r, modelNames...)
		return text(pick(r, `resource.name == %q`, `%q == resource.name`), v, func(in Input) bool { return in.Resource.Name == v })
	case 1:
		v := pick(r, "ssh", "db")
		return text(`resource.kind == %q`, v, func(in Input) bool { return in.Resource.Kind == v })
	case 2, 3:
		v := pick(r, modelEnvs...)
		return text(pick(r, `resource.labels.env == %q`, `resource.labels["env"] == %q`), v, func(in Input) bool { return in.Resource.Labels["env"] == v })
	case 4, 5:
		v := pick(r, modelGroups...)
		return text(`%q in requester.groups`, v, func(in Input) bool { return slices.Contains(in.Requester.Groups, v) })
	case 6:
		v := pick(r, modelUsers...)
		return text(`requester.name == %q`, v, func(in Input) bool { return in.Requester.Name == v })
	case 7:
		v := pick(r, "10m", "30m", "2h")
		d, _ := time.ParseDuration(v)
		return text(`request.duration <= duration(%q)`, v, func(in Input) bool { return in.Request.Duration.Duration() <= d })
	}
	return expr{"context.flag == true", func(in Input) truth {
		v, ok := in.Context["flag"]
		if !ok {
			return failed
		}
		return of(v.(bool))
	}}
}

type modelRule struct {
	name        string
	when, auto  expr
	deny, asks  bool
	denies      int // 0: not named
	steps       []access.Step
	person      bool
	reason      bool
	max, window int // minutes
	sets        []access.Set
	revoke      []string
	extensions  []string // nil: none named
	grace, warn int      // minutes; -1 and 0: none named
}

func (r rng) some(of []string) []string {
	out := slices.Clone(of)
	r.Shuffle(len(out), func(i, j int) { out[i], out[j] = out[j], out[i] })
	out = out[:1+r.IntN(len(out))]
	slices.Sort(out)
	return out
}

func (r rng) sets(most int) []access.Set {
	var out []access.Set
	for range 1 + r.IntN(most) {
		groups := r.some(modelGroups)
		out = append(out, access.Set{Count: 1 + r.IntN(3), Groups: groups[:min(len(groups), 2)]})
	}
	return out
}

// steps are up to two steps of an escalation, a few minutes in.
func (r rng) steps() (out []access.Step) {
	for i := range r.IntN(3) {
		s := access.Step{After: access.Seconds(60*(1+5*i) + 60*r.IntN(5)), Ask: r.some(modelGroups)}
		if r.IntN(3) == 0 {
			s.Ask, s.Notify = nil, s.Ask
		}
		out = append(out, s)
	}
	return out
}

func (r rng) rule(name string) modelRule {
	m := modelRule{name: name, when: r.expr(3), grace: -1}
	if r.IntN(2) == 0 {
		m.revoke = r.some(modelGroups)
	}
	if m.deny = r.IntN(5) == 0; m.deny {
		return m
	}
	m.reason = r.IntN(4) == 0
	m.max, m.window = pick(r, 0, 15, 60, 300), pick(r, 0, 15, 60)
	if m.asks = r.IntN(3) > 0; m.asks {
		m.sets, m.denies, m.steps, m.person = r.sets(3), r.IntN(4), r.steps(), r.IntN(3) == 0
		if r.IntN(2) == 0 {
			m.auto = r.expr(2)
		}
	}
	if r.IntN(2) == 0 {
		m.extensions = r.some(extensions)
	}
	m.grace, m.warn = pick(r, -1, -1, 0, 5, 60), pick(r, 0, 0, 1, 10)
	return m
}

func (m modelRule) yaml() string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, "    "+format+"\n", args...) }
	fmt.Fprintf(&b, "  - name: %s\n", m.name)
	line("when: '%s'", m.when.text)
	if m.revoke != nil {
		line("revoke: [%s]", strings.Join(m.revoke, ", "))
	}
	if m.deny {
		line("deny: no")
		return b.String()
	}
	if m.reason {
		line("require: {reason: true}")
	}
	if m.max != 0 {
		line("max_duration: %dm", m.max)
	}
	if m.window != 0 {
		line("approval_window: %dm", m.window)
	}
	if !m.asks {
		line("approvals: none")
	} else {
		line("approvals:")
		for _, s := range m.sets {
			line("  - {count: %d, from: [%s]}", s.Count, strings.Join(s.Groups, ", "))
		}
	}
	if m.steps != nil {
		line("escalate:")
		for _, s := range m.steps {
			who := "ask: [" + strings.Join(s.Ask, ", ") + "]"
			if s.Ask == nil {
				who = "notify: [" + strings.Join(s.Notify, ", ") + "]"
			}
			line("  - {after: %ds, %s}", s.After, who)
		}
	}
	if m.denies != 0 {
		line("denies: %d", m.denies)
	}
	if m.person {
		line("in_person: true")
	}
	if m.auto.text != "" {
		line("auto: '%s'", m.auto.text)
	}
	var options []string
	if m.extensions != nil {
		options = append(options, fmt.Sprintf("extensions: [%s]", strings.Join(m.extensions, ", ")))
	}
	if m.grace >= 0 {
		options = append(options, fmt.Sprintf("grace: %dm", m.grace))
	}
	if m.warn > 0 {
		options = append(options, fmt.Sprintf("warn: %dm", m.warn))
	}
	if options != nil {
		line("ssh: {%s}", strings.Join(options, ", "))
	}
	return b.String()
}

// modelDecide is Decide, without Why.
func modelDecide(rules []modelRule, in Input) access.Ruling {
	out := access.Ruling{Effect: access.EffectDeny, At: in.Now}
	denied, allows := false, false
	var graces, warns []int
	for _, m := range rules {
		when, auto := m.when.eval(in), no
		if when == yes && m.auto.text != "" {
			_, answered := in.Context["flag"]
			if auto = m.auto.eval(in); strings.Contains(m.auto.text, "context.flag") && (auto == failed || !answered) {
				auto = no // what was looked up isn't there: people are asked
			}
		}
		if when == failed || auto == failed {
			denied = true
			continue
		}
		if when == no {
			continue
		}
		out.Rules = append(out.Rules, m.name)
		out.Revokers = append(out.Revokers, m.revoke...)
		if m.deny {
			denied = true
			continue
		}
		allows = true
		if m.reason && in.Request.Reason == "" {
			denied = true
		}
		if m.asks && auto == no {
			out.Needs = append(out.Needs, access.Need{Rule: m.name, Sets: m.sets, Denies: m.denies, Escalate: m.steps, InPerson: m.person})
		}
		if auto == yes {
			for _, s := range m.sets {
				out.Revokers = append(out.Revokers, s.Groups...)
			}
			for _, s := range m.steps {
				out.Revokers = append(out.Revokers, s.Ask...)
			}
		}
		for _, b := range []struct {
			of *access.Seconds
			by int
		}{{&out.MaxDuration, m.max}, {&out.Window, m.window}} {
			if v := access.Seconds(60 * b.by); v != 0 && (*b.of == 0 || v < *b.of) {
				*b.of = v
			}
		}
		if m.grace >= 0 {
			graces = append(graces, m.grace)
		}
		warns = append(warns, m.warn)
		if m.extensions != nil {
			if out.SSH.Extensions == nil {
				out.SSH.Extensions = slices.Clone(m.extensions)
			}
			kept := []string{}
			for _, e := range out.SSH.Extensions {
				if slices.Contains(m.extensions, e) {
					kept = append(kept, e)
				}
			}
			out.SSH.Extensions = kept
		}
	}
	if graces != nil {
		out.SSH.Grace = access.Seconds(60 * slices.Min(graces))
	}
	if warns != nil {
		out.SSH.Warn = access.Seconds(60 * slices.Max(warns))
	}
	slices.Sort(out.Rules)
	slices.Sort(out.Revokers)
	out.Revokers = slices.Compact(out.Revokers)
	slices.SortFunc(out.Needs, func(a, b access.Need) int { return cmp.Compare(a.Rule, b.Rule) })
	if allows {
		out.MaxDuration = cmp.Or(out.MaxDuration, 3600)
		out.Window = cmp.Or(out.Window, 8*3600)
		if out.SSH.Extensions == nil {
			out.SSH.Extensions = []string{"permit-pty"}
		}
		denied = denied || in.Request.Duration > out.MaxDuration
	}
	switch {
	case denied || !allows:
	case len(out.Needs) > 0:
		out.Effect = access.EffectAsk
	default:
		out.Effect = access.EffectAllow
	}
	return out
}

func (r rng) input() Input {
	in := Input{Now: friday}
	in.Requester = access.User{Name: pick(r, modelUsers...)}
	if r.IntN(4) > 0 {
		in.Requester.Groups = r.some(modelGroups)
	}
	in.Resource.Name = pick(r, modelNames...)
	in.Resource.Kind, _ = access.SplitResource(in.Resource.Name)
	if r.IntN(4) > 0 {
		in.Resource.Labels = map[string]string{"env": pick(r, modelEnvs...)}
	}
	in.Request.Duration = access.Seconds(60 * pick(r, 10, 15, 16, 30, 60, 61, 120))
	in.Request.Reason = pick(r, "", "because")
	if r.IntN(6) > 0 {
		in.Context = map[string]any{"flag": r.IntN(2) == 0}
	}
	return in
}

func TestDecideAgainstModel(t *testing.T) {
	rounds := 150
	if testing.Short() {
		rounds = 30
	}
	effects := map[access.Effect]int{}
	for seed := range rounds {
		decideAgainstModel(t, uint64(seed), 1, effects)
	}
	for _, e := range []access.Effect{access.EffectAllow, access.EffectAsk, access.EffectDeny} {
		if effects[e] < rounds {
			t.Errorf("only %d of the inputs gave %s: the generator proves little", effects[e], e)
		}
	}
}

// FuzzDecideAgainstModel is the same with rules and inputs that nobody has
// tried before.
func FuzzDecideAgainstModel(f *testing.F) {
	f.Add(uint64(1), uint64(2))
	f.Fuzz(func(t *testing.T, one, two uint64) { decideAgainstModel(t, one, two, map[access.Effect]int{}) })
}

// decideAgainstModel makes rules and inputs of a seed, and counts what comes of
// them.
func decideAgainstModel(t *testing.T, seed, stream uint64, effects map[access.Effect]int) {
	t.Helper()
	r := rng{rand.New(rand.NewPCG(seed, stream))}
	var rules []modelRule
	for i := range 1 + r.IntN(8) {
		rules = append(rules, r.rule(fmt.Sprintf("r%02d", i)))
	}
	text := func() string {
		var b strings.Builder
		b.WriteString("rules:\n")
		for _, m := range rules {
			b.WriteString(m.yaml())
		}
		return b.String()
	}
	p := mustParse(t, text())
	r.Shuffle(len(rules), func(i, j int) { rules[i], rules[j] = rules[j], rules[i] })
	shuffled := mustParse(t, text())
	for round := range 40 {
		in := r.input()
		want := modelDecide(rules, in)
		got := p.Decide(in)
		effects[got.Effect]++
		if diff := gocmp.Diff(want, got, cmpopts.IgnoreFields(access.Ruling{}, "Why", "Digests")); diff != "" {
			t.Fatalf("seed %d: %+v\n%s\n%s\n%s", seed, in, text(), got.Why, diff)
		}
		if diff := gocmp.Diff(got, shuffled.Decide(in), cmpopts.IgnoreFields(access.Ruling{}, "Digests")); diff != "" {
			t.Fatalf("seed %d: another order of rules decides otherwise:\n%s", seed, diff)
		}
		if round%20 > 0 {
			continue
		}
		ex, err := p.Explain(in)
		if err != nil {
			t.Fatal(err)
		}
		if diff := gocmp.Diff(got, ex.Ruling); diff != "" {
			t.Fatalf("seed %d: Explain rules otherwise:\n%s", seed, diff)
		}
		for _, f := range ex.Rules {
			if matched := slices.Contains(got.Rules, f.Rule); f.Matched && !matched && !strings.Contains(f.Why, "can't be evaluated") || !f.Matched && matched {
				t.Fatalf("seed %d: Explain says of %s: %+v", seed, f.Rule, f)
			}
		}
	}
}

// fill is the largest number of places that people can fill, found by trying
// everything.
func fill(places [][]string, people []access.User, used []bool) int {
	if len(places) == 0 {
		return 0
	}
	best := fill(places[1:], people, used)
	for i, p := range people {
		if used[i] || !member(p, places[0]) {
			continue
		}
		used[i] = true
		best = max(best, 1+fill(places[1:], people, used))
		used[i] = false
		if best == len(places) {
			break
		}
	}
	return best
}

func places(n access.Need) (out [][]string) {
	for _, s := range n.Sets {
		for range s.Count {
			out = append(out, s.Groups)
		}
	}
	return out
}

func modelSatisfied(needs []access.Need, people []access.User) bool {
	for _, n := range needs {
		if p := places(n); fill(p, people, make([]bool, len(people))) < len(p) {
			return false
		}
	}
	return true
}

func total(sets []access.Set) (n int) {
	for _, s := range sets {
		n += s.Count
	}
	return n
}

func TestMissingAgainstModel(t *testing.T) {
	rounds := 3000
	if testing.Short() {
		rounds = 300
	}
	satisfied := 0
	for seed := range rounds {
		r := rng{rand.New(rand.NewPCG(uint64(seed), 2))}
		var needs []access.Need
		for i := range 1 + r.IntN(3) {
			needs = append(needs, access.Need{Rule: fmt.Sprint(i), Sets: r.sets(2)})
		}
		var people []access.User
		for _, name := range modelUsers[:r.IntN(len(modelUsers)+1)] {
			people = append(people, access.User{Name: name, Groups: r.some(modelGroups)})
		}
		missing := Missing(needs, 0, Voters(people, 0))
		where := fmt.Sprintf("seed %d: needs %v, approved by %v, missing %v", seed, needs, people, missing)

		if want := modelSatisfied(needs, people); want != (missing == nil) {
			t.Fatalf("%s: satisfied is %v", where, want)
		}
		if missing == nil {
			satisfied++
		}
		// The order of approvals and repeated ones don't matter.
		again := append(slices.Clone(people), people...)
		r.Shuffle(len(again), func(i, j int) { again[i], again[j] = again[j], again[i] })
		if total(Missing(needs, 0, Voters(again, 0))) > 0 != (missing != nil) {
			t.Fatalf("%s: otherwise when shuffled and repeated", where)
		}
		// Of one rule, exactly as many are missing as must be.
		for _, n := range needs {
			p := places(n)
			want := len(p) - fill(p, people, make([]bool, len(people)))
			if got := total(Missing([]access.Need{n}, 0, Voters(people, 0))); got != want {
				t.Fatalf("%s: rule %s misses %d, want %d", where, n.Rule, got, want)
			}
		}
		// What is missing is enough, and each part of it is needed.
		more := slices.Clone(people)
		for _, s := range missing {
			for range s.Count {
				more = append(more, access.User{Name: fmt.Sprint("new", len(more)), Groups: s.Groups[:1]})
			}
		}
		if !modelSatisfied(needs, more) {
			t.Fatalf("%s: giving that is not enough", where)
		}
		for i := len(people); len(needs) == 1 && i < len(more); i++ {
			if modelSatisfied(needs, slices.Delete(slices.Clone(more), i, i+1)) {
				t.Fatalf("%s: %v is not needed", where, more[i])
			}
		}
		for _, u := range people {
			eligible := false
			for _, n := range needs {
				for _, p := range places(n) {
					eligible = eligible || fill([][]string{p}, []access.User{u}, []bool{false}) == 1
				}
			}
			if Eligible(needs, Voter{User: u}) != eligible {
				t.Fatalf("%s: %v eligible: %v", where, u, eligible)
			}
		}
	}
	if satisfied < rounds/20 || satisfied > rounds*19/20 {
		t.Errorf("%d of %d were satisfied: the generator proves little", satisfied, rounds)
	}
}

// modelPlaces are the places of a need, each with the groups that somebody who
// decides when it has waited so long can fill it from.
func modelPlaces(n access.Need, waited time.Duration) [][]string {
	out := places(n)
	for i := range out {
		out[i] = slices.Clone(out[i])
		for _, s := range n.Escalate {
			if s.After.Duration() <= waited {
				out[i] = append(out[i], s.Ask...)
			}
		}
	}
	return out
}

// modelFill is fill, with everybody as of the moment that he decided.
func modelFill(n access.Need, place int, people []Voter, used []bool) int {
	if place == len(places(n)) {
		return 0
	}
	best := modelFill(n, place+1, people, used)
	for i, p := range people {
		if used[i] || n.InPerson && p.Instead || !member(p.User, modelPlaces(n, p.Waited)[place]) {
			continue
		}
		used[i] = true
		best = max(best, 1+modelFill(n, place+1, people, used))
		used[i] = false
	}
	return best
}

// Those whom a step asks fill a place if they decided after it, and only then.
func TestEscalationAgainstModel(t *testing.T) {
	rounds := 1500
	if testing.Short() {
		rounds = 200
	}
	const minute = time.Minute
	satisfied, byStep := 0, 0
	for seed := range rounds {
		r := rng{rand.New(rand.NewPCG(uint64(seed), 4))}
		var needs []access.Need
		for i := range 1 + r.IntN(2) {
			sets := r.sets(2)
			for i := range sets {
				sets[i].Count = 1 + sets[i].Count%2
			}
			needs = append(needs, access.Need{Rule: fmt.Sprint(i), Sets: sets, Escalate: r.steps(), InPerson: r.IntN(3) == 0})
		}
		now := time.Duration(r.IntN(16)) * minute
		var voters, early []Voter
		for _, name := range modelUsers[:r.IntN(len(modelUsers)+1)] {
			v := Voter{access.User{Name: name, Groups: r.some(modelGroups)[:1]}, min(now, time.Duration(r.IntN(16))*minute), r.IntN(4) == 0}
			voters, early = append(voters, v), append(early, Voter{User: v.User, Instead: v.Instead})
		}
		missing := Missing(needs, now, voters)
		where := fmt.Sprintf("seed %d: needs %+v, after %s approved by %v, missing %v", seed, needs, now, voters, missing)
		want := true
		for _, n := range needs {
			have := modelFill(n, 0, voters, make([]bool, len(voters)))
			want = want && have == len(places(n))
			if got := total(Missing([]access.Need{n}, now, voters)); got != len(places(n))-have {
				t.Fatalf("%s: rule %s misses %d, want %d", where, n.Rule, got, len(places(n))-have)
			}
		}
		if want != (missing == nil) {
			t.Fatalf("%s: satisfied is %v", where, want)
		}
		if want {
			satisfied++
			if Missing(needs, now, early) != nil {
				byStep++
			}
		} else if Missing(needs, now, early) == nil {
			t.Fatalf("%s: they had been enough before the steps", where)
		}
		for _, v := range voters {
			eligible := false
			for _, n := range needs {
				for _, p := range modelPlaces(n, v.Waited) {
					eligible = eligible || member(v.User, p) && (!n.InPerson || !v.Instead)
				}
			}
			if Eligible(needs, v) != eligible {
				t.Fatalf("%s: %v eligible: %v", where, v, eligible)
			}
			self := v
			self.Instead = false
			if rules := InPerson(needs, v); rules == nil && Eligible(needs, self) != eligible || rules != nil && !v.Instead {
				t.Fatalf("%s: %v is wanted in person by %v", where, v, rules)
			}
		}
		// What is missing names those who can give it now.
		for _, s := range missing {
			for _, g := range s.Groups {
				if !Eligible(needs, Voter{access.User{Name: "new", Groups: []string{g}}, now, false}) {
					t.Fatalf("%s: %s can't give it", where, g)
				}
			}
		}
	}
	if satisfied < rounds/20 || byStep < rounds/50 {
		t.Errorf("%d of %d were satisfied, %d by a step: the generator proves little", satisfied, rounds, byStep)
	}
}

// As many denials end a request as the first rule to be content with asks for,
// each by another person who could have approved under that rule.
func TestDeniedAgainstModel(t *testing.T) {
	rounds := 3000
	if testing.Short() {
		rounds = 300
	}
	ended := 0
	for seed := range rounds {
		r := rng{rand.New(rand.NewPCG(uint64(seed), 3))}
		var needs []access.Need
		for i := range 1 + r.IntN(3) {
			needs = append(needs, access.Need{Rule: fmt.Sprint(i), Sets: r.sets(2), Denies: r.IntN(4)})
		}
		var people []access.User
		for range r.IntN(6) { // some of them more than once
			name := pick(r, modelUsers...)
			if i := slices.IndexFunc(people, func(u access.User) bool { return u.Name == name }); i >= 0 {
				people = append(people, people[i])
			} else {
				people = append(people, access.User{Name: name, Groups: r.some(modelGroups)})
			}
		}
		want := false
		for _, n := range needs {
			heard := map[string]bool{}
			for _, u := range people {
				for _, p := range places(n) {
					if member(u, p) {
						heard[u.Name] = true
					}
				}
			}
			want = want || len(heard) >= cmp.Or(n.Denies, 1)
		}
		if got := Denied(needs, Voters(people, 0)); got != want {
			t.Fatalf("seed %d: needs %v, denied by %v: %v, want %v", seed, needs, people, got, want)
		}
		if want {
			ended++
		}
		if Denied(needs, nil) || Objections(needs, nil) != "" {
			t.Fatalf("seed %d: denied by nobody", seed)
		}
	}
	if ended < rounds/20 || ended > rounds*19/20 {
		t.Errorf("%d of %d were denied: the generator proves little", ended, rounds)
	}
}

func TestMissing(t *testing.T) {
	set := func(n int, groups ...string) access.Set { return access.Set{Count: n, Groups: groups} }
	one := func(sets ...access.Set) []access.Need { return []access.Need{{Rule: "a", Sets: sets}} }
	bob := access.User{Name: "bob", Groups: []string{"sre"}}
	carol := access.User{Name: "carol", Groups: []string{"dba", "sre"}}
	for name, c := range map[string]struct {
		needs []access.Need
		by    []access.User
		want  []access.Set
	}{
		"nothing needed":           {nil, nil, nil},
		"nobody yet":               {one(set(2, "sre")), nil, []access.Set{set(2, "sre")}},
		"one of two":               {one(set(2, "sre")), []access.User{bob}, []access.Set{set(1, "sre")}},
		"one person twice":         {one(set(2, "sre")), []access.User{bob, bob}, []access.Set{set(1, "sre")}},
		"two of two":               {one(set(2, "sre")), []access.User{bob, carol}, nil},
		"one person, two sets":     {one(set(1, "sre"), set(1, "dba")), []access.User{carol}, []access.Set{set(1, "dba")}},
		"makes room":               {one(set(1, "sre"), set(1, "dba")), []access.User{carol, bob}, nil},
		"one person, two rules":    {[]access.Need{{Rule: "a", Sets: []access.Set{set(1, "sre")}}, {Rule: "b", Sets: []access.Set{set(1, "dba")}}}, []access.User{carol}, nil},
		"rules asking alike":       {[]access.Need{{Rule: "a", Sets: []access.Set{set(1, "sre")}}, {Rule: "b", Sets: []access.Set{set(2, "sre")}}}, nil, []access.Set{set(2, "sre")}},
		"one rule asking twice":    {one(set(1, "sre"), set(2, "sre")), nil, []access.Set{set(3, "sre")}},
		"somebody else":            {one(set(1, "sre")), []access.User{{Name: "dave", Groups: []string{"dev"}}}, []access.Set{set(1, "sre")}},
		"groups in any order, too": {one(set(1, "sre", "dba"), set(1, "dba", "sre")), nil, []access.Set{set(2, "dba", "sre")}},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := gocmp.Diff(c.want, Missing(c.needs, 0, Voters(c.by, 0))); diff != "" {
				t.Error(diff)
			}
		})
	}
	if got, want := Describe([]access.Set{set(1, "sre"), set(2, "dba", "sec")}), "1 approval from sre and 2 from dba or sec"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
