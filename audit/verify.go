package audit

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// maxProblems bounds how many problems a Report lists.
const maxProblems = 20

// Problem is something that isn't as it should be, and where.
type Problem struct {
	Index   int64  `json:"index"` // of the event; -1 if it isn't about one
	Type    string `json:"type,omitempty"`
	Request string `json:"request,omitempty"`
	What    string `json:"what"`
}

func (p Problem) String() string {
	s := p.What
	if p.Request != "" {
		s = "request " + p.Request + ": " + s
	}
	if p.Type != "" {
		s = p.Type + ", " + s
	}
	if p.Index >= 0 {
		s = fmt.Sprintf("event %d: %s", p.Index, s)
	}
	return s
}

// Report is what Verify and CheckProof found.
type Report struct {
	OK         bool      `json:"ok"`
	Log        string    `json:"log"` // name and hash of the log's key
	Request    string    `json:"request,omitempty"`
	Checkpoint string    `json:"checkpoint"`      // the signed checkpoint that the events were checked against
	Size       int64     `json:"size"`            // events it covers
	Since      *int64    `json:"since,omitempty"` // with an older checkpoint: its size; all events up to there are the same
	Events     int64     `json:"events"`          // events looked at
	Requests   int64     `json:"requests"`
	Statements int64     `json:"statements"` // signatures verified
	Issued     int64     `json:"issued"`     // credentials judged again
	Files      int64     `json:"files"`      // rulebook versions
	From       time.Time `json:"from,omitzero"`
	To         time.Time `json:"to,omitzero"`
	Grant      *Grant    `json:"grant,omitempty"`    // with a proof: the access that it proves
	Problems   []Problem `json:"problems,omitempty"` // the first bad event comes first
	More       int64     `json:"more,omitempty"`     // problems that aren't listed
	Warnings   []Problem `json:"warnings,omitempty"` // odd, and no proof of anything
}

func (r *Report) problem(index int64, e *Event, format string, args ...any) {
	r.Problems = add(r, r.Problems, index, e, format, args)
}

func (r *Report) warn(index int64, e *Event, format string, args ...any) {
	r.Warnings = add(r, r.Warnings, index, e, format, args)
}

func add(r *Report, list []Problem, index int64, e *Event, format string, args []any) []Problem {
	if len(list) == maxProblems {
		r.More++
		return list
	}
	p := Problem{Index: index, What: fmt.Sprintf(format, args...)}
	if e != nil {
		p.Type, p.Request = e.Type, e.Request
	}
	return append(list, p)
}

// VerifyOptions are for Verify.
type VerifyOptions struct {
	Since []byte // an older signed checkpoint, kept elsewhere; nil: none
}

// Verify recomputes and judges everything that is in the log, as of one
// moment, while others may go on writing: the Merkle tree against every
// checkpoint and its signature, the query columns against the events, the
// order of each request's events, every statement's signature against the
// directory of the day, every issued credential against its evidence and the
// policy of the day, the ledger against the events, and, with an older
// checkpoint, that the log has only grown since.
//
// What is wrong is in the report. The error says that Verify couldn't do its
// work.
func (r *Reader) Verify(ctx context.Context, o VerifyOptions) (Report, error) {
	report := Report{Log: r.PublicKey()}
	var since *Checkpoint
	if o.Since != nil {
		c, err := openCheckpoint(o.Since, r.verifier)
		if err != nil {
			return report, fmt.Errorf("older checkpoint: %w", err)
		}
		since = &c
	}
	conn, end, err := r.snapshot(ctx)
	if err != nil {
		return report, err
	}
	defer end()
	if _, err := checkSchema(ctx, conn); err != nil {
		return report, err
	}
	v := &verification{ctx: ctx, conn: conn, report: &report, verifier: r.verifier, since: since, replay: newReplay(&report)}
	if err := v.run(); err != nil {
		return report, err
	}
	report.OK = len(report.Problems) == 0
	return report, nil
}

