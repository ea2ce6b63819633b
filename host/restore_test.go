//go:build linux

package host

import (
	"encoding/json"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"

	"hallpass/access"
	"hallpass/ca/krl"
)

// A session whose record doesn't say when it has to end is ended when the agent
// starts, with all its processes; the others go on.
func TestUnreadableRecord(t *testing.T) {
	for _, tt := range []struct {
		name  string
		spoil func(t *testing.T, data []byte) []byte
	}{
		{"empty", func(*testing.T, []byte) []byte { return nil }},
		{"cut short", func(_ *testing.T, data []byte) []byte { return data[:len(data)/2] }},
		{"without a certificate", func(t *testing.T, data []byte) []byte { return changed(t, data, "certificate", "") }},
		{"with another certificate", func(t *testing.T, data []byte) []byte {
			strange := userCert(t, newSigner(t), func(c *ssh.Certificate) { c.KeyId = "x" })
			return changed(t, data, "certificate", string(ssh.MarshalAuthorizedKey(strange)))
		}},
		{"of another session", func(t *testing.T, data []byte) []byte { return changed(t, data, "id", "x") }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			_, request, file := w.certificate(time.Hour, nil)
			c := w.ssh(append(w.args(file), "setsid sleep 1000 & echo rea''dy; cat")...)
			c.ready("ready")
			eventually(t, "the session", func() bool { return len(w.sessions()) == 1 })
			left := w.members()
			records, err := filepath.Glob(filepath.Join(w.layout.sessions(), "*.json"))
			must(t, err)
			_, _, file = w.certificate(time.Hour, nil)
			other := w.ssh(append(w.args(file), "echo rea''dy; cat")...)
			other.ready("ready")

			w.killAgent()
			data, err := os.ReadFile(records[0])
			must(t, err, os.WriteFile(records[0], tt.spoil(t, data), 0o600))
			w.startAgent()
			c.wait("its record can't be read")
			eventually(t, "its processes end", func() bool { return gone(left) })
			eventually(t, "its record is gone", func() bool { _, err := os.Stat(records[0]); return os.IsNotExist(err) })
			if got := w.sessions(); len(got) != 1 || got[0].Request == request || !other.running() {
				t.Errorf("sessions %+v; the other one runs: %t", got, other.running())
			}
			eventually(t, "there is no problem left", func() bool { return len(w.status().Problems) == 0 }) // the service may not have been asked yet
		})
	}
}

func changed(t *testing.T, data []byte, field, value string) []byte {
	t.Helper()
	var r map[string]any
	must(t, json.Unmarshal(data, &r))
	r[field] = value
	data, err := json.Marshal(r)
	must(t, err)
	return data
}

