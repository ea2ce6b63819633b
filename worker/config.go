package worker

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"hallpass/access"
	"hallpass/audit"
	"hallpass/ca"
	"hallpass/internal/trusted"
	"hallpass/internal/yamlfile"
	"hallpass/transport"
	"hallpass/vault"
)

// Config is hallpass.yaml with the environment's overrides: where things are.
// It holds no secret; keys are named by their files. All paths are absolute.
//
// Load makes one. The zero Config dials the Temporal of the standard
// TEMPORAL_* variables and knows of no files.
type Config struct {
	File      string // the file it was read from; "" if there was none
	Temporal  Temporal
	UI        string // address of the Temporal UI, for links
	Policy    string
	Directory string
	Catalog   string
	Audit     Audit
	Issuers   Issuers
	Service   Service
	Health    Health
	Sweep     Sweep
	Limits    Limits
	Notify    string // file that lists the channels to tell people by; "" for none
	Lookups   string // file that lists the look-ups that policy may ask; "" for none
	Vault     Vault
	Client    Client
	Version   string // of this program; not a setting

	env     func(string) string
	sources map[string]string // by path of the setting; absent: default
}

// Temporal says where Temporal is. With no address the standard TEMPORAL_*
// variables and profile file say it, TLS and API keys included.
type Temporal struct {
	Address   string // host:port
	Namespace string
	Codec     string // file of the keys that encrypt what goes there; "" if nothing does

	Deployment string // whose builds Temporal tells apart; "" if it doesn't
	Build      string // which of them this worker is; "" for Config.Version
}

// Audit says where the audit log is.
type Audit struct {
	Database  string // file, or address of PostgreSQL without a password
	Key       string // file of the private key; only workers read it
	PublicKey string // file of the public key

	Publish              string // file or http(s) address of the place for checkpoints; "" if there is none
	PublishAuthorization string // file whose first line is the Authorization header for it
}

// Issuers is what the issuer of each kind needs.
type Issuers struct {
	SSH   SSHIssuer
	Vault VaultIssuer
}

// VaultIssuer says where Vault is and how the issuer logs in.
type VaultIssuer struct {
	Address   string // "" if there is none
	CA        string // file; "" for the system's
	Namespace string
	TokenRole string

	Auth         string
	AuthMount    string
	Role         string
	RoleID       string
	SecretIDFile string
	JWTFile      string
	CertFile     string
	KeyFile      string
	TokenFile    string
}

// SSHIssuer says where the SSH CA's key is.
type SSHIssuer struct {
	Key            string // "file:PATH", "agent:SHA256:…" or "vault:MOUNT/KEY", as ca.Open takes it; "" if there is none
	PassphraseFile string // of encrypted key files
	HostKey        string // another one, that certifies hosts; "" if hosts get no certificates
	Trusted        string // file of public keys that hosts let in beside Key's; "" for none
}

// TrustedKeys reads the file of keys that hosts trust beside the CA's own: one
// a line, as in TrustedUserCAKeys. Lines that are empty or begin with # don't
// count.
func (c SSHIssuer) TrustedKeys() ([]ssh.PublicKey, error) {
	if c.Trusted == "" {
		return nil, nil
	}
	data, err := trusted.ReadFile(c.Trusted)
	if err != nil {
		return nil, fmt.Errorf("issuers.ssh.trusted: %w", err)
	}
	var keys []ssh.PublicKey
	for i, line := range strings.Split(string(data), "\n") {
		if line = strings.TrimSpace(line); line == "" || line[0] == '#' {
			continue
		}
		key, _, options, _, err := ssh.ParseAuthorizedKey([]byte(line))
		if err != nil || len(options) > 0 {
			return nil, access.Errorf(access.CodeMalformed, "%s:%d: that is not a public key alone", c.Trusted, i+1).
				WithHint("it takes lines as in FILE.pub of hallpass ca init")
		}
		if _, isCert := key.(*ssh.Certificate); isCert {
			return nil, access.Errorf(access.CodeMalformed, "%s:%d: a certificate is no CA's key", c.Trusted, i+1)
		}
		keys = append(keys, key)
	}
	return keys, nil
}

