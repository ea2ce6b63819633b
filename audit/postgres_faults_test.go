package audit

import (
	"bytes"
	"context"
	"database/sql"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"hallpass/access"
	"hallpass/ca"
	"hallpass/testsuite/postgrestest"
)

// databaseOf is the database's name in an address.
func databaseOf(t testing.TB, address string) string {
	t.Helper()
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Trim(u.Path, "/")
}

// pause lets others go on between two looks at something.
func pause() { <-time.After(2 * time.Millisecond) }

// cut ends all connections to a database.
func cut(t testing.TB, database string) {
	t.Helper()
	server.Exec(t, "postgres", "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '"+database+"'")
}

// insist appends as everybody does who needs the record: again while the log
// is unavailable.
func insist(l *Log, e Event, deadline time.Time) (index int64, tries int, err error) {
	for tries = 1; ; tries++ {
		index, err = l.Append(context.Background(), e)
		if access.CodeOf(err) != access.CodeUnavailable || time.Now().After(deadline) {
			return index, tries, err
		}
	}
}

// A server that is killed and comes back, again and again, loses nothing that
// was acknowledged and doubles nothing, for writers of two Logs at once.
func testServerKilled(t *testing.T) {
	private, public := testKey(t)
	name := newDatabase(t)
	logs := []*Log{openLog(t, name, private), openLog(t, name, private)}
	var mu sync.Mutex
	acknowledged := map[int64]string{}
	var stop atomic.Bool
	var all sync.WaitGroup
	deadline := time.Now().Add(2 * time.Minute)
	for who := range 8 {
		all.Go(func() {
			for i := 0; !stop.Load(); i++ {
				e := newer(who, i)
				index, _, err := insist(logs[who%2], e, deadline)
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				if other, twice := acknowledged[index]; twice {
					t.Errorf("event %d is %s and %s", index, other, e.Step)
				}
				acknowledged[index] = e.Step
				mu.Unlock()
			}
		})
	}
	more := func(n int) {
		for before := -1; ; {
			mu.Lock()
			now := len(acknowledged)
			mu.Unlock()
			if before < 0 {
				before = now
			}
			if now >= before+n || time.Now().After(deadline) || t.Failed() {
				return
			}
			pause()
		}
	}
	for range 3 {
		more(50)
		server.Kill()
		server.Restart(t)
	}
	more(50)
	stop.Store(true)
	all.Wait()
	verified(t, name, public, int64(len(acknowledged)))
	// Not by one of the logs, each of which may have a connection that it hasn't
	// noticed was cut.
	r, err := OpenReader(context.Background(), name, public)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Close() }()
	n := 0
	for rec, err := range r.Events(context.Background(), Query{}) {
		if err != nil {
			t.Fatal(err)
		}
		n++
		if acknowledged[rec.Index] != rec.Event.Step {
			t.Errorf("event %d is %s, acknowledged was %s", rec.Index, rec.Event.Step, acknowledged[rec.Index])
		}
	}
	if n != len(acknowledged) {
		t.Errorf("%d events, %d were acknowledged", n, len(acknowledged))
	}
}

// Cut connections are nobody's business: the writer comes back by itself, and
// nobody hears of it, not even those whose events nothing would tell apart.
func testConnectionsCut(t *testing.T) {
	l, name, public := newLog(t)
	var stop atomic.Bool
	var written atomic.Int64
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for !stop.Load() {
				if _, err := l.Append(context.Background(), Event{Type: RequestRuled, Why: "no step"}); err != nil {
					t.Error(err)
					return
				}
				written.Add(1)
			}
		})
	}
	for range 10 {
		for before := written.Load(); written.Load() < before+5 && !t.Failed(); {
			pause()
		}
		cut(t, databaseOf(t, name))
	}
	stop.Store(true)
	all.Wait()
	verified(t, name, public, written.Load())
}

// proxy passes bytes on between clients and the server. Once armed, it cuts
// the connection on which the server says that it has committed, before the
// client hears of it.
type proxy struct {
	net.Listener
	armed atomic.Bool
	cuts  atomic.Int32
}

