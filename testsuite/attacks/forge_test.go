package attacks

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha512"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hiddeco/sshsig"
	"go.temporal.io/api/enums/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"golang.org/x/crypto/ssh"

	"hallpass/access"
	"hallpass/audit"
	"hallpass/statement"
)

// signed has ssh-keygen, which asks no questions, sign any bytes with
// somebody's key in a namespace.
func (s *stack) signed(t testing.TB, key, namespace, payload string) access.Statement {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "ssh-keygen", "-q", "-Y", "sign", "-f", s.People[key].Key, "-n", namespace)
	cmd.Stdin = bytes.NewReader([]byte(payload))
	signature, err := cmd.Output()
	must(t, err)
	return access.Statement{Payload: payload, Signature: string(signature)}
}

// forge signs any decision.
func (s *stack) forge(t testing.TB, key string, d access.Decision) access.Statement {
	t.Helper()
	return s.signed(t, key, "decision@hallpass", text(t, d))
}

func text(t testing.TB, v any) string {
	t.Helper()
	payload, err := json.Marshal(v)
	must(t, err)
	return string(payload)
}

// outcome submits a request and waits for its end.
func (s *stack) outcome(t testing.TB, id string, st access.Statement) (o access.Outcome) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	must(t, submit(t, s.Client, id, st).Get(ctx, &o))
	return o
}

// edit replaces a part of a text that has to be there.
func edit(t testing.TB, s, old, new string) string {
	t.Helper()
	if !strings.Contains(s, old) {
		t.Fatalf("%s isn't in %s", old, s)
	}
	return strings.Replace(s, old, new, 1)
}

