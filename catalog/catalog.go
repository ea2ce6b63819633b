// Package catalog knows the resources that access can be asked for. It is
// read from one file, catalog.yaml, which is specified in
// docs/spec/directory-and-catalog.md.
//
// A Catalog doesn't change. A changed file is a new Catalog with another
// digest.
package catalog

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"

	"hallpass/access"
	"hallpass/internal/yamlfile"
)

// Bounds, in bytes and entries.
const (
	maxDescription = 200
	maxLabel       = 200
	maxLabels      = 64
	maxLogins      = 64
	maxHosts       = 1000
	maxActions     = 64
)

// The kinds whose resources have fields of their own.
const (
	KindSSH   = "ssh"   // hosts
	KindVault = "vault" // roles of an engine in Vault whose secrets have leases
)

// reserved are the mounts of Vault itself. What is there isn't a secret with a
// lease, and some of it is power over Vault.
var reserved = []string{"auth", "cubbyhole", "identity", "sys"}

// Catalog is one version of the file. It is safe for concurrent use.
type Catalog struct {
	data      []byte
	digest    string
	resources map[string]access.Resource
	hosts     map[string][]string // host → names of resources, sorted
}

// Parse reads a catalog file. Errors begin with "name:line:column: ".
func Parse(name string, data []byte) (*Catalog, error) {
	root, err := yamlfile.Parse(name, data)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(data)
	c := &Catalog{
		data:      bytes.Clone(data),
		digest:    "sha256:" + hex.EncodeToString(sum[:]),
		resources: map[string]access.Resource{},
		hosts:     map[string][]string{},
	}
	found := false
	err = root.Fields(map[string]func(yamlfile.Node) error{
		"resources": func(n yamlfile.Node) error {
			found = true
			return n.Each(func(name string, at, value yamlfile.Node) error {
				if err := access.CheckResource(name); err != nil {
					return at.Wrap(err)
				}
				r, err := parseResource(name, at, value)
				if err != nil {
					return err
				}
				c.resources[name] = r
				return nil
			})
		},
	})
	if err != nil {
		return nil, err
	}
	if !found {
		return nil, root.Errorf("field %q is missing", "resources")
	}
	for _, name := range c.names() {
		for _, h := range c.resources[name].Hosts {
			c.hosts[h] = append(c.hosts[h], name)
		}
	}
	return c, nil
}

func parseResource(name string, at, value yamlfile.Node) (access.Resource, error) {
	kind, short := access.SplitResource(name)
	r := access.Resource{Name: name, Kind: kind}
	only := func(want, field string, fn func(yamlfile.Node) error) func(yamlfile.Node) error {
		return func(n yamlfile.Node) error {
			if kind != want {
				return n.Errorf("%s is only for resources of kind %s", field, want)
			}
			return fn(n)
		}
	}
	ssh := func(field string, fn func(yamlfile.Node) error) func(yamlfile.Node) error {
		return only(KindSSH, field, fn)
	}
	err := value.Fields(map[string]func(yamlfile.Node) error{
		"description": func(n yamlfile.Node) (err error) {
			r.Description, err = n.Checked(func(s string) error { return access.CheckText("description", s, maxDescription) })
			return err
		},
		"labels": func(n yamlfile.Node) (err error) {
			r.Labels, err = parseLabels(n)
			return err
		},
		"actions": func(n yamlfile.Node) (err error) {
			if kind == KindVault {
				r.Roles, err = parseRoles(n)
				r.Actions = slices.Sorted(maps.Keys(r.Roles))
				return err
			}
			r.Actions, err = list(n, maxActions, func(s string) error { return access.CheckName("action", s) })
			return err
		},
		"logins": ssh("logins", func(n yamlfile.Node) (err error) {
			r.Logins, err = list(n, maxLogins, access.CheckLogin)
			return err
		}),
		"hosts": ssh("hosts", func(n yamlfile.Node) (err error) {
			r.Hosts, err = list(n, maxHosts, access.CheckHost)
			return err
		}),
		"address": ssh("address", func(n yamlfile.Node) (err error) {
			r.Address, err = n.Checked(checkAddress)
			return err
		}),
		"path": only(KindVault, "path", func(n yamlfile.Node) (err error) {
			r.Path, err = n.Checked(checkPath)
			return err
		}),
	})
	if err != nil {
		return access.Resource{}, err
	}
	switch kind {
	case KindVault:
		if r.Path == "" {
			return access.Resource{}, at.Errorf("%s has no path", name).WithHint("say where its roles are read in Vault, as in: path: database/creds")
		}
		if r.Roles == nil {
			return access.Resource{}, at.Errorf("%s has no actions", name).WithHint("name a role in Vault for each, as in: actions: {read: orders-ro}")
		}
	case KindSSH:
		if r.Logins == nil {
			return access.Resource{}, at.Errorf("%s has no logins", name).WithHint("name the accounts that may be asked for, as in: logins: [deploy]")
		}
		if r.Hosts == nil {
			r.Hosts = []string{short}
		}
		if r.Address == "" {
			r.Address = r.Hosts[0]
		}
	}
	return r, nil
}