func newProxy(t *testing.T) *proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	p := &proxy{Listener: l}
	go func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			go p.serve(client)
		}
	}()
	return p
}

func (p *proxy) serve(client net.Conn) {
	defer func() { _ = client.Close() }()
	upstream, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", server.Port))
	if err != nil {
		return
	}
	defer func() { _ = upstream.Close() }()
	go func() { _, _ = io.Copy(upstream, client) }()
	buf := make([]byte, 64<<10)
	for {
		n, err := upstream.Read(buf)
		if err != nil {
			return
		}
		if bytes.Contains(buf[:n], []byte("COMMIT\x00")) && p.armed.CompareAndSwap(true, false) {
			p.cuts.Add(1)
			return
		}
		if _, err := client.Write(buf[:n]); err != nil {
			return
		}
	}
}

// A commit whose answer is lost took place once: the writer finds it.
func testLostCommit(t *testing.T) {
	private, public := testKey(t)
	p := newProxy(t)
	name := strings.Replace(newDatabase(t), fmt.Sprint(":", server.Port), fmt.Sprint(":", p.Addr().(*net.TCPAddr).Port), 1)
	l := openLog(t, name, private)
	for i := range int64(5) {
		p.armed.Store(true)
		if index, err := l.Append(context.Background(), Event{Type: RequestRuled, Why: "no step"}); err != nil || index != i {
			t.Fatalf("index %d, %v; want %d", index, err, i)
		}
	}
	if n := p.cuts.Load(); n != 5 {
		t.Errorf("%d connections were cut, want 5", n)
	}
	// What has no checkpoint to be found by may be done twice, and says so.
	p.armed.Store(true)
	first, err := l.NextSerial(context.Background(), "SHA256:a", 0)
	if err != nil || first > 2 {
		t.Errorf("serial %d, %v", first, err)
	}
	if next, err := l.NextSerial(context.Background(), "SHA256:a", 0); err != nil || next != first+1 {
		t.Errorf("serial %d after %d, %v", next, first, err)
	}
	verified(t, name, public, 5)
}

