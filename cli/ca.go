package cli

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"
	"golang.org/x/crypto/ssh"

	"hallpass/access"
	"hallpass/ca"
)

// Where the lines that `ca show` prints put things on a host.
const (
	hostCAFile     = "/etc/ssh/hallpass_ca.pub"
	hostPrincipals = "/etc/ssh/hallpass_principals"
)

// CAKey is the public side of an SSH CA.
type CAKey struct {
	Source      string `json:"source"`      // file:PATH, agent:SHA256:… or vault:MOUNT/KEY@VERSION, as in hallpass.yaml
	Type        string `json:"type"`        // ssh-ed25519 and so on
	Fingerprint string `json:"fingerprint"` // SHA256:…
	PublicKey   string `json:"public_key"`  // the line for the file in TrustedUserCAKeys

	// With --host.
	Host *CAHost `json:"host,omitempty"`
}

// CASetup is what an operator of Vault types to make a CA's key there.
type CASetup struct {
	Source string `json:"source"` // vault:MOUNT/KEY@VERSION
	Type   string `json:"type"`
	Script string `json:"script"`
}

// CAHost is what a host needs to know.
type CAHost struct {
	Resource   string              `json:"resource"`
	Principals map[string][]string `json:"principals"` // lines of AuthorizedPrincipalsFile, by login
	SSHD       []string            `json:"sshd_config"`
	logins     []string
}

func (a *app) caCommand() *cli.Command {
	return &cli.Command{
		Name:     "ca",
		Usage:    "make the SSH CA, and set hosts up to trust it",
		Category: categoryOperate,
		Subcommands: []*cli.Command{
			{
				Name:      "init",
				Usage:     "make the SSH CA's key",
				ArgsUsage: "[FILE|vault:MOUNT/KEY]",
				Description: "Writes the private key to FILE (mode 0600) and the public one to FILE.pub. Without\n" +
					"FILE it goes where issuers.ssh.key says. What exists is never overwritten. Of a key in\n" +
					"Vault it prints what an operator of Vault has to type, and changes nothing.",
				Flags: []cli.Flag{
					&cli.StringFlag{Name: "type", Usage: "`ed25519|ecdsa-p256`, in Vault also ecdsa-p384 and rsa-4096", Value: "ed25519"},
					&cli.BoolFlag{Name: "passphrase", Usage: "encrypt it, with a passphrase asked for on the terminal"},
					&cli.StringFlag{Name: "passphrase-file", Usage: "encrypt it, with the first line of `FILE`", TakesFile: true},
				},
				Action: a.caInit,
			},
			{
				Name:      "show",
				Usage:     "show the SSH CA's public key and how to make a host trust it",
				ArgsUsage: "[FILE|vault:MOUNT/KEY]",
				Description: "Without FILE it shows the key of issuers.ssh.key. The private key isn't read. With\n" +
					"--host it says, line by line, what that host needs.",
				Flags: []cli.Flag{
					&cli.StringFlag{Name: "host", Usage: "set up the host of the resource `ssh/NAME`"},
					&cli.StringSliceFlag{Name: "login", Usage: "for this `LOGIN`; may be repeated", DefaultText: "those in the catalog"},
				},
				Action: a.caShow,
			},
			{
				Name:  "rotate",
				Usage: "show where the exchange of the SSH CA's key is, and the next step",
				Description: "Hosts trust the next key before it signs and the last one until nothing is left of it,\n" +
					"so that nobody is locked out. It changes nothing itself.",
				Action: a.caRotate,
			},
			a.caKRLCommand(),
		},
	}
}

