package cli

import (
	"context"
	"database/sql"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"hallpass/access"
	"hallpass/audit"
	"hallpass/evidence"
	issuing "hallpass/grant"
	"hallpass/statement"
)

// auditedWorld gives the world an audit log in which bob approved and released
// access for alice, issued by a real issuer; the request's id is returned.
func auditedWorld(t *testing.T) (w *world, id string) {
	t.Helper()
	w = newWorld(t)
	ctx := context.Background()
	file := func(name string) string { return filepath.Join(w.dir, name) }
	_, err := audit.CreateKey(file("audit.key"), file("audit.pub"), "audit.example.com")
	check(t, err)
	key, err := audit.ReadKey(file("audit.key"))
	check(t, err)
	log, err := audit.Open(ctx, audit.Options{Database: file("audit.db"), Key: key, Now: w.now.Now})
	check(t, err)
	defer func() { check(t, log.Close()) }()
	book := w.service.book
	check(t, log.RecordRulebook(ctx, book))

	sign := func(who string, payload any) access.Statement {
		st, err := statement.Sign(w.keys[who], payload)
		check(t, err)
		return st
	}
	id = statement.NewID()
	now := statement.Time(w.now.Now())
	request := access.Request{
		Header:   access.Header{Type: access.TypeRequest, ID: id, Signer: "alice", Time: now},
		Resource: "ssh/web-1", Login: "deploy", Duration: 600, Reason: "disk is full", PublicKey: statement.MarshalKey(w.keys["alice"].PublicKey()),
	}
	st := sign("alice", request)
	digests := book.Digests()
	_, err = log.Append(ctx, audit.Event{Type: audit.RequestReceived, Request: id, RequestHash: st.Hash(), Step: "received", Actor: "alice",
		Requester: "alice", Resource: "ssh/web-1", Statement: &st, Digests: &digests})
	check(t, err)
	yes := sign("bob", access.Decision{
		Header:  access.Header{Type: access.TypeDecision, ID: statement.NewID(), Signer: "bob", Time: now},
		Request: id, RequestHash: st.Hash(), Verdict: access.Approve, Comment: "go ahead",
	})
	_, err = log.Append(ctx, audit.Event{Type: audit.DecisionAccepted, Request: id, Step: "decision:1", Actor: "bob", Statement: &yes, Digests: &digests})
	check(t, err)
	issuer := &issuing.Issuer{
		Kinds: map[string]issuing.Kind{"ssh": &issuing.SSH{
			CA: w.service.ca, KRL: &issuing.KRL{CA: w.service.ca, Store: log, Now: w.now.Now},
		}},
		Rulebook: func() *evidence.Rulebook { return book },
		Ledger:   log, Now: w.now.Now,
	}
	_, err = issuer.Issue(ctx, access.Evidence{Request: st, Decisions: []access.Statement{yes}})
	check(t, err)
	stop := sign("alice", access.Stop{Header: access.Header{Type: access.TypeRelease, ID: statement.NewID(), Signer: "alice", Time: now}, Request: id, RequestHash: st.Hash()})
	check(t, issuer.Revoke(ctx, audit.End{Request: id, State: access.StateReleased, By: "alice", Statement: &stop}))
	_, err = log.Append(ctx, audit.Event{Type: audit.StatementRefused, Request: id, Code: access.CodeEnded, Why: "too late \x1b[31m"})
	check(t, err)
	return w, id
}

func TestAuditInit(t *testing.T) {
	w := newWorld(t)
	r := w.must("audit init audit.example.com -o json")
	var made AuditKey
	check(t, json.Unmarshal([]byte(r.stdout), &made))
	private, err := audit.ReadKey(filepath.Join(w.dir, "audit.key"))
	check(t, err)
	public, err := audit.ReadPublicKey(filepath.Join(w.dir, "audit.pub"))
	check(t, err)
	if made.PublicKey != public || !strings.HasPrefix(public, "audit.example.com+") || strings.Contains(r.stdout+r.stderr, private) {
		t.Errorf("%s is not about %s", r.stdout, public)
	}
	log, err := audit.Open(t.Context(), audit.Options{Database: filepath.Join(w.dir, "audit.db"), Key: private})
	check(t, err)
	check(t, log.Close())
	w.must("audit verify")

	// Once more changes nothing, and neither does half of a pair.
	for _, gone := range []string{"nothing", "audit.key"} {
		_ = os.Remove(filepath.Join(w.dir, gone))
		if r := w.run("audit init other"); r.code != ExitError || !strings.Contains(r.stderr, "exists; nothing was changed") {
			t.Errorf("without %s: exit %d, %s", gone, r.code, r.stderr)
		}
	}
	check(t, os.Remove(filepath.Join(w.dir, "audit.pub")))
	for _, line := range []string{"audit init", "audit init a+b", "audit init a_b"} {
		if r := w.run(line); r.code != ExitUsage {
			t.Errorf("%s: exit %d, %s", line, r.code, r.stderr)
		}
		if _, err := os.Stat(filepath.Join(w.dir, "audit.key")); err == nil {
			t.Errorf("%s made a key", line)
		}
	}
}

