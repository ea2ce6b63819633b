package cli

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"hallpass/access"
	"hallpass/policy"
	"hallpass/statement"
	"hallpass/testsuite/process"
)

const explainedPolicy = `rules:
  - name: production
    when: resource.labels.env == "prod" && "dev" in requester.groups
    require: {reason: true}
    max_duration: 2h
    approvals: [{count: 1, from: [sre]}]
    revoke: [sec]
  - name: freeze
    when: resource.labels.env == "prod" && now.getDayOfWeek("UTC") == 6
    deny: frozen on Saturdays
`

const explainedCatalog = `resources:
  ssh/web-1:
    labels: {env: prod}
    logins: [deploy]
`

// rulesDir is a folder with a configuration, the three files and cases.
func rulesDir(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	users := "users:\n"
	for i, u := range []string{"alice: dev", "bob: sre", "erin: sec"} {
		name, group, _ := strings.Cut(u, ": ")
		key, err := ssh.NewPublicKey(ed25519.NewKeyFromSeed(bytes.Repeat([]byte{byte(i)}, 32)).Public())
		check(t, err)
		users += fmt.Sprintf("  %s:\n    groups: [%s]\n    keys:\n      - %s\n", name, group, statement.MarshalKey(key))
	}
	for name, text := range map[string]string{
		"hallpass.yaml": "policy: policy.yaml\ndirectory: directory.yaml\ncatalog: catalog.yaml\n",
		"policy.yaml":   explainedPolicy, "directory.yaml": users, "catalog.yaml": explainedCatalog,
		"policy_test.yaml": `tests:
  - name: one approval
    requester: alice
    resource: ssh/web-1
    request: {reason: deploy}
    now: 2026-11-20T10:00:00Z
    approved_by: [bob]
    expect: {effect: allow, missing: none}
`,
	} {
		check(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
	}
	return dir
}

// rulesRun runs a command line in such a folder, on a Friday.
func rulesRun(dir string, args ...string) result {
	env := map[string]string{"HOME": dir, "HALLPASS_CONFIG": filepath.Join(dir, "hallpass.yaml"), "TZ": "UTC"}
	if dir == "" {
		env = map[string]string{"HOME": "/nonexistent"}
	}
	get := func(name string) string { return env[name] }
	var stdout, stderr bytes.Buffer
	a := &app{
		ctx: context.Background(), stdin: strings.NewReader(""), env: get,
		now: func() time.Time { return time.Date(2026, 11, 20, 10, 0, 0, 0, time.UTC) },
		out: newPrinter(&stdout, get), err: newPrinter(&stderr, get),
	}
	code := a.main(args)
	return result{code, stdout.String(), stderr.String()}
}

func TestPolicyAndDirectoryCommands(t *testing.T) {
	dir := rulesDir(t)
	in := func(name string) string { return filepath.Join(dir, name) }
	write := func(name, text string) string {
		check(t, os.WriteFile(in(name), []byte(text), 0o600))
		return in(name)
	}
	cases, err := os.ReadFile(in("policy_test.yaml"))
	check(t, err)
	broken := write("broken.yaml", "rules:\n  - name: a\n    when: resource.knd == 1\n    approvals: none\n  - name: b\n")
	lonely := write("lonely.yaml", strings.Replace(explainedPolicy, "count: 1", "count: 2", 1))
	failing := write("failing.yaml", strings.Replace(string(cases), "effect: allow", "effect: deny", 1))
	malformed := write("malformed.yaml", "tests:\n  - name: x\n  - nam: y\n")
	check(t, os.Mkdir(in("elsewhere"), 0o700))
	elsewhere := write("elsewhere/policy.yaml", explainedPolicy)
	for name, c := range map[string]struct {
		args   []string
		code   int
		out    []string // parts of standard output
		stderr []string
	}{
		"check":           {[]string{"policy", "check"}, ExitOK, []string{"2 rules, no problems found"}, nil},
		"check a file":    {[]string{"policy", "check", broken}, ExitError, []string{broken + `:3:19: resource has no field "knd"`, broken + `:5:5: rule has no when`}, []string{"the policy has 3 problems"}},
		"check, lint":     {[]string{"policy", "check", lonely}, ExitError, []string{lonely + ":6:18: 2 approvals are asked for, but only 1 can give one: bob"}, []string{"the policy has 1 problem"}},
		"check nothing":   {[]string{"policy", "check", in("nowhere")}, ExitError, nil, []string{"no such file"}},
		"check too many":  {[]string{"policy", "check", "a", "b"}, ExitUsage, nil, []string{"unexpected argument b"}},
		"test":            {[]string{"policy", "test"}, ExitOK, []string{"ok   one approval", "1 test, 0 failed"}, nil},
		"test fails":      {[]string{"policy", "test", failing}, ExitError, []string{"FAIL one approval  " + failing + ":2", "effect is allow, not deny"}, []string{"1 test of the policy failed"}},
		"test malformed":  {[]string{"policy", "test", malformed}, ExitError, nil, []string{malformed + ":2:5: test has no requester", "unknown field \"nam\""}},
		"test, no cases":  {[]string{"policy", "test", "--policy", elsewhere}, ExitNotFound, nil, []string{"there is no *_test.yaml in " + in("elsewhere")}},
		"explain asks":    {[]string{"policy", "explain", "ssh/web-1", "--requester", "alice", "--reason", "x"}, ExitOK, []string{"ask  needs 1 approval from sre", "who can approve  sre: bob", "30m of at most 2h", "may revoke       sec", `not so: now.getDayOfWeek("UTC") == 6`}, nil},
		"explain denies":  {[]string{"policy", "explain", "--resource", "ssh/web-1", "--requester", "alice"}, ExitOK, []string{`deny  a reason is required (rule "production")`}, nil},
		"explain allows":  {[]string{"policy", "explain", "ssh/web-1", "--requester", "alice", "--reason", "x", "--approved-by", "bob"}, ExitOK, []string{"allow  all approvals are there"}, nil},
		"explain later":   {[]string{"policy", "explain", "ssh/web-1", "--requester", "alice", "--reason", "x", "--now", "2026-11-21T10:00:00Z"}, ExitOK, []string{"deny  frozen on Saturdays"}, nil},
		"explain groups":  {[]string{"policy", "explain", "ssh/web-1", "--requester", "zoe", "--group", "ops"}, ExitOK, []string{"deny  no rule allows this", `not so: "dev" in requester.groups`}, nil},
		"explain oneself": {[]string{"policy", "explain", "ssh/web-1", "--requester", "alice", "--approved-by", "alice"}, ExitUsage, nil, []string{"nobody approves his own request"}},
		"explain nobody":  {[]string{"policy", "explain", "ssh/web-1"}, ExitUsage, nil, []string{"say who asks for what"}},
		"explain unknown": {[]string{"policy", "explain", "ssh/web-1", "--requester", "zoe"}, ExitNotFound, nil, []string{"there is no user zoe"}},
		"explain nowhere": {[]string{"policy", "explain", "ssh/web-2", "--requester", "alice"}, ExitNotFound, nil, []string{"there is no resource ssh/web-2"}},
		"explain badly":   {[]string{"policy", "explain", "ssh/web-1", "--requester", "alice", "--for", "long"}, ExitUsage, nil, []string{`duration "long"`}},
		"directory":       {[]string{"directory", "check"}, ExitOK, []string{"alice  dev     ssh-ed25519 SHA256:", "3 users, no problems found"}, nil},
		"directory bad":   {[]string{"directory", "check", broken}, ExitUsage, nil, []string{broken + ":1:1:"}},
		"allowed signers": {[]string{"directory", "allowed-signers"}, ExitOK, []string{"alice namespaces=", "ssh-ed25519 AAAA"}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			got := rulesRun(dir, c.args...)
			if got.code != c.code {
				t.Errorf("exit code %d, want %d", got.code, c.code)
			}
			for _, part := range c.out {
				if !strings.Contains(got.stdout, part) {
					t.Errorf("standard output has no %q", part)
				}
			}
			for _, part := range c.stderr {
				if !strings.Contains(got.stderr, part) {
					t.Errorf("standard error has no %q", part)
				}
			}
			if c.code == ExitOK && got.stderr != "" {
				t.Error("says something on standard error")
			}
			if t.Failed() {
				t.Logf("standard output:\n%s\nstandard error:\n%s", got.stdout, got.stderr)
			}
		})
	}
}

