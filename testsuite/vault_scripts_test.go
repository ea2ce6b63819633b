package testsuite

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/crypto/ssh"

	"hallpass/access"
	"hallpass/ca"
	"hallpass/catalog"
	"hallpass/cli"
	"hallpass/sealed"
	"hallpass/testsuite/postgrestest"
	"hallpass/testsuite/sshdtest"
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
	key      ca.TransitKey     // of a CA
	sshd     *sshdtest.Server  // that trusts it
	examples map[string]string // the scripts of docs/pipelines.md, by file
	rules    string            // and its policy
}

// vaultCatalog is what there is in Vault: a database, certificates with a lease,
// a password without one, and what isn't there.
const vaultCatalog = `  vault/orders-db:
    path: database/creds
    labels: {env: orders}
    actions: {read: orders-ro, dump: orders-dump, migrate: orders-migrate}
  vault/cert:
    path: pki/issue
    labels: {env: orders}
    actions: {read: {role: web, with: {common_name: web.example.com}}}
  vault/passwords: {path: kv, labels: {env: orders}, actions: {read: password}}
  vault/no-mount: {path: nothing/creds, labels: {env: orders}, actions: {read: orders-ro}}
  vault/no-role: {path: database/creds, labels: {env: orders}, actions: {read: nobody}}
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

// Scripts that take Vault down, or sweep it, have one of their own. All others
// share one.
var ownVault = []string{"vault-down", "vault-many", "vault-rogue", "vault-sweep"}

// TestVaultScripts runs the scripts that need a Vault: those whose names begin
// with "vault". They have $VAULT_ADDR, and PGHOST, PGPORT and PGDATABASE of the
// database behind vault/orders-db. What docs/pipelines.md shows is there as
// github.sh, gitlab-ask.sh and gitlab-migrate.sh, and its policy is in force.
// $TRANSITKEY is a CA's key in Vault, which the host of ssh/transit trusts.
// $VAULT_PROGRAM is a Vault server to start. Commands that others don't have:
//
//	vault kill|start|seal|unseal    kill -9 it, start it again and unseal it, seal it, unseal it
//	vault leases N                  wait until Vault has N leases below database/creds
//	vault tokens N                  wait until Vault has N tokens that were made for requests
//	storm N                         N times at once hallpass run, while Vault is killed and started;
//	                                HALLPASS_GRANTS is another N
//	cost N                          how long N times hallpass run take, beside the calls to Vault alone;
//	                                HALLPASS_RUNS is another N
func TestVaultScripts(t *testing.T) {
	h := newHouse(t)
	shared := newVaultHouse(t)
	h.vault = func(t testing.TB, script string) *vaultHouse {
		if slices.Contains(ownVault, script) {
			return newVaultHouse(t)
		}
		return shared
	}
	h.run(t, func(name string) bool { return strings.HasPrefix(name, "vault") })
}

// newVaultHouse furnishes a Vault of its own.
func newVaultHouse(t testing.TB) *vaultHouse {
	t.Helper()
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

	v.server.Mount(t, "kv", "kv")
	v.server.Write(t, "kv/password", map[string]any{"password": "hunter2"})
	v.server.Mount(t, "pki", "pki")
	v.server.Write(t, "pki/root/generate/internal", map[string]any{"common_name": "example.com", "ttl": "48h", "key_type": "ec"})
	v.server.Write(t, "pki/roles/web", map[string]any{
		"allowed_domains": "example.com", "allow_subdomains": true, "max_ttl": "24h", "generate_lease": true, "key_type": "ec",
	})

	c, err := catalog.Parse("catalog.yaml", []byte("resources:\n"+vaultCatalog))
	if err != nil {
		t.Fatal(err)
	}
	plan := vault.NewPlan(c.Resources(), vault.Config{}, vault.DefaultTokenRole)
	for _, p := range plan.Policies() {
		v.server.Policy(t, p.Name, p.Text)
	}
	for _, r := range plan.Roles {
		v.server.Write(t, r.Path(), r.Body())
	}
	v.host(t)
	v.server.EnableAuth(t, "approle", "approle")
	v.server.Write(t, "auth/approle/role/hallpass", map[string]any{"token_policies": []string{plan.Issuer.Name, "hallpass-ssh-ca"}})
	id, err := v.server.Client(t).Logical().Read("auth/approle/role/hallpass/role-id")
	if err != nil {
		t.Fatal(err)
	}
	v.roleID = id.Data["role_id"].(string)
	v.secretID = v.server.Write(t, "auth/approle/role/hallpass/secret-id", nil).Data["secret_id"].(string)

	if v.examples, v.rules, err = pipelines("../docs/pipelines.md"); err != nil {
		t.Fatal(err)
	}
	return v
}

// host makes a CA's key in Vault, as hallpass ca init says, and a host that
// trusts it.
func (v *vaultHouse) host(t testing.TB) {
	t.Helper()
	v.key = ca.TransitKey{Mount: "transit", Name: "ssh-ca", Version: 1}
	v.server.Mount(t, v.key.Mount, "transit")
	v.server.Write(t, "transit/keys/"+v.key.Name, map[string]any{"type": "ed25519"})
	_, policy, _ := strings.Cut(ca.TransitSetup(v.key, "ed25519"), "<<'EOF'\n")
	policy, _, _ = strings.Cut(policy, "EOF\n")
	v.server.Policy(t, "hallpass-ssh-ca", policy)
	root, err := vault.New(vault.Config{Address: v.server.Address, Token: v.server.RootToken})
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ca.Open(v.key.String(), ca.OpenOptions{Vault: root})
	if err != nil {
		t.Fatal(err)
	}
	me := sshdtest.User(t)
	v.sshd = sshdtest.Start(t, sshdtest.Config{
		CA: []ssh.PublicKey{signer.PublicKey()}, Principals: map[string][]string{me: {"transit/" + me}},
	})
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
	files["dev/catalog.yaml"] += vaultCatalog +
		fmt.Sprintf("  ssh/transit: {labels: {env: dev}, logins: [%q], address: \"127.0.0.1:%d\"}\n", env.Getenv("ME"), v.sshd.Port)
	files["dev/policy.yaml"] += vaultPolicy + v.rules + "locks: {groups: [security]}\n"
	for name, script := range v.examples {
		files[name] = script
	}
	for name, value := range map[string]string{
		"VAULT_ADDR": v.server.Address, "VAULT_PROGRAM": v.server.Program(), "TRANSITKEY": v.key.String(), "PGHOST": "127.0.0.1", "PGPORT": strconv.Itoa(v.db.Postgres.Port), "PGDATABASE": v.db.Name,
		"PATH": filepath.Dir(v.db.Postgres.Program("psql")) + string(os.PathListSeparator) + env.Getenv("PATH"),
	} {
		env.Setenv(name, value)
	}
	return []struct{ name, groups string }{{"ci-orders", "[pipelines]"}}
}

// cmdNowhere looks for a secret wherever it could have been left.
//
// A look that finds nothing proves something only if it would have: with "!"
// and places it has to be found in each of them.
func cmdNowhere(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, false, len(args) == 1 || len(args) == 2 && args[0] == "-file" || neg && len(args) > 1, "nowhere [-file FILE | TEXT] or ! nowhere TEXT [PLACE…]")
	text, places := args[0], args[1:]
	if text == "-file" {
		text, _, _ = strings.Cut(ts.ReadFile(args[1]), "\n")
		places = nil
	}
	if len(text) < 4 {
		ts.Fatalf("%q is found everywhere", text)
	}
	w := worldOf(ts)
	var found []string
	look := func(where string, data []byte) {
		for _, form := range forms(text) {
			if bytes.Contains(data, form) {
				found = append(found, where)
				return
			}
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
	for _, place := range places {
		if !slices.ContainsFunc(found, func(where string) bool { return strings.Contains(where, place) }) {
			ts.Fatalf("%s is in %s, and not in %s", text, strings.Join(found, ", "), place)
		}
	}
	for _, where := range found {
		ts.Logf("found in %s", where)
	}
}

// forms are the bytes that a text may have become: itself, hexadecimal, and
// base64, in which it looks different for each place that it may begin at in
// three bytes.
func forms(text string) [][]byte {
	all := [][]byte{[]byte(text), []byte(hex.EncodeToString([]byte(text)))}
	for before := range 3 {
		coded := base64.RawStdEncoding.EncodeToString(append(make([]byte, before), text...))
		// What the bytes before and behind have a part in says nothing.
		first, last := (before*8+5)/6, (before+len(text))*8/6
		all = append(all, []byte(coded[first:last]))
	}
	return all
}

// The forms of a text are found in what it is encoded in, wherever it stands.
func TestForms(t *testing.T) {
	const text = "A1a-secret-0123"
	for before := range 4 {
		for behind := range 4 {
			whole := strings.Repeat("x", before) + text + strings.Repeat("y", behind)
			for name, coded := range map[string]string{
				"plain": whole, "hex": hex.EncodeToString([]byte(whole)), "base64": base64.StdEncoding.EncodeToString([]byte(whole)),
			} {
				if !slices.ContainsFunc(forms(text), func(form []byte) bool { return strings.Contains(coded, string(form)) }) {
					t.Errorf("%s: not found in %s", name, coded)
				}
			}
		}
	}
	for _, form := range forms(text) {
		if len(form) < len(text) {
			t.Errorf("%s is too short", form)
		}
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
// service hands out, and unwraps it, or keeps it in a file for later: the wrapping
// token, and below it the accessor of what it wraps.
func cmdSteal(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) == 1 || len(args) == 3 && args[0] == "-keep", "steal [-keep FILE] ID")
	id := args[len(args)-1]
	ts.Check(ts.Exec("hallpass", "show", id, "--output", "json"))
	var s access.Status
	ts.Check(json.Unmarshal([]byte(ts.ReadFile("stdout")), &s))
	key := ts.ReadFile(filepath.Join(ts.Getenv("HOME"), ".hallpass", "requests", id, "key"))
	secret, err := sealed.Open(strings.TrimSpace(key), s.Credential.Sealed)
	ts.Check(err)
	if len(args) == 3 {
		ts.Check(os.WriteFile(ts.MkAbs(args[1]), []byte(secret.WrappingToken+"\n"+s.Credential.Handle.Accessor+"\n"), 0o600))
		return
	}
	v, tb := vaultOf(ts)
	_, err = v.server.ClientWithToken(tb, secret.WrappingToken).Logical().Unwrap("")
	ts.Check(err)
}

// vaultOf is the Vault of a script, and what its harness reports to.
func vaultOf(ts *testscript.TestScript) (*vaultHouse, testing.TB) {
	w := worldOf(ts)
	tb, ok := w.env.T().(testing.TB)
	if !ok || w.vault == nil {
		ts.Fatalf("this script has no Vault")
	}
	return w.vault, tb
}

func cmdVault(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) == 1 || len(args) == 2, "vault kill|start|seal|unseal, or vault leases|tokens N")
	v, tb := vaultOf(ts)
	if !slices.Contains(ownVault, strings.TrimPrefix(filepath.Base(worldOf(ts).env.WorkDir), "script-")) {
		ts.Fatalf("this script shares its Vault")
	}
	var count func() int
	switch args[0] {
	case "kill":
		v.server.Kill()
	case "start":
		v.server.Restart(tb)
	case "seal":
		v.server.Seal(tb)
	case "unseal":
		v.server.Unseal(tb)
	case "leases":
		count = func() int { return len(v.server.Leases(tb, "database/creds")) }
	case "tokens":
		count = func() int { return len(v.tokens(tb)) }
	default:
		ts.Fatalf("vault can't %s", args[0])
	}
	if count == nil {
		return
	}
	var err error
	for range 3 { // a lease that nobody has is left alone for 90 s
		err = poll("vault "+strings.Join(args, " "), func() (bool, error) {
			if n := count(); len(args) != 2 || strconv.Itoa(n) != args[1] {
				return false, fmt.Errorf("there are %d", n)
			}
			return true, nil
		})
		if err == nil {
			break
		}
	}
	ts.Check(err)
}

// tokens are the accessors of those that were made for requests and live.
func (v *vaultHouse) tokens(t testing.TB) (all []string) {
	root := v.server.Client(t)
	list, err := root.Logical().List("auth/token/accessors")
	if err != nil {
		t.Fatal(err)
	}
	keys, _ := list.Data["keys"].([]any)
	for _, key := range keys {
		s, err := root.Auth().Token().LookupAccessor(key.(string))
		if err != nil {
			continue // it has died meanwhile
		}
		if meta, _ := s.Data["meta"].(map[string]any); meta["hallpass_request"] != nil {
			all = append(all, key.(string))
		}
	}
	return all
}

// cmdStorm has many at once run a command with a login to the database, and
// kills Vault while they get it and while they give it back. They may be told
// that Vault is away or that its answer was lost; every request ends.
func cmdStorm(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) == 1, "storm N")
	v, tb := vaultOf(ts)
	count := args[0]
	if s := os.Getenv("HALLPASS_GRANTS"); s != "" {
		count = s
	}
	n, err := strconv.Atoi(count)
	ts.Check(err)
	env := environment(ts)
	held, gate := ts.MkAbs("held"), ts.MkAbs("gate")
	ts.Check(os.Mkdir(held, 0o700))
	ts.Check(syscall.Mkfifo(gate, 0o600)) // whoever reads it waits until somebody has opened it to write
	type ended struct {
		code int
		said string
	}
	results := make(chan ended, n)
	var over atomic.Int32
	begun := time.Now()
	for range n {
		go func() {
			var said bytes.Buffer
			code := cli.Main(context.Background(), []string{
				"run", "vault/orders-db", "--action", "read", "--for", "30m", "--",
				"sh", "-c", "echo $PGUSER >" + held + "/$HALLPASS_REQUEST; exec cat " + gate,
			}, strings.NewReader(""), &said, &said, env)
			over.Add(1)
			results <- ended{code, said.String()}
		}()
	}
	holding := func() int {
		files, err := os.ReadDir(held)
		ts.Check(err)
		return len(files)
	}
	restart := func(when string, reached func() bool) {
		ts.Check(poll(when, func() (bool, error) { return reached(), nil }))
		ts.Logf("%s: Vault is killed with %d that hold a login and %d that are over, of %d", time.Since(begun).Round(time.Millisecond), holding(), over.Load(), n)
		v.server.Kill()
		v.server.Restart(tb)
	}
	restart("a third to have a login", func() bool { return holding() >= n/3 })
	ts.Check(poll("all to have a login", func() (bool, error) {
		if h, o := holding(), int(over.Load()); h+o < n {
			return false, fmt.Errorf("%d have one, %d are over", h, o)
		}
		return true, nil
	}))
	most := holding()
	ts.Logf("%s: %d hold a login at once", time.Since(begun).Round(time.Millisecond), most)
	if most < n/2 {
		ts.Fatalf("only %d of %d got a login", most, n)
	}
	before := over.Load()
	go func() {
		// Those that read are let go by the writer's end; one may come late.
		for int(over.Load()) < n {
			if f, err := os.OpenFile(gate, os.O_WRONLY|syscall.O_NONBLOCK, 0); err == nil {
				_ = f.Close()
			}
			<-time.After(20 * time.Millisecond)
		}
	}()
	restart("a third to be over", func() bool { return int(over.Load()-before) >= most/3 })
	codes := map[int]int{}
	for range n {
		r := <-results
		codes[r.code]++
		if r.code != cli.ExitOK && r.code != cli.ExitUnreachable && r.code != cli.ExitTampered {
			ts.Fatalf("hallpass run ended with %d:\n%s", r.code, r.said)
		}
	}
	ts.Logf("%s: all are over, with exit codes %v", time.Since(begun).Round(time.Millisecond), codes)
	files, err := os.ReadDir(held)
	ts.Check(err)
	ts.Check(poll("the logins to be gone", func() (bool, error) {
		left := strings.Fields(v.db.Postgres.Value(tb, v.db.Name, `SELECT coalesce(string_agg(rolname, ' '), '') FROM pg_roles WHERE rolname LIKE 'v-%'`))
		for _, f := range files {
			data, err := os.ReadFile(filepath.Join(held, f.Name()))
			ts.Check(err)
			if user := strings.TrimSpace(string(data)); slices.Contains(left, user) {
				return false, fmt.Errorf("%s is there", user)
			}
		}
		return true, nil
	}))
	// What Vault was killed over when it made a login is of no token, and its
	// password is nobody's. The sweep takes it, once it is old enough.
	ts.Logf("%d leases are left for the sweep", len(v.server.Leases(tb, "database/creds")))
	ts.Check(poll("the sweep to take all leases", func() (bool, error) {
		var said bytes.Buffer
		if code := cli.Main(context.Background(), []string{"sweep"}, strings.NewReader(""), &said, &said, env); code != cli.ExitOK {
			return false, fmt.Errorf("hallpass sweep ended with %d:\n%s", code, said.String())
		}
		if n := len(v.server.Leases(tb, "database/creds")); n > 0 {
			return false, fmt.Errorf("there are %d:\n%s", n, said.String())
		}
		return true, nil
	}))
}

// cmdCost compares hallpass run, from the request to the grant given back, with
// the calls to Vault alone that it makes, in turns.
func cmdCost(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) == 1, "cost N")
	v, tb := vaultOf(ts)
	count := args[0]
	if s := os.Getenv("HALLPASS_RUNS"); s != "" {
		count = s
	}
	n, err := strconv.Atoi(count)
	ts.Check(err)
	env := environment(ts)
	var bare, whole []time.Duration
	root := v.server.Client(tb)
	issuer, err := vault.New(vault.Config{Address: v.server.Address, Token: v.server.RootToken})
	ts.Check(err)
	for range n {
		begun := time.Now()
		minted, err := issuer.Mint(context.Background(), vault.DefaultTokenRole, vault.Spec{
			Policies: []string{vault.GrantPrefix(vault.DefaultTokenRole) + "orders-db@read"}, Life: 10 * time.Minute,
		})
		ts.Check(err)
		token, err := v.server.ClientWithToken(tb, "").Logical().Unwrap(minted.Wrapping)
		ts.Check(err)
		_, err = v.server.ClientWithToken(tb, token.Auth.ClientToken).Logical().Read("database/creds/orders-ro")
		ts.Check(err)
		ts.Check(root.Auth().Token().RevokeAccessor(minted.Accessor))
		bare = append(bare, time.Since(begun))

		begun = time.Now()
		var said bytes.Buffer
		if code := cli.Main(context.Background(), []string{"run", "vault/orders-db", "--action", "read", "--for", "10m", "--", "true"},
			strings.NewReader(""), &said, &said, env); code != cli.ExitOK {
			ts.Fatalf("hallpass run ended with %d:\n%s", code, said.String())
		}
		whole = append(whole, time.Since(begun))
	}
	slices.Sort(bare)
	slices.Sort(whole)
	ts.Logf("median of %d: the calls to Vault alone %s, hallpass run %s (slowest %s and %s)", n,
		bare[n/2].Round(time.Millisecond), whole[n/2].Round(time.Millisecond), bare[n-1].Round(time.Millisecond), whole[n-1].Round(time.Millisecond))
	if whole[n/2]-bare[n/2] > 5*time.Second {
		ts.Fatalf("hallpass adds more than 5 s")
	}
}

// environment is what a command in this process takes for its environment.
func environment(ts *testscript.TestScript) func(string) string {
	env := map[string]string{}
	for _, name := range []string{"HOME", "HALLPASS_USER", "HALLPASS_KEY", "HALLPASS_CONFIG", "VAULT_ADDR", "PATH", "TMPDIR"} {
		env[name] = ts.Getenv(name)
	}
	return func(name string) string { return env[name] }
}
