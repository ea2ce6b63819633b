//go:build linux

package host

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"hallpass/access"
	"hallpass/statement"
)

func sha256Of(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

func appendTo(path, text string) error {
	old, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(old, text...), 0o644)
}

func TestInstallPAM(t *testing.T) {
	const block = pamBegin + "\nsession required pam_exec.so quiet /hook\n" + pamEnd + "\n"
	for _, tt := range []struct{ name, before, after string }{
		{"Debian", "@include common-auth\n@include common-session\nsession required pam_env.so\nsession required pam_env.so user_readenv=1\n",
			"@include common-auth\n@include common-session\n" + block + "session required pam_env.so\nsession required pam_env.so user_readenv=1\n"},
		{"Fedora", "auth substack password-auth\nsession required pam_loginuid.so\nsession include password-auth\nsession include postlogin\n",
			"auth substack password-auth\nsession required pam_loginuid.so\nsession include password-auth\nsession include postlogin\n" + block},
		{"pam_systemd by itself", "-session optional pam_systemd.so\nsession required pam_limits.so\n",
			"-session optional pam_systemd.so\n" + block + "session required pam_limits.so\n"},
		{"pam_env comes first", "session required pam_env.so\n@include common-session\n",
			block + "session required pam_env.so\n@include common-session\n"},
		{"comments don't count", "# @include common-session\nsession required pam_unix.so\n#session required pam_env.so\n",
			"# @include common-session\nsession required pam_unix.so\n#session required pam_env.so\n" + block},
		{"no newline at the end", "session required pam_unix.so", "session required pam_unix.so\n" + block},
		{"empty", "", block},
		{"lines that go on", "session include \\\n  common-session # x \\\nsession required \\\n pam_env.so\n",
			"session include \\\n  common-session # x \\\n" + block + "session required \\\n pam_env.so\n"},
		{"a block without an end", pamBegin + "\nsession required pam_unix.so\n", pamBegin + "\nsession required pam_unix.so\n" + block},
		{"a block at the end, without a newline", "x\n" + strings.TrimSuffix(block, "\n"), "x\n" + block},
		{"a block without a begin", "session required pam_unix.so\n" + pamEnd + "\n", "session required pam_unix.so\n" + pamEnd + "\n" + block},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := installPAM(tt.before, block)
			if got != tt.after {
				t.Errorf("got\n%s\nwant\n%s", got, tt.after)
			}
			if again := installPAM(got, block); again != got {
				t.Errorf("again:\n%s", again)
			}
			if plain := removePAM(got); strings.TrimSuffix(plain, "\n") != strings.TrimSuffix(removePAM(tt.before), "\n") || strings.Contains(plain, "/hook") {
				t.Errorf("removed:\n%s", plain)
			}
		})
	}
}

