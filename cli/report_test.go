package cli

import (
	"bytes"
	"database/sql"
	"encoding/csv"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"hallpass/access"
	"hallpass/audit"
	"hallpass/evidence"
	issuing "hallpass/grant"
	"hallpass/statement"
)

const reportPolicy = `hosts: {enroll: [sre]}
` + testPolicy + `  - name: slow
    when: resource.labels.env == "prod" && request.login == "root"
    approvals:
      - {count: 1, from: [sre]}
    escalate:
      - {after: 10m, ask: [dev]}
  - name: deploys
    when: resource.labels.env == "prod" && request.login == "deploy"
    approvals:
      - {count: 1, from: [sre]}
`

// history is a world whose audit log is being written, by a real issuer and
// with statements that their owners have signed.
type history struct {
	*world
	log    *audit.Log
	issuer *issuing.Issuer
	book   *evidence.Rulebook
	ids    int
}

func newHistory(t *testing.T) *history {
	t.Helper()
	w := newWorld(t)
	w.now.t = time.Date(2031, 3, 3, 9, 0, 0, 0, time.UTC) // a Monday
	file := func(name string) string { return filepath.Join(w.dir, name) }
	users, err := os.ReadFile(file("directory.yaml"))
	check(t, err)
	h := &history{world: w}
	h.book, err = evidence.NewRulebook([]byte(reportPolicy), users, []byte(testCatalog))
	check(t, err)
	_, err = audit.CreateKey(file("audit.key"), file("audit.pub"), "audit.example.com")
	check(t, err)
	key, err := audit.ReadKey(file("audit.key"))
	check(t, err)
	h.log, err = audit.Open(t.Context(), audit.Options{Database: file("audit.db"), Key: key, Now: w.now.Now})
	check(t, err)
	t.Cleanup(func() { _ = h.log.Close() })
	check(t, h.log.RecordRulebook(t.Context(), h.book))
	h.issuer = &issuing.Issuer{
		Kinds: map[string]issuing.Kind{"ssh": &issuing.SSH{
			CA: w.service.ca, KRL: &issuing.KRL{CA: w.service.ca, Store: h.log, Now: w.now.Now},
		}},
		Rulebook: func() *evidence.Rulebook { return h.book }, Ledger: h.log, Now: w.now.Now,
	}
	return h
}

func (h *history) header(typ access.Type, who string) access.Header {
	h.ids++
	return access.Header{Type: typ, ID: fmt.Sprintf("0195f%03x-0000-7000-8000-000000000000", h.ids), Signer: who, Time: statement.Time(h.now.Now())}
}

func (h *history) sign(who string, payload any) access.Statement {
	h.t.Helper()
	st, err := statement.Sign(h.keys[who], payload)
	check(h.t, err)
	return st
}

func (h *history) append(e audit.Event) {
	h.t.Helper()
	_, err := h.log.Append(h.t.Context(), e)
	check(h.t, err)
}

// ask records a request and its ruling, as Decide does.
func (h *history) ask(who, resource, login, reason string) access.Evidence {
	h.t.Helper()
	r := access.Request{
		Header: h.header(access.TypeRequest, who), Resource: resource, Login: login, Duration: 600, Reason: reason,
		PublicKey: statement.MarshalKey(h.keys[who].PublicKey()),
	}
	st := h.sign(who, r)
	digests := h.book.Digests()
	h.append(audit.Event{Type: audit.RequestReceived, Request: r.ID, RequestHash: st.Hash(), Step: "received", Actor: who, Requester: who,
		Resource: resource, Statement: &st, Digests: &digests})
	standing, err := h.book.Judge(access.Evidence{Request: st}, h.now.Now(), evidence.Known{})
	check(h.t, err)
	h.append(audit.Event{Type: audit.RequestRuled, Request: r.ID, RequestHash: st.Hash(), Step: "ruled", Ruling: &standing.Ruling, Why: standing.Why})
	return access.Evidence{Request: st}
}

func (h *history) idOf(ev access.Evidence) string {
	r, err := statement.ParseRequest([]byte(ev.Request.Payload))
	check(h.t, err)
	return r.ID
}

// decide adds somebody's decision after a while.
func (h *history) decide(ev access.Evidence, who string, verdict access.Verdict, after time.Duration) access.Evidence {
	h.t.Helper()
	h.now.advance(after)
	st := h.sign(who, access.Decision{
		Header: h.header(access.TypeDecision, who), Request: h.idOf(ev), RequestHash: ev.Request.Hash(), Verdict: verdict,
	})
	digests := h.book.Digests()
	if verdict == access.Deny {
		h.end(ev, access.StateDenied, who, &st)
		return ev
	}
	h.append(audit.Event{Type: audit.DecisionAccepted, Request: h.idOf(ev), Step: "decision:" + st.Hash(), Actor: who, Statement: &st, Digests: &digests})
	return access.Evidence{Request: ev.Request, Decisions: append(slices.Clone(ev.Decisions), st)}
}

