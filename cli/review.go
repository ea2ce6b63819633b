package cli

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"hallpass/access"
	"hallpass/audit"
	"hallpass/policy"
	"hallpass/statement"
)

func (a *app) reviewsCommand() *cli.Command {
	return &cli.Command{
		Name: "reviews", Usage: "list what was taken by break-glass and has to be signed off", Category: categoryDecide,
		Action: func(c *cli.Context) error {
			if _, err := arguments(c); err != nil {
				return err
			}
			return a.withBackend(func(b backend) error {
				tasks, err := b.Reviews(a.ctx)
				if err != nil {
					return err
				}
				if tasks == nil {
					tasks = []access.ReviewTask{}
				}
				return a.print(tasks, func(p *printer) {
					if len(tasks) == 0 {
						a.err.Printf("Nothing has to be signed off.\n")
						return
					}
					look := "audit show"
					if a.withLog(func(*audit.Reader) error { return nil }) != nil {
						look = "show" // there is no log on this machine
					}
					for i, t := range tasks {
						if i > 0 {
							p.Printf("\n")
						}
						a.reviewText(p, t)
						p.Printf("  hallpass %s %s\n  hallpass review %s\n", look, t.Request, t.Request)
					}
				})
			})
		},
	}
}

// reviewText shows one review. What was taken, and why, is as its requester
// signed it.
func (a *app) reviewText(p *printer, t access.ReviewTask) {
	now := a.now()
	req, err := a.open(access.Status{ID: t.Request, Evidence: access.Evidence{Request: t.Statement}})
	by, _ := a.signedBy(t.Statement, access.TypeRequest, t.Requester)
	if err != nil {
		by = "NOT VERIFIED: " + err.Error()
	}
	p.Printf("%s  %s took %s%s for %s\n", t.Request, p.bold(t.Requester), p.bold(t.Resource), access.AsWhat(req.Login, req.Actions), req.Duration)
	p.fields("reason", req.Reason, "ticket", req.Ticket, "command", req.Command, "taken", p.at(t.Granted, now),
		"signed off by", approvers(t.Signed), "missing", policy.DescribeReview(t.Missing),
		"due", due(p, t, now), "signed by", by)
}

// due is until when a review has to be done.
func due(p *printer, t access.ReviewTask, now time.Time) string {
	if t.Overdue(now) {
		return "OVERDUE since " + p.at(t.Due, now)
	}
	return p.at(t.Due, now)
}

// glassBroken says what it costs that the glass was broken for a request.
func (a *app) glassBroken(s access.Status) {
	em := s.Standing.Ruling.Emergency
	if em == nil {
		return
	}
	when := "within " + em.Within.String()
	if s.Granted != nil {
		when = "until " + a.err.at(s.Granted.Add(em.Within.Duration()), a.now())
	}
	a.err.Printf("BREAK-GLASS: to be signed off %s: %s\n", when, policy.DescribeReview(policy.Missing(em.Review, 0, nil)))
}

// reviewOf finds how the review of an access by break-glass stands: by the audit
// log where that is on this machine, else by the list of those that are open.
// The task is nil if none is open, or if that isn't known.
func (a *app) reviewOf(b backend, id string) (task *access.ReviewTask, known bool) {
	err := a.withLog(func(r *audit.Reader) error {
		t, found, err := r.ReviewTask(a.ctx, id)
		if found {
			task = &t
		}
		return err
	})
	if err == nil && task != nil {
		return task, true
	}
	open, err := b.Reviews(a.ctx)
	if err != nil {
		return nil, false
	}
	if i := slices.IndexFunc(open, func(t access.ReviewTask) bool { return t.Request == id }); i >= 0 {
		return &open[i], true
	}
	return nil, len(open) < access.MostReviews
}

