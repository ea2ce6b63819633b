package allow

import (
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"hallpass/kms/allow/allowtest"
)

var noon = time.Date(2026, 11, 27, 12, 0, 0, 0, time.UTC)

func TestData(t *testing.T) {
	key := allowtest.Key(t)
	other := allowtest.Key(t)
	cert := func(change func(*ssh.Certificate)) []byte {
		c := allowtest.Certificate(t, key, noon)
		change(c)
		return allowtest.Unsigned(c)
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
		role Role
		data []byte
		want string // "" if it is signed
	}{
		{"trial", Users, []byte(Trial), ""},
		{"trial by the CA of hosts", Hosts, []byte(Trial), ""},
		{"trial and more", Users, []byte(Trial + "!"), "alone"},
		{"nothing", Users, nil, "alone"},
		{"a zero", Users, []byte{0}, "alone"},

		{"list", Users, list("krl@hallpass", "", "sha512", 64), ""},
		{"list with SHA-256", Users, list("krl@hallpass", "", "sha256", 32), ""},
		{"what a host is told", Users, list("enrolled@hallpass", "", "sha512", 64), ""},
		{"list by the CA of hosts", Hosts, list("krl@hallpass", "", "sha512", 64), "signs nothing but certificates"},
		{"what a host is told, by the CA of hosts", Hosts, list("enrolled@hallpass", "", "sha512", 64), "signs nothing but certificates"},
		{"statement", Users, list("request@hallpass", "", "sha512", 64), "signs for enrolled@hallpass and krl@hallpass alone"},
		{"file", Users, list("file", "", "sha512", 64), "signs for enrolled@hallpass and krl@hallpass alone"},
		{"something reserved", Users, list("krl@hallpass", "x", "sha512", 64), "PROTOCOL.sshsig"},
		{"another hash", Users, list("krl@hallpass", "", "sha1", 20), "PROTOCOL.sshsig"},
		{"no hash", Users, list("krl@hallpass", "", "", 0), "PROTOCOL.sshsig"},
		{"short hash", Users, list("krl@hallpass", "", "sha512", 63), "PROTOCOL.sshsig"},
		{"list and more", Users, append(list("krl@hallpass", "", "sha512", 64), 0), "can't be read"},
		{"the envelope alone", Users, []byte("SSHSIG"), "can't be read"},

		{"certificate", Users, cert(as), ""},
		{"as long as may be", Users, cert(until(24*time.Hour + Skew)), ""},
		{"a second longer", Users, cert(until(24*time.Hour + Skew + time.Second)), "valid for longer than 24h0m0s"},
		{"for ever", Users, cert(func(c *ssh.Certificate) { c.ValidBefore = ssh.CertTimeInfinity }), "valid for longer"},
		{"ended before it began", Users, cert(func(c *ssh.Certificate) { c.ValidBefore = c.ValidAfter }), "end before it begins"},
		{"of a host, by the CA of users", Users, host(as), "no certificates of type 2"},
		{"of no type", Users, cert(func(c *ssh.Certificate) { c.CertType = 0 }), "no certificates of type 0"},
		{"another CA's", Users, cert(func(c *ssh.Certificate) { c.SignatureKey = other }), "names another CA"},
		{"for itself", Users, cert(func(c *ssh.Certificate) { c.Key = key }), "the CA's own key"},
		{"another key id", Users, cert(func(c *ssh.Certificate) { c.KeyId = "root" }), "doesn't begin with hallpass:"},
		{"the key id of a host", Users, cert(func(c *ssh.Certificate) { c.KeyId = "hallpass-host:web-1" }), "doesn't begin with hallpass:"},
		{"serial 0", Users, cert(func(c *ssh.Certificate) { c.Serial = 0 }), "can't be revoked"},
		{"a series without a count", Users, cert(func(c *ssh.Certificate) { c.Serial = 7 << 32 }), "can't be revoked"},
		{"no principals", Users, cert(func(c *ssh.Certificate) { c.ValidPrincipals = nil }), "good for everything"},
		{"an empty principal", Users, cert(func(c *ssh.Certificate) { c.ValidPrincipals = []string{"a/b", ""} }), "good for everything"},
		{"an account's name", Users, cert(func(c *ssh.Certificate) { c.ValidPrincipals = []string{"a/b", "root"} }), "resource/login"},
		{"with its signature", Users, append(cert(as), 0, 0, 0, 0), "alone"},
		{"cut off", Users, cert(as)[:100], "alone"},
		{"a plain key", Users, key.Marshal(), "alone"},

		{"host", Hosts, host(as), ""},
		{"host, as long as may be", Hosts, host(until(30*24*time.Hour + Skew)), ""},
		{"host, a second longer", Hosts, host(until(30*24*time.Hour + Skew + time.Second)), "valid for longer than 720h0m0s"},
		{"of a user, by the CA of hosts", Hosts, cert(as), "no certificates of type 1"},
		{"host without names", Hosts, host(func(c *ssh.Certificate) { c.ValidPrincipals = nil }), "good for everything"},
		{"host with the key id of a user", Hosts, host(func(c *ssh.Certificate) { c.KeyId = "hallpass:x:y" }), "doesn't begin with hallpass-host:"},
	} {
		_, err := Data(row.role, key, row.data, noon)
		if row.want == "" && err != nil || row.want != "" && (err == nil || !strings.Contains(err.Error(), row.want)) {
			t.Errorf("%s: %v, want %q", row.name, err, row.want)
		}
	}
}

// What is signed is what was judged: bytes that read as a certificate and are
// not written as one are refused.
func FuzzData(f *testing.F) {
	key := allowtest.Key(f)
	f.Add(allowtest.Unsigned(allowtest.Certificate(f, key, noon)))
	f.Add([]byte(Trial))
	f.Add([]byte("SSHSIG\x00\x00\x00\x0ckrl@hallpass"))
	f.Fuzz(func(t *testing.T, data []byte) {
		what, err := Data(Users, key, data, noon)
		if err != nil || !strings.HasPrefix(what, "certificate ") {
			return
		}
		cert, err := ssh.ParsePublicKey(append(data, ssh.Marshal(struct{ S []byte }{ssh.Marshal(ssh.Signature{Format: "x", Blob: []byte{1}})})...))
		if err != nil {
			t.Fatal(err)
		}
		if c := cert.(*ssh.Certificate); c.CertType != ssh.UserCert || c.ValidBefore > uint64(noon.Add(24*time.Hour+Skew).Unix()) {
			t.Errorf("signs %+v", c)
		}
	})
}
