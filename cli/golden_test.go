package cli

import (
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"hallpass/access"
)

var update = flag.Bool("update", false, "write testdata/json anew")

// What differs from run to run, replaced by what it is.
var masks = []struct {
	what *regexp.Regexp
	by   string
}{
	{regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}`), "ID"},
	{regexp.MustCompile(`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z`), "TIME"},
	{regexp.MustCompile(`SHA256:[A-Za-z0-9+/]{43}`), "SHA256:FINGERPRINT"},
	{regexp.MustCompile(`sha256:[0-9a-f]{64}|[0-9a-f]{64}`), "DIGEST"},
	{regexp.MustCompile(`ssh-ed25519(-cert-v01@openssh.com)? AAAA[A-Za-z0-9+/=]+`), "ssh-ed25519$1 KEY"},
	{regexp.MustCompile(`-----BEGIN SSH SIGNATURE-----[^-]*-----END SSH SIGNATURE-----`), "SSHSIG"},
}

// TestJSONShapes holds what programs read: changing one of these files breaks
// somebody's script.
func TestJSONShapes(t *testing.T) {
	w := newWorld(t)
	id := w.ask("ssh/web-1 --as deploy --reason fix_it --ticket OPS-1 --for 1h")
	outputs := map[string]string{
		"request-no-wait": w.must("request ssh/web-1 --as root --reason y --no-wait -o json").stdout,
		"resources":       w.must("resources -o json").stdout,
		"pending":         w.as("bob").must("pending -o json").stdout,
		"approve":         w.must("approve -o json --for 30m --comment ok " + id).stdout,
		"wait":            w.as("alice").must("wait -o json " + id).stdout,
		"list":            w.must("list -o json").stdout,
		"show":            w.must("show -o json " + id).stdout,
		"release":         w.must("release -o json --reason done " + id).stdout,
		"list-nothing":    w.must("list -o json --state expired").stdout,
		"pending-nothing": w.must("pending -o json --requester mallory").stdout,
	}
	second := w.ask("ssh/web-1 --as deploy --reason again")
	outputs["lock"] = w.as("carol").must("lock user alice --reason stolen --for 2h -o json").stdout
	outputs["locks"] = w.must("locks -o json").stdout
	outputs["show-locked"] = w.must("show -o json " + second).stdout
	outputs["unlock"] = w.must("unlock -o json " + w.service.locks[0].Lock.ID).stdout
	outputs["locks-nothing"] = w.must("locks -o json").stdout
	if w.https != "" {
		w = w.directly() // sweeps aren't to be had through the service
	}
	outputs["sweep-nothing"] = w.must("sweep -o json").stdout
	w.service.swept = access.Swept{Grants: 3, Credentials: 2}
	w.service.swept.Add(access.Finding{What: access.SweptEnded, Kind: "ssh", Request: second, Why: "its workflow didn't run any more; revoked"})
	outputs["sweep"] = w.must("sweep -o json").stdout
	for name, got := range outputs {
		if !json.Valid([]byte(got)) {
			t.Errorf("%s is not JSON: %s", name, got)
		}
		got = strings.ReplaceAll(got, w.home(), "HOME")
		for _, m := range masks {
			got = m.what.ReplaceAllString(got, m.by)
		}
		file := filepath.Join("testdata", "json", name+".json")
		if *update {
			check(t, os.MkdirAll(filepath.Dir(file), 0o755))
			check(t, os.WriteFile(file, []byte(got), 0o644))
		}
		want, err := os.ReadFile(file)
		check(t, err)
		if diff := cmp.Diff(string(want), got); diff != "" {
			t.Errorf("%s:\n%s", name, diff)
		}
	}
}

func TestCompleteIDs(t *testing.T) {
	w := glassWorld(t)
	id := w.ask(breaks)
	w.ask("ssh/web-1 --as deploy --reason x") // waits
	for _, line := range []string{"extend ", "review "} {
		r := w.runArgs(t.Context(), append(strings.Split(line, " "), completeFlag)...)
		if r.code != 0 || r.stdout != id+"\n" || r.stderr != "" {
			t.Errorf("%q: exit %d, %q, stderr %q; want %s", line, r.code, r.stdout, r.stderr, id)
		}
	}
}

func TestCompleteValues(t *testing.T) {
	w := newWorld(t)
	id := w.ask("ssh/web-1 --as deploy --reason x")
	for line, want := range map[string]string{
		"request ssh/w":                    "ssh/web-1\n",
		"request --for 1h ssh/t":           "ssh/test-1\n",
		"ssh web":                          "web-1\nweb-1.example.com\n",
		"approve ":                         id + "\n",
		"release ":                         "",
		"list --state time":                "timed-out\n",
		"request ssh/web-1 --as ":          "deploy\nroot\ntester\n",
		"request --reason ssh/w ssh/web-1": "ssh/web-1\n",
		"lock ":                            "host\nresource\nuser\n",
		"report access --output ":          "csv\nhtml\njson\ntable\n",
		"report access -o h":               "html\n",
		"list --output ":                   "json\ntext\n",
		"audit export --format ":           "csv\njsonl\nocsf\n",
		"lock user b":                      "bob\n",
		"lock resource ssh/w":              "ssh/web-1\n",
		"lock host web-1.":                 "web-1.example.com\n",
	} {
		r := w.runArgs(t.Context(), append(strings.Split(line, " "), completeFlag)...)
		if r.code != 0 || r.stdout != want || r.stderr != "" {
			t.Errorf("%q: exit %d, %q, stderr %q; want %q", line, r.code, r.stdout, r.stderr, want)
		}
	}
}
