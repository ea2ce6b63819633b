package cli

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"database/sql"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/urfave/cli/v2"
	"golang.org/x/crypto/ssh"
	_ "modernc.org/sqlite" // the driver "sqlite", to copy the audit log

	"hallpass/access"
	"hallpass/worker"
)

func (a *app) demoCommand() *cli.Command {
	return &cli.Command{
		Name:     "demo",
		Usage:    "tell the story of one access request, on real parts, in a temporary folder",
		Category: categoryHallpass,
		Description: "Runs hallpass dev and an OpenSSH sshd of its own on free ports of 127.0.0.1, and in\n" +
			"front of your eyes the commands that people would type. With --vault also a PostgreSQL,\n" +
			"and a Vault that makes logins to it.",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "vault", Usage: "tell of a database, too, with the Vault server that this `PROGRAM` is (make vault)", TakesFile: true},
			&cli.BoolFlag{Name: "keep", Usage: "leave everything running at the end, until Ctrl-C"},
		},
		Action: func(c *cli.Context) error {
			if _, err := arguments(c); err != nil {
				return err
			}
			d := &demo{a: a, p: a.out, keep: c.Bool("keep")}
			if c.IsSet("vault") {
				server, err := exec.LookPath(c.String("vault"))
				if err != nil {
					return usagef("--vault %s: %w", c.String("vault"), err).withHint("make demo VAULT=1 builds one")
				}
				d.db = &demoDatabase{server: server}
			}
			defer d.stop()
			return d.tell()
		},
	}
}

// The story's grant: long enough to log in, short enough to wait for.
const demoGrant = 6 * time.Second

// demo is one telling. Every command in it is this program itself, or ssh,
// run as its readers would.
type demo struct {
	a     *app
	p     *printer
	keep  bool
	self  string // this program
	dir   string // everything is in here
	login string // whom sshd lets in: whoever runs the demo
	port  int    // of sshd
	ready worker.Ready
	sshd  string
	db    *demoDatabase // nil: not in this telling
	step  int
	clean []func() // in the order of starting
}

// tell is the story.
func (d *demo) tell() error {
	for _, part := range []func() error{
		d.setUp, d.approved, d.runsOut, d.givenBack, d.dumped, d.record, d.end,
	} {
		if err := part(); err != nil {
			return err
		}
	}
	return nil
}

func (d *demo) stop() {
	for i := len(d.clean) - 1; i >= 0; i-- {
		d.clean[i]()
	}
}

// setUp starts what the story is about.
func (d *demo) setUp() error {
	var err error
	if d.self, err = os.Executable(); err != nil {
		return err
	}
	for _, name := range []string{"ssh", "sshd"} {
		path, err := program(name)
		if err != nil {
			return failf(ExitError, "the demo logs in with OpenSSH, and there is no %s", name).
				withHint("apt-get install openssh-client openssh-server")
		}
		if name == "sshd" {
			d.sshd = path
		}
	}
	me, err := user.Current()
	if err != nil {
		return err
	}
	d.login = me.Username
	if d.dir, err = os.MkdirTemp("", "hallpass-demo-"); err != nil {
		return err
	}
	d.clean = append(d.clean, func() { _ = os.RemoveAll(d.dir) })

	p := d.p
	p.Printf("%s\n\n", p.bold("One access request, from the question to the proof"))
	d.text("Everything is real and on this machine: a Temporal server, hallpass's worker",
		"and issuer, its audit log, and an OpenSSH sshd. What stands behind a prompt is",
		"run as you see it; the name before it is whose key signs.")
	if d.port, err = freePort(); err != nil {
		return err
	}
	if err := d.makeFolders(); err != nil {
		return err
	}
	if d.db != nil {
		if err := d.setUpDatabase(); err != nil {
			return err
		}
	}
	if err := d.write(); err != nil {
		return err
	}
	if err := d.startDev(); err != nil {
		return err
	}
	if err := d.startSSHD(); err != nil {
		return err
	}
	p.Printf("\n")
	fields := []any{
		"folder", d.dir,
		"Temporal UI", d.ready.UI,
		"hallpass dev", fmt.Sprintf("ready in %d.%d s", d.ready.Millis/1000, d.ready.Millis%1000/100),
		"sshd", fmt.Sprintf("127.0.0.1:%d, trusts hallpass's CA for the principal web-1/%s", d.port, d.login),
		"alice", "a developer",
		"bob", "in group sre",
	}
	if d.db != nil {
		fields = append(fields, "carol", "in group data",
			"PostgreSQL", fmt.Sprintf("127.0.0.1:%d, with a table of orders", d.db.port),
			"Vault", d.db.vault+", makes logins to it")
	}
	p.fields(fields...)
	return nil
}

