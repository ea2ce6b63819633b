package grants

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"golang.org/x/crypto/ssh"

	"hallpass/access"
	"hallpass/audit"
	"hallpass/evidence"
	"hallpass/grant"
	"hallpass/sealed"
	"hallpass/statement"
	"hallpass/testsuite/postgrestest"
	"hallpass/testsuite/vaulttest"
	"hallpass/vault"
)

const patience = time.Minute

const policyYAML = `
rules:
  - {name: all, when: 'true', max_duration: 24h, approvals: none}
locks: {groups: [dev]}
`

const catalogYAML = `
resources:
  vault/orders:
    path: database/creds
    actions: {read: orders-ro, dump: orders-dump}
`

// world is an issuer for kind vault, all of it real. Its clock is real, too:
// Vault has no other.
type world struct {
	t      testing.TB
	vault  *vaulttest.Server
	db     *vaulttest.Database
	config vault.Config // the issuer's
	alice  ssh.Signer
	book   *evidence.Rulebook
	log    *audit.Log
	dir    string // of the audit log
	key    string // that signs it

	mu      sync.Mutex
	secrets []string // all that was opened
}

// newWorld has a database.
func newWorld(t testing.TB) *world {
	t.Helper()
	return newWorldOn(t, vaulttest.Config{})
}

// newWorldOn has a Vault of its own kind.
func newWorldOn(t testing.TB, config vaulttest.Config) *world {
	t.Helper()
	return newWorldWith(t, catalogYAML, config)
}

// newWorldWith has a catalog of its own for the same database.
func newWorldWith(t testing.TB, catalog string, config vaulttest.Config) *world {
	t.Helper()
	w := newWorldOf(t, catalog, config)
	w.db = w.vault.NewDatabase(t, postgrestest.Start(t), "database")
	w.db.Role(t, "orders-ro", time.Hour)
	w.db.Role(t, "orders-dump", time.Hour)
	return w
}

// newWorldOf has nothing yet of what the catalog names.
func newWorldOf(t testing.TB, catalog string, config vaulttest.Config) *world {
	t.Helper()
	w := &world{t: t, vault: vaulttest.Start(t, config), dir: t.TempDir()}
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if w.alice, err = ssh.NewSignerFromKey(key); err != nil {
		t.Fatal(err)
	}
	directory := "users:\n  alice: {groups: [dev], keys: ['" + statement.MarshalKey(w.alice.PublicKey()) + "']}\n"
	if w.book, err = evidence.NewRulebook([]byte(policyYAML), []byte(directory), []byte(catalog)); err != nil {
		t.Fatal(err)
	}
	w.setUp()

	if _, err := audit.CreateKey(filepath.Join(w.dir, "key"), filepath.Join(w.dir, "pub"), "audit.example.com"); err != nil {
		t.Fatal(err)
	}
	if w.key, err = audit.ReadKey(filepath.Join(w.dir, "key")); err != nil {
		t.Fatal(err)
	}
	w.log = w.openLog()
	if err := w.log.RecordRulebook(context.Background(), w.book); err != nil {
		t.Fatal(err)
	}
	return w
}

// setUp does what `hallpass vault setup` prints, and gives the issuer a login.
func (w *world) setUp() {
	w.t.Helper()
	plan := vault.NewPlan(w.book.Catalog.Resources(), vault.Config{}, vault.DefaultTokenRole)
	for _, p := range plan.Policies() {
		w.vault.Policy(w.t, p.Name, p.Text)
	}
	for _, r := range plan.Roles {
		w.vault.Write(w.t, r.Path(), r.Body())
	}
	w.vault.EnableAuth(w.t, "approle", "approle")
	w.vault.Write(w.t, "auth/approle/role/hallpass", map[string]any{"token_policies": vault.IssuerPolicy(vault.DefaultTokenRole), "token_no_default_policy": true, "token_ttl": "1h", "token_max_ttl": "24h"})
	id, err := w.vault.Client(w.t).Logical().Read("auth/approle/role/hallpass/role-id")
	if err != nil {
		w.t.Fatal(err)
	}
	secret := w.vault.Write(w.t, "auth/approle/role/hallpass/secret-id", nil).Data["secret_id"].(string)
	file := filepath.Join(w.dir, "secret_id")
	if err := os.WriteFile(file, []byte(secret), 0o600); err != nil {
		w.t.Fatal(err)
	}
	w.secrets = append(w.secrets, secret)
	w.config = vault.Config{Address: w.vault.Address, Auth: vault.AppRole, RoleID: id.Data["role_id"].(string), SecretIDFile: file}
}

