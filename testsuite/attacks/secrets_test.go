package attacks

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"

	"hallpass/access"
	"hallpass/testsuite/process"
)

// Private keys are with their owners and nowhere else: not in another's files,
// in tables or logs, in memory, environment, command line or core dump of a
// process that it isn't for.
//
// Each key is looked for by its 32 secret bytes, raw and as they may be
// written; and each search has to find them where they belong.
func TestSecretsAreNowhereElse(t *testing.T) {
	const needle = "needle-in-the-record"
	if runtime.GOOS != "linux" {
		process.Unable(t, "processes are looked into by Linux's /proc")
	}
	r := apart(t, "secrets")
	r.cores = t.TempDir()
	r.env = append(r.env, "HALLPASS_SERVICE_ADDRESS=127.0.0.1:"+freePort(t), "HALLPASS_ISSUERS_SSH_HOST_KEY=file:"+filepath.Join(r.dir, "host_ca"))
	r.hallpass(t, "", "ca", "init", filepath.Join(r.dir, "host_ca"))
	workflows, issuer, service := r.start(t, "workflows"), r.start(t, "issuer:ssh"), r.start(t, "service")
	serviceKey := filepath.Join(r.dir, "service_ca.key")
	eventually(t, "the service to have its key", func() bool {
		said, err := os.ReadFile(r.log("service"))
		return err == nil && bytes.Contains(said, []byte("serving hosts and people"))
	})
	out := r.hallpass(t, "alice", "request", "ssh/sandbox", "--for", "10m", "--reason", needle)
	a := r.ask(t, "alice", "ssh/web-1")
	await(t, r.Client, a, access.StatePending)
	must(t, say(t, r.Client, a, access.MessageDecision, r.decide(t, "bob", "bob", a, access.Approve)))
	await(t, r.Client, a, access.StateActive)

	// What the command made for its request is the one key in alice's folder.
	var made []string
	must(t, filepath.WalkDir(r.home("alice"), func(path string, d os.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			if data, _ := os.ReadFile(path); bytes.Contains(data, []byte("PRIVATE KEY")) {
				made = append(made, path)
			}
		}
		return err
	}))
	if len(made) == 0 {
		t.Fatalf("hallpass request has made no key: %s", out)
	}
	type secret struct {
		file      string
		where     []string // besides, where else it may be
		processes []string // that have it
		forms     [][]byte
	}
	secrets := map[string]*secret{
		"the CA's key":        {file: filepath.Join(r.dir, "ssh_ca"), processes: []string{"issuer:ssh"}},
		"the hosts' CA's key": {file: filepath.Join(r.dir, "host_ca"), processes: []string{"issuer:ssh"}},
		"the service's key":   {file: serviceKey, processes: []string{"service"}},
		"the log's key":       {file: filepath.Join(r.dir, "audit.key"), processes: []string{"workflows", "issuer:ssh", "service"}},
		"alice's signing key": {file: r.People["alice"].Key},
		"bob's signing key":   {file: r.People["bob"].Key},
		"the request's key":   {file: made[0], where: made},
	}
	// held says which of them a part of a process has, and which it hasn't.
	held := func(role, at string, has func(name string) bool) {
		for name, s := range secrets {
			switch is, may := has(name), slices.Contains(s.processes, role); {
			case is && !may:
				t.Errorf("%s is in %s of %s", name, at, role)
			case !is && may:
				t.Errorf("%s isn't found in %s of %s, which has it: the search shows nothing", name, at, role)
			}
		}
	}
	processes := map[string]int{"workflows": workflows, "issuer:ssh": issuer, "service": service, "Temporal and hallpass dev": attack(t).PID}
	wanted := map[string][][]byte{a.ID: {[]byte(a.ID)}}
	for name, s := range secrets {
		s.forms = written(secretOf(t, s.file))
		wanted[name] = s.forms
		for _, dir := range []string{r.dir, attack(t).dir} {
			for _, path := range grep(t, dir, s.forms) {
				if path != s.file && !slices.Contains(s.where, path) {
					t.Errorf("%s is in %s", name, path)
				}
			}
		}
		if !slices.Contains(grep(t, filepath.Dir(s.file), s.forms), s.file) {
			t.Errorf("%s isn't found in %s, so the search shows nothing", name, s.file)
		}
		if slices.ContainsFunc(s.forms, func(f []byte) bool { return strings.Contains(out, string(f)) }) {
			t.Errorf("%s is in what hallpass request says", name)
		}
		for process, pid := range processes {
			for _, at := range []string{"environ", "cmdline"} {
				if inProc(t, pid, at, s.forms) {
					t.Errorf("%s is in %s of %s", name, at, process)
				}
			}
		}
	}
	for process, pid := range processes {
		if !inProc(t, pid, "environ", [][]byte{[]byte("HOME=")}) && os.Getenv("HOME") != "" {
			t.Errorf("HOME isn't found in the environment of %s: the search shows nothing", process)
		}
		found := memory(t, pid, wanted)
		held(process, "memory", func(name string) bool { return len(found[name]) > 0 })
		if len(found[a.ID]) == 0 && process != "service" { // which wasn't asked for it
			t.Errorf("a request's id isn't found in the memory of %s: the search shows nothing", process)
		}
	}

	// The same search finds what isn't secret in tables.
	control := []byte(needle)
	var tables []string
	for _, dir := range []string{r.dir, attack(t).dir} {
		for _, path := range grep(t, dir, [][]byte{control}) {
			tables = append(tables, filepath.Base(path))
		}
	}
	for _, want := range []string{"audit.db", "temporal.db"} {
		if !slices.ContainsFunc(tables, func(name string) bool { return strings.HasPrefix(name, want) }) {
			t.Errorf("a reason isn't found in %s, only in %s: the search shows nothing", want, tables)
		}
	}

	// What they leave when they crash: a core dump each, and what they say.
	for _, role := range []string{"workflows", "issuer:ssh", "service"} {
		core, err := r.crash(t, role)
		if err != nil {
			process.LeftOut(t, fmt.Sprintf("core dumps, so memory alone was searched: %v", err))
			break
		}
		held(role, "the core dump", func(name string) bool {
			return slices.ContainsFunc(secrets[name].forms, func(f []byte) bool { return bytes.Contains(core, f) })
		})
		said, err := os.ReadFile(r.log(role))
		must(t, err)
		if !bytes.Contains(said, []byte("SIGABRT")) {
			t.Errorf("%s says nothing of its crash: the search shows nothing", role)
		}
		for name, s := range secrets {
			if slices.ContainsFunc(s.forms, func(f []byte) bool { return bytes.Contains(said, f) }) {
				t.Errorf("%s is in what %s says when it crashes", name, role)
			}
		}
	}
}

