package cli

import (
	"github.com/urfave/cli/v2"

	"hallpass/access"
	"hallpass/worker"
)

func (a *app) configCommand() *cli.Command {
	return &cli.Command{
		Name:     "config",
		Usage:    "see what is configured, and check it",
		Category: categoryOperate,
		Subcommands: []*cli.Command{
			{
				Name:   "show",
				Usage:  "list every setting: its value, where it comes from, the variable that overrides it",
				Action: a.configShow,
			},
			{
				Name:   "check",
				Usage:  "look at everything that the configuration names; change nothing",
				Action: a.configCheck,
			},
		},
	}
}

func (a *app) configShow(c *cli.Context) error {
	if _, err := arguments(c); err != nil {
		return err
	}
	cfg, err := a.settings()
	if err != nil {
		return err
	}
	settings := cfg.Settings()
	return a.print(settings, func(p *printer) {
		file := cfg.File
		if file == "" {
			file = "no file: the environment alone"
		}
		p.Printf("%s\n\n", p.bold(file))
		rows := make([][]any, len(settings))
		for i, s := range settings {
			rows[i] = []any{s.Name, s.Value, s.Source, s.Env}
		}
		p.table([]string{"setting", "value", "from", "variable"}, rows)
	})
}

func (a *app) configCheck(c *cli.Context) error {
	if _, err := arguments(c); err != nil {
		return err
	}
	cfg, err := a.settings()
	if err != nil {
		return err
	}
	findings := cfg.Check(a.ctx)
	if err := a.showFindings(findings); err != nil {
		return err
	}
	return worst(findings)
}

// showFindings prints a line for each, and what to do about those that are bad.
func (a *app) showFindings(findings []worker.Finding) error {
	width := 16
	for _, f := range findings {
		width = max(width, len(f.Part))
	}
	return a.print(findings, func(p *printer) {
		for _, f := range findings {
			mark := p.style("32", "ok  ")
			if !f.OK {
				mark = p.style("31", "BAD ")
			}
			p.Printf("%s %s  %s\n", mark, pad(f.Part, width), f.Detail)
			if f.Hint != "" {
				p.Printf("     %s  %s\n", pad("", width), f.Hint)
			}
		}
	})
}

// worst is the error that the check ends with: that Temporal can't be reached
// only where nothing else is wrong.
func worst(findings []worker.Finding) error {
	var unreachable error
	for _, f := range findings {
		switch {
		case f.OK:
		case access.CodeOf(f.Err()) == access.CodeUnavailable:
			unreachable = failf(ExitUnreachable, "%s: %v", f.Part, f.Err())
		default:
			return failf(ExitError, "%s: %v", f.Part, f.Err())
		}
	}
	return unreachable
}

func pad(s string, width int) string {
	for len(s) < width {
		s += " "
	}
	return s
}
