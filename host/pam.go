//go:build linux

package host

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"hallpass/access"
)

// The lines around our part of a PAM service's file.
const (
	pamBegin = "# BEGIN hallpass-host: ends sessions when their grant ends; remove with hallpass-host unenroll"
	pamEnd   = "# END hallpass-host"

	pamPast = "session [success=1 default=ignore] pam_succeed_if.so quiet user in " // accounts go past the next line
)

// pamBlock is our part: break-glass accounts go past the hook, whatever state
// it is in; for everybody else a hook that can't run lets nobody in.
func pamBlock(hook string, breakGlass []string) string {
	var b strings.Builder
	b.WriteString(pamBegin + "\n")
	if len(breakGlass) > 0 {
		fmt.Fprintf(&b, pamPast+"%s\n", strings.Join(breakGlass, ":"))
	}
	fmt.Fprintf(&b, "session required pam_exec.so quiet %s\n", hook)
	b.WriteString(pamEnd + "\n")
	return b.String()
}

// installPAM puts the block into the text of a PAM service, in place of one
// that is there. The place matters in two ways. It comes after the modules
// that set up the session, of which pam_systemd moves the connection into a
// cgroup of its own. And it comes before pam_env: where that has
// user_readenv=1, as in Debian, a user's own ~/.pam_environment could say of
// SSH_AUTH_INFO_0 what it likes, and the hook would believe it.
func installPAM(text, block string) string {
	lines := pamLines(removePAM(text))
	place := -1
	for i, line := range lines {
		f := pamFields(line)
		switch {
		case len(f) == 0:
		case isPamEnv(f):
			if place < 0 {
				place = i
			}
			return strings.Join(lines[:place], "") + block + strings.Join(lines[place:], "")
		case setsUp(f):
			place = i + 1
		}
	}
	if place < 0 {
		place = len(lines)
	}
	before := strings.Join(lines[:place], "")
	if before != "" && !strings.HasSuffix(before, "\n") {
		before += "\n"
	}
	return before + block + strings.Join(lines[place:], "")
}

// removePAM takes the block out. Of one that isn't whole any more nothing is ours
// to take: what stands between may be somebody else's. So may what stands around
// one, between lines that only look like another's; brokenPAM finds those.
func removePAM(text string) string { return strings.Join(besidePAM(text), "") }

// besidePAM are the lines of a file, those of the block empty.
func besidePAM(text string) []string {
	lines := slices.Collect(strings.Lines(text))
	begin := -1
	for i := range lines {
		switch line := strings.TrimSuffix(lines[i], "\n"); {
		case line == pamBegin:
			begin = i
		case line == pamEnd && begin >= 0:
			clear(lines[begin : i+1])
			begin = -1
		}
	}
	return lines
}

// brokenPAM says whether something of ours would stay if the block were taken out:
// lines around it without the others, or the hook outside of them. Without the
// program, a hook that stays lets in nobody but break-glass accounts; so somebody
// has to look. The text is the file's at path.
func brokenPAM(path, text string) error {
	var numbers, lines []string
	n, before := 1, ""
	found := func(n int, line string) {
		numbers = append(numbers, strconv.Itoa(n))
		lines = append(lines, clean(line))
	}
	beside := besidePAM(text)
	for i, line := range beside {
		beside[i] = cmp.Or(line, "\n") // the others keep their numbers
	}
	for _, line := range pamLines(strings.Join(beside, "")) {
		switch {
		case slices.ContainsFunc(strings.Split(line, "\n"), func(l string) bool { return l == pamBegin || l == pamEnd }):
			found(n, line)
		case isHook(pamFields(line)):
			if strings.HasPrefix(before, pamPast) { // it would go past the next line
				found(n-1, before)
			}
			found(n, line)
		}
		n, before = n+strings.Count(line, "\n"), line
	}
	if len(numbers) == 0 {
		return nil
	}
	return access.Errorf(access.CodeMalformed, "the block of hallpass-host in %s isn't whole any more: of it there are lines %s", path, strings.Join(numbers, ", ")).
		WithHint("delete by hand what is hallpass-host's there: %s", strings.Join(lines, " | "))
}

