package worker

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"hallpass/access"
	"hallpass/ca/krl"
	"hallpass/evidence"
	"hallpass/statement"
)

// Hosts are served their list whether Temporal is there or not: what is
// revoked stays revoked.
func TestServiceServesWithoutTemporal(t *testing.T) {
	f, c := furnishedConfig(t)
	c.Temporal.Address = address(freePort(t))
	c.Service.Address = address(freePort(t))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- Run(ctx, c, c.Roles(), quiet) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	}()
	pool := x509.NewCertPool()
	eventually(t, "the service has a CA", func() bool { // it isn't written in one go
		pem, err := os.ReadFile(c.Service.CA)
		return err == nil && pool.AppendCertsFromPEM(pem)
	})
	client := &http.Client{Timeout: time.Minute, Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}}
	defer client.CloseIdleConnections()
	var list []byte
	var signature string
	eventually(t, "there is a list", func() bool {
		resp, err := client.Get("https://" + c.Service.Address + "/v1/krl")
		if err != nil {
			return false
		}
		defer resp.Body.Close() //nolint:errcheck // test
		list, err = io.ReadAll(resp.Body)
		signature = resp.Header.Get(krl.SignatureHeader)
		return err == nil && resp.StatusCode == http.StatusOK
	})
	data, err := os.ReadFile(f.Path("ssh_ca.pub"))
	if err != nil {
		t.Fatal(err)
	}
	key, _, _, _, err := ssh.ParseAuthorizedKey(data)
	if err != nil {
		t.Fatal(err)
	}
	if signature, err = krl.DecodeSignature(signature); err != nil {
		t.Fatal(err)
	}
	if l, err := krl.Open(list, signature, []ssh.PublicKey{key}); err != nil || time.Since(l.Generated) > time.Minute {
		t.Errorf("%+v, %v", l, err)
	}

	// To take a host in takes an issuer, and so Temporal.
	token, err := statement.Token(joinBy(t, f, c))
	if err != nil {
		t.Fatal(err)
	}
	agent := statement.MarshalKey(key)
	body, err := json.Marshal(map[string]string{"token": token, "host_key": agent, "agent_key": agent})
	if err != nil {
		t.Fatal(err)
	}
	resp, err := client.Post("https://"+c.Service.Address+"/v1/hosts", "application/json", strings.NewReader(string(body)))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close() //nolint:errcheck // test
	if resp.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("enrolment without temporal: %s", resp.Status)
	}
}

// joinBy is an invitation of ssh/web-1 by the example's other person.
func joinBy(t *testing.T, f *Folder, c *Config) access.Statement {
	t.Helper()
	book, err := evidence.OpenFiles(c.Policy, c.Directory, c.Catalog, evidence.FilesOptions{})
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(f.Path("people", "bob", "id"))
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.ParsePrivateKey(data)
	if err != nil {
		t.Fatal(err)
	}
	j := access.Join{Header: access.Header{Type: access.TypeHost, ID: statement.NewID(), Signer: "bob", Time: statement.Time(time.Now())}, Resource: "ssh/web-1"}
	j.Until = j.Time.Add(time.Hour)
	st, err := statement.Sign(signer, j)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, _, err := book.Rulebook().CheckJoin(st, time.Now()); err != nil {
		t.Errorf("the example's policy: %v", err)
	}
	return st
}

// The service has no business with the CA's key.
func TestServiceNeverOpensTheCAKey(t *testing.T) {
	f, c := furnishedConfig(t)
	c.Service.Address = address(freePort(t))
	for _, name := range []string{"ssh_ca", "ssh_host_ca"} {
		if err := os.Remove(f.Path(name)); err != nil {
			t.Fatal(err)
		}
	}
	p, err := open(t.Context(), c, []string{RoleService}, &health{}, quiet)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.close(); err != nil {
		t.Error(err)
	}
	info, err := os.Stat(c.Service.CAKey)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	// The CA that was made stays.
	before, err := os.ReadFile(c.Service.CA)
	if err != nil {
		t.Fatal(err)
	}
	if p, err = open(t.Context(), c, []string{RoleService}, &health{}, quiet); err != nil {
		t.Fatal(err)
	}
	if err := p.close(); err != nil {
		t.Error(err)
	}
	if after, err := os.ReadFile(c.Service.CA); err != nil || string(after) != string(before) {
		t.Errorf("another CA at the second start: %v", err)
	}
}

func TestOpenRefusesAboutHosts(t *testing.T) {
	for _, tt := range []struct {
		name  string
		role  string
		spoil func(*testing.T, *Folder, *Config)
		want  string
	}{
		{"no address", RoleService, func(_ *testing.T, _ *Folder, c *Config) { c.Service.Address = "" }, "service.address is not configured"},
		{"service's key that others can read", RoleService, func(t *testing.T, f *Folder, c *Config) {
			if err := os.WriteFile(c.Service.CAKey, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(c.Service.CAKey, 0o644); err != nil {
				t.Fatal(err)
			}
		}, "0644"},
		{"one key for users and hosts", RoleIssuerSSH, func(_ *testing.T, _ *Folder, c *Config) { c.Issuers.SSH.HostKey = c.Issuers.SSH.Key }, "are the same key"},
		{"no host CA's file", RoleIssuerSSH, func(t *testing.T, f *Folder, _ *Config) {
			if err := os.Remove(f.Path("ssh_host_ca")); err != nil {
				t.Fatal(err)
			}
		}, "ssh_host_ca"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f, c := furnishedConfig(t)
			c.Service.Address = address(freePort(t))
			tt.spoil(t, f, c)
			_, err := open(t.Context(), c, []string{tt.role}, &health{}, quiet)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want an error with %q", err, tt.want)
			}
		})
	}
}

func TestServiceNames(t *testing.T) {
	for _, tt := range []struct {
		address, names string
		want, not      string
	}{
		{"10.0.0.5:7443", "", "10.0.0.5", "hallpass.example.com"},
		{"0.0.0.0:7443", "hallpass.example.com, 10.0.0.6", "hallpass.example.com", "0.0.0.0"},
		{"[::]:7443", "10.0.0.6", "10.0.0.6", "::"},
	} {
		c := &Config{Service: Service{Address: tt.address, Names: tt.names}}
		if got := c.serviceNames(); !slices.Contains(got, tt.want) || slices.Contains(got, tt.not) || !slices.Contains(got, "127.0.0.1") {
			t.Errorf("%s and %q: %v", tt.address, tt.names, got)
		}
	}
	for names, ok := range map[string]bool{"a.example.com": true, "10.0.0.1,::1": true, "a b": false, "a,,b": false, "*.example.com": false, "https://a": false} {
		if err := checkHosts(names); (err == nil) != ok {
			t.Errorf("%q: %v", names, err)
		}
	}
}