// Without any configuration, files that are named are enough.
func TestPolicyWithoutConfiguration(t *testing.T) {
	dir := rulesDir(t)
	in := func(name string) string { return filepath.Join(dir, name) }
	got := rulesRun("", "policy", "check", in("policy.yaml"))
	if got.code != ExitOK || !strings.Contains(got.stdout, "only types were checked") {
		t.Errorf("%+v", got)
	}
	got = rulesRun("", "policy", "check", in("policy.yaml"), "--directory", in("directory.yaml"), "--catalog", in("catalog.yaml"))
	if got.code != ExitOK || strings.Contains(got.stdout, "only types were checked") {
		t.Errorf("%+v", got)
	}
	got = rulesRun("", "policy", "test", "--policy", in("policy.yaml"), "--directory", in("directory.yaml"), "--catalog", in("catalog.yaml"))
	if got.code != ExitOK {
		t.Errorf("%+v", got)
	}
	if got = rulesRun("", "policy", "check"); got.code != ExitNotFound {
		t.Errorf("no policy at all: %+v", got)
	}
}

func TestPolicyJSON(t *testing.T) {
	dir := rulesDir(t)
	var answer PolicyAnswer
	got := rulesRun(dir, "policy", "explain", "ssh/web-1", "--requester", "alice", "--reason", "x", "--output", "json")
	check(t, json.Unmarshal([]byte(got.stdout), &answer))
	if answer.Ruling.Effect != access.EffectAsk || len(answer.Rules) != 2 || len(answer.Missing) != 1 || answer.Approvers["sre"][0] != "bob" {
		t.Errorf("%s", got.stdout)
	}
	var checked PolicyCheck
	check(t, json.Unmarshal([]byte(rulesRun(dir, "policy", "check", "-o", "json").stdout), &checked))
	if checked.Rules != 2 || !checked.Linted || checked.Problems == nil || !strings.HasPrefix(checked.Digest, "sha256:") {
		t.Errorf("%+v", checked)
	}
	var results []policy.Result
	check(t, json.Unmarshal([]byte(rulesRun(dir, "policy", "test", "-o", "json").stdout), &results))
	if len(results) != 1 || !results[0].Passed() {
		t.Errorf("%+v", results)
	}
	var users DirectoryCheck
	check(t, json.Unmarshal([]byte(rulesRun(dir, "directory", "check", "-o", "json").stdout), &users))
	if len(users.Users) != 3 || len(users.Users[0].Keys) != 1 {
		t.Errorf("%+v", users)
	}
}

