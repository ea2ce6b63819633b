package worker

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.temporal.io/sdk/contrib/envconfig"

	"hallpass/access"
)

// environ makes a lookup of variables from a map.
func environ(vars map[string]string) func(string) string {
	return func(name string) string { return vars[name] }
}

// values is all settings by name.
func values(c *Config) map[string]string {
	m := map[string]string{}
	for _, s := range c.Settings() {
		m[s.Name] = s.Value
	}
	return m
}

func writeConfig(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "hallpass.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestLoadReadsEverySetting(t *testing.T) {
	path := writeConfig(t, `# everything
temporal: {address: "temporal.example.com:7233", namespace: access, codec: codec.keys, deployment: hp, build: v1}
ui: https://temporal.example.com
policy: rules/policy.yaml
directory: /etc/hallpass/directory.yaml
catalog: ~/catalog.yaml
audit:
  database: a.db
  key: a.key
  public_key: a.pub
  publish: https://checkpoints.example.com/hallpass
  publish_authorization: token
issuers:
  ssh:
    key: "file:ca"
    passphrase_file: ca.pass
    host_key: "file:host_ca"
    trusted: cas.pub
  vault:
    address: https://vault.example.com:8200
    ca: vault.pem
    namespace: team/access
    token_role: hallpass-2
    auth: kubernetes
    auth_mount: k8s/prod
    role: issuer
    role_id: 0b1b6a0e
    secret_id_file: secret_id
    jwt_file: jwt
    cert_file: cert.pem
    key_file: cert.key
    token_file: ~/token
service:
  address: 0.0.0.0:7443
  names: hallpass.example.com, 10.0.0.5
  ca: svc.pem
  ca_key: svc.key
  cert: svc.pem
  key: "~/svc.key"
sweep: {every: 1h, grace: 5m}
limits: {min_grant: 5s}
health: {address: "127.0.0.1:9464"}
notify: tell.yaml
lookups: ask.yaml
vault: {address: "https://vault.example.com:8200"}
client: {service: "https://hallpass.example.com:7443", user: alice, key: id}
`)
	dir := filepath.Dir(path)
	c, err := Load(path, environ(map[string]string{"HOME": "/home/alice"}))
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"temporal.address":             "temporal.example.com:7233",
		"temporal.namespace":           "access",
		"temporal.codec":               dir + "/codec.keys",
		"temporal.deployment":          "hp",
		"temporal.build":               "v1",
		"service.cert":                 dir + "/svc.pem",
		"service.key":                  "/home/alice/svc.key",
		"health.address":               "127.0.0.1:9464",
		"ui":                           "https://temporal.example.com",
		"vault.address":                "https://vault.example.com:8200",
		"policy":                       dir + "/rules/policy.yaml",
		"directory":                    "/etc/hallpass/directory.yaml",
		"catalog":                      "/home/alice/catalog.yaml",
		"audit.database":               dir + "/a.db",
		"audit.key":                    dir + "/a.key",
		"audit.public_key":             dir + "/a.pub",
		"audit.publish":                "https://checkpoints.example.com/hallpass",
		"audit.publish_authorization":  dir + "/token",
		"issuers.ssh.key":              "file:" + dir + "/ca",
		"issuers.ssh.passphrase_file":  dir + "/ca.pass",
		"issuers.ssh.host_key":         "file:" + dir + "/host_ca",
		"issuers.ssh.trusted":          dir + "/cas.pub",
		"issuers.vault.address":        "https://vault.example.com:8200",
		"issuers.vault.ca":             dir + "/vault.pem",
		"issuers.vault.namespace":      "team/access",
		"issuers.vault.token_role":     "hallpass-2",
		"issuers.vault.auth":           "kubernetes",
		"issuers.vault.auth_mount":     "k8s/prod",
		"issuers.vault.role":           "issuer",
		"issuers.vault.role_id":        "0b1b6a0e",
		"issuers.vault.secret_id_file": dir + "/secret_id",
		"issuers.vault.jwt_file":       dir + "/jwt",
		"issuers.vault.cert_file":      dir + "/cert.pem",
		"issuers.vault.key_file":       dir + "/cert.key",
		"issuers.vault.token_file":     "/home/alice/token",
		"service.address":              "0.0.0.0:7443",
		"service.names":                "hallpass.example.com, 10.0.0.5",
		"service.ca":                   dir + "/svc.pem",
		"service.ca_key":               dir + "/svc.key",
		"sweep.every":                  "1h",
		"sweep.grace":                  "5m",
		"limits.min_grant":             "5s",
		"notify":                       dir + "/tell.yaml",
		"lookups":                      dir + "/ask.yaml",
		"client.service":               "https://hallpass.example.com:7443",
		"client.user":                  "alice",
		"client.key":                   dir + "/id",
	}
	if diff := cmp.Diff(want, values(c)); diff != "" {
		t.Errorf("settings (-want +got):\n%s", diff)
	}
	for _, s := range c.Settings() {
		if s.Source == "default" {
			t.Errorf("%s stands in the file, and its source is %q", s.Name, s.Source)
		}
	}
}

