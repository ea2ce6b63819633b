// Package cli is the hallpass command: one file per command, and here what
// they share.
//
// Use Main for the whole program, in process if you like: arguments, stdio
// and environment are passed in, the exit code is returned, nothing exits.
// What it promises every command: flags count wherever they stand on the
// line, text that came from other people can't steer the terminal, an error
// is one line and, where there is something to do about it, a second one that
// says what.
//
// A new command is a constructor `func (a *app) nameCommand() *cli.Command`
// in a file of its own and one line in the table commands.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/urfave/cli/v2"
	"golang.org/x/term"

	"hallpass/access"
	"hallpass/worker"
)

// app is one run of the program.
type app struct {
	ctx    context.Context
	stdin  io.Reader
	out    *printer // standard output: what was asked for
	err    *printer // standard error: progress, hints, errors
	env    func(string) string
	now    func() time.Time
	config string // --config
	json   bool   // --output json
	setup  setup

	completing bool // at a Tab: nobody is asked for anything
	daemon     bool // a service, whose errors somebody finds in a log

	// What reaches outside, replaced in tests.
	dial    func(context.Context) (backend, error) // nil: as configured
	sleep   func(context.Context, time.Duration) error
	console func() (console, error)
	exec    func(path string, argv, env []string) error
	after   func(time.Duration) <-chan time.Time
	signals func() <-chan os.Signal // nil: they aren't ours to take
	server  worker.StartServer      // nil: dev can't start one here

	given struct { // who decides in whose place, as it was looked up last
		at   time.Time
		list []access.User
	}

	serverIn string   // the program where it can
	args     []string // of this run
}

// commands is the table of commands, in the order of the help text.
func (a *app) commands() []*cli.Command {
	return []*cli.Command{
		a.requestCommand(),
		a.waitCommand(),
		a.runCommand(),
		a.getCommand(),
		a.sshCommand(),
		a.sshConfigCommand(),
		a.ensureCommand(),
		a.resourcesCommand(),
		a.extendCommand(),
		a.releaseCommand(),
		a.cancelCommand(),
		a.pendingCommand(),
		a.watchCommand(),
		a.approveCommand(),
		a.denyCommand(),
		a.revokeCommand(),
		a.reviewCommand(),
		a.reviewsCommand(),
		a.delegateCommand(),
		a.lockCommand(),
		a.unlockCommand(),
		a.listCommand(),
		a.showCommand(),
		a.locksCommand(),
		a.delegationsCommand(),
		a.sessionsCommand(),
		a.auditCommand(),
		a.reportCommand(),
		a.caCommand(),
		a.hostCommand(),
		a.sweepCommand(),
		a.policyCommand(),
		a.directoryCommand(),
		a.catalogCommand(),
		a.vaultCommand(),
		a.workerCommand(),
		a.healthCommand(),
		a.codecCommand(),
		a.configCommand(),
		a.devCommand(),
		a.demoCommand(),
		a.completionCommand(),
		a.versionCommand(),
	}
}

// The categories of commands in the help text.
const (
	categoryAccess   = "Ask for access"
	categoryDecide   = "Decide"
	categoryLook     = "Look"
	categoryOperate  = "Operate"
	categoryHallpass = "This program"
)

// Main runs hallpass once with args (without the program's name) and returns
// its exit code. It ends early when ctx is cancelled, with ExitInterrupted.
func Main(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer, env func(string) string, options ...Option) int {
	a := &app{ctx: ctx, stdin: stdin, env: env, now: time.Now, sleep: pause, console: openConsole, exec: syscall.Exec, after: time.After, args: args}
	a.out = newPrinter(stdout, env)
	a.err = newPrinter(stderr, env)
	for _, o := range options {
		o(a)
	}
	return a.main(args)
}

func (a *app) main(args []string) int {
	root := a.root()
	var err error
	if words, ok := completing(args); ok {
		a.complete(root, words)
	} else {
		err = a.dispatch(root, args)
	}
	if err == nil {
		err = a.out.failed()
	}
	if err == nil {
		return ExitOK
	}
	var code exit
	if errors.As(err, &code) {
		return int(code)
	}
	if a.ctx.Err() != nil && errors.Is(err, context.Canceled) {
		err = &failure{code: ExitInterrupted, err: errors.New("interrupted"), hint: hintOf(err)}
	}
	a.report(err)
	return exitCode(err)
}

