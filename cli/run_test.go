package cli

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/goccy/go-yaml"
	"golang.org/x/crypto/ssh"

	"hallpass/access"
)

// sh runs a script with access, as a command line would: hallpass run ARGS --
// sh -c SCRIPT.
func (w *world) sh(args, script string) result {
	w.t.Helper()
	return w.runArgs(context.Background(), append(append([]string{"run"}, strings.Fields(args)...), "--", "sh", "-c", script)...)
}

func TestRunGivesAndTakesBack(t *testing.T) {
	w := newVaultWorld(t)
	t.Setenv("HALLPASS_KEY_DATA", "secret")
	w.env["TMPDIR"] = t.TempDir()
	r := w.sh("vault/orders-db --action dump", `echo $PGUSER $PGPASSWORD; echo $HALLPASS_REQUEST; echo "[$HALLPASS_KEY_DATA]"; stat -c %a $HALLPASS_DIR; echo $HALLPASS_DIR`)
	st := w.newest()
	lines := strings.Split(r.stdout, "\n")
	if r.code != 0 || lines[0] != "v-dump pw-dump-0123" || lines[1] != st.ID || lines[2] != "[]" || lines[3] != "700" || filepath.Dir(lines[4]) != w.env["TMPDIR"] {
		t.Errorf("exit %d, %s%s", r.code, r.stdout, r.stderr)
	}
	if r.stderr != "request "+st.ID+"\n" {
		t.Errorf("stderr %q", r.stderr)
	}
	if st.State != access.StateReleased || w.lastReason() != "the command has ended" {
		t.Errorf("%s: %s", st.State, w.lastReason())
	}
	if left, _ := os.ReadDir(w.env["TMPDIR"]); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
	files(t, w.home(), map[string]os.FileMode{".": 0o700 | os.ModeDir, "certs": 0o700 | os.ModeDir, "requests": 0o700 | os.ModeDir})
}

func TestRunExitCodes(t *testing.T) {
	script := func(t *testing.T, text string, mode fs.FileMode) string {
		file := filepath.Join(t.TempDir(), "cmd")
		check(t, os.WriteFile(file, []byte(text), mode))
		return file
	}
	for _, tt := range []struct {
		name    string
		command func(*testing.T) []string
		code    int
		stderr  string
		reason  string
	}{
		{"true", func(*testing.T) []string { return []string{"true"} }, 0, "", "the command has ended"},
		{"its own", func(*testing.T) []string { return []string{"sh", "-c", "exit 7"} }, 7, "", "the command has ended"},
		{"killed", func(*testing.T) []string { return []string{"sh", "-c", "kill -9 $$"} }, 137, "", "the command has ended"},
		{"no interpreter", func(t *testing.T) []string { return []string{script(t, "#!/nosuch\n", 0o755)} }, ExitNoCommand, "command not found", "the command was not run"},
		{"no program", func(t *testing.T) []string { return []string{script(t, "\x7fELF", 0o755)} }, ExitNoExec, "can't be run", "the command was not run"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newVaultWorld(t)
			r := w.runArgs(t.Context(), append([]string{"run", "vault/orders-db", "--action", "read", "--"}, tt.command(t)...)...)
			if r.code != tt.code || !strings.Contains(r.stderr, tt.stderr) || tt.stderr == "" && strings.Contains(r.stderr, "hallpass: ") {
				t.Errorf("exit %d, %s", r.code, r.stderr)
			}
			if w.newest().State != access.StateReleased || w.lastReason() != tt.reason {
				t.Errorf("%s: %s", w.newest().State, w.lastReason())
			}
		})
	}
}

func TestRunTellsPrograms(t *testing.T) {
	w := newVaultWorld(t)
	r := w.sh("vault/orders-db --action read --output json", "echo out; exit 3")
	var out ran
	check(t, json.Unmarshal([]byte(r.stderr), &out))
	if r.code != 3 || r.stdout != "out\n" || out.ID != w.newest().ID || out.ExitCode != 3 || !out.Started || out.State != access.StateReleased || out.Actions[0] != "read" {
		t.Errorf("exit %d, %s, %s", r.code, r.stdout, r.stderr)
	}
}

