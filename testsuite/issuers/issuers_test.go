// Package issuers has other programs' SSH CAs issue the certificate that
// hallpass's issues: Vault's SSH engine and step-ca, as real servers on this
// machine, asked over loopback as their clients ask.
package issuers

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/big"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
	"golang.org/x/crypto/ssh"

	"hallpass/access"
	"hallpass/ca"
	"hallpass/testsuite/measure"
	"hallpass/testsuite/process"
	"hallpass/testsuite/vaulttest"
)

// What is in each certificate, whoever issues it.
const (
	keyID     = "hallpass:0198f3a2-7c11-7abc-8def-0123456789ab:alice"
	principal = "web-1/deploy"
	lifetime  = 10 * time.Minute
)

// issuer issues one more of it, for a key of its own, and reads it.
type issuer func() (*ssh.Certificate, error)

// keyTypes are those that all of them can have as a CA.
var keyTypes = []string{"ed25519", "p256"}

var issuers = []struct {
	name  string
	start func(t testing.TB, keyType string) issuer
}{
	{"hallpass", hallpass},
	{"vault", vault},
	{"step-ca", stepCA},
}

func newKey(t testing.TB, keyType string) crypto.Signer {
	t.Helper()
	if keyType == "ed25519" {
		_, key, err := ed25519.GenerateKey(rand.Reader)
		must(t, err)
		return key
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	return key
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// subject is the key to certify.
func subject(t testing.TB) ssh.PublicKey {
	t.Helper()
	key, err := ssh.NewPublicKey(newKey(t, "ed25519").Public())
	must(t, err)
	return key
}

// hallpass's CA, in this process: hallpass's issuer asks no server either.
func hallpass(t testing.TB, keyType string) issuer {
	signer, err := ssh.NewSignerFromSigner(newKey(t, keyType))
	must(t, err)
	authority, err := ca.New(signer, nil)
	must(t, err)
	key := subject(t)
	var serial atomic.Uint64
	return func() (*ssh.Certificate, error) {
		now := time.Now().Truncate(time.Second)
		p, err := authority.Prepare(ca.Spec{
			Request: strings.Split(keyID, ":")[1], Requester: "alice", Principals: []string{principal}, PublicKey: key,
			Serial: serial.Add(1), NotBefore: now, NotAfter: now.Add(lifetime), Options: access.SSHOptions{Extensions: ca.Extensions()},
		})
		if err != nil {
			return nil, err
		}
		return authority.Issue(p)
	}
}

// client keeps as many connections as there are requests at the same time.
func client(config *tls.Config) *http.Client {
	return &http.Client{Timeout: time.Minute, Transport: &http.Transport{TLSClientConfig: config, ForceAttemptHTTP2: true, MaxIdleConnsPerHost: 64}}
}

// post asks a server over HTTPS.
func post(c *http.Client, address string, header http.Header, in, out any) error {
	body, err := json.Marshal(in)
	if err != nil {
		return err
	}
	r, err := http.NewRequest(http.MethodPost, address, bytes.NewReader(body))
	if err != nil {
		return err
	}
	r.Header = header
	answer, err := c.Do(r)
	if err != nil {
		return err
	}
	defer func() { _ = answer.Body.Close() }()
	data, err := io.ReadAll(answer.Body)
	if err == nil && answer.StatusCode/100 != 2 {
		err = fmt.Errorf("%s: %s", answer.Status, data)
	}
	if err != nil {
		return err
	}
	return json.Unmarshal(data, out)
}

func parse(key ssh.PublicKey, err error) (*ssh.Certificate, error) {
	if err != nil {
		return nil, err
	}
	cert, ok := key.(*ssh.Certificate)
	if !ok {
		return nil, errors.New("no certificate")
	}
	return cert, nil
}

// vault is the SSH engine of a Vault on disk, with its audit log, over HTTPS.
func vault(t testing.TB, keyType string) issuer {
	s := vaulttest.Start(t, vaulttest.Config{TLS: true})
	s.Mount(t, "ssh", "ssh")
	config := map[string]any{"generate_signing_key": true, "key_type": "ed25519"}
	if keyType == "p256" {
		config["key_type"], config["key_bits"] = "ec", 256
	}
	s.Write(t, "ssh/config/ca", config)
	extensions := map[string]any{}
	for _, e := range ca.Extensions() {
		extensions[e] = ""
	}
	s.Write(t, "ssh/roles/bench", map[string]any{
		"key_type": "ca", "allow_user_certificates": true, "allowed_users": "*", "allow_user_key_ids": true, "allowed_extensions": strings.Join(ca.Extensions(), ","),
	})
	roots := x509.NewCertPool()
	data, err := os.ReadFile(s.CACert)
	must(t, err)
	roots.AppendCertsFromPEM(data)
	c := client(&tls.Config{RootCAs: roots})
	in := map[string]any{
		"public_key": string(ssh.MarshalAuthorizedKey(subject(t))), "valid_principals": principal, "key_id": keyID, "ttl": lifetime.String(), "extensions": extensions,
	}
	header := http.Header{"X-Vault-Token": {s.RootToken}, "X-Vault-Request": {"true"}}
	return func() (*ssh.Certificate, error) {
		var out api.Secret
		if err := post(c, s.Address+"/v1/ssh/sign/bench", header.Clone(), in, &out); err != nil {
			return nil, err
		}
		line, _ := out.Data["signed_key"].(string)
		key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(line))
		return parse(key, err)
	}
}

// stepCA is step-ca with its database on disk, as step ca init sets it up. A
// client shows a token of its own for each certificate, which it signs with the
// key of a provisioner.
func stepCA(t testing.TB, keyType string) issuer {
	bin := os.Getenv("HALLPASS_STEP_CA_BIN")
	if bin == "" {
		bin = "../../bin/step-ca-for-tests"
	}
	bin, err := filepath.Abs(bin)
	must(t, err)
	if _, err := os.Stat(bin); err != nil {
		t.Skip("there is no step-ca for tests; build it with make step-ca")
	}
	dir := t.TempDir()
	write := func(name, kind string, der []byte) string {
		path := filepath.Join(dir, name)
		must(t, os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600))
		return path
	}
	private := func(name string, key crypto.Signer) string {
		der, err := x509.MarshalPKCS8PrivateKey(key)
		must(t, err)
		return write(name, "PRIVATE KEY", der)
	}
	// X.509 for its own HTTPS: a root and what signs below it.
	rootKey, belowKey := newKey(t, "p256"), newKey(t, "p256")
	template := func(name string, serial int64, length int) *x509.Certificate {
		return &x509.Certificate{
			SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true, MaxPathLen: length, MaxPathLenZero: length == 0,
			KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		}
	}
	root := template("root", 1, 1)
	rootDER, err := x509.CreateCertificate(rand.Reader, root, root, rootKey.Public(), rootKey)
	must(t, err)
	belowDER, err := x509.CreateCertificate(rand.Reader, template("below", 2, 0), root, belowKey.Public(), rootKey)
	must(t, err)
	provisioner, ok := newKey(t, "p256").(*ecdsa.PrivateKey)
	if !ok {
		t.Fatal("no P-256 key")
	}
	encode := base64.RawURLEncoding.EncodeToString
	part := func(i *big.Int) string { return encode(i.FillBytes(make([]byte, 32))) }
	config := map[string]any{
		"root": write("root.crt", "CERTIFICATE", rootDER), "crt": write("below.crt", "CERTIFICATE", belowDER), "key": private("below.key", belowKey),
		"dnsNames": []string{"127.0.0.1"}, "logger": map[string]string{"format": "json"},
		"ssh": map[string]string{"hostKey": private("host.key", newKey(t, keyType)), "userKey": private("user.key", newKey(t, keyType))},
		"db":  map[string]string{"type": "badgerv2", "dataSource": filepath.Join(dir, "db")},
		"authority": map[string]any{"provisioners": []any{map[string]any{
			"type": "JWK", "name": "bench", "claims": map[string]any{"enableSSHCA": true},
			"key": map[string]string{"use": "sig", "kty": "EC", "kid": "bench", "crv": "P-256", "alg": "ES256", "x": part(provisioner.X), "y": part(provisioner.Y)},
		}}},
	}
	address := ""
	process.TryPorts(t, func(port int) error {
		host := fmt.Sprintf("127.0.0.1:%d", port)
		config["address"] = host
		data, err := json.Marshal(config)
		if err != nil {
			return err
		}
		file := filepath.Join(dir, "ca.json")
		if err := os.WriteFile(file, data, 0o600); err != nil {
			return err
		}
		cmd := exec.Command(bin, file)
		cmd.Env = []string{"HOME=" + dir, "STEPPATH=" + dir}
		p, err := process.Start(cmd, func(line string) bool { return strings.Contains(line, "Serving HTTPS on") })
		if err != nil {
			return err
		}
		t.Cleanup(func() {
			p.Kill()
			if t.Failed() {
				t.Logf("step-ca said:\n%s", p.Output())
			}
		})
		address = "https://" + host
		return nil
	})
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: rootDER}))
	c := client(&tls.Config{RootCAs: roots})
	key := subject(t)
	return func() (*ssh.Certificate, error) {
		now := time.Now()
		claims, err := json.Marshal(map[string]any{
			"iss": "bench", "aud": address + "/1.0/ssh/sign", "sub": keyID, "iat": now.Unix(), "nbf": now.Unix(), "exp": now.Add(5 * time.Minute).Unix(), "jti": rand.Text(),
			"step": map[string]any{"ssh": map[string]any{"certType": "user", "keyID": keyID, "principals": []string{principal}}},
		})
		if err != nil {
			return nil, err
		}
		token := encode([]byte(`{"alg":"ES256","kid":"bench","typ":"JWT"}`)) + "." + encode(claims)
		sum := sha256.Sum256([]byte(token))
		r, s, err := ecdsa.Sign(rand.Reader, provisioner, sum[:])
		if err != nil {
			return nil, err
		}
		token += "." + encode(append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...))
		var out struct {
			Certificate []byte `json:"crt"`
		}
		err = post(c, address+"/1.0/ssh/sign", http.Header{"Content-Type": {"application/json"}}, map[string]any{
			"publicKey": key.Marshal(), "ott": token, "certType": "user", "keyID": keyID, "principals": []string{principal}, "validBefore": lifetime.String(),
		}, &out)
		if err != nil {
			return nil, err
		}
		return parse(ssh.ParsePublicKey(out.Certificate))
	}
}

