package audit

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"runtime"
	"time"

	"hallpass/access"
)

// maxBatch bounds how many operations share one transaction.
const maxBatch = 256

// op is one thing to do in a transaction. An *access.Error of its run is a refusal, of that
// one alone, if it hasn't changed anything yet; any other error, and a refusal after
// that, undoes the whole transaction.
type op struct {
	ctx  context.Context
	run  func(*tx) error // in any transaction anew
	done func(error)     // is called once, after the transaction
	asks []slot          // what run will look up
}

// slot is a step of a request, which has one event at most.
type slot struct{ request, step string }

// content is what is in a slot: the event's index and leaf, or nothing.
type content struct {
	index int64
	leaf  []byte
	found bool
}

// update has the writer run f in a transaction and returns once that is
// durable. If ctx ends meanwhile nobody knows whether f took place; all of
// them may be repeated. Slots that f will look up may be named.
func update[T any](ctx context.Context, l *Log, f func(*tx) (T, error), asks ...slot) (T, error) {
	type result struct {
		value T
		err   error
	}
	var value T // the writer's until it has called done
	done := make(chan result, 1)
	o := &op{
		ctx:  ctx,
		run:  func(t *tx) (err error) { value, err = f(t); return err },
		done: func(err error) { done <- result{value, err} },
		asks: asks,
	}
	var zero T
	select {
	case l.ops <- o:
	case <-ctx.Done():
		return zero, ctx.Err()
	case <-l.closing:
		return zero, access.Errorf(access.CodeUnavailable, "the audit log is closed")
	}
	select {
	case r := <-done:
		if r.err != nil {
			return zero, r.err
		}
		return r.value, nil
	case <-ctx.Done():
		return zero, ctx.Err()
	}
}

// write is the writer goroutine: it takes everything that waits and commits
// it at once, so that one flush to disk and one signature serve all.
func (l *Log) write() {
	defer close(l.closed)
	for {
		var batch []*op
		select {
		case o := <-l.ops:
			batch = append(batch, o)
		case <-l.closing:
			return
		}
		batch = l.gather(batch)
		l.commit(batch)
	}
}

// gather adds what else is ready. Those who were just served are about to come
// back: giving them the processor a few times is a lot cheaper than a flush
// for each.
func (l *Log) gather(batch []*op) []*op {
	for idle := 0; len(batch) < maxBatch && idle < 4; {
		select {
		case o := <-l.ops:
			batch = append(batch, o)
			idle = 0
		default:
			idle++
			runtime.Gosched()
		}
	}
	return batch
}

// commit runs the operations in one transaction. Where one of them breaks it,
// each gets a transaction of its own, so that nobody suffers for another.
func (l *Log) commit(batch []*op) {
	results, err := l.transact(batch)
	if isFull(err) {
		l.full.Store(time.Now().UnixNano())
	}
	if err != nil && errors.Is(err, errInOp) && !errors.Is(err, errGone) && len(batch) > 1 {
		for _, o := range batch {
			l.commit([]*op{o})
		}
		return
	}
	for i, o := range batch {
		if err != nil {
			o.done(err)
		} else {
			o.done(results[i])
		}
	}
}

// errInOp marks an error that one operation of several has caused, errGone one
// that none of them could help.
var (
	errInOp = errors.New("write audit log")
	errGone = errors.New("write audit log: connection lost")
)

// reconnect is how long a writer tries to come back to a database that has cut
// its connection, as it does when it starts anew. After that the callers have
// to try again.
const reconnect = 5 * time.Second

// transact runs the operations in one transaction. The results are theirs, and
// count only if there is no error. Where the connection breaks, it finds out
// whether the transaction took place, and makes it take place if it didn't.
func (l *Log) transact(batch []*op) (results []error, err error) {
	var unsure *doubt
	for start, wait := time.Now(), 10*time.Millisecond; ; wait *= 2 {
		var gone bool
		results, gone, err = l.attempt(batch, &unsure)
		if !gone {
			return results, err
		}
		if time.Since(start)+wait > reconnect {
			return nil, fmt.Errorf("%w: %w", errGone, err)
		}
		select {
		case <-time.After(wait):
		case <-l.closing:
			return nil, err
		}
	}
}

