package chaos

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.temporal.io/sdk/client"
	"golang.org/x/crypto/ssh"

	"hallpass/testsuite/devtest"
	"hallpass/testsuite/process"
	"hallpass/testsuite/sshdtest"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestEmbedded plays on hallpass dev: one process with everything in it, on a
// disk of its own.
func TestEmbedded(t *testing.T) {
	program := os.Getenv("HALLPASS_BIN")
	if program == "" {
		t.Skip("HALLPASS_BIN is not set; make chaos builds bin/hallpass and sets it")
	}
	program, err := filepath.Abs(program)
	must(t, err)
	s := &Stack{Login: sshdtest.User(t), Program: program, Namespace: "default"}
	dir := t.TempDir()
	s.AddDisk(t, "disk", dir)
	s.People, err = devtest.Furnish(dir, map[string]string{
		"hallpass.yaml": `temporal: {namespace: default}
policy: policy.yaml
directory: directory.yaml
catalog: catalog.yaml
audit: {database: audit.db, key: audit.key, public_key: audit.pub}
issuers: {ssh: {key: "file:ssh_ca"}}
service: {address: "127.0.0.1:7280"}
limits: {min_grant: 1s}
sweep: {every: 20s, grace: 20s}
`,
		"policy.yaml": Policy(), "catalog.yaml": Catalog(s.Login),
	}, Groups())
	must(t, err)
	s.Env = append(os.Environ(), "HALLPASS_CONFIG="+filepath.Join(dir, "hallpass.yaml"))
	s.Folders = []string{dir}
	var ports []string
	for range 3 {
		port, err := process.FreePort()
		must(t, err)
		ports = append(ports, strconv.Itoa(port))
	}
	for i, name := range []string{"people", "hosts"} {
		l, err := NewLink(name, "127.0.0.1:"+ports[2*i])
		must(t, err)
		t.Cleanup(func() { _ = l.Close() })
		s.Links = append(s.Links, l)
	}
	log, err := os.Create(filepath.Join(t.ArtifactDir(), "dev.log"))
	must(t, err)
	t.Cleanup(func() { _ = log.Close() })
	ready := filepath.Join(dir, "ready")
	dev := &Part{Name: "dev", Pause: true, Clock: CanMoveClocks, Start: func() (Running, error) {
		p, err := process.Start(exec.Command(program, "dev", "--dir", dir, "--port", ports[0], "--ui-port", ports[1], "--service-port", ports[2], "--ready-file", ready),
			func(line string) bool {
				_, _ = fmt.Fprintln(log, line)
				return strings.Contains(line, "hallpass dev, ready in")
			})
		if err != nil { // not a *process.Process that is nil
			return nil, err
		}
		return p, nil
	}}
	ctx, stop := context.WithCancel(context.Background())
	t.Cleanup(stop)
	must(t, dev.Keep(ctx, t.Logf))
	t.Cleanup(func() { stop(); _ = dev.Stop() })
	s.Parts = []*Part{dev}

	s.ServedBy = filepath.Join(dir, "service_ca.pub.pem")
	s.Service = s.Links[1].Address()
	line, err := os.ReadFile(filepath.Join(dir, "ssh_ca.pub"))
	must(t, err)
	s.CA, _, _, _, err = ssh.ParseAuthorizedKey(line)
	must(t, err)
	s.Temporal, err = client.NewLazyClient(client.Options{HostPort: s.Links[0].Address(), Namespace: s.Namespace, Logger: devtest.Quiet()})
	must(t, err)
	t.Cleanup(s.Temporal.Close)
	Run(t, s, stop)
}

