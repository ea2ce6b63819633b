// Package vault is hallpass's way into HashiCorp Vault: a client that logs in,
// renews its login and logs in again, and, for operators, what Vault has to be
// told before hallpass can work with it (Plan), and whether it was (Check).
//
// Use New for whatever acts as the issuer. It reads nothing from VAULT_*
// variables: where the issuer's secrets go is said by its configuration alone.
//
// No method retries by itself beyond one new login: whoever calls is repeated
// by Temporal.
package vault

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/vault/api"

	"hallpass/access"
	"hallpass/internal/wording"
)

// The ways to log in.
const (
	AppRole    = "approle"
	Kubernetes = "kubernetes"
	JWT        = "jwt"
	Cert       = "cert"  // TLS client certificate
	Token      = "token" // a token that something else keeps in a file
)

// Auths lists them.
func Auths() []string { return []string{AppRole, Kubernetes, JWT, Cert, Token} }

// serviceAccount is where Kubernetes puts a pod's own token.
const serviceAccount = "/var/run/secrets/kubernetes.io/serviceaccount/token"

// Config says where Vault is and how to log in. Files are read anew at each
// login, so that whatever rotates them need not tell anybody.
type Config struct {
	Address   string // https://vault.example.com:8200
	CA        string // file with the certificates that may sign Vault's own; "": the system's
	Namespace string

	Auth         string // one of Auths
	AuthMount    string // where it is mounted; "": at its own name
	Role         string // kubernetes, jwt: needed; cert: may be
	RoleID       string // approle
	SecretIDFile string // approle
	JWTFile      string // jwt; kubernetes: "" is the pod's own
	CertFile     string // cert
	KeyFile      string // cert
	TokenFile    string // token

	// Token is used instead of logging in: an operator's, who looks around.
	Token string

	Timeout time.Duration    // of one request; 0: 10 s
	Now     func() time.Time // nil: time.Now
}

// Client is a Vault client that is logged in whenever it is used. It is safe
// for concurrent use.
type Client struct {
	config Config
	http   *http.Client

	turn chan struct{} // held by whoever reads or changes current
	now  func() time.Time

	current *session
}

// session is one login.
type session struct {
	api   *api.Client
	ttl   time.Duration // when it was new; 0: it never ends
	renew time.Time     // it is looked after from here on
	until time.Time     // it is dead from here on
	can   bool          // be renewed
}

// New makes a client. It reads the CA's file and doesn't talk to Vault.
func New(c Config) (*Client, error) {
	u, err := url.Parse(c.Address)
	if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" {
		return nil, access.Errorf(access.CodeMalformed, "address %q is not an https address", c.Address)
	}
	if u.Scheme == "http" && !loopback(u.Hostname()) {
		return nil, access.Errorf(access.CodeMalformed, "address %s is not https, so everybody between could read what Vault gives out", c.Address)
	}
	if c.Token == "" {
		if err := c.complete(); err != nil {
			return nil, err
		}
	}
	if c.AuthMount == "" {
		c.AuthMount = c.Auth
	}
	if c.Timeout == 0 {
		c.Timeout = 10 * time.Second
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if c.CA != "" {
		pem, err := os.ReadFile(c.CA)
		if err != nil {
			return nil, fmt.Errorf("read ca: %w", err)
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return nil, access.Errorf(access.CodeMalformed, "ca: there is no certificate in %s", c.CA)
		}
	}
	if c.Auth == Cert {
		config.GetClientCertificate = c.certificate
	}
	transport := &http.Transport{
		Proxy: http.ProxyFromEnvironment, TLSClientConfig: config, ForceAttemptHTTP2: true,
		MaxIdleConnsPerHost: 16, IdleConnTimeout: time.Minute, TLSHandshakeTimeout: c.Timeout,
		// A login with a new certificate needs a new connection.
		DisableKeepAlives: c.Auth == Cert,
	}
	return &Client{
		config: c, now: c.Now, turn: make(chan struct{}, 1),
		http: &http.Client{
			Transport:     transport,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }, // api follows them by itself
		},
	}, nil
}