// They issue the same: what is compared is the same work.
func TestTheyIssueTheSame(t *testing.T) {
	for _, keyType := range keyTypes {
		for _, i := range issuers {
			t.Run(i.name+"/"+keyType, func(t *testing.T) {
				issue := i.start(t, keyType)
				cert, err := issue()
				must(t, err)
				again, err := issue()
				must(t, err)
				if err := new(ssh.CertChecker).CheckCert(principal, cert); err != nil {
					t.Error(err)
				}
				if again.Serial == cert.Serial {
					t.Errorf("two certificates have the serial %d", cert.Serial)
				}
				left := time.Until(time.Unix(int64(cert.ValidBefore), 0))
				if cert.KeyId != keyID || cert.CertType != ssh.UserCert || left > lifetime || left < lifetime/2 {
					t.Errorf("certificate of %q, type %d, valid for %s", cert.KeyId, cert.CertType, left)
				}
				if got := slices.Sorted(maps.Keys(cert.Extensions)); !slices.Equal(got, ca.Extensions()) || len(cert.CriticalOptions) != 0 {
					t.Errorf("extensions %v and %v", got, cert.CriticalOptions)
				}
				want := map[string]string{"ed25519": ssh.KeyAlgoED25519, "p256": ssh.KeyAlgoECDSA256}[keyType]
				if cert.Signature.Format != want {
					t.Errorf("signed with %s, want %s", cert.Signature.Format, want)
				}
				if size := len(cert.Marshal()); size < 480 || size > 720 {
					t.Errorf("%d bytes", size)
				}
			})
		}
	}
}

// BenchmarkIssuers asks each for certificates, one after the other and 16 at
// the same time.
func BenchmarkIssuers(b *testing.B) {
	for _, keyType := range keyTypes {
		for _, i := range issuers {
			b.Run(keyType+"/"+i.name, func(b *testing.B) {
				issue := i.start(b, keyType)
				for _, flight := range []int{1, 16} {
					b.Run(fmt.Sprintf("flight=%d", flight), func(b *testing.B) {
						measure.InFlight(b, flight, func(int) error { _, err := issue(); return err })
					})
				}
			})
		}
	}
}
