package main

import (
	"cmp"
	"context"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"iter"
	mathrand "math/rand/v2"
	"strings"
	"time"

	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"
	_ "modernc.org/sqlite" // rows on disk

	"hallpass/access"
	"hallpass/statement"
	"hallpass/testsuite/measure"
)

const (
	bareQueue      = "bench"
	bareIssueQueue = "bench-issue"
	long           = 4 * time.Hour // no grant ends while it is measured
)

// What bare workflows are set beside, by name.
const (
	bareFlow = "bare workflow"
	sameFlow = "the same flow with empty activities"
	diskFlow = "that flow with as many rows on disk"
)

// bareInput says what a bare workflow goes through.
type bareInput struct {
	Approvals int
	Hold      time.Duration // a timer after the issue; 0: none
	Release   bool          // doesn't wait for that, but for one more signal, checks it and revokes
	Revoke    bool          // revokes after the timer

	// Same makes of it the flow of a request: it tells operators what a request does
	// and when, waits for an approval with a timer beside it, and carries as many
	// bytes at each step.
	Same      bool
	Statement string // the bytes that it starts with
	// Disk has its activities also put as many rows on disk as a request has
	// records there, each with a transaction and a flush of its own.
	Disk bool
}

// same is the flow of a request with nothing in its activities.
func (in bareInput) same() bareInput {
	in.Same, in.Hold = true, long
	return in
}

// disk is that with its records.
func (in bareInput) disk() bareInput {
	in = in.same()
	in.Disk = true
	return in
}

// rows are as many, none where there is nothing to put on disk.
func (in bareInput) rows(n int) int {
	if !in.Disk {
		return 0
	}
	return n
}

// The transactions that a request makes: of what it asks and how it is ruled, of each
// message that is heard, of the handle and then the certificate, and of the version
// and then the list that a revocation is.
const (
	ruledRows   = 1
	heardRows   = 1
	issuedRows  = 2
	revokedRows = 2
)

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
	stoppedBytes = 560  // of a release that is heard
	revokeBytes  = 950  // of the end that an issuer is given
)

// bytes are so many, none where it isn't the flow of a request.
func (in bareInput) bytes(n int) string {
	if !in.Same {
		return ""
	}
	out := make([]byte, n/2)
	_, _ = mathrand.NewChaCha8([32]byte{}).Read(out) // never fails
	return hex.EncodeToString(out)
}

// bare is what a request costs Temporal alone: the same tasks, signals and
// activities on the same queues, without anything in them.
func bare(ctx workflow.Context, in bareInput) (string, error) {
	ctx = workflow.WithLocalActivityOptions(ctx, workflow.LocalActivityOptions{StartToCloseTimeout: time.Minute})
	o := workflow.ActivityOptions{TaskQueue: bareIssueQueue, StartToCloseTimeout: time.Minute}
	if in.Same {
		o.Summary = "issue ssh/web-1 as deploy for alice, 4h"
	}
	ctx = workflow.WithActivityOptions(ctx, o)
	messages := workflow.GetSignalChannel(ctx, "message")
	var activities *bareActivities
	decide := func(message, answer string, rows int) error {
		return workflow.ExecuteLocalActivity(ctx, activities.Decide, message, answer, in.rows(rows)).Get(ctx, &answer)
	}
	hear := func(answer int) error {
		var message string
		messages.Receive(ctx, &message)
		return decide(message, in.bytes(answer), heardRows)
	}
	if err := decide(in.Statement, in.bytes(ruledBytes+in.Approvals*neededBytes), ruledRows); err != nil {
		return "", err
	}
	if in.Approvals > 0 {
		waiting, enough := workflow.WithCancel(ctx)
		if in.Same {
			workflow.NewTimerWithOptions(waiting, long, in.timer("time for approvals"))
		}
		for range in.Approvals {
			if err := hear(heardBytes); err != nil {
				return "", err
			}
		}
		enough()
	}
	show := func(state access.State) {
		if in.Same {
			_ = workflow.UpsertTypedSearchAttributes(ctx, in.shown(ctx, state)...) // they are all known to the server
		}
	}
	show(access.StateIssuing)
	var out string
	if err := workflow.ExecuteActivity(ctx, activities.Issue, in.bytes((1+in.Approvals)*issueBytes), in.Same, in.rows(issuedRows)).Get(ctx, &out); err != nil {
		return "", err
	}
	if in.Same {
		out = "" // it goes on, as a grant does
	}
	if in.Same || in.Release {
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
		if err := hear(stoppedBytes); err != nil {
			return "", err
		}
		released()
	}
	if in.Release || in.Revoke {
		show(access.StateRevoking)
		if err := workflow.ExecuteActivity(ctx, activities.Revoke, in.bytes(revokeBytes), in.rows(revokedRows)).Get(ctx, nil); err != nil {
			return "", err
		}
		show(access.StateReleased)
	}
	return out, nil
}

