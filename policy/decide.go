package policy

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"hallpass/access"
	"hallpass/internal/wording"
)

// Input is what a decision depends on, beside the policy.
type Input struct {
	Request   access.Request
	Requester access.User     // as the directory knows the requester
	Resource  access.Resource // as the catalog knows it
	Now       time.Time
	Extends   *access.Extended // the grant that the request extends, if it does
	Context   map[string]any   // what look-ups gave, by their names; one that failed isn't there
	Failed    []string         // those that failed
}

// match is what became of one rule.
type match struct {
	rule    *rule
	matched bool
	waived  bool  // auto held
	unsure  error // why auto doesn't hold, where that isn't that it is false
	err     error
}

// Decide says what the request takes. It never fails: what can't be evaluated
// is denied, with a Why that names the rule. All matching rules apply
// together: a deny wins; needs stand side by side; the smallest maximum
// duration, window and grace, the longest warning, the certificate extensions
// and networks that all of them permit, and the union of revokers count.
//
// A ruling that denies still says who would have had to approve and who may
// revoke, so that a grant made earlier can be revoked by the same people. Of
// the digests, Decide fills in the policy's.
func (p *Policy) Decide(in Input) access.Ruling {
	s := newScope(&in)
	var few [16]int // as mostly; more are made room for
	var fewer [4]match
	matches := fewer[:0]
	for _, i := range p.index.candidates(&in, few[:0]) {
		if m := p.rules[i].apply(s); m.matched || m.err != nil {
			matches = append(matches, m)
		}
	}
	return p.sumUp(&in, matches)
}

// apply evaluates one rule.
func (r *rule) apply(s *scope) (m match) {
	m.rule = r
	if m.err = unanswered(r.when, s.in); m.err == nil {
		m.matched, m.err = r.when.holds(s)
	}
	if m.err != nil || !m.matched || r.auto.program == nil {
		return m
	}
	if len(r.auto.asks) == 0 {
		m.waived, m.err = r.auto.holds(s)
		return m
	}
	// Whatever is wrong with what was looked up, people are asked.
	if m.unsure = unasked(r.auto, s.in); m.unsure == nil {
		m.waived, m.unsure = r.auto.holds(s)
	}
	return m
}

// sumUp says what the rules that matched or failed, sorted by name, come to.
func (p *Policy) sumUp(in *Input, matches []match) access.Ruling {
	u := sum{in: in, Ruling: access.Ruling{Effect: access.EffectAllow, At: in.Now.UTC()}}
	u.Digests.Policy = p.digest
	for _, m := range matches {
		u.add(m)
	}
	u.SSH.SourceAddress = networks(u.sources)
	if len(u.sources) > MaxAddresses {
		u.deny("the matching rules leave more than %d source addresses", MaxAddresses)
	}
	u.Revokers = sorted(u.Revokers)
	if u.allowed {
		u.bound()
	}
	u.conclude()
	return u.Ruling
}

// sum is a ruling that is being made.
type sum struct {
	access.Ruling
	in      *Input
	allowed bool     // by some rule; others may still deny
	no      []string // reasons to deny
	graced  bool     // some rule says how long the grace is
	totals  bool     // some rule bounds a grant with its extensions, to total at the most
	total   access.Seconds
	sources []netip.Prefix // nil: any
}

func (u *sum) deny(format string, args ...any) { u.no = append(u.no, fmt.Sprintf(format, args...)) }

// add takes in what one rule says.
func (u *sum) add(m match) {
	r := m.rule
	if m.err != nil {
		u.deny("rule %q could not be evaluated: %s", r.Name, oneLine(m.err.Error()))
		return
	}
	u.Rules = append(u.Rules, r.Name)
	u.Revokers = append(u.Revokers, r.Revoke...)
	if r.Deny != "" {
		u.deny("%s (rule %q)", r.Deny, r.Name)
		return
	}
	u.allowed = true
	u.addApprovals(m)
	u.MaxDuration = least(u.MaxDuration, access.InSeconds(r.MaxDuration))
	u.total, u.totals = least(u.total, access.InSeconds(max(r.Total, r.MaxDuration))), u.totals || r.Total != 0
	u.Window = least(u.Window, access.InSeconds(r.Window))
	u.Limits = u.Limits.Strictest(r.Limits)
	if err := r.asks(u.in.Request); err != "" {
		u.deny("%s (rule %q)", err, r.Name)
	}
	u.addSSH(r)
}

