package testsuite

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"go.temporal.io/sdk/temporal"
	sdkworker "go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"
	"golang.org/x/crypto/ssh"

	"hallpass/access"
	"hallpass/statement"
)

// signingKey makes an Ed25519 key pair in the form of ssh-keygen's files.
func signingKey(comment string) (private, public string, err error) {
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return "", "", err
	}
	block, err := ssh.MarshalPrivateKey(key, comment)
	if err != nil {
		return "", "", err
	}
	sshKey, err := ssh.NewPublicKey(pub)
	if err != nil {
		return "", "", err
	}
	return string(pem.EncodeToMemory(block)), statement.MarshalKey(sshKey) + " " + comment + "\n", nil
}

// rogue is the owner of a Temporal cluster who wants a certificate. His worker
// takes the requests, says allowed to everything, and sends the issuer
// whatever evidence he can make up. He has everything but other people's keys
// and the issuer's files.
type rogue struct {
	signer ssh.Signer       // mallory's: nobody in the directory
	other  access.Statement // bob's approval of another request, which he saw go by
	me     string           // the login
	file   string           // gets what the issuer answered
}

// cmdRogue starts the rogue's worker. Bob's approval of something else is in
// approval.json; what came of each try will be in rogue.txt.
func cmdRogue(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) == 1, "rogue NAMESPACE")
	w := worldOf(ts)
	key, err := os.ReadFile(filepath.Join(w.env.WorkDir, "people", "mallory", "id"))
	ts.Check(err)
	r := &rogue{me: ts.Getenv("ME"), file: filepath.Join(w.env.WorkDir, "rogue.txt")}
	r.signer, err = ssh.ParsePrivateKey(key)
	ts.Check(err)
	ts.Check(json.Unmarshal([]byte(ts.ReadFile("approval.json")), &r.other))
	c := w.dial(ts, args[0])
	ts.Check(poll("Temporal to know the namespace", func() (bool, error) {
		// Not CheckHealth, which knows of no namespaces.
		_, err := c.DescribeTaskQueue(context.Background(), access.TaskQueue, 0)
		return err == nil, err
	}))
	worker := sdkworker.New(c, access.TaskQueue, sdkworker.Options{})
	worker.RegisterWorkflowWithOptions(r.run, workflow.RegisterOptions{Name: access.Workflow})
	ts.Check(worker.Start())
	ts.Defer(worker.Stop)
}

// try is one thing that the rogue sends to the issuer.
type try struct {
	Name     string
	Evidence any
}

// tries are the lies about a request, none of which the issuer may believe.
func (r *rogue) tries(in access.Submission) []try {
	var req access.Request
	_ = json.Unmarshal([]byte(in.Request.Payload), &req) // the client wrote it
	sign := func(payload any) access.Statement {
		st, err := statement.Sign(r.signer, payload)
		if err != nil {
			return access.Statement{}
		}
		return st
	}
	decision := func(signer, hash string) access.Decision {
		return access.Decision{
			Header:  access.Header{Type: access.TypeDecision, ID: statement.NewID(), Signer: signer, Time: statement.Time(time.Now())},
			Request: req.ID, RequestHash: hash, Verdict: access.Approve,
		}
	}
	with := func(d ...access.Statement) access.Evidence {
		return access.Evidence{Request: in.Request, Decisions: d}
	}
	unsigned := sign(decision("bob", in.Request.Hash()))
	unsigned.Signature = ""
	borrowed := sign(decision("bob", in.Request.Hash()))
	borrowed.Signature = r.other.Signature
	changed := in.Request
	changed.Payload = strings.Replace(changed.Payload, "ssh/web-1", "ssh/sandbox", 1) // needs nobody's approval
	own := req
	own.Header = access.Header{Type: access.TypeRequest, ID: req.ID, Signer: "alice", Time: statement.Time(time.Now())}
	own.Resource, own.PublicKey = "ssh/sandbox", statement.MarshalKey(r.signer.PublicKey())
	return []try{
		{"no approval", with()},
		{"approval in bob's name", with(sign(decision("bob", in.Request.Hash())))},
		{"approval of a stranger", with(sign(decision("mallory", in.Request.Hash())))},
		{"approval without a signature", with(unsigned)},
		{"approval under another approval's signature", with(borrowed)},
		{"bob's approval of another request", with(r.other)},
		{"the request as its own approval", with(in.Request)},
		{"changed request", access.Evidence{Request: changed}},
		{"request in alice's name", access.Evidence{Request: sign(own)}},
		{"no request", access.Evidence{}},
		{"a ruling", access.Standing{Effect: access.EffectAllow, Why: "allowed", Request: req}},
		{"a word", "allowed"},
	}
}

