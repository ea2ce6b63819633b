package worker

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.temporal.io/sdk/contrib/envconfig"
	"golang.org/x/sys/unix"

	"hallpass/access"
	"hallpass/audit"
	"hallpass/evidence"
)

// quiet is a log that nobody reads.
var quiet = slog.New(slog.DiscardHandler)

// furnishedConfig is what Dev makes in a new folder.
func furnishedConfig(t *testing.T) (*Folder, *Config) {
	t.Helper()
	f, err := Claim(filepath.Join(t.TempDir(), "dev"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	c, _, err := furnish(f, DevOptions{Env: environ(map[string]string{"HOME": t.TempDir()})})
	if err != nil {
		t.Fatal(err)
	}
	return f, c
}

// patience is for machines that are busy with other things.
const patience = 90 * time.Second

func TestOpenWithEveryRole(t *testing.T) {
	_, c := furnishedConfig(t)
	c.Issuers.Vault = VaultIssuer{Address: "https://127.0.0.1:8200", TokenRole: "hallpass", Auth: "token", TokenFile: "token"}
	p, err := open(t.Context(), c, Roles(), &health{}, quiet)
	if err != nil {
		t.Fatal(err)
	}
	if len(p.stations) != len(Roles()) {
		t.Errorf("%d stations for %d roles", len(p.stations), len(Roles()))
	}
	if err := p.close(); err != nil {
		t.Error(err)
	}
}

// A worker without an issuer's role must not so much as look at the CA key.
// The key is a named pipe here: opening it would wait for ever, and so would
// be seen.
func TestWorkflowsRoleNeverOpensTheCAKey(t *testing.T) {
	f, c := furnishedConfig(t)
	if err := os.Remove(f.Path("ssh_ca")); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(f.Path("ssh_ca"), 0o600); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		p, err := open(t.Context(), c, []string{RoleWorkflows}, &health{}, quiet)
		done <- errors.Join(err, p.close())
	}()
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(patience):
		t.Fatal("the role workflows opened the CA key")
	}
}

func TestOpenRefuses(t *testing.T) {
	for _, tt := range []struct {
		name  string
		roles []string
		spoil func(*Folder, *Config) error
		want  string
	}{
		{"no role", nil, nil, "no role; there are workflows, issuer:ssh"},
		{"unknown role", []string{"issuer:db"}, nil, `role "issuer:db" is unknown; there are workflows, issuer:ssh, issuer:vault`},
		{"no Vault", []string{RoleIssuerVault}, nil, "open role issuer:vault: issuers.vault.address is not configured, and the role issuer:vault needs it"},
		{"Vault without a login", []string{RoleIssuerVault}, func(_ *Folder, c *Config) error { c.Issuers.Vault.Address = "https://127.0.0.1:8200"; return nil },
			"open role issuer:vault: issuers.vault: role_id is not configured, and auth approle needs it"},
		{"role twice", []string{RoleWorkflows, RoleWorkflows}, nil, "role workflows is there twice"},
		{"issuer without a key", []string{RoleIssuerSSH}, func(_ *Folder, c *Config) error { c.Issuers.SSH.Key = ""; return nil }, "issuers.ssh.key is not configured"},
		{"issuer without its key file", []string{RoleIssuerSSH}, func(f *Folder, _ *Config) error { return os.Remove(f.Path("ssh_ca")) }, "open role issuer:ssh: "},
		{"CA key that others can read", []string{RoleIssuerSSH}, func(f *Folder, _ *Config) error { return os.Chmod(f.Path("ssh_ca"), 0o640) }, "0640"},
		{"audit key that others can read", []string{RoleWorkflows}, func(f *Folder, _ *Config) error { return os.Chmod(f.Path("audit.key"), 0o604) }, "audit"},
		{"no audit key", []string{RoleWorkflows}, func(f *Folder, _ *Config) error { return os.Remove(f.Path("audit.key")) }, "there is no audit key at"},
		{"no policy", []string{RoleWorkflows}, func(f *Folder, _ *Config) error { return os.Remove(f.Path("policy.yaml")) }, "policy.yaml"},
		{"no policy configured", []string{RoleWorkflows}, func(_ *Folder, c *Config) error { c.Policy = ""; return nil }, "policy is not configured"},
		{"broken policy", []string{RoleWorkflows}, func(f *Folder, _ *Config) error {
			return os.WriteFile(f.Path("policy.yaml"), []byte("rules: {}\n"), 0o600)
		}, "policy.yaml:1:"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f, c := furnishedConfig(t)
			if tt.spoil != nil {
				if err := tt.spoil(f, c); err != nil {
					t.Fatal(err)
				}
			}
			_, err := open(t.Context(), c, tt.roles, &health{}, quiet)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want an error with %q", err, tt.want)
			}
		})
	}
}

