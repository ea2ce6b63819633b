package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"hallpass/access"
	"hallpass/statement"
)

func TestRequestWaitsAndInstalls(t *testing.T) {
	w := newWorld(t)
	// bob approves while alice waits.
	w.service.onTick = func(s *service) {
		s.mu.Lock()
		id := s.order[0]
		pending := s.requests[id].State == access.StatePending
		hash := s.requests[id].Evidence.Request.Hash()
		s.mu.Unlock()
		if !pending {
			return
		}
		d := access.Decision{
			Header:  access.Header{Type: access.TypeDecision, ID: statement.NewID(), Signer: "bob", Time: statement.Time(w.now.Now())},
			Request: id, RequestHash: hash, Verdict: access.Approve,
		}
		st, err := statement.Sign(w.keys["bob"], d)
		check(t, err)
		if _, err := s.Send(context.Background(), id, access.MessageDecision, d.ID, st); err != nil {
			t.Error(err)
		}
	}
	r := w.must("request ssh/web-1 --as deploy --reason fix_it --for 1h")
	base := filepath.Join(w.home(), "certs", "deploy@web-1")
	if want := "ssh -o IdentitiesOnly=yes -i " + base + " -p 2222 deploy@10.0.0.7\n"; !strings.Contains(r.stdout, want) {
		t.Errorf("stdout %q lacks %q", r.stdout, want)
	}
	if want := "waiting for 1 approval from sre (bob, carol)"; !strings.Contains(r.stderr, want) {
		t.Errorf("stderr %q lacks %q", r.stderr, want)
	}
	if n := strings.Count(r.stderr, "waiting for"); n != 1 {
		t.Errorf("the same line %d times", n)
	}
	// Both names of the host, and nothing left of the request.
	files(t, w.home(), map[string]os.FileMode{
		".":                  0o700 | os.ModeDir,
		"certs":              0o700 | os.ModeDir,
		"requests":           0o700 | os.ModeDir,
		"certs/deploy@web-1": 0o600, "certs/deploy@web-1.pub": 0o600, "certs/deploy@web-1-cert.pub": 0o600,
		"certs/deploy@web-1.example.com": 0o600, "certs/deploy@web-1.example.com.pub": 0o600, "certs/deploy@web-1.example.com-cert.pub": 0o600,
	})
	// Waiting again shows the same grant.
	again := w.must("wait " + w.service.order[0])
	if again.stdout != r.stdout {
		t.Errorf("wait after the grant says\n%s\nrequest said\n%s", again.stdout, r.stdout)
	}
	// Somewhere else the key isn't there.
	w.env["HALLPASS_HOME"] = filepath.Join(w.dir, "elsewhere")
	if r := w.run("wait " + w.service.order[0]); r.code != ExitError || !strings.Contains(r.stderr, "private key is not on this machine") {
		t.Errorf("exit %d, %s", r.code, r.stderr)
	}
}

// files compares a folder with what should be in it, to the last file.
func files(t *testing.T, dir string, want map[string]os.FileMode) {
	t.Helper()
	got := map[string]os.FileMode{}
	check(t, filepath.Walk(dir, func(path string, info os.FileInfo, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		got[rel] = info.Mode()
		return err
	}))
	for name, mode := range want {
		if got[name] != mode {
			t.Errorf("%s is %v, want %v", name, got[name], mode)
		}
	}
	for name := range got {
		if _, ok := want[name]; !ok {
			t.Errorf("%s should not be there", name)
		}
	}
}

func TestNoWaitKeepsTheKeyUntilWait(t *testing.T) {
	w := newWorld(t)
	id := w.ask("ssh/web-1 --as deploy --reason x")
	files(t, w.home(), map[string]os.FileMode{
		".": 0o700 | os.ModeDir, "certs": 0o700 | os.ModeDir, "requests": 0o700 | os.ModeDir,
		"requests/" + id: 0o700 | os.ModeDir, "requests/" + id + "/key": 0o600, "requests/" + id + "/request.json": 0o600,
	})
	w.as("bob").must("approve " + id)
	w.as("alice").must("wait " + id)
	if _, err := os.Stat(filepath.Join(w.home(), "certs", "deploy@web-1-cert.pub")); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(w.home(), "requests", id)); err == nil {
		t.Error("the request's key is still there")
	}
}

