package cli

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"hallpass/access"
	"hallpass/audit"
	"hallpass/statement"
)

func (a *app) auditCommand() *cli.Command {
	return &cli.Command{
		Name:     "audit",
		Usage:    "see and prove who accessed what, when, why, and on whose word",
		Category: categoryLook,
		Subcommands: []*cli.Command{
			{
				Name:      "init",
				Usage:     "make the key that signs the log",
				ArgsUsage: "NAME",
				Description: "NAME is the log's, such as audit.example.com: it is in every checkpoint, and ought to be\n" +
					"unique among those who compare them. The private key (mode 0600) goes where audit.key\n" +
					"says, the public one where audit.public_key says. What exists is never overwritten.",
				Action: a.auditInit,
			},
			{
				Name:  "schema",
				Usage: "print the SQL that makes an empty log in a PostgreSQL database",
				Description: "For psql, as who shall own the tables. Workers then come as users who can't change them;\n" +
					"where they may make them, the first one does, and this isn't needed.",
				Action: a.auditSchema,
			},
			{
				Name:  "log",
				Usage: "list what happened; --grants: who accessed what when",
				Flags: append(auditFilterFlags(),
					&cli.BoolFlag{Name: "grants", Usage: "one line for each access that was given"},
					&cli.IntFlag{Name: "limit", Usage: "at most `N`, the last ones; 0: all", Value: 100},
				),
				Description: "Events: " + strings.Join(audit.Types(), ", ") + ";\nthe part up to the dot chooses all that begin so.",
				Action:      a.auditLog,
			},
			{
				Name:      "show",
				Usage:     "show one event by its index, or all of one request",
				ArgsUsage: "INDEX|ID",
				Action:    a.auditShow,
			},
			{
				Name:  "verify",
				Usage: "recompute the log, check every signature in it, judge again everything that was issued",
				Flags: []cli.Flag{
					&cli.StringFlag{Name: "since", Usage: "and check that the log has only grown since the checkpoint in `FILE`", TakesFile: true},
					&cli.StringSliceFlag{Name: "witness", Usage: "and that the witness with this `KEY` has cosigned that checkpoint; may be repeated"},
				},
				Action: a.auditVerify,
			},
			{
				Name:        "prove",
				Usage:       "write the proof of one request, which anybody can check",
				ArgsUsage:   "ID",
				Description: "hallpass audit prove ID > proof.json",
				Action:      a.auditProve,
			},
			{
				Name:      "check",
				Usage:     "check a proof with the log's public key and nothing else",
				ArgsUsage: "FILE",
				Flags: []cli.Flag{
					&cli.StringFlag{Name: "key", Usage: "the log's public `KEY`, or the file it is in; default: the configured one"},
				},
				Action: a.auditCheck,
			},
			{
				Name:  "export",
				Usage: "write events as JSON Lines (everything, byte for byte), CSV (the short form) or OCSF (for a SIEM)",
				Flags: append(auditFilterFlags(),
					&cli.StringFlag{Name: "format", Usage: "`jsonl|csv|ocsf`", Value: "jsonl"},
				),
				Action: a.auditExport,
			},
			{
				Name:      "copy",
				Usage:     "copy the whole log into a new file or PostgreSQL database, and verify the copy",
				ArgsUsage: "FILE|postgres://USER@HOST/DATABASE",
				Description: "A back-up, or the way from one database to the other: stop the workers, copy, set audit.database, start them.\n" +
					"PostgreSQL's password comes from PGPASSFILE, ~/.pgpass or PGPASSWORD.",
				Action: a.auditCopy,
			},
			{
				Name:        "checkpoint",
				Usage:       "print the signed checkpoint, to be kept elsewhere",
				Description: "Whoever keeps one can tell later, with audit verify --since FILE, that nothing before it was changed.",
				Action:      a.auditCheckpoint,
			},
		},
	}
}

