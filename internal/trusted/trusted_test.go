package trusted

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"hallpass/access"
	"hallpass/testsuite/process"
)

// place is a folder with a file in it that nobody has anything against.
func place(t *testing.T) (dir, path string) {
	t.Helper()
	dir = t.TempDir()
	path = filepath.Join(dir, "policy.yaml")
	must(t, os.Chmod(dir, 0o755)) // whatever the umask
	must(t, os.WriteFile(path, []byte("text"), 0o644))
	must(t, os.Chmod(path, 0o644))
	return dir, path
}

// strict asks as whoever runs the tests, and knows of no group that is anybody's own.
func strict() judge { return judge{uid: os.Geteuid()} }

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestModes(t *testing.T) {
	const file, folder = "policy.yaml can be changed by others", "policy.yaml is in the folder DIR, which others"
	for _, tt := range []struct {
		file, folder os.FileMode
		says, hint   string
	}{
		{0o600, 0o700, "", ""},
		{0o644, 0o755, "", ""},
		{0o444, 0o555, "", ""},
		{0o664, 0o755, file + " than its owner (mode 0664)", "then: chmod go-w FILE"},
		{0o646, 0o755, file + " than its owner (mode 0646)", "then: chmod go-w FILE"},
		{0o620, 0o755, file, "chmod"},
		{0o602, 0o755, file, "chmod"},
		{0o666, 0o755 | os.ModeSticky, file, "chmod"},
		{0o644, 0o775, folder + " than its owner can write to (mode 0775)", "then: chmod go-w DIR"},
		{0o644, 0o757, folder, "chmod"},
		{0o644, 0o777, folder, "chmod"},
		{0o644, 0o777 | os.ModeSticky, "", ""},
	} {
		dir, path := place(t)
		must(t, os.Chmod(path, tt.file))
		must(t, os.Chmod(dir, tt.folder))
		t.Cleanup(func() { must(t, os.Chmod(dir, 0o700)) }) // for who isn't root, to remove it
		err := strict().path(path)
		if tt.says == "" {
			if err != nil {
				t.Errorf("%o in %o: %v", tt.file, tt.folder, err)
			}
			continue
		}
		named := strings.NewReplacer("FILE", path, "DIR", dir).Replace
		if access.CodeOf(err) != access.CodeForbidden || !strings.Contains(err.Error(), named(tt.says)) || !strings.Contains(hint(err), named(tt.hint)) {
			t.Errorf("%o in %o: %v (%s)", tt.file, tt.folder, err, hint(err))
		}
	}
}

// Of several files each is told what Path would say of it, and each time anew.
func TestPaths(t *testing.T) {
	dir, path := place(t)
	other := filepath.Join(dir, "open", "catalog.yaml")
	link := filepath.Join(dir, "link.yaml")
	must(t, os.Mkdir(filepath.Dir(other), 0o755))
	must(t, os.WriteFile(other, []byte("text"), 0o644))
	must(t, os.Symlink("open/catalog.yaml", link))
	all := []string{path, other, link, filepath.Join(dir, "nowhere"), path}
	for _, change := range []func() error{
		func() error { return nil },
		func() error { return os.Chmod(other, 0o666) },
		func() error { return os.Chmod(filepath.Dir(other), 0o777) },
		func() error {
			return errors.Join(os.Chmod(other, 0o644), os.Chmod(filepath.Dir(other), 0o755), os.Chmod(dir, 0o777))
		},
		func() error {
			return errors.Join(os.Chmod(dir, 0o755), os.Remove(link), os.Symlink("policy.yaml", link))
		},
	} {
		must(t, change())
		errs := Paths(all...)
		for i, path := range all {
			if got, want := fmt.Sprint(errs[i]), fmt.Sprint(Path(path)); got != want {
				t.Errorf("%s: %s, want %s", path, got, want)
			}
		}
	}
}

