package workflows_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"hallpass/access"
	"hallpass/audit"
	"hallpass/notify"
)

// channel keeps what it is told, but for its first few.
type channel struct {
	mu    sync.Mutex
	fails int // times that it fails before; -1: for ever
	got   []notify.Message
}

func (c *channel) Send(_ context.Context, m notify.Message) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fails != 0 {
		c.fails--
		return errors.New("it is down")
	}
	c.got = append(c.got, m)
	return nil
}

func (c *channel) lines() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []string
	for _, m := range c.got {
		out = append(out, strings.TrimPrefix(m.ID, m.Request+".")+" "+string(m.State)+" "+strings.Join(m.Groups, ",")+" "+strings.Join(m.Told, ","))
	}
	return out
}

func (w *world) tells(channels map[string]*channel) {
	all := &notify.Channels{}
	for name, c := range channels {
		all.Channels = append(all.Channels, notify.Channel{Name: name, Sender: c, Reason: true})
	}
	w.acts.Channels = all
}

// Whoever is asked or told hears of it once, and of how it went on.
func TestTold(t *testing.T) {
	w := newWorld(t)
	w.ask("ssh/slow-1", nil)
	chat, flaky := &channel{}, &channel{fails: 2}
	w.tells(map[string]*channel{"chat": chat, "flaky": flaky})
	w.at(40*time.Minute, func() { w.approve("trent") })
	w.at(50*time.Minute, func() { w.release() })
	w.run(access.StateReleased)
	want := []string{
		"request.asked pending sre ",
		"request.escalated.600 pending security ",
		"request.escalated.1800 pending  dev",
		"request.granted active security,sre dev",
		"request.ended released security,sre dev",
	}
	if diff := cmp.Diff(want, chat.lines()); diff != "" {
		t.Errorf("told (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(want, flaky.lines()); diff != "" {
		t.Errorf("told in the end (-want +got):\n%s", diff)
	}
	if m := chat.got[0]; m.Reason != "reads the logs" || m.Deadline == nil || m.Requester != "alice" {
		t.Errorf("the first message is %+v", m)
	}
	if m := chat.got[4]; m.By != "alice" || m.Why != "released by alice: because release" || m.Deadline != nil || m.Ends != nil {
		t.Errorf("the last message is %+v", m)
	}
	if n := w.count("hallpass Notify"); n != 7 { // five messages, and two more tries of the first
		t.Errorf("%d activities, want 7", n)
	}
}

// A channel that is down delays nothing and is given up some day; what is told
// last doesn't hold the workflow up for long.
func TestToldToNobody(t *testing.T) {
	for _, test := range []struct {
		resource string
		want     access.State
		longest  time.Duration
	}{
		{"ssh/dev-1", access.StateExpired, 31 * time.Minute},
		{"ssh/closed-1", access.StateDenied, time.Minute},
		{"ssh/web-1", access.StateTimedOut, 61 * time.Minute},
	} {
		t.Run(test.resource, func(t *testing.T) {
			w := newWorld(t)
			w.ask(test.resource, nil)
			w.tells(map[string]*channel{"down": {fails: -1}})
			if test.resource == "ssh/dev-1" {
				w.at(time.Second, func() { w.want(access.StateActive) })
			}
			w.run(test.want)
			if took := w.env.Now().Sub(w.start); took > test.longest {
				t.Errorf("it took %s, want at most %s", took, test.longest)
			}
		})
	}
}

// Nothing that people wrote is in what Temporal shows of a message.
func TestToldWithoutWords(t *testing.T) {
	w := newWorld(t)
	w.ask("ssh/web-1", func(r *access.Request) { r.Reason, r.Ticket = "zebra crossing", "ZEBRA-1" })
	w.tells(map[string]*channel{"chat": {}})
	w.countUpserts()
	var details string
	w.at(time.Minute, func() { details = w.details(); w.cancel() })
	w.run(access.StateCancelled)
	if text := details + fmt.Sprint(w.attributes, w.events); strings.Contains(strings.ToLower(text), "zebra") {
		t.Errorf("it is there: %s", text)
	}
}

// A message that comes while the last news is told is answered, and on record.
func TestHearsWhileTelling(t *testing.T) {
	w := newWorld(t)
	w.ask("ssh/dev-1", nil)
	w.tells(map[string]*channel{"down": {fails: -1}})
	w.at(time.Minute, func() { w.release() })
	w.at(time.Minute+15*time.Second, func() {
		if s := w.status(); s.State != access.StateReleased {
			t.Errorf("state %s", s.State)
		}
		w.revoke("mallory")
	})
	w.at(time.Minute+16*time.Second, func() {
		if s := w.status(); s.Refused != 1 {
			t.Errorf("a second later %d refused", s.Refused)
		}
	})
	got := w.run(access.StateReleased)
	if n := w.recorded(audit.StatementRefused); n != 1 || got.Refused != 1 {
		t.Errorf("%d refusals on record, %d in the outcome", n, got.Refused)
	}
}
