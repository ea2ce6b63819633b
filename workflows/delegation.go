package workflows

import (
	"fmt"

	"go.temporal.io/sdk/workflow"

	"hallpass/access"
	"hallpass/activities"
	"hallpass/evidence"
)

// Delegate is the workflow of one delegation statement, be it to delegate or to
// revoke. Its id should be access.DelegationWorkflowID of the statement's id;
// running it again changes nothing that stands.
//
// What it says counts from the moment that it is on record. Nothing has to run
// for it to go on or to end: whoever judges a decision in another's place looks
// into the record. A refusal is in its result.
func Delegate(ctx workflow.Context, in access.Delegating) (access.Delegated, error) {
	ctx, _ = workflow.NewDisconnectedContext(ctx)
	var out access.Delegated
	if err := local(ctx, "check and record", hallpass.Delegate, in.Statement, &out.Delegation); err != nil {
		out.Refused = activities.Refusal(err)
		return out, nil
	}
	d := out.Delegation // no reason: this is never encrypted
	if d.Action == access.ActionRevoke {
		workflow.SetCurrentDetails(ctx, fmt.Sprintf("**revoked** delegation %s to %s · by %s\n", d.Delegation, d.To, d.Signer))
	} else {
		workflow.SetCurrentDetails(ctx, d.Why()+"\n")
	}
	return out, nil
}

// Delegations is a workflow that lists the delegations in force, oldest first.
// It changes nothing; it is how those who don't see the audit log get to know.
func Delegations(ctx workflow.Context) (evidence.Delegations, error) {
	ctx, _ = workflow.NewDisconnectedContext(ctx)
	var given evidence.Delegations
	err := local(ctx, "look what is delegated", hallpass.Delegations, workflow.Now(ctx), &given)
	return given, err
}
