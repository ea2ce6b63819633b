package cli

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"hallpass/access"
	"hallpass/audit"
	"hallpass/ca/krl"
	"hallpass/evidence"
	"hallpass/statement"
)

// visitedWorld is auditedWorld with web-1 enrolled, and two sessions on it:
// one that hallpass has ended, and one that it couldn't.
func visitedWorld(t *testing.T) (w *world, id string) {
	t.Helper()
	w, id = auditedWorld(t)
	ctx := context.Background()
	key, err := audit.ReadKey(filepath.Join(w.dir, "audit.key"))
	check(t, err)
	log, err := audit.Open(ctx, audit.Options{Database: filepath.Join(w.dir, "audit.db"), Key: key, Now: w.now.Now})
	check(t, err)
	defer func() { check(t, log.Close()) }()
	policy := "hosts: {enroll: [sre]}\n" + testPolicy
	check(t, os.WriteFile(filepath.Join(w.dir, "policy.yaml"), []byte(policy), 0o600))
	book, err := evidence.NewRulebook([]byte(policy), w.service.book.Directory.Data(), []byte(testCatalog))
	check(t, err)
	check(t, log.RecordRulebook(ctx, book))
	digests := book.Digests()

	sign := func(key ssh.Signer, payload any) access.Statement {
		st, err := statement.Sign(key, payload)
		check(t, err)
		return st
	}
	header := func(typ access.Type, signer string, ago time.Duration) access.Header {
		return access.Header{Type: typ, ID: statement.NewID(), Signer: signer, Time: statement.Time(w.now.Now()).Add(-ago)}
	}
	agent := w.keys["mallory"] // any key will do
	j := access.Join{Header: header(access.TypeHost, "bob", 0), Resource: "ssh/web-1"}
	j.Until = j.Time.Add(time.Hour)
	st := sign(w.keys["bob"], j)
	_, err = log.Enrol(ctx, audit.Host{
		Name: "web-1", Token: j.ID, AgentKey: statement.MarshalKey(agent.PublicKey()), HostKey: statement.MarshalKey(agent.PublicKey()),
	}, audit.Event{Time: w.now.Now(), Actor: "bob", Resource: j.Resource, Statement: &st, Digests: &digests})
	check(t, err)
	resource, _ := book.Catalog.Resource("ssh/web-1")
	for _, s := range []access.Session{
		{Header: header(access.TypeSession, "web-1", 10*time.Minute), Event: access.SessionOpened, Session: "a", Source: "10.0.0.1:4711"},
		{Header: header(access.TypeSession, "web-1", 5*time.Minute), Event: access.SessionOpened, Session: "b"},
		{Header: header(access.TypeSession, "web-1", time.Minute), Event: access.SessionEnded, Session: "a", Source: "10.0.0.1:4711", Why: "released by alice"},
	} {
		s.Request, s.Serial, s.KeyID, s.Login = id, krl.Serial(krl.Series("web-1"), 1), "hallpass:"+id+":alice", "deploy"
		check(t, log.Report(ctx, sign(agent, s), func(string) []access.Resource { return []access.Resource{resource} }))
	}
	made := access.Session{
		Header: header(access.TypeSession, "web-1", 0), Event: access.SessionOpened, Session: "c",
		Request: id, Serial: 99, KeyID: "hallpass:" + id + ":alice", Login: "deploy",
	}
	if err := log.Report(ctx, sign(agent, made), func(string) []access.Resource { return []access.Resource{resource} }); access.CodeOf(err) != access.CodeMismatch {
		t.Fatal(err)
	}
	return w, id
}

func TestHostsAndSessions(t *testing.T) {
	w, id := visitedWorld(t)
	for _, row := range []struct {
		line string
		code int
		want []string // in what is printed, each
		not  string
	}{
		{"sessions", 0, []string{"HOST", "web-1", "deploy", "alice", "5m ago", "active", id[:13]}, "10.0.0.1"},
		{"sessions --all", 0, []string{"10.0.0.1:4711", "10m ago", "ended by hallpass: released by alice", "active"}, ""},
		{"sessions --host web-2", 0, []string{"Nobody is on any host."}, "web-1"},
		{"sessions --requester bob", 0, []string{"Nobody is on any host."}, "web-1"},
		{"sessions --all --request " + id[:13], 0, []string{"10.0.0.1:4711"}, ""},
		{"sessions --request 7fff", 7, []string{"no request in the audit log begins with"}, ""},
		{"sessions -o json", 0, []string{`"session": "b"`, `"requester": "alice"`}, `"session": "a"`},
		{"host list", 0, []string{"HOST", "web-1"}, ""},
		{"host list -o json", 0, []string{`"name": "web-1"`, `"agent_key"`}, ""},
		{"audit log --event host.", 0, []string{"host.enrolled", "takes web-1 in", "bob"}, ""},
		{"audit log --event session.", 0, []string{"session.ended", "deploy on web-1 from 10.0.0.1:4711: released by alice"}, ""},
		{"audit log --event session.refused", 0, []string{"session.refused", "deploy on web-1, serial 99: mismatch: the certificate of request"}, "10.0.0.1"},
		{"audit verify", 0, []string{"verified:"}, ""},
		{"ca krl", 0, []string{"version", "revoked    1"}, ""},
	} {
		r := w.run(row.line)
		if r.code != row.code {
			t.Errorf("%s: exit %d, want %d\n%s", row.line, r.code, row.code, r.stderr)
		}
		out := r.stdout + r.stderr
		for _, want := range row.want {
			if !strings.Contains(out, want) {
				t.Errorf("%s: no %q in\n%s", row.line, want, out)
			}
		}
		if row.not != "" && strings.Contains(out, row.not) {
			t.Errorf("%s: %q in\n%s", row.line, row.not, out)
		}
	}
}

