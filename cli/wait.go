package cli

import (
	"context"
	"crypto/ed25519"
	"errors"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/urfave/cli/v2"
	"golang.org/x/crypto/ssh"

	"hallpass/access"
	"hallpass/ca"
	"hallpass/policy"
	"hallpass/transport"
)

// How often a waiting command asks: quickly at first, for what is approved by
// itself, and after each step that the request takes; then so that nobody notices the
// difference. A pause is about a quarter of the time that was waited for nothing.
const (
	soonPoll  = 15 * time.Millisecond // where all that is waited for is an activity
	firstPoll = 50 * time.Millisecond
	lastPoll  = 2 * time.Second
	idlePoll  = 5 * time.Second  // where people have to do something, or time has to pass
	patience  = time.Minute      // how long the service may be gone while waiting
	longPoll  = 10 * time.Second // how long one that can wait is asked to; what is left on the clock is shown anew then
)

// timeoutFlag is for the commands that wait.
func timeoutFlag(then string) cli.Flag {
	return &cli.StringFlag{Name: "timeout", Usage: "wait no longer than `LONG`, such as 10m, then " + then, DefaultText: "as long as it takes"}
}

// timeout reads timeoutFlag: zero means no limit.
func timeout(c *cli.Context) (time.Duration, error) {
	if !c.IsSet("timeout") {
		return 0, nil
	}
	d, err := access.ParseDuration(c.String("timeout"))
	if err != nil {
		return 0, usagef("--timeout: %w", err)
	}
	if d <= 0 {
		return 0, usagef("--timeout %s is no time at all", c.String("timeout")).withHint("--no-wait doesn't wait")
	}
	return d, nil
}

// await asks for the status until the request is active or has ended, and
// shows what it waits for. It relies on nothing but status: no answer can get
// lost. With a limit it gives up after that long, with ExitGaveUp.
func (a *app) await(b backend, id string, limit time.Duration) (access.Status, error) {
	show := &ticker{p: a.err}
	defer show.clear()
	var since time.Time // when the service was first gone
	began := a.now()
	look := b.Status
	var state access.State
	for delay := firstPoll; ; delay = delay * 5 / 4 {
		s, err := look(a.ctx, id)
		now := a.now()
		if err == nil && s.State != state {
			state, delay = s.State, firstPoll
		}
		longest := lastPoll
		if err == nil && !underWay(s) {
			longest = idlePoll
		}
		delay = min(delay, longest)
		switch {
		case err == nil:
			since = time.Time{}
			if s.State == access.StateActive && s.Credential != nil || s.State == access.StateRevoking || s.State.Final() {
				return s, nil
			}
			show.line(a.waitsFor(s), left(s, now))
		case access.CodeOf(err) == access.CodeUnavailable:
			if since.IsZero() {
				since = now
			}
			if now.Sub(since) >= patience {
				return access.Status{}, failf(ExitUnreachable, "%w", err).withHint("the request goes on; hallpass wait %s", id)
			}
			show.line("hallpass can't be reached; trying again", "")
		default:
			return access.Status{}, a.resumable(err, id)
		}
		wait := longPoll
		if limit > 0 {
			rest := limit - a.now().Sub(began)
			if rest <= 0 {
				return access.Status{}, failf(ExitGaveUp, "not granted within %s", access.ShortDuration(limit)).
					withHint("the request goes on: hallpass wait %s, or hallpass cancel %s", id, id)
			}
			delay, wait = min(delay, rest), min(wait, rest)
		}
		look = b.Status
		if w, ok := b.(waiter); ok && err == nil {
			// Even if it answers at once, it isn't asked without a pause.
			delay = min(delay, firstPoll)
			look = func(ctx context.Context, id string) (access.Status, error) { return w.Next(ctx, id, wait) }
		}
		if err := a.sleep(a.ctx, delay); err != nil {
			return access.Status{}, a.resumable(err, id)
		}
	}
}

// resumable adds to an interruption how to come back.
func (a *app) resumable(err error, id string) error {
	if errors.Is(err, context.Canceled) {
		return failf(ExitInterrupted, "%w", err).
			withHint("hallpass wait %s to go on with it, or hallpass cancel %s", id, id)
	}
	return err
}

