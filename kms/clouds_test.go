//go:build linux

package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"cloud.google.com/go/kms/apiv1/kmspb"
	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"hallpass/kms/allow"
)

// The hosts that the SDKs speak to.
const (
	awsHost     = "kms.eu-central-1.amazonaws.com"
	googleHost  = "cloudkms.googleapis.com"
	googleToken = "oauth2.googleapis.com"
	azureHost   = "ours.vault.azure.net"
	azureLogin  = "login.microsoftonline.com"
)

const googleKey = "projects/p/locations/europe-west3/keyRings/r/cryptoKeys/ssh-ca/cryptoKeyVersions/1"

// clouds answers for the three of them as their documentation says, behind a
// proxy that leads the SDKs' own host names here: what they send is what they
// send to the clouds.
type clouds struct {
	kmspb.UnimplementedKeyManagementServiceServer
	t      *testing.T
	key    *ecdsa.PrivateKey
	refuse atomic.Bool // to sign
	hide   atomic.Bool // refuse to show the key
	other  atomic.Bool // sign with another version of the key
	grpc   *grpc.Server
}

func (c *clouds) sign(digest []byte) ([]byte, error) {
	if len(digest) != sha256.Size {
		return nil, errors.New("the digest is not one of SHA-256")
	}
	key := c.key
	if c.other.Load() {
		key = newP256(c.t)
	}
	return ecdsa.SignASN1(rand.Reader, key, digest)
}

func (c *clouds) public() []byte {
	der, err := x509.MarshalPKIXPublicKey(c.key.Public())
	if err != nil {
		c.t.Error(err)
	}
	return der
}

func (c *clouds) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch host, _, _ := strings.Cut(r.Host, ":"); host {
	case awsHost:
		c.aws(w, r)
	case googleHost:
		c.grpc.ServeHTTP(w, r)
	case googleToken:
		answer(w, 200, map[string]any{"access_token": "t0ken", "token_type": "Bearer", "expires_in": 3600})
	case azureHost:
		c.azure(w, r)
	case azureLogin:
		c.azureLogin(w, r)
	default:
		http.NotFound(w, r)
	}
}

func answer(w http.ResponseWriter, code int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(v) // to a test
}

// aws is AWS KMS: JSON 1.1, one target for each operation.
func (c *clouds) aws(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/x-amz-json-1.1")
	var in struct {
		KeyId, MessageType, SigningAlgorithm string
		Message                              []byte
	}
	data, err := io.ReadAll(r.Body)
	if err == nil {
		err = json.Unmarshal(data, &in)
	}
	denied := func(action string) {
		answer(w, 400, map[string]string{"__type": "AccessDeniedException", "message": "User: arn:aws:iam::1:user/issuer is not authorized to perform: " + action})
	}
	const id = "1234abcd-12ab-34cd-56ef-1234567890ab"
	target := strings.TrimPrefix(r.Header.Get("X-Amz-Target"), "TrentService.")
	switch {
	case err != nil || in.KeyId != id || !strings.HasPrefix(r.Header.Get("Authorization"), "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/"):
		c.t.Errorf("AWS: %s for %q, %v", target, in.KeyId, err)
		answer(w, 400, map[string]string{"__type": "ValidationException"})
	case target == "GetPublicKey" && c.hide.Load():
		denied("kms:GetPublicKey")
	case target == "GetPublicKey":
		answer(w, 200, map[string]any{"KeyId": id, "KeySpec": "ECC_NIST_P256", "KeyUsage": "SIGN_VERIFY", "PublicKey": c.public(), "SigningAlgorithms": []string{"ECDSA_SHA_256"}})
	case target == "Sign" && c.refuse.Load():
		denied("kms:Sign")
	case target == "Sign" && in.MessageType == "DIGEST" && in.SigningAlgorithm == "ECDSA_SHA_256":
		signature, err := c.sign(in.Message)
		if err != nil {
			c.t.Error(err)
		}
		answer(w, 200, map[string]any{"KeyId": id, "SigningAlgorithm": in.SigningAlgorithm, "Signature": signature})
	default:
		c.t.Errorf("AWS: %s with %+v", target, in)
		answer(w, 400, map[string]string{"__type": "UnknownOperationException"})
	}
}

