package audit

import (
	"context"
	"database/sql"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"hallpass/access"
	"hallpass/ca/krl"
)

// draft is what a list would say now.
func (w *world) draft() krl.List {
	w.t.Helper()
	list, err := w.log.DraftKRL(context.Background(), w.ca.PublicKey())
	if err != nil {
		w.t.Fatal(err)
	}
	return list
}

func serials(l krl.List) []uint64 {
	var out []uint64
	for _, c := range l.CAs {
		for _, r := range c.Ranges {
			for s := r.First; s <= r.Last; s++ {
				out = append(out, s)
			}
		}
	}
	return out
}

// A CA is known from when its issuer makes a list, and counts what it has
// signed and hasn't ended.
func TestCA(t *testing.T) {
	w := newWorld(t)
	look := func() CA {
		t.Helper()
		c, err := w.log.CA(context.Background(), w.ca.Fingerprint())
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	if got := look(); got != (CA{}) {
		t.Errorf("before anything: %+v", got)
	}
	w.draft()
	if got := look(); got != (CA{Signed: true}) {
		t.Errorf("with a list: %+v", got)
	}
	grant := func() access.Credential {
		r, st := w.ask("alice")
		yes := w.decision("bob", access.Approve, r, st)
		w.accept("bob", r, yes)
		return w.grant(r, access.Evidence{Request: st, Decisions: []access.Statement{yes}})
	}
	one, two := grant(), grant()
	want := CA{Signed: true, Live: 2, Until: two.Handle.NotAfter}
	if got := look(); got.Live != want.Live || !got.Until.Equal(want.Until) {
		t.Errorf("with two certificates: %+v, want %+v", got, want)
	}
	w.end(End{Request: one.Handle.Request, State: access.StateRevoked})
	w.end(End{Request: two.Handle.Request, State: access.StateExpired})
	if got := look(); got != (CA{Signed: true}) {
		t.Errorf("when both have ended: %+v", got)
	}
	if got, err := w.log.CA(context.Background(), "SHA256:other"); err != nil || got != (CA{}) {
		t.Errorf("another: %+v, %v", got, err)
	}
}

// What ends early is in the list until no clock could take it for good; what
// ends by itself never is.
func TestDraftKRLNamesWhatWasTakenBack(t *testing.T) {
	w := newWorld(t)
	approved := func() (access.Request, access.Credential) {
		r, st := w.ask("alice")
		yes := w.decision("bob", access.Approve, r, st)
		w.accept("bob", r, yes)
		return r, w.grant(r, access.Evidence{Request: st, Decisions: []access.Statement{yes}})
	}
	one, _ := approved()   // released
	two, _ := approved()   // runs to its end
	_, three := approved() // lives
	four, st4 := w.ask("alice")
	four5, st5 := w.ask("alice")
	// Prepared and never issued: ended before, and not.
	for r, st := range map[*access.Request]access.Statement{&four: st4, &four5: st5} {
		if _, err := w.log.Reserve(context.Background(), st.Hash(), w.handle(*r), Event{Digests: w.digests()}); err != nil {
			t.Fatal(err)
		}
	}
	entry, _, err := w.log.Entry(context.Background(), four.ID)
	if err != nil {
		t.Fatal(err)
	}
	if got := serials(w.draft()); len(got) != 0 {
		t.Errorf("revoked before anything ended: %v", got)
	}
	w.end(End{Request: one.ID, State: access.StateReleased})
	w.end(End{Request: two.ID, State: access.StateExpired})
	w.end(End{Request: four.ID, State: access.StateRevoked})
	want := []uint64{1, entry.Handle.Serial}
	slices.Sort(want)
	if d := cmp.Diff(want, serials(w.draft())); d != "" {
		t.Error(d)
	}
	// A host whose clock is behind would let it in a while longer.
	end := entry.Handle.NotAfter
	if e, _, _ := w.log.Entry(context.Background(), one.ID); e.Handle.NotAfter.After(end) {
		end = e.Handle.NotAfter
	}
	w.now = end.Add(access.ClockSkew - time.Second)
	if got := serials(w.draft()); len(got) == 0 {
		t.Error("left the list while a slow clock would let it in")
	}
	w.now = end.Add(access.ClockSkew)
	if got := serials(w.draft()); len(got) != 0 {
		t.Errorf("still in the list: %v", got)
	}
	if three.Handle.Serial != 3 {
		t.Errorf("serial %d", three.Handle.Serial)
	}
	if report := w.verify(VerifyOptions{}); !report.OK {
		t.Error(report.Problems)
	}
}

// A certificate that was taken back stays in the list for as long as sessions
// that it opened might.
func TestDraftKRLNamesWhatIsInItsGrace(t *testing.T) {
	w := newWorld(t)
	r, st := w.ask("alice")
	h := w.handle(r)
	until := h.NotAfter.Add(time.Hour)
	h.Until = &until
	if _, err := w.log.Reserve(context.Background(), st.Hash(), h, Event{Digests: w.digests()}); err != nil {
		t.Fatal(err)
	}
	w.now = h.NotAfter.Add(access.ClockSkew + time.Minute)
	if got := serials(w.draft()); len(got) != 0 {
		t.Errorf("revoked before it was: %v", got)
	}
	w.end(End{Request: r.ID, State: access.StateRevoked})
	if got := serials(w.draft()); len(got) != 1 || got[0] != h.Serial {
		t.Errorf("in its grace the list has %v, not %d", got, h.Serial)
	}
	w.now = until.Add(access.ClockSkew - time.Second)
	if got := serials(w.draft()); len(got) != 1 {
		t.Error("left the list while a slow clock would keep the session")
	}
	w.now = until.Add(access.ClockSkew)
	if got := serials(w.draft()); len(got) != 0 {
		t.Errorf("still in the list: %v", got)
	}
}

// A long list also names what lies between and has run out, so that it has no
// more entries than there are grants open. What is open is never in it.
func TestDraftKRLIsFilled(t *testing.T) {
	w := newWorld(t)
	const n = 3 * fillFrom
	put := func(i int, state access.State, extends ...string) uint64 {
		h := access.Handle{Request: fmt.Sprintf("r%07d", i), Kind: "ssh", Serial: krl.Serial(7, uint64(i)), CA: w.ca.Fingerprint(),
			Principals: []string{"web-1/deploy"}, NotBefore: w.now, NotAfter: w.now.Add(time.Hour), Extends: strings.Join(extends, "")}
		_, err := update(context.Background(), w.log, func(t *tx) (struct{}, error) {
			return struct{}{}, t.put(Entry{Request: h.Request, RequestHash: "h", Handle: &h, Ended: state, EndedAt: w.now})
		})
		if err != nil {
			t.Fatal(err)
		}
		return h.Serial
	}
	var open, revoked []uint64
	for i := 1; i <= n; i++ {
		switch {
		case i%100 == 50:
			open = append(open, put(i, ""))
		case i%2 == 0:
			put(i, access.StateExpired)
		default:
			revoked = append(revoked, put(i, access.StateReleased))
		}
	}
	list := w.draft()
	if got, most := list.Entries(), len(open)+1; got > most {
		t.Errorf("%d entries with %d open", got, len(open))
	}
	for _, s := range open {
		if list.Revoked(w.ca.PublicKey(), s) {
			t.Fatalf("%d is open and revoked", s)
		}
	}
	for _, s := range revoked {
		if !list.Revoked(w.ca.PublicKey(), s) {
			t.Fatalf("%d isn't revoked", s)
		}
	}
	// Two have run out, and their sessions go on under what extends the second.
	extended := []uint64{put(10, access.StateExpired), put(20, access.StateExpired, "r0000010")}
	put(n+1, "", "r0000020")
	l := w.draft()
	for _, s := range extended {
		if l.Revoked(w.ca.PublicKey(), s) {
			t.Errorf("%d is extended and revoked", s)
		}
	}
	put(n+1, access.StateExpired)
	if l := w.draft(); !l.Revoked(w.ca.PublicKey(), extended[0]) || !l.Revoked(w.ca.PublicKey(), extended[1]) {
		t.Error("what isn't extended any more takes room")
	}
	// One more is open, and not any more.
	late := put(n+2, "")
	put(n+3, access.StateRevoked)
	if l := w.draft(); l.Revoked(w.ca.PublicKey(), late) {
		t.Error("what has just been given is revoked")
	}
	put(n+2, access.StateExpired)
	if l := w.draft(); !l.Revoked(w.ca.PublicKey(), late) || l.Entries() > len(open)+1 {
		t.Errorf("%d entries", l.Entries())
	}
}

// Versions grow whoever takes them, at every speed of the clock, also after
// the file was put back to an older copy.
func TestKRLVersionsOnlyGrow(t *testing.T) {
	w := newWorld(t)
	other := openLog(t, w.path, w.private) // its clock stands at t0
	var mu sync.Mutex
	seen := map[uint64]bool{}
	var all sync.WaitGroup
	for i, l := range []*Log{w.log, other, w.log, other} {
		all.Go(func() {
			last := uint64(0)
			for range 25 {
				list, err := l.DraftKRL(context.Background(), w.ca.PublicKey())
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				if list.Version <= last || seen[list.Version] {
					t.Errorf("log %d: version %d after %d", i, list.Version, last)
				}
				last, seen[list.Version] = list.Version, true
				mu.Unlock()
			}
		})
	}
	all.Wait()
	before := w.draft().Version
	w.now = w.now.Add(-24 * time.Hour)
	if v := w.draft().Version; v != before+1 {
		t.Errorf("with the clock put back: %d after %d", v, before)
	}
	w.now = w.now.Add(48 * time.Hour)
	if v := w.draft().Version; v != uint64(w.now.UnixMilli()) {
		t.Errorf("version %d, want the time %d: a restored copy would fall behind", v, w.now.UnixMilli())
	}
}

func TestPublishKRL(t *testing.T) {
	w := newWorld(t)
	ctx := context.Background()
	if _, err := w.log.KRL(ctx); access.CodeOf(err) != access.CodeUnavailable {
		t.Errorf("before there is one: %v", err)
	}
	if v, err := w.log.KRLVersion(ctx); v != 0 || err != nil {
		t.Errorf("version %d, %v", v, err)
	}
	first, second := w.draft().Version, w.draft().Version
	for _, row := range []struct {
		name    string
		version uint64
		want    uint64
		code    access.Code
	}{
		{"the second", second, second, ""},
		{"the first, late", first, second, ""},
		{"again", second, second, ""},
		{"one that nobody took", second + 1, second, access.CodeUnverified},
	} {
		if err := w.log.PublishKRL(ctx, w.signed(krl.List{Version: row.version, Generated: t0})); access.CodeOf(err) != row.code || (err == nil) != (row.code == "") {
			t.Errorf("%s: %v", row.name, err)
		}
		k, err := w.log.KRL(ctx)
		if diff := cmp.Diff(w.signed(krl.List{Version: row.want, Generated: t0}).List, k.List); diff != "" || err != nil || k.Version != row.want {
			t.Errorf("%s: version %d with %s, %v; want %d", row.name, k.Version, diff, err, row.want)
		}
		if v, err := w.log.KRLVersion(ctx); v != row.want || err != nil {
			t.Errorf("%s: version %d, %v", row.name, v, err)
		}
	}
}

// signed is a list as an issuer makes it.
func (w *world) signed(list krl.List) KRL {
	w.t.Helper()
	data, err := list.Marshal()
	if err != nil {
		w.t.Fatal(err)
	}
	signature, err := w.ca.SignKRL(data)
	if err != nil {
		w.t.Fatal(err)
	}
	return KRL{Version: list.Version, List: data, Signature: signature}
}

// The list in force is what it says, and nobody hears that a list is in force behind one
// that isn't.
func TestListThatIsAnotherOne(t *testing.T) {
	ahead := func(version uint64) string {
		list, err := (&krl.List{Version: version, Generated: t0}).Marshal()
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprintf("UPDATE krl SET list = x'%x', version = %d", list, version)
	}
	for _, row := range []struct {
		edit, what string
		publish    bool // is refused as well
	}{
		{"UPDATE krl SET version = 9000000000000000000", "the log says 9000000000000000000", true},
		{ahead(9e18), "the key revocation list in force: ", true},
		{ahead(9e18) + ", taken = 9000000000000000000", "the key revocation list in force: ", true},
		{"UPDATE krl SET version = version + 1", "the log says", true},
		{"UPDATE krl SET taken = 5", "and that 5 were taken", true},
		{"UPDATE krl SET signature = ''", "the key revocation list in force: ", false},
		{"UPDATE cas SET key = 'ssh-ed25519 AAAA'", "is another one", false},
	} {
		t.Run(row.edit, func(t *testing.T) {
			w := newWorld(t)
			w.live()
			ctx := context.Background()
			if err := w.log.PublishKRL(ctx, w.signed(w.draft())); err != nil {
				t.Fatal(err)
			}
			if r := w.verify(VerifyOptions{}); !r.OK {
				t.Fatal(r.Problems)
			}
			next := w.signed(w.draft())
			w.edit(row.edit)
			wantProblem(t, w.verify(VerifyOptions{}), -1, row.what)
			w.open()
			if err := w.log.PublishKRL(ctx, next); row.publish != (access.CodeOf(err) == access.CodeUnverified) || !row.publish && err != nil {
				t.Errorf("published behind it: %v", err)
			}
			// What docs/operate.md says to do about it.
			mend := "UPDATE krl SET version = 0, taken = 0"
			if strings.Contains(row.edit, "cas") {
				mend = "DELETE FROM cas"
			}
			w.edit(mend)
			w.open()
			if err := w.log.PublishKRL(ctx, w.signed(w.draft())); err != nil {
				t.Errorf("published when it was mended: %v", err)
			}
			if r := w.verify(VerifyOptions{}); !r.OK {
				t.Errorf("when it was mended: %v", r.Problems)
			}
		})
	}
}

// What is in the ledger beside isn't read, however long it is.
func TestRevokedIsFoundByTheIndex(t *testing.T) {
	w := newWorld(t)
	plan := sqlitePlan(t, w.log, revokedQuery, "2031-01-01T00:00:00Z", "2030-12-31T20:00:00Z")
	searches := 0
	for _, line := range plan {
		if strings.Contains(line, "SEARCH ledger USING INDEX ledger_revoked") {
			searches++
		} else if strings.Contains(line, "SCAN") {
			t.Errorf("reads all: %s", line)
		}
	}
	if searches != 2 {
		t.Errorf("plan %q", plan)
	}
	// Nor is of what it lists: the index has it all, but for the second part, which
	// asks for the sessions of what has run out.
	if n := rowsRead(t, w.log, "ledger", revokedQuery, "2031-01-01T00:00:00Z", "2030-12-31T20:00:00Z"); n != 1 {
		t.Errorf("%d of two parts read rows of the ledger, want 1", n)
	}
}

// rowsRead is how many cursors of a table a query reads columns with, by SQLite's
// program for it (https://www.sqlite.org/opcode.html).
func rowsRead(t *testing.T, l *Log, table, query string, args ...any) int {
	t.Helper()
	var root int
	if err := l.Reader.db.QueryRowContext(t.Context(), "SELECT rootpage FROM sqlite_schema WHERE name = ?", table).Scan(&root); err != nil {
		t.Fatal(err)
	}
	rows, err := l.Reader.db.QueryContext(t.Context(), "EXPLAIN "+query, args...)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = rows.Close() }()
	opened, read := map[int]bool{}, map[int]bool{}
	type op struct {
		code string
		p1   int
	}
	var ops []op
	for rows.Next() {
		var addr, p1, p2, p3, p5 int
		var code string
		var p4, comment any
		if err := rows.Scan(&addr, &code, &p1, &p2, &p3, &p4, &p5, &comment); err != nil {
			t.Fatal(err)
		}
		if code == "OpenRead" && p2 == root {
			opened[p1] = true
		}
		ops = append(ops, op{code, p1})
	}
	if err := rows.Err(); err != nil || len(opened) == 0 {
		t.Fatalf("%d cursors, %v", len(opened), err)
	}
	for _, o := range ops {
		// A deferred seek takes place when a column is read.
		if opened[o.p1] && slices.Contains([]string{"Column", "NotExists", "SeekRowid", "NotFound", "Found"}, o.code) {
			read[o.p1] = true
		}
	}
	return len(read)
}