func TestLoadDefaultsLieBesideTheFile(t *testing.T) {
	path := writeConfig(t, "client: {user: alice}\n")
	dir := filepath.Dir(path)
	c, err := Load(path, environ(nil))
	if err != nil {
		t.Fatal(err)
	}
	want := &Config{File: path, Policy: dir + "/policy.yaml", Directory: dir + "/directory.yaml", Catalog: dir + "/catalog.yaml",
		Audit:   Audit{Database: dir + "/audit.db", Key: dir + "/audit.key", PublicKey: dir + "/audit.pub"},
		Issuers: Issuers{Vault: VaultIssuer{TokenRole: "hallpass", Auth: "approle"}},
		Service: Service{CA: dir + "/service_ca.pub.pem", CAKey: dir + "/service_ca.key"},
		Sweep:   Sweep{Every: 10 * time.Minute, Grace: time.Minute},
		Limits:  Limits{MinGrant: time.Minute}, Client: Client{User: "alice"}}
	if diff := cmp.Diff(values(want), values(c)); diff != "" {
		t.Errorf("settings (-want +got):\n%s", diff)
	}
}

// The audit log may be an address, which is left as it is.
func TestLoadTakesAnAddressForTheAuditLog(t *testing.T) {
	const address = "postgres://hallpass@db.example.com:5432/audit?sslrootcert=/etc/ca.pem"
	c, err := Load(writeConfig(t, "audit: {database: \""+address+"\"}\n"), environ(nil))
	if err != nil || c.Audit.Database != address {
		t.Errorf("%v, %v", c, err)
	}
	for _, text := range []string{"postgres://hallpass:s3cr3t@db/audit", "postgresql://db/audit?password=s3cr3t", "postgres://h:s3cr3t@[/audit"} {
		_, err := Load(writeConfig(t, "audit:\n  database: \""+text+"\"\n"), environ(nil))
		if err == nil || strings.Contains(err.Error(), "s3cr3t") || !strings.Contains(err.Error(), ":2:13: audit.database: the address of the audit log") {
			t.Errorf("%s: %v", text, err)
		}
	}
}

// Each variable of the table overrides the file, and says so.
func TestLoadEnvironmentOverrides(t *testing.T) {
	work := t.TempDir()
	t.Chdir(work)
	value := map[string]string{
		"temporal.address": "127.0.0.1:7300", "ui": "http://127.0.0.1:8300", "issuers.ssh.key": "agent:SHA256:abc", "issuers.ssh.host_key": "agent:SHA256:def",
		"limits.min_grant": "1s", "sweep.every": "30m", "sweep.grace": "2m", "temporal.namespace": "other", "client.service": "https://127.0.0.1:7443", "client.user": "bob", "client.key": "SHA256:abc",
		"service.address": "0.0.0.0:7443", "service.names": "hallpass.example.com", "health.address": "127.0.0.1:9464",
		"temporal.deployment": "hallpass", "temporal.build": "v1.2.3",
		"vault.address": "https://127.0.0.1:8200", "issuers.vault.address": "https://127.0.0.1:8200", "issuers.vault.namespace": "a/b", "issuers.vault.token_role": "x", "issuers.vault.auth": "jwt",
		"issuers.vault.auth_mount": "a/b", "issuers.vault.role": "x", "issuers.vault.role_id": "x",
	}
	for _, s := range settings() {
		t.Run(s.env, func(t *testing.T) {
			given, want := value[s.path], value[s.path]
			if given == "" {
				given, want = "elsewhere", filepath.Join(work, "elsewhere")
			}
			c, err := Load(writeConfig(t, "ui: http://127.0.0.1:8233\n"), environ(map[string]string{s.env: given}))
			if err != nil {
				t.Fatal(err)
			}
			for _, row := range c.Settings() {
				if row.Name == s.path && (row.Value != want || row.Source != s.env) {
					t.Errorf("%s is %q from %q, want %q from %q", row.Name, row.Value, row.Source, want, s.env)
				}
			}
		})
	}
}

