package cli

import (
	"strings"
	"testing"

	"hallpass/access"
)

func TestSweep(t *testing.T) {
	w := newWorld(t)
	if w.https != "" {
		if r := w.run("sweep"); r.code != ExitRefused || !strings.Contains(r.stderr, "a sweep is for those who operate hallpass") {
			t.Errorf("through the service: exit %d, %s", r.code, r.stderr)
		}
		w = w.directly()
	}
	if r := w.must("sweep"); r.stdout != "Looked at 0 open grants and 0 credentials: ended 0, revoked 0, stuck 0.\n" {
		t.Errorf("%q", r.stdout)
	}
	s := &w.service.swept
	s.Grants = 7
	s.Add(access.Finding{What: access.SweptEnded, Kind: "ssh", Request: "one", Why: "its workflow didn't run any more; revoked"})
	if r := w.must("sweep"); !strings.HasSuffix(r.stdout, "ended 1, revoked 0, stuck 0.\n  ended  ssh  one: its workflow didn't run any more; revoked\n") {
		t.Errorf("%q", r.stdout)
	}
	s.Ended = 3
	s.Add(access.Finding{What: access.SweptStuck, Kind: "vault", Why: "no issuer\x1b[31m"})
	r := w.run("sweep")
	if r.code != ExitError || !strings.Contains(r.stdout, "  stuck  vault  -: no issuer\\x1b[31m\n  … and 2 more: hallpass audit log --event sweep.\n") ||
		!strings.Contains(r.stderr, "1 thing could not be taken back") {
		t.Errorf("exit %d, %q, %q", r.code, r.stdout, r.stderr)
	}
	w.service.slow = true
	if r := w.run("sweep"); r.code != ExitUnreachable || !strings.Contains(r.stdout, "stuck 1") {
		t.Errorf("exit %d, %q", r.code, r.stdout)
	}
}