// old makes a log as a version of the schema had it: what is in it stays, but for
// what that version had no table for.
func (w *world) old(version int) {
	w.t.Helper()
	if err := w.log.Close(); err != nil {
		w.t.Fatal(err)
	}
	w.older(version)
}

// older does that under whoever has it open.
func (w *world) older(version int) {
	w.t.Helper()
	db, err := sql.Open("sqlite", w.path)
	if err != nil {
		w.t.Fatal(err)
	}
	var queries []string
	for _, added := range []struct {
		version int
		queries []string
	}{
		{2, []string{"DROP INDEX ledger_revoked", "DROP TABLE cas", "DROP TABLE krl", "DROP TABLE hosts"}},
		{3, []string{"DROP INDEX ledger_open"}},
		{4, []string{"DROP INDEX events_past"}},
	} {
		if version < added.version {
			queries = append(queries, added.queries...)
		}
	}
	if version < 5 {
		// In the words of the builds that made it, whatever today's code takes them for.
		queries = append(queries, "ALTER TABLE ledger RENAME TO later", `CREATE TABLE ledger (
	request TEXT PRIMARY KEY,
	hash TEXT NOT NULL,
	handle TEXT NOT NULL,
	credential TEXT NOT NULL,
	ended TEXT NOT NULL,
	ended_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID`, "INSERT INTO ledger SELECT * FROM later", "DROP TABLE later")
		for _, added := range schemas[1:version] {
			for _, s := range added {
				if strings.HasPrefix(s, "CREATE INDEX ledger_") {
					queries = append(queries, s)
				}
			}
		}
	}
	for _, s := range append(queries, fmt.Sprintf("PRAGMA user_version = %d", version)) {
		if _, err := db.Exec(s); err != nil {
			w.t.Fatalf("%s: %v", s, err)
		}
	}
	if err := db.Close(); err != nil {
		w.t.Fatal(err)
	}
}

