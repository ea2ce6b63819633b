//go:build linux

package host

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"hallpass/access"
	"hallpass/ca/krl"
	"hallpass/statement"
	testprocess "hallpass/testsuite/process"
)

// patience is far more than anything here takes on a busy machine.
const patience = 30 * time.Second

// login is whom tests log in as. The account that the tests run as is the only
// one that is there for sure.
const login = "root"

// eventually waits until f is content.
func eventually(t testing.TB, what string, f func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for !f() {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %s", what, patience)
		}
		pause(20 * time.Millisecond)
	}
}

func newSigner(t testing.TB) ssh.Signer {
	t.Helper()
	s, _ := newKey(t)
	return s
}

func newKey(t testing.TB) (ssh.Signer, []byte) {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	s, err := ssh.NewSignerFromKey(key)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(key, "")
	if err != nil {
		t.Fatal(err)
	}
	return s, pem.EncodeToMemory(block)
}

// fakeService is the service role as far as hosts see it.
type fakeService struct {
	ca, hostCA ssh.Signer
	server     *httptest.Server
	principals map[string][]string
	noHostCA   bool

	mu       sync.Mutex
	down     bool
	version  uint64
	revoked  []uint64
	body     []byte // nil: made of the above
	sig      string
	changed  chan struct{}
	reports  map[string]access.Session
	times    map[string]int // how often each report came
	refuse   access.Code    // for reports
	agentKey ssh.PublicKey
	tokens   map[string]string // statement id: agent key
	renewals int
	extended map[string][]string // what is said to extend a certificate
	asked    int                 // how often that was asked

	// What hosts are told, where it isn't what it should be; nil: it is.
	signedBy ssh.Signer
	change   func(*access.Enrolled)
	forge    func(access.Statement) access.Statement
}

// tells says how what hosts are told is forged from now on.
func (f *fakeService) tells(signedBy ssh.Signer, change func(*access.Enrolled), forge func(access.Statement) access.Statement) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.signedBy, f.change, f.forge = signedBy, change, forge
}

func newService(t testing.TB) *fakeService {
	t.Helper()
	f := &fakeService{
		ca: newSigner(t), hostCA: newSigner(t), version: 1, changed: make(chan struct{}),
		reports: map[string]access.Session{}, times: map[string]int{}, tokens: map[string]string{},
		principals: map[string][]string{login: {"web-1/" + login}}, extended: map[string][]string{},
	}
	f.server = httptest.NewUnstartedServer(f)
	f.server.Config.ErrorLog = nil
	f.server.EnableHTTP2 = true
	f.server.StartTLS()
	t.Cleanup(func() {
		f.update(func() { f.down = true })
		f.server.CloseClientConnections()
		f.server.Close()
	})
	return f
}

// update changes something and wakes those who wait for a list.
func (f *fakeService) update(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
	close(f.changed)
	f.changed = make(chan struct{})
}

func (f *fakeService) revoke(serials ...uint64) {
	f.update(func() { f.version++; f.revoked = append(f.revoked, serials...) })
}

func (f *fakeService) caPEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: f.server.Certificate().Raw})
}

func (f *fakeService) list() (data []byte, signature string) {
	if f.body != nil {
		return f.body, f.sig
	}
	return signedBy(f.ca, f.version, time.Now(), f.revoked...)
}

// signedBy makes a list that revokes these serials of the signer.
func signedBy(ca ssh.Signer, version uint64, at time.Time, revoked ...uint64) (data []byte, signature string) {
	l := &krl.List{Version: version, Generated: at.Truncate(time.Second), CAs: []krl.CA{{Key: ca.PublicKey(), Ranges: krl.Join(slices.Sorted(slices.Values(revoked))...)}}}
	data, err := l.Marshal()
	if err != nil {
		panic(err)
	}
	if signature, err = krl.Sign(ca, data); err != nil {
		panic(err)
	}
	return data, signature
}

func (f *fakeService) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	down := f.down
	f.mu.Unlock()
	switch {
	case down:
		reply(w, 503, access.Errorf(access.CodeUnavailable, "closed for today"))
	case r.URL.Path == "/v1/krl":
		f.getKRL(w, r)
	case r.URL.Path == "/v1/hosts":
		f.enrol(w, r)
	case r.URL.Path == "/v1/hosts/renew":
		f.renew(w, r)
	case r.URL.Path == "/v1/sessions":
		f.take(w, r)
	case r.URL.Path == "/v1/extensions":
		f.extensions(w, r)
	default:
		reply(w, 404, access.Errorf(access.CodeNotFound, "no %s", r.URL.Path))
	}
}

