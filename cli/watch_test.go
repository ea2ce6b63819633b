package cli

import (
	"context"
	"strings"
	"testing"

	"hallpass/access"
)

// The inbox shows each request whole before it takes an answer, takes no stray
// key for one, and goes on when somebody else was faster.
func TestWatch(t *testing.T) {
	w := newWorld(t)
	first := w.ask("ssh/web-1 --as deploy --reason disk_full")
	second := w.ask("ssh/web-1 --as root --reason curious")
	third := w.ask("ssh/web-1 --as deploy --reason later")
	broken := w.ask("ssh/web-1 --as deploy --reason broken")
	st := w.service.requests[broken]
	st.Evidence.Request.Payload = strings.Replace(st.Evidence.Request.Payload, "deploy", "root", 1)
	w.typed = "\nx\na\nd\nask the owner\ns\nq\n"
	w.as("bob")
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	w.service.onTick = func(*service) { cancel() } // the inbox is empty
	r := w.runArgs(ctx, "watch")
	if r.code != ExitInterrupted {
		t.Errorf("exit %d, %s", r.code, r.stderr)
	}
	for id, want := range map[string]access.State{first: access.StateActive, second: access.StateDenied, third: access.StatePending, broken: access.StatePending} {
		if got := w.service.requests[id].State; got != want {
			t.Errorf("request %s is %s, want %s", id, got, want)
		}
	}
	for _, want := range []string{"disk full", "curious", "later", "signs ", "a key of alice, verified", "Approved. The request is active", "denied by bob: ask the owner"} {
		if !strings.Contains(r.stdout, want) {
			t.Errorf("watch doesn't show %q:\n%s", want, r.stdout)
		}
	}
	if n := strings.Count(r.stderr, "can't be trusted"); n != 1 {
		t.Errorf("what can't be trusted is said %d times:\n%s", n, r.stderr)
	}
	if n := strings.Count(w.prompts.String(), "a approve, d deny"); n != 5 { // twice more for what is no answer
		t.Errorf("asked %d times", n)
	}
}

// Whose say it is is said before it is asked for.
func TestWatchInThePlaceOfAnother(t *testing.T) {
	w := newWorld(t)
	w.ask("ssh/web-1 --as deploy --reason x")
	w.as("bob").must("delegate --to mallory --for 8h")
	w.typed = "q\n"
	r := w.as("mallory").must("watch")
	if !strings.Contains(r.stdout, "yours for    bob (delegated)") {
		t.Errorf("%s\n%s", r.stdout, r.stderr)
	}
}

// Somebody else was faster: what is refused is said, and the next one comes.
func TestWatchTooLate(t *testing.T) {
	w := newWorld(t)
	id := w.ask("ssh/web-1 --as deploy --reason x")
	next := w.ask("ssh/web-1 --as deploy --reason y")
	w.typed = "a\nq\n"
	a := w.service.requests[id]
	w.service.refuse = func(request string) error {
		if request == id {
			return access.Errorf(access.CodeEnded, "the request has ended: %s", a.State)
		}
		return nil
	}
	r := w.as("bob").must("watch")
	if !strings.Contains(r.stderr, "the request has ended") || !strings.Contains(r.stdout, "y") || w.service.requests[next].State != access.StatePending {
		t.Errorf("%s\n%s", r.stdout, r.stderr)
	}
}

func TestWatchRefuses(t *testing.T) {
	w := newWorld(t)
	if r := w.as("bob").run("watch"); r.code != ExitUsage || !strings.Contains(r.stderr, "no terminal") {
		t.Errorf("without a terminal: exit %d, %s", r.code, r.stderr)
	}
	w.typed = "q\n"
	if r := w.run("watch -o json"); r.code != ExitUsage {
		t.Errorf("for programs: exit %d, %s", r.code, r.stderr)
	}
	ctx, cancel := context.WithCancel(context.Background())
	w.service.onTick = func(*service) { cancel() }
	if r := w.runArgs(ctx, "watch"); r.code != ExitInterrupted || !strings.Contains(r.stderr, "Nothing waits for you") {
		t.Errorf("interrupted: exit %d, %s", r.code, r.stderr)
	}
}
