//go:build linux

package host

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// process is a process that can't be mistaken for another one that has its
// number later: fd is a pidfd, and start tells after a restart of the agent
// whether pid still is the one it was.
type process struct {
	pid   int
	start uint64 // clock ticks since boot (proc(5), stat, field 22)
	fd    int
}

// openProcess opens the process that has this number now. Close it.
func openProcess(pid int) (*process, error) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return nil, fmt.Errorf("open process %d: %w", pid, err)
	}
	// What is read after the pidfd was opened is about the process in it, as
	// long as that one lives.
	st, err := readStat(pid)
	p := &process{pid: pid, start: st.start, fd: fd}
	if err == nil && !p.alive() {
		err = errEnded
	}
	if err != nil {
		p.close()
		return nil, err
	}
	return p, nil
}

var errEnded = errors.New("the process has ended")

// hasEnded says whether openProcess failed because there is no such process:
// none has the number, or a thread has it.
func hasEnded(err error) bool {
	return errors.Is(err, errEnded) || errors.Is(err, unix.ESRCH) || errors.Is(err, unix.EINVAL) || errors.Is(err, fs.ErrNotExist)
}

func (p *process) close() { _ = unix.Close(p.fd) }

// alive says whether the process runs; one that waits to be reaped doesn't.
func (p *process) alive() bool { return !p.wait(0) }

// wait waits for the process to end and says whether it has.
func (p *process) wait(timeout time.Duration) bool {
	deadline := time.Now().Add(timeout)
	for {
		fds := []unix.PollFd{{Fd: int32(p.fd), Events: unix.POLLIN}}
		n, err := unix.Poll(fds, max(0, int(time.Until(deadline).Milliseconds())))
		if err != unix.EINTR {
			return err == nil && n > 0
		}
	}
}

// signal sends a signal. That the process has ended already is no error.
func (p *process) signal(sig unix.Signal) error {
	if err := unix.PidfdSendSignal(p.fd, sig, nil, 0); err != nil && err != unix.ESRCH {
		return fmt.Errorf("signal process %d: %w", p.pid, err)
	}
	return nil
}

// peer is the far end of the first TCP connection that the process holds: for
// sshd's monitor, where the client is. It is asked of the socket itself, since
// what PAM's environment says of it can be set by the one who logs in.
func (p *process) peer() (netip.AddrPort, bool) {
	entries, _ := os.ReadDir(procPath(p.pid, "fd"))
	var fds []int
	for _, e := range entries {
		if n, err := strconv.Atoi(e.Name()); err == nil {
			fds = append(fds, n)
		}
	}
	slices.Sort(fds) // the lowest is sshd's; a name service may hold others
	for _, n := range fds {
		to, err := os.Readlink(procPath(p.pid, "fd", strconv.Itoa(n)))
		if err != nil || !strings.HasPrefix(to, "socket:") {
			continue
		}
		fd, err := unix.PidfdGetfd(p.fd, n, 0)
		if err != nil {
			continue
		}
		sa, err := unix.Getpeername(fd)
		_ = unix.Close(fd)
		if err != nil {
			continue
		}
		switch sa := sa.(type) {
		case *unix.SockaddrInet4:
			return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port)), true
		case *unix.SockaddrInet6:
			return netip.AddrPortFrom(netip.AddrFrom16(sa.Addr).Unmap(), uint16(sa.Port)), true
		}
	}
	return netip.AddrPort{}, false
}

func procPath(pid int, elem ...string) string {
	return filepath.Join(append([]string{"/proc", strconv.Itoa(pid)}, elem...)...)
}

// stat is what is of use in /proc/PID/stat (proc(5)).
type stat struct {
	parent int
	tty    uint64 // device number of the controlling terminal, 0 for none
	start  uint64
}

func readStat(pid int) (stat, error) {
	data, err := os.ReadFile(procPath(pid, "stat"))
	if err != nil {
		return stat{}, err
	}
	return parseStat(data)
}

// parseStat reads past the last parenthesis: the name before it is whatever
// the process chose.
func parseStat(data []byte) (stat, error) {
	i := bytes.LastIndexByte(data, ')')
	if i < 0 {
		return stat{}, fmt.Errorf("stat of a process can't be read")
	}
	f := strings.Fields(string(data[i+1:])) // from field 3, the state
	if len(f) < 20 {
		return stat{}, fmt.Errorf("stat of a process has %d fields", len(f)+2)
	}
	parent, err1 := strconv.Atoi(f[1])
	tty, err2 := strconv.ParseInt(f[4], 10, 32)
	start, err3 := strconv.ParseUint(f[19], 10, 64)
	if err1 != nil || err2 != nil || err3 != nil {
		return stat{}, fmt.Errorf("stat of a process can't be read")
	}
	return stat{parent: parent, tty: uint64(uint32(tty)), start: start}, nil
}

// realUID is the real user id of a process: the effective one is root's for
// every setuid program that somebody starts.
func realUID(pid int) (int, error) {
	data, err := os.ReadFile(procPath(pid, "status"))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(data)) {
		if f := strings.Fields(line); len(f) == 5 && f[0] == "Uid:" {
			return strconv.Atoi(f[1])
		}
	}
	return 0, fmt.Errorf("status of process %d has no user id", pid)
}

// children maps every process to those that it is the parent of.
func children() map[int][]int {
	out := map[int][]int{}
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if st, err := readStat(pid); err == nil {
			out[st.parent] = append(out[st.parent], pid)
		}
	}
	return out
}

// descendants are the processes below pid, parents first, pid not included.
func descendants(pid int) []int {
	below := children()
	var out []int
	seen := map[int]bool{pid: true}
	queue := []int{pid}
	for len(queue) > 0 {
		for _, c := range below[queue[0]] {
			if !seen[c] {
				seen[c] = true
				out = append(out, c)
				queue = append(queue, c)
			}
		}
		queue = queue[1:]
	}
	return out
}

// The device numbers of pseudo-terminals (Linux, Documentation/admin-guide/devices.txt).
const ptyFirstMajor, ptyLastMajor = 136, 143

// tell writes a line to the terminals that these processes have, and says
// whether there was any. It never waits for a terminal.
func tell(pids []int, line string) bool {
	told := map[uint64]bool{}
	for _, pid := range pids {
		st, err := readStat(pid)
		if err != nil || told[st.tty] {
			continue
		}
		major, minor := unix.Major(st.tty), unix.Minor(st.tty)
		if major < ptyFirstMajor || major > ptyLastMajor {
			continue
		}
		told[st.tty] = true
		path := fmt.Sprintf("/dev/pts/%d", minor+(major-ptyFirstMajor)<<20)
		fd, err := unix.Open(path, unix.O_WRONLY|unix.O_NOCTTY|unix.O_NONBLOCK|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != nil {
			continue
		}
		var now unix.Stat_t
		if unix.Fstat(fd, &now) == nil && now.Rdev == st.tty {
			_, _ = unix.Write(fd, []byte("\r\n"+line+"\r\n"))
		}
		_ = unix.Close(fd)
	}
	return len(told) > 0
}

// bootID tells one run of the kernel from the next.
func bootID() string {
	data, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(data))
}