// doubt is a transaction of which nobody knows whether it was committed.
type doubt struct {
	checkpoint Checkpoint
	msg        []byte
	results    []error
}

const commitWork = "COMMIT"

func insertCheckpoint(size int64, msg []byte) stmt {
	return stmt{query: "INSERT INTO checkpoints (size, note) VALUES (?, ?)", args: []any{size, msg}}
}

// attempt is one transaction on one connection, which may break.
func (l *Log) attempt(batch []*op, unsure **doubt) (results []error, gone bool, err error) {
	// The writer's own context: an interrupted transaction would hit those
	// who only share it.
	ctx := context.Background()
	if l.session == nil {
		s, err := l.db.session(ctx, l.db.DB)
		if err != nil {
			return nil, true, explain(err)
		}
		l.session = s
	}
	results, err = l.in(ctx, batch, unsure)
	if err != nil && !l.session.gone() {
		_, _ = l.session.send(ctx, stmt{query: "ROLLBACK"})
	}
	if l.session.gone() {
		_ = l.session.Close()
		l.session = nil
		gone = err != nil
	}
	return results, gone, err
}

// in is the transaction itself.
func (l *Log) in(ctx context.Context, batch []*op, unsure **doubt) (results []error, err error) {
	t := &tx{ctx: ctx, log: l, slots: map[slot]content{}}
	if err := t.begin(batch); err != nil {
		return nil, err
	}
	before := t.tree.size
	if d := *unsure; d != nil {
		var n int64
		if _, err := t.find([]any{&n}, "SELECT count(*) FROM checkpoints WHERE size = ? AND note = ?", d.checkpoint.Size, d.msg); err != nil {
			return nil, fmt.Errorf("write audit log: %w", explain(err))
		}
		*unsure = nil
		if n > 0 {
			_, err = l.session.send(ctx, stmt{query: "ROLLBACK"})
			return d.results, err
		}
	}
	results = make([]error, len(batch))
	for i, o := range batch {
		if results[i] = o.ctx.Err(); results[i] != nil {
			continue
		}
		size, wrote := t.tree.size, t.wrote
		err := o.run(t)
		var refusal *access.Error
		if errors.As(err, &refusal) && (t.tree.size != size || t.wrote != wrote) {
			return nil, fmt.Errorf("%w: %w", errInOp, err) // nothing of what it has changed stays
		}
		if t.failed != nil || err != nil && !errors.As(err, &refusal) {
			return nil, fmt.Errorf("%w: %w", errInOp, explain(cmp.Or(t.failed, err)))
		}
		results[i] = err
	}
	own := len(t.writes)
	last, msg := l.last, l.lastMsg
	if t.tree.size > before {
		last = Checkpoint{l.signer.Name(), t.tree.size, t.tree.root()}
		if msg, err = last.sign(l.signer); err != nil {
			return nil, err
		}
		t.writes = append(t.writes, insertCheckpoint(last.Size, msg))
	}
	done, err := l.session.send(ctx, append(t.writes, stmt{query: commitWork})...)
	switch {
	case err == nil:
		l.last, l.lastMsg = last, msg
		if own > 0 {
			l.full.Store(0)
		}
		return results, nil
	case l.session.gone(): // whatever was answered before that
		if t.tree.size > before {
			*unsure = &doubt{last, msg, results}
		}
	case done < own:
		return nil, fmt.Errorf("%w: %w", errInOp, explain(err))
	}
	return nil, fmt.Errorf("write audit log: %w", explain(err))
}

// open is Reader.open, but for the checkpoint that this writer knows: there is
// no need to verify that one again.
func (l *Log) open(msg []byte) (Checkpoint, error) {
	if bytes.Equal(msg, l.lastMsg) {
		return l.last, nil
	}
	return l.Reader.open(msg)
}

// tx is a write transaction: it keeps all other writers out, and knows the
// tree as it grows. What it writes is sent when something is to be read, or
// when it ends.
type tx struct {
	ctx    context.Context
	log    *Log
	tree   tree
	writes []stmt
	wrote  int              // statements, those that were sent too
	slots  map[slot]content // what is known, this transaction's own events too
	failed error            // nothing of it counts
}

