package cli

import (
	"strings"

	"github.com/urfave/cli/v2"

	"hallpass/worker"
)

func (a *app) workerCommand() *cli.Command {
	return &cli.Command{
		Name:     "worker",
		Usage:    "run a worker on the configured Temporal, in one role or several",
		Category: categoryOperate,
		Description: "A role opens what it needs and nothing else: without an issuer's role the CA key\n" +
			"isn't read. Run the roles apart where that matters. Logs JSON to standard error;\n" +
			"the first interrupt stops it when running activities are done, the second at once.",
		Flags: []cli.Flag{
			&cli.StringSliceFlag{
				Name: "role", Usage: "serve this `ROLE`: " + strings.Join(worker.Roles(), ", ") + "; may be repeated",
				DefaultText: "workflows, the issuers that have a key, the service if it has an address",
			},
		},
		Action: func(c *cli.Context) error {
			a.daemon = true
			if _, err := arguments(c); err != nil {
				return err
			}
			cfg, err := a.settings()
			if err != nil {
				return err
			}
			roles := c.StringSlice("role")
			if len(roles) == 0 {
				roles = cfg.Roles()
			}
			cfg.Version = build().Version
			return worker.Run(a.ctx, cfg, roles, worker.NewLog(a.err))
		},
	}
}
