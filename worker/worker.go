// Package worker is the only place where hallpass's parts are put together:
// from the configuration to a running Temporal worker, and, in Dev, to all of
// hallpass in one process.
//
// Use Load for the configuration, by clients and workers alike; Run for a
// worker in one role or several; Dev to have everything on one machine.
//
// A role opens what it needs and nothing else. A worker that isn't an issuer
// doesn't read a CA key, so a flaw in it can't lose one: run the roles apart
// where that matters. A worker starts whether Temporal is there or not and
// goes on whenever it is; it doesn't start with files or keys that it can't
// use, because somebody has to mend those.
package worker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/interceptor"
	sdkworker "go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"
	"golang.org/x/crypto/ssh"

	"hallpass/access"
	"hallpass/activities"
	"hallpass/audit"
	"hallpass/ca"
	"hallpass/catalog"
	"hallpass/codec"
	"hallpass/evidence"
	"hallpass/grant"
	"hallpass/lookup"
	"hallpass/notify"
	"hallpass/vault"
	"hallpass/workflows"
)

// The roles. An issuer's is "issuer:" and its kind.
const (
	RoleWorkflows   = "workflows"    // runs the workflows, decides, records; holds no key but the audit log's
	RoleIssuerSSH   = "issuer:ssh"   // judges evidence for itself and signs SSH certificates; holds the CA key
	RoleIssuerVault = "issuer:vault" // judges evidence for itself and mints in Vault; holds the login to it
	RoleService     = "service"      // serves hosts and people over HTTPS; holds no key but the audit log's and that of its own address
)

// role is what one role serves and how it is opened.
type role struct {
	queue   string // "" if it serves none
	options sdkworker.Options
	builds  bool // its work can be tied to a build: it is workflows
	open    func(context.Context, *parts) (work, error)
}

// work is what an open role does: arrange what it needs in Temporal, register
// what it serves on its queue, and run beside that, whether Temporal is there
// or not, until the context ends. Each may be nil.
type work struct {
	arrange  func(context.Context, client.Client) error
	register func(sdkworker.Registry)
	run      func(context.Context) error
}

// roles is the table of them.
func roles() map[string]role {
	return map[string]role{
		RoleWorkflows: {
			// Its activities are local ones, and go on as regular ones on the
			// same queue while something they need is down.
			queue:   access.TaskQueue,
			options: sdkworker.Options{MaxConcurrentWorkflowTaskPollers: pollers},
			builds:  true,
			open:    openWorkflows,
		},
		RoleIssuerSSH: {
			queue:   access.IssueQueue(catalog.KindSSH),
			options: sdkworker.Options{DisableWorkflowWorker: true},
			open:    openIssuerSSH,
		},
		RoleIssuerVault: {
			queue:   access.IssueQueue(catalog.KindVault),
			options: sdkworker.Options{DisableWorkflowWorker: true},
			open:    openIssuerVault,
		},
		RoleService: {open: openService},
	}
}

// Roles lists all roles.
func Roles() []string {
	return []string{RoleWorkflows, RoleIssuerSSH, RoleIssuerVault, RoleService}
}

func openWorkflows(_ context.Context, p *parts) (work, error) {
	channels, err := p.channels()
	if err != nil {
		return work{}, err
	}
	lookups, err := p.lookups()
	if err != nil {
		return work{}, err
	}
	acts := &activities.Activities{
		Rulebook: p.book.Rulebook, Log: p.audit, MinGrant: p.config.Limits.MinGrant, Now: time.Now, Temporal: p, Grace: p.config.Sweep.Grace,
		Channels: channels, Lookups: lookups,
	}
	return work{arrange: p.schedule, register: func(r sdkworker.Registry) {
		for _, t := range workflows.Types() {
			r.RegisterWorkflowWithOptions(t.Func, workflow.RegisterOptions{Name: t.Name, VersioningBehavior: t.Build})
		}
		r.RegisterActivity(acts)
	}}, nil
}

// channels are those that people are told by, nil if there are none.
func (p *parts) channels() (*notify.Channels, error) {
	if p.config.Notify == "" {
		return nil, nil
	}
	c, err := notify.Load(p.config.Notify)
	if err != nil {
		return nil, err
	}
	c.Link = p.link
	return c, nil
}

