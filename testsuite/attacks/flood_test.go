package attacks

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"hallpass/access"
	"hallpass/ca/krl"
	"hallpass/statement"
	"hallpass/transport"
)

// What a flood may cost others, on a machine of two cores with much else to do. What
// it does cost is in docs/performance.md.
const (
	floodRate    = 300             // that are offered a second
	flooders     = 64              // on their way at a time
	listedWithin = 2 * time.Minute // twice what it has taken under a load of 40; it is half a second otherwise
)

// mostUnder is the memory that each part may take, in MiB. It is about half of that
// while there is nothing to do.
var mostUnder = map[string]int{"workflows": 256, "issuer:ssh": 128, "service": 128}

// Alice floods the service with bad statements, with requests, and with locks. Meanwhile a grant
// of carol's is revoked: hosts hear of it soon, and no part takes much memory for all of that.
func TestRevokedBesideFloods(t *testing.T) {
	r := apart(t, "floods")
	address := "127.0.0.1:" + freePort(t)
	r.env = append(r.env, "HALLPASS_SERVICE_ADDRESS="+address, "HALLPASS_SERVICE=https://"+address)
	pids := map[string]int{}
	for role := range mostUnder {
		pids[role] = r.start(t, role)
	}
	s := r.served(t, "https://"+address)
	about := r.ask(t, "alice", "ssh/web-1")

	floods := []struct {
		name   string
		enough int64 // have been sent when carol's grant is revoked
		send   func(ctx context.Context, n int64) (taken bool, err error)
		most   func(time.Duration) int64 // that are taken in so long
	}{
		{"bad statements", 3 * floodRate, func(ctx context.Context, n int64) (bool, error) {
			d := access.Decision{Header: r.Header("alice", access.TypeDecision), Request: about.ID, RequestHash: about.signed.Hash(), Verdict: access.Approve}
			st, err := r.Sign([]string{"alice", "mallory"}[n%2], d)
			if err != nil {
				return false, err
			}
			if n/2%2 == 0 {
				st.Payload += " "
			}
			return s.post(ctx, "/v1/requests/"+about.ID+"/"+access.MessageDecision, st)
		}, func(d time.Duration) int64 { return 200 + int64(20*d.Seconds()) + 1 }},
		{"requests", 3 * floodRate, func(ctx context.Context, n int64) (bool, error) {
			req, err := r.Request("alice", []string{"ssh/sandbox", "ssh/web-1"}[n%2], login(), time.Hour) // every other is granted by itself
			if err != nil {
				return false, err
			}
			st, err := r.Sign("alice", req)
			if err != nil {
				return false, err
			}
			return s.post(ctx, "/v1/requests", st)
		}, func(d time.Duration) int64 { return 50 + int64(2*d.Seconds()) + 1 }},
		{"locks", 3 * floodRate, func(ctx context.Context, _ int64) (bool, error) { // to which she has no right
			st, err := r.Sign("alice", access.Lock{Header: r.Header("alice", access.TypeLock), Action: access.ActionLock, Kind: access.LockUser, Name: "carol", Reason: "attack"})
			if err != nil {
				return false, err
			}
			return s.post(ctx, "/v1/locks", st)
		}, func(d time.Duration) int64 { return 50 + int64(2*d.Seconds()) + 1 }},
	}
	grants := map[string]asked{}
	serials := map[string]uint64{}
	for _, f := range floods {
		a := r.ask(t, "carol", "ssh/web-1")
		await(t, r.Client, a, access.StatePending)
		must(t, say(t, r.Client, a, access.MessageDecision, r.decide(t, "bob", "bob", a, access.Approve)))
		grants[f.name], serials[f.name] = a, certificate(t, await(t, r.Client, a, access.StateActive)).Serial
	}
	for _, f := range floods {
		t.Run(f.name, func(t *testing.T) {
			for _, pid := range pids {
				_, _ = peak(t, pid) // until now
			}
			flood := pour(t, f.send)
			eventually(t, "the flood", func() bool { return flood.sent.Load() >= f.enough || flood.err.Load() != nil })
			listed := make(chan error, 1)
			began := time.Now()
			var took time.Duration
			go func() {
				err := s.lists(t.Context(), serials[f.name])
				took = time.Since(began)
				listed <- err
			}()
			for len(listed) == 0 { // whom nobody answers in time, on a busy machine, says it again
				cmd := exec.CommandContext(t.Context(), r.program, "revoke", grants[f.name].ID, "--reason", "attack")
				cmd.Env = append(r.env, "HALLPASS_USER=dave", "HALLPASS_KEY="+r.People["dave"].Key, "HALLPASS_HOME="+r.home("dave"))
				out, err := cmd.CombinedOutput()
				if err == nil {
					break
				}
				if t.Logf("hallpass revoke: %v\n%s", err, out); time.Since(began) > listedWithin {
					t.Fatalf("nobody has answered within %s", listedWithin)
				}
			}
			answered := time.Since(began)
			must(t, <-listed)
			flood.stop(t)

			t.Logf("of %d that were sent in %s, %d were taken; the list was there after %s, the answer after %s",
				flood.sent.Load(), flood.took.Round(time.Second), flood.taken.Load(), took.Round(time.Millisecond), answered.Round(time.Millisecond))
			if took > listedWithin {
				t.Errorf("hosts have heard of it after %s", took)
			}
			if n := flood.taken.Load(); n == 0 || n > f.most(flood.took) {
				t.Errorf("%d were taken in %s", n, flood.took)
			}
			for role, pid := range pids {
				if mib, ok := peak(t, pid); ok {
					if t.Logf("%s took up to %d MiB", role, mib); mib > mostUnder[role] {
						t.Errorf("that is more than %d", mostUnder[role])
					}
				}
			}
		})
	}
	r.verifies(t)
}

