package service

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
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
	"hallpass/testsuite/sshdtest"
)

// world is the service with the real parts behind it: ledger, issuer, both
// CAs, TLS. Only Temporal is left out: Certify calls the issuer.
type world struct {
	t       testing.TB
	people  map[string]ssh.Signer
	log     *audit.Log
	book    *evidence.Rulebook
	users   *ca.CA
	hostCA  *ca.CA
	next    ssh.PublicKey // of the CA that is to take the place of users
	krl     *grant.KRL
	issuer  *grant.Issuer
	hosts   *grant.Hosts
	client  *http.Client
	address string

	mu        sync.Mutex
	certified int
}

func newWorld(t testing.TB, login string) *world {
	t.Helper()
	w := &world{t: t, people: map[string]ssh.Signer{}}
	directory := "users:\n"
	for name, group := range map[string]string{"alice": "dev", "bob": "sre"} {
		w.people[name] = newKey(t)
		directory += "  " + name + ": {groups: [" + group + "], keys: ['" + statement.MarshalKey(w.people[name].PublicKey()) + "']}\n"
	}
	policy := `
hosts: {enroll: [sre]}
rules:
  - {name: all, when: 'true', max_duration: 1h, approvals: none}
`
	catalog := "resources:\n  ssh/web-1: {logins: [" + login + "], hosts: [web-1, web-1.example.com], address: '10.0.0.7:22'}\n" +
		"  ssh/web-2: {logins: [" + login + "]}\n"
	dir := t.TempDir()
	_, err := audit.CreateKey(filepath.Join(dir, "key"), filepath.Join(dir, "pub"), "audit.example.com")
	w.check(err)
	key, err := audit.ReadKey(filepath.Join(dir, "key"))
	w.check(err)
	w.log, err = audit.Open(context.Background(), audit.Options{Database: filepath.Join(dir, "audit.db"), Key: key})
	w.check(err)
	t.Cleanup(func() { _ = w.log.Close() })
	w.book, err = evidence.NewRulebook([]byte(policy), []byte(directory), []byte(catalog))
	w.check(err)
	w.check(w.log.RecordRulebook(context.Background(), w.book))
	w.users, err = ca.New(newKey(t), nil)
	w.check(err)
	w.hostCA, err = ca.New(newKey(t), nil)
	w.check(err)
	w.next = newKey(t).PublicKey()
	w.krl = &grant.KRL{CA: w.users, Store: w.log}
	w.check(w.krl.Publish(context.Background())) // as an issuer does when it starts
	book := func() *evidence.Rulebook { return w.book }
	w.issuer = &grant.Issuer{
		Kinds:    map[string]grant.Kind{"ssh": &grant.SSH{CA: w.users, KRL: w.krl}},
		Rulebook: book, Ledger: w.log,
	}
	w.hosts = &grant.Hosts{Users: w.users, Trusted: []ssh.PublicKey{w.users.PublicKey(), w.next}, CA: w.hostCA, Rulebook: book, Ledger: w.log, NextSerial: w.log.NextSerial}
	w.client, w.address = start(t, New(Options{
		KRL: w.log, Hosts: w.log, Rulebook: book, Log: quiet,
		Certify: func(ctx context.Context, _ string, in access.Enrolment) (access.Statement, error) {
			w.mu.Lock()
			w.certified++
			w.mu.Unlock()
			return w.hosts.Certify(ctx, in)
		},
	}))
	return w
}

func (w *world) check(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) sign(by ssh.Signer, payload any) access.Statement {
	w.t.Helper()
	st, err := statement.Sign(by, payload)
	w.check(err)
	return st
}

func header(typ access.Type, signer string) access.Header {
	return access.Header{Type: typ, ID: statement.NewID(), Signer: signer, Time: statement.Time(time.Now())}
}

// token is who's for web-1, changed by edit.
func (w *world) token(who string, edit func(*access.Join)) string {
	w.t.Helper()
	j := access.Join{Header: header(access.TypeHost, who), Resource: "ssh/web-1"}
	j.Until = j.Time.Add(time.Hour)
	if edit != nil {
		edit(&j)
	}
	token, err := statement.Token(w.sign(w.people[who], j))
	w.check(err)
	return token
}

func public(k ssh.Signer) string { return statement.MarshalKey(k.PublicKey()) }

