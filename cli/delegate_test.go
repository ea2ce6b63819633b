package cli

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"hallpass/evidence"
)

func TestDelegate(t *testing.T) {
	w := newWorld(t)
	id := w.ask("ssh/web-1 --as deploy --reason x")
	if r := w.as("mallory").run("approve " + id); r.code != ExitRefused || !strings.Contains(r.stderr, "in none of the groups") {
		t.Errorf("exit %d, %s", r.code, r.stderr)
	}
	r := w.as("bob").must("delegate --to mallory --for 8h --group sre --reason on_leave")
	given := w.service.given[0].Delegation.ID
	for _, want := range []string{"mallory decides in your place as one of sre until ", "To end it: hallpass delegate --revoke " + given} {
		if !strings.Contains(r.stdout, want) {
			t.Errorf("delegate doesn't say %q:\n%s", want, r.stdout)
		}
	}
	r = w.must("delegations")
	for _, want := range []string{given[:13] + "  mallory for bob as one of sre, until ", "on leave", "a key of bob, verified"} {
		if !strings.Contains(r.stdout, want) {
			t.Errorf("delegations doesn't say %q:\n%s", want, r.stdout)
		}
	}
	r = w.as("mallory").must("pending")
	for _, want := range []string{"Yours to decide", "bob (delegated)", "hallpass approve " + id[:13]} {
		if !strings.Contains(r.stdout, want) {
			t.Errorf("pending doesn't say %q:\n%s", want, r.stdout)
		}
	}
	r = w.must("approve " + id)
	if !strings.Contains(r.stdout, "Approved in the place of bob.") || r.stderr != "In the place of bob, who has delegated it to you.\n" {
		t.Errorf("%s%s", r.stdout, r.stderr)
	}
	r = w.as("alice").must("show " + id)
	if !strings.Contains(r.stdout, "mallory for bob (delegated) approved") {
		t.Error(r.stdout)
	}

	// Carol has a say of her own, and uses that.
	id = w.ask("ssh/web-1 --as deploy --reason y")
	w.as("bob").must("delegate --to carol --for 1h")
	if r := w.as("carol").must("approve " + id); !strings.Contains(r.stdout, "Approved. ") || r.stderr != "" {
		t.Errorf("%s%s", r.stdout, r.stderr)
	}
	// It isn't offered in a request of who has delegated.
	if r := w.as("mallory").run("approve --in-place-of alice " + id); r.code != ExitRefused {
		t.Errorf("exit %d, %s", r.code, r.stderr)
	}

	if r := w.as("mallory").run("delegate --revoke " + given); r.code != ExitRefused || !strings.Contains(r.stderr, "is bob's: he revokes it") {
		t.Errorf("exit %d, %s", r.code, r.stderr)
	}
	if r := w.as("bob").must("delegate --revoke " + given); r.stdout != "Revoked: mallory decides in that place no more.\n" {
		t.Error(r.stdout)
	}
	w.now.advance(time.Hour)
	if r := w.must("delegations"); r.stdout != "" || r.stderr != "Nobody decides in another's place.\n" {
		t.Errorf("%s%s", r.stdout, r.stderr)
	}
}

// Where a rule wants decisions in person, whoever would decide in another's place
// is told before anything is signed, and isn't offered it.
func TestInPerson(t *testing.T) {
	w := newWorld(t)
	policy := testPolicy + `  - name: vaults
    when: resource.labels.env == "secret"
    approvals:
      - {count: 1, from: [sre]}
    in_person: true
  - name: vaults-too
    when: resource.labels.env == "secret" && request.reason == "both"
    approvals:
      - {count: 1, from: [sre]}
`
	check(t, os.WriteFile(filepath.Join(w.dir, "policy.yaml"), []byte(policy), 0o600))
	book, err := evidence.NewRulebook([]byte(policy), w.service.book.Directory.Data(), []byte(testCatalog))
	check(t, err)
	w.service.book = book
	w.as("bob").must("delegate --to mallory --for 8h")
	const only = `rule "vaults" takes decisions in person only`

	id := w.as("alice").ask("ssh/vault --as root --reason x")
	if r := w.as("mallory").must("pending"); strings.Contains(r.stdout, "Yours to decide") {
		t.Errorf("it is offered:\n%s", r.stdout)
	}
	for _, line := range []string{"approve ", "deny ", "approve --print ", "approve --in-place-of bob "} {
		r := w.as("mallory").run(line + id)
		r.says(t, ExitRefused, only+", so nobody decides in the place of bob", "in person ")
		if strings.Contains(r.stdout, "signature") {
			t.Errorf("%s: something was signed:\n%s", line, r.stdout)
		}
	}
	if s := w.service.requests[id]; len(s.Evidence.Decisions) > 0 || len(s.Standing.Dropped) > 0 {
		t.Errorf("something was sent: %+v", s.Evidence)
	}
	w.as("bob").must("approve "+id).says(t, ExitOK, "Approved.", only)

	id = w.as("mallory").ask("ssh/vault --as root --reason mine")
	w.run("approve "+id).says(t, ExitRefused, "nobody decides on a request of his own")

	id = w.as("alice").ask("ssh/vault --as root --reason both")
	r := w.as("mallory").must("approve " + id)
	r.says(t, ExitOK, "In the place of bob, who has delegated it to you.\n", "It doesn't count for all of it: "+only+", and bob has no word left then.\n",
		"Approved in the place of bob. The request is pending: still needs 1 approval from sre")
	w.as("bob").run("approve "+id).says(t, ExitRefused, "mallory for bob (delegated) has decided on this request already")
	w.as("carol").must("approve "+id).says(t, ExitOK, "Approved. The request is active")
}