// Service is where hosts find hallpass, and people who have no access to
// Temporal.
type Service struct {
	Address string // host:port to listen on; "" if there is no service here
	Names   string // host names and IP addresses that it is reached by, with commas between; beside those of Address and of this machine
	CA      string // file of the certificate that clients have to know
	CAKey   string // file of its private key; only the service reads it
	Cert    string // file of a certificate of another CA, with its chain, that something else renews; "" for those of CA
	Key     string // file of its private key; only the service reads it
}

// Health is where a worker says how it is.
type Health struct {
	Address string // host:port for plain HTTP; "" for nowhere
}

// Sweep says how sweeps go about their work.
type Sweep struct {
	Every time.Duration // from one to the next
	Grace time.Duration // how old a grant has to be to be missed in Temporal, and a credential to be missed in the ledger
}

// Limits are bounds that operators may move within those in package access.
type Limits struct {
	MinGrant time.Duration
}

// Vault says where clients find Vault. Issuers have an address of their own.
type Vault struct {
	Address string // URL; "" for what the standard VAULT_ADDR says
}

// Client is about the person at this machine.
type Client struct {
	Service string // https address of the service, to talk to instead of Temporal; "" for Temporal

	User string // as the directory names them; "" for the owner of the signing key
	Key  string // file or "SHA256:…" fingerprint of the signing key; "" to look for it
}

// setting is one line of the configuration: where it stands in the file, the
// variable that overrides it, and what it may be. Reading, checking, showing
// and overriding all go by this table.
type setting struct {
	path  string // in hallpass.yaml, with dots
	env   string
	about string
	at    func(*Config) any // *string or *time.Duration
	value string            // the default, as it would be written
	check func(string) error
	file  func(string, func(string) string) string // makes what names a file absolute
}

