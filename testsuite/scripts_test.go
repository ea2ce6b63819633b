package testsuite

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	commonpb "go.temporal.io/api/common/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/log"
	sdkworker "go.temporal.io/sdk/worker"
	"golang.org/x/crypto/ssh"

	"hallpass/access"
	"hallpass/ca"
	"hallpass/codec"
	"hallpass/testsuite/devtest"
	"hallpass/testsuite/hosttest"
	"hallpass/testsuite/postgrestest"
	"hallpass/testsuite/s3test"
	"hallpass/testsuite/sshdtest"
)

// Everything that a script waits for comes within this, on a machine that is
// busy with other things.
const patience = 90 * time.Second

// people are those of the directory, with their groups. Mallory isn't in it.
var people = []struct{ name, groups string }{
	{"alice", "[dev]"},
	{"bob", "[sre]"},
	{"carol", "[sre, dev]"},
	{"dave", "[security]"},
	{"mallory", ""},
}

const policyFile = `rules:
  - name: production
    when: resource.labels.env == "prod" && "dev" in requester.groups
    max_duration: 8h
    require: {reason: true}
    approvals: [{count: 1, from: [sre]}]
    approval_window: 1h
    revoke: [security]
    ssh: {extensions: [permit-pty]}
  - {name: sandbox, when: resource.labels.env == "dev", max_duration: 8h, approvals: none}
  - name: crown
    when: resource.labels.env == "crown"
    max_duration: 1h
    approvals: [{count: 2, from: [sre]}]
    approval_window: 1h
  - name: hurried
    when: resource.labels.env == "hurry"
    max_duration: 1h
    approvals: [{count: 1, from: [sre]}]
    approval_window: 20s
  - name: council
    when: resource.labels.env == "council"
    approvals: [{count: 1, from: [sre]}]
    approval_window: 1h
    denies: 2
    escalate: [{after: 1s, ask: [security]}]
  - {name: closed, when: resource.labels.env == "closed", deny: nobody logs in here}
  - name: glass
    when: resource.labels.env == "glass"
    max_duration: 1h
    approvals: [{count: 1, from: [sre]}]
    emergency: {tell: [dev], review: {from: [security, sre], count: 2, within: 15s}}
    limits: {both: {running: 1}}
`

// house is what all scripts share: the program, the SSH CA's key, and two
// hosts that trust it.
type house struct {
	t        *testing.T
	bin      string
	me       string // the login: whoever runs the tests
	ca       []byte // private key file
	caPublic string
	hosts    map[string]*sshdtest.Server
	vault    func(t testing.TB, script string) *vaultHouse // nil: there is none
	postgres func() *postgrestest.Server                   // of one script alone, as it may stop it

	firstPort int
	ports     atomic.Int32 // handed out
}

