package grant_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"io"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"hallpass/access"
	"hallpass/audit"
	"hallpass/ca"
	"hallpass/ca/krl"
	"hallpass/evidence"
	"hallpass/grant"
	"hallpass/statement"
)

var noon = time.Date(2026, 3, 2, 12, 0, 0, 0, time.UTC)

const policyYAML = `
rules:
  - name: production
    when: resource.labels.env == "prod"
    max_duration: 8h
    approvals:
      - {count: 1, from: [sre]}
    ssh: {extensions: [permit-pty], source_address: [127.0.0.0/8]}
  - name: test-machines
    when: resource.labels.env == "test"
    max_duration: 30d
    approvals: none
`

const catalogYAML = `
resources:
  ssh/web-1:
    labels: {env: prod}
    logins: [deploy, root]
  ssh/lab-1:
    labels: {env: test}
    logins: [deploy]
`

// world is a whole issuer with real parts: signed statements, policy, CA and
// an audit log on disk. Only its clock is not real.
type world struct {
	t      testing.TB
	people map[string]ssh.Signer
	book   atomic.Pointer[evidence.Rulebook]
	log    *audit.Log
	path   string // of the audit log
	key    string // that signs it
	ca     *ca.CA
	uses   *uses
	clock  atomic.Int64 // seconds since noon
}

// uses counts how often a key is touched for anything but a key revocation
// list.
type uses struct {
	ssh.Signer
	n atomic.Int64
}

func (u *uses) Sign(r io.Reader, data []byte) (*ssh.Signature, error) {
	if !bytes.HasPrefix(data, []byte("SSHSIG")) {
		u.n.Add(1)
	}
	return u.Signer.Sign(r, data)
}

func newKey(t testing.TB) ssh.Signer {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return signer
}

// first is the first serial of web-1.
var first = krl.Serial(krl.Series("web-1"), 1)

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{t: t, people: map[string]ssh.Signer{}, uses: &uses{Signer: newKey(t)}}
	groups := map[string]string{"alice": "dev", "bob": "sre", "carol": "sre", "dave": "dev"}
	directory := "users:\n"
	for name, group := range groups {
		w.people[name] = newKey(t)
		directory += "  " + name + ": {groups: [" + group + "], keys: ['" + statement.MarshalKey(w.people[name].PublicKey()) + "']}\n"
	}
	dir := t.TempDir()
	w.path = filepath.Join(dir, "audit.db")
	if _, err := audit.CreateKey(filepath.Join(dir, "key"), filepath.Join(dir, "pub"), "audit.example.com"); err != nil {
		t.Fatal(err)
	}
	var err error
	if w.key, err = audit.ReadKey(filepath.Join(dir, "key")); err != nil {
		t.Fatal(err)
	}
	w.log = w.openLog()
	w.rules(policyYAML, directory, catalogYAML)
	if w.ca, err = ca.New(w.uses, w.now); err != nil {
		t.Fatal(err)
	}
	return w
}

func (w *world) now() time.Time { return noon.Add(time.Duration(w.clock.Load()) * time.Second) }

// pass lets time go by.
func (w *world) pass(d time.Duration) { w.clock.Add(int64(d / time.Second)) }

// openLog opens the audit log once more, as another process would.
func (w *world) openLog() *audit.Log {
	w.t.Helper()
	l, err := audit.Open(context.Background(), audit.Options{Database: w.path, Key: w.key, Now: w.now})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = l.Close() })
	return l
}

// rules puts a new rulebook in force.
func (w *world) rules(policy, directory, catalog string) {
	w.t.Helper()
	book, err := evidence.NewRulebook([]byte(policy), []byte(directory), []byte(catalog))
	if err != nil {
		w.t.Fatal(err)
	}
	if err := w.log.RecordRulebook(context.Background(), book); err != nil {
		w.t.Fatal(err)
	}
	w.book.Store(book)
}

// policy changes the policy alone.
func (w *world) policy(policy string) {
	w.t.Helper()
	book := w.book.Load()
	w.rules(policy, string(book.Directory.Data()), string(book.Catalog.Data()))
}

func (w *world) ssh() *grant.SSH {
	return &grant.SSH{CA: w.ca, KRL: &grant.KRL{CA: w.ca, Store: w.log, Now: w.now}}
}

// issuer makes an issuer with a kind and a ledger; nil stands for the real
// ones.
func (w *world) issuer(kind grant.Kind, ledger grant.Ledger) *grant.Issuer {
	if kind == nil {
		kind = w.ssh()
	}
	if ledger == nil {
		ledger = w.log
	}
	return &grant.Issuer{
		Kinds: map[string]grant.Kind{"ssh": kind}, Rulebook: w.book.Load, Ledger: ledger, Now: w.now,
	}
}

