package cli

import (
	"strings"

	"github.com/urfave/cli/v2"
	"golang.org/x/crypto/ssh"

	"hallpass/directory"
	"hallpass/internal/wording"
)

func (a *app) directoryCommand() *cli.Command {
	flags := []cli.Flag{&cli.StringFlag{Name: "directory", Usage: "use this `FILE` instead of the configured one", TakesFile: true}}
	return &cli.Command{
		Name:     "directory",
		Usage:    "check who is who",
		Category: categoryOperate,
		Subcommands: []*cli.Command{
			{
				Name:      "check",
				Usage:     "check the file, and list users with their groups and keys",
				ArgsUsage: "[FILE]",
				Flags:     flags,
				Action:    a.directoryCheck,
			},
			{
				Name:  "allowed-signers",
				Usage: "print the keys for ssh-keygen -Y verify",
				Description: "With this file OpenSSH alone can check any statement:\n\n" +
					"hallpass directory allowed-signers > allowed_signers\n" +
					"ssh-keygen -Y verify -f allowed_signers -I alice -n request@hallpass -s request.sig < request.json",
				ArgsUsage: "[FILE]",
				Flags:     flags,
				Action:    a.directoryAllowedSigners,
			},
		},
	}
}

// DirectoryUser is one user as "directory check" prints it as JSON.
type DirectoryUser struct {
	Name   string   `json:"name"`
	Groups []string `json:"groups"`
	Keys   []string `json:"keys"` // "type fingerprint"
	PIN    bool     `json:"pin,omitempty"`
}

// DirectoryCheck is what "directory check" prints as JSON.
type DirectoryCheck struct {
	Digest string          `json:"digest"`
	Users  []DirectoryUser `json:"users"`
}

// theDirectory is the one that the command line names, or the configured one.
func (a *app) theDirectory(c *cli.Context) (*directory.Directory, error) {
	args, err := arguments(c, "[FILE]")
	if err != nil {
		return nil, err
	}
	file := args[0]
	if file == "" {
		file = c.String("directory")
	}
	if err := chosen(&a.setup.directory, file, directory.Parse); err != nil {
		return nil, err
	}
	return a.directory()
}

func (a *app) directoryCheck(c *cli.Context) error {
	dir, err := a.theDirectory(c)
	if err != nil {
		return err
	}
	out := DirectoryCheck{Digest: dir.Digest(), Users: []DirectoryUser{}}
	for _, u := range dir.Users() {
		user := DirectoryUser{Name: u.Name, Groups: append([]string{}, u.Groups...), Keys: []string{}, PIN: dir.PinRequired(u.Name)}
		for _, k := range dir.Keys(u.Name) {
			user.Keys = append(user.Keys, k.Type()+" "+ssh.FingerprintSHA256(k))
		}
		out.Users = append(out.Users, user)
	}
	return a.print(out, func(p *printer) {
		rows := make([][]any, 0, len(out.Users))
		for _, u := range out.Users {
			keys := u.Keys
			if len(keys) == 0 {
				keys = []string{"none: can't sign anything"}
			}
			for i, k := range keys {
				name, groups := u.Name, strings.Join(u.Groups, ", ")
				if i > 0 {
					name, groups = " ", " "
				}
				if u.PIN {
					k += " (PIN)"
				}
				rows = append(rows, []any{name, groups, k})
			}
		}
		p.table([]string{"USER", "GROUPS", "KEY"}, rows)
		p.Printf("\n%s, no problems found\n", wording.Count(len(out.Users), "user"))
	})
}

func (a *app) directoryAllowedSigners(c *cli.Context) error {
	dir, err := a.theDirectory(c)
	if err != nil {
		return err
	}
	_, err = a.out.Write(dir.AllowedSigners())
	return err
}
