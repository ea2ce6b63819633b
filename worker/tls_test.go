package worker

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// minter is a TLS CA.
type minter struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
	pool        *x509.CertPool
}

func newMinter(t *testing.T) *minter {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "CA of a test"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	m := &minter{key: key, pool: x509.NewCertPool()}
	if m.certificate, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	m.pool.AddCert(m.certificate)
	return m
}

// put writes a certificate for 127.0.0.1 with this serial, and its key.
func (m *minter) put(t *testing.T, cert, key string, serial int64) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(serial), NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, m.certificate, private.Public(), m.key)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	for path, block := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "PRIVATE KEY", Bytes: secret}} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// A certificate that something else renews is taken without a restart, and a
// broken one isn't.
func TestServiceTakesARenewedCertificate(t *testing.T) {
	f, c := furnishedConfig(t)
	c.Temporal.Address = address(freePort(t))
	c.Service.Address, c.Health.Address = address(freePort(t)), address(freePort(t))
	c.Service.Cert, c.Service.Key = filepath.Join(t.TempDir(), "cert"), filepath.Join(t.TempDir(), "key")
	if err := os.Remove(f.Path("service_ca.key")); err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	m := newMinter(t)
	m.put(t, c.Service.Cert, c.Service.Key, 1)
	ctx, cancel := context.WithCancel(t.Context())
	log, done := &syncBuffer{}, make(chan error, 1)
	go func() { done <- Run(ctx, c, []string{RoleService}, slog.New(slog.NewJSONHandler(log, nil))) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	}()
	shown := func() int64 {
		conn, err := tls.Dial("tcp", c.Service.Address, &tls.Config{RootCAs: m.pool})
		if err != nil {
			return 0
		}
		defer func() { _ = conn.Close() }()
		return conn.ConnectionState().PeerCertificates[0].SerialNumber.Int64()
	}
	eventually(t, "it shows the certificate", func() bool { return shown() == 1 })
	if _, err := os.Stat(c.Service.CAKey); !os.IsNotExist(err) {
		t.Errorf("it made a CA that nobody needs: %v", err)
	}
	// A client that is there stays connected.
	client := &http.Client{Timeout: time.Minute, Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: m.pool}}}
	defer client.CloseIdleConnections()
	serial := func() int64 {
		t.Helper()
		resp, err := client.Get("https://" + c.Service.Address + "/v1/krl")
		if err != nil {
			t.Fatal(err)
		}
		_, err = io.Copy(io.Discard, resp.Body)
		if err := errors.Join(err, resp.Body.Close()); err != nil {
			t.Fatal(err)
		}
		return resp.TLS.PeerCertificates[0].SerialNumber.Int64()
	}
	if got := serial(); got != 1 {
		t.Errorf("the client sees %d", got)
	}
	m.put(t, c.Service.Cert, c.Service.Key, 2)
	eventually(t, "it shows the renewed one", func() bool { return shown() == 2 })
	if got := serial(); got != 1 {
		t.Errorf("a connection was made anew: %d", got)
	}
	if err := os.WriteFile(c.Service.Cert, []byte("half a certif"), 0o600); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it says that it's broken", func() bool { return strings.Contains(log.String(), "the last good one is shown") })
	if got := shown(); got != 2 {
		t.Errorf("with a broken file it shows %d", got)
	}
	if code, body := get(t, c.Health.Address, "/ready"); !strings.Contains(body, "with a certificate until") {
		t.Errorf("ready: %d %s", code, body)
	}
	check := func(want string, ok bool) {
		t.Helper()
		found := false
		for _, f := range c.Check(t.Context()) {
			if f.Part == "service certificate" {
				if found = true; f.OK != ok || !strings.Contains(f.Detail, want) {
					t.Errorf("config check: %+v", f)
				}
			}
		}
		if !found {
			t.Error("config check doesn't look at the certificate")
		}
	}
	check("failed to find any PEM data", false)
	m.put(t, c.Service.Cert, c.Service.Key, 3)
	eventually(t, "it shows the mended one", func() bool { return shown() == 3 })
	check(", until ", true)
	if n := strings.Count(log.String(), `"level":"ERROR"`); n != 1 {
		t.Errorf("%d errors in the log: %s", n, log.String())
	}
}

func TestServiceNeedsAGoodCertificateToStart(t *testing.T) {
	_, c := furnishedConfig(t)
	c.Service.Address = address(freePort(t))
	c.Service.Cert = filepath.Join(t.TempDir(), "cert")
	for _, tt := range []struct{ key, want string }{{"", "service.key is not configured"}, {filepath.Join(t.TempDir(), "key"), "no such file"}} {
		c.Service.Key = tt.key
		if _, err := open(t.Context(), c, []string{RoleService}, &health{}, quiet); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%v, want %q", err, tt.want)
		}
	}
}

// So is the one that Temporal is shown.
func TestTemporalIsShownARenewedCertificate(t *testing.T) {
	m := newMinter(t)
	dir := t.TempDir()
	ours, key := filepath.Join(dir, "cert"), filepath.Join(dir, "key")
	m.put(t, ours, key, 1)
	m.put(t, filepath.Join(dir, "server"), filepath.Join(dir, "server.key"), 100)
	server, err := tls.LoadX509KeyPair(filepath.Join(dir, "server"), filepath.Join(dir, "server.key"))
	if err != nil {
		t.Fatal(err)
	}
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{server}, ClientCAs: m.pool, ClientAuth: tls.RequireAndVerifyClientCert, MinVersion: tls.VersionTLS13})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	serials := make(chan int64)
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			serial := int64(0)
			if tc := conn.(*tls.Conn); tc.Handshake() == nil {
				serial = tc.ConnectionState().PeerCertificates[0].SerialNumber.Int64()
			}
			_ = conn.Close()
			serials <- serial
		}
	}()
	env := map[string]string{"TEMPORAL_ADDRESS": l.Addr().String(), "TEMPORAL_TLS_CLIENT_CERT_PATH": ours, "TEMPORAL_TLS_CLIENT_KEY_PATH": key, "TEMPORAL_TLS_SERVER_NAME": "127.0.0.1"}
	c := &Config{env: func(name string) string { return env[name] }}
	o, err := c.clientOptions()
	if err != nil {
		t.Fatal(err)
	}
	log := &syncBuffer{}
	if err := c.renewing(o.ConnectionOptions.TLS, slog.New(slog.NewJSONHandler(log, nil))); err != nil {
		t.Fatal(err)
	}
	o.ConnectionOptions.TLS.RootCAs = m.pool
	shows := func() int64 {
		t.Helper()
		conn, err := tls.Dial("tcp", l.Addr().String(), o.ConnectionOptions.TLS)
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.Close()
		return <-serials
	}
	if got := shows(); got != 1 {
		t.Errorf("shows %d", got)
	}
	m.put(t, ours, key, 2)
	if got := shows(); got != 2 {
		t.Errorf("shows %d after it was renewed", got)
	}
	if err := os.WriteFile(ours, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if got := shows(); got != 2 || !strings.Contains(log.String(), "the last good one is shown") {
		t.Errorf("shows %d while it is broken, and says %s", got, log.String())
	}
	// Where it is isn't asked of the certificate.
	if p, err := c.profile(); err != nil || p.Address != l.Addr().String() {
		t.Errorf("%+v, %v", p, err)
	}
}
