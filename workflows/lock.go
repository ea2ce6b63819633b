package workflows

import (
	"fmt"
	"slices"
	"time"

	"go.temporal.io/sdk/workflow"

	"hallpass/access"
	"hallpass/activities"
	"hallpass/audit"
	"hallpass/evidence"
)

// A request that was told of a lock has a second to end by itself, and, where
// that isn't enough, seven more.
const (
	prompt = time.Second
	deaf   = 4 * time.Second // the longest of several naps, each twice as long as the one before
)

// takenBackAtOnce is how many requests are ended from a lock at the same time. Temporal
// takes 2000 activities of one workflow, and what asks for more is stuck.
const takenBackAtOnce = 500

// Lock is the workflow of one lock statement, be it a lock or an unlock. Its id
// should be access.LockWorkflowID of the statement's id; running it again
// changes nothing that stands.
//
// A lock counts from the moment that it is on record, with the first activity:
// nothing has to run for it to go on, and ending this workflow lifts nothing.
// What is left is to tell the requests under it that live, and to see that they
// end. When all are told, those that don't, because somebody terminated their workflow
// or they hear nothing any more, are ended from here, and the issuers take back what was
// granted, however long it takes to reach them. So when Lock has returned, nothing
// lives that lived under the lock. (What had ended before it is its own workflow's to take
// back.)
//
// It fails no more than AccessRequest does: a refusal is in its result. The
// query status answers with the result so far.
func Lock(ctx workflow.Context, in access.Locking) (access.Locked, error) {
	ctx, _ = workflow.NewDisconnectedContext(ctx) // no lock stops halfway
	l := &locking{statement: in.Statement, out: access.Locked{Told: in.Told}}
	err := workflow.SetQueryHandler(ctx, access.QueryStatus, func() (access.Locked, error) { return l.out, nil })
	if err != nil {
		return l.out, fmt.Errorf("set query handler: %w", err)
	}
	if err := local(ctx, "check and record", hallpass.Lock, in.Statement, &l.out.Lock); err != nil {
		l.out.Refused = activities.Refusal(err)
		return l.out, nil
	}
	owed := in.Owed
	for l.out.Lock.Action == access.ActionLock {
		after := ""
		if n := len(l.out.Told); n > 0 {
			after = l.out.Told[n-1]
		}
		live := l.reach(ctx, after)
		if len(live) == 0 {
			break
		}
		told, gone := l.tell(ctx, live)
		left := l.await(ctx, told, gone)
		for _, one := range live {
			// A request that hears of it has ended before its issuer takes anything back.
			// Nothing is granted any more since the lock is on record.
			lives := slices.Contains(left, one.Request)
			if lives {
				workflow.GetLogger(ctx).Warn("request doesn't end by the lock, ending it from here", "request", one.Request)
			}
			if lives || one.Granted {
				owed = append(owed, one)
			}
		}
		if workflow.GetInfo(ctx).GetContinueAsNewSuggested() {
			return l.out, workflow.NewContinueAsNewError(ctx, Lock, access.Locking{Statement: in.Statement, Told: l.out.Told, Owed: owed})
		}
	}
	// Only now, as an issuer may be away for long: nobody has to wait to be told.
	l.takeBack(ctx, owed)
	l.show(ctx)
	return l.out, nil
}

// locking is one lock on its way to the requests.
type locking struct {
	statement access.Statement
	out       access.Locked
}

// reach finds the next live requests under the lock.
func (l *locking) reach(ctx workflow.Context, after string) (live []access.Live) {
	in := activities.ReachInput{Lock: l.out.Lock, After: after}
	_ = local(ctx, "find live requests under it", hallpass.Reach, in, &live) // has no refusals
	return live
}

// tell sends the lock to all of these requests at once, and says which have a workflow
// that may hear it, and which have none.
func (l *locking) tell(ctx workflow.Context, live []access.Live) (told, gone []string) {
	sent := make([]workflow.Future, len(live))
	for i, one := range live {
		sent[i] = workflow.SignalExternalWorkflow(ctx, access.WorkflowID(one.Request), "", access.MessageLock, l.statement)
		l.out.Told = append(l.out.Told, one.Request)
	}
	l.show(ctx)
	for i, one := range live {
		if sent[i].Get(ctx, nil) != nil {
			gone = append(gone, one.Request)
		} else {
			told = append(told, one.Request)
		}
	}
	return told, gone
}

// await waits a moment until all have ended that were told, and says which haven't,
// beside those that are gone.
func (l *locking) await(ctx workflow.Context, told, gone []string) (left []string) {
	in := activities.LingerInput{Requests: told, Patience: prompt}
	for nap := prompt; ; nap *= 2 {
		var live []string
		_ = local(ctx, "see that they end", hallpass.Linger, in, &live) // has no refusals
		in = activities.LingerInput{Requests: live}
		if len(live) == 0 || nap > deaf {
			return append(gone, live...)
		}
		_ = workflow.Sleep(ctx, nap) // the context is never cancelled
	}
}

// takeBack ends these requests, and returns when nothing of them is left with their
// issuers. What has ended meanwhile stays as it is.
func (l *locking) takeBack(ctx workflow.Context, live []access.Live) {
	left, free := workflow.NewWaitGroup(ctx), workflow.NewSemaphore(ctx, takenBackAtOnce)
	for _, one := range live {
		_ = free.Acquire(ctx, 1) // the context is never cancelled
		left.Add(1)
		workflow.Go(ctx, func(ctx workflow.Context) {
			defer left.Done()
			defer free.Release(1)
			end := audit.End{
				Request: one.Request, State: access.StateDenied, By: l.out.Lock.Signer, Statement: &l.statement,
				Why: activities.Because(access.Stop{Header: l.out.Lock.Header, Reason: l.out.Lock.Reason}),
			}
			// Neither of the two has refusals.
			if !one.Handed {
				_ = local(ctx, "record the end", hallpass.Close, end, nil)
				return
			}
			end.State = access.StateRevoked
			kind, _ := access.SplitResource(one.Resource)
			_ = steadily(onIssuer(ctx, kind, "take back "+one.Resource), issuer.Revoke, end, nil)
		})
	}
	left.Wait(ctx)
}

// show tells operators what was done. There is no reason in it: this is never
// encrypted.
func (l *locking) show(ctx workflow.Context) {
	lock := l.out.Lock
	line := fmt.Sprintf("**%s** %s %s · by %s", lock.Action, lock.Kind, lock.Name, lock.Signer)
	if lock.Until != nil {
		line += " · until " + clock(*lock.Until)
	}
	workflow.SetCurrentDetails(ctx, fmt.Sprintf("%s\n\n- live requests told: %d\n", line, len(l.out.Told)))
}

// Locks is a workflow that lists the locks in force, oldest first. It changes
// nothing; it is how those who don't see the audit log get to know.
func Locks(ctx workflow.Context) (evidence.Locks, error) {
	ctx, _ = workflow.NewDisconnectedContext(ctx)
	var held evidence.Locks
	err := local(ctx, "look what is locked", hallpass.Locks, workflow.Now(ctx), &held)
	return held, err
}
