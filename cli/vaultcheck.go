package cli

import (
	"github.com/urfave/cli/v2"

	"hallpass/access"
)

func (a *app) vaultCommand() *cli.Command {
	flags := func(more ...cli.Flag) []cli.Flag {
		return append(more, &cli.StringFlag{Name: "catalog", Usage: "use this `FILE` instead of the configured one", TakesFile: true})
	}
	return &cli.Command{
		Name:     "vault",
		Usage:    "set Vault up for hallpass, and check that it is",
		Category: categoryOperate,
		Subcommands: []*cli.Command{
			{
				Name:  "setup",
				Usage: "print what Vault has to be told, as commands of vault's",
				Description: "From the catalog: one policy for each action, which opens one path; the token role; the\n" +
					"issuer's own policy; its login. hallpass changes nothing in Vault: read it, and run it\n" +
					"as an operator of Vault, again whenever the catalog's resources of kind vault change:\n\n" +
					"hallpass vault setup --print | sh",
				Flags:  flags(&cli.BoolFlag{Name: "print", Usage: "print it, which is all that this does"}),
				Action: a.vaultSetup,
			},
			{
				Name:  "check",
				Usage: "find out whether Vault is set up as the catalog needs it",
				Description: "Logs in as the issuer, or with VAULT_TOKEN, which sees more of how engines are set up.\n" +
					"It gets the secret of each action once, with a token that lives a minute, and takes it\n" +
					"back: for a moment, databases have one user more.",
				Flags:  flags(),
				Action: a.vaultCheck,
			},
		},
	}
}

func (a *app) vaultSetup(c *cli.Context) error {
	if _, err := arguments(c); err != nil {
		return err
	}
	cat, err := a.theCatalog(c)
	if err != nil {
		return err
	}
	cfg, err := a.settings()
	if err != nil {
		return err
	}
	plan := cfg.PlanVault(cat.Resources())
	if len(plan.Grants) == 0 {
		return failf(ExitNotFound, "the catalog has no resources of kind vault").withHint("see docs/vault.md; and so that nothing can be minted for what it named before: vault delete auth/token/roles/%s", plan.TokenRole)
	}
	return a.print(plan, func(p *printer) { p.Printf("%s", markup(plan.Script())) })
}

func (a *app) vaultCheck(c *cli.Context) error {
	if _, err := arguments(c); err != nil {
		return err
	}
	cat, err := a.theCatalog(c)
	if err != nil {
		return err
	}
	return a.checkVault(cat.Resources())
}

// checkVault tries in Vault what these resources name.
func (a *app) checkVault(resources []access.Resource) error {
	cfg, err := a.settings()
	if err != nil {
		return err
	}
	findings, err := cfg.CheckVault(a.ctx, resources, a.env("VAULT_TOKEN"))
	if err != nil {
		return err
	}
	if err := a.showFindings(findings); err != nil {
		return err
	}
	return worst(findings)
}
