package workflows_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"hallpass/access"
	"hallpass/lookup"
)

// A rule that is automatic by what a look-up says, through the whole life of a
// request: a look-up that fails means that people are asked.
func TestAutomaticByLookup(t *testing.T) {
	policy := strings.Replace(policyFile, `when: resource.labels.env == "prod"`, "when: resource.labels.env == \"prod\"\n    auto: context.ticket.state == \"approved\"", 1)
	for _, row := range []struct {
		name    string
		answers []string // one after the other, the last one for good; "" is an error
		approve bool     // bob does, after a minute
		want    access.State
		why     string
	}{
		{name: "the ticket is approved", answers: []string{"approved"}, want: access.StateExpired},
		{name: "the ticket isn't", answers: []string{"open"}, approve: true, want: access.StateExpired},
		{name: "the tracker is down", answers: []string{""}, approve: true, want: access.StateExpired},
		{name: "the tracker is down and nobody approves", answers: []string{""}, want: access.StateTimedOut, why: "not approved within 1h"},
		{name: "the tracker is up again when somebody approves", answers: []string{"", "approved"}, approve: true, want: access.StateExpired},
		{name: "the ticket is approved before somebody approves", answers: []string{"open", "approved"}, approve: true, want: access.StateExpired},
		{name: "the ticket is approved, and nobody says anything", answers: []string{"open", "approved"}, want: access.StateTimedOut, why: "not approved within 1h"},
		{name: "it is withdrawn before the credential is made", answers: []string{"approved", "open"}, want: access.StateDenied,
			why: "refused by the issuer: not allowed: needs 1 approval from sre"},
		{name: "the tracker is down when the credential is made, and comes back", answers: []string{"approved", "", "", "approved"}, want: access.StateExpired},
		{name: "the tracker is down when the credential is made, and the ticket was withdrawn", answers: []string{"approved", "", "", "open"}, want: access.StateDenied,
			why: "refused by the issuer: not allowed: needs 1 approval from sre"},
		{name: "the tracker goes down for good before the credential is made", answers: []string{"approved", ""}, want: access.StateDenied,
			why: "refused by the issuer: the evidence is older than 1d"},
		{name: "garbage", answers: []string{`x", "state": 7, "y": "`}, approve: true, want: access.StateExpired},
	} {
		t.Run(row.name, func(t *testing.T) {
			w := newWorld(t)
			var n atomic.Int64
			tracker := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
				state := row.answers[min(int(n.Add(1)), len(row.answers))-1]
				if state == "" {
					rw.WriteHeader(http.StatusServiceUnavailable)
					return
				}
				if r.URL.Path != "/OPS-7" {
					t.Errorf("asked for %s", r.URL)
				}
				_, _ = fmt.Fprintf(rw, `{"state": "%s"}`, state)
			}))
			defer tracker.Close()
			dir := t.TempDir()
			if err := os.Chmod(dir, 0o755); err != nil { // whatever the umask
				t.Fatal(err)
			}
			path := filepath.Join(dir, "lookups.yaml")
			file := "allow: [127.0.0.0/8]\nlookups: {ticket: {kind: http-json, url: \"" + tracker.URL + "/{ticket}\", pick: {state: state}}}\n"
			if err := os.WriteFile(path, []byte(file), 0o600); err != nil {
				t.Fatal(err)
			}
			lookups, err := lookup.Load(path)
			if err != nil {
				t.Fatal(err)
			}
			w.acts.Lookups, w.issuer.Lookups = lookups, lookups
			w.load(policy)
			w.ask("ssh/web-1", func(r *access.Request) { r.Ticket = "OPS-7" })
			if row.approve {
				w.at(time.Minute, func() {
					w.want(access.StatePending)
					w.approve("bob")
				})
			}
			got := w.run(row.want)
			if !strings.HasPrefix(got.Why, row.why) {
				t.Errorf("why is %q, want %q", got.Why, row.why)
			}
			if want := map[bool]int{true: 1}[row.want == access.StateExpired]; w.kind.opened != want {
				t.Errorf("%d credentials were issued, want %d", w.kind.opened, want)
			}
			w.ended(row.want)
		})
	}
}
