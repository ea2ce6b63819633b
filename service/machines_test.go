package service

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"hallpass/access"
	"hallpass/evidence"
	"hallpass/statement"
)

// yard is the service as hosts see it, with a clock of its own.
type yard struct {
	*testing.T
	agent   ssh.Signer
	bob     ssh.Signer // may take hosts in
	shelf   *shelf
	now     time.Time
	handler http.Handler
	certify func() // while somebody is certified
}

func newYard(t *testing.T) *yard {
	y := &yard{T: t, agent: newKey(t), bob: newKey(t), now: time.Now().Truncate(time.Second), certify: func() {}}
	book, err := evidence.NewRulebook([]byte("hosts: {enroll: [sre]}\nrules:\n  - {name: all, when: 'true', max_duration: 1h, approvals: none}\n"),
		[]byte("users:\n  bob: {groups: [sre], keys: ['"+public(y.bob)+"']}\n"), []byte("resources:\n  ssh/web-1: {logins: [deploy]}\n"))
	if err != nil {
		t.Fatal(err)
	}
	y.shelf = &shelf{agent: y.agent.PublicKey(), reported: map[string]bool{}, refuses: map[string]bool{}}
	y.handler = New(Options{
		Hosts: y.shelf, Log: quiet, Now: func() time.Time { return y.now },
		Rulebook: func() *evidence.Rulebook { return book },
		Certify: func(context.Context, string, access.Enrolment) (access.Statement, error) {
			y.certify()
			return access.Statement{}, nil
		},
	})
	return y
}

func (y *yard) header(typ access.Type) access.Header {
	return access.Header{Type: typ, ID: statement.NewID(), Signer: "web-1", Time: statement.Time(y.now)}
}

func (y *yard) sign(by ssh.Signer, payload any) access.Statement {
	y.Helper()
	st, err := statement.Sign(by, payload)
	if err != nil {
		y.Fatal(err)
	}
	return st
}

func (y *yard) post(path string, message any) *httptest.ResponseRecorder {
	y.Helper()
	data, err := json.Marshal(message)
	if err != nil {
		y.Fatal(err)
	}
	r := httptest.NewRecorder()
	y.handler.ServeHTTP(r, httptest.NewRequest(http.MethodPost, path, bytes.NewReader(data)))
	return r
}

func (y *yard) renew(by ssh.Signer) *httptest.ResponseRecorder {
	return y.post("/v1/hosts/renew", access.Enrolment{Statement: y.sign(by, access.Renewal{Header: y.header(access.TypeRenew), HostKey: public(y.agent)})})
}

// reports are so many of sessions.
func (y *yard) reports(by ssh.Signer, n int) (all []report) {
	y.Helper()
	for range n {
		s := access.Session{Header: y.header(access.TypeSession), Event: access.SessionOpened, Request: statement.NewID(), Serial: 7, KeyID: "k", Login: "deploy", Session: "s1"}
		all = append(all, report{s.ID, y.sign(by, s)})
	}
	return all
}

// tell sends them.
func (y *yard) tell(reports ...report) *httptest.ResponseRecorder {
	return y.post("/v1/sessions", reporting{Host: "web-1", Reports: reports})
}

func (y *yard) turnedAway(what string, r *httptest.ResponseRecorder, retry string) {
	y.Helper()
	var e access.Error
	if err := json.Unmarshal(r.Body.Bytes(), &e); err != nil || r.Code != http.StatusTooManyRequests || e.Code != access.CodeUnavailable ||
		r.Header().Get("Retry-After") != retry || !strings.Contains(e.Message, "by web-1") {
		y.Errorf("%s: %d %v %s", what, r.Code, r.Header(), r.Body)
	}
}

