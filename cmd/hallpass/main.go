// Command hallpass asks for access, decides on it, and runs what issues it.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"hallpass/cli"
	"hallpass/worker/embedded"
)

func main() {
	ctx, cancel := context.WithCancel(context.Background())
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	go func() {
		<-signals
		cancel()
		// Whoever asks twice doesn't want to wait. Nothing is lost by it.
		<-signals
		os.Exit(cli.ExitInterrupted)
	}()
	take := func() <-chan os.Signal {
		taken := make(chan os.Signal, 16)
		for _, s := range cli.ForwardedSignals() {
			if !signal.Ignored(s) { // as nohup has it
				signal.Notify(taken, s)
			}
		}
		signal.Stop(signals)
		return taken
	}
	os.Exit(cli.Main(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr, os.Getenv, cli.WithServer(embedded.Start), cli.WithSignals(take)))
}