func reply(w http.ResponseWriter, code int, v any) {
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(v)
}

func (f *fakeService) getKRL(w http.ResponseWriter, r *http.Request) {
	after, _ := strconv.ParseUint(r.URL.Query().Get("after"), 10, 64)
	wait, _ := time.ParseDuration(r.URL.Query().Get("wait"))
	timeout := time.After(wait)
	for {
		f.mu.Lock()
		version, changed, forced, down := f.version, f.changed, f.body != nil, f.down
		data, signature := f.list()
		f.mu.Unlock()
		if down {
			reply(w, 503, access.Errorf(access.CodeUnavailable, "closed for today"))
			return
		}
		if version > after || forced {
			w.Header().Set(krl.SignatureHeader, krl.EncodeSignature(signature))
			_, _ = w.Write(data)
			return
		}
		select {
		case <-changed:
		case <-r.Context().Done():
			return
		case <-timeout:
			w.WriteHeader(http.StatusNotModified)
			return
		}
	}
}

func (f *fakeService) enrol(w http.ResponseWriter, r *http.Request) {
	var in struct {
		Token    string `json:"token"`
		HostKey  string `json:"host_key"`
		AgentKey string `json:"agent_key"`
	}
	_ = json.NewDecoder(r.Body).Decode(&in)
	st, err := statement.ParseToken(in.Token)
	if err != nil {
		reply(w, 400, err)
		return
	}
	join, _ := statement.ParseJoin([]byte(st.Payload))
	key, err := statement.ParseKey(in.AgentKey)
	if err != nil {
		reply(w, 400, err)
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if before := f.tokens[join.ID]; before != "" && before != in.AgentKey {
		reply(w, 409, access.Errorf(access.CodeDuplicate, "the token was used by another host"))
		return
	}
	f.tokens[join.ID] = in.AgentKey
	f.agentKey = key
	f.certify(w, st, in.HostKey)
}

func (f *fakeService) certify(w http.ResponseWriter, asked access.Statement, hostKey string) {
	out := access.Enrolled{
		Answers: asked.Hash(), AgentKey: statement.MarshalKey(f.agentKey),
		Host: "web-1", UserCAs: []string{statement.MarshalKey(f.ca.PublicKey())},
		Principals: f.principals, RenewAfter: time.Now().Add(time.Hour).UTC().Truncate(time.Second),
	}
	if !f.noHostCA {
		key, err := statement.ParseKey(hostKey)
		if err != nil {
			reply(w, 400, err)
			return
		}
		cert := &ssh.Certificate{
			Key: key, CertType: ssh.HostCert, KeyId: "hallpass-host:web-1", Serial: 1 + uint64(f.renewals), ValidPrincipals: []string{"web-1", "127.0.0.1"},
			ValidAfter: uint64(time.Now().Add(-time.Hour).Unix()), ValidBefore: uint64(time.Now().Add(30 * 24 * time.Hour).Unix()),
		}
		if err := cert.SignCert(rand.Reader, f.hostCA); err != nil {
			panic(err)
		}
		out.Certificate = statement.MarshalKey(cert) + " hallpass-host:web-1"
		out.HostCAs = []string{statement.MarshalKey(f.hostCA.PublicKey())}
	}
	if f.change != nil {
		f.change(&out)
	}
	by := f.ca
	if f.signedBy != nil {
		by = f.signedBy
	}
	told, err := statement.SignEnrolled(by, out)
	if err != nil {
		panic(err)
	}
	if f.forge != nil {
		told = f.forge(told)
	}
	reply(w, 200, told)
}

func (f *fakeService) renew(w http.ResponseWriter, r *http.Request) {
	var in access.Enrolment
	_ = json.NewDecoder(r.Body).Decode(&in)
	renewal, key, err := statement.OpenRenewal(in.Statement)
	f.mu.Lock()
	defer f.mu.Unlock()
	if err != nil || renewal.Signer != "web-1" || statement.MarshalKey(key) != statement.MarshalKey(f.agentKey) {
		reply(w, 401, access.Errorf(access.CodeUnverified, "not the agent of web-1: %v", err))
		return
	}
	f.renewals++
	f.certify(w, in.Statement, renewal.HostKey)
}

func (f *fakeService) take(w http.ResponseWriter, r *http.Request) {
	var in struct {
		Host    string
		Reports []struct {
			ID        string
			Statement access.Statement
		}
	}
	_ = json.NewDecoder(r.Body).Decode(&in)
	f.mu.Lock()
	defer f.mu.Unlock()
	type refused struct {
		ID      string      `json:"id"`
		Code    access.Code `json:"code"`
		Message string      `json:"message"`
	}
	out := struct {
		Accepted []string  `json:"accepted"`
		Refused  []refused `json:"refused"`
	}{}
	for _, rep := range in.Reports {
		s, key, err := statement.OpenSession(rep.Statement)
		f.times[rep.ID]++
		switch {
		case err != nil:
			out.Refused = append(out.Refused, refused{rep.ID, access.CodeOf(err), err.Error()})
		case f.refuse != "":
			out.Refused = append(out.Refused, refused{rep.ID, f.refuse, "refused"})
		case s.ID != rep.ID || in.Host != "web-1" || statement.MarshalKey(key) != statement.MarshalKey(f.agentKey):
			out.Refused = append(out.Refused, refused{rep.ID, access.CodeUnverified, "not the agent's"})
		default:
			f.reports[rep.ID] = s
			out.Accepted = append(out.Accepted, rep.ID)
		}
	}
	reply(w, 200, out)
}

func (f *fakeService) extensions(w http.ResponseWriter, r *http.Request) {
	var m struct {
		Certificates []string `json:"certificates"`
	}
	_ = json.NewDecoder(r.Body).Decode(&m)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked++
	found := []string{}
	for _, line := range m.Certificates {
		found = append(found, f.extended[line]...)
	}
	m.Certificates = found
	reply(w, 200, m)
}

// extend has the service say that one certificate extends another.
func (f *fakeService) extend(cert *ssh.Certificate, by ...*ssh.Certificate) {
	f.update(func() {
		for _, c := range by {
			f.extended[statement.MarshalKey(cert)] = append(f.extended[statement.MarshalKey(cert)], statement.MarshalKey(c))
		}
	})
}

// events are the reports that came of a request, by what they tell.
func (f *fakeService) events(request string) map[string]access.Session {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := map[string]access.Session{}
	for _, s := range f.reports {
		if s.Request == request {
			out[s.Event] = s
		}
	}
	return out
}

func token(t testing.TB, id, host string, cas ...string) string {
	t.Helper()
	now := statement.Time(time.Now())
	st, err := statement.Sign(newSigner(t), access.Join{
		Header:   access.Header{Type: access.TypeHost, ID: id, Signer: "alice", Time: now},
		Resource: "ssh/" + host, Until: now.Add(time.Hour), CAs: cas,
	})
	if err != nil {
		t.Fatal(err)
	}
	s, err := statement.Token(st)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// binary is hallpass-host itself: PAM has to run it.
var binary = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "hallpass-host-bin")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "hallpass-host")
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", path, "hallpass/cmd/hallpass-host")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	return path, os.Chmod(dir, 0o755)
})

