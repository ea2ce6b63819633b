package audit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"hallpass/access"
)

const columns = "time, type, request, step, actor, requester, resource, hashes, leaf"

// move renumbers an event; nothing may be at its new place.
func move(from, to int) string {
	return fmt.Sprintf("UPDATE events SET idx = %d WHERE idx = %d", to, from)
}

// TestTampering changes the file as somebody could who owns it but not the
// log's key. Each change is found, and the place is named.
func TestTampering(t *testing.T) {
	replaceLeaf := func(index int, old, new string) string {
		change := "CAST(replace(CAST(leaf AS TEXT), '%s', '%s') AS BLOB)"
		if server != nil {
			change = "convert_to(replace(convert_from(leaf, 'UTF8'), '%s', '%s'), 'UTF8')"
		}
		return fmt.Sprintf("UPDATE events SET leaf = "+change+" WHERE idx = %d", old, new, index)
	}
	for i, row := range []struct {
		name  string
		edits []string
		index int64
		what  string
		open  string // what a writer is told; "" where it need not notice
	}{
		{"one byte of a leaf changed", []string{replaceLeaf(atReceived, "disk is full", "disk is fuII")},
			atReceived, "the event has been changed", ""},
		{"one byte of the last leaf changed", []string{replaceLeaf(atRefused, "too late", "too fate")},
			atRefused, "the event has been changed", ""},
		{"row deleted", []string{"DELETE FROM events WHERE idx = 5"},
			5, "event is missing", ""},
		{"first row deleted", []string{"DELETE FROM events WHERE idx = 0"},
			0, "event is missing", ""},
		{"three rows deleted", []string{"DELETE FROM events WHERE idx BETWEEN 6 AND 8"},
			6, "3 events from here on are missing", ""},
		{"row deleted and the rest moved up", []string{"DELETE FROM events WHERE idx = 5",
			"UPDATE events SET idx = idx - 1 WHERE idx = 6", "UPDATE events SET idx = idx - 1 WHERE idx = 7",
			"UPDATE events SET idx = idx - 1 WHERE idx > 7"},
			5, "the stored tree hashes are not those", "its last checkpoint covers 14 events, but the last event has index 12"},
		{"row inserted in the middle", []string{
			"UPDATE events SET idx = -idx - 2 WHERE idx >= 9", "UPDATE events SET idx = -idx - 1 WHERE idx < 0",
			"INSERT INTO events SELECT 9, " + strings.Replace(columns, "step", "step || 'x'", 1) + " FROM events WHERE idx = 4"},
			9, "the stored tree hashes are not those", "its last checkpoint covers 14 events, but the last event has index 14"},
		{"row inserted at the end", []string{
			"INSERT INTO events SELECT 14, " + strings.Replace(columns, "step", "''", 1) + " FROM events WHERE idx = 4"},
			14, "column step says", "its last checkpoint covers 14 events, but the last event has index 14"},
		{"row inserted before the first", []string{
			"INSERT INTO events SELECT -1, " + columns + " FROM events WHERE idx = 4 AND step = ''",
			"INSERT INTO events SELECT -1, " + strings.Replace(columns, "step", "'x'", 1) + " FROM events WHERE idx = 4 AND step <> ''"},
			-1, "there is an event before the first one", "its first event has index -1"},
		{"two rows exchanged", []string{move(9, 99), move(10, 9), move(99, 10)},
			9, "stored tree hashes are not those", ""},
		{"two leaves exchanged", []string{"CREATE TEMP TABLE x AS SELECT idx, leaf FROM events WHERE idx IN (9, 10)",
			"UPDATE events SET leaf = (SELECT leaf FROM x WHERE x.idx = 19 - events.idx) WHERE idx IN (9, 10)"},
			9, "the event has been changed", ""},
		{"tail truncated", []string{"DELETE FROM events WHERE idx >= 12"},
			12, "events have been cut off: there is a checkpoint of size 13", "but the last event has index 11"},
		{"tail truncated with its checkpoints", []string{"DELETE FROM events WHERE idx >= 8", "DELETE FROM checkpoints WHERE size > 8"},
			-1, "the ledger's entry is not what the events say", ""},
		{"hash of a leaf edited", []string{"UPDATE events SET hashes = zeroblob(32) WHERE idx = 4"},
			4, "the event has been changed", ""},
		{"interior hash edited", []string{"UPDATE events SET hashes = CAST(substr(hashes, 1, 32) || zeroblob(32) AS BLOB) WHERE idx = 5"},
			5, "the stored tree hashes are not those", ""},
		{"hashes of the last event edited", []string{"UPDATE events SET hashes = zeroblob(32) WHERE idx = 13"},
			13, "the event has been changed", ""},
		{"hashes removed", []string{"UPDATE events SET hashes = x'' WHERE idx = 13"},
			13, "stored hashes are 0 bytes", "stored hashes are 0 bytes"},
		{"checkpoint replaced by an older one", []string{"UPDATE checkpoints SET note = (SELECT note FROM checkpoints WHERE size = 13) WHERE size = 14"},
			13, "the checkpoint of size 13 stands in the place of size 14", "stands in the place of size 14"},
		{"last checkpoint deleted", []string{"DELETE FROM checkpoints WHERE size = 14"},
			13, "event is not covered by a checkpoint", "its last checkpoint covers 13 events"},
		{"checkpoint without signature", []string{"UPDATE checkpoints SET note = substr(note, 1, 20) WHERE size = 14"},
			13, "checkpoint of size 14", "checkpoint"},
		{"column actor edited", []string{"UPDATE events SET actor = 'carol' WHERE idx = 5"},
			5, "column actor says", ""},
		{"column requester edited", []string{"UPDATE events SET requester = 'carol' WHERE idx = 7"},
			7, "column requester says", ""},
		{"column resource edited", []string{"UPDATE events SET resource = 'ssh/web-2' WHERE idx = 7"},
			7, "column resource says", ""},
		{"column type edited", []string{"UPDATE events SET type = 'request.ruled' WHERE idx = 7"},
			7, "column type says", ""},
		{"column request edited", []string{"UPDATE events SET request = '' WHERE idx = 7"},
			7, "column request says", ""},
		{"column step edited", []string{"UPDATE events SET step = 'x' WHERE idx = 7"},
			7, "column step says", ""},
		{"column time edited", []string{"UPDATE events SET time = time + 1 WHERE idx = 7"},
			7, "column time says", ""},
		{"ledger entry deleted", []string{"DELETE FROM ledger WHERE handle = ''"},
			-1, "the ledger has 1 entries, the events make 2", ""},
		{"ledger entry reopened", []string{"UPDATE ledger SET ended = '' WHERE handle <> ''"},
			-1, "the ledger's entry is not what the events say", ""},
		{"ledger field by another name", []string{`UPDATE ledger SET handle = replace(handle, '"not_after"', '"Not_after"') WHERE handle <> ''`},
			-1, "the ledger's entry is not in the form", ""},
		{"ledger field twice", []string{`UPDATE ledger SET handle = '{"serial":1,' || substr(handle, 2) WHERE handle <> ''`},
			-1, "the ledger's entry is not in the form", ""},
		{"ledger field nobody knows", []string{`UPDATE ledger SET credential = '{"x":1,' || substr(credential, 2) WHERE credential <> ''`},
			-1, "the ledger's entry is not in the form", ""},
		{"ledger entry invented", []string{"INSERT INTO ledger VALUES ('x', '', '', '', 'denied', 0)"},
			-1, "of which the events say nothing", ""},
		{"serials set back", []string{"UPDATE serials SET last = 0"},
			-1, "the serials of CA", ""},
		{"row deleted that has a subtree's hash", []string{"DELETE FROM events WHERE idx = 7"},
			7, "event is missing", "event 7 is missing"},
		{"hash of a subtree removed", []string{"UPDATE events SET hashes = CAST(substr(hashes, 1, 64) AS BLOB) WHERE idx = 7"},
			7, "the stored tree hashes are not those", "event 7: stored hashes are 64 bytes, too few for level 3"},
	} {
		if server != nil && i%8 != 1 {
			continue // what finds them is the same
		}
		t.Run(row.name, func(t *testing.T) {
			w := newWorld(t)
			w.live()
			w.edit(row.edits...)
			wantProblem(t, w.verify(VerifyOptions{}), row.index, row.what)
			l, err := Open(context.Background(), Options{Database: w.path, Key: w.private})
			if err == nil {
				_ = l.Close()
			}
			if row.open != "" && (err == nil || !strings.Contains(err.Error(), row.open)) {
				t.Errorf("open: %v, want %q", err, row.open)
			}
		})
	}
}

