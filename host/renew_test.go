//go:build linux

package host

import (
	"cmp"
	"context"
	"log/slog"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"hallpass/access"
	"hallpass/ca/krl"
	"hallpass/statement"
)

// What carries the answer to a host may be anybody's: the service, a worker of
// workflows, Temporal. Without the signature of a CA that the host has, for the very
// thing that it asked, nothing is taken of it.
func TestForgedRenewals(t *testing.T) {
	w := newHost(t)
	if out, err := w.hallpassHost(w.enrollArgs()...); err != nil {
		t.Fatalf("enroll: %v\n%s", err, out)
	}
	w.startSSHD()
	a, err := newAgent(RunOptions{Layout: w.layout, Log: slog.New(slog.DiscardHandler)})
	must(t, err)
	t.Cleanup(a.sessions.close)
	before, err := os.ReadFile(w.layout.userCAs())
	must(t, err)
	mallory := newSigner(t)
	lets := func(key ssh.Signer) func(*access.Enrolled) {
		return func(e *access.Enrolled) { e.UserCAs = append(e.UserCAs, statement.MarshalKey(key.PublicKey())) }
	}
	for _, tt := range []struct {
		name     string
		signedBy ssh.Signer
		change   func(*access.Enrolled)
		forge    func(access.Statement) access.Statement
		want     string
	}{
		{"by another CA, which it names", mallory, func(e *access.Enrolled) { e.UserCAs = []string{statement.MarshalKey(mallory.PublicKey())} }, nil,
			"which none of this host's vouches for"},
		{"by the CA of hosts", w.service.hostCA, lets(mallory), nil, "which none of this host's vouches for"},
		{"changed on its way", nil, nil, func(st access.Statement) access.Statement {
			st.Payload = strings.Replace(st.Payload, "ssh-ed25519 ", "ssh-ed25519  ", 1)
			return st
		}, "is not valid"},
		{"not signed", nil, nil, func(st access.Statement) access.Statement { return access.Statement{Payload: st.Payload} }, "is missing"},
		{"an answer to another question", nil, func(e *access.Enrolled) { e.Answers = strings.Repeat("0", 64) }, nil, "answers what this host didn't ask"},
		{"for another agent", nil, func(e *access.Enrolled) { e.AgentKey = statement.MarshalKey(mallory.PublicKey()) }, nil, "takes another key for this host's agent"},
		{"for another host", nil, func(e *access.Enrolled) { e.Host = "web-2" }, nil, "the service takes this host for web-2"},
		{"a list, signed as one", nil, nil, func(st access.Statement) access.Statement {
			signature, err := statement.SignData(w.service.ca, "krl@hallpass", []byte(st.Payload))
			must(t, err)
			return access.Statement{Payload: st.Payload, Signature: signature}
		}, `signature is for "krl@hallpass"`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w.service.tells(tt.signedBy, tt.change, tt.forge)
			if err := a.renew(t.Context()); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%v, want %q", err, tt.want)
			}
			if after, err := os.ReadFile(w.layout.userCAs()); err != nil || string(after) != string(before) {
				t.Errorf("the host trusts\n%s%v", after, err)
			}
		})
	}

	// A new CA is taken from the one that the host has, and then vouches for the next.
	next, third := newSigner(t), newSigner(t)
	w.service.tells(nil, lets(next), nil)
	must(t, a.renew(t.Context()))
	w.service.tells(next, func(e *access.Enrolled) { lets(next)(e); lets(third)(e) }, nil)
	must(t, a.renew(t.Context()))
	if after, err := os.ReadFile(w.layout.userCAs()); err != nil || !strings.Contains(string(after), statement.MarshalKey(third.PublicKey())) {
		t.Errorf("the host trusts\n%s%v", after, err)
	}
}

// A host whose clock is ahead is told that it is time to renew already, by its own.
func TestRenewsOnceAMinute(t *testing.T) {
	w := newHost(t)
	if out, err := w.hallpassHost(w.enrollArgs()...); err != nil {
		t.Fatalf("enroll: %v\n%s", err, out)
	}
	w.startSSHD()
	now, certificate := time.Now().Add(-time.Second).UTC().Truncate(time.Second), ""
	w.service.tells(nil, func(e *access.Enrolled) { // the same, over and over
		certificate = cmp.Or(certificate, e.Certificate)
		e.RenewAfter, e.Certificate = now, certificate
	}, nil)
	a, err := newAgent(RunOptions{Layout: w.layout, Log: slog.New(slog.DiscardHandler)})
	must(t, err)
	t.Cleanup(a.sessions.close)
	a.config.RenewAfter = time.Now()
	reload := make(chan os.Signal)
	a.reload = reload
	ctx, stop := context.WithCancel(t.Context())
	var agent sync.WaitGroup
	agent.Go(func() { a.renewing(ctx) })
	t.Cleanup(agent.Wait)
	t.Cleanup(stop)
	renewals := func() int {
		w.service.mu.Lock()
		defer w.service.mu.Unlock()
		return w.service.renewals
	}
	eventually(t, "it renews", func() bool { return renewals() > 0 })
	reload <- syscall.SIGHUP
	eventually(t, "it renews when it is told to", func() bool { return renewals() > 1 })
	a.mu.Lock()
	defer a.mu.Unlock()
	if n := renewals(); n != 2 || a.renewal != nil {
		t.Errorf("it has asked %d times; %v", n, a.renewal)
	}
}

