package cli

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"hallpass/worker"
)

// Init makes all that a worker needs, and a second time changes nothing.
func TestInit(t *testing.T) {
	home := t.TempDir()
	vars := map[string]string{"HOME": home, "HALLPASS_KEY": "/ignored"}
	dir := filepath.Join(home, "etc")
	code, stdout, stderr := operate(t, vars, []string{"init", "--output", "json", "--dir", dir})
	if code != ExitOK {
		t.Fatalf("exit code %d: %s", code, stderr)
	}
	var made worker.Initial
	if err := json.Unmarshal([]byte(stdout), &made); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"hallpass.yaml", "policy.yaml", "directory.yaml", "catalog.yaml", "audit.key", "audit.pub", "ssh_ca", "ssh_host_ca"} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil {
			t.Errorf("%s: %v", name, err)
		} else if !strings.HasSuffix(name, ".pub") && info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v", name, info.Mode())
		}
	}
	if made.Config != filepath.Join(dir, "hallpass.yaml") || len(made.Made) == 0 {
		t.Errorf("says %+v", made)
	}
	key, err := os.ReadFile(filepath.Join(dir, "ssh_ca"))
	if err != nil {
		t.Fatal(err)
	}
	code, stdout, stderr = operate(t, vars, []string{"init", "--dir", dir})
	if code != ExitOK || !strings.Contains(stdout, "nothing was changed") {
		t.Errorf("again: exit code %d: %s%s", code, stdout, stderr)
	}
	if again, err := os.ReadFile(filepath.Join(dir, "ssh_ca")); err != nil || string(again) != string(key) {
		t.Errorf("the CA key was made anew: %v", err)
	}
	// Nothing is missing but Temporal.
	code, stdout, stderr = operate(t, map[string]string{"HOME": home, "HALLPASS_TEMPORAL_ADDRESS": "127.0.0.1:" + unusedPort(t)}, []string{"config", "check", "--config", made.Config})
	if code != ExitUnreachable || strings.Count(stdout, "BAD") != 1 || !strings.Contains(stdout, "BAD  temporal") {
		t.Errorf("config check: exit code %d: %s%s", code, stdout, stderr)
	}
}

func TestInitRefuses(t *testing.T) {
	home := t.TempDir()
	vars := map[string]string{"HOME": home}
	open := filepath.Join(home, "open")
	if err := os.Mkdir(open, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"init", "--config", "x.yaml"}, ExitUsage, "reads none"},
		{[]string{"init", "here"}, ExitUsage, "unexpected argument here"},
		{[]string{"init", "--dir", open}, ExitUsage, "is open to others"},
	} {
		code, _, stderr := operate(t, vars, row.args)
		if code != row.code || !strings.Contains(stderr, row.want) {
			t.Errorf("%v: exit code %d: %s", row.args, code, stderr)
		}
	}
	if files, err := os.ReadDir(open); err != nil || len(files) != 0 {
		t.Errorf("left %v behind: %v", files, err)
	}
}