func TestNothingIsSaidTwice(t *testing.T) {
	for _, tt := range []struct{ state, why, want string }{
		{"denied", "denied by bob: not today", "denied by bob: not today"},
		{"denied", "a reason is required", "denied: a reason is required"},
		{"released", "released by alice", "released by alice"},
		{"released", "released", "released"},
		{"denied", "deniedly", "denied: deniedly"},
		{"timed out", "", "timed out"},
	} {
		if got := tt.state + adds(tt.state, tt.why); got != tt.want {
			t.Errorf("got %q, want %q", got, tt.want)
		}
	}
}

func TestHowARequestEnds(t *testing.T) {
	for _, tt := range []struct {
		name   string
		before func(*world, string)
		code   int
		stderr string
	}{
		{"denied", func(w *world, id string) { w.as("bob").must("deny " + id) }, ExitDenied, "hallpass: denied by bob"},
		{"timed out", func(*world, string) {}, ExitTimedOut, "hallpass: timed out: "},
		{"cancelled", func(w *world, id string) { w.must("cancel " + id) }, ExitError, "the request is cancelled: "},
		{"terminated", func(w *world, id string) { w.service.broken = map[string]bool{id: true} }, ExitRefused, "ended from outside"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			id := w.ask("ssh/web-1 --as deploy --reason x")
			tt.before(w, id)
			r := w.as("alice").run("wait " + id)
			if r.code != tt.code || !strings.Contains(r.stderr, tt.stderr) {
				t.Errorf("exit %d, %s", r.code, r.stderr)
			}
			if _, err := os.Stat(filepath.Join(w.home(), "requests", id)); err == nil && tt.name != "terminated" {
				t.Error("the request's key is still there")
			}
		})
	}
}

