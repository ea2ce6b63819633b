package chaos

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
	"github.com/jackc/pgx/v5/pgconn"
	"go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"
	"golang.org/x/crypto/ssh"

	"hallpass/access"
	"hallpass/sealed"
	"hallpass/statement"
	"hallpass/testsuite/chaos/check"
)

const (
	patience = 3 * time.Minute  // something comes within this, where something has to
	insist   = 40 * time.Second // how long somebody tries to say something
	making   = 20 * time.Second // how long somebody waits for Vault to make a login
	look     = 700 * time.Millisecond
)

// Play carries out a plan on a stack that runs, waits until all is over, and
// returns what was seen, for the checker. It stops the stack: stop keeps its
// parts from being started again.
func Play(t testing.TB, s *Stack, plan []Step, stop context.CancelFunc) check.Seen {
	t.Helper()
	p := &player{t: t, stack: s, asked: map[int]*asked{}, began: time.Now(), planned: map[string]int{}, broke: map[string]int{}}
	p.seen.World = s.world()
	for _, step := range plan {
		if step.Do == ask {
			p.asked[step.Request] = &asked{n: step.Request, step: step, taken: make(chan struct{}), over: make(chan struct{})}
		}
	}
	p.host = newHost(t, s)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go p.host.follow(ctx)

	p.began = time.Now()
	var keep sync.WaitGroup
	lasts := plan[len(plan)-1].At
	keep.Go(func() { p.keepRecords(ctx, lasts) })
	var steps sync.WaitGroup
	for _, step := range plan {
		if !wait(ctx, time.Until(p.began.Add(step.At))) {
			break
		}
		steps.Go(func() { p.step(ctx, step) })
	}
	steps.Wait()
	keep.Wait()
	p.logf("all is said, and nothing is broken any more")
	p.settle(ctx)
	p.afterwards(ctx)
	p.record(ctx, true)
	cancel()
	stop()
	p.clear()
	p.seen.HostLog = p.host.sshd.Log(t)
	for _, kind := range slices.Sorted(maps.Keys(p.planned)) {
		t.Logf("%s: %d of %d took effect", kind, p.broke[kind], p.planned[kind])
		if p.planned[kind] >= 3 && p.broke[kind] == 0 { // a process may have ended a moment before
			t.Errorf("nothing was broken by %s, so that shows nothing", kind)
		}
	}
	return p.seen
}

// player is a plan under way.
type player struct {
	t     testing.TB
	stack *Stack
	host  *host
	began time.Time
	asked map[int]*asked // by number

	mu    sync.Mutex
	seen  check.Seen
	locks []access.Lock

	planned, broke map[string]int // faults of each kind: those that were to be, and those that were
}

// asked is one request.
type asked struct {
	n       int
	step    Step
	taken   chan struct{} // closed once Temporal has it, or nobody insists any more
	over    chan struct{} // closed when it has ended
	request access.Request
	signed  access.Statement
	key     ssh.Signer

	id string // once it is taken; "" if it never was

	mu   sync.Mutex
	cert *ssh.Certificate

	age            string // opens what Vault gives
	opened         bool   // somebody has begun to
	user, password string // "" until then
}

func (p *player) logf(format string, args ...any) {
	p.t.Logf("%7.2fs %s", time.Since(p.began).Seconds(), fmt.Sprintf(format, args...))
}

// wait waits, and says whether ctx goes on.
func wait(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}

// poll asks until there is no error.
func poll(ctx context.Context, what string, f func() error) error {
	deadline := time.Now().Add(patience)
	for {
		err := f()
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) || !wait(ctx, 100*time.Millisecond) {
			return fmt.Errorf("waited %s for %s: %w", patience, what, err)
		}
	}
}

// step does one step of the plan.
func (p *player) step(ctx context.Context, s Step) {
	switch s.Do {
	case kill, pause, full, cut, stall, slow, clock:
		p.fault(ctx, s)
	case ask:
		p.ask(ctx, p.asked[s.Request])
	case login:
		p.login(ctx, p.asked[s.Request])
	case lock, unlock:
		p.lock(ctx, s)
	default:
		p.say(ctx, s)
	}
}

// dying is how a process answers that was killed a moment ago, /proc/PID/mem included.
var dying = []error{syscall.ESRCH, os.ErrNotExist, io.EOF, io.ErrUnexpectedEOF, syscall.EIO}