func (c *clouds) google(ctx context.Context, name string, hidden bool) error {
	md, _ := metadata.FromIncomingContext(ctx)
	if name != googleKey || len(md["authorization"]) != 1 || !strings.HasPrefix(md["authorization"][0], "Bearer ") {
		c.t.Errorf("Google: %q with %v", name, md["authorization"])
		return status.Error(codes.InvalidArgument, "no")
	}
	if hidden {
		return status.Error(codes.PermissionDenied, "Permission 'cloudkms.cryptoKeyVersions.useToSign' denied")
	}
	return nil
}

func (c *clouds) GetPublicKey(ctx context.Context, r *kmspb.GetPublicKeyRequest) (*kmspb.PublicKey, error) {
	if err := c.google(ctx, r.GetName(), c.hide.Load()); err != nil {
		return nil, err
	}
	return &kmspb.PublicKey{
		Name: googleKey, Algorithm: kmspb.CryptoKeyVersion_EC_SIGN_P256_SHA256,
		Pem: string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: c.public()})),
	}, nil
}

func (c *clouds) AsymmetricSign(ctx context.Context, r *kmspb.AsymmetricSignRequest) (*kmspb.AsymmetricSignResponse, error) {
	if err := c.google(ctx, r.GetName(), c.refuse.Load()); err != nil {
		return nil, err
	}
	signature, err := c.sign(r.GetDigest().GetSha256())
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	return &kmspb.AsymmetricSignResponse{Name: googleKey, Signature: signature}, nil
}

// azure is Key Vault: it says where to log in, and wants the token from there.
func (c *clouds) azure(w http.ResponseWriter, r *http.Request) {
	const kid = "https://" + azureHost + "/keys/ssh-ca/0123456789abcdef0123456789abcdef"
	denied := map[string]any{"error": map[string]string{"code": "Forbidden", "message": "Caller is not authorized to perform action on resource"}}
	part := func(i *big.Int) string { return base64.RawURLEncoding.EncodeToString(i.FillBytes(make([]byte, 32))) }
	switch r.Method + " " + r.URL.Path {
	case "GET /keys/ssh-ca/0123456789abcdef0123456789abcdef", "POST /keys/ssh-ca/0123456789abcdef0123456789abcdef/sign":
	default:
		c.t.Errorf("Azure: %s %s", r.Method, r.URL)
		http.NotFound(w, r)
		return
	}
	switch {
	case r.Header.Get("Authorization") == "":
		w.Header().Set("WWW-Authenticate", `Bearer authorization="https://`+azureLogin+`/11111111-2222-3333-4444-555555555555", resource="https://vault.azure.net"`)
		answer(w, 401, denied)
	case r.Header.Get("Authorization") != "Bearer azure-t0ken":
		c.t.Errorf("Azure: token %q", r.Header.Get("Authorization"))
		answer(w, 401, denied)
	case r.Method == http.MethodGet && c.hide.Load(), r.Method == http.MethodPost && c.refuse.Load():
		answer(w, 403, denied)
	case r.Method == http.MethodGet:
		answer(w, 200, map[string]any{"key": map[string]any{"kid": kid, "kty": "EC", "crv": "P-256", "key_ops": []string{"sign"}, "x": part(c.key.X), "y": part(c.key.Y)}})
	default:
		var in struct{ Alg, Value string }
		err := json.NewDecoder(r.Body).Decode(&in)
		digest, bad := base64.RawURLEncoding.DecodeString(in.Value)
		if err != nil || bad != nil || in.Alg != "ES256" {
			c.t.Errorf("Azure: sign %+v, %v, %v", in, err, bad)
		}
		signature, err := c.sign(digest)
		if err != nil {
			c.t.Error(err)
		}
		var rs struct{ R, S *big.Int }
		if _, err := asn1.Unmarshal(signature, &rs); err != nil {
			c.t.Error(err)
		}
		answer(w, 200, map[string]string{"kid": kid, "value": base64.RawURLEncoding.EncodeToString(append(rs.R.FillBytes(make([]byte, 32)), rs.S.FillBytes(make([]byte, 32))...))})
	}
}