// Somebody else's: what belongs to us is somebody else's to uid 4242, unless
// we are root, who gives it away.
func TestOwners(t *testing.T) {
	us := os.Geteuid()
	check := func(path string, uid int) error { return judge{uid: uid}.path(path) }
	stranger := func(t *testing.T, path string) (uid int) {
		t.Helper()
		if us == 0 {
			must(t, os.Lchown(path, 4242, 4242))
			return us
		}
		return 4242
	}
	for name, tt := range map[string]struct {
		whose func(dir, path string) string
		want  string
	}{
		"file":   {func(_, path string) string { return path }, "policy.yaml belongs to uid "},
		"folder": {func(dir, _ string) string { return dir }, "policy.yaml is in the folder DIR of uid "},
	} {
		dir, path := place(t)
		must(t, check(path, us))
		whose := tt.whose(dir, path)
		uid := stranger(t, whose)
		err := check(path, uid)
		// Who isn't root owns all of it, and hears of the file first.
		if want := strings.ReplaceAll(tt.want, "DIR", dir); err == nil || us == 0 && !strings.Contains(err.Error(), want) || us == 0 && !strings.Contains(hint(err), "chown root "+whose) {
			t.Errorf("%s: %v (%s)", name, err, hint(err))
		}
		if us == 0 && check(path, 4242) != nil {
			t.Errorf("%s: refused for its owner: %v", name, check(path, 4242))
		}
	}
}

// configMap is a folder of links as Kubernetes makes it of a ConfigMap: what is named
// leads through ..data to a folder of one version, and ..data is exchanged.
func configMap(t *testing.T, mode os.FileMode) (dir, version, real, link string) {
	t.Helper()
	dir = t.TempDir()
	version = filepath.Join(dir, "..2026_11_27")
	must(t, os.Mkdir(version, 0o755))
	must(t, os.Chmod(version, 0o755))
	real, link = filepath.Join(version, "directory.yaml"), filepath.Join(dir, "directory.yaml")
	must(t, os.WriteFile(real, []byte("text"), 0o644))
	must(t, os.Chmod(real, 0o644))
	must(t, os.Symlink(filepath.Base(version), filepath.Join(dir, "..data")))
	must(t, os.Symlink("..data/directory.yaml", link))
	must(t, os.Chmod(dir, mode))
	return dir, version, real, link
}

func refused(t *testing.T, path, says, hints string) {
	t.Helper()
	err := strict().path(path)
	if access.CodeOf(err) != access.CodeForbidden || !strings.Contains(err.Error(), says) || !strings.Contains(hint(err), hints) {
		t.Errorf("%v (%s), want %s (%s)", err, hint(err), says, hints)
	}
	if _, err := strict().readFile(path); err == nil {
		t.Error("and it is read")
	}
}

// Each link on the way counts, wherever it is, and so does what it leads to.
func TestLinks(t *testing.T) {
	dir, version, real, link := configMap(t, 0o755)
	t.Chdir(dir)
	for _, name := range []string{link, "directory.yaml", "../" + filepath.Base(dir) + "/./directory.yaml", dir + "//..data/../directory.yaml"} {
		if data, err := ReadFile(name); string(data) != "text" || err != nil {
			t.Errorf("%s: %q, %v", name, data, err)
		}
	}
	must(t, os.Chmod(real, 0o666))
	refused(t, link, "directory.yaml can be changed by others", "chmod go-w "+link)
	must(t, os.Chmod(real, 0o644))
	must(t, os.Chmod(version, 0o777))
	refused(t, link, "directory.yaml is in the folder "+version+", which others", "chmod go-w "+version)
	must(t, os.Chmod(version, 0o755))
	if os.Geteuid() == 0 {
		for _, whose := range []string{link, filepath.Join(dir, "..data")} {
			must(t, os.Lchown(whose, 4242, 4242))
			refused(t, link, whose+" is a link of uid 4242", "chown -h root "+whose)
			must(t, os.Lchown(whose, 0, 0))
		}
		must(t, os.Chown(dir, 4242, 4242))
		refused(t, link, "directory.yaml is in the folder "+dir+" of uid 4242", "chown root "+dir)
		must(t, os.Chown(dir, 0, 0))
	}
	must(t, os.Chmod(dir, 0o777|os.ModeSticky)) // as Kubernetes makes it of a Secret
	must(t, Path(link))
	must(t, os.Remove(real))
	if err := Path(link); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a link to nothing: %v", err)
	}
	must(t, os.Symlink("directory.yaml", real))
	if err := Path(link); !errors.Is(err, syscall.ELOOP) {
		t.Errorf("a link to itself: %v", err)
	}
}

