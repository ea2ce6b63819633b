package chaos

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// CanMoveClocks says whether MoveClock can work here.
const CanMoveClocks = true

// MoveClock moves what a running process takes for the time of the day, by so
// much from what it is; 0 puts it right. Nobody else's clock changes, nor does
// the process's monotonic one. It takes root, or the process's parent.
//
// A process asks for the time in the vDSO, a library that the kernel puts into
// its memory (vdso(7)). Its clock_gettime is replaced there by one that asks
// the kernel and adds.
func MoveClock(pid int, by time.Duration) (err error) {
	if by%time.Second != 0 {
		return fmt.Errorf("%s isn't whole seconds", by)
	}
	base, size, err := vdso(pid)
	if err != nil {
		return err
	}
	mem, err := os.OpenFile(fmt.Sprintf("/proc/%d/mem", pid), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, mem.Close()) }()
	image := make([]byte, size)
	if _, err := mem.ReadAt(image, base); err != nil {
		return fmt.Errorf("read the vDSO: %w", err)
	}
	lib, err := elf.NewFile(bytes.NewReader(image))
	if err != nil {
		return fmt.Errorf("the vDSO: %w", err)
	}
	symbols, err := lib.DynamicSymbols()
	if err != nil {
		return fmt.Errorf("the vDSO: %w", err)
	}
	for _, s := range symbols {
		if s.Name != "__vdso_clock_gettime" {
			continue
		}
		code := moved(by)
		if s.Size < uint64(len(code)) {
			return fmt.Errorf("the vDSO's clock_gettime has %d bytes, and %d are needed", s.Size, len(code))
		}
		return outside(pid, base, base+size, func() error {
			_, err := mem.WriteAt(code, base+int64(s.Value))
			return err
		})
	}
	return errors.New("the vDSO has no clock_gettime")
}

// outside calls f while the process stands still, and none of its threads in a
// region of its memory.
func outside(pid int, from, to int64, f func() error) error {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for range 1000 {
		if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
			return err
		}
		for range 1000 {
			if stopped, inside := threads(pid, from, to); inside {
				break
			} else if stopped {
				return errors.Join(f(), syscall.Kill(pid, syscall.SIGCONT))
			}
			<-tick.C
		}
		if err := syscall.Kill(pid, syscall.SIGCONT); err != nil {
			return err
		}
		<-tick.C
	}
	return fmt.Errorf("process %d doesn't stand still", pid)
}

// threads says whether all threads of a process stand still, and whether one
// of those that do is in a region (proc_pid_syscall(5): the last word is the
// instruction pointer).
func threads(pid int, from, to int64) (stopped, inside bool) {
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", pid))
	if err != nil || len(tasks) == 0 {
		return false, false
	}
	for _, task := range tasks {
		stat, err := os.ReadFile(task + "/stat")
		_, state, _ := strings.Cut(string(stat), ") ")
		if err != nil || !strings.HasPrefix(state, "T") {
			return false, false
		}
		line, err := os.ReadFile(task + "/syscall")
		words := strings.Fields(string(line))
		if err != nil || len(words) == 0 {
			return false, false
		}
		at, err := strconv.ParseInt(words[len(words)-1], 0, 64)
		if err != nil {
			return false, false
		}
		inside = inside || from <= at && at < to
	}
	return true, inside
}

// moved is clock_gettime(edi, rsi) as the kernel has it, and later, where it is
// CLOCK_REALTIME that is asked for (0).
func moved(by time.Duration) []byte {
	code := []byte{
		0xb8, 228, 0, 0, 0, // mov eax, SYS_clock_gettime
		0x0f, 0x05, // syscall
		0x85, 0xff, // test edi, edi
		0x75, 13, // jne to ret
		0x48, 0xb9, // mov rcx, …
	}
	code = binary.LittleEndian.AppendUint64(code, uint64(by/time.Second))
	return append(code,
		0x48, 0x01, 0x0e, // add [rsi], rcx
		0xc3, // ret
	)
}

// vdso finds the library in a process's memory.
func vdso(pid int) (base, size int64, err error) {
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		return 0, 0, err
	}
	if len(maps) == 0 {
		return 0, 0, syscall.ESRCH // it is ending
	}
	for line := range strings.Lines(string(maps)) {
		if !strings.HasSuffix(strings.TrimSpace(line), "[vdso]") {
			continue
		}
		region, _, _ := strings.Cut(line, " ")
		from, to, _ := strings.Cut(region, "-")
		begin, err1 := strconv.ParseInt(from, 16, 64)
		end, err2 := strconv.ParseInt(to, 16, 64)
		return begin, end - begin, errors.Join(err1, err2)
	}
	return 0, 0, errors.New("the process has no vDSO")
}
