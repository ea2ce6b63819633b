package cli

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"hallpass/access"
	"hallpass/evidence"
)

const glassPolicy = testPolicy + `  - name: glass
    when: resource.labels.env == "secret"
    max_duration: 1h
    approvals:
      - {count: 1, from: [sre]}
    approval_window: 1h
    emergency: {tell: [dev], review: {from: [sre], count: 2, within: 4h}}
`

// glassWorld is a world in which ssh/vault has a glass to break.
func glassWorld(t *testing.T) *world {
	t.Helper()
	w := newWorld(t)
	check(t, os.WriteFile(filepath.Join(w.dir, "policy.yaml"), []byte(glassPolicy), 0o600))
	book, err := evidence.NewRulebook([]byte(glassPolicy), w.service.book.Directory.Data(), []byte(testCatalog))
	check(t, err)
	w.service.book = book
	return w
}

const breaks = "ssh/vault --as root --emergency --reason the_shop_is_down_and_nobody_answers"

// says checks what a command says.
func (r result) says(t *testing.T, code int, want ...string) {
	t.Helper()
	if r.code != code {
		t.Errorf("exit %d, want %d", r.code, code)
	}
	for _, s := range want {
		if !strings.Contains(r.stdout+r.stderr, s) {
			t.Errorf("no %q in\n%s%s", s, r.stdout, r.stderr)
		}
	}
}

// Who breaks the glass is told what it costs, however he asks.
func TestRequestSaysThatTheGlassWasBroken(t *testing.T) {
	for _, how := range []string{"", " --no-wait", " -o json"} {
		w := glassWorld(t)
		due := newPrinter(nil, func(string) string { return "UTC" }).at(w.now.Now().Add(4*time.Hour), w.now.Now())
		r := w.must("request " + breaks + how)
		if want := "BREAK-GLASS: to be signed off until " + due + ": 2 reviews from sre\n"; !strings.Contains(r.stderr, want) || strings.Count(r.stderr, "BREAK-GLASS") != 1 {
			t.Errorf("request%s doesn't say %q once:\n%s", how, want, r.stderr)
		}
	}
	w := glassWorld(t)
	if r := w.must("request ssh/vault --as root --reason x --no-wait"); strings.Contains(r.stderr, "BREAK-GLASS") {
		t.Errorf("says that a glass was broken: %s", r.stderr)
	}
}

// show says how the review stands, as far as can be told from here.
func TestShowTellsOfTheReview(t *testing.T) {
	w := glassWorld(t)
	id := w.ask(breaks)
	w.must("show "+id).says(t, 0, "BREAK-GLASS", "review", "due ", "2 reviews from sre")
	w.as("mallory").run("review "+id).says(t, ExitRefused, "mallory is in none of the groups that review this: 2 reviews from sre")
	w.as("bob").must("review "+id).says(t, 0, "Still needs 1 review from sre")
	w.must("show "+id).says(t, 0, "1 review from sre", "signed off by bob")
	w.now.advance(5 * time.Hour)
	w.must("show "+id).says(t, 0, "OVERDUE since ")
	w.must("show -o json "+id).says(t, 0, `"review": {`)
	w.as("carol").must("review "+id).says(t, 0, "The review is done")
	r := w.must("show " + id)
	r.says(t, 0, "none is open; who signed it off: hallpass audit show "+id)
	if strings.Contains(r.stdout, "to be signed off") {
		t.Errorf("is still to be signed off:\n%s", r.stdout)
	}
	// Where nobody can tell, it doesn't say that none is open.
	w.service.blind = true
	r = w.must("show " + id)
	r.says(t, 0, "to be signed off afterwards; how it stands: hallpass audit show "+id)
	if strings.Contains(r.stdout, "none is open") {
		t.Errorf("says what it can't know:\n%s", r.stdout)
	}
}

// What isn't an ordinary request for something new looks different in the
// lists of those who decide.
func TestPendingMarksWhatIsUnusual(t *testing.T) {
	w := glassWorld(t)
	id := w.ask("ssh/web-1 --as deploy --for 30m --reason x")
	w.as("bob").must("approve " + id)
	w.as("alice").must("extend " + id + " --for 20m --no-wait")
	w.as("bob").must("pending").says(t, 0, "alice wants ssh/web-1 as deploy for 20m longer\n")
	w.must("pending -o json").says(t, 0, `"extends": "`+id+`"`)
}

// Every list ends in what to type.
func TestReviewsNamesTheNextCommand(t *testing.T) {
	w := glassWorld(t)
	id := w.ask(breaks)
	w.as("bob").must("reviews").says(t, 0, "  hallpass show "+id+"\n  hallpass review "+id+"\n")
}

// A hint leads on.
func TestHintsOfReviewAndExtend(t *testing.T) {
	w := glassWorld(t)
	w.run("review xyz").says(t, ExitUsage, "xyz is not a request's id", "try: hallpass reviews\n")
	w.run("extend").says(t, ExitUsage, "ID is missing", "try: hallpass extend ID --for 30m\n")
	id := w.ask("ssh/test-1 --as tester")
	w.as("bob")
	submitted := len(w.service.order)
	w.run("extend "+id+" --for 5m").says(t, ExitRefused, "request "+id+" is alice's: nobody extends the grant of somebody else", "try: hallpass request ssh/test-1")
	if len(w.service.order) != submitted {
		t.Error("it was submitted all the same")
	}
	st := w.service.requests[id]
	st.Standing.Extends = &access.Extended{Request: "a", By: "0195f001-0000-7000-8000-000000000000"}
	st.State, st.Why = access.StateDenied, "the grant of request a was extended before, by request 0195f001-0000-7000-8000-000000000000"
	w.as("alice").run("wait "+id).says(t, ExitDenied, "was extended before", "try: hallpass extend 0195f001-0000-7000-8000-000000000000 --for LONGER\n")
}

// Giving back one of a chain gives back all, and nothing of them stays here.
func TestReleaseTakesTheExtensionsWithIt(t *testing.T) {
	w := newWorld(t)
	w.must("request ssh/test-1 --as tester --for 1m")
	first := w.service.order[0]
	w.must("extend " + first + " --for 1m")
	w.must("extend " + w.service.order[1] + " --for 1m")
	certificates := func() int {
		files, err := filepath.Glob(filepath.Join(w.home(), "certs", "*-cert.pub"))
		check(t, err)
		return len(files)
	}
	w.must("request ssh/web-1 --as deploy --reason other --no-wait")
	if n := certificates(); n != 1 {
		t.Fatalf("%d certificates", n)
	}
	w.must("release " + first)
	if n := certificates(); n != 0 {
		t.Errorf("%d certificates are left", n)
	}
	if requests, err := os.ReadDir(filepath.Join(w.home(), "requests")); err != nil || len(requests) != 1 {
		t.Errorf("requests left: %v, %v", requests, err)
	}
}