// While PostgreSQL can't take anything, everything is worth another try, and
// says why; afterwards the log goes on.
func testUnavailable(t *testing.T) {
	l, name, public := newLog(t)
	db := databaseOf(t, name)
	ctx := context.Background()
	if _, err := l.Append(ctx, newer(1, 0)); err != nil {
		t.Fatal(err)
	}
	n := 1
	// unavailable waits until an append fails so, as the server takes settings
	// over in its own time.
	unavailable := func(want string) {
		t.Helper()
		var err error
		for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); {
			if _, err = l.Append(ctx, newer(1, n)); err != nil {
				break
			}
			n++
		}
		if access.CodeOf(err) != access.CodeUnavailable || !strings.Contains(err.Error(), want) {
			t.Fatalf("append: %v, want unavailable: %s", err, want)
		}
	}
	works := func() {
		t.Helper()
		if _, _, err := insist(l, newer(1, n), time.Now().Add(time.Minute)); err != nil {
			t.Fatal(err)
		}
		n++
	}
	for _, row := range []struct{ name, broken, whole, want string }{
		{"read-only", "ALTER DATABASE %s SET default_transaction_read_only = on", "ALTER DATABASE %s RESET default_transaction_read_only", "the database of the audit log is read-only"},
		{"asynchronous", "ALTER DATABASE %s SET synchronous_commit = off", "ALTER DATABASE %s RESET synchronous_commit", "PostgreSQL has synchronous_commit=off"},
		{"local", "ALTER DATABASE %s SET synchronous_commit = local", "ALTER DATABASE %s RESET synchronous_commit", "PostgreSQL has synchronous_commit=local"},
	} {
		server.Exec(t, "postgres", fmt.Sprintf(row.broken, db))
		cut(t, db)
		unavailable(row.want)
		// Nobody opens it so, either.
		private, _ := testKey(t)
		if _, err := Open(ctx, Options{Database: name, Key: private}); err == nil {
			t.Errorf("%s: opened", row.name)
		}
		server.Exec(t, "postgres", "SET default_transaction_read_only = off; "+fmt.Sprintf(row.whole, db))
		cut(t, db)
		works()
	}
	// In a running session, too.
	for _, row := range []struct{ set, want string }{
		{"synchronous_commit = off", "PostgreSQL has synchronous_commit=off"},
		{"fsync = off", "PostgreSQL has fsync=off"},
	} {
		reload := func(statement string) {
			server.Exec(t, "postgres", statement)
			server.Exec(t, "postgres", "SELECT pg_reload_conf()")
		}
		reload("ALTER SYSTEM SET " + row.set)
		unavailable(row.want)
		reload("ALTER SYSTEM RESET " + strings.Fields(row.set)[0])
		works()
	}
	// Full: PostgreSQL says so in the middle of a transaction.
	server.Exec(t, db, `CREATE FUNCTION public.full() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'could not extend file' USING ERRCODE = '53100'; END $$;
		CREATE TRIGGER full_disk BEFORE INSERT ON hallpass_audit.checkpoints FOR EACH ROW EXECUTE FUNCTION public.full()`)
	if err := l.Writable(ctx); err != nil {
		t.Errorf("before a write has found out: %v", err)
	}
	unavailable("no space left for the audit log")
	if err := l.Writable(ctx); access.CodeOf(err) != access.CodeUnavailable || !strings.Contains(err.Error(), "no space left for the audit log") {
		t.Errorf("after it has: %v", err)
	}
	server.Exec(t, db, "DROP FUNCTION public.full CASCADE")
	works()
	if err := l.Writable(ctx); err != nil {
		t.Errorf("with room again: %v", err)
	}
	// Who opens it finds out by himself (as with a full disk in testsuite/topology);
	// who has it open, by his next write. That something else is wrong says nothing of room.
	for _, row := range []struct {
		state string
		full  bool
	}{{"53200", false}, {"53100", true}} {
		server.Exec(t, db, `CREATE FUNCTION public.full() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'could not extend file' USING ERRCODE = '`+row.state+`'; END $$;
			CREATE TRIGGER full_disk BEFORE INSERT ON hallpass_audit.events FOR EACH ROW EXECUTE FUNCTION public.full()`)
		if err := l.Writable(ctx); err != nil {
			t.Errorf("open, SQLSTATE %s: %v", row.state, err)
		}
		l.findRoom(ctx)
		for range 2 {
			if err := l.Writable(ctx); (err != nil) != row.full || err != nil && (access.CodeOf(err) != access.CodeUnavailable || !strings.Contains(err.Error(), "no space left for the audit log")) {
				t.Errorf("opened, SQLSTATE %s: %v", row.state, err)
			}
		}
		server.Exec(t, db, "DROP FUNCTION public.full CASCADE")
		works()
		l.findRoom(ctx)
		if err := l.Writable(ctx); err != nil {
			t.Errorf("written after SQLSTATE %s: %v", row.state, err)
		}
	}
	// Away: it says so soon, and comes back by itself.
	server.Stop()
	unavailable("PostgreSQL can't be reached")
	if err := l.Reader.db.PingContext(ctx); err == nil {
		t.Error("a server that was stopped answers")
	}
	if _, err := l.Locks(ctx); access.CodeOf(err) != access.CodeUnavailable {
		t.Errorf("reading while it is away: %v", err)
	}
	server.Restart(t)
	works()
	verified(t, name, public, int64(n))
}

// Another program that holds the lock is waited for, and not for ever.
func testLockHeld(t *testing.T) {
	private, _ := testKey(t)
	name := newDatabase(t)
	l := openLog(t, name+"&lock_timeout=200", private)
	holder := behind(t, name)
	tx, err := holder.Begin()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(fmt.Sprint("SELECT pg_advisory_xact_lock(", postgresLock, ")")); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Append(context.Background(), newer(1, 1)); access.CodeOf(err) != access.CodeUnavailable ||
		!strings.Contains(err.Error(), "audit log is locked by another process") {
		t.Errorf("%v", err)
	}
	if err := tx.Rollback(); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Append(context.Background(), newer(1, 1)); err != nil {
		t.Error(err)
	}
}

