package testsuite

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// metal is a host of its own: an sshd that uses PAM, and hallpass-host under a
// root of its own. Its sshd is a copy of the machine's under another name,
// which is also that of its PAM service: the machine's own is left alone.
type metal struct {
	dir, root    string
	sshd, config string // program and configuration
	pam          string // its PAM service
	bin          string // hallpass-host
	port         string
	server       *exec.Cmd // nil while it isn't running
}

func (h *house) cmdMetal(ts *testscript.TestScript, neg bool, args []string) {
	w := worldOf(ts)
	switch {
	case !neg && len(args) == 0:
		ts.Check(h.forge(ts, w))
	case !neg && len(args) == 1 && args[0] == "start":
		ts.Check(w.metal.start())
	case !neg && len(args) == 3 && args[0] == "figures":
		agents, err1 := strconv.Atoi(args[1])
		n, err2 := strconv.Atoi(args[2])
		usage(ts, false, err1 == nil && err2 == nil, "metal figures AGENTS N")
		ts.Check(w.figures(ts, agents, n))
	default:
		ts.Fatalf("usage: metal [start | figures AGENTS N]")
	}
}

// forge makes the host.
func (h *house) forge(ts *testscript.TestScript, w *world) (err error) {
	// Not below the script's folder: its name is that of a program and of a
	// PAM service.
	dir, err := os.MkdirTemp("", "hallpass-metal")
	if err != nil {
		return err
	}
	name := filepath.Base(dir)
	m := &metal{
		dir: dir, root: filepath.Join(dir, "root"), sshd: filepath.Join(dir, name), config: filepath.Join(dir, "sshd_config"),
		pam: filepath.Join("/etc/pam.d", name), bin: h.bin + "-host", port: h.nextPort(),
	}
	w.metal = m
	w.env.Defer(m.melt)
	program, err := os.ReadFile("/usr/sbin/sshd")
	if err != nil {
		return err
	}
	service, err := os.ReadFile("/etc/pam.d/sshd")
	if err != nil {
		return err
	}
	key, public, err := signingKey("metal")
	if err != nil {
		return err
	}
	for _, folder := range []string{"/run/sshd", filepath.Join(dir, "sshd_config.d")} {
		if err := os.MkdirAll(folder, 0o755); err != nil {
			return err
		}
	}
	config := fmt.Sprintf(`Include %[1]s/sshd_config.d/*.conf
Port %[2]s
ListenAddress 127.0.0.1
HostKey %[1]s/host
PidFile %[1]s/sshd.pid
LogLevel VERBOSE
StrictModes no
UsePAM yes
PermitRootLogin yes
PasswordAuthentication no
KbdInteractiveAuthentication no
AuthorizedKeysFile none
Subsystem sftp internal-sftp
SetEnv SHLVL=1
`, dir, m.port)
	for _, f := range []struct {
		path string
		data []byte
		mode os.FileMode
	}{
		{m.sshd, program, 0o755}, {m.pam, service, 0o644}, {m.config, []byte(config), 0o644},
		{filepath.Join(dir, "host"), []byte(key), 0o600}, {filepath.Join(dir, "host.pub"), []byte(public), 0o644},
		{filepath.Join(w.env.WorkDir, "bin", "hallpass-host"), []byte("#!/bin/sh\nexec " + m.bin + " --root " + m.root + " \"$@\"\n"), 0o755},
	} {
		if err := os.WriteFile(f.path, f.data, f.mode); err != nil {
			return err
		}
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		return err
	}
	catalog, err := os.OpenFile(filepath.Join(w.dir, "catalog.yaml"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(catalog, "  ssh/metal: {labels: {env: metal}, logins: [%q], hosts: [metal], address: \"127.0.0.1:%s\"}\n", h.me, m.port)
	for name, value := range map[string]string{"METAL": m.root, "METALPORT": m.port, "SSHD": m.sshd, "SSHDCONFIG": m.config, "SSHDPAM": m.pam} {
		ts.Setenv(name, value)
	}
	return joinClose(err, catalog)
}

func joinClose(err error, f *os.File) error {
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	return err
}

// start runs its sshd.
func (m *metal) start() error {
	m.server = exec.Command(m.sshd, "-D", "-f", m.config, "-E", filepath.Join(m.dir, "sshd.log"))
	if err := m.server.Start(); err != nil {
		return err
	}
	return poll("sshd to listen", func() (bool, error) {
		c, err := net.Dial("tcp", "127.0.0.1:"+m.port)
		if err == nil {
			_ = c.Close()
		}
		return err == nil, err
	})
}

// melt leaves nothing of it.
func (m *metal) melt() {
	if m.server != nil {
		_ = m.server.Process.Kill()
		_ = m.server.Wait()
	}
	records, _ := filepath.Glob(filepath.Join(m.root, "run/hallpass-host/sessions/*.json"))
	for _, path := range records {
		var r struct{ Cgroup string }
		if data, err := os.ReadFile(path); err == nil && json.Unmarshal(data, &r) == nil && r.Cgroup != "" {
			_ = os.WriteFile(filepath.Join(r.Cgroup, "cgroup.kill"), []byte("1"), 0) // a test that failed left it open
		}
	}
	_ = os.Remove(m.pam)
	_ = os.RemoveAll(m.dir)
}

// sessions is how many the agent looks after.
func (m *metal) sessions(root string) (int, error) {
	out, err := exec.Command(m.bin, "--root", root, "status", "--json").Output()
	if err != nil {
		return 0, err
	}
	var status struct {
		Sessions []struct{}
		Problems []string
	}
	if err := json.Unmarshal(out, &status); err != nil {
		return 0, err
	}
	if len(status.Problems) > 0 {
		return 0, fmt.Errorf("%s", status.Problems)
	}
	return len(status.Sessions), nil
}

// figures measures from hallpass revoke having returned to the ssh client
// having lost its connection. All is real but for the other hosts: they have an
// agent each, and no sshd.
func (w *world) figures(ts *testscript.TestScript, agents, n int) error {
	m := w.metal
	for i := 1; i < agents; i++ {
		root := filepath.Join(m.dir, fmt.Sprintf("other-%d", i))
		etc := filepath.Join(root, "etc/hallpass-host")
		if err := os.CopyFS(etc, os.DirFS(filepath.Join(m.root, "etc/hallpass-host"))); err != nil {
			return err
		}
		if err := os.Chmod(filepath.Join(etc, "agent_key"), 0o600); err != nil {
			return err
		}
		cmd := exec.Command(m.bin, "--root", root, "run")
		if err := cmd.Start(); err != nil {
			return err
		}
		ts.Defer(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
		if err := poll("the agent of another host", func() (bool, error) { _, err := m.sessions(root); return err == nil, err }); err != nil {
			return err
		}
	}
	as := func(who string) []string {
		env := os.Environ()
		w.be(func(name, value string) { env = append(env, name+"="+value) }, who)
		return append(env, "HALLPASS_CONFIG="+filepath.Join(w.dir, "hallpass.yaml"))
	}
	hallpass := func(who string, args ...string) ([]byte, error) {
		cmd := exec.Command(w.bin, args...)
		cmd.Env = as(who)
		var errs bytes.Buffer
		cmd.Stderr = &errs
		out, err := cmd.Output()
		if err != nil {
			return nil, fmt.Errorf("hallpass %s: %w: %s", strings.Join(args, " "), err, errs.Bytes())
		}
		return out, nil
	}
	home := filepath.Join(w.env.WorkDir, "people", "alice")
	var took, whole []time.Duration
	for range n {
		out, err := hallpass("alice", "request", "ssh/metal", "--for", "10m", "--output", "json")
		if err != nil {
			return err
		}
		id := requestID.FindString(string(out))
		cmd := exec.Command("ssh", "-F", filepath.Join(home, ".ssh/config"), "-N", "-p", m.port, "-o", "IdentitiesOnly=yes",
			"-i", filepath.Join(home, ".hallpass/certs", ts.Getenv("ME")+"@metal"), ts.Getenv("ME")+"@127.0.0.1")
		if err := cmd.Start(); err != nil {
			return err
		}
		gone := make(chan time.Time, 1)
		go func() { _ = cmd.Wait(); gone <- time.Now() }()
		ts.Defer(func() { _ = cmd.Process.Kill() })
		if err := poll("the session", func() (bool, error) { n, err := m.sessions(m.root); return n == 1, err }); err != nil {
			return err
		}
		begun := time.Now()
		if _, err := hallpass("dave", "revoke", id, "--reason", "measured"); err != nil {
			return err
		}
		returned := time.Now()
		select {
		case at := <-gone:
			took = append(took, max(0, at.Sub(returned))) // hosts may be quicker than the answer
			whole = append(whole, at.Sub(begun))
		case <-time.After(patience):
			return fmt.Errorf("revoked, and still there after %s", patience)
		}
		if err := poll("the session's end", func() (bool, error) { n, err := m.sessions(m.root); return n == 0, err }); err != nil {
			return err
		}
	}
	load, _ := os.ReadFile("/proc/loadavg")
	ts.Logf("%d agents, %d runs, load %s", agents, n, load)
	for _, row := range []struct {
		what string
		took []time.Duration
	}{{"revoke begun -> connection gone", whole}, {"revoke returned -> connection gone", took}} {
		ts.Logf("%s: p50 %s, p99 %s, max %s", row.what, percentile(row.took, 50), percentile(row.took, 99), percentile(row.took, 100))
	}
	if percentile(took, 50) > 300*time.Millisecond || percentile(took, 99) > time.Second {
		return fmt.Errorf("that is more than p50 300ms and p99 1s")
	}
	return nil
}

// percentile is the nearest rank.
func percentile(took []time.Duration, p int) time.Duration {
	slices.Sort(took)
	return took[max(0, (p*len(took)+99)/100-1)].Round(time.Millisecond)
}
