package cli

import (
	"cmp"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/vault/api"

	"hallpass/access"
	"hallpass/internal/wording"
	"hallpass/sealed"
	"hallpass/vault"
)

// This is the requester's end of a grant of kind vault. What the service hands
// out is a wrapping token, sealed to the key of the request. It is worth
// nothing to anybody else, and it shows if somebody else had it: a wrapping
// token works once. The address of Vault is this machine's own business, and
// what comes out is believed only as far as Vault itself says so.

// credentials are what a grant is good for, as Vault gave it.
type credentials struct {
	ID       string
	Resource string
	Ends     time.Time // the first of them to end
	Given    []given
}

// given is what one action gave.
type given struct {
	Action string
	Path   string
	Fields map[string]any // without those that are null
	Ends   time.Time      // of its lease; never after the grant's end
}

// fields are what templates see: what the one action gave, or what each gave
// under its name.
func (c credentials) fields() map[string]any {
	if len(c.Given) == 1 {
		return c.Given[0].Fields
	}
	all := map[string]any{}
	for _, g := range c.Given {
		all[g.Action] = g.Fields
	}
	return all
}

// tampering is a sign that what was issued went through other hands. The grant
// has to be given back, with this as the reason.
type tampering struct{ what string }

func (t *tampering) Error() string { return t.what }

// reason is what the service is told of it.
func (t *tampering) reason() string { return "the client says: " + t.what }

// failure is what the user is told of it.
func (t *tampering) failure() *failure {
	return failf(ExitTampered, "%s", t.what).withHint("ask again, and tell those who look after hallpass and Vault")
}

func tamperedf(format string, args ...any) error {
	return &tampering{fmt.Sprintf(format, args...)}
}

// unseal opens what the service hands out for a request, and reads in Vault
// what it is good for. It does so once: the second call says when the first
// one was.
func (a *app) unseal(f *folder, s access.Status, k kept) (credentials, error) {
	unlock, err := f.opening(s.ID)
	if err != nil {
		return credentials{}, err
	}
	defer unlock()
	before, err := f.mark(s.ID)
	if err != nil {
		return credentials{}, err
	}
	if before.Done || k.age == "" {
		return credentials{}, a.openedBefore(s.ID, before, "was opened")
	}
	secret, err := trusted(s, k)
	if err != nil {
		return credentials{}, err
	}
	v, err := a.vault()
	if err != nil {
		return credentials{}, err
	}
	token, err := v.unwrap(f, s, secret, before)
	if err != nil {
		return credentials{}, err
	}
	if err := v.check(s, token); err != nil {
		return credentials{}, err
	}
	c := credentials{ID: s.ID, Resource: k.request.Resource, Ends: s.Credential.Handle.NotAfter}
	for _, r := range secret.Reads {
		g, err := v.read(token, r, s.Credential.Handle.NotAfter)
		if err != nil {
			return credentials{}, err
		}
		if g.Ends.Before(c.Ends) {
			c.Ends = g.Ends
		}
		c.Given = append(c.Given, g)
	}
	return c, nil
}

// openedBefore says that it can't be opened again.
func (a *app) openedBefore(id string, m mark, how string) error {
	when := ""
	if !m.At.IsZero() {
		when = " " + a.err.clock(m.At)
	}
	return failf(ExitError, "what Vault gives for request %s %s%s, and it can't be had twice", id, how, when).
		withHint("give it back and ask again: hallpass release %s", id)
}

// trusted opens what is sealed and compares it with the request.
func trusted(s access.Status, k kept) (sealed.Secret, error) {
	if s.Credential == nil || s.Credential.Handle.Accessor == "" || s.Credential.Handle.Request != s.ID {
		return sealed.Secret{}, tamperedf("what the service hands out for request %s is not of its grant", s.ID)
	}
	secret, err := sealed.Open(k.age, s.Credential.Sealed)
	if err != nil {
		return sealed.Secret{}, tamperedf("what the service hands out for request %s can't be opened: %v", s.ID, err)
	}
	asked := slices.Sorted(slices.Values(k.request.Actions))
	var got []string
	for _, r := range secret.Reads {
		got = append(got, r.Action)
	}
	slices.Sort(got)
	if secret.Request != s.ID || !slices.Equal(asked, got) {
		return sealed.Secret{}, tamperedf("what is sealed for request %s belongs to another one", s.ID)
	}
	return secret, nil
}

