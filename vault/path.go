package vault

import (
	"context"
	"errors"
	"net/http"
	"strings"

	"github.com/hashicorp/vault/api"
)

// Read reads a path, as whoever is logged in. Where there is nothing, it
// returns nil.
func (c *Client) Read(ctx context.Context, path string) (map[string]any, error) {
	return c.data(ctx, func(ctx context.Context, a *api.Client) (*api.Secret, error) {
		return a.Logical().ReadWithContext(ctx, path)
	})
}

// Write writes to a path and returns what Vault answers, nil for nothing.
func (c *Client) Write(ctx context.Context, path string, body map[string]any) (map[string]any, error) {
	return c.data(ctx, func(ctx context.Context, a *api.Client) (*api.Secret, error) {
		return a.Logical().WriteWithContext(ctx, path, body)
	})
}

func (c *Client) data(ctx context.Context, f func(context.Context, *api.Client) (*api.Secret, error)) (map[string]any, error) {
	var secret *api.Secret
	err := c.Do(ctx, func(ctx context.Context, a *api.Client) (err error) {
		secret, err = f(ctx, a)
		return err
	})
	if err != nil || secret == nil {
		return nil, err
	}
	return secret.Data, nil
}

// Away says whether err is that Vault couldn't answer just now: it may later.
func Away(err error) bool {
	var f *Failure
	if !errors.As(err, &f) {
		return false
	}
	return f.Status == 0 || f.Status == http.StatusTooManyRequests || f.Status >= http.StatusInternalServerError
}

// Missing says whether err is Vault's word that there is no such lease.
func Missing(err error) bool {
	return Status(err) == http.StatusNotFound || Status(err) == http.StatusBadRequest && strings.Contains(err.Error(), "invalid lease")
}
