package service

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"hallpass/access"
	"hallpass/audit"
	"hallpass/evidence"
	"hallpass/statement"
	"hallpass/transport"
)

// hostPaths are what hosts send messages to.
var hostPaths = []string{"/v1/hosts", "/v1/hosts/renew", "/v1/sessions", "/v1/extensions"}

// shelf is a ledger of one host that has joined and one grant that was extended,
// without a database, whose own paths would hide those of the messages.
type shelf struct {
	agent, ca ssh.PublicKey
	longer    string // the certificate that extends every other
	reported  map[string]bool
	refuses   map[string]bool // reports, by id
	locks     audit.Locks
	written   int // how often something was to be recorded
}

func (s *shelf) Host(_ context.Context, name string) (audit.Host, bool, error) {
	return audit.Host{Name: name, AgentKey: statement.MarshalKey(s.agent)}, name == "web-1", nil
}
func (s *shelf) Locks(context.Context) (audit.Locks, error) { return s.locks, nil }
func (s *shelf) Report(_ context.Context, st access.Statement, _ func(string) []access.Resource) error {
	s.written++
	said, by, err := statement.OpenSession(st)
	if err == nil && s.refuses[said.ID] {
		err = access.Errorf(access.CodeNotFound, "there never was a certificate")
	}
	if err == nil && statement.MarshalKey(by) != statement.MarshalKey(s.agent) {
		err = access.Errorf(access.CodeUnverified, "by another agent")
	}
	return err
}
func (s *shelf) Reported(_ context.Context, _, id string) (bool, error)      { return s.reported[id], nil }
func (s *shelf) CAKeys(context.Context) ([]ssh.PublicKey, error)             { return []ssh.PublicKey{s.ca}, nil }
func (s *shelf) Extension(context.Context, *ssh.Certificate) (string, error) { return s.longer, nil }

// FuzzHostMessages: whatever a host sends, it gets one answer of JSON, with a code
// and one line to show if it is refused, and never more than one answer for each
// thing that it asks. No issuer is asked but for somebody who may join and for the
// agent of a host that has. What is read can be written and is read again.
func FuzzHostMessages(f *testing.F) {
	bob, host, agent, ca := newKey(f), newKey(f), newKey(f), newKey(f)
	book, err := evidence.NewRulebook(
		[]byte("hosts: {enroll: [sre]}\nrules:\n  - {name: all, when: 'true', max_duration: 1h, approvals: none}\n"),
		[]byte("users:\n  bob: {groups: [sre], keys: ['"+public(bob)+"']}\n"), []byte("resources:\n  ssh/web-1: {logins: [deploy]}\n"))
	if err != nil {
		f.Fatal(err)
	}
	now := time.Now().Truncate(time.Second)
	sign := func(by ssh.Signer, payload any) access.Statement {
		st, err := statement.Sign(by, payload)
		if err != nil {
			f.Fatal(err)
		}
		return st
	}
	certificate := &ssh.Certificate{Key: host.PublicKey(), CertType: ssh.UserCert, KeyId: "k", ValidPrincipals: []string{"web-1/deploy"}, ValidBefore: 2e9}
	if err := certificate.SignCert(rand.Reader, ca); err != nil {
		f.Fatal(err)
	}
	line := string(ssh.MarshalAuthorizedKey(certificate))
	options := Options{
		Hosts: &shelf{agent: agent.PublicKey(), ca: ca.PublicKey(), longer: line}, Log: quiet, Now: func() time.Time { return now },
		Rulebook: func() *evidence.Rulebook { return book },
		Certify: func(_ context.Context, _ string, in access.Enrolment) (access.Statement, error) {
			_, _, joins := statement.OpenJoin(in.Statement, book.Directory)
			_, by, renews := statement.OpenRenewal(in.Statement)
			if joins != nil && (renews != nil || public(agent) != statement.MarshalKey(by)) {
				panic("an issuer is asked for a stranger")
			}
			return access.Statement{Payload: "told", Signature: "s"}, nil
		},
	}
	add := func(path int, message any) {
		data, err := json.Marshal(message)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(uint8(path), data)
	}
	join := access.Join{Header: header(access.TypeHost, "bob"), Resource: "ssh/web-1", Until: now.Add(time.Hour)}
	token, err := statement.Token(sign(bob, join))
	if err != nil {
		f.Fatal(err)
	}
	add(0, joining{Token: token, HostKey: public(host), AgentKey: public(agent), Names: []string{"web-1"}})
	add(0, joining{Token: token, HostKey: public(host), AgentKey: line})
	add(1, access.Enrolment{Statement: sign(agent, access.Renewal{Header: header(access.TypeRenew, "web-1"), HostKey: public(host)})})
	add(1, access.Enrolment{Statement: sign(host, access.Renewal{Header: header(access.TypeRenew, "web-1"), HostKey: public(host)}), HostKey: "x"})
	opened := access.Session{Header: header(access.TypeSession, "web-1"), Event: access.SessionOpened, Request: statement.NewID(),
		Serial: 7, KeyID: "k", Login: "deploy", Session: "s1"}
	add(2, reporting{"web-1", []report{{opened.ID, sign(agent, opened)}, {opened.ID, sign(host, opened)}, {"x\x1b[2J", sign(agent, opened)}}})
	add(2, reporting{"web-1", make([]report, MaxReports+1)})
	add(3, certificates{[]string{line, strings.TrimSpace(line) + " a comment"}})
	add(3, certificates{[]string{public(host)}})
	f.Add(uint8(0), []byte(`{"token":"e30","Token":"e30","host_key":null}`))
	f.Add(uint8(2), []byte(`{"host":"web-1","reports":[null,{"id":1e400}]}`))
	f.Add(uint8(3), []byte(`null`))
	f.Fuzz(func(t *testing.T, path uint8, body []byte) {
		i := int(path) % len(hostPaths)
		r := httptest.NewRecorder()
		New(options).ServeHTTP(r, httptest.NewRequest(http.MethodPost, hostPaths[i], bytes.NewReader(body)))
		if r.Code != http.StatusOK {
			var e access.Error
			if err := json.Unmarshal(r.Body.Bytes(), &e); err != nil || e.Code == "" || status(e.Code) != r.Code {
				t.Fatalf("%d with %q", r.Code, r.Body)
			}
			if err := access.CheckText("message", e.Message+e.Hint, 1000); err != nil {
				t.Errorf("%v: %q", err, e.Message)
			}
			if r.Code == http.StatusServiceUnavailable {
				t.Errorf("a message alone makes it unavailable: %q", r.Body)
			}
		}
		switch i {
		case 0:
			writtenAgain[joining](t, body)
		case 1:
			writtenAgain[access.Enrolment](t, body)
		case 2:
			in, ok := writtenAgain[reporting](t, body)
			var out reported
			if r.Code == http.StatusOK && (!ok || json.Unmarshal(r.Body.Bytes(), &out) != nil || len(out.Accepted)+len(out.Refused) != len(in.Reports)) {
				t.Errorf("%d reports, and the answer is %q", len(in.Reports), r.Body)
			}
			for _, one := range out.Refused {
				if one.Code == "" || one.Code == access.CodeUnavailable || access.CheckText("message", one.Message, 1000) != nil {
					t.Errorf("refused with %q %q", one.Code, one.Message)
				}
			}
		case 3:
			in, _ := writtenAgain[certificates](t, body)
			asked, err := distinct(in.Certificates)
			if err != nil && access.CodeOf(err) != access.CodeMalformed {
				t.Error(err)
			}
			var out certificates
			if r.Code == http.StatusOK && (err != nil || json.Unmarshal(r.Body.Bytes(), &out) != nil || len(out.Certificates) > len(asked)) {
				t.Errorf("%d certificates, %v, and the answer is %q", len(asked), err, r.Body)
			}
			var lines []string
			for _, cert := range asked {
				lines = append(lines, string(ssh.MarshalAuthorizedKey(cert)))
			}
			if again, err := distinct(slices.Repeat(lines, 2)); err != nil || len(again) != len(asked) || len(asked) > len(in.Certificates) {
				t.Errorf("of %d certificates %d are distinct, and then %d (%v)", len(in.Certificates), len(asked), len(again), err)
			}
		}
	})
}

