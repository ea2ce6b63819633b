package main

import (
	"cmp"
	"context"
	"encoding/hex"
	"fmt"
	"iter"
	mathrand "math/rand/v2"
	"time"

	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"hallpass/access"
	"hallpass/statement"
	"hallpass/testsuite/measure"
)

const (
	bareQueue      = "bench"
	bareIssueQueue = "bench-issue"
	bareApartQueue = "bench-issue-apart" // served by a process of its own
	long           = 4 * time.Hour       // no grant ends while it is measured
)

// bareInput says what a bare workflow goes through.
type bareInput struct {
	Approvals int
	Shown     bool          // shows its state where a request does, from its start on, and waits for an approval with a timer beside it
	Full      bool          // carries as many bytes as a request does at each step, says as much to operators, and has the issue at a process of its own
	Statement string        // the bytes that it starts with, where it is full
	Hold      time.Duration // a timer after the issue; 0: none
	Release   bool          // doesn't wait for that, but for one more signal, checks it and revokes
	Revoke    bool          // revokes after the timer
}

// The bytes of a request's payloads, as they are in the recorded histories of one that is
// automatic and of one with an approval.
const (
	startBytes   = 580  // of the signed request, which a workflow starts with, but for what else bareInput has
	ruledBytes   = 940  // of the ruling, and then for each approval
	neededBytes  = 170  // of what it takes
	messageBytes = 650  // of a decision
	heardBytes   = 2490 // of the standing and the evidence with that decision
	issueBytes   = 680  // of the evidence that an issuer is given, and as many for the decision
	issuedBytes  = 870  // of the certificate with its handle
)

// bytes are so many, none where the workflow isn't full.
func (in bareInput) bytes(n int) string {
	if !in.Full {
		return ""
	}
	out := make([]byte, n/2)
	_, _ = mathrand.NewChaCha8([32]byte{}).Read(out) // never fails
	return hex.EncodeToString(out)
}

// bare is what a request costs Temporal alone: the same tasks, signals and
// activities on the same queues, without anything in them.
func bare(ctx workflow.Context, in bareInput) (string, error) {
	queue := bareIssueQueue
	if in.Full {
		queue = bareApartQueue
	}
	ctx = workflow.WithLocalActivityOptions(ctx, workflow.LocalActivityOptions{StartToCloseTimeout: time.Minute})
	o := workflow.ActivityOptions{TaskQueue: queue, StartToCloseTimeout: time.Minute}
	if in.Full {
		o.Summary = "issue ssh/web-1 as deploy for alice, 4h"
	}
	ctx = workflow.WithActivityOptions(ctx, o)
	messages := workflow.GetSignalChannel(ctx, "message")
	decide := func(message, answer string) error {
		return workflow.ExecuteLocalActivity(ctx, bareDecide, message, answer).Get(ctx, &answer)
	}
	hear := func() error {
		var message string
		messages.Receive(ctx, &message)
		return decide(message, in.bytes(heardBytes))
	}
	if err := decide(in.Statement, in.bytes(ruledBytes+in.Approvals*neededBytes)); err != nil {
		return "", err
	}
	if in.Approvals > 0 {
		waiting, enough := workflow.WithCancel(ctx)
		if in.Shown {
			workflow.NewTimerWithOptions(waiting, long, in.timer("time for approvals"))
		}
		for range in.Approvals {
			if err := hear(); err != nil {
				return "", err
			}
		}
		enough()
	}
	show := func(state access.State) {
		if in.Shown {
			_ = workflow.UpsertTypedSearchAttributes(ctx, in.shown(ctx, state)...) // they are all known to the server
		}
	}
	show(access.StateIssuing)
	var out string
	if err := workflow.ExecuteActivity(ctx, bareIssue, in.bytes((1+in.Approvals)*issueBytes), in.Full).Get(ctx, &out); err != nil {
		return "", err
	}
	if in.Full {
		out = "" // it goes on, as a grant does
	}
	if in.Full || in.Release {
		show(access.StateActive)
	}
	holding, released := workflow.WithCancel(ctx)
	if in.Hold > 0 {
		if over := workflow.NewTimerWithOptions(holding, in.Hold, in.timer("end of the grant")); !in.Release {
			if err := over.Get(ctx, nil); err != nil {
				return "", err
			}
		}
	}
	if in.Release {
		if err := hear(); err != nil {
			return "", err
		}
		released()
	}
	if in.Release || in.Revoke {
		show(access.StateRevoking)
		if err := workflow.ExecuteActivity(ctx, bareRevoke).Get(ctx, nil); err != nil {
			return "", err
		}
		show(access.StateReleased)
	}
	return out, nil
}

// timer is what a timer is called, where a request's has a name.
func (in bareInput) timer(summary string) (o workflow.TimerOptions) {
	if in.Full {
		o.Summary = summary
	}
	return o
}

// shown is what operators filter by, as a request sets it at its start and writes it later.
func shown(state access.State) []temporal.SearchAttributeUpdate {
	return []temporal.SearchAttributeUpdate{
		temporal.NewSearchAttributeKeyKeyword(access.AttrState).ValueSet(string(state)),
		temporal.NewSearchAttributeKeyKeyword(access.AttrRequester).ValueSet("alice"),
		temporal.NewSearchAttributeKeyKeyword(access.AttrResource).ValueSet("ssh/web-1"),
	}
}

// shown is that with what a request has from its approval and from its grant on, where the
// workflow is full.
func (in bareInput) shown(ctx workflow.Context, state access.State) []temporal.SearchAttributeUpdate {
	all := shown(state)
	if in.Full && in.Approvals > 0 {
		all = append(all, temporal.NewSearchAttributeKeyKeywordList(access.AttrApprovers).ValueSet([]string{"bob"}))
	}
	if in.Full && state != access.StateIssuing {
		all = append(all, temporal.NewSearchAttributeKeyTime(access.AttrExpires).ValueSet(workflow.Now(ctx).Add(in.Hold)))
	}
	return all
}

