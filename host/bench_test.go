//go:build linux

package host

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

// BenchmarkRevoke measures from the service having a revocation to the ssh
// client having lost its connection, one connection at a time. The host has
// one agent; HALLPASS_BENCH_AGENTS more hosts' agents poll the same service.
func BenchmarkRevoke(b *testing.B) {
	w := newWorld(b)
	others, _ := strconv.Atoi(os.Getenv("HALLPASS_BENCH_AGENTS"))
	w.others(b, others)
	var took []time.Duration
	for b.Loop() {
		b.StopTimer()
		cert, _, file := w.certificate(time.Hour, nil)
		c := w.ssh(w.args(file, "-N")...)
		eventually(b, "the session is there", func() bool { return len(w.sessions()) == 1 })
		b.StartTimer()
		start := time.Now()
		w.service.revoke(cert.Serial)
		c.wait("revoked")
		took = append(took, c.gone.Sub(start))
		b.StopTimer()
		eventually(b, "the session is gone", func() bool { return len(w.sessions()) == 0 })
		b.StartTimer()
	}
	percentiles(b, took)
}

// BenchmarkRevokeMany revokes 40 connections of different grants at once.
func BenchmarkRevokeMany(b *testing.B) {
	const connections = 40
	w := newWorld(b)
	var took []time.Duration
	for b.Loop() {
		b.StopTimer()
		var clients []*client
		var serials []uint64
		for range connections {
			cert, _, file := w.certificate(time.Hour, nil)
			c := w.ssh(append(w.args(file), "echo rea''dy; sleep 1000 & sleep 1000")...)
			serials = append(serials, cert.Serial)
			clients = append(clients, c)
		}
		for _, c := range clients {
			c.ready("ready")
		}
		pids := w.members()
		b.StartTimer()
		start := time.Now()
		w.service.revoke(serials...)
		for _, c := range clients {
			c.wait("revoked")
			took = append(took, c.gone.Sub(start))
		}
		eventually(b, "processes are gone", func() bool { return gone(pids) })
	}
	percentiles(b, took)
}

// BenchmarkExpiry measures how late a connection is gone after its end.
func BenchmarkExpiry(b *testing.B) {
	w := newWorld(b)
	var took []time.Duration
	for b.Loop() {
		cert, _, file := w.certificate(3*time.Second, nil)
		c := w.ssh(w.args(file, "-N")...)
		c.wait("expired")
		took = append(took, c.gone.Sub(time.Unix(int64(cert.ValidBefore), 0)))
	}
	percentiles(b, took)
}

func percentiles(b *testing.B, took []time.Duration) {
	slices.Sort(took)
	at := func(p float64) float64 {
		return float64(took[min(len(took)-1, int(p*float64(len(took))))].Microseconds()) / 1000
	}
	b.ReportMetric(at(0.5), "p50-ms")
	b.ReportMetric(at(0.99), "p99-ms")
	b.ReportMetric(at(1), "max-ms")
}

// others runs the agents of further hosts, which have no sshd.
func (w *world) others(t testing.TB, n int) {
	for i := range n {
		l := Layout{Root: filepath.Join(w.dir, fmt.Sprintf("host-%d", i))}
		must(t, os.MkdirAll(l.etc(), 0o755), os.CopyFS(l.etc(), os.DirFS(w.layout.etc())), os.Chmod(l.agentKey(), 0o600))
		cmd := exec.Command(w.bin, "--root", l.Root, "run")
		must(t, cmd.Start())
		t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	}
	for i := range n {
		l := Layout{Root: filepath.Join(w.dir, fmt.Sprintf("host-%d", i))}
		eventually(t, "agents run", func() bool { st, err := Query(l); return err == nil && len(st.Problems) == 0 })
	}
}

