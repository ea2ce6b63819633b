// Package trusted says whether a file that decides who gets in is in the hands
// of those who may decide that: root, and the user of this process. It asks what
// sshd's StrictModes asks: whose the file is, and each folder from / on, since who
// can write to one can put another file in the place of what is in it.
package trusted

import (
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"hallpass/access"
)

// maxLinks is how many symbolic links lead to a file at most, as in Linux.
const maxLinks = 40

// Path is for a file that is about to be opened: who else could change it, or
// put another in its place? It looks at the file, and at each folder and symbolic
// link on the way to it. Errors are those of os.Lstat, os.Readlink and os.Getwd, or
// of code forbidden, with what to type.
//
// A folder with the sticky bit, such as /tmp, may be open to all: nobody can
// replace another's file, folder or link in it. One may be open to its owner's own
// group, if nobody else is in that: see private. And one that the file isn't in
// itself may be as Kubernetes mounts a ConfigMap: see volume.
func Path(path string) error { return here().path(path) }

// Paths is Path for several files, an error for each: what is on the way to more than one
// is looked at once.
func Paths(paths ...string) []error {
	j := here()
	j.seen = map[string]fs.FileInfo{}
	errs := make([]error, len(paths))
	for i, path := range paths {
		errs[i] = j.path(path)
	}
	return errs
}

// File is for a file that is open: the name may lead to another by now.
func File(f *os.File) error { return here().opened(f) }

// ReadFile reads a file that Path and File find nothing against.
func ReadFile(path string) ([]byte, error) { return here().readFile(path) }

// judge is who asks.
type judge struct {
	uid           int
	groups        []int  // that the process has
	passwd, group string // files as in passwd(5) and group(5)

	seen map[string]fs.FileInfo // what was there in this one look; nil: nothing is kept
}

// lstat is os.Lstat.
func (j judge) lstat(path string) (fs.FileInfo, error) {
	if info, ok := j.seen[path]; ok {
		return info, nil
	}
	info, err := os.Lstat(path)
	if err == nil && j.seen != nil {
		j.seen[path] = info
	}
	return info, err
}

func here() judge {
	groups, _ := os.Getgroups() // fails on Windows alone, which has no such folders
	return judge{uid: os.Geteuid(), groups: append(groups, os.Getegid()), passwd: "/etc/passwd", group: "/etc/group"}
}

func (j judge) path(path string) error {
	at, err := j.follow(path)
	if err != nil {
		return err
	}
	info, err := j.lstat(at)
	if err != nil {
		return err
	}
	if err := j.file(path, info); err != nil {
		return err
	}
	dir := filepath.Dir(at)
	if info, err = j.lstat(dir); err != nil {
		return err
	}
	return j.folder(path, dir, info, true)
}

func (j judge) opened(f *os.File) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	return j.file(f.Name(), info)
}