func TestLogOfAnOlderSchemaIsBroughtUp(t *testing.T) {
	for version := 1; version < schemaVersion; version++ {
		t.Run(fmt.Sprint(version), func(t *testing.T) {
			w := newWorld(t)
			granted, denied := w.live()
			was, _, err := w.log.Entry(t.Context(), granted.ID)
			if err != nil {
				t.Fatal(err)
			}
			w.old(version)
			data, err := os.ReadFile(w.path)
			if err != nil {
				t.Fatal(err)
			}
			archived := filepath.Join(t.TempDir(), "old.db")
			if err := os.WriteFile(archived, data, 0o600); err != nil {
				t.Fatal(err)
			}
			// A copy can be looked at and verified as it is.
			r, err := OpenReader(t.Context(), archived, w.public)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = r.Close() }()
			if report, err := r.Verify(t.Context(), VerifyOptions{}); err != nil || !report.OK {
				t.Errorf("old copy: %v, %v", report.Problems, err)
			}
			w.open()
			entry, _, err := w.log.Entry(t.Context(), granted.ID)
			if diff := cmp.Diff(was, entry); diff != "" || err != nil {
				t.Errorf("the ledger has become another one: %s, %v", diff, err)
			}
			if entry, found, err := w.log.Entry(t.Context(), denied.ID); !found || entry.Ended != access.StateDenied || err != nil {
				t.Errorf("denied: %+v, %v", entry, err)
			}
			// The CA of a certificate from before there were lists is known by the
			// certificate; another CA makes the list.
			list, err := w.log.DraftKRL(t.Context(), key(t, "another CA").PublicKey())
			if err != nil || !list.Revoked(w.ca.PublicKey(), entry.Handle.Serial) {
				t.Errorf("list %+v, %v", list, err)
			}
			w.live() // it goes on
			if report := w.verify(VerifyOptions{}); !report.OK {
				t.Error(report.Problems)
			}
		})
	}
}