func (a *app) caInit(c *cli.Context) error {
	args, err := arguments(c, "[FILE|vault:MOUNT/KEY]")
	if err != nil {
		return err
	}
	path := args[0]
	if path == "" {
		if path, err = a.caSource(); err != nil {
			return err
		}
		file, ok := strings.CutPrefix(path, "file:")
		if !ok && !strings.HasPrefix(path, "vault:") {
			return failf(ExitError, "the configured SSH CA is %s, which is not a file", path).withHint("hallpass ca init FILE")
		}
		path = file
	}
	if strings.HasPrefix(path, "vault:") {
		return a.caInitVault(c, path)
	}
	if path, err = filepath.Abs(path); err != nil {
		return err
	}
	if c.Bool("passphrase") && c.IsSet("passphrase-file") {
		return usagef("--passphrase and --passphrase-file exclude each other")
	}
	if t := c.String("type"); t != "ed25519" && t != "ecdsa-p256" {
		return usagef("--type is %s, not ed25519 or ecdsa-p256", t)
	}
	// Nobody shall think of a passphrase for a file that can't be made.
	for _, p := range []string{path, path + ".pub"} {
		if _, err := os.Lstat(p); err == nil {
			return failf(ExitError, "%s exists; nothing was changed", p).withHint("hallpass ca show %s", path)
		}
	}
	secret, err := a.newPassphrase(c, path)
	if err != nil {
		return err
	}
	key, err := ca.Create(path, c.String("type"), secret, "hallpass SSH CA")
	clear(secret)
	if err != nil {
		return err
	}
	info := caKey("file:"+path, key)
	return a.print(info, func(p *printer) {
		p.Printf("Made the SSH CA's key.\n")
		p.fields("private key", path, "public key", path+".pub", "fingerprint", info.Fingerprint)
		p.Printf("\nIn hallpass.yaml of the issuer:\n\n  issuers:\n    ssh:\n      key: \"file:%s\"\n", path)
		if f := c.String("passphrase-file"); f != "" {
			p.Printf("      passphrase_file: %s\n", f)
		} else if c.Bool("passphrase") {
			p.Printf("      passphrase_file: %s\n", p.dim("a file with the passphrase, mode 0600"))
		}
		p.Printf("\nTo make a host trust it: hallpass ca show %s --host NAME --login LOGIN\n", path)
	})
}

// newPassphrase is what a new key is encrypted with; nil for not at all.
func (a *app) newPassphrase(c *cli.Context, path string) ([]byte, error) {
	switch file := c.String("passphrase-file"); {
	case file != "":
		data, err := os.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("read the passphrase: %w", err)
		}
		line, _, _ := bytes.Cut(data, []byte("\n"))
		line = bytes.TrimSuffix(line, []byte("\r"))
		if len(line) == 0 {
			return nil, usagef("the first line of %s is empty", file)
		}
		return line, nil
	case !c.Bool("passphrase"):
		return nil, nil
	}
	tty, err := a.console()
	if err != nil {
		return nil, usagef("%v", errNoTerminal).withHint("--passphrase-file FILE")
	}
	defer func() { _ = tty.Close() }()
	p := newPrinter(tty, a.env)
	var answers [2][]byte
	for i, question := range []string{"New passphrase for %s: ", "The same again for %s: "} {
		p.Printf(question, path)
		answers[i], err = tty.ReadPassword()
		_, _ = io.WriteString(tty, "\n")
		if err != nil {
			return nil, fmt.Errorf("read the passphrase: %w", err)
		}
	}
	defer clear(answers[1])
	if len(answers[0]) == 0 {
		return nil, usagef("the passphrase is empty")
	}
	if !bytes.Equal(answers[0], answers[1]) {
		return nil, usagef("the two passphrases differ")
	}
	return answers[0], nil
}

// caSource is where the configuration says that the CA's key is.
func (a *app) caSource() (string, error) {
	cfg, err := a.settings()
	if err != nil {
		return "", err
	}
	if cfg.Issuers.SSH.Key == "" {
		return "", failf(ExitNotFound, "no SSH CA is configured (issuers.ssh.key)").withHint("name its FILE")
	}
	return cfg.Issuers.SSH.Key, nil
}

// caInitVault says how to make a key in Vault.
func (a *app) caInitVault(c *cli.Context, source string) error {
	key, err := ca.ParseTransitKey(source)
	if err != nil {
		return usagef("%w", err)
	}
	if c.Bool("passphrase") || c.IsSet("passphrase-file") {
		return usagef("a key in Vault has no passphrase")
	}
	typ := c.String("type")
	if !slices.Contains(ca.TransitTypes(), typ) {
		return usagef("--type is %s, not one of %s", typ, strings.Join(ca.TransitTypes(), ", "))
	}
	setup := CASetup{Source: key.String(), Type: typ, Script: ca.TransitSetup(key, typ)}
	return a.print(setup, func(p *printer) {
		p.Printf("# What an operator of Vault types. The issuer's login needs the policy hallpass-ssh-ca.\n%s", markup(setup.Script))
		p.Printf("# In hallpass.yaml of the issuer, beside its login in issuers.vault:\n#   issuers: {ssh: {key: \"%s\"}}\n# Then: hallpass ca show\n", setup.Source)
	})
}

