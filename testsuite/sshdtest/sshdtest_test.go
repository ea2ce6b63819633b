package sshdtest

import (
	"crypto/ed25519"
	"crypto/rand"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

// sign makes a certificate without any of the product's code.
func sign(t *testing.T, authority ssh.Signer, key ssh.PublicKey, principal string) *ssh.Certificate {
	t.Helper()
	now := time.Now()
	cert := &ssh.Certificate{
		Key: key, Serial: 1, CertType: ssh.UserCert, KeyId: "test",
		ValidPrincipals: []string{principal},
		ValidAfter:      uint64(now.Add(-time.Minute).Unix()),
		ValidBefore:     uint64(now.Add(time.Hour).Unix()),
	}
	if err := cert.SignCert(rand.Reader, authority); err != nil {
		t.Fatal(err)
	}
	return cert
}

func TestLogin(t *testing.T) {
	t.Parallel()
	_, priv, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	authority, err := ssh.NewSignerFromKey(priv)
	if err != nil {
		t.Fatal(err)
	}
	keyFile, key := NewKey(t)
	cert := WriteCert(t, sign(t, authority, key, "web-1/x"))

	s := Start(t, Config{CA: []ssh.PublicKey{authority.PublicKey()}})
	if r := s.Login(t, keyFile, cert, "true"); !r.Refused() {
		t.Errorf("a login without principals: %s", r)
	}
	s.SetPrincipals(t, s.User, "web-1/x")
	if r := s.Login(t, keyFile, cert, "echo $((6 * 7))"); !r.OK() || strings.TrimSpace(r.Stdout) != "42" {
		t.Errorf("a login with the principal: %s", r)
	}
	if r := s.Login(t, keyFile, cert, "exit 3"); r.Code != 3 || r.OK() || r.Refused() {
		t.Errorf("a command that fails: %s", r)
	}
	if r := s.Login(t, keyFile, cert, "true", "-o", "ProxyCommand="+s.ProxyCommand()); !r.OK() {
		t.Errorf("a login without a port: %s", r)
	}
	if r := s.Login(t, keyFile, "", "true"); !r.Refused() {
		t.Errorf("a login without a certificate: %s", r)
	}
	s.Trust(t)
	if r := s.Login(t, keyFile, cert, "true"); !r.Refused() {
		t.Errorf("a login by a CA that isn't trusted: %s", r)
	}
	if log := s.Log(t); !strings.Contains(log, `ID "test" (serial 1)`) {
		t.Errorf("log doesn't name the certificate:\n%s", log)
	}
}
