//go:build linux

package host

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"io/fs"
	"maps"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"hallpass/access"
	"hallpass/ca/krl"
	"hallpass/statement"
)

// snapshot is every file of the host, by path.
func (w *world) snapshot(t testing.TB) map[string]string {
	t.Helper()
	files := map[string]string{}
	add := func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		content := ""
		if d.Type().IsRegular() && info.Size() < 1<<17 { // not the server itself
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			content = string(data)
		}
		files[path] = info.Mode().String() + " " + content
		return nil
	}
	must(t, filepath.WalkDir(w.dir, add))
	pam, err := os.ReadFile(w.pam)
	must(t, err)
	files[w.pam] = string(pam)
	return files
}

// Enrolling and taking it back leaves the host as it was; in between, check is
// content.
func TestEnrollAndUnenroll(t *testing.T) {
	t.Parallel()
	w := newHost(t)
	before := w.snapshot(t)
	out, err := w.hallpassHost(w.enrollArgs()...)
	if err != nil {
		t.Fatalf("enroll: %v\n%s", err, out)
	}
	if !strings.Contains(out, "This host is web-1. Logins: root.") {
		t.Errorf("enroll says\n%s", out)
	}
	if info, err := os.Stat(w.layout.agentKey()); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("agent key: %v %v", info, err)
	}
	// Twice.
	enrolled := w.snapshot(t)
	if out, err := w.hallpassHost(w.enrollArgs()...); err == nil || !strings.Contains(out, "enrolled already, as web-1") {
		t.Errorf("enroll again: %v\n%s", err, out)
	}
	if d := cmp.Diff(enrolled, w.snapshot(t)); d != "" {
		t.Errorf("enrolling again changed something (-before +after):\n%s", d)
	}
	w.startSSHD()
	if out, err := w.hallpassHost("check"); err == nil || !strings.Contains(out, "the host's agent doesn't answer") {
		t.Errorf("check without an agent: %v\n%s", err, out)
	}
	w.startAgent()
	eventually(t, "check is content", func() bool {
		out, err = w.hallpassHost("check")
		return err == nil
	})
	for _, line := range []string{"sshd is set up as enrolment left it", "PAM runs the hook", "cgroup v2 is at", "host certificate for web-1", "agent runs"} {
		if !strings.Contains(out, line) {
			t.Errorf("check doesn't say %q:\n%s", line, out)
		}
	}

	// While the agent runs.
	if out, err := w.hallpassHost("unenroll"); err == nil || !strings.Contains(out, "agent is running") {
		t.Errorf("unenroll: %v\n%s", err, out)
	}
	w.killAgent()
	if out, err := w.hallpassHost("unenroll"); err != nil {
		t.Errorf("unenroll: %v\n%s", err, out)
	}
	after := w.snapshot(t)
	for _, m := range []map[string]string{before, after} {
		maps.DeleteFunc(m, func(path, _ string) bool {
			return slices.Contains([]string{"sshd.log", "agent.log", "sshd.pid"}, filepath.Base(path)) ||
				strings.HasPrefix(path, w.layout.Root) && strings.HasPrefix(m[path], "d") // folders that were made on the way
		})
	}
	if d := cmp.Diff(before, after); d != "" {
		t.Errorf("the host is not as it was (-before +after):\n%s", d)
	}
}