// TestScripts runs the end-to-end tests. Each has a folder of its own with
// hallpass dev in it, and people with their keys. Beside testscript's own
// commands they have:
//
//	dev [stop|kill]         start hallpass dev, stop it, kill -9 it
//	as NAME                 be somebody: their HOME, key and name for what follows
//	ask VAR ARGS…           hallpass request ARGS --no-wait; $VAR is its id
//	id VAR                  $VAR is the first request id in stdout
//	state ID STATE          wait until the request is in STATE
//	exits CODE PROGRAM…     run it, and it must end with that exit code
//	eventually [-code CODE] [-out REGEXP] PROGRAM…
//	                        run it until it ends so
//	json                    stdout must be JSON
//	signal ID NAME KIND FILE
//	                        send a signal with a plain SDK client, which knows nothing of hallpass:
//	                        KIND json takes FILE as the JSON argument, text as a string, bytes as bytes,
//	                        sealed as encrypted with a key that nobody has, none sends no argument
//	terminate ID            terminate the request's workflow in Temporal, or with review-ID its review's, with a
//	                        plain SDK client
//	flip FILE OLD NEW       change bytes in place
//	checkpoint FILE         have SQLite write into the database's own file what is in the log beside it
//	postgres [stop|kill|start]
//	                        make an empty database, $DATABASE, whose password is $PGSECRET; stop its
//	                        server, kill -9 it, start it again
//	bucket FILE             start an S3 server with an empty bucket; $S3PLACE is that of an object in it, FILE
//	                        the key that may publish there, and $S3OBJECT the object on the server's disk
//	namespace NAME          make a Temporal namespace that no worker serves yet
//	nowhere [-file FILE | TEXT]
//	                        TEXT, or the first line of FILE, is in nothing that hallpass dev, Temporal, the
//	                        audit log or Vault keep or log, nor in a process's environment or command line;
//	                        ! nowhere TEXT PLACE… says that it is, in each PLACE
//	call [-service ADDRESS] [-ca FILE] [-audience FILE] [-as NAME] [-ago LONG] [-for LONG] [-times N] METHOD PATH
//	                        call the service with a read statement that is signed here: the status and the answer
//	                        are in stdout, for each time. The audience is the certificate of dev, or FILE
//	steal [-keep FILE] ID   open what the service hands out for a request, with the requester's own key, and
//	                        unwrap it in Vault, or keep the wrapping token and its accessor in FILE
//	memory FILE REGEXP      the first line of FILE isn't in the memory of the programs whose command lines are
//	                        like REGEXP; ! memory FILE REGEXP says that it is in that of each
//	poller [stop] NAMESPACE answer in the place of the issuer of kind vault, with a token of one's own, as the
//	                        request's reason says: see poller_test.go
//	rogue NAMESPACE         run a worker on the queue hallpass that says allowed to everything
//	metal [start]           make a host with PAM, ssh/metal in the catalog, that hallpass-host isn't on yet; start its sshd
//	crowd N AFTER WINDOW    have N requests for ssh/crowd wait, whose escalation comes due AFTER; dave approves some
//	                        of them and denies some, the others time out
//	metal figures AGENTS N  measure N revocations of a connection to it, with the agents of so many hosts at work
//
// [root] says whether root runs the tests, which metal takes, and is an error where CI is set and it doesn't; [figures] whether HALLPASS_FIGURES is set; and $ME, the login; $CASOCK, where hallpass dev finds an ssh-agent, if it is set before; $TEMPORAL, the address of Temporal in hallpass dev; $HOST1 and $HOST2, the ports of the sshds behind web-1
// and web-2; $PORT, $UIPORT, $PORT2 and $UIPORT2, ports that are free; $SERVICE, the service for hosts. "ssh" is the real one with $HOME/.ssh/config as its
// configuration (it would take the home from /etc/passwd).
//
// Scripts whose names begin with "vault" are those of TestVaultScripts.
func TestScripts(t *testing.T) {
	newHouse(t).run(t, func(name string) bool { return !strings.HasPrefix(name, "vault") })
}

// newHouse furnishes the house, without a Vault.
func newHouse(t *testing.T) *house {
	t.Helper()
	h := &house{t: t, bin: os.Getenv("HALLPASS_BIN"), me: sshdtest.User(t), hosts: map[string]*sshdtest.Server{}, firstPort: 10000 + rand.IntN(15000)}
	if h.bin == "" {
		t.Skip("HALLPASS_BIN is not set; make e2e builds bin/hallpass and sets it")
	}
	var err error
	if h.bin, err = filepath.Abs(h.bin); err != nil {
		t.Fatal(err)
	}
	key := filepath.Join(t.TempDir(), "ssh_ca")
	public, err := ca.Create(key, "ed25519", nil, "testsuite")
	if err != nil {
		t.Fatal(err)
	}
	if h.ca, err = os.ReadFile(key); err != nil {
		t.Fatal(err)
	}
	h.caPublic = string(ssh.MarshalAuthorizedKey(public))
	for host, names := range map[string][]string{"web-1": {"web-1", "sandbox", "vault", "hurry", "council", "glass"}, "web-2": {"web-2"}} {
		var principals []string
		for _, name := range names {
			principals = append(principals, name+"/"+h.me)
		}
		h.hosts[host] = sshdtest.Start(t, sshdtest.Config{
			CA: []ssh.PublicKey{public}, Principals: map[string][]string{h.me: principals},
			Lines: []string{"Subsystem sftp internal-sftp"},
		})
	}
	h.postgres = sync.OnceValue(func() *postgrestest.Server { return postgrestest.Start(t) })
	return h
}

