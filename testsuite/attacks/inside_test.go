package attacks

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"hallpass/access"
	"hallpass/testsuite/devtest"
	"hallpass/testsuite/process"
)

// inside is what only the machine of the worker can reach: it says yes to whoever comes,
// and counts them.
type inside struct {
	net.Listener
	mu   sync.Mutex
	came int
}

func (i *inside) Accept() (net.Conn, error) {
	conn, err := i.Listener.Accept()
	if err == nil {
		i.mu.Lock()
		i.came++
		i.mu.Unlock()
	}
	return conn, err
}

func (i *inside) visits() int {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.came
}

// tracker is the other system that look-ups and webhooks are for, in somebody else's
// hands: it leads elsewhere whoever it can.
type tracker struct {
	to string // where it leads

	mu    sync.Mutex
	asked []string // each line of a request, as it came
	told  []string // bodies of messages
}

func (s *tracker) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body) // cut short, at worst
	s.mu.Lock()
	s.asked = append(s.asked, r.Method+" "+r.RequestURI+" of "+r.Host)
	if r.URL.Path == "/hook" {
		s.told = append(s.told, string(body))
	}
	s.mu.Unlock()
	elsewhere := map[string]string{
		"/address": "http://" + s.to + "/", "/name": "http://localhost:" + s.to[strings.LastIndexByte(s.to, ':')+1:] + "/",
		"/tls": "https://" + s.to + "/", "/metadata": "http://169.254.169.254/latest/meta-data/", "/file": "file:///etc/passwd",
	}
	switch to := elsewhere[r.URL.Path]; {
	case to != "":
		w.Header().Set("Location", to)
		w.WriteHeader(http.StatusTemporaryRedirect) // with what was posted
	case r.URL.Path == "/issue/OPS-7":
		yes(w, r)
	default:
		_, _ = io.WriteString(w, `{"state":"open"}`)
	}
}

func (s *tracker) seen() (asked, told []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.asked), slices.Clone(s.told)
}

func yes(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, `{"state":"approved"}`) }

// serving serves at an address until the test is over.
func serving(t *testing.T, l net.Listener, h http.Handler) {
	t.Helper()
	server := &http.Server{Handler: h}
	go func() { _ = server.Serve(l) }() // until it is closed
	t.Cleanup(func() { _ = server.Close() })
}

