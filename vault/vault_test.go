package vault_test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"

	"hallpass/access"
	"hallpass/testsuite/vaulttest"
	"hallpass/vault"
)

// eventually polls until what is wanted is the case.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(patience)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline:
			t.Fatalf("still not, after %s: %s", patience, what)
		case <-tick.C:
		}
	}
}

// Every way to log in works, and is refused with a wrong secret.
func TestLogin(t *testing.T) {
	t.Parallel()
	s := vaulttest.Start(t, vaulttest.Config{TLS: true})
	s.Policy(t, vault.IssuerPolicy(vault.DefaultTokenRole), `path "auth/token/lookup-self" { capabilities = ["read"] }`)
	token := s.NewJWT(t, "jwt", "issuer", vault.IssuerPolicy(vault.DefaultTokenRole)).Token(t, time.Now().Add(time.Hour))
	cluster := s.NewKubernetes(t, "kubernetes", "issuer", vault.IssuerPolicy(vault.DefaultTokenRole))
	s.EnableAuth(t, "team/approle", "approle")
	s.Write(t, "auth/team/approle/role/hallpass", map[string]any{"token_policies": vault.IssuerPolicy(vault.DefaultTokenRole)})
	id, err := s.Client(t).Logical().Read("auth/team/approle/role/hallpass/role-id")
	if err != nil {
		t.Fatal(err)
	}
	secret := s.Write(t, "auth/team/approle/role/hallpass/secret-id", nil).Data["secret_id"].(string)
	s.EnableAuth(t, "cert", "cert")
	cert, err := os.ReadFile(s.CACert)
	if err != nil {
		t.Fatal(err)
	}
	s.Write(t, "auth/cert/certs/issuer", map[string]any{"certificate": string(cert), "token_policies": vault.IssuerPolicy(vault.DefaultTokenRole)})
	given, err := s.Client(t).Auth().Token().Create(&api.TokenCreateRequest{Policies: []string{vault.IssuerPolicy(vault.DefaultTokenRole)}, TTL: "1h"})
	if err != nil {
		t.Fatal(err)
	}
	key := filepath.Join(filepath.Dir(s.CACert), "key.pem")
	base := vault.Config{Address: s.Address, CA: s.CACert}
	with := func(change func(*vault.Config)) vault.Config {
		c := base
		change(&c)
		return c
	}
	for _, tt := range []struct {
		name   string
		config vault.Config
		want   string // of the error
	}{
		{"approle", with(func(c *vault.Config) {
			c.Auth, c.AuthMount, c.RoleID, c.SecretIDFile = vault.AppRole, "team/approle", id.Data["role_id"].(string), secretFile(t, secret)
		}), ""},
		{"approle, wrong secret", with(func(c *vault.Config) {
			c.Auth, c.AuthMount, c.RoleID, c.SecretIDFile = vault.AppRole, "team/approle", id.Data["role_id"].(string), secretFile(t, "wrong-secret")
		}), "log in to vault by approle: vault answers 400 to auth/team/approle/login: invalid role or secret ID"},
		{"approle elsewhere", with(func(c *vault.Config) {
			c.Auth, c.RoleID, c.SecretIDFile = vault.AppRole, id.Data["role_id"].(string), secretFile(t, secret)
		}), "log in to vault by approle: vault answers 403 to auth/approle/login: permission denied"},
		{"jwt", with(func(c *vault.Config) { c.Auth, c.Role, c.JWTFile = vault.JWT, "issuer", secretFile(t, token) }), ""},
		{"jwt, cut off", with(func(c *vault.Config) {
			c.Auth, c.Role, c.JWTFile = vault.JWT, "issuer", secretFile(t, token[:len(token)-20])
		}),
			"log in to vault by jwt: vault answers 400 to auth/jwt/login: "},
		{"kubernetes", with(func(c *vault.Config) {
			c.Auth, c.Role, c.JWTFile = vault.Kubernetes, "issuer", secretFile(t, cluster.JWT)
		}), ""},
		{"kubernetes, another's token", with(func(c *vault.Config) { c.Auth, c.Role, c.JWTFile = vault.Kubernetes, "issuer", secretFile(t, token) }),
			"log in to vault by kubernetes: vault answers "},
		{"kubernetes, elsewhere", with(func(c *vault.Config) { c.Auth, c.Role = vault.Kubernetes, "issuer" }),
			"log in to vault by kubernetes: stat /var/run/secrets/kubernetes.io/serviceaccount/token: no such file or directory"},
		{"cert", with(func(c *vault.Config) { c.Auth, c.CertFile, c.KeyFile = vault.Cert, s.CACert, key }), ""},
		{"cert, by role", with(func(c *vault.Config) { c.Auth, c.Role, c.CertFile, c.KeyFile = vault.Cert, "issuer", s.CACert, key }), ""},
		{"token", with(func(c *vault.Config) { c.Auth, c.TokenFile = vault.Token, secretFile(t, given.Auth.ClientToken) }), ""},
		{"token, wrong", with(func(c *vault.Config) { c.Auth, c.TokenFile = vault.Token, secretFile(t, "hvs.wrong") }),
			"log in to vault by token: vault answers 403 to auth/token/lookup-self: "},
		{"token, empty", with(func(c *vault.Config) { c.Auth, c.TokenFile = vault.Token, secretFile(t, "") }), "log in to vault by token: the first line of "},
		{"an operator's", with(func(c *vault.Config) { c.Token = given.Auth.ClientToken }), ""},
		{"no file", with(func(c *vault.Config) { c.Auth, c.RoleID, c.SecretIDFile = vault.AppRole, "x", "/nowhere" }), "log in to vault by approle: stat /nowhere: no such file or directory"},
		{"a CA that isn't trusted", with(func(c *vault.Config) { c.CA, c.Token = "", given.Auth.ClientToken }), "vault at " + s.Address + " has a certificate that isn't trusted: "},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := lookup(newClient(t, tt.config))
			switch {
			case tt.want == "" && err != nil:
				t.Error(err)
			case tt.want != "" && (err == nil || !strings.HasPrefix(err.Error(), tt.want)):
				t.Errorf("got  %v\nwant %s", err, tt.want)
			}
			if err != nil && (strings.Contains(err.Error(), "wrong-secret") || strings.Contains(err.Error(), token[:20]) || strings.Contains(err.Error(), "\n")) {
				t.Errorf("the error shows too much: %v", err)
			}
		})
	}
}

