package audit

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"iter"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/mod/sumdb/tlog"

	"hallpass/access"
)

// Record is an event in its place.
type Record struct {
	Index int64
	Leaf  []byte // the event's exact bytes
	Event Event
}

// Query selects events. Zero fields select nothing away.
type Query struct {
	Request   string
	Requester string
	Resource  string // "kind/name", or "kind/" for all of a kind
	Actor     string
	Type      string    // one type, or "grant." for all that begin so
	From, To  time.Time // From <= time < To
	After     int64     // indexes from here on
	Limit     int       // 0: no limit
	Last      bool      // with Limit: the last ones rather than the first; always in order

	step string
}

// Events gives the selected events in the order of the log. The sequence ends
// at the first error.
func (r *Reader) Events(ctx context.Context, q Query) iter.Seq2[Record, error] {
	return events(ctx, r.db, q)
}

// all gives the selected events when none is left to be read, so that the
// connection is free for what else there is to ask.
func (r *Reader) all(ctx context.Context, q Query) ([]Record, error) {
	var found []Record
	for rec, err := range r.Events(ctx, q) {
		if err != nil {
			return nil, err
		}
		found = append(found, rec)
	}
	return found, nil
}

func events(ctx context.Context, db querier, q Query) iter.Seq2[Record, error] {
	where, args := q.where()
	query := "SELECT idx, leaf FROM events WHERE " + where
	switch {
	case q.Limit > 0 && q.Last:
		query = "SELECT idx, leaf FROM (" + query + " ORDER BY idx DESC LIMIT ?) AS those ORDER BY idx"
		args = append(args, q.Limit)
	case q.Limit == 1:
		query += " ORDER BY idx LIMIT 1" // stays prepared: see done.read
	case q.Limit > 0:
		query += " ORDER BY idx LIMIT ?"
		args = append(args, q.Limit)
	default:
		query += " ORDER BY idx"
	}
	return func(yield func(Record, error) bool) {
		rows, err := db.QueryContext(ctx, query, args...)
		if err != nil {
			yield(Record{}, fmt.Errorf("read audit log: %w", explain(err)))
			return
		}
		defer func() { _ = rows.Close() }()
		for rows.Next() {
			var rec Record
			err := rows.Scan(&rec.Index, &rec.Leaf)
			if err == nil {
				if rec.Event, err = ParseEvent(rec.Leaf); err != nil {
					err = broken("event %d: %v", rec.Index, err)
				} else if !q.takes(rec.Event.Type) {
					err = broken("event %d is %s, and its column says otherwise", rec.Index, clip(rec.Event.Type))
				}
			}
			if !yield(rec, err) || err != nil {
				return
			}
		}
		if err := rows.Err(); err != nil {
			yield(Record{}, fmt.Errorf("read audit log: %w", explain(err)))
		}
	}
}

// takes says whether the query is for events of a type.
func (q Query) takes(typ string) bool {
	if strings.HasSuffix(q.Type, ".") {
		return strings.HasPrefix(typ, q.Type)
	}
	return q.Type == "" || typ == q.Type
}

func (q Query) where() (string, []any) {
	terms, args := []string{"idx >= ?"}, []any{q.After}
	add := func(term string, arg any) { terms, args = append(terms, term), append(args, arg) }
	prefix := func(column, value, end string) {
		if strings.HasSuffix(value, end) {
			add("substr("+column+", 1, ?) = ?", utf8.RuneCountInString(value))
			args = append(args, value)
		} else {
			add(column+" = ?", value)
		}
	}
	if q.Request != "" {
		add("request = ?", q.Request)
	}
	if q.Requester != "" {
		add("requester = ?", q.Requester)
	}
	if q.Resource != "" {
		prefix("resource", q.Resource, "/")
	}
	if q.Actor != "" {
		add("actor = ?", q.Actor)
	}
	if q.Type != "" {
		prefix("type", q.Type, ".")
	}
	if q.step != "" {
		add("step = ?", q.step)
	}
	if !q.From.IsZero() {
		add("time >= ?", ceilMilli(q.From))
	}
	if !q.To.IsZero() {
		add("time < ?", ceilMilli(q.To))
	}
	return strings.Join(terms, " AND "), args
}

// ceilMilli is t in milliseconds, rounded up.
func ceilMilli(t time.Time) int64 { return t.Add(time.Millisecond - 1).UnixMilli() }

// Event gives the event of an index.
func (r *Reader) Event(ctx context.Context, index int64) (Record, error) {
	for rec, err := range r.Events(ctx, Query{After: index, Limit: 1}) {
		if err != nil {
			return Record{}, err
		}
		if rec.Index == index {
			return rec, nil
		}
	}
	return Record{}, access.Errorf(access.CodeNotFound, "there is no event %d in the audit log", index)
}

// FindRequest completes the beginning of a request's id. Errors: CodeNotFound,
// and CodeMismatch if several begin so.
func (r *Reader) FindRequest(ctx context.Context, prefix string) (string, error) {
	rows, err := r.db.QueryContext(ctx,
		"SELECT DISTINCT request FROM events WHERE request >= ? AND request < ? AND request <> '' ORDER BY request LIMIT 3", prefix, prefix+"\U0010FFFF")
	if err != nil {
		return "", fmt.Errorf("read audit log: %w", explain(err))
	}
	defer func() { _ = rows.Close() }()
	var found []string
	for rows.Next() {
		var id string
		if err := rows.Scan(&id); err != nil {
			return "", fmt.Errorf("read audit log: %w", explain(err))
		}
		if id == prefix {
			return id, nil
		}
		found = append(found, id)
	}
	if err := rows.Err(); err != nil {
		return "", fmt.Errorf("read audit log: %w", explain(err))
	}
	switch len(found) {
	case 0:
		return "", access.Errorf(access.CodeNotFound, "no request in the audit log begins with %q", clip(prefix))
	case 1:
		return found[0], nil
	}
	return "", access.Errorf(access.CodeMismatch, "several requests begin with %q, such as %s and %s", clip(prefix), found[0], found[1])
}

// Checkpoint returns the log's last signed checkpoint. Kept elsewhere, it
// pins every event up to its size.
func (r *Reader) Checkpoint(ctx context.Context) ([]byte, error) {
	var msg []byte
	err := r.db.QueryRowContext(ctx, "SELECT note FROM checkpoints ORDER BY size DESC LIMIT 1").Scan(&msg)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, broken("it has no checkpoint")
	} else if err != nil {
		return nil, fmt.Errorf("read audit log: %w", explain(err))
	}
	if _, err := r.open(msg); err != nil {
		return nil, err
	}
	return msg, nil
}

// hashReader reads the tree's hashes for package tlog's proofs.
func hashReader(ctx context.Context, q querier) tlog.HashReader {
	return tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) {
		hashes := make([]tlog.Hash, len(indexes))
		for i, x := range indexes {
			level, n := tlog.SplitStoredHashIndex(x)
			h, err := readHash(ctx, q, level, place(level, n))
			if err != nil {
				return nil, err
			}
			hashes[i] = h
		}
		return hashes, nil
	})
}
