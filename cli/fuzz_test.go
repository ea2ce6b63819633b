package cli

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"hallpass/access"
)

// What people type behind --env, --file, --from and --until: it is refused as their
// mistake and in one line, or it means something that is bounded, and the same when
// it is written again.
func FuzzFlags(f *testing.F) {
	f.Add("PGPASSWORD={{.password}}")
	f.Add(`a/../b={{file "x"}}{{with kubeconfig}}:{{.}}{{end}}`)
	f.Add("../../etc/passwd=x")
	f.Add("C:\\x=/y")
	f.Add("A={{json .x | base64}}{{join .list \",\"}}")
	f.Add("A={{define \"A\"}}{{template \"A\"}}{{end}}")
	f.Add("A=@/nowhere")
	f.Add("+2h30m")
	f.Add("23:59")
	f.Add("2031-05-06T07:08:09+05:30")
	f.Add("0000-01-01 00:00")
	f.Add("9999-12-31T23:59:59-23:59")
	zone := time.FixedZone("X", 2*3600)
	now := time.Date(2031, 5, 6, 7, 8, 9, 0, time.UTC)
	a := &app{now: func() time.Time { return now }, out: &printer{zone: zone}}
	f.Fuzz(func(t *testing.T, s string) {
		refused := func(err error) {
			if exitCode(err) != ExitUsage && exitCode(err) != ExitError || err.Error() == "" || strings.ContainsAny(safe(err.Error()), "\n\x1b") {
				t.Errorf("%q with the exit code %d", err, exitCode(err))
			}
		}
		if at, err := a.parseTime("--from", s); err != nil {
			refused(err)
		} else if again, err := a.parseTime("--from", at.Format(time.RFC3339)); at.Year() >= 0 && at.Year() <= 9999 && (err != nil || !again.Equal(*at)) {
			t.Errorf("%q is %s, and written again %v (%v)", s, at, again, err)
		} else if !at.Equal(at.Truncate(time.Second)) || strings.HasPrefix(s, "+") && at.Before(now) {
			t.Errorf("%q is %s", s, at)
		}
		if _, text, _ := strings.Cut(s, "="); strings.HasPrefix(text, "@") {
			return // it names files of this machine
		}
		p, err := parsePattern("--env", s)
		if err != nil {
			refused(err)
		} else if again, err := parsePattern("--env", p.name+"="+p.text); err != nil || again != p {
			t.Errorf("%q is read as %q, and then as %q (%v)", s, p, again, err)
		}
		if all, err := parseTemplates("", []string{s}, nil); err != nil {
			refused(err)
		} else if len(all.env) != 1 || !variableName.MatchString(all.env[0].name) {
			t.Errorf("%q sets %q", s, all.env)
		}
		all, err := parseTemplates("", nil, []string{s})
		if err != nil {
			refused(err)
			return
		}
		dir := filepath.Join(string(filepath.Separator), "private")
		if path := filepath.Join(dir, all.files[0].name); !strings.HasPrefix(path, dir+string(filepath.Separator)) {
			t.Errorf("%q is written to %s", s, path)
		}
		if _, err := parseTemplates("", nil, []string{s, s}); access.CodeOf(err) != "" || exitCode(err) != ExitUsage {
			t.Errorf("the same file twice: %v", err)
		}
	})
}
