package transit

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"hallpass/access"
	"hallpass/ca"
	"hallpass/ca/krl"
	"hallpass/testsuite/sshdtest"
	"hallpass/testsuite/vaulttest"
	"hallpass/vault"
)

const requestID = "01a208c2-2714-789d-b005-896d7398c640"

// issuer makes a key in Vault and logs in as somebody who can use it, and do
// nothing else, by what ca.TransitSetup says.
func issuer(t testing.TB, s *vaulttest.Server, typ string) (ca.TransitKey, *vault.Client) {
	t.Helper()
	k := ca.TransitKey{Mount: "transit", Name: "ca-" + typ, Version: 1}
	script := ca.TransitSetup(k, typ)
	if !strings.Contains(script, "\nvault write -f 'transit/keys/"+k.Name+"' type='"+typ+"'\n") {
		t.Fatal(script)
	}
	s.Write(t, "transit/keys/"+k.Name, map[string]any{"type": typ})
	_, policy, _ := strings.Cut(script, "<<'EOF'\n")
	policy, _, _ = strings.Cut(policy, "EOF\n")
	s.Policy(t, "hallpass-ssh-ca-"+typ, policy)
	s.Write(t, "auth/approle/role/"+k.Name, map[string]any{"token_policies": "hallpass-ssh-ca-" + typ, "token_no_default_policy": true, "token_ttl": "1h"})
	id, err := s.Client(t).Logical().Read("auth/approle/role/" + k.Name + "/role-id")
	if err != nil {
		t.Fatal(err)
	}
	secret := s.Write(t, "auth/approle/role/"+k.Name+"/secret-id", nil)
	file := filepath.Join(t.TempDir(), "secret_id")
	if err := os.WriteFile(file, []byte(secret.Data["secret_id"].(string)), 0o600); err != nil {
		t.Fatal(err)
	}
	return k, client(t, vault.Config{Address: s.Address, Auth: vault.AppRole, RoleID: id.Data["role_id"].(string), SecretIDFile: file})
}

