package vault_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/vault/api"

	"hallpass/access"
	"hallpass/vault"
)

// findings are Check's, one line each.
func findings(c *vault.Client, resources []access.Resource) []string {
	var lines []string
	for _, f := range c.Check(context.Background(), resources, vault.DefaultTokenRole) {
		line := f.Part + ": " + f.Detail
		if f.Err != nil {
			line = "BAD " + f.Part + ": " + f.Err.Error()
			var e *access.Error
			if errors.As(f.Err, &e) && e.Hint == "" {
				line += " (no hint)"
			}
		}
		lines = append(lines, line)
	}
	return lines
}

// What the script sets up is found in order, for the issuer and for an
// operator, and can be set up again.
func TestSetUpAndCheck(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	if printed := strings.TrimSpace(h.setUp(t, catalogYAML)); printed != h.config.RoleID {
		t.Errorf("the script prints %q, not the role id alone", printed)
	}
	list := resources(t, catalogYAML)
	issuer, operator := newClient(t, h.config), newClient(t, vault.Config{Address: h.Address, Token: h.RootToken})
	want := []string{
		"login: " + h.Address + ", as the issuer, by approle",
		"token role: hallpass mints for the catalog's policies alone",
		"issuer: can mint wrapped tokens by the token role, and no others",
		"vault/orders dump: database/creds/orders-dump gives a lease of 1d, and it was revoked. Whether open sessions end is not looked at: an operator's VAULT_TOKEN can read database/roles/orders-dump.",
		"vault/orders read: database/creds/orders-ro gives a lease of 1h, and it was revoked. Whether open sessions end is not looked at: an operator's VAULT_TOKEN can read database/roles/orders-ro.",
		"vault/web-cert renew: pki/issue/web gives a lease of 1h, and it was revoked.",
	}
	if diff := cmp.Diff(want, findings(issuer, list)); diff != "" {
		t.Errorf("as the issuer: %s", diff)
	}
	want = []string{
		"login: " + h.Address + ", by an operator's token: what the issuer itself may do is not looked at",
		"token role: hallpass mints for the catalog's policies alone",
		"vault/orders dump: database/creds/orders-dump gives a lease of 1d, and it was revoked. Its revocation statements end open sessions. If Vault is away when a grant ends, its login works until Vault is back, at most until 1d after it was read.",
		"vault/orders read: database/creds/orders-ro gives a lease of 1h, and it was revoked. Its revocation statements end open sessions. If Vault is away when a grant ends, its login works until Vault is back, at most until 1h after it was read. It does not work for longer than that in a longer grant either.",
		want[5],
	}
	if diff := cmp.Diff(want, findings(operator, list)); diff != "" {
		t.Errorf("as an operator: %s", diff)
	}
	h.noLeases(t)
}

