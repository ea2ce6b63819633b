package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"
	"golang.org/x/crypto/ssh"

	"hallpass/access"
	"hallpass/statement"
)

// defaultDuration is what is asked for when nobody says how long.
const defaultDuration = 30 * time.Minute

// wish is what the user asks for, before it is checked and signed.
type wish struct {
	resource access.Resource
	login    string
	actions  []string
	command  string
	duration time.Duration // 0: as usual
	start    *time.Time
	reason   string
	ticket   string
	mode     string
	extends  string // the request whose grant it extends
	key      string // file of an existing key to certify; "": a new one
	alone    bool   // for one command, whose grant nobody else uses
}

// requestFlags are the flags of every command that may ask for access.
func requestFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "for", Usage: "for how `LONG`, such as 45m, 8h or 1d12h", DefaultText: access.ShortDuration(defaultDuration) + ", or what the policy on this machine allows if that is less"},
		&cli.StringFlag{Name: "reason", Aliases: []string{"r"}, Usage: "`why`, for approvers and auditors to read"},
		&cli.StringFlag{Name: "ticket", Aliases: []string{"t"}, Usage: "the `ticket` it is about"},
	}
}

// wishFrom fills in what requestFlags say.
func (a *app) wishFrom(c *cli.Context, w *wish) error {
	w.reason, w.ticket = c.String("reason"), c.String("ticket")
	if c.IsSet("for") {
		d, err := access.ParseDuration(c.String("for"))
		if err != nil {
			return usagef("--for: %w", err)
		}
		if d <= 0 {
			return usagef("--for %s is no time at all", c.String("for"))
		}
		w.duration = d
	}
	return nil
}

func (a *app) requestCommand() *cli.Command {
	return &cli.Command{
		Name:      "request",
		Usage:     "ask for access to a resource and wait for it",
		ArgsUsage: "KIND/NAME",
		Category:  categoryAccess,
		Description: "Signs a request with your key and waits until it is granted. A certificate for\n" +
			"a host goes into ssh-agent, or beside its key in $HALLPASS_HOME/certs. What is\n" +
			"in Vault stays there until hallpass get or hallpass run fetches it.",
		Flags: append(requestFlags(),
			&cli.StringFlag{Name: "as", Aliases: []string{"l"}, Usage: "as this `LOGIN`; may be left out where there is only one"},
			&cli.StringSliceFlag{Name: "action", Usage: "for this `ACTION`; may be repeated"},
			&cli.StringFlag{Name: "command", Usage: "for this one `COMMAND` alone"},
			&cli.StringFlag{Name: "at", Usage: "not before `TIME`: 15:04, \"2006-01-02 15:04\", RFC 3339, or +2h"},
			&cli.StringFlag{Name: "key", Usage: "certify this key instead of a new one: `FILE` of a public key", TakesFile: true},
			&cli.BoolFlag{Name: "emergency", Usage: "break the glass: access at once where policy allows it; people are told, and have to sign it off afterwards"},
			&cli.BoolFlag{Name: "no-wait", Usage: "print the id and leave, unless policy says no at once"},
			timeoutFlag("print the id and leave"),
		),
		Action: func(c *cli.Context) error {
			args, err := arguments(c, "KIND/NAME")
			if err != nil {
				return err
			}
			w := wish{login: c.String("as"), actions: c.StringSlice("action"), command: c.String("command"), key: c.String("key")}
			if err := a.wishFrom(c, &w); err != nil {
				return err
			}
			if c.IsSet("at") {
				if w.start, err = a.parseTime("--at", c.String("at")); err != nil {
					return err
				}
			}
			if c.Bool("emergency") {
				if strings.TrimSpace(w.reason) == "" {
					return usagef("--emergency takes a --reason: say what is on fire, those who sign it off will read it")
				}
				w.mode = access.ModeEmergency
			}
			limit, err := timeout(c)
			if err != nil {
				return err
			}
			if c.Bool("no-wait") && limit > 0 {
				return usagef("--no-wait and --timeout exclude each other")
			}
			if err := a.target(args[0], &w); err != nil {
				return err
			}
			return a.withBackend(func(b backend) error {
				id, err := a.submit(b, w)
				if err != nil {
					return err
				}
				g := granted{ID: id, State: access.StatePending, Resource: w.resource.Name, Login: w.login, Actions: w.actions}
				if c.Bool("no-wait") {
					if g.State, err = a.ruled(b, id); err != nil {
						return err
					}
					return a.printPending(g, func() {
						a.err.Printf("%s hallpass wait %s\n", a.err.dim("To pick it up:"), id)
					})
				}
				return a.obtained(b, g, limit)
			})
		},
	}
}

