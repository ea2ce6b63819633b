package policy

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/goccy/go-yaml/ast"

	"hallpass/access"
	"hallpass/internal/wording"
)

// Result is what became of one case.
type Result struct {
	File     string   `json:"file"`
	Line     int      `json:"line"`
	Name     string   `json:"name"`
	Failures []string `json:"failures,omitempty"` // empty: passed
}

// Passed says whether everything was as expected.
func (r Result) Passed() bool { return len(r.Failures) == 0 }

// Test runs the cases of a file, usually policy_test.yaml next to the policy.
// Users and resources that the file describes itself hide those of the
// directory and the catalog, either of which may be nil. The error is Problems
// with the file; a case that fails is a Result.
func (p *Policy) Test(name string, data []byte, dir Directory, cat Catalog) ([]Result, error) {
	r := &reader{name: name}
	root := r.parse(data)
	if root == nil {
		return nil, r.problems
	}
	f := caseFile{users: map[string]access.User{}, resources: map[string]access.Resource{}, dir: dir, cat: cat}
	var cases node
	r.object(root, "test file", fields{
		"users":     func(v node) { r.users(v, f.users) },
		"resources": func(v node) { r.resources(v, f.resources) },
		"tests":     func(v node) { cases = v },
	}, "tests")
	var out []Result
	names := map[string]bool{}
	if cases != nil {
		items := r.list(cases, "tests")
		if len(items) == 0 && len(r.problems) == 0 {
			r.fail(cases, "no tests")
		}
		for _, item := range items {
			c := r.testCase(item, &f)
			if names[c.name] {
				r.fail(item, "test %q is there already", c.name)
			}
			names[c.name] = true
			if len(r.problems) > 0 {
				continue
			}
			out = append(out, Result{File: name, Line: r.at(item).line, Name: c.name, Failures: c.run(p)})
		}
	}
	if len(r.problems) > 0 {
		return nil, r.problems
	}
	return out, nil
}

// caseFile is what the cases of a file share.
type caseFile struct {
	users     map[string]access.User
	resources map[string]access.Resource
	dir       Directory
	cat       Catalog
}

func (f *caseFile) user(name string) (access.User, bool) {
	if u, ok := f.users[name]; ok {
		return u, true
	}
	if f.dir == nil {
		return access.User{}, false
	}
	return f.dir.User(name)
}

func (f *caseFile) resource(name string) (access.Resource, bool) {
	if r, ok := f.resources[name]; ok {
		return r, true
	}
	if f.cat == nil {
		return access.Resource{}, false
	}
	return f.cat.Resource(name)
}

// testCase is one case: an input, who approves, and checks of the outcome.
type testCase struct {
	name      string
	in        Input
	approvers []access.User
	waited    time.Duration                              // of the request, when they approve
	checks    []func(access.Ruling, []access.Set) string // "" or what is wrong
}

func (c *testCase) run(p *Policy) []string {
	ruling := p.Decide(c.in)
	var missing []access.Set
	if ruling.Effect == access.EffectAsk {
		missing = Missing(ruling.Needs, c.waited, Voters(c.approvers, c.waited))
	}
	var out []string
	for _, check := range c.checks {
		if wrong := check(ruling, missing); wrong != "" {
			out = append(out, wrong)
		}
	}
	if len(out) > 0 {
		out = append(out, "policy says: "+ruling.Why)
	}
	return out
}

// each reads a mapping with keys of the file's choice.
func (r *reader) each(n node, what string, read func(key string, at, v node)) {
	m, ok := n.(ast.MapNode)
	if !ok {
		r.fail(n, "%s must be a mapping%s", what, r.but(n))
		return
	}
	for it := m.MapRange(); it.Next(); {
		k, ok := it.Key().(*ast.StringNode)
		if !ok {
			r.fail(it.Key(), "%s has a key that is not text", what)
			continue
		}
		read(k.Value, it.Key(), it.Value())
	}
}

func (r *reader) users(n node, into map[string]access.User) {
	r.each(n, "users", func(name string, at, v node) {
		r.check(at, access.CheckName("user", name))
		var groups []string
		if items := r.list(v, "groups of "+name); len(items) > 0 {
			groups = r.names(v, "groups")
		}
		into[name] = access.User{Name: name, Groups: groups}
	})
}

