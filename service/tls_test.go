package service

import (
	"crypto/x509"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"hallpass/access"
)

func TestAuthority(t *testing.T) {
	dir := t.TempDir()
	key, pub := filepath.Join(dir, "key"), filepath.Join(dir, "pub")
	if err := CreateAuthority(key, pub); err != nil {
		t.Fatal(err)
	}
	if err := CreateAuthority(key, pub); err == nil {
		t.Error("overwritten")
	}
	now := time.Now()
	a, err := OpenAuthority(key, pub, []string{"hallpass.example.com", "10.0.0.5"}, func() time.Time { return now })
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(a.Certificate())
	shown := func() *x509.Certificate {
		t.Helper()
		c, err := a.TLS().GetCertificate(nil)
		if err != nil {
			t.Fatal(err)
		}
		return c.Leaf
	}
	first := shown()
	for _, row := range []struct {
		name string
		ok   bool
	}{
		{"hallpass.example.com", true}, {"10.0.0.5", true}, {"10.0.0.6", false}, {"example.com", false}, {"", true},
	} {
		_, err := first.Verify(x509.VerifyOptions{DNSName: row.name, Roots: pool})
		if (err == nil) != row.ok {
			t.Errorf("%q: %v", row.name, err)
		}
	}
	for _, row := range []struct {
		name string
		pass time.Duration
		same bool
	}{
		{"at once", 0, true},
		{"a second before two thirds", serverLife*2/3 - time.Second, true},
		{"at two thirds", time.Second, false},
	} {
		now = now.Add(row.pass)
		if got := shown().SerialNumber.Cmp(first.SerialNumber) == 0; got != row.same {
			t.Errorf("%s: the same %t", row.name, got)
		}
	}
	if _, err := shown().Verify(x509.VerifyOptions{Roots: pool, CurrentTime: now}); err != nil {
		t.Errorf("the new one: %v", err)
	}
	// It certifies nothing but the service.
	if c := a.Certificate(); !c.IsCA || !c.MaxPathLenZero {
		t.Error("the authority could make others")
	}
	if err := os.Chmod(key, 0o640); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenAuthority(key, pub, nil, nil); access.CodeOf(err) != access.CodeForbidden || !strings.Contains(err.Error(), "0640") {
		t.Errorf("key that others can read: %v", err)
	}
	if _, err := OpenAuthority(filepath.Join(dir, "none"), pub, nil, nil); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no key: %v", err)
	}
}
