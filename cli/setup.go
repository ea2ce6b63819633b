package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"hallpass/access"
	"hallpass/catalog"
	"hallpass/directory"
	"hallpass/policy"
	"hallpass/transport"
	"hallpass/worker"
)

// setup is what a command has loaded so far: each part when it is first asked
// for, and once.
type setup struct {
	config    *worker.Config
	directory *directory.Directory
	catalog   *catalog.Catalog
	policy    *policy.Policy
	phrases   map[string][]byte // that opened a key file; see identify
}

// settings is the configuration.
func (a *app) settings() (*worker.Config, error) {
	if a.setup.config == nil {
		cfg, err := worker.Load(a.config, a.env)
		if err != nil {
			return nil, err
		}
		a.setup.config = cfg
	}
	return a.setup.config, nil
}

// errNotHere says that a file isn't configured on this machine: a client may
// do without policy and directory, and even without the catalog.
var errNotHere = errors.New("is not configured on this machine")

func part[T any](a *app, into **T, name string, path func(*worker.Config) string, parse func(string, []byte) (*T, error)) (*T, error) {
	if *into != nil {
		return *into, nil
	}
	cfg, err := a.settings()
	if err != nil {
		return nil, err
	}
	file := path(cfg)
	if file == "" {
		return nil, fmt.Errorf("the %s %w", name, errNotHere)
	}
	data, err := os.ReadFile(file)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("the %s %w: there is no %s", name, errNotHere, file)
	case err != nil:
		return nil, fmt.Errorf("read the %s: %w", name, err)
	}
	if *into, err = parse(file, data); err != nil {
		return nil, err
	}
	return *into, nil
}

func (a *app) directory() (*directory.Directory, error) {
	return part(a, &a.setup.directory, "directory", func(c *worker.Config) string { return c.Directory }, directory.Parse)
}

func (a *app) catalog() (*catalog.Catalog, error) {
	return part(a, &a.setup.catalog, "catalog", func(c *worker.Config) string { return c.Catalog }, catalog.Parse)
}

func (a *app) policy() (*policy.Policy, error) {
	return part(a, &a.setup.policy, "policy", func(c *worker.Config) string { return c.Policy }, policy.Parse)
}

// directoryOrNil is the directory where this machine has it: it helps to name
// people, and the service doesn't rely on it.
func (a *app) directoryOrNil() *directory.Directory {
	d, err := a.directory()
	if err != nil {
		return nil
	}
	return d
}

// dialTimeout is how long the service may take to answer the door.
const dialTimeout = 5 * time.Second

// connect reaches the service: over HTTPS where client.service says so, else by
// way of Temporal.
func (a *app) connect() (backend, error) {
	if a.dial != nil {
		return a.dial(a.ctx)
	}
	cfg, err := a.settings()
	if err != nil {
		return nil, err
	}
	if cfg.Client.Service != "" {
		h, err := cfg.HTTPS(a.ctx, a.signRead, a.now)
		if err != nil {
			return nil, err
		}
		return h, nil
	}
	ctx, cancel := context.WithTimeout(a.ctx, dialTimeout)
	defer cancel()
	c, err := cfg.Dial(ctx)
	if err != nil {
		if a.ctx.Err() != nil {
			return nil, context.Canceled
		}
		if access.CodeOf(err) != "" {
			return nil, err
		}
		return nil, transport.Unreachable(cfg.Temporal.Address, err)
	}
	return cfg.Transport(c, func(ctx context.Context, id string) (access.Status, error) { return cfg.Recall(ctx, c, id) }), nil
}

// withBackend connects for one call of do.
func (a *app) withBackend(do func(backend) error) error {
	b, err := a.connect()
	if err != nil {
		return err
	}
	defer b.Close()
	return do(b)
}
