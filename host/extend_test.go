//go:build linux

package host

import (
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"hallpass/access"
)

// A session goes on when its user has logged in with the certificate of an
// extension, also over a restart of the agent, and ends with that one. Nothing
// else lets it go on.
func TestExtendedSessionGoesOn(t *testing.T) {
	needHost(t)
	w := newWorld(t)
	const life = 8 * time.Second
	open := func(change func(*ssh.Certificate)) (*client, string) {
		_, id, file := w.certificate(life, change)
		c := w.ssh(append(w.args(file), "echo rea''dy; sleep 1000")...)
		c.ready("ready")
		return c, id
	}
	kept, first := open(nil)
	plain, _ := open(nil)
	others, theirs := open(func(c *ssh.Certificate) { c.KeyId = strings.TrimSuffix(c.KeyId, "alice") + "bob" })
	extends := func(request string) func(*ssh.Certificate) {
		return func(c *ssh.Certificate) { c.Extensions[access.ExtensionExtends] = request }
	}
	_, second, file := w.certificate(time.Hour, extends(first))
	for _, extension := range []string{file, func() string { _, _, f := w.certificate(time.Hour, extends(theirs)); return f }()} {
		if out, err := w.login(extension, "true"); err != nil {
			t.Fatalf("login with the extension: %v: %s", err, out)
		}
	}
	plain.wait("its own end")
	others.wait("its own end")
	if !kept.running() {
		t.Fatal("the session that was extended has ended")
	}
	eventually(t, "the others are gone", func() bool { return len(w.sessions()) == 1 })
	w.killAgent()
	w.startAgent()
	s := w.sessions()
	if len(s) != 1 || s[0].Request != first || !s[0].Ends.After(time.Now().Add(50*time.Minute)) {
		t.Fatalf("the sessions are %+v", s)
	}
	// The row goes on: what extends the extension extends it, too.
	third, _, file := w.certificate(2*time.Hour, extends(second))
	if out, err := w.login(file, "true"); err != nil {
		t.Fatalf("login with the second extension: %v: %s", err, out)
	}
	if s := w.sessions(); len(s) == 0 || !s[0].Ends.After(time.Now().Add(90*time.Minute)) {
		t.Fatalf("the sessions are %+v", s)
	}
	w.service.revoke(third.Serial)
	kept.wait("the revocation of the extension")
}

// What lets a session go on is for the same requester and login, and nothing
// else.
func TestContinues(t *testing.T) {
	g := func(request, extends, requester string, principals ...string) *grant {
		c := &ssh.Certificate{ValidPrincipals: principals}
		return &grant{cert: c, request: request, requester: requester, extends: extends}
	}
	was := g("a", "", "alice", "web-1/root")
	for name, c := range map[string]struct {
		g    *grant
		want bool
	}{
		"it":                {g("b", "a", "alice", "web-1/root"), true},
		"another's":         {g("b", "a", "bob", "web-1/root"), false},
		"another login":     {g("b", "a", "alice", "web-1/deploy"), false},
		"more logins":       {g("b", "a", "alice", "web-1/root", "web-1/deploy"), false},
		"of another":        {g("b", "c", "alice", "web-1/root"), false},
		"extends nothing":   {g("b", "", "alice", "web-1/root"), false},
		"extends nothing 2": {g("a", "", "alice", "web-1/root"), false},
	} {
		if got := c.g.continues(was); got != c.want {
			t.Errorf("%s: %t, want %t", name, got, c.want)
		}
	}
}
