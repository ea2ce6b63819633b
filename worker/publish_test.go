package worker

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"hallpass/access"
	"hallpass/audit"
)

// lines is a log that can be read while it is written.
type lines struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// A worker publishes the checkpoint when it starts, and says loudly when the
// log doesn't go on from what is published.
func TestPublish(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	public, err := audit.CreateKey(at("key"), at("pub"), "audit.example.com")
	if err != nil {
		t.Fatal(err)
	}
	key, err := audit.ReadKey(at("key"))
	if err != nil {
		t.Fatal(err)
	}
	var ready Readiness
	run := func(database string, until func(said string) bool) {
		t.Helper()
		l, err := audit.Open(t.Context(), audit.Options{Database: at(database), Key: key})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = l.Close() }()
		for range 2 - len(database)%2 { // two events in one, one in the other
			if _, err := l.Append(t.Context(), audit.Event{Type: audit.RulebookBroken, Why: database}); err != nil {
				t.Fatal(err)
			}
		}
		var said lines
		p := &parts{config: &Config{Audit: Audit{Publish: at("checkpoint")}}, audit: l, health: &health{}, log: slog.New(slog.NewTextHandler(&said, nil))}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- p.publish(ctx) }()
		for deadline := time.Now().Add(time.Minute); !until(said.String()); <-time.After(5 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("nothing happened; it said %q", said.String())
			}
		}
		for deadline := time.Now().Add(time.Minute); ; <-time.After(5 * time.Millisecond) {
			ready = p.health.ready(t.Context())
			if len(ready.Parts) == 1 && ready.Parts[0].Detail != "hasn't been looked at yet" {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("/ready says nothing of it: %+v", ready)
			}
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	run("ab", func(string) bool {
		msg, err := os.ReadFile(at("checkpoint"))
		if err != nil {
			return false
		}
		c, err := audit.OpenCheckpoint(msg, public)
		return err == nil && c.Size == 2
	})
	if got := ready.Parts[0]; !ready.Ready || !got.OK || got.Part != "published checkpoint" || got.Detail != "the checkpoint of 2 events is published" {
		t.Errorf("/ready says %+v", ready)
	}
	run("abc", func(said string) bool {
		return strings.Contains(said, "AUDIT LOG REWRITTEN OR CUT OFF") && strings.Contains(said, "the log has 1")
	}) // Hosts go on getting their lists: whoever can write to the place would take them away.
	if got := ready.Parts[0]; !ready.Ready || got.OK || !strings.HasPrefix(got.Detail, "AUDIT LOG REWRITTEN OR CUT OFF: ") || got.Hint == "" {
		t.Errorf("of a log that was cut off /ready says %+v", ready)
	}
}

// That a log was rewritten is said again and again, as long as it is so; that it can't
// be published, once.
func TestPublishRepeatsTheAlarm(t *testing.T) {
	var said lines
	p := &published{log: slog.New(slog.NewTextHandler(&said, nil))}
	now := time.Now()
	took := func(times int, err error) {
		for range times {
			p.took(now, 7, err)
			now = now.Add(publishEvery)
		}
	}
	times := func(words string) int { return strings.Count(said.String(), words) }
	const minute = int(time.Minute / publishEvery)
	took(60*minute, access.Errorf(access.CodeUnverified, "the audit log has been changed"))
	if n := times("AUDIT LOG REWRITTEN"); n != 12 {
		t.Errorf("said %d times in an hour, want every 5 minutes", n)
	}
	took(1, access.Errorf(access.CodeUnverified, "the audit log has been changed otherwise"))
	if n := times("AUDIT LOG REWRITTEN"); n != 13 {
		t.Errorf("another reason: said %d times", n)
	}
	took(60*minute, access.Errorf(access.CodeUnavailable, "nobody there"))
	if n := times("can't be published"); n != 1 {
		t.Errorf("out of reach: said %d times", n)
	}
	took(2, nil)
	if n := times("being published again"); n != 1 {
		t.Errorf("published again: said %d times", n)
	}
}
