package cli

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"hallpass/access"
	"hallpass/ca"
	"hallpass/catalog"
	"hallpass/evidence"
	"hallpass/policy"
	httpsservice "hallpass/service"
	"hallpass/statement"
	"hallpass/testsuite/openapitest"
	"hallpass/transport"
	"hallpass/worker"
)

// world is a machine with a few people on it and a service behind it.
type world struct {
	t       *testing.T
	dir     string
	env     map[string]string
	keys    map[string]ssh.Signer
	service *service
	now     *clock
	typed   string // what is typed on the terminal; "" for no terminal
	prompts *bytes.Buffer
	secret  string // the passphrase, as it is typed
	execed  []string
	tty     bool // stderr is one
	outTTY  bool // stdout is one
	vault   *fakeVault
	signals chan os.Signal
	after   func(time.Duration) <-chan time.Time
	dialed  int
	open    *service // reached before it went away
	mu      sync.Mutex
	https   string // address of the service, where the commands reach it over HTTPS; "" for Temporal's side
}

const testID = "01990000-0000-7000-8000-000000000000"

// clock is moved by whoever sleeps by it.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

const testCatalog = `resources:
  ssh/web-1:
    description: first web server
    labels: {env: prod}
    logins: [deploy, root]
    hosts: [web-1, web-1.example.com]
    address: 10.0.0.7:2222
  ssh/test-1:
    labels: {env: test}
    logins: [tester]
  ssh/vault:
    labels: {env: secret}
    logins: [root]
`

const testPolicy = `locks: {groups: [sre]}
rules:
  - name: production
    when: resource.labels.env == "prod"
    max_duration: 8h
    require: {reason: true}
    approvals:
      - {count: 1, from: [sre]}
    approval_window: 1h
    revoke: [security]
  - name: testing
    when: resource.labels.env == "test"
    approvals: none
    max_duration: 10m
`

func newWorld(t *testing.T) *world {
	t.Helper()
	dir := t.TempDir()
	w := &world{
		t: t, dir: dir, keys: map[string]ssh.Signer{}, prompts: &bytes.Buffer{},
		now: &clock{t: time.Now().Truncate(time.Second)},
		env: map[string]string{"HOME": dir, "HALLPASS_CONFIG": filepath.Join(dir, "hallpass.yaml"), "TZ": "UTC", "HALLPASS_USER": "alice"},
	}
	users := "users:\n"
	for _, u := range []struct{ name, groups string }{{"alice", "dev"}, {"bob", "sre"}, {"carol", "sre, dev"}, {"mallory", "dev"}} {
		_, key, err := ed25519.GenerateKey(nil)
		check(t, err)
		block, err := ssh.MarshalPrivateKey(key, u.name)
		check(t, err)
		check(t, os.WriteFile(w.keyFile(u.name), pem.EncodeToMemory(block), 0o600))
		w.keys[u.name], err = ssh.NewSignerFromKey(key)
		check(t, err)
		users += fmt.Sprintf("  %s:\n    groups: [%s]\n    keys:\n      - %s\n", u.name, u.groups, statement.MarshalKey(w.keys[u.name].PublicKey()))
	}
	w.env["HALLPASS_KEY"] = w.keyFile("alice")
	for name, data := range map[string]string{
		"hallpass.yaml": "temporal: {address: 127.0.0.1:1}\n", "directory.yaml": users, "catalog.yaml": testCatalog, "policy.yaml": testPolicy,
	} {
		check(t, os.WriteFile(filepath.Join(dir, name), []byte(data), 0o600))
	}
	book, err := evidence.NewRulebook([]byte(testPolicy), []byte(users), []byte(testCatalog))
	check(t, err)
	_, caKey, err := ed25519.GenerateKey(nil)
	check(t, err)
	caSigner, err := ssh.NewSignerFromKey(caKey)
	check(t, err)
	authority, err := ca.New(caSigner, w.now.Now)
	check(t, err)
	w.service = &service{book: book, ca: authority, now: w.now.Now, requests: map[string]*access.Status{}}
	if overHTTPS() {
		w.serve()
	}
	return w
}

// over is the variable that says by which transport the worlds of the tests are
// reached; see TestOverHTTPS.
const over = "HALLPASS_TEST_OVER"

