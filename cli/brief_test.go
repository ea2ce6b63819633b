package cli

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"hallpass/access"
)

func TestUnusual(t *testing.T) {
	day := make([]int, 24) // nine to five
	for h := 9; h < 17; h++ {
		day[h] = 2
	}
	known := access.Past{Grants: 4, Longest: 3600, Asked: 16, Hours: day}
	at := func(clock string) time.Time {
		v, err := time.Parse("15:04", clock)
		check(t, err)
		return time.Date(2026, 3, 2, v.Hour(), v.Minute(), 0, 0, time.UTC)
	}
	night := at("02:30")
	odd := func(clock string) string {
		return "at " + clock + " UTC; none of 16 requests before was made around that time"
	}
	for name, c := range map[string]struct {
		past  access.Past
		for_  access.Seconds
		start *time.Time
		now   string
		want  []string
	}{
		"as always":          {known, 3600, nil, "12:00", nil},
		"an hour early":      {known, 3600, nil, "08:00", nil},
		"an hour late":       {known, 3600, nil, "17:59", nil},
		"two hours early":    {known, 3600, nil, "07:59", []string{odd("07:59")}},
		"two hours late":     {known, 3600, nil, "18:00", []string{odd("18:00")}},
		"starts at night":    {known, 3600, &night, "00:30", []string{odd("02:30")}},
		"longer":             {known, 3601, nil, "12:00", []string{"longer than any grant before it"}},
		"never here":         {access.Past{Asked: 16, Hours: day}, 60, nil, "12:00", []string{"the first time for alice on ssh/web-1"}},
		"never anywhere":     {access.Past{}, 60, nil, "03:00", []string{"the first request of alice on record"}},
		"too few to compare": {access.Past{Grants: 1, Longest: 60, Asked: 9, Hours: day}, 60, nil, "03:00", nil},
		"both":               {known, 7200, nil, "03:00", []string{"longer than any grant before it", odd("03:00")}},
		"garbled":            {access.Past{Grants: 1, Longest: 60, Asked: 99, Hours: []int{1}}, 60, nil, "03:00", nil},
	} {
		t.Run(name, func(t *testing.T) {
			req := access.Request{Resource: "ssh/web-1", Duration: c.for_, Start: c.start}
			req.Signer = "alice"
			if diff := cmp.Diff(c.want, unusual(c.past, req, at(c.now))); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// An approver sees who, what, how long, why, by which rule, the hash that is
// signed and the files it is judged by, what there was before, and what is left.
func TestApproversSeeWhatTheySign(t *testing.T) {
	w := newWorld(t)
	id := w.ask("ssh/web-1 --as deploy --for 2h --reason disk_full --ticket OPS-7")
	s := w.service.requests[id]
	was := w.now.Now().Add(-26 * time.Hour)
	s.Past = &access.Past{Grants: 2, Longest: 1800, Asked: 3, Last: []access.PastGrant{
		{Request: id, Login: "root", From: was, Until: was.Add(10 * time.Minute), Ended: access.StateReleased, ApprovedBy: []string{"carol\x1b[2J"}},
	}}
	digests := s.Standing.Ruling.Digests
	r := w.as("bob").must("approve --for 30m " + id)
	for _, want := range []string{
		"alice wants ssh/web-1 as deploy for 2h\n", "disk full", "OPS-7", "production", "1 approval from sre",
		"\n  leaves       30m of the 2h asked for, narrowed by you\n",
		"\n  before       2 grants of ssh/web-1, the longest for 30m, by the service's word\n",
		" as root for 10m, released, approved by carol\\x1b[2J\n",
		"\n  unusual      longer than any grant before it\n",
		"\n  signs        the request sha256:" + s.Evidence.Request.Hash() + "\n",
		"\n  policy       " + digests.Policy + "\n", "\n  directory    " + digests.Directory + "\n", "\n  catalog      " + digests.Catalog + "\n",
		"a key of alice, verified",
	} {
		if !strings.Contains(r.stdout, want) {
			t.Errorf("approve doesn't show %q:\n%s", want, r.stdout)
		}
	}
	// One block, and the time of the first ruling isn't that of the last.
	id = w.as("alice").ask("ssh/web-1 --as deploy --for 2h --reason x")
	w.now.advance(time.Minute)
	w.service.requests[id].Standing.Ruling.At = w.now.Now()
	if r := w.must("show " + id); !strings.Contains(r.stdout, "  first asked  sre\n  longest      8h\n") {
		t.Errorf("show prints\n%s", r.stdout)
	}
	if r := w.as("bob").must("deny " + id); strings.Contains(r.stdout, "leaves") || !strings.Contains(r.stdout, "signs ") {
		t.Errorf("deny shows %s", r.stdout)
	}
}

func TestLeaves(t *testing.T) {
	voice := func(signer string, v access.Verdict, d access.Seconds) access.Voice {
		return access.Voice{Signer: signer, Verdict: v, Duration: d}
	}
	for name, c := range map[string]struct {
		voices []access.Voice
		mine   access.Seconds
		want   string
	}{
		"all of it":             {nil, 0, ""},
		"all of it, said":       {nil, 7200, ""},
		"mine":                  {nil, 600, "10m of the 2h asked for, narrowed by you"},
		"another's":             {[]access.Voice{voice("bob", access.Approve, 0), voice("carol", access.Approve, 1800)}, 0, "30m of the 2h asked for, narrowed by carol"},
		"another's, less":       {[]access.Voice{voice("carol", access.Approve, 1800)}, 3600, "30m of the 2h asked for, narrowed by carol"},
		"mine, less":            {[]access.Voice{voice("carol", access.Approve, 1800)}, 1799, "29m59s of the 2h asked for, narrowed by you"},
		"a denial says nothing": {[]access.Voice{voice("carol", access.Deny, 60)}, 0, ""},
	} {
		t.Run(name, func(t *testing.T) {
			s := access.Status{Standing: access.Standing{Voices: c.voices}}
			if got := leaves(s, access.Request{Duration: 7200}, c.mine); got != c.want {
				t.Errorf("%q, want %q", got, c.want)
			}
		})
	}
}