// Without cgroups all depends on what can be read in the record: nobody's processes
// are ended by a number that is another's now, and what nobody knows is a problem.
func TestUnreadableRecordWithoutCgroups(t *testing.T) {
	another := t.TempDir() // stands for somebody's cgroup
	order := filepath.Join(another, "cgroup.kill")
	must(t, os.WriteFile(order, nil, 0o600))
	for _, tt := range []struct {
		name           string
		edit           func(r *record) (data []byte) // nil: the record's
		alive, unknown bool
	}{
		{"without a certificate", func(r *record) []byte { r.Certificate = ""; return nil }, false, false},
		{"another process", func(r *record) []byte { r.Certificate = ""; r.Start++; return nil }, true, false},
		{"another start of the kernel", func(r *record) []byte { r.Certificate, r.Boot = "", "x"; return nil }, true, false},
		{"another's cgroup", func(r *record) []byte { r.Certificate, r.Cgroup = "", cgroup(another); return nil }, false, false},
		{"nothing", func(*record) []byte { return []byte("{") }, true, true},
		{"a number that is none", func(*record) []byte { return []byte(`{"id":"a","monitor":-1}`) }, true, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			log := &buffer{}
			s, err := newSessions(t.TempDir(), "", 0, slog.New(slog.NewTextHandler(log, nil)), func(e event) { t.Errorf("report %+v", e) })
			must(t, err)
			cmd := exec.Command("sleep", "1000")
			must(t, cmd.Start())
			ended := make(chan struct{})
			go func() { _ = cmd.Wait(); close(ended) }()
			t.Cleanup(func() { _ = cmd.Process.Kill(); <-ended })
			st, err := readStat(cmd.Process.Pid)
			must(t, err)
			r := record{ID: "a", Boot: bootID(), Monitor: cmd.Process.Pid, Start: st.start, Certificate: "x", Login: "root", Opened: s.now()}
			data := tt.edit(&r)
			must(t, s.save(r))
			if data != nil {
				must(t, os.WriteFile(s.file("a"), data, 0o600))
			}
			must(t, s.restore())
			s.enders.Wait()
			for range 3 {
				s.offset += lookAgain
				s.tick()
			}
			if _, err := os.Stat(s.file("a")); os.IsNotExist(err) == tt.unknown || slices.Equal(s.unknown(), []string{s.file("a")}) != tt.unknown {
				t.Errorf("the record: %v; %q are unknown", err, s.unknown())
			}
			if n := strings.Count(log.String(), "level=ERROR"); n != 1 {
				t.Errorf("%d errors are said:\n%s", n, log)
			}
			if said := strings.Contains(log.String(), `msg="session ended" session=a login=`); said == tt.unknown {
				t.Errorf("it is said to have ended: %t\n%s", said, log)
			}
			if !tt.alive {
				select {
				case <-ended:
				case <-time.After(patience):
					t.Error("it runs")
				}
			} else if err := cmd.Process.Signal(unix.Signal(0)); err != nil {
				t.Errorf("it doesn't run: %v", err)
			}
			if data, err := os.ReadFile(order); err != nil || len(data) != 0 {
				t.Errorf("another's cgroup is told to end: %q, %v", data, err)
			}
		})
	}
}

// Whose session is ended because of a record that is readable in part is reported.
func TestUnreadableRecordIsReported(t *testing.T) {
	for _, tt := range []struct {
		name   string
		edit   func(*record)
		report bool
	}{
		{"an extension that is none", func(r *record) { r.Extended = "x" }, true},
		{"another's cgroup", func(r *record) { r.Cgroup = "/nowhere/x.slice" }, true},
		{"of another session", func(r *record) { r.ID = "b" }, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var reports []event
			log := &buffer{}
			s, err := newSessions(t.TempDir(), "", 0, slog.New(slog.NewTextHandler(log, nil)), func(e event) { reports = append(reports, e) })
			must(t, err)
			g := readGrant(userCert(t, newSigner(t), nil), nil)
			r := record{ID: "a", Boot: "of another start", Monitor: 1 << 30, Certificate: g.line(), Login: "root", Opened: s.now()}
			tt.edit(&r)
			data, err := json.Marshal(r)
			must(t, err, os.WriteFile(s.file("a"), data, 0o600), s.restore())
			s.enders.Wait()
			if tt.report {
				if len(reports) != 1 || reports[0].What != access.SessionEnded || reports[0].Why != whyUnread || reports[0].Session.ID != "a" || reports[0].grant.request != g.request {
					t.Errorf("reports %+v", reports)
				}
			} else if len(reports) != 0 {
				t.Errorf("reports %+v", reports)
			}
			if !strings.Contains(log.String(), `msg="session ended" session=a`) || len(s.unknown()) != 0 {
				t.Errorf("unknown: %q\n%s", s.unknown(), log)
			}
		})
	}
}

// Nobody's cgroup but ours is ended or removed.
func TestCgroupsOfOthers(t *testing.T) {
	dir := t.TempDir()
	for name, ours := range map[string]bool{"hallpass-1": true, "init.scope": false, "x-hallpass-1": false} {
		c := cgroup(filepath.Join(dir, name))
		must(t, os.Mkdir(string(c), 0o755), os.WriteFile(filepath.Join(string(c), "cgroup.kill"), nil, 0o600))
		err := c.kill()
		if data, rerr := os.ReadFile(filepath.Join(string(c), "cgroup.kill")); (err == nil) != ours || string(data) == "1" != ours || rerr != nil {
			t.Errorf("%s: %v; it is told %q", name, err, data)
		}
		must(t, os.Remove(filepath.Join(string(c), "cgroup.kill")))
		if err := c.remove(); (err == nil) != ours || c.exists() == ours {
			t.Errorf("%s is removed: %t (%v)", name, !c.exists(), err)
		}
	}
	for _, c := range []cgroup{"", "/", "hallpass-1"} {
		if c.kill() == nil || c.remove() == nil {
			t.Errorf("%q counts as ours", c)
		}
	}
}

