package worker

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"syscall"
	"time"

	enumspb "go.temporal.io/api/enums/v1"

	"hallpass/access"
)

// StartServer starts a Temporal server that serves one folder and returns
// when clients can connect. Package embedded has the one there is; it comes
// in as a value so that nothing but cmd/hallpass-dev links the server.
type StartServer func(context.Context, ServerOptions) (Server, error)

// Server is a Temporal server in this process.
type Server interface {
	// Stop returns when nothing is listening and all is on disk.
	Stop()
}

// ServerOptions is what the server is told. Its ports are on 127.0.0.1 and
// were free a moment ago.
type ServerOptions struct {
	Folder     *Folder // gets temporal.db and temporal.log
	Namespace  string  // made if it isn't there, with Attributes and Retention
	Port       int     // gRPC
	UIPort     int     // web UI
	Attributes map[string]enumspb.IndexedValueType
	Retention  time.Duration // how long closed workflows can be looked at
}

const loopback = "127.0.0.1"

// address is a port on this machine, for this machine alone.
func address(port int) string { return net.JoinHostPort(loopback, strconv.Itoa(port)) }

// checkPort fails unless something can listen on the port now. Temporal and
// its UI end the process when they can't, so it is asked first.
func checkPort(port int, what, flag string) error {
	if port < 1 || port > 65535 {
		return access.Errorf(access.CodeMalformed, "%s is %d, not a port (1 to 65535)", flag, port)
	}
	l, err := net.Listen("tcp", address(port))
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return access.Errorf(access.CodeUnavailable, "port %d, for %s, is taken by another program", port, what).
			WithHint("stop it, or give another port with %s", flag)
	case errors.Is(err, os.ErrPermission):
		return access.Errorf(access.CodeUnavailable, "port %d, for %s, needs root", port, what).
			WithHint("give a port above 1023 with %s", flag)
	case err != nil:
		return fmt.Errorf("listen on %s for %s: %w", address(port), what, err)
	}
	return l.Close()
}
