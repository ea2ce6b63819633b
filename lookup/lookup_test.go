package lookup

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"hallpass/access"
)

// other is a system that answers what a test wants.
func other(t *testing.T, answer http.HandlerFunc) string {
	s := httptest.NewServer(answer)
	t.Cleanup(s.Close)
	return s.URL
}

func says(body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprint(w, body) }
}

// load makes a set of one look-up, at noon of a Friday.
func load(t *testing.T, entry string) *Set {
	t.Helper()
	s, err := parse("lookups.yaml", []byte("allow: [127.0.0.0/8]\nlookups:\n  it: "+entry+"\n"))
	if err != nil {
		t.Fatal(err)
	}
	s.now = func() time.Time { return time.Date(2026, 11, 27, 12, 0, 0, 0, time.UTC) }
	return s
}

var request = access.Request{Header: access.Header{Signer: "alice"}, Resource: "ssh/web-1", Ticket: "OPS-1"}

const oncalls = `{"oncalls": [
	{"user": {"id": "P2", "summary": "Second Level", "email": "carol@example.com"}, "escalation_level": 2, "start": null, "end": null},
	{"user": {"id": "P1", "summary": "Bob Example", "email": "bob@example.com"}, "escalation_level": 1, "start": "2026-11-27T08:00:00Z", "end": "2026-11-27T20:00:00Z"},
	{"user": {"id": "P3", "summary": "Was Before", "email": "dave@example.com"}, "escalation_level": 1, "start": "2026-11-27T00:00:00Z", "end": "2026-11-27T12:00:00Z"},
	{"user": {"id": "P4", "summary": "Evil Twin", "email": "alice@evil.example"}, "escalation_level": 1, "start": null, "end": null}]}`

func vevents(events ...string) string {
	return "BEGIN:VCALENDAR\r\nVERSION:2.0\r\nBEGIN:VTIMEZONE\r\nTZID:Europe/Berlin\r\nBEGIN:STANDARD\r\nDTSTART:19701025T030000\r\nEND:STANDARD\r\nEND:VTIMEZONE\r\nBEGIN:VEVENT\r\n" +
		strings.Join(events, "\r\nEND:VEVENT\r\nBEGIN:VEVENT\r\n") + "\r\nEND:VEVENT\r\nEND:VCALENDAR\r\n"
}