// lookups are those that policy may ask, nil if there are none.
func (p *parts) lookups() (evidence.Lookups, error) {
	if p.config.Lookups == "" {
		return nil, nil
	}
	s, err := lookup.Load(p.config.Lookups)
	if err != nil {
		return nil, err // not a nil Set, which would be taken for look-ups
	}
	return s, nil
}

// link is where operators find a request in the Temporal UI, "" without one.
func (p *parts) link(request string) string {
	o, err := p.config.profile()
	if err != nil || p.config.UI == "" {
		return ""
	}
	return strings.TrimSuffix(p.config.UI, "/") + "/namespaces/" + url.PathEscape(cmp.Or(o.Namespace, "default")) +
		"/workflows/" + access.WorkflowID(request)
}

func openIssuerSSH(ctx context.Context, p *parts) (work, error) {
	key := p.config.Issuers.SSH
	if key.Key == "" {
		return work{}, access.Errorf(access.CodeMalformed, "issuers.ssh.key is not configured, and the role %s needs it", RoleIssuerSSH).
			WithHint("make a CA key with hallpass ca init, or leave the role to another worker with --role %s", RoleWorkflows)
	}
	authority, err := p.openCA(ctx, "the SSH CA", key.Key, key.PassphraseFile)
	if err != nil {
		return work{}, err
	}
	trusted, err := key.TrustedKeys()
	if err != nil {
		return work{}, err
	}
	authority.Spare(trusted...)
	hosts := &grant.Hosts{
		Users: authority, Trusted: trusted, Rulebook: p.book.Rulebook, Ledger: p.audit, NextSerial: p.audit.NextSerial, Now: time.Now,
	}
	if key.HostKey != "" {
		if hosts.CA, err = p.openCA(ctx, "the SSH CA of hosts", key.HostKey, key.PassphraseFile); err != nil {
			return work{}, err
		}
		if hosts.CA.Fingerprint() == authority.Fingerprint() {
			return work{}, access.Errorf(access.CodeMalformed, "issuers.ssh.host_key and issuers.ssh.key are the same key: whoever trusts it for hosts would trust it for users").
				WithHint("hallpass ca init FILE makes another one")
		}
		for _, k := range trusted {
			if ssh.FingerprintSHA256(k) == hosts.CA.Fingerprint() {
				return work{}, access.Errorf(access.CodeMalformed, "issuers.ssh.trusted names the key of issuers.ssh.host_key: whoever has it for hosts could let users in").
					WithHint("take it out of %s", key.Trusted)
			}
		}
		authority.Spare(hosts.CA.PublicKey())
		hosts.CA.Spare(append([]ssh.PublicKey{authority.PublicKey()}, trusted...)...)
	}
	lookups, err := p.lookups()
	if err != nil {
		return work{}, err
	}
	revoked := &grant.KRL{CA: authority, Store: p.audit, Now: time.Now}
	issuing := &activities.Issuing{Issuer: &grant.Issuer{
		Kinds:    map[string]grant.Kind{catalog.KindSSH: &grant.SSH{CA: authority, KRL: revoked}},
		Rulebook: p.book.Rulebook,
		Ledger:   p.audit,
		MinGrant: p.config.Limits.MinGrant,
		Lookups:  lookups,
		Grace:    p.config.Sweep.Grace,
		Now:      time.Now,
	}}
	return work{
		register: func(r sdkworker.Registry) {
			r.RegisterActivity(issuing)
			r.RegisterActivity(&activities.Certifying{Hosts: hosts})
		},
		run: func(ctx context.Context) error {
			var keeping sync.WaitGroup
			if strings.HasPrefix(key.Key, "vault:") || strings.HasPrefix(key.HostKey, "vault:") {
				keeping.Go(func() { p.keepVault(ctx) })
			}
			revoked.Keep(ctx, func(err error) { p.log.Error("no new key revocation list", "error", err) })
			keeping.Wait()
			return nil
		},
	}, nil
}

