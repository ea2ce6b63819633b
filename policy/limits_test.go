package policy

import (
	"testing"

	"hallpass/access"
)

func TestLimits(t *testing.T) {
	p := mustParse(t, `
rules:
  - name: one
    when: "true"
    approvals: none
    limits: {user: {running: 3, per_hour: 20, cooldown: 15m}, resource: {running: 1}}
  - name: two
    when: request.login == "deploy"
    approvals: none
    limits: {user: {running: 5, per_hour: 7, cooldown: 1h}, both: {cooldown: 1d}}
  - {name: other, when: 'request.login == "nobody"', approvals: none, limits: {user: {running: 1}}}
`)
	// The lowest counts, and the longest cool-down, of the rules that match.
	want := access.Limits{
		User:     access.Limit{Running: 3, PerHour: 7, Cooldown: 3600},
		Resource: access.Limit{Running: 1},
		Both:     access.Limit{Cooldown: 86400},
	}
	if got := p.Decide(ask()); got.Limits != want || got.Effect != access.EffectAllow {
		t.Errorf("ruling is %s with limits %+v, want allow with %+v", got.Effect, got.Limits, want)
	}
	if !p.Limited() || mustParse(t, ruleFile("name: a", "when: true", "approvals: none")).Limited() {
		t.Error("Limited is wrong")
	}
}

func TestLimitsRefused(t *testing.T) {
	for text, want := range map[string]string{
		"limits: {}":                          `policy.yaml:5:13: limits is empty: name user, resource or both`,
		"limits: {user: {}}":                  `policy.yaml:5:20: user limits nothing: name running, per_hour or cooldown`,
		"limits: {group: {running: 1}}":       `policy.yaml:5:14: unknown field "group" in limits; known are both, resource, user`,
		"limits: {user: {running: 0}}":        `policy.yaml:5:30: running must be a number from 1 to 1000`,
		"limits: {user: {running: 1001}}":     `policy.yaml:5:30: running must be a number from 1 to 1000`,
		"limits: {user: {running: -1}}":       `policy.yaml:5:30: running must be a number from 1 to 1000`,
		"limits: {both: {per_hour: many}}":    `policy.yaml:5:31: per_hour must be a number from 1 to 1000`,
		"limits: {user: {cooldown: 7d1s}}":    `policy.yaml:5:31: cooldown is 7d1s, not 1s to 7d`,
		"limits: {user: {cooldown: 0s}}":      `policy.yaml:5:31: cooldown is 0s, not 1s to 7d`,
		"limits: {resource: {cooldown: 7d}}":  "",
		"limits: {resource: {running: 1000}}": "",
	} {
		_, err := Parse("policy.yaml", []byte(ruleFile("name: a", "when: true", "approvals: none", text)))
		got := ""
		if err != nil {
			got = problemsOf(err)[0].Error()
		}
		if got != want {
			t.Errorf("%s: %q, want %q", text, got, want)
		}
	}
	_, err := Parse("policy.yaml", []byte(ruleFile("name: a", "when: true", "deny: no", "limits: {user: {running: 1}}")))
	if err == nil {
		t.Error("a rule that denies may have limits")
	}
}
