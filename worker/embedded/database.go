package embedded

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"os"
	"slices"
	"strings"

	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/server/common/config"
	"go.temporal.io/server/common/headers"
	"go.temporal.io/server/common/persistence/sql/sqlplugin"
	sqliteplugin "go.temporal.io/server/common/persistence/sql/sqlplugin/sqlite"
	"go.temporal.io/server/schema/sqlite"
	"google.golang.org/protobuf/types/known/durationpb"

	"hallpass/access"
	"hallpass/worker"
)

// shards is how many history shards there are. Temporal can't change it once
// the file exists. A shard's queue is read at most 20 times a second
// (history.transferProcessorMaxPollRPS): with one shard every step of a workflow waits
// for that, and with four, workflows that follow each other at once still do.
const shards = 8

// The pragmas that make an acknowledged write a durable one.
var pragmas = map[string]string{
	"journal_mode": "wal",
	"synchronous":  "2", // FULL: fsync before a commit returns
	"busy_timeout": "10000",
}

// format says what made a database. Temporal keeps no such record for SQLite
// and brings no migrations: a file of another schema would open and half
// work. So it stands in a table of ours, written in the transaction that
// makes the schema.
type format struct {
	schema, visibility, server string
	shards                     int
}

func thisFormat() format {
	return format{schema: sqlite.Version, visibility: sqlite.VisibilityVersion, server: headers.ServerVersion, shards: shards}
}

// prepare makes the database at path if there is none, and refuses one that
// this build of Temporal can't serve.
func prepare(ctx context.Context, path string) (err error) {
	// SQLite gives its other files the mode of this one.
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	query := url.Values{"_txlock": {"immediate"}}
	for name, value := range pragmas {
		query.Add("_pragma", name+"="+value)
	}
	db, err := sql.Open("sqlite", "file:"+escape(path)+"?"+query.Encode())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }() // does nothing after Commit
	var tables int
	if err := tx.QueryRowContext(ctx, `SELECT count(*) FROM sqlite_master`).Scan(&tables); err != nil {
		return err
	}
	if tables > 0 {
		return check(ctx, tx)
	}
	if err := sqlite.SetupSchemaOnDB(within{exec: func(stmt string, args ...any) error {
		_, err := tx.ExecContext(ctx, stmt, args...)
		return err
	}}); err != nil {
		return err
	}
	if err := lighten(ctx, tx); err != nil {
		return err
	}
	if _, err := tx.ExecContext(ctx, `CREATE TABLE hallpass_format (schema TEXT, visibility TEXT, server TEXT, shards INTEGER)`); err != nil {
		return err
	}
	is := thisFormat()
	if _, err := tx.ExecContext(ctx, `INSERT INTO hallpass_format VALUES (?, ?, ?, ?)`, is.schema, is.visibility, is.server, is.shards); err != nil {
		return err
	}
	return tx.Commit()
}

// lighten makes a write of what Temporal lists cheaper: one is due whenever a workflow
// starts, shows its state or ends.
func lighten(ctx context.Context, tx *sql.Tx) error {
	for _, step := range []func(context.Context, *sql.Tx) ([]string, error){unneeded, triggers} {
		stmts, err := step(ctx, tx)
		if err != nil {
			return err
		}
		for _, stmt := range stmts {
			if _, err := tx.ExecContext(ctx, stmt); err != nil {
				return fmt.Errorf("%s: %w", stmt, err)
			}
		}
	}
	return nil
}

// unneeded drops those of the 58 indexes that hallpass doesn't look anything up by. Each
// is written anew by each write; what has none, and Temporal's UI can filter by
// as well, is found by reading the rows.
func unneeded(ctx context.Context, tx *sql.Tx) ([]string, error) {
	return texts(ctx, tx, `SELECT 'DROP INDEX "' || name || '"' FROM sqlite_master WHERE type = 'index' AND tbl_name = 'executions_visibility'
		AND sql IS NOT NULL AND name NOT IN ('default_idx', 'by_workflow_id', 'by_workflow_type', 'by_status',
			'by_keyword_01', 'by_keyword_02', 'by_keyword_03')`) // see numbered
}

