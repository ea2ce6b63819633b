package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/urfave/cli/v2"

	"hallpass/access"
)

func testRoot() *cli.App {
	return &cli.App{
		Name:  "hallpass",
		Flags: []cli.Flag{&cli.StringFlag{Name: "config", Aliases: []string{"c"}}, &cli.StringFlag{Name: "output", Aliases: []string{"o"}}},
		Commands: []*cli.Command{
			{Name: "request", Aliases: []string{"r"}, Flags: []cli.Flag{
				&cli.StringFlag{Name: "for"}, &cli.StringFlag{Name: "reason"},
				&cli.StringSliceFlag{Name: "action"}, &cli.BoolFlag{Name: "no-wait"},
			}},
			{Name: "audit", Subcommands: []*cli.Command{
				{Name: "export", Flags: []cli.Flag{&cli.StringFlag{Name: "output"}}},
			}},
		},
	}
}

func TestArrange(t *testing.T) {
	for _, tt := range []struct {
		name string
		in   string
		want string // or the error
	}{
		{"nothing", "", ""},
		{"flag before", "request --for 1h ssh/db1", "request --for 1h -- ssh/db1"},
		{"flag after", "request ssh/db1 --for 1h", "request --for 1h -- ssh/db1"},
		{"flags on both sides", "request --no-wait ssh/db1 --for=1h", "request --no-wait --for=1h -- ssh/db1"},
		{"single dash", "request ssh/db1 -for 1h", "request -for 1h -- ssh/db1"},
		{"repeated", "request --action a ssh/db1 --action b", "request --action a --action b -- ssh/db1"},
		{"bool takes no word", "request --no-wait ssh/db1", "request --no-wait -- ssh/db1"},
		{"bool with value", "request --no-wait=false ssh/db1", "request --no-wait=false -- ssh/db1"},
		{"value like a flag", "request ssh/db1 --reason --for", "request --reason --for -- ssh/db1"},
		{"value like a terminator", "request --reason -- ssh/db1", "request --reason -- -- ssh/db1"},
		{"negative value", "request ssh/db1 --for -5m", "request --for -5m -- ssh/db1"},
		{"alias of a command", "r ssh/db1 --for 1h", "request --for 1h -- ssh/db1"},
		{"program's flag behind", "request ssh/db1 --output json", "--output json request -- ssh/db1"},
		{"program's flag by alias", "request -o json", "-o json request"},
		{"program's flag in front", "--config x request ssh/db1", "--config x request -- ssh/db1"},
		{"inner flag wins", "audit export --output f", "audit export --output f"},
		{"outer flag where meant", "--output json audit export", "--output json audit export"},
		{"terminator", "request ssh/db1 -- --for 1h", "request -- ssh/db1 --for 1h"},
		{"second terminator is an argument", "request -- a -- b", "request -- a -- b"},
		{"lone dash is an argument", "request - --for 1h", "request --for 1h -- -"},
		{"argument named as a command", "request request", "request -- request"},
		{"help is nobody's flag", "request ssh/db1 --help", "request -- ssh/db1"},
		{"unknown flag", "request ssh/db1 --fro 1h", "hallpass request has no flag --fro"},
		{"flag of another command", "audit export --for 1h", "hallpass audit export has no flag --for"},
		{"missing value", "request ssh/db1 --for", "flag --for needs a value"},
		{"unknown command", "reqest ssh/db1", "no command hallpass reqest"},
		{"unknown subcommand", "audit exprot", "no command hallpass audit exprot"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l, err := parseLine(testRoot(), strings.Fields(tt.in))
			var got []string
			if err == nil {
				got, err = l.arrange()
			}
			if err != nil {
				if err.Error() != tt.want {
					t.Fatalf("error %q, want %q", err, tt.want)
				}
				if exitCode(err) != ExitUsage {
					t.Errorf("exit code %d, want %d", exitCode(err), ExitUsage)
				}
				return
			}
			if s := strings.Join(got, " "); s != tt.want {
				t.Errorf("got  %s\nwant %s", s, tt.want)
			}
		})
	}
}

