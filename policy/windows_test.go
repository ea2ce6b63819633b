package policy

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"hallpass/access"
)

const windowed = `windows:
  office:
    zone: Europe/Berlin
    times:
      - {days: [mon, tue, wed, thu, fri], from: "08:00", to: "18:00"}
      - {days: [sat], from: "09:30", to: "12:00"}
  night:
    zone: Europe/Berlin
    times: [{days: [sat], from: "22:00", to: "04:00"}]
  small-hours:
    zone: Europe/Berlin
    times: [{from: "02:00", to: "03:00"}]
  always:
    zone: UTC
    times: [{from: "00:00", to: "24:00"}]
  new-york:
    zone: America/New_York
    times: [{days: [sun], from: "00:00", to: "06:00"}]
rules:
  - {name: r, when: 'CONDITION', approvals: none}
`

// Rows stand on both sides of each edge, and on the days on which the clocks
// are changed: Berlin 2026-03-29 02:00 to 03:00 and 2026-10-25 03:00 back to
// 02:00, New York 2026-11-01 02:00 back to 01:00.
func TestWithin(t *testing.T) {
	for _, row := range []struct {
		condition, now string
		want           bool
	}{
		{`now.within("office")`, "2026-11-27T06:59:59Z", false}, // a Friday, 07:59:59 in Berlin
		{`now.within("office")`, "2026-11-27T07:00:00Z", true},
		{`now.within("office")`, "2026-11-27T16:59:59Z", true},
		{`now.within("office")`, "2026-11-27T17:00:00Z", false},
		{`now.within("office")`, "2026-07-03T06:00:00Z", true}, // in summer an hour earlier by UTC
		{`now.within("office")`, "2026-07-03T16:00:00Z", false},
		{`now.within("office")`, "2026-11-28T08:29:00Z", false}, // Saturday
		{`now.within("office")`, "2026-11-28T08:30:00Z", true},
		{`now.within("office")`, "2026-11-29T10:00:00Z", false}, // Sunday
		{`!now.within("office")`, "2026-11-29T10:00:00Z", true},
		{`now.within("night")`, "2026-11-28T20:59:59Z", false},
		{`now.within("night")`, "2026-11-28T21:00:00Z", true},
		{`now.within("night")`, "2026-11-29T02:59:59Z", true},  // Sunday, 03:59:59
		{`now.within("night")`, "2026-11-29T03:00:00Z", false}, // Sunday, 04:00
		{`now.within("night")`, "2026-11-28T02:00:00Z", false}, // Saturday morning is Friday's night
		{`now.within("night")`, "2026-03-29T01:59:59Z", true},  // 03:59:59 summer time
		{`now.within("night")`, "2026-03-29T02:00:00Z", false},
		{`now.within("small-hours")`, "2026-03-28T01:30:00Z", true},
		{`now.within("small-hours")`, "2026-03-29T00:59:59Z", false}, // 01:59:59, and the next second is 03:00
		{`now.within("small-hours")`, "2026-03-29T01:00:00Z", false},
		{`now.within("small-hours")`, "2026-10-25T00:30:00Z", true}, // 02:30 summer time
		{`now.within("small-hours")`, "2026-10-25T01:30:00Z", true}, // 02:30 again
		{`now.within("small-hours")`, "2026-10-25T02:00:00Z", false},
		{`now.within("new-york")`, "2026-11-01T05:30:00Z", true}, // 01:30
		{`now.within("new-york")`, "2026-11-01T06:30:00Z", true}, // 01:30 again
		{`now.within("new-york")`, "2026-11-01T11:00:00Z", false},
		{`now.within("always")`, "2026-11-01T23:59:59Z", true},
		// The start that was asked for, and the whole grant.
		{`request.start.within("office")`, "2026-11-27T03:00:00Z", true}, // starts five hours later
		{`request.start.within("office", request.duration)`, "2026-11-27T03:00:00Z", true},
		{`request.start.within("office", duration("9h59m"))`, "2026-11-27T03:00:00Z", false}, // from 09:00
		{`request.start.within("office", duration("9h"))`, "2026-11-27T03:00:00Z", true},     // up to 18:00 sharp
		{`request.start.within("office", duration("9h1s"))`, "2026-11-27T03:00:00Z", false},
		{`now.within("night", duration("6h"))`, "2026-11-28T21:00:00Z", true},
		{`now.within("night", duration("6h1s"))`, "2026-11-28T21:00:00Z", false},
		{`now.within("night", duration("5h"))`, "2026-03-28T21:00:00Z", true}, // that night is an hour shorter
		{`now.within("night", duration("5h1s"))`, "2026-03-28T21:00:00Z", false},
		{`now.within("small-hours", duration("2h"))`, "2026-10-25T00:00:00Z", true}, // both times
		{`now.within("always", duration("720h"))`, "2026-10-25T00:00:00Z", true},
		{`now.within("always", duration("721h"))`, "2026-10-25T00:00:00Z", false}, // longer than any grant
		{`now.within("always", duration("-1s"))`, "2026-10-25T00:00:00Z", false},
		{`now.within("office", duration("0s"))`, "2026-11-29T10:00:00Z", false},
	} {
		p, err := Parse("policy.yaml", []byte(strings.Replace(windowed, "CONDITION", strings.ReplaceAll(row.condition, "'", "''"), 1)))
		if err != nil {
			t.Errorf("%s: %v", row.condition, err)
			continue
		}
		now, err := time.Parse(time.RFC3339, row.now)
		if err != nil {
			t.Fatal(err)
		}
		start := now.Add(5 * time.Hour)
		in := Input{Request: access.Request{Duration: 3600, Start: &start}, Now: now}
		if got := p.Decide(in); (got.Effect == access.EffectAllow) != row.want {
			t.Errorf("%s at %s: %s, want %t", row.condition, row.now, got.Why, row.want)
		}
	}
}

