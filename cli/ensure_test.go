package cli

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"hallpass/access"
	"hallpass/testsuite/process"
)

func TestEnsureIsSilentWithALiveGrant(t *testing.T) {
	w := newWorld(t)
	w.must("request ssh/test-1")
	dialed := w.dialed
	// Nothing but the folder may be needed from here on.
	w.env["HALLPASS_CONFIG"] = filepath.Join(w.dir, "nosuch.yaml")
	r := w.must("ensure test-1 tester 22")
	if r.stdout+r.stderr != "" || w.dialed != dialed {
		t.Errorf("said %q, dialed %d times", r.stdout+r.stderr, w.dialed-dialed)
	}
}

// What is granted for one command opens no shell, so a login that finds it
// would be sent away by the host, and it must not take the place of a grant
// that opens one.
func TestGrantOfACommandIsNotALogin(t *testing.T) {
	w := newWorld(t)
	r := w.must("request ssh/test-1 --command uptime")
	id := w.service.order[0]
	base := filepath.Join(w.home(), "certs", "tester@"+id)
	if !strings.Contains(r.stdout, " -i "+base+" ") {
		t.Errorf("stdout %q has no -i %s", r.stdout, base)
	}
	if again := w.must("wait " + id); again.stdout != r.stdout {
		t.Errorf("wait after the grant says\n%s\nrequest said\n%s", again.stdout, r.stdout)
	}
	if r := w.run("ensure test-1 tester 22"); r.code != ExitError {
		t.Errorf("ensure takes it for a login: exit %d, %q", r.code, r.stderr)
	}
	w.must("request ssh/test-1")
	w.must("request ssh/test-1 --command uptime")
	if r := w.must("ensure test-1 tester 22"); r.stdout+r.stderr != "" {
		t.Errorf("the login is gone: %q", r.stdout+r.stderr)
	}
	w.must("release " + id)
	if _, err := os.Stat(base + "-cert.pub"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("after release: %v", err)
	}
}

func TestEnsureWithoutTerminal(t *testing.T) {
	for _, tt := range []struct {
		name        string
		typed       string
		tty         bool
		host, login string
		code        int
		stderr      string
	}{
		{"no terminal at all", "", false, "test-1", "tester", ExitError, "no terminal to ask for one on\n  try: hallpass ssh tester@test-1\n"},
		{"terminal, but nobody sees stderr", "x\n", false, "test-1", "tester", ExitError, "no terminal"},
		{"not ours", "x\n", true, "elsewhere", "tester", ExitNotFound, "no resource elsewhere"},
		{"no such login", "x\n", true, "test-1", "root", ExitUsage, "ssh/test-1 has no login root"},
		{"a path is no host", "", false, "../../x", "tester", ExitError, "no terminal"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			w.typed, w.tty = tt.typed, tt.tty
			r := w.run("ensure " + tt.host + " " + tt.login + " 22")
			if r.code != tt.code || !strings.Contains(r.stderr, tt.stderr) || w.dialed != 0 {
				t.Errorf("exit %d, dialed %d, %q", r.code, w.dialed, r.stderr)
			}
		})
	}
}

func TestEnsureAsksOnTheTerminal(t *testing.T) {
	w := newWorld(t)
	w.typed, w.tty = "fix the disk\n", true
	w.service.onTick = func(s *service) {
		s.mu.Lock()
		id, pending := s.order[0], s.requests[s.order[0]].State == access.StatePending
		s.mu.Unlock()
		if pending {
			user := w.env["HALLPASS_USER"]
			w.as("bob").must("approve " + id)
			w.as(user)
		}
	}
	r := w.must("ensure web-1.example.com deploy 22")
	if r.stdout != "" || !strings.Contains(w.prompts.String(), "Reason") || !strings.Contains(r.stderr, "waiting for 1 approval from sre") {
		t.Errorf("stdout %q, prompts %q, stderr %q", r.stdout, w.prompts, r.stderr)
	}
	if got := w.service.requests[w.service.order[0]].Standing.Request.Reason; got != "fix the disk" {
		t.Errorf("reason %q", got)
	}
	w.prompts.Reset()
	w.must("ensure web-1 deploy 22") // the other name of the host
	if w.prompts.Len() > 0 || len(w.service.order) != 1 {
		t.Errorf("asked again")
	}
}

