package worker

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"hallpass/access"
	"hallpass/ca"
	"hallpass/evidence"
	"hallpass/policy"
)

func createEncrypted(path, passphrase string) error {
	_, err := ca.Create(path, "ed25519", []byte(passphrase), "")
	return err
}

// snapshot is every file in a folder with its mode and content.
func snapshot(t *testing.T, dir string) map[string]string {
	t.Helper()
	files := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		name, _ := filepath.Rel(dir, path)
		content := ""
		if !d.IsDir() {
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			content = string(data)
		}
		files[name] = info.Mode().String() + " " + content
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func TestFurnish(t *testing.T) {
	f, c := furnishedConfig(t)
	before := snapshot(t, f.Path())
	for name, want := range map[string]string{
		".": "drwx------", "people": "drwx------", "people/bob": "drwx------", "lock": "-rw-------",
		"audit.key": "-rw-------", "audit.pub": "-rw-r--r--", "ssh_ca": "-rw-------", "ssh_ca.pub": "-rw-r--r--",
		"people/bob/id": "-rw-------", "people/bob/id.pub": "-rw-r--r--",
		"policy.yaml": "-rw-------", "directory.yaml": "-rw-------", "catalog.yaml": "-rw-------", "hallpass.yaml": "-rw-------",
	} {
		if mode, _, _ := strings.Cut(before[name], " "); mode != want {
			t.Errorf("%s has mode %q, want %s", name, mode, want)
		}
	}
	if c.Temporal.Address != "127.0.0.1:7233" || c.UI != "http://127.0.0.1:8233" || c.Audit.Key != f.Path("audit.key") {
		t.Errorf("configured: %+v", c)
	}
	_, made, err := furnish(f, DevOptions{Env: environ(nil), Port: 7300})
	if err != nil {
		t.Fatal(err)
	}
	if len(made.names) != 0 {
		t.Errorf("made again: %v", made.names)
	}
	if diff := cmp.Diff(before, snapshot(t, f.Path())); diff != "" {
		t.Errorf("a second start changed the folder:\n%s", diff)
	}
}

// A crash may come between any two files: whatever is missing is made, and
// what is there is left as it is.
func TestFurnishGoesOnAfterACrash(t *testing.T) {
	f, _ := furnishedConfig(t)
	before := snapshot(t, f.Path())
	for _, missing := range []string{
		"policy.yaml", "directory.yaml", "catalog.yaml", "hallpass.yaml", "audit.key", "ssh_ca", "people/bob/id", "people",
	} {
		t.Run(missing, func(t *testing.T) {
			if err := os.RemoveAll(f.Path(missing)); err != nil {
				t.Fatal(err)
			}
			c, made, err := furnish(f, DevOptions{Env: environ(nil)})
			if err != nil {
				t.Fatal(err)
			}
			if len(made.names) == 0 {
				t.Error("made nothing")
			}
			p, err := open(t.Context(), c, c.Roles(), &health{}, quiet)
			if err != nil {
				t.Fatalf("doesn't open afterwards: %v", err)
			}
			if err := p.close(); err != nil {
				t.Error(err)
			}
			for _, path := range []string{"audit.db", "audit.db-wal", "audit.db-shm"} {
				if err := os.RemoveAll(f.Path(path)); err != nil { // belongs to the old audit key
					t.Fatal(err)
				}
			}
			after := snapshot(t, f.Path())
			for name := range before {
				if _, ok := after[name]; !ok {
					t.Errorf("%s is still missing", name)
				}
			}
			for name := range after {
				if strings.Contains(name, ".new-") {
					t.Errorf("left behind: %s", name)
				}
			}
		})
	}
}

// The examples have to say what their comments say they do.
func TestExamplesDecide(t *testing.T) {
	f, c := furnishedConfig(t)
	files, err := evidence.OpenFiles(c.Policy, c.Directory, c.Catalog, evidence.FilesOptions{})
	if err != nil {
		t.Fatal(err)
	}
	book := files.Rulebook()
	you, ok := book.Directory.User(c.Client.User)
	if !ok {
		t.Fatalf("the directory doesn't know %q", c.Client.User)
	}
	bob, ok := book.Directory.User("bob")
	if !ok {
		t.Fatal("the directory doesn't know bob")
	}
	decide := func(resource, reason string) access.Ruling {
		r, ok := book.Catalog.Resource(resource)
		if !ok {
			t.Fatalf("the catalog has no %s", resource)
		}
		now := time.Now().UTC()
		return book.Policy.Decide(policy.Input{
			Request: access.Request{
				Header:   access.Header{Type: access.TypeRequest, Signer: you.Name, Time: now},
				Resource: resource, Login: r.Logins[0], Duration: 1800, Reason: reason,
			},
			Requester: you, Resource: r, Now: now,
		})
	}
	if got := decide("ssh/sandbox", ""); got.Effect != access.EffectAllow {
		t.Errorf("sandbox: %s, %s", got.Effect, got.Why)
	}
	got := decide("ssh/web-1", "to see")
	if got.Effect != access.EffectAsk || !policy.Eligible(got.Needs, policy.Voter{User: bob}) || policy.Eligible(got.Needs, policy.Voter{User: you}) {
		t.Errorf("web-1: %s, %s, needs %v", got.Effect, got.Why, got.Needs)
	}
	if got := decide("ssh/web-1", ""); got.Effect != access.EffectDeny {
		t.Errorf("web-1 without a reason: %s", got.Effect)
	}
	if c.Client.Key != f.Path("people", you.Name, "id") {
		t.Errorf("signing key %q", c.Client.Key)
	}
}

func TestFurnishTakesYourOwnKeys(t *testing.T) {
	home := t.TempDir()
	if err := os.MkdirAll(filepath.Join(home, ".ssh"), 0o700); err != nil {
		t.Fatal(err)
	}
	key := filepath.Join(home, ".ssh", "id_ed25519")
	if err := createSigningKey(key, key+".pub", "me@home: # odd"); err != nil {
		t.Fatal(err)
	}
	// A public key alone is of no use here.
	if err := os.WriteFile(filepath.Join(home, ".ssh", "id_ecdsa.pub"), []byte("ecdsa-sha2-nistp256 AAAA"), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := Claim(t.TempDir() + "/dev")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close() //nolint:errcheck // test
	c, made, err := furnish(f, DevOptions{Env: environ(map[string]string{"HOME": home, "SSH_AUTH_SOCK": "/nowhere"})})
	if err != nil {
		t.Fatal(err)
	}
	if c.Client.Key != "" || made.you.Key != "" {
		t.Errorf("made a key %q beside the user's own", c.Client.Key)
	}
	files, err := evidence.OpenFiles(c.Policy, c.Directory, c.Catalog, evidence.FilesOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if n := len(files.Rulebook().Directory.Keys(c.Client.User)); n != 1 {
		t.Errorf("the directory has %d keys of the user, want 1", n)
	}
}

func TestYAMLText(t *testing.T) {
	for in, want := range map[string]string{
		"alice": "alice", "a.b+c@d": "a.b+c@d", "true": `"true"`, "null": `"null"`, "123": `"123"`, "people/x/id": "people/x/id", "a: b": `"a: b"`, "~": `"~"`,
	} {
		if got := yamlText(in); got != want {
			t.Errorf("yamlText(%q) = %s, want %s", in, got, want)
		}
	}
}

func TestClaim(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "dev")
	f, err := Claim(dir)
	if err != nil {
		t.Fatal(err)
	}
	_, err = Claim(dir)
	var e *access.Error
	if !errors.As(err, &e) || e.Code != access.CodeUnavailable || !strings.Contains(e.Message, "(process ") || e.Hint == "" {
		t.Errorf("a second claim: %v", err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if f, err = Claim(dir); err != nil {
		t.Fatalf("after Close: %v", err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	for _, mode := range []os.FileMode{0o750, 0o705, 0o701} {
		if err := os.Chmod(dir, mode); err != nil {
			t.Fatal(err)
		}
		if _, err := Claim(dir); access.CodeOf(err) != access.CodeMalformed {
			t.Errorf("a folder of mode %04o: %v", mode, err)
		}
	}
	if _, err := Claim(t.TempDir() + "/new\nline"); access.CodeOf(err) != access.CodeMalformed {
		t.Errorf("a line end in the name: %v", err)
	}
}

// The lock goes with its process, however that ends.
func TestClaimAfterAKill(t *testing.T) {
	if dir := os.Getenv("HALLPASS_TEST_CLAIM"); dir != "" { // the child
		if _, err := Claim(dir); err != nil {
			t.Fatal(err)
		}
		_, _ = os.Stdout.WriteString("claimed\n")
		_, _ = io.Copy(io.Discard, os.Stdin) // until killed
		return
	}
	dir := filepath.Join(t.TempDir(), "dev")
	cmd := exec.Command(os.Args[0], "-test.run=^TestClaimAfterAKill$")
	cmd.Env = append(os.Environ(), "HALLPASS_TEST_CLAIM="+dir)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close() //nolint:errcheck // test
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 7)
	if _, err := io.ReadFull(out, buf); err != nil || string(buf) != "claimed" {
		t.Fatalf("child says %q, %v", buf, err)
	}
	if _, err := Claim(dir); access.CodeOf(err) != access.CodeUnavailable {
		t.Errorf("while the child lives: %v", err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // it was killed
	f, err := Claim(dir)
	if err != nil {
		t.Fatalf("after the kill: %v", err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestCheckPort(t *testing.T) {
	l, err := net.Listen("tcp", loopback+":0")
	if err != nil {
		t.Fatal(err)
	}
	port := l.Addr().(*net.TCPAddr).Port
	err = checkPort(port, "Temporal", "--port")
	var e *access.Error
	if !errors.As(err, &e) || e.Code != access.CodeUnavailable || !strings.Contains(e.Message, "Temporal, is taken") || !strings.Contains(e.Hint, "--port") {
		t.Errorf("a taken port: %v", err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := checkPort(port, "Temporal", "--port"); err != nil {
		t.Errorf("a free port: %v", err)
	}
	for _, port := range []int{0, -1, 65536} {
		if err := checkPort(port, "Temporal", "--port"); access.CodeOf(err) != access.CodeMalformed {
			t.Errorf("port %d: %v", port, err)
		}
	}
}

// The ports are those of the flags, else those of the configuration that is
// there.
func TestDevPorts(t *testing.T) {
	f, err := Claim(filepath.Join(t.TempDir(), "dev"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close() //nolint:errcheck // test
	env := environ(map[string]string{"HALLPASS_TEMPORAL_ADDRESS": "127.0.0.1:1"})
	check := func(o DevOptions, wantPort, wantUI int) {
		t.Helper()
		o.Env = env
		got, err := devPorts(f, o)
		if err != nil || got.Port != wantPort || got.UIPort != wantUI {
			t.Errorf("ports %d and %d, %v; want %d and %d", got.Port, got.UIPort, err, wantPort, wantUI)
		}
	}
	check(DevOptions{}, DefaultPort, DefaultUIPort)
	check(DevOptions{Port: 7300}, 7300, DefaultUIPort)
	if _, _, err := furnish(f, DevOptions{Env: env, Port: 7400, UIPort: 8400}); err != nil {
		t.Fatal(err)
	}
	check(DevOptions{}, 7400, 8400)
	check(DevOptions{UIPort: 8300}, 7400, 8300)
}

// Dev checks before it starts anything: a taken port or folder starts no
// server.
func TestDevStartsNothingItCannotFinish(t *testing.T) {
	l, err := net.Listen("tcp", loopback+":0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close() //nolint:errcheck // test
	taken := l.Addr().(*net.TCPAddr).Port
	free, other := freePort(t), freePort(t)
	held, err := Claim(filepath.Join(t.TempDir(), "held"))
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close() //nolint:errcheck // test
	for _, tt := range []struct {
		name string
		o    DevOptions
		want string
	}{
		{"port taken", DevOptions{Port: taken, UIPort: free}, "for Temporal, is taken"},
		{"UI port taken", DevOptions{Port: free, UIPort: taken}, "for the Temporal UI, is taken"},
		{"same port", DevOptions{Port: free, UIPort: free}, "given twice, the second time for the Temporal UI"},
		{"folder taken", DevOptions{Port: free, UIPort: other, Dir: held.Path()}, "is served by another hallpass"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.o.Dir == "" {
				tt.o.Dir = filepath.Join(t.TempDir(), "dev")
			}
			tt.o.Env, tt.o.Log = environ(nil), io.Discard
			tt.o.Server = func(context.Context, ServerOptions) (Server, error) {
				t.Error("a server was started")
				return nil, errors.New("no")
			}
			if err := Dev(t.Context(), tt.o); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want an error with %q", err, tt.want)
			}
			if _, err := os.Stat(filepath.Join(tt.o.Dir, configName)); err == nil {
				t.Error("made a configuration with ports that can't be served")
			}
		})
	}
}
