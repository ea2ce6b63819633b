package vault

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/vault/api"

	"hallpass/access"
	"hallpass/catalog"
)

// Finding is what Check found of one part. Err is nil if it is in order.
type Finding struct {
	Part   string
	Detail string // one line: what is there
	Err    error  // *access.Error with a hint where there is one, or *Failure
}

const (
	setUp    = "run what this prints, as an operator of Vault: hallpass vault setup --print"
	ends     = "give its role a default_ttl of at most that; see \"While Vault is away\" in docs/vault.md"
	sessions = "see \"Sessions that are open\" in docs/vault.md for statements that do"
)

const (
	checkLife = time.Minute // of what a check mints, and of what is read with it
	// leaseLife is longer than leases may be, so that a check sees how long those
	// are. What was being read when Vault crashed lives so long at most.
	leaseLife = access.MaxVault + time.Hour

	checkName = "hallpass-check"
)

func checkMeta() map[string]string { return map[string]string{"hallpass_check": "true"} }

// wrong is a finding that somebody has to see to.
func wrong(part, hint, format string, args ...any) Finding {
	return Finding{Part: part, Err: access.Errorf(access.CodeDenied, format, args...).WithHint("%s", hint)}
}

// Check finds out whether Vault was told what the plan of these resources
// says, and whether that does what it should: it mints a token for each
// action, reads with it once, and revokes it. With an operator's token it sees
// more of how engines are set up and can't see what the issuer may do.
func (c *Client) Check(ctx context.Context, resources []access.Resource, tokenRole string) []Finding {
	var all []Finding
	plan := NewPlan(resources, c.config, tokenRole)
	if err := c.as(ctx, func(ctx context.Context, client *api.Client) error {
		_, err := client.Auth().Token().LookupSelfWithContext(ctx)
		return err
	}); err != nil {
		return append(all, Finding{Part: "login", Err: err})
	}
	by := "as the issuer, by " + c.config.Auth
	if c.config.Token != "" {
		by = "by an operator's token: what the issuer itself may do is not looked at"
	}
	roles := c.checkRoles(ctx, plan)
	all = append(all, Finding{Part: "login", Detail: c.config.Address + ", " + by}, roles)
	if c.config.Token == "" {
		all = append(all, c.checkIssuer(ctx, plan))
	} else if f := c.checkLeft(ctx, plan); f.Err != nil {
		all = append(all, f)
	}
	if roles.Err != nil {
		return append(all, wrong("actions", setUp, "none is looked at: as long as the token role is wrong, or can't be read, nobody knows what would end what is read"))
	}
	for _, r := range resources {
		if r.Kind != catalog.KindVault {
			continue
		}
		for _, action := range r.Actions {
			all = append(all, c.checkAction(ctx, plan, r, action))
		}
	}
	return all
}

// as calls f once.
func (c *Client) as(ctx context.Context, f func(context.Context, *api.Client) error) error {
	s, err := c.session(ctx)
	if err != nil {
		return err
	}
	return c.explain(f(ctx, s.api))
}

// read reads a path, as JSON objects are. ok is false if nothing is there or
// it may not be read.
func (c *Client) read(ctx context.Context, path string) (data map[string]any, ok bool, err error) {
	var secret *api.Secret
	err = c.as(ctx, func(ctx context.Context, client *api.Client) (err error) {
		secret, err = client.Logical().ReadWithContext(ctx, path)
		return err
	})
	switch {
	case Status(err) == http.StatusForbidden:
		return nil, false, err
	case err != nil:
		return nil, false, err
	case secret == nil:
		return nil, false, nil
	}
	return secret.Data, true, nil
}

// checkRoles looks at the token roles, and at the policy of grants' own tokens.
func (c *Client) checkRoles(ctx context.Context, plan Plan) Finding {
	const part = "token role"
	for _, role := range plan.Roles {
		if f := c.checkRole(ctx, part, role); f.Err != nil {
			return f
		}
	}
	if f := c.checkPolicy(ctx, plan, part, plan.Grant.Name); f.Err != nil {
		return f
	}
	return Finding{Part: part, Detail: plan.TokenRole + " mints for the catalog's policies alone"}
}

