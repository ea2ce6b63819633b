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
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"hallpass/access"
	"hallpass/ca/krl"
	"hallpass/statement"
)

// EnrollOptions are for Enroll.
type EnrollOptions struct {
	Layout     Layout
	Service    string   // https://host:port
	CA         string   // file of the service's CA, in PEM
	CASHA256   string   // or the SHA-256 of that certificate, in hexadecimal
	Token      string   // from `hallpass host token`
	Host       string   // as the catalog names it; empty: as the token does
	BreakGlass []string // accounts that log in without hallpass, whatever happens
	SSHD       string   // empty: where it usually is
	SSHDConfig string   // empty: /etc/ssh/sshd_config
	PAM        string   // empty: /etc/pam.d/sshd
	Hook       string   // this program, by its absolute path; it may have arguments
	Out        io.Writer
}

// Enroll makes this host one of hallpass's: sshd honours certificates for its
// logins and shows a host certificate, and PAM hands every connection to the
// agent. Everything that can be tried is tried before the service is asked and
// before anything changes; if something fails after that, every file is as it
// was.
func Enroll(ctx context.Context, o EnrollOptions) error {
	e, err := prepare(o)
	if err != nil {
		return err
	}
	if err := e.rehearse(); err != nil {
		return err
	}
	if err := e.join(ctx); err != nil {
		return err
	}
	undo := &changes{}
	if err := e.install(undo); err != nil {
		return errors.Join(err, undo.back())
	}
	e.conclude()
	return nil
}

// enrolment is one run of Enroll.
type enrolment struct {
	EnrollOptions
	sshd     sshd
	before   settings
	hostKey  ssh.PublicKey
	config   Config
	service  *service
	ca       []byte
	agentPEM []byte
	joined   access.Enrolled
	firstCA  string // the fingerprint of the CA that signed it
	pinned   bool   // the token says that it is the one
	list     signedList
	warnings []string
}

func (e *enrolment) say(format string, args ...any) { _, _ = fmt.Fprintf(e.Out, format+"\n", args...) }

// prepare makes every check that needs nobody else.
func prepare(o EnrollOptions) (*enrolment, error) {
	if os.Geteuid() != 0 {
		return nil, errNotRoot
	}
	e := &enrolment{EnrollOptions: o}
	l := o.Layout
	if _, err := os.Stat(l.configFile()); err == nil {
		name := "already"
		if c, err := loadConfig(l); err == nil {
			name = "already, as " + c.Host
		}
		return nil, access.Errorf(access.CodeDuplicate, "this host is enrolled %s", name).
			WithHint("hallpass-host check shows how it is; hallpass-host unenroll takes it back")
	}
	if e.Token == "" {
		return nil, access.Errorf(access.CodeMalformed, "there is no --token").WithHint("somebody whom policy allows makes one: hallpass host token NAME")
	}
	err := e.checkToken()
	if err != nil {
		return nil, err
	}
	e.sshd = sshd{program: o.SSHD, config: o.SSHDConfig}
	if e.sshd.program == "" {
		if e.sshd.program, err = findSSHD(); err != nil {
			return nil, err
		}
	}
	if e.sshd.config == "" {
		e.sshd.config = l.path("etc", "ssh", "sshd_config")
	}
	if e.PAM == "" {
		e.PAM = l.path("etc", "pam.d", "sshd")
	}
	if len(e.BreakGlass) == 0 {
		e.BreakGlass = []string{"root"}
	}
	for _, name := range e.BreakGlass {
		if err := access.CheckLogin(name); err != nil {
			return nil, err
		}
		if _, err := user.Lookup(name); err != nil {
			return nil, access.Errorf(access.CodeNotFound, "break-glass account %s is not on this host", name)
		}
	}
	if err := e.sshd.test(e.sshd.config); err != nil {
		return nil, err
	}
	if err := e.sshd.includes(); err != nil {
		return nil, err
	}
	if e.before, err = e.sshd.settings(e.sshd.config, anyLogin); err != nil {
		return nil, err
	}
	if err := e.before.taken(); err != nil {
		return nil, err
	}
	if err := e.prepareHostKey(); err != nil {
		return nil, err
	}
	if err := e.preparePAM(); err != nil {
		return nil, err
	}
	return e, nil
}

