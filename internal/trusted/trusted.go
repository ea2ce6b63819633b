// Package trusted says whether a file that decides who gets in is in the hands
// of those who may decide that: root, and the user of this process. sshd's
// StrictModes asks the same of its files.
//
// What is above the folder that holds the file isn't looked at.
package trusted

import (
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"hallpass/access"
)

// Path is for a file that is about to be opened: who else could change it, or
// put another in its place? It looks at the file, at the folder that it is in,
// and, where path is a symbolic link, at who made that. Errors are those of
// os.Lstat, or of code forbidden, with what to type.
//
// A folder with the sticky bit, such as /tmp, may be open to all: nobody can
// replace another's file in it.
func Path(path string) error { return check(path, os.Geteuid()) }

// File is for a file that is open: the name may lead to another by now.
func File(f *os.File) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	return file(f.Name(), info, os.Geteuid())
}

// ReadFile reads a file that Path and File find nothing against.
func ReadFile(path string) ([]byte, error) {
	if err := Path(path); err != nil {
		return nil, err
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // only read
	if err := File(f); err != nil {
		return nil, err
	}
	return io.ReadAll(f)
}

func check(path string, uid int) error {
	info, err := os.Lstat(path)
	if err != nil {
		return err
	}
	at := path
	if info.Mode()&fs.ModeSymlink != 0 {
		if other, ok := stranger(info, uid); ok {
			return access.Errorf(access.CodeForbidden, "%s is a link of uid %d, who is neither root nor the one that this runs as (uid %d)", path, other, uid).
				WithHint("see where it leads, then: chown -h root %s", path)
		}
		if at, err = filepath.EvalSymlinks(path); err != nil {
			return err
		}
		if info, err = os.Stat(at); err != nil {
			return err
		}
	}
	if err := file(path, info, uid); err != nil {
		return err
	}
	dir := filepath.Dir(at)
	if info, err = os.Stat(dir); err != nil {
		return err
	}
	if other, ok := stranger(info, uid); ok {
		return access.Errorf(access.CodeForbidden, "%s is in a folder of uid %d, who is neither root nor the one that this runs as (uid %d)", path, other, uid).
			WithHint("see that the file is the right one, then: chown root %s", dir)
	}
	if open(info) && info.Mode()&fs.ModeSticky == 0 {
		return access.Errorf(access.CodeForbidden, "%s is in a folder that others than its owner can write to (mode %04o)", path, info.Mode().Perm()).
			WithHint("see that the file is the right one, then: chmod go-w %s", dir)
	}
	return nil
}

func file(path string, info fs.FileInfo, uid int) error {
	if other, ok := stranger(info, uid); ok {
		return access.Errorf(access.CodeForbidden, "%s belongs to uid %d, who is neither root nor the one that this runs as (uid %d)", path, other, uid).
			WithHint("see that it says what it should, then: chown root %s", path)
	}
	if open(info) {
		return access.Errorf(access.CodeForbidden, "%s can be changed by others than its owner (mode %04o)", path, info.Mode().Perm()).
			WithHint("see that it says what it should, then: chmod go-w %s", path)
	}
	return nil
}

// open says whether its group or everybody may write. With an access control
// list, the group's bits are the most that anybody but the owner has.
func open(info fs.FileInfo) bool { return info.Mode().Perm()&0o022 != 0 }

// stranger is its owner, if that is neither root nor uid.
func stranger(info fs.FileInfo, uid int) (owner int, ok bool) {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, false
	}
	return int(st.Uid), st.Uid != 0 && int(st.Uid) != uid
}