// What allowed-signers prints is what ssh-keygen reads.
func TestAllowedSignersWithOpenSSH(t *testing.T) {
	keygen := process.Installed(t, "ssh-keygen")
	dir := rulesDir(t)
	key, err := ssh.NewSignerFromKey(ed25519.NewKeyFromSeed(bytes.Repeat([]byte{1}, 32))) // bob's
	check(t, err)
	st, err := statement.Sign(key, access.Decision{
		Header:  access.Header{Type: access.TypeDecision, ID: statement.NewID(), Signer: "bob", Time: time.Date(2026, 11, 20, 10, 0, 0, 0, time.UTC)},
		Request: statement.NewID(), RequestHash: strings.Repeat("0", 64), Verdict: access.Approve,
	})
	check(t, err)
	signers, sig := filepath.Join(dir, "allowed_signers"), filepath.Join(dir, "sig")
	check(t, os.WriteFile(signers, []byte(rulesRun(dir, "directory", "allowed-signers").stdout), 0o600))
	check(t, os.WriteFile(sig, []byte(st.Signature), 0o600))
	verify := func(who string) error {
		cmd := exec.Command(keygen, "-Y", "verify", "-f", signers, "-I", who, "-n", access.TypeDecision.Namespace(), "-s", sig)
		cmd.Stdin = strings.NewReader(st.Payload)
		return cmd.Run()
	}
	check(t, verify("bob"))
	if verify("alice") == nil {
		t.Error("bob's signature passes for alice's")
	}
}
