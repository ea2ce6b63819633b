package audit

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"hallpass/access"
)

const glassPolicy = `rules:
  - name: web
    when: resource.kind == "ssh" && "dev" in requester.groups
    max_duration: 8h
    approvals:
      - {count: 1, from: [sre]}
    emergency: {tell: [security], review: {from: [sre, security], count: 2, within: 1h}}
`

// What is open, signed off and overdue is looked up as events say.
func TestReviews(t *testing.T) {
	w := newWorld(t)
	w.rulebook(glassPolicy)
	ctx := context.Background()
	take := func(who string) (access.Request, access.Statement, error) {
		r, _ := w.request(who)
		r.Mode, r.Reason = access.ModeEmergency, "the shop is down and nobody answers"
		st := w.sign(who, r)
		issued := w.issued(access.Evidence{Request: st})
		entry, err := w.log.Reserve(ctx, st.Hash(), w.handle(r), Event{Ruling: issued.Ruling, Requester: who, Resource: r.Resource})
		if err == nil {
			err = w.log.Issued(ctx, w.certificate(*entry.Handle, w.spec(r, *entry.Handle)), issued)
		}
		return r, st, err
	}
	sign := func(who string, r access.Request, st access.Statement) (access.ReviewTask, error) {
		v := access.Review{Header: w.header(access.TypeReview, who), Request: r.ID, RequestHash: st.Hash()}
		return w.log.Review(ctx, w.book, w.sign(who, v), w.now)
	}
	open := func(want ...string) {
		t.Helper()
		tasks, err := w.log.OpenReviews(ctx, 10)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, task := range tasks {
			got = append(got, task.Request)
		}
		if strings.Join(got, " ") != strings.Join(want, " ") {
			t.Errorf("open are %v, want %v", got, want)
		}
	}
	open()
	first, st, err := take("alice")
	if err != nil {
		t.Fatal(err)
	}
	second, _, err := take("dave")
	if err != nil {
		t.Fatal(err)
	}
	open(first.ID, second.ID)
	if task, err := sign("bob", first, st); err != nil || task.Done {
		t.Fatalf("after one of two: %+v, %v", task, err)
	}
	open(first.ID, second.ID)
	w.now = w.now.Add(time.Hour)
	if _, _, err := take("alice"); access.CodeOf(err) != access.CodeLimited || !strings.Contains(err.Error(), first.ID) {
		t.Errorf("with an overdue review it is %v", err)
	}
	if task, err := sign("carol", first, st); err != nil || !task.Done {
		t.Fatalf("after two of two: %+v, %v", task, err)
	}
	open(second.ID)
	if _, _, err := take("alice"); err != nil {
		t.Errorf("once that is done: %v", err)
	}
	if report := w.verify(VerifyOptions{}); !report.OK {
		t.Errorf("log: %+v", report.Problems)
	}
}

// Of those who sign off at the same moment nobody is recorded once it is done:
// what comes after that nobody could read.
func TestReviewsAtTheSameMoment(t *testing.T) {
	w := newWorld(t)
	w.rulebook(strings.Replace(glassPolicy, "count: 2", "count: 1", 1))
	ctx := context.Background()
	other, err := Open(ctx, Options{Database: w.path, Key: w.private, Now: w.clock})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = other.Close() }()
	for range 12 {
		r, _ := w.request("alice")
		r.Mode, r.Reason = access.ModeEmergency, "the shop is down and nobody answers"
		st := w.sign("alice", r)
		issued := w.issued(access.Evidence{Request: st})
		entry, err := w.log.Reserve(ctx, st.Hash(), w.handle(r), Event{Ruling: issued.Ruling, Requester: "alice", Resource: r.Resource})
		if err == nil {
			err = w.log.Issued(ctx, w.certificate(*entry.Handle, w.spec(r, *entry.Handle)), issued)
		}
		if err != nil {
			t.Fatal(err)
		}
		var words []access.Statement
		for _, who := range []string{"bob", "carol"} {
			words = append(words, w.sign(who, access.Review{Header: w.header(access.TypeReview, who), Request: r.ID, RequestHash: st.Hash()}))
		}
		var all sync.WaitGroup
		for i, word := range words {
			all.Go(func() {
				if task, err := []*Log{w.log, other}[i].Review(ctx, w.book, word, w.now); err == nil && !task.Done || err != nil && access.CodeOf(err) != access.CodeEnded {
					t.Errorf("signed off with %+v, %v", task, err)
				}
			})
		}
		all.Wait()
		if task, found, err := w.log.ReviewTask(ctx, r.ID); err != nil || !found || !task.Done || len(task.Signed) == 0 {
			t.Fatalf("the review is %+v, %v", task, err)
		}
	}
	if report := w.verify(VerifyOptions{}); !report.OK {
		t.Errorf("log: %+v", report.Problems)
	}
}
