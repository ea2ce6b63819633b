package testsuite

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"go.temporal.io/sdk/client"
	"golang.org/x/crypto/ssh"

	"hallpass/access"
	"hallpass/audit"
	"hallpass/statement"
	"hallpass/testsuite/measure"
)

// crowd is how many requests wait at the same time, for bob, and after a while
// for dave as well.
type crowd struct {
	ts     *testscript.TestScript
	w      *world
	client client.Client
	people map[string]ssh.Signer
	asked  []access.Statement
	ids    []string
}

// askers is how many ask, or decide, at once.
const askers = 16

// cmdCrowd has many requests wait, whose escalation comes due, and then lets dave
// approve a third of them and deny a third. All of them must have escalated
// once, and end or begin as they should, by the audit log.
func cmdCrowd(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) == 3, "crowd N AFTER WINDOW")
	n, err := strconv.Atoi(args[0])
	ts.Check(err)
	after, err := time.ParseDuration(args[1])
	ts.Check(err)
	window, err := time.ParseDuration(args[2])
	ts.Check(err)
	w := worldOf(ts)
	c := &crowd{ts: ts, w: w, client: w.dial(ts, "default"), people: map[string]ssh.Signer{}}
	for _, name := range []string{"alice", "dave"} {
		data, err := os.ReadFile(filepath.Join(ts.Getenv("WORK"), "people", name, "id"))
		ts.Check(err)
		c.people[name], err = ssh.ParsePrivateKey(data)
		ts.Check(err)
	}
	before := c.memory("VmRSS")
	start := time.Now()
	ts.Check(c.ask(n))
	took := time.Since(start)
	ts.Check(c.wait("all that were asked", window, audit.RequestRuled, n))
	waiting := c.memory("VmRSS")
	if early := c.count(audit.RequestEscalated); early > 0 {
		ts.Fatalf("%d have escalated before all were there: AFTER is too short on this machine", early)
	}
	ts.Check(c.wait("all escalations", after+window, audit.RequestEscalated, n))
	ts.Check(c.decide())
	ts.Check(c.wait("the credentials", window, audit.CredentialIssued, (n+2)/3))
	ts.Check(c.wait("the denials", window, audit.RequestDenied, (n+1)/3))
	ts.Check(c.wait("those that nobody decides on", 2*window, audit.RequestTimedOut, n/3))
	ts.Check(c.check(n))
	escalated, timedOut := c.lag(audit.RequestEscalated, after), c.lag(audit.RequestTimedOut, window)
	ts.Logf("%d requests in %s (%.1f/s); hallpass dev held %d MiB before and %d MiB when all waited (%d KiB for each), %d MiB at most",
		n, took.Round(100*time.Millisecond), float64(n)/took.Seconds(), before>>10, waiting>>10, (waiting-before)/n, c.memory("VmHWM")>>10)
	for what, lag := range map[string]measure.Times{"escalated": escalated, "timed out": timedOut} {
		ts.Logf("%s after it was due: half of them within %s, 95 of 100 within %s, all within %s", what,
			lag.At(0.5).Round(time.Millisecond), lag.At(0.95).Round(time.Millisecond), lag.At(1).Round(time.Millisecond))
	}
}

