package workflows_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/mock"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/workflow"

	"hallpass/access"
	"hallpass/activities"
	"hallpass/audit"
	"hallpass/notify"
	"hallpass/workflows"
)

const glassPolicy = `
rules:
  - name: production
    when: resource.labels.env == "prod"
    max_duration: 8h
    approvals: [{count: 1, from: [sre]}]
    emergency: {tell: [dev], review: {from: [security, sre], count: 2, within: 24h}}
`

// breaks makes alice's request break the glass.
func (w *world) breaks() {
	w.load(glassPolicy)
	w.ask("ssh/web-1", func(r *access.Request) {
		r.Mode, r.Reason = access.ModeEmergency, "the shop is down and nobody answers"
	})
}

// review is somebody's review of the request, signed now.
func (w *world) review(name string) access.Statement {
	return w.sign(name, access.Review{Header: w.header(name, access.TypeReview), Request: w.req.ID, RequestHash: w.request.Hash()})
}

// Break-glass: access at once, and a review that outlives it.
func TestBreakGlass(t *testing.T) {
	w := newWorld(t)
	w.breaks()
	w.env.RegisterWorkflow(workflows.EmergencyReview)
	var reviewing access.ReviewTask
	w.env.OnWorkflow(access.WorkflowReview, mock.Anything, mock.Anything).Return(
		func(_ workflow.Context, in access.ReviewTask) (access.ReviewTask, error) {
			reviewing = in
			return in, nil
		}).Maybe()
	w.at(time.Minute, func() {
		if s := w.status(); s.State != access.StateActive || s.Credential == nil || !strings.HasPrefix(s.Standing.Why, "BREAK-GLASS") {
			t.Errorf("after a minute it is %s: %s", s.State, s.Standing.Why)
		}
	})
	w.env.ExecuteWorkflow(workflows.AccessRequest, access.Submission{Request: w.request})
	var out access.Outcome
	if err := w.env.GetWorkflowResult(&out); err != nil || out.State != access.StateExpired {
		t.Fatalf("it ended as %+v, %v", out, err)
	}
	if reviewing.Request != w.req.ID {
		t.Errorf("the review started is of %+v", reviewing)
	}
	if n := w.recorded(audit.EmergencyGranted); n != 1 {
		t.Errorf("%d events say that glass was broken, want 1", n)
	}
}

// taken has the glass broken by the issuer itself, and the review run.
func (w *world) taken(in access.ReviewTask) {
	w.t.Helper()
	if _, err := w.issuer.Issue(w.t.Context(), access.Evidence{Request: w.request}); err != nil {
		w.t.Fatal(err)
	}
	w.env.SetStartWorkflowOptions(client.StartWorkflowOptions{ID: access.ReviewWorkflowID(w.req.ID), TaskQueue: access.TaskQueue})
	in.Request = w.req.ID
	w.env.ExecuteWorkflow(workflows.EmergencyReview, in)
}

// The review reminds people until two have signed it off, and not one of them
// twice.
func TestEmergencyReview(t *testing.T) {
	w := newWorld(t)
	w.breaks()
	w.acts.Channels = &notify.Channels{}
	var told []string
	w.env.OnActivity(w.acts.Notify, mock.Anything, mock.Anything).Return(
		func(_ context.Context, in activities.NotifyInput) (activities.NotifyOutput, error) {
			m := in.Message
			told = append(told, string(m.Event)+" after "+m.Time.Sub(w.start).Round(time.Hour).String()+" to "+strings.Join(m.Groups, ",")+" and "+strings.Join(m.Told, ","))
			return activities.NotifyOutput{}, nil
		})
	send := func(name string) { w.env.SignalWorkflow(access.MessageReview, w.review(name)) }
	w.at(time.Hour, func() { send("bob"); send("bob"); send("alice"); send("mallory") })
	var twice *reply
	w.at(25*time.Hour, func() { twice = w.update(access.MessageReview, w.review("bob")) })
	w.at(50*time.Hour, func() { send("trent") })
	w.taken(access.ReviewTask{})
	var task access.ReviewTask
	if err := w.env.GetWorkflowResult(&task); err != nil || !task.Done || len(task.Signed) != 2 {
		t.Fatalf("it ended as %+v, %v", task, err)
	}
	twice.want(t, access.CodeDuplicate)
	want := []string{
		"emergency.granted after 0s to security,sre and dev",
		"emergency.review after 12h0m0s to security,sre and dev",
		"emergency.review after 24h0m0s to security,sre and dev",
		"emergency.review after 48h0m0s to security,sre and dev",
	}
	if strings.Join(told, "\n") != strings.Join(want, "\n") {
		t.Errorf("told were\n%s\nwant\n%s", strings.Join(told, "\n"), strings.Join(want, "\n"))
	}
	for typ, want := range map[string]int{audit.ReviewSigned: 2, audit.ReviewOverdue: 1, audit.ReviewDone: 1} {
		if n := w.recorded(typ); n != want {
			t.Errorf("%d events %s, want %d", n, typ, want)
		}
	}
}

