package audit

import (
	"bytes"
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"hallpass/access"
)

// proofOf is the proof of the granted request of a whole life.
func proofOf(t testing.TB) (*world, Proof) {
	t.Helper()
	w := newWorld(t)
	granted, _ := w.live()
	p, err := w.log.Prove(context.Background(), granted.ID)
	if err != nil {
		t.Fatal(err)
	}
	return w, p
}

func encodeProof(t testing.TB, p Proof) []byte {
	t.Helper()
	data, err := p.MarshalIndent()
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestProof(t *testing.T) {
	w, p := proofOf(t)
	report, err := CheckProof(encodeProof(t, p), w.public)
	if err != nil || !report.OK {
		t.Fatalf("%v %v", err, report.Problems)
	}
	if report.Events != 9 || report.Issued != 1 || report.Files != 3 || report.Size != atAll {
		t.Errorf("report %+v", report)
	}
	if g := report.Grant; g == nil || g.Requester != "alice" || g.ApprovedBy[0] != "bob" || g.Ended != access.StateReleased {
		t.Errorf("grant %+v", g)
	}
	if _, err := w.log.Prove(context.Background(), "nobody's"); access.CodeOf(err) != access.CodeNotFound {
		t.Errorf("proof of an unknown request: %v", err)
	}
	_, other := testKey(t)
	if _, err := CheckProof(encodeProof(t, p), other); access.CodeOf(err) != access.CodeUnverified {
		t.Errorf("another log's key: %v", err)
	}
	if _, err := CheckProof(encodeProof(t, p), w.private); err == nil || strings.Contains(err.Error(), "PRIVATE+KEY") {
		t.Errorf("the private key: %v", err)
	}
}

func TestProofTampering(t *testing.T) {
	at := func(p *Proof, typ string) *Proven {
		for i := range p.Events {
			if strings.Contains(p.Events[i].Leaf, `"type":"`+typ+`"`) {
				return &p.Events[i]
			}
		}
		t.Fatalf("no %s", typ)
		return nil
	}
	for _, row := range []struct {
		name   string
		tamper func(p *Proof)
		want   string
	}{
		{"leaf changed", func(p *Proof) {
			x := at(p, CredentialIssued)
			x.Leaf = strings.Replace(x.Leaf, "disk is full", "disk is fuII", 1)
		}, "it is not in the log"},
		{"index changed", func(p *Proof) { p.Events[len(p.Events)-1].Index++ }, "it is not in the log"},
		{"path cut", func(p *Proof) { x := &p.Events[3]; x.Path = x.Path[1:] }, "it is not in the log"},
		{"path of another event", func(p *Proof) { p.Events[3].Path = p.Events[4].Path }, "it is not in the log"},
		{"event twice", func(p *Proof) { p.Events = slices.Insert(p.Events, 4, p.Events[4]) }, "out of order"},
		{"order changed", func(p *Proof) { p.Events[3], p.Events[4] = p.Events[4], p.Events[3] }, "out of order"},
		{"negative index", func(p *Proof) { p.Events[0].Index = -1 }, "out of order"},
		{"index past the checkpoint", func(p *Proof) { p.Events[len(p.Events)-1].Index = 14 }, "not covered by the checkpoint"},
		{"preparation left out", func(p *Proof) {
			p.Events = slices.DeleteFunc(p.Events, func(x Proven) bool { return strings.Contains(x.Leaf, CredentialPrepared) })
		}, "never prepared"},
		{"policy left out", func(p *Proof) { p.Events = p.Events[1:] }, "which is not in the log before it"},
		{"request's events left out", func(p *Proof) { p.Events = p.Events[:3] }, "no event in the proof is about"},
		{"said to be of another request", func(p *Proof) { p.Request = "other" }, "not about the request that the proof is of"},
	} {
		t.Run(row.name, func(t *testing.T) {
			w, p := proofOf(t)
			row.tamper(&p)
			report, err := CheckProof(encodeProof(t, p), w.public)
			if err != nil {
				t.Fatal(err)
			}
			if report.OK || !strings.Contains(report.OneLine(), row.want) {
				t.Errorf("%s, want %q", report.OneLine(), row.want)
			}
		})
	}
}

func TestParseProofIsStrict(t *testing.T) {
	_, p := proofOf(t)
	good := string(encodeProof(t, p))
	for _, row := range []struct{ name, data string }{
		{"empty", ""},
		{"not JSON", "proof"},
		{"trailing data", good + "{}"},
		{"unknown field", strings.Replace(good, `"format"`, `"more": 1, "format"`, 1)},
		{"another format", strings.Replace(good, proofFormat, "hallpass-audit-proof/2", 1)},
		{"no events", `{"format":"` + proofFormat + `","request":"r","checkpoint":"","events":[]}`},
		{"short hash", `{"format":"` + proofFormat + `","request":"r","checkpoint":"","events":[{"index":0,"leaf":"","path":["AAAA"]}]}`},
	} {
		if _, err := ParseProof([]byte(row.data)); access.CodeOf(err) != access.CodeMalformed {
			t.Errorf("%s: %v, want malformed", row.name, err)
		}
	}
}

func TestQueries(t *testing.T) {
	w := newWorld(t)
	granted, denied := w.live()
	first, err := w.log.Event(context.Background(), 0)
	if err != nil {
		t.Fatal(err)
	}
	sixth, err := w.log.Event(context.Background(), 6)
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct {
		name string
		q    Query
		want string
	}{
		{"all", Query{}, "[0 1 2 3 4 5 6 7 8 9 10 11 12 13]"},
		{"request", Query{Request: granted.ID}, "[3 4 5 6 7 8]"},
		{"requester", Query{Requester: "dave"}, "[9 10 11 12 13]"},
		{"actor", Query{Actor: "bob"}, "[5 11 12]"},
		{"resource", Query{Resource: "ssh/web-1", Request: denied.ID}, "[9 10 11 12 13]"},
		{"kind", Query{Resource: "ssh/", Limit: 2}, "[3 4]"},
		{"kind of nothing", Query{Resource: "db/"}, "[]"},
		{"type", Query{Type: CredentialIssued}, "[7]"},
		{"family of types", Query{Type: "credential."}, "[6 7]"},
		{"first two", Query{Limit: 2}, "[0 1]"},
		{"last two", Query{Limit: 2, Last: true}, "[12 13]"},
		{"after", Query{After: 12}, "[12 13]"},
		{"to, exclusive", Query{To: sixth.Event.Time}, "[0 1 2 3 4 5]"},
		{"from, inclusive", Query{From: sixth.Event.Time}, "[6 7 8 9 10 11 12 13]"},
		{"from just after it and the next", Query{From: sixth.Event.Time.Add(time.Nanosecond)}, "[8 9 10 11 12 13]"},
		{"nothing before", Query{To: first.Event.Time}, "[]"},
		{"quotes are data", Query{Requester: "' OR 1=1 --"}, "[]"},
	} {
		got := []int64{}
		for rec, err := range w.log.Events(context.Background(), row.q) {
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, rec.Index)
		}
		if fmt.Sprint(got) != row.want {
			t.Errorf("%s: %v, want %s", row.name, got, row.want)
		}
	}
	for _, row := range []struct {
		prefix string
		want   access.Code
	}{{granted.ID, ""}, {granted.ID[:10], access.CodeMismatch}, {"ffff", access.CodeNotFound}} {
		if _, err := w.log.FindRequest(context.Background(), row.prefix); access.CodeOf(err) != row.want {
			t.Errorf("FindRequest(%s): %v, want %q", row.prefix, err, row.want)
		}
	}
}

