package worker

import (
	"path/filepath"
	"testing"

	"hallpass/activities"
	"hallpass/audit"
	"hallpass/transport"
)

// The service looks into the record itself. It has no connection to Temporal here,
// so a workflow that was started for it would be noticed.
func TestListsTakeNoWorkflow(t *testing.T) {
	dir := t.TempDir()
	private, public := filepath.Join(dir, "audit.key"), filepath.Join(dir, "audit.pub")
	if _, err := audit.CreateKey(private, public, "test"); err != nil {
		t.Fatal(err)
	}
	key, err := audit.ReadKey(private)
	if err != nil {
		t.Fatal(err)
	}
	log, err := audit.Open(t.Context(), audit.Options{Database: filepath.Join(dir, "audit.db"), Key: key})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = log.Close() }()
	l := looking{&transport.Temporal{}, &activities.Activities{Log: log}}
	if locks, err := l.Locks(t.Context()); err != nil || len(locks) != 0 {
		t.Errorf("locks: %v, %v", locks, err)
	}
	if given, err := l.Delegations(t.Context()); err != nil || len(given) != 0 {
		t.Errorf("delegations: %v, %v", given, err)
	}
	if tasks, err := l.Reviews(t.Context()); err != nil || len(tasks) != 0 {
		t.Errorf("reviews: %v, %v", tasks, err)
	}
}
