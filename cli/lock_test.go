package cli

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"hallpass/access"
	"hallpass/statement"
)

func TestLock(t *testing.T) {
	w := newWorld(t)
	first := w.ask("ssh/test-1")
	second := w.ask("ssh/web-1 --as deploy --reason x")
	r := w.as("bob").must("lock user alice --reason laptop_stolen --for 2h")
	for _, want := range []string{"Locked user alice until ", "2 live requests were told to end:", first, second, "To lift it: hallpass unlock 01"} {
		if !strings.Contains(r.stdout, want) {
			t.Errorf("lock doesn't say %q:\n%s", want, r.stdout)
		}
	}
	if r.stderr != "" {
		t.Error(r.stderr)
	}
	r = w.as("alice").run("request ssh/test-1 --reason please")
	if r.code != ExitDenied || !strings.Contains(r.stderr+r.stdout, "user alice is locked by bob until") || !strings.Contains(r.stderr+r.stdout, "laptop stolen") {
		t.Errorf("exit %d: %s%s", r.code, r.stdout, r.stderr)
	}
	r = w.must("show " + first)
	for _, want := range []string{"bob ended it: lock", "laptop stolen", "a key of bob, verified"} {
		if !strings.Contains(r.stdout, want) {
			t.Errorf("show doesn't say %q:\n%s", want, r.stdout)
		}
	}
	r = w.must("locks")
	id := w.service.locks[0].Lock.ID
	for _, want := range []string{id[:13] + "  user alice, until ", "laptop stolen", "by bob", "a key of bob, verified"} {
		if !strings.Contains(r.stdout, want) {
			t.Errorf("locks doesn't say %q:\n%s", want, r.stdout)
		}
	}
	if r := w.run("unlock " + id); r.code != ExitRefused || !strings.Contains(r.stderr, "alice is in none of the groups") {
		t.Errorf("alice unlocks herself: exit %d, %s", r.code, r.stderr)
	}
	if r := w.as("carol").must("unlock " + id[:13]); r.stdout != "Unlocked user alice.\n" {
		t.Error(r.stdout)
	}
	if r := w.must("locks"); r.stdout != "" || r.stderr != "Nothing is locked.\n" {
		t.Errorf("%s%s", r.stdout, r.stderr)
	}
	if r := w.run("unlock " + id); r.code != ExitNotFound {
		t.Errorf("exit %d, %s", r.code, r.stderr)
	}
	w.as("alice").ask("ssh/test-1")
}

// A lock with an end is gone by itself.
func TestLockEnds(t *testing.T) {
	w := newWorld(t)
	w.as("bob").must("lock host web-1 --reason x --for 1h")
	w.now.advance(time.Hour - time.Second)
	if r := w.must("locks"); !strings.Contains(r.stdout, "host web-1, until ") {
		t.Error(r.stdout)
	}
	w.now.advance(time.Second)
	if r := w.must("locks"); r.stdout != "" {
		t.Error(r.stdout)
	}
}

