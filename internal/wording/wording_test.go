package wording

import (
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

func TestClip(t *testing.T) {
	for _, tt := range []struct {
		name, in string
		most     int
		want     string
	}{
		{"nothing", "", 5, ""},
		{"as long as may be", "abcde", 5, "abcde"},
		{"one longer", "abcdef", 5, "ab..."},
		{"the shortest", "abcdef", 3, "..."},
		{"before a character of two bytes", "abé fg", 5, "ab..."},
		{"behind it", "aé fgh", 6, "aé..."},
		{"inside it", "abé fgh", 6, "ab..."},
		{"inside one of three", "a€ fgh", 6, "a..."},
		{"inside one of four", "a🙂 fgh", 7, "a..."},
		{"behind one of four", "a🙂 fgh", 8, "a🙂..."},
		{"what is no UTF-8 isn't shown in part", "a\xffbcdefg", 6, "ab..."},
	} {
		if got := Clip(tt.in, tt.most); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
	if got, want := Short(strings.Repeat("é", 41)), strings.Repeat("é", 38)+"..."; got != want {
		t.Errorf("short: %q, want %q", got, want)
	}
	if whole := strings.Repeat("é", 40); Short(whole) != whole {
		t.Errorf("of 80 bytes: %q", Short(whole))
	}
}

func TestLine(t *testing.T) {
	for in, want := range map[string]string{
		"":                                "",
		" \t\n ":                          "",
		"as it is":                        "as it is",
		"Schlüssel für 東京 🙂":              "Schlüssel für 東京 🙂",
		"two\nlines\r\nand a\ttab":        "two lines and a tab",
		"\x1b[2J\x07gone\x00\x7f":         "[2J gone",
		"turned \u202egnp.exe\u2066 back": "turned gnp.exe back",
		"no\u200bwidth, no\u00a0break":    "no width, no break",
		"line\u2028and\u2029paragraph":    "line and paragraph",
		"private \ue000 and \u0085next":   "private and next",
		"no UTF-8: \xff\xfe, \xe2\x82":    "no UTF-8: \ufffd\ufffd, \ufffd\ufffd",
	} {
		if got := Line(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

func TestCount(t *testing.T) {
	for n, want := range map[int]string{0: "0 rules", 1: "1 rule", 2: "2 rules"} {
		if got := Count(n, "rule"); got != want {
			t.Errorf("%d: %q, want %q", n, got, want)
		}
	}
	if got := Count(int64(1)<<40, "event"); got != "1099511627776 events" {
		t.Errorf("many: %q", got)
	}
}

func FuzzWording(f *testing.F) {
	f.Add("turned \u202e\x1b[2J\xff é", 5)
	f.Fuzz(func(t *testing.T, s string, most int) {
		most = 3 + most&0xff
		line := Line(s)
		if !utf8.ValidString(line) || strings.ContainsFunc(line, func(r rune) bool { return !unicode.IsPrint(r) }) || Line(line) != line {
			t.Errorf("line of %q: %q", s, line)
		}
		clipped := Clip(s, most)
		if len(clipped) > most || len(s) <= most && clipped != s || len(s) > most && !utf8.ValidString(clipped) {
			t.Errorf("%q clipped at %d: %q", s, most, clipped)
		}
		if head, cut := strings.CutSuffix(clipped, "..."); utf8.ValidString(s) && cut && !strings.HasPrefix(s, head) {
			t.Errorf("%q clipped at %d doesn't begin with %q", s, most, head)
		}
	})
}
