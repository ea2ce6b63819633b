package access

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"hallpass/internal/wording"
)

// Bounds on what people can put into statements and files. They stand in
// code: no file can loosen them.
const (
	MaxPayload    = 16 << 10 // bytes of a statement's payload
	MaxReason     = 1000     // bytes of a reason or comment
	MaxTicket     = 100      // bytes of a ticket reference
	MaxCommand    = 1000     // bytes of a forced command
	MaxActions    = 16       // actions in one request
	MaxName       = 63       // bytes of a user, group, resource, login or action name
	MaxPath       = 256      // bytes of a path in Vault
	MaxWith       = 32       // parameters of a write to Vault
	MaxValue      = 1000     // bytes of one of their values
	MinGrant      = time.Minute
	MaxGrant      = 30 * 24 * time.Hour // any kind; kinds have lower caps of their own
	MaxVault      = 24 * time.Hour      // kind vault
	MaxGrace      = 4 * time.Hour       // for what a grant has opened, past its end
	MaxExtensions = 100                 // of one grant, one after the other
	MaxAhead      = 90 * 24 * time.Hour // how far in the future a grant may start
	ClockSkew     = 5 * time.Minute     // how far clocks of different machines may differ
	EvidenceAge   = 24 * time.Hour      // how long an approval is good for the issuer
)

// CheckText says whether s may be shown to people and written to logs: valid
// UTF-8, at most max bytes, one line, and no control, format (bidi override,
// zero width) or private-use character, so that what a terminal shows is what
// was signed.
func CheckText(field, s string, max int) error {
	if len(s) > max {
		return Errorf(CodeMalformed, "%s is longer than %d bytes", field, max)
	}
	if !utf8.ValidString(s) {
		return Errorf(CodeMalformed, "%s is not valid UTF-8", field)
	}
	for _, r := range s {
		if unicode.In(r, unicode.C, unicode.Zl, unicode.Zp) {
			return Errorf(CodeMalformed, "%s contains the control or invisible character %U", field, r)
		}
	}
	return nil
}

// CheckName checks the name of a user, group or action: 1 to 63 bytes of
// a-z, 0-9 and ". _ @ + -", beginning with a letter or digit. There is one
// way to write a name: no upper case, no Unicode.
func CheckName(field, s string) error {
	return checkName(field, s, "a-z 0-9 . _ @ + -", func(c byte) bool {
		return lowerOrDigit(c) || strings.IndexByte("._@+-", c) >= 0
	})
}

// CheckLogin checks the name of an account on a host: 1 to 63 bytes of
// letters, digits and ". _ -", beginning with a letter, digit or "_".
func CheckLogin(s string) error {
	if s != "" && s[0] == '_' {
		s = "x" + s[1:]
	}
	return checkName("login", s, "a-z A-Z 0-9 . _ -", func(c byte) bool {
		return lowerOrDigit(c) || c >= 'A' && c <= 'Z' || strings.IndexByte("._-", c) >= 0
	})
}

// CheckResource checks a resource's name: "kind/name", where kind is
// lower-case letters and digits, and name is as CheckName allows, without "@"
// and "+".
func CheckResource(s string) error {
	kind, name, ok := strings.Cut(s, "/")
	if !ok {
		return Errorf(CodeMalformed, "resource %q is not of the form kind/name, such as ssh/web-1", wording.Short(s))
	}
	if err := checkName("resource kind", kind, "a-z 0-9", lowerOrDigit); err != nil {
		return err
	}
	return checkName("resource name", name, "a-z 0-9 . _ -", func(c byte) bool {
		return lowerOrDigit(c) || strings.IndexByte("._-", c) >= 0
	})
}

// CheckPath checks a path in Vault, or a part of one: 1 to 256 bytes, made of
// parts with a slash between. Each part is letters, digits and ". _ -" and isn't
// dots alone, so no path leads out of another, none is a pattern, and there is
// one way to write it.
func CheckPath(field, s string) error {
	if len(s) > MaxPath {
		return Errorf(CodeMalformed, "%s is longer than %d bytes", field, MaxPath)
	}
	for part := range strings.SplitSeq(s, "/") {
		if strings.Trim(part, ".") == "" {
			return Errorf(CodeMalformed, "%s %q is not a path: it has to be names with one slash between, such as database/creds", field, wording.Short(s))
		}
		for i := 0; i < len(part); i++ {
			if c := part[i]; !lowerOrDigit(c) && (c < 'A' || c > 'Z') && strings.IndexByte("._-", c) < 0 {
				return Errorf(CodeMalformed, "%s %q has a character outside a-z A-Z 0-9 . _ -", field, wording.Short(s))
			}
		}
	}
	return nil
}