// A host that asks over and over for what an issuer has to do takes nobody's place,
// and nobody can make it be turned away but itself.
func TestTooManyRenewals(t *testing.T) {
	y := newYard(t)
	stranger := newKey(t)
	for range 2 * renewsAtOnce {
		if r := y.renew(stranger); r.Code != http.StatusUnauthorized {
			t.Fatalf("a stranger: %d %s", r.Code, r.Body)
		}
	}
	for i := range renewsAtOnce {
		if r := y.renew(y.agent); r.Code != http.StatusOK {
			t.Fatalf("renewal %d: %d %s", i, r.Code, r.Body)
		}
	}
	y.turnedAway("one more", y.renew(y.agent), "10")
	y.now = y.now.Add(10 * time.Second)
	inside := 0
	y.certify = func() {
		if inside++; inside < renewsOpen {
			y.now = y.now.Add(10 * time.Second)
			if r := y.renew(y.agent); r.Code != http.StatusOK {
				t.Errorf("beside another: %d %s", r.Code, r.Body)
			}
			return
		}
		y.now = y.now.Add(10 * time.Second)
		y.turnedAway("beside too many others", y.renew(y.agent), "1")
	}
	if r := y.renew(y.agent); r.Code != http.StatusOK || inside != renewsOpen {
		t.Errorf("afterwards: %d %s, %d inside", r.Code, r.Body, inside)
	}
}

// A host tells of what happens on it, and whoever is root there can tell any number of
// lies about grants that it has seen. They come in no faster than others can be heard
// beside them, and nobody else can have the host turned away: neither by reports of his own
// nor by the host's own from before, which are in proofs and exports of the log.
func TestTooManyReports(t *testing.T) {
	y := newYard(t)
	strangers := y.reports(newKey(t), MaxReports)
	old, wrong := y.reports(y.agent, MaxReports), y.reports(y.agent, 10)
	for _, r := range old {
		y.shelf.reported[r.ID] = true
	}
	for _, r := range wrong {
		y.shelf.refuses[r.ID] = true
	}
	told := func(what string, reports []report, accepted bool) {
		t.Helper()
		r := y.tell(reports...)
		var out reported
		if err := json.Unmarshal(r.Body.Bytes(), &out); err != nil || r.Code != http.StatusOK ||
			len(out.Accepted)+len(out.Refused) != len(reports) || (len(out.Refused) == 0) != accepted {
			t.Fatalf("%s: %d %.200s", what, r.Code, r.Body)
		}
	}
	told("wrong ones", wrong, false)
	y.shelf.written = 0
	for range reportsAtOnce/MaxReports + 1 {
		told("a stranger", strangers, false)
		told("from the log", old, true)
		told("one from there, many times", slices.Repeat(old[:1], MaxReports), true)
		told("what was refused", slices.Repeat(wrong, MaxReports/len(wrong)), false)
	}
	if y.shelf.written > 0 {
		t.Errorf("what was told before, or by strangers, went to the log %d times", y.shelf.written)
	}
	// One id for many requests is as many reports.
	first := y.reports(y.agent, MaxReports-len(wrong))
	for i := range first {
		s := access.Session{Header: y.header(access.TypeSession), Event: access.SessionOpened, Request: statement.NewID(), Serial: 7, KeyID: "k", Login: "deploy", Session: "s1"}
		s.ID = first[0].ID
		first[i] = report{s.ID, y.sign(y.agent, s)}
	}
	told("one id", first, true)
	for range reportsAtOnce/MaxReports - 1 {
		told("the host", y.reports(y.agent, MaxReports), true)
	}
	last := y.reports(y.agent, MaxReports+1)
	y.turnedAway("one more", y.tell(last[0]), "1")
	told("from the log meanwhile", old, true)
	y.now = y.now.Add(time.Second)
	told("a second later", last[:MaxReports], true) // one message is taken whole
	y.turnedAway("the next", y.tell(last[MaxReports]), "5")
	told("a stranger meanwhile", strangers, false)
}

