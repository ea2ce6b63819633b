package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"go.temporal.io/sdk/client"

	"hallpass/access"
	"hallpass/testsuite/devtest"
)

// Parts that serve bare workflows: one process, or two, as hallpass's roles are.
var (
	bareTogether = []bareRole{{"bare worker", []string{bareQueue, bareIssueQueue}}}
	bareApart    = []bareRole{{"bare worker", []string{bareQueue}}, {"bare issuer", []string{bareIssueQueue}}}
)

// bareRole is a process that serves queues of bare workflows.
type bareRole struct {
	name   string
	queues []string
}

// making are the roles that make of a request a grant.
var making = []string{"workflows", "issuer:ssh"}

// apart starts each part as a process of its own: Temporal (with a hallpass dev that
// has nothing to do), the roles, and those for bare workflows. It gives them to f,
// in this order, and a world in which requests go to them.
func (b *bench) apart(roles []string, bare []bareRole, f func(*world, []part) error) error {
	return b.world(func(w *world) (err error) {
		inside := *w
		inside.namespace = "apart"
		c, err := w.Namespace(b.ctx, inside.namespace)
		if err != nil {
			return err
		}
		defer c.Close()
		inside.Server = &devtest.Server{Ready: w.Ready, Client: c}
		// The sweeps of hallpass dev would miss the workflows, which are in
		// another namespace, and end their grants.
		if err := w.Client.ScheduleClient().GetHandle(b.ctx, access.SweepSchedule).Pause(b.ctx, client.SchedulePauseOptions{}); err != nil {
			return fmt.Errorf("pause sweeps: %w", err)
		}
		parts := []part{{name: "Temporal", pid: w.PID}}
		for _, role := range roles {
			cmd := exec.Command(b.program, "worker", "--role", role)
			cmd.Env = inside.env("alice")
			address := ""
			if role == "service" {
				if address, err = freeAddress(); err != nil {
					return err
				}
				inside.Service = "https://" + address
				cmd.Env = append(cmd.Env, "HALLPASS_SERVICE_ADDRESS="+address)
			}
			var p part
			var stop func() error
			if p, stop, err = run(role, cmd); err != nil {
				return err
			}
			defer func() { err = errors.Join(err, stop()) }()
			if address != "" {
				if err := listens(b.ctx, address); err != nil {
					return fmt.Errorf("%s: %w", role, err)
				}
			}
			parts = append(parts, p)
		}
		self, err := os.Executable()
		if err != nil {
			return err
		}
		for _, role := range bare {
			var p part
			var stop func() error
			args := append([]string{bareWorker, w.Address, inside.namespace, filepath.Join(inside.folder, "bare.db")}, role.queues...)
			if p, stop, err = run(role.name, exec.Command(self, args...)); err != nil {
				return err
			}
			defer func() { err = errors.Join(err, stop()) }()
			parts = append(parts, p)
		}
		return f(&inside, parts)
	})
}

// parts says where the processor's time goes, from the request to the certificate, and
// in whole lives: for requests, for bare workflows, and for those that go a request's way
// with nothing in their activities, or with as many transactions, so that
// what is Temporal's of it, and what being durable takes, can be told from what is hallpass's.
func (b *bench) parts() error {
	return b.apart(making, bareApart, func(w *world, parts []part) error {
		parts = append(parts, part{name: "clients", pid: os.Getpid()})
		for _, f := range []flow{
			{"automatic", w.automatic, bareInput{}},
			{"with an approval", w.approved, bareInput{Approvals: 1}},
			{"whole life", w.life, bareInput{Approvals: 1, Release: true}},
		} {
			whose := w.beside(f)
			const flight, turns = 16, 4
			used, all, n := map[string]map[string]time.Duration{}, map[string]time.Duration{}, 0
			for turn := range turns + 1 {
				times := b.inFlightTimes(250, flight)
				if turn == 0 {
					times = warmUp(flight)
				} else {
					n += times
				}
				for _, who := range inTurn(turn, whose) {
					before, err := processor(parts)
					if err != nil {
						return err
					}
					_, took, err := inFlight(b.ctx, flight, times, who.op.run)
					if err != nil {
						return fmt.Errorf("%s, %s: %w", f.name, who.name, err)
					}
					after, err := processor(parts)
					if err != nil {
						return err
					}
					if turn == 0 {
						used[who.name] = map[string]time.Duration{}
						continue
					}
					all[who.name] += took
					for name := range after {
						used[who.name][name] += after[name] - before[name]
					}
				}
			}
			for _, who := range whose {
				r := row{
					Name: f.name + ", " + who.name, Base: f.name + ", " + bareFlow,
					PerSecond: float64(n) / all[who.name].Seconds(), N: n, Also: map[string]float64{},
				}
				if who.name == "hallpass" {
					for _, base := range []string{sameFlow, diskFlow} {
						r.Also["of "+base] = all[base].Seconds() / all[who.name].Seconds()
					}
				}
				for name, spent := range used[who.name] {
					ms := spent.Seconds() * 1e3 / float64(n)
					r.Also["ms in all"] += ms
					if ms >= 0.5 { // it has something to do with it
						r.Also["ms "+name] = ms
					}
				}
				b.add(r)
			}
		}
		return nil
	})
}