func TestRunDenied(t *testing.T) {
	w := newVaultWorld(t)
	sent := w.service.sent
	r := w.sh("vault/crown", "echo ran")
	if r.code != ExitDenied || r.stdout != "" || w.service.sent != sent || !strings.Contains(r.stderr, "hallpass: denied: ") {
		t.Errorf("exit %d, %s", r.code, r.stderr)
	}
	if left, _ := os.ReadDir(filepath.Join(w.home(), "requests")); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

// A grant that there is can be used, and is given back as well.
func TestRunWithARequestThatThereIs(t *testing.T) {
	w := newVaultWorld(t)
	id := w.ask("vault/crown --reason x")
	w.as("bob").must("approve " + id)
	w.as("alice")
	if r := w.sh(id[:20], "echo $PGUSER"); r.code != 0 || r.stdout != "v-ro\n" || w.newest().State != access.StateReleased {
		t.Errorf("exit %d, %s%s", r.code, r.stdout, r.stderr)
	}
	// One that was opened can't be, and isn't left open.
	w.must("request vault/orders-db --action read")
	id = w.newest().ID
	w.must("get " + id)
	if r := w.sh(id, "echo $PGUSER"); r.code != ExitError || r.stdout != "" || !strings.Contains(r.stderr, "was opened ") {
		t.Errorf("exit %d, %s%s", r.code, r.stdout, r.stderr)
	}
}

// signalled runs a script that says when it runs, and sends a signal then.
func (w *world) signalled(sig os.Signal, script string) result {
	w.t.Helper()
	ready := filepath.Join(w.dir, "ready")
	w.signals = make(chan os.Signal, 4)
	stop := make(chan struct{})
	defer close(stop)
	go func() {
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				return
			case <-tick.C:
			}
			if _, err := os.Stat(ready); err == nil {
				w.signals <- sig
				return
			}
		}
	}()
	return w.sh("vault/orders-db --action read", script+"; touch "+ready+"; while :; do sleep 0.02; done")
}

func TestRunForwardsSignals(t *testing.T) {
	for _, tt := range []struct {
		name, script string
		sig          syscall.Signal
		code         int
		stdout       string
	}{
		{"TERM kills", ":", syscall.SIGTERM, 143, ""},
		{"HUP kills", ":", syscall.SIGHUP, 129, ""},
		{"TERM is caught", "trap 'echo bye; exit 4' TERM", syscall.SIGTERM, 4, "bye\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			// What is caught here isn't ignored by the command, as it would be
			// for those who run tests with nohup.
			caught := make(chan os.Signal, 1)
			signal.Notify(caught, tt.sig)
			defer signal.Stop(caught)
			w := newVaultWorld(t)
			r := w.signalled(tt.sig, tt.script)
			if r.code != tt.code || r.stdout != tt.stdout || strings.Contains(r.stderr, "hallpass: ") {
				t.Errorf("exit %d, %q, %s", r.code, r.stdout, r.stderr)
			}
			if w.newest().State != access.StateReleased {
				t.Errorf("the grant is %s", w.newest().State)
			}
		})
	}
}

// Whoever gives up while waiting has asked for nothing.
func TestRunInterruptedWhileWaiting(t *testing.T) {
	for _, how := range []string{"signal", "context"} {
		t.Run(how, func(t *testing.T) {
			w := newVaultWorld(t)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			w.signals = make(chan os.Signal, 4)
			w.service.onTick = func(s *service) {
				s.mu.Lock()
				s.onTick, s.requests[s.order[0]].Deadline = nil, nil // it takes as long as it takes
				s.mu.Unlock()
				if how == "context" {
					cancel()
					return
				}
				w.signals <- syscall.SIGHUP
			}
			r := w.runArgs(ctx, "run", "vault/crown", "--reason", "x", "--", "touch", filepath.Join(w.dir, "ran"))
			if st := w.newest(); r.code != ExitInterrupted || st.State != access.StateCancelled || !strings.HasSuffix(r.stderr, "hallpass: interrupted\n") {
				t.Errorf("exit %d, %s, %s", r.code, st.State, r.stderr)
			}
			if _, err := os.Stat(filepath.Join(w.dir, "ran")); err == nil {
				t.Error("the command ran")
			}
		})
	}
}

