package topology

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
	"github.com/jackc/pgx/v5"

	"hallpass/catalog"
	"hallpass/cli"
	"hallpass/testsuite/chaos"
	"hallpass/testsuite/vaulttest"
	"hallpass/vault"
)

const orders = "vault/orders-db"

// furnishVault starts Vault and tells it what deploy/vault.sh does: of the
// database behind orders, with the login that deploy/postgres.sh made for it,
// and what hallpass vault setup says. It reaches the database at an address.
func (w *world) furnishVault(database string) {
	w.t.Helper()
	s := vaulttest.Start(w.t, vaulttest.Config{TLS: true})
	w.vault = s
	password, err := os.ReadFile(filepath.Join(w.dir, "postgres/vault"))
	if err != nil {
		w.t.Fatal(err)
	}
	s.Mount(w.t, "database", "database")
	s.Write(w.t, "database/config/orders", map[string]any{
		"plugin_name": "postgresql-database-plugin", "allowed_roles": "orders-ro", "username": "vault", "password": strings.TrimSpace(string(password)),
		"connection_url": fmt.Sprintf("postgresql://{{username}}:{{password}}@%s/orders?sslmode=verify-full&sslrootcert=%s/tls/ca.pem", database, w.dir),
	})
	s.Write(w.t, "database/roles/orders-ro", map[string]any{
		"db_name": "orders", "default_ttl": "8h", "max_ttl": "24h",
		"creation_statements": vault.PostgresCreation("orders-ro"), "revocation_statements": vault.PostgresRevocation,
	})
	text, err := os.ReadFile(filepath.Join(w.dir, "public/catalog.yaml"))
	if err != nil {
		w.t.Fatal(err)
	}
	c, err := catalog.Parse("catalog.yaml", text)
	if err != nil {
		w.t.Fatal(err)
	}
	plan := vault.NewPlan(c.Resources(), vault.Config{}, vault.DefaultTokenRole)
	for _, p := range append(plan.Grants, plan.Issuer) {
		s.Policy(w.t, p.Name, p.Text)
	}
	role := map[string]any{}
	for _, p := range plan.Role {
		role[p.Name] = p.Value
	}
	s.Write(w.t, "auth/token/roles/"+plan.TokenRole, role)
	s.EnableAuth(w.t, "approle", "approle")
	s.Write(w.t, "auth/approle/role/hallpass", map[string]any{"token_policies": []string{plan.Issuer.Name}})
	s.Write(w.t, "auth/approle/role/hallpass/role-id", map[string]any{"role_id": "hallpass-issuer"})
	secret := s.Write(w.t, "auth/approle/role/hallpass/secret-id", nil).Data["secret_id"].(string)
	if err := os.WriteFile(filepath.Join(w.dir, "vault/secret_id"), []byte(secret), 0o600); err != nil {
		w.t.Fatal(err)
	}
	for name, value := range map[string]string{
		"HALLPASS_ISSUERS_VAULT_ADDRESS": s.Address, "HALLPASS_ISSUERS_VAULT_CA": s.CACert,
		"HALLPASS_VAULT_ADDRESS": s.Address,
	} {
		w.env[name] = value
	}
	w.t.Setenv("VAULT_CACERT", s.CACert) // it is Vault's own client that reads it, for people
}

