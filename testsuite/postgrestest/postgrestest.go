// Package postgrestest runs real PostgreSQL servers for tests. Each has a
// folder and a port of its own, and leaves those of the machine alone.
//
// It needs PostgreSQL's programs (Debian: postgresql) and works as root and as
// anybody else. PostgreSQL itself refuses to run as root: for root it runs as
// postgres or, where there is no such user, as nobody.
package postgrestest

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"hallpass/internal/postgresql"
	"hallpass/testsuite/process"
)

// Admin is the superuser of every server.
const Admin = "admin"

// timeout is far more than a statement here takes on a busy machine.
const timeout = time.Minute

// Server is a PostgreSQL server. It asks for passwords (SCRAM), on every
// connection and for every user, so that a login that works proves something.
type Server struct {
	// Port is where it listens on 127.0.0.1; it stays the same over Kill and
	// Restart.
	Port int

	// Password is the superuser's.
	Password string

	bin, dir  string
	settings  []string
	process   *process.Process
	databases atomic.Int32
}

// Start runs a server until the test ends. Settings are those of
// postgresql.conf, as in "max_connections=20"; the rest are PostgreSQL's own
// defaults, fsync among them. With -short it skips the test if the machine has
// no PostgreSQL; otherwise it fails.
func Start(t testing.TB, settings ...string) *Server {
	t.Helper()
	// Not t.TempDir, into which another user can't look.
	dir, err := os.MkdirTemp("", "postgrestest")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return StartIn(t, dir, settings...)
}

// StartIn is Start in an empty folder that is there already, into which the
// server's user can look.
func StartIn(t testing.TB, dir string, settings ...string) *Server {
	t.Helper()
	s := &Server{Password: rand.Text(), bin: programs(t), dir: dir, settings: settings}
	password := filepath.Join(dir, "password")
	if err := os.WriteFile(password, []byte(s.Password+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if as := runAs(t); as != nil {
		for _, path := range []string{dir, password} {
			if err := os.Chown(path, int(as.Uid), int(as.Gid)); err != nil {
				t.Fatal(err)
			}
		}
	}
	initdb := s.command(t, "initdb", "-D", s.data(), "-U", Admin, "--pwfile", password,
		"--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--no-sync")
	if out, err := initdb.CombinedOutput(); err != nil {
		t.Fatalf("initdb: %v\n%s", err, out)
	}

	process.TryPorts(t, func(port int) error {
		s.Port = port
		return s.start(t)
	})
	t.Cleanup(func() {
		if s.process == nil {
			return
		}
		s.process.Signal(syscall.SIGQUIT)
		if t.Failed() {
			t.Logf("log of PostgreSQL:\n%s", s.Log())
		}
	})
	return s
}

// Give makes a folder and the files in it those of the user that servers run
// as, for what their settings name.
func Give(t testing.TB, dir string) {
	t.Helper()
	as := runAs(t)
	if as == nil {
		return
	}
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range append(files, dir) {
		if err := os.Chown(path, int(as.Uid), int(as.Gid)); err != nil {
			t.Fatal(err)
		}
	}
}

// start runs the server on its port until it takes connections.
func (s *Server) start(t testing.TB) error {
	args := []string{"-D", s.data(), "-c", "listen_addresses=127.0.0.1", "-c", "port=" + strconv.Itoa(s.Port), "-c", "unix_socket_directories="}
	for _, setting := range s.settings {
		args = append(args, "-c", setting)
	}
	p, err := process.Start(s.command(t, "postgres", args...), func(line string) bool {
		return strings.Contains(line, "database system is ready to accept connections")
	})
	if err != nil {
		return err
	}
	s.process = p
	return nil
}

// Kill is kill -9 of the server. When it returns, nothing of it runs any more.
func (s *Server) Kill() {
	// Every process of the server holds its standard error open, and each
	// ends by itself when it misses the first one.
	s.process.Kill()
}

// Stop ends the server in good order, and every connection to it.
func (s *Server) Stop() { s.process.Signal(os.Interrupt) }

// Restart starts a server that Kill or Stop ended, with the same data on the
// same port.
func (s *Server) Restart(t testing.TB) {
	t.Helper()
	if err := s.Again(t); err != nil {
		t.Fatal(err)
	}
}

// Again is Restart that says why it failed, for goroutines other than the
// test's.
func (s *Server) Again(t testing.TB) error {
	t.Helper()
	s.process.Kill()
	return s.start(t)
}

// Process is the one that was started last.
func (s *Server) Process() *process.Process { return s.process }

// DSN is the address of a database for a user, as pgx, lib/pq and psql take
// it.
func (s *Server) DSN(user, password, database string) string {
	u := url.URL{
		Scheme:   "postgres",
		User:     url.UserPassword(user, password),
		Host:     "127.0.0.1:" + strconv.Itoa(s.Port),
		Path:     database,
		RawQuery: "sslmode=disable",
	}
	return u.String()
}

// AdminDSN is the address of a database for the superuser. The database
// postgres is always there.
func (s *Server) AdminDSN(database string) string { return s.DSN(Admin, s.Password, database) }

// NewDatabase makes an empty database that no other test has.
func (s *Server) NewDatabase(t testing.TB) (name string) {
	t.Helper()
	name = fmt.Sprintf("test_%d", s.databases.Add(1))
	s.Exec(t, "postgres", "CREATE DATABASE "+name)
	return name
}

// Exec runs statements in a database, as the superuser.
func (s *Server) Exec(t testing.TB, database, statements string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	conn, err := pgx.Connect(ctx, s.AdminDSN(database))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(ctx) }()
	if _, err := conn.PgConn().Exec(ctx, statements).ReadAll(); err != nil {
		t.Fatal(err)
	}
}

// Value is the text that a query in a database gives, as the superuser.
func (s *Server) Value(t testing.TB, database, query string) (text string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	conn, err := pgx.Connect(ctx, s.AdminDSN(database))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(ctx) }()
	if err := conn.QueryRow(ctx, query).Scan(&text); err != nil {
		t.Fatal(err)
	}
	return text
}

