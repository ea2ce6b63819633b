package statement

import (
	"bytes"
	"encoding/json"

	"hallpass/access"
)

// ParseEnvelope reads a statement as it is stored or sent, an object of the two
// strings payload and signature and nothing else, and says of anything else
// that it is malformed. What is in the two is for Open to look at.
func ParseEnvelope(data []byte) (access.Statement, error) {
	malformed := func(format string, args ...any) (access.Statement, error) {
		return access.Statement{}, access.Errorf(access.CodeMalformed, "message is not a statement: "+format, args...)
	}
	if !json.Valid(data) {
		return malformed("it is not JSON")
	}
	if bytes.TrimLeft(data, " \t\r\n")[0] != '{' {
		return malformed("it is not an object")
	}
	var st access.Statement
	var payload, signature bool // were there
	dec := json.NewDecoder(bytes.NewReader(data))
	_, _ = dec.Token() // the opening brace; that all of it is JSON is known
	for dec.More() {
		name, _ := dec.Token()
		value, seen := &st.Payload, &payload
		switch name {
		case "payload":
		case "signature":
			value, seen = &st.Signature, &signature
		default:
			return malformed("unknown field %q", clip(name.(string)))
		}
		if *seen {
			return malformed("field %q is there twice", name)
		}
		*seen = true
		text, _ := dec.Token()
		s, ok := text.(string)
		if !ok {
			return malformed("field %q is not a string", name)
		}
		*value = s
	}
	switch {
	case !payload:
		return malformed("field %q is missing", "payload")
	case !signature:
		return malformed("field %q is missing", "signature")
	}
	return st, nil
}
