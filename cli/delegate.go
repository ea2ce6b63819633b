package cli

import (
	"encoding/json"
	"errors"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"hallpass/access"
	"hallpass/evidence"
	"hallpass/policy"
	"hallpass/statement"
)

func (a *app) delegateCommand() *cli.Command {
	return &cli.Command{
		Name: "delegate", Usage: "let somebody decide on requests in your place, for a time", Category: categoryDecide,
		Description: "Whoever it is has your say in decisions as far as your groups reach then, never in\n" +
			"requests of yours or of his own, and the two of you count as one person. It can't\n" +
			"be passed on. It ends by itself, at the latest after " + access.ShortDuration(access.MaxDelegation) + ", or with\n" +
			"hallpass delegate --revoke ID, by you or by somebody whom policy lets lock.",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "to", Usage: "`USER` who decides in your place"},
			&cli.StringFlag{Name: "for", Usage: "how `LONG`"},
			&cli.StringSliceFlag{Name: "group", Usage: "only your say as one of `GROUP`; may be repeated", DefaultText: "all your groups"},
			&cli.StringFlag{Name: "revoke", Usage: "end the delegation `ID`, as hallpass delegations shows it"},
			&cli.StringFlag{Name: "reason", Aliases: []string{"r"}, Usage: "`why`, for auditors to read"},
			&cli.BoolFlag{Name: "print", Usage: printHelp},
		},
		Action: func(c *cli.Context) error {
			const example = "hallpass delegate --to bob --for 8h"
			_, err := arguments(c)
			if wrong := (*failure)(nil); errors.As(err, &wrong) {
				return wrong.withHint(example)
			}
			d := access.Delegation{Action: access.ActionDelegate, To: c.String("to"), Groups: c.StringSlice("group"), Reason: c.String("reason")}
			if c.IsSet("revoke") {
				for _, flag := range []string{"to", "for", "group"} {
					if c.IsSet(flag) {
						return usagef("--%s doesn't go with --revoke", flag)
					}
				}
				if prefix := c.String("revoke"); !access.IsIDPrefix(prefix) {
					return usagef("%s is not a delegation's id or the beginning of one", prefix).withHint("hallpass delegations shows them")
				}
				return a.withBackend(func(b backend) error {
					found, err := a.findDelegation(b, c.String("revoke"))
					if err != nil {
						return err
					}
					d := access.Delegation{Action: access.ActionRevoke, To: found.To, Delegation: found.ID, Reason: d.Reason}
					return a.delegate(b, d, c.Bool("print"))
				})
			}
			if d.To == "" || !c.IsSet("for") {
				return usagef("--to and --for are needed: who decides in your place, and for how long").withHint(example)
			}
			long, err := access.ParseDuration(c.String("for"))
			if err != nil {
				return usagef("--for: %w", err)
			}
			switch {
			case long <= 0:
				return usagef("--for %s is no time at all", c.String("for"))
			case long > access.MaxDelegation:
				return usagef("--for %s is longer than a delegation lasts: at most %s", c.String("for"), access.ShortDuration(access.MaxDelegation))
			}
			until := statement.Time(a.now().Add(long))
			d.Until = &until
			if c.Bool("print") {
				return a.delegate(nil, d, true)
			}
			return a.withBackend(func(b backend) error { return a.delegate(b, d, false) })
		},
	}
}

// findDelegation finds the one delegation in force whose id begins so.
func (a *app) findDelegation(b backend, prefix string) (access.Delegation, error) {
	given, err := b.Delegations(a.ctx)
	if err != nil {
		return access.Delegation{}, err
	}
	var found []access.Delegation
	for _, g := range given {
		if !strings.HasPrefix(g.Delegation.ID, prefix) {
			continue
		}
		// What is to be signed over is what somebody has signed.
		d, err := statement.ParseDelegation([]byte(g.Statement.Payload))
		if err != nil || !strings.HasPrefix(d.ID, prefix) {
			return access.Delegation{}, failf(ExitRefused, "delegation %s can't be trusted: its statement says something else", g.Delegation.ID)
		}
		found = append(found, d)
	}
	switch len(found) {
	case 0:
		return access.Delegation{}, failf(ExitNotFound, "no delegation %s is in force", prefix).withHint("hallpass delegations shows them")
	case 1:
		return found[0], nil
	}
	return access.Delegation{}, failf(ExitNotFound, "%d delegations begin with %s", len(found), prefix).withHint("hallpass delegations shows them")
}

// delegate signs and sends a delegation, or what revokes one.
func (a *app) delegate(b backend, d access.Delegation, print bool) error {
	me, err := a.identify()
	if err != nil {
		return err
	}
	defer func() { _ = me.signer.Close() }()
	d.Header = a.header(access.TypeDelegation, me)
	st, err := sign(a, me, d, statement.ParseDelegation)
	if err != nil {
		return err
	}
	if print {
		data, err := json.Marshal(access.Delegating{Statement: st})
		if err != nil {
			return err
		}
		a.out.Printf("%s\n", markup(data)) // base64 and JSON that has passed statement's checks
		a.err.Printf("%s temporal workflow start --type %s --task-queue %s --workflow-id %s --input '…'\n",
			a.err.dim("To deliver it:"), access.WorkflowDelegate, access.TaskQueue, access.DelegationWorkflowID(d.ID))
		return nil
	}
	out, err := b.Delegate(a.ctx, st, d)
	if err != nil {
		return a.refusal(err)
	}
	return a.print(out.Delegation, func(p *printer) {
		if d.Action == access.ActionRevoke {
			p.Printf("Revoked: %s decides in that place no more.\n", p.bold(d.To))
			return
		}
		p.Printf("%s decides in your place%s until %s.\n", p.bold(d.To), as(d.Groups), p.at(*d.Until, a.now()))
		p.Printf("To end it: hallpass delegate --revoke %s\n", d.ID)
	})
}