// run runs the scripts that are wanted.
func (h *house) run(t *testing.T, want func(name string) bool) {
	t.Helper()
	syscall.Umask(0o022) // a policy that a group can write to isn't obeyed
	if signal.Ignored(syscall.SIGHUP) {
		// Run by nohup: what is started here would be as deaf as this is, unless it is caught.
		signal.Notify(make(chan os.Signal, 1), syscall.SIGHUP)
	}
	files, err := filepath.Glob("testdata/scripts/*.txtar")
	if err != nil {
		t.Fatal(err)
	}
	files = slices.DeleteFunc(files, func(file string) bool { return !want(filepath.Base(file)) })
	testscript.Run(t, testscript.Params{
		Files:               files,
		Setup:               h.setup,
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Condition: func(cond string) (bool, error) {
			switch cond {
			case "root":
				_, ci := os.LookupEnv("CI")
				return byRoot(os.Geteuid(), ci)
			case "figures":
				return os.Getenv("HALLPASS_FIGURES") != "", nil
			}
			return false, fmt.Errorf("there is no condition %s", cond)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"dev":        cmdDev,
			"as":         cmdAs,
			"ask":        cmdAsk,
			"id":         cmdID,
			"state":      cmdState,
			"exits":      cmdExits,
			"eventually": cmdEventually,
			"json":       cmdJSON,
			"signal":     cmdSignal,
			"terminate":  cmdTerminate,
			"forget":     cmdForget,
			"listed":     cmdListed,
			"relisted":   cmdRelisted,
			"flip":       cmdFlip,
			"checkpoint": cmdCheckpoint,
			"postgres":   h.cmdPostgres,
			"bucket":     cmdBucket,
			"namespace":  cmdNamespace,
			"rogue":      cmdRogue,
			"nowhere":    cmdNowhere,
			"steal":      cmdSteal,
			"memory":     cmdMemory,
			"poller":     cmdPoller,
			"metal":      h.cmdMetal,
			"vault":      cmdVault,
			"storm":      cmdStorm,
			"call":       cmdCall,
			"cost":       cmdCost,
			"crowd":      cmdCrowd,
		},
	})
}

// byRoot says whether root runs the tests. Where nobody reads what was skipped,
// in CI, that it isn't is an error.
func byRoot(uid int, ci bool) (bool, error) {
	if ci && uid != 0 {
		return false, errors.New("CI is set, and root doesn't run the tests, which this script takes")
	}
	return uid == 0, nil
}

func TestByRoot(t *testing.T) {
	for _, tt := range []struct {
		uid    int
		ci     bool
		is, ok bool
	}{{0, false, true, true}, {0, true, true, true}, {1000, false, false, true}, {1000, true, false, false}} {
		if is, err := byRoot(tt.uid, tt.ci); is != tt.is || (err == nil) != tt.ok {
			t.Errorf("%+v: %v, %v", tt, is, err)
		}
	}
}

// world is what one script has.
type world struct {
	vault        *vaultHouse
	poller       sdkworker.Worker // nil: there is none
	bin, dir     string           // the program, and the folder of hallpass dev
	agent        string           // socket of the ssh-agent with its CA; "": there is none
	metal        *hosttest.Host   // nil: there is none
	port, uiPort string
	env          *testscript.Env
	dev          *exec.Cmd     // nil while it isn't running
	ended        chan struct{} // closed when it has
	err          error         // how it ended
}

type worldKey struct{}

func worldOf(ts *testscript.TestScript) *world { return ts.Value(worldKey{}).(*world) }