func TestRequestBadInput(t *testing.T) {
	for _, tt := range []struct {
		args   string
		code   int
		stderr string
	}{
		{"request", ExitUsage, "KIND/NAME is missing"},
		{"request ssh/web-1 ssh/test-1", ExitUsage, "unexpected argument ssh/test-1"},
		{"request ssh/nosuch", ExitNotFound, "no resource ssh/nosuch\n  try: hallpass resources"},
		{"request ssh/web-1", ExitUsage, "as whom? ssh/web-1 has deploy, root\n  try: add --as deploy"},
		{"request ssh/web-1 --as admin", ExitUsage, "ssh/web-1 has no login admin"},
		{"request ssh/test-1 --for 0s", ExitUsage, "--for 0s is no time at all"},
		{"request ssh/test-1 --for -5m", ExitUsage, "--for -5m is no time at all"},
		{"request ssh/test-1 --for soon", ExitUsage, "--for: duration"},
		{"request ssh/test-1 --for 400d", ExitUsage, "duration"},
		{"request ssh/test-1 --for 59s", ExitDenied, "denied"},
		{"request ssh/test-1 --for 11m", ExitDenied, "denied"},
		{"request ssh/vault", ExitDenied, "no rule allows this"},
		{"request ssh/web-1 --as deploy", ExitDenied, "a reason is required"},
		{"request ssh/test-1 --reason bell\a", ExitUsage, "control"},
		{"request ssh/test-1 --reason " + strings.Repeat("a", access.MaxReason+1), ExitUsage, "longer than"},
		{"request ssh/test-1 --at yesterday", ExitUsage, "--at yesterday is not a time"},
		{"request ssh/test-1 --key /nosuch", ExitError, "--key"},
		{"wait zzz", ExitUsage, "not a request's id"},
		{"wait 0199", ExitNotFound, "no request begins with 0199"},
		{"wait 01990000-0000-7000-8000-000000000000", ExitNotFound, "no request"},
		{"list --state sleepy", ExitUsage, "--state sleepy is not a state"},
		{"list --limit 0", ExitUsage, "--limit is 0"},
		{"list --requester O'Brien", ExitUsage, "requester"},
		{"list --resource x", ExitUsage, "resource"},
		{"revoke 0199", ExitUsage, "--reason is missing"},
		{"ssh", ExitUsage, "[LOGIN@]NAME is missing"},
		{"ssh root@", ExitUsage, "[LOGIN@]NAME is missing"},
		{"ssh-config extra", ExitUsage, "unexpected argument extra\n  try: hallpass ssh-config\n"},
		{"request ssh/test-1 --action dance", ExitDenied, "ssh/test-1 has no action"},
		{"request ssh/test-1 --reason " + strings.Repeat("a", 10<<20), ExitUsage, "longer than"},
		{"ssh nosuch", ExitNotFound, "no resource nosuch"},
		{"ssh-config --install --print", ExitUsage, "exclude each other"},
	} {
		t.Run(tt.args[:min(len(tt.args), 60)], func(t *testing.T) {
			w := newWorld(t)
			r := w.run(tt.args)
			if r.code != tt.code || !strings.Contains(r.stderr, tt.stderr) || r.stdout != "" {
				t.Errorf("exit %d, stdout %q, stderr %q", r.code, r.stdout, r.stderr)
			}
			if strings.Count(r.stderr, "hallpass: ") != 1 || strings.Contains(r.stderr, "\a") {
				t.Errorf("not one clean line: %q", r.stderr)
			}
			if left, _ := os.ReadDir(filepath.Join(w.home(), "requests")); len(left) != 0 {
				t.Errorf("left behind: %v", left)
			}
			if tt.code != ExitDenied {
				return
			}
			// Nor does who doesn't wait take it for asked.
			r = w.run(tt.args + " --no-wait")
			if r.code != tt.code || !strings.Contains(r.stderr, tt.stderr) || r.stdout != "" {
				t.Errorf("without waiting: exit %d, stdout %q, stderr %q", r.code, r.stdout, r.stderr)
			}
			if left, _ := os.ReadDir(filepath.Join(w.home(), "requests")); len(left) != 0 {
				t.Errorf("left behind without waiting: %v", left)
			}
		})
	}
}

// Where no worker is there to rule, who doesn't wait isn't kept waiting.
func TestNoWaitWhileNobodyRules(t *testing.T) {
	w := newWorld(t)
	w.service.mute = true
	began := w.now.Now()
	id := w.ask("ssh/web-1 --as deploy --reason x")
	if waited := w.now.Now().Sub(began); waited > ruling+lastPoll {
		t.Errorf("waited %v", waited)
	}
	w.service.mute = false
	if r := w.must("show " + id); !strings.Contains(r.stdout, "pending") {
		t.Errorf("the request isn't there: %s", r.stdout)
	}
}

func TestUnreachable(t *testing.T) {
	w := newWorld(t)
	w.service.gone = true
	for _, line := range []string{"request ssh/test-1", "wait 0199", "list", "pending", "show 0199", "approve 0199", "release 0199"} {
		r := w.run(line)
		if r.code != ExitUnreachable || !strings.Contains(r.stderr, "127.0.0.1:1") || !strings.Contains(r.stderr, "hallpass dev") {
			t.Errorf("%s: exit %d, %s", line, r.code, r.stderr)
		}
	}
}

