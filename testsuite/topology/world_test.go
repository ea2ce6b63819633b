// Package topology runs what docker-compose.yml runs, as plain processes and
// from the same files in deploy/: PostgreSQL over TLS, Temporal's frontend,
// history, matching and worker roles apart with mTLS, Vault, hallpass's service,
// two workflow workers, two issuers of SSH certificates and one of Vault's
// logins, and two hosts with sshd and hallpass-host. Then it kills them.
//
// It needs bin/hallpass in HALLPASS_BIN, and beside it what make temporal, make
// vault and make build build: make topology.
package topology

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"google.golang.org/protobuf/types/known/durationpb"

	"hallpass/audit"
	"hallpass/cli"
	"hallpass/testsuite/hosttest"
	"hallpass/testsuite/postgrestest"
	"hallpass/testsuite/process"
	"hallpass/testsuite/vaulttest"
	"hallpass/worker"
)

const (
	deploy    = "../../deploy"
	namespace = "hallpass" // as in deploy/hallpass.yaml

	// Everything comes within this, on a machine that is busy with other things.
	patience = 3 * time.Minute
)

// world is the topology.
type world struct {
	t           testing.TB
	bin         string // folder of the programs
	dir         string // what is /etc/hallpass in the containers
	pg          *postgrestest.Server
	frontend    string // address
	service     string // address
	env         map[string]string
	beside      func(name string) []string // environment of one process; nil: nothing of its own
	programs    map[string]*program
	vault       *vaulttest.Server           // nil: there is none
	vaultScript []string                    // environment of deploy/vault.sh
	hosts       map[string]*hosttest.Host   // by name
	agents      map[string]*process.Process // hallpass-host on them
	unheard     sync.Map                    // who asked where nobody said whether it was taken, by id
	visits      sync.Map                    // how long those have whose requests aren't for long, by id
	held        sync.Map                    // certificates as people received them, by id
	logins      sync.Map                    // what Vault gave, by name in the database
}

// program is one process of it, which may be killed and started again.
type program struct {
	name    string
	command func() *exec.Cmd
	began   string // is in the line by which it says that it runs
	health  string // address; "" if it has none
	listens string // address at which it takes connections once it has started; "" if nobody waits for that
	process *process.Process
}

// furnish makes the world, without any process but PostgreSQL.
func furnish(t testing.TB) *world {
	t.Helper()
	return furnishIn(t, t.TempDir(), "")
}