// What an answer is taken for, and what isn't taken for one.
func TestLook(t *testing.T) {
	const (
		ticket = `{kind: http-json, url: "URL/tickets/{ticket}", pick: {state: fields.status.name, first: fields.labels.0}}`
		pager  = `{kind: pagerduty, url: "URL", domain: example.com}`
		ical   = `{kind: ical, url: "URL", domain: example.com, users: {"Carol Example": carol}}`
	)
	for _, row := range []struct {
		name, entry, answer string
		want                string // value, or failed
	}{
		{"ticket", ticket, `{"fields": {"status": {"name": "Approved"}, "labels": ["a", 2]}}`, `{"first":"a","state":"Approved"}`},
		{"a number", `{kind: http-json, url: "URL", pick: {n: n}}`, `{"n": 12345678901234567890}`, `{"n":12345678901234567890}`},
		{"a number too large", `{kind: http-json, url: "URL", pick: {n: n}}`, `{"n": 1e999}`, "what it says has a number that is too large"},
		{"field missing", ticket, `{"fields": {"status": {}, "labels": [1]}}`, "its answer has no fields.status.name"},
		{"list too short", ticket, `{"fields": {"status": {"name": "x"}, "labels": []}}`, "its answer has no fields.labels.0"},
		{"garbage", ticket, `<html>`, "its answer is not JSON"},
		{"two answers", ticket, `{"fields": {"status": {"name": "x"}, "labels": [1]}} {}`, "its answer is not JSON"},
		{"nothing", ticket, ``, "its answer is not JSON"},
		{"a value too long", `{kind: http-json, url: "URL", pick: {n: n}}`, `{"n": "` + strings.Repeat("x", MaxValue) + `"}`, "what it says is longer than 4096 bytes"},
		{"an answer too long", `{kind: http-json, url: "URL", pick: {n: n}}`, `{"n": 1, "x": "` + strings.Repeat("x", MaxBody) + `"}`, "its answer is longer than 1048576 bytes"},

		{"on call", pager, oncalls, `{"user":"bob","users":["bob","carol"]}`},
		{"by name", `{kind: pagerduty, url: "URL", users: {"Second Level": erin}}`, oncalls, `{"user":"erin","users":["erin"]}`},
		{"nobody on call", pager, `{"oncalls": []}`, `{"users":[]}`},
		{"no list of oncalls", pager, `{"error": "x"}`, "its answer is not a list of oncalls"},
		{"oncalls of another shape", pager, `{"oncalls": {"user": "alice"}}`, "its answer is not a list of oncalls"},

		{"calendar", ical, vevents("DTSTART:20261127T080000Z\r\nDTEND:20261127T200000Z\r\nATTENDEE;CN=\"Bob: x\":mailto:bob@exam\r\n ple.com"), `{"user":"bob","users":["bob"]}`},
		{"by summary", ical, vevents("DTSTART;TZID=Europe/Berlin:20261127T130000\r\nDTEND;TZID=Europe/Berlin:20261127T140000\r\nSUMMARY:Carol Example"), `{"user":"carol","users":["carol"]}`},
		{"over", ical, vevents("DTSTART;TZID=Europe/Berlin:20261127T120000\r\nDTEND;TZID=Europe/Berlin:20261127T130000\r\nSUMMARY:Carol Example"), `{"users":[]}`},
		{"since long before clocks had zones", ical, vevents("DTSTART;TZID=Europe/Berlin:00020101T120000\r\nDTEND;TZID=Europe/Berlin:00020101T140000\r\nRRULE:FREQ=DAILY\r\nSUMMARY:Carol Example"), `{"user":"carol","users":["carol"]}`},
		{"all day", ical, vevents("DTSTART;VALUE=DATE:20261127\r\nSUMMARY:Carol Example"), `{"user":"carol","users":["carol"]}`},
		{"weekly", ical, vevents("DTSTART;TZID=Europe/Berlin:20260703T090000\r\nDURATION:PT12H\r\nRRULE:FREQ=WEEKLY;INTERVAL=3\r\nSUMMARY:Carol Example"), `{"user":"carol","users":["carol"]}`},
		{"another week", ical, vevents("DTSTART;TZID=Europe/Berlin:20260710T090000\r\nDURATION:PT12H\r\nRRULE:FREQ=WEEKLY;INTERVAL=3\r\nSUMMARY:Carol Example"), `{"users":[]}`},
		{"recurred often enough", ical, vevents("DTSTART:20261120T080000Z\r\nDTEND:20261120T200000Z\r\nRRULE:FREQ=DAILY;COUNT=7\r\nSUMMARY:Carol Example"), `{"users":[]}`},
		{"recurs until", ical, vevents("DTSTART:20261120T080000Z\r\nDTEND:20261120T200000Z\r\nRRULE:FREQ=DAILY;UNTIL=20261127T080000Z\r\nSUMMARY:Carol Example"), `{"user":"carol","users":["carol"]}`},
		{"except today", ical, vevents("DTSTART:20261120T080000Z\r\nDTEND:20261120T200000Z\r\nRRULE:FREQ=DAILY\r\nEXDATE:20261127T080000Z\r\nSUMMARY:Carol Example"), `{"users":[]}`},
		{"cancelled", ical, vevents("DTSTART;VALUE=DATE:20261127\r\nSUMMARY:Carol Example\r\nSTATUS:CANCELLED"), `{"users":[]}`},
		{"an alarm in it", ical, vevents("DTSTART;VALUE=DATE:20261127\r\nSUMMARY:Carol Example\r\nBEGIN:VALARM\r\nSUMMARY:x\r\nEND:VALARM"), `{"user":"carol","users":["carol"]}`},
		{"a stranger", ical, vevents("DTSTART;VALUE=DATE:20261127\r\nATTENDEE:mailto:alice@evil.example"), `{"users":[]}`},
		{"monthly", ical, vevents("DTSTART;VALUE=DATE:20261127\r\nRRULE:FREQ=MONTHLY\r\nSUMMARY:Carol Example"), "its calendar has events that recur otherwise than daily or weekly, which is not understood"},
		{"by day", ical, vevents("DTSTART;VALUE=DATE:20261127\r\nRRULE:FREQ=WEEKLY;BYDAY=MO\r\nSUMMARY:Carol Example"), "its calendar has events that recur by BYDAY, which is not understood"},
		{"moved", ical, vevents("DTSTART;VALUE=DATE:20261127\r\nRECURRENCE-ID:20261127\r\nSUMMARY:Carol Example"), "its calendar has RECURRENCE-ID, which is not understood"},
		{"floating", ical, vevents("DTSTART:20261127T080000\r\nSUMMARY:Carol Example"), "its calendar has a time without a zone"},
		{"unknown zone", ical, vevents("DTSTART;TZID=Mars:20261127T080000\r\nSUMMARY:Carol Example"), "its calendar has a time zone that is not known"},
		{"no beginning", ical, vevents("SUMMARY:Carol Example"), "its calendar has an event without a beginning"},
		{"cut off", ical, strings.TrimSuffix(vevents("DTSTART;VALUE=DATE:20261127"), "END:VEVENT\r\nEND:VCALENDAR\r\n"), "its calendar ends inside an event"},
		{"since long ago", ical, vevents("DTSTART;VALUE=DATE:19000101\r\nRRULE:FREQ=DAILY\r\nSUMMARY:Carol Example"), `{"user":"carol","users":["carol"]}`},
		{"since long ago, by weeks", ical, vevents("DTSTART;TZID=Europe/Berlin:19700102T130000\r\nDURATION:PT1H\r\nRRULE:FREQ=WEEKLY\r\nSUMMARY:Carol Example"), `{"user":"carol","users":["carol"]}`}, // Fridays, 13:00 in Berlin
		{"the hour before that", ical, vevents("DTSTART;TZID=Europe/Berlin:19700102T120000\r\nDURATION:PT1H\r\nRRULE:FREQ=WEEKLY\r\nSUMMARY:Carol Example"), `{"users":[]}`},
		{"a shift of weeks that recurs", ical, vevents("DTSTART:20251003T080000Z\r\nDURATION:P4W\r\nRRULE:FREQ=WEEKLY;INTERVAL=4;COUNT=16\r\nSUMMARY:Carol Example"), `{"user":"carol","users":["carol"]}`},
		{"endless", ical, vevents("DTSTART:20251003T080000Z\r\nDURATION:P999999W\r\nSUMMARY:Carol Example"), "its calendar has an event of more than 62 days"},
		{"no calendar", ical, `{}`, "its answer is not an iCalendar"},
	} {
		t.Run(row.name, func(t *testing.T) {
			s := load(t, strings.ReplaceAll(row.entry, "URL", other(t, says(row.answer))))
			fact := s.Look(t.Context(), []string{"it"}, request)["it"]
			if got := string(fact.Value) + fact.Failed; got != row.want || (fact.Failed == "") != strings.HasPrefix(row.want, "{") {
				t.Errorf("%s, want %s", got, row.want)
			}
			if !fact.Time.Equal(s.now()) {
				t.Errorf("asked at %s", fact.Time)
			}
		})
	}
}