func (r *reader) resources(n node, into map[string]access.Resource) {
	r.each(n, "resources", func(name string, at, v node) {
		r.check(at, access.CheckResource(name))
		res := access.Resource{Name: name}
		res.Kind, _ = access.SplitResource(name)
		r.object(v, "resource", fields{
			"labels": func(v node) {
				res.Labels = map[string]string{}
				r.each(v, "labels", func(k string, _, v node) { res.Labels[k] = r.text(v, "label") })
			},
			"logins":  func(v node) { res.Logins = r.texts(v, "logins") },
			"hosts":   func(v node) { res.Hosts = r.texts(v, "hosts") },
			"actions": func(v node) { res.Actions = r.texts(v, "actions") },
		})
		into[name] = res
	})
}

func (r *reader) texts(n node, what string) []string {
	var out []string
	for _, item := range r.list(n, what) {
		out = append(out, r.text(item, what))
	}
	return out
}

// time reads an RFC 3339 time.
func (r *reader) time(n node, what string) time.Time {
	s := r.text(n, what)
	t, err := time.Parse(time.RFC3339, s)
	if s != "" && err != nil {
		r.fail(n, "%s is not a time such as 2026-11-20T10:00:00Z", what)
	}
	return t.UTC()
}

func (r *reader) testCase(n node, f *caseFile) testCase {
	var c testCase
	c.in.Request.Duration = access.InSeconds(access.MinGrant)
	req := &c.in.Request
	r.object(n, "test", fields{
		"name": func(v node) { c.name = r.text(v, "name") },
		"requester": func(v node) {
			name := r.text(v, "requester")
			u, ok := f.user(name)
			if !ok && name != "" {
				r.fail(v, "user %q is neither under users nor in the directory", wording.Short(name))
			}
			c.in.Requester, req.Signer = u, name
		},
		"resource": func(v node) {
			name := r.text(v, "resource")
			res, ok := f.resource(name)
			if !ok && name != "" {
				r.fail(v, "resource %q is neither under resources nor in the catalog", wording.Short(name))
			}
			c.in.Resource, req.Resource = res, name
		},
		"request": func(v node) {
			r.object(v, "request", fields{
				"login":    func(v node) { req.Login = r.text(v, "login") },
				"actions":  func(v node) { req.Actions = r.texts(v, "actions") },
				"command":  func(v node) { req.Command = r.text(v, "command") },
				"duration": func(v node) { req.Duration = access.InSeconds(r.duration(v, "duration", time.Second, access.MaxGrant)) },
				"reason":   func(v node) { req.Reason = r.text(v, "reason") },
				"emergency": func(v node) {
					if r.boolean(v, "emergency") {
						req.Mode = access.ModeEmergency
					}
				},
				"ticket":     func(v node) { req.Ticket = r.text(v, "ticket") },
				"public_key": func(v node) { req.PublicKey = r.text(v, "public_key") },
				"start": func(v node) {
					t := r.time(v, "start")
					req.Start = &t
				},
			})
		},
		"now": func(v node) { c.in.Now = r.time(v, "now") },
		"context": func(v node) {
			c.in.Context = map[string]any{}
			r.each(v, "context", func(k string, _, v node) { c.in.Context[k] = r.value(v) })
		},
		"approved_by": func(v node) {
			for _, item := range r.list(v, "approved_by") {
				name := r.text(item, "approved_by")
				u, ok := f.user(name)
				if !ok && name != "" {
					r.fail(item, "user %q is neither under users nor in the directory", wording.Short(name))
				}
				c.approvers = append(c.approvers, u)
			}
		},
		"waited": func(v node) { c.waited = r.duration(v, "waited", 0, access.EvidenceAge) },
		"expect": func(v node) { r.expect(v, &c) },
	}, "name", "requester", "resource", "now", "expect")
	for _, u := range c.approvers {
		if u.Name == c.in.Requester.Name {
			r.fail(n, "nobody approves his own request: %s", u.Name)
		}
	}
	return c
}

