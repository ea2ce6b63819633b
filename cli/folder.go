package cli

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
	"golang.org/x/sys/unix"

	"hallpass/access"
	"hallpass/ca"
	"hallpass/statement"
)

// folder is the client's own folder, $HALLPASS_HOME or ~/.hallpass. Folders in
// it are 0700 and files 0600.
//
//	requests/ID/request.json     a request under way: what was signed, and for which hosts
//	requests/ID/key              its private key, until the request is granted or has ended;
//	                             for what is in Vault, until that is opened
//	requests/ID/opened           when that was
//	certs/LOGIN@HOST-cert.pub    the certificate of a live grant, for each name of the host
//	certs/LOGIN@HOST.pub         its public key
//	certs/LOGIN@HOST             its private key; absent while ssh-agent holds it
//	certs/LOGIN@ID…              the same for a grant of one command, by its request
//
// "@" can't be part of a login, so no two grants share a name. A private key
// lives only as long as its request and its grant.
type folder struct {
	path  string
	now   func() time.Time
	agent string // the agent's socket; "" for none
}

func (a *app) folder() (*folder, error) {
	path := a.env("HALLPASS_HOME")
	if path == "" {
		home, err := a.home()
		if err != nil {
			return nil, err
		}
		path = filepath.Join(home, ".hallpass")
	}
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	return &folder{path: path, now: a.now, agent: a.env("SSH_AUTH_SOCK")}, nil
}

// prepare makes the folders, and refuses to work in one that others own or can
// write to: they could read the keys in it, or put links in their places.
func (f *folder) prepare() error {
	for _, dir := range []string{f.path, f.requests(), f.certs()} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
		info, err := os.Stat(dir)
		if err != nil {
			return err
		}
		if st, ok := info.Sys().(*syscall.Stat_t); ok && int(st.Uid) != os.Geteuid() {
			return failf(ExitError, "%s belongs to another user (uid %d)", dir, st.Uid).
				withHint("point HALLPASS_HOME to a folder of your own")
		}
		if info.Mode().Perm()&0o022 != 0 {
			return failf(ExitError, "%s can be written to by others", dir).withHint("chmod 700 %s", dir)
		}
	}
	return nil
}

func (f *folder) requests() string { return filepath.Join(f.path, "requests") }
func (f *folder) certs() string    { return filepath.Join(f.path, "certs") }

// base is the path of the private key for login on host, which the names of
// the other files begin with. It is "" for words that name no file.
func (f *folder) base(login, host string) string {
	if access.CheckLogin(login) != nil || !hostWord(host) {
		return ""
	}
	return filepath.Join(f.certs(), login+"@"+host)
}