// What is taken out of the catalog can't be minted for once the script has run
// again, and its policy is gone. Until then, a check says so to the issuer and to
// an operator. Policies that aren't grants stay.
func TestOutOfTheCatalog(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.Policy(t, "hallpass-ssh-ca", `path "transit/sign/ssh" { capabilities = ["update"] }`)
	const payroll = "hallpass-grant-payroll@read"
	h.setUp(t, catalogYAML+"  vault/payroll: {path: database/creds, actions: {read: orders-dump}}\n")
	var own *api.Client
	if err := newClient(t, h.config).Do(context.Background(), func(_ context.Context, c *api.Client) error {
		own = h.ClientWithToken(t, c.Token())
		own.SetWrappingLookupFunc(func(string, string) string { return "60s" })
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	mint := func(policy string) error {
		_, err := newClient(t, h.config).Mint(context.Background(), "hallpass", vault.Spec{Policies: []string{policy}, Life: time.Minute})
		return err
	}
	if err := mint(payroll); err != nil {
		t.Fatalf("while it is there: %v", err)
	}
	list := resources(t, catalogYAML)
	for who, c := range map[string]*vault.Client{"the issuer": newClient(t, h.config), "an operator": newClient(t, vault.Config{Address: h.Address, Token: h.RootToken})} {
		if got := strings.Join(findings(c, list), "\n"); !strings.Contains(got, "BAD token role: hallpass-grant allows the policy "+payroll) || !strings.Contains(got, "BAD actions: none is looked at") {
			t.Errorf("%s isn't told:\n%s", who, got)
		}
	}
	h.setUp(t, catalogYAML)
	if err := mint(payroll); err == nil {
		t.Error("what is out of the catalog can be minted for")
	}
	policies, err := h.Client(t).Sys().ListPolicies()
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(policies)
	if want := []string{"default", "hallpass-grant", "hallpass-grant-orders@dump", "hallpass-grant-orders@read", "hallpass-grant-web-cert@renew", "hallpass-issuer", "hallpass-ssh-ca", "root"}; !slices.Equal(policies, want) {
		t.Errorf("policies %v, want %v", policies, want)
	}
	h.Policy(t, payroll, `path "database/creds/orders-ro" { capabilities = ["read"] }`)
	if err := mint(payroll); err == nil {
		t.Error("a policy alone makes it mintable")
	}
	// To Vault, a role without a list has no bound.
	for _, r := range vault.NewPlan(nil, vault.Config{}, "hallpass").Roles {
		h.Write(t, r.Path(), r.Body())
	}
	for _, name := range []string{"hallpass-grant-orders@read", "hallpass-issuer", "default", "root"} {
		_, beside := own.Auth().Token().CreateWithRole(&api.TokenCreateRequest{Policies: []string{name}, NoDefaultPolicy: true}, "hallpass")
		if beside == nil || mint(name) == nil {
			t.Errorf("with an empty catalog, %s can be minted for", name)
		}
	}
}

// Two hallpasses share a Vault, each with a token role of its own: to set one up
// takes nothing from the other, and neither mints for the other's policies.
func TestTwoOnOneVault(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.setUpAs(t, "hallpass-eu", "resources:\n  vault/payroll: {path: database/creds, actions: {read: orders-dump}}\n")
	h.setUp(t, catalogYAML)
	for _, got := range findings(newClient(t, h.config), resources(t, catalogYAML)) {
		if strings.HasPrefix(got, "BAD") {
			t.Error(got)
		}
	}
	for role, policy := range map[string]string{
		"hallpass-grant": "hallpass-eu-grant-payroll@read", "hallpass-eu-grant": "hallpass-grant-orders@read", "hallpass": "hallpass-eu-grant", "hallpass-eu": "hallpass-grant",
	} {
		if _, err := h.Client(t).Auth().Token().CreateWithRole(&api.TokenCreateRequest{Policies: []string{policy}}, role); err == nil {
			t.Errorf("%s mints for %s", role, policy)
		}
	}
	if text, err := h.Client(t).Sys().GetPolicy("hallpass-eu-grant-payroll@read"); err != nil || !strings.Contains(text, "database/creds/orders-dump") {
		t.Errorf("%q, %v", text, err)
	}
	for name, ok := range map[string]bool{"hallpass": true, "hallpass-eu": true, "grants": true, "hallpass-grant-eu": false, "hallpass-grant": false, "hallpass-Grant-eu": false, "EU-GRANT": false, "Hallpass": false} {
		if err := vault.CheckTokenRole(name); (err == nil) != ok {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// noLeases: what a check reads, it takes back.
func (h *house) noLeases(t *testing.T) {
	t.Helper()
	eventually(t, "all leases are gone", func() bool {
		return len(h.Leases(t, "database/creds"))+len(h.Leases(t, "pki/issue")) == 0
	})
}

// Each way in which Vault can be set up wrongly is found, and named.
func TestCheckFinds(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.Mount(t, "kv", "kv")
	h.Write(t, "kv/password", map[string]any{"password": "x"})
	h.db.Role(t, "no-statements", 24*60*60*1e9)
	h.Write(t, "database/roles/no-statements", map[string]any{"revocation_statements": ""})
	h.db.Role(t, "no-terminate", 24*60*60*1e9)
	h.Write(t, "database/roles/no-terminate", map[string]any{"revocation_statements": `DROP ROLE "{{name}}"`})
	h.db.Role(t, "no-end", 24*60*60*1e9)
	h.Write(t, "database/roles/no-end", map[string]any{"creation_statements": `CREATE ROLE "{{name}}" LOGIN PASSWORD '{{password}}' IN ROLE "no-end"; GRANT "{{name}}" TO CURRENT_USER`})
	h.db.Role(t, "too-long", 25*time.Hour)
	h.db.Role(t, "no-ttl", 25*time.Hour)
	h.Write(t, "database/roles/no-ttl", map[string]any{"default_ttl": 0, "max_ttl": 0})
	more := func(path, role string) string {
		return catalogYAML + "  vault/more: {path: " + path + ", actions: {x: " + role + "}}\n"
	}
	role := func(name, value string) func(*testing.T) {
		return func(t *testing.T) { h.Write(t, "auth/token/roles/hallpass", map[string]any{name: value}) }
	}
	grants := func(name, value string) func(*testing.T) {
		return func(t *testing.T) { h.Write(t, "auth/token/roles/hallpass-grant", map[string]any{name: value}) }
	}
	for _, tt := range []struct {
		name     string
		catalog  string // set up
		spoil    func(*testing.T)
		operator bool
		want     string
	}{
		{"secrets without a lease", more("kv", "password"), nil, false, "BAD vault/more x: what kv/password gives has no lease, so it can't be taken back"},
		{"no such secret", more("kv", "nothing"), nil, false, "BAD vault/more x: there is nothing at kv/nothing"},
		{"no such mount", more("nowhere/creds", "x"), nil, false, "BAD vault/more x: there is nothing at nowhere/creds/x"},
		{"no such role", more("database/creds", "nobody"), nil, false, "BAD vault/more x: there is no secret at database/creds/nobody: vault answers 400"},
		{"no revocation statements", more("database/creds", "no-statements"), nil, true, "BAD vault/more x: the role no-statements has no revocation_statements: sessions that are open stay open"},
		{"statements that end no session", more("database/creds", "no-terminate"), nil, true, "BAD vault/more x: the revocation_statements of the role no-terminate don't end sessions"},
		{"logins without an end of their own", more("database/creds", "no-end"), nil, true, "BAD vault/more x: the creation_statements of the role no-end give its logins no end of their own"},
		{"leases longer than any grant", more("database/creds", "too-long"), nil, false, "BAD vault/more x: what database/creds/too-long gives lasts longer than 1d, and no grant is longer than 1d"},
		{"leases as long as Vault's own bound", more("database/creds", "no-ttl"), nil, false, "BAD vault/more x: what database/creds/no-ttl gives lasts longer than 1d, and no grant is longer than 1d"},
		{"no policy", catalogYAML, func(t *testing.T) {
			if err := h.Client(t).Sys().DeletePolicy("hallpass-grant-orders@read"); err != nil {
				t.Fatal(err)
			}
		}, false, "BAD vault/orders read: there is no policy hallpass-grant-orders@read"},
		{"a wider policy", catalogYAML, func(t *testing.T) {
			h.Policy(t, "hallpass-grant-orders@read", `path "database/creds/*" { capabilities = ["read"] }`)
		}, false, "BAD vault/orders read: the policy hallpass-grant-orders@read is not what the catalog asks for"},
		{"a token role for more", catalogYAML, grants("allowed_policies_glob", "hallpass-*"), false, "BAD token role: hallpass-grant allows the policy hallpass-*, which is none of the catalog's"},
		{"a token role for another policy", catalogYAML, grants("allowed_policies", "default"), false, "BAD token role: hallpass-grant allows the policy default"},
		{"a token role for all that begins so", catalogYAML, grants("allowed_policies_glob", "hallpass-grant-*"), false, "BAD token role: hallpass-grant allows the policy hallpass-grant-*, which is none of the catalog's"},
		{"a token role without a list", catalogYAML, grants("allowed_policies", ""), false, "BAD token role: hallpass-grant names no policies that it mints for, which to Vault is no bound"},
		{"grants' own tokens for more", catalogYAML, role("allowed_policies_glob", "hallpass-grant-*"), false, "BAD token role: hallpass allows the policy hallpass-grant-*, which is none of the catalog's"},
		{"grants' own tokens without a list", catalogYAML, role("allowed_policies", ""), false, "BAD token role: hallpass names no policies that it mints for, which to Vault is no bound"},
		{"tokens that nothing ends", catalogYAML, grants("orphan", "true"), false, "BAD token role: hallpass-grant has orphan=true, it should be false"},
		{"tokens whose secrets outlive them", catalogYAML, grants("token_type", "service"), false, "BAD token role: hallpass-grant has token_type=service, it should be default-batch"},
		{"grants' own tokens may do more", catalogYAML, func(t *testing.T) {
			h.Policy(t, "hallpass-grant", plan(t).Grant.Text+`path "database/creds/*" { capabilities = ["read"] }`)
		}, false, "BAD token role: the policy hallpass-grant is not what the catalog asks for"},
		{"grants' own tokens make what isn't wrapped", catalogYAML, func(t *testing.T) {
			h.Policy(t, "hallpass-grant", `path "auth/token/create/hallpass-grant" { capabilities = ["update"] }`)
		}, false, "BAD issuer: it can mint a token that isn't wrapped"},
		{"grants' own tokens make what leases outlive", catalogYAML, func(t *testing.T) {
			h.Policy(t, "hallpass-grant", strings.ReplaceAll(plan(t).Grant.Text, `"batch"`, ""))
		}, false, "BAD issuer: it can mint a token whose secrets outlive it"},
		{"tokens with somebody's own rights", catalogYAML, role("allowed_entity_aliases", "alice"), false, "BAD token role: hallpass makes tokens with the rights of alice"},
		{"tokens from another path", catalogYAML, role("path_suffix", "abc"), false, "BAD token role: hallpass has path_suffix=abc, it should be "},
		{"tokens that can't live as long as a grant", catalogYAML, func(t *testing.T) {
			h.Write(t, "sys/auth/token/tune", map[string]any{"max_lease_ttl": "8h"})
			t.Cleanup(func() { h.Write(t, "sys/auth/token/tune", map[string]any{"max_lease_ttl": "0"}) })
		}, false, "BAD issuer: vault's max_lease_ttl lets a token live for 8h, and a grant may last 1d"},
		{"no second token role", catalogYAML, func(t *testing.T) {
			if _, err := h.Client(t).Logical().Delete("auth/token/roles/hallpass-grant"); err != nil {
				t.Fatal(err)
			}
		}, false, "BAD token role: there is no token role hallpass-grant"},
		{"a policy of what is out of the catalog", catalogYAML, func(t *testing.T) {
			h.Policy(t, "hallpass-grant-payroll@read", `path "database/creds/orders-ro" { capabilities = ["read"] }`)
		}, true, "BAD policies: the catalog doesn't name what these open any more: hallpass-grant-payroll@read"},
		{"tokens that die with the issuer's", catalogYAML, role("orphan", "false"), false, "BAD token role: hallpass has orphan=false, it should be true"},
		{"tokens that can be renewed", catalogYAML, role("renewable", "true"), false, "BAD token role: hallpass has renewable=true, it should be false"},
		{"tokens that can't be revoked", catalogYAML, func(t *testing.T) {
			h.Write(t, "auth/token/roles/hallpass", map[string]any{"token_type": "batch", "token_explicit_max_ttl": "0"})
		}, false, "BAD token role: hallpass has token_type=batch, it should be service"},
		{"tokens without an end", catalogYAML, role("token_period", "24h"), false, "BAD token role: hallpass has token_period=86400, it should be 0"},
		{"no token role", catalogYAML, func(t *testing.T) {
			if _, err := h.Client(t).Logical().Delete("auth/token/roles/hallpass"); err != nil {
				t.Fatal(err)
			}
		}, false, "BAD token role: there is no token role hallpass"},
		{"an issuer that hands out tokens of its own", catalogYAML, func(t *testing.T) {
			h.Policy(t, vault.IssuerPolicy(vault.DefaultTokenRole), plan(t).Issuer.Text+plan(t).Grant.Text)
		}, false, "BAD issuer: it can mint a token that reads and isn't a grant's"},
		{"an issuer that can mint at will", catalogYAML, func(t *testing.T) {
			h.Policy(t, vault.IssuerPolicy(vault.DefaultTokenRole), plan(t).Issuer.Text+`path "auth/token/create" { capabilities = ["update", "sudo"] }`)
		}, false, "BAD issuer: it can mint a token without the token role"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, role := range []string{"hallpass", "hallpass-grant"} {
				if _, err := h.Client(t).Logical().Delete("auth/token/roles/" + role); err != nil {
					t.Fatal(err)
				}
			}
			h.setUp(t, tt.catalog)
			if tt.spoil != nil {
				tt.spoil(t)
			}
			config := h.config
			if tt.operator {
				config = vault.Config{Address: h.Address, Token: h.RootToken}
			}
			got := findings(newClient(t, config), resources(t, tt.catalog))
			found := false
			for _, line := range got {
				found = found || strings.HasPrefix(line, tt.want)
				if strings.HasSuffix(line, "(no hint)") {
					t.Errorf("no hint: %s", line)
				}
			}
			if !found {
				t.Errorf("got\n%s\nwant %s", strings.Join(got, "\n"), tt.want)
			}
		})
	}
	h.noLeases(t)
}

func plan(t *testing.T) vault.Plan {
	t.Helper()
	return vault.NewPlan(resources(t, catalogYAML), vault.Config{}, vault.DefaultTokenRole)
}

// The policy of an action opens what the catalog says, in the way it says, and
// nothing beside it.
func TestGrantPolicies(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	token := func(policy string) *api.Client {
		minted, err := newClient(t, h.config).Mint(context.Background(), "hallpass", vault.Spec{Policies: []string{policy}, Life: time.Hour})
		if err != nil {
			t.Fatal(err)
		}
		s, err := h.ClientWithToken(t, minted.Wrapping).Logical().Unwrap("")
		if err != nil {
			t.Fatal(err)
		}
		return h.ClientWithToken(t, s.Auth.ClientToken)
	}
	read, renew := token("hallpass-grant-orders@read"), token("hallpass-grant-web-cert@renew")
	type data = map[string]any
	for _, tt := range []struct {
		name   string
		do     func() (*api.Secret, error)
		status int
	}{
		{"its path", func() (*api.Secret, error) { return read.Logical().Read("database/creds/orders-ro") }, 0},
		{"another role", func() (*api.Secret, error) { return read.Logical().Read("database/creds/orders-dump") }, 403},
		{"the role itself", func() (*api.Secret, error) { return read.Logical().Read("database/roles/orders-ro") }, 403},
		{"writing", func() (*api.Secret, error) { return read.Logical().Write("database/creds/orders-ro", data{"a": "b"}) }, 403},
		{"looking at itself", func() (*api.Secret, error) { return read.Auth().Token().LookupSelf() }, 0},
		{"renewing itself", func() (*api.Secret, error) { return read.Auth().Token().RenewSelf(0) }, 403},
		{"minting", func() (*api.Secret, error) { return read.Auth().Token().Create(&api.TokenCreateRequest{}) }, 403},
		{"its parameters", func() (*api.Secret, error) {
			return renew.Logical().Write("pki/issue/web", data{"common_name": "web.example.com", "ttl": "1h"})
		}, 0},
		{"another value", func() (*api.Secret, error) {
			return renew.Logical().Write("pki/issue/web", data{"common_name": "admin.example.com", "ttl": "1h"})
		}, 403},
		{"one more", func() (*api.Secret, error) {
			return renew.Logical().Write("pki/issue/web", data{"common_name": "web.example.com", "ttl": "1h", "alt_names": "x.example.com"})
		}, 403},
		{"one less", func() (*api.Secret, error) {
			return renew.Logical().Write("pki/issue/web", data{"common_name": "web.example.com"})
		}, 403},
	} {
		_, err := tt.do()
		var r *api.ResponseError
		status := 0
		if errors.As(err, &r) {
			status = r.StatusCode
		} else if err != nil {
			status = -1
		}
		if status != tt.status {
			t.Errorf("%s: %d (%v), want %d", tt.name, status, err, tt.status)
		}
	}
}

func TestPolicyText(t *testing.T) {
	t.Parallel()
	list := resources(t, `
resources:
  vault/k8s:
    path: kubernetes/creds
    actions:
      debug: {role: debug, with: {kubernetes_namespace: shop, ttl: 1h}}
      out: {role: ops/check-out, with: {}}
`)
	const own = "path \"auth/token/lookup-self\" {\n  capabilities = [\"read\"]\n}\n"
	want := []vault.Policy{
		{Name: "hallpass-grant-k8s@debug", Text: `# debug of vault/k8s
path "kubernetes/creds/debug" {
  capabilities = ["create", "update"]
  required_parameters = ["kubernetes_namespace", "ttl"]
  allowed_parameters = {
    "kubernetes_namespace" = ["shop"]
    "ttl" = ["1h"]
  }
}
` + own},
		{Name: "hallpass-grant-k8s@out", Text: `# out of vault/k8s
path "kubernetes/creds/ops/check-out" {
  capabilities = ["create", "update"]
  denied_parameters = {
    "*" = []
  }
}
` + own},
	}
	p := vault.NewPlan(list, vault.Config{}, "hallpass")
	if diff := cmp.Diff(want, p.Grants); diff != "" {
		t.Error(diff)
	}
	for auth, says := range map[string]string{
		"": "approle", vault.AppRole: "secret_id_file", vault.Kubernetes: "auth/kubernetes/role/hallpass", vault.JWT: "auth/jwt/role/hallpass",
		vault.Cert: "auth/cert/certs/", vault.Token: "issuers.vault.token_file",
	} {
		if script := vault.NewPlan(list, vault.Config{Auth: auth}, "hallpass").Script(); !strings.Contains(script, says) {
			t.Errorf("%s: %s", auth, fmt.Sprint(script))
		}
	}
}
