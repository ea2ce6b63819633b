package audit

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/bits"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"golang.org/x/mod/sumdb/tlog"

	"hallpass/access"
)

// schemaVersion is that of the tables.
const schemaVersion = 5

// busyTimeout is how long a writer waits for another process.
const busyTimeout = 10 * time.Second

// schemas is all there is in the database: what each version of the schema
// added to the one before, in the words of SQLite (dialect.go). The leaf stands
// last in its row, so that filtering by the columns doesn't read it.
//
// The hashes of the Merkle tree are stored with the event that completes them:
// first the leaf's hash, then those of the subtrees that end there, from the
// bottom up, 32 bytes each. So every event is one row, and a missing row is a
// missing event.
var schemas = [schemaVersion][]string{{
	`CREATE TABLE events (
	idx INTEGER PRIMARY KEY,
	time INTEGER NOT NULL,
	type TEXT NOT NULL,
	request TEXT NOT NULL,
	step TEXT NOT NULL,
	actor TEXT NOT NULL,
	requester TEXT NOT NULL,
	resource TEXT NOT NULL,
	hashes BLOB NOT NULL,
	leaf BLOB NOT NULL
) STRICT`,
	`CREATE UNIQUE INDEX events_step ON events (request, step) WHERE step <> ''`,
	`CREATE INDEX events_request ON events (request)`,
	`CREATE INDEX events_requester ON events (requester)`,
	`CREATE INDEX events_resource ON events (resource)`,
	`CREATE INDEX events_time ON events (time)`,
	`CREATE TABLE checkpoints (
	size INTEGER PRIMARY KEY,
	note BLOB NOT NULL
) STRICT`,
	`CREATE TABLE ledger (
	request TEXT PRIMARY KEY,
	hash TEXT NOT NULL,
	handle TEXT NOT NULL,
	credential TEXT NOT NULL,
	ended TEXT NOT NULL,
	ended_at INTEGER NOT NULL
) STRICT`,
	`CREATE TABLE serials (
	ca TEXT PRIMARY KEY,
	last INTEGER NOT NULL
) STRICT, WITHOUT ROWID`,
}, {
	// What a key revocation list has to name is found by this index. SQLite
	// keeps it in step with the ledger, and Verify has it checked.
	`CREATE INDEX ledger_revoked ON ledger (
	json_extract(handle, '$.not_after'),
	json_extract(handle, '$.ca'),
	json_extract(handle, '$.serial')
) WHERE ended <> '' AND ended <> 'expired' AND handle <> ''`,
	`CREATE TABLE cas (
	fingerprint TEXT PRIMARY KEY,
	key TEXT NOT NULL
) STRICT, WITHOUT ROWID`,
	`CREATE TABLE krl (
	id INTEGER PRIMARY KEY CHECK (id = 1),
	taken INTEGER NOT NULL,
	version INTEGER NOT NULL,
	list BLOB NOT NULL,
	signature TEXT NOT NULL
) STRICT`,
	`CREATE TABLE hosts (
	host TEXT PRIMARY KEY,
	token TEXT NOT NULL,
	agent_key TEXT NOT NULL,
	host_key TEXT NOT NULL,
	certificate TEXT NOT NULL,
	at INTEGER NOT NULL
) STRICT, WITHOUT ROWID`,
}, {
	// What is open is found without reading what has ended.
	`CREATE INDEX ledger_open ON ledger (request) WHERE ended = ''`,
}, {
	// What somebody did before is told by the index alone: their events lie far
	// apart in the table.
	`CREATE INDEX events_past ON events (requester, type, idx, resource, time, request) WHERE requester <> ''`,
}, {
	// Nothing is added. In SQLite the ledger gets rowids (rowids, moveLedger); the
	// statement above already has it so.
}}

// querier is what *sql.DB, *sql.Conn and *sql.Tx have in common.
type querier interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

// errEmpty says that there is nothing in the database yet.
var errEmpty = errors.New("the database is empty")

// explain says in our own words what went wrong in the database, and what to
// do about it.
func explain(err error) error {
	var connect *pgconn.ConnectError // has a deadline of its own
	if err == nil || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) && !errors.As(err, &connect) {
		return err // the caller's own
	}
	for _, own := range []error{explainSQLite(err), explainPostgres(err)} {
		if own != nil {
			return own
		}
	}
	return err
}

const noRoom = "no space left for the audit log"

func errFull() error {
	return access.Errorf(access.CodeUnavailable, noRoom).WithHint("make room for the database; what waits goes on by itself")
}

func isFull(err error) bool {
	var e *access.Error
	return errors.As(err, &e) && e.Message == noRoom
}

// damaged says whether the database can't make sense of its files.
func damaged(err error) bool { return damagedSQLite(err) || damagedPostgres(err) }

// head reads what a writer or a prover begins with: the last checkpoint and the
// tree that it signs.
type head struct {
	found      bool
	size, next int64
	first      int64 // index of the first event, 0 if there is none
	msg        []byte
	committed  [2]string // settings that say whether a commit is on disk
	readOnly   string
	peaks      []tlog.Hash
	err        error // what is wrong with the peaks
}

