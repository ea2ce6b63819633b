package main

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

var columns = []string{"what", "per second", "median", "p99", "beside", "ratio", "latency", "also"}

// cells are the columns of a row.
func cells(r row) []string {
	c := make([]string, len(columns))
	c[0] = r.Name
	if r.PerSecond > 0 {
		c[1] = number(r.PerSecond)
	}
	if r.P50 > 0 {
		c[2], c[3] = seconds(r.P50), seconds(r.P99)
		if r.N > 0 && r.N <= 100 { // it is the slowest one
			c[3] += fmt.Sprintf(" (of %d)", r.N)
		}
	}
	if r.Base != "" && r.Base != r.Name {
		c[4] = r.Base
		if r.Ratio > 0 {
			c[5] = fmt.Sprintf("%.2f", r.Ratio)
		}
		if r.Latency > 0 {
			c[6] = fmt.Sprintf("%.2f", r.Latency)
		}
	}
	var also []string
	for _, name := range slices.Sorted(maps.Keys(r.Also)) {
		also = append(also, number(r.Also[name])+" "+name)
	}
	c[7] = strings.Join(also, ", ")
	return c
}

// used are the columns that any of the rows has something in.
func used(rows []row) []int {
	var cols []int
	for k := range columns {
		if slices.ContainsFunc(rows, func(r row) bool { return cells(r)[k] != "" }) {
			cols = append(cols, k)
		}
	}
	return cols
}

// number writes three digits that count, and whole thousands with commas.
func number(v float64) string {
	a := math.Abs(v)
	switch {
	case a >= 1000:
		s := fmt.Sprintf("%.0f", v)
		for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
			s = s[:i] + "," + s[i:]
		}
		return s
	case a >= 100 || a == math.Trunc(a):
		return fmt.Sprintf("%.0f", v)
	case a >= 10:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.2f", v)
}

// seconds writes a time with the unit that suits it.
func seconds(s float64) string {
	switch d := time.Duration(s * float64(time.Second)); {
	case d >= time.Second:
		return number(s) + " s"
	case d >= time.Millisecond:
		return number(s*1e3) + " ms"
	default:
		return number(s*1e6) + " µs"
	}
}

// table prints rows for people.
func table(w io.Writer, rows []row) {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	cols := used(rows)
	line := func(values []string) {
		for _, k := range cols {
			_, _ = fmt.Fprint(tw, "  ", values[k], "\t")
		}
		_, _ = fmt.Fprintln(tw)
	}
	line(columns)
	for _, r := range rows {
		line(cells(r))
	}
	_ = tw.Flush() // to a terminal
}

// markdown is a table for the documentation.
func markdown(rows []row) string {
	var s strings.Builder
	cols := used(rows)
	line := func(values []string) {
		for _, k := range cols {
			s.WriteString("| " + cmp.Or(values[k], " ") + " ")
		}
		s.WriteString("|\n")
	}
	line(columns)
	s.WriteString(strings.Repeat("|---", len(cols)) + "|\n")
	for _, r := range rows {
		line(cells(r))
	}
	return s.String()
}

// document puts the figures of a run between the marks of its items in a page,
// and leaves alone what it hasn't measured:
//
//	<!-- bench:ca -->
//	…
//	<!-- bench -->
func document(r report, page, folder string) error {
	data, err := os.ReadFile(page)
	if err != nil {
		return err
	}
	text := string(data)
	for item, load := range r.Load {
		rows := of(r.Rows, item)
		mark := regexp.MustCompile(`(?s)<!-- bench:` + item + ` -->\n.*?<!-- bench -->`)
		if !mark.MatchString(text) {
			return fmt.Errorf("%s has no place for %s", page, item)
		}
		var s strings.Builder
		fmt.Fprintf(&s, "<!-- bench:%s -->\n%s", item, markdown(rows))
		if _, ok := plot(rows); ok {
			fmt.Fprintf(&s, "\n![%s](%s/%s.svg)\n", title(item), filepath.Base(folder), item)
		}
		fmt.Fprintf(&s, "\n`%s`: version %s on %s, %s, load %.1f.\n<!-- bench -->", r.Command, r.Version, r.When.Format(time.DateOnly), r.Machine, load)
		text = mark.ReplaceAllLiteralString(text, s.String())
	}
	if err := os.WriteFile(page, []byte(text), 0o644); err != nil {
		return err
	}
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return err
	}
	return plots(r, folder)
}

func of(rows []row, item string) (some []row) {
	for _, r := range rows {
		if r.Item == item {
			some = append(some, r)
		}
	}
	return some
}

func title(item string) string {
	for _, i := range items {
		if i.name == item {
			return i.title
		}
	}
	return item
}