func TestEnsureJoinsARequestUnderWay(t *testing.T) {
	w := newWorld(t)
	id := w.ask("ssh/web-1 --as deploy --reason x")
	w.as("bob").must("approve " + id)
	w.as("alice").typed, w.tty = "\n", true
	w.must("ensure web-1 deploy 22")
	if w.prompts.Len() > 0 || len(w.service.order) != 1 {
		t.Errorf("asked for a second one: %s", w.prompts)
	}
	// One that was denied is no reason not to ask again.
	id = w.ask("ssh/web-1 --as root --reason x")
	w.as("bob").must("deny " + id)
	w.as("alice")
	w.service.onTick = nil
	if r := w.run("ensure web-1 root 22"); r.code != ExitDenied || len(w.service.order) != 3 {
		t.Errorf("exit %d, %d requests, %s", r.code, len(w.service.order), r.stderr)
	}
}

func TestParallelEnsuresAskOnce(t *testing.T) {
	w := newWorld(t)
	w.typed, w.tty = "\n", true
	var wait sync.WaitGroup
	results := make([]result, 10)
	for i := range results {
		wait.Go(func() { results[i] = w.run("ensure test-1 tester 22") })
	}
	wait.Wait()
	for _, r := range results {
		if r.code != 0 {
			t.Errorf("exit %d, %s", r.code, r.stderr)
		}
	}
	if len(w.service.order) != 1 {
		t.Errorf("%d requests", len(w.service.order))
	}
}

func TestExpiredFilesAreSwept(t *testing.T) {
	w := newWorld(t)
	w.must("request ssh/test-1 --for 2m")
	old := w.ask("ssh/web-1 --as deploy --reason x")
	w.now.advance(2*time.Minute - spare)
	if r := w.run("ensure test-1 tester 22"); r.code != ExitError {
		t.Errorf("a certificate with %v to live was good enough", spare)
	}
	w.now.advance(spare)
	w.must("request ssh/test-1 --for 1m")
	if _, err := os.Stat(filepath.Join(w.home(), "requests", old)); err != nil {
		t.Errorf("a request under way was swept: %v", err)
	}
	w.now.advance(keptFor + time.Second)
	w.must("request ssh/test-1 --for 1m")
	if _, err := os.Stat(filepath.Join(w.home(), "requests", old)); err == nil {
		t.Error("a request that nobody came back to is still there")
	}
	f := &folder{path: w.home(), now: w.now.Now}
	w.now.advance(time.Minute)
	check(t, f.sweep())
	if left, _ := os.ReadDir(f.certs()); len(left) > 0 {
		t.Errorf("certs holds %v", left)
	}
}

// Grants for one name that arrive at the same time don't get mixed up: key,
// public key and certificate are those of one of them.
func TestGrantsArriveTogether(t *testing.T) {
	f := &folder{path: filepath.Join(t.TempDir(), "home"), now: time.Now}
	_, caKey, err := ed25519.GenerateKey(rand.Reader)
	check(t, err)
	signer, err := ssh.NewSignerFromKey(caKey)
	check(t, err)
	grants := make([]grant, 8)
	for i := range grants {
		public, private, err := ed25519.GenerateKey(rand.Reader)
		check(t, err)
		key, err := ssh.NewPublicKey(public)
		check(t, err)
		c := &ssh.Certificate{Key: key, CertType: ssh.UserCert, ValidBefore: uint64(time.Now().Add(time.Hour).Unix())}
		check(t, c.SignCert(rand.Reader, signer))
		grants[i] = grant{certificate: c, key: private, login: "deploy", names: []string{"web-1"}}
	}
	base := filepath.Join(f.certs(), "deploy@web-1")
	for range 15 {
		var all sync.WaitGroup
		for _, g := range grants {
			all.Add(1)
			go func() {
				defer all.Done()
				if _, err := f.install(g); err != nil {
					t.Error(err)
				}
			}()
		}
		all.Wait()
		c, err := readCertificate(base + "-cert.pub")
		check(t, err)
		private, err := readKey(base)
		check(t, err)
		if key, err := ssh.NewPublicKey(private.Public()); err != nil || !bytes.Equal(key.Marshal(), c.Key.Marshal()) {
			t.Fatal("the private key isn't the certificate's")
		}
		public, err := os.ReadFile(base + ".pub")
		check(t, err)
		if !bytes.Equal(public, ssh.MarshalAuthorizedKey(c.Key)) {
			t.Fatal("the public key isn't the certificate's")
		}
	}
}

