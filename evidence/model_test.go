package evidence

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"hallpass/access"
)

// A second, slow and plain implementation of who grants and who denies, with
// which Hear (the workflow's advice) and Judge (the issuer's last word) are
// compared on random rules, directories and sequences of statements.

type modelSet struct {
	count  int
	groups []string
}

type modelNeed struct {
	sets   []modelSet
	denies int
	after  time.Duration // 0: no escalation
	ask    []string
}

// word is one statement that somebody sends.
type word struct {
	who    string
	deny   bool
	at     time.Duration // after the request's own time
	forged bool          // signed with a key that nobody has
	other  bool          // about another request
}

var (
	modelPeople = []string{"alice", "bob", "carol", "dave", "erin", "frank"}
	modelGroups = []string{"dba", "ops", "sec", "sre"}
)

func shares(a, b []string) bool {
	return slices.ContainsFunc(a, func(x string) bool { return slices.Contains(b, x) })
}

// may says whether somebody of these groups, deciding after so long, can fill
// a set of the need.
func (n modelNeed) may(s modelSet, groups []string, waited time.Duration) bool {
	return shares(groups, s.groups) || n.after > 0 && waited >= n.after && shares(groups, n.ask)
}

func (n modelNeed) hears(groups []string, waited time.Duration) bool {
	return slices.ContainsFunc(n.sets, func(s modelSet) bool { return n.may(s, groups, waited) })
}

// filled tries every way to give the need's places to the approvals.
func (n modelNeed) filled(place int, words []word, groups map[string][]string, heard time.Duration, used []bool) bool {
	var places []modelSet
	for _, s := range n.sets {
		for range s.count {
			places = append(places, s)
		}
	}
	if place == len(places) {
		return true
	}
	for i, d := range words {
		if used[i] || d.deny || !n.may(places[place], groups[d.who], d.at-heard) {
			continue
		}
		used[i] = true
		if n.filled(place+1, words, groups, heard, used) {
			return true
		}
		used[i] = false
	}
	return false
}

// modelEffect is what words come to that all count for something.
func modelEffect(needs []modelNeed, words []word, groups map[string][]string, heard time.Duration) access.Effect {
	enough := true
	for _, n := range needs {
		against := 0
		for _, d := range words {
			if d.deny && n.hears(groups[d.who], d.at-heard) {
				against++
			}
		}
		if against >= max(1, n.denies) {
			return access.EffectDeny
		}
		enough = enough && n.filled(0, words, groups, heard, make([]bool, len(words)))
	}
	if enough {
		return access.EffectAllow
	}
	return access.EffectAsk
}

// counting are the words that count, by these groups: nobody's own, each
// person's first, and only of those who have a say.
func counting(needs []modelNeed, words []word, groups map[string][]string, heard time.Duration) (out []word) {
	for _, d := range words {
		said := slices.ContainsFunc(out, func(o word) bool { return o.who == d.who })
		hears := slices.ContainsFunc(needs, func(n modelNeed) bool { return n.hears(groups[d.who], d.at-heard) })
		if d.who != "alice" && !d.forged && !d.other && !said && hears {
			out = append(out, d)
		}
	}
	return out
}

func some(r *rand.Rand, of []string, most int) []string {
	out := slices.Clone(of)
	r.Shuffle(len(out), func(i, j int) { out[i], out[j] = out[j], out[i] })
	out = out[:1+r.IntN(most)]
	slices.Sort(out)
	return out
}

func randomNeeds(r *rand.Rand) (needs []modelNeed, policy string) {
	var b strings.Builder
	b.WriteString("rules:\n")
	for i := range 1 + r.IntN(2) {
		n := modelNeed{denies: r.IntN(4)}
		fmt.Fprintf(&b, "  - name: r%d\n    when: resource.labels.role == \"model\"\n    approvals:\n", i)
		for range 1 + r.IntN(2) {
			s := modelSet{1 + r.IntN(2), some(r, modelGroups, 2)}
			n.sets = append(n.sets, s)
			fmt.Fprintf(&b, "      - {count: %d, from: [%s]}\n", s.count, strings.Join(s.groups, ", "))
		}
		if n.denies > 0 {
			fmt.Fprintf(&b, "    denies: %d\n", n.denies)
		}
		if r.IntN(2) == 0 {
			n.after, n.ask = time.Duration(1+r.IntN(9))*time.Minute, some(r, modelGroups, 2)
			fmt.Fprintf(&b, "    escalate: [{after: %s, ask: [%s]}]\n", access.ShortDuration(n.after), strings.Join(n.ask, ", "))
		}
		needs = append(needs, n)
	}
	return needs, b.String()
}

func randomGroups(r *rand.Rand) map[string][]string {
	out := map[string][]string{}
	for _, name := range modelPeople {
		out[name] = some(r, modelGroups, 2)
	}
	return out
}