// An agent that starts without file descriptors to spare knows neither whether
// the monitors of sessions run, nor what their records say. It takes none of them
// for over: they are looked for again, and ended in time.
func TestRestoreWithoutFileDescriptors(t *testing.T) {
	ca := newSigner(t)
	cert := userCert(t, ca, nil)
	g := readGrant(cert, nil)
	var mu sync.Mutex
	var reports []event
	s, err := newSessions(t.TempDir(), "", 0, slog.New(slog.DiscardHandler), func(e event) {
		mu.Lock()
		defer mu.Unlock()
		reports = append(reports, e)
	})
	must(t, err)
	said := func() []event {
		mu.Lock()
		defer mu.Unlock()
		return append([]event(nil), reports...)
	}
	monitor := func(id string) (*exec.Cmd, record) {
		cmd := exec.Command("sleep", "1000")
		must(t, cmd.Start())
		ended := make(chan struct{})
		go func() { _ = cmd.Wait(); close(ended) }()
		t.Cleanup(func() { _ = cmd.Process.Kill(); <-ended })
		st, err := readStat(cmd.Process.Pid)
		must(t, err)
		return cmd, record{ID: id, Boot: bootID(), Monitor: cmd.Process.Pid, Start: st.start, Certificate: g.line(), Login: "root", Opened: s.now()}
	}
	alive := func(cmd *exec.Cmd) bool { return cmd.Process.Signal(unix.Signal(0)) == nil }
	take := func(id string) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.takeUp(id)
	}
	known := func(id string) (open, watched, unread bool) {
		s.mu.Lock()
		defer s.mu.Unlock()
		x := s.live[id]
		return x != nil && !x.Closed, x != nil && x.monitor != nil, s.unread[id] != nil
	}
	one, first := monitor("one")
	two, second := monitor("two")
	must(t, s.save(first), s.save(second))

	free := exhaust(t)
	take("one") // can't even be read
	s.mu.Lock()
	s.resume(&session{record: second, grant: g}) // has been read just before
	s.mu.Unlock()
	_, _, unread := known("one")
	open, watched, _ := known("two")
	free()
	if !unread || !open || watched {
		t.Fatalf("one is unread: %t; two is open: %t, watched: %t", unread, open, watched)
	}
	if files := s.unknown(); len(files) != 1 {
		t.Errorf("%q are unknown", files)
	}

	// Its grant is revoked meanwhile, and it can't be ended yet.
	s.mu.Lock()
	free = exhaust(t)
	killed := make(chan bool)
	x := s.live["two"]
	s.mu.Unlock()
	go func() { killed <- s.kill(x, whyRevoked) }()
	ended := <-killed
	free()
	if ended || !alive(two) {
		t.Errorf("two is said to have ended: %t; it runs: %t", ended, alive(two))
	}

	// With file descriptors again, both are found.
	s.offset += lookAgain
	s.tick()
	for _, id := range []string{"one", "two"} {
		if open, watched, unread := known(id); !open || !watched || unread {
			t.Errorf("%s is open: %t, watched: %t, unread: %t", id, open, watched, unread)
		}
	}
	if len(said()) != 0 || !alive(one) || !alive(two) {
		t.Errorf("reports %+v", said())
	}
	running := make(chan struct{})
	go func() { s.run(); close(running) }()
	t.Cleanup(func() { s.close(); <-running })
	s.use(&krl.List{Version: 1, Generated: time.Now(), CAs: []krl.CA{{Key: ca.PublicKey(), Ranges: krl.Join(cert.Serial)}}})
	eventually(t, "both end", func() bool { return len(said()) == 2 && !alive(one) && !alive(two) })
	for _, e := range said() {
		if e.What != access.SessionEnded || e.Why != whyRevoked {
			t.Errorf("report %+v", e)
		}
	}
}

// exhaust leaves the process no file descriptor, until free.
func exhaust(t *testing.T) (free func()) {
	t.Helper()
	var was unix.Rlimit
	must(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &was), unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 0, Max: was.Max}))
	return func() { must(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &was)) }
}