// furnishIn does that in folders that are there: that of the containers'
// /etc/hallpass, and PostgreSQL's, where that isn't "".
func furnishIn(t testing.TB, dir, database string) *world {
	t.Helper()
	bin := os.Getenv("HALLPASS_BIN")
	if bin == "" {
		t.Skip("HALLPASS_BIN is not set; make topology builds what is needed and sets it")
	}
	bin, err := filepath.Abs(bin)
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, bin: filepath.Dir(bin), dir: dir, programs: map[string]*program{}, hosts: map[string]*hosttest.Host{}, agents: map[string]*process.Process{}}
	if err := os.Chmod(w.dir, 0o755); err != nil { // whatever the umask
		t.Fatal(err)
	}
	for _, name := range []string{"hallpass.yaml", "policy.yaml", "catalog.yaml"} {
		w.copy(filepath.Join(deploy, name), filepath.Join(w.dir, name))
	}
	w.dynamic()
	w.script("setup.sh", "HALLPASS_SETUP="+w.dir, "HALLPASS_SETUP_OWNERS=no")

	// PostgreSQL runs as somebody else, who may read these and no others.
	secrets, err := os.MkdirTemp("", "topology")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(secrets) })
	for _, name := range []string{"server.pem", "server.key"} {
		w.copy(filepath.Join(w.dir, "postgres", name), filepath.Join(secrets, name))
	}
	postgrestest.Give(t, secrets)
	settings := []string{"ssl=on", "ssl_cert_file=" + secrets + "/server.pem", "ssl_key_file=" + secrets + "/server.key", "max_connections=300"}
	if database == "" {
		w.pg = postgrestest.Start(t, settings...)
	} else {
		w.pg = postgrestest.StartIn(t, database, settings...)
	}
	port := strconv.Itoa(w.pg.Port)
	w.script("postgres.sh", "PATH="+filepath.Dir(w.pg.Program("psql"))+":"+os.Getenv("PATH"), "SECRETS="+w.dir+"/postgres",
		"PGHOST=127.0.0.1", "PGPORT="+port, "POSTGRES_USER="+postgrestest.Admin, "PGPASSWORD="+w.pg.Password)
	for range 2 { // safe to repeat
		w.script("temporal-schema.sh", "SQL_HOST=127.0.0.1", "SQL_PORT="+port, "TEMPORAL_SECRETS="+w.dir+"/temporal")
	}
	w.frontend, w.service = w.address(), w.address()
	w.env = map[string]string{
		"HALLPASS_CONFIG":                  filepath.Join(w.dir, "public", "hallpass.yaml"),
		"HALLPASS_AUDIT_DATABASE":          w.logAs("hallpass_writer", w.database()),
		"PGPASSFILE":                       filepath.Join(w.dir, "writers/pgpass"),
		"TEMPORAL_ADDRESS":                 w.frontend,
		"TEMPORAL_TLS_SERVER_CA_CERT_PATH": filepath.Join(w.dir, "tls/ca.pem"),
		"TEMPORAL_TLS_CLIENT_CERT_PATH":    filepath.Join(w.dir, "tls/client.pem"),
		"TEMPORAL_TLS_CLIENT_KEY_PATH":     filepath.Join(w.dir, "tls/client.key"),
		"HALLPASS_SERVICE_ADDRESS":         w.service,
		"HALLPASS_LIMITS_MIN_GRANT":        "1s",
		"HALLPASS_SWEEP_EVERY":             "30s",
		"HALLPASS_AUDIT_PUBLISH":           filepath.Join(w.dir, "published"),
	}
	return w
}

// database is PostgreSQL's address.
func (w *world) database() string { return "127.0.0.1:" + strconv.Itoa(w.pg.Port) }

// logAs is the address of the audit log for one of its users, where PostgreSQL is at
// an address.
func (w *world) logAs(user, at string) string {
	return fmt.Sprintf("postgres://%s@%s/audit?sslrootcert=%s/tls/ca.pem", user, at, w.dir)
}

// logUser is the one as whom a process of hallpass comes to the audit log, as in
// docker-compose.yml, and the file with the password.
func (w *world) logUser(role string) (user, passfile string) {
	if role == worker.RoleService {
		return "hallpass_service", filepath.Join(w.dir, "service-key/pgpass")
	}
	return "hallpass_writer", filepath.Join(w.dir, "writers/pgpass")
}

// run starts all of it in a world that is furnished, or of hallpass these
// processes alone, and waits until it is ready.
func (w *world) run(only ...string) {
	w.t.Helper()
	roles := []string{"history", "matching", "frontend", "worker"}
	w.temporal(roles)
	for _, role := range roles {
		w.start(role)
	}
	w.register()
	parts := map[string]string{
		"workflows-1": worker.RoleWorkflows, "workflows-2": worker.RoleWorkflows,
		"issuer-1": worker.RoleIssuerSSH, "issuer-2": worker.RoleIssuerSSH, "service": worker.RoleService,
	}
	if w.vault != nil {
		parts["issuer-vault"] = worker.RoleIssuerVault
	}
	for name, role := range parts {
		if len(only) > 0 && !slices.Contains(only, name) {
			continue
		}
		var beside []string
		if w.beside != nil {
			beside = w.beside(name)
		}
		w.hallpass(name, role, beside...)
		w.start(name)
	}
	for name := range w.programs {
		w.ready(name)
	}
}

