//go:build linux

package host

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"hallpass/access"
	"hallpass/ca/krl"
)

// sshd gets of the list what can concern this host, by the principals that it
// honours, and all of it where they can't be understood. The agent has the
// whole list in any case.
func TestSSHDGetsItsPart(t *testing.T) {
	serial := func(name string, n uint64) uint64 { return krl.Serial(krl.Series(name), n) }
	ours, group, other, old := serial("web-1", 1), serial("web", 1), serial("db-1", 1), uint64(17)
	all := []uint64{ours, group, other, old}
	for _, tt := range []struct {
		name  string
		files map[string]string // principals by login; nil: no folder
		want  []uint64
		alone bool
	}{
		{"its own", map[string]string{"deploy": "web-1/deploy\n"}, []uint64{ours, old}, false},
		{"its own and a group's", map[string]string{"deploy": "web-1/deploy\nweb/deploy\n", "root": "web-1/root\n"}, []uint64{ours, group, old}, false},
		{"comments and space", map[string]string{"deploy": "# db-1/deploy\n\n  web/deploy  \n"}, []uint64{group, old}, false},
		{"none", map[string]string{}, []uint64{old}, false},
		{"with options", map[string]string{"deploy": "web-1/deploy\ncommand=\"x\" db-1/deploy\n"}, all, false},
		{"not of hallpass's form", map[string]string{"deploy": "web-1/deploy\nsomebody\n"}, all, false},
		{"a file that can't be read", map[string]string{"deploy": "web-1/deploy\n", "folder/": ""}, all, false},
		{"no folder", nil, all, false},
		{"without PAM", map[string]string{"deploy": "web-1/deploy\n"}, all, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := &lists{layout: Layout{Root: t.TempDir()}, alone: tt.alone, now: time.Now, log: slog.New(slog.DiscardHandler)}
			ca := newSigner(t)
			must(t, os.MkdirAll(l.layout.state(), 0o755), os.MkdirAll(l.layout.etc(), 0o755), os.WriteFile(l.layout.userCAs(), marshal(ca), 0o644))
			if tt.files != nil {
				must(t, os.Mkdir(l.layout.principals(), 0o755))
			}
			for name, text := range tt.files {
				if filepath.Base(name)+"/" == name {
					must(t, os.Mkdir(filepath.Join(l.layout.principals(), name), 0o755))
					continue
				}
				must(t, os.WriteFile(filepath.Join(l.layout.principals(), name), []byte(text), 0o644))
			}
			data, signature := signedBy(ca, 5, time.Now(), all...)
			must(t, l.take(context.Background(), signedList{data, signature}, func(list *krl.List) { revokes(t, "the agent's list", list, ca, all, all) }))
			revokes(t, "sshd's file", l.sshds(t), ca, all, tt.want)
			if st := l.status(); st.Here != len(tt.want) || st.Revoked != len(all) {
				t.Errorf("status %+v", st)
			}
			// The next start makes the same of it.
			must(t, os.Remove(l.layout.revokedKeys()))
			again := &lists{layout: l.layout, alone: tt.alone, now: time.Now, log: l.log}
			_, err := again.load()
			must(t, err)
			revokes(t, "sshd's file after a restart", again.sshds(t), ca, all, tt.want)
		})
	}
}

// sshds is what sshd reads.
func (l *lists) sshds(t *testing.T) *krl.List {
	t.Helper()
	data, err := os.ReadFile(l.layout.revokedKeys())
	must(t, err)
	list, err := krl.Parse(data)
	must(t, err)
	return list
}

func revokes(t *testing.T, what string, list *krl.List, ca ssh.Signer, all, want []uint64) {
	t.Helper()
	for _, s := range all {
		if got := list.Revoked(ca.PublicKey(), s); got != slices.Contains(want, s) {
			t.Errorf("%s revokes %d: %t", what, s, got)
		}
	}
}

