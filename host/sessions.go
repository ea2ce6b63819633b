//go:build linux

package host

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"

	"hallpass/access"
	"hallpass/ca/krl"
	"hallpass/statement"
)

// How a session is ended, step by step.
const (
	readTime = 60 * time.Millisecond  // for the line on the terminal to reach the client
	leave    = 100 * time.Millisecond // for sshd to clean up after SIGTERM
	killTime = 5 * time.Second        // for the kernel to do it

	killAgain = time.Second // after which it is tried again
)

// atOnce is how many sessions are ended side by side. Each takes a thread while
// it waits for the kernel.
const atOnce = 64

// lookAgain is how often a session is looked at whose connection has gone and
// whose processes have not.
const lookAgain = 5 * time.Second

// record is what is on disk of a session: enough to take it up again.
type record struct {
	ID          string    `json:"id"`
	Boot        string    `json:"boot"` // the run of the kernel that Monitor is a process of
	Monitor     int       `json:"monitor"`
	Start       uint64    `json:"start"`            // of the monitor; clock ticks since boot
	Cgroup      cgroup    `json:"cgroup,omitempty"` // none: only what descends from the monitor can be ended
	Certificate string    `json:"certificate"`
	Extended    string    `json:"extended,omitempty"` // the certificate that lets it go on, once there is one
	Login       string    `json:"login"`
	Source      string    `json:"source"` // "address:port", "[address]:port" or "unknown"
	Opened      time.Time `json:"opened"`
	Closed      bool      `json:"closed,omitempty"` // the connection is gone, processes are left
}

// session is one connection. Its monitor is the process of sshd that runs as
// root for it.
type session struct {
	record
	grant   *grant
	longer  *grant   // the one that lets it go on; nil: none does
	monitor *process // nil once the connection is gone
	warned  bool
	ending  bool
	look    time.Time // when to look whether processes are left, or for the monitor; zero: no need
	tries   int       // how often its record couldn't be read
	said    string    // what the log has of that
	ask     time.Time // when to ask whether the grant was extended
}

// sessions keeps an eye on every connection that was opened with a certificate
// of hallpass. One goroutine waits on one epoll for all of them: a pidfd for
// each, and a timer for whatever comes next. That costs nothing while nothing
// happens.
//
// The timer is the wall clock's (timerfd_create(2)), so it is right after the
// machine slept and after somebody set the clock.
type sessions struct {
	dir    string
	mount  string        // of cgroup v2; empty if there is none
	warn   time.Duration // before the end
	offset time.Duration // how far the clock is off; tests only
	log    *slog.Logger
	report func(event)
	news   chan struct{} // holds one: a session was opened

	epoll, timer, stop int

	mu      sync.Mutex
	live    map[string]*session
	byFD    map[int32]*session
	unread  map[string]*session // from an earlier run, whose record can't be read: they may have no grant, and are ended
	list    *krl.List           // the latest good one; nil until there is one
	enders  sync.WaitGroup
	hands   chan struct{} // for those that end sessions
	stopped bool
}

// until is the grant by whose end the session has to be gone.
func (x *session) until() *grant {
	if x.longer != nil {
		return x.longer
	}
	return x.grant
}

// event is what happened to a session, before it is reported. It ended also if
// hallpass didn't let it begin.
type event struct {
	What    string // access.SessionOpened, SessionClosed or SessionEnded
	Session record
	Why     string
	grant   *grant
}

// Why sessions end, for people.
const (
	whyOver    = "the grant has ended"
	whyRevoked = "the grant was revoked"
	whyUnread  = "the host's agent can't read what it has noted of the grant"
)

func newSessions(dir, mount string, warn time.Duration, log *slog.Logger, report func(event)) (*sessions, error) {
	s := &sessions{
		dir: dir, mount: mount, warn: warn, log: log, report: report,
		news: make(chan struct{}, 1), epoll: -1, timer: -1, stop: -1,
		live: map[string]*session{}, byFD: map[int32]*session{}, unread: map[string]*session{}, hands: make(chan struct{}, atOnce),
	}
	var err1, err2, err3 error
	s.epoll, err1 = unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	s.timer, err2 = unix.TimerfdCreate(unix.CLOCK_REALTIME, unix.TFD_CLOEXEC|unix.TFD_NONBLOCK)
	s.stop, err3 = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err := errors.Join(err1, err2, err3); err != nil {
		return nil, err
	}
	for _, fd := range []int{s.timer, s.stop} {
		if err := s.watch(fd); err != nil {
			return nil, err
		}
	}
	return s, nil
}

