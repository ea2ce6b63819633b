// Package deploy holds docker-compose.yml, the Dockerfile and deploy/ to what
// they promise. No image is built or pulled: docker-compose reads the file as
// Docker would, the script that makes the secrets runs for real, and hallpass
// reads the configuration. The topology itself runs in testsuite/topology.
package deploy

import (
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/goccy/go-yaml"
	"github.com/google/go-cmp/cmp"

	"hallpass/cli"
	"hallpass/worker"
)

const root = "../.."

// TestMain makes this program hallpass, for scripts that call it.
func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == "hallpass" {
		os.Exit(cli.Run(os.Exit))
	}
	os.Exit(m.Run())
}

// service is what is looked at of a service.
type service struct {
	Image string
	Build struct {
		Context, Target string
		Args            map[string]string
	}
	Command     []string
	Entrypoint  []string
	Environment map[string]string
	Ports       []any
	Volumes     []string
	Restart     string
	DependsOn   map[string]struct{ Condition string } `yaml:"depends_on"`
	ReadOnly    bool                                  `yaml:"read_only"`
}

// compose is docker-compose.yml as docker-compose understands it.
func compose(t *testing.T) map[string]service {
	t.Helper()
	services, err := config()
	if errors.Is(err, exec.ErrNotFound) && testing.Short() {
		t.Skip("docker-compose is not installed")
	} else if errors.Is(err, exec.ErrNotFound) {
		t.Fatal("docker-compose is not installed; on Debian: apt-get install docker-compose")
	} else if err != nil {
		t.Fatal(err)
	}
	return services
}

// config asks docker-compose, once.
var config = sync.OnceValues(asked)

func asked() (map[string]service, error) {
	program, err := exec.LookPath("docker-compose")
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(program, "--profile", "people", "config")
	cmd.Dir = root
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("docker-compose config: %w\n%s", err, stderr(err))
	}
	var file struct{ Services map[string]service }
	if err := yaml.Unmarshal(out, &file); err != nil {
		return nil, err
	}
	if len(file.Services) < 15 {
		return nil, fmt.Errorf("found %d services, which can't be all", len(file.Services))
	}
	return file.Services, nil
}

func stderr(err error) string {
	var e *exec.ExitError
	if errors.As(err, &e) {
		return string(e.Stderr)
	}
	return ""
}