func TestAuditCommands(t *testing.T) {
	w, id := auditedWorld(t)
	for _, row := range []struct {
		line string
		code int
		want []string // in what is printed, each
	}{
		{"audit log", 0, []string{"rulebook.changed", "as deploy for 10m: disk is full", "approve: go ahead", "web-1/deploy until", "grant.released", `ended: too late ?[31m`}},
		{"audit log --grants", 0, []string{"WHO", "alice", "deploy on ssh/web-1", "released by alice", "bob", "disk is full"}},
		{"audit log --event credential. --limit 1", 0, []string{"credential.issued"}},
		{"audit log --event nonsense", 2, []string{"not a type of event"}},
		{"audit log --requester dave", 0, []string{"Nothing found"}},
		{"audit log --from 1h --to 2h", 2, []string{"--from is not before --to"}},
		{"audit log --from yesterday", 2, []string{"--from yesterday is not a time"}},
		{"audit log --limit -1", 2, []string{"--limit is -1"}},
		{"audit log --request 7fff", 7, []string{"no request in the audit log begins with"}},
		{"audit show 6", 0, []string{"credential.issued", "evidence", "disk is full", "ssh-ed25519-cert-v01@openssh.com"}},
		{"audit show 0", 0, []string{"policy sha256:", "| rules:", "|   - name: production"}},
		{"audit show 99", 7, []string{"there is no event 99"}},
		{"audit show " + id[:13], 0, []string{"request " + id, "request.received", "statement.refused"}},
		{"audit verify", 0, []string{"verified: 9 events, 5 signatures, 1 issued credential and 3 rulebook versions check out"}},
		{"audit verify --witness x", 2, []string{"--witness goes with --since"}},
		{"audit export", 0, []string{`{"index":0,"event":{"v":1,`}},
		{"audit export --format csv --event grant.", 0, []string{"index,time,type", "grant.released," + id + ",alice,alice,ssh/web-1,released"}},
		{"audit export --format ocsf --event credential.issued", 0, []string{`"class_uid":3005`, `"privileges":["web-1/deploy"]`}},
		{"audit export --format xml", 2, []string{"not jsonl, csv or ocsf"}},
		{"audit schema", 0, []string{"BEGIN;\n", "CREATE TABLE events (", "INSERT INTO checkpoints (size, note) VALUES (0, '\\x", "COMMIT;\n"}},
		{"audit schema x", 2, []string{"audit schema"}},
		{"audit checkpoint", 0, []string{"audit.example.com\n9\n", "— audit.example.com "}},
		{"audit prove ffff", 7, []string{"no request in the audit log begins with"}},
		{"audit check nothing.json", 1, []string{"read the proof"}},
	} {
		r := w.run(row.line)
		if r.code != row.code {
			t.Errorf("%s: exit %d, want %d\n%s", row.line, r.code, row.code, r.stderr)
		}
		for _, want := range row.want {
			if !strings.Contains(r.stdout+r.stderr, want) {
				t.Errorf("%s: no %q in\n%s%s", row.line, want, r.stdout, r.stderr)
			}
		}
	}
	var report audit.Report
	if err := json.Unmarshal([]byte(w.must("audit verify -o json").stdout), &report); err != nil || !report.OK || report.Size != 9 {
		t.Errorf("report %+v, %v", report, err)
	}
}

// A copy is verified before it is one, and answers like the log.
func TestAuditCopy(t *testing.T) {
	w, _ := auditedWorld(t)
	copied := filepath.Join(w.dir, "copy.db")
	if r := w.must("audit copy " + copied); !strings.Contains(r.stdout, "verified: 9 events") || !strings.Contains(r.stdout, "the first 9 events are those of the older checkpoint") {
		t.Errorf("copy: %s", r.stdout)
	}
	want := w.must("audit export").stdout
	w.env["HALLPASS_AUDIT_DATABASE"] = copied
	if got := w.must("audit export").stdout; got != want {
		t.Error("the copy says something else")
	}
	for _, row := range []struct {
		line string
		code int
		want string
	}{
		{"audit copy " + copied, ExitRefused, "there already is a file at"},
		{"audit copy", ExitUsage, "missing"},
		{"audit copy postgres://alice:s3cr3t@127.0.0.1:1/audit", ExitUsage, "the address of the audit log has a password in it, which would be shown; leave it out"},
		{"audit copy postgres://alice@127.0.0.1:1/audit", ExitUnreachable, "PostgreSQL can't be reached"},
		{"audit copy postgres:nothing", ExitUsage, "is not of the form postgres://user@host/database"},
	} {
		r := w.run(row.line)
		if r.code != row.code || !strings.Contains(r.stderr, row.want) || strings.Contains(r.stderr, "s3cr3t") {
			t.Errorf("%s: exit %d, %s; want %d, %s", row.line, r.code, r.stderr, row.code, row.want)
		}
	}
	// The configured address may not have one either, wherever it comes from.
	w.env["HALLPASS_AUDIT_DATABASE"] = "postgres://alice:s3cr3t@db/audit"
	for _, line := range []string{"config show", "config check", "audit log", "worker"} {
		if r := w.run(line); r.code != ExitUsage || !strings.Contains(r.stderr, "HALLPASS_AUDIT_DATABASE: audit.database: the address of the audit log has a password") ||
			strings.Contains(r.stdout+r.stderr, "s3cr3t") {
			t.Errorf("%s: exit %d, %s%s", line, r.code, r.stdout, r.stderr)
		}
	}
	w.env["HALLPASS_AUDIT_DATABASE"] = "postgres://alice@127.0.0.1:1/audit"
	if r := w.run("config show"); r.code != 0 || !strings.Contains(r.stdout, "postgres://alice@127.0.0.1:1/audit") {
		t.Errorf("config show: %s%s", r.stdout, r.stderr)
	}
	if r := w.run("audit log"); r.code != ExitUnreachable || !strings.Contains(r.stderr, "PostgreSQL can't be reached") {
		t.Errorf("audit log: exit %d, %s", r.code, r.stderr)
	}
}

