package vaulttest

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"hallpass/testsuite/postgrestest"
)

const patience = time.Minute

// eventually polls until what is wanted is the case.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(patience)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline:
			t.Fatalf("still not, after %s: %s", patience, what)
		case <-tick.C:
		}
	}
}

func pgCode(err error) string {
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		return pg.Code
	}
	return ""
}

func status(err error) int {
	var response *api.ResponseError
	if errors.As(err, &response) {
		return response.StatusCode
	}
	return 0
}

// house is a Vault with a database that has one table and two kinds of login.
type house struct {
	vault *Server
	db    *Database
}

func newHouse(t *testing.T) house {
	t.Helper()
	h := house{vault: Start(t, Config{})}
	h.db = h.vault.NewDatabase(t, postgrestest.Start(t), "database")
	h.db.Role(t, "orders-ro", time.Hour)
	h.db.Role(t, "orders-rw", time.Hour)
	h.db.Postgres.Exec(t, h.db.Name, `
		CREATE TABLE orders (id int); INSERT INTO orders VALUES (1);
		GRANT SELECT ON orders TO "orders-ro";
		GRANT CREATE ON SCHEMA public TO "orders-rw"`)
	for _, role := range []string{"orders-ro", "orders-rw"} {
		h.vault.Policy(t, role, fmt.Sprintf(`path "database/creds/%s" { capabilities = ["read"] }`, role))
	}
	return h
}

// login is one that Vault made in PostgreSQL, and the token it belongs to.
type login struct{ user, password, accessor string }

// login reads credentials with a token of its own.
func (h house) login(t *testing.T, role string) login {
	t.Helper()
	token, err := h.vault.Client(t).Auth().Token().Create(&api.TokenCreateRequest{Policies: []string{role}, NoParent: true, TTL: "1h"})
	if err != nil {
		t.Fatal(err)
	}
	secret, err := h.vault.ClientWithToken(t, token.Auth.ClientToken).Logical().Read("database/creds/" + role)
	if err != nil {
		t.Fatal(err)
	}
	if secret == nil {
		t.Fatal("no credentials")
	}
	l := login{accessor: token.Auth.Accessor}
	l.user, _ = secret.Data["username"].(string)
	l.password, _ = secret.Data["password"].(string)
	return l
}

func (h house) revoke(t *testing.T, l login) {
	t.Helper()
	if err := h.vault.Client(t).Auth().Token().RevokeAccessor(l.accessor); err != nil {
		t.Fatal(err)
	}
}

// try logs in.
func (h house) try(l login) error { return h.db.Postgres.Login(l.user, l.password, h.db.Name) }

// gone waits until a login is refused, and no lease and no user is left.
func (h house) gone(t *testing.T, l login) {
	t.Helper()
	eventually(t, "the login is refused", func() bool { return pgCode(h.try(l)) == "28P01" })
	eventually(t, "the lease is gone", func() bool { return len(h.vault.Leases(t, "database/creds")) == 0 })
	h.db.Postgres.Exec(t, h.db.Name, fmt.Sprintf(`DO $$ BEGIN ASSERT NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '%s'); END $$`, l.user))
}

// session logs in and runs statements, each on its own, in one connection.
func (h house) session(t *testing.T, l login, statements ...string) *pgx.Conn {
	t.Helper()
	ctx := context.Background()
	conn, err := pgx.Connect(ctx, h.db.Postgres.DSN(l.user, l.password, h.db.Name))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(ctx) })
	for _, statement := range statements {
		if _, err := conn.Exec(ctx, statement); err != nil {
			t.Fatal(err)
		}
	}
	return conn
}

// A login that Vault made works until its token's accessor is revoked. Then
// it is refused, its open session ends in whatever it is doing, and what it
// made belongs to somebody else.
func TestDatabase(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	for _, tc := range []struct {
		name, role string
		statements []string
	}{
		{"idle", "orders-ro", nil},
		{"in a transaction", "orders-ro", []string{"BEGIN", "SELECT * FROM orders"}},
		{"with a lock on a table of its own", "orders-rw", []string{"CREATE TABLE mine (id int)", "BEGIN", "LOCK TABLE mine"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			l := h.login(t, tc.role)
			conn := h.session(t, l, tc.statements...)
			h.revoke(t, l)
			h.gone(t, l)
			if _, err := conn.Exec(context.Background(), "SELECT 1"); pgCode(err) != "57P01" {
				t.Errorf("an open session: got %v, want code 57P01", err)
			}
		})
	}
	h.db.Postgres.Exec(t, h.db.Name, fmt.Sprintf(`DO $$ BEGIN ASSERT (SELECT tableowner FROM pg_tables WHERE tablename = 'mine') = '%s'; END $$`, h.db.login))
	if log := h.vault.AuditLog(t); !strings.Contains(log, `"path":"database/creds/orders-ro"`) {
		t.Error("the audit log doesn't have the reading of the credentials")
	}
}

// A revocation while the database is down succeeds for the token, and Vault
// goes on trying for the login.
func TestDatabaseDown(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	l := h.login(t, "orders-ro")
	h.db.Postgres.Kill()
	h.revoke(t, l)
	h.db.Postgres.Restart(t)
	h.gone(t, l)
}

