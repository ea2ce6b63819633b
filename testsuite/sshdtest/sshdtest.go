// Package sshdtest runs real OpenSSH servers for tests, and logs in to them
// with the real ssh client. Each server has its own folder, host key and
// configuration, and leaves those of the machine alone.
//
// It works as root and as anybody else, who can then log in only as himself.
// It needs ssh and sshd (Debian: openssh-client, openssh-server).
package sshdtest

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

// loginTimeout is far more than a login takes on a busy machine.
const loginTimeout = time.Minute

// Config says whom a server lets in.
type Config struct {
	// CA are the keys in TrustedUserCAKeys.
	CA []ssh.PublicKey

	// Principals is the content of AuthorizedPrincipalsFile for each login.
	// A login without any lets nobody in.
	Principals map[string][]string

	// Lines are put in front of sshd_config. sshd takes the first value it
	// finds for a keyword.
	Lines []string
}

// Server is a running sshd.
type Server struct {
	// User is whom Login logs in as; at first, whoever runs the test.
	User string

	// Port is where it listens on 127.0.0.1.
	Port int

	sshd, dir string
}

// User is the name of whoever runs the test.
func User(t testing.TB) string {
	t.Helper()
	u, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	return u.Username
}

// Start runs a server on a free port of 127.0.0.1 until the test ends. With
// -short it skips the test if the machine has no OpenSSH; otherwise it fails.
//
// The listener is the test's own and passes each connection to an sshd of its
// own (sshd -i). That leaves no moment in which another process can take the
// port, and sshd still sees where the client comes from.
func Start(t testing.TB, c Config) *Server {
	t.Helper()
	s := &Server{User: User(t), sshd: program(t, "sshd")}
	program(t, "ssh")

	// Not t.TempDir: when root runs the test, sshd reads the principals as
	// the one who logs in, who must be able to get there.
	dir, err := os.MkdirTemp("", "sshdtest")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	s.dir = dir

	hostKey, host := newKey(t)
	s.write(t, "host", hostKey, 0o600)
	s.write(t, "known_hosts", []byte("* "+string(ssh.MarshalAuthorizedKey(host))), 0o644)
	s.Trust(t, c.CA...)
	for login, lines := range c.Principals {
		s.SetPrincipals(t, login, lines...)
	}
	conf := append(append([]string(nil), c.Lines...),
		"HostKey "+s.path("host"),
		"PidFile none",
		"LogLevel VERBOSE",
		"StrictModes no",
		"UsePAM no",
		"PermitRootLogin yes",
		"PubkeyAuthentication yes",
		"PasswordAuthentication no",
		"KbdInteractiveAuthentication no",
		"AuthorizedKeysFile none",
		"TrustedUserCAKeys "+s.path("ca.pub"),
		"AuthorizedPrincipalsFile "+s.path("principals")+"/%u",
		// A bash that sshd starts reads the user's .bashrc, unless it believes
		// itself to be inside another one. What is in there may take long, and
		// leave locks behind when a test ends its session.
		"SetEnv SHLVL=1",
	)
	s.write(t, "sshd_config", []byte(strings.Join(conf, "\n")+"\n"), 0o644)
	s.check(t)

	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.Port = ln.Addr().(*net.TCPAddr).Port
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { s.accept(ctx, t, ln, &running) })
	t.Cleanup(func() {
		cancel()
		_ = ln.Close()
		running.Wait()
		if t.Failed() {
			lines := strings.SplitAfter(s.Log(t), "\n")
			t.Logf("log of sshd, its end:\n%s", strings.Join(lines[max(0, len(lines)-100):], ""))
		}
	})
	return s
}

// accept serves until the listener is closed, and ends what still runs when
// ctx is.
func (s *Server) accept(ctx context.Context, t testing.TB, ln net.Listener, running *sync.WaitGroup) {
	for {
		conn, err := ln.Accept()
		if err != nil {
			return
		}
		f, err := conn.(*net.TCPConn).File()
		_ = conn.Close()
		if err != nil {
			t.Errorf("hand connection to sshd: %v", err)
			continue
		}
		cmd := exec.CommandContext(ctx, s.sshd, s.inetd()...)
		cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
		cmd.WaitDelay = 5 * time.Second
		cmd.Stdin, cmd.Stdout = f, f
		err = cmd.Start()
		_ = f.Close()
		if err != nil {
			if ctx.Err() == nil {
				t.Errorf("start sshd: %v", err)
			}
			continue
		}
		running.Go(func() { _ = cmd.Wait() }) // a refused login is exit status 255
	}
}

// inetd are the arguments with which sshd serves one connection on its
// standard input and output.
func (s *Server) inetd() []string {
	return []string{"-i", "-f", s.path("sshd_config"), "-E", s.path("sshd.log")}
}

// ProxyCommand is a value for ssh's option of that name, which reaches the
// server without a port. sshd doesn't know the client's address then.
func (s *Server) ProxyCommand() string {
	return s.sshd + " " + strings.Join(s.inetd(), " ")
}

// Trust replaces the trusted CA keys. It takes effect at once.
func (s *Server) Trust(t testing.TB, keys ...ssh.PublicKey) {
	t.Helper()
	var b bytes.Buffer
	for _, k := range keys {
		b.Write(ssh.MarshalAuthorizedKey(k))
	}
	s.write(t, "ca.pub", b.Bytes(), 0o644)
}

// SetPrincipals replaces the principals that a login honours. It takes effect
// at once.
func (s *Server) SetPrincipals(t testing.TB, login string, principals ...string) {
	t.Helper()
	s.write(t, filepath.Join("principals", login), []byte(strings.Join(principals, "\n")+"\n"), 0o644)
}