// What comes to be honoured is in sshd's file before it is; what isn't honoured
// any more leaves it.
func TestPrincipalsChange(t *testing.T) {
	web, db := krl.Serial(krl.Series("web-1"), 1), krl.Serial(krl.Series("db-1"), 1)
	all := []uint64{web, db}
	l := &lists{layout: Layout{Root: t.TempDir()}, now: time.Now, log: slog.New(slog.DiscardHandler)}
	ca := newSigner(t)
	file := filepath.Join(l.layout.principals(), "deploy")
	must(t, os.MkdirAll(l.layout.state(), 0o755), os.MkdirAll(l.layout.principals(), 0o755),
		os.WriteFile(l.layout.userCAs(), marshal(ca), 0o644), os.WriteFile(file, []byte("web-1/deploy\n"), 0o644))
	data, signature := signedBy(ca, 5, time.Now(), all...)
	must(t, l.take(context.Background(), signedList{data, signature}, func(*krl.List) {}))
	revokes(t, "at first", l.sshds(t), ca, all, []uint64{web})
	must(t, l.expect(map[string][]string{"deploy": {"db-1/deploy"}}))
	revokes(t, "before", l.sshds(t), ca, all, all)
	must(t, os.WriteFile(file, []byte("db-1/deploy\n"), 0o644))
	l.guard(context.Background())
	revokes(t, "afterwards", l.sshds(t), ca, all, []uint64{db})
	// By hand.
	must(t, os.WriteFile(file, []byte("db-1/deploy\nweb-1/deploy\n"), 0o644))
	l.guard(context.Background())
	revokes(t, "by hand", l.sshds(t), ca, all, all)
	must(t, os.WriteFile(file, []byte("who knows\n"), 0o644))
	l.guard(context.Background())
	revokes(t, "when it can't be told", l.sshds(t), ca, all, all)
}

// newLists has a list of version 4 that revokes one, and one of version 5 that
// revokes another beside it.
func newLists(t *testing.T) (l *lists, ca ssh.Signer, all []uint64, four, five signedList) {
	l = &lists{layout: Layout{Root: t.TempDir()}, now: time.Now, log: slog.New(slog.DiscardHandler)}
	ca = newSigner(t)
	must(t, os.MkdirAll(l.layout.state(), 0o755), os.MkdirAll(l.layout.principals(), 0o755),
		os.WriteFile(l.layout.userCAs(), marshal(ca), 0o644),
		os.WriteFile(filepath.Join(l.layout.principals(), "deploy"), []byte("web-1/deploy\n"), 0o644))
	all = []uint64{krl.Serial(krl.Series("web-1"), 1), krl.Serial(krl.Series("web-1"), 2)}
	four.List, four.Signature = signedBy(ca, 4, time.Now(), all[0])
	five.List, five.Signature = signedBy(ca, 5, time.Now(), all...)
	must(t, l.take(context.Background(), four, func(*krl.List) {}))
	return l, ca, all, four, five
}

// block makes a file one that can't be replaced, and free makes it one again.
func block(t *testing.T, path string) (free func()) {
	t.Helper()
	must(t, os.Rename(path, path+".was"), os.MkdirAll(filepath.Join(path, "x"), 0o755))
	return func() { must(t, os.RemoveAll(path), os.Rename(path+".was", path)) }
}

// The service sends a list once. If it can't be written, that is tried again.
func TestListIsWrittenLater(t *testing.T) {
	for _, tt := range []struct {
		name string
		file func(Layout) string
		want int // of all, as long as it can't be written: what sshd's file revokes
	}{
		{"sshd's", Layout.revokedKeys, 1},
		{"the signed one", Layout.signedKRL, 2},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l, ca, all, _, five := newLists(t)
			free := block(t, tt.file(l.layout))
			if err := l.take(context.Background(), five, func(*krl.List) {}); err == nil {
				t.Fatal("taken, though it couldn't be written")
			}
			l.guard(context.Background())
			if st := l.status(); st.Version != 5 || st.Problem == "" {
				t.Errorf("status %+v", st)
			}
			free()
			revokes(t, "sshd's file while the list can't be written", l.sshds(t), ca, all, all[:tt.want])
			l.guard(context.Background())
			revokes(t, "sshd's file afterwards", l.sshds(t), ca, all, all)
			if st := l.status(); st.Problem != "" {
				t.Errorf("status %+v", st)
			}
			again := &lists{layout: l.layout, now: time.Now, log: l.log}
			if list, err := again.load(); err != nil || list.Version != 5 {
				t.Errorf("after a restart: %v, %v", list, err)
			}
		})
	}
}

