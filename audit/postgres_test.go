package audit

import (
	"context"
	"database/sql"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"hallpass/access"
	"hallpass/testsuite/postgrestest"
)

// server is there while tests run on PostgreSQL.
var server *postgrestest.Server

// onPostgres runs tests that are also tests of SQLite.
func onPostgres(t *testing.T, tests ...func(*testing.T)) {
	startServer(t)
	for _, test := range tests {
		name := runtime.FuncForPC(reflect.ValueOf(test).Pointer()).Name()
		t.Run(strings.TrimPrefix(name, "hallpass/audit."), test)
	}
}

// startServer has the test run on PostgreSQL.
func startServer(t testing.TB, settings ...string) {
	t.Helper()
	server = postgrestest.Start(t, settings...)
	t.Cleanup(func() { server, spare = nil, nil })
	t.Setenv("PGPASSFILE", passfile(t, postgrestest.Admin, server.Password))
}

// passfile writes somebody's password where PostgreSQL's clients look for it.
func passfile(t testing.TB, user, password string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "pgpass")
	if err := os.WriteFile(path, fmt.Appendf(nil, "*:*:*:%s:%s\n", user, password), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// newDatabase names a database of its own for a log: a file, or what the tests
// run on.
func newDatabase(t testing.TB) string {
	t.Helper()
	if server == nil {
		return filepath.Join(t.TempDir(), "audit.db")
	}
	if len(spare) == 0 {
		spare = append(spare, server.NewDatabase(t))
	}
	last := len(spare) - 1
	name := spare[last]
	spare = spare[:last]
	t.Cleanup(func() {
		server.Exec(t, name, "DROP SCHEMA IF EXISTS "+postgresSchema+" CASCADE")
		spare = append(spare, name)
	})
	return addressOf(postgrestest.Admin, name)
}

// spare are databases that tests are done with: making one takes a while.
var spare []string

// addressOf is the address of a database on the server, without a password.
func addressOf(user, database string) string {
	u := url.URL{Scheme: "postgres", User: url.User(user), Host: fmt.Sprintf("127.0.0.1:%d", server.Port), Path: "/" + database, RawQuery: "sslmode=disable"}
	return u.String()
}

// behind opens a database without the log's knowing.
func behind(t testing.TB, name string) *sql.DB {
	t.Helper()
	db, err := openDatabase(name, false)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	db.SetMaxOpenConns(1) // so that temporary tables last
	return db.DB
}

// words makes of a test's statement one of the database that it runs on.
func words(query string) string {
	if server == nil {
		return query
	}
	query = regexp.MustCompile(`x'([0-9a-f]*)'`).ReplaceAllString(query, "decode('$1', 'hex')")
	return strings.NewReplacer("zeroblob(32)", `decode(repeat('00', 32), 'hex')`, " AS BLOB)", " AS bytea)").Replace(query)
}

// TestOnPostgreSQL runs what is about the database once more on PostgreSQL.
func TestOnPostgreSQL(t *testing.T) {
	defer func(n int) { maxConnections = n }(maxConnections)
	maxConnections = 1 // nobody needs two at a time
	onPostgres(t,
		// What only PostgreSQL has, the rest of this file and postgres_faults_test.go.
		testPostgresSchema,
		testPostgresOlderSchema,
		testPostgresSchemaChangesAreRefused,
		testPostgresPlans,
		testServerKilled,
		testConnectionsCut,
		testLostCommit,
		testUnavailable,
		testLockHeld,
		testPutBack,
		testRoles,
		testServiceRole,
		testOwnerWhoCantLogIn,
		testPasswordsStayHidden,
		testDumpAndRestore,
		// append_test.go, audit_test.go
		TestAppendIsIdempotentByRequestAndStep,
		TestTwoLogsOnOneFileDontFork,
		TestProcessesDontFork,
		TestMadeTogether,
		TestKilledWriterLosesNothingItAcknowledged,
		TestOneBadEventDoesNotFailItsNeighbours,
		TestAnotherRequestOfTheSameID,
		// copy_test.go
		TestCopy,
		TestCopyOfABrokenLog,
		TestCopyWhileOthersWrite,
		// hosts_test.go
		TestATokenTakesInOneHost,
		TestVisits,
		TestRefusedReportsAreBounded,
		// krl_test.go
		TestCA,
		TestDraftKRLNamesWhatWasTakenBack,
		TestKRLVersionsOnlyGrow,
		TestPublishKRL,
		TestListThatIsAnotherOne,
		// ledger_test.go
		TestNextSerialIsMonotonicAndNeverTwice,
		TestReserveChoosesTheSerial,
		TestExtensionHasItsSerial,
		TestReserveFirstOneWins,
		TestEndOnce,
		TestEndWhileIssuing,
		// life_test.go, limits_test.go, locks_test.go
		TestReserveCounts,
		TestReviewsAtTheSameMoment,
		TestReviews,
		TestReceiveCounts,
		TestWholeLifeVerifies,
		TestLocks,
		TestIssuedUnderOtherLocks,
		TestDelegations,
		TestDelegationsAtTheSameMoment,
		TestIssuedThroughDelegations,
		TestLive,
		// past_test.go, proof_test.go
		TestPast,
		TestPastIsBounded,
		TestProof,
		TestQueries,
		TestExport,
		TestOddTextsAreRecordedAndVerify,
		// sweep_test.go
		TestOpenGrants,
		TestOrphan,
		TestStray,
		TestEndedHandles,
		// tamper_test.go
		TestTampering,
		TestAppendingToABrokenLogIsRefused,
		TestCheckpointOfAnotherKeyIsRefused,
		TestOlderCheckpoint,
	)
}

func testPostgresSchema(t *testing.T) {
	ctx := context.Background()
	private, _ := testKey(t)
	name := newDatabase(t)
	// What is compared is compared below, with the difference.
	if l, err := Open(ctx, Options{Database: name, Key: private}); err == nil {
		defer func() { _ = l.Close() }()
	}
	d, err := openDatabase(name, true)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = d.Close() }()
	version, found, err := d.schema(ctx, d)
	if err != nil || version != schemaVersion {
		t.Errorf("version %d, want %d; %v", version, schemaVersion, err)
	}
	slices.Sort(found)
	if diff := cmp.Diff(slices.Sorted(slices.Values(d.want(schemaVersion))), found); diff != "" {
		t.Errorf("postgresLines (-want +got):\n%s", diff)
	}
}