func client(t testing.TB, c vault.Config) *vault.Client {
	t.Helper()
	v, err := vault.New(c)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// start runs a Vault with the engine and a way to log in.
func start(t testing.TB, c vaulttest.Config) *vaulttest.Server {
	t.Helper()
	s := vaulttest.Start(t, c)
	s.Mount(t, "transit", "transit")
	s.EnableAuth(t, "approle", "approle")
	return s
}

func open(t testing.TB, v ca.Vault, source string) *ca.CA {
	t.Helper()
	signer, err := ca.Open(source, ca.OpenOptions{Vault: v})
	if err != nil {
		t.Fatal(err)
	}
	authority, err := ca.New(signer, nil)
	if err != nil {
		t.Fatal(err)
	}
	return authority
}

func spec(key ssh.PublicKey, user string, serial uint64) ca.Spec {
	now := time.Now().UTC().Truncate(time.Second)
	return ca.Spec{
		Request: requestID, Requester: "alice", Principals: []string{"web-1/" + user}, PublicKey: key, Serial: serial,
		NotBefore: now, NotAfter: now.Add(10 * time.Minute),
	}
}

func issue(authority *ca.CA, s ca.Spec) (*ssh.Certificate, error) {
	p, err := authority.Prepare(s)
	if err != nil {
		return nil, err
	}
	return authority.Issue(p)
}

// A key of each type that never left Vault opens a real sshd, and signs
// revocation lists that hosts take.
func TestLogin(t *testing.T) {
	s := start(t, vaulttest.Config{Memory: true})
	user := sshdtest.User(t)
	keyFile, key := sshdtest.NewKey(t)
	for _, typ := range ca.TransitTypes() {
		t.Run(typ, func(t *testing.T) {
			k, v := issuer(t, s, typ)
			authority := open(t, v, k.String())
			host := sshdtest.Start(t, sshdtest.Config{
				CA: []ssh.PublicKey{authority.PublicKey()}, Principals: map[string][]string{user: {"web-1/" + user}},
			})
			cert, err := issue(authority, spec(key, user, 7))
			if err != nil {
				t.Fatal(err)
			}
			if r := host.Login(t, keyFile, sshdtest.WriteCert(t, cert), "true"); !r.OK() {
				t.Errorf("%v\n%s", r, host.Log(t))
			}
			list := krl.List{Version: 1, Generated: time.Now().UTC().Truncate(time.Second), CAs: []krl.CA{{Key: authority.PublicKey(), Ranges: krl.Join(7)}}}
			data, err := list.Marshal()
			if err != nil {
				t.Fatal(err)
			}
			signature, err := authority.SignKRL(data)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := krl.Open(data, signature, []ssh.PublicKey{authority.PublicKey()}); err != nil {
				t.Error(err)
			}
			_, other := sshdtest.NewKey(t)
			if _, err := krl.Open(data, signature, []ssh.PublicKey{other}); err == nil {
				t.Error("the list is another CA's as well")
			}
		})
	}
}

// Rotating the key in Vault changes nothing for hosts: the version is pinned.
func TestRotated(t *testing.T) {
	s := start(t, vaulttest.Config{Memory: true})
	k, v := issuer(t, s, "ed25519")
	_, key := sshdtest.NewKey(t)
	before := open(t, v, "vault:transit/"+k.Name)
	s.Write(t, "transit/keys/"+k.Name+"/rotate", nil)
	if _, err := issue(before, spec(key, "root", 1)); err != nil {
		t.Error(err)
	}
	if again := open(t, v, "vault:transit/"+k.Name); again.Fingerprint() != before.Fingerprint() {
		t.Error("after the rotation it is another CA")
	}
	second := open(t, v, "vault:transit/"+k.Name+"@2")
	if second.Fingerprint() == before.Fingerprint() {
		t.Error("the second version is the first")
	}
	if _, err := issue(second, spec(key, "root", 1)); err != nil {
		t.Error(err)
	}
	// A version that Vault no longer signs with is no CA any more, loudly.
	s.Write(t, "transit/keys/"+k.Name+"/config", map[string]any{"min_encryption_version": 2})
	if _, err := issue(before, spec(key, "root", 2)); access.CodeOf(err) != access.CodeUnavailable {
		t.Error(err)
	}
}

// While Vault is sealed nothing is signed, and afterwards it goes on.
func TestSealed(t *testing.T) {
	s := start(t, vaulttest.Config{})
	k, v := issuer(t, s, "ecdsa-p256")
	_, key := sshdtest.NewKey(t)
	authority := open(t, v, k.String())
	s.Seal(t)
	if _, err := issue(authority, spec(key, "root", 1)); access.CodeOf(err) != access.CodeUnavailable {
		t.Error(err)
	}
	s.Unseal(t)
	if _, err := issue(authority, spec(key, "root", 1)); err != nil {
		t.Error(err)
	}
	s.Kill()
	if _, err := issue(authority, spec(key, "root", 1)); access.CodeOf(err) != access.CodeUnavailable {
		t.Error(err)
	}
}

// A key that can be taken out of Vault, or that doesn't sign, is refused; and
// the issuer's policy lets it do nothing but sign.
func TestRefused(t *testing.T) {
	s := start(t, vaulttest.Config{Memory: true})
	root := client(t, vault.Config{Address: s.Address, Token: s.RootToken})
	for name, c := range map[string]struct {
		body map[string]any
		want string
	}{
		"exportable": {map[string]any{"type": "ed25519", "exportable": true}, "it can be taken out of Vault (exportable)"},
		"backup":     {map[string]any{"type": "ed25519", "allow_plaintext_backup": true}, "it can be taken out of Vault (allow_plaintext_backup)"},
		"aes":        {map[string]any{"type": "aes256-gcm96"}, `it has the type "aes256-gcm96"`},
		"small":      {map[string]any{"type": "rsa-2048"}, `it has the type "rsa-2048"`},
		"p521":       {map[string]any{"type": "ecdsa-p521"}, `it has the type "ecdsa-p521"`},
	} {
		s.Write(t, "transit/keys/"+name, c.body)
		if _, err := ca.Open("vault:transit/"+name, ca.OpenOptions{Vault: root}); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %s", name, err, c.want)
		}
	}
	if _, err := ca.Open("vault:transit/none", ca.OpenOptions{Vault: root}); err == nil || !strings.Contains(err.Error(), "there is no such key in Vault") {
		t.Error(err)
	}
	k, v := issuer(t, s, "ed25519")
	for _, path := range []string{"transit/keys/" + k.Name + "/rotate", "transit/keys/" + k.Name + "/config", "transit/keys/another", "transit/sign/small"} {
		if _, err := v.Write(t.Context(), path, map[string]any{"input": "eA==", "exportable": true}); err == nil {
			t.Errorf("the issuer may write %s", path)
		}
	}
}

