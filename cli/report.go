package cli

import (
	"encoding/csv"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"hallpass/access"
	"hallpass/audit"
)

// reportSpan is how far back a report goes that isn't told.
const reportSpan = 30 * 24 * time.Hour

func (a *app) reportCommand() *cli.Command {
	return &cli.Command{
		Name: "report", Usage: "reports for access reviews, from the audit log", Category: categoryLook,
		Subcommands: []*cli.Command{{
			Name: "access", Usage: "who had what, on whose word, whether it was used, and which rules always say yes",
			Description: "Every report verifies the whole log first, and is made from what was verified: it names the\n" +
				"checkpoint, and of a log that doesn't verify there is none. --output html is one file without\n" +
				"scripts, with plots. Whether a grant was used is known where hosts tell of sessions.",
			Flags: []cli.Flag{
				&cli.StringFlag{Name: "from", Usage: "from this `TIME` on: 2006-01-02, \"2006-01-02 15:04\", RFC 3339, or 90d for that long ago", DefaultText: "30d before --to"},
				&cli.StringFlag{Name: "to", Usage: "up to this `TIME`, as in --from, which isn't in the future", DefaultText: "now"},
				&cli.StringFlag{Name: "output", Aliases: []string{"o"}, Usage: "print `table|csv|json|html`", DefaultText: "table"},
			},
			Action: a.reportAccess,
		}},
	}
}

func (a *app) reportAccess(c *cli.Context) error {
	if _, err := arguments(c); err != nil {
		return err
	}
	format := c.String("output")
	switch format {
	case "table", "csv", "json", "html":
	case "", "text":
		format = "table"
		if a.json {
			format = "json"
		}
	default:
		return usagef("--output is %s, not table, csv, json or html", format)
	}
	to, err := a.auditTime("--to", c.String("to"))
	if err != nil {
		return err
	}
	if to.IsZero() {
		to = a.now().UTC().Truncate(time.Second)
	}
	if to.After(a.now()) {
		return usagef("--to %s is in the future, of which nothing is on record", c.String("to"))
	}
	from, err := a.auditTime("--from", c.String("from"))
	if err != nil {
		return err
	}
	if from.IsZero() {
		from = to.Add(-reportSpan)
	}
	if !from.Before(to) {
		return usagef("--from is not before --to")
	}
	return a.withLog(func(r *audit.Reader) error {
		review, verified, err := r.AccessReview(a.ctx, from.UTC(), to.UTC())
		if err != nil {
			return err
		}
		if !verified.OK {
			return failf(ExitError, "no report: the audit log does not verify: %s", verified.OneLine()).withHint("hallpass audit verify")
		}
		switch format {
		case "json":
			return a.out.json(review)
		case "csv":
			return a.reportCSV(review)
		case "html":
			return a.reportHTML(review)
		}
		a.accessText(a.out, review)
		return nil
	})
}

// checkpointLine names a checkpoint in one line: the log, the size and the
// root hash.
func checkpointLine(review audit.Review) string {
	lines := strings.SplitN(review.Checkpoint, "\n", 4)
	return strings.Join(lines[:min(len(lines), 3)], " ")
}

// what is what a request was for.
func reviewedWhat(r audit.Reviewed) string {
	what := r.Resource
	if r.Login != "" {
		what = r.Login + " on " + what
	}
	if len(r.Actions) > 0 {
		what += " (" + strings.Join(r.Actions, ", ") + ")"
	}
	if r.Command != "" {
		what += ": " + r.Command
	}
	return what
}

// reviewedWord is on whose word there was access, or none.
func reviewedWord(r audit.Reviewed) string {
	switch {
	case r.Emergency:
		return "BREAK-GLASS, review " + r.Review + signedOff(r.ReviewedBy)
	case r.Automatic:
		return "automatic: " + strings.Join(r.Rules, ", ")
	case r.Granted():
		return strings.Join(r.ApprovedBy, ", ")
	}
	return ""
}

// reviewedNo is by whom or what there was no access: a person, or policy, a
// limit, a lock or the issuer.
func reviewedNo(r audit.Reviewed) string {
	switch {
	case r.DeniedBy == "" || r.DeniedBy == audit.DeniedByPerson && r.EndedBy != "":
		return r.EndedBy
	case r.EndedBy != "":
		return r.DeniedBy + " (" + r.EndedBy + ")"
	}
	return r.DeniedBy
}

// reviewedBecause is why there was none, where that is more than its state and
// reviewedNo say.
func reviewedBecause(r audit.Reviewed) string {
	if state := string(r.State); r.EndedWhy == state || r.EndedWhy == state+" by "+r.EndedBy {
		return ""
	}
	return r.EndedWhy
}

// signedOff names who has reviewed an access by break-glass.
func signedOff(by []string) string {
	if len(by) == 0 {
		return ""
	}
	return " by " + strings.Join(by, ", ")
}

// reviewedEnd is how the request stands.
func reviewedEnd(r audit.Reviewed) string {
	if r.EndedBy != "" && r.State != access.StateDenied {
		return string(r.State) + " by " + r.EndedBy
	}
	return string(r.State)
}

// reviewedUse is whether a grant was used.
func reviewedUse(r audit.Reviewed) string {
	switch r.Use {
	case audit.UseSeen:
		return sessions(r.Sessions)
	case audit.UseNever:
		return "never used"
	case audit.UseUnknown:
		return "not known"
	}
	return ""
}

