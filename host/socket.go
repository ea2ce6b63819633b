//go:build linux

package host

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"
)

// listen opens the agent's socket, which only root can reach. A socket that an
// earlier run left is replaced; that of a run that lives is an error.
func listen(path string) (*net.UnixListener, error) {
	if c, err := net.Dial("unix", path); err == nil {
		_ = c.Close()
		return nil, errors.New("another hallpass-host is running on this host")
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
	if err != nil {
		return nil, err
	}
	// The folder keeps others out already.
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(err, ln.Close())
	}
	return ln, nil
}

// serve answers on the socket until it is closed.
func (a *agent) serve(ctx context.Context, ln *net.UnixListener) {
	for {
		conn, err := ln.AcceptUnix()
		if err != nil {
			if ctx.Err() == nil && !errors.Is(err, net.ErrClosed) {
				a.log.Error("socket", "error", err)
				pause(10 * time.Millisecond) // such as too many open files
				continue
			}
			return
		}
		go func() {
			defer func() { _ = conn.Close() }()
			_ = conn.SetDeadline(time.Now().Add(2 * hookPatience))
			data, err := json.Marshal(a.answer(conn))
			if err != nil {
				a.log.Error("answer", "error", err)
				return
			}
			_, _ = conn.Write(append(data, '\n'))
		}()
	}
}

func (a *agent) answer(conn *net.UnixConn) answer {
	peer, err := peerOf(conn)
	if err == nil {
		defer peer.close()
	}
	// Read in any case: closing a socket with something unread in it would
	// lose the answer too.
	var q question
	readErr := readMessage(conn, &q)
	if err != nil {
		a.log.Warn("refused on the socket", "error", err)
		return answer{Why: err.Error()}
	}
	if readErr != nil {
		return answer{Why: "the question can't be read"}
	}
	switch q.Op {
	case opOpen:
		if err := a.open(peer, q); err != nil {
			a.log.Warn("session refused", "login", q.User, "why", err)
			return answer{Why: err.Error()}
		}
		return answer{Allow: true}
	case opStatus:
		st := a.status()
		return answer{Status: &st}
	}
	return answer{Why: "the question is unknown"}
}

// peerOf is the process at the other end, as the kernel says: one that root
// itself started.
func peerOf(conn *net.UnixConn) (*process, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	var cred *unix.Ucred
	var credErr error
	if err := raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil {
		return nil, err
	}
	if credErr != nil {
		return nil, credErr
	}
	p, err := openProcess(int(cred.Pid))
	if err != nil {
		return nil, err
	}
	uid, err := realUID(p.pid)
	if err == nil && (cred.Uid != 0 || uid != 0) {
		err = fmt.Errorf("process %d is of user %d, not of root", p.pid, uid)
	}
	if err != nil {
		p.close()
		return nil, err
	}
	return p, nil
}

// open takes in the connection whose hook asks: the hook's parent is the
// monitor of it. What the hook says of itself isn't asked.
func (a *agent) open(hook *process, q question) error {
	st, err := readStat(hook.pid)
	if err != nil || st.parent <= 1 {
		return errors.New("the connection has ended")
	}
	monitor, err := openProcess(st.parent)
	if err != nil {
		return err
	}
	taken := false
	defer func() {
		if !taken {
			monitor.close()
		}
	}()
	// If the hook lives and still has the same parent, then the pidfd is the
	// parent's, and not of another process that got its number.
	again, err := readStat(hook.pid)
	if err != nil || again.parent != st.parent || again.start != hook.start || !hook.alive() {
		return errors.New("the connection has ended")
	}
	if uid, err := realUID(monitor.pid); err != nil || uid != 0 {
		return fmt.Errorf("process %d, which asks, is not of root", monitor.pid)
	}
	trusted, err := readKeys(a.layout.userCAs())
	if err == nil {
		err = a.admit(monitor, trusted, q, &taken)
	}
	if err != nil {
		// Before the answer: whatever becomes of the hook, nobody gets in.
		return errors.Join(err, monitor.signal(unix.SIGKILL))
	}
	return nil
}

func (a *agent) admit(monitor *process, trusted []ssh.PublicKey, q question, taken *bool) error {
	g, err := readAuthInfo(q.AuthInfo, trusted)
	if err != nil || g == nil || a.sessions.known(monitor) {
		return err
	}
	source := "unknown"
	if addr, ok := monitor.peer(); ok {
		source = addr.String()
	} else if q.Remote != "" {
		source = clean(q.Remote)
	}
	if err := a.sessions.open(monitor, g, clean(q.User), source); err != nil {
		return err
	}
	*taken = true
	return nil
}