// settings is the table of everything that can be configured.
func settings() []setting {
	return []setting{
		{path: "temporal.address", env: "HALLPASS_TEMPORAL_ADDRESS", about: "host:port of Temporal",
			at: func(c *Config) any { return &c.Temporal.Address }, check: checkAddress},
		{path: "temporal.namespace", env: "HALLPASS_TEMPORAL_NAMESPACE", about: "its namespace",
			at: func(c *Config) any { return &c.Temporal.Namespace }},
		{path: "temporal.codec", env: "HALLPASS_TEMPORAL_CODEC", about: "file of the keys that encrypt what goes there; empty: nothing is encrypted",
			at: func(c *Config) any { return &c.Temporal.Codec }, file: absolute},
		{path: "temporal.deployment", env: "HALLPASS_TEMPORAL_DEPLOYMENT", about: "deployment whose builds Temporal tells apart; empty: it doesn't",
			at: func(c *Config) any { return &c.Temporal.Deployment }, check: checkDeployment},
		{path: "temporal.build", env: "HALLPASS_TEMPORAL_BUILD", about: "build in it that this worker is; empty: the version of the program",
			at: func(c *Config) any { return &c.Temporal.Build }, check: checkBuild},
		{path: "ui", env: "HALLPASS_UI", about: "address of the Temporal UI, for links",
			at: func(c *Config) any { return &c.UI }, check: checkURL},
		{path: "policy", env: "HALLPASS_POLICY", about: "what is allowed", value: "policy.yaml",
			at: func(c *Config) any { return &c.Policy }, file: absolute},
		{path: "directory", env: "HALLPASS_DIRECTORY", about: "who is who", value: "directory.yaml",
			at: func(c *Config) any { return &c.Directory }, file: absolute},
		{path: "catalog", env: "HALLPASS_CATALOG", about: "what there is to ask for", value: "catalog.yaml",
			at: func(c *Config) any { return &c.Catalog }, file: absolute},
		{path: "audit.database", env: "HALLPASS_AUDIT_DATABASE", about: "the audit log: a file, or postgres://user@host/database", value: "audit.db",
			at: func(c *Config) any { return &c.Audit.Database }, check: audit.CheckDatabase, file: absoluteDatabase},
		{path: "audit.key", env: "HALLPASS_AUDIT_KEY", about: "file of the key that signs it", value: "audit.key",
			at: func(c *Config) any { return &c.Audit.Key }, file: absolute},
		{path: "audit.public_key", env: "HALLPASS_AUDIT_PUBLIC_KEY", about: "file of the key that verifies it", value: "audit.pub",
			at: func(c *Config) any { return &c.Audit.PublicKey }, file: absolute},
		{path: "audit.publish", env: "HALLPASS_AUDIT_PUBLISH", about: "where its checkpoints are published: a file, an http(s) address for PUT, or s3://BUCKET/KEY?region=REGION",
			at: func(c *Config) any { return &c.Audit.Publish }, check: audit.CheckPlace, file: absolutePlace},
		{path: "audit.publish_authorization", env: "HALLPASS_AUDIT_PUBLISH_AUTHORIZATION", about: "file of the Authorization header for it, or of S3's access key",
			at: func(c *Config) any { return &c.Audit.PublishAuthorization }, file: absolute},
		{path: "issuers.ssh.key", env: "HALLPASS_ISSUERS_SSH_KEY", about: "the SSH CA: file:PATH, agent:SHA256:… or vault:MOUNT/KEY",
			at: func(c *Config) any { return &c.Issuers.SSH.Key }, check: checkKeySource, file: absoluteSource},
		{path: "issuers.ssh.passphrase_file", env: "HALLPASS_ISSUERS_SSH_PASSPHRASE_FILE", about: "passphrase of an encrypted CA key file",
			at: func(c *Config) any { return &c.Issuers.SSH.PassphraseFile }, file: absolute},
		{path: "issuers.ssh.host_key", env: "HALLPASS_ISSUERS_SSH_HOST_KEY", about: "the SSH CA that certifies hosts: file:PATH, agent:SHA256:… or vault:MOUNT/KEY",
			at: func(c *Config) any { return &c.Issuers.SSH.HostKey }, check: checkKeySource, file: absoluteSource},
		{path: "issuers.ssh.trusted", env: "HALLPASS_ISSUERS_SSH_TRUSTED", about: "file of public keys of SSH CAs that hosts trust too, while one takes the place of another",
			at: func(c *Config) any { return &c.Issuers.SSH.Trusted }, file: absolute},
		{path: "issuers.vault.address", env: "HALLPASS_ISSUERS_VAULT_ADDRESS", about: "https address of Vault, for the issuer",
			at: func(c *Config) any { return &c.Issuers.Vault.Address }, check: checkURL},
		{path: "issuers.vault.ca", env: "HALLPASS_ISSUERS_VAULT_CA", about: "certificate that Vault's is signed by; empty: one of the system's",
			at: func(c *Config) any { return &c.Issuers.Vault.CA }, file: absolute},
		{path: "issuers.vault.namespace", env: "HALLPASS_ISSUERS_VAULT_NAMESPACE", about: "its namespace",
			at: func(c *Config) any { return &c.Issuers.Vault.Namespace }, check: checkVaultPath},
		{path: "issuers.vault.token_role", env: "HALLPASS_ISSUERS_VAULT_TOKEN_ROLE", about: "token role that mints", value: vault.DefaultTokenRole,
			at: func(c *Config) any { return &c.Issuers.Vault.TokenRole }, check: checkTokenRole},
		{path: "issuers.vault.auth", env: "HALLPASS_ISSUERS_VAULT_AUTH", about: "how the issuer logs in: " + strings.Join(vault.Auths(), ", "), value: vault.AppRole,
			at: func(c *Config) any { return &c.Issuers.Vault.Auth }, check: checkVaultAuth},
		{path: "issuers.vault.auth_mount", env: "HALLPASS_ISSUERS_VAULT_AUTH_MOUNT", about: "where that is mounted; empty: at its own name",
			at: func(c *Config) any { return &c.Issuers.Vault.AuthMount }, check: checkVaultPath},
		{path: "issuers.vault.role", env: "HALLPASS_ISSUERS_VAULT_ROLE", about: "role to log in with: kubernetes, jwt, cert",
			at: func(c *Config) any { return &c.Issuers.Vault.Role }, check: checkVaultName},
		{path: "issuers.vault.role_id", env: "HALLPASS_ISSUERS_VAULT_ROLE_ID", about: "role id: approle",
			at: func(c *Config) any { return &c.Issuers.Vault.RoleID }},
		{path: "issuers.vault.secret_id_file", env: "HALLPASS_ISSUERS_VAULT_SECRET_ID_FILE", about: "file of the secret id: approle",
			at: func(c *Config) any { return &c.Issuers.Vault.SecretIDFile }, file: absolute},
		{path: "issuers.vault.jwt_file", env: "HALLPASS_ISSUERS_VAULT_JWT_FILE", about: "file of the token: jwt, kubernetes",
			at: func(c *Config) any { return &c.Issuers.Vault.JWTFile }, file: absolute},
		{path: "issuers.vault.cert_file", env: "HALLPASS_ISSUERS_VAULT_CERT_FILE", about: "TLS certificate: cert",
			at: func(c *Config) any { return &c.Issuers.Vault.CertFile }, file: absolute},
		{path: "issuers.vault.key_file", env: "HALLPASS_ISSUERS_VAULT_KEY_FILE", about: "its key: cert",
			at: func(c *Config) any { return &c.Issuers.Vault.KeyFile }, file: absolute},
		{path: "issuers.vault.token_file", env: "HALLPASS_ISSUERS_VAULT_TOKEN_FILE", about: "file that something else keeps a token in: token",
			at: func(c *Config) any { return &c.Issuers.Vault.TokenFile }, file: absolute},
		{path: "service.address", env: "HALLPASS_SERVICE_ADDRESS", about: "host:port to serve hosts and people at over HTTPS",
			at: func(c *Config) any { return &c.Service.Address }, check: checkAddress},
		{path: "service.names", env: "HALLPASS_SERVICE_NAMES", about: "names and IP addresses it is reached by, with commas between",
			at: func(c *Config) any { return &c.Service.Names }, check: checkHosts},
		{path: "service.ca", env: "HALLPASS_SERVICE_CA", about: "certificate that hosts and people know the service by", value: "service_ca.pub.pem",
			at: func(c *Config) any { return &c.Service.CA }, file: absolute},
		{path: "service.ca_key", env: "HALLPASS_SERVICE_CA_KEY", about: "file of its private key", value: "service_ca.key",
			at: func(c *Config) any { return &c.Service.CAKey }, file: absolute},
		{path: "service.cert", env: "HALLPASS_SERVICE_CERT", about: "certificate to show instead, that something else renews; empty: one of service.ca",
			at: func(c *Config) any { return &c.Service.Cert }, file: absolute},
		{path: "service.key", env: "HALLPASS_SERVICE_KEY", about: "file of its private key",
			at: func(c *Config) any { return &c.Service.Key }, file: absolute},
		{path: "health.address", env: "HALLPASS_HEALTH_ADDRESS", about: "host:port for /live, /ready and /metrics over plain HTTP; best on loopback",
			at: func(c *Config) any { return &c.Health.Address }, check: checkAddress},
		{path: "sweep.every", env: "HALLPASS_SWEEP_EVERY", about: "how often what has lost its workflow is swept up", value: "10m",
			at: func(c *Config) any { return &c.Sweep.Every }},
		{path: "sweep.grace", env: "HALLPASS_SWEEP_GRACE", about: "how old it has to be", value: "1m",
			at: func(c *Config) any { return &c.Sweep.Grace }},
		{path: "limits.min_grant", env: "HALLPASS_LIMITS_MIN_GRANT", about: "the shortest grant", value: access.ShortDuration(access.MinGrant),
			at: func(c *Config) any { return &c.Limits.MinGrant }},
		{path: "notify", env: "HALLPASS_NOTIFY", about: "file that lists whom to tell of requests, and how",
			at: func(c *Config) any { return &c.Notify }, file: absolute},
		{path: "lookups", env: "HALLPASS_LOOKUPS", about: "file that lists what policy may ask of other systems",
			at: func(c *Config) any { return &c.Lookups }, file: absolute},
		{path: "vault.address", env: "HALLPASS_VAULT_ADDRESS", about: "URL of Vault, for clients; empty: VAULT_ADDR",
			at: func(c *Config) any { return &c.Vault.Address }, check: checkURL},
		{path: "client.service", env: "HALLPASS_SERVICE", about: "https address of the service, for people's commands; empty: they talk to Temporal",
			at: func(c *Config) any { return &c.Client.Service }, check: transport.CheckAddress},
		{path: "client.user", env: "HALLPASS_USER", about: "your name in the directory; empty: whose key it is",
			at: func(c *Config) any { return &c.Client.User }, check: func(s string) error { return access.CheckName("user", s) }},
		{path: "client.key", env: "HALLPASS_KEY", about: "your signing key: file or SHA256:…; empty: found",
			at: func(c *Config) any { return &c.Client.Key }, file: absoluteKey},
	}
}