// target finds the resource that the user calls name, "kind/name" or a host as
// typed after ssh, and what else its kind has to know. Without a catalog on
// this machine the names are taken as they are: the service knows better.
func (a *app) target(name string, w *wish) error {
	c, err := a.catalog()
	if errors.Is(err, errNotHere) {
		if !strings.Contains(name, "/") {
			name = "ssh/" + name
		}
		if err := access.CheckResource(name); err != nil {
			return err
		}
		w.resource = access.Resource{Name: name}
		w.resource.Kind, _ = access.SplitResource(name)
		return kindOf(name).complete(w, false)
	}
	if err != nil {
		return err
	}
	r, ok := c.Resource(name)
	if !ok && !strings.Contains(name, "/") {
		found := c.ByHost(name)
		if r, ok = c.Resource("ssh/" + name); len(found) == 0 && ok {
			found = []access.Resource{r}
		}
		if w.login != "" && len(found) > 1 {
			found = slices.DeleteFunc(found, func(r access.Resource) bool { return !slices.Contains(r.Logins, w.login) })
		}
		if len(found) > 1 {
			return failf(ExitNotFound, "%s could be %s or %s", name, found[0].Name, found[1].Name).
				withHint("type the resource's whole name")
		}
		if ok = len(found) == 1; ok {
			r = found[0]
			if hostWord(name) && !slices.Contains(r.Hosts, name) {
				r.Hosts = append(slices.Clone(r.Hosts), name) // typed in another case
			}
		}
	}
	if !ok {
		return failf(ExitNotFound, "no resource %s", name).withHint("hallpass resources")
	}
	w.resource = r
	return kindOf(r.Name).complete(w, true)
}

// submit signs the wish and starts the request.
func (a *app) submit(b backend, w wish) (id string, err error) {
	me, err := a.identify()
	if err != nil {
		return "", err
	}
	defer func() { _ = me.signer.Close() }()
	k, err := a.submitAs(b, me, w)
	id = k.request.ID
	if access.CodeOf(err) == access.CodeUnavailable && id != "" {
		return "", failf(ExitUnreachable, "%w", err).
			withHint("%s", besides(err, fmt.Sprintf("if the request was taken all the same: hallpass wait %s, or hallpass cancel %s", id, id)))
	}
	return id, err
}

// submitAs is submit for whoever goes on with the identity. The key is on disk
// before anybody can approve it. With an error it returns a request as well if
// that may have been started all the same.
func (a *app) submitAs(b backend, me *identity, w wish) (kept, error) {
	f, err := a.folder()
	if err != nil {
		return kept{}, err
	}
	if w.duration == 0 {
		w.duration = a.usual(me.user, w)
	}
	k := kept{Resource: w.resource, Alone: w.alone}
	k.request = access.Request{
		Header:   access.Header{Type: access.TypeRequest, ID: statement.NewID(), Signer: me.user.Name, Time: statement.Time(a.now())},
		Resource: w.resource.Name,
		Login:    w.login,
		Actions:  w.actions,
		Command:  w.command,
		Duration: access.InSeconds(w.duration),
		Start:    w.start,
		Reason:   w.reason,
		Mode:     w.mode,
		Extends:  w.extends,
		Ticket:   w.ticket,
	}
	if err := kindOf(w.resource.Name).key(&k, w); err != nil {
		return kept{}, err
	}

	if k.Statement, err = sign(a, me, k.request, statement.ParseRequest); err != nil {
		return kept{}, err
	}
	if err := f.keep(k); err != nil {
		return kept{}, fmt.Errorf("keep the request's key: %w", err)
	}
	if err := b.Submit(a.ctx, access.Submission{Request: k.Statement}, k.request); err != nil {
		// It may have been started all the same; then the key is still needed.
		if code := access.CodeOf(err); code == access.CodeUnavailable || errors.Is(err, context.Canceled) {
			return k, a.resumable(err, k.request.ID)
		}
		return kept{}, errors.Join(err, f.forget(k.request.ID))
	}
	if !a.json {
		a.err.Printf("%s %s\n", a.err.dim("request"), k.request.ID)
	}
	return k, nil
}

func marshalKey(k ssh.PublicKey) string { return statement.MarshalKey(k) }

// existingKey reads a public key file, or the one beside a private key, and
// names the private key's file.
func existingKey(path string) (key ssh.PublicKey, private string, err error) {
	private = strings.TrimSuffix(path, ".pub")
	if private, err = filepath.Abs(private); err != nil {
		return nil, "", err
	}
	data, err := os.ReadFile(private + ".pub")
	if err != nil {
		return nil, "", fmt.Errorf("--key: %w", err)
	}
	if key, _, _, _, err = ssh.ParseAuthorizedKey(data); err != nil {
		return nil, "", usagef("--key: %s.pub is not a public key", private)
	}
	return key, private, statement.CheckKey(key)
}

// parseTime reads a time as people type it behind a flag, in the local zone.
func (a *app) parseTime(flag, s string) (*time.Time, error) {
	now := a.now()
	if rest, ok := strings.CutPrefix(s, "+"); ok {
		d, err := access.ParseDuration(rest)
		if err != nil || d < 0 {
			return nil, usagef("%s %s is not like +2h", flag, s)
		}
		t := statement.Time(now.Add(d))
		return &t, nil
	}
	for _, layout := range []string{time.RFC3339, "2006-01-02 15:04:05", "2006-01-02 15:04", "2006-01-02T15:04", "15:04"} {
		t, err := time.ParseInLocation(layout, s, a.out.zone)
		if err != nil {
			continue
		}
		if layout == "15:04" {
			y, m, d := now.In(a.out.zone).Date()
			t = time.Date(y, m, d, t.Hour(), t.Minute(), 0, 0, a.out.zone)
			if t.Before(now) {
				t = t.AddDate(0, 0, 1)
			}
		}
		t = statement.Time(t)
		return &t, nil
	}
	return nil, usagef("%s %s is not a time", flag, s).withHint(`15:04, "2006-01-02 15:04", 2006-01-02T15:04:05Z or +2h`)
}