// Approvals that bob hasn't given: by other keys, over other bytes, for other
// purposes, and such that one parser reads as this and another as that. And what he
// has signed, in a form that nobody has to take: by SHA-1, with bytes behind it, in
// another armor.
func TestForgedApprovals(t *testing.T) {
	s := attack(t)
	bobsRSA := s.addRSA(t, "bob")
	a := s.ask(t, "alice", "ssh/web-1")
	await(t, s.Client, a, access.StatePending)
	other := s.ask(t, "alice", "ssh/web-1")
	await(t, s.Client, other, access.StatePending)
	bobs := access.Decision{Header: s.Header("bob", access.TypeDecision), Request: a.ID, RequestHash: a.signed.Hash(), Verdict: access.Approve}
	good := text(t, bobs)
	deny := bobs
	deny.Verdict = access.Deny
	denial := s.forge(t, "bob", deny)
	approval := s.forge(t, "bob", bobs)

	cases := map[string]access.Statement{
		"mallory's key in bob's name":            s.signed(t, "mallory", "decision@hallpass", good),
		"alice's key in bob's name":              s.signed(t, "alice", "decision@hallpass", good),
		"carol's key, who may approve, in bob's": s.signed(t, "carol", "decision@hallpass", good),
		"bob's signature of his denial":          {Payload: good, Signature: denial.Signature},
		"one space more than was signed":         {Payload: good + " ", Signature: approval.Signature},
		"bob's approval of another request":      s.decide(t, "bob", "bob", other, access.Approve),
		"of another request, with this one's id": s.forge(t, "bob", access.Decision{Header: s.Header("bob", access.TypeDecision), Request: a.ID, RequestHash: other.signed.Hash(), Verdict: access.Approve}),
		"of this one's hash, with another's id":  s.forge(t, "bob", access.Decision{Header: s.Header("bob", access.TypeDecision), Request: other.ID, RequestHash: a.signed.Hash(), Verdict: access.Approve}),
	}
	cases["signature by an RSA key and SHA-1"] = signedRSA(t, bobsRSA, ssh.KeyAlgoRSA, good)
	for name, signature := range rewrapped(t, approval.Signature) {
		cases["signature "+name] = access.Statement{Payload: good, Signature: signature}
	}
	for _, namespace := range []string{"file", "git", "request@hallpass", "release@hallpass", "lock@hallpass", "decision@hallpass.example", "Decision@hallpass"} {
		cases["signed as "+namespace] = s.signed(t, "bob", namespace, good)
	}
	verdict, hash := `"verdict":"approve"`, `"request_hash":"`+bobs.RequestHash+`"`
	for name, payload := range map[string]string{
		"denies, then approves":     edit(t, good, verdict, `"verdict":"deny",`+verdict),
		"approves, then denies":     edit(t, good, verdict, verdict+`,"verdict":"deny"`),
		"repeats what it says":      edit(t, good, verdict, verdict+","+verdict),
		"Verdict":                   edit(t, good, verdict, `"Verdict":"approve"`),
		"verdict, and Verdict":      edit(t, good, verdict, `"verdict":"deny","Verdict":"approve"`),
		"a key and itself escaped":  edit(t, good, verdict, `"verdict":"deny","verdi\u0063t":"approve"`),
		"two hashes":                edit(t, good, hash, `"request_hash":"`+other.signed.Hash()+`",`+hash),
		"the hash in capitals":      edit(t, good, bobs.RequestHash, strings.ToUpper(bobs.RequestHash)),
		"two signers":               edit(t, good, `"signer":"bob"`, `"signer":"alice","signer":"bob"`),
		"a field that isn't one":    edit(t, good, verdict, verdict+`,"approved":true`),
		"a second value behind":     good + good,
		"a comment":                 good + "/* */",
		"a mark of byte order":      "\ufeff" + good,
		"half a surrogate":          edit(t, good, verdict, verdict+`,"comment":"\ud800"`),
		"NUL":                       edit(t, good, verdict, verdict+`,"comment":"a\u0000b"`),
		"a number beyond all":       edit(t, good, verdict, verdict+`,"duration":1e400`),
		"a number beyond 64 bits":   edit(t, good, verdict, verdict+`,"duration":18446744073709551617`),
		"one that wraps to an hour": edit(t, good, verdict, verdict+`,"duration":4294970896`),
		"an exact fraction":         edit(t, good, verdict, verdict+`,"duration":3600.0`),
		"an exponent":               edit(t, good, verdict, verdict+`,"duration":36e2`),
		"less than nothing":         edit(t, good, verdict, verdict+`,"duration":-1`),
		"minus nothing":             edit(t, good, verdict, verdict+`,"duration":-0`),
		"a number as text":          edit(t, good, verdict, verdict+`,"duration":"3600"`),
		"null":                      edit(t, good, verdict, `"verdict":null`),
		"a list":                    "[" + good + "]",
	} {
		cases[name] = s.signed(t, "bob", "decision@hallpass", payload)
	}
	for name, st := range cases {
		err := say(t, s.Client, a, access.MessageDecision, st)
		if err == nil {
			t.Errorf("%s: taken", name)
		} else if form := "is not an armored SSH signature"; strings.HasPrefix(name, "signature ") && !strings.Contains(err.Error(), form) {
			t.Errorf("%s: %v, want %s", name, err, form)
		}
	}
	if got := status(t, s.Client, a); got.State != access.StatePending || len(got.Standing.Voices) != 0 {
		t.Errorf("%s, with %+v", got.State, got.Standing.Voices)
	}
	// They were all of this one, and by SHA-512 the RSA key is as good as the other.
	must(t, say(t, s.Client, a, access.MessageDecision, signedRSA(t, bobsRSA, ssh.KeyAlgoRSASHA512, good)))
	await(t, s.Client, a, access.StateActive)
	if n := s.issued(t, other); n != 0 {
		t.Errorf("the other request has %d credentials", n)
	}
	s.verifies(t)
}

// addRSA gives somebody an RSA key beside the other until the test is over.
func (s *stack) addRSA(t testing.TB, who string) ssh.AlgorithmSigner {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 3072)
	must(t, err)
	signer, err := ssh.NewSignerFromKey(key)
	must(t, err)
	algorithms, ok := signer.(ssh.AlgorithmSigner)
	if !ok {
		t.Fatalf("%T signs by one algorithm alone", signer)
	}
	directory := s.Directory()
	has := fmt.Sprintf("%q", statement.MarshalKey(s.People[who].Signer.PublicKey()))
	s.replace(t, "directory.yaml", edit(t, directory, has, fmt.Sprintf("%s, %q", has, statement.MarshalKey(signer.PublicKey()))))
	t.Cleanup(func() { s.replace(t, "directory.yaml", directory) })
	return algorithms
}