// Log is what the server has logged.
func (s *Server) Log(t testing.TB) string {
	t.Helper()
	b, err := os.ReadFile(s.path("sshd.log"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	return string(b)
}

// KnownHosts is the path of a known_hosts file that names the server's key for
// every host.
func (s *Server) KnownHosts() string { return s.path("known_hosts") }

// Args are the arguments with which ssh, scp or sftp reach this server and
// nothing of the machine's configuration or agent matters. What follows them
// is the destination, [login@]127.0.0.1.
func (s *Server) Args() []string {
	return []string{
		"-F", "none",
		"-o", "Port=" + strconv.Itoa(s.Port),
		"-o", "UserKnownHostsFile=" + s.path("known_hosts"),
		"-o", "GlobalKnownHostsFile=none",
		"-o", "StrictHostKeyChecking=yes",
		"-o", "BatchMode=yes",
		"-o", "IdentitiesOnly=yes",
		"-o", "IdentityAgent=none",
	}
}

// Result is how a login went.
type Result struct {
	Code   int // exit status of the command; 255 if ssh failed
	Stdout string
	Stderr string
}

// OK says whether the command ran and succeeded.
func (r Result) OK() bool { return r.Code == 0 }

// Refused says whether the server answered and let nobody in.
func (r Result) Refused() bool {
	return r.Code == 255 && strings.Contains(r.Stderr, "Permission denied")
}

func (r Result) String() string {
	return fmt.Sprintf("exit status %d\nstdout: %s\nstderr: %s", r.Code, r.Stdout, r.Stderr)
}

// Login runs cmd on the server as s.User, with a private key file and, if
// certFile isn't empty, a certificate for it. options are further arguments
// of ssh. A refusal is a Result, not a failure of the test.
func (s *Server) Login(t testing.TB, keyFile, certFile, cmd string, options ...string) Result {
	t.Helper()
	args := append(s.Args(), "-i", keyFile)
	if certFile != "" {
		args = append(args, "-o", "CertificateFile="+certFile)
	}
	args = append(args, options...)
	args = append(args, s.User+"@127.0.0.1", cmd)
	ctx, cancel := context.WithTimeout(context.Background(), loginTimeout)
	defer cancel()
	var stdout, stderr strings.Builder
	c := exec.CommandContext(ctx, "ssh", args...)
	c.Stdout, c.Stderr = &stdout, &stderr
	c.WaitDelay = 5 * time.Second
	err := c.Run()
	var exit *exec.ExitError
	if err != nil && (!errors.As(err, &exit) || ctx.Err() != nil) {
		t.Fatalf("ssh: %v\n%s", err, stderr.String())
	}
	return Result{Code: c.ProcessState.ExitCode(), Stdout: stdout.String(), Stderr: stderr.String()}
}

// NewKey makes an Ed25519 key pair and the file that Login wants.
func NewKey(t testing.TB) (keyFile string, key ssh.PublicKey) {
	t.Helper()
	private, key := newKey(t)
	keyFile = filepath.Join(t.TempDir(), "id")
	if err := os.WriteFile(keyFile, private, 0o600); err != nil {
		t.Fatal(err)
	}
	return keyFile, key
}

// WriteCert writes a certificate to the file that Login wants.
func WriteCert(t testing.TB, cert *ssh.Certificate) (certFile string) {
	t.Helper()
	certFile = filepath.Join(t.TempDir(), "id-cert.pub")
	if err := os.WriteFile(certFile, ssh.MarshalAuthorizedKey(cert), 0o600); err != nil {
		t.Fatal(err)
	}
	return certFile
}

func newKey(t testing.TB) (private []byte, key ssh.PublicKey) {
	t.Helper()
	pub, priv, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(priv, "")
	if err != nil {
		t.Fatal(err)
	}
	if key, err = ssh.NewPublicKey(pub); err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(block), key
}

func (s *Server) path(name string) string { return filepath.Join(s.dir, name) }

// write replaces a file in one step: sshd may be reading it.
func (s *Server) write(t testing.TB, name string, data []byte, mode fs.FileMode) {
	t.Helper()
	path := s.path(name)
	err := os.MkdirAll(filepath.Dir(path), 0o755)
	if err == nil {
		err = os.WriteFile(path+".new", data, mode)
	}
	if err == nil {
		err = os.Rename(path+".new", path)
	}
	if err != nil {
		t.Fatal(err)
	}
}

var missingDir = regexp.MustCompile(`Missing privilege separation directory: (/\S+)`)

// check lets sshd read its configuration. Run by root, sshd wants an empty
// folder that packages leave to the init system to make.
func (s *Server) check(t testing.TB) {
	t.Helper()
	test := func() (string, error) {
		out, err := exec.Command(s.sshd, "-t", "-f", s.path("sshd_config")).CombinedOutput()
		return string(out), err
	}
	out, err := test()
	if m := missingDir.FindStringSubmatch(out); m != nil {
		if err := os.MkdirAll(m[1], 0o755); err != nil {
			t.Fatal(err)
		}
		out, err = test()
	}
	if err != nil {
		t.Fatalf("sshd -t: %v\n%s", err, out)
	}
}

// program finds a program of OpenSSH. sshd insists on an absolute path.
func program(t testing.TB, name string) string {
	t.Helper()
	for _, p := range []string{name, "/usr/sbin/" + name, "/usr/local/sbin/" + name, "/opt/homebrew/sbin/" + name} {
		if p, err := exec.LookPath(p); err == nil {
			if p, err = filepath.Abs(p); err == nil {
				return p
			}
		}
	}
	if testing.Short() {
		t.Skipf("%s is not installed", name)
	}
	t.Fatalf("%s is not installed; on Debian: apt-get install openssh-client openssh-server", name)
	return ""
}