// begin begins the transaction and reads what it needs to.
func (t *tx) begin(batch []*op) error {
	l := t.log
	var h head
	stmts := append(l.db.lock(), h.query(l.db))
	if s := t.prefetch(batch); s != nil {
		stmts = append(stmts, *s)
	}
	if _, err := l.session.send(t.ctx, stmts...); err != nil {
		return fmt.Errorf("write audit log: %w", explain(err))
	}
	tree, c, err := h.tree(l.open)
	if err != nil {
		return err
	}
	if err := h.durable(); err != nil {
		return err
	}
	if c.Size < l.last.Size || c.Size == l.last.Size && c.Root != l.last.Root {
		return broken("it had %d events and has been put back to an older state, which has %d", l.last.Size, c.Size)
	}
	l.last, l.lastMsg, t.tree = c, h.msg, tree
	return nil
}

// prefetch asks for all slots that the operations will look up.
func (t *tx) prefetch(batch []*op) *stmt {
	var requests, steps []string
	for _, o := range batch {
		for _, p := range o.asks {
			if _, asked := t.slots[p]; asked || p.step == "" {
				continue
			}
			t.slots[p] = content{}
			requests, steps = append(requests, p.request), append(steps, p.step)
		}
	}
	if len(steps) == 0 {
		return nil
	}
	query, args := t.log.db.prefetch(requests, steps)
	return &stmt{query: query, args: args, each: func(row scanner) error {
		var p slot
		f := content{found: true}
		if err := row.Scan(&p.request, &p.step, &f.index, &f.leaf); err != nil {
			return err
		}
		t.slots[p] = f
		return nil
	}}
}

// write has a statement carried out before anything is read, or at the end.
func (t *tx) write(query string, args ...any) {
	t.writes = append(t.writes, stmt{query: query, args: args})
	t.wrote++
}

// read gives the rows of a query to each.
func (t *tx) read(each func(row scanner) error, query string, args ...any) error {
	stmts := append(t.writes, stmt{query: query, args: args, each: each})
	t.writes = nil
	if _, err := t.log.session.send(t.ctx, stmts...); err != nil {
		t.failed = err
	}
	return t.failed
}

// find scans the one row that query gives and says whether there is one.
func (t *tx) find(dest []any, query string, args ...any) (found bool, err error) {
	err = t.read(func(row scanner) error {
		found = true
		return row.Scan(dest...)
	}, query, args...)
	return found, err
}

// at looks a slot up.
func (t *tx) at(p slot) (f content, err error) {
	f, known := t.slots[p]
	if known {
		return f, nil
	}
	// "step <> ''" is what allows the partial index.
	f.found, err = t.find([]any{&f.index, &f.leaf}, "SELECT idx, leaf FROM events WHERE request = ? AND step = ? AND step <> ''", p.request, p.step)
	if err == nil {
		t.slots[p] = f
	}
	return f, err
}

// append adds an event to the tree, or finds the one that was first.
func (t *tx) append(e Event) (index int64, err error) {
	if err := e.normalize(t.log.now()); err != nil {
		return 0, err
	}
	p := slot{e.Request, e.Step}
	if p.step != "" {
		f, err := t.at(p)
		if err != nil {
			return 0, err
		}
		if f.found {
			return f.index, sameRequest(f.leaf, e)
		}
	}
	if e.Request != "" && (e.Requester == "" || e.Resource == "") {
		var requester, resource string
		// "+ 0" keeps PostgreSQL from looking for the request among all events.
		if _, err := t.find([]any{&requester, &resource},
			"SELECT requester, resource FROM events WHERE request = ? AND requester <> '' ORDER BY idx + 0 LIMIT 1", e.Request); err != nil {
			return 0, err
		}
		if e.Requester == "" {
			e.Requester = requester
		}
		if e.Resource == "" {
			e.Resource = resource
		}
	}
	if e.Statement != nil && e.digests() == nil {
		e.Digests = t.log.inForce.Load()
	}
	if d := e.digests(); d != nil {
		if err := t.recorded(d); err != nil {
			return 0, err
		}
	}
	leaf, err := e.encode()
	if err != nil {
		return 0, err
	}
	index = t.tree.size
	var stored []byte
	for _, h := range t.tree.add(leaf) {
		stored = append(stored, h[:]...)
	}
	if p.step != "" {
		t.slots[p] = content{index, leaf, true}
	}
	t.write(insertEvent, index, e.Time.UnixMilli(), e.Type, e.Request, e.Step, e.Actor, e.Requester, e.Resource, stored, leaf)
	return index, nil
}

