package cli

import (
	"fmt"
	"strings"

	"github.com/urfave/cli/v2"

	"hallpass/access"
	"hallpass/catalog"
	"hallpass/internal/wording"
)

func (a *app) catalogCommand() *cli.Command {
	return &cli.Command{
		Name:     "catalog",
		Usage:    "check what there is to ask for",
		Category: categoryOperate,
		Subcommands: []*cli.Command{{
			Name:      "check",
			Usage:     "check the file, and list resources with what they open",
			ArgsUsage: "[FILE]",
			Description: "With --vault it also tries what resources of kind vault name, in Vault itself, as\n" +
				"hallpass vault check does.",
			Flags: []cli.Flag{
				&cli.StringFlag{Name: "catalog", Usage: "use this `FILE` instead of the configured one", TakesFile: true},
				&cli.BoolFlag{Name: "vault", Usage: "try each action in Vault: whether it is there, and gives a lease"},
			},
			Action: a.catalogCheck,
		}},
	}
}

// CatalogCheck is what "catalog check" prints as JSON.
type CatalogCheck struct {
	Digest    string            `json:"digest"`
	Resources []access.Resource `json:"resources"`
}

// theCatalog is the one that the command line names, or the configured one.
func (a *app) theCatalog(c *cli.Context) (*catalog.Catalog, error) {
	args, err := arguments(c, "[FILE]")
	if err != nil {
		return nil, err
	}
	file := args[0]
	if file == "" {
		file = c.String("catalog")
	}
	if err := chosen(&a.setup.catalog, file, catalog.Parse); err != nil {
		return nil, err
	}
	return a.catalog()
}

func (a *app) catalogCheck(c *cli.Context) error {
	cat, err := a.theCatalog(c)
	if err != nil {
		return err
	}
	if c.Bool("vault") {
		return a.checkVault(cat.Resources())
	}
	out := CatalogCheck{Digest: cat.Digest(), Resources: cat.Resources()}
	return a.print(out, func(p *printer) {
		var rows [][]any
		for _, r := range out.Resources {
			name := r.Name
			for _, line := range opens(r) {
				rows = append(rows, []any{name, line})
				name = " "
			}
		}
		p.table([]string{"RESOURCE", "OPENS"}, rows)
		p.Printf("\n%s, no problems found\n", wording.Count(len(out.Resources), "resource"))
	})
}

// opens says what a resource is, a line for each thing that can be asked for.
func opens(r access.Resource) []string {
	switch r.Kind {
	case catalog.KindSSH:
		return []string{strings.Join(r.Logins, ", ") + " on " + r.Address}
	case catalog.KindVault:
		var lines []string
		for _, action := range r.Actions {
			verb := "read"
			if r.Roles[action].With != nil {
				verb = "write"
			}
			lines = append(lines, fmt.Sprintf("%s: %s %s", action, verb, r.VaultPath(action)))
		}
		return lines
	}
	return []string{"nothing: there is no issuer for kind " + r.Kind}
}
