package cli

import (
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"hallpass/access"
	"hallpass/policy"
	"hallpass/transport"
)

func filterFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "requester", Usage: "only those of `USER`"},
		&cli.StringFlag{Name: "resource", Usage: "only those for `KIND/NAME`"},
		&cli.IntFlag{Name: "limit", Usage: "at most `N`", Value: 50},
	}
}

func filterFrom(c *cli.Context) (transport.Filter, error) {
	f := transport.Filter{Requester: c.String("requester"), Resource: c.String("resource"), Limit: c.Int("limit")}
	if f.Limit < 1 || f.Limit > 10000 {
		return f, usagef("--limit is %d, not 1 to 10000", f.Limit)
	}
	for _, s := range c.StringSlice("state") {
		for _, name := range strings.Split(s, ",") {
			if !slices.Contains(access.States(), access.State(name)) {
				return f, usagef("--state %s is not a state", name).withHint("%s", stateNames())
			}
			f.States = append(f.States, access.State(name))
		}
	}
	return f, nil
}

func stateNames() string {
	var names []string
	for _, s := range access.States() {
		names = append(names, string(s))
	}
	return strings.Join(names, ", ")
}

func (a *app) listCommand() *cli.Command {
	return &cli.Command{
		Name:        "list",
		Usage:       "list requests, open ones first",
		Category:    categoryLook,
		Description: "States: " + stateNames() + ".",
		Flags: append(filterFlags(),
			&cli.StringSliceFlag{Name: "state", Usage: "only those in `STATE`; may be repeated"},
		),
		Action: func(c *cli.Context) error {
			if _, err := arguments(c); err != nil {
				return err
			}
			f, err := filterFrom(c)
			if err != nil {
				return err
			}
			return a.withBackend(func(b backend) error {
				found, err := b.List(a.ctx, f)
				if err != nil {
					return err
				}
				if found == nil {
					found = []transport.Summary{}
				}
				return a.print(found, func(p *printer) { a.listText(p, found) })
			})
		},
	}
}

func (a *app) listText(p *printer, found []transport.Summary) {
	if len(found) == 0 {
		a.err.Printf("Nothing found.\n")
		return
	}
	ids := make([]string, len(found))
	for i, s := range found {
		ids[i] = s.ID
	}
	short, now := shortIDs(ids), a.now()
	var rows [][]any
	for _, s := range found {
		when := ""
		switch {
		case s.Ended != nil:
			when = relative(*s.Ended, now)
		case s.State == access.StateActive && s.Expires != nil:
			when = relative(*s.Expires, now)
		}
		state := p.state(s.State)
		if s.Workflow != "" {
			state += markup(" (workflow " + safe(s.Workflow) + ")")
		}
		rows = append(rows, []any{short[s.ID], state, s.Requester, s.Resource, strings.Join(s.Approvers, ", "), relative(s.Asked, now), when})
	}
	p.table([]string{"ID", "STATE", "REQUESTER", "RESOURCE", "APPROVED BY", "ASKED", "END"}, rows)
}

// waiting is a request that waits for approvals, as pending lists it.
type waiting struct {
	ID        string         `json:"id"`
	Mine      bool           `json:"mine"`          // the user's decision would count
	For       string         `json:"for,omitempty"` // with mine: in whose place
	Requester string         `json:"requester"`
	Resource  string         `json:"resource"`
	Login     string         `json:"login,omitempty"`
	Actions   []string       `json:"actions,omitempty"`
	Duration  access.Seconds `json:"duration"`
	Mode      string         `json:"mode,omitempty"`
	Extends   string         `json:"extends,omitempty"` // the request whose grant it extends
	Reason    string         `json:"reason,omitempty"`
	Ticket    string         `json:"ticket,omitempty"`
	Missing   []access.Set   `json:"missing,omitempty"`
	Deadline  *time.Time     `json:"deadline,omitempty"`
}

