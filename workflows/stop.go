package workflows

import (
	"go.temporal.io/sdk/workflow"

	"hallpass/access"
	"hallpass/activities"
)

// Stop is the workflow of a word that ends a request which hears no more:
// whoever can send a request messages can use up what it hears. Its id should be
// access.StopWorkflowID of the statement's id; running it again changes nothing
// that stands.
//
// The request is over once the first activity has put its end into the ledger;
// what is left is to take back what was granted, and to have the request look. It
// fails no more than AccessRequest does: a refusal is in its result.
func Stop(ctx workflow.Context, in access.Stopping) (access.Stopped, error) {
	ctx, _ = workflow.NewDisconnectedContext(ctx) // no revocation stops halfway
	var out activities.StopOutput
	if err := local(ctx, "check and record", hallpass.Stop, in, &out); err != nil {
		return access.Stopped{Refused: activities.Refusal(err)}, nil
	}
	_ = steadily(onIssuer(ctx, out.Kind, "take back "+out.Resource), issuer.Revoke, out.End, nil) // has no refusals
	// It may be gone, or hear not even that: it ends by itself, at its time.
	_ = workflow.SignalExternalWorkflow(ctx, access.WorkflowID(in.Request), "", access.MessageLook, nil).Get(ctx, nil)
	return access.Stopped{State: out.End.State}, nil
}