// secretOf is what is secret of an Ed25519 or P-256 key, from which all else
// follows: the seed, or the scalar.
func secretOf(t testing.TB, file string) (secret []byte) {
	t.Helper()
	data, err := os.ReadFile(file)
	must(t, err)
	if text, ok := strings.CutPrefix(strings.TrimSpace(string(data)), "PRIVATE+KEY+"); ok { // name, hash, and base64 of the algorithm and the seed
		parts := strings.SplitN(text, "+", 3)
		secret, err = base64.StdEncoding.DecodeString(parts[len(parts)-1])
		must(t, err)
		return secret[1:]
	}
	key, err := ssh.ParseRawPrivateKey(data)
	must(t, err)
	switch key := key.(type) {
	case *ed25519.PrivateKey:
		return key.Seed()
	case *ecdsa.PrivateKey:
		secret, err = key.Bytes()
		must(t, err)
		return secret
	}
	t.Fatalf("%s is a %T", file, key)
	return nil
}

// written are the ways in which 32 bytes may be written: as they are, backwards
// as a big number in memory is, in hexadecimal, as numbers, and in base64, wherever in it they begin, also if a
// line ends amid them.
func written(secret []byte) (forms [][]byte) {
	hexadecimal, numbers := hex.EncodeToString(secret), strings.Trim(fmt.Sprintf("%d", secret), "[]")
	backwards := slices.Clone(secret)
	slices.Reverse(backwards)
	forms = [][]byte{
		secret, backwards, []byte(hexadecimal), []byte(strings.ToUpper(hexadecimal)),
		[]byte(numbers), []byte(strings.ReplaceAll(numbers, " ", ",")),
	}
	for before := range 3 {
		for _, enc := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
			text := enc.EncodeToString(append(make([]byte, before), secret...))
			whole := text[(before*8+5)/6 : (before+len(secret))*8/6] // of the secret alone
			forms = append(forms, []byte(whole[:20]), []byte(whole[len(whole)-20:]))
		}
	}
	return forms
}

func TestWritten(t *testing.T) {
	secret := make([]byte, 32)
	for i := range secret {
		secret[i] = byte(i*37 + 201)
	}
	has := func(text string) bool {
		return slices.ContainsFunc(written(secret), func(f []byte) bool { return strings.Contains(text, string(f)) })
	}
	for before := range 7 {
		for after := range 7 {
			around := append(append(bytes.Repeat([]byte{0xa5}, before), secret...), bytes.Repeat([]byte{0x5a}, after)...)
			text := base64.StdEncoding.EncodeToString(around)
			for cut := range len(text) {
				if !has(text[:cut] + "\n" + text[cut:]) {
					t.Fatalf("not found in %s, cut at %d", text, cut)
				}
			}
			for _, text := range []string{base64.URLEncoding.EncodeToString(around), hex.EncodeToString(around), fmt.Sprintf("%X", around), fmt.Sprintf("%d", around), string(around)} {
				if !has(text) {
					t.Errorf("not found in %q", text)
				}
			}
		}
	}
	secret[3]++
	other := base64.StdEncoding.EncodeToString(secret[:16])
	secret[3]--
	if has(other) || has("") {
		t.Error("found where it isn't")
	}
}

// grep lists the files below a folder in which one of the patterns is.
func grep(t testing.TB, dir string, patterns [][]byte) (found []string) {
	t.Helper()
	must(t, filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if errors.Is(err, os.ErrNotExist) {
			return nil // databases come and go
		}
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		data, err := os.ReadFile(path)
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		if slices.ContainsFunc(patterns, func(p []byte) bool { return bytes.Contains(data, p) }) {
			found = append(found, path)
		}
		return err
	}))
	return found
}

// inProc says whether a pattern is in a file of a process's in /proc. It needs
// Linux, and to be the process's owner.
func inProc(t testing.TB, pid int, name string, patterns [][]byte) bool {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), name))
	must(t, err) // what can't be read isn't clean
	return slices.ContainsFunc(patterns, func(p []byte) bool { return bytes.Contains(data, p) })
}

// memory says in which parts of a process's memory patterns are, by the names
// that these have.
func memory(t testing.TB, pid int, wanted map[string][][]byte) (found map[string][]string) {
	t.Helper()
	found = map[string][]string{}
	must(t, process.Memory(pid, func(region string, data []byte) {
		for name, patterns := range wanted {
			if slices.ContainsFunc(patterns, func(p []byte) bool { return bytes.Contains(data, p) }) {
				found[name] = append(found[name], region)
			}
		}
	}))
	return found
}
