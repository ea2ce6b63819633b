package main

import (
	"cmp"
	"fmt"
	"html"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// plots writes a plot for each item that has lines.
func plots(r report, folder string) error {
	for item := range r.Load {
		svg, ok := plot(of(r.Rows, item))
		if !ok {
			continue
		}
		if err := os.WriteFile(filepath.Join(folder, item+".svg"), []byte(svg), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// The plot's size and the room around what is drawn, in pixels.
const (
	width, height      = 640, 320
	left, right        = 76, 16
	top, bottom        = 16, 84
	inWidth, inHeight  = width - left - right, height - top - bottom
	ink, paper, faint  = "#24292f", "#ffffff", "#d0d7de"
	font               = `font-family="system-ui, sans-serif" font-size="12"`
	lineHeight, letter = 16, 6.5
)

var colours = []string{"#0969da", "#bc4c00", "#1a7f37", "#8250df", "#6e7781", "#bf3989"}

type point struct{ x, y float64 }

type line struct {
	name   string
	points []point
}

// lines are those of the rows, by the first of these that one of them has: operations
// per second, the median, memory.
func lines(rows []row) (found []line, unit string) {
	of := func(r row) float64 { return r.PerSecond }
	for _, u := range []struct {
		name string
		of   func(row) float64
	}{
		{"per second", of},
		{"median, s", func(r row) float64 { return r.P50 }},
		{"MiB", func(r row) float64 { return r.Also["MiB"] }},
	} {
		if slices.ContainsFunc(rows, func(r row) bool { return r.Line != "" && u.of(r) > 0 }) {
			of, unit = u.of, u.name
			break
		}
	}
	for _, r := range rows {
		y := of(r)
		if r.Line == "" || y <= 0 || r.X <= 0 {
			continue
		}
		i := slices.IndexFunc(found, func(l line) bool { return l.name == r.Line })
		if i < 0 {
			found = append(found, line{name: r.Line})
			i = len(found) - 1
		}
		found[i].points = append(found[i].points, point{r.X, y})
	}
	for _, l := range found {
		slices.SortFunc(l.points, func(a, b point) int { return cmp.Compare(a.x, b.x) })
	}
	return found, unit
}

// plot draws the lines of the rows, on axes on which each step is as many times
// more. It says whether there is anything to draw.
func plot(rows []row) (string, bool) {
	all, unit := lines(rows)
	if len(all) == 0 {
		return "", false
	}
	var xs, ys []float64
	for _, l := range all {
		for _, p := range l.points {
			xs, ys = append(xs, p.x), append(ys, p.y)
		}
	}
	x, y := newScale(xs, left, inWidth), newScale(ys, height-bottom, -inHeight)
	names := legend(all)
	tall := max(height, int(names[len(names)-1].y)+lineHeight/2) // where the names need more room
	var s strings.Builder
	fmt.Fprintf(&s, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%d" height="%d" %s>`+"\n", width, tall, width, tall, font)
	fmt.Fprintf(&s, `<rect width="%d" height="%d" fill="%s"/>`+"\n", width, tall, paper)
	for v := y.low; v <= y.high*1.001; v *= 10 {
		fmt.Fprintf(&s, `<path d="M%d %.1fh%d" stroke="%s"/><text x="%d" y="%.1f" text-anchor="end" fill="%s">%s</text>`+"\n",
			left, y.at(v), inWidth, faint, left-6, y.at(v)+4, ink, number(v))
	}
	slices.Sort(xs)
	for _, v := range slices.Compact(xs) {
		fmt.Fprintf(&s, `<path d="M%.1f %dv5" stroke="%s"/><text x="%.1f" y="%d" text-anchor="middle" fill="%s">%s</text>`+"\n",
			x.at(v), height-bottom, ink, x.at(v), height-bottom+18, ink, number(v))
	}
	fmt.Fprintf(&s, `<path d="M%d %dv%dh%d" fill="none" stroke="%s"/>`+"\n", left, top, inHeight, inWidth, ink)
	fmt.Fprintf(&s, `<text x="14" y="%d" transform="rotate(-90 14 %d)" text-anchor="middle" fill="%s">%s</text>`+"\n", top+inHeight/2, top+inHeight/2, ink, unit)
	for i, l := range all {
		colour := colours[i%len(colours)]
		var d strings.Builder
		for k, p := range l.points {
			fmt.Fprintf(&d, "%c%.1f %.1f", "ML"[min(k, 1)], x.at(p.x), y.at(p.y))
			fmt.Fprintf(&s, `<circle cx="%.1f" cy="%.1f" r="3" fill="%s"/>`+"\n", x.at(p.x), y.at(p.y), colour)
		}
		fmt.Fprintf(&s, `<path d="%s" fill="none" stroke="%s" stroke-width="2"/>`+"\n", d.String(), colour)
		at := names[i]
		fmt.Fprintf(&s, `<path d="M%.1f %.1fh16" stroke="%s" stroke-width="2"/><text x="%.1f" y="%.1f" fill="%s">%s</text>`+"\n",
			at.x, at.y-4, colour, at.x+20, at.y, ink, html.EscapeString(l.name))
	}
	s.WriteString("</svg>\n")
	return s.String(), true
}

// legend says where the name of each line goes, below the axis: as many side by side as
// there is room for.
func legend(all []line) (places []point) {
	at := point{left, height - bottom + 40}
	for _, l := range all {
		long := 24 + letter*float64(len(l.name)) + 16
		if at.x+long > width && at.x > left {
			at = point{left, at.y + lineHeight}
		}
		places = append(places, at)
		at.x += long
	}
	return places
}

// scale places values on an axis that begins at a pixel and is so long.
type scale struct{ low, high, from, long float64 }

// newScale reaches from the power of ten below the values to the one above.
func newScale(values []float64, from, long float64) scale {
	low := math.Pow(10, math.Floor(math.Log10(slices.Min(values))))
	high := math.Pow(10, math.Ceil(math.Log10(slices.Max(values))))
	if high <= low {
		high = low * 10
	}
	return scale{low, high, from, long}
}

func (s scale) at(v float64) float64 {
	return s.from + s.long*math.Log10(v/s.low)/math.Log10(s.high/s.low)
}
