package cli

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"hallpass/access"
	"hallpass/transport"
)

// completeFlag ends a command line that a shell wants to have completed. The
// word before it is the one being typed.
const completeFlag = "--generate-bash-completion"

func completing(args []string) (words []string, ok bool) {
	if n := len(args); n > 0 && args[n-1] == completeFlag {
		return args[:n-1], true
	}
	return nil, false
}

// completed are the values that can be completed: for a flag by its name
// ("--state"), for arguments by the command's.
func (a *app) completed(command, flag string) []string {
	switch flag {
	case "--output", "-o":
		if command == "hallpass report access" {
			return []string{"table", "csv", "json", "html"}
		}
		return []string{"text", "json"}
	case "--format":
		return []string{"jsonl", "csv", "ocsf"}
	case "--state":
		return strings.Split(stateNames(), ", ")
	case "--resource":
		return a.knownResources(func(r access.Resource) []string { return []string{r.Name} })
	case "--action":
		return a.knownResources(func(r access.Resource) []string { return r.Actions })
	case "--template":
		return formNames()
	case "--to":
		return a.knownUsers()
	case "--in-place-of":
		me, _ := a.whoami()
		return a.knownDelegations(func(d access.Delegation) string {
			if d.To != me.Name {
				return ""
			}
			return d.Signer
		})
	case "--revoke":
		return a.knownDelegations(func(d access.Delegation) string { return d.ID })
	case "--group":
		if command == "hallpass delegate" {
			me, _ := a.whoami()
			return me.Groups
		}
		return nil
	case "--as", "-l":
		return a.knownResources(func(r access.Resource) []string { return r.Logins })
	case "":
	default:
		return nil
	}
	switch command {
	case "hallpass completion":
		return []string{"bash", "zsh", "fish"}
	case "hallpass request", "hallpass run":
		return a.knownResources(func(r access.Resource) []string { return []string{r.Name} })
	case "hallpass ssh":
		return a.knownResources(hosts)
	case "hallpass approve", "hallpass deny":
		return a.knownIDs(access.StatePending, access.StateScheduled)
	case "hallpass wait", "hallpass cancel":
		return a.knownIDs(access.StatePending, access.StateScheduled, access.StateIssuing)
	case "hallpass get", "hallpass release", "hallpass revoke", "hallpass extend":
		return a.knownIDs(access.StateActive)
	case "hallpass review":
		return a.knownReviews()
	case "hallpass lock user":
		return a.knownUsers()
	case "hallpass lock resource":
		return a.knownResources(func(r access.Resource) []string { return []string{r.Name} })
	case "hallpass lock host":
		return a.knownResources(hosts)
	case "hallpass unlock":
		return a.knownLocks()
	case "hallpass show":
		return a.knownIDs()
	}
	return nil
}

func (a *app) knownResources(words func(access.Resource) []string) []string {
	c, err := a.catalog()
	if err != nil {
		return nil
	}
	var all []string
	for _, r := range c.Resources() {
		all = append(all, words(r)...)
	}
	return all
}

// completionPatience is how long a shell may hang at a Tab.
const completionPatience = 2 * time.Second

func (a *app) knownIDs(states ...access.State) []string {
	return a.listed(func(ctx context.Context, b backend) (ids []string) {
		found, _ := b.List(ctx, transport.Filter{States: states})
		for _, s := range found {
			ids = append(ids, s.ID)
		}
		return ids
	})
}

func (a *app) knownUsers() (names []string) {
	if dir := a.directoryOrNil(); dir != nil {
		for _, u := range dir.Users() {
			names = append(names, u.Name)
		}
	}
	return names
}

func (a *app) knownLocks() []string {
	return a.listed(func(ctx context.Context, b backend) (ids []string) {
		held, _ := b.Locks(ctx)
		for _, h := range held {
			ids = append(ids, h.Lock.ID)
		}
		return ids
	})
}

func (a *app) knownDelegations(word func(access.Delegation) string) []string {
	return a.listed(func(ctx context.Context, b backend) (words []string) {
		given, _ := b.Delegations(ctx)
		for _, g := range given {
			if w := word(g.Delegation); w != "" {
				words = append(words, w)
			}
		}
		return words
	})
}