// tell sends a host's message and opens what it is told.
func (w *world) tell(path string, message any, out *access.Enrolled) error {
	w.t.Helper()
	var told access.Statement
	if err := w.post(path, message, &told); err != nil {
		return err
	}
	e, by, err := statement.OpenEnrolled(told)
	w.check(err)
	if statement.MarshalKey(by) != statement.MarshalKey(w.users.PublicKey()) {
		w.t.Errorf("signed by %s", ssh.FingerprintSHA256(by))
	}
	*out = e
	return nil
}

// post sends a message and reads the answer, or the error that it is.
func (w *world) post(path string, message, out any) error {
	w.t.Helper()
	data, err := json.Marshal(message)
	w.check(err)
	resp, err := w.client.Post(w.address+path, "application/json", strings.NewReader(string(data)))
	w.check(err)
	defer resp.Body.Close() //nolint:errcheck // test
	data, err = io.ReadAll(resp.Body)
	w.check(err)
	if resp.StatusCode == http.StatusOK {
		w.check(json.Unmarshal(data, out))
		return nil
	}
	var e access.Error
	w.check(json.Unmarshal(data, &e))
	if want := status(e.Code); resp.StatusCode != want {
		w.t.Errorf("status %d with %s", resp.StatusCode, data)
	}
	return &e
}

type join struct {
	Token    string   `json:"token"`
	HostKey  string   `json:"host_key"`
	AgentKey string   `json:"agent_key"`
	Names    []string `json:"names,omitempty"`
}

func TestEnrol(t *testing.T) {
	w := newWorld(t, "deploy")
	agent, host := newKey(t), newKey(t)
	good := func() join {
		return join{w.token("bob", nil), public(host), public(agent), nil}
	}
	for _, tt := range []struct {
		name string
		edit func(*join)
		code access.Code
	}{
		{"good", nil, ""},
		{"with one of its names", func(j *join) { j.Names = []string{"web-1.example.com"} }, ""},
		{"with somebody else's name", func(j *join) { j.Names = []string{"web-2"} }, access.CodeForbidden},
		{"no token", func(j *join) { j.Token = "" }, access.CodeMalformed},
		{"token cut short", func(j *join) { j.Token = j.Token[:len(j.Token)-1] }, access.CodeMalformed},
		{"by somebody who may not", func(j *join) { j.Token = w.token("alice", nil) }, access.CodeForbidden},
		{"by a stranger", func(j *join) {
			w.people["eve"] = newKey(t)
			j.Token = w.token("eve", nil)
		}, access.CodeUnverified},
		{"by a stranger in bob's name", func(j *join) { j.Token = w.token("eve", func(j *access.Join) { j.Signer = "bob" }) }, access.CodeUnverified},
		{"expired", func(j *join) {
			j.Token = w.token("bob", func(j *access.Join) { j.Time = j.Time.Add(-time.Hour); j.Until = j.Time.Add(59 * time.Minute) })
		}, access.CodeStale},
		{"from the future", func(j *join) {
			j.Token = w.token("bob", func(j *access.Join) {
				j.Time = j.Time.Add(access.ClockSkew + time.Minute)
				j.Until = j.Time.Add(time.Hour)
			})
		}, access.CodeStale},
		{"of no resource", func(j *join) {
			j.Token = w.token("bob", func(j *access.Join) { j.Resource = "ssh/web-9" })
		}, access.CodeNotFound},
		{"no host key", func(j *join) { j.HostKey = "" }, access.CodeMalformed},
		{"no agent key", func(j *join) { j.AgentKey = "" }, access.CodeMalformed},
		{"a person's key", func(j *join) { j.AgentKey = public(w.people["alice"]) }, access.CodeForbidden},
		{"the users' CA's key", func(j *join) { j.HostKey = statement.MarshalKey(w.users.PublicKey()) }, access.CodeForbidden},
		{"the hosts' CA's key", func(j *join) { j.HostKey = statement.MarshalKey(w.hostCA.PublicKey()) }, access.CodeForbidden},
	} {
		t.Run(tt.name, func(t *testing.T) {
			j := good()
			if tt.edit != nil {
				tt.edit(&j)
			}
			var out access.Enrolled
			err := w.tell("/v1/hosts", j, &out)
			if access.CodeOf(err) != tt.code {
				t.Fatalf("%v, want %q", err, tt.code)
			}
			if err != nil {
				return
			}
			key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(out.Certificate))
			w.check(err)
			names := j.Names
			if names == nil {
				names = []string{"web-1", "web-1.example.com", "10.0.0.7"}
			}
			checker := ssh.CertChecker{IsHostAuthority: func(k ssh.PublicKey, _ string) bool {
				return statement.MarshalKey(k) == out.HostCAs[0]
			}}
			for _, name := range names {
				if err := checker.CheckHostKey(name+":22", &net.TCPAddr{}, key); err != nil {
					t.Errorf("%s: %v", name, err)
				}
			}
			if err := checker.CheckHostKey("web-2:22", &net.TCPAddr{}, key); err == nil {
				t.Error("the certificate is good for web-2")
			}
			cert := key.(*ssh.Certificate)
			if statement.MarshalKey(cert.Key) != public(host) || out.Host != "web-1" || !slices.Equal(out.UserCAs, []string{statement.MarshalKey(w.users.PublicKey()), statement.MarshalKey(w.next)}) ||
				out.Principals["deploy"][0] != "web-1/deploy" {
				t.Errorf("%+v", out)
			}
			if left := time.Until(out.RenewAfter); left < 19*24*time.Hour || left > 20*24*time.Hour {
				t.Errorf("renew after %s", left)
			}
		})
	}
	if report, err := w.log.Verify(t.Context(), audit.VerifyOptions{}); err != nil || !report.OK {
		t.Errorf("audit log: %v, %v", report.Problems, err)
	}
}