// The other side can't keep us waiting, lead us elsewhere, or be shown a
// request's word for an address.
func TestHostileAnswers(t *testing.T) {
	inside := 0
	secret := other(t, func(w http.ResponseWriter, _ *http.Request) { inside++; _, _ = fmt.Fprint(w, `{"n": 1}`) })
	hang := make(chan struct{})
	t.Cleanup(func() { close(hang) })
	for _, row := range []struct {
		name   string
		answer http.HandlerFunc
		want   string
	}{
		{"never", func(_ http.ResponseWriter, r *http.Request) {
			select {
			case <-hang:
			case <-r.Context().Done():
			}
		}, "no answer within 200ms"},
		{"a byte at a time", func(w http.ResponseWriter, r *http.Request) {
			tick := time.NewTicker(20 * time.Millisecond)
			defer tick.Stop()
			for r.Context().Err() == nil {
				_, _ = w.Write([]byte(" "))
				w.(http.Flusher).Flush()
				<-tick.C
			}
		}, "no answer within 200ms"},
		{"redirect to an internal address", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, secret, http.StatusFound) }, "it answers 302, a redirect, which is not followed"},
		{"no", func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "secret detail", http.StatusForbidden) }, "it answers 403"},
		{"created", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }, "it answers 204"},
		{"hangs up", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, "it can't be reached"},
	} {
		t.Run(row.name, func(t *testing.T) {
			timeout := "5s" // for an answer, however busy the machine is
			if strings.HasPrefix(row.want, "no answer") {
				timeout = "200ms"
			}
			s := load(t, `{kind: http-json, timeout: `+timeout+`, url: "`+other(t, row.answer)+`/private-path", pick: {n: n}}`)
			begin := time.Now()
			fact := s.Look(t.Context(), []string{"it"}, request)["it"]
			if fact.Failed != row.want || fact.Value != nil {
				t.Errorf("%q %s, want %q", fact.Failed, fact.Value, row.want)
			}
			if took := time.Since(begin); took > 5*time.Second {
				t.Errorf("it took %s", took)
			}
		})
	}
	if inside != 0 {
		t.Error("the redirect was followed")
	}

	// Without being allowed, an address inside isn't talked to, by whatever name.
	for _, entry := range []string{
		`{kind: http-json, url: "` + secret + `", pick: {n: n}}`,
		`{kind: http-json, url: "` + strings.Replace(secret, "127.0.0.1", "localhost", 1) + `", pick: {n: n}}`,
		`{kind: http-json, url: "https` + strings.TrimPrefix(secret, "http") + `", pick: {n: n}}`,
	} {
		s, err := parse("lookups.yaml", []byte("lookups: {it: "+entry+"}\n"))
		if err != nil {
			t.Fatal(err)
		}
		if fact := s.Look(t.Context(), []string{"it"}, request)["it"]; fact.Failed != "it can't be reached" {
			t.Errorf("%s: %+v", entry, fact)
		}
	}
	if inside != 0 {
		t.Errorf("an internal address was asked %d times", inside)
	}

	// What a request says stays a part of the path.
	var asked []string
	url := other(t, func(w http.ResponseWriter, r *http.Request) {
		asked = append(asked, r.RequestURI)
		_, _ = fmt.Fprint(w, `{"n": 1}`)
	})
	s := load(t, `{kind: http-json, url: "`+url+`/t/{ticket}?r={resource}&u={requester}", pick: {n: n}}`)
	for _, ticket := range []string{"", ".", "..", "../admin", "a/b", "a%2fb", "a?b", "a#b", "a&u=root", "a b", "ü", strings.Repeat("x", 10) + "\n"} {
		r := request
		r.Ticket = ticket
		if fact := s.Look(t.Context(), []string{"it"}, r)["it"]; !strings.Contains(fact.Failed, "ticket") {
			t.Errorf("ticket %q: %+v", ticket, fact)
		}
	}
	if len(asked) != 0 {
		t.Errorf("asked: %q", asked)
	}
	if fact := s.Look(t.Context(), []string{"it"}, request)["it"]; fact.Failed != "" || len(asked) != 1 || asked[0] != "/t/OPS-1?r=ssh%2Fweb-1&u=alice" {
		t.Errorf("%+v, asked %q", fact, asked)
	}
}

