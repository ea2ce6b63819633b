package attacks

import (
	"context"
	"encoding/json"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/temporal"
	sdkworker "go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"
	"golang.org/x/crypto/ssh"

	"hallpass/access"
	"hallpass/statement"
	"hallpass/testsuite/hosttest"
	"hallpass/testsuite/process"
)

// liar answers hosts in the place of hallpass's own workflow, as whoever runs a worker
// on the queue hallpass can.
type liar struct {
	mu   sync.Mutex
	say  answering
	last access.Statement // that it has kept
}

// answering is what a workflow HostCertificate does.
type answering = func(ctx workflow.Context, in access.Enrolment) (access.Statement, error)

func (l *liar) says(say answering) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.say = say
}

func (l *liar) answer(ctx workflow.Context, in access.Enrolment) (access.Statement, error) {
	l.mu.Lock()
	say := l.say
	l.mu.Unlock()
	return say(ctx, in)
}

// keep says what the issuer says, and keeps it.
func (l *liar) keep(ctx workflow.Context, in access.Enrolment) (access.Statement, error) {
	st, err := issuers(ctx, in)
	l.mu.Lock()
	defer l.mu.Unlock()
	if err == nil {
		l.last = st
	}
	return st, err
}

func (l *liar) kept() access.Statement {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.last
}

// issuers is what the issuer says, as hallpass's own workflow has it.
func issuers(ctx workflow.Context, in access.Enrolment) (out access.Statement, err error) {
	err = workflow.ExecuteActivity(workflow.WithActivityOptions(ctx, workflow.ActivityOptions{
		TaskQueue: access.IssueQueue("ssh"), StartToCloseTimeout: time.Minute, RetryPolicy: &temporal.RetryPolicy{MaximumAttempts: 3},
	}), "CertifyHost", in).Get(ctx, &out)
	return out, err
}