// Whoever has the log open goes on with it while another one brings it up.
func TestLogThatIsBroughtUpUnderAWriter(t *testing.T) {
	w := newWorld(t)
	granted, _ := w.live()
	r, err := OpenReader(t.Context(), w.path, w.public)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Close() }()
	w.older(schemaVersion - 1)
	newer, err := Open(t.Context(), Options{Database: w.path, Key: w.private})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = newer.Close() }()
	again, _ := w.live()
	for _, id := range []string{granted.ID, again.ID} {
		for name, reader := range map[string]*Reader{"the writer": w.log.Reader, "a reader": r, "the newer one": newer.Reader} {
			if entry, found, err := reader.Entry(t.Context(), id); !found || entry.Handle == nil || err != nil {
				t.Errorf("%s: %+v, %v", name, entry, err)
			}
		}
	}
	if list, err := w.log.DraftKRL(t.Context(), w.ca.PublicKey()); err != nil || list.Len() == 0 {
		t.Errorf("list %+v, %v", list, err)
	}
	if report := w.verify(VerifyOptions{}); !report.OK {
		t.Error(report.Problems)
	}
}

// Who has another key leaves the tables as they are, and so does a copy.
func TestLogIsBroughtUpByItsOwn(t *testing.T) {
	w := newWorld(t)
	w.live()
	w.old(schemaVersion - 1)
	private, public := filepath.Join(t.TempDir(), "key"), filepath.Join(t.TempDir(), "pub")
	if _, err := CreateKey(private, public, "another"); err != nil {
		t.Fatal(err)
	}
	other, err := ReadKey(private)
	if err != nil {
		t.Fatal(err)
	}
	if l, err := Open(t.Context(), Options{Database: w.path, Key: other}); err == nil {
		_ = l.Close()
		t.Error("opened by another key")
	}
	r, err := OpenReader(t.Context(), w.path, w.public)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Close() }()
	if have, err := checkSchema(t.Context(), r.db, r.db); have != schemaVersion-1 || err != nil {
		t.Errorf("the schema is of version %d: %v", have, err)
	}
	_, _, err = r.Copy(t.Context(), filepath.Join(t.TempDir(), "copy.db"))
	if access.CodeOf(err) != access.CodeMalformed || !strings.Contains(err.Error(), fmt.Sprintf("schema version %d, not %d", schemaVersion-1, schemaVersion)) {
		t.Errorf("copied: %v", err)
	}
}