// isHook says whether the words of a line are those by which PAM runs the hook of
// some hallpass-host, by whatever name.
func isHook(f []string) bool {
	return len(f) > 3 && f[0] == "session" && f[len(f)-1] == "hook" &&
		slices.ContainsFunc(f[:len(f)-2], func(w string) bool { return filepath.Base(w) == "pam_exec.so" }) &&
		(filepath.IsAbs(f[len(f)-2]) || f[len(f)-3] == "--root")
}

// pamLines are the lines of a PAM service's file. One that ends with a backslash
// goes on in the next.
func pamLines(text string) []string {
	var lines []string
	on := false
	for line := range strings.Lines(text) {
		if on {
			lines[len(lines)-1] += line
		} else {
			lines = append(lines, line)
		}
		on = goesOn(line)
	}
	return lines
}

// goesOn says whether a line goes on in the next.
func goesOn(line string) bool {
	words, _, comment := strings.Cut(line, "#")
	return !comment && strings.HasSuffix(strings.TrimSpace(words), `\`)
}

// fitPAM says why the block can't be put into a PAM service's file; nil if it can.
func fitPAM(path, text string) error {
	if err := brokenPAM(path, text); err != nil {
		return err
	}
	var last string
	for line := range strings.Lines(removePAM(text)) {
		last = line
	}
	if goesOn(last) {
		return access.Errorf(access.CodeMalformed, "the last line of %s ends in a backslash: what comes below it would belong to it", path).
			WithHint("take the backslash away")
	}
	return nil
}

// pamFields are the words of a line, without comments. A leading "-", which
// makes a missing module no error, is dropped.
func pamFields(line string) []string {
	var f []string
	for part := range strings.Lines(line) {
		part, _, _ = strings.Cut(part, "#")
		f = append(f, strings.Fields(strings.TrimSuffix(strings.TrimSpace(part), `\`))...)
	}
	if len(f) > 0 {
		f[0] = strings.ToLower(strings.TrimPrefix(f[0], "-"))
	}
	return f
}

func isPamEnv(f []string) bool {
	return f[0] == "session" && strings.Contains(strings.Join(f, " "), "pam_env.so")
}

// setsUp says whether a line brings in the modules by which a session begins.
func setsUp(f []string) bool {
	if len(f) < 2 {
		return false
	}
	all := strings.Join(f, " ")
	return f[0] == "@include" && strings.Contains(f[1], "session") ||
		f[0] == "session" && (strings.Contains(all, "pam_systemd.so") || f[1] == "include" || f[1] == "substack")
}

// pamSpoof looks for a pam_env that reads the user's own file before the hook
// runs: in the session part above the block, or anywhere in the auth part.
// Files that are included are looked at too. The result is empty, or says
// where.
func pamSpoof(path string) (string, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	return spoofIn(path, string(data), true, 0)
}

func spoofIn(path, text string, above bool, depth int) (string, error) {
	for _, line := range pamLines(text) {
		if strings.TrimSpace(line) == pamBegin {
			above = false
		}
		f := pamFields(line)
		if len(f) < 2 {
			continue
		}
		phase := f[0]
		if (phase == "auth" || phase == "session" && above) &&
			strings.Contains(line, "pam_env.so") && strings.Contains(line, "user_readenv=1") {
			return fmt.Sprintf("%s: %s", path, strings.Join(strings.Fields(line), " ")), nil
		}
		var included string
		switch {
		case phase == "@include":
			included = f[1]
		case len(f) > 2 && (f[1] == "include" || f[1] == "substack"):
			included = f[2]
		}
		if included == "" || depth > 8 {
			continue
		}
		if !filepath.IsAbs(included) {
			included = filepath.Join(filepath.Dir(path), included)
		}
		data, err := os.ReadFile(included)
		if err != nil {
			continue // PAM has its own opinion on that
		}
		if where, err := spoofIn(included, string(data), above, depth+1); err != nil || where != "" {
			return where, err
		}
	}
	return "", nil
}

// hasPAM says whether the block is in a PAM service's file, and nothing else of
// ours.
func hasPAM(path string) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	text := string(data)
	whole := removePAM(text) != text
	var broken *access.Error
	switch err := brokenPAM(path, text); {
	case errors.As(err, &broken) && !whole:
		return broken.WithHint("%s; then hallpass-host unenroll, and enroll", broken.Hint)
	case err != nil:
		return err
	case !whole:
		return access.Errorf(access.CodeNotFound, "%s doesn't run the hook: open sessions can't be ended", path).
			WithHint("hallpass-host unenroll, then enroll")
	}
	return nil
}
