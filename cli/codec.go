package cli

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"time"

	"github.com/urfave/cli/v2"

	"hallpass/codec"
)

func (a *app) codecCommand() *cli.Command {
	return &cli.Command{
		Name:     "codec",
		Usage:    "keys for what is encrypted in Temporal, and clear text for its UI",
		Category: categoryOperate,
		Subcommands: []*cli.Command{
			{
				Name:  "key",
				Usage: "make a key: a line for the file of temporal.codec",
				Description: "The first line of that file encrypts, all of them decrypt. To rotate, add a new line at\n" +
					"the end of the file everywhere, then move it to the front, and take the old one out when\n" +
					"nothing in Temporal needs it any more: after the namespace's retention.",
				Action: func(c *cli.Context) error {
					if _, err := arguments(c); err != nil {
						return err
					}
					line := codec.NewKey(a.now())
					return a.print(map[string]string{"line": line}, func(p *printer) { p.Printf("%s\n", line) })
				},
			},
			{
				Name:  "serve",
				Usage: "let the Temporal UI in your browser show clear text, while it runs",
				Description: "It listens on this machine alone, and what it prints is the address to enter in the UI as\n" +
					"codec server. Whoever has that address can read what the keys can.",
				Flags: []cli.Flag{
					&cli.StringFlag{Name: "address", Usage: "listen on this `HOST:PORT` of this machine", Value: "127.0.0.1:8081"},
					&cli.StringFlag{Name: "origin", Usage: "the UI's address, as the browser shows it: `URL`", DefaultText: "that of ui in the configuration"},
					&cli.StringFlag{Name: "token-file", Usage: "the secret part of the address is the first line of `FILE`, mode 0600", DefaultText: "made anew at each start", TakesFile: true},
				},
				Action: a.codecServe,
			},
		},
	}
}

// codecLimit is how long one call of the UI's may take.
const codecLimit = 10 * time.Second

func (a *app) codecServe(c *cli.Context) error {
	if _, err := arguments(c); err != nil {
		return err
	}
	cfg, err := a.settings()
	if err != nil {
		return err
	}
	if cfg.Temporal.Codec == "" {
		return failf(ExitNotFound, "temporal.codec is not configured: nothing is encrypted, as far as this machine knows").
			withHint("name the file of keys in hallpass.yaml or in HALLPASS_TEMPORAL_CODEC")
	}
	ring, err := codec.Open(cfg.Temporal.Codec)
	if err != nil {
		return err
	}
	from, address := "ui", cfg.UI
	if c.IsSet("origin") {
		from, address = "--origin", c.String("origin")
	}
	if address == "" {
		return usagef("--origin is missing: the address of the Temporal UI, such as http://127.0.0.1:8080")
	}
	ui, err := url.Parse(address)
	if err != nil || ui.Host == "" || ui.Scheme != "http" && ui.Scheme != "https" {
		return usagef("%s %s is not an address such as http://127.0.0.1:8080", from, address)
	}
	if err := checkLoopback("--address", c.String("address")); err != nil {
		return err
	}
	token, err := codecToken(c.String("token-file"))
	if err != nil {
		return err
	}
	l, err := new(net.ListenConfig).Listen(a.ctx, "tcp", c.String("address"))
	if err != nil {
		return failf(ExitError, "can't listen on %s: %v", c.String("address"), err).withHint("give another with --address 127.0.0.1:PORT")
	}
	origin := ui.Scheme + "://" + ui.Host
	server := &http.Server{
		Handler:           codec.Handler(ring, origin, token),
		ReadHeaderTimeout: codecLimit, ReadTimeout: codecLimit, WriteTimeout: codecLimit, MaxHeaderBytes: 16 << 10,
	}
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(l) }()
	endpoint := "http://" + l.Addr().String() + "/" + token
	err = a.print(map[string]string{"endpoint": endpoint, "origin": origin}, func(p *printer) {
		p.Printf("In the Temporal UI at %s, as the endpoint of the codec server:\n  %s\n", origin, endpoint)
	})
	if err == nil {
		a.err.Printf("It runs until Ctrl-C.\n")
		select {
		case err = <-failed:
		case <-a.ctx.Done():
		}
	}
	stopping, cancel := context.WithTimeout(context.WithoutCancel(a.ctx), time.Second)
	defer cancel()
	return errors.Join(err, server.Shutdown(stopping))
}

// checkLoopback refuses what is no address on this machine alone.
func checkLoopback(flag, address string) error {
	host, port, err := net.SplitHostPort(address)
	ip := net.ParseIP(host)
	switch {
	case err != nil || port == "":
		return usagef("%s %s has no port: give 127.0.0.1:PORT", flag, address)
	case host == "localhost": // may be any address
		return usagef("%s %s has a name in it: give 127.0.0.1:%s", flag, address, port)
	case ip == nil || !ip.IsLoopback():
		return usagef("%s is %s, and what is decoded may not leave this machine: give 127.0.0.1:PORT", flag, address)
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return usagef("%s %s: %s is not a port", flag, address, port)
	}
	return nil
}

// tokenHint makes a file for --token-file.
const tokenHint = "(umask 077; openssl rand -hex 16 >%s)"

// codecToken is the secret part of the address.
func codecToken(file string) (string, error) {
	if file == "" {
		return rand.Text(), nil
	}
	info, err := os.Stat(file)
	if errors.Is(err, fs.ErrNotExist) {
		return "", failf(ExitError, "there is no file %s to read the token from", file).withHint(tokenHint, file)
	}
	if err != nil {
		return "", fmt.Errorf("read token: %w", err)
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return "", failf(ExitRefused, "%s has mode %04o, so others can read it", file, mode).withHint("chmod 600 %s", file)
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return "", fmt.Errorf("read token: %w", err)
	}
	line, _, _ := bytes.Cut(data, []byte("\n"))
	token := string(bytes.TrimSpace(line))
	if len(token) < 16 || url.PathEscape(token) != token {
		return "", failf(ExitError, "the first line of %s is not a token: at least 16 letters and digits", file).withHint(tokenHint, file)
	}
	return token, nil
}
