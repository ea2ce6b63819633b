package access

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"regexp"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

func wantError(t *testing.T, err error, want string) {
	t.Helper()
	got := ""
	if err != nil {
		got = err.Error()
		if CodeOf(err) != CodeMalformed {
			t.Errorf("code %q", CodeOf(err))
		}
	}
	if got != want {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

func TestCheckText(t *testing.T) {
	invisible := func(r rune) string { return fmt.Sprintf("f contains the control or invisible character %U", r) }
	for _, tt := range []struct{ name, in, want string }{
		{"nothing", "", ""},
		{"ten", "0123456789", ""},
		{"eleven", "0123456789x", "f is longer than 10 bytes"},
		{"ten bytes in seven runes", "grö ö😀", "f is longer than 10 bytes"},
		{"umlaut and emoji", "ö ü 😀", ""},
		{"combining", "e\u0301", ""},
		{"right to left", "שלום", ""},
		{"not UTF-8", "a\xff", "f is not valid UTF-8"},
		{"half a surrogate", "\xed\xa0\x80", "f is not valid UTF-8"},
		{"line end", "a\nb", invisible('\n')},
		{"carriage return", "a\rb", invisible('\r')},
		{"tab", "a\tb", invisible('\t')},
		{"zero", "\x00", invisible(0)},
		{"just below space", "\x1f", invisible(0x1f)},
		{"space", " ", ""},
		{"tilde", "~", ""},
		{"delete", "\x7f", invisible(0x7f)},
		{"C1", "\u009b", invisible(0x9b)},
		{"no-break space", "\u00a0", ""},
		{"soft hyphen", "\u00ad", invisible(0xad)},
		{"zero width", "\u200b", invisible(0x200b)},
		{"right-to-left override", "\u202e", invisible(0x202e)},
		{"isolate", "\u2066", invisible(0x2066)},
		{"line separator", "\u2028", invisible(0x2028)},
		{"paragraph separator", "\u2029", invisible(0x2029)},
		{"byte order mark", "\ufeff", invisible(0xfeff)},
		{"private use", "\ue000", invisible(0xe000)},
		{"tag", "\U000e0041", invisible(0xe0041)},
	} {
		t.Run(tt.name, func(t *testing.T) { wantError(t, CheckText("f", tt.in, 10), tt.want) })
	}
}

func TestCheckNames(t *testing.T) {
	name := func(s string) error { return CheckName("user", s) }
	x := func(n int) string { return strings.Repeat("x", n) }
	const nameSet, loginSet, resSet = "a-z 0-9 . _ @ + -", "a-z A-Z 0-9 . _ -", "a-z 0-9 . _ -"
	for _, tt := range []struct {
		name  string
		check func(string) error
		in    string
		want  string
	}{
		{"name", name, "alice", ""},
		{"name with all", name, "a.b_c@d+e-f9", ""},
		{"name of digits", name, "007", ""},
		{"name of 63", name, x(63), ""},
		{"name of 64", name, x(64), "user is longer than 63 bytes"},
		{"empty name", name, "", "user is empty"},
		{"name in upper case", name, "Alice", `user "Alice" has a character outside ` + nameSet},
		{"name with umlaut", name, "jörg", `user "jörg" has a character outside ` + nameSet},
		{"name with Cyrillic a", name, "\u0430lice", `user "аlice" has a character outside ` + nameSet},
		{"name with slash", name, "a/b", `user "a/b" has a character outside ` + nameSet},
		{"name with comma", name, "a,b", `user "a,b" has a character outside ` + nameSet},
		{"name with line end", name, "a\n", `user "a\n" has a character outside ` + nameSet},
		{"name with zero", name, "a\x00", `user "a\x00" has a character outside ` + nameSet},
		{"name with dash in front", name, "-a", `user "-a" does not begin with a letter or digit`},
		{"name with dot in front", name, ".a", `user ".a" does not begin with a letter or digit`},
		{"name with underscore in front", name, "_a", `user "_a" does not begin with a letter or digit`},

		{"login", CheckLogin, "deploy", ""},
		{"login in upper case", CheckLogin, "Administrator", ""},
		{"login with underscore in front", CheckLogin, "_apt", ""},
		{"login of 63", CheckLogin, "_" + x(62), ""},
		{"login of 64", CheckLogin, "_" + x(63), "login is longer than 63 bytes"},
		{"empty login", CheckLogin, "", "login is empty"},
		{"login with at", CheckLogin, "a@b", `login "a@b" has a character outside ` + loginSet},
		{"login with plus", CheckLogin, "a+b", `login "a+b" has a character outside ` + loginSet},
		{"login as option", CheckLogin, "-l", `login "-l" does not begin with a letter or digit`},

		{"resource", CheckResource, "ssh/web-1", ""},
		{"resource of 63", CheckResource, x(63) + "/" + x(63), ""},
		{"kind of 64", CheckResource, x(64) + "/a", "resource kind is longer than 63 bytes"},
		{"resource of 64", CheckResource, "ssh/" + x(64), "resource name is longer than 63 bytes"},
		{"no slash", CheckResource, "web-1", `resource "web-1" is not of the form kind/name, such as ssh/web-1`},
		{"no kind", CheckResource, "/web-1", "resource kind is empty"},
		{"no name", CheckResource, "ssh/", "resource name is empty"},
		{"two slashes", CheckResource, "ssh/a/b", `resource name "a/b" has a character outside ` + resSet},
		{"parent", CheckResource, "ssh/..", `resource name ".." does not begin with a letter or digit`},
		{"kind with dash", CheckResource, "a-b/c", `resource kind "a-b" has a character outside a-z 0-9`},
		{"name with at", CheckResource, "ssh/a@b", `resource name "a@b" has a character outside ` + resSet},
	} {
		t.Run(tt.name, func(t *testing.T) { wantError(t, tt.check(tt.in), tt.want) })
	}
}

// What can't be a name is quoted short in the error.
func TestCheckPath(t *testing.T) {
	const notPath = " is not a path: it has to be names with one slash between, such as database/creds"
	const outside = " has a character outside a-z A-Z 0-9 . _ -"
	x := strings.Repeat("x", MaxPath)
	for _, tt := range []struct{ in, want string }{
		{"database/creds", ""},
		{"a", ""},
		{"Team_1/k8s.prod/creds-ro", ""},
		{x, ""},
		{x + "x", "path is longer than 256 bytes"},
		{"", `path ""` + notPath},
		{"/a", `path "/a"` + notPath},
		{"a/", `path "a/"` + notPath},
		{"a//b", `path "a//b"` + notPath},
		{"a/../b", `path "a/../b"` + notPath},
		{"a/./b", `path "a/./b"` + notPath},
		{"a/.../b", `path "a/.../b"` + notPath},
		{"a/..b", ""},
		{"a/*", `path "a/*"` + outside},
		{"a/+/b", `path "a/+/b"` + outside},
		{"a/{{x}}", `path "a/{{x}}"` + outside},
		{"a b", `path "a b"` + outside},
		{"a?b=c", `path "a?b=c"` + outside},
		{"a%2fb", `path "a%2fb"` + outside},
		{"a\nb", `path "a\nb"` + outside},
		{"ä", `path "ä"` + outside},
	} {
		wantError(t, CheckPath("path", tt.in), tt.want)
	}
}

func TestCheckWith(t *testing.T) {
	with := func(n int) map[string]string {
		m := map[string]string{}
		for i := range n {
			m[fmt.Sprintf("p%d", i)] = "x"
		}
		return m
	}
	one := func(name, value string) map[string]string { return map[string]string{name: value} }
	x := strings.Repeat("x", MaxValue)
	for _, tt := range []struct {
		in   map[string]string
		want string
	}{
		{nil, ""},
		{with(0), ""},
		{with(MaxWith), ""},
		{with(MaxWith + 1), "more than 32 parameters"},
		{one("kubernetes_namespace", "a b,c=d'e"), ""},
		{one("a", x), ""},
		{one("a", x+"x"), "parameter a is longer than 1000 bytes"},
		{one("a", ""), "parameter a is empty; leave it out instead"},
		{one("", "x"), "parameter is empty"},
		{one("A", "x"), `parameter "A" has a character outside a-z 0-9 _`},
		{one("a-b", "x"), `parameter "a-b" has a character outside a-z 0-9 _`},
		{one("_a", "x"), `parameter "_a" does not begin with a letter or digit`},
		{one("a", "x\ny"), "parameter a contains the control or invisible character U+000A"},
		{one("a", "x*"), `parameter a contains "*", which means something else in Vault's policies`},
		{one("a", "{{identity.entity.name}}"), `parameter a contains "{", which means something else in Vault's policies`},
		{one("a", `say "x"`), `parameter a contains "\"", which means something else in Vault's policies`},
		{one("a", `x\y`), `parameter a contains "\\", which means something else in Vault's policies`},
	} {
		wantError(t, CheckWith(tt.in), tt.want)
	}
}

func TestVaultPath(t *testing.T) {
	r := Resource{Path: "database/creds", Roles: map[string]VaultRole{"read": {Role: "orders-ro"}}}
	if got := r.VaultPath("read"); got != "database/creds/orders-ro" {
		t.Error(got)
	}
}

func TestErrorsAreShort(t *testing.T) {
	for _, err := range []error{
		CheckResource(strings.Repeat("x", 1<<20)),
		CheckName("user", strings.Repeat("X", 1<<20)),
		CheckText("reason", strings.Repeat("X", 10<<20), MaxReason),
		func() error { _, err := ParseDuration(strings.Repeat("9", 1<<20)); return err }(),
	} {
		if err == nil || len(err.Error()) > 200 {
			t.Errorf("%.300v", err)
		}
	}
}

func TestParseDuration(t *testing.T) {
	bad := func(s string) string { return fmt.Sprintf("duration %q is not like 45s, 30m, 8h or 1d12h", s) }
	for _, tt := range []struct {
		in   string
		want time.Duration
		err  string
	}{
		{"45s", 45 * time.Second, ""},
		{"30m", 30 * time.Minute, ""},
		{"1h30m", 90 * time.Minute, ""},
		{"2d", 48 * time.Hour, ""},
		{"1d12h", 36 * time.Hour, ""},
		{"0d", 0, ""},
		{"0s", 0, ""},
		{"0", 0, ""},
		{"-5m", -5 * time.Minute, ""},
		{"1.5h", 90 * time.Minute, ""},
		{"1000ms", time.Second, ""},
		{"65535d", 65535 * 24 * time.Hour, ""},
		{"65536d", 0, bad("65536d")},
		{"65535d2000000h", 0, bad("65535d2000000h")},
		{"", 0, bad("")},
		{"d", 0, bad("d")},
		{"-1d", 0, bad("-1d")},
		{"+1d", 0, bad("+1d")},
		{"1d-1h", 0, bad("1d-1h")},
		{"1d1d", 0, bad("1d1d")},
		{"1.5d", 0, bad("1.5d")},
		{"1h1d", 0, bad("1h1d")},
		{"30", 0, bad("30")},
		{"30x", 0, bad("30x")},
		{"1.5s", 0, bad("1.5s")},
		{"999ms", 0, bad("999ms")},
		{"9999999999h", 0, bad("9999999999h")},
		{" 1h", 0, bad(" 1h")},
	} {
		t.Run(tt.in, func(t *testing.T) {
			got, err := ParseDuration(tt.in)
			wantError(t, err, tt.err)
			if got != tt.want {
				t.Errorf("got %v", got)
			}
		})
	}
}

func TestShortDuration(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0s", time.Second - 1: "0s", time.Second: "1s", 90 * time.Second: "1m30s", time.Hour: "1h",
		25*time.Hour + time.Second: "1d1h1s", 48 * time.Hour: "2d", -time.Minute: "-1m", math.MaxInt64: "106751d23h47m16s",
	} {
		if got := ShortDuration(d); got != want {
			t.Errorf("%d is written %s, want %s", d, got, want)
		}
	}
	if got := Seconds(5400).String(); got != "1h30m" {
		t.Error(got)
	}
}

func TestSeconds(t *testing.T) {
	if InSeconds(1999*time.Millisecond) != 1 || Seconds(2).Duration() != 2*time.Second {
		t.Error("seconds and durations don't convert")
	}
}

func TestStatementHash(t *testing.T) {
	// SHA-256 of the empty string and of "abc", FIPS 180-4.
	for payload, want := range map[string]string{
		"":    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
		"abc": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
	} {
		if got := (Statement{Payload: payload, Signature: "ignored"}).Hash(); got != want {
			t.Errorf("hash of %q: %s", payload, got)
		}
	}
}

func TestNames(t *testing.T) {
	if TypeRequest.Namespace() != "request@hallpass" || IssueQueue("ssh") != "hallpass-issue-ssh" || WorkflowID("x") != "access-x" {
		t.Error("names that others rely on have changed")
	}
	for in, want := range map[string]string{"access-x": "x", "access-": "", "access": "", "": "", "other-x": "", "Access-x": ""} {
		if got := RequestID(in); got != want {
			t.Errorf("request of workflow %q: %q", in, got)
		}
	}
	for in, want := range map[string][2]string{"ssh/a": {"ssh", "a"}, "a": {"", ""}, "a/b/c": {"a", "b/c"}, "/": {"", ""}} {
		if kind, name := SplitResource(in); [2]string{kind, name} != want {
			t.Errorf("%q splits into %q and %q", in, kind, name)
		}
	}
	if got := (Resource{Name: "ssh/web-1"}).ShortName(); got != "web-1" {
		t.Error(got)
	}
}

func TestStates(t *testing.T) {
	var final []State
	for _, s := range States() {
		if s.Final() {
			final = append(final, s)
		} else if len(final) > 0 {
			t.Errorf("%s comes after an outcome", s)
		}
	}
	want := []State{StateDenied, StateTimedOut, StateCancelled, StateExpired, StateReleased, StateRevoked}
	if d := cmp.Diff(want, final); d != "" {
		t.Error(d)
	}
	if State("x").Final() {
		t.Error("an unknown state is final")
	}
}

func TestError(t *testing.T) {
	e := Errorf(CodeDenied, "no %d", 1)
	h := e.WithHint("try %s", "again")
	if e.Hint != "" || h.Hint != "try again" || h.Error() != "no 1" {
		t.Errorf("%+v %+v", e, h)
	}
	if CodeOf(fmt.Errorf("open: %w", h)) != CodeDenied || CodeOf(errors.New("x")) != "" || CodeOf(nil) != "" {
		t.Error("codes")
	}
}

// FuzzParseDuration holds that what is accepted has whole seconds and can be
// written and read back, and that everything else is refused short.
func FuzzParseDuration(f *testing.F) {
	for _, s := range []string{"45s", "1d12h", "-5m", "65535d", "1.5h", "d", "9999999999h", "1d-1h", "0"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		d, err := ParseDuration(s)
		if err != nil {
			if CodeOf(err) != CodeMalformed || len(err.Error()) > 500 {
				t.Errorf("%v", err)
			}
			return
		}
		if d%time.Second != 0 {
			t.Errorf("%q has a fraction: %v", s, d)
		}
		if d < 0 { // days have no sign
			return
		}
		if again, err := ParseDuration(ShortDuration(d)); d <= 65535*24*time.Hour && (err != nil || again != d) {
			t.Errorf("%q is %v, written %s, read %v, %v", s, d, ShortDuration(d), again, err)
		}
	})
}

