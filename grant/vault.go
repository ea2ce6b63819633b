package grant

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/hashicorp/vault/api"

	"hallpass/access"
	"hallpass/catalog"
	"hallpass/sealed"
	"hallpass/vault"
)

// Vault is the kind "vault": its credential is a token of Vault's for this one
// request, that may read what the request's actions name and ends with the
// grant, and with it everything that was read.
//
// The issuer never has that token. Vault mints it response-wrapped and tells
// the issuer its accessor, which revokes it, and a wrapping token, which opens
// the response once. That one is sealed to the requester as soon as it is there,
// and forgotten. Accessor and sealed text together are the handle: they are in
// the ledger before anybody can open anything, and a repeat has the same ones.
//
// Vault chooses the accessor when it mints. So Prepare leaves a token, which
// nobody can use that has no handle in the ledger: its wrapping token is
// nowhere. It ends by itself with the grant, or earlier by Discard or a sweep.
type Vault struct {
	Vault     *vault.Client
	TokenRole string                    // that mints: auth/token/roles/…
	Leases    func() []access.VaultPath // the paths whose leases a sweep looks at: those that the catalog names; may be nil
	Settle    time.Duration             // how old a lease has to be that no grant can have, and how much older than any of their tokens; 0: 5 minutes
	Now       func() time.Time          // nil: time.Now

	foreign     foreign
	tokenLeases tokenLeases
}

// Prepare mints. Nothing that Vault says ends the request: what is wrong in
// Vault an operator can put right.
func (k *Vault) Prepare(ctx context.Context, o Order) (access.Handle, error) {
	none := access.Handle{}
	if err := sealed.CheckRecipient(o.Request.Recipient); err != nil {
		return none, err
	}
	reads, policies, err := k.reads(o)
	if err != nil {
		return none, err
	}
	// A token's life begins when Vault makes it, which is later than when it was
	// asked to, and nobody knows by how much. What may outlive the grant is
	// thrown away.
	for margin := time.Second; ; {
		wrap, took, err := k.mint(ctx, o, policies, margin)
		if err != nil {
			return none, err
		}
		h := access.Handle{Request: o.Request.ID, Kind: o.Resource.Kind, Accessor: wrap.WrappedAccessor, Reads: paths(reads), Minted: minted(wrap), NotBefore: o.NotBefore, NotAfter: o.NotAfter}
		if took <= margin {
			h.Sealed, err = sealed.Seal(o.Request.Recipient, sealed.Secret{Request: o.Request.ID, WrappingToken: wrap.Token, Reads: reads})
			if err == nil {
				return h, nil
			}
		}
		if err = errors.Join(err, k.Discard(ctx, h)); err != nil {
			return none, err
		}
		margin = 2 * took
	}
}

// reads is what the order's actions open, and the policies that let a token
// read just that.
func (k *Vault) reads(o Order) ([]sealed.Read, []string, error) {
	if o.Resource.Kind != catalog.KindVault || len(o.Request.Actions) == 0 {
		return nil, nil, access.Errorf(access.CodeMalformed, "an order for %s without actions in Vault", o.Resource.Name)
	}
	var reads []sealed.Read
	var policies []string
	for _, action := range o.Request.Actions {
		role, ok := o.Resource.Roles[action]
		if !ok {
			return nil, nil, access.Errorf(access.CodeNotFound, "%s has no action %q", o.Resource.Name, action)
		}
		reads = append(reads, sealed.Read{Action: action, Path: o.Resource.VaultPath(action), With: role.With})
		policies = append(policies, vault.PolicyName(k.TokenRole, o.Resource, action))
	}
	return reads, policies, nil
}

// minted is when Vault made what is wrapped, which it says itself.
func minted(wrap *api.SecretWrapInfo) *time.Time {
	at := wrap.CreationTime.UTC()
	if at.IsZero() {
		return nil
	}
	return &at
}