func TestOpenWithEncryptedCAKey(t *testing.T) {
	f, c := furnishedConfig(t)
	if err := createEncrypted(f.Path("locked"), "correct horse"); err != nil {
		t.Fatal(err)
	}
	c.Issuers.SSH = SSHIssuer{Key: "file:" + f.Path("locked"), PassphraseFile: f.Path("pass")}
	for _, tt := range []struct {
		name, pass string
		mode       os.FileMode
		want       string
	}{
		{"right", "correct horse\n", 0o600, ""},
		{"wrong", "wrong horse\n", 0o600, "passphrase is wrong"},
		{"right, but others can read it", "correct horse\n", 0o644, "has mode 0644"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if err := os.WriteFile(f.Path("pass"), []byte(tt.pass), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(f.Path("pass"), tt.mode); err != nil {
				t.Fatal(err)
			}
			p, err := open(t.Context(), c, []string{RoleIssuerSSH}, &health{}, quiet)
			if err == nil {
				err = p.close()
			}
			switch {
			case tt.want == "" && err != nil:
				t.Error(err)
			case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)):
				t.Errorf("got %v, want an error with %q", err, tt.want)
			case err != nil && strings.Contains(err.Error(), "horse"):
				t.Errorf("the passphrase is in the error: %v", err)
			}
		})
	}
}

// events lists the types and reasons in the audit log.
func events(t *testing.T, l *audit.Log, typ string) (why []string) {
	t.Helper()
	for r, err := range l.Events(t.Context(), audit.Query{Type: typ}) {
		if err != nil {
			t.Fatal(err)
		}
		why = append(why, r.Event.Why)
	}
	return why
}

func TestRulebookVersionsAreRecorded(t *testing.T) {
	f, c := furnishedConfig(t)
	p, err := open(t.Context(), c, []string{RoleWorkflows}, &health{}, quiet)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := p.close(); err != nil {
			t.Error(err)
		}
	}()
	count := func(typ string, want int) {
		t.Helper()
		if got := len(events(t, p.audit, typ)); got != want {
			t.Errorf("%d events %s, want %d", got, typ, want)
		}
	}
	replace := func(data string) {
		t.Helper()
		if err := os.WriteFile(f.Path("new"), []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(f.Path("new"), f.Path("policy.yaml")); err != nil {
			t.Fatal(err)
		}
	}
	count(audit.RulebookChanged, 3) // at start
	first := p.book.Rulebook()
	count(audit.RulebookChanged, 3) // and once

	replace(policyExample + "\n# a change\n")
	second := p.book.Rulebook()
	if first.Digests().Policy == second.Digests().Policy {
		t.Error("a changed policy is not in force")
	}
	count(audit.RulebookChanged, 4)

	replace("rules: [\n")
	for range 3 {
		if got := p.book.Rulebook(); got != second {
			t.Error("a broken policy replaced the good one")
		}
	}
	count(audit.RulebookBroken, 1) // once, however often it is looked at
	if why := events(t, p.audit, audit.RulebookBroken)[0]; !strings.Contains(why, "policy.yaml:") {
		t.Errorf("the event says %q, not where", why)
	}
	replace("rules: {\n")
	p.book.Rulebook()
	count(audit.RulebookBroken, 2) // broken in another way

	replace(policyExample + "\n# a change\n")
	p.book.Rulebook()
	replace("rules: {\n")
	p.book.Rulebook()
	count(audit.RulebookBroken, 3) // mended and broken again
	count(audit.RulebookChanged, 4)
}

// forgetful is an audit log that can be down.
type forgetful struct {
	down     bool
	recorded []access.Digests
	events   []audit.Event
}

func (l *forgetful) RecordRulebook(_ context.Context, r *evidence.Rulebook) error {
	if l.down {
		return errors.New("disk is full")
	}
	l.recorded = append(l.recorded, r.Digests())
	return nil
}

func (l *forgetful) Append(_ context.Context, e audit.Event) (int64, error) {
	if l.down {
		return 0, errors.New("disk is full")
	}
	l.events = append(l.events, e)
	return int64(len(l.events)), nil
}