// A restart takes back no revocation, wherever the agent ended while it wrote a
// list, and with nobody there to ask for a newer one.
func TestRestartKeepsTheNewerList(t *testing.T) {
	for _, tt := range []struct {
		name string
		file func(Layout) string // the one that isn't written
		want uint64              // version that the agent starts with
	}{
		{"between the two files", Layout.revokedKeys, 5},
		{"with the signed one unwritten", Layout.signedKRL, 4},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l, ca, all, _, five := newLists(t)
			free := block(t, tt.file(l.layout))
			_ = l.take(context.Background(), five, func(*krl.List) {})
			free()
			again := &lists{layout: l.layout, now: time.Now, log: l.log}
			list, err := again.load()
			must(t, err)
			if list.Version != tt.want {
				t.Errorf("the agent starts with list %d, want %d", list.Version, tt.want)
			}
			revokes(t, "sshd's file after a restart", again.sshds(t), ca, all, all)
			must(t, os.WriteFile(l.layout.revokedKeys(), nil, 0o644))
			again.guard(context.Background())
			revokes(t, "sshd's file, put back", again.sshds(t), ca, all, all)
			if tt.want == 4 {
				must(t, again.take(context.Background(), five, func(*krl.List) {}))
			}
			if got, _, err := again.read(); err != nil || got.Version != 5 {
				t.Errorf("kept: %v, %v", got, err)
			}
		})
	}
}

// What the signed list revokes for principals that come later isn't lost where
// sshd's is newer, and status and check say how it is.
func TestNewerListOfSSHD(t *testing.T) {
	l, ca, all, _, _ := newLists(t)
	db := krl.Serial(krl.Series("db-1"), 1)
	var kept, newer signedList
	kept.List, kept.Signature = signedBy(ca, 5, time.Now(), all[0], db)
	newer.List, newer.Signature = signedBy(ca, 6, time.Now(), all...)
	must(t, l.take(t.Context(), kept, func(*krl.List) {}))
	free := block(t, l.layout.signedKRL())
	_ = l.take(t.Context(), newer, func(*krl.List) {})
	free()
	serials := append(slices.Clone(all), db)
	revokes(t, "sshd's file", l.sshds(t), ca, serials, all)

	again := &lists{layout: l.layout, now: time.Now, log: l.log}
	_, err := again.load()
	must(t, err)
	if st := again.status(); st.Problem != "sshd's is version 6, and the signed one that was kept is version 5" {
		t.Errorf("status %+v", st)
	}
	k := &checkup{layout: l.layout, config: &Config{PAM: "x"}}
	k.list()
	if len(k.found) != 1 || k.found[0].Level != Fail || !strings.Contains(k.found[0].Hint, "asks the service for it") {
		t.Errorf("check %+v", k.found)
	}
	revokes(t, "sshd's file after a restart", again.sshds(t), ca, serials, all)
	must(t, again.expect(map[string][]string{"deploy": {"db-1/deploy"}}))
	revokes(t, "sshd's file with another principal", again.sshds(t), ca, serials, serials)
	if again.sshds(t).Version != 6 {
		t.Errorf("sshd's file is version %d", again.sshds(t).Version)
	}
	must(t, again.take(t.Context(), newer, func(*krl.List) {}))
	if st := again.status(); st.Problem != "" {
		t.Errorf("status afterwards %+v", st)
	}
}