func overHTTPS() bool { return os.Getenv(over) == "https" }

// serve puts the real service, with TLS, in front of the fake one.
func (w *world) serve() {
	w.t.Helper()
	key, certificate := filepath.Join(w.dir, "service_ca.key"), filepath.Join(w.dir, "service_ca.pub.pem")
	check(w.t, httpsservice.CreateAuthority(key, certificate))
	authority, err := httpsservice.OpenAuthority(key, certificate, []string{"127.0.0.1"}, nil)
	check(w.t, err)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	check(w.t, err)
	w.https = "https://" + l.Addr().String()
	w.env["HALLPASS_SERVICE"], w.env["HALLPASS_SERVICE_CA"] = w.https, certificate
	quiet := slog.New(slog.DiscardHandler)
	handler := httpsservice.New(httpsservice.Options{
		Rulebook: func() *evidence.Rulebook { return w.service.book },
		Requests: func() (httpsservice.Requests, error) { return w.service, nil },
		Audience: access.Audience(authority.Certificate().Raw), Log: quiet, Now: w.now.Now,
		Sleep: func(ctx context.Context, d time.Duration) error {
			w.now.advance(d)
			w.service.tick()
			return ctx.Err()
		},
	})
	ctx, stop := context.WithCancel(context.Background())
	description, err := os.ReadFile(filepath.Join("..", "service", "openapi.yaml"))
	check(w.t, err)
	spec, err := openapitest.Parse(description)
	check(w.t, err)
	served := make(chan error, 1)
	watched := spec.Watch(handler, func(err error) { w.t.Error(err) })
	go func() { served <- httpsservice.Serve(ctx, l, authority.TLS(), watched, quiet) }()
	w.t.Cleanup(func() {
		stop()
		check(w.t, <-served)
	})
}

// directly is the world by Temporal's side.
func (w *world) directly() *world {
	w.https = ""
	return w
}

