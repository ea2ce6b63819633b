package statement

import (
	"strings"
	"testing"

	"hallpass/access"
)

func TestParseReview(t *testing.T) {
	base := func() obj { return baseDecision().without("verdict").set("type", `"review"`) }
	for _, c := range []struct{ name, payload, want string }{
		{"plain", base().String(), ""},
		{"with a comment", base().set("comment", `"saw the logs"`).String(), ""},
		{"without its request", base().without("request").String(), `field "request" is missing`},
		{"without the hash", base().without("request_hash").String(), `field "request_hash" is missing`},
		{"with a verdict", base().set("verdict", `"approve"`).String(), `unknown field "verdict"`},
		{"a long comment", base().set("comment", quoted(1001)).String(), "comment is longer than 1000 bytes"},
		{"another type", baseDecision().String(), `type is "decision", not "review"`},
	} {
		_, err := ParseReview([]byte(c.payload))
		if got := ""; err != nil && (c.want == "" || !strings.Contains(err.Error(), c.want)) || err == nil && c.want != got {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
	if access.TypeReview.Namespace() != "review@hallpass" {
		t.Error("the namespace is another")
	}
}
