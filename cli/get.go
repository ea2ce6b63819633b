package cli

import (
	"errors"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"hallpass/access"
)

// got is what get ends in.
type got struct {
	ID          string                    `json:"id"`
	Resource    string                    `json:"resource"`
	Ends        time.Time                 `json:"ends"`
	Credentials map[string]map[string]any `json:"credentials"` // by action: the fields, as Vault gave them
}

func (a *app) getCommand() *cli.Command {
	return &cli.Command{
		Name:      "get",
		Usage:     "show the credentials of a grant, once",
		ArgsUsage: "ID|KIND/NAME",
		Category:  categoryAccess,
		Description: "Fetches in Vault what was granted, and shows it: on a terminal, or as JSON. It can\n" +
			"be had once. To give credentials to a program, hallpass run is better.",
		Action: func(c *cli.Context) error {
			args, err := arguments(c, "ID|KIND/NAME")
			if err != nil {
				return err
			}
			if !a.json && !a.out.tty {
				return usagef("standard output is not a terminal, and credentials don't belong into files and logs").
					withHint("--output json for a program that reads them, or hallpass run")
			}
			return a.withBackend(func(b backend) error { return a.get(b, args[0]) })
		},
	}
}

func (a *app) get(b backend, what string) error {
	f, err := a.folder()
	if err != nil {
		return err
	}
	id, err := a.ownRequest(b, f, what)
	if err != nil {
		return err
	}
	s, err := b.Status(a.ctx, id)
	if err != nil {
		return err
	}
	switch {
	case s.State.Final(), s.State == access.StateRevoking:
		return a.over(s)
	case s.State != access.StateActive || s.Credential == nil:
		return failf(ExitError, "request %s is not granted yet: it is %s", id, s.State).withHint("hallpass wait %s", id)
	}
	k, err := f.kept(id)
	if errors.Is(err, fs.ErrNotExist) {
		err = elsewhere(s)
	}
	if err != nil {
		return err
	}
	if k.request.Recipient == "" {
		return usagef("%s is a host: there is nothing to show", k.request.Resource).withHint("hallpass wait %s", id)
	}
	secret, err := a.unseal(f, s, k)
	var t *tampering
	if errors.As(err, &t) {
		return errors.Join(a.sound(b, k, t), f.forget(id))
	}
	if err != nil {
		return err
	}
	out := got{ID: id, Resource: secret.Resource, Ends: secret.Ends.UTC(), Credentials: jsonFields(secret)}
	return a.print(out, func(p *printer) {
		p.Printf("%s until %s\n", p.bold(out.Resource), p.at(out.Ends, a.now()))
		for _, g := range secret.Given {
			p.Printf("\n%s\n", p.bold(g.Action))
			p.secrets(g.Fields)
		}
		a.err.Printf("\nThis was shown once, and can't be shown again.\n%s hallpass release %s\n", a.err.dim("When you are done:"), id)
	})
}

// ownRequest finds the request that the user means: by its id, or the latest
// one of this machine for a resource.
func (a *app) ownRequest(b backend, f *folder, what string) (string, error) {
	if !strings.Contains(what, "/") {
		return a.find(b, what)
	}
	if err := access.CheckResource(what); err != nil {
		return "", err
	}
	if id, ok := f.latest(what); ok {
		return id, nil
	}
	return "", failf(ExitNotFound, "this machine has no request for %s", what).withHint("hallpass request %s", what)
}

// latest is the newest request under way for a resource.
func (f *folder) latest(resource string) (id string, ok bool) {
	for _, k := range f.underWay() {
		if k.request.Resource == resource && !k.Alone {
			return k.request.ID, true
		}
	}
	return "", false
}

// sound is alarm for a command that has signed nothing so far.
func (a *app) sound(b backend, k kept, t *tampering) error {
	me, err := a.identify()
	if err != nil {
		return t.failure().withHint("end it now: hallpass release %s", k.request.ID)
	}
	defer func() { _ = me.signer.Close() }()
	return a.alarm(b, me, k, t)
}

// secrets writes fields as they are, so that they can be pasted: values of
// several lines, such as keys, as lines of their own.
func (p *printer) secrets(fields map[string]any) {
	var pairs []any
	var long []string
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		value := strings.TrimSuffix(text(fields[name]), "\n")
		if strings.Contains(value, "\n") {
			long = append(long, name)
			continue
		}
		pairs = append(pairs, name, value)
	}
	p.fields(pairs...)
	for _, name := range long {
		p.Printf("  %s\n", p.dim(name))
		for line := range strings.SplitSeq(strings.TrimSuffix(text(fields[name]), "\n"), "\n") {
			p.Printf("%s\n", line)
		}
	}
}