// approved: asked for, refused to the wrong people, approved, used.
func (d *demo) approved() error {
	d.heading("Alice asks for access",
		"The policy wants one approval from group sre for production, and a reason.",
		"Her request is signed with her key. The command waits.")
	const reason = "find out why logins are slow"
	request := []string{"hallpass", "request", "ssh/web-1", "--for", access.ShortDuration(demoGrant), "--reason", reason}
	waiting, id, err := d.asks("alice", request)
	if err != nil {
		return err
	}
	short := id[:13]

	d.heading("She approves it herself",
		"Nobody decides on a request of his own, whatever his groups.")
	if err := d.refused("alice", "hallpass", "approve", short); err != nil {
		return err
	}

	d.heading("Mallory approves it in bob's name",
		"The statement says bob, the signature is by another key.")
	if err := d.refused("mallory", "hallpass", "approve", short); err != nil {
		return err
	}

	d.heading("Bob approves",
		"He sees what he signs. His approval covers the hash of exactly this request.")
	if err := d.run("bob", ExitOK, "hallpass", "approve", short); err != nil {
		return err
	}

	d.heading("Alice's command goes on",
		"The issuer has checked her signature, bob's, and the policy by itself, put the",
		"certificate on record, and only then signed it. It ends with the grant.")
	if err := waiting.done(ExitOK); err != nil {
		return err
	}
	d.quote(waiting.take())

	d.heading("She logs in with plain ssh",
		"sshd knows the CA's public key and the principal that opens this login, and",
		"has never heard of hallpass.")
	return d.run("alice", ExitOK, d.ssh("echo logged in as $(id -un), by $SSH_CONNECTION")...)
}

// runsOut: the end of the grant is in the certificate.
func (d *demo) runsOut() error {
	d.heading("The grant runs out",
		"Nothing has to happen for that: the end is in the certificate. sshd says no.")
	// The private key goes with the grant, so try with a copy, as a thief would.
	for _, suffix := range []string{"", "-cert.pub"} {
		data, err := os.ReadFile(d.path("alice", "certs", d.login+"@web-1"+suffix))
		if err != nil {
			return err
		}
		if err := os.WriteFile(d.path("stolen"+suffix), data, 0o600); err != nil {
			return err
		}
	}
	return d.fails("alice", d.sshWith(d.path("stolen"), "true"), demoGrant+5*time.Second)
}

// givenBack: a grant that isn't needed to its end.
func (d *demo) givenBack() error {
	d.heading("A grant that is given back early",
		"The sandbox takes nobody's approval, and is on record all the same. Releasing",
		"ends the grant in the ledger and removes the key from alice's machine.")
	if err := d.run("alice", ExitOK, "hallpass", "request", "ssh/sandbox", "--for", "30m"); err != nil {
		return err
	}
	code, out, err := d.exec("alice", []string{"hallpass", "list", "--resource", "ssh/sandbox", "--output", "json"})
	if err != nil || code != ExitOK {
		return fmt.Errorf("list: exit %d: %s: %w", code, out, err)
	}
	id := firstID.FindString(out)
	if err := d.run("alice", ExitOK, "hallpass", "release", id[:min(13, len(id))]); err != nil {
		return err
	}
	return d.run("alice", ExitOK, "hallpass", "list")
}

