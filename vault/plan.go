package vault

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"hallpass/access"
	"hallpass/catalog"
)

// What hallpass calls its own in Vault. The token role can mint for the policies
// of the plan and for no others, so whatever can use it can get at what the
// catalog named when Vault was told last, and at nothing else.
//
// All names begin with the token role's, so that several hallpasses can share a
// Vault, each with a token role of its own.
const DefaultTokenRole = "hallpass"

// grants is what stands between a token role's name and what its policies open.
const grants = "-grant-"

// CheckTokenRole refuses names whose policies could be taken for another's, and
// capitals: Vault's policies have none, and so two names would be one.
func CheckTokenRole(name string) error {
	if name != strings.ToLower(name) {
		return access.Errorf(access.CodeMalformed, "%q has capitals, which the names of Vault's policies haven't", name)
	}
	if strings.Contains(name, grants) || strings.HasSuffix(name, strings.TrimSuffix(grants, "-")) {
		return access.Errorf(access.CodeMalformed, "%q has %q in it, which begins the names of policies", name, strings.TrimSuffix(grants, "-"))
	}
	return nil
}

// GrantPrefix is what the names of all policies begin with that a token role
// has ever minted for.
func GrantPrefix(tokenRole string) string { return tokenRole + grants }

// GrantRole is the token role that makes what grants hand out, and the policy of
// the grants' own tokens, which opens that role and nothing else. No other token
// role can have that name (CheckTokenRole).
func GrantRole(tokenRole string) string { return strings.TrimSuffix(GrantPrefix(tokenRole), "-") }

// IssuerPolicy is the issuer's own.
func IssuerPolicy(tokenRole string) string { return tokenRole + "-issuer" }

// PolicyName is the policy of one action of a resource. Names of resources
// have no "@", so no two actions share one.
func PolicyName(tokenRole string, r access.Resource, action string) string {
	return GrantPrefix(tokenRole) + r.ShortName() + "@" + action
}

// Policy is one of Vault's policies.
type Policy struct {
	Name string `json:"name"`
	Text string `json:"text"` // in Vault's own language
}

// Role is one of Vault's token roles.
type Role struct {
	Name       string      `json:"name"`
	Parameters []Parameter `json:"parameters"`
}

// Parameter is one parameter of a role in Vault.
type Parameter struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// Path is where Vault keeps the role.
func (r Role) Path() string { return "auth/token/roles/" + r.Name }

// Body is what is written there.
func (r Role) Body() map[string]any {
	body := map[string]any{}
	for _, p := range r.Parameters {
		body[p.Name] = p.Value
	}
	return body
}

// Plan is what Vault has to be told for a catalog.
type Plan struct {
	Grants    []Policy `json:"grants"` // one for each action
	Grant     Policy   `json:"grant"`  // of the grants' own tokens
	Issuer    Policy   `json:"issuer"`
	TokenRole string   `json:"token_role"`
	Roles     []Role   `json:"roles"` // the token role, and GrantRole
	config    Config
}

// Policies are all of the plan.
func (p Plan) Policies() []Policy { return append(slices.Clone(p.Grants), p.Grant, p.Issuer) }

// NewPlan makes the plan for the resources of kind vault.
func NewPlan(resources []access.Resource, config Config, tokenRole string) Plan {
	p := Plan{TokenRole: tokenRole, config: config}
	for _, r := range resources {
		if r.Kind != catalog.KindVault {
			continue
		}
		for _, action := range r.Actions {
			p.Grants = append(p.Grants, Policy{Name: PolicyName(tokenRole, r, action), Text: grantPolicy(r, action)})
		}
	}
	p.Roles = []Role{
		// A grant's own token stands by itself (orphan): it outlives the issuer's login.
		{tokenRole, roleParameters("service", true, []string{GrantRole(tokenRole)})},
		{GrantRole(tokenRole), roleParameters("default-batch", false, p.policies())},
	}
	p.Grant = Policy{Name: GrantRole(tokenRole), Text: mintPolicy(tokenRole)}
	p.Issuer = Policy{Name: IssuerPolicy(tokenRole), Text: issuerPolicy(tokenRole, access.VaultPaths(resources))}
	return p
}

// policies are the names of those that tokens are minted for.
func (p Plan) policies() []string {
	names := make([]string, 0, len(p.Grants))
	for _, g := range p.Grants {
		names = append(names, g.Name)
	}
	if len(names) == 0 {
		return []string{GrantPrefix(p.TokenRole) + "none"} // to Vault, a role without a list has no bound
	}
	return names
}

// mintable is the token role's parameter with the policies that it mints for,
// with commas between.
const mintable = "allowed_policies"

