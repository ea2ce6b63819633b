package postgrestest

import (
	"context"
	"errors"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

func code(err error) string {
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		return pg.Code
	}
	return ""
}

// Passwords count: what is refused here would otherwise prove nothing.
func TestLogin(t *testing.T) {
	t.Parallel()
	s := Start(t)
	db := s.NewDatabase(t)
	s.Exec(t, db, "CREATE ROLE alice LOGIN PASSWORD 'right'")
	if err := s.Login("alice", "right", db); err != nil {
		t.Error(err)
	}
	for _, who := range []struct{ user, password string }{
		{"alice", "wrong"}, {"alice", ""}, {"nobody", "right"}, {Admin, "wrong"},
	} {
		if err := s.Login(who.user, who.password, db); code(err) != "28P01" {
			t.Errorf("login as %s with password %q: got %v, want code 28P01", who.user, who.password, err)
		}
	}
}

// What was committed is there after kill -9; what wasn't isn't; connections
// are cut.
func TestKill(t *testing.T) {
	t.Parallel()
	s := Start(t)
	db := s.NewDatabase(t)
	s.Exec(t, db, "CREATE TABLE kept (n int); INSERT INTO kept VALUES (1)")
	ctx := context.Background()
	conn, err := pgx.Connect(ctx, s.AdminDSN(db))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(ctx) })
	tx, err := conn.Begin(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(ctx, "INSERT INTO kept VALUES (2)"); err != nil {
		t.Fatal(err)
	}
	s.Kill()
	if err := tx.Commit(ctx); err == nil {
		t.Error("a dead server committed")
	}
	if err := s.Login(Admin, s.Password, db); err == nil {
		t.Error("a dead server let somebody in")
	}
	for _, end := range []func(){func() {}, s.Stop, s.Kill} {
		end()
		s.Restart(t)
		s.Exec(t, db, "DO $$ BEGIN ASSERT (SELECT array_agg(n) FROM kept) = '{1}'; END $$")
	}
}