// reviewedText says in one line how the review of a request stands.
func (a *app) reviewedText(p *printer, s shown) string {
	t := s.Review
	switch {
	case s.Granted == nil || s.Standing.Request.Mode != access.ModeEmergency:
		return ""
	case t == nil && s.noReview:
		return "none is open; who signed it off: hallpass audit show " + s.ID
	case t == nil:
		return "to be signed off afterwards; how it stands: hallpass audit show " + s.ID
	case t.Done:
		return "done, signed off by " + approvers(t.Signed)
	}
	line := "due " + due(p, *t, a.now())
	if t.Overdue(a.now()) {
		line = due(p, *t, a.now())
	}
	line += ": " + policy.DescribeReview(t.Missing)
	if by := approvers(t.Signed); by != "" {
		line += "; signed off by " + by
	}
	return line
}

func (a *app) reviewCommand() *cli.Command {
	return &cli.Command{
		Name: "review", Usage: "sign off an access that somebody took by break-glass", ArgsUsage: "ID", Category: categoryDecide,
		Description: "Look at what was done first: hallpass audit show ID says when and where from\n" +
			"somebody logged in. Nobody signs off what he took himself. Until enough people\n" +
			"have, they are reminded, and once it is overdue its requester breaks no more glass.",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "comment", Aliases: []string{"m"}, Usage: "`words` for auditors to read"},
		},
		Action: func(c *cli.Context) error {
			args, err := arguments(c, "ID")
			if err != nil {
				return err
			}
			if !access.IsIDPrefix(args[0]) {
				return notAnID(args[0]).withHint("hallpass reviews")
			}
			return a.withBackend(func(b backend) error { return a.review(b, args[0], c.String("comment")) })
		},
	}
}

// review shows an access by break-glass and signs it off.
func (a *app) review(b backend, prefix, comment string) error {
	tasks, err := b.Reviews(a.ctx)
	if err != nil {
		return err
	}
	tasks = slices.DeleteFunc(tasks, func(t access.ReviewTask) bool { return !strings.HasPrefix(t.Request, prefix) })
	switch len(tasks) {
	case 0:
		return failf(ExitNotFound, "no review of %s is open", prefix).withHint("hallpass reviews")
	case 1:
	default:
		return failf(ExitNotFound, "%d reviews begin with %s", len(tasks), prefix).withHint("hallpass reviews")
	}
	t := tasks[0]
	// What is signed off is what was signed, and not what the service makes of it.
	if _, err := a.open(access.Status{ID: t.Request, Evidence: access.Evidence{Request: t.Statement}}); err != nil {
		return failf(ExitRefused, "the request can't be trusted: %w", err)
	}
	shown := a.out
	if a.json {
		shown = a.err
	}
	a.reviewText(shown, t)
	me, err := a.identify()
	if err != nil {
		return err
	}
	defer func() { _ = me.signer.Close() }()
	r := access.Review{Header: a.header(access.TypeReview, me), Request: t.Request, RequestHash: t.Statement.Hash(), Comment: comment}
	st, err := sign(a, me, r, statement.ParseReview)
	if err != nil {
		return err
	}
	if t, err = b.Review(a.ctx, t.Request, r.ID, st); err != nil {
		return err
	}
	return a.print(t, func(p *printer) {
		if t.Done {
			p.Printf("Signed off. The review is done.\n")
			return
		}
		p.Printf("Signed off. Still needs %s.\n", policy.DescribeReview(t.Missing))
	})
}

// mentionReviews says how many reviews wait, and how many of them for the user.
// It is said beside something else, so that it can't be looked up is no error.
func (a *app) mentionReviews(b backend, me access.User) {
	tasks, err := b.Reviews(a.ctx)
	if err != nil || len(tasks) == 0 {
		return
	}
	mine := 0
	for _, t := range tasks {
		signed := slices.ContainsFunc(t.Signed, func(v access.Voice) bool { return v.Signer == me.Name })
		if me.Name != t.Requester && !signed && policy.Eligible(t.Emergency.Review, policy.Voter{User: me}) {
			mine++
		}
	}
	what := "1 access by break-glass has"
	if len(tasks) > 1 {
		what = fmt.Sprintf("%d accesses by break-glass have", len(tasks))
	}
	a.err.Printf("%s to be signed off, %d by you: hallpass reviews\n", what, mine)
}
