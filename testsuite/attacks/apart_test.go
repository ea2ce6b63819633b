package attacks

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"hallpass/testsuite/devtest"
)

// roles are hallpass's roles as processes of their own, on the stack's
// Temporal, with people, keys, files and a record of their own.
type roles struct {
	*stack
	env   []string
	run   map[string]*exec.Cmd
	cores string // folder below which those that are started next may dump core; "": they may not
}

// apart makes what roles need. None runs yet.
func apart(t *testing.T, namespace string) *roles {
	t.Helper()
	s := attack(t)
	r := &roles{stack: &stack{program: s.program, dir: t.TempDir()}, run: map[string]*exec.Cmd{}}
	must(t, os.Chmod(r.dir, 0o700))
	var err error
	r.People, err = devtest.Furnish(r.dir, map[string]string{
		"hallpass.yaml": config, "policy.yaml": policy, "catalog.yaml": strings.ReplaceAll(catalog, "LOGIN", login()),
	}, groups)
	must(t, err)
	c, err := s.Namespace(t.Context(), namespace)
	must(t, err)
	t.Cleanup(c.Close)
	r.Server = &devtest.Server{Ready: s.Ready, Client: c}
	r.env = append(os.Environ(), "HALLPASS_CONFIG="+filepath.Join(r.dir, "hallpass.yaml"),
		"HALLPASS_TEMPORAL_ADDRESS="+s.Address, "HALLPASS_TEMPORAL_NAMESPACE="+namespace, "SSH_AUTH_SOCK=")
	for _, args := range [][]string{{"audit", "init", "attacks.example.com"}, {"ca", "init", filepath.Join(r.dir, "ssh_ca")}} {
		r.hallpass(t, "", args...)
	}
	return r
}

// start starts a worker of a role. What it says goes to ROLE.log.
func (r *roles) start(t testing.TB, role string) (pid int) {
	t.Helper()
	log, err := os.OpenFile(r.log(role), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	must(t, err)
	cmd := exec.Command(r.program, "worker", "--role", role)
	cmd.Env = r.env
	if r.cores != "" {
		cmd = exec.Command("sh", "-c", `ulimit -c "$(ulimit -H -c)"; ulimit -c unlimited 2>/dev/null; exec "$0" "$@"`, r.program, "worker", "--role", role)
		cmd.Env = append(slices.Clone(r.env), "GOTRACEBACK=crash")
		cmd.Dir = filepath.Join(r.cores, strings.ReplaceAll(role, ":", "-"))
		must(t, os.Mkdir(cmd.Dir, 0o700))
	}
	cmd.Stderr = log
	must(t, errors.Join(cmd.Start(), log.Close()))
	r.run[role] = cmd
	t.Cleanup(func() { r.stop(role) })
	return cmd.Process.Pid
}

func (r *roles) log(role string) string {
	return filepath.Join(r.dir, strings.ReplaceAll(role, ":", "-")+".log")
}

// stop ends one, if it runs.
func (r *roles) stop(role string) {
	if cmd := r.run[role]; cmd != nil {
		_ = cmd.Process.Signal(os.Interrupt)
		_ = cmd.Wait() // what it has to say is in its log
		delete(r.run, role)
	}
}

// gone waits for one that ends by itself.
func (r *roles) gone(t testing.TB, role string) {
	t.Helper()
	cmd := r.run[role]
	timeout := time.AfterFunc(patience, func() {
		t.Errorf("%s: still there after %s", role, patience)
		_ = cmd.Process.Kill()
	})
	defer timeout.Stop()
	_ = cmd.Wait() // that it fails is what it is for
	delete(r.run, role)
}

// crash has one end by SIGABRT, and gives its core dump. The error says why this
// machine makes none where it can be found.
func (r *roles) crash(t testing.TB, role string) (core []byte, err error) {
	t.Helper()
	pattern, err := os.ReadFile("/proc/sys/kernel/core_pattern")
	if err != nil {
		return nil, err
	}
	if strings.ContainsAny(string(pattern), "|/") { // to a program, or a folder for all
		return nil, fmt.Errorf("the kernel's core_pattern is %s", strings.TrimSpace(string(pattern)))
	}
	cmd := r.run[role]
	limits, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(cmd.Process.Pid), "limits"))
	must(t, err)
	if !regexp.MustCompile(`(?m)^Max core file size +unlimited`).Match(limits) {
		return nil, errors.New("core dumps are limited here")
	}
	must(t, cmd.Process.Signal(syscall.SIGABRT))
	r.gone(t, role)
	files, err := os.ReadDir(cmd.Dir)
	must(t, err)
	if len(files) != 1 {
		t.Fatalf("%s has left %v", role, files)
	}
	return os.ReadFile(filepath.Join(cmd.Dir, files[0].Name()))
}

// hallpass runs a command as somebody, who has the folder people/WHO/home.
func (r *roles) hallpass(t testing.TB, who string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), r.program, args...)
	cmd.Env = r.env
	if who != "" {
		cmd.Env = append(cmd.Env, "HALLPASS_USER="+who, "HALLPASS_KEY="+r.People[who].Key, "HALLPASS_HOME="+r.home(who))
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("hallpass %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

func (r *roles) home(who string) string { return filepath.Join(r.dir, "people", who, "home") }

// replace puts a file of the folder in another's place, whole.
func (s *stack) replace(t testing.TB, name, content string) {
	t.Helper()
	path := filepath.Join(s.dir, name)
	must(t, os.WriteFile(path+".new", []byte(content), 0o600), os.Rename(path+".new", path))
}