// checkRole compares a token role with the plan's.
func (c *Client) checkRole(ctx context.Context, part string, role Role) Finding {
	data, ok, err := c.read(ctx, role.Path())
	switch {
	case Status(err) == http.StatusForbidden:
		return wrong(part, setUp, "%s may not be read", role.Path())
	case err != nil:
		return Finding{Part: part, Err: err}
	case !ok:
		return wrong(part, setUp, "there is no token role %s", role.Name)
	}
	// A role that allows more would let the issuer mint for more.
	want := role.Body()
	policies := strings.Split(fmt.Sprint(want[mintable]), ",")
	allowed := append(texts(data["allowed_policies"]), texts(data["allowed_policies_glob"])...)
	if len(allowed) == 0 {
		return wrong(part, setUp, "%s names no policies that it mints for, which to Vault is no bound", role.Name)
	}
	for _, p := range allowed {
		if !slices.Contains(policies, p) {
			return wrong(part, setUp, "%s allows the policy %s, which is none of the catalog's: the issuer could get at all that it opens", role.Name, p)
		}
	}
	if aliases := texts(data["allowed_entity_aliases"]); len(aliases) > 0 {
		return wrong(part, setUp, "%s makes tokens with the rights of %s", role.Name, strings.Join(aliases, ", "))
	}
	for _, want := range []Parameter{
		{"path_suffix", ""}, {"token_type", fmt.Sprint(want["token_type"])}, {"orphan", fmt.Sprint(want["orphan"])}, {"renewable", "false"}, {"token_no_default_policy", "true"},
		{"token_period", "0"}, {"token_num_uses", "0"}, {"token_explicit_max_ttl", fmt.Sprint(int(access.MaxVault.Seconds()))},
	} {
		got, have := data[want.Name]
		if !have && want.Value == "0" {
			got = "0" // as Vault leaves out what isn't set
		}
		if fmt.Sprint(got) != want.Value {
			return wrong(part, setUp, "%s has %s=%v, it should be %s", role.Name, want.Name, got, want.Value)
		}
	}
	return Finding{Part: part}
}

// checkLeft looks for policies of what isn't in the catalog any more, where it
// may. The token role doesn't mint for them; but they are there to be named by
// something else.
func (c *Client) checkLeft(ctx context.Context, plan Plan) Finding {
	const part = "policies"
	var list *api.Secret
	err := c.as(ctx, func(ctx context.Context, client *api.Client) (err error) {
		list, err = client.Logical().ListWithContext(ctx, "sys/policies/acl")
		return err
	})
	switch {
	case Status(err) == http.StatusForbidden || err == nil && list == nil:
		return Finding{Part: part}
	case err != nil:
		return Finding{Part: part, Err: err}
	}
	var left []string
	for _, name := range texts(list.Data["keys"]) {
		if strings.HasPrefix(name, GrantPrefix(plan.TokenRole)) && !slices.Contains(plan.policies(), name) {
			left = append(left, name)
		}
	}
	if len(left) == 0 {
		return Finding{Part: part}
	}
	const most = 5
	more := ""
	if n := len(left); n > most {
		left, more = left[:most], fmt.Sprintf(" and %d more", n-most)
	}
	return wrong(part, setUp, "the catalog doesn't name what these open any more: %s%s", strings.Join(left, ", "), more)
}