// Events are read and parsed ahead of what is judged: what is wrong with them comes in
// their order all the same, on each side of where a page ends.
func TestProblemsComeInOrder(t *testing.T) {
	l, path, public := newLog(t)
	if err := hammer(l, 1, 64, 10); err != nil {
		t.Fatal(err)
	}
	want := []int64{0, maxPage - 1, maxPage, maxPage + 1, 2*maxPage - 1, 2 * maxPage, 639}
	w := &world{t: t, path: path, log: l, public: public}
	w.edit("UPDATE events SET actor = 'carol' WHERE idx IN (" + strings.Trim(strings.ReplaceAll(fmt.Sprint(want), " ", ","), "[]") + ")")
	for range 20 {
		var got []int64
		report := w.verify(VerifyOptions{})
		for _, p := range report.Problems {
			if strings.Contains(p.What, "column actor says") {
				got = append(got, p.Index)
			}
		}
		if !slices.Equal(got, want) || report.Events != 640 {
			t.Fatalf("%d events, problems with %d, want %d", report.Events, got, want)
		}
	}
}

// Who gives up in the middle hears that, and not that something is wrong.
func TestVerifyIsCancelled(t *testing.T) {
	l, _, _ := newLog(t)
	if err := hammer(l, 1, 64, 30); err != nil {
		t.Fatal(err)
	}
	for _, after := range []int64{0, maxPage - 1, 3 * maxPage} {
		ctx, cancel := context.WithCancel(context.Background())
		conn, beside, end, err := l.snapshots(ctx)
		if err != nil {
			t.Fatal(err)
		}
		report := Report{}
		v := &verification{ctx: ctx, db: l.Reader.db, conn: conn, beside: beside, report: &report, verifier: l.verifier, replay: newReplay(&report)}
		v.watch = func(index int64, _ *Event) {
			if index == after {
				cancel()
			}
		}
		if err := v.run(); !errors.Is(err, context.Canceled) || len(report.Problems) > 0 {
			t.Errorf("cancelled after event %d: %v, %v", after, err, report.Problems)
		}
		end()
		cancel()
	}
}

