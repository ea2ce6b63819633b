//go:build linux

package main

import (
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

var noon = time.Date(2026, 11, 27, 12, 0, 0, 0, time.UTC)

func TestAllowed(t *testing.T) {
	key, err := ssh.NewPublicKey(newEd25519(t).Public())
	if err != nil {
		t.Fatal(err)
	}
	other, err := ssh.NewPublicKey(newEd25519(t).Public())
	if err != nil {
		t.Fatal(err)
	}
	cert := func(change func(*ssh.Certificate)) []byte {
		c := certificate(t, key, noon)
		change(c)
		return unsigned(c)
	}
	host := func(change func(*ssh.Certificate)) []byte {
		return cert(func(c *ssh.Certificate) {
			c.CertType, c.KeyId, c.ValidPrincipals = ssh.HostCert, "hallpass-host:web-1", []string{"web-1", "10.0.0.1"}
			c.ValidBefore = uint64(noon.Add(30 * 24 * time.Hour).Unix())
			change(c)
		})
	}
	list := func(namespace, reserved, hash string, sum int) []byte {
		return append([]byte("SSHSIG"), ssh.Marshal(struct {
			Namespace, Reserved, Hash string
			Sum                       []byte
		}{namespace, reserved, hash, make([]byte, sum)})...)
	}
	as := func(*ssh.Certificate) {}
	until := func(d time.Duration) func(*ssh.Certificate) {
		return func(c *ssh.Certificate) { c.ValidBefore = uint64(noon.Add(d).Unix()) }
	}
	for _, row := range []struct {
		name string
		role role
		data []byte
		want string // "" if it is signed
	}{
		{"trial", users, []byte(trial), ""},
		{"trial by the CA of hosts", hosts, []byte(trial), ""},
		{"trial and more", users, []byte(trial + "!"), "alone"},
		{"nothing", users, nil, "alone"},
		{"a zero", users, []byte{0}, "alone"},

		{"list", users, list("krl@hallpass", "", "sha512", 64), ""},
		{"list with SHA-256", users, list("krl@hallpass", "", "sha256", 32), ""},
		{"list by the CA of hosts", hosts, list("krl@hallpass", "", "sha512", 64), "signs no key revocation lists"},
		{"statement", users, list("request@hallpass", "", "sha512", 64), "signs for krl@hallpass alone"},
		{"file", users, list("file", "", "sha512", 64), "signs for krl@hallpass alone"},
		{"something reserved", users, list("krl@hallpass", "x", "sha512", 64), "PROTOCOL.sshsig"},
		{"another hash", users, list("krl@hallpass", "", "sha1", 20), "PROTOCOL.sshsig"},
		{"no hash", users, list("krl@hallpass", "", "", 0), "PROTOCOL.sshsig"},
		{"short hash", users, list("krl@hallpass", "", "sha512", 63), "PROTOCOL.sshsig"},
		{"list and more", users, append(list("krl@hallpass", "", "sha512", 64), 0), "can't be read"},
		{"the envelope alone", users, []byte("SSHSIG"), "can't be read"},

		{"certificate", users, cert(as), ""},
		{"as long as may be", users, cert(until(24*time.Hour + skew)), ""},
		{"a second longer", users, cert(until(24*time.Hour + skew + time.Second)), "valid for longer than 24h0m0s"},
		{"for ever", users, cert(func(c *ssh.Certificate) { c.ValidBefore = ssh.CertTimeInfinity }), "valid for longer"},
		{"ended before it began", users, cert(func(c *ssh.Certificate) { c.ValidBefore = c.ValidAfter }), "end before it begins"},
		{"of a host, by the CA of users", users, host(as), "no certificates of type 2"},
		{"of no type", users, cert(func(c *ssh.Certificate) { c.CertType = 0 }), "no certificates of type 0"},
		{"another CA's", users, cert(func(c *ssh.Certificate) { c.SignatureKey = other }), "names another CA"},
		{"for itself", users, cert(func(c *ssh.Certificate) { c.Key = key }), "the CA's own key"},
		{"another key id", users, cert(func(c *ssh.Certificate) { c.KeyId = "root" }), "doesn't begin with hallpass:"},
		{"the key id of a host", users, cert(func(c *ssh.Certificate) { c.KeyId = "hallpass-host:web-1" }), "doesn't begin with hallpass:"},
		{"serial 0", users, cert(func(c *ssh.Certificate) { c.Serial = 0 }), "can't be revoked"},
		{"no principals", users, cert(func(c *ssh.Certificate) { c.ValidPrincipals = nil }), "good for everything"},
		{"an empty principal", users, cert(func(c *ssh.Certificate) { c.ValidPrincipals = []string{"a/b", ""} }), "good for everything"},
		{"an account's name", users, cert(func(c *ssh.Certificate) { c.ValidPrincipals = []string{"a/b", "root"} }), "resource/login"},
		{"with its signature", users, append(cert(as), 0, 0, 0, 0), "alone"},
		{"cut off", users, cert(as)[:100], "alone"},
		{"a plain key", users, key.Marshal(), "alone"},

		{"host", hosts, host(as), ""},
		{"host, as long as may be", hosts, host(until(30*24*time.Hour + skew)), ""},
		{"host, a second longer", hosts, host(until(30*24*time.Hour + skew + time.Second)), "valid for longer than 720h0m0s"},
		{"of a user, by the CA of hosts", hosts, cert(as), "no certificates of type 1"},
		{"host without names", hosts, host(func(c *ssh.Certificate) { c.ValidPrincipals = nil }), "good for everything"},
		{"host with the key id of a user", hosts, host(func(c *ssh.Certificate) { c.KeyId = "hallpass:x:y" }), "doesn't begin with hallpass-host:"},
	} {
		_, err := allowed(row.role, key, row.data, noon)
		if row.want == "" && err != nil || row.want != "" && (err == nil || !strings.Contains(err.Error(), row.want)) {
			t.Errorf("%s: %v, want %q", row.name, err, row.want)
		}
	}
}

// What is signed is what was judged: bytes that read as a certificate and are
// not written as one are refused.
func FuzzAllowed(f *testing.F) {
	key, err := ssh.NewPublicKey(newEd25519(f).Public())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(unsigned(certificate(f, key, noon)))
	f.Add([]byte(trial))
	f.Add([]byte("SSHSIG\x00\x00\x00\x0ckrl@hallpass"))
	f.Fuzz(func(t *testing.T, data []byte) {
		what, err := allowed(users, key, data, noon)
		if err != nil || !strings.HasPrefix(what, "certificate ") {
			return
		}
		cert, err := ssh.ParsePublicKey(append(data, ssh.Marshal(struct{ S []byte }{ssh.Marshal(ssh.Signature{Format: "x", Blob: []byte{1}})})...))
		if err != nil {
			t.Fatal(err)
		}
		if c := cert.(*ssh.Certificate); c.CertType != ssh.UserCert || c.ValidBefore > uint64(noon.Add(24*time.Hour+skew).Unix()) {
			t.Errorf("signs %+v", c)
		}
	})
}
