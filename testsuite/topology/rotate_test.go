package topology

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"hallpass/access"
	"hallpass/ca"
	"hallpass/statement"
	"hallpass/testsuite/sshdtest"
)

// rotation puts another key in the place of the SSH CA's, step by step as
// docs/configuration.md says ("Exchanging the SSH CA's key"), on two issuers that read one
// hallpass.yaml and two hosts. All the while people ask for both hosts, log in, and give
// back, and certificates from before are used: each command and each login
// works at the first try, and what was given back is refused, whichever key has signed it
// and whichever has signed the list that says so. In the end what the last key
// signs opens nothing.
func (w *world) rotation(t *testing.T) {
	if len(w.hosts) == 0 {
		t.Skip("hosts take root")
	}
	w.enroll()
	last := w.fingerprint("ssh-ca/users.pub")

	var people, before sync.WaitGroup
	defer people.Wait()
	defer before.Wait()
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	earlier, letGo := context.WithCancel(ctx)
	defer letGo()
	var logins tally

	// Those who have something from before.
	type holder struct {
		caller
		id string
		*pass
	}
	var holders []holder
	for host := range w.hosts {
		h := holder{caller: caller{person: "alice", folder: filepath.Join(w.dir, "people/alice/before-"+host)}}
		if h.id, h.pass = w.enter(t, h.caller, host, time.Hour); h.pass == nil {
			return
		}
		holders = append(holders, h)
		before.Go(func() {
			tick := time.NewTicker(300 * time.Millisecond)
			defer tick.Stop()
			for ; earlier.Err() == nil; <-tick.C {
				if out, err := h.login(t.Context()); err != nil {
					t.Errorf("%s refuses a certificate from before: %v: %s", host, err, out)
					return
				}
				logins.count("before on " + host)
			}
		})
	}
	// Those who ask for more, by way of Temporal and of the service.
	for host := range w.hosts {
		for _, service := range []string{"", "https://" + w.service} {
			people.Go(func() {
				who := caller{person: "alice", service: service, folder: filepath.Join(w.dir, "people/alice", fmt.Sprintf("%s-%d", host, len(service)))}
				for ctx.Err() == nil {
					id, p := w.enter(t, who, host, visit)
					if p == nil {
						return
					}
					by := ssh.FingerprintSHA256(p.certificate.SignatureKey)
					logins.count(by, by+" on "+host)
					if !w.leave(t, who, id, p) {
						return
					}
				}
			})
		}
	}
	// after waits for one more of each.
	after := func(what ...string) {
		t.Helper()
		had := logins.now()
		w.poll("more logins", func() error {
			if t.Failed() {
				t.FailNow()
			}
			have := logins.now()
			for _, name := range what {
				if have[name] <= had[name] {
					return fmt.Errorf("none of %s since there were %d", name, had[name])
				}
			}
			return nil
		})
	}
	says := func(want string) {
		t.Helper()
		w.poll("hallpass ca rotate to say where it is", func() error {
			if said := w.operator("ca", "rotate"); !regexp.MustCompile(want).MatchString(said) {
				return fmt.Errorf("it says %q, not %s", said, want)
			}
			return nil
		})
	}
	says(`signs +` + regexp.QuoteMeta(last) + `(?s:.*)hallpass ca init FILE`)
	after(last+" on web-1", last+" on web-2", "before on web-1", "before on web-2")

	// Hosts come to trust the next key, which signs nothing yet.
	w.operator("ca", "init", "ssh-ca/next")
	next := w.fingerprint("ssh-ca/next.pub")
	w.trusted("ssh-ca/users.pub", "ssh-ca/next.pub")
	w.setting(`key: "file:../ssh-ca/users"`, `key: "file:../ssh-ca/users"`+"\n    trusted: ssh-cas")
	w.replace(t, "issuer-1")
	w.replace(t, "issuer-2")
	says(`next +` + regexp.QuoteMeta(next) + `(?s:.*)make it issuers.ssh.key`)
	w.reload()
	w.trust(last, next)

	// One issuer signs with the next one, and the other still with the last one.
	// Whichever of them a host asks, it goes on trusting both.
	w.setting(`key: "file:../ssh-ca/users"`, `key: "file:../ssh-ca/next"`)
	w.replace(t, "issuer-1")
	w.reload()
	after(last, next, "before on web-1", "before on web-2")
	w.trust(last, next)

	// Both do.
	w.replace(t, "issuer-2")
	after(next+" on web-1", next+" on web-2", "before on web-1", "before on web-2")
	says(`last +` + regexp.QuoteMeta(last) + ` +\d+ certificates until(?s:.*)hosts refuse them without it`)
	stolen := map[string]*pass{}
	for host := range w.hosts {
		stolen[host] = w.forge(t, "ssh-ca/users", host)
		if out, err := stolen[host].login(t.Context()); err != nil {
			t.Errorf("%s refuses what the last key signs before it is told to: %v: %s", host, err, out)
		}
	}

	// Nothing is left of the last one, and hosts forget it.
	letGo()
	before.Wait()
	for _, h := range holders {
		w.leave(t, h.caller, h.id, h.pass)
	}
	says(`last +` + regexp.QuoteMeta(last) + ` +no certificates left(?s:.*)Take the last one out of `)
	w.trusted("ssh-ca/next.pub")
	w.replace(t, "issuer-1")
	w.replace(t, "issuer-2")
	w.reload()
	w.trust(next)
	for host, p := range stolen {
		if out, err := p.login(t.Context()); err == nil || !strings.Contains(out, "Permission denied") {
			t.Errorf("%s has forgotten the last key, and to what that signs it says %v, %s", host, err, out)
		}
	}
	after(next+" on web-1", next+" on web-2")
	says(`^ *signs +` + regexp.QuoteMeta(next) + `.*\n\nTo put another key in its place`)

	stop()
	people.Wait()
	// Hosts have nothing to complain of but that certificate, and the service or an issuer
	// that is away while another is put in its place.
	expected := regexp.MustCompile(`"level":"INFO"|"msg":"(report is refused|service is not there|host certificate isn't renewed)"`)
	for host, agent := range w.agents {
		for line := range strings.Lines(agent.Output()) {
			if !expected.MatchString(line) {
				t.Errorf("hallpass-host on %s: %s", host, line)
			}
		}
	}
	all := logins.now()
	t.Logf("no request failed; logins with certificates of the last key %d, of the next one %d, and %d with those from before",
		all[last], all[next], all["before on web-1"]+all["before on web-2"])
	w.accounts(t, all[last]+all[next], nil)
}

