package check_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"hallpass/access"
	"hallpass/sealed"
	"hallpass/statement"
	"hallpass/testsuite/chaos/check"
)

// story is a small world in which everything was as it should be: alice asked
// for ssh/web-1, bob approved, she logged in, and gave it back; then she asked
// again, and nobody answered.
type story struct {
	t       *testing.T
	signers map[string]ssh.Signer
	ca      ssh.Signer
	noon    time.Time
	request access.Request
	signed  access.Statement
	events  []map[string]any
	seen    check.Seen
}

func signer(t *testing.T) ssh.Signer {
	t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	s, err := ssh.NewSignerFromKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *story) sign(who string, payload any) access.Statement {
	s.t.Helper()
	st, err := statement.Sign(s.signers[who], payload)
	if err != nil {
		s.t.Fatal(err)
	}
	return st
}

func (s *story) header(who string, typ access.Type) access.Header {
	return access.Header{Type: typ, ID: statement.NewID(), Signer: who, Time: s.noon}
}

// ask is a request of alice's, as she signs it.
func (s *story) ask() (access.Request, access.Statement) {
	r := access.Request{Header: s.header("alice", access.TypeRequest), Resource: "ssh/web-1", Login: "root", Duration: 60, PublicKey: statement.MarshalKey(signer(s.t).PublicKey())}
	return r, s.sign("alice", r)
}

func (s *story) decide(key, who string, verdict access.Verdict) access.Statement {
	return s.sign(key, access.Decision{Header: s.header(who, access.TypeDecision), Request: s.request.ID, RequestHash: s.signed.Hash(), Verdict: verdict})
}

// certify makes the certificate of the request.
func (s *story) certify(serial uint64, edit func(*ssh.Certificate)) string {
	s.t.Helper()
	key, err := statement.ParseKey(s.request.PublicKey)
	if err != nil {
		s.t.Fatal(err)
	}
	cert := &ssh.Certificate{
		Key: key, Serial: serial, CertType: ssh.UserCert, KeyId: "hallpass:" + s.request.ID + ":alice", ValidPrincipals: []string{"web-1/root"},
		ValidAfter: uint64(s.noon.Add(-time.Minute).Unix()), ValidBefore: uint64(s.noon.Add(time.Minute).Unix()),
	}
	if edit != nil {
		edit(cert)
	}
	if err := cert.SignCert(rand.Reader, s.ca); err != nil {
		s.t.Fatal(err)
	}
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(cert)))
}

// The places of the events.
const (
	received = iota
	decided
	issued
	released
	received2
	timedOut
)

func (s *story) event(typ string, more map[string]any) map[string]any {
	e := map[string]any{"v": 1, "time": s.noon, "type": typ, "request": s.request.ID, "requester": "alice", "resource": "ssh/web-1"}
	for name, value := range more {
		e[name] = value
	}
	return e
}

func newStory(t *testing.T) *story {
	t.Helper()
	s := &story{t: t, signers: map[string]ssh.Signer{}, ca: signer(t), noon: time.Date(2031, 5, 6, 12, 0, 0, 0, time.UTC)}
	world := check.World{
		People: map[string]check.Person{}, Resources: map[string]check.Need{"ssh/web-1": {{Count: 1, Group: "sre"}}},
		Lockers: "security", Login: "root", CA: s.ca.PublicKey(), Skew: 30 * time.Second, Lag: time.Minute, Making: 20 * time.Second,
	}
	for who, group := range map[string]string{"alice": "sre", "bob": "sre", "dave": "security", "erin": "dev"} {
		s.signers[who] = signer(t)
		world.People[who] = check.Person{Key: s.signers[who].PublicKey(), Groups: []string{group}}
	}
	second, signed2 := s.ask()
	s.request, s.signed = s.ask()
	line := s.certify(1, nil)
	s.events = []map[string]any{
		received:  s.event("request.received", map[string]any{"statement": s.signed}),
		decided:   s.event("decision.accepted", map[string]any{"statement": s.decide("bob", "bob", access.Approve)}),
		issued:    s.event("credential.issued", map[string]any{"credential": map[string]any{"certificate": line}}),
		released:  s.event("grant.released", nil),
		received2: s.event("request.received", map[string]any{"statement": signed2, "request": second.ID}),
		timedOut:  s.event("request.timed-out", map[string]any{"request": second.ID}),
	}
	s.evidence(s.signed, s.events[decided]["statement"].(access.Statement))
	s.seen = check.Seen{
		World: world, Asked: []string{s.request.ID, second.ID},
		Held: []check.Held{{Request: s.request.ID, Certificate: line + "\n", At: s.noon}},
		Logins: []check.Login{
			{Request: s.request.ID, Began: s.noon.Add(time.Second), List: s.noon, Worked: true},
			{Request: s.request.ID, Began: s.noon.Add(9 * time.Second), List: s.noon.Add(8 * time.Second)},
			{Request: s.request.ID, Began: s.noon.Add(time.Hour), List: s.noon.Add(time.Hour)},
		},
		Stopped: []string{s.request.ID},
		Over:    []check.Over{{Request: s.request.ID, At: s.noon.Add(7 * time.Second)}},
		HostLog: "Connection from 127.0.0.1\nAccepted certificate ID \"hallpass:x:y\" (serial 7) signed by ED25519 CA SHA256:def via ca.pub\n" + s.accepted(1),
	}
	return s
}

