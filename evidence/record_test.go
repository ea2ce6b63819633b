package evidence

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"hallpass/access"
)

// What the record bars is denied, whoever would have been asked; what is denied
// already stays so, for its own reason.
func TestBar(t *testing.T) {
	end := asked.Add(time.Hour)
	running := &access.Extended{Request: "r0", Begin: asked, End: end}
	taken := &access.Extended{Request: "r0", Begin: asked, End: end, By: "r2"}
	full := access.Errorf(access.CodeLimited, "alice has 2 grants running")
	standing := func(effect access.Effect, x *access.Extended) access.Standing {
		return access.Standing{
			Effect: effect, Why: "as judged", Missing: []access.Set{{Count: 1, Groups: []string{"sre"}}}, Duration: 60,
			Request: access.Request{Header: access.Header{ID: "r1"}}, Extends: x,
		}
	}
	for _, tt := range []struct {
		name    string
		effect  access.Effect
		extends *access.Extended
		limited error
		now     time.Time
		why     string // "": nothing bars it
		code    access.Code
	}{
		{"nothing", access.EffectAllow, nil, nil, asked, "", ""},
		{"no room", access.EffectAllow, nil, full, asked, "alice has 2 grants running", ""},
		{"no room, and people would be asked", access.EffectAsk, nil, full, asked, "alice has 2 grants running", ""},
		{"no room, and denied", access.EffectDeny, nil, full, asked, "", ""},
		{"a grant that runs", access.EffectAsk, running, nil, end.Add(-1), "", ""},
		{"a grant that has ended", access.EffectAsk, running, nil, end, "the grant of request r0 has ended at " + end.Format(time.RFC3339), access.CodeEnded},
		{"a grant extended before", access.EffectAllow, taken, nil, asked, "the grant of request r0 was extended before, by request r2", access.CodeEnded},
		{"both", access.EffectAllow, taken, full, asked, "the grant of request r0 was extended before, by request r2", access.CodeEnded},
		{"a grant that has ended, and denied", access.EffectDeny, running, nil, end, "", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			want := standing(tt.effect, tt.extends)
			if tt.why != "" {
				want.Effect, want.Why, want.Missing, want.Duration = access.EffectDeny, tt.why, nil, 0
			}
			got, code := Bar(standing(tt.effect, tt.extends), tt.limited, tt.now)
			if diff := cmp.Diff(want, got); diff != "" || code != tt.code {
				t.Errorf("code %q, want %q; standing (-want +got):\n%s", code, tt.code, diff)
			}
		})
	}
}

func TestCheckDeadline(t *testing.T) {
	for late, want := range map[time.Duration]access.Code{-time.Second: "", 0: "", time.Second: access.CodeEnded} {
		d := access.Decision{Header: access.Header{Time: asked.Add(late)}}
		if err := CheckDeadline(d, asked); access.CodeOf(err) != want {
			t.Errorf("signed %s after it: %v, want %q", late, err, want)
		}
	}
}