// fault breaks something, and mends it after its time.
func (p *player) fault(ctx context.Context, s Step) {
	p.logf("%s %s for %s", s.Do, s.On, s.Lasts.Round(time.Millisecond))
	failed := func(err error) bool {
		gone := slices.ContainsFunc(dying, func(e error) bool { return errors.Is(err, e) })
		if err != nil && !gone {
			p.t.Errorf("%s: %v", s, err)
		}
		return err != nil
	}
	counted, broke := slices.Contains([]string{pause, clock, full}, s.Do), true // the others say nothing of it
	part, link, disk := p.stack.part(s.On), p.stack.link(s.On), p.stack.disk(s.On)
	from, until := time.Now(), time.Time{}
	hold := func() { wait(ctx, s.Lasts) }
	switch s.Do {
	case kill:
		part.kill(s.Lasts)
		until = time.Now().Add(s.Lasts)
	case pause:
		pid := part.pid()
		broke = !failed(syscall.Kill(pid, syscall.SIGSTOP))
		hold()
		failed(syscall.Kill(pid, syscall.SIGCONT))
	case clock:
		pid := part.pid()
		p.logf("by %s", s.By)
		broke = !failed(MoveClock(pid, s.By))
		hold()
		if pid == part.pid() { // else it has ended, and another began with the right time
			failed(MoveClock(pid, 0))
		}
		if s.By > 0 { // behind, an issuer only gives less
			p.mu.Lock()
			p.seen.Ahead = append(p.seen.Ahead, check.Ahead{From: from, To: time.Now(), Whole: len(p.stack.Parts) == 1})
			p.mu.Unlock()
		}
	case full:
		broke = !failed(disk.Fill())
		hold()
		failed(disk.Empty())
	case cut:
		link.set(func() { link.cut = true })
		hold()
		link.set(func() { link.cut = false })
	case stall:
		link.set(func() { link.stalled = true })
		hold()
		link.set(func() { link.stalled = false })
	case slow:
		link.set(func() { link.delay = s.By })
		hold()
		link.set(func() { link.delay = 0 })
	}
	p.mu.Lock()
	if counted {
		p.planned[s.Do]++
		if broke {
			p.broke[s.Do]++
		}
	}
	p.mu.Unlock()
	if v := p.stack.Vault; v != nil && slices.Contains(v.Needs, s.On) {
		p.broken(from, until)
	}
}

