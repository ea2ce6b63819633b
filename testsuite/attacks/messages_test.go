package attacks

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	commonpb "go.temporal.io/api/common/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/converter"

	"hallpass/access"
)

// most is by how much a flood of bombs may raise the memory of hallpass dev,
// Temporal included, in MiB. Unpacked, one of them alone is four times that.
const most = 256

// Messages that are large, deep or compressed cost the request nothing but
// their place, and the stack no more memory than their own size takes on its way.
func TestMessagesLikeBombs(t *testing.T) {
	s := attack(t)
	a := s.ask(t, "alice", "ssh/web-1")
	await(t, s.Client, a, access.StatePending)
	deep := strings.Repeat(`{"payload":`, 60_000) + "1" + strings.Repeat("}", 60_000)
	large := access.Statement{Payload: strings.Repeat("a", 1<<20), Signature: strings.Repeat("b", 1<<19)}
	armored := s.decide(t, "bob", "bob", a, access.Approve)
	armored.Signature = strings.Replace(armored.Signature, "\n", "\n"+strings.Repeat("A", 1<<19)+"\n", 1)
	packed := string(squeezed(t))
	_, _ = peak(t, s.PID) // until now
	begin, measured := peak(t, s.PID)
	for name, content := range map[string]any{
		"deep":                  raw("json/plain", deep),
		"large":                 large,
		"armor":                 armored,
		"a gzip":                raw("binary/gzip", packed),
		"a gzip, named as JSON": raw("json/plain", packed),
		"a gzip in a statement": access.Statement{Payload: packed[:1<<19], Signature: armored.Signature[:100]},
		"a zlib, by Temporal's codec": func() any {
			p, err := converter.NewZlibCodec(converter.ZlibCodecOptions{AlwaysEncode: true}).Encode([]*commonpb.Payload{{
				Metadata: map[string][]byte{"encoding": []byte("json/plain")}, Data: []byte(`{"payload":"` + strings.Repeat("a", 256<<20) + `"}`),
			}})
			must(t, err)
			return converter.NewRawValue(p[0])
		}(),
		"many numbers": raw("json/plain", "["+strings.Repeat("1e999999999,", 50_000)+"1]"),
		"many keys":    raw("json/plain", "{"+strings.Repeat(`"payload":"x",`, 50_000)+`"payload":"y"}`),
	} {
		// Each way in: a signal, an update, and a request of its own.
		if err := s.Client.SignalWorkflow(t.Context(), access.WorkflowID(a.ID), "", access.MessageDecision, content); err != nil {
			t.Errorf("%s: not even taken, so the test shows nothing: %v", name, err)
		}
		if err := say(t, s.Client, a, access.MessageDecision, content); err == nil {
			t.Errorf("%s: taken as a decision", name)
		}
		id := "bomb-" + a.ID
		run, err := s.Client.ExecuteWorkflow(t.Context(), client.StartWorkflowOptions{ID: id, TaskQueue: access.TaskQueue}, access.Workflow, content)
		if err != nil {
			t.Errorf("%s: not even taken as a request: %v", name, err)
			continue
		}
		_ = s.Client.TerminateWorkflow(t.Context(), run.GetID(), run.GetRunID(), "over") // where it can't even be read, it is tried again for ever
	}
	if got := status(t, s.Client, a); got.State != access.StatePending {
		t.Fatalf("%s: %s", got.State, got.Why)
	}
	if end, ok := peak(t, s.PID); measured && ok {
		t.Logf("hallpass dev took up to %d MiB more than %d", end-begin, begin)
		if end-begin > most {
			t.Errorf("that is more than %d", most)
		}
	}
	must(t, say(t, s.Client, a, access.MessageDecision, s.decide(t, "bob", "bob", a, access.Approve)))
	await(t, s.Client, a, access.StateActive)
	s.verifies(t)
}

// squeezed is a gigabyte of nothing, in a megabyte.
func squeezed(t testing.TB) []byte {
	t.Helper()
	var one bytes.Buffer
	w, err := gzip.NewWriterLevel(&one, gzip.BestCompression)
	must(t, err)
	_, err = w.Write(make([]byte, 64<<20))
	must(t, err, w.Close())
	packed := bytes.Repeat(one.Bytes(), 16) // one file, by RFC 1952
	r, err := gzip.NewReader(bytes.NewReader(packed))
	must(t, err)
	if n, err := io.Copy(io.Discard, r); n != 1<<30 || err != nil || len(packed) > 3<<19 {
		t.Fatalf("%d bytes are %d: %v", len(packed), n, err)
	}
	return packed
}

