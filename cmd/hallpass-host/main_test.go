package main

import (
	"bytes"
	"regexp"
	"strings"
	"testing"
)

// A service that ends says why and what to do in its last line; other commands
// take a second one for it.
func TestWhyItEnds(t *testing.T) {
	for command, want := range map[string]string{
		"run":    `^hallpass-host: this host is not enrolled: [^\n]* is not there; hallpass-host enroll --service URL [^\n]*\n$`,
		"status": `^hallpass-host: the host's agent doesn't answer: [^\n]*\n  start it: hallpass-host run\n$`,
	} {
		var out, errs bytes.Buffer
		code := run(t.Context(), []string{"--root", t.TempDir(), command}, strings.NewReader(""), &out, &errs)
		if code == exitOK || !regexp.MustCompile(want).MatchString(errs.String()) {
			t.Errorf("%s: exit code %d: %s", command, code, errs.String())
		}
	}
}
