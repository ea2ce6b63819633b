package process

import (
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Memory reads what a process has in memory, one region after the other: all
// that can be read but the unchanged pages of files, as a core dump has it. It
// takes Linux, and to be the process's owner. The data is good until each returns;
// region is its line in /proc/PID/maps.
func Memory(pid int, each func(region string, data []byte)) error {
	proc := filepath.Join("/proc", strconv.Itoa(pid))
	maps, err := os.ReadFile(filepath.Join(proc, "maps"))
	if err != nil {
		return err
	}
	mem, err := os.Open(filepath.Join(proc, "mem"))
	if err != nil {
		return err
	}
	defer func() { _ = mem.Close() }() // it was read alone
	var data []byte
	for line := range strings.Lines(string(maps)) {
		from, to, ok := region(line)
		if !ok {
			continue
		}
		if int64(cap(data)) < to-from {
			data = make([]byte, to-from)
		}
		n, _ := io.ReadFull(io.NewSectionReader(mem, from, to-from), data[:to-from]) // some can't be read
		each(strings.TrimSpace(line), data[:n])
	}
	return nil
}

// region reads a line of /proc/PID/maps: "from-to rw-p offset device inode path",
// the first two in hexadecimal. It is one to read if it can be and isn't what is in
// a file.
func region(line string) (from, to int64, ok bool) {
	f := strings.Fields(line)
	if len(f) < 5 || len(f[1]) < 2 || f[1][0] != 'r' || f[1][1] != 'w' && f[4] != "0" {
		return 0, 0, false
	}
	low, high, _ := strings.Cut(f[0], "-")
	a, err1 := strconv.ParseInt(low, 16, 64)
	b, err2 := strconv.ParseInt(high, 16, 64)
	return a, b, err1 == nil && err2 == nil && b > a && b-a < 1<<31
}