// roleParameters are a token role's. Whoever may use it can't get more than
// this out of it: each policy is named, so that what is out of the catalog, or
// another hallpass's, can't be minted for, even while its policy is there.
func roleParameters(kind string, orphan bool, policies []string) []Parameter {
	return []Parameter{
		{mintable, strings.Join(policies, ",")},
		{"allowed_policies_glob", ""}, // whatever somebody has put there
		{"orphan", fmt.Sprint(orphan)},
		{"renewable", "false"},
		{"token_type", kind},
		{"token_no_default_policy", "true"},
		{"allowed_entity_aliases", ""}, // nobody's own rights
		{"path_suffix", ""},            // by its path hallpass knows what is its own
		{"token_explicit_max_ttl", fmt.Sprintf("%ds", int(access.MaxVault.Seconds()))}, // Vault holds service tokens to it
	}
}

// mintPolicy lets a grant's own token make what the grant hands out: a batch
// token, and only wrapped, so that the issuer doesn't see it.
func mintPolicy(tokenRole string) string {
	return fmt.Sprintf("# A grant's own token makes the one that the grant hands out, and can do nothing else.\n"+
		"path \"auth/token/create/%s\" {\n  capabilities = [\"create\", \"update\"]\n  min_wrapping_ttl = \"1s\"\n  max_wrapping_ttl = \"%ds\"\n"+
		"  required_parameters = [\"type\", \"ttl\"]\n  allowed_parameters = {\n    \"type\" = [\"batch\"]\n"+
		"    \"ttl\" = []\n    \"policies\" = []\n    \"no_default_policy\" = []\n    \"display_name\" = []\n    \"meta\" = []\n  }\n}\n",
		GrantRole(tokenRole), int(access.MaxVault.Seconds()))
}

// grantPolicy opens one path, in one way, and lets the token look at itself.
func grantPolicy(r access.Resource, action string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "# %s of %s\npath %q {\n", action, r.Name, r.VaultPath(action))
	switch with := r.Roles[action].With; {
	case with == nil:
		b.WriteString("  capabilities = [\"read\"]\n")
	case len(with) == 0:
		b.WriteString("  capabilities = [\"create\", \"update\"]\n  denied_parameters = {\n    \"*\" = []\n  }\n")
	default:
		names := slices.Sorted(maps.Keys(with))
		fmt.Fprintf(&b, "  capabilities = [\"create\", \"update\"]\n  required_parameters = [%s]\n  allowed_parameters = {\n", quoted(names))
		for _, name := range names {
			fmt.Fprintf(&b, "    %q = [\"%s\"]\n", name, with[name])
		}
		b.WriteString("  }\n")
	}
	b.WriteString("}\n")
	own(&b, "lookup-self", "read")
	return b.String()
}

// issuerPolicy lets the issuer mint by the token role, and revoke: tokens, and
// leases of the catalog's paths. Vault has no way to say "revoke only those":
// whoever has this policy can end any token, and open nothing.
func issuerPolicy(tokenRole string, paths []string) string {
	var b strings.Builder
	b.WriteString("# What it mints reads nothing: see the policy " + GrantRole(tokenRole) + ".\n")
	own(&b, "create/"+tokenRole, "create", "update")
	own(&b, "revoke-accessor", "create", "update")
	own(&b, "lookup-accessor", "create", "update")
	own(&b, "lookup-self", "read")
	own(&b, "renew-self", "create", "update")
	mint := "auth/token/create/" + tokenRole + "/"
	leases := []string{mint + "*"}
	for _, p := range paths {
		leases = append(leases, p+"/*")
	}
	fmt.Fprintf(&b, "# Where Vault crashed while it revoked a token, what is left of it has a lease here. A secret that\n"+
		"# was being made when its grant ended, or when Vault crashed, has one that is of no token.\n"+
		"path \"sys/leases/lookup/%s\" {\n  capabilities = [\"list\", \"sudo\"]\n}\n"+
		"path \"sys/leases/revoke\" {\n  capabilities = [\"create\", \"update\"]\n  allowed_parameters = {\n    \"lease_id\" = [%s]\n    \"sync\" = []\n  }\n}\n"+
		"path \"sys/leases/lookup\" {\n  capabilities = [\"create\", \"update\"]\n  allowed_parameters = {\n    \"lease_id\" = [%s]\n  }\n}\n",
		mint, quoted(leases), quoted(leases))
	b.WriteString("# For hallpass vault check.\n")
	own(&b, "roles/"+tokenRole, "read")
	own(&b, "roles/"+GrantRole(tokenRole), "read")
	fmt.Fprintf(&b, "path \"sys/policies/acl/%s\" {\n  capabilities = [\"read\"]\n}\n", GrantRole(tokenRole))
	fmt.Fprintf(&b, "path \"sys/policies/acl/%s*\" {\n  capabilities = [\"read\"]\n}\n", GrantPrefix(tokenRole))
	b.WriteString("# For the sweep: what is alive, and whose it is.\n")
	own(&b, "accessors", "list", "sudo")
	own(&b, "accessors/", "list", "sudo")
	for _, p := range paths {
		fmt.Fprintf(&b, "path \"sys/leases/lookup/%s\" {\n  capabilities = [\"list\", \"sudo\"]\n}\n", p+"/")
	}
	return b.String()
}