// signedRSA is a decision signed by an RSA key and one of the algorithms for it.
func signedRSA(t testing.TB, key ssh.AlgorithmSigner, algorithm, payload string) access.Statement {
	t.Helper()
	const namespace = "decision@hallpass"
	digest := sha512.Sum512([]byte(payload))
	signature, err := key.SignWithAlgorithm(rand.Reader, append([]byte("SSHSIG"), ssh.Marshal(struct{ Namespace, Reserved, Hash, Digest string }{
		namespace, "", string(sshsig.HashSHA512), string(digest[:]),
	})...), algorithm)
	must(t, err)
	return access.Statement{Payload: payload, Signature: string(sshsig.Armor(&sshsig.Signature{
		Version: 1, PublicKey: key.PublicKey(), Namespace: namespace, HashAlgorithm: sshsig.HashSHA512, Signature: signature,
	}))}
}

// rewrapped is a good signature with more in it or around it.
func rewrapped(t testing.TB, armored string) map[string]string {
	t.Helper()
	const begin, end = "-----BEGIN SSH SIGNATURE-----\n", "-----END SSH SIGNATURE-----\n"
	inner := strings.ReplaceAll(strings.TrimSuffix(strings.TrimPrefix(armored, begin), end), "\n", "")
	blob, err := base64.StdEncoding.DecodeString(inner)
	must(t, err)
	again := func(blob []byte) string { return begin + base64.StdEncoding.EncodeToString(blob) + "\n" + end }
	parsed, err := sshsig.Unarmor([]byte(armored))
	must(t, err)
	parsed.Signature.Rest = []byte{1}
	return map[string]string{
		"with a byte behind it":            again(append(slices.Clone(blob), 0)),
		"with another behind it":           again(slices.Concat(blob, blob)),
		"with a byte behind the key's own": string(sshsig.Armor(parsed)),
		"with a byte less":                 again(blob[:len(blob)-1]),
		"twice":                            armored + armored,
		"behind a line":                    "x\n" + armored,
		"behind an empty line":             "\n" + armored,
		"before a line":                    armored + "x\n",
		"with headers":                     edit(t, armored, begin, begin+"Version: 1\n\n"),
		"with the line ends of DOS":        strings.ReplaceAll(armored, "\n", "\r\n"),
		"in the armor of PGP":              strings.ReplaceAll(armored, "SSH SIGNATURE", "PGP SIGNATURE"),
		"without an armor":                 inner,
		"raw":                              string(blob),
		"that says it is by SHA-1":         again(bytes.Replace(blob, []byte("\x00\x00\x00\x06sha512"), []byte("\x00\x00\x00\x04sha1"), 1)),
		"that says it is of version 2":     again(bytes.Replace(blob, []byte("SSHSIG\x00\x00\x00\x01"), []byte("SSHSIG\x00\x00\x00\x02"), 1)),
	}
}

