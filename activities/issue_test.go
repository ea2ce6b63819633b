package activities_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"go.temporal.io/sdk/temporal"
	sdktest "go.temporal.io/sdk/testsuite"

	"hallpass/access"
	"hallpass/activities"
	"hallpass/audit"
	"hallpass/grant"
)

// asked is a ledger that says that it was asked, and nothing else.
type asked struct {
	grant.Ledger
	times int
}

func (a *asked) Locks(context.Context) (audit.Locks, error) {
	a.times++
	return audit.Locks{}, errors.New("the ledger is away")
}

// An issuer whose clock differs from that of Temporal's server doesn't look at
// what it is given, says so with both times, and is asked again.
func TestIssueWhileClocksDiffer(t *testing.T) {
	begun := time.Date(2031, 5, 6, 7, 8, 9, 0, time.UTC)
	for _, tt := range []struct {
		ahead time.Duration
		ok    bool
	}{
		{0, true},
		{access.ClockSkew, true}, {-access.ClockSkew, true},
		{access.ClockSkew + time.Nanosecond, false}, {-access.ClockSkew - time.Nanosecond, false},
		{23 * time.Hour, false}, {-23 * time.Hour, false},
		{250 * 365 * 24 * time.Hour, false}, {-250 * 365 * 24 * time.Hour, false},
	} {
		now, ledger := begun.Add(tt.ahead), &asked{}
		issuing := &activities.Issuing{
			Issuer: &grant.Issuer{Ledger: ledger, Now: func() time.Time { return now }},
			Begun:  func(context.Context) time.Time { return begun },
		}
		_, err := issuing.Issue(t.Context(), access.Evidence{})
		var app *temporal.ApplicationError
		if !errors.As(err, &app) || app.NonRetryable() || app.Type() != string(access.CodeUnavailable) || activities.Refusal(err) != nil {
			t.Fatalf("ahead by %s: %v", tt.ahead, err)
		}
		if tt.ok != (ledger.times > 0) {
			t.Errorf("ahead by %s: the ledger is asked %d times", tt.ahead, ledger.times)
		}
		if tt.ok {
			continue
		}
		text := app.Message()
		for _, part := range []string{now.Format(time.RFC3339), "2031-05-06T07:08:09Z", "NTP"} {
			if !strings.Contains(text, part) {
				t.Errorf("ahead by %s: %q doesn't say %s", tt.ahead, text, part)
			}
		}
		if err := access.CheckText("error", text, 500); err != nil {
			t.Error(err)
		}
	}
}

// By itself it compares with what Temporal says of the attempt.
func TestIssueKnowsTemporalsClock(t *testing.T) {
	var suite sdktest.WorkflowTestSuite
	for ahead, want := range map[time.Duration]int{0: 1, time.Hour: 0, -time.Hour: 0} {
		env, ledger := suite.NewTestActivityEnvironment(), &asked{}
		issuing := &activities.Issuing{Issuer: &grant.Issuer{Ledger: ledger, Now: func() time.Time { return time.Now().Add(ahead) }}}
		env.RegisterActivity(issuing)
		if _, err := env.ExecuteActivity(issuing.Issue, access.Evidence{}); err == nil || min(ledger.times, 1) != want {
			t.Errorf("ahead by %s: %v; the ledger is asked %d times", ahead, err, ledger.times)
		}
	}
}
