package audit

import (
	"context"
	"database/sql"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"hallpass/access"
)

// t0 is when the tests begin.
var t0 = time.Date(2031, 5, 6, 7, 8, 9, 0, time.UTC)

// testKey makes a key pair for a log.
func testKey(t testing.TB) (private, public string) {
	t.Helper()
	dir := t.TempDir()
	public, err := CreateKey(filepath.Join(dir, "audit.key"), filepath.Join(dir, "audit.pub"), "audit.example.com")
	if err != nil {
		t.Fatal(err)
	}
	private, err = ReadKey(filepath.Join(dir, "audit.key"))
	if err != nil {
		t.Fatal(err)
	}
	return private, public
}

// openLog opens a log that is closed when the test ends.
func openLog(t testing.TB, path, key string) *Log {
	t.Helper()
	l, err := Open(context.Background(), Options{Database: path, Key: key, Now: func() time.Time { return t0 }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// newLog makes a log in a directory of its own.
func newLog(t testing.TB) (l *Log, path, public string) {
	t.Helper()
	private, public := testKey(t)
	path = newDatabase(t)
	return openLog(t, path, private), path, public
}

func TestAppendIsIdempotentByRequestAndStep(t *testing.T) {
	l, _, _ := newLog(t)
	ctx := context.Background()
	for i, row := range []struct {
		name, request, step string
		want                int64
	}{
		{"first", "r1", "received", 0},
		{"same again", "r1", "received", 0},
		{"another step", "r1", "ruled", 1},
		{"another request", "r2", "received", 2},
		{"no step", "r1", "", 3},
		{"no step again", "r1", "", 4},
		{"first, once more", "r1", "received", 0},
	} {
		got, err := l.Append(ctx, Event{Type: RequestReceived, Request: row.request, Step: row.step, Why: row.name})
		if err != nil || got != row.want {
			t.Errorf("%d %s: index %d, error %v; want %d", i, row.name, got, err, row.want)
		}
	}
	rec, err := l.Event(ctx, 0)
	if err != nil || rec.Event.Why != "first" {
		t.Errorf("event 0 says %q (%v), want the first one's", rec.Event.Why, err)
	}
	if _, err := l.Event(ctx, 5); access.CodeOf(err) != access.CodeNotFound {
		t.Errorf("event 5: %v, want not found", err)
	}
}

// A copy made by VACUUM INTO, which writes the schema in another order, is
// the same log.
func TestVacuumedCopyOpens(t *testing.T) {
	private, _ := testKey(t)
	path := newDatabase(t)
	l := openLog(t, path, private)
	if _, err := l.Append(context.Background(), Event{Type: RequestReceived, Request: "r1"}); err != nil {
		t.Fatal(err)
	}
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	copied := filepath.Join(t.TempDir(), "copy.db")
	if _, err := db.Exec("VACUUM INTO ?", copied); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(copied, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := openLog(t, copied, private).Event(context.Background(), 0); err != nil {
		t.Fatal(err)
	}
}

// What is asked over and over is prepared once, and so many questions and no more are kept.
func TestPrepared(t *testing.T) {
	l, _, _ := newLog(t)
	ctx := context.Background()
	var wg sync.WaitGroup
	for i := range 3 * maxPrepared {
		wg.Go(func() {
			var got int
			query := fmt.Sprintf("SELECT count(*) + %d FROM events WHERE idx < ?", i%(maxPrepared+10))
			if err := l.Reader.db.QueryRowContext(ctx, query, 0).Scan(&got); err != nil || got != i%(maxPrepared+10) {
				t.Errorf("%s: %d, %v", query, got, err)
			}
		})
	}
	wg.Wait()
	if n := len(l.Reader.db.prepared); n != maxPrepared {
		t.Errorf("%d questions are prepared, want %d", n, maxPrepared)
	}
	for range 2 {
		if err := l.Reader.db.QueryRowContext(ctx, "SELECT no FROM such").Scan(new(int)); err == nil || !strings.Contains(err.Error(), "no such table") {
			t.Errorf("what can't be prepared: %v", err)
		}
	}
}
