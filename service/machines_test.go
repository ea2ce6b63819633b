package service

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
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
	now     time.Time
	handler http.Handler
	certify func() // while somebody is certified
}

func newYard(t *testing.T) *yard {
	y := &yard{T: t, agent: newKey(t), now: time.Now().Truncate(time.Second), certify: func() {}}
	book, err := evidence.NewRulebook([]byte("rules:\n  - {name: all, when: 'true', max_duration: 1h, approvals: none}\n"),
		[]byte("users:\n  bob: {keys: ['"+public(newKey(t))+"']}\n"), []byte("resources:\n  ssh/web-1: {logins: [deploy]}\n"))
	if err != nil {
		t.Fatal(err)
	}
	y.handler = New(Options{
		Hosts: &shelf{agent: y.agent.PublicKey()}, Log: quiet, Now: func() time.Time { return y.now },
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

// tell sends so many reports of sessions.
func (y *yard) tell(by ssh.Signer, n int) *httptest.ResponseRecorder {
	in := reporting{Host: "web-1"}
	for range n {
		s := access.Session{Header: y.header(access.TypeSession), Event: access.SessionOpened, Request: statement.NewID(), Serial: 7, KeyID: "k", Login: "deploy", Session: "s1"}
		in.Reports = append(in.Reports, report{s.ID, y.sign(by, s)})
	}
	return y.post("/v1/sessions", in)
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
// beside them; none is lost, since the host keeps what wasn't taken.
func TestTooManyReports(t *testing.T) {
	y := newYard(t)
	stranger := newKey(t)
	for range 2 * reportsAtOnce / MaxReports {
		if r := y.tell(stranger, MaxReports); r.Code != http.StatusOK || strings.Contains(r.Body.String(), `"accepted":["`) {
			t.Fatalf("a stranger: %d %.200s", r.Code, r.Body)
		}
	}
	for i := range reportsAtOnce / MaxReports {
		if r := y.tell(y.agent, MaxReports); r.Code != http.StatusOK || strings.Contains(r.Body.String(), `"refused":[{`) {
			t.Fatalf("message %d: %d %.200s", i, r.Code, r.Body)
		}
	}
	y.turnedAway("one more", y.tell(y.agent, 1), "1")
	y.now = y.now.Add(time.Second)
	if r := y.tell(y.agent, MaxReports); r.Code != http.StatusOK { // one message is taken whole
		t.Errorf("a second later: %d %.200s", r.Code, r.Body)
	}
	y.turnedAway("the next", y.tell(y.agent, 1), "25")
}
