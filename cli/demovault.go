package cli

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"hallpass/catalog"
	"hallpass/internal/postgresql"
	"hallpass/internal/wording"
	"hallpass/vault"
)

// demoDatabase is what the part of the story with a database is about: a
// PostgreSQL and a Vault that makes logins in it, each a process of its own.
// Nil means that the story has no such part.
type demoDatabase struct {
	server   string // the program that is a Vault
	vault    string // its address
	bin      string // the folder with PostgreSQL's programs
	port     int    // PostgreSQL's
	password string // of PostgreSQL's users admin and vault
}

// demoRoleID is the issuer's name in Vault, which would choose one by itself.
const demoRoleID = "hallpass-demo"

// demoCatalog and demoPolicy are added to the demo's files.
const demoCatalog = `  vault/orders-db:
    description: the orders database
    labels: {env: prod}
    path: database/creds
    actions: {dump: orders-dump}
`

const demoPolicy = `  - name: dumps
    when: resource.kind == "vault" && "dump" in request.actions && "dev" in requester.groups
    max_duration: 1h
    require: {reason: true}
    approvals:
      - {count: 1, from: [sre]}
      - {count: 1, from: [data]}
    approval_window: 10m
    revoke: [sre]
`

// demoDump is alice's script.
const demoDump = `set -e
cd %s
umask 077
pg_dump --table orders --file orders.sql

# What nobody should do: keep the password, and leave a session open.
echo "$PGUSER" >kept.user
echo "*:*:*:*:$PGPASSWORD" >kept.password
psql -c '\! touch open' -c 'SELECT pg_sleep(600)' >session.log 2>&1 &
until test -e open; do sleep 0.1; done
`

// setUpDatabase starts PostgreSQL and Vault and has Vault make logins in it.
func (d *demo) setUpDatabase() error {
	db := d.db
	var err error
	if db.bin, err = postgresql.Programs(); err != nil {
		return failf(ExitError, "the demo dumps a database: %w", err).withHint("apt-get install postgresql")
	}
	for _, name := range []string{"psql", "pg_dump"} {
		if err := os.Symlink(filepath.Join(db.bin, name), d.path("bin", name)); err != nil {
			return err
		}
	}
	if err := os.WriteFile(d.path("dump.sh"), fmt.Appendf(nil, demoDump, d.dir), 0o600); err != nil {
		return err
	}
	if err := d.startPostgres(); err != nil {
		return err
	}
	token, err := d.startVault()
	if err != nil {
		return err
	}
	return d.fillVault(token)
}