// addApprovals takes in whom a rule asks: nobody where its auto holds, or where the
// glass is broken, if it lets that be.
func (u *sum) addApprovals(m match) {
	r := m.rule
	broken := u.in.Request.Mode == access.ModeEmergency
	if broken {
		if lacks := r.breaks(u.in, &u.Ruling); lacks != "" {
			u.deny("%s (rule %q)", lacks, r.Name)
		}
	}
	switch {
	case len(r.Approvals) == 0:
	case m.waived || broken:
		for _, s := range r.Approvals { // who may approve may revoke
			u.Revokers = append(u.Revokers, s.Groups...)
		}
		for _, s := range r.Escalate {
			u.Revokers = append(u.Revokers, s.Ask...)
		}
	default:
		u.Needs = append(u.Needs, access.Need{
			Rule: r.Name, Sets: cloneSets(r.Approvals), Denies: r.Denies, Escalate: cloneSteps(r.Escalate), InPerson: r.InPerson,
		})
	}
}

// addSSH takes in what a rule says of certificates.
func (u *sum) addSSH(r *rule) {
	if e := r.SSH.Extensions; e != nil {
		if u.SSH.Extensions == nil {
			u.SSH.Extensions = append([]string{}, e...)
		}
		u.SSH.Extensions = slices.DeleteFunc(u.SSH.Extensions, func(x string) bool { return !slices.Contains(e, x) })
	}
	if c := r.SSH.ForceCommand; c != "" {
		if u.SSH.ForceCommand != "" && u.SSH.ForceCommand != c {
			u.deny("the matching rules force different commands (rule %q)", r.Name)
		}
		u.SSH.ForceCommand = c
	}
	if g := r.SSH.Grace; r.graced && (!u.graced || g < u.SSH.Grace) {
		u.graced, u.SSH.Grace = true, g
	}
	u.SSH.Warn = max(u.SSH.Warn, r.SSH.Warn)
	if r.sources != nil {
		if u.sources == nil {
			u.sources = r.sources
		} else if u.sources = narrow(u.sources, r.sources); len(u.sources) == 0 {
			u.sources = []netip.Prefix{}
			u.deny("the matching rules leave no source address (rule %q)", r.Name)
		}
	}
}

// bound fills in what no rule has said and holds the request to what is left.
func (u *sum) bound() {
	if u.SSH.Extensions == nil {
		u.SSH.Extensions = slices.Clone(defaultExtensions)
	}
	if u.MaxDuration == 0 {
		u.MaxDuration = access.InSeconds(DefaultMaxDuration)
	}
	if u.Window == 0 {
		u.Window = access.InSeconds(DefaultWindow)
	}
	most := u.MaxDuration // for a grant with its extensions
	if u.totals {
		u.Total, most = u.total, u.total
		u.MaxDuration = min(u.MaxDuration, u.total) // no single grant lasts longer, whichever rule would let it
	}
	if u.in.Request.Mode == access.ModeEmergency && u.Emergency == nil && len(u.no) == 0 {
		u.deny("there is no glass to break: no approval is needed")
	}
	if u.in.Request.Duration > u.MaxDuration {
		u.deny("%s is longer than the %s that policy allows", u.in.Request.Duration, u.MaxDuration)
	}
	if u.in.Extends != nil && access.InSeconds(u.in.total()) > most {
		u.deny("%s in all is longer than the %s that policy allows a grant with its extensions", access.ShortDuration(u.in.total()), most)
	}
	if c, f := u.in.Request.Command, u.SSH.ForceCommand; c != "" && f != "" && c != f {
		u.deny("policy forces another command than the one asked for")
	}
}

