package evidence

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"hallpass/access"
	"hallpass/testsuite/process"
)

// watched is Files on three good files, and what it told.
type watched struct {
	*Files
	dir     string
	changes int
	broken  []string
	t       *testing.T
}

const filePolicy = "rules:\n- {name: a, when: true, deny: one}\n"

func watch(t *testing.T) *watched {
	t.Helper()
	w := &watched{dir: t.TempDir(), t: t}
	if err := os.Chmod(w.dir, 0o755); err != nil { // whatever the umask
		t.Fatal(err)
	}
	world := newWorld(t)
	w.write("policy.yaml", filePolicy)
	w.write("directory.yaml", string(world.directory()))
	w.write("catalog.yaml", string(world.catalog()))
	f, err := OpenFiles(w.path("policy.yaml"), w.path("directory.yaml"), w.path("catalog.yaml"), FilesOptions{
		OnChange: func(*Rulebook) { w.changes++ },
		OnBroken: func(err error) { w.broken = append(w.broken, err.Error()) },
	})
	if err != nil {
		t.Fatal(err)
	}
	w.Files = f
	return w
}

func (w *watched) path(name string) string { return filepath.Join(w.dir, name) }

// write writes in place.
func (w *watched) write(name, text string) {
	w.t.Helper()
	if err := os.WriteFile(w.path(name), []byte(text), 0o600); err != nil {
		w.t.Fatal(err)
	}
}

// swap replaces by rename.
func (w *watched) swap(name, text string) {
	w.t.Helper()
	w.write(name+".new", text)
	if err := os.Rename(w.path(name+".new"), w.path(name)); err != nil {
		w.t.Fatal(err)
	}
}

// says is the deny text of the rulebook in force.
func (w *watched) says() string { return w.Rulebook().Policy.Rules()[0].Deny }

// mended is want after what was broken is no more.
func (w *watched) mended(says string, changes, broken int) {
	w.t.Helper()
	w.want(says, changes, -broken)
}

// want compares what is in force and what was told so far. The files are
// broken now if they ever were, unless broken is negative.
func (w *watched) want(says string, changes, broken int) {
	w.t.Helper()
	now := broken > 0
	broken = max(broken, -broken)
	if got := w.says(); got != says || w.changes != changes || len(w.broken) != broken {
		w.t.Errorf("%q, %d changes, %d times broken (%v); want %q, %d, %d", got, w.changes, len(w.broken), w.broken, says, changes, broken)
	}
	if (w.Broken() != nil) != now {
		w.t.Errorf("broken: %v", w.Broken())
	}
}

func policySaying(word string) string { return strings.Replace(filePolicy, "one", word, 1) }

func TestFilesChange(t *testing.T) {
	w := watch(t)
	w.want("one", 0, 0)
	before := w.Rulebook()
	if w.Rulebook() != before {
		t.Error("nothing changed, and yet it's another rulebook")
	}
	w.swap("policy.yaml", policySaying("two"))
	w.want("two", 1, 0)
	if before.Policy.Rules()[0].Deny != "one" {
		t.Error("a rulebook in use was changed")
	}
	// In place, with the same size, twice within one tick of any clock.
	w.write("policy.yaml", policySaying("six"))
	w.want("six", 2, 0)
	w.write("policy.yaml", policySaying("ten"))
	w.want("ten", 3, 0)
	w.swap("policy.yaml", policySaying("ten")) // the same again is no change
	w.want("ten", 3, 0)
	world := newWorld(t).change(func(w *world) { delete(w.groups, "bob") })
	w.swap("directory.yaml", string(world.directory()))
	w.want("ten", 4, 0)
	if _, ok := w.Rulebook().Directory.User("bob"); ok {
		t.Error("bob is still there")
	}
}