// AuditKey is the public side of the log's key.
type AuditKey struct {
	Key       string `json:"key"`        // file of the private half
	File      string `json:"file"`       // of the public half
	PublicKey string `json:"public_key"` // name+hash+key
}

func (a *app) auditSchema(c *cli.Context) error {
	if _, err := arguments(c); err != nil {
		return err
	}
	cfg, err := a.settings()
	if err != nil {
		return err
	}
	if cfg.Audit.Key == "" {
		return failf(ExitNotFound, "audit.key is not configured").withHint("name it in hallpass.yaml")
	}
	key, err := audit.ReadKey(cfg.Audit.Key)
	if err != nil {
		return err
	}
	made, err := audit.PostgresSchema(key)
	if err != nil {
		return err
	}
	if a.json {
		return a.out.json(map[string]string{"sql": made})
	}
	_, err = a.out.Write([]byte(made))
	return err
}

func (a *app) auditInit(c *cli.Context) error {
	args, err := arguments(c, "NAME")
	if err != nil {
		return err
	}
	cfg, err := a.settings()
	if err != nil {
		return err
	}
	out := AuditKey{Key: cfg.Audit.Key, File: cfg.Audit.PublicKey}
	if out.Key == "" || out.File == "" {
		return failf(ExitNotFound, "audit.key or audit.public_key is not configured").withHint("name them in hallpass.yaml")
	}
	for _, path := range []string{out.Key, out.File} {
		if _, err := os.Lstat(path); err == nil {
			return failf(ExitError, "%s exists; nothing was changed", path)
		}
	}
	if out.PublicKey, err = audit.CreateKey(out.Key, out.File, args[0]); err != nil {
		return err
	}
	return a.print(out, func(p *printer) {
		p.Printf("Made the audit log's key.\n")
		p.fields("private key", out.Key, "public key", out.File, "for verifiers", out.PublicKey)
	})
}

func auditFilterFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "requester", Usage: "only access for `USER`"},
		&cli.StringFlag{Name: "resource", Usage: "only `KIND/NAME`, or KIND/ for all of a kind"},
		&cli.StringFlag{Name: "actor", Usage: "only what `USER` did"},
		&cli.StringFlag{Name: "event", Usage: "only events of `TYPE`"},
		&cli.StringFlag{Name: "request", Usage: "only the request `ID`"},
		&cli.StringFlag{Name: "from", Usage: "from this `TIME` on: 2006-01-02, \"2006-01-02 15:04\", RFC 3339, or 8h for that long ago"},
		&cli.StringFlag{Name: "to", Usage: "up to this `TIME`"},
	}
}

// auditQuery reads the filters, all but --limit.
func (a *app) auditQuery(c *cli.Context, r *audit.Reader) (q audit.Query, err error) {
	q = audit.Query{Requester: c.String("requester"), Resource: c.String("resource"), Actor: c.String("actor"), Type: c.String("event")}
	if q.Type != "" && !slices.ContainsFunc(audit.Types(), func(t string) bool {
		return t == q.Type || strings.HasSuffix(q.Type, ".") && strings.HasPrefix(t, q.Type)
	}) {
		return q, usagef("--event %s is not a type of event", q.Type).withHint("%s", strings.Join(audit.Types(), ", "))
	}
	if id := c.String("request"); id != "" {
		if q.Request, err = r.FindRequest(a.ctx, id); err != nil {
			return q, err
		}
	}
	if q.From, err = a.auditTime("--from", c.String("from")); err != nil {
		return q, err
	}
	if q.To, err = a.auditTime("--to", c.String("to")); err != nil {
		return q, err
	}
	if !q.From.IsZero() && !q.To.IsZero() && !q.From.Before(q.To) {
		return q, usagef("--from is not before --to")
	}
	return q, nil
}