// Whatever is wrong, enrolling says it in a line and leaves everything as it
// was.
func TestEnrollRefuses(t *testing.T) {
	for _, tt := range []struct {
		name  string
		setup func(w *world, args []string) []string
		want  string
	}{
		{"broken configuration of sshd", func(w *world, a []string) []string {
			w.configure("Nonsense yes")
			return a
		}, "sshd doesn't accept its configuration"},
		{"drop-in not included", func(w *world, a []string) []string {
			must(w.t, os.WriteFile(w.sshd.config, []byte("HostKey "+w.dir+"/host\nUsePAM yes\n"), 0o644))
			return a
		}, "doesn't include"},
		{"included for some only", func(w *world, a []string) []string {
			must(w.t, os.WriteFile(w.sshd.config, []byte("HostKey "+w.dir+"/host\nMatch User x\nInclude "+w.dir+"/sshd_config.d/*.conf\n"), 0o644))
			return a
		}, "doesn't include"},
		{"another CA is trusted", func(w *world, a []string) []string {
			w.configure("TrustedUserCAKeys " + w.dir + "/host.pub")
			return a
		}, "trustedusercakeys"},
		{"another list of revoked keys", func(w *world, a []string) []string {
			must(w.t, os.WriteFile(filepath.Join(w.dir, "revoked"), nil, 0o644))
			w.configure("RevokedKeys " + w.dir + "/revoked")
			return a
		}, "revokedkeys"},
		{"PubkeyAuthentication off", func(w *world, a []string) []string {
			w.configure("PubkeyAuthentication no")
			return a
		}, "pubkeyauthentication no"},
		{"no service", func(w *world, a []string) []string {
			w.service.server.Close()
			return a
		}, "the service can't be reached"},
		{"service is down", func(w *world, a []string) []string {
			w.service.update(func() { w.service.down = true })
			return a
		}, "closed for today"},
		{"another CA of the service", func(w *world, a []string) []string {
			must(w.t, os.WriteFile(filepath.Join(w.dir, "ca.pem"), strangeCA(w.t), 0o644))
			return a
		}, "the service can't be reached"},
		{"CA file is something else", func(w *world, a []string) []string {
			must(w.t, os.WriteFile(filepath.Join(w.dir, "ca.pem"), []byte("x"), 0o644))
			return a
		}, "no certificate in PEM"},
		{"another SHA-256", func(w *world, a []string) []string {
			return append(a, "--ca", "", "--ca-sha256", strings.Repeat("00", 32))
		}, "no certificate that"},
		{"no token", func(w *world, a []string) []string { return append(a, "--token", "") }, "there is no --token"},
		{"not a token", func(w *world, a []string) []string { return append(a, "--token", "abc") }, "not a join token"},
		{"somebody else's token", func(w *world, a []string) []string {
			id := statement.NewID()
			w.service.update(func() { w.service.tokens[id] = "used by another" })
			return append(a, "--token", token(w.t, id, "web-1"))
		}, "used by another host"},
		{"token for another host", func(w *world, a []string) []string {
			return append(a, "--host", "web-2")
		}, "the token is for host web-1, not web-2"},
		{"break-glass account that isn't there", func(w *world, a []string) []string {
			return append(a, "--break-glass", "no-such-account")
		}, "no-such-account is not on this host"},
		{"principals that aren't ours", func(w *world, a []string) []string {
			w.service.update(func() { w.service.principals = map[string][]string{"../../x": {"web-1/x"}} })
			return a
		}, "login"},
		{"principals of another login", func(w *world, a []string) []string {
			w.service.update(func() { w.service.principals = map[string][]string{login: {"web-1/deploy"}} })
			return a
		}, "not of the form"},
		{"list by a stranger", func(w *world, a []string) []string {
			w.service.update(func() { w.service.body, w.service.sig = signedBy(newSigner(w.t), 3, time.Now()) })
			return a
		}, "not one of the trusted CA keys"},
		{"list of old", func(w *world, a []string) []string {
			w.service.update(func() {
				w.service.body, w.service.sig = signedBy(w.service.ca, 3, time.Now().Add(-krl.MaxAge-time.Minute))
			})
			return a
		}, "at most 5m old"},
		{"half a block in PAM's file", func(w *world, a []string) []string {
			must(w.t, appendTo(w.pam, pamBegin+"\nsession required pam_exec.so quiet "+w.bin+" hook\n"))
			return a
		}, "isn't whole any more"},
		{"PAM's file ends in a backslash", func(w *world, a []string) []string {
			must(w.t, appendTo(w.pam, "session optional \\\n"))
			return a
		}, "ends in a backslash"},
		{"not accepted after all", func(w *world, a []string) []string {
			// The rehearsal puts our part on top; here another one is above it.
			must(w.t, os.WriteFile(filepath.Join(w.dir, "sshd_config.d", "00-first.conf"), []byte("ExposeAuthInfo yes\n"), 0o644))
			return a
		}, "exposeauthinfo yes"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newHost(t)
			args := tt.setup(w, w.enrollArgs())
			before := w.snapshot(t)
			out, err := w.hallpassHost(args...)
			if err == nil || !strings.Contains(out, tt.want) {
				t.Fatalf("%v, not %q:\n%s", err, tt.want, out)
			}
			if n := strings.Count(strings.TrimSpace(out), "\n"); n > 1 {
				t.Errorf("%d lines:\n%s", n+1, out)
			}
			if d := cmp.Diff(before, w.snapshot(t)); d != "" {
				t.Errorf("the host is not as it was (-before +after):\n%s", d)
			}
		})
	}
}

