package workflows

import (
	"go.temporal.io/sdk/workflow"

	"hallpass/access"
)

// Type is one type of workflow, as workers register it.
type Type struct {
	Name  string // in package access
	Func  any
	Build workflow.VersioningBehavior // where builds are told apart
}

// Types lists all of them. What begins on one build ends on it. Reviews don't:
// they last for as long as nobody signs.
func Types() []Type {
	return []Type{
		{access.Workflow, AccessRequest, workflow.VersioningBehaviorPinned},
		{access.WorkflowStop, Stop, workflow.VersioningBehaviorPinned},
		{access.WorkflowLock, Lock, workflow.VersioningBehaviorPinned},
		{access.WorkflowLocks, Locks, workflow.VersioningBehaviorPinned},
		{access.WorkflowDelegate, Delegate, workflow.VersioningBehaviorPinned},
		{access.WorkflowDelegations, Delegations, workflow.VersioningBehaviorPinned},
		{access.WorkflowReview, EmergencyReview, workflow.VersioningBehaviorAutoUpgrade},
		{access.WorkflowReviews, Reviews, workflow.VersioningBehaviorPinned},
		{access.WorkflowSweep, Sweep, workflow.VersioningBehaviorPinned},
		{access.HostWorkflow, HostCertificate, workflow.VersioningBehaviorPinned},
	}
}