// A file that was replaced counts from the next login on, and one that others
// can read never does.
func TestFilesAreReadAnew(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	c := newClient(t, h.config)
	whoami(t, c)
	if err := os.WriteFile(h.config.SecretIDFile, []byte("wrong"), 0o600); err != nil {
		t.Fatal(err)
	}
	h.revoke(t, whoami(t, c))
	if _, err := lookup(c); err == nil {
		t.Error("logged in with the secret of before")
	}
	fresh := h.Write(t, "auth/approle/role/hallpass/secret-id", nil).Data["secret_id"].(string)
	if err := os.WriteFile(h.config.SecretIDFile, []byte(fresh), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := lookup(c); err != nil {
		t.Error(err)
	}
	h.revoke(t, whoami(t, c))
	if err := os.Chmod(h.config.SecretIDFile, 0o640); err != nil {
		t.Fatal(err)
	}
	if _, err := lookup(c); err == nil || !strings.Contains(err.Error(), "has mode 0640, so others can read it; run: chmod 600") {
		t.Error(err)
	}
}

func (h *house) revoke(t testing.TB, accessor string) {
	t.Helper()
	if err := h.Client(t).Auth().Token().RevokeAccessor(accessor); err != nil {
		t.Fatal(err)
	}
}

// The token is renewed at two thirds of its life, kept until then, and replaced
// when it can't be renewed any more or has died.
func TestRenewal(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	var clock atomic.Int64
	h.config.Now = func() time.Time { return time.Now().Add(time.Duration(clock.Load())) }
	renewals := func() int { return strings.Count(h.AuditLog(t), `"path":"auth/token/renew-self"`) / 2 }
	c := newClient(t, h.config)
	first := whoami(t, c)
	clock.Store(int64(39 * time.Minute))
	if whoami(t, c) != first || renewals() != 0 {
		t.Error("renewed before its time")
	}
	clock.Store(int64(41 * time.Minute))
	if whoami(t, c) != first || renewals() != 1 {
		t.Error("not renewed at two thirds")
	}
	whoami(t, c)
	if renewals() != 1 {
		t.Error("renewed again at once")
	}
	// As far as it knows the token is dead: no renewal helps.
	clock.Store(int64(3 * time.Hour))
	if second := whoami(t, c); second == first || renewals() != 1 {
		t.Error("still the token of before")
	}
	// It was revoked behind its back.
	second := whoami(t, c)
	h.revoke(t, second)
	if third := whoami(t, c); third == second {
		t.Error("still the token that was revoked")
	}
}

// A token that reaches its longest life is replaced without anybody noticing,
// and Keep does it while nobody asks.
func TestMaxTTL(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.Write(t, "auth/approle/role/hallpass", map[string]any{"token_ttl": "2s", "token_max_ttl": "3s"})
	c := newClient(t, h.config)
	seen := map[string]bool{}
	eventually(t, "three tokens were used", func() bool {
		seen[whoami(t, c)] = true
		return len(seen) >= 3
	})
	logins := func() int { return strings.Count(h.AuditLog(t), `"path":"auth/approle/login"`) }
	before := logins()
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		newClient(t, h.config).Keep(ctx, func(err error) { t.Error(err) })
		close(done)
	}()
	eventually(t, "Keep logged in twice", func() bool { return logins() >= before+4 })
	stop()
	<-done
}

