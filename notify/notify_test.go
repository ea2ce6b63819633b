package notify

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"hallpass/access"
)

var noon = time.Date(2026, 3, 2, 12, 0, 0, 0, time.UTC)

func news(event Event) Message {
	deadline := noon.Add(time.Hour)
	return Message{
		ID: "0199.x", Event: event, Time: noon, Request: "0199", Requester: "alice", Resource: "ssh/web-1", Login: "deploy",
		Duration: 1800, State: access.StatePending, Groups: []string{"sre"}, Rules: []string{"production"}, Deadline: &deadline,
		Link: "https://ui.example.com/x", Reason: "disk <!channel> & [click](https://evil.example.com)", Ticket: "OPS-7",
	}
}

func TestText(t *testing.T) {
	const want = "alice wants ssh/web-1 as deploy for 30m\n\n" +
		"Reason: disk <!channel> & [click](https://evil.example.com)\nTicket: OPS-7\nRules: production\nAsked: sre\nDecide by: 2026-03-02 13:00 UTC\n\n" +
		"hallpass approve 0199\nhttps://ui.example.com/x\n"
	if diff := cmp.Diff(want, news(Asked).Text()); diff != "" {
		t.Error(diff)
	}
	ended := news(Ended)
	ended.State = access.StateDenied
	if got := ended.Title(); got != "alice, ssh/web-1 as deploy for 30m: denied" {
		t.Error(got)
	}
	if ended.Command() != "hallpass show 0199" {
		t.Error(ended.Command())
	}
	longer := news(Asked)
	longer.Extends = "0198"
	if got := longer.Title(); got != "alice wants ssh/web-1 as deploy for 30m longer" {
		t.Error(got)
	}
	if got := news(Escalated).Title(); got != "alice still wants ssh/web-1 as deploy for 30m, and nobody has decided" {
		t.Error(got)
	}
}

type recorder struct {
	got  []Message
	fail error
}

func (r *recorder) Send(ctx context.Context, m Message) error {
	if r.fail == nil {
		r.got = append(r.got, m)
	}
	return r.fail
}

// hung never answers.
type hung struct{}

func (hung) Send(ctx context.Context, _ Message) error {
	<-ctx.Done()
	return ctx.Err()
}

func TestChannels(t *testing.T) {
	all, sre, dba, down, before := &recorder{}, &recorder{}, &recorder{}, &recorder{fail: errors.New("it is down")}, &recorder{}
	c := &Channels{
		Link: func(id string) string { return "https://ui/" + id },
		Channels: []Channel{
			{Name: "all", Sender: all}, {Name: "sre", Groups: []string{"sre", "ops"}, Reason: true, Sender: sre},
			{Name: "dba", Groups: []string{"dba"}, Sender: dba}, {Name: "down", Sender: down}, {Name: "before", Sender: before},
			{Name: "hung", Sender: hung{}},
		},
	}
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	var had []string
	err := c.Send(ctx, news(Asked), func(name string) bool { return name == "before" }, func(name string) { had = append(had, name) })
	slices.Sort(had)
	if strings.Join(had, " ") != "all sre" {
		t.Errorf("told: %v", had)
	}
	if err == nil || !strings.Contains(err.Error(), "tell down: it is down") || !strings.Contains(err.Error(), "tell hung: context deadline exceeded") {
		t.Errorf("error: %v", err)
	}
	if len(all.got) != 1 || len(sre.got) != 1 || len(dba.got)+len(before.got) != 0 {
		t.Fatalf("got %d %d %d %d", len(all.got), len(sre.got), len(dba.got), len(before.got))
	}
	if m := all.got[0]; m.Reason+m.Ticket+m.Why != "" || m.Link != "https://ui/0199" {
		t.Errorf("told without being asked to: %+v", m)
	}
	if m := sre.got[0]; m.Reason == "" || m.Ticket == "" {
		t.Errorf("left out: %+v", m)
	}
}
