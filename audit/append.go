package audit

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"runtime"

	"hallpass/access"
)

// maxBatch bounds how many operations share one transaction.
const maxBatch = 256

// op is one thing to do in a transaction. Its run returns an *access.Error
// only before it has changed anything; any other error undoes the whole
// transaction.
type op struct {
	ctx  context.Context
	run  func(*tx) error
	done func(error) // is called once, after the transaction
}

// update has the writer run f in a transaction and returns once that is
// durable. If ctx ends meanwhile nobody knows whether f took place; all of
// them may be repeated.
func update[T any](ctx context.Context, l *Log, f func(*tx) (T, error)) (T, error) {
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
	if err != nil && errors.Is(err, errInOp) && len(batch) > 1 {
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

// errInOp marks an error that one operation of several has caused.
var errInOp = errors.New("write audit log")

// transact runs the operations in one transaction. The results are theirs, and
// count only if there is no error.
func (l *Log) transact(batch []*op) (results []error, err error) {
	// The writer's own context: an interrupted transaction would hit those
	// who only share it.
	ctx := context.Background()
	if _, err := l.conn.ExecContext(ctx, "BEGIN IMMEDIATE"); err != nil {
		return nil, fmt.Errorf("write audit log: %w", explain(err))
	}
	defer func() {
		if err != nil {
			_, _ = l.conn.ExecContext(ctx, "ROLLBACK")
		}
	}()
	t := &tx{ctx: ctx, log: l}
	if t.tree, _, err = loadTree(ctx, l.conn, l.open); err != nil {
		return nil, err
	}
	before := t.tree.size
	results = make([]error, len(batch))
	for i, o := range batch {
		if results[i] = o.ctx.Err(); results[i] != nil {
			continue
		}
		err := o.run(t)
		var refusal *access.Error
		if err != nil && !errors.As(err, &refusal) {
			return nil, fmt.Errorf("%w: %w", errInOp, err)
		}
		results[i] = err
	}
	if t.tree.size > before {
		c := Checkpoint{l.signer.Name(), t.tree.size, t.tree.root()}
		msg, err := c.sign(l.signer)
		if err != nil {
			return nil, err
		}
		l.last, l.lastMsg = c, msg
		if err := t.exec("INSERT INTO checkpoints (size, note) VALUES (?, ?)", t.tree.size, msg); err != nil {
			return nil, err
		}
	}
	if _, err := l.conn.ExecContext(ctx, "COMMIT"); err != nil {
		return nil, fmt.Errorf("write audit log: %w", explain(err))
	}
	return results, nil
}

// open is Reader.open, but for the checkpoint that this writer has signed
// itself: there is no need to verify that one.
func (l *Log) open(msg []byte) (Checkpoint, error) {
	if bytes.Equal(msg, l.lastMsg) {
		return l.last, nil
	}
	return l.Reader.open(msg)
}

// tx is a write transaction: it holds the file's write lock, and knows the
// tree as it grows.
type tx struct {
	ctx  context.Context
	log  *Log
	tree tree
}

func (t *tx) exec(query string, args ...any) error {
	s, err := t.log.prepare(t.ctx, query)
	if err == nil {
		_, err = s.ExecContext(t.ctx, args...)
	}
	return err
}

// find scans the one row that query gives and says whether there is one.
func (t *tx) find(dest []any, query string, args ...any) (bool, error) {
	s, err := t.log.prepare(t.ctx, query)
	if err != nil {
		return false, err
	}
	err = s.QueryRowContext(t.ctx, args...).Scan(dest...)
	if errors.Is(err, sql.ErrNoRows) {
		return false, nil
	} else if err != nil {
		return false, err
	}
	return true, nil
}

// prepare keeps the writer's few statements compiled.
func (l *Log) prepare(ctx context.Context, query string) (*sql.Stmt, error) {
	if s, ok := l.prepared[query]; ok {
		return s, nil
	}
	s, err := l.conn.PrepareContext(ctx, query)
	if err == nil {
		l.prepared[query] = s
	}
	return s, err
}

// append adds an event to the tree, or finds the one that was first.
func (t *tx) append(e Event) (index int64, err error) {
	if err := e.normalize(t.log.now()); err != nil {
		return 0, err
	}
	if e.Step != "" {
		// "step <> ''" is what lets SQLite use the partial index.
		var leaf []byte
		found, err := t.find([]any{&index, &leaf}, "SELECT idx, leaf FROM events WHERE request = ? AND step = ? AND step <> ''", e.Request, e.Step)
		if err != nil {
			return 0, err
		}
		if found {
			return index, sameRequest(leaf, e)
		}
	}
	if e.Request != "" && (e.Requester == "" || e.Resource == "") {
		var requester, resource string
		if _, err := t.find([]any{&requester, &resource},
			"SELECT requester, resource FROM events WHERE request = ? AND requester <> '' ORDER BY idx LIMIT 1", e.Request); err != nil {
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
	return index, t.exec(`INSERT INTO events (idx, time, type, request, step, actor, requester, resource, hashes, leaf)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
		index, e.Time.UnixMilli(), e.Type, e.Request, e.Step, e.Actor, e.Requester, e.Resource, stored, leaf)
}

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
	for _, f := range each(d) {
		if f.digest == "" {
			continue
		}
		var one int
		found, err := t.find([]any{&one}, "SELECT 1 FROM events WHERE request = '' AND step = ? AND step <> ''", fileStep(f.name, f.digest))
		if err != nil {
			return err
		}
		if !found {
			return access.Errorf(access.CodeUnavailable, "the event cites %s %s, which is not in the audit log yet", f.name, clip(f.digest))
		}
	}
	return nil
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
	return update(ctx, l, func(t *tx) (int64, error) { return t.append(e) })
}
