// Package policy says what a request takes: who may have what, for how long,
// and on whose word.
//
// A policy is one YAML file of rules whose conditions are CEL expressions
// (https://cel.dev). [Parse] reads it strictly and checks every expression's
// types; [Policy.Decide] answers a request; [Missing] and [Eligible] compare
// approvals with what the answer asks for. [Policy.Explain] tells people how
// an answer came about, [Policy.Lint] finds rules that can't do what they
// seem to, [Policy.Test] runs cases that stand next to the policy.
//
// What is promised:
//   - The order of rules never matters: every rule that matches is applied,
//     and a matching deny wins.
//   - Nothing is allowed by default. No matching rule means denied, an empty
//     policy doesn't load, and a condition that fails to evaluate denies.
//   - A decision depends on its [Input] and the file alone: no clock, no
//     network, no environment. The same input gives the same ruling for ever,
//     which is what lets an auditor judge again years later.
//
// What is not: a ruling is policy's word on a request taken as given. Whether
// the request is who it says it is, is package evidence's business.
package policy

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"time"

	"hallpass/access"
	"hallpass/internal/wording"
)

// Caps in code: no file can loosen them.
const (
	MaxFile       = 8 << 20 // bytes of a policy file
	MaxRules      = 20000
	MaxExpression = 4096    // bytes of one CEL expression
	MaxCost       = 100_000 // CEL cost units that one expression may use in one decision
	MaxSets       = 8       // approval sets in one rule
	MaxCount      = 16      // approvals in one set
	MaxSteps      = 8       // steps in one rule's escalation
	MaxGroups     = 64      // groups in one list
	MaxAddresses  = 64      // networks in one source_address list
	MaxNote       = 200     // bytes of a deny text

	// MaxGrace is how long past the end of a grant a rule may let open
	// sessions go on, and MinWarn and MaxWarn how long before it one may have
	// them told.
	MaxGrace = access.MaxGrace
	MinWarn  = 10 * time.Second
	MaxWarn  = time.Hour

	// DefaultMaxDuration is the longest grant where no matching rule names
	// one.
	DefaultMaxDuration = time.Hour
	// DefaultWindow is how long approvers have where no matching rule says.
	DefaultWindow = 8 * time.Hour
)

// extensions are the certificate extensions that a rule may permit
// (PROTOCOL.certkeys, "Extensions").
var extensions = []string{
	"permit-X11-forwarding", "permit-agent-forwarding", "permit-port-forwarding",
	"permit-pty", "permit-user-rc",
}

// defaultExtensions is what a certificate may do where no matching rule says:
// have a terminal, which adds nothing to running commands.
var defaultExtensions = []string{"permit-pty"}

// Policy is a loaded policy. It never changes and may be used by any number
// of goroutines.
type Policy struct {
	name   string
	data   []byte
	digest string
	rules  []*rule // by name
	index  index
	locks  locks
	hosts  hosts

	limited bool // some rule has limits
	lookups bool // some condition speaks of them
	windows map[string]window
}

// Rule is one rule, as written.
type Rule struct {
	Name        string
	Line        int           // in the file, from 1
	When        string        // CEL
	Deny        string        // why the rule denies; "" for a rule that allows
	MaxDuration time.Duration // 0: none named
	Window      time.Duration // 0: none named
	Total       time.Duration // of a grant with its extensions; 0: none named
	Reason      bool          // a reason must be given
	Ticket      string        // regular expression that the whole ticket must match; "": none asked for
	Approvals   []access.Set  // nil: none needed
	Denies      int           // so many denials end the request; 0: one
	Escalate    []access.Step // by After, each another one
	InPerson    bool          // who decides in another's place doesn't decide here
	Auto        string        // CEL; where true, this rule's approvals aren't needed
	Revoke      []string      // groups whose members may revoke
	Limits      access.Limits
	Emergency   *Emergency        // nil: break-glass doesn't get past the rule's approvals
	SSH         access.SSHOptions // Extensions nil: none named
}

// rule is a Rule ready to be applied.
type rule struct {
	Rule
	when, auto condition // auto.program is nil without Auto
	ticket     *regexp.Regexp
	sources    []netip.Prefix      // nil: anywhere
	graced     bool                // SSH.Grace is named, be it 0
	musts      []must              // what has to be so for the rule to match
	pos        map[string]position // of fields, for Lint
}

// Digest is "sha256:" and the SHA-256 of the file in lower-case hex.
func (p *Policy) Digest() string { return p.digest }

// Data is the file as it was read.
func (p *Policy) Data() []byte { return slices.Clone(p.data) }