func TestFolderOthersCanWriteTo(t *testing.T) {
	w := newWorld(t)
	check(t, os.MkdirAll(w.home(), 0o700))
	check(t, os.Chmod(w.home(), 0o770))
	r := w.run("request ssh/test-1")
	if r.code != ExitError || !strings.Contains(r.stderr, "can be written to by others\n  try: chmod 700 ") || len(w.service.order) != 0 {
		t.Errorf("exit %d, %s", r.code, r.stderr)
	}
}

func TestNamesOfFiles(t *testing.T) {
	f := &folder{path: "/h"}
	for _, tt := range []struct{ login, host, want string }{
		{"deploy", "web-1", "/h/certs/deploy@web-1"},
		{"deploy", "WEB-1.example.com", "/h/certs/deploy@WEB-1.example.com"},
		{"_x", "::1", "/h/certs/_x@::1"},
		{"a-b", "c", "/h/certs/a-b@c"},
		{"a", "b-c", "/h/certs/a@b-c"},
		{"a", "", ""}, {"", "a", ""},
		{"a", "../x", ""}, {"../a", "x", ""}, {"a", "x/y", ""}, {"a@b", "c", ""}, {"a", "b@c", ""},
		{"a", "..", ""}, {"a", "-x", ""}, {"a", "x y", ""}, {"a", "x\n", ""}, {"a", "x%n", ""}, {"a", "$(x)", ""},
		{"a", strings.Repeat("x", 254), ""},
	} {
		if got := f.base(tt.login, tt.host); got != tt.want {
			t.Errorf("%q on %q: %q, want %q", tt.login, tt.host, got, tt.want)
		}
	}
}

// serveAgent runs an ssh-agent in memory.
func serveAgent(t *testing.T, w *world) agent.Agent {
	t.Helper()
	keys := agent.NewKeyring()
	dir, err := os.MkdirTemp("", "agent") // a socket's path has to be short
	check(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	socket := filepath.Join(dir, "s")
	l, err := net.Listen("unix", socket)
	check(t, err)
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				_ = agent.ServeAgent(keys, c) // ends with the connection
				_ = c.Close()
			}()
		}
	}()
	w.env["SSH_AUTH_SOCK"] = socket
	return keys
}

