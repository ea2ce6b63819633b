//go:build linux

package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.step.sm/crypto/kms/uri"
)

// FuzzCheckURI: a key's URI that is taken names a KMS there is, carries no secret
// and no file that others can read, and is taken again; one that is refused isn't
// repeated, as there may be a secret in it.
func FuzzCheckURI(f *testing.F) {
	dir := f.TempDir()
	private, open := filepath.Join(dir, "private"), filepath.Join(dir, "open")
	for path, mode := range map[string]os.FileMode{private: 0o600, open: 0o644} {
		if err := os.WriteFile(path, nil, mode); err != nil {
			f.Fatal(err)
		}
	}
	f.Add("softkms:path=" + private)
	f.Add("softkms:path=" + open)
	f.Add("softkms:path=" + private + ";path=" + open)
	f.Add("softkms:path=" + private + "?path=" + open)
	f.Add("pkcs11:token=a;object=b?module-path=/m.so&pin-source=" + private)
	f.Add("pkcs11:token=a;object=b?pin-value=abcdefghijkl")
	f.Add("pkcs11:token=a;PIN-VALUE=abcdefghijkl")
	f.Add("awskms:key-id=1234;region=eu-central-1")
	f.Add("cloudkms:projects/p/locations/global/keyRings/r/cryptoKeys/k/cryptoKeyVersions/1?credentials-file=" + private)
	f.Add("azurekms:name=k;vault=v?client-secret=abcdefghijkl")
	f.Add("file:" + private)
	f.Add("%zz:")
	f.Fuzz(func(t *testing.T, name string) {
		err := checkURI(name)
		if err != nil {
			if text := err.Error(); len(text) > 2*maxURI || strings.ContainsAny(text, "\n\x1b") || strings.Contains(text, "abcdefghijkl") {
				t.Errorf("%q", text)
			}
			return
		}
		u, err := uri.Parse(name)
		if err != nil || managers[u.Scheme] == nil || len(name) > maxURI {
			t.Fatalf("%q is taken (%v)", name, err)
		}
		for _, secret := range []string{"pin-value", "pin-prompt", "client-secret"} {
			if u.Get(secret) != "" || u.Values.Has(secret) {
				t.Errorf("%q is taken with a secret in it", name)
			}
		}
		for _, field := range []string{"pin-source", "credentials-file", "path"} {
			file := u.Get(field)
			if file == "" {
				continue
			}
			if info, err := os.Stat(file); !filepath.IsAbs(file) || err != nil || info.Mode().Perm()&0o077 != 0 {
				t.Errorf("%q is taken, and what opens the key gets the %s %q (%v)", name, field, file, err)
			}
		}
		if err := checkURI(u.String()); err != nil {
			t.Errorf("%q is taken, and %q isn't: %v", name, u, err)
		}
	})
}