func TestServiceGoesAwayWhileWaiting(t *testing.T) {
	w := newWorld(t)
	id := w.ask("ssh/web-1 --as deploy --reason x")
	w.service.mu.Lock()
	w.service.gone = true
	w.service.mu.Unlock()
	a := w.now.Now()
	w.env["HALLPASS_HOME"] = w.home()
	// connect works, status doesn't.
	r := func() result {
		w.service.onTick = func(*service) {}
		defer func() { w.service.gone = false }()
		return w.runWith(w.service, "wait", id)
	}()
	if r.code != ExitUnreachable || !strings.Contains(r.stderr, "hallpass wait "+id) {
		t.Errorf("exit %d, %s", r.code, r.stderr)
	}
	if waited := w.now.Now().Sub(a); waited < patience || waited > patience+2*lastPoll {
		t.Errorf("gave up after %v, want %v", waited, patience)
	}
	if _, err := os.Stat(filepath.Join(w.home(), "requests", id, "key")); err != nil {
		t.Error("the key is gone:", err)
	}
}

// stages is a service whose request takes steps at certain times.
type stages struct {
	backend
	now   func() time.Time
	steps []stage
	looks []time.Time
}

type stage struct {
	at    time.Time
	state access.State
}

func (s *stages) Status(_ context.Context, id string) (access.Status, error) {
	s.looks = append(s.looks, s.now())
	is := access.Status{ID: id, Standing: access.Standing{Effect: access.EffectAsk}}
	for _, step := range s.steps {
		if !s.now().Before(step.at) {
			is.State = step.state
		}
	}
	return is, nil
}

// Who waits for people asks less and less often, and hears of each step soon.
func TestHowOftenAWaitingCommandAsks(t *testing.T) {
	var out bytes.Buffer
	now := time.Now()
	began := now
	s := &stages{now: func() time.Time { return now }, steps: []stage{
		{began, access.StatePending}, {began.Add(10 * time.Minute), access.StateIssuing}, {began.Add(10*time.Minute + 3*time.Second), access.StateDenied},
	}}
	a := &app{ctx: t.Context(), err: &printer{w: &out}, now: s.now, sleep: func(_ context.Context, d time.Duration) error {
		now = now.Add(d)
		return nil
	}}
	if got, err := a.await(s, testID, 0); err != nil || got.State != access.StateDenied {
		t.Fatalf("%+v, %v", got, err)
	}
	if late := now.Sub(s.steps[2].at); late > lastPoll {
		t.Errorf("the end is heard of %s late", late)
	}
	count := func(from, to time.Duration) (n int) {
		for _, at := range s.looks {
			if d := at.Sub(began); from <= d && d < to {
				n++
			}
		}
		return n
	}
	for _, row := range []struct {
		from, to   time.Duration
		less, more int
	}{
		{0, time.Second, 5, 15},
		{0, time.Minute, 20, 35},
		{time.Minute, 2 * time.Minute, 12, 12},
		{10 * time.Minute, 10*time.Minute + 6*time.Second, 3, 20},
	} {
		if n := count(row.from, row.to); n < row.less || n > row.more {
			t.Errorf("asked %d times from %s to %s, want %d to %d", n, row.from, row.to, row.less, row.more)
		}
	}
	t.Logf("asked %d times in the first minute, %d in the next", count(0, time.Minute), count(time.Minute, 2*time.Minute))
}

// How a request ends is known before all of it is taken back, and is what the
// exit code says.
func TestWaitWhileItIsTakenBack(t *testing.T) {
	for ending, want := range map[access.State]int{
		access.StateDenied:  ExitDenied,
		access.StateExpired: ExitError,
		"":                  ExitError, // by a worker that doesn't say
	} {
		w := newWorld(t)
		id := w.ask("ssh/web-1 --as deploy --reason x")
		w.service.mu.Lock()
		s := w.service.requests[id]
		s.State, s.Ending, s.Why = access.StateRevoking, ending, "refused by the issuer: no"
		w.service.mu.Unlock()
		r := w.run("wait " + id)
		word := map[access.State]string{access.StateDenied: "hallpass: denied: ", access.StateExpired: "hallpass: the request is expired: "}[ending]
		if r.code != want || !strings.Contains(r.stderr, word+"refused by the issuer: no\n") {
			t.Errorf("ending %q: exit %d, want %d, and %q", ending, r.code, want, r.stderr)
		}
	}
}

