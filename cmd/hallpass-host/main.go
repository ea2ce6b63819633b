//go:build linux

// Command hallpass-host is hallpass on a host that people log in to: it ends
// SSH sessions when their grant ends, and keeps sshd's list of revoked
// certificates fresh.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"log/syslog"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"hallpass/access"
	"hallpass/host"
	"hallpass/internal/plainjson"
)

// The exit codes beside those that errors have by access.Code.ExitCode. All are those
// of the command hallpass.
const (
	exitOK    = 0
	exitError = 1
	exitUsage = 2
)

var version string // set by the linker

const usage = `hallpass-host ends SSH sessions when their grant ends.

  enroll    make this host one of hallpass's
              --service URL        such as https://hallpass.example.com:7443
              --ca FILE            the service's CA, or
              --ca-sha256 HEX      the SHA-256 of its certificate
              --token TOKEN        from: hallpass host token NAME (- reads it from standard input)
              --host NAME          refuse a token for any other
              --break-glass USER   logs in without hallpass, whatever happens; may be repeated (root)
              --sshd PATH          the server (/usr/sbin/sshd)
              --sshd-config FILE   its configuration (/etc/ssh/sshd_config)
              --pam FILE           its PAM service (/etc/pam.d/sshd)
  run       look after the host, for as long as it lives
              --log-level LEVEL    debug, info, warn or error (info)
              SIGHUP makes it ask at once for CA keys, principals and host certificate
  status    what the running agent sees    [--json]
  check     what is wrong on this host     [--json]
  trust     take the SSH CA SHA256:…, which none that this host has can vouch for
  unenroll  take enroll back               [--force]
  hook      what PAM runs
  version

  --root DIR in front of a command: files are below DIR instead of /
`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// app is one run of the program.
type app struct {
	ctx      context.Context
	layout   host.Layout
	flags    *flag.FlagSet
	args     []string
	in       io.Reader
	out, err io.Writer
}

func run(ctx context.Context, args []string, in io.Reader, out, errOut io.Writer) int {
	a := &app{ctx: ctx, in: in, out: out, err: errOut}
	top := flag.NewFlagSet("hallpass-host", flag.ContinueOnError)
	top.SetOutput(errOut)
	top.Usage = func() { _, _ = io.WriteString(errOut, usage) }
	root := top.String("root", "", "")
	if err := top.Parse(args); err != nil {
		return usageCode(err)
	}
	if *root != "" {
		dir, err := filepath.Abs(*root)
		if err != nil {
			_, _ = fmt.Fprintf(errOut, "hallpass-host: %v\n", err)
			return exitError
		}
		a.layout = host.Layout{Root: dir}
	}
	name := top.Arg(0)
	command, ok := map[string]func(*app) error{
		"enroll": (*app).enroll, "run": (*app).run, "status": (*app).status, "check": (*app).check,
		"trust": (*app).trust, "unenroll": (*app).unenroll, "hook": (*app).hook, "version": (*app).version,
	}[name]
	if !ok {
		top.Usage()
		return exitUsage
	}
	a.flags = flag.NewFlagSet("hallpass-host "+name, flag.ContinueOnError)
	a.flags.SetOutput(errOut)
	a.flags.Usage = top.Usage
	a.args = top.Args()[1:]
	err := command(a)
	if err == nil {
		return exitOK
	}
	var silent exit
	if errors.As(err, &silent) {
		return int(silent)
	}
	text, apart := fmt.Sprintf("hallpass-host: %v", err), "\n  "
	if name == "run" {
		apart = "; " // the last line of a service's log is the one that is read
	}
	if hint := access.HintOf(err); hint != "" {
		text += apart + hint
	}
	_, _ = fmt.Fprintln(errOut, text)
	return access.CodeOf(err).ExitCode()
}

// exit is an exit code for which everything has been said.
type exit int

func (e exit) Error() string { return fmt.Sprintf("exit code %d", int(e)) }

func usageCode(err error) int {
	if errors.Is(err, flag.ErrHelp) {
		return exitOK
	}
	return exitUsage
}

// parse reads the flags of a command that takes no arguments.
func (a *app) parse() error {
	if err := a.flags.Parse(a.args); err != nil {
		return exit(usageCode(err))
	}
	if a.flags.NArg() > 0 {
		_, _ = fmt.Fprintf(a.err, "%s takes no argument %q\n", a.flags.Name(), a.flags.Arg(0))
		return exit(exitUsage)
	}
	return nil
}

func (a *app) enroll() error {
	o := host.EnrollOptions{Layout: a.layout, Out: a.out}
	f := a.flags
	f.StringVar(&o.Service, "service", "", "")
	f.StringVar(&o.CA, "ca", "", "")
	f.StringVar(&o.CASHA256, "ca-sha256", "", "")
	f.StringVar(&o.Token, "token", "", "")
	f.StringVar(&o.Host, "host", "", "")
	f.StringVar(&o.SSHD, "sshd", "", "")
	f.StringVar(&o.SSHDConfig, "sshd-config", "", "")
	f.StringVar(&o.PAM, "pam", "", "")
	f.Func("break-glass", "", func(s string) error {
		o.BreakGlass = append(o.BreakGlass, strings.Split(s, ",")...)
		return nil
	})
	if err := a.parse(); err != nil {
		return err
	}
	if o.Token == "-" {
		data, err := io.ReadAll(io.LimitReader(a.in, 1<<20))
		if err != nil {
			return err
		}
		o.Token = strings.TrimSpace(string(data))
	}
	hook, err := a.hookCommand()
	if err != nil {
		return err
	}
	o.Hook = hook
	return host.Enroll(a.ctx, o)
}