// The context's end reaches the command as SIGTERM.
func TestRunWithAContextThatEnds(t *testing.T) {
	w := newVaultWorld(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ready := filepath.Join(w.dir, "ready")
	go func() {
		for ctx.Err() == nil {
			if _, err := os.Stat(ready); err == nil {
				cancel()
			}
		}
	}()
	r := w.runArgs(ctx, "run", "vault/orders-db", "--action", "read", "--", "sh", "-c", "trap 'exit 5' TERM; touch "+ready+"; while :; do sleep 0.02; done")
	if r.code != 5 || w.newest().State != access.StateReleased {
		t.Errorf("exit %d, %s, %s", r.code, w.newest().State, r.stderr)
	}
}

func TestRunCannotGiveBack(t *testing.T) {
	w := newVaultWorld(t)
	w.service.deaf = true
	before := w.now.Now()
	w.signals = make(chan os.Signal, 1)
	tries := 0
	w.service.onTick = func(s *service) { // whoever asks again has had enough
		if tries++; tries == 6 {
			later := w.now.Now().AddDate(1, 0, 0) // it takes as long as it takes
			s.mu.Lock()
			s.requests[s.order[0]].Ends = &later
			s.mu.Unlock()
			w.signals <- os.Interrupt
		}
	}
	r := w.sh("vault/orders-db --action read", "exit 3")
	id := w.newest().ID
	if r.code != 3 || !strings.Contains(r.stderr, "hallpass: request "+id+" is still open, and could not be given back: ") ||
		!strings.Contains(r.stderr, "try: hallpass release "+id+"\n") {
		t.Errorf("exit %d, %s", r.code, r.stderr)
	}
	if w.service.sent < 5 || w.now.Now().Sub(before) < time.Second {
		t.Errorf("only %d tries", w.service.sent)
	}
	// The hint works, unless the last try got through when nobody waited for it
	// any more.
	w.service.mu.Lock()
	w.service.deaf, w.service.onTick = false, nil
	w.service.mu.Unlock()
	if r := w.run("release " + id); r.code != 0 && w.newest().State != access.StateReleased {
		t.Errorf("exit %d, %s", r.code, r.stderr)
	}
}

func TestRunSaysWhoWasQuicker(t *testing.T) {
	w := newVaultWorld(t)
	id := w.ask("vault/crown --reason x")
	w.as("bob").must("approve " + id)
	w.as("alice")
	revoked := make(chan time.Time)
	w.after = func(time.Duration) <-chan time.Time { // while the command runs
		now := w.now.Now()
		w.service.mu.Lock()
		st := w.service.requests[id]
		st.State, st.Why, st.EndedAt = access.StateRevoked, "revoked by bob: stolen", &now
		w.service.mu.Unlock()
		close(revoked)
		return revoked
	}
	r := w.sh(id, "sleep 0.3; exit 2")
	if r.code != 2 || !strings.Contains(r.stderr, "hallpass: the grant had been revoked by bob: stolen\n") ||
		!strings.Contains(r.stderr, "hallpass: the grant has ended, and sh is still running") {
		t.Errorf("exit %d, %s", r.code, r.stderr)
	}
}

func TestRunTemplates(t *testing.T) {
	tmpl := filepath.Join(t.TempDir(), "url.tmpl")
	check(t, os.WriteFile(tmpl, []byte("postgres://{{.username}}@db"), 0o600))
	for _, tt := range []struct {
		name, args, script, want string
		code                     int
		stderr                   string
	}{
		{"the fields decide", "vault/orders-db --action read", `echo $PGUSER/$PGPASSWORD`, "v-ro/pw-ro-0123", 0, ""},
		{"mysql", "vault/orders-db --action read --template mysql", `echo $PGUSER/$MYSQL_USER/$MYSQL_PWD; cat $MYSQL_CNF; stat -c %a $MYSQL_CNF`,
			"/v-ro/pw-ro-0123\n[client]\nuser=\"v-ro\"\npassword=\"pw-ro-0123\"\n600", 0, ""},
		{"aws, and old ones go", "vault/cloud", `echo $AWS_ACCESS_KEY_ID/$AWS_SECRET_ACCESS_KEY/${AWS_SESSION_TOKEN-none}/${AWS_PROFILE-none}`, "AKIA/s3cr3t/none/none", 0, ""},
		{"own variable", "vault/orders-db --action read --env URL=postgres://{{.username}}:{{.password}}@db", `echo $URL/$PGUSER`, "postgres://v-ro:pw-ro-0123@db/", 0, ""},
		{"own variable beside built-in ones", "vault/orders-db --action read --template postgres --env PGUSER=x{{.username}}", `echo $PGUSER/$PGPASSWORD`, "xv-ro/pw-ro-0123", 0, ""},
		{"own file", "vault/orders-db --action read --file d/pgpass=*:{{.password}} --env PGPASSFILE={{file_`d/pgpass`}}",
			`cat $PGPASSFILE; echo; stat -c %a $PGPASSFILE; test $PGPASSFILE = $HALLPASS_DIR/d/pgpass && echo same`, "*:pw-ro-0123\n600\nsame", 0, ""},
		{"template in a file", "vault/orders-db --action read --env URL=@" + tmpl, `echo $URL`, "postgres://v-ro@db", 0, ""},
		{"functions", "vault/paper --env A={{join_.ca_chain_`+`}} --env B={{base64_.serial}} --env C={{json_.ca_chain}} --env D={{resource}}", `echo $A $B $C $D`, `one+two Nw== ["one","two"] paper`, 0, ""},
		{"several actions", "vault/orders-db --action read --action dump --env A={{.read.username}}/{{.dump.username}}", `echo $A`, "v-ro/v-dump", 0, ""},
		{"several actions without a word", "vault/orders-db --action read --action dump", `echo ran`, "", ExitError, "what Vault gave has dump, read: say what goes where"},
		{"unknown fields", "vault/paper", `echo ran`, "", ExitError, "what Vault gave has ca_chain, certificate, serial: say what goes where\n  try: --env NAME='{{.ca_chain}}'"},
		{"wrong template", "vault/paper --template aws", `echo ran`, "", ExitError, "--template aws needs access_key and secret_key, and what Vault gave has ca_chain, certificate, serial"},
		{"missing field", "vault/orders-db --action read --env A={{.token}}", `echo ran`, "", ExitError, "the template of A: map has no entry for key \"token\"\n  try: what there is: password, username"},
		{"null is missing", "vault/cloud --env A={{.security_token}}", `echo ran`, "", ExitError, "map has no entry for key \"security_token\""},
		{"missing file", "vault/orders-db --action read --env A={{file_`x`}}", `echo ran`, "", ExitError, "there is no --file x"},
		{"not a list", "vault/orders-db --action read --env A={{join_.password_`,`}}", `echo ran`, "", ExitError, "join wants a list"},
		{"zero byte", "vault/orders-db --action read --env A={{printf_`%c`_0}}", `echo ran`, "", ExitError, "what comes out for A can't be in a variable"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newVaultWorld(t)
			t.Setenv("AWS_SESSION_TOKEN", "old")
			t.Setenv("AWS_PROFILE", "old")
			args := []string{"run"}
			for _, word := range strings.Fields(tt.args) {
				if strings.Contains(word, "{{") {
					word = strings.NewReplacer("file_", "file ", "join_", "join ", "chain_", "chain ", "base64_", "base64 ", "json_", "json ", "password_", "password ", "printf_", "printf ", "`_0", "` 0").Replace(word)
				}
				args = append(args, word)
			}
			r := w.runArgs(t.Context(), append(args, "--", "sh", "-c", tt.script)...)
			if r.code != tt.code || strings.TrimSpace(r.stdout) != tt.want || !strings.Contains(r.stderr, tt.stderr) {
				t.Errorf("exit %d\n%s\nwant\n%s\n%s", r.code, r.stdout, tt.want, r.stderr)
			}
			if strings.Contains(r.stderr, "pw-ro") || strings.Contains(r.stderr, "s3cr3t") {
				t.Errorf("a secret in an error: %s", r.stderr)
			}
			if w.newest().State != access.StateReleased {
				t.Errorf("the grant is %s", w.newest().State)
			}
		})
	}
}

