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
	"strings"
	"time"

	sqlite "modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"hallpass/access"
)

// applicationID is "HPAU": what file(1) and we know the file by.
const applicationID = 0x48504155

// maxWAL is how long, in bytes, a write-ahead log may stay that has been longer. SQLite writes
// it to the file whenever it has 4 MiB.
const maxWAL = 16 << 20

// sqliteFile is the path of a log in one file.
type sqliteFile string

func (f sqliteFile) String() string                { return string(f) }
func (f sqliteFile) translate(query string) string { return query }
func (f sqliteFile) lock() []stmt                  { return []stmt{{query: "BEGIN IMMEDIATE"}} }
func (f sqliteFile) snapshot() string              { return "BEGIN" }
func (f sqliteFile) version() string               { return "PRAGMA data_version" }
func (f sqliteFile) clock() string                 { return "" }
func (f sqliteFile) room() string                  { return "" }
func (f sqliteFile) settings() string              { return "'on', 'on', 'off'" } // dsn sees to it

// prefetch asks for so many, the last of them several times, that there are few
// different statements to keep.
func (f sqliteFile) prefetch(requests, steps []string) (string, []any) {
	n := 1
	for n < len(steps) {
		n *= 4
	}
	args := make([]any, 0, 2*n)
	for i := range n {
		i = min(i, len(steps)-1)
		args = append(args, requests[i], steps[i])
	}
	return "WITH want (request, step) AS (VALUES (?, ?)" + strings.Repeat(", (?, ?)", n-1) + `)
		SELECT e.request, e.step, e.idx, e.leaf FROM want CROSS JOIN events AS e
		WHERE e.request = want.request AND e.step = want.step AND e.step <> ''`, args
}

// pool names the database for the driver, with everything set that a
// connection needs.
func (f sqliteFile) pool(readOnly bool) (*sql.DB, error) {
	if readOnly {
		if _, err := os.Stat(string(f)); errors.Is(err, os.ErrNotExist) {
			return nil, access.Errorf(access.CodeNotFound, "there is no audit log at %s", f)
		}
	} else if err := createFile(string(f)); err != nil {
		return nil, err
	}
	abs, err := filepath.Abs(string(f))
	if err != nil {
		return nil, fmt.Errorf("open audit log: %w", err)
	}
	q := url.Values{"_pragma": {
		fmt.Sprintf("busy_timeout(%d)", busyTimeout.Milliseconds()),
		"trusted_schema(off)",
	}}
	if readOnly {
		q.Set("mode", "ro")
		q.Add("_pragma", "query_only(on)")
	} else {
		q.Set("mode", "rw")
		q.Add("_pragma", "journal_mode(wal)")
		q.Add("_pragma", "synchronous(full)")
		// What bringing up the schema has made of the write-ahead log doesn't stay so.
		q.Add("_pragma", fmt.Sprintf("journal_size_limit(%d)", maxWAL))
	}
	u := url.URL{Scheme: "file", Path: filepath.ToSlash(abs), RawQuery: q.Encode()}
	db, err := sql.Open("sqlite", u.String())
	if err != nil {
		return nil, fmt.Errorf("open audit log: %w", err)
	}
	idle(db)
	return db, nil
}

