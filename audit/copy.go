package audit

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"os"
	"path/filepath"
	"strings"

	"hallpass/access"
)

// tables are all there are, with their columns; the first is the key.
var tables = []struct {
	name    string
	columns []string
}{
	{"events", []string{"idx", "time", "type", "request", "step", "actor", "requester", "resource", "hashes", "leaf"}},
	{"checkpoints", []string{"size", "note"}},
	{"ledger", []string{"request", "hash", "handle", "credential", "ended", "ended_at"}},
	{"serials", []string{"ca", "last"}},
	{"cas", []string{"fingerprint", "key"}},
	{"krl", []string{"id", "taken", "version", "list", "signature"}},
	{"hosts", []string{"host", "token", "agent_key", "host_key", "certificate", "at"}},
}

// Bounds on what is sent to the copy at once.
const (
	copyRows  = 500
	copyBytes = 4 << 20
)

// Copy copies the whole log, as of one moment, into a database that has
// nothing in it (Options.Database), and verifies the copy as Verify does,
// against the log's last checkpoint, before it lets go of it: the copy is there
// as a whole, or not at all. Whoever writes meanwhile isn't held up, and what
// he writes isn't in the copy; grown is how many events that were.
//
// What is wrong with the log, and so with its copy, is in the report; then
// there is no copy. Errors: CodeDuplicate where there is something already.
func (r *Reader) Copy(ctx context.Context, to string) (report Report, grown int64, err error) {
	target, err := dialectOf(to)
	if err != nil {
		return report, 0, err
	}
	file, isFile := target.(sqliteFile)
	if isFile {
		if _, err := os.Lstat(to); err == nil {
			return report, 0, access.Errorf(access.CodeDuplicate, "there already is a file at %s", to)
		}
		// A file gets its name when it is whole. What a copy that was killed
		// has left goes.
		file += ".copying"
		target = file
		if err := removeDatabase(string(file)); err != nil {
			return report, 0, err
		}
		defer func() { err = errors.Join(err, removeDatabase(string(file))) }()
	}
	if report, err = r.copyInto(ctx, target); err != nil || !report.OK {
		return report, 0, err
	}
	if isFile {
		if err := os.Rename(string(file), to); err != nil {
			return report, 0, fmt.Errorf("copy audit log: %w", err)
		}
		if err := syncDir(filepath.Dir(to)); err != nil {
			return report, 0, err
		}
	}
	var size int64
	if err := r.db.QueryRowContext(ctx, "SELECT max(size) FROM checkpoints").Scan(&size); err != nil {
		return report, 0, fmt.Errorf("read audit log: %w", explain(err))
	}
	return report, size - report.Size, nil
}

// removeDatabase removes a file of SQLite and what belongs to it.
func removeDatabase(path string) (err error) {
	for _, suffix := range []string{"", "-wal", "-shm"} {
		if e := os.Remove(path + suffix); e != nil && !errors.Is(e, os.ErrNotExist) {
			err = errors.Join(err, fmt.Errorf("copy audit log: %w", e))
		}
	}
	return err
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("copy audit log: %w", err)
	}
	if err := errors.Join(d.Sync(), d.Close()); err != nil {
		return fmt.Errorf("copy audit log: %w", err)
	}
	return nil
}

// copyInto fills a database in one transaction, which is committed if the copy
// verifies.
func (r *Reader) copyInto(ctx context.Context, target dialect) (report Report, err error) {
	from, end, err := r.snapshot(ctx)
	if err != nil {
		return report, err
	}
	defer end()
	have, err := checkSchema(ctx, r.db, from)
	if err != nil {
		return report, err
	}
	if len(r.db.create(have)) > 0 {
		return report, access.Errorf(access.CodeMalformed, "audit log has schema version %d, not %d", have, schemaVersion).
			WithHint("copy it with the hallpass that wrote it; a worker of this one brings it up when it starts")
	}
	_, last, err := loadTree(ctx, r.db, from, r.open)
	if err != nil {
		return report, err
	}
	since, err := r.open(last)
	if err != nil {
		return report, err
	}
	db, err := target.pool(false)
	if err != nil {
		return report, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	s, err := target.session(ctx, db)
	if err != nil {
		return report, fmt.Errorf("copy audit log: %w", explain(err))
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	if _, err := s.send(ctx, target.lock()...); err != nil {
		return report, fmt.Errorf("copy audit log: %w", explain(err))
	}
	defer func() {
		if err != nil || !report.OK {
			_, _ = s.send(context.WithoutCancel(ctx), stmt{query: "ROLLBACK"})
		}
	}()
	if _, err := checkSchema(ctx, target, s); err == nil {
		return report, access.Errorf(access.CodeDuplicate, "there already is an audit log in %s", target)
	} else if !errors.Is(err, errEmpty) {
		return report, err
	}
	if err := create(ctx, target, s, 0); err != nil {
		return report, err
	}
	for _, t := range tables {
		columns := strings.Join(t.columns, ", ")
		query := fmt.Sprintf("SELECT %s FROM %s ORDER BY %s", columns, t.name, t.columns[0])
		insert := fmt.Sprintf("INSERT INTO %s (%s) VALUES (?%s)", t.name, columns, strings.Repeat(", ?", len(t.columns)-1))
		var batch []stmt
		size := 0
		send := func() error {
			_, err := s.send(ctx, batch...)
			batch, size = batch[:0], 0
			return explain(err)
		}
		want := sha256.New()
		err := eachRow(ctx, from, query, len(t.columns), want, func(values []any, bytes int) error {
			batch, size = append(batch, stmt{query: insert, args: values}), size+bytes
			if len(batch) < copyRows && size < copyBytes {
				return nil
			}
			return send()
		})
		if err == nil && len(batch) > 0 {
			err = send()
		}
		got := sha256.New()
		if err == nil {
			err = eachRow(ctx, s, query, len(t.columns), got, func([]any, int) error { return nil })
		}
		if err == nil && string(want.Sum(nil)) != string(got.Sum(nil)) {
			err = errors.New("the copy is not what was copied")
		}
		if err != nil {
			return report, fmt.Errorf("copy table %s of the audit log: %w", t.name, err)
		}
	}
	report.Log = r.PublicKey()
	if err := verify(ctx, target, s, nil, r.verifier, &since, &report); err != nil || !report.OK {
		return report, err
	}
	if _, err := s.send(ctx, stmt{query: commitWork}); err != nil {
		return report, fmt.Errorf("copy audit log: %w", explain(err))
	}
	return report, nil
}

// eachRow reads a table, and hashes all that is in it.
func eachRow(ctx context.Context, q querier, query string, columns int, sum hash.Hash, each func(values []any, bytes int) error) error {
	rows, err := q.QueryContext(ctx, query)
	if err != nil {
		return explain(err)
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		values, dest := make([]any, columns), make([]any, columns)
		for i := range values {
			dest[i] = &values[i]
		}
		if err := rows.Scan(dest...); err != nil {
			return explain(err)
		}
		size := 0
		for i, v := range values {
			if b, ok := v.([]byte); ok && b == nil || v == nil { // SQLite's way to give no bytes
				v = []byte{}
				values[i] = v
			}
			text := fmt.Append(nil, v)
			if b, ok := v.([]byte); ok {
				text = b
			}
			size += len(text)
			_, _ = fmt.Fprintf(sum, "%d ", len(text)) // a hash takes everything
			_, _ = sum.Write(text)
		}
		if err := each(values, size); err != nil {
			return err
		}
	}
	return explain(rows.Err())
}
