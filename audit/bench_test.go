package audit

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"hallpass/access"
	"hallpass/testsuite/measure"
)

// BenchmarkAppend compares group commit with what it is to beat: the same rows
// in the same database, each with a transaction and a flush of its own and
// with neither tree nor checkpoint; and with what it can't beat: rows.
func BenchmarkAppend(b *testing.B) {
	b.Run("flush", benchFlush)
	b.Run("sqlite", benchAppend)
	b.Run("postgres", func(b *testing.B) {
		startServer(b)
		benchAppend(b)
	})
}

func benchAppend(b *testing.B) {
	b.Run("one-row", func(b *testing.B) {
		_, s := benchSession(b)
		benchWriters(b, 1, func(e Event) error {
			if err := e.normalize(t0); err != nil {
				return err
			}
			leaf, err := e.encode()
			if err != nil {
				return err
			}
			_, err = s.send(context.Background(), stmt{query: "INSERT INTO events SELECT coalesce(max(idx), 0) + 1, 0, ?, ?, ?, '', ?, ?, ?, ? FROM events",
				args: []any{e.Type, e.Request, e.Step, e.Requester, e.Resource, leaf[:32], leaf}})
			return err
		})
	})
	b.Run("rows", benchRows)
	for _, writers := range []int{1, 16, 64} {
		b.Run(fmt.Sprintf("group/writers=%d", writers), func(b *testing.B) {
			l, _, _ := newLog(b)
			benchWriters(b, writers, func(e Event) error {
				_, err := l.Append(context.Background(), e)
				return err
			})
		})
	}
}

// benchFlush is what the disk takes for a page that has to be on it (fsync).
func benchFlush(b *testing.B) {
	f, err := os.Create(filepath.Join(b.TempDir(), "page"))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = f.Close() })
	const pages = 1024
	page := make([]byte, 4096)
	if err := errors.Join(f.Truncate(pages*int64(len(page))), f.Sync()); err != nil {
		b.Fatal(err)
	}
	for i := range int64(pages) { // as a write-ahead log, which is written over
		if _, err := f.WriteAt(page, i*int64(len(page))); err != nil {
			b.Fatal(err)
		}
	}
	if err := f.Sync(); err != nil {
		b.Fatal(err)
	}
	i := int64(0)
	measure.Loop(b, func() {
		if _, err := f.WriteAt(page, i%pages*int64(len(page))); err != nil {
			b.Fatal(err)
		}
		i++
		if err := f.Sync(); err != nil {
			b.Fatal(err)
		}
	})
}

// benchSession opens a new log's database as Log does to write.
func benchSession(b *testing.B) (*database, session) {
	_, name, _ := newLog(b)
	db, err := openDatabase(name, false)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = db.Close() })
	s, err := db.session(context.Background(), db.DB)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = s.Close() })
	return db, s
}

// benchRows is all that the database itself has to do for group commit, by one who
// has everything at hand: finished rows, 64 of them in each transaction.
func benchRows(b *testing.B) {
	const together = 64
	db, s := benchSession(b)
	made := &tx{log: &Log{now: func() time.Time { return t0 }}, slots: map[slot]content{}}
	for i := range b.N {
		e := newer(1, i)
		made.slots[slot{e.Request, e.Step}] = content{} // nobody has to be asked
		if _, err := made.append(e); err != nil {
			b.Fatal(err)
		}
	}
	var times measure.Times
	b.ResetTimer()
	for rows := range slices.Chunk(made.writes, together) {
		start := time.Now()
		if _, err := s.send(context.Background(), slices.Concat(db.lock(), rows, []stmt{{query: commitWork}})...); err != nil {
			b.Fatal(err)
		}
		times = append(times, slices.Repeat(measure.Times{time.Since(start)}, len(rows))...)
	}
	measure.Report(b, times)
}

func benchWriters(b *testing.B, writers int, write func(Event) error) {
	var next atomic.Int64
	var wg sync.WaitGroup
	times := make([]measure.Times, writers)
	b.ResetTimer()
	for w := range writers {
		wg.Go(func() {
			for i := next.Add(1); i <= int64(b.N); i = next.Add(1) {
				start := time.Now()
				if err := write(newer(1, int(i))); err != nil {
					b.Error(err)
					return
				}
				times[w] = append(times[w], time.Since(start))
			}
		})
	}
	wg.Wait()
	measure.Report(b, slices.Concat(times...))
}

// benchLog makes a log of n small events.
func benchLog(b *testing.B, n int) (*Reader, string) {
	b.Helper()
	private, public := testKey(b)
	path := newDatabase(b)
	l := openLog(b, path, private)
	if err := hammer(l, 1, 64, n/64); err != nil {
		b.Fatal(err)
	}
	return l.Reader, public
}

func BenchmarkVerify(b *testing.B) {
	const n = 64 * 150
	r, _ := benchLog(b, n)
	for b.Loop() {
		report, err := r.Verify(context.Background(), VerifyOptions{})
		if err != nil || !report.OK {
			b.Fatal(err, report.OneLine())
		}
	}
	b.ReportMetric(n*float64(b.N)/b.Elapsed().Seconds(), "events/s")
}

// BenchmarkVerifyLives verifies whole requests: each signature, and each credential by the
// files of its day.
func BenchmarkVerifyLives(b *testing.B) {
	w := newWorld(b)
	for range 300 {
		w.live()
	}
	var report Report
	for b.Loop() {
		if report = w.verify(VerifyOptions{}); !report.OK {
			b.Fatal(report.OneLine())
		}
	}
	b.ReportMetric(float64(report.Events)*float64(b.N)/b.Elapsed().Seconds(), "events/s")
	b.ReportMetric(float64(report.Statements)*float64(b.N)/b.Elapsed().Seconds(), "signatures/s")
}

func BenchmarkProve(b *testing.B) {
	r, _ := benchLog(b, 64*150)
	if _, err := r.Prove(context.Background(), "r3"); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := r.Prove(context.Background(), "r3"); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkPast looks back on somebody who has asked for the same thing day after
// day: as many requests and grants as are ever looked at, and more. Somebody else asks in
// between, so that no page that is read is still in the connection's memory.
func BenchmarkPast(b *testing.B) {
	w := newWorld(b)
	var last string
	for range maxPast + 20 {
		r, st := w.ask("alice")
		yes := w.decision("bob", access.Approve, r, st)
		w.accept("bob", r, yes)
		w.grant(r, access.Evidence{Request: st, Decisions: []access.Statement{yes}})
		last = r.ID
	}
	b.ReportAllocs()
	for b.Loop() {
		b.StopTimer()
		w.ask("carol")
		b.StartTimer()
		past, err := w.log.Past(context.Background(), "alice", "ssh/web-1", last)
		if err != nil || past.Asked != maxPast || past.Grants != maxPast || len(past.Last) != maxLast {
			b.Fatal(past, err)
		}
	}
}