// paths are what is read, each once.
func paths(reads []sealed.Read) []string {
	var all []string
	for _, r := range reads {
		all = append(all, r.Path)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// mint has Vault make a token that lives until the grant ends, less margin, and
// gets the wrapping of it. It says how long that took.
func (k *Vault) mint(ctx context.Context, o Order, policies []string, margin time.Duration) (wrap *api.SecretWrapInfo, took time.Duration, err error) {
	fail := func(err error) (*api.SecretWrapInfo, time.Duration, error) { return nil, 0, err }
	var secret *api.Secret
	err = k.Vault.Do(ctx, func(ctx context.Context, c *api.Client) (err error) {
		asked := k.now()
		ttl := (o.NotAfter.Sub(asked) - margin).Truncate(time.Second)
		if ttl < time.Second {
			return fmt.Errorf("vault is too slow for a grant that ends at %s", o.NotAfter.Format(time.RFC3339))
		}
		life := fmt.Sprintf("%ds", ttl/time.Second)
		wrapping := c.WithRequestCallbacks(func(r *api.Request) { r.WrapTTL = life })
		secret, err = wrapping.Logical().WriteWithContext(ctx, k.mintPath(), map[string]any{
			"policies":          policies,
			"ttl":               life,
			"explicit_max_ttl":  life,
			"no_default_policy": true,
			"renewable":         false,
			"display_name":      "hallpass",
			"meta": map[string]string{
				"hallpass_request":   o.Request.ID,
				"hallpass_requester": o.Request.Signer,
				"hallpass_resource":  o.Resource.Name,
			},
		})
		took = k.now().Sub(asked)
		return err
	})
	switch vault.Status(err) {
	case http.StatusForbidden, http.StatusBadRequest, http.StatusNotFound:
		return fail(fmt.Errorf("vault mints no token for %s by the token role %s, and an operator has to see to it; run: hallpass vault check (%w)", o.Resource.Name, k.TokenRole, err))
	}
	if err != nil {
		return fail(err)
	}
	if secret == nil || secret.WrapInfo == nil || secret.WrapInfo.Token == "" || secret.WrapInfo.WrappedAccessor == "" {
		if secret != nil && secret.Auth != nil {
			_ = k.Discard(ctx, access.Handle{Accessor: secret.Auth.Accessor}) // it ends by itself
		}
		return fail(fmt.Errorf("vault minted a token for %s and didn't wrap it; run: hallpass vault check", o.Resource.Name))
	}
	return secret.WrapInfo, took, nil
}

// Issue hands out what the handle holds. It asks Vault nothing.
func (k *Vault) Issue(_ context.Context, o Order, h access.Handle) (access.Credential, error) {
	if h.Request != o.Request.ID || h.Kind != o.Resource.Kind || h.Accessor == "" || h.Sealed == "" ||
		!h.NotBefore.Equal(o.NotBefore) || !h.NotAfter.Equal(o.NotAfter) {
		return access.Credential{}, access.Errorf(access.CodeMismatch, "the token was prepared for another order")
	}
	return access.Credential{Handle: h, Sealed: h.Sealed}, nil
}

// Revoke ends the token and everything that was read with it. When it returns,
// the token is dead, and Vault is taking its leases back: it goes on until
// that is done, also if a database is down for a while, and it has been known
// to give up. See docs/vault.md.
func (k *Vault) Revoke(ctx context.Context, h access.Handle) error {
	if h.Accessor == "" {
		return access.Errorf(access.CodeMalformed, "the handle of request %s names no accessor", h.Request)
	}
	err := k.Vault.Do(ctx, func(ctx context.Context, c *api.Client) error {
		return c.Auth().Token().RevokeAccessorWithContext(ctx, h.Accessor)
	})
	switch {
	case vault.Gone(err):
		return nil
	case vault.Interrupted(err):
		return k.finishRevocation(ctx, h.Accessor)
	case vault.Status(err) == http.StatusForbidden:
		return fmt.Errorf("vault doesn't let the issuer revoke a token, and an operator has to see to it; run: hallpass vault check (%w)", err)
	}
	return err
}

// Discard revokes a token whose handle the ledger didn't take. It is done even
// if the caller has gone away.
func (k *Vault) Discard(ctx context.Context, h access.Handle) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanUp)
	defer cancel()
	return k.Revoke(ctx, h)
}

func (k *Vault) now() time.Time {
	if k.Now == nil {
		return time.Now()
	}
	return k.Now()
}