// CheckWith checks the parameters of a write to Vault: at most 32, each name 1
// to 63 bytes of a-z, 0-9 and "_", each value one line of 1 to 1000 bytes
// without * { } " \, which mean something else in Vault's policies.
func CheckWith(with map[string]string) error {
	if len(with) > MaxWith {
		return Errorf(CodeMalformed, "more than %d parameters", MaxWith)
	}
	for _, name := range slices.Sorted(maps.Keys(with)) {
		if err := checkName("parameter", name, "a-z 0-9 _", func(c byte) bool { return lowerOrDigit(c) || c == '_' }); err != nil {
			return err
		}
		value := with[name]
		if value == "" {
			return Errorf(CodeMalformed, "parameter %s is empty; leave it out instead", name)
		}
		if err := CheckText("parameter "+name, value, MaxValue); err != nil {
			return err
		}
		if i := strings.IndexAny(value, "*{}\"\\"); i >= 0 {
			return Errorf(CodeMalformed, "parameter %s contains %q, which means something else in Vault's policies", name, value[i:i+1])
		}
	}
	return nil
}

// SplitResource splits "kind/name". Both are empty if there is no slash.
func SplitResource(s string) (kind, name string) {
	kind, name, ok := strings.Cut(s, "/")
	if !ok {
		return "", ""
	}
	return kind, name
}

func lowerOrDigit(c byte) bool { return c >= 'a' && c <= 'z' || c >= '0' && c <= '9' }

func checkName(field, s, allowed string, ok func(byte) bool) error {
	if s == "" {
		return Errorf(CodeMalformed, "%s is empty", field)
	}
	if len(s) > MaxName {
		return Errorf(CodeMalformed, "%s is longer than %d bytes", field, MaxName)
	}
	for i := 0; i < len(s); i++ {
		if !ok(s[i]) {
			return Errorf(CodeMalformed, "%s %q has a character outside %s", field, wording.Short(s), allowed)
		}
	}
	if c := s[0]; !lowerOrDigit(c) && (c < 'A' || c > 'Z') {
		return Errorf(CodeMalformed, "%s %q does not begin with a letter or digit", field, wording.Short(s))
	}
	return nil
}

// ShortDuration writes d as people type it: "1h30m", "45s", "2d". Fractions
// of a second are dropped.
func ShortDuration(d time.Duration) string {
	if d < 0 {
		return "-" + ShortDuration(-d)
	}
	var b strings.Builder
	for _, u := range []struct {
		size time.Duration
		name string
	}{{24 * time.Hour, "d"}, {time.Hour, "h"}, {time.Minute, "m"}, {time.Second, "s"}} {
		if n := d / u.size; n > 0 {
			fmt.Fprintf(&b, "%d%s", n, u.name)
			d -= n * u.size
		}
	}
	if b.Len() == 0 {
		return "0s"
	}
	return b.String()
}

// ParseDuration reads what people type: what time.ParseDuration takes, and
// days ("2d", "1d12h"). The result has whole seconds and may be zero or
// negative; the caller's bounds decide.
func ParseDuration(s string) (time.Duration, error) {
	bad := Errorf(CodeMalformed, "duration %q is not like 45s, 30m, 8h or 1d12h", wording.Short(s))
	rest, days := s, time.Duration(0)
	if n, after, ok := strings.Cut(s, "d"); ok {
		v, err := strconv.ParseUint(n, 10, 16)
		if err != nil {
			return 0, bad
		}
		days, rest = time.Duration(v)*24*time.Hour, after
		if rest == "" {
			return days, nil
		}
	}
	d, err := time.ParseDuration(rest)
	if err != nil || d%time.Second != 0 || days > 0 && d < 0 {
		return 0, bad
	}
	if d > math.MaxInt64-days {
		return 0, bad
	}
	return days + d, nil
}

// IsIDPrefix says whether s can be the beginning of a statement's id.
func IsIDPrefix(s string) bool {
	return s != "" && len(s) <= 36 && strings.Trim(s, "0123456789abcdef-") == ""
}
