package evidence

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"hallpass/access"
	"hallpass/statement"
)

// withLocks is a world where group sec may lock: erin, trent and victor.
func withLocks(t testing.TB) *world {
	w := newWorld(t)
	w.groups["trent"], w.groups["victor"] = []string{"sec"}, []string{"sec"}
	w.policy = "locks: {groups: [sec]}\n" + testPolicy
	return w
}

// lock is erin's lock a minute after alice has asked, changed by change.
func lock(t testing.TB, kind, name string, change ...func(*access.Lock)) access.Lock {
	t.Helper()
	l := access.Lock{
		Header: access.Header{Type: access.TypeLock, ID: statement.NewID(), Signer: "erin", Time: asked.Add(time.Minute)},
		Action: access.ActionLock, Kind: kind, Name: name, Reason: "stolen",
	}
	for _, f := range change {
		f(&l)
	}
	return l
}

func unlock(t testing.TB, by string, of access.Lock, change ...func(*access.Lock)) access.Lock {
	t.Helper()
	l := lock(t, of.Kind, of.Name, func(l *access.Lock) { l.Action, l.Lock, l.Signer, l.Reason = access.ActionUnlock, of.ID, by, "" })
	for _, f := range change {
		f(&l)
	}
	return l
}

func until(after time.Duration) func(*access.Lock) {
	return func(l *access.Lock) { t := asked.Add(after); l.Until = &t }
}

func signedAt(after time.Duration) func(*access.Lock) {
	return func(l *access.Lock) { l.Time = asked.Add(after) }
}

// held is what is in force once these were recorded.
func held(t testing.TB, words ...access.Lock) (locks Locks) {
	t.Helper()
	for _, l := range words {
		locks = locks.After(l, sign(t, l.Signer, l))
	}
	return locks
}

func wantCode(t *testing.T, err error, code access.Code, message string) {
	t.Helper()
	switch {
	case code == "" && err != nil:
		t.Errorf("refused: %v", err)
	case code != "" && (access.CodeOf(err) != code || err.Error() != message):
		t.Errorf("got  %q: %v\nwant %q: %s", access.CodeOf(err), err, code, message)
	}
}

