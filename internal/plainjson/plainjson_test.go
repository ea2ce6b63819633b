package plainjson

import (
	"encoding/json"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"unicode"
)

const evil = "a\n\x1b[2J\x7f\u009b31m\u0085\u202e\u2028\u2066\U000e0041 ü 漢 \u00ad\u200b\ufeff <&>"

// A log line is one line, steers nothing, and says what it was told to.
func TestLog(t *testing.T) {
	var out strings.Builder
	log := slog.New(slog.NewJSONHandler(Writer(&out), nil))
	log.Info(evil, evil, evil, "error", errors.New(evil), "bytes", []byte(evil), "any", map[string]string{evil: evil})
	line := strings.TrimSuffix(out.String(), "\n")
	if i := strings.IndexFunc(line, func(r rune) bool { return !unicode.IsPrint(r) }); i >= 0 {
		t.Errorf("%q at %d of %q", line[i:min(i+4, len(line))], i, line)
	}
	if !strings.Contains(line, "ü 漢") || !strings.Contains(line, `\u009b31m\u0085\u202e\u2028\u2066\udb40\udc41`) {
		t.Error(line)
	}
	var got map[string]any
	if err := json.Unmarshal([]byte(line), &got); err != nil {
		t.Fatal(err)
	}
	if got["msg"] != evil || got[evil] != evil || got["error"] != evil || got["any"].(map[string]any)[evil] != evil {
		t.Errorf("%q", got)
	}
}

func TestEscape(t *testing.T) {
	for in, want := range map[string]string{
		"":                      "",
		"{\n  \"a\": \"ü\"\n}":  "{\n  \"a\": \"ü\"\n}",
		"\"\x7f\u0080\u00a0\"":  `"\u007f\u0080\u00a0"`,
		"\"\U0001f600\u200d\"":  "\"\U0001f600\\u200d\"",
		"\"\U0010ffff\\u202e\"": `"\udbff\udfff\u202e"`,
		"\"\xff\"":              `"\ufffd"`,
		"\"\x9b31m\"":           `"\ufffd31m"`,
		"\"ü\xc3\"":             `"ü\ufffd"`,
		"\"\xe2\x80\"":          `"\ufffd\ufffd"`,
		"\"\ufffd\"":            "\"\ufffd\"", // somebody's own
	} {
		if got := string(Escape([]byte(in))); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

type broken struct{}

func (broken) Write([]byte) (int, error) { return 0, errors.New("full") }

func TestWriter(t *testing.T) {
	if n, err := Writer(broken{}).Write([]byte("x")); n != 0 || err == nil {
		t.Errorf("%d, %v", n, err)
	}
	var out strings.Builder
	if n, err := Writer(&out).Write([]byte("\u202e")); n != 3 || err != nil || out.String() != `\u202e` {
		t.Errorf("%d, %v, %q", n, err, out.String())
	}
}
