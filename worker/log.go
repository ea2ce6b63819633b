package worker

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync"
	"unicode"

	"hallpass/internal/plainjson"
)

// NewLog makes the log of a service: one JSON object per line, in which nothing
// steers a terminal.
func NewLog(w io.Writer) *slog.Logger {
	return slog.New(slog.NewJSONHandler(plainjson.Writer(w), nil))
}

// newTextLog makes a log for people who watch: a time of day, the message,
// and what belongs to it. Warnings and errors say so.
func newTextLog(w io.Writer, least slog.Leveler) *slog.Logger {
	return slog.New(textHandler{w: w, least: least, mu: &sync.Mutex{}})
}

type textHandler struct {
	w     io.Writer
	least slog.Leveler
	mu    *sync.Mutex // one line at a time
	attrs string      // of With, already written out
	group string      // of WithGroup, with a dot
}

func (h textHandler) Enabled(_ context.Context, level slog.Level) bool {
	return level >= h.least.Level()
}

func (h textHandler) Handle(_ context.Context, r slog.Record) error {
	var b strings.Builder
	b.WriteString(r.Time.Format("15:04:05 "))
	switch {
	case r.Level >= slog.LevelError:
		b.WriteString("error: ")
	case r.Level >= slog.LevelWarn:
		b.WriteString("warning: ")
	}
	b.WriteString(plain(r.Message))
	b.WriteString(h.attrs)
	r.Attrs(func(a slog.Attr) bool {
		b.WriteString(h.attr(a))
		return true
	})
	b.WriteByte('\n')
	h.mu.Lock()
	defer h.mu.Unlock()
	_, err := io.WriteString(h.w, b.String())
	return err
}

func (h textHandler) attr(a slog.Attr) string {
	return fmt.Sprintf(" %s%s=%s", h.group, plain(a.Key), plain(a.Value.Resolve().String()))
}

// plain quotes what could steer a terminal or pass for something else.
func plain(s string) string {
	if strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return strconv.QuoteToASCII(s)
	}
	return s
}

func (h textHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	for _, a := range attrs {
		h.attrs += h.attr(a)
	}
	return h
}

func (h textHandler) WithGroup(name string) slog.Handler {
	h.group += name + "."
	return h
}

// warnings passes on what is a warning or worse, until ctx ends. The Temporal
// SDK tells much that only its authors want to know, and, when it is being
// stopped, that it can't go on.
func warnings(ctx context.Context, log *slog.Logger) *slog.Logger {
	return slog.New(warningHandler{log.Handler(), nil, ctx.Done()})
}

// warningHandler adds what With said when there is something to say: the SDK keeps a
// logger for each workflow in memory, and a JSON handler would write it out for each.
type warningHandler struct {
	slog.Handler
	with []slog.Attr
	done <-chan struct{}
}

func (h warningHandler) Enabled(ctx context.Context, level slog.Level) bool {
	select {
	case <-h.done:
		return false
	default:
		return level >= slog.LevelWarn && h.Handler.Enabled(ctx, level)
	}
}

func (h warningHandler) Handle(ctx context.Context, r slog.Record) error {
	return h.Handler.WithAttrs(h.with).Handle(ctx, r)
}

func (h warningHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return warningHandler{h.Handler, slices.Concat(h.with, attrs), h.done}
}

func (h warningHandler) WithGroup(name string) slog.Handler {
	return warningHandler{h.Handler.WithAttrs(h.with).WithGroup(name), nil, h.done}
}