// waitsFor says what a request waits for.
func (a *app) waitsFor(s access.Status) string {
	switch s.State {
	case access.StatePending:
		if len(s.Standing.Missing) == 0 {
			return "waiting for policy"
		}
		parts := make([]string, len(s.Standing.Missing))
		for i, set := range s.Standing.Missing {
			parts[i] = policy.Describe([]access.Set{set})
			if who := a.people(s.Standing, set); who != "" {
				parts[i] += " (" + who + ")"
			}
		}
		line := "waiting for " + strings.Join(parts, " and ")
		if by := approvers(s.Standing.Voices); by != "" {
			line += "; approved by " + by
		}
		return line
	case access.StateScheduled:
		line := "approved"
		if by := approvers(s.Standing.Voices); by != "" {
			line += " by " + by
		}
		if s.Starts != nil {
			line += "; starts at " + a.err.clock(*s.Starts)
		}
		return line
	case access.StateIssuing:
		return "allowed; waiting for the issuer"
	}
	return string(s.State)
}

func approvers(voices []access.Voice) string {
	var names []string
	for _, v := range voices {
		if v.Verdict == access.Approve {
			names = append(names, v.Who())
		}
	}
	return strings.Join(names, ", ")
}

// left is how long the present state can last.
func left(s access.Status, now time.Time) string {
	switch {
	case s.State == access.StatePending && s.Deadline != nil && s.Deadline.After(now):
		return coarse(s.Deadline.Sub(now)) + " left"
	case s.State == access.StateScheduled && s.Starts != nil && s.Starts.After(now):
		return "in " + coarse(s.Starts.Sub(now))
	}
	return ""
}

// ticker shows one line that changes: in place on a terminal, elsewhere as a
// new line whenever more than the clock in it has changed.
type ticker struct {
	p    *printer
	last string
	live bool
}

func (t *ticker) line(text, clock string) {
	if t.p.tty {
		if clock != "" {
			text += " · " + clock
		}
		if width := t.p.width(); utf8.RuneCountInString(text) >= width {
			text = string([]rune(text)[:width-2]) + "…" // a second line would stay behind
		}
		t.p.Printf("%s%s", markup("\r\x1b[K"), text)
		t.live = true
		return
	}
	if text == t.last {
		return
	}
	t.last = text
	if clock != "" {
		text += ", " + clock
	}
	t.p.Printf("%s\n", text)
}

func (t *ticker) clear() {
	if t.live {
		t.p.Printf("%s", markup("\r\x1b[K"))
	}
}

// ended is the error that a request's end means to whoever waits for it.
func ended(s access.Status) error {
	state := s.State
	if s.Ending != "" {
		state = s.Ending // it is being taken back; that is no news to who has nothing
	}
	switch state {
	case access.StateDenied:
		f := failf(ExitDenied, "denied%s", adds("denied", s.Why)).withHint("hallpass show %s", s.ID)
		if x := s.Standing.Extends; x != nil && access.IsIDPrefix(x.By) && x.By != s.ID {
			f = f.withHint("hallpass extend %s --for LONGER", x.By) // it goes on from there
		}
		return f
	case access.StateTimedOut:
		return failf(ExitTimedOut, "timed out%s", adds("timed out", s.Why)).withHint("hallpass show %s", s.ID)
	}
	return failf(ExitError, "the request is %s%s", state, adds(string(state), s.Why)).withHint("hallpass show %s", s.ID)
}

// adds is what why adds to the word for a state, which it may begin with:
// " by bob" to denied, of "denied by bob".
func adds(state, why string) string {
	if rest, ok := strings.CutPrefix(why, state+" "); ok {
		return " " + rest
	}
	if why == "" || why == state {
		return ""
	}
	return ": " + why
}

// ruling is how long a request that nobody stays to wait for is given to be
// ruled on.
const ruling = 3 * time.Second

// ruled waits for the first ruling on a request, for a moment: where policy
// says no, or the request can't be right, that is an error to whoever asked.
// Who is away just rules later.
func (a *app) ruled(b backend, id string) (access.State, error) {
	ctx, cancel := context.WithTimeout(a.ctx, ruling)
	defer cancel()
	until := a.now().Add(ruling)
	for delay := firstPoll; ; delay = min(delay*3/2, lastPoll) {
		s, err := b.Status(ctx, id)
		switch {
		case err == nil && s.State.Final():
			return "", a.over(s)
		case err == nil && (s.Standing.Effect != "" || s.State != access.StatePending):
			a.glassBroken(s)
			return s.State, nil
		case a.ctx.Err() != nil:
			return "", a.resumable(a.ctx.Err(), id)
		case a.now().After(until) || a.sleep(ctx, delay) != nil:
			a.err.Printf("Nobody has ruled on it yet.\n")
			return access.StatePending, nil
		}
	}
}

