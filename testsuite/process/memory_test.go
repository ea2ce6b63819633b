package process

import (
	"bytes"
	"os"
	"runtime"
	"testing"
)

// What is in memory is found there, and nothing is read of who isn't there.
func TestMemory(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("it takes Linux's /proc")
	}
	secret := bytes.Repeat([]byte{0xa7, 0x1c, 0x33}, 20)
	found := 0
	if err := Memory(os.Getpid(), func(_ string, data []byte) {
		if bytes.Contains(data, secret) {
			found++
		}
	}); err != nil || found == 0 {
		t.Errorf("found in %d regions: %v", found, err)
	}
	runtime.KeepAlive(secret)
	if err := Memory(1<<30, func(string, []byte) { t.Error("something is read") }); err == nil {
		t.Error("a process that isn't there has memory")
	}
}

func TestRegion(t *testing.T) {
	for line, want := range map[string][2]int64{
		"c000000000-c000400000 rw-p 00000000 00:00 0\n":              {0xc000000000, 0xc000400000},
		"c000000000-c000400000 r--p 00000000 00:00 0 [anon: Go]\n":   {0xc000000000, 0xc000400000},
		"00500000-00600000 rw-p 00100000 fe:00 1234 /bin/hallpass\n": {0x500000, 0x600000},
	} {
		if from, to, ok := region(line); from != want[0] || to != want[1] || !ok {
			t.Errorf("%s: %x-%x %v", line, from, to, ok)
		}
	}
	for _, line := range []string{
		"", "x", "00400000-00500000 r-xp 00000000 fe:00 1 /bin/x", "ffffffffff600000-ffffffffff601000 rw-p 00000000 00:00 0",
		"c000400000-c004000000 ---p 00000000 00:00 0",
	} {
		if _, _, ok := region(line); ok {
			t.Errorf("%q is taken for memory to read", line)
		}
	}
}