func TestLockCommandLines(t *testing.T) {
	w := newWorld(t).as("bob")
	w.must("lock user mallory --reason x")
	w.must("lock user mallory --reason y")
	for _, tt := range []struct {
		line string
		code int
		want string
	}{
		{"lock user alice", ExitUsage, "--reason is missing"},
		{"lock user --reason x", ExitUsage, "NAME is missing"},
		{"lock group dev", ExitUsage, "no command hallpass lock group"},
		{"lock user Alice --reason x", ExitUsage, `user "Alice" has a character outside`},
		{"lock resource web-1 --reason x", ExitUsage, "is not of the form kind/name"},
		{"lock host -- -l --reason x", ExitUsage, "unexpected argument"},
		{"lock user alice --reason x --for soon", ExitUsage, "--for: "},
		{"lock user alice --reason x --for 0s", ExitUsage, "--for 0s is no time at all"},
		{"unlock", ExitUsage, "ID is missing"},
		{"unlock alice", ExitUsage, "alice is not a lock's id"},
		{"unlock 0", ExitNotFound, "2 locks begin with 0"},
		{"unlock ffff", ExitNotFound, "no lock ffff is in force"},
		{"locks now", ExitUsage, "unexpected argument"},
		{"lock user alcie --reason x", ExitOK, "there is no user alcie in the files here; is it spelled right?"},
		{"lock resource ssh/wbe --reason x", ExitOK, "there is no resource ssh/wbe"},
		{"lock host wbe --reason x", ExitOK, "there is no host wbe"},
		{"lock host 10.0.0.7 --reason x", ExitOK, ""},
	} {
		r := w.run(tt.line)
		if r.code != tt.code || !strings.Contains(r.stderr, tt.want) || tt.want == "" && r.stderr != "" {
			t.Errorf("%s: exit %d, %s; want %d, %s", tt.line, r.code, r.stderr, tt.code, tt.want)
		}
	}
	if r := w.as("mallory").run("lock user bob --reason x"); r.code != ExitRefused || !strings.Contains(r.stderr, "mallory is in none of the groups") {
		t.Errorf("exit %d, %s", r.code, r.stderr)
	}
}

// Where not everything has ended yet it says so, and that the lock is in force.
func TestLockThatTakesLonger(t *testing.T) {
	w := newWorld(t)
	w.ask("ssh/test-1")
	w.service.slow = true
	r := w.as("bob").run("lock user alice --reason x")
	w.service.mu.Lock()
	w.service.stuck = true
	w.service.mu.Unlock()
	if r := w.run("lock user carol --reason x"); r.code != ExitUnreachable || r.stdout != "" || !strings.Contains(r.stderr, "nobody says that the lock is in force") {
		t.Errorf("nobody answers: exit %d, %s%s", r.code, r.stdout, r.stderr)
	}
	if r.code != ExitUnreachable || !strings.Contains(r.stdout, "Locked user alice") || !strings.Contains(r.stderr, "the lock is in force, but not everything under it has ended yet") {
		t.Errorf("exit %d: %s%s", r.code, r.stdout, r.stderr)
	}
}

func TestLockPrint(t *testing.T) {
	w := newWorld(t).as("bob")
	r := w.must("lock user alice --reason x --print")
	var in access.Locking
	check(t, json.Unmarshal([]byte(r.stdout), &in))
	l, _, err := statement.OpenLock(in.Statement, w.service.book.Directory)
	check(t, err)
	if l.Name != "alice" || w.dialed != 0 || !strings.Contains(r.stderr, "--type Lock --task-queue hallpass --workflow-id lock-"+l.ID) {
		t.Errorf("%+v, dialed %d, %s", l, w.dialed, r.stderr)
	}
}

// What is listed is what was signed, or isn't called verified.
func TestListsThatLie(t *testing.T) {
	w := newWorld(t).as("bob")
	w.must("lock host web-1 --reason x")
	w.must("delegate --to mallory --for 8h")
	w.service.locks[0].Lock.Name = "web-2"
	w.service.given[0].Delegation.Groups = []string{"dev"}
	for _, list := range []string{"locks", "delegations"} {
		if r := w.must(list); !strings.Contains(r.stdout, "NOT VERIFIED: what was signed says something else") {
			t.Errorf("%s:\n%s", list, r.stdout)
		}
	}
}

// A statement that isn't what the list says of it isn't signed over.
func TestUnlockOfWhatNobodyLocked(t *testing.T) {
	w := newWorld(t).as("bob")
	w.must("lock user mallory --reason x")
	w.service.locks[0].Lock.Name, w.service.locks[0].Lock.ID = "alice", testID
	if r := w.run("unlock " + testID); r.code != ExitRefused || !strings.Contains(r.stderr, "can't be trusted") {
		t.Errorf("exit %d, %s", r.code, r.stderr)
	}
}
