package worker

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"text/template"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"hallpass/access"
	"hallpass/audit"
	"hallpass/ca"
	"hallpass/internal/yamlfile"
	"hallpass/statement"
)

// furnished is what furnish found or made.
type furnished struct {
	names      []string // of files that were made
	you, other Person
}

// example is what the example files speak of.
type example struct {
	Address, UI string
	Service     string   // where hosts are served
	You, Other  string   // names
	Login       string   // of the account on the example hosts
	Keys        []string // of You, as lines of authorized_keys
	OtherKey    string
	YourKey     string // path below the folder; "" if You has keys of his own
	Dir         string
}

// furnish makes what isn't in the folder yet: keys, the configuration, and an
// example policy, directory and catalog in which the person who runs this
// may ask and a second one may approve. Each file appears whole, so that it
// can be stopped anywhere and go on at the next start. It then loads the
// configuration.
func furnish(f *Folder, o DevOptions) (*Config, furnished, error) {
	var made furnished
	ex := example{Address: address(pick(o.Port, DefaultPort)), UI: "http://" + address(pick(o.UIPort, DefaultUIPort)), Service: address(pick(o.ServicePort, DefaultServicePort)), Dir: f.Path()}
	ex.You, ex.Login = you(o.Env)
	if ex.Other = "bob"; ex.You == ex.Other {
		ex.Other = "carol"
	}
	var err error
	if ex.Keys, ex.YourKey, err = yourKeys(f, &made, ex.You, o.Env); err != nil {
		return nil, made, err
	}
	if ex.OtherKey, err = f.person(&made, ex.Other); err != nil {
		return nil, made, err
	}
	made.you = Person{Name: ex.You, Group: "dev"}
	if ex.YourKey != "" {
		made.you.Key = f.Path(ex.YourKey)
	}
	made.other = Person{Name: ex.Other, Group: "sre", Key: f.Path("people", ex.Other, "id")}

	if err := f.pair(&made, "audit.key", "audit.pub", func(private, public string) error {
		_, err := audit.CreateKey(private, public, "hallpass-dev")
		return err
	}); err != nil {
		return nil, made, fmt.Errorf("make audit key: %w", err)
	}
	if err := f.pair(&made, "ssh_ca", "ssh_ca.pub", func(private, _ string) error {
		_, err := ca.Create(private, "ed25519", nil, "hallpass dev CA")
		return err
	}); err != nil {
		return nil, made, fmt.Errorf("make SSH CA: %w", err)
	}
	if err := f.pair(&made, "ssh_host_ca", "ssh_host_ca.pub", func(private, _ string) error {
		_, err := ca.Create(private, "ed25519", nil, "hallpass dev CA of hosts")
		return err
	}); err != nil {
		return nil, made, fmt.Errorf("make SSH CA of hosts: %w", err)
	}
	for _, file := range []struct{ name, text string }{
		{"policy.yaml", policyExample},
		{"directory.yaml", directoryExample},
		{"catalog.yaml", catalogExample},
		{configName, configExample},
	} {
		var b bytes.Buffer
		if err := template.Must(template.New(file.name).Funcs(template.FuncMap{"yaml": yamlText}).Parse(file.text)).Execute(&b, ex); err != nil {
			return nil, made, fmt.Errorf("make %s: %w", file.name, err)
		}
		created, err := f.create(file.name, 0o600, b.Bytes())
		if err != nil {
			return nil, made, fmt.Errorf("make %s: %w", file.name, err)
		}
		if created {
			made.names = append(made.names, file.name)
		}
	}
	c, err := Load(f.Path(configName), own(o.Env))
	return c, made, err
}

// yamlText writes a text so that YAML doesn't take it for a number or a truth
// value.
func yamlText(s string) string {
	root, err := yamlfile.Parse("", []byte(s+": "+s+"\n"))
	if err == nil {
		err = root.Each(func(key string, _, value yamlfile.Node) error {
			text, err := value.Text()
			if err == nil && (text != s || key != s) {
				err = errors.New("means something else")
			}
			return err
		})
	}
	if err != nil {
		return strconv.Quote(s)
	}
	return s
}

func pick(port, otherwise int) int {
	if port == 0 {
		return otherwise
	}
	return port
}

// you names the person who runs this, as the directory may write it, and
// their account as sshd may.
func you(env func(string) string) (name, login string) {
	login = env("USER")
	if u, err := user.Current(); err == nil {
		login = u.Username
	}
	name = strings.Map(func(r rune) rune {
		if r < 0x80 && access.CheckName("user", "a"+string(r)) == nil {
			return r
		}
		return -1
	}, strings.ToLower(login))
	if access.CheckName("user", name) != nil {
		name = "me"
	}
	if access.CheckLogin(login) != nil {
		login = "deploy"
	}
	return name, login
}