// A window that isn't there, or can't be, is found when the policy is read.
func TestWindowsRefused(t *testing.T) {
	rules := "rules:\n  - {name: r, when: 'true', approvals: none}\n"
	for _, row := range []struct{ file, want string }{
		{"windows: {w: {zone: Mars/Olympus, times: [{from: \"08:00\", to: \"09:00\"}]}}\n" + rules, `1:21: unknown time zone "Mars/Olympus"`},
		{"windows: {w: {zone: Local, times: [{from: \"08:00\", to: \"09:00\"}]}}\n" + rules, "unknown time zone"},
		{"windows: {w: {times: [{from: \"08:00\", to: \"09:00\"}]}}\n" + rules, "window has no zone"},
		{"windows: {w: {zone: UTC}}\n" + rules, "window has no times"},
		{"windows: {w: {zone: UTC, times: []}}\n" + rules, "times has 0 entries"},
		{"windows: {w: {zone: UTC, times: [{from: \"08:00\"}]}}\n" + rules, "times has no to"},
		{"windows: {w: {zone: UTC, times: [{from: \"08:00\", to: \"08:00\"}]}}\n" + rules, "the same"},
		{"windows: {w: {zone: UTC, times: [{from: \"24:00\", to: \"09:00\"}]}}\n" + rules, `from "24:00" is not a time`},
		{"windows: {w: {zone: UTC, times: [{from: \"8:00\", to: \"09:00\"}]}}\n" + rules, `from "8:00" is not a time`},
		{"windows: {w: {zone: UTC, times: [{from: \"08:60\", to: \"09:00\"}]}}\n" + rules, `from "08:60" is not a time`},
		{"windows: {w: {zone: UTC, times: [{from: \"08:00\", to: \"24:01\"}]}}\n" + rules, `to "24:01" is not a time`},
		{"windows: {w: {zone: UTC, times: [{from: \"-8:00\", to: \"09:00\"}]}}\n" + rules, "is not a time"},
		{"windows: {w: {zone: UTC, times: [{days: [], from: \"08:00\", to: \"09:00\"}]}}\n" + rules, "days is empty"},
		{"windows: {w: {zone: UTC, times: [{days: [monday], from: \"08:00\", to: \"09:00\"}]}}\n" + rules, `day "monday" is none of sun, mon`},
		{"windows: {w: {zone: UTC, times: [{days: [mon, mon], from: \"08:00\", to: \"09:00\"}]}}\n" + rules, "mon twice"},
		{"windows: {W: {zone: UTC, times: [{from: \"08:00\", to: \"09:00\"}]}}\n" + rules, "outside"},
		{"windows: [w]\n" + rules, "windows must be a mapping"},
		{"rules:\n  - {name: r, when: 'now.within(\"w\")', approvals: none}\n", `2:33: there is no window "w"; name it in the section windows`},
		{strings.Replace(windowed, "CONDITION", `now.within("ofice")`, 1), `there is no window "ofice"; there is always, new-york, night, office, small-hours`},
		{strings.Replace(windowed, "CONDITION", `now.within(request.ticket)`, 1), "has to be a text in quotes"},
		{strings.Replace(windowed, "CONDITION", `request.reason.within("office")`, 1), "no matching overload"},
		{strings.Replace(windowed, "CONDITION", `now.getHours("Local") > 3`, 1), `unknown time zone "Local"`},
	} {
		_, err := Parse("policy.yaml", []byte(row.file))
		if err == nil || !strings.Contains(err.Error(), row.want) {
			t.Errorf("%s\n%v, want %s", row.file, err, row.want)
		}
	}
	many := "windows:\n"
	for i := range MaxWindows + 1 {
		many += fmt.Sprintf("  w%d: {zone: UTC, times: [{from: \"08:00\", to: \"09:00\"}]}\n", i)
	}
	if _, err := Parse("policy.yaml", []byte(many+rules)); err == nil || !strings.Contains(err.Error(), "more than 100 windows") {
		t.Error(err)
	}
}

// Explain knows the windows, too.
func TestExplainWithin(t *testing.T) {
	p, err := Parse("policy.yaml", []byte(strings.Replace(windowed, "CONDITION", `now.within("office") && request.login == ""`, 1)))
	if err != nil {
		t.Fatal(err)
	}
	e, err := p.Explain(Input{Now: time.Date(2026, 11, 29, 10, 0, 0, 0, time.UTC)})
	if err != nil || e.Rules[0].Why != `not so: now.within("office")` {
		t.Errorf("%+v, %v", e, err)
	}
}