// record: who accessed what when, and that nobody changed it.
func (d *demo) record() error {
	d.heading("Who had access to what, when, why, and on whose word")
	if err := d.run("bob", ExitOK, "hallpass", "audit", "log", "--grants"); err != nil {
		return err
	}
	d.heading("The record can prove itself",
		"Verifying recomputes the Merkle tree, checks every signature by the directory of",
		"the day, and judges again whatever was issued.")
	if err := d.run("bob", ExitOK, "hallpass", "audit", "verify"); err != nil {
		return err
	}
	d.heading("One byte of it is changed",
		"In a copy of dev/audit.db, alice's reason becomes another: slow becomes slew. By",
		"hand: stop hallpass dev, copy it, sed -i 's/logins are slow/logins are slew/'.")
	forged := d.path("forged.db")
	if err := d.tamper(forged, "logins are slow", "logins are slew"); err != nil {
		return err
	}
	return d.run("bob", ExitError, "HALLPASS_AUDIT_DATABASE="+forged, "hallpass", "audit", "verify")
}

func (d *demo) end() error {
	p := d.p
	p.Printf("\n%s\n\n", p.bold("That was it."))
	if !d.keep {
		d.text("It stops now, and with it the Temporal UI at "+d.ready.UI+". To have it go on",
			"running, and look at the requests there:")
		make := "make demo"
		if d.db != nil {
			make += " VAULT=1"
		}
		p.Printf("\n  %s KEEP=1\n\n", make)
		if d.db == nil {
			d.text("To see a database dumped with a login of its own, too:")
			p.Printf("\n  make demo VAULT=1\n\n")
		}
		d.text("To have it for yourself, with the Temporal UI at http://127.0.0.1:" + strconv.Itoa(worker.DefaultUIPort) + ":")
		p.Printf("\n  bin/hallpass dev\n")
		return nil
	}
	d.text("It goes on running. The requests in the Temporal UI:")
	p.Printf("\n  %s/namespaces/default/workflows\n\n", d.ready.UI)
	people := d.people()
	d.text("To be alice (or " + strings.Join(people[1:], ", or ") + ") in another terminal:")
	p.Printf("\n  . %s\n  hallpass resources\n\n", d.path("alice.env"))
	d.text("Ctrl-C stops all of it and removes the folder.")
	<-d.a.ctx.Done()
	return nil
}

// firstID finds a request id.
var firstID = regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}`)

func (d *demo) path(elem ...string) string {
	return filepath.Join(append([]string{d.dir}, elem...)...)
}

// people are those whose keys there are.
func (d *demo) people() []string {
	people := []string{"alice", "bob", "mallory"}
	if d.db != nil {
		people = append(people, "carol")
	}
	return people
}

func (d *demo) makeFolders() error {
	for _, name := range []string{"dev", "bin"} {
		if err := os.Mkdir(d.path(name), 0o700); err != nil {
			return err
		}
	}
	return os.Symlink(d.self, d.path("bin", "hallpass"))
}

// write writes keys, files and an environment for each of the people.
func (d *demo) write() error {
	keys := map[string]string{}
	for _, name := range append(d.people(), "host") {
		public, err := demoKey(d.path(name+".key"), name)
		if err != nil {
			return err
		}
		keys[name] = public
	}
	temporal, err := freePort()
	if err != nil {
		return err
	}
	ui, err := freePort()
	if err != nil {
		return err
	}
	hosts, err := freePort()
	if err != nil {
		return err
	}
	files := map[string]string{
		"dev/hallpass.yaml": fmt.Sprintf(`temporal: {address: "127.0.0.1:%d", namespace: default}