// broken keeps in mind that a login may have been made between two moments, the
// later of which is now if there is none, of which nobody was told.
func (p *player) broken(from, until time.Time) {
	if until.IsZero() {
		until = time.Now()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.seen.Broken = append(p.seen.Broken, check.Span{From: from, To: until})
}

// insist tries to say something until it was heard, as people do. It says
// whether it was.
func (p *player) insist(ctx context.Context, f func(context.Context) error) bool {
	for deadline := time.Now().Add(insist); ; {
		try, cancel := context.WithTimeout(ctx, 6*time.Second)
		err := f(try)
		cancel()
		if err == nil || refused(err) {
			return true
		}
		if time.Now().After(deadline) || !wait(ctx, 300*time.Millisecond) {
			return false
		}
	}
}

// refused says whether an error is an answer.
func refused(err error) bool {
	var application *temporal.ApplicationError
	var notFound *serviceerror.NotFound // the workflow has ended
	return errors.As(err, &application) || errors.As(err, &notFound)
}

// ask makes a request, and follows it.
func (p *player) ask(ctx context.Context, a *asked) {
	defer close(a.taken)
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err == nil {
		a.key, err = ssh.NewSignerFromKey(private)
	}
	if err != nil {
		p.t.Error(err)
		return
	}
	who := a.step.Who
	r := access.Request{
		Header: p.stack.People.Header(who, access.TypeRequest), Resource: a.step.Resource, Duration: access.Seconds(a.step.Seconds), Reason: "chaos",
	}
	if r.Resource == Database {
		r.Actions = []string{"read"}
		if a.age, r.Recipient, err = sealed.NewKey(); err != nil {
			p.t.Error(err)
			return
		}
	} else {
		r.Login, r.PublicKey = p.stack.Login, statement.MarshalKey(a.key.PublicKey())
	}
	if a.step.Starts != 0 {
		start := r.Time.Add(time.Duration(a.step.Starts) * time.Second)
		r.Start = &start
	}
	if a.step.Extends != 0 {
		<-p.asked[a.step.Extends].taken
		if r.Extends = p.asked[a.step.Extends].request.ID; r.Extends == "" {
			return
		}
	}
	a.request = r
	if a.signed, err = p.stack.People.Sign(who, r); err != nil {
		p.t.Error(err)
		return
	}
	taken := p.insist(ctx, func(ctx context.Context) error {
		_, err := p.stack.Temporal.ExecuteWorkflow(ctx, client.StartWorkflowOptions{ID: access.WorkflowID(r.ID), TaskQueue: access.TaskQueue},
			access.Workflow, access.Submission{Request: a.signed})
		var started *serviceerror.WorkflowExecutionAlreadyStarted
		if errors.As(err, &started) {
			return nil
		}
		return err
	})
	if !taken {
		p.logf("request %d was not taken", a.n)
		return
	}
	a.id = r.ID
	p.mu.Lock()
	p.seen.Asked = append(p.seen.Asked, r.ID)
	p.mu.Unlock()
	go p.follow(ctx, a)
}

// follow looks at a request until it has ended, and takes what it gives.
func (p *player) follow(ctx context.Context, a *asked) {
	for wait(ctx, look) {
		status, err := p.status(ctx, a)
		if err != nil {
			continue
		}
		switch c := status.Credential; {
		case c == nil:
		case a.age != "":
			go p.open(ctx, a, c.Sealed)
		default:
			p.hold(a, c.Certificate)
		}
		if !status.State.Final() {
			continue
		}
		if status.State == access.StateReleased || status.State == access.StateRevoked {
			p.mu.Lock()
			p.seen.Over = append(p.seen.Over, check.Over{Request: a.id, At: time.Now()})
			p.mu.Unlock()
		}
		close(a.over)
		return
	}
}

func (p *player) status(ctx context.Context, a *asked) (out access.Status, err error) {
	ctx, cancel := context.WithTimeout(ctx, 6*time.Second)
	defer cancel()
	value, err := p.stack.Temporal.QueryWorkflow(ctx, access.WorkflowID(a.id), "", access.QueryStatus)
	if err == nil {
		err = value.Get(&out)
	}
	return out, err
}

// hold takes a certificate.
func (p *player) hold(a *asked, line string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.cert != nil && string(ssh.MarshalAuthorizedKey(a.cert)) == line+"\n" {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if slices.ContainsFunc(p.seen.Held, func(h check.Held) bool { return h.Certificate == line }) {
		return
	}
	p.seen.Held = append(p.seen.Held, check.Held{Request: a.id, Certificate: line, At: time.Now()})
	key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(line))
	cert, ok := key.(*ssh.Certificate)
	if err != nil || !ok {
		p.t.Errorf("request %s was given what is no certificate: %q", a.id, line)
		return
	}
	a.cert = cert
}

// certified says whether there is a certificate that hasn't run out.
func (a *asked) certified() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.cert != nil && time.Now().Unix() < int64(a.cert.ValidBefore)
}

// say signs a decision or the end of a request, and delivers it.
func (p *player) say(ctx context.Context, s Step) {
	a, about := p.asked[s.Request], p.asked[s.Request]
	if s.About != 0 {
		about = p.asked[s.About]
	}
	<-a.taken
	select {
	case <-about.taken:
	case <-ctx.Done():
		return
	}
	if a.id == "" || about.id == "" {
		return // there is nothing to talk about
	}
	key := s.Who
	if s.Key != "" {
		key = s.Key
	}
	var payload any
	message := s.Do
	switch s.Do {
	case approve, deny:
		message = access.MessageDecision
		payload = access.Decision{
			Header: p.stack.People.Header(s.Who, access.TypeDecision), Request: about.id, RequestHash: about.signed.Hash(),
			Verdict: access.Verdict(s.Do), Duration: access.Seconds(s.Seconds),
		}
	default:
		payload = access.Stop{
			Header: p.stack.People.Header(s.Who, access.Type(s.Do)), Request: about.id, RequestHash: about.signed.Hash(), Reason: "chaos",
		}
	}
	st, err := p.stack.People.Sign(key, payload)
	if err != nil {
		p.t.Error(err)
		return
	}
	heard := false
	p.insist(ctx, func(ctx context.Context) error {
		if s.Signal {
			return p.stack.Temporal.SignalWorkflow(ctx, access.WorkflowID(a.id), "", message, st)
		}
		err := p.update(ctx, access.WorkflowID(a.id), message, st)
		heard = heard || err == nil
		return err
	})
	if heard && s.Do != approve {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.seen.Stopped = append(p.seen.Stopped, a.id)
	}
}