func TestAuditProofNeedsOnlyTheKey(t *testing.T) {
	w, id := auditedWorld(t)
	proof := filepath.Join(w.dir, "proof.json")
	check(t, os.WriteFile(proof, []byte(w.must("audit prove "+id).stdout), 0o600))
	public, err := os.ReadFile(filepath.Join(w.dir, "audit.pub"))
	check(t, err)
	elsewhere := newWorld(t)
	delete(elsewhere.env, "HALLPASS_CONFIG")
	key := strings.TrimSpace(string(public))
	if r := elsewhere.run("audit check " + proof + " --key " + key); r.code != 0 || !strings.Contains(r.stdout, "verified:") || !strings.Contains(r.stdout, "deploy on ssh/web-1") {
		t.Errorf("exit %d\n%s%s", r.code, r.stdout, r.stderr)
	}
	if r := elsewhere.run("audit check " + proof + " --key " + filepath.Join(w.dir, "audit.pub")); r.code != 0 {
		t.Errorf("key file: exit %d\n%s", r.code, r.stderr)
	}
	data, err := os.ReadFile(proof)
	check(t, err)
	// A proof without the end is one that verifies, so it says what it can't say.
	p, err := audit.ParseProof(data)
	check(t, err)
	p.Events = slices.DeleteFunc(p.Events, func(e audit.Proven) bool { return strings.Contains(e.Leaf, `"type":"grant.`) })
	cut, err := p.MarshalIndent()
	check(t, err)
	check(t, os.WriteFile(proof, cut, 0o600))
	if r := elsewhere.run("audit check " + proof + " --key " + key); r.code != 0 || !strings.Contains(r.stdout, "Whoever made the proof could leave one out") {
		t.Errorf("proof without the end: exit %d\n%s%s", r.code, r.stdout, r.stderr)
	}
	check(t, os.WriteFile(proof, []byte(strings.Replace(string(data), "disk is full", "disk is fuII", 1)), 0o600))
	if r := elsewhere.run("audit check " + proof + " --key " + key); r.code != 1 || !strings.Contains(r.stderr, "the proof does not verify: event 3: request.received") {
		t.Errorf("changed proof: exit %d\n%s", r.code, r.stderr)
	}
}

func TestAuditVerifyNamesThePlace(t *testing.T) {
	w, _ := auditedWorld(t)
	checkpoint := filepath.Join(w.dir, "checkpoint")
	check(t, os.WriteFile(checkpoint, []byte(w.must("audit checkpoint").stdout), 0o600))
	if r := w.must("audit verify --since " + checkpoint); !strings.Contains(r.stdout, "the first 9 events are those of the older checkpoint") {
		t.Errorf("%s", r.stdout)
	}
	db, err := sql.Open("sqlite", "file:"+filepath.Join(w.dir, "audit.db"))
	check(t, err)
	_, err = db.Exec(`UPDATE events SET leaf = CAST(replace(CAST(leaf AS TEXT), 'disk is full', 'disk is fuII') AS BLOB) WHERE idx = 6`)
	check(t, err)
	check(t, db.Close())
	r := w.run("audit verify")
	if r.code != 1 || !strings.Contains(r.stderr, "the audit log does not verify: event 6: credential.issued") {
		t.Errorf("exit %d\n%s%s", r.code, r.stdout, r.stderr)
	}
	if n := strings.Count(r.stdout, "wrong: event 6: "); n != 1 {
		t.Errorf("%d lines about one event:\n%s", n, r.stdout)
	}
	if n := strings.Count(w.run("audit verify --output json").stdout, `"index": 6`); n != 2 {
		t.Errorf("%d problems for programs, not all", n)
	}
}
