package catalog

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	pathpkg "path"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"hallpass/access"
	"hallpass/internal/yamlfile"
)

const example = `resources:
  ssh/web-1:
    description: first web server
    labels: {env: prod, tier: "1"}
    logins: [deploy, root]
    hosts: [web-1, web-1.example.com, 10.0.0.7]
    address: 10.0.0.7:2222
  ssh/web:
    logins: [deploy]
    hosts: [web-2, web-1.example.com]
  ssh/db:
    logins: [_postgres]
  db/orders:
    actions: [read, write]
  vault/orders-db:
    labels: {env: prod}
    path: database/creds
    actions:
      read: orders-ro
      dump: {role: orders-dump}
  vault/k8s:
    path: team/kubernetes/creds
    actions: {debug: {role: debug, with: {kubernetes_namespace: shop, ttl: 1h}}, check-out: {role: ops/check-out, with: {}}}
`

func TestCatalog(t *testing.T) {
	c, err := Parse("catalog.yaml", []byte(example))
	if err != nil {
		t.Fatal(err)
	}
	want := []access.Resource{
		{Name: "db/orders", Kind: "db", Actions: []string{"read", "write"}},
		{Name: "ssh/db", Kind: "ssh", Logins: []string{"_postgres"}, Hosts: []string{"db"}, Address: "db"},
		{Name: "ssh/web", Kind: "ssh", Logins: []string{"deploy"}, Hosts: []string{"web-2", "web-1.example.com"}, Address: "web-2"},
		{Name: "ssh/web-1", Kind: "ssh", Description: "first web server", Labels: map[string]string{"env": "prod", "tier": "1"},
			Logins: []string{"deploy", "root"}, Hosts: []string{"web-1", "web-1.example.com", "10.0.0.7"}, Address: "10.0.0.7:2222"},
		{Name: "vault/k8s", Kind: "vault", Path: "team/kubernetes/creds", Actions: []string{"check-out", "debug"}, Roles: map[string]access.VaultRole{
			"debug":     {Role: "debug", With: map[string]string{"kubernetes_namespace": "shop", "ttl": "1h"}},
			"check-out": {Role: "ops/check-out", With: map[string]string{}},
		}},
		{Name: "vault/orders-db", Kind: "vault", Labels: map[string]string{"env": "prod"}, Path: "database/creds", Actions: []string{"dump", "read"},
			Roles: map[string]access.VaultRole{"read": {Role: "orders-ro"}, "dump": {Role: "orders-dump"}}},
	}
	if d := cmp.Diff(want, c.Resources()); d != "" {
		t.Error(d)
	}
	for _, r := range want {
		if got, ok := c.Resource(r.Name); !ok || !cmp.Equal(r, got) {
			t.Errorf("%s: %+v", r.Name, got)
		}
	}
	if _, ok := c.Resource("ssh/none"); ok {
		t.Error("ssh/none is there")
	}
	for host, want := range map[string][]string{
		"web-1": {"ssh/web-1"}, "WEB-1": {"ssh/web-1"}, "web-1.example.com": {"ssh/web", "ssh/web-1"}, "db": {"ssh/db"}, "10.0.0.7": {"ssh/web-1"}, "web": nil, "": nil,
	} {
		var got []string
		for _, r := range c.ByHost(host) {
			got = append(got, r.Name)
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%s: %s", host, d)
		}
	}
	sum := sha256.Sum256([]byte(example))
	if c.Digest() != "sha256:"+hex.EncodeToString(sum[:]) || string(c.Data()) != example {
		t.Errorf("digest %s", c.Digest())
	}
}

// What the catalog hands out is the caller's; the catalog stays as it is.
func TestCatalogIsNotChangedFromOutside(t *testing.T) {
	c, err := Parse("catalog.yaml", []byte(example))
	if err != nil {
		t.Fatal(err)
	}
	before := c.Resources()
	r, _ := c.Resource("ssh/web-1")
	r.Labels["env"], r.Logins[0], r.Hosts[0] = "test", "root", "x"
	c.Resources()[0].Actions[0] = "drop"
	c.ByHost("web-2")[0].Logins[0] = "root"
	k8s, _ := c.Resource("vault/k8s")
	k8s.Roles["debug"].With["ttl"] = "1000h"
	k8s.Roles["admin"] = access.VaultRole{Role: "admin"}
	clear(c.Data())
	if d := cmp.Diff(before, c.Resources()); d != "" || string(c.Data()) != example {
		t.Error(d)
	}
}