// A host is told which CAs to trust, and who may log in, by way of the service,
// Temporal and a worker on the queue hallpass. Whoever runs that worker can say what he
// likes, to a host that is taken in and to one that is: it takes what its CA has signed for
// it, and keeps what it has.
func TestRogueAnswersAHost(t *testing.T) {
	r := apart(t, "rogue-hosts")
	if os.Geteuid() != 0 {
		process.Unable(t, "a host with PAM takes root")
	}
	address := "127.0.0.1:" + freePort(t)
	r.env = append(r.env, "HALLPASS_SERVICE_ADDRESS="+address, "HALLPASS_ISSUERS_SSH_HOST_KEY=file:"+filepath.Join(r.dir, "host_ca"))
	r.hallpass(t, "", "ca", "init", filepath.Join(r.dir, "host_ca"))
	r.replace(t, "policy.yaml", policy+"hosts: {enroll: [sre]}\n")
	r.start(t, "issuer:ssh")
	r.start(t, "service")
	l := &liar{}
	w := sdkworker.New(r.Client, access.TaskQueue, sdkworker.Options{})
	w.RegisterWorkflowWithOptions(l.answer, workflow.RegisterOptions{Name: access.HostWorkflow})
	must(t, w.Start())
	t.Cleanup(w.Stop)

	m, err := hosttest.New(r.program+"-host", freePort(t))
	must(t, err)
	t.Cleanup(m.Close)
	must(t, m.Start())
	serviceCA := filepath.Join(r.dir, "service_ca.pub.pem")
	eventually(t, "the service to listen", func() bool {
		_, err := os.Stat(serviceCA)
		conn, dialErr := net.Dial("tcp", address)
		return err == nil && dialErr == nil && conn.Close() == nil
	})
	enroll := func() (string, error) {
		t.Helper()
		var token struct{ Token string }
		must(t, json.Unmarshal([]byte(r.hallpass(t, "carol", "host", "token", "web-1", "--output", "json")), &token))
		out, err := m.Command(append([]string{"enroll", "--service", "https://" + address, "--ca", serviceCA, "--token", token.Token, "--break-glass", "nobody"}, m.Files()...)...).CombinedOutput()
		return string(out), err
	}
	// has is what the host trusts, and what makes sshd trust it.
	has := func() map[string]string {
		t.Helper()
		files := map[string]string{}
		for _, dir := range []string{filepath.Join(m.Root, "etc"), filepath.Join(m.Dir, "sshd_config.d")} {
			must(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
				if os.IsNotExist(err) {
					return nil
				}
				if err == nil && d.Type().IsRegular() {
					data, rerr := os.ReadFile(path)
					files[path], err = string(data), rerr
				}
				return err
			}))
		}
		return files
	}

	mallory := r.People["mallory"].Signer
	his := statement.MarshalKey(mallory.PublicKey())
	line, err := os.ReadFile(filepath.Join(r.dir, "ssh_ca.pub"))
	must(t, err)
	ca, _, _, _, err := ssh.ParseAuthorizedKey(line)
	must(t, err)
	// made is what he can make up: right in all but who has signed it.
	made := func(in access.Enrolment, agent string, cas ...string) access.Statement {
		st, err := statement.SignEnrolled(mallory, access.Enrolled{
			Answers: in.Statement.Hash(), AgentKey: agent, Host: "web-1", UserCAs: cas,
			Principals: map[string][]string{login(): {"web-1/" + login()}, "root": {"web-1/root"}}, RenewAfter: time.Now().Add(time.Hour).UTC().Truncate(time.Second),
		})
		if err != nil {
			t.Error(err)
		}
		return st
	}
	// changed is what the issuer says, with a word of his in it.
	changed := func(from, to string) answering {
		return func(ctx workflow.Context, in access.Enrolment) (access.Statement, error) {
			st, err := issuers(ctx, in)
			if payload := strings.Replace(st.Payload, from, to, 1); err == nil && payload == st.Payload {
				t.Errorf("%s is not in %s", from, payload)
			} else {
				st.Payload = payload
			}
			return st, err
		}
	}
	again := func(workflow.Context, access.Enrolment) (access.Statement, error) { return l.kept(), nil }
	moreCAs, moreLogins := changed(`"user_cas":[`, `"user_cas":["`+his+`",`), changed(`"principals":{`, `"principals":{"root":["web-1/root"],`)

	for _, tt := range []struct {
		name string
		say  answering
		want string
	}{
		{"a CA of his own", func(_ workflow.Context, in access.Enrolment) (access.Statement, error) {
			return made(in, in.AgentKey, his), nil
		}, "and the token is for " + ssh.FingerprintSHA256(ca)},
		{"a CA of his own beside the real one", func(_ workflow.Context, in access.Enrolment) (access.Statement, error) {
			return made(in, in.AgentKey, statement.MarshalKey(ca), his), nil
		}, "and the token is for " + ssh.FingerprintSHA256(ca)},
		{"without a signature", func(_ workflow.Context, in access.Enrolment) (access.Statement, error) {
			return access.Statement{Payload: made(in, in.AgentKey, his).Payload}, nil
		}, "a worker or an issuer is older than the service"},
		{"another CA in what the issuer says", moreCAs, "is not valid"},
		{"another login in what the issuer says", moreLogins, "is not valid"},
		{"the token, for an agent of his own", func(ctx workflow.Context, in access.Enrolment) (access.Statement, error) {
			in.AgentKey = his
			return l.keep(ctx, in)
		}, "takes another key for this host's agent"},
		{"the answer to another host", again, "answers what this host didn't ask"},
	} {
		l.says(tt.say)
		if out, err := enroll(); err == nil || !strings.Contains(out, tt.want) {
			t.Errorf("%s: %v, want %s\n%s", tt.name, err, tt.want, out)
		}
		if files := has(); len(files) > 0 {
			t.Fatalf("%s: the host has %v", tt.name, files)
		}
	}
	l.says(issuers)
	if out, err := enroll(); err != nil {
		t.Fatalf("what the issuer says isn't taken, so the test shows nothing: %v\n%s", err, out)
	}

	enrolled := has()

	// From now on it asks by itself, and at once when it is told to.
	path := filepath.Join(t.TempDir(), "agent.log")
	log, err := os.Create(path)
	must(t, err)
	said := func() string {
		data, err := os.ReadFile(path)
		must(t, err)
		return string(data)
	}
	agent := m.Command("run")
	agent.Stderr = log
	must(t, agent.Start(), log.Close())
	t.Cleanup(func() {
		_ = agent.Process.Signal(syscall.SIGTERM)
		_ = agent.Wait()
		if t.Failed() {
			t.Logf("the host's agent says:\n%s", said())
		}
	})
	eventually(t, "the agent to look after the host", func() bool { return strings.Contains(said(), "looking after sessions") })
	ask := func() { must(t, agent.Process.Signal(syscall.SIGHUP)) }
	itself := func(_ workflow.Context, in access.Enrolment) (access.Statement, error) { return in.Statement, nil }
	// settled waits until the agent has done with what it was told, which it has when it
	// refuses what it is told next.
	settled := func() {
		t.Helper()
		seen := len(said())
		l.says(itself)
		ask()
		eventually(t, "the agent to settle", func() bool { return strings.Contains(said()[seen:], "renew@hallpass") })
	}
	first := l.kept()
	l.says(l.keep)
	ask()
	eventually(t, "the issuer to be asked", func() bool { return l.kept() != first })
	settled()
	before := has()
	for path, data := range enrolled {
		if _, ok := before[path]; !ok {
			t.Fatalf("%s is gone since it asks by itself, was %q", path, data)
		}
	}
	for path, data := range before { // after the real answer, and the first that isn't
		if renewed := strings.HasSuffix(path, "-cert.pub") || filepath.Base(path) == "config.json"; !renewed && enrolled[path] != data {
			t.Fatalf("%s is %q since it asks by itself, was %q", path, data, enrolled[path])
		}
	}
	signer, err := ssh.ParsePrivateKey([]byte(before[filepath.Join(m.Root, "etc/hallpass-host/agent_key")]))
	must(t, err)
	mine := statement.MarshalKey(signer.PublicKey()) // the agent's
	for _, tt := range []struct {
		name string
		say  answering
		want string
	}{
		{"a CA of his own", func(_ workflow.Context, in access.Enrolment) (access.Statement, error) {
			return made(in, mine, his), nil
		}, "which none of this host's vouches for"},
		{"a CA of his own beside the real one", func(_ workflow.Context, in access.Enrolment) (access.Statement, error) {
			return made(in, mine, statement.MarshalKey(ca), his), nil
		}, "which none of this host's vouches for"},
		{"another CA in what the issuer says", moreCAs, "is not valid"},
		{"another login in what the issuer says", moreLogins, "is not valid"},
		{"the last answer again", again, "answers what this host didn't ask"},
		{"the host's own words", itself, "renew@hallpass"},
	} {
		seen := len(said())
		l.says(tt.say)
		ask()
		eventually(t, tt.name+": "+tt.want, func() bool { return strings.Contains(said()[seen:], tt.want) })
		if diff := cmp.Diff(before, has()); diff != "" {
			t.Fatalf("%s: the host has changed: %s", tt.name, diff)
		}
	}
	seen := len(said())
	l.says(issuers)
	r.replace(t, "catalog.yaml", strings.ReplaceAll(strings.Replace(catalog, "[LOGIN]", "[LOGIN, deploy]", 1), "LOGIN", login()))
	ask()
	eventually(t, "what the issuer says to be taken", func() bool { return strings.Contains(said()[seen:], "are as the service has them") })
	if got := has()[filepath.Join(m.Root, "etc/hallpass-host/principals/deploy")]; got != "web-1/deploy\n" {
		t.Fatalf("what the issuer says isn't taken, so the test shows nothing: deploy may log in with %q", got)
	}

	// It is the same with somebody on the issuer's own queue: hallpass's workflow is
	// told what he likes, and the host isn't.
	r.stop("issuer:ssh")
	poller := sdkworker.New(r.Client, access.IssueQueue("ssh"), sdkworker.Options{DisableWorkflowWorker: true})
	poller.RegisterActivityWithOptions(func(_ context.Context, in access.Enrolment) (access.Statement, error) {
		return made(in, mine, statement.MarshalKey(ca), his), nil
	}, activity.RegisterOptions{Name: "CertifyHost"})
	must(t, poller.Start())
	t.Cleanup(poller.Stop)
	before, seen = has(), len(said())
	ask()
	eventually(t, "a poller's answer to be refused", func() bool { return strings.Contains(said()[seen:], "which none of this host's vouches for") })
	if diff := cmp.Diff(before, has()); diff != "" {
		t.Fatalf("a poller on the issuer's queue: the host has changed: %s", diff)
	}
}

// freePort is a port of 127.0.0.1 that nobody listens on.
func freePort(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	_, port, err := net.SplitHostPort(l.Addr().String())
	must(t, err, l.Close())
	return port
}
