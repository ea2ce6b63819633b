package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"

	"hallpass/access"
)

// ForwardedSignals are the signals that run hands on to its command.
func ForwardedSignals() []os.Signal {
	return []os.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT}
}

// WithSignals lets the command that runs another one have the signals. It
// calls take once; from then on they come through the channel, and nothing
// else is done about them.
func WithSignals(take func() <-chan os.Signal) Option { return func(a *app) { a.signals = take } }

func (a *app) runCommand() *cli.Command {
	return &cli.Command{
		Name:      "run",
		Usage:     "run a command with access, and give it back when the command ends",
		ArgsUsage: "KIND/NAME|ID -- COMMAND [ARGUMENT…]",
		Category:  categoryAccess,
		Description: "Asks for access, waits, and runs the command: with what Vault gives in its\n" +
			"environment or in files, or for a host on that host, by ssh. However the command\n" +
			"ends, the grant is given back. The exit code is the command's.\n\n" +
			"A TEMPLATE is Go's text/template over the fields that Vault gives, such as\n" +
			"--env DATABASE_URL='postgres://{{.username}}:{{.password}}@db/orders', or @FILE.",
		Flags: append(requestFlags(),
			&cli.StringSliceFlag{Name: "action", Usage: "for this `ACTION`; may be repeated"},
			&cli.StringFlag{Name: "as", Aliases: []string{"l"}, Usage: "on a host: as this `LOGIN`"},
			&cli.StringSliceFlag{Name: "env", Usage: "set a variable: `NAME=TEMPLATE`; may be repeated"},
			&cli.StringSliceFlag{Name: "file", Usage: "write a file that only you can read, $HALLPASS_DIR/NAME: `NAME=TEMPLATE`; may be repeated"},
			&cli.StringFlag{Name: "template", Usage: "use a built-in `TEMPLATE`: " + strings.Join(formNames(), ", "), DefaultText: "by the fields, unless --env or --file say"},
			timeoutFlag("withdraw the request"),
		),
		Action: func(c *cli.Context) error {
			words := c.Args().Slice()
			switch len(words) {
			case 0:
				return usagef("KIND/NAME is missing").withHint("hallpass run KIND/NAME -- COMMAND")
			case 1:
				return usagef("COMMAND is missing").withHint("hallpass run %s -- COMMAND", words[0])
			}
			e := errand{app: a, argv: words[1:]}
			w := wish{login: c.String("as"), actions: c.StringSlice("action"), alone: true}
			err := a.wishFrom(c, &w)
			if err != nil {
				return err
			}
			if e.limit, err = timeout(c); err != nil {
				return err
			}
			if e.templates, err = parseTemplates(c.String("template"), c.StringSlice("env"), c.StringSlice("file")); err != nil {
				return err
			}
			if idLike(words[0]) {
				for _, name := range []string{"action", "as", "for", "reason", "ticket"} {
					if c.IsSet(name) {
						return usagef("--%s is for a new request, and %s is one that there is", name, words[0])
					}
				}
				e.id = words[0]
			} else if err := a.target(words[0], &w); err != nil {
				return err
			}
			e.wish = w
			return e.run()
		},
	}
}

// idLike says whether s is a request's id, as far as hallpass ever shortens
// them, rather than a host's name.
func idLike(s string) bool { return access.IsIDPrefix(strings.ToLower(s)) && len(s) > 8 && s[8] == '-' }

// errand is one command that is run with access of its own.
type errand struct {
	app       *app
	wish      wish
	id        string // of a request that there is; "": a new one
	limit     time.Duration
	templates templates

	// What the kind makes of the grant.
	folder     *folder
	dir        string    // private, and gone when the errand is over
	argv       []string  // the command
	env, unset []string  // variables
	files      []string  // in dir
	ends       time.Time // of the credential
	short      string    // name of the resource without its kind
	kubeconfig string    // the user's own
}

// exit ends the program with the exit code of a command that hallpass ran, and
// without a word: the command has said what there was to say.
type exit int

func (e exit) Error() string { return fmt.Sprintf("the command ended with exit code %d", int(e)) }