func TestRulebookIsRecordedOnceTheLogIsBack(t *testing.T) {
	f, c := furnishedConfig(t)
	log := &forgetful{down: true}
	b, err := openBook(c, log, quiet)
	if err != nil {
		t.Fatal(err)
	}
	b.Rulebook()
	if err := os.WriteFile(f.Path("policy.yaml"), []byte("-"), 0o600); err != nil {
		t.Fatal(err)
	}
	b.Rulebook()
	if len(log.recorded) != 0 || len(log.events) != 0 {
		t.Fatal("recorded while down")
	}
	log.down = false
	b.Rulebook()
	b.Rulebook()
	if len(log.recorded) != 1 || len(log.events) != 1 {
		t.Errorf("recorded %d versions and %d broken ones, want one each", len(log.recorded), len(log.events))
	}
}

// syncBuffer is a buffer that a log may write to while a test reads.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// eventually polls until ok, for at most a while.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("never happened: %s", what)
		}
		<-time.After(5 * time.Millisecond)
	}
}

// freePort is a port that nothing listens on.
func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", loopback+":0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close() //nolint:errcheck // test
	return l.Addr().(*net.TCPAddr).Port
}

func TestRunWaitsForTemporalAndStopsWhenAsked(t *testing.T) {
	_, c := furnishedConfig(t)
	c.Temporal.Address = address(freePort(t))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var log syncBuffer
	done := make(chan error, 1)
	go func() { done <- Run(ctx, c, c.Roles(), NewLog(&log)) }()
	eventually(t, "waits, and says so", func() bool {
		return strings.Count(log.String(), `"msg":"waiting for temporal"`) >= 2
	})
	if !strings.Contains(log.String(), c.Temporal.Address) {
		t.Errorf("the log doesn't say what it waits for: %s", log.String())
	}
	cancel()
	select {
	case err := <-done:
		if err != nil {
			t.Errorf("stopping is an error: %v", err)
		}
	case <-time.After(patience):
		t.Fatal("doesn't stop")
	}
}

func TestKeepTrying(t *testing.T) {
	t.Run("until it works", func(t *testing.T) {
		n := 0
		err := keepTrying(t.Context(), quiet, "it", func(context.Context) error {
			if n++; n < 3 {
				return access.Errorf(access.CodeUnavailable, "not yet")
			}
			return nil
		})
		if err != nil || n != 3 {
			t.Errorf("%d tries, %v", n, err)
		}
	})
	t.Run("not at what waiting can't mend", func(t *testing.T) {
		n := 0
		err := keepTrying(t.Context(), quiet, "it", func(context.Context) error {
			n++
			return access.Errorf(access.CodeForbidden, "never")
		})
		if access.CodeOf(err) != access.CodeForbidden || n != 1 {
			t.Errorf("%d tries, %v", n, err)
		}
	})
	t.Run("no longer than wanted", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		err := keepTrying(ctx, quiet, "it", func(context.Context) error {
			cancel()
			return access.Errorf(access.CodeUnavailable, "not yet")
		})
		if err == nil {
			t.Error("gave up without an error")
		}
	})
}

func TestDialSaysWhatIsNotThere(t *testing.T) {
	_, c := furnishedConfig(t)
	c.Temporal.Address = address(freePort(t))
	_, err := c.Dial(t.Context())
	var e *access.Error
	if !errors.As(err, &e) || e.Code != access.CodeUnavailable || !strings.Contains(e.Message, c.Temporal.Address) || !strings.Contains(e.Hint, "hallpass dev") {
		t.Errorf("got %v", err)
	}
}

func TestClientOptionsComeFromTemporalsOwnVariables(t *testing.T) {
	c := &Config{env: environ(map[string]string{
		"HOME": t.TempDir(), "TEMPORAL_ADDRESS": "temporal.example.com:7233", "TEMPORAL_NAMESPACE": "access",
	})}
	o, err := c.clientOptions()
	if err != nil {
		t.Fatal(err)
	}
	if o.HostPort != "temporal.example.com:7233" || o.Namespace != "access" {
		t.Errorf("address %q, namespace %q", o.HostPort, o.Namespace)
	}
	c.Temporal = Temporal{Address: "127.0.0.1:1", Namespace: "mine"}
	if o, err = c.clientOptions(); err != nil || o.HostPort != "127.0.0.1:1" || o.Namespace != "mine" {
		t.Errorf("the configuration doesn't win: %q, %q, %v", o.HostPort, o.Namespace, err)
	}
}