func TestDelegateCommandLines(t *testing.T) {
	w := newWorld(t).as("bob")
	w.must("delegate --to mallory --for 1h")
	w.must("delegate --to mallory --for 1h --group sre")
	for _, tt := range []struct {
		line string
		code int
		want string
	}{
		{"delegate", ExitUsage, "--to and --for are needed"},
		{"delegate --to alice", ExitUsage, "--to and --for are needed"},
		{"delegate --for 8h", ExitUsage, "--to and --for are needed"},
		{"delegate alice --for 8h", ExitUsage, "unexpected argument alice\n  try: hallpass delegate --to bob --for 8h\n"},
		{"delegate --to alice --for soon", ExitUsage, "--for: "},
		{"delegate --to alice --for 0s", ExitUsage, "--for 0s is no time at all"},
		{"delegate --to alice --for 14d1s", ExitUsage, "--for 14d1s is longer than a delegation lasts: at most 14d"},
		{"delegate --to alice --for 14d", ExitOK, ""},
		{"delegate --to Alice --for 1h", ExitUsage, `to "Alice" has a character outside`},
		{"delegate --to bob --for 1h", ExitUsage, "nobody delegates to himself"},
		{"delegate --to zoe --for 1h", ExitNotFound, "there is no zoe in the directory"},
		{"delegate --to alice --for 1h --group dba", ExitRefused, "bob is not in dba"},
		{"delegate --revoke mallory", ExitUsage, "mallory is not a delegation's id"},
		{"delegate --revoke 0", ExitNotFound, "3 delegations begin with 0"},
		{"delegate --revoke ffff", ExitNotFound, "no delegation ffff is in force"},
		{"delegate --revoke 0 --to alice", ExitUsage, "--to doesn't go with --revoke"},
		{"delegations now", ExitUsage, "unexpected argument"},
	} {
		r := w.run(tt.line)
		if r.code != tt.code || !strings.Contains(r.stderr, tt.want) || tt.want == "" && r.stderr != "" {
			t.Errorf("%s: exit %d, %s; want %d, %s", tt.line, r.code, r.stderr, tt.code, tt.want)
		}
	}
	if r := w.must("delegate --to carol --for 1h --print"); !strings.Contains(r.stdout, `\"type\":\"delegation\"`) || !strings.Contains(r.stderr, "--type Delegate ") {
		t.Errorf("%s%s", r.stdout, r.stderr)
	}
	if len(w.service.given) != 3 {
		t.Error("what was only printed was sent")
	}
	ids := []string{w.service.given[0].Delegation.ID, w.service.given[1].Delegation.ID, w.service.given[2].Delegation.ID}
	slices.Sort(ids)
	for line, want := range map[string]string{
		"delegate --to ":         "alice\nbob\ncarol\nmallory\n",
		"delegate --group ":      "sre\n",
		"delegate --revoke ":     strings.Join(ids, "\n") + "\n",
		"approve --in-place-of ": "", // nobody has delegated to bob
	} {
		words := append(strings.Split(line, " "), completeFlag)
		if r := w.runArgs(t.Context(), words...); r.stdout != want {
			t.Errorf("%s is completed by %q, want %q", line, r.stdout, want)
		}
	}
	if r := w.as("mallory").runArgs(t.Context(), "approve", "--in-place-of", "", completeFlag); r.stdout != "bob\n" {
		t.Errorf("mallory decides in the place of %q", r.stdout)
	}
}