// over is the error that a request's end means to whoever asked. What is kept
// of it goes.
func (a *app) over(s access.Status) error {
	f, err := a.folder()
	if err != nil {
		return err
	}
	if err := errors.Join(f.forget(s.ID), f.drop(s.ID)); err != nil {
		return err
	}
	return ended(s)
}

// granted is what request and wait end in.
type granted struct {
	ID          string       `json:"id"`
	State       access.State `json:"state"`
	Resource    string       `json:"resource"`
	Login       string       `json:"login,omitempty"`
	Actions     []string     `json:"actions,omitempty"`
	Ends        *time.Time   `json:"ends,omitempty"`
	Certificate string       `json:"certificate,omitempty"` // file
	Identity    string       `json:"identity,omitempty"`    // file of the private key; with agent, of the public key
	Agent       bool         `json:"agent,omitempty"`       // ssh-agent has the private key
	SSH         []string     `json:"ssh,omitempty"`         // the command that logs in
	Get         []string     `json:"get,omitempty"`         // the command that shows what Vault gives
	Run         []string     `json:"run,omitempty"`         // the command that runs another with it
	Opened      *time.Time   `json:"opened,omitempty"`      // when what Vault gave was fetched
}

// finish waits for a request and makes its grant usable. A grant that is
// installed already is shown again.
func (a *app) finish(b backend, id string, limit time.Duration) (granted, error) {
	f, err := a.folder()
	if err != nil {
		return granted{}, err
	}
	s, err := a.await(b, id, limit)
	if err != nil {
		return granted{}, err
	}
	if s.State != access.StateActive {
		return granted{}, a.over(s)
	}
	a.glassBroken(s)
	if h := s.Handle; h != nil && h.Until != nil && !a.now().Before(h.NotAfter) {
		return granted{}, failf(ExitRefused, "the grant has ended; sessions that are open may stay until %s", h.Until.UTC().Format(time.RFC3339))
	}
	if err := f.sweep(); err != nil {
		return granted{}, err
	}
	k, err := f.kept(id)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return kindOf(s.Standing.Request.Resource).again(a, f, s)
	case err != nil:
		return granted{}, err
	}
	return kindOf(k.request.Resource).take(a, f, s, k)
}

// acceptable parses the credential and makes sure that it is the one asked
// for, before anything is put where ssh looks.
func acceptable(s access.Status, k kept) (*ssh.Certificate, error) {
	c, err := parseCertificate(s.Credential.Certificate)
	if err != nil {
		return nil, err
	}
	want := k.request.PublicKey
	if k.key != nil {
		public, err := ssh.NewPublicKey(k.key.Public().(ed25519.PublicKey))
		if err != nil {
			return nil, err
		}
		want = marshalKey(public)
	}
	if marshalKey(c.Key) != want {
		return nil, failf(ExitError, "the certificate of request %s is for another key; it was not kept", k.request.ID)
	}
	if request, _, err := ca.ParseKeyID(c.KeyId); err != nil || request != k.request.ID {
		return nil, failf(ExitError, "the certificate %s belongs to another request; it was not kept", c.KeyId)
	}
	return c, nil
}

// againSSH shows a grant whose files are in place.
func againSSH(a *app, f *folder, s access.Status) (granted, error) {
	r, res := s.Standing.Request, a.resourceOf(s)
	r.ID = s.ID
	for _, name := range names(r, res) {
		c, ok := f.live(r.Login, name)
		if !ok {
			continue
		}
		if request, _, err := ca.ParseKeyID(c.KeyId); err == nil && request == s.ID {
			_, err := os.Stat(f.base(r.Login, name))
			return a.grantedAs(f, r, res, c, err != nil), nil
		}
	}
	return granted{}, elsewhere(s)
}

// grantedAs says how to use a grant that is in the folder. It becomes a command
// to paste, so it is made of what this machine knows, not of what the service
// says.
func (a *app) grantedAs(f *folder, r access.Request, res access.Resource, c *ssh.Certificate, inAgent bool) granted {
	ends := f.end(c).UTC()
	base := f.base(r.Login, names(r, res)[0])
	identity := base
	if inAgent {
		identity += ".pub" // by which ssh finds the private key in the agent
	}
	return granted{
		ID: r.ID, State: access.StateActive, Resource: res.Name, Login: r.Login, Ends: &ends,
		Identity: identity, Certificate: base + "-cert.pub", Agent: inAgent, SSH: sshLine(base, identity, r.Login, res),
	}
}

