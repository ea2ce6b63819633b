package policy

import (
	"fmt"
	"slices"
	"strings"

	celast "cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/operators"
)

// AllLookups stands for all look-ups there are, where a condition doesn't say
// which.
const AllLookups = "*"

// asks finds the keys of context that an expression speaks of.
func asks(a *celast.AST) []string {
	var out []string
	named := map[int64]bool{} // uses of context that name a key
	name := func(of celast.Expr, key string) {
		if of.Kind() == celast.IdentKind && of.AsIdent() == "context" {
			named[of.ID()] = true
			out = append(out, key)
		}
	}
	visit(a, func(e celast.Expr) {
		switch e.Kind() {
		case celast.SelectKind:
			name(e.AsSelect().Operand(), e.AsSelect().FieldName())
		case celast.CallKind:
			args := e.AsCall().Args()
			switch e.AsCall().FunctionName() {
			case operators.Index:
				if key, ok := literal(args[1]); ok {
					name(args[0], key)
				}
			case operators.In:
				if key, ok := literal(args[0]); ok {
					name(args[1], key)
				}
			}
		}
	})
	visit(a, func(e celast.Expr) {
		if e.Kind() == celast.IdentKind && e.AsIdent() == "context" && !named[e.ID()] {
			out = append(out, AllLookups)
		}
	})
	return sorted(out)
}

// unanswered says which of the look-ups that a condition speaks of has failed. That
// it is absent must not be taken for an answer: !has(context.x) is true then.
func unanswered(c condition, in *Input) error {
	for _, name := range in.Failed {
		if slices.Contains(c.asks, name) || slices.Contains(c.asks, AllLookups) {
			return fmt.Errorf("look-up %s failed", name)
		}
	}
	return nil
}

// unasked says which of them has no answer for whatever reason, be it that
// nobody has asked: a condition that lets people pass needs all.
func unasked(c condition, in *Input) error {
	for _, name := range c.asks {
		if _, ok := in.Context[name]; !ok && (name != AllLookups || in.Context == nil) {
			return fmt.Errorf("look-up %s has no answer", name)
		}
	}
	return unanswered(c, in)
}

// Lookups names the look-ups whose answers the decision may depend on: what
// the conditions of rules that may match speak of, as far as their musts tell.
// Whether when holds isn't asked: who judges may know more of the request, and
// what nobody looked up then would be missing. "*" stands for all there are.
func (p *Policy) Lookups(in Input) []string {
	var out []string
	for _, i := range p.index.candidates(&in, nil) {
		r := p.rules[i]
		if !slices.ContainsFunc(r.musts, func(m must) bool { return !m.met(&in) }) {
			out = append(append(out, r.when.asks...), r.auto.asks...)
		}
	}
	return sorted(out)
}

// HasLookups says whether Lookups names any, for whatever request.
func (p *Policy) HasLookups() bool { return p.lookups }

// Unsure says whether the approvals of the rule of a name might not have been
// needed if none of these look-ups had failed.
func (p *Policy) Unsure(name string, failed []string) bool {
	i, ok := slices.BinarySearchFunc(p.rules, name, func(r *rule, name string) int { return strings.Compare(r.Name, name) })
	return ok && unanswered(p.rules[i].auto, &Input{Failed: failed}) != nil
}

// Undecided are the groups that rules name as approver or revoker of which the
// request alone doesn't say whether they match: by what look-ups would have
// said, by how long a grant is with its extensions, or because they fail.
func (p *Policy) Undecided(in Input) []string {
	var out []string
	s := newScope(&in)
	for _, i := range p.index.candidates(&in, nil) {
		r := p.rules[i]
		if slices.ContainsFunc(r.musts, func(m must) bool { return !m.met(&in) }) {
			continue
		}
		if len(r.when.asks) > 0 || r.when.total && in.Request.Extends != "" || r.apply(s).err != nil {
			out = append(out, r.groups()...)
		}
	}
	return sorted(out)
}

// totals says whether an expression, once checked, speaks of request.total.
func totals(a *celast.AST) (found bool) {
	visit(a, func(e celast.Expr) {
		found = found || e.Kind() == celast.IdentKind && e.AsIdent() == "request.total"
	})
	return found
}