// ran is what run did, as programs read it.
type ran struct {
	ID       string       `json:"id"`
	Resource string       `json:"resource"`
	Login    string       `json:"login,omitempty"`
	Actions  []string     `json:"actions,omitempty"`
	Started  bool         `json:"started"`
	ExitCode int          `json:"exit_code"`
	State    access.State `json:"state,omitempty"` // of the request, afterwards
}

// run does the errand. What it has asked for, it gives back, whatever happens.
func (e *errand) run() error {
	a := e.app
	if _, err := lookPath(e.argv[0]); err != nil && e.local() {
		return err // before anybody is asked
	}
	relay := a.relay()
	defer relay.close()
	ctx, stop := context.WithCancel(a.ctx)
	defer stop()
	relay.divert(func(os.Signal) { stop() })
	waiting := a.within(ctx)

	return waiting.withBackend(func(b backend) error {
		me, err := waiting.identify()
		if err != nil {
			return err
		}
		defer func() { _ = me.signer.Close() }()
		if e.folder, err = a.folder(); err != nil {
			return err
		}
		k, err := e.ask(waiting, b, me)
		if k.request.ID == "" {
			return err
		}
		out := ran{ID: k.request.ID, Resource: k.request.Resource, Login: k.request.Login, Actions: k.request.Actions}
		granted := false
		if err == nil {
			var s access.Status
			if s, err = waiting.await(b, k.request.ID, e.limit); err == nil {
				if granted = s.State == access.StateActive; !granted {
					return a.over(s)
				}
				out.Started, err = e.do(waiting, relay, s, k)
			}
		}

		// The way back. It is open to whoever asks twice.
		ctx, stop := context.WithTimeout(context.WithoutCancel(a.ctx), giveBackPatience)
		defer stop()
		relay.divert(func(os.Signal) { stop() })
		after, back := e.giveBack(a.within(ctx), b, me, k, granted, err)
		if back != nil { // what the command came to counts all the same
			a.report(back)
		}
		if out.Started && a.json {
			out.State, out.ExitCode = after.State, exitCode(err)
			a.err.jsonLine(out)
		}
		return e.outcome(err, back == nil)
	})
}

// outcome is what to say of how the errand went, now that the request has been
// given back.
func (e *errand) outcome(err error, back bool) error {
	var t *tampering
	var f *failure
	switch {
	case errors.As(err, &t):
		return t.failure()
	case errors.Is(err, context.Canceled):
		return failf(ExitInterrupted, "interrupted")
	case back && errors.As(err, &f) && f.code == ExitGaveUp:
		return failf(ExitGaveUp, "%w; the request was withdrawn", err)
	}
	return err
}

// local says whether the command runs on this machine.
func (e *errand) local() bool {
	return e.id == "" && kindOf(e.wish.resource.Name).local
}

// ask makes the request, or finds the one that there is. A request that comes
// with an error may have been made.
func (e *errand) ask(a *app, b backend, me *identity) (kept, error) {
	if e.id == "" {
		return a.submitAs(b, me, e.wish)
	}
	id, err := a.find(b, e.id)
	if err != nil {
		return kept{}, err
	}
	k, err := e.folder.kept(id)
	if errors.Is(err, fs.ErrNotExist) {
		err = failf(ExitError, "this machine has no key for request %s: it was made elsewhere, or its grant is in use", id).
			withHint("hallpass show %s", id)
	}
	if err != nil {
		return kept{}, err
	}
	return k, nil
}