func TestLookSeveral(t *testing.T) {
	s, err := parse("lookups.yaml", []byte(`allow: [127.0.0.0/8]
lookups:
  a: {kind: http-json, url: "`+other(t, says(`{"n": 1}`))+`", pick: {n: n}}
  b: {kind: http-json, url: "`+other(t, says(`no`))+`", pick: {n: n}}
`))
	if err != nil {
		t.Fatal(err)
	}
	facts := s.Look(context.Background(), []string{"a", "c"}, request)
	if len(facts) != 2 || facts["c"].Failed != "there is no look-up of that name here" || string(facts["a"].Value) != `{"n":1}` {
		t.Errorf("%+v", facts)
	}
	if all := s.Look(context.Background(), []string{All}, request); len(all) != 2 || all["b"].Failed == "" {
		t.Errorf("%+v", all)
	}
	// One that is asked for by name and isn't there has failed, whatever else is
	// asked for: a rule that denies by it must not take it for absent.
	both := s.Look(context.Background(), []string{All, "a", "freeze"}, request)
	if len(both) != 3 || both["freeze"].Failed != "there is no look-up of that name here" || string(both["a"].Value) != `{"n":1}` || both["b"].Failed == "" {
		t.Errorf("%+v", both)
	}
	if v := facts.Values(); len(v) != 1 || fmt.Sprint(v["a"]) != "map[n:1]" {
		t.Errorf("values %v", v)
	}
}

