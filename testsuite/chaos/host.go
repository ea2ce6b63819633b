package chaos

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"hallpass/testsuite/sshdtest"
)

// host is a real sshd that trusts the stack's CA and takes its key revocation
// lists from the stack's service. It is all resources at once.
type host struct {
	sshd *sshdtest.Server
	file string // the list
	http *http.Client
	url  string

	mu      sync.Mutex
	fetched time.Time // when the fetch of the list that it has began
}

// newHost starts it with the list of the moment.
func newHost(t testing.TB, s *Stack) *host {
	t.Helper()
	pem, err := os.ReadFile(s.ServedBy)
	roots := x509.NewCertPool()
	if err != nil || !roots.AppendCertsFromPEM(pem) {
		t.Fatalf("no certificate in %s: %v", s.ServedBy, err)
	}
	dir, err := os.MkdirTemp("", "chaos-host-") // sshd reads it as whoever logs in
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	h := &host{
		file: filepath.Join(dir, "revoked"), url: "https://" + s.Service + "/v1/krl",
		http: &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
			TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS13}, DisableKeepAlives: true,
		}},
	}
	if err := poll(t.Context(), "the first list", func() error { return h.fetch(t.Context()) }); err != nil {
		t.Fatal(err)
	}
	var principals []string
	for name := range Resources {
		if host, ok := strings.CutPrefix(name, "ssh/"); ok {
			principals = append(principals, host+"/"+s.Login)
		}
	}
	h.sshd = sshdtest.Start(t, sshdtest.Config{
		CA: []ssh.PublicKey{s.CA}, Principals: map[string][]string{s.Login: principals}, Lines: []string{"RevokedKeys " + h.file},
	})
	return h
}

// fetch takes the list of the moment, as a host does: whole or not at all.
func (h *host) fetch(ctx context.Context) error {
	began := time.Now()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, h.url, nil)
	if err != nil {
		return err
	}
	answer, err := h.http.Do(r)
	if err != nil {
		return err
	}
	defer func() { _ = answer.Body.Close() }()
	list, err := io.ReadAll(answer.Body)
	if err != nil || answer.StatusCode != http.StatusOK || len(list) == 0 {
		return errors.Join(err, fmt.Errorf("%d bytes, %s", len(list), answer.Status))
	}
	if err := os.WriteFile(h.file+".new", list, 0o644); err != nil {
		return err
	}
	if err := os.Rename(h.file+".new", h.file); err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.fetched = began
	return nil
}

// follow fetches again and again.
func (h *host) follow(ctx context.Context) {
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			_ = h.fetch(ctx) // it keeps the last one, and tries again
		}
	}
}

// list says how old the host's list is: when its fetch began.
func (h *host) list() time.Time {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.fetched
}

// login tries to log in with a key and its certificate. Only what the host
// says counts.
func (h *host) login(key ssh.Signer, cert *ssh.Certificate) (worked bool, err error) {
	signer, err := ssh.NewCertSigner(cert, key)
	if err != nil {
		return false, err
	}
	c, err := ssh.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", h.sshd.Port), &ssh.ClientConfig{
		User: h.sshd.User, Auth: []ssh.AuthMethod{ssh.PublicKeys(signer)}, HostKeyCallback: ssh.InsecureIgnoreHostKey(), Timeout: time.Minute,
	})
	if err != nil {
		if strings.Contains(err.Error(), "unable to authenticate") {
			return false, nil
		}
		return false, err
	}
	return true, c.Close()
}