func (s *story) accepted(serial int) string {
	return fmt.Sprintf("Accepted publickey for root from 127.0.0.1 port 5 ssh2: ED25519-CERT SHA256:abc ID hallpass:%s:alice (serial %d) CA ED25519 SHA256:def\n", s.request.ID, serial)
}

func (s *story) evidence(request access.Statement, decisions ...access.Statement) {
	s.events[issued]["evidence"] = access.Evidence{Request: request, Decisions: decisions}
}

func (s *story) certificate(line string) {
	s.events[issued]["credential"] = map[string]any{"certificate": line}
	s.seen.Held[0].Certificate = line
}

// export is the log as hallpass exports it, and leaf the events in it.
func (s *story) export(n int) (out []byte, leaves [][]byte) {
	s.t.Helper()
	for i, e := range s.events[:n] {
		leaf, err := json.Marshal(e)
		if err != nil {
			s.t.Fatal(err)
		}
		out, leaves = fmt.Appendf(out, "{\"index\":%d,\"event\":%s}\n", i, leaf), append(leaves, leaf)
	}
	return out, leaves
}

// checkpoint is one of the first events, of three.
func checkpoint(leaves [][]byte) []byte {
	hash := func(b ...[]byte) []byte { sum := sha256.Sum256(slices.Concat(b...)); return sum[:] }
	leaf := func(i int) []byte { return hash([]byte{0}, leaves[i]) }
	root := hash([]byte{1}, hash([]byte{1}, leaf(0), leaf(1)), leaf(2))
	return []byte("chaos.example.com\n3\n" + base64.StdEncoding.EncodeToString(root) + "\n\n— chaos.example.com abc\n")
}

func (s *story) check() []check.Violation {
	s.t.Helper()
	if s.seen.Exports == nil {
		first, _ := s.export(3)
		all, leaves := s.export(len(s.events))
		s.seen.Exports = [][]byte{nil, first, all}
		if s.seen.Checkpoints == nil {
			s.seen.Checkpoints = [][]byte{checkpoint(leaves)}
		}
	}
	found, err := check.Check(s.t.Context(), s.seen)
	if err != nil {
		s.t.Fatal(err)
	}
	return found
}

// inVault makes it a story of a database's login instead of a certificate: opened
// at once, used, given back, and tried again.
func (s *story) inVault() {
	const name = "vault/orders"
	s.seen.World.Resources[name] = check.Need{{Count: 1, Group: "sre"}}
	_, recipient, err := sealed.NewKey()
	if err != nil {
		s.t.Fatal(err)
	}
	mine := access.Request{Header: s.header("alice", access.TypeRequest), Resource: name, Actions: []string{"read"}, Duration: 60, Recipient: recipient}
	s.seen.Asked[0], s.request, s.signed = mine.ID, mine, s.sign("alice", mine)
	s.events[received]["statement"] = s.signed
	s.events[decided]["statement"] = s.decide("bob", "bob", access.Approve)
	for _, i := range []int{received, decided, issued, released} {
		s.events[i]["request"], s.events[i]["resource"] = mine.ID, name
	}
	s.evidence(s.signed, s.events[decided]["statement"].(access.Statement))
	s.token("acc", s.noon.Add(time.Minute))
	at := func(after time.Duration, worked bool) check.Login {
		return check.Login{Request: mine.ID, Began: s.noon.Add(after), Worked: worked}
	}
	s.seen.Held, s.seen.Logins, s.seen.HostLog = nil, nil, ""
	s.seen.Opened = []check.Opened{{Request: mine.ID, At: s.noon}}
	s.seen.Database = []check.Login{at(time.Second, true), at(20*time.Second, true), at(time.Hour, false)}
	s.seen.Stopped = []string{mine.ID}
	s.seen.Over = []check.Over{{Request: mine.ID, At: s.noon.Add(7 * time.Second)}}
}