// checkToken sees what can be seen without the directory: a token for another
// host isn't used up.
func (e *enrolment) checkToken() error {
	_, join, err := e.token()
	if err != nil {
		return err
	}
	if _, name := access.SplitResource(join.Resource); e.Host != "" && e.Host != name {
		return access.Errorf(access.CodeMismatch, "the token is for host %s, not %s", name, e.Host)
	}
	return nil
}

// token takes the token apart.
func (e *enrolment) token() (access.Statement, access.Join, error) {
	st, err := statement.ParseToken(e.Token)
	if err != nil {
		return access.Statement{}, access.Join{}, err
	}
	join, err := statement.ParseJoin([]byte(st.Payload))
	return st, join, err
}

func (e *enrolment) prepareHostKey() error {
	path, err := e.before.hostKey()
	if err != nil {
		return err
	}
	keys, err := readKeys(path)
	if err != nil {
		return err
	}
	e.hostKey = keys[0]
	e.config.HostKey = path
	return nil
}

// preparePAM looks whether sessions can be looked after here. Where they
// can't, the host still is better off enrolled; it only has to be said.
func (e *enrolment) preparePAM() error {
	switch text, err := os.ReadFile(e.PAM); {
	case e.before.get("usepam") != "yes":
		e.warn("sshd has UsePAM no: open sessions can't be ended when a grant ends, only logins are refused")
		e.PAM = ""
	case err != nil:
		e.warn("%s is not there: open sessions can't be ended when a grant ends, only logins are refused", e.PAM)
		e.PAM = ""
	default:
		if err := fitPAM(e.PAM, string(text)); err != nil {
			return err
		}
	}
	if _, err := cgroupMount(); err != nil {
		e.warn("cgroup v2 is not mounted: a process that leaves its session behind (setsid, nohup) outlives it")
	}
	return nil
}

func (e *enrolment) warn(format string, args ...any) {
	e.warnings = append(e.warnings, fmt.Sprintf(format, args...))
}

