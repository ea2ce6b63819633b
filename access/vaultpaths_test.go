package access

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

// A path that several resources open is exclusive if one says so and none
// doesn't agree.
func TestVaultPaths(t *testing.T) {
	role := func(names ...string) map[string]VaultRole {
		roles := map[string]VaultRole{}
		for _, name := range names {
			roles[name] = VaultRole{Role: name}
		}
		return roles
	}
	yes, no := new(true), new(false)
	got := VaultPaths([]Resource{
		{Name: "ssh/web-1"},
		{Path: "db", Roles: role("a", "b", "c")},
		{Path: "db", Roles: role("b", "c", "d"), Exclusive: yes},
		{Path: "db", Roles: role("c"), Exclusive: no},
		{Path: "db", Roles: role("b", "c", "d")},
		{Path: "db", Roles: role("c"), Exclusive: yes},
	})
	want := []VaultPath{{"db/a", nil}, {"db/b", yes}, {"db/c", no}, {"db/d", yes}}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}
