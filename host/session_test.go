//go:build linux

package host

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"hallpass/access"
)

// kinds are the ways to hold a connection open. Each returns the clients that
// have to go with it.
var kinds = []struct {
	name string
	open func(w *world, cert string) []*client
}{
	{"shell", func(w *world, cert string) []*client {
		c := w.ssh(w.args(cert, "-tt")...)
		_, _ = fmt.Fprintln(c.in, "echo rea''dy")
		c.ready("ready")
		return []*client{c}
	}},
	{"exec", func(w *world, cert string) []*client {
		c := w.ssh(append(w.args(cert), "echo rea''dy; sleep 1000")...)
		c.ready("ready")
		return []*client{c}
	}},
	{"exec that left its session", func(w *world, cert string) []*client {
		c := w.ssh(append(w.args(cert), "setsid -f sleep 1000 </dev/null >/dev/null 2>&1; nohup sleep 1000 >/dev/null 2>&1 & echo rea''dy; sleep 1000")...)
		c.ready("ready")
		return []*client{c}
	}},
	{"sftp", func(w *world, cert string) []*client {
		c := w.ssh(append(w.args(cert, "-s"), "sftp")...)
		// SSH_FXP_INIT, version 3: the server answers with its own.
		_, _ = c.in.Write([]byte{0, 0, 0, 5, 1, 0, 0, 0, 3})
		eventually(w.t, "sftp answers", func() bool { return len(c.out.String()) > 4 })
		return []*client{c}
	}},
	{"forward without a command", func(w *world, cert string) []*client {
		socket := filepath.Join(w.dir, "forward-"+filepath.Base(cert))
		c := w.ssh(w.args(cert, "-N", "-L", socket+":127.0.0.1:"+fmt.Sprint(w.port))...)
		eventually(w.t, "forward listens", func() bool { _, err := net.Dial("unix", socket); return err == nil })
		return []*client{c}
	}},
	{"ControlMaster", func(w *world, cert string) []*client {
		socket := filepath.Join(w.dir, "m"+fmt.Sprint(w.serial))
		master := w.ssh(w.args(cert, "-N", "-M", "-S", socket)...)
		eventually(w.t, "master listens", func() bool {
			return exec.Command("ssh", "-S", socket, "-O", "check", "x").Run() == nil
		})
		out := []*client{master}
		for range 2 {
			c := w.ssh(append(w.args(cert, "-S", socket), "echo rea''dy; sleep 1000")...)
			c.ready("ready")
			out = append(out, c)
		}
		return out
	}},
	{"agent forward", func(w *world, cert string) []*client {
		socket := filepath.Join(w.dir, "a"+fmt.Sprint(w.serial))
		agent := exec.Command("ssh-agent", "-D", "-a", socket)
		must(w.t, agent.Start())
		w.t.Cleanup(func() { _ = agent.Process.Kill(); _ = agent.Wait() })
		eventually(w.t, "ssh-agent listens", func() bool { _, err := os.Stat(socket); return err == nil })
		c := w.ssh(append(w.args(cert, "-A", "-o", "IdentityAgent="+socket), "ssh-add -l; echo rea''dy; sleep 1000")...)
		c.ready("no identities")
		c.ready("ready")
		return []*client{c}
	}},
}

func (c *client) ready(word string) {
	c.t.Helper()
	eventually(c.t, "ssh says "+word, func() bool {
		if !c.running() {
			c.t.Fatalf("ssh has ended:\n%s", c.out)
		}
		return strings.Contains(c.out.String(), word)
	})
}

// members are the processes of all sessions that the agent looks after.
func (w *world) members() []int {
	w.t.Helper()
	entries, err := os.ReadDir(w.layout.sessions())
	must(w.t, err)
	var pids []int
	for _, e := range entries {
		if x, err := readRecord(filepath.Join(w.layout.sessions(), e.Name())); err == nil {
			pids = append(pids, x.Cgroup.pids()...)
		}
	}
	return pids
}

func gone(pids []int) bool {
	for _, pid := range pids {
		if p, err := openProcess(pid); err == nil {
			p.close()
			return false
		}
	}
	return true
}

