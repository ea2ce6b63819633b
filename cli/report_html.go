package cli

import (
	"cmp"
	_ "embed"
	"fmt"
	"html/template"
	"slices"
	"strconv"
	"strings"
	"time"

	"hallpass/audit"
)

//go:embed report.html
var reportPage string

// page is a report as the template has it. Everything in it is text or a
// number, which the template escapes where it stands.
type page struct {
	Review     audit.Review
	From, To   string
	Checkpoint string
	Had, Not   []pageRow
	Legend     []legend
	Plots      []plot
	Tallies    []pageTally
}

type pageRow struct {
	ID, Who, What, From, Until, Word, Use, End, Because, Why string
	Escalated                                                int
	Emergency                                                bool
}

type pageTally struct {
	Title  string
	Header []string
	Rows   [][]any
}

// plot is a bar chart. Its unit is a pixel at the size it is drawn for.
type plot struct {
	Title         string
	Width, Height float64
	Bars          []bar
	Marks         []label
	Lines         []float64 // heights of the grid
	Right         float64   // where those end
}

type bar struct {
	X, Y, Width, Height float64
	Kind                string // of outcomes
	Tip                 string
}

// label is text in a plot.
type label struct {
	X, Y   float64
	Anchor string // start, middle or end
	Text   string
}

type legend struct{ Kind, Text string }

func (a *app) reportHTML(review audit.Review) error {
	t, err := template.New("report").Funcs(template.FuncMap{
		"px": func(f float64) string { return strconv.FormatFloat(f, 'f', 1, 64) },
	}).Parse(reportPage)
	if err != nil {
		return fmt.Errorf("report: %w", err)
	}
	p := page{
		Review: review, From: a.out.clock(review.From), To: a.out.clock(review.To), Checkpoint: checkpointLine(review),
		Legend: outcomes,
		Tallies: []pageTally{
			{"Always approved, so candidates for automatic", []string{"Rule", "Resource", "Requests", "Users", "Approvers", "Waited (median)"}, candidateRows(review)},
			{"By user", tallyHeader("User"), tallyRows(review.Users)},
			{"By resource", tallyHeader("Resource"), tallyRows(review.Resources)},
		},
		Plots: []plot{a.plotDays(review), a.plotHours(review), plotTop("Most asked for", review.Resources), plotTop("Who asked most", review.Users)},
	}
	for _, r := range review.Requests {
		row := pageRow{
			ID: safe(r.Request), Who: safe(r.Requester), What: safe(reviewedWhat(r)), Word: safe(reviewedWord(r)), Use: reviewedUse(r),
			End: safe(reviewedEnd(r)), Why: safe(reviewedWhy(r)), Escalated: r.Escalated, Emergency: r.Emergency,
		}
		if r.Granted() {
			row.From, row.Until = a.out.clock(r.From), a.out.clock(r.Until)
			p.Had = append(p.Had, row)
		} else {
			row.From, row.End, row.Word, row.Because = a.out.clock(r.Asked), string(r.State), safe(reviewedNo(r)), safe(reviewedBecause(r))
			p.Not = append(p.Not, row)
		}
	}
	if err := t.Execute(a.out, p); err != nil {
		return fmt.Errorf("report: %w", err)
	}
	return nil
}

// The kinds of bars, from the bottom up.
var outcomes = []legend{
	{Kind: "approved", Text: "approved"}, {Kind: "automatic", Text: "automatic"}, {Kind: "denied", Text: "denied"},
	{Kind: "timed-out", Text: "timed out"}, {Kind: "cancelled", Text: "cancelled or open"}, {Kind: "emergency", Text: "break-glass"},
}

// outcome is the index in outcomes of what became of a request.
func outcome(r audit.Reviewed) int {
	switch {
	case r.Emergency:
		return 5
	case r.Automatic:
		return 1
	case r.Granted():
		return 0
	case r.DeniedBy != "":
		return 2
	case r.State == "timed-out":
		return 3
	}
	return 4
}

// column is one stack of bars.
type column struct {
	label string
	count [6]int
}

func (c column) sum() (n int) {
	for _, v := range c.count {
		n += v
	}
	return n
}

// plotDays is how many requests were made when: by day, week or month, so that
// there are at most about 60 bars.
func (a *app) plotDays(review audit.Review) plot {
	zone := a.out.zone
	from, to := review.From.In(zone), review.To.In(zone)
	begin := time.Date(from.Year(), from.Month(), from.Day(), 0, 0, 0, 0, zone)
	next := func(t time.Time) time.Time { return t.AddDate(0, 0, 1) }
	what := "day"
	switch days := int(to.Sub(from).Hours() / 24); {
	case days > 420:
		what, begin = "month", time.Date(from.Year(), from.Month(), 1, 0, 0, 0, 0, zone)
		next = func(t time.Time) time.Time { return t.AddDate(0, 1, 0) }
	case days > 60:
		what = "week"
		begin = begin.AddDate(0, 0, -(int(begin.Weekday())+6)%7)
		next = func(t time.Time) time.Time { return t.AddDate(0, 0, 7) }
	}
	const most = 1200 // a hundred years
	var columns []column
	var ends []time.Time
	for t := begin; t.Before(to) && len(columns) < most; t = next(t) {
		columns = append(columns, column{label: t.Format("2 Jan")})
		if what == "month" {
			columns[len(columns)-1].label = t.Format("Jan 2006")
		}
		ends = append(ends, next(t))
	}
	for _, r := range review.Requests {
		if r.Asked.Before(review.From) || !r.Asked.Before(review.To) {
			continue
		}
		if i, _ := slices.BinarySearchFunc(ends, r.Asked, func(end, t time.Time) int {
			if end.After(t) {
				return 1
			}
			return -1
		}); i < len(columns) {
			columns[i].count[outcome(r)]++
		}
	}
	return upright("Requests by "+what, columns, max(1, (len(columns)+7)/8))
}

