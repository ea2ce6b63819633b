package certfile

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestLook(t *testing.T) {
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "cert"), filepath.Join(dir, "key")
	now := time.Now()
	put := func(serial int64, from, to time.Time) {
		t.Helper()
		c, k := makePair(t, serial, from, to)
		write(t, cert, c, 0o600)
		write(t, key, k, 0o600)
	}
	hour := time.Hour
	put(1, now.Add(-hour), now.Add(hour))
	clock := func() time.Time { return now }
	p, err := Open(cert, key, clock)
	if err != nil {
		t.Fatal(err)
	}
	first, firstKey := read(t, cert), read(t, key)
	for _, tt := range []struct {
		name   string
		do     func()
		taken  bool
		serial int64
		says   string // "": nothing is wrong
	}{
		{"the same", func() {}, false, 1, ""},
		{"renewed", func() { put(2, now.Add(-hour), now.Add(2*hour)) }, true, 2, ""},
		{"expired", func() { put(3, now.Add(-2*hour), now.Add(-time.Second)) }, false, 2, "has expired"},
		{"still", func() {}, false, 2, "has expired"},
		{"not good yet", func() { put(4, now.Add(time.Second), now.Add(hour)) }, false, 2, "is not good before"},
		{"good by now", func() { now = now.Add(2 * time.Second) }, true, 4, ""},
		{"no PEM", func() { write(t, cert, "certificate", 0o600) }, false, 4, "failed to find any PEM data"},
		{"another's key", func() { write(t, cert, first, 0o600) }, false, 4, "private key does not match public key"},
		{"both are there", func() { write(t, key, firstKey, 0o600) }, true, 1, ""},
		{"empty", func() { write(t, key, "", 0o600) }, false, 1, "failed to find any PEM data"},
		{"gone", func() { remove(t, cert) }, false, 1, "no such file"},
		{"others can read the key", func() { put(5, now.Add(-hour), now.Add(hour)); chmod(t, key, 0o640) }, false, 1, "mode 0640"},
		{"nobody else can", func() { chmod(t, key, 0o600) }, true, 5, ""},
	} {
		tt.do()
		taken, err := p.Look()
		if taken != tt.taken || (err == nil) != (tt.says == "") || err != nil && !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%s: taken is %v, %v", tt.name, taken, err)
		}
		if got := p.Certificate().Leaf.SerialNumber.Int64(); got != tt.serial {
			t.Errorf("%s: certificate %d is shown, want %d", tt.name, got, tt.serial)
		}
	}

	// There is no start with what can't be used.
	put(6, now.Add(-2*hour), now.Add(-hour))
	if _, err := Open(cert, key, clock); err == nil || !strings.Contains(err.Error(), "has expired") {
		t.Errorf("opened although it has expired: %v", err)
	}
}

func makePair(t *testing.T, serial int64, from, to time.Time) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: "test"}, NotBefore: from, NotAfter: to}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret}))
}

func write(t *testing.T, path, text string, mode os.FileMode) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func chmod(t *testing.T, path string, mode os.FileMode) {
	t.Helper()
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
}

func remove(t *testing.T, path string) {
	t.Helper()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
}
