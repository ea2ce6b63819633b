package statement

import (
	"encoding/json"
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
