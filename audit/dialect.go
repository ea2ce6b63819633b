package audit

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"sync"
	"time"

	"hallpass/access"
)

// dialect is what SQLite and PostgreSQL don't have in common. All else is the
// same code and the same statements for both, written as SQLite understands
// them: translate makes PostgreSQL's of them.
type dialect interface {
	translate(query string) string

	// pool opens the database, which may connect later.
	pool(readOnly bool) (*sql.DB, error)
	// session is a writer's connection.
	session(ctx context.Context, db *sql.DB) (session, error)

	// lock begins a transaction that no other writer is in at the same time,
	// in whatever process.
	lock() []stmt
	// snapshot begins a transaction that sees the log as of one moment.
	snapshot() string
	// version asks a connection for a number that stays the same as long as no
	// other one has committed anything; "" where there is none.
	version() string
	// settings are three columns: whether a commit is on disk before it is
	// acknowledged, by the session's setting and by the server's, and whether
	// nothing can be written.
	settings() string
	// clock asks for the milliseconds since 1970 by the database's own clock;
	// "" if that is the process's.
	clock() string
	// room needs a page more for a table, in a transaction that is rolled back; ""
	// where only a commit could tell.
	room() string
	// prefetch looks steps of requests up, all at once, and gives request, step,
	// idx and leaf of those that are there.
	prefetch(requests, steps []string) (query string, args []any)

	// schema reads what there is: the version, 0 if the database is empty, and
	// a description to be compared with want.
	schema(ctx context.Context, q querier) (version int, found []string, err error)
	want(version int) []string
	// create makes the schema that of the version that it should have.
	create(have int) []string

	// intact has the database look at itself; "" means that nothing is wrong.
	intact(ctx context.Context, q querier) (string, error)

	// String names the log in messages; nothing secret is in it.
	String() string
}

// stmt is a statement with its arguments.
type stmt struct {
	query string
	args  []any
	each  func(row scanner) error // is given the rows of a query; nil if there are none
	long  bool                    // it takes as long as the tables are large
}

// scanner is a row of a result.
type scanner interface{ Scan(dest ...any) error }

// session is a writer's connection to the database.
type session interface {
	querier
	// send has statements carried out in order, in one round trip where the
	// database is elsewhere, and stops at the first that fails. done is how
	// many were carried out.
	send(ctx context.Context, stmts ...stmt) (done int, err error)
	// gone says whether the connection is broken: whatever was sent last may
	// or may not have been carried out.
	gone() bool
	Close() error
}

// dialectOf tells databases apart by their names.
func dialectOf(name string) (dialect, error) {
	if IsAddress(name) {
		return newPostgres(name)
	}
	return sqliteFile(name), nil
}

// database is a pool of connections, asked in SQLite's words.
type database struct {
	*sql.DB
	dialect

	mu       sync.Mutex
	prepared map[string]*sql.Stmt // by what was asked, closed with the pool; nil where the driver does that itself
}

// idle keeps the connections that somebody had within the last minute for the next one:
// to open one takes longer than to ask.
func idle(db *sql.DB) {
	db.SetMaxIdleConns(maxConnections)
	db.SetConnMaxIdleTime(time.Minute)
}

// maxPrepared bounds how many questions are kept prepared: there are a few that are asked
// over and over.
const maxPrepared = 64

func openDatabase(name string, readOnly bool) (*database, error) {
	d, err := dialectOf(name)
	if err != nil {
		return nil, err
	}
	db, err := d.pool(readOnly)
	if err != nil {
		return nil, err
	}
	out := &database{DB: db, dialect: d}
	if _, ok := d.(sqliteFile); ok {
		out.prepared = map[string]*sql.Stmt{}
	}
	return out, nil
}

func (d *database) QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	if s := d.prepare(ctx, query); s != nil {
		return s.QueryContext(ctx, args...)
	}
	return d.DB.QueryContext(ctx, d.translate(query), args...)
}

func (d *database) QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row {
	if s := d.prepare(ctx, query); s != nil {
		return s.QueryRowContext(ctx, args...)
	}
	return d.DB.QueryRowContext(ctx, d.translate(query), args...)
}

// prepare is a query ready to be asked, nil if it isn't to be had that way.
func (d *database) prepare(ctx context.Context, query string) *sql.Stmt {
	d.mu.Lock()
	s, more := d.prepared[query], d.prepared != nil && len(d.prepared) < maxPrepared
	d.mu.Unlock()
	if s != nil || !more {
		return s
	}
	s, err := d.PrepareContext(ctx, query) // not under the lock: it may wait for a connection
	if err != nil {
		return nil // asking will say why
	}
	d.mu.Lock()
	other := d.prepared[query]
	keep := other == nil && len(d.prepared) < maxPrepared
	if keep {
		d.prepared[query] = s
	}
	d.mu.Unlock()
	if keep {
		return s
	}
	_ = s.Close() // it may wait for a connection as well
	return other
}

// translated is a connection that is asked in SQLite's words.
type translated struct {
	*sql.Conn
	dialect
}

func (c translated) QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	return c.Conn.QueryContext(ctx, c.translate(query), args...)
}

func (c translated) QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row {
	return c.Conn.QueryRowContext(ctx, c.translate(query), args...)
}

// checkSchema refuses what isn't an audit log, what a newer hallpass has
// written, and a log that somebody has added tables, indexes or triggers to.
// It returns the version of the schema, which may be an older one.
func checkSchema(ctx context.Context, d dialect, q querier) (int, error) {
	v, found, err := d.schema(ctx, q)
	switch {
	case err != nil:
		return 0, err
	case v == 0 && len(found) == 0:
		return 0, errEmpty
	case v > schemaVersion:
		return 0, access.Errorf(access.CodeMalformed, "audit log has schema version %d, this hallpass knows %d", v, schemaVersion).
			WithHint("use the newer hallpass that wrote it")
	case v < 1 || !slices.Equal(slices.Sorted(slices.Values(found)), slices.Sorted(slices.Values(d.want(v)))):
		return 0, access.Errorf(access.CodeMalformed, "the tables of the audit log have been changed: its schema is not that of version %d", v)
	}
	return v, nil
}

// create makes the tables, or what is missing of them.
func create(ctx context.Context, d dialect, s session, have int) error {
	for _, query := range d.create(have) {
		_, err := s.send(ctx, stmt{query: query, long: true})
		if have > 0 && forbiddenPostgres(err) {
			return access.Errorf(access.CodeForbidden, "the audit log is of schema version %d and has to become %d, which this user of the database may not do", have, schemaVersion).
				WithHint("start a worker once as the owner of its tables")
		}
		if err != nil {
			return fmt.Errorf("create audit log: %w", explain(err))
		}
	}
	return nil
}