// Where the block in PAM's file isn't whole any more, the hook would stay when the
// rest is taken back, and without the program let nobody in. So nothing is taken
// back, and it is said which lines somebody has to delete.
func TestUnenrollWithABrokenBlock(t *testing.T) {
	t.Parallel()
	for _, missing := range []string{pamBegin, pamEnd} {
		t.Run(missing, func(t *testing.T) {
			t.Parallel()
			w := newHost(t)
			if out, err := w.hallpassHost(w.enrollArgs()...); err != nil {
				t.Fatalf("enroll: %v\n%s", err, out)
			}
			text, err := os.ReadFile(w.pam)
			must(t, err, os.WriteFile(w.pam, []byte(strings.Replace(string(text), missing+"\n", "", 1)), 0o644))
			before := w.snapshot(t)
			for _, command := range []string{"unenroll", "check"} {
				out, err := w.hallpassHost(command)
				if err == nil || !strings.Contains(out, "the block of hallpass-host in "+w.pam+" isn't whole any more: of it there are lines ") ||
					!strings.Contains(out, "delete by hand") || !strings.Contains(out, w.bin) {
					t.Errorf("%s: %v\n%s", command, err, out)
				}
			}
			if d := cmp.Diff(before, w.snapshot(t)); d != "" {
				t.Errorf("something has changed (-before +after):\n%s", d)
			}
			text, err = os.ReadFile(w.pam)
			must(t, err)
			kept := slices.DeleteFunc(strings.SplitAfter(string(text), "\n"), func(line string) bool {
				return strings.Contains(line, "hallpass-host") || strings.Contains(line, w.bin) || strings.HasPrefix(line, pamPast)
			})
			must(t, os.WriteFile(w.pam, []byte(strings.Join(kept, "")), 0o644))
			if out, err := w.hallpassHost("unenroll"); err != nil {
				t.Errorf("unenroll afterwards: %v\n%s", err, out)
			}
		})
	}
}

// strangeCA is the certificate of an authority that no service is of.
func strangeCA(t testing.TB) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	must(t, err)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// The service can be known by a hash alone.
func TestEnrollByHash(t *testing.T) {
	w := newHost(t)
	sum := sha256Of(w.service.server.Certificate().Raw)
	if out, err := w.hallpassHost(append(w.enrollArgs(), "--ca", "", "--ca-sha256", "SHA256:"+strings.ToUpper(sum))...); err != nil {
		t.Fatalf("enroll: %v\n%s", err, out)
	}
}

// Where something can't be promised, enrolling says so.
func TestEnrollWarns(t *testing.T) {
	for _, tt := range []struct {
		name  string
		setup func(w *world, args []string) []string
		want  string
	}{
		{"without PAM", func(w *world, a []string) []string { return append(a, "--pam", "/nowhere") }, "open sessions can't be ended"},
		{"UsePAM no", func(w *world, a []string) []string { w.configure("UsePAM no"); return a }, "UsePAM no"},
		{"ForceCommand", func(w *world, a []string) []string { w.configure("ForceCommand /bin/true"); return a }, "ForceCommand /bin/true"},
		{"ForceCommand for one", func(w *world, a []string) []string {
			must(w.t, appendTo(w.sshd.config, "Match User "+login+"\nForceCommand /bin/true\n"))
			return a
		}, "ForceCommand /bin/true for root"},
		{"break-glass account with principals", func(w *world, a []string) []string {
			return append(a, "--break-glass", login)
		}, "root is a break-glass account"},
		{"no CA for hosts", func(w *world, a []string) []string { w.service.update(func() { w.service.noHostCA = true }); return a }, "no CA for hosts"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newHost(t)
			out, err := w.hallpassHost(tt.setup(w, w.enrollArgs())...)
			if err != nil || !strings.Contains(out, "warning: ") || !strings.Contains(out, tt.want) {
				t.Errorf("%v, not %q:\n%s", err, tt.want, out)
			}
		})
	}
}