func (a *app) caShow(c *cli.Context) error {
	args, err := arguments(c, "[FILE|vault:MOUNT/KEY]")
	if err != nil {
		return err
	}
	source := "file:" + args[0]
	switch {
	case args[0] == "":
		if source, err = a.caSource(); err != nil {
			return err
		}
	case strings.HasPrefix(args[0], "vault:"):
		source = args[0]
	}
	info, err := a.caPublic(source)
	if err != nil {
		return err
	}
	if c.IsSet("login") && !c.IsSet("host") {
		return usagef("--login goes with --host")
	}
	if c.IsSet("host") {
		if info.Host, err = a.caHost(c.String("host"), c.StringSlice("login")); err != nil {
			return err
		}
	}
	return a.print(info, func(p *printer) { caText(p, info) })
}

// caPublic finds a CA's public key without its private one.
func (a *app) caPublic(source string) (CAKey, error) {
	path, ok := strings.CutPrefix(source, "file:")
	if !ok {
		o := ca.OpenOptions{AgentSocket: a.env("SSH_AUTH_SOCK")}
		if strings.HasPrefix(source, "vault:") {
			key, err := ca.ParseTransitKey(source)
			if err != nil {
				return CAKey{}, usagef("%w", err)
			}
			source = key.String() // with its version
			cfg, err := a.settings()
			if err != nil {
				return CAKey{}, err
			}
			if o.Vault, err = cfg.CAVault(); err != nil {
				return CAKey{}, err
			}
		}
		signer, err := ca.Open(source, o)
		if err != nil {
			return CAKey{}, err
		}
		return caKey(source, signer.PublicKey()), nil
	}
	path = strings.TrimSuffix(path, ".pub")
	data, err := os.ReadFile(path + ".pub")
	if errors.Is(err, fs.ErrNotExist) {
		return CAKey{}, failf(ExitNotFound, "there is no %s.pub", path).withHint("hallpass ca init %s", path)
	} else if err != nil {
		return CAKey{}, fmt.Errorf("read the CA's public key: %w", err)
	}
	key, _, _, _, err := ssh.ParseAuthorizedKey(data)
	if err != nil {
		return CAKey{}, fmt.Errorf("%s.pub: %w", path, err)
	}
	return caKey("file:"+path, key), nil
}

func caKey(source string, key ssh.PublicKey) CAKey {
	return CAKey{
		Source:      source,
		Type:        key.Type(),
		Fingerprint: ssh.FingerprintSHA256(key),
		PublicKey:   strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key))) + " hallpass SSH CA",
	}
}

// caHost says what the host of a resource needs: for each login that may be
// asked for, the one principal that opens it.
func (a *app) caHost(name string, logins []string) (*CAHost, error) {
	if !strings.Contains(name, "/") {
		name = "ssh/" + name
	}
	if len(logins) == 0 {
		catalog, err := a.catalog()
		if err != nil {
			return nil, usagef("which logins of %s? %v", name, err).withHint("--login LOGIN")
		}
		resource, ok := catalog.Resource(name)
		if !ok {
			return nil, failf(ExitNotFound, "there is no resource %s in the catalog", name).withHint("hallpass resources")
		}
		logins = resource.Logins
	}
	h := &CAHost{
		Resource:   name,
		Principals: map[string][]string{},
		SSHD:       []string{"TrustedUserCAKeys " + hostCAFile, "AuthorizedPrincipalsFile " + hostPrincipals + "/%u"},
		logins:     logins,
	}
	for _, login := range logins {
		principal, err := ca.Principal(name, login)
		if err != nil {
			return nil, err
		}
		h.Principals[login] = []string{principal}
	}
	if len(h.Principals) == 0 {
		return nil, access.Errorf(access.CodeNotFound, "%s has no logins in the catalog", name)
	}
	return h, nil
}

func caText(p *printer, k CAKey) {
	p.fields("key", k.Source, "fingerprint", k.Fingerprint, "public key", k.PublicKey)
	if k.Host == nil {
		p.Printf("\nTo make a host trust it: hallpass ca show --host NAME\n")
		return
	}
	p.Printf("\nOn the host of %s, as root:\n\n", k.Host.Resource)
	p.Printf("  echo '%s' > %s\n", k.PublicKey, hostCAFile)
	p.Printf("  mkdir -p %s\n", hostPrincipals)
	for _, login := range k.Host.logins {
		p.Printf("  echo '%s' > %s/%s\n", k.Host.Principals[login][0], hostPrincipals, login)
	}
	p.Printf("\nAnd in /etc/ssh/sshd_config, before any Match:\n\n")
	for _, line := range k.Host.SSHD {
		p.Printf("  %s\n", line)
	}
	p.Printf("\nThen: sshd -t && systemctl reload ssh\n")
	p.Printf("A login without a file there lets no certificate in. Other ways to log in stay as they are.\n")
}
