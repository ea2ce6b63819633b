// Package allowtest makes certificates as hallpass has them signed, for tests.
package allowtest

import (
	"crypto/ed25519"
	"crypto/rand"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

// Key is a public key of its own.
func Key(t testing.TB) ssh.PublicKey {
	t.Helper()
	pub, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ssh.NewPublicKey(pub)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// Certificate is a user's, of the CA, for 24 hours from now.
func Certificate(t testing.TB, ca ssh.PublicKey, now time.Time) *ssh.Certificate {
	t.Helper()
	return &ssh.Certificate{
		Nonce: []byte("12345678901234567890123456789012"), Key: Key(t), Serial: 42, CertType: ssh.UserCert,
		KeyId: "hallpass:0198f3a2-7c11-7abc-8def-0123456789ab:alice", ValidPrincipals: []string{"web-1/deploy"},
		ValidAfter: uint64(now.Add(-5 * time.Minute).Unix()), ValidBefore: uint64(now.Add(24 * time.Hour).Unix()),
		Permissions: ssh.Permissions{
			CriticalOptions: map[string]string{"force-command": "id", "source-address": "10.0.0.0/8"},
			Extensions:      map[string]string{"permit-pty": "", "grace@hallpass": "5m"},
		},
		SignatureKey: ca,
	}
}

// Unsigned is what a CA signs of a certificate.
func Unsigned(c *ssh.Certificate) []byte {
	copied := *c
	copied.Signature = nil
	data := copied.Marshal()
	return data[:len(data)-4] // but for the length of the signature
}