// own is a rule for one of the token store's paths.
func own(b *strings.Builder, path string, capabilities ...string) {
	fmt.Fprintf(b, "path \"auth/token/%s\" {\n  capabilities = [%s]\n}\n", path, quoted(capabilities))
}

func quoted(words []string) string {
	if len(words) == 0 {
		return ""
	}
	return `"` + strings.Join(words, `", "`) + `"`
}

// Script is the plan as a shell script of vault commands. It can be run again.
func (p Plan) Script() string {
	var b strings.Builder
	b.WriteString("# What hallpass needs in Vault, from its catalog. Run it as an operator of Vault,\n" +
		"# again whenever the catalog's resources of kind vault have changed.\nset -euf\n")
	policy := func(p Policy) {
		fmt.Fprintf(&b, "\nvault policy write '%s' - <<'EOF'\n%sEOF\n", p.Name, p.Text)
	}
	b.WriteString("\n# What each action opens: one path.\n")
	for _, g := range p.Grants {
		policy(g)
	}
	b.WriteString("\n# A grant's own token, one for each request, and with it the token that it hands out.\n")
	policy(p.Grant)
	for _, r := range p.Roles {
		fmt.Fprintf(&b, "\nvault write %s", r.Path())
		for _, x := range r.Parameters {
			values := []string{x.Value}
			if x.Name == mintable {
				values = strings.Split(x.Value, ",") // one argument can't hold as many as there may be
			}
			for _, value := range values {
				fmt.Fprintf(&b, " \\\n  %s='%s'", x.Name, value)
			}
		}
		b.WriteString("\n")
	}
	p.forget(&b)
	b.WriteString("\n\n# The issuer: may mint and revoke, and read none of it.\n")
	policy(p.Issuer)
	b.WriteString("\n")
	p.login(&b)
	return b.String()
}

// forget takes away what the catalog doesn't name any more. The names of
// policies have nothing in them that a shell would make something of.
func (p Plan) forget(b *strings.Builder) {
	b.WriteString("\n# What is out of the catalog: nobody can mint for it any more, and tokens that\n" +
		"# were minted before read nothing more.\npolicies=$(vault policy list)\nfor policy in $policies; do\n  case \"$policy\" in\n")
	for _, name := range p.policies() {
		fmt.Fprintf(b, "    '%s') ;;\n", name)
	}
	fmt.Fprintf(b, "    %s*) vault policy delete \"$policy\" ;;\n  esac\ndone", GrantPrefix(p.TokenRole))
}

// login is how the issuer gets its policy.
func (p Plan) login(b *strings.Builder) {
	mount, auth := p.config.AuthMount, p.config.Auth
	if auth == "" {
		auth = AppRole
	}
	if mount == "" {
		mount = auth
	}
	role := p.config.Role
	if role == "" {
		role = p.TokenRole
	}
	issuer := p.Issuer.Name
	switch auth {
	case AppRole:
		fmt.Fprintf(b, "# Its login. The last command prints issuers.vault.role_id for hallpass.yaml. Where\n"+
			"# the issuer runs, this fills issuers.vault.secret_id_file:\n"+
			"# umask 077; vault write -f -field=secret_id 'auth/%[1]s/role/%[3]s/secret-id' > FILE\n"+
			"vault auth list | grep -q '^%[1]s/' || vault auth enable -path='%[1]s' approle\n"+
			"vault write 'auth/%[1]s/role/%[3]s' \\\n  token_policies='%[2]s' \\\n  token_no_default_policy='true' \\\n  token_ttl='1h' \\\n  token_max_ttl='24h'\n"+
			"vault read -field=role_id 'auth/%[1]s/role/%[3]s/role-id'\n", mount, issuer, p.TokenRole)
	case Token:
		fmt.Fprintf(b, "# Its login: whatever keeps the file issuers.vault.token_file has to put a token\n# there that has the policy %s and, best, no other.\n", issuer)
	case Cert:
		fmt.Fprintf(b, "# Its login: give the role of its certificate below auth/%s/certs/ these.\n# token_policies='%s' token_no_default_policy='true'\n", mount, issuer)
	default:
		fmt.Fprintf(b, "# Its login: give auth/%s/role/%s these, and bind it to the issuer alone.\n# token_policies='%s' token_no_default_policy='true'\n", mount, role, issuer)
	}
}
