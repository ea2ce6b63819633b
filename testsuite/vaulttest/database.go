package vaulttest

import (
	"crypto/rand"
	"fmt"
	"strings"
	"testing"
	"time"

	"hallpass/testsuite/postgrestest"
)

// Revocation is what Vault runs in PostgreSQL to take a login back, sessions
// and all. It is one DO block because Vault runs the statements of a role in
// one transaction, and without the condition a login that is gone already
// could never be revoked.
//
// Sessions are ended first, since one that is in a transaction would hold up
// REASSIGN OWNED, and once more at the end, for those that were on their way
// in.
const Revocation = `DO $$
BEGIN
  IF EXISTS (SELECT FROM pg_roles WHERE rolname = '{{name}}') THEN
    ALTER ROLE "{{name}}" NOLOGIN;
    PERFORM pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{{name}}';
    REASSIGN OWNED BY "{{name}}" TO CURRENT_USER;
    DROP OWNED BY "{{name}}";
    PERFORM pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{{name}}';
    DROP ROLE "{{name}}";
  END IF;
END $$;`

// creation makes a login that can do what a group of PostgreSQL's can. Vault's
// own login becomes a member of it, and so may end its sessions and take over
// what it owns.
const creation = `CREATE ROLE "{{name}}" LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}' IN ROLE %q;
GRANT "{{name}}" TO CURRENT_USER;`

// Database is Vault's database engine over one database of a PostgreSQL
// server. Vault logs in as a user who can create users and nothing else.
type Database struct {
	Mount    string // in Vault
	Name     string // of the database
	Postgres *postgrestest.Server

	vault *Server
	login string // Vault's own
}

// NewDatabase mounts a database engine for a new database of pg.
func (s *Server) NewDatabase(t testing.TB, pg *postgrestest.Server, mount string) *Database {
	t.Helper()
	d := &Database{Mount: mount, Name: pg.NewDatabase(t), Postgres: pg, vault: s}
	d.login = "vault_" + d.Name
	password := rand.Text()
	pg.Exec(t, d.Name, fmt.Sprintf(`CREATE ROLE %q LOGIN CREATEROLE PASSWORD '%s'`, d.login, password))
	s.Mount(t, mount, "database")
	s.Write(t, mount+"/config/"+d.Name, map[string]any{
		"plugin_name":             "postgresql-database-plugin",
		"allowed_roles":           "*",
		"connection_url":          strings.Replace(pg.DSN("USER", "PASSWORD", d.Name), "USER:PASSWORD", "{{username}}:{{password}}", 1),
		"username":                d.login,
		"password":                password,
		"password_authentication": "scram-sha-256",
	})
	return d
}

// Role makes a role of Vault's, whose logins are members of a group of
// PostgreSQL's with the same name. That group is made, too; grant it what the
// logins shall be able to do. Leases last for ttl, and no longer.
// A name can be used once in a PostgreSQL server.
func (d *Database) Role(t testing.TB, name string, ttl time.Duration) {
	t.Helper()
	d.Postgres.Exec(t, d.Name, fmt.Sprintf(`CREATE ROLE %q; GRANT %[1]q TO %q WITH ADMIN OPTION`, name, d.login))
	d.vault.Write(t, d.Mount+"/roles/"+name, map[string]any{
		"db_name":               d.Name,
		"creation_statements":   fmt.Sprintf(creation, name),
		"revocation_statements": Revocation,
		"default_ttl":           ttl.String(),
		"max_ttl":               ttl.String(),
	})
}