// scheduled makes it a request that starts so long after noon.
func (s *story) scheduled(after time.Duration) {
	start := s.noon.Add(after)
	s.request.Start = &start
	s.signed = s.sign("alice", s.request)
	s.events[received]["statement"], s.events[decided]["statement"] = s.signed, s.decide("bob", "bob", access.Approve)
	s.evidence(s.signed, s.events[decided]["statement"].(access.Statement))
	s.from(start)
}

// from is when the record says that the grant begins.
func (s *story) from(begin time.Time) {
	s.events[issued]["credential"].(map[string]any)["handle"] = map[string]any{"not_before": begin, "not_after": s.noon.Add(time.Minute), "accessor": "acc"}
}

// lock is one of dave's.
func (s *story) lock(kind, name string, left time.Duration) (access.Lock, map[string]any) {
	l := access.Lock{Header: s.header("dave", access.TypeLock), Action: access.ActionLock, Kind: kind, Name: name, Reason: "x"}
	if left != 0 {
		until := s.noon.Add(left)
		l.Until = &until
	}
	return l, s.event("lock.set", map[string]any{"statement": s.sign("dave", l), "request": ""})
}

// locked makes it a story of a lock that took the grant back instead of alice's
// giving it back, of which somebody was told.
func (s *story) locked(kind, name string) {
	l, e := s.lock(kind, name, 0)
	s.events[released]["type"] = "grant.revoked"
	s.events = slices.Insert(s.events, released, e)
	s.seen.Stopped, s.seen.Over = nil, nil
	s.seen.Locked = []check.Locked{s.heeded(l.ID, e)}
}

// heeded is a lock or an unlock that wasn't refused, as an event has it.
func (s *story) heeded(id string, e map[string]any) check.Locked {
	st := e["statement"].(access.Statement)
	return check.Locked{Lock: id, Payload: st.Payload, Signature: st.Signature, At: s.noon.Add(7 * time.Second)}
}

// stray is a login that is left, made so long after noon.
func (s *story) stray(after time.Duration) {
	s.seen.Strays = []check.Stray{{Login: fmt.Sprintf("v-token-hallpa-orders-r-0123456789abcdefghij-%d", s.noon.Add(after).Unix())}}
}

// token is the credential of Vault's that the issuer recorded.
func (s *story) token(accessor string, until time.Time) {
	s.events[issued]["credential"] = map[string]any{"handle": map[string]any{"accessor": accessor, "not_after": until}}
}

func TestNothingWrongInVault(t *testing.T) {
	s := newStory(t)
	s.inVault()
	if found := s.check(); len(found) != 0 {
		t.Error(found)
	}
}

// A login of which nobody was told may be left where something broke while it was
// made.
func TestUntoldLogin(t *testing.T) {
	for name, broken := range map[string]check.Span{
		"before": {From: time.Unix(-9, 0), To: time.Unix(1, 0)}, "meanwhile": {From: time.Unix(3, 0), To: time.Unix(5, 0)},
	} {
		s := newStory(t)
		s.stray(0)
		s.seen.Broken = []check.Span{{From: s.noon.Add(time.Hour)}, {From: s.noon.Add(broken.From.Sub(time.Unix(0, 0))), To: s.noon.Add(broken.To.Sub(time.Unix(0, 0)))}}
		if found := s.check(); len(found) != 0 {
			t.Errorf("%s: %v", name, found)
		}
	}
}

// What is as it should be, passes.
func TestNothingWrong(t *testing.T) {
	if found := newStory(t).check(); len(found) != 0 {
		t.Error(found)
	}
}

