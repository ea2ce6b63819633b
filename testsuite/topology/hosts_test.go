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
	"strings"
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
	id, err := w.ask(ctx, "ssh/"+name, visit)
	w.visits.Store(id, true)
	if err == nil && name == "web-1" {
		err = w.approve(ctx, id)
	}
	if err != nil {
		return err
	}
	err = wait("its certificate", func() error {
		if code, _, errs := w.as(ctx, "alice", "wait", id); code != cli.ExitOK {
			return fmt.Errorf("wait: exit code %d: %s", code, errs)
		}
		return nil
	})
	if err != nil {
		return err
	}
	me := sshdtest.User(w.t)
	kept, err := os.MkdirTemp(w.t.TempDir(), "visit")
	if err != nil {
		return err
	}
	for from, to := range map[string]string{me + "@" + name: "key", me + "@" + name + "-cert.pub": "key-cert.pub"} {
		data, err := os.ReadFile(filepath.Join(w.dir, "people/alice/.hallpass/certs", from))
		if err == nil {
			err = os.WriteFile(filepath.Join(kept, to), data, 0o600)
		}
		if err != nil {
			return err
		}
	}
	line, err := os.ReadFile(filepath.Join(kept, "key-cert.pub"))
	if err != nil {
		return err
	}
	key, _, _, _, err := ssh.ParseAuthorizedKey(line)
	if err != nil {
		return err
	}
	end := time.Unix(int64(key.(*ssh.Certificate).ValidBefore), 0)
	login := func() (string, error) {
		ctx, cancel := context.WithTimeout(ctx, time.Minute)
		defer cancel()
		out, err := exec.CommandContext(ctx, "ssh", "-F", "none", "-p", w.hosts[name].Port, "-i", filepath.Join(kept, "key"),
			"-o", "IdentitiesOnly=yes", "-o", "IdentityAgent=none", "-o", "BatchMode=yes", "-o", "HostKeyAlias="+name,
			"-o", "UserKnownHostsFile="+filepath.Join(w.dir, "public/known_hosts"), "-o", "GlobalKnownHostsFile=none",
			me+"@127.0.0.1", "echo in").CombinedOutput()
		return string(out), err
	}
	if out, err := login(); err != nil || !strings.HasSuffix(out, "in\n") {
		return fmt.Errorf("%s lets nobody in with the certificate of %s: %w: %s", name, id, err, out)
	}
	err = wait("the grant to be given back", func() error {
		code, _, errs := w.as(ctx, "alice", "release", id)
		if code != cli.ExitOK && !w.state(ctx, id).Final() {
			return fmt.Errorf("release: exit code %d: %s", code, errs)
		}
		return nil
	})
	if err != nil {
		return err
	}
	err = wait(name+" to hear of it", func() error {
		out, err := login()
		var exit *exec.ExitError
		if errors.As(err, &exit) && exit.ExitCode() == 255 && strings.Contains(out, "Permission denied") {
			return nil
		}
		return fmt.Errorf("it says %w, %s", err, out)
	})
	if err == nil && !time.Now().Before(end) {
		return fmt.Errorf("%s let people in until the certificate of %s ended by itself", name, id)
	}
	return err
}
