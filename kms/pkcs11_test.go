//go:build linux

package main

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
)

// softHSM is the PKCS#11 module of SoftHSM2, where Debian has it.
const softHSM = "/usr/lib/softhsm/libsofthsm2.so"

// A key in whatever speaks PKCS#11; here that is SoftHSM.
func TestPKCS11(t *testing.T) {
	if !hasPKCS11 {
		cmd := command(t, nil, "-user-ca", "pkcs11:token=hallpass;object=ssh-ca")
		if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(out), "without PKCS#11: make kms builds one with it") {
			t.Errorf("%v: %s", err, out)
		}
		t.Skip("built without cgo")
	}
	if _, err := os.Stat(softHSM); err != nil {
		t.Fatalf("%v; apt-get install softhsm2", err)
	}
	for _, tt := range []struct {
		name string
		key  func() (crypto.Signer, error)
	}{
		{"P-256", func() (crypto.Signer, error) { return ecdsa.GenerateKey(elliptic.P256(), rand.Reader) }},
		{"P-384", func() (crypto.Signer, error) { return ecdsa.GenerateKey(elliptic.P384(), rand.Reader) }},
		{"RSA", func() (crypto.Signer, error) { return rsa.GenerateKey(rand.Reader, 3072) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			path := func(name string) string { return filepath.Join(dir, name) }
			write := func(name, content string) {
				t.Helper()
				if err := os.WriteFile(path(name), []byte(content), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			write("softhsm2.conf", fmt.Sprintf("directories.tokendir = %s\nlog.level = ERROR\n", dir))
			env := []string{"SOFTHSM2_CONF=" + path("softhsm2.conf")}
			util := func(args ...string) {
				t.Helper()
				cmd := exec.Command("softhsm2-util", args...)
				cmd.Env = append(os.Environ(), env...)
				if out, err := cmd.CombinedOutput(); err != nil {
					t.Fatalf("softhsm2-util: %v\n%s", err, out)
				}
			}
			util("--init-token", "--free", "--label", "hallpass", "--pin", "123456", "--so-pin", "654321")
			private, err := tt.key()
			if err != nil {
				t.Fatal(err)
			}
			der, err := x509.MarshalPKCS8PrivateKey(private)
			if err != nil {
				t.Fatal(err)
			}
			write("key.pem", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})))
			util("--import", path("key.pem"), "--token", "hallpass", "--label", "ssh-ca", "--id", "01", "--pin", "123456")
			if err := os.Remove(path("key.pem")); err != nil { // from here on only the token has it
				t.Fatal(err)
			}
			key, err := ssh.NewPublicKey(private.Public())
			if err != nil {
				t.Fatal(err)
			}
			write("pin", "123456\n")
			write("wrong", "123457\n")
			uri := func(object, pin string) string {
				return "pkcs11:module-path=" + softHSM + ";token=hallpass;object=" + object + "?pin-source=" + path(pin)
			}
			p := start(t, env, "-user-ca", uri("ssh-ca", "pin"))
			p.keys(1)
			p.signsCertificates(key)

			// What a token says is in the issuer's words for it; a PIN that is
			// refused is tried once.
			for _, row := range []struct {
				uri, want string
				again     bool
			}{
				{uri("ssh-ca", "wrong"), "the token refuses the PIN", false},
				{uri("another", "pin"), "not found", true},
				{strings.Replace(uri("ssh-ca", "pin"), softHSM, "/nowhere.so", 1), "PKCS#11", true},
			} {
				p := start(t, env, "-user-ca", row.uri)
				p.until(func() bool { return strings.Contains(p.log(), "can't open") })
				p.talk(func(a agent.ExtendedAgent) {
					if list, err := a.List(); err != nil || len(list) != 0 {
						t.Errorf("%s: lists %v, %v", row.want, list, err)
					}
					if said := why(a); !strings.Contains(said, row.want) {
						t.Errorf("it says %q, want %q", said, row.want)
					}
				})
				if again := strings.Contains(p.log(), "again_in"); again != row.again {
					t.Errorf("%s: it tries again: %v", row.want, again)
				}
				if strings.Contains(p.log(), "12345") {
					t.Error("the PIN is in the log")
				}
			}
		})
	}
	for _, value := range []string{"?pin-value=s3cr3t", "?pin-prompt=s3cr3t", ";pin-value=s3cr3t", "?Pin-Value=s3cr3t"} {
		cmd := command(t, nil, "-user-ca", "pkcs11:token=hallpass;object=ssh-ca"+value)
		if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(out), "pin-source names a file") || strings.Contains(string(out), "s3cr3t") {
			t.Errorf("%s: %v: %s", value, err, out)
		}
	}
}
