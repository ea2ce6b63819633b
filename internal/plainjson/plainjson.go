// Package plainjson makes JSON that is safe to look at: encoding/json and
// log/slog leave most of what steers a terminal or turns a line around, from
// U+007F on, as it is.
package plainjson

import (
	"bytes"
	"fmt"
	"io"
	"unicode"
	"unicode/utf8"
)

// Escape writes what isn't printable, line ends aside, as \u escapes, which mean
// the same: in JSON it can only be in a string.
func Escape(data []byte) []byte {
	odd := func(r rune) bool { return r != '\n' && !unicode.IsPrint(r) }
	if !bytes.ContainsFunc(data, odd) {
		return data
	}
	out := make([]byte, 0, len(data)+64)
	for _, r := range string(data) {
		switch {
		case !odd(r):
			out = utf8.AppendRune(out, r)
		case r <= 0xffff:
			out = fmt.Appendf(out, `\u%04x`, r)
		default:
			r -= 0x10000
			out = fmt.Appendf(out, `\u%04x\u%04x`, 0xd800+r>>10, 0xdc00+r&0x3ff)
		}
	}
	return out
}

// Writer is for what writes whole characters each time, as slog's handlers do
// with whole lines.
func Writer(w io.Writer) io.Writer { return writer{w} }

type writer struct{ to io.Writer }

func (w writer) Write(data []byte) (int, error) {
	if _, err := w.to.Write(Escape(data)); err != nil {
		return 0, err
	}
	return len(data), nil
}