func (w *world) sign(by string, payload any) access.Statement {
	w.t.Helper()
	st, err := statement.Sign(w.people[by], payload)
	if err != nil {
		w.t.Fatal(err)
	}
	return st
}

// request is alice's for an hour on ssh/web-1, changed by edit.
func (w *world) request(edit func(*access.Request)) access.Request {
	w.t.Helper()
	r := access.Request{
		Header:    access.Header{Type: access.TypeRequest, ID: statement.NewID(), Signer: "alice", Time: w.now()},
		Resource:  "ssh/web-1",
		Login:     "deploy",
		Duration:  3600,
		PublicKey: statement.MarshalKey(newKey(w.t).PublicKey()),
	}
	if edit != nil {
		edit(&r)
	}
	return r
}

// decision is by's approval of a request, changed by edit.
func (w *world) decision(by string, request access.Statement, edit func(*access.Decision)) access.Statement {
	w.t.Helper()
	r, err := statement.ParseRequest([]byte(request.Payload))
	if err != nil {
		w.t.Fatal(err)
	}
	d := access.Decision{
		Header:  access.Header{Type: access.TypeDecision, ID: statement.NewID(), Signer: by, Time: w.now()},
		Request: r.ID, RequestHash: request.Hash(), Verdict: access.Approve,
	}
	if edit != nil {
		edit(&d)
	}
	return w.sign(by, d)
}

// approved is evidence that is good: a request and bob's approval.
func (w *world) approved(edit func(*access.Request)) (access.Evidence, access.Request) {
	w.t.Helper()
	r := w.request(edit)
	st := w.sign("alice", r)
	return access.Evidence{Request: st, Decisions: []access.Statement{w.decision("bob", st, nil)}}, r
}

func (w *world) issue(i *grant.Issuer, ev access.Evidence) access.Credential {
	w.t.Helper()
	c, err := i.Issue(context.Background(), ev)
	if err != nil {
		w.t.Fatalf("Issue: %v", err)
	}
	return c
}

// refused checks that evidence is refused with a code.
func (w *world) refused(i *grant.Issuer, ev access.Evidence, want access.Code) error {
	w.t.Helper()
	c, err := i.Issue(context.Background(), ev)
	if access.CodeOf(err) != want || c.Certificate != "" {
		w.t.Fatalf("Issue gave %+v, error %v (code %q); want code %q", c, err, access.CodeOf(err), want)
	}
	return err
}

// events lists the log's events that q finds.
func (w *world) events(q audit.Query) []audit.Event {
	w.t.Helper()
	var out []audit.Event
	for rec, err := range w.log.Events(context.Background(), q) {
		if err != nil {
			w.t.Fatal(err)
		}
		out = append(out, rec.Event)
	}
	return out
}

// verify has the log checked: every signature, and every credential against
// the rules of the day.
func (w *world) verify() {
	w.t.Helper()
	report, err := w.log.Verify(context.Background(), audit.VerifyOptions{})
	if err != nil || !report.OK {
		w.t.Errorf("audit log: %+v, error %v", report.Problems, err)
	}
}

// certificate reads a credential.
func certificate(t testing.TB, c access.Credential) *ssh.Certificate {
	t.Helper()
	key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(c.Certificate))
	if err != nil {
		t.Fatal(err)
	}
	return key.(*ssh.Certificate)
}

// tokens is a kind whose credentials can be taken back, as a token server's
// can: what is alive is known at any time.
type tokens struct {
	next     atomic.Uint64
	mu       sync.Mutex
	live     map[string]int // by request
	revoked  int
	issuing  func()                      // is called in Issue, before anything is made
	revoking func(context.Context) error // is called in Revoke, before anything is done
}

func (k *tokens) Prepare(_ context.Context, o grant.Order) (access.Handle, error) {
	return access.Handle{
		Request: o.Request.ID, Kind: o.Resource.Kind, Serial: k.next.Add(1),
		NotBefore: o.NotBefore, NotAfter: o.NotAfter,
	}, nil
}

func (k *tokens) Issue(_ context.Context, o grant.Order, h access.Handle) (access.Credential, error) {
	if h.Request != o.Request.ID || !h.NotAfter.Equal(o.NotAfter) {
		return access.Credential{}, access.Errorf(access.CodeMismatch, "another order")
	}
	if k.issuing != nil {
		k.issuing()
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.live == nil {
		k.live = map[string]int{}
	}
	k.live[h.Request]++
	return access.Credential{Handle: h, Sealed: "sealed for " + o.Request.Signer}, nil
}

func (k *tokens) Revoke(ctx context.Context, h access.Handle) error {
	if k.revoking != nil {
		if err := k.revoking(ctx); err != nil {
			return err
		}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.live, h.Request)
	k.revoked++
	return nil
}

func (k *tokens) alive(request string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.live[request] > 0
}