// Requests that a client would never sign: what gets into a certificate isn't
// the requester's to make up.
func TestForgedRequests(t *testing.T) {
	s := attack(t)
	who := `"login":"` + login() + `"`
	hour := `"duration":3600`
	for name, change := range map[string]func(string) string{
		"a list of principals":       func(p string) string { return edit(t, p, who, `"login":"`+login()+`,root"`) },
		"another's, first":           func(p string) string { return edit(t, p, who, `"login":"root,`+login()+`"`) },
		"a line more":                func(p string) string { return edit(t, p, who, `"login":"`+login()+`\nroot"`) },
		"NUL":                        func(p string) string { return edit(t, p, who, `"login":"`+login()+`\u0000"`) },
		"NUL amid":                   func(p string) string { return edit(t, p, who, `"login":"a\u0000b"`) },
		"everybody":                  func(p string) string { return edit(t, p, who, `"login":"*"`) },
		"anybody":                    func(p string) string { return edit(t, p, who, `"login":"?"`) },
		"nobody":                     func(p string) string { return edit(t, p, who, `"login":""`) },
		"none":                       func(p string) string { return edit(t, p, who+",", "") },
		"another host's":             func(p string) string { return edit(t, p, who, `"login":"../web-1/`+login()+`"`) },
		"a list":                     func(p string) string { return edit(t, p, who, `"login":["`+login()+`","root"]`) },
		"two logins":                 func(p string) string { return edit(t, p, who, `"login":"root",`+who) },
		"two logins the other way":   func(p string) string { return edit(t, p, who, who+`,"login":"root"`) },
		"login and Login":            func(p string) string { return edit(t, p, who, who+`,"Login":"root"`) },
		"principals":                 func(p string) string { return edit(t, p, who, who+`,"principals":["root"]`) },
		"two resources":              func(p string) string { return edit(t, p, `"ssh/sandbox"`, `"ssh/web-1","resource":"ssh/sandbox"`) },
		"a resource with a comma":    func(p string) string { return edit(t, p, `"ssh/sandbox"`, `"ssh/sandbox,web-1"`) },
		"a resource above":           func(p string) string { return edit(t, p, `"ssh/sandbox"`, `"ssh/../web-1"`) },
		"another kind's":             func(p string) string { return edit(t, p, `"ssh/sandbox"`, `"vault/sandbox"`) },
		"less than no time":          func(p string) string { return edit(t, p, hour, `"duration":-1`) },
		"much less":                  func(p string) string { return edit(t, p, hour, `"duration":-9223372036854775808`) },
		"no time":                    func(p string) string { return edit(t, p, hour, `"duration":0`) },
		"all there is":               func(p string) string { return edit(t, p, hour, `"duration":9223372036854775807`) },
		"that in nanoseconds wraps":  func(p string) string { return edit(t, p, hour, `"duration":18446744074`) },
		"beyond 64 bits":             func(p string) string { return edit(t, p, hour, `"duration":18446744073709555216`) },
		"beyond 32 bits, to an hour": func(p string) string { return edit(t, p, hour, `"duration":4294970896`) },
		"beyond all":                 func(p string) string { return edit(t, p, hour, `"duration":1e400`) },
		"an hour in milliseconds":    func(p string) string { return edit(t, p, hour, `"duration":3600000`) },
		"an hour and a bit":          func(p string) string { return edit(t, p, hour, `"duration":3600.5`) },
		"an hour as text":            func(p string) string { return edit(t, p, hour, `"duration":"3600"`) },
		"an hour in words":           func(p string) string { return edit(t, p, hour, `"duration":"1h"`) },
		"two durations":              func(p string) string { return edit(t, p, hour, `"duration":60,`+hour) },
		"longer than any policy":     func(p string) string { return edit(t, p, hour, `"duration":86401`) },
		"a key id of more parts":     func(p string) string { return edit(t, p, `"signer":"alice"`, `"signer":"alice:bob"`) },
		"a key id of two lines":      func(p string) string { return edit(t, p, `"signer":"alice"`, `"signer":"alice\nbob"`) },
		"in bob's name":              func(p string) string { return edit(t, p, `"signer":"alice"`, `"signer":"bob"`) },
		"a key with options":         func(p string) string { return edit(t, p, `"public_key":"`, `"public_key":"no-pty `) },
		"a key for somebody else's": func(p string) string {
			return edit(t, p, `"public_key":"`, `"public_key":"`+statement.MarshalKey(s.People["bob"].Signer.PublicKey())+`\n`)
		},
		"extensions of its own": func(p string) string { return edit(t, p, who, who+`,"extensions":{"permit-pty":""}`) },
		"what isn't UTF-8":      func(p string) string { return edit(t, p, `"reason":"`, "\"reason\":\"\xff\xfe") },
	} {
		a := s.request(t, "alice", "ssh/sandbox")
		forged := change(text(t, a.Request))
		// Only these pass the parser, and are refused later.
		if _, err := statement.ParseRequest([]byte(forged)); (err == nil) != slices.Contains([]string{"none", "another kind's", "in bob's name", "longer than any policy"}, name) {
			t.Errorf("%s: the parser says %v", name, err)
		}
		a.signed = s.signed(t, "alice", "request@hallpass", forged)
		if o := s.outcome(t, a.ID, a.signed); o.State != access.StateDenied || o.Handle != nil || s.issued(t, a) != 0 {
			t.Errorf("%s: %s, %s; issued %d times", name, o.State, o.Why, s.issued(t, a))
		}
	}
	// Signed in the same way, but as a client would, it is granted.
	a := s.request(t, "alice", "ssh/sandbox")
	a.signed = s.signed(t, "alice", "request@hallpass", text(t, a.Request))
	submit(t, s.Client, a.ID, a.signed)
	cert := certificate(t, await(t, s.Client, a, access.StateActive))
	if len(cert.ValidPrincipals) != 1 || cert.ValidPrincipals[0] != "sandbox/"+login() || cert.KeyId != "hallpass:"+a.ID+":alice" {
		t.Errorf("principals %q, key id %q", cert.ValidPrincipals, cert.KeyId)
	}
	s.verifies(t)
}