// A seed is a plan, and another seed another one.
func TestSameSeedSamePlan(t *testing.T) {
	scene := Scene{Parts: []string{"a", "b"}, Pause: []string{"a"}, Clocks: []string{"b"}, Links: []string{"c", "d"}, Disks: []string{"e"}}
	one := Plan(7, time.Minute, scene)
	if !slices.Equal(one, Plan(7, time.Minute, scene)) {
		t.Error("the same seed gives two plans")
	}
	if slices.Equal(one, Plan(8, time.Minute, scene)) {
		t.Error("two seeds give one plan")
	}
	// An hour has everything in it, and no fault at the end.
	done := map[string]int{}
	for _, s := range Plan(7, time.Hour, scene) {
		if done[s.Do]++; s.Starts > 0 {
			done["for later"]++
		}
		switch {
		case s.Do != lock && s.Do != unlock:
		case s.Key != "":
			done[s.Do+" by another's key"]++
		case s.usurps():
			done[s.Do+" by somebody who may not"]++
		}
		if s.On != "" && s.At+s.Lasts > time.Hour {
			t.Errorf("not undone at the end: %s", s)
		}
	}
	for _, do := range []string{ask, "for later", approve, deny, release, revoke, cancel, lock, unlock, login, kill, pause, full, cut, stall, slow, clock,
		lock + " by another's key", unlock + " by another's key", lock + " by somebody who may not", unlock + " by somebody who may not"} {
		if done[do] < 5 {
			t.Errorf("%d of %s", done[do], do)
		}
	}
	// The clock that all parts have isn't wrong for longer than a run can wait.
	scene.Whole = true
	for _, s := range Plan(7, time.Hour, scene) {
		if s.Do == clock && (s.By > ahead || s.By < -time.Minute) {
			t.Errorf("planned: %s", s)
		}
	}
	// Where there is nothing to break, nothing is.
	for _, s := range Plan(7, time.Minute, Scene{}) {
		if s.On != "" {
			t.Errorf("planned: %s", s)
		}
	}
}

// A plan that was written is read again, and one of another scene isn't.
func TestWrittenPlan(t *testing.T) {
	scene := Scene{Parts: []string{"a", "b"}, Pause: []string{"a"}, Clocks: []string{"b"}, Links: []string{"c", "d"}, Disks: []string{"e"}, Vault: true}
	plan := Plan(7, 10*time.Minute, scene)
	text := WritePlan(plan)
	read, err := ReadPlan(text, scene)
	must(t, err)
	if !slices.Equal(plan, read) {
		t.Error("it is read as another plan")
	}
	other := scene
	other.Disks = []string{"f"}
	if _, err := ReadPlan(text, other); err == nil || !strings.Contains(err.Error(), "there is no such thing to break here") {
		t.Errorf("a plan of another scene: %v", err)
	}
	for text, want := range map[string]string{
		"":                         "it has no steps",
		"plan":                     "step 1: invalid character",
		`{"x":1}`:                  "step 1: json: unknown field",
		`{"at_ns":1,"do":"dance"}`: "no such thing to break",
		`{"at_ns":1,"do":"lock","who":"nobody","user":"alice"}`:                       "there is nobody of that name",
		`{"at_ns":1,"do":"lock","who":"dave","key":"nobody","user":"alice"}`:          "there is nobody of that name",
		`{"at_ns":1,"do":"login"}`:                                                    "nobody asks for what it is about",
		`{"at_ns":1,"do":"approve","request":2,"who":"bob"}`:                          "nobody asks for what it is about",
		`{"at_ns":1,"do":"ask","request":1,"who":"alice","resource":"x","extends":2}`: "nobody asks for what it is about",
	} {
		if _, err := ReadPlan([]byte(text), scene); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", text, err)
		}
	}
}

// What there is to break is in one order, whatever order it was made in.
func TestSceneHasAnOrder(t *testing.T) {
	names := []string{"a", "b", "c"}
	var one, other Stack
	for i, name := range names {
		last := names[len(names)-1-i]
		one.Parts, other.Parts = append(one.Parts, &Part{Name: name, Pause: true, Clock: true}), append(other.Parts, &Part{Name: last, Pause: true, Clock: true})
		one.Links, other.Links = append(one.Links, &Link{Name: name}), append(other.Links, &Link{Name: last})
		one.Disks, other.Disks = append(one.Disks, &Disk{Name: name}), append(other.Disks, &Disk{Name: last})
	}
	if !slices.Equal(Plan(7, time.Minute, one.Scene()), Plan(7, time.Minute, other.Scene())) {
		t.Error("the same seed gives two plans")
	}
}