func TestParseBounds(t *testing.T) {
	ssh := func(rest string) string { return "resources:\n  ssh/a:\n    logins: [x]\n    " + rest + "\n" }
	many := func(n int) string {
		var l []string
		for i := range n {
			l = append(l, fmt.Sprintf("x%d", i))
		}
		return "[" + strings.Join(l, ", ") + "]"
	}
	labels := func(n int) string {
		var l []string
		for i := range n {
			l = append(l, fmt.Sprintf("x%d: y", i))
		}
		return "labels: {" + strings.Join(l, ", ") + "}"
	}
	x := func(n int) string { return strings.Repeat("x", n) }
	vault := func(rest string) string { return "resources:\n  vault/a: " + rest + "\n" }
	role := func(rest string) string { return vault("{path: p, actions: {read: " + rest + "}}") }
	roles := func(n int) string {
		var l []string
		for i := range n {
			l = append(l, fmt.Sprintf("x%d: y", i))
		}
		return vault("{path: p, actions: {" + strings.Join(l, ", ") + "}}")
	}
	host := x(63) + "." + x(63) + "." + x(63) + "." + x(60) // 252 bytes
	const notHost = " is not a host name in lower case or an IP address"
	for _, tt := range []struct{ name, in, want string }{
		{"nothing asked", "resources: {}\n", ""},
		{"empty", "", "1:1: file is empty"},
		{"no resources", "hosts: {}\n", `1:1: unknown field "hosts"`},
		{"too long", strings.Repeat("#", yamlfile.MaxSize+1), "1:1: file is longer than 4194304 bytes"},
		{"twice", "resources:\n  db/a: {}\n  db/a: {}\n", `3:3: "db/a" is already there, in line 2`},
		{"no kind", "resources:\n  web-1: {}\n", `2:3: resource "web-1" is not of the form kind/name, such as ssh/web-1`},
		{"kind in upper case", "resources:\n  SSH/web-1: {}\n", `2:3: resource kind "SSH" has a character outside a-z 0-9`},
		{"name of 63", "resources:\n  db/" + x(63) + ": {}\n", ""},
		{"name of 64", "resources:\n  db/" + x(64) + ": {}\n", "2:3: resource name is longer than 63 bytes"},
		{"unknown field", ssh("label: {a: b}"), `4:5: unknown field "label"`},
		{"no logins", "resources:\n  ssh/a: {}\n", "2:3: ssh/a has no logins"},
		{"empty logins", "resources:\n  ssh/a: {logins: []}\n", "2:19: list is empty; leave it out instead"},
		{"login twice", "resources:\n  ssh/a: {logins: [b, b]}\n", `2:23: "b" is there twice`},
		{"login with dash", "resources:\n  ssh/a: {logins: [-b]}\n", `2:20: login "-b" does not begin with a letter or digit`},
		{"64 logins", "resources:\n  ssh/a: {logins: " + many(64) + "}\n", ""},
		{"65 logins", "resources:\n  ssh/a: {logins: " + many(65) + "}\n", "2:19: list has 65 entries, more than 64"},
		{"logins of a database", "resources:\n  db/a: {logins: [b]}\n", "2:18: logins is only for resources of kind ssh"},
		{"hosts of a database", "resources:\n  db/a: {hosts: [b]}\n", "2:17: hosts is only for resources of kind ssh"},
		{"address of a database", "resources:\n  db/a: {address: b}\n", "2:19: address is only for resources of kind ssh"},
		{"description of 200", ssh("description: " + x(200)), ""},
		{"description of 201", ssh("description: " + x(201)), "4:18: description is longer than 200 bytes"},
		{"escape in description", ssh(`description: "\e[31m"`), "4:18: description contains the control or invisible character U+001B"},
		{"description is a number", ssh("description: 1"), "4:18: 1 is not text for YAML; write it in quotes"},
		{"label of 200", ssh("labels: {a: " + x(200) + "}"), ""},
		{"label of 201", ssh("labels: {a: " + x(201) + "}"), "4:17: label a is longer than 200 bytes"},
		{"empty label", ssh(`labels: {a: ""}`), "4:17: label a is empty; leave it out instead"},
		{"label without value", ssh("labels: {a: }"), "4:16: value is missing; it has to be text"},
		{"label is a truth", ssh("labels: {prod: true}"), "4:20: true is not text for YAML; write it in quotes"},
		{"label in upper case", ssh("labels: {Env: prod}"), `4:14: label "Env" has a character outside a-z 0-9 . _ @ + -`},
		{"64 labels", ssh(labels(64)), ""},
		{"65 labels", ssh(labels(65)), "4:516: more than 64 labels"},
		{"64 actions", ssh("actions: " + many(64)), ""},
		{"65 actions", ssh("actions: " + many(65)), "4:14: list has 65 entries, more than 64"},
		{"1000 hosts", ssh("hosts: " + many(1000)), ""},
		{"1001 hosts", ssh("hosts: " + many(1001)), "4:12: list has 1001 entries, more than 1000"},
		{"host of 253", ssh("hosts: [" + host + "x]"), ""},
		{"host of 254", ssh("hosts: [" + host + "xx]"), "4:13: host is longer than 253 bytes"},
		{"host with a part of 64", ssh("hosts: [" + x(64) + "]"), `4:13: host "` + x(64) + `"` + notHost},
		{"host as option", ssh("hosts: [-oProxyCommand=x]"), `4:13: host "-oProxyCommand=x"` + notHost},
		{"host with dash in front", ssh("hosts: [-v]"), `4:13: host "-v"` + notHost},
		{"host in upper case", ssh("hosts: [Web]"), `4:13: host "Web"` + notHost},
		{"host with dot at the end", ssh("hosts: [web.]"), `4:13: host "web."` + notHost},
		{"host with pattern", ssh(`hosts: ["*"]`), `4:13: host "*"` + notHost},
		{"host with comma", ssh(`hosts: ["a,b"]`), `4:13: host "a,b"` + notHost},
		{"host with port", ssh(`hosts: ["a:22"]`), `4:13: host "a:22"` + notHost},
		{"IPv6", ssh(`hosts: ["2001:db8::1"]`), ""},
		{"IPv6 in another spelling", ssh(`hosts: ["2001:DB8::1"]`), `4:13: host "2001:DB8::1" is not written as 2001:db8::1`},
		{"IPv6 with zone", ssh(`hosts: ["fe80::1%eth0"]`), `4:13: host "fe80::1%eth0" is not written as fe80::1`},
		{"address with port 1", ssh("address: a:1"), ""},
		{"address with port 65535", ssh("address: a:65535"), ""},
		{"address with port 0", ssh("address: a:0"), `4:14: address "a:0" has a port outside 1 to 65535`},
		{"address with port 65536", ssh("address: a:65536"), `4:14: address "a:65536" has a port outside 1 to 65535`},
		{"address with port 022", ssh("address: a:022"), `4:14: address "a:022" has a port outside 1 to 65535`},
		{"address with named port", ssh("address: a:ssh"), `4:14: address "a:ssh" has a port outside 1 to 65535`},
		{"address IPv6", ssh(`address: "2001:db8::1"`), ""},
		{"address IPv6 with port", ssh(`address: "[2001:db8::1]:22"`), ""},
		{"address with login", ssh(`address: "root@a"`), `4:14: address "root@a" is not a host or host:port`},
		{"address as option", ssh(`address: "-oX=y:22"`), `4:14: host "-oX=y"` + notHost},
		{"empty address", ssh(`address: ""`), `4:14: address "" is not a host or host:port`},
		{"Vault without a path", vault("{actions: {read: ro}}"), "2:3: vault/a has no path"},
		{"Vault without actions", vault("{path: p}"), "2:3: vault/a has no actions"},
		{"Vault with no actions", vault("{path: p, actions: {}}"), "2:31: there are no actions; name a role in Vault for each"},
		{"actions as a list", vault("{path: p, actions: [read]}"), "2:31: this is a list; it has to be a mapping (name: value)"},
		{"actions of others as a mapping", "resources:\n  db/a: {actions: {read: ro}}\n", "2:19: this is a mapping; it has to be a list"},
		{"path of a database", "resources:\n  db/a: {path: b}\n", "2:16: path is only for resources of kind vault"},
		{"logins of Vault", vault("{logins: [b]}"), "2:21: logins is only for resources of kind ssh"},
		{"path that leads out", vault("{path: p/../sys}"), `2:19: path "p/../sys" is not a path: it has to be names with one slash between, such as database/creds`},
		{"Vault's own path", vault("{path: sys/mounts}"), `2:19: path "sys/mounts" is Vault's own; name the mount of an engine whose secrets have leases`},
		{"Vault's own mount", vault("{path: auth}"), `2:19: path "auth" is Vault's own; name the mount of an engine whose secrets have leases`},
		{"mount with a name like it", vault("{path: system/creds, actions: {read: ro}}"), ""},
		{"64 roles", roles(64), ""},
		{"65 roles", roles(65), "2:534: more than 64 actions"},
		{"action in upper case", vault("{path: p, actions: {Read: ro}}"), `2:32: action "Read" has a character outside a-z 0-9 . _ @ + -`},
		{"action without a role", role(""), "2:37: value is missing; it has to be text"},
		{"role as pattern", role(`"*"`), `2:38: role "*" has a character outside a-z A-Z 0-9 . _ -`},
		{"role that leads out", role("../sys"), `2:38: role "../sys" is not a path: it has to be names with one slash between, such as database/creds`},
		{"role with more", role("ops/check-out"), ""},
		{"role as a number", role("1"), "2:38: 1 is not text for YAML; write it in quotes"},
		{"parameters without a role", role("{with: {a: b}}"), `2:38: field "role" is missing`},
		{"unknown field of a role", role("{role: r, ttl: 1h}"), `2:48: unknown field "ttl"`},
		{"parameter as pattern", role(`{role: r, with: {a: "*"}}`), `2:55: parameter a contains "*", which means something else in Vault's policies`},
		{"parameter is a number", role("{role: r, with: {a: 1}}"), "2:58: 1 is not text for YAML; write it in quotes"},
		{"no parameters", role("{role: r, with: {}}"), ""},
		{"anchor", ssh("labels: &l {a: b}"), "4:13: anchors and aliases are not supported"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, err := Parse("catalog.yaml", []byte(tt.in))
			if tt.want == "" {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			if want := "catalog.yaml:" + tt.want; err == nil || err.Error() != want {
				t.Fatalf("got  %v\nwant %s", err, want)
			}
			if c != nil || access.CodeOf(err) != access.CodeMalformed {
				t.Errorf("%v, code %q", c, access.CodeOf(err))
			}
		})
	}
}