// openLog opens the audit log once more, as another process would.
func (w *world) openLog() *audit.Log {
	w.t.Helper()
	l, err := audit.Open(context.Background(), audit.Options{Database: filepath.Join(w.dir, "audit.db"), Key: w.key})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = l.Close() })
	return l
}

// kind is the kind with a login of its own, as in a process that was just
// started.
func (w *world) kind() *grant.Vault {
	w.t.Helper()
	c, err := vault.New(w.config)
	if err != nil {
		w.t.Fatal(err)
	}
	return &grant.Vault{Vault: c, TokenRole: vault.DefaultTokenRole}
}

// issuer is an issuer as in a process that was just started. Nil stands for
// the real kind and ledger.
func (w *world) issuer(kind grant.Kind, ledger grant.Ledger) *grant.Issuer {
	w.t.Helper()
	if kind == nil {
		kind = w.kind()
	}
	if ledger == nil {
		ledger = w.log
	}
	return &grant.Issuer{
		Kinds: map[string]grant.Kind{"vault": kind}, Rulebook: func() *evidence.Rulebook { return w.book }, Ledger: ledger,
		MinGrant: time.Second,
	}
}

// asked is one request with the key that its client made.
type asked struct {
	access.Request
	evidence access.Evidence
	key      string
}

func (w *world) ask(d time.Duration, actions ...string) asked {
	w.t.Helper()
	return w.askFor("vault/orders", d, actions...)
}

func (w *world) askFor(resource string, d time.Duration, actions ...string) asked {
	w.t.Helper()
	key, recipient, err := sealed.NewKey()
	if err != nil {
		w.t.Fatal(err)
	}
	r := access.Request{
		Header:   access.Header{Type: access.TypeRequest, ID: statement.NewID(), Signer: "alice", Time: time.Now().UTC().Truncate(time.Second)},
		Resource: resource, Actions: actions, Duration: access.InSeconds(d), Recipient: recipient,
	}
	st, err := statement.Sign(w.alice, r)
	if err != nil {
		w.t.Fatal(err)
	}
	return asked{Request: r, evidence: access.Evidence{Request: st}, key: key}
}

func (w *world) issue(i *grant.Issuer, a asked) access.Credential {
	w.t.Helper()
	c, err := i.Issue(context.Background(), a.evidence)
	if err != nil {
		w.t.Fatalf("Issue: %v", err)
	}
	return c
}

func (w *world) end(a asked, state access.State) {
	w.t.Helper()
	if err := w.issuer(nil, nil).Revoke(context.Background(), audit.End{Request: a.ID, State: state, Why: "test"}); err != nil {
		w.t.Fatalf("Revoke: %v", err)
	}
}

// login is one in PostgreSQL.
type login struct{ user, password string }

// unwrap opens a credential as the requester does: decrypt, unwrap, compare.
func (w *world) unwrap(a asked, c access.Credential) (sealed.Secret, *api.Client, error) {
	w.t.Helper()
	s, err := sealed.Open(a.key, c.Sealed)
	if err != nil {
		w.t.Fatal(err)
	}
	if s.Request != a.ID {
		w.t.Errorf("sealed for request %s", s.Request)
	}
	w.note(s.WrappingToken)
	wrapped, err := w.vault.ClientWithToken(w.t, "").Logical().Unwrap(s.WrappingToken)
	if err != nil {
		return s, nil, err
	}
	w.note(wrapped.Auth.ClientToken)
	return s, w.vault.ClientWithToken(w.t, wrapped.Auth.ClientToken), nil
}