// everything is all that the log at path says, by every way of asking.
func everything(w *world) (string, error) {
	ctx := context.Background()
	r, err := OpenReader(ctx, w.path, w.public)
	if err != nil {
		return "", err
	}
	defer func() { _ = r.Close() }()
	var out strings.Builder
	for _, q := range []Query{{}, {Requester: "alice"}, {Resource: "ssh/web-1"}, {From: t0}, {Actor: "bob"}, {Type: CredentialIssued},
		{Request: "01900000-0000-7000-8000-000000000001"}, {step: "ruled"}} {
		if err := r.ExportJSONLines(ctx, &out, q); err != nil {
			return "", err
		}
	}
	for _, query := range []string{"SELECT request || hash || handle || credential || ended || ended_at FROM ledger ORDER BY 1",
		"SELECT ca || last FROM serials ORDER BY 1", "SELECT size || note FROM checkpoints ORDER BY size"} {
		rows, err := r.db.Query(query)
		if err != nil {
			return "", err
		}
		for rows.Next() {
			var s string
			if err := rows.Scan(&s); err != nil {
				return "", err
			}
			out.WriteString(s)
		}
		if err := errors.Join(rows.Err(), rows.Close()); err != nil {
			return "", err
		}
	}
	return out.String(), nil
}

// TestOneByteOfTheFile changes single bytes of the file, wherever. Either
// Verify finds it, or it is a byte that nobody reads.
func TestOneByteOfTheFile(t *testing.T) {
	w := newWorld(t)
	w.live()
	if err := w.log.Close(); err != nil {
		t.Fatal(err)
	}
	want, err := everything(w)
	if err != nil {
		t.Fatal(err)
	}
	original, err := os.ReadFile(w.path)
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	random := rand.New(rand.NewPCG(1, 2))
	for range 100 {
		at := random.IntN(len(original))
		data := bytes.Clone(original)
		data[at] ^= byte(1 + random.IntN(255))
		if bytes.Equal(data, original) {
			continue
		}
		if err := os.WriteFile(w.path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		r, err := OpenReader(context.Background(), w.path, w.public)
		if err == nil {
			var report Report
			report, err = r.Verify(context.Background(), VerifyOptions{})
			if err == nil && !report.OK {
				err = errors.New(report.OneLine())
			}
			_ = r.Close()
		}
		if err != nil {
			found++
			continue
		}
		if got, err := everything(w); err != nil || got != want {
			t.Errorf("byte %d of %d: verified, but the log says something else (%v)", at, len(original), err)
		}
	}
	if found < 15 {
		t.Errorf("only %d changes mattered", found)
	}
}

// TestAppendingToABrokenLogIsRefused: a writer that is running finds out too.
func TestAppendingToABrokenLogIsRefused(t *testing.T) {
	l, path, _ := newLog(t)
	second, _, _ := newLog(t)
	ctx := context.Background()
	for i := range 3 {
		if _, err := l.Append(ctx, newer(1, i)); err != nil {
			t.Fatal(err)
		}
	}
	w := &world{t: t, path: path, log: second}
	w.edit("UPDATE events SET hashes = zeroblob(32) WHERE idx = 2")
	if _, err := l.Append(ctx, newer(1, 4)); access.CodeOf(err) != access.CodeUnverified {
		t.Errorf("append to edited hashes: %v, want unverified", err)
	}
}

func TestSchemaChangesAreRefused(t *testing.T) {
	for _, row := range []struct{ name, edit, want string }{
		{"trigger", "CREATE TRIGGER t AFTER INSERT ON events BEGIN DELETE FROM ledger; END", "the tables of the audit log have been changed"},
		{"table added", "CREATE TABLE more (x)", "the tables of the audit log have been changed"},
		{"index dropped", "DROP INDEX events_step", "the tables of the audit log have been changed"},
		{"newer version", fmt.Sprintf("PRAGMA user_version = %d", schemaVersion+1), fmt.Sprintf("schema version %d, this hallpass knows %d", schemaVersion+1, schemaVersion)},
		{"another application", "PRAGMA application_id = 1", "not an audit log"},
	} {
		if server != nil {
			break // TestPostgresSchemaChangesAreRefused
		}
		t.Run(row.name, func(t *testing.T) {
			l, path, public := newLog(t)
			w := &world{t: t, path: path, log: l}
			w.edit(row.edit)
			private, _ := testKey(t)
			if _, err := Open(context.Background(), Options{Database: path, Key: private}); err == nil || !strings.Contains(err.Error(), row.want) {
				t.Errorf("Open: %v, want %q", err, row.want)
			}
			if _, err := OpenReader(context.Background(), path, public); err == nil || !strings.Contains(err.Error(), row.want) {
				t.Errorf("OpenReader: %v, want %q", err, row.want)
			}
		})
	}
}

func TestCheckpointOfAnotherKeyIsRefused(t *testing.T) {
	w := newWorld(t)
	w.live()
	other, otherPublic := testKey(t)
	signer, _, err := parseKey(other)
	if err != nil {
		t.Fatal(err)
	}
	msg, err := w.log.Checkpoint(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	c, err := OpenCheckpoint(msg, w.public)
	if err != nil {
		t.Fatal(err)
	}
	forged, err := c.sign(signer)
	if err != nil {
		t.Fatal(err)
	}
	w.edit(fmt.Sprintf("UPDATE checkpoints SET note = x'%x' WHERE size = 14", forged))
	wantProblem(t, w.verify(VerifyOptions{}), 13, "not signed by the log's key")
	for _, key := range []string{w.private, other} {
		if _, err := Open(context.Background(), Options{Database: w.path, Key: key}); err == nil {
			t.Error("a log whose checkpoints are of two keys was opened")
		}
	}
	if _, err := OpenCheckpoint(msg, otherPublic); access.CodeOf(err) != access.CodeUnverified {
		t.Errorf("checkpoint under another key: %v", err)
	}
}

// rewrite makes the events from an index on anew, hashes and checkpoints
// included: what somebody can do who has the file and the log's key.
func rewrite(t *testing.T, w *world, from int64, change func(index int64, leaf string) string) {
	t.Helper()
	old, err := OpenReader(context.Background(), w.path, w.public)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = old.Close() }()
	w.path = filepath.Join(t.TempDir(), "forked.db")
	w.open()
	for rec, err := range old.Events(context.Background(), Query{}) {
		if err != nil {
			t.Fatal(err)
		}
		leaf := string(rec.Leaf)
		if rec.Index >= from {
			leaf = change(rec.Index, leaf)
		}
		e, err := ParseEvent([]byte(leaf))
		if err != nil {
			t.Fatal(err)
		}
		w.record(e)
	}
}

func TestOlderCheckpoint(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t)
	early, err := w.log.Checkpoint(ctx) // size 3
	if err != nil {
		t.Fatal(err)
	}
	w.live()
	late, err := w.log.Checkpoint(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct {
		name  string
		since []byte
		size  int64
	}{{"early", early, 3}, {"of now", late, atAll}} {
		if r := w.verify(VerifyOptions{Since: row.since}); !r.OK || r.Since == nil || *r.Since != row.size {
			t.Errorf("%s: %v, since %v", row.name, r.Problems, r.Since)
		}
	}

	t.Run("forked log", func(t *testing.T) {
		f := *w
		f.t = t
		rewrite(t, &f, atRefused, func(_ int64, leaf string) string { return strings.Replace(leaf, "too late", "too soon", 1) })
		if r := f.verify(VerifyOptions{Since: early}); strings.Contains(fmt.Sprint(r.Problems), "forked") {
			t.Errorf("up to the early checkpoint the logs are one: %v", r.Problems)
		}
		wantProblem(t, f.verify(VerifyOptions{Since: late}), -1, "the log has been forked or rewritten")
	})
	t.Run("truncated with the log's key", func(t *testing.T) {
		w.edit("DELETE FROM events WHERE idx >= 3", "DELETE FROM checkpoints WHERE size > 3", "DELETE FROM ledger", "DELETE FROM serials")
		if r := w.verify(VerifyOptions{}); !r.OK {
			t.Errorf("without an older checkpoint nobody can tell: %v", r.Problems)
		}
		wantProblem(t, w.verify(VerifyOptions{Since: late}), 3, "events have been cut off: the older checkpoint has size 14")
	})
	t.Run("of another log", func(t *testing.T) {
		other := newWorld(t)
		msg, err := other.log.Checkpoint(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.log.Verify(ctx, VerifyOptions{Since: msg}); access.CodeOf(err) != access.CodeUnverified {
			t.Errorf("checkpoint of another log: %v, want unverified", err)
		}
	})
}

// TestForgery has the log's own key write events that never should have been:
// the tree is in order, and replaying it finds them.
func TestForgery(t *testing.T) {
	for _, row := range []struct {
		name  string
		forge func(w *world, r access.Request, st, yes access.Statement) (index int64)
		what  string
	}{
		{"issued without prepared", func(w *world, r access.Request, st, yes access.Statement) int64 {
			h := w.handle(r)
			return w.issue(r, st, yes, w.certificate(h, w.spec(r, h)))
		}, "never prepared"},
		{"issued without approval", func(w *world, r access.Request, st, yes access.Statement) int64 {
			h := w.prepare(r, st)
			return w.forgeIssue(r, access.Evidence{Request: st}, w.certificate(h, w.spec(r, h)))
		}, "by the rules of the day it was not allowed (ask)"},
		{"approved by the requester", func(w *world, r access.Request, st, yes access.Statement) int64 {
			h := w.prepare(r, st)
			own := w.decision("alice", access.Approve, r, st)
			return w.issue(r, st, own, w.certificate(h, w.spec(r, h)))
		}, "nobody decides on a request of his own"},
		{"approved by somebody outside the group", func(w *world, r access.Request, st, yes access.Statement) int64 {
			h := w.prepare(r, st)
			return w.issue(r, st, w.decision("dave", access.Approve, r, st), w.certificate(h, w.spec(r, h)))
		}, "not allowed (ask)"},
		{"approval in somebody's name beside the one that counts", func(w *world, r access.Request, st, yes access.Statement) int64 {
			h := w.prepare(r, st)
			forged := w.decision("mallory", access.Approve, r, st)
			return w.forgeIssue(r, access.Evidence{Request: st, Decisions: []access.Statement{yes, forged}}, w.certificate(h, w.spec(r, h)))
		}, "the evidence names people who didn't count"},
		{"approval's signature broken", func(w *world, r access.Request, st, yes access.Statement) int64 {
			h := w.prepare(r, st)
			yes.Payload = strings.Replace(yes.Payload, `"approve"`, `"approve" `, 1)
			return w.issue(r, st, yes, w.certificate(h, w.spec(r, h)))
		}, "the evidence doesn't hold"},
		{"handle changed after preparing", func(w *world, r access.Request, st, yes access.Statement) int64 {
			h := w.prepare(r, st)
			h.NotAfter = h.NotAfter.Add(-time.Minute)
			return w.issue(r, st, yes, w.certificate(h, w.spec(r, h)))
		}, "not the one that was prepared"},
		{"lives longer than allowed", func(w *world, r access.Request, st, yes access.Statement) int64 {
			h := w.handle(r)
			h.NotAfter = h.NotAfter.Add(time.Second)
			w.reserve(st, h)
			return w.issue(r, st, yes, w.certificate(h, w.spec(r, h)))
		}, "the credential lives 30m1s, 30m was allowed"},
		{"begins before it was asked for", func(w *world, r access.Request, st, yes access.Statement) int64 {
			h := w.handle(r)
			h.NotBefore, h.NotAfter = h.NotBefore.Add(-10*time.Minute), h.NotAfter.Add(-10*time.Minute)
			w.reserve(st, h)
			return w.issue(r, st, yes, w.certificate(h, w.spec(r, h)))
		}, "before it was asked for"},
		{"certificate for another host", func(w *world, r access.Request, st, yes access.Statement) int64 {
			h := w.handle(r)
			h.Principals = []string{"web-2/deploy"}
			w.reserve(st, h)
			return w.issue(r, st, yes, w.certificate(h, w.spec(r, h)))
		}, `good for "web-2/deploy"`},
		{"certificate with other principals than its handle", func(w *world, r access.Request, st, yes access.Statement) int64 {
			h := w.prepare(r, st)
			spec := w.spec(r, h)
			spec.Principals = []string{"web-1/deploy", "web-2/deploy"}
			return w.issue(r, st, yes, w.certificate(h, spec))
		}, "other principals than its handle"},
		{"certificate outlives the grant", func(w *world, r access.Request, st, yes access.Statement) int64 {
			h := w.prepare(r, st)
			spec := w.spec(r, h)
			spec.NotAfter = spec.NotAfter.Add(time.Second)
			return w.issue(r, st, yes, w.certificate(h, spec))
		}, "doesn't end when the grant does"},
		{"certificate with another serial", func(w *world, r access.Request, st, yes access.Statement) int64 {
			h := w.prepare(r, st)
			spec := w.spec(r, h)
			spec.Serial++
			return w.issue(r, st, yes, w.certificate(h, spec))
		}, "has serial 2, its handle 1"},
		{"certificate for another key", func(w *world, r access.Request, st, yes access.Statement) int64 {
			h := w.prepare(r, st)
			spec := w.spec(r, h)
			spec.PublicKey = key(w.t, "other").PublicKey()
			return w.issue(r, st, yes, w.certificate(h, spec))
		}, "for another key"},
		{"certificate in another name", func(w *world, r access.Request, st, yes access.Statement) int64 {
			h := w.prepare(r, st)
			spec := w.spec(r, h)
			spec.Requester = "dave"
			return w.issue(r, st, yes, w.certificate(h, spec))
		}, "key id"},
		{"certificate permits more", func(w *world, r access.Request, st, yes access.Statement) int64 {
			h := w.prepare(r, st)
			spec := w.spec(r, h)
			spec.Options.Extensions = []string{"permit-pty", "permit-port-forwarding"}
			return w.issue(r, st, yes, w.certificate(h, spec))
		}, "permits other things"},
		{"certificate restricts otherwise", func(w *world, r access.Request, st, yes access.Statement) int64 {
			h := w.prepare(r, st)
			spec := w.spec(r, h)
			spec.Command = "uptime"
			return w.issue(r, st, yes, w.certificate(h, spec))
		}, "restrictions"},
		{"certificate's signature broken", func(w *world, r access.Request, st, yes access.Statement) int64 {
			h := w.prepare(r, st)
			h2 := h
			h2.CA = "SHA256:somebody"
			cred := w.certificate(h, w.spec(r, h))
			cred.Handle = h2
			return w.issue(r, st, yes, cred)
		}, "not the one that was prepared"},
		{"issued twice", func(w *world, r access.Request, st, yes access.Statement) int64 {
			h := w.prepare(r, st)
			w.issue(r, st, yes, w.certificate(h, w.spec(r, h)))
			return w.issue(r, st, yes, w.certificate(h, w.spec(r, h)))
		}, "a second credential"},
		{"issued after the end", func(w *world, r access.Request, st, yes access.Statement) int64 {
			h := w.prepare(r, st)
			w.end(End{Request: r.ID, State: access.StateCancelled})
			return w.issue(r, st, yes, w.certificate(h, w.spec(r, h)))
		}, "after the request had ended: cancelled"},
		{"prepared after the end", func(w *world, r access.Request, st, yes access.Statement) int64 {
			w.end(End{Request: r.ID, State: access.StateCancelled})
			h := w.handle(r)
			return w.record(Event{Type: CredentialPrepared, Request: r.ID, RequestHash: st.Hash(), Handle: &h})
		}, "had ended before"},
		{"serial used twice", func(w *world, r access.Request, st, yes access.Statement) int64 {
			h := w.prepare(r, st)
			r2, st2 := w.ask("dave")
			h.Request = r2.ID
			return w.record(Event{Type: CredentialPrepared, Request: r2.ID, RequestHash: st2.Hash(), Handle: &h})
		}, "serial 1 of CA"},
		{"request signed by somebody else", func(w *world, r access.Request, st, yes access.Statement) int64 {
			r2, _ := w.request("dave")
			st2 := w.sign("alice", r2)
			return w.record(Event{Type: RequestReceived, Request: r2.ID, Requester: "dave", Resource: r2.Resource, Statement: &st2, Digests: w.digests()})
		}, "the request: "},
		{"request under another id", func(w *world, r access.Request, st, yes access.Statement) int64 {
			return w.record(Event{Type: RequestReceived, Request: "other", Requester: "alice", Resource: r.Resource, Statement: &st, Digests: w.digests()})
		}, "the request in it has the id"},
		{"request of another requester", func(w *world, r access.Request, st, yes access.Statement) int64 {
			r2, st2 := w.request("dave")
			return w.record(Event{Type: RequestReceived, Request: r2.ID, Requester: "alice", Resource: r.Resource, Statement: &st2, Digests: w.digests()})
		}, "the requester is dave, not alice"},
		{"decision signed by nobody known", func(w *world, r access.Request, st, yes access.Statement) int64 {
			no := w.decision("mallory", access.Deny, r, st)
			return w.record(Event{Type: DecisionAccepted, Request: r.ID, Actor: "mallory", Statement: &no, Digests: w.digests()})
		}, "the decision: "},
		{"decision credited to somebody else", func(w *world, r access.Request, st, yes access.Statement) int64 {
			no := w.decision("bob", access.Deny, r, st)
			return w.record(Event{Type: DecisionAccepted, Request: r.ID, Actor: "carol", Statement: &no, Digests: w.digests()})
		}, "the decision is bob's, not carol's"},
		{"decision about another request", func(w *world, r access.Request, st, yes access.Statement) int64 {
			r2, st2 := w.ask("dave")
			no := w.decision("bob", access.Deny, r2, st2)
			return w.record(Event{Type: DecisionAccepted, Request: r.ID, Actor: "bob", Statement: &no, Digests: w.digests()})
		}, "about another request"},
		{"revoked by somebody who may not", func(w *world, r access.Request, st, yes access.Statement) int64 {
			return w.record(Event{Type: GrantRevoked, State: access.StateRevoked, Request: r.ID, Actor: "dave",
				Statement: w.stop("dave", access.TypeRevoke, r, st), Digests: w.digests()})
		}, "in none of the groups that may revoke"},
		{"released by somebody else", func(w *world, r access.Request, st, yes access.Statement) int64 {
			return w.record(Event{Type: GrantReleased, State: access.StateReleased, Request: r.ID, Actor: "dave",
				Statement: w.stop("dave", access.TypeRelease, r, st), Digests: w.digests()})
		}, "only alice can release"},
		{"revoked on a word that isn't there", func(w *world, r access.Request, st, yes access.Statement) int64 {
			return w.record(Event{Type: GrantRevoked, State: access.StateRevoked, Request: r.ID, Actor: "bob", Digests: w.digests()})
		}, "the statement by which bob ended it is missing"},
		{"a refused statement of somebody else", func(w *world, r access.Request, st, yes access.Statement) int64 {
			return w.record(Event{Type: StatementRefused, Request: r.ID, Actor: "carol", Code: access.CodeDuplicate, Statement: &yes, Digests: w.digests()})
		}, "the refused statement is not carol's"},
		{"a refused statement of somebody, not signed", func(w *world, r access.Request, st, yes access.Statement) int64 {
			yes.Signature = ""
			return w.record(Event{Type: StatementRefused, Request: r.ID, Actor: "bob", Code: access.CodeUnverified, Statement: &yes, Digests: w.digests()})
		}, "the refused statement is not bob's"},
		{"a refused statement that isn't there", func(w *world, r access.Request, st, yes access.Statement) int64 {
			return w.record(Event{Type: StatementRefused, Request: r.ID, Actor: "bob", Code: access.CodeUnverified, Digests: w.digests()})
		}, "the statement by which bob is named is missing"},
		{"expired on somebody's word", func(w *world, r access.Request, st, yes access.Statement) int64 {
			return w.record(Event{Type: GrantExpired, State: access.StateExpired, Request: r.ID, Actor: "alice",
				Statement: w.stop("alice", access.TypeRelease, r, st), Digests: w.digests()})
		}, `of the type "release" doesn't end a request as expired`},
		{"expired before its end", func(w *world, r access.Request, st, yes access.Statement) int64 {
			w.reserve(st, w.handle(r))
			return w.record(Event{Type: GrantExpired, State: access.StateExpired, Request: r.ID})
		}, "the grant wasn't over before"},
		{"revoked by a release", func(w *world, r access.Request, st, yes access.Statement) int64 {
			return w.record(Event{Type: GrantRevoked, State: access.StateRevoked, Request: r.ID, Actor: "alice",
				Statement: w.stop("alice", access.TypeRelease, r, st), Digests: w.digests()})
		}, `of the type "release" doesn't end a request as revoked`},
		{"ended twice", func(w *world, r access.Request, st, yes access.Statement) int64 {
			w.end(End{Request: r.ID, State: access.StateCancelled})
			return w.record(Event{Type: GrantExpired, State: access.StateExpired, Request: r.ID})
		}, "had ended before: cancelled"},
		{"file with another content than its digest", func(w *world, r access.Request, st, yes access.Statement) int64 {
			return w.record(Event{Type: RulebookChanged, Step: "policy sha256:00", File: &File{FilePolicy, "sha256:00", "rules: []"}})
		}, "has the digest"},
	} {
		t.Run(row.name, func(t *testing.T) {
			w := newWorld(t)
			r, st := w.ask("alice")
			yes := w.decision("bob", access.Approve, r, st)
			w.accept("bob", r, yes)
			index := row.forge(w, r, st, yes)
			wantProblem(t, w.verify(VerifyOptions{}), index, row.what)
		})
	}
}

func (w *world) reserve(st access.Statement, h access.Handle) {
	w.t.Helper()
	if _, err := w.log.Reserve(context.Background(), st.Hash(), h, Event{Digests: w.digests()}); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) prepare(r access.Request, st access.Statement) access.Handle {
	w.t.Helper()
	h := w.handle(r)
	w.reserve(st, h)
	return h
}

// issue records a credential without asking the ledger.
func (w *world) issue(r access.Request, st, decision access.Statement, cred access.Credential) int64 {
	w.t.Helper()
	return w.forgeIssue(r, access.Evidence{Request: st, Decisions: []access.Statement{decision}}, cred)
}

func (w *world) forgeIssue(r access.Request, ev access.Evidence, cred access.Credential) int64 {
	w.t.Helper()
	return w.record(Event{Type: CredentialIssued, Request: r.ID, RequestHash: ev.Request.Hash(), Evidence: &ev, Credential: &cred, Digests: w.digests()})
}

func TestTimeRunningBackwardsIsAWarning(t *testing.T) {
	for _, row := range []struct {
		back time.Duration
		want int
	}{{access.ClockSkew, 0}, {access.ClockSkew + time.Millisecond, 1}} {
		w := newWorld(t)
		w.record(Event{Type: RequestRuled, Time: t0})
		w.record(Event{Type: RequestRuled, Time: t0.Add(-row.back)})
		if r := w.verify(VerifyOptions{}); !r.OK || len(r.Warnings) != row.want {
			t.Errorf("%v back: ok %v, warnings %v, want %d", row.back, r.OK, r.Warnings, row.want)
		}
	}
}

// TestWordsThatEnd: what a statement does depends on when it comes.
func TestWordsThatEnd(t *testing.T) {
	for _, row := range []struct {
		state access.State
		who   string
		typ   access.Type
	}{
		{access.StateDenied, "carol", access.TypeRevoke},
		{access.StateDenied, "bob", access.TypeDecision},
		{access.StateCancelled, "alice", access.TypeCancel},
		{access.StateCancelled, "alice", access.TypeRelease},
		{access.StateReleased, "alice", access.TypeCancel},
		{access.StateReleased, "alice", access.TypeRelease},
		{access.StateRevoked, "bob", access.TypeRevoke},
		{access.StateRevoked, "carol", access.TypeRevoke},
	} {
		w := newWorld(t)
		r, st := w.ask("alice")
		var word *access.Statement
		if row.typ == access.TypeDecision {
			no := w.decision(row.who, access.Deny, r, st)
			word = &no
		} else {
			word = w.stop(row.who, row.typ, r, st)
		}
		w.end(End{Request: r.ID, State: row.state, By: row.who, Statement: word, Digests: w.digests()})
		if report := w.verify(VerifyOptions{}); !report.OK {
			t.Errorf("%s by %s of %s: %v", row.state, row.typ, row.who, report.Problems)
		}
	}
}

// TestFilesOfTheDay: what was right by the files of its day stays right after
// they have changed, and the other way round.
func TestFilesOfTheDay(t *testing.T) {
	w := newWorld(t)
	w.live()
	w.rulebook(strings.Replace(worldPolicy, "from: [sre]", "from: [security]", 1))
	r, st := w.ask("alice")
	yes := w.decision("bob", access.Approve, r, st)
	h := w.prepare(r, st)
	if report := w.verify(VerifyOptions{}); !report.OK {
		t.Fatalf("the old grant under new rules: %v", report.Problems)
	}
	index := w.issue(r, st, yes, w.certificate(h, w.spec(r, h)))
	wantProblem(t, w.verify(VerifyOptions{}), index, "not allowed (ask)")
}

// Verify has the file looked at on a second connection meanwhile. Both see the same,
// also while others write as fast as they can; where that can't be had, there is one.
func TestBothConnectionsSeeTheSame(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t)
	w.live()
	r, err := OpenReader(ctx, w.path, w.public)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Close() }()
	writing, stop := context.WithCancel(ctx)
	written := make(chan error, 1)
	pairs, last := 0, int64(0)
	for i := 0; last < 400 && i < 100_000; i++ {
		if i == 50 { // before that, nobody writes
			if pairs != 50 {
				t.Errorf("%d pairs of 50 though nobody wrote", pairs)
			}
			go func() {
				for i := 0; ; i++ {
					if _, err := w.log.Append(writing, newer(1, i)); err != nil {
						written <- err
						return
					}
				}
			}()
		}
		conn, beside, end, err := r.snapshots(ctx)
		if err != nil {
			t.Fatal(err)
		}
		seen := func(q querier) (events, signed int64) {
			if err := q.QueryRowContext(ctx, "SELECT (SELECT max(idx) FROM events), (SELECT max(size) FROM checkpoints)").Scan(&events, &signed); err != nil {
				t.Fatal(err)
			}
			return events, signed
		}
		events, signed := seen(conn)
		last = events
		if beside != nil {
			pairs++
			for range 3 { // whatever is committed meanwhile
				if e, s := seen(beside); e != events || s != signed {
					t.Fatalf("one connection sees %d events, the last signed %d, the other %d and %d", events, signed, e, s)
				}
				if e, s := seen(conn); e != events || s != signed {
					t.Fatalf("the snapshot has grown from %d to %d", events, e)
				}
			}
		}
		end()
	}
	stop()
	if err := <-written; err != nil && writing.Err() == nil {
		t.Fatal(err)
	}
	if pairs <= 50 || last < 400 {
		t.Errorf("%d pairs, %d events: that shows nothing", pairs, last)
	}
}