// plotHours is at what time of the day requests were made.
func (a *app) plotHours(review audit.Review) plot {
	columns := make([]column, 24)
	for h := range columns {
		columns[h].label = fmt.Sprintf("%02d", h)
	}
	for _, r := range review.Requests {
		if !r.Asked.Before(review.From) && r.Asked.Before(review.To) {
			columns[r.Asked.In(a.out.zone).Hour()].count[outcome(r)]++
		}
	}
	return upright("Requests by hour of the day", columns, 3)
}

// upright draws stacks from left to right, and labels each so many.
func upright(title string, columns []column, each int) plot {
	const left, top, width, height, foot = 40, 12, 660, 150, 24
	p := plot{Title: title, Width: left + width + 10, Height: top + height + foot, Right: left + width}
	most := 1
	for _, c := range columns {
		most = max(most, c.sum())
	}
	step := niceStep(most)
	most = (most + step - 1) / step * step
	for v := 0; v <= most; v += step {
		y := top + height*(1-float64(v)/float64(most))
		p.Lines = append(p.Lines, y)
		p.Marks = append(p.Marks, label{X: left - 6, Y: y + 4, Anchor: "end", Text: strconv.Itoa(v)})
	}
	pitch := float64(width) / float64(max(1, len(columns)))
	for i, c := range columns {
		x, y := left+float64(i)*pitch, float64(top+height)
		for kind, n := range c.count {
			if n == 0 {
				continue
			}
			h := height * float64(n) / float64(most)
			y -= h
			p.Bars = append(p.Bars, bar{X: x + pitch*0.1, Y: y, Width: pitch * 0.8, Height: h, Kind: outcomes[kind].Kind,
				Tip: fmt.Sprintf("%s: %d %s", c.label, n, outcomes[kind].Text)})
		}
		if i%each == 0 {
			p.Marks = append(p.Marks, label{X: x + pitch/2, Y: top + height + 16, Anchor: "middle", Text: c.label})
		}
	}
	return p
}

// plotTop is the ten names with the most requests.
func plotTop(title string, of []audit.Tally) plot {
	const left, top, width, pitch, foot = 190, 6, 480, 22, 6
	of = slices.Clone(of)
	slices.SortStableFunc(of, func(a, b audit.Tally) int { return cmp.Compare(b.Requests, a.Requests) })
	of = of[:min(len(of), 10)]
	p := plot{Title: title, Width: left + width + 50, Height: float64(top + pitch*len(of) + foot)}
	most := 1
	for _, t := range of {
		most = max(most, t.Requests)
	}
	for i, t := range of {
		y := float64(top + i*pitch)
		name := safe(t.Name)
		if r := []rune(name); len(r) > 24 {
			name = string(r[:23]) + "…"
		}
		p.Marks = append(p.Marks, label{X: left - 8, Y: y + 14, Anchor: "end", Text: name},
			label{X: left + width*float64(t.Requests)/float64(most) + 6, Y: y + 14, Anchor: "start", Text: strconv.Itoa(t.Requests)})
		x := float64(left)
		rest := t.Requests - t.Granted - t.Denied - t.TimedOut
		for kind, n := range []int{t.Granted - t.Automatic - t.Emergency, t.Automatic, t.Denied, t.TimedOut, rest, t.Emergency} {
			if n <= 0 {
				continue
			}
			w := width * float64(n) / float64(most)
			p.Bars = append(p.Bars, bar{X: x, Y: y + 3, Width: w, Height: pitch - 6, Kind: outcomes[kind].Kind,
				Tip: fmt.Sprintf("%s: %d %s", name, n, outcomes[kind].Text)})
			x += w
		}
	}
	return p
}

// niceStep is a step of the grid that makes at most five lines up to most.
func niceStep(most int) int {
	for unit := 1; ; unit *= 10 {
		for _, by := range []int{1, 2, 5} {
			if most <= 5*by*unit {
				return by * unit
			}
		}
	}
}

// Names are the headers in the case of text.
func (t pageTally) Names() []string {
	out := make([]string, len(t.Header))
	for i, h := range t.Header {
		out[i] = strings.ToUpper(h[:1]) + strings.ToLower(h[1:])
	}
	return out
}