func (a *app) dispatch(root *cli.App, args []string) error {
	l, err := parseLine(root, args)
	if err != nil {
		return err
	}
	if args, err = l.arrange(); err != nil {
		return err
	}
	if c := l.levels[len(l.levels)-1].command; l.help && c != nil {
		c.HelpName = l.path()
		template := cli.CommandHelpTemplate
		if len(c.Subcommands) > 0 {
			template = parentHelp
		}
		cli.HelpPrinter(a.out, template, c)
		return nil
	} else if l.help {
		return root.RunContext(a.ctx, []string{root.Name})
	}
	return root.RunContext(a.ctx, append([]string{root.Name}, args...))
}

// parentHelp is the help of a command that has others below it. The library's
// lists them by categories, which it only makes when it runs the command.
var parentHelp = strings.Replace(cli.SubcommandHelpTemplate, "visibleCommandCategoryTemplate", "visibleCommandTemplate", 1)

func (a *app) root() *cli.App {
	root := &cli.App{
		Name:      "hallpass",
		HelpName:  "hallpass",
		Usage:     "access just in time: ask, get approved, log in, and it ends by itself",
		UsageText: "hallpass COMMAND [flags and arguments in any order]\nhallpass COMMAND --help",
		Description: "Exit codes: 0 done, 1 error, 2 bad usage, 3 denied, 4 timed out, 5 unreachable,\n" +
			"6 refused, 7 not found or ambiguous, 8 gave up waiting, 9 tampered with, 130 interrupted.\n" +
			"hallpass run ends with its command's, 126 if it can't be run, 127 if it isn't there.",
		Commands: a.commands(),
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "config", Aliases: []string{"c"}, Usage: "read configuration from `FILE`", TakesFile: true},
			&cli.StringFlag{Name: "output", Aliases: []string{"o"}, Usage: "print `text|json`", Value: "text"},
		},
		HideVersion:               true,
		HideHelp:                  true, // --help is seen to in dispatch; the library's is a global
		DisableSliceFlagSeparator: true,
		Reader:                    a.stdin,
		Writer:                    a.out,
		ErrWriter:                 a.err,
		Before: func(c *cli.Context) error {
			a.config = c.String("config")
			switch c.String("output") {
			case "text":
			case "json":
				a.json = true
			default:
				return usagef("--output is %s, not text or json", c.String("output"))
			}
			return nil
		},
		// Errors are reported once, by main, and nothing exits but main.
		ExitErrHandler: func(*cli.Context, error) {},
		OnUsageError:   usageError,
	}
	for _, c := range root.Commands {
		settle(c)
	}
	return root
}

// settle gives a command and those below it the behaviour that all share.
func settle(c *cli.Command) {
	c.OnUsageError = usageError
	c.HideHelp = true
	for _, s := range c.Subcommands {
		settle(s)
	}
}

func usageError(c *cli.Context, err error, _ bool) error {
	name := "hallpass"
	if c.Command != nil && c.Command.HelpName != "" {
		name = c.Command.HelpName
	}
	return usagef("%v", err).withHint("%s --help", name)
}

// arguments returns the command's arguments, or a usage error if they aren't
// as many as names has. A name in brackets may be missing.
func arguments(c *cli.Context, names ...string) ([]string, error) {
	got := c.Args().Slice()
	usage := strings.TrimSpace(c.Command.HelpName + " " + strings.Join(names, " "))
	for i, name := range names {
		optional := strings.HasPrefix(name, "[")
		if i >= len(got) && optional {
			got = append(got, "")
		}
		if i >= len(got) || got[i] == "" && !optional {
			return nil, usagef("%s is missing", name).withHint("%s", usage)
		}
	}
	if len(got) > len(names) {
		return nil, usagef("unexpected argument %s", got[len(names)]).withHint("%s", usage)
	}
	return got, nil
}

// terminal says whether f is a terminal: the thing to ask people on.
func terminal(f any) bool {
	file, ok := f.(*os.File)
	return ok && term.IsTerminal(int(file.Fd()))
}

// print writes v as JSON where --output json asks for it, and else calls
// text. Every command that prints data ends in it, so the JSON shapes are the
// exported types.
func (a *app) print(v any, text func(*printer)) error {
	if a.json {
		return a.out.json(v)
	}
	text(a.out)
	return nil
}

// home is the folder of the user, for what the standard library would take
// from the process's own environment.
func (a *app) home() (string, error) {
	if h := a.env("HOME"); h != "" {
		return h, nil
	}
	return "", fmt.Errorf("HOME is not set")
}
