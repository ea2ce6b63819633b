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
	return p.rule(&in, matches)
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

// rule sums up the rules that matched or failed, sorted by name.
func (p *Policy) rule(in *Input, matches []match) access.Ruling {
	out := access.Ruling{Effect: access.EffectAllow, At: in.Now.UTC()}
	out.Digests.Policy = p.digest

	var no []string // reasons to deny
	deny := func(format string, args ...any) { no = append(no, fmt.Sprintf(format, args...)) }
	var allows []*rule
	var sources []netip.Prefix
	graced, totalled := false, false
	var total access.Seconds
	for _, m := range matches {
		r := m.rule
		if m.err != nil {
			deny("rule %q could not be evaluated: %s", r.Name, oneLine(m.err.Error()))
			continue
		}
		out.Rules = append(out.Rules, r.Name)
		out.Revokers = append(out.Revokers, r.Revoke...)
		if r.Deny != "" {
			deny("%s (rule %q)", r.Deny, r.Name)
			continue
		}
		allows = append(allows, r)

		broken := in.Request.Mode == access.ModeEmergency
		if broken {
			if lacks := r.breaks(in, &out); lacks != "" {
				deny("%s (rule %q)", lacks, r.Name)
			}
		}
		switch {
		case len(r.Approvals) == 0:
		case m.waived || broken:
			for _, s := range r.Approvals { // who may approve may revoke
				out.Revokers = append(out.Revokers, s.Groups...)
			}
			for _, s := range r.Escalate {
				out.Revokers = append(out.Revokers, s.Ask...)
			}
		default:
			out.Needs = append(out.Needs, access.Need{
				Rule: r.Name, Sets: cloneSets(r.Approvals), Denies: r.Denies, Escalate: cloneSteps(r.Escalate), InPerson: r.InPerson,
			})
		}
		out.MaxDuration = least(out.MaxDuration, access.InSeconds(r.MaxDuration))
		total, totalled = least(total, access.InSeconds(max(r.Total, r.MaxDuration))), totalled || r.Total != 0
		out.Window = least(out.Window, access.InSeconds(r.Window))
		out.Limits = out.Limits.Strictest(r.Limits)
		if err := r.asks(in.Request); err != "" {
			deny("%s (rule %q)", err, r.Name)
		}

		if e := r.SSH.Extensions; e != nil {
			if out.SSH.Extensions == nil {
				out.SSH.Extensions = append([]string{}, e...)
			}
			out.SSH.Extensions = slices.DeleteFunc(out.SSH.Extensions, func(x string) bool { return !slices.Contains(e, x) })
		}
		if c := r.SSH.ForceCommand; c != "" {
			if out.SSH.ForceCommand != "" && out.SSH.ForceCommand != c {
				deny("the matching rules force different commands (rule %q)", r.Name)
			}
			out.SSH.ForceCommand = c
		}
		if g := r.SSH.Grace; r.graced && (!graced || g < out.SSH.Grace) {
			graced, out.SSH.Grace = true, g
		}
		out.SSH.Warn = max(out.SSH.Warn, r.SSH.Warn)
		if r.sources != nil {
			if sources == nil {
				sources = r.sources
			} else if sources = narrow(sources, r.sources); len(sources) == 0 {
				sources = []netip.Prefix{}
				deny("the matching rules leave no source address (rule %q)", r.Name)
			}
		}
	}
	if len(allows) > 0 && out.SSH.Extensions == nil {
		out.SSH.Extensions = slices.Clone(defaultExtensions)
	}
	if len(sources) > MaxAddresses {
		deny("the matching rules leave more than %d source addresses", MaxAddresses)
	}
	out.SSH.SourceAddress = networks(sources)
	out.Revokers = sorted(out.Revokers)
	if len(allows) > 0 {
		if out.MaxDuration == 0 {
			out.MaxDuration = access.InSeconds(DefaultMaxDuration)
		}
		if out.Window == 0 {
			out.Window = access.InSeconds(DefaultWindow)
		}
		most := out.MaxDuration // for a grant with its extensions
		if totalled {
			out.Total, most = total, total
			out.MaxDuration = min(out.MaxDuration, total) // no single grant lasts longer, whichever rule would let it
		}
		if in.Request.Mode == access.ModeEmergency && out.Emergency == nil && len(no) == 0 {
			deny("there is no glass to break: no approval is needed")
		}
		if in.Request.Duration > out.MaxDuration {
			deny("%s is longer than the %s that policy allows", in.Request.Duration, out.MaxDuration)
		}
		if in.Extends != nil && access.InSeconds(in.total()) > most {
			deny("%s in all is longer than the %s that policy allows a grant with its extensions", access.ShortDuration(in.total()), most)
		}
		if c, f := in.Request.Command, out.SSH.ForceCommand; c != "" && f != "" && c != f {
			deny("policy forces another command than the one asked for")
		}
	}

	switch {
	case len(no) > 0:
		out.Effect = access.EffectDeny
		out.Why = strings.Join(no[:min(len(no), 3)], "; ")
		if len(no) > 3 {
			out.Why += fmt.Sprintf("; and %d more reasons", len(no)-3)
		}
	case len(allows) == 0:
		out.Effect = access.EffectDeny
		out.Why = "no rule allows this"
	case len(out.Needs) > 0:
		out.Effect = access.EffectAsk
		out.Why = "needs " + Describe(Missing(out.Needs, 0, nil))
	case out.Emergency != nil:
		out.Why = "BREAK-GLASS, allowed by " + quoted(out.Rules)
	default:
		out.Why = "allowed by " + quoted(out.Rules)
	}
	if out.Effect == access.EffectDeny {
		out.Emergency = nil
	}
	return out
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
