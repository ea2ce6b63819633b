package notify

import (
	"context"
	"encoding/json"

	"hallpass/internal/wording"
)

// Teams posts an Adaptive Card (https://adaptivecards.io, version 1.4) to a
// webhook of Microsoft Teams, which is a workflow of Power Automate.
type Teams struct {
	url    string
	poster *poster
}

// Send posts the message.
func (t *Teams) Send(ctx context.Context, m Message) error {
	body, err := json.Marshal(teamsBody(m))
	if err != nil {
		return err
	}
	return t.poster.post(ctx, t.url, body, nil)
}

// teamsBody writes all texts as text runs: unlike text blocks, those are never
// taken for Markdown, so a reason can't become a link.
func teamsBody(m Message) object {
	run := func(s string, more object) object {
		r := object{"type": "TextRun", "text": wording.Clip(s, 2000)}
		for k, v := range more {
			r[k] = v
		}
		return r
	}
	line := func(runs ...object) object { return object{"type": "RichTextBlock", "inlines": runs} }
	body := []object{line(run(m.Title(), object{"weight": "Bolder"}))}
	for _, f := range m.Facts() {
		body = append(body, line(run(f[0]+": ", object{"isSubtle": true}), run(f[1], nil)))
	}
	body = append(body, line(run(m.Command(), object{"fontType": "Monospace"})))
	card := object{
		"$schema": "http://adaptivecards.io/schemas/adaptive-card.json", "type": "AdaptiveCard", "version": "1.4", "body": body,
	}
	if m.Link != "" {
		card["actions"] = []object{{"type": "Action.OpenUrl", "title": "Temporal UI", "url": m.Link}}
	}
	return object{"type": "message", "attachments": []object{
		{"contentType": "application/vnd.microsoft.card.adaptive", "content": card},
	}}
}