// writtenAgain reads a message, and says whether it could be. What is read comes
// back when it is written.
func writtenAgain[T any](t *testing.T, body []byte) (v T, ok bool) {
	t.Helper()
	if err := read(body, &v); err != nil {
		if access.CodeOf(err) != access.CodeMalformed {
			t.Error(err)
		}
		return v, false
	}
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatalf("what was read can't be written: %v", err)
	}
	var back T
	if err := read(data, &back); err != nil {
		t.Fatalf("what was written can't be read: %v", err)
	}
	once, _ := json.Marshal(back)
	if !reflect.DeepEqual(v, back) && !bytes.Equal(once, data) { // an empty list that is left out comes back as none
		t.Errorf("%+v was written, and read as %+v", v, back)
	}
	return v, true
}

// asked keeps what a list is asked for.
type asked struct {
	*hearing
	filter transport.Filter
}

func (a *asked) List(_ context.Context, f transport.Filter) ([]transport.Summary, error) {
	a.filter = f
	return nil, nil
}

// FuzzListQuery: the query of a list asks for known states and a bounded number of
// requests, costs no more than that many, and means the same when it is written
// again.
func FuzzListQuery(f *testing.F) {
	f.Add("state=pending&state=active&limit=10")
	f.Add("prefix=0190a1b2&requester=alice&resource=ssh%2Fweb-1")
	f.Add("limit=10000")
	f.Add("limit=-9223372036854775808")
	f.Add("limit=+1&state=")
	f.Add("a;b&limit=%zz")
	f.Fuzz(func(t *testing.T, query string) {
		list := func(query string) (transport.Filter, error) {
			a := &asked{hearing: &hearing{}}
			out, err := (&server{}).list(visit{Request: &http.Request{URL: &url.URL{RawQuery: query}}, requests: a})
			if found, ok := out.([]transport.Summary); err == nil && (!ok || found == nil) {
				t.Errorf("answers %#v", out)
			}
			return a.filter, err
		}
		if c := cost(&http.Request{URL: &url.URL{RawQuery: query}}); !(c >= 1) {
			t.Errorf("costs %v", c)
		}
		filter, err := list(query)
		if err != nil {
			if access.CodeOf(err) != access.CodeMalformed || access.CheckText("error", err.Error(), 1000) != nil {
				t.Errorf("%q", err)
			}
			return
		}
		if filter.Limit < 0 || filter.Limit > mostListed || slices.ContainsFunc(filter.States, func(s access.State) bool { return !s.Known() }) {
			t.Errorf("asks for %+v", filter)
		}
		again, err := list(filter.Values().Encode())
		if err != nil || !reflect.DeepEqual(again, filter) {
			t.Errorf("%+v is asked for as %+v (%v)", filter, again, err)
		}
	})
}