// Who can write to a folder with links in it can put one in the place of another.
func TestLinksInFoldersOthersCanWriteTo(t *testing.T) {
	others := func(dir string) string {
		return " is in the folder " + dir + ", which others than its owner can write to (mode "
	}
	t.Run("an older policy for the one in force", func(t *testing.T) {
		shop, dir := t.TempDir(), t.TempDir()
		must(t, os.Chmod(shop, 0o755))
		for _, name := range []string{"policy.yaml", "policy-old.yaml"} {
			file := filepath.Join(shop, name)
			must(t, os.WriteFile(file, []byte(name), 0o644))
			must(t, os.Chmod(file, 0o644))
			must(t, os.Symlink(file, filepath.Join(dir, name)))
		}
		must(t, os.Chmod(dir, 0o775))
		refused(t, filepath.Join(dir, "policy.yaml"), "policy.yaml"+others(dir)+"0775)", "chmod go-w "+dir)

		// And where it is another link that leads through it.
		far := filepath.Join(shop, "far.yaml")
		must(t, os.Symlink(filepath.Join(dir, "policy.yaml"), far))
		refused(t, far, "far.yaml"+others(dir), "chmod go-w "+dir)
	})
	t.Run("another version", func(t *testing.T) {
		dir, _, _, link := configMap(t, 0o777)
		refused(t, link, "directory.yaml"+others(dir)+"0777)", "chmod go-w "+dir)
		// And where the name itself is none.
		through := filepath.Join(dir, "..data", "directory.yaml")
		refused(t, through, "directory.yaml"+others(dir), "chmod go-w "+dir)
	})
}

// Who can write to a folder above can put another in the place of the file's own.
func TestFoldersAbove(t *testing.T) {
	top := t.TempDir()
	above, dir := filepath.Join(top, "etc"), filepath.Join(top, "etc", "hallpass")
	file, link := filepath.Join(dir, "policy.yaml"), filepath.Join(top, "link.yaml")
	must(t, os.MkdirAll(dir, 0o755))
	for _, folder := range []string{top, above, dir} {
		must(t, os.Chmod(folder, 0o755)) // whatever the umask
	}
	must(t, os.WriteFile(file, []byte("text"), 0o600))
	must(t, os.Symlink(file, link))
	t.Chdir(dir)
	for _, mode := range []os.FileMode{0o775, 0o757, 0o777} {
		must(t, os.Chmod(above, mode))
		says := fmt.Sprintf(" is in the folder %s, which others than its owner can write to (mode %04o)", above, mode)
		for _, name := range []string{file, link, "policy.yaml", "../hallpass/policy.yaml"} {
			refused(t, name, name+says, "see that the file is the right one, then: chmod go-w "+above)
		}
	}
	// Nobody can replace another's in one that is sticky.
	must(t, os.Chmod(above, 0o777|os.ModeSticky))
	must(t, strict().path(file))
	must(t, strict().path(link))
	if os.Geteuid() != 0 {
		return
	}
	for _, folder := range []string{dir, above, top} { // the first is in a sticky one
		must(t, os.Chown(folder, 4242, 4242))
		mend := "then move it into a folder of root's, such as /etc/hallpass" // and nobody's home is taken away
		if folder == dir {
			mend = "then: chown root " + dir
		}
		refused(t, file, "policy.yaml is in the folder "+folder+" of uid 4242, who is neither root nor the one that this runs as", mend)
		must(t, judge{uid: 4242}.path(file))
		must(t, os.Chown(folder, 0, 0))
	}
}

