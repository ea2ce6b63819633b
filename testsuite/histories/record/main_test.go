package main

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"hallpass/testsuite/histories"
)

// A request of today costs no more than what is recorded of one like it, which
// docs/performance.md shows: recordings replay unchanged where a change is guarded,
// so they say nothing of what a new request costs.
func TestLiveCost(t *testing.T) {
	program := os.Getenv("HALLPASS_BIN")
	if program == "" {
		t.Skip("HALLPASS_BIN is not set; make e2e builds bin/hallpass and sets it")
	}
	names := []string{"expired", "approved-expired", "released", "denied", "revoked", "scheduled-expired", "timed-out",
		"extended-released", "emergency-released", "stopped", "told-approved-expired"}
	cheapest := map[string]histories.Cost{}
	var over []string
	for range 3 { // where much else goes on, a workflow may be woken once more
		out := t.TempDir()
		if err := record(t.Context(), program, out, names...); err != nil {
			t.Fatal(err)
		}
		files, err := filepath.Glob(filepath.Join(out, "*.json"))
		if err != nil || len(files) < len(names) {
			t.Fatal(files, err)
		}
		over = nil
		for _, file := range files {
			name := filepath.Base(file)
			now, was := cost(t, file), cost(t, filepath.Join("..", name))
			if best, ok := cheapest[name]; ok {
				now.Actions, now.Events = min(now.Actions, best.Actions), min(now.Events, best.Events)
			}
			cheapest[name] = now
			if now.Actions > was.Actions || now.Events > was.Events {
				over = append(over, fmt.Sprintf("%s takes %d actions and %d events, and took %d and %d", name, now.Actions, now.Events, was.Actions, was.Events))
			}
		}
		if len(over) == 0 {
			return
		}
	}
	for _, line := range over {
		t.Error(line)
	}
}

func cost(t *testing.T, file string) histories.Cost {
	t.Helper()
	h, err := histories.Read(file)
	if err != nil {
		t.Fatal(err)
	}
	return histories.Of(h)
}
