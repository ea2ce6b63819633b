// Package ca is hallpass's SSH certificate authority: it turns an approved
// grant into an OpenSSH user certificate (PROTOCOL.certkeys) that opens
// exactly what was approved and ends when the grant ends.
//
// A certificate is made in two steps. Prepare checks everything that can be
// refused and touches no key; Issue signs what Prepare let through and adds
// nothing. What a certificate may be is fixed in code (profile.go): no
// configuration can make it live longer, open more or say less.
//
// The package promises: a certificate has at least one principal and each
// names a resource and a login; it ends with its grant and never more than
// MaxLifetime after its beginning; its key id names the request and the
// requester; it carries only options of the list in profile.go. It doesn't
// promise that a serial is used once: whoever calls Prepare records the serial
// first (package grant, with the ledger of package audit).
//
// docs/spec/certificate.md describes the result for people who verify it with
// other tools.
package ca

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"fmt"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"hallpass/access"
	"hallpass/ca/krl"
	"hallpass/statement"
)

// CA signs certificates with one key. It is safe for concurrent use if its
// signer is; those from Open are.
type CA struct {
	signer      ssh.Signer
	key         ssh.PublicKey
	marshaled   []byte
	fingerprint string
	now         func() time.Time
	others      []ssh.PublicKey // of CAs: never certified
}

// New makes a CA of a signer that Open returned, or of any other whose key is
// Ed25519, ECDSA on a NIST curve, or RSA of at least MinRSABits. An RSA key
// signs with rsa-sha2-512 and nothing else. now is the clock; nil means
// time.Now.
func New(signer ssh.Signer, now func() time.Time) (*CA, error) {
	// What Marshal says is what certificates will carry, so that is what is
	// looked at: agents wrap their keys in types of their own.
	key, err := ssh.ParsePublicKey(signer.PublicKey().Marshal())
	if err != nil {
		return nil, fmt.Errorf("read the public key of the CA: %w", err)
	}
	switch key.Type() {
	case ssh.KeyAlgoED25519, ssh.KeyAlgoECDSA256, ssh.KeyAlgoECDSA384, ssh.KeyAlgoECDSA521:
	case ssh.KeyAlgoRSA:
		if bits := rsaBits(key); bits < MinRSABits {
			return nil, fmt.Errorf("CA key is RSA of %d bits; at least %d are needed", bits, MinRSABits)
		}
		if err := statement.CheckKey(key); err != nil { // it signs lists as well
			return nil, fmt.Errorf("CA key: %w", err)
		}
		// A signer that can only Sign would sign with SHA-1.
		as, ok := signer.(ssh.AlgorithmSigner)
		if !ok {
			return nil, fmt.Errorf("CA key is RSA and its signer can't be told to use %s", ssh.KeyAlgoRSASHA512)
		}
		signer, err = ssh.NewSignerWithAlgorithms(as, []string{ssh.KeyAlgoRSASHA512})
		if err != nil {
			return nil, fmt.Errorf("CA key: %w", err)
		}
	default:
		return nil, fmt.Errorf("CA key has type %s; it must be Ed25519, ECDSA or RSA", key.Type())
	}
	if now == nil {
		now = time.Now
	}
	return &CA{
		signer:      signer,
		key:         key,
		marshaled:   key.Marshal(),
		fingerprint: ssh.FingerprintSHA256(key),
		now:         now,
	}, nil
}

// Spare names the keys of other CAs, which this one never certifies, as it
// never certifies its own: a key that is trusted to certify opens nothing
// itself. Call it before the first Prepare.
func (c *CA) Spare(keys ...ssh.PublicKey) { c.others = append(c.others, keys...) }

// PublicKey is what hosts name in TrustedUserCAKeys.
func (c *CA) PublicKey() ssh.PublicKey { return c.key }

// Fingerprint is the key's fingerprint as OpenSSH writes it: "SHA256:…".
func (c *CA) Fingerprint() string { return c.fingerprint }

// Prepared is a certificate that has passed every check and lacks only its
// signature.
type Prepared struct {
	ca   *CA
	cert ssh.Certificate
}

// Issue signs. Repeated, it gives certificates that differ in nonce and
// signature alone: serial, validity, principals and options stay, so that one
// revocation is good for all of them.
//
// The only refusal left is of a certificate that another CA prepared. A key
// that doesn't sign, or signs wrongly, is access.CodeUnavailable: trying again
// later may help. The signature is checked before the certificate is let out,
// because the key may be held by another process.
func (c *CA) Issue(p *Prepared) (*ssh.Certificate, error) {
	if p == nil || p.ca != c {
		return nil, fmt.Errorf("certificate was not prepared by this CA")
	}
	cert := p.cert
	if err := cert.SignCert(rand.Reader, c.signer); err != nil {
		return nil, access.Errorf(access.CodeUnavailable, "sign certificate %d: %v", cert.Serial, err)
	}
	if !bytes.Equal(cert.SignatureKey.Marshal(), c.marshaled) {
		return nil, access.Errorf(access.CodeUnavailable, "sign certificate %d: the signer has changed its key", cert.Serial)
	}
	cert.SignatureKey = c.key
	checker := ssh.CertChecker{
		SupportedCriticalOptions: []string{forceCommand, sourceAddress},
		Clock:                    func() time.Time { return time.Unix(int64(cert.ValidAfter), 0) },
	}
	if err := checker.CheckCert(cert.ValidPrincipals[0], &cert); err != nil {
		return nil, access.Errorf(access.CodeUnavailable, "sign certificate %d: the key made a signature that doesn't verify: %v", cert.Serial, err)
	}
	return &cert, nil
}

// Try says whether the key can be used now: it signs a line that is neither a
// certificate nor anything else that is signed with it.
func (c *CA) Try() error {
	line := []byte("hallpass: can this key be used?")
	signature, err := c.signer.Sign(rand.Reader, line)
	if err == nil {
		err = c.key.Verify(line, signature)
	}
	if err != nil {
		return access.Errorf(access.CodeUnavailable, "the CA's key can't be used: %v", err)
	}
	return nil
}

// Marshal writes a certificate as the one line that OpenSSH reads:
// "type base64 key-id", without a newline.
func Marshal(cert *ssh.Certificate) string {
	return strings.TrimSuffix(string(ssh.MarshalAuthorizedKey(cert)), "\n") + " " + cert.KeyId
}

// rsaBits is the size of an RSA key's modulus, and 0 for other keys.
func rsaBits(key ssh.PublicKey) int {
	if ck, ok := key.(ssh.CryptoPublicKey); ok {
		if k, ok := ck.CryptoPublicKey().(*rsa.PublicKey); ok {
			return k.N.BitLen()
		}
	}
	return 0
}

// SignKRL signs the bytes of a key revocation list (package krl).
func (c *CA) SignKRL(list []byte) (signature string, err error) { return krl.Sign(c.signer, list) }

// SignEnrolled signs what a host has to know (statement.OpenEnrolled).
func (c *CA) SignEnrolled(e access.Enrolled) (access.Statement, error) {
	return statement.SignEnrolled(c.signer, e)
}
