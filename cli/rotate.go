package cli

import (
	"slices"
	"time"

	"github.com/urfave/cli/v2"
	"golang.org/x/crypto/ssh"

	"hallpass/audit"
	"hallpass/internal/wording"
)

// Rotation is where the exchange of the SSH CA's key is.
type Rotation struct {
	Key     CAKey        `json:"key"`     // signs
	Trusted []TrustedKey `json:"trusted"` // by hosts, beside it
}

// TrustedKey is an SSH CA that hosts trust beside the one that signs.
type TrustedKey struct {
	Fingerprint string     `json:"fingerprint"`
	Signed      bool       `json:"signed"` // an issuer has had it: it is on its way out, not in
	Live        int64      `json:"live"`   // its certificates that may still let somebody in
	Until       *time.Time `json:"until,omitempty"`
}

func (a *app) caRotate(c *cli.Context) error {
	if _, err := arguments(c); err != nil {
		return err
	}
	cfg, err := a.settings()
	if err != nil {
		return err
	}
	source, err := a.caSource()
	if err != nil {
		return err
	}
	r := Rotation{Trusted: []TrustedKey{}}
	if r.Key, err = a.caPublic(source); err != nil {
		return err
	}
	keys, err := cfg.Issuers.SSH.TrustedKeys()
	if err != nil {
		return err
	}
	err = a.withLog(func(log *audit.Reader) error {
		for _, key := range keys {
			t := TrustedKey{Fingerprint: ssh.FingerprintSHA256(key)}
			if t.Fingerprint == r.Key.Fingerprint {
				continue
			}
			known, err := log.CA(a.ctx, t.Fingerprint)
			if err != nil {
				return err
			}
			t.Signed, t.Live = known.Signed, known.Live
			if known.Live > 0 {
				t.Until = &known.Until
			}
			r.Trusted = append(r.Trusted, t)
		}
		return nil
	})
	if err != nil {
		return err
	}
	return a.print(r, func(p *printer) { a.rotationText(p, r, cfg.Issuers.SSH.Trusted) })
}

func (a *app) rotationText(p *printer, r Rotation, file string) {
	fields := []any{"signs", r.Key.Fingerprint + "  " + r.Key.Source}
	var said []string // what is to be done, once each
	for _, t := range r.Trusted {
		switch {
		case !t.Signed:
			fields = append(fields, "next", t.Fingerprint)
			said = append(said, "When all hosts have the next one (hallpass-host check says so): make it issuers.ssh.key, with the one\n"+
				"that signs now in "+safe(file)+" as well, and start the issuers anew, one after the other.\n")
		case t.Until != nil:
			fields = append(fields, "last", t.Fingerprint+"  "+wording.Count(int(t.Live), "certificate")+" until "+p.at(*t.Until, a.now()))
			said = append(said, "Leave the last one until its certificates have ended: hosts refuse them without it.\n")
		default:
			fields = append(fields, "last", t.Fingerprint+"  no certificates left")
			said = append(said, "Take the last one out of "+safe(file)+", and start the issuers anew. Hosts forget it within a day,\n"+
				"or at once: systemctl reload hallpass-host\n")
		}
	}
	p.fields(fields...)
	p.Printf("\n")
	if len(r.Trusted) == 0 {
		p.Printf("To put another key in its place:\n")
		p.Printf("  hallpass ca init FILE, and the lines of FILE.pub and of the key that signs now into the file of issuers.ssh.trusted%s\n", parenthesis(file))
		p.Printf("  then start all issuers anew. From then on hosts take it within a day, or at once: systemctl reload hallpass-host\n")
		return
	}
	for i, s := range said {
		if !slices.Contains(said[:i], s) {
			p.Printf("%s", markup(s))
		}
	}
}

// parenthesis adds what there is to add.
func parenthesis(s string) string {
	if s == "" {
		return ""
	}
	return " (" + s + ")"
}
