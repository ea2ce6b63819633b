package ca

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"net/url"
	pathpkg "path"
	"slices"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"

	"hallpass/access"
)

// vault is as much of Vault as a transit key needs; testsuite/vaulttest/transit
// tries the real one.
type vault struct {
	private crypto.Signer
	key     map[string]any // as Vault describes it; nil: there is none
	version int            // of signatures
	spoil   func(signature []byte) []byte
	err     error
	asked   map[string]any
}

func newVault(t testing.TB, typ string) *vault {
	t.Helper()
	v := &vault{version: 1}
	var err error
	public := ""
	switch typ {
	case "ecdsa-p256":
		v.private, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case "ecdsa-p384":
		v.private, err = ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case "rsa-4096": // smaller, for it takes long to make
		v.private, err = rsa.GenerateKey(rand.Reader, 3072)
	default:
		var key ed25519.PrivateKey
		_, key, err = ed25519.GenerateKey(rand.Reader)
		v.private, public = key, base64.StdEncoding.EncodeToString(key.Public().(ed25519.PublicKey))
	}
	if err != nil {
		t.Fatal(err)
	}
	if public == "" {
		der, err := x509.MarshalPKIXPublicKey(v.private.Public())
		if err != nil {
			t.Fatal(err)
		}
		public = string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
	}
	v.key = map[string]any{
		"type": typ, "exportable": false, "allow_plaintext_backup": false,
		"keys": map[string]any{"1": map[string]any{"public_key": public}},
	}
	return v
}

func (v *vault) Read(_ context.Context, path string) (map[string]any, error) {
	if path != "transit/keys/ca" {
		return nil, nil
	}
	return v.key, v.err
}

func (v *vault) Write(_ context.Context, path string, body map[string]any) (map[string]any, error) {
	if v.err != nil || path != "transit/sign/ca" {
		return nil, errors.Join(v.err, errors.New(path))
	}
	v.asked = body
	input, err := base64.StdEncoding.DecodeString(body["input"].(string))
	if err != nil {
		return nil, err
	}
	hash := crypto.Hash(0)
	if body["prehashed"] == true {
		hash = map[string]crypto.Hash{"sha2-256": crypto.SHA256, "sha2-384": crypto.SHA384, "sha2-512": crypto.SHA512}[body["hash_algorithm"].(string)]
	}
	signature, err := v.private.Sign(rand.Reader, input, hash)
	if err != nil {
		return nil, err
	}
	if v.spoil != nil {
		signature = v.spoil(signature)
	}
	return map[string]any{"signature": fmt.Sprintf("vault:v%d:%s", v.version, base64.StdEncoding.EncodeToString(signature))}, nil
}

func TestTransit(t *testing.T) {
	for typ, want := range map[string]map[string]any{
		"ed25519":    {},
		"ecdsa-p256": {"prehashed": true, "hash_algorithm": "sha2-256", "marshaling_algorithm": "asn1"},
		"ecdsa-p384": {"prehashed": true, "hash_algorithm": "sha2-384", "marshaling_algorithm": "asn1"},
		"rsa-4096":   {"prehashed": true, "hash_algorithm": "sha2-512", "signature_algorithm": "pkcs1v15"},
	} {
		t.Run(typ, func(t *testing.T) {
			v := newVault(t, typ)
			signer, err := Open("vault:transit/ca", OpenOptions{Vault: v})
			if err != nil {
				t.Fatal(err)
			}
			issueOne(t, signer)
			want["key_version"], want["input"] = 1, v.asked["input"]
			if !maps.Equal(v.asked, want) {
				t.Errorf("asked for %v, want %v", v.asked, want)
			}
		})
	}
}

func TestTransitRefused(t *testing.T) {
	for _, tt := range []struct {
		name, source string
		edit         func(v *vault)
		want         string
	}{
		{"no login", "vault:transit/ca", nil, "CA key vault:transit/ca@1 is in Vault, and no login to Vault is configured (issuers.vault)"},
		{"no such key", "vault:transit/other", func(*vault) {}, "CA key vault:transit/other@1: there is no such key in Vault; hallpass ca init vault:transit/other@1 says how to make one"},
		{"no such version", "vault:transit/ca@2", func(*vault) {}, "CA key vault:transit/ca@2: it has no version 2"},
		{"down", "vault:transit/ca", func(v *vault) { v.err = errors.New("sealed") }, "CA key vault:transit/ca@1: sealed"},
		{"exportable", "vault:transit/ca", func(v *vault) { v.key["exportable"] = true }, "CA key vault:transit/ca@1: it can be taken out of Vault (exportable): make one that can't"},
		{"backup", "vault:transit/ca", func(v *vault) { v.key["allow_plaintext_backup"] = true }, "CA key vault:transit/ca@1: it can be taken out of Vault (allow_plaintext_backup): make one that can't"},
		{"nobody says", "vault:transit/ca", func(v *vault) { delete(v.key, "exportable") }, "CA key vault:transit/ca@1: it can be taken out of Vault (exportable): make one that can't"},
		{"encrypts", "vault:transit/ca", func(v *vault) { v.key["type"], v.key["keys"] = "aes256-gcm96", map[string]any{"1": 17} },
			`CA key vault:transit/ca@1: it has the type "aes256-gcm96"; it has to be one of ed25519, ecdsa-p256, ecdsa-p384, rsa-4096`},
		{"no public key", "vault:transit/ca", func(v *vault) { v.key["keys"] = map[string]any{"1": map[string]any{}} }, "CA key vault:transit/ca@1: vault gives no Ed25519 public key for it"},
		{"no PEM", "vault:transit/ca", func(v *vault) { v.key["type"] = "rsa-4096" }, "CA key vault:transit/ca@1: vault gives no public key for it"},
		{"no version 0", "vault:transit/ca@0", func(*vault) {}, `CA key source "vault:transit/ca@0" is not vault:MOUNT/KEY or vault:MOUNT/KEY@VERSION`},
		{"no mount", "vault:ca", func(*vault) {}, `CA key source "vault:ca" is not vault:MOUNT/KEY or vault:MOUNT/KEY@VERSION`},
		{"up and away", "vault:transit/../ca", func(*vault) {}, `CA key source "vault:transit/../ca" is not vault:MOUNT/KEY or vault:MOUNT/KEY@VERSION`},
		{"nothing", "vault:", func(*vault) {}, `CA key source "vault:" is not vault:MOUNT/KEY or vault:MOUNT/KEY@VERSION`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var o OpenOptions
			if tt.edit != nil {
				v := newVault(t, "ed25519")
				tt.edit(v)
				o.Vault = v
			}
			if _, err := Open(tt.source, o); err == nil || err.Error() != tt.want {
				t.Errorf("got  %v\nwant %s", err, tt.want)
			}
		})
	}
}

