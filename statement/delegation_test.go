package statement

import (
	"strconv"
	"strings"
	"testing"

	"hallpass/access"
)

func baseDelegation() obj {
	return obj{
		{"type", `"delegation"`}, {"id", `"` + decisionID + `"`}, {"signer", `"alice"`}, {"time", `"2026-05-04T03:02:01Z"`},
		{"action", `"delegate"`}, {"to", `"bob"`}, {"until", `"2026-05-04T11:02:01Z"`},
	}
}

func TestParseDelegation(t *testing.T) {
	base := baseDelegation()
	revoke := base.without("until").set("action", `"revoke"`).set("delegation", `"`+requestID+`"`)
	many := func(n int) string {
		var groups []string
		for i := range n {
			groups = append(groups, strconv.Quote("g"+strconv.Itoa(i)))
		}
		return "[" + strings.Join(groups, ",") + "]"
	}
	for _, tt := range []struct{ name, payload, err string }{
		{"all groups", base.String(), ""},
		{"some groups", base.set("groups", `["sre","dba"]`).String(), ""},
		{"with a reason", base.set("reason", `"on leave"`).String(), ""},
		{"for a second", base.set("until", `"2026-05-04T03:02:02Z"`).String(), ""},
		{"for no time", base.set("until", `"2026-05-04T03:02:01Z"`).String(), "until is not after the delegation itself"},
		{"for 14 days", base.set("until", `"2026-05-18T03:02:01Z"`).String(), ""},
		{"for 14 days and a second", base.set("until", `"2026-05-18T03:02:02Z"`).String(), "a delegation lasts 14d at most"},
		{"for ever", base.without("until").String(), `field "until" is missing: no delegation is for ever`},
		{"to nobody", base.without("to").String(), `field "to" is missing`},
		{"to himself", base.set("to", `"alice"`).String(), "nobody delegates to himself"},
		{"to no name", base.set("to", `"Bob"`).String(), `to "Bob" has a character outside a-z 0-9 . _ @ + -`},
		{"no groups at all", base.set("groups", `[]`).String(), "groups has 0 entries, not 1 to 16"},
		{"16 groups", base.set("groups", many(16)).String(), ""},
		{"17 groups", base.set("groups", many(17)).String(), "groups has 17 entries, not 1 to 16"},
		{"a group twice", base.set("groups", `["sre","sre"]`).String(), `groups has "sre" twice`},
		{"of another", base.set("delegation", `"`+requestID+`"`).String(), "delegation is only for revoking"},
		{"no action", base.without("action").String(), `field "action" is missing`},
		{"another action", base.set("action", `"lock"`).String(), `action "lock" is not delegate or revoke`},
		{"a long reason", base.set("reason", quoted(1001)).String(), "reason is longer than 1000 bytes"},
		{"another type", base.set("type", `"lock"`).String(), `type is "lock", not "delegation"`},
		{"unknown field", base.set("login", `"root"`).String(), `unknown field "login"`},

		{"revoke", revoke.String(), ""},
		{"revoke with a reason", revoke.set("reason", `"back again"`).String(), ""},
		{"revoke of nothing", revoke.without("delegation").String(), `field "delegation" is missing: which one is revoked`},
		{"revoke until", revoke.set("until", `"2026-05-05T03:02:01Z"`).String(), "until and groups are only for delegating"},
		{"revoke of a group", revoke.set("groups", `["sre"]`).String(), "until and groups are only for delegating"},
		{"revoke by who had it", revoke.set("to", `"alice"`).String(), ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := ParseDelegation([]byte(tt.payload))
			if tt.err != "" || err != nil {
				wantError(t, err, access.CodeMalformed, tt.err)
			}
		})
	}
	if access.TypeDelegation.Namespace() != "delegation@hallpass" {
		t.Error("the namespace is another")
	}
}

// A decision says itself in whose place it is made.
func TestParseDecisionInPlace(t *testing.T) {
	d, err := ParseDecision([]byte(baseDecision().set("for", `"carol"`).String()))
	if err != nil || d.For != "carol" {
		t.Errorf("%+v, %v", d, err)
	}
	_, err = ParseDecision([]byte(baseDecision().set("for", `"`+d.Signer+`"`).String()))
	wantError(t, err, access.CodeMalformed, "nobody is his own delegate: leave for out")
	_, err = ParseDecision([]byte(baseDecision().set("for", `"Carol"`).String()))
	wantError(t, err, access.CodeMalformed, `for "Carol" has a character outside a-z 0-9 . _ @ + -`)
}