func TestCommandNamesEveryAttribute(t *testing.T) {
	got := command(envconfig.ClientConfigProfile{Namespace: "default"}, attributes())
	want := "temporal operator search-attribute create --namespace default" +
		" --name HallpassApprovers --type KeywordList --name HallpassExpires --type Datetime" +
		" --name HallpassRequester --type Keyword --name HallpassResource --type Keyword --name HallpassState --type Keyword"
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestTextLogIsSafeForTerminals(t *testing.T) {
	var b bytes.Buffer
	log := newTextLog(&b, slog.LevelInfo).With("a", "x").WithGroup("g")
	log.Warn("from\x1b[31m outside", "why", "two\nlines", "n", 7)
	line := b.String()
	if strings.Count(line, "\n") != 1 || strings.Contains(line, "\x1b") {
		t.Errorf("not one clean line: %q", line)
	}
	if want := `warning: "from\x1b[31m outside" a=x g.why="two\nlines" g.n=7` + "\n"; !strings.HasSuffix(line, want) {
		t.Errorf("got %q, want it to end in %q", line, want)
	}
	b.Reset()
	newTextLog(&b, slog.LevelWarn).Info("not now")
	ctx, cancel := context.WithCancel(t.Context())
	log = warnings(ctx, newTextLog(&b, slog.LevelInfo)).With("a", "x")
	log.Info("chatter")
	if b.Len() != 0 {
		t.Errorf("not a warning: %q", b.String())
	}
	log.Warn("trouble")
	cancel()
	log.Warn("was stopped")
	if got := b.String(); !strings.HasSuffix(got, " warning: trouble a=x\n") {
		t.Errorf("got %q", got)
	}
}

func TestCheck(t *testing.T) {
	f, c := furnishedConfig(t)
	c.Temporal.Address = address(freePort(t))
	bad := func() (parts []string) {
		for _, finding := range c.Check(t.Context()) {
			if !finding.OK {
				parts = append(parts, finding.Part)
			}
		}
		return parts
	}
	if got := bad(); !slices.Equal(got, []string{"temporal"}) {
		t.Errorf("wrong with a new folder: %v", got)
	}
	// Files that a worker wouldn't obey.
	rulebook := []string{"policy", "directory", "catalog"}
	for _, part := range rulebook {
		if err := os.Chmod(f.Path(part+".yaml"), 0o664); err != nil {
			t.Fatal(err)
		}
	}
	if got := bad(); !slices.Equal(got, append(slices.Clone(rulebook), "temporal")) {
		t.Errorf("found wrong, of files that their group can write to: %v", got)
	}
	for _, part := range rulebook {
		if err := os.Chmod(f.Path(part+".yaml"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(f.Path("ssh_ca"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(f.Path("catalog.yaml"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(f.Path("directory.yaml")); err != nil { // fine for a client
		t.Fatal(err)
	}
	if got := bad(); !slices.Equal(got, []string{"catalog", "ssh CA", "temporal"}) {
		t.Errorf("found wrong: %v", got)
	}

	c.Issuers.SSH.Trusted = f.Path("cas.pub")
	if got := bad(); !slices.Equal(got, []string{"catalog", "ssh CA", "temporal"}) {
		t.Errorf("found wrong, where no CA is trusted beside it: %v", got)
	}
	if err := errors.Join(os.WriteFile(f.Path("cas.pub"), nil, 0o600), os.Chmod(f.Path("cas.pub"), 0o620)); err != nil {
		t.Fatal(err)
	}
	if got := bad(); !slices.Equal(got, []string{"catalog", "ssh CA", "trusted CAs", "temporal"}) {
		t.Errorf("found wrong, of CAs that a group may name: %v", got)
	}
	c.Issuers.SSH.Trusted = ""

	// What workers wouldn't start with is found as well, and that it isn't on
	// this machine is fine.
	c.Notify, c.Lookups = f.Path("notify.yaml"), f.Path("lookups.yaml")
	if got := bad(); !slices.Equal(got, []string{"catalog", "ssh CA", "temporal"}) {
		t.Errorf("found wrong, of what isn't here: %v", got)
	}
	for name, content := range map[string]string{
		"notify.yaml":  "channels: {a: {type: pager}}\n",
		"lookups.yaml": "lookups: {a: {kind: pagerduty, url: 'https://example.com/', domain: example.com, authorization_file: gone}}\n",
	} {
		if err := os.WriteFile(f.Path(name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if got := bad(); !slices.Equal(got, []string{"catalog", "notify", "lookups", "ssh CA", "temporal"}) {
		t.Errorf("found wrong: %v", got)
	}
}