// do runs the command with what was granted, and says whether it was started.
func (e *errand) do(a *app, relay *relay, s access.Status, k kept) (started bool, err error) {
	base := a.env("XDG_RUNTIME_DIR") // in memory, where there is one
	if info, err := os.Stat(base); base == "" || err != nil || !info.IsDir() {
		base = a.env("TMPDIR") // "": the system's
	}
	if e.dir, err = os.MkdirTemp(base, "hallpass-"); err != nil {
		return false, fmt.Errorf("make a private folder: %w", err)
	}
	defer func() { err = keepExit(err, os.RemoveAll(e.dir)) }()
	e.short = k.Resource.ShortName()
	if e.kubeconfig = a.env("KUBECONFIG"); e.kubeconfig == "" {
		if home, err := a.home(); err == nil {
			e.kubeconfig = filepath.Join(home, ".kube", "config")
		}
	}
	if err := kindOf(k.request.Resource).equip(a, e, s, k); err != nil {
		return false, err
	}
	if err := a.ctx.Err(); err != nil {
		return false, err
	}

	path, err := lookPath(e.argv[0])
	if err != nil {
		return false, err
	}
	cmd := exec.Command(path, e.argv[1:]...)
	cmd.Args[0] = e.argv[0]
	cmd.Stdin, cmd.Stdout, cmd.Stderr = a.stdin, a.out.w, a.err.w
	cmd.Env = slices.DeleteFunc(environ(), func(s string) bool {
		name, _, _ := strings.Cut(s, "=")
		return slices.Contains(e.unset, name)
	})
	cmd.Env = append(append(cmd.Env, e.env...), "HALLPASS_REQUEST="+s.ID, "HALLPASS_DIR="+e.dir)
	if err := relay.start(cmd.Start, func(sig os.Signal) {
		if !typed(sig) {
			_ = cmd.Process.Signal(sig) // it may have ended
		}
	}); err != nil {
		return false, cantRun(e.argv[0], err)
	}
	if a.ctx.Err() != nil { // while it was being started
		_ = cmd.Process.Signal(syscall.SIGTERM)
	}
	defer context.AfterFunc(e.app.ctx, func() { _ = cmd.Process.Signal(syscall.SIGTERM) })()
	over, watched := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(watched)
		select {
		case <-over:
		case <-a.after(e.ends.Sub(a.now())):
			a.err.Printf("hallpass: the grant has ended, and %s is still running: what it was given no longer works\n", e.argv[0])
		}
	}()
	err = cmd.Wait()
	close(over)
	<-watched
	return true, exitOf(err)
}

// keepExit adds what went wrong besides to the result of a command, unless
// that has an exit code of its own, which must stay.
func keepExit(err, besides error) error {
	var code exit
	if errors.As(err, &code) {
		return err
	}
	return errors.Join(err, besides)
}

// exitOf is the end of a command, with an exit code as a shell has it.
func exitOf(err error) error {
	var e *exec.ExitError
	if !errors.As(err, &e) {
		return err
	}
	if status, ok := e.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return exit(128 + int(status.Signal()))
	}
	return exit(e.ExitCode())
}

// lookPath finds a command as a shell does.
func lookPath(name string) (string, error) {
	path, err := exec.LookPath(name)
	if errors.Is(err, exec.ErrDot) {
		return "", failf(ExitNoCommand, "%s is only in this folder", name).withHint("./%s", name)
	}
	if err != nil {
		return "", cantRun(name, err)
	}
	return path, nil
}

func cantRun(name string, err error) error {
	if errors.Is(err, fs.ErrPermission) {
		return failf(ExitNoExec, "%s can't be run: permission denied", name)
	}
	if errors.Is(err, exec.ErrNotFound) || errors.Is(err, fs.ErrNotExist) {
		return failf(ExitNoCommand, "%s: command not found", name)
	}
	return failf(ExitNoExec, "%s can't be run: %w", name, err)
}

// giveBackPatience is how long run tries to give a grant back.
const giveBackPatience = 20 * time.Second

// giveBack ends the errand's request, and drops what this machine has of it.
// err is how the errand went.
func (e *errand) giveBack(a *app, b backend, me *identity, k kept, granted bool, err error) (access.Status, error) {
	typ, reason := access.TypeRelease, "the command has ended"
	var t *tampering
	var code exit
	switch {
	case errors.As(err, &t):
		reason = t.reason()
	case err == nil, errors.As(err, &code):
	case granted:
		reason = "the command was not run"
	default:
		typ, reason = access.TypeCancel, "given up before it was granted"
	}
	s, back := a.giveBack(b, me, k, typ, reason)
	if back != nil {
		word := "given back"
		if typ == access.TypeCancel {
			word = "withdrawn"
		}
		return s, failf(exitCode(back), "request %s is still open, and could not be %s: %w", k.request.ID, word, back).
			withHint("hallpass %s %s", typ, k.request.ID)
	}
	switch s.State {
	case access.StateReleased, access.StateCancelled, access.StateExpired:
	case access.StateRevoking:
		a.err.Printf("hallpass: the grant was given back; the issuer is taking it back\n")
	default: // somebody else was quicker, which may be why the command failed
		a.err.Printf("hallpass: the grant had been %s%s\n", s.State, adds(string(s.State), s.Why))
	}
	return s, e.folder.forget(k.request.ID)
}