// A review that was started anew, or late, goes on where it stands, and one of
// nothing ends at once.
func TestEmergencyReviewStartedAnew(t *testing.T) {
	w := newWorld(t)
	w.breaks()
	w.at(0, func() { w.env.SignalWorkflow(access.MessageReview, w.review("bob")) })
	w.at(time.Second, func() { w.env.SignalWorkflow(access.MessageReview, w.review("carol")) })
	w.taken(access.ReviewTask{Reminded: 3})
	var task access.ReviewTask
	if err := w.env.GetWorkflowResult(&task); err != nil || !task.Done {
		t.Fatalf("it ended as %+v, %v", task, err)
	}

	// What was signed past it ends it at the next reminder.
	w = newWorld(t)
	w.breaks()
	w.at(time.Hour, func() {
		for _, name := range []string{"bob", "carol"} {
			if _, err := w.log.Review(context.Background(), w.book.Load(), w.review(name), w.env.Now()); err != nil {
				t.Error(err)
			}
		}
	})
	w.taken(access.ReviewTask{})
	if err := w.env.GetWorkflowResult(&task); err != nil || !task.Done || w.env.Now().Sub(w.start) > 13*time.Hour {
		t.Errorf("signed off past it, it ended as %+v at %s, %v", task, w.env.Now(), err)
	}

	w = newWorld(t)
	w.env.SetStartWorkflowOptions(client.StartWorkflowOptions{ID: access.ReviewWorkflowID(w.req.ID), TaskQueue: access.TaskQueue})
	var none *reply
	w.at(0, func() { none = w.update(access.MessageReview, w.review("bob")) })
	w.env.ExecuteWorkflow(workflows.EmergencyReview, access.ReviewTask{Request: w.req.ID})
	if err := w.env.GetWorkflowResult(&task); err != nil {
		t.Fatal(err)
	}
	if none != nil && none.done && none.refusal == nil {
		t.Errorf("a review of nothing was taken: %+v", none)
	}
}

// Whoever reaches the queue can have this activity run, with whatever he makes
// up: only what the record says is overdue gets on record as that, and a
// request that nobody has heard of isn't filed under anybody.
func TestOverdueIsByTheRecord(t *testing.T) {
	w := newWorld(t)
	w.breaks()
	overdue := func(request string) {
		t.Helper()
		if err := w.acts.Overdue(t.Context(), request); err != nil {
			t.Error(err)
		}
	}
	none := func(when string) {
		t.Helper()
		if n := w.recorded(audit.ReviewOverdue); n != 0 {
			t.Fatalf("%s, %d events say that a review is overdue", when, n)
		}
	}
	overdue(w.req.ID)
	overdue("")
	overdue("made up")
	none("with nothing granted")
	if report, err := w.log.Verify(t.Context(), audit.VerifyOptions{}); err != nil || !report.OK {
		t.Errorf("log: %+v, %v", report.Problems, err)
	}
	w.at(time.Hour, func() { overdue(w.req.ID); none("before it is due") })
	w.at(25*time.Hour, func() {
		overdue(w.req.ID)
		overdue(w.req.ID)
		if n := w.recorded(audit.ReviewOverdue); n != 1 {
			t.Errorf("%d events say that it is overdue, want 1", n)
		}
	})
	w.at(26*time.Hour, func() {
		w.env.SignalWorkflow(access.MessageReview, w.review("bob"))
		w.env.SignalWorkflow(access.MessageReview, w.review("trent"))
	})
	w.taken(access.ReviewTask{})
}
