package testsuite

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/rogpeppe/go-internal/testscript"

	"hallpass/access"
	"hallpass/catalog"
	"hallpass/sealed"
	"hallpass/testsuite/postgrestest"
	"hallpass/testsuite/vaulttest"
	"hallpass/vault"
)

// vaultHouse is a Vault that hands out logins to a PostgreSQL database, set up
// as hallpass vault setup says.
type vaultHouse struct {
	server   *vaulttest.Server
	db       *vaulttest.Database
	roleID   string
	secretID string
	examples map[string]string // the scripts of docs/pipelines.md, by file
	rules    string            // and its policy
}

// vaultCatalog is what there is in Vault.
const vaultCatalog = `  vault/orders-db:
    path: database/creds
    labels: {env: orders}
    actions: {read: orders-ro, dump: orders-dump, migrate: orders-migrate}
`

// vaultPolicy goes in front of that of docs/pipelines.md.
const vaultPolicy = `  - name: reading
    when: resource.labels.env == "orders" && request.actions == ["read"]
    max_duration: 1h
    approvals: none
    revoke: [security]
  - name: dumping
    when: resource.labels.env == "orders" && "dump" in request.actions && "dev" in requester.groups
    max_duration: 1h
    require: {reason: true}
    approvals: [{count: 2, from: [sre]}]
    approval_window: 1h
`

// TestVaultScripts runs the scripts that need a Vault: those whose names begin
// with "vault". They have $VAULT_ADDR, and PGHOST, PGPORT and PGDATABASE of the
// database behind vault/orders-db. What docs/pipelines.md shows is there as
// github.sh, gitlab-ask.sh and gitlab-migrate.sh, and its policy is in force.
func TestVaultScripts(t *testing.T) {
	h := newHouse(t)
	v := &vaultHouse{server: vaulttest.Start(t, vaulttest.Config{})}
	pg := postgrestest.Start(t)
	v.db = v.server.NewDatabase(t, pg, "database")
	for _, role := range []string{"orders-ro", "orders-dump", "orders-migrate"} {
		v.db.Role(t, role, time.Hour)
	}
	pg.Exec(t, v.db.Name, `CREATE TABLE orders (id int PRIMARY KEY, what text);
		INSERT INTO orders VALUES (1, 'forty-two bicycles');
		GRANT SELECT ON orders TO "orders-ro", "orders-dump";
		GRANT CREATE ON SCHEMA public TO "orders-migrate"`)

	c, err := catalog.Parse("catalog.yaml", []byte("resources:\n"+vaultCatalog))
	if err != nil {
		t.Fatal(err)
	}
	plan := vault.NewPlan(c.Resources(), vault.Config{}, vault.DefaultTokenRole)
	for _, p := range append(plan.Grants, plan.Issuer) {
		v.server.Policy(t, p.Name, p.Text)
	}
	role := map[string]any{}
	for _, p := range plan.Role {
		role[p.Name] = p.Value
	}
	v.server.Write(t, "auth/token/roles/"+plan.TokenRole, role)
	v.server.EnableAuth(t, "approle", "approle")
	v.server.Write(t, "auth/approle/role/hallpass", map[string]any{"token_policies": plan.Issuer.Name})
	id, err := v.server.Client(t).Logical().Read("auth/approle/role/hallpass/role-id")
	if err != nil {
		t.Fatal(err)
	}
	v.roleID = id.Data["role_id"].(string)
	v.secretID = v.server.Write(t, "auth/approle/role/hallpass/secret-id", nil).Data["secret_id"].(string)

	if v.examples, v.rules, err = pipelines("../docs/pipelines.md"); err != nil {
		t.Fatal(err)
	}
	h.vault = v
	h.run(t, func(name string) bool { return strings.HasPrefix(name, "vault") })
}

// pipelines takes the examples out of docs/pipelines.md: the jobs as CI
// systems run them, and the rules of the policy.
func pipelines(file string) (scripts map[string]string, rules string, err error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, "", err
	}
	block := func(first string) (string, error) {
		_, rest, ok := strings.Cut(string(data), "```yaml\n# "+first+"\n")
		text, _, closed := strings.Cut(rest, "```\n")
		if !ok || !closed {
			return "", fmt.Errorf("%s shows no %s", file, first)
		}
		return text, nil
	}
	var github struct {
		Jobs map[string]struct {
			Steps []struct {
				Name, Run string
			}
		}
	}
	var gitlab map[string]any
	for first, into := range map[string]any{".github/workflows/dump.yml": &github, ".gitlab-ci.yml": &gitlab} {
		text, err := block(first)
		if err == nil {
			err = yaml.Unmarshal([]byte(text), into)
		}
		if err != nil {
			return nil, "", err
		}
	}
	scripts = map[string]string{"github.sh": github.Jobs["dump"].Steps[0].Run}
	for _, job := range []string{"ask", "migrate"} {
		fields, _ := gitlab[job].(map[string]any)
		lines, _ := fields["script"].([]any)
		for _, line := range lines {
			scripts["gitlab-"+job+".sh"] += fmt.Sprintln(line)
		}
	}
	for name, script := range scripts {
		if !strings.Contains(script, "hallpass ") {
			return nil, "", fmt.Errorf("%s: %s is %q", file, name, script)
		}
	}
	text, err := block("policy.yaml")
	_, rules, ok := strings.Cut(text, "rules:\n")
	if err == nil && !ok {
		err = fmt.Errorf("the policy in %s has no rules", file)
	}
	return scripts, rules, err
}

