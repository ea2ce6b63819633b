package worker

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A list of channels or look-ups that isn't right keeps the workflows' worker from
// starting; without one nobody is told.
func TestNotify(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil { // whatever the umask
		t.Fatal(err)
	}
	p := &parts{config: &Config{UI: "https://temporal.example.com/", env: environ(nil)}}
	if got := p.link("0199"); got != "https://temporal.example.com/namespaces/default/workflows/access-0199" {
		t.Errorf("link %s", got)
	}
	p.config.UI = ""
	if got := p.link("0199"); got != "" {
		t.Errorf("link %s", got)
	}
	p.config.Notify = filepath.Join(dir, "notify.yaml")
	if err := os.WriteFile(p.config.Notify, []byte("channels: {a: {type: pager}}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := p.channels(); err == nil || !strings.Contains(err.Error(), "notify.yaml:1:") {
		t.Errorf("error %v", err)
	}
	p.config.Lookups = filepath.Join(dir, "lookups.yaml")
	if err := os.WriteFile(p.config.Lookups, []byte("lookups: {a: {kind: phone}}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if l, err := p.lookups(); l != nil || err == nil || !strings.Contains(err.Error(), "lookups.yaml:1:") {
		t.Errorf("%v, error %v", l, err)
	}
	p.config.Notify, p.config.Lookups = "", ""
	if l, err := p.lookups(); l != nil || err != nil {
		t.Errorf("%v, %v", l, err)
	}
	if c, err := p.channels(); c != nil || err != nil {
		t.Errorf("%v, %v", c, err)
	}
}