func TestMain(m *testing.M) {
	code := m.Run()
	if path, err := binary(); err == nil && os.Geteuid() == 0 {
		_ = os.RemoveAll(filepath.Dir(path))
	}
	os.Exit(code)
}

// world is a host with a real sshd that uses PAM, and a service.
type world struct {
	t       testing.TB
	service *fakeService
	dir     string
	layout  Layout
	bin     string
	sshd    sshd
	pam     string
	port    int
	key     string // private key file of whoever logs in
	pub     ssh.PublicKey
	serial  uint64
	signer  ssh.Signer // of certificates; nil: the service's CA
	agent   *exec.Cmd
}

// needHost is for tests that can run where there is a host to be had.
func needHost(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		testprocess.Unable(t, "a host takes root, sshd and PAM")
	}
	for _, p := range []string{"/usr/sbin/sshd", "/etc/pam.d/sshd"} {
		if _, err := os.Stat(p); err != nil {
			testprocess.Unable(t, "a host takes sshd and PAM: apt-get install openssh-server")
		}
	}
}

// newHost makes a host that isn't enrolled yet. Its sshd has a copy of the
// program under a name of its own, which is also that of its PAM service: the
// machine's own is left alone.
func newHost(t testing.TB) *world {
	t.Helper()
	needHost(t)
	bin, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "hallpass-host-test")
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, service: newService(t), dir: dir, layout: Layout{Root: filepath.Join(dir, "root")}, bin: bin}
	name := filepath.Base(dir)
	w.sshd = sshd{program: filepath.Join(dir, name), config: filepath.Join(dir, "sshd_config")}
	w.pam = filepath.Join("/etc/pam.d", name)
	t.Cleanup(func() {
		// What a test left open would outlive it.
		records, _ := filepath.Glob(filepath.Join(w.layout.sessions(), "*.json"))
		for _, path := range records {
			if x, err := readRecord(path); err == nil && x.Cgroup != "" {
				_ = x.Cgroup.kill()
				eventually(t, "its processes are gone", func() bool { return !x.Cgroup.populated() })
				_ = x.Cgroup.remove()
			}
		}
		_ = os.Remove(w.pam)
		_ = os.RemoveAll(dir)
	})
	must(t, os.Chmod(dir, 0o755), os.MkdirAll("/run/sshd", 0o755))
	program, err := os.ReadFile("/usr/sbin/sshd")
	must(t, err, os.WriteFile(w.sshd.program, program, 0o755))
	service, err := os.ReadFile("/etc/pam.d/sshd")
	must(t, err, os.WriteFile(w.pam, []byte(removePAM(string(service))), 0o644))

	hostKey, hostPEM := newKey(t)
	userKey, userPEM := newKey(t)
	w.pub = userKey.PublicKey()
	w.key = filepath.Join(dir, "id")
	w.port, err = testprocess.FreePort()
	must(t, err,
		os.WriteFile(w.key, userPEM, 0o600),
		os.WriteFile(filepath.Join(dir, "host"), hostPEM, 0o600),
		os.WriteFile(filepath.Join(dir, "host.pub"), ssh.MarshalAuthorizedKey(hostKey.PublicKey()), 0o644),
		os.WriteFile(filepath.Join(dir, "known_hosts"), append([]byte("@cert-authority * "), ssh.MarshalAuthorizedKey(w.service.hostCA.PublicKey())...), 0o644),
		os.WriteFile(filepath.Join(dir, "ca.pem"), w.service.caPEM(), 0o644),
		os.Mkdir(filepath.Join(dir, "sshd_config.d"), 0o755),
		os.WriteFile(filepath.Join(dir, "authorized_keys"), nil, 0o644),
	)
	w.configure("")
	return w
}