// What an older version has as this one does stays as it is, so that nobody has to come
// who may change it; the rest is brought up.
func testPostgresOlderSchema(t *testing.T) {
	w := newWorld(t)
	w.live()
	db := databaseOf(t, w.path)
	as := granted(t, w.path)
	for _, row := range []struct {
		edit      string
		have, get int
		writer    bool // not the owner
	}{
		{"DROP INDEX hallpass_audit.events_past;", 3, schemaVersion, false},
		{"", 4, 4, true},
	} {
		if err := w.log.Close(); err != nil {
			t.Fatal(err)
		}
		server.Exec(t, db, fmt.Sprintf("%s COMMENT ON SCHEMA %s IS '%s%d'", row.edit, postgresSchema, postgresComment, row.have))
		if row.writer {
			w.path = as("hallpass_writer")
		}
		w.open()
		w.live()
		if got := server.Value(t, db, "SELECT obj_description('hallpass_audit'::regnamespace)"); got != fmt.Sprint(postgresComment, row.get) {
			t.Errorf("version %d has become %q, want %d", row.have, got, row.get)
		}
		if report := w.verify(VerifyOptions{}); !report.OK {
			t.Error(report.Problems)
		}
		report, _, err := w.log.Copy(t.Context(), filepath.Join(t.TempDir(), "copy.db"))
		if !report.OK || err != nil {
			t.Errorf("copy of version %d: %v, %v", row.get, report.Problems, err)
		}
	}
}