// snapshot gives a connection that sees the log as of now, whatever is
// written meanwhile.
func (r *Reader) snapshot(ctx context.Context) (*sql.Conn, func(), error) {
	conn, err := r.db.Conn(ctx)
	if err != nil {
		return nil, nil, fmt.Errorf("read audit log: %w", explain(err))
	}
	if _, err := conn.ExecContext(ctx, "BEGIN"); err != nil {
		return nil, nil, errors.Join(fmt.Errorf("read audit log: %w", explain(err)), conn.Close())
	}
	return conn, func() {
		_, _ = conn.ExecContext(context.WithoutCancel(ctx), "ROLLBACK") // nothing was written
		_ = conn.Close()
	}, nil
}

// verification walks through the events once, in order, and compares the tree
// that grows with each checkpoint on the way.
type verification struct {
	ctx      context.Context
	conn     *sql.Conn
	report   *Report
	verifier note.Verifier
	since    *Checkpoint
	replay   *replay

	tree    tree
	lost    bool  // an event is missing: from here on there is no tree to compare
	proven  int64 // the tree of this size was the one that was signed
	signed  *sql.Rows
	next    int64  // size of the next checkpoint, -1: no more
	msg     []byte // the next checkpoint
	lastMsg []byte // the last one looked at
}

func (v *verification) run() (err error) {
	v.signed, err = v.conn.QueryContext(v.ctx, "SELECT size, note FROM checkpoints ORDER BY size")
	if err != nil {
		return fmt.Errorf("read audit log: %w", explain(err))
	}
	defer func() { _ = v.signed.Close() }()
	if err := v.advance(); err != nil {
		return err
	}
	if v.next != 0 {
		v.report.problem(-1, nil, "the checkpoint of the empty log is missing")
	}
	rows, err := v.conn.QueryContext(v.ctx,
		"SELECT idx, time, type, request, step, actor, requester, resource, hashes, leaf FROM events ORDER BY idx")
	if err != nil {
		return fmt.Errorf("read audit log: %w", explain(err))
	}
	defer func() { _ = rows.Close() }()
	if err := v.compare(); err != nil {
		return err
	}
	last := int64(-1)
	for rows.Next() {
		var got row
		if err := rows.Scan(&got.index, &got.time, &got.Type, &got.Request, &got.Step, &got.Actor, &got.Requester, &got.Resource,
			&got.hashes, &got.leaf); err != nil {
			return fmt.Errorf("read audit log: %w", explain(err))
		}
		if got.index != last+1 && !v.lost {
			v.report.problem(last+1, nil, "%s missing", plural(got.index-last-1, "event is", "events from here on are"))
			v.lost = true
		}
		last = got.index
		v.event(&got)
		if err := v.compare(); err != nil {
			return err
		}
	}
	if err := rows.Err(); err != nil {
		if !damaged(err) {
			return fmt.Errorf("read audit log: %w", explain(err))
		}
		v.report.problem(last+1, nil, "events from here on can't be read: %v", explain(err))
		return nil
	}
	v.finish(last + 1)
	if err := v.replay.finish(v.ctx, v.conn); err != nil {
		return err
	}
	return v.intact()
}

// intact has SQLite look at its own file: an index that doesn't fit its table
// would answer queries wrongly.
func (v *verification) intact() error {
	var found string
	if err := v.conn.QueryRowContext(v.ctx, "PRAGMA integrity_check(1)").Scan(&found); err != nil {
		return fmt.Errorf("read audit log: %w", explain(err))
	}
	if found != "ok" {
		v.report.problem(-1, nil, "the SQLite file is damaged: %s", found)
	}
	return nil
}

// row is an event as the database has it.
type row struct {
	index int64
	time  int64
	Event // the query columns alone
	hashes,
	leaf []byte
}

func (v *verification) event(got *row) {
	e, err := ParseEvent(got.leaf)
	var about *Event
	if err == nil {
		about = &e
	} else {
		about = &got.Event // as far as the columns can be believed
	}
	if !v.lost {
		v.grow(got, about)
	}
	v.report.Events++
	if err != nil {
		v.report.problem(got.index, about, "%v", err)
		return
	}
	for _, c := range []struct{ name, column, event string }{
		{"type", got.Type, e.Type}, {"request", got.Request, e.Request}, {"step", got.Step, e.Step}, {"actor", got.Actor, e.Actor},
		{"requester", got.Requester, e.Requester}, {"resource", got.Resource, e.Resource},
	} {
		if c.column != c.event {
			v.report.problem(got.index, &e, "column %s says %q, the event says %q", c.name, clip(c.column), clip(c.event))
		}
	}
	if got.time != e.Time.UnixMilli() {
		v.report.problem(got.index, &e, "column time says %s, the event says %s",
			time.UnixMilli(got.time).UTC().Format(time.RFC3339Nano), e.Time.Format(time.RFC3339Nano))
	}
	v.replay.event(got.index, &e)
}