// vaultClient talks to Vault with whatever token a call has.
type vaultClient struct {
	a      *app
	client *api.Client
	made   string // where in Vault what grants hand out is made, and by nobody but hallpass's issuer
}

// vault is Vault as this machine's configuration has it, and never as
// something that arrived says.
func (a *app) vault() (*vaultClient, error) {
	cfg, err := a.settings()
	if err != nil {
		return nil, err
	}
	// The standard VAULT_* variables: CA, namespace, proxy, name of the server.
	conf := api.DefaultConfig()
	if conf.Error != nil {
		return nil, fmt.Errorf("read Vault's variables: %w", conf.Error)
	}
	switch {
	case cfg.Vault.Address != "":
		conf.Address, conf.AgentAddress = cfg.Vault.Address, ""
	case a.env(api.EnvVaultAddress) != "":
		conf.Address = a.env(api.EnvVaultAddress)
	case conf.AgentAddress == "":
		return nil, failf(ExitError, "this machine isn't told where Vault is").withHint("set VAULT_ADDR, or vault.address in hallpass.yaml")
	}
	if u, err := conf.ParseAddress(cmp.Or(conf.AgentAddress, conf.Address)); err != nil {
		return nil, fmt.Errorf("address of Vault: %w", err)
	} else if u.Scheme == "http" && !loopback(u.Hostname()) {
		return nil, failf(ExitError, "Vault's address %s is not https, so everybody between could read what Vault gives", u.Redacted())
	}
	conf.MaxRetries = 0 // an unwrapping that is sent twice looks like somebody else's
	client, err := api.NewClient(conf)
	if err != nil {
		return nil, fmt.Errorf("reach Vault: %w", err)
	}
	client.ClearToken() // VAULT_TOKEN is the user's own, for other things
	client.SetMaxRetries(0)
	return &vaultClient{a, client, "auth/token/create/" + vault.GrantRole(cfg.Issuers.Vault.TokenRole)}, nil
}

// loopback says whether a host is this machine.
func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// with makes calls with token.
func (v *vaultClient) with(token string) (*api.Client, error) {
	c, err := v.client.CloneWithHeaders()
	if err != nil {
		return nil, err
	}
	c.SetToken(token)
	return c, nil
}

// unwrap exchanges the wrapping token for the token in it.
func (v *vaultClient) unwrap(f *folder, s access.Status, secret sealed.Secret, before mark) (string, error) {
	gone := func(sent bool) error {
		switch {
		case !v.a.now().Before(s.Credential.Handle.NotAfter):
			return failf(ExitError, "the grant of request %s has ended", s.ID)
		case sent: // and the answer never came
			return tamperedf("what Vault gives for request %s is gone: its answer got lost, or somebody else has opened it", s.ID)
		case !before.At.IsZero():
			return v.a.openedBefore(s.ID, before, "began to be opened")
		}
		return tamperedf("somebody else has opened what Vault gives for request %s", s.ID)
	}
	sent := false
	var token string
	err := v.insist(func(ctx context.Context) error {
		c, err := v.with("")
		if err != nil {
			return err
		}
		info, err := c.Logical().WriteWithContext(ctx, "sys/wrapping/lookup", map[string]any{"token": secret.WrappingToken})
		switch {
		case refused(err):
			return gone(sent)
		case err != nil:
			return err
		case info == nil:
			return gone(sent)
		}
		if path, _ := info.Data["creation_path"].(string); path != v.made {
			return tamperedf("what is sealed for request %s was not made by hallpass's issuer: it comes from %s in Vault, not from %s (issuers.vault.token_role)", s.ID, heard(path), v.made)
		}
		if before.At.IsZero() && !sent {
			if err := f.setMark(s.ID, mark{At: v.a.now().UTC()}); err != nil {
				return err
			}
		}
		if c, err = v.with(secret.WrappingToken); err != nil {
			return err
		}
		answer, err := c.Logical().UnwrapWithContext(ctx, "")
		if refused(err) {
			return gone(sent)
		}
		if sent = true; err != nil {
			return err
		}
		if answer == nil || answer.Auth == nil || answer.Auth.ClientToken == "" {
			return tamperedf("what is sealed for request %s is no token of Vault", s.ID)
		}
		token = answer.Auth.ClientToken
		return nil
	})
	if err != nil {
		return "", err
	}
	return token, f.setMark(s.ID, mark{At: v.a.now().UTC(), Done: true})
}

