package cli

import (
	"fmt"

	"github.com/urfave/cli/v2"

	"hallpass/access"
)

func (a *app) sweepCommand() *cli.Command {
	return &cli.Command{
		Name:     "sweep",
		Usage:    "end what has lost its workflow, now rather than at the next sweep",
		Category: categoryOperate,
		Description: "Ends open grants whose workflow doesn't run any more, because it was terminated in\n" +
			"Temporal or lost with its database, and revokes credentials that no live grant has.\n" +
			"Workers do it by themselves every sweep.every. What is younger than sweep.grace is left\n" +
			"alone. Exit code 1 says that something couldn't be taken back.",
		Action: func(c *cli.Context) error {
			if _, err := arguments(c); err != nil {
				return err
			}
			return a.withBackend(a.sweep)
		},
	}
}

func (a *app) sweep(b backend) error {
	out, err := b.Sweep(a.ctx)
	if err != nil && access.CodeOf(err) != access.CodeUnavailable {
		return err
	}
	if err == nil || out.Grants+out.Credentials+len(out.Findings) > 0 {
		if perr := a.print(out, func(p *printer) { sweptText(p, out) }); perr != nil {
			return perr
		}
	}
	if err != nil {
		return err
	}
	if out.Stuck > 0 {
		return failf(ExitError, "%s could not be taken back or looked at", things(out.Stuck)).withHint("hallpass audit log --event sweep.stuck")
	}
	return nil
}

func sweptText(p *printer, out access.Swept) {
	p.Printf("Looked at %d open grants and %d credentials: ended %d, revoked %d, stuck %d.\n",
		out.Grants, out.Credentials, out.Ended, out.Revoked, out.Stuck)
	for _, f := range out.Findings {
		about := f.Request
		if about == "" {
			about = "-"
		}
		p.Printf("  %s  %s  %s: %s\n", f.What, f.Kind, about, f.Why)
	}
	if more := out.Ended + out.Revoked + out.Stuck - len(out.Findings); more > 0 {
		p.Printf("  … and %d more: hallpass audit log --event sweep.\n", more)
	}
}

func things(n int) string {
	if n == 1 {
		return "1 thing"
	}
	return fmt.Sprintf("%d things", n)
}