// Where the host doesn't know any more how far lists had come, nobody takes it back to
// one of old: not with the kept list broken, and not with its CA retired.
func TestOldListIsNoBeginning(t *testing.T) {
	for name, tt := range map[string]struct {
		lose func(t *testing.T, l *lists, next ssh.Signer) *lists
		next uint64 // the first version that is taken
	}{
		"its CA was stolen, has said what it liked, and is retired": {func(t *testing.T, l *lists, next ssh.Signer) *lists {
			must(t, os.WriteFile(l.layout.userCAs(), marshal(next), 0o644))
			l.list.Version = 1 << 62
			l.distrust()
			return l
		}, 1},
		"the kept list is broken": {func(t *testing.T, l *lists, _ ssh.Signer) *lists {
			must(t, os.WriteFile(l.layout.signedKRL(), []byte("{"), 0o644))
			again := &lists{layout: l.layout, now: time.Now, log: l.log}
			if _, err := again.load(); err == nil {
				t.Error("the agent doesn't notice")
			}
			return again
		}, 5}, // sshd's is version 5
		"its CA is retired": {func(t *testing.T, l *lists, next ssh.Signer) *lists {
			must(t, os.WriteFile(l.layout.userCAs(), marshal(next), 0o644))
			l.distrust()
			return l
		}, 5},
		"its CA is retired, and the agent starts again": {func(t *testing.T, l *lists, next ssh.Signer) *lists {
			must(t, os.WriteFile(l.layout.userCAs(), marshal(next), 0o644))
			again := &lists{layout: l.layout, now: time.Now, log: l.log}
			if _, err := again.load(); err == nil {
				t.Error("the agent doesn't notice")
			}
			return again
		}, 5},
	} {
		t.Run(name, func(t *testing.T) {
			l, ca, all, _, five := newLists(t)
			next := newSigner(t)
			must(t, os.WriteFile(l.layout.userCAs(), slices.Concat(marshal(ca), marshal(next)), 0o644))
			must(t, l.take(t.Context(), five, func(*krl.List) {}))
			l = tt.lose(t, l, next)
			offer := func(version uint64, made time.Duration) error {
				var s signedList
				s.List, s.Signature = signedBy(next, version, time.Now().Add(made), all[0])
				return l.take(t.Context(), s, func(got *krl.List) {
					if got.Version != tt.next {
						t.Errorf("sessions are judged by list %d", got.Version)
					}
				})
			}
			if err := offer(7, -krl.MaxAge-time.Minute); access.CodeOf(err) != access.CodeStale {
				t.Errorf("an old list: %v", err)
			}
			if v := l.version(); v != 7 {
				t.Errorf("the next one that is asked for is after %d", v)
			}
			if err := offer(7, access.ClockSkew+time.Minute); access.CodeOf(err) != access.CodeStale {
				t.Errorf("a list from the future: %v", err)
			}
			if tt.next == 5 {
				if err := offer(4, 0); access.CodeOf(err) != access.CodeStale {
					t.Errorf("a version before the last: %v", err)
				}
			}
			revokes(t, "sshd's file", l.sshds(t), ca, all, all)
			must(t, offer(tt.next, -krl.MaxAge+time.Minute))
			if l.version() != tt.next {
				t.Errorf("the list in force is %d", l.version())
			}
		})
	}
}

func TestBothLists(t *testing.T) {
	ca, other := newSigner(t), newSigner(t)
	a := &krl.List{Version: 1, CAs: []krl.CA{{Key: ca.PublicKey(), Ranges: []krl.Range{{First: 1, Last: 3}, {First: 10, Last: 20}}}}}
	b := &krl.List{Version: 2, CAs: []krl.CA{{Key: other.PublicKey(), Ranges: krl.Join(7)},
		{Key: ca.PublicKey(), Ranges: []krl.Range{{First: 4, Last: 5}, {First: 12, Last: 14}, {First: 19, Last: 30}, {First: 40, Last: 40}}}}}
	got := both(a, b)
	want := []krl.Range{{First: 1, Last: 5}, {First: 10, Last: 30}, {First: 40, Last: 40}}
	if got.Version != 2 || len(got.CAs) != 2 || !slices.Equal(got.CAs[0].Ranges, want) || !slices.Equal(got.CAs[1].Ranges, krl.Join(7)) {
		t.Errorf("%+v", got)
	}
	if len(a.CAs[0].Ranges) != 2 || a.CAs[0].Ranges[1].Last != 20 {
		t.Errorf("the first has changed: %+v", a)
	}
}