// reach is the backend of one run of the program.
func (w *world) reach(a *app) (backend, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.dialed++
	if w.service.gone && w.open == nil {
		return nil, transport.Unreachable("127.0.0.1:1", io.ErrUnexpectedEOF)
	}
	if w.https == "" {
		return w.service, nil
	}
	cfg, err := worker.Load("", func(name string) string { return w.env[name] })
	if err != nil {
		return nil, err
	}
	return cfg.HTTPS(a.ctx, a.signRead, a.now)
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (w *world) keyFile(user string) string { return filepath.Join(w.dir, user+".key") }
func (w *world) home() string               { return filepath.Join(w.dir, ".hallpass") }

// as makes further commands this user's.
func (w *world) as(user string) *world {
	w.env["HALLPASS_USER"], w.env["HALLPASS_KEY"] = user, w.keyFile(user)
	return w
}

type scriptConsole struct {
	io.Reader
	io.Writer
	secret string
}

func (scriptConsole) Close() error { return nil }
func (c scriptConsole) ReadPassword() ([]byte, error) {
	if c.secret == "" {
		return nil, io.EOF
	}
	return []byte(c.secret), nil
}
func (w *world) console() (console, error) {
	if w.typed == "" {
		return nil, errNoTerminal
	}
	return scriptConsole{strings.NewReader(w.typed), w.prompts, w.secret}, nil
}

// safeBuffer may be written to by a command and by us at once, as a file may.
type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *safeBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *safeBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

type result struct {
	code           int
	stdout, stderr string
}

// run runs a command line; words in it are separated by spaces, a "_" in a
// word is one.
func (w *world) run(line string) result {
	w.t.Helper()
	args := strings.Fields(line)
	for i := range args {
		args[i] = strings.ReplaceAll(args[i], "_", " ")
	}
	return w.runArgs(context.Background(), args...)
}

func (w *world) runArgs(ctx context.Context, args ...string) result {
	w.t.Helper()
	var stdout, stderr safeBuffer
	env := func(name string) string { return w.env[name] }
	a := &app{
		ctx: ctx, stdin: strings.NewReader(""), env: env, now: w.now.Now, console: w.console,
		out: newPrinter(&stdout, env), err: newPrinter(&stderr, env),
		sleep: func(ctx context.Context, d time.Duration) error {
			w.now.advance(d)
			w.service.tick()
			return ctx.Err()
		},
		exec: func(path string, argv, _ []string) error {
			w.execed = argv
			return nil
		},
	}
	a.dial = func(context.Context) (backend, error) { return w.reach(a) }
	a.err.tty, a.out.tty = w.tty, w.outTTY
	if a.after = w.after; a.after == nil {
		a.after = func(time.Duration) <-chan time.Time { return nil }
	}
	if w.signals != nil {
		a.signals = func() <-chan os.Signal { return w.signals }
	}
	code := a.main(args)
	return result{code, stdout.String(), stderr.String()}
}

// must runs a command line that has to work.
func (w *world) must(line string) result {
	w.t.Helper()
	r := w.run(line)
	if r.code != 0 {
		w.t.Fatalf("%s: exit %d\n%s", line, r.code, r.stderr)
	}
	return r
}

// ask has the present user request line without waiting, and returns the id.
func (w *world) ask(line string) string {
	w.t.Helper()
	return strings.TrimSpace(w.must("request " + line + " --no-wait").stdout)
}

// service is the whole service in memory: judged by the real evidence check,
// certified by a real CA.
type service struct {
	mu       sync.Mutex
	book     *evidence.Rulebook
	ca       *ca.CA
	now      func() time.Time
	requests map[string]*access.Status
	order    []string // ids as they came
	serial   uint64
	gone     bool
	stuck    bool // Submit fails, having started or not
	onTick   func(*service)
	sent     int
	broken   map[string]bool // ended from outside
	locks    evidence.Locks
	given    evidence.Delegations
	mute     bool                  // nobody answers for requests
	refuse   func(id string) error // what is sent to a request, if it says so
	slow     bool                  // what is locked doesn't end, and no sweep does
	swept    access.Swept
	vault    *fakeVault
	deaf     bool // Send doesn't get through
	reviews  []access.ReviewTask
	blind    bool // nobody lists reviews
}

var _ backend = (*service)(nil)

func (s *service) Close() {}

func (s *service) Submit(_ context.Context, in access.Submission, req access.Request) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stuck {
		return transport.Unreachable("127.0.0.1:1", io.ErrUnexpectedEOF)
	}
	if s.requests[req.ID] != nil {
		return access.Errorf(access.CodeDuplicate, "request %s has been submitted before", req.ID)
	}
	st := &access.Status{ID: req.ID, State: access.StatePending, Asked: req.Time, Evidence: access.Evidence{Request: in.Request}}
	s.requests[req.ID], s.order = st, append(s.order, req.ID)
	var limits evidence.Known
	if was := s.requests[req.Extends]; was != nil {
		limits.Extends = &access.Extended{Request: req.Extends, Statement: was.Evidence.Request, Begin: *was.Granted, End: *was.Ends}
	}
	standing, err := s.book.Under(s.locks).Through(s.given).Judge(st.Evidence, s.now(), limits)
	if err != nil {
		st.State, st.Why = access.StateDenied, err.Error()
		return nil
	}
	s.settle(st, standing)
	return nil
}

func (s *service) settle(st *access.Status, standing access.Standing) {
	st.Standing, st.Why = standing, standing.Why
	now := s.now().UTC()
	switch {
	case standing.Effect == access.EffectDeny:
		st.State, st.EndedAt = access.StateDenied, &now
	case standing.Effect == access.EffectAsk:
		deadline := standing.Ruling.At.Add(standing.Ruling.Window.Duration())
		st.Deadline = &deadline
	case standing.Request.Start != nil && standing.Request.Start.After(now):
		st.State, st.Starts = access.StateScheduled, standing.Request.Start
	default:
		s.issue(st, now)
	}
}

