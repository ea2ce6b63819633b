package statement

import (
	"strings"
	"testing"

	"hallpass/access"
)

func TestParseRead(t *testing.T) {
	sum := strings.Repeat("0f", 32)
	base := obj{
		{"type", `"read"`}, {"id", `"` + decisionID + `"`}, {"signer", `"bob"`}, {"time", `"2026-05-04T03:02:01Z"`},
		{"audience", `"sha256:` + sum + `"`}, {"until", `"2026-05-04T03:12:01Z"`},
	}
	for _, tt := range []struct{ name, payload, err string }{
		{"good", base.String(), ""},
		{"until itself", base.set("until", `"2026-05-04T03:02:01Z"`).String(), "until is not after the statement itself"},
		{"a quarter of an hour", base.set("until", `"2026-05-04T03:17:01Z"`).String(), ""},
		{"a second more", base.set("until", `"2026-05-04T03:17:02Z"`).String(), "until is more than 15m after the statement itself"},
		{"for any service", base.without("audience").String(), `field "audience" is missing`},
		{"for an address", base.set("audience", `"a"`).String(), `audience "a" is not sha256: and a SHA-256 in lower-case hex`},
		{"in upper case", base.set("audience", `"sha256:`+strings.ToUpper(sum)+`"`).String(), `audience "sha256:` + strings.ToUpper(sum) + `" is not sha256: and a SHA-256 in lower-case hex`},
		{"for ever", base.without("until").String(), `field "until" is missing`},
		{"something else", base.set("request", `"x"`).String(), `unknown field "request"`},
		{"of another type", base.set("type", `"request"`).String(), `type is "request", not "read"`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := ParseRead([]byte(tt.payload)); tt.err != "" || err != nil {
				wantError(t, err, access.CodeMalformed, tt.err)
			}
		})
	}
}