// hookCommand is how PAM runs this program.
func (a *app) hookCommand() (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	words := []string{self}
	if a.layout.Root != "" {
		words = append(words, "--root", a.layout.Root)
	}
	words = append(words, "hook")
	for _, w := range words {
		if strings.ContainsAny(w, " \t\n[]#") {
			return "", access.Errorf(access.CodeMalformed, "path %q can't be written into PAM's configuration", w).
				WithHint("put the program into /usr/local/sbin")
		}
	}
	return strings.Join(words, " "), nil
}

func (a *app) unenroll() error {
	force := a.flags.Bool("force", false, "")
	if err := a.parse(); err != nil {
		return err
	}
	return host.Unenroll(host.UnenrollOptions{Layout: a.layout, Force: *force, Out: a.out})
}

func (a *app) trust() error {
	if err := a.flags.Parse(a.args); err != nil {
		return exit(usageCode(err))
	}
	if a.flags.NArg() != 1 {
		_, _ = fmt.Fprintf(a.err, "%s takes one fingerprint, SHA256:…\n", a.flags.Name())
		return exit(exitUsage)
	}
	if err := host.Trust(a.layout, a.flags.Arg(0)); err != nil {
		return err
	}
	_, err := fmt.Fprintln(a.out, "Next: systemctl reload hallpass-host, which makes it ask the service; then hallpass-host check")
	return err
}

func (a *app) run() error {
	level := slog.LevelInfo
	a.flags.TextVar(&level, "log-level", slog.LevelInfo, "")
	if err := a.parse(); err != nil {
		return err
	}
	log := slog.New(slog.NewJSONHandler(plainjson.Writer(a.err), &slog.HandlerOptions{Level: level}))
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	return host.Run(a.ctx, host.RunOptions{Layout: a.layout, Log: log, Reload: hup, Ready: func() { log.Info("looking after sessions") }})
}

// hook has nobody to talk to but the system's log: PAM closes its standard
// streams.
func (a *app) hook() error {
	code, err := host.Hook(a.layout, os.Getenv)
	if err != nil {
		if w, dialErr := syslog.New(syslog.LOG_AUTHPRIV|syslog.LOG_ERR, "hallpass-host"); dialErr == nil {
			_ = w.Err("session refused: " + strings.ReplaceAll(err.Error(), "\n", "; "))
			_ = w.Close()
		}
	}
	if code != 0 {
		return exit(code)
	}
	return nil
}

func (a *app) status() error {
	asJSON := a.flags.Bool("json", false, "")
	if err := a.parse(); err != nil {
		return err
	}
	st, err := host.Query(a.layout)
	if err != nil {
		return err
	}
	if *asJSON {
		return a.json(st)
	}
	w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintf(w, "host\t%s, since %s\n", st.Host, st.Started.Format(time.RFC3339))
	_, _ = fmt.Fprintf(w, "service\t%s\n", st.Service)
	_, _ = fmt.Fprintf(w, "revoked\t%d certificates (%d entries concern this host), version %d of %s\n", st.List.Revoked, st.List.Here, st.List.Version, st.List.Generated.Format(time.RFC3339))
	_, _ = fmt.Fprintf(w, "reports\t%d waiting\n", st.Waiting)
	_ = w.Flush()
	for _, p := range st.Problems {
		_, _ = fmt.Fprintf(a.out, "problem: %s\n", p)
	}
	if len(st.Sessions) == 0 {
		_, _ = fmt.Fprintln(a.out, "No sessions.")
		return nil
	}
	_, _ = fmt.Fprintln(a.out)
	_, _ = fmt.Fprintln(w, "REQUEST\tUSER\tLOGIN\tFROM\tOPENED\tENDS")
	for _, s := range st.Sessions {
		from := s.Source
		if s.Closed {
			from += " (gone; processes are left)"
		}
		_, _ = fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", s.Request, s.User, s.Login, from, s.Opened.Format(time.RFC3339), s.Ends.Format(time.RFC3339))
	}
	return w.Flush()
}

func (a *app) check() error {
	asJSON := a.flags.Bool("json", false, "")
	if err := a.parse(); err != nil {
		return err
	}
	found, err := host.Check(a.ctx, a.layout)
	if err != nil {
		return err
	}
	bad := false
	for _, f := range found {
		bad = bad || f.Level == host.Fail
		if *asJSON {
			continue
		}
		_, _ = fmt.Fprintf(a.out, "%-8s %s\n", f.Level, f.Text)
		if f.Hint != "" && f.Level != host.OK {
			_, _ = fmt.Fprintf(a.out, "         %s\n", f.Hint)
		}
	}
	if *asJSON {
		if err := a.json(found); err != nil {
			return err
		}
	}
	if bad {
		return exit(exitError)
	}
	return nil
}

func (a *app) json(v any) error {
	enc := json.NewEncoder(a.out)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

func (a *app) version() error {
	v := version
	if v == "" {
		v = "devel"
	}
	_, err := fmt.Fprintln(a.out, "hallpass-host", v)
	return err
}
