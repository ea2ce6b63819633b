package cli

import (
	"fmt"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

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
	join := access.Join{Header: a.header(access.TypeHost, me), Resource: name}
	join.Until = join.Time.Add(good.Truncate(time.Second))
	if err := parses(join, func(p []byte) error { _, err := statement.ParseJoin(p); return err }); err != nil {
		return err
	}
	st, err := a.sign(me, join)
	if err != nil {
		return err
	}
	token, err := statement.Token(st)
	if err != nil {
		return err
	}
	out := JoinToken{Token: token, ID: join.ID, Resource: name, Until: join.Until}
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
	a.err.Printf("Good for one host, until %s. On %s, as root:\n", a.err.at(join.Until, a.now()), strings.TrimPrefix(name, "ssh/"))
	ca := "service_ca.pub.pem"
	if cfg.Service.Cert != "" {
		ca = "FILE" // of another CA
	}
	a.err.Printf("  hallpass-host enroll --service %s --ca %s --token %s\n", address, ca, "TOKEN")
	return nil
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