// Bob has approved a request. Alice, with whoever owns Temporal, has the
// approval count for another one: edited under the same id, and the same again
// after its end.
func TestApprovalReplayed(t *testing.T) {
	s := attack(t)
	approved := func(t *testing.T) (asked, access.Statement) {
		a := s.ask(t, "alice", "ssh/web-1", func(r *access.Request) { r.Duration = access.InSeconds(10 * time.Minute) })
		await(t, s.Client, a, access.StatePending)
		return a, s.decide(t, "bob", "bob", a, access.Approve)
	}
	gone := func(t *testing.T, a asked) {
		must(t, s.Client.TerminateWorkflow(t.Context(), access.WorkflowID(a.ID), "", "attack"))
	}
	// replay starts a request's workflow and sends the approval as it comes.
	replay := func(t *testing.T, id string, st, approval access.Statement) access.Outcome {
		run := submit(t, s.Client, id, st)
		_ = s.Client.SignalWorkflow(t.Context(), access.WorkflowID(id), run.GetRunID(), access.MessageDecision, approval) // it may have ended
		var o access.Outcome
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		must(t, run.Get(ctx, &o))
		return o
	}
	for name, change := range map[string]func(*access.Request){
		"for longer":          func(r *access.Request) { r.Duration = access.InSeconds(8 * time.Hour) },
		"of another resource": func(r *access.Request) { r.Resource = "ssh/narrow" },
		"with another reason": func(r *access.Request) { r.Reason = "another one" },
		"at another time":     func(r *access.Request) { r.Time = r.Time.Add(-time.Second) },
	} {
		t.Run("edited "+name, func(t *testing.T) {
			a, approval := approved(t)
			gone(t, a)
			b := a
			change(&b.Request)
			b.signed = s.signed(t, "alice", "request@hallpass", text(t, b.Request))
			if o := replay(t, a.ID, b.signed, approval); o.State != access.StateDenied || s.issued(t, a) != 0 {
				t.Errorf("%s: %s; issued %d times", o.State, o.Why, s.issued(t, a))
			}
		})
	}
	t.Run("resubmitted after its end", func(t *testing.T) {
		a, approval := approved(t)
		must(t, say(t, s.Client, a, access.MessageDecision, approval))
		await(t, s.Client, a, access.StateActive)
		must(t, say(t, s.Client, a, access.MessageRelease, s.word(t, "alice", access.TypeRelease, a)))
		await(t, s.Client, a, access.StateReleased)
		if o := replay(t, a.ID, a.signed, approval); o.State != access.StateDenied || s.issued(t, a) != 1 {
			t.Errorf("%s: %s; issued %d times", o.State, o.Why, s.issued(t, a))
		}
	})
	t.Run("resubmitted after a denial", func(t *testing.T) {
		a, approval := approved(t)
		must(t, say(t, s.Client, a, access.MessageDecision, s.decide(t, "carol", "carol", a, access.Deny)))
		await(t, s.Client, a, access.StateDenied)
		if o := replay(t, a.ID, a.signed, approval); o.State != access.StateDenied || s.issued(t, a) != 0 {
			t.Errorf("%s: %s; issued %d times", o.State, o.Why, s.issued(t, a))
		}
	})
	t.Run("the same request to the end", func(t *testing.T) { // so that the others show something
		a, approval := approved(t)
		gone(t, a)
		submit(t, s.Client, a.ID, a.signed)
		must(t, say(t, s.Client, a, access.MessageDecision, approval))
		await(t, s.Client, a, access.StateActive)
	})
	s.verifies(t)
}

// word signs one that ends a request.
func (s *stack) word(t testing.TB, who string, typ access.Type, a asked) access.Statement {
	t.Helper()
	stop := access.Stop{Header: s.Header(who, typ), Request: a.ID, RequestHash: a.signed.Hash()}
	if typ == access.TypeRevoke {
		stop.Reason = "attack"
	}
	st, err := s.Sign(who, stop)
	must(t, err)
	return st
}

