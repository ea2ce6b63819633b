//go:build linux

package host

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"hallpass/access"
	"hallpass/ca/krl"
)

// How the agent waits when the service doesn't answer.
const (
	firstRetry = 500 * time.Millisecond
	lastRetry  = 10 * time.Second
)

// guardEvery is how often sshd's file is looked at.
const guardEvery = 10 * time.Second

// memory is what Go's heap is asked to stay below, in bytes. It is no hard
// limit; a long list takes what it takes.
const memory = 18 << 20

// RunOptions are for Run.
type RunOptions struct {
	Layout Layout
	Log    *slog.Logger
	Ready  func()           // called once sessions are looked after; may be nil
	Reload <-chan os.Signal // asks the service at once what the host has to know; may be nil

	offset time.Duration // how far the clock is off; tests only
	mount  *string       // of cgroup v2, where it isn't to be found; tests only
}

// agent is what Run runs.
type agent struct {
	layout   Layout
	config   *Config
	log      *slog.Logger
	now      func() time.Time
	started  time.Time
	service  *service
	lists    *lists
	reports  *reports
	sessions *sessions
	reload   <-chan os.Signal

	mu        sync.Mutex
	unreached error // why the service wasn't reached the last time; nil if it was
	renewal   error // the same of the host certificate
	delivery  error // and of the reports
	asking    error // and of whether grants were extended
}

// Run looks after the host until ctx is done: it keeps the list of revoked
// certificates fresh, ends sessions whose grant has ended and wasn't extended,
// reports what happened and renews the host certificate. Sessions that were open
// when it stopped, or was killed, are taken up again by the next Run.
func Run(ctx context.Context, o RunOptions) error {
	a, err := newAgent(o)
	if err != nil {
		return err
	}
	ln, err := listen(a.layout.socket())
	if err != nil {
		return err
	}
	if err := a.sessions.restore(); err != nil {
		return errors.Join(err, ln.Close())
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var running sync.WaitGroup
	running.Go(a.sessions.run)
	running.Go(func() { a.serve(ctx, ln) })
	running.Go(func() { a.fetch(ctx) })
	running.Go(func() { a.deliver(ctx) })
	running.Go(func() { a.extending(ctx) })
	running.Go(func() { a.guard(ctx) })
	running.Go(func() { a.renewing(ctx) })
	if o.Ready != nil {
		o.Ready()
	}
	<-ctx.Done()
	err = ln.Close()
	a.sessions.close()
	running.Wait()
	return err
}

func newAgent(o RunOptions) (*agent, error) {
	if os.Geteuid() != 0 {
		return nil, errNotRoot
	}
	debug.SetMemoryLimit(memory)
	debug.SetGCPercent(50)
	config, err := loadConfig(o.Layout)
	if err != nil {
		return nil, err
	}
	if err := o.Layout.makeFolders(); err != nil {
		return nil, err
	}
	key, err := loadAgentKey(o.Layout.agentKey())
	if err != nil {
		return nil, err
	}
	ca, err := os.ReadFile(o.Layout.serviceCA())
	if err != nil {
		return nil, err
	}
	a := &agent{
		layout: o.Layout, config: config, log: o.Log, reload: o.Reload,
		now:       func() time.Time { return time.Now().Add(o.offset) },
		unreached: errors.New("not tried yet"),
	}
	a.started = a.now().UTC()
	if a.service, err = dialService(config.Service, ca); err != nil {
		return nil, err
	}
	a.service.offset = o.offset
	keygen, _ := exec.LookPath("ssh-keygen")
	a.lists = &lists{layout: o.Layout, keygen: keygen, alone: config.PAM == "", now: a.now, log: o.Log}
	if a.reports, err = openReports(o.Layout.queue(), config.Host, key, a.now, o.Log); err != nil {
		return nil, err
	}
	mount, err := cgroupMount()
	if o.mount != nil {
		mount, err = *o.mount, nil
	}
	if err != nil {
		o.Log.Error("processes that leave their session behind can't be ended", "error", err)
	}
	warn, err := config.warn()
	if err != nil {
		return nil, err
	}
	if a.sessions, err = newSessions(o.Layout.sessions(), mount, warn, o.Log, a.reports.add); err != nil {
		return nil, err
	}
	a.sessions.offset = o.offset
	list, err := a.lists.load()
	if err != nil {
		o.Log.Error("no list of revoked certificates from before", "error", err)
	}
	a.sessions.list = list
	return a, nil
}

var errNotRoot = access.Errorf(access.CodeForbidden, "only root can do this").WithHint("sudo hallpass-host …")

// fetch keeps the list fresh, by asking the service for the next one as soon
// as there is one.
func (a *agent) fetch(ctx context.Context) {
	wait, poll := retry{}, time.Duration(0) // the first answer comes at once
	for ctx.Err() == nil {
		got, ok, err := a.service.list(ctx, a.lists.version(), poll)
		a.reached(err)
		if err == nil && ok {
			err = a.take(ctx, got)
		}
		if err == nil {
			wait, poll = retry{}, longPoll
			continue
		}
		wait.after(ctx)
	}
}

// take takes in a list, and ends what it revokes.
func (a *agent) take(ctx context.Context, got signedList) error {
	err := a.lists.take(ctx, got, func(l *krl.List) {
		a.sessions.use(l)
		a.log.Debug("list of revoked certificates", "version", l.Version, "revoked", l.Len())
	})
	if err != nil && ctx.Err() == nil {
		a.log.Error("list of revoked certificates is refused, or can't be written", "error", err)
	}
	return err
}

// reached notes whether the service could be reached, and says so when that
// changes.
func (a *agent) reached(err error) {
	a.mu.Lock()
	before := a.unreached
	a.unreached = err
	a.mu.Unlock()
	switch {
	case err == nil && before != nil:
		a.log.Info("service is there")
		a.reports.poke()
	case err != nil && before == nil:
		a.log.Warn("service is not there", "error", err)
	}
}

// deliver sends reports as they come.
func (a *agent) deliver(ctx context.Context) {
	wait := retry{}
	for {
		err := a.reports.deliver(ctx, a.service)
		if ctx.Err() != nil {
			return
		}
		a.mu.Lock()
		a.delivery = err
		a.mu.Unlock()
		if err != nil {
			a.log.Debug("reports wait", "error", err)
			wait.after(ctx)
			continue
		}
		wait = retry{}
		select {
		case <-ctx.Done():
			return
		case <-a.reports.wake:
		}
	}
}

// guard looks after what time alone changes.
func (a *agent) guard(ctx context.Context) {
	tick := time.NewTicker(guardEvery)
	defer tick.Stop()
	stale := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		a.lists.guard(ctx)
		st := a.lists.status()
		if st.Stale != stale {
			stale = st.Stale
			if stale {
				a.log.Error("list of revoked certificates is old: revocations may not reach this host", "generated", st.Generated)
			} else {
				a.log.Info("list of revoked certificates is fresh again")
			}
		}
	}
}

