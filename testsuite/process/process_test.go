package process

import (
	"net"
	"os/exec"
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
