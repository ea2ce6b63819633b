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
	OK         bool          `json:"ok"`
	Log        string        `json:"log"` // name and hash of the log's key
	Request    string        `json:"request,omitempty"`
	Checkpoint string        `json:"checkpoint"`          // the signed checkpoint that the events were checked against
	Size       int64         `json:"size"`                // events it covers
	Since      *int64        `json:"since,omitempty"`     // with an older checkpoint: its size; all events up to there are the same
	Witnessed  []Cosignature `json:"witnessed,omitempty"` // who has cosigned the older checkpoint
	Events     int64         `json:"events"`              // events looked at
	Requests   int64         `json:"requests"`
	Statements int64         `json:"statements"` // signatures verified
	Issued     int64         `json:"issued"`     // credentials judged again
	Files      int64         `json:"files"`      // rulebook versions
	From       time.Time     `json:"from,omitzero"`
	To         time.Time     `json:"to,omitzero"`
	Grant      *Grant        `json:"grant,omitempty"`    // with a proof: the access that it proves
	Problems   []Problem     `json:"problems,omitempty"` // the first bad event comes first
	More       int64         `json:"more,omitempty"`     // problems that aren't listed
	Warnings   []Problem     `json:"warnings,omitempty"` // odd, and no proof of anything
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
	Since     []byte   // an older signed checkpoint, kept elsewhere; nil: none
	Witnesses []string // keys of those who must have cosigned it (Witnessed)
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
	if len(o.Witnesses) > 0 {
		var err error
		if report.Witnessed, err = Witnessed(o.Since, o.Witnesses...); err != nil {
			return report, fmt.Errorf("older checkpoint: %w", err)
		}
	}
	conn, beside, end, err := r.snapshots(ctx)
	if err != nil {
		return report, err
	}
	defer end()
	return report, verify(ctx, r.db, conn, beside, r.verifier, since, &report)
}

// verify fills the report in by what a connection sees, and another one beside it
// that sees the same, if there is one.
func verify(ctx context.Context, d dialect, q, beside querier, verifier note.Verifier, since *Checkpoint, report *Report) error {
	have, err := checkSchema(ctx, d, q)
	if err != nil {
		return err
	}
	v := &verification{ctx: ctx, db: d, conn: q, beside: beside, report: report, verifier: verifier, since: since, replay: newReplay(report)}
	v.replay.schema = have
	if err := v.run(); err != nil {
		return err
	}
	report.OK = len(report.Problems) == 0
	return nil
}

// snapshot gives a connection that sees the log as of now, whatever is
// written meanwhile.
func (r *Reader) snapshot(ctx context.Context) (querier, func(), error) {
	conn, err := r.db.Conn(ctx)
	if err != nil {
		return nil, nil, fmt.Errorf("read audit log: %w", explain(err))
	}
	if _, err := conn.ExecContext(ctx, r.db.snapshot()); err != nil {
		return nil, nil, errors.Join(fmt.Errorf("read audit log: %w", explain(err)), conn.Close())
	}
	return translated{conn, r.db}, func() {
		_, _ = conn.ExecContext(context.WithoutCancel(ctx), "ROLLBACK") // nothing was written
		_ = conn.Close()
	}, nil
}

// maxTwins bounds how often snapshots tries to get two connections to see the same.
const maxTwins = 20

// snapshots gives a connection as snapshot does, and beside it another one that sees
// the very same, nil if there is none to be had: the database has no way to tell, or
// others write all the time.
func (r *Reader) snapshots(ctx context.Context) (conn, beside querier, end func(), err error) {
	if r.db.version() == "" {
		conn, end, err = r.snapshot(ctx)
		return conn, nil, end, err
	}
	second, err := r.db.Conn(ctx)
	if err != nil {
		return nil, nil, nil, fmt.Errorf("read audit log: %w", explain(err))
	}
	other := translated{second, r.db}
	release := func() {
		_, _ = second.ExecContext(context.WithoutCancel(ctx), "ROLLBACK") // nothing was written
		_ = second.Close()
	}
	version := func(q querier) (v int64, err error) {
		err = q.QueryRowContext(ctx, r.db.version()).Scan(&v)
		return v, err
	}
	for range maxTwins {
		// A snapshot is taken by the first read in it. What the second connection
		// is told before the first has read, and when it reads itself, is the same
		// only if nobody has committed anything from the one to the other.
		before, err := version(other)
		if err != nil {
			break // whatever is wrong with the file, who reads it will say so
		}
		first, end, err := r.snapshot(ctx)
		if err != nil {
			release()
			return nil, nil, nil, err
		}
		if _, err = version(first); err == nil {
			_, err = second.ExecContext(ctx, r.db.snapshot())
		}
		if err == nil {
			if after, err := version(other); err == nil && after == before {
				return first, other, func() { end(); release() }, nil
			}
			_, _ = second.ExecContext(ctx, "ROLLBACK")
		}
		end()
		if err != nil {
			break
		}
	}
	release()
	conn, end, err = r.snapshot(ctx)
	return conn, nil, end, err
}