// A worker asks other systems and tells people by addresses that its files name, and what
// answers there, a name server and the requester have a say in where that leads. None of
// them gets it to talk to what is inside, and no answer from there lets anybody in.
func TestWorkerReachesNothingInside(t *testing.T) {
	program := attack(t).program
	if runtime.GOOS != "linux" {
		process.Unable(t, "elsewhere than on Linux, loopback is one address")
	}
	plain, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	trap := &inside{Listener: plain}
	serving(t, trap, http.HandlerFunc(yes))
	other, err := net.Listen("tcp", "127.0.0.2:0")
	must(t, err)
	at, here := other.Addr().String(), plain.Addr().String()
	_, port, err := net.SplitHostPort(here)
	must(t, err)
	system := &tracker{to: here}
	serving(t, other, system)

	// The addresses, by name, and what is said of each.
	const redirect, unreachable = "it answers 307, a redirect, which is not followed", "it can't be reached"
	addresses := map[string]struct{ url, look, tell string }{
		"to-address":  {"http://" + at + "/address", redirect, redirect},
		"to-name":     {"http://" + at + "/name", redirect, redirect},
		"to-tls":      {"http://" + at + "/tls", redirect, redirect},
		"to-metadata": {"http://" + at + "/metadata", redirect, redirect},
		"to-file":     {"http://" + at + "/file", redirect, redirect},
		"plain":       {"http://" + here + "/", unreachable, "127.0.0.1 is not among the addresses allowed without TLS"},
		"tls":         {"https://" + here + "/", unreachable, "127.0.0.1 is an internal address, which is not allowed"},
		"name":        {"http://localhost:" + port + "/", unreachable, "is not among the addresses allowed without TLS"},
		"name-tls":    {"https://localhost:" + port + "/", unreachable, "is an internal address, which is not allowed"},
		"mapped":      {"https://[::ffff:127.0.0.1]:" + port + "/", unreachable, "127.0.0.1 is an internal address, which is not allowed"},
		"unspecified": {"https://0.0.0.0:" + port + "/", unreachable, "0.0.0.0 is an internal address, which is not allowed"},
		"metadata":    {"http://169.254.169.254/latest/meta-data/", unreachable, "169.254.169.254 is not among the addresses allowed without TLS"},
	}
	lookups, channels := "allow: [127.0.0.2/32]\nlookups:\n", "allow: [127.0.0.2/32]\nchannels:\n"
	rules, resources := "rules:\n", "resources:\n"
	add := func(name, url, hook string) {
		lookups += fmt.Sprintf("  %s: {kind: http-json, url: %q, pick: {state: state}, timeout: 5s}\n", name, url)
		channels += fmt.Sprintf("  %s: {type: webhook, url: %q, secret_file: secret, reason: included}\n", name, hook)
		rules += fmt.Sprintf("  - {name: %[1]s, when: 'resource.name == \"ssh/%[1]s\"', max_duration: 8h, approvals: [{count: 1, from: [sre]}], auto: 'context[\"%[1]s\"].state == \"approved\"'}\n", name)
		resources += fmt.Sprintf("  ssh/%s: {logins: [%s]}\n", name, login())
	}
	add("good", "http://"+at+"/issue/{ticket}", "http://"+at+"/hook")
	for name, a := range addresses {
		add(name, a.url, a.url)
	}
	s := &stack{program: program, dir: t.TempDir()}
	must(t, os.Chmod(s.dir, 0o700))
	s.People, err = devtest.Furnish(s.dir, map[string]string{
		"hallpass.yaml": config + "lookups: lookups.yaml\nnotify: notify.yaml\n", "policy.yaml": rules, "catalog.yaml": resources,
		"lookups.yaml": lookups, "notify.yaml": channels, "secret": "whsec_" + base64.StdEncoding.EncodeToString(bytes.Repeat([]byte("x"), 32)),
	}, groups)
	must(t, err)
	s.Server, err = devtest.Serve(context.Background(), program, s.dir)
	must(t, err)
	t.Cleanup(func() { _ = s.Stop() })

	for name, a := range addresses {
		r := s.ask(t, "alice", "ssh/"+name)
		standing := await(t, s.Client, r, access.StatePending).Standing
		if fact := standing.Ruling.Context[name]; fact.Failed != a.look || fact.Value != nil {
			t.Errorf("look-up at %s: %+v", a.url, fact)
		}
	}

	// What a request says is a part of what is asked for, and never of where.
	ticket := func(name string) func(*access.Request) { return func(r *access.Request) { r.Ticket = name } }
	await(t, s.Client, s.ask(t, "alice", "ssh/good", ticket("OPS-7")), access.StateActive)
	await(t, s.Client, s.ask(t, "alice", "ssh/good", ticket("OPS-8")), access.StatePending)
	plainly := []string{"a@" + strings.ReplaceAll(here, ":", "."), "OPS-7+x", "OPS-7.."}
	refused := []string{
		"..", "../../approved", "OPS-8/../OPS-7", "%2e%2e%2fOPS-7", "..%2fOPS-7", "OPS-7%2f..", "%4f%50%53-7", "OPS-7?x=y", "OPS-7&x=y", "OPS-7#x", "OPS-7;x", "OPS-7/",
		"@" + here + "/", "//" + here + "/", `\\` + here + `\`, "http://" + here + "/", "x:y@" + here, "OPS-7 HTTP/1.1", " OPS-7", "OPS-7%0d%0aHost: " + here, "{requester}",
		"ＯＰＳ-7", "OPS\u20117", "OPS-7\u2215..",
	}
	for _, name := range slices.Concat(plainly, refused) {
		r := s.ask(t, "alice", "ssh/good", ticket(name))
		fact := await(t, s.Client, r, access.StatePending).Standing.Ruling.Context["good"]
		if want := "the ticket has characters that are not looked up"; slices.Contains(refused, name) && fact.Failed != want {
			t.Errorf("ticket %q: %+v, want %s", name, fact, want)
		}
	}
	for _, evil := range []string{"OPS-7\r\nHost: " + here, "OPS-7\n", "OPS-7\x00", "OPS-7\u2028"} { // no statement has such a line
		r := s.request(t, "alice", "ssh/good", ticket("PLAIN"))
		payload := edit(t, text(t, r.Request), `"PLAIN"`, text(t, evil))
		if o := s.outcome(t, r.ID, s.signed(t, "alice", "request@hallpass", payload)); o.State != access.StateDenied {
			t.Errorf("ticket %q is %s: %s", evil, o.State, o.Why)
		}
	}

	log := func() string {
		data, err := os.ReadFile(filepath.Join(s.dir, "dev.log"))
		must(t, err)
		return string(data)
	}
	for name, a := range addresses {
		eventually(t, "what the log says of "+name+": "+a.tell, func() bool {
			return slices.ContainsFunc(strings.Split(log(), "tell "), func(said string) bool {
				return strings.HasPrefix(said, name+": ") && strings.Contains(said, a.tell)
			})
		})
	}
	eventually(t, "a message where one may go", func() bool { _, told := system.seen(); return len(told) > 0 })
	asked, _ := system.seen()
	mayAsk := []string{"GET /issue/OPS-7 of " + at, "GET /issue/OPS-8 of " + at, "POST /hook of " + at}
	for _, name := range plainly {
		mayAsk = append(mayAsk, "GET /issue/"+strings.NewReplacer("@", "%40", "+", "%2B").Replace(name)+" of "+at)
	}
	for _, path := range []string{"address", "name", "tls", "metadata", "file"} {
		mayAsk = append(mayAsk, "GET /"+path+" of "+at, "POST /"+path+" of "+at)
	}
	for _, line := range asked {
		if !slices.Contains(mayAsk, line) {
			t.Errorf("%s", line)
		}
	}
	for _, line := range mayAsk {
		if !slices.Contains(asked, line) {
			t.Errorf("nobody said %s, so the test shows nothing of it", line)
		}
	}
	if n := trap.visits(); n > 0 {
		t.Errorf("what is inside had %d visits", n)
	}
	s.verifies(t)
}