// Login says how an attempt to log in went.
func (s *Server) Login(user, password, database string) error {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	conn, err := pgx.Connect(ctx, s.DSN(user, password, database))
	if err != nil {
		return err
	}
	return conn.Close(ctx)
}

// Log is what the server has logged since it was started last.
func (s *Server) Log() string { return s.process.Output() }

// Program is the path of one of PostgreSQL's programs: psql, pg_dump.
func (s *Server) Program(name string) string { return filepath.Join(s.bin, name) }

func (s *Server) data() string { return filepath.Join(s.dir, "data") }

// command is one of PostgreSQL's programs, run as somebody who may run it, in
// a folder that he may enter, with messages that can be looked for.
func (s *Server) command(t testing.TB, name string, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(s.Program(name), args...)
	cmd.Dir = s.dir
	cmd.Env = []string{"LC_ALL=C", "TZ=UTC", "PATH=" + os.Getenv("PATH")}
	if as := runAs(t); as != nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: as}
	}
	return cmd
}

// runAs is whom root runs PostgreSQL as; nil for everybody else.
func runAs(t testing.TB) *syscall.Credential {
	t.Helper()
	as, err := postgresql.RunAs()
	if err != nil {
		t.Fatal(err)
	}
	return as
}

// programs is the folder with PostgreSQL's programs.
func programs(t testing.TB) string {
	t.Helper()
	dir, err := postgresql.Programs()
	if errors.Is(err, postgresql.ErrNotInstalled) && testing.Short() {
		t.Skip(err)
	} else if err != nil {
		t.Fatalf("%v; on Debian: apt-get install postgresql", err)
	}
	return dir
}
