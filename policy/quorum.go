package policy

import (
	"fmt"
	"slices"
	"strings"

	"hallpass/access"
)

// Missing says what needs still ask for when the approvers have approved; nil
// when nothing is missing. A person counts once, however often he is listed,
// and for at most one of a rule's sets; he may count for several rules.
// Whoever may approve is not asked here: leave out the requester and everybody
// whose approval is not valid.
//
// If everything returned is given by people who aren't among the approvers
// yet, nothing is missing any more; the sets of different rules that ask the
// same groups are returned as one.
func Missing(needs []access.Need, approvers []access.User) []access.Set {
	people := distinct(approvers)
	var out []access.Set
	for _, n := range needs {
		open := unfilled(n.Sets, people)
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

// Eligible says whether an approval by u could count for any of the needs.
func Eligible(needs []access.Need, u access.User) bool {
	for _, n := range needs {
		for _, s := range n.Sets {
			if member(u, s.Groups) {
				return true
			}
		}
	}
	return false
}

// unfilled finds the most places in sets that people can fill, one each, and
// returns the places left over, one set for each group list. It is maximum
// bipartite matching by augmenting paths: a place, once filled, stays filled,
// so earlier sets are filled first.
func unfilled(sets []access.Set, people []access.User) []access.Set {
	holds := make([]int, len(people)) // the set that a person fills a place of, or -1
	for i := range holds {
		holds[i] = -1
	}
	var seen []bool
	var fill func(set int) bool
	fill = func(set int) bool {
		for i, p := range people {
			if seen[i] || !member(p, sets[set].Groups) {
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

func distinct(users []access.User) []access.User {
	var out []access.User
	for _, u := range users {
		if !slices.ContainsFunc(out, func(o access.User) bool { return o.Name == u.Name }) {
			out = append(out, u)
		}
	}
	return out
}

func member(u access.User, groups []string) bool {
	return slices.ContainsFunc(u.Groups, func(g string) bool { return slices.Contains(groups, g) })
}

// Describe writes sets for people: "1 approval from sre and 2 from dba or
// security".
func Describe(sets []access.Set) string {
	var parts []string
	for i, s := range sets {
		what := ""
		if i == 0 {
			what = " approval"
			if s.Count > 1 {
				what = " approvals"
			}
		}
		parts = append(parts, fmt.Sprintf("%d%s from %s", s.Count, what, strings.Join(s.Groups, " or ")))
	}
	return strings.Join(parts, " and ")
}