func TestJudgeUnderLocks(t *testing.T) {
	w := withLocks(t)
	const hosts = `
resources:
  ssh/web: {labels: {role: web}, logins: [deploy], hosts: [web-1, web-1.example.com, web-2], address: "10.0.0.7:2222"}
  ssh/free: {labels: {role: free}, logins: [deploy], address: jump.example.com}
`
	book, err := NewRulebook([]byte(w.policy), w.directory(), []byte(hosts))
	if err != nil {
		t.Fatal(err)
	}
	request := w.ask()
	approved := evidence(request, w.decide(request, "bob"))
	now := asked.Add(2 * time.Minute)
	user, other := lock(t, "user", "alice"), lock(t, "user", "mallory")
	for _, tt := range []struct {
		name  string
		locks Locks
		why   string // "" for allowed
	}{
		{"nothing", nil, ""},
		{"requester", held(t, user), "user alice is locked by erin: stolen"},
		{"another user", held(t, other), ""},
		{"requester, lifted", held(t, user, unlock(t, "trent", user)), ""},
		{"requester, another lifted", held(t, user, other, unlock(t, "trent", other)), "user alice is locked by erin: stolen"},
		{"requester twice, one lifted", held(t, user, lock(t, "user", "alice", func(l *access.Lock) { l.Reason = "again" }), unlock(t, "trent", user)), "user alice is locked by erin: again"},
		{"a second left", held(t, lock(t, "user", "alice", until(2*time.Minute+time.Second))), "user alice is locked by erin until 2026-11-20T10:02:01Z: stolen"},
		{"ended this second", held(t, lock(t, "user", "alice", until(2*time.Minute))), ""},
		{"resource", held(t, lock(t, "resource", "ssh/web")), "resource ssh/web is locked by erin: stolen"},
		{"another resource", held(t, lock(t, "resource", "ssh/web-1")), ""},
		{"host", held(t, lock(t, "host", "web-1.example.com")), "host web-1.example.com is locked by erin: stolen"},
		{"one of several hosts", held(t, lock(t, "host", "web-2")), "host web-2 is locked by erin: stolen"},
		{"host by the resource's short name", held(t, lock(t, "host", "web")), "host web is locked by erin: stolen"},
		{"host by its address", held(t, lock(t, "host", "10.0.0.7")), "host 10.0.0.7 is locked by erin: stolen"},
		{"another host", held(t, lock(t, "host", "web-3")), ""},
		{"approver", held(t, lock(t, "user", "bob")), "needs 1 approval from sre"},
		{"approver, before", held(t, lock(t, "user", "bob", until(90*time.Second))), ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s, err := book.Under(tt.locks).Judge(approved, now, Known{})
			if err != nil {
				t.Fatal(err)
			}
			if tt.why == "" && s.Effect != access.EffectAllow || tt.why != "" && (s.Effect == access.EffectAllow || s.Why != tt.why) {
				t.Errorf("%s: %s, want %q", s.Effect, s.Why, tt.why)
			}
			if s.Effect != access.EffectAllow && s.Duration != 0 {
				t.Errorf("%s granted under a lock", s.Duration)
			}
			// The rulebook itself has no locks.
			if s, err := book.Judge(approved, now, Known{}); err != nil || s.Effect != access.EffectAllow {
				t.Errorf("%v, %v", s.Effect, err)
			}
		})
	}
	if s, _ := book.Under(held(t, lock(t, "user", "bob"))).Judge(approved, now, Known{}); len(s.Dropped) != 1 || s.Dropped[0] != "approve by bob doesn't count: user bob is locked by erin: stolen" {
		t.Error(s.Dropped)
	}
	_, _, err = book.Under(held(t, lock(t, "user", "bob"))).Hear(evidence(request), w.decide(request, "bob"), now, Known{})
	wantCode(t, err, access.CodeForbidden, "user bob is locked by erin: stolen, so his word doesn't count")
	_, _, err = book.Under(held(t, user)).Hear(evidence(request), w.decide(request, "bob"), now, Known{})
	wantCode(t, err, access.CodeDenied, "the request is denied already: user alice is locked by erin: stolen")
}

func TestReach(t *testing.T) {
	w := withLocks(t)
	book, err := NewRulebook([]byte(w.policy), w.directory(), []byte(`
resources:
  ssh/a: {logins: [x], hosts: [h, i]}
  ssh/b: {logins: [x], address: "h:22"}
  ssh/c: {logins: [x]}
  db/h: {actions: [read]}
`))
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		kind, name, requester string
		resources             []string
	}{
		{"user", "alice", "alice", nil},
		{"resource", "ssh/gone", "", []string{"ssh/gone"}},
		{"host", "h", "", []string{"ssh/h", "ssh/a", "ssh/b"}},
		{"host", "c", "", []string{"ssh/c"}},
		{"host", "gone", "", []string{"ssh/gone"}},
		{"host", "2001:db8::1", "", nil},
	} {
		l := lock(t, tt.kind, tt.name)
		requester, resources := book.Reach(l)
		if d := cmp.Diff(tt.resources, resources); d != "" || requester != tt.requester {
			t.Errorf("%s %s reaches %q, %s", tt.kind, tt.name, requester, d)
		}
		for _, res := range resources {
			if !book.Covers(l, "zoe", res) {
				t.Errorf("%s %s reaches %s and doesn't cover it", tt.kind, tt.name, res)
			}
		}
	}
}