// grow adds the event to the tree. Where its bytes aren't those whose hash is
// stored, it goes on with the stored hash: if that one is what was signed, the
// fault is this event's alone.
func (v *verification) grow(got *row, e *Event) {
	leaf := tlog.RecordHash(got.leaf)
	stored, err := hashAt(got.hashes, 0)
	if err != nil {
		v.report.problem(got.index, e, "%v", err)
		stored = leaf
	}
	if stored != leaf {
		v.report.problem(got.index, e, "the event has been changed: its bytes don't have the hash that is stored with it")
	}
	var want []byte
	for _, h := range v.tree.addHash(stored) {
		want = append(want, h[:]...)
	}
	if err == nil && !bytes.Equal(want, got.hashes) {
		v.report.problem(got.index, e, "the stored tree hashes are not those of the events up to here")
	}
}

// advance reads the next checkpoint.
func (v *verification) advance() error {
	if !v.signed.Next() {
		v.next = -1
		return v.signed.Err()
	}
	if err := v.signed.Scan(&v.next, &v.msg); err != nil {
		return fmt.Errorf("read audit log: %w", explain(err))
	}
	return nil
}

// compare holds the tree, as it is now, against the checkpoint of its size.
func (v *verification) compare() error {
	if v.lost {
		return nil
	}
	size := v.tree.size
	if s := v.since; s != nil && s.Size == size {
		if s.Root != v.tree.root() {
			v.report.problem(-1, nil, "the log has been forked or rewritten: its first %d events are not those that the older checkpoint was signed for", size)
		} else {
			v.report.Since = &size
		}
	}
	if v.next != size {
		return nil
	}
	v.lastMsg = bytes.Clone(v.msg)
	c, err := openCheckpoint(v.msg, v.verifier)
	switch {
	case err != nil:
		v.report.problem(size-1, nil, "checkpoint of size %d: %v", size, err)
	case c.Size != size:
		v.report.problem(size-1, nil, "the checkpoint of size %d stands in the place of size %d", c.Size, size)
	case c.Root != v.tree.root():
		// All later ones can't fit either.
		v.report.problem(v.proven, nil, "the events from here on are not those that the checkpoint of size %d signs", size)
		v.lost = true
	default:
		v.proven = size
	}
	return v.advance()
}

// finish looks at what is left when all events have been seen.
func (v *verification) finish(size int64) {
	r := v.report
	r.Size, r.Checkpoint = size, string(v.lastMsg)
	if !v.lost && v.lastMsg != nil && v.proven != size && v.next < 0 {
		r.problem(v.proven, nil, "%s not covered by a checkpoint: the last one has size %d",
			plural(size-v.proven, "event is", "events from here on are"), v.proven)
	}
	if !v.lost && v.next > size {
		r.problem(size, nil, "events have been cut off: there is a checkpoint of size %d, but the log ends here", v.next)
	}
	if s := v.since; s != nil && s.Size > size {
		r.problem(size, nil, "events have been cut off: the older checkpoint has size %d, but the log ends here", s.Size)
	}
}

func plural(n int64, one, many string) string {
	if n == 1 {
		return one
	}
	return fmt.Sprintf("%d %s", n, many)
}

// OneLine sums the report up for people.
func (r Report) OneLine() string {
	if !r.OK {
		if len(r.Problems) == 0 {
			return "not verified"
		}
		return r.Problems[0].String()
	}
	return fmt.Sprintf("%s, %s, %s and %s check out",
		count(r.Events, "event"), count(r.Statements, "signature"), count(r.Issued, "issued credential"), count(r.Files, "rulebook version"))
}

func count(n int64, what string) string {
	if n != 1 {
		what += "s"
	}
	return fmt.Sprintf("%d %s", n, what)
}