func must(t testing.TB, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

func (w *world) configure(extra string) {
	must(w.t, os.WriteFile(w.sshd.config, fmt.Appendf(nil, `Include %[1]s/sshd_config.d/*.conf
%[3]s
Port %[2]d
ListenAddress 127.0.0.1
HostKey %[1]s/host
PidFile %[1]s/sshd.pid
LogLevel VERBOSE
StrictModes no
UsePAM yes
PermitRootLogin yes
MaxStartups 500
KbdInteractiveAuthentication no
PasswordAuthentication no
AuthorizedKeysFile %[1]s/authorized_keys
Subsystem sftp internal-sftp
# bash reads no .bashrc then: it may take long, and leave locks behind when its session is ended.
SetEnv SHLVL=1
`, w.dir, w.port, extra), 0o644))
}

// hallpassHost runs the program.
func (w *world) hallpassHost(args ...string) (string, error) {
	out, err := exec.Command(w.bin, append([]string{"--root", w.layout.Root}, args...)...).CombinedOutput()
	return string(out), err
}

func (w *world) enrollArgs(extra ...string) []string {
	return append([]string{"enroll", "--service", w.service.server.URL, "--ca", filepath.Join(w.dir, "ca.pem"),
		"--token", token(w.t, statement.NewID(), "web-1"), "--break-glass", "nobody",
		"--sshd", w.sshd.program, "--sshd-config", w.sshd.config, "--pam", w.pam}, extra...)
}

// startSSHD starts the server.
func (w *world) startSSHD() {
	cmd := exec.Command(w.sshd.program, "-D", "-f", w.sshd.config, "-E", filepath.Join(w.dir, "sshd.log"))
	must(w.t, cmd.Start())
	w.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if w.t.Failed() {
			log, _ := os.ReadFile(filepath.Join(w.dir, "sshd.log"))
			w.t.Logf("log of sshd:\n%s", tail(log))
		}
	})
	eventually(w.t, "sshd listens", func() bool {
		c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", w.port))
		if err == nil {
			_ = c.Close()
		}
		return err == nil
	})
}

func tail(b []byte) []byte { return b[max(0, len(b)-6000):] }

// startAgent runs the agent and waits until it has a list.
func (w *world) startAgent() {
	w.t.Helper()
	log, err := os.OpenFile(filepath.Join(w.dir, "agent.log"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	must(w.t, err)
	cmd := exec.Command(w.bin, "--root", w.layout.Root, "run", "--log-level", "debug")
	cmd.Stderr = log
	must(w.t, cmd.Start(), log.Close())
	w.agent = cmd
	w.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if w.t.Failed() && w.agent == cmd {
			log, _ := os.ReadFile(filepath.Join(w.dir, "agent.log"))
			w.t.Logf("log of the agent:\n%s", tail(log))
		}
	})
	eventually(w.t, "agent runs", func() bool { _, err := Query(w.layout); return err == nil })
}