// temporal are the roles of Temporal's server, with ports that they all know.
func (w *world) temporal(roles []string) {
	env := append(os.Environ(),
		"TEMPORAL_SERVER_CONFIG_FILE_PATH="+abs(w.t, deploy+"/temporal.yaml"), "DYNAMIC_CONFIG_FILE_PATH="+w.dir+"/temporal-dynamic.yaml",
		"LOG_LEVEL=info", "BIND_ON_IP=127.0.0.1", "TEMPORAL_SECRETS="+w.dir+"/temporal",
		"POSTGRES_ADDRESS="+w.database(), "PUBLIC_FRONTEND_ADDRESS="+w.frontend,
	)
	listens := map[string]string{}
	for _, role := range roles {
		_, grpc, _ := net.SplitHostPort(w.address())
		if role == "frontend" {
			_, grpc, _ = net.SplitHostPort(w.frontend)
		}
		listens[role] = "127.0.0.1:" + grpc
		_, membership, _ := net.SplitHostPort(w.address())
		env = append(env, strings.ToUpper(role)+"_GRPC_PORT="+grpc, strings.ToUpper(role)+"_MEMBERSHIP_PORT="+membership)
	}
	for _, role := range roles {
		own := append(slices.Clone(env), "TEMPORAL_SERVICES="+role)
		if w.beside != nil {
			own = append(own, w.beside(role)...)
		}
		w.programs[role] = &program{name: role, began: "Build info", listens: listens[role], command: func() *exec.Cmd {
			cmd := exec.Command(filepath.Join(w.bin, "temporal-server"), "start")
			cmd.Env = own
			return cmd
		}}
	}
}

// dynamic is Temporal's dynamic configuration in deploy/, but that it looks every
// 2 seconds, and not every 3 minutes, whether a build has been drained.
func (w *world) dynamic() {
	w.t.Helper()
	data, err := os.ReadFile(deploy + "/temporal-dynamic.yaml")
	if err != nil {
		w.t.Fatal(err)
	}
	for _, name := range []string{"VersionDrainageStatusVisibilityGracePeriod", "VersionDrainageStatusRefreshInterval"} {
		data = append(data, "matching.wv."+name+": [{value: 2s}]\n"...)
	}
	if err := os.WriteFile(filepath.Join(w.dir, "temporal-dynamic.yaml"), data, 0o600); err != nil {
		w.t.Fatal(err)
	}
}

// hallpass is a process of hallpass in one role. What is beside changes its
// environment.
func (w *world) hallpass(name, role string, beside ...string) {
	p := &program{name: name, health: w.address(), began: "says how it is"}
	p.command = func() *exec.Cmd {
		cmd := exec.Command(filepath.Join(w.bin, "hallpass"), "worker", "--role", role)
		user, passfile := w.logUser(role)
		cmd.Env = append(w.environment(), "HALLPASS_HEALTH_ADDRESS="+p.health, "HALLPASS_AUDIT_DATABASE="+w.logAs(user, w.database()), "PGPASSFILE="+passfile)
		cmd.Env = append(cmd.Env, beside...)
		return cmd
	}
	w.programs[name] = p
}

// environment is that of all of hallpass.
func (w *world) environment() []string {
	env := []string{"PATH=" + os.Getenv("PATH"), "HOME=" + w.dir}
	for name, value := range w.env {
		env = append(env, name+"="+value)
	}
	return env
}

