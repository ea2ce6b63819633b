package worker

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"hallpass/access"
	"hallpass/ca"
	"hallpass/internal/wording"
	"hallpass/vault"
)

// vault is the way into Vault: the issuer's, or, with a token, an operator's.
// Why says what it is needed for.
func (c *Config) vault(token, why string) (*vault.Client, error) {
	config := c.vaultConfig()
	if config.Address == "" {
		return nil, access.Errorf(access.CodeMalformed, "issuers.vault.address is not configured, and %s", why).WithHint("see docs/vault.md")
	}
	config.Token = token
	client, err := vault.New(config)
	if err != nil {
		return nil, fmt.Errorf("issuers.vault: %w", err)
	}
	return client, nil
}

// CAVault is where SSH CA keys in Vault are.
func (c *Config) CAVault() (ca.Vault, error) { return c.vault("", "the SSH CA's key is in Vault") }

// vaultClient is the one login to Vault of this process.
func (p *parts) vaultClient(why string) (_ *vault.Client, err error) {
	if p.vault == nil {
		p.vault, err = p.config.vault("", why)
	}
	return p.vault, err
}

// keepVault keeps the process logged in to Vault until ctx ends.
func (p *parts) keepVault(ctx context.Context) {
	p.vault.Keep(ctx, func(err error) { p.log.Error("not logged in to vault", "error", err) })
}

// leases are the paths in Vault that the catalog of this moment names.
func (p *parts) leases() []string {
	return access.VaultPaths(p.book.Rulebook().Catalog.Resources())
}

func (c *Config) vaultConfig() vault.Config {
	v := c.Issuers.Vault
	return vault.Config{
		Address: v.Address, CA: v.CA, Namespace: v.Namespace,
		Auth: v.Auth, AuthMount: v.AuthMount, Role: v.Role, RoleID: v.RoleID, SecretIDFile: v.SecretIDFile,
		JWTFile: v.JWTFile, CertFile: v.CertFile, KeyFile: v.KeyFile, TokenFile: v.TokenFile,
	}
}

// PlanVault is what Vault has to be told for these resources.
func (c *Config) PlanVault(resources []access.Resource) vault.Plan {
	return vault.NewPlan(resources, c.vaultConfig(), c.Issuers.Vault.TokenRole)
}

// CheckVault finds out whether Vault was told, and whether that does what it
// should: as the issuer, or with an operator's token. Of each action it gets
// the secret once and takes it back.
func (c *Config) CheckVault(ctx context.Context, resources []access.Resource, token string) ([]Finding, error) {
	client, err := c.vault(token, "there is nothing to check")
	if err != nil {
		return nil, err
	}
	var out []Finding
	for _, f := range client.Check(ctx, resources, c.Issuers.Vault.TokenRole) {
		found := Finding{Part: f.Part, OK: f.Err == nil, Detail: f.Detail}
		if f.Err != nil {
			found.Detail, found.err = wording.Line(f.Err.Error()), f.Err
			var e *access.Error
			if errors.As(f.Err, &e) {
				found.Hint = e.Hint
			} else if s := vault.Status(f.Err); s == 0 || s == http.StatusTooManyRequests || s >= http.StatusInternalServerError {
				found.err = access.Errorf(access.CodeUnavailable, "%s", found.Detail)
			}
		}
		out = append(out, found)
	}
	return out, nil
}