// Setting is one setting as it counts, for showing.
type Setting struct {
	Name   string `json:"name"` // its path in hallpass.yaml
	Value  string `json:"value"`
	Source string `json:"source"` // "default", the variable, or FILE:LINE
	Env    string `json:"env"`    // the variable that overrides it
	About  string `json:"about"`
}

// Settings lists what counts and why. Nothing in it is secret.
func (c *Config) Settings() []Setting {
	var out []Setting
	for _, s := range settings() {
		row := Setting{Name: s.path, Source: c.sources[s.path], Env: s.env, About: s.about}
		switch p := s.at(c).(type) {
		case *string:
			row.Value = *p
		case *time.Duration:
			row.Value = access.ShortDuration(*p)
		}
		if row.Source == "" {
			row.Source = "default"
		}
		out = append(out, row)
	}
	return out
}

// Load reads the configuration from path, or, if path is empty, from the
// first of Places that there is, and puts the environment over it. Paths in
// the file are relative to the file, paths in the environment to the working
// directory; "~/" is the home folder in both.
//
// A file that others than its owner can change or replace is refused, as trusted.Path
// has it. An unknown, repeated or misspelt setting is an error with its place in the
// file; so is a value that can't be right. Whether the files that it names
// are there is seen when they are opened. With no file at all, it takes a
// Temporal or service address in the environment to go on.
func Load(path string, env func(string) string) (*Config, error) {
	if path == "" {
		places, err := Places(env)
		if err != nil {
			return nil, err
		}
		for _, place := range places {
			_, err := os.Stat(place)
			if err == nil {
				path = place
				break
			}
			if !errors.Is(err, fs.ErrNotExist) {
				return nil, fmt.Errorf("read configuration: %w", err)
			}
			if place == env("HALLPASS_CONFIG") { // asked for by name
				return nil, access.Errorf(access.CodeNotFound, "HALLPASS_CONFIG is %s, and there is no such file", place)
			}
		}
		if path == "" && env("HALLPASS_TEMPORAL_ADDRESS") == "" && env("TEMPORAL_ADDRESS") == "" && env("HALLPASS_SERVICE") == "" {
			return nil, access.Errorf(access.CodeNotFound, "no configuration at %s", strings.Join(places, " or ")).
				WithHint("start everything on this machine with: hallpass dev")
		}
	}
	c := &Config{env: env, sources: map[string]string{}}
	r := &configReader{config: c}
	if path != "" {
		if err := r.file(path); err != nil {
			return nil, err
		}
	}
	if err := r.environment(); err != nil {
		return nil, err
	}
	return c, r.defaults()
}