// peak is the most memory that a process has had in use since this was last
// asked, or since it started, in MiB. Where that can't be measured, which it has
// to be in CI, it isn't ok.
func peak(t testing.TB, pid int) (mib int, ok bool) {
	t.Helper()
	proc := filepath.Join("/proc", strconv.Itoa(pid))
	data, err := os.ReadFile(filepath.Join(proc, "status"))
	if err == nil {
		err = os.WriteFile(filepath.Join(proc, "clear_refs"), []byte("5"), 0o600)
	}
	if err != nil {
		if _, ci := os.LookupEnv("CI"); ci {
			t.Fatalf("CI is set, and memory of processes can't be measured: %v", err)
		}
		t.Logf("memory of processes can't be measured here: %v", err)
		return 0, false
	}
	_, rest, _ := strings.Cut(string(data), "\nVmHWM:")
	size, _, _ := strings.Cut(strings.TrimSpace(rest), " kB")
	kilobytes, err := strconv.Atoi(size)
	must(t, err)
	return kilobytes >> 10, true
}

func raw(encoding, data string) converter.RawValue {
	return converter.NewRawValue(&commonpb.Payload{Metadata: map[string][]byte{"encoding": []byte(encoding)}, Data: []byte(data)})
}

// Whatever people and strangers put into what they send, a line in the log is
// one event, and nothing in it steers a terminal.
func TestNothingIsInjectedIntoLogs(t *testing.T) {
	r := apart(t, "logs")
	r.start(t, "workflows")
	r.start(t, "issuer:ssh")
	const evil = "INJECTED\n{\"time\":\"2026-01-01T00:00:00Z\",\"level\":\"INFO\",\"msg\":\"INJECTED\"}\r\n\x1b[2J\x1b]0;INJECTED\a\u202e\u0085\u2028INJECTED"
	a := r.ask(t, "alice", "ssh/web-1")
	await(t, r.Client, a, access.StatePending)
	escaped := text(t, evil)
	escaped = escaped[1 : len(escaped)-1]

	forged := map[string]string{
		"reason":   edit(t, text(t, a.Request), `"reason":"`, `"reason":"`+escaped),
		"resource": edit(t, text(t, a.Request), `"resource":"`, `"resource":"`+escaped),
		"login":    edit(t, text(t, a.Request), `"login":"`, `"login":"`+escaped),
		"signer":   edit(t, text(t, a.Request), `"signer":"alice`, `"signer":"`+escaped),
		"field":    edit(t, text(t, a.Request), `"reason":`, `"`+escaped+`":1,"reason":`),
		"type":     edit(t, text(t, a.Request), `"type":"request`, `"type":"`+escaped),
	}
	for name, payload := range forged {
		q := r.request(t, "alice", "ssh/web-1")
		if o := r.outcome(t, q.ID, r.signed(t, "alice", "request@hallpass", payload)); o.State != access.StateDenied {
			t.Errorf("a request with a hostile %s is %s", name, o.State)
		}
	}
	decision := text(t, access.Decision{Header: r.Header("bob", access.TypeDecision), Request: a.ID, RequestHash: a.signed.Hash(), Verdict: access.Deny, Comment: "no"})
	for name, content := range map[string]any{
		"comment":   r.signed(t, "bob", "decision@hallpass", edit(t, decision, `"comment":"`, `"comment":"`+escaped)),
		"verdict":   r.signed(t, "bob", "decision@hallpass", edit(t, decision, `"verdict":"`, `"verdict":"`+escaped)),
		"namespace": access.Statement{Payload: decision, Signature: r.signed(t, "bob", "x INJECTED", decision).Signature},
		"signature": access.Statement{Payload: decision, Signature: evil},
		"payload":   access.Statement{Payload: evil, Signature: evil},
		"encoding":  raw(evil, "x"),
		"text":      raw("json/plain", text(t, evil)),
	} {
		must(t, r.Client.SignalWorkflow(t.Context(), access.WorkflowID(a.ID), "", access.MessageDecision, content))
		_ = say(t, r.Client, a, access.MessageDecision, content) // refused, by whoever
		if name == "text" {
			_ = r.Client.SignalWorkflow(t.Context(), access.WorkflowID(a.ID), "", evil, content) // Temporal may refuse the name
		}
	}
	if got := status(t, r.Client, a); got.State != access.StatePending {
		t.Fatalf("%s: %s", got.State, got.Why)
	}
	r.stop("workflows")
	r.stop("issuer:ssh")

	told := 0
	for _, file := range []string{r.log("workflows"), r.log("issuer:ssh"), filepath.Join(attack(t).dir, "dev.log"), filepath.Join(attack(t).dir, "temporal.log")} {
		data, err := os.ReadFile(file)
		must(t, err)
		for line := range strings.Lines(string(data)) {
			line = strings.TrimSuffix(line, "\n")
			told += strings.Count(line, "INJECTED")
			if i := strings.IndexFunc(line, func(c rune) bool { return c == utf8.RuneError || !unicode.IsPrint(c) }); i >= 0 {
				t.Errorf("%s has %q in the line %q", filepath.Base(file), line[i:min(len(line), i+8)], line)
			}
			var event struct{ Msg string }
			if filepath.Base(file) != "dev.log" && json.Unmarshal([]byte(line), &event) != nil || event.Msg == "INJECTED" || strings.HasPrefix(line, "INJECTED") {
				t.Errorf("%s has the line %q", filepath.Base(file), line)
			}
		}
	}
	if told == 0 {
		t.Error("no log tells of any of it, so the test shows nothing")
	}
	r.verifies(t)
}
