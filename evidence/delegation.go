package evidence

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"hallpass/access"
	"hallpass/statement"
)

// Delegations are those that nobody has revoked, oldest first. Which of them
// have ended by themselves is asked each time something is judged.
type Delegations []Delegated

// Delegated is one delegation and the statement that it rests on.
type Delegated struct {
	Delegation access.Delegation `json:"delegation"`
	Statement  access.Statement  `json:"statement"`
}

// Through is the rulebook with these delegations: Judge and Hear count a
// decision in another's place by them, and by no others. The rulebook itself is
// not changed.
func (r *Rulebook) Through(d Delegations) *Rulebook {
	c := *r
	c.delegations = d
	return &c
}

// After are the delegations after one more statement, heard at now, that
// CheckDelegation has let through. Those that ended a while ago are left out.
// The delegations themselves are not changed.
func (d Delegations) After(x access.Delegation, st access.Statement, now time.Time) Delegations {
	if x.Action == access.ActionRevoke {
		return slices.DeleteFunc(slices.Clone(d), func(g Delegated) bool { return g.Delegation.ID == x.Delegation })
	}
	// Nobody judges at a time that is further back: clocks differ by less.
	return append(d.Open(now.Add(-2*access.ClockSkew)), Delegated{x, st})
}

// Open are the delegations that haven't ended by themselves at now. By another
// clock, one may not have begun yet.
func (d Delegations) Open(now time.Time) Delegations {
	return slices.DeleteFunc(slices.Clone(d), func(g Delegated) bool { return !now.Before(*g.Delegation.Until) })
}

// Find is the delegation with this id, false if there is none or it was
// revoked.
func (d Delegations) Find(id string) (Delegated, bool) {
	i := slices.IndexFunc(d, func(g Delegated) bool { return g.Delegation.ID == id })
	if i < 0 {
		return Delegated{}, false
	}
	return d[i], true
}

// Of are those whose statements these are.
func (d Delegations) Of(statements []access.Statement) Delegations {
	return slices.DeleteFunc(slices.Clone(d), func(g Delegated) bool { return !slices.Contains(statements, g.Statement) })
}

// CheckDelegation checks a delegation statement that is new, by the delegations
// that the rulebook was made with. Everybody may delegate what he has himself,
// and nothing of what was delegated to him; not in a circle; and 20 at a time.
// The giver may revoke his own, and so may those who may lock.
//
// It is asked once, when the statement is to be recorded. What the delegation is
// worth is asked again with each decision that rests on it.
func (r *Rulebook) CheckDelegation(st access.Statement, now time.Time) (access.Delegation, access.User, error) {
	fail := func(err error) (access.Delegation, access.User, error) {
		return access.Delegation{}, access.User{}, err
	}
	d, user, err := statement.OpenDelegation(st, r.Directory)
	if err != nil {
		return fail(err)
	}
	switch {
	case d.Time.After(now.Add(access.ClockSkew)):
		return fail(future("delegation"))
	case d.Action == access.ActionDelegate && now.After(d.Time.Add(access.DelegationAge)): // a revocation may be old, so that none is lost
		return fail(access.Errorf(access.CodeStale, "the delegation is older than %s", access.ShortDuration(access.DelegationAge)).WithHint("sign it again"))
	case d.Action == access.ActionDelegate && len(st.Payload) > access.MaxDelegationPayload:
		return fail(access.Errorf(access.CodeMalformed, "the delegation is longer than %d bytes", access.MaxDelegationPayload))
	case d.Action == access.ActionRevoke:
		err = r.checkRevoked(d, user, now)
	default:
		err = r.checkGiven(d, user, now)
	}
	if err != nil {
		return fail(err)
	}
	return d, user, nil
}

func (r *Rulebook) checkRevoked(d access.Delegation, user access.User, now time.Time) error {
	g, ok := r.delegations.Open(now).Find(d.Delegation)
	switch {
	case !ok:
		return access.Errorf(access.CodeNotFound, "no delegation %s is in force", d.Delegation).WithHint("hallpass delegations")
	case g.Delegation.To != d.To:
		return access.Errorf(access.CodeMismatch, "delegation %s is to %s, not to %s", d.Delegation, g.Delegation.To, d.To)
	case g.Delegation.Signer == user.Name:
		return nil // also while he is locked: he only takes away
	case !r.mayLock(user):
		return access.Errorf(access.CodeForbidden, "delegation %s is %s's: he revokes it, or somebody whom policy lets lock", d.Delegation, g.Delegation.Signer)
	}
	if lock, locked := r.lockOn(user.Name, access.Resource{}, now); locked {
		return access.Errorf(access.CodeForbidden, "%s, so he revokes nothing", lock.Why())
	}
	return nil
}