func openIssuerVault(_ context.Context, p *parts) (work, error) {
	client, err := p.vaultClient("the role " + RoleIssuerVault + " needs it")
	if err != nil {
		return work{}, err
	}
	p.health.add("vault", seldom(probeKey, func(ctx context.Context) (string, error) { return "logged in at " + client.Address(), client.Ask(ctx) }))
	lookups, err := p.lookups()
	if err != nil {
		return work{}, err
	}
	p.log.Info("mints in vault", "address", client.Address(), "auth", p.config.Issuers.Vault.Auth, "token_role", p.config.Issuers.Vault.TokenRole)
	kind := &grant.Vault{
		Vault: client, TokenRole: p.config.Issuers.Vault.TokenRole, Leases: p.leases, Now: time.Now,
	}
	issuing := &activities.Issuing{Issuer: &grant.Issuer{
		Kinds:    map[string]grant.Kind{catalog.KindVault: kind},
		Rulebook: p.book.Rulebook,
		Ledger:   p.audit,
		MinGrant: p.config.Limits.MinGrant,
		Lookups:  lookups,
		Grace:    p.config.Sweep.Grace,
		Now:      time.Now,
	}}
	return work{
		register: func(r sdkworker.Registry) { r.RegisterActivity(issuing) },
		run: func(ctx context.Context) error {
			var keeping sync.WaitGroup
			keeping.Go(func() {
				kind.EndLate(ctx, issuing.Issuer.RecordLease, func(err error) { p.log.Error("what was read on a grant while it ended may live on", "error", err) })
			})
			p.keepVault(ctx)
			keeping.Wait()
			return nil
		},
	}, nil
}

// openCA opens the key of a CA. One in Vault or an agent is waited for while that
// is away.
func (p *parts) openCA(ctx context.Context, what, source, passphraseFile string) (*ca.CA, error) {
	o := ca.OpenOptions{AgentSocket: p.config.getenv("SSH_AUTH_SOCK")}
	if passphraseFile != "" {
		o.Passphrase = func(string) ([]byte, error) { return readSecret(passphraseFile) }
	}
	if strings.HasPrefix(source, "vault:") {
		client, err := p.vaultClient("the key of " + what + " is in Vault")
		if err != nil {
			return nil, err
		}
		o.Vault = client
	}
	var signer ssh.Signer
	holder, _, _ := strings.Cut(source, ":")
	err := keepTrying(ctx, p.log, holder, func(context.Context) (err error) {
		if signer, err = ca.Open(source, o); vault.Away(err) {
			err = access.Errorf(access.CodeUnavailable, "%v", err)
		}
		p.health.enter(starting, err)
		return err
	})
	if err != nil {
		return nil, err
	}
	authority, err := ca.New(signer, time.Now)
	if err != nil {
		return nil, err
	}
	p.log.Info("holds "+what, "fingerprint", authority.Fingerprint(), "source", source)
	p.health.add(what, seldom(probeKey, func(context.Context) (string, error) { return authority.Fingerprint(), authority.Try() }))
	return authority, nil
}

// readSecret reads the first line of a file that is its owner's alone.
func readSecret(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("%s has mode %04o, so others can read it; run: chmod 600 %s", path, info.Mode().Perm(), path)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	line, _, _ := strings.Cut(string(data), "\n")
	return []byte(strings.TrimSuffix(line, "\r")), nil
}

// parts is what the roles of one process share, and what each has opened.
type parts struct {
	config   *Config
	log      *slog.Logger
	audit    *audit.Log
	book     *book
	ring     *codec.Ring
	tracing  *tracing // nil: there are no traces
	stations []*station
	health   *health
	temporal atomic.Pointer[client.Client] // once there is a connection
	unseen   atomic.Pointer[string]        // what could not be looked at in Temporal, "" for nothing
	vault    *vault.Client                 // the one login of this process; nil until a role needs it
	recalls  chan struct{}                 // each has one history that is being replayed
}

// station is one role, ready to be served.
type station struct {
	role
	work
	polls atomic.Bool // its task queue
}

