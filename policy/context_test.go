package policy

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"hallpass/access"
)

// Which look-ups a request needs: those that stand in conditions of rules that
// may match.
func TestLookups(t *testing.T) {
	for _, row := range []struct {
		rule string
		want []string
	}{
		{`{name: r, when: 'true', approvals: none}`, nil},
		{`{name: r, when: 'context.a.b == 1', approvals: none}`, []string{"a"}},
		{`{name: r, when: 'has(context.a) && "b" in context && context["c"] == 1', approvals: none}`, []string{"a", "b", "c"}},
		{`{name: r, when: 'size(context) > 0', approvals: none}`, []string{"*"}},
		{`{name: r, when: 'context[request.login] == 1', approvals: none}`, []string{"*"}},
		{`{name: r, when: 'resource.kind == "db" && context.a == 1', approvals: none}`, nil},
		{`{name: r, when: 'true', approvals: [{count: 1, from: [sre]}], auto: context.oncall.user == requester.name}`, []string{"oncall"}},
		{`{name: r, when: 'request.login == "root"', approvals: [{count: 1, from: [sre]}], auto: context.a == 1}`, []string{"a"}},
		{`{name: r, when: 'context.b == 1', approvals: [{count: 1, from: [sre]}], auto: context.a == 1}`, []string{"a", "b"}},
		{`{name: r, when: 'request.actions[3] == "x"', approvals: [{count: 1, from: [sre]}], auto: context.a == 1}`, []string{"a"}},
	} {
		p := mustParse(t, "rules:\n  - "+row.rule+"\n")
		if diff := cmp.Diff(row.want, p.Lookups(ask())); diff != "" {
			t.Errorf("%s\n%s", row.rule, diff)
		}
	}
}

// A look-up that fails is never a yes: not by being absent, not by a condition
// that holds without it.
func TestFailedLookup(t *testing.T) {
	const needs = `approvals: [{count: 1, from: [sre]}]`
	for _, row := range []struct {
		rule    string
		context map[string]any
		failed  []string
		want    access.Effect
		why     string
	}{
		{`when: 'true', ` + needs + `, auto: context.oncall.user == requester.name`, map[string]any{"oncall": map[string]any{"user": "alice"}}, nil, access.EffectAllow, "allowed by"},
		{`when: 'true', ` + needs + `, auto: context.oncall.user == requester.name`, map[string]any{"oncall": map[string]any{"user": "bob"}}, nil, access.EffectAsk, "needs"},
		{`when: 'true', ` + needs + `, auto: context.oncall.user == requester.name`, map[string]any{"oncall": map[string]any{"users": []any{}}}, nil, access.EffectAsk, "needs"}, // nobody is
		{`when: 'true', ` + needs + `, auto: context.oncall.user == requester.name`, map[string]any{"oncall": "garbage"}, nil, access.EffectAsk, "needs"},
		{`when: 'true', ` + needs + `, auto: context.oncall.user == requester.name`, nil, []string{"oncall"}, access.EffectAsk, "needs"},
		{`when: 'true', ` + needs + `, auto: '!has(context.freeze)'`, nil, []string{"freeze"}, access.EffectAsk, "needs"},
		{`when: 'true', ` + needs + `, auto: '!("freeze" in context)'`, nil, []string{"freeze"}, access.EffectAsk, "needs"},
		{`when: 'true', ` + needs + `, auto: 'size(context) == 0'`, nil, []string{"freeze"}, access.EffectAsk, "needs"},
		{`when: 'true', ` + needs + `, auto: 'true || context.a.b == true'`, nil, []string{"a"}, access.EffectAsk, "needs"},
		{`when: 'true', ` + needs + `, auto: 'true || context.a.b == true'`, map[string]any{"a": 1}, []string{"another"}, access.EffectAllow, "allowed by"},
		{`when: 'true', ` + needs + `, auto: 'true || context.a.b == true'`, nil, nil, access.EffectAsk, "needs"}, // nobody has asked
		{`when: '!has(context.freeze)', approvals: none`, nil, []string{"freeze"}, access.EffectDeny, `rule "r" could not be evaluated: look-up freeze failed`},
		{`when: 'true || context.a.b == true', ` + needs, nil, []string{"a"}, access.EffectDeny, `rule "r" could not be evaluated: look-up a failed`},
		{`when: 'context.freeze.on == true', deny: frozen`, nil, []string{"freeze"}, access.EffectDeny, `rule "r" could not be evaluated`},
	} {
		p := mustParse(t, "rules:\n  - {name: r, "+row.rule+"}\n")
		in := ask(func(in *Input) { in.Context, in.Failed, in.Requester.Name = row.context, row.failed, "alice" })
		if got := p.Decide(in); got.Effect != row.want || !strings.HasPrefix(got.Why, row.why) {
			t.Errorf("%s with %v, failed %v: %s: %s, want %s: %s", row.rule, row.context, row.failed, got.Effect, got.Why, row.want, row.why)
		}
	}
}

// That nobody has asked is no answer either. Whoever collects the look-ups may
// know less of a request than who judges it, such as that it extends a grant.
func TestNotLookedUpIsNoYes(t *testing.T) {
	for _, auto := range []string{"'!has(context.freeze)'", `'!("freeze" in context)'`, "'size(context) == 0'", "'true || context.freeze.on == true'"} {
		p := mustParse(t, "rules:\n  - {name: r, when: request.total > request.duration, max_duration: 8h, total: 12h, approvals: [{count: 1, from: [sre]}], auto: "+auto+"}\n")
		in := ask(func(in *Input) { in.Request.Extends = "01900000-0000-7000-8000-000000000000" })
		if names := p.Lookups(ask()); len(names) != 1 {
			t.Errorf("%s: asks %v without knowing of the extension", auto, names)
		}
		in.Extends = &access.Extended{Begin: in.Now.Add(-30 * time.Minute), End: in.Now.Add(time.Minute)}
		if got := p.Decide(in); got.Effect == access.EffectAllow {
			t.Errorf("%s: allowed, and nobody has looked: %s", auto, got.Why)
		}
	}
}
