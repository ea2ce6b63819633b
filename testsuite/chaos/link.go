package chaos

import (
	"io"
	"net"
	"sync"
	"time"
)

// Link is a way from one part to another, which can be cut, held up and slowed
// down.
type Link struct {
	Name string

	listener net.Listener
	to       string
	mu       sync.Mutex
	changed  chan struct{} // closed when what follows changes
	cut      bool          // nothing is connected
	stalled  bool          // nothing passes
	delay    time.Duration // of whatever passes
	ends     map[net.Conn]bool
}

// NewLink begins at a port of 127.0.0.1, and leads to an address. It is there
// until Close.
func NewLink(name, to string) (*Link, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	link := &Link{Name: name, listener: l, to: to, changed: make(chan struct{}), ends: map[net.Conn]bool{}}
	go link.accept()
	return link, nil
}

// Address is where it begins.
func (l *Link) Address() string { return l.listener.Addr().String() }

// Port is that of Address.
func (l *Link) Port() int { return l.listener.Addr().(*net.TCPAddr).Port }

// Close ends it and all connections on it.
func (l *Link) Close() error {
	l.set(func() { l.cut = true })
	return l.listener.Close()
}

// set changes how it is.
func (l *Link) set(f func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f()
	close(l.changed)
	l.changed = make(chan struct{})
	if l.cut {
		for c := range l.ends {
			_ = c.Close()
		}
	}
}

func (l *Link) accept() {
	for {
		from, err := l.listener.Accept()
		if err != nil {
			return
		}
		go l.carry(from)
	}
}

func (l *Link) carry(from net.Conn) {
	defer func() { _ = from.Close() }()
	if !l.keep(from) {
		return
	}
	defer l.drop(from)
	to, err := net.DialTimeout("tcp", l.to, 10*time.Second)
	if err != nil {
		return
	}
	defer func() { _ = to.Close() }()
	if !l.keep(to) {
		return
	}
	defer l.drop(to)
	done := make(chan struct{}, 2)
	for _, way := range [][2]net.Conn{{from, to}, {to, from}} {
		go func() { l.copy(way[1], way[0]); done <- struct{}{} }()
	}
	<-done
}

func (l *Link) keep(c net.Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.cut {
		l.ends[c] = true
	}
	return !l.cut
}

func (l *Link) drop(c net.Conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.ends, c)
}

func (l *Link) copy(to io.Writer, from io.Reader) {
	data := make([]byte, 16<<10)
	for {
		n, err := from.Read(data)
		if n > 0 && l.pass() {
			if _, err := to.Write(data[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// pass waits as long as something on the link has to, and says whether there
// still is a link.
func (l *Link) pass() bool {
	for {
		l.mu.Lock()
		cut, stalled, delay, changed := l.cut, l.stalled, l.delay, l.changed
		l.mu.Unlock()
		switch {
		case cut:
			return false
		case stalled:
			<-changed
		case delay > 0:
			select {
			case <-time.After(delay):
				return true
			case <-changed:
			}
		default:
			return true
		}
	}
}