func TestLoadRefuses(t *testing.T) {
	for _, tt := range []struct{ name, text, want string }{
		{"unknown setting", "polcy: x\n", `:1:1: unknown setting "polcy"; known are temporal, ui, policy`},
		{"unknown setting inside", "audit:\n  databse: x\n", `:2:3: unknown setting "audit.databse"; known are database, key, public_key, publish, publish_authorization`},
		{"unknown kind", "issuers:\n  sssh: {key: x}\n", `:2:3: unknown setting "issuers.sssh"; known are ssh`},
		{"other case", "Policy: x\n", `:1:1: unknown setting "Policy"`},
		{"repeated setting", "ui: http://a\nui: http://b\n", `:2:1: `},
		{"repeated section", "audit: {key: a}\naudit: {key: b}\n", `:2:1: `},
		{"number for text", "temporal: {namespace: 7}\n", `:1:23: `},
		{"list for text", "policy: [a, b]\n", `:1:9: `},
		{"section for text", "policy: {a: b}\n", `:1:9: `},
		{"text for section", "audit: a.db\n", `:1:8: `},
		{"alias", "policy: &a x\ndirectory: *a\n", `:1:9: `},
		{"no value", "policy:\n", `hallpass.yaml:1:`},
		{"empty value", "policy: ''\n", `:1:9: policy is empty`},
		{"list at the top", "- a\n", `:1:1: `},
		{"empty file", "# nothing\n", `file is empty`},
		{"two documents", "ui: http://a\n---\nui: http://b\n", `a second document`},
		{"not YAML", "a: [\n", `hallpass.yaml:1:`},
		{"not UTF-8", "ui: \xff\n", `:1:1: `},
		{"control character", "policy: \"a\\u0007b\"\n", `:1:9: policy contains the control`},
		{"several lines", "policy: |\n  a\n  b\n", `hallpass.yaml:1:9: `},
		{"longest value and one more", "policy: " + strings.Repeat("a", maxValue+1) + "\n", `policy is longer than 4096 bytes`},
		{"address without port", "temporal: {address: localhost}\n", `:1:21: temporal.address: "localhost" is not host:port`},
		{"ui without scheme", "ui: 127.0.0.1:8233\n", `ui: "127.0.0.1:8233" is not an http or https address`},
		{"ui with password", "ui: http://a:b@c\n", `with a password`},
		{"bare CA key in Vault", "issuers: {ssh: {key: 'vault:ca'}}\n", `issuers.ssh.key: CA key source "vault:ca" is not vault:MOUNT/KEY or vault:MOUNT/KEY@VERSION`},
		{"bare CA path", "issuers: {ssh: {key: ssh_ca}}\n", `is not file:PATH, agent:SHA256:FINGERPRINT or vault:MOUNT/KEY`},
		{"no duration", "limits: {min_grant: soon}\n", `limits.min_grant: duration "soon" is not like`},
		{"below the least", "limits: {min_grant: 0s}\n", `limits.min_grant: 0s is not between 1s and 30d`},
		{"above the most", "limits: {min_grant: 30d1s}\n", `limits.min_grant: 30d1s is not between`},
		{"bad user", "client: {user: Alice}\n", `client.user: `},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Load(writeConfig(t, tt.text), environ(nil))
			if err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("got %v\nwant one line with %q", err, tt.want)
			}
			if access.CodeOf(err) != access.CodeMalformed {
				t.Errorf("code %q, want %q", access.CodeOf(err), access.CodeMalformed)
			}
		})
	}
	t.Run("in the environment", func(t *testing.T) {
		_, err := Load(writeConfig(t, "policy: p\n"), environ(map[string]string{"HALLPASS_UI": "nowhere"}))
		if err == nil || !strings.HasPrefix(err.Error(), "HALLPASS_UI: ") {
			t.Errorf("got %v, want the variable named", err)
		}
	})
	t.Run("longest value", func(t *testing.T) {
		if _, err := Load(writeConfig(t, "policy: /"+strings.Repeat("a", maxValue-1)+"\n"), environ(nil)); err != nil {
			t.Error(err)
		}
	})
	t.Run("least and most", func(t *testing.T) {
		for _, d := range []string{"1s", "30d"} {
			if _, err := Load(writeConfig(t, "limits: {min_grant: "+d+"}\n"), environ(nil)); err != nil {
				t.Errorf("%s: %v", d, err)
			}
		}
	})
}

