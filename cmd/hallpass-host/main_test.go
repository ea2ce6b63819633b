package main

import (
	"bytes"
	"os"
	"path/filepath"
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

// It ends as hallpass would: scripts need one table of exit codes.
func TestExitCodes(t *testing.T) {
	broken := t.TempDir()
	config := filepath.Join(broken, "etc", "hallpass-host", "config.json")
	if err := os.MkdirAll(filepath.Dir(config), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(config, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		root, args string
		want       int
	}{
		{t.TempDir(), "version", 0},
		{t.TempDir(), "", 2},
		{t.TempDir(), "check --nosuch", 2},
		{broken, "run", 2},
		{t.TempDir(), "run", 7},
	} {
		var out, errs bytes.Buffer
		args := append([]string{"--root", tt.root}, strings.Fields(tt.args)...)
		if got := run(t.Context(), args, strings.NewReader(""), &out, &errs); got != tt.want {
			t.Errorf("%q: exit code %d, want %d: %s", tt.args, got, tt.want, errs.String())
		}
	}
}
