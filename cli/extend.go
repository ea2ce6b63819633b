package cli

import (
	"errors"
	"strings"

	"github.com/urfave/cli/v2"

	"hallpass/access"
)

func (a *app) extendCommand() *cli.Command {
	return &cli.Command{
		Name: "extend", Usage: "ask for a running grant to last longer", ArgsUsage: "ID", Category: categoryAccess,
		Description: "A request of its own, for the same, which begins at once and ends as much later\n" +
			"than the grant does as --for says. What it takes is as policy has it, and so is how\n" +
			"long a grant may last with its extensions. Sessions that are open on hosts with\n" +
			"hallpass-host go on. Giving one of them back gives back all.",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "for", Usage: "how much `LONGER`, such as 30m"},
			&cli.StringFlag{Name: "reason", Aliases: []string{"r"}, Usage: "`why`", DefaultText: "the grant's"},
			&cli.StringFlag{Name: "ticket", Aliases: []string{"t"}, Usage: "the `ticket` it is about", DefaultText: "the grant's"},
			&cli.BoolFlag{Name: "no-wait", Usage: "print the id and leave, unless policy says no at once"},
			timeoutFlag("print the id and leave"),
		},
		Action: func(c *cli.Context) error {
			args, err := arguments(c, "ID")
			var wrong *failure
			if errors.As(err, &wrong) {
				return wrong.withHint("hallpass extend ID --for 30m")
			}
			if !c.IsSet("for") {
				return usagef("--for is missing: how much longer?").withHint("hallpass extend %s --for 30m", args[0])
			}
			var w wish
			if err := a.wishFrom(c, &w); err != nil {
				return err
			}
			limit, err := timeout(c)
			if err != nil {
				return err
			}
			if c.Bool("no-wait") && limit > 0 {
				return usagef("--no-wait and --timeout exclude each other")
			}
			return a.withBackend(func(b backend) error {
				s, req, err := a.read(b, args[0])
				if err != nil {
					return err
				}
				if s.State != access.StateActive {
					return failf(ExitRefused, "request %s is %s: only a running grant can be extended", s.ID, s.State).
						withHint("hallpass request %s", req.Resource)
				}
				if me, err := a.whoami(); err != nil {
					return err
				} else if me.Name != req.Signer {
					return failf(ExitRefused, "request %s is %s's: nobody extends the grant of somebody else", s.ID, req.Signer).
						withHint("hallpass request %s", req.Resource)
				}
				w.resource, w.login, w.actions, w.command, w.extends = a.resourceOf(s), req.Login, req.Actions, req.Command, req.ID
				if w.resource.Name != req.Resource { // what is signed is what was signed, whatever the service says
					w.resource = access.Resource{Name: req.Resource}
					w.resource.Kind, _ = access.SplitResource(req.Resource)
				}
				if strings.TrimSpace(w.reason) == "" {
					w.reason = req.Reason
				}
				if w.ticket == "" {
					w.ticket = req.Ticket
				}
				id, err := a.submit(b, w)
				if err != nil {
					return err
				}
				g := granted{ID: id, State: access.StatePending, Resource: w.resource.Name, Login: w.login, Actions: w.actions}
				if !c.Bool("no-wait") {
					return a.obtained(b, g, limit)
				}
				if g.State, err = a.ruled(b, id); err != nil {
					return err
				}
				return a.printPending(g, func() {
					a.err.Printf("%s hallpass wait %s\n", a.err.dim("To pick it up:"), id)
				})
			})
		},
	}
}
