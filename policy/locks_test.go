package policy

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestLocks(t *testing.T) {
	const rule = "\nrules:\n- {name: a, when: true, approvals: none}\n"
	names := func(n int) string {
		return "[" + strings.TrimSuffix(strings.Repeat("x, ", n), ", ") + "]"
	}
	for name, c := range map[string]struct {
		text string
		want []string
		err  string
	}{
		"none":         {"", nil, ""},
		"one":          {"locks: {groups: [security]}", []string{"security"}, ""},
		"sorted":       {"locks: {groups: [sre, security]}", []string{"security", "sre"}, ""},
		"null":         {"locks:", nil, "p:1:1: locks is empty"},
		"no groups":    {"locks: {}", nil, "p:1:8: locks has no groups"},
		"empty groups": {"locks: {groups: []}", nil, "p:1:17: groups has 0 names, not 1 to 64"},
		"too many":     {"locks: {groups: " + names(65) + "}", nil, "p:1:17: groups has 65 names, not 1 to 64"},
		"a list":       {"locks: [security]", nil, "p:1:8: locks must be a mapping with groups, not a list"},
		"unknown":      {"locks: {groups: [security], users: [alice]}", nil, `p:1:29: unknown field "users" in locks; known are groups`},
		"upper case":   {"locks: {groups: [Security]}", nil, `p:1:18: groups "Security" has a character outside a-z 0-9 . _ @ + -`},
		"twice":        {"locks: {groups: [a, a]}", nil, `p:1:21: groups names "a" twice`},
	} {
		t.Run(name, func(t *testing.T) {
			p, err := Parse("p", []byte(c.text+rule))
			if err != nil {
				if first, _, _ := strings.Cut(err.Error(), " (and "); first != c.err {
					t.Errorf("got  %s\nwant %s", err, c.err)
				}
				return
			}
			if c.err != "" {
				t.Fatalf("it loads; want %s", c.err)
			}
			if d := cmp.Diff(c.want, p.Lockers()); d != "" {
				t.Error(d)
			}
		})
	}
}

// A group that nobody is in is most likely a word that somebody mistyped.
func TestLintLockers(t *testing.T) {
	town := newTown()
	for text, want := range map[string]string{
		"locks: {groups: [sre]}": "", "locks: {groups: [sre, secruity]}": "p:1:17: nobody in the directory is in group secruity",
	} {
		p, err := Parse("p", []byte(text+"\nrules:\n- {name: a, when: true, approvals: none}\n"))
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		if problems := p.Lint(town, town); len(problems) > 0 {
			got = problems[0].Error()
		}
		if got != want {
			t.Errorf("%s: got %q, want %q", text, got, want)
		}
	}
}
