package cli

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"
	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/client"

	"hallpass/access"
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
					}
					for i, t := range tasks {
						if i > 0 {
							p.Printf("\n")
						}
						a.reviewText(p, t)
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
	due := p.at(t.Due, now)
	if t.Overdue(now) {
		due = "OVERDUE since " + due
	}
	p.Printf("%s  %s took %s%s for %s\n", t.Request, p.bold(t.Requester), p.bold(t.Resource), asWhat(req.Login, req.Actions), req.Duration)
	p.fields("reason", req.Reason, "ticket", req.Ticket, "command", req.Command, "taken", p.at(t.Granted, now),
		"signed off by", approvers(t.Signed), "missing", strings.ReplaceAll(policy.Describe(t.Missing), "approval", "review"),
		"due", due, "signed by", by)
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
			if !idPrefix(args[0]) {
				return notAnID(args[0])
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
	if err := parses(r, func(p []byte) error { _, err := statement.ParseReview(p); return err }); err != nil {
		return err
	}
	st, err := a.sign(me, r)
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
		p.Printf("Signed off. Still needs %s.\n", strings.ReplaceAll(policy.Describe(t.Missing), "approval", "review"))
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

func (b *temporalBackend) Review(ctx context.Context, id, statementID string, st access.Statement) (access.ReviewTask, error) {
	ctx, cancel := context.WithTimeout(ctx, sendTimeout)
	defer cancel()
	// The workflow may be gone, and the review has to be done all the same.
	start := b.client.NewWithStartWorkflowOperation(client.StartWorkflowOptions{
		ID: access.ReviewWorkflowID(id), TaskQueue: access.TaskQueue, StaticSummary: "BREAK-GLASS to be signed off",
		WorkflowIDConflictPolicy: enumspb.WORKFLOW_ID_CONFLICT_POLICY_USE_EXISTING,
	}, access.WorkflowReview, access.ReviewTask{Request: id})
	var task access.ReviewTask
	handle, err := b.client.UpdateWithStartWorkflow(ctx, client.UpdateWithStartWorkflowOptions{
		StartWorkflowOperation: start,
		UpdateOptions: client.UpdateWorkflowOptions{
			UpdateID: statementID, UpdateName: access.MessageReview, Args: []any{st}, WaitForStage: client.WorkflowUpdateStageCompleted,
		},
	})
	if err == nil {
		err = handle.Get(ctx, &task)
	}
	return task, b.translate(ctx, err)
}

func (b *temporalBackend) Reviews(ctx context.Context) ([]access.ReviewTask, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	run, err := b.client.ExecuteWorkflow(ctx, client.StartWorkflowOptions{
		ID: "reviews-" + statement.NewID(), TaskQueue: access.TaskQueue, StaticSummary: "list what has to be reviewed",
		WorkflowExecutionTimeout: time.Minute, // nobody waits for it any longer
	}, access.WorkflowReviews)
	var tasks []access.ReviewTask
	if err == nil {
		err = run.Get(ctx, &tasks)
	}
	return tasks, b.translate(ctx, err)
}
