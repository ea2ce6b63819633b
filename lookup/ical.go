package lookup

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"hallpass/internal/wording"
)

// maxEvents bounds how many events of a calendar are looked at, and maxShift
// how long one of them may be. Together they bound what a calendar costs: of
// one that recurs only the turns that can still be on are looked at.
const (
	maxEvents = 5000
	maxShift  = 62 * 24 * time.Hour
)

// calendar reads who is on call from an iCalendar (RFC 5545): whoever attends
// an event of this moment, or, where nobody does, whose name its summary is. What we
// don't understand of an event fails: to be taken for on call by mistake would
// be worse.
func (p people) calendar(body []byte, now time.Time) (any, error) {
	lines := unfold(string(body))
	if len(lines) == 0 || lines[0].name != "BEGIN" || !strings.EqualFold(lines[0].value, "VCALENDAR") {
		return nil, failf("its answer is not an iCalendar")
	}
	var users []string
	var e *event
	count, inside := 0, 0 // of something inside an event, such as an alarm
	for _, l := range lines {
		switch {
		case l.name == "BEGIN" && e != nil:
			inside++
		case l.name == "END" && e != nil && inside > 0:
			inside--
		case l.name == "BEGIN" && strings.EqualFold(l.value, "VEVENT"):
			if count++; count > maxEvents {
				return nil, failf("its calendar has more than %d events", maxEvents)
			}
			e = &event{}
		case l.name == "END" && e != nil:
			on, err := e.at(now)
			if err != nil {
				return nil, err
			}
			if on {
				users = append(users, p.of(e)...)
			}
			e = nil
		case e != nil && inside == 0:
			if err := e.take(l); err != nil {
				return nil, err
			}
		}
	}
	if e != nil {
		return nil, failf("its calendar ends inside an event")
	}
	seen := map[string]bool{}
	users = slices.DeleteFunc(users, func(u string) bool {
		was := seen[u]
		seen[u] = true
		return was
	})
	return onCall(users), nil
}

// of are the people of an event.
func (p people) of(e *event) (out []string) {
	for _, who := range e.attendees {
		if name, ok := p.name(who); ok {
			out = append(out, name)
		}
	}
	if len(out) > 0 {
		return out
	}
	summary := strings.TrimSpace(e.summary)
	if name, ok := p.name(summary); ok {
		return []string{name}
	}
	return nil
}

// property is one line of a calendar.
type property struct {
	name   string
	params map[string]string
	value  string
}

// unfold splits a calendar into its lines (RFC 5545, section 3.1).
func unfold(text string) (out []property) {
	text = strings.ReplaceAll(strings.TrimPrefix(text, "\ufeff"), "\r\n", "\n")
	text = strings.NewReplacer("\n ", "", "\n\t", "").Replace(text)
	for line := range strings.SplitSeq(text, "\n") {
		// The value begins behind the first colon outside quotes.
		quoted, at := false, -1
		for i := 0; i < len(line) && at < 0; i++ {
			switch {
			case line[i] == '"':
				quoted = !quoted
			case line[i] == ':' && !quoted:
				at = i
			}
		}
		if at < 0 {
			continue
		}
		head := strings.Split(line[:at], ";")
		p := property{name: strings.ToUpper(head[0]), params: map[string]string{}, value: line[at+1:]}
		for _, param := range head[1:] {
			k, v, _ := strings.Cut(param, "=")
			p.params[strings.ToUpper(k)] = strings.Trim(v, `"`)
		}
		out = append(out, p)
	}
	return out
}

// event is a VEVENT, as far as it matters.
type event struct {
	start, end time.Time
	long       time.Duration // by DURATION; end is zero
	days       bool          // start is a date
	summary    string
	attendees  []string
	rule       *recurrence
	except     []time.Time
	cancelled  bool
}

