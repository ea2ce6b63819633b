package policy

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"cel.dev/cel-go/cel"
	celast "cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"

	"hallpass/access"
	"hallpass/internal/wording"
)

// Caps on windows.
const (
	MaxWindows = 100
	MaxTimes   = 32 // in one window
)

// window is a recurring time, such as office hours: by the wall clock of a
// zone. What the wall clock skips in spring is in none, and what it shows twice
// in autumn is in both times.
type window struct {
	zone  *time.Location
	times []times
}

// times are hours of some days, in minutes from midnight. Where to isn't after
// from, they go on over midnight and belong to the day on which they begin.
type times struct {
	days     [7]bool // by time.Weekday
	from, to int
}

// has says whether t is in the window.
func (w window) has(t time.Time) bool {
	wall := t.In(w.zone)
	day, minute := int(wall.Weekday()), wall.Hour()*60+wall.Minute()
	for _, x := range w.times {
		switch {
		case x.from < x.to:
			if x.days[day] && x.from <= minute && minute < x.to {
				return true
			}
		case x.days[day] && minute >= x.from, x.days[(day+6)%7] && minute < x.to:
			return true
		}
	}
	return false
}

// holds says whether all of the time from t on, so long, is in the window. It
// looks at every minute: zones differ from UTC by whole ones.
func (w window) holds(t time.Time, long time.Duration) bool {
	if long < 0 || long > access.MaxGrant {
		return false
	}
	for at := t; at.Before(t.Add(long)); at = at.Truncate(time.Minute).Add(time.Minute) {
		if !w.has(at) {
			return false
		}
	}
	return w.has(t)
}

// weekdays are the days as the file names them, by time.Weekday.
var weekdays = []string{"sun", "mon", "tue", "wed", "thu", "fri", "sat"}

// windows reads the section of that name.
func (r *reader) windows(n node) map[string]window {
	out := map[string]window{}
	r.each(n, "windows", func(name string, at, v node) {
		r.check(at, access.CheckName("window", name))
		if _, ok := out[name]; ok {
			r.fail(at, "window %q is there already", wording.Short(name))
		}
		if len(out) == MaxWindows {
			r.fail(at, "more than %d windows", MaxWindows)
			return
		}
		w := window{zone: time.UTC}
		r.object(v, "window", fields{
			"zone": func(v node) {
				zone, err := location(r.text(v, "zone"))
				if err != nil {
					r.fail(v, "%v", err)
					return
				}
				w.zone = zone
			},
			"times": func(v node) {
				items := r.list(v, "times")
				if len(items) == 0 || len(items) > MaxTimes {
					r.fail(v, "times has %d entries, not 1 to %d", len(items), MaxTimes)
					return
				}
				for _, item := range items {
					w.times = append(w.times, r.times(item))
				}
			},
		}, "zone", "times")
		out[name] = w
	})
	return out
}

func (r *reader) times(n node) (x times) {
	every := true
	r.object(n, "times", fields{
		"days": func(v node) {
			every = false
			items := r.list(v, "days")
			if len(items) == 0 {
				r.fail(v, "days is empty; leave it out for every day")
			}
			for _, item := range items {
				name := r.text(item, "day")
				day := slices.Index(weekdays, name)
				switch {
				case day < 0:
					r.fail(item, "day %q is none of %s", wording.Short(name), strings.Join(weekdays, ", "))
				case x.days[day]:
					r.fail(item, "days has %s twice", name)
				default:
					x.days[day] = true
				}
			}
		},
		"from": func(v node) { x.from = r.minute(v, "from", 24*60-1) },
		"to":   func(v node) { x.to = r.minute(v, "to", 24*60) },
	}, "from", "to")
	if every {
		x.days = [7]bool{true, true, true, true, true, true, true}
	}
	if x.from == x.to {
		r.fail(n, "from and to are the same; all day is from \"00:00\" to \"24:00\"")
	}
	return x
}

// minute reads a time of the day, such as "08:30", as minutes from midnight.
func (r *reader) minute(n node, what string, most int) int {
	s := r.text(n, what)
	var h, m int
	if _, err := fmt.Sscanf(s, "%2d:%2d", &h, &m); err == nil && s == fmt.Sprintf("%02d:%02d", h, m) && m < 60 && h*60+m <= most && h >= 0 && m >= 0 {
		return h*60 + m
	}
	if s != "" {
		r.fail(n, "%s %q is not a time of the day such as \"08:30\"", what, wording.Short(s))
	}
	return 0
}

// location is a time zone that is the same on every machine.
func location(name string) (*time.Location, error) {
	zone, err := time.LoadLocation(name)
	if err != nil || name == "" || name == "Local" {
		return nil, fmt.Errorf("unknown time zone %q", wording.Short(name))
	}
	return zone, nil
}

// within is the function by which conditions ask: t.within("w"), whether a
// moment is in the window of that name, and t.within("w", d), whether all the
// time from t on, d long, is.
const within = "within"

func (c *compiler) withinFunction() cel.EnvOption {
	find := func(name ref.Val) (window, bool) {
		s, _ := name.(types.String)
		w, ok := c.windows[string(s)]
		return w, ok
	}
	return cel.Function(within,
		cel.MemberOverload("timestamp_within_string", []*cel.Type{cel.TimestampType, cel.StringType}, cel.BoolType,
			cel.BinaryBinding(func(at, name ref.Val) ref.Val {
				w, ok := find(name)
				t, isTime := at.(types.Timestamp)
				if !ok || !isTime {
					return types.NewErr("there is no such window")
				}
				return types.Bool(w.has(t.Time))
			})),
		cel.MemberOverload("timestamp_within_string_duration", []*cel.Type{cel.TimestampType, cel.StringType, cel.DurationType}, cel.BoolType,
			cel.FunctionBinding(func(args ...ref.Val) ref.Val {
				w, ok := find(args[1])
				t, isTime := args[0].(types.Timestamp)
				d, isLong := args[2].(types.Duration)
				if !ok || !isTime || !isLong {
					return types.NewErr("there is no such window")
				}
				return types.Bool(w.holds(t.Time, d.Duration))
			})),
	)
}

// windowed finds windows that the policy doesn't have. Their names have to
// stand there in full, so that a misspelt one is found when the policy is read.
func (c *compiler) windowed(a *celast.AST) []complaint {
	n := notes{source: a.SourceInfo()}
	visit(a, func(e celast.Expr) {
		if e.Kind() != celast.CallKind || e.AsCall().FunctionName() != within || len(e.AsCall().Args()) == 0 {
			return
		}
		arg := e.AsCall().Args()[0]
		name, ok := literal(arg)
		if !ok {
			n.say(arg, "the name of a window has to be a text in quotes")
		} else if _, ok := c.windows[name]; !ok {
			n.say(arg, "there is no window %q; %s", wording.Short(name), c.known())
		}
	})
	return n.out
}

// known names the windows that there are.
func (c *compiler) known() string {
	if len(c.windows) == 0 {
		return "name it in the section windows"
	}
	return "there is " + strings.Join(slices.Sorted(maps.Keys(c.windows)), ", ")
}