// as says as one of which groups somebody decides.
func as(groups []string) string {
	if groups == nil {
		return ""
	}
	return " as one of " + strings.Join(groups, " or ")
}

// heldDelegation is a delegation in force, as delegations shows it.
type heldDelegation struct {
	access.Delegation
	Verified bool   `json:"verified"`
	By       string `json:"by"` // which key signed it, or what is wrong
}

func (a *app) delegationsCommand() *cli.Command {
	return &cli.Command{
		Name: "delegations", Usage: "list who decides in whose place", Category: categoryLook,
		Action: func(c *cli.Context) error {
			if _, err := arguments(c); err != nil {
				return err
			}
			return a.withBackend(func(b backend) error {
				given, err := b.Delegations(a.ctx)
				if err != nil {
					return err
				}
				all := []heldDelegation{}
				for _, g := range given {
					one := heldDelegation{Delegation: g.Delegation, By: "NOT VERIFIED: what was signed says something else"}
					if signed, err := statement.ParseDelegation([]byte(g.Statement.Payload)); err == nil && reflect.DeepEqual(signed, g.Delegation) {
						one.By, one.Verified = a.signedBy(g.Statement, access.TypeDelegation, signed.Signer)
					}
					all = append(all, one)
				}
				return a.print(all, func(p *printer) { a.delegationsText(p, all) })
			})
		},
	}
}

func (a *app) delegationsText(p *printer, all []heldDelegation) {
	if len(all) == 0 {
		a.err.Printf("Nobody decides in another's place.\n")
		return
	}
	var ids []string
	for _, d := range all {
		ids = append(ids, d.ID)
	}
	short, now := shortIDs(ids), a.now()
	for i, d := range all {
		if i > 0 {
			p.Printf("\n")
		}
		until := ""
		if d.Until != nil {
			until = p.at(*d.Until, now)
		}
		p.Printf("%s  %s for %s%s, until %s\n", short[d.ID], p.bold(d.To), p.bold(d.Signer), as(d.Groups), until)
		p.fields("reason", d.Reason, "given", p.at(d.Time, now), "signed by", d.By)
	}
}

// placesFor is how long it isn't asked again who decides in whose place.
const placesFor = 30 * time.Second

// places are the users in whose place the user may decide, with the groups that
// they have delegated, by the directory that is at hand. That it can't be looked
// up is no error: it is said with whatever is decided.
func (a *app) places(b backend, me access.User) []access.User {
	if now := a.now(); a.given.at.IsZero() || now.Sub(a.given.at) >= placesFor {
		a.given.at, a.given.list = now, nil
		if given, err := b.Delegations(a.ctx); err == nil {
			if dir := a.directoryOrNil(); dir != nil {
				a.given.list = (&evidence.Rulebook{Directory: dir}).Through(given).Places(me.Name, now)
			}
		}
	}
	return a.given.list
}

// sayIn finds whose say the user has in a request that waits: his own, with "", or
// that of somebody in whose place he may decide. It is the service that decides.
func (a *app) sayIn(b backend, s access.Status, req access.Request, me access.User) (place string, ok bool) {
	if me.Name == "" || me.Name == req.Signer {
		return "", false
	}
	eligible := func(u access.User, instead bool) bool {
		return !spoken(s, u.Name) && policy.Eligible(s.Standing.Ruling.Needs, a.voter(u, req, instead))
	}
	if spoken(s, me.Name) {
		return "", false
	}
	if eligible(me, false) {
		return "", true
	}
	for _, giver := range a.places(b, me) {
		if giver.Name != req.Signer && eligible(giver, true) {
			return giver.Name, true
		}
	}
	return "", false
}

// spoken says whether somebody's word in a request was used, by whomever.
func spoken(s access.Status, name string) bool {
	return slices.ContainsFunc(s.Standing.Voices, func(v access.Voice) bool { return v.Signer == name || v.For == name })
}

func (a *app) voter(u access.User, req access.Request, instead bool) policy.Voter {
	return policy.Voter{User: u, Waited: a.now().Sub(req.Time), Instead: instead}
}

// inPerson says, before it is signed, where a decision by the user in the place of
// somebody doesn't count because a rule wants that one in person. It is an error
// if it counts nowhere; with place "" if that is so of everybody in whose place he
// may decide, and he has no say of his own.
func (a *app) inPerson(b backend, s access.Status, req access.Request, me access.User, place string) error {
	if me.Name == req.Signer || spoken(s, me.Name) {
		return nil // nothing of his counts, for another reason
	}
	needs := s.Standing.Ruling.Needs
	for _, giver := range a.places(b, me) {
		if giver.Name == req.Signer || place != "" && giver.Name != place || spoken(s, giver.Name) {
			continue
		}
		v := a.voter(giver, req, true)
		rules := policy.InPerson(needs, v)
		switch {
		case rules == nil:
		case !policy.Eligible(needs, v):
			return failf(ExitRefused, "%s, so nobody decides in the place of %s", policy.WantsInPerson(rules), giver.Name)
		case place != "":
			a.err.Printf("It doesn't count for all of it: %s, and %s has no word left then.\n", policy.WantsInPerson(rules), giver.Name)
		}
	}
	return nil
}