// A log that is put back to an older state under a running writer takes
// nothing more from it; one that starts takes the log as it is.
func testPutBack(t *testing.T) {
	private, _ := testKey(t)
	name := newDatabase(t)
	l := openLog(t, name, private)
	for i := range 3 {
		if _, err := l.Append(context.Background(), newer(1, i)); err != nil {
			t.Fatal(err)
		}
	}
	db := behind(t, name)
	for _, s := range []string{"DELETE FROM events WHERE idx >= 2", "DELETE FROM checkpoints WHERE size > 2"} {
		if _, err := db.Exec(s); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := l.Append(context.Background(), newer(1, 3)); access.CodeOf(err) != access.CodeUnverified ||
		!strings.Contains(err.Error(), "it had 3 events and has been put back to an older state, which has 2") {
		t.Errorf("%v", err)
	}
	if _, err := openLog(t, name, private).Append(context.Background(), newer(1, 3)); err != nil {
		t.Error(err)
	}
}

// granted makes the users that docs/operate.md gives rights in a log's database,
// and one without any. The result is the address by which one of them comes.
func granted(t *testing.T, name string) (as func(who string) string) {
	t.Helper()
	db := databaseOf(t, name)
	for _, who := range []string{"hallpass_writer", "hallpass_service", "hallpass_reader", "nobody"} {
		server.Exec(t, db, "CREATE ROLE "+who+" LOGIN PASSWORD '"+who+"'")
		t.Cleanup(func() { server.Exec(t, db, "DROP OWNED BY "+who+"; DROP ROLE "+who) })
	}
	guide, err := os.ReadFile("../docs/operate.md")
	if err != nil {
		t.Fatal(err)
	}
	given := regexp.MustCompile(`(?m)^ *GRANT [^;]*;`).FindAllString(string(guide), -1)
	if len(given) != 5 {
		t.Fatalf("docs/operate.md grants %q", given)
	}
	server.Exec(t, db, strings.Join(given, "\n"))
	return func(who string) string {
		t.Setenv("PGPASSFILE", passfile(t, who, who))
		return addressOf(who, db)
	}
}

// forbidden says of each statement that whoever comes by this address may not
// carry it out.
func forbidden(t *testing.T, address string, statements ...string) {
	t.Helper()
	conn := behind(t, address)
	for _, s := range statements {
		if _, err := conn.Exec(s); err == nil || !strings.Contains(err.Error(), "permission denied") {
			t.Errorf("%s: %v, want permission denied", s, err)
		}
	}
}

// A writer needs no right to change or remove an event, a reader none to
// write; neither has to own the tables.
func testRoles(t *testing.T) {
	ctx := context.Background()
	private, public := testKey(t)
	name := newDatabase(t)
	made, err := PostgresSchema(private)
	if err != nil {
		t.Fatal(err)
	}
	server.Exec(t, databaseOf(t, name), made)
	as := granted(t, name)
	address := as("hallpass_writer")
	w := &world{t: t, path: address, private: private, public: public, now: t0}
	if w.ca, err = ca.New(key(t, "ca"), w.clock); err != nil {
		t.Fatal(err)
	}
	w.open()
	w.rulebook(worldPolicy)
	w.live()
	if err := w.log.PublishKRL(ctx, w.signed(w.draft())); err != nil {
		t.Error(err)
	}
	forbidden(t, address, "UPDATE events SET actor = 'x'", "DELETE FROM events", "TRUNCATE events", "UPDATE checkpoints SET size = 1", "DELETE FROM checkpoints", "DELETE FROM ledger")
	if r := w.verify(VerifyOptions{}); !r.OK {
		t.Error(r.Problems)
	}
	address = as("hallpass_reader")
	verified(t, address, public, atAll)
	if _, err := OpenReader(ctx, as("nobody"), public); access.CodeOf(err) != access.CodeUnavailable || !strings.Contains(err.Error(), "may not use the schema hallpass_audit") {
		t.Errorf("without rights: %v", err)
	}
}

// The service has the log's key, since it records what hosts report. What it
// needs in the database is to add events: the ledger is out of its reach.
func testServiceRole(t *testing.T) {
	ctx := context.Background()
	w, _, c := visited(t)
	w.path = granted(t, w.path)("hallpass_service")
	w.open()
	w.rulebook(hostsPolicy + "\n# another version\n")
	if err := w.log.Writable(ctx); err != nil {
		t.Error(err)
	}
	if err := w.log.Report(ctx, w.report("agent", c, nil), w.on); err != nil {
		t.Error(err)
	}
	w.tick()
	forged := w.report("agent", c, func(s *access.Session) { s.Serial++ })
	if err := w.log.Report(ctx, forged, w.on); access.CodeOf(err) != access.CodeMismatch {
		t.Errorf("report of a certificate that was never given out: %v", err)
	}
	if n := w.count(Query{Type: SessionRefused}); n != 1 {
		t.Errorf("%d refused reports on record, want 1", n)
	}
	forbidden(t, w.path, "UPDATE events SET actor = 'x'", "DELETE FROM events", "UPDATE checkpoints SET size = 1", "DELETE FROM checkpoints",
		"UPDATE ledger SET ended = ''", "DELETE FROM ledger", "INSERT INTO ledger SELECT 'x', hash, handle, credential, ended, ended_at FROM ledger",
		"UPDATE hosts SET agent_key = 'x'", "INSERT INTO hosts SELECT 'x', token, agent_key, host_key, certificate, at FROM hosts",
		"UPDATE serials SET last = 1", "UPDATE krl SET taken = 0", "INSERT INTO cas VALUES ('x', 'x')")
	if _, err := w.log.NextSerial(ctx, "x", 1); err == nil {
		t.Error("the service has spent a serial")
	}
	if r := w.verify(VerifyOptions{}); !r.OK {
		t.Error(r.Problems)
	}
}

// The tables may belong to somebody who can't log in: whoever may be him for a while
// makes the log, or brings it up to date, as docs/operate.md says.
func testOwnerWhoCantLogIn(t *testing.T) {
	private, _ := testKey(t)
	db := databaseOf(t, newDatabase(t))
	server.Exec(t, db, "CREATE ROLE keeper; GRANT CREATE ON DATABASE "+db+" TO keeper; CREATE ROLE lent LOGIN PASSWORD 'lent'; GRANT keeper TO lent")
	t.Cleanup(func() { server.Exec(t, db, "DROP OWNED BY keeper; DROP ROLE lent, keeper") })
	t.Setenv("PGPASSFILE", passfile(t, "lent", "lent"))
	openLog(t, addressOf("lent", db)+"&options=-crole%3Dkeeper", private)
	if owners := server.Value(t, db, "SELECT string_agg(DISTINCT tableowner, ' ') FROM pg_tables WHERE schemaname = '"+postgresSchema+"'"); owners != "keeper" {
		t.Errorf("the tables are %s's", owners)
	}
}

// What is secret is in no message, whatever is wrong.
func testPasswordsStayHidden(t *testing.T) {
	ctx := context.Background()
	_, public := testKey(t)
	const secret = "s3cr3t"
	good := newDatabase(t)
	for _, row := range []struct{ name, address, want string }{
		{"in the address", strings.Replace(good, "admin@", "admin:"+secret+"@", 1), "has a password in it"},
		{"as a parameter", good + "&password=" + secret, "has a password in it"},
		{"of the TLS key", good + "&sslpassword=" + secret, "has a password in it"},
		{"no address", "postgres://admin:" + secret + "@[::1/audit", "is not of the form postgres://"},
		{"no database", "postgres://admin:" + secret + "@127.0.0.1", "is not of the form postgres://"},
		{"no host", "postgres:admin:" + secret, "is not of the form postgres://"},
		{"setting that isn't one", strings.Replace(good, "disable", "maybe", 1), "sslmode is invalid"},
		{"wrong password", good, "password authentication failed"},
		{"no such database", addressOf(postgrestest.Admin, "nothing"), `database "nothing" does not exist`},
		{"nobody there", "postgres://admin@127.0.0.1:1/audit", "PostgreSQL can't be reached"},
	} {
		if row.name == "wrong password" {
			t.Setenv("PGPASSFILE", passfile(t, postgrestest.Admin, secret))
		}
		if row.name == "no such database" {
			t.Setenv("PGPASSFILE", passfile(t, postgrestest.Admin, server.Password))
		}
		_, err := OpenReader(ctx, row.address, public)
		if err == nil || !strings.Contains(err.Error(), row.want) {
			t.Errorf("%s: %v, want %q", row.name, err, row.want)
		}
		if err != nil && (strings.Contains(err.Error(), secret) || strings.Contains(err.Error(), server.Password) || strings.Contains(err.Error(), "\n")) {
			t.Errorf("%s: %v", row.name, err)
		}
	}
}

// within is a transaction that is asked in SQLite's words.
type within struct {
	*sql.Tx
	dialect
}

func (q within) QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	return q.Tx.QueryContext(ctx, q.translate(query), args...)
}