// part is a process that is looked at.
type part struct {
	name string
	pid  int
}

func run(name string, cmd *exec.Cmd) (part, func() error, error) {
	cmd.Stderr = os.Stderr
	if strings.HasSuffix(cmd.Path, "hallpass") {
		cmd.Stderr = nil // says what it serves
	}
	if err := cmd.Start(); err != nil {
		return part{}, nil, err
	}
	return part{name, cmd.Process.Pid}, func() error {
		return errors.Join(cmd.Process.Signal(os.Interrupt), cmd.Wait())
	}, nil
}

// freeAddress is one of 127.0.0.1 at which nobody listens.
func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

// listens waits until something does at an address.
func listens(ctx context.Context, address string) error {
	ctx, stop := context.WithTimeout(ctx, time.Minute)
	defer stop()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	var d net.Dialer
	for {
		conn, err := d.DialContext(ctx, "tcp", address)
		if err == nil {
			return conn.Close()
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return err
		}
	}
}

// processor is the time of the processor that each has used.
func processor(parts []part) (map[string]time.Duration, error) {
	used := map[string]time.Duration{}
	for _, p := range parts {
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.pid))
		if err != nil {
			return nil, err
		}
		// proc(5): utime and stime are the 14th and 15th, in ticks of 10 ms; the second
		// is the program's name in parentheses.
		_, rest, _ := strings.Cut(string(data), ") ")
		fields := strings.Fields(rest)
		if len(fields) < 13 {
			return nil, fmt.Errorf("process %d has no times", p.pid)
		}
		for _, field := range fields[11:13] {
			ticks, err := strconv.Atoi(field)
			if err != nil {
				return nil, fmt.Errorf("process %d: %w", p.pid, err)
			}
			used[p.name] += time.Duration(ticks) * 10 * time.Millisecond
		}
	}
	return used, nil
}

// resident is the memory of a process in MiB.
func resident(pid int) (float64, error) { return memory(pid, "VmRSS") }

// peak is the most memory that a process has had since forget, or since it
// started, in MiB.
func peak(pid int) (float64, error) { return memory(pid, "VmHWM") }

// forget begins the peak of a process anew.
func forget(pid int) error {
	return os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", pid), []byte("5"), 0o600) // proc_pid_clear_refs(5)
}

func memory(pid int, line string) (float64, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for l := range strings.Lines(string(data)) {
		var kib float64
		if _, err := fmt.Sscanf(l, line+": %f kB", &kib); err == nil {
			return kib / 1024, nil
		}
	}
	return 0, fmt.Errorf("process %d has no %s", pid, line)
}

// bareWorker is the first argument that makes this program a worker for bare
// workflows and nothing else.
const bareWorker = "bare-worker"

func serveBareOnly(ctx context.Context, address, namespace, file string, queues ...string) error {
	c, err := devtest.Dial(ctx, address, namespace)
	if err != nil {
		return err
	}
	defer c.Close()
	stop, err := serveBare(c, file, queues...)
	if err != nil {
		return err
	}
	defer stop()
	ctx, done := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer done()
	<-ctx.Done()
	return nil
}