// enter asks for a host, has it approved where that takes it, and logs in. It is
// nil where something of it has failed.
func (w *world) enter(t *testing.T, who caller, host string, d time.Duration) (id string, p *pass) {
	t.Helper()
	out, ok := w.does(t, who, "request", "ssh/"+host, "--for", access.ShortDuration(d), "--reason", "topology", "--no-wait", "--output", "json")
	if !ok {
		return "", nil
	}
	var a struct{ ID string }
	if err := json.Unmarshal([]byte(out), &a); err != nil {
		t.Error(err)
		return "", nil
	}
	w.visits.Store(a.ID, d)
	if host == "web-1" {
		if _, ok := w.does(t, caller{person: "bob", service: who.service}, "approve", a.ID); !ok {
			return "", nil
		}
	}
	if out, ok = w.does(t, who, "wait", a.ID, "--timeout", "1m", "--output", "json"); !ok {
		return "", nil
	}
	if err := w.hold(a.ID, out); err != nil {
		t.Error(err)
		return "", nil
	}
	p, err := w.keep(host, who.folder)
	if err != nil {
		t.Error(err)
		return "", nil
	}
	if out, err := p.login(t.Context()); err != nil {
		t.Errorf("%s lets nobody in with the certificate of %s: %v: %s", host, a.ID, err, out)
		return "", nil
	}
	return a.ID, p
}

// leave gives back what enter got, and waits until it opens nothing any more.
func (w *world) leave(t *testing.T, who caller, id string, p *pass) (ok bool) {
	t.Helper()
	if _, ok := w.does(t, who, "release", id); !ok {
		return false
	}
	if err := p.refused(t.Context()); err != nil {
		t.Error(err)
		return false
	}
	return true
}