// A write that leaves size and all times as they were: what a second write
// within one tick of the clock looks like, and what somebody would do who
// wants it to go unnoticed. The change time can't be set back, so the stamp is
// put into what was seen.
func TestFilesSameStamp(t *testing.T) {
	began := time.Now()
	w := watch(t)
	w.write("policy.yaml", policySaying("two"))
	var st unix.Stat_t
	if err := unix.Stat(w.path("policy.yaml"), &st); err != nil {
		t.Fatal(err)
	}
	w.seen[0].stamp = stampOf(&st)
	if !w.seen[0].fresh && time.Since(began) < settle {
		t.Fatal("a file written just now counts as settled")
	}
	w.seen[0].fresh = true // also where the machine was too busy to be quick
	w.want("two", 1, 0)

	// Once settled, a file is looked into no more while its stamp stays.
	w.seen[0].fresh = false
	w.seen[0].data = nil
	w.want("two", 1, 0)
	if w.seen[0].data != nil {
		t.Error("a settled file was read again")
	}
	// And its times can't hide a change: the inode's change time is looked at.
	w.write("policy.yaml", policySaying("six"))
	if err := os.Chtimes(w.path("policy.yaml"), time.Unix(st.Mtim.Unix()), time.Unix(st.Mtim.Unix())); err != nil {
		t.Fatal(err)
	}
	w.want("six", 2, 0)
}

func TestFilesBroken(t *testing.T) {
	w := watch(t)
	w.swap("policy.yaml", "rules: [\n")
	for range 3 {
		w.want("one", 0, 1) // told once, the old set stays in force
	}
	if !strings.HasPrefix(w.broken[0], w.path("policy.yaml")+":1:") {
		t.Errorf("told %q", w.broken[0])
	}
	w.swap("policy.yaml", "rules: []\n")
	w.want("one", 0, 2) // broken in another way
	w.swap("policy.yaml", "rules: []\n")
	w.want("one", 0, 2) // the same bytes again
	w.swap("policy.yaml", policySaying("two"))
	w.mended("two", 1, 2)

	// Back to what was in force: no change, and nothing broken any more.
	w.swap("policy.yaml", "")
	w.want("two", 1, 3)
	w.swap("policy.yaml", policySaying("two"))
	w.mended("two", 1, 3)
	// The same broken version once more is told once more.
	w.swap("policy.yaml", "")
	w.want("two", 1, 4)
}

func TestFilesGone(t *testing.T) {
	for name, harm := range map[string]func(w *watched) error{
		"removed": func(w *watched) error { return os.Remove(w.path("catalog.yaml")) },
		"a folder": func(w *watched) error {
			_ = os.Remove(w.path("catalog.yaml"))
			return os.Mkdir(w.path("catalog.yaml"), 0o700)
		},
		"a pipe": func(w *watched) error {
			_ = os.Remove(w.path("catalog.yaml"))
			return syscall.Mkfifo(w.path("catalog.yaml"), 0o600)
		},
		"endless": func(w *watched) error { return os.Truncate(w.path("catalog.yaml"), maxFile+1) },
	} {
		t.Run(name, func(t *testing.T) {
			w := watch(t)
			if err := harm(w); err != nil {
				t.Fatal(err)
			}
			// Something else changes while it is away: noticed afterwards.
			w.swap("policy.yaml", policySaying("two"))
			w.want("one", 0, 1)
			w.want("one", 0, 1)
			if err := os.RemoveAll(w.path("catalog.yaml")); err != nil {
				t.Fatal(err)
			}
			w.write("catalog.yaml", string(newWorld(t).catalog()))
			w.mended("two", 1, 1)
		})
	}
}

func TestOpenFilesRefuses(t *testing.T) {
	w := watch(t)
	open := func() error {
		_, err := OpenFiles(w.path("policy.yaml"), w.path("directory.yaml"), w.path("catalog.yaml"), FilesOptions{})
		return err
	}
	if err := open(); err != nil {
		t.Fatal(err)
	}
	w.write("policy.yaml", "rules: []\n")
	if err := open(); err == nil || !strings.Contains(err.Error(), "policy.yaml:1:1: no rules") {
		t.Errorf("broken policy: %v", err)
	}
	w.write("policy.yaml", filePolicy)
	if err := os.Remove(w.path("directory.yaml")); err != nil {
		t.Fatal(err)
	}
	if err := open(); err == nil || !strings.Contains(err.Error(), "directory.yaml: no such file") {
		t.Errorf("no directory: %v", err)
	}
}