func TestAuthorization(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil { // whatever the umask
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "token"), []byte("Token token=s3cr3t\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	url := other(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = fmt.Fprintf(w, `{"n": %q}`, r.Header.Get("Authorization"))
	})
	path := filepath.Join(dir, "lookups.yaml")
	file := "allow: [127.0.0.0/8]\nlookups: {it: {kind: http-json, url: \"" + url + "\", authorization_file: token, pick: {n: n}}}\n"
	if err := os.WriteFile(path, []byte(file), 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	if fact := s.Look(t.Context(), []string{"it"}, request)["it"]; string(fact.Value) != `{"n":"Token token=s3cr3t"}` {
		t.Errorf("%+v", fact)
	}
	if err := os.Chmod(filepath.Join(dir, "token"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(path); err == nil || !strings.Contains(err.Error(), "chmod 600") || strings.Contains(err.Error(), "s3cr3t") {
		t.Errorf("a token that others can read: %v", err)
	}
	if err := errors.Join(os.Chmod(filepath.Join(dir, "token"), 0o600), os.Chmod(path, 0o666)); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(path); err == nil || !strings.Contains(err.Error(), "can be changed by others") {
		t.Errorf("a list that all can write to: %v", err)
	}
	if _, err := Load(filepath.Join(dir, "none")); err == nil {
		t.Error("there is no such file")
	}
}

func TestLoadRefuses(t *testing.T) {
	for _, row := range []struct{ file, want string }{
		{"lookups: {}\n", "there are no look-ups"},
		{"lookups: {A: {kind: ical}}\n", "outside"},
		{"lookups: {a: {kind: phone, url: 'https://x'}}\n", `kind "phone" is not http-json, pagerduty or ical`},
		{"lookups: {a: {kind: http-json, url: 'https://x'}}\n", "takes pick"},
		{"lookups: {a: {kind: http-json, url: 'https://x', pick: {n: n}, domain: x}}\n", "takes pick, and neither"},
		{"lookups: {a: {kind: http-json, url: 'https://x', pick: {N: n}}}\n", "pick takes names"},
		{"lookups: {a: {kind: ical, url: 'https://x'}}\n", "takes users or domain"},
		{"lookups: {a: {kind: ical, url: 'https://x', users: {A: 'not a name'}}}\n", "outside"},
		{"lookups: {a: {kind: ical, url: 'ftp://x', domain: x}}\n", "is not https://"},
		{"lookups: {a: {kind: ical, url: 'https://u:p@x', domain: x}}\n", "is not https://"},
		{"lookups: {a: {kind: ical, url: 'https://{ticket}.x/', domain: x}}\n", "where its url leads"},
		{"lookups: {a: {kind: ical, url: 'https://{requester}', domain: x}}\n", "where its url leads"},
		{"lookups: {a: {kind: ical, url: 'https://x', domain: x, timeout: 1h}}\n", "at most 5s"},
		{"lookups: {a: {kind: ical, url: 'https://x', domain: x, timeout: 0s}}\n", "at most 5s"},
		{"lookups: {a: {kind: ical, url: 'https://x', domain: x, retries: 3}}\n", "retries"},
		{"allow: [everywhere]\nlookups: {a: {kind: ical, url: 'https://x', domain: x}}\n", "is not a network"},
	} {
		if _, err := parse("lookups.yaml", []byte(row.file)); err == nil || !strings.Contains(err.Error(), row.want) || !strings.HasPrefix(err.Error(), "lookups.yaml:") {
			t.Errorf("%s%v, want %s", row.file, err, row.want)
		}
	}
}

// The time limit is for reading an answer, too: what fits into one can't keep
// an issuer busy, however it is made.
func TestCostlyCalendars(t *testing.T) {
	fill := func(one string) string {
		n := (MaxBody - 200) / (len(one) + len("\r\nEND:VEVENT\r\nBEGIN:VEVENT\r\n"))
		events := make([]string, min(n, maxEvents))
		for i := range events {
			events[i] = one
		}
		return vevents(events...)
	}
	var except strings.Builder
	for day := time.Date(1975, 1, 1, 0, 0, 0, 0, time.UTC); except.Len() < MaxBody-1000; day = day.AddDate(0, 0, 1) {
		except.WriteString("\r\nEXDATE:" + day.Format("20060102T150405Z"))
	}
	for name, calendar := range map[string]string{
		"many old events":                   fill("DTSTART:19750101T000000Z\r\nDURATION:PT1H\r\nRRULE:FREQ=DAILY"),
		"many that never end":               fill("DTSTART:19750101T000000Z\r\nDURATION:P999999W\r\nRRULE:FREQ=DAILY"),
		"in a zone":                         fill("DTSTART;TZID=Europe/Berlin:19750101T000000\r\nDURATION:PT1H\r\nRRULE:FREQ=DAILY"),
		"excepted every time":               vevents("DTSTART:19750101T000000Z\r\nDURATION:P999999W\r\nRRULE:FREQ=DAILY" + except.String()),
		"many older than a Duration can be": fill("DTSTART:00020101T000000Z\r\nDURATION:PT1H\r\nRRULE:FREQ=DAILY"),
		"as old, with an end":               fill("DTSTART;TZID=Europe/Berlin:00020101T000000\r\nDTEND;TZID=Europe/Berlin:00020101T010000\r\nRRULE:FREQ=DAILY"),
		"many of endless count":             fill("DTSTART:19750101T000000Z\r\nDURATION:PT1H\r\nRRULE:FREQ=DAILY;COUNT=2000000000"),
	} {
		t.Run(name, func(t *testing.T) {
			if len(calendar) > MaxBody {
				t.Fatalf("%d bytes", len(calendar))
			}
			begin := busy(t)
			_, err := people{domain: "example.com"}.calendar([]byte(calendar), time.Date(2026, 11, 27, 12, 0, 0, 0, time.UTC))
			if took := busy(t) - begin; took > DefaultTimeout {
				t.Errorf("%d bytes took %s (%v)", len(calendar), took, err)
			}
		})
	}
}

// busy is how long this process has had a processor: other than the time that
// passes, it doesn't grow with what else a machine does.
func busy(t *testing.T) time.Duration {
	t.Helper()
	var used syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &used); err != nil {
		t.Fatal(err)
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}
