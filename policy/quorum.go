package policy

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"hallpass/access"
)

// Voter is somebody who has decided, and how long after the request that was.
// By Waited it is known which steps of the escalation had been reached. Who
// decides in another's place has the groups of that one.
type Voter struct {
	access.User
	Waited  time.Duration
	Instead bool // in another's place
}

// Ever is a Waited after all steps.
const Ever time.Duration = math.MaxInt64

// Voters are users who all decide at the same time.
func Voters(users []access.User, waited time.Duration) []Voter {
	var out []Voter
	for _, u := range users {
		out = append(out, Voter{User: u, Waited: waited})
	}
	return out
}

// Missing says what needs still ask for when the approvers have approved, of a
// request that has waited so long; nil when nothing is missing. A person counts
// once, however often he is listed, and for at most one of a rule's sets; he
// may count for several rules. Whoever may approve is not asked here: leave out
// the requester and everybody whose approval is not valid.
//
// If everything returned is given by people who aren't among the approvers
// yet, nothing is missing any more; the sets of different rules that ask the
// same groups are returned as one.
func Missing(needs []access.Need, waited time.Duration, approvers []Voter) []access.Set {
	people := distinct(approvers)
	var out []access.Set
	for _, n := range needs {
		open := unfilled(n, waited, people)
		for _, s := range open {
			i := slices.IndexFunc(out, func(o access.Set) bool { return slices.Equal(o.Groups, s.Groups) })
			if i < 0 {
				out = append(out, s)
			} else {
				out[i].Count = max(out[i].Count, s.Count)
			}
		}
	}
	slices.SortFunc(out, func(a, b access.Set) int { return slices.Compare(a.Groups, b.Groups) })
	return out
}

// Eligible says whether a decision by v could count for any of the needs.
func Eligible(needs []access.Need, v Voter) bool {
	for _, n := range needs {
		for _, s := range heard(n, v) {
			if member(v.User, s.Groups) {
				return true
			}
		}
	}
	return false
}

// InPerson names the rules that would hear v if he decided in person, and don't
// because he does in another's place.
func InPerson(needs []access.Need, v Voter) (rules []string) {
	self := v
	self.Instead = false
	for _, n := range needs {
		if one := []access.Need{n}; Eligible(one, self) && !Eligible(one, v) {
			rules = append(rules, n.Rule)
		}
	}
	return rules
}

// WantsInPerson says for people what InPerson has found.
func WantsInPerson(rules []string) string {
	if len(rules) == 1 {
		return quoted(rules) + " takes decisions in person only"
	}
	return quoted(rules) + " take decisions in person only"
}

// heard are the sets of a need that v could fill by his groups: none where it
// wants decisions in person and he decides in another's place.
func heard(n access.Need, v Voter) []access.Set {
	if n.InPerson && v.Instead {
		return nil
	}
	return reached(n, v.Waited)
}

// reached are the sets of a need that has waited so long: each takes those of
// the steps, too.
func reached(n access.Need, waited time.Duration) []access.Set {
	var asked []string
	for _, step := range n.Escalate {
		if step.After.Duration() <= waited {
			asked = append(asked, step.Ask...)
		}
	}
	if asked == nil {
		return n.Sets
	}
	out := cloneSets(n.Sets)
	for i := range out {
		out[i].Groups = sorted(append(out[i].Groups, asked...))
	}
	return out
}

// Steps are all steps of the needs up to, not including, a time: those that
// come at the same time as one.
func Steps(needs []access.Need, before time.Duration) []access.Step {
	var out []access.Step
	for _, n := range needs {
		for _, s := range n.Escalate {
			if s.After.Duration() >= before {
				continue
			}
			i := slices.IndexFunc(out, func(o access.Step) bool { return o.After == s.After })
			if i < 0 {
				i, out = len(out), append(out, access.Step{After: s.After})
			}
			out[i].Ask = sorted(slices.Concat(out[i].Ask, s.Ask))
			out[i].Notify = sorted(slices.Concat(out[i].Notify, s.Notify))
		}
	}
	slices.SortFunc(out, func(a, b access.Step) int { return cmp.Compare(a.After, b.After) })
	return out
}

// Denied says whether the deniers end the request: for one of the needs, as
// many of them as it names could have approved. A person counts once.
func Denied(needs []access.Need, deniers []Voter) bool {
	for _, n := range needs {
		if denials(n, deniers) >= max(1, n.Denies) {
			return true
		}
	}
	return false
}

// Objections writes for people what denials there are and how many of them it
// takes; "" where there are none that count.
func Objections(needs []access.Need, deniers []Voter) string {
	var parts []string
	for _, n := range needs {
		if have := denials(n, deniers); have > 0 {
			part := fmt.Sprintf("%d of the %d denials that end it (rule %q)", have, max(1, n.Denies), n.Rule)
			parts = append(parts, part)
		}
	}
	return strings.Join(parts, ", ")
}

// denials is how many of the deniers a need hears.
func denials(n access.Need, deniers []Voter) (have int) {
	for _, v := range distinct(deniers) {
		if Eligible([]access.Need{n}, v) {
			have++
		}
	}
	return have
}

// unfilled finds the most places in a need's sets that people can fill, one
// each, and returns the places left over, one set for each group list. It is
// maximum bipartite matching by augmenting paths: a place, once filled, stays
// filled, so earlier sets are filled first.
func unfilled(n access.Need, waited time.Duration, people []Voter) []access.Set {
	sets := reached(n, waited)
	holds := make([]int, len(people)) // the set that a person fills a place of, or -1
	may := make([][]access.Set, len(people))
	for i, p := range people {
		holds[i], may[i] = -1, heard(n, p)
	}
	var seen []bool
	var fill func(set int) bool
	fill = func(set int) bool {
		for i, p := range people {
			if seen[i] || may[i] == nil || !member(p.User, may[i][set].Groups) {
				continue
			}
			seen[i] = true
			if holds[i] < 0 || fill(holds[i]) {
				holds[i] = set
				return true
			}
		}
		return false
	}
	var out []access.Set
	for s, set := range sets {
		left := set.Count
		for left > 0 {
			seen = make([]bool, len(people))
			if !fill(s) {
				break
			}
			left--
		}
		if left == 0 {
			continue
		}
		groups := sorted(set.Groups)
		i := slices.IndexFunc(out, func(o access.Set) bool { return slices.Equal(o.Groups, groups) })
		if i < 0 {
			out = append(out, access.Set{Count: left, Groups: groups})
		} else {
			out[i].Count += left
		}
	}
	return out
}

func distinct(voters []Voter) []Voter {
	var out []Voter
	for _, v := range voters {
		if !slices.ContainsFunc(out, func(o Voter) bool { return o.Name == v.Name }) {
			out = append(out, v)
		}
	}
	return out
}

func member(u access.User, groups []string) bool {
	return slices.ContainsFunc(u.Groups, func(g string) bool { return slices.Contains(groups, g) })
}

// Describe writes sets for people: "1 approval from sre and 2 from dba or
// security".
func Describe(sets []access.Set) string { return describe(sets, "approval") }

// DescribeReview is Describe for those who sign off afterwards: "2 reviews from
// sre".
func DescribeReview(sets []access.Set) string { return describe(sets, "review") }

func describe(sets []access.Set, what string) string {
	var parts []string
	for i, s := range sets {
		of := ""
		if i == 0 {
			of = " " + what
			if s.Count > 1 {
				of += "s"
			}
		}
		parts = append(parts, fmt.Sprintf("%d%s from %s", s.Count, of, strings.Join(s.Groups, " or ")))
	}
	return strings.Join(parts, " and ")
}