// Rules lists the rules, sorted by name.
func (p *Policy) Rules() []Rule {
	out := make([]Rule, len(p.rules))
	for i, r := range p.rules {
		out[i] = r.Rule
		out[i].Approvals = cloneSets(r.Approvals)
		out[i].Escalate = cloneSteps(r.Escalate)
		out[i].Revoke = slices.Clone(r.Revoke)
		if r.Emergency != nil {
			e := *r.Emergency
			e.Tell, e.Review.Groups = slices.Clone(e.Tell), slices.Clone(e.Review.Groups)
			out[i].Emergency = &e
		}
		out[i].SSH = cloneSSH(r.SSH)
	}
	return out
}

// Groups lists every group that any rule names as approver or revoker, sorted.
func (p *Policy) Groups() []string {
	var out []string
	for _, r := range p.rules {
		out = append(out, r.groups()...)
	}
	return sorted(out)
}

// groups are those that the rule names as approver or revoker.
func (r *rule) groups() []string {
	out := slices.Clone(r.Revoke)
	for _, s := range r.Approvals {
		out = append(out, s.Groups...)
	}
	for _, s := range r.Escalate {
		out = append(out, s.Ask...)
	}
	if r.Emergency != nil {
		out = append(out, r.Emergency.Review.Groups...)
	}
	return out
}

// Parse reads a policy file. The name is for errors alone, which are
// [Problems] and read "policy.yaml:4:7: …".
func Parse(name string, data []byte) (*Policy, error) {
	r := &reader{name: name}
	root := r.parse(data)
	if root == nil {
		return nil, r.problems
	}
	p := &Policy{name: name, data: slices.Clone(data)}
	sum := sha256.Sum256(data)
	p.digest = "sha256:" + hex.EncodeToString(sum[:])

	var rules node
	r.object(root, "policy", fields{
		"hosts":   func(v node) { p.hosts = r.hosts(v) },
		"locks":   func(v node) { p.locks = r.locks(v) },
		"windows": func(v node) { p.windows = r.windows(v) },
		"rules":   func(v node) { rules = v }, // last: their conditions name windows
	}, "rules")
	compiler, err := newCompiler(p.windows)
	if err != nil {
		return nil, err
	}
	if rules != nil {
		p.rules = r.rules(rules, compiler)
		for _, rl := range p.rules {
			p.limited = p.limited || rl.Limits != (access.Limits{})
			p.lookups = p.lookups || len(rl.when.asks)+len(rl.auto.asks) > 0
		}
	}
	if len(p.rules) == 0 && len(r.problems) == 0 {
		r.fail(root, "no rules: an empty policy would deny everything; say so with a rule, or restore the file")
	}
	if len(r.problems) > 0 {
		return nil, r.problems
	}
	slices.SortFunc(p.rules, func(a, b *rule) int { return strings.Compare(a.Name, b.Name) })
	p.index = newIndex(p.rules)
	return p, nil
}

// rules reads the section of that name.
func (r *reader) rules(v node, c *compiler) (out []*rule) {
	items := r.list(v, "rules")
	if len(items) > MaxRules {
		r.fail(v, "more than %d rules", MaxRules)
		return nil
	}
	names := map[string]position{}
	for _, item := range items {
		if r.full() {
			return out
		}
		rl := r.rule(item, c)
		if first, ok := names[rl.Name]; ok && rl.Name != "" {
			r.failAt(rl.pos["name"], "rule %q is there already, in line %d; names are unique", rl.Name, first.line)
		}
		names[rl.Name] = rl.pos["name"]
		out = append(out, rl)
	}
	return out
}