// complete says what is missing for a way to log in, or too much.
func (c Config) complete() error {
	needs, ok := map[string][]string{
		AppRole:    {"role_id", "secret_id_file"},
		Kubernetes: {"role"},
		JWT:        {"role", "jwt_file"},
		Cert:       {"cert_file", "key_file"},
		Token:      {"token_file"},
	}[c.Auth]
	if !ok {
		return access.Errorf(access.CodeMalformed, "auth is %q; it has to be one of %s", c.Auth, strings.Join(Auths(), ", "))
	}
	may := map[string][]string{Kubernetes: {"jwt_file"}, Cert: {"role"}}[c.Auth]
	for _, f := range []struct{ name, value string }{
		{"role", c.Role}, {"role_id", c.RoleID}, {"secret_id_file", c.SecretIDFile}, {"jwt_file", c.JWTFile},
		{"cert_file", c.CertFile}, {"key_file", c.KeyFile}, {"token_file", c.TokenFile},
	} {
		needed := slices.Contains(needs, f.name)
		switch {
		case needed && f.value == "":
			return access.Errorf(access.CodeMalformed, "%s is not configured, and auth %s needs it", f.name, c.Auth)
		case !needed && f.value != "" && !slices.Contains(may, f.name):
			return access.Errorf(access.CodeMalformed, "%s is configured, and auth %s has no use for it", f.name, c.Auth)
		}
	}
	return nil
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// Address is where Vault is.
func (c *Client) Address() string { return c.config.Address }

// Ask says whether Vault answers and knows this login.
func (c *Client) Ask(ctx context.Context) error {
	return c.Do(ctx, func(ctx context.Context, v *api.Client) error {
		_, err := v.Auth().Token().LookupSelfWithContext(ctx)
		return err
	})
}

// Do calls f with a client that is logged in, and once more after a new login
// if Vault says 403: the token may have died before its time. An error of
// Vault's, or on the way to it, becomes a *Failure.
func (c *Client) Do(ctx context.Context, f func(context.Context, *api.Client) error) error {
	for again := false; ; again = true {
		s, err := c.session(ctx)
		if err != nil {
			return err
		}
		err = f(ctx, s.api)
		var r *api.ResponseError
		if again || c.config.Token != "" || !errors.As(err, &r) || r.StatusCode != http.StatusForbidden {
			return c.explain(err)
		}
		if err := c.forget(ctx, s); err != nil {
			return err
		}
	}
}

// Keep keeps the client logged in until ctx ends, also while nobody uses it,
// so that what can only be renewed doesn't run out. It reports what goes wrong.
func (c *Client) Keep(ctx context.Context, report func(error)) {
	const retry = 10 * time.Second
	for {
		wait := retry
		s, err := c.session(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			report(err)
		case s.ttl == 0:
			return // it never ends
		default:
			wait = max(s.renew.Sub(c.now()), time.Second)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}

func (c *Client) lock(ctx context.Context) error {
	select {
	case c.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return c.explain(ctx.Err())
	}
}

func (c *Client) unlock() { <-c.turn }

// session is the login of the moment, renewed or new if it is time.
func (c *Client) session(ctx context.Context) (*session, error) {
	if err := c.lock(ctx); err != nil {
		return nil, err
	}
	defer c.unlock()
	now, s := c.now(), c.current
	if s != nil && (s.ttl == 0 || now.Before(s.renew)) {
		return s, nil
	}
	alive := s != nil && now.Before(s.until)
	if alive && s.can {
		// Near its longest life a token is renewed for less and less. Then,
		// and whatever else stands in the way, a new login is the answer.
		if r, err := c.renewed(ctx, s); err == nil && r.ttl >= s.ttl/2 {
			r.ttl = s.ttl
			c.current = r
			return r, nil
		}
	}
	r, err := c.logIn(ctx)
	if err != nil {
		if alive {
			return s, nil
		}
		return nil, err
	}
	c.current = r
	return r, nil
}

// forget drops a login that Vault doesn't accept any more.
func (c *Client) forget(ctx context.Context, s *session) error {
	if err := c.lock(ctx); err != nil {
		return err
	}
	defer c.unlock()
	if c.current == s {
		c.current = nil
	}
	return nil
}

// logIn logs in.
func (c *Client) logIn(ctx context.Context) (*session, error) {
	if c.config.Token != "" {
		client, err := c.client(c.config.Token)
		return &session{api: client}, err
	}
	// What Vault answers to a login is no answer to what it is for. That it
	// doesn't answer is.
	failed := func(err error) (*session, error) {
		if Away(err) {
			return nil, fmt.Errorf("log in to vault by %s: %w", c.config.Auth, err)
		}
		return nil, fmt.Errorf("log in to vault by %s: %s", c.config.Auth, err.Error())
	}
	data := map[string]any{}
	var err error
	switch c.config.Auth {
	case Token:
		s, err := c.tokenFile(ctx)
		if err != nil {
			return failed(err)
		}
		return s, nil
	case AppRole:
		data["role_id"] = c.config.RoleID
		data["secret_id"], err = readSecret(c.config.SecretIDFile, true)
	case Kubernetes:
		data["role"] = c.config.Role
		if c.config.JWTFile == "" {
			data["jwt"], err = readSecret(serviceAccount, false) // its mode is the cluster's to choose
		} else {
			data["jwt"], err = readSecret(c.config.JWTFile, false)
		}
	case JWT:
		data["role"] = c.config.Role
		data["jwt"], err = readSecret(c.config.JWTFile, true)
	case Cert:
		if c.config.Role != "" {
			data["name"] = c.config.Role
		}
	}
	if err != nil {
		return failed(err)
	}
	client, err := c.client("")
	if err != nil {
		return failed(err)
	}
	ctx, cancel := context.WithTimeout(ctx, c.config.Timeout)
	defer cancel()
	begun := c.now()
	secret, err := client.Logical().WriteWithContext(ctx, "auth/"+c.config.AuthMount+"/login", data)
	if err != nil {
		return failed(c.explain(err))
	}
	if secret == nil || secret.Auth == nil || secret.Auth.ClientToken == "" {
		return failed(errors.New("vault gives no token"))
	}
	if client, err = c.client(secret.Auth.ClientToken); err != nil {
		return failed(err)
	}
	return newSession(client, begun, secret.Auth.LeaseDuration, secret.Auth.Renewable), nil
}

// tokenFile takes the token from its file and asks Vault how long it lives.
func (c *Client) tokenFile(ctx context.Context) (*session, error) {
	token, err := readSecret(c.config.TokenFile, true)
	if err != nil {
		return nil, err
	}
	client, err := c.client(token)
	if err != nil {
		return nil, err
	}
	begun := c.now()
	ctx, cancel := context.WithTimeout(ctx, c.config.Timeout)
	defer cancel()
	secret, err := client.Auth().Token().LookupSelfWithContext(ctx)
	if err != nil {
		return nil, c.explain(err)
	}
	ttl, err := secret.TokenTTL()
	if err != nil {
		return nil, err
	}
	renewable, err := secret.TokenIsRenewable()
	return newSession(client, begun, int(ttl/time.Second), renewable), err
}

// renewed renews a login.
func (c *Client) renewed(ctx context.Context, s *session) (*session, error) {
	ctx, cancel := context.WithTimeout(ctx, c.config.Timeout)
	defer cancel()
	begun := c.now()
	secret, err := s.api.Auth().Token().RenewSelfWithContext(ctx, 0)
	if err != nil {
		return nil, err
	}
	if secret == nil || secret.Auth == nil {
		return nil, errors.New("nothing was renewed")
	}
	return newSession(s.api, begun, secret.Auth.LeaseDuration, secret.Auth.Renewable), nil
}

func newSession(client *api.Client, begun time.Time, seconds int, renewable bool) *session {
	ttl := time.Duration(seconds) * time.Second
	return &session{api: client, ttl: ttl, renew: begun.Add(ttl * 2 / 3), until: begun.Add(ttl), can: renewable}
}

// client is one of api's with a token. All share connections.
func (c *Client) client(token string) (*api.Client, error) {
	client, err := api.NewClient(&api.Config{Address: c.config.Address, HttpClient: c.http, Timeout: c.config.Timeout, MaxRetries: 0})
	if err != nil {
		return nil, fmt.Errorf("vault: %w", err)
	}
	// New ones take these from the environment.
	client.SetHeaders(http.Header{api.RequestHeaderName: {"true"}})
	client.ClearNamespace()
	if c.config.Namespace != "" {
		client.SetNamespace(c.config.Namespace)
	}
	client.SetToken(token)
	return client, nil
}

// certificate reads the client's certificate when a connection is made.
func (c Config) certificate(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
	key, err := readFile(c.KeyFile, true)
	if err != nil {
		return nil, err
	}
	pem, err := os.ReadFile(c.CertFile)
	if err != nil {
		return nil, err
	}
	cert, err := tls.X509KeyPair(pem, key)
	if err != nil {
		return nil, fmt.Errorf("%s and %s are not a certificate and its key", c.CertFile, c.KeyFile)
	}
	return &cert, nil
}

// readSecret reads the first line of a file; own says that it has to be its
// owner's alone.
func readSecret(path string, own bool) (string, error) {
	data, err := readFile(path, own)
	if err != nil {
		return "", err
	}
	line, _, _ := strings.Cut(string(data), "\n")
	if line = strings.TrimSpace(line); line == "" {
		return "", fmt.Errorf("the first line of %s is empty", path)
	}
	return line, nil
}

func readFile(path string, own bool) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if mode := info.Mode().Perm(); own && mode&0o077 != 0 {
		return nil, fmt.Errorf("%s has mode %04o, so others can read it; run: chmod 600 %s", path, mode, path)
	}
	return os.ReadFile(path)
}

// Failure is why Vault didn't do what it was asked, in one line without
// anything secret.
type Failure struct {
	Status  int // of HTTP; 0 if there was no answer
	message string
}

func (f *Failure) Error() string { return f.message }

// Status is the HTTP status of the Failure in err's chain; 0 if there is none,
// or no answer.
func Status(err error) int {
	var f *Failure
	if errors.As(err, &f) {
		return f.Status
	}
	return 0
}

// Gone says whether err is Vault's word that it knows no token with this
// accessor.
func Gone(err error) bool {
	switch Status(err) {
	case http.StatusBadRequest, http.StatusForbidden, http.StatusNotFound:
		return strings.Contains(err.Error(), "invalid accessor")
	}
	return false
}

// Interrupted says whether err is Vault's word that it has begun to revoke the
// token with this accessor, and crashed: it is dead, and its leases may not be.
func Interrupted(err error) bool {
	return Status(err) == http.StatusBadRequest && strings.Contains(err.Error(), "token not found")
}

// explain makes a Failure of what the api package says, whose own errors have
// several lines. What isn't Vault's doing is passed on.
func (c *Client) explain(err error) error {
	if err == nil {
		return nil
	}
	var r *api.ResponseError
	var u *url.Error
	var cert *tls.CertificateVerificationError
	switch {
	case errors.As(err, &r):
		return &Failure{Status: r.StatusCode, message: answer(r)}
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &u) && u.Timeout():
		return &Failure{message: fmt.Sprintf("vault at %s doesn't answer in time", c.config.Address)}
	case errors.Is(err, context.Canceled):
		return err
	case errors.As(err, &cert):
		mend := "have it renewed, or name Vault in issuers.vault.address as it does"
		if errors.As(err, new(x509.UnknownAuthorityError)) {
			mend = "name its CA in issuers.vault.ca"
		}
		return &Failure{message: fmt.Sprintf("vault at %s has a certificate that isn't trusted: %s; %s", c.config.Address, oneLine(cert.Err.Error()), mend)}
	case errors.As(err, &u):
		return &Failure{message: fmt.Sprintf("vault at %s can't be reached: %s", c.config.Address, oneLine(u.Err.Error()))}
	}
	return err
}

func answer(r *api.ResponseError) string {
	said := oneLine(strings.Join(r.Errors, "; "))
	switch {
	case r.StatusCode == http.StatusServiceUnavailable && strings.Contains(strings.ToLower(said), "sealed"):
		return "vault is sealed; it has to be unsealed"
	case r.StatusCode == http.StatusTooManyRequests:
		return "vault's rate limit is reached (429)"
	case said == "":
		said = http.StatusText(r.StatusCode)
	}
	return fmt.Sprintf("vault answers %d to %s: %s", r.StatusCode, path(r.URL), said)
}

// path is what of an address says which request it was.
func path(address string) string {
	u, err := url.Parse(address)
	if err != nil {
		return "a request"
	}
	return strings.TrimPrefix(u.Path, "/v1/")
}

// oneLine is what another program said, safe to show.
func oneLine(s string) string { return wording.Clip(wording.Line(s), 300) }