// Killed and restarted, Vault is sealed; unsealed, it has all that it had.
func TestKill(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	l := h.login(t, "orders-ro")
	h.vault.Kill()
	if err := h.try(l); err != nil {
		t.Errorf("the database asked Vault: %v", err)
	}
	h.vault.RestartSealed(t)
	lookup := func() error {
		_, err := h.vault.Client(t).Auth().Token().LookupAccessor(l.accessor)
		return err
	}
	if err := lookup(); status(err) != http.StatusServiceUnavailable {
		t.Errorf("sealed: got %v, want status 503", err)
	}
	h.vault.Unseal(t)
	if err := lookup(); err != nil {
		t.Errorf("unsealed: %v", err)
	}
	h.vault.Seal(t)
	if err := lookup(); status(err) != http.StatusServiceUnavailable {
		t.Errorf("sealed again: got %v, want status 503", err)
	}
	h.vault.Restart(t)
	h.revoke(t, l)
	h.gone(t, l)
}

// logIn writes to a path as nobody in particular, and says whether that gave a
// token with the policy issuer.
func logIn(client *api.Client, path string, data map[string]any) error {
	secret, err := client.Logical().Write(path, data)
	if err != nil {
		return err
	}
	if secret == nil || secret.Auth == nil || !slices.Contains(secret.Auth.Policies, "issuer") {
		return errors.New("no token, or one without the policy")
	}
	return nil
}

// All that can be mounted is there, in memory as well, and who has the right
// proof, and nobody else, logs in.
func TestBackends(t *testing.T) {
	t.Parallel()
	s := Start(t, Config{Memory: true, TLS: true})
	for _, kind := range []string{"database", "kv", "pki", "ssh", "transit"} {
		s.Mount(t, kind, kind)
	}
	for _, kind := range []string{"approle", "cert", "userpass"} {
		s.EnableAuth(t, kind, kind)
	}
	s.Write(t, "auth/userpass/users/alice", map[string]any{"password": "right", "policies": "issuer"})
	s.Write(t, "auth/approle/role/issuer", map[string]any{"token_policies": "issuer"})
	role, err := s.Client(t).Logical().Read("auth/approle/role/issuer/role-id")
	if err != nil {
		t.Fatal(err)
	}
	secret := s.Write(t, "auth/approle/role/issuer/secret-id", nil)
	cert, err := os.ReadFile(s.CACert)
	if err != nil {
		t.Fatal(err)
	}
	s.Write(t, "auth/cert/certs/issuer", map[string]any{"certificate": string(cert), "token_policies": "issuer"})
	jwt := s.NewJWT(t, "jwt", "issuer", "issuer")
	kubernetes := s.NewKubernetes(t, "kubernetes", "issuer", "issuer")

	withCert := api.DefaultConfig()
	withCert.Address = s.Address
	if err := withCert.ConfigureTLS(&api.TLSConfig{CACert: s.CACert, ClientCert: s.CACert, ClientKey: s.keyFile()}); err != nil {
		t.Fatal(err)
	}
	certClient, err := api.NewClient(withCert)
	if err != nil {
		t.Fatal(err)
	}
	nobody := s.ClientWithToken(t, "")
	for _, tc := range []struct {
		name   string
		client *api.Client
		path   string
		data   map[string]any
		want   int // status; 0 is a token
	}{
		{"password", nobody, "auth/userpass/login/alice", map[string]any{"password": "right"}, 0},
		{"wrong password", nobody, "auth/userpass/login/alice", map[string]any{"password": "wrong"}, http.StatusBadRequest},
		{"AppRole", nobody, "auth/approle/login", map[string]any{"role_id": role.Data["role_id"], "secret_id": secret.Data["secret_id"]}, 0},
		{"AppRole without its secret", nobody, "auth/approle/login", map[string]any{"role_id": role.Data["role_id"]}, http.StatusBadRequest},
		{"certificate", certClient, "auth/cert/login", nil, 0},
		{"no certificate", nobody, "auth/cert/login", nil, http.StatusBadRequest},
		{"JWT", nobody, "auth/jwt/login", map[string]any{"role": "issuer", "jwt": jwt.Token(t, time.Now().Add(time.Hour))}, 0},
		{"expired JWT", nobody, "auth/jwt/login", map[string]any{"role": "issuer", "jwt": jwt.Token(t, time.Now().Add(-time.Hour))}, http.StatusBadRequest},
		{"somebody else's JWT", nobody, "auth/jwt/login", map[string]any{"role": "issuer", "jwt": kubernetes.JWT}, http.StatusBadRequest},
		{"service account", nobody, "auth/kubernetes/login", map[string]any{"role": "issuer", "jwt": kubernetes.JWT}, 0},
		{"not a service account", nobody, "auth/kubernetes/login", map[string]any{"role": "issuer", "jwt": jwt.Token(t, time.Now().Add(time.Hour))}, http.StatusForbidden},
	} {
		if err := logIn(tc.client, tc.path, tc.data); status(err) != tc.want || tc.want == 0 && err != nil {
			t.Errorf("%s: got %v, want status %d", tc.name, err, tc.want)
		}
	}
	kubernetes.Delete()
	if err := logIn(nobody, "auth/kubernetes/login", map[string]any{"role": "issuer", "jwt": kubernetes.JWT}); status(err) != http.StatusForbidden {
		t.Errorf("deleted service account: got %v, want status 403", err)
	}
}