func (a *app) knownReviews() []string {
	return a.listed(func(ctx context.Context, b backend) (ids []string) {
		open, _ := b.Reviews(ctx)
		for _, t := range open {
			ids = append(ids, t.Request)
		}
		return ids
	})
}

// listed is what the service lists while a shell waits. That it can't is said
// to nobody.
func (a *app) listed(list func(context.Context, backend) []string) []string {
	ctx, cancel := context.WithTimeout(a.ctx, completionPatience)
	defer cancel()
	a.ctx = ctx
	b, err := a.connect()
	if err != nil {
		return nil
	}
	defer b.Close()
	return list(ctx, b)
}

// complete prints what the last of words could become, one a line. It is
// silent about everything that is wrong: the user is still typing.
func (a *app) complete(root *cli.App, words []string) {
	a.completing = true // nobody is asked for anything
	last := ""
	if n := len(words); n > 0 {
		last, words = words[n-1], words[:n-1]
	}
	l, err := parseLine(root, words)
	if err != nil {
		return
	}
	for i, word := range l.levels[0].set {
		if (word == "--config" || word == "-c") && i+1 < len(l.levels[0].set) {
			a.config = l.levels[0].set[i+1]
		}
	}
	here := l.levels[len(l.levels)-1]
	var found []string
	switch {
	case l.wants != "":
		found = a.completed(l.path(), l.wants)
	case strings.HasPrefix(last, "-") && !l.terminated:
		for _, v := range l.levels {
			for _, f := range v.flags {
				found = append(found, "--"+f.Names()[0])
			}
		}
		found = append(found, "--help")
	case len(here.commands) > 0:
		for _, c := range here.commands {
			if !c.Hidden {
				found = append(found, c.Name)
			}
		}
	case len(l.args) == 0:
		found = a.completed(l.path(), "")
	}
	slices.Sort(found)
	for _, f := range slices.Compact(found) {
		if strings.HasPrefix(f, last) {
			a.out.Printf("%s\n", f)
		}
	}
}

// The scripts hand the words of the line to hallpass itself, so they know
// nothing of its commands and never have to change.
var completionScripts = map[string]string{
	"bash": `# hallpass completion for bash: source <(hallpass completion bash)
_hallpass() {
	local IFS=$'\n'
	COMPREPLY=($("${COMP_WORDS[0]}" "${COMP_WORDS[@]:1:COMP_CWORD}" ` + completeFlag + ` 2>/dev/null))
}
complete -o default -F _hallpass hallpass
`,
	"zsh": `#compdef hallpass
# hallpass completion for zsh: source <(hallpass completion zsh)
_hallpass() {
	local -a found
	found=("${(@f)$("${words[1]}" "${(@)words[2,CURRENT]}" ` + completeFlag + ` 2>/dev/null)}")
	[[ -n "${found[*]}" ]] && compadd -a found || _files
}
compdef _hallpass hallpass
`,
	"fish": `# hallpass completion for fish: hallpass completion fish | source
function __hallpass
	set -l words (commandline -opc) (commandline -ct)
	$words[1] $words[2..-1] ` + completeFlag + ` 2>/dev/null
end
complete -c hallpass -f -a '(__hallpass)'
`,
}

func (a *app) completionCommand() *cli.Command {
	return &cli.Command{
		Name:        "completion",
		Usage:       "print the completion script of a shell",
		ArgsUsage:   "bash|zsh|fish",
		Category:    categoryHallpass,
		Description: "For the running shell: source <(hallpass completion bash)",
		Action: func(c *cli.Context) error {
			args, err := arguments(c, "bash|zsh|fish")
			if err != nil {
				return err
			}
			script, ok := completionScripts[args[0]]
			if !ok {
				return usagef("no completion for %s", args[0]).withHint("hallpass completion bash, zsh or fish")
			}
			_, err = a.out.Write([]byte(script))
			return err
		},
	}
}
