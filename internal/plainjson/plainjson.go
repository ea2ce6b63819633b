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
// the same: in JSON it can only be in a string. Bytes that are no UTF-8 mean
// nothing in JSON, and steer some terminals: they are \ufffd.
func Escape(data []byte) []byte {
	odd := func(r rune) bool { return r != '\n' && !unicode.IsPrint(r) }
	if utf8.Valid(data) && !bytes.ContainsFunc(data, odd) {
		return data
	}
	out := make([]byte, 0, len(data)+64)
	for len(data) > 0 {
		r, n := utf8.DecodeRune(data)
		switch {
		case r == utf8.RuneError && n == 1:
			out = append(out, `\ufffd`...)
		case !odd(r):
			out = append(out, data[:n]...)
		case r <= 0xffff:
			out = fmt.Appendf(out, `\u%04x`, r)
		default:
			r -= 0x10000
			out = fmt.Appendf(out, `\u%04x\u%04x`, 0xd800+r>>10, 0xdc00+r&0x3ff)
		}
		data = data[n:]
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