func TestSafe(t *testing.T) {
	for in, want := range map[string]string{
		"plain, with ümlaut 日本 🎉": "plain, with ümlaut 日本 🎉",
		"\x1b[31mred":             `\x1b[31mred`,
		"a\r\nb\tc":               `a\x0d\nb\tc`,
		"\x07\x00\x7f":            `\x07\x00\x7f`,
		"\u009b2J":                `\u009b2J`,
		"abc\u202edef":            `abc\u202edef`,
		"zero\u200bwidth":         `zero\u200bwidth`,
		"bad\xff\xfeutf8":         `bad\xff\xfeutf8`,
		"tag\U000e0041":           `tag\U000e0041`,
	} {
		if got := safe(in); got != want {
			t.Errorf("safe(%q) = %s, want %s", in, got, want)
		}
	}
}

func TestPrintfEscapesEveryArgument(t *testing.T) {
	const evil = "x\x1b]0;owned\x07"
	type name string
	for _, arg := range []any{evil, name(evil), errors.New(evil), []string{evil}, struct{ S string }{evil}, &struct{ S string }{evil}, access.State(evil), bytes.NewBufferString(evil)} {
		var buf bytes.Buffer
		p := newPrinter(&buf, noEnv)
		p.Printf("%v\n", arg)
		p.table([]string{"A", "B"}, [][]any{{arg, "b"}})
		p.fields("a", arg)
		if strings.ContainsAny(buf.String(), "\x1b\x07") {
			t.Errorf("%T: %q steers the terminal", arg, buf.String())
		}
	}
}

func TestJSONIsSafe(t *testing.T) {
	var buf bytes.Buffer
	if err := newPrinter(&buf, noEnv).json("\x1b \u009b \u202e \U000e0041 <ok> ü"); err != nil {
		t.Fatal(err)
	}
	if got, want := buf.String(), `"\u001b \u009b \u202e \udb40\udc41 <ok> ü"`+"\n"; got != want {
		t.Errorf("got %s want %s", got, want)
	}
}

func TestTable(t *testing.T) {
	var buf bytes.Buffer
	p := newPrinter(&buf, noEnv)
	p.color = true
	p.table([]string{"ID", "STATE", "WHY"}, [][]any{{"1", p.state(access.StateActive), "süß"}, {"22", "", "x"}})
	want := "\x1b[1mID\x1b[0m  \x1b[1mSTATE\x1b[0m   \x1b[1mWHY\x1b[0m\n1   \x1b[32mactive\x1b[0m  süß\n22  -       x\n"
	if diff := cmp.Diff(want, buf.String()); diff != "" {
		t.Error(diff)
	}
}

func noEnv(string) string { return "" }

// run runs hallpass as a shell would.
func run(args ...string) (code int, stdout, stderr string) {
	var out, err bytes.Buffer
	code = Main(context.Background(), args, strings.NewReader(""), &out, &err, noEnv)
	return code, out.String(), err.String()
}

func TestMainUsage(t *testing.T) {
	for _, tt := range []struct {
		args   string
		code   int
		stderr string
	}{
		{"nosuch", ExitUsage, "hallpass: no command hallpass nosuch\n"},
		{"versoin", ExitUsage, "  try: hallpass version\n"},
		{"version x", ExitUsage, "hallpass: unexpected argument x\n"},
		{"version --x", ExitUsage, "hallpass: hallpass version has no flag --x\n  try: hallpass version --help\n"},
		{"version --output xml", ExitUsage, "hallpass: --output is xml, not text or json\n"},
		{"completion", ExitUsage, "hallpass: bash|zsh|fish is missing\n"},
		{"completion tcsh", ExitUsage, "hallpass: no completion for tcsh\n"},
		{"completion bash", ExitOK, ""},
		{"version", ExitOK, ""},
		{"--help", ExitOK, ""},
		{"version --help", ExitOK, ""},
		{"", ExitOK, ""},
		{"help", ExitOK, ""},
		{"help version", ExitOK, ""},
		{"help nosuch", ExitUsage, "no command hallpass nosuch"},
		{"request ssh/web-1 --help", ExitOK, ""},
	} {
		code, stdout, stderr := run(strings.Fields(tt.args)...)
		if code != tt.code || !strings.Contains(stderr, tt.stderr) || code == 0 && (stderr != "" || stdout == "") || code != 0 && stdout != "" {
			t.Errorf("%q: exit %d, stdout %q, stderr %q", tt.args, code, stdout, stderr)
		}
	}
}

