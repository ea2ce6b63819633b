package statement

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"hallpass/access"
)

func baseSession() obj {
	return obj{
		{"type", `"session"`}, {"id", `"` + decisionID + `"`}, {"signer", `"web-1"`}, {"time", `"2026-05-04T03:02:01Z"`},
		{"event", `"opened"`}, {"request", `"` + requestID + `"`}, {"serial", "7"}, {"key_id", `"hallpass:x:alice"`},
		{"login", `"deploy"`}, {"session", `"s1"`},
	}
}

func TestParseSession(t *testing.T) {
	base := baseSession()
	for _, tt := range []struct{ name, payload, err string }{
		{"opened", base.String(), ""},
		{"closed", base.set("event", `"closed"`).String(), ""},
		{"ended, with why", base.set("event", `"ended"`).set("why", `"released"`).String(), ""},
		{"with source", base.set("source", `"10.0.0.1:22"`).String(), ""},
		{"largest serial", base.set("serial", "9223372036854775807").String(), ""},
		{"serial beyond", base.set("serial", "9223372036854775808").String(), "serial 9223372036854775808 is not a whole number from 1"},
		{"serial 0", base.set("serial", "0").String(), "serial 0 is not a whole number from 1"},
		{"serial as text", base.set("serial", `"7"`).String(), `field "serial" is not a number`},
		{"other event", base.set("event", `"paused"`).String(), `event "paused" is not opened, closed or ended`},
		{"no login", base.without("login").String(), `field "login" is missing`},
		{"empty source", base.set("source", `""`).String(), `field "source" is empty`},
		{"session with a space", base.set("session", `"a b"`).String(), "session is not 1 to 100 printable characters without spaces"},
		{"session of 100", base.set("session", `"`+strings.Repeat("x", 100)+`"`).String(), ""},
		{"session of 101", base.set("session", `"`+strings.Repeat("x", 101)+`"`).String(), "session is not 1 to 100 printable characters without spaces"},
		{"why with an escape", base.set("why", `"\u001b"`).String(), "why contains the control or invisible character U+001B"},
		{"unknown field", base.set("user", `"alice"`).String(), `unknown field "user"`},
		{"another type", base.set("type", `"renew"`).String(), `type is "renew", not "session"`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s, err := ParseSession([]byte(tt.payload))
			if tt.err != "" || err != nil {
				wantError(t, err, access.CodeMalformed, tt.err)
			}
			if err != nil && s != (access.Session{}) {
				t.Errorf("%+v", s)
			}
		})
	}
}

func TestParseJoin(t *testing.T) {
	base := obj{
		{"type", `"host"`}, {"id", `"` + decisionID + `"`}, {"signer", `"bob"`}, {"time", `"2026-05-04T03:02:01Z"`},
		{"resource", `"ssh/web-1"`}, {"until", `"2026-05-04T04:02:01Z"`},
	}
	fingerprint := func(n int) string { return fmt.Sprintf(`"SHA256:%043d"`, n) }
	for _, tt := range []struct{ name, payload, err string }{
		{"good", base.String(), ""},
		{"a CA", base.set("cas", "["+fingerprint(1)+"]").String(), ""},
		{"no CA", base.set("cas", "[]").String(), "cas has 0 entries, not 1 to 8"},
		{"a CA twice", base.set("cas", "["+fingerprint(1)+","+fingerprint(1)+"]").String(), "cas has " + fingerprint(1) + " twice"},
		{"a CA in another form", base.set("cas", `["MD5:00"]`).String(), `"MD5:00" is not a fingerprint of the form SHA256:base64`},
		{"a CA with padding", base.set("cas", `["SHA256:`+strings.Repeat("A", 43)+`="]`).String(), `"SHA256:` + strings.Repeat("A", 43) + `=" is not a fingerprint of the form SHA256:base64`},
		{"until itself", base.set("until", `"2026-05-04T03:02:01Z"`).String(), "until is not after the statement itself"},
		{"seven days", base.set("until", `"2026-05-11T03:02:01Z"`).String(), ""},
		{"a second more", base.set("until", `"2026-05-11T03:02:02Z"`).String(), "until is more than 7d after the statement itself"},
		{"no resource", base.without("resource").String(), `field "resource" is missing`},
		{"no kind", base.set("resource", `"web-1"`).String(), `resource "web-1" is not of the form kind/name, such as ssh/web-1`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := ParseJoin([]byte(tt.payload)); tt.err != "" || err != nil {
				wantError(t, err, access.CodeMalformed, tt.err)
			}
		})
	}
}

