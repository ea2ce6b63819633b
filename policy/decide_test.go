package policy

import (
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"hallpass/access"
)

var friday = time.Date(2026, 11, 20, 10, 0, 0, 0, time.UTC)

// ask is a request of alice, who is a dev, for web-1, which is in production.
func ask(change ...func(*Input)) Input {
	in := Input{
		Request: access.Request{
			Header:   access.Header{Type: access.TypeRequest, ID: "id", Signer: "alice", Time: friday},
			Resource: "ssh/web-1", Login: "deploy", Duration: 1800, Reason: "deploy", Ticket: "OPS-1",
			PublicKey: "ssh-ed25519 AAAA",
		},
		Requester: access.User{Name: "alice", Groups: []string{"dev", "oncall"}},
		Resource: access.Resource{Name: "ssh/web-1", Kind: "ssh", Labels: map[string]string{"env": "prod", "empty": ""},
			Logins: []string{"deploy", "root"}, Hosts: []string{"web-1"}},
		Now: friday,
	}
	for _, f := range change {
		f(&in)
	}
	return in
}

func TestConditions(t *testing.T) {
	for when, want := range map[string]string{ // "true", "false" or part of the error
		`true`:                                           "true",
		`request.id == "id"`:                             "true",
		`request.resource == resource.name`:              "true",
		`request.login in resource.logins`:               "true",
		`request.login == "root"`:                        "false",
		`request.command == ""`:                          "true",
		`request.actions.size() == 0`:                    "true",
		`request.duration == duration("30m")`:            "true",
		`request.duration < duration("30m")`:             "false",
		`request.start == now`:                           "true",
		`request.ticket.matches("^OPS-[0-9]+$")`:         "true",
		`request.key_type == "ssh-ed25519"`:              "true",
		`requester.name == "alice"`:                      "true",
		`"oncall" in requester.groups`:                   "true",
		`"sre" in requester.groups`:                      "false",
		`requester.groups.exists(g, g.startsWith("on"))`: "true",
		`resource.kind == "ssh"`:                         "true",
		`"web-1" in resource.hosts`:                      "true",
		`resource.actions == []`:                         "true",
		`now.getDayOfWeek("UTC") == 5`:                   "true",
		`now.getHours("Asia/Tokyo") == 19`:               "true",
		`now.getHours("-08:00") == 2`:                    "true",
		`now.getHours() == 10`:                           "true",

		// Labels: absent reads as "", and is told apart where that is asked.
		`resource.labels.env == "prod"`:                             "true",
		`resource.labels["env"] == "prod"`:                          "true",
		`resource.labels[request.login] == ""`:                      "true",
		`resource.labels.absent == ""`:                              "true",
		`resource.labels.absent == "x"`:                             "false",
		`resource.labels.absent != "x"`:                             "true",
		`resource.labels.absent.startsWith("x")`:                    "false",
		`resource.labels.empty == ""`:                               "true",
		`has(resource.labels.absent)`:                               "false",
		`has(resource.labels.env)`:                                  "true",
		`has(resource.labels.empty)`:                                "true",
		`"absent" in resource.labels`:                               "false",
		`"empty" in resource.labels`:                                "true",
		`size(resource.labels) == 2 && resource.labels.size() == 2`: "true",
		`resource.labels.exists(k, k == "env")`:                     "true",
		`resource.labels.all(k, k == "env")`:                        "false",

		// Context: absent is an error, so that it can't pass for a no.
		`context.ok`:                                     "true",
		`context.n > 2`:                                  "true",
		`has(context.absent) && context.absent`:          "false",
		`context.absent`:                                 "no such key: absent",
		`!context.absent`:                                "no such key: absent",
		`context.absent || true`:                         "true",
		`context.absent && false`:                        "false",
		`context.word`:                                   "result is string, not bool",
		`resource.logins[7] == "x"`:                      "index out of bounds: 7",
		`1 / (request.duration.getSeconds() - 1800) > 0`: "division by zero",
		`now.getHours(request.ticket) == 1`:              "unknown time zone OPS-1",
		`requester.groups.all(a, requester.groups.all(b, [1,2,3,4,5,6,7,8,9].all(c, a + b != string(c))))`: "nesting",
	} {
		t.Run(when, func(t *testing.T) {
			c, err := newCompiler(nil)
			if err != nil {
				t.Fatal(err)
			}
			in := ask()
			in.Context = map[string]any{"ok": true, "n": 3, "word": "x"}
			cond, bad := c.compile(when)
			if want == "nesting" {
				if len(bad) == 0 {
					t.Error("three comprehensions inside each other compile")
				}
				return
			}
			if len(bad) > 0 {
				// "context.x" alone is dyn, which is not a bool.
				if cond, bad = c.compile("(" + when + ") == true"); len(bad) > 0 {
					t.Fatal(bad)
				}
			}
			got, err := cond.holds(newScope(&in))
			switch {
			case want == "true" || want == "false":
				if err != nil || got != (want == "true") {
					t.Errorf("got %v, %v", got, err)
				}
			case want == "result is string, not bool":
				if got {
					t.Error("a text counts as true")
				}
			case err == nil || !strings.Contains(err.Error(), want):
				t.Errorf("got %v, %v; want an error with %q", got, err, want)
			}
		})
	}
}