// rule reads one rule. Whatever is wrong with it is in r.problems.
func (r *reader) rule(n node, c *compiler) *rule {
	rl := &rule{pos: map[string]position{}}
	rl.Line = r.at(n).line
	var approvals bool
	at := func(field string, read func(node)) func(node) {
		return func(v node) {
			rl.pos[field] = r.at(v)
			read(v)
		}
	}
	r.object(n, "rule", fields{
		"name": at("name", func(v node) {
			rl.Name = r.text(v, "name")
			r.check(v, access.CheckName("name", rl.Name))
		}),
		"when": at("when", func(v node) { rl.When, rl.when = r.expression(v, c) }),
		"deny": at("deny", func(v node) {
			rl.Deny = r.text(v, "deny")
			if strings.TrimSpace(rl.Deny) == "" {
				r.fail(v, "deny is empty: say why, people will read it")
			}
			r.check(v, access.CheckText("deny", rl.Deny, MaxNote))
		}),
		"max_duration": at("max_duration", func(v node) {
			rl.MaxDuration = r.duration(v, "max_duration", access.MinGrant, access.MaxGrant)
		}),
		"total": at("total", func(v node) {
			rl.Total = r.duration(v, "total", access.MinGrant, access.MaxGrant)
		}),
		"approval_window": at("approval_window", func(v node) {
			// A request without approvals is stale for the issuer after
			// EvidenceAge, so a longer window would be an empty promise.
			rl.Window = r.duration(v, "approval_window", time.Second, access.EvidenceAge)
		}),
		"require": at("require", func(v node) {
			r.object(v, "require", fields{
				"reason": func(v node) { rl.Reason = r.boolean(v, "reason") },
				"ticket": at("ticket", func(v node) {
					rl.Ticket = r.text(v, "ticket")
					// By itself first: "a)|(b" must not break out of the group.
					_, err := regexp.Compile(rl.Ticket)
					switch {
					case rl.Ticket == "":
						r.fail(v, "ticket is empty: write a regular expression, such as '^OPS-[0-9]+$'")
					case err != nil:
						r.fail(v, "ticket is not a regular expression (RE2): %v", err)
					default:
						rl.ticket, err = regexp.Compile(`\A(?:` + rl.Ticket + `)\z`)
						r.check(v, err)
					}
				}),
			})
		}),
		"approvals": at("approvals", func(v node) {
			approvals = true
			if s, ok := v.(*stringNode); ok && s.Value == "none" {
				return
			}
			rl.Approvals = r.sets(v, at)
		}),
		"denies":    at("denies", func(v node) { rl.Denies = r.count(v, "denies", MaxCount) }),
		"escalate":  at("escalate", func(v node) { rl.Escalate = r.steps(v) }),
		"in_person": at("in_person", func(v node) { rl.InPerson = r.boolean(v, "in_person") }),
		"auto":      at("auto", func(v node) { rl.Auto, rl.auto = r.expression(v, c) }),
		"emergency": at("emergency", func(v node) { rl.Emergency = r.emergency(v) }),
		"limits":    at("limits", func(v node) { rl.Limits = r.limits(v) }),
		"revoke":    at("revoke", func(v node) { rl.Revoke = r.names(v, "revoke") }),
		"ssh":       at("ssh", func(v node) { r.ssh(v, rl) }),
	}, "name", "when")

	r.together(n, rl, approvals)
	rl.musts = rl.when.musts
	return rl
}

// together checks that the fields of a rule go with each other; approvals says
// whether it has that one at all.
func (r *reader) together(n node, rl *rule, approvals bool) {
	if rl.pos["deny"] != (position{}) {
		for _, f := range []string{"max_duration", "total", "approval_window", "require", "approvals", "denies", "escalate", "in_person", "auto", "limits", "emergency", "ssh"} {
			if at, ok := rl.pos[f]; ok {
				r.failAt(at, "a rule that denies has no %s", f)
			}
		}
	} else if !approvals {
		r.fail(n, "rule %q does not say what it takes: add approvals, or \"approvals: none\" to allow without, or deny", rl.Name)
	} else if rl.Approvals == nil {
		for _, f := range []struct{ name, why string }{
			{"auto", "auto without approvals has nothing to waive"},
			{"emergency", "emergency without approvals: there is no glass to break"},
			{"denies", "denies without approvals: nobody is asked who could deny"},
			{"escalate", "escalate without approvals: there is nothing to wait for"},
			{"in_person", "in_person without approvals: nobody is asked"},
		} {
			if at, ok := rl.pos[f.name]; ok {
				r.failAt(at, "%s", f.why)
			}
		}
	}
	if at, ok := rl.pos["total"]; ok && rl.Total < rl.MaxDuration {
		r.failAt(at, "total is %s, shorter than the max_duration of %s", access.ShortDuration(rl.Total), access.ShortDuration(rl.MaxDuration))
	}
	window := rl.Window
	if window == 0 {
		window = DefaultWindow
	}
	if n := len(rl.Escalate); n > 0 && rl.Escalate[n-1].After.Duration() >= window {
		r.failAt(rl.pos["escalate"], "the last step comes after %s, when the approval window of %s is over",
			rl.Escalate[n-1].After, access.ShortDuration(window))
	}
}

