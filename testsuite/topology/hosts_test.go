package topology

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"hallpass/cli"
	"hallpass/testsuite/hosttest"
	"hallpass/testsuite/process"
	"hallpass/testsuite/sshdtest"
)

// furnishHosts makes web-1 and web-2, and has the catalog say where they are
// and that people log in there as whoever runs the tests, who has to be root.
func (w *world) furnishHosts() {
	w.t.Helper()
	if os.Geteuid() != 0 {
		if _, ci := os.LookupEnv("CI"); ci {
			w.t.Fatal("hosts with PAM take root, and CI doesn't run as root")
		}
		w.t.Log("without hosts: they take root")
		return
	}
	path := filepath.Join(w.dir, "public/catalog.yaml")
	data, err := os.ReadFile(path)
	if err != nil {
		w.t.Fatal(err)
	}
	text := strings.ReplaceAll(string(data), "logins: [deploy]", "logins: ["+sshdtest.User(w.t)+"]")
	for _, name := range []string{"web-1", "web-2"} {
		address := w.address()
		_, port, _ := net.SplitHostPort(address)
		h, err := hosttest.New(filepath.Join(w.bin, "hallpass-host"), port)
		if err != nil {
			w.t.Fatal(err)
		}
		w.t.Cleanup(func() {
			if w.t.Failed() {
				w.t.Logf("log of sshd on %s:\n%s", name, tail(h.Log(), 40))
			}
			h.Close()
		})
		w.hosts[name] = h
		text = strings.Replace(text, name+":22", address, 1)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		w.t.Fatal(err)
	}
}

// enroll does what deploy/host.sh does on each host.
func (w *world) enroll() {
	w.t.Helper()
	for name, h := range w.hosts {
		token, err := os.ReadFile(filepath.Join(w.dir, "hosts", name, "token"))
		if err != nil {
			w.t.Fatal(err)
		}
		args := append([]string{"enroll", "--service", "https://" + w.service, "--ca", filepath.Join(w.dir, "service-ca/ca.pem"),
			"--host", name, "--token", "-", "--break-glass", "nobody"}, h.Files()...)
		w.poll(name+" to enrol", func() error {
			cmd := h.Command(args...)
			cmd.Stdin = bytes.NewReader(token)
			if out, err := cmd.CombinedOutput(); err != nil {
				return fmt.Errorf("%w: %s", err, out)
			}
			return nil
		})
		if err := h.Start(); err != nil {
			w.t.Fatal(err)
		}
		agent, err := process.Start(h.Command("run"), func(line string) bool { return strings.Contains(line, "looking after sessions") })
		if err != nil {
			w.t.Fatal(err)
		}
		w.agents[name] = agent
		w.t.Cleanup(func() {
			agent.Kill()
			if w.t.Failed() {
				w.t.Logf("log of hallpass-host on %s:\n%s", name, tail(agent.Output(), 40))
			}
		})
	}
}

// visit is one login on a host: it works at the first try, whatever is down,
// and doesn't any more once the grant has been given back and the host has
// heard of it. The certificate itself would be good for longer.
func (w *world) visit(ctx context.Context, name string) error {
	id, err := w.ask(ctx, alice, "ssh/"+name, visit)
	w.visits.Store(id, visit)
	if err == nil && name == "web-1" {
		err = w.approve(ctx, alice, id)
	}
	if err == nil {
		err = w.receive(ctx, alice, id)
	}
	if err != nil {
		return err
	}
	p, err := w.keep(name, filepath.Join(w.dir, "people/alice/.hallpass"))
	if err != nil {
		return err
	}
	if out, err := p.login(ctx); err != nil {
		return fmt.Errorf("%s lets nobody in with the certificate of %s: %w: %s", name, id, err, out)
	}
	err = wait("the grant to be given back", func() error {
		code, _, errs := w.as(ctx, "alice", "release", id)
		if code != cli.ExitOK && !w.state(ctx, alice, id).Final() {
			return fmt.Errorf("release: exit code %d: %s", code, errs)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if err := p.refused(ctx); err != nil {
		return err
	}
	if end := time.Unix(int64(p.certificate.ValidBefore), 0); !time.Now().Before(end) {
		return fmt.Errorf("%s let people in until the certificate of %s ended by itself", name, id)
	}
	return nil
}

// pass is a certificate for a host with its key, in files of its own.
type pass struct {
	certificate *ssh.Certificate
	ssh         []string // the command that logs in with it
}

// keep makes copies of what hallpass has put into somebody's folder for a host.
func (w *world) keep(host, folder string) (*pass, error) {
	name := sshdtest.User(w.t) + "@" + host
	var parts [2][]byte
	for i, file := range []string{name, name + "-cert.pub"} {
		var err error
		if parts[i], err = os.ReadFile(filepath.Join(folder, "certs", file)); err != nil {
			return nil, err
		}
	}
	return w.pass(host, parts[0], parts[1])
}

// pass is one of a private key and a certificate, as in their files.
func (w *world) pass(host string, private, line []byte) (*pass, error) {
	dir, err := os.MkdirTemp(w.t.TempDir(), "pass")
	if err != nil {
		return nil, err
	}
	for name, data := range map[string][]byte{"key": private, "key-cert.pub": line} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			return nil, err
		}
	}
	key, _, _, _, err := ssh.ParseAuthorizedKey(line)
	if err != nil {
		return nil, err
	}
	return &pass{key.(*ssh.Certificate), []string{
		"ssh", "-F", "none", "-p", w.hosts[host].Port, "-i", filepath.Join(dir, "key"),
		"-o", "IdentitiesOnly=yes", "-o", "IdentityAgent=none", "-o", "BatchMode=yes", "-o", "HostKeyAlias=" + host,
		"-o", "UserKnownHostsFile=" + filepath.Join(w.dir, "public/known_hosts"), "-o", "GlobalKnownHostsFile=none",
		sshdtest.User(w.t) + "@127.0.0.1", "echo in",
	}}, nil
}

// login is one login with it. What ssh says is returned with an error.
func (p *pass) login(ctx context.Context) (said string, err error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, p.ssh[0], p.ssh[1:]...).CombinedOutput()
	if err == nil && !strings.HasSuffix(string(out), "in\n") {
		err = errors.New("the command wasn't run")
	}
	return string(out), err
}