// setup furnishes the folder of a script.
func (h *house) setup(env *testscript.Env) error {
	w := &world{bin: h.bin, dir: filepath.Join(env.WorkDir, "dev"), env: env, port: h.nextPort(), uiPort: h.nextPort()}
	servicePort := h.nextPort()
	env.Values[worldKey{}] = w
	env.Defer(func() {
		w.kill()
		if f, ok := env.T().(interface{ Failed() bool }); ok && f.Failed() {
			log, _ := os.ReadFile(filepath.Join(w.dir, "dev.log")) // says nothing if it never started
			env.T().Log("log of hallpass dev:\n" + string(log))
		}
	})
	files := map[string]string{
		"dev/hallpass.yaml": fmt.Sprintf("temporal: {address: \"127.0.0.1:%s\", namespace: default}\nui: http://127.0.0.1:%s\n"+
			"policy: policy.yaml\ndirectory: directory.yaml\ncatalog: catalog.yaml\n"+
			"audit: {database: audit.db, key: audit.key, public_key: audit.pub}\n"+
			"issuers: {ssh: {key: \"file:ssh_ca\"}}\nservice: {address: \"127.0.0.1:%s\"}\nlimits: {min_grant: 1s}\n", w.port, w.uiPort, servicePort),
		"dev/policy.yaml":  policyFile,
		"dev/catalog.yaml": h.catalog(),
		"dev/ssh_ca":       string(h.ca),
		"dev/ssh_ca.pub":   h.caPublic,
	}
	env.Setenv("ME", h.me)
	people, hosts := people, slices.Collect(maps.Values(h.hosts))
	if h.vault != nil {
		tb, ok := env.T().(testing.TB)
		if !ok {
			return errors.New("a script isn't a test any more")
		}
		w.vault = h.vault(tb, strings.TrimPrefix(filepath.Base(env.WorkDir), "script-"))
		people = append(people[:len(people):len(people)], w.vault.furnish(files, env)...)
		hosts = append(hosts, w.vault.sshd)
	}
	directory := "users:\n"
	var known strings.Builder
	for _, s := range hosts {
		data, err := os.ReadFile(s.KnownHosts())
		if err != nil {
			return err
		}
		known.Write(data)
	}
	for _, p := range people {
		home := "people/" + p.name + "/"
		var keys []string
		for _, name := range []string{"id", "id2"} {
			private, public, err := signingKey(p.name)
			if err != nil {
				return err
			}
			files[home+name], files[home+name+".pub"] = private, public
			keys = append(keys, "      - "+public)
		}
		files[home+".ssh/config"] = fmt.Sprintf("UserKnownHostsFile %s/%sknown_hosts\nGlobalKnownHostsFile none\n"+
			"StrictHostKeyChecking yes\nBatchMode yes\nIdentityAgent none\n\n", env.WorkDir, home)
		files[home+"known_hosts"] = known.String()
		if p.groups != "" {
			directory += "  " + p.name + ":\n    groups: " + p.groups + "\n    keys:\n" + strings.Join(keys, "")
		}
	}
	files["dev/directory.yaml"] = directory
	sshPath, err := exec.LookPath("ssh")
	if err != nil {
		return err
	}
	files["bin/ssh"] = "#!/bin/sh\nexec " + sshPath + " -F \"$HOME/.ssh/config\" \"$@\"\n"
	for name, content := range files {
		path := filepath.Join(env.WorkDir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return err
		}
		mode := fs.FileMode(0o600)
		if strings.HasPrefix(name, "bin/") {
			mode = 0o755
		}
		if err := os.WriteFile(path, []byte(content), mode); err != nil {
			return err
		}
	}
	bin := filepath.Join(env.WorkDir, "bin")
	for _, program := range []string{"", "-kms"} { // the second may not have been built
		if err := os.Symlink(h.bin+program, filepath.Join(bin, "hallpass"+program)); err != nil {
			return err
		}
	}
	for name, value := range map[string]string{
		"PATH":            bin + string(os.PathListSeparator) + env.Getenv("PATH"),
		"HALLPASS_CONFIG": filepath.Join(w.dir, "hallpass.yaml"),
		"TEMPORAL":        "127.0.0.1:" + w.port,
		"SERVICE":         "https://127.0.0.1:" + servicePort,
		"HOST1":           strconv.Itoa(h.hosts["web-1"].Port),
		"HOST2":           strconv.Itoa(h.hosts["web-2"].Port),
		"PORT":            h.nextPort(),
		"UIPORT":          h.nextPort(),
		"PORT2":           h.nextPort(),
		"UIPORT2":         h.nextPort(),
		"HOSTPORT":        h.nextPort(),
		"HOSTPORT2":       h.nextPort(),
		"TZ":              "UTC",
	} {
		env.Setenv(name, value)
	}
	w.be(env.Setenv, "alice")
	return nil
}

