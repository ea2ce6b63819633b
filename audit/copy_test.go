package audit

import (
	"context"
	"database/sql"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"hallpass/access"
)

func TestCopyKnowsAllTables(t *testing.T) {
	var have, want []string
	for _, t := range tables {
		have = append(have, t.name+" "+strings.Join(t.columns, " "))
	}
	_, name, _ := newLog(t)
	rows, err := behind(t, name).Query(`SELECT m.name || ' ' || group_concat(c.name, ' ') FROM sqlite_schema m, pragma_table_info(m.name) c
		WHERE m.type = 'table' GROUP BY m.name`)
	if err != nil {
		t.Fatal(err)
	}
	for rows.Next() {
		var s string
		if err := rows.Scan(&s); err != nil {
			t.Fatal(err)
		}
		want = append(want, s)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	slices.Sort(have)
	slices.Sort(want)
	if !slices.Equal(have, want) {
		t.Errorf("tables are %q, there are %q", have, want)
	}
}

// full is a log in which every table has something, krl something empty.
func full(t *testing.T) *world {
	t.Helper()
	w := newWorld(t)
	w.live()
	if _, err := w.log.DraftKRL(context.Background(), w.ca.PublicKey()); err != nil {
		t.Fatal(err)
	}
	for _, s := range odd {
		w.record(Event{Type: CredentialRefused, Request: s, Step: s, Actor: s, Requester: s, Resource: s, Why: s, Code: access.Code(s)})
	}
	return w
}

// There and back: from a file to what the tests run on, and to a file again.
// Each copy is the same log, and goes on.
func TestCopy(t *testing.T) {
	ctx := context.Background()
	w := full(t)
	checkpoint, err := w.log.Checkpoint(ctx)
	if err != nil {
		t.Fatal(err)
	}
	size := w.verify(VerifyOptions{}).Size
	here := w.log.Reader
	for _, to := range []string{newDatabase(t), filepath.Join(t.TempDir(), "back.db"), newDatabase(t)} {
		report, grown, err := here.Copy(ctx, to)
		if err != nil || !report.OK || report.Size != size || report.Since == nil || grown != 0 {
			t.Fatalf("copy to %s: %v, %+v, grown %d", to, err, report, grown)
		}
		if !IsAddress(to) {
			left, err := filepath.Glob(to + "*")
			if info, serr := os.Stat(to); err != nil || serr != nil || len(left) != 1 || info.Mode().Perm() != 0o600 {
				t.Errorf("left are %q, %v, %v", left, err, serr)
			}
		}
		l := openLog(t, to, w.private)
		if got, err := l.Checkpoint(ctx); err != nil || string(got) != string(checkpoint) {
			t.Errorf("%s has another checkpoint: %v", to, err)
		}
		if _, _, err := here.Copy(ctx, to); access.CodeOf(err) != access.CodeDuplicate {
			t.Errorf("copy once more to %s: %v, want duplicate", to, err)
		}
		here = l.Reader
	}
	// The last copy goes on where the log was.
	last := w.log
	w.log = openLog(t, newDatabaseOf(t, here), w.private)
	if index := w.record(newer(9, 9)); index != size {
		t.Errorf("goes on at %d, want %d", index, size)
	}
	if n, err := w.log.NextSerial(ctx, w.ca.Fingerprint(), 0); err != nil || n != 2 {
		t.Errorf("serial %d, %v", n, err)
	}
	if _, err := last.Append(ctx, newer(9, 9)); err != nil {
		t.Error(err)
	}
}

// newDatabaseOf copies once more.
func newDatabaseOf(t *testing.T, r *Reader) string {
	t.Helper()
	to := newDatabase(t)
	if report, _, err := r.Copy(context.Background(), to); err != nil || !report.OK {
		t.Fatalf("%v, %+v", err, report)
	}
	return to
}

// A log that doesn't verify isn't copied, and leaves nothing behind.
func TestCopyOfABrokenLog(t *testing.T) {
	ctx := context.Background()
	for _, row := range []struct{ edit, want string }{
		{"UPDATE events SET actor = 'carol' WHERE idx = 5", "column actor says"},
		{"UPDATE ledger SET ended = '' WHERE handle <> ''", "the ledger's entry is not what the events say"},
		{"DELETE FROM checkpoints WHERE size = 14", "its last checkpoint covers 13 events"},
	} {
		if server != nil && row.want != "column actor says" {
			continue // what finds them is the same
		}
		w := newWorld(t)
		w.live()
		w.edit(row.edit)
		r, err := OpenReader(ctx, w.path, w.public)
		if err != nil {
			t.Fatal(err)
		}
		to := newDatabase(t)
		report, _, err := r.Copy(ctx, to)
		if report.OK || !strings.Contains(report.OneLine(), row.want) && (err == nil || !strings.Contains(err.Error(), row.want)) {
			t.Errorf("%s: %v, %+v", row.edit, err, report.Problems)
		}
		if _, err := OpenReader(ctx, to, w.public); access.CodeOf(err) != access.CodeNotFound {
			t.Errorf("%s: there is something: %v", row.edit, err)
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	}
}

// What is written meanwhile stays out of the copy, and is counted.
func TestCopyWhileOthersWrite(t *testing.T) {
	l, _, public := newLog(t)
	if err := hammer(l, 1, 4, 50); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- hammer(l, 2, 4, 50) }()
	to := newDatabase(t)
	report, grown, err := l.Copy(context.Background(), to)
	if err != nil || !report.OK || report.Size < 200 || report.Size+grown > 400 {
		t.Errorf("%v, %+v, grown %d", err, report, grown)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	verified(t, to, public, report.Size)
}

// A copy that was killed leaves a file that isn't taken for a log, and the
// next one clears it away.
func TestCopyAfterAKilledOne(t *testing.T) {
	l, _, public := newLog(t)
	to := filepath.Join(t.TempDir(), "to.db")
	db, err := sql.Open("sqlite", to+".copying")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := db.Exec("CREATE TABLE half (x)"); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if report, _, err := l.Copy(context.Background(), to); err != nil || !report.OK {
		t.Errorf("%v, %+v", err, report)
	}
	verified(t, to, public, 0)
}