// A write-ahead log that has once been long doesn't stay so.
func TestWriteAheadLogIsCut(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.db")
	db, err := sqliteFile(path).pool(false)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	size := func() int64 {
		info, err := os.Stat(path + "-wal")
		if err != nil {
			t.Fatal(err)
		}
		return info.Size()
	}
	for _, query := range []string{"CREATE TABLE x (y)", fmt.Sprintf("INSERT INTO x VALUES (zeroblob(%d))", 2*maxWAL)} {
		if _, err := db.Exec(query); err != nil {
			t.Fatal(err)
		}
	}
	if n := size(); n <= 2*maxWAL {
		t.Fatalf("it has %d bytes: the test is of no use", n)
	}
	for range 2 {
		if _, err := db.Exec("INSERT INTO x VALUES (1)"); err != nil {
			t.Fatal(err)
		}
	}
	if n := size(); n > maxWAL {
		t.Errorf("it stays at %d bytes", n)
	}
}

// Who opens the log while it is brought up sees one schema or the other.
func TestReaderOfALogThatIsBroughtUp(t *testing.T) {
	w := newWorld(t)
	w.live()
	for range 8 {
		w.old(schemaVersion - 1)
		up, opened := make(chan struct{}), make(chan error, 1)
		go func() {
			defer close(opened)
			for {
				r, err := OpenReader(t.Context(), w.path, w.public)
				if err == nil {
					err = r.Close()
				}
				if err != nil {
					opened <- err
					return
				}
				select {
				case <-up:
					return
				default:
				}
			}
		}()
		w.open()
		close(up)
		if err := <-opened; err != nil {
			t.Fatal(err)
		}
	}
}