func (s *sessions) watch(fd int) error {
	return unix.EpollCtl(s.epoll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)})
}

func (s *sessions) now() time.Time { return time.Now().Add(s.offset) }

// close stops looking after the sessions, which live on.
func (s *sessions) close() {
	s.mu.Lock()
	s.stopped = true
	s.mu.Unlock()
	_, _ = unix.Write(s.stop, []byte{1, 0, 0, 0, 0, 0, 0, 0})
	s.enders.Wait()
}

// run waits for things to happen, until close.
func (s *sessions) run() {
	events := make([]unix.EpollEvent, 64)
	for {
		n, err := unix.EpollWait(s.epoll, events, -1)
		if err != nil && err != unix.EINTR {
			s.log.Error("waiting for sessions failed", "error", err)
			return
		}
		for _, e := range events[:max(n, 0)] {
			switch int(e.Fd) {
			case s.stop:
				return
			case s.timer:
				var b [8]byte
				_, _ = unix.Read(s.timer, b[:])
			default:
				s.gone(e.Fd)
			}
		}
		s.tick()
	}
}

// gone takes in that a monitor has ended.
func (s *sessions) gone(fd int32) {
	s.mu.Lock()
	x := s.byFD[fd]
	if x != nil {
		s.drop(x)
	}
	if x == nil || x.ending { // whoever ends it does the rest
		s.mu.Unlock()
		return
	}
	e := event{What: access.SessionClosed, Session: x.record, grant: x.grant}
	x.Closed = true
	s.linger(x)
	s.mu.Unlock()
	s.log.Info("session closed", "session", x.ID, "request", x.grant.request, "login", x.Login)
	s.report(e)
}

// drop lets go of the monitor.
func (s *sessions) drop(x *session) {
	if x.monitor == nil {
		return
	}
	_ = unix.EpollCtl(s.epoll, unix.EPOLL_CTL_DEL, x.monitor.fd, nil)
	delete(s.byFD, int32(x.monitor.fd))
	x.monitor.close()
	x.monitor = nil
}

// linger keeps a session without a connection for as long as it has processes:
// what was left behind doesn't outlive the grant either.
func (s *sessions) linger(x *session) {
	if x.Cgroup != "" && x.Cgroup.populated() {
		x.look = s.now().Add(lookAgain)
		if err := s.save(x.record); err != nil {
			s.log.Error("session can't be kept on disk", "session", x.ID, "error", err)
		}
		return
	}
	s.forget(x)
}

func (s *sessions) forget(x *session) {
	s.drop(x)
	delete(s.live, x.ID)
	delete(s.unread, x.ID)
	if x.Cgroup != "" {
		if err := x.Cgroup.remove(); err != nil {
			s.log.Warn("cgroup can't be removed", "session", x.ID, "error", err)
		}
	}
	if err := os.Remove(s.file(x.ID)); err != nil && !errors.Is(err, os.ErrNotExist) {
		s.log.Warn("record of session can't be removed", "session", x.ID, "error", err)
	}
}