// startPostgres starts a server of our own with a table in it. It asks everybody
// for a password.
func (d *demo) startPostgres() error {
	db := d.db
	// Not in the demo's folder: where root tells the story, the server is
	// somebody else, who can't look into that.
	dir, err := os.MkdirTemp("", "hallpass-demo-postgresql-")
	if err != nil {
		return err
	}
	d.clean = append(d.clean, func() { _ = os.RemoveAll(dir) })
	db.password = rand.Text()
	password, data := filepath.Join(dir, "password"), filepath.Join(dir, "data")
	for name, content := range map[string]string{
		password:                 db.password + "\n",
		d.path("admin.password"): "*:*:*:*:" + db.password + "\n",
	} {
		if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
			return err
		}
	}
	as, err := postgresql.RunAs()
	if err != nil {
		return err
	}
	if as != nil {
		for _, name := range []string{dir, password} {
			if err := os.Chown(name, int(as.Uid), int(as.Gid)); err != nil {
				return err
			}
		}
	}
	command := func(name string, args ...string) *exec.Cmd {
		cmd := exec.Command(filepath.Join(db.bin, name), args...)
		cmd.Dir, cmd.Env = dir, []string{"LC_ALL=C", "TZ=UTC", "PATH=" + d.a.env("PATH")}
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: as}
		return cmd
	}
	initdb := command("initdb", "-D", data, "-U", "admin", "--pwfile", password, "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--no-sync")
	if out, err := initdb.CombinedOutput(); err != nil {
		return failf(ExitError, "initdb: %w %s", err, wording.Line(string(out))).withHint("everybody has to be able to enter TMPDIR where root tells the story")
	}
	if db.port, err = freePort(); err != nil {
		return err
	}
	server := command("postgres", "-D", data, "-c", "listen_addresses=127.0.0.1", "-c", "port="+strconv.Itoa(db.port), "-c", "unix_socket_directories=", "-c", "fsync=off")
	if err := d.start(server, "postgres", os.Interrupt, func(said string) (bool, error) {
		return strings.Contains(said, "database system is ready to accept connections"), nil
	}); err != nil {
		return err
	}
	for _, sql := range []struct{ database, statements string }{
		{"postgres", "CREATE DATABASE orders"},
		{"orders", `CREATE TABLE orders (id int PRIMARY KEY, what text);
			INSERT INTO orders VALUES (1, 'forty-two bicycles'), (2, 'a bell for each');
			CREATE ROLE "orders-dump";
			GRANT SELECT ON orders TO "orders-dump";
			CREATE ROLE vault LOGIN CREATEROLE PASSWORD '` + db.password + `';
			GRANT "orders-dump" TO vault WITH ADMIN OPTION`},
	} {
		code, out, err := d.exec("admin", []string{"psql", "-q", "-v", "ON_ERROR_STOP=1", "-d", sql.database, "-c", sql.statements})
		if err != nil {
			return err
		}
		if code != 0 {
			return fmt.Errorf("psql ended with %d: %s", code, out)
		}
	}
	return nil
}

// startVault starts a Vault in memory and returns its root token.
func (d *demo) startVault() (token string, err error) {
	cmd := exec.Command(d.db.server, "-log-level", "error")
	cmd.Env = []string{} // nothing of VAULT_* and the like
	err = d.start(cmd, "Vault", syscall.SIGTERM, func(said string) (bool, error) {
		for line := range strings.Lines(said) {
			var ready struct {
				Address   string `json:"address"`
				RootToken string `json:"root_token"`
			}
			if strings.HasSuffix(line, "\n") && json.Unmarshal([]byte(line), &ready) == nil && ready.Address != "" {
				d.db.vault, token = ready.Address, ready.RootToken
				return true, nil
			}
		}
		return false, nil
	})
	return token, err
}

// fillVault does as an operator of Vault's would: the database engine, and what
// hallpass vault setup --print prints.
func (d *demo) fillVault(token string) error {
	c, err := catalog.Parse("catalog.yaml", []byte("resources:\n"+demoCatalog))
	if err != nil {
		return err
	}
	operator, err := vault.New(vault.Config{Address: d.db.vault, Token: token})
	if err != nil {
		return err
	}
	plan := vault.NewPlan(c.Resources(), vault.Config{}, vault.DefaultTokenRole)
	secret := rand.Text()
	if err := os.WriteFile(d.path("dev", "secret_id"), []byte(secret+"\n"), 0o600); err != nil {
		return err
	}
	at := url.URL{Scheme: "postgres", Host: net.JoinHostPort("127.0.0.1", strconv.Itoa(d.db.port)), Path: "orders", RawQuery: "sslmode=disable"}
	type body = map[string]any
	type write struct {
		path string
		body body
	}
	writes := []write{
		{"sys/mounts/database", body{"type": "database"}},
		{"database/config/orders", body{
			"plugin_name": "postgresql-database-plugin", "allowed_roles": "orders-dump",
			"connection_url": strings.Replace(at.String(), "//", "//{{username}}:{{password}}@", 1),
			"username":       "vault", "password": d.db.password, "password_authentication": "scram-sha-256",
		}},
		{"database/roles/orders-dump", body{
			"db_name": "orders", "default_ttl": "1h", "max_ttl": "1h",
			"creation_statements": vault.PostgresCreation("orders-dump"), "revocation_statements": vault.PostgresRevocation,
		}},
		{"sys/auth/approle", body{"type": "approle"}},
		{"auth/approle/role/hallpass", body{"token_policies": plan.Issuer.Name, "token_no_default_policy": true, "role_id": demoRoleID}},
		{"auth/approle/role/hallpass/custom-secret-id", body{"secret_id": secret}},
	}
	for _, r := range plan.Roles {
		writes = append(writes, write{r.Path(), r.Body()})
	}
	for _, p := range plan.Policies() {
		writes = append(writes, write{"sys/policies/acl/" + p.Name, body{"policy": p.Text}})
	}
	for _, w := range writes {
		if _, err := operator.Write(d.a.ctx, w.path, w.body); err != nil {
			return err
		}
	}
	return nil
}