func (h *history) issue(ev access.Evidence) access.Credential {
	h.t.Helper()
	h.now.advance(time.Second)
	c, err := h.issuer.Issue(h.t.Context(), ev)
	check(h.t, err)
	return c
}

func (h *history) end(ev access.Evidence, state access.State, by string, st *access.Statement) {
	h.t.Helper()
	digests := h.book.Digests()
	e := audit.End{Request: h.idOf(ev), State: state, Why: string(state), By: by, Statement: st}
	if st != nil {
		e.Digests = &digests
	}
	_, err := h.log.End(h.t.Context(), e)
	check(h.t, err)
}

// stop has somebody end it with a signed word.
func (h *history) stop(ev access.Evidence, state access.State, who string, typ access.Type) {
	h.t.Helper()
	st := h.sign(who, access.Stop{Header: h.header(typ, who), Request: h.idOf(ev), RequestHash: ev.Request.Hash(), Reason: "enough"})
	h.end(ev, state, who, &st)
}

// enrol takes web-1 in.
func (h *history) enrol() {
	h.t.Helper()
	j := access.Join{Header: h.header(access.TypeHost, "bob"), Resource: "ssh/web-1", Until: h.now.Now().Add(time.Hour)}
	st := h.sign("bob", j)
	digests := h.book.Digests()
	agent := statement.MarshalKey(h.keys["mallory"].PublicKey())
	_, err := h.log.Enrol(h.t.Context(), audit.Host{Name: "web-1", Token: j.ID, AgentKey: agent, HostKey: agent},
		audit.Event{Time: h.now.Now(), Actor: "bob", Resource: j.Resource, Statement: &st, Digests: &digests})
	check(h.t, err)
}

// visit has web-1 tell of a session.
func (h *history) visit(c access.Credential, login, session string) {
	h.t.Helper()
	cert, err := parseCertificate(c.Certificate)
	check(h.t, err)
	for _, event := range []string{access.SessionOpened, access.SessionClosed} {
		h.now.advance(time.Second)
		st := h.sign("mallory", access.Session{
			Header: h.header(access.TypeSession, "web-1"), Event: event, Request: c.Handle.Request, Serial: c.Handle.Serial, KeyID: cert.KeyId, Login: login,
			Source: "10.0.0.9:4711", Session: session,
		})
		check(h.t, h.log.Report(h.t.Context(), st, func(host string) []access.Resource {
			r, _ := h.book.Catalog.Resource("ssh/" + host)
			return h.book.On(r)
		}))
	}
}

// live is a few days on which everything happens that a report tells of.
func (h *history) live() {
	h.t.Helper()
	// Before anything tells of sessions.
	ev := h.decide(h.ask("alice", "ssh/web-1", "deploy", "=HYPERLINK(\"http://evil\")"), "bob", access.Approve, time.Minute)
	h.issue(ev)
	h.now.advance(10 * time.Minute)
	h.end(ev, access.StateExpired, "", nil)
	h.enrol()
	for i, who := range []string{"alice", "mallory"} {
		h.now.advance(24 * time.Hour)
		ev = h.decide(h.ask(who, "ssh/web-1", "deploy", "<script>alert(1)</script>"), "bob", access.Approve, time.Duration(i+2)*time.Minute)
		c := h.issue(ev)
		if i == 0 {
			h.visit(c, "deploy", "s1")
			h.visit(c, "deploy", "s2")
		}
		h.now.advance(time.Minute)
		h.stop(ev, access.StateReleased, who, access.TypeRelease)
	}
	h.now.advance(24 * time.Hour)
	h.decide(h.ask("alice", "ssh/web-1", "root", "all of it"), "carol", access.Deny, time.Minute)
	ev = h.ask("alice", "ssh/web-1", "root", "please")
	h.now.advance(10 * time.Minute)
	digests := h.book.Digests()
	h.append(audit.Event{Type: audit.RequestEscalated, Request: h.idOf(ev), Step: "escalated:10m", Digests: &digests,
		Asked: &access.Asking{Step: access.Step{After: 600, Ask: []string{"dev"}}, Time: statement.Time(h.now.Now())}})
	h.issue(h.decide(ev, "bob", access.Approve, time.Minute))
	h.stop(ev, access.StateRevoked, "bob", access.TypeRevoke)
	ev = h.ask("mallory", "ssh/web-1", "root", "hello?")
	h.now.advance(time.Hour)
	h.end(ev, access.StateTimedOut, "", nil)
	ev = h.ask("mallory", "ssh/vault", "root", "give me that")
	h.end(ev, access.StateDenied, "", nil)
	h.now.advance(time.Hour)
	ev = h.ask("mallory", "ssh/test-1", "tester", "")
	h.issue(ev)
	ev = h.ask("alice", "ssh/web-1", "deploy", "never mind")
	h.stop(ev, access.StateCancelled, "alice", access.TypeCancel)
	h.ask("alice", "ssh/web-1", "root", "still waits")
	h.now.advance(time.Minute)
}