// FuzzCheckText holds that accepted text is one line that can't steer a
// terminal.
func FuzzCheckText(f *testing.F) {
	for _, s := range []string{"", "so", "größer 😀", "\x1b[31m", "\u202e", "\xff", "a\nb", "\u009b1m", "e\u0301"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		err := CheckText("reason", s, MaxReason)
		if err != nil {
			if !utf8.ValidString(err.Error()) || strings.ContainsAny(err.Error(), "\n\x1b") {
				t.Errorf("error %q", err)
			}
			return
		}
		if len(s) > MaxReason || !utf8.ValidString(s) {
			t.Errorf("accepted %q", s)
		}
		for _, r := range s {
			if r < ' ' || r >= 0x7f && r < 0xa0 || r >= 0x200b && r <= 0x200f || r >= 0x2028 && r <= 0x202e || r >= 0x2066 && r <= 0x2069 || r == 0xfeff {
				t.Errorf("accepted %U", r)
			}
		}
	})
}

// What is quoted is cut between characters, whatever its language.
func TestErrorsQuoteWholeCharacters(t *testing.T) {
	long := strings.Repeat("ä", 45)
	_, duration := ParseDuration(long)
	for _, err := range []error{duration, CheckResource(long), CheckPath("path", long), CheckLocked(long, "x")} {
		if want := `"` + strings.Repeat("ä", 38) + `..."`; err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v doesn't quote %s", err, want)
		}
	}
}