// What hosts say, and those who read at the service.
func FuzzParseHost(f *testing.F) {
	head := func(typ string) obj {
		return obj{{"type", `"` + typ + `"`}, {"id", `"` + decisionID + `"`}, {"signer", `"bob"`}, {"time", `"2026-05-04T03:02:01Z"`}}
	}
	f.Add([]byte(baseSession().set("source", `"10.0.0.1:22"`).set("why", `"released"`).String()))
	f.Add([]byte(baseSession().set("serial", "9223372036854775808").String()))
	f.Add([]byte(head("host").set("resource", `"ssh/web-1"`).set("until", `"2026-05-04T04:02:01Z"`).String()))
	f.Add([]byte(head("host").set("resource", `"ssh/web-1"`).set("until", `"2026-05-04T04:02:01Z"`).set("cas", `["SHA256:`+strings.Repeat("A", 43)+`"]`).String()))
	f.Add([]byte(head("renew").set("host_key", `"`+ed25519Line+`"`).String()))
	f.Add([]byte(head("read").set("audience", `"sha256:`+strings.Repeat("0f", 32)+`"`).set("until", `"2026-05-04T03:12:01Z"`).String()))
	f.Fuzz(func(t *testing.T, payload []byte) {
		s, err := ParseSession(payload)
		again(t, s, err, ParseSession)
		j, err := ParseJoin(payload)
		again(t, j, err, ParseJoin)
		n, err := ParseRenewal(payload)
		again(t, n, err, ParseRenewal)
		r, err := ParseRead(payload)
		again(t, r, err, ParseRead)
	})
}

func TestToken(t *testing.T) {
	st := access.Statement{Payload: `{"a":"<b>"}`, Signature: "-----BEGIN\n"}
	token, err := Token(st)
	if err != nil || strings.ContainsAny(token, "+/= \n") {
		t.Fatalf("%q, %v", token, err)
	}
	got, err := ParseToken("  " + token + "\n")
	if err != nil || got != st {
		t.Errorf("%+v, %v", got, err)
	}
	for _, bad := range []string{"", "x", token[1:], token[:len(token)-1], token + "A", token + "=", strings.Repeat("A", maxToken+1), "e30"} {
		if st, err := ParseToken(bad); access.CodeOf(err) != access.CodeMalformed {
			t.Errorf("%.40q: %+v, %v", bad, st, err)
		}
	}
}

// Every change of a payload that a host or inviter signed is refused, and so
// is one type in the place of another.
func TestHostStatementsDontMix(t *testing.T) {
	key := newSigner(t, "ed25519")
	at := Time(time.Now())
	renewal, err := Sign(key, access.Renewal{Header: access.Header{Type: access.TypeRenew, ID: NewID(), Signer: "web-1", Time: at}, HostKey: MarshalKey(key.PublicKey())})
	if err != nil {
		t.Fatal(err)
	}
	if r, k, err := OpenRenewal(renewal); err != nil || r.Signer != "web-1" || MarshalKey(k) != MarshalKey(key.PublicKey()) {
		t.Errorf("%+v, %v", r, err)
	}
	if _, _, err := OpenSession(renewal); access.CodeOf(err) != access.CodeUnverified {
		t.Errorf("as a report: %v", err)
	}
	if _, err := VerifyData([]byte(renewal.Payload), "session@hallpass", renewal.Signature); access.CodeOf(err) != access.CodeUnverified {
		t.Errorf("under another namespace: %v", err)
	}
	renewal.Payload = strings.Replace(renewal.Payload, "web-1", "web-2", 1)
	if _, _, err := OpenRenewal(renewal); access.CodeOf(err) != access.CodeUnverified {
		t.Errorf("changed: %v", err)
	}
}

func FuzzParseToken(f *testing.F) {
	f.Add("eyJwYXlsb2FkIjoiYSIsInNpZ25hdHVyZSI6ImIifQ")
	f.Fuzz(func(t *testing.T, s string) {
		st, err := ParseToken(s)
		if err != nil {
			return
		}
		again, err := Token(st)
		if err != nil || again != strings.TrimSpace(s) {
			t.Errorf("%q reads as %+v, which is %q", s, st, again)
		}
	})
}