var reportMasks = []struct {
	what *regexp.Regexp
	by   string
}{
	{regexp.MustCompile(`audit\.example\.com(\+|&#43;)[0-9a-f]{8}`), "audit.example.com${1}HASH"}, // the second as HTML
	{regexp.MustCompile(`(audit\.example\.com(?: |\\n)\d+(?: |\\n))[A-Za-z0-9+/]{43}=`), "${1}ROOT"},
	{regexp.MustCompile(`(audit\.example\.com(?: |\\n)\d+(?: |\\n))[A-Za-z0-9&#;/]{43,80}=`), "${1}ROOT"}, // as HTML
	{regexp.MustCompile(`— audit.example.com [A-Za-z0-9+/=]+`), "SIGNATURE"},
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	for _, m := range reportMasks {
		got = m.what.ReplaceAllString(got, m.by)
	}
	path := filepath.Join("testdata", "report", name)
	if *update {
		check(t, os.MkdirAll(filepath.Dir(path), 0o750))
		check(t, os.WriteFile(path, []byte(got), 0o600))
	}
	want, err := os.ReadFile(path)
	check(t, err)
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s is not what it was (write it anew with -update):\n%s", path, diff)
	}
}

// A report from a real log, in every format, byte for byte.
func TestReportAccess(t *testing.T) {
	h := newHistory(t)
	h.live()
	for name, line := range map[string]string{
		"access.txt": "report access", "access.csv": "report access -o csv", "access.json": "report access --output json", "access.html": "-o json report access --output html",
	} {
		golden(t, name, h.must(line).stdout)
	}
	if a, b := h.must("report access --output json").stdout, h.must("-o json report access").stdout; a != b {
		t.Error("-o json in front says something else")
	}

	// A time chooses: by when it was asked for, or while it was open.
	of := func(line string) audit.Review {
		var review audit.Review
		check(t, json.Unmarshal([]byte(h.must("report access -o json "+line).stdout), &review))
		return review
	}
	first := of("--from 2031-03-03T09:05:00Z --to 2031-03-04")
	if len(first.Requests) != 1 || first.Requests[0].Asked.Day() != 3 || first.Counts.Held != 6*60+1 || len(first.Candidates) != 0 {
		t.Errorf("while the first grant ran: %+v", first)
	}
	if none := of("--from 2020-01-01 --to 2021-01-01"); len(none.Requests) != 0 || none.Users == nil {
		t.Errorf("before there was anything: %+v", none)
	}
	if r := h.must("report access --from 2020-01-01 --to 2021-01-01 --output html"); !strings.Contains(r.stdout, "Nobody had anything.") {
		t.Error(r.stdout)
	}
}

// What others wrote can't get out of the report that it is in.
func TestReportIsHarmless(t *testing.T) {
	h := newHistory(t)
	h.live()
	rows, err := csv.NewReader(strings.NewReader(h.must("report access -o csv").stdout)).ReadAll()
	check(t, err)
	for _, row := range rows {
		for _, cell := range row {
			if cell != "" && strings.ContainsRune("=+-@\t\r|%", rune(cell[0])) {
				t.Errorf("a spreadsheet would run %q", cell)
			}
		}
	}
	page := h.must("report access -o html").stdout
	for _, bad := range []string{"<script", "javascript:", "http://", "https://", "onload", "<link", "<img", "@import", "url("} {
		if strings.Contains(strings.ReplaceAll(page, "http://evil", ""), bad) {
			t.Errorf("the page has %s in it", bad)
		}
	}
	if !strings.Contains(page, "&lt;script&gt;alert(1)&lt;/script&gt;") {
		t.Error("the reason is not shown")
	}
	// Each plot is well formed by itself.
	plots := regexp.MustCompile(`(?s)<svg.*?</svg>`).FindAllString(page, -1)
	if len(plots) != 4 {
		t.Fatalf("%d plots", len(plots))
	}
	for _, plot := range plots {
		for d := xml.NewDecoder(bytes.NewReader([]byte(plot))); ; {
			_, err := d.Token()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatalf("%v in\n%s", err, plot)
			}
		}
	}
}

