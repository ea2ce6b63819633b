package cli

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"hallpass/access"
	"hallpass/catalog"
	"hallpass/directory"
	"hallpass/internal/wording"
	"hallpass/policy"
)

func (a *app) policyCommand() *cli.Command {
	from := func(more ...cli.Flag) []cli.Flag {
		return append(more,
			&cli.StringFlag{Name: "policy", Usage: "use this `FILE` instead of the configured one", TakesFile: true},
			&cli.StringFlag{Name: "directory", Usage: "use this `FILE` instead of the configured one", TakesFile: true},
			&cli.StringFlag{Name: "catalog", Usage: "use this `FILE` instead of the configured one", TakesFile: true},
		)
	}
	return &cli.Command{
		Name:     "policy",
		Usage:    "check, try out and test the policy",
		Category: categoryOperate,
		Subcommands: []*cli.Command{
			{
				Name:      "check",
				Usage:     "check types, and look for rules that can't do what they seem to",
				ArgsUsage: "[FILE]",
				Flags:     from(),
				Action:    a.policyCheck,
			},
			{
				Name:      "explain",
				Usage:     "say what a request would take, and what becomes of each rule",
				ArgsUsage: "[KIND/NAME]",
				Flags: from(
					&cli.StringFlag{Name: "requester", Usage: "who would ask: `USER`", DefaultText: "you"},
					&cli.StringSliceFlag{Name: "group", Usage: "as if the requester were in `GROUP`, and in no other"},
					&cli.StringFlag{Name: "resource", Usage: "what for: `KIND/NAME`"},
					&cli.StringFlag{Name: "as", Usage: "log in as `LOGIN`"},
					&cli.StringSliceFlag{Name: "action", Usage: "`ACTION` on the resource"},
					&cli.StringFlag{Name: "command", Usage: "the only `COMMAND` to run"},
					&cli.StringFlag{Name: "for", Usage: "how `LONG`, such as 30m or 8h", Value: "30m"},
					&cli.StringFlag{Name: "at", Usage: "not before `TIME`"},
					&cli.StringFlag{Name: "now", Usage: "as if it were `TIME`"},
					&cli.StringFlag{Name: "reason", Usage: "`TEXT`"},
					&cli.StringFlag{Name: "ticket", Usage: "`REFERENCE`"},
					&cli.BoolFlag{Name: "emergency", Usage: "as if it broke the glass"},
					&cli.StringSliceFlag{Name: "approved-by", Usage: "as if `USER` had approved"},
					&cli.StringFlag{Name: "waited", Usage: "as if it had waited so `LONG`: by then others may be asked"},
				),
				Action: a.policyExplain,
			},
			{
				Name:      "test",
				Usage:     "run the cases in *_test.yaml next to the policy",
				ArgsUsage: "[FILE...]",
				Flags:     from(),
				Action:    a.policyTest,
			},
		},
	}
}

