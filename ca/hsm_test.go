package ca

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
)

// softHSM is the PKCS#11 module of SoftHSM2, where Debian has it.
const softHSM = "/usr/lib/softhsm/libsofthsm2.so"

// The CA key may be in whatever speaks PKCS#11, through ssh-agent, which loads
// the module into a process of its own. Here that is SoftHSM.
func TestKeyInHSM(t *testing.T) {
	if _, err := os.Stat(softHSM); err != nil {
		t.Fatalf("%v; apt-get install softhsm2", err)
	}
	for _, tt := range []struct {
		name, format string
		key          func() (crypto.Signer, error)
	}{
		{"P-256", ssh.KeyAlgoECDSA256, func() (crypto.Signer, error) { return ecdsa.GenerateKey(elliptic.P256(), rand.Reader) }},
		{"RSA", ssh.KeyAlgoRSASHA512, func() (crypto.Signer, error) { return rsa.GenerateKey(rand.Reader, 3072) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir, err := os.MkdirTemp("", "hsm") // socket paths are at most 104 bytes long
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = os.RemoveAll(dir) })
			path := func(name string) string { return filepath.Join(dir, name) }
			write := func(name, content string, mode os.FileMode) {
				if err := os.WriteFile(path(name), []byte(content), mode); err != nil {
					t.Fatal(err)
				}
			}
			if err := os.Mkdir(path("tokens"), 0o700); err != nil {
				t.Fatal(err)
			}
			write("softhsm2.conf", fmt.Sprintf("directories.tokendir = %s\nlog.level = ERROR\n", path("tokens")), 0o600)
			t.Setenv("SOFTHSM2_CONF", path("softhsm2.conf")) // for the agent, too
			run(t, "softhsm2-util", "--init-token", "--free", "--label", "hallpass", "--pin", "123456", "--so-pin", "654321")
			key, err := tt.key()
			if err != nil {
				t.Fatal(err)
			}
			der, err := x509.MarshalPKCS8PrivateKey(key)
			if err != nil {
				t.Fatal(err)
			}
			write("key.pem", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})), 0o600)
			run(t, "softhsm2-util", "--import", path("key.pem"), "--token", "hallpass", "--label", "ssh-ca", "--id", "01", "--pin", "123456")
			if err := os.Remove(path("key.pem")); err != nil { // from here on only the token has it
				t.Fatal(err)
			}
			public, err := ssh.NewPublicKey(key.Public())
			if err != nil {
				t.Fatal(err)
			}

			startAgent(t, path("s"))
			source := "agent:" + ssh.FingerprintSHA256(public)
			if _, err := Open(source, OpenOptions{AgentSocket: path("s")}); err == nil || !strings.Contains(err.Error(), "ssh-add") {
				t.Errorf("before the agent has the token: error %v", err)
			}
			write("pin", "#!/bin/sh\necho 123456\n", 0o700)
			add := exec.Command("ssh-add", "-q", "-s", softHSM)
			add.Env = append(os.Environ(), "SSH_AUTH_SOCK="+path("s"), "SSH_ASKPASS="+path("pin"), "SSH_ASKPASS_REQUIRE=force")
			if out, err := add.CombinedOutput(); err != nil {
				t.Fatalf("ssh-add: %v\n%s", err, out)
			}
			signer, err := Open(source, OpenOptions{AgentSocket: path("s")})
			if err != nil {
				t.Fatal(err)
			}
			cert := issueOne(t, signer)
			if got := cert.Signature.Format; got != tt.format {
				t.Errorf("signature is %s, want %s", got, tt.format)
			}
			checker := ssh.CertChecker{Clock: clock, IsUserAuthority: func(k ssh.PublicKey) bool { return string(k.Marshal()) == string(public.Marshal()) }}
			if err := checker.CheckCert(cert.ValidPrincipals[0], cert); err != nil {
				t.Error(err)
			}
		})
	}
}