// catalog is the same host under several names, and another one.
func (h *house) catalog() string {
	var b strings.Builder
	b.WriteString("resources:\n")
	for _, r := range []struct{ name, env, host string }{
		{"web-1", "prod", "web-1"}, {"web-2", "prod", "web-2"}, {"sandbox", "dev", "web-1"},
		{"vault", "crown", "web-1"}, {"hurry", "hurry", "web-1"}, {"council", "council", "web-1"}, {"glass", "glass", "web-1"}, {"closed", "closed", "web-1"},
	} {
		fmt.Fprintf(&b, "  ssh/%s: {labels: {env: %s}, logins: [%q], address: \"127.0.0.1:%d\"}\n", r.name, r.env, h.me, h.hosts[r.host].Port)
	}
	return b.String()
}

// nextPort finds a free port. It is below those that systems take for
// outgoing connections, so that it stays free while hallpass dev is dead, and
// leaves room for those that Temporal takes above it for itself.
func (h *house) nextPort() string {
	for {
		port := strconv.Itoa(h.firstPort + 10*int(h.ports.Add(1)))
		if l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", port)); err == nil {
			_ = l.Close()
			return port
		}
	}
}

// be sets the environment of a person.
func (w *world) be(setenv func(name, value string), name string) {
	home := filepath.Join(w.env.WorkDir, "people", name)
	setenv("HOME", home)
	setenv("HALLPASS_USER", name)
	setenv("HALLPASS_KEY", filepath.Join(home, "id"))
}

func cmdAs(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) == 1, "as NAME")
	worldOf(ts).be(ts.Setenv, args[0])
}

func cmdDev(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) < 2, "dev [stop|kill]")
	w := worldOf(ts)
	switch what := strings.Join(args, ""); what {
	case "":
		if w.dev != nil {
			ts.Fatalf("hallpass dev is running")
		}
		w.agent = ts.Getenv("CASOCK")
		ts.Check(w.start())
	case "stop":
		ts.Check(w.dev.Process.Signal(os.Interrupt))
		w.dev = nil
		<-w.ended
		ts.Check(w.err)
	case "kill":
		w.kill()
	default:
		ts.Fatalf("dev can't %s", what)
	}
}

// start runs hallpass dev and returns when it is ready.
func (w *world) start() error {
	ready := filepath.Join(w.dir, "ready")
	_ = os.Remove(ready) // left by a kill
	log, err := os.OpenFile(filepath.Join(w.dir, "dev.log"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }() // the process has its own
	cmd := exec.Command(w.bin, "dev", "--dir", w.dir, "--ready-file", ready)
	cmd.Env = append(os.Environ(), "HOME="+w.dir, "SSH_AUTH_SOCK="+w.agent)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return err
	}
	w.dev, w.ended = cmd, make(chan struct{})
	go func() {
		w.err = cmd.Wait()
		close(w.ended)
	}()
	return poll("hallpass dev to be ready", func() (bool, error) {
		select {
		case <-w.ended:
			w.dev = nil
			return true, fmt.Errorf("hallpass dev ended: %w", w.err)
		default:
		}
		_, err := os.Stat(ready)
		return err == nil, err
	})
}

// kill is kill -9.
func (w *world) kill() {
	if w.dev == nil {
		return
	}
	_ = w.dev.Process.Kill()
	<-w.ended
	w.dev = nil
}

// poll asks until the answer is yes. The error with it is the last thing that
// stood in the way, or final where the answer is yes.
func poll(what string, done func() (bool, error)) error {
	giveUp := time.NewTimer(patience)
	defer giveUp.Stop()
	const soon, later = 50 * time.Millisecond, 300 * time.Millisecond
	again := time.NewTicker(soon)
	defer again.Stop()
	began := time.Now()
	for {
		ok, err := done()
		if ok {
			return err
		}
		if time.Since(began) > 2*time.Second {
			again.Reset(later) // asking is a process, mostly, and others have work to do
		}
		select {
		case <-again.C:
		case <-giveUp.C:
			return fmt.Errorf("waited %s for %s: %w", patience, what, err)
		}
	}
}