func (r *Rulebook) checkGiven(d access.Delegation, user access.User, now time.Time) error {
	if !now.Before(*d.Until) {
		return access.Errorf(access.CodeStale, "the delegation has ended at %s, before it came", d.Until.Format(time.RFC3339))
	}
	if _, ok := r.Directory.User(d.To); !ok {
		return access.Errorf(access.CodeNotFound, "there is no %s in the directory", d.To)
	}
	for _, name := range []string{user.Name, d.To} {
		if lock, locked := r.lockOn(name, access.Resource{}, now); locked {
			return access.Errorf(access.CodeForbidden, "%s, so nothing is delegated by or to him", lock.Why())
		}
	}
	if len(user.Groups) == 0 {
		return access.Errorf(access.CodeForbidden, "%s is in no group, so he has nothing to delegate", user.Name)
	}
	for _, g := range d.Groups {
		if !slices.Contains(user.Groups, g) {
			return access.Errorf(access.CodeForbidden, "%s is not in %s: nobody delegates more than he has, or what was delegated to him", user.Name, g)
		}
	}
	given := r.delegations.Open(now)
	if chain := given.chain(d.To, user.Name); chain != nil {
		return access.Errorf(access.CodeForbidden, "it would go in a circle: %s already", strings.Join(chain, " delegates to "))
	}
	own := slices.DeleteFunc(given, func(g Delegated) bool { return g.Delegation.Signer != user.Name })
	if len(own) >= access.MaxDelegations {
		return access.Errorf(access.CodeForbidden, "%s has %d delegations in force, which is all that there can be", user.Name, len(own)).
			WithHint("hallpass delegations; hallpass delegate --revoke ID")
	}
	return nil
}

// chain finds who delegates to whom from one user to another, nil if nobody
// does.
func (d Delegations) chain(from, to string) []string {
	seen := map[string]bool{from: true}
	for todo := [][]string{{from}}; len(todo) > 0; todo = todo[1:] {
		at := todo[0]
		for _, g := range d {
			next := g.Delegation.To
			if g.Delegation.Signer != at[len(at)-1] || seen[next] {
				continue
			}
			path := append(slices.Clone(at), next)
			if next == to {
				return path
			}
			seen[next] = true
			todo = append(todo, path)
		}
	}
	return nil
}

// instead finds what the signer of a decision may say in whose place he says he
// decides: the giver's own groups of this moment, as far as he has delegated
// them, and the statements by which he has. It says why where there is nothing.
//
// Each delegation is good by itself or not at all: signed with a key that is the
// giver's by the directory of this moment, in force when the decision was
// signed, and in force now.
func (c *check) instead(d access.Decision) (groups []string, by []access.Statement, why string) {
	giver, ok := c.book.Directory.User(d.For)
	if !ok {
		return nil, nil, fmt.Sprintf("there is no %s in the directory", d.For)
	}
	if lock, locked := c.book.lockOn(d.For, access.Resource{}, c.now); locked {
		return nil, nil, lock.Why()
	}
	why = fmt.Sprintf("no delegation by %s to %s is in force", d.For, d.Signer)
	for _, g := range c.book.delegations {
		x := g.Delegation
		if x.Signer != d.For || x.To != d.Signer {
			continue
		}
		switch {
		case !c.now.Before(*x.Until):
			why = fmt.Sprintf("the delegation by %s ended at %s", d.For, x.Until.Format(time.RFC3339))
			continue
		case !x.InForce(d.Time) || !x.InForce(c.now):
			why = fmt.Sprintf("it was not signed while the delegation by %s was in force, from %s", d.For, x.Time.Format(time.RFC3339))
			continue
		}
		if _, _, err := statement.OpenDelegation(g.Statement, c.book.Directory); err != nil {
			why = fmt.Sprintf("the delegation by %s doesn't hold any more: %s", d.For, err)
			continue
		}
		for _, group := range giver.Groups {
			if x.Groups == nil || slices.Contains(x.Groups, group) {
				groups = append(groups, group)
			}
		}
		by = append(by, g.Statement)
	}
	if by == nil {
		return nil, nil, why
	}
	return groups, by, ""
}

// Places are the users in whose place somebody may decide at now, each with the
// groups that he has delegated, in the order of their names. It is for telling
// people; Judge asks for more.
func (r *Rulebook) Places(name string, now time.Time) []access.User {
	var out []access.User
	for _, g := range r.delegations {
		x := g.Delegation
		giver, ok := r.Directory.User(x.Signer)
		if !ok || x.To != name || !x.InForce(now) {
			continue
		}
		groups := slices.DeleteFunc(giver.Groups, func(group string) bool { return x.Groups != nil && !slices.Contains(x.Groups, group) })
		if i := slices.IndexFunc(out, func(u access.User) bool { return u.Name == giver.Name }); i >= 0 {
			out[i].Groups = append(out[i].Groups, groups...)
		} else {
			out = append(out, access.User{Name: giver.Name, Groups: groups})
		}
	}
	slices.SortFunc(out, func(a, b access.User) int { return strings.Compare(a.Name, b.Name) })
	return out
}