// The example in the specification is a real one.
func TestSpecExample(t *testing.T) {
	spec, err := os.ReadFile("../docs/spec/directory-and-catalog.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(spec), "## catalog.yaml\n\n```yaml\n")
	example, _, ok := strings.Cut(rest, "```")
	if !ok {
		t.Fatal("no example")
	}
	c, err := Parse("catalog.yaml", []byte(example))
	if err != nil {
		t.Fatal(err)
	}
	if r, ok := c.Resource("ssh/web-2"); !ok || r.Address != "web-2" || len(c.Resources()) != 4 {
		t.Errorf("%+v", c.Resources())
	}
}

// FuzzParse holds that nothing in an accepted file can pass for an option or
// upset a terminal, and that every refusal has a place.
func FuzzParse(f *testing.F) {
	f.Add([]byte(example))
	f.Add([]byte("resources: {}"))
	f.Add([]byte("resources: {ssh/a: {logins: [b], hosts: ['::1'], address: '[::1]:22'}}"))
	f.Add([]byte("resources: {vault/a: {path: p, actions: {b: {role: c/d, with: {e: f}}}}}"))
	f.Add([]byte("resources:\n  db/a:\n    labels: {a: \"\\u202e\"}\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := Parse("catalog.yaml", data)
		if err != nil {
			if !strings.HasPrefix(err.Error(), "catalog.yaml:") || access.CheckText("", err.Error(), 2000) != nil {
				t.Errorf("error %q", err)
			}
			return
		}
		for _, r := range c.Resources() {
			texts := append([]string{r.Name, r.Kind, r.Address, r.Path}, append(r.Hosts, r.Logins...)...)
			for _, action := range r.Actions {
				if path := r.VaultPath(action); r.Kind == KindVault {
					texts = append(texts, path)
					if clean := pathpkg.Clean("/" + path); clean != "/"+path {
						t.Errorf("%s opens %q, which is %q", r.Name, path, clean)
					}
				}
			}
			for _, s := range texts {
				if strings.HasPrefix(s, "-") || strings.ContainsAny(s, " \t\n,*?!\"'\\$`;&|<>") {
					t.Errorf("%s has %q", r.Name, s)
				}
			}
			if access.CheckText("", r.Description, maxDescription) != nil {
				t.Errorf("description %q", r.Description)
			}
			for _, h := range r.Hosts {
				if len(c.ByHost(h)) == 0 {
					t.Errorf("host %q leads nowhere", h)
				}
			}
		}
	})
}

func BenchmarkParse(b *testing.B) {
	var s strings.Builder
	s.WriteString("resources:\n")
	for i := range 1000 {
		fmt.Fprintf(&s, "  ssh/web-%d:\n    labels: {env: prod}\n    logins: [deploy, root]\n    hosts: [web-%d, web-%d.example.com]\n", i, i, i)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Parse("catalog.yaml", []byte(s.String())); err != nil {
			b.Fatal(err)
		}
	}
}
