package audit

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"hallpass/access"
	"hallpass/ca"
	"hallpass/statement"
)

const hostsPolicy = "hosts: {enroll: [security]}\n" + worldPolicy

// hostWorld is a world whose carol may take hosts in.
func hostWorld(t *testing.T) *world {
	w := newWorld(t)
	w.rulebook(hostsPolicy)
	return w
}

func (w *world) keyOf(name string) string { return statement.MarshalKey(key(w.t, name).PublicKey()) }

// join is who's invitation of web-1.
func (w *world) join(who string) (access.Join, access.Statement) {
	w.t.Helper()
	h := w.header(access.TypeHost, who)
	j := access.Join{Header: h, Resource: "ssh/web-1", Until: h.Time.Add(time.Hour)}
	return j, w.sign(who, j)
}

// enrol uses an invitation.
func (w *world) enrol(j access.Join, st access.Statement, agent, host string) (Host, error) {
	w.t.Helper()
	return w.log.Enrol(context.Background(), Host{Name: "web-1", Token: j.ID, AgentKey: w.keyOf(agent), HostKey: w.keyOf(host)},
		Event{Time: w.now, Actor: j.Signer, Resource: j.Resource, Statement: &st, Digests: w.digests()})
}

// certify certifies web-1's key.
func (w *world) certify(h Host) Host {
	w.t.Helper()
	hostCA, err := ca.New(key(w.t, "host ca"), w.clock)
	if err != nil {
		w.t.Fatal(err)
	}
	k, err := statement.ParseKey(h.HostKey)
	if err != nil {
		w.t.Fatal(err)
	}
	serial, err := w.log.NextSerial(context.Background(), hostCA.Fingerprint(), 0)
	if err != nil {
		w.t.Fatal(err)
	}
	p, err := hostCA.PrepareHost(ca.HostSpec{Resource: "ssh/web-1", Names: []string{"web-1"}, PublicKey: k, Serial: serial,
		NotBefore: w.now, NotAfter: w.now.Add(ca.MaxHostLifetime)})
	if err != nil {
		w.t.Fatal(err)
	}
	cert, err := hostCA.Issue(p)
	if err != nil {
		w.t.Fatal(err)
	}
	h.Certificate = ca.Marshal(cert)
	if err := w.log.Certified(context.Background(), h, serial); err != nil {
		w.t.Fatal(err)
	}
	return h
}

func TestATokenTakesInOneHost(t *testing.T) {
	w := hostWorld(t)
	j, st := w.join("carol")
	first, err := w.enrol(j, st, "agent", "hostkey")
	if err != nil {
		t.Fatal(err)
	}
	first = w.certify(first)
	if again, err := w.enrol(j, st, "agent", "hostkey"); err != nil || cmp.Diff(first, again) != "" {
		t.Errorf("again with the same keys: %v\n%s", err, cmp.Diff(first, again))
	}
	for _, keys := range [][2]string{{"thief", "hostkey"}, {"agent", "thief"}, {"thief", "thief"}} {
		if h, err := w.enrol(j, st, keys[0], keys[1]); access.CodeOf(err) != access.CodeDuplicate {
			t.Errorf("with other keys: %+v, %v", h, err)
		}
	}
	j2, st2 := w.join("carol")
	second, err := w.enrol(j2, st2, "agent2", "hostkey")
	if err != nil {
		t.Fatal(err)
	}
	// The old token brings nothing back.
	if _, err := w.enrol(j, st, "agent", "hostkey"); access.CodeOf(err) != access.CodeEnded {
		t.Errorf("old token: %v", err)
	}
	if err := w.log.Certified(context.Background(), first, 2); access.CodeOf(err) != access.CodeEnded {
		t.Errorf("certificate for the old enrolment: %v", err)
	}
	got, found, err := w.log.Host(context.Background(), "web-1")
	if err != nil || !found || cmp.Diff(second, got) != "" {
		t.Errorf("%t, %v\n%s", found, err, cmp.Diff(second, got))
	}
	if _, found, err := w.log.Host(context.Background(), "web-9"); found || err != nil {
		t.Errorf("web-9: %t, %v", found, err)
	}
	if report := w.verify(VerifyOptions{}); !report.OK {
		t.Error(report.Problems)
	}
}

// visited is a world with web-1 enrolled and a grant on it.
func visited(t *testing.T) (*world, access.Request, access.Credential) {
	w := hostWorld(t)
	j, st := w.join("carol")
	h, err := w.enrol(j, st, "agent", "hostkey")
	if err != nil {
		t.Fatal(err)
	}
	w.certify(h)
	r, rst := w.ask("alice")
	yes := w.decision("bob", access.Approve, r, rst)
	w.accept("bob", r, yes)
	return w, r, w.grant(r, access.Evidence{Request: rst, Decisions: []access.Statement{yes}})
}