// However much is read at the same moment, PostgreSQL has connections left for
// others.
func TestConnectionsAreBounded(t *testing.T) {
	startServer(t, "max_connections=30")
	l, _, _ := newLog(t)
	var all sync.WaitGroup
	for who := range 400 {
		all.Go(func() {
			if _, err := l.KRLVersion(t.Context()); err != nil {
				t.Error(err)
			}
			if who%40 == 0 {
				if _, err := l.Append(t.Context(), newer(who, 0)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
}

// Passwords are changed while everything runs.
func TestPasswordChanged(t *testing.T) {
	startServer(t)
	l, name, _ := newLog(t)
	if _, err := l.Append(t.Context(), newer(1, 0)); err != nil {
		t.Fatal(err)
	}
	server.Exec(t, "postgres", "ALTER ROLE "+postgrestest.Admin+" PASSWORD 'another'")
	server.Password = "another"
	cut(t, databaseOf(t, name))
	if _, err := l.Append(t.Context(), newer(1, 1)); access.CodeOf(err) != access.CodeUnavailable {
		t.Errorf("with the password of before: %v", err)
	}
	if err := os.WriteFile(os.Getenv("PGPASSFILE"), fmt.Appendf(nil, "*:*:*:%s:%s\n", postgrestest.Admin, server.Password), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Append(t.Context(), newer(1, 1)); err != nil {
		t.Errorf("to write, with the new one: %v", err)
	}
	if _, err := l.KRLVersion(t.Context()); err != nil {
		t.Errorf("to read: %v", err)
	}
}

// Whom it goes to is checked for all that leaves the machine, however that is said.
func TestTLSByDefault(t *testing.T) {
	services := filepath.Join(t.TempDir(), "services")
	err := os.WriteFile(services, []byte("[far]\nhost=db.example.com\n[near]\nhost=127.0.0.1\n[plain]\nhost=db.example.com\nsslmode=disable\n"+
		"[soft]\nhost=db.example.com\nsslmode=prefer\n[forced]\nhost=db.example.com\nsslmode=require\n"), 0o600)
	if err != nil {
		t.Fatal(err)
	}
	const full, open, plain, some = "verified", "as the server wants it", "none", "not verified"
	for _, row := range []struct {
		name, address, env string
		want               string
	}{
		{"far", "postgres://u@db.example.com/audit", "", full},
		{"near", "postgres://u@localhost/audit", "", open},
		{"near, by number", "postgres://u@127.0.0.1:5433/audit", "", open},
		{"near, by number 6", "postgres://u@[::1]:5433/audit", "", open},
		{"socket", "postgres://u@/audit?host=/run/postgresql", "", plain},
		{"the query wins", "postgres://u@localhost/audit?host=db.example.com", "", full},
		{"the query wins, and is near", "postgres://u@db.example.com/audit?host=localhost", "", open},
		{"one of two", "postgres://u@localhost,db.example.com/audit", "", full},
		{"one of two in the query", "postgres://u@localhost/audit?host=/run/postgresql,db.example.com", "", full},
		{"socket first", "postgres://u@/audit?host=/run/postgresql,db.example.com", "", full},
		{"by the environment", "postgres:///audit", "PGHOST=db.example.com", full},
		{"by a service", "postgres://u@/audit?service=far&servicefile=" + services, "", full},
		{"by a service of the environment", "postgres://u@/audit?servicefile=" + services, "PGSERVICE=far", full},
		{"by a service, near", "postgres://u@/audit?service=near&servicefile=" + services, "", open},
		{"a service that says prefer", "postgres://u@/audit?service=soft&servicefile=" + services, "", full},
		{"a service that says otherwise", "postgres://u@/audit?service=plain&servicefile=" + services, "", plain},
		{"a service that asks for TLS", "postgres://u@/audit?service=forced&servicefile=" + services, "", some},
		{"said otherwise", "postgres://u@db.example.com/audit?sslmode=disable", "", plain},
		{"nothing said", "postgres://u@db.example.com/audit?sslmode=", "", full},
		{"the environment says otherwise", "postgres://u@db.example.com/audit", "PGSSLMODE=disable", plain},
	} {
		t.Run(row.name, func(t *testing.T) {
			for _, name := range []string{"PGHOST", "PGSSLMODE", "PGSERVICE", "PGSERVICEFILE"} {
				t.Setenv(name, "")
				_ = os.Unsetenv(name) // until the end of the test
			}
			if name, value, ok := strings.Cut(row.env, "="); ok {
				t.Setenv(name, value)
			}
			p, err := newPostgres(row.address)
			if err != nil {
				t.Fatal(err)
			}
			config, err := p.config()
			if err != nil {
				t.Fatal(err)
			}
			// The last way to the last host: what it is refused for, nobody gets.
			last := config.TLSConfig
			if n := len(config.Fallbacks); n > 0 {
				last = config.Fallbacks[n-1].TLSConfig
			}
			got := plain
			switch {
			case last != nil && !last.InsecureSkipVerify && last.ServerName == "db.example.com":
				got = full
			case last != nil:
				got = some
			case config.TLSConfig != nil:
				got = open
			}
			if got != row.want {
				t.Errorf("TLS is %s, want %s", got, row.want)
			}
		})
	}
}

// A list that is made by a clock which is ahead names what has been revoked and
// hasn't run out: PostgreSQL's clock has to agree that it has.
func TestKRLByAClockAhead(t *testing.T) {
	startServer(t)
	w := newWorld(t)
	w.now = time.Now().UTC().Truncate(time.Second)
	r, st := w.ask("alice")
	yes := w.decision("bob", access.Approve, r, st)
	w.accept("bob", r, yes)
	c := w.grant(r, access.Evidence{Request: st, Decisions: []access.Statement{yes}})
	w.end(End{Request: c.Handle.Request, State: access.StateRevoked})
	w.now = w.now.Add(26 * time.Hour)
	if got := serials(w.draft()); len(got) != 0 {
		t.Fatalf("with no other clock to ask, the list names %v: the test shows nothing", got)
	}
	w.log.doubted = true // as it is with the machine's clock
	if got := serials(w.draft()); !slices.Equal(got, []uint64{c.Handle.Serial}) {
		t.Errorf("the list names %v, want %d", got, c.Handle.Serial)
	}
	for by, want := range map[time.Duration]bool{-access.ClockSkew - time.Minute: true, time.Minute - access.ClockSkew: false} {
		h := c.Handle
		h.NotAfter = time.Now().Add(by)
		if unlisted, err := w.log.Unlisted(t.Context(), h); err != nil || unlisted != want {
			t.Errorf("what ends %s from now is in no list: %t, %v", by, unlisted, err)
		}
	}
	w.now = w.now.Add(-52 * time.Hour)
	if got := serials(w.draft()); !slices.Equal(got, []uint64{c.Handle.Serial}) {
		t.Errorf("with a clock behind, the list names %v, want %d", got, c.Handle.Serial)
	}
}