// conclude says what it all comes to, and why.
func (u *sum) conclude() {
	switch {
	case len(u.no) > 0:
		u.Effect = access.EffectDeny
		u.Why = strings.Join(u.no[:min(len(u.no), 3)], "; ")
		if len(u.no) > 3 {
			u.Why += fmt.Sprintf("; and %d more reasons", len(u.no)-3)
		}
	case !u.allowed:
		u.Effect = access.EffectDeny
		u.Why = "no rule allows this"
	case len(u.Needs) > 0:
		u.Effect = access.EffectAsk
		u.Why = "needs " + Describe(Missing(u.Needs, 0, nil))
	case u.Emergency != nil:
		u.Why = "BREAK-GLASS, allowed by " + quoted(u.Rules)
	default:
		u.Why = "allowed by " + quoted(u.Rules)
	}
	if u.Effect == access.EffectDeny {
		u.Emergency = nil
	}
}

// asks says what the rule requires of the request and doesn't find, or "".
func (r *rule) asks(req access.Request) string {
	if r.Reason && strings.TrimSpace(req.Reason) == "" {
		return "a reason is required"
	}
	if r.ticket != nil {
		switch {
		case req.Ticket == "":
			return fmt.Sprintf("a ticket is required, of the form %s", r.Ticket)
		case !r.ticket.MatchString(req.Ticket):
			return fmt.Sprintf("the ticket is not of the form %s", r.Ticket)
		}
	}
	return ""
}

// least is the smaller of the two, where 0 is no bound.
func least(a, b access.Seconds) access.Seconds {
	if a == 0 || b != 0 && b < a {
		return b
	}
	return a
}

// narrow returns the networks that are in both lists, without those that lie
// in another one. Two CIDR networks are disjoint or one holds the other, so
// the smaller one of each overlapping pair is all there is to it.
func narrow(a, b []netip.Prefix) []netip.Prefix {
	var both []netip.Prefix
	for _, x := range a {
		for _, y := range b {
			if !x.Overlaps(y) {
				continue
			}
			if x.Bits() < y.Bits() {
				both = append(both, y)
			} else {
				both = append(both, x)
			}
		}
	}
	slices.SortFunc(both, func(a, b netip.Prefix) int { return a.Compare(b) }) // the larger network first
	var out []netip.Prefix
	for _, p := range both {
		if !slices.ContainsFunc(out, func(o netip.Prefix) bool { return o.Bits() <= p.Bits() && o.Overlaps(p) }) {
			out = append(out, p)
		}
	}
	return out
}

func parseNetwork(s string) (netip.Prefix, error) {
	if !strings.Contains(s, "/") {
		a, err := netip.ParseAddr(s)
		if err != nil || a.Zone() != "" || a.Is4In6() {
			return netip.Prefix{}, fmt.Errorf("not an address: %q", s)
		}
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	p, err := netip.ParsePrefix(s)
	if err != nil || p.Addr().Is4In6() {
		return netip.Prefix{}, fmt.Errorf("not a network: %q", s)
	}
	return p.Masked(), nil
}

func networks(in []netip.Prefix) []string {
	var out []string
	for _, p := range in {
		out = append(out, p.String())
	}
	return out
}

func quoted(names []string) string {
	const most = 5
	var out []string
	for _, n := range names[:min(len(names), most)] {
		out = append(out, fmt.Sprintf("%q", n))
	}
	s := strings.Join(out, ", ")
	if len(names) > most {
		s += fmt.Sprintf(" and %d more", len(names)-most)
	}
	if len(names) == 1 {
		return "rule " + s
	}
	return "rules " + s
}

// oneLine makes an error of the CEL runtime, which may quote what a request
// says, fit to be shown.
func oneLine(s string) string {
	return wording.Clip(wording.Line(s), 200)
}