// A group that is its owner's alone is as good as its owner.
func TestPrivateGroup(t *testing.T) {
	top := t.TempDir()
	dir := filepath.Join(top, "src")
	must(t, os.Mkdir(dir, 0o755))
	path := filepath.Join(dir, "policy.yaml")
	must(t, os.WriteFile(path, []byte("text"), 0o600))
	uid, gid := owned(t, dir, top)
	us, ours := fmt.Sprint(uid), fmt.Sprint(gid)
	const others = "bob:x:7777:7778::/home/bob:/bin/sh\n"
	for _, tt := range []struct {
		name, passwd, group string
		mode                os.FileMode
		private             bool
	}{
		{"nobody else's", "me:x:" + us + ":" + ours + "::/:/bin/sh\n" + others, "me:x:" + ours + ":\nbob:x:7778:me\n", 0o775, true},
		{"its owner listed", "me:x:" + us + ":" + ours + "\n", "me:x:" + ours + ":me\n", 0o775, true},
		{"somebody listed", "me:x:" + us + ":" + ours + "\n" + others, "me:x:" + ours + ":me,bob\n", 0o775, false},
		{"listed in a second line", "me:x:" + us + ":" + ours + "\n" + others, "me:x:" + ours + ":\nus:x:0" + ours + ":bob\n", 0o775, false},
		{"somebody else's first one, too", "me:x:" + us + ":" + ours + "\neve:x:7777:" + ours + "::/\n", "me:x:" + ours + ":\n", 0o775, false},
		{"not its owner's first one", "me:x:" + us + ":7779\n", "us:x:" + ours + ":\n", 0o775, false},
		{"of nobody here", others, "me:x:" + ours + ":\n", 0o775, false},
		{"not listed", "me:x:" + us + ":" + ours + "\n", "bob:x:7778:\n", 0o775, false},
		{"and all may write", "me:x:" + us + ":" + ours + "\n", "me:x:" + ours + ":\n", 0o777, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			files := t.TempDir()
			j := judge{uid: os.Geteuid(), groups: []int{gid}, passwd: filepath.Join(files, "passwd"), group: filepath.Join(files, "group")}
			must(t, os.WriteFile(j.passwd, []byte(tt.passwd), 0o600))
			must(t, os.WriteFile(j.group, []byte(tt.group), 0o600))
			for _, folder := range []string{dir, top} {
				must(t, os.Chmod(folder, tt.mode))
				want := tt.private && !listed(folder) // as on ext4, xfs, btrfs, tmpfs and overlayfs
				if err := j.path(path); (err == nil) != want || err != nil && !strings.Contains(err.Error(), "in the folder "+folder+",") {
					t.Errorf("%s: %v", folder, err)
				}
				must(t, os.Chmod(folder, 0o755))
			}
			// A file is mended by one command.
			must(t, os.Chmod(path, 0o660))
			if err := j.path(path); err == nil {
				t.Error("a file that the group can write to is obeyed")
			}
			must(t, os.Chmod(path, 0o600))
		})
	}
}

// owned gives folders to whoever runs the tests, and to a group other than root's.
func owned(t *testing.T, dirs ...string) (uid, gid int) {
	t.Helper()
	uid, gid = os.Geteuid(), os.Getegid()
	if uid == 0 {
		gid = 4242
	}
	for _, dir := range dirs {
		must(t, os.Chown(dir, uid, gid))
	}
	return uid, gid
}

// What runs in a container often has group 0 without being in /etc/passwd there.
func TestPrivateGroupOfRoots(t *testing.T) {
	dir, path := place(t)
	must(t, os.Chmod(dir, 0o775))
	if os.Geteuid() != 0 {
		process.Unable(t, "it takes root to have a folder of root's")
	}
	files := t.TempDir()
	j := judge{uid: 4242, passwd: filepath.Join(files, "passwd"), group: filepath.Join(files, "group")}
	must(t, os.WriteFile(j.passwd, []byte("root:x:0:0:root:/root:/bin/sh\n"), 0o600))
	must(t, os.WriteFile(j.group, []byte("root:x:0:\n"), 0o600))
	for _, uid := range []int{0, 4242} {
		j.uid = uid
		if err := j.path(path); err == nil || !strings.Contains(hint(err), "chmod go-w "+dir) {
			t.Errorf("group 0, for uid %d: %v", uid, err)
		}
	}

	if listed(dir) {
		return // no group is anybody's own there
	}
	// A group of root's that this process has been given, too, isn't root's alone.
	must(t, os.Chown(dir, 0, 4242))
	must(t, os.WriteFile(j.passwd, []byte("root:x:0:4242:root:/root:/bin/sh\n"), 0o600))
	must(t, os.WriteFile(j.group, []byte("root:x:4242:\n"), 0o600))
	must(t, j.path(path))
	j.groups = []int{7777, 4242}
	if err := j.path(path); err == nil {
		t.Error("a folder of root's that this process can write to is obeyed")
	}
	j.uid = 0
	must(t, j.path(path)) // it is the owner
}

// What is open is looked at, wherever its name leads by now.
func TestFile(t *testing.T) {
	_, path := place(t)
	f, err := os.Open(path)
	must(t, err)
	defer func() { _ = f.Close() }()
	must(t, File(f))
	must(t, os.Chmod(path, 0o666))
	must(t, os.Rename(path, path+".old"))
	must(t, os.WriteFile(path, []byte("other"), 0o644))
	if err := File(f); err == nil || !strings.Contains(err.Error(), "can be changed by others") {
		t.Errorf("%v", err)
	}
}

func hint(err error) string {
	var e *access.Error
	if errors.As(err, &e) {
		return e.Hint
	}
	return ""
}