// checkIssuer tries what the issuer must not be able to do, and what the tokens
// must not that it mints.
func (c *Client) checkIssuer(ctx context.Context, plan Plan) Finding {
	const part = "issuer"
	tokenRole := plan.TokenRole
	own, grant, opens := "auth/token/create/"+tokenRole, "auth/token/create/"+GrantRole(tokenRole), plan.policies()[0]
	minted, err := c.mint(ctx, c.as, own, map[string]any{"policies": []string{GrantRole(tokenRole)}, "ttl": access.MaxVault.String()}, "")
	if s := Status(err); s == http.StatusForbidden || s == http.StatusBadRequest || s == http.StatusNotFound {
		return wrong(part, setUp, "it can't mint by the token role: %v", err)
	}
	if err != nil {
		return Finding{Part: part, Err: err}
	}
	byGrant := func(ctx context.Context, f func(context.Context, *api.Client) error) error {
		client, err := c.client(minted.token)
		if err != nil {
			return err
		}
		return c.explain(f(ctx, client))
	}
	f := Finding{Part: part, Detail: "can mint wrapped tokens by the token role, and no others"}
	if minted.lasts < access.MaxVault {
		f = wrong(part, "raise it: vault auth tune -max-lease-ttl=24h token", "vault's max_lease_ttl lets a token live for %s, and a grant may last %s",
			access.ShortDuration(minted.lasts), access.ShortDuration(access.MaxVault))
	}
	for _, try := range []struct {
		what             string
		as               func(context.Context, func(context.Context, *api.Client) error) error
		path, kind, name string
		wrap             string
	}{
		{"mint a token that reads and isn't wrapped", c.as, own, "service", opens, ""},
		{"mint a token that reads and isn't a grant's", c.as, grant, "batch", opens, "60s"},
		{"mint a token without the token role", c.as, "auth/token/create", "service", opens, "60s"},
		{"mint a token for the policy default", c.as, own, "service", "default", "60s"},
		{"mint a token for its own policy", c.as, own, "service", IssuerPolicy(tokenRole), "60s"},
		{"mint a token for the policy root", c.as, own, "service", "root", "60s"},
		{"mint a token that isn't wrapped", byGrant, grant, "batch", opens, ""},
		{"mint a token whose secrets outlive it", byGrant, grant, "service", opens, "60s"},
		{"mint a token for what the catalog doesn't name", byGrant, grant, "batch", GrantPrefix(tokenRole) + "no.such@action", "60s"},
	} {
		got, err := c.mint(ctx, try.as, try.path, map[string]any{"type": try.kind, "policies": []string{try.name}}, try.wrap)
		switch Status(err) {
		case http.StatusForbidden, http.StatusBadRequest:
			continue
		}
		if err != nil {
			f = Finding{Part: part, Err: err}
			break
		}
		if got.accessor != "" {
			err = c.revoke(ctx, got.accessor)
		}
		f = wrong(part, setUp, "it can %s%s", try.what, andNot(err))
		break
	}
	if err := c.revoke(ctx, minted.accessor); err != nil && f.Err == nil {
		f = Finding{Part: part, Err: err}
	}
	return f
}

func andNot(err error) string {
	if err == nil {
		return ""
	}
	return ", and the token of this test couldn't be revoked: " + err.Error()
}

// mintedOne is a token that was minted.
type mintedOne struct {
	accessor string
	token    string // itself, or what it is wrapped in
	lasts    time.Duration
}

// mint makes a token, short-lived unless body says otherwise.
func (c *Client) mint(ctx context.Context, as func(context.Context, func(context.Context, *api.Client) error) error, path string, body map[string]any, wrap string) (mintedOne, error) {
	fields := map[string]any{"ttl": checkLife.String(), "no_default_policy": true, "display_name": checkName, "meta": checkMeta()}
	maps.Copy(fields, body)
	if fields["type"] == "batch" {
		fields["ttl"] = "1s" // nothing else ends one
	}
	var secret *api.Secret
	err := as(ctx, func(ctx context.Context, client *api.Client) (err error) {
		wrapping := client.WithRequestCallbacks(func(r *api.Request) { r.WrapTTL = wrap })
		secret, err = wrapping.Logical().WriteWithContext(ctx, path, fields)
		return err
	})
	switch {
	case err != nil:
		return mintedOne{}, err
	case secret != nil && secret.WrapInfo != nil:
		return mintedOne{accessor: secret.WrapInfo.WrappedAccessor, token: secret.WrapInfo.Token}, nil
	case secret != nil && secret.Auth != nil:
		return mintedOne{secret.Auth.Accessor, secret.Auth.ClientToken, time.Duration(secret.Auth.LeaseDuration) * time.Second}, nil
	}
	return mintedOne{}, errors.New("vault gives no token")
}