// rehearse lets sshd read what its configuration is going to be, in a folder
// of its own, with keys that are thrown away.
func (e *enrolment) rehearse() (err error) {
	dir, err := os.MkdirTemp("", "hallpass-host-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	stage := Layout{Root: dir}
	if err := stage.makeFolders(); err != nil {
		return err
	}
	_, ca, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	signer, err := ssh.NewSignerFromKey(ca)
	if err != nil {
		return err
	}
	cert := &ssh.Certificate{Key: e.hostKey, CertType: ssh.HostCert, ValidPrincipals: []string{"rehearsal"}, ValidBefore: ssh.CertTimeInfinity}
	if err := cert.SignCert(rand.Reader, signer); err != nil {
		return err
	}
	empty, err := (&krl.List{Generated: time.Now().Truncate(time.Second)}).Marshal()
	if err != nil {
		return err
	}
	main, err := os.ReadFile(e.sshd.config)
	if err != nil {
		return err
	}
	config := filepath.Join(dir, "sshd_config")
	for path, data := range map[string][]byte{
		stage.userCAs():     ssh.MarshalAuthorizedKey(signer.PublicKey()),
		stage.hostCert():    ssh.MarshalAuthorizedKey(cert),
		stage.revokedKeys(): empty,
		config:              append(dropInText(stage, true), main...),
	} {
		if err := write(path, data, 0o644); err != nil {
			return err
		}
	}
	if err := e.sshd.test(config); err != nil {
		return err
	}
	set, err := e.sshd.settings(config, anyLogin)
	if err != nil {
		return err
	}
	if wrong := set.expect(stage, true); len(wrong) > 0 {
		return access.Errorf(access.CodeMismatch, "sshd would not do what is needed: %s", strings.Join(wrong, "; "))
	}
	return nil
}

// join asks the service to take the host in.
func (e *enrolment) join(ctx context.Context) error {
	var err error
	switch {
	case e.CA != "":
		e.ca, err = os.ReadFile(e.CA)
	case e.CASHA256 != "":
		e.ca, err = pinCA(ctx, e.Service, e.CASHA256)
	default:
		err = access.Errorf(access.CodeMalformed, "neither --ca nor --ca-sha256 says how to know the service").
			WithHint("the service keeps its CA in service_ca.pub.pem")
	}
	if err != nil {
		return err
	}
	if e.service, err = dialService(e.Service, e.ca); err != nil {
		return err
	}
	if err := e.makeAgentKey(); err != nil {
		return err
	}
	key, err := ssh.ParsePrivateKey(e.agentPEM)
	if err != nil {
		return err
	}
	listing, stop := context.WithTimeout(ctx, 2*time.Minute)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	token, join, err := e.token()
	if err != nil {
		return err
	}
	var told access.Statement
	err = e.service.post(ctx, "/v1/hosts", map[string]any{
		"token":     e.Token,
		"host_key":  statement.MarshalKey(e.hostKey),
		"agent_key": statement.MarshalKey(key.PublicKey()),
	}, &told)
	if err != nil {
		return err
	}
	e.joined, err = openEnrolled(told, token, key.PublicKey(), func(by ssh.PublicKey) error {
		// The first CA is the one that the token names, or else, as there is nothing
		// to know it by, the one that is there.
		e.firstCA, e.pinned = ssh.FingerprintSHA256(by), len(join.CAs) > 0
		if e.pinned && !slices.Contains(join.CAs, e.firstCA) {
			return access.Errorf(access.CodeUnverified, "the service answers with CA %s, and the token is for %s", e.firstCA, strings.Join(join.CAs, " or ")).
				WithHint("the token is used up. If hallpass ca show says that it is this CA, make another: hallpass host token NAME --user-ca %s", e.firstCA)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if err := checkEnrolled(e.joined, e.hostKey, time.Now()); err != nil {
		return err
	}
	if e.Host != "" && e.Host != e.joined.Host {
		return access.Errorf(access.CodeMismatch, "the token is for host %s, not %s", e.joined.Host, e.Host)
	}
	return e.firstList(listing)
}

// firstList gets the list of revoked certificates: without one no certificate
// of hallpass opens anything. Where the one there is too old it waits for the next, since
// the token is used up: an issuer that is back makes one within a minute.
func (e *enrolment) firstList(ctx context.Context) error {
	trusted, err := parseKeys(e.joined.UserCAs)
	if err != nil {
		return err
	}
	var old error
	after := uint64(0)
	for range int(2 * time.Minute / longPoll) {
		list, ok, err := e.service.list(ctx, after, longPoll)
		switch {
		case err == nil && ok:
		case err == nil && old != nil:
			e.say("The service's list of revoked certificates is too old. Waiting for the next one, which takes up to a minute.")
			continue
		case old != nil:
			return old
		case err != nil:
			return err
		default:
			return access.Errorf(access.CodeUnavailable, "the service has no list of revoked certificates yet").WithHint("is its issuer running?")
		}
		opened, err := krl.Open(list.List, list.Signature, trusted)
		if err != nil {
			return err
		}
		if old = recent(opened, time.Now()); old == nil {
			e.list = list
			return nil
		}
		if opened.Version <= after {
			break
		}
		after = opened.Version
	}
	return old
}

func (e *enrolment) makeAgentKey() error {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	block, err := ssh.MarshalPrivateKey(key, "hallpass-host")
	if err != nil {
		return err
	}
	e.agentPEM = pem.EncodeToMemory(block)
	return nil
}

// openEnrolled opens what the host is told in answer to a statement. The service
// carries it, and so does Temporal: what counts is that a CA has signed it which
// trusted doesn't refuse, and which goes on to be one, for this question and this agent.
func openEnrolled(told, asked access.Statement, agent ssh.PublicKey, trusted func(by ssh.PublicKey) error) (access.Enrolled, error) {
	j, by, err := statement.OpenEnrolled(told)
	if err != nil {
		return access.Enrolled{}, err
	}
	if err := trusted(by); err != nil {
		return access.Enrolled{}, err
	}
	named, err := parseKeys(j.UserCAs)
	switch {
	case err != nil:
		return access.Enrolled{}, err
	case !among(named, by):
		return access.Enrolled{}, access.Errorf(access.CodeMismatch, "what the service says is signed by %s, and is to be trusted no more", ssh.FingerprintSHA256(by))
	case j.Answers != asked.Hash():
		return access.Enrolled{}, access.Errorf(access.CodeMismatch, "the service answers what this host didn't ask")
	case j.AgentKey != statement.MarshalKey(agent):
		return access.Enrolled{}, access.Errorf(access.CodeMismatch, "the service takes another key for this host's agent")
	}
	return j, nil
}

func among(keys []ssh.PublicKey, key ssh.PublicKey) bool {
	return slices.ContainsFunc(keys, func(k ssh.PublicKey) bool { return bytes.Equal(k.Marshal(), key.Marshal()) })
}

// checkEnrolled reads the reply as strictly as something that changes who gets
// in deserves.
func checkEnrolled(j access.Enrolled, hostKey ssh.PublicKey, now time.Time) error {
	if err := access.CheckResource("ssh/" + j.Host); err != nil {
		return err
	}
	if _, err := parseKeys(j.UserCAs); err != nil {
		return err
	}
	for login, principals := range j.Principals {
		if err := access.CheckLogin(login); err != nil {
			return err
		}
		for _, p := range principals {
			name, l, ok := strings.Cut(p, "/")
			if !ok || l != login || access.CheckResource("ssh/"+name) != nil {
				return access.Errorf(access.CodeMalformed, "principal %.80q for login %s is not of the form name/%s", p, login, login)
			}
		}
	}
	if j.Certificate == "" {
		return nil // there is no host CA
	}
	return checkHostCert(j, hostKey, now)
}

func checkHostCert(j access.Enrolled, hostKey ssh.PublicKey, now time.Time) error {
	bad := func(format string, args ...any) error {
		return access.Errorf(access.CodeUnverified, "host certificate: "+format, args...)
	}
	cert, err := parseHostCert(j.Certificate)
	if err != nil {
		return bad("%v", err)
	}
	if !bytes.Equal(cert.Key.Marshal(), hostKey.Marshal()) {
		return bad("it is for another key")
	}
	trusted, err := parseKeys(j.HostCAs)
	if err != nil {
		return err
	}
	if !among(trusted, cert.SignatureKey) {
		return bad("it is by %s, which is not one of the host CA keys", ssh.FingerprintSHA256(cert.SignatureKey))
	}
	if len(cert.ValidPrincipals) == 0 {
		return bad("it is for every name")
	}
	checker := ssh.CertChecker{Clock: func() time.Time { return now }}
	if err := checker.CheckCert(cert.ValidPrincipals[0], cert); err != nil {
		return bad("%v", err)
	}
	return nil
}

// parseHostCert reads "type base64", and a comment: one line, which sshd gets as
// it is.
func parseHostCert(line string) (*ssh.Certificate, error) {
	key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(line))
	if err != nil {
		return nil, errors.New("it can't be read")
	}
	cert, ok := key.(*ssh.Certificate)
	if !ok || cert.CertType != ssh.HostCert {
		return nil, errors.New("it is none")
	}
	if f := strings.Fields(line); strings.ContainsAny(line, "\r\n") || f[0]+" "+f[1] != statement.MarshalKey(cert) {
		return nil, errors.New("there is more to it than a certificate")
	}
	return cert, nil
}

func parseKeys(lines []string) ([]ssh.PublicKey, error) {
	if len(lines) == 0 {
		return nil, access.Errorf(access.CodeUnverified, "the service names no CA key")
	}
	var keys []ssh.PublicKey
	for _, line := range lines {
		k, err := statement.ParseKey(line)
		if err != nil {
			return nil, err
		}
		keys = append(keys, k)
	}
	return keys, nil
}

// install writes everything, the part that can refuse logins last.
func (e *enrolment) install(undo *changes) error {
	l := e.Layout
	e.config.Service, e.config.Host = e.service.url, e.joined.Host
	e.config.WarnBefore = access.ShortDuration(DefaultWarn)
	e.config.BreakGlass = e.BreakGlass
	e.config.SSHD, e.config.SSHDConfig, e.config.PAM = e.sshd.program, e.sshd.config, e.PAM
	e.config.RenewAfter = e.joined.RenewAfter
	config, err := e.config.encode()
	if err != nil {
		return err
	}
	list, err := json.Marshal(e.list)
	if err != nil {
		return err
	}
	for _, dir := range []string{l.etc(), l.state(), l.principals(), filepath.Dir(e.sshd.dropIn())} {
		if err := undo.mkdir(dir); err != nil {
			return err
		}
	}
	type file struct {
		path string
		data []byte
		mode fs.FileMode
	}
	files := []file{
		{l.agentKey(), e.agentPEM, 0o600},
		{l.serviceCA(), e.ca, 0o644},
		{l.userCAs(), lines(e.joined.UserCAs), 0o644},
		{l.revokedKeys(), e.list.List, 0o644},
		{l.signedKRL(), list, 0o644},
	}
	for login, principals := range e.joined.Principals {
		if slices.Contains(e.BreakGlass, login) {
			e.warn("%s is a break-glass account: certificates of hallpass don't open it (--break-glass chooses others)", login)
			continue
		}
		files = append(files, file{filepath.Join(l.principals(), login), lines(principals), 0o644})
	}
	if e.joined.Certificate != "" {
		files = append(files, file{l.hostCert(), lines([]string{e.joined.Certificate}), 0o644},
			file{l.hostCAs(), lines(e.joined.HostCAs), 0o644})
	} else {
		e.warn("hallpass has no CA for hosts: clients see this host's key as any other")
	}
	files = append(files, file{l.configFile(), config, 0o644},
		file{e.sshd.dropIn(), dropInText(l, e.joined.Certificate != ""), 0o644})
	for _, f := range files {
		if err := undo.write(f.path, f.data, f.mode); err != nil {
			return err
		}
	}
	if err := e.sshd.test(e.sshd.config); err != nil {
		return err
	}
	if err := e.confirm(); err != nil {
		return err
	}
	if e.PAM == "" {
		return nil
	}
	text, err := os.ReadFile(e.PAM)
	if err != nil {
		return err
	}
	if err := fitPAM(e.PAM, string(text)); err != nil {
		return err
	}
	return undo.write(e.PAM, []byte(installPAM(string(text), pamBlock(e.Hook, e.BreakGlass))), 0o644)
}

// confirm asks sshd what it is going to do for each login.
func (e *enrolment) confirm() error {
	for _, login := range append(e.logins(), anyLogin) {
		set, err := e.sshd.settings(e.sshd.config, login)
		if err != nil {
			return err
		}
		if wrong := set.expect(e.Layout, e.joined.Certificate != ""); len(wrong) > 0 {
			return access.Errorf(access.CodeMismatch, "for %s, %s", login, strings.Join(wrong, "; "))
		}
		if c := set.get("forcecommand"); c != "" && login != anyLogin {
			e.warn("sshd has ForceCommand %s for %s: it runs instead of a command that a certificate is for", c, login)
		}
	}
	return nil
}

// logins are those that hallpass opens here.
func (e *enrolment) logins() []string {
	var out []string
	for login := range e.joined.Principals {
		if !slices.Contains(e.BreakGlass, login) {
			out = append(out, login)
		}
	}
	slices.Sort(out)
	return out
}

func lines(list []string) []byte { return []byte(strings.Join(list, "\n") + "\n") }

// conclude makes it take effect and says what is left to do.
func (e *enrolment) conclude() {
	if e.PAM != "" {
		if where, err := pamSpoof(e.PAM); err == nil && where != "" {
			e.warn("a user can pretend to have logged in without hallpass, by pam_env with user_readenv in %s", where)
		}
	}
	reloaded, err := e.sshd.reload(e.before)
	if err != nil {
		e.warn("sshd wasn't told: %v", err)
	}
	e.say("This host is %s. Logins: %s.", e.joined.Host, strings.Join(e.logins(), ", "))
	e.say("It lets in whom this CA certifies: %s.", e.firstCA)
	if !e.pinned {
		e.say("The token named no CA, so this one is whichever the service named: compare it with hallpass ca show.")
	}
	e.say("Break-glass accounts, which log in as before: %s.", strings.Join(e.BreakGlass, ", "))
	for _, w := range e.warnings {
		e.say("warning: %s", w)
	}
	if !reloaded {
		e.say("Next: make sshd read its configuration again, such as with systemctl reload ssh")
	}
	e.say("Next: keep hallpass-host run running; until it runs, certificates of hallpass open nothing here.")
}

// changes remembers what to undo.
type changes struct{ undo []func() error }

// back undoes every change, the last one first.
func (c *changes) back() error {
	var err error
	for _, f := range slices.Backward(c.undo) {
		err = errors.Join(err, f())
	}
	c.undo = nil
	return err
}

// mkdir makes a folder and those above it that are missing.
func (c *changes) mkdir(path string) error {
	if _, err := os.Stat(path); err == nil {
		return nil
	}
	if err := c.mkdir(filepath.Dir(path)); err != nil {
		return err
	}
	if err := os.Mkdir(path, 0o755); err != nil {
		return err
	}
	c.undo = append(c.undo, func() error { return os.Remove(path) })
	return os.Chmod(path, 0o755)
}

// write replaces a file and keeps the mode of one that is there.
func (c *changes) write(path string, data []byte, mode fs.FileMode) error {
	old, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		c.undo = append(c.undo, func() error {
			if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
			return nil
		})
	case err != nil:
		return err
	default:
		info, err := os.Stat(path)
		if err != nil {
			return err
		}
		mode = info.Mode().Perm()
		c.undo = append(c.undo, func() error { return write(path, old, mode) })
	}
	return write(path, data, mode)
}

// UnenrollOptions are for Unenroll.
type UnenrollOptions struct {
	Layout Layout
	Force  bool // although the agent runs, or reports wait
	Out    io.Writer
}

// Unenroll takes back what Enroll did. The part that can refuse logins goes
// first. sshd is asked whether it is content before anything is deleted for
// good.
func Unenroll(o UnenrollOptions) error {
	if os.Geteuid() != 0 {
		return errNotRoot
	}
	l := o.Layout
	config, err := loadConfig(l)
	if err != nil {
		return err
	}
	if st, err := Query(l); err == nil && !o.Force {
		return access.Errorf(access.CodeMismatch, "the host's agent is running and looks after %d sessions", len(st.Sessions)).
			WithHint("stop it first, such as with systemctl stop hallpass-host; or use --force")
	}
	if waiting, _ := filepath.Glob(filepath.Join(l.queue(), "*.json")); len(waiting) > 0 && !o.Force {
		return access.Errorf(access.CodeMismatch, "%d reports wait for the service", len(waiting)).
			WithHint("hallpass-host run sends them; or use --force, and they are lost")
	}
	undo := &changes{}
	s := sshd{program: config.SSHD, config: config.SSHDConfig}
	err = func() error {
		if config.PAM != "" {
			text, err := os.ReadFile(config.PAM)
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
			if err := brokenPAM(config.PAM, string(text)); err != nil {
				return err
			}
			if plain := removePAM(string(text)); err == nil && plain != string(text) {
				if err := undo.write(config.PAM, []byte(plain), 0o644); err != nil {
					return err
				}
			}
		}
		if old, err := os.ReadFile(s.dropIn()); err == nil {
			undo.undo = append(undo.undo, func() error { return write(s.dropIn(), old, 0o644) })
			if err := os.Remove(s.dropIn()); err != nil {
				return err
			}
		}
		return s.test(s.config)
	}()
	if err != nil {
		return errors.Join(err, undo.back())
	}
	set, err := s.settings(s.config, anyLogin)
	if err != nil {
		return err
	}
	reloaded, err := s.reload(set)
	if err != nil {
		return err
	}
	if err := errors.Join(os.RemoveAll(l.etc()), os.RemoveAll(l.state()), os.RemoveAll(l.run())); err != nil {
		return err
	}
	_, _ = fmt.Fprintf(o.Out, "This host is no longer %s. Certificates of hallpass open nothing here.\n", config.Host)
	if !reloaded {
		_, _ = fmt.Fprintln(o.Out, "Next: make sshd read its configuration again, such as with systemctl reload ssh")
	}
	return nil
}
