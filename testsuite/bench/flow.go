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

	_ "github.com/jackc/pgx/v5/stdlib" // rows on disk
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

// What hallpass is set beside, by name: a workflow with as many activities; one that does
// all that a request has Temporal do; and one whose activities also make as many
// transactions, which is what being durable takes.
const (
	bareFlow = "bare workflow"
	sameFlow = "the same flow, empty"
	diskFlow = "the same flow, with as many transactions"
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
	// Disk has its activities also make as many transactions as a request does, each of
	// one row and with a flush of its own.
	Disk bool
}

// same is the flow of a request with nothing in its activities.
func (in bareInput) same() bareInput {
	in.Same, in.Hold = true, long
	return in
}

// disk is that with its transactions.
func (in bareInput) disk() bareInput {
	in = in.same()
	in.Disk = true
	return in
}

// commits are so many transactions, none where there is nothing to put on disk.
func (in bareInput) commits(n int) int {
	if !in.Disk {
		return 0
	}
	return n
}

// The transactions that a request makes: of what it asks and how it is ruled, of each
// message that is heard, of the handle and then the certificate, and of the version
// and then the list that a revocation is.
const (
	ruledCommits   = 1
	heardCommits   = 1
	issuedCommits  = 2
	revokedCommits = 2
)

// The bytes of a request's payloads, as they are in the recorded histories of one that is
// automatic, of one with an approval, and of one that is released.
const (
	startBytes   = 580  // of the signed request, which a workflow starts with, but for what else bareInput has
	ruledBytes   = 940  // of the ruling, and then for each approval
	neededBytes  = 170  // of what it takes
	messageBytes = 650  // of a decision
	heardBytes   = 2490 // of the standing and the evidence with that decision
	issueBytes   = 680  // of the evidence that an issuer is given, and as many for the decision
	issuedBytes  = 870  // of the certificate with its handle
	stoppedBytes = 510  // of a release that is heard
	revokeBytes  = 990  // of the end that an issuer is given
	outcomeBytes = 300  // of what a workflow ends with
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

// bare is what a request costs Temporal alone: as many tasks, signals and activities, on as
// many queues.
func bare(ctx workflow.Context, in bareInput) (string, error) {
	inLine := func(summary string) workflow.Context {
		return workflow.WithLocalActivityOptions(ctx, workflow.LocalActivityOptions{StartToCloseTimeout: time.Minute, Summary: in.says(summary)})
	}
	atIssuer := func(summary string) workflow.Context {
		return workflow.WithActivityOptions(ctx, workflow.ActivityOptions{
			TaskQueue: bareIssueQueue, StartToCloseTimeout: time.Minute, Summary: in.says(summary),
		})
	}
	messages := workflow.GetSignalChannel(ctx, "message")
	var activities *bareActivities
	decide := func(summary, message, answer string, commits int) error {
		return workflow.ExecuteLocalActivity(inLine(summary), activities.Decide, message, answer, in.commits(commits)).Get(ctx, &answer)
	}
	hear := func(answer int) error {
		var message string
		messages.Receive(ctx, &message)
		return decide("check message", message, in.bytes(answer), heardCommits)
	}
	if err := decide("decide on request", in.Statement, in.bytes(ruledBytes+in.Approvals*neededBytes), ruledCommits); err != nil {
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
	if err := workflow.ExecuteActivity(atIssuer("issue ssh/web-1 as deploy for alice, 4h"), activities.Issue, in.bytes((1+in.Approvals)*issueBytes), in.Same, in.commits(issuedCommits)).Get(ctx, &out); err != nil {
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
		if err := workflow.ExecuteActivity(atIssuer("revoke ssh/web-1 as deploy for alice"), activities.Revoke, in.bytes(revokeBytes), in.commits(revokedCommits)).Get(ctx, nil); err != nil {
			return "", err
		}
		show(access.StateReleased)
		out = in.bytes(outcomeBytes)
	}
	return out, nil
}

// says is a line for operators, where a request has one.
func (in bareInput) says(line string) string {
	if !in.Same {
		return ""
	}
	return line
}

// timer is what a timer is called.
func (in bareInput) timer(summary string) workflow.TimerOptions {
	return workflow.TimerOptions{Summary: in.says(summary)}
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

// bareActivities do nothing but make transactions where they are told to.
type bareActivities struct{ disk *disk }

// Decide has the bytes of a message and of what comes of it.
func (a *bareActivities) Decide(ctx context.Context, message, answer string, commits int) (string, error) {
	return answer, a.disk.commit(ctx, commits, message, answer)
}

// Issue has those of the evidence and, where they count, of the certificate.
func (a *bareActivities) Issue(ctx context.Context, evidence string, same bool, commits int) (string, error) {
	certificate := bareInput{Same: same}.bytes(issuedBytes)
	return cmp.Or(certificate, "issued"), a.disk.commit(ctx, commits, evidence, certificate)
}

// Revoke has those of the end.
func (a *bareActivities) Revoke(ctx context.Context, end string, commits int) error {
	return a.disk.commit(ctx, commits, end)
}

// disk is a table without an index where hallpass has its audit log: in an SQLite file, which is
// written to as hallpass does it, with a write-ahead log and synchronous=FULL, or on the same
// PostgreSQL. Processes may share one.
type disk struct {
	db     *sql.DB
	insert *sql.Stmt
}

// openDisk opens a file, or a database by its address, postgres://….
func openDisk(where string) (*disk, error) {
	driver, address, flags := "sqlite", "file:"+where+"?_pragma=busy_timeout(10000)&_pragma=journal_mode(wal)&_pragma=synchronous(full)", " STRICT"
	if strings.HasPrefix(where, "postgres://") {
		driver, address, flags = "pgx", where, ""
	}
	db, err := sql.Open(driver, address)
	if err != nil {
		return nil, err
	}
	if driver == "sqlite" {
		db.SetMaxOpenConns(1) // it has one writer at a time
	} else {
		db.SetMaxOpenConns(16)
		db.SetMaxIdleConns(16)
	}
	_, err = db.Exec("CREATE TABLE IF NOT EXISTS rows (data TEXT NOT NULL)" + flags)
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	insert, err := db.Prepare("INSERT INTO rows VALUES ($1)")
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return &disk{db, insert}, nil
}

// commit makes so many transactions of one row, and returns when they are on disk.
func (d *disk) commit(ctx context.Context, n int, data ...string) error {
	for range n {
		if _, err := d.insert.ExecContext(ctx, strings.Join(data, "")); err != nil {
			return err
		}
	}
	return nil
}

// flow is one thing that is done again and again, by hallpass and by what it is set
// beside.
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

func (b *bench) request() error { return b.world(b.toTheCertificate) }

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

// beside is hallpass in a flow, and what it is set beside.
func (w *world) beside(f flow) []who {
	return []who{{bareFlow, w.bare(f.bare)}, {sameFlow, w.bare(f.bare.same())}, {diskFlow, w.bare(f.bare.disk())}, {"hallpass", f.hallpass}}
}

// flows runs them with 1, 16 and 64 in flight, in rounds: hallpass and what it is set
// beside in turn.
func (b *bench) flows(w *world, flows []flow) error {
	const turns = 4
	for _, flight := range []int{1, 16, 64} {
		type sum struct {
			each measure.Times
			all  time.Duration
		}
		whose := make([][]who, len(flows))
		sums := make([]map[string]*sum, len(flows))
		for i, f := range flows {
			whose[i], sums[i] = w.beside(f), map[string]*sum{}
			for _, who := range whose[i] {
				sums[i][who.name] = &sum{}
			}
		}
		for turn := range turns + 1 {
			times := b.inFlightTimes(map[int]int{1: 25, 16: 120, 64: 250}[flight], flight)
			if turn == 0 {
				times = warmUp(flight)
			}
			for i, f := range flows {
				for _, who := range inTurn(turn, whose[i]) {
					each, all, err := inFlight(b.ctx, flight, times, who.op.run)
					if err != nil {
						return fmt.Errorf("%s, %s, %d in flight: %w", f.name, who.name, flight, err)
					}
					if s := sums[i][who.name]; turn > 0 {
						s.each = append(s.each, each...)
						s.all += all
					}
				}
			}
		}
		for i, f := range flows {
			name := func(who string) string { return fmt.Sprintf("%s, %s, %d in flight", f.name, who, flight) }
			for _, who := range whose[i] {
				s := sums[i][who.name]
				r := row{
					Name: name(who.name), X: float64(flight),
					PerSecond: float64(len(s.each)) / s.all.Seconds(), P50: s.each.At(0.5).Seconds(), P99: s.each.At(0.99).Seconds(), N: len(s.each),
				}
				if who.name != bareFlow {
					r.Base = name(bareFlow)
				}
				if who.name != diskFlow {
					r.Line = f.name + ", " + who.name
				}
				if who.name == "hallpass" {
					r.Also = map[string]float64{}
					for _, base := range []string{sameFlow, diskFlow} {
						r.Also["of "+base] = sums[i][base].all.Seconds() / s.all.Seconds()
					}
				}
				b.add(r)
			}
		}
	}
	return nil
}

// inFlightTimes is times, and at least so many that fewer are in flight, at the end, for no
// more than a quarter of them.
func (b *bench) inFlightTimes(n, flight int) int { return max(b.times(n), 4*flight) }

// warmUp is how often somebody does something before it is measured.
func warmUp(flight int) int { return max(20, 2*flight) }

// inTurn yields all with their indexes, another one first each turn. What one leaves behind on the
// server is work beside the next, so where they are even in number each comes right behind each
// other one as often as behind any other (E. J. Williams, Experimental designs balanced for the
// estimation of residual effects of treatments, 1949).
func inTurn[T any](turn int, all []T) iter.Seq2[int, T] {
	return func(yield func(int, T) bool) {
		for k := range all {
			i := (k + 1) / 2 // 0, 1, n-1, 2, n-2, ...
			if k%2 == 0 {
				i = len(all) - i
			}
			i = (turn + i) % len(all)
			if !yield(i, all[i]) {
				return
			}
		}
	}
}