func TestRunKubeconfig(t *testing.T) {
	w := newVaultWorld(t)
	r := w.sh("vault/cluster", "echo $KUBECONFIG; cat ${KUBECONFIG%%:*}")
	paths, text, _ := strings.Cut(r.stdout, "\n")
	if _, own, _ := strings.Cut(paths, ":"); own != filepath.Join(w.dir, ".kube", "config") {
		t.Errorf("KUBECONFIG is %s", paths)
	}
	var conf struct {
		CurrentContext string `yaml:"current-context"`
		Contexts       []struct {
			Name    string
			Context struct{ Cluster, User, Namespace string }
		}
		Users []struct {
			Name string
			User struct{ Token string }
		}
	}
	check(t, yaml.Unmarshal([]byte(text), &conf))
	if c := conf.Contexts[0]; c.Name != conf.CurrentContext || c.Context.Cluster != "cluster" || c.Context.Namespace != "shop" ||
		c.Context.User != conf.Users[0].Name || conf.Users[0].User.Token != "eyJ0" {
		t.Errorf("%+v", conf)
	}
}

// A write to Vault has the catalog's parameters.
func TestRunWrites(t *testing.T) {
	w := newVaultWorld(t)
	if r := w.sh("vault/cloud", "true"); r.code != 0 || len(w.vault.with) != 1 || w.vault.with["ttl"] != "10m" {
		t.Errorf("exit %d, %s, %v", r.code, r.stderr, w.vault.with)
	}
}

