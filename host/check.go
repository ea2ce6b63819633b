//go:build linux

package host

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"

	"hallpass/access"
	"hallpass/ca/krl"
)

// Level is how bad a Finding is.
type Level string

// The levels.
const (
	OK   Level = "ok"
	Warn Level = "warning" // works, and promises less than it could
	Fail Level = "problem" // doesn't work, or isn't safe
)

// Finding is one thing that Check looked at.
type Finding struct {
	Level Level  `json:"level"`
	Text  string `json:"text"`
	Hint  string `json:"hint,omitempty"`
}

// Check looks at everything that has to be right on this host and changes
// nothing. An error means that it couldn't look.
func Check(ctx context.Context, l Layout) ([]Finding, error) {
	if os.Geteuid() != 0 {
		return nil, errNotRoot
	}
	c, err := loadConfig(l)
	if err != nil {
		return nil, err
	}
	k := &checkup{layout: l, config: c}
	k.server()
	k.pam()
	k.kernel()
	k.list()
	k.trusted()
	k.certificate()
	k.accounts()
	k.reach(ctx)
	k.agent()
	return k.found, nil
}

type checkup struct {
	layout Layout
	config *Config
	found  []Finding
}

func (k *checkup) add(level Level, hint, format string, args ...any) {
	k.found = append(k.found, Finding{level, fmt.Sprintf(format, args...), hint})
}

// trusted names the CAs whose certificates open this host.
func (k *checkup) trusted() {
	keys, err := readKeys(k.layout.userCAs())
	if err != nil || len(keys) == 0 {
		k.add(Fail, "hallpass-host enroll", "no CA's certificates open this host: %v", err)
		return
	}
	for _, key := range keys {
		k.add(OK, "", "certificates of the CA %s open it", ssh.FingerprintSHA256(key))
	}
	switch named, err := namedCA(k.layout); {
	case err != nil:
		k.add(Fail, "", "%v", err)
	case named != "":
		k.add(Fail, "systemctl reload hallpass-host makes it ask the service", "it waits for CA %s, which hallpass-host trust has named; the others still open it", named)
	}
}

func (k *checkup) server() {
	s := sshd{program: k.config.SSHD, config: k.config.SSHDConfig}
	if err := s.test(s.config); err != nil {
		k.add(Fail, "", "%v", err)
		return
	}
	_, certErr := os.Stat(k.layout.hostCert())
	good := true
	for _, login := range append(k.logins(), anyLogin) {
		set, err := s.settings(s.config, login)
		if err != nil {
			k.add(Fail, "", "%v", err)
			return
		}
		for _, wrong := range set.expect(k.layout, certErr == nil) {
			good = false
			k.add(Fail, "something above "+s.dropIn()+" in sshd's configuration, or a Match block, sets it", "for %s: %s", login, wrong)
		}
		if v := set.get("forcecommand"); v != "" && login != anyLogin {
			k.add(Warn, "remove it if certificates for one command are to work", "sshd has ForceCommand %s for %s: it runs instead of a certificate's own", v, login)
		}
		if login == "root" && set.get("permitrootlogin") == "no" {
			k.add(Warn, "", "sshd has PermitRootLogin no, and certificates for root are to be had")
		}
		if k.config.PAM != "" && set.get("usepam") != "yes" {
			good = false
			k.add(Fail, "set UsePAM yes", "sshd has UsePAM no for %s: open sessions can't be ended", login)
		}
	}
	if good {
		k.add(OK, "", "sshd is set up as enrolment left it")
	}
}

func (k *checkup) logins() []string {
	entries, _ := os.ReadDir(k.layout.principals())
	var out []string
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), ".") {
			out = append(out, e.Name())
		}
	}
	return out
}