func (a *app) pendingCommand() *cli.Command {
	return &cli.Command{
		Name:     "pending",
		Usage:    "list what waits for approval, yours to decide first",
		Category: categoryDecide,
		Flags:    filterFlags(),
		Action: func(c *cli.Context) error {
			if _, err := arguments(c); err != nil {
				return err
			}
			f, err := filterFrom(c)
			if err != nil {
				return err
			}
			f.States = []access.State{access.StatePending}
			me, err := a.whoami()
			if err != nil {
				a.err.Printf("hallpass: %s; nothing is marked as yours\n", err)
			}
			return a.withBackend(func(b backend) error {
				me = a.knownAs(b, me)
				found, err := a.pending(b, f, me, map[string]bool{})
				if err != nil {
					return err
				}
				if err := a.print(found, func(p *printer) { a.pendingText(p, found) }); err != nil {
					return err
				}
				a.mentionReviews(b, me)
				return nil
			})
		},
	}
}

// pending asks each request itself: what the list says may be older. Those that
// can't be trusted are left out, which is said of each once: they are noted in
// told.
func (a *app) pending(b backend, f transport.Filter, me access.User, told map[string]bool) ([]waiting, error) {
	found, err := b.List(a.ctx, f)
	if err != nil {
		return nil, err
	}
	all := []waiting{}
	for _, one := range found {
		if one.Workflow != "" {
			continue
		}
		s, err := b.Status(a.ctx, one.ID)
		switch access.CodeOf(err) {
		case access.CodeNotFound, access.CodeEnded:
			continue
		}
		if err != nil {
			return nil, err
		}
		if s.State != access.StatePending || s.Standing.Effect != access.EffectAsk {
			continue
		}
		// What people will decide on is what was signed, and not what the
		// service makes of it.
		req, err := a.open(s)
		if err != nil {
			if !told[one.ID] {
				a.err.Printf("Left out request %s, which can't be trusted: %s\n", one.ID, err)
			}
			told[one.ID] = true
			continue
		}
		place, mine := a.sayIn(b, s, req, me)
		all = append(all, waiting{
			ID: s.ID, Requester: req.Signer, Resource: req.Resource, Login: req.Login, Actions: req.Actions, Duration: req.Duration,
			Mode: req.Mode, Extends: req.Extends, Reason: req.Reason, Ticket: req.Ticket, Missing: s.Standing.Missing, Deadline: s.Deadline,
			Mine: mine, For: place,
		})
	}
	slices.SortStableFunc(all, func(x, y waiting) int {
		switch {
		case x.Mine == y.Mine:
			return 0
		case x.Mine:
			return -1
		}
		return 1
	})
	return all, nil
}

// delegatedBy says in whose place the user decides, "" if in his own.
func delegatedBy(giver string) string {
	if giver == "" {
		return ""
	}
	return giver + " (delegated)"
}

func (a *app) pendingText(p *printer, all []waiting) {
	if len(all) == 0 {
		a.err.Printf("Nothing waits for approval.\n")
		return
	}
	ids := make([]string, len(all))
	for i, w := range all {
		ids[i] = w.ID
	}
	short, now := shortIDs(ids), a.now()
	for i, w := range all {
		if i == 0 && w.Mine {
			p.Printf("%s\n\n", p.bold("Yours to decide"))
		}
		if !w.Mine && (i == 0 || all[i-1].Mine) {
			p.Printf("%s\n\n", p.bold("For others to decide"))
		}
		until := ""
		if w.Deadline != nil {
			until = relative(*w.Deadline, now)
		}
		p.Printf("%s  %s %s %s%s for %s%s\n", short[w.ID], p.bold(w.Requester), access.Wants(w.Mode), p.bold(w.Resource), access.AsWhat(w.Login, w.Actions), w.Duration, access.Longer(w.Extends))
		p.fields("reason", w.Reason, "ticket", w.Ticket, "needs", policy.Describe(w.Missing), "times out", until, "yours for", delegatedBy(w.For))
		if w.Mine {
			p.Printf("  hallpass approve %s\n", short[w.ID])
		}
		p.Printf("\n")
	}
}