func (q within) QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row {
	return q.Tx.QueryRowContext(ctx, q.translate(query), args...)
}

func testPostgresSchemaChangesAreRefused(t *testing.T) {
	const changed = "the tables of the audit log have been changed"
	ctx := context.Background()
	private, public := testKey(t)
	name := newDatabase(t)
	openLog(t, name, private)
	db, err := openDatabase(name, false)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	for _, row := range []struct{ name, edit, want string }{
		{"trigger", "CREATE FUNCTION public.f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL;END'; CREATE TRIGGER t BEFORE INSERT ON events FOR EACH ROW EXECUTE FUNCTION public.f()", changed},
		{"rule", "CREATE RULE r AS ON INSERT TO events DO INSTEAD NOTHING", changed},
		{"table added", "CREATE TABLE more (x int)", changed},
		{"view added", "CREATE VIEW more AS SELECT 1", changed},
		{"function that stands before PostgreSQL's", "CREATE FUNCTION substr(text, bigint, bigint) RETURNS text LANGUAGE sql AS 'SELECT $1'", changed},
		{"index dropped", "DROP INDEX events_step", changed},
		{"column added", "ALTER TABLE events ADD COLUMN x int", changed},
		{"column of another type", "ALTER TABLE serials ALTER COLUMN last TYPE int", changed},
		{"another order of text", `CREATE COLLATION hallpass_audit."C" FROM "POSIX"; ALTER TABLE events ALTER COLUMN step TYPE text COLLATE hallpass_audit."C"`, changed},
		{"another order of text, from elsewhere", `CREATE COLLATION public."C" FROM "POSIX"; ALTER TABLE events ALTER COLUMN step TYPE text COLLATE public."C"`, changed},
		{"lost in a crash", "ALTER TABLE events SET UNLOGGED", changed},
		{"hidden rows", "ALTER TABLE events ENABLE ROW LEVEL SECURITY", changed},
		{"rows from elsewhere", "CREATE TABLE public.heir () INHERITS (events)", changed},
		{"newer version", "COMMENT ON SCHEMA hallpass_audit IS 'audit log of hallpass, schema version 99'", "schema version 99, this hallpass knows"},
		{"another application", "COMMENT ON SCHEMA hallpass_audit IS 'somebody else''s'", "is not an audit log of hallpass"},
	} {
		t.Run(row.name, func(t *testing.T) {
			tx, err := db.BeginTx(ctx, nil)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = tx.Rollback() }()
			for edit := range strings.SplitSeq(row.edit, "; ") {
				if _, err := tx.Exec(edit); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := checkSchema(ctx, db, within{tx, db}); err == nil || !strings.Contains(err.Error(), row.want) {
				t.Errorf("%v, want %q", err, row.want)
			}
		})
	}
	// Whoever opens the log looks.
	server.Exec(t, databaseOf(t, name), "CREATE TABLE hallpass_audit.more (x int)")
	for _, open := range []func() error{
		func() error { _, err := OpenReader(ctx, name, public); return err },
		func() error { _, err := Open(ctx, Options{Database: name, Key: private}); return err },
	} {
		if err := open(); err == nil || !strings.Contains(err.Error(), changed) {
			t.Errorf("%v, want %q", err, changed)
		}
	}
	t.Run("another encoding", func(t *testing.T) {
		server.Exec(t, "postgres", "CREATE DATABASE latin ENCODING 'SQL_ASCII' TEMPLATE template0")
		if _, err := Open(context.Background(), Options{Database: addressOf(postgrestest.Admin, "latin"), Key: private}); err == nil || !strings.Contains(err.Error(), "has the encoding SQL_ASCII, not UTF8") {
			t.Error(err)
		}
	})
}

