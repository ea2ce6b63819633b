package notify

import (
	"context"
	"encoding/json"
	"strings"

	"hallpass/internal/wording"
)

// Slack posts to an incoming webhook, in Slack's Block Kit
// (https://api.slack.com/reference/block-kit).
type Slack struct {
	url    string
	poster *poster
}

// Send posts the message.
func (s *Slack) Send(ctx context.Context, m Message) error {
	body, err := json.Marshal(slackBody(m))
	if err != nil {
		return err
	}
	return s.poster.post(ctx, s.url, body, nil)
}

type object map[string]any

// slackBody writes texts that others chose as plain_text, which Slack shows as
// it is, or escapes them: a reason must not become a link or call a channel.
func slackBody(m Message) object {
	plain := func(s string) object {
		return object{"type": "plain_text", "text": wording.Clip(s, 2000), "emoji": false}
	}
	blocks := []object{{"type": "section", "text": plain(m.Title())}}
	var facts []string
	for _, f := range m.Facts() {
		facts = append(facts, f[0]+": "+f[1])
	}
	if len(facts) > 0 {
		blocks = append(blocks, object{"type": "section", "text": plain(strings.Join(facts, "\n"))})
	}
	command := "`" + mrkdwn(m.Command()) + "`"
	if m.Link != "" {
		command += "   <" + mrkdwn(m.Link) + "|Temporal UI>"
	}
	blocks = append(blocks, object{"type": "section", "text": object{"type": "mrkdwn", "text": command}})
	return object{"text": mrkdwn(m.Title()), "blocks": blocks, "unfurl_links": false}
}

// mrkdwn escapes what Slack reads as control sequences.
func mrkdwn(s string) string {
	return strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;", "|", "/", "`", "'").Replace(s)
}