// expect reads what a case expects.
func (r *reader) expect(n node, c *testCase) {
	compare := func(what string, want any, got func(access.Ruling, []access.Set) any) {
		c.checks = append(c.checks, func(ruling access.Ruling, missing []access.Set) string {
			if w, g := fmt.Sprint(want), fmt.Sprint(got(ruling, missing)); w != g {
				return fmt.Sprintf("%s is %s, not %s", what, g, w)
			}
			return ""
		})
	}
	r.object(n, "expect", fields{
		"effect": func(v node) {
			e := access.Effect(r.text(v, "effect"))
			switch e {
			case access.EffectAllow, access.EffectAsk, access.EffectDeny:
			default:
				r.fail(v, "effect %q is not allow, ask or deny", wording.Short(string(e)))
			}
			compare("effect", e, func(ruling access.Ruling, missing []access.Set) any {
				if ruling.Effect == access.EffectAsk && missing == nil {
					return access.EffectAllow // approved_by is enough
				}
				return ruling.Effect
			})
		},
		"rules": func(v node) {
			compare("rules", sorted(r.texts(v, "rules")), func(ruling access.Ruling, _ []access.Set) any { return ruling.Rules })
		},
		"missing": func(v node) {
			var want []access.Set
			if s, ok := v.(*ast.StringNode); !ok || s.Value != "none" {
				want = r.sets(v, func(string, func(node)) func(node) { return func(node) {} })
				slices.SortFunc(want, func(a, b access.Set) int { return slices.Compare(a.Groups, b.Groups) })
			}
			compare("missing", describeOrNone(want), func(_ access.Ruling, missing []access.Set) any { return describeOrNone(missing) })
		},
		"max_duration": func(v node) {
			d := access.InSeconds(r.duration(v, "max_duration", time.Second, access.MaxGrant))
			compare("max_duration", d, func(ruling access.Ruling, _ []access.Set) any { return ruling.MaxDuration })
		},
		"approval_window": func(v node) {
			d := access.InSeconds(r.duration(v, "approval_window", time.Second, access.EvidenceAge))
			compare("approval_window", d, func(ruling access.Ruling, _ []access.Set) any { return ruling.Window })
		},
		"revoke": func(v node) {
			compare("revoke", sorted(r.texts(v, "revoke")), func(ruling access.Ruling, _ []access.Set) any { return ruling.Revokers })
		},
		"extensions": func(v node) {
			compare("extensions", sorted(r.texts(v, "extensions")), func(ruling access.Ruling, _ []access.Set) any { return ruling.SSH.Extensions })
		},
		"source_address": func(v node) {
			compare("source_address", r.texts(v, "source_address"), func(ruling access.Ruling, _ []access.Set) any { return ruling.SSH.SourceAddress })
		},
		"force_command": func(v node) {
			compare("force_command", r.text(v, "force_command"), func(ruling access.Ruling, _ []access.Set) any { return ruling.SSH.ForceCommand })
		},
		"grace": func(v node) {
			d := access.InSeconds(r.duration(v, "grace", 0, MaxGrace))
			compare("grace", d, func(ruling access.Ruling, _ []access.Set) any { return ruling.SSH.Grace })
		},
		"warn": func(v node) {
			d := access.InSeconds(r.duration(v, "warn", MinWarn, MaxWarn))
			compare("warn", d, func(ruling access.Ruling, _ []access.Set) any { return ruling.SSH.Warn })
		},
		"why": func(v node) {
			want := r.text(v, "why")
			c.checks = append(c.checks, func(ruling access.Ruling, _ []access.Set) string {
				if !strings.Contains(ruling.Why, want) {
					return fmt.Sprintf("why does not contain %q", want)
				}
				return ""
			})
		},
	}, "effect")
}

func describeOrNone(sets []access.Set) string {
	if len(sets) == 0 {
		return "none"
	}
	return Describe(sets)
}

// value reads a scalar or a list of scalars for the context.
func (r *reader) value(n node) any {
	switch v := n.(type) {
	case *ast.BoolNode:
		return v.Value
	case *ast.IntegerNode:
		switch i := v.Value.(type) {
		case uint64:
			if i <= 1<<62 {
				return int64(i)
			}
		case int64:
			return i
		}
		r.fail(n, "number is too large")
		return nil
	case *ast.FloatNode:
		return v.Value
	case *ast.SequenceNode:
		out := []any{}
		for _, item := range v.Values {
			out = append(out, r.value(item))
		}
		return out
	}
	return r.text(n, "context")
}
