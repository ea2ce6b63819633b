package cli

import (
	"crypto/ed25519"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/crypto/ssh"

	"hallpass/access"
	"hallpass/catalog"
	"hallpass/sealed"
)

// kind is what this side does for one kind of resource. What a request may
// hold, and whether it is granted, the service decides.
type kind struct {
	// local says that commands run on this machine.
	local bool
	// complete fills in what the user may leave out, and refuses what the kind
	// has no use for. known says that the resource is out of a catalog.
	complete func(w *wish, known bool) error
	// key makes the key that the credential is for, and names it in the request.
	key func(k *kept, w wish) error
	// take makes a new grant usable, and again shows one that was taken before.
	take  func(a *app, f *folder, s access.Status, k kept) (granted, error)
	again func(a *app, f *folder, s access.Status) (granted, error)
	// tell says how to use a grant.
	tell func(p *printer, g granted)
	// equip makes a grant usable for one command alone, in a folder of its own.
	equip func(a *app, e *errand, s access.Status, k kept) error
}

// kindOf is the kind of the resource called name. The service knows which
// kinds there are; to this side all others are like hosts.
func kindOf(name string) kind {
	switch k, _ := access.SplitResource(name); k {
	case catalog.KindVault:
		return kind{
			local: true, complete: completeVault, key: ageKey, take: takeVault, again: againVault, tell: tellVault, equip: equipVault,
		}
	default:
		return kind{
			complete: completeSSH, key: sshKey, take: takeSSH, again: againSSH, tell: tellSSH, equip: equipSSH,
		}
	}
}

// completeSSH finds the login.
func completeSSH(w *wish, known bool) error {
	r := w.resource
	switch {
	case w.login == "" && !known:
		return usagef("as whom? this machine has no catalog to look it up in").withHint("add --as LOGIN")
	case !known:
	case w.login == "" && len(r.Logins) == 1:
		w.login = r.Logins[0]
	case w.login == "" && len(r.Logins) > 1:
		return usagef("as whom? %s has %s", r.Name, strings.Join(r.Logins, ", ")).withHint("add --as %s", r.Logins[0])
	case w.login != "" && !slices.Contains(r.Logins, w.login):
		f := usagef("%s has no login %s", r.Name, w.login)
		if len(r.Logins) > 0 {
			f = f.withHint("its logins: %s", strings.Join(r.Logins, ", "))
		}
		return f
	}
	return nil
}

// completeVault finds the actions.
func completeVault(w *wish, known bool) error {
	r := w.resource
	for _, f := range []struct{ flag, value string }{{"--as", w.login}, {"--command", w.command}, {"--key", w.key}} {
		if f.value != "" {
			return usagef("%s is not for %s: it is no host", f.flag, r.Name)
		}
	}
	switch {
	case len(w.actions) == 0 && !known:
		return usagef("what for? this machine has no catalog to look it up in").withHint("add --action ACTION")
	case !known:
	case len(w.actions) == 0 && len(r.Actions) == 1:
		w.actions = r.Actions
	case len(w.actions) == 0:
		return usagef("what for? %s has %s", r.Name, strings.Join(r.Actions, ", ")).withHint("add --action %s", r.Actions[0])
	}
	for i, action := range w.actions {
		if known && !slices.Contains(r.Actions, action) {
			return usagef("%s has no action %s", r.Name, action).withHint("its actions: %s", strings.Join(r.Actions, ", "))
		}
		if slices.Contains(w.actions[:i], action) {
			return usagef("--action %s is there twice", action)
		}
	}
	return nil
}

// sshKey makes the key to certify, or takes the one that the user has.
func sshKey(k *kept, w wish) (err error) {
	var public ssh.PublicKey
	if w.key != "" {
		public, k.Identity, err = existingKey(w.key)
	} else if _, k.key, err = ed25519.GenerateKey(nil); err == nil {
		public, err = ssh.NewPublicKey(k.key.Public().(ed25519.PublicKey))
	}
	if err != nil {
		return err
	}
	k.request.PublicKey = marshalKey(public)
	return nil
}