// chosen loads a file that a flag names in place of the configured one.
func chosen[T any](into **T, file string, parse func(string, []byte) (*T, error)) error {
	if file == "" {
		return nil
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	*into, err = parse(file, data)
	return err
}

// choose takes the files that flags name.
func (a *app) choose(c *cli.Context, policyFile string) error {
	if err := chosen(&a.setup.directory, c.String("directory"), directory.Parse); err != nil {
		return err
	}
	if err := chosen(&a.setup.catalog, c.String("catalog"), catalog.Parse); err != nil {
		return err
	}
	return chosen(&a.setup.policy, policyFile, policy.Parse)
}

// optional passes on what could be loaded, and nil for what isn't there at
// all. A file that is there and broken is an error.
func optional[T any](v *T, err error) (*T, error) {
	if errors.Is(err, errNotHere) || access.CodeOf(err) == access.CodeNotFound {
		return nil, nil
	}
	return v, err
}

// surroundings are the directory and the catalog, as far as there are any.
func (a *app) surroundings() (dir policy.Directory, cat policy.Catalog, err error) {
	d, err := optional(a.directory())
	if err != nil {
		return nil, nil, err
	}
	if d != nil {
		dir = d
	}
	c, err := optional(a.catalog())
	if err != nil {
		return nil, nil, err
	}
	if c != nil {
		cat = c
	}
	return dir, cat, nil
}

// PolicyCheck is what "policy check" prints as JSON.
type PolicyCheck struct {
	Digest   string          `json:"digest,omitempty"`
	Rules    int             `json:"rules"`
	Linted   bool            `json:"linted"` // against directory and catalog
	Problems policy.Problems `json:"problems"`
}

func (a *app) policyCheck(c *cli.Context) error {
	args, err := arguments(c, "[FILE]")
	if err != nil {
		return err
	}
	file := args[0]
	if file == "" {
		file = c.String("policy")
	}
	out := PolicyCheck{Problems: policy.Problems{}}
	err = a.choose(c, file)
	var pol *policy.Policy
	if err == nil {
		pol, err = a.policy()
	}
	switch {
	case errors.As(err, &out.Problems):
	case err != nil:
		return err
	default:
		dir, cat, err := a.surroundings()
		if err != nil {
			return err
		}
		out.Digest, out.Rules = pol.Digest(), len(pol.Rules())
		if out.Linted = dir != nil && cat != nil; out.Linted {
			out.Problems = append(out.Problems, pol.Lint(dir, cat)...)
		}
	}
	err = a.print(out, func(p *printer) {
		for _, problem := range out.Problems {
			p.Printf("%s\n", problem)
		}
		if len(out.Problems) == 0 {
			p.Printf("%d rules, no problems found\n", out.Rules)
		}
		if out.Digest != "" && !out.Linted {
			p.Printf("only types were checked: there is no directory or no catalog to compare with\n")
		}
	})
	if err == nil && len(out.Problems) > 0 {
		err = failf(ExitError, "the policy has %s", wording.Count(len(out.Problems), "problem"))
	}
	return err
}

// PolicyAnswer is what "policy explain" prints as JSON.
type PolicyAnswer struct {
	policy.Explanation
	Missing   []access.Set        `json:"missing,omitempty"`   // after --approved-by
	Approvers map[string][]string `json:"approvers,omitempty"` // by group, without the requester
}

func (a *app) policyExplain(c *cli.Context) error {
	args, err := arguments(c, "[KIND/NAME]")
	if err != nil {
		return err
	}
	if err := a.choose(c, c.String("policy")); err != nil {
		return err
	}
	pol, err := a.policy()
	if err != nil {
		return err
	}
	dir, cat, err := a.surroundings()
	if err != nil {
		return err
	}
	in, err := a.madeUp(c, args[0], dir, cat)
	if err != nil {
		return err
	}
	explanation, err := pol.Explain(in)
	if err != nil {
		return err
	}
	out := PolicyAnswer{Explanation: explanation}
	var approvers []access.User
	for _, name := range c.StringSlice("approved-by") {
		u, err := known(dir, "--approved-by", name)
		if err != nil {
			return err
		}
		if name == in.Requester.Name {
			return usagef("nobody approves his own request: %s", name)
		}
		approvers = append(approvers, u)
	}
	var waited time.Duration
	if c.IsSet("waited") {
		if waited, err = access.ParseDuration(c.String("waited")); err != nil || waited < 0 {
			return usagef("--waited %s is not how long a request waits, such as 10m", c.String("waited"))
		}
	}
	if out.Ruling.Effect == access.EffectAsk {
		out.Missing = policy.Missing(out.Ruling.Needs, waited, policy.Voters(approvers, waited))
		out.Approvers = whoCan(out.Missing, dir, append(approvers, in.Requester))
	}
	return a.print(out, func(p *printer) { explainText(p, out, in) })
}

// madeUp is the request that the flags describe.
func (a *app) madeUp(c *cli.Context, resource string, dir policy.Directory, cat policy.Catalog) (in policy.Input, err error) {
	if resource == "" {
		resource = c.String("resource")
	}
	requester := c.String("requester")
	if requester == "" {
		if me, err := a.whoami(); err == nil {
			requester = me.Name
		}
	}
	if resource == "" || requester == "" {
		return in, usagef("say who asks for what").withHint("%s --requester alice --resource ssh/web-1 --as deploy --for 30m", c.Command.HelpName)
	}
	if groups := c.StringSlice("group"); groups != nil {
		in.Requester = access.User{Name: requester, Groups: groups}
	} else if in.Requester, err = known(dir, "--requester", requester); err != nil {
		return in, err
	}
	if cat == nil {
		return in, failf(ExitError, "there is no catalog to find %s in", resource).withHint("name one with --catalog FILE")
	}
	var ok bool
	if in.Resource, ok = cat.Resource(resource); !ok {
		return in, access.Errorf(access.CodeNotFound, "there is no resource %s in the catalog", resource)
	}
	in.Now = a.now().UTC()
	if c.IsSet("now") {
		now, err := a.parseTime("--now", c.String("now"))
		if err != nil {
			return in, err
		}
		in.Now = now.UTC()
	}
	d, err := access.ParseDuration(c.String("for"))
	if err != nil {
		return in, err
	}
	in.Request = access.Request{
		Header:   access.Header{Type: access.TypeRequest, Signer: in.Requester.Name, Time: in.Now.Truncate(time.Second)},
		Resource: resource, Login: c.String("as"), Actions: c.StringSlice("action"), Command: c.String("command"),
		Duration: access.InSeconds(d), Reason: c.String("reason"), Ticket: c.String("ticket"),
	}
	if c.Bool("emergency") {
		in.Request.Mode = access.ModeEmergency
	}
	if c.IsSet("at") {
		if in.Request.Start, err = a.parseTime("--at", c.String("at")); err != nil {
			return in, err
		}
	}
	if in.Request.Login == "" && len(in.Resource.Logins) == 1 {
		in.Request.Login = in.Resource.Logins[0]
	}
	return in, nil
}

func known(dir policy.Directory, flag, name string) (access.User, error) {
	if dir == nil {
		return access.User{}, failf(ExitError, "there is no directory to find %s in", name).withHint("name one with --directory FILE, or groups with --group")
	}
	u, ok := dir.User(name)
	if !ok {
		return access.User{}, access.Errorf(access.CodeNotFound, "there is no user %s in the directory (%s)", name, flag)
	}
	return u, nil
}

// whoCan lists by group who could give what is missing.
func whoCan(missing []access.Set, dir policy.Directory, but []access.User) map[string][]string {
	if dir == nil {
		return nil
	}
	out := map[string][]string{}
	for _, s := range missing {
		for _, g := range s.Groups {
			out[g] = slices.DeleteFunc(dir.Members(g), func(name string) bool {
				return slices.ContainsFunc(but, func(u access.User) bool { return u.Name == name })
			})
		}
	}
	return out
}

func explainText(p *printer, out PolicyAnswer, in policy.Input) {
	r := out.Ruling
	effect, why := string(r.Effect), r.Why
	if r.Effect == access.EffectAsk {
		if why = "needs " + policy.Describe(out.Missing); out.Missing == nil {
			effect, why = string(access.EffectAllow), "all approvals are there"
		}
	}
	mark := map[string]string{"allow": "32", "ask": "33", "deny": "31"}[effect]
	p.Printf("%s  %s\n", p.style(mark, effect), why)
	var who []string
	for _, g := range slices.Sorted(maps.Keys(out.Approvers)) {
		names := strings.Join(out.Approvers[g], ", ")
		if names == "" {
			names = "nobody else"
		}
		who = append(who, g+": "+names)
	}
	at := ""
	if len(r.Rules) > 0 && r.MaxDuration > 0 {
		at = fmt.Sprintf("%s of at most %s", in.Request.Duration, r.MaxDuration)
	}
	window := ""
	if r.Effect == access.EffectAsk {
		window = r.Window.String()
	}
	p.fields(
		"who can approve", strings.Join(who, "; "),
		"within", window,
		"for", at,
		"may revoke", strings.Join(r.Revokers, ", "),
		"extensions", strings.Join(r.SSH.Extensions, ", "),
		"only from", strings.Join(r.SSH.SourceAddress, ", "),
		"only runs", r.SSH.ForceCommand,
		"open sessions", sessionsText(r.SSH),
	)
	p.Printf("\n")
	rows := make([][]any, len(out.Rules))
	for i, f := range out.Rules {
		matched := "no"
		if f.Matched {
			matched = "yes"
		}
		rows[i] = []any{f.Rule, f.Line, matched, f.Why}
	}
	p.table([]string{"RULE", "LINE", "MATCHES", "WHY"}, rows)
}

func (a *app) policyTest(c *cli.Context) error {
	if err := a.choose(c, c.String("policy")); err != nil {
		return err
	}
	pol, err := a.policy()
	if err != nil {
		return err
	}
	files := c.Args().Slice()
	if len(files) == 0 {
		folder, err := a.policyFolder(c)
		if err != nil {
			return err
		}
		if files, err = filepath.Glob(filepath.Join(folder, "*_test.yaml")); err != nil {
			return err
		}
		if len(files) == 0 {
			return failf(ExitNotFound, "there is no *_test.yaml in %s", folder).withHint("docs/spec/policy.md shows how to write one")
		}
	}
	dir, cat, err := a.surroundings()
	if err != nil {
		return err
	}
	results := []policy.Result{}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		r, err := pol.Test(file, data, dir, cat)
		if err != nil {
			a.problems(err)
			return err
		}
		results = append(results, r...)
	}
	failed := 0
	for _, r := range results {
		if !r.Passed() {
			failed++
		}
	}
	err = a.print(results, func(p *printer) {
		for _, r := range results {
			if r.Passed() {
				p.Printf("%s %s\n", p.style("32", "ok  "), r.Name)
				continue
			}
			p.Printf("%s %s  %s:%d\n", p.style("31", "FAIL"), r.Name, r.File, r.Line)
			for _, f := range r.Failures {
				p.Printf("     %s\n", f)
			}
		}
		p.Printf("%s, %d failed\n", wording.Count(len(results), "test"), failed)
	})
	if err == nil && failed > 0 {
		err = failf(ExitError, "%s of the policy failed", wording.Count(failed, "test"))
	}
	return err
}

// problems prints all but the first problem with a file, which will be
// reported as the error.
func (a *app) problems(err error) {
	var all policy.Problems
	if errors.As(err, &all) {
		for _, problem := range all[min(1, len(all)):] {
			a.err.Printf("%s\n", problem)
		}
	}
}

// policyFolder is where the policy is.
func (a *app) policyFolder(c *cli.Context) (string, error) {
	if file := c.String("policy"); file != "" {
		return filepath.Dir(file), nil
	}
	cfg, err := a.settings()
	if err != nil {
		return "", err
	}
	return filepath.Dir(cfg.Policy), nil
}

// sessionsText says what becomes of a session that is open when the grant
// ends, where a rule says so.
func sessionsText(o access.SSHOptions) string {
	var parts []string
	if o.Warn > 0 {
		parts = append(parts, fmt.Sprintf("are told %s before the end", o.Warn))
	}
	if o.Grace > 0 {
		parts = append(parts, fmt.Sprintf("may stay %s past it", o.Grace))
	}
	return strings.Join(parts, ", ")
}