// refused waits until the host lets it in no more.
func (p *pass) refused(ctx context.Context) error {
	return wait("the host to refuse a certificate", func() error {
		out, err := p.login(ctx)
		var exit *exec.ExitError
		if errors.As(err, &exit) && exit.ExitCode() == 255 && strings.Contains(out, "Permission denied") {
			return nil
		}
		return fmt.Errorf("it says %w, %s", err, out)
	})
}

// apart runs a script with an /etc, a /home, a /run and a /var/lib of its own, as a container
// has them, and leaves nothing of it on this machine.
const apart = `set -eu
mkdir "$1/etc"
cp -a /etc/. "$1/etc/"
rm -rf "$1"/etc/ssh/ssh_host_* "$1/etc/hallpass-host"
mount --bind "$1/etc" /etc
for folder in /home /run /var/lib; do mount -t tmpfs tmpfs $folder; done
shift
exec sh "$@"
`

// deploy/host.sh makes a host of a machine that has sshd and hallpass-host: it
// enrols, and somebody with a grant gets in, as the user that the script makes.
func TestHostScript(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 || runtime.GOOS != "linux" {
		if _, ci := os.LookupEnv("CI"); ci {
			t.Fatal("a host takes root on Linux, and CI doesn't run as that")
		}
		t.Skip("a host takes root on Linux")
	}
	w := furnish(t)
	w.run("workflows-1", "issuer-1", "service")
	address := w.address()
	_, port, _ := net.SplitHostPort(address)
	folder := t.TempDir()
	if err := os.Chmod(folder, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", apart, "sh", folder,
		abs(t, filepath.Join(deploy, "host.sh")), "-p", port, "-o", "ListenAddress=127.0.0.1")
	cmd.Env = []string{"PATH=" + w.bin + ":" + os.Getenv("PATH"), "HOST=web-1", "SERVICE=https://" + w.service, "HALLPASS_SETUP=" + w.dir}
	host, err := process.Start(cmd, func(line string) bool { return strings.Contains(line, "Server listening on") })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		host.Kill()
		if t.Failed() {
			t.Logf("log of the host:\n%s", tail(host.Output(), 40))
		}
	})

	id, err := w.ask(t.Context(), alice, "ssh/web-1", visit)
	if err == nil {
		w.visits.Store(id, visit)
		err = w.approve(t.Context(), alice, id)
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := w.does(t, alice, "wait", id); !ok {
		return
	}
	key := filepath.Join(w.dir, "people/alice/.hallpass/certs/deploy@web-1")
	said := ""
	w.poll("a login on the host", func() error {
		out, err := exec.Command("ssh", "-F", "none", "-p", port, "-i", key, "-o", "CertificateFile="+key+"-cert.pub", "-o", "IdentitiesOnly=yes",
			"-o", "IdentityAgent=none", "-o", "BatchMode=yes", "-o", "HostKeyAlias=web-1", "-o", "UserKnownHostsFile="+filepath.Join(w.dir, "public/known_hosts"),
			"-o", "GlobalKnownHostsFile=none", "deploy@127.0.0.1", "id -un").CombinedOutput()
		if said = string(out); err != nil {
			err = fmt.Errorf("%w: %s", err, out)
		}
		return err
	})
	if !strings.HasSuffix(said, "deploy\n") {
		t.Errorf("the host says %s", said)
	}
	if _, err := os.Stat("/etc/hallpass-host/config.json"); err == nil {
		t.Error("the test has enrolled this machine")
	}
}