// killAgent is a crash.
func (w *world) killAgent() {
	must(w.t, w.agent.Process.Kill())
	_ = w.agent.Wait()
}

// newWorld is a host that is enrolled, with everything running.
func newWorld(t testing.TB) *world {
	t.Helper()
	w := newHost(t)
	if out, err := w.hallpassHost(w.enrollArgs()...); err != nil {
		t.Fatalf("enroll: %v\n%s", err, out)
	}
	w.startSSHD()
	w.startAgent()
	return w
}

// certificate makes a certificate as hallpass's CA does, and its file.
func (w *world) certificate(life time.Duration, change func(*ssh.Certificate)) (cert *ssh.Certificate, request, file string) {
	w.t.Helper()
	w.serial++
	request = statement.NewID()
	cert = &ssh.Certificate{
		Key: w.pub, Serial: w.serial, CertType: ssh.UserCert, KeyId: "hallpass:" + request + ":alice",
		ValidPrincipals: []string{"web-1/" + login},
		ValidAfter:      uint64(time.Now().Add(-5 * time.Minute).Unix()),
		ValidBefore:     uint64(time.Now().Add(life).Unix()),
		Permissions: ssh.Permissions{Extensions: map[string]string{
			"permit-pty": "", "permit-port-forwarding": "", "permit-agent-forwarding": "",
		}},
	}
	signer := w.signer
	if signer == nil {
		signer = w.service.ca
	}
	if change != nil {
		change(cert)
	}
	must(w.t, cert.SignCert(rand.Reader, signer))
	return cert, request, w.writeCert(cert)
}

func (w *world) writeCert(cert *ssh.Certificate) string {
	file := filepath.Join(w.dir, fmt.Sprintf("cert-%d-%s.pub", cert.Serial, statement.NewID()))
	must(w.t, os.WriteFile(file, ssh.MarshalAuthorizedKey(cert), 0o600))
	return file
}

// args are ssh's, up to the destination.
func (w *world) args(cert string, options ...string) []string {
	args := []string{
		"-F", "none", "-p", strconv.Itoa(w.port), "-i", w.key,
		"-o", "UserKnownHostsFile=" + filepath.Join(w.dir, "known_hosts"), "-o", "GlobalKnownHostsFile=none",
		"-o", "StrictHostKeyChecking=yes", "-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes",
	}
	if cert != "" {
		args = append(args, "-o", "CertificateFile="+cert)
	}
	args = append(args, options...)
	return append(args, login+"@127.0.0.1")
}

// client is a running ssh.
type client struct {
	t    testing.TB
	cmd  *exec.Cmd
	in   io.WriteCloser
	out  *buffer
	done chan struct{}
	gone time.Time
}

// buffer can be read while it is written.
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

func (w *world) ssh(args ...string) *client {
	w.t.Helper()
	c := &client{t: w.t, cmd: exec.Command("ssh", args...), out: &buffer{}, done: make(chan struct{})}
	c.cmd.Stdout, c.cmd.Stderr = c.out, c.out
	c.cmd.WaitDelay = time.Second
	var err error
	c.in, err = c.cmd.StdinPipe()
	must(w.t, err, c.cmd.Start())
	go func() {
		_ = c.cmd.Wait()
		c.gone = time.Now()
		close(c.done)
	}()
	w.t.Cleanup(func() {
		_ = c.cmd.Process.Kill()
		<-c.done
		if w.t.Failed() {
			w.t.Logf("ssh %v:\n%s", args[len(args)-1:], c.out)
		}
	})
	return c
}

func (c *client) running() bool {
	select {
	case <-c.done:
		return false
	default:
		return true
	}
}

func (c *client) wait(what string) {
	c.t.Helper()
	select {
	case <-c.done:
	case <-time.After(patience):
		c.t.Fatalf("%s: ssh still runs\n%s", what, c.out)
	}
}

// login runs a command and returns what ssh said.
func (w *world) login(cert, command string, options ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	out, err := exec.CommandContext(ctx, "ssh", append(w.args(cert, options...), command)...).CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

// sessions are those that the agent looks after.
func (w *world) sessions() []Session {
	w.t.Helper()
	return w.status().Sessions
}

func (w *world) status() (st *Status) {
	w.t.Helper()
	eventually(w.t, "the agent says how it is", func() bool {
		var err error
		st, err = Query(w.layout)
		return err == nil
	})
	return st
}

func marshal(s ssh.Signer) []byte { return ssh.MarshalAuthorizedKey(s.PublicKey()) }
