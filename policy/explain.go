package policy

import (
	"fmt"
	"strings"

	"cel.dev/cel-go/cel"
	celast "cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/operators"

	"hallpass/access"
)

// Explanation is a ruling with what became of every rule.
type Explanation struct {
	Ruling access.Ruling `json:"ruling"`
	Rules  []Finding     `json:"rules"`
}

// Finding is what became of one rule.
type Finding struct {
	Rule    string `json:"rule"`
	Line    int    `json:"line"` // in the file
	Matched bool   `json:"matched"`
	Deny    bool   `json:"deny,omitempty"` // the rule denies where it matches
	Why     string `json:"why"`            // one line for people
}

// Explain is Decide for people: it evaluates every rule, and says of those
// that don't match which part of their condition was false.
func (p *Policy) Explain(in Input) (Explanation, error) {
	c, err := newCompiler(p.windows)
	if err != nil {
		return Explanation{}, err
	}
	out := Explanation{Ruling: p.Decide(in), Rules: []Finding{}}
	s := newScope(&in)
	for _, r := range p.rules {
		m := r.apply(s)
		f := Finding{Rule: r.Name, Line: r.Line, Matched: m.matched, Deny: r.Deny != ""}
		switch {
		case m.err != nil && m.matched:
			f.Why = "auto can't be evaluated, so nothing is allowed: " + oneLine(m.err.Error())
		case m.err != nil:
			f.Why = "can't be evaluated, so nothing is allowed: " + oneLine(m.err.Error())
		case !m.matched:
			f.Why = c.whyNot(r.When, s)
		case r.Deny != "":
			f.Why = "denies: " + r.Deny
		default:
			f.Why = r.takes(in.Request, m)
		}
		out.Rules = append(out.Rules, f)
	}
	return out, nil
}

// takes says what the rule asks for.
func (r *rule) takes(req access.Request, m match) string {
	var parts []string
	if lacks := r.asks(req); lacks != "" {
		parts = append(parts, lacks)
	}
	switch {
	case len(r.Approvals) == 0:
		parts = append(parts, "no approval needed")
	case m.waived:
		parts = append(parts, "no approval needed, because auto holds")
	default:
		what := "needs " + Describe(r.Approvals)
		if r.Denies > 1 {
			what += fmt.Sprintf(", and %d denials to end it", r.Denies)
		}
		if r.InPerson {
			what += ", in person"
		}
		for _, s := range r.Escalate {
			if s.Ask != nil {
				what += fmt.Sprintf(", after %s also from %s", s.After, strings.Join(s.Ask, " or "))
			}
		}
		switch {
		case m.unsure != nil:
			what += ", because auto can't be evaluated: " + oneLine(m.unsure.Error())
		case r.Auto != "":
			what += ", because auto doesn't hold"
		}
		parts = append(parts, what)
	}
	if e := r.Emergency; e != nil {
		parts = append(parts, fmt.Sprintf("may be broken in an emergency, signed off by %d of %s within %s",
			e.Review.Count, strings.Join(e.Review.Groups, " or "), access.ShortDuration(e.Within)))
	}
	if r.MaxDuration != 0 {
		parts = append(parts, "at most "+access.ShortDuration(r.MaxDuration))
	}
	if r.Total != 0 {
		parts = append(parts, "in all at most "+access.ShortDuration(r.Total))
	}
	if r.Limits != (access.Limits{}) {
		parts = append(parts, "limits how much is granted")
	}
	return strings.Join(parts, "; ")
}

// whyNot says which of the terms of a condition, those that stand side by side
// under its outermost "&&", are false.
func (c *compiler) whyNot(when string, s *scope) string {
	parsed, issues := c.env.Parse(when)
	if issues.Err() != nil {
		return "condition is false"
	}
	var no []string
	for _, term := range terms(parsed.NativeRep().Expr()) {
		text, err := cel.ExprToString(term, parsed.NativeRep().SourceInfo())
		if err != nil {
			continue
		}
		cond, bad := c.compile(text)
		if len(bad) > 0 {
			continue
		}
		if holds, err := cond.holds(s); err == nil && !holds {
			no = append(no, oneLine(text))
		}
	}
	switch len(no) {
	case 0:
		return "condition is false"
	case 1:
		return fmt.Sprintf("not so: %s", no[0])
	}
	return fmt.Sprintf("not so: %s, and %d more", no[0], len(no)-1)
}

func terms(e celast.Expr) []celast.Expr {
	if e.Kind() != celast.CallKind || e.AsCall().FunctionName() != operators.LogicalAnd {
		return []celast.Expr{e}
	}
	var out []celast.Expr
	for _, a := range e.AsCall().Args() {
		out = append(out, terms(a)...)
	}
	return out
}