// Each rule is broken, in each way that it can be, and is named.
func TestViolationsAreFound(t *testing.T) {
	swap := func(s *story, i, k int) { s.events[i], s.events[k] = s.events[k], s.events[i] }
	lock := func(s *story, kind, name string, left time.Duration) {
		_, e := s.lock(kind, name, left)
		s.events = slices.Insert(s.events, issued, e)
	}
	for name, c := range map[string]struct {
		rule   check.Rule
		what   string
		doctor func(*story)
	}{
		"no approval":                  {check.Approved, "takes [{1 sre}], and there are []", func(s *story) { s.evidence(s.signed) }},
		"no evidence":                  {check.Approved, "on no evidence", func(s *story) { delete(s.events[issued], "evidence") }},
		"approved by herself":          {check.Approved, "there are []", func(s *story) { s.evidence(s.signed, s.decide("alice", "alice", access.Approve)) }},
		"approved in another's name":   {check.Approved, "there are []", func(s *story) { s.evidence(s.signed, s.decide("erin", "bob", access.Approve)) }},
		"approved by somebody else":    {check.Approved, "there are [erin]", func(s *story) { s.evidence(s.signed, s.decide("erin", "erin", access.Approve)) }},
		"approved by somebody unknown": {check.Approved, "there are []", func(s *story) { s.evidence(s.signed, s.decide("erin", "mallory", access.Approve)) }},
		"approved twice by one": {check.Approved, "takes [{2 sre}]", func(s *story) {
			s.seen.World.Resources["ssh/web-1"] = check.Need{{2, "sre"}}
			s.evidence(s.signed, s.decide("bob", "bob", access.Approve), s.decide("bob", "bob", access.Approve))
		}},
		"one approval for two sets": {check.Approved, "takes [{1 sre} {1 security}]", func(s *story) { s.seen.World.Resources["ssh/web-1"] = check.Need{{1, "sre"}, {1, "security"}} }},
		"approval of another request": {check.Approved, "there are []", func(s *story) {
			_, other := s.ask()
			st := s.decide("bob", "bob", access.Approve)
			st.Payload = strings.Replace(st.Payload, s.signed.Hash(), other.Hash(), 1)
			s.evidence(s.signed, st)
		}},
		"signed approval of another request": {check.Approved, "there are []", func(s *story) {
			mine, signed := s.request, s.signed
			s.request, s.signed = s.ask()
			st := s.decide("bob", "bob", access.Approve)
			s.request, s.signed = mine, signed
			s.evidence(signed, st)
		}},
		"an approval that is a denial": {check.Approved, "bob has denied it", func(s *story) { s.evidence(s.signed, s.decide("bob", "bob", access.Deny)) }},
		"a denial was left out": {check.Approved, "was denied before it was granted", func(s *story) {
			s.events = slices.Insert(s.events, issued, s.event("decision.accepted", map[string]any{"statement": s.decide("bob", "bob", access.Deny)}))
		}},
		"a request that she didn't sign": {check.Approved, "alice hasn't signed it", func(s *story) {
			st := s.sign("erin", s.request)
			s.evidence(st, s.decide("bob", "bob", access.Approve))
		}},
		"another's request":        {check.Approved, "alice asked for ssh/web-1", func(s *story) { s.events[issued]["requester"] = "erin" }},
		"what there isn't":         {check.Approved, "isn't there to be had", func(s *story) { delete(s.seen.World.Resources, "ssh/web-1") }},
		"under a lock on her":      {check.Approved, "was locked", func(s *story) { lock(s, "user", "alice", 0) }},
		"under a lock on the host": {check.Approved, "was locked", func(s *story) { lock(s, "resource", "ssh/web-1", 0) }},
		"an approver under a lock": {check.Approved, "there are []", func(s *story) { lock(s, "user", "bob", 0) }},
		"a lock by anybody": {check.Approved, "nobody entitled", func(s *story) {
			l, e := s.lock("user", "bob", 0)
			l.Signer = "erin"
			e["statement"] = s.sign("erin", l)
			s.events = append(s.events, e)
		}},
		"a lock by another's key": {check.Approved, "nobody entitled", func(s *story) {
			l, e := s.lock("user", "bob", 0)
			e["statement"] = s.sign("erin", l)
			s.events = append(s.events, e)
		}},
		"a lock that nobody has signed": {check.Approved, "a lock that nobody has signed", func(s *story) { s.events = append(s.events, s.event("lock.set", nil)) }},
		"a lock by anybody that wasn't refused": {check.Approved, "wasn't refused, and nobody entitled", func(s *story) {
			l, e := s.lock("user", "bob", 0)
			l.Signer = "erin"
			e["statement"] = s.sign("erin", l)
			s.seen.Locked = []check.Locked{s.heeded(l.ID, e)}
		}},
		"a lock that was said to be another": {check.Approved, "lock another wasn't refused", func(s *story) {
			_, e := s.lock("user", "bob", 0)
			s.events = append(s.events, e)
			s.seen.Locked = []check.Locked{s.heeded("another", e)}
		}},
		"an unlock by another's key": {check.Approved, "was locked", func(s *story) {
			l, e := s.lock("user", "alice", 0)
			un := l
			un.ID, un.Action, un.Lock = statement.NewID(), access.ActionUnlock, l.ID
			s.events = slices.Insert(s.events, issued, e, s.event("lock.lifted", map[string]any{"statement": s.sign("erin", un), "request": ""}))
		}},
		"ended by a lock of anybody's": {check.Approved, "grant.revoked by erin, a lock that nobody entitled", func(s *story) {
			l, _ := s.lock("user", "alice", 0)
			l.Signer = "erin"
			s.events[released]["type"], s.events[released]["statement"] = "grant.revoked", s.sign("erin", l)
		}},
		"under a lock that ends soon": {check.Approved, "was locked", func(s *story) { lock(s, "user", "alice", 10*time.Second) }},
		"under a lock that was over by the issuer's clock alone": {check.Approved, "was locked", func(s *story) {
			s.events[issued]["time"] = s.noon.Add(20 * time.Second)
			lock(s, "resource", "ssh/web-1", 10*time.Second)
		}},
		"under a lock that was over by no clock that may be ahead so far": {check.Approved, "was locked", func(s *story) {
			s.events[issued]["time"] = s.noon.Add(26 * time.Hour)
			s.seen.Ahead = []check.Ahead{{From: s.noon.Add(-time.Second), To: s.noon.Add(time.Second)}}
			lock(s, "user", "alice", time.Hour)
		}},
		"an approver under a lock that was over by the issuer's clock alone": {check.Approved, "there are []", func(s *story) {
			s.events[issued]["ruling"] = map[string]any{"at": s.noon.Add(20 * time.Second)}
			lock(s, "user", "bob", 10*time.Second)
		}},
		"a login of Vault's under a lock that was over by the issuer's clock alone": {check.Approved, "was locked", func(s *story) {
			s.inVault()
			s.events[issued]["time"] = s.noon.Add(20 * time.Second)
			lock(s, "user", "alice", 10*time.Second)
		}},

		"granted before its start": {check.Begun, "was granted from 1s before its start on", func(s *story) { s.scheduled(0); s.from(s.noon.Add(-time.Second)) }},
		"given before its start":   {check.Begun, "had the certificate of request", func(s *story) { s.scheduled(time.Second) }},
		"given before its start, where an issuer's clock was ahead": {check.Begun, "1s before its start", func(s *story) {
			s.scheduled(time.Second)
			s.seen.Ahead = []check.Ahead{{From: s.noon.Add(-time.Second), To: s.noon.Add(time.Second)}}
		}},
		"given before its start by more than all clocks were ahead": {check.Begun, "31s before its start", func(s *story) {
			s.scheduled(31 * time.Second)
			s.seen.Ahead = []check.Ahead{{From: s.noon.Add(-time.Second), To: s.noon.Add(time.Second), Whole: true}}
		}},
		"given before its start, when all clocks were right again": {check.Begun, "1s before its start", func(s *story) {
			s.scheduled(time.Second)
			s.seen.Ahead = []check.Ahead{{From: s.noon.Add(-2 * time.Second), To: s.noon.Add(-time.Second), Whole: true}}
		}},
		"a login before its start":            {check.Begun, "logged in on request", func(s *story) { s.scheduled(2 * time.Second); s.seen.Held[0].At = s.noon.Add(2 * time.Second) }},
		"a login of Vault's before its start": {check.Begun, "had the login of request", func(s *story) { s.inVault(); s.scheduled(time.Second) }},
		"a login to the database before its start": {check.Begun, "logged in to the database on request", func(s *story) {
			s.inVault()
			s.scheduled(2 * time.Second)
			s.seen.Opened[0].At = s.noon.Add(2 * time.Second)
		}},
		"another key": {check.Approved, "for another key", func(s *story) {
			s.certificate(s.certify(1, func(c *ssh.Certificate) { c.Key = s.signers["erin"].PublicKey() }))
		}},
		"another principal": {check.Approved, `is for ["web-2/root"]`, func(s *story) {
			s.certificate(s.certify(1, func(c *ssh.Certificate) { c.ValidPrincipals[0] = "web-2/root" }))
		}},
		"a second principal": {check.Approved, `is for ["web-1/root" "x"]`, func(s *story) {
			s.certificate(s.certify(1, func(c *ssh.Certificate) { c.ValidPrincipals = append(c.ValidPrincipals, "x") }))
		}},
		"a host's certificate": {check.Approved, "is for", func(s *story) { s.certificate(s.certify(1, func(c *ssh.Certificate) { c.CertType = ssh.HostCert })) }},
		"another CA":           {check.Approved, "by another CA", func(s *story) { s.ca = signer(s.t); s.certificate(s.certify(1, nil)) }},
		"a key in its place":   {check.Approved, "isn't a certificate", func(s *story) { s.certificate(s.request.PublicKey) }},

		"longer than asked, by an issuer whose clock was ahead at another time": {check.InTime, "20s later than was approved", func(s *story) {
			s.certificate(s.certify(1, func(c *ssh.Certificate) { c.ValidBefore += 20 }))
			s.seen.Ahead = []check.Ahead{{From: s.noon.Add(-2 * time.Hour), To: s.noon.Add(-time.Hour)}}
		}},
		"stopped, and it ran to its end": {check.InTime, "was stopped, and ended as grant.expired", func(s *story) { s.events[released]["type"] = "grant.expired" }},
		"longer than asked":              {check.InTime, "later than was approved", func(s *story) { s.certificate(s.certify(1, func(c *ssh.Certificate) { c.ValidBefore += 3600 })) }},
		"longer than approved": {check.InTime, "later than was approved", func(s *story) {
			d := access.Decision{Header: s.header("bob", access.TypeDecision), Request: s.request.ID, RequestHash: s.signed.Hash(), Verdict: access.Approve, Duration: 5}
			s.evidence(s.signed, s.sign("bob", d))
		}},
		"login after the end":       {check.InTime, "after its end", func(s *story) { s.seen.Logins[2].Worked = true }},
		"login after a lock on her": {check.InTime, "before the host fetched its list", func(s *story) { s.locked("user", "alice"); s.seen.Logins[1].Worked = true }},
		"login after a lock on the host": {check.InTime, "before the host fetched its list", func(s *story) {
			s.locked("resource", "ssh/web-1")
			s.seen.Logins[1].Worked = true
		}},
		"login after a lock that took nothing back": {check.InTime, "before the host fetched its list", func(s *story) {
			s.locked("user", "alice")
			s.events = slices.Delete(s.events, released+1, released+2)
			s.seen.Logins[1].Worked = true
		}},
		"login to the database after a lock": {check.InTime, "1m23s after its end", func(s *story) {
			s.inVault()
			s.locked("user", "alice")
			s.seen.Database[1] = check.Login{Request: s.request.ID, Began: s.noon.Add(90 * time.Second), Worked: true}
		}},
		"login after it was given back": {check.InTime, "before the host fetched its list", func(s *story) { s.seen.Logins[1].Worked = true }},
		"granted after its end":         {check.InTime, "had ended by event 2", func(s *story) { swap(s, issued, released) }},

		"a certificate that isn't on record": {check.Recorded, "isn't on record", func(s *story) { s.seen.Held[0].Certificate = s.certify(1, nil) }},
		"never issued":                       {check.Recorded, "isn't on record", func(s *story) { s.events[issued]["type"] = "credential.prepared" }},
		"a login on nothing":                 {check.Recorded, "has no certificate on record", func(s *story) { s.seen.Logins[0].Request = "another" }},
		"a login that nobody tried":          {check.Recorded, "serial 2", func(s *story) { s.seen.HostLog += s.accepted(2) }},
		"a login as somebody else":           {check.Recorded, "let nobody in", func(s *story) { s.seen.HostLog = strings.Replace(s.accepted(1), "for root", "for nobody", 1) }},
		"a login by password":                {check.Recorded, "without a certificate", func(s *story) { s.seen.HostLog += "Accepted password for root from 127.0.0.1 port 5 ssh2\n" }},
		"a lock that isn't on record": {check.Recorded, "was said to be in force, and isn't on record", func(s *story) {
			l, e := s.lock("user", "bob", 0)
			s.seen.Locked = []check.Locked{s.heeded(l.ID, e)}
		}},
		"issued twice": {check.Recorded, "issued twice", func(s *story) { s.events = slices.Insert(s.events, issued, s.events[issued]) }},

		"a login of Vault's without approval": {check.Approved, "takes [{1 sre}], and there are []", func(s *story) { s.inVault(); s.evidence(s.signed) }},
		"no token":                            {check.Approved, "no token", func(s *story) { s.inVault(); s.token("", s.noon) }},
		"a certificate for a database": {check.Approved, "no token", func(s *story) {
			s.inVault()
			s.events[issued]["credential"] = map[string]any{"certificate": "x", "handle": map[string]any{"accessor": "acc"}}
		}},
		"a token that lasts too long":            {check.InTime, "1m0s later than was approved", func(s *story) { s.inVault(); s.token("acc", s.noon.Add(2*time.Minute)) }},
		"a login to the database after the end":  {check.InTime, "59m53s after its end", func(s *story) { s.inVault(); s.seen.Database[2].Worked = true }},
		"a login to the database that ran out":   {check.InTime, "59m0s after its end", func(s *story) { s.inVault(); s.seen.Over = nil; s.seen.Database[2].Worked = true }},
		"a login to the database off the record": {check.Recorded, "no token on record", func(s *story) { s.inVault(); s.seen.Opened[0].Request = "another" }},
		"one token for two": {check.Recorded, "one accessor acc", func(s *story) {
			s.inVault()
			one := maps.Clone(s.events[issued])
			mine := s.request
			mine.ID = statement.NewID()
			signed, hash := s.sign("alice", mine), s.signed
			s.request, s.signed = mine, signed
			one["request"], one["evidence"] = mine.ID, access.Evidence{Request: signed, Decisions: []access.Statement{s.decide("bob", "bob", access.Approve)}}
			s.signed = hash
			s.events = slices.Insert(s.events, issued, one)
		}},

		"no end":         {check.Ends, "has no end", func(s *story) { s.events = s.events[:timedOut] }},
		"two ends":       {check.Ends, "ends twice", func(s *story) { s.events = append(s.events, s.events[timedOut]) }},
		"never heard of": {check.Ends, "was taken, and isn't on record", func(s *story) { s.seen.Asked = append(s.seen.Asked, "another") }},

		"no log":       {check.OneLog, "there is none", func(s *story) { s.seen.Exports = [][]byte{} }},
		"not verified": {check.OneLog, "event 3 was changed", func(s *story) { s.seen.Unverified = []string{"event 3 was changed"} }},
		"an event left out": {check.OneLog, "event 2 follows 1 events", func(s *story) {
			all, _ := s.export(len(s.events))
			lines := bytes.SplitAfter(all, []byte("\n"))
			s.seen.Exports = [][]byte{bytes.Join(slices.Delete(lines, 1, 2), nil)}
		}},
		"shown otherwise before": {check.OneLog, "export 1 of 2", func(s *story) {
			first, _ := s.export(3)
			s.events[1]["why"] = "changed"
			all, _ := s.export(len(s.events))
			s.seen.Exports = [][]byte{first, all}
		}},
		"cut off": {check.OneLog, "export 1 of 2", func(s *story) {
			all, _ := s.export(len(s.events))
			less, _ := s.export(4)
			s.seen.Exports = [][]byte{all, less}
		}},
		"a checkpoint of another": {check.OneLog, "checkpoint 1 is of another log", func(s *story) {
			_, leaves := s.export(3)
			s.seen.Checkpoints = [][]byte{checkpoint(leaves)}
			s.events[0]["why"] = "changed"
		}},
		"a checkpoint of more": {check.OneLog, "checkpoint 1 is of 9 events", func(s *story) {
			_, leaves := s.export(3)
			s.seen.Checkpoints = [][]byte{bytes.Replace(checkpoint(leaves), []byte("\n3\n"), []byte("\n9\n"), 1)}
		}},
		"a checkpoint that's none": {check.OneLog, "checkpoint 1", func(s *story) { s.seen.Checkpoints = [][]byte{[]byte("x")} }},

		"a login left that somebody had": {check.Behind, "the login of request", func(s *story) {
			s.stray(0)
			s.seen.Strays[0].Request = s.request.ID
			s.seen.Broken = []check.Span{{From: s.noon.Add(-time.Second), To: s.noon.Add(time.Second)}}
		}},
		"a login left though nothing broke": {check.Behind, "nothing was broken when it was made", func(s *story) { s.stray(0) }},
		"a login left that was made after all was whole again": {check.Behind, "nothing was broken when it was made", func(s *story) {
			s.stray(2 * time.Second)
			s.seen.Broken = []check.Span{{From: s.noon, To: s.noon.Add(time.Second)}}
		}},
		"a login left that was long made when something broke": {check.Behind, "nothing was broken when it was made", func(s *story) {
			s.stray(0)
			s.seen.Broken = []check.Span{{From: s.noon.Add(22 * time.Second), To: s.noon.Add(time.Minute)}}
		}},
		"a login left of another kind": {check.Behind, "doesn't say when it was made", func(s *story) { s.seen.Strays = []check.Stray{{Login: "orders-admin"}} }},
		"a workflow left":              {check.Behind, "a workflow runs", func(s *story) { s.seen.Left = []string{"a workflow runs"} }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStory(t)
			c.doctor(s)
			found := s.check()
			if !slices.ContainsFunc(found, func(v check.Violation) bool { return v.Rule == c.rule && strings.Contains(v.What, c.what) }) {
				t.Errorf("want %q with %q, got %v", c.rule, c.what, found)
			}
		})
	}
}