// A grant that was given back or taken away doesn't come back by a reset to
// before that, without what was said since.
func TestResetToBeforeTheEnd(t *testing.T) {
	s := attack(t)
	for name, c := range map[string]struct {
		who     string
		typ     access.Type
		message string
		end     access.State
	}{
		"release": {"alice", access.TypeRelease, access.MessageRelease, access.StateReleased},
		"revoke":  {"dave", access.TypeRevoke, access.MessageRevoke, access.StateRevoked},
	} {
		for task, where := range []string{"to the ruling", "to the wait"} {
			t.Run(name+" "+where, func(t *testing.T) {
				a := s.ask(t, "alice", "ssh/web-1")
				await(t, s.Client, a, access.StatePending)
				approval := s.decide(t, "bob", "bob", a, access.Approve)
				must(t, say(t, s.Client, a, access.MessageDecision, approval))
				before := await(t, s.Client, a, access.StateActive)
				must(t, say(t, s.Client, a, c.message, s.word(t, c.who, c.typ, a)))
				await(t, s.Client, a, c.end)

				described, err := s.Client.DescribeWorkflowExecution(t.Context(), access.WorkflowID(a.ID), "")
				must(t, err)
				reset, err := s.Client.ResetWorkflowExecution(t.Context(), &workflowservice.ResetWorkflowExecutionRequest{
					Namespace: "default", WorkflowExecution: described.WorkflowExecutionInfo.Execution,
					Reason: "attack", WorkflowTaskFinishEventId: tasks(t, s.Client, a)[task], RequestId: statement.NewID(),
					ResetReapplyExcludeTypes: []enums.ResetReapplyExcludeType{enums.RESET_REAPPLY_EXCLUDE_TYPE_SIGNAL, enums.RESET_REAPPLY_EXCLUDE_TYPE_UPDATE},
				})
				must(t, err)
				if reset.GetRunId() == described.WorkflowExecutionInfo.Execution.RunId {
					t.Fatal("the workflow wasn't reset, so the test shows nothing")
				}
				_ = say(t, s.Client, a, access.MessageDecision, approval) // whatever is answered
				_ = s.Client.SignalWorkflow(t.Context(), access.WorkflowID(a.ID), "", access.MessageDecision, approval)
				eventually(t, "an end", func() bool { return status(t, s.Client, a).State.Final() || s.issued(t, a) > 1 })
				got := status(t, s.Client, a)
				if got.State == access.StateActive || got.Credential != nil || s.issued(t, a) != 1 {
					t.Errorf("%s: %s; issued %d times, first %+v", got.State, got.Why, s.issued(t, a), before.Credential.Handle)
				}
				if n := s.count(t, a, "grant."+string(c.end)); n != 1 {
					t.Errorf("its end is on record %d times", n)
				}
			})
		}
	}
	s.verifies(t)
}

// A grant that lives is reset to each of its workflow's tasks, with and without
// what was said since. It goes on as what it was: one certificate, with the same
// serial and the same end, and it can be taken back as ever.
func TestResetOfALiveGrant(t *testing.T) {
	s := attack(t)
	for name, exclude := range map[string][]enums.ResetReapplyExcludeType{
		"with what was said":    nil,
		"without what was said": {enums.RESET_REAPPLY_EXCLUDE_TYPE_SIGNAL, enums.RESET_REAPPLY_EXCLUDE_TYPE_UPDATE},
	} {
		t.Run(name, func(t *testing.T) {
			a := s.ask(t, "alice", "ssh/web-1")
			await(t, s.Client, a, access.StatePending)
			approval := s.decide(t, "bob", "bob", a, access.Approve)
			must(t, say(t, s.Client, a, access.MessageDecision, approval))
			first := await(t, s.Client, a, access.StateActive).Credential
			id := access.WorkflowID(a.ID)
			described, err := s.Client.DescribeWorkflowExecution(t.Context(), id, "")
			must(t, err)
			for _, task := range tasks(t, s.Client, a) {
				reset, err := s.Client.ResetWorkflowExecution(t.Context(), &workflowservice.ResetWorkflowExecutionRequest{
					Namespace: "default", WorkflowExecution: described.WorkflowExecutionInfo.Execution,
					Reason: "attack", WorkflowTaskFinishEventId: task, RequestId: statement.NewID(), ResetReapplyExcludeTypes: exclude,
				})
				must(t, err)
				if reset.GetRunId() == described.WorkflowExecutionInfo.Execution.RunId {
					t.Fatal("the workflow wasn't reset, so the test shows nothing")
				}
				_ = s.Client.SignalWorkflow(t.Context(), id, "", access.MessageDecision, approval) // it may have it
				got := await(t, s.Client, a, access.StateActive).Credential
				if diff := cmp.Diff(first, got); diff != "" {
					t.Errorf("reset to event %d, it is another: %s", task, diff)
				}
				if n := s.issued(t, a); n != 1 {
					t.Errorf("reset to event %d, it is issued %d times", task, n)
				}
			}
			must(t, say(t, s.Client, a, access.MessageRevoke, s.word(t, "dave", access.TypeRevoke, a)))
			await(t, s.Client, a, access.StateRevoked)
			if n := s.count(t, a, audit.GrantRevoked); n != 1 {
				t.Errorf("its end is on record %d times", n)
			}
		})
	}
	s.verifies(t)
}