func TestAgentHoldsTheKey(t *testing.T) {
	w := newWorld(t)
	keys := serveAgent(t, w)
	r := w.must("request ssh/test-1")
	if !strings.Contains(r.stdout, "The key is in ssh-agent") {
		t.Errorf("%s", r.stdout)
	}
	files(t, filepath.Join(w.home(), "certs"), map[string]os.FileMode{
		".": 0o700 | os.ModeDir, "tester@test-1.pub": 0o600, "tester@test-1-cert.pub": 0o600,
	})
	held, err := keys.List()
	check(t, err)
	if len(held) == 0 {
		t.Fatal("the agent has nothing")
	}
	w.must("ensure test-1 tester 22")
	w.must("release " + w.service.order[0])
	if held, _ = keys.List(); len(held) != 0 {
		t.Errorf("after the release the agent holds %v", held)
	}
	// An agent that lost the key is no live grant.
	w.must("request ssh/test-1")
	check(t, keys.RemoveAll())
	if r := w.run("ensure test-1 tester 22"); r.code != ExitError {
		t.Errorf("exit %d, %s", r.code, r.stderr)
	}
	// An agent that is locked takes no keys: the file does.
	check(t, keys.Lock([]byte("x")))
	w.must("request ssh/test-1")
	if info, err := os.Stat(filepath.Join(w.home(), "certs", "tester@test-1")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
}

func TestExistingKeyIsCertified(t *testing.T) {
	w := newWorld(t)
	public, _, err := ed25519.GenerateKey(nil)
	check(t, err)
	key, err := ssh.NewPublicKey(public)
	check(t, err)
	mine := filepath.Join(w.dir, "mine")
	check(t, os.WriteFile(mine+".pub", ssh.MarshalAuthorizedKey(key), 0o600))
	check(t, os.WriteFile(mine, []byte("a private key, never read"), 0o600))
	w.must("request ssh/test-1 --key " + mine + ".pub")
	link, err := os.Readlink(filepath.Join(w.home(), "certs", "tester@test-1"))
	if err != nil || link != mine {
		t.Errorf("%s, %v", link, err)
	}
	w.must("release " + w.service.order[0])
	if _, err := os.Stat(mine); err != nil {
		t.Error("the user's own key is gone:", err)
	}
}

func TestCertificateOfAnotherIsNotInstalled(t *testing.T) {
	w := newWorld(t)
	first := w.ask("ssh/test-1")
	second := w.ask("ssh/test-1")
	w.service.requests[first].Credential.Certificate = w.service.requests[second].Credential.Certificate
	r := w.run("wait " + first)
	if r.code != ExitError || !strings.Contains(r.stderr, "is for another key; it was not kept") {
		t.Errorf("exit %d, %s", r.code, r.stderr)
	}
}

func TestSSHConfig(t *testing.T) {
	w := newWorld(t)
	r := w.must("ssh-config")
	self := strings.SplitN(strings.SplitN(r.stdout, "!exec \"", 2)[1], " ensure", 2)[0]
	want := `# Written by hallpass ssh-config. Run it again when the catalog has changed.

Match originalhost test-1
  User tester
  CertificateFile "HOME/certs/%r@%n-cert.pub"
  IdentityFile "HOME/certs/%r@%n"
  IdentitiesOnly yes
Match originalhost test-1 !exec "SELF ensure %n %r %p"
  ProxyCommand false
  LogLevel QUIET

Match originalhost vault
  User root
  CertificateFile "HOME/certs/%r@%n-cert.pub"
  IdentityFile "HOME/certs/%r@%n"
  IdentitiesOnly yes
Match originalhost vault !exec "SELF ensure %n %r %p"
  ProxyCommand false
  LogLevel QUIET

Match originalhost web-1,web-1.example.com
  HostName 10.0.0.7
  Port 2222
  CertificateFile "HOME/certs/%r@%n-cert.pub"
  IdentityFile "HOME/certs/%r@%n"
  IdentitiesOnly yes
Match originalhost web-1,web-1.example.com !exec "SELF ensure %n %r %p"
  ProxyCommand false
  LogLevel QUIET
`
	want = strings.NewReplacer("HOME", w.home(), "SELF", self).Replace(want)
	if r.stdout != want {
		t.Errorf("got\n%s\nwant\n%s", r.stdout, want)
	}
}

func TestSSHConfigInstall(t *testing.T) {
	w := newWorld(t)
	check(t, os.MkdirAll(filepath.Join(w.dir, ".ssh"), 0o700))
	dotfile := filepath.Join(w.dir, "dotfile")
	own := "Host web-1\n  Compression yes" // no newline at the end
	check(t, os.WriteFile(dotfile, []byte(own), 0o644))
	check(t, os.Symlink(dotfile, filepath.Join(w.dir, ".ssh", "config")))
	w.must("ssh-config --install")
	w.must("ssh-config --install")
	got, err := os.ReadFile(dotfile)
	check(t, err)
	want := own + "\n\n# Added by hallpass ssh-config --install\nMatch all\n  Include \"" + filepath.Join(w.home(), "ssh_config") + "\"\n"
	if string(got) != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	info, err := os.Lstat(filepath.Join(w.dir, ".ssh", "config"))
	if err != nil || info.Mode()&os.ModeSymlink == 0 {
		t.Errorf("the link is gone: %v, %v", info, err)
	}

	// What ssh itself makes of it, with ensure replaced by true and false.
	bin := process.Installed(t, "ssh")
	generated := filepath.Join(w.home(), "ssh_config")
	data, err := os.ReadFile(generated)
	check(t, err)
	for _, tt := range []struct {
		ensure string
		want   []string
		not    string
	}{
		{"true", []string{"hostname 10.0.0.7", "port 2222", "compression yes", "identitiesonly yes", "certificatefile " + w.home() + "/certs/%r@%n-cert.pub"}, "proxycommand"},
		{"false", []string{"proxycommand false", "loglevel SILENT"}, ""},
	} {
		var lines []string
		for _, l := range strings.Split(string(data), "\n") {
			if before, _, ok := strings.Cut(l, "!exec \""); ok {
				l = before + "!exec \"" + tt.ensure + "\""
			}
			lines = append(lines, l)
		}
		check(t, os.WriteFile(generated, []byte(strings.Join(lines, "\n")), 0o600))
		out, err := exec.Command(bin, "-G", "-F", dotfile, "deploy@web-1").CombinedOutput()
		if err != nil {
			t.Fatalf("ssh -G: %v\n%s", err, out)
		}
		for _, want := range tt.want {
			if !strings.Contains(string(out), want+"\n") {
				t.Errorf("%s: ssh -G lacks %q:\n%s", tt.ensure, want, out)
			}
		}
		if tt.not != "" && strings.Contains(string(out), "\n"+tt.not) {
			t.Errorf("%s: ssh -G has %q:\n%s", tt.ensure, tt.not, out)
		}
	}
}

func TestFolderOfSomebodyElse(t *testing.T) {
	if os.Geteuid() != 0 {
		process.Unable(t, "only root can give a folder away")
	}
	w := newWorld(t)
	check(t, os.Mkdir(w.home(), 0o755))
	check(t, os.Chown(w.home(), 4242, 4242))
	r := w.run("request ssh/test-1")
	if r.code != ExitError || !strings.Contains(r.stderr, "belongs to another user (uid 4242)") || len(w.service.order) != 0 {
		t.Errorf("exit %d\n%s", r.code, r.stderr)
	}
}

// Links that somebody has put where the files of a grant go, while the folder
// was still open to others, are replaced and not followed.
func TestFilesBehindSymlinks(t *testing.T) {
	w := newWorld(t)
	certs := filepath.Join(w.home(), "certs")
	check(t, os.MkdirAll(certs, 0o700))
	victim := filepath.Join(t.TempDir(), "victim")
	check(t, os.WriteFile(victim, []byte("mine"), 0o644))
	names := []string{"tester@test-1", "tester@test-1.pub", "tester@test-1-cert.pub"}
	for _, name := range names {
		check(t, os.Symlink(victim, filepath.Join(certs, name)))
	}
	if r := w.run("request ssh/test-1"); r.code != ExitOK {
		t.Fatalf("exit %d\n%s", r.code, r.stderr)
	}
	if data, err := os.ReadFile(victim); err != nil || string(data) != "mine" {
		t.Errorf("what a link pointed to is now %q: %v", data, err)
	}
	for _, name := range names {
		info, err := os.Lstat(filepath.Join(certs, name))
		check(t, err)
		if !info.Mode().IsRegular() || info.Mode().Perm()&0o077 != 0 && name == names[0] {
			t.Errorf("%s is %s", name, info.Mode())
		}
	}
}
