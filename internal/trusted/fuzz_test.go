package trusted

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// Whatever is in /etc/passwd and /etc/group: a user who is said to be alone in a group is
// in both, and no line of them has anybody else in it.
func FuzzAlone(f *testing.F) {
	f.Add("root:x:0:0:root:/root:/bin/sh\nalice:x:1000:1000::/home/alice:/bin/sh\n", "root:x:0:\nalice:x:1000:\n")
	f.Add("alice:x:1000:1000:::\nbob:x:1001:1000:::\n", "alice:x:1000:\n")
	f.Add("alice:x:1000:1000:::\n", "alice:x:1000:bob\n")
	f.Add("alice:x:1000:1000:::\n", "alice:x:1000:alice\nalice2:x:1000:bob,alice\n")
	f.Add("alice:x:+1000:01000:::\n", "alice:x: 1000:\n")
	f.Add(":::\n:x:1000:1000:::", "::1000:,,\n")
	f.Add("alice:x:1000:1000\r\n\x00", "alice:x:1000")
	dir := f.TempDir()
	j := judge{passwd: filepath.Join(dir, "passwd"), group: filepath.Join(dir, "group")}
	f.Fuzz(func(t *testing.T, passwd, group string) {
		for path, text := range map[string]string{j.passwd: passwd, j.group: group} {
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if !j.alone(1000, 1000) {
			return
		}
		number := func(s string) (n int) {
			if _, err := fmt.Sscanf(s, "%d", &n); err != nil {
				return -1
			}
			return n
		}
		var names, members []string
		for _, line := range strings.Split(passwd, "\n") {
			if p := strings.Split(line, ":"); len(p) > 3 && number(strings.TrimSpace(p[3])) == 1000 {
				if names = append(names, p[0]); number(p[2]) != 1000 {
					t.Errorf("%q is in it by %q", p[0], passwd)
				}
			}
		}
		for _, line := range strings.Split(group, "\n") {
			if g := strings.Split(line, ":"); len(g) > 3 && number(g[2]) == 1000 {
				members = append(members, strings.Split(strings.TrimSpace(g[3]), ",")...)
			}
		}
		if len(names) == 0 {
			t.Errorf("nobody is in it by %q", passwd)
		}
		for _, m := range members {
			if m != "" && !slices.ContainsFunc(names, func(name string) bool { return strings.TrimSpace(name) == m }) {
				t.Errorf("%q is in it by %q", m, group)
			}
		}
	})
}