// A request that was refused as a statement has no other end; another statement
// that was refused is none.
func TestRefusedRequest(t *testing.T) {
	s := newStory(t)
	third, signed := s.ask()
	s.seen.Asked = append(s.seen.Asked, third.ID)
	s.events = append(s.events, s.event("statement.refused", map[string]any{"request": third.ID, "statement": s.decide("bob", "bob", access.Approve)}))
	if found := s.check(); len(found) != 1 || found[0].Rule != check.Ends {
		t.Errorf("%v", found)
	}
	s.seen.Exports = nil
	s.events = append(s.events, s.event("statement.refused", map[string]any{"request": third.ID, "statement": signed}))
	if found := s.check(); len(found) != 0 {
		t.Error(found)
	}
}

// What an issuer whose clock is ahead, or was put back while it issued, may do is
// no violation.
func TestClocksThatAreWrong(t *testing.T) {
	s := newStory(t)
	s.certificate(s.certify(1, func(c *ssh.Certificate) { c.ValidBefore += 20 }))
	s.seen.Ahead = []check.Ahead{{From: s.noon.Add(-time.Second), To: s.noon.Add(time.Second)}}
	until := s.noon.Add(10 * time.Second)
	l := access.Lock{Header: s.header("dave", access.TypeLock), Action: access.ActionLock, Kind: "user", Name: "alice", Reason: "x", Until: &until}
	s.events[issued]["ruling"] = map[string]any{"at": until}
	s.events = slices.Insert(s.events, issued, s.event("lock.set", map[string]any{"statement": s.sign("dave", l), "request": ""}))
	if found := s.check(); len(found) != 0 {
		t.Errorf("%v", found)
	}
}