func TestSubmitFailsButKeyIsKept(t *testing.T) {
	w := newWorld(t)
	w.service.stuck = true
	r := w.run("request ssh/test-1")
	if r.code != ExitUnreachable {
		t.Errorf("exit %d, %s", r.code, r.stderr)
	}
	left, _ := os.ReadDir(filepath.Join(w.home(), "requests"))
	if len(left) != 1 {
		t.Fatalf("requests holds %v; the request may have been started all the same", left)
	}
	if id := left[0].Name(); !strings.Contains(r.stderr, "hallpass wait "+id+", or hallpass cancel "+id) {
		t.Errorf("it doesn't say how to go on with it: %s", r.stderr)
	}
}

func TestInterrupted(t *testing.T) {
	w := newWorld(t)
	id := w.ask("ssh/web-1 --as deploy --reason x")
	ctx, cancel := context.WithCancel(context.Background())
	w.service.onTick = func(*service) { cancel() }
	r := w.runArgs(ctx, "wait", id)
	if r.code != ExitInterrupted || !strings.Contains(r.stderr, "hallpass: interrupted\n  try: hallpass wait "+id) {
		t.Errorf("exit %d, %s", r.code, r.stderr)
	}
}

func TestDecisions(t *testing.T) {
	w := newWorld(t)
	id := w.ask("ssh/web-1 --as deploy --reason fix_it --for 2h")
	for _, tt := range []struct {
		user, line string
		code       int
		stderr     string
	}{
		{"alice", "approve " + id, ExitRefused, "refused: "},
		{"mallory", "approve " + id, ExitRefused, "refused: "},
		{"bob", "approve " + id + " --for 3h", ExitUsage, "longer than the 2h"},
		{"bob", "approve " + id + " --for 0s", ExitUsage, "no time at all"},
		{"bob", "approve " + id + " --comment a\x1b[2Jb", ExitUsage, "control"},
		{"bob", "revoke " + id + " --reason x", ExitOK, ""},
		{"bob", "approve " + id, ExitRefused, "nothing can be said to it any more"},
	} {
		r := w.as(tt.user).run(tt.line)
		if r.code != tt.code || !strings.Contains(r.stderr, tt.stderr) || strings.Contains(r.stderr+r.stdout, "\x1b") {
			t.Errorf("%s: %s: exit %d, %s", tt.user, tt.line, r.code, r.stderr)
		}
	}
	// Another one's key under bob's name.
	id = w.as("alice").ask("ssh/web-1 --as deploy --reason fix_it")
	w.env["HALLPASS_USER"] = "bob"
	if r := w.run("approve " + id); r.code != ExitRefused {
		t.Errorf("forged approval: exit %d, %s", r.code, r.stderr)
	}
	r := w.as("bob").must("approve --for 30m " + id[:20] + " --comment ok")
	for _, want := range []string{"alice wants ssh/web-1 as deploy for 30m", "fix it", "a key of alice, verified", "rules", "production", "Approved. The request is active."} {
		if !strings.Contains(r.stdout, want) {
			t.Errorf("%q lacks %q", r.stdout, want)
		}
	}
	if r := w.as("carol").run("release " + id); r.code != ExitRefused {
		t.Errorf("somebody else's release: exit %d, %s", r.code, r.stderr)
	}
	w.as("alice").must("wait " + id)
	w.must("release " + id)
	if left, _ := os.ReadDir(filepath.Join(w.home(), "certs")); len(left) != 0 {
		t.Errorf("after the release certs holds %v", left)
	}
}