// Each failure is one line that says what it is, and not one is final.
func TestFailures(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	answers := func(status int, body string) string {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(status)
			_, _ = fmt.Fprint(w, body)
		}))
		t.Cleanup(s.Close)
		return s.URL
	}
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = silent.Close() })
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = closed.Close()
	h.Write(t, "sys/quotas/rate-limit/lookup", map[string]any{"path": "auth/token/lookup-self", "rate": 1, "interval": "1h"})
	h.Client(t).Auth().Token().LookupSelf() //nolint:errcheck // takes the one that there is
	for _, tt := range []struct {
		name    string
		address string
		before  func()
		want    string
		status  int
	}{
		{"rate limit", h.Address, nil, "vault's rate limit is reached (429)", 429},
		{"sealed", h.Address, func() { h.Seal(t) }, "vault is sealed; it has to be unsealed", 503},
		{"dead", h.Address, h.Kill, "vault at " + h.Address + " can't be reached: dial tcp ", 0},
		{"nobody there", "http://" + closed.Addr().String(), nil, "vault at http://" + closed.Addr().String() + " can't be reached: dial tcp ", 0},
		{"silence", "http://" + silent.Addr().String(), nil, "vault at http://" + silent.Addr().String() + " doesn't answer in time", 0},
		{"another server", answers(500, "<html>\noops\x1b[31m"+strings.Repeat("x", 1000)), nil, "vault answers 500 to auth/token/lookup-self: <html> oops [31mxxx", 500},
		{"standby without a leader", answers(503, `{"errors":["no active node"]}`), nil, "vault answers 503 to auth/token/lookup-self: no active node", 503},
		{"nothing said", answers(502, ""), nil, "vault answers 502 to auth/token/lookup-self: Bad Gateway", 502},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.before != nil {
				tt.before()
			}
			timeout := patience
			if tt.name == "silence" {
				timeout = time.Second
			}
			_, err := lookup(newClient(t, vault.Config{Address: tt.address, Token: h.RootToken, Timeout: timeout}))
			if err == nil || !strings.HasPrefix(err.Error(), tt.want) || vault.Status(err) != tt.status {
				t.Fatalf("got  %v (%d)\nwant %s (%d)", err, vault.Status(err), tt.want, tt.status)
			}
			if access.CheckText("error", err.Error(), 500) != nil || access.CodeOf(err) != "" {
				t.Errorf("error %q, code %q", err, access.CodeOf(err))
			}
		})
	}
}

