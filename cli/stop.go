package cli

import (
	"errors"

	"github.com/urfave/cli/v2"

	"hallpass/access"
	"hallpass/statement"
)

func (a *app) releaseCommand() *cli.Command {
	return a.stopCommand(access.TypeRelease, access.MessageRelease, "Released", &cli.Command{
		Name: "release", Usage: "give a grant back before its end", Category: categoryAccess,
	})
}

func (a *app) cancelCommand() *cli.Command {
	return a.stopCommand(access.TypeCancel, access.MessageCancel, "Cancelled", &cli.Command{
		Name: "cancel", Usage: "withdraw a request that isn't granted yet", Category: categoryAccess,
	})
}

func (a *app) revokeCommand() *cli.Command {
	return a.stopCommand(access.TypeRevoke, access.MessageRevoke, "Revoked", &cli.Command{
		Name: "revoke", Usage: "take somebody's grant away", Category: categoryDecide,
	})
}

func (a *app) stopCommand(typ access.Type, message, said string, c *cli.Command) *cli.Command {
	c.ArgsUsage = "ID"
	why := "`why`, for auditors to read"
	if typ == access.TypeRevoke {
		why += "; required"
	}
	c.Flags = []cli.Flag{
		&cli.StringFlag{Name: "reason", Aliases: []string{"r"}, Usage: why},
		&cli.BoolFlag{Name: "print", Usage: printHelp},
	}
	c.Action = func(c *cli.Context) error {
		args, err := arguments(c, "ID")
		if err != nil {
			return err
		}
		if typ == access.TypeRevoke && c.String("reason") == "" {
			return usagef("--reason is missing: say why it is taken away")
		}
		return a.withBackend(func(b backend) error {
			return a.stop(b, args[0], typ, message, said, c.String("reason"), c.Bool("print"))
		})
	}
	return c
}

// stop signs and sends a release, revoke or cancel. What this machine holds of
// the request goes with it.
func (a *app) stop(b backend, id string, typ access.Type, message, said, reason string, print bool) error {
	s, req, err := a.read(b, id)
	if err != nil {
		return err
	}
	if s.State.Final() {
		return access.TooLate(s)
	}
	me, err := a.identify()
	if err != nil {
		return err
	}
	defer func() { _ = me.signer.Close() }()
	stop := access.Stop{Header: a.header(typ, me), Request: req.ID, RequestHash: s.Evidence.Request.Hash(), Reason: reason}
	st, err := signStop(a, me, stop)
	if err != nil {
		return err
	}
	if print {
		if !a.json {
			a.showRequest(a.err, s, req)
		}
		return a.printStatement(st, s.ID, message)
	}
	after, err := b.Send(a.ctx, s.ID, message, stop.ID, st)
	if err != nil {
		return a.refusal(err)
	}
	f, err := a.folder()
	if err != nil {
		return err
	}
	for _, id := range append(a.extensions(b, f, s.ID), s.ID) {
		if err := errors.Join(f.forget(id), f.drop(id)); err != nil {
			return err
		}
	}
	return a.printAnswer(a.settled(b, after), said)
}

// extensions are the requests of which there is something on this machine and
// that extend the grant of a request, or what extends it: they end together.
func (a *app) extensions(b backend, f *folder, id string) (all []string) {
	for request, of := range f.extending() {
		for n := 0; of != "" && of != id && n <= access.MaxExtensions; n++ {
			s, err := b.Status(a.ctx, of)
			if err != nil {
				break
			}
			r, err := statement.ParseRequest([]byte(s.Evidence.Request.Payload))
			if err != nil {
				break
			}
			of = r.Extends
		}
		if of == id {
			all = append(all, request)
		}
	}
	return all
}
