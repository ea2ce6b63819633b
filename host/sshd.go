//go:build linux

package host

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"hallpass/access"
)

// sshd is the server of this host: a program and its configuration.
type sshd struct {
	program string
	config  string
}

// dropIn is where our part of the configuration goes. Its name sorts before
// what cloud images and installers put there: sshd takes the first value that
// it finds.
func (s sshd) dropIn() string {
	return filepath.Join(filepath.Dir(s.config), "sshd_config.d", "10-hallpass.conf")
}

// findSSHD finds sshd where it usually is. It has to be started by its
// absolute path.
func findSSHD() (string, error) {
	for _, p := range []string{"/usr/sbin/sshd", "/usr/local/sbin/sshd", "/sbin/sshd"} {
		if info, err := os.Stat(p); err == nil && info.Mode().IsRegular() {
			return p, nil
		}
	}
	return "", access.Errorf(access.CodeNotFound, "sshd is not at /usr/sbin/sshd").WithHint("name it with --sshd PATH")
}

var missingFolder = regexp.MustCompile(`Missing privilege separation directory: (/\S+)`)

// test lets sshd read a configuration (sshd -t). Its errors have a hint and no code: that
// sshd won't have its configuration is nobody's wrong use of hallpass-host.
func (s sshd) test(config string) error {
	out, err := s.output("-t", "-f", config)
	if err == nil {
		return nil
	}
	if m := missingFolder.FindStringSubmatch(out); m != nil {
		return access.Errorf("", "sshd wants the folder %s", m[1]).WithHint("start sshd once, or: mkdir -p %s", m[1])
	}
	return access.Errorf("", "sshd doesn't accept its configuration: %s", firstLine(out, err)).
		WithHint("%s -t -f %s shows all of it", s.program, config)
}

func (s sshd) output(args ...string) (string, error) {
	cmd := exec.Command(s.program, args...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	return out.String(), err
}

func firstLine(out string, err error) string {
	if line, _, _ := strings.Cut(strings.TrimSpace(out), "\n"); line != "" {
		return clean(line)
	}
	return err.Error()
}

// settings are what sshd would do for one login: the values of each keyword,
// in lower case (sshd -T).
type settings map[string][]string

func (s sshd) settings(config, login string) (settings, error) {
	out, err := s.output("-T", "-f", config, "-C", "user="+login+",host=localhost,addr=127.0.0.1,laddr=127.0.0.1,lport=22")
	if err != nil {
		return nil, access.Errorf("", "sshd doesn't show its configuration: %s", firstLine(out, err))
	}
	return parseSettings(out), nil
}

func parseSettings(out string) settings {
	set := settings{}
	for line := range strings.Lines(out) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		set[key] = append(set[key], value)
	}
	return set
}

// get is the one value of a keyword, empty for none.
func (s settings) get(keyword string) string {
	if v := s[keyword]; len(v) > 0 && v[0] != "none" {
		return v[0]
	}
	return ""
}

// includes says whether the main configuration includes our drop-in, and where
// it doesn't, what is missing.
func (s sshd) includes() error {
	data, err := os.ReadFile(s.config)
	if err != nil {
		return err
	}
	missing := access.Errorf(access.CodeMalformed, "%s doesn't include %s", s.config, s.dropIn()).
		WithHint("put this line on top of it: Include %s/*.conf", filepath.Dir(s.dropIn()))
	for line := range strings.Lines(string(data)) {
		f := strings.FieldsFunc(line, func(r rune) bool { return strings.ContainsRune(" \t\r\n=\"", r) })
		if len(f) == 0 || strings.HasPrefix(f[0], "#") {
			continue
		}
		switch strings.ToLower(f[0]) {
		case "match":
			return missing // an Include below it holds for some only
		case "include":
			for _, pattern := range f[1:] {
				if !filepath.IsAbs(pattern) {
					pattern = filepath.Join("/etc/ssh", pattern)
				}
				if ok, _ := filepath.Match(pattern, s.dropIn()); ok {
					return nil
				}
			}
		}
	}
	return missing
}

// taken names settings of this host that ours would replace without anybody
// noticing, or that would replace ours.
func (s settings) taken() error {
	for _, keyword := range []string{"trustedusercakeys", "revokedkeys", "authorizedprincipalsfile", "authorizedprincipalscommand"} {
		if v := s.get(keyword); v != "" {
			return access.Errorf(access.CodeMismatch, "sshd is set up with %s %s already", keyword, v).
				WithHint("remove it; hallpass-host sets it itself")
		}
	}
	return nil
}

// expect compares settings with what enrolment wrote.
func (s settings) expect(l Layout, hostCert bool) []string {
	var wrong []string
	for _, want := range [][2]string{
		{"trustedusercakeys", l.userCAs()},
		{"revokedkeys", l.revokedKeys()},
		{"authorizedprincipalsfile", filepath.Join(l.principals(), "%u")},
		{"authorizedprincipalscommand", ""},
		{"exposeauthinfo", "no"},
		{"pubkeyauthentication", "yes"},
	} {
		if got := s.get(want[0]); got != want[1] {
			wrong = append(wrong, fmt.Sprintf("sshd has %s %s, not %s", want[0], orNone(got), orNone(want[1])))
		}
	}
	if hostCert && !slices.Contains(s["hostcertificate"], l.hostCert()) {
		wrong = append(wrong, "sshd doesn't show the host certificate "+l.hostCert())
	}
	return wrong
}

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}

// hostKey is the public key file of the best host key of sshd: Ed25519, then
// ECDSA, then RSA.
func (s settings) hostKey() (string, error) {
	best := ""
	rank := func(path string) int {
		for i, typ := range []string{"ssh-ed25519", "ecdsa-", "ssh-rsa"} {
			if data, err := os.ReadFile(path + ".pub"); err == nil && bytes.HasPrefix(data, []byte(typ)) {
				return 3 - i
			}
		}
		return 0
	}
	for _, path := range s["hostkey"] {
		if rank(path) > rank(best) {
			best = path
		}
	}
	if best == "" {
		return "", access.Errorf(access.CodeNotFound, "sshd has no host key with a .pub file beside it").WithHint("ssh-keygen -A makes them")
	}
	return best + ".pub", nil
}

// reload makes a running sshd read its configuration again. False: none was
// found by its pid file.
func (s sshd) reload(set settings) (bool, error) {
	data, err := os.ReadFile(set.get("pidfile"))
	if err != nil {
		return false, nil
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil || pid <= 1 {
		return false, nil
	}
	p, err := openProcess(pid)
	if err != nil {
		return false, nil
	}
	defer p.close()
	// A pid file can outlive its process.
	if exe, err := os.Readlink(procPath(pid, "exe")); err != nil || strings.TrimSuffix(exe, " (deleted)") != s.program {
		return false, nil
	}
	if err := p.signal(unix.SIGHUP); err != nil {
		return false, err
	}
	return true, nil
}

// dropInText is our part of sshd's configuration.
func dropInText(l Layout, hostCert bool) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, `# Written by hallpass-host. To remove it: hallpass-host unenroll
TrustedUserCAKeys %s
RevokedKeys %s
AuthorizedPrincipalsFile %s/%%u
ExposeAuthInfo no
`, l.userCAs(), l.revokedKeys(), l.principals())
	if hostCert {
		fmt.Fprintf(&b, "HostCertificate %s\n", l.hostCert())
	}
	return b.Bytes()
}

// anyLogin is whom sshd -T is asked about where it doesn't matter.
const anyLogin = "nobody"
