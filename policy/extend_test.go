package policy

import (
	"strings"
	"testing"
	"time"

	"hallpass/access"
)

func TestTotal(t *testing.T) {
	const rules = `
rules:
  - {name: a, when: 'request.login == "a"', approvals: none, max_duration: 1h, total: 4h}
  - {name: b, when: 'request.login in ["a", "b"]', approvals: none, max_duration: 2h}
  - {name: c, when: 'request.login == "c"', approvals: none}
  - {name: d, when: 'request.login == "d" && request.extends != ""', approvals: none, total: 30d}
  - {name: e, when: 'request.login == "e" && request.total <= duration("3h")', approvals: none, max_duration: 2h, total: 30d}
  - {name: f, when: 'request.login in ["f", "g", "h"]', approvals: none, total: 30m}
  - {name: g, when: 'request.login == "g"', approvals: none, max_duration: 2h}
  - {name: h, when: 'request.login == "h"', approvals: none, max_duration: 2h, total: 8h}
`
	p := mustParse(t, rules)
	for name, c := range map[string]struct {
		login string
		had   time.Duration // 0: it extends nothing
		more  time.Duration
		why   string // "" where it is allowed, else a part of why not
	}{
		"both rules: the lower of total and max_duration":    {"a", time.Hour, time.Hour, ""},
		"both rules: a second more":                          {"a", time.Hour, time.Hour + time.Second, "longer than the 1h"},
		"both rules: too much in all":                        {"a", time.Hour + time.Second, time.Hour, "2h1s in all is longer than the 2h that policy allows a grant with its extensions"},
		"no total: max_duration":                             {"b", time.Hour, time.Hour, ""},
		"no total: past max_duration":                        {"b", time.Hour, time.Hour + time.Second, "2h1s in all is longer than the 2h"},
		"nothing named: an hour":                             {"c", 30 * time.Minute, 30 * time.Minute, ""},
		"nothing named: past the hour":                       {"c", 30 * time.Minute, 31 * time.Minute, "1h1m in all is longer than the 1h"},
		"a rule for extensions alone":                        {"d", 10 * time.Hour, time.Hour, ""},
		"the same for what extends nothing":                  {"d", 0, time.Hour, "no rule allows this"},
		"a condition on all of it":                           {"e", time.Hour, 2 * time.Hour, ""},
		"a condition on all of it, past it":                  {"e", time.Hour + time.Second, 2 * time.Hour, "no rule allows this"},
		"a condition on all of it, for what extends nothing": {"e", 0, 2 * time.Hour, ""},
		"total alone bounds the first grant":                 {"f", 0, 30 * time.Minute, ""},
		"total alone: a second more":                         {"f", 0, 30*time.Minute + time.Second, "30m1s is longer than the 30m"},
		"total alone: in all":                                {"f", 20 * time.Minute, 10 * time.Minute, ""},
		"total alone: past it":                               {"f", 20 * time.Minute, 10*time.Minute + time.Second, "30m1s in all is longer than the 30m"},
		"total beside another rule's max_duration":           {"g", 0, 30*time.Minute + time.Second, "30m1s is longer than the 30m"},
		"total beside another rule's max_duration, in all":   {"g", 20 * time.Minute, 20 * time.Minute, "40m in all is longer than the 30m"},
		"the smaller of two totals":                          {"h", 0, 30 * time.Minute, ""},
		"past the smaller of two totals":                     {"h", 0, time.Hour, "1h is longer than the 30m"},
		"past the smaller of two totals, in all":             {"h", 20 * time.Minute, 20 * time.Minute, "40m in all is longer than the 30m"},
	} {
		got := p.Decide(ask(func(in *Input) {
			in.Request.Login, in.Request.Duration = c.login, access.InSeconds(c.more)
			if c.had > 0 {
				in.Request.Extends = "another"
				in.Extends = &access.Extended{Request: "another", Begin: friday.Add(-time.Minute), End: friday.Add(c.had - time.Minute)}
			}
		}))
		if (got.Effect == access.EffectAllow) != (c.why == "") || !strings.Contains(got.Why, c.why) {
			t.Errorf("%s: %s: %s; want %q", name, got.Effect, got.Why, c.why)
		}
	}
	_, err := Parse("policy.yaml", []byte(ruleFile("name: a", "when: true", "approvals: none", "max_duration: 2h", "total: 1h")))
	if want := "total is 1h, shorter than the max_duration of 2h"; err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("a total below max_duration: %v, want %s", err, want)
	}
}