// For a host it is ssh that runs the command, with a certificate of its own
// that touches no other grant's.
func TestRunOnAHost(t *testing.T) {
	w := newVaultWorld(t)
	bin := t.TempDir()
	check(t, os.WriteFile(filepath.Join(bin, "ssh"), []byte("#!/bin/sh\necho \"$@\"\ncat \"$2-cert.pub\"\nstat -c %a $2\nexit 9\n"), 0o755))
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	w.env["TMPDIR"] = bin
	w.must("request ssh/test-1")
	before, err := os.ReadFile(filepath.Join(w.home(), "certs", "tester@test-1-cert.pub"))
	check(t, err)
	r := w.run("run ssh/test-1 -- uptime -p")
	lines := strings.SplitN(r.stdout, "\n", 3)
	if r.code != 9 || len(lines) < 3 || !strings.HasSuffix(lines[0], "-l tester -o ControlMaster=no -o ControlPath=none test-1 uptime -p") || lines[2] != "600\n" {
		t.Fatalf("exit %d, %q, %s", r.code, r.stdout, r.stderr)
	}
	key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(lines[1]))
	check(t, err)
	if c, ok := key.(*ssh.Certificate); !ok || !strings.Contains(c.KeyId, w.newest().ID) {
		t.Errorf("certificate %v", key)
	}
	after, err := os.ReadFile(filepath.Join(w.home(), "certs", "tester@test-1-cert.pub"))
	if err != nil || string(after) != string(before) {
		t.Errorf("another grant's certificate is not what it was: %v", err)
	}
	if w.newest().State != access.StateReleased || w.service.requests[w.service.order[0]].State != access.StateActive {
		t.Error("the wrong grant was given back")
	}
	if left, _ := filepath.Glob(filepath.Join(bin, "hallpass-*")); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

// A key in the environment is as good as one in a file.
func TestKeyInTheEnvironment(t *testing.T) {
	w := newVaultWorld(t)
	pem, err := os.ReadFile(w.keyFile("alice"))
	check(t, err)
	w.env["HALLPASS_KEY_DATA"] = string(pem)
	if r := w.run("request ssh/test-1"); r.code != ExitUsage || !strings.Contains(r.stderr, "both HALLPASS_KEY and HALLPASS_KEY_DATA name a signing key") {
		t.Errorf("exit %d, %s", r.code, r.stderr)
	}
	delete(w.env, "HALLPASS_KEY")
	delete(w.env, "HALLPASS_USER") // the directory knows whose it is
	w.must("request ssh/test-1")
	if signer := w.newest().Standing.Request.Signer; signer != "alice" {
		t.Errorf("signed by %s", signer)
	}
	w.env["HALLPASS_KEY_DATA"] = "nonsense, with spaces"
	if r := w.run("request ssh/test-1"); r.code != ExitUsage || strings.Contains(r.stderr, "nonsense") {
		t.Errorf("exit %d, %s", r.code, r.stderr)
	}
}

func TestExitOf(t *testing.T) {
	if err := exitOf(nil); err != nil {
		t.Error(err)
	}
	odd := errors.New("odd")
	if err := exitOf(odd); !errors.Is(err, odd) {
		t.Error(err)
	}
	for n := range 3 {
		err := exec.Command("sh", "-c", "exit "+strconv.Itoa(n)).Run()
		if got := exitCode(exitOf(err)); got != n {
			t.Errorf("exit code %d is taken for %d", n, got)
		}
	}
}