// flood is what is being sent without end.
type flood struct {
	sent, taken atomic.Int64
	began       time.Time
	took        time.Duration // until stop

	cancel  context.CancelFunc
	senders sync.WaitGroup
	err     atomic.Pointer[error] // why it could not be sent
}

// pour begins a flood of floodRate, or as much as is answered.
func pour(t testing.TB, send func(context.Context, int64) (bool, error)) *flood {
	ctx, cancel := context.WithCancel(t.Context())
	f := &flood{began: time.Now(), cancel: cancel}
	var next atomic.Int64
	for range flooders {
		f.senders.Go(func() {
			for {
				n := next.Add(1)
				due := time.NewTimer(time.Until(f.began.Add(time.Duration(n) * time.Second / floodRate)))
				select {
				case <-due.C:
				case <-ctx.Done():
					due.Stop()
					return
				}
				taken, err := send(ctx, n)
				switch {
				case ctx.Err() != nil:
					return
				case err != nil:
					f.err.Store(&err)
					return
				}
				f.sent.Add(1)
				if taken {
					f.taken.Add(1)
				}
			}
		})
	}
	t.Cleanup(cancel)
	return f
}

func (f *flood) stop(t testing.TB) {
	t.Helper()
	f.cancel()
	f.senders.Wait()
	f.took = time.Since(f.began)
	if err := f.err.Load(); err != nil {
		t.Errorf("the flood: %v", *err)
	}
}

// served is a service, as alice calls it who minds no rules, and as hosts do.
type served struct {
	*roles
	address, token string
	http           *http.Client
	ca             ssh.PublicKey // the SSH CA
}

// served waits for a service to answer.
func (r *roles) served(t testing.TB, address string) *served {
	t.Helper()
	s := &served{roles: r, address: address}
	eventually(t, "the service to have its CA", func() bool {
		_, err := os.Stat(filepath.Join(r.dir, "service_ca.pub.pem"))
		return err == nil
	})
	data, err := os.ReadFile(filepath.Join(r.dir, "service_ca.pub.pem"))
	must(t, err)
	ca, err := transport.ParseCA(data)
	must(t, err)
	roots := x509.NewCertPool()
	roots.AddCert(ca)
	s.http = &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS13}, ForceAttemptHTTP2: true}}
	t.Cleanup(s.http.CloseIdleConnections)
	line, err := os.ReadFile(filepath.Join(r.dir, "ssh_ca.pub"))
	must(t, err)
	s.ca, _, _, _, err = ssh.ParseAuthorizedKey(line)
	must(t, err)

	h := r.Header("alice", access.TypeRead)
	read, err := r.Sign("alice", access.Read{Header: h, Audience: access.Audience(ca.Raw), Until: h.Time.Add(access.MaxRead)})
	must(t, err)
	s.token, err = statement.Token(read)
	must(t, err)
	eventually(t, "the service to answer", func() bool {
		code, _, err := s.call(t.Context(), http.MethodGet, "/v1/me", nil)
		return err == nil && code == http.StatusOK
	})
	return s
}

// post sends a statement of alice's.
func (s *served) post(ctx context.Context, path string, st access.Statement) (taken bool, err error) {
	body, err := json.Marshal(st)
	if err != nil {
		return false, err
	}
	code, _, err := s.call(ctx, http.MethodPost, path, body)
	return code != http.StatusTooManyRequests, err
}

func (s *served) call(ctx context.Context, method, path string, body []byte) (code int, said []byte, err error) {
	req, err := http.NewRequestWithContext(ctx, method, s.address+path, bytes.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	req.Header.Set("Authorization", "Bearer "+s.token)
	resp, err := s.http.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	said, err = io.ReadAll(resp.Body)
	return resp.StatusCode, said, err
}

// lists waits, as a host does, for a list that has a serial.
func (s *served) lists(ctx context.Context, serial uint64) error {
	ctx, cancel := context.WithTimeout(ctx, 2*listedWithin)
	defer cancel()
	for after := uint64(0); ; {
		code, data, err := s.call(ctx, http.MethodGet, fmt.Sprintf("/v1/krl?wait=50s&after=%d", after), nil)
		switch {
		case err != nil:
			return err
		case code == http.StatusNotModified:
			continue
		case code != http.StatusOK:
			return fmt.Errorf("the service says %d %.200s instead of a list", code, data)
		}
		list, err := krl.Parse(data)
		if err != nil {
			return err
		}
		if after = list.Version; list.Revoked(s.ca, serial) {
			return nil
		}
	}
}
