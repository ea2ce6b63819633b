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

// KindSSH is the kind whose resources are hosts.
const KindSSH = "ssh"

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
	ssh := func(field string, fn func(yamlfile.Node) error) func(yamlfile.Node) error {
		return func(n yamlfile.Node) error {
			if kind != KindSSH {
				return n.Errorf("%s is only for resources of kind ssh", field)
			}
			return fn(n)
		}
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
	})
	if err != nil {
		return access.Resource{}, err
	}
	if kind == KindSSH {
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
	return r
}