// Places lists where the configuration is looked for when nobody says where
// it is.
func Places(env func(string) string) ([]string, error) {
	if path := env("HALLPASS_CONFIG"); path != "" {
		return []string{path}, nil
	}
	config, err := base(env, "XDG_CONFIG_HOME", ".config")
	if err != nil {
		return nil, err
	}
	dev, err := DevDir(env)
	if err != nil {
		return nil, err
	}
	return []string{filepath.Join(config, "hallpass", configName), filepath.Join(dev, configName)}, nil
}

const configName = "hallpass.yaml"

// DevDir is the folder that Dev uses when it isn't told another.
func DevDir(env func(string) string) (string, error) {
	data, err := base(env, "XDG_DATA_HOME", filepath.Join(".local", "share"))
	if err != nil {
		return "", err
	}
	return filepath.Join(data, "hallpass", "dev"), nil
}

// base finds a folder by the XDG Base Directory Specification, which says to
// ignore relative paths.
func base(env func(string) string, name, underHome string) (string, error) {
	if dir := env(name); filepath.IsAbs(dir) {
		return dir, nil
	}
	home := env("HOME")
	if home == "" {
		return "", fmt.Errorf("neither %s nor HOME is set", name)
	}
	return filepath.Join(home, underHome), nil
}

// configReader fills a Config from what may set it.
type configReader struct {
	config *Config
	dir    string // of the file
}

