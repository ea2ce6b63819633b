//go:build linux

package host

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"hallpass/access"
	"hallpass/ca/krl"
)

// A session outlives the agent, and its grant doesn't outlive the next one.
func TestAgentIsKilledAndStartsAgain(t *testing.T) {
	w := newWorld(t)
	revoked, _, file1 := w.certificate(time.Hour, nil)
	_, _, file2 := w.certificate(time.Hour, nil)
	_, closedRequest, file3 := w.certificate(time.Hour, nil)
	expiring, _, file4 := w.certificate(25*time.Second, nil)
	open := func(file string) *client {
		c := w.ssh(append(w.args(file), "echo rea''dy; exec sleep 1000")...)
		c.ready("ready")
		return c
	}
	a, b, d := open(file1), open(file2), open(file4)
	c := w.ssh(w.args(file3, "-N")...)
	eventually(t, "sessions are there", func() bool { return len(w.sessions()) == 4 })
	other := w.ordinary(t)
	w.killAgent()

	// Nobody gets in with a certificate of hallpass meanwhile, not even to
	// forward a port; with a key of his own, everybody does.
	_, _, file5 := w.certificate(time.Hour, nil)
	during := w.ssh(w.args(file5, "-N")...)
	during.wait("no agent")
	if out, err := w.login("", "echo in", "-i", filepath.Join(w.dir, "ordinary")); err != nil || out != "in" {
		t.Errorf("login with an ordinary key: %v\n%s", err, out)
	}
	w.service.revoke(revoked.Serial)
	if !a.running() || !b.running() || !c.running() {
		t.Fatal("a session went with the agent")
	}
	must(t, c.cmd.Process.Kill())
	c.wait("killed")

	w.startAgent()
	a.wait("revoked while the agent was down")
	d.wait("expired")
	end := time.Unix(int64(expiring.ValidBefore), 0)
	if started := w.status().Started; end.Before(started) {
		end = started // on a busy machine the agent is back later than that
	}
	if late := d.gone.Sub(end); late > time.Second {
		t.Errorf("gone %s after the end", late)
	}
	eventually(t, "one session is left", func() bool { return len(w.sessions()) == 1 })
	eventually(t, "the closed one is reported", func() bool { return w.service.events(closedRequest)[access.SessionClosed].Session != "" })
	if !b.running() || !other.running() {
		t.Error("a session went that had no reason to")
	}
	if out, err := w.login(file2, "echo in"); err != nil || out != "in" {
		t.Errorf("login after the restart: %v\n%s", err, out)
	}
}

// What happened while the service was away is told once, when it is back.
func TestServiceIsAway(t *testing.T) {
	w := newWorld(t)
	w.service.update(func() { w.service.down = true })
	_, request, file := w.certificate(time.Hour, nil)
	if out, err := w.login(file, "echo in"); err != nil || out != "in" {
		t.Fatalf("login: %v\n%s", err, out)
	}
	eventually(t, "reports wait", func() bool { return w.status().Waiting == 2 })
	eventually(t, "status says so", func() bool {
		return strings.Contains(strings.Join(w.status().Problems, "\n"), "closed for today")
	})
	w.killAgent()
	w.startAgent()
	if n := w.status().Waiting; n != 2 {
		t.Errorf("%d reports wait after a restart", n)
	}
	w.service.update(func() { w.service.down = false })
	eventually(t, "reports are there", func() bool { return len(w.service.events(request)) == 2 && w.status().Waiting == 0 })
	w.service.mu.Lock()
	defer w.service.mu.Unlock()
	for id, n := range w.service.times {
		if n != 1 {
			t.Errorf("report %s came %d times", id, n)
		}
	}
}

