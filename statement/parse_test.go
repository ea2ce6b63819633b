package statement

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"hallpass/access"
)

// obj builds payloads field by field. Values are raw JSON.
type obj [][2]string

func (o obj) set(name, value string) obj {
	c := append(obj{}, o...)
	for i := range c {
		if c[i][0] == name {
			c[i][1] = value
			return c
		}
	}
	return append(c, [2]string{name, value})
}

func (o obj) without(name string) obj {
	var c obj
	for _, f := range o {
		if f[0] != name {
			c = append(c, f)
		}
	}
	return c
}

func (o obj) String() string {
	var parts []string
	for _, f := range o {
		parts = append(parts, strconv.Quote(f[0])+":"+f[1])
	}
	return "{" + strings.Join(parts, ",") + "}"
}

func baseRequest() obj {
	return obj{
		{"type", `"request"`}, {"id", `"` + requestID + `"`}, {"signer", `"alice"`}, {"time", `"2026-05-04T03:02:01Z"`},
		{"resource", `"ssh/web-1"`}, {"duration", "1800"},
	}
}

func baseDecision() obj {
	return obj{
		{"type", `"decision"`}, {"id", `"` + decisionID + `"`}, {"signer", `"bob"`}, {"time", `"2026-05-04T03:02:01Z"`},
		{"request", `"` + requestID + `"`}, {"request_hash", `"` + strings.Repeat("0123456789abcdef", 4) + `"`}, {"verdict", `"approve"`},
	}
}

func baseStop() obj {
	return baseDecision().without("verdict").set("type", `"revoke"`)
}

const ed25519Line = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIB4v+SXcLbDzsFcVwLjFeFJpGPqVzHjgEKvzSdvSaVCU"

func quoted(n int) string { return `"` + strings.Repeat("x", n) + `"` }

func actions(n int) string {
	var list []string
	for i := range n {
		list = append(list, fmt.Sprintf("%q", "a"+strconv.Itoa(i)))
	}
	return "[" + strings.Join(list, ",") + "]"
}