func TestApproveRefusesATamperedRequest(t *testing.T) {
	w := newWorld(t)
	id := w.ask("ssh/web-1 --as deploy --reason x")
	st := w.service.requests[id]
	st.Evidence.Request.Payload = strings.Replace(st.Evidence.Request.Payload, "deploy", "root", 1)
	sent := w.service.sent
	r := w.as("bob").run("approve " + id)
	if r.code != ExitRefused || !strings.Contains(r.stderr, "can't be trusted") || w.service.sent != sent {
		t.Errorf("exit %d, %s", r.code, r.stderr)
	}
	if r := w.must("show " + id); !strings.Contains(r.stdout, "NOT VERIFIED") {
		t.Errorf("show says %s", r.stdout)
	}
}

func TestPrintIsDeliverable(t *testing.T) {
	w := newWorld(t)
	id := w.ask("ssh/web-1 --as deploy --reason x")
	r := w.as("bob").must("approve --print " + id)
	if strings.Count(r.stdout, "\n") != 1 || w.service.sent != 0 {
		t.Fatalf("stdout %q, %d sent", r.stdout, w.service.sent)
	}
	if !strings.Contains(r.stderr, "alice wants ssh/web-1") {
		t.Error("what is approved isn't shown")
	}
	var st access.Statement
	check(t, json.Unmarshal([]byte(r.stdout), &st))
	after, err := w.service.Send(context.Background(), id, access.MessageDecision, "x", st)
	if err != nil || after.State != access.StateActive {
		t.Errorf("%s, %v", after.State, err)
	}
	r = w.must("revoke --print --reason late " + id)
	check(t, json.Unmarshal([]byte(r.stdout), &st))
	if _, err := w.service.Send(context.Background(), id, access.MessageRevoke, "y", st); err != nil {
		t.Error(err)
	}
}

func TestIDsMayBeShortened(t *testing.T) {
	w := newWorld(t)
	first := w.ask("ssh/web-1 --as deploy --reason x")
	second := w.ask("ssh/web-1 --as root --reason x")
	common := 0
	for first[common] == second[common] {
		common++
	}
	if r := w.run("show " + first[:common]); r.code != ExitNotFound || !strings.Contains(r.stderr, "more than one request begins with") {
		t.Errorf("exit %d, %s", r.code, r.stderr)
	}
	if r := w.must("show " + strings.ToUpper(second[:common+1])); !strings.Contains(r.stdout, "as root") {
		t.Errorf("%s", r.stdout)
	}
	short := shortIDs([]string{first, second})
	if short[first] == short[second] || !strings.HasPrefix(first, short[first]) {
		t.Errorf("short ids %v", short)
	}
}

func TestSSH(t *testing.T) {
	w := newWorld(t)
	w.must("ssh test-1 -- -v uptime -a")
	base := filepath.Join(w.home(), "certs", "tester@test-1")
	want := "ssh -i " + base + " -o CertificateFile=\"" + base + "-cert.pub\" -o IdentitiesOnly=yes -l tester -v test-1 uptime -a"
	if got := strings.Join(w.execed, " "); got != want {
		t.Errorf("executed %s, want %s", got, want)
	}
	w.must("ssh tester@test-1 --for 5m uptime")
	if len(w.service.order) != 1 {
		t.Errorf("%d requests for one grant", len(w.service.order))
	}
	w.now.advance(11 * time.Minute)
	w.service.tick()
	w.execed = nil
	w.must("ssh tester@test-1 --for 5m uptime")
	if len(w.service.order) != 2 || w.execed == nil {
		t.Errorf("%d requests, executed %v", len(w.service.order), w.execed)
	}
}

func TestSSHArguments(t *testing.T) {
	for _, tt := range []struct{ in, options, command string }{
		{"", "", ""},
		{"uptime -a", "", "uptime -a"},
		{"-v uptime", "-v", "uptime"},
		{"-L 8080:localhost:80 -N", "-L 8080:localhost:80 -N", ""},
		{"-L8080:localhost:80 id", "-L8080:localhost:80", "id"},
		{"-vvo BatchMode=yes id -u", "-vvo BatchMode=yes", "id -u"},
		{"-t -- -odd", "-t", "-odd"},
	} {
		options, command := splitSSH(strings.Fields(tt.in))
		if strings.Join(options, " ") != tt.options || strings.Join(command, " ") != tt.command {
			t.Errorf("%q: %q and %q", tt.in, options, command)
		}
	}
}

