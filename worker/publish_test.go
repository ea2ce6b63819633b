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
	run("abc", func(said string) bool {
		return strings.Contains(said, "AUDIT LOG REWRITTEN OR CUT OFF") && strings.Contains(said, "the log has 1")
	})
}