func TestParseRequest(t *testing.T) {
	base := baseRequest()
	maxGrant := int64(access.InSeconds(access.MaxGrant))
	const times = " is not of the form 2006-01-02T15:04:05Z"
	seconds := func(s string) string {
		return "duration " + s + " is not a whole number of seconds from 1 to 2592000"
	}
	for _, tt := range []struct{ name, in, want string }{
		{"smallest", base.String(), ""},
		{"everything", base.set("login", `"deploy"`).set("actions", `["read","write"]`).set("command", `"uptime"`).set("start", `"2026-05-04T04:00:00Z"`).
			set("reason", `"so"`).set("ticket", `"OPS-1"`).set("public_key", `"`+ed25519Line+`"`).set("recipient", `"age1`+strings.Repeat("q", 58)+`"`).String(), ""},
		{"white space around", " \t\r\n" + strings.ReplaceAll(base.String(), ",", " ,\n ") + "\n", ""},

		// The object.
		{"nothing", "", "payload is not one JSON object"},
		{"white space", "  ", "payload is not one JSON object"},
		{"null", "null", "payload is not a JSON object"},
		{"list", "[]", "payload is not a JSON object"},
		{"text", `"x"`, "payload is not a JSON object"},
		{"empty object", "{}", `field "type" is missing`},
		{"trailing data", base.String() + "{}", "payload is not one JSON object"},
		{"trailing word", base.String() + " x", "payload is not one JSON object"},
		{"comma at the end", strings.Replace(base.String(), "}", ",}", 1), "payload is not one JSON object"},
		{"byte order mark", "\ufeff" + base.String(), "payload is not one JSON object"},
		{"not UTF-8", base.set("reason", "\"\xff\"").String(), "payload is not valid UTF-8"},
		{"not UTF-8, overlong", base.set("reason", "\"\xc0\xaf\"").String(), "payload is not valid UTF-8"},
		{"as long as may be", base.String() + strings.Repeat(" ", access.MaxPayload-len(base.String())), ""},
		{"too long", base.String() + strings.Repeat(" ", access.MaxPayload-len(base.String())+1), "payload is longer than 16384 bytes"},
		{"unknown field", base.set("role", `"x"`).String(), `unknown field "role"`},
		{"another case", base.without("signer").set("Signer", `"alice"`).String(), `field "signer" is missing`},
		{"another case beside", base.set("Duration", "1").String(), `unknown field "Duration"`},
		{"Kelvin sign for k", base.set("public_\u212aey", `"x"`).String(), "unknown field \"public_\u212aey\""},
		{"repeated field", strings.Replace(base.String(), "{", `{"duration":1,`, 1), `field "duration" is there twice`},
		{"repeated with escape", strings.Replace(base.String(), "{", `{"\u0064uration":1,`, 1), `field "duration" is there twice`},
		{"null field", base.set("reason", "null").String(), `field "reason" is neither a string, a number nor a list`},
		{"true", base.set("reason", "true").String(), `field "reason" is neither a string, a number nor a list`},
		{"object", base.set("reason", `{"a":"b"}`).String(), `field "reason" is an object`},
		{"deep", base.set("reason", strings.Repeat("[", 5000)+strings.Repeat("]", 5000)).String(), `field "reason" is not a list of strings`},
		{"number for text", base.set("reason", "1").String(), `field "reason" is not a string`},
		{"list for text", base.set("reason", `["x"]`).String(), `field "reason" is not a string`},
		{"a decision's field", base.set("verdict", `"approve"`).String(), `unknown field "verdict"`},

		// The header.
		{"type of another", base.set("type", `"decision"`).String(), `type is "decision", not "request"`},
		{"no id", base.without("id").String(), `field "id" is missing`},
		{"id in upper case", base.set("id", `"`+strings.ToUpper(requestID)+`"`).String(), `id "` + strings.ToUpper(requestID) + `" is not a UUIDv7 in lower case`},
		{"UUIDv4", base.set("id", `"0190a1b2-c3d4-4e5f-8a6b-7c8d9e0f1a2b"`).String(), `id "0190a1b2-c3d4-4e5f-8a6b-7c8d9e0f1a2b" is not a UUIDv7 in lower case`},
		{"UUID of another variant", base.set("id", `"0190a1b2-c3d4-7e5f-ca6b-7c8d9e0f1a2b"`).String(), `id "0190a1b2-c3d4-7e5f-ca6b-7c8d9e0f1a2b" is not a UUIDv7 in lower case`},
		{"id and line end", base.set("id", `"`+requestID+`\n"`).String(), `id "` + requestID + `\n" is not a UUIDv7 in lower case`},
		{"signer of 63", base.set("signer", quoted(63)).String(), ""},
		{"signer of 64", base.set("signer", quoted(64)).String(), "signer is longer than 63 bytes"},
		{"signer in upper case", base.set("signer", `"Alice"`).String(), `signer "Alice" has a character outside a-z 0-9 . _ @ + -`},
		{"empty signer", base.set("signer", `""`).String(), `field "signer" is empty`},
		{"time with fraction", base.set("time", `"2026-05-04T03:02:01.5Z"`).String(), `time "2026-05-04T03:02:01.5Z"` + times},
		{"time with zero fraction", base.set("time", `"2026-05-04T03:02:01.000Z"`).String(), `time "2026-05-04T03:02:01.000Z"` + times},
		{"time with comma", base.set("time", `"2026-05-04T03:02:01,0Z"`).String(), `time "2026-05-04T03:02:01,0Z"` + times},
		{"time with offset", base.set("time", `"2026-05-04T03:02:01+00:00"`).String(), `time "2026-05-04T03:02:01+00:00"` + times},
		{"time in lower case", base.set("time", `"2026-05-04t03:02:01z"`).String(), `time "2026-05-04t03:02:01z"` + times},
		{"hour 24", base.set("time", `"2026-05-04T24:00:00Z"`).String(), `time "2026-05-04T24:00:00Z"` + times},
		{"leap second", base.set("time", `"2026-06-30T23:59:60Z"`).String(), `time "2026-06-30T23:59:60Z"` + times},
		{"29 February", base.set("time", `"2028-02-29T00:00:00Z"`).String(), ""},
		{"29 February of another year", base.set("time", `"2026-02-29T00:00:00Z"`).String(), `time "2026-02-29T00:00:00Z"` + times},
		{"one digit hour", base.set("time", `"2026-05-04T3:02:01Z"`).String(), `time "2026-05-04T3:02:01Z"` + times},
		{"time as number", base.set("time", `1777863721`).String(), `field "time" is not a string`},

		// The rest.
		{"no resource", base.without("resource").String(), `field "resource" is missing`},
		{"resource without kind", base.set("resource", `"web-1"`).String(), `resource "web-1" is not of the form kind/name, such as ssh/web-1`},
		{"resource with two slashes", base.set("resource", `"ssh/a/b"`).String(), `resource name "a/b" has a character outside a-z 0-9 . _ -`},
		{"login with option", base.set("login", `"-oProxyCommand"`).String(), `login "-oProxyCommand" does not begin with a letter or digit`},
		{"login of the system", base.set("login", `"_apt"`).String(), ""},
		{"no duration", base.without("duration").String(), `field "duration" is missing`},
		{"duration 0", base.set("duration", "0").String(), seconds("0")},
		{"duration 1", base.set("duration", "1").String(), ""},
		{"duration -1", base.set("duration", "-1").String(), seconds("-1")},
		{"longest duration", base.set("duration", strconv.FormatInt(maxGrant, 10)).String(), ""},
		{"too long duration", base.set("duration", strconv.FormatInt(maxGrant+1, 10)).String(), seconds("2592001")},
		{"huge duration", base.set("duration", "9223372036854775808").String(), seconds("9223372036854775808")},
		{"fraction", base.set("duration", "1.5").String(), seconds("1.5")},
		{"zero fraction", base.set("duration", "60.0").String(), seconds("60.0")},
		{"exponent", base.set("duration", "6e1").String(), seconds("6e1")},
		{"duration as text", base.set("duration", `"60"`).String(), `field "duration" is not a number`},
		{"start with fraction", base.set("start", `"2026-05-04T03:02:01.5Z"`).String(), `start "2026-05-04T03:02:01.5Z"` + times},
		{"year one", base.set("start", `"0001-01-01T00:00:00Z"`).String(), `start "0001-01-01T00:00:00Z"` + times},
		{"1969", base.set("start", `"1969-12-31T23:59:59Z"`).String(), `start "1969-12-31T23:59:59Z"` + times},
		{"1970", base.set("start", `"1970-01-01T00:00:00Z"`).String(), ""},
		{"empty start", base.set("start", `""`).String(), `field "start" is empty`},
		{"an emergency", base.set("mode", `"emergency"`).String(), ""},
		{"another mode", base.set("mode", `"quick"`).String(), `mode "quick" is not emergency`},
		{"mode true", base.set("mode", "true").String(), `field "mode" is neither a string, a number nor a list`},
		{"an extension", base.set("extends", `"`+decisionID+`"`).String(), ""},
		{"extends no id", base.set("extends", `"019"`).String(), `id "019" is not a UUIDv7 in lower case`},
		{"extends itself", base.set("extends", `"`+requestID+`"`).String(), "a request doesn't extend itself"},
		{"an extension with a start", base.set("extends", `"`+decisionID+`"`).set("start", `"2026-05-04T03:02:01Z"`).String(), "an extension has no start: it goes on where the grant ends"},
		{"an emergency that begins later", base.set("mode", `"emergency"`).set("start", `"2026-05-04T03:02:01Z"`).String(), "break-glass has no start: access begins at once"},
		{"an extension in an emergency", base.set("extends", `"`+decisionID+`"`).set("mode", `"emergency"`).String(), "an extension has no mode"},
		{"reason of 1000", base.set("reason", quoted(access.MaxReason)).String(), ""},
		{"reason of 1001", base.set("reason", quoted(access.MaxReason+1)).String(), "reason is longer than 1000 bytes"},
		{"empty reason", base.set("reason", `""`).String(), `field "reason" is empty`},
		{"reason of two lines", base.set("reason", `"a\nb"`).String(), "reason contains the control or invisible character U+000A"},
		{"terminal escape", base.set("reason", `"\u001b[2J"`).String(), "reason contains the control or invisible character U+001B"},
		{"right-to-left override", base.set("reason", `"\u202e"`).String(), "reason contains the control or invisible character U+202E"},
		{"zero width", base.set("reason", `"a\u200bb"`).String(), "reason contains the control or invisible character U+200B"},
		{"line separator", base.set("reason", `"a\u2028b"`).String(), "reason contains the control or invisible character U+2028"},
		{"umlauts and emoji", base.set("reason", `"größer 🚀 \ud83d\ude80"`).String(), ""},
		{"unpaired surrogate", base.set("reason", `"\ud800"`).String(), `field "reason" contains U+FFFD or an unpaired surrogate`},
		{"replacement character", base.set("reason", "\"\ufffd\"").String(), `field "reason" contains U+FFFD or an unpaired surrogate`},
		{"ticket of 100", base.set("ticket", quoted(access.MaxTicket)).String(), ""},
		{"ticket of 101", base.set("ticket", quoted(access.MaxTicket+1)).String(), "ticket is longer than 100 bytes"},
		{"command of 1000", base.set("command", quoted(access.MaxCommand)).String(), ""},
		{"command of 1001", base.set("command", quoted(access.MaxCommand+1)).String(), "command is longer than 1000 bytes"},
		{"command of two lines", base.set("command", `"a\nb"`).String(), "command contains the control or invisible character U+000A"},
		{"16 actions", base.set("actions", actions(16)).String(), ""},
		{"17 actions", base.set("actions", actions(17)).String(), "actions has 17 entries, not 1 to 16"},
		{"no actions", base.set("actions", "[]").String(), "actions has 0 entries, not 1 to 16"},
		{"action twice", base.set("actions", `["a","b","a"]`).String(), `actions has "a" twice`},
		{"bad action", base.set("actions", `["A"]`).String(), `actions "A" has a character outside a-z 0-9 . _ @ + -`},
		{"action is a number", base.set("actions", `[1]`).String(), `field "actions" is not a list of strings`},
		{"action is null", base.set("actions", `[null]`).String(), `field "actions" is not a list of strings`},
		{"actions is text", base.set("actions", `"a"`).String(), `field "actions" is not a list`},
		{"surrogate in action", base.set("actions", `["\ud800"]`).String(), "actions \"\ufffd\" has a character outside a-z 0-9 . _ @ + -"},
		{"key with comment", base.set("public_key", `"`+ed25519Line+` x"`).String(), `public key "` + (ed25519Line + ` x`)[:77] + `..." is not of the form "type base64"`},
		{"recipient of another length", base.set("recipient", `"age1`+strings.Repeat("q", 57)+`"`).String(), `recipient "age1` + strings.Repeat("q", 57) + `" is not an age X25519 recipient, age1…`},
		{"recipient with a b", base.set("recipient", `"age1`+strings.Repeat("b", 58)+`"`).String(), `recipient "age1` + strings.Repeat("b", 58) + `" is not an age X25519 recipient, age1…`},
		{"secret key", base.set("recipient", `"AGE-SECRET-KEY-1"`).String(), `recipient "AGE-SECRET-KEY-1" is not an age X25519 recipient, age1…`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r, err := ParseRequest([]byte(tt.in))
			if tt.want != "" {
				wantError(t, err, access.CodeMalformed, tt.want)
				if d := cmp.Diff(access.Request{}, r); d != "" {
					t.Errorf("something came out with the error: %s", d)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
		})
	}
}

func TestParseRequestFields(t *testing.T) {
	start := time.Date(2026, 5, 4, 4, 0, 0, 0, time.UTC)
	want := access.Request{
		Header:   access.Header{Type: access.TypeRequest, ID: requestID, Signer: "alice", Time: signedAt},
		Resource: "ssh/web-1", Login: "deploy", Actions: []string{"write", "read"}, Command: "uptime", Duration: 1800, Start: &start,
		Reason: `say "hi" & <go>`, Ticket: "OPS-1", PublicKey: ed25519Line, Recipient: "age1" + strings.Repeat("q", 58),
	}
	got, err := ParseRequest(must(encode(want)))
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func TestParseDecision(t *testing.T) {
	base := baseDecision()
	for _, tt := range []struct{ name, in, want string }{
		{"approve", base.String(), ""},
		{"deny", base.set("verdict", `"deny"`).set("comment", `"no"`).String(), ""},
		{"shorter", base.set("duration", "1").String(), ""},
		{"duration 0", base.set("duration", "0").String(), "duration 0 is not a whole number of seconds from 1 to 2592000"},
		{"deny for a while", base.set("verdict", `"deny"`).set("duration", "60").String(), "duration is only for approvals"},
		{"verdict in upper case", base.set("verdict", `"Approve"`).String(), `verdict "Approve" is not approve or deny`},
		{"no verdict", base.without("verdict").String(), `field "verdict" is missing`},
		{"no request", base.without("request").String(), `field "request" is missing`},
		{"no hash", base.without("request_hash").String(), `field "request_hash" is missing`},
		{"hash in upper case", base.set("request_hash", `"`+strings.Repeat("A", 64)+`"`).String(), `request_hash "` + strings.Repeat("A", 64) + `" is not a SHA-256 in lower-case hex`},
		{"hash of 63", base.set("request_hash", `"`+strings.Repeat("a", 63)+`"`).String(), `request_hash "` + strings.Repeat("a", 63) + `" is not a SHA-256 in lower-case hex`},
		{"hash of 65", base.set("request_hash", `"`+strings.Repeat("a", 65)+`"`).String(), `request_hash "` + strings.Repeat("a", 65) + `" is not a SHA-256 in lower-case hex`},
		{"comment of 1000", base.set("comment", quoted(access.MaxReason)).String(), ""},
		{"comment of 1001", base.set("comment", quoted(access.MaxReason+1)).String(), "comment is longer than 1000 bytes"},
		{"a request's field", base.set("resource", `"ssh/a"`).String(), `unknown field "resource"`},
		{"a stop's field", base.set("reason", `"x"`).String(), `unknown field "reason"`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := ParseDecision([]byte(tt.in))
			if tt.want != "" {
				wantError(t, err, access.CodeMalformed, tt.want)
			} else if err != nil {
				t.Fatal(err)
			}
		})
	}
}

func TestParseStop(t *testing.T) {
	base := baseStop()
	for _, tt := range []struct {
		name, in string
		typ      access.Type
		want     string
	}{
		{"revoke", base.String(), access.TypeRevoke, ""},
		{"release", base.set("type", `"release"`).String(), access.TypeRelease, ""},
		{"cancel", base.set("type", `"cancel"`).String(), access.TypeCancel, ""},
		{"reason of 1000", base.set("reason", quoted(access.MaxReason)).String(), access.TypeRevoke, ""},
		{"reason of 1001", base.set("reason", quoted(access.MaxReason+1)).String(), access.TypeRevoke, "reason is longer than 1000 bytes"},
		{"another type", base.String(), access.TypeCancel, `type is "revoke", not "cancel"`},
		{"not a stop", base.String(), access.TypeRequest, `type "request" is not release, revoke or cancel`},
		{"unknown type", base.String(), "knock", `type "knock" is not release, revoke or cancel`},
		{"no hash", base.without("request_hash").String(), access.TypeRevoke, `field "request_hash" is missing`},
		{"a decision's field", base.set("comment", `"x"`).String(), access.TypeRevoke, `unknown field "comment"`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := ParseStop([]byte(tt.in), tt.typ)
			if tt.want != "" {
				wantError(t, err, access.CodeMalformed, tt.want)
			} else if err != nil {
				t.Fatal(err)
			}
		})
	}
}

