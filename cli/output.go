package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"regexp"
	"strings"
	"syscall"
	"time"
	"unicode"
	"unicode/utf8"

	"golang.org/x/term"

	"hallpass/access"
	"hallpass/internal/plainjson"
)

// printer writes text for people. Whatever is passed as an argument is
// escaped, because most of it was written by somebody else; only format
// strings and values of type markup reach the terminal as they are.
type printer struct {
	w     io.Writer
	tty   bool
	color bool
	zone  *time.Location
	err   error // the first error of w
}

func newPrinter(w io.Writer, env func(string) string) *printer {
	tty := terminal(w)
	zone := time.Local
	if tz := env("TZ"); tz != "" {
		if z, err := time.LoadLocation(strings.TrimPrefix(tz, ":")); err == nil {
			zone = z
		}
	}
	return &printer{
		w: w, tty: tty, zone: zone,
		color: tty && env("NO_COLOR") == "" && env("TERM") != "dumb",
	}
}

// Write lets others write to the printer as they are: help texts, command
// output. It keeps the first error.
func (p *printer) Write(b []byte) (int, error) {
	if p.err != nil {
		return 0, p.err
	}
	n, err := p.w.Write(b)
	p.err = err
	return n, err
}

// width is how many columns the terminal has.
func (p *printer) width() int {
	if f, ok := p.w.(*os.File); ok {
		if w, _, err := term.GetSize(int(f.Fd())); err == nil && w > 20 {
			return w
		}
	}
	return 80
}

// failed is the first error in writing. A reader who has seen enough, as head
// does, is not an error.
func (p *printer) failed() error {
	if p.err == nil || errors.Is(p.err, syscall.EPIPE) {
		return nil
	}
	return fmt.Errorf("write output: %w", p.err)
}

// Printf formats as fmt does, with strings, errors and everything that
// formats itself made safe. Use %s rather than %q.
func (p *printer) Printf(format string, args ...any) {
	clean := make([]any, len(args))
	for i, arg := range args {
		clean[i] = cleaned(arg)
	}
	_, _ = fmt.Fprintf(p, format, clean...) // kept in p.err
}

// markup is text that may steer the terminal: ours.
type markup string

func cleaned(arg any) any {
	switch x := arg.(type) {
	case nil:
		return arg
	case markup:
		return string(x)
	case string:
		return safe(x)
	case error:
		return safe(x.Error())
	case fmt.Stringer:
		return safe(x.String())
	}
	switch k := reflect.ValueOf(arg).Kind(); {
	case k >= reflect.Bool && k <= reflect.Complex128:
		return arg
	default:
		return safe(fmt.Sprint(arg))
	}
}

// safe makes s fit for a terminal: one line, nothing invisible, nothing that
// moves the cursor or turns the direction of writing. What isn't printable is
// written as Go writes it in a string.
func safe(s string) string {
	plain := true
	for _, r := range s {
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			plain = false
			break
		}
	}
	if plain {
		return s
	}
	var b strings.Builder
	for len(s) > 0 {
		r, n := utf8.DecodeRuneInString(s)
		switch {
		case r == utf8.RuneError && n == 1:
			fmt.Fprintf(&b, `\x%02x`, s[0])
		case unicode.IsPrint(r):
			b.WriteRune(r)
		case r == '\n':
			b.WriteString(`\n`)
		case r == '\t':
			b.WriteString(`\t`)
		case r < 0x80:
			fmt.Fprintf(&b, `\x%02x`, r)
		case r <= 0xffff:
			fmt.Fprintf(&b, `\u%04x`, r)
		default:
			fmt.Fprintf(&b, `\U%08x`, r)
		}
		s = s[n:]
	}
	return b.String()
}

// json writes v indented. Characters that could steer a terminal, which
// encoding/json leaves alone above U+001F, are written as \u escapes.
func (p *printer) json(v any) error {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(v); err != nil {
		return fmt.Errorf("encode output: %w", err)
	}
	_, _ = p.Write(plainjson.Escape(buf.Bytes())) // kept in p.err
	return nil
}

var sgr = regexp.MustCompile("\x1b\\[[0-9;]*m")

func (p *printer) style(code, s string) markup {
	if !p.color {
		return markup(safe(s))
	}
	return markup("\x1b[" + code + "m" + safe(s) + "\x1b[0m")
}

func (p *printer) bold(s string) markup { return p.style("1", s) }
func (p *printer) dim(s string) markup  { return p.style("2", s) }

// state writes a state in the colour of what it means for the requester.
func (p *printer) state(s access.State) markup {
	switch s {
	case access.StateActive:
		return p.style("32", string(s))
	case access.StateDenied, access.StateTimedOut, access.StateRevoked:
		return p.style("31", string(s))
	case access.StatePending, access.StateScheduled, access.StateIssuing, access.StateRevoking:
		return p.style("33", string(s))
	}
	return markup(safe(string(s)))
}

// table writes rows in columns under a header. Cells are cleaned as Printf's
// arguments are; an empty cell is a dash.
func (p *printer) table(header []string, rows [][]any) {
	text := make([][]string, 0, len(rows)+1)
	head := make([]string, len(header))
	for i, h := range header {
		head[i] = string(p.bold(h))
	}
	text = append(text, head)
	for _, row := range rows {
		cells := make([]string, len(row))
		for i, c := range row {
			if cells[i] = fmt.Sprint(cleaned(c)); cells[i] == "" {
				cells[i] = "-"
			}
		}
		text = append(text, cells)
	}
	width := make([]int, len(header))
	for _, row := range text {
		for i, c := range row {
			width[i] = max(width[i], visible(c))
		}
	}
	for _, row := range text {
		var b strings.Builder
		for i, c := range row {
			b.WriteString(c)
			if i < len(row)-1 {
				b.WriteString(strings.Repeat(" ", width[i]-visible(c)+2))
			}
		}
		_, _ = io.WriteString(p, b.String()+"\n") // kept in p.err
	}
}

// fields writes pairs of a name and a value, one a line, the values aligned.
// Pairs with an empty value are left out.
func (p *printer) fields(pairs ...any) {
	width := 0
	for i := 0; i+1 < len(pairs); i += 2 {
		if fmt.Sprint(pairs[i+1]) != "" {
			width = max(width, len(pairs[i].(string)))
		}
	}
	for i := 0; i+1 < len(pairs); i += 2 {
		if value := fmt.Sprint(cleaned(pairs[i+1])); value != "" {
			p.Printf("  %s%s  %s\n", p.dim(pairs[i].(string)), strings.Repeat(" ", width-len(pairs[i].(string))), markup(value))
		}
	}
}

func visible(s string) int { return utf8.RuneCountInString(sgr.ReplaceAllString(s, "")) }

// at writes a time in the local zone and how far from now it is.
func (p *printer) at(t, now time.Time) string {
	return p.clock(t) + " (" + relative(t, now) + ")"
}

// clock writes a time in the local zone.
func (p *printer) clock(t time.Time) string {
	return t.In(p.zone).Format("2006-01-02 15:04:05 MST")
}

// relative says how far t is from now, in at most two units.
func relative(t, now time.Time) string {
	d := t.Sub(now)
	switch {
	case d >= time.Second:
		return "in " + coarse(d)
	case d > -time.Second:
		return "now"
	}
	return coarse(-d) + " ago"
}

// coarse writes a duration without what nobody reads: seconds above an hour,
// minutes above a day.
func coarse(d time.Duration) string {
	switch {
	case d >= 24*time.Hour:
		d = d.Round(time.Hour)
	case d >= time.Hour:
		d = d.Round(time.Minute)
	}
	return access.ShortDuration(d)
}
