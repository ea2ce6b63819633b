package vault_test

import (
	"context"
	"errors"
	"maps"
	"net/http"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
)

// Whoever has the issuer's login to Vault mints grants' own tokens, and nothing else:
// no secret, no other token, no longer one, no other rights. And those make what the
// catalog names, without showing it, and nothing else.
func TestIssuersLoginOpensNothing(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	type data = map[string]any
	const good = "hallpass-grant-orders@read"
	var own *api.Client
	if err := newClient(t, h.config).Do(context.Background(), func(_ context.Context, c *api.Client) (err error) {
		own = h.ClientWithToken(t, c.Token())
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	wrapping := h.ClientWithToken(t, own.Token())
	wrapping.SetWrappingLookupFunc(func(string, string) string { return "60s" })
	mint := func(c *api.Client, r api.TokenCreateRequest) func() (*api.Secret, error) {
		return func() (*api.Secret, error) { return c.Auth().Token().CreateWithRole(&r, "hallpass") }
	}
	s, err := mint(own, api.TokenCreateRequest{Policies: []string{"hallpass-grant"}, NoDefaultPolicy: true})()
	if err != nil {
		t.Fatal(err)
	}
	grant, grantWrapping := h.ClientWithToken(t, s.Auth.ClientToken), h.ClientWithToken(t, s.Auth.ClientToken)
	grantWrapping.SetWrappingLookupFunc(func(string, string) string { return "60s" })
	hand := func(c *api.Client, change data) func() (*api.Secret, error) {
		body := data{"type": "batch", "policies": []string{good}, "no_default_policy": true, "ttl": "10m"}
		maps.Copy(body, change)
		return func() (*api.Secret, error) { return c.Logical().Write("auth/token/create/hallpass-grant", body) }
	}
	write := func(path string, d data) func() (*api.Secret, error) {
		return func() (*api.Secret, error) { return own.Logical().Write(path, d) }
	}
	read := func(path string) func() (*api.Secret, error) {
		return func() (*api.Secret, error) { return own.Logical().Read(path) }
	}
	for name, do := range map[string]func() (*api.Secret, error){
		"by a grant's: reading what the catalog names": func() (*api.Secret, error) { return grant.Logical().Read("database/creds/orders-ro") },
		"by a grant's: minting a token that it sees":   hand(grant, nil),
		"by a grant's: one that can be revoked":        hand(grantWrapping, data{"type": "service"}),
		"by a grant's: one of any type": func() (*api.Secret, error) {
			return grantWrapping.Logical().Write("auth/token/create/hallpass-grant", data{"policies": []string{good}, "ttl": "10m"})
		},
		"by a grant's: one for any policy":           hand(grantWrapping, data{"policies": []string{"admin"}}),
		"by a grant's: its own kind":                 hand(grantWrapping, data{"policies": []string{"hallpass-grant"}}),
		"by a grant's: root":                         hand(grantWrapping, data{"policies": []string{"root"}}),
		"by a grant's: one with a name of another's": hand(grantWrapping, data{"entity_alias": "alice"}),
		"by a grant's: one that stands by itself":    hand(grantWrapping, data{"no_parent": true}),
		"by a grant's: another beside the role":      func() (*api.Secret, error) { return grantWrapping.Auth().Token().Create(&api.TokenCreateRequest{}) },
		"by a grant's: another grant's":              mint(grantWrapping, api.TokenCreateRequest{Policies: []string{"hallpass-grant"}}),
		"by a grant's: looking around":               func() (*api.Secret, error) { return grant.Auth().Token().LookupSelf() },
		"by a grant's: ending it":                    func() (*api.Secret, error) { return nil, grant.Auth().Token().RevokeSelf("") },
		"by a grant's: living on":                    func() (*api.Secret, error) { return grant.Auth().Token().RenewSelf(0) },
		"minting what a grant hands out": func() (*api.Secret, error) {
			return wrapping.Auth().Token().CreateWithRole(&api.TokenCreateRequest{Type: "batch", Policies: []string{good}, TTL: "10m"}, "hallpass-grant")
		},
		"reading what the catalog names": read("database/creds/orders-ro"),
		"reading what it doesn't":        read("database/config/database"),
		"issuing what the catalog names": write("pki/issue/web", data{"common_name": "web.example.com", "ttl": "1h"}),
		"minting what reads":             mint(wrapping, api.TokenCreateRequest{Policies: []string{good}, NoDefaultPolicy: true}),
		"minting root":                   mint(wrapping, api.TokenCreateRequest{Policies: []string{"root"}}),
		"minting its own rights":         mint(wrapping, api.TokenCreateRequest{Policies: []string{"hallpass-issuer"}}),
		"minting any policy":             mint(wrapping, api.TokenCreateRequest{Policies: []string{"admin"}}),
		"minting beside the role": func() (*api.Secret, error) {
			return wrapping.Auth().Token().Create(&api.TokenCreateRequest{Policies: []string{good}})
		},
		"minting an orphan": func() (*api.Secret, error) {
			return wrapping.Auth().Token().CreateOrphan(&api.TokenCreateRequest{Policies: []string{good}})
		},
		"changing what a grant opens":            write("sys/policies/acl/"+good, data{"policy": `path "*" { capabilities = ["read"] }`}),
		"adding what a grant opens":              write("sys/policies/acl/hallpass-grant-more", data{"policy": `path "*" { capabilities = ["read"] }`}),
		"changing the role that mints":           write("auth/token/roles/hallpass", data{"allowed_policies_glob": "*"}),
		"changing its own login":                 write("auth/approle/role/hallpass", data{"token_policies": "root"}),
		"making itself another secret":           write("auth/approle/role/hallpass/secret-id", nil),
		"changing a role of the database":        write("database/roles/orders-ro", data{"db_name": "database", "creation_statements": "x"}),
		"revoking a lease of what isn't there":   write("sys/leases/revoke", data{"lease_id": "database/creds/other/x", "sync": true}),
		"revoking a login":                       write("sys/leases/revoke", data{"lease_id": "auth/approle/login/x"}),
		"revoking by the path":                   write("sys/leases/revoke/database/creds/orders-ro/x", nil),
		"revoking all below a path":              write("sys/leases/revoke-prefix/database/creds/orders-ro", nil),
		"looking at a lease of what isn't there": write("sys/leases/lookup", data{"lease_id": "database/creds/other/x"}),
		"looking at a login":                     write("sys/leases/lookup", data{"lease_id": "auth/approle/login/x"}),
		"renewing a lease":                       write("sys/leases/renew", data{"lease_id": "database/creds/orders-ro/x"}),
		"forgetting leases without revoking":     write("sys/leases/revoke-force/database/creds", nil),
		"turning the audit log off":              func() (*api.Secret, error) { return own.Logical().Delete("sys/audit/file") },
	} {
		_, err := do()
		var r *api.ResponseError
		if !errors.As(err, &r) || r.StatusCode != http.StatusForbidden && r.StatusCode != http.StatusBadRequest {
			t.Errorf("%s: %v", name, err)
		}
	}

	// Leases of the catalog's paths, it may revoke, and no others.
	for id, ok := range map[string]bool{"database/creds/orders-ro/x": true, "database/creds/orders-dump/x": true, "pki/issue/web/x": true, "database/creds/other/x": false} {
		if _, err := write("sys/leases/revoke", data{"lease_id": id, "sync": true})(); (err == nil) != ok {
			t.Errorf("revoking %s: %v", id, err)
		}
	}

	// What it is for works, and lasts no longer than the role says, whatever is
	// asked for.
	s, err = mint(own, api.TokenCreateRequest{Policies: []string{"hallpass-grant"}, NoDefaultPolicy: true, TTL: "8760h", ExplicitMaxTTL: "8760h"})()
	if err != nil || s.Auth == nil {
		t.Fatalf("minting doesn't work, so the test shows nothing: %+v %v", s, err)
	}
	if s, err := hand(grantWrapping, nil)(); err != nil || s.WrapInfo == nil || s.Auth != nil {
		t.Fatalf("minting doesn't work, so the test shows nothing: %+v %v", s, err)
	}
	token, err := h.Client(t).Auth().Token().LookupAccessor(s.Auth.Accessor)
	if err != nil {
		t.Fatal(err)
	}
	if ttl, err := token.TokenTTL(); err != nil || ttl > 25*time.Hour {
		t.Errorf("the token lasts %s: %v", ttl, err)
	}
}

// What somebody minted who had the issuer's login ends as docs/operate.md says,
// with all that was read, and stays so when hallpass is set up again.
func TestIssuersLoginWasStolen(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	operator := h.Client(t)
	var own *api.Client
	if err := newClient(t, h.config).Do(context.Background(), func(_ context.Context, c *api.Client) error {
		own = h.ClientWithToken(t, c.Token())
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	mint := func() (*api.Client, error) {
		s, err := own.Auth().Token().CreateWithRole(&api.TokenCreateRequest{Policies: []string{"hallpass-grant"}, NoDefaultPolicy: true}, "hallpass")
		if err != nil {
			return nil, err
		}
		grant := h.ClientWithToken(t, s.Auth.ClientToken)
		grant.SetWrappingLookupFunc(func(string, string) string { return "60s" })
		s, err = grant.Logical().Write("auth/token/create/hallpass-grant", map[string]any{"type": "batch", "policies": []string{"hallpass-grant-orders@read"}, "ttl": "10h"})
		if err != nil {
			return nil, err
		}
		minted, err := operator.Logical().Unwrap(s.WrapInfo.Token)
		if err != nil {
			return nil, err
		}
		return h.ClientWithToken(t, minted.Auth.ClientToken), nil
	}
	thief, err := mint()
	if err != nil {
		t.Fatal(err)
	}
	read := func() error {
		_, err := thief.Logical().Read("database/creds/orders-ro")
		return err
	}
	if err := read(); err != nil {
		t.Fatal(err)
	}

	if err := operator.Sys().DeletePolicy("hallpass-issuer"); err != nil {
		t.Fatal(err)
	}
	if _, err := operator.Logical().Delete("auth/approle/role/hallpass"); err != nil {
		t.Fatal(err)
	}
	if _, err := mint(); err == nil {
		t.Error("a token of the issuer's that is out mints on")
	}
	if err := read(); err != nil {
		t.Fatalf("what it has minted was expected to read on, so the test shows nothing: %v", err)
	}
	if err := operator.Sys().RevokePrefix("auth/token/create/hallpass/"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "what was minted ends", func() bool { return read() != nil })
	h.noLeases(t)
	h.setUp(t, catalogYAML)
	if err := read(); err == nil {
		t.Error("set up again, what was minted before reads")
	}
}