// Of a block that isn't whole any more nothing is taken out that may be somebody
// else's, and what of it would stay is named by its lines.
func TestBrokenPAM(t *testing.T) {
	const past = "session [success=1 default=ignore] pam_succeed_if.so quiet user in root\n"
	const hook = "session required pam_exec.so quiet /usr/sbin/hallpass-host hook\n"
	const theirs = "session required pam_unix.so\n"
	const block = pamBegin + "\n" + past + hook + pamEnd + "\n"
	for _, tt := range []struct{ name, text, removed, lines string }{
		{"none", theirs, theirs, ""},
		{"whole", theirs + block + theirs, theirs + theirs, ""},
		{"without an end", theirs + pamBegin + "\n" + past + hook + theirs, theirs + pamBegin + "\n" + past + hook + theirs, "2, 3, 4"},
		{"without a begin", past + hook + pamEnd + "\n" + theirs, past + hook + pamEnd + "\n" + theirs, "1, 2, 3"},
		{"without either", theirs + hook, theirs + hook, "2"},
		{"on two lines", theirs + strings.Replace(hook, "quiet", "\\\n", 1) + theirs + hook, theirs + strings.Replace(hook, "quiet", "\\\n", 1) + theirs + hook, "2, 5"},
		{"with a root", strings.Replace(hook, " hook", " --root /x hook", 1), strings.Replace(hook, " hook", " --root /x hook", 1), "1"},
		{"commented out", "#" + hook, "#" + hook, ""},
		{"somebody else's program", "session optional pam_exec.so /usr/bin/hook\n", "session optional pam_exec.so /usr/bin/hook\n", ""},
		{"somebody's lines between what looks like one", pamBegin + "\n" + theirs + block + theirs + pamEnd + "\n",
			pamBegin + "\n" + theirs + theirs + pamEnd + "\n", "1, 8"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := removePAM(tt.text); got != tt.removed {
				t.Errorf("removed:\n%s\nwant\n%s", got, tt.removed)
			}
			err := brokenPAM("/etc/pam.d/sshd", tt.text)
			if (err != nil) != (tt.lines != "") || err != nil && !strings.HasSuffix(err.Error(), "/etc/pam.d/sshd isn't whole any more: of it there are lines "+tt.lines) {
				t.Errorf("%v, want lines %s", err, tt.lines)
			}
		})
	}
	for text, want := range map[string]bool{theirs: true, block: true, "": true, theirs + "session required \\\n": false, theirs + "session required \\": false, "session required \\\n" + block: false, "# x \\\n": true} {
		if err := fitPAM("sshd", text); (err == nil) != want {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestPAMSpoof(t *testing.T) {
	const block = pamBegin + "\n" + pamEnd + "\n"
	for _, tt := range []struct {
		name, text, included string
		want                 bool
	}{
		{"below the hook", block + "session required pam_env.so user_readenv=1\n", "", false},
		{"above the hook", "session required pam_env.so user_readenv=1\n" + block, "", true},
		{"above, without the user's file", "session required pam_env.so\n" + block, "", false},
		{"when authenticating", block + "auth required pam_env.so user_readenv=1\n", "", true},
		{"in a file above", "@include other\n" + block, "session required pam_env.so user_readenv=1\n", true},
		{"in a file below", block + "@include other\n", "session required pam_env.so user_readenv=1\n", false},
		{"in a file below, when authenticating", block + "@include other\n", "auth required pam_env.so user_readenv=1\n", true},
		{"in a substack", "auth substack other\n" + block, "auth required pam_env.so user_readenv=1\n", true},
		{"a file that includes itself", "@include other\n" + block, "@include other\n", false},
		{"on two lines", "session required \\\n pam_env.so user_readenv=1\n" + block, "", true},
		{"commented out", "#session required pam_env.so user_readenv=1\n" + block, "", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			must(t, os.WriteFile(filepath.Join(dir, "sshd"), []byte(tt.text), 0o644),
				os.WriteFile(filepath.Join(dir, "other"), []byte(tt.included), 0o644))
			where, err := pamSpoof(filepath.Join(dir, "sshd"))
			if err != nil || (where != "") != tt.want {
				t.Errorf("%q, %v", where, err)
			}
		})
	}
}

func userCert(t testing.TB, ca ssh.Signer, change func(*ssh.Certificate)) *ssh.Certificate {
	t.Helper()
	c := &ssh.Certificate{
		Key: newSigner(t).PublicKey(), Serial: 1, CertType: ssh.UserCert, KeyId: "hallpass:0190a1b2-c3d4-7e5f-8a6b-7c8d9e0f1a2b:alice",
		ValidPrincipals: []string{"web-1/root"}, ValidBefore: uint64(time.Now().Add(time.Hour).Unix()),
		Permissions: ssh.Permissions{Extensions: map[string]string{}},
	}
	if change != nil {
		change(c)
	}
	must(t, c.SignCert(rand.Reader, ca))
	return c
}

func TestReadAuthInfo(t *testing.T) {
	ca, other := newSigner(t), newSigner(t)
	trusted := []ssh.PublicKey{ca.PublicKey()}
	line := func(c ssh.PublicKey) string {
		return "publickey " + strings.TrimSpace(string(ssh.MarshalAuthorizedKey(c))) + "\n"
	}
	good := line(userCert(t, ca, nil))
	for _, tt := range []struct {
		name, info string
		found, bad bool
	}{
		{"certificate", good, true, false},
		{"after a password", "password\n" + good, true, false},
		{"the same twice", good + good, true, false},
		{"two of ours", good + line(userCert(t, ca, nil)), false, true},
		{"one of ours and one of others", good + line(userCert(t, other, nil)), true, false},
		{"nothing", "", false, false},
		{"plain key", line(newSigner(t).PublicKey()), false, false},
		{"by another CA", line(userCert(t, other, nil)), false, false},
		{"another key id", line(userCert(t, ca, func(c *ssh.Certificate) { c.KeyId = "alice" })), false, false},
		{"key id with more behind it", line(userCert(t, ca, func(c *ssh.Certificate) { c.KeyId += ":x" })), false, false},
		{"host certificate", line(userCert(t, ca, func(c *ssh.Certificate) { c.CertType = ssh.HostCert })), false, false},
		{"another method", strings.Replace(good, "publickey", "hostbased", 1), false, false},
		{"garbage", "publickey ssh-ed25519-cert-v01@openssh.com AAAA\n", false, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			g, err := readAuthInfo(tt.info, trusted)
			if (g != nil) != tt.found || (err != nil) != tt.bad {
				t.Errorf("%+v, %v", g, err)
			}
		})
	}
	g, err := readAuthInfo(line(userCert(t, other, nil)), nil)
	if g == nil || err != nil {
		t.Errorf("without CA keys: %v, %v", g, err)
	}
}

