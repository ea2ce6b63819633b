//go:build linux

package host

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"hallpass/access"
)

// hookPatience is how long a login waits for the agent, which may just be
// starting again.
const hookPatience = 10 * time.Second

// maxMessage bounds a message on the agent's socket. The largest part is a
// certificate, of which OpenSSH reads up to 256 kB.
const maxMessage = 1 << 20

// question is what the agent is asked over its socket.
type question struct {
	Op       string `json:"op"`        // opOpen or opStatus
	User     string `json:"user"`      // opOpen: PAM_USER
	Remote   string `json:"remote"`    // opOpen: PAM_RHOST
	AuthInfo string `json:"auth_info"` // opOpen: SSH_AUTH_INFO_0
}

const (
	opOpen   = "open"
	opStatus = "status"
)

// answer is what the agent says.
type answer struct {
	Allow  bool    `json:"allow,omitempty"`
	Why    string  `json:"why,omitempty"`
	Status *Status `json:"status,omitempty"`
}

// Hook is what PAM runs at the begin and end of each session of sshd
// (pam_exec(8)). It tells the agent of a connection that was opened with a
// certificate of hallpass, and waits until the agent looks after it. If the
// agent says no, or doesn't answer, it ends the connection: sshd itself goes
// on with a connection that opens no channel when PAM refuses the session.
//
// The result is the exit status: 0 lets the session begin. For every other
// session that is always so, and the agent isn't asked.
func Hook(l Layout, env func(string) string) (code int, err error) {
	info := env("SSH_AUTH_INFO_0")
	if env("PAM_TYPE") != "open_session" || !strings.Contains(info, "-cert-v01@openssh.com ") {
		return 0, nil
	}
	parent := os.Getppid()
	monitor, err := openProcess(parent)
	if err != nil || os.Getppid() != parent {
		return 1, fmt.Errorf("the process that asks has ended: %w", err)
	}
	defer monitor.close()

	// Without our CA keys every certificate that names itself hallpass's is
	// taken for one.
	trusted, _ := readKeys(l.userCAs())
	g, err := readAuthInfo(info, trusted)
	if err == nil && g == nil {
		return 0, nil
	}
	if err == nil {
		var a answer
		a, err = ask(l.socket(), question{Op: opOpen, User: env("PAM_USER"), Remote: env("PAM_RHOST"), AuthInfo: info}, hookPatience)
		if err == nil && a.Allow {
			return 0, nil
		}
		if err == nil {
			err = errors.New(a.Why)
		}
	}
	return 1, errors.Join(err, monitor.signal(unix.SIGKILL))
}

// ask asks the agent. A socket that isn't there yet, or that nobody listens
// on, is tried again until the time is over.
func ask(socket string, q question, patience time.Duration) (answer, error) {
	deadline := time.Now().Add(patience)
	var conn net.Conn
	for {
		var err error
		if conn, err = net.DialTimeout("unix", socket, patience); err == nil {
			break
		}
		starting := errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ECONNREFUSED) || errors.Is(err, unix.EAGAIN)
		if !starting || time.Now().After(deadline) {
			return answer{}, access.Errorf(access.CodeUnavailable, "the host's agent doesn't answer: %v", err).
				WithHint("start it: hallpass-host run")
		}
		pause(20 * time.Millisecond)
	}
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(deadline)
	data, err := json.Marshal(q)
	if err != nil {
		return answer{}, err
	}
	if _, err := conn.Write(append(data, '\n')); err != nil {
		return answer{}, access.Errorf(access.CodeUnavailable, "the host's agent doesn't answer: %v", err)
	}
	var a answer
	if err := readMessage(conn, &a); err != nil {
		return answer{}, access.Errorf(access.CodeUnavailable, "the host's agent doesn't answer: %v", err)
	}
	return a, nil
}

// readMessage reads one line of JSON.
func readMessage(conn net.Conn, into any) error {
	r := bufio.NewReader(&limited{conn, maxMessage})
	line, err := r.ReadBytes('\n')
	if err != nil {
		return err
	}
	return json.Unmarshal(line, into)
}

// limited fails where io.LimitedReader would pretend that the end is reached.
type limited struct {
	net.Conn
	left int
}

func (l *limited) Read(p []byte) (int, error) {
	if l.left <= 0 {
		return 0, errors.New("the message is too long")
	}
	n, err := l.Conn.Read(p[:min(len(p), l.left)])
	l.left -= n
	return n, err
}
