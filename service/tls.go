package service

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"hallpass/access"
	"hallpass/internal/newfile"
)

const (
	authorityLife = 10 * 365 * 24 * time.Hour
	serverLife    = 30 * 24 * time.Hour // of the certificate that is shown to clients; remade at two thirds
)

// Authority is the service's own certificate authority: the one thing that
// clients have to know of it. It signs nothing but the service's certificate
// and has nothing to do with SSH.
type Authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
	names       []string
	now         func() time.Time

	mu   sync.Mutex
	leaf *tls.Certificate
}

// CreateAuthority makes what there isn't of an authority: the private key in
// keyFile, mode 0600, and the certificate in certificateFile, which clients get a
// copy of. It never overwrites. It may be killed at any moment, and several may do it
// at the same time: the key is there first, and a certificate is made of the key that
// there is. A certificate without its key is an error.
func CreateAuthority(keyFile, certificateFile string) error {
	_, missing := os.Stat(certificateFile)
	key, err := os.ReadFile(keyFile)
	switch {
	case errors.Is(err, fs.ErrNotExist) && missing == nil:
		return access.Errorf(access.CodeNotFound, "the service CA's certificate %s is there, and its key %s isn't", certificateFile, keyFile).
			WithHint("put the key back, or the certificate away, for a new CA that all clients have to get")
	case errors.Is(err, fs.ErrNotExist):
		if key, err = createKey(keyFile); err != nil {
			return fmt.Errorf("make service CA: %w", err)
		}
	case err != nil:
		return fmt.Errorf("service CA: %w", err)
	}
	if !errors.Is(missing, fs.ErrNotExist) {
		return nil // OpenAuthority says what is wrong with it, if anything
	}
	if err := private(keyFile); err != nil {
		return err
	}
	der, err := certify(key)
	if err == nil {
		err = newfile.Write(certificateFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o644)
	}
	if err != nil && !errors.Is(err, fs.ErrExist) { // somebody else has made it
		return fmt.Errorf("make service CA: %w", err)
	}
	return nil
}

// createKey makes a key and gives what is in the file then, which may be somebody else's.
func createKey(file string) ([]byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	err = newfile.Write(file, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600)
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	return os.ReadFile(file)
}

// certify makes the authority's own certificate.
func certify(private []byte) ([]byte, error) {
	block, _ := pem.Decode(private)
	if block == nil {
		return nil, access.Errorf(access.CodeMalformed, "its key is not in PEM")
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, err
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok {
		return nil, access.Errorf(access.CodeMalformed, "its key is not one that hallpass made")
	}
	now := time.Now()
	template := &x509.Certificate{
		Subject:               pkix.Name{CommonName: "hallpass service CA"},
		NotBefore:             now.Add(-access.ClockSkew),
		NotAfter:              now.Add(authorityLife),
		IsCA:                  true,
		BasicConstraintsValid: true,
		MaxPathLenZero:        true,
		KeyUsage:              x509.KeyUsageCertSign,
	}
	if template.SerialNumber, err = serial(); err != nil {
		return nil, err
	}
	return x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
}

// private refuses a key that others can read.
func private(keyFile string) error {
	info, err := os.Stat(keyFile)
	if err != nil {
		return fmt.Errorf("service CA: %w", err)
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return access.Errorf(access.CodeForbidden, "service CA's key %s has mode %04o, so others can read it", keyFile, mode).
			WithHint("chmod 600 %s", keyFile)
	}
	return nil
}

// OpenAuthority reads what CreateAuthority wrote. The service can be reached
// by the names: DNS names and IP addresses. now may be nil.
func OpenAuthority(keyFile, certificateFile string, names []string, now func() time.Time) (*Authority, error) {
	if err := private(keyFile); err != nil {
		return nil, err
	}
	pair, err := tls.LoadX509KeyPair(certificateFile, keyFile)
	if err != nil {
		return nil, fmt.Errorf("service CA: %s and %s: %w", filepath.Base(certificateFile), filepath.Base(keyFile), err)
	}
	key, ok := pair.PrivateKey.(*ecdsa.PrivateKey)
	if !ok || pair.Leaf == nil || !pair.Leaf.IsCA {
		return nil, access.Errorf(access.CodeMalformed, "%s is not a service CA that hallpass made", certificateFile)
	}
	if now == nil {
		now = time.Now
	}
	return &Authority{certificate: pair.Leaf, key: key, names: slices.Clone(names), now: now}, nil
}

// Certificate is the authority's, for clients to pin.
func (a *Authority) Certificate() *x509.Certificate { return a.certificate }

// TLS is the configuration to serve with. The certificate shown is made
// afresh, with a key of its own that is never on disk, long before the one
// before it runs out.
func (a *Authority) TLS() *tls.Config { return TLS(a.shown) }

func (a *Authority) shown() (*tls.Certificate, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := a.now()
	if a.leaf != nil && now.After(a.leaf.Leaf.NotBefore) && a.leaf.Leaf.NotAfter.Sub(now) > serverLife/3 {
		return a.leaf, nil
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make service certificate: %w", err)
	}
	template := &x509.Certificate{
		Subject:     pkix.Name{CommonName: "hallpass service"},
		NotBefore:   now.Add(-access.ClockSkew),
		NotAfter:    now.Add(serverLife),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	if template.SerialNumber, err = serial(); err != nil {
		return nil, err
	}
	for _, name := range a.names {
		if ip := net.ParseIP(name); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, name)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.certificate, key.Public(), a.key)
	if err != nil {
		return nil, fmt.Errorf("make service certificate: %w", err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("make service certificate: %w", err)
	}
	// With the authority's own, for clients that know it by its hash alone.
	a.leaf = &tls.Certificate{Certificate: [][]byte{der, bytes.Clone(a.certificate.Raw)}, PrivateKey: key, Leaf: leaf}
	return a.leaf, nil
}

func serial() (*big.Int, error) {
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, fmt.Errorf("make serial: %w", err)
	}
	return n.Add(n, big.NewInt(1)), nil
}
