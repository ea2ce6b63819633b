package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"time"

	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"

	"hallpass/access"
	"hallpass/testsuite/devtest"
	"hallpass/testsuite/measure"
)

// start measures hallpass dev from its start to the first certificate, and
// commands as people run them beside the answer of the server that they wait
// for.
func (b *bench) start() error {
	var fresh, again, first measure.Times
	for i := range max(5, b.times(5)) + 1 {
		dir, err := os.MkdirTemp(b.dir, "start-")
		if err != nil {
			return err
		}
		people, err := devtest.Furnish(dir, files, groups)
		if err != nil {
			return err
		}
		for k := range 2 {
			began := time.Now()
			s, err := devtest.Serve(b.ctx, b.program, dir)
			if err != nil {
				return err
			}
			took := time.Since(began)
			w := &world{Server: s, people: people, folder: dir}
			_, err = w.automatic(b.ctx)
			switch {
			case i == 0: // the programs come from the disk
			case k == 0:
				fresh, first = append(fresh, took), append(first, time.Since(began))
			default:
				again = append(again, took)
			}
			if err := errors.Join(err, s.Stop()); err != nil {
				return err
			}
		}
	}
	for _, r := range []struct {
		name  string
		times measure.Times
	}{{"dev, ready, in a new folder", fresh}, {"dev, first certificate, in a new folder", first}, {"dev, ready, in a folder that it knows", again}} {
		b.add(row{Name: r.name, P50: r.times.At(0.5).Seconds(), P99: r.times.At(0.99).Seconds(), N: len(r.times)})
	}
	return b.world(b.commands)
}

// commands measures each command as a process, and in turn with it the one
// call to the server that it can't do without.
func (b *bench) commands(w *world) error {
	var ids []string // of requests that wait
	n := b.times(20)
	var waiting []asked
	for range 2*n + 4 {
		a, err := w.ask(b.ctx, "ssh/web-1", long)
		if err != nil {
			return err
		}
		if _, err := a.history.until(ruled); err != nil {
			return err
		}
		ids, waiting = append(ids, a.request.ID), append(waiting, a)
	}
	next := 0
	take := func() asked { next++; return waiting[next-1] }
	var approved asked // last, by a call of ours
	run := func(who string, args ...string) error {
		cmd := exec.CommandContext(b.ctx, b.program, args...)
		cmd.Env = w.env(who)
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("hallpass %s: %w\n%s", args[0], err, out)
		}
		return nil
	}
	for _, c := range []struct {
		name             string
		process, request func(context.Context) error
	}{
		{"version", func(context.Context) error { return run("alice", "version") }, func(context.Context) error { return nil }},
		{"list", func(context.Context) error { return run("alice", "list") }, func(ctx context.Context) error {
			_, err := w.Client.ListWorkflow(ctx, &workflowservice.ListWorkflowExecutionsRequest{Query: "WorkflowType = '" + access.Workflow + "'", PageSize: 50})
			return err
		}},
		{"show", func(context.Context) error { return run("alice", "show", ids[0]) }, func(ctx context.Context) error {
			_, err := w.Client.QueryWorkflow(ctx, access.WorkflowID(ids[0]), "", access.QueryStatus)
			return err
		}},
		{"approve", func(context.Context) error { return run("bob", "approve", take().request.ID) }, func(ctx context.Context) error {
			a := take()
			approved = a
			st, err := w.people.Sign("bob", access.Decision{
				Header:  w.people.Header("bob", access.TypeDecision),
				Request: a.request.ID, RequestHash: a.signed.Hash(), Verdict: access.Approve,
			})
			if err != nil {
				return err
			}
			h, err := w.Client.UpdateWorkflow(ctx, client.UpdateWorkflowOptions{
				WorkflowID: access.WorkflowID(a.request.ID), UpdateName: access.MessageDecision, Args: []any{st},
				WaitForStage: client.WorkflowUpdateStageCompleted,
			})
			if err != nil {
				return err
			}
			return h.Get(ctx, nil)
		}},
	} {
		var process, request, certificate measure.Times
		for i := range n + 1 {
			for _, m := range []struct {
				do    func(context.Context) error
				times *measure.Times
			}{{c.request, &request}, {c.process, &process}} {
				began := time.Now()
				if err := m.do(b.ctx); err != nil {
					return err
				}
				if i > 0 { // the first one warms up
					*m.times = append(*m.times, time.Since(began))
				}
				if c.name != "approve" || m.times != &request {
					continue
				}
				if _, err := approved.history.until(issued); err != nil {
					return err
				}
				if i > 0 {
					certificate = append(certificate, time.Since(began))
				}
			}
		}
		beyond := func(what measure.Times) float64 { return (process.At(0.5) - what.At(0.5)).Seconds() * 1e3 }
		r := row{
			Name: "hallpass " + c.name + ", the process", P50: process.At(0.5).Seconds(), P99: process.At(0.99).Seconds(), N: len(process),
			Also: map[string]float64{"ms beyond the server's answer": beyond(request)},
		}
		if len(certificate) > 0 {
			r.Also["ms beyond the certificate"] = beyond(certificate)
		}
		b.add(r)
	}
	return nil
}