// BenchmarkIssue compares certificates by keys in Vault with ones by keys in
// this process.
func BenchmarkIssue(b *testing.B) {
	s := start(b, vaulttest.Config{Memory: true})
	_, key := sshdtest.NewKey(b)
	local := func(private any, err error) *ca.CA {
		if err != nil {
			b.Fatal(err)
		}
		signer, err := ssh.NewSignerFromKey(private)
		if err != nil {
			b.Fatal(err)
		}
		authority, err := ca.New(signer, nil)
		if err != nil {
			b.Fatal(err)
		}
		return authority
	}
	for _, typ := range ca.TransitTypes() {
		k, v := issuer(b, s, typ)
		var inProcess *ca.CA
		switch typ {
		case "ed25519":
			_, private, err := ed25519.GenerateKey(rand.Reader)
			inProcess = local(private, err)
		case "ecdsa-p256":
			inProcess = local(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
		case "ecdsa-p384":
			inProcess = local(ecdsa.GenerateKey(elliptic.P384(), rand.Reader))
		case "rsa-4096":
			inProcess = local(rsa.GenerateKey(rand.Reader, 4096))
		}
		for where, authority := range map[string]*ca.CA{"transit": open(b, v, k.String()), "local": inProcess} {
			b.Run(typ+"/"+where, func(b *testing.B) {
				for b.Loop() {
					if _, err := issue(authority, spec(key, "root", 1)); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

// What docs/decisions/0006-not-vaults-ssh-engine.md rests on: the engine
// chooses the serial, another one each time, whatever it is asked for.
func TestEngineChoosesTheSerial(t *testing.T) {
	s := vaulttest.Start(t, vaulttest.Config{Memory: true})
	s.Mount(t, "ssh-client-signer", "ssh")
	s.Write(t, "ssh-client-signer/config/ca", map[string]any{"generate_signing_key": true, "key_type": "ed25519"})
	s.Write(t, "ssh-client-signer/roles/hallpass", map[string]any{
		"key_type": "ca", "allow_user_certificates": true, "allowed_users": "*", "allow_user_key_ids": true, "allowed_extensions": "permit-pty",
	})
	_, key := sshdtest.NewKey(t)
	serials := map[uint64]bool{}
	for range 4 {
		r := s.Write(t, "ssh-client-signer/sign/hallpass", map[string]any{
			"public_key": string(ssh.MarshalAuthorizedKey(key)), "valid_principals": "web-1/deploy", "key_id": "hallpass:" + requestID + ":alice",
			"serial_number": "7", "serial": 7, "ttl": "600s",
		})
		parsed, _, _, _, err := ssh.ParseAuthorizedKey([]byte(r.Data["signed_key"].(string)))
		if err != nil {
			t.Fatal(err)
		}
		cert, ok := parsed.(*ssh.Certificate)
		if !ok || cert.Serial == 7 || cert.KeyId != "hallpass:"+requestID+":alice" {
			t.Errorf("%+v", parsed)
			continue
		}
		serials[cert.Serial] = true
	}
	if len(serials) != 4 {
		t.Errorf("serials %v", serials)
	}
}
