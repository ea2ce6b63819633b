package cli

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"

	"github.com/urfave/cli/v2"

	"hallpass/access"
	"hallpass/evidence"
	"hallpass/statement"
)

func (a *app) lockCommand() *cli.Command {
	c := &cli.Command{
		Name: "lock", Usage: "lock a user, resource or host out: no new access, and the live one ends", Category: categoryDecide,
		Description: "From the moment that it is recorded, every request under the lock is refused, by\n" +
			"the issuer too, and every live grant is taken back. It takes somebody whom the\n" +
			"policy's locks.groups names, no approval, and ends by --for or by hallpass unlock.",
	}
	for _, kind := range []struct{ name, usage string }{
		{access.LockUser, "lock a user: his requests, his grants, and his word on others' requests"},
		{access.LockResource, "lock a resource, such as ssh/web-1"},
		{access.LockHost, "lock a host: every resource that reaches it by the catalog"},
	} {
		c.Subcommands = append(c.Subcommands, &cli.Command{
			Name: kind.name, Usage: kind.usage, ArgsUsage: "NAME",
			Flags: []cli.Flag{
				&cli.StringFlag{Name: "reason", Aliases: []string{"r"}, Usage: "`why`, for those who are locked out and for auditors to read; required"},
				&cli.StringFlag{Name: "for", Usage: "how `LONG`", DefaultText: "until it is lifted"},
				&cli.BoolFlag{Name: "print", Usage: printHelp},
			},
			Action: func(c *cli.Context) error {
				args, err := arguments(c, "NAME")
				if err != nil {
					return err
				}
				if c.String("reason") == "" {
					return usagef("--reason is missing: say why, who is locked out will read it")
				}
				l := access.Lock{Action: access.ActionLock, Kind: kind.name, Name: args[0], Reason: c.String("reason")}
				if c.IsSet("for") {
					long, err := access.ParseDuration(c.String("for"))
					if err != nil {
						return usagef("--for: %w", err)
					}
					if long <= 0 {
						return usagef("--for %s is no time at all", c.String("for"))
					}
					until := statement.Time(a.now().Add(long))
					l.Until = &until
				}
				if err := access.CheckLocked(l.Kind, l.Name); err != nil {
					return err
				}
				a.warnUnknown(l)
				if c.Bool("print") {
					return a.lock(nil, l, true)
				}
				return a.withBackend(func(b backend) error { return a.lock(b, l, false) })
			},
		})
	}
	return c
}

// warnUnknown says that nobody and nothing here is called so. It is locked all
// the same: what has left the files may still be open.
func (a *app) warnUnknown(l access.Lock) {
	known := true
	switch l.Kind {
	case access.LockUser:
		if dir := a.directoryOrNil(); dir != nil {
			_, known = dir.User(l.Name)
		}
	default:
		catalog, err := a.catalog()
		if err != nil {
			return
		}
		known = false
		_, names := (&evidence.Rulebook{Catalog: catalog}).Reach(l)
		for _, name := range names {
			_, ok := catalog.Resource(name)
			known = known || ok
		}
	}
	if !known {
		a.err.Printf("hallpass: there is no %s %s in the files here; is it spelled right?\n", l.Kind, l.Name)
	}
}

func (a *app) unlockCommand() *cli.Command {
	return &cli.Command{
		Name: "unlock", Usage: "lift a lock", ArgsUsage: "ID", Category: categoryDecide,
		Description: "ID is the lock's, as hallpass locks shows it. What it has ended stays ended.",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "reason", Aliases: []string{"r"}, Usage: "`why`, for auditors to read"},
			&cli.BoolFlag{Name: "print", Usage: printHelp},
		},
		Action: func(c *cli.Context) error {
			args, err := arguments(c, "ID")
			if err != nil {
				return err
			}
			return a.withBackend(func(b backend) error {
				held, err := a.findLock(b, args[0])
				if err != nil {
					return err
				}
				l := access.Lock{Action: access.ActionUnlock, Kind: held.Kind, Name: held.Name, Lock: held.ID, Reason: c.String("reason")}
				return a.lock(b, l, c.Bool("print"))
			})
		},
	}
}

// findLock finds the one lock in force whose id begins so.
func (a *app) findLock(b backend, prefix string) (access.Lock, error) {
	if !access.IsIDPrefix(prefix) {
		return access.Lock{}, usagef("%s is not a lock's id or the beginning of one", prefix).withHint("hallpass locks shows them")
	}
	held, err := b.Locks(a.ctx)
	if err != nil {
		return access.Lock{}, err
	}
	var found []access.Lock
	for _, h := range held {
		if strings.HasPrefix(h.Lock.ID, prefix) {
			// What is to be signed over is what somebody has signed.
			l, err := statement.ParseLock([]byte(h.Statement.Payload))
			if err != nil || !strings.HasPrefix(l.ID, prefix) {
				return access.Lock{}, failf(ExitRefused, "lock %s can't be trusted: its statement says something else", h.Lock.ID)
			}
			found = append(found, l)
		}
	}
	switch len(found) {
	case 0:
		return access.Lock{}, failf(ExitNotFound, "no lock %s is in force", prefix).withHint("hallpass locks shows them")
	case 1:
		return found[0], nil
	}
	return access.Lock{}, failf(ExitNotFound, "%d locks begin with %s", len(found), prefix).withHint("hallpass locks shows them")
}

