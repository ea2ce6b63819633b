package workflows

import (
	"time"

	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"hallpass/access"
	"hallpass/activities"
)

// Only its methods' names are used in here.
var certifying *activities.Certifying

// hostPatience is how long a host waits for an issuer. Whoever asked has given
// up by then, and asks again.
const hostPatience = 10 * time.Minute

// HostCertificate takes a host in, or renews what it has, and carries to it what the
// issuer has signed (access.Enrolled). Its id has to be
// access.HostWorkflowID of the statement's id. It fails with a refusal
// (activities.Refusal), or when no issuer came by.
func HostCertificate(ctx workflow.Context, in access.Enrolment) (access.Statement, error) {
	var out access.Statement
	err := workflow.ExecuteActivity(workflow.WithActivityOptions(ctx, workflow.ActivityOptions{
		TaskQueue:              access.IssueQueue("ssh"),
		Summary:                "certify host",
		StartToCloseTimeout:    30 * time.Second,
		ScheduleToCloseTimeout: hostPatience,
		RetryPolicy: &temporal.RetryPolicy{
			InitialInterval:    200 * time.Millisecond,
			BackoffCoefficient: 2,
			MaximumInterval:    15 * time.Second,
		},
	}), certifying.CertifyHost, in).Get(ctx, &out)
	return out, err
}
