package audit

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/bits"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"hallpass/access"
)

func TestTreeIsTheOneOfTlog(t *testing.T) {
	var own tree
	var stored []tlog.Hash
	reader := tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) {
		out := make([]tlog.Hash, len(indexes))
		for i, x := range indexes {
			out[i] = stored[x]
		}
		return out, nil
	})
	for n := range int64(130) {
		want, err := tlog.TreeHash(n, reader)
		if err != nil {
			t.Fatal(err)
		}
		if own.root() != want {
			t.Fatalf("root of %d leaves: %v, want %v", n, own.root(), want)
		}
		last := len(own.peaks) - 1
		for upto := n; upto > 0; upto &= upto - 1 {
			// A peak is stored with the last leaf it covers.
			level := bits.TrailingZeros64(uint64(upto))
			if last < 0 || stored[tlog.StoredHashIndex(level, upto>>level-1)] != own.peaks[last] {
				t.Fatalf("peak %d of %d leaves is not where it should be", last, n)
			}
			last--
		}
		if last >= 0 {
			t.Fatalf("%d leaves have %d peaks more", n, last+1)
		}
		leaf := fmt.Appendf(nil, "leaf %d", n)
		hashes, err := tlog.StoredHashes(n, leaf, reader)
		if err != nil {
			t.Fatal(err)
		}
		stored = append(stored, hashes...)
		if got := own.add(leaf); fmt.Sprint(got) != fmt.Sprint(hashes) {
			t.Fatalf("leaf %d: stored hashes %v, want %v", n, got, hashes)
		}
	}
}

func TestFilesAreTheirOwnersAlone(t *testing.T) {
	l, path, _ := newLog(t)
	if _, err := l.Append(context.Background(), Event{Type: RequestRuled}); err != nil {
		t.Fatal(err)
	}
	for _, suffix := range []string{"", "-wal", "-shm"} {
		info, err := os.Stat(path + suffix)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %04o, want 0600", filepath.Base(path+suffix), info.Mode().Perm())
		}
	}
}

// newer is an event of which there may be many.
func newer(who, i int) Event {
	return Event{Type: RequestRuled, Request: fmt.Sprintf("r%d", i/7), Step: fmt.Sprintf("%d.%d", who, i), Requester: "alice", Resource: "ssh/web-1"}
}