func (p *player) update(ctx context.Context, id, message string, st access.Statement) error {
	h, err := p.stack.Temporal.UpdateWorkflow(ctx, client.UpdateWorkflowOptions{
		WorkflowID: id, UpdateName: message, Args: []any{st}, WaitForStage: client.WorkflowUpdateStageCompleted,
	})
	if err != nil {
		return err
	}
	return h.Get(ctx, nil)
}

// lock locks, or lifts the last lock on the same, or tries to. Whether whoever
// says so may is the checker's to judge: it is told what wasn't refused.
func (p *player) lock(ctx context.Context, s Step) {
	l := access.Lock{
		Header: p.stack.People.Header(s.Who, access.TypeLock), Action: access.ActionLock, Kind: access.LockResource, Name: s.Resource, Reason: "chaos",
	}
	if s.User != "" {
		l.Kind, l.Name = access.LockUser, s.User
	}
	until := l.Time.Add(time.Duration(s.Seconds) * time.Second)
	p.mu.Lock()
	if s.Do == lock {
		l.Until = &until
		if !s.usurps() {
			p.locks = append(p.locks, l)
		}
	} else {
		for _, earlier := range p.locks {
			if earlier.Kind == l.Kind && earlier.Name == l.Name {
				l.Lock = earlier.ID
			}
		}
		l.Action = access.ActionUnlock
	}
	p.mu.Unlock()
	if s.Do == unlock && l.Lock == "" {
		p.logf("%s: nobody who may has locked that", s)
		return
	}
	key := s.Who
	if s.Key != "" {
		key = s.Key
	}
	st, err := p.stack.People.Sign(key, l)
	if err != nil {
		p.t.Error(err)
		return
	}
	taken := p.insist(ctx, func(ctx context.Context) error {
		_, err := p.stack.Temporal.ExecuteWorkflow(ctx, client.StartWorkflowOptions{ID: access.LockWorkflowID(l.ID), TaskQueue: access.TaskQueue},
			access.WorkflowLock, access.Locking{Statement: st})
		var started *serviceerror.WorkflowExecutionAlreadyStarted
		if errors.As(err, &started) {
			return nil
		}
		return err
	})
	if !taken {
		return
	}
	var out access.Locked
	err = poll(ctx, "a lock to have done its work", func() error {
		ctx, cancel := context.WithTimeout(ctx, 6*time.Second)
		defer cancel()
		return p.stack.Temporal.GetWorkflow(ctx, access.LockWorkflowID(l.ID), "").Get(ctx, &out)
	})
	if err != nil || out.Refused != nil {
		p.logf("%s %s: %v %v", s.Do, l.ID, err, out.Refused)
		return
	}
	p.mu.Lock()
	p.seen.Locked = append(p.seen.Locked, check.Locked{Lock: l.ID, Payload: st.Payload, Signature: st.Signature, At: time.Now()})
	p.mu.Unlock()
	if s.Do == unlock {
		return
	}
	wait(ctx, look) // until the host has another list
	for _, a := range p.asked {
		if (a.step.Who == s.User || a.step.Resource == s.Resource) && a.certified() {
			p.login(ctx, a)
		}
	}
}

// open takes a login to the database of Vault. What breaks down meanwhile is lost,
// as the token that opens works once.
func (p *player) open(ctx context.Context, a *asked, text string) {
	a.mu.Lock()
	first := !a.opened
	a.opened = true
	a.mu.Unlock()
	if !first {
		return
	}
	secret, err := sealed.Open(a.age, text)
	if err != nil {
		p.t.Errorf("request %s was given what can't be opened: %v", a.id, err)
		return
	}
	began := time.Now()
	ctx, cancel := context.WithTimeout(ctx, making)
	defer cancel()
	user, password, err := p.stack.Vault.read(ctx, secret)
	if ctx.Err() != nil { // it was he who broke off
		p.broken(began, time.Time{})
	}
	if err != nil {
		p.logf("what Vault gave for request %d is lost: %v", a.n, err)
		return
	}
	a.mu.Lock()
	a.user, a.password = user, password
	a.mu.Unlock()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.seen.Opened = append(p.seen.Opened, check.Opened{Request: a.id, At: time.Now()})
}