func TestExport(t *testing.T) {
	w := newWorld(t)
	w.live()
	w.record(Event{Type: StatementRefused, Actor: "=cmd|' /C calc'!A0", Why: "a \"quoted\", line\nand another", Request: "+1"})
	ctx := context.Background()
	var lines, table bytes.Buffer
	if err := w.log.ExportJSONLines(ctx, &lines, Query{}); err != nil {
		t.Fatal(err)
	}
	n := int64(0)
	for line := range strings.Lines(lines.String()) {
		var got struct {
			Index int64
			Event json.RawMessage
		}
		if err := json.Unmarshal([]byte(line), &got); err != nil || got.Index != n {
			t.Fatalf("line %d: %v", n, err)
		}
		rec, err := w.log.Event(ctx, n)
		if err != nil || !bytes.Equal(rec.Leaf, got.Event) {
			t.Errorf("event %d is not exported byte for byte (%v)", n, err)
		}
		n++
	}
	if n != atAll+1 {
		t.Errorf("%d lines", n)
	}
	if err := w.log.ExportCSV(ctx, &table, Query{After: atIssued}); err != nil {
		t.Fatal(err)
	}
	rows, err := csv.NewReader(&table).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	last := rows[len(rows)-1]
	if last[3] != "'+1" || last[5] != "'=cmd|' /C calc'!A0" || last[9] != "a \"quoted\", line?and another" {
		t.Errorf("last row %q", last)
	}
	if issued := rows[1]; issued[2] != CredentialIssued || issued[10] != "ssh" || issued[11] != "1" || issued[13] != "web-1/deploy" {
		t.Errorf("issued row %q", issued)
	}
}

func TestHarmless(t *testing.T) {
	for _, row := range []struct{ in, want string }{
		{"", ""}, {"a=b", "a=b"}, {"=1", "'=1"}, {"+1", "'+1"}, {"-1", "'-1"}, {"@x", "'@x"}, {"\tx", "'\tx"}, {"\rx", "'\rx"}, {" =1", " =1"}, {"'x", "'x"},
	} {
		if got := Harmless(row.in); got != row.want {
			t.Errorf("%q: %q, want %q", row.in, got, row.want)
		}
	}
}

// odd are texts that a careless log would trip over.
var odd = []string{"\x00", "a\x00b", "\xff", "\uFFFD", "\xed\xa0\x80", "<&>\u2028", "'; DROP TABLE events; --", strings.Repeat("ü", 60) + "\xc3"}