// dumped: two people approve, a command runs with a login of its own, and when
// it has ended, nothing that it left behind is worth anything.
func (d *demo) dumped() error {
	if d.db == nil {
		return nil
	}
	d.heading("Alice dumps a database",
		"Vault can make logins to it. The policy wants one approval from sre and one from",
		"data. Her script dumps a table, and then does what scripts shouldn't.")
	if err := d.run("alice", ExitOK, "cat", d.path("dump.sh")); err != nil {
		return err
	}
	run := []string{"hallpass", "run", "vault/orders-db", "--action", "dump", "--for", "10m", "--reason", "move to the new cluster", "--", "sh", d.path("dump.sh")}
	waiting, id, err := d.asks("alice", run)
	if err != nil {
		return err
	}

	d.heading("Bob and Carol approve", "One of them alone opens nothing.")
	for _, who := range []string{"bob", "carol"} {
		if err := d.run(who, ExitOK, "hallpass", "approve", id[:13]); err != nil {
			return err
		}
	}

	d.heading("The dump runs, and its login ends with it",
		"The issuer had Vault mint a token for this request and put on record what revokes",
		"it. Alice's client alone could open it, and read the password: it went through no",
		"other hands. Her command has ended, so the grant was given back.")
	if err := waiting.done(ExitOK); err != nil {
		return err
	}
	d.quote(waiting.take())
	if err := d.run("alice", ExitOK, "grep", "-A", "3", "^COPY", d.path("orders.sql")); err != nil {
		return err
	}
	if err := d.run("alice", ExitOK, "hallpass", "list", "--resource", "vault/orders-db"); err != nil {
		return err
	}

	d.heading("The password that was kept is worth nothing",
		"Vault has taken the login back, with the session that was open.")
	kept, err := os.ReadFile(d.path("kept.user"))
	if err != nil {
		return err
	}
	login := strings.TrimSpace(string(kept))
	if err := d.fails("alice", []string{"PGPASSFILE=" + d.path("kept.password"), "psql", "-w", "-U", login, "-c", "SELECT what FROM orders"}, 10*time.Second); err != nil {
		return err
	}
	if err := d.run("alice", ExitOK, "cat", d.path("session.log")); err != nil {
		return err
	}
	return d.run("admin", ExitOK, "psql", "-c", "SELECT count(*) AS sessions FROM pg_stat_activity WHERE usename = '"+login+"'")
}

// fails waits until a command that has worked so far fails, and shows that.
func (d *demo) fails(who string, command []string, within time.Duration) error {
	deadline := d.a.now().Add(within)
	for {
		code, out, err := d.exec(who, command)
		if err != nil {
			return err
		}
		if code != 0 {
			d.prompt(who, command)
			d.quote(out)
			d.exit(code)
			return nil
		}
		if d.a.now().After(deadline) {
			return fmt.Errorf("%s still works", shellLine(command))
		}
		if err := d.a.sleep(d.a.ctx, 200*time.Millisecond); err != nil {
			return err
		}
	}
}
