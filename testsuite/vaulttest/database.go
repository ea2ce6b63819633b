package vaulttest

import (
	"crypto/rand"
	"fmt"
	"strings"
	"testing"
	"time"

	"hallpass/testsuite/postgrestest"
	"hallpass/vault"
)

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
		"creation_statements":   vault.PostgresCreation(name),
		"revocation_statements": vault.PostgresRevocation,
		"default_ttl":           ttl.String(),
		"max_ttl":               ttl.String(),
	})
}