func TestOddTextsAreRecordedAndVerify(t *testing.T) {
	w := newWorld(t)
	for _, s := range odd {
		e := Event{Type: CredentialRefused, Request: s, Step: s, Actor: s, Requester: s, Resource: s, Why: s, Code: access.Code(s), Oversized: s,
			Statement: &access.Statement{Payload: s, Signature: s}}
		first := w.record(e)
		if again := w.record(e); again != first {
			t.Errorf("%q: indexes %d and %d, want the same", s, first, again)
		}
	}
	if r := w.verify(VerifyOptions{}); !r.OK || r.Size != 3+int64(len(odd))-3 {
		// What isn't UTF-8 becomes U+FFFD, and so does NUL, so four of them are one event.
		t.Errorf("%d events, %v", r.Size, r.Problems)
	}
}

const allText = `{"v":1,"time":"2031-05-06T07:08:09.12Z","type":"request.denied","request":"r1","request_hash":"00","step":"ended","actor":"bob",` +
	`"requester":"alice","resource":"ssh/web-1","state":"denied","code":"forbidden","why":"[{'no, it isn't'}]: 1 / 2 = 0.5 ~!"}`

// What is read the short way, is what is read the long way too. These are on each
// side of what is; FuzzParseEvent looks for others.
func TestParseText(t *testing.T) {
	for _, row := range []struct {
		old, new string // in allText
		short    bool
		ok       bool
	}{
		{"", "", true, true},
		{`"state":"denied","code":"forbidden",`, "", true, true},
		{`,"request":"r1","request_hash":"00","step":"ended","actor":"bob","requester":"alice","resource":"ssh/web-1"`, "", true, true},
		{":09.12Z", ":09Z", true, true},
		{":09.12Z", ":09.123456Z", true, true},
		{":09.12Z", ":09.120Z", false, false},
		{":09.12Z", ":09,12Z", false, false},
		{"T07:", "T7:", false, false},
		{":09.12Z", ":09.12+00:00", false, false},
		{":09.12Z", ":09.12+02:00", false, true},
		{":09.12Z", ":09.12", false, false},
		{`"time":"2031-05-06T07:08:09.12Z",`, "", false, false},
		{"2031-", "1031-", false, false},
		{`"v":1`, `"v":2`, false, false},
		{`"v":1`, `"v":10`, false, false},
		{"request.denied", "request.unknown", false, false},
		{"request.denied", RequestEscalated, false, false},
		{`"actor":"bob",`, `"actor":"",`, false, false},
		{`"actor":"bob",`, `"actor":"bob","actor":"bob",`, false, false},
		{`"actor":"bob",`, `"actor":"bob", `, false, false},
		{`"actor":"bob",`, `"actor":7,`, false, false},
		{`"actor":"bob",`, `"Actor":"bob",`, false, false},
		{`"actor":"bob","requester":"alice"`, `"requester":"alice","actor":"bob"`, false, false},
		{"bob", `b\u006fb`, false, false},
		{"bob", `b\"b`, false, true},
		{"bob", `b\\b`, false, true},
		{"bob", "böb", false, true},
		{"bob", "b\u007fb", false, true},
		{"bob", "b\tb", false, false},
		{"bob", "b\x00b", false, false},
		{"bob", "b\xffb", false, false},
		{"bob", "b<b", false, false},
		{"bob", `b\u003cb`, false, true},
		{"bob", "b&b", false, false},
		{"bob", "b>b", false, false},
		{`"why":`, `"locks":1,"why":`, false, false},
		{`~!"}`, `~!","locks":1}`, false, true},
		{`~!"}`, `~!","oversized":"00"}`, false, true},
		{`~!"}`, `~!"} `, false, false},
		{`~!"}`, `~!"`, false, false},
		{`~!"}`, `~!`, false, false},
		{`~!"}`, `~!"}}`, false, false},
		{"ended", strings.Repeat("s", maxStep), true, true},
		{"ended", strings.Repeat("s", maxStep+1), false, false},
	} {
		leaf := []byte(strings.Replace(allText, row.old, row.new, 1))
		want, err := parseJSON(leaf)
		if (err == nil) != row.ok {
			t.Errorf("%s: %v", leaf, err)
		}
		if got, ok := parseText(leaf); ok != row.short || ok && (err != nil || !reflect.DeepEqual(got, want)) {
			t.Errorf("%s: %v, %+v; the long way: %+v (%v)", leaf, ok, got, want, err)
		}
	}
}

var golden = flag.Bool("update", false, "write testdata/proof.json and testdata/audit.pub anew")

// TestGoldenProof: a proof that somebody has kept stays good. docs/spec names
// these files as the example.
func TestGoldenProof(t *testing.T) {
	proof, public := filepath.Join("testdata", "proof.json"), filepath.Join("testdata", "audit.pub")
	if *golden {
		w, p := proofOf(t)
		if err := errors.Join(os.WriteFile(proof, encodeProof(t, p), 0o644), os.WriteFile(public, []byte(w.public+"\n"), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	data, err := os.ReadFile(proof)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ReadPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	if report, err := CheckProof(data, key); err != nil || !report.OK || report.Issued != 1 {
		t.Errorf("%v %v", err, report.Problems)
	}
}
