package attacks

import (
	"strconv"
	"strings"
	"testing"
)

func itoa(n int) string { return strconv.Itoa(n) }

// region reads a line of /proc/PID/maps: "from-to rw-p …", in hexadecimal.
func region(line string) (from, to int64, writable bool) {
	f := strings.Fields(line)
	if len(f) < 2 || !strings.HasPrefix(f[1], "rw") {
		return 0, 0, false
	}
	low, high, _ := strings.Cut(f[0], "-")
	a, err1 := strconv.ParseInt(low, 16, 64)
	b, err2 := strconv.ParseInt(high, 16, 64)
	return a, b, err1 == nil && err2 == nil && b > a && b-a < 1<<31
}

func TestRegion(t *testing.T) {
	if from, to, ok := region("c000000000-c000400000 rw-p 00000000 00:00 0\n"); from != 0xc000000000 || to != 0xc000400000 || !ok {
		t.Errorf("%x-%x %v", from, to, ok)
	}
	for _, line := range []string{"", "x", "00400000-00500000 r-xp 00000000 fe:00 1 /bin/x", "ffffffffff600000-ffffffffff601000 rw-p"} {
		if _, _, ok := region(line); ok {
			t.Errorf("%q is taken for writable memory", line)
		}
	}
}