// tick does whatever is due and sets the timer to what comes next.
func (s *sessions) tick() {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	var next time.Time
	at := func(t time.Time) {
		if next.IsZero() || t.Before(next) {
			next = t
		}
	}
	for _, x := range s.live {
		if x.ending {
			continue
		}
		switch over := x.until().over(); {
		case s.revoked(x.grant) || s.revoked(x.until()):
			s.end(x, whyRevoked)
			continue
		case !now.Before(over):
			s.end(x, whyOver)
			continue
		default:
			at(over)
		}
		if !x.look.IsZero() {
			if !now.Before(x.look) {
				if x.Closed {
					s.linger(x)
				} else {
					s.seek(x)
				}
			}
			if s.live[x.ID] != nil && !x.look.IsZero() {
				at(x.look)
			}
		}
		if t := s.warnAt(x); !t.IsZero() && !x.warned {
			if now.Before(t) {
				at(t)
			} else {
				x.warned = true
				go tell(s.pids(x), fmt.Sprintf("hallpass: this session ends at %s, in %s.",
					x.until().over().Format("15:04:05 MST"), x.until().over().Sub(now).Round(time.Second)))
			}
		}
	}
	for id, x := range s.unread {
		if x.ending {
			continue
		}
		if !now.Before(x.look) {
			s.takeUp(id)
		}
		if x := s.unread[id]; x != nil {
			at(x.look)
		}
		if x := s.live[id]; x != nil {
			at(now) // it was read at last
		}
	}
	s.setTimer(next)
}

// warnAt is when the terminal is told of the end; zero for never. Whoever just
// came for less than that knows.
func (s *sessions) warnAt(x *session) time.Time {
	before := x.until().warn
	if before < 0 {
		before = s.warn
	}
	t := x.until().over().Add(-before)
	if before == 0 || t.Before(x.Opened) {
		return time.Time{}
	}
	return t
}

// setTimer makes run wake up at that time; never if it is zero.
func (s *sessions) setTimer(at time.Time) {
	var spec unix.ItimerSpec
	if !at.IsZero() {
		// The clock of the kernel is not the one that is off. Whatever is
		// overdue is due in a nanosecond: zero would disarm the timer.
		at = at.Add(-s.offset)
		spec.Value = unix.NsecToTimespec(max(1, at.UnixNano()))
	}
	if err := unix.TimerfdSettime(s.timer, unix.TFD_TIMER_ABSTIME, &spec, nil); err != nil {
		s.log.Error("timer can't be set: sessions will outlive their grants", "error", err)
	}
}

// wake makes run look at everything now.
func (s *sessions) wake() { s.setTimer(time.Unix(0, 1)) }

// pids are the processes of a session.
func (s *sessions) pids(x *session) []int {
	if x.Cgroup != "" {
		return x.Cgroup.pids()
	}
	return append(descendants(x.Monitor), x.Monitor)
}

// use takes in a list, from here on the one that decides, and ends what it
// revokes.
func (s *sessions) use(l *krl.List) {
	s.mu.Lock()
	s.list = l
	s.mu.Unlock()
	s.tick()
}

func (s *sessions) revoked(g *grant) bool {
	return s.list != nil && s.list.Revoked(g.cert.SignatureKey, g.cert.Serial)
}

