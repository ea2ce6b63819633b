package testsuite

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"hallpass/testsuite/hosttest"
)

func (h *house) cmdMetal(ts *testscript.TestScript, neg bool, args []string) {
	w := worldOf(ts)
	switch {
	case !neg && len(args) == 0:
		ts.Check(h.forge(ts, w))
	case !neg && len(args) == 1 && args[0] == "start":
		ts.Check(w.metal.Start())
	case !neg && len(args) == 3 && args[0] == "figures":
		agents, err1 := strconv.Atoi(args[1])
		n, err2 := strconv.Atoi(args[2])
		usage(ts, false, err1 == nil && err2 == nil, "metal figures AGENTS N")
		ts.Check(w.figures(ts, agents, n))
	default:
		ts.Fatalf("usage: metal [start | figures AGENTS N]")
	}
}

// forge makes a host of its own.
func (h *house) forge(ts *testscript.TestScript, w *world) (err error) {
	m, err := hosttest.New(h.bin+"-host", h.nextPort())
	if err != nil {
		return err
	}
	w.metal = m
	w.env.Defer(m.Close)
	script := "#!/bin/sh\nexec " + m.Bin + " --root " + m.Root + " \"$@\"\n"
	if err := os.WriteFile(filepath.Join(w.env.WorkDir, "bin", "hallpass-host"), []byte(script), 0o755); err != nil {
		return err
	}
	catalog, err := os.OpenFile(filepath.Join(w.dir, "catalog.yaml"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(catalog, "  ssh/metal: {labels: {env: metal}, logins: [%q], hosts: [metal], address: \"127.0.0.1:%s\"}\n", h.me, m.Port)
	for name, value := range map[string]string{"METAL": m.Root, "METALPORT": m.Port, "SSHD": m.SSHD, "SSHDCONFIG": m.Config, "SSHDPAM": m.PAM} {
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

// figures measures from hallpass revoke having returned to the ssh client
// having lost its connection. All is real but for the other hosts: they have an
// agent each, and no sshd.
func (w *world) figures(ts *testscript.TestScript, agents, n int) error {
	m := w.metal
	for i := 1; i < agents; i++ {
		root := filepath.Join(m.Dir, fmt.Sprintf("other-%d", i))
		etc := filepath.Join(root, "etc/hallpass-host")
		if err := os.CopyFS(etc, os.DirFS(filepath.Join(m.Root, "etc/hallpass-host"))); err != nil {
			return err
		}
		if err := os.Chmod(filepath.Join(etc, "agent_key"), 0o600); err != nil {
			return err
		}
		cmd := exec.Command(m.Bin, "--root", root, "run")
		if err := cmd.Start(); err != nil {
			return err
		}
		ts.Defer(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
		if err := poll("the agent of another host", func() (bool, error) { _, err := m.Sessions(root); return err == nil, err }); err != nil {
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
		cmd := exec.Command("ssh", "-F", filepath.Join(home, ".ssh/config"), "-N", "-p", m.Port, "-o", "IdentitiesOnly=yes",
			"-i", filepath.Join(home, ".hallpass/certs", ts.Getenv("ME")+"@metal"), ts.Getenv("ME")+"@127.0.0.1")
		if err := cmd.Start(); err != nil {
			return err
		}
		gone := make(chan time.Time, 1)
		go func() { _ = cmd.Wait(); gone <- time.Now() }()
		ts.Defer(func() { _ = cmd.Process.Kill() })
		if err := poll("the session", func() (bool, error) { n, err := m.Sessions(m.Root); return n == 1, err }); err != nil {
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
		if err := poll("the session's end", func() (bool, error) { n, err := m.Sessions(m.Root); return n == 0, err }); err != nil {
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