func (c *clouds) azureLogin(w http.ResponseWriter, r *http.Request) {
	const tenant = "https://" + azureLogin + "/11111111-2222-3333-4444-555555555555"
	switch {
	case strings.HasSuffix(r.URL.Path, "/discovery/instance"):
		answer(w, 200, map[string]any{"tenant_discovery_endpoint": tenant + "/v2.0/.well-known/openid-configuration", "api-version": "1.1", "metadata": []any{
			map[string]any{"preferred_network": azureLogin, "preferred_cache": azureLogin, "aliases": []string{azureLogin}},
		}})
	case strings.HasSuffix(r.URL.Path, "/openid-configuration"):
		answer(w, 200, map[string]string{"issuer": tenant + "/v2.0", "authorization_endpoint": tenant + "/oauth2/v2.0/authorize", "token_endpoint": tenant + "/oauth2/v2.0/token"})
	case strings.HasSuffix(r.URL.Path, "/token"):
		if err := r.ParseForm(); err != nil || r.PostForm.Get("client_secret") != "azure-s3cr3t" {
			answer(w, 401, map[string]string{"error": "invalid_client", "error_description": "AADSTS7000215: Invalid client secret provided."})
			return
		}
		answer(w, 200, map[string]any{"token_type": "Bearer", "expires_in": 3600, "ext_expires_in": 3600, "access_token": "azure-t0ken"})
	default:
		c.t.Errorf("Azure's login: %s", r.URL)
		http.NotFound(w, r)
	}
}

// serve starts it all, and gives what a process needs to end up here.
func (c *clouds) serve() (env []string) {
	t := c.t
	t.Helper()
	tlsKey := newP256(t)
	names := []string{awsHost, googleHost, googleToken, azureHost, azureLogin}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "clouds"}, DNSNames: names,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, tlsKey.Public(), tlsKey)
	if err != nil {
		t.Fatal(err)
	}
	roots := filepath.Join(t.TempDir(), "roots.pem")
	if err := os.WriteFile(roots, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	c.grpc = grpc.NewServer()
	kmspb.RegisterKeyManagementServiceServer(c.grpc, c)
	server := httptest.NewUnstartedServer(c)
	server.EnableHTTP2 = true
	server.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: tlsKey}}}
	server.StartTLS()
	t.Cleanup(server.Close)
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host, _, err := net.SplitHostPort(r.Host)
		if r.Method != http.MethodConnect || err != nil || !strings.Contains(strings.Join(names, " "), host) {
			t.Errorf("the proxy is asked for %s %s", r.Method, r.Host)
			w.WriteHeader(http.StatusForbidden)
			return
		}
		to, err := net.Dial("tcp", server.Listener.Addr().String())
		if err != nil {
			t.Error(err)
			return
		}
		defer func() { _ = to.Close() }()
		from, rest, err := w.(http.Hijacker).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer func() { _ = from.Close() }()
		_, _ = io.WriteString(from, "HTTP/1.1 200 OK\r\n\r\n")
		var both sync.WaitGroup
		both.Go(func() { _, _ = io.Copy(to, rest); _ = to.Close() })
		both.Go(func() { _, _ = io.Copy(from, to); _ = from.Close() })
		both.Wait()
	}))
	t.Cleanup(proxy.CloseClientConnections)
	return []string{"HTTPS_PROXY=" + proxy.URL, "SSL_CERT_FILE=" + roots, "SSL_CERT_DIR=/nowhere"}
}

