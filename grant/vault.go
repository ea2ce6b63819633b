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
// The issuer never has that token. What it mints is the grant's own token, which
// reads nothing and has an accessor that revokes it; with it, it has Vault make
// the token that is handed out, response-wrapped, and gets a wrapping token, which
// opens the response once. That one is sealed to the requester as soon as it is
// there, and forgotten. Accessor and sealed text together are the handle: they are
// in the ledger before anybody can open anything, and a repeat has the same ones.
//
// Vault chooses the accessor when it mints. So Prepare leaves a token, which
// nobody can use that has no handle in the ledger: its wrapping token is
// nowhere. It ends by itself with the grant, or earlier by Discard or a sweep.
type Vault struct {
	Vault     *vault.Client
	TokenRole string           // that mints: auth/token/roles/…
	Leases    func() []string  // the paths whose leases a sweep looks at: those that the catalog names; may be nil
	Now       func() time.Time // nil: time.Now

	foreign     foreign
	tokenLeases tokenLeases
	late        late
}

// shortest is the shortest grant: it begins on a whole second, which may be almost
// over, and another may go by while Vault mints.
const shortest = 2*time.Second + vault.MinLife

// Prepare mints. Nothing that Vault says ends the request: what is wrong in
// Vault an operator can put right.
func (k *Vault) Prepare(ctx context.Context, o Order) (access.Handle, error) {
	none := access.Handle{}
	if lasts := o.NotAfter.Sub(o.NotBefore); lasts < shortest {
		return none, access.Errorf(access.CodeMalformed, "a grant of %s is too short for vault: %s at least", access.ShortDuration(lasts), access.ShortDuration(shortest))
	}
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
		token, took, err := k.mint(ctx, o, policies, margin)
		h := access.Handle{Request: o.Request.ID, Kind: o.Resource.Kind, Accessor: token.Accessor, Reads: paths(reads), NotBefore: o.NotBefore, NotAfter: o.NotAfter}
		if err == nil && took <= margin {
			h.Sealed, err = sealed.Seal(o.Request.Recipient, sealed.Secret{Request: o.Request.ID, WrappingToken: token.Wrapping, Reads: reads})
			if err == nil {
				return h, nil
			}
		}
		if h.Accessor != "" {
			err = errors.Join(err, k.Discard(ctx, h))
		}
		if err != nil {
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

// paths are what is read, each once.
func paths(reads []sealed.Read) []string {
	var all []string
	for _, r := range reads {
		all = append(all, r.Path)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// mint has Vault make a token that lives until the grant ends, less margin. It
// says how long that took. Where it fails, there may be an accessor all the same.
func (k *Vault) mint(ctx context.Context, o Order, policies []string, margin time.Duration) (token vault.Minted, took time.Duration, err error) {
	asked := k.now()
	life := o.NotAfter.Sub(asked) - margin
	if life < vault.MinLife {
		return token, 0, fmt.Errorf("vault is too slow for a grant that ends at %s", o.NotAfter.Format(time.RFC3339))
	}
	token, err = k.Vault.Mint(ctx, k.TokenRole, vault.Spec{
		Policies: policies,
		Life:     life,
		Name:     "hallpass",
		Meta: map[string]string{
			"hallpass_request":   o.Request.ID,
			"hallpass_requester": o.Request.Signer,
			"hallpass_resource":  o.Resource.Name,
		},
	})
	switch vault.Status(err) {
	case http.StatusForbidden, http.StatusBadRequest, http.StatusNotFound:
		err = fmt.Errorf("vault mints no token for %s by the token role %s, and an operator has to see to it; run: hallpass vault check (%w)", o.Resource.Name, k.TokenRole, err)
	}
	return token, k.now().Sub(asked), err
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
	err := k.revoke(ctx, h)
	if err == nil {
		k.late.watch(h, k.now())
	}
	return err
}

func (k *Vault) revoke(ctx context.Context, h access.Handle) error {
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
	return k.revoke(ctx, h)
}

func (k *Vault) now() time.Time {
	if k.Now == nil {
		return time.Now()
	}
	return k.Now()
}