func (k *checkup) pam() {
	if k.config.PAM == "" {
		k.add(Warn, "set UsePAM yes, then hallpass-host unenroll and enroll", "PAM is not set up: open sessions can't be ended, only logins are refused")
		return
	}
	if err := hasPAM(k.config.PAM); err != nil {
		k.add(Fail, access.HintOf(err), "%v", err)
		return
	}
	switch where, err := pamSpoof(k.config.PAM); {
	case err != nil:
		k.add(Fail, "", "%v", err)
	case where != "":
		k.add(Fail, "move that line below the block of hallpass-host, or drop user_readenv=1",
			"a user can pretend to have logged in without hallpass: %s", where)
	default:
		k.add(OK, "", "PAM runs the hook")
	}
	text, _ := os.ReadFile(k.config.PAM)
	for line := range strings.Lines(string(text)) {
		_, hook, ok := strings.Cut(line, "pam_exec.so quiet ")
		if !ok || !strings.Contains(line, " hook") {
			continue
		}
		k.hook(strings.Fields(hook)[0])
	}
}

// hook looks at the program that PAM runs as root.
func (k *checkup) hook(path string) {
	for p := path; ; p = filepath.Dir(p) {
		var st unix.Stat_t
		if err := unix.Stat(p, &st); err != nil {
			k.add(Fail, "install it there again; until then only break-glass accounts get in", "the hook %s: %v", p, err)
			return
		}
		sticky := st.Mode&unix.S_IFMT == unix.S_IFDIR && st.Mode&unix.S_ISVTX != 0
		if st.Uid != 0 || st.Mode&0o022 != 0 && !sticky {
			k.add(Fail, "chown root and chmod go-w "+p, "the hook runs as root, and others than root can change %s", p)
			return
		}
		if p == "/" {
			return
		}
	}
}

func (k *checkup) kernel() {
	mount, err := cgroupMount()
	if err != nil {
		k.add(Warn, "boot with systemd.unified_cgroup_hierarchy=1", "%v: processes that leave their session behind (setsid, nohup) outlive it", err)
	} else {
		own, err := cgroupOf(mount, os.Getpid())
		_, killErr := os.Stat(filepath.Join(string(own), "cgroup.kill"))
		switch {
		case err != nil:
			k.add(Warn, "", "%v: processes that leave their session behind outlive it", err)
		case unix.Access(string(own), unix.W_OK) != nil:
			k.add(Warn, "", "%s can't be written: processes that leave their session behind outlive it", mount)
		case killErr != nil && string(own) != mount:
			k.add(Warn, "Linux 5.14 has cgroup.kill", "this kernel ends the processes of a session one by one, not in one step")
		default:
			k.add(OK, "", "cgroup v2 is at %s", mount)
		}
	}
	if p, err := openProcess(os.Getpid()); err != nil {
		k.add(Fail, "Linux 5.3 or newer is needed", "this kernel has no pidfd: %v", err)
	} else {
		p.close()
	}
	if _, err := exec.LookPath("ssh-keygen"); err != nil {
		k.add(Warn, "install openssh-client", "ssh-keygen isn't there: lists of revoked certificates are read by hallpass alone before sshd gets them")
	}
}

func (k *checkup) list() {
	l := &lists{layout: k.layout, alone: k.config.PAM == "", now: time.Now, log: slog.New(slog.DiscardHandler)}
	list, data, err := l.read()
	if err != nil {
		k.add(Fail, "hallpass-host run gets one", "there is no good list of revoked certificates: %v", err)
		return
	}
	here, err := l.part(list)
	if err != nil {
		k.add(Fail, "", "the list of revoked certificates: %v", err)
		return
	}
	if here.n > maxEntries {
		k.add(Warn, "", "sshd reads %d entries of revoked certificates for each login, which takes it more than 10 ms", here.n)
	}
	plain, err := os.ReadFile(k.layout.revokedKeys())
	newer := l.plain()
	switch age := time.Since(list.Generated); {
	case err != nil:
		k.add(Fail, "hallpass-host run puts it back", "sshd's list of revoked keys: %v; all logins with keys are refused", err)
	case newer != nil && newer.Version > list.Version:
		k.add(Fail, "hallpass-host run asks the service for it; is it running, and the service there?",
			"sshd's list of revoked keys is version %d, and the signed one that was kept is version %d", newer.Version, list.Version)
	case !slices.Equal(plain, here.data) && !slices.Equal(plain, data): // enrolment leaves the whole
		k.add(Fail, "hallpass-host run puts it back", "sshd's list of revoked keys, %s, is not the one that hallpass signed", k.layout.revokedKeys())
	case age > krl.MaxAge:
		k.add(Fail, "is hallpass-host run running, and the service there?", "the list of revoked certificates is %s old: revocations don't reach this host", age.Round(time.Second))
	default:
		k.add(OK, "", "list of revoked certificates: version %d, %d certificates, of which %d entries concern this host, %s old", list.Version, list.Len(), here.n, age.Round(time.Second))
	}
}