func TestLoadSearches(t *testing.T) {
	home := t.TempDir()
	put := func(path string) string {
		path = filepath.Join(home, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte("policy: p\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	env := map[string]string{"HOME": home}
	try := func(path, want string) {
		t.Helper()
		c, err := Load(path, environ(env))
		if err != nil {
			t.Fatal(err)
		}
		if c.File != want {
			t.Errorf("read %q, want %q", c.File, want)
		}
	}
	_, err := Load("", environ(env))
	if access.CodeOf(err) != access.CodeNotFound {
		t.Errorf("with no file anywhere: %v", err)
	}
	env["TEMPORAL_ADDRESS"] = "127.0.0.1:1"
	try("", "")
	dev := put(".local/share/hallpass/dev/hallpass.yaml")
	try("", dev)
	user := put(".config/hallpass/hallpass.yaml")
	try("", user)
	xdg := put("xdg/hallpass/hallpass.yaml")
	env["XDG_CONFIG_HOME"] = filepath.Join(home, "xdg")
	try("", xdg)
	named := put("named.yaml")
	env["HALLPASS_CONFIG"] = named
	try("", named)
	flag := put("flag.yaml")
	try(flag, flag)

	env["HALLPASS_CONFIG"] = filepath.Join(home, "absent.yaml")
	if _, err := Load("", environ(env)); access.CodeOf(err) != access.CodeNotFound {
		t.Errorf("a named file that isn't there: %v", err)
	}
	if _, err := Load(filepath.Join(home, "absent.yaml"), environ(env)); access.CodeOf(err) != access.CodeNotFound {
		t.Errorf("a given file that isn't there: %v", err)
	}
}

// The documentation is about these settings, and its example can be read.
func TestConfigurationIsDocumented(t *testing.T) {
	data, err := os.ReadFile(filepath.Join("..", "docs", "configuration.md"))
	if err != nil {
		t.Fatal(err)
	}
	text := string(data)
	for _, s := range settings() {
		if row := "| `" + s.path + "` | `" + s.env + "` |"; !strings.Contains(text, row) {
			t.Errorf("docs/configuration.md has no row %s", row)
		}
	}
	_, example, _ := strings.Cut(text, "```yaml\n")
	example, _, _ = strings.Cut(example, "```")
	c, err := Load(writeConfig(t, example), environ(map[string]string{"HOME": "/home/alice"}))
	if err != nil {
		t.Fatal(err)
	}
	other := []string{ // for the other ways to log in to Vault
		"issuers.vault.role", "issuers.vault.jwt_file", "issuers.vault.cert_file", "issuers.vault.key_file", "issuers.vault.token_file",
	}
	for _, s := range c.Settings() {
		if s.Source == "default" && !slices.Contains(other, s.Name) {
			t.Errorf("the example doesn't set %s", s.Name)
		}
	}
	for _, p := range []envconfig.ClientConfigProfile{{Namespace: "default"}, {Namespace: "NAME.ACCOUNT", Address: "NAME.ACCOUNT.tmprl.cloud:7233"}} {
		if want := command(p, attributes()); !strings.Contains(strings.Join(strings.Fields(strings.ReplaceAll(text, "\\\n", " ")), " "), want) {
			t.Errorf("docs/configuration.md doesn't have the command %s", want)
		}
	}
}

func FuzzParseConfig(f *testing.F) {
	for _, s := range []string{"ui: http://a\n", "audit: {key: a}\n", "a: &b [*b]\n", "? x\n: y\n", "--- \n...\n", "<<: {a: b}\n"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		c := &Config{env: environ(nil), sources: map[string]string{}}
		r := &configReader{config: c, dir: "/x"}
		if err := r.parse("hallpass.yaml", []byte(text)); err != nil {
			if strings.ContainsAny(err.Error(), "\n\r") {
				t.Errorf("error of more than one line: %q", err)
			}
		}
	})
}

// Who can change what names all other files, or the CAs that hosts trust, is master of
// all: sshd is as strict with its own.
func TestFilesOthersCanWrite(t *testing.T) {
	path := writeConfig(t, "client: {service: 'https://hallpass.example.com:7443'}\n")
	dir := filepath.Dir(path)
	above := filepath.Dir(dir)
	env := environ(map[string]string{"HOME": dir})
	refused := func(what, says, hint string, err error) {
		t.Helper()
		var e *access.Error
		if !errors.As(err, &e) || e.Code != access.CodeForbidden || !strings.Contains(err.Error(), says) || !strings.HasSuffix(e.Hint, hint) {
			t.Errorf("%s: %v, want %s, %s", what, err, says, hint)
		}
	}
	for _, tt := range []struct {
		what       string
		mode, good os.FileMode
		says       string
	}{
		{path, 0o666, 0o600, path + " can be changed by others than its owner (mode 0666)"},
		{path, 0o664, 0o644, path + " can be changed by others than its owner (mode 0664)"},
		{dir, 0o777, 0o755, path + " is in the folder " + dir + ", which others than its owner can write to (mode 0777)"},
		{above, 0o757, 0o755, path + " is in the folder " + above + ", which others than its owner can write to (mode 0757)"},
	} {
		if err := os.Chmod(tt.what, tt.mode); err != nil {
			t.Fatal(err)
		}
		_, err := Load(path, env)
		refused("hallpass.yaml", tt.says, "chmod go-w "+tt.what, err)
		_, err = SSHIssuer{Trusted: path}.TrustedKeys()
		refused("issuers.ssh.trusted", tt.says, "chmod go-w "+tt.what, err)
		if err := os.Chmod(tt.what, tt.good); err != nil {
			t.Fatal(err)
		}
		if _, err := Load(path, env); err != nil {
			t.Errorf("mended: %v", err)
		}
	}
}

func TestTrustedKeys(t *testing.T) {
	const key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIPCzM8En1UsoOjsjt9slZlv8TjLM45r6FIYI5HekVMb2"
	for _, tt := range []struct {
		name, content string
		keys          int
		err           string
	}{
		{"one", key + " hallpass SSH CA\n", 1, ""},
		{"comments and empty lines", "# next\n\n" + key + "\n  " + key + "\r\n", 2, ""},
		{"none", "\n", 0, ""},
		{"options", "cert-authority " + key + "\n", 0, "cas.pub:1: that is not a public key alone"},
		{"something else", key + "\nssh-ed25519 AAAA\n", 0, "cas.pub:2: that is not a public key alone"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "cas.pub")
			if err := os.WriteFile(path, []byte(tt.content), 0o600); err != nil {
				t.Fatal(err)
			}
			keys, err := SSHIssuer{Trusted: path}.TrustedKeys()
			if len(keys) != tt.keys || tt.err == "" && err != nil || tt.err != "" && (err == nil || !strings.Contains(err.Error(), tt.err)) {
				t.Errorf("%d keys, error %v; want %d, %q", len(keys), err, tt.keys, tt.err)
			}
		})
	}
	if keys, err := (SSHIssuer{}).TrustedKeys(); len(keys) != 0 || err != nil {
		t.Errorf("without a file: %v, %v", keys, err)
	}
	if _, err := (SSHIssuer{Trusted: filepath.Join(t.TempDir(), "none")}).TrustedKeys(); err == nil {
		t.Error("a file that isn't there is no error")
	}
}