func (r *configReader) file(path string) error {
	data, err := trusted.ReadFile(path) // it names all others
	if errors.Is(err, fs.ErrNotExist) {
		return access.Errorf(access.CodeNotFound, "there is no configuration at %s", path)
	} else if err != nil {
		return fmt.Errorf("read configuration: %w", err)
	}
	absolute, err := filepath.Abs(path)
	if err != nil {
		return fmt.Errorf("read configuration: %w", err)
	}
	r.config.File, r.dir = absolute, filepath.Dir(absolute)
	return r.parse(path, data)
}

func (r *configReader) parse(name string, data []byte) error {
	root, err := yamlfile.Parse(name, data)
	if err != nil {
		return err
	}
	return r.section("", root)
}

// section reads a mapping of settings and of further sections, whose names
// begin with prefix.
func (r *configReader) section(prefix string, n yamlfile.Node) error {
	return n.Each(func(key string, at, value yamlfile.Node) error {
		path := prefix + key
		for _, s := range settings() {
			if s.path == path {
				text, err := value.Text()
				if err != nil {
					return err
				}
				r.config.sources[path] = fmt.Sprintf("%s:%d", filepath.Base(r.config.File), value.Line())
				return value.Wrap(r.set(s, text, r.dir))
			}
			if strings.HasPrefix(s.path, path+".") {
				return r.section(path+".", value)
			}
		}
		return at.Errorf("unknown setting %q; known are %s", path, strings.Join(known(prefix), ", "))
	})
}

