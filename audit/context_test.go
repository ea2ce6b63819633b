package audit

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"

	"hallpass/access"
)

// What look-ups said is part of the record: a verifier judges by it, and finds
// a credential that was issued although it said no, or nothing.
func TestJudgedAgainByWhatWasLookedUp(t *testing.T) {
	for _, row := range []struct {
		name  string
		facts access.Facts
		want  string // "" verifies
	}{
		{"on call", access.Facts{"oncall": {Value: json.RawMessage(`{"user":"alice"}`)}}, ""},
		{"another is", access.Facts{"oncall": {Value: json.RawMessage(`{"user":"bob"}`)}}, "by the rules of the day it was not allowed (ask): needs 1 approval from sre"},
		{"it failed", access.Facts{"oncall": {Failed: "no answer within 3s"}}, "by the rules of the day it was not allowed (ask): needs 1 approval from sre"},
		{"nobody asked", nil, "by the rules of the day it was not allowed (ask): needs 1 approval from sre"},
	} {
		t.Run(row.name, func(t *testing.T) {
			w := newWorld(t)
			w.rulebook(worldPolicy + "    auto: context.oncall.user == requester.name\n")
			r, st := w.ask("alice")
			ev := access.Evidence{Request: st}
			w.tick()
			entry, err := w.log.Reserve(context.Background(), st.Hash(), w.handle(r), Event{Digests: w.digests()})
			if err != nil {
				t.Fatal(err)
			}
			cred := w.certificate(*entry.Handle, w.spec(r, *entry.Handle))
			e := w.issued(ev)
			e.Ruling.Context = row.facts
			if err := w.log.Issued(context.Background(), cred, e); err != nil {
				t.Fatal(err)
			}
			report := w.verify(VerifyOptions{})
			if row.want != "" {
				wantProblem(t, report, report.Size-1, row.want)
			} else if !report.OK {
				t.Error(report.Problems)
			}
		})
	}
}

// That nobody has made a look-up which policy speaks of is no answer: a
// verifier takes no credential whose record is silent on one.
func TestJudgedAgainWithoutLookups(t *testing.T) {
	const rule = "rules:\n  - {name: web, when: '%s', approvals: none}\n"
	fact := access.Fact{Value: json.RawMessage(`{"on":false}`)}
	for _, row := range []struct {
		name, when string
		facts      access.Facts
		want       string // "" verifies
	}{
		{"asked", `!has(context.freeze.why)`, access.Facts{"freeze": fact}, ""},
		{"not asked", `!has(context.freeze)`, nil, "policy asks the look-up freeze, of which it says nothing"},
		{"another was asked", `!has(context.freeze)`, access.Facts{"ticket": fact}, "policy asks the look-up freeze, of which it says nothing"},
		{"all are asked, and one by name", `size(context) < 9 && !has(context.freeze.why)`, access.Facts{"freeze": fact}, ""},
		{"all were to be asked, and none was", `size(context) == 0`, nil, "policy asks all look-ups, of which it says nothing"},
		{"another rule's, which can't match", `true`, nil, ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			w := newWorld(t)
			w.rulebook(fmt.Sprintf(rule, row.when) + "  - {name: db, when: 'resource.kind == \"db\" && context.other == 1', approvals: none}\n")
			r, st := w.ask("alice")
			entry, err := w.log.Reserve(context.Background(), st.Hash(), w.handle(r), Event{Digests: w.digests()})
			if err != nil {
				t.Fatal(err)
			}
			e := w.issued(access.Evidence{Request: st})
			e.Ruling.Context = row.facts
			if err := w.log.Issued(context.Background(), w.certificate(*entry.Handle, w.spec(r, *entry.Handle)), e); err != nil {
				t.Fatal(err)
			}
			for _, report := range []Report{w.verify(VerifyOptions{}), w.checkProof(r.ID)} {
				if row.want != "" {
					wantProblem(t, report, report.Size-1, row.want)
				} else if !report.OK {
					t.Error(report.Problems)
				}
			}
		})
	}
}