func bareDecide(_ context.Context, _, answer string) (string, error) { return answer, nil }
func bareIssue(_ context.Context, _ string, full bool) (string, error) {
	if full {
		return bareInput{Full: true}.bytes(issuedBytes), nil
	}
	return "issued", nil
}
func bareRevoke(context.Context) error { return nil }

// flow is one thing that is done again and again, once by hallpass and once by
// bare workflows.
type flow struct {
	name           string
	hallpass, bare op
}

// op does one thing once, and returns the history that it has followed.
type op func(context.Context) (*watch, error)

// run does it for those who need no history.
func (o op) run(ctx context.Context) error {
	_, err := o(ctx)
	return err
}

func (w *world) automatic(ctx context.Context) (*watch, error) {
	a, err := w.ask(ctx, "ssh/web-2", long)
	if err == nil {
		_, err = a.history.until(issued)
	}
	return a.history, err
}

func (w *world) approved(ctx context.Context) (*watch, error) {
	a, err := w.askAndApprove(ctx)
	if err == nil {
		_, err = a.history.until(issued)
	}
	return a.history, err
}

// askAndApprove approves a request once it is known what it needs: nobody
// could sooner.
func (w *world) askAndApprove(ctx context.Context) (asked, error) {
	a, err := w.ask(ctx, "ssh/web-1", long)
	if err != nil {
		return a, err
	}
	if _, err := a.history.until(ruled); err != nil {
		return a, err
	}
	return a, w.approve(ctx, a)
}

func (w *world) life(ctx context.Context) (*watch, error) {
	a, err := w.askAndApprove(ctx)
	if err != nil {
		return nil, err
	}
	if _, err := a.history.until(issued); err != nil {
		return nil, err
	}
	if err := w.release(ctx, a); err != nil {
		return nil, err
	}
	_, err = a.history.until(over)
	return a.history, err
}

// bare does what a request does, by a bare workflow.
func (w *world) bare(in bareInput) op {
	in.Statement = in.bytes(startBytes)
	return func(ctx context.Context) (*watch, error) {
		id := "bare-" + statement.NewID()
		history, err := start(ctx, w.Client, id, in)
		if err != nil {
			return nil, err
		}
		message := func(text string) string { return cmp.Or(in.bytes(messageBytes), text) }
		if in.Approvals > 0 {
			if _, err := history.until(ruled); err != nil {
				return nil, err
			}
			if err := w.Client.SignalWorkflow(ctx, id, "", "message", message("approved")); err != nil {
				return nil, err
			}
		}
		if _, err := history.until(issued); err != nil || !in.Release {
			return history, err
		}
		if err := w.Client.SignalWorkflow(ctx, id, "", "message", message("released")); err != nil {
			return nil, err
		}
		_, err = history.until(over)
		return history, err
	}
}

func (b *bench) request() error  { return b.world(b.toTheCertificate) }
func (b *bench) postgres() error { return b.topology(b.toTheCertificate) }

func (b *bench) toTheCertificate(w *world) error {
	return b.flows([]flow{
		{"automatic", w.automatic, w.bare(bareInput{})},
		{"with an approval", w.approved, w.bare(bareInput{Approvals: 1})},
	})
}

func (b *bench) life() error {
	return b.world(func(w *world) error {
		return b.flows([]flow{
			{"whole life", w.life, w.bare(bareInput{Approvals: 1, Release: true})},
		})
	})
}

// flows runs them with 1, 16 and 64 in flight, in rounds: hallpass and bare
// workflows in turn.
func (b *bench) flows(flows []flow) error {
	const turns = 4
	for _, flight := range []int{1, 16, 64} {
		type sum struct {
			each measure.Times
			all  time.Duration
		}
		sums := make([][2]sum, len(flows))
		for turn := range turns + 1 {
			times := b.times(map[int]int{1: 25, 16: 120, 64: 250}[flight])
			if turn == 0 {
				times = min(times, 2*flight) // to get warm
			}
			for i, f := range flows {
				for k, op := range inTurn(turn, []op{f.bare, f.hallpass}) {
					each, all, err := inFlight(b.ctx, flight, times, op.run)
					if err != nil {
						return fmt.Errorf("%s, %d in flight: %w", f.name, flight, err)
					}
					if turn > 0 {
						sums[i][k].each = append(sums[i][k].each, each...)
						sums[i][k].all += all
					}
				}
			}
		}
		for i, f := range flows {
			for k, who := range []string{"bare workflow", "hallpass"} {
				s := sums[i][k]
				r := row{
					Name: fmt.Sprintf("%s, %s, %d in flight", f.name, who, flight), Line: f.name + ", " + who, X: float64(flight),
					PerSecond: float64(len(s.each)) / s.all.Seconds(), P50: s.each.At(0.5).Seconds(), P99: s.each.At(0.99).Seconds(), N: len(s.each),
				}
				if k == 1 {
					r.Base = fmt.Sprintf("%s, %s, %d in flight", f.name, "bare workflow", flight)
				}
				b.add(r)
			}
		}
	}
	return nil
}

// inTurn yields all with their indexes, another one first each turn: what one leaves behind
// on the server is work beside the next.
func inTurn[T any](turn int, all []T) iter.Seq2[int, T] {
	return func(yield func(int, T) bool) {
		for k := range all {
			i := (turn + k) % len(all)
			if !yield(i, all[i]) {
				return
			}
		}
	}
}