// run is the rogue's workflow.
func (r *rogue) run(ctx workflow.Context, in access.Submission) (access.Outcome, error) {
	status := access.Status{State: access.StateActive, Why: "allowed", Evidence: access.Evidence{Request: in.Request}}
	var tries []try
	if err := workflow.SideEffect(ctx, func(workflow.Context) any { return r.tries(in) }).Get(&tries); err != nil {
		return access.Outcome{}, err
	}
	_ = json.Unmarshal([]byte(in.Request.Payload), &status.Standing.Request) // the client wrote it
	status.ID = status.Standing.Request.ID
	status.Standing.Effect, status.Standing.Why = access.EffectAllow, "allowed"
	status.Credential = r.counterfeit(status.Standing.Request)
	if err := workflow.SetQueryHandler(ctx, access.QueryStatus, func() (access.Status, error) { return status, nil }); err != nil {
		return access.Outcome{}, err
	}
	var answers strings.Builder
	for _, t := range tries {
		var credential access.Credential
		err := workflow.ExecuteActivity(workflow.WithActivityOptions(ctx, workflow.ActivityOptions{
			TaskQueue: access.IssueQueue("ssh"), StartToCloseTimeout: time.Minute, Summary: t.Name,
			RetryPolicy: &temporal.RetryPolicy{MaximumAttempts: 2},
		}), "Issue", t.Evidence).Get(ctx, &credential)
		var refusal *temporal.ApplicationError
		switch {
		case err == nil:
			fmt.Fprintf(&answers, "%s: ISSUED %s\n", t.Name, credential.Certificate)
		case errors.As(err, &refusal):
			fmt.Fprintf(&answers, "%s: %s: %s\n", t.Name, refusal.Type(), refusal.Message())
		default:
			fmt.Fprintf(&answers, "%s: %v\n", t.Name, err)
		}
	}
	if !workflow.IsReplaying(ctx) {
		if err := os.WriteFile(r.file, []byte(answers.String()+"done\n"), 0o600); err != nil {
			return access.Outcome{}, err
		}
	}
	return access.Outcome{State: access.StateActive, Why: "allowed"}, workflow.Sleep(ctx, time.Hour)
}

// counterfeit is a certificate by the rogue's own CA.
func (r *rogue) counterfeit(req access.Request) *access.Credential {
	key, err := statement.ParseKey(req.PublicKey)
	if err != nil {
		return nil
	}
	now := time.Now()
	cert := &ssh.Certificate{
		Key: key, Serial: 1, CertType: ssh.UserCert, KeyId: "hallpass:" + req.ID + ":" + req.Signer,
		ValidPrincipals: []string{"web-1/" + r.me},
		ValidAfter:      uint64(now.Add(-time.Minute).Unix()), ValidBefore: uint64(now.Add(time.Hour).Unix()),
	}
	if err := cert.SignCert(rand.Reader, r.signer); err != nil {
		return nil
	}
	return &access.Credential{
		Handle: access.Handle{
			Request: req.ID, Kind: "ssh", Serial: 1, CA: ssh.FingerprintSHA256(r.signer.PublicKey()),
			Principals: cert.ValidPrincipals, NotBefore: now.UTC().Truncate(time.Second), NotAfter: now.Add(time.Hour).UTC().Truncate(time.Second),
		},
		Certificate: strings.TrimSpace(string(ssh.MarshalAuthorizedKey(cert))),
	}
}