// many calls do for 0 to n-1, some at once.
func many(n int, do func(i int) error) error {
	next, failed := make(chan int), make(chan error, n)
	var all sync.WaitGroup
	for range askers {
		all.Go(func() {
			for i := range next {
				if err := do(i); err != nil {
					failed <- err
				}
			}
		})
	}
	for i := range n {
		next <- i
	}
	close(next)
	all.Wait()
	close(failed)
	var errs []error
	for err := range failed {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func (c *crowd) header(typ access.Type, by string) access.Header {
	return access.Header{Type: typ, ID: statement.NewID(), Signer: by, Time: statement.Time(time.Now())}
}

// ask starts the requests.
func (c *crowd) ask(n int) error {
	c.asked, c.ids = make([]access.Statement, n), make([]string, n)
	return many(n, func(i int) error {
		public, _, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			return err
		}
		subject, err := ssh.NewPublicKey(public)
		if err != nil {
			return err
		}
		r := access.Request{
			Header: c.header(access.TypeRequest, "alice"), Resource: "ssh/crowd", Login: c.ts.Getenv("ME"), Duration: 7200,
			Reason: "one of many", PublicKey: statement.MarshalKey(subject),
		}
		st, err := statement.Sign(c.people["alice"], r)
		if err != nil {
			return err
		}
		c.asked[i], c.ids[i] = st, r.ID
		_, err = c.client.ExecuteWorkflow(context.Background(), client.StartWorkflowOptions{ID: access.WorkflowID(r.ID), TaskQueue: access.TaskQueue},
			access.Workflow, access.Submission{Request: st})
		return err
	})
}

// decide has dave, who is asked now, decide on two of three.
func (c *crowd) decide() error {
	return many(len(c.ids), func(i int) error {
		if i%3 == 2 {
			return nil
		}
		d := access.Decision{
			Header: c.header(access.TypeDecision, "dave"), Request: c.ids[i], RequestHash: c.asked[i].Hash(),
			Verdict: []access.Verdict{access.Approve, access.Deny}[i%3],
		}
		st, err := statement.Sign(c.people["dave"], d)
		if err != nil {
			return err
		}
		return c.client.SignalWorkflow(context.Background(), access.WorkflowID(c.ids[i]), "", access.MessageDecision, st)
	})
}

// log opens the audit log, which hallpass dev goes on writing to.
func (c *crowd) log() *audit.Reader {
	key, err := os.ReadFile(filepath.Join(c.w.dir, "audit.pub"))
	c.ts.Check(err)
	r, err := audit.OpenReader(context.Background(), filepath.Join(c.w.dir, "audit.db"), strings.TrimSpace(string(key)))
	c.ts.Check(err)
	return r
}

// events are those of a type.
func (c *crowd) events(typ string) (all []audit.Event) {
	r := c.log()
	defer func() { _ = r.Close() }()
	for rec, err := range r.Events(context.Background(), audit.Query{Type: typ}) {
		c.ts.Check(err)
		all = append(all, rec.Event)
	}
	return all
}

func (c *crowd) count(typ string) int { return len(c.events(typ)) }

// wait waits until there are n events of a type.
func (c *crowd) wait(what string, long time.Duration, typ string, n int) error {
	giveUp := time.NewTimer(long + time.Minute)
	defer giveUp.Stop()
	again := time.NewTicker(500 * time.Millisecond)
	defer again.Stop()
	for {
		have := c.count(typ)
		if have >= n {
			return nil
		}
		select {
		case <-again.C:
		case <-giveUp.C:
			return fmt.Errorf("waited %s for %s: there are %d of %d", long+time.Minute, what, have, n)
		}
	}
}

// check looks at each request: it escalated once, and came to what it should.
func (c *crowd) check(n int) error {
	seen := map[string]map[string]int{}
	for _, typ := range []string{audit.RequestEscalated, audit.CredentialIssued, audit.RequestDenied, audit.RequestTimedOut} {
		for _, e := range c.events(typ) {
			if seen[e.Request] == nil {
				seen[e.Request] = map[string]int{}
			}
			seen[e.Request][typ]++
		}
	}
	if len(seen) != n {
		return fmt.Errorf("%d requests are on record, want %d", len(seen), n)
	}
	for i, id := range c.ids {
		want := []string{audit.CredentialIssued, audit.RequestDenied, audit.RequestTimedOut}[i%3]
		if s := seen[id]; s[audit.RequestEscalated] != 1 || s[want] != 1 || len(s) != 2 {
			return fmt.Errorf("request %s has %v, want one %s and one %s", id, s, audit.RequestEscalated, want)
		}
	}
	return nil
}

// lag is how long after each was due an event of a type came, counted from the
// ruling.
func (c *crowd) lag(typ string, due time.Duration) (lag measure.Times) {
	ruled := map[string]time.Time{}
	for _, e := range c.events(audit.RequestRuled) {
		ruled[e.Request] = e.Ruling.At
	}
	for _, e := range c.events(typ) {
		lag = append(lag, e.Time.Sub(ruled[e.Request].Add(due)))
	}
	return lag
}

// memory is a figure of the process hallpass dev, in kB.
func (c *crowd) memory(what string) int {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", c.w.dev.Process.Pid))
	c.ts.Check(err)
	m := regexp.MustCompile(`(?m)^` + what + `:\s+(\d+) kB$`).FindSubmatch(data)
	if m == nil {
		c.ts.Fatalf("/proc doesn't say %s", what)
	}
	kB, err := strconv.Atoi(string(m[1]))
	c.ts.Check(err)
	return kB
}
