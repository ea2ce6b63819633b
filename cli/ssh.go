package cli

import (
	"errors"
	"net"
	"os"
	"os/exec"
	"strings"

	"github.com/urfave/cli/v2"

	"hallpass/access"
)

// sshLine is the command that logs in with the certificate beside base. ssh
// finds it there by itself if identity is the private key.
func sshLine(base, identity, login string, r access.Resource) []string {
	host, port := address(r)
	line := []string{"ssh", "-o", "IdentitiesOnly=yes", "-i", literal(identity)}
	if identity != base {
		line = append(line, "-o", "CertificateFile="+literal(base+"-cert.pub"))
	}
	if port != "" && port != "22" {
		line = append(line, "-p", port)
	}
	return append(line, login+"@"+host)
}

// address is where ssh connects: a host, and a port or "".
func address(r access.Resource) (host, port string) {
	if r.Address == "" {
		return hosts(r)[0], ""
	}
	if host, port, err := net.SplitHostPort(r.Address); err == nil {
		return host, port
	}
	return strings.Trim(r.Address, "[]"), ""
}

// shellLine writes a command so that a POSIX shell reads it as it is.
func shellLine(argv []string) string {
	words := make([]string, len(argv))
	for i, w := range argv {
		words[i] = w
		if w == "" || strings.ContainsFunc(w, func(r rune) bool {
			return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("@%+=:,./_-", r)
		}) {
			words[i] = "'" + strings.ReplaceAll(safe(w), "'", `'\''`) + "'"
		}
	}
	return strings.Join(words, " ")
}

func (a *app) sshCommand() *cli.Command {
	return &cli.Command{
		Name:      "ssh",
		Usage:     "log in, asking for access first if need be",
		ArgsUsage: "[LOGIN@]NAME [-- ssh arguments]",
		Category:  categoryAccess,
		Description: "A grant that is live is used again. What follows -- goes to ssh: a command,\n" +
			"or options and a command, such as: hallpass ssh web-1 -- -L 8080:localhost:80 -N",
		Flags: requestFlags(),
		Action: func(c *cli.Context) error {
			if name := c.Args().First(); name == "" || strings.HasSuffix(name, "@") {
				return usagef("[LOGIN@]NAME is missing").withHint("hallpass ssh [LOGIN@]NAME [-- ssh arguments]")
			}
			name, login := c.Args().First(), ""
			if i := strings.LastIndexByte(name, '@'); i >= 0 {
				login, name = name[:i], name[i+1:]
			}
			var w wish
			if err := a.wishFrom(c, &w); err != nil {
				return err
			}
			w.login = login
			if err := a.target(name, &w); err != nil {
				return err
			}
			if w.resource.Kind != "ssh" {
				return usagef("%s is not a host", w.resource.Name).withHint("hallpass run %s -- COMMAND", w.resource.Name)
			}
			f, err := a.folder()
			if err != nil {
				return err
			}
			if err := a.obtain(f, w, nil); err != nil {
				return err
			}
			return a.runSSH(f, w, c.Args().Tail())
		},
	}
}

// runSSH becomes ssh.
func (a *app) runSSH(f *folder, w wish, rest []string) error {
	path, err := exec.LookPath("ssh")
	if err != nil {
		return errors.New("ssh is not installed")
	}
	base := f.base(w.login, hosts(w.resource)[0])
	identity := base
	if _, err := os.Stat(base); err != nil {
		identity += ".pub" // the agent has the private key
	}
	return a.exec(path, sshCommandLine(base, identity, w, rest), os.Environ())
}

// sshCommandLine runs ssh with the certificate beside base. The host keeps the
// name that people know it by, so that their own ssh configuration for it
// applies; catalog and certificate win. Options in rest go in front of the
// host, a command behind it.
func sshCommandLine(base, identity string, w wish, rest []string) []string {
	name := hosts(w.resource)[0]
	argv := []string{"ssh", "-i", literal(identity), "-o", `CertificateFile="` + literal(base+"-cert.pub") + `"`, "-o", "IdentitiesOnly=yes", "-l", w.login}
	host, port := address(w.resource)
	if host != name {
		argv = append(argv, "-o", "HostName="+host)
	}
	if port != "" {
		argv = append(argv, "-p", port)
	}
	options, command := splitSSH(rest)
	argv = append(append(argv, options...), name)
	return append(argv, command...)
}

// literal writes a path for ssh_config(5), where "%" begins a token.
func literal(path string) string { return strings.ReplaceAll(path, "%", "%%") }

// splitSSH divides what follows the host in "ssh host …" into ssh's own
// options and the command, by the options of ssh(1) that take a value.
func splitSSH(args []string) (options, command []string) {
	const valued = "BbcDEeFIiJLlmOopQRSWw"
	for i := 0; i < len(args); i++ {
		word := args[i]
		if word == "--" {
			return args[:i], args[i+1:]
		}
		if len(word) < 2 || word[0] != '-' {
			return args[:i], args[i:]
		}
		if at := strings.IndexAny(word[1:], valued); at >= 0 && at+2 == len(word) {
			i++ // its value is the next word
		}
	}
	return args, nil
}

// obtain makes sure that there is a live grant for w, asking for one or
// joining one that is under way. Of several processes one asks, the others
// wait for it. fill completes a wish that has to be asked for, if not nil.
func (a *app) obtain(f *folder, w wish, fill func(*wish) error) error {
	host := hosts(w.resource)[0]
	if _, ok := f.live(w.login, host); ok {
		return nil
	}
	unlock, err := f.lock(a.ctx, w.login, w.resource.Name, func() {
		a.err.Printf("waiting for another hallpass that asks for %s as %s\n", w.resource.Name, w.login)
	})
	if err != nil {
		return err
	}
	defer unlock()
	if _, ok := f.live(w.login, host); ok {
		return nil
	}
	return a.withBackend(func(b backend) error {
		if id, ok := a.joinable(f, b, w); ok {
			_, err := a.finish(b, id, 0)
			return err
		}
		if fill != nil {
			if err := fill(&w); err != nil {
				return err
			}
		}
		id, err := a.submit(b, w)
		if err != nil {
			return err
		}
		_, err = a.finish(b, id, 0)
		return err
	})
}

// joinable finds a request for the same thing that this machine has under
// way.
func (a *app) joinable(f *folder, b backend, w wish) (id string, ok bool) {
	for _, k := range f.underWay() {
		if k.request.Resource != w.resource.Name || k.request.Login != w.login || k.request.Start != nil || k.request.Command != "" || k.Alone {
			continue
		}
		s, err := b.Status(a.ctx, k.request.ID)
		switch {
		case err == nil && !s.State.Final() && s.State != access.StateRevoking:
			return k.request.ID, true
		case err == nil, access.CodeOf(err) == access.CodeNotFound, access.CodeOf(err) == access.CodeEnded:
			_ = f.forget(k.request.ID) // it is swept sooner or later
		}
	}
	return "", false
}
