package service

import (
	"bytes"
	"crypto/x509"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"hallpass/access"
)

// Whoever makes an authority may be killed on the way, and another may make it at
// the same time: it is made once, and can be used.
func TestAuthorityIsMadeOnce(t *testing.T) {
	contents := func(paths ...string) (all string) {
		t.Helper()
		for _, path := range paths {
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			all += string(data)
		}
		return all
	}
	dir := t.TempDir()
	key, pub := filepath.Join(dir, "key"), filepath.Join(dir, "pub")
	var all sync.WaitGroup
	got := make(chan []byte, 8)
	for range cap(got) {
		all.Go(func() {
			if err := CreateAuthority(key, pub); err != nil {
				t.Error(err)
				return
			}
			a, err := OpenAuthority(key, pub, nil, nil)
			if err != nil {
				t.Error(err)
				return
			}
			got <- a.Certificate().Raw
		})
	}
	all.Wait()
	close(got)
	first := <-got
	for other := range got {
		if !bytes.Equal(first, other) {
			t.Error("two have made two")
		}
	}
	made := contents(key, pub)
	if err := CreateAuthority(key, pub); err != nil || contents(key, pub) != made {
		t.Errorf("once more: %v, the same %t", err, contents(key, pub) == made)
	}
	if files, err := os.ReadDir(dir); err != nil || len(files) != 2 {
		t.Errorf("%d files are left, %v", len(files), err)
	}
	for path, mode := range map[string]os.FileMode{key: 0o600, pub: 0o644} {
		if info, err := os.Stat(path); err != nil || info.Mode() != mode {
			t.Errorf("%s: %v, %v", path, info.Mode(), err)
		}
	}
	// Killed between the two.
	if err := os.Remove(pub); err != nil {
		t.Fatal(err)
	}
	private := contents(key)
	if err := CreateAuthority(key, pub); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenAuthority(key, pub, nil, nil); err != nil || contents(key) != private {
		t.Errorf("after that: %v", err)
	}
	// A certificate that clients know isn't replaced.
	if err := os.Remove(key); err != nil {
		t.Fatal(err)
	}
	known := contents(pub)
	if err := CreateAuthority(key, pub); access.CodeOf(err) != access.CodeNotFound || contents(pub) != known {
		t.Errorf("without its key: %v", err)
	}
	if _, err := os.Stat(key); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a key for another's certificate: %v", err)
	}
}

func TestAuthority(t *testing.T) {
	dir := t.TempDir()
	key, pub := filepath.Join(dir, "key"), filepath.Join(dir, "pub")
	if err := CreateAuthority(key, pub); err != nil {
		t.Fatal(err)
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
