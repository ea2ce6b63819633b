package cli

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"hallpass/access"
)

func (a *app) sshConfigCommand() *cli.Command {
	return &cli.Command{
		Name:     "ssh-config",
		Usage:    "make plain ssh, scp, sftp and git ask for access by themselves",
		Category: categoryAccess,
		Description: "Prints what ssh needs to know of the catalog's hosts. With --install it writes\n" +
			"that to $HALLPASS_HOME/ssh_config and has ~/.ssh/config include it, at the end,\n" +
			"where your own settings win. Run it again when the catalog has changed.",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "install", Usage: "write it and include it in ~/.ssh/config"},
			&cli.BoolFlag{Name: "print", Usage: "print it (the default)"},
		},
		Action: func(c *cli.Context) error {
			if _, err := arguments(c); err != nil {
				return err
			}
			if c.Bool("install") && c.Bool("print") {
				return usagef("--install and --print exclude each other")
			}
			f, err := a.folder()
			if err != nil {
				return err
			}
			cat, err := a.catalog()
			if err != nil {
				return err
			}
			self, err := a.self()
			if err != nil {
				return err
			}
			config := sshConfig(cat.Resources(), f.certs(), self)
			if !c.Bool("install") {
				_, err := a.out.Write(config)
				return err
			}
			home, err := a.home()
			if err != nil {
				return err
			}
			if err := f.prepare(); err != nil {
				return err
			}
			file, user := filepath.Join(f.path, "ssh_config"), filepath.Join(home, ".ssh", "config")
			if err := writeFile(file, config); err != nil {
				return err
			}
			added, err := include(user, file)
			if err != nil {
				return fmt.Errorf("include it in %s: %w", user, err)
			}
			a.out.Printf("Wrote %s.\n", file)
			if added {
				a.out.Printf("%s includes it, at its end.\n", user)
			} else {
				a.out.Printf("%s included it already.\n", user)
			}
			return nil
		},
	}
}

// self is how ssh's shell calls this program.
func (a *app) self() (string, error) {
	path, err := os.Executable()
	if err != nil {
		return "", err
	}
	line := []string{path}
	if found, err := exec.LookPath("hallpass"); err == nil {
		if same, _ := filepath.EvalSymlinks(found); same == path || found == path {
			line[0] = "hallpass"
		}
	}
	if a.config != "" {
		config, err := filepath.Abs(a.config)
		if err != nil {
			return "", err
		}
		line = append(line, "--config", config)
	}
	return shellLine(line), nil
}

// sshConfig writes ssh_config(5) for resources. The first block of each says
// how to log in, the second keeps ssh from trying while there is no grant:
// "Match exec" runs before ssh connects, so the certificate that ensure fetched
// is used at once, and a denial ends in ensure's line alone.
func sshConfig(resources []access.Resource, certs, self string) []byte {
	var b bytes.Buffer
	b.WriteString("# Written by hallpass ssh-config. Run it again when the catalog has changed.\n")
	for _, r := range resources {
		if r.Kind != "ssh" {
			continue
		}
		names := strings.Join(hosts(r), ",")
		fmt.Fprintf(&b, "\nMatch originalhost %s\n", names)
		host, port := address(r)
		if r.Address != "" && !slices.Contains(hosts(r), host) && hostWord(host) {
			fmt.Fprintf(&b, "  HostName %s\n", host)
		}
		if port != "" && port != "22" {
			fmt.Fprintf(&b, "  Port %s\n", port)
		}
		if len(r.Logins) == 1 {
			fmt.Fprintf(&b, "  User %s\n", r.Logins[0])
		}
		base := literal(certs) + "/%r@%n"
		fmt.Fprintf(&b, "  CertificateFile \"%s-cert.pub\"\n  IdentityFile \"%s\"\n  IdentitiesOnly yes\n", base, base)
		fmt.Fprintf(&b, "Match originalhost %s !exec \"%s ensure %%n %%r %%p\"\n", names, literal(self))
		b.WriteString("  ProxyCommand false\n  LogLevel QUIET\n")
	}
	return b.Bytes()
}

// include adds file to the end of the user's ssh configuration, unless it is
// there. "Match all" ends whatever block stands before it.
func include(config, file string) (added bool, err error) {
	line := fmt.Sprintf("Include \"%s\"", literal(file))
	if err := os.MkdirAll(filepath.Dir(config), 0o700); err != nil {
		return false, err
	}
	if target, err := filepath.EvalSymlinks(config); err == nil {
		config = target // a link into somebody's dotfiles stays one
	}
	old, err := os.ReadFile(config)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	for _, l := range strings.Split(string(old), "\n") {
		if strings.TrimSpace(l) == line {
			return false, nil
		}
	}
	mode := fs.FileMode(0o600)
	if info, err := os.Stat(config); err == nil {
		mode = info.Mode().Perm()
	}
	next := old
	if len(next) > 0 && next[len(next)-1] != '\n' {
		next = append(next, '\n')
	}
	if len(next) > 0 {
		next = append(next, '\n')
	}
	next = append(next, "# Added by hallpass ssh-config --install\nMatch all\n  "+line+"\n"...)
	if err := writeFile(config, next); err != nil {
		return false, err
	}
	return true, os.Chmod(config, mode)
}
