package policy

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"cel.dev/cel-go/cel"
	"github.com/google/go-cmp/cmp"

	"hallpass/access"
	"hallpass/testsuite/measure"
)

// town is a directory and catalog.
type town struct {
	users     map[string][]string
	resources []access.Resource
}

func (t town) User(name string) (access.User, bool) {
	g, ok := t.users[name]
	return access.User{Name: name, Groups: g}, ok
}

func (t town) Users() (out []access.User) {
	for _, name := range modelUsers {
		if u, ok := t.User(name); ok {
			out = append(out, u)
		}
	}
	return out
}

func (t town) Members(group string) (out []string) {
	for _, u := range t.Users() {
		if slices.Contains(u.Groups, group) {
			out = append(out, u.Name)
		}
	}
	return out
}

func (t town) Resource(name string) (access.Resource, bool) {
	i := slices.IndexFunc(t.resources, func(r access.Resource) bool { return r.Name == name })
	if i < 0 {
		return access.Resource{}, false
	}
	return t.resources[i], true
}

func (t town) Resources() []access.Resource { return t.resources }

func newTown() town {
	return town{
		users: map[string][]string{"alice": {"dev"}, "bob": {"sre"}, "carol": {"sre", "dba"}, "dave": {"sec"}},
		resources: []access.Resource{
			{Name: "ssh/a", Kind: "ssh", Labels: map[string]string{"env": "prod"}, Logins: []string{"deploy"}},
			{Name: "ssh/b", Kind: "ssh", Labels: map[string]string{"env": "test", "team": "x"}},
		},
	}
}