// Where all clocks were ahead, what waits for its start doesn't wait as long.
func TestAllClocksAhead(t *testing.T) {
	s := newStory(t)
	s.scheduled(30 * time.Second)
	s.seen.Ahead = []check.Ahead{{From: s.noon.Add(-time.Second), To: s.noon.Add(time.Second), Whole: true}}
	if found := s.check(); len(found) != 0 {
		t.Errorf("%v", found)
	}
}

// What starts when it was asked to is in order, in Vault too.
func TestScheduled(t *testing.T) {
	s := newStory(t)
	s.scheduled(0)
	if found := s.check(); len(found) != 0 {
		t.Error(found)
	}
	s = newStory(t)
	s.inVault()
	s.scheduled(0)
	if found := s.check(); len(found) != 0 {
		t.Error(found)
	}
}

// A lock that somebody was told of has taken back what lived under it, and
// nothing else.
func TestLockTakesBack(t *testing.T) {
	for name, doctor := range map[string]func(*story){
		"what lived":     func(s *story) { s.locked("user", "alice") },
		"of another":     func(s *story) { s.locked("user", "erin"); s.seen.Logins[1].Worked = true },
		"somewhere else": func(s *story) { s.locked("resource", "ssh/web-2"); s.seen.Logins[1].Worked = true },
		"what had ended, and was being taken back": func(s *story) {
			s.locked("user", "alice")
			s.events[released], s.events[released+1] = s.events[released+1], s.events[released]
			s.seen.Logins[1].Worked = true
		},
		"what ran to its end meanwhile": func(s *story) {
			s.locked("user", "alice")
			s.events[released+1]["type"] = "grant.expired"
			s.seen.Logins[1].Worked = true
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStory(t)
			doctor(s)
			if found := s.check(); len(found) != 0 {
				t.Error(found)
			}
		})
	}
}

