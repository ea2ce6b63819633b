// Package hosttest makes hosts that people log in to: a real sshd with PAM, and
// hallpass-host under a root of its own. The sshd is a copy of the machine's
// under another name, which is also that of its PAM service: the machine's own
// is left alone. It takes root.
package hosttest

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// timeout is far more than sshd takes to start on a busy machine.
const timeout = time.Minute

// Host is one.
type Host struct {
	Dir, Root    string // of sshd, and of hallpass-host
	SSHD, Config string // program and configuration
	PAM          string // its PAM service
	Bin          string // hallpass-host
	Port         string

	server *exec.Cmd // nil while it isn't running
}

// New makes a host with the program hallpass-host in bin, whose sshd listens
// on a port of 127.0.0.1 once it is started. The caller closes it.
func New(bin, port string) (_ *Host, err error) {
	// Not a folder of a test: its name is that of a program and of a PAM
	// service.
	dir, err := os.MkdirTemp("", "hallpass-metal")
	if err != nil {
		return nil, err
	}
	name := filepath.Base(dir)
	h := &Host{
		Dir: dir, Root: filepath.Join(dir, "root"), SSHD: filepath.Join(dir, name), Config: filepath.Join(dir, "sshd_config"),
		PAM: filepath.Join("/etc/pam.d", name), Bin: bin, Port: port,
	}
	defer func() {
		if err != nil {
			h.Close()
		}
	}()
	program, err := os.ReadFile("/usr/sbin/sshd")
	if err != nil {
		return nil, err
	}
	service, err := os.ReadFile("/etc/pam.d/sshd")
	if err != nil {
		return nil, err
	}
	for _, folder := range []string{"/run/sshd", filepath.Join(dir, "sshd_config.d")} {
		if err := os.MkdirAll(folder, 0o755); err != nil {
			return nil, err
		}
	}
	config := fmt.Sprintf(`Include %[1]s/sshd_config.d/*.conf
Port %[2]s
ListenAddress 127.0.0.1
HostKey %[1]s/host
PidFile %[1]s/sshd.pid
LogLevel VERBOSE
StrictModes no
UsePAM yes
PermitRootLogin yes
PasswordAuthentication no
KbdInteractiveAuthentication no
AuthorizedKeysFile none
Subsystem sftp internal-sftp
SetEnv SHLVL=1
`, dir, port)
	for _, f := range []struct {
		path string
		data []byte
		mode os.FileMode
	}{
		{h.SSHD, program, 0o755}, {h.PAM, service, 0o644}, {h.Config, []byte(config), 0o644},
	} {
		if err := os.WriteFile(f.path, f.data, f.mode); err != nil {
			return nil, err
		}
	}
	if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", filepath.Join(dir, "host")).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("make host key: %w: %s", err, out)
	}
	return h, os.Chmod(dir, 0o755)
}

// Files are the flags by which hallpass-host enroll finds this sshd.
func (h *Host) Files() []string {
	return []string{"--sshd", h.SSHD, "--sshd-config", h.Config, "--pam", h.PAM}
}

// Command is hallpass-host on this host.
func (h *Host) Command(args ...string) *exec.Cmd {
	return exec.Command(h.Bin, append([]string{"--root", h.Root}, args...)...)
}

// Start runs its sshd.
func (h *Host) Start() error {
	h.server = exec.Command(h.SSHD, "-D", "-f", h.Config, "-E", filepath.Join(h.Dir, "sshd.log"))
	if err := h.server.Start(); err != nil {
		return err
	}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(timeout); ; <-tick.C {
		c, err := net.Dial("tcp", "127.0.0.1:"+h.Port)
		if err == nil {
			return c.Close()
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("waited %s for sshd to listen: %w", timeout, err)
		}
	}
}

// Sessions is how many the agent under a root looks after, of this host or of
// another.
func (h *Host) Sessions(root string) (int, error) {
	out, err := exec.Command(h.Bin, "--root", root, "status", "--json").Output()
	if err != nil {
		return 0, err
	}
	var status struct {
		Sessions []struct{}
		Problems []string
	}
	if err := json.Unmarshal(out, &status); err != nil {
		return 0, err
	}
	if len(status.Problems) > 0 {
		return 0, fmt.Errorf("%s", status.Problems)
	}
	return len(status.Sessions), nil
}

// Log is what sshd has written.
func (h *Host) Log() string {
	data, err := os.ReadFile(filepath.Join(h.Dir, "sshd.log"))
	return string(data) + text(err)
}

func text(err error) string {
	if err == nil || errors.Is(err, os.ErrNotExist) {
		return ""
	}
	return err.Error()
}

// Close leaves nothing of it.
func (h *Host) Close() {
	if h.server != nil {
		_ = h.server.Process.Kill()
		_ = h.server.Wait()
	}
	records, _ := filepath.Glob(filepath.Join(h.Root, "run/hallpass-host/sessions/*.json"))
	for _, path := range records {
		var r struct{ Cgroup string }
		if data, err := os.ReadFile(path); err == nil && json.Unmarshal(data, &r) == nil && r.Cgroup != "" {
			_ = os.WriteFile(filepath.Join(r.Cgroup, "cgroup.kill"), []byte("1"), 0) // a test that failed left it open
		}
	}
	_ = os.Remove(h.PAM)
	_ = os.RemoveAll(h.Dir)
}