ui: http://127.0.0.1:%d
issuers: {ssh: {key: "file:ssh_ca"}}
service: {address: "127.0.0.1:%d"}
limits: {min_grant: 1s}  # a demo has no minute to wait
`, temporal, ui, hosts),
		"dev/policy.yaml": `rules:
  - name: production
    when: resource.kind == "ssh" && resource.labels.env == "prod" && "dev" in requester.groups
    max_duration: 1h
    require: {reason: true}
    approvals:
      - {count: 1, from: [sre]}
    approval_window: 10m
    revoke: [sre]
    ssh: {extensions: [permit-pty]}
  - name: sandbox
    when: resource.kind == "ssh" && resource.labels.env == "dev" && "dev" in requester.groups
    max_duration: 4h
    approvals: none
    ssh: {extensions: [permit-pty]}
`,
		"dev/directory.yaml": fmt.Sprintf("users:\n  alice:\n    groups: [dev]\n    keys:\n      - %s\n  bob:\n    groups: [dev, sre]\n    keys:\n      - %s\n",
			keys["alice"], keys["bob"]),
		"dev/catalog.yaml": fmt.Sprintf(`resources:
  ssh/web-1:
    description: the web server
    labels: {env: prod}
    logins: [%[1]q]
    address: 127.0.0.1:%[2]d
  ssh/sandbox:
    description: a host to try things on
    labels: {env: dev}
    logins: [%[1]q]
    address: 127.0.0.1:%[2]d