// check asks Vault whose token it is.
func (v *vaultClient) check(s access.Status, token string) error {
	c, err := v.with(token)
	if err != nil {
		return err
	}
	var self *api.Secret
	err = v.insist(func(ctx context.Context) (err error) {
		self, err = c.Auth().Token().LookupSelfWithContext(ctx)
		return err
	})
	if refused(err) || err == nil && self == nil {
		return failf(ExitError, "the grant of request %s has ended: its token is dead in Vault", s.ID).withHint("hallpass show %s", s.ID)
	}
	if err != nil {
		return err
	}
	// A batch token has no accessor of its own, and what ends it nobody but the
	// issuer could have written.
	kind, _ := self.Data["type"].(string)
	meta, _ := self.Data["meta"].(map[string]any)
	accessor, _ := meta[vault.MetaAccessor].(string)
	request, _ := meta["hallpass_request"].(string)
	switch {
	case kind != "batch":
		return tamperedf("the token for request %s is a %s token, and what is read with it may outlive it", s.ID, heard(kind))
	case accessor != s.Credential.Handle.Accessor:
		return tamperedf("the token for request %s is not the one that is on record", s.ID)
	case request != s.ID:
		return tamperedf("the token for request %s was made for another request", s.ID)
	}
	return nil
}

// read fetches what one action gives.
func (v *vaultClient) read(token string, r sealed.Read, end time.Time) (given, error) {
	c, err := v.with(token)
	if err != nil {
		return given{}, err
	}
	var secret *api.Secret
	err = v.insist(func(ctx context.Context) (err error) {
		if r.With == nil {
			secret, err = c.Logical().ReadWithContext(ctx, r.Path)
			return err
		}
		with := map[string]any{}
		for name, value := range r.With {
			with[name] = value
		}
		secret, err = c.Logical().WriteWithContext(ctx, r.Path, with)
		return err
	})
	switch {
	case err != nil:
		return given{}, fmt.Errorf("%s: %w", r.Action, err)
	case secret == nil || len(secret.Data) == 0:
		return given{}, failf(ExitError, "%s: there is nothing at %s in Vault", r.Action, r.Path).withHint("whoever runs Vault can see with hallpass vault check")
	case secret.LeaseID == "":
		return given{}, failf(ExitError, "%s: what is at %s in Vault has no lease, so it would not end with the grant", r.Action, r.Path).
			withHint("whoever runs Vault can see with hallpass vault check")
	}
	g := given{Action: r.Action, Path: r.Path, Fields: map[string]any{}, Ends: end}
	for name, value := range secret.Data {
		if value != nil {
			g.Fields[name] = value
		}
	}
	if lease := v.a.now().Add(time.Duration(secret.LeaseDuration) * time.Second).UTC(); secret.LeaseDuration > 0 && lease.Before(end) {
		g.Ends = lease
	}
	return g, nil
}

// vaultTimeout is how long one call to Vault may take: an engine may have to
// ask a database or a cloud.
const vaultTimeout = 30 * time.Second

