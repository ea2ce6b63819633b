package lookup

import (
	"bytes"
	"encoding/json"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"hallpass/access"
)

// What other systems answer: reading it ends, a refusal is one line to show, and
// nobody is on call whom the answer doesn't name.
func FuzzAnswers(f *testing.F) {
	f.Add([]byte(vevents("SUMMARY:Bob\r\nDTSTART:20260504T000000Z\r\nDTEND:20260505T000000Z")))
	f.Add([]byte(vevents("ATTENDEE;CN=\"a:b\":mailto:alice@example.com\r\nDTSTART;TZID=Europe/Berlin:20260504T000000\r\nDURATION:P1DT2H\r\nRRULE:FREQ=WEEKLY;INTERVAL=2;BYDAY=MO,TU;UNTIL=20270101T000000Z\r\nEXDATE:20260511T000000Z")))
	f.Add([]byte(vevents("SUMMARY:Bo\r\n b\r\nDTSTART;VALUE=DATE:20260504\r\nBEGIN:VALARM\r\nSUMMARY:x\r\nEND:VALARM")))
	f.Add([]byte(`{"oncalls": [{"user": {"id": "P1", "email": "alice@example.com"}, "escalation_level": 1, "start": null, "end": "2026-05-05T00:00:00Z"}, {"user": {"summary": "Bob"}}]}`))
	f.Add([]byte(`{"a": [1e400, {"b": "\ud800"}], "a": {"0": null}} {}`))
	who := people{users: map[string]string{"Bob": "bob", "P1": "carol"}, domain: "example.com"}
	now := time.Date(2026, 5, 4, 12, 0, 0, 0, time.UTC)
	pick := picker(map[string]string{"x": "a.1.b", "y": "a.b"})
	f.Fuzz(func(t *testing.T, body []byte) {
		for name, read := range map[string]func([]byte, time.Time) (any, error){"ical": who.calendar, "pagerduty": who.pagerDuty, "http-json": pick} {
			v, err := read(body, now)
			if err != nil {
				if e := access.CheckText("error", err.Error(), 1000); e != nil {
					t.Errorf("%s: the error can't be shown: %v: %q", name, e, err)
				}
				continue
			}
			if _, err := json.Marshal(v); err != nil {
				t.Errorf("%s: %v can't be recorded: %v", name, v, err)
			}
			if name == "http-json" {
				continue
			}
			for _, user := range v.(map[string]any)["users"].([]string) {
				named := slices.Contains([]string{"bob", "carol"}, user) || strings.Contains(strings.ToLower(unfolded(body)), user+"@example.com")
				if name == "pagerduty" {
					named = slices.ContainsFunc(texts(body), func(s string) bool { return who.users[s] == user || strings.ToLower(s) == user+"@example.com" })
				}
				if !named {
					t.Errorf("%s: %q is on call", name, user)
				}
			}
		}
	})
}

// texts are all strings in JSON, also those that a later one of the same name
// hides.
func texts(body []byte) (all []string) {
	d := json.NewDecoder(bytes.NewReader(body))
	d.UseNumber() // one beyond all numbers ends nothing
	for {
		token, err := d.Token()
		if err != nil {
			return all
		}
		if s, ok := token.(string); ok {
			all = append(all, s)
		}
	}
}

// unfolded is a calendar without the breaks of its lines.
func unfolded(body []byte) string {
	return strings.NewReplacer("\n ", "", "\n\t", "").Replace(strings.ReplaceAll(string(body), "\r\n", "\n"))
}

// A list of look-ups is refused in its place, in one line, or it can be used.
func FuzzParse(f *testing.F) {
	f.Add([]byte("allow: [127.0.0.0/8]\nlookups:\n  ticket: {kind: http-json, url: 'https://x/{ticket}', pick: {state: fields.0.name}, timeout: 2s}\n"))
	f.Add([]byte("lookups:\n  on-call: {kind: pagerduty, url: 'https://x', domain: Example.com, users: {P1: alice}}\n  b: {kind: ical, url: 'https://y', users: {A: 'not a name'}}\n"))
	path := filepath.Join(f.TempDir(), "lookups.yaml") // it may name files beside it
	f.Fuzz(func(t *testing.T, data []byte) {
		if strings.ContainsAny(string(data), "/") && strings.Contains(string(data), "authorization_file") {
			t.Skip("it names files of this machine")
		}
		s, err := parse(path, data)
		if err != nil {
			if text := err.Error(); !strings.HasPrefix(text, path+":") || access.CheckText("error", text, 10_000) != nil {
				t.Errorf("%q", text)
			}
			return
		}
		if len(s.lookups) == 0 || len(s.lookups) > maxLookups || s.client == nil {
			t.Errorf("%d look-ups", len(s.lookups))
		}
		for name, l := range s.lookups {
			if access.CheckName("look-up", name) != nil || l.value == nil || l.timeout <= 0 || l.timeout > MaxTimeout {
				t.Errorf("%q: %+v", name, l)
			}
			if to, err := l.address(access.Request{Ticket: "../../etc/passwd?x#y@evil.example.com", Resource: "ssh/web-1"}); err == nil && (strings.Contains(to, "/../") || strings.Contains(to, "evil.example.com") && !strings.Contains(string(data), "evil")) {
				t.Errorf("%q leads to %s", name, to)
			}
		}
	})
}