// Whatever comes instead of a good list, the last good one stays, and it shows.
func TestBadListsAreRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.service.revoke(7)
	eventually(t, "the list is there", func() bool { return w.status().List.Version == 2 })
	before, err := os.ReadFile(w.layout.revokedKeys())
	must(t, err)

	ca := w.service.ca
	good, signature := signedBy(ca, 9, time.Now(), 7, 8)
	older, olderSignature := signedBy(ca, 1, time.Now())
	same, sameSignature := signedBy(ca, 2, time.Now(), 8)
	strange, strangeSignature := signedBy(newSigner(t), 9, time.Now())
	garbage := []byte("garbage")
	garbageSignature, err := krl.Sign(ca, garbage)
	must(t, err)
	for _, tt := range []struct {
		name      string
		list      []byte
		signature string
		problem   string
	}{
		{"truncated", good[:len(good)-5], signature, "not valid"},
		{"empty", []byte{}, signature, "not valid"},
		{"older", older, olderSignature, "goes back from version 2 to 1"},
		{"another one of the same version", same, sameSignature, "two lists"},
		{"by a stranger", strange, strangeSignature, "not one of the trusted CA keys"},
		{"no signature", good, "", "missing"},
		{"garbage", garbage, garbageSignature, "revocation list"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w.service.update(func() { w.service.body, w.service.sig = tt.list, tt.signature })
			eventually(t, "the problem shows", func() bool { return strings.Contains(w.status().List.Problem, tt.problem) })
			if p := strings.Join(w.status().Problems, "\n"); strings.Contains(p, "service: ") {
				t.Errorf("the service is said to be away:\n%s", p)
			}
			after, err := os.ReadFile(w.layout.revokedKeys())
			must(t, err)
			if string(before) != string(after) || w.status().List.Version != 2 {
				t.Error("the list has changed")
			}
		})
	}
	if out, err := w.hallpassHost("check"); err == nil || !strings.Contains(out, "refused") {
		t.Errorf("check: %v\n%s", err, out)
	}
	w.service.update(func() { w.service.body, w.service.sig = good, signature })
	eventually(t, "a good one is taken", func() bool { st := w.status(); return st.List.Version == 9 && st.List.Problem == "" })

	// Somebody empties sshd's file, which would let everybody in.
	w.service.update(func() { w.service.body, w.service.version = nil, 9 })
	must(t, os.WriteFile(w.layout.revokedKeys(), nil, 0o644))
	eventually(t, "it is put back", func() bool {
		after, _ := os.ReadFile(w.layout.revokedKeys())
		return string(after) == string(good)
	})
	// And both, while the agent is away: nothing opens until there is a list.
	w.killAgent()
	must(t, os.WriteFile(w.layout.revokedKeys(), nil, 0o644), os.WriteFile(w.layout.signedKRL(), []byte("{"), 0o644))
	w.service.update(func() { w.service.down = true })
	w.startAgent()
	_, _, file := w.certificate(time.Hour, nil)
	if out, err := w.login(file, "echo in"); err == nil {
		t.Errorf("logged in without a list: %s", out)
	}
	after, err := os.ReadFile(w.layout.revokedKeys())
	must(t, err)
	if l, err := krl.Parse(after); err != nil || l.Len() != 0 {
		t.Errorf("sshd's file: %v, %v", l, err)
	}
}

// A list that nobody makes anew is told of before anything is wrong with it:
// revocations may not reach this host.
func TestOldListIsAnAlarm(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	old := func(age time.Duration) func() {
		return func() {
			w.service.version++
			w.service.body, w.service.sig = signedBy(w.service.ca, w.service.version, time.Now().Add(-age))
		}
	}
	w.service.update(old(krl.MaxAge - time.Minute))
	eventually(t, "the list is there", func() bool { return w.status().List.Version == 2 })
	if st := w.status(); st.List.Stale || len(st.Problems) > 0 {
		t.Errorf("status %+v", st)
	}
	w.service.update(old(krl.MaxAge + time.Minute))
	eventually(t, "status says so", func() bool {
		return strings.Contains(strings.Join(w.status().Problems, "\n"), "revocations may not reach this host")
	})
	if out, err := w.hallpassHost("check"); err == nil || !strings.Contains(out, "revocations don't reach this host") {
		t.Errorf("check: %v\n%s", err, out)
	}
	eventually(t, "the log says so", func() bool {
		log, _ := os.ReadFile(filepath.Join(w.dir, "agent.log"))
		return strings.Contains(string(log), "list of revoked certificates is old")
	})
	_, _, file := w.certificate(time.Hour, nil)
	if out, err := w.login(file, "echo in"); err != nil || out != "in" {
		t.Errorf("with an old list: %v\n%s", err, out)
	}
	w.service.update(func() { w.service.body = nil; w.service.version++ })
	eventually(t, "all is well again", func() bool { return len(w.status().Problems) == 0 })
}