// A caller who goes away waits for nobody.
func TestCancelled(t *testing.T) {
	t.Parallel()
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = silent.Close() })
	c := newClient(t, vault.Config{Address: "http://" + silent.Addr().String(), Auth: vault.AppRole, RoleID: "x", SecretIDFile: secretFile(t, "x"), Timeout: patience})
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	begun := time.Now()
	for range 2 {
		if err := c.Do(ctx, func(context.Context, *api.Client) error { return nil }); err == nil {
			t.Error("no error")
		}
	}
	if took := time.Since(begun); took > patience/2 {
		t.Errorf("took %s", took)
	}
}

func TestNewRefuses(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		config vault.Config
		want   string
	}{
		{"no address", vault.Config{Auth: vault.AppRole}, `address "" is not an https address`},
		{"not an address", vault.Config{Address: "vault.example.com:8200"}, `address "vault.example.com:8200" is not an https address`},
		{"in clear text", vault.Config{Address: "http://vault.example.com:8200"}, `address http://vault.example.com:8200 is not https, so everybody between could read what Vault gives out`},
		{"no auth", vault.Config{Address: "https://v"}, `auth is ""; it has to be one of approle, kubernetes, jwt, cert, token`},
		{"unknown auth", vault.Config{Address: "https://v", Auth: "ldap"}, `auth is "ldap"; it has to be one of approle, kubernetes, jwt, cert, token`},
		{"approle without role id", vault.Config{Address: "https://v", Auth: vault.AppRole, SecretIDFile: "x"}, "role_id is not configured, and auth approle needs it"},
		{"approle without secret id", vault.Config{Address: "https://v", Auth: vault.AppRole, RoleID: "x"}, "secret_id_file is not configured, and auth approle needs it"},
		{"kubernetes without role", vault.Config{Address: "https://v", Auth: vault.Kubernetes}, "role is not configured, and auth kubernetes needs it"},
		{"jwt without file", vault.Config{Address: "https://v", Auth: vault.JWT, Role: "x"}, "jwt_file is not configured, and auth jwt needs it"},
		{"cert without key", vault.Config{Address: "https://v", Auth: vault.Cert, CertFile: "x"}, "key_file is not configured, and auth cert needs it"},
		{"token without file", vault.Config{Address: "https://v", Auth: vault.Token}, "token_file is not configured, and auth token needs it"},
		{"too much", vault.Config{Address: "https://v", Auth: vault.Token, TokenFile: "x", RoleID: "y"}, "role_id is configured, and auth token has no use for it"},
		{"no CA", vault.Config{Address: "https://v", Auth: vault.Token, TokenFile: "x", CA: "/nowhere"}, "read ca: open /nowhere: no such file or directory"},
		{"empty CA", vault.Config{Address: "https://v", Auth: vault.Token, TokenFile: "x", CA: os.DevNull}, "ca: there is no certificate in /dev/null"},
		{"IPv6 on this machine", vault.Config{Address: "http://[::1]:8200", Auth: vault.Token, TokenFile: "x"}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := vault.New(tt.config)
			var said string
			if err != nil {
				said = err.Error()
			}
			if said != tt.want {
				t.Errorf("got  %s\nwant %s", said, tt.want)
			}
		})
	}
}

// Nothing of VAULT_* reaches the issuer: not where it goes, not who it is.
func TestEnvironmentIsIgnored(t *testing.T) {
	h := newHouse(t)
	t.Setenv("VAULT_ADDR", "http://127.0.0.1:1")
	t.Setenv("VAULT_TOKEN", h.RootToken)
	t.Setenv("VAULT_NAMESPACE", "elsewhere")
	t.Setenv("VAULT_HEADERS", `{"X-Evil": "1"}`)
	t.Setenv("VAULT_SKIP_VERIFY", "true")
	c := newClient(t, h.config)
	err := c.Do(context.Background(), func(ctx context.Context, a *api.Client) error {
		if a.Address() != h.Address || a.Token() == h.RootToken || a.Namespace() != "" || a.Headers().Get("X-Evil") != "" {
			t.Errorf("goes to %s, namespace %q, headers %v", a.Address(), a.Namespace(), a.Headers())
		}
		_, err := a.Auth().Token().LookupSelfWithContext(ctx)
		return err
	})
	if err != nil {
		t.Error(err)
	}
}