// serviceAccount is a credentials file of Google.
func serviceAccount(t *testing.T) string {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	data, err := json.Marshal(map[string]string{
		"type": "service_account", "project_id": "p", "private_key_id": "1", "client_email": "issuer@p.iam.gserviceaccount.com", "client_id": "1",
		"token_uri": "https://" + googleToken + "/token", "private_key": string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})),
	})
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "account.json")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// The SDKs speak to each cloud as it wants to be spoken to: a key is found and
// signs; what the cloud says when it refuses is what the issuer hears.
func TestClouds(t *testing.T) {
	for _, tt := range []struct {
		name, uri, denied string
		env               []string
		wrong             []string // credentials
		turned            string   // away with them
	}{
		{"AWS", "awskms:key-id=1234abcd-12ab-34cd-56ef-1234567890ab?region=eu-central-1", "AccessDeniedException",
			[]string{"AWS_ACCESS_KEY_ID=AKIDEXAMPLE", "AWS_SECRET_ACCESS_KEY=aws-s3cr3t", "AWS_EC2_METADATA_DISABLED=true"},
			[]string{"AWS_EC2_METADATA_DISABLED=true"}, "credentials"},
		{"Google", "cloudkms:" + googleKey + "?credentials-file=" + serviceAccount(t), "PermissionDenied", nil, nil, ""},
		{"Azure", "azurekms:vault=ours;name=ssh-ca?version=0123456789abcdef0123456789abcdef", "Forbidden",
			[]string{"AZURE_TENANT_ID=11111111-2222-3333-4444-555555555555", "AZURE_CLIENT_ID=issuer", "AZURE_CLIENT_SECRET=azure-s3cr3t"},
			[]string{"AZURE_TENANT_ID=11111111-2222-3333-4444-555555555555", "AZURE_CLIENT_ID=issuer", "AZURE_CLIENT_SECRET=azure-wrong"}, "AADSTS7000215"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c := &clouds{t: t, key: newP256(t)}
			there := c.serve()
			env := append(tt.env, there...)
			key, err := ssh.NewPublicKey(c.key.Public())
			if err != nil {
				t.Fatal(err)
			}
			p := start(t, env, "-user-ca", tt.uri)
			p.keys(1)
			p.signsCertificates(key)

			c.refuse.Store(true)
			if _, err := p.sign(key, []byte(allow.Trial)); err == nil || !strings.Contains(err.Error(), tt.denied) {
				t.Errorf("refused: %v", err)
			}
			c.refuse.Store(false)
			c.other.Store(true)
			if _, err := p.sign(key, []byte(allow.Trial)); err == nil || !strings.Contains(err.Error(), "a signature that doesn't verify") {
				t.Errorf("another version of the key: %v", err)
			}
			c.other.Store(false)
			if _, err := p.sign(key, []byte(allow.Trial)); err != nil {
				t.Errorf("afterwards: %v", err)
			}

			// Refused from the start, whether it may see the key or not.
			for _, trouble := range []*atomic.Bool{&c.refuse, &c.hide} {
				trouble.Store(true)
				late := start(t, env, "-user-ca", tt.uri)
				late.until(func() bool { return strings.Contains(late.log(), tt.denied) })
				late.talk(func(a agent.ExtendedAgent) {
					if list, err := a.List(); err != nil || len(list) != 0 {
						t.Errorf("lists %v, %v", list, err)
					} else if said := why(a); !strings.Contains(said, "the SSH CA can't be opened") || !strings.Contains(said, tt.denied) {
						t.Errorf("it says %q", said)
					}
				})
				// An issuer that had the key before asks for a signature.
				if _, err := late.sign(key, []byte(allow.Trial)); err == nil || !strings.Contains(err.Error(), "the SSH CA can't be opened") || !strings.Contains(err.Error(), tt.denied) {
					t.Errorf("signing, it says %v", err)
				}
				trouble.Store(false)
				late.keys(1) // by itself
			}
			if tt.wrong != nil {
				late := start(t, append(tt.wrong, there...), "-user-ca", tt.uri)
				late.until(func() bool { return strings.Contains(late.log(), tt.turned) })
				if strings.Contains(late.log(), "azure-wrong") {
					t.Error("the secret is in the log")
				}
			}
			if strings.Contains(p.log(), "s3cr3t") {
				t.Error("the secret is in the log")
			}
		})
	}
}
