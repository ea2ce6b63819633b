// Package notify tells people about requests: through signed webhooks, Slack,
// Microsoft Teams and e-mail, one file each. Load reads which channels there
// are; Channels.Send sends one message to those that it concerns.
//
// What is promised: best effort. A channel that is down, slow or wrong costs an
// error and nothing else; no request waits for one, and none is decided by one.
// A message has an ID that stays the same however often it is sent, so that
// receivers can drop repeats.
//
// What is not: a message proves nothing to anybody. It says which command shows
// the request; what people decide on is what that command has verified. A
// message leaves the reason, the ticket and the comments out unless its channel
// asks for them, because it ends up on somebody else's machines.
package notify

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"hallpass/access"
)

// Event is what a message is about.
type Event string

// The events.
const (
	Asked     Event = "request.asked"     // somebody has to decide
	Escalated Event = "request.escalated" // nobody did, so others are asked or told
	Granted   Event = "request.granted"   // the access began
	Emergency Event = "emergency.granted" // somebody broke the glass; those who are asked have to sign it off
	Review    Event = "emergency.review"  // not everybody has
	Ended     Event = "request.ended"     // denied, timed out, cancelled, or the access ended
)

// Message is one thing to tell.
type Message struct {
	ID        string         `json:"id"` // the same each time it is sent
	Event     Event          `json:"event"`
	Time      time.Time      `json:"time"`
	Request   string         `json:"request"` // its id
	Requester string         `json:"requester"`
	Resource  string         `json:"resource"`
	Login     string         `json:"login,omitempty"`
	Actions   []string       `json:"actions,omitempty"`
	Duration  access.Seconds `json:"duration"`
	Extends   string         `json:"extends,omitempty"` // the request whose grant it is to extend by that
	State     access.State   `json:"state"`
	Groups    []string       `json:"groups,omitempty"` // who may decide
	Told      []string       `json:"told,omitempty"`   // who is only told
	Rules     []string       `json:"rules,omitempty"`  // that matched
	Approvers []string       `json:"approvers,omitempty"`
	Deadline  *time.Time     `json:"deadline,omitempty"` // to decide
	Ends      *time.Time     `json:"ends,omitempty"`     // of the access
	By        string         `json:"by,omitempty"`       // whose word ended it
	Link      string         `json:"link,omitempty"`     // to the Temporal UI

	// Free text, for channels that ask for it.
	Reason string `json:"reason,omitempty"`
	Ticket string `json:"ticket,omitempty"`
	Why    string `json:"why,omitempty"` // why it ended
}

// Title is the message in one line, without free text.
func (m Message) Title() string {
	as := ""
	if m.Login != "" {
		as = " as " + m.Login
	}
	if len(m.Actions) > 0 {
		as += " (" + strings.Join(m.Actions, ", ") + ")"
	}
	what := fmt.Sprintf("%s%s for %s%s", m.Resource, as, m.Duration, access.Longer(m.Extends))
	switch m.Event {
	case Asked:
		return fmt.Sprintf("%s wants %s", m.Requester, what)
	case Escalated:
		return fmt.Sprintf("%s still wants %s, and nobody has decided", m.Requester, what)
	case Granted:
		return fmt.Sprintf("%s has %s", m.Requester, what)
	case Emergency:
		return fmt.Sprintf("BREAK-GLASS: %s has taken %s, without approval", m.Requester, what)
	case Review:
		return fmt.Sprintf("BREAK-GLASS of %s, %s, has to be signed off", m.Requester, what)
	}
	return fmt.Sprintf("%s, %s: %s", m.Requester, what, m.State)
}

// Command is what to type: to approve, or to look.
func (m Message) Command() string {
	if m.Event == Asked || m.Event == Escalated {
		return "hallpass approve " + m.Request
	}
	if m.Event == Emergency || m.Event == Review {
		return "hallpass review " + m.Request
	}
	return "hallpass show " + m.Request
}

// Facts are the rest of the message, as pairs of a label and a text.
func (m Message) Facts() [][2]string {
	at := func(t *time.Time) string {
		if t == nil {
			return ""
		}
		return t.UTC().Format("2006-01-02 15:04 UTC")
	}
	var out [][2]string
	for _, f := range [][2]string{
		{"Reason", m.Reason}, {"Ticket", m.Ticket}, {"Rules", strings.Join(m.Rules, ", ")},
		{"Asked", strings.Join(m.Groups, ", ")}, {"Told", strings.Join(m.Told, ", ")}, {"Decide by", at(m.Deadline)},
		{"Approved by", strings.Join(m.Approvers, ", ")}, {"Until", at(m.Ends)}, {"By", m.By}, {"Why", m.Why},
	} {
		if f[1] != "" {
			out = append(out, f)
		}
	}
	return out
}

// Text is the message for people, in plain text.
func (m Message) Text() string {
	var b strings.Builder
	b.WriteString(m.Title() + "\n\n")
	for _, f := range m.Facts() {
		fmt.Fprintf(&b, "%s: %s\n", f[0], f[1])
	}
	fmt.Fprintf(&b, "\n%s\n", m.Command())
	if m.Link != "" {
		fmt.Fprintf(&b, "%s\n", m.Link)
	}
	return b.String()
}

// Sender is one way to send a message. It returns when the receiver has taken
// it. An error says that it didn't, or that nobody knows.
type Sender interface {
	Send(ctx context.Context, m Message) error
}

// Channel is a Sender with what it is told about.
type Channel struct {
	Name   string
	Groups []string // whose asking it is told about; nil: everybody's
	Reason bool     // free text is sent, too
	Sender
}

// concerns says whether a message goes to the channel. How a request ends is
// told where it was asked about.
func (c Channel) concerns(m Message) bool {
	return c.Groups == nil || slices.ContainsFunc(c.Groups, func(g string) bool {
		return slices.Contains(m.Groups, g) || slices.Contains(m.Told, g)
	})
}

// Channels are all there are.
type Channels struct {
	Link     func(request string) string // nil: no links
	Channels []Channel
}

// attempt bounds one try of one channel.
const attempt = 10 * time.Second

// Send sends the message to all channels that it concerns, at the same time, but
// for those that have had it. It calls had after each that took it, one at a
// time; the error is about those that didn't.
func (c *Channels) Send(ctx context.Context, m Message, has func(channel string) bool, had func(channel string)) error {
	if c.Link != nil {
		m.Link = c.Link(m.Request)
	}
	var todo []Channel
	for _, ch := range c.Channels {
		if ch.concerns(m) && !has(ch.Name) {
			todo = append(todo, ch)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, attempt)
	defer cancel()
	results := make(chan func() error)
	for _, ch := range todo {
		go func() {
			told := m
			if !ch.Reason {
				told.Reason, told.Ticket, told.Why = "", "", ""
			}
			err := ch.Send(ctx, told)
			results <- func() error {
				if err != nil {
					return fmt.Errorf("tell %s: %w", ch.Name, err)
				}
				had(ch.Name)
				return nil
			}
		}()
	}
	var errs []error
	for range todo {
		errs = append(errs, (<-results)())
	}
	return errors.Join(errs...)
}