func (w *world) on(host string) []access.Resource {
	r, ok := w.book.Catalog.Resource("ssh/" + host)
	if !ok {
		return nil
	}
	return w.book.On(r)
}

// report is web-1's about a session of a grant, changed by edit.
func (w *world) report(by string, c access.Credential, edit func(*access.Session)) access.Statement {
	w.t.Helper()
	s := access.Session{
		Header: w.header(access.TypeSession, "web-1"), Event: access.SessionOpened, Request: c.Handle.Request, Serial: c.Handle.Serial,
		KeyID: "hallpass:" + c.Handle.Request + ":alice", Login: "deploy", Source: "10.0.0.1:4711", Session: "s1",
	}
	if edit != nil {
		edit(&s)
	}
	return w.sign(by, s)
}

func TestReport(t *testing.T) {
	for _, row := range []struct {
		name string
		by   string
		edit func(*access.Session)
		code access.Code

		recorded bool // that it was refused
	}{
		{"opened", "agent", nil, "", false},
		{"closed", "agent", func(s *access.Session) { s.Event = access.SessionClosed }, "", false},
		{"ended", "agent", func(s *access.Session) { s.Event, s.Why = access.SessionEnded, "released by alice" }, "", false},
		{"long ago", "agent", func(s *access.Session) { s.Time = t0.Add(-time.Hour) }, "", false},
		{"clock ahead", "agent", func(s *access.Session) { s.Time = s.Time.Add(access.ClockSkew) }, "", false},
		{"from the future", "agent", func(s *access.Session) { s.Time = s.Time.Add(access.ClockSkew + time.Second) }, access.CodeStale, false},
		{"another host's key", "agent2", nil, access.CodeUnverified, false},
		{"a person's key", "carol", nil, access.CodeUnverified, false},
		{"host that isn't in", "agent", func(s *access.Session) { s.Signer = "web-2" }, access.CodeNotFound, false},
		{"another serial", "agent", func(s *access.Session) { s.Serial++ }, access.CodeMismatch, true},
		{"another login", "agent", func(s *access.Session) { s.Login = "root" }, access.CodeForbidden, true},
		{"no such request", "agent", func(s *access.Session) { s.Request = "01900000-0000-7000-8000-0000000000ff" }, access.CodeNotFound, true},
		{"another's key id", "agent", func(s *access.Session) { s.KeyID = "hallpass:" + s.Request + ":bob" }, access.CodeMismatch, true},
		{"a key id that isn't one", "agent", func(s *access.Session) { s.KeyID = "x" }, access.CodeMismatch, true},
		{"of another host's key about a serial that isn't", "agent2", func(s *access.Session) { s.Serial++ }, access.CodeUnverified, false},
		{"about a serial that isn't, from the future", "agent", func(s *access.Session) { s.Serial++; s.Time = s.Time.Add(time.Hour) }, access.CodeStale, false},
	} {
		t.Run(row.name, func(t *testing.T) {
			w, _, cred := visited(t)
			st := w.report(row.by, cred, row.edit)
			for range 2 { // twice lands once
				if err := w.log.Report(context.Background(), st, w.on); access.CodeOf(err) != row.code || (err == nil) != (row.code == "") {
					t.Errorf("%v, want %q", err, row.code)
				}
			}
			said, err := statement.ParseSession([]byte(st.Payload))
			if err != nil {
				t.Fatal(err)
			}
			if known, err := w.log.Reported(context.Background(), said.Request, said.ID); err != nil || known != (row.code == "") {
				t.Errorf("it is on record: %t, %v", known, err)
			}
			want := 0
			if row.code == "" || row.recorded {
				want = 1
			}
			n := 0
			for rec, err := range w.log.Events(context.Background(), Query{Type: "session."}) {
				if err != nil {
					t.Fatal(err)
				}
				n++
				if rec.Event.Type == SessionRefused {
					if e := rec.Event; e.Code != row.code || e.Actor != "web-1" || e.Request != "" || e.Requester != "" || e.Statement == nil || e.Statement.Payload != st.Payload {
						t.Errorf("event %+v", e)
					}
					continue
				}
				if rec.Event.Requester != "alice" || rec.Event.Resource != "ssh/web-1" || rec.Event.Actor != "web-1" {
					t.Errorf("event %+v", rec.Event)
				}
			}
			if n != want {
				t.Errorf("%d events, want %d", n, want)
			}
			if visits, err := w.log.Visits(context.Background(), Query{}); err != nil || row.recorded && len(visits) > 0 {
				t.Errorf("visits %+v, %v", visits, err)
			}
			if report := w.verify(VerifyOptions{}); !report.OK {
				t.Error(report.Problems)
			}
		})
	}
}

