package workflows

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"hallpass/access"
	"hallpass/activities"
	"hallpass/audit"
)

// sweepPatience is how long a sweep waits for an issuer to do one thing. What
// isn't done by then is reported, and the next sweep finds it again.
const sweepPatience = 2 * time.Minute

// Sweep is a workflow that finds what has lost its workflow, and ends it: what
// was terminated in Temporal, or lost with its database, can't end itself. It
// looks at each open grant in the ledger, and then has the issuer of each kind
// look where its credentials live.
//
// That nothing runs is Temporal's word, and so it can only end access early,
// as its operators can anyway. Nothing here grants or prolongs anything.
//
// It fails no more than AccessRequest does. The query status answers with the
// result so far. Two of them at a time do no harm.
func Sweep(ctx workflow.Context, in access.Sweeping) (access.Swept, error) {
	ctx, _ = workflow.NewDisconnectedContext(ctx) // no sweep stops halfway
	s := &sweep{Sweeping: in}
	err := workflow.SetQueryHandler(ctx, access.QueryStatus, func() (access.Swept, error) { return s.Swept, nil })
	if err != nil {
		return s.Swept, fmt.Errorf("set query handler: %w", err)
	}
	for !s.Ledger || len(s.Kinds) > 0 {
		if !s.Ledger {
			s.ledger(ctx)
		} else {
			s.kind(ctx)
		}
		s.show(ctx)
		if workflow.GetInfo(ctx).GetContinueAsNewSuggested() {
			return s.Swept, workflow.NewContinueAsNewError(ctx, Sweep, s.Sweeping)
		}
	}
	return s.Swept, nil
}

// sweep is how far a Sweep is.
type sweep struct{ access.Sweeping }

// ledger looks at the next open grants, and ends those that nothing runs for.
func (s *sweep) ledger(ctx workflow.Context) {
	var found activities.Orphans
	_ = local(ctx, "hold open grants against what runs", hallpass.Orphans, activities.OrphansInput{After: s.After}, &found) // has no refusals
	s.Swept.Grants += found.Looked
	s.After, s.Ledger = found.After, found.After == ""
	s.Kinds = slices.Compact(slices.Sorted(slices.Values(append(s.Kinds, found.Kinds...))))
	left := workflow.NewWaitGroup(ctx)
	for _, h := range found.Handles {
		left.Add(1)
		workflow.Go(ctx, func(ctx workflow.Context) {
			defer left.Done()
			s.end(ctx, h)
		})
	}
	left.Wait(ctx)
}

// end ends one grant that nothing runs for. One whose time is over needs no
// issuer for that.
func (s *sweep) end(ctx workflow.Context, h access.Handle) {
	finding := access.Finding{What: access.SweptEnded, Kind: h.Kind, Request: h.Request, Why: "its workflow didn't run any more; revoked"}
	end := audit.End{Request: h.Request, State: access.StateRevoked, Why: "revoked by the sweep: its workflow didn't run any more"}
	if !workflow.Now(ctx).Before(h.Over()) {
		finding.Why = "its workflow didn't run any more; it had run to its end"
		end.State, end.Why = access.StateExpired, "ran to its end, without its workflow"
		_ = local(ctx, "record the end", hallpass.Close, end, nil) // has no refusals
	} else if err := s.ask(ctx, h.Kind, "take back an orphan", issuer.Revoke, end, nil); err != nil {
		finding.What, finding.Why = access.SweptStuck, "its workflow doesn't run any more, and it could not be taken back: "+reason(h.Kind, err)
	}
	s.found(ctx, finding)
}

// kind has the issuer of the next kind look at what lives where its
// credentials do.
func (s *sweep) kind(ctx workflow.Context) {
	kind := s.Kinds[0]
	var out activities.Strays
	in := activities.StraysInput{Kind: kind, Cursor: s.Cursor}
	if err := s.ask(ctx, kind, "look for credentials without a grant", issuer.Strays, in, &out); err != nil {
		out = activities.Strays{}
		s.found(ctx, access.Finding{What: access.SweptStuck, Kind: kind, Why: "credentials could not be looked at: " + reason(kind, err)})
	}
	s.Swept.Credentials += out.Looked
	for _, f := range out.Findings {
		s.Swept.Add(f)
	}
	if s.Cursor = out.Cursor; s.Cursor == "" {
		s.Kinds = s.Kinds[1:]
	}
}

// found takes a finding in. The issuer records its own.
func (s *sweep) found(ctx workflow.Context, f access.Finding) {
	s.Swept.Add(f)
	if f.What == access.SweptStuck {
		workflow.GetLogger(ctx).Error("the sweep is stuck", "kind", f.Kind, "request", f.Request, "error", f.Why)
		_ = local(ctx, "record what is stuck", hallpass.Stuck, f, nil) // has no refusals
	}
}

// ask has the issuer of a kind do something, if it answers in time.
func (s *sweep) ask(ctx workflow.Context, kind, summary string, activity, in, out any) error {
	return workflow.ExecuteActivity(workflow.WithActivityOptions(ctx, workflow.ActivityOptions{
		TaskQueue:              access.IssueQueue(kind),
		Summary:                summary,
		StartToCloseTimeout:    time.Minute,
		ScheduleToCloseTimeout: sweepPatience,
		RetryPolicy:            &patience,
	}), activity, in).Get(ctx, out)
}

// reason says for people why an issuer did not do it.
func reason(kind string, err error) string {
	var app *temporal.ApplicationError
	if errors.As(err, &app) {
		return app.Message()
	}
	return fmt.Sprintf("no issuer of kind %s has answered within %s", kind, access.ShortDuration(sweepPatience))
}

// show tells operators how far it is.
func (s *sweep) show(ctx workflow.Context) {
	r := s.Swept
	workflow.SetCurrentDetails(ctx, fmt.Sprintf("- open grants looked at: %d, ended: %d\n- credentials looked at: %d, taken back: %d\n- stuck: %d\n",
		r.Grants, r.Ended, r.Credentials, r.Revoked, r.Stuck))
}