func TestShellLine(t *testing.T) {
	for _, tt := range []struct {
		in   []string
		want string
	}{
		{[]string{"ssh", "-i", "/home/a/.hallpass/certs/d@h"}, "ssh -i /home/a/.hallpass/certs/d@h"},
		{[]string{"a b", "", "it's", "$(x)"}, `'a b' '' 'it'\''s' '$(x)'`},
		{[]string{"\x1b[2J"}, `'\x1b[2J'`},
	} {
		if got := shellLine(tt.in); got != tt.want {
			t.Errorf("%q: %s, want %s", tt.in, got, tt.want)
		}
	}
}

func TestParseTime(t *testing.T) {
	zone := time.FixedZone("X", 2*3600)
	now := time.Date(2026, 3, 4, 15, 30, 0, 0, zone)
	a := &app{now: func() time.Time { return now }, out: &printer{zone: zone}}
	for in, want := range map[string]string{
		"16:00":                "2026-03-04T14:00:00Z",
		"15:00":                "2026-03-05T13:00:00Z",
		"2026-03-06 08:15":     "2026-03-06T06:15:00Z",
		"2026-03-06T08:15:00Z": "2026-03-06T08:15:00Z",
		"+90m":                 "2026-03-04T15:00:00Z",
		"+1d":                  "2026-03-05T13:30:00Z",
		"+-1h":                 "",
		"25:00":                "",
		"tomorrow":             "",
	} {
		got, err := a.parseTime("--at", in)
		if want == "" {
			if exitCode(err) != ExitUsage || !strings.HasPrefix(err.Error(), "--at "+in) {
				t.Errorf("%s: %v, %v", in, got, err)
			}
			continue
		}
		if err != nil || got.Format(time.RFC3339) != want {
			t.Errorf("%s: %v, %v, want %s", in, got, err, want)
		}
	}
}

func TestEvilTextIsShownEscaped(t *testing.T) {
	w := newWorld(t)
	id := w.ask("ssh/web-1 --as deploy --reason x")
	const evil = "a\x1b]0;pwned\x07b\u202ec\r\nd"
	st := w.service.requests[id]
	st.Why, st.Standing.Why = evil, evil
	st.Standing.Request.Reason, st.Standing.Request.Ticket = evil, evil
	st.Standing.Dropped = []string{evil}
	st.Standing.Ruling.Rules = []string{evil}
	st.Standing.Missing = []access.Set{{Count: 1, Groups: []string{evil}}}
	st.Standing.Voices = []access.Voice{{Signer: evil, Verdict: access.Approve, Comment: evil}}
	for _, line := range []string{"show " + id, "pending", "list", "approve " + id, "show -o json " + id, "pending -o json", "list -o json"} {
		r := w.as("bob").run(line)
		if strings.ContainsAny(r.stdout+r.stderr, "\x1b\x07\r\u202e") {
			t.Errorf("%s: %q", line, r.stdout+r.stderr)
		}
	}
}

func TestPendingPutsMineFirst(t *testing.T) {
	w := newWorld(t)
	mine := w.as("alice").ask("ssh/web-1 --as deploy --reason x")
	other := w.as("carol").ask("ssh/web-1 --as root --reason y")
	r := w.as("carol").must("pending")
	if a, b := strings.Index(r.stdout, "Yours to decide"), strings.Index(r.stdout, "For others to decide"); a != 0 || b < a {
		t.Errorf("%s", r.stdout)
	}
	if strings.Count(r.stdout, "hallpass approve") != 1 || !strings.Contains(r.stdout, "hallpass approve "+shortIDs([]string{mine, other})[mine]) {
		t.Errorf("%s", r.stdout)
	}
	if r := w.as("mallory").must("pending"); strings.Contains(r.stdout, "Yours") {
		t.Errorf("%s", r.stdout)
	}
	w.as("bob").must("approve " + mine)
	if r := w.must("pending"); strings.Contains(r.stdout, "alice wants") {
		t.Errorf("%s", r.stdout)
	}
}