func TestLint(t *testing.T) {
	for name, c := range map[string]struct {
		rule string
		want []string
	}{
		"nothing":           {`{name: a, when: true, approvals: [{count: 1, from: [sre]}]}`, nil},
		"two of two":        {`{name: a, when: '"dev" in requester.groups', approvals: [{count: 2, from: [sre]}]}`, nil},
		"three of two":      {`{name: a, when: true, approvals: [{count: 3, from: [sre]}]}`, []string{"p:2:38: 3 approvals are asked for, but only 2 can give one: bob, carol"}},
		"nobody there":      {`{name: a, when: true, approvals: [{count: 1, from: [ops]}]}`, []string{"p:2:38: nobody in the directory is in group ops"}},
		"nobody in one":     {`{name: a, when: true, approvals: [{count: 1, from: [ops, sre]}]}`, []string{"p:2:38: nobody in the directory is in group ops"}},
		"revokers":          {`{name: a, when: true, approvals: none, revoke: [ops]}`, []string{"p:2:50: nobody in the directory is in group ops"}},
		"not together":      {`{name: a, when: '"dev" in requester.groups', approvals: [{count: 2, from: [sre]}, {count: 1, from: [dba]}]}`, []string{"p:2:59: the sets can't all be given by different people: 1 approval from dba would be missing"}},
		"two of two deny":   {`{name: a, when: '"dev" in requester.groups', approvals: [{count: 1, from: [sre]}], denies: 2}`, nil},
		"three of two deny": {`{name: a, when: true, approvals: [{count: 1, from: [sre]}], denies: 3}`, []string{"p:2:71: 3 denials end a request, but only 2 can deny: bob, carol"}},
		"steps help":        {`{name: a, when: '"dev" in requester.groups', approvals: [{count: 3, from: [sre]}], escalate: [{after: 1m, ask: [dba]}]}`, []string{"p:2:61: 3 approvals are asked for, but only 2 can give one: bob, carol"}},
		"nobody is asked":   {`{name: a, when: '"dev" in requester.groups', approvals: [{count: 1, from: [sre]}], escalate: [{after: 1m, ask: [ops]}]}`, []string{"p:2:61: nobody in the directory is in group ops", "p:2:96: nobody in the directory is in group ops"}},
		"not for oneself":   {`{name: a, when: true, approvals: [{count: 2, from: [sre]}]}`, []string{"p:2:36: too few others can approve when one of these asks: bob, carol"}},
		"unknown user":      {`{name: a, when: requester.name == "zoe", approvals: none}`, []string{"p:2:19: never matches: there is no user zoe in the directory"}},
		"unknown group":     {`{name: a, when: 'true && "ops" in requester.groups', approvals: none}`, []string{"p:2:19: never matches: nobody in the directory is in group ops"}},
		"unknown kind":      {`{name: a, when: resource.kind == "db", approvals: none}`, []string{`p:2:19: never matches: no resource in the catalog has resource.kind == "db"`, "p:1:1: no rule lets anybody have ssh/a, ssh/b"}},
		"unknown resource":  {`{name: a, when: resource.name == "ssh/c", deny: no}`, []string{`p:2:19: never matches: no resource in the catalog has resource.name == "ssh/c"`, "p:1:1: no rule lets anybody have ssh/a, ssh/b"}},
		"labels apart":      {`{name: a, when: resource.labels.env == "prod" && resource.labels.team == "x", approvals: none}`, []string{"p:2:19: never matches: no resource in the catalog meets all of the condition", "p:1:1: no rule lets anybody have ssh/a, ssh/b"}},
		"one resource":      {`{name: a, when: resource.labels.env == "prod", approvals: none}`, []string{"p:1:1: no rule lets anybody have ssh/b"}},
		"only maybe":        {`{name: a, when: resource.kind == "db" || true, approvals: none}`, nil},
	} {
		t.Run(name, func(t *testing.T) {
			p, err := Parse("p", []byte("rules:\n- "+c.rule+"\n"))
			if err != nil {
				t.Fatal(err)
			}
			town := newTown()
			var got []string
			for _, problem := range p.Lint(town, town) {
				got = append(got, problem.Error())
			}
			slices.Sort(got)
			slices.Sort(c.want)
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

const toolPolicy = `rules:
  - name: prod
    when: resource.labels.env == "prod" && "dev" in requester.groups
    require: {reason: true}
    max_duration: 2h
    approvals: [{count: 2, from: [sre, dba]}]
    auto: request.duration <= duration("5m")
    revoke: [sec]
  - name: freeze
    when: resource.labels.env == "prod" && now.getDayOfWeek("UTC") == 6
    deny: no changes on Saturdays
  - name: window
    when: has(context.incident) && context.incident
    approvals: none
    ssh: {extensions: [permit-pty, permit-user-rc], source_address: [10.0.0.0/8], force_command: uptime, grace: 10m, warn: 1m}
`

func TestCases(t *testing.T) {
	p := mustParse(t, toolPolicy)
	town := newTown()
	file := `
users:
  erin: [dev]        # nobody in the directory
  frank: []
resources:
  ssh/new: {labels: {env: prod}, logins: [root], hosts: [n], actions: []}
tests:
  - name: asks for two
    requester: alice
    resource: ssh/a
    request: {login: deploy, duration: 30m, reason: deploy, ticket: T, command: x, actions: [y], public_key: k}
    now: 2026-11-20T10:00:00Z
    expect:
      effect: ask
      rules: [prod]
      missing: [{count: 2, from: [dba, sre]}]
      max_duration: 2h
      approval_window: 8h
      revoke: [sec]
      why: 2 approvals
  - name: one has approved
    requester: alice
    resource: ssh/a
    request: {duration: 30m, reason: deploy}
    now: 2026-11-20T10:00:00Z
    approved_by: [bob]
    expect: {effect: ask, missing: [{count: 1, from: [sre, dba]}]}
  - name: both have
    requester: erin
    resource: ssh/new
    request: {duration: 30m, reason: deploy, start: 2026-11-21T10:00:00Z}
    now: 2026-11-20T10:00:00+01:00
    approved_by: [bob, carol]
    expect: {effect: allow, missing: none}
  - name: nobody without group
    requester: frank
    resource: ssh/new
    now: 2026-11-20T10:00:00Z
    expect: {effect: deny, rules: [], why: no rule}
  - name: in an incident
    requester: frank
    resource: ssh/a
    context: {incident: true, n: 1, f: 1.5, l: [a, 2], s: x}
    now: 2026-11-20T10:00:00Z
    expect: {effect: allow, extensions: [permit-pty, permit-user-rc], source_address: [10.0.0.0/8], force_command: uptime, grace: 10m, warn: 1m}
  - name: this one fails
    requester: alice
    resource: ssh/a
    now: 2026-11-21T10:00:00Z
    expect: {effect: ask, rules: [prod], max_duration: 1h, why: nothing}
`
	got, err := p.Test("policy_test.yaml", []byte(file), town, town)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range got[:5] {
		if !r.Passed() {
			t.Errorf("%s:%d: %s: %v", r.File, r.Line, r.Name, r.Failures)
		}
	}
	want := Result{File: "policy_test.yaml", Line: 46, Name: "this one fails", Failures: []string{
		"effect is deny, not ask",
		"rules is [freeze prod], not [prod]",
		"max_duration is 2h, not 1h",
		`why does not contain "nothing"`,
		`policy says: no changes on Saturdays (rule "freeze"); a reason is required (rule "prod")`,
	}}
	if diff := cmp.Diff(want, got[5]); diff != "" {
		t.Error(diff)
	}
}

func TestCasesRefuses(t *testing.T) {
	p := mustParse(t, toolPolicy)
	const head = "tests:\n  - name: a\n    requester: alice\n    resource: ssh/a\n    now: 2026-11-20T10:00:00Z\n"
	for name, c := range map[string]struct{ text, want string }{
		"nothing":         {"", "t:1:1: file is empty"},
		"no tests":        {"users: {}\n", "t:1:1: test file has no tests"},
		"empty tests":     {"tests: []\n", "t:1:8: no tests"},
		"no expectation":  {head, "t:2:5: test has no expect"},
		"effect missing":  {head + "    expect: {why: x}\n", "t:6:14: expect has no effect"},
		"effect unknown":  {head + "    expect: {effect: yes}\n", `t:6:22: effect "yes" is not allow, ask or deny`},
		"user unknown":    {strings.Replace(head, "alice", "zoe", 1) + "    expect: {effect: ask}\n", `t:3:16: user "zoe" is neither under users nor in the directory`},
		"resource":        {strings.Replace(head, "ssh/a", "ssh/z", 1) + "    expect: {effect: ask}\n", `t:4:15: resource "ssh/z" is neither under resources nor in the catalog`},
		"approver":        {head + "    approved_by: [zoe]\n    expect: {effect: ask}\n", `t:6:19: user "zoe" is neither under users nor in the directory`},
		"oneself":         {head + "    approved_by: [alice]\n    expect: {effect: ask}\n", `t:2:5: nobody approves his own request: alice`},
		"time":            {strings.Replace(head, "2026-11-20T10:00:00Z", "friday", 1) + "    expect: {effect: ask}\n", `t:5:10: now is not a time such as 2026-11-20T10:00:00Z`},
		"name twice":      {head + "    expect: {effect: ask}\n" + strings.TrimPrefix(head, "tests:\n") + "    expect: {effect: ask}\n", `t:7:5: test "a" is there already`},
		"unknown request": {head + "    request: {user: x}\n    expect: {effect: ask}\n", `t:6:15: unknown field "user" in request; known are actions, command, duration, emergency, login, public_key, reason, start, ticket`},
		"context mapping": {head + "    context: {a: {b: c}}\n    expect: {effect: ask}\n", `t:6:19: context must be text, not a mapping`},
	} {
		t.Run(name, func(t *testing.T) {
			town := newTown()
			_, err := p.Test("t", []byte(c.text), town, town)
			if err == nil || err.Error() != c.want {
				t.Errorf("got  %v\nwant %s", err, c.want)
			}
		})
	}
	if _, err := p.Test("t", []byte(head+"    expect: {effect: ask}\n"), nil, nil); err == nil {
		t.Error("users come from nowhere")
	}
}

func TestExplain(t *testing.T) {
	p := mustParse(t, toolPolicy+"  - name: wild\n    when: true\n    approvals: [{count: 1, from: [sre]}]\n    in_person: true\n    auto: context.x == 1\n")
	in := ask(func(in *Input) { in.Context = map[string]any{"incident": false} })
	got, err := p.Explain(in)
	if err != nil {
		t.Fatal(err)
	}
	want := []Finding{
		{Rule: "freeze", Line: 9, Deny: true, Why: `not so: now.getDayOfWeek("UTC") == 6`},
		{Rule: "prod", Line: 2, Matched: true, Why: "needs 2 approvals from dba or sre, because auto doesn't hold; at most 2h"},
		{Rule: "wild", Line: 16, Matched: true, Why: "needs 1 approval from sre, in person, because auto can't be evaluated: look-up x has no answer"},
		{Rule: "window", Line: 12, Why: "not so: context.incident"},
	}
	// A term that isn't a bool by itself can't be told apart: the whole is.
	want[3].Why = "condition is false"
	if diff := cmp.Diff(want, got.Rules); diff != "" {
		t.Error(diff)
	}
	if _, err := json.Marshal(got); err != nil {
		t.Error(err)
	}

	in.Request.Duration, in.Request.Reason, in.Context["x"] = 300, "", 1
	in.Now = in.Now.AddDate(0, 0, 1)
	in.Requester.Groups = nil
	in.Resource.Labels["env"] = "test"
	if got, err = p.Explain(in); err != nil {
		t.Fatal(err)
	}
	if want := `not so: resource.labels.env == "prod", and 1 more`; got.Rules[1].Why != want {
		t.Errorf("got %q, want %q", got.Rules[1].Why, want)
	}
	if want := "no approval needed, because auto holds"; got.Rules[2].Why != want {
		t.Errorf("got %q, want %q", got.Rules[2].Why, want)
	}
}

// FuzzParse: whatever is in the file, Parse returns, and what it accepts
// decides. Whatever it refuses is placed inside the file.
func FuzzParse(f *testing.F) {
	f.Add(toolPolicy)
	f.Add(ruleFile("name: a", "when: |\n      true", "approvals: none"))
	for _, s := range []string{"", "rules:", "rules: [{}]", "rules: [[[[[[", "- - - -", "a: &b\n  *b", "? a\n: b", "rules:\n\t- a", "rules: !!x []", "\"", "rules: >\n a", "%YAML 1.2\n---\n", "rules: [{name: a, when: 'x'"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if len(text) > 1<<16 {
			return
		}
		p, err := Parse("p", []byte(text))
		if err != nil {
			problems := problemsOf(err)
			if len(problems) == 0 {
				t.Fatalf("not Problems: %v", err)
			}
			for _, problem := range problems {
				if problem.Line < 1 || problem.Line > strings.Count(text, "\n")+2 || problem.Column < 1 {
					t.Errorf("%v is not in the file of %d lines", problem, strings.Count(text, "\n")+1)
				}
				if strings.ContainsAny(problem.Message, "\n\x1b") {
					t.Errorf("%q is not one plain line", problem.Message)
				}
			}
			return
		}
		in := ask()
		got := p.Decide(in)
		if len(got.Rules) == 0 && got.Effect != access.EffectDeny {
			t.Errorf("%s without a rule", got.Effect)
		}
		town := newTown()
		for _, problem := range p.Lint(town, town) {
			if problem.Line < 1 || problem.Line > strings.Count(text, "\n")+1 {
				t.Errorf("%v is not in the file", problem)
			}
		}
		if _, err := p.Explain(in); err != nil {
			t.Error(err)
		}
	})
}

// FuzzTest does the same with files of cases.
func FuzzTest(f *testing.F) {
	f.Add("users: {a: [b]}\nresources: {ssh/a: {labels: {x: y}}}\ntests:\n- {name: x, requester: a, resource: ssh/a, now: 2026-11-20T10:00:00Z, context: {a: 1}, expect: {effect: ask, missing: none}}\n")
	f.Fuzz(func(t *testing.T, text string) {
		town := newTown()
		results, err := mustParse(t, toolPolicy).Test("t", []byte(text), town, town)
		if err == nil && len(results) == 0 {
			t.Error("neither results nor an error")
		}
	})
}

// bench is a policy of n rules for n hosts and teams, and five for all.
func bench(n int) string {
	var b strings.Builder
	b.WriteString(toolPolicy)
	for i := range n - 3 {
		switch i % 4 {
		case 0:
			fmt.Fprintf(&b, "  - {name: r%d, when: 'resource.name == \"ssh/host-%d\" && \"dev\" in requester.groups', approvals: [{count: 1, from: [sre]}]}\n", i, i)
		case 1:
			fmt.Fprintf(&b, "  - {name: r%d, when: 'resource.kind == \"ssh\" && resource.labels.team == \"team-%d\"', approvals: none}\n", i, i)
		case 2:
			fmt.Fprintf(&b, "  - {name: r%d, when: '\"group-%d\" in requester.groups && resource.labels.env == \"prod\"', approvals: none}\n", i, i)
		case 3:
			fmt.Fprintf(&b, "  - {name: r%d, when: 'requester.name == \"user-%d\"', deny: gone}\n", i, i)
		}
	}
	return b.String()
}

func BenchmarkDecide(b *testing.B) {
	for _, n := range []int{10, 1000, 10000} {
		p := mustParse(b, bench(n))
		in := ask()
		b.Run(fmt.Sprintf("rules=%d", n), func(b *testing.B) {
			b.ReportAllocs()
			measure.Loop(b, func() {
				if got := p.Decide(in); got.Effect != access.EffectAsk {
					b.Fatal(got.Why)
				}
			})
		})
	}
	// Conditions that no index helps with: each rule is evaluated.
	for _, n := range []int{10, 1000} {
		var s strings.Builder
		s.WriteString("rules:\n")
		for i := range n {
			fmt.Fprintf(&s, "  - {name: r%d, when: 'resource.name.endsWith(\"-%d\")', approvals: none}\n", i, i)
		}
		p := mustParse(b, s.String())
		in := ask()
		b.Run(fmt.Sprintf("unindexed=%d", n), func(b *testing.B) {
			b.ReportAllocs()
			measure.Loop(b, func() { p.Decide(in) })
		})
		// The same conditions in cel-go alone, whatever they cost: nothing that tries
		// each of them can be faster.
		env, err := cel.NewEnv(cel.Variable("resource.name", cel.StringType))
		if err != nil {
			b.Fatal(err)
		}
		programs := make([]cel.Program, n)
		for i := range programs {
			ast, issues := env.Compile(fmt.Sprintf("resource.name.endsWith(\"-%d\")", i))
			if issues.Err() != nil {
				b.Fatal(issues.Err())
			}
			if programs[i], err = env.Program(ast, cel.EvalOptions(cel.OptOptimize)); err != nil {
				b.Fatal(err)
			}
		}
		values, err := cel.NewActivation(map[string]any{"resource.name": in.Resource.Name})
		if err != nil {
			b.Fatal(err)
		}
		b.Run(fmt.Sprintf("cel=%d", n), func(b *testing.B) {
			b.ReportAllocs()
			measure.Loop(b, func() {
				for _, p := range programs {
					if _, _, err := p.Eval(values); err != nil {
						b.Fatal(err)
					}
				}
			})
		})
	}
}

func BenchmarkParse(b *testing.B) {
	for _, n := range []int{10, 1000} {
		text := []byte(bench(n))
		b.Run(fmt.Sprintf("rules=%d", n), func(b *testing.B) {
			for b.Loop() {
				if _, err := Parse("p", text); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
