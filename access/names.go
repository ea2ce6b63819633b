package access

// Names that Temporal and its operators see. All are part of the interface:
// anything that can talk to Temporal can start, steer and read a request.
const (
	Workflow            = "AccessRequest"   // workflow type
	WorkflowLock        = "Lock"            // workflow type: takes a Locking, returns a Locked
	WorkflowLocks       = "Locks"           // workflow type: returns the locks in force
	WorkflowStop        = "Stop"            // workflow type: takes a Stopping, returns a Stopped
	WorkflowDelegate    = "Delegate"        // workflow type: takes a Delegating, returns a Delegated
	WorkflowDelegations = "Delegations"     // workflow type: returns the delegations in force
	WorkflowReview      = "EmergencyReview" // workflow type: takes and returns a ReviewTask
	WorkflowReviews     = "Reviews"         // workflow type: returns the ReviewTasks that are open
	WorkflowSweep       = "Sweep"           // workflow type: takes a Sweeping, returns a Swept
	TaskQueue           = "hallpass"        // workflows and their local activities

	// Messages: each a signal, and under the same name an update. Each
	// carries one Statement of the type of the same name.
	MessageDecision = "decision"
	MessageRelease  = "release"
	MessageRevoke   = "revoke"
	MessageCancel   = "cancel"
	MessageLook     = "look"   // carries nothing: the request may have ended in the ledger, with one that it extends
	MessageReview   = "review" // of the workflow EmergencyReview
	MessageLock     = "lock"   // what the workflow Lock sends to the requests under it

	// QueryStatus answers with a Status.
	QueryStatus = "status"

	// Search attributes: Keyword, but for Approvers (KeywordList) and
	// Expires (Datetime). They are never encrypted: no free text in them.
	AttrRequester = "HallpassRequester"
	AttrResource  = "HallpassResource"
	AttrState     = "HallpassState"
	AttrApprovers = "HallpassApprovers"
	AttrExpires   = "HallpassExpires"

	// SweepSchedule is the id of the schedule that starts the workflow Sweep,
	// SweepNow that of a Sweep that somebody has asked for.
	SweepSchedule = "hallpass-sweep"
	SweepNow      = "sweep-now"

	workflowPrefix   = "access-"
	lockPrefix       = "lock-"
	delegationPrefix = "delegation-"
	reviewPrefix     = "review-"
	stopPrefix       = "stop-"
)

// WorkflowID is the workflow id of a request.
func WorkflowID(request string) string { return workflowPrefix + request }

// LockWorkflowID is the workflow id of a lock statement.
func LockWorkflowID(statement string) string { return lockPrefix + statement }

// DelegationWorkflowID is the workflow id of a delegation statement.
func DelegationWorkflowID(statement string) string { return delegationPrefix + statement }

// StopWorkflowID is the workflow id of a word that ends a request beside its own
// workflow.
func StopWorkflowID(statement string) string { return stopPrefix + statement }

// ReviewWorkflowID is the workflow id of the review of a request.
func ReviewWorkflowID(request string) string { return reviewPrefix + request }

// RequestID is the request id of a workflow id, or "" if it isn't one's.
func RequestID(workflow string) string {
	if len(workflow) <= len(workflowPrefix) || workflow[:len(workflowPrefix)] != workflowPrefix {
		return ""
	}
	return workflow[len(workflowPrefix):]
}

// IssueQueue is the task queue of the issuers of one kind.
func IssueQueue(kind string) string { return TaskQueue + "-issue-" + kind }