// ageKey makes the key to encrypt the secret to.
func ageKey(k *kept, _ wish) (err error) {
	k.age, k.request.Recipient, err = sealed.NewKey()
	return err
}

// takeSSH puts the certificate and its key where ssh finds them.
func takeSSH(a *app, f *folder, s access.Status, k kept) (granted, error) {
	c, err := acceptable(s, k)
	if err != nil {
		return granted{}, err
	}
	inAgent, err := f.install(grant{
		certificate: c, key: k.key, identity: k.Identity, login: k.request.Login, names: names(k.request, k.Resource),
	})
	if err != nil {
		return granted{}, fmt.Errorf("keep the certificate: %w", err)
	}
	if err := f.forget(s.ID); err != nil {
		return granted{}, err
	}
	return a.grantedAs(f, k.request, k.Resource, c, inAgent), nil
}

func tellSSH(p *printer, g granted) {
	where := "The key is in " + g.Identity
	if g.Agent {
		where = "The key is in ssh-agent"
	}
	p.Printf("%s, and goes when the grant does.\n\n  %s\n\n", where, markup(shellLine(g.SSH)))
}

// takeVault leaves everything as it is: what is sealed is opened when it is
// wanted, since it can be opened once.
func takeVault(a *app, f *folder, s access.Status, k kept) (granted, error) {
	g := granted{
		ID: s.ID, State: access.StateActive, Resource: k.request.Resource, Actions: k.request.Actions, Ends: s.Ends,
		Get: []string{"hallpass", "get", s.ID}, Run: []string{"hallpass", "run", s.ID, "--", "COMMAND"},
	}
	m, err := f.mark(s.ID)
	if err != nil {
		return granted{}, err
	}
	if m.Done {
		g.Opened, g.Get, g.Run = &m.At, nil, nil
	}
	return g, nil
}

func againVault(_ *app, _ *folder, s access.Status) (granted, error) {
	return granted{}, elsewhere(s)
}

// elsewhere says that a grant can't be used from here.
func elsewhere(s access.Status) error {
	return failf(ExitError, "request %s is granted, but its private key is not on this machine", s.ID).
		withHint("run hallpass wait where it was asked for, or ask again: hallpass request %s", s.Standing.Request.Resource)
}

func tellVault(p *printer, g granted) {
	if g.Opened != nil {
		p.Printf("What Vault gave for it was opened %s, and can't be shown again.\n\n", p.clock(*g.Opened))
		return
	}
	p.Printf("Vault gives the credentials when they are wanted, and once.\n\n  %s\n  %s\n\n",
		markup(shellLine(g.Get)), markup(shellLine(g.Run)))
}

// equipSSH makes the command one that ssh runs on the host. Key and
// certificate are in the errand's own folder, so that no other grant's are
// touched, and ssh has a connection of its own, which ends with it.
func equipSSH(a *app, e *errand, s access.Status, k kept) error {
	c, err := acceptable(s, k)
	if err != nil {
		return err
	}
	base := filepath.Join(e.dir, "id")
	identity := base
	if k.key == nil {
		identity = k.Identity
	} else if err := writeKey(base, k.key, c.KeyId); err != nil {
		return err
	}
	if err := writeFile(base+"-cert.pub", ssh.MarshalAuthorizedKey(c)); err != nil {
		return err
	}
	w := wish{resource: k.Resource, login: k.request.Login}
	e.argv = sshCommandLine(base, identity, w, append([]string{"-o", "ControlMaster=no", "-o", "ControlPath=none"}, e.argv...))
	e.ends = s.Credential.Handle.NotAfter
	return nil
}

// equipVault fetches the secret and fills the templates with it.
func equipVault(a *app, e *errand, s access.Status, k kept) error {
	c, err := a.unseal(e.folder, s, k)
	if err != nil {
		return err
	}
	e.ends = c.Ends
	return e.templates.fill(e, c.fields())
}

// environ is the environment of the commands that hallpass runs: everything
// but the user's own signing key.
func environ() []string {
	return slices.DeleteFunc(os.Environ(), func(s string) bool { return strings.HasPrefix(s, envKeyData+"=") })
}
