package attacks

import (
	"strconv"
	"strings"
	"testing"
)

func itoa(n int) string { return strconv.Itoa(n) }

// region reads a line of /proc/PID/maps: "from-to rw-p offset device inode path",
// the first two in hexadecimal. It is one to read if it can be and isn't what is in
// a file, as a core dump has it.
func region(line string) (from, to int64, ok bool) {
	f := strings.Fields(line)
	if len(f) < 5 || f[1][0] != 'r' || f[1][1] != 'w' && f[4] != "0" {
		return 0, 0, false
	}
	low, high, _ := strings.Cut(f[0], "-")
	a, err1 := strconv.ParseInt(low, 16, 64)
	b, err2 := strconv.ParseInt(high, 16, 64)
	return a, b, err1 == nil && err2 == nil && b > a && b-a < 1<<31
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