// hammer appends n events from each of several goroutines and returns the
// first error.
func hammer(l *Log, who, goroutines, n int) error {
	var wg sync.WaitGroup
	errs := make([]error, goroutines)
	for g := range goroutines {
		wg.Go(func() {
			for i := range n {
				if _, err := l.Append(context.Background(), newer(who*1000+g, i)); err != nil {
					errs[g] = err
					return
				}
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// verified fails the test unless the log at path verifies and has n events.
func verified(t *testing.T, path, public string, n int64) {
	t.Helper()
	r, err := OpenReader(context.Background(), path, public)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Close() }()
	report, err := r.Verify(context.Background(), VerifyOptions{})
	if err != nil || !report.OK {
		t.Fatalf("verify: %v, %+v", err, report.Problems)
	}
	if n >= 0 && report.Size != n {
		t.Fatalf("log has %d events, want %d", report.Size, n)
	}
}

func TestTwoLogsOnOneFileDontFork(t *testing.T) {
	private, public := testKey(t)
	path := newDatabase(t)
	var wg sync.WaitGroup
	for who := range 3 {
		l := openLog(t, path, private)
		wg.Go(func() {
			if err := hammer(l, who, 4, 25); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	verified(t, path, public, 300)
}

// childEnv makes the test binary a process that writes to a log.
const childEnv = "HALLPASS_AUDIT_TEST_CHILD"

func TestMain(m *testing.M) {
	if args := os.Getenv(childEnv); args != "" {
		os.Exit(child(strings.Split(args, "\n")))
	}
	os.Exit(m.Run())
}

// child appends to a log and prints each index that was acknowledged.
func child(args []string) int {
	l, err := Open(context.Background(), Options{Database: args[0], Key: args[1]})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	who, n := 0, 0
	if _, err := fmt.Sscan(args[2], &who, &n); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	for i := range n {
		index, err := l.Append(context.Background(), newer(who, i))
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		fmt.Printf("%d %d.%d\n", index, who, i)
	}
	if err := l.Close(); err != nil {
		return 1
	}
	return 0
}

func startChild(t *testing.T, path, key string, who, n int) (*exec.Cmd, *bufio.Scanner) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s\n%s\n%d %d", childEnv, path, key, who, n))
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd, bufio.NewScanner(out)
}

func TestProcessesDontFork(t *testing.T) {
	private, public := testKey(t)
	path := newDatabase(t)
	var wg sync.WaitGroup
	for who := range 4 {
		cmd, out := startChild(t, path, private, who, 50)
		wg.Go(func() {
			for out.Scan() {
			}
			if err := cmd.Wait(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	verified(t, path, public, 200)
}

// Those who start at the same time on a new file all get in.
func TestMadeTogether(t *testing.T) {
	private, _ := testKey(t)
	rounds := 50
	if server != nil {
		rounds = 5 // a new database takes PostgreSQL a while
	}
	for range rounds {
		path := newDatabase(t)
		var wg sync.WaitGroup
		for range 6 {
			wg.Go(func() {
				l, err := Open(context.Background(), Options{Database: path, Key: private})
				if err == nil {
					err = l.Close()
				}
				if err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
	}
}

func TestKilledWriterLosesNothingItAcknowledged(t *testing.T) {
	private, public := testKey(t)
	path := newDatabase(t)
	total := int64(0)
	for round := range 5 {
		cmd, out := startChild(t, path, private, round, 1_000_000)
		acknowledged := map[int64]string{}
		for len(acknowledged) < 10+3*round && out.Scan() {
			var index int64
			var step string
			if _, err := fmt.Sscan(out.Text(), &index, &step); err != nil {
				t.Fatal(err)
			}
			acknowledged[index] = step
		}
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait() // killed
		verified(t, path, public, -1)
		l := openLog(t, path, private)
		for index, step := range acknowledged {
			rec, err := l.Event(context.Background(), index)
			if err != nil || rec.Event.Step != step {
				t.Errorf("event %d is %q (%v), acknowledged was %q", index, rec.Event.Step, err, step)
			}
			total = max(total, index+1)
		}
		if next, err := l.Append(context.Background(), Event{Type: RequestRuled}); err != nil || next < total {
			t.Errorf("after the kill: index %d, error %v; want at least %d", next, err, total)
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestOneBadEventDoesNotFailItsNeighbours(t *testing.T) {
	l, path, public := newLog(t)
	var wg sync.WaitGroup
	for i := range 40 {
		wg.Go(func() {
			e := newer(1, i)
			if i%4 == 0 {
				e.Type = "no.such"
			}
			_, err := l.Append(context.Background(), e)
			if bad := access.CodeOf(err) == access.CodeMalformed; bad != (i%4 == 0) {
				t.Errorf("event %d: %v", i, err)
			}
		})
	}
	wg.Wait()
	verified(t, path, public, 30)
}

func TestAppendBounds(t *testing.T) {
	l, _, _ := newLog(t)
	for _, row := range []struct {
		name string
		e    Event
		want access.Code
	}{
		{"longest step", Event{Type: RequestRuled, Step: strings.Repeat("s", maxStep)}, ""},
		{"step too long", Event{Type: RequestRuled, Step: strings.Repeat("s", maxStep+1)}, access.CodeMalformed},
		{"no type", Event{}, access.CodeMalformed},
		{"issued without evidence", Event{Type: CredentialIssued, Credential: &access.Credential{}}, access.CodeMalformed},
		{"prepared without handle", Event{Type: CredentialPrepared}, access.CodeMalformed},
		{"file missing", Event{Type: RulebookChanged}, access.CodeMalformed},
		{"time before the year 2000", Event{Type: RequestRuled, Time: time.Date(1999, 12, 31, 23, 59, 59, 0, time.UTC)}, access.CodeMalformed},
		{"the year 2000", Event{Type: RequestRuled, Time: time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)}, ""},
		{"unrecorded policy", Event{Type: RequestRuled, Digests: &access.Digests{Policy: "sha256:00"}}, access.CodeUnavailable},
		{"event too big", Event{Type: RequestRuled, Statement: &access.Statement{Payload: strings.Repeat("x", MaxEvent)}}, access.CodeMalformed},
	} {
		if _, err := l.Append(context.Background(), row.e); access.CodeOf(err) != row.want || row.want == "" && err != nil {
			t.Errorf("%s: %v, want %q", row.name, err, row.want)
		}
	}
	// A refused statement is never too big to be recorded.
	big := access.Statement{Payload: strings.Repeat("x", 10<<20)}
	index, err := l.Append(context.Background(), Event{Type: StatementRefused, Statement: &big, Why: strings.Repeat("y", 10<<20)})
	if err != nil {
		t.Fatal(err)
	}
	rec, err := l.Event(context.Background(), index)
	if err != nil || rec.Event.Statement != nil || rec.Event.Oversized != big.Hash() || len(rec.Event.Why) != maxWhy {
		t.Errorf("oversized statement: %v, kept %d bytes", err, len(rec.Leaf))
	}
}

// Why is shown to people, whoever wrote it.
func TestWhyCannotSteerATerminal(t *testing.T) {
	l, _, _ := newLog(t)
	index, err := l.Append(context.Background(), Event{Type: StatementRefused, Why: "a\x1b]0;x\x07\nb\u009b1m\u202ec ö"})
	if err != nil {
		t.Fatal(err)
	}
	if rec, err := l.Event(context.Background(), index); err != nil || rec.Event.Why != "a?]0;x??b?1m?c ö" {
		t.Errorf("recorded %q, %v", rec.Event.Why, err)
	}
	// What is cut off isn't half of a character.
	if index, err = l.Append(context.Background(), Event{Type: StatementRefused, Why: "a" + strings.Repeat("ä", maxWhy)}); err != nil {
		t.Fatal(err)
	}
	if rec, err := l.Event(context.Background(), index); err != nil || rec.Event.Why != "a"+strings.Repeat("ä", (maxWhy-4)/2)+"..." {
		t.Errorf("recorded %d bytes that end in %q, %v", len(rec.Event.Why), rec.Event.Why[max(0, len(rec.Event.Why)-8):], err)
	}
}

func TestRequesterAndResourceComeFromTheRequest(t *testing.T) {
	l, _, _ := newLog(t)
	ctx := context.Background()
	for _, e := range []Event{
		{Type: RequestReceived, Request: "r1", Requester: "alice", Resource: "ssh/web-1"},
		{Type: DecisionAccepted, Request: "r1", Actor: "bob"},
		{Type: DecisionAccepted, Request: "r2", Actor: "bob"},
	} {
		if _, err := l.Append(ctx, e); err != nil {
			t.Fatal(err)
		}
	}
	var got []string
	for rec, err := range l.Events(ctx, Query{Actor: "bob"}) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, rec.Event.Requester+" "+rec.Event.Resource)
	}
	if want := []string{"alice ssh/web-1", " "}; fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestAnotherRequestOfTheSameID(t *testing.T) {
	l, _, _ := newLog(t)
	ctx := context.Background()
	e := Event{Type: RequestReceived, Request: "r1", Step: "received", RequestHash: "aa"}
	if _, err := l.Append(ctx, e); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Append(ctx, e); err != nil {
		t.Errorf("the same again: %v", err)
	}
	e.RequestHash = "bb"
	if _, err := l.Append(ctx, e); access.CodeOf(err) != access.CodeMismatch {
		t.Errorf("another: %v, want mismatch", err)
	}
}

func TestCloseRefusesLaterCalls(t *testing.T) {
	l, _, _ := newLog(t)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Append(context.Background(), newer(1, 1)); access.CodeOf(err) != access.CodeUnavailable {
		t.Errorf("after Close: %v, want unavailable", err)
	}
	if err := l.Close(); err != nil {
		t.Errorf("second Close: %v", err)
	}
}

func TestCancelledCallerDoesNotWait(t *testing.T) {
	l, _, _ := newLog(t)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := l.Append(ctx, newer(1, 1)); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want context cancelled", err)
	}
}

// The steps that a batch will look up are found together, by the index, however
// many they are.
func TestPrefetch(t *testing.T) {
	l, _, _ := newLog(t)
	const there = 70
	for i := range there {
		if _, err := l.Append(context.Background(), newer(1, i)); err != nil {
			t.Fatal(err)
		}
	}
	for _, n := range []int{1, 2, 4, 5, 16, 17, 64, 65, 2 * maxBatch} {
		var requests, steps []string
		for i := range n {
			e := newer(1, i)
			requests, steps = append(requests, e.Request), append(steps, e.Step)
		}
		query, args := l.db.prefetch(requests, steps)
		found := map[string]int64{}
		rows, err := l.Reader.db.QueryContext(context.Background(), query, args...)
		if err != nil {
			t.Fatal(err)
		}
		for rows.Next() {
			var request, step string
			var index int64
			var leaf []byte
			if err := rows.Scan(&request, &step, &index, &leaf); err != nil {
				t.Fatal(err)
			}
			found[request+" "+step] = index
		}
		if err := rows.Err(); err != nil {
			t.Fatal(err)
		}
		if len(found) != min(n, there) {
			t.Errorf("of %d steps, %d are found, want %d", n, len(found), min(n, there))
		}
		for i := range min(n, there) {
			if e := newer(1, i); found[e.Request+" "+e.Step] != int64(i) {
				t.Errorf("%s of %s is at %d, want %d", e.Step, e.Request, found[e.Request+" "+e.Step], i)
			}
		}
	}
	query, args := l.db.prefetch([]string{"r", "s"}, []string{"1", "2"})
	plan := sqlitePlan(t, l, query, args...)
	if !slices.ContainsFunc(plan, func(line string) bool { return strings.HasPrefix(line, "SEARCH e USING INDEX events_step") }) {
		t.Errorf("plan %q", plan)
	}
}

// sqlitePlan is how SQLite goes about a query, a line for each step.
func sqlitePlan(t *testing.T, l *Log, query string, args ...any) (plan []string) {
	t.Helper()
	rows, err := l.Reader.db.Query("EXPLAIN QUERY PLAN "+query, args...)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var id, parent, unused int
		var detail string
		if err := rows.Scan(&id, &parent, &unused, &detail); err != nil {
			t.Fatal(err)
		}
		plan = append(plan, detail)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return plan
}