// open is one life of a grant of Vault's: asked, approved, and the login read
// and used, until it is given back. What died while it was being read can't be read again: then it is
// given back and asked for anew.
func (w *world) open(ctx context.Context) error {
	return wait("a login of Vault's that works", func() error {
		id, err := w.ask(ctx, orders, visit)
		w.visits.Store(id, visit)
		began := time.Now()
		if err == nil {
			err = w.approve(ctx, id)
		}
		if err == nil {
			err = w.granted(ctx, id)
		}
		if err != nil {
			return err
		}
		code, out, errs := w.as(ctx, "alice", "get", id, "--output", "json")
		if code == cli.ExitTampered {
			w.t.Errorf("request %s: somebody is said to have opened it: %s", id, errs)
		}
		var got struct {
			Credentials map[string]struct{ Username, Password string } // by action
		}
		if code == cli.ExitOK {
			err = json.Unmarshal([]byte(out), &got)
		} else {
			err = fmt.Errorf("get: exit code %d: %s", code, errs)
		}
		login := got.Credentials["read"]
		if err == nil {
			w.logins.Store(login.Username, true)
			err = w.pg.Login(login.Username, login.Password, "orders")
		}
		back := wait("it to be given back", func() error {
			if code, _, errs := w.as(ctx, "alice", "release", id); code != cli.ExitOK && !w.state(ctx, id).Final() {
				return fmt.Errorf("release: exit code %d: %s", code, errs)
			}
			return nil
		})
		if err := errors.Join(err, back); err != nil {
			return err
		}
		err = wait("its login to be gone", func() error {
			err := w.pg.Login(login.Username, login.Password, "orders")
			if err == nil || !strings.Contains(err.Error(), "password authentication failed") { // not: PostgreSQL is away
				return fmt.Errorf("it says %w", err)
			}
			return nil
		})
		if err == nil && time.Since(began) >= visit {
			w.t.Errorf("the login of %s lived until it ended by itself", id)
		}
		return err
	})
}

// nothingLeft waits until nothing that Vault gave is left, in Vault or in the
// database. What Vault was killed over when it made it, and told nobody, is a token
// or a lease that the sweep takes, the lease when it is five minutes old, or a login
// without a lease.
func (w *world) nothingLeft(t *testing.T) {
	t.Helper()
	var err error
	var in chaos.Left
	for range 3 {
		err = wait("the last leases and tokens to end", func() (err error) {
			if in, err = w.left(); err == nil && (in.Leases > 0 || len(in.Tokens) > 0) {
				err = fmt.Errorf("there are %d leases, and tokens of requests %q", in.Leases, in.Tokens)
			}
			return err
		})
		if err == nil {
			break
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range in.Logins {
		if _, had := w.logins.Load(name); had {
			t.Errorf("the login %s is in the database, and somebody had it", name)
		}
	}
	if len(in.Logins) > 0 {
		t.Logf("%d logins are in the database, of which nobody was told but whom it says above", len(in.Logins))
	}
}

// left is what Vault gave and hasn't taken back.
func (w *world) left() (in chaos.Left, err error) {
	c, err := api.NewClient(w.vault.Client(w.t).CloneConfig())
	if err != nil {
		return in, err
	}
	c.SetToken(w.vault.RootToken)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	list, err := c.Logical().ListWithContext(ctx, "sys/leases/lookup/database/creds/orders-ro")
	if err != nil {
		return in, err
	}
	in.Leases = len(keys(list))
	tokens, err := c.Logical().ListWithContext(ctx, "auth/token/accessors")
	if err != nil {
		return in, err
	}
	for _, accessor := range keys(tokens) {
		token, err := c.Auth().Token().LookupAccessorWithContext(ctx, accessor)
		if refused := (*api.ResponseError)(nil); errors.As(err, &refused) && refused.StatusCode < 500 {
			continue // it has died, or its accessor leads nowhere since Vault did
		}
		if err != nil {
			return in, err
		}
		if meta, _ := token.Data["meta"].(map[string]any); meta["hallpass_request"] != nil {
			in.Tokens = append(in.Tokens, fmt.Sprint(meta["hallpass_request"]))
		}
	}
	conn, err := pgx.Connect(ctx, w.pg.AdminDSN("orders"))
	if err != nil {
		return in, err
	}
	defer func() { _ = conn.Close(ctx) }()
	rows, err := conn.Query(ctx, `SELECT rolname FROM pg_roles WHERE pg_has_role(oid, 'orders-ro', 'MEMBER') AND rolcanlogin AND rolname <> 'vault' AND NOT rolsuper`)
	if err == nil {
		in.Logins, err = pgx.CollectRows(rows, pgx.RowTo[string])
	}
	return in, err
}

// keys are those of a list of Vault's, which is nil if there are none.
func keys(list *api.Secret) (all []string) {
	if list == nil {
		return nil
	}
	names, _ := list.Data["keys"].([]any)
	for _, name := range names {
		all = append(all, fmt.Sprint(name))
	}
	return all
}