// pair makes a key pair that isn't there yet. The private half, whose
// presence says that it is done, comes last.
func (f *Folder) pair(made *furnished, private, public string, create func(private, public string) error) error {
	if there, err := f.exists(private); there || err != nil {
		return err
	}
	temp, err := os.MkdirTemp(f.Path(), ".new-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(temp) //nolint:errcheck // empty by then, or of no use
	newPrivate, newPublic := filepath.Join(temp, filepath.Base(private)), filepath.Join(temp, filepath.Base(public))
	if err := create(newPrivate, newPublic); err != nil {
		return err
	}
	dir := filepath.Dir(f.Path(private))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if err := errors.Join(os.Rename(newPublic, f.Path(public)), syncFolder(dir)); err != nil {
		return err
	}
	if err := errors.Join(os.Rename(newPrivate, f.Path(private)), syncFolder(dir)); err != nil {
		return err
	}
	made.names = append(made.names, private, public)
	return nil
}

// person makes a signing key for an example person and returns its public
// half.
func (f *Folder) person(made *furnished, name string) (string, error) {
	private := filepath.Join("people", name, "id")
	if err := f.pair(made, private, private+".pub", func(private, public string) error {
		return createSigningKey(private, public, name+"@hallpass-dev")
	}); err != nil {
		return "", fmt.Errorf("make signing key of %s: %w", name, err)
	}
	line, err := os.ReadFile(f.Path(private + ".pub"))
	if err != nil {
		return "", fmt.Errorf("read signing key of %s: %w", name, err)
	}
	key, _, _, _, err := ssh.ParseAuthorizedKey(line)
	if err != nil {
		return "", fmt.Errorf("read signing key of %s: %w", name, err)
	}
	return statement.MarshalKey(key), nil
}

// createSigningKey makes an Ed25519 key as ssh-keygen would.
func createSigningKey(private, public, comment string) error {
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	block, err := ssh.MarshalPrivateKey(key, comment)
	if err != nil {
		return err
	}
	sshPub, err := ssh.NewPublicKey(pub)
	if err != nil {
		return err
	}
	for _, file := range []struct {
		path string
		mode os.FileMode
		data []byte
	}{
		{private, 0o600, pem.EncodeToMemory(block)},
		{public, 0o644, []byte(statement.MarshalKey(sshPub) + " " + comment + "\n")},
	} {
		f, err := os.OpenFile(file.path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, file.mode)
		if err != nil {
			return err
		}
		if err := errors.Join(writeAll(f, file.mode, file.data), f.Close()); err != nil {
			return err
		}
	}
	return nil
}

// yourKeys finds the keys that the person here can sign with, in ssh-agent
// and among the usual files, where the client will look for them too. Where
// there is none, one is made, and its path below the folder returned.
func yourKeys(f *Folder, made *furnished, name string, env func(string) string) (keys []string, path string, err error) {
	private := filepath.Join("people", name, "id")
	there, err := f.exists(private)
	if err != nil {
		return nil, "", err
	}
	if !there {
		for _, key := range append(agentKeys(env("SSH_AUTH_SOCK")), fileKeys(env("HOME"))...) {
			if line := statement.MarshalKey(key); statement.CheckKey(key) == nil && !slices.Contains(keys, line) {
				keys = append(keys, line)
			}
		}
		if len(keys) > 0 {
			return keys, "", nil
		}
	}
	key, err := f.person(made, name)
	return []string{key}, private, err
}

// agentKeys lists the keys in ssh-agent. Without one there are none.
func agentKeys(socket string) []ssh.PublicKey {
	if socket == "" {
		return nil
	}
	conn, err := net.DialTimeout("unix", socket, time.Second)
	if err != nil {
		return nil
	}
	defer conn.Close() //nolint:errcheck // nothing was written
	if conn.SetDeadline(time.Now().Add(2*time.Second)) != nil {
		return nil
	}
	list, err := agent.NewClient(conn).List()
	if err != nil {
		return nil
	}
	var keys []ssh.PublicKey
	for _, k := range list {
		if key, err := ssh.ParsePublicKey(k.Marshal()); err == nil {
			keys = append(keys, key)
		}
	}
	return keys
}

// fileKeys lists the keys among ssh's usual files whose private half is there
// as well.
func fileKeys(home string) []ssh.PublicKey {
	if home == "" {
		return nil
	}
	var keys []ssh.PublicKey
	for _, name := range []string{"id_ed25519", "id_ecdsa", "id_rsa"} {
		path := filepath.Join(home, ".ssh", name)
		line, err := os.ReadFile(path + ".pub")
		if err != nil {
			continue
		}
		if _, err := os.Stat(path); err != nil {
			continue
		}
		if key, _, _, _, err := ssh.ParseAuthorizedKey(line); err == nil {
			keys = append(keys, key)
		}
	}
	return keys
}
