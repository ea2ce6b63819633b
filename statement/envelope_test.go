package statement

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"hallpass/access"
)

func TestParseEnvelope(t *testing.T) {
	for _, test := range []struct{ name, data, want string }{
		{"as it is written", `{"payload":"p","signature":"s"}`, ""},
		{"the other way round, with white space", " {\n\"signature\" : \"s\" , \"payload\":\"p\"}\n", ""},
		{"empty strings", `{"payload":"","signature":""}`, ""},
		{"nothing", ``, "not JSON"},
		{"text", `hello`, "not JSON"},
		{"two objects", `{"payload":"p","signature":"s"}{}`, "not JSON"},
		{"more behind it", `{"payload":"p","signature":"s"} x`, "not JSON"},
		{"null", `null`, "not an object"},
		{"a string", `"payload"`, "not an object"},
		{"a list", `["p","s"]`, "not an object"},
		{"no fields", `{}`, `"payload" is missing`},
		{"no payload", `{"signature":"s"}`, `"payload" is missing`},
		{"no signature", `{"payload":"p"}`, `"signature" is missing`},
		{"a third field", `{"payload":"p","signature":"s","x":1}`, `unknown field "x"`},
		{"a third field first", `{"x":{},"payload":"p","signature":"s"}`, `unknown field "x"`},
		{"a name in another case", `{"Payload":"p","signature":"s"}`, `unknown field "Payload"`},
		{"a name written in another way", `{"p\u0061yload":"p","signature":"s"}`, ""},
		{"payload twice", `{"payload":"p","payload":"p","signature":"s"}`, `"payload" is there twice`},
		{"signature twice", `{"payload":"p","signature":"s","signature":"s"}`, `"signature" is there twice`},
		{"a number", `{"payload":1,"signature":"s"}`, `"payload" is not a string`},
		{"null in it", `{"payload":"p","signature":null}`, `"signature" is not a string`},
		{"an object in it", `{"payload":{"payload":"p"},"signature":"s"}`, `"payload" is not a string`},
	} {
		t.Run(test.name, func(t *testing.T) {
			st, err := ParseEnvelope([]byte(test.data))
			if test.want == "" {
				if err != nil || len(st.Payload) != len(st.Signature) {
					t.Errorf("got %+v, %v", st, err)
				}
				return
			}
			if access.CodeOf(err) != access.CodeMalformed || !strings.Contains(err.Error(), test.want) || st != (access.Statement{}) {
				t.Errorf("got %+v, %v; want malformed: %s", st, err, test.want)
			}
		})
	}
}

// What is read is what a decoder that knows the two fields alone reads, and
// comes back as it was.
func FuzzParseEnvelope(f *testing.F) {
	f.Add([]byte(`{"payload":"p","signature":"s"}`))
	f.Add([]byte(`{"payload":"\u0061\ud800","signature":"","payload":"q"}`))
	f.Add([]byte(`{"Payload":[],"signature":{"x":1}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		st, err := ParseEnvelope(data)
		if err != nil {
			if access.CodeOf(err) != access.CodeMalformed {
				t.Errorf("%v is not malformed", err)
			}
			return
		}
		var want access.Statement
		dec := json.NewDecoder(bytes.NewReader(data))
		dec.DisallowUnknownFields()
		if err := dec.Decode(&want); err != nil || st != want {
			t.Errorf("got %+v, want %+v, %v", st, want, err)
		}
		again, err := json.Marshal(st)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := ParseEnvelope(again); err != nil || got != st {
			t.Errorf("%s reads as %+v, %v", again, got, err)
		}
	})
}
