package process

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

func sh(script string) *exec.Cmd { return exec.Command("sh", "-c", script) }

func ready(line string) bool { return line == "ready" }

func TestStart(t *testing.T) {
	t.Parallel()
	p, err := Start(sh("echo not ready >&2; echo ready; exec sleep 1000"), ready)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := p.Output(), "not ready\nready\n"; got != want {
		t.Errorf("output: got %q, want %q", got, want)
	}
	p.Kill()
	p.Kill() // does nothing
}

func TestStartEndsEarly(t *testing.T) {
	t.Parallel()
	_, err := Start(sh("echo why it failed >&2; exit 3"), ready)
	if err == nil || !strings.Contains(err.Error(), "exit status 3") || !strings.Contains(err.Error(), "why it failed") {
		t.Errorf("got %v, want the exit status and what the program said", err)
	}
}

// outcome keeps how a test ends that is told to.
type outcome struct {
	testing.TB
	skipped, failed string
}

func (o *outcome) Helper()                   {}
func (o *outcome) Skip(why ...any)           { o.skipped = fmt.Sprint(why...); runtime.Goexit() }
func (o *outcome) Fatalf(f string, a ...any) { o.failed = fmt.Sprintf(f, a...); runtime.Goexit() }

// TestUnable: what can't run is skipped by people, and fails where nobody looks.
func TestUnable(t *testing.T) {
	ends := func() (o outcome) {
		done := make(chan struct{})
		go func() {
			defer close(done)
			Installed(&o, "no-such-program")
		}()
		<-done
		return o
	}
	t.Setenv("CI", "") // and put back at the end
	if err := os.Unsetenv("CI"); err != nil {
		t.Fatal(err)
	}
	if o := ends(); o.skipped != "no-such-program is not installed" || o.failed != "" {
		t.Errorf("without CI: %+v", o)
	}
	t.Setenv("CI", "1")
	if o := ends(); o.failed != "CI is set, and no-such-program is not installed" || o.skipped != "" {
		t.Errorf("with CI: %+v", o)
	}
	if path := Installed(t, "sh"); !filepath.IsAbs(path) {
		t.Errorf("sh is at %q", path)
	}
}

// TestTryPorts: a port that somebody else was faster to take costs a try.
func TestTryPorts(t *testing.T) {
	t.Parallel()
	var tries []int
	TryPorts(t, func(port int) error {
		tries = append(tries, port)
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = l.Close() }()
		if len(tries) == 1 {
			_, err = net.Listen("tcp", l.Addr().String())
		}
		return err
	})
	if len(tries) != 2 {
		t.Errorf("tried %d ports, want 2", len(tries))
	}
}