// giveBack ends a request of this machine's user with a signed word, which it
// repeats while the service is away, until the context ends. That it has ended
// already is as good.
func (a *app) giveBack(b backend, me *identity, k kept, typ access.Type, reason string) (access.Status, error) {
	id := k.request.ID
	stop := access.Stop{Header: a.header(typ, me), Request: id, RequestHash: k.Statement.Hash(), Reason: reason}
	// A security key may wait for a touch for ever, and an agent for its user.
	type signed struct {
		st  access.Statement
		err error
	}
	signing := make(chan signed, 1)
	go func() {
		st, err := signStop(a, me, stop)
		signing <- signed{st, err}
	}()
	var st access.Statement
	select {
	case <-a.ctx.Done():
		return access.Status{}, fmt.Errorf("nobody signed: %w", a.ctx.Err())
	case s := <-signing:
		if s.err != nil {
			return access.Status{}, s.err
		}
		st = s.st
	}
	for delay := firstPoll; ; delay = min(2*delay, lastPoll) {
		s, err := b.Send(a.ctx, id, string(typ), stop.ID, st)
		switch code := access.CodeOf(err); {
		case err == nil:
			return a.settled(b, s), nil
		case code == access.CodeEnded:
			return b.Status(a.ctx, id)
		case code != access.CodeUnavailable:
			return access.Status{}, err
		}
		if a.sleep(a.ctx, delay) != nil {
			return access.Status{}, err
		}
	}
}

// relay is where signals go: to whoever has to do with them at the time.
type relay struct {
	mu   sync.Mutex
	to   func(os.Signal)
	done chan struct{}
}

// relay takes the signals over. Without signals it does nothing.
func (a *app) relay() *relay {
	r := &relay{done: make(chan struct{})}
	if a.signals == nil {
		return r
	}
	signals := a.signals()
	go func() {
		for {
			select {
			case <-r.done:
				return
			case sig := <-signals:
				r.mu.Lock()
				to := r.to
				r.mu.Unlock()
				if to != nil {
					to(sig)
				}
			}
		}
	}()
	return r
}

func (r *relay) divert(to func(os.Signal)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.to = to
}

// start diverts signals to what it starts: one that comes just then waits, and goes
// to the new one.
func (r *relay) start(start func() error, to func(os.Signal)) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := start(); err != nil {
		return err
	}
	r.to = to
	return nil
}

func (r *relay) close() { close(r.done) }

// typed says whether a signal came from the keyboard: then the terminal has
// sent it to the command as well, and a second one could mean something else
// to it. Nobody says where a signal comes from, so what the terminal can send
// to the job in front counts as typed.
func typed(sig os.Signal) bool {
	if sig != syscall.SIGINT && sig != syscall.SIGQUIT {
		return false
	}
	tty, err := os.Open("/dev/tty")
	if err != nil {
		return false
	}
	defer func() { _ = tty.Close() }()
	front, err := unix.IoctlGetInt(int(tty.Fd()), unix.TIOCGPGRP)
	return err == nil && front == unix.Getpgrp()
}

// within is the same run of the program with another end.
func (a *app) within(ctx context.Context) *app {
	b := *a
	b.ctx = ctx
	return &b
}

// jsonLine writes v on one line.
func (p *printer) jsonLine(v any) {
	data, err := json.Marshal(v)
	if err == nil {
		p.Printf("%s\n", string(data))
	}
}

// file is the path of a file of the errand's.
func (e *errand) file(name string) (string, error) {
	if e.dir != "" && !slices.Contains(e.files, filepath.Clean(name)) {
		return "", fmt.Errorf("there is no --file %s", name)
	}
	return filepath.Join(e.dir, name), nil
}