const insertEvent = `INSERT INTO events (idx, time, type, request, step, actor, requester, resource, hashes, leaf)
	VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`

// sameRequest refuses to take an event for one that is about another request
// of the same id.
func sameRequest(leaf []byte, e Event) error {
	first, err := ParseEvent(leaf)
	if err != nil {
		return err
	}
	if e.RequestHash != "" && first.RequestHash != "" && e.RequestHash != first.RequestHash {
		return access.Errorf(access.CodeMismatch, "request %s is already in the audit log with another content", clip(e.Request))
	}
	return nil
}

// recorded refuses an event that cites files which are not in the log: nobody
// could judge by them later.
func (t *tx) recorded(d *access.Digests) error {
	for _, c := range each(d) {
		step := fileStep(c.name, c.digest)
		if c.digest == "" || t.log.files[step] {
			continue
		}
		_, own := t.slots[slot{"", step}]
		f, err := t.at(slot{"", step})
		if err != nil {
			return err
		}
		if !f.found {
			return access.Errorf(access.CodeUnavailable, "the event cites %s %s, which is not in the audit log yet", c.name, clip(c.digest))
		}
		if !own { // this transaction may yet fail
			t.log.files[step] = true
		}
	}
	return nil
}

// fullFor is how long it is remembered that there was no room. What waits for
// it tries again more often than that.
const fullFor = time.Minute

// Writable says whether the log would take an event now: it makes the
// transaction of one, with the lock and all that is looked at first, and writes
// nothing. Whether there is room on the disk, only a write can tell: it is what
// the last one said, or findRoom, if that wasn't long ago.
func (l *Log) Writable(ctx context.Context) error {
	_, err := update(ctx, l, func(*tx) (struct{}, error) { return struct{}{}, nil })
	if at := l.full.Load(); err == nil && at != 0 && time.Since(time.Unix(0, at)) < fullFor {
		return errFull()
	}
	return err
}

// findRoom finds out, once, when the log is opened, whether PostgreSQL's tables can
// grow, which they do before a commit: who starts on a full disk says so before
// somebody waits for it. It is remembered as that of a write is. What else goes wrong
// says nothing of room. More often it would be harm: what is taken back leaves its
// pages behind, and they are the last ones on a disk that is nearly full.
func (l *Log) findRoom(ctx context.Context) {
	query := l.db.room()
	if query == "" {
		return
	}
	_, err := l.session.send(ctx, stmt{query: "BEGIN"}, stmt{query: query})
	if isFull(explain(err)) {
		l.full.Store(time.Now().UnixNano())
	}
	_, _ = l.session.send(context.WithoutCancel(ctx), stmt{query: "ROLLBACK"})
}

// Append records an event and returns its index, counted from 0. It returns
// once the event is durable. An event with a Step is recorded once per
// (Request, Step): the first wins, and the index returned is the first one's.
//
// Errors: CodeMalformed for an event that can't be recorded, CodeMismatch for
// one about a request that has the id of another, CodeUnverified
// for a log that has been tampered with, CodeUnavailable and all others are
// worth a retry.
//
// Events that go with a change of the ledger are refused: they are recorded by
// Reserve, Issued and End.
func (l *Log) Append(ctx context.Context, e Event) (index int64, err error) {
	if ledgered(e.Type) {
		return 0, access.Errorf(access.CodeMalformed, "event %s goes with a change of the ledger", e.Type)
	}
	return update(ctx, l, func(t *tx) (int64, error) { return t.append(e) }, slot{plain(e.Request), plain(e.Step)})
}