// timer is what a timer is called, where a request's has a name.
func (in bareInput) timer(summary string) (o workflow.TimerOptions) {
	if in.Same {
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

// shown is that with what a request has from its approval and from its grant on.
func (in bareInput) shown(ctx workflow.Context, state access.State) []temporal.SearchAttributeUpdate {
	all := shown(state)
	if in.Approvals > 0 {
		all = append(all, temporal.NewSearchAttributeKeyKeywordList(access.AttrApprovers).ValueSet([]string{"bob"}))
	}
	if state != access.StateIssuing {
		all = append(all, temporal.NewSearchAttributeKeyTime(access.AttrExpires).ValueSet(workflow.Now(ctx).Add(in.Hold)))
	}
	return all
}

// bareActivities do nothing but put rows on disk where they are told to.
type bareActivities struct{ rows *diskRows }

// Decide has the bytes of a message and of what comes of it.
func (a *bareActivities) Decide(ctx context.Context, message, answer string, n int) (string, error) {
	return answer, a.rows.add(ctx, n, message, answer)
}

// Issue has those of the evidence and, where they count, of the certificate.
func (a *bareActivities) Issue(ctx context.Context, evidence string, same bool, n int) (string, error) {
	certificate := bareInput{Same: same}.bytes(issuedBytes)
	return cmp.Or(certificate, "issued"), a.rows.add(ctx, n, evidence, certificate)
}

// Revoke has those of the end.
func (a *bareActivities) Revoke(ctx context.Context, end string, n int) error {
	return a.rows.add(ctx, n, end)
}

// diskRows are on disk when add returns: in SQLite, as hallpass has it (write-ahead log,
// synchronous=FULL), without indexes.
type diskRows struct{ db *sql.DB }

func openRows(path string) (*diskRows, error) {
	db, err := sql.Open("sqlite", "file:"+path+"?_pragma=journal_mode(wal)&_pragma=synchronous(full)")
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(1)
	if _, err := db.Exec("CREATE TABLE rows (data TEXT NOT NULL) STRICT"); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return &diskRows{db}, nil
}

// add writes n rows, each in a transaction of its own.
func (r *diskRows) add(ctx context.Context, n int, data ...string) error {
	for range n {
		if _, err := r.db.ExecContext(ctx, "INSERT INTO rows VALUES (?)", strings.Join(data, "")); err != nil {
			return err
		}
	}
	return nil
}

// flow is one thing that is done again and again, once by hallpass and once by
// bare workflows.
type flow struct {
	name     string
	hallpass op
	bare     bareInput
}

// who does a flow.
type who struct {
	name string
	op   op
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
	return b.flows(w, []flow{
		{"automatic", w.automatic, bareInput{}},
		{"with an approval", w.approved, bareInput{Approvals: 1}},
	})
}

func (b *bench) life() error {
	return b.world(func(w *world) error {
		return b.flows(w, []flow{
			{"whole life", w.life, bareInput{Approvals: 1, Release: true}},
		})
	})
}

// flows runs them with 1, 16 and 64 in flight, in rounds: hallpass and bare
// workflows in turn.
func (b *bench) flows(w *world, flows []flow) error {
	const turns = 4
	for _, flight := range []int{1, 16, 64} {
		type sum struct {
			each measure.Times
			all  time.Duration
		}
		whose := make([][]who, len(flows))
		sums := make([][]sum, len(flows))
		for i, f := range flows {
			whose[i] = []who{{bareFlow, w.bare(f.bare)}, {sameFlow, w.bare(f.bare.same())}, {"hallpass", f.hallpass}}
			sums[i] = make([]sum, len(whose[i]))
		}
		for turn := range turns + 1 {
			times := b.times(map[int]int{1: 25, 16: 120, 64: 250}[flight])
			if turn == 0 {
				times = min(times, 2*flight) // to get warm
			}
			for i, f := range flows {
				for k, who := range inTurn(turn, whose[i]) {
					each, all, err := inFlight(b.ctx, flight, times, who.op.run)
					if err != nil {
						return fmt.Errorf("%s, %s, %d in flight: %w", f.name, who.name, flight, err)
					}
					if turn > 0 {
						sums[i][k].each = append(sums[i][k].each, each...)
						sums[i][k].all += all
					}
				}
			}
		}
		for i, f := range flows {
			for k, who := range whose[i] {
				s := sums[i][k]
				r := row{
					Name: fmt.Sprintf("%s, %s, %d in flight", f.name, who.name, flight), Line: f.name + ", " + who.name, X: float64(flight),
					PerSecond: float64(len(s.each)) / s.all.Seconds(), P50: s.each.At(0.5).Seconds(), P99: s.each.At(0.99).Seconds(), N: len(s.each),
				}
				if k > 0 {
					r.Base = fmt.Sprintf("%s, %s, %d in flight", f.name, bareFlow, flight)
				}
				if who.name == "hallpass" {
					same := sums[i][k-1]
					r.Also = map[string]float64{
						"of the same flow's rate":   same.all.Seconds() / s.all.Seconds(),
						"of the same flow's median": r.P50 / same.each.At(0.5).Seconds(),
					}
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