// triggers replaces the triggers that keep the two tables for searches in texts and lists of
// keywords. Temporal's write a row of both anew at each write, though what they hold is mostly
// nothing, or what it was. These write what has changed, and no row of nothing, which no search could find.
func triggers(ctx context.Context, tx *sql.Tx) ([]string, error) {
	stmts, err := texts(ctx, tx, `SELECT 'DROP TRIGGER "' || name || '"' FROM sqlite_master WHERE type = 'trigger' AND tbl_name = 'executions_visibility'`)
	if err != nil {
		return nil, err
	}
	for _, table := range []string{"executions_visibility_fts_text", "executions_visibility_fts_keyword_list"} {
		columns, err := texts(ctx, tx, "SELECT name FROM pragma_table_info('"+table+"')")
		if err != nil {
			return nil, err
		}
		// each is what f says of each column, together.
		each := func(sep, f string) string {
			var all []string
			for _, column := range columns {
				all = append(all, strings.ReplaceAll(f, "?", column))
			}
			return strings.Join(all, sep)
		}
		add := "INSERT INTO " + table + " (rowid" + each("", ", ?") + ") SELECT NEW.rowid" + each("", ", NEW.?") +
			" WHERE (" + each(" OR ", "NEW.? IS NOT NULL") + ")"
		remove := "INSERT INTO " + table + " (" + table + ", rowid" + each("", ", ?") + ") SELECT 'delete', OLD.rowid" + each("", ", OLD.?") +
			" WHERE (" + each(" OR ", "OLD.? IS NOT NULL") + ")"
		trigger := func(event, when, body string) string {
			return "CREATE TRIGGER " + table + "_" + event + " AFTER " + event + " ON executions_visibility" + when + " BEGIN " + body + "; END"
		}
		stmts = append(stmts, trigger("INSERT", "", add), trigger("DELETE", "", remove),
			trigger("UPDATE", " WHEN "+each(" OR ", "OLD.? IS NOT NEW.?"), remove+"; "+add))
	}
	return stmts, nil
}

// texts are what a query finds, in one column.
func texts(ctx context.Context, tx *sql.Tx, query string) ([]string, error) {
	rows, err := tx.QueryContext(ctx, query)
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }()
	var found []string
	for rows.Next() {
		var text string
		if err := rows.Scan(&text); err != nil {
			return nil, err
		}
		found = append(found, text)
	}
	return found, rows.Err()
}

// check compares what made the database with what would serve it.
func check(ctx context.Context, tx *sql.Tx) error {
	var was format
	if err := tx.QueryRowContext(ctx, `SELECT schema, visibility, server, shards FROM hallpass_format`).
		Scan(&was.schema, &was.visibility, &was.server, &was.shards); err != nil {
		return access.Errorf(access.CodeMalformed, "it was not made by hallpass: %v", err).
			WithHint("move it out of the folder; a new one is made at the next start")
	}
	is := thisFormat()
	if was.schema == is.schema && was.visibility == is.visibility && was.shards == is.shards {
		return nil
	}
	return access.Errorf(access.CodeMalformed, "it was made by Temporal %s (schema %s, visibility %s, %d shards), and this is %s (%s, %s, %d), which can't serve it",
		was.server, was.schema, was.visibility, was.shards, is.server, is.schema, is.visibility, is.shards).
		WithHint("let its requests end under the hallpass that made it, then move temporal.db away; audit.db stays as it is")
}

// within lets Temporal make its schema inside a transaction of ours. Of
// AdminDB it calls Exec alone.
type within struct {
	sqlplugin.AdminDB
	exec func(stmt string, args ...any) error
}

func (w within) Exec(stmt string, args ...any) error { return w.exec(stmt, args...) }

// store is how Temporal opens the database that prepare made.
func store(path string) *config.SQL {
	attributes := map[string]string{"mode": "rw"}
	for name, value := range pragmas {
		attributes[name] = value
	}
	return &config.SQL{PluginName: sqliteplugin.PluginName, DatabaseName: escape(path), ConnectAttributes: attributes}
}

// escape writes a path as SQLite reads one in a "file:" URI.
func escape(path string) string { return (&url.URL{Path: path}).EscapedPath() }

// makeNamespace makes the namespace with its search attributes, before the
// server starts, so that neither has to spread through caches first. It does
// nothing to one that is there.
func makeNamespace(cfg *config.SQL, o worker.ServerOptions) error {
	ns, err := sqlite.NewNamespaceConfig(cluster, o.Namespace, false, o.Attributes)
	if err != nil {
		return err
	}
	ns.Detail.Config.Retention = durationpb.New(o.Retention)
	ns.Detail.Config.CustomSearchAttributeAliases = numbered(o.Attributes)
	return sqlite.CreateNamespaces(cfg, ns)
}

// numbered gives each search attribute a column of its type, in order of their names:
// Temporal takes any, and not all have an index.
func numbered(attributes map[string]enumspb.IndexedValueType) map[string]string {
	of, count := map[string]string{}, map[enumspb.IndexedValueType]int{}
	for _, name := range slices.Sorted(maps.Keys(attributes)) {
		typ := attributes[name]
		count[typ]++
		of[fmt.Sprintf("%s%02d", typ, count[typ])] = name
	}
	return of
}