// A link carries, and can be slow, held up, and cut.
func TestLink(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { _, _ = io.Copy(c, c); _ = c.Close() }()
		}
	}()
	link, err := NewLink("there", l.Addr().String())
	must(t, err)
	t.Cleanup(func() { _ = link.Close() })
	dial := func() net.Conn {
		c, err := net.Dial("tcp", link.Address())
		must(t, err)
		t.Cleanup(func() { _ = c.Close() })
		return c
	}
	say := func(c net.Conn, patience time.Duration) error {
		must(t, c.SetDeadline(time.Now().Add(patience)))
		if _, err := c.Write([]byte("hello")); err != nil {
			return err
		}
		_, err := io.ReadFull(c, make([]byte, 5))
		return err
	}
	c := dial()
	must(t, say(c, time.Minute))

	link.set(func() { link.delay = 100 * time.Millisecond })
	began := time.Now()
	must(t, say(c, time.Minute))
	if took := time.Since(began); took < 200*time.Millisecond {
		t.Errorf("there and back took %s", took)
	}
	link.set(func() { link.delay, link.stalled = 0, true })
	if say(c, 200*time.Millisecond) == nil {
		t.Error("it isn't held up")
	}
	link.set(func() { link.stalled = false })
	must(t, c.SetDeadline(time.Now().Add(time.Minute)))
	_, err = io.ReadFull(c, make([]byte, 5)) // what was held up
	must(t, err)

	link.set(func() { link.cut = true })
	if say(c, time.Minute) == nil {
		t.Error("it isn't cut")
	}
	if say(dial(), time.Minute) == nil {
		t.Error("what is cut takes connections")
	}
	link.set(func() { link.cut = false })
	must(t, say(dial(), time.Minute))
}

// A full disk takes nothing, and afterwards takes it again.
func TestDisk(t *testing.T) {
	dir := t.TempDir()
	d, err := Mount("disk", dir)
	if err != nil {
		t.Skip(unable(t, err))
	}
	t.Cleanup(func() { _ = d.Unmount() })
	write := func(name string) error { return os.WriteFile(filepath.Join(dir, name), make([]byte, 1<<20), 0o600) }
	must(t, write("before"))
	must(t, d.Fill())
	if write("meanwhile") == nil {
		t.Error("a full disk takes a megabyte")
	}
	must(t, d.Empty())
	must(t, write("after"))
}

// The clock of another process goes wrong and right again, and ours stays.
func TestMoveClock(t *testing.T) {
	if os.Getenv("HALLPASS_CHAOS_CLOCK") != "" {
		for lines := bufio.NewScanner(os.Stdin); lines.Scan(); { // says what time it is when it is asked
			fmt.Println(time.Now().UnixNano())
		}
		return
	}
	if !CanMoveClocks {
		t.Skip(unable(t, MoveClock(os.Getpid(), 0)))
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestMoveClock$")
	cmd.Env = append(os.Environ(), "HALLPASS_CHAOS_CLOCK=1")
	in, err := cmd.StdinPipe()
	must(t, err)
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	t.Cleanup(func() { _ = in.Close(); _ = cmd.Wait() })
	answers := bufio.NewScanner(out)
	wrong := func() time.Duration {
		_, err := fmt.Fprintln(in)
		must(t, err)
		if !answers.Scan() {
			t.Fatal("it has ended")
		}
		ns, err := strconv.ParseInt(answers.Text(), 10, 64)
		must(t, err)
		return time.Until(time.Unix(0, ns)).Round(10 * time.Second)
	}
	for _, by := range []time.Duration{0, 26 * time.Hour, -30 * time.Minute, 0} {
		must(t, MoveClock(cmd.Process.Pid, by))
		if got := wrong(); got != by {
			t.Errorf("moved by %s, it is wrong by %s", by, got)
		}
	}
}