// session opens a writer's connection. Setting the journal mode of a new file
// takes a lock that SQLite doesn't wait for, so where several processes make
// the log together, some of them have to try again.
func (f sqliteFile) session(ctx context.Context, db *sql.DB) (session, error) {
	start := time.Now()
	for wait := time.Millisecond; ; wait *= 2 {
		conn, err := db.Conn(ctx)
		if err == nil {
			return &sqliteSession{conn, map[string]*sql.Stmt{}}, nil
		}
		if access.CodeOf(explain(err)) != access.CodeUnavailable || time.Since(start) > busyTimeout {
			return nil, err
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

// schema gives the statements that the file was made with. VACUUM writes them
// in another order.
func (f sqliteFile) schema(ctx context.Context, q querier) (v int, found []string, err error) {
	var id int
	if err := q.QueryRowContext(ctx, "PRAGMA application_id").Scan(&id); err != nil {
		return 0, nil, fmt.Errorf("open audit log: %w", explain(err))
	}
	if err := q.QueryRowContext(ctx, "PRAGMA user_version").Scan(&v); err != nil {
		return 0, nil, fmt.Errorf("open audit log: %w", explain(err))
	}
	if found, err = list(ctx, q, "SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL"); err != nil {
		return 0, nil, err
	}
	if id != applicationID && (id != 0 || v != 0 || len(found) > 0) {
		return 0, nil, access.Errorf(access.CodeMalformed, "this SQLite file is not an audit log of hallpass")
	}
	return v, found, nil
}

// list reads a column of text.
func list(ctx context.Context, q querier, query string, args ...any) (found []string, err error) {
	rows, err := q.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, fmt.Errorf("open audit log: %w", explain(err))
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var s string
		if err := rows.Scan(&s); err != nil {
			return nil, fmt.Errorf("open audit log: %w", explain(err))
		}
		found = append(found, s)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("open audit log: %w", explain(err))
	}
	return found, nil
}

func (f sqliteFile) want(version int) []string {
	want := slices.Concat(schemas[:version]...)
	if version < rowids {
		for i, s := range want {
			if isOfLedger(s) && strings.HasPrefix(s, "CREATE TABLE ") {
				want[i] += ", WITHOUT ROWID"
			}
		}
	}
	return want
}

func (f sqliteFile) create(have int) []string {
	if have == schemaVersion {
		return nil
	}
	queries := append([]string{
		fmt.Sprintf("PRAGMA application_id = %d", applicationID),
		fmt.Sprintf("PRAGMA user_version = %d", schemaVersion),
	}, slices.Concat(schemas[have:]...)...)
	if 0 < have && have < rowids {
		queries = append(queries, moveLedger()...)
	}
	return queries
}

// rowids is the version since which the ledger is an ordinary table. Without rowids
// a row lies in its key, so that to find one the rows next to it are read as a whole,
// and no index tells anything without them.
const rowids = 5

// moveLedger makes an ordinary table of one without rowids. Its indexes go with the
// old one.
func moveLedger() []string {
	queries := []string{"ALTER TABLE ledger RENAME TO ledger_without_rowids"}
	var indexes []string
	for _, s := range slices.Concat(schemas[:]...) {
		switch {
		case !isOfLedger(s):
		case strings.HasPrefix(s, "CREATE TABLE "):
			queries = append(queries, s)
		default:
			indexes = append(indexes, s)
		}
	}
	queries = append(queries,
		"INSERT INTO ledger SELECT request, hash, handle, credential, ended, ended_at FROM ledger_without_rowids",
		"DROP TABLE ledger_without_rowids")
	return append(queries, indexes...)
}

// isOfLedger says whether a statement makes the ledger or an index of it.
func isOfLedger(s string) bool {
	return strings.HasPrefix(s, "CREATE TABLE ledger ") || strings.HasPrefix(s, "CREATE INDEX ledger_")
}

// intact looks at the file: an index that doesn't fit its table would answer
// queries wrongly.
func (f sqliteFile) intact(ctx context.Context, q querier) (string, error) {
	var found string
	if err := q.QueryRowContext(ctx, "PRAGMA integrity_check(1)").Scan(&found); err != nil {
		return "", fmt.Errorf("read audit log: %w", explain(err))
	}
	if found != "ok" {
		return "the SQLite file is damaged: " + found, nil
	}
	return "", nil
}

// sqliteSession keeps its few statements compiled.
type sqliteSession struct {
	*sql.Conn
	prepared map[string]*sql.Stmt
}

func (s *sqliteSession) send(ctx context.Context, stmts ...stmt) (done int, err error) {
	for i, x := range stmts {
		p := s.prepared[x.query]
		if p == nil {
			if p, err = s.PrepareContext(ctx, x.query); err != nil {
				return i, err
			}
			s.prepared[x.query] = p
		}
		if x.each == nil {
			_, err = p.ExecContext(ctx, x.args...)
		} else {
			err = s.rows(ctx, p, x)
		}
		if err != nil {
			return i, err
		}
	}
	return len(stmts), nil
}

func (s *sqliteSession) rows(ctx context.Context, p *sql.Stmt, x stmt) error {
	rows, err := p.QueryContext(ctx, x.args...)
	if err != nil {
		return err
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		if err := x.each(rows); err != nil {
			return err
		}
	}
	return rows.Err()
}

func (s *sqliteSession) gone() bool { return false }

func (s *sqliteSession) Close() (err error) {
	for _, p := range s.prepared {
		err = errors.Join(err, p.Close())
	}
	return errors.Join(err, s.Conn.Close())
}

// explainSQLite adds what to do to the errors of SQLite that people meet. It is
// nil for others.
func explainSQLite(err error) error {
	var e *sqlite.Error
	if !errors.As(err, &e) {
		return nil
	}
	switch e.Code() & 0xff {
	case sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED:
		return access.Errorf(access.CodeUnavailable, "audit log is locked by another process for over %d s", busyTimeout/time.Second)
	case sqlite3.SQLITE_NOTADB:
		return access.Errorf(access.CodeMalformed, "this file is not an audit log of hallpass")
	case sqlite3.SQLITE_FULL:
		return errFull()
	case sqlite3.SQLITE_CORRUPT:
		return access.Errorf(access.CodeMalformed, "the SQLite file of the audit log is damaged: %v", err)
	}
	return nil
}

// damagedSQLite says whether SQLite can't make sense of its file.
func damagedSQLite(err error) bool {
	var e *sqlite.Error
	return errors.As(err, &e) && e.Code()&0xff == sqlite3.SQLITE_CORRUPT
}