// open opens all that the roles need and records the rulebook. The caller
// closes the parts.
func open(ctx context.Context, c *Config, names []string, h *health, log *slog.Logger) (_ *parts, err error) {
	if len(names) == 0 {
		return nil, access.Errorf(access.CodeMalformed, "no role; there are %s", strings.Join(Roles(), ", "))
	}
	for i, name := range names {
		if !slices.Contains(Roles(), name) {
			return nil, access.Errorf(access.CodeMalformed, "role %q is unknown; there are %s", name, strings.Join(Roles(), ", "))
		}
		if slices.Contains(names[:i], name) {
			return nil, access.Errorf(access.CodeMalformed, "role %s is there twice", name)
		}
	}
	p := &parts{config: c, log: log, health: h, recalls: make(chan struct{}, maxRecalls)}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.close())
		}
	}()
	if _, err := c.versioning(); err != nil {
		return nil, err
	}
	if err := c.needs("audit.database", "audit.key", "policy", "directory", "catalog"); err != nil {
		return nil, err
	}
	key, err := audit.ReadKey(c.Audit.Key)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, access.Errorf(access.CodeNotFound, "there is no audit key at %s", c.Audit.Key).WithHint("hallpass audit init NAME")
	} else if err != nil {
		return nil, err
	}
	if p.audit, err = audit.Open(ctx, audit.Options{Database: c.Audit.Database, Key: key}); err != nil {
		return nil, err
	}
	h.add("audit log", p.askAudit)
	if err := p.audit.Writable(ctx); err != nil {
		log.Error("the audit log takes no events", "error", err.Error(), "hint", access.HintOf(err))
	}
	if p.book, err = openBook(c, p.audit, log); err != nil {
		return nil, err
	}
	h.add("rulebook", p.askBook)
	if p.ring, err = c.openRing(); err != nil {
		return nil, err
	}
	if c.Temporal.Codec != "" {
		h.add("codec keys", p.askRing)
	}
	if p.tracing, err = c.traces(ctx, log); err != nil {
		return nil, err
	}
	h.addTemporal(p.askTemporal, slices.ContainsFunc(names, func(name string) bool { return roles()[name].queue != "" }))
	err = h.metrics.watch("hallpass_open_grants", "grants in the ledger that have not ended", func(ctx context.Context) (float64, bool) {
		n, err := p.audit.CountOpen(ctx)
		return float64(n), err == nil
	})
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		r := roles()[name]
		w, err := r.open(ctx, p)
		if err != nil {
			return nil, fmt.Errorf("open role %s: %w", name, err)
		}
		s := &station{role: r, work: w}
		p.stations = append(p.stations, s)
		if s.queue != "" {
			h.add("queue "+s.queue, p.askQueue(s))
		}
	}
	d := p.book.Rulebook().Digests()
	log.Info("rulebook in force", "policy", d.Policy, "directory", d.Directory, "catalog", d.Catalog)
	return p, nil
}

// needs fails unless all of these settings have a value.
func (c *Config) needs(names ...string) error {
	for _, s := range c.Settings() {
		if s.Value == "" && slices.Contains(names, s.Name) {
			return access.Errorf(access.CodeMalformed, "%s is not configured", s.Name).WithHint("name it in hallpass.yaml or in %s", s.Env)
		}
	}
	return nil
}

func (p *parts) close() error {
	p.tracing.Close()
	if p.audit == nil {
		return nil
	}
	return p.audit.Close()
}

// Run serves the roles until ctx ends, which is no error, or until it can't
// go on. While Temporal isn't there it waits, and says so.
func Run(ctx context.Context, c *Config, roles []string, log *slog.Logger) (err error) {
	h, stop, err := startHealth(context.WithoutCancel(ctx), c, log)
	if err != nil {
		return err
	}
	defer stop()
	p, err := open(ctx, c, roles, h, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.close()) }()
	err = p.serve(ctx, func() {})
	if ctx.Err() != nil {
		log.Info("stopped")
		return nil
	}
	return err
}

// pollers is how many polls for tasks of workflows wait in Temporal at a time, half
// of them for those whose workflows are in this process's memory. A task that finds
// none of these is kept for this process, also while it stops, and is given to others
// 5 seconds later. Temporal's library would have 2 polls.
const pollers = 16

// stopTimeout is how long an activity that runs has to finish when the worker
// stops. Those that don't are repeated elsewhere.
const stopTimeout = 5 * time.Second