// later is an id as requests have it (RFC 9562, version 7), made so many milliseconds
// after a time.
func later(at time.Time, ms int) string {
	id := uuid.NewSHA1(uuid.Nil, fmt.Append(nil, ms))
	binary.BigEndian.PutUint64(id[:8], uint64(at.UnixMilli()+int64(ms))<<16|7<<12|uint64(id[7]))
	return id.String()
}

// filled is a log whose ledger has n revoked certificates with the serials
// that pick chooses.
func filled(b *testing.B, n int, pick func(i int) int) *world {
	b.Helper()
	w := newWorld(b)
	b.Cleanup(func() { _ = w.log.Close() })
	_, err := update(context.Background(), w.log, func(t *tx) (struct{}, error) {
		for i := range n {
			h := access.Handle{Request: later(w.now, i), Kind: "ssh", Serial: uint64(pick(i)), CA: w.ca.Fingerprint(),
				Principals: []string{"web-1/deploy"}, NotBefore: w.now, NotAfter: w.now.Add(8 * time.Hour)}
			c := access.Credential{Handle: h, Certificate: strings.Repeat("c", 600)}
			if err := t.put(Entry{Request: h.Request, RequestHash: "h", Handle: &h, Credential: &c, Ended: access.StateRevoked, EndedAt: w.now}); err != nil {
				return struct{}{}, err
			}
			if i%10_000 == 0 { // so that it needn't be kept until the end
				if err := t.read(func(scanner) error { return nil }, "SELECT 1"); err != nil {
					return struct{}{}, err
				}
			}
		}
		return struct{}{}, nil
	})
	if err != nil {
		b.Fatal(err)
	}
	return w
}

func BenchmarkDraftKRL(b *testing.B) {
	for _, row := range []struct {
		name string
		n    int
		pick func(int) int
	}{
		{"1000 in a row", 1_000, func(i int) int { return i + 1 }},
		{"10000 of 50000", 10_000, func(i int) int { return 5*i + 1 + i%3 }},
		{"100000 of 500000", 100_000, func(i int) int { return 5*i + 1 + i%3 }},
		{"100000 in a row", 100_000, func(i int) int { return i + 1 }},
		{"1000000 in a row", 1_000_000, func(i int) int { return i + 1 }},
	} {
		b.Run(row.name, func(b *testing.B) {
			w := filled(b, row.n, row.pick)
			size, before := 0, processor(b)
			for b.Loop() {
				list := w.draft()
				data, err := list.Marshal()
				if err != nil {
					b.Fatal(err)
				}
				size = len(data)
			}
			b.ReportMetric(float64((processor(b)-before).Milliseconds())/float64(b.N), "cpu-ms")
			b.ReportMetric(float64(size), "bytes")
		})
	}
}

// processor is what this process has used of it.
func processor(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