// A part so long that logins take longer is told of.
func TestLongListIsTold(t *testing.T) {
	w := newWorld(t)
	var ours, others []uint64
	for i := range uint64(maxEntries + 1) {
		ours = append(ours, krl.Serial(krl.Series("web-1"), 1+2*i))
		others = append(others, krl.Serial(krl.Series("db-1"), 1+2*i))
	}
	w.service.revoke(others...)
	eventually(t, "the list is there", func() bool { return w.status().List.Revoked == len(others) })
	eventually(t, "sshd has its part", func() bool { return w.status().List.Here == 0 })
	if out, err := w.hallpassHost("check"); err != nil || strings.Contains(out, "10 ms") {
		t.Errorf("check of what doesn't concern it: %v\n%s", err, out)
	}
	w.service.revoke(ours...)
	eventually(t, "sshd has its part", func() bool { return w.status().List.Here == len(ours) })
	if out, err := w.hallpassHost("check"); err != nil || !strings.Contains(out, "sshd reads 8001 entries") {
		t.Errorf("check: %v\n%s", err, out)
	}
}

// What sshd lets in and the agent doesn't, because it knows more: the list of
// this moment.
func TestRevokedBeforeItOpened(t *testing.T) {
	w := newWorld(t)
	cert, request, file := w.certificate(time.Hour, nil)
	w.service.revoke(cert.Serial)
	eventually(t, "the list is there", func() bool { return w.status().List.Version == 2 })
	old, _ := signedBy(w.service.ca, 1, time.Now())
	must(t, os.WriteFile(w.layout.revokedKeys(), old, 0o644)) // as sshd read it a moment ago
	c := w.ssh(w.args(file, "-N")...)
	c.wait("revoked")
	eventually(t, "it is reported", func() bool { return w.service.events(request)[access.SessionEnded].Why == whyRevoked })
	if len(w.service.events(request)) != 1 {
		t.Errorf("reports %+v", w.service.events(request))
	}
}

// A certificate that isn't hallpass's is none of the agent's business, even if
// hallpass's CA made it, and however near its key id comes to a grant's: no
// session is looked after, ended or reported by one.
func TestOtherCertificatesAreLeftAlone(t *testing.T) {
	w := newWorld(t)
	grant, request, granted := w.certificate(time.Hour, nil)
	c := w.ssh(append(w.args(granted), "echo rea''dy; cat")...)
	c.ready("ready")
	eventually(t, "the session by the grant", func() bool { return len(w.sessions()) == 1 })
	var others []*client
	for _, tt := range []struct{ name, keyID string }{
		{"somebody else's", "somebody else's"},
		{"none", ""},
		{"capitals", "hallpass:" + strings.ToUpper(request) + ":alice"},
		{"a part more", grant.KeyId + ":bob"},
		{"a part less", "hallpass:" + request},
		{"nobody", "hallpass:" + request + ":"},
		{"space before", " " + grant.KeyId},
		{"space behind", grant.KeyId + " "},
		{"a line more", grant.KeyId + "\n" + grant.KeyId},
		{"a line's end", grant.KeyId + "\n"},
		{"a terminal's escape sequence", grant.KeyId + "\x1b[2J"},
		{"a serial and a CA", grant.KeyId + " (serial 7) CA ED25519 SHA256:x"},
		{"another prefix", "Hallpass:" + request + ":alice"},
		{"another version of UUID", "hallpass:" + request[:14] + "4" + request[15:] + ":alice"},
		{"4 KiB", "hallpass:" + request + ":" + strings.Repeat("a", 4<<10)},
	} {
		_, _, file := w.certificate(time.Hour, func(c *ssh.Certificate) { c.KeyId, c.Serial = tt.keyID, grant.Serial+1000 })
		o := w.ssh(append(w.args(file), "echo rea''dy; cat")...)
		o.ready("ready")
		others = append(others, o)
		if got := w.sessions(); len(got) != 1 || got[0].Request != request {
			t.Errorf("%s: sessions %+v", tt.name, got)
		}
	}
	w.killAgent()
	w.startAgent()
	if n := len(w.sessions()); n != 1 {
		t.Errorf("%d sessions", n)
	}
	w.service.revoke(grant.Serial, grant.Serial+1000)
	c.wait("its grant is revoked")
	eventually(t, "its end is told", func() bool { _, ok := w.service.events(request)[access.SessionEnded]; return ok })
	for _, o := range others {
		if !o.running() {
			t.Error("one is gone")
		}
	}
	if n := len(w.service.events(request)); n != 2 {
		t.Errorf("%d reports of the grant", n)
	}
}

