package vault

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/vault/api"
)

// Spec says what a token is to be good for.
type Spec struct {
	Policies []string
	Life     time.Duration     // the longest of the token that is handed out; at least MinLife
	Own      time.Duration     // the longest of the grant's own token, with which the other ends; 0: Life
	Name     string            // its display name
	Meta     map[string]string // what its own metadata say besides MetaAccessor
}

// MinLife is the shortest life of a token: Vault counts seconds. One of less than two
// may be dead when it is made, since it begins on a whole second.
const MinLife = time.Second

// MetaAccessor is, in the metadata of a token that is handed out, the accessor
// that ends it.
const MetaAccessor = "hallpass_accessor"

// Minted is what Mint made.
type Minted struct {
	Accessor string // ends it, and all that was read with it
	Wrapping string // opens, once, the token that is handed out
}

// Mint makes two tokens: one that stands by itself and may do nothing but make
// the other, which is forgotten at once, and a batch token, its child, which is
// handed out wrapped. When the first one ends, the second is dead, and Vault
// takes back what was read with it.
//
// Only for a batch token does Vault hold leases to the token's own end, also those
// of secrets that were being made when it came: a service token's live on for as
// long as the engine's role says. And that end tells whose a lease is: see Mark.
// https://developer.hashicorp.com/vault/docs/concepts/tokens#token-types-in-detail
//
// Where it fails, Accessor may be set all the same: what is there has to be
// revoked.
func (c *Client) Mint(ctx context.Context, tokenRole string, t Spec) (Minted, error) {
	life := max(cmp.Or(t.Own, t.Life).Truncate(time.Second), time.Second)
	var own *api.Secret
	err := c.Do(ctx, func(ctx context.Context, client *api.Client) (err error) {
		own, err = client.Logical().WriteWithContext(ctx, "auth/token/create/"+tokenRole, map[string]any{
			"policies": []string{GrantRole(tokenRole)}, "ttl": life.String(), "explicit_max_ttl": life.String(),
			"no_default_policy": true, "renewable": false, "display_name": t.Name, "meta": t.Meta,
		})
		return err
	})
	if err != nil {
		return Minted{}, err
	}
	if own == nil || own.Auth == nil || own.Auth.ClientToken == "" || own.Auth.Accessor == "" {
		return Minted{}, errors.New("vault gives no token")
	}
	m := Minted{Accessor: own.Auth.Accessor}
	if has := time.Duration(own.Auth.LeaseDuration) * time.Second; has < life {
		return m, fmt.Errorf("vault's max_lease_ttl lets a token live for %s, and not %s", has, life)
	}
	client, err := c.client(own.Auth.ClientToken)
	if err != nil {
		return m, err
	}
	meta := map[string]string{MetaAccessor: m.Accessor}
	for name, value := range t.Meta {
		meta[name] = value
	}
	wrapping := client.WithRequestCallbacks(func(r *api.Request) { r.WrapTTL = life.String() })
	handed, err := wrapping.Logical().WriteWithContext(ctx, "auth/token/create/"+GrantRole(tokenRole), map[string]any{
		"type": "batch", "policies": t.Policies, "ttl": marked(t.Life, m.Accessor).String(), "no_default_policy": true, "display_name": t.Name, "meta": meta,
	})
	if err != nil {
		return m, c.explain(err)
	}
	if handed == nil || handed.WrapInfo == nil || handed.WrapInfo.Token == "" {
		return m, errors.New("vault gives no wrapped token")
	}
	m.Wrapping = handed.WrapInfo.Token
	return m, nil
}

// Mark is by how much behind a whole second the token ends that an accessor of
// Mint's stands for: 1 to 999,999,999 ns. Vault begins a batch token's life on a
// whole second by its clock, and ends with it every lease that would last longer,
// to the nanosecond. So a lease's end tells whose it is; Vault has no other way to
// say it. An accessor is Vault's own to choose, so nobody can choose a mark.
func Mark(accessor string) time.Duration {
	sum := sha256.Sum256([]byte(accessor))
	return time.Duration(binary.BigEndian.Uint64(sum[:])%999_999_999 + 1)
}

// marked is a length of time, at most life, with a mark.
func marked(life time.Duration, accessor string) time.Duration {
	mark := Mark(accessor)
	return (life - mark).Truncate(time.Second) + mark
}