func read(t *testing.T, name string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(root, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// What docs/operate.md lists is there, each role in a container of its own.
func TestServices(t *testing.T) {
	services := compose(t)
	want := []string{
		"alice", "bob", "issuer-ssh", "issuer-vault", "postgres", "service", "setup", "temporal-frontend", "temporal-history",
		"temporal-matching", "temporal-namespace", "temporal-schema", "temporal-ui", "temporal-worker", "vault", "vault-setup",
		"vault-unseal", "web-1", "web-2", "workflows",
	}
	if diff := cmp.Diff(want, slices.Sorted(maps.Keys(services))); diff != "" {
		t.Error(diff)
	}
	var roles []string
	for name, s := range services {
		if len(s.Command) > 0 && s.Command[0] == "worker" {
			if len(s.Command) != 3 || s.Command[1] != "--role" {
				t.Errorf("%s runs %q: one role a container", name, s.Command)
				continue
			}
			roles = append(roles, s.Command[2])
			if s.Build.Target != "hallpass" || !s.ReadOnly {
				t.Errorf("%s isn't the small image, read-only", name)
			}
		}
	}
	slices.Sort(roles)
	if want := slices.Sorted(slices.Values(worker.Roles())); !slices.Equal(roles, want) {
		t.Errorf("roles are %q, want %q", roles, want)
	}
}

// No secret gets into an environment: not of a container, nor of what a script
// in one starts. Whoever may look at the processes of the machine reads those.
func TestNoSecretInTheEnvironment(t *testing.T) {
	secret := regexp.MustCompile(`(?m)^\s*export [^#\n]*(PASSWORD|TOKEN|SECRET)\b`)
	scripts, err := filepath.Glob(filepath.Join(root, "deploy/*.sh"))
	if err != nil || len(scripts) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	for _, path := range scripts {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if line := secret.Find(data); line != nil {
			t.Errorf("%s: %s", filepath.Base(path), line)
		}
	}
	if line := regexp.MustCompile(`(?m)^.*(PASSWORD|TOKEN|SECRET_ID):.*$`).FindString(read(t, "docker-compose.yml")); line != "" {
		t.Errorf("docker-compose.yml: %s", line)
	}
}

// Files that are mounted or copied are there, and targets are stages.
func TestNamesWhatIsThere(t *testing.T) {
	dockerfile := read(t, "Dockerfile")
	for name, s := range compose(t) {
		if s.Build.Target != "" && !strings.Contains(dockerfile, " AS "+s.Build.Target+"\n") {
			t.Errorf("%s: the Dockerfile has no stage %s", name, s.Build.Target)
		}
		for _, v := range s.Volumes {
			if source := mount(v).source; filepath.IsAbs(source) {
				if info, err := os.Stat(source); err != nil || info.IsDir() {
					t.Errorf("%s mounts %s, which is no file: Docker would make a folder of it", name, source)
				}
			}
		}
	}
	for _, m := range regexp.MustCompile(`(?m)^COPY (?:--from=\S+ )?(.*) \S+$`).FindAllStringSubmatch(dockerfile, -1) {
		for file := range strings.FieldsSeq(m[1]) {
			if strings.HasPrefix(file, "/out/") {
				continue
			}
			if _, err := os.Stat(filepath.Join(root, file)); err != nil {
				t.Error(err)
			}
		}
	}
}

// Images are of versions that were tried: Temporal's is the one of go.mod, with
// which the topology is tested.
func TestVersions(t *testing.T) {
	mod, services := read(t, "go.mod"), compose(t)
	version := func(module string) string {
		m := regexp.MustCompile(`(?m)^\s*` + regexp.QuoteMeta(module) + ` v?(\S+)`).FindStringSubmatch(mod)
		if m == nil {
			t.Fatalf("go.mod has no %s", module)
		}
		return m[1]
	}
	server := version("go.temporal.io/server")
	for name, want := range map[string]string{
		"temporal-frontend": "temporalio/server:" + server, "temporal-schema": "temporalio/admin-tools:" + server,
		"temporal-ui": "temporalio/ui:" + version("github.com/temporalio/ui-server/v2"),
	} {
		if got := services[name].Image; got != want {
			t.Errorf("%s is %s, want %s", name, got, want)
		}
	}
	if want := "FROM golang:" + version("go") + "-"; !strings.Contains(read(t, "Dockerfile"), want) {
		t.Errorf("the Dockerfile doesn't have %s", want)
	}
	for name, s := range services {
		if s.Build.Context == "" && (!strings.Contains(s.Image, ":") || strings.HasSuffix(s.Image, ":latest")) {
			t.Errorf("%s: %s has no version", name, s.Image)
		}
	}
}

// A program knows the version that somebody gave it and no other, so that no two
// that are different are one build to Temporal: without it, worker refuses.
func TestNoVersionUnlessGiven(t *testing.T) {
	dockerfile := read(t, "Dockerfile")
	if given := regexp.MustCompile(`(?m)^ARG VERSION\b.*$`).FindAllString(dockerfile, -1); !slices.Equal(given, []string{"ARG VERSION=", "ARG VERSION="}) {
		t.Errorf("the Dockerfile gives a version by itself: %q", given)
	}
	sets := regexp.MustCompile(`(?m)-X \S+\.version=`)
	if all, careful := len(sets.FindAllString(dockerfile, -1)), strings.Count(dockerfile, "${VERSION:+-X "); all != 3 || careful != all {
		t.Errorf("%d programs are told a version, %d of them only if there is one", all, careful)
	}
	compose(t) // says what is missing
	for version, wanted := range map[string]string{"": "latest", "v1.2.3": "v1.2.3"} {
		t.Setenv("VERSION", version)
		services, err := asked()
		if err != nil {
			t.Fatal(err)
		}
		built := 0
		for name, s := range services {
			if s.Build.Context == "" {
				continue
			}
			built++
			if got, ok := s.Build.Args["VERSION"]; !ok || got != version {
				t.Errorf("VERSION=%s: %s is built with %q", version, name, s.Build.Args)
			}
			if _, tag, _ := strings.Cut(s.Image, ":"); tag != wanted {
				t.Errorf("VERSION=%s: %s is %s", version, name, s.Image)
			}
		}
		if built < 8 {
			t.Errorf("found %d services that are built", built)
		}
	}
}

// Nothing is reachable from outside this machine unless somebody says so.
func TestListensOnLoopback(t *testing.T) {
	published := 0
	for name, s := range compose(t) {
		for _, p := range s.Ports {
			published++
			if !strings.HasPrefix(fmt.Sprint(p), "127.0.0.1:") {
				t.Errorf("%s publishes %v", name, p)
			}
		}
	}
	if published < 3 {
		t.Errorf("only %d ports are published", published)
	}
}

// Each secret is in the volume of those who need it, and nowhere else.
func TestSecretsStayApart(t *testing.T) {
	services, has := compose(t), map[string][]string{}
	for name, s := range services {
		for _, v := range s.Volumes {
			if source := mount(v).source; !slices.Contains(has[source], name) {
				has[source] = append(has[source], name)
			}
		}
	}
	for volume, want := range map[string][]string{
		"tls-ca":           {"setup"},
		"ssh-ca":           {"issuer-ssh", "setup"},
		"vault-login":      {"issuer-vault", "setup", "vault-setup"},
		"service-key":      {"service", "setup"},
		"postgres-secrets": {"postgres", "setup"},
		"vault-setup":      {"setup", "vault-setup", "vault-unseal"},
		"vault-data":       {"setup", "vault"},
		"workers":          {"issuer-ssh", "issuer-vault", "service", "setup", "workflows"},
		"writers":          {"issuer-ssh", "issuer-vault", "setup", "workflows"},
		"alice":            {"alice", "setup"},
		"bob":              {"bob", "setup"},
		"web-1":            {"setup", "web-1"},
	} {
		slices.Sort(has[volume])
		if !slices.Equal(has[volume], want) {
			t.Errorf("%s is mounted by %q, want %q", volume, has[volume], want)
		}
	}
	secret := regexp.MustCompile(`(?i)passw|secret|token|key$|private`)
	for name, s := range services {
		for variable, value := range s.Environment {
			if secret.MatchString(variable) && !filepath.IsAbs(value) || strings.Contains(value, "BEGIN ") {
				t.Errorf("%s has %s=%s in its environment", name, variable, value)
			}
		}
		for _, arg := range slices.Concat(s.Entrypoint, s.Command) {
			if secret.MatchString(arg) && !strings.Contains(arg, "/") {
				t.Errorf("%s has %s on its command line", name, arg)
			}
		}
	}
	setup := services["setup"].Volumes
	for volume := range has {
		if _, ok := services[volume]; !filepath.IsAbs(volume) && volume != "postgres-data" && !ok &&
			!slices.ContainsFunc(setup, func(v string) bool { return mount(v).source == volume }) {
			t.Errorf("volume %s is nobody's: setup makes nothing in it", volume)
		}
	}
}

type bind struct{ source, target, mode string }

// mount takes source:target[:mode] apart.
func mount(v string) bind {
	parts := strings.Split(v, ":")
	return bind{parts[0], parts[1], strings.Join(parts[2:], ":")}
}

// watchful is mv, and refuses to put in place what workers that run couldn't read
// there.
const watchful = `#!/bin/sh
case $1 in
public/*) [ -n "$(find "$1" -perm 644)" ] || { echo "$1 isn't for all to read yet" >&2; exit 1; } ;;
esac
exec /bin/mv "$@"
`

// furnish runs setup.sh in a folder, where the files are that it copies.
func furnish(t *testing.T, dir string) {
	t.Helper()
	if out, err := setup(t, dir, "").CombinedOutput(); err != nil {
		t.Fatalf("setup.sh: %v\n%s", err, out)
	}
}

// checkout makes a folder with the files of the checkout that setup.sh copies.
func checkout(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range mounted {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(read(t, "deploy/"+name)), 0o600); err != nil {
			t.Fatal(err)
		}
		if os.Geteuid() == 0 { // in a container it is somebody else's
			if err := os.Chown(filepath.Join(dir, name), 4242, 4242); err != nil {
				t.Fatal(err)
			}
		}
	}
	return dir
}

// setup is setup.sh in a folder, as a container would run it, with something on
// its standard input.
func setup(t *testing.T, dir, stdin string, args ...string) *exec.Cmd {
	t.Helper()
	bin := t.TempDir()
	self, err := os.Executable()
	if err == nil {
		err = os.Symlink(self, filepath.Join(bin, "hallpass"))
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(bin, "mv"), []byte(watchful), 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("sh", append([]string{filepath.Join(root, "deploy/setup.sh")}, args...)...)
	cmd.Env = append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"), "HALLPASS_SETUP="+dir, "HALLPASS_SETUP_OWNERS=no",
		"GORACE=atexit_sleep_ms=0") // the race detector has each command wait a second at its end
	cmd.Stdin = strings.NewReader(stdin)
	return cmd
}

// files are the regular files below a folder, with their content.
func files(t *testing.T, dir string) map[string]string {
	t.Helper()
	found := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		data, err := os.ReadFile(path)
		found[name] = string(data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// mounted are the files of the checkout that setup.sh makes copies of, which count.
var mounted = []string{"hallpass.yaml", "policy.yaml", "catalog.yaml"}

// setup.sh makes everything once: a second start changes nothing but the
// hosts' tokens. Private files are their owners' alone, and each container
// finds all that its configuration names.
func TestSetup(t *testing.T) {
	dir := checkout(t)
	furnish(t, dir)
	first := files(t, dir)
	furnish(t, dir)
	second := files(t, dir)
	for name := range first {
		if strings.HasPrefix(name, "hosts/") {
			delete(first, name)
			delete(second, name)
		}
	}
	if diff := cmp.Diff(first, second); diff != "" {
		t.Errorf("a second start changes something: %s", diff)
	}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		public := strings.Contains(path, "/public") || strings.HasSuffix(path, ".pub") || path == dir
		if !public && info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %v", path, info.Mode())
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}

	// What a container has is what is mounted: each is shown its own.
	for name, s := range compose(t) {
		if s.Build.Target != "hallpass" {
			continue
		}
		own := t.TempDir()
		for _, v := range s.Volumes {
			m := mount(v)
			at, ok := strings.CutPrefix(m.target, "/etc/hallpass/")
			if !ok {
				t.Errorf("%s mounts %s", name, m.target)
				continue
			}
			if err := os.Symlink(filepath.Join(dir, at), filepath.Join(own, at)); err != nil {
				t.Fatal(err)
			}
		}
		env := func(key string) string { return strings.ReplaceAll(s.Environment[key], "/etc/hallpass", own) }
		c, err := worker.Load("", env)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		needed := []string{c.Policy, c.Catalog, c.Directory, c.Audit.Key, c.Audit.PublicKey, env("PGPASSFILE"), env("TEMPORAL_TLS_CLIENT_KEY_PATH"), env("TEMPORAL_TLS_SERVER_CA_CERT_PATH")}
		if name == "issuer-ssh" {
			needed = append(needed, strings.TrimPrefix(c.Issuers.SSH.Key, "file:"), strings.TrimPrefix(c.Issuers.SSH.HostKey, "file:"))
		} else if _, err := os.Stat(strings.TrimPrefix(c.Issuers.SSH.Key, "file:")); err == nil {
			t.Errorf("%s can see the SSH CA's key", name)
		}
		if name == "issuer-vault" {
			needed = append(needed, filepath.Dir(c.Issuers.Vault.SecretIDFile), c.Issuers.Vault.CA)
		}
		for _, path := range needed {
			if _, err := os.Stat(path); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}

	// And hallpass finds nothing wrong with it but that nobody is there.
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, "config", "check", "--output", "json")
	cmd.Args[0] = "hallpass"
	cmd.Env = []string{"HOME=" + dir, "HALLPASS_CONFIG=" + filepath.Join(dir, "public", "hallpass.yaml"), "TEMPORAL_ADDRESS=127.0.0.1:1"}
	out, _ := cmd.Output() // Temporal isn't there
	var found []worker.Finding
	if err := json.Unmarshal(out, &found); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, f := range found {
		if f.OK == (f.Part == "temporal") {
			t.Errorf("%s: %s", f.Part, f.Detail)
		}
	}
}

// Certificates that end soon are made anew, with a key, and no others.
func TestSetupRenewsCertificates(t *testing.T) {
	dir := checkout(t)
	furnish(t, dir)
	ends := func(name string, days int) {
		t.Helper()
		at := filepath.Join(dir, name)
		out, err := exec.Command("openssl", "req", "-x509", "-key", at+".key", "-days", fmt.Sprint(days), "-subj", "/CN=old", "-out", at+".pem").CombinedOutput()
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	ends("postgres/server", 29)
	ends("tls/client", 31)
	before := files(t, dir)
	furnish(t, dir)
	after := files(t, dir)
	for name, anew := range map[string]bool{"postgres/server.pem": true, "postgres/server.key": true, "tls/client.pem": false, "tls/client.key": false, "tls-ca/ca.pem": false} {
		if (before[name] != after[name]) != anew {
			t.Errorf("%s: made anew is %v, want %v", name, !anew, anew)
		}
	}
	if _, err := tls.X509KeyPair([]byte(after["postgres/server.pem"]), []byte(after["postgres/server.key"])); err != nil {
		t.Error(err)
	}
}

// A directory takes the place of the one in force if hallpass can read it.
func TestSetupTakesADirectory(t *testing.T) {
	dir := checkout(t)
	furnish(t, dir)
	inForce := filepath.Join(dir, "public/directory.yaml")
	before, err := os.ReadFile(inForce)
	if err != nil {
		t.Fatal(err)
	}
	with := strings.Replace(string(before), "groups: [dev]", "groups: [dev, sre]", 1)
	for _, tt := range []struct {
		name, stdin string
		taken       bool
	}{
		{"nothing", "", false},
		{"no directory", "users: {alice: [", false},
		{"half of it", with[:len(with)-20], false},
		{"one", with, true},
	} {
		out, err := setup(t, dir, tt.stdin, "directory").CombinedOutput()
		want := string(before)
		if tt.taken {
			want = tt.stdin
		}
		got, _ := os.ReadFile(inForce)
		if (err == nil) != tt.taken || string(got) != want {
			t.Errorf("%s: %v %s\n%s", tt.name, err, out, got)
		}
	}
	if info, err := os.Stat(inForce); err != nil || info.Mode().Perm() != 0o644 {
		t.Errorf("%v %v", info.Mode(), err)
	}
}

// An issuer starts when Vault knows of it, and somebody is there to unseal Vault
// each time it has been started anew.
func TestVaultIsSetUpAndUnsealed(t *testing.T) {
	services := compose(t)
	const done = "service_completed_successfully"
	for name, after := range map[string][]string{
		"workflows": {"setup", "temporal-namespace"}, "issuer-vault": {"setup", "temporal-namespace", "vault-setup"}, "vault-unseal": {"vault-setup"},
	} {
		for _, first := range after {
			if got := services[name].DependsOn[first].Condition; got != done {
				t.Errorf("%s starts after %s is %q, want %s", name, first, got, done)
			}
		}
	}
	if s := services["vault-unseal"]; s.Restart != "unless-stopped" || !slices.Equal(s.Entrypoint, []string{"sh", "/etc/vault.sh", "unseal"}) {
		t.Errorf("vault-unseal runs %q, and is started again: %q", s.Entrypoint, s.Restart)
	}
}

// Vault's configuration names what is mounted, and what setup.sh makes.
func TestVaultConfiguration(t *testing.T) {
	dir := checkout(t)
	furnish(t, dir)
	text, setting := read(t, "deploy/vault.hcl"), regexp.MustCompile(`(?m)^\s*(path|tls_cert_file|tls_key_file) += "(.*)"$`)
	volumes := map[string]string{} // what setup.sh calls it, by where Vault has it
	for _, v := range compose(t)["vault"].Volumes {
		for _, made := range compose(t)["setup"].Volumes {
			if mount(made).source == mount(v).source {
				volumes[mount(v).target] = strings.TrimPrefix(mount(made).target, "/etc/hallpass")
			}
		}
	}
	found := setting.FindAllStringSubmatch(text, -1)
	for _, m := range found {
		at, file := m[2], ""
		if m[1] != "path" {
			at, file = filepath.Split(m[2])
		}
		made, ok := volumes[filepath.Clean(at)]
		if _, err := os.Stat(filepath.Join(dir, made, file)); !ok || err != nil {
			t.Errorf("%s is %s, which isn't mounted or isn't made: %v", m[1], m[2], err)
		}
	}
	if len(found) != 3 {
		t.Errorf("found %d settings", len(found))
	}
}

// People's commands explain by what is in force: their containers and the
// workers' read the same configuration and rulebook, the copies that setup.sh makes.
func TestOneRulebook(t *testing.T) {
	dir, seen := t.TempDir(), 0
	public := filepath.Join(dir, "public")
	err := os.Mkdir(public, 0o700)
	if err == nil {
		err = os.WriteFile(filepath.Join(public, "hallpass.yaml"), []byte(read(t, "deploy/hallpass.yaml")), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	want := []string{filepath.Join(public, "hallpass.yaml"), filepath.Join(public, "policy.yaml"), filepath.Join(public, "directory.yaml"), filepath.Join(public, "catalog.yaml")}
	for name, s := range compose(t) {
		if s.Build.Target != "hallpass" && s.Build.Target != "people" {
			continue
		}
		seen++
		c, err := worker.Load("", func(key string) string { return strings.ReplaceAll(s.Environment[key], "/etc/hallpass", dir) })
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if diff := cmp.Diff(want, []string{c.File, c.Policy, c.Directory, c.Catalog}); diff != "" {
			t.Errorf("%s reads another rulebook: %s", name, diff)
		}
		for _, v := range s.Volumes {
			if m := mount(v); slices.Contains(mounted, filepath.Base(m.source)) {
				t.Errorf("%s mounts %s, which isn't what is in force", name, m.source)
			}
		}
	}
	if seen < 6 {
		t.Errorf("found %d containers with a rulebook", seen)
	}
}

// Whoever has a Temporal of his own reads of each setting what it is for.
func TestDynamicConfigurationIsExplained(t *testing.T) {
	var settings map[string]any
	if err := yaml.Unmarshal([]byte(read(t, "deploy/temporal-dynamic.yaml")), &settings); err != nil {
		t.Fatal(err)
	}
	if len(settings) == 0 {
		t.Error("there are none")
	}
	for name := range settings {
		if !strings.Contains(read(t, "docs/operate.md"), "`"+name+"`") {
			t.Errorf("docs/operate.md doesn't name %s", name)
		}
	}
}

// The shell that images have, dash and busybox, can read the scripts.
func TestScriptsParse(t *testing.T) {
	scripts, err := filepath.Glob(filepath.Join(root, "deploy/*.sh"))
	if err != nil || len(scripts) < 5 {
		t.Fatalf("found %d scripts: %v", len(scripts), err)
	}
	for _, script := range scripts {
		if out, err := exec.Command("sh", "-n", script).CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", script, err, out)
		}
	}
}

// In the audit log, who writes, who serves and who reads has the rights that
// docs/operate.md says, which the audit log's own tests try, and nobody comes as the
// owner of its tables.
func TestRightsInTheAuditLog(t *testing.T) {
	grants := func(name string) []string {
		var all []string
		for _, m := range regexp.MustCompile(`(?m)^ *(GRANT [^;]* hallpass_[^;]*;)`).FindAllStringSubmatch(read(t, name), -1) {
			all = append(all, m[1])
		}
		return all
	}
	if diff := cmp.Diff(grants("docs/operate.md"), grants("deploy/postgres.sh")); diff != "" || len(grants("deploy/postgres.sh")) != 5 {
		t.Errorf("docs/operate.md and deploy/postgres.sh give other rights: %s", diff)
	}
	for name, s := range compose(t) {
		if s.Build.Target != "hallpass" {
			continue
		}
		want := "hallpass_writer"
		if name == "service" {
			want = "hallpass_service"
		}
		if address := s.Environment["HALLPASS_AUDIT_DATABASE"]; !strings.HasPrefix(address, "postgres://"+want+"@") {
			t.Errorf("%s writes to the audit log at %s, want as %s", name, address, want)
		}
	}
}