// operator runs hallpass as somebody does who is where its workers are, and
// returns what it says.
func (w *world) operator(args ...string) string {
	w.t.Helper()
	cmd := exec.Command(filepath.Join(w.bin, "hallpass"), args...)
	cmd.Dir, cmd.Env = w.dir, w.environment()
	out, err := cmd.CombinedOutput()
	if err != nil {
		w.t.Fatalf("hallpass %s: %v: %s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

func (w *world) start(name string) {
	w.t.Helper()
	p := w.programs[name]
	var err error
	if p.process, err = process.Start(p.command(), func(line string) bool { return strings.Contains(line, p.began) }); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() {
		p.process.Kill()
		if w.t.Failed() {
			w.t.Logf("log of %s:\n%s", name, tail(p.process.Output(), 40))
		}
	})
	// One after the other: Temporal's roles would make the record of their
	// cluster at the same time, and all but one of them end by that.
	if p.listens != "" {
		w.poll(name+" to listen", func() error {
			conn, err := net.Dial("tcp", p.listens)
			if err == nil {
				err = conn.Close()
			}
			return err
		})
	}
}

// kill is kill -9.
func (w *world) kill(name string) {
	switch name {
	case "postgres":
		w.pg.Kill()
		return
	case "vault":
		w.vault.Kill()
		return
	}
	w.programs[name].process.Kill()
}

func (w *world) restart(name string) {
	switch name {
	case "postgres":
		w.pg.Restart(w.t)
		return
	case "vault":
		w.vault.Restart(w.t)
		return
	}
	w.start(name)
}

// ready waits until a process of hallpass says that it is.
func (w *world) ready(name string) {
	w.t.Helper()
	p := w.programs[name]
	if p.health == "" {
		return
	}
	w.poll(name+" to be ready", func() error { return isReady(p.health) })
}

func isReady(address string) error {
	answer, err := http.Get("http://" + address + "/ready")
	if err != nil {
		return err
	}
	defer func() { _ = answer.Body.Close() }()
	var is worker.Readiness
	if err := json.NewDecoder(answer.Body).Decode(&is); err != nil {
		return err
	}
	if is.Ready != (answer.StatusCode == http.StatusOK) {
		return fmt.Errorf("ready is %v, and the status %s", is.Ready, answer.Status)
	}
	if !is.Ready {
		return fmt.Errorf("not ready: %+v", is.Parts)
	}
	return nil
}

// register makes the namespace, as temporal operator namespace create does.
func (w *world) register() {
	w.t.Helper()
	w.poll("Temporal to make the namespace", func() error {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		c, err := client.NewNamespaceClient(client.Options{HostPort: w.frontend, ConnectionOptions: client.ConnectionOptions{TLS: w.tls()}})
		if err != nil {
			return err
		}
		defer c.Close()
		err = c.Register(ctx, &workflowservice.RegisterNamespaceRequest{
			Namespace: namespace, WorkflowExecutionRetentionPeriod: durationpb.New(24 * time.Hour),
		})
		if err != nil && !strings.Contains(err.Error(), "already exists") {
			return err
		}
		_, err = c.Describe(ctx, namespace)
		return err
	})
}

// dial connects to Temporal as anybody with a certificate can.
func (w *world) dial() client.Client {
	w.t.Helper()
	c, err := client.Dial(client.Options{HostPort: w.frontend, Namespace: namespace, ConnectionOptions: client.ConnectionOptions{TLS: w.tls()}})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(c.Close)
	return c
}

func (w *world) tls() *tls.Config {
	w.t.Helper()
	pair, err := tls.LoadX509KeyPair(w.dir+"/tls/client.pem", w.dir+"/tls/client.key")
	if err != nil {
		w.t.Fatal(err)
	}
	return &tls.Config{Certificates: []tls.Certificate{pair}, RootCAs: w.pool("tls/ca.pem"), MinVersion: tls.VersionTLS13}
}

func (w *world) pool(name string) *x509.CertPool {
	w.t.Helper()
	data, err := os.ReadFile(filepath.Join(w.dir, name))
	pool := x509.NewCertPool()
	if err != nil || !pool.AppendCertsFromPEM(data) {
		w.t.Fatalf("no certificate in %s: %v", name, err)
	}
	return pool
}

// as runs hallpass for a person, in this process.
func (w *world) as(ctx context.Context, person string, args ...string) (code int, stdout, stderr string) {
	return w.by(ctx, caller{person: person, service: w.env["HALLPASS_SERVICE"]}, args...)
}

// caller is a person at a terminal.
type caller struct {
	person  string
	service string // the address by which he reaches hallpass; "": by Temporal
	folder  string // of his own for this terminal; "": the person's
}

// by does that for one who is told apart from others.
func (w *world) by(ctx context.Context, who caller, args ...string) (code int, stdout, stderr string) {
	env := func(name string) string {
		switch name {
		case "HALLPASS_SERVICE":
			return who.service
		case "HALLPASS_USER":
			return who.person
		case "HALLPASS_KEY":
			return filepath.Join(w.dir, "people", who.person, "id")
		case "HALLPASS_HOME":
			return who.folder
		case "HOME":
			return filepath.Join(w.dir, "people", who.person)
		case "PGPASSFILE": // it is pgx that reads it
			return ""
		}
		return w.env[name]
	}
	var out, errs bytes.Buffer
	code = cli.Main(ctx, args, strings.NewReader(""), &out, &errs, env)
	return code, out.String(), errs.String()
}

// log opens the audit log, to look at it.
func (w *world) log() *audit.Reader {
	w.t.Helper()
	key, err := audit.ReadPublicKey(filepath.Join(w.dir, "public/audit.pub"))
	if err != nil {
		w.t.Fatal(err)
	}
	password, err := os.ReadFile(filepath.Join(w.dir, "postgres/hallpass_reader"))
	passfile := filepath.Join(w.t.TempDir(), "pgpass")
	if err == nil {
		err = os.WriteFile(passfile, fmt.Appendf(nil, "*:*:audit:hallpass_reader:%s\n", password), 0o600)
	}
	if err != nil {
		w.t.Fatal(err)
	}
	r, err := audit.OpenReader(w.t.Context(), w.logAs("hallpass_reader", w.database())+"&passfile="+passfile, key)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = r.Close() })
	return r
}