// The terminal is told before the end, and at it.
func TestTerminalIsTold(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	_, _, file := w.certificate(20*time.Second, func(c *ssh.Certificate) { c.Extensions[access.ExtensionWarn] = "8s" })
	c := w.ssh(w.args(file, "-tt")...)
	c.wait("expired")
	for _, line := range []string{"hallpass: this session ends at ", "hallpass: the grant has ended; this session is closed."} {
		if !strings.Contains(c.out.String(), line) {
			t.Errorf("the terminal doesn't say %q:\n%s", line, c.out)
		}
	}
}

// Policy may let an open session finish. A revocation doesn't wait.
func TestGrace(t *testing.T) {
	w := newWorld(t)
	cert, _, file := w.certificate(20*time.Second, func(c *ssh.Certificate) { c.Extensions[access.ExtensionGrace] = "3s" })
	c := w.ssh(append(w.args(file), "echo rea''dy; sleep 1000")...)
	c.ready("ready")
	end := time.Unix(int64(cert.ValidBefore), 0)
	c.wait("expired")
	if late := c.gone.Sub(end.Add(3 * time.Second)); late < 0 || late > time.Second {
		t.Errorf("gone %s after the end and its grace", late)
	}
	cert, _, file = w.certificate(time.Hour, func(c *ssh.Certificate) { c.Extensions[access.ExtensionGrace] = "1h" })
	c = w.ssh(append(w.args(file), "echo rea''dy; sleep 1000")...)
	c.ready("ready")
	w.service.revoke(cert.Serial)
	c.wait("revoked")
}

// A host whose clock is off ends grants by its own clock, and says that it is.
func TestClockIsOff(t *testing.T) {
	for _, offset := range []time.Duration{90 * time.Second, -90 * time.Second} {
		t.Run(offset.String(), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.killAgent()
			ctx, cancel := context.WithCancel(context.Background())
			done := make(chan error, 1)
			go func() {
				done <- Run(ctx, RunOptions{Layout: w.layout, Log: slog.New(slog.DiscardHandler), offset: offset})
			}()
			t.Cleanup(func() {
				cancel()
				if err := <-done; err != nil {
					t.Error(err)
				}
			})
			word := "ahead of"
			if offset < 0 {
				word = "behind"
			}
			clockOff := regexp.MustCompile("clock is 1m(29|30|31)s " + word)
			eventually(t, "status says so", func() bool {
				st, err := Query(w.layout)
				return err == nil && clockOff.MatchString(strings.Join(st.Problems, "\n"))
			})
			cert, _, file := w.certificate(offset+20*time.Second, nil)
			if offset < 0 {
				// sshd's own clock, the machine's, has to let it in.
				cert, _, file = w.certificate(20*time.Second, nil)
			}
			c := w.ssh(append(w.args(file), "echo rea''dy; sleep 1000")...)
			c.ready("ready")
			if offset < 0 {
				// A revocation needs no clock.
				other, _, file := w.certificate(time.Hour, nil)
				o := w.ssh(append(w.args(file), "echo rea''dy; sleep 1000")...)
				o.ready("ready")
				w.service.revoke(other.Serial)
				o.wait("revoked")
			}
			end := time.Unix(int64(cert.ValidBefore), 0).Add(-offset)
			select {
			case <-c.done:
			case <-time.After(time.Until(end) + patience):
				t.Fatal("not ended by the host's clock")
			}
			if late := c.gone.Sub(end); late < 0 || late > time.Second {
				t.Errorf("gone %s after the end", late)
			}
		})
	}
}

