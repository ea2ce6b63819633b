package vault_test

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"

	"hallpass/access"
	"hallpass/catalog"
	"hallpass/testsuite/postgrestest"
	"hallpass/testsuite/vaulttest"
	"hallpass/vault"
)

// patience is for machines that are busy with other things.
const patience = time.Minute

const catalogYAML = `
resources:
  ssh/web-1: {logins: [deploy]}
  vault/orders:
    path: database/creds
    actions:
      read: orders-ro
      dump: {role: orders-dump}
  vault/web-cert:
    path: pki/issue
    actions:
      renew: {role: web, with: {common_name: "web.example.com", ttl: 1h}}
`

func resources(t testing.TB, text string) []access.Resource {
	t.Helper()
	c, err := catalog.Parse("catalog.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return c.Resources()
}

// house is a Vault with a database and a CA whose certificates have leases,
// set up as the script says.
type house struct {
	*vaulttest.Server
	db     *vaulttest.Database
	config vault.Config
}

// newHouse makes one, with all that the catalog names.
func newHouse(t *testing.T) *house {
	t.Helper()
	h := &house{Server: vaulttest.Start(t, vaulttest.Config{})}
	h.db = h.NewDatabase(t, postgrestest.Start(t), "database")
	h.db.Role(t, "orders-ro", time.Hour)
	h.db.Role(t, "orders-dump", 24*time.Hour)
	h.Mount(t, "pki", "pki")
	h.Write(t, "pki/root/generate/internal", map[string]any{"common_name": "example.com", "ttl": "24h"})
	h.Write(t, "pki/roles/web", map[string]any{"allowed_domains": "example.com", "allow_subdomains": true, "max_ttl": "24h", "generate_lease": true})
	h.setUp(t, catalogYAML)
	h.config = h.approle(t)
	return h
}

// setUp runs the script for a catalog.
func (h *house) setUp(t *testing.T, catalog string) (printed string) {
	t.Helper()
	return h.setUpAs(t, vault.DefaultTokenRole, catalog)
}

func (h *house) setUpAs(t *testing.T, tokenRole, catalog string) (printed string) {
	t.Helper()
	script := vault.NewPlan(resources(t, catalog), vault.Config{}, tokenRole).Script()
	cmd := exec.Command("sh")
	cmd.Stdin = strings.NewReader(script)
	bin := t.TempDir()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(self, filepath.Join(bin, "vault")); err != nil {
		t.Fatal(err)
	}
	cmd.Env = append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"), "VAULT_ADDR="+h.Address, "VAULT_TOKEN="+h.RootToken,
		"GORACE=atexit_sleep_ms=0") // the race detector has each of these commands wait a second at its end
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s\n%s", err, out, script)
	}
	return string(out)
}

// approle is a configuration with a secret id.
func (h *house) approle(t *testing.T) vault.Config {
	t.Helper()
	id, err := h.Client(t).Logical().Read("auth/approle/role/hallpass/role-id")
	if err != nil {
		t.Fatal(err)
	}
	secret := h.Write(t, "auth/approle/role/hallpass/secret-id", nil)
	return vault.Config{
		Address: h.Address, Auth: vault.AppRole,
		RoleID: id.Data["role_id"].(string), SecretIDFile: secretFile(t, secret.Data["secret_id"].(string)),
	}
}

func secretFile(t testing.TB, secret string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(path, []byte(secret+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func newClient(t testing.TB, c vault.Config) *vault.Client {
	t.Helper()
	client, err := vault.New(c)
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// whoami is the accessor of the client's own token.
func whoami(t testing.TB, c *vault.Client) string {
	t.Helper()
	accessor, err := lookup(c)
	if err != nil {
		t.Fatal(err)
	}
	return accessor
}

func lookup(c *vault.Client) (accessor string, err error) {
	err = c.Do(context.Background(), func(ctx context.Context, a *api.Client) error {
		s, err := a.Auth().Token().LookupSelfWithContext(ctx)
		if err == nil {
			accessor, err = s.TokenAccessor()
		}
		return err
	})
	return accessor, err
}

// TestMain is the tests, or, under the name of vault, as much of Vault's own
// program as the script uses.
func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) != "vault" {
		os.Exit(m.Run())
	}
	if err := cli(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "vault:", err)
		os.Exit(2)
	}
}

func cli(args []string) error {
	c, err := api.NewClient(nil)
	if err != nil {
		return err
	}
	var flags, words []string
	for _, a := range args {
		if strings.HasPrefix(a, "-") && a != "-" {
			flags = append(flags, a)
		} else {
			words = append(words, a)
		}
	}
	flag := func(name string) string {
		for _, f := range flags {
			if v, ok := strings.CutPrefix(f, "-"+name+"="); ok {
				return v
			}
		}
		return ""
	}
	switch {
	case len(words) == 4 && words[0] == "policy" && words[1] == "write" && words[3] == "-":
		text, err := io.ReadAll(os.Stdin)
		if err != nil {
			return err
		}
		return c.Sys().PutPolicy(words[2], string(text))
	case slices.Equal(words, []string{"policy", "list"}):
		list, err := c.Sys().ListPolicies()
		fmt.Println(strings.Join(list, "\n"))
		return err
	case len(words) == 3 && words[0] == "policy" && words[1] == "delete":
		return c.Sys().DeletePolicy(words[2])
	case slices.Equal(words, []string{"auth", "list"}):
		list, err := c.Sys().ListAuth()
		for path := range list {
			fmt.Println(path + "    x    x")
		}
		return err
	case len(words) == 3 && words[0] == "auth" && words[1] == "enable":
		return c.Sys().EnableAuthWithOptions(flag("path"), &api.EnableAuthOptions{Type: words[2]})
	case len(words) == 2 && words[0] == "read":
		s, err := c.Logical().Read(words[1])
		if err == nil && s == nil {
			err = fmt.Errorf("nothing at %s", words[1])
		}
		if err == nil {
			fmt.Println(s.Data[flag("field")])
		}
		return err
	case len(words) > 2 && words[0] == "write":
		data := map[string]any{}
		for _, w := range words[2:] {
			name, value, ok := strings.Cut(w, "=")
			if !ok {
				return fmt.Errorf("%q is not name=value", w)
			}
			switch before := data[name].(type) { // as Vault's own does
			case nil:
				data[name] = value
			case string:
				data[name] = []string{before, value}
			case []string:
				data[name] = append(before, value)
			}
		}
		_, err := c.Logical().Write(words[1], data)
		return err
	}
	return fmt.Errorf("%q is not in the tests' part of it", args)
}
