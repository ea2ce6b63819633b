package policy

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"hallpass/access"
)

const glassRules = `
rules:
  - name: production
    when: resource.labels.env == "prod"
    approvals: [{count: 1, from: [sre]}]
    emergency: {tell: [managers], review: {from: [security, sre], count: 2, within: 24h}}
  - name: root
    when: request.login == "root"
    approvals: [{count: 2, from: [sre]}]
    emergency: {tell: [board], review: {from: [board], count: 1, within: 2h}, reason: 40}
  - {name: data, when: resource.labels.data == "customer", approvals: [{count: 1, from: [privacy]}]}
  - {name: night, when: request.emergency && request.login == "nobody", deny: not like this}
  - {name: lab, when: resource.labels.env == "lab", approvals: none}
`

func TestEmergency(t *testing.T) {
	p := mustParse(t, glassRules)
	broken := func(change func(*Input)) Input {
		in := ask(change)
		in.Request.Mode = access.ModeEmergency
		return in
	}
	for name, c := range map[string]struct {
		in   Input
		want string // "" where it is allowed, else the beginning of why not
	}{
		"allowed":             {broken(func(in *Input) { in.Request.Reason = "the shop is down, on fire" }), ""},
		"no reason":           {broken(func(in *Input) { in.Request.Reason = "" }), `break-glass takes a reason of at least 20 characters, and this has 0 (rule "production")`},
		"blank reason":        {broken(func(in *Input) { in.Request.Reason = "x                             y" }), `break-glass takes a reason of at least 20 characters, and this has 3`},
		"one too few":         {broken(func(in *Input) { in.Request.Reason = strings.Repeat("x", 19) }), `break-glass takes a reason of at least 20`},
		"just enough":         {broken(func(in *Input) { in.Request.Reason = strings.Repeat("ä", 20) }), ""},
		"stricter rule":       {broken(func(in *Input) { in.Request.Reason, in.Request.Login = strings.Repeat("x", 39), "root" }), `break-glass takes a reason of at least 40`},
		"one rule forbids it": {broken(func(in *Input) { in.Request.Reason = strings.Repeat("x", 50); in.Resource.Labels["data"] = "customer" }), `break-glass is not allowed (rule "data")`},
		"a deny holds":        {broken(func(in *Input) { in.Request.Reason, in.Request.Login = strings.Repeat("x", 50), "nobody" }), `not like this (rule "night")`},
		"too long":            {broken(func(in *Input) { in.Request.Reason, in.Request.Duration = strings.Repeat("x", 50), 3601 }), `1h1s is longer than the 1h`},
		"no glass":            {broken(func(in *Input) { in.Request.Reason, in.Resource.Labels["env"] = strings.Repeat("x", 50), "lab" }), `there is no glass to break`},
		"no rule":             {broken(func(in *Input) { in.Resource.Labels["env"] = "other" }), `no rule allows this`},
	} {
		got := p.Decide(c.in)
		switch {
		case c.want == "" && (got.Effect != access.EffectAllow || got.Emergency == nil || !strings.HasPrefix(got.Why, "BREAK-GLASS")):
			t.Errorf("%s: %s with %+v: %s", name, got.Effect, got.Emergency, got.Why)
		case c.want != "" && (got.Effect != access.EffectDeny || got.Emergency != nil || !strings.HasPrefix(got.Why, c.want)):
			t.Errorf("%s: %s with %+v: %s; want %s", name, got.Effect, got.Emergency, got.Why, c.want)
		}
	}
	got := p.Decide(broken(func(in *Input) { in.Request.Reason, in.Request.Login = strings.Repeat("x", 40), "root" }))
	want := &access.Emergency{
		Tell: []string{"board", "managers"}, Within: 7200,
		Review: []access.Need{
			{Rule: "production", Sets: []access.Set{{Count: 2, Groups: []string{"security", "sre"}}}},
			{Rule: "root", Sets: []access.Set{{Count: 1, Groups: []string{"board"}}}},
		},
	}
	if diff := cmp.Diff(want, got.Emergency); diff != "" {
		t.Errorf("what the rules ask for together: %s", diff)
	}
	if want := []string{"board", "security", "sre"}; !cmp.Equal(got.Revokers, want) {
		t.Errorf("it may be revoked by %v, want %v", got.Revokers, want)
	}
	explained, err := p.Explain(ask())
	if want := "may be broken in an emergency, signed off by 2 of security or sre within 1d"; err != nil || !strings.Contains(explained.Rules[3].Why, want) {
		t.Errorf("explained it is %+v, %v; want %s", explained.Rules, err, want)
	}
	// Without the mode the approvals are needed, as if the rule had no such field.
	if plain := p.Decide(ask(func(in *Input) { in.Request.Reason = strings.Repeat("x", 50) })); plain.Effect != access.EffectAsk || plain.Emergency != nil {
		t.Errorf("a usual request: %s with %+v", plain.Effect, plain.Emergency)
	}
}

func TestEmergencyRefused(t *testing.T) {
	const review = "review: {from: [sre], count: 1, within: 1h}"
	for text, want := range map[string]string{
		"emergency: {}":               `policy.yaml:5:16: emergency has no tell`,
		"emergency: {" + review + "}": `policy.yaml:5:17: emergency has no tell`,
		"emergency: {tell: [sre]}":    `policy.yaml:5:17: emergency has no review`,
		"emergency: {tell: [], review: {from: [sre], count: 1, within: 1h}}":     `policy.yaml:5:23: tell has 0 names, not 1 to 64`,
		"emergency: {tell: [sre], review: {from: [sre], count: 0, within: 1h}}":  `policy.yaml:5:56: count must be a number from 1 to 16`,
		"emergency: {tell: [sre], review: {from: [sre], count: 1}}":              `policy.yaml:5:39: review has no within`,
		"emergency: {tell: [sre], review: {from: [sre], count: 1, within: 31d}}": `policy.yaml:5:67: within is 31d, not 1s to 30d`,
		"emergency: {tell: [sre], reason: 0, " + review + "}":                    `policy.yaml:5:34: reason must be a number from 1 to 1000`,
		"emergency: {tell: [sre], reason: 1000, " + review + "}":                 "",
	} {
		_, err := Parse("policy.yaml", []byte(ruleFile("name: a", "when: true", "approvals: [{count: 1, from: [sre]}]", text)))
		got := ""
		if err != nil {
			got = problemsOf(err)[0].Error()
		}
		// Columns aside: the message is what counts.
		cut := func(s string) string { return s[strings.LastIndex(s, ":5:")+1:] }
		if (got == "") != (want == "") || got != "" && cut(got)[strings.Index(cut(got), " "):] != cut(want)[strings.Index(cut(want), " "):] {
			t.Errorf("%s: %q, want %q", text, got, want)
		}
	}
	for _, rule := range []string{
		ruleFile("name: a", "when: true", "approvals: none", "emergency: {tell: [sre], "+review+"}"),
		ruleFile("name: a", "when: true", "deny: no", "emergency: {tell: [sre], "+review+"}"),
	} {
		if _, err := Parse("policy.yaml", []byte(rule)); err == nil {
			t.Errorf("loads: %s", rule)
		}
	}
}