// lock signs and sends a lock or an unlock.
func (a *app) lock(b backend, l access.Lock, print bool) error {
	me, err := a.identify()
	if err != nil {
		return err
	}
	defer func() { _ = me.signer.Close() }()
	l.Header = a.header(access.TypeLock, me)
	st, err := sign(a, me, l, statement.ParseLock)
	if err != nil {
		return err
	}
	if print {
		data, err := json.Marshal(access.Locking{Statement: st})
		if err != nil {
			return err
		}
		a.out.Printf("%s\n", markup(data)) // base64 and JSON that has passed statement's checks
		a.err.Printf("%s temporal workflow start --type %s --task-queue %s --workflow-id %s --input '…'\n",
			a.err.dim("To deliver it:"), access.WorkflowLock, access.TaskQueue, access.LockWorkflowID(l.ID))
		return nil
	}
	out, err := b.Lock(a.ctx, st, l)
	recorded := out.Lock.ID == l.ID
	if !recorded && access.CodeOf(err) == access.CodeUnavailable {
		return failf(ExitUnreachable, "nobody says that the %s is in force: %w", l.Action, err).
			withHint("%s", besides(err, "hallpass locks lists the locks that are in force; say it again if that isn't so yet"))
	}
	if err != nil && (!recorded || access.CodeOf(err) != access.CodeUnavailable) {
		return a.refusal(err)
	}
	if perr := a.print(out, func(p *printer) { a.lockText(p, out) }); perr != nil {
		return perr
	}
	if err != nil {
		return failf(ExitUnreachable, "the lock is in force, but not everything under it has ended yet").
			withHint("it goes on as soon as the issuers answer; hallpass list --state active --state revoking shows what may still live")
	}
	return nil
}

func (a *app) lockText(p *printer, out access.Locked) {
	l := out.Lock
	if l.Action == access.ActionUnlock {
		p.Printf("Unlocked %s %s.\n", l.Kind, p.bold(l.Name))
		return
	}
	p.Printf("Locked %s %s", l.Kind, p.bold(l.Name))
	if l.Until != nil {
		p.Printf(" until %s", p.at(*l.Until, a.now()))
	}
	switch n := len(out.Told); n {
	case 0:
		p.Printf(". Nothing was open.\n")
	case 1:
		p.Printf(". 1 live request was told to end: %s\n", out.Told[0])
	default:
		p.Printf(". %d live requests were told to end:\n", n)
		for _, id := range out.Told {
			p.Printf("  %s\n", id)
		}
	}
	p.Printf("To lift it: hallpass unlock %s\n", l.ID)
}

// heldLock is a lock in force, as locks shows it.
type heldLock struct {
	access.Lock
	Verified bool   `json:"verified"`
	By       string `json:"by"` // which key signed it, or what is wrong
}

func (a *app) locksCommand() *cli.Command {
	return &cli.Command{
		Name: "locks", Usage: "list the locks in force", Category: categoryLook,
		Action: func(c *cli.Context) error {
			if _, err := arguments(c); err != nil {
				return err
			}
			return a.withBackend(func(b backend) error {
				held, err := b.Locks(a.ctx)
				if err != nil {
					return err
				}
				all := []heldLock{}
				for _, h := range held {
					one := heldLock{Lock: h.Lock, By: "NOT VERIFIED: what was signed says something else"}
					if signed, err := statement.ParseLock([]byte(h.Statement.Payload)); err == nil && reflect.DeepEqual(signed, h.Lock) {
						one.By, one.Verified = a.signedBy(h.Statement, access.TypeLock, signed.Signer)
					}
					all = append(all, one)
				}
				return a.print(all, func(p *printer) { a.locksText(p, all) })
			})
		},
	}
}

func (a *app) locksText(p *printer, all []heldLock) {
	if len(all) == 0 {
		a.err.Printf("Nothing is locked.\n")
		return
	}
	var ids []string
	for _, l := range all {
		ids = append(ids, l.ID)
	}
	short, now := shortIDs(ids), a.now()
	for i, l := range all {
		if i > 0 {
			p.Printf("\n")
		}
		until := "until it is lifted"
		if l.Until != nil {
			until = "until " + p.at(*l.Until, now)
		}
		p.Printf("%s  %s %s, %s\n", short[l.ID], l.Kind, p.bold(l.Name), until)
		p.fields("reason", l.Reason, "locked", fmt.Sprintf("%s, by %s", p.at(l.Time, now), l.Signer), "signed by", l.By)
	}
}

// endedBy reads the statement that ended a request.
func endedBy(st access.Statement, typ access.Type) (h access.Header, reason string, err error) {
	if typ == access.TypeLock {
		l, err := statement.ParseLock([]byte(st.Payload))
		return l.Header, l.Reason, err
	}
	stop, err := statement.ParseStop([]byte(st.Payload), typ)
	return stop.Header, stop.Reason, err
}
