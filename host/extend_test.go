//go:build linux

package host

import (
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"hallpass/access"
)

// A session goes on when its grant was extended, whatever its user does: the
// host asks before it ends it. It ends with the extension, or when that is taken
// away, and what the service says is held to what a CA has signed.
func TestSessionGoesOnByItself(t *testing.T) {
	needHost(t)
	w := newWorld(t)
	const life = 10 * time.Second
	open := func(change func(*ssh.Certificate)) (*client, *ssh.Certificate, string) {
		cert, id, file := w.certificate(life, change)
		c := w.ssh(append(w.args(file), "echo rea''dy; sleep 1000")...)
		c.ready("ready")
		return c, cert, id
	}
	extends := func(request string, change func(*ssh.Certificate)) func(*ssh.Certificate) {
		return func(c *ssh.Certificate) {
			c.Extensions[access.ExtensionExtends] = request
			if change != nil {
				change(c)
			}
		}
	}
	// Each is extended at once: they don't last for long, and logins take their time.
	kept, first, request := open(nil)
	second, next, _ := w.certificate(time.Hour, extends(request, nil))
	third, _, _ := w.certificate(2*time.Hour, extends(next, nil))
	w.service.extend(first, second)
	w.service.extend(second, third)
	short, shortCert, request := open(nil)
	soon, _, _ := w.certificate(life+20*time.Second, extends(request, nil))
	w.service.extend(shortCert, soon)
	plain, _, _ := open(nil)

	// What a service that nobody should trust may say.
	lied, cert, request := open(nil)
	good := extends(request, nil)
	another, _, _ := w.certificate(time.Hour, nil)
	others, _, _ := w.certificate(time.Hour, extends(request, func(c *ssh.Certificate) { c.KeyId = strings.TrimSuffix(c.KeyId, "alice") + "bob" }))
	elsewhere, _, _ := w.certificate(time.Hour, extends(request, func(c *ssh.Certificate) { c.ValidPrincipals = []string{"web-2/" + login} }))
	forged, _, _ := w.certificate(time.Hour, good)
	forged.ValidBefore += 3600 // the signature isn't for it
	w.signer = newSigner(t)
	foreign, _, _ := w.certificate(time.Hour, good)
	w.signer = nil
	over, _, _ := w.certificate(time.Hour, extends(request, func(c *ssh.Certificate) { c.ValidBefore = uint64(time.Now().Add(-time.Second).Unix()) }))
	revoked, _, _ := w.certificate(time.Hour, good)
	w.service.revoke(revoked.Serial)
	w.service.extend(cert, another, others, elsewhere, forged, foreign, over, revoked)

	plain.wait("its own end")
	lied.wait("its own end, whatever the service says")
	if !kept.running() || !short.running() {
		t.Fatal("a session that was extended has ended")
	}
	short.wait("the end of its extension")
	if until := soon.ValidBefore; short.gone.Before(time.Unix(int64(until), 0)) {
		t.Errorf("it has ended %s before its extension", time.Until(time.Unix(int64(until), 0)))
	}
	eventually(t, "the others are gone", func() bool { return len(w.sessions()) == 1 })
	if s := w.sessions(); s[0].Ends.Unix() != int64(second.ValidBefore) {
		t.Errorf("it goes on until %s, not the end of its extension", s[0].Ends)
	}
	w.killAgent()
	w.startAgent()
	if s := w.sessions(); len(s) != 1 || s[0].Ends.Unix() != int64(second.ValidBefore) {
		t.Fatalf("after a restart the sessions are %+v", s)
	}
	w.service.revoke(second.Serial)
	kept.wait("the revocation of the extension")
	w.service.mu.Lock()
	asked := w.service.asked
	w.service.mu.Unlock()
	if asked == 0 || asked > 100 {
		t.Errorf("the service was asked %d times", asked)
	}
}

// When it is asked whether a session's grant was extended, and how often.
func TestAsks(t *testing.T) {
	end := time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)
	for _, tt := range []struct {
		name        string
		warn, grace time.Duration
		first       time.Duration // before the end
		most        int
	}{
		{"with the usual warning", -1, 0, 150 * time.Second, 25},
		{"with none", 0, 0, 150 * time.Second, 25},
		{"with an early one", time.Hour, 0, time.Hour + 30*time.Second, 35},
		{"with grace", -1, time.Hour, 150*time.Second - time.Hour, 25},
	} {
		t.Run(tt.name, func(t *testing.T) {
			began := end.Add(-2 * time.Hour)
			now := began
			s := &sessions{warn: 2 * time.Minute, live: map[string]*session{}}
			at := func(to time.Time) { now = to; s.offset = time.Until(to) }
			g := &grant{cert: &ssh.Certificate{Key: newSigner(t).PublicKey(), SignatureKey: newSigner(t).PublicKey(), Signature: &ssh.Signature{}}, end: end, grace: tt.grace, warn: tt.warn}
			s.live["1"] = &session{record: record{Opened: began}, grant: g}
			s.live["2"] = &session{record: record{Opened: began}, grant: g}
			at(began)
			var asked []time.Time
			for now.Before(end.Add(tt.grace)) {
				lines, next := s.asks()
				if len(lines) > 1 {
					t.Fatalf("one certificate is asked about %d times at once", len(lines))
				}
				if len(lines) == 1 {
					asked = append(asked, now)
				}
				if !next.After(now.Add(-time.Second / 2)) {
					t.Fatalf("at %s it is time again at %s", now, next)
				}
				at(next.Add(time.Millisecond))
			}
			if len(asked) == 0 || asked[0].Sub(end.Add(-tt.first)).Abs() > time.Second {
				t.Errorf("asked at %s first", asked)
			}
			if last := end.Add(tt.grace).Sub(asked[len(asked)-1]); last > 2*time.Second {
				t.Errorf("asked last %s before the end", last)
			}
			if len(asked) > tt.most {
				t.Errorf("asked %d times", len(asked))
			}
		})
	}
}

// A session goes on when its user has logged in with the certificate of an
// extension, also over a restart of the agent, and ends with that one. Nothing
// else lets it go on.
func TestExtendedSessionGoesOn(t *testing.T) {
	needHost(t)
	w := newWorld(t)
	const life = 20 * time.Second // for four logins
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
	restricted := func(g *grant) *grant {
		g.cert.CriticalOptions = map[string]string{"force-command": "true"}
		return g
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
		"restricted since":  {restricted(g("b", "a", "alice", "web-1/root")), false},
		"extends nothing":   {g("b", "", "alice", "web-1/root"), false},
		"extends nothing 2": {g("a", "", "alice", "web-1/root"), false},
	} {
		if got := c.g.continues(was); got != c.want {
			t.Errorf("%s: %t, want %t", name, got, c.want)
		}
	}
}