// read unwraps a secret, and reads the login.
func (v *Vault) read(ctx context.Context, secret sealed.Secret) (user, password string, err error) {
	c, err := api.NewClient(v.Config)
	if err != nil {
		return "", "", err
	}
	unwrapped, err := c.Logical().UnwrapWithContext(ctx, secret.WrappingToken)
	if err != nil {
		return "", "", err
	}
	token, err := unwrapped.TokenID()
	if err != nil {
		return "", "", err
	}
	c.SetToken(token)
	login, err := c.Logical().ReadWithContext(ctx, secret.Reads[0].Path)
	if err != nil {
		return "", "", err
	}
	user, _ = login.Data["username"].(string)
	password, _ = login.Data["password"].(string)
	if user == "" || password == "" {
		return "", "", errors.New("it is no login")
	}
	return user, password, nil
}

// database tries to log in to the database. Only what that says counts.
func (p *player) database(a *asked) {
	a.mu.Lock()
	user, password := a.user, a.password
	a.mu.Unlock()
	if user == "" {
		return
	}
	l := check.Login{Request: a.id, Began: time.Now()}
	var refused *pgconn.PgError
	switch err := p.stack.Vault.Login(user, password); {
	case err == nil:
		l.Worked = true
	case !errors.As(err, &refused) || refused.Code[:2] != "28": // invalid authorization; else it is away
		p.logf("login to the database on request %d: %v", a.n, err)
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.seen.Database = append(p.seen.Database, l)
}

// login tries a request's credential, if there is one.
func (p *player) login(_ context.Context, a *asked) {
	if a.age != "" {
		p.database(a)
		return
	}
	a.mu.Lock()
	cert := a.cert
	a.mu.Unlock()
	if cert == nil {
		return
	}
	l := check.Login{Request: a.id, List: p.host.list(), Began: time.Now()}
	var err error
	if l.Worked, err = p.host.login(a.key, cert); err != nil {
		p.logf("login on request %d: %v", a.n, err)
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.seen.Logins = append(p.seen.Logins, l)
}

// keepRecords keeps checkpoints and exports of the log, now and then.
func (p *player) keepRecords(ctx context.Context, lasts time.Duration) {
	for wait(ctx, min(lasts/4, 20*time.Second)) && time.Since(p.began) < lasts {
		p.record(ctx, false)
	}
}

// record has the log exported and checkpointed; at last it has to work, and is
// verified.
func (p *player) record(ctx context.Context, last bool) {
	note, err := p.hallpass(ctx, "audit", "checkpoint")
	if err == nil {
		p.mu.Lock()
		p.seen.Checkpoints = append(p.seen.Checkpoints, note)
		p.mu.Unlock()
		var export []byte
		if export, err = p.hallpass(ctx, "audit", "export"); err == nil {
			p.mu.Lock()
			p.seen.Exports = append(p.seen.Exports, export)
			p.mu.Unlock()
		}
	}
	if !last {
		if err != nil {
			p.logf("no export: %v", err)
		}
		return
	}
	if err != nil {
		p.t.Errorf("the last export: %v", err)
	}
	commands := [][]string{{"audit", "verify"}}
	for i, note := range p.seen.Checkpoints {
		path := filepath.Join(p.t.ArtifactDir(), fmt.Sprintf("checkpoint-%d", i+1))
		if err := os.WriteFile(path, note, 0o600); err != nil {
			p.t.Error(err)
		}
		commands = append(commands, []string{"audit", "verify", "--since", path})
	}
	for _, command := range commands {
		if _, err := p.hallpass(ctx, command...); err != nil {
			p.seen.Unverified = append(p.seen.Unverified, err.Error())
		}
	}
}

// hallpass runs a command.
func (p *player) hallpass(ctx context.Context, args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	var out, errs strings.Builder
	cmd := command(ctx, p.stack, args...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		said := out.String()
		said = said[max(0, len(said)-1000):] // an export may have come half way
		return nil, fmt.Errorf("hallpass %s: %w: %s%s", strings.Join(args, " "), err, said, errs.String())
	}
	return []byte(out.String()), nil
}

// settle waits until every request has ended, as long as there is one that does
// now and then: what was held up on a slow machine isn't stuck.
func (p *player) settle(ctx context.Context) {
	ended := make(chan *asked)
	open := 0
	for _, a := range p.asked {
		if a.id == "" {
			continue
		}
		open++
		go func() {
			select {
			case <-a.over:
			case <-ctx.Done():
				return
			}
			select {
			case ended <- a:
			case <-ctx.Done():
			}
		}()
	}
	for ; open > 0; open-- {
		select {
		case <-ended:
		case <-time.After(patience):
			p.logf("%d haven't ended, and for %s none did", open, patience)
			return
		case <-ctx.Done():
			return
		}
	}
}

// afterwards tries every certificate again: a host that has the list of now
// lets nobody in.
func (p *player) afterwards(ctx context.Context) {
	if err := poll(ctx, "the last list", func() error { return p.host.fetch(ctx) }); err != nil {
		p.t.Error(err)
	}
	var group sync.WaitGroup
	seats := make(chan struct{}, 3)
	for _, a := range p.asked {
		seats <- struct{}{}
		group.Go(func() {
			p.login(ctx, a)
			<-seats
		})
	}
	group.Wait()
}

// clear stops the stack, and looks for what is left.
func (p *player) clear() {
	left := func(format string, args ...any) { p.seen.Left = append(p.seen.Left, fmt.Sprintf(format, args...)) }
	count := func(query string) (int64, error) {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		n, err := p.stack.Temporal.CountWorkflow(ctx, &workflowservice.CountWorkflowExecutionsRequest{Namespace: p.stack.Namespace, Query: query})
		return n.GetCount(), err
	}
	types := fmt.Sprintf("WorkflowType IN (%q, %q)", access.Workflow, access.WorkflowLock)
	err := poll(context.Background(), "all workflows to end", func() error {
		n, err := count(types + ` AND ExecutionStatus = "Running"`)
		if err == nil && n > 0 {
			err = fmt.Errorf("%d run", n)
		}
		return err
	})
	if err != nil {
		left("%v", err)
	}
	for _, status := range []enums.WorkflowExecutionStatus{
		enums.WORKFLOW_EXECUTION_STATUS_FAILED, enums.WORKFLOW_EXECUTION_STATUS_TERMINATED,
		enums.WORKFLOW_EXECUTION_STATUS_TIMED_OUT, enums.WORKFLOW_EXECUTION_STATUS_CANCELED,
	} {
		if n, err := count(fmt.Sprintf("%s AND ExecutionStatus = %q", types, status)); err != nil || n > 0 {
			left("%d workflows are %s (%v)", n, status, err)
		}
	}
	if p.stack.Vault != nil {
		p.clearVault(left)
	}
	for _, part := range p.stack.Parts {
		if err := part.Stop(); err != nil {
			left("%v", err)
		}
		if err := syscall.Kill(part.pid(), 0); err == nil {
			left("%s still runs as process %d", part.Name, part.pid())
		}
	}
	for _, dir := range p.stack.Folders {
		err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
			if err == nil && d.Type().IsRegular() && unfinished(d.Name()) {
				left("file %s", path)
			}
			return err
		})
		if err != nil {
			left("%v", err)
		}
	}
}

