package worker

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"hallpass/access"
)

// Folder is a folder that this process alone serves, until Close or its own
// end. SQLite keeps two servers of one file apart only within a transaction,
// and Temporal doesn't do it at all: the lock is what does.
type Folder struct {
	path string
	lock *os.File
}

const lockName = "lock"

// Claim takes the folder for this process and makes it, with mode 0700, if it
// isn't there. It fails with CodeUnavailable if another process has it. The
// kernel drops the lock when the process ends, however it ends; the file
// stays and means nothing.
func Claim(path string) (*Folder, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("find folder: %w", err)
	}
	if err := access.CheckText("the folder's name", path, maxValue); err != nil {
		return nil, err // it is written into files
	}
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, fmt.Errorf("make folder: %w", err)
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("make folder: %w", err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, access.Errorf(access.CodeMalformed, "folder %s is open to others (mode %04o), and keys would lie in it", path, info.Mode().Perm()).
			WithHint("chmod 700 %s", path)
	}
	lock, err := os.OpenFile(filepath.Join(path, lockName), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock folder: %w", err)
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		holder, _ := os.ReadFile(lock.Name()) // for the message; may be empty
		_ = lock.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, access.Errorf(access.CodeUnavailable, "folder %s is served by another hallpass%s", path, processName(holder)).
				WithHint("use the one that runs, or give this one a folder of its own with --dir")
		}
		return nil, fmt.Errorf("lock folder %s: %w", path, err)
	}
	f := &Folder{path: path, lock: lock}
	if err := f.sign(); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("lock folder: %w", err)
	}
	return f, nil
}

// sign writes the process id into the lock file, for people.
func (f *Folder) sign() error {
	if err := f.lock.Truncate(0); err != nil {
		return err
	}
	_, err := f.lock.WriteAt(fmt.Appendf(nil, "%d\n", os.Getpid()), 0)
	return err
}

func processName(holder []byte) string {
	if pid := strings.TrimSpace(string(holder)); pid != "" && strings.Trim(pid, "0123456789") == "" {
		return " (process " + pid + ")"
	}
	return ""
}

// Path is the path of a file in the folder.
func (f *Folder) Path(name ...string) string {
	return filepath.Join(append([]string{f.path}, name...)...)
}

// Close gives the folder back.
func (f *Folder) Close() error { return f.lock.Close() }

// exists says whether the file is there; a symbolic link counts as what it
// points to.
func (f *Folder) exists(name ...string) (bool, error) {
	_, err := os.Stat(f.Path(name...))
	switch {
	case err == nil:
		return true, nil
	case errors.Is(err, fs.ErrNotExist):
		return false, nil
	}
	return false, err
}

// create writes a file that isn't there yet and says whether it did: a file
// that is there is the user's. It appears whole or not at all, so that a
// crash leaves nothing half-written behind for the next start to take as
// given.
func (f *Folder) create(name string, mode fs.FileMode, data []byte) (bool, error) {
	there, err := f.exists(name)
	if there || err != nil {
		return false, err
	}
	dir := filepath.Dir(f.Path(name))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return false, err
	}
	temp, err := os.CreateTemp(dir, ".new-*")
	if err != nil {
		return false, err
	}
	defer os.Remove(temp.Name()) //nolint:errcheck // gone once it is renamed
	if err := errors.Join(writeAll(temp, mode, data), temp.Close()); err != nil {
		return false, fmt.Errorf("write %s: %w", name, err)
	}
	if err := os.Rename(temp.Name(), f.Path(name)); err != nil {
		return false, err
	}
	return true, syncFolder(dir)
}

func writeAll(f *os.File, mode fs.FileMode, data []byte) error {
	if err := f.Chmod(mode); err != nil {
		return err
	}
	if _, err := f.Write(data); err != nil {
		return err
	}
	return f.Sync()
}

// syncFolder makes the names in a folder durable.
func syncFolder(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
