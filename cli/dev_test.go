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

	"github.com/google/go-cmp/cmp"

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

// Without a server of its own, the program becomes the one beside it that has
// one, in the same process and with the same arguments.
func TestDevBecomesTheServer(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	home := t.TempDir()
	vars := map[string]string{"HOME": home}
	name := "hallpass-dev-" + filepath.Base(home)
	beside := filepath.Join(filepath.Dir(self), name)
	var became []string
	exec := func(a *app) {
		a.exec = func(path string, argv, _ []string) error {
			became = append([]string{path}, argv...)
			return nil
		}
	}
	args := []string{"--output", "json", "dev", "--dir", filepath.Join(home, "dev")}

	code, _, stderr := operate(t, vars, args, WithServerIn(name), exec)
	if want := "there is no " + beside; code != ExitNotFound || !strings.Contains(stderr, want) || became != nil {
		t.Errorf("exit code %d, became %v: %s", code, became, stderr)
	}
	if err := os.WriteFile(beside, nil, 0o700); err != nil {
		t.Fatal(err)
	}
	defer os.Remove(beside) //nolint:errcheck // the folder goes too
	if code, _, stderr = operate(t, vars, args, WithServerIn(name), exec); code != ExitOK {
		t.Errorf("exit code %d: %s", code, stderr)
	}
	if d := cmp.Diff(append([]string{beside, beside}, args...), became); d != "" {
		t.Error(d)
	}
	if files, err := os.ReadDir(home); err != nil || len(files) != 0 {
		t.Errorf("it made %v itself: %v", files, err)
	}
	// What is wrong with the words is said here.
	became = nil
	if code, _, _ = operate(t, vars, []string{"dev", "--port", "70000"}, WithServerIn(name), exec); code != ExitUsage || became != nil {
		t.Errorf("exit code %d, became %v", code, became)
	}
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
			// In a log the last line is read: a service has all in it.
			if service := tt.args[0] != "config"; service && strings.Count(stderr, "\n") != 1 {
				t.Errorf("not in one line: %s", stderr)
			} else if strings.Contains(stderr, "try: ") && strings.Contains(stderr, "\n  try: ") == service {
				t.Errorf("what to do isn't where it should be: %s", stderr)
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