// Every kind of connection ends when its certificate is revoked, and with it
// every process. Whoever logged in with a key of his own stays.
func TestRevokeEndsEveryKind(t *testing.T) {
	w := newWorld(t)
	other := w.ordinary(t)
	for _, kind := range kinds {
		t.Run(kind.name, func(t *testing.T) {
			w := w.in(t)
			cert, request, file := w.certificate(time.Hour, nil)
			neighbour, _, neighbourFile := w.certificate(time.Hour, nil)
			clients := kind.open(w, file)
			kept := w.ssh(append(w.args(neighbourFile), "echo rea''dy; sleep 1000")...)
			kept.ready("ready")
			var pids []int
			eventually(t, "sessions are there", func() bool { pids = w.members(); return len(w.sessions()) == 2 })

			start := time.Now()
			w.service.revoke(cert.Serial)
			for _, c := range clients {
				c.wait("revoked")
			}
			took := clients[0].gone.Sub(start)
			eventually(t, "the session is gone", func() bool { return len(w.sessions()) == 1 })
			t.Logf("gone %s after the revocation, %d processes", took.Round(time.Millisecond), len(pids)-len(w.members()))
			if took > time.Second {
				t.Errorf("took %s", took)
			}
			if !kept.running() || !other.running() {
				t.Error("a session that was not revoked is gone")
			}
			eventually(t, "its processes are gone", func() bool {
				left := map[int]bool{}
				for _, pid := range w.members() {
					left[pid] = true
				}
				for _, pid := range pids {
					if !left[pid] && !gone([]int{pid}) {
						return false
					}
				}
				return true
			})
			eventually(t, "reports are there", func() bool {
				e := w.service.events(request)
				return e[access.SessionOpened].Session != "" && e[access.SessionEnded].Session == e[access.SessionOpened].Session
			})
			e := w.service.events(request)[access.SessionEnded]
			if e.Login != login || !strings.HasPrefix(e.Source, "127.0.0.1:") || e.Serial != cert.Serial || e.Why != whyRevoked {
				t.Errorf("report %+v", e)
			}
			// What a session leaves behind goes with the grant as well.
			must(t, kept.cmd.Process.Kill())
			eventually(t, "the connection is gone", func() bool { s := w.sessions(); return len(s) == 1 && s[0].Closed })
			w.service.revoke(neighbour.Serial)
			eventually(t, "nobody is left", func() bool { return len(w.sessions()) == 0 && gone(pids) })
			if out, err := w.login(file, "true"); err == nil {
				t.Errorf("logged in with a revoked certificate: %s", out)
			}
		})
	}
	if !other.running() {
		t.Error("the session with an ordinary key is gone")
	}
}

// in is the same world for a subtest.
func (w *world) in(t testing.TB) *world {
	c := *w
	c.t = t
	t.Cleanup(func() { w.serial = max(w.serial, c.serial) })
	return &c
}

// ordinary is a session with a key in authorized_keys.
func (w *world) ordinary(t testing.TB) *client {
	t.Helper()
	signer, private := newKey(t)
	key := filepath.Join(w.dir, "ordinary")
	must(t, os.WriteFile(key, private, 0o600),
		os.WriteFile(filepath.Join(w.dir, "authorized_keys"), []byte("ssh-ed25519 "+strings.Fields(string(marshal(signer)))[1]+"\n"), 0o644))
	args := w.args("")
	for i := range args {
		if args[i] == w.key {
			args[i] = key
		}
	}
	// Nobody ends it, so it has to go when the connection does: cat reads to
	// the end of its input.
	c := w.ssh(append(args, "echo rea''dy; cat")...)
	c.ready("ready")
	return c
}

// Every kind of connection ends when its certificate does, by the host's own
// clock: the service is away. All of them end together, and late enough to be
// open by then on a busy machine.
func TestExpiryEndsEveryKind(t *testing.T) {
	w := newWorld(t)
	other := w.ordinary(t)
	w.service.update(func() { w.service.down = true })
	end := time.Now().Add(time.Minute).Truncate(time.Second)
	opened := map[string][]*client{}
	for _, kind := range kinds {
		_, _, file := w.certificate(time.Until(end), func(c *ssh.Certificate) { c.ValidBefore = uint64(end.Unix()) })
		opened[kind.name] = kind.open(w, file)
	}
	pids := w.members()
	if n := len(w.sessions()); n != len(kinds) {
		t.Fatalf("%d sessions are there, not %d", n, len(kinds))
	}
	for _, kind := range kinds {
		t.Run(kind.name, func(t *testing.T) {
			for _, c := range opened[kind.name] {
				select {
				case <-c.done:
				case <-time.After(time.Until(end) + patience):
					t.Fatalf("expired: ssh still runs\n%s", c.out)
				}
				late := c.gone.Sub(end)
				if late < 0 || late > time.Second {
					t.Errorf("gone %s after the end", late)
				}
				t.Logf("gone %s after the end", late.Round(time.Millisecond))
			}
		})
	}
	eventually(t, "their processes are gone", func() bool { return len(w.sessions()) == 0 && gone(pids) })
	if !other.running() {
		t.Error("the session with an ordinary key is gone")
	}
}