func TestResources(t *testing.T) {
	w := newWorld(t)
	r := w.must("resources")
	for _, want := range []string{
		"hallpass request ssh/test-1\n", "10m", "1 approval from sre, a reason", "hallpass request ssh/web-1 --as root --reason …", "8h",
	} {
		if !strings.Contains(r.stdout, want) {
			t.Errorf("lacks %q:\n%s", want, r.stdout)
		}
	}
	if strings.Contains(r.stdout, "vault") {
		t.Errorf("offers what policy denies:\n%s", r.stdout)
	}
	if r := w.must("resources --all"); !strings.Contains(r.stdout, "not for you: no rule allows this") {
		t.Errorf("%s", r.stdout)
	}
}

// What the service says of a request beside its statement is hearsay: pending
// lists what was signed, and the line to paste is made on this machine.
func TestServiceThatLies(t *testing.T) {
	w := newWorld(t)
	id := w.ask("ssh/web-1 --as root --reason x")
	lie := &w.service.requests[id].Standing.Request
	lie.Login, lie.Signer, lie.Duration, lie.Reason = "deploy", "dave", 60, "harmless"
	r := w.as("bob").must("pending")
	if !strings.Contains(r.stdout, "alice wants ssh/web-1 as root for 30m") || strings.Contains(r.stdout, "harmless") {
		t.Errorf("pending shows\n%s", r.stdout)
	}

	evidence := &w.service.requests[id].Evidence
	signed := evidence.Request.Payload
	evidence.Request.Payload = strings.Replace(signed, "root", "deploy", 1)
	r = w.must("pending")
	if strings.Contains(r.stdout, "wants") || !strings.Contains(r.stderr, "can't be trusted") {
		t.Errorf("pending shows what nobody signed:\n%s%s", r.stdout, r.stderr)
	}
	evidence.Request.Payload = signed

	w.must("approve " + id)
	lie = &w.service.requests[id].Standing.Request
	lie.Login, lie.Resource = "-oProxyCommand=evil", "ssh/evil"
	r = w.as("alice").must("wait " + id)
	if strings.Contains(r.stdout, "evil") || !strings.Contains(r.stdout, "root@10.0.0.7") {
		t.Errorf("to paste:\n%s", r.stdout)
	}
}

// A grant whose sessions may finish is over for everybody who isn't in yet, and
// says until when they may.
func TestGrace(t *testing.T) {
	w := newWorld(t)
	id := w.ask("ssh/test-1 --for 10m")
	w.must("wait " + id)
	st := w.service.requests[id]
	until := st.Handle.NotAfter.Add(time.Hour)
	st.Handle.Until = &until
	w.now.advance(11 * time.Minute)
	st.Why = "has ended; sessions that are open may stay until " + until.UTC().Format(time.DateTime) + " UTC" // as the workflow says it
	if r := w.run("wait " + id); r.code != ExitRefused || !strings.Contains(r.stderr, "the grant has ended; sessions that are open may stay until "+until.UTC().Format(time.RFC3339)) {
		t.Errorf("wait: exit %d, %q", r.code, r.stderr)
	}
	if r := w.must("show " + id); !strings.Contains(r.stdout, "open sessions until") || !strings.Contains(r.stdout, "sessions that are open may stay until") {
		t.Errorf("show: %s", r.stdout)
	}
	if r := w.must("list"); !strings.Contains(r.stdout, "active") || !strings.Contains(r.stdout, "1m ago") {
		t.Errorf("list: %s", r.stdout)
	}
	// Nobody waits for it to be over.
	if r := w.run("release " + id); r.code != ExitOK || w.service.requests[id].State != access.StateReleased {
		t.Errorf("release: exit %d, %q", r.code, r.stderr)
	}
}
