package lookup

import (
	"fmt"
	"net/netip"
	"net/url"
	"path/filepath"
	"strings"
	"time"
	_ "time/tzdata" // calendars name time zones

	"hallpass/access"
	"hallpass/internal/trusted"
	"hallpass/internal/wording"
	"hallpass/internal/yamlfile"
	"hallpass/notify"
)

// Load reads a file that lists look-ups. Files that it names are relative to
// it, and have to be their owner's alone.
func Load(path string) (*Set, error) {
	data, err := trusted.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read look-ups: %w", err)
	}
	return parse(path, data)
}

// entry is a look-up as it is written.
type entry struct {
	kind, url, authorizationFile, timeout, domain string
	pick, users                                   map[string]string
}

func parse(path string, data []byte) (*Set, error) {
	root, err := yamlfile.Parse(path, data)
	if err != nil {
		return nil, err
	}
	s := &Set{lookups: map[string]*lookup{}, now: time.Now}
	var allow []netip.Prefix
	err = root.Fields(map[string]func(yamlfile.Node) error{
		"allow": func(n yamlfile.Node) (err error) {
			allow, err = n.Networks()
			return err
		},
		"lookups": func(n yamlfile.Node) error {
			return n.Each(func(name string, at, v yamlfile.Node) error {
				if err := access.CheckName("look-up", name); err != nil {
					return at.Wrap(err)
				}
				if len(s.lookups) == maxLookups {
					return at.Errorf("more than %d look-ups", maxLookups)
				}
				e, err := readEntry(v)
				if err != nil {
					return err
				}
				l, err := e.lookup(filepath.Dir(path))
				if err != nil {
					return at.Wrap(fmt.Errorf("look-up %s: %w", name, err))
				}
				l.name, s.lookups[name] = name, l
				return nil
			})
		},
	})
	if err != nil {
		return nil, err
	}
	if len(s.lookups) == 0 {
		return nil, root.Errorf("there are no look-ups")
	}
	s.client = notify.Client(allow)
	return s, nil
}

func readEntry(v yamlfile.Node) (entry, error) {
	e := entry{pick: map[string]string{}, users: map[string]string{}}
	text := func(into *string) func(yamlfile.Node) error {
		return func(n yamlfile.Node) (err error) {
			*into, err = n.Checked(func(s string) error { return access.CheckText("it", s, 4096) })
			return err
		}
	}
	texts := func(into map[string]string, check func(k, v string) error) func(yamlfile.Node) error {
		return func(n yamlfile.Node) error {
			return n.Each(func(name string, at, v yamlfile.Node) error {
				if _, ok := into[name]; ok {
					return at.Errorf("%q is there twice", wording.Short(name))
				}
				value, err := v.Checked(func(s string) error { return check(name, s) })
				into[name] = value
				return err
			})
		}
	}
	return e, v.Fields(map[string]func(yamlfile.Node) error{
		"kind": text(&e.kind), "url": text(&e.url), "authorization_file": text(&e.authorizationFile), "timeout": text(&e.timeout), "domain": text(&e.domain),
		"pick": texts(e.pick, func(k, v string) error {
			if strings.Trim(k, "abcdefghijklmnopqrstuvwxyz0123456789_") != "" || k == "" || v == "" {
				return fmt.Errorf("pick takes names of a-z 0-9 _, each with a path such as fields.status.name")
			}
			return access.CheckText("path", v, access.MaxPath)
		}),
		"users": texts(e.users, func(k, v string) error { return access.CheckName("user", v) }),
	})
}

// lookup makes what an entry says, and refuses what doesn't go with its kind.
func (e *entry) lookup(dir string) (*lookup, error) {
	l := &lookup{url: e.url, timeout: DefaultTimeout}
	who := people{users: e.users, domain: strings.ToLower(e.domain)}
	named := len(e.users) > 0 || e.domain != ""
	switch e.kind {
	case "http-json":
		if len(e.pick) == 0 || named {
			return nil, fmt.Errorf("kind http-json takes pick, and neither users nor domain")
		}
		l.value = picker(e.pick)
	case "pagerduty", "ical":
		if !named || len(e.pick) > 0 {
			return nil, fmt.Errorf("kind %s takes users or domain, which say who is who, and no pick", e.kind)
		}
		l.value = who.pagerDuty
		if e.kind == "ical" {
			l.value = who.calendar
		}
	default:
		return nil, fmt.Errorf("kind %q is not http-json, pagerduty or ical", wording.Short(e.kind))
	}
	u, err := url.Parse(strings.NewReplacer("{ticket}", "x", "{requester}", "x", "{resource}", "x").Replace(e.url))
	if err != nil || u.Host == "" || u.User != nil || u.Scheme != "https" && u.Scheme != "http" {
		return nil, fmt.Errorf("its url is not https://… without a password in it")
	}
	if host := strings.SplitN(e.url, "/", 4); len(host) < 4 && strings.Contains(e.url, "{") || strings.Contains(strings.Join(host[:min(len(host), 3)], "/"), "{") {
		return nil, fmt.Errorf("what a request says can't be part of where its url leads")
	}
	if e.timeout != "" {
		d, err := time.ParseDuration(e.timeout)
		if err != nil || d <= 0 || d > MaxTimeout {
			return nil, fmt.Errorf("timeout %q is not more than 0 and at most %s", wording.Short(e.timeout), MaxTimeout)
		}
		l.timeout = d
	}
	if e.authorizationFile != "" {
		if l.authorization, err = notify.ReadSecret(dir, e.authorizationFile); err != nil {
			return nil, err
		}
		if err := access.CheckText("authorization", l.authorization, 4096); err != nil || l.authorization == "" {
			return nil, fmt.Errorf("authorization_file holds no header such as Bearer …")
		}
	}
	return l, nil
}
