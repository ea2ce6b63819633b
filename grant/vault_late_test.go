package grant

import (
	"fmt"
	"testing"
	"time"

	"hallpass/access"
	"hallpass/vault"
)

// A lease is of the grant whose token's mark it ends on, near that grant's end and
// below a path that it reads, and of none else: who chooses the id of his request, or
// asks for the same time, doesn't choose the mark.
func TestMarks(t *testing.T) {
	end := time.Date(2026, 3, 2, 12, 0, 0, 0, time.UTC)
	h := access.Handle{Request: "r", Accessor: "a", Reads: []string{"db/x", "db/y"}, NotAfter: end}
	same := access.Handle{Request: "r", Accessor: "b", Reads: []string{"db/x"}, NotAfter: end}
	of := byMark([]access.Handle{h, same})
	at := end.Add(-3 * time.Second).Add(vault.Mark("a"))
	for _, tt := range []struct {
		name    string
		path    string
		expires time.Time
		want    string
	}{
		{"its own", "db/x", at, "a"},
		{"another path of its", "db/y", at, "a"},
		{"the other's", "db/x", end.Add(vault.Mark("b")), "b"},
		{"the other's, at a path that it doesn't read", "db/y", end.Add(vault.Mark("b")), ""},
		{"below a longer path", "db/x/z", at, ""},
		{"a nanosecond more", "db/x", at.Add(1), ""},
		{"another request's that ends in another hour", "db/x", at.Add(time.Hour), ""},
		{"on a whole second", "db/x", end, ""},
		{"one without an end", "db/x", time.Time{}, ""},
	} {
		if got, found := of.grant(tt.path, tt.expires); got.Accessor != tt.want || found != (tt.want != "") {
			t.Errorf("%s: %+v, %t", tt.name, got, found)
		}
	}
	for i := range 1000 {
		if m := vault.Mark(fmt.Sprint(i)); m < 1 || m >= time.Second {
			t.Errorf("%d: %s", i, m)
		}
	}
}

// What ended is looked for as long as something may come, longer where nobody could
// look, and not for ever. What isn't needed for that isn't kept.
func TestLateIsBounded(t *testing.T) {
	var l late
	now := time.Date(2026, 3, 2, 12, 0, 0, 0, time.UTC)
	add := func(accessor, path string, left time.Duration) {
		l.watch(access.Handle{Request: "r" + accessor, Accessor: accessor, Sealed: "sealed", Reads: []string{path}, NotAfter: now.Add(left)}, now)
	}
	add("good", "db/x", time.Hour)
	add("gone", "db/gone", time.Hour)
	add("over", "db/x", 0)
	add("none", "", time.Hour)
	l.watch(access.Handle{Request: "ssh", Serial: 7, NotAfter: now.Add(time.Hour)}, now)
	failed := map[string]bool{"db/gone": true}
	for _, tt := range []struct {
		after time.Duration
		want  int
	}{{0, 3}, {lateFor, 3}, {lateFor + time.Second, 1}, {lateMost, 1}, {lateMost + time.Second, 0}} {
		if l.forget(now.Add(tt.after), failed); len(l.list()) != tt.want {
			t.Errorf("after %s: %+v", tt.after, l.list())
		}
		for _, h := range l.list() {
			if h.Sealed != "" {
				t.Error("it keeps what is sealed")
			}
		}
	}
}