func (k *checkup) certificate() {
	cert, err := readHostCert(k.layout.hostCert())
	if err != nil {
		k.add(Warn, "", "there is no host certificate: clients see this host's key as any other")
		return
	}
	end := time.Unix(int64(cert.ValidBefore), 0)
	keys, err := readKeys(k.config.HostKey)
	switch left := time.Until(end); {
	case err != nil:
		k.add(Fail, "", "%v", err)
	case string(keys[0].Marshal()) != string(cert.Key.Marshal()):
		k.add(Fail, "hallpass-host unenroll, then enroll", "the host certificate is for another key than %s", k.config.HostKey)
	case left <= 0:
		k.add(Fail, "hallpass-host run renews it", "the host certificate has expired at %s", end.UTC().Format(time.RFC3339))
	case time.Now().After(k.config.RenewAfter.Add(48 * time.Hour)):
		k.add(Warn, "hallpass-host status says why", "the host certificate isn't renewed; it expires at %s", end.UTC().Format(time.RFC3339))
	default:
		k.add(OK, "", "host certificate for %s, until %s", strings.Join(cert.ValidPrincipals, ", "), end.UTC().Format(time.RFC3339))
	}
}

func (k *checkup) accounts() {
	for _, name := range append(k.logins(), k.config.BreakGlass...) {
		if _, err := user.Lookup(name); err != nil {
			k.add(Warn, "", "account %s is not on this host", name)
		}
	}
	if len(k.config.BreakGlass) == 0 {
		k.add(Warn, "", "there is no break-glass account: if the hook can't run, nobody gets in")
	}
}

func (k *checkup) reach(ctx context.Context) {
	ca, err := os.ReadFile(k.layout.serviceCA())
	if err != nil {
		k.add(Fail, "", "%v", err)
		return
	}
	s, err := dialService(k.config.Service, ca)
	if err != nil {
		k.add(Fail, "", "%v", err)
		return
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if _, _, err := s.list(ctx, 0, 0); err != nil {
		k.add(Fail, "", "%v", err)
		return
	}
	k.add(OK, "", "service %s answers", k.config.Service)
	if d := time.Duration(s.skew.Load()); d.Abs() > maxSkew {
		k.add(Warn, "set the clock, such as with systemd-timesyncd or chrony", "%s", skewText(d))
	}
}

func (k *checkup) agent() {
	st, err := Query(k.layout)
	if err != nil {
		k.add(Fail, "start it: hallpass-host run", "%v: certificates of hallpass open nothing here", err)
		return
	}
	for _, p := range st.Problems {
		k.add(Fail, "", "agent: %s", p)
	}
	if refused, _ := os.ReadDir(filepath.Join(k.layout.queue(), "refused")); len(refused) > 0 {
		k.add(Warn, "they are in "+filepath.Join(k.layout.queue(), "refused"), "the service has refused %d reports", len(refused))
	}
	if st.Waiting > batch {
		k.add(Warn, "", "%d reports wait for the service", st.Waiting)
	}
	if len(st.Problems) == 0 {
		k.add(OK, "", "agent runs and looks after %d sessions", len(st.Sessions))
	}
}
