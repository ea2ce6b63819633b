package worker

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"hallpass/access"
	"hallpass/audit"
	"hallpass/catalog"
	"hallpass/codec"
	"hallpass/directory"
	"hallpass/internal/certfile"
	"hallpass/internal/trusted"
	"hallpass/internal/wording"
	"hallpass/lookup"
	"hallpass/notify"
	"hallpass/policy"
)

// Finding is what Check found of one part.
type Finding struct {
	Part   string `json:"part"`
	OK     bool   `json:"ok"`
	Detail string `json:"detail"` // one line: what is there, or what is wrong
	Hint   string `json:"hint,omitempty"`
	err    error
}

// Err is what is wrong, nil if nothing is.
func (f Finding) Err() error { return f.err }

// finding is what there is, or what is wrong if err isn't nil.
func finding(part, detail string, err error) Finding {
	f := Finding{Part: part, OK: err == nil, Detail: detail, err: err}
	if err != nil {
		f.Detail = wording.Line(err.Error())
		f.Hint = access.HintOf(err)
	}
	return f
}

// checkTimeout is how long Temporal may take to answer Check.
const checkTimeout = 5 * time.Second

// Check looks at everything that the configuration names, without changing
// anything and without reading a CA key. That a file isn't on this machine is
// in order as far as only workers need it. Whose files are obeyed is judged for
// the user of this process, as a worker judges it for its own.
func (c *Config) Check(ctx context.Context) []Finding {
	var out []Finding
	add := func(part, detail string, err error) { out = append(out, finding(part, detail, err)) }
	file := func(part, path string, read func() (string, error)) {
		if path == "" {
			add(part, "not configured", nil)
			return
		}
		detail, err := read()
		if errors.Is(err, fs.ErrNotExist) {
			add(part, path+" is not on this machine", nil)
			return
		}
		add(part, detail, err)
	}
	file("policy", c.Policy, func() (string, error) {
		return parsed(c.Policy, policy.Parse, func(p *policy.Policy) string { return plural(len(p.Rules()), "rule") })
	})
	file("directory", c.Directory, func() (string, error) {
		return parsed(c.Directory, directory.Parse, func(d *directory.Directory) string { return plural(len(d.Users()), "user") })
	})
	file("catalog", c.Catalog, func() (string, error) {
		return parsed(c.Catalog, catalog.Parse, func(c *catalog.Catalog) string { return plural(len(c.Resources()), "resource") })
	})
	// These name files of their own, which have to be there if they are.
	list := func(part, path string, load func() error) {
		file(part, path, func() (string, error) {
			if _, err := os.Stat(path); err != nil {
				return "", err
			}
			err := load()
			if errors.Is(err, fs.ErrNotExist) {
				err = fmt.Errorf("%s names what isn't there: %s", path, err.Error())
			}
			return path, err
		})
	}
	list("notify", c.Notify, func() error { _, err := notify.Load(c.Notify); return err })
	list("lookups", c.Lookups, func() error { _, err := lookup.Load(c.Lookups); return err })
	file("audit key", c.Audit.Key, func() (string, error) {
		_, err := audit.ReadKey(c.Audit.Key)
		return c.Audit.Key, err
	})
	file("audit public key", c.Audit.PublicKey, func() (string, error) { return audit.ReadPublicKey(c.Audit.PublicKey) })
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	if c.Audit.Database != "" && c.Audit.PublicKey != "" {
		detail, err := c.log(ctx)
		if access.CodeOf(err) == access.CodeNotFound || errors.Is(err, fs.ErrNotExist) { // a worker makes it
			detail, err = err.Error(), nil
		}
		add("audit log", detail, err)
	}
	file("ssh CA", c.Issuers.SSH.Key, func() (string, error) {
		path, ok := strings.CutPrefix(c.Issuers.SSH.Key, "file:")
		if !ok {
			return c.Issuers.SSH.Key, nil // the agent of the issuer's own session has it
		}
		info, err := os.Stat(path)
		if err == nil && info.Mode().Perm()&0o077 != 0 {
			err = access.Errorf(access.CodeMalformed, "%s has mode %04o, so others can read it", path, info.Mode().Perm()).WithHint("chmod 600 %s", path)
		}
		return path, err
	})
	if c.Issuers.SSH.Trusted != "" {
		file("trusted CAs", c.Issuers.SSH.Trusted, func() (string, error) {
			keys, err := c.Issuers.SSH.TrustedKeys()
			return c.Issuers.SSH.Trusted + ", " + plural(len(keys), "key"), err
		})
	}
	file("codec keys", c.Temporal.Codec, func() (string, error) {
		_, err := codec.Open(c.Temporal.Codec)
		return c.Temporal.Codec, err
	})
	if c.Service.Cert != "" {
		file("service certificate", c.Service.Cert, func() (string, error) {
			renewed, err := certfile.Open(c.Service.Cert, c.Service.Key, nil)
			if err != nil {
				return "", err
			}
			return c.Service.Cert + ", until " + renewed.Ends().UTC().Format(time.RFC3339), nil
		})
	}
	file("vault", c.Issuers.Vault.Address, func() (string, error) {
		client, err := c.vault("", "nothing can be said of it")
		if err != nil {
			return "", err
		}
		return client.Address() + ", by " + c.Issuers.Vault.Auth + "; to try it: hallpass vault check", nil
	})
	if c.Client.Service != "" {
		detail, err := c.greets(ctx)
		add("service", detail, err)
		if c.Temporal.Address == "" {
			return out
		}
	}
	detail, err := c.answers(ctx)
	add("temporal", detail, err)
	return out
}

// greets says whether the service that people's commands use is there.
func (c *Config) greets(ctx context.Context) (string, error) {
	h, err := c.HTTPS(ctx, nil, nil)
	if err != nil {
		return "", err
	}
	defer h.Close()
	return c.Client.Service + ", known by " + c.Service.CA, h.Hello(ctx)
}

// log looks at the audit log: that it is there, is one, and is this key's.
func (c *Config) log(ctx context.Context) (_ string, err error) {
	key, err := audit.ReadPublicKey(c.Audit.PublicKey)
	if err != nil {
		return "", err
	}
	r, err := audit.OpenReader(ctx, c.Audit.Database, key)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	msg, err := r.Checkpoint(ctx)
	if err != nil {
		return "", err
	}
	checkpoint, err := audit.OpenCheckpoint(msg, key)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%s, %s", c.Audit.Database, plural(int(checkpoint.Size), "event")), nil
}

func (c *Config) answers(ctx context.Context) (string, error) {
	o, err := c.clientOptions()
	if err != nil {
		return "", err
	}
	cl, err := c.Dial(ctx)
	if errors.Is(err, context.DeadlineExceeded) {
		err = access.Errorf(access.CodeUnavailable, "temporal at %s doesn't answer within %s", o.HostPort, access.ShortDuration(checkTimeout))
	}
	if err != nil {
		return "", err
	}
	cl.Close()
	return fmt.Sprintf("%s, namespace %s", o.HostPort, o.Namespace), nil
}

func parsed[T any](path string, parse func(string, []byte) (T, error), describe func(T) string) (string, error) {
	data, err := trusted.ReadFile(path)
	if err != nil {
		return "", err
	}
	v, err := parse(path, data)
	if err != nil {
		return "", err
	}
	return path + ", " + describe(v), nil
}

func plural(n int, what string) string {
	return wording.Count(n, what)
}