// open is unwrap, and one login for each action.
func (w *world) open(a asked, c access.Credential) []login {
	w.t.Helper()
	s, client, err := w.unwrap(a, c)
	if err != nil {
		w.t.Fatal(err)
	}
	self, err := client.Auth().Token().LookupSelf()
	if err != nil {
		w.t.Fatal(err)
	}
	meta, _ := self.Data["meta"].(map[string]any)
	if meta[vault.MetaAccessor] != c.Handle.Accessor || self.Data["type"] != "batch" || meta["hallpass_request"] != a.ID || meta["hallpass_requester"] != "alice" || meta["hallpass_resource"] != "vault/orders" {
		w.t.Errorf("the token is another: %v", self.Data)
	}
	var all []login
	for _, r := range s.Reads {
		secret, err := client.Logical().Read(r.Path)
		if err != nil {
			w.t.Fatal(err)
		}
		l := login{secret.Data["username"].(string), secret.Data["password"].(string)}
		w.note(l.password)
		all = append(all, l)
	}
	return all
}

func (w *world) note(secret string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.secrets = append(w.secrets, secret)
}

func (w *world) try(l login) error { return w.db.Postgres.Login(l.user, l.password, w.db.Name) }

func (w *world) works(l login) {
	w.t.Helper()
	if err := w.try(l); err != nil {
		w.t.Errorf("login: %v", err)
	}
}

func pgCode(err error) string {
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		return pg.Code
	}
	return ""
}

// gone waits until a login is refused, and no session of it is left.
func (w *world) gone(l login) {
	w.t.Helper()
	w.eventually("the login is refused", func() bool { return pgCode(w.try(l)) == "28P01" })
	w.db.Postgres.Exec(w.t, w.db.Name, fmt.Sprintf(`DO $$ BEGIN ASSERT NOT EXISTS (SELECT FROM pg_stat_activity WHERE usename = '%s'); END $$`, l.user))
}

// session logs in and stays.
func (w *world) session(l login) *pgx.Conn {
	w.t.Helper()
	conn, err := pgx.Connect(context.Background(), w.db.Postgres.DSN(l.user, l.password, w.db.Name))
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

func (w *world) eventually(what string, ok func() bool) {
	w.t.Helper()
	deadline := time.After(patience)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline:
			w.t.Fatalf("still not, after %s: %s", patience, what)
		case <-tick.C:
		}
	}
}

// accessors are those of all tokens that were minted for grants and live.
func (w *world) accessors() []string {
	w.t.Helper()
	c := w.vault.Client(w.t)
	list, err := c.Logical().List("auth/token/accessors")
	if err != nil {
		w.t.Fatal(err)
	}
	var all []string
	for _, key := range list.Data["keys"].([]any) {
		s, err := c.Auth().Token().LookupAccessor(key.(string))
		if err != nil {
			continue // it has died meanwhile
		}
		if meta, _ := s.Data["meta"].(map[string]any); meta["hallpass_request"] != nil {
			all = append(all, key.(string))
		}
	}
	return all
}

// clean checks at the end: no lease, no token, a good record, and nothing
// secret in any file of the issuer's.
func (w *world) clean() {
	w.t.Helper()
	w.eventually("no lease is left", func() bool { return len(w.vault.Leases(w.t, "database/creds")) == 0 })
	w.eventually("no token is left", func() bool { return len(w.accessors()) == 0 })
	report, err := w.log.Verify(context.Background(), audit.VerifyOptions{})
	if err != nil || !report.OK {
		w.t.Errorf("audit log: %+v, error %v", report.Problems, err)
	}
	files, err := os.ReadDir(w.dir)
	if err != nil {
		w.t.Fatal(err)
	}
	for _, f := range files {
		if f.Name() == "secret_id" || f.IsDir() {
			continue
		}
		data, err := os.ReadFile(filepath.Join(w.dir, f.Name()))
		if err != nil {
			w.t.Fatal(err)
		}
		for _, s := range w.secrets {
			if s == "" || bytes.Contains(data, []byte(s)) {
				w.t.Errorf("%s has a secret in it", f.Name())
			}
		}
		if f.Name() == "audit.db" && (bytes.Contains(data, []byte("hvs.")) || bytes.Contains(data, []byte("hvb."))) {
			w.t.Error("the audit log has a token in it")
		}
	}
	if log := w.vault.AuditLog(w.t); strings.Contains(log, "hvs.") || strings.Contains(log, "hvb.") {
		w.t.Error("Vault's own audit log has a token in it")
	}
}