// list reads a list that has something in it: an empty one is a line that
// somebody forgot to finish.
func list(n yamlfile.Node, max int, check func(string) error) ([]string, error) {
	l, err := n.Texts(check)
	if err != nil {
		return nil, err
	}
	if len(l) == 0 {
		return nil, n.Errorf("list is empty; leave it out instead")
	}
	if len(l) > max {
		return nil, n.Errorf("list has %d entries, more than %d", len(l), max)
	}
	return l, nil
}

// parseRoles reads actions as a mapping from their names to what they open.
func parseRoles(n yamlfile.Node) (map[string]access.VaultRole, error) {
	roles := map[string]access.VaultRole{}
	err := n.Each(func(action string, at, value yamlfile.Node) error {
		if err := access.CheckName("action", action); err != nil {
			return at.Wrap(err)
		}
		role, err := parseRole(value)
		if err != nil {
			return err
		}
		if roles[action] = role; len(roles) > maxActions {
			return at.Errorf("more than %d actions", maxActions)
		}
		return nil
	})
	if err == nil && len(roles) == 0 {
		err = n.Errorf("there are no actions; name a role in Vault for each")
	}
	return roles, err
}

func parseRole(n yamlfile.Node) (access.VaultRole, error) {
	var role access.VaultRole
	name := func(n yamlfile.Node) (err error) {
		role.Role, err = n.Checked(func(s string) error { return access.CheckPath("role", s) })
		return err
	}
	if !n.IsMapping() {
		return role, name(n)
	}
	err := n.Fields(map[string]func(yamlfile.Node) error{
		"role": name,
		"with": func(n yamlfile.Node) error {
			role.With = map[string]string{}
			return n.Each(func(name string, at, value yamlfile.Node) (err error) {
				if role.With[name], err = value.Text(); err != nil {
					return err
				}
				return at.Wrap(access.CheckWith(role.With))
			})
		},
	})
	if err == nil && role.Role == "" {
		err = n.Errorf("field %q is missing", "role")
	}
	return role, err
}

func checkPath(s string) error {
	if err := access.CheckPath("path", s); err != nil {
		return err
	}
	if mount, _, _ := strings.Cut(s, "/"); slices.Contains(reserved, mount) {
		return access.Errorf(access.CodeMalformed, "path %q is Vault's own; name the mount of an engine whose secrets have leases", s)
	}
	return nil
}

func parseLabels(n yamlfile.Node) (map[string]string, error) {
	labels := map[string]string{}
	err := n.Each(func(key string, at, value yamlfile.Node) error {
		if err := access.CheckName("label", key); err != nil {
			return at.Wrap(err)
		}
		text, err := value.Checked(func(s string) error {
			if s == "" {
				return access.Errorf(access.CodeMalformed, "label %s is empty; leave it out instead", key)
			}
			return access.CheckText("label "+key, s, maxLabel)
		})
		if err != nil {
			return err
		}
		if labels[key] = text; len(labels) > maxLabels {
			return at.Errorf("more than %d labels", maxLabels)
		}
		return nil
	})
	return labels, err
}

// checkAddress accepts a host, "host:port" or "[address]:port".
func checkAddress(s string) error {
	if access.CheckHost(s) == nil {
		return nil
	}
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		return access.Errorf(access.CodeMalformed, "address %q is not a host or host:port", s)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 || strconv.FormatUint(n, 10) != port {
		return access.Errorf(access.CodeMalformed, "address %q has a port outside 1 to 65535", s)
	}
	return access.CheckHost(host)
}

// Digest is "sha256:" and the SHA-256 of the file in lower-case hex.
func (c *Catalog) Digest() string { return c.digest }

// Data is the file as it was read.
func (c *Catalog) Data() []byte { return bytes.Clone(c.data) }

// Resource finds a resource by its name, "kind/name".
func (c *Catalog) Resource(name string) (access.Resource, bool) {
	r, ok := c.resources[name]
	if !ok {
		return access.Resource{}, false
	}
	return view(r), true
}

// Resources lists everything, sorted by name.
func (c *Catalog) Resources() []access.Resource {
	list := make([]access.Resource, 0, len(c.resources))
	for _, name := range c.names() {
		list = append(list, view(c.resources[name]))
	}
	return list
}

// ByHost lists the resources that are reached under a host name as people type
// it after ssh, sorted by name. Host names are compared without case.
func (c *Catalog) ByHost(host string) []access.Resource {
	names := c.hosts[strings.ToLower(host)]
	list := make([]access.Resource, 0, len(names))
	for _, name := range names {
		list = append(list, view(c.resources[name]))
	}
	return list
}

func (c *Catalog) names() []string { return slices.Sorted(maps.Keys(c.resources)) }

// view is the resource as others get it: theirs to change.
func view(r access.Resource) access.Resource {
	r.Labels = maps.Clone(r.Labels)
	r.Logins = slices.Clone(r.Logins)
	r.Hosts = slices.Clone(r.Hosts)
	r.Actions = slices.Clone(r.Actions)
	r.Roles = maps.Clone(r.Roles)
	for action, role := range r.Roles {
		role.With = maps.Clone(role.With)
		r.Roles[action] = role
	}
	return r
}
