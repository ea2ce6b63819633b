package vaulttest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"
)

// Tokens signs JSON Web Tokens (RFC 7519, ES256), as an identity provider
// does.
type Tokens struct{ key *ecdsa.PrivateKey }

func newTokens(t testing.TB) Tokens {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return Tokens{key}
}

// Sign makes a token of claims.
func (k Tokens) Sign(t testing.TB, claims map[string]any) string {
	t.Helper()
	part := func(v any) string {
		data, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return base64.RawURLEncoding.EncodeToString(data)
	}
	signed := part(map[string]any{"alg": "ES256", "typ": "JWT"}) + "." + part(claims)
	digest := sha256.Sum256([]byte(signed))
	r, s, err := ecdsa.Sign(rand.Reader, k.key, digest[:])
	if err != nil {
		t.Fatal(err)
	}
	signature := make([]byte, 64)
	r.FillBytes(signature[:32])
	s.FillBytes(signature[32:])
	return signed + "." + base64.RawURLEncoding.EncodeToString(signature)
}

// public is the key that tokens are verified with, in PEM.
func (k Tokens) public(t testing.TB) string {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(k.key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
}

// JWT is a login with tokens that somebody signs.
type JWT struct {
	Tokens
	subject string
}

// NewJWT enables login with JSON Web Tokens, for one role and one subject.
func (s *Server) NewJWT(t testing.TB, mount, role string, policies ...string) *JWT {
	t.Helper()
	j := &JWT{Tokens: newTokens(t), subject: role + "-subject"}
	s.EnableAuth(t, mount, "jwt")
	s.Write(t, "auth/"+mount+"/config", map[string]any{"jwt_validation_pubkeys": []string{j.public(t)}})
	s.Write(t, "auth/"+mount+"/role/"+role, map[string]any{
		"role_type":       "jwt",
		"user_claim":      "sub",
		"bound_subject":   j.subject,
		"bound_audiences": []string{"vault"},
		"token_policies":  policies,
	})
	return j
}

// Token is one that the role takes until a time.
func (j *JWT) Token(t testing.TB, until time.Time) string {
	t.Helper()
	return j.Sign(t, map[string]any{"sub": j.subject, "aud": []string{"vault"}, "iat": time.Now().Unix(), "exp": until.Unix()})
}

// Kubernetes is a login with the token of a service account. Vault asks the
// cluster about each; this one is a few lines that answer that question and no
// other.
type Kubernetes struct {
	// JWT is the service account's token, as it would be in a pod.
	JWT string

	deleted atomic.Bool
}

// NewKubernetes enables login with Kubernetes, for one role and one service
// account.
func (s *Server) NewKubernetes(t testing.TB, mount, role string, policies ...string) *Kubernetes {
	t.Helper()
	const namespace, account, uid = "hallpass", "issuer", "0b2c7c0e-6b0c-4b4f-9f3e-1c8a8f7d2a51"
	k := &Kubernetes{JWT: newTokens(t).Sign(t, map[string]any{
		"sub": "system:serviceaccount:" + namespace + ":" + account,
		"aud": []string{"vault"},
		"kubernetes.io": map[string]any{
			"namespace":      namespace,
			"serviceaccount": map[string]any{"name": account, "uid": uid},
		},
	})}
	cluster := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var review struct {
			Spec struct {
				Token     string   `json:"token"`
				Audiences []string `json:"audiences"`
			} `json:"spec"`
		}
		if r.URL.Path != "/apis/authentication.k8s.io/v1/tokenreviews" || json.NewDecoder(r.Body).Decode(&review) != nil {
			http.NotFound(w, r)
			return
		}
		status := map[string]any{"authenticated": false}
		if review.Spec.Token == k.JWT && !k.deleted.Load() {
			status = map[string]any{
				"authenticated": true,
				"audiences":     review.Spec.Audiences,
				"user":          map[string]any{"username": "system:serviceaccount:" + namespace + ":" + account, "uid": uid},
			}
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(map[string]any{"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "status": status})
	}))
	t.Cleanup(cluster.Close)
	s.EnableAuth(t, mount, "kubernetes")
	s.Write(t, "auth/"+mount+"/config", map[string]any{
		"kubernetes_host":      cluster.URL,
		"disable_local_ca_jwt": true,
	})
	s.Write(t, "auth/"+mount+"/role/"+role, map[string]any{
		"bound_service_account_names":      account,
		"bound_service_account_namespaces": namespace,
		"audience":                         "vault",
		"token_policies":                   policies,
	})
	return k
}

// Delete deletes the service account: its token is worth nothing any more.
func (k *Kubernetes) Delete() { k.deleted.Store(true) }
