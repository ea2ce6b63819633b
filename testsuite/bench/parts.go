package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"go.temporal.io/sdk/client"

	"hallpass/access"
	"hallpass/testsuite/devtest"
)

// bareName is the part that runs bare workflows.
const bareName = "bare worker"

// apart starts each part as a process of its own: Temporal (with a hallpass dev that
// has nothing to do), the worker of the workflows, the issuer, and a worker for bare
// workflows. It gives them to f, and a world in which requests go to them.
func (b *bench) apart(f func(*world, []part) error) error {
	return b.world(func(w *world) (err error) {
		const namespace = "apart"
		c, err := w.Namespace(b.ctx, namespace)
		if err != nil {
			return err
		}
		defer c.Close()
		// The sweeps of hallpass dev would miss the workflows, which are in
		// another namespace, and end their grants.
		if err := w.Client.ScheduleClient().GetHandle(b.ctx, access.SweepSchedule).Pause(b.ctx, client.SchedulePauseOptions{}); err != nil {
			return fmt.Errorf("pause sweeps: %w", err)
		}
		parts := []part{{name: "Temporal", pid: w.PID}}
		for _, role := range []string{"workflows", "issuer:ssh"} {
			cmd := exec.Command(b.program, "worker", "--role", role)
			cmd.Env = append(w.env("alice"), "HALLPASS_TEMPORAL_NAMESPACE="+namespace)
			p, stop, err := run(role, cmd)
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, stop()) }()
			parts = append(parts, p)
		}
		self, err := os.Executable()
		if err != nil {
			return err
		}
		p, stop, err := run(bareName, exec.Command(self, bareWorker, w.Address, namespace))
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, stop()) }()
		inside := *w
		inside.Server = &devtest.Server{Ready: w.Ready, Client: c}
		return f(&inside, append(parts, p))
	})
}

// parts says where the processor's time goes, from the request to the certificate:
// for requests, for bare workflows, and for bare ones that show their state and have
// a timer, so that what is Temporal's of it can be told from what is hallpass's.
func (b *bench) parts() error {
	return b.apart(func(w *world, parts []part) error {
		parts = append(parts, part{name: "clients", pid: os.Getpid()})
		for _, f := range []struct {
			name     string
			hallpass op
			bare     bareInput
		}{{"automatic", w.automatic, bareInput{}}, {"with an approval", w.approved, bareInput{Approvals: 1}}} {
			shown := f.bare
			shown.Shown = true
			whose := []struct {
				name string
				op   op
			}{
				{"bare workflow", w.bare(f.bare)},
				{"bare workflow that shows its state", w.bare(shown)},
				{"hallpass", f.hallpass},
			}
			const flight, turns = 16, 4
			used := make([]map[string]time.Duration, len(whose))
			all, n := make([]time.Duration, len(whose)), 0
			for turn := range turns + 1 {
				times := b.times(250)
				if turn == 0 {
					times = min(times, 2*flight) // to get warm
				} else {
					n += times
				}
				for i, who := range inTurn(turn, whose) {
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
						used[i] = map[string]time.Duration{}
						continue
					}
					all[i] += took
					for name := range after {
						used[i][name] += after[name] - before[name]
					}
				}
			}
			for i, who := range whose {
				r := row{
					Name: f.name + ", " + who.name, Base: f.name + ", " + whose[0].name,
					PerSecond: float64(n) / all[i].Seconds(), N: n, Also: map[string]float64{},
				}
				for name, spent := range used[i] {
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
func resident(pid int) (float64, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(data)) {
		var kib float64
		if _, err := fmt.Sscanf(line, "VmRSS: %f kB", &kib); err == nil {
			return kib / 1024, nil
		}
	}
	return 0, fmt.Errorf("process %d has no VmRSS", pid)
}

// bareWorker is the first argument that makes this program a worker for bare
// workflows and nothing else.
const bareWorker = "bare-worker"

func serveBareOnly(ctx context.Context, address, namespace string) error {
	c, err := devtest.Dial(ctx, address, namespace)
	if err != nil {
		return err
	}
	defer c.Close()
	stop, err := serveBare(c)
	if err != nil {
		return err
	}
	defer stop()
	ctx, done := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer done()
	<-ctx.Done()
	return nil
}