func sessions(n int) string {
	if n == 1 {
		return "1 session"
	}
	return fmt.Sprintf("%d sessions", n)
}

func reviewedWhy(r audit.Reviewed) string { return strings.TrimSpace(r.Ticket + " " + r.Reason) }

func (a *app) accessText(p *printer, review audit.Review) {
	p.Printf("%s\n", p.bold("Access from "+p.clock(review.From)+" to "+p.clock(review.To)))
	n := review.Counts
	p.fields("verified", checkpointLine(review), "signed by", review.Log,
		"requests", n.Requests,
		"granted", fmt.Sprintf("%d, of them automatic %d, by break-glass %d (%d not reviewed in time), revoked %d, never used %d", n.Granted, n.Automatic, n.Emergency, n.Overdue, n.Revoked, n.Never),
		"escalated", n.Escalated, "denied", n.Denied, "timed out", n.TimedOut, "cancelled", n.Cancelled)
	ids := make([]string, len(review.Requests))
	for i, r := range review.Requests {
		ids[i] = r.Request
	}
	short := shortIDs(ids)
	var had, not [][]any
	for _, r := range review.Requests {
		escalated := ""
		if r.Escalated > 0 {
			escalated = strconv.Itoa(r.Escalated)
		}
		if r.Granted() {
			had = append(had, []any{short[r.Request], r.Requester, reviewedWhat(r), p.clock(r.From), p.clock(r.Until),
				reviewedWord(r), escalated, reviewedUse(r), reviewedEnd(r), reviewedWhy(r)})
		} else {
			not = append(not, []any{short[r.Request], r.Requester, reviewedWhat(r), p.clock(r.Asked), escalated, string(r.State), reviewedNo(r), reviewedBecause(r), reviewedWhy(r)})
		}
	}
	for _, part := range []struct {
		title  string
		header []string
		rows   [][]any
	}{
		{"Who had what", []string{"REQUEST", "WHO", "WHAT", "FROM", "UNTIL", "APPROVED BY", "ESCALATED", "USED", "ENDED", "WHY"}, had},
		{"Not granted", []string{"REQUEST", "WHO", "WHAT", "ASKED", "ESCALATED", "STATE", "BY", "BECAUSE", "WHY"}, not},
		{"Always approved, so candidates for automatic", []string{"RULE", "RESOURCE", "REQUESTS", "USERS", "APPROVERS", "WAITED"}, candidateRows(review)},
		{"By user", tallyHeader("USER"), tallyRows(review.Users)},
		{"By resource", tallyHeader("RESOURCE"), tallyRows(review.Resources)},
	} {
		if len(part.rows) > 0 {
			p.Printf("\n%s\n", p.bold(part.title))
			p.table(part.header, part.rows)
		}
	}
}

func candidateRows(review audit.Review) (rows [][]any) {
	for _, c := range review.Candidates {
		rows = append(rows, []any{c.Rule, c.Resource, c.Requests, c.Users, strings.Join(c.Approvers, ", "), c.Wait})
	}
	return rows
}

func tallyHeader(of string) []string {
	return []string{of, "REQUESTS", "GRANTED", "AUTOMATIC", "BREAK-GLASS", "REVOKED", "NEVER USED", "DENIED", "TIMED OUT", "CANCELLED", "HELD"}
}

func tallyRows(of []audit.Tally) (rows [][]any) {
	for _, t := range of {
		rows = append(rows, []any{t.Name, t.Requests, t.Granted, t.Automatic, t.Emergency, t.Revoked, t.Never, t.Denied, t.TimedOut, t.Cancelled, t.Held})
	}
	return rows
}

// reportColumns are the columns of the CSV. New ones are only ever added at
// the end.
var reportColumns = []string{
	"request", "requester", "resource", "login", "actions", "command", "asked", "duration_seconds", "state", "from", "until",
	"automatic", "approved_by", "denied_by", "escalated", "use", "sessions", "rules", "ended_by", "ended_why", "ticket", "reason", "checkpoint", "break_glass", "review", "reviewed_by",
}

// reportCSV writes one line for each request.
func (a *app) reportCSV(review audit.Review) error {
	out := csv.NewWriter(a.out)
	out.UseCRLF = true
	if err := out.Write(reportColumns); err != nil {
		return fmt.Errorf("report: %w", err)
	}
	checkpoint := checkpointLine(review)
	for _, r := range review.Requests {
		cells := []string{
			r.Request, r.Requester, r.Resource, r.Login, strings.Join(r.Actions, " "), r.Command, stamp(r.Asked), strconv.FormatInt(int64(r.Duration), 10),
			string(r.State), stamp(r.From), stamp(r.Until), strconv.FormatBool(r.Automatic), strings.Join(r.ApprovedBy, ", "), r.DeniedBy,
			strconv.Itoa(r.Escalated), r.Use, strconv.Itoa(r.Sessions), strings.Join(r.Rules, " "), r.EndedBy, r.EndedWhy, r.Ticket, r.Reason, checkpoint,
			strconv.FormatBool(r.Emergency), r.Review, strings.Join(r.ReviewedBy, " "),
		}
		for i := range cells {
			cells[i] = audit.Harmless(cells[i])
		}
		if err := out.Write(cells); err != nil {
			return fmt.Errorf("report: %w", err)
		}
	}
	out.Flush()
	if err := out.Error(); err != nil {
		return fmt.Errorf("report: %w", err)
	}
	return nil
}

// stamp writes a time for programs, "" for none.
func stamp(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}
