// Package vaulttest runs real Vault servers for tests: the program of
// testsuite/vault, which holds HashiCorp's unmodified code. Each has a folder
// and a port of its own.
//
// The program takes minutes to compile the first time, so tests don't do that
// by themselves: `make vault` builds bin/vault-for-tests. Where it is missing,
// tests that need it are skipped, unless CI is set or HALLPASS_VAULT_BIN says
// where it has to be.
package vaulttest

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"

	"hallpass/testsuite/process"
)

// timeout is far more than a request here takes on a busy machine.
const timeout = time.Minute

// Config says what is special about a server. The zero value is a server with
// plain HTTP that can be killed and restarted.
type Config struct {
	// Memory keeps all data in memory: faster, and lost when the server ends.
	Memory bool

	// TLS serves HTTPS, with a certificate that is in Server.CACert, and lets
	// clients log in with theirs.
	TLS bool

	// Cert, Key and CA are files of a certificate for 127.0.0.1, its key, and the
	// certificate that it is signed by, for TLS with these.
	Cert, Key, CA string

	// RevokeRetry is the wait before Vault first tries a failed revocation
	// again; each further wait is twice the one before, and after six attempts
	// the lease is irrevocable. Zero means 1 s; in production it is 10 s.
	RevokeRetry time.Duration
}

// Server is a Vault server with all that one needs to get in. What makes
// clients and asks for things may be used while another goroutine restarts it.
type Server struct {
	Address    string // stays the same over Kill and Restart
	RootToken  string
	UnsealKeys []string // base64
	CACert     string   // file with the certificate of a TLS server; otherwise empty

	config  Config
	bin     string
	dir     string
	port    int
	process *process.Process
}

// Start runs a server until the test ends. It is unsealed and writes its audit
// log.
func Start(t testing.TB, c Config) *Server {
	t.Helper()
	s := &Server{config: c, bin: process.Built(t, "HALLPASS_VAULT_BIN", "vault"), dir: t.TempDir()}
	if c.TLS && c.Cert == "" {
		s.CACert = filepath.Join(s.dir, "cert.pem")
		s.config.Cert, s.config.Key = s.CACert, s.keyFile()
		writeCert(t, s.config.Cert, s.config.Key)
	} else {
		s.CACert = c.CA
	}
	process.TryPorts(t, func(port int) error {
		s.port = port
		return s.start()
	})
	t.Cleanup(func() {
		s.process.Kill()
		if t.Failed() {
			t.Logf("log of Vault:\n%s", s.Log())
		}
	})
	if err := s.Client(t).Sys().EnableAuditWithOptions("file", &api.EnableAuditOptions{
		Type:    "file",
		Options: map[string]string{"file_path": s.auditFile()},
	}); err != nil {
		t.Fatal(err)
	}
	return s
}

// start runs the program on its port until it is ready.
func (s *Server) start(args ...string) error {
	args = append(args, "-listen", "127.0.0.1:"+strconv.Itoa(s.port), "-log-level", "warn")
	if !s.config.Memory {
		args = append(args, "-dir", s.dir)
	}
	if s.config.TLS {
		args = append(args, "-cert", s.config.Cert, "-key", s.config.Key)
	}
	if s.config.RevokeRetry != 0 {
		args = append(args, "-revoke-retry", s.config.RevokeRetry.String())
	}
	var ready struct {
		Address    string   `json:"address"`
		RootToken  string   `json:"root_token"`
		UnsealKeys []string `json:"unseal_keys"`
	}
	cmd := exec.Command(s.bin, args...)
	cmd.Env = []string{} // nothing of VAULT_* and the like
	p, err := process.Start(cmd, func(line string) bool {
		return strings.HasPrefix(line, "{") && json.Unmarshal([]byte(line), &ready) == nil && ready.Address != ""
	})
	if err != nil {
		return err
	}
	if s.process == nil { // they stay; others may be reading them during a restart
		s.Address, s.RootToken, s.UnsealKeys = ready.Address, ready.RootToken, ready.UnsealKeys
	}
	s.process = p
	return nil
}

// Kill is kill -9.
func (s *Server) Kill() { s.process.Kill() }

// Restart starts a server anew, on the same port and with the same data, and
// unseals it. It kills one that still runs.
func (s *Server) Restart(t testing.TB) {
	t.Helper()
	s.restart(t)
}

// RestartSealed is Restart without unsealing, as Vault starts in production.
func (s *Server) RestartSealed(t testing.TB) {
	t.Helper()
	s.restart(t, "-sealed")
}

func (s *Server) restart(t testing.TB, args ...string) {
	t.Helper()
	if err := s.Again(args...); err != nil {
		t.Fatal(err)
	}
}

// Again is Restart that says why it failed, for goroutines other than the
// test's. Arguments are those of the program.
func (s *Server) Again(args ...string) error {
	if s.config.Memory {
		return errors.New("a Vault in memory has nothing to restart with")
	}
	s.process.Kill()
	return s.start(args...)
}