// query reads it all at once: a row for each subtree that a tree of the
// checkpoint's size is made of, the largest first, or one row for the empty tree.
// One after the other goes from the end (upto & (upto - 1)), and each has its hash
// stored with its last event.
func (h *head) query(d dialect) stmt {
	return stmt{
		query: `WITH RECURSIVE parts (size, note, upto) AS (
				SELECT size, note, size FROM (SELECT size, note FROM checkpoints ORDER BY size DESC LIMIT 1) AS head
				UNION ALL SELECT size, note, upto & (upto - 1) FROM parts WHERE upto & (upto - 1) > 0)
			SELECT size, note, (SELECT coalesce(max(idx), -1) + 1 FROM events), (SELECT coalesce(min(idx), 0) FROM events), ` + d.settings() + `,
				upto, (SELECT hashes FROM events WHERE idx = upto - 1)
			FROM parts ORDER BY upto`,
		each: func(row scanner) error {
			var upto int64
			var stored sql.Null[[]byte]
			if err := row.Scan(&h.size, &h.msg, &h.next, &h.first, &h.committed[0], &h.committed[1], &h.readOnly, &upto, &stored); err != nil {
				return err
			}
			h.found = true
			if upto <= 0 || h.err != nil {
				return nil
			}
			if !stored.Valid {
				h.err = broken("event %d is missing", upto-1)
				return nil
			}
			hash, err := hashAt(stored.V, bits.TrailingZeros64(uint64(upto)))
			if err != nil {
				h.err = broken("event %d: %v", upto-1, err)
			}
			h.peaks = append(h.peaks, hash)
			return nil
		},
	}
}

// tree refuses a log in which the checkpoint and the tree don't fit together.
func (h *head) tree(open func([]byte) (Checkpoint, error)) (tree, Checkpoint, error) {
	if !h.found {
		return tree{}, Checkpoint{}, broken("it has no checkpoint")
	}
	c, err := open(h.msg)
	switch {
	case err != nil:
		return tree{}, c, err
	case c.Size != h.size:
		return tree{}, c, broken("the checkpoint of size %d stands in the place of size %d", c.Size, h.size)
	case h.next != h.size:
		return tree{}, c, broken("its last checkpoint covers %d events, but the last event has index %d", h.size, h.next-1)
	case h.first != 0:
		// What goes by request and step would find it.
		return tree{}, c, broken("its first event has index %d", h.first)
	case h.err != nil:
		return tree{}, c, h.err
	}
	t := tree{size: h.size, peaks: h.peaks}
	if t.root() != c.Root {
		return tree{}, c, broken("its stored hashes are not those that its last checkpoint (size %d) signs", h.size)
	}
	return t, c, nil
}

// durable refuses a database that acknowledges what isn't on its disk yet, and
// one that takes nothing.
func (h *head) durable() error {
	switch {
	case h.readOnly != "off":
		return errReadOnly()
	case h.committed[0] != "on" && h.committed[0] != "remote_apply":
		return access.Errorf(access.CodeUnavailable, "PostgreSQL has synchronous_commit=%s: it would acknowledge events before they are on disk", h.committed[0]).
			WithHint("ALTER ROLE … IN DATABASE … SET synchronous_commit = on")
	case h.committed[1] != "on":
		return access.Errorf(access.CodeUnavailable, "PostgreSQL has fsync=%s: it would acknowledge events before they are on disk", h.committed[1]).
			WithHint("set fsync = on in postgresql.conf")
	}
	return nil
}

// loadTree reads the last checkpoint and the tree it signs.
func loadTree(ctx context.Context, d dialect, q querier, open func([]byte) (Checkpoint, error)) (tree, []byte, error) {
	var h head
	query := h.query(d)
	rows, err := q.QueryContext(ctx, query.query)
	if err != nil {
		return tree{}, nil, fmt.Errorf("read audit log: %w", explain(err))
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		if err := query.each(rows); err != nil {
			return tree{}, nil, fmt.Errorf("read audit log: %w", explain(err))
		}
	}
	if err := rows.Err(); err != nil {
		return tree{}, nil, fmt.Errorf("read audit log: %w", explain(err))
	}
	t, _, err := h.tree(open)
	return t, h.msg, err
}

func readHash(ctx context.Context, q querier, level int, row int64) (h tlog.Hash, err error) {
	var stored []byte
	err = q.QueryRowContext(ctx, "SELECT hashes FROM events WHERE idx = ?", row).Scan(&stored)
	if errors.Is(err, sql.ErrNoRows) {
		return h, broken("event %d is missing", row)
	} else if err != nil {
		return h, fmt.Errorf("read audit log: %w", explain(err))
	}
	if h, err = hashAt(stored, level); err != nil {
		return h, broken("event %d: %v", row, err)
	}
	return h, nil
}

// broken is the error of a log that has been tampered with or damaged.
func broken(format string, args ...any) *access.Error {
	return access.Errorf(access.CodeUnverified, "the audit log has been changed: "+format, args...).
		WithHint("hallpass audit verify")
}
