package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"hallpass/worker"
)

// operate runs a command in process, with an empty home.
func operate(t *testing.T, vars map[string]string, args []string, options ...Option) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	env := func(name string) string { return vars[name] }
	code = Main(t.Context(), args, strings.NewReader(""), &out, &errs, env, options...)
	return code, out.String(), errs.String()
}

// unusedPort is a port that nothing listens on.
func unusedPort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close() //nolint:errcheck // test
	return strconv.Itoa(l.Addr().(*net.TCPAddr).Port)
}

// Dev furnishes its folder before it starts a server; what comes after that
// is told by the tests of the whole.
func TestDevThenConfig(t *testing.T) {
	home := t.TempDir()
	vars := map[string]string{"HOME": home, "HALLPASS_KEY": "/ignored/by/dev"}
	port, uiPort, ready := unusedPort(t), unusedPort(t), filepath.Join(home, "ready")
	if err := os.WriteFile(ready, []byte("stale"), 0o600); err != nil {
		t.Fatal(err)
	}
	var asked worker.ServerOptions
	start := func(_ context.Context, o worker.ServerOptions) (worker.Server, error) {
		asked = o
		if _, err := os.Stat(ready); err == nil {
			t.Error("the ready file of the last run is still there")
		}
		return nil, errors.New("no server today")
	}
	code, _, stderr := operate(t, vars, []string{"dev", "--port", port, "--ui-port", uiPort, "--ready-file", ready}, WithServer(start))
	if code != ExitError || !strings.Contains(stderr, "no server today") {
		t.Fatalf("exit code %d: %s", code, stderr)
	}
	if strconv.Itoa(asked.Port) != port || strconv.Itoa(asked.UIPort) != uiPort || asked.Namespace != "default" || len(asked.Attributes) != 5 {
		t.Errorf("asked the server for %+v", asked)
	}

	delete(vars, "HALLPASS_KEY")
	code, stdout, stderr := operate(t, vars, []string{"config", "show", "--output", "json"})
	if code != ExitOK {
		t.Fatalf("exit code %d: %s", code, stderr)
	}
	var settings []worker.Setting
	if err := json.Unmarshal([]byte(stdout), &settings); err != nil {
		t.Fatal(err)
	}
	found := false
	for _, s := range settings {
		found = found || s.Name == "temporal.address" && s.Value == "127.0.0.1:"+port
	}
	if !found {
		t.Errorf("the configuration isn't the one that dev made: %s", stdout)
	}
	if code, stdout, _ = operate(t, vars, []string{"config", "check"}); code != ExitUnreachable || strings.Count(stdout, "BAD") != 1 {
		t.Errorf("only Temporal is missing, exit code %d:\n%s", code, stdout)
	}
	if err := os.Chmod(filepath.Join(home, ".local/share/hallpass/dev/audit.key"), 0o644); err != nil {
		t.Fatal(err)
	}
	if code, stdout, _ = operate(t, vars, []string{"config", "check"}); code != ExitError || strings.Count(stdout, "BAD") != 2 {
		t.Errorf("the audit key is open, exit code %d:\n%s", code, stdout)
	}
}

func TestOperateBadUsage(t *testing.T) {
	config := filepath.Join(t.TempDir(), "hallpass.yaml")
	if err := os.WriteFile(config, []byte("audit:\n  databse: x\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"dev", "now"}, ExitUsage, "unexpected argument now"},
		{[]string{"dev", "--port", "0"}, ExitUsage, "--port is 0, not a port"},
		{[]string{"dev", "--ui-port", "65536"}, ExitUsage, "--ui-port is 65536, not a port"},
		{[]string{"dev", "--config", config}, ExitUsage, "dev has its configuration in its folder"},
		{[]string{"dev"}, ExitUnreachable, "can't start a Temporal server"},
		{[]string{"worker", "--role", "issuer:vault", "--config", config}, ExitUsage, ":2:3: unknown setting"},
		{[]string{"config", "check", "--config", config}, ExitUsage, ":2:3: unknown setting"},
		{[]string{"config", "show", "--config", config + "x"}, ExitNotFound, "there is no configuration at"},
		{[]string{"worker"}, ExitNotFound, "no configuration at"},
	} {
		t.Run(strings.Join(tt.args, " "), func(t *testing.T) {
			code, _, stderr := operate(t, map[string]string{"HOME": t.TempDir()}, tt.args)
			if code != tt.code || !strings.Contains(stderr, tt.want) {
				t.Errorf("exit code %d, want %d: %s", code, tt.code, stderr)
			}
		})
	}
}

func TestReadyFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ready")
	f, err := newReadyFile(path)
	if err != nil {
		t.Fatal(err)
	}
	want := worker.Ready{Dir: "/x", Address: "127.0.0.1:1", PID: 7}
	if err := f.write(want); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var got worker.Ready
	if err := json.Unmarshal(data, &got); err != nil || got.Dir != want.Dir || got.PID != want.PID {
		t.Errorf("read %s, %v", data, err)
	}
	if err := f.remove(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Errorf("still there: %v", err)
	}
}
