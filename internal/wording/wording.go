// Package wording makes what others wrote fit for a line that people read: an
// error, a log, a message. Clip and Short bound how long it is; Line takes out what
// a terminal might obey and what can't be seen. Neither knows what is secret.
package wording

import (
	"fmt"
	"strings"
	"unicode"
)

// Short is s as errors quote it: at most 80 bytes. Whatever else is wrong with it, %q
// shows.
func Short(s string) string { return Clip(s, 80) }

// Clip shortens s to at most most bytes, of which there have to be three or more.
// It cuts between characters, never inside of one, and shows by "..." that it did.
func Clip(s string, most int) string {
	const more = "..."
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most-len(more)], "") + more
}

// Line is s as one line, of valid UTF-8 that is seen for what it is: what isn't
// printable by [unicode.IsPrint], such as escape sequences, line ends and what turns
// the direction of writing, is white space, and white space is one space, with none
// at the ends. How long it is stays the caller's business.
func Line(s string) string {
	return strings.Join(strings.Fields(strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, s)), " ")
}

// Count is a number with its noun, which has to form its plural by an s: "1 rule",
// "2 rules".
func Count[N int | int64](n N, noun string) string {
	if n != 1 {
		noun += "s"
	}
	return fmt.Sprintf("%d %s", n, noun)
}