// The plans that a log which grows depends on.
func testPostgresPlans(t *testing.T) {
	l, name, _ := newLog(t)
	db := behind(t, name)
	if _, err := db.Exec("SET enable_seqscan = off"); err != nil {
		t.Fatal(err)
	}
	prefetch, args := l.db.prefetch([]string{"r1"}, []string{"s"})
	for _, row := range []struct {
		query string
		args  []any
		want  string
	}{
		{"SELECT count(*) FROM " + lockSteps, nil, "events_step"},
		{"SELECT count(*) FROM " + delegationSteps, nil, "events_step"},
		{revokedQuery, []any{"2031-01-01T00:00:00Z", "2030-12-31T00:00:00Z"}, "ledger_revoked"},
		{endedQuery, []any{"2031-01-01T00:00:00Z", "vault"}, "ledger_revoked"},
		{"SELECT handle FROM ledger WHERE ended = '' AND request > ? ORDER BY request LIMIT ?", []any{"", 3}, "ledger_open"},
		{prefetch, args, "events_step"},
	} {
		rows, err := db.Query("EXPLAIN "+l.db.translate(row.query), row.args...)
		if err != nil {
			t.Fatal(err)
		}
		var plan []string
		for rows.Next() {
			var line string
			if err := rows.Scan(&line); err != nil {
				t.Fatal(err)
			}
			plan = append(plan, line)
		}
		if err := rows.Err(); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(strings.Join(plan, "\n"), "using "+row.want) && !strings.Contains(strings.Join(plan, "\n"), "on "+row.want) {
			t.Errorf("%s:\n%s", row.query, strings.Join(plan, "\n"))
		}
	}
}

