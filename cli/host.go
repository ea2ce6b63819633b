package cli

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"
	"golang.org/x/crypto/ssh"

	"hallpass/access"
	"hallpass/audit"
	"hallpass/statement"
)

// JoinToken is a host's invitation.
type JoinToken struct {
	Token    string    `json:"token"` // a secret until it is used
	ID       string    `json:"id"`
	Resource string    `json:"resource"`
	Until    time.Time `json:"until"`
	CAs      []string  `json:"cas,omitempty"` // fingerprints of the SSH CAs that may vouch for what the host is told; none: whichever the service names
}

// defaultJoin is how long a token is good when nobody says how long.
const defaultJoin = time.Hour

func (a *app) hostCommand() *cli.Command {
	return &cli.Command{
		Name:     "host",
		Usage:    "take hosts in, and list those that are",
		Category: categoryOperate,
		Subcommands: []*cli.Command{
			{
				Name:      "token",
				Usage:     "make a token by which one host can enrol, once",
				ArgsUsage: "NAME",
				Description: "NAME is a resource of kind ssh in the catalog. Who may do this stands in policy.yaml,\n" +
					"hosts: {enroll: [GROUP]}. Nothing is stored anywhere until the token is used: give it\n" +
					"to nobody but the host. On the host: hallpass-host enroll --token TOKEN",
				Flags: []cli.Flag{
					&cli.StringSliceFlag{Name: "user-ca", Usage: "fingerprint `SHA256:…` of the SSH CA that has to vouch for what the host is told; the configured one, where it is known here"},
					&cli.StringFlag{Name: "for", Usage: "good for this `TIME`, up to " + access.ShortDuration(access.MaxJoin), Value: access.ShortDuration(defaultJoin)},
				},
				Action: a.hostToken,
			},
			{
				Name:        "list",
				Usage:       "list the hosts that are enrolled",
				Description: "Reads the audit log, so it works where that is.",
				Action:      a.hostList,
			},
		},
	}
}

func (a *app) hostToken(c *cli.Context) error {
	args, err := arguments(c, "NAME")
	if err != nil {
		return err
	}
	name := args[0]
	if !strings.Contains(name, "/") {
		name = "ssh/" + name
	}
	good, err := access.ParseDuration(c.String("for"))
	if err != nil || good < time.Second || good > access.MaxJoin {
		return usagef("--for is %s, not a time from 1s to %s", c.String("for"), access.ShortDuration(access.MaxJoin))
	}
	// Where the catalog is here, a name that isn't in it is noticed now.
	if catalog, err := a.catalog(); err == nil {
		if _, ok := catalog.Resource(name); !ok {
			return failf(ExitNotFound, "there is no resource %s in the catalog", name).withHint("hallpass resources")
		}
	}
	me, err := a.identify()
	if err != nil {
		return err
	}
	defer func() { _ = me.signer.Close() }()
	join := access.Join{Header: a.header(access.TypeHost, me), Resource: name, CAs: c.StringSlice("user-ca")}
	if len(join.CAs) == 0 {
		join.CAs = a.knownCA()
	}
	join.Until = join.Time.Add(good.Truncate(time.Second))
	st, err := sign(a, me, join, statement.ParseJoin)
	if err != nil {
		return err
	}
	token, err := statement.Token(st)
	if err != nil {
		return err
	}
	out := JoinToken{Token: token, ID: join.ID, Resource: name, Until: join.Until, CAs: join.CAs}
	if err := a.print(out, func(p *printer) { p.Printf("%s\n", token) }); err != nil || a.json {
		return err
	}
	cfg, err := a.settings()
	if err != nil {
		return err
	}
	address := "URL"
	if cfg.Service.Address != "" {
		address = "https://" + cfg.Service.Address
	}
	if len(join.CAs) == 0 {
		a.err.Printf("No SSH CA is known here, so the host takes the one that the service names; --user-ca says which it has to be.\n")
	} else {
		a.err.Printf("The host takes nothing that SSH CA %s doesn't vouch for.\n", strings.Join(join.CAs, " or "))
	}
	a.err.Printf("Good for one host, until %s. On %s, as root:\n", a.err.at(join.Until, a.now()), strings.TrimPrefix(name, "ssh/"))
	ca := "service_ca.pub.pem"
	if cfg.Service.Cert != "" {
		ca = "FILE" // of another CA
	}
	a.err.Printf("  hallpass-host enroll --service %s --ca %s --token %s\n", address, ca, "TOKEN")
	return nil
}

// knownCA are the fingerprints of the SSH CA, where its file is beside the settings, and
// of those that hosts trust beside it: the next one may sign by the time that the host
// enrols. A key that is elsewhere isn't asked for: who makes a token need not reach it.
func (a *app) knownCA() []string {
	cfg, err := a.settings()
	if err != nil || !strings.HasPrefix(cfg.Issuers.SSH.Key, "file:") {
		return nil
	}
	key, err := a.caPublic(cfg.Issuers.SSH.Key)
	if err != nil {
		return nil
	}
	known := []string{key.Fingerprint}
	trusted, _ := cfg.Issuers.SSH.TrustedKeys() // where they can't be read, the one that signs is known all the same
	for _, k := range trusted {
		if f := ssh.FingerprintSHA256(k); len(known) < access.MaxJoinCAs && !slices.Contains(known, f) {
			known = append(known, f)
		}
	}
	return known
}

func (a *app) hostList(c *cli.Context) error {
	if _, err := arguments(c); err != nil {
		return err
	}
	return a.withLog(func(r *audit.Reader) error {
		hosts, err := r.Hosts(a.ctx)
		if err != nil {
			return err
		}
		if hosts == nil {
			hosts = []audit.Host{}
		}
		return a.print(hosts, func(p *printer) {
			if len(hosts) == 0 {
				a.err.Printf("No host is enrolled.\n")
				return
			}
			var rows [][]any
			for _, h := range hosts {
				until := "-"
				if cert, err := parseCertificate(h.Certificate); err == nil {
					until = p.clock(time.Unix(int64(cert.ValidBefore), 0))
				}
				rows = append(rows, []any{h.Name, p.clock(h.At), until})
			}
			p.table([]string{"HOST", "ENROLLED", "CERTIFICATE UNTIL"}, rows)
		})
	})
}

// describeHost says in a few words what an event around hosts is about.
func describeHost(e audit.Event) string {
	switch e.Type {
	case audit.HostEnrolled:
		return "takes " + e.Host.Name + " in"
	case audit.HostCertified:
		if cert, err := parseCertificate(e.Host.Certificate); err == nil {
			return fmt.Sprintf("%s until %s, serial %d", strings.Join(cert.ValidPrincipals, ", "),
				time.Unix(int64(cert.ValidBefore), 0).UTC().Format(time.DateOnly), cert.Serial)
		}
	case audit.SessionRefused:
		text := string(e.Code) + ": " + e.Why
		if s, err := statement.ParseSession([]byte(e.Statement.Payload)); err == nil {
			text = fmt.Sprintf("%s on %s, serial %d: %s", s.Login, s.Signer, s.Serial, text)
		}
		return text
	case audit.SessionOpened, audit.SessionClosed, audit.SessionEnded:
		if s, err := statement.ParseSession([]byte(e.Statement.Payload)); err == nil {
			text := s.Login + " on " + s.Signer
			if s.Source != "" {
				text += " from " + s.Source
			}
			if s.Why != "" {
				text += ": " + s.Why
			}
			return text
		}
	}
	return e.Why
}