func TestGrantTimes(t *testing.T) {
	ca := newSigner(t)
	end := time.Date(2026, 5, 4, 3, 2, 1, 0, time.UTC)
	for _, tt := range []struct {
		name   string
		change func(*ssh.Certificate)
		over   time.Time
		warn   time.Duration
	}{
		{"plain", func(*ssh.Certificate) {}, end, -1},
		{"grace", func(c *ssh.Certificate) { c.Extensions[access.ExtensionGrace] = "5m" }, end.Add(5 * time.Minute), -1},
		{"too much grace", func(c *ssh.Certificate) { c.Extensions[access.ExtensionGrace] = "9h" }, end.Add(access.MaxGrace), -1},
		{"less than no grace", func(c *ssh.Certificate) { c.Extensions[access.ExtensionGrace] = "-5m" }, end, -1},
		{"nonsense", func(c *ssh.Certificate) { c.Extensions[access.ExtensionGrace] = "x" }, end, -1},
		{"no warning", func(c *ssh.Certificate) { c.Extensions[access.ExtensionWarn] = "0s" }, end, 0},
		{"warning", func(c *ssh.Certificate) { c.Extensions[access.ExtensionWarn] = "10m" }, end, 10 * time.Minute},
		{"without an end", func(c *ssh.Certificate) { c.ValidBefore = ssh.CertTimeInfinity }, time.Time{}, -1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := userCert(t, ca, func(c *ssh.Certificate) { c.ValidBefore = uint64(end.Unix()); tt.change(c) })
			g := readGrant(c, []ssh.PublicKey{ca.PublicKey()})
			if !g.over().Equal(tt.over) || g.warn != tt.warn {
				t.Errorf("over %s, warn %s", g.over(), g.warn)
			}
		})
	}
}

func TestParseStat(t *testing.T) {
	line := "12 (a) b (c) S 7 12 12 34816 12 4194560 1 0 0 0 1 2 3 4 20 0 1 0 98765 1 2"
	st, err := parseStat([]byte(line))
	if err != nil || st != (stat{parent: 7, tty: 34816, start: 98765}) {
		t.Errorf("%+v, %v", st, err)
	}
	for _, bad := range []string{"", "12 (a", "12 (a) S", "12 (a) S x 12 12 34816 12 4194560 1 0 0 0 1 2 3 4 20 0 1 0 98765"} {
		if _, err := parseStat([]byte(bad)); err == nil {
			t.Errorf("%q is read", bad)
		}
	}
}

func TestParseMountinfo(t *testing.T) {
	const v1 = "31 25 0:27 / /sys/fs/cgroup/cpu rw shared:9 - cgroup cgroup rw,cpu\n"
	if got, err := parseMountinfo(v1 + "32 25 0:28 / /sys/fs/cgroup/unified rw shared:10 - cgroup2 cgroup2 rw\n"); err != nil || got != "/sys/fs/cgroup/unified" {
		t.Errorf("%q, %v", got, err)
	}
	if _, err := parseMountinfo(v1); err == nil {
		t.Error("version 1 is taken")
	}
}

// A report that the service will never take doesn't keep the others waiting.
func TestReportsRefused(t *testing.T) {
	f := newService(t)
	s, err := dialService(f.server.URL, f.caPEM())
	must(t, err)
	key := newSigner(t)
	f.agentKey = key.PublicKey()
	q, err := openReports(t.TempDir(), "web-1", key, time.Now, slog.New(slog.DiscardHandler))
	must(t, err)
	g := readGrant(userCert(t, newSigner(t), nil), nil)
	add := func() {
		q.add(event{What: access.SessionOpened, Session: record{ID: statement.NewID(), Login: "root", Source: "unknown"}, grant: g})
	}
	f.refuse = access.CodeForbidden
	add()
	must(t, q.deliver(context.Background(), s))
	if n, _ := q.waiting(); n != 0 {
		t.Errorf("%d wait", n)
	}
	if kept, err := os.ReadDir(filepath.Join(q.dir, "refused")); err != nil || len(kept) != 1 {
		t.Errorf("%d are kept, %v", len(kept), err)
	}
	// One that comes later may be taken.
	f.refuse = access.CodeUnavailable
	add()
	if err := q.deliver(context.Background(), s); access.CodeOf(err) != access.CodeUnavailable {
		t.Errorf("%v", err)
	}
	f.refuse = ""
	// And a file that isn't one of ours.
	must(t, os.WriteFile(filepath.Join(q.dir, statement.NewID()+".json"), []byte("{"), 0o600))
	must(t, q.deliver(context.Background(), s))
	if len(f.events(g.request)) != 1 {
		t.Errorf("reports %+v", f.reports)
	}
}

// Whatever sshd says of a login, reading it ends.
func FuzzReadAuthInfo(f *testing.F) {
	cert := userCert(f, newSigner(f), nil)
	f.Add("publickey " + string(ssh.MarshalAuthorizedKey(cert)))
	f.Add("publickey ssh-ed25519-cert-v01@openssh.com AAAA\npassword\n")
	f.Fuzz(func(t *testing.T, info string) {
		g, err := readAuthInfo(info, nil)
		if g != nil && (err != nil || keyID.FindString(g.cert.KeyId) == "") {
			t.Errorf("%+v, %v", g, err)
		}
	})
}
