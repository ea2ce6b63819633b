package attacks

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"

	"hallpass/access"
	"hallpass/testsuite/process"
)

// Private keys are with their owners and nowhere else: not in another's files,
// in tables or logs, in memory, environment or command line of a process that
// it isn't for. A core dump holds what memory does, so memory is what is read.
//
// Each key is looked for by its seed, 32 random bytes, raw and as it may be
// written; and each search has to find it where it belongs.
func TestSecretsAreNowhereElse(t *testing.T) {
	const needle = "needle-in-the-record"
	r := apart(t, "secrets")
	workflows, issuer := r.start(t, "workflows"), r.start(t, "issuer:ssh")
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
		file   string
		where  []string // besides, where else it may be
		memory int      // the process that has it
	}
	secrets := map[string]secret{
		"the CA's key":        {file: filepath.Join(r.dir, "ssh_ca"), memory: issuer},
		"alice's signing key": {file: r.People["alice"].Key},
		"bob's signing key":   {file: r.People["bob"].Key},
		"the request's key":   {file: made[0], where: made},
	}
	processes := map[string]int{"workflows": workflows, "issuer": issuer, "Temporal and hallpass dev": attack(t).PID}
	for name, s := range secrets {
		seed := seedOf(t, s.file)
		for _, dir := range []string{r.dir, attack(t).dir} {
			for _, path := range inFiles(t, dir, seed) {
				if path != s.file && !slices.Contains(s.where, path) {
					t.Errorf("%s is in %s", name, path)
				}
			}
		}
		if !slices.Contains(inFiles(t, filepath.Dir(s.file), seed), s.file) {
			t.Errorf("%s isn't found in %s, so the search shows nothing", name, s.file)
		}
		if slices.ContainsFunc(written(seed), func(f []byte) bool { return strings.Contains(out, string(f)) }) {
			t.Errorf("%s is in what hallpass request says", name)
		}
		for process, pid := range processes {
			found := inProcess(t, pid, seed)
			switch {
			case pid != s.memory && len(found) > 0:
				t.Errorf("%s is in %s of %s", name, found, process)
			case pid == s.memory && len(found) == 0:
				t.Errorf("%s isn't found in the memory of %s, which has it: the search shows nothing", name, process)
			}
			if slices.ContainsFunc(found, func(at string) bool { return at == "environ" || at == "cmdline" }) {
				t.Errorf("%s is in %s of %s", name, found, process)
			}
		}
	}

	// The same search finds what isn't secret in tables and in other memory.
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
	for process, pid := range processes {
		if len(memory(t, pid, [][]byte{[]byte(a.ID)})) == 0 {
			t.Errorf("a request's id isn't found in the memory of %s: the search shows nothing", process)
		}
	}
}

// seedOf is what is secret of an Ed25519 key: all else follows from it.
func seedOf(t testing.TB, file string) []byte {
	t.Helper()
	data, err := os.ReadFile(file)
	must(t, err)
	key, err := ssh.ParseRawPrivateKey(data)
	must(t, err)
	private, ok := key.(*ed25519.PrivateKey)
	if !ok {
		t.Fatalf("%s is a %T", file, key)
	}
	return private.Seed()
}

// written are the ways in which 32 bytes may be written: as they are, in
// hexadecimal, as numbers, and in base64, wherever in it they begin, also if a
// line ends amid them.
func written(secret []byte) (forms [][]byte) {
	hexadecimal, numbers := hex.EncodeToString(secret), strings.Trim(fmt.Sprintf("%d", secret), "[]")
	forms = [][]byte{
		secret, []byte(hexadecimal), []byte(strings.ToUpper(hexadecimal)),
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

func inFiles(t testing.TB, dir string, seed []byte) []string { return grep(t, dir, written(seed)) }

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

// inProcess says where in a process a secret is: its memory, command line and
// environment. It needs Linux, and to be the process's owner.
func inProcess(t testing.TB, pid int, seed []byte) (found []string) {
	t.Helper()
	for _, name := range []string{"cmdline", "environ"} {
		data, err := os.ReadFile(filepath.Join("/proc", itoa(pid), name))
		if err == nil && slices.ContainsFunc(written(seed), func(p []byte) bool { return bytes.Contains(data, p) }) {
			found = append(found, name)
		}
	}
	return append(found, memory(t, pid, written(seed))...)
}

// memory says in which parts of a process's memory a pattern is.
func memory(t testing.TB, pid int, patterns [][]byte) (found []string) {
	t.Helper()
	proc := filepath.Join("/proc", itoa(pid))
	maps, err := os.ReadFile(filepath.Join(proc, "maps"))
	if err != nil {
		process.Unable(t, "memory of processes can't be read here: "+err.Error())
	}
	mem, err := os.Open(filepath.Join(proc, "mem"))
	if err != nil {
		process.Unable(t, "memory of processes can't be read here: "+err.Error())
	}
	defer func() { _ = mem.Close() }()
	for line := range strings.Lines(string(maps)) {
		from, to, writable := region(line)
		if !writable {
			continue
		}
		data := make([]byte, to-from)
		n, _ := io.ReadFull(io.NewSectionReader(mem, from, to-from), data) // some can't be read
		if slices.ContainsFunc(patterns, func(p []byte) bool { return bytes.Contains(data[:n], p) }) {
			found = append(found, strings.TrimSpace(line))
		}
	}
	return found
}
