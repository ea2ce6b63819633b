package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
)

// Run is Main for a process of its own: with the process's arguments, streams,
// environment and signals. An interrupt ends it in good order; at the second
// one it calls quit, with ExitInterrupted.
func Run(quit func(int), options ...Option) int {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	go func() {
		<-signals
		cancel()
		// Whoever asks twice doesn't want to wait. Nothing is lost by it.
		<-signals
		quit(ExitInterrupted)
	}()
	take := func() <-chan os.Signal {
		taken := make(chan os.Signal, 16)
		for _, s := range ForwardedSignals() {
			if !signal.Ignored(s) { // as nohup has it
				signal.Notify(taken, s)
			}
		}
		signal.Stop(signals)
		return taken
	}
	return Main(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr, os.Getenv, append(options, WithSignals(take))...)
}

// WithServerIn names the program that the command dev goes on in, where this
// one has no Temporal server. It is looked for beside this program and nowhere
// else: not along PATH, where anybody's might come first.
func WithServerIn(program string) Option { return func(a *app) { a.serverIn = program } }

// becomeServer goes on in the program that has the server: the same process,
// with the same arguments.
func (a *app) becomeServer() error {
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	program := filepath.Join(filepath.Dir(self), a.serverIn)
	if _, err := os.Stat(program); errors.Is(err, fs.ErrNotExist) {
		return failf(ExitNotFound, "there is no %s, which has the Temporal server of hallpass dev", program).
			withHint("install it beside hallpass; make build makes both")
	}
	if err := a.exec(program, append([]string{program}, a.args...), os.Environ()); err != nil {
		return fmt.Errorf("run %s: %w", program, err)
	}
	return nil
}
