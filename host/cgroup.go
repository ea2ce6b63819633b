//go:build linux

package host

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// cgroup is a control group of version 2 (Linux,
// Documentation/admin-guide/cgroup-v2.rst): a folder whose processes, and all
// that they ever start, can be ended in one step.
type cgroup string

// cgroupMount is where version 2 is mounted, or an error that says it isn't.
func cgroupMount() (string, error) {
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return "", err
	}
	return parseMountinfo(string(data))
}

func parseMountinfo(data string) (string, error) {
	for line := range strings.Lines(data) {
		before, after, ok := strings.Cut(line, " - ")
		f := strings.Fields(before)
		if typ := strings.Fields(after); ok && len(typ) > 0 && typ[0] == "cgroup2" && len(f) > 4 && filepath.IsAbs(f[4]) {
			return f[4], nil
		}
	}
	return "", errors.New("cgroup v2 is not mounted")
}

// cgroupOf is the cgroup that a process is in.
func cgroupOf(mount string, pid int) (cgroup, error) {
	data, err := os.ReadFile(procPath(pid, "cgroup"))
	if err != nil {
		return "", err
	}
	return parseCgroup(string(data), mount, pid)
}

func parseCgroup(data, mount string, pid int) (cgroup, error) {
	for line := range strings.Lines(data) {
		if path, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "0::"); ok {
			if path != "/" && !filepath.IsLocal(strings.TrimPrefix(path, "/")) {
				return "", fmt.Errorf("process %d is outside of this cgroup namespace", pid)
			}
			return cgroup(filepath.Join(mount, path)), nil
		}
	}
	return "", fmt.Errorf("process %d is in no cgroup of version 2", pid)
}

// cgroupPrefix is what the names of our cgroups begin with.
const cgroupPrefix = "hallpass-"

// ours keeps kill and remove from anybody else's cgroup, whatever a record says.
func (c cgroup) ours() error {
	if !filepath.IsAbs(string(c)) || !strings.HasPrefix(filepath.Base(string(c)), cgroupPrefix) {
		return fmt.Errorf("cgroup %s is not one of hallpass", c)
	}
	return nil
}

// enclose makes a cgroup for a process and moves it in. The new one is a child
// of the one that the process is in, so that limits on that one still hold,
// and a service manager still counts it as its own.
func enclose(mount string, pid int, name string) (cgroup, error) {
	parent, err := cgroupOf(mount, pid)
	if err != nil {
		return "", err
	}
	c := cgroup(filepath.Join(string(parent), name))
	if err := os.Mkdir(string(c), 0o755); err != nil {
		return "", err
	}
	if err := c.put("cgroup.procs", strconv.Itoa(pid)); err != nil {
		return "", errors.Join(err, c.remove())
	}
	return c, nil
}

// put writes to one of the files by which the kernel takes orders. It never
// makes one.
func (c cgroup) put(file, value string) error {
	f, err := os.OpenFile(filepath.Join(string(c), file), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	return errors.Join(err, f.Close())
}

// pids are the processes in the cgroup, those in cgroups below it not counted.
func (c cgroup) pids() []int {
	data, _ := os.ReadFile(filepath.Join(string(c), "cgroup.procs"))
	var out []int
	for _, f := range strings.Fields(string(data)) {
		if pid, err := strconv.Atoi(f); err == nil && pid > 0 {
			out = append(out, pid)
		}
	}
	return out
}

// populated says whether any process lives in the cgroup or below it. While
// that can't be told, one may.
func (c cgroup) populated() bool {
	data, err := os.ReadFile(filepath.Join(string(c), "cgroup.events"))
	if err != nil {
		return !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENODEV)
	}
	return strings.Contains(string(data), "populated 1")
}

// cgroupNamed finds the cgroup that has a name, wherever it is; "" if none has.
func cgroupNamed(mount, name string) (found cgroup, err error) {
	if mount == "" {
		return "", nil
	}
	err = filepath.WalkDir(mount, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) && path != mount {
			return nil // it was removed meanwhile
		}
		if err == nil && d.IsDir() && d.Name() == name {
			found = cgroup(path)
			return fs.SkipAll
		}
		return err
	})
	return found, err
}

// kill ends every process in the cgroup and below it, the ones that are being
// born too. Kernels before 5.14 have no such order; there it goes round until
// nobody is left.
func (c cgroup) kill() error {
	if err := c.ours(); err != nil {
		return err
	}
	err := c.put("cgroup.kill", "1")
	if !errors.Is(err, fs.ErrNotExist) || !c.exists() {
		return err
	}
	for range 100 {
		if err := c.each(func(d cgroup) error {
			for _, pid := range d.pids() {
				_ = unix.Kill(pid, unix.SIGKILL) // gone already, or seen in the next round
			}
			return nil
		}); err != nil || !c.populated() {
			return err
		}
		pause(time.Millisecond)
	}
	return fmt.Errorf("%s still has processes", c)
}

func (c cgroup) exists() bool {
	_, err := os.Stat(string(c))
	return err == nil
}

// each calls f for the cgroup and all below it, the lowest first.
func (c cgroup) each(f func(cgroup) error) error {
	entries, err := os.ReadDir(string(c))
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := cgroup(filepath.Join(string(c), e.Name())).each(f); err != nil {
				return err
			}
		}
	}
	return f(c)
}

// remove removes the cgroup and those below it, once nobody is in them. That
// it is gone already is no error.
func (c cgroup) remove() error {
	if err := c.ours(); err != nil {
		return err
	}
	err := c.each(func(d cgroup) error { return os.Remove(string(d)) })
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