// auditTime reads a time in the past: a date, a time in the local zone, RFC
// 3339, or how long ago.
func (a *app) auditTime(flag, s string) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	for _, layout := range []string{time.RFC3339, "2006-01-02 15:04:05", "2006-01-02 15:04", "2006-01-02T15:04", time.DateOnly} {
		if t, err := time.ParseInLocation(layout, s, a.out.zone); err == nil {
			return t, nil
		}
	}
	if d, err := access.ParseDuration(s); err == nil && d >= 0 && !strings.HasPrefix(s, "+") {
		return a.now().Add(-d), nil
	}
	return time.Time{}, usagef("%s %s is not a time", flag, s).withHint("2006-01-02, \"2006-01-02 15:04\", 2006-01-02T15:04:05Z, or 8h for eight hours ago")
}

// withLog opens the log for reading for one call of do.
func (a *app) withLog(do func(*audit.Reader) error) (err error) {
	cfg, err := a.settings()
	if err != nil {
		return err
	}
	if cfg.Audit.Database == "" || cfg.Audit.PublicKey == "" {
		return fmt.Errorf("the audit log %w", errNotHere)
	}
	key, err := audit.ReadPublicKey(cfg.Audit.PublicKey)
	if err != nil {
		return err
	}
	r, err := audit.OpenReader(a.ctx, cfg.Audit.Database, key)
	if err != nil {
		return auditError(err)
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	return auditError(do(r))
}

// auditError keeps a damaged log apart from a refused statement: same code,
// another exit.
func auditError(err error) error {
	switch access.CodeOf(err) {
	case access.CodeUnverified, access.CodeMalformed:
		return failf(ExitError, "%w", err).withHint("%s", hintOf(err))
	case access.CodeMismatch: // an id that is too short
		return failf(ExitNotFound, "%w", err).withHint("type more of it")
	}
	return err
}

func (a *app) auditLog(c *cli.Context) error {
	if _, err := arguments(c); err != nil {
		return err
	}
	limit := c.Int("limit")
	if limit < 0 {
		return usagef("--limit is %d, not 0 or more", limit)
	}
	return a.withLog(func(r *audit.Reader) error {
		q, err := a.auditQuery(c, r)
		if err != nil {
			return err
		}
		q.Limit, q.Last = limit, true
		if c.Bool("grants") {
			grants, err := r.Grants(a.ctx, q)
			if err != nil {
				return err
			}
			if grants == nil {
				grants = []audit.Grant{}
			}
			return a.print(grants, func(p *printer) { a.grantsText(p, grants) })
		}
		records := []logged{}
		for rec, err := range r.Events(a.ctx, q) {
			if err != nil {
				return err
			}
			records = append(records, logged{rec.Index, rec.Event})
		}
		return a.print(records, func(p *printer) { a.eventsText(p, records) })
	})
}

// logged is an event as the commands print it.
type logged struct {
	Index int64       `json:"index"`
	Event audit.Event `json:"event"`
}

func (a *app) eventsText(p *printer, records []logged) {
	if len(records) == 0 {
		a.err.Printf("Nothing found.\n")
		return
	}
	ids := make([]string, len(records))
	for i, rec := range records {
		ids[i] = rec.Event.Request
	}
	short := shortIDs(ids)
	var rows [][]any
	for _, rec := range records {
		e := rec.Event
		rows = append(rows, []any{rec.Index, p.clock(e.Time), e.Type, short[e.Request], e.Requester, e.Resource, e.Actor, a.describe(p, e)})
	}
	p.table([]string{"INDEX", "TIME", "EVENT", "REQUEST", "FOR", "RESOURCE", "BY", ""}, rows)
}

// identified says which credential a handle is of, and until when.
func identified(p *printer, h access.Handle) string {
	if h.Accessor != "" {
		return fmt.Sprintf("until %s, accessor %s", p.clock(h.NotAfter), h.Accessor)
	}
	return fmt.Sprintf("%s until %s, serial %d", strings.Join(h.Principals, ", "), p.clock(h.NotAfter), h.Serial)
}

// describe says in a few words what an event is about.
func (a *app) describe(p *printer, e audit.Event) string {
	switch {
	case e.Host != nil || strings.HasPrefix(e.Type, "session."):
		return describeHost(e)
	case e.File != nil:
		return e.File.Name + " " + shortDigest(e.File.Digest)
	case e.Code != "":
		return string(e.Code) + ": " + e.Why
	case e.Credential != nil:
		return identified(p, e.Credential.Handle)
	case e.Handle != nil:
		return identified(p, *e.Handle)
	case e.Type == audit.RequestReceived && e.Statement != nil:
		if r, err := statement.ParseRequest([]byte(e.Statement.Payload)); err == nil {
			as, why := "", ""
			if r.Login != "" {
				as = "as " + r.Login + " "
			}
			if r.Reason != "" {
				why = ": " + r.Reason
			}
			return as + "for " + r.Duration.String() + why
		}
	case e.Type == audit.DecisionAccepted && e.Statement != nil:
		if d, err := statement.ParseDecision([]byte(e.Statement.Payload)); err == nil {
			s := string(d.Verdict)
			if d.Duration > 0 {
				s += " for at most " + d.Duration.String()
			}
			if d.Comment != "" {
				s += ": " + d.Comment
			}
			return s
		}
	}
	return e.Why
}

func shortDigest(d string) string {
	if len(d) > len("sha256:")+12 {
		return d[:len("sha256:")+12]
	}
	return d
}

func (a *app) grantsText(p *printer, grants []audit.Grant) {
	if len(grants) == 0 {
		a.err.Printf("No access was given.\n")
		return
	}
	ids := make([]string, len(grants))
	for i, g := range grants {
		ids[i] = g.Request
	}
	short, now := shortIDs(ids), a.now()
	var rows [][]any
	for _, g := range grants {
		what := g.Resource
		if g.Login != "" {
			what = g.Login + " on " + what
		}
		if g.Command != "" {
			what += ": " + g.Command
		}
		ended := string(g.Ended)
		switch {
		case g.Ended != "" && g.EndedBy != "":
			ended += " by " + g.EndedBy
		case g.Ended == "" && now.Before(g.Until):
			ended = "ends " + relative(g.Until, now)
		case g.Ended == "":
			ended = "ran out"
		}
		why := g.Reason
		if g.Ticket != "" {
			why = strings.TrimSpace(g.Ticket + " " + why)
		}
		by := strings.Join(g.ApprovedBy, ", ")
		if by == "" {
			by = "rule " + strings.Join(g.Rules, ", ")
		}
		rows = append(rows, []any{short[g.Request], g.Requester, what, p.clock(g.From), p.clock(g.Until), ended, by, why})
	}
	p.table([]string{"REQUEST", "WHO", "WHAT", "FROM", "UNTIL", "ENDED", "APPROVED BY", "WHY"}, rows)
}

func (a *app) auditShow(c *cli.Context) error {
	args, err := arguments(c, "INDEX|ID")
	if err != nil {
		return err
	}
	return a.withLog(func(r *audit.Reader) error {
		var records []logged
		// Ids begin with the time in milliseconds in 48 bits, so with a zero
		// until the year 2527.
		if index, err := strconv.ParseInt(args[0], 10, 64); err == nil && strconv.FormatInt(index, 10) == args[0] {
			rec, err := r.Event(a.ctx, index)
			if err != nil {
				return err
			}
			one := logged{rec.Index, rec.Event}
			return a.print(one, func(p *printer) { a.eventText(p, one) })
		}
		id, err := r.FindRequest(a.ctx, args[0])
		if err != nil {
			return err
		}
		for rec, err := range r.Events(a.ctx, audit.Query{Request: id}) {
			if err != nil {
				return err
			}
			records = append(records, logged{rec.Index, rec.Event})
		}
		return a.print(records, func(p *printer) {
			p.Printf("%s\n", p.bold("request "+id))
			for _, rec := range records {
				p.Printf("\n")
				a.eventText(p, rec)
			}
		})
	})
}

func (a *app) eventText(p *printer, rec logged) {
	e := rec.Event
	p.Printf("%s  %s\n", p.bold(fmt.Sprintf("%d %s", rec.Index, e.Type)), a.describe(p, e))
	fields := []any{
		"time", p.at(e.Time, a.now()), "request", e.Request, "step", e.Step, "by", e.Actor, "for", e.Requester, "resource", e.Resource,
		"state", string(e.State), "code", string(e.Code), "why", e.Why,
	}
	if d := e.Digests; d != nil {
		fields = append(fields, "policy", d.Policy, "directory", d.Directory, "catalog", d.Catalog)
	}
	if r := e.Ruling; r != nil {
		fields = append(fields, "ruling", string(r.Effect)+": "+r.Why, "rules", strings.Join(r.Rules, ", "))
		if e.Digests == nil {
			fields = append(fields, "policy", r.Digests.Policy, "directory", r.Digests.Directory, "catalog", r.Digests.Catalog)
		}
	}
	if e.Ruling != nil {
		fields = append(fields, contextFields(e.Ruling.Context)...)
	}
	if s := e.Statement; s != nil {
		fields = append(fields, "statement", s.Payload)
	}
	if ev := e.Evidence; ev != nil {
		fields = append(fields, "evidence", ev.Request.Payload)
		for _, d := range ev.Decisions {
			fields = append(fields, "decision", d.Payload)
		}
	}
	if cred := e.Credential; cred != nil {
		fields = append(fields, "certificate", cred.Certificate)
	}
	p.fields(fields...)
	if e.File != nil {
		for line := range strings.Lines(e.File.Content) {
			p.Printf("  | %s\n", strings.TrimRight(line, "\r\n"))
		}
	}
}

func (a *app) auditVerify(c *cli.Context) error {
	if _, err := arguments(c); err != nil {
		return err
	}
	var o audit.VerifyOptions
	if file := c.String("since"); file != "" {
		data, err := a.readFile(file)
		if err != nil {
			return fmt.Errorf("read the older checkpoint: %w", err)
		}
		o.Since = data
	}
	if o.Witnesses = c.StringSlice("witness"); len(o.Witnesses) > 0 && o.Since == nil {
		return usagef("--witness goes with --since: witnesses cosign a checkpoint")
	}
	return a.withLog(func(r *audit.Reader) error {
		report, err := r.Verify(a.ctx, o)
		if err != nil {
			return err
		}
		return a.auditReport(report, "the audit log")
	})
}

// auditReport prints a report, and returns the first problem as the error.
func (a *app) auditReport(r audit.Report, what string) error {
	if err := a.print(r, func(p *printer) { a.reportText(p, r) }); err != nil {
		return err
	}
	if !r.OK {
		return failf(ExitError, "%s does not verify: %s", what, r.OneLine())
	}
	return nil
}

func (a *app) reportText(p *printer, r audit.Report) {
	changed := int64(-1) // what else is wrong with an event that has been changed follows from that
	for _, x := range r.Problems {
		if x.Index >= 0 && x.Index == changed {
			continue
		}
		if strings.HasPrefix(x.What, "the event has been changed") {
			changed = x.Index
		}
		p.Printf("%s %s\n", p.style("31", "wrong:"), x.String())
	}
	if r.More > 0 {
		p.Printf("%s and %d more\n", p.style("31", "wrong:"), r.More)
	}
	for _, x := range r.Warnings {
		p.Printf("%s %s\n", p.style("33", "odd:"), x.String())
	}
	if !r.OK {
		return
	}
	p.Printf("%s %s\n", p.style("32", "verified:"), r.OneLine())
	since, span := "", ""
	if r.Since != nil {
		since = fmt.Sprintf("the first %d events are those of the older checkpoint", *r.Since)
	}
	if !r.From.IsZero() {
		span = p.clock(r.From) + " to " + p.clock(r.To)
	}
	fields := []any{"log", r.Log, "size", r.Size, "time", span, "since", since}
	for _, w := range r.Witnessed {
		fields = append(fields, "witness", w.Witness+", "+p.at(w.Time, a.now()))
	}
	p.fields(fields...)
	if g := r.Grant; g != nil {
		p.Printf("\n")
		a.grantsText(p, []audit.Grant{*g})
		if g.Ended == "" {
			p.Printf("\nThere is no early end in it. Whoever made the proof could leave one out: only the log shows all.\n")
		}
	}
}

func (a *app) auditProve(c *cli.Context) error {
	args, err := arguments(c, "ID")
	if err != nil {
		return err
	}
	return a.withLog(func(r *audit.Reader) error {
		id, err := r.FindRequest(a.ctx, args[0])
		if err != nil {
			return err
		}
		proof, err := r.Prove(a.ctx, id)
		if err != nil {
			return err
		}
		return a.out.json(proof)
	})
}

func (a *app) auditCheck(c *cli.Context) error {
	args, err := arguments(c, "FILE")
	if err != nil {
		return err
	}
	key := c.String("key")
	if key == "" {
		cfg, err := a.settings()
		if err != nil {
			return usagef("--key is missing").withHint("the log's public key, or the file it is in, from somebody you trust")
		}
		if key, err = audit.ReadPublicKey(cfg.Audit.PublicKey); err != nil {
			return err
		}
	} else if _, err := os.Stat(key); err == nil {
		if key, err = audit.ReadPublicKey(key); err != nil {
			return err
		}
	}
	data, err := a.readFile(args[0])
	if err != nil {
		return fmt.Errorf("read the proof: %w", err)
	}
	report, err := audit.CheckProof(data, strings.TrimSpace(key))
	if err != nil {
		return auditError(err)
	}
	return a.auditReport(report, "the proof")
}

// readFile reads a file, or standard input for "-".
func (a *app) readFile(name string) ([]byte, error) {
	if name == "-" {
		return io.ReadAll(io.LimitReader(a.stdin, 65<<20))
	}
	return os.ReadFile(name)
}

func (a *app) auditExport(c *cli.Context) error {
	if _, err := arguments(c); err != nil {
		return err
	}
	format := c.String("format")
	if format != "jsonl" && format != "csv" && format != "ocsf" {
		return usagef("--format is %s, not jsonl, csv or ocsf", format)
	}
	return a.withLog(func(r *audit.Reader) error {
		q, err := a.auditQuery(c, r)
		if err != nil {
			return err
		}
		switch format {
		case "csv":
			return r.ExportCSV(a.ctx, a.out, q)
		case "ocsf":
			return r.ExportOCSF(a.ctx, a.out, q)
		}
		return r.ExportJSONLines(a.ctx, a.out, q)
	})
}

func (a *app) auditCopy(c *cli.Context) error {
	args, err := arguments(c, "FILE|postgres://USER@HOST/DATABASE")
	if err != nil {
		return err
	}
	if err := audit.CheckDatabase(args[0]); err != nil {
		return err
	}
	return a.withLog(func(r *audit.Reader) error {
		report, grown, err := r.Copy(a.ctx, args[0])
		if err != nil {
			return err
		}
		if err := a.auditReport(report, "the audit log"); err != nil {
			return err
		}
		if grown > 0 {
			a.err.Printf("%d more events were recorded meanwhile, which are not in the copy. Before you move to it, stop the workers and copy anew.\n", grown)
		}
		return nil
	})
}

func (a *app) auditCheckpoint(c *cli.Context) error {
	if _, err := arguments(c); err != nil {
		return err
	}
	return a.withLog(func(r *audit.Reader) error {
		msg, err := r.Checkpoint(a.ctx)
		if err != nil {
			return err
		}
		if a.json {
			return a.out.json(map[string]string{"checkpoint": string(msg)})
		}
		_, err = a.out.Write(msg)
		return err
	})
}