// retry waits longer each time, and never as long as the next host.
type retry struct{ last time.Duration }

func (r *retry) after(ctx context.Context) {
	r.last = min(max(firstRetry, 2*r.last), lastRetry)
	t := time.NewTimer(r.last/2 + rand.N(r.last/2)) //nolint:gosec // nothing secret
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// Status is what `hallpass-host status` shows.
type Status struct {
	Host        string     `json:"host"`
	Service     string     `json:"service"`
	Started     time.Time  `json:"started"`
	List        ListStatus `json:"list"`
	Sessions    []Session  `json:"sessions"`
	Waiting     int        `json:"waiting"` // reports
	Dropped     int        `json:"dropped"` // reports, since the start
	Problems    []string   `json:"problems"`
	CertExpires time.Time  `json:"host_certificate_expires"`
}

// Session is one session as shown to people.
type Session struct {
	ID      string    `json:"id"`
	Request string    `json:"request"`
	User    string    `json:"user"` // who asked for it, as the directory names him
	Login   string    `json:"login"`
	Source  string    `json:"source"`
	Opened  time.Time `json:"opened"`
	Ends    time.Time `json:"ends"`
	Closed  bool      `json:"closed"` // the connection is gone, processes are left
}

func (a *agent) status() Status {
	st := Status{
		Host: a.config.Host, Service: a.config.Service, Started: a.started,
		List: a.lists.status(), Sessions: a.sessions.shown(), Problems: []string{},
	}
	st.Waiting, st.Dropped = a.reports.waiting()
	a.mu.Lock()
	unreached, renewal, delivery, asking := a.unreached, a.renewal, a.delivery, a.asking
	a.mu.Unlock()
	problem := func(format string, args ...any) { st.Problems = append(st.Problems, fmt.Sprintf(format, args...)) }
	if unreached != nil {
		problem("service: %v", unreached)
	}
	if st.List.Generated.IsZero() {
		problem("there is no list of revoked certificates yet: nobody gets in with a certificate of hallpass")
	} else if st.List.Stale {
		problem("the list of revoked certificates is of %s: revocations may not reach this host", st.List.Generated.Format(time.RFC3339))
	}
	if st.List.Problem != "" {
		problem("the latest list of revoked certificates was refused, or can't be written: %s", st.List.Problem)
	}
	if a.sessions.mount == "" {
		problem("cgroup v2 is not there: processes that leave their session behind can't be ended")
	}
	if files := a.sessions.unknown(); len(files) > 0 {
		problem("records of %d sessions can't be read, and the sessions can't be ended so far; if they are over, delete %s",
			len(files), strings.Join(files[:min(len(files), 5)], ", "))
	}
	if a.config.PAM == "" {
		problem("PAM is not set up: open sessions can't be ended")
	}
	if st.Dropped > 0 {
		problem("%d reports were lost since the start", st.Dropped)
	}
	if d := time.Duration(a.service.skew.Load()); d.Abs() > maxSkew {
		problem("%s", skewText(d))
	}
	if delivery != nil {
		problem("reports: %v", delivery)
	}
	if asking != nil {
		problem("sessions may end though their grants were extended: %v", asking)
	}
	if renewal != nil {
		problem("host certificate: %v", renewal)
	}
	if cert, err := readHostCert(a.layout.hostCert()); err == nil {
		st.CertExpires = time.Unix(int64(cert.ValidBefore), 0).UTC()
		if !a.now().Before(st.CertExpires) {
			problem("the host certificate has expired")
		}
	}
	return st
}

// maxSkew is how far the clock may be off before that is called a problem:
// grants end that much too early or too late.
const maxSkew = 5 * time.Second

func skewText(d time.Duration) string {
	word := "ahead of"
	if d < 0 {
		word = "behind"
	}
	return fmt.Sprintf("this host's clock is %s %s the service's: grants end when this host's clock says so", d.Abs().Round(time.Second), word)
}

// Query asks the running agent how it is.
func Query(l Layout) (*Status, error) {
	a, err := ask(l.socket(), question{Op: opStatus}, 5*time.Second)
	if err != nil {
		return nil, err
	}
	if a.Status == nil {
		return nil, access.Errorf(access.CodeForbidden, "the host's agent doesn't say: %s", a.Why)
	}
	return a.Status, nil
}
