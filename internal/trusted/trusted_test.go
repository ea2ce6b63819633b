package trusted

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
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

// A volume of Kubernetes is open to all, and has links of root's to a folder
// that isn't, which is exchanged as a whole.
func TestLinks(t *testing.T) {
	dir, _ := place(t)
	must(t, os.Chmod(dir, 0o777))
	version := filepath.Join(dir, "..2026_11_27")
	must(t, os.Mkdir(version, 0o755))
	must(t, os.Chmod(version, 0o755))
	real, link := filepath.Join(version, "directory.yaml"), filepath.Join(dir, "directory.yaml")
	must(t, os.WriteFile(real, []byte("text"), 0o644))
	must(t, os.Chmod(real, 0o644))
	must(t, os.Symlink(filepath.Base(version), filepath.Join(dir, "..data")))
	must(t, os.Symlink("..data/directory.yaml", link))
	must(t, Path(link))
	if data, err := ReadFile(link); string(data) != "text" || err != nil {
		t.Errorf("%q, %v", data, err)
	}

	must(t, os.Chmod(real, 0o666))
	if err := Path(link); err == nil || !strings.Contains(err.Error(), "can be changed by others") {
		t.Errorf("a link to what all can write: %v", err)
	}
	if _, err := ReadFile(link); err == nil {
		t.Error("and it is read")
	}
	must(t, os.Chmod(real, 0o644))
	must(t, os.Chmod(version, 0o777))
	if err := Path(link); err == nil || !strings.Contains(err.Error(), "chmod") && !strings.Contains(hint(err), "chmod go-w "+version) {
		t.Errorf("a link into a folder that all can write to: %v", err)
	}
	must(t, os.Chmod(version, 0o755))
	if os.Geteuid() == 0 {
		must(t, os.Lchown(link, 4242, 4242))
		if err := Path(link); err == nil || !strings.Contains(err.Error(), "is a link of uid 4242") {
			t.Errorf("a link of somebody else's: %v", err)
		}
	}
	must(t, os.Remove(real))
	if err := Path(link); err == nil {
		t.Error("a link to nothing")
	}
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