// script runs one of deploy/ as a container would.
func (w *world) script(name string, env ...string) {
	w.t.Helper()
	cmd := exec.Command("sh", filepath.Join(deploy, name))
	cmd.Env = append([]string{"PATH=" + w.bin + ":" + os.Getenv("PATH"), "HOME=" + w.dir}, env...)
	for i, pair := range cmd.Env[2:] {
		if path, ok := strings.CutPrefix(pair, "PATH="); ok {
			cmd.Env[i+2] = "PATH=" + w.bin + ":" + path
		}
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		w.t.Fatalf("%s: %v\n%s", name, err, out)
	}
}

func (w *world) copy(from, to string) {
	w.t.Helper()
	data, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(to, data, 0o600)
	}
	if err != nil {
		w.t.Fatal(err)
	}
}

// address is a free one on loopback.
func (w *world) address() string {
	w.t.Helper()
	taken.Lock()
	defer taken.Unlock()
	for {
		port, err := process.FreePort()
		if err != nil {
			w.t.Fatal(err)
		}
		if !taken.ports[port] {
			taken.ports[port] = true
			return fmt.Sprintf("127.0.0.1:%d", port)
		}
	}
}

// taken are the ports that were given out, used yet or not.
var taken = struct {
	sync.Mutex
	ports map[int]bool
}{ports: map[int]bool{}}

// poll asks until there is no error. It is for the test's own goroutine.
func (w *world) poll(what string, ask func() error) {
	w.t.Helper()
	if err := wait(what, ask); err != nil {
		w.t.Fatal(err)
	}
}

func wait(what string, ask func() error) error {
	deadline := time.Now().Add(patience)
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		err := ask()
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("waited %s for %s: %w", patience, what, err)
		}
		<-tick.C
	}
}

// drain is SIGTERM, and waits for the end of the process.
func (w *world) drain(name string) { w.programs[name].process.Signal(syscall.SIGTERM) }

// replace does that and starts it anew, as an upgrade does.
func (w *world) replace(t *testing.T, name string) {
	t.Helper()
	w.drain(name)
	if out := w.programs[name].process.Output(); !strings.Contains(out, `"msg":"stopped"`) {
		t.Errorf("%s didn't stop in good order: %s", name, tail(out, 5))
	}
	w.start(name)
	w.ready(name)
}

// does runs hallpass for somebody, for whom it has to work at the first try.
func (w *world) does(t *testing.T, who caller, args ...string) (stdout string, ok bool) {
	t.Helper()
	code, out, errs := w.by(t.Context(), who, args...)
	if code != cli.ExitOK {
		t.Errorf("%s failed with exit code %d: %s%s", strings.Join(args, " "), code, out, errs)
	}
	return out, code == cli.ExitOK
}

func abs(t testing.TB, path string) string {
	t.Helper()
	path, err := filepath.Abs(path)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// tail is the end of a text, in lines.
func tail(s string, n int) string {
	lines := strings.Split(s, "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