// keygen is a program in place of ssh-keygen that counts how often it is asked.
func keygen(t *testing.T, does string) (program string, asked func() int) {
	t.Helper()
	program = filepath.Join(t.TempDir(), "keygen")
	must(t, os.WriteFile(program, []byte("#!/bin/sh\necho x >> $0.asked\n"+does+"\n"), 0o755))
	return program, func() int {
		data, _ := os.ReadFile(program + ".asked")
		return strings.Count(string(data), "\n")
	}
}

// A list that OpenSSH refuses is in neither file. One that it couldn't be asked
// about is in the one by which the next start goes, and is tried again. Neither is
// said more than once, and that the agent stops is none of OpenSSH's faults.
func TestOpenSSHIsAsked(t *testing.T) {
	stopped, stop := context.WithCancel(context.Background())
	stop()
	for _, tt := range []struct {
		name, does string
		ctx        context.Context
		gone       bool   // it can't be started
		kept       uint64 // version after a restart
		asked      int    // times, for one list and two looks at it
		said       int    // lines in the log of these looks
	}{
		{"it refuses", "exit 255", context.Background(), false, 4, 1, 0},
		{"it is killed", "kill -9 $$", context.Background(), false, 5, 3, 0},
		{"it isn't there", "", context.Background(), true, 5, 0, 0},
		{"the agent stops", "", stopped, false, 5, 0, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l, ca, all, _, five := newLists(t)
			log := &buffer{}
			l.log = slog.New(slog.NewTextHandler(log, nil))
			var asked func() int
			l.keygen, asked = keygen(t, tt.does)
			if tt.gone {
				must(t, os.Remove(l.keygen))
			}
			if err := l.take(tt.ctx, five, func(*krl.List) {}); err == nil {
				t.Fatal("taken")
			}
			l.guard(tt.ctx)
			l.guard(tt.ctx)
			if n := asked(); n != tt.asked {
				t.Errorf("asked %d times, want %d", n, tt.asked)
			}
			if n := strings.Count(log.String(), "\n"); n != tt.said {
				t.Errorf("%d lines, want %d:\n%s", n, tt.said, log)
			}
			revokes(t, "sshd's file", l.sshds(t), ca, all, all[:1])
			if kept, _, err := l.read(); err != nil || kept.Version != tt.kept {
				t.Errorf("kept %+v, %v; want version %d", kept, err, tt.kept)
			}
			// Once it can be asked, and says yes.
			l.keygen, _ = keygen(t, "exit 0")
			l.now = func() time.Time { return time.Now().Add(askAgain) }
			l.guard(context.Background())
			revokes(t, "sshd's file afterwards", l.sshds(t), ca, all, all)
			if kept, _, err := l.read(); err != nil || kept.Version != 5 || l.status().Problem != "" {
				t.Errorf("kept afterwards %+v, %v; %+v", kept, err, l.status())
			}
		})
	}
}

// Each reason is said once, whatever a temporary file is called.
func TestGuardSaysItOnce(t *testing.T) {
	l, _, _, _, five := newLists(t)
	log := &buffer{}
	l.log = slog.New(slog.NewTextHandler(log, nil))
	l.keygen, _ = keygen(t, "kill -9 $$")
	_ = l.take(context.Background(), five, func(*krl.List) {})
	l.keygen, _ = keygen(t, "exit 0")
	free := block(t, l.layout.revokedKeys())
	for range 3 {
		l.guard(context.Background())
	}
	free()
	if n := strings.Count(log.String(), "is not in force for sshd"); n != 1 {
		t.Errorf("said %d times:\n%s", n, log)
	}
}
