package cli

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"hallpass/access"
	"hallpass/transport"
)

// inboxPoll is how often an empty inbox is looked into again.
const inboxPoll = 2 * time.Second

func (a *app) watchCommand() *cli.Command {
	return &cli.Command{
		Name:     "watch",
		Usage:    "wait for requests that are yours to decide, and decide on them one by one",
		Category: categoryDecide,
		Description: "Shows each request as approve and deny do, rings the bell, and takes a letter\n" +
			"and Enter: a approves, d denies, s leaves it for later, q ends. Enter is part of\n" +
			"it so that nobody approves by a stray key. Ctrl-C ends it at any time.",
		Flags: filterFlags(),
		Action: func(c *cli.Context) error {
			if _, err := arguments(c); err != nil {
				return err
			}
			f, err := filterFrom(c)
			if err != nil {
				return err
			}
			f.States = []access.State{access.StatePending}
			if a.json {
				return usagef("watch is for people at a terminal; programs poll hallpass pending --output json")
			}
			me, err := a.whoami()
			if err != nil {
				return err
			}
			tty, err := a.console()
			if err != nil {
				return usagef("%w", errNoTerminal).withHint("hallpass pending, hallpass approve ID")
			}
			defer func() { _ = tty.Close() }()
			return a.withBackend(func(b backend) error { return a.watch(b, f, a.knownAs(b, me), tty) })
		},
	}
}

// watch goes through the inbox until somebody says that it is enough. A
// request that was left for later comes back when nothing else is there and
// the command is started again.
func (a *app) watch(b backend, f transport.Filter, me access.User, tty console) error {
	done := map[string]bool{}
	quiet := false
	for {
		next, err := a.nextMine(b, f, me, done)
		switch {
		case a.ctx.Err() != nil:
			return a.ctx.Err()
		case err != nil && access.CodeOf(err) != access.CodeUnavailable:
			return err
		case err != nil:
			a.err.Printf("hallpass: %s; trying again\n", err)
		case next == "":
			if !quiet {
				a.err.Printf("Nothing waits for you. Watching; Ctrl-C ends.\n")
				a.mentionReviews(b, me)
			}
			quiet = true
		default:
			quiet, done[next] = false, true
			more, err := a.answerOne(b, next, me, tty)
			if err != nil || !more {
				return err
			}
			continue
		}
		if err := a.sleep(a.ctx, inboxPoll); err != nil {
			return err
		}
	}
}

// nextMine is the request in which the user has a say that has waited longest of
// those that he hasn't seen, or "". Ids begin with the time.
func (a *app) nextMine(b backend, f transport.Filter, me access.User, done map[string]bool) (string, error) {
	all, err := a.pending(b, f, me, done)
	if err != nil {
		return "", err
	}
	next := ""
	for _, w := range all {
		if w.Mine && !done[w.ID] && (next == "" || w.ID < next) {
			next = w.ID
		}
	}
	return next, nil
}

// answerOne shows one request with all there is to it, and does as it is told.
// What is signed is what was shown. That the request is refused or over is
// said, and the next one comes.
func (a *app) answerOne(b backend, id string, me access.User, tty console) (more bool, err error) {
	s, req, err := a.read(b, id)
	if err != nil || s.State != access.StatePending {
		return true, a.ctx.Err() // somebody was faster
	}
	if a.out.tty {
		a.out.Printf("%s", markup("\a"))
	}
	d := access.Decision{Verdict: access.Approve}
	d.For, _ = a.sayIn(b, s, req, me)
	a.out.Printf("\n")
	a.showRequest(a.out, s, req, append([]any{"yours for", delegatedBy(d.For)}, a.brief(a.out, s, req, d)...)...)
	for {
		key, err := ask(a.ctx, tty, "\na approve, d deny, s later, q quit:")
		if errors.Is(err, io.EOF) {
			return false, nil
		} else if err != nil {
			return false, err
		}
		switch strings.ToLower(strings.TrimSpace(key)) {
		case "a":
		case "d":
			d.Verdict = access.Deny
			if d.Comment, err = ask(a.ctx, tty, "Why, for the requester to read (may be empty):"); err != nil && !errors.Is(err, io.EOF) {
				return false, err
			}
			d.Comment = strings.TrimSpace(d.Comment)
		case "s":
			return true, nil
		case "q":
			return false, nil
		default:
			continue
		}
		if err := a.say(b, s, req, d, false); err != nil {
			if a.ctx.Err() != nil {
				return false, err
			}
			a.report(fmt.Errorf("request %s: %w", id, err))
		}
		return true, nil
	}
}
