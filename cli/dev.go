package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/urfave/cli/v2"

	"hallpass/worker"
)

// Option adds to what Main can do.
type Option func(*app)

// WithServer gives Main the Temporal server that the command dev starts.
// Package cli doesn't link it, so that whoever embeds Main needn't.
func WithServer(start worker.StartServer) Option { return func(a *app) { a.server = start } }

func (a *app) devCommand() *cli.Command {
	return &cli.Command{
		Name:     "dev",
		Usage:    "run all of hallpass in one process, in one folder: Temporal, worker, issuer, audit log",
		Category: categoryHallpass,
		Description: "Makes keys and example files at the first start and leaves alone what is there.\n" +
			"Interrupt it, or kill it: the next start goes on where it was.",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "dir", Usage: "keep everything in `FOLDER`", DefaultText: "$XDG_DATA_HOME/hallpass/dev", TakesFile: true},
			&cli.IntFlag{Name: "port", Usage: "`PORT` of Temporal on 127.0.0.1", DefaultText: fmt.Sprintf("as configured, or %d", worker.DefaultPort)},
			&cli.IntFlag{Name: "ui-port", Usage: "`PORT` of the Temporal UI", DefaultText: fmt.Sprintf("as configured, or %d", worker.DefaultUIPort)},
			&cli.IntFlag{Name: "service-port", Usage: "`PORT` of the service for hosts and people", DefaultText: fmt.Sprintf("as configured, or %d", worker.DefaultServicePort)},
			&cli.StringFlag{Name: "ready-file", Usage: "write what runs where, as JSON, to `FILE` once requests can be made, and remove it at the end", TakesFile: true},
		},
		Action: func(c *cli.Context) error {
			a.daemon = true
			if _, err := arguments(c); err != nil {
				return err
			}
			if a.config != "" {
				return usagef("dev has its configuration in its folder").withHint("hallpass dev --dir %s", filepath.Dir(a.config))
			}
			for _, flag := range []string{"port", "ui-port", "service-port"} {
				if n := c.Int(flag); c.IsSet(flag) && (n < 1 || n > 65535) {
					return usagef("--%s is %d, not a port (1 to 65535)", flag, n)
				}
			}
			if a.server == nil && a.serverIn != "" {
				return a.becomeServer()
			}
			var failed error
			ready, err := newReadyFile(c.String("ready-file"))
			if err != nil {
				return err
			}
			err = worker.Dev(a.ctx, worker.DevOptions{
				Dir: c.String("dir"), Port: c.Int("port"), UIPort: c.Int("ui-port"), ServicePort: c.Int("service-port"),
				Server: a.server, Env: a.env, Log: a.err,
				Ready: func(r worker.Ready) {
					failed = errors.Join(a.print(r, func(p *printer) { devText(p, r) }), ready.write(r))
				},
			})
			return errors.Join(err, failed, ready.remove())
		},
	}
}

// devText says where everything is and what to type first.
func devText(p *printer, r worker.Ready) {
	p.Printf("%s, ready in %d.%d s\n", p.bold("hallpass dev"), r.Millis/1000, r.Millis%1000/100)
	yours := "your own SSH key"
	if r.You.Key != "" {
		yours = r.You.Key
	}
	p.fields(
		"folder", r.Dir,
		"config", r.Config,
		"Temporal", r.Address,
		"Temporal UI", r.UI,
		"service", r.Service+", known by "+r.CA,
		"you", fmt.Sprintf("%s, in group %s, signing with %s", r.You.Name, r.You.Group, yours),
		"and", fmt.Sprintf("%s, in group %s, signing with %s", r.Other.Name, r.Other.Group, r.Other.Key),
	)
	if len(r.Made) > 0 {
		p.Printf("\nMade keys and examples to edit: policy.yaml, directory.yaml, catalog.yaml.\n")
	}
	p.Printf("\nNow, in another terminal:\n")
	if !r.Found {
		p.Printf("  export HALLPASS_CONFIG=%s\n", shellLine([]string{r.Config}))
	}
	p.Printf("  hallpass resources\n")
	p.Printf("  hallpass request ssh/web-1 --reason \"first look\"\n")
	p.Printf("and, as %s, in a third:\n", r.Other.Name)
	if !r.Found {
		p.Printf("  export HALLPASS_CONFIG=%s\n", shellLine([]string{r.Config}))
	}
	p.Printf("  export HALLPASS_USER=%s HALLPASS_KEY=%s\n", r.Other.Name, shellLine([]string{r.Other.Key}))
	p.Printf("  hallpass pending\n")
	p.Printf("By way of the service, as those do who have no access to Temporal: HALLPASS_SERVICE=%s hallpass list\n", r.Service)
	p.Printf("Ctrl-C stops it; everything goes on at the next start.\n")
}

// readyFile tells programs that dev is ready. It appears whole, and isn't
// there while dev isn't ready, except after a kill.
type readyFile string

func newReadyFile(path string) (readyFile, error) {
	f := readyFile(path)
	return f, f.remove()
}

func (f readyFile) remove() error {
	if f == "" {
		return nil
	}
	if err := os.Remove(string(f)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove ready file: %w", err)
	}
	return nil
}

func (f readyFile) write(r worker.Ready) error {
	if f == "" {
		return nil
	}
	data, err := json.Marshal(r)
	if err != nil {
		return err
	}
	temp := string(f) + ".new"
	if err := os.WriteFile(temp, append(data, '\n'), 0o600); err != nil {
		return fmt.Errorf("write ready file: %w", err)
	}
	if err := os.Rename(temp, string(f)); err != nil {
		return fmt.Errorf("write ready file: %w", err)
	}
	return nil
}