// A host can't write into the history of what was granted elsewhere.
func TestReportOfAnotherHostsGrant(t *testing.T) {
	w, _, cred := visited(t)
	h := w.header(access.TypeHost, "carol")
	j := access.Join{Header: h, Resource: "ssh/web-2", Until: h.Time.Add(time.Hour)}
	st := w.sign("carol", j)
	if _, err := w.log.Enrol(context.Background(), Host{Name: "web-2", Token: j.ID, AgentKey: w.keyOf("agent2"), HostKey: w.keyOf("hostkey2")},
		Event{Time: w.now, Actor: "carol", Resource: j.Resource, Statement: &st, Digests: w.digests()}); err != nil {
		t.Fatal(err)
	}
	report := w.report("agent2", cred, func(s *access.Session) { s.Signer = "web-2" })
	if err := w.log.Report(context.Background(), report, w.on); access.CodeOf(err) != access.CodeForbidden {
		t.Errorf("%v", err)
	}
	if n := w.count(Query{Request: cred.Handle.Request, Type: "session."}); n != 0 {
		t.Errorf("%d events", n)
	}
}

// What comes into the log while a report is being judged counts: verify judges by
// what is before it.
func TestReportBesideOthers(t *testing.T) {
	unissued := func(w *world) (access.Credential, func()) {
		r, rst := w.ask("alice")
		yes := w.decision("bob", access.Approve, r, rst)
		w.accept("bob", r, yes)
		issue := func() { w.grant(r, access.Evidence{Request: rst, Decisions: []access.Statement{yes}}) }
		return access.Credential{Handle: access.Handle{Request: r.ID, Serial: 2}}, issue
	}
	anew := func(w *world) func() {
		j, st := w.join("carol")
		return func() {
			if _, err := w.enrol(j, st, "agent2", "hostkey2"); err != nil {
				w.t.Fatal(err)
			}
		}
	}
	for _, row := range []struct {
		name   string
		beside func(w *world, cred access.Credential) (access.Statement, func())
		code   access.Code
		events int // of sessions
	}{
		{"its certificate is issued", func(w *world, _ access.Credential) (access.Statement, func()) {
			cred, issue := unissued(w)
			return w.report("agent", cred, nil), issue
		}, "", 1},
		{"another certificate of the request is issued", func(w *world, _ access.Credential) (access.Statement, func()) {
			cred, issue := unissued(w)
			return w.report("agent", cred, func(s *access.Session) { s.Serial++ }), issue
		}, access.CodeMismatch, 1},
		{"the host enrols anew", func(w *world, cred access.Credential) (access.Statement, func()) {
			return w.report("agent", cred, nil), anew(w)
		}, access.CodeUnverified, 0},
		{"the host enrols anew, and the report is refused", func(w *world, cred access.Credential) (access.Statement, func()) {
			return w.report("agent", cred, func(s *access.Session) { s.Serial++ }), anew(w)
		}, access.CodeUnverified, 0},
	} {
		t.Run(row.name, func(t *testing.T) {
			w, _, cred := visited(t)
			st, happens := row.beside(w, cred)
			err := w.log.Report(context.Background(), st, func(host string) []access.Resource {
				happens() // the report has been opened, and nothing is written yet
				return w.on(host)
			})
			if access.CodeOf(err) != row.code || (err == nil) != (row.code == "") {
				t.Errorf("%v, want %q", err, row.code)
			}
			if n := w.count(Query{Type: "session."}); n != row.events {
				t.Errorf("%d events, want %d", n, row.events)
			}
			if report := w.verify(VerifyOptions{}); !report.OK {
				t.Error(report.Problems)
			}
		})
	}
}

func (w *world) count(q Query) (n int) {
	w.t.Helper()
	for _, err := range w.log.Events(context.Background(), q) {
		if err != nil {
			w.t.Fatal(err)
		}
		n++
	}
	return n
}