// A break-glass account gets in whatever state the hook is in; nobody else
// does, once it can't run.
func TestBreakGlass(t *testing.T) {
	t.Parallel()
	w := newHost(t)
	if out, err := w.hallpassHost(w.enrollArgs("--break-glass", login)...); err != nil {
		t.Fatalf("enroll: %v\n%s", err, out)
	}
	text, err := os.ReadFile(w.pam)
	must(t, err, os.WriteFile(w.pam, []byte(strings.ReplaceAll(string(text), w.bin, "/nowhere")), 0o644))
	w.startSSHD()
	signer, private := newKey(t)
	key := filepath.Join(w.dir, "ordinary")
	must(t, os.WriteFile(key, private, 0o600), os.WriteFile(filepath.Join(w.dir, "authorized_keys"), marshal(signer), 0o644))
	if out, err := w.login("", "echo in", "-i", key); err != nil || out != "in" {
		t.Errorf("break-glass: %v\n%s", err, out)
	}
	broken := strings.ReplaceAll(string(text), w.bin, "/nowhere")
	must(t, os.WriteFile(w.pam, []byte(strings.ReplaceAll(broken, "user in nobody:"+login, "user in nobody")), 0o644))
	if out, err := w.login("", "echo in", "-i", key); err == nil {
		t.Errorf("without a hook: %s", out)
	}
	if out, err := w.hallpassHost("check"); err == nil || !strings.Contains(out, "/nowhere") {
		t.Errorf("check: %v\n%s", err, out)
	}
}

func TestCheckEnrolled(t *testing.T) {
	host := newSigner(t).PublicKey()
	ca := statement.MarshalKey(newSigner(t).PublicKey())
	good := access.Enrolled{Host: "web-1", UserCAs: []string{ca}, Principals: map[string][]string{"deploy": {"web-1/deploy", "web/deploy"}}}
	for _, tt := range []struct {
		name   string
		change func(*access.Enrolled)
		ok     bool
	}{
		{"good", func(*access.Enrolled) {}, true},
		{"no host", func(e *access.Enrolled) { e.Host = "" }, false},
		{"host that is a path", func(e *access.Enrolled) { e.Host = "../x" }, false},
		{"no CA", func(e *access.Enrolled) { e.UserCAs = nil }, false},
		{"CA with options", func(e *access.Enrolled) { e.UserCAs = []string{"cert-authority " + ca} }, false},
		{"CA and another line", func(e *access.Enrolled) { e.UserCAs = []string{ca + "\n" + ca} }, false},
		{"login that is a path", func(e *access.Enrolled) { e.Principals = map[string][]string{"a/b": {"web-1/a/b"}} }, false},
		{"two principals in one", func(e *access.Enrolled) { e.Principals["deploy"] = []string{"web-1/deploy\nroot"} }, false},
		{"certificate that is none", func(e *access.Enrolled) { e.Certificate = ca }, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			e := good
			e.Principals = maps.Clone(good.Principals)
			tt.change(&e)
			if err := checkEnrolled(e, host, time.Now()); (err == nil) != tt.ok {
				t.Errorf("%v", err)
			}
		})
	}
}

// Only root can change the host, and anybody else is told so.
func TestNotRoot(t *testing.T) {
	w := newHost(t)
	before := w.snapshot(t)
	defer func() {
		if d := cmp.Diff(before, w.snapshot(t)); d != "" {
			t.Errorf("the host is not as it was (-before +after):\n%s", d)
		}
	}()
	for _, command := range []string{"enroll", "unenroll", "check", "run"} {
		cmd := exec.Command(w.bin, "--root", w.layout.Root, command)
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		out, err := cmd.CombinedOutput()
		if err == nil || !strings.Contains(string(out), "only root can do this") {
			t.Errorf("%s: %v\n%s", command, err, out)
		}
	}
}

// Nobody but root reaches the agent: not to open a session, not to ask.
func TestSocketIsRootsAlone(t *testing.T) {
	w := newWorld(t)
	cmd := exec.Command(w.bin, "--root", w.layout.Root, "status")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(out), "permission denied") { // of the folder
		t.Errorf("%v\n%s", err, out)
	}
	// Not even if the folder lets somebody through.
	must(t, os.Chmod(filepath.Dir(w.layout.run()), 0o755), os.Chmod(w.layout.run(), 0o755), os.Chmod(w.layout.socket(), 0o666))
	cmd = exec.Command(w.bin, "--root", w.layout.Root, "status")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(out), "not of root") {
		t.Errorf("%v\n%s", err, out)
	}
}