// end ends a session, in a goroutine of its own. The lock is held.
func (s *sessions) end(x *session, why string) {
	if s.stopped {
		return // the next start ends it
	}
	x.ending = true
	s.enders.Go(func() {
		s.hands <- struct{}{}
		gone := s.kill(x, why)
		<-s.hands
		switch {
		case gone && x.grant == nil: // nobody would know what a report is about
			s.log.Info("session ended", "session", x.ID, "login", x.Login, "source", x.Source, "why", why)
		case gone:
			s.log.Info("session ended", "session", x.ID, "request", x.grant.request, "login", x.Login, "source", x.Source, "why", why)
			s.report(event{What: access.SessionEnded, Session: x.record, Why: why, grant: x.grant})
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		if gone {
			s.forget(x)
			return
		}
		s.log.Error("session can't be ended", "session", x.ID, "login", x.Login, "monitor", x.Monitor)
		x.ending = false
		time.AfterFunc(killAgain, s.wake)
	})
}

// kill ends the processes of a session: first a line for the one who looks at
// it, then sshd itself, so that it can clean up, then all that is left.
func (s *sessions) kill(x *session, why string) bool {
	unsure := false
	s.mu.Lock()
	monitor := x.monitor
	if monitor == nil && !x.Closed { // it wasn't found, so far
		p, err := s.find(x)
		if err == nil {
			monitor = p
			defer p.close()
		} else if !hasEnded(err) {
			unsure = true
			s.note(x, err)
		}
	} else if monitor != nil {
		// A pidfd of our own: run may close the other one meanwhile.
		if fd, err := unix.FcntlInt(uintptr(monitor.fd), unix.F_DUPFD_CLOEXEC, 0); err == nil {
			monitor = &process{pid: monitor.pid, start: monitor.start, fd: fd}
			defer monitor.close()
		}
	}
	s.mu.Unlock()

	if (x.Cgroup != "" || monitor != nil) && tell(s.pids(x), "hallpass: "+why+"; this session is closed.") {
		pause(readTime)
	}
	var below []*process
	if x.Cgroup == "" && monitor != nil {
		// Found before the monitor goes: after it they are init's children.
		for _, pid := range descendants(x.Monitor) {
			if p, err := openProcess(pid); err == nil {
				below = append(below, p)
				defer p.close()
			}
		}
	}
	if monitor != nil {
		s.note(x, monitor.signal(unix.SIGTERM))
		monitor.wait(leave)
	}
	if x.Cgroup != "" && x.Cgroup.exists() {
		s.note(x, x.Cgroup.kill())
	}
	for _, p := range below {
		s.note(x, p.signal(unix.SIGKILL))
	}
	if monitor != nil {
		s.note(x, monitor.signal(unix.SIGKILL))
	}
	deadline := time.Now().Add(killTime)
	for monitor != nil && !monitor.wait(time.Until(deadline)) {
		return false
	}
	for x.Cgroup != "" && x.Cgroup.populated() {
		if time.Now().After(deadline) {
			return false
		}
		pause(time.Millisecond)
	}
	return !unsure
}

func (s *sessions) note(x *session, err error) {
	if err != nil {
		s.log.Warn("ending a session", "session", x.ID, "error", err)
	}
}

// open takes in a connection whose login succeeded, before anything else can
// happen on it. An error says why it may not go on; the caller has to end it.
func (s *sessions) open(monitor *process, g *grant, login, source string) (err error) {
	x := &session{
		grant:   g,
		monitor: monitor,
		record: record{
			ID: statement.NewID(), Boot: bootID(), Monitor: monitor.pid, Start: monitor.start,
			Certificate: g.line(), Login: login, Source: source, Opened: s.now().UTC(),
		},
	}
	defer func() {
		if err != nil {
			s.report(event{What: access.SessionEnded, Session: x.record, Why: err.Error(), grant: g})
		}
	}()
	if why := s.barred(g); why != "" {
		return errors.New(why)
	}
	if s.mount != "" {
		if x.Cgroup, err = enclose(s.mount, monitor.pid, cgroupPrefix+x.ID); err != nil {
			s.log.Error("session gets no cgroup: processes that leave it behind can't be ended", "session", x.ID, "error", err)
			err = nil
		}
	}
	if err := s.save(x.record); err != nil {
		s.log.Error("session can't be kept on disk", "session", x.ID, "error", err)
		return errors.New("the host's agent can't write to its disk")
	}
	if err := s.admit(x); err != nil {
		s.undo(x)
		return err
	}
	s.report(event{What: access.SessionOpened, Session: x.record, grant: g})
	s.log.Info("session opened", "session", x.ID, "request", g.request, "login", login, "source", source, "ends", g.over())
	s.wake()
	select {
	case s.news <- struct{}{}:
	default:
	}
	return nil
}

// admit looks at the list again under the lock under which the session becomes
// known: a list taken in since the first look didn't find it, and the next
// one will.
func (s *sessions) admit(x *session) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if why := s.barredLocked(x.grant); why != "" {
		return errors.New(why)
	}
	if err := s.add(x); err != nil {
		return err
	}
	s.extend(x.grant)
	return nil
}