func TestCheckLock(t *testing.T) {
	w := withLocks(t)
	now := asked.Add(2 * time.Minute)
	user := lock(t, "user", "alice")
	lifted := lock(t, "user", "mallory")
	erin := lock(t, "user", "erin", func(l *access.Lock) { l.Signer = "trent" })
	by := func(name string) func(*access.Lock) { return func(l *access.Lock) { l.Signer = name } }
	forbidden := " is in none of the groups that may lock and unlock"
	for _, tt := range []struct {
		name  string
		locks Locks
		st    access.Statement
		code  access.Code
		err   string
	}{
		{"lock", nil, sign(t, "erin", user), "", ""},
		{"lock of oneself", nil, sign(t, "erin", lock(t, "user", "erin")), "", ""},
		{"lock of nobody known", nil, sign(t, "erin", lock(t, "user", "zoe")), "", ""},
		{"by somebody else", nil, sign(t, "mallory", lock(t, "user", "alice", by("mallory"))), access.CodeForbidden, "mallory" + forbidden},
		{"by an approver", nil, sign(t, "bob", lock(t, "user", "alice", by("bob"))), access.CodeForbidden, "bob" + forbidden},
		{"in another's name", nil, sign(t, "mallory", user), access.CodeUnverified, "lock names erin as its signer, but is signed by a key of mallory"},
		{"by nobody's key", nil, sign(t, "eve", user), access.CodeUnverified, ""},
		{"changed", nil, func() access.Statement {
			st := sign(t, "erin", user)
			st.Payload = strings.Replace(st.Payload, "alice", "carol", 1)
			return st
		}(), access.CodeUnverified, ""},
		{"unsigned", nil, access.Statement{Payload: sign(t, "erin", user).Payload}, access.CodeUnverified, "lock is not signed"},
		{"as far ahead as clocks differ", nil, sign(t, "erin", lock(t, "user", "alice", signedAt(2*time.Minute+skew))), "", ""},
		{"a second more", nil, sign(t, "erin", lock(t, "user", "alice", signedAt(2*time.Minute+skew+time.Second))), access.CodeStale, "lock is dated more than 5m in the future"},
		{"a year old", nil, sign(t, "erin", lock(t, "user", "alice", signedAt(-365*day))), "", ""},
		{"ended before it came", nil, sign(t, "erin", lock(t, "user", "alice", until(2*time.Minute))), access.CodeStale, "the lock has ended at 2026-11-20T10:02:00Z, before it came"},
		{"a second left", nil, sign(t, "erin", lock(t, "user", "alice", until(2*time.Minute+time.Second))), "", ""},
		{"by who is locked", held(t, erin), sign(t, "erin", user), access.CodeForbidden, "user erin is locked by trent: stolen, so he locks and unlocks nothing"},

		{"unlock by who locked", held(t, user), sign(t, "erin", unlock(t, "erin", user)), "", ""},
		{"unlock by another", held(t, user), sign(t, "trent", unlock(t, "trent", user)), "", ""},
		{"unlock by the locked one", held(t, user), sign(t, "alice", unlock(t, "alice", user)), access.CodeForbidden, "alice" + forbidden},
		{"unlock by an approver", held(t, user), sign(t, "bob", unlock(t, "bob", user)), access.CodeForbidden, "bob" + forbidden},
		{"unlock by a locked locker", held(t, erin), sign(t, "erin", unlock(t, "erin", erin)), access.CodeForbidden, "user erin is locked by trent: stolen, so he locks and unlocks nothing"},
		{"unlock of nothing", nil, sign(t, "erin", unlock(t, "erin", user)), access.CodeNotFound, "there is no lock " + user.ID + ", or it was lifted before"},
		{"unlock again", held(t, lifted, unlock(t, "erin", lifted)), sign(t, "erin", unlock(t, "erin", lifted)), access.CodeNotFound, "there is no lock " + lifted.ID + ", or it was lifted before"},
		{"unlock under another name", held(t, user), sign(t, "erin", unlock(t, "erin", user, func(l *access.Lock) { l.Name = "mallory" })), access.CodeMismatch, "lock " + user.ID + " is on user alice, not on user mallory"},
		{"unlock of a day", held(t, user), sign(t, "erin", unlock(t, "erin", user, signedAt(2*time.Minute-day))), "", ""},
		{"unlock of a day and a second", held(t, user), sign(t, "erin", unlock(t, "erin", user, signedAt(2*time.Minute-day-time.Second))), access.CodeStale, "the unlock is older than 1d"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l, user, err := w.book().Under(tt.locks).CheckLock(tt.st, now)
			if tt.err == "" && access.CodeOf(err) == tt.code {
				if (err == nil) != (l.ID != "" && user.Name == l.Signer) {
					t.Errorf("%+v, %+v", l, user)
				}
				return
			}
			wantCode(t, err, tt.code, tt.err)
		})
	}
	nobody := w.change(func(w *world) { w.policy = testPolicy })
	_, _, err := nobody.book().CheckLock(sign(t, "erin", user), now)
	wantCode(t, err, access.CodeForbidden, "erin"+forbidden)
}

