package cli

import (
	"time"

	"github.com/urfave/cli/v2"

	"hallpass/access"
	"hallpass/audit"
)

// sessionsBack is how far back sessions are looked for that have not been
// closed: longer than any certificate of kind ssh lives, with room for those
// that a rule lets finish.
const sessionsBack = 7 * 24 * time.Hour

func (a *app) sessionsCommand() *cli.Command {
	return &cli.Command{
		Name:     "sessions",
		Usage:    "list who is on which host right now",
		Category: categoryLook,
		Description: "As the hosts with hallpass-host have told, whose reports are in the audit log; it works\n" +
			"where that is.",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "host", Usage: "only on `HOST`"},
			&cli.StringFlag{Name: "requester", Usage: "only those of `USER`"},
			&cli.StringFlag{Name: "request", Usage: "only by the certificate of request `ID`"},
			&cli.BoolFlag{Name: "all", Usage: "also those that are over, of the last seven days"},
		},
		Action: a.sessions,
	}
}

func (a *app) sessions(c *cli.Context) error {
	if _, err := arguments(c); err != nil {
		return err
	}
	return a.withLog(func(r *audit.Reader) error {
		q := audit.Query{Requester: c.String("requester"), Actor: c.String("host"), From: a.now().Add(-sessionsBack)}
		if id := c.String("request"); id != "" {
			var err error
			if q.Request, err = r.FindRequest(a.ctx, id); err != nil {
				return err
			}
		}
		all, err := r.Visits(a.ctx, q)
		if err != nil {
			return err
		}
		visits := []audit.Visit{}
		for _, v := range all {
			if c.Bool("all") || v.Closed.IsZero() {
				visits = append(visits, v)
			}
		}
		return a.print(visits, func(p *printer) {
			if len(visits) == 0 {
				a.err.Printf("Nobody is on any host.\n")
				return
			}
			a.visitsText(p, visits)
		})
	})
}

func (a *app) visitsText(p *printer, visits []audit.Visit) {
	ids := make([]string, len(visits))
	for i, v := range visits {
		ids[i] = v.Request
	}
	short, now := shortIDs(ids), a.now()
	var rows [][]any
	for _, v := range visits {
		since := "-" // the report of it hasn't come
		if !v.Opened.IsZero() {
			since = relative(v.Opened, now)
		}
		rows = append(rows, []any{v.Host, v.Login, v.Requester, v.Source, since, a.visitEnd(p, v), short[v.Request]})
	}
	p.table([]string{"HOST", "LOGIN", "WHO", "FROM", "SINCE", "STATE", "REQUEST"}, rows)
}

// visitEnd says how a session stands.
func (a *app) visitEnd(p *printer, v audit.Visit) any {
	switch {
	case v.Closed.IsZero():
		return p.state(access.StateActive)
	case v.Ended:
		s := "ended by hallpass"
		if v.Why != "" {
			s += ": " + v.Why
		}
		return s
	}
	if v.Opened.IsZero() {
		return "closed"
	}
	return "closed after " + access.ShortDuration(v.Closed.Sub(v.Opened).Truncate(time.Second))
}

// visits are the sessions of a request, where the audit log is on this
// machine. That it isn't is nothing to complain about.
func (a *app) visits(request string) (visits []audit.Visit) {
	_ = a.withLog(func(r *audit.Reader) (err error) {
		visits, err = r.Visits(a.ctx, audit.Query{Request: request})
		return err
	})
	return visits
}