// Whoever may not lock or unlock is refused, and nothing comes of it.
func TestRefusedLock(t *testing.T) {
	s := newStory(t)
	l, e := s.lock("user", "alice", 0)
	e["type"], e["statement"] = "statement.refused", s.sign("erin", l)
	s.events = slices.Insert(s.events, issued, e)
	if found := s.check(); len(found) != 0 {
		t.Error(found)
	}
}

// A lock that is lifted, or over by itself, is none.
func TestLocksEnd(t *testing.T) {
	s := newStory(t)
	l := access.Lock{Header: s.header("dave", access.TypeLock), Action: access.ActionLock, Kind: "user", Name: "alice", Reason: "x"}
	un := access.Lock{Header: s.header("dave", access.TypeLock), Action: access.ActionUnlock, Kind: "user", Name: "alice", Lock: l.ID}
	past := l
	past.ID, past.Time, past.Until = statement.NewID(), s.noon.Add(-time.Hour), &s.noon
	for _, lock := range []access.Lock{un, l, past} {
		typ := "lock.set"
		if lock.Action == access.ActionUnlock {
			typ = "lock.lifted"
		}
		e := s.event(typ, map[string]any{"statement": s.sign("dave", lock), "request": ""})
		s.events = slices.Insert(s.events, issued, e)
		s.seen.Locked = append(s.seen.Locked, s.heeded(lock.ID, e))
	}
	if found := s.check(); len(found) != 0 {
		t.Error(found)
	}
}

// The checker is of use as long as it can't have hallpass's own flaws.
func TestSharesNoCode(t *testing.T) {
	files, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	read := 0
	for _, f := range files {
		if !strings.HasSuffix(f.Name(), ".go") || strings.HasSuffix(f.Name(), "_test.go") {
			continue
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), f.Name(), nil, parser.ImportsOnly)
		if err != nil {
			t.Fatal(err)
		}
		for _, i := range parsed.Imports {
			if strings.HasPrefix(i.Path.Value, `"hallpass`) {
				t.Errorf("%s imports %s", f.Name(), i.Path.Value)
			}
		}
		read++
	}
	if read == 0 {
		t.Error("no file was looked at")
	}
}
