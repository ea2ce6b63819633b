package audit

import (
	"context"
	"testing"
	"time"

	"hallpass/access"
	"hallpass/evidence"
)

// How many requests there were within an hour counts around when a request was
// received, however long ago that was when it was prepared: the issuer counts
// so, and a verifier has to.
func TestVerifyCountsAroundWhenItWasReceived(t *testing.T) {
	for _, row := range []struct {
		name, limits string
		others       func(i int) (who, resource string, after time.Duration) // two requests before it
		want         string                                                  // "" verifies
	}{
		{"too many of the requester's", "{user: {per_hour: 2}}", func(int) (string, string, time.Duration) { return "alice", "ssh/web-2", time.Minute },
			"alice has had 2 requests, as many as policy allows within an hour"},
		{"too many for the resource", "{resource: {per_hour: 2}}", func(int) (string, string, time.Duration) { return "dave", "ssh/web-1", time.Minute },
			"ssh/web-1 has had 2 requests"},
		{"too many of both", "{both: {per_hour: 2}}", func(int) (string, string, time.Duration) { return "alice", "ssh/web-1", time.Minute },
			"alice on ssh/web-1 has had 2 requests"},
		{"one of another's", "{user: {per_hour: 2}}", func(i int) (string, string, time.Duration) {
			return []string{"alice", "dave"}[i], "ssh/web-1", time.Minute
		}, ""},
		{"one of both for another resource", "{both: {per_hour: 2}}", func(i int) (string, string, time.Duration) {
			return "alice", []string{"ssh/web-1", "ssh/web-2"}[i], time.Minute
		}, ""},
		{"one an hour before", "{user: {per_hour: 2}}", func(i int) (string, string, time.Duration) {
			return "alice", "ssh/web-1", []time.Duration{time.Hour, time.Minute}[i]
		}, ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			w := newWorld(t)
			w.rulebook("rules:\n  - {name: web, when: 'true', max_duration: 8h, approvals: none, limits: " + row.limits + "}\n")
			receive := func(who, resource string) (access.Request, access.Statement) {
				r, _ := w.request(who)
				r.Resource = resource
				st := w.sign(who, r)
				w.record(Event{Type: RequestReceived, Request: r.ID, RequestHash: st.Hash(), Step: receivedStep, Actor: who, Requester: who,
					Resource: resource, Statement: &st, Digests: w.digests()})
				return r, st
			}
			for i := range 2 {
				who, resource, after := row.others(i)
				receive(who, resource)
				w.now = w.now.Add(after)
			}
			r, st := receive("alice", "ssh/web-1")
			w.now = w.now.Add(3 * time.Hour)
			receive("dave", "ssh/web-2")

			ev := access.Evidence{Request: st}
			standing, err := w.book.Judge(ev, w.now, evidence.Known{})
			if err != nil {
				t.Fatal(err)
			}
			h := w.handle(r)
			e := Event{Type: CredentialPrepared, Time: w.now, Request: r.ID, RequestHash: st.Hash(), Step: CredentialPrepared, Handle: &h,
				Ruling: &standing.Ruling, Requester: "alice", Resource: "ssh/web-1"}
			refused, err := update(context.Background(), w.log, func(t *tx) (*access.Error, error) {
				// What the issuer's own count says, past which this goes on.
				no, err := t.room(standing.Ruling, h, "alice", "ssh/web-1", w.now)
				if err == nil {
					_, err = t.append(e)
				}
				if err != nil {
					return nil, err
				}
				return no, t.put(Entry{Request: r.ID, RequestHash: st.Hash(), Handle: &h})
			})
			if err != nil || (refused == nil) != (row.want == "") {
				t.Fatalf("the issuer counts %v, %v", refused, err)
			}
			if err := w.log.Issued(context.Background(), w.certificate(h, w.spec(r, h)), w.issued(ev)); err != nil {
				t.Fatal(err)
			}
			report := w.verify(VerifyOptions{})
			if row.want != "" {
				wantProblem(t, report, report.Size-1, "policy's limits left no room for it: "+row.want)
			} else if !report.OK {
				t.Error(report.Problems)
			}
		})
	}
}