func TestCAKRL(t *testing.T) {
	w, _ := auditedWorld(t)
	// The CA's public half is where the configuration says; the private one
	// isn't looked at.
	pub := func(key ssh.PublicKey) {
		check(t, os.WriteFile(filepath.Join(w.dir, "ca.pub"), ssh.MarshalAuthorizedKey(key), 0o600))
	}
	check(t, os.WriteFile(filepath.Join(w.dir, "hallpass.yaml"), []byte("temporal: {address: 127.0.0.1:1}\nissuers: {ssh: {key: 'file:ca'}}\n"), 0o600))
	pub(w.service.ca.PublicKey())

	file := filepath.Join(w.dir, "krl")
	var info KRL
	check(t, json.Unmarshal([]byte(w.must("ca krl -o json "+file).stdout), &info))
	list, err := os.ReadFile(file)
	check(t, err)
	signature, err := os.ReadFile(file + ".sig")
	check(t, err)
	l, err := krl.Open(list, string(signature), []ssh.PublicKey{w.service.ca.PublicKey()})
	check(t, err)
	if l.Version != info.Version || l.Len() != 1 || info.Revoked != 1 || info.Size != len(list) || info.File != file {
		t.Errorf("list %+v, said %+v", l, info)
	}
	if r := w.must("ca krl -"); r.stdout != string(list) {
		t.Errorf("standard output has %q", r.stdout)
	}
	w.now.advance(krl.MaxAge + time.Second)
	if r := w.must("ca krl"); !strings.Contains(r.stderr, "no issuer is running") {
		t.Errorf("an old list: %q", r.stderr)
	}
	pub(w.keys["bob"].PublicKey())
	if r := w.run("ca krl " + file); r.code != ExitError || !strings.Contains(r.stderr, "not one of the trusted CA keys") {
		t.Errorf("another CA: exit %d, %q", r.code, r.stderr)
	}
}

func TestHostToken(t *testing.T) {
	w := newWorld(t)
	w.as("bob")
	r := w.must("host token web-1 --for 2h")
	st, err := statement.ParseToken(r.stdout)
	check(t, err)
	join, user, err := statement.OpenJoin(st, w.service.book.Directory)
	check(t, err)
	if user.Name != "bob" || join.Resource != "ssh/web-1" || join.Until.Sub(join.Time) != 2*time.Hour {
		t.Errorf("%+v by %s", join, user.Name)
	}
	if !strings.Contains(r.stderr, "hallpass-host enroll") || strings.Contains(r.stderr, strings.TrimSpace(r.stdout)) {
		t.Errorf("stderr %q", r.stderr)
	}
	var out JoinToken
	check(t, json.Unmarshal([]byte(w.must("host token ssh/web-1 -o json").stdout), &out))
	if out.Resource != "ssh/web-1" || out.Token == "" || time.Until(out.Until) > time.Hour {
		t.Errorf("%+v", out)
	}
	// The CA is named, if it is known or said which one it is.
	joins := func(line string) []string {
		t.Helper()
		st, err := statement.ParseToken(w.must(line).stdout)
		check(t, err)
		join, err := statement.ParseJoin([]byte(st.Payload))
		check(t, err)
		return join.CAs
	}
	one, two := "SHA256:"+strings.Repeat("A", 43), "SHA256:"+strings.Repeat("B", 43)
	if got := joins("host token web-1 --user-ca " + one + " --user-ca " + two); !slices.Equal(got, []string{one, two}) {
		t.Errorf("%q", got)
	}
	if got := joins("host token web-1"); got != nil {
		t.Errorf("%q is known", got)
	}
	settings := filepath.Join(w.dir, "hallpass.yaml")
	before, err := os.ReadFile(settings)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	public, _, err := ed25519.GenerateKey(nil)
	check(t, err)
	next, err := ssh.NewPublicKey(public)
	check(t, err)
	ca := w.service.ca.PublicKey()
	check(t, os.WriteFile(settings, append(before, "issuers: {ssh: {key: 'file:ca', trusted: next}}\n"...), 0o600))
	check(t, os.WriteFile(filepath.Join(w.dir, "ca.pub"), ssh.MarshalAuthorizedKey(ca), 0o600))
	check(t, os.WriteFile(filepath.Join(w.dir, "next"), ssh.MarshalAuthorizedKey(next), 0o600))
	if got := joins("host token web-1"); !slices.Equal(got, []string{ssh.FingerprintSHA256(ca), ssh.FingerprintSHA256(next)}) {
		t.Errorf("%q is known", got)
	}
	for line, code := range map[string]int{
		"host token web-1 --user-ca x": ExitUsage,
		"host token":                   ExitUsage,
		"host token web-9":             ExitNotFound,
		"host token web-1 --for 0s":    ExitUsage,
		"host token web-1 --for 7d":    ExitOK,
		"host token web-1 --for 7d1s":  ExitUsage,
		"host token web-1 --for later": ExitUsage,
	} {
		if r := w.run(line); r.code != code {
			t.Errorf("%s: exit %d, want %d: %s", line, r.code, code, r.stderr)
		}
	}
}
