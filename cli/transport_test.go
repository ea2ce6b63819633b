package cli

import (
	"context"
	"crypto/ed25519"
	"encoding/pem"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"

	"hallpass/directory"
	"hallpass/statement"
)

// Every test of this package that has a world runs once more with the service
// in front of it, and the commands on the other side of HTTPS.
func TestOverHTTPS(t *testing.T) {
	if overHTTPS() {
		t.Skip("this is it")
	}
	t.Parallel()
	program, err := os.Executable()
	check(t, err)
	cmd := exec.CommandContext(t.Context(), program, "-test.timeout=10m")
	cmd.Env = append(os.Environ(), over+"=https")
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.HasPrefix(string(out), "PASS") {
		t.Errorf("%v\n%s", err, out)
	}
}

// away is a world whose commands go through the service, with nothing on their
// machine but its address and certificate.
func away(t *testing.T) *world {
	t.Helper()
	w := newWorld(t)
	if w.https == "" {
		w.serve()
	}
	config := filepath.Join(t.TempDir(), "hallpass.yaml")
	check(t, os.WriteFile(config, []byte("client: {service: \""+w.https+"\"}\n"), 0o600))
	w.env["HALLPASS_CONFIG"] = config
	return w
}

// Without a directory on his machine somebody is told all the same what is his
// to decide.
func TestPendingAwayFromTheDirectory(t *testing.T) {
	w := away(t)
	w.ask("ssh/web-1 --as deploy --reason x")
	if r := w.as("bob").must("pending"); !strings.Contains(r.stdout, "Yours to decide") {
		t.Errorf("%s%s", r.stdout, r.stderr)
	}
	if r := w.as("mallory").must("pending"); !strings.Contains(r.stdout, "For others to decide") || strings.Contains(r.stdout, "Yours") {
		t.Errorf("%s%s", r.stdout, r.stderr)
	}
	w.as("bob").typed = "a\n"
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	w.service.onTick = func(*service) { cancel() } // the inbox is empty
	if r := w.runArgs(ctx, "watch"); !strings.Contains(r.stdout, "Approved") {
		t.Errorf("exit %d, %s%s", r.code, r.stdout, r.stderr)
	}
}

// A passphrase is typed once for a command, though that signs twice; and never at
// a Tab.
func TestPassphraseOnceForACommand(t *testing.T) {
	w := away(t)
	_, key, err := ed25519.GenerateKey(nil)
	check(t, err)
	block, err := ssh.MarshalPrivateKeyWithPassphrase(key, "", []byte("open sesame"))
	check(t, err)
	check(t, os.WriteFile(w.keyFile("bob"), pem.EncodeToMemory(block), 0o600))
	public, err := ssh.NewPublicKey(key.Public())
	check(t, err)
	w.service.book.Directory, err = directory.Parse("directory.yaml", []byte("users:\n  bob: {groups: [sre], keys: ['"+statement.MarshalKey(public)+"']}\n  alice: {groups: [dev], keys: ['"+statement.MarshalKey(w.keys["alice"].PublicKey())+"']}\n"))
	check(t, err)
	id := w.ask("ssh/web-1 --as deploy --reason x")
	w.as("bob").typed, w.secret = "there is a terminal", "open sesame"
	if r := w.must("approve " + id); !strings.Contains(r.stdout, "Approved") {
		t.Error(r.stdout)
	}
	if n := strings.Count(w.prompts.String(), "Passphrase for "); n != 1 {
		t.Errorf("asked %d times: %s", n, w.prompts)
	}
	w.prompts.Reset()
	if r := w.as("alice").runArgs(t.Context(), "show", "", completeFlag); r.stdout != id+"\n" {
		t.Errorf("at a Tab, with a key that takes no passphrase: %q", r.stdout)
	}
	w.as("bob")
	if r := w.runArgs(t.Context(), "show", "", completeFlag); r.stdout != "" || w.prompts.Len() > 0 {
		t.Errorf("at a Tab: %q, %q", r.stdout, w.prompts)
	}
}
