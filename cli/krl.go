package cli

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/urfave/cli/v2"
	"golang.org/x/crypto/ssh"

	"hallpass/access"
	"hallpass/audit"
	"hallpass/ca/krl"
)

// KRL is the key revocation list in force.
type KRL struct {
	Version   uint64    `json:"version"`
	Generated time.Time `json:"generated"`
	Revoked   int       `json:"revoked"` // certificates
	Size      int       `json:"size"`    // bytes
	File      string    `json:"file,omitempty"`
}

func (a *app) caKRLCommand() *cli.Command {
	return &cli.Command{
		Name:      "krl",
		Usage:     "show the key revocation list in force, or write it for sshd",
		ArgsUsage: "[FILE]",
		Description: "Writes the list to FILE, for sshd's RevokedKeys, and its signature to FILE.sig; \"-\" is\n" +
			"standard output, for the list alone. Hosts with hallpass-host get it by themselves.",
		Action: a.caKRL,
	}
}

func (a *app) caKRL(c *cli.Context) error {
	args, err := arguments(c, "[FILE]")
	if err != nil {
		return err
	}
	return a.withLog(func(r *audit.Reader) error {
		k, err := r.KRL(a.ctx)
		if err != nil {
			return err
		}
		list, err := a.openKRL(k)
		if err != nil {
			return err
		}
		info := KRL{Version: list.Version, Generated: list.Generated, Revoked: list.Len(), Size: len(k.List), File: args[0]}
		switch args[0] {
		case "-":
			_, err := a.out.Write(k.List)
			return err
		case "":
		default:
			if err := writeKRL(args[0], k); err != nil {
				return err
			}
		}
		if age := a.now().Sub(list.Generated); age > krl.MaxAge {
			a.err.Printf("This list is %s old: no issuer is running.\n", access.ShortDuration(age.Truncate(time.Second)))
		}
		return a.print(info, func(p *printer) {
			p.fields("version", info.Version, "generated", p.at(info.Generated, a.now()),
				"revoked", fmt.Sprintf("%d", info.Revoked), "size", fmt.Sprintf("%d bytes", info.Size), "written to", info.File)
		})
	})
}

// openKRL reads the list, if it is signed by the configured CA. Where none is
// configured, whoever gets the list has to check.
func (a *app) openKRL(k audit.KRL) (*krl.List, error) {
	source, err := a.caSource()
	if err != nil {
		return krl.Parse(k.List)
	}
	info, err := a.caPublic(source)
	if err != nil {
		return nil, err
	}
	key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(info.PublicKey))
	if err != nil {
		return nil, err
	}
	cfg, err := a.settings()
	if err != nil {
		return nil, err
	}
	trusted, err := cfg.Issuers.SSH.TrustedKeys()
	if err != nil {
		return nil, err
	}
	return krl.Open(k.List, k.Signature, append(trusted, key))
}

// writeKRL replaces the files whole: sshd may be reading, and refuses
// everybody where it finds a piece of a list.
func writeKRL(path string, k audit.KRL) error {
	for name, data := range map[string][]byte{path: k.List, path + ".sig": []byte(k.Signature)} {
		f, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+".*")
		if err != nil {
			return fmt.Errorf("write key revocation list: %w", err)
		}
		_, err = f.Write(data)
		err = errors.Join(err, f.Chmod(0o644), f.Sync(), f.Close())
		if err == nil {
			err = os.Rename(f.Name(), name)
		}
		if err != nil {
			return fmt.Errorf("write key revocation list: %w", errors.Join(err, os.Remove(f.Name())))
		}
	}
	return nil
}
