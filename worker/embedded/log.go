package embedded

import (
	"context"
	"fmt"
	"log/slog"
	"slices"

	"go.temporal.io/server/common/log"
	"go.temporal.io/server/common/log/tag"
)

// logger hands what Temporal logs to slog.
type logger struct {
	to *slog.Logger
}

var _ log.WithLogger = logger{}

// fatal is what Temporal takes to be the end of the process. It is a panic
// instead of os.Exit so that Start can turn it into an error; raised later,
// on a goroutine of Temporal's, it does end the process.
type fatal string

func (f fatal) Error() string { return string(f) }

func (l logger) log(level slog.Level, msg string, tags []tag.Tag) {
	if l.to.Enabled(context.Background(), level) {
		l.to.LogAttrs(context.Background(), level, msg, attributes(tags)...)
	}
}

func attributes(tags []tag.Tag) []slog.Attr {
	attrs := make([]slog.Attr, len(tags))
	for i, t := range tags {
		attrs[i] = slog.Any(t.Key(), t.Value())
	}
	return attrs
}

func (l logger) Debug(msg string, tags ...tag.Tag)  { l.log(slog.LevelDebug, msg, tags) }
func (l logger) Info(msg string, tags ...tag.Tag)   { l.log(slog.LevelInfo, msg, tags) }
func (l logger) Warn(msg string, tags ...tag.Tag)   { l.log(slog.LevelWarn, msg, tags) }
func (l logger) Error(msg string, tags ...tag.Tag)  { l.log(slog.LevelError, msg, tags) }
func (l logger) DPanic(msg string, tags ...tag.Tag) { l.log(slog.LevelError, msg, tags) }
func (l logger) Panic(msg string, tags ...tag.Tag)  { l.end(msg, tags) }
func (l logger) Fatal(msg string, tags ...tag.Tag)  { l.end(msg, tags) }

func (l logger) end(msg string, tags []tag.Tag) {
	l.log(slog.LevelError, msg, tags)
	for _, t := range tags {
		msg += fmt.Sprintf(", %s %v", t.Key(), t.Value())
	}
	panic(fatal("temporal: " + msg))
}

// With returns a logger that adds tags to every line.
func (l logger) With(tags ...tag.Tag) log.Logger {
	return logger{to: slog.New(l.to.Handler().WithAttrs(slices.Clip(attributes(tags))))}
}