// insist repeats call while Vault is away or sealed, for as long as a command
// has patience. Errors come back in words of ours, on one line, unless they
// are ours already or a refusal.
func (v *vaultClient) insist(call func(context.Context) error) error {
	show := &ticker{p: v.a.err}
	defer show.clear()
	began := v.a.now()
	for delay := firstPoll; ; delay = min(delay*3/2, lastPoll) {
		ctx, cancel := context.WithTimeout(v.a.ctx, vaultTimeout)
		err := call(ctx)
		cancel()
		if v.a.ctx.Err() != nil {
			return v.a.ctx.Err()
		}
		why, away := vaultAway(err)
		if !away {
			return vaultWords(err)
		}
		if v.a.now().Sub(began) >= patience {
			return failf(ExitUnreachable, "Vault at %s %s", v.client.Address(), why)
		}
		show.line("Vault is away; trying again", "")
		if err := v.a.sleep(v.a.ctx, delay); err != nil {
			return err
		}
	}
}

// refused says whether Vault was asked and said no.
func refused(err error) bool {
	var r *api.ResponseError
	if !errors.As(err, &r) {
		return false
	}
	_, away := vaultAway(err)
	return !away
}

// vaultAway says whether Vault may answer otherwise in a while, and why not
// now.
func vaultAway(err error) (why string, away bool) {
	var r *api.ResponseError
	var ours *failure
	var other *tampering
	var foreign *tls.CertificateVerificationError
	switch {
	case err == nil, errors.As(err, &ours), errors.As(err, &other), errors.As(err, &foreign):
		return "", false
	case errors.As(err, &r):
		switch {
		case r.StatusCode == http.StatusServiceUnavailable:
			return "is sealed or not ready", true
		case r.StatusCode == http.StatusTooManyRequests, r.StatusCode == http.StatusPreconditionFailed, r.StatusCode >= 500:
			return fmt.Sprintf("answers %d: %s", r.StatusCode, said(r)), true
		}
		return "", false
	case errors.Is(err, context.DeadlineExceeded):
		return "doesn't answer", true
	}
	var url interface{ Timeout() bool } // *url.Error, and what is in it
	if errors.As(err, &url) {
		return "can't be reached: " + heard(err.Error()), true
	}
	return "", false
}

// vaultWords says what Vault's library says in one line.
func vaultWords(err error) error {
	var r *api.ResponseError
	if errors.As(err, &r) {
		return &saidNo{fmt.Sprintf("Vault refuses (%d): %s", r.StatusCode, said(r)), err}
	}
	var foreign *tls.CertificateVerificationError
	if errors.As(err, &foreign) {
		return failf(ExitError, "Vault's certificate is not good: %s", heard(foreign.Err.Error())).withHint("set VAULT_CACERT to the file of its CA")
	}
	return err
}

// saidNo is a refusal by Vault, in one line.
type saidNo struct {
	line string
	err  error
}

func (e *saidNo) Error() string { return e.line }
func (e *saidNo) Unwrap() error { return e.err }

// said is what Vault said.
func said(r *api.ResponseError) string {
	return heard(strings.Join(r.Errors, "; "))
}

// heard is what others wrote, fit for a part of a line.
func heard(s string) string { return wording.Clip(wording.Line(s), 200) }

// alarm gives a grant back whose credential went through other hands, so that
// the service has it on record, and makes the error of it.
func (a *app) alarm(b backend, me *identity, k kept, t *tampering) error {
	if _, err := a.giveBack(b, me, k, access.TypeRelease, t.reason()); err != nil {
		return t.failure().withHint("end it now: hallpass release %s", k.request.ID)
	}
	return t.failure()
}

// jsonFields is given as programs read it.
func jsonFields(c credentials) map[string]map[string]any {
	all := map[string]map[string]any{}
	for _, g := range c.Given {
		all[g.Action] = g.Fields
	}
	return all
}

// text writes one field for people: text as it is, everything else as JSON.
func text(v any) string {
	switch x := v.(type) {
	case string:
		return x
	case json.Number:
		return x.String()
	}
	data, err := json.Marshal(v)
	if err != nil {
		return ""
	}
	return string(data)
}