// extend lets the sessions go on whose grant this one extends. The host gets to
// know of it from the service, which it asks when a session is about to end, or
// because somebody logs in with it; until then, and if it can't be kept on disk,
// the old end holds. The lock is held.
func (s *sessions) extend(g *grant) {
	for _, x := range s.live {
		if x.ending || !g.continues(x.until()) || s.revoked(x.grant) {
			continue
		}
		r := x.record
		r.Extended = g.line()
		if err := s.save(r); err != nil {
			s.log.Error("session can't be kept on disk, and isn't extended", "session", x.ID, "error", err)
			continue
		}
		if x.record, x.longer = r, g; x.warned {
			x.warned = false // of what is no longer so
			go tell(s.pids(x), fmt.Sprintf("hallpass: the grant was extended; this session now ends at %s.", g.over().Format("15:04:05 MST")))
		}
		s.log.Info("session extended", "session", x.ID, "request", x.grant.request, "by", g.request, "ends", g.over())
	}
}

// undo takes back what open has done. The monitor is in the cgroup and can
// only leave it by ending.
func (s *sessions) undo(x *session) {
	_ = os.Remove(s.file(x.ID))
	_ = x.monitor.signal(unix.SIGKILL)
	if x.Cgroup != "" {
		x.monitor.wait(killTime)
		_ = x.Cgroup.kill()
		_ = x.Cgroup.remove()
	}
}

func (s *sessions) add(x *session) error {
	if x.monitor != nil {
		if err := s.watch(x.monitor.fd); err != nil {
			return fmt.Errorf("watch the connection: %w", err)
		}
		s.byFD[int32(x.monitor.fd)] = x
	}
	s.live[x.ID] = x
	return nil
}

// barred says why a grant opens nothing now; empty if it does.
func (s *sessions) barred(g *grant) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.barredLocked(g)
}

func (s *sessions) barredLocked(g *grant) string {
	switch {
	case s.stopped:
		return "the host's agent is stopping"
	case s.list == nil:
		return "the host has no list of revoked certificates yet"
	case !s.now().Before(g.end):
		return whyOver
	case s.revoked(g):
		return whyRevoked
	}
	return ""
}

// known says whether this connection is being looked after already: the hook
// stands in PAM's configuration twice, then.
func (s *sessions) known(monitor *process) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, x := range s.live {
		if x.monitor != nil && x.Monitor == monitor.pid && x.Start == monitor.start {
			return true
		}
	}
	return false
}

// unknown are the records of sessions of an earlier run that nobody knows the end
// of, if there are any.
func (s *sessions) unknown() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var files []string
	for id := range s.unread {
		files = append(files, s.file(id))
	}
	slices.Sort(files)
	return files
}

// shown are the sessions, oldest first.
func (s *sessions) shown() []Session {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := []Session{}
	for _, x := range s.live {
		out = append(out, Session{
			ID: x.ID, Request: x.grant.request, User: x.grant.requester, Login: x.Login,
			Source: x.Source, Opened: x.Opened, Ends: x.until().over(), Closed: x.Closed,
		})
	}
	slices.SortFunc(out, func(a, b Session) int { return strings.Compare(a.ID, b.ID) })
	return out
}

func (s *sessions) file(id string) string { return filepath.Join(s.dir, id+".json") }

func (s *sessions) save(r record) error {
	data, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return write(s.file(r.ID), data, 0o600)
}

// restore takes up the sessions that an earlier run of the agent looked after.
func (s *sessions) restore() error {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range entries {
		path := filepath.Join(s.dir, e.Name())
		if filepath.Ext(path) != ".json" {
			_ = os.Remove(path) // a write that a crash cut short
			continue
		}
		s.takeUp(strings.TrimSuffix(e.Name(), ".json"))
	}
	s.wake()
	return nil
}

// readTries is how often a record is tried to be read that the system doesn't
// give: for want of file descriptors, say. With lookAgain it is a minute.
const readTries = 12