// A report says why there was no access, and not only that.
func TestReportSaysWhyNot(t *testing.T) {
	h := newHistory(t)
	h.live()
	ev := h.ask("mallory", "ssh/vault", "root", "once more")
	_, err := h.log.End(t.Context(), audit.End{Request: h.idOf(ev), State: access.StateDenied, Why: "no rule allows this"})
	check(t, err)
	h.now.advance(time.Minute)
	text := h.must("report access").stdout
	for _, want := range []string{"  denied     policy  no rule allows this  once more\n", "  denied     carol   -                    all of it\n", "  cancelled  alice   -                    never mind\n"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	if page, want := h.must("report access -o html").stdout, `>denied</td><td data-is="By" class="who">policy</td><td data-is="Because" class="why">no rule allows this</td><td data-is="Why" class="why">once more</td>`; !strings.Contains(page, want) {
		t.Errorf("no %s in\n%s", want, page)
	}
}

func TestReportRefuses(t *testing.T) {
	h := newHistory(t)
	h.live()
	for _, row := range []struct {
		line string
		code int
		want string
	}{
		{"report access --output pdf", ExitUsage, "--output is pdf, not table, csv, json or html"},
		{"report access --from 2031-01-01 --to 2030-01-01", ExitUsage, "--from is not before --to"},
		{"report access --from whenever", ExitUsage, "--from whenever is not a time"},
		{"report access --to 2031-03-09", ExitUsage, "--to 2031-03-09 is in the future"},
		{"report access --from +2h", ExitUsage, "--from +2h is not a time"},
		{"audit log --from +2h", ExitUsage, "--from +2h is not a time"},
		{"report access now", ExitUsage, "unexpected argument now"},
	} {
		if r := h.run(row.line); r.code != row.code || !strings.Contains(r.stderr, row.want) || r.stdout != "" {
			t.Errorf("%s: exit %d, %s%s", row.line, r.code, r.stdout, r.stderr)
		}
	}
	// One changed byte in the log, and there is no report in any format.
	check(t, h.log.Close())
	db, err := sql.Open("sqlite", filepath.Join(h.dir, "audit.db"))
	check(t, err)
	_, err = db.Exec(`UPDATE events SET leaf = CAST(replace(CAST(leaf AS TEXT), '"actor":"carol"', '"actor":"derek"') AS BLOB) WHERE actor = 'carol'`)
	check(t, err)
	check(t, db.Close())
	for _, format := range []string{"table", "csv", "json", "html"} {
		r := h.run("report access --output " + format)
		if r.code != ExitError || r.stdout != "" || !strings.Contains(r.stderr, "no report: the audit log does not verify: event") {
			t.Errorf("%s of a log that was changed: exit %d, %s%s", format, r.code, r.stdout, r.stderr)
		}
	}
}

// What a look-up said is shown to those who decide and to auditors, and can't
// steer their terminals: another system wrote it.
func TestShowsWhatWasLookedUp(t *testing.T) {
	h := newHistory(t)
	facts := access.Facts{
		"ticket": {Value: json.RawMessage("{\"state\":\"open\u202e\u009b31m\"}"), Time: h.now.Now()},
		"oncall": {Failed: "no answer within 3s", Time: h.now.Now()},
	}
	id := h.world.ask("ssh/web-1 --as deploy --reason fix_it")
	h.service.requests[id].Standing.Ruling.Context = facts
	ev := access.Evidence{Request: h.service.requests[id].Evidence.Request}
	digests := h.book.Digests()
	h.append(audit.Event{Type: audit.RequestRuled, Request: id, RequestHash: ev.Request.Hash(), Step: "ruled",
		Ruling: &access.Ruling{Effect: access.EffectAsk, Why: "needs somebody", Digests: digests, Context: facts, At: h.now.Now()}})
	for _, line := range []string{"show " + id, "audit show " + id} {
		r := h.must(line)
		for _, want := range []string{"look-up oncall", "failed: no answer within 3s", "look-up ticket", `{"state":"open`} {
			if !strings.Contains(r.stdout, want) {
				t.Errorf("%s doesn't show %q:\n%s", line, want, r.stdout)
			}
		}
		if strings.ContainsAny(r.stdout, "\u202e\u009b\x1b") {
			t.Errorf("%s lets another system steer the terminal: %q", line, r.stdout)
		}
	}
}