// A host that makes certificates up fills neither the log nor, by that, takes
// the alarms of others away; and what may have an innocent reason takes away no
// alarm that can't.
func TestRefusedReportsAreBounded(t *testing.T) {
	w, _, cred := visited(t)
	ctx := context.Background()
	made := func(by string, code access.Code, n uint64) {
		for _, event := range []string{access.SessionOpened, access.SessionEnded} { // each certificate once
			st := w.report(by, cred, func(s *access.Session) {
				s.Event = event
				switch code {
				case access.CodeNotFound:
					s.Request = fmt.Sprintf("01900000-0000-7000-8000-00000000%04x", 0xf000+n)
				case access.CodeMismatch:
					s.Serial = 1000 + n
				}
			})
			nothing := func(string) []access.Resource { return nil } // it was moved
			if err := w.log.Report(ctx, st, nothing); access.CodeOf(err) != code {
				t.Fatalf("%v, want %s", err, code)
			}
		}
	}
	count := func(codes ...access.Code) (n int) {
		for rec, err := range w.log.Events(ctx, Query{Type: SessionRefused}) {
			if err != nil {
				t.Fatal(err)
			}
			if slices.Contains(codes, rec.Event.Code) {
				n++
			}
		}
		return n
	}
	forbidden := func(by string, n int) {
		for range n {
			r, rst := w.ask("alice")
			yes := w.decision("bob", access.Approve, r, rst)
			w.accept("bob", r, yes)
			cred = w.grant(r, access.Evidence{Request: rst, Decisions: []access.Statement{yes}})
			made(by, access.CodeForbidden, 0)
		}
	}
	forbidden("agent", maxRefused+5)
	if n := count(access.CodeForbidden); n != maxRefused {
		t.Errorf("%d forbidden ones are recorded, not %d", n, maxRefused)
	}
	flood := func(by string) {
		for n := range uint64(maxRefused/2 + 10) {
			made(by, access.CodeMismatch, n)
			made(by, access.CodeNotFound, n)
		}
	}
	flood("agent")
	if n := count(access.CodeNotFound, access.CodeMismatch); n != maxRefused {
		t.Errorf("%d others are recorded, not %d", n, maxRefused)
	}
	j, st := w.join("carol")
	if _, err := w.enrol(j, st, "agent2", "hostkey2"); err != nil { // anew
		t.Fatal(err)
	}
	flood("agent2")
	forbidden("agent2", 1)
	if n, f := count(access.CodeNotFound, access.CodeMismatch), count(access.CodeForbidden); n != 2*maxRefused || f != maxRefused+1 {
		t.Errorf("after it enrolled anew %d and %d are recorded, not %d and %d", n, f, 2*maxRefused, maxRefused+1)
	}
	if n := w.count(Query{Request: cred.Handle.Request, Type: "session."}); n != 0 {
		t.Errorf("%d events under the request", n)
	}
	if report := w.verify(VerifyOptions{}); !report.OK {
		t.Error(report.Problems)
	}
}

func TestVisits(t *testing.T) {
	w, r, cred := visited(t)
	ctx := context.Background()
	say := func(session, event, why string) time.Time {
		st := w.report("agent", cred, func(s *access.Session) { s.Session, s.Event, s.Why = session, event, why })
		if err := w.log.Report(ctx, st, w.on); err != nil {
			t.Fatal(err)
		}
		return w.now
	}
	visit := Visit{Host: "web-1", Request: r.ID, Requester: "alice", Resource: "ssh/web-1", Login: "deploy", Source: "10.0.0.1:4711", Serial: 1}
	a, b, c := visit, visit, visit
	a.Session, b.Session, c.Session = "a", "b", "c"
	a.Opened = say("a", access.SessionOpened, "")
	b.Opened = say("b", access.SessionOpened, "")
	c.Opened = say("c", access.SessionOpened, "")
	a.Closed = say("a", access.SessionClosed, "")
	b.Closed, b.Ended, b.Why = say("b", access.SessionEnded, "released by alice"), true, "released by alice"
	say("b", access.SessionClosed, "")
	w.end(End{Request: r.ID, State: access.StateReleased})

	got, err := w.log.Visits(ctx, Query{Request: r.ID})
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]Visit{a, b, c}, got); d != "" {
		t.Error(d)
	}
	if got, err := w.log.Visits(ctx, Query{Actor: "web-2"}); err != nil || len(got) != 0 {
		t.Errorf("on another host: %v, %v", got, err)
	}
	if report := w.verify(VerifyOptions{}); !report.OK {
		t.Error(report.Problems)
	}
	// The proof of the request has the reports, and says whose key they are by.
	proof, err := w.log.Prove(ctx, r.ID)
	if err != nil {
		t.Fatal(err)
	}
	report, err := checkProof(t, proof, w.public)
	if err != nil || !report.OK {
		t.Errorf("proof: %v, %v", report.Problems, err)
	}
}