// steps reads a rule's escalation.
func (r *reader) steps(v node) []access.Step {
	items := r.list(v, "escalate")
	if len(items) == 0 || len(items) > MaxSteps {
		r.fail(v, "escalate has %d steps, not 1 to %d", len(items), MaxSteps)
		return nil
	}
	var out []access.Step
	for _, item := range items {
		var s access.Step
		r.object(item, "escalate", fields{
			"after": func(v node) {
				s.After = access.InSeconds(r.duration(v, "after", time.Second, access.EvidenceAge))
				if n := len(out); n > 0 && s.After <= out[n-1].After {
					r.fail(v, "after is %s, not longer than the step before it", s.After)
				}
			},
			"ask":    func(v node) { s.Ask = r.names(v, "ask") },
			"notify": func(v node) { s.Notify = r.names(v, "notify") },
		}, "after")
		if s.Ask == nil && s.Notify == nil {
			r.fail(item, "step names nobody: add ask, for groups that may decide from then on, or notify")
		}
		out = append(out, s)
	}
	return out
}

func (r *reader) sets(v node, at func(string, func(node)) func(node)) []access.Set {
	items := r.list(v, "approvals")
	if items == nil {
		return nil
	}
	if len(items) == 0 || len(items) > MaxSets {
		r.fail(v, "approvals has %d sets, not 1 to %d; write \"approvals: none\" where none are needed", len(items), MaxSets)
	}
	var out []access.Set
	for _, item := range items {
		var s access.Set
		r.object(item, "approvals", fields{
			"count": func(v node) { s.Count = r.count(v, "count", MaxCount) },
			"from":  func(v node) { s.Groups = r.names(v, "from") },
		}, "count", "from")
		at(setField(len(out)), func(node) {})(item)
		out = append(out, s)
	}
	return out
}

func (r *reader) ssh(v node, rl *rule) {
	r.object(v, "ssh", fields{
		"extensions": func(v node) {
			rl.SSH.Extensions = []string{}
			for _, item := range r.list(v, "extensions") {
				e := r.text(item, "extension")
				if !slices.Contains(extensions, e) {
					r.fail(item, "unknown extension %q; known are %s", wording.Short(e), strings.Join(extensions, ", "))
				}
				rl.SSH.Extensions = append(rl.SSH.Extensions, e)
			}
			rl.SSH.Extensions = append([]string{}, sorted(rl.SSH.Extensions)...)
		},
		"force_command": func(v node) {
			rl.SSH.ForceCommand = r.text(v, "force_command")
			if strings.TrimSpace(rl.SSH.ForceCommand) == "" {
				r.fail(v, "force_command is blank, which would force nothing; leave it out instead")
			}
			r.check(v, access.CheckText("force_command", rl.SSH.ForceCommand, access.MaxCommand))
		},
		"grace": func(v node) {
			rl.graced = true
			rl.SSH.Grace = access.InSeconds(r.duration(v, "grace", 0, MaxGrace))
		},
		"warn": func(v node) { rl.SSH.Warn = access.InSeconds(r.duration(v, "warn", MinWarn, MaxWarn)) },
		"source_address": func(v node) {
			items := r.list(v, "source_address")
			if len(items) == 0 || len(items) > MaxAddresses {
				r.fail(v, "source_address has %d networks, not 1 to %d", len(items), MaxAddresses)
				return
			}
			for _, item := range items {
				s := r.text(item, "source_address")
				p, err := parseNetwork(s)
				if err != nil {
					r.fail(item, "source_address %q is not an address or network such as 10.0.0.0/8", wording.Short(s))
					continue
				}
				rl.sources = append(rl.sources, p)
			}
			rl.sources = narrow(rl.sources, rl.sources)
			rl.SSH.SourceAddress = networks(rl.sources)
		},
	})
}

func cloneSets(in []access.Set) []access.Set {
	out := slices.Clone(in)
	for i := range out {
		out[i].Groups = slices.Clone(out[i].Groups)
	}
	return out
}

func cloneSteps(in []access.Step) []access.Step {
	out := slices.Clone(in)
	for i := range out {
		out[i].Ask, out[i].Notify = slices.Clone(out[i].Ask), slices.Clone(out[i].Notify)
	}
	return out
}

func cloneSSH(in access.SSHOptions) access.SSHOptions {
	in.Extensions = slices.Clone(in.Extensions)
	in.SourceAddress = slices.Clone(in.SourceAddress)
	return in
}

// sorted returns the distinct strings of in, sorted; nil if there are none.
func sorted(in []string) []string {
	out := slices.Clone(in)
	slices.Sort(out)
	return slices.Compact(out)
}

// setField is the name under which the place of a set is remembered.
func setField(i int) string { return fmt.Sprintf("approvals.%d", i) }