func (j judge) readFile(path string) ([]byte, error) {
	if err := j.path(path); err != nil {
		return nil, err
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // only read
	if err := j.opened(f); err != nil {
		return nil, err
	}
	return io.ReadAll(f)
}

// follow finds what path leads to, as opening it does, folder by folder and link by
// link.
func (j judge) follow(path string) (string, error) {
	todo := path
	if !filepath.IsAbs(path) {
		wd, err := os.Getwd()
		if err != nil {
			return "", err
		}
		todo = wd + "/" + path
	}
	at, name := "/", "." // has no links in it
	for links := 0; ; {
		next := filepath.Join(at, name) // also for . and ..
		info, err := j.lstat(next)
		if err != nil {
			return "", err
		}
		if info.Mode()&fs.ModeSymlink == 0 {
			if info.IsDir() && !volume(next, info) {
				err = j.folder(path, next, info, !strings.Contains(strings.TrimLeft(todo, "/"), "/"))
			}
			at = next
		} else {
			if links++; links > maxLinks {
				return "", &fs.PathError{Op: "open", Path: path, Err: syscall.ELOOP}
			}
			var target string
			if target, err = j.link(next, info); filepath.IsAbs(target) {
				at = "/"
			}
			todo = target + "/" + todo
		}
		if err != nil {
			return "", err
		}
		if todo = strings.TrimLeft(todo, "/"); todo == "" {
			return at, nil
		}
		name, todo, _ = strings.Cut(todo, "/")
	}
}

// link judges a symbolic link, and reads where it leads.
func (j judge) link(path string, info fs.FileInfo) (target string, err error) {
	if other, ok := j.stranger(info); ok {
		return "", access.Errorf(access.CodeForbidden, "%s is a link of uid %d, who is neither root nor the one that this runs as (uid %d)", path, other, j.uid).
			WithHint("see where it leads, then: chown -h root %s", path)
	}
	return os.Readlink(path)
}

// volume says whether a folder is as Kubernetes mounts a ConfigMap: root's, open to
// all, and mounted for reading alone, so that nobody in the container can exchange
// what is in it. Who could on the machine below is for that to keep.
func volume(dir string, info fs.FileInfo) bool {
	_, others := judge{}.stranger(info)
	return !others && info.Mode().Perm() == 0o777 && readOnly(dir)
}

// folder judges one that path leads through. One that the file or a link to it is in
// itself may be given to root; one above may be somebody's home.
func (j judge) folder(path, dir string, info fs.FileInfo, own bool) error {
	const see = "see that the file is the right one, then"
	if other, ok := j.stranger(info); ok {
		err := access.Errorf(access.CodeForbidden, "%s is in the folder %s of uid %d, who is neither root nor the one that this runs as (uid %d)", path, dir, other, j.uid)
		if own {
			return err.WithHint(see+": chown root %s", dir)
		}
		return err.WithHint(see + " move it into a folder of root's, such as /etc/hallpass")
	}
	if mode := info.Mode(); open(info) && mode&fs.ModeSticky == 0 && (mode.Perm()&0o002 != 0 || !j.private(dir, info)) {
		err := access.Errorf(access.CodeForbidden, "%s is in the folder %s, which others than its owner can write to (mode %04o)", path, dir, mode.Perm())
		if volume(dir, info) { // whose mode can't be changed
			return err.WithHint(see + " put it into a folder in this one, of mode 0755")
		}
		return err.WithHint(see+": chmod go-w %s", dir)
	}
	return nil
}

// private says whether the group of a folder is its owner's own, as where each user
// has one of the same name and a umask of 002: nobody else is in it, by the files of
// this machine, and no access control list names anybody. Debian's OpenSSH lets such
// folders pass, too. Group 0 is nobody's own: containers are given it without being
// listed. Nor is one of root's that this process has.
func (j judge) private(dir string, info fs.FileInfo) bool {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok || st.Gid == 0 || int(st.Uid) != j.uid && slices.Contains(j.groups, int(st.Gid)) {
		return false
	}
	return !listed(dir) && j.alone(int(st.Uid), int(st.Gid))
}

// alone says whether a user is the only one in a group, which has to be his first.
func (j judge) alone(uid, gid int) bool {
	owner, found := "", false
	for _, user := range records(j.passwd) { // name:password:uid:gid:…
		if len(user) < 4 || !is(user[3], gid) {
			continue
		}
		if !is(user[2], uid) {
			return false
		}
		owner = user[0]
	}
	for _, group := range records(j.group) { // name:password:gid:members
		if len(group) < 4 || !is(group[2], gid) {
			continue
		}
		found = true
		for member := range strings.SplitSeq(group[3], ",") {
			if member != "" && member != owner {
				return false
			}
		}
	}
	return owner != "" && found
}

// records are the lines of a file as passwd(5), in their fields. Of one that can't
// be read there are none.
func records(file string) (all [][]string) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil
	}
	for line := range strings.Lines(string(data)) {
		all = append(all, strings.Split(strings.TrimSpace(line), ":"))
	}
	return all
}

func is(field string, id int) bool {
	n, err := strconv.Atoi(field)
	return err == nil && n == id
}

func (j judge) file(path string, info fs.FileInfo) error {
	if other, ok := j.stranger(info); ok {
		return access.Errorf(access.CodeForbidden, "%s belongs to uid %d, who is neither root nor the one that this runs as (uid %d)", path, other, j.uid).
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

// stranger is its owner, if that is neither root nor the one who asks.
func (j judge) stranger(info fs.FileInfo) (owner int, ok bool) {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, false
	}
	return int(st.Uid), st.Uid != 0 && int(st.Uid) != j.uid
}
