package cli

import (
	"github.com/urfave/cli/v2"
)

func (a *app) ensureCommand() *cli.Command {
	return &cli.Command{
		Name:      "ensure",
		Usage:     "make sure that plain ssh can log in; called by ssh itself",
		ArgsUsage: "HOST LOGIN [PORT]",
		Category:  categoryAccess,
		Description: "ssh calls this as hallpass ssh-config has it say. With a live grant it is silent\n" +
			"and quick. Otherwise it asks for one on the terminal; without a terminal it ends.",
		Action: func(c *cli.Context) error {
			args, err := arguments(c, "HOST", "LOGIN", "[PORT]")
			if err != nil {
				return err
			}
			return a.ensure(args[0], args[1])
		},
	}
}

// ensure runs before every ssh to a host of ours, and on "ssh -G" and over a
// live ControlMaster too. So what comes first needs no configuration, no
// catalog and no network, and what asks does so only where somebody can see
// the question.
func (a *app) ensure(host, login string) error {
	f, err := a.folder()
	if err != nil {
		return err
	}
	if _, ok := f.live(login, host); ok {
		return nil
	}
	tty, err := a.console()
	if err != nil || !a.err.tty {
		if err == nil {
			_ = tty.Close()
		}
		return failf(ExitError, "no live grant for %s@%s, and no terminal to ask for one on", login, host).
			withHint("%s", shellLine([]string{"hallpass", "ssh", login + "@" + host}))
	}
	defer func() { _ = tty.Close() }()
	w := wish{login: login}
	if err := a.target(host, &w); err != nil {
		return err
	}
	return a.obtain(f, w, func(w *wish) error {
		newPrinter(tty, a.env).Printf("Access to %s as %s has to be asked for.\n", w.resource.Name, w.login)
		w.reason, err = ask(a.ctx, tty, "Reason (Enter for none):")
		return err
	})
}