func TestTokenIsUsedUp(t *testing.T) {
	w := newWorld(t, "deploy")
	agent, host := newKey(t), newKey(t)
	token := w.token("bob", nil)
	var first, again, out access.Enrolled
	w.check(w.tell("/v1/hosts", join{token, public(host), public(agent), nil}, &first))
	w.check(w.tell("/v1/hosts", join{token, public(host), public(agent), nil}, &again))
	if first.Certificate != again.Certificate {
		t.Error("the same question has another answer")
	}
	if err := w.tell("/v1/hosts", join{token, public(newKey(t)), public(newKey(t)), nil}, &out); access.CodeOf(err) != access.CodeDuplicate {
		t.Errorf("with other keys: %v", err)
	}
	for rec, err := range w.log.Events(t.Context(), audit.Query{Type: audit.StatementRefused}) {
		if err != nil || rec.Event.Statement != nil {
			t.Errorf("a token is in the log: %v, %v", rec.Event.Statement, err)
		}
	}
}

func TestRenew(t *testing.T) {
	w := newWorld(t, "deploy")
	agent, host, next := newKey(t), newKey(t), newKey(t)
	var first, out access.Enrolled
	w.check(w.tell("/v1/hosts", join{w.token("bob", nil), public(host), public(agent), nil}, &first))
	renewal := func(key ssh.Signer) access.Renewal {
		return access.Renewal{Header: header(access.TypeRenew, "web-1"), HostKey: public(key)}
	}
	w.check(w.tell("/v1/hosts/renew", access.Enrolment{Statement: w.sign(agent, renewal(host))}, &out))
	if out.Certificate != first.Certificate {
		t.Error("another certificate long before it is time")
	}
	w.check(w.tell("/v1/hosts/renew", access.Enrolment{Statement: w.sign(agent, renewal(next))}, &out))
	if key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(out.Certificate)); err != nil || statement.MarshalKey(key.(*ssh.Certificate).Key) != public(next) {
		t.Errorf("another host key: %v, %v", out.Certificate, err)
	}
	before := w.certified
	for _, tt := range []struct {
		name string
		by   ssh.Signer
		edit func(*access.Renewal)
		code access.Code
	}{
		{"by another key", newKey(t), nil, access.CodeUnverified},
		{"by the host key", host, nil, access.CodeUnverified},
		{"of another host", agent, func(r *access.Renewal) { r.Signer = "web-2" }, access.CodeNotFound},
		{"old", agent, func(r *access.Renewal) { r.Time = r.Time.Add(-access.ClockSkew - time.Minute) }, access.CodeStale},
		{"from the future", agent, func(r *access.Renewal) { r.Time = r.Time.Add(access.ClockSkew + time.Minute) }, access.CodeStale},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := renewal(host)
			if tt.edit != nil {
				tt.edit(&r)
			}
			if err := w.tell("/v1/hosts/renew", access.Enrolment{Statement: w.sign(tt.by, r)}, &out); access.CodeOf(err) != tt.code {
				t.Errorf("%v, want %q", err, tt.code)
			}
		})
	}
	if w.certified != before {
		t.Error("an issuer was asked for what is refused at the door")
	}
}