// takeUp takes up one session of an earlier run. If its record can't be read, so
// that nobody knows when it has to end, it is ended. The lock is held.
func (s *sessions) takeUp(id string) {
	x, err := readRecord(s.file(id))
	switch {
	case err == nil && x.ID == id:
		delete(s.unread, id)
		s.resume(x)
		return
	case errors.Is(err, os.ErrNotExist):
		delete(s.unread, id)
		return
	case err == nil:
		err = fmt.Errorf("it is of session %q", x.ID)
	}
	known := x != nil
	if !known {
		x = &session{}
	}
	if was := s.unread[id]; was != nil {
		x.tries, x.said = was.tries, was.said
	}
	if x.ID != id {
		x.grant = nil // another's
	}
	x.ID, x.longer, x.Closed = id, nil, false
	x.tries, x.look = x.tries+1, s.now().Add(lookAgain)
	s.unread[id] = x
	say := func(what string, err error) {
		if said := fmt.Sprint(what, err); x.said != said {
			x.said = said
			s.log.Error(what, "file", s.file(id), "error", err)
		}
	}
	const unreadable, endless = "record of a session can't be read", "record of a session can't be read, and it can't be ended, as nobody knows its processes"
	if !known && x.tries < readTries {
		say(unreadable, err)
		return
	}
	if name := cgroupPrefix + id; filepath.Base(string(x.Cgroup)) != name {
		var lost error
		if x.Cgroup, lost = cgroupNamed(s.mount, name); lost != nil {
			say(endless, errors.Join(err, lost))
			return
		}
	}
	if x.Cgroup == "" && x.Monitor <= 0 {
		if s.mount == "" {
			say(endless, err)
			return
		}
		x.Closed = true // it would have a cgroup
	}
	say(unreadable, err)
	s.end(x, whyUnread)
}

// readRecord reads the record of a session. Where it doesn't say all that it
// should, there is a session beside the error, with a grant or without.
func readRecord(path string) (*session, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var x session
	if err := json.Unmarshal(data, &x.record); err != nil {
		return &x, err
	}
	if x.grant, err = recorded(x.Certificate); err == nil && x.Extended != "" {
		x.longer, err = recorded(x.Extended)
	}
	if err == nil && x.Cgroup != "" {
		err = x.Cgroup.ours()
	}
	return &x, err
}

// recorded reads the grant in a record. It was ours when the session was opened
// with it, whatever is trusted today.
func recorded(line string) (*grant, error) {
	key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(line))
	if err != nil {
		return nil, err
	}
	cert, ok := key.(*ssh.Certificate)
	if !ok {
		return nil, errors.New("its certificate is none")
	}
	g := readGrant(cert, nil)
	if g == nil {
		return nil, errors.New("its certificate is not one of hallpass")
	}
	return g, nil
}

// resume takes up one session, with the lock held.
func (s *sessions) resume(x *session) {
	if x.rebooted() {
		x.Cgroup = "" // another one may have its name
	}
	s.live[x.ID] = x
	if x.Closed {
		s.linger(x)
		return
	}
	s.seek(x)
}

// rebooted says whether the kernel has been started since the session began.
func (x *session) rebooted() bool {
	now := bootID()
	return now != "" && x.Boot != "" && x.Boot != now
}

// find opens the monitor of a session of an earlier run. An error that hasEnded
// doesn't know leaves open whether it runs.
func (s *sessions) find(x *session) (*process, error) {
	if x.rebooted() {
		return nil, errEnded
	}
	p, err := openProcess(x.Monitor)
	if err != nil {
		return nil, err
	}
	if p.start != x.Start { // somebody else has its number now
		p.close()
		return nil, errEnded
	}
	return p, nil
}

// seek looks for the monitor of a session that was open when the agent ended.
// While that can't be told, because the system has no file descriptors left, say,
// the session is open, and is tried to be ended when its time comes.
func (s *sessions) seek(x *session) {
	p, err := s.find(x)
	if err == nil {
		x.monitor = p
		if err = s.add(x); err != nil {
			x.monitor = nil
			p.close()
		}
	}
	switch {
	case err == nil:
		x.look = time.Time{}
		s.log.Info("session taken up", "session", x.ID, "request", x.grant.request, "login", x.Login)
	case hasEnded(err):
		s.report(event{What: access.SessionClosed, Session: x.record, Why: "while the agent was down", grant: x.grant})
		x.Closed = true
		s.linger(x)
	default:
		s.log.Error("session can't be watched", "session", x.ID, "error", err)
		x.look = s.now().Add(lookAgain)
	}
}