// What a host has not said, or not been let say, is found.
func TestVerifyFindsForgedHostEvents(t *testing.T) {
	for _, row := range []struct {
		name  string
		forge func(w *world, cred access.Credential)
		want  string
	}{
		{"enrolled by somebody who may not", func(w *world, _ access.Credential) {
			j, st := w.join("bob")
			if _, err := w.enrol(j, st, "agent3", "hostkey3"); err != nil {
				w.t.Fatal(err)
			}
		}, "bob may not take hosts in"},
		{"enrolled with a token that was over", func(w *world, _ access.Credential) {
			j, st := w.join("carol")
			w.now = j.Until
			if _, err := w.enrol(j, st, "agent3", "hostkey3"); err != nil {
				w.t.Fatal(err)
			}
		}, "the join token was good until"},
		{"report by another key", func(w *world, cred access.Credential) {
			st := w.report("bob", cred, nil)
			w.record(Event{Type: SessionOpened, Request: cred.Handle.Request, Step: "session:x", Actor: "web-1", Statement: &st})
		}, "signed by another key than the one that web-1 enrolled with"},
		{"report turned round", func(w *world, cred access.Credential) {
			st := w.report("agent", cred, nil)
			w.record(Event{Type: SessionClosed, Request: cred.Handle.Request, Step: "session:x", Actor: "web-1", Statement: &st})
		}, "the report is of request"},
		{"refused what was right", func(w *world, cred access.Credential) {
			w.refuse(w.report("agent", cred, nil), access.CodeMismatch)
		}, "which it isn't by what is in the log"},
		{"refused as not there what was", func(w *world, cred access.Credential) {
			w.refuse(w.report("agent", cred, func(s *access.Session) { s.Serial++ }), access.CodeNotFound)
		}, "which it isn't by what is in the log"},
		{"refused for another reason", func(w *world, cred access.Credential) {
			w.refuse(w.report("agent", cred, func(s *access.Session) { s.Serial++ }), access.CodeStale)
		}, "which it isn't by what is in the log"},
		{"refused what the host hasn't said", func(w *world, cred access.Credential) {
			w.refuse(w.report("agent2", cred, func(s *access.Session) { s.Serial++ }), access.CodeMismatch)
		}, "signed by another key than the one that web-1 enrolled with"},
		{"refused, and in the history of a request", func(w *world, cred access.Credential) {
			st := w.report("agent", cred, func(s *access.Session) { s.Serial++ })
			w.record(Event{Type: SessionRefused, Request: cred.Handle.Request, Step: "refused:x", Actor: "web-1", Code: access.CodeMismatch, Why: "x", Statement: &st})
		}, "not as one about a refused report is"},
		{"certificate of a user's", func(w *world, cred access.Credential) {
			h, _, err := w.log.Host(context.Background(), "web-1")
			if err != nil {
				w.t.Fatal(err)
			}
			h.Certificate = cred.Certificate
			if err := w.log.Certified(context.Background(), h, 9); err != nil {
				w.t.Fatal(err)
			}
		}, "the certificate is not a host's"},
		{"table of hosts", func(w *world, _ access.Credential) {
			w.edit("UPDATE hosts SET agent_key = 'x'")
		}, "host web-1 is not as the events say"},
		{"serials of hosts put back", func(w *world, _ access.Credential) {
			w.edit("DELETE FROM serials WHERE ca NOT LIKE '" + w.ca.Fingerprint() + "%'")
		}, "stand at 0, but 1 was given"},
		{"host removed", func(w *world, _ access.Credential) {
			w.edit("DELETE FROM hosts")
		}, "there are 0 hosts, the events make 1"},
	} {
		t.Run(row.name, func(t *testing.T) {
			w, _, cred := visited(t)
			row.forge(w, cred)
			report := w.verify(VerifyOptions{})
			if report.OK || !strings.Contains(report.Problems[0].What, row.want) {
				t.Errorf("problems %v, want %q", report.Problems, row.want)
			}
		})
	}
}

// refuse records that a report of web-1's was refused.
func (w *world) refuse(st access.Statement, code access.Code) {
	w.t.Helper()
	report, err := statement.ParseSession([]byte(st.Payload))
	if err != nil {
		w.t.Fatal(err)
	}
	h, _, err := w.log.Host(context.Background(), "web-1")
	if err != nil {
		w.t.Fatal(err)
	}
	w.record(Event{Type: SessionRefused, Step: refusedStep(h.Token, code, report), Actor: "web-1", Code: code, Why: "x", Statement: &st})
}

func checkProof(t *testing.T, p Proof, key string) (Report, error) {
	t.Helper()
	data, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	return CheckProof(data, key)
}
