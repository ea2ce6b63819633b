package statement

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"hallpass/access"
)

// FuzzOpenEnrolled: what a CA has signed for a host is opened with its key, or
// refused with a code, and comes back when it is signed again. Nothing else that a
// CA signs is taken for it, and neither is what somebody else carried on from it.
func FuzzOpenEnrolled(f *testing.F) {
	ca := newSigner(f, "ed25519")
	full, err := json.Marshal(access.Enrolled{
		Answers: "sha256", AgentKey: ed25519Line, Host: "web-1", Certificate: "c", UserCAs: []string{ed25519Line}, HostCAs: []string{"h"},
		Principals: map[string][]string{"deploy": {"web-1/deploy"}}, RenewAfter: time.Date(2031, 5, 6, 7, 8, 9, 0, time.UTC),
	})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(full, "krl@hallpass", "")
	f.Add([]byte(`{"host":"a","Host":"b","user_cas":null,"renew_after":"9999-12-31T23:59:59.999999999+23:59"}`), "x", " ")
	f.Add([]byte(`{"principals":{"a":null,"":[]},"renew_after":0}`), "session@hallpass", "{}")
	f.Add([]byte(`[]`), EnrolledNamespace+" ", "\n")
	f.Fuzz(func(t *testing.T, payload []byte, namespace, more string) {
		signed := func(namespace string) access.Statement {
			signature, err := SignData(ca, namespace, payload)
			if err != nil {
				t.Skip(err)
			}
			return access.Statement{Payload: string(payload), Signature: signature}
		}
		if namespace != EnrolledNamespace && namespace != "" {
			if _, _, err := OpenEnrolled(signed(namespace)); access.CodeOf(err) != access.CodeUnverified {
				t.Errorf("signed under %q: %v", namespace, err)
			}
		}
		st := signed(EnrolledNamespace)
		if more != "" {
			longer := st
			longer.Payload += more
			if _, _, err := OpenEnrolled(longer); access.CodeOf(err) != access.CodeUnverified {
				t.Errorf("with %q behind it: %v", more, err)
			}
		}
		e, by, err := OpenEnrolled(st)
		if err != nil {
			if access.CodeOf(err) != access.CodeMalformed || access.CheckText("error", err.Error(), 1000) != nil || by != nil {
				t.Errorf("%q", err)
			}
			return
		}
		if MarshalKey(by) != MarshalKey(ca.PublicKey()) {
			t.Errorf("opened with the key %s", MarshalKey(by))
		}
		again, err := SignEnrolled(ca, e)
		if err != nil {
			t.Fatalf("what was read can't be signed: %v", err)
		}
		back, _, err := OpenEnrolled(again)
		once, _ := json.Marshal(back)
		if err != nil || string(once) != again.Payload {
			t.Errorf("%s was signed, and opens as %s (%v)", again.Payload, once, err)
		}
	})
}

// What a CA has signed for a host says one thing, to whoever reads it.
func TestOpenEnrolledIsStrict(t *testing.T) {
	ca := newSigner(t, "ed25519")
	const good = `{"answers":"a","agent_key":"k","host":"web-1","user_cas":["u"],"host_cas":null,"principals":{"deploy":["web-1/deploy"]},"renew_after":"2031-05-06T07:08:09Z"}`
	with := func(more string) string { return good[:len(good)-1] + "," + more + "}" }
	without := func(field string) string { return strings.Replace(good, `"`+field+`":`, `"`+field+`_":`, 1) }
	principals := func(value string) string { return strings.Replace(good, `{"deploy":["web-1/deploy"]}`, value, 1) }
	for _, tt := range []struct{ payload, want string }{
		{good, ""},
		{" " + good + "\n", ""},
		{with(`"certificate":"c"`), ""},
		{with(`"a_newer_field":{"x":[null,1.5,true]},"another":1`), ""}, // of a newer issuer
		{with(`"host":"web-2"`), `field "host" is there twice`},
		{with(`"h\u006fst":"web-2"`), `field "host" is there twice`},
		{with(`"new":1,"new":1`), `field "new" is there twice`},
		{with(`"Host":"web-2"`), `field "Host" is written otherwise than "host"`},
		{with(`"uſer_cas":["m"]`), `is written otherwise than "user_cas"`},
		{strings.Replace(good, `"host"`, `"HOST"`, 1), `field "HOST" is written otherwise than "host"`},
		{without("answers"), `field "answers" is missing`},
		{without("user_cas"), `field "user_cas" is missing`},
		{without("host_cas"), `field "host_cas" is missing`},
		{without("principals"), `field "principals" is missing`},
		{without("renew_after"), `field "renew_after" is missing`},
		{strings.Replace(good, `"web-1"`, `["web-1"]`, 1), `field "host" is not of its type`},
		{strings.Replace(good, `["u"]`, `"u"`, 1), `field "user_cas" is not of its type`},
		{principals(`{"deploy":["web-1/deploy"],"deploy":["web-2/deploy"]}`), `principals: field "deploy" is there twice`},
		{principals(`{"deploy":"web-1/deploy"}`), `field "principals" is not of its type`},
		{principals(`null`), `field "principals" is null`},
		{strings.Replace(good, `["u"]`, `null`, 1), `field "user_cas" is null`},
		{strings.Replace(good, `"2031-05-06T07:08:09Z"`, `null`, 1), `field "renew_after" is null`},
		{with(`"certificate":null`), `field "certificate" is null`},
		{strings.Replace(good, `"host_cas":null`, `"host_cas":[]`, 1), ""},
		{good + good, "not one JSON object"},
		{good + "x", "not one JSON object"},
		{good[:len(good)-1], "not one JSON object"},
		{"[" + good + "]", "not one JSON object"},
		{strings.Replace(good, "web-1", "web\xff1", 1), "not one JSON object"},
		{"", "not one JSON object"},
	} {
		signature, err := SignData(ca, EnrolledNamespace, []byte(tt.payload))
		if err != nil {
			t.Fatal(err)
		}
		e, by, err := OpenEnrolled(access.Statement{Payload: tt.payload, Signature: signature})
		if tt.want == "" {
			if err != nil || e.Host != "web-1" || len(e.UserCAs) != 1 || len(e.Principals["deploy"]) != 1 || e.RenewAfter.IsZero() {
				t.Errorf("%s: %+v, %v", tt.payload, e, err)
			}
			continue
		}
		if access.CodeOf(err) != access.CodeMalformed || !strings.HasPrefix(err.Error(), "what the host is told: ") || !strings.HasSuffix(err.Error(), tt.want) || by != nil {
			t.Errorf("%s: %v, want %s", tt.payload, err, tt.want)
		}
	}
}