// hostWord says whether s is a host as typed after ssh that may be part of a
// file's name.
func hostWord(s string) bool {
	for i := range len(s) {
		if c := s[i]; (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && strings.IndexByte("._:-", c) < 0 {
			return false
		}
	}
	return s != "" && len(s) <= 253 && s[0] != '.' && s[0] != '-'
}

// kept is a request under way, as the folder has it.
type kept struct {
	Statement access.Statement `json:"statement"`
	Resource  access.Resource  `json:"resource"`           // as the catalog had it
	Identity  string           `json:"identity,omitempty"` // file of the private key, where it isn't ours
	Alone     bool             `json:"alone,omitempty"`    // for one command; nobody else uses the grant

	request access.Request
	key     ed25519.PrivateKey // nil with Identity, and for what is sealed
	age     string             // the key that opens what is sealed, for that; "" once it is opened
}

// keep stores k. It is durable when keep returns: the key must outlive a
// request that is about to be made with it.
func (f *folder) keep(k kept) error {
	if err := f.prepare(); err != nil {
		return err
	}
	dir := filepath.Join(f.requests(), k.request.ID)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	data, err := json.MarshalIndent(k, "", "  ")
	if err != nil {
		return err
	}
	if k.key != nil {
		if err := writeKey(filepath.Join(dir, "key"), k.key, k.request.ID); err != nil {
			return err
		}
	}
	if k.age != "" {
		if err := writeFile(filepath.Join(dir, "key"), []byte(k.age+"\n")); err != nil {
			return err
		}
	}
	return writeFile(filepath.Join(dir, "request.json"), append(data, '\n'))
}

// kept returns the request with this id. The error is fs.ErrNotExist if it
// was made elsewhere, has ended or is granted.
func (f *folder) kept(id string) (kept, error) {
	dir := filepath.Join(f.requests(), id)
	data, err := os.ReadFile(filepath.Join(dir, "request.json"))
	if err != nil {
		return kept{}, err
	}
	var k kept
	if err := json.Unmarshal(data, &k); err != nil {
		return kept{}, fmt.Errorf("%s: %w", filepath.Join(dir, "request.json"), err)
	}
	if k.request, err = statement.ParseRequest([]byte(k.Statement.Payload)); err != nil {
		return kept{}, fmt.Errorf("%s: %w", filepath.Join(dir, "request.json"), err)
	}
	if k.Identity != "" {
		return k, nil
	}
	if k.request.Recipient == "" {
		k.key, err = readKey(filepath.Join(dir, "key"))
		return k, err
	}
	data, err = os.ReadFile(filepath.Join(dir, "key"))
	if errors.Is(err, fs.ErrNotExist) {
		err = nil // opened, and the key is gone
	}
	k.age = strings.TrimSpace(string(data))
	return k, err
}

// mark is what is known of the opening of a sealed secret. It is written before
// the secret is opened, so that who comes after a crash isn't told that
// somebody else did it.
type mark struct {
	At   time.Time `json:"at"` // zero: nobody has begun
	Done bool      `json:"done"`
}

func (f *folder) mark(id string) (mark, error) {
	var m mark
	data, err := os.ReadFile(filepath.Join(f.requests(), id, "opened"))
	if errors.Is(err, fs.ErrNotExist) {
		return m, nil
	}
	if err == nil {
		err = json.Unmarshal(data, &m)
	}
	return m, err
}

// setMark writes the mark. With m.Done the key, which opens nothing any more,
// goes.
func (f *folder) setMark(id string, m mark) error {
	data, err := json.Marshal(m)
	if err != nil {
		return err
	}
	dir := filepath.Join(f.requests(), id)
	if err := writeFile(filepath.Join(dir, "opened"), append(data, '\n')); err != nil || !m.Done {
		return err
	}
	return os.Remove(filepath.Join(dir, "key"))
}

// underWay lists the requests that the folder keeps, the newest first. What
// can't be read is left out.
func (f *folder) underWay() []kept {
	entries, err := os.ReadDir(f.requests())
	if err != nil {
		return nil
	}
	var all []kept
	for _, e := range slices.Backward(entries) {
		if k, err := f.kept(e.Name()); err == nil {
			all = append(all, k)
		}
	}
	return all
}

// forget removes a request and its key.
func (f *folder) forget(id string) error {
	if !access.IsIDPrefix(id) {
		return nil
	}
	return os.RemoveAll(filepath.Join(f.requests(), id))
}

// grant is a certificate with what is needed to use it.
type grant struct {
	certificate *ssh.Certificate
	key         ed25519.PrivateKey // nil with identity
	identity    string
	login       string
	names       []string // of hosts, or of the request
}

// install makes a grant usable: the key goes into ssh-agent where there is
// one, for no longer than the certificate lives, and into a file where there
// is none. It reports whether the agent has it.
func (f *folder) install(g grant) (inAgent bool, err error) {
	if err := f.prepare(); err != nil {
		return false, err
	}
	if g.key != nil {
		if inAgent = f.lend(g) == nil; !inAgent {
			f.takeBack(g.certificate) // half of it, perhaps
		}
	}
	unlock, err := f.alone()
	if err != nil {
		return inAgent, err
	}
	defer unlock()
	for _, name := range g.names {
		base := f.base(g.login, name)
		if base == "" {
			continue
		}
		if err := f.remove(base); err != nil {
			return inAgent, err
		}
		switch {
		case g.identity != "":
			err = os.Symlink(g.identity, base)
		case !inAgent:
			err = writeKey(base, g.key, g.certificate.KeyId)
		}
		if err != nil {
			return inAgent, err
		}
		if err := writeFile(base+".pub", ssh.MarshalAuthorizedKey(g.certificate.Key)); err != nil {
			return inAgent, err
		}
		// Last, because it is what says that the grant is here.
		if err := writeFile(base+"-cert.pub", ssh.MarshalAuthorizedKey(g.certificate)); err != nil {
			return inAgent, err
		}
	}
	return inAgent, nil
}

var errNoAgent = errors.New("no ssh-agent")

func (f *folder) dialAgent() (agent.ExtendedAgent, func(), error) {
	if f.agent == "" {
		return nil, nil, errNoAgent
	}
	conn, err := net.DialTimeout("unix", f.agent, time.Second)
	if err != nil {
		return nil, nil, err
	}
	// An agent may ask its user; a minute is enough for that.
	_ = conn.SetDeadline(time.Now().Add(time.Minute))
	return agent.NewClient(conn), func() { _ = conn.Close() }, nil
}

// lend gives key and certificate to ssh-agent until the certificate ends: both
// as ssh-add does, because ssh finds a certificate that it has in a file by the
// plain key, and one that it has in no file by itself.
func (f *folder) lend(g grant) error {
	left := f.end(g.certificate).Sub(f.now())
	if left < time.Second {
		return errors.New("the certificate has ended")
	}
	keys, done, err := f.dialAgent()
	if err != nil {
		return err
	}
	defer done()
	for _, c := range []*ssh.Certificate{g.certificate, nil} {
		err := keys.Add(agent.AddedKey{
			PrivateKey:   g.key,
			Certificate:  c,
			Comment:      g.certificate.KeyId,
			LifetimeSecs: uint32(left / time.Second),
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// takeBack removes from ssh-agent what lend gave it for c. What somebody else
// has put there goes by another name. If it can't be done, it ends by itself.
func (f *folder) takeBack(c *ssh.Certificate) {
	keys, done, err := f.dialAgent()
	if err != nil {
		return
	}
	defer done()
	held, _ := keys.List()
	for _, k := range held {
		if k.Comment == c.KeyId {
			_ = keys.Remove(k)
		}
	}
}

func (f *folder) end(c *ssh.Certificate) time.Time { return time.Unix(int64(c.ValidBefore), 0) }

// spare is how long a certificate must still live to be worth a login.
const spare = 2 * time.Second

// live returns the certificate for login on host if it can be used now. It
// opens no connection but, if need be, to the agent.
func (f *folder) live(login, host string) (*ssh.Certificate, bool) {
	base := f.base(login, host)
	if base == "" {
		return nil, false
	}
	c, err := readCertificate(base + "-cert.pub")
	if err != nil {
		return nil, false
	}
	now := f.now()
	if now.Before(time.Unix(int64(c.ValidAfter), 0)) || !now.Add(spare).Before(f.end(c)) {
		return nil, false
	}
	if _, err := os.Stat(base); err == nil {
		return c, true
	}
	keys, done, err := f.dialAgent()
	if err != nil {
		return nil, false
	}
	defer done()
	held, err := keys.List()
	if err != nil {
		return nil, false
	}
	plain, full := string(c.Key.Marshal()), string(c.Marshal())
	for _, k := range held {
		if blob := string(k.Blob); blob == plain || blob == full {
			return c, true
		}
	}
	return nil, false
}

// drop removes the grant of a request from files and agent.
func (f *folder) drop(id string) error {
	return f.dropWhere(func(c *ssh.Certificate) bool {
		request, _, err := ca.ParseKeyID(c.KeyId)
		return err == nil && request == id
	})
}

// extending are the requests of which there is something here and that extend a
// grant, each with the request of that.
func (f *folder) extending() map[string]string {
	of := map[string]string{}
	for _, k := range f.underWay() {
		of[k.request.ID] = k.request.Extends
	}
	files, _ := filepath.Glob(filepath.Join(f.certs(), "*-cert.pub")) // the pattern is ours
	for _, file := range files {
		if c, err := readCertificate(file); err == nil {
			if request, _, err := ca.ParseKeyID(c.KeyId); err == nil {
				of[request] = c.Extensions[access.ExtensionExtends]
			}
		}
	}
	maps.DeleteFunc(of, func(_, extends string) bool { return extends == "" })
	return of
}

// keptFor is how long the files of a request that nobody has come back to
// are kept, from its start: longer than it can wait for approvals.
const keptFor = 30 * 24 * time.Hour

// sweep removes what can't be used any more: expired certificates with their
// keys, and requests that nobody has come back to.
func (f *folder) sweep() error {
	now := f.now()
	err := f.dropWhere(func(c *ssh.Certificate) bool { return !now.Before(f.end(c)) })
	for _, k := range f.underWay() {
		from := k.request.Time
		if k.request.Start != nil {
			from = *k.request.Start
		}
		if now.After(from.Add(keptFor)) {
			err = errors.Join(err, f.forget(k.request.ID))
		}
	}
	return err
}

func (f *folder) dropWhere(ended func(*ssh.Certificate) bool) error {
	unlock, err := f.alone()
	if errors.Is(err, fs.ErrNotExist) {
		return nil // no folder, no certificates
	} else if err != nil {
		return err
	}
	defer unlock()
	files, err := filepath.Glob(filepath.Join(f.certs(), "*-cert.pub"))
	if err != nil {
		return err
	}
	for _, file := range files {
		c, rerr := readCertificate(file)
		if rerr != nil || !ended(c) {
			continue
		}
		f.takeBack(c)
		err = errors.Join(err, f.remove(strings.TrimSuffix(file, "-cert.pub")))
	}
	return err
}

// alone keeps other processes from changing certs until unlock: the files of
// one name belong together, and two grants for it may arrive at once. Nobody
// holds it for longer than it takes to write them.
func (f *folder) alone() (unlock func(), err error) { return flock(f.certs()) }

// opening keeps other processes from opening the secret of one request.
func (f *folder) opening(id string) (unlock func(), err error) {
	return flock(filepath.Join(f.requests(), id))
}

func flock(path string) (unlock func(), err error) {
	dir, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	for {
		err = unix.Flock(int(dir.Fd()), unix.LOCK_EX)
		if err == nil {
			return func() { _ = dir.Close() }, nil
		}
		if !errors.Is(err, unix.EINTR) {
			_ = dir.Close()
			return nil, fmt.Errorf("lock %s: %w", dir.Name(), err)
		}
	}
}

// remove takes away the files of one name: first the one that says that there
// is a grant.
func (f *folder) remove(base string) error {
	for _, file := range []string{base + "-cert.pub", base + ".pub", base} {
		if err := os.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// lock makes sure that one process at a time asks for login on resource. It
// waits for the other one, and ends with ctx.
func (f *folder) lock(ctx context.Context, login, resource string, waiting func()) (unlock func(), err error) {
	if err := f.prepare(); err != nil {
		return nil, err
	}
	name := login + "@" + strings.ReplaceAll(resource, "/", "~") + ".lock"
	file, err := os.OpenFile(filepath.Join(f.requests(), name), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	for first := true; ; first = false {
		err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { _ = file.Close() }, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			_ = file.Close()
			return nil, fmt.Errorf("lock %s: %w", file.Name(), err)
		}
		if first {
			waiting()
		}
		if err := pause(ctx, 50*time.Millisecond); err != nil {
			_ = file.Close()
			return nil, err
		}
	}
}

// pause waits for d, or less if ctx ends first, and returns its error then.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

func readCertificate(file string) (*ssh.Certificate, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	return parseCertificate(string(data))
}

func parseCertificate(line string) (*ssh.Certificate, error) {
	key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(line))
	if err != nil {
		return nil, fmt.Errorf("read certificate: %w", err)
	}
	c, ok := key.(*ssh.Certificate)
	if !ok {
		return nil, errors.New("read certificate: it is a plain key")
	}
	return c, nil
}

func readKey(file string) (ed25519.PrivateKey, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	key, err := ssh.ParseRawPrivateKey(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	k, ok := key.(*ed25519.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("%s: not an ed25519 key", file)
	}
	return *k, nil
}

func writeKey(file string, key ed25519.PrivateKey, comment string) error {
	block, err := ssh.MarshalPrivateKey(key, comment)
	if err != nil {
		return err
	}
	return writeFile(file, pem.EncodeToMemory(block))
}

// writeFile writes a 0600 file that is there whole or not at all, and durable.
func writeFile(file string, data []byte) error {
	tmp, err := os.CreateTemp(filepath.Dir(file), ".new-*") // 0600
	if err != nil {
		return err
	}
	_, err = tmp.Write(data)
	if err == nil {
		err = tmp.Sync()
	}
	err = errors.Join(err, tmp.Close())
	if err == nil {
		err = os.Rename(tmp.Name(), file)
	}
	if err != nil {
		_ = os.Remove(tmp.Name())
	}
	return err
}
