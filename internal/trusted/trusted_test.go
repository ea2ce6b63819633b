package trusted

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"hallpass/access"
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

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestModes(t *testing.T) {
	const file, folder = "policy.yaml can be changed by others", "policy.yaml is in a folder that others"
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
		err := Path(path)
		if tt.says == "" {
			if err != nil {
				t.Errorf("%o in %o: %v", tt.file, tt.folder, err)
			}
			continue
		}
		want := strings.NewReplacer("FILE", path, "DIR", dir).Replace(tt.hint)
		if access.CodeOf(err) != access.CodeForbidden || !strings.Contains(err.Error(), tt.says) || !strings.Contains(hint(err), want) {
			t.Errorf("%o in %o: %v (%s)", tt.file, tt.folder, err, hint(err))
		}
	}
}

// Somebody else's: what belongs to us is somebody else's to uid 4242, unless
// we are root, who gives it away.
func TestOwners(t *testing.T) {
	us := os.Geteuid()
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
		"folder": {func(dir, _ string) string { return dir }, "policy.yaml is in a folder of uid "},
	} {
		dir, path := place(t)
		must(t, check(path, us))
		whose := tt.whose(dir, path)
		uid := stranger(t, whose)
		err := check(path, uid)
		// Who isn't root owns all of it, and hears of the file first.
		if want := tt.want; err == nil || us == 0 && !strings.Contains(err.Error(), want) || us == 0 && !strings.Contains(hint(err), "chown root "+whose) {
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
	err := Path(path)
	if access.CodeOf(err) != access.CodeForbidden || !strings.Contains(err.Error(), says) || !strings.Contains(hint(err), hints) {
		t.Errorf("%v (%s), want %s (%s)", err, hint(err), says, hints)
	}
	if _, err := ReadFile(path); err == nil {
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
	refused(t, link, "directory.yaml is in a folder that others", "chmod go-w "+version)
	must(t, os.Chmod(version, 0o755))
	if os.Geteuid() == 0 {
		for _, whose := range []string{link, filepath.Join(dir, "..data")} {
			must(t, os.Lchown(whose, 4242, 4242))
			refused(t, link, whose+" is a link of uid 4242", "chown -h root "+whose)
			must(t, os.Lchown(whose, 0, 0))
		}
		must(t, os.Chown(dir, 4242, 4242))
		refused(t, link, "directory.yaml is in a folder of uid 4242", "chown root "+dir)
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
	const others = " is in a folder that others than its owner can write to (mode "
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
		refused(t, filepath.Join(dir, "policy.yaml"), "policy.yaml"+others+"0775)", "chmod go-w "+dir)

		// And where it is another link that leads through it.
		far := filepath.Join(shop, "far.yaml")
		must(t, os.Symlink(filepath.Join(dir, "policy.yaml"), far))
		refused(t, far, "far.yaml, by way of "+filepath.Join(dir, "policy.yaml")+","+others, "chmod go-w "+dir)
	})
	t.Run("another version", func(t *testing.T) {
		dir, _, _, link := configMap(t, 0o777)
		refused(t, link, "directory.yaml"+others+"0777)", "chmod go-w "+dir)
		// And where the name itself is none.
		through := filepath.Join(dir, "..data", "directory.yaml")
		refused(t, through, "directory.yaml, by way of "+filepath.Join(dir, "..data")+","+others, "chmod go-w "+dir)
	})
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