// TestFootprint reports what the agent costs with 1,000 sessions. They are
// processes of root that wait, each with a certificate of its own, as the
// hook would bring them: a thousand real connections don't fit on a small
// machine. Set HALLPASS_FOOTPRINT to run it.
func TestFootprint(t *testing.T) {
	if os.Getenv("HALLPASS_FOOTPRINT") == "" {
		t.Skip("set HALLPASS_FOOTPRINT=1")
	}
	const sessions = 1000
	w := newWorld(t)
	info, err := os.Stat(w.bin)
	must(t, err)
	t.Logf("binary: %.1f MiB", float64(info.Size())/(1<<20))
	t.Logf("resident without sessions: %s", resident(t, w.agent.Process.Pid))
	var group sync.WaitGroup
	seats := make(chan struct{}, 2*runtime.NumCPU())
	for range sessions {
		cert, _, _ := w.certificate(time.Hour, nil)
		info := "publickey " + strings.TrimSpace(string(ssh.MarshalAuthorizedKey(cert)))
		seats <- struct{}{}
		group.Go(func() {
			defer func() { <-seats }()
			// The shell is the monitor: the hook's parent.
			cmd := exec.Command("/bin/sh", "-c", w.bin+" --root "+w.layout.Root+" hook && echo ready && exec sleep 1000 >/dev/null")
			cmd.Env = []string{"PAM_TYPE=open_session", "PAM_USER=root", "PAM_RHOST=127.0.0.1", "SSH_AUTH_INFO_0=" + info}
			out, err := cmd.StdoutPipe()
			if err == nil {
				err = cmd.Start()
			}
			if err == nil {
				t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
				_, err = io.ReadAll(out)
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	eventually(t, "sessions are there", func() bool { return len(w.sessions()) == sessions })
	eventually(t, "reports are there", func() bool { return w.status().Waiting == 0 })
	t.Logf("resident with %d sessions: %s", sessions, resident(t, w.agent.Process.Pid))
	before := cpu(t, w.agent.Process.Pid)
	const idle = 10 * time.Second
	pause(idle) // nothing is waited for: this is what is measured
	t.Logf("CPU with %d sessions: %s in %s", sessions, cpu(t, w.agent.Process.Pid)-before, idle)
	all := make([]uint64, sessions)
	for i := range all {
		all[i] = uint64(i + 1)
	}
	start := time.Now()
	w.service.revoke(all...)
	eventually(t, "all are gone", func() bool { return len(w.sessions()) == 0 })
	t.Logf("all %d gone %s after the revocation", sessions, time.Since(start).Round(time.Millisecond))
	t.Logf("resident afterwards: %s", resident(t, w.agent.Process.Pid))
}

func resident(t testing.TB, pid int) string {
	data, err := os.ReadFile(procPath(pid, "status"))
	must(t, err)
	for line := range strings.Lines(string(data)) {
		if v, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			return strings.TrimSpace(v)
		}
	}
	return "unknown"
}

// cpu is the processor time that a process has used: fields 14 and 15 of its
// stat, in hundredths of a second.
func cpu(t testing.TB, pid int) time.Duration {
	data, err := os.ReadFile(procPath(pid, "stat"))
	must(t, err)
	f := strings.Fields(string(data[strings.LastIndexByte(string(data), ')')+1:]))
	user, err1 := strconv.Atoi(f[11])
	system, err2 := strconv.Atoi(f[12])
	must(t, err1, err2)
	return time.Duration(user+system) * 10 * time.Millisecond
}

// BenchmarkHook is what a login pays for the hook.
func BenchmarkHook(b *testing.B) {
	needHost(b)
	bin, err := binary()
	must(b, err)
	for b.Loop() {
		must(b, exec.Command(bin, "hook").Run())
	}
}

// BenchmarkLogin is a whole login with everything that hallpass adds to it.
func BenchmarkLogin(b *testing.B) {
	w := newWorld(b)
	_, _, file := w.certificate(time.Hour, nil)
	for b.Loop() {
		if out, err := w.login(file, "true"); err != nil {
			b.Fatalf("%v: %s", err, out)
		}
	}
}
