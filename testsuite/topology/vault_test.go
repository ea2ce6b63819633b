package topology

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
	"github.com/jackc/pgx/v5"

	"hallpass/cli"
	"hallpass/testsuite/chaos"
	"hallpass/testsuite/process"
	"hallpass/testsuite/vaulttest"
	"hallpass/vault"
)

const orders = "vault/orders-db"

// TestMain makes this program Vault's command line, for deploy/vault.sh.
func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == "vault" {
		os.Exit(vaulttest.Command(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
	}
	os.Exit(m.Run())
}

// furnishVault starts Vault with the certificate that deploy/setup.sh made for it,
// sealed, and has deploy/vault.sh unseal it and tell it what hallpass needs. It
// reaches the database at an address.
func (w *world) furnishVault(database string) {
	w.t.Helper()
	server := filepath.Join(w.dir, "vault-server/server")
	s := vaulttest.Start(w.t, vaulttest.Config{TLS: true, Cert: server + ".pem", Key: server + ".key", CA: filepath.Join(w.dir, "vault-setup/ca.pem")})
	w.vault = s
	// This one initialises itself, and its keys are where vault.sh has put them.
	said, err := json.MarshalIndent(map[string]any{"unseal_keys_b64": s.UnsealKeys, "unseal_shares": 1, "unseal_threshold": 1, "root_token": s.RootToken}, "", "  ")
	if err == nil {
		err = os.WriteFile(filepath.Join(w.dir, "vault-setup/init.json"), append(said, '\n'), 0o600)
	}
	bin, self := w.t.TempDir(), ""
	if err == nil {
		self, err = os.Executable()
	}
	if err == nil {
		err = os.Symlink(self, filepath.Join(bin, "vault"))
	}
	if err != nil {
		w.t.Fatal(err)
	}
	w.vaultScript = []string{
		"PATH=" + bin + ":" + os.Getenv("PATH"), "HALLPASS_SETUP=" + w.dir, "HALLPASS_SETUP_OWNERS=no",
		"VAULT_ADDR=" + s.Address, "VAULT_CACERT=" + s.CACert, "DATABASE=" + database, "DATABASE_CA=" + w.dir + "/tls/ca.pem",
	}
	s.RestartSealed(w.t)
	for range 2 { // safe to repeat
		w.script("vault.sh", w.vaultScript...)
	}
	for _, name := range []string{"HALLPASS_ISSUERS_VAULT_ADDRESS", "HALLPASS_VAULT_ADDRESS"} {
		w.env[name] = s.Address
	}
	w.t.Setenv("VAULT_CACERT", s.CACert) // it is Vault's own client that reads it, for people
}

// deploy/vault.sh gives Vault's logins to the database the statements that are
// tested, and unseals a Vault that was started anew. The issuer's login, which
// it leaves where deploy/hallpass.yaml says, works.
func TestVaultScript(t *testing.T) {
	w := furnish(t)
	w.furnishVault(w.database())
	role, err := w.vault.Client(t).Logical().Read("database/roles/orders-ro")
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"creation_statements": vault.PostgresCreation("orders-ro"), "revocation_statements": vault.PostgresRevocation} {
		list, _ := role.Data[name].([]any)
		if got := strings.Join(strings.Fields(fmt.Sprint(list...)), " "); got != strings.Join(strings.Fields(want), " ") {
			t.Errorf("%s are %s", name, got)
		}
	}
	if out := w.operator("vault", "check"); !strings.Contains(out, "gives a lease of 8h") {
		t.Errorf("vault check says %s", out)
	}

	cmd := exec.Command("sh", filepath.Join(deploy, "vault.sh"), "unseal")
	cmd.Env = w.vaultScript
	stays, err := process.Start(cmd, func(line string) bool { return strings.HasPrefix(line, "unseals Vault") })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stays.Kill)
	for range 2 {
		w.vault.RestartSealed(t)
		w.poll("Vault to be unsealed", func() error {
			is, err := w.vault.Client(t).Sys().SealStatus()
			if err == nil && is.Sealed {
				err = errors.New("it is sealed")
			}
			return err
		})
	}
}

// open is one life of a grant of Vault's: asked, approved, and the login read
// and used, until it is given back. What died while it was being read can't be read again: then it is
// given back and asked for anew.
func (w *world) open(ctx context.Context) error {
	return wait("a login of Vault's that works", func() error {
		id, err := w.ask(ctx, alice, orders, visit)
		w.visits.Store(id, visit)
		began := time.Now()
		if err == nil {
			err = w.approve(ctx, alice, id)
		}
		if err == nil {
			err = w.granted(ctx, alice, id)
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
			if code, _, errs := w.as(ctx, "alice", "release", id); code != cli.ExitOK && !w.state(ctx, alice, id).Final() {
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
