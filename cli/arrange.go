package cli

import (
	"strings"

	"github.com/urfave/cli/v2"
)

// line is a command line taken apart: the commands named on it, the flags of
// each, and the arguments of the last.
type line struct {
	levels     []level
	args       []string
	terminated bool   // "--" was there
	wants      string // the last word is a flag that still wants its value
	help       bool   // --help was there, or "help" in front
}

type level struct {
	name     string
	flags    []cli.Flag
	commands []*cli.Command
	command  *cli.Command // nil for the program itself
	set      []string     // flags as given, with their values
}

// arrange puts every flag in front of the arguments of the command that it
// belongs to, because the flag package behind urfave/cli stops at the first
// argument and would take the rest as arguments without a word. Flags of the
// program itself may stand behind a command. Everything after "--" is an
// argument. A flag that takes a value takes the next word, whatever it is.
func (l *line) arrange() ([]string, error) {
	if l.wants != "" {
		return nil, usagef("flag %s needs a value", l.wants)
	}
	if top := l.levels[len(l.levels)-1]; len(top.commands) > 0 && len(l.args) > 0 {
		hint := strings.TrimSpace(l.path()) + " --help"
		if s := nearest(top.commands, l.args[0]); s != "" {
			hint = l.path() + " " + s
		}
		return nil, usagef("no command %s %s", l.path(), l.args[0]).withHint("%s", hint)
	}
	var out []string
	for i, v := range l.levels {
		if i > 0 {
			out = append(out, v.name)
		}
		out = append(out, v.set...)
	}
	if len(l.args) > 0 {
		out = append(append(out, "--"), l.args...)
	}
	return out, nil
}

// path is the command as typed, without flags.
func (l *line) path() string {
	names := make([]string, len(l.levels))
	for i, v := range l.levels {
		names[i] = v.name
	}
	return strings.Join(names, " ")
}

// parseLine takes args apart. Its only error is a flag that nobody knows.
func parseLine(root *cli.App, args []string) (*line, error) {
	l := &line{levels: []level{{name: root.Name, flags: root.Flags, commands: root.Commands}}}
	if len(args) > 0 && args[0] == "help" {
		l.help, args = true, args[1:]
	}
	for i := 0; i < len(args); i++ {
		word := args[i]
		here := &l.levels[len(l.levels)-1]
		switch {
		case l.terminated || word == "-" || !strings.HasPrefix(word, "-"):
			if c := named(here.commands, word); c != nil && len(l.args) == 0 && !l.terminated {
				l.levels = append(l.levels, level{name: c.Name, flags: c.Flags, commands: c.Subcommands, command: c})
				continue
			}
			l.args = append(l.args, word)
		case word == "--":
			l.terminated = true
		default:
			name, _, valued := strings.Cut(strings.TrimLeft(word, "-"), "=")
			if name == "help" || name == "h" {
				l.help = true
				continue
			}
			owner, takes, ok := l.flag(name)
			if !ok {
				f := usagef("%s has no flag %s", l.path(), word)
				if len(l.args) > 0 {
					return nil, f.withHint("%s --help, or write -- in front of arguments that begin with a dash", l.path())
				}
				return nil, f.withHint("%s --help", l.path())
			}
			owner.set = append(owner.set, word)
			if takes && !valued {
				if i++; i == len(args) {
					l.wants = word
					continue
				}
				owner.set = append(owner.set, args[i])
			}
		}
	}
	return l, nil
}

// flag finds the level that a flag belongs to, the innermost first, and
// whether it takes a value.
func (l *line) flag(name string) (owner *level, takes, ok bool) {
	for i := len(l.levels) - 1; i >= 0; i-- {
		for _, f := range l.levels[i].flags {
			for _, n := range f.Names() {
				if n == name {
					return &l.levels[i], takesValue(f), true
				}
			}
		}
	}
	return nil, false, false
}

func takesValue(f cli.Flag) bool {
	d, ok := f.(cli.DocGenerationFlag)
	return !ok || d.TakesValue()
}

func named(commands []*cli.Command, name string) *cli.Command {
	for _, c := range commands {
		if c.HasName(name) {
			return c
		}
	}
	return nil
}

// nearest is the command whose name is at most two edits away from name, or
// "".
func nearest(commands []*cli.Command, name string) string {
	best, found := 3, ""
	for _, c := range commands {
		if d := edits(c.Name, name); d < best && d < len(c.Name) && !c.Hidden {
			best, found = d, c.Name
		}
	}
	return found
}

// edits is the Levenshtein distance.
func edits(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j+1]+1, row[j]+1)
		}
	}
	return row[len(b)]
}