func TestSessions(t *testing.T) {
	w := newWorld(t, "deploy")
	agent := newKey(t)
	var out access.Enrolled
	w.check(w.tell("/v1/hosts", join{w.token("bob", nil), public(newKey(t)), public(agent), nil}, &out))
	cred, _ := w.issue(newKey(t).PublicKey(), "deploy")
	type sent struct {
		ID        string           `json:"id"`
		Statement access.Statement `json:"statement"`
	}
	report := func(by ssh.Signer, edit func(*access.Session)) sent {
		s := access.Session{Header: header(access.TypeSession, "web-1"), Event: access.SessionOpened, Request: cred.Handle.Request,
			Serial: cred.Handle.Serial, KeyID: "hallpass:" + cred.Handle.Request + ":alice", Login: "deploy", Session: "s1"}
		if edit != nil {
			edit(&s)
		}
		return sent{s.ID, w.sign(by, s)}
	}
	type message struct {
		Host    string `json:"host"`
		Reports []sent `json:"reports"`
	}
	type reply struct {
		Accepted []string
		Refused  []refused
	}
	good, forged := report(agent, nil), report(newKey(t), nil)
	other := report(agent, func(s *access.Session) { s.Signer = "web-2" })
	renamed := report(agent, nil)
	renamed.ID = statement.NewID()
	var got reply
	w.check(w.post("/v1/sessions", message{"web-1", []sent{good, forged, other, renamed, good}}, &got))
	if len(got.Accepted) != 2 || got.Accepted[0] != good.ID {
		t.Errorf("accepted %v", got.Accepted)
	}
	codes := map[string]access.Code{forged.ID: access.CodeUnverified, other.ID: access.CodeMismatch, renamed.ID: access.CodeMismatch}
	if len(got.Refused) != len(codes) {
		t.Errorf("refused %+v", got.Refused)
	}
	for _, r := range got.Refused {
		if r.Code != codes[r.ID] {
			t.Errorf("%s refused as %s: %s", r.ID, r.Code, r.Message)
		}
	}
	w.check(w.post("/v1/sessions", message{"web-1", []sent{good}}, &got)) // a replay
	visits, err := w.log.Visits(t.Context(), audit.Query{})
	if err != nil || len(visits) != 1 {
		t.Errorf("visits %+v, %v", visits, err)
	}
	for name, m := range map[string]message{"unknown host": {"web-9", nil}, "too many": {"web-1", make([]sent, MaxReports+1)}} {
		if err := w.post("/v1/sessions", m, &got); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// A host learns which certificate extends one that it has, and nobody learns more.
func TestExtensions(t *testing.T) {
	w := newWorld(t, "deploy")
	first, _ := w.issue(newKey(t).PublicKey(), "deploy")
	alone, _ := w.issue(newKey(t).PublicKey(), "deploy")
	ask := func(lines ...string) ([]string, error) {
		var got certificates
		err := w.post("/v1/extensions", certificates{lines}, &got)
		return got.Certificates, err
	}
	got, err := ask(first.Certificate, alone.Certificate)
	w.check(err)
	if len(got) != 0 {
		t.Errorf("nothing is extended, and the answer is %q", got)
	}
	longer, _ := w.extend(first.Handle.Request, newKey(t).PublicKey(), "deploy")
	if got, err = ask(first.Certificate, alone.Certificate, longer.Certificate); err != nil || len(got) != 1 || got[0] != longer.Certificate {
		t.Errorf("the answer is %q, %v", got, err)
	}
	// sshd tells a host of a certificate without the comment behind it.
	bare, _, _ := strings.Cut(first.Certificate, " hallpass:")
	if got, err = ask(bare); err != nil || len(got) != 1 {
		t.Errorf("without the comment: %q, %v", got, err)
	}
	for name, lines := range map[string][]string{
		"no key":           {"web-1"},
		"no certificate":   {public(newKey(t))},
		"too many":         make([]string, MaxExtensions+1),
		"one among others": {first.Certificate, ""},
	} {
		if _, err := ask(lines...); access.CodeOf(err) != access.CodeMalformed {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// looked counts what is looked up for hosts.
type looked struct {
	Hosts
	entries, keys atomic.Int64
}

func (l *looked) Extension(ctx context.Context, of *ssh.Certificate) (string, error) {
	l.entries.Add(1)
	return l.Hosts.Extension(ctx, of)
}

func (l *looked) CAKeys(ctx context.Context) ([]ssh.PublicKey, error) {
	l.keys.Add(1)
	return l.Hosts.CAKeys(ctx)
}

// What no CA of ours has signed isn't looked up, and nothing twice: whoever asks needs
// no name, and a database has other things to do.
func TestExtensionsOfStrangers(t *testing.T) {
	w := newWorld(t, "deploy")
	first, _ := w.issue(newKey(t).PublicKey(), "deploy")
	longer, _ := w.extend(first.Handle.Request, newKey(t).PublicKey(), "deploy")
	key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(first.Certificate))
	w.check(err)
	of := func(change func(*ssh.Certificate)) string {
		cert := *key.(*ssh.Certificate)
		change(&cert)
		return string(ssh.MarshalAuthorizedKey(&cert))
	}
	stranger := newKey(t)
	var strange []string
	for range MaxExtensions / 2 {
		id := "hallpass:" + statement.NewID() + ":alice"
		strange = append(strange,
			of(func(c *ssh.Certificate) { c.KeyId = id; w.check(c.SignCert(rand.Reader, stranger)) }),
			of(func(c *ssh.Certificate) { c.KeyId = id })) // says that our CA has signed it
	}
	again := slices.Repeat([]string{first.Certificate}, MaxExtensions)
	ledger := &looked{Hosts: w.log}
	w.client, w.address = start(t, New(Options{KRL: w.log, Hosts: ledger, Rulebook: func() *evidence.Rulebook { return w.book }, Log: quiet}))
	for _, tt := range []struct {
		name          string
		lines, want   []string
		keys, entries int64
	}{
		{"nothing", nil, nil, 0, 0},
		{"made up", strange, nil, 1, 0},
		{"our CA's", again[:1], []string{longer.Certificate}, 1, 1},
		{"the same again and again", again, []string{longer.Certificate}, 1, 1},
		{"one among others", append(slices.Clone(strange[1:]), first.Certificate), []string{longer.Certificate}, 1, 1},
		{"no certificate among others", append(again[1:], public(stranger)), nil, 0, 0},
	} {
		ledger.keys.Store(0)
		ledger.entries.Store(0)
		var got certificates
		_ = w.post("/v1/extensions", certificates{tt.lines}, &got) // TestExtensions has its errors
		if !slices.Equal(got.Certificates, tt.want) {
			t.Errorf("%s: the answer is %q", tt.name, got.Certificates)
		}
		if k, e := ledger.keys.Load(), ledger.entries.Load(); k != tt.keys || e != tt.entries {
			t.Errorf("%s: the keys are read %d times, the ledger %d times", tt.name, k, e)
		}
	}
}

// issue lets alice in, by a request that needs nobody.
func (w *world) issue(key ssh.PublicKey, login string) (access.Credential, access.Statement) {
	w.t.Helper()
	return w.extend("", key, login)
}

// extend is the same for a request that extends another, if it isn't "".
func (w *world) extend(of string, key ssh.PublicKey, login string) (access.Credential, access.Statement) {
	w.t.Helper()
	st := w.sign(w.people["alice"], access.Request{
		Header: header(access.TypeRequest, "alice"), Resource: "ssh/web-1", Login: login, Duration: 600, PublicKey: statement.MarshalKey(key),
		Extends: of,
	})
	digests := w.book.Digests()
	req, err := statement.ParseRequest([]byte(st.Payload))
	w.check(err)
	_, err = w.log.Append(context.Background(), audit.Event{Type: audit.RequestReceived, Request: req.ID, RequestHash: st.Hash(), Step: "received",
		Actor: "alice", Requester: "alice", Resource: req.Resource, Statement: &st, Digests: &digests})
	w.check(err)
	cred, err := w.issuer.Issue(context.Background(), access.Evidence{Request: st})
	w.check(err)
	return cred, st
}

// A certificate that was released is refused by a real sshd, as soon as the
// host has fetched the list; others are let in as before.
func TestSSHDRefusesWhatWasReleased(t *testing.T) {
	user := sshdtest.User(t)
	w := newWorld(t, user)
	w.check(w.krl.Publish(t.Context()))
	revoked := filepath.Join(t.TempDir(), "krl")
	version := uint64(0)
	fetch := func(wait string) {
		t.Helper()
		r := get(t, w.client, w.address+"/v1/krl?wait="+wait+"&after="+uintString(version))
		if r.status != http.StatusOK {
			t.Fatalf("%d %s", r.status, r.body)
		}
		signature, err := krl.DecodeSignature(r.header.Get(krl.SignatureHeader))
		w.check(err)
		list, err := krl.Open(r.body, signature, []ssh.PublicKey{w.users.PublicKey()})
		w.check(err)
		version = list.Version
		w.check(os.WriteFile(revoked+".new", r.body, 0o644))
		w.check(os.Rename(revoked+".new", revoked))
	}
	fetch("0s")
	sshd := sshdtest.Start(t, sshdtest.Config{
		CA: []ssh.PublicKey{w.users.PublicKey()}, Principals: map[string][]string{user: {"web-1/" + user}},
		Lines: []string{"RevokedKeys " + revoked},
	})
	type guest struct{ key, cert, request string }
	var guests []guest
	for range 2 {
		file, key := sshdtest.NewKey(t)
		cred, st := w.issue(key, user)
		parsed, _, _, _, err := ssh.ParseAuthorizedKey([]byte(cred.Certificate))
		w.check(err)
		guests = append(guests, guest{file, sshdtest.WriteCert(t, parsed.(*ssh.Certificate)), st.Payload})
		_ = st
	}
	login := func(g guest, want bool) {
		t.Helper()
		if r := sshd.Login(t, g.key, g.cert, "true"); r.OK() != want || r.Refused() == want {
			t.Errorf("login: want %t, got %s", want, r)
		}
	}
	login(guests[0], true)
	login(guests[1], true)

	req, err := statement.ParseRequest([]byte(guests[0].request))
	w.check(err)
	fetched := make(chan struct{})
	go func() { defer close(fetched); fetch("30s") }()
	began := time.Now()
	w.check(w.issuer.Revoke(t.Context(), audit.End{Request: req.ID, State: access.StateReleased}))
	returned := time.Now()
	<-fetched
	t.Logf("revoke took %s, the list was on the host %s later", returned.Sub(began), time.Since(returned))
	login(guests[0], false)
	login(guests[1], true)
}

// Whoever sends too much, too slowly or too often is cut off.
func TestFlood(t *testing.T) {
	w := newWorld(t, "deploy")
	t.Run("a long body", func(t *testing.T) {
		resp, err := w.client.Post(w.address+"/v1/sessions", "application/json", strings.NewReader(`{"host":"`+strings.Repeat("x", MaxBody)+`"}`))
		if err != nil {
			return // cut off while it was still sending
		}
		defer resp.Body.Close() //nolint:errcheck // test
		if resp.StatusCode != http.StatusBadRequest {
			t.Errorf("%s", resp.Status)
		}
	})
	t.Run("long headers", func(t *testing.T) {
		r, err := http.NewRequest(http.MethodGet, w.address+"/v1/krl", nil)
		w.check(err)
		r.Header.Set("X-Long", strings.Repeat("x", 64<<10))
		resp, err := w.client.Do(r)
		if err == nil {
			defer resp.Body.Close() //nolint:errcheck // test
			if resp.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
				t.Errorf("%s", resp.Status)
			}
		}
	})
	t.Run("a slow header", func(t *testing.T) {
		if testing.Short() {
			t.Skip("waits for the timeout")
		}
		d := tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}}}
		conn, err := d.DialContext(t.Context(), "tcp", strings.TrimPrefix(w.address, "https://"))
		w.check(err)
		defer conn.Close() //nolint:errcheck // test
		_, err = io.WriteString(conn, "GET /v1/krl HTTP/1.1\r\nHost: x\r\n")
		w.check(err)
		w.check(conn.SetReadDeadline(time.Now().Add(headerTimeout + 10*time.Second)))
		if _, err := io.ReadAll(conn); err != nil {
			t.Errorf("still open after %s: %v", headerTimeout+10*time.Second, err)
		}
	})
	t.Run("slow bodies", func(t *testing.T) {
		// Several times as many as there are desks.
		var slow []net.Conn
		for range 4 * MaxPosts {
			d := tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}}}
			conn, err := d.DialContext(t.Context(), "tcp", strings.TrimPrefix(w.address, "https://"))
			w.check(err)
			defer conn.Close() //nolint:errcheck // test
			_, err = io.WriteString(conn, "POST /v1/extensions HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\nConnection: close\r\n\r\n{")
			w.check(err)
			slow = append(slow, conn)
		}
		var out certificates
		for range 10 {
			if err := w.post("/v1/extensions", certificates{[]string{}}, &out); err != nil {
				t.Fatalf("beside them: %v", err)
			}
		}
		if testing.Short() {
			return
		}
		for _, conn := range slow {
			w.check(conn.SetReadDeadline(time.Now().Add(bodyTimeout + 10*time.Second)))
			got, err := io.ReadAll(conn)
			if err != nil || !strings.Contains(string(got), " 400 ") || !strings.Contains(string(got), "took longer than 10s") {
				t.Fatalf("%q, %v", got, err)
			}
		}
	})
	t.Run("much at a time", func(t *testing.T) {
		s := &server{Options: Options{Log: quiet}, desks: make(chan struct{}, 1)}
		s.reading.Store(MaxReading - perBody - 1)
		h := s.post(func(context.Context, []byte) (any, error) { return 7, nil })
		if r := post(t, h); r.status != http.StatusServiceUnavailable || r.header.Get("Retry-After") == "" {
			t.Errorf("%d %s", r.status, r.body)
		}
		s.reading.Add(-1)
		if r := post(t, h); r.status != http.StatusOK {
			t.Errorf("where the two bytes of it fit in: %d %s", r.status, r.body)
		}
		if left := s.reading.Load(); left != MaxReading-perBody-2 {
			t.Errorf("%d bytes stay taken", left-(MaxReading-perBody-2))
		}
	})
	t.Run("many at a time", func(t *testing.T) {
		s := &server{Options: Options{Log: quiet}, desks: make(chan struct{}, 1)}
		s.desks <- struct{}{}
		r := post(t, s.post(func(context.Context, []byte) (any, error) { return nil, errors.New("called") }))
		if r.status != http.StatusServiceUnavailable || r.header.Get("Retry-After") == "" {
			t.Errorf("%d %s", r.status, r.body)
		}
		<-s.desks
		if r := post(t, s.post(func(context.Context, []byte) (any, error) { return 7, nil })); r.status != http.StatusOK {
			t.Errorf("%d %s", r.status, r.body)
		}
		if len(s.desks) != 0 {
			t.Error("a desk stays taken")
		}
	})
	t.Run("many connections", func(t *testing.T) {
		inner, err := net.Listen("tcp", "127.0.0.1:0")
		w.check(err)
		l := limit(inner, 1)
		accepted := make(chan net.Conn, 2)
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					close(accepted)
					return
				}
				accepted <- c
			}
		}()
		for range 2 {
			c, err := net.Dial("tcp", inner.Addr().String())
			w.check(err)
			defer c.Close() //nolint:errcheck // test
		}
		first := <-accepted
		select {
		case <-accepted:
			t.Error("a second one was accepted beside the first")
		case <-time.After(50 * time.Millisecond):
		}
		w.check(first.Close())
		_ = first.Close() // twice frees one place
		second := <-accepted
		w.check(l.Close())
		w.check(second.Close())
		if c, ok := <-accepted; ok {
			t.Errorf("accepted after the end: %v", c)
		}
	})
}

// Without a host CA a host gets no certificate, and a list of host CAs that is empty and
// there.
func TestEnrolWithoutHostCA(t *testing.T) {
	w := newWorld(t, "deploy")
	w.hosts.CA = nil
	var out access.Enrolled
	w.check(w.tell("/v1/hosts", join{w.token("bob", nil), public(newKey(t)), public(newKey(t)), nil}, &out))
	if out.Certificate != "" || out.HostCAs == nil || len(out.HostCAs) > 0 {
		t.Errorf("certificate %q, host CAs %#v", out.Certificate, out.HostCAs)
	}
}