func TestParseTransitKey(t *testing.T) {
	for source, want := range map[string]TransitKey{
		"vault:transit/ca":            {"transit", "ca", 1},
		"vault:transit/ca@12":         {"transit", "ca", 12},
		"vault:team/a/transit/ssh.ca": {"team/a/transit", "ssh.ca", 1},
	} {
		if got, err := ParseTransitKey(source); err != nil || got != want {
			t.Errorf("%s: %+v, %v", source, got, err)
		}
	}
}

// What Vault signs wrongly, or with another version of the key, isn't let out.
func TestTransitSignsWrongly(t *testing.T) {
	for name, tt := range map[string]struct {
		edit func(v *vault)
		want string
	}{
		"down":            {func(v *vault) { v.err = errors.New("vault is sealed") }, "vault is sealed"},
		"another version": {func(v *vault) { v.version = 2 }, "vault gives no signature of that version"},
		"another key":     {func(v *vault) { v.private = newVault(t, "ed25519").private }, "a signature that doesn't verify"},
		"nonsense":        {func(v *vault) { v.spoil = func([]byte) []byte { return []byte("x") } }, "a signature that doesn't verify"},
	} {
		t.Run(name, func(t *testing.T) {
			v := newVault(t, "ed25519")
			signer, err := Open("vault:transit/ca@1", OpenOptions{Vault: v})
			if err != nil {
				t.Fatal(err)
			}
			tt.edit(v)
			if _, err := tryIssue(t, signer); access.CodeOf(err) != access.CodeUnavailable || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%v, want %s", err, tt.want)
			}
		})
	}
}

// A key source says one path in Vault, and itself when it is written again.
func FuzzParseTransitKey(f *testing.F) {
	f.Add("vault:transit/ssh-ca@3")
	f.Add("vault:a/b/c.d")
	f.Add("vault:transit/..@0")
	f.Add("vault:transit/a%2fb\n@1")
	f.Fuzz(func(t *testing.T, source string) {
		k, err := ParseTransitKey(source)
		if err != nil {
			return
		}
		again, err := ParseTransitKey(k.String())
		if err != nil || again != k || k.Version < 1 {
			t.Errorf("%q is %+v, and then %+v: %v", source, k, again, err)
		}
		path := k.Mount + "/keys/" + k.Name
		if to, err := url.Parse("https://vault.example.com/v1/" + path); err != nil || to.EscapedPath() != "/v1/"+path || pathpkg.Clean("/v1/"+path) != "/v1/"+path {
			t.Errorf("%q leads to %v: %v", source, to, err)
		}
	})
}

// FuzzTransitAnswers: what Vault says of a key is the key of a CA, or none; and a
// certificate isn't issued with what is no signature, whatever Vault says.
func FuzzTransitAnswers(f *testing.F) {
	for _, typ := range TransitTypes()[:3] {
		data, err := json.Marshal(newVault(f, typ).key)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data, []byte(`{"signature":"vault:v1:AAAA"}`))
	}
	whole := newVault(f, "ed25519")
	f.Fuzz(func(t *testing.T, described, signed []byte) {
		var key, answer map[string]any
		_ = json.Unmarshal(described, &key)
		_ = json.Unmarshal(signed, &answer)
		k := TransitKey{"transit", "ca", 1}
		public, err := k.public(key)
		if err != nil && access.CheckText("error", err.Error(), 1000) != nil {
			t.Errorf("of %q is said: %q", described, err)
		}
		if err == nil {
			public, err := ssh.NewPublicKey(public)
			if err != nil || !slices.Contains([]string{ssh.KeyAlgoED25519, ssh.KeyAlgoECDSA256, ssh.KeyAlgoECDSA384, ssh.KeyAlgoRSA}, public.Type()) {
				t.Errorf("%q is a key of type %v: %v", described, public, err)
			}
			if key["exportable"] != false || key["allow_plaintext_backup"] != false {
				t.Errorf("%q can be taken out of Vault", described)
			}
		}
		says := &answering{whole, answer}
		signer, err := Open("vault:transit/ca", OpenOptions{Vault: says})
		if err != nil {
			t.Fatal(err)
		}
		if cert, err := tryIssue(t, signer); err == nil { // which has a nonce: what was said before is no signature of it
			t.Errorf("signed by %q: %v", signed, cert)
		} else if access.CheckText("error", err.Error(), 1000) != nil {
			t.Errorf("of %q is said: %q", signed, err)
		}
	})
}

// answering is a Vault that always signs in the same way.
type answering struct {
	*vault
	answer map[string]any
}

func (v *answering) Write(context.Context, string, map[string]any) (map[string]any, error) {
	return v.answer, nil
}
