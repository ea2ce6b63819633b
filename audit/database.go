package audit

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/mod/sumdb/tlog"
	sqlite "modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"hallpass/access"
)

const (
	applicationID = 0x48504155 // "HPAU": what file(1) and we know the file by
	schemaVersion = 3
	busyTimeout   = 10_000 // milliseconds that a writer waits for another process
)

// schemas is all there is in the database: what each version of the schema
// added to the one before. The leaf stands last in its row, so that filtering
// by the columns doesn't read it.
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
) STRICT, WITHOUT ROWID`,
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
}}

// dsn names the database for the driver, with everything set that a
// connection needs.
func dsn(path string, readOnly bool) (string, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return "", fmt.Errorf("open audit log: %w", err)
	}
	q := url.Values{"_pragma": {
		fmt.Sprintf("busy_timeout(%d)", busyTimeout),
		"trusted_schema(off)",
	}}
	if readOnly {
		q.Set("mode", "ro")
		q.Add("_pragma", "query_only(on)")
	} else {
		q.Set("mode", "rw")
		q.Add("_pragma", "journal_mode(wal)")
		q.Add("_pragma", "synchronous(full)")
	}
	u := url.URL{Scheme: "file", Path: filepath.ToSlash(abs), RawQuery: q.Encode()}
	return u.String(), nil
}

// connect opens a writer's connection. Setting the journal mode of a new file
// takes a lock that SQLite doesn't wait for, so where several processes make
// the log together, some of them have to try again.
func connect(ctx context.Context, db *sql.DB) (*sql.Conn, error) {
	start := time.Now()
	for wait := time.Millisecond; ; wait *= 2 {
		conn, err := db.Conn(ctx)
		if err == nil || access.CodeOf(explain(err)) != access.CodeUnavailable || time.Since(start) > busyTimeout*time.Millisecond {
			return conn, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(wait):
		}
	}
}

// createFile makes an empty file that only its owner can read, where there is
// none. SQLite gives its -wal and -shm files the same mode.
func createFile(path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err == nil {
		return f.Close()
	}
	if !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("create audit log: %w", err)
	}
	info, err := os.Stat(path)
	if err != nil {
		return fmt.Errorf("open audit log: %w", err)
	}
	if mode := info.Mode().Perm(); mode&0o022 != 0 {
		return access.Errorf(access.CodeForbidden, "audit log %s can be written by others (mode %04o)", path, mode).
			WithHint("chmod 600 %s", path)
	}
	return nil
}

// querier is what *sql.DB, *sql.Conn and *sql.Tx have in common.
type querier interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

// errEmpty says that there is nothing in the database yet.
var errEmpty = errors.New("the database is empty")

// checkSchema refuses what isn't an audit log, what a newer hallpass has
// written, and a log that somebody has added tables, indexes or triggers to.
// It returns the version of the schema, which may be an older one.
func checkSchema(ctx context.Context, q querier) (v int, err error) {
	var id int
	if err := q.QueryRowContext(ctx, "PRAGMA application_id").Scan(&id); err != nil {
		return 0, fmt.Errorf("open audit log: %w", explain(err))
	}
	if err := q.QueryRowContext(ctx, "PRAGMA user_version").Scan(&v); err != nil {
		return 0, fmt.Errorf("open audit log: %w", explain(err))
	}
	var found []string
	rows, err := q.QueryContext(ctx, "SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL")
	if err != nil {
		return 0, fmt.Errorf("open audit log: %w", explain(err))
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var s string
		if err := rows.Scan(&s); err != nil {
			return 0, fmt.Errorf("open audit log: %w", err)
		}
		found = append(found, s)
	}
	if err := rows.Err(); err != nil {
		return 0, fmt.Errorf("open audit log: %w", err)
	}
	switch {
	case id == 0 && v == 0 && len(found) == 0:
		return 0, errEmpty
	case id != applicationID:
		return 0, access.Errorf(access.CodeMalformed, "this SQLite file is not an audit log of hallpass")
	case v > schemaVersion:
		return 0, access.Errorf(access.CodeMalformed, "audit log has schema version %d, this hallpass knows %d", v, schemaVersion).
			WithHint("use the newer hallpass that wrote it")
	case v < 1 || !sameSchema(found, v):
		return 0, access.Errorf(access.CodeMalformed, "the tables of the audit log have been changed: its schema is not that of version %d", v)
	}
	return v, nil
}

// explain adds what to do to the errors of SQLite that people meet.
func explain(err error) error {
	var e *sqlite.Error
	if !errors.As(err, &e) {
		return err
	}
	switch e.Code() & 0xff {
	case sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED:
		return access.Errorf(access.CodeUnavailable, "audit log is locked by another process for over %d s", busyTimeout/1000)
	case sqlite3.SQLITE_NOTADB:
		return access.Errorf(access.CodeMalformed, "this file is not an audit log of hallpass")
	case sqlite3.SQLITE_FULL:
		return access.Errorf(access.CodeUnavailable, "no space left for the audit log")
	case sqlite3.SQLITE_CORRUPT:
		return access.Errorf(access.CodeMalformed, "the SQLite file of the audit log is damaged: %v", err)
	}
	return err
}

// damaged says whether SQLite can't make sense of its file.
func damaged(err error) bool {
	var e *sqlite.Error
	return errors.As(err, &e) && e.Code()&0xff == sqlite3.SQLITE_CORRUPT
}

// loadTree reads the last checkpoint and the tree it signs, and refuses a log
// in which they don't fit together.
func loadTree(ctx context.Context, q querier, open func([]byte) (Checkpoint, error)) (tree, []byte, error) {
	var size int64
	var msg []byte
	err := q.QueryRowContext(ctx, "SELECT size, note FROM checkpoints ORDER BY size DESC LIMIT 1").Scan(&size, &msg)
	if errors.Is(err, sql.ErrNoRows) {
		return tree{}, nil, broken("it has no checkpoint")
	} else if err != nil {
		return tree{}, nil, fmt.Errorf("read audit log: %w", explain(err))
	}
	c, err := open(msg)
	if err != nil {
		return tree{}, nil, err
	}
	if c.Size != size {
		return tree{}, nil, broken("the checkpoint of size %d stands in the place of size %d", c.Size, size)
	}
	var next int64
	if err := q.QueryRowContext(ctx, "SELECT coalesce(max(idx), -1) + 1 FROM events").Scan(&next); err != nil {
		return tree{}, nil, fmt.Errorf("read audit log: %w", explain(err))
	}
	if next != size {
		return tree{}, nil, broken("its last checkpoint covers %d events, but the last event has index %d", size, next-1)
	}
	t := tree{size: size}
	levels, rows := peakPlaces(size)
	for i, row := range rows {
		h, err := readHash(ctx, q, levels[i], row)
		if err != nil {
			return tree{}, nil, err
		}
		t.peaks = append(t.peaks, h)
	}
	if t.root() != c.Root {
		return tree{}, nil, broken("its stored hashes are not those that its last checkpoint (size %d) signs", size)
	}
	return t, msg, nil
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

// sameSchema says whether these are the statements of a version of our schema,
// in any order: VACUUM writes them in another.
func sameSchema(found []string, version int) bool {
	want := slices.Concat(schemas[:version]...)
	return slices.Equal(slices.Sorted(slices.Values(found)), slices.Sorted(slices.Values(want)))
}