// verification walks through the events once, in order, and compares the tree
// that grows with each checkpoint on the way.
type verification struct {
	ctx      context.Context
	db       dialect
	conn     querier
	beside   querier // sees the same as conn; nil: there is none
	report   *Report
	verifier note.Verifier
	since    *Checkpoint
	replay   *replay

	tree    tree
	watch   func(index int64, e *Event) // sees each event after it was judged; nil: nobody does
	lost    bool                        // an event is missing: from here on there is no tree to compare
	proven  int64                       // the tree of this size was the one that was signed
	lastMsg []byte                      // the last checkpoint looked at
}

func (v *verification) run() error {
	intact, end := v.intact()
	defer end()
	var size int64
	var msg []byte
	err := v.conn.QueryRowContext(v.ctx, "SELECT size, note FROM checkpoints ORDER BY size LIMIT 1").Scan(&size, &msg)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return fmt.Errorf("read audit log: %w", explain(err))
	}
	if err != nil || size != 0 {
		v.report.problem(-1, nil, "the checkpoint of the empty log is missing")
		msg = nil
	}
	v.compare(msg)
	var before int64
	if err := v.conn.QueryRowContext(v.ctx, "SELECT count(*) FROM events WHERE idx < 0").Scan(&before); err != nil {
		return fmt.Errorf("read audit log: %w", explain(err))
	}
	if before > 0 {
		v.report.problem(-1, nil, "%s before the first one", plural(before, "there is an event", "there are events"))
	}
	last := int64(-1)
	for page := range v.pages() {
		<-page.parsed
		for i := range page.rows {
			got := &page.rows[i]
			if got.index != last+1 && !v.lost {
				v.report.problem(last+1, nil, "%s missing", plural(got.index-last-1, "event is", "events from here on are"))
				v.lost = true
			}
			last = got.index
			v.event(got)
			v.compare(got.note)
		}
		if damaged(page.err) {
			v.report.problem(last+1, nil, "events from here on can't be read: %v", explain(page.err))
			return nil
		} else if page.err != nil {
			return fmt.Errorf("read audit log: %w", explain(page.err))
		}
	}
	var beyond int64 // the next checkpoint, -1 if there is none
	err = v.conn.QueryRowContext(v.ctx, "SELECT coalesce(min(size), -1) FROM checkpoints WHERE size > ?", last+1).Scan(&beyond)
	if err != nil {
		return fmt.Errorf("read audit log: %w", explain(err))
	}
	v.finish(last+1, beyond)
	if err := v.replay.finish(v.ctx, v.conn); err != nil {
		return err
	}
	damage, err := intact()
	if damage != "" {
		v.report.problem(-1, nil, "%s", damage)
	}
	return err
}

// intact has the database look at itself, on the other connection from now on; where
// there is none, when it is waited for. Once end has returned, nothing looks any more.
func (v *verification) intact() (wait func() (string, error), end func()) {
	if v.beside == nil {
		return func() (string, error) { return v.db.intact(v.ctx, v.conn) }, func() {}
	}
	ctx, stop := context.WithCancel(v.ctx)
	done := make(chan struct{})
	var damage string
	var err error
	go func() {
		defer close(done)
		damage, err = v.db.intact(ctx, v.beside)
	}()
	return func() (string, error) { <-done; return damage, err }, func() { stop(); <-done }
}

// maxPage bounds how many events are read at once, maxAhead how many pages are
// read and parsed before they are judged.
const (
	maxPage  = 250
	maxAhead = 2
)

// page is what was read at once, and the error that ended it.
type page struct {
	rows   []row
	err    error
	parsed chan struct{} // closed when the events of all rows are there
}