// FuzzParse holds that whatever is accepted says the same once more when it is
// written by us, and that every refusal can be shown.
func FuzzParse(f *testing.F) {
	f.Add([]byte(baseRequest().String()))
	f.Add([]byte(baseRequest().set("actions", `["a","b"]`).set("start", `"2026-05-04T03:02:01Z"`).set("public_key", `"`+ed25519Line+`"`).String()))
	f.Add([]byte(baseDecision().set("comment", `"größer 🚀 \ud83d\ude80"`).set("duration", "60").String()))
	f.Add([]byte(baseStop().set("reason", `"\ud800"`).String()))
	f.Add([]byte(baseLock().set("until", `"2026-05-04T03:02:02Z"`).String()))
	f.Add([]byte(baseLock().set("action", `"unlock"`).set("lock", `"`+requestID+`"`).String()))
	f.Add([]byte(baseDelegation().set("groups", `["sre"]`).String()))
	f.Add([]byte(baseDecision().without("verdict").set("type", `"review"`).String()))
	f.Add([]byte(`{"type":"request","type":null,"a":[["x"]]}`))
	f.Fuzz(func(t *testing.T, payload []byte) {
		r, err := ParseRequest(payload)
		again(t, r, err, ParseRequest)
		d, err := ParseDecision(payload)
		again(t, d, err, ParseDecision)
		l, err := ParseLock(payload)
		again(t, l, err, ParseLock)
		g, err := ParseDelegation(payload)
		again(t, g, err, ParseDelegation)
		v, err := ParseReview(payload)
		again(t, v, err, ParseReview)
		for _, typ := range []access.Type{access.TypeRelease, access.TypeRevoke, access.TypeCancel} {
			p := func(b []byte) (access.Stop, error) { return ParseStop(b, typ) }
			s, err := p(payload)
			again(t, s, err, p)
		}
	})
}

