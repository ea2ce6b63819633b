package cli

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"hallpass/vault"
)

const openedCatalog = `resources:
  ssh/web-1: {logins: [deploy, root], address: "10.0.0.7:22"}
  db/old: {}
  vault/orders:
    path: database/creds
    actions:
      read: orders-ro
      dump: {role: orders-dump, with: {}}
`

func TestCatalogAndVaultCommands(t *testing.T) {
	dir := rulesDir(t)
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		check(t, os.WriteFile(path, []byte(text), 0o600))
		return path
	}
	good := write("vault.yaml", openedCatalog)
	bad := write("bad.yaml", strings.Replace(openedCatalog, "database/creds", "sys/mounts", 1))
	for name, c := range map[string]struct {
		args   []string
		code   int
		out    []string
		stderr []string
	}{
		"check": {[]string{"catalog", "check", good}, ExitOK, []string{
			"ssh/web-1     deploy, root on 10.0.0.7:22", "vault/orders  dump: write database/creds/orders-dump", "read: read database/creds/orders-ro",
			"db/old        nothing: there is no issuer for kind db", "3 resources, no problems found"}, nil},
		"check the configured one": {[]string{"catalog", "check"}, ExitOK, []string{"1 resource, no problems found"}, nil},
		"check a bad one":          {[]string{"catalog", "check", bad}, ExitUsage, nil, []string{bad + `:5:11: path "sys/mounts" is Vault's own`}},
		"check, no Vault":          {[]string{"catalog", "check", good, "--vault"}, ExitUsage, nil, []string{"issuers.vault.address is not configured", "docs/vault.md"}},
		"set up": {[]string{"vault", "setup", "--print", "--catalog", good}, ExitOK, []string{
			"vault policy write 'hallpass-grant-orders@read' - <<'EOF'", "vault policy write 'hallpass-issuer' - <<'EOF'", "vault policy write 'hallpass-grant' - <<'EOF'", "vault write auth/token/roles/hallpass \\\n  allowed_policies='hallpass-grant' \\\n", "vault write auth/token/roles/hallpass-grant \\\n  allowed_policies='hallpass-grant-orders@dump' \\\n  allowed_policies='hallpass-grant-orders@read' \\\n"}, nil},
		"set up nothing":  {[]string{"vault", "setup"}, ExitNotFound, nil, []string{"the catalog has no resources of kind vault", "vault delete auth/token/roles/hallpass"}},
		"check nowhere":   {[]string{"vault", "check"}, ExitUsage, nil, []string{"issuers.vault.address is not configured"}},
		"an argument":     {[]string{"vault", "check", "x"}, ExitUsage, nil, []string{"unexpected argument x"}},
		"check one twice": {[]string{"catalog", "check", "a", "b"}, ExitUsage, nil, []string{"unexpected argument b"}},
	} {
		t.Run(name, func(t *testing.T) {
			got := rulesRun(dir, c.args...)
			if got.code != c.code {
				t.Errorf("exit code %d, want %d", got.code, c.code)
			}
			for _, part := range c.out {
				if !strings.Contains(got.stdout, part) {
					t.Errorf("standard output has no %q", part)
				}
			}
			for _, part := range c.stderr {
				if !strings.Contains(got.stderr, part) {
					t.Errorf("standard error has no %q", part)
				}
			}
			if t.Failed() {
				t.Logf("standard output:\n%s\nstandard error:\n%s", got.stdout, got.stderr)
			}
		})
	}
	var plan vault.Plan
	got := rulesRun(dir, "vault", "setup", "--catalog", good, "--output", "json")
	check(t, json.Unmarshal([]byte(got.stdout), &plan))
	if len(plan.Grants) != 2 || plan.Issuer.Name != vault.IssuerPolicy(vault.DefaultTokenRole) || plan.TokenRole != vault.DefaultTokenRole {
		t.Errorf("%+v", plan)
	}
}
