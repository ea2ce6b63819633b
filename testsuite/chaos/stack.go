package chaos

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
	"go.temporal.io/sdk/client"
	"golang.org/x/crypto/ssh"

	"hallpass/testsuite/chaos/check"
	"hallpass/testsuite/devtest"
)

// Stack is a whole hallpass that runs, and what of it can be broken.
type Stack struct {
	People    devtest.People
	Login     string // who logs in to the host
	Program   string // hallpass
	Env       []string
	Temporal  client.Client // as people reach it
	Service   string        // address of the service for hosts, as the host reaches it
	ServedBy  string        // file of the certificate that it is known by
	CA        ssh.PublicKey
	Folders   []string // in which nothing unfinished may be left
	Namespace string

	Parts []*Part
	Links []*Link
	Disks []*Disk
	Vault *Vault // nil: there is none to ask

	untried []string // faults that this machine can't have
}

// AddDisk makes a disk to fill at an empty folder, until the test ends, or says
// that none is filled there.
func (s *Stack) AddDisk(t testing.TB, name, dir string) {
	t.Helper()
	disk, err := Mount(name, dir)
	if err != nil {
		s.untried = append(s.untried, "no disk is filled: "+unable(t, err))
		return
	}
	t.Cleanup(func() { _ = disk.Unmount() })
	s.Disks = append(s.Disks, disk)
}

// unable says why something can't be tried here. In CI, where nobody reads what
// wasn't, that is an error, unless it is the machine that has no such thing, or lets
// not even root do it, as many a container does.
func unable(t testing.TB, err error) string {
	t.Helper()
	_, ci := os.LookupEnv("CI")
	denied := errors.Is(err, os.ErrPermission) && os.Geteuid() == 0
	if ci && !denied && !errors.Is(err, errors.ErrUnsupported) {
		t.Fatalf("CI is set, and %v", err)
	}
	return err.Error()
}

// Vault makes the logins to a database that people ask for.
type Vault struct {
	Config *api.Config                       // as people reach it
	Login  func(user, password string) error // to the database
	Left   func() (Left, error)
	Needs  []string // parts, links and disks: while one is broken, a login may be made of which nobody is told
}

// Left is what Vault gave and hasn't taken back.
type Left struct {
	Leases int
	Tokens []string // made for hallpass, by the requests that they were made for
	Logins []string // in the database, by their names
}

// Running is a process.
type Running interface {
	Pid() int
	Signal(os.Signal) // and waits until it has ended
	Done() <-chan struct{}
}

// Part is a process of the stack. Whoever keeps it starts it again when it ends,
// as a supervisor does.
type Part struct {
	Name  string
	Start func() (Running, error)
	Pause bool // it can be stopped and go on
	Clock bool // its clock is moved, too

	mu      sync.Mutex
	running Running
	down    time.Time // it isn't started before
	kept    chan struct{}
}

// Scene is what there is to break in a stack, in an order that is always the same.
func (s *Stack) Scene() Scene {
	out := Scene{Vault: s.Vault != nil, Whole: len(s.Parts) == 1}
	for _, p := range s.Parts {
		out.Parts = append(out.Parts, p.Name)
		if p.Pause {
			out.Pause = append(out.Pause, p.Name)
		}
		if p.Clock {
			out.Clocks = append(out.Clocks, p.Name)
		}
	}
	for _, l := range s.Links {
		out.Links = append(out.Links, l.Name)
	}
	for _, d := range s.Disks {
		out.Disks = append(out.Disks, d.Name)
	}
	for _, names := range [][]string{out.Parts, out.Pause, out.Clocks, out.Links, out.Disks} {
		slices.Sort(names)
	}
	return out
}

// world is what the checker is told of it.
func (s *Stack) world() check.World {
	w := check.World{People: map[string]check.Person{}, Resources: Resources, Lockers: "security", Login: s.Login, CA: s.CA, Lag: lag, Skew: ahead, Making: making}
	for name, p := range s.People {
		w.People[name] = check.Person{Key: p.Signer.PublicKey(), Groups: words(p.Group)}
	}
	return w
}

func (s *Stack) part(name string) *Part {
	for _, p := range s.Parts {
		if p.Name == name {
			return p
		}
	}
	return nil
}

func (s *Stack) link(name string) *Link {
	for _, l := range s.Links {
		if l.Name == name {
			return l
		}
	}
	return nil
}

func (s *Stack) disk(name string) *Disk {
	for _, d := range s.Disks {
		if d.Name == name {
			return d
		}
	}
	return nil
}

// Keep starts the part, and starts it again whenever it ends, until ctx does.
// It tells log of each time.
func (p *Part) Keep(ctx context.Context, log func(string, ...any)) error {
	running, err := p.Start()
	if err != nil {
		return fmt.Errorf("start %s: %w", p.Name, err)
	}
	p.running, p.kept = running, make(chan struct{})
	go func() {
		defer close(p.kept)
		for {
			select {
			case <-ctx.Done():
				return
			case <-running.Done():
			}
			p.mu.Lock()
			wait := time.Until(p.down)
			p.mu.Unlock()
			for began := time.Now(); ; wait = 500 * time.Millisecond {
				select {
				case <-ctx.Done():
					return
				case <-time.After(max(wait, 50*time.Millisecond)):
				}
				next, err := p.Start()
				if err == nil {
					log("%s runs again after %s", p.Name, time.Since(began).Round(time.Millisecond))
					p.mu.Lock()
					running, p.running = next, next
					p.mu.Unlock()
					break
				}
				log("%s doesn't start: %v", p.Name, err)
			}
		}
	}()
	return nil
}

func (p *Part) pid() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.running.Pid()
}

// kill is kill -9. The part isn't started again before so long.
func (p *Part) kill(down time.Duration) {
	p.mu.Lock()
	p.down = time.Now().Add(down)
	running := p.running
	p.mu.Unlock()
	running.Signal(syscall.SIGKILL)
}

// Stop ends the part in good order, once nobody keeps it any more, and says
// what is wrong if it doesn't end by that.
func (p *Part) Stop() error {
	if p.kept == nil {
		return nil
	}
	<-p.kept
	ended := make(chan struct{})
	go func() { p.running.Signal(os.Interrupt); close(ended) }()
	select {
	case <-ended:
		return nil
	case <-time.After(patience):
		p.running.Signal(syscall.SIGKILL)
		return errors.New(p.Name + " doesn't stop when it is asked to")
	}
}
