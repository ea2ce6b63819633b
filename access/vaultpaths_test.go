package access

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

// A path that several resources open is there once.
func TestVaultPaths(t *testing.T) {
	role := func(names ...string) map[string]VaultRole {
		roles := map[string]VaultRole{}
		for _, name := range names {
			roles[name] = VaultRole{Role: name}
		}
		return roles
	}
	got := VaultPaths([]Resource{
		{Name: "ssh/web-1"},
		{Path: "db", Roles: role("b", "c")},
		{Path: "db", Roles: role("c", "a")},
		{Path: "a", Roles: role("z")},
	})
	if d := cmp.Diff([]string{"a/z", "db/a", "db/b", "db/c"}, got); d != "" {
		t.Error(d)
	}
}
