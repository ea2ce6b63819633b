package workflows

import (
	"context"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/mock"
	sdktest "go.temporal.io/sdk/testsuite"
	sdkworker "go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"

	"hallpass/access"
	"hallpass/activities"
)

func TestHostCertificate(t *testing.T) {
	in := access.Enrolment{Statement: access.Statement{Payload: "p", Signature: "s"}, HostKey: "h", AgentKey: "a", Names: []string{"web-1"}}
	want := access.Statement{Payload: "host web-1", Signature: "by the CA"}
	down := access.Errorf(access.CodeUnavailable, "locked by another process")
	for _, tt := range []struct {
		name   string
		errors []error // of the first calls
		code   access.Code
		fails  bool
	}{
		{"at once", nil, "", false},
		{"after a part was down", []error{down, down, down}, "", false},
		{"refused", []error{access.Errorf(access.CodeDuplicate, "used").WithHint("another")}, access.CodeDuplicate, true},
		{"no issuer for long", make([]error, 1000), "", true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var suite sdktest.WorkflowTestSuite
			env := suite.NewTestWorkflowEnvironment()
			env.SetWorkerOptions(sdkworker.Options{DeadlockDetectionTimeout: time.Minute}) // the machine may be busy
			env.RegisterWorkflowWithOptions(HostCertificate, workflow.RegisterOptions{Name: access.HostWorkflow})
			env.RegisterActivity(&activities.Certifying{})
			calls := 0
			env.OnActivity(certifying.CertifyHost, mock.Anything, in).Return(
				func(context.Context, access.Enrolment) (access.Statement, error) {
					calls++
					if calls > len(tt.errors) {
						return want, nil
					}
					err := tt.errors[calls-1]
					if err == nil {
						err = down
					}
					return access.Statement{}, activities.Fail(err)
				})
			env.ExecuteWorkflow(access.HostWorkflow, in)
			err := env.GetWorkflowError()
			if (err != nil) != tt.fails || !env.IsWorkflowCompleted() {
				t.Fatalf("%v", err)
			}
			if err != nil {
				if refusal := activities.Refusal(err); (refusal != nil) != (tt.code != "") || refusal != nil && refusal.Code != tt.code {
					t.Errorf("refusal %v, want %q", refusal, tt.code)
				}
				return
			}
			var got access.Statement
			if err := env.GetWorkflowResult(&got); err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(want, got); d != "" {
				t.Error(d)
			}
		})
	}
}