// known lists what can stand in a section.
func known(prefix string) []string {
	var names []string
	for _, s := range settings() {
		if rest, ok := strings.CutPrefix(s.path, prefix); ok {
			name, _, _ := strings.Cut(rest, ".")
			if !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
	}
	return names
}

func (r *configReader) environment() error {
	dir, err := os.Getwd()
	if err != nil {
		return fmt.Errorf("find working directory: %w", err)
	}
	for _, s := range settings() {
		value := r.config.env(s.env)
		if value == "" {
			continue
		}
		if err := r.set(s, value, dir); err != nil {
			return access.Errorf(access.CodeMalformed, "%s: %v", s.env, err)
		}
		r.config.sources[s.path] = s.env
	}
	return nil
}

// defaults fills what nobody set. Files have default names only where there
// is a configuration file that they can lie beside.
func (r *configReader) defaults() error {
	for _, s := range settings() {
		if r.config.sources[s.path] != "" || s.value == "" || s.file != nil && r.dir == "" {
			continue
		}
		if err := r.set(s, s.value, r.dir); err != nil {
			return fmt.Errorf("default of %s: %w", s.path, err)
		}
	}
	return nil
}

// maxValue bounds one value, in bytes; paths are no longer.
const maxValue = 4096

// set checks a value and puts it where it belongs. Relative paths begin at
// dir.
func (r *configReader) set(s setting, value, dir string) error {
	if value == "" {
		return fmt.Errorf("%s is empty; leave it out for its default", s.path)
	}
	if err := access.CheckText(s.path, value, maxValue); err != nil {
		return err
	}
	if s.check != nil {
		if err := s.check(value); err != nil {
			return fmt.Errorf("%s: %w", s.path, err)
		}
	}
	switch p := s.at(r.config).(type) {
	case *string:
		if s.file != nil {
			value = s.file(value, func(path string) string {
				if rest, ok := strings.CutPrefix(path, "~/"); ok && r.config.env("HOME") != "" {
					return filepath.Join(r.config.env("HOME"), rest)
				}
				if filepath.IsAbs(path) {
					return filepath.Clean(path)
				}
				return filepath.Join(dir, path)
			})
		}
		*p = value
	case *time.Duration:
		d, err := access.ParseDuration(value)
		if err != nil {
			return fmt.Errorf("%s: %w", s.path, err)
		}
		if d < time.Second || d > access.MaxGrant {
			return fmt.Errorf("%s: %s is not between 1s and %s", s.path, access.ShortDuration(d), access.ShortDuration(access.MaxGrant))
		}
		*p = d
	}
	return nil
}

func absolute(value string, abs func(string) string) string { return abs(value) }

// absoluteSource is for a CA key, which may be a file or not.
func absoluteSource(value string, abs func(string) string) string {
	if path, ok := strings.CutPrefix(value, "file:"); ok {
		return "file:" + abs(path)
	}
	return value
}

// absoluteDatabase is for the audit log, which may be a file or not.
func absoluteDatabase(value string, abs func(string) string) string {
	if audit.IsAddress(value) {
		return value
	}
	return abs(value)
}

// absolutePlace is for checkpoints, whose place may be a file or not.
func absolutePlace(value string, abs func(string) string) string {
	if strings.HasPrefix(value, "http:") || strings.HasPrefix(value, "https:") || strings.HasPrefix(value, "s3:") {
		return value
	}
	return abs(value)
}

// absoluteKey is for a signing key, which may be a fingerprint.
func absoluteKey(value string, abs func(string) string) string {
	if strings.HasPrefix(value, "SHA256:") {
		return value
	}
	return abs(value)
}

func checkAddress(s string) error {
	host, port, err := net.SplitHostPort(s)
	if err != nil || host == "" || port == "" {
		return fmt.Errorf("%q is not host:port", s)
	}
	return nil
}

// checkHosts checks a list of host names and IP addresses.
func checkHosts(s string) error {
	for _, name := range hostList(s) {
		if net.ParseIP(name) == nil && strings.Trim(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-") != "" || name == "" {
			return fmt.Errorf("%q is neither a host name nor an IP address", name)
		}
	}
	return nil
}

func hostList(s string) []string {
	if s == "" {
		return nil
	}
	var names []string
	for name := range strings.SplitSeq(s, ",") {
		names = append(names, strings.TrimSpace(name))
	}
	return names
}

func checkURL(s string) error {
	u, err := url.Parse(s)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return fmt.Errorf("%q is not an http or https address", s)
	}
	if u.User != nil {
		return errors.New("an address with a password in it would be shown; leave it out")
	}
	return nil
}

func checkVaultAuth(s string) error {
	if !slices.Contains(vault.Auths(), s) {
		return fmt.Errorf("%q is not one of %s", s, strings.Join(vault.Auths(), ", "))
	}
	return nil
}

func checkVaultPath(s string) error { return access.CheckPath("path", s) }

// checkVaultName checks the name of a role, which is one part of a path.
func checkVaultName(s string) error {
	if strings.Contains(s, "/") {
		return fmt.Errorf("%q has a slash in it", s)
	}
	return access.CheckPath("role", s)
}

func checkTokenRole(s string) error {
	if err := checkVaultName(s); err != nil {
		return err
	}
	return vault.CheckTokenRole(s)
}

func checkKeySource(s string) error {
	scheme, rest, _ := strings.Cut(s, ":")
	if scheme == "file" && rest != "" || scheme == "agent" && strings.HasPrefix(rest, "SHA256:") {
		return nil
	}
	if scheme == "vault" {
		_, err := ca.ParseTransitKey(s)
		return err
	}
	return fmt.Errorf("%q is not file:PATH, agent:SHA256:FINGERPRINT or vault:MOUNT/KEY", s)
}