// A lock that was lifted isn't in force again when its workflow is reset, or run
// once more: neither for who asks then, nor for what was granted since.
func TestResetOfALiftedLock(t *testing.T) {
	s := attack(t)
	lock := func(l access.Lock) (id string, st access.Statement) {
		t.Helper()
		l.Header, l.Kind, l.Name = s.Header("dave", access.TypeLock), access.LockResource, "ssh/narrow"
		st, err := s.Sign("dave", l)
		must(t, err)
		return l.ID, st
	}
	play := func(id string, st access.Statement) {
		t.Helper()
		run, err := s.Client.ExecuteWorkflow(t.Context(), client.StartWorkflowOptions{
			ID: access.LockWorkflowID(id), TaskQueue: access.TaskQueue, WorkflowIDReusePolicy: enums.WORKFLOW_ID_REUSE_POLICY_ALLOW_DUPLICATE,
		}, access.WorkflowLock, access.Locking{Statement: st})
		must(t, err)
		over(t, run)
	}
	ask := func() asked { return s.ask(t, "alice", "ssh/narrow") }
	was := ask()
	await(t, s.Client, was, access.StateActive)
	id, st := lock(access.Lock{Action: access.ActionLock, Reason: "attack"})
	play(id, st)
	await(t, s.Client, was, access.StateRevoked)
	await(t, s.Client, ask(), access.StateDenied)
	unlockID, unlock := lock(access.Lock{Action: access.ActionUnlock, Lock: id, Reason: "over"})
	play(unlockID, unlock)
	since := ask()
	await(t, s.Client, since, access.StateActive)

	holds := func(how string) {
		t.Helper()
		if got := status(t, s.Client, since); got.State != access.StateActive {
			t.Errorf("%s: what was granted since is %s: %s", how, got.State, got.Why)
		}
		if got := await(t, s.Client, ask(), access.StateActive); got.Credential == nil {
			t.Errorf("%s: %s", how, got.Why)
		}
	}
	described, err := s.Client.DescribeWorkflowExecution(t.Context(), access.LockWorkflowID(id), "")
	must(t, err)
	events := completed(t, s.Client, access.LockWorkflowID(id))
	if len(events) == 0 {
		t.Fatal("there is nothing to reset to, so the test shows nothing")
	}
	for _, task := range events {
		reset, err := s.Client.ResetWorkflowExecution(t.Context(), &workflowservice.ResetWorkflowExecutionRequest{
			Namespace: "default", WorkflowExecution: described.WorkflowExecutionInfo.Execution,
			Reason: "attack", WorkflowTaskFinishEventId: task, RequestId: statement.NewID(),
		})
		must(t, err)
		over(t, s.Client.GetWorkflow(t.Context(), access.LockWorkflowID(id), reset.GetRunId()))
		holds(fmt.Sprintf("reset to event %d", task))
	}
	play(id, st)
	holds("run once more")
	s.verifies(t)
}

// over waits for the end of a workflow.
func over(t testing.TB, run client.WorkflowRun) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	must(t, run.Get(ctx, nil))
}