// Where the CA was lost, root says which one it is from now on.
func TestTrust(t *testing.T) {
	t.Parallel()
	w := newHost(t)
	if out, err := w.hallpassHost("trust", "SHA256:"+strings.Repeat("A", 43)); err == nil || !strings.Contains(out, "not enrolled") {
		t.Errorf("before it is enrolled: %v\n%s", err, out)
	}
	if out, err := w.hallpassHost(w.enrollArgs()...); err != nil {
		t.Fatalf("enroll: %v\n%s", err, out)
	}
	w.startSSHD()
	a, err := newAgent(RunOptions{Layout: w.layout, Log: slog.New(slog.DiscardHandler)})
	must(t, err)
	t.Cleanup(a.sessions.close)
	next, mallory := newSigner(t), newSigner(t)
	alone := func(key ssh.Signer) func(*access.Enrolled) {
		return func(e *access.Enrolled) { e.UserCAs = []string{statement.MarshalKey(key.PublicKey())} }
	}
	for _, bad := range []string{"", "next", "SHA256:", "MD5:00:11", ssh.FingerprintSHA256(next.PublicKey()) + "="} {
		if out, err := w.hallpassHost("trust", bad); err == nil {
			t.Errorf("%q is taken: %s", bad, out)
		}
	}
	w.service.tells(next, alone(next), nil)
	if err := a.renew(t.Context()); err == nil {
		t.Fatal("taken without a word")
	}
	if out, err := w.hallpassHost("trust", ssh.FingerprintSHA256(next.PublicKey())); err != nil || !strings.Contains(out, "systemctl reload hallpass-host") {
		t.Fatalf("%v\n%s", err, out)
	}
	w.service.tells(mallory, alone(mallory), nil)
	if err := a.renew(t.Context()); err == nil {
		t.Error("another one is taken")
	}
	// The last one is somebody else's, too: what he says first isn't taken either,
	// and root's word isn't used up by it.
	for _, says := range []func(*access.Enrolled){nil, func(e *access.Enrolled) { e.UserCAs = append(e.UserCAs, statement.MarshalKey(mallory.PublicKey())) }} {
		w.service.tells(nil, says, nil)
		if err := a.renew(t.Context()); err == nil || !strings.Contains(err.Error(), "hallpass-host trust has named") {
			t.Errorf("the last one is taken: %v", err)
		}
	}
	if out, err := w.hallpassHost("check"); err == nil || !strings.Contains(out, "waits for CA "+ssh.FingerprintSHA256(next.PublicKey())) {
		t.Errorf("check: %v\n%s", err, out)
	}
	// The last CA's list has come as far as a version can.
	data, signature := signedBy(w.service.ca, 1<<62, time.Now(), 7)
	must(t, a.lists.take(t.Context(), signedList{data, signature}, func(*krl.List) {}))
	w.service.tells(next, alone(next), nil)
	must(t, a.renew(t.Context()))
	if after, err := os.ReadFile(w.layout.userCAs()); err != nil || string(after) != statement.MarshalKey(next.PublicKey())+"\n" {
		t.Errorf("the host trusts\n%s%v", after, err)
	}
	data, signature = signedBy(next, 3, time.Now(), 9)
	must(t, a.lists.take(t.Context(), signedList{data, signature}, func(*krl.List) {}))
	if a.lists.version() != 3 {
		t.Errorf("the list in force is %d", a.lists.version())
	}
	must(t, a.renew(t.Context())) // takes nothing from one that is trusted
	data, signature = signedBy(next, 2, time.Now())
	if err := a.lists.take(t.Context(), signedList{data, signature}, func(*krl.List) {}); err == nil {
		t.Error("lists go back")
	}
	// Once.
	if _, err := os.Stat(w.layout.trustedCA()); !os.IsNotExist(err) {
		t.Errorf("it goes on: %v", err)
	}
}

// A token that names the CA lets the host in to no other.
func TestEnrollKnowsTheCA(t *testing.T) {
	w := newHost(t)
	real := ssh.FingerprintSHA256(w.service.ca.PublicKey())
	mallory := newSigner(t)
	args := func(cas ...string) []string {
		return append(w.enrollArgs(), "--token", token(t, statement.NewID(), "web-1", cas...))
	}
	w.service.tells(mallory, func(e *access.Enrolled) { e.UserCAs = []string{statement.MarshalKey(mallory.PublicKey())} }, nil)
	if out, err := w.hallpassHost(args(real)...); err == nil || !strings.Contains(out, "and the token is for "+real) {
		t.Fatalf("%v\n%s", err, out)
	}
	if _, err := os.Stat(w.layout.userCAs()); !os.IsNotExist(err) {
		t.Errorf("something was left: %v", err)
	}
	// One that it doesn't name itself would be refused the next day.
	w.service.tells(mallory, nil, nil)
	if out, err := w.hallpassHost(args()...); err == nil || !strings.Contains(out, "and is to be trusted no more") {
		t.Fatalf("%v\n%s", err, out)
	}
	w.service.tells(nil, nil, nil)
	out, err := w.hallpassHost(args("SHA256:"+strings.Repeat("A", 43), real)...)
	if err != nil || !strings.Contains(out, "It lets in whom this CA certifies: "+real+".") || strings.Contains(out, "named no CA") {
		t.Errorf("%v\n%s", err, out)
	}
}