func (c *Client) revoke(ctx context.Context, accessor string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.config.Timeout)
	defer cancel()
	err := c.as(ctx, func(ctx context.Context, client *api.Client) error {
		return client.Auth().Token().RevokeAccessorWithContext(ctx, accessor)
	})
	if Gone(err) {
		return nil
	}
	return err
}

// checkAction looks at the action's policy, gets its secret once, and takes it
// back.
func (c *Client) checkAction(ctx context.Context, plan Plan, r access.Resource, action string) (f Finding) {
	part, name := r.Name+" "+action, PolicyName(plan.TokenRole, r, action)
	if f := c.checkPolicy(ctx, plan, part, name); f.Err != nil {
		return f
	}
	minted, err := c.Mint(ctx, plan.TokenRole, Spec{Policies: []string{name}, Life: leaseLife, Own: checkLife, Name: checkName, Meta: checkMeta()})
	defer func() {
		if minted.Accessor == "" {
			return
		}
		if err := c.revoke(ctx, minted.Accessor); err != nil && f.Err == nil {
			f = Finding{Part: part, Err: err}
		}
	}()
	if s := Status(err); s == http.StatusForbidden || s == http.StatusBadRequest || s == http.StatusNotFound {
		return wrong(part, setUp, "no token can be minted for it: %v", err)
	}
	if err != nil {
		return Finding{Part: part, Err: err}
	}
	life, f := c.checkRead(ctx, part, name, r, action, minted.Wrapping)
	if f.Err != nil {
		return f
	}
	if life > access.MaxVault {
		return wrong(part, ends, "what %s gives lasts longer than %[2]s, and no grant is longer than %[2]s: it would live on so long if Vault is away when the grant ends",
			r.VaultPath(action), access.ShortDuration(access.MaxVault))
	}
	f = c.checkDatabase(ctx, part, r, action, life)
	if f.Err == nil {
		f.Detail = strings.TrimSpace(fmt.Sprintf("%s gives a lease of %s, and it was revoked. %s", r.VaultPath(action), about(life), f.Detail))
	}
	return f
}

// checkPolicy compares an action's policy with the plan's.
func (c *Client) checkPolicy(ctx context.Context, plan Plan, part, name string) Finding {
	data, ok, err := c.read(ctx, "sys/policies/acl/"+name)
	switch {
	case Status(err) == http.StatusForbidden:
		return wrong(part, setUp, "the policy %s may not be read", name)
	case err != nil && Status(err) != http.StatusNotFound:
		return Finding{Part: part, Err: err}
	case !ok:
		return wrong(part, setUp, "there is no policy %s", name)
	}
	for _, p := range plan.Policies() {
		if text, _ := data["policy"].(string); p.Name == name && strings.TrimSpace(text) != strings.TrimSpace(p.Text) {
			return wrong(part, setUp, "the policy %s is not what the catalog asks for", name)
		}
	}
	return Finding{Part: part}
}