// Whoever asks for help with a command finds out what there is below it.
func TestHelpNamesWhatIsBelow(t *testing.T) {
	root := (&app{out: newPrinter(io.Discard, noEnv), err: newPrinter(io.Discard, noEnv)}).root()
	parents := 0
	var visit func(path []string, c *cli.Command)
	visit = func(path []string, c *cli.Command) {
		path = append(slices.Clone(path), c.Name)
		if len(c.Subcommands) > 0 {
			parents++
		}
		_, help, _ := run(append(path, "--help")...)
		for _, s := range c.Subcommands {
			if !regexp.MustCompile(`(?m)^ +` + s.Name + ` +` + regexp.QuoteMeta(s.Usage[:8])).MatchString(help) {
				t.Errorf("hallpass %s --help doesn't name %s:\n%s", strings.Join(path, " "), s.Name, help)
			}
			visit(path, s)
		}
	}
	for _, c := range root.Commands {
		visit(nil, c)
	}
	if parents < 5 {
		t.Errorf("%d commands have others below them", parents)
	}
}

func TestComplete(t *testing.T) {
	for line, want := range map[string]string{
		"ver":                  "version\n",
		"version --ou":         "--output\n",
		"version --output ":    "json\ntext\n",
		"completion ":          "bash\nfish\nzsh\n",
		"completion b":         "bash\n",
		"completion bash ":     "",
		"nosuch --x ":          "",
		"version -o json --co": "--config\n",
	} {
		words := strings.Split(line, " ")
		code, stdout, stderr := run(append(words, completeFlag)...)
		if code != 0 || stdout != want || stderr != "" {
			t.Errorf("%q: exit %d, %q, stderr %q; want %q", line, code, stdout, stderr, want)
		}
	}
}

func TestExitCode(t *testing.T) {
	for _, tt := range []struct {
		err  error
		want int
	}{
		{nil, ExitOK},
		{errors.New("x"), ExitError},
		{usagef("x"), ExitUsage},
		{fmt.Errorf("wrapped: %w", failf(ExitTimedOut, "x")), ExitTimedOut},
		{access.Errorf(access.CodeMalformed, "x"), ExitUsage},
		{access.Errorf(access.CodeDenied, "x"), ExitDenied},
		{access.Errorf(access.CodeLimited, "x"), ExitDenied},
		{access.Errorf(access.CodeUnavailable, "x"), ExitUnreachable},
		{access.Errorf(access.CodeForbidden, "x"), ExitRefused},
		{access.Errorf(access.CodeDuplicate, "x"), ExitRefused},
		{access.Errorf(access.CodeMismatch, "x"), ExitRefused},
		{access.Errorf(access.CodeStale, "x"), ExitRefused},
		{access.Errorf(access.CodeUnverified, "x"), ExitRefused},
		{access.Errorf(access.CodeEnded, "x"), ExitRefused},
		{access.Errorf(access.CodeDeaf, "x"), ExitRefused},
		{access.Errorf(access.CodeNotFound, "x"), ExitNotFound},
		{failf(ExitRefused, "%w", access.Errorf(access.CodeMalformed, "x")), ExitRefused},
	} {
		if got := exitCode(tt.err); got != tt.want {
			t.Errorf("%v: exit code %d, want %d", tt.err, got, tt.want)
		}
	}
}

func TestReport(t *testing.T) {
	var buf bytes.Buffer
	a := &app{err: newPrinter(&buf, noEnv)}
	a.report(fmt.Errorf("approve: %w", access.Errorf(access.CodeForbidden, "evil\x1b[2J").WithHint("ask %s", "bob")))
	if got, want := buf.String(), "hallpass: approve: evil\\x1b[2J\n  try: ask bob\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

type brokenWriter struct{ err error }

func (b brokenWriter) Write([]byte) (int, error) { return 0, b.err }

func TestOutputFails(t *testing.T) {
	var stderr bytes.Buffer
	code := Main(context.Background(), []string{"version"}, strings.NewReader(""), brokenWriter{errors.New("disk full")}, &stderr, noEnv)
	if code != ExitError || stderr.String() != "hallpass: write output: disk full\n" {
		t.Errorf("exit %d, stderr %q", code, stderr.String())
	}
}