// pg_dump and pg_restore, as docs/operate.md says it.
func testDumpAndRestore(t *testing.T) {
	w := newWorld(t)
	w.live()
	checkpoint, err := w.log.Checkpoint(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	run := func(program string, args ...string) {
		t.Helper()
		cmd := exec.Command(server.Program(program), args...)
		cmd.Env = append(os.Environ(), "PGPASSFILE="+os.Getenv("PGPASSFILE"))
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", program, err, out)
		}
	}
	file := filepath.Join(t.TempDir(), "audit.dump")
	run("pg_dump", "--format=custom", "--schema=hallpass_audit", "--file="+file, w.path)
	w.record(newer(1, 1)) // is not in the copy
	restored := newDatabase(t)
	run("pg_restore", "--exit-on-error", "--single-transaction", "--dbname="+restored, file)
	r, err := OpenReader(context.Background(), restored, w.public)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Close() }()
	if report, err := r.Verify(context.Background(), VerifyOptions{Since: checkpoint}); err != nil || !report.OK || report.Size != atAll {
		t.Errorf("%v, %+v", err, report)
	}
	// Whoever goes on with it does so where it ends.
	if index, err := openLog(t, restored, w.private).Append(context.Background(), newer(2, 2)); err != nil || index != atAll {
		t.Errorf("index %d, %v", index, err)
	}
}

// Something that takes connections and doesn't answer, such as a firewall, is a
// server that can't be reached, and that is said in one line.
func TestPostgreSQLDoesntAnswer(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	private, _ := testKey(t)
	_, err = Open(t.Context(), Options{Database: "postgres://hallpass@" + l.Addr().String() + "/audit?connect_timeout=1", Key: private})
	if access.CodeOf(err) != access.CodeUnavailable || !strings.Contains(err.Error(), "PostgreSQL can't be reached: ") || strings.ContainsAny(err.Error(), "\n\t") {
		t.Errorf("%q (%s)", err, access.CodeOf(err))
	}
}