// sshd refuses by itself what was never meant for it.
func TestRefusedBySSHD(t *testing.T) {
	w := newWorld(t)
	stranger := newSigner(t)
	for _, tt := range []struct {
		name   string
		change func(*ssh.Certificate)
		ca     ssh.Signer
	}{
		{"no principals", func(c *ssh.Certificate) { c.ValidPrincipals = nil }, nil},
		{"another host's principal", func(c *ssh.Certificate) { c.ValidPrincipals = []string{"web-2/" + login} }, nil},
		{"the login as principal", func(c *ssh.Certificate) { c.ValidPrincipals = []string{login} }, nil},
		{"expired", func(c *ssh.Certificate) { c.ValidBefore = uint64(time.Now().Add(-time.Second).Unix()) }, nil},
		{"not yet valid", func(c *ssh.Certificate) { c.ValidAfter = uint64(time.Now().Add(time.Hour).Unix()) }, nil},
		{"by another CA", nil, stranger},
		{"host certificate", func(c *ssh.Certificate) { c.CertType = ssh.HostCert }, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := w.in(t)
			w.signer = tt.ca
			_, _, file := w.certificate(time.Hour, tt.change)
			if out, err := w.login(file, "echo in"); err == nil || !strings.Contains(out, "Permission denied") {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
	_, _, file := w.certificate(time.Hour, nil)
	if out, err := w.login(file, "echo in"); err != nil || out != "in" {
		t.Errorf("a good one: %v\n%s", err, out)
	}
}

// What a user can put into PAM's environment comes after the hook has read it.
func TestUserCannotHideTheCertificate(t *testing.T) {
	w := newHost(t)
	env := filepath.Join(w.dir, "environment")
	must(t, os.WriteFile(env, []byte("SSH_AUTH_INFO_0=publickey\n"), 0o644))
	text, err := os.ReadFile(w.pam)
	must(t, err, os.WriteFile(w.pam, append(text, []byte("session required pam_env.so readenv=1 envfile="+env+"\n")...), 0o644))
	if out, err := w.hallpassHost(w.enrollArgs()...); err != nil {
		t.Fatalf("enroll: %v\n%s", err, out)
	}
	w.startSSHD()
	w.startAgent()
	cert, _, file := w.certificate(time.Hour, nil)
	c := w.ssh(append(w.args(file), "echo rea''dy; sleep 1000")...)
	c.ready("ready")
	if n := len(w.sessions()); n != 1 {
		t.Fatalf("%d sessions", n)
	}
	w.service.revoke(cert.Serial)
	c.wait("revoked")
}

// sshd may come and go.
func TestServerIsRestarted(t *testing.T) {
	w := newWorld(t)
	cert, _, file := w.certificate(time.Hour, nil)
	c := w.ssh(append(w.args(file), "echo rea''dy; sleep 1000")...)
	c.ready("ready")
	pid, err := os.ReadFile(filepath.Join(w.dir, "sshd.pid"))
	must(t, err, exec.Command("kill", strings.TrimSpace(string(pid))).Run())
	eventually(t, "sshd is gone", func() bool { _, err := w.login(file, "true"); return err != nil })
	w.startSSHD()
	// One more was opened by who found that sshd was still there.
	eventually(t, "no other session is left", func() bool { return len(w.sessions()) <= 1 })
	if !c.running() || len(w.sessions()) != 1 {
		t.Fatal("the session went with the server")
	}
	w.service.revoke(cert.Serial)
	c.wait("revoked")
}

// Without cgroups, what descends from the connection still ends.
func TestWithoutCgroups(t *testing.T) {
	w := newWorld(t)
	w.killAgent()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	none := ""
	go func() {
		done <- Run(ctx, RunOptions{Layout: w.layout, Log: slog.New(slog.DiscardHandler), mount: &none})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	eventually(t, "status says what isn't promised", func() bool {
		st, err := Query(w.layout)
		return err == nil && strings.Contains(strings.Join(st.Problems, "\n"), "cgroup v2 is not there")
	})
	cert, _, file := w.certificate(time.Hour, nil)
	c := w.ssh(append(w.args(file), "echo $$; echo rea''dy; sleep 1000")...)
	c.ready("ready")
	var pid int
	_, err := fmt.Sscan(c.out.String(), &pid)
	must(t, err)
	w.service.revoke(cert.Serial)
	c.wait("revoked")
	eventually(t, "its processes are gone", func() bool { return gone(append(descendants(pid), pid)) })
}

// The host certificate is renewed when its time has come.
func TestRenew(t *testing.T) {
	w := newHost(t)
	if out, err := w.hallpassHost(w.enrollArgs()...); err != nil {
		t.Fatalf("enroll: %v\n%s", err, out)
	}
	c, err := loadConfig(w.layout)
	must(t, err)
	c.RenewAfter = time.Now().Add(-time.Minute).UTC()
	must(t, c.save(w.layout))
	must(t, os.WriteFile(filepath.Join(w.layout.principals(), "gone"), []byte("web-1/gone\n"), 0o644))
	before, err := readHostCert(w.layout.hostCert())
	must(t, err)
	w.startSSHD()
	w.startAgent()
	eventually(t, "it is renewed", func() bool {
		after, err := readHostCert(w.layout.hostCert())
		return err == nil && after.Serial > before.Serial
	})
	eventually(t, "a login that the catalog lost is gone", func() bool {
		_, err := os.Stat(filepath.Join(w.layout.principals(), "gone"))
		return os.IsNotExist(err)
	})
	// sshd shuts its port for a moment when it is told to read its files again.
	eventually(t, "sshd is back with the new certificate", func() bool {
		log, _ := os.ReadFile(filepath.Join(w.dir, "sshd.log"))
		_, since, reloaded := strings.Cut(string(log), "Received SIGHUP")
		return reloaded && strings.Contains(since, "Server listening")
	})
	_, _, file := w.certificate(time.Hour, nil)
	if out, err := w.login(file, "echo in"); err != nil || out != "in" {
		t.Errorf("login: %v\n%s", err, out)
	}
}

// sshd is told of a new host certificate, also if the agent dies, or sshd can't
// say where it runs, between writing it and telling.
func TestReloadIsOwed(t *testing.T) {
	w := newHost(t)
	if out, err := w.hallpassHost(w.enrollArgs()...); err != nil {
		t.Fatalf("enroll: %v\n%s", err, out)
	}
	c, err := loadConfig(w.layout)
	must(t, err)
	program := c.SSHD
	mute := filepath.Join(w.dir, "mute-sshd")
	must(t, os.WriteFile(mute, []byte("#!/bin/sh\n[ \"$1\" != -T ] || { echo not now; exit 1; }\nexec "+program+" \"$@\"\n"), 0o755))
	c.SSHD, c.RenewAfter = mute, time.Now().Add(-time.Minute).UTC()
	must(t, c.save(w.layout))
	before, err := readHostCert(w.layout.hostCert())
	must(t, err)
	w.startSSHD()
	w.startAgent()
	eventually(t, "the certificate is written, and status says that sshd isn't told", func() bool {
		after, err := readHostCert(w.layout.hostCert())
		return err == nil && after.Serial > before.Serial && strings.Contains(strings.Join(w.status().Problems, "\n"), "not now")
	})
	w.killAgent()
	sshdLog := func() string { log, _ := os.ReadFile(filepath.Join(w.dir, "sshd.log")); return string(log) }
	if strings.Contains(sshdLog(), "Received SIGHUP") {
		t.Fatal("sshd was told")
	}
	c, err = loadConfig(w.layout)
	must(t, err)
	if !c.RenewAfter.After(time.Now()) {
		t.Fatal("the renewal itself isn't on disk")
	}
	c.SSHD = program
	must(t, c.save(w.layout))
	w.startAgent()
	eventually(t, "sshd is told by the next agent", func() bool { return strings.Contains(sshdLog(), "Received SIGHUP") })
	eventually(t, "and once", func() bool {
		c, err := loadConfig(w.layout)
		return err == nil && !c.ReloadOwed
	})
}