// FuzzNames holds that what passes for a name, a path or a host is what their forms say, as
// regular expressions, and that what doesn't is told in one line.
func FuzzNames(f *testing.F) {
	for _, s := range []string{
		"alice", "alice:bob", "Alice", "-rf", "_apt", "root,deploy", "ssh/web-1", "ssh/../web-1", "ssh/", "/x", "a/b/c", "database/creds/x", "a//b", "a/../b",
		"web-1.example.com", "web-1.", "-oProxyCommand=x", "10.0.0.7", "010.0.0.7", "::1", "::ffff:10.0.0.7", "fe80::1%eth0", "FE80::1", strings.Repeat("a", 64), "a\n", "é", "a\x00",
	} {
		f.Add(s)
	}
	dots := regexp.MustCompile(`(^|/)\.+(/|$)`)
	forms := map[string]struct {
		check func(string) error
		is    func(string) bool
	}{
		"name":     {func(s string) error { return CheckName("user", s) }, regexp.MustCompile(`^[a-z0-9][a-z0-9._@+-]{0,62}$`).MatchString},
		"login":    {CheckLogin, regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._-]{0,62}$`).MatchString},
		"resource": {CheckResource, regexp.MustCompile(`^[a-z0-9]{1,63}/[a-z0-9][a-z0-9._-]{0,62}$`).MatchString},
		"path": {func(s string) error { return CheckPath("path", s) }, func(s string) bool {
			return len(s) <= 256 && regexp.MustCompile(`^[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*$`).MatchString(s) && !dots.MatchString(s)
		}},
		"host": {CheckHost, func(s string) bool {
			if a, err := netip.ParseAddr(s); err == nil {
				return a.Zone() == "" && a.String() == s
			}
			return len(s) <= 253 && regexp.MustCompile(`^[a-z0-9_][a-z0-9_-]{0,62}(\.[a-z0-9_][a-z0-9_-]{0,62})*$`).MatchString(s)
		}},
		"session": {CheckSession, regexp.MustCompile(`^[!-~]{1,100}$`).MatchString},
	}
	f.Fuzz(func(t *testing.T, s string) {
		for what, form := range forms {
			err := form.check(s)
			if (err == nil) != form.is(s) {
				t.Errorf("%q as a %s: %v", s, what, err)
			}
			if err != nil && (CodeOf(err) != CodeMalformed || strings.ContainsAny(err.Error(), "\n\r\x1b") || !utf8.ValidString(err.Error()) || len(err.Error()) > 400) {
				t.Errorf("it is said in more than a line: %q", err)
			}
		}
	})
}