// A lock stands when who signed it has gone; it takes another to lift it.
func TestLockOutlivesItsSigner(t *testing.T) {
	w := withLocks(t)
	l := lock(t, "user", "alice")
	request := w.ask(on("free"))
	gone := w.change(func(w *world) { delete(w.groups, "erin") })
	book := gone.book().Under(held(t, l))
	s, err := book.Judge(evidence(request), asked.Add(day), Known{})
	if err != nil || s.Effect != access.EffectDeny || s.Why != "user alice is locked by erin: stolen" {
		t.Errorf("%s %s, %v", s.Effect, s.Why, err)
	}
	if _, _, err := book.CheckLock(sign(t, "erin", unlock(t, "erin", l)), asked.Add(2*time.Minute)); access.CodeOf(err) != access.CodeUnverified {
		t.Errorf("who left lifts his lock: %v", err)
	}
	if _, _, err := book.CheckLock(sign(t, "trent", unlock(t, "trent", l)), asked.Add(2*time.Minute)); err != nil {
		t.Error(err)
	}
}

func TestCheckLocked(t *testing.T) {
	w := withLocks(t)
	request := w.ask()
	user, other := lock(t, "user", "alice", until(time.Hour)), lock(t, "user", "mallory")
	old := lock(t, "user", "alice")
	locks := held(t, user, other, old, unlock(t, "trent", old), lock(t, "resource", "ssh/web"))
	gone := w.change(func(w *world) { delete(w.groups, "alice"); w.roles = []string{"free"} })
	for _, tt := range []struct {
		name string
		w    *world
		st   access.Statement
		at   time.Duration
		code access.Code
		err  string
	}{
		{"in force", w, locks[0].Statement, 2 * time.Minute, "", ""},
		{"without signature", w, access.Statement{Payload: locks[0].Statement.Payload}, 2 * time.Minute, access.CodeForbidden, "no such lock is in force"},
		{"a second before its end", w, locks[0].Statement, time.Hour - time.Second, "", ""},
		{"ended", w, locks[0].Statement, time.Hour, access.CodeForbidden, "no such lock is in force"},
		{"of the resource", w, locks[2].Statement, 2 * time.Minute, "", ""},
		{"requester and resource have gone", gone, locks[0].Statement, 2 * time.Minute, "", ""},
		{"resource has gone", gone, locks[2].Statement, 2 * time.Minute, "", ""},
		{"of another", w, locks[1].Statement, 2 * time.Minute, access.CodeMismatch, "user mallory is locked, which is not what the request is about"},
		{"lifted", w, sign(t, "erin", old), 2 * time.Minute, access.CodeForbidden, "no such lock is in force"},
		{"never recorded", w, sign(t, "erin", lock(t, "user", "alice")), 2 * time.Minute, access.CodeForbidden, "no such lock is in force"},
		{"forged", w, sign(t, "eve", lock(t, "user", "alice")), 2 * time.Minute, access.CodeForbidden, "no such lock is in force"},
		{"an unlock", w, sign(t, "erin", unlock(t, "erin", user)), 2 * time.Minute, access.CodeForbidden, "no such lock is in force"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l, err := tt.w.book().Under(locks).CheckLocked(request, tt.st, asked.Add(tt.at))
			wantCode(t, err, tt.code, tt.err)
			if err == nil && l.ID == "" {
				t.Error("no lock")
			}
		})
	}
}