`, d.login, d.port),
		"known_hosts": fmt.Sprintf("[127.0.0.1]:%d %s\n", d.port, keys["host"]),
		"ssh_config":  fmt.Sprintf("Host *\n  UserKnownHostsFile %s\n  LogLevel ERROR\n  BatchMode yes\n", d.path("known_hosts")),
	}
	if d.db != nil {
		files["dev/hallpass.yaml"] = strings.Replace(files["dev/hallpass.yaml"], "issuers: {",
			fmt.Sprintf("vault: {address: %q}\nissuers: {vault: {address: %[1]q, role_id: %s, secret_id_file: secret_id}, ", d.db.vault, demoRoleID), 1)
		files["dev/policy.yaml"] += demoPolicy
		files["dev/catalog.yaml"] += demoCatalog
		files["dev/directory.yaml"] += "  carol:\n    groups: [data]\n    keys:\n      - " + keys["carol"] + "\n"
	}
	for _, name := range d.people() {
		files[name+".env"] = fmt.Sprintf("export %s PATH=%s:$PATH\n", strings.Join(d.identity(name), " "), d.path("bin"))
	}
	for name, content := range files {
		if err := os.WriteFile(d.path(name), []byte(content), 0o600); err != nil {
			return err
		}
	}
	return nil
}

// identity is the environment that makes somebody of whoever runs a command.
func (d *demo) identity(name string) []string {
	known := name
	if name == "mallory" {
		known = "bob" // that's the trick
	}
	env := []string{
		"HALLPASS_CONFIG=" + d.path("dev", "hallpass.yaml"),
		"HALLPASS_HOME=" + d.path(name),
		"HALLPASS_USER=" + known,
		"HALLPASS_KEY=" + d.path(name+".key"),
		"SSH_AUTH_SOCK=", // the demo leaves the reader's agent alone
	}
	if d.db != nil {
		env = append(env, "PGHOST=127.0.0.1", "PGPORT="+strconv.Itoa(d.db.port), "PGDATABASE=orders")
		if name == "admin" { // of PostgreSQL, and nobody to hallpass
			env = append(env, "PGUSER=admin", "PGPASSFILE="+d.path("admin.password"))
		}
	}
	return env
}

// demoKey makes an ed25519 key and returns its public half.
func demoKey(path, comment string) (string, error) {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return "", err
	}
	block, err := ssh.MarshalPrivateKey(private, comment)
	if err != nil {
		return "", err
	}
	if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
		return "", err
	}
	key, err := ssh.NewPublicKey(public)
	if err != nil {
		return "", err
	}
	line := strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key)))
	return line, os.WriteFile(path+".pub", []byte(line+"\n"), 0o644)
}

// startDev starts hallpass dev and waits until it is ready.
func (d *demo) startDev() error {
	ready := d.path("ready.json")
	cmd := exec.Command(d.self, "dev", "--dir", d.path("dev"), "--ready-file", ready)
	cmd.Env = d.environment("alice")
	return d.start(cmd, "hallpass dev", syscall.SIGTERM, func(string) (bool, error) {
		data, err := os.ReadFile(ready)
		if errors.Is(err, fs.ErrNotExist) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		return true, json.Unmarshal(data, &d.ready)
	})
}

// startSSHD starts a server of our own, which leaves the machine's alone.
func (d *demo) startSSHD() error {
	if os.Geteuid() == 0 {
		// Where Debian's sshd, as root, shuts its unprivileged part in.
		if err := os.MkdirAll("/run/sshd", 0o755); err != nil {
			return err
		}
	}
	if err := os.Mkdir(d.path("principals"), 0o700); err != nil {
		return err
	}
	config := strings.Join([]string{
		fmt.Sprintf("ListenAddress 127.0.0.1:%d", d.port),
		"HostKey " + d.path("host.key"),
		"PidFile none",
		"UsePAM no",
		"StrictModes no",
		"PermitRootLogin yes",
		"AuthenticationMethods publickey",
		"AuthorizedKeysFile none",
		"# What a host needs for hallpass:",
		"TrustedUserCAKeys " + d.path("dev", "ssh_ca.pub"),
		"AuthorizedPrincipalsFile " + d.path("principals") + "/%u",
		"# A bash of sshd's reads the user's .bashrc, unless it is inside another",
		"# one. The story has no time for what is in there:",
		"SetEnv SHLVL=1",
	}, "\n") + "\n"
	for name, content := range map[string]string{
		"sshd_config":                        config,
		filepath.Join("principals", d.login): "web-1/" + d.login + "\n",
	} {
		if err := os.WriteFile(d.path(name), []byte(content), 0o600); err != nil {
			return err
		}
	}
	cmd := exec.Command(d.sshd, "-D", "-e", "-f", d.path("sshd_config"))
	return d.start(cmd, "sshd", syscall.SIGTERM, func(string) (bool, error) {
		conn, err := net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", d.port), time.Second)
		if err != nil {
			return false, nil
		}
		return true, conn.Close()
	})
}

// start runs a server until the end of the demo, and returns when up says so
// of what the server has said.
func (d *demo) start(cmd *exec.Cmd, name string, stop os.Signal, up func(said string) (bool, error)) error {
	var out buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	// Ctrl-C reaches the whole group of the terminal; servers are stopped in
	// order, by us.
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setpgid = true
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", name, err)
	}
	var ended error
	exited := make(chan struct{})
	go func() {
		ended = cmd.Wait()
		close(exited)
	}()
	d.clean = append(d.clean, func() {
		_ = cmd.Process.Signal(stop)
		select {
		case <-exited:
		case <-time.After(5 * time.Second):
			_ = cmd.Process.Kill()
			<-exited
		}
	})
	deadline := time.Now().Add(30 * time.Second)
	for {
		select {
		case <-exited:
			return fmt.Errorf("%s has stopped (%w): %s", name, ended, out.String())
		default:
		}
		ok, err := up(out.String())
		if err != nil || ok {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s isn't ready after 30 s: %s", name, out.String())
		}
		if err := d.a.sleep(d.a.ctx, 20*time.Millisecond); err != nil {
			return err
		}
	}
}

// ssh is the command that hallpass request printed, made to know the host's
// key, with something to run on the host.
func (d *demo) ssh(command string) []string {
	return d.sshWith(d.path("alice", "certs", d.login+"@web-1"), command)
}

func (d *demo) sshWith(identity, command string) []string {
	return []string{
		"ssh", "-F", d.path("ssh_config"), "-o", "IdentitiesOnly=yes", "-i", identity,
		"-p", strconv.Itoa(d.port), d.login + "@127.0.0.1", command,
	}
}

// tamper copies the audit log and changes one byte of one event in the copy.
func (d *demo) tamper(forged, from, to string) (err error) {
	db, err := sql.Open("sqlite", "file:"+d.path("dev", "audit.db"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	db.SetMaxOpenConns(1) // ATTACH is the connection's
	for _, step := range []struct {
		sql  string
		args []any
	}{
		{"VACUUM INTO ?", []any{forged}},
		{"ATTACH ? AS forged", []any{forged}},
		{"UPDATE forged.events SET leaf = CAST(replace(CAST(leaf AS TEXT), ?, ?) AS BLOB) WHERE idx = (SELECT min(idx) FROM forged.events WHERE instr(CAST(leaf AS TEXT), ?))",
			[]any{from, to, from}},
	} {
		if _, err := db.ExecContext(d.a.ctx, step.sql, step.args...); err != nil {
			return err
		}
	}
	return nil
}

// program finds a program, also where only root has them on the path.
func program(name string) (string, error) {
	if path, err := exec.LookPath(name); err == nil {
		return filepath.Abs(path)
	}
	return exec.LookPath("/usr/sbin/" + name)
}

// freePort finds a port of 127.0.0.1 that nobody listens on.
func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	return l.Addr().(*net.TCPAddr).Port, l.Close()
}

// run runs a command in front of the reader, and fails unless it ends as the
// story has it.
func (d *demo) run(who string, want int, command ...string) error {
	d.prompt(who, command)
	code, out, err := d.exec(who, command)
	if err != nil {
		return err
	}
	d.quote(out)
	if code != 0 {
		d.exit(code)
	}
	if code != want {
		return fmt.Errorf("%s should have ended with %d, not %d", shellLine(command), want, code)
	}
	return nil
}

// refused runs a command that has to be refused, and shows of its output just
// that: what is decided on is shown where somebody may.
func (d *demo) refused(who string, command ...string) error {
	d.prompt(who, command)
	cmd := d.command(who, command)
	var out bytes.Buffer
	cmd.Stderr = &out
	err := cmd.Run()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != ExitRefused {
		return fmt.Errorf("%s should have been refused: %w: %s", shellLine(command), err, out.String())
	}
	d.quote("…\n" + out.String())
	d.exit(ExitRefused)
	return nil
}

func (d *demo) command(who string, command []string) *exec.Cmd {
	env := d.environment(who)
	for strings.Contains(command[0], "=") { // as in a shell
		env, command = append(env, command[0]), command[1:]
	}
	name := command[0]
	if own := d.path("bin", name); filepath.Base(name) == name {
		if _, err := os.Lstat(own); err == nil {
			name = own
		}
	}
	cmd := exec.CommandContext(d.a.ctx, name, command[1:]...)
	cmd.Env = env
	return cmd
}

// environment is the reader's, without what would configure hallpass.
func (d *demo) environment(who string) []string {
	env := slices.DeleteFunc(os.Environ(), func(v string) bool {
		return slices.ContainsFunc([]string{"HALLPASS_", "TEMPORAL_", "VAULT_", "PG"}, func(prefix string) bool { return strings.HasPrefix(v, prefix) })
	})
	env = append(env, "PATH="+d.path("bin")+string(os.PathListSeparator)+d.a.env("PATH"))
	return append(env, d.identity(who)...)
}

// exec runs a command to its end.
func (d *demo) exec(who string, command []string) (code int, out string, err error) {
	text, err := d.command(who, command).CombinedOutput()
	var exit *exec.ExitError
	if errors.As(err, &exit) && d.a.ctx.Err() == nil {
		return exit.ExitCode(), string(text), nil
	}
	return 0, string(text), err
}

// task is a command that runs while the story goes on.
type task struct {
	ctx    context.Context
	out    buffer
	shown  int
	exited chan error
}

func (d *demo) background(who string, command []string) (*task, error) {
	t := &task{ctx: d.a.ctx, exited: make(chan error, 1)}
	cmd := d.command(who, command)
	cmd.Stdout, cmd.Stderr = &t.out, &t.out
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	go func() { t.exited <- cmd.Wait() }()
	return t, nil
}

// asks starts a command that asks for something and waits for it, and returns
// the request's id once it waits.
func (d *demo) asks(who string, command []string) (waiting *task, id string, err error) {
	d.prompt(who, command)
	if waiting, err = d.background(who, command); err != nil {
		return nil, "", err
	}
	if err := waiting.saw("waiting for"); err != nil {
		return nil, "", err
	}
	d.quote(waiting.take())
	if id = firstID.FindString(waiting.all()); id == "" {
		return nil, "", errors.New("the demo found no request id")
	}
	return waiting, id, nil
}

// saw waits until the task has printed something.
func (t *task) saw(text string) error {
	deadline := time.Now().Add(15 * time.Second)
	for !strings.Contains(t.out.String(), text) || !strings.HasSuffix(t.out.String(), "\n") {
		select {
		case err := <-t.exited:
			return fmt.Errorf("the command ended early (%w): %s", err, t.out.String())
		case <-time.After(10 * time.Millisecond):
		}
		if err := t.ctx.Err(); err != nil {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("waited too long for %s in: %s", text, t.out.String())
		}
	}
	return nil
}

// done waits until the task has ended as it should.
func (t *task) done(want int) error {
	select {
	case err := <-t.exited:
		code := 0
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			code = exit.ExitCode()
		} else if err != nil {
			return err
		}
		if code != want {
			return fmt.Errorf("the command should have ended with %d, not %d: %s", want, code, t.out.String())
		}
		return nil
	case <-time.After(15 * time.Second):
		return fmt.Errorf("the command doesn't end: %s", t.out.String())
	}
}

// take is what the task has printed since the last time.
func (t *task) take() string {
	all := t.out.String()
	defer func() { t.shown = len(all) }()
	return all[t.shown:]
}

func (t *task) all() string { return t.out.String() }

// buffer is a bytes.Buffer for two goroutines.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

var _ io.Writer = (*buffer)(nil)

func (d *demo) heading(title string, lines ...string) {
	d.step++
	d.p.Printf("\n%s\n", d.p.bold(fmt.Sprintf("%d. %s", d.step, title)))
	d.text(lines...)
	d.p.Printf("\n")
}

func (d *demo) text(lines ...string) {
	for _, l := range lines {
		d.p.Printf("%s\n", l)
	}
}

func (d *demo) prompt(who string, command []string) {
	d.p.Printf("  %s %s\n", d.p.dim(who+"$"), d.p.bold(d.shorten(shellLine(command))))
}

// quote shows a command's output. It is escaped by the command itself; what
// isn't ours, of ssh, is escaped here.
func (d *demo) quote(out string) {
	for line := range strings.Lines(strings.Trim(out, "\n")) {
		line = strings.TrimRight(line, "\r\n")
		if line == "" {
			d.p.Printf("\n")
			continue
		}
		d.p.Printf("    %s\n", d.shorten(strings.ReplaceAll(line, "\t", "    ")))
	}
}

func (d *demo) exit(code int) { d.p.Printf("    %s\n", d.p.dim(fmt.Sprintf("(exit status %d)", code))) }

// shorten writes the demo's folder as readers would.
func (d *demo) shorten(s string) string { return strings.ReplaceAll(s, d.dir, "$DEMO") }