func cmdAsk(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) >= 2, "ask VAR ARGS…")
	if err := ts.Exec("hallpass", append([]string{"request", "--no-wait", "--output", "json"}, args[1:]...)...); err != nil {
		ts.Fatalf("hallpass request: %v", err)
	}
	var answer struct{ ID string }
	ts.Check(json.Unmarshal([]byte(ts.ReadFile("stdout")), &answer))
	ts.Setenv(args[0], answer.ID)
}

var requestID = regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}`)

func cmdID(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) == 1, "id VAR")
	id := requestID.FindString(ts.ReadFile("stdout"))
	if id == "" {
		ts.Fatalf("no request id in stdout")
	}
	ts.Setenv(args[0], id)
}

func cmdState(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) == 2, "state ID STATE")
	var last access.State
	ts.Check(poll("state "+args[1], func() (bool, error) {
		if err := ts.Exec("hallpass", "show", args[0], "--output", "json"); err != nil {
			return false, err
		}
		var s access.Status
		if err := json.Unmarshal([]byte(ts.ReadFile("stdout")), &s); err != nil {
			return false, err
		}
		if last = s.State; last.Final() && string(last) != args[1] {
			ts.Fatalf("the request is %s: %s", last, s.Why)
		}
		if string(last) == args[1] {
			return true, nil
		}
		return false, fmt.Errorf("it is %s", last)
	}))
}

// code runs a program and returns its exit code.
func code(ts *testscript.TestScript, program string, args ...string) int {
	err := ts.Exec(program, args...)
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		return exit.ExitCode()
	}
	ts.Fatalf("%s: %v", program, err)
	return -1
}

func cmdExits(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) >= 2, "exits CODE PROGRAM…")
	if got := code(ts, args[1], args[2:]...); strconv.Itoa(got) != args[0] {
		ts.Fatalf("%s ended with exit code %d, not %s", args[1], got, args[0])
	}
}

func cmdEventually(ts *testscript.TestScript, neg bool, args []string) {
	want, out := 0, regexp.MustCompile("")
	var err error
	for len(args) > 2 && strings.HasPrefix(args[0], "-") {
		switch args[0] {
		case "-code":
			want, err = strconv.Atoi(args[1])
		case "-out":
			out, err = regexp.Compile("(?m)" + args[1])
		default:
			err = fmt.Errorf("eventually has no flag %s", args[0])
		}
		ts.Check(err)
		args = args[2:]
	}
	usage(ts, neg, len(args) > 0, "eventually [-code CODE] [-out REGEXP] PROGRAM…")
	ts.Check(poll(strings.Join(args, " "), func() (bool, error) {
		got := code(ts, args[0], args[1:]...)
		if got == want && out.MatchString(ts.ReadFile("stdout")) {
			return true, nil
		}
		return false, fmt.Errorf("its exit code is %d", got)
	}))
}

func cmdJSON(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) == 0, "json")
	dec := json.NewDecoder(strings.NewReader(ts.ReadFile("stdout")))
	for n := 0; ; n++ {
		var v any
		err := dec.Decode(&v)
		if errors.Is(err, io.EOF) && n > 0 {
			return
		}
		ts.Check(err)
	}
}

func cmdFlip(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) == 3 && len(args[1]) == len(args[2]), "flip FILE OLD NEW, both as long")
	path := ts.MkAbs(args[0])
	data, err := os.ReadFile(path)
	ts.Check(err)
	if !bytes.Contains(data, []byte(args[1])) {
		ts.Fatalf("%s isn't in %s", args[1], args[0])
	}
	ts.Check(os.WriteFile(path, bytes.Replace(data, []byte(args[1]), []byte(args[2]), 1), 0o600))
}

func cmdCheckpoint(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) == 1, "checkpoint FILE")
	db, err := sql.Open("sqlite", "file:"+ts.MkAbs(args[0]))
	ts.Check(err)
	_, err = db.Exec("PRAGMA wal_checkpoint(TRUNCATE)")
	ts.Check(errors.Join(err, db.Close()))
}

func (h *house) cmdPostgres(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) == 0 || len(args) == 1 && slices.Contains([]string{"stop", "kill", "start"}, args[0]), "postgres [stop|kill|start]")
	s := h.postgres()
	if len(args) == 1 {
		map[string]func(){"stop": s.Stop, "kill": s.Kill, "start": func() { s.Restart(h.t) }}[args[0]]()
		return
	}
	passwords := ts.MkAbs("pgpass")
	ts.Check(os.WriteFile(passwords, fmt.Appendf(nil, "127.0.0.1:%d:*:%s:%s\n", s.Port, postgrestest.Admin, s.Password), 0o600))
	ts.Setenv("PGSECRET", s.Password)
	ts.Setenv("DATABASE", fmt.Sprintf("postgres://%s@127.0.0.1:%d/%s?passfile=%s", postgrestest.Admin, s.Port, s.NewDatabase(h.t), passwords))
}

func cmdBucket(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) == 1, "bucket FILE")
	tb, ok := worldOf(ts).env.T().(testing.TB)
	if !ok {
		ts.Fatalf("a script isn't a test any more")
	}
	s := s3test.Start(tb)
	s.Bucket(tb, "checkpoints")
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(s.User.String()+"\n"), 0o600))
	ts.Setenv("S3PLACE", s.Place("checkpoints", "hallpass"))
	ts.Setenv("S3OBJECT", s.File("checkpoints", "hallpass"))
}

// dial connects as anybody can: no code of hallpass, no key.
func (w *world) dial(ts *testscript.TestScript, namespace string) client.Client {
	c, err := client.Dial(client.Options{
		HostPort: "127.0.0.1:" + w.port, Namespace: namespace,
		Logger: log.NewStructuredLogger(slog.New(slog.DiscardHandler)),
	})
	ts.Check(err)
	ts.Defer(c.Close)
	return c
}

func cmdSignal(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) == 4 || len(args) == 3 && args[2] == "none", "signal ID NAME json|text|bytes|sealed|none FILE")
	var arg any
	if args[2] != "none" {
		content := ts.ReadFile(args[3])
		switch args[2] {
		case "json": // as temporal workflow signal --input does
			arg = converter.NewRawValue(&commonpb.Payload{
				Metadata: map[string][]byte{"encoding": []byte("json/plain")}, Data: []byte(content),
			})
		case "sealed": // as if with a key, which nobody has
			arg = converter.NewRawValue(&commonpb.Payload{
				Metadata: map[string][]byte{"encoding": []byte(codec.Encoding), codec.KeyID: []byte("nobody")}, Data: []byte(content),
			})
		case "text":
			arg = content
		case "bytes":
			arg = []byte(content)
		default:
			ts.Fatalf("no kind %s", args[2])
		}
	}
	ts.Check(worldOf(ts).dial(ts, "default").SignalWorkflow(context.Background(), access.WorkflowID(args[0]), "", args[1], arg))
}

func cmdTerminate(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) == 1, "terminate ID")
	id := access.WorkflowID(args[0])
	if strings.HasPrefix(args[0], "review-") {
		id = args[0]
	}
	ts.Check(worldOf(ts).dial(ts, "default").TerminateWorkflow(context.Background(), id, "", "by the test"))
}

// cmdForget has Temporal delete all that it knows of a request, as it does when its
// retention is over.
func cmdForget(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) == 1, "forget ID")
	_, err := worldOf(ts).dial(ts, "default").WorkflowService().DeleteWorkflowExecution(context.Background(), &workflowservice.DeleteWorkflowExecutionRequest{
		Namespace: "default", WorkflowExecution: &commonpb.WorkflowExecution{WorkflowId: access.WorkflowID(args[0])},
	})
	ts.Check(err)
}

func cmdNamespace(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) == 1, "namespace NAME")
	ts.Check(devtest.MakeNamespace(context.Background(), worldOf(ts).dial(ts, "default"), args[0]))
}

func usage(ts *testscript.TestScript, neg, ok bool, text string) {
	if neg || !ok {
		ts.Fatalf("usage: %s", text)
	}
}
