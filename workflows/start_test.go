package workflows_test

import (
	"strings"
	"testing"
	"time"

	"hallpass/access"
)

// A grant that starts later was approved by the policy of the day. When it
// starts it is judged once more, by the issuer: by the files, the locks and the
// time of that moment.
func TestJudgedAgainAtTheStart(t *testing.T) {
	const windows = `windows:
  office: {zone: UTC, times: [{days: [mon, tue, wed, thu, fri], from: "08:00", to: "18:00"}]}
`
	office := func(condition string) string {
		return windows + strings.Replace(policyFile, `when: resource.labels.env == "prod"`, `when: 'resource.labels.env == "prod" && `+condition+`'`, 1)
	}
	if !strings.Contains(office("x"), "&& x") {
		t.Fatal("the policy has another rule for production")
	}
	for _, row := range []struct {
		name   string
		policy string        // in force when it is asked, "" for the usual one
		delay  time.Duration // to the start, from Monday 09:00
		later  string        // in force an hour later
		lock   bool          // the resource is locked an hour later, and nobody tells the workflow
		want   access.State
		why    string
		opened int
	}{
		{name: "nothing has changed", delay: 3 * time.Hour, want: access.StateExpired, opened: 1},
		{name: "a rule that denies has come", delay: 3 * time.Hour, want: access.StateDenied, why: "refused by the issuer: not allowed: frozen for the release (rule \"freeze\")",
			later: policyFile + "  - {name: freeze, when: 'true', deny: frozen for the release}\n"},
		{name: "the rule takes another group now", delay: 3 * time.Hour, want: access.StateDenied, why: "refused by the issuer: not allowed: needs 1 approval from security",
			later: strings.ReplaceAll(policyFile, "from: [sre]", "from: [security]")},
		{name: "a lock nobody told of", delay: 3 * time.Hour, want: access.StateDenied, why: "refused by the issuer: not allowed: resource ssh/web-1 is locked by trent", lock: true},
		{name: "starts within the window", policy: office(`request.start.within("office")`), delay: 3 * time.Hour, want: access.StateExpired, opened: 1},
		{name: "asked in the window, starts outside it", policy: office(`now.within("office")`), delay: 11 * time.Hour, want: access.StateDenied, why: "refused by the issuer: not allowed: no rule allows this"},
		{name: "would start outside the window", policy: office(`request.start.within("office")`), delay: 11 * time.Hour, want: access.StateDenied, why: "no rule allows this"},
		{name: "would end outside the window", policy: office(`request.start.within("office", request.duration)`), delay: 8*time.Hour + 31*time.Minute, want: access.StateDenied, why: "no rule allows this"},
		{name: "ends with the window", policy: office(`request.start.within("office", request.duration)`), delay: 8*time.Hour + 30*time.Minute, want: access.StateExpired, opened: 1},
		{name: "the window was made smaller", policy: office(`request.start.within("office")`), delay: 8 * time.Hour, want: access.StateDenied, why: "refused by the issuer: not allowed: no rule allows this",
			later: strings.Replace(office(`request.start.within("office")`), "18:00", "16:00", 1)},
	} {
		t.Run(row.name, func(t *testing.T) {
			w := newWorld(t)
			if row.policy != "" {
				w.load(row.policy)
			}
			w.ask("ssh/web-1", func(r *access.Request) {
				start := w.start.Add(row.delay)
				r.Start = &start
			})
			approved := row.opened > 0 || strings.HasPrefix(row.why, "refused by the issuer")
			if approved {
				w.at(time.Minute, func() { w.approve("bob") })
				w.at(time.Hour, func() {
					w.want(access.StateScheduled)
					if row.later != "" {
						w.load(row.later)
					}
					if row.lock {
						_, st := w.lock("trent", access.LockResource, "ssh/web-1")
						w.record(st)
					}
				})
			}
			got := w.run(row.want)
			if !strings.HasPrefix(got.Why, row.why) {
				t.Errorf("why is %q, want %q", got.Why, row.why)
			}
			if w.kind.opened != row.opened {
				t.Errorf("%d credentials were issued, want %d", w.kind.opened, row.opened)
			}
			w.ended(row.want)
		})
	}
}