// Whoever tells much at the same moment leaves room for others, and is forgotten.
func TestReportsAtTheSameMoment(t *testing.T) {
	now := time.Now()
	m := newMachines(func() time.Time { return now })
	var leave func()
	for range reportsOpen {
		if leave, _ = m.tell("web-1", 1); leave == nil {
			t.Fatal("turned away too early")
		}
	}
	if again, wait := m.tell("web-1", 1); again != nil || wait <= 0 {
		t.Error("one too many was let in")
	}
	if again, _ := m.tell("web-1", 0); again == nil {
		t.Error("what was told before takes a place")
	}
	if again, _ := m.tell("web-2", 1); again == nil {
		t.Error("another host is turned away")
	}
	leave()
	if again, _ := m.tell("web-1", 1); again == nil {
		t.Error("turned away after one has left")
	}
	for i := range 3 * maxRefusals {
		m.refuse("web-3", reportID{"r", strconv.Itoa(i)}, &access.Error{Code: access.CodeNotFound})
	}
	if n := len(m.of["web-3"].refused); n > maxRefusals {
		t.Errorf("%d refusals are kept", n)
	}
	for i := range 2 * manyMachines {
		now = now.Add(time.Minute)
		m.join(strconv.Itoa(i))
		if leave, _ := m.renew(strconv.Itoa(i)); leave == nil {
			t.Fatal("turned away")
		} else {
			leave()
		}
	}
	if len(m.of) > manyMachines+10 || len(m.joins) > manyMachines+10 {
		t.Errorf("%d hosts and %d tokens are kept", len(m.of), len(m.joins))
	}
	if m.of["web-1"] == nil {
		t.Error("who still tells is forgotten")
	}
}

// Who has a join token, used up or not, may send it now and then.
func TestTokenSentOverAndOver(t *testing.T) {
	m := newMachines(time.Now)
	for range renewsAtOnce {
		if m.join("one") > 0 {
			t.Fatal("turned away too early")
		}
	}
	if m.join("one") == 0 {
		t.Error("one too many is taken")
	}
	if m.join("another") > 0 {
		t.Error("another token is turned away")
	}
	y := newYard(t)
	sent := func(id string) int {
		t.Helper()
		token, err := statement.Token(y.sign(y.bob, access.Join{
			Header: access.Header{Type: access.TypeHost, ID: id, Signer: "bob", Time: statement.Time(y.now)}, Resource: "ssh/web-1", Until: y.now.Add(time.Hour),
		}))
		if err != nil {
			t.Fatal(err)
		}
		return y.post("/v1/hosts", joining{Token: token, HostKey: public(newKey(t)), AgentKey: public(newKey(t))}).Code
	}
	one := statement.NewID()
	for range renewsAtOnce {
		if code := sent(one); code != http.StatusOK {
			t.Fatalf("the service says %d", code)
		}
	}
	if code := sent(one); code != http.StatusTooManyRequests {
		t.Errorf("one more: the service says %d", code)
	}
	if code := sent(statement.NewID()); code != http.StatusOK {
		t.Errorf("another: the service says %d", code)
	}
}

// Who may lock isn't held up, unless somebody has locked him: then his locks are refused,
// each by a workflow.
func TestEntitledToLock(t *testing.T) {
	l := newLobby(t)
	l.policy = "locks: {groups: [dev]}\n"
	l.employ("alice", "bob")
	shelf := &shelf{}
	s := &server{Options: Options{Hosts: shelf, Rulebook: func() *evidence.Rulebook { return l.book }, Now: func() time.Time { return l.now }}}
	lock := func(who, whom string) (access.Lock, access.Statement) {
		lock := access.Lock{Header: l.header(access.TypeLock, who), Action: access.ActionLock, Kind: access.LockUser, Name: whom, Reason: "x"}
		return lock, l.sign(who, lock)
	}
	v := visit{Request: httptest.NewRequest(http.MethodPost, "/v1/locks", nil), book: l.book}
	on, st := lock("alice", "bob")
	if !s.entitled(v, st) {
		t.Error("who may lock is held up")
	}
	shelf.locks.Held = shelf.locks.Held.After(on, st)
	if _, st := lock("bob", "alice"); s.entitled(v, st) {
		t.Error("who is locked isn't held up")
	}
}