// Process is the one that was started last.
func (s *Server) Process() *process.Process { return s.process }

// Seal seals the server. It goes on running and answers 503.
func (s *Server) Seal(t testing.TB) {
	t.Helper()
	if err := s.Client(t).Sys().Seal(); err != nil {
		t.Fatal(err)
	}
}

// Unseal undoes Seal.
func (s *Server) Unseal(t testing.TB) {
	t.Helper()
	for _, key := range s.UnsealKeys {
		if _, err := s.Client(t).Sys().Unseal(key); err != nil {
			t.Fatal(err)
		}
	}
}

// Client is a client with the root token. Like all of a test's clients it
// doesn't retry by itself.
func (s *Server) Client(t testing.TB) *api.Client {
	t.Helper()
	return s.ClientWithToken(t, s.RootToken)
}

// ClientWithToken is a client with another token, or with none.
func (s *Server) ClientWithToken(t testing.TB, token string) *api.Client {
	t.Helper()
	c := api.DefaultConfig()
	if c.Error != nil {
		t.Fatal(c.Error)
	}
	c.Address, c.MaxRetries, c.Timeout = s.Address, 0, timeout
	if s.CACert != "" {
		if err := c.ConfigureTLS(&api.TLSConfig{CACert: s.CACert}); err != nil {
			t.Fatal(err)
		}
	}
	client, err := api.NewClient(c)
	if err != nil {
		t.Fatal(err)
	}
	client.ClearNamespace()
	client.SetToken(token)
	return client
}

// Write writes to a path, as root. What Vault answers may be nil.
func (s *Server) Write(t testing.TB, path string, data map[string]any) *api.Secret {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	secret, err := s.Client(t).Logical().WriteWithContext(ctx, path, data)
	if err != nil {
		t.Fatal(err)
	}
	return secret
}

// Policy writes a policy, in Vault's own language.
func (s *Server) Policy(t testing.TB, name, rules string) {
	t.Helper()
	if err := s.Client(t).Sys().PutPolicy(name, rules); err != nil {
		t.Fatal(err)
	}
}

// Mount mounts an engine: database, kv, pki, ssh, transit.
func (s *Server) Mount(t testing.TB, path, kind string) {
	t.Helper()
	if err := s.Client(t).Sys().Mount(path, &api.MountInput{Type: kind}); err != nil {
		t.Fatal(err)
	}
}

// EnableAuth enables a way to log in: approle, cert, jwt, kubernetes, userpass.
func (s *Server) EnableAuth(t testing.TB, path, kind string) {
	t.Helper()
	if err := s.Client(t).Sys().EnableAuthWithOptions(path, &api.EnableAuthOptions{Type: kind}); err != nil {
		t.Fatal(err)
	}
}

// Leases are the ids of all leases under a prefix, as in "database/creds/";
// those that Vault couldn't revoke and gave up are among them.
func (s *Server) Leases(t testing.TB, prefix string) []string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	prefix = strings.TrimSuffix(prefix, "/") + "/"
	list, err := s.Client(t).Logical().ListWithContext(ctx, "sys/leases/lookup/"+prefix)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	if list == nil {
		return all
	}
	keys, _ := list.Data["keys"].([]any)
	for _, key := range keys {
		name, _ := key.(string)
		if strings.HasSuffix(name, "/") {
			all = append(all, s.Leases(t, prefix+name)...)
			continue
		}
		all = append(all, prefix+name)
	}
	return all
}

// AuditLog is what Vault has written to its audit log: one JSON object a line,
// with HMACs in place of secrets.
func (s *Server) AuditLog(t testing.TB) string {
	t.Helper()
	data, err := os.ReadFile(s.auditFile())
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// Log is what the server has logged since it was started last: warnings and
// worse.
func (s *Server) Log() string { return s.process.Output() }

// Storage is the folder with what Vault stores.
func (s *Server) Storage() string { return filepath.Join(s.dir, "storage") }

// Program is the path of the program that the server is.
func (s *Server) Program() string { return s.bin }

// Pid is the process id of the server.
func (s *Server) Pid() int { return s.process.Pid() }

func (s *Server) auditFile() string { return filepath.Join(s.dir, "audit.log") }

func (s *Server) keyFile() string { return filepath.Join(s.dir, "key.pem") }

// writeCert makes a certificate for 127.0.0.1 that signs itself; tests log in
// with it, too.
func writeCert(t testing.TB, certFile, keyFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: "vault-for-tests"},
		IPAddresses:           []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().Add(24 * time.Hour),
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true,
		IsCA:                  true,
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for name, block := range map[string]*pem.Block{
		certFile: {Type: "CERTIFICATE", Bytes: cert},
		keyFile:  {Type: "PRIVATE KEY", Bytes: private},
	} {
		if err := os.WriteFile(name, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}