func (e *event) take(p property) (err error) {
	switch p.name {
	case "DTSTART":
		e.start, err = moment(p)
		e.days = len(p.value) == len("20060102")
	case "DTEND":
		e.end, err = moment(p)
	case "DURATION":
		e.long, err = duration(p.value)
	case "SUMMARY":
		e.summary = strings.NewReplacer(`\,`, ",", `\;`, ";", `\\`, `\`, `\n`, " ", `\N`, " ").Replace(p.value)
	case "ATTENDEE":
		if len(p.value) > len("mailto:") && strings.EqualFold(p.value[:len("mailto:")], "mailto:") {
			e.attendees = append(e.attendees, p.value[len("mailto:"):])
		}
	case "STATUS":
		e.cancelled = strings.EqualFold(p.value, "CANCELLED")
	case "RRULE":
		e.rule, err = parseRecurrence(p.value)
	case "EXDATE":
		for v := range strings.SplitSeq(p.value, ",") {
			t, err := moment(property{params: p.params, value: v})
			if err != nil {
				return err
			}
			e.except = append(e.except, t)
		}
	case "RDATE", "EXRULE", "RECURRENCE-ID":
		err = failf("its calendar has %s, which is not understood", p.name)
	}
	return err
}

// moment reads a DATE or DATE-TIME. One without a zone would be another moment
// for each reader.
func moment(p property) (time.Time, error) {
	bad := failf("its calendar has a time that is not understood")
	zone := time.UTC
	if id := p.params["TZID"]; id != "" {
		z, err := time.LoadLocation(strings.TrimPrefix(id, "/"))
		if err != nil || id == "Local" {
			return time.Time{}, failf("its calendar has a time zone that is not known")
		}
		zone = z
	}
	value, utc := strings.CutSuffix(p.value, "Z")
	switch {
	case len(value) == len("20060102") && !utc:
		t, err := time.ParseInLocation("20060102", value, zone)
		if err != nil {
			return t, bad
		}
		return t, nil
	case !utc && p.params["TZID"] == "":
		return time.Time{}, failf("its calendar has a time without a zone")
	}
	t, err := time.ParseInLocation("20060102T150405", value, zone)
	if err != nil {
		return t, bad
	}
	return t, nil
}

func tooLong() error {
	return failf("its calendar has an event of more than %d days", maxShift/(24*time.Hour))
}

// duration reads a DURATION of weeks, or of days, hours, minutes and seconds.
func duration(s string) (total time.Duration, err error) {
	bad := failf("its calendar has a duration that is not understood")
	rest, ok := strings.CutPrefix(s, "P")
	if !ok || rest == "" || len(s) > 32 {
		return 0, bad
	}
	units := map[byte]time.Duration{'W': 7 * 24 * time.Hour, 'D': 24 * time.Hour}
	for rest != "" {
		if rest[0] == 'T' {
			units, rest = map[byte]time.Duration{'H': time.Hour, 'M': time.Minute, 'S': time.Second}, rest[1:]
			continue
		}
		i := strings.IndexFunc(rest, func(c rune) bool { return c < '0' || c > '9' })
		if i <= 0 || i > 6 || units[rest[i]] == 0 {
			return 0, bad
		}
		n, err := strconv.Atoi(rest[:i])
		if err != nil {
			return 0, bad
		}
		if time.Duration(n) > (maxShift-total)/units[rest[i]] {
			return 0, tooLong() // before it is longer than a Duration can be
		}
		total, rest = total+time.Duration(n)*units[rest[i]], rest[i+1:]
	}
	return total, nil
}

// recurrence is an RRULE that comes round every so many days.
type recurrence struct {
	days  int // 7 for a week
	count int // 0: for ever
	until time.Time
}

func parseRecurrence(s string) (*recurrence, error) {
	r := &recurrence{}
	every := 1
	for part := range strings.SplitSeq(s, ";") {
		k, v, _ := strings.Cut(part, "=")
		n, err := strconv.Atoi(v)
		switch strings.ToUpper(k) {
		case "FREQ":
			r.days = map[string]int{"DAILY": 1, "WEEKLY": 7}[strings.ToUpper(v)]
			err = nil
		case "INTERVAL":
			every = n
		case "COUNT":
			r.count = n
		case "UNTIL":
			if r.until, err = moment(property{value: v}); len(v) == len("20060102") {
				r.until = r.until.AddDate(0, 0, 1).Add(-time.Second)
			}
		case "WKST":
			err = nil // matters with BYDAY alone
		default:
			return nil, failf("its calendar has events that recur by %s, which is not understood", wording.Short(wording.Line(k)))
		}
		if err != nil || every < 1 || every > 1000 || r.count < 0 {
			return nil, failf("its calendar has a recurrence that is not understood")
		}
	}
	if r.days *= every; r.days == 0 {
		return nil, failf("its calendar has events that recur otherwise than daily or weekly, which is not understood")
	}
	return r, nil
}

// at says whether the event is on at now.
func (e *event) at(now time.Time) (bool, error) {
	if e.start.IsZero() {
		return false, failf("its calendar has an event without a beginning")
	}
	if e.cancelled {
		return false, nil
	}
	long := e.long
	switch {
	case !e.end.IsZero():
		long = e.end.Sub(e.start)
	case long == 0 && e.days:
		long = 24 * time.Hour
	}
	on := func(days int) bool { // after it was first
		start := e.start.AddDate(0, 0, days)
		end := start.Add(long)
		if !e.end.IsZero() { // by the wall clock, so a day stays a day when clocks change
			end = e.end.AddDate(0, 0, days)
		}
		return !now.Before(start) && now.Before(end) && !slices.ContainsFunc(e.except, start.Equal)
	}
	if long > maxShift {
		return false, tooLong()
	}
	if e.rule == nil {
		return on(0), nil
	}
	// A day may be an hour or two shorter or longer than 24, so begin two early.
	// A Duration holds 292 years and no more, so this is in seconds.
	passed := int((now.Unix() - e.start.Unix() - int64(long/time.Second)) / (24 * 60 * 60))
	for turn := max(0, passed/e.rule.days-2); e.rule.count == 0 || turn < e.rule.count; turn++ {
		days := turn * e.rule.days
		start := e.start.AddDate(0, 0, days)
		if start.After(now) || !e.rule.until.IsZero() && start.After(e.rule.until) {
			return false, nil
		}
		if on(days) {
			return true, nil
		}
	}
	return false, nil
}
