// Package process runs the servers that tests need as processes of their own,
// and sees to it that none of them outlives the tests.
package process

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// startTimeout is far more than any server here takes on a busy machine.
const startTimeout = 2 * time.Minute

// Process is a running program.
type Process struct {
	cmd    *exec.Cmd
	output *output
	ended  chan struct{} // closed when it and all that it started have ended
	err    error         // how it ended; read after ended is closed
}

// Start runs cmd and returns when ready has said yes to a line that the
// program wrote on either of its outputs. If the program ends before that, or
// takes too long, it is gone when Start returns, and the error says what it
// wrote.
func Start(cmd *exec.Cmd, ready func(line string) bool) (*Process, error) {
	p := &Process{cmd: cmd, ended: make(chan struct{}), output: &output{ready: ready, isReady: make(chan struct{})}}
	cmd.Stdout, cmd.Stderr = p.output, p.output
	bind(cmd)
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		p.err = cmd.Wait()
		close(p.ended)
	}()
	timeout := time.NewTimer(startTimeout)
	defer timeout.Stop()
	select {
	case <-p.output.isReady:
		return p, nil
	case <-p.ended:
		return nil, fmt.Errorf("%s ended before it was ready: %w\n%s", cmd.Path, p.err, p.Output())
	case <-timeout.C:
		p.Kill()
		return nil, fmt.Errorf("%s isn't ready after %s\n%s", cmd.Path, startTimeout, p.Output())
	}
}

// Pid is the process id.
func (p *Process) Pid() int { return p.cmd.Process.Pid }

// Done is closed when the program and all that it started have ended.
func (p *Process) Done() <-chan struct{} { return p.ended }

// Output is all that the program has written so far.
func (p *Process) Output() string { return p.output.String() }

// Signal sends a signal and waits until the program and all that it started
// have ended. To a program that has ended it does nothing.
func (p *Process) Signal(sig os.Signal) {
	_ = p.cmd.Process.Signal(sig)
	<-p.ended
}

// Kill is kill -9, and waits as Signal does.
func (p *Process) Kill() { p.Signal(syscall.SIGKILL) }

// output keeps what a program writes and looks for the line that says it is
// ready.
type output struct {
	mu      sync.Mutex
	written bytes.Buffer
	seen    int // bytes of written that ready has been asked about
	ready   func(line string) bool
	isReady chan struct{}
}

func (o *output) Write(data []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.written.Write(data)
	for o.ready != nil {
		line, _, whole := bytes.Cut(o.written.Bytes()[o.seen:], []byte("\n"))
		if !whole {
			break
		}
		o.seen += len(line) + 1
		if o.ready(string(line)) {
			o.ready = nil
			close(o.isReady)
		}
	}
	return len(data), nil
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.written.String()
}

// Unable skips a test that can't run here. With CI set, where nobody reads what was
// skipped, that is an error.
func Unable(t testing.TB, why string) {
	t.Helper()
	if _, ci := os.LookupEnv("CI"); ci {
		t.Fatalf("CI is set, and %s", why)
	}
	t.Skip(why)
}

// LeftOut says what a test that goes on didn't try: here, and, as make test asks for it by
// way of HALLPASS_LEFT_OUT, in a file that it shows when all is done.
func LeftOut(t testing.TB, what string) {
	t.Helper()
	line := fmt.Sprintf("not tried by %s: %s", t.Name(), what)
	t.Log(line)
	path := os.Getenv("HALLPASS_LEFT_OUT")
	if path == "" {
		return
	}
	f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err == nil {
		_, err = fmt.Fprintln(f, line)
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		t.Error(err)
	}
}

// Installed finds a program that tests run. Without it the test is Unable.
func Installed(t testing.TB, name string) (path string) {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		Unable(t, name+" is not installed")
	}
	return path
}

// Built finds the server that make TARGET builds for tests: bin/TARGET-for-tests, or
// where an environment variable says. Where it is missing the test is skipped,
// unless that or CI is set.
func Built(t testing.TB, variable, target string) string {
	t.Helper()
	bin, required := os.LookupEnv(variable)
	if !required {
		bin = filepath.Join(root(t), "bin", target+"-for-tests")
	}
	if _, err := os.Stat(bin); err != nil {
		if required {
			t.Fatalf("a server for tests is missing; build it with make %s: %v", target, err)
		}
		Unable(t, fmt.Sprintf("there is no %s; build it with make %s", filepath.Base(bin), target))
	}
	return bin
}

// root is the folder of hallpass's source.
func root(t testing.TB) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
		up := filepath.Dir(dir)
		if up == dir {
			t.Fatal("this test runs outside of hallpass's source")
		}
		dir = up
	}
}

// FreePort finds a port of 127.0.0.1 that nobody listens on. It is below
// those that systems take for outgoing connections, so that it stays free
// while the server that had it is dead. Two processes may still pick the same
// one; see TryPorts.
func FreePort() (int, error) {
	for range 100 {
		port := 20000 + rand.IntN(12000)
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			continue
		}
		return port, l.Close()
	}
	return 0, fmt.Errorf("found no free port on 127.0.0.1")
}

// TryPorts calls start with free ports until it doesn't fail because somebody
// else was faster to take one.
func TryPorts(t testing.TB, start func(port int) error) {
	t.Helper()
	for try := 1; ; try++ {
		port, err := FreePort()
		if err == nil {
			err = start(port)
		}
		if err == nil {
			return
		}
		if try == 5 || !strings.Contains(strings.ToLower(err.Error()), "address already in use") {
			t.Fatal(err)
		}
	}
}