// clearVault waits until nothing is left in Vault, where the sweep takes what no
// request takes back: at once a token, when it is five minutes old a lease that
// Vault was killed over when it made it. A login that was made then may also have no
// lease, and isn't hallpass's to take: when those were made is the checker's to judge.
func (p *player) clearVault(left func(string, ...any)) {
	var in Left
	var err error
	for range 3 {
		err = poll(context.Background(), "Vault to have neither leases nor tokens", func() (err error) {
			if in, err = p.stack.Vault.Left(); err == nil && (in.Leases > 0 || len(in.Tokens) > 0) {
				err = fmt.Errorf("there are %d leases, and tokens of requests %q", in.Leases, in.Tokens)
			}
			return err
		})
		if err == nil {
			break
		}
	}
	if err != nil {
		left("%v", err)
	}
	had := map[string]string{}
	for _, a := range p.asked {
		a.mu.Lock()
		had[a.user] = a.id
		a.mu.Unlock()
	}
	for _, name := range in.Logins {
		p.logf("a login is left in the database: %s, of request %q", name, had[name])
		p.seen.Strays = append(p.seen.Strays, check.Stray{Login: name, Request: had[name]})
	}
}

// unfinished is a file that somebody meant to give its name.
func unfinished(name string) bool {
	return strings.HasSuffix(name, ".new") || strings.HasSuffix(name, ".tmp") || strings.HasSuffix(name, "-journal")
}