// checkRead unwraps a token and reads with it, as a requester does. It says how
// long what it got would last if nobody revoked it.
func (c *Client) checkRead(ctx context.Context, part, name string, r access.Resource, action, wrapping string) (life time.Duration, f Finding) {
	bad := func(f Finding) (time.Duration, Finding) { return 0, f }
	client, err := c.client("")
	if err != nil {
		return bad(Finding{Part: part, Err: err})
	}
	ctx, cancel := context.WithTimeout(ctx, 6*c.config.Timeout) // some clouds take their time
	defer cancel()
	token, err := client.Logical().UnwrapWithContext(ctx, wrapping)
	if err != nil {
		return bad(Finding{Part: part, Err: c.explain(err)})
	}
	if token == nil || token.Auth == nil {
		return bad(wrong(part, setUp, "what was minted for it is not a token"))
	}
	if p := token.Auth.TokenPolicies; len(p) != 1 || p[0] != name {
		return bad(wrong(part, setUp, "a token minted for it has the policies %s", strings.Join(p, ", ")))
	}
	client.SetToken(token.Auth.ClientToken)
	path := r.VaultPath(action)
	var secret *api.Secret
	if with := r.Roles[action].With; with == nil {
		secret, err = client.Logical().ReadWithContext(ctx, path)
	} else {
		data := map[string]any{}
		for name, value := range with {
			data[name] = value
		}
		secret, err = client.Logical().WriteWithContext(ctx, path, data)
	}
	if err = c.explain(err); err != nil {
		switch Status(err) {
		case http.StatusForbidden:
			return bad(wrong(part, setUp, "a token minted for it doesn't get at %s: is there such a mount? (%v)", path, err))
		case http.StatusBadRequest, http.StatusNotFound, http.StatusMethodNotAllowed:
			return bad(wrong(part, "name a mount and role that Vault has in catalog.yaml", "there is no secret at %s: %v", path, err))
		}
		return bad(Finding{Part: part, Err: err})
	}
	if secret == nil {
		return bad(wrong(part, "name a mount and role that Vault has in catalog.yaml", "there is nothing at %s", path))
	}
	if secret.LeaseID == "" {
		return bad(wrong(part, "only engines whose secrets have leases can be granted: database, aws, kubernetes, rabbitmq and others, and pki with generate_lease",
			"what %s gives has no lease, so it can't be taken back", path))
	}
	return time.Duration(secret.LeaseDuration) * time.Second, Finding{Part: part}
}

// checkDatabase looks at how a login of a database engine is taken back. For
// other engines, and where it may not look, it has nothing to say.
func (c *Client) checkDatabase(ctx context.Context, part string, r access.Resource, action string, life time.Duration) Finding {
	mount, ok := strings.CutSuffix(r.Path, "/creds")
	if !ok {
		return Finding{Part: part}
	}
	role := r.Roles[action].Role
	data, ok, err := c.read(ctx, mount+"/roles/"+role)
	if err != nil && Status(err) == http.StatusForbidden {
		return Finding{Part: part, Detail: "Whether open sessions end is not looked at: an operator's VAULT_TOKEN can read " + mount + "/roles/" + role + "."}
	}
	db, isDB := data["db_name"].(string)
	if err != nil || !ok || !isDB {
		return Finding{Part: part}
	}
	config, _, err := c.read(ctx, mount+"/config/"+db)
	if plugin, _ := config["plugin_name"].(string); err != nil || !strings.Contains(plugin, "postgres") {
		return Finding{Part: part, Detail: "Whether open sessions end is for its revocation statements to say."}
	}
	statements := strings.Join(texts(data["revocation_statements"]), "\n")
	switch {
	case strings.TrimSpace(statements) == "":
		return wrong(part, sessions, "the role %s has no revocation_statements: sessions that are open stay open when the grant ends", role)
	case !strings.Contains(statements, "pg_terminate_backend"):
		return wrong(part, sessions, "the revocation_statements of the role %s don't end sessions (pg_terminate_backend): those that are open stay open when the grant ends", role)
	}
	creation := strings.Join(texts(data["creation_statements"]), "\n")
	if !strings.Contains(strings.ToUpper(creation), "VALID UNTIL") || !strings.Contains(creation, "{{expiration}}") {
		return wrong(part, "let them say VALID UNTIL '{{expiration}}'; see \"While Vault is away\" in docs/vault.md",
			"the creation_statements of the role %s give its logins no end of their own: one that Vault can't take back works for ever", role)
	}
	f := Finding{Part: part, Detail: fmt.Sprintf("Its revocation statements end open sessions. If Vault is away when a grant ends, its login works until Vault is back, at most until %s after it was read.",
		about(life))}
	if life < access.MaxVault {
		f.Detail += " It does not work for longer than that in a longer grant either."
	}
	return f
}

// about is a duration without the seconds that Vault took.
func about(d time.Duration) string {
	if d > time.Minute {
		d = d.Round(time.Minute)
	}
	return access.ShortDuration(d)
}

// texts is a list of strings as the api package has it.
func texts(v any) []string {
	list, _ := v.([]any)
	var out []string
	for _, x := range list {
		if s, ok := x.(string); ok {
			out = append(out, s)
		}
	}
	return out
}