// furnish adds Vault to the folder of a script, and returns who else there is.
func (v *vaultHouse) furnish(files map[string]string, env *testscript.Env) []struct{ name, groups string } {
	files["dev/hallpass.yaml"] = strings.Replace(files["dev/hallpass.yaml"], "issuers: {",
		fmt.Sprintf("issuers: {vault: {address: %q, auth: approle, role_id: %q, secret_id_file: secret_id}, ", v.server.Address, v.roleID), 1)
	files["dev/secret_id"] = v.secretID + "\n"
	files["dev/catalog.yaml"] += vaultCatalog
	files["dev/policy.yaml"] += vaultPolicy + v.rules
	for name, script := range v.examples {
		files[name] = script
	}
	for name, value := range map[string]string{
		"VAULT_ADDR": v.server.Address, "PGHOST": "127.0.0.1", "PGPORT": strconv.Itoa(v.db.Postgres.Port), "PGDATABASE": v.db.Name,
		"PATH": filepath.Dir(v.db.Postgres.Program("psql")) + string(os.PathListSeparator) + env.Getenv("PATH"),
	} {
		env.Setenv(name, value)
	}
	return []struct{ name, groups string }{{"ci-orders", "[pipelines]"}}
}

// cmdNowhere looks for a secret wherever it could have been left.
func cmdNowhere(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, false, len(args) == 1 || len(args) == 2 && args[0] == "-file", "[!] nowhere [-file FILE | TEXT]")
	text := args[len(args)-1]
	if len(args) == 2 {
		text, _, _ = strings.Cut(ts.ReadFile(text), "\n")
	}
	if len(text) < 4 {
		ts.Fatalf("%q is found everywhere", text)
	}
	w := worldOf(ts)
	var found []string
	look := func(where string, data []byte) {
		if bytes.Contains(data, []byte(text)) {
			found = append(found, where)
		}
	}
	ts.Check(filepath.WalkDir(w.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		data, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil // the databases come and go
		}
		look(path, data)
		return err
	}))
	if w.vault != nil {
		tb, ok := w.env.T().(testing.TB)
		if !ok {
			ts.Fatalf("a script isn't a test any more")
		}
		look("Vault's audit log", []byte(w.vault.server.AuditLog(tb)))
		// It begins by telling the tests how to get in.
		look("Vault's log", []byte(strings.ReplaceAll(w.vault.server.Log(), w.vault.server.RootToken, "")))
		look("PostgreSQL's log", []byte(w.vault.db.Postgres.Log()))
	}
	for _, pid := range children(os.Getpid()) {
		for _, name := range []string{"environ", "cmdline"} {
			path := filepath.Join("/proc", strconv.Itoa(pid), name)
			data, _ := os.ReadFile(path) // it may have ended
			look(path, data)
		}
	}
	switch {
	case neg && len(found) == 0:
		ts.Fatalf("%s is nowhere", text)
	case !neg && len(found) > 0:
		ts.Fatalf("%s is in %s", text, strings.Join(found, ", "))
	}
	for _, where := range found {
		ts.Logf("found in %s", where)
	}
}

// children are the processes that a process has started, and theirs.
func children(of int) (all []int) {
	lists, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", of))
	for _, list := range lists {
		data, _ := os.ReadFile(list)
		for word := range strings.FieldsSeq(string(data)) {
			if pid, err := strconv.Atoi(word); err == nil {
				all = append(append(all, pid), children(pid)...)
			}
		}
	}
	return all
}

// cmdSteal is somebody who has got at the requester's key: he opens what the
// service hands out, and unwraps it.
func cmdSteal(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) == 1, "steal ID")
	ts.Check(ts.Exec("hallpass", "show", args[0], "--output", "json"))
	var s access.Status
	ts.Check(json.Unmarshal([]byte(ts.ReadFile("stdout")), &s))
	key := ts.ReadFile(filepath.Join(ts.Getenv("HOME"), ".hallpass", "requests", args[0], "key"))
	secret, err := sealed.Open(strings.TrimSpace(key), s.Credential.Sealed)
	ts.Check(err)
	tb, ok := worldOf(ts).env.T().(testing.TB)
	if !ok {
		ts.Fatalf("a script isn't a test any more")
	}
	_, err = worldOf(ts).vault.server.ClientWithToken(tb, secret.WrappingToken).Logical().Unwrap("")
	ts.Check(err)
}