// pages reads the log to its end, or to its first error, which the last page
// has. Nothing else uses the connection until there are no more of them.
func (v *verification) pages() <-chan *page {
	pages := make(chan *page, maxAhead)
	go func() {
		defer close(pages)
		for last := int64(-1); ; {
			p := &page{parsed: make(chan struct{})}
			p.rows, p.err = v.page(last)
			go p.parse()
			pages <- p
			if p.err != nil || len(p.rows) < maxPage {
				return
			}
			last = p.rows[len(p.rows)-1].index
		}
	}()
	return pages
}

func (p *page) parse() {
	defer close(p.parsed)
	for i := range p.rows {
		p.rows[i].event, p.rows[i].err = ParseEvent(p.rows[i].leaf)
	}
}

// page reads the next events, each with the checkpoint that it is the last
// event of. With an error it gives those in front of it.
func (v *verification) page(after int64) (page []row, err error) {
	notes, err := v.notes(after)
	if err != nil {
		return nil, err
	}
	rows, err := v.conn.QueryContext(v.ctx, `SELECT idx, time, type, request, step, actor, requester, resource, hashes, leaf
		FROM events WHERE idx > ? ORDER BY idx LIMIT ?`, after, maxPage)
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }()
	page = make([]row, 0, maxPage)
	for rows.Next() {
		n := len(page)
		page = append(page, row{})
		got := &page[n]
		if err := rows.Scan(&got.index, &got.time, &got.Type, &got.Request, &got.Step, &got.Actor, &got.Requester, &got.Resource,
			&got.hashes, &got.leaf); err != nil {
			return page[:n], err
		}
		got.note = notes[got.index+1]
	}
	return page, rows.Err()
}

// notes are the checkpoints of the sizes that a page of events can end with.
// Those of events behind a gap are never compared.
func (v *verification) notes(after int64) (map[int64][]byte, error) {
	rows, err := v.conn.QueryContext(v.ctx, "SELECT size, note FROM checkpoints WHERE size > ? AND size <= ?", after+1, after+1+maxPage)
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }()
	notes := map[int64][]byte{}
	for rows.Next() {
		var size int64
		var note []byte
		if err := rows.Scan(&size, &note); err != nil {
			return nil, err
		}
		notes[size] = note
	}
	return notes, rows.Err()
}

// row is an event as the database has it.
type row struct {
	index int64
	time  int64
	Event // the query columns alone
	hashes,
	leaf,
	note []byte // of the checkpoint that ends with it

	event Event // what leaf says
	err   error // or why it says nothing
}

func (v *verification) event(got *row) {
	e, err := &got.event, got.err
	about := e
	if err != nil {
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
			v.report.problem(got.index, e, "column %s says %q, the event says %q", c.name, clip(c.column), clip(c.event))
		}
	}
	if got.time != e.Time.UnixMilli() {
		v.report.problem(got.index, e, "column time says %s, the event says %s",
			time.UnixMilli(got.time).UTC().Format(time.RFC3339Nano), e.Time.Format(time.RFC3339Nano))
	}
	v.replay.event(got.index, e)
	if v.watch != nil {
		v.watch(got.index, e)
	}
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

// compare holds the tree, as it is now, against the checkpoint of its size,
// which is nil if there is none.
func (v *verification) compare(msg []byte) {
	if v.lost {
		return
	}
	size := v.tree.size
	if s := v.since; s != nil && s.Size == size {
		if s.Root != v.tree.root() {
			v.report.problem(-1, nil, "the log has been forked or rewritten: its first %d events are not those that the older checkpoint was signed for", size)
		} else {
			v.report.Since = &size
		}
	}
	if msg == nil {
		return
	}
	v.lastMsg = msg
	c, err := openCheckpoint(msg, v.verifier)
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
}

// finish looks at what is left when all events have been seen: so many, and the
// next checkpoint, of size beyond.
func (v *verification) finish(size, beyond int64) {
	r := v.report
	r.Size, r.Checkpoint = size, string(v.lastMsg)
	if !v.lost && v.lastMsg != nil && v.proven != size && beyond < 0 {
		r.problem(v.proven, nil, "%s not covered by a checkpoint: the last one has size %d",
			plural(size-v.proven, "event is", "events from here on are"), v.proven)
	}
	if !v.lost && beyond > size {
		r.problem(size, nil, "events have been cut off: there is a checkpoint of size %d, but the log ends here", beyond)
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