func (s *service) issue(st *access.Status, now time.Time) {
	now = now.Truncate(time.Second)
	req := st.Standing.Request
	if st.Standing.Resource.Kind == catalog.KindVault {
		s.seal(st, now)
		return
	}
	key, err := statement.ParseKey(req.PublicKey)
	if err != nil {
		panic(err)
	}
	principal, err := ca.Principal(req.Resource, req.Login)
	if err != nil {
		panic(err)
	}
	s.serial++
	end := now.Add(st.Standing.Duration.Duration())
	p, err := s.ca.Prepare(ca.Spec{
		Request: req.ID, Requester: req.Signer, Principals: []string{principal}, PublicKey: key, Serial: s.serial,
		NotBefore: now, NotAfter: end, Options: st.Standing.Ruling.SSH, Command: req.Command, Extends: req.Extends,
	})
	if err != nil {
		panic(err)
	}
	cert, err := s.ca.Issue(p)
	if err != nil {
		panic(err)
	}
	st.Handle = &access.Handle{Request: req.ID, Kind: "ssh", Serial: s.serial, CA: s.ca.Fingerprint(), Principals: []string{principal}, NotBefore: now, NotAfter: end}
	st.Credential = &access.Credential{Handle: *st.Handle, Certificate: ca.Marshal(cert)}
	st.State, st.Granted, st.Ends = access.StateActive, &now, &end
	if em := st.Standing.Ruling.Emergency; em != nil {
		s.reviews = append(s.reviews, access.ReviewTask{
			Request: req.ID, Statement: st.Evidence.Request, Requester: req.Signer, Resource: req.Resource, Granted: now,
			Due: now.Add(em.Within.Duration()), Emergency: *em, Missing: policy.Missing(em.Review, 0, nil),
		})
	}
}

