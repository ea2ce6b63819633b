//go:build linux

package host

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

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