// What others can write isn't obeyed: not to begin with, and not later.
func TestFilesOthersCanWrite(t *testing.T) {
	for _, name := range []string{"policy.yaml", "directory.yaml", "catalog.yaml"} {
		t.Run(name, func(t *testing.T) {
			w := watch(t)
			must := func(err error) {
				t.Helper()
				if err != nil {
					t.Fatal(err)
				}
			}
			must(os.Chmod(w.path(name), 0o664))
			w.want("one", 0, 1)
			w.want("one", 0, 1) // told once
			if why := w.broken[0]; !strings.Contains(why, w.path(name)+" can be changed by others than its owner (mode 0664)") {
				t.Errorf("told %q", why)
			}
			// What somebody then writes into it doesn't count.
			w.write(name, "users: {}\n")
			w.want("one", 0, 1)
			if _, err := OpenFiles(w.path("policy.yaml"), w.path("directory.yaml"), w.path("catalog.yaml"), FilesOptions{}); access.CodeOf(err) != access.CodeForbidden {
				t.Errorf("to begin with: %v", err)
			}
			world := newWorld(t)
			w.write(name, map[string]string{"policy.yaml": filePolicy, "directory.yaml": string(world.directory()), "catalog.yaml": string(world.catalog())}[name])
			must(os.Chmod(w.path(name), 0o644))
			w.mended("one", 0, 1)

			// A folder that they can write to is as good as the file.
			must(os.Chmod(w.dir, 0o777))
			w.want("one", 0, 2)
			must(os.Chmod(w.dir, 0o755))
			w.mended("one", 0, 2)

			// So is one above.
			above := filepath.Dir(w.dir)
			must(os.Chmod(above, 0o777))
			w.want("one", 0, 3)
			if why := w.broken[2]; !strings.Contains(why, w.path(name)+" is in the folder "+above+", which others than its owner can write to (mode 0777)") {
				t.Errorf("told %q", why)
			}
			must(os.Chmod(above, 0o755))
			w.mended("one", 0, 3)
		})
	}
}

func TestFilesOfSomebodyElse(t *testing.T) {
	if os.Geteuid() != 0 {
		process.Unable(t, "only root can give a file away")
	}
	w := watch(t)
	if err := os.Chown(w.path("directory.yaml"), 4242, 4242); err != nil {
		t.Fatal(err)
	}
	w.want("one", 0, 1)
	if why := w.broken[0]; !strings.Contains(why, "directory.yaml belongs to uid 4242") {
		t.Errorf("told %q", why)
	}
}

func TestFilesConcurrently(t *testing.T) {
	w := watch(t)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 200 {
				if w.Rulebook() == nil {
					t.Error("no rulebook")
				}
				_ = w.Broken()
			}
		})
	}
	for i := range 20 {
		w.swap("policy.yaml", policySaying(string(bytes.Repeat([]byte("x"), i+1))))
	}
	wg.Wait()
	if got := w.says(); len(got) != 20 {
		t.Errorf("ends with %q", got)
	}
}

func BenchmarkFiles(b *testing.B) {
	dir := b.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil { // whatever the umask
		b.Fatal(err)
	}
	world := newWorld(b)
	paths := make([]string, 3)
	for i, data := range [][]byte{[]byte(world.policy), world.directory(), world.catalog()} {
		paths[i] = filepath.Join(dir, string(rune('a'+i)))
		if err := os.WriteFile(paths[i], data, 0o600); err != nil {
			b.Fatal(err)
		}
	}
	f, err := OpenFiles(paths[0], paths[1], paths[2], FilesOptions{})
	if err != nil {
		b.Fatal(err)
	}
	for i := range f.seen {
		f.seen[i].fresh = false // as after two seconds
	}
	for b.Loop() {
		f.Rulebook()
	}
}
