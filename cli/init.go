package cli

import (
	"strings"

	"github.com/urfave/cli/v2"

	"hallpass/worker"
)

func (a *app) initCommand() *cli.Command {
	return &cli.Command{
		Name:     "init",
		Usage:    "make keys, a configuration and example files in a folder, and start nothing",
		Category: categoryHallpass,
		Description: "For workers of your own: what hallpass dev makes at its first start. What is there is\n" +
			"left alone. The keys are its owner's alone; keep them where you keep such keys.",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "dir", Usage: "in `FOLDER`", DefaultText: "$XDG_DATA_HOME/hallpass/dev", TakesFile: true},
		},
		Action: func(c *cli.Context) error {
			if _, err := arguments(c); err != nil {
				return err
			}
			if a.config != "" {
				return usagef("init makes a configuration, it reads none").withHint("hallpass init --dir FOLDER")
			}
			made, err := worker.Init(c.String("dir"), a.env)
			if err != nil {
				return err
			}
			return a.print(made, func(p *printer) {
				if len(made.Made) == 0 {
					p.Printf("%s has all of it already; nothing was changed.\n", made.Dir)
				} else {
					p.Printf("Made in %s: %s.\n", made.Dir, strings.Join(made.Made, ", "))
				}
				p.Printf("Edit policy.yaml, directory.yaml and catalog.yaml, and say in hallpass.yaml where Temporal is. Then:\n")
				p.Printf("  export HALLPASS_CONFIG=%s\n", shellLine([]string{made.Config}))
				p.Printf("  hallpass config check\n")
				p.Printf("  hallpass worker\n")
			})
		},
	}
}