// tick lets time do its work.
func (s *service) tick() {
	s.mu.Lock()
	on := s.onTick
	s.mu.Unlock()
	if on != nil {
		on(s)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now().UTC()
	for _, st := range s.requests {
		switch {
		case st.State == access.StatePending && st.Deadline != nil && !now.Before(*st.Deadline):
			st.State, st.Why, st.EndedAt = access.StateTimedOut, "not approved within 1h", &now
		case st.State == access.StateScheduled && !now.Before(*st.Starts):
			s.issue(st, now)
		case st.State == access.StateActive && !now.Before(*st.Ends):
			st.State, st.Why, st.EndedAt, st.Credential = access.StateExpired, "ran to its end", &now, nil
		}
	}
}

func (s *service) Status(ctx context.Context, id string) (access.Status, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if ctx.Err() != nil {
		return access.Status{}, ctx.Err()
	}
	if s.gone || s.mute {
		return access.Status{}, transport.Unreachable("127.0.0.1:1", io.ErrUnexpectedEOF)
	}
	st := s.requests[id]
	if st == nil {
		return access.Status{}, access.Errorf(access.CodeNotFound, "no request %s", id)
	}
	if s.broken[id] {
		return *st, access.Errorf(access.CodeEnded, "the workflow of request %s was ended from outside: terminated", id)
	}
	return *st, nil
}

func (s *service) List(_ context.Context, f transport.Filter) ([]transport.Summary, error) {
	if _, err := f.Query(); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var found []transport.Summary
	for _, id := range slices.Backward(s.order) {
		st := s.requests[id]
		req := st.Standing.Request
		if !strings.HasPrefix(id, f.Prefix) || f.Requester != "" && f.Requester != req.Signer || f.Resource != "" && f.Resource != req.Resource ||
			len(f.States) > 0 && !slices.Contains(f.States, st.State) {
			continue
		}
		one := transport.Summary{ID: id, State: st.State, Requester: req.Signer, Resource: req.Resource, Asked: st.Asked, Expires: st.Ends, Ended: st.EndedAt}
		for _, v := range st.Standing.Voices {
			one.Approvers = append(one.Approvers, v.Signer)
		}
		found = append(found, one)
	}
	if f.Limit > 0 && len(found) > f.Limit {
		found = found[:f.Limit]
	}
	return found, nil
}

func (s *service) Send(_ context.Context, id, message, _ string, st access.Statement) (access.Status, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sent++
	if s.deaf {
		return access.Status{}, transport.Unreachable("127.0.0.1:1", io.ErrUnexpectedEOF)
	}
	r := s.requests[id]
	if r == nil {
		return access.Status{}, access.Errorf(access.CodeNotFound, "no request %s", id)
	}
	if s.refuse != nil {
		if err := s.refuse(id); err != nil {
			return access.Status{}, err
		}
	}
	now := s.now().UTC()
	if message == access.MessageDecision {
		standing, ev, err := s.book.Under(s.locks).Through(s.given).Hear(r.Evidence, st, now, evidence.Known{})
		if err != nil {
			return access.Status{}, err
		}
		r.Evidence = ev
		s.settle(r, standing)
		return *r, nil
	}
	if r.State.Final() {
		return *r, access.TooLate(*r)
	}
	stop, _, err := s.book.CheckStop(r.Evidence.Request, st, access.Type(message), now)
	if err != nil {
		return access.Status{}, err
	}
	r.State = map[string]access.State{
		access.MessageRelease: access.StateReleased, access.MessageRevoke: access.StateRevoked, access.MessageCancel: access.StateCancelled,
	}[message]
	r.Why, r.By, r.Ended, r.EndedAt, r.Credential = message+" by "+stop.Signer, stop.Signer, &st, &now, nil
	return *r, nil
}

func (s *service) Lock(_ context.Context, st access.Statement, _ access.Lock) (access.Locked, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stuck {
		return access.Locked{}, transport.Unreachable("127.0.0.1:1", io.ErrUnexpectedEOF)
	}
	now := s.now().UTC()
	book := s.book.Under(s.locks)
	l, _, err := book.CheckLock(st, now)
	if err != nil {
		return access.Locked{}, err
	}
	s.locks = s.locks.After(l, st)
	out := access.Locked{Lock: l}
	for _, id := range s.order {
		r := s.requests[id]
		if req := r.Standing.Request; l.Action == access.ActionLock && !r.State.Final() && book.Covers(l, req.Signer, req.Resource) {
			out.Told = append(out.Told, id)
			r.State, r.Why, r.By, r.Ended, r.EndedAt, r.Credential = access.StateRevoked, "locked by "+l.Signer+": "+l.Reason, l.Signer, &st, &now, nil
		}
	}
	if s.slow {
		return out, access.Errorf(access.CodeUnavailable, "no worker answers")
	}
	return out, nil
}

func (s *service) Review(_ context.Context, id, _ string, st access.Statement) (access.ReviewTask, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, t := range s.reviews {
		if t.Request != id {
			continue
		}
		review, user, err := s.book.CheckReview(t, st, s.now())
		if err != nil {
			return access.ReviewTask{}, err
		}
		t.Signed = append(t.Signed, access.Voice{Signer: user.Name, Verdict: access.Approve, Comment: review.Comment, Time: review.Time})
		var voters []policy.Voter
		for _, v := range t.Signed {
			u, _ := s.book.Directory.User(v.Signer)
			voters = append(voters, policy.Voter{User: u})
		}
		t.Missing = policy.Missing(t.Emergency.Review, 0, voters)
		t.Done = len(t.Missing) == 0
		s.reviews[i] = t
		return t, nil
	}
	return access.ReviewTask{}, access.Errorf(access.CodeNotFound, "nobody has broken any glass")
}

func (s *service) Reviews(context.Context) ([]access.ReviewTask, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.blind {
		return nil, transport.Unreachable("127.0.0.1:1", io.ErrUnexpectedEOF)
	}
	return slices.DeleteFunc(slices.Clone(s.reviews), func(t access.ReviewTask) bool { return t.Done }), nil
}

func (s *service) Locks(context.Context) (evidence.Locks, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.locks.InForce(s.now()), nil
}

func (s *service) Delegate(_ context.Context, st access.Statement, _ access.Delegation) (access.Delegated, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	d, _, err := s.book.Under(s.locks).Through(s.given).CheckDelegation(st, s.now())
	if err != nil {
		return access.Delegated{}, err
	}
	s.given = s.given.After(d, st, s.now())
	return access.Delegated{Delegation: d}, nil
}

func (s *service) Delegations(context.Context) (evidence.Delegations, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.given.Open(s.now()), nil
}

func (s *service) Sweep(context.Context) (access.Swept, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.slow {
		return s.swept, access.Errorf(access.CodeUnavailable, "no worker answers")
	}
	return s.swept, nil
}

// runWith is runArgs with a service that has answered the door.
func (w *world) runWith(s *service, args ...string) result {
	w.t.Helper()
	w.open = s
	defer func() { w.open = nil }()
	return w.runArgs(context.Background(), args...)
}