func again[T any](t *testing.T, v T, err error, parse func([]byte) (T, error)) {
	t.Helper()
	checkFuzzed(t, err)
	if err != nil {
		return
	}
	w, err := parse(must(encode(v)))
	if err != nil {
		t.Fatalf("what was accepted is refused when written again: %v", err)
	}
	if d := cmp.Diff(v, w); d != "" {
		t.Error(d)
	}
}

func baseLock() obj {
	return obj{
		{"type", `"lock"`}, {"id", `"` + decisionID + `"`}, {"signer", `"trent"`}, {"time", `"2026-05-04T03:02:01Z"`},
		{"action", `"lock"`}, {"kind", `"user"`}, {"name", `"alice"`}, {"reason", `"laptop stolen"`},
	}
}

func TestParseLock(t *testing.T) {
	base := baseLock()
	unlock := base.set("action", `"unlock"`).set("lock", `"`+requestID+`"`)
	named := func(kind, name string) string {
		return base.set("kind", strconv.Quote(kind)).set("name", strconv.Quote(name)).String()
	}
	host := strings.Repeat("x", 63)
	for _, tt := range []struct{ name, payload, err string }{
		{"user", base.String(), ""},
		{"until", base.set("until", `"2026-05-04T03:02:02Z"`).String(), ""},
		{"until itself", base.set("until", `"2026-05-04T03:02:01Z"`).String(), "until is not after the lock itself"},
		{"until with a fraction", base.set("until", `"2026-05-04T03:02:02.5Z"`).String(), `until "2026-05-04T03:02:02.5Z" is not of the form 2006-01-02T15:04:05Z`},
		{"no reason", base.without("reason").String(), `field "reason" is missing: nobody is locked out without one`},
		{"reason of 1000", base.set("reason", strconv.Quote(strings.Repeat("x", 1000))).String(), ""},
		{"reason of 1001", base.set("reason", strconv.Quote(strings.Repeat("x", 1001))).String(), "reason is longer than 1000 bytes"},
		{"lock of a lock", base.set("lock", `"`+requestID+`"`).String(), "lock is only for unlocking"},
		{"no action", base.without("action").String(), `field "action" is missing`},
		{"other action", base.set("action", `"Lock"`).String(), `action "Lock" is not lock or unlock`},
		{"no kind", base.without("kind").String(), `field "kind" is missing`},
		{"other kind", named("group", "dev"), `kind "group" is not user, resource or host`},
		{"no name", base.without("name").String(), `field "name" is missing`},
		{"user in upper case", named("user", "Alice"), `user "Alice" has a character outside a-z 0-9 . _ @ + -`},
		{"resource", named("resource", "ssh/web-1"), ""},
		{"resource without kind", named("resource", "web-1"), `resource "web-1" is not of the form kind/name, such as ssh/web-1`},
		{"host", named("host", "web-1.example.com"), ""},
		{"host with the longest label", named("host", host), ""},
		{"host with too long a label", named("host", host+"x"), `host "` + host + `x" is not a host name in lower case or an IP address`},
		{"host as option", named("host", "-l"), `host "-l" is not a host name in lower case or an IP address`},
		{"host in upper case", named("host", "Web-1"), `host "Web-1" is not a host name in lower case or an IP address`},
		{"address", named("host", "10.0.0.7"), ""},
		{"address of six", named("host", "2001:db8::1"), ""},
		{"address written long", named("host", "2001:db8:0::1"), `host "2001:db8:0::1" is not written as 2001:db8::1`},
		{"duration", base.set("duration", "60").String(), `unknown field "duration"`},

		{"unlock", unlock.String(), ""},
		{"unlock without reason", unlock.without("reason").String(), ""},
		{"unlock of nothing", unlock.without("lock").String(), `field "lock" is missing: which lock is lifted`},
		{"unlock of no id", unlock.set("lock", `"7"`).String(), `id "7" is not a UUIDv7 in lower case`},
		{"unlock until", unlock.set("until", `"2026-05-05T03:02:01Z"`).String(), "until is only for locks"},
		{"another type", base.set("type", `"revoke"`).String(), `type is "revoke", not "lock"`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l, err := ParseLock([]byte(tt.payload))
			if tt.err != "" || err != nil {
				wantError(t, err, access.CodeMalformed, tt.err)
			}
			if err != nil && l != (access.Lock{}) {
				t.Errorf("%+v", l)
			}
		})
	}
	l, err := ParseLock([]byte(unlock.String()))
	if err != nil || l.Lock != requestID || l.Kind != access.LockUser || l.Name != "alice" || l.Signer != "trent" || l.Action != access.ActionUnlock {
		t.Errorf("%+v, %v", l, err)
	}
}