// serve connects to Temporal and serves the roles until ctx ends. It calls
// ready when they are being served.
func (p *parts) serve(ctx context.Context, ready func()) error {
	ctx, cancel := context.WithCancelCause(ctx)
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel(nil)
	// Nobody shall be sent here any more while what runs is being finished.
	defer context.AfterFunc(ctx, func() {
		p.health.enter(stopping, nil)
		if errors.Is(context.Cause(ctx), context.Canceled) {
			p.log.Info("stopping; another interrupt stops at once")
		}
	})()
	beside := func(run func(context.Context) error) {
		running.Go(func() {
			if err := run(ctx); err != nil && ctx.Err() == nil {
				cancel(err)
			}
		})
	}
	for _, s := range p.stations {
		if s.run != nil {
			beside(s.run)
		}
	}
	if p.config.Audit.Publish != "" {
		beside(p.publish)
	}
	if p.config.Temporal.Codec != "" {
		beside(func(ctx context.Context) error { p.watchRing(ctx); return nil })
	}
	if err := p.queues(ctx, cancel, beside, ready); ctx.Err() == nil {
		return err
	}
	if err := context.Cause(ctx); !errors.Is(err, context.Canceled) {
		return fmt.Errorf("worker: %w", err)
	}
	return ctx.Err()
}

// connect waits for a Temporal that takes us and has what requests need. Whom it turns
// away comes again with the key or certificate that there is by then. The caller
// closes the client.
func (p *parts) connect(ctx context.Context) (client.Client, error) {
	var cl client.Client
	leave := func() {
		if cl != nil {
			p.temporal.Store(nil)
			cl.Close()
			cl = nil
		}
	}
	err := keepTrying(ctx, p.log, "temporal", func(ctx context.Context) (err error) {
		defer func() { p.health.enter(starting, err) }()
		if cl == nil {
			if cl, err = p.config.dial(ctx, p.ring, warnings(ctx, p.log), p.health.metrics.sdk(), p.tracing); err != nil {
				cl = nil
				return err
			}
			now := cl
			p.temporal.Store(&now)
		}
		unseen, err := p.config.register(ctx, cl, p.log)
		p.unseen.Store(&unseen)
		if errors.As(err, new(anew)) {
			leave()
		}
		return err
	})
	if err != nil {
		leave()
		return nil, err
	}
	return cl, nil
}

// queues serves the roles' task queues until ctx ends.
func (p *parts) queues(ctx context.Context, failed context.CancelCauseFunc, beside func(func(context.Context) error), ready func()) error {
	cl, err := p.connect(ctx)
	if err != nil {
		return err
	}
	defer cl.Close()
	defer p.temporal.Store(nil)
	o, err := p.config.profile()
	if err != nil {
		return err
	}
	for _, s := range p.stations {
		if s.arrange == nil {
			continue
		}
		err := keepTrying(ctx, p.log, "temporal", func(ctx context.Context) error { return s.arrange(ctx, cl) })
		if ctx.Err() != nil {
			return ctx.Err()
		} else if err != nil {
			// Requests can live without it.
			p.log.Error("something is not arranged in temporal", "error", err, "hint", access.HintOf(err))
		}
	}
	var queues []string
	for _, s := range p.stations {
		if s.queue == "" {
			continue
		}
		s.options.WorkerStopTimeout = stopTimeout
		s.options.OnFatalError = func(err error) {
			s.polls.Store(false)
			failed(err)
		}
		s.options.Interceptors = []interceptor.WorkerInterceptor{&journal{log: p.log}}
		if s.builds {
			if s.options.DeploymentOptions, err = p.config.versioning(); err != nil {
				return err
			}
		}
		w := sdkworker.New(cl, s.queue, s.options)
		s.register(w)
		if err := w.Start(); err != nil {
			return fmt.Errorf("serve task queue %s: %w", s.queue, err)
		}
		s.polls.Store(true)
		defer func() {
			w.Stop()
			s.polls.Store(false)
		}()
		queues = append(queues, s.queue)
		if s.options.DeploymentOptions.UseVersioning {
			beside(func(ctx context.Context) error { p.sayBuild(ctx); return nil })
		}
	}
	beside(func(ctx context.Context) error { p.book.watch(ctx); return nil })
	p.health.enter("", nil)
	p.log.Info("serving", "temporal", o.Address, "namespace", o.Namespace, "queues", strings.Join(queues, " "))
	ready()
	<-ctx.Done()
	return ctx.Err()
}

// Roles lists the roles that the configuration has something for: workflows,
// the issuers that have a key, and the service if it has an address.
func (c *Config) Roles() []string {
	roles := []string{RoleWorkflows}
	if c.Issuers.SSH.Key != "" {
		roles = append(roles, RoleIssuerSSH)
	}
	if c.Issuers.Vault.Address != "" {
		roles = append(roles, RoleIssuerVault)
	}
	if c.Service.Address != "" {
		roles = append(roles, RoleService)
	}
	return roles
}
