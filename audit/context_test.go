package audit

import (
	"context"
	"encoding/json"
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
