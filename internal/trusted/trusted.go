// Package trusted says whether a file that decides who gets in is in the hands
// of those who may decide that: root, and the user of this process. sshd's
// StrictModes asks the same of its files.
//
// What is above the folders that hold the file, and links to it, isn't looked at.
package trusted

import (
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"hallpass/access"
)

// maxLinks is how many symbolic links lead to a file at most, as in Linux.
const maxLinks = 40

// Path is for a file that is about to be opened: who else could change it, or
// put another in its place? It looks at the file, at the folder that it is in,
// and at each symbolic link on the way: at whose it is, and at the folder that
// holds it. Errors are those of os.Lstat, os.Readlink and os.Getwd, or of code
// forbidden, with what to type.
//
// A folder with the sticky bit, such as /tmp, may be open to all: nobody can
// replace another's file in it. One that holds links may also be as Kubernetes
// mounts a ConfigMap: see volume.
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
	at, err := follow(path, uid)
	if err != nil {
		return err
	}
	info, err := os.Lstat(at)
	if err != nil {
		return err
	}
	if err := file(path, info, uid); err != nil {
		return err
	}
	dir := filepath.Dir(at)
	if info, err = os.Lstat(dir); err != nil {
		return err
	}
	return folder(path, dir, info, uid)
}

// follow finds what path leads to, as opening it does, link by link.
func follow(path string, uid int) (string, error) {
	todo := path
	if !filepath.IsAbs(path) {
		wd, err := os.Getwd()
		if err != nil {
			return "", err
		}
		todo = wd + "/" + path
	}
	at := "/" // has no links in it
	for links := 0; todo != ""; {
		var name string
		name, todo, _ = strings.Cut(todo, "/")
		if name == "" {
			continue
		}
		next := filepath.Join(at, name) // also for . and ..
		info, err := os.Lstat(next)
		if err != nil {
			return "", err
		}
		if info.Mode()&fs.ModeSymlink == 0 {
			at = next
			continue
		}
		if links++; links > maxLinks {
			return "", &fs.PathError{Op: "open", Path: path, Err: syscall.ELOOP}
		}
		if other, ok := stranger(info, uid); ok {
			return "", access.Errorf(access.CodeForbidden, "%s is a link of uid %d, who is neither root nor the one that this runs as (uid %d)", next, other, uid).
				WithHint("see where it leads, then: chown -h root %s", next)
		}
		if info, err = os.Lstat(at); err != nil {
			return "", err
		}
		if !volume(at, info) {
			what := path
			if links > 1 || todo != "" {
				what += ", by way of " + next + ","
			}
			if err := folder(what, at, info, uid); err != nil {
				return "", err
			}
		}
		target, err := os.Readlink(next)
		if err != nil {
			return "", err
		}
		if filepath.IsAbs(target) {
			at = "/"
		}
		todo = target + "/" + todo
	}
	return at, nil
}

// volume says whether a folder is as Kubernetes mounts a ConfigMap: root's, open to
// all, and mounted for reading alone, so that nobody in the container can exchange
// the links in it. Who could on the machine below is for that to keep.
func volume(dir string, info fs.FileInfo) bool {
	_, others := stranger(info, 0)
	return !others && info.Mode().Perm() == 0o777 && readOnly(dir)
}

// folder judges the one that what is in.
func folder(what, dir string, info fs.FileInfo, uid int) error {
	if other, ok := stranger(info, uid); ok {
		return access.Errorf(access.CodeForbidden, "%s is in a folder of uid %d, who is neither root nor the one that this runs as (uid %d)", what, other, uid).
			WithHint("see that the file is the right one, then: chown root %s", dir)
	}
	if open(info) && info.Mode()&fs.ModeSticky == 0 {
		return access.Errorf(access.CodeForbidden, "%s is in a folder that others than its owner can write to (mode %04o)", what, info.Mode().Perm()).
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