// forge is a certificate by whoever has a CA's private key, for a request that
// nobody has made: it is in no list of what was revoked.
func (w *world) forge(t *testing.T, caKey, host string) *pass {
	t.Helper()
	signer, err := ca.Open("file:"+filepath.Join(w.dir, caKey), ca.OpenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	authority, err := ca.New(signer, nil)
	if err != nil {
		t.Fatal(err)
	}
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(private, "")
	if err != nil {
		t.Fatal(err)
	}
	mine, err := ssh.NewSignerFromKey(private)
	if err != nil {
		t.Fatal(err)
	}
	principal, err := ca.Principal("ssh/"+host, sshdtest.User(t))
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now().Truncate(time.Second)
	prepared, err := authority.Prepare(ca.Spec{
		Request: statement.NewID(), Requester: "alice", Principals: []string{principal}, PublicKey: mine.PublicKey(),
		Serial: 1 << 30, NotBefore: now, NotAfter: now.Add(time.Hour),
	})
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := authority.Issue(prepared)
	if err != nil {
		t.Fatal(err)
	}
	p, err := w.pass(host, pem.EncodeToMemory(block), []byte(ca.Marshal(certificate)+"\n"))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// fingerprint is that of a public key in a file.
func (w *world) fingerprint(name string) string {
	w.t.Helper()
	line, err := os.ReadFile(filepath.Join(w.dir, name))
	if err != nil {
		w.t.Fatal(err)
	}
	key, _, _, _, err := ssh.ParseAuthorizedKey(line)
	if err != nil {
		w.t.Fatal(err)
	}
	return ssh.FingerprintSHA256(key)
}

// trusted writes public keys into the file of issuers.ssh.trusted.
func (w *world) trusted(names ...string) {
	w.t.Helper()
	var lines []byte
	for _, name := range names {
		line, err := os.ReadFile(filepath.Join(w.dir, name))
		if err != nil {
			w.t.Fatal(err)
		}
		lines = append(lines, line...)
	}
	if err := os.WriteFile(filepath.Join(w.dir, "public/ssh-cas"), lines, 0o644); err != nil {
		w.t.Fatal(err)
	}
}

// setting changes hallpass.yaml, which processes read when they start.
func (w *world) setting(old, now string) {
	w.t.Helper()
	path := w.env["HALLPASS_CONFIG"]
	data, err := os.ReadFile(path)
	if err != nil {
		w.t.Fatal(err)
	}
	if !strings.Contains(string(data), old) {
		w.t.Fatalf("%s has no %s", path, old)
	}
	if err := os.WriteFile(path, []byte(strings.Replace(string(data), old, now, 1)), 0o600); err != nil {
		w.t.Fatal(err)
	}
}

// reload does what systemctl reload hallpass-host does on each host.
func (w *world) reload() {
	w.t.Helper()
	for _, agent := range w.agents {
		if err := syscall.Kill(agent.Pid(), syscall.SIGHUP); err != nil {
			w.t.Fatal(err)
		}
	}
}

// trust waits until each host lets in what these CAs sign, and no others.
func (w *world) trust(want ...string) {
	w.t.Helper()
	slices.Sort(want)
	names := regexp.MustCompile(`certificates of the CA (\S+) open it`)
	for name, h := range w.hosts {
		w.poll(name+" to trust the CAs that it shall", func() error {
			out, err := h.Command("check").CombinedOutput()
			var have []string
			for _, m := range names.FindAllStringSubmatch(string(out), -1) {
				have = append(have, m[1])
			}
			if slices.Sort(have); !slices.Equal(have, want) {
				return fmt.Errorf("it trusts %v, not %v: %w, %s", have, want, err, out)
			}
			return nil
		})
	}
}

// tally counts things by name. It is safe for concurrent use.
type tally struct {
	mu sync.Mutex
	n  map[string]int
}

func (c *tally) count(names ...string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.n == nil {
		c.n = map[string]int{}
	}
	for _, name := range names {
		c.n[name]++
	}
}

// now is a copy of what has been counted.
func (c *tally) now() map[string]int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.n)
}