func TestDecide(t *testing.T) {
	const (
		sre    = "- {name: one, when: true, approvals: [{count: 1, from: [sre]}]}\n"
		free   = "- {name: free, when: true, approvals: none}\n"
		freeze = "- {name: freeze, when: now.getDayOfWeek() == 6, deny: frozen on Saturdays}\n"
	)
	need := func(rule string, sets ...access.Set) access.Need { return access.Need{Rule: rule, Sets: sets} }
	set := func(n int, groups ...string) access.Set { return access.Set{Count: n, Groups: groups} }
	pty := access.SSHOptions{Extensions: []string{"permit-pty"}}
	saturday := func(in *Input) { in.Now = in.Now.AddDate(0, 0, 1) }
	base := access.Ruling{MaxDuration: 3600, Window: 8 * 3600, SSH: pty}
	with := func(change func(*access.Ruling)) access.Ruling {
		r := base
		change(&r)
		return r
	}
	denied := func(why string, rules ...string) access.Ruling {
		return with(func(r *access.Ruling) { r.Effect, r.Why, r.Rules = access.EffectDeny, why, rules })
	}
	for name, c := range map[string]struct {
		rules string
		in    Input
		want  access.Ruling
	}{
		"no rule matches": {
			"- {name: a, when: resource.kind == \"db\", approvals: none}\n", ask(),
			access.Ruling{Effect: access.EffectDeny, Why: "no rule allows this"},
		},
		"only a deny rule, which doesn't match": {freeze, ask(), access.Ruling{Effect: access.EffectDeny, Why: "no rule allows this"}},
		"only a deny rule, which matches": {
			freeze, ask(saturday),
			access.Ruling{Effect: access.EffectDeny, Why: `frozen on Saturdays (rule "freeze")`, Rules: []string{"freeze"}},
		},
		"allowed": {free, ask(), with(func(r *access.Ruling) {
			r.Effect, r.Why, r.Rules = access.EffectAllow, `allowed by rule "free"`, []string{"free"}
		})},
		"asks": {sre, ask(), with(func(r *access.Ruling) {
			r.Effect, r.Why, r.Rules = access.EffectAsk, "needs 1 approval from sre", []string{"one"}
			r.Needs = []access.Need{need("one", set(1, "sre"))}
		})},
		"an allow doesn't take away what another rule asks": {free + sre, ask(), with(func(r *access.Ruling) {
			r.Effect, r.Why, r.Rules = access.EffectAsk, "needs 1 approval from sre", []string{"free", "one"}
			r.Needs = []access.Need{need("one", set(1, "sre"))}
		})},
		"deny wins, and says who could have": {sre + freeze + free, ask(saturday), with(func(r *access.Ruling) {
			r.Effect, r.Why, r.Rules = access.EffectDeny, `frozen on Saturdays (rule "freeze")`, []string{"free", "freeze", "one"}
			r.Needs = []access.Need{need("one", set(1, "sre"))}
		})},
		"needs stand side by side": {
			sre + "- {name: two, when: true, approvals: [{count: 2, from: [dba, sre]}, {count: 1, from: [sre]}], revoke: [z, a]}\n", ask(),
			with(func(r *access.Ruling) {
				r.Effect, r.Rules = access.EffectAsk, []string{"one", "two"}
				r.Why = "needs 2 approvals from dba or sre and 1 from sre"
				r.Needs = []access.Need{need("one", set(1, "sre")), need("two", set(2, "dba", "sre"), set(1, "sre"))}
				r.Revokers = []string{"a", "z"}
			}),
		},
		"a rule that can't be evaluated denies": {
			free + "- {name: odd, when: context.x == 1, approvals: none}\n", ask(),
			denied(`rule "odd" could not be evaluated: no such key: x`, "free"),
		},
		"a deny that can't be evaluated denies": {
			free + "- {name: odd, when: context.x == 1, deny: no}\n", ask(),
			denied(`rule "odd" could not be evaluated: no such key: x`, "free"),
		},
		"auto that can't be evaluated denies": {
			free + "- {name: odd, when: true, approvals: [{count: 1, from: [sre]}], auto: 'request.actions[3] == \"x\"'}\n", ask(),
			denied(`rule "odd" could not be evaluated: index out of bounds: 3`, "free"),
		},
		"auto waives its own rule's approvals": {
			sre + "- {name: two, when: true, approvals: [{count: 2, from: [dba]}], auto: '\"oncall\" in requester.groups', revoke: [sec]}\n", ask(),
			with(func(r *access.Ruling) {
				r.Effect, r.Why, r.Rules = access.EffectAsk, "needs 1 approval from sre", []string{"one", "two"}
				r.Needs = []access.Need{need("one", set(1, "sre"))}
				r.Revokers = []string{"dba", "sec"} // who could have approved may revoke
			}),
		},
		"auto that doesn't hold": {
			"- {name: two, when: true, approvals: [{count: 2, from: [dba]}], auto: '\"ceo\" in requester.groups'}\n", ask(),
			with(func(r *access.Ruling) {
				r.Effect, r.Why, r.Rules = access.EffectAsk, "needs 2 approvals from dba", []string{"two"}
				r.Needs = []access.Need{need("two", set(2, "dba"))}
			}),
		},
		"smallest bounds": {
			"- {name: a, when: true, approvals: none, max_duration: 8h, approval_window: 2h}\n" +
				"- {name: b, when: true, approvals: none, max_duration: 2h}\n" +
				"- {name: c, when: true, approvals: none, approval_window: 30m}\n", ask(),
			with(func(r *access.Ruling) {
				r.Effect, r.Why, r.Rules = access.EffectAllow, `allowed by rules "a", "b", "c"`, []string{"a", "b", "c"}
				r.MaxDuration, r.Window = 7200, 1800
			}),
		},
		"as long as the maximum": {
			"- {name: a, when: true, approvals: none, max_duration: 30m}\n", ask(),
			with(func(r *access.Ruling) {
				r.Effect, r.Why, r.Rules, r.MaxDuration = access.EffectAllow, `allowed by rule "a"`, []string{"a"}, 1800
			}),
		},
		"longer than the maximum": {
			"- {name: a, when: true, approvals: none, max_duration: 30m}\n", ask(func(in *Input) { in.Request.Duration++ }),
			with(func(r *access.Ruling) {
				r.Effect, r.Why, r.Rules, r.MaxDuration = access.EffectDeny, "30m1s is longer than the 30m that policy allows", []string{"a"}, 1800
			}),
		},
		"longer than the default maximum": {free, ask(func(in *Input) { in.Request.Duration = 3601 }), denied("1h1s is longer than the 1h that policy allows", "free")},
		"no reason": {
			"- {name: a, when: true, approvals: none, require: {reason: true}}\n", ask(func(in *Input) { in.Request.Reason = " " }),
			denied(`a reason is required (rule "a")`, "a"),
		},
		"no ticket": {
			"- {name: a, when: true, approvals: none, require: {ticket: 'OPS-[0-9]+'}}\n", ask(func(in *Input) { in.Request.Ticket = "" }),
			denied(`a ticket is required, of the form OPS-[0-9]+ (rule "a")`, "a"),
		},
		"a ticket with something around it": {
			"- {name: a, when: true, approvals: none, require: {ticket: 'OPS-[0-9]+|X'}}\n", ask(func(in *Input) { in.Request.Ticket = "NOPS-1" }),
			denied(`the ticket is not of the form OPS-[0-9]+|X (rule "a")`, "a"),
		},
		"extensions: those that all permit": {
			"- {name: a, when: true, approvals: none, ssh: {extensions: [permit-pty, permit-port-forwarding]}}\n" +
				"- {name: b, when: true, approvals: none, ssh: {extensions: [permit-port-forwarding, permit-user-rc]}}\n" + free, ask(),
			with(func(r *access.Ruling) {
				r.Effect, r.Why, r.Rules = access.EffectAllow, `allowed by rules "a", "b", "free"`, []string{"a", "b", "free"}
				r.SSH.Extensions = []string{"permit-port-forwarding"}
			}),
		},
		"no extensions at all": {
			"- {name: a, when: true, approvals: none, ssh: {extensions: []}}\n" + free, ask(),
			with(func(r *access.Ruling) {
				r.Effect, r.Why, r.Rules = access.EffectAllow, `allowed by rules "a", "free"`, []string{"a", "free"}
				r.SSH.Extensions = []string{}
			}),
		},
		"grace: the smallest that is named; warning: the longest": {
			"- {name: a, when: true, approvals: none, ssh: {grace: 1h, warn: 1m}}\n" +
				"- {name: b, when: true, approvals: none, ssh: {grace: 30m, warn: 10m}}\n" + free, ask(),
			with(func(r *access.Ruling) {
				r.Effect, r.Why, r.Rules = access.EffectAllow, `allowed by rules "a", "b", "free"`, []string{"a", "b", "free"}
				r.SSH.Grace, r.SSH.Warn = 1800, 600
			}),
		},
		"grace: none": {
			"- {name: a, when: true, approvals: none, ssh: {grace: 1h}}\n- {name: b, when: true, approvals: none, ssh: {grace: 0s}}\n", ask(),
			with(func(r *access.Ruling) {
				r.Effect, r.Why, r.Rules = access.EffectAllow, `allowed by rules "a", "b"`, []string{"a", "b"}
			}),
		},
		"source addresses: those in all lists": {
			"- {name: a, when: true, approvals: none, ssh: {source_address: [10.0.0.0/8, 192.168.1.0/24, '2001:db8::/32']}}\n" +
				"- {name: b, when: true, approvals: none, ssh: {source_address: [10.1.2.0/24, 192.168.0.0/16, 172.16.0.1]}}\n" + free, ask(),
			with(func(r *access.Ruling) {
				r.Effect, r.Why, r.Rules = access.EffectAllow, `allowed by rules "a", "b", "free"`, []string{"a", "b", "free"}
				r.SSH.SourceAddress = []string{"10.1.2.0/24", "192.168.1.0/24"}
			}),
		},
		"source addresses: none in all lists": {
			"- {name: a, when: true, approvals: none, ssh: {source_address: [10.0.0.0/8]}}\n" +
				"- {name: b, when: true, approvals: none, ssh: {source_address: [192.168.0.0/16]}}\n" +
				"- {name: c, when: true, approvals: none, ssh: {source_address: [10.0.0.0/8]}}\n", ask(),
			denied(`the matching rules leave no source address (rule "b"); the matching rules leave no source address (rule "c")`, "a", "b", "c"),
		},
		"one forced command": {
			"- {name: a, when: true, approvals: none, ssh: {force_command: uptime}}\n- {name: b, when: true, approvals: none, ssh: {force_command: uptime}}\n",
			ask(func(in *Input) { in.Request.Command = "uptime" }),
			with(func(r *access.Ruling) {
				r.Effect, r.Why, r.Rules = access.EffectAllow, `allowed by rules "a", "b"`, []string{"a", "b"}
				r.SSH.ForceCommand = "uptime"
			}),
		},
		"two forced commands": {
			"- {name: a, when: true, approvals: none, ssh: {force_command: uptime}}\n- {name: b, when: true, approvals: none, ssh: {force_command: id}}\n", ask(),
			with(func(r *access.Ruling) {
				r.Effect, r.Why, r.Rules = access.EffectDeny, `the matching rules force different commands (rule "b")`, []string{"a", "b"}
				r.SSH.ForceCommand = "id"
			}),
		},
		"another command than the forced one": {
			"- {name: a, when: true, approvals: none, ssh: {force_command: uptime}}\n", ask(func(in *Input) { in.Request.Command = "id" }),
			with(func(r *access.Ruling) {
				r.Effect, r.Why, r.Rules = access.EffectDeny, `policy forces another command than the one asked for`, []string{"a"}
				r.SSH.ForceCommand = "uptime"
			}),
		},
		"many reasons": {
			strings.Join([]string{"", "{name: a, when: true, deny: A}\n", "{name: b, when: true, deny: B}\n", "{name: c, when: true, deny: C}\n", "{name: d, when: true, deny: D}\n", "{name: e, when: true, deny: E}\n"}, "- "), ask(),
			access.Ruling{Effect: access.EffectDeny, Why: `A (rule "a"); B (rule "b"); C (rule "c"); and 2 more reasons`, Rules: []string{"a", "b", "c", "d", "e"}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := mustParse(t, "rules:\n"+c.rules)
			got := p.Decide(c.in)
			c.want.Digests.Policy, c.want.At = p.Digest(), c.in.Now
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestExpensiveConditionDenies(t *testing.T) {
	p := mustParse(t, "rules:\n- {name: slow, when: 'requester.groups.all(a, requester.groups.exists(b, a == b))', approvals: none}\n")
	groups := func(n int) []string {
		var out []string
		for i := range n {
			out = append(out, "g"+strings.Repeat("x", i%7)+string(rune('a'+i%26))+string(rune('a'+i/26)))
		}
		return out
	}
	in := ask()
	in.Requester.Groups = groups(20)
	if got := p.Decide(in); got.Effect != access.EffectAllow {
		t.Errorf("20 groups: %s", got.Why)
	}
	in.Requester.Groups = groups(600)
	got := p.Decide(in)
	if want := `rule "slow" could not be evaluated: operation cancelled: actual cost limit exceeded`; got.Effect != access.EffectDeny || got.Why != want {
		t.Errorf("600 groups: %s: %s", got.Effect, got.Why)
	}
}

// What a request says ends up in errors of the CEL runtime; it must not end up
// in a terminal.
func TestWhyIsOneLine(t *testing.T) {
	p := mustParse(t, "rules:\n- {name: a, when: now.getHours(request.reason) == 1, approvals: none}\n")
	got := p.Decide(ask(func(in *Input) { in.Request.Reason = "x\x1b[2J\n\u202ey" + strings.Repeat("z", 1000) }))
	if err := access.CheckText("why", got.Why, 400); err != nil {
		t.Errorf("%v: %q", err, got.Why)
	}
}

// A Policy is shared by everybody who decides.
func TestDecideConcurrently(t *testing.T) {
	p := mustParse(t, toolPolicy)
	want := p.Decide(ask())
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 100 {
				if diff := cmp.Diff(want, p.Decide(ask())); diff != "" {
					t.Error(diff)
					return
				}
			}
		})
	}
	wg.Wait()
}

func TestDescribe(t *testing.T) {
	for _, tt := range []struct {
		sets             []access.Set
		approval, review string
	}{
		{nil, "", ""},
		{[]access.Set{{Count: 1, Groups: []string{"approval-board"}}}, "1 approval from approval-board", "1 review from approval-board"},
		{[]access.Set{{Count: 2, Groups: []string{"dba", "sre"}}, {Count: 1, Groups: []string{"dev"}}}, "2 approvals from dba or sre and 1 from dev", "2 reviews from dba or sre and 1 from dev"},
	} {
		if a, r := Describe(tt.sets), DescribeReview(tt.sets); a != tt.approval || r != tt.review {
			t.Errorf("%v: %q and %q", tt.sets, a, r)
		}
	}
}
