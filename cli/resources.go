package cli

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"hallpass/access"
	"hallpass/catalog"
	"hallpass/policy"
)

// offer is one thing that the user may ask for, by this machine's copies of
// policy, directory and catalog. The service decides by its own.
type offer struct {
	Resource    string         `json:"resource"`
	Login       string         `json:"login,omitempty"`
	Action      string         `json:"action,omitempty"`
	Description string         `json:"description,omitempty"`
	Effect      access.Effect  `json:"effect,omitempty"` // "" where this machine has no policy
	Takes       string         `json:"takes,omitempty"`
	Max         access.Seconds `json:"max_duration,omitempty"`
	Command     string         `json:"command"`
}

func (a *app) resourcesCommand() *cli.Command {
	return &cli.Command{
		Name:     "resources",
		Usage:    "list what you may ask for, and what it takes",
		Category: categoryLook,
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "all", Usage: "also what you may not ask for, and why not"},
		},
		Action: func(c *cli.Context) error {
			if _, err := arguments(c); err != nil {
				return err
			}
			offers, err := a.offers(c.Bool("all"))
			if err != nil {
				return err
			}
			return a.print(offers, func(p *printer) { a.offersText(p, offers) })
		},
	}
}

func (a *app) offers(all bool) ([]offer, error) {
	cat, err := a.catalog()
	if err != nil {
		return nil, err
	}
	var me access.User
	pol, err := a.policy()
	switch {
	case errors.Is(err, errNotHere):
	case err != nil:
		return nil, err
	default:
		if me, err = a.whoami(); err != nil {
			return nil, err
		}
	}
	offers := []offer{}
	for _, r := range cat.Resources() {
		for _, w := range wishes(r) {
			o := offer{Resource: r.Name, Login: w.login, Action: strings.Join(w.actions, ""), Description: r.Description, Command: "hallpass request " + r.Name}
			command := ""
			switch {
			case o.Action != "":
				o.Command, command = "hallpass run "+r.Name+" --action "+o.Action, " -- COMMAND"
			case len(r.Logins) > 1:
				o.Command += " --as " + o.Login
			}
			if pol != nil {
				a.weigh(&o, pol, me, w)
			}
			if o.Command != "" {
				o.Command += command
			}
			if all || o.Effect != access.EffectDeny {
				offers = append(offers, o)
			}
		}
	}
	return offers, nil
}

// wishes are what can be asked for of a resource: each login, or each action.
func wishes(r access.Resource) (all []wish) {
	for _, login := range r.Logins {
		all = append(all, wish{resource: r, login: login})
	}
	if r.Kind == catalog.KindVault {
		for _, action := range r.Actions {
			all = append(all, wish{resource: r, actions: []string{action}})
		}
	}
	if len(all) == 0 {
		all = []wish{{resource: r}}
	}
	return all
}

// foresee asks this machine's policy about a request: as if asked for now, for
// as short as can be, with a reason.
func (a *app) foresee(pol *policy.Policy, me access.User, w wish) access.Ruling {
	now := a.now().UTC()
	return pol.Decide(policy.Input{
		Request: access.Request{
			Header:   access.Header{Type: access.TypeRequest, Signer: me.Name, Time: now},
			Resource: w.resource.Name, Login: w.login, Actions: w.actions, Duration: access.InSeconds(access.MinGrant), Reason: "-",
		},
		Requester: me, Resource: w.resource, Now: now,
	})
}

// usual is how long is asked for when nobody says: half an hour, or as long as
// this machine's policy allows if that is less.
func (a *app) usual(me access.User, w wish) time.Duration {
	pol, err := a.policy()
	if err != nil {
		return defaultDuration
	}
	if longest := a.foresee(pol, me, w).MaxDuration.Duration(); longest > 0 {
		return min(longest, defaultDuration)
	}
	return defaultDuration
}

// weigh says what the offer would take. A ticket is left to the user.
func (a *app) weigh(o *offer, pol *policy.Policy, me access.User, w wish) {
	ruling := a.foresee(pol, me, w)
	var words []string
	closed := false
	for _, rule := range pol.Rules() {
		if !slices.Contains(ruling.Rules, rule.Name) {
			continue
		}
		closed = closed || rule.Deny != ""
		if rule.Reason && !slices.Contains(words, "a reason") {
			words = append(words, "a reason")
			o.Command += " --reason …"
		}
		if rule.Ticket != "" {
			words = append(words, "a ticket like "+rule.Ticket)
			if !strings.Contains(o.Command, "--ticket") {
				o.Command += " --ticket …"
			}
		}
	}
	o.Effect, o.Max = ruling.Effect, ruling.MaxDuration
	if ruling.Effect == access.EffectDeny && !closed && strings.Contains(o.Command, "--ticket") {
		// What is missing is the ticket.
		if o.Effect = access.EffectAllow; len(ruling.Needs) > 0 {
			o.Effect = access.EffectAsk
		}
	}
	switch o.Effect {
	case access.EffectDeny:
		o.Takes, o.Command = ruling.Why, ""
		return
	case access.EffectAsk:
		words = append([]string{policy.Describe(policy.Missing(ruling.Needs, 0, nil))}, words...)
	case access.EffectAllow:
		if len(words) == 0 {
			words = []string{"nothing"}
		}
	}
	o.Takes = strings.Join(words, ", ")
}

func (a *app) offersText(p *printer, offers []offer) {
	if len(offers) == 0 {
		a.err.Printf("Nothing that you may ask for. See why: hallpass resources --all\n")
		return
	}
	as := "LOGIN"
	if slices.ContainsFunc(offers, func(o offer) bool { return o.Action != "" }) {
		as = "LOGIN, ACTION"
	}
	var rows [][]any
	for _, o := range offers {
		longest := ""
		if o.Max > 0 && o.Effect != access.EffectDeny {
			longest = o.Max.String()
		}
		takes := any(o.Takes)
		if o.Effect == access.EffectDeny {
			takes = p.dim(fmt.Sprintf("not for you: %s", o.Takes))
		}
		rows = append(rows, []any{o.Resource, o.Login + o.Action, takes, longest, o.Command})
	}
	p.table([]string{"RESOURCE", as, "TAKES", "AT MOST", "COMMAND"}, rows)
}