// names are what a grant's files go by: the hosts it opens, so that every ssh
// there finds it, or the request's id if it is for one command, which is of no
// use to any other ssh.
func names(r access.Request, res access.Resource) []string {
	if r.Command != "" {
		return []string{r.ID}
	}
	return hosts(res)
}

// resourceOf is the resource of a request: as this machine's catalog has it,
// else as the service has it.
func (a *app) resourceOf(s access.Status) access.Resource {
	if c, err := a.catalog(); err == nil {
		if r, ok := c.Resource(s.Standing.Request.Resource); ok {
			return r
		}
	}
	return s.Standing.Resource
}

// hosts are the names that people type for a resource, at least one.
func hosts(r access.Resource) []string {
	named := slices.DeleteFunc(slices.Clone(r.Hosts), func(h string) bool { return !hostWord(h) })
	if len(named) == 0 {
		return []string{r.ShortName()}
	}
	return named
}

// obtained waits for a request and prints the grant. If that takes longer than
// limit, it prints the request as it was.
func (a *app) obtained(b backend, asked granted, limit time.Duration) error {
	g, err := a.finish(b, asked.ID, limit)
	if err != nil && exitCode(err) == ExitGaveUp {
		return errors.Join(err, a.printPending(asked, func() {}))
	}
	if err != nil {
		return err
	}
	return a.printGranted(g)
}

// printPending prints the id of a request that isn't waited for, and a hint on
// standard error.
func (a *app) printPending(g granted, hint func()) error {
	return a.print(g, func(p *printer) {
		p.Printf("%s\n", g.ID)
		hint()
	})
}

// printGranted shows a grant and what to type.
func (a *app) printGranted(g granted) error {
	return a.print(g, func(p *printer) {
		p.Printf("%s %s%s", p.state(g.State), g.Resource, access.AsWhat(g.Login, g.Actions))
		if g.Ends != nil {
			p.Printf(" until %s", p.at(*g.Ends, a.now()))
		}
		p.Printf("\n")
		kindOf(g.Resource).tell(p, g)
		a.err.Printf("%s hallpass release %s\n", a.err.dim("To give it back early:"), g.ID)
	})
}

func (a *app) waitCommand() *cli.Command {
	return &cli.Command{
		Name:      "wait",
		Usage:     "take up a request again that was interrupted",
		ArgsUsage: "ID",
		Category:  categoryAccess,
		Flags:     []cli.Flag{timeoutFlag("print the id and leave")},
		Action: func(c *cli.Context) error {
			args, err := arguments(c, "ID")
			if err != nil {
				return err
			}
			limit, err := timeout(c)
			if err != nil {
				return err
			}
			return a.withBackend(func(b backend) error {
				id, err := a.find(b, args[0])
				if err != nil {
					return err
				}
				asked := granted{ID: id, State: access.StatePending}
				if f, err := a.folder(); err == nil {
					if k, err := f.kept(id); err == nil {
						asked.Resource, asked.Login, asked.Actions = k.request.Resource, k.request.Login, k.request.Actions
					}
				}
				return a.obtained(b, asked, limit)
			})
		},
	}
}

// find completes the beginning of an id. What this machine has just asked for
// is known before the service lists it.
func (a *app) find(b backend, id string) (string, error) {
	id = strings.ToLower(id)
	if !access.IsIDPrefix(id) {
		return "", notAnID(id)
	}
	if len(id) == 36 {
		return id, nil
	}
	found, err := b.List(a.ctx, transport.Filter{Prefix: id, Limit: 3})
	if err != nil {
		return "", err
	}
	var ids []string
	for _, s := range found {
		if strings.HasPrefix(s.ID, id) { // what was typed is what is meant
			ids = append(ids, s.ID)
		}
	}
	if f, err := a.folder(); err == nil {
		for _, k := range f.underWay() {
			if strings.HasPrefix(k.request.ID, id) && !slices.Contains(ids, k.request.ID) {
				ids = append(ids, k.request.ID)
			}
		}
	}
	switch len(ids) {
	case 0:
		return "", failf(ExitNotFound, "no request begins with %s", id).withHint("hallpass list")
	case 1:
		return ids[0], nil
	}
	return "", failf(ExitNotFound, "more than one request begins with %s, such as %s and %s", id, ids[0], ids[1]).withHint("type more of it")
}
