package notify

import (
	"fmt"
	"net"
	"net/mail"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"hallpass/access"
	"hallpass/internal/trusted"
	"hallpass/internal/wording"
	"hallpass/internal/yamlfile"
)

// maxChannels bounds how many there are.
const maxChannels = 32

// Load reads a file that lists channels. Files that it names are relative to
// it, and those that hold secrets have to be their owner's alone.
func Load(path string) (*Channels, error) {
	data, err := trusted.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read channels: %w", err)
	}
	return parse(path, data)
}

// entry is a channel as it is written.
type entry struct {
	typ, url, urlFile, secretFile         string
	server, tls, from, user, passwordFile string
	to, groups                            []string
	reason                                bool
	at                                    yamlfile.Node
}

func parse(path string, data []byte) (*Channels, error) {
	root, err := yamlfile.Parse(path, data)
	if err != nil {
		return nil, err
	}
	out := &Channels{}
	var allow []netip.Prefix
	var entries []entry
	err = root.Fields(map[string]func(yamlfile.Node) error{
		"allow": func(n yamlfile.Node) (err error) {
			allow, err = n.Networks()
			return err
		},
		"channels": func(n yamlfile.Node) error {
			return n.Each(func(name string, at, v yamlfile.Node) error {
				if err := access.CheckName("channel", name); err != nil {
					return at.Wrap(err)
				}
				if len(entries) == maxChannels {
					return at.Errorf("more than %d channels", maxChannels)
				}
				e, err := readEntry(at, v)
				entries = append(entries, e)
				out.Channels = append(out.Channels, Channel{Name: name, Groups: e.groups, Reason: e.reason})
				return err
			})
		},
	})
	if err != nil {
		return nil, err
	}
	if len(entries) == 0 {
		return nil, root.Errorf("there are no channels")
	}
	post := newPoster(allow)
	for i, e := range entries {
		if out.Channels[i].Sender, err = e.sender(filepath.Dir(path), post); err != nil {
			return nil, e.at.Wrap(fmt.Errorf("channel %s: %w", out.Channels[i].Name, err))
		}
	}
	return out, nil
}

func readEntry(at, v yamlfile.Node) (entry, error) {
	e := entry{at: at, tls: tlsStart}
	text := func(into *string) func(yamlfile.Node) error {
		return func(n yamlfile.Node) (err error) {
			*into, err = n.Checked(func(s string) error { return access.CheckText("it", s, 4096) })
			return err
		}
	}
	return e, v.Fields(map[string]func(yamlfile.Node) error{
		"type": text(&e.typ), "url": text(&e.url), "url_file": text(&e.urlFile), "secret_file": text(&e.secretFile),
		"server": text(&e.server), "tls": text(&e.tls), "from": text(&e.from), "user": text(&e.user), "password_file": text(&e.passwordFile),
		"to": func(n yamlfile.Node) (err error) {
			e.to, err = n.Texts(checkMail)
			return err
		},
		"groups": func(n yamlfile.Node) (err error) {
			e.groups, err = n.Texts(func(s string) error { return access.CheckName("group", s) })
			return err
		},
		"reason": func(n yamlfile.Node) error {
			s, err := n.Checked(func(s string) error {
				if s != "included" && s != "left-out" {
					return fmt.Errorf("reason is included or left-out, not %q", wording.Short(s))
				}
				return nil
			})
			e.reason = s == "included"
			return err
		},
	})
}

// sender makes what sends by an entry, and refuses what doesn't go with its
// type.
func (e entry) sender(dir string, post *poster) (Sender, error) {
	web := map[string]string{"url": e.url, "url_file": e.urlFile, "secret_file": e.secretFile}
	post25 := map[string]string{"server": e.server, "from": e.from, "user": e.user, "password_file": e.passwordFile, "to": strings.Join(e.to, " ")}
	unwanted := func(of map[string]string) error {
		for _, name := range []string{"url", "url_file", "secret_file", "server", "from", "user", "password_file", "to"} {
			if of[name] != "" {
				return fmt.Errorf("type %s has no %s", e.typ, name)
			}
		}
		return nil
	}
	if e.typ == "email" {
		if err := unwanted(web); err != nil {
			return nil, err
		}
		return e.email(dir)
	}
	if err := unwanted(post25); err != nil {
		return nil, err
	}
	to, err := e.address(dir)
	if err != nil {
		return nil, err
	}
	if e.typ != "webhook" && e.secretFile != "" {
		return nil, fmt.Errorf("type %s has no secret_file", e.typ)
	}
	switch e.typ {
	case "slack":
		return &Slack{to, post}, nil
	case "teams":
		return &Teams{to, post}, nil
	case "webhook":
		if e.secretFile == "" {
			return nil, fmt.Errorf("a webhook needs a secret_file, by which receivers know who sends")
		}
		text, err := ReadSecret(dir, e.secretFile)
		if err != nil {
			return nil, err
		}
		secret, err := parseSecret(text)
		return &Webhook{url: to, secret: secret, poster: post, now: time.Now}, err
	}
	return nil, fmt.Errorf("type %q is not webhook, slack, teams or email", wording.Short(e.typ))
}

// address is where to post to.
func (e entry) address(dir string) (string, error) {
	to := e.url
	switch {
	case (e.url == "") == (e.urlFile == ""):
		return "", fmt.Errorf("it takes a url, or a url_file where the address is a secret")
	case e.urlFile != "":
		text, err := ReadSecret(dir, e.urlFile)
		if err != nil {
			return "", err
		}
		to = text
	}
	u, err := url.Parse(to)
	if err != nil || u.Host == "" || u.User != nil || u.Scheme != "https" && u.Scheme != "http" {
		return "", fmt.Errorf("its address is not https://… without a password in it")
	}
	return to, nil
}

func (e entry) email(dir string) (Sender, error) {
	m := &Email{server: e.server, tls: e.tls, from: e.from, to: e.to, user: e.user}
	if _, _, err := net.SplitHostPort(e.server); err != nil {
		return nil, fmt.Errorf("server %q is not host:port", wording.Short(e.server))
	}
	if e.tls != tlsStart && e.tls != tlsAlways && e.tls != tlsNone {
		return nil, fmt.Errorf("tls is %s, %s or %s, not %q", tlsStart, tlsAlways, tlsNone, wording.Short(e.tls))
	}
	if err := checkMail(e.from); err != nil {
		return nil, fmt.Errorf("from: %w", err)
	}
	if len(e.to) == 0 {
		return nil, fmt.Errorf("it takes at least one address in to")
	}
	switch {
	case (e.user == "") != (e.passwordFile == ""):
		return nil, fmt.Errorf("user and password_file go together")
	case e.user != "" && e.tls == tlsNone:
		return nil, fmt.Errorf("a password isn't sent without TLS")
	case e.user != "":
		var err error
		if m.password, err = ReadSecret(dir, e.passwordFile); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// checkMail takes a bare address.
func checkMail(s string) error {
	if a, err := mail.ParseAddress(s); err != nil || a.Address != s {
		return fmt.Errorf("%q is not an e-mail address", wording.Short(s))
	}
	return nil
}

// ReadSecret reads the first line of a file that is its owner's alone.
func ReadSecret(dir, path string) (string, error) {
	if !filepath.IsAbs(path) {
		path = filepath.Join(dir, path)
	}
	info, err := os.Stat(path)
	if err != nil {
		return "", err
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return "", access.Errorf(access.CodeForbidden, "%s has mode %04o, so others can read it; run: chmod 600 %s", path, mode, path)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	line, _, _ := strings.Cut(string(data), "\n")
	return strings.TrimSpace(line), nil
}