func TestSequencesAgainstModel(t *testing.T) {
	rounds := 400
	if testing.Short() {
		rounds = 60
	}
	effects, rogue, moved := map[access.Effect]int{}, 0, 0
	for seed := range rounds {
		r := rand.New(rand.NewPCG(uint64(seed), 5))
		needs, policy := randomNeeds(r)
		w := newWorld(t).change(func(w *world) {
			w.groups, w.keys, w.policy, w.roles = randomGroups(r), map[string][]string{}, policy, []string{"model"}
		})
		request := w.ask(on("model"))
		other := w.ask(on("model"), lasting(2*time.Hour))
		heard := time.Duration(r.IntN(3)) * time.Minute // when the log first heard of it, after the time it names
		known := Known{Asked: asked.Add(heard)}

		var all, counted []word
		var sent []access.Statement
		ev := access.Evidence{Request: request}
		now := heard
		for range 2 + r.IntN(8) {
			now += time.Duration(r.IntN(120)) * time.Second
			d := word{who: modelPeople[r.IntN(len(modelPeople))], deny: r.IntN(4) == 0, at: now, forged: r.IntN(12) == 0, other: r.IntN(12) == 0}
			key, about := d.who, request
			if d.forged {
				key = "ephemeral"
			}
			if d.other {
				about = other
			}
			options := []decisionOption{as(d.who), at(now)}
			if d.deny {
				options = append(options, deny(""))
			}
			st := w.decide(about, key, options...)
			all, sent = append(all, d), append(sent, st)
			where := fmt.Sprintf("seed %d, %s\n%v\n%+v", seed, policy, w.groups, all)

			before := modelEffect(needs, counted, w.groups, heard)
			want := len(counting(needs, append(slices.Clone(counted), d), w.groups, heard)) > len(counted) &&
				(d.deny || before != access.EffectDeny)
			standing, after, err := w.book().Hear(ev, st, asked.Add(now), known)
			if (err == nil) != want {
				t.Fatalf("%s: heard with the error %v, want it to count: %v", where, err, want)
			}
			if !want {
				continue
			}
			ev, counted = after, append(counted, d)
			effect := modelEffect(needs, counted, w.groups, heard)
			if standing.Effect != effect {
				t.Fatalf("%s: the workflow hears %s (%s), want %s", where, standing.Effect, standing.Why, effect)
			}
			effects[effect]++
			// The issuer judges later, and says the same.
			last, err := w.book().Judge(ev, asked.Add(now+time.Hour), known)
			if err != nil || last.Effect != effect {
				t.Fatalf("%s: the issuer says %s, %v; want %s", where, last.Effect, err, effect)
			}
		}

		// Whoever carries the evidence may leave out, add and order as he likes:
		// it grants only what those who count in it can grant.
		end := asked.Add(now + time.Hour)
		for range 10 {
			order := r.Perm(len(all))[:r.IntN(len(all)+1)]
			var words []word
			forged := access.Evidence{Request: request}
			for _, i := range order {
				words, forged.Decisions = append(words, all[i]), append(forged.Decisions, sent[i])
			}
			standing, err := w.book().Judge(forged, end, known)
			if err != nil {
				continue
			}
			if want := modelEffect(needs, counting(needs, words, w.groups, heard), w.groups, heard); standing.Effect != want {
				t.Fatalf("seed %d, %s\n%v\n%+v: the issuer says %s of what was put together, want %s", seed, policy, w.groups, words, standing.Effect, want)
			}
			rogue++
		}

		// Groups change before it is issued: the directory of that moment decides.
		later := w.change(func(w *world) {
			groups := maps.Clone(w.groups)
			for _, name := range modelPeople[1:] {
				if r.IntN(2) == 0 {
					groups[name] = some(r, modelGroups, 2)
				}
			}
			w.groups = groups
		})
		standing, err := later.book().Judge(ev, end, known)
		want := modelEffect(needs, counting(needs, counted, later.groups, heard), later.groups, heard)
		if err != nil || standing.Effect != want {
			t.Fatalf("seed %d, %s\n%v, then %v\n%+v: %s, %v; want %s", seed, policy, w.groups, later.groups, counted, standing.Effect, err, want)
		}
		if n := len(counting(needs, counted, later.groups, heard)); n < len(counted) {
			moved++
			if len(standing.Dropped) != len(counted)-n {
				t.Fatalf("seed %d: %d of %d count, and it is said of %q that they don't", seed, n, len(counted), standing.Dropped)
			}
		}
	}
	for _, e := range []access.Effect{access.EffectAllow, access.EffectAsk, access.EffectDeny} {
		if effects[e] < rounds/10 {
			t.Errorf("only %d standings were %s: the generator proves little", effects[e], e)
		}
	}
	if rogue < rounds || moved < rounds/30 {
		t.Errorf("%d made-up evidences, %d changes of groups that mattered: the generator proves little", rogue, moved)
	}
}
