package cli

import (
	"strings"
	"testing"

	"hallpass/access"
	"hallpass/statement"
)

// What the service would refuse is refused before a key is asked to sign it: here
// there is none that could.
func TestMalformedIsNotSigned(t *testing.T) {
	a, nobody := &app{}, &identity{}
	long := strings.Repeat("x", access.MaxReason+1)
	for name, err := range map[string]error{
		"decision": second(sign(a, nobody, access.Decision{Comment: long}, statement.ParseDecision)),
		"request":  second(sign(a, nobody, access.Request{Reason: long}, statement.ParseRequest)),
		"stop":     second(signStop(a, nobody, access.Stop{Header: access.Header{Type: access.TypeRevoke}, Reason: long})),
		"lock":     second(sign(a, nobody, access.Lock{Reason: long}, statement.ParseLock)),
	} {
		if access.CodeOf(err) != access.CodeMalformed || exitCode(err) != ExitUsage {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func second(_ access.Statement, err error) error { return err }
