package cli

import (
	"encoding/json"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/urfave/cli/v2"

	"hallpass/access"
	"hallpass/audit"
	"hallpass/catalog"
	"hallpass/policy"
	"hallpass/statement"
)

// checked is one statement of a request's evidence, checked on this machine.
type checked struct {
	Type     access.Type     `json:"type"`
	Signer   string          `json:"signer"`
	Verified bool            `json:"verified"` // the signature is good and the key is the signer's, by this machine's directory
	By       string          `json:"by"`       // which key, or what is wrong
	Payload  json.RawMessage `json:"payload"`
}

// shown is all there is to say about one request.
type shown struct {
	access.Status
	Statements []checked     `json:"statements"`
	Sessions   []audit.Visit `json:"sessions,omitempty"` // as hosts have told, where the audit log is on this machine

	// Review is how that of an access by break-glass stands; a done one only
	// where the audit log is on this machine.
	Review   *access.ReviewTask `json:"review,omitempty"`
	noReview bool               // none is open
}

func (a *app) showCommand() *cli.Command {
	return &cli.Command{
		Name:      "show",
		Usage:     "show everything about one request, with its evidence",
		ArgsUsage: "ID",
		Category:  categoryLook,
		Action: func(c *cli.Context) error {
			args, err := arguments(c, "ID")
			if err != nil {
				return err
			}
			return a.withBackend(func(b backend) error {
				id, err := a.find(b, args[0])
				if err != nil {
					return err
				}
				s, err := b.Status(a.ctx, id)
				if err != nil && (access.CodeOf(err) != access.CodeEnded || s.ID == "") {
					return err
				}
				broken := err
				out := shown{Status: s, Statements: a.statements(s), Sessions: a.visits(s.ID)}
				if s.Granted != nil && s.Standing.Request.Mode == access.ModeEmergency {
					task, known := a.reviewOf(b, s.ID)
					out.Review, out.noReview = task, known && task == nil
				}
				if err := a.print(out, func(p *printer) { a.showText(p, out) }); err != nil {
					return err
				}
				return broken
			})
		},
	}
}

// askedFields say who was asked, and from the second step on, when: the ruling
// that says who comes first is made anew with each message.
func (a *app) askedFields(p *printer, s access.Status) (fields []any) {
	var first []string
	for _, set := range policy.Missing(s.Standing.Ruling.Needs, 0, nil) {
		first = append(first, set.Groups...)
	}
	if len(first) == 0 {
		return nil
	}
	slices.Sort(first)
	now := a.now()
	fields = append(fields, "first asked", strings.Join(slices.Compact(first), ", "))
	for _, e := range s.Escalated {
		var who []string
		if len(e.Ask) > 0 {
			who = append(who, strings.Join(e.Ask, ", "))
		}
		if len(e.Notify) > 0 {
			who = append(who, strings.Join(e.Notify, ", ")+" (told)")
		}
		fields = append(fields, "after "+e.After.String(), strings.Join(who, "; ")+", "+p.at(e.Time, now))
	}
	return fields
}

func (a *app) statements(s access.Status) []checked {
	all := []checked{a.check(s.Evidence.Request, access.TypeRequest)}
	for _, d := range s.Evidence.Decisions {
		all = append(all, a.check(d, access.TypeDecision))
	}
	if s.Ended != nil {
		var h access.Header
		_ = json.Unmarshal([]byte(s.Ended.Payload), &h) // its signature is checked under the type that it names
		all = append(all, a.check(*s.Ended, h.Type))
	}
	return all
}

func (a *app) check(st access.Statement, typ access.Type) checked {
	var h access.Header
	c := checked{Type: typ, Payload: json.RawMessage(st.Payload)}
	if err := json.Unmarshal([]byte(st.Payload), &h); err != nil {
		c.Payload = json.RawMessage(strconv.QuoteToASCII("not JSON"))
	}
	c.Signer = h.Signer
	c.By, c.Verified = a.signedBy(st, typ, h.Signer)
	return c
}

// contextFields are what look-ups said, a line each.
func contextFields(facts access.Facts) (fields []any) {
	for _, name := range slices.Sorted(maps.Keys(facts)) {
		said := string(facts[name].Value)
		if why := facts[name].Failed; why != "" {
			said = "failed: " + why
		}
		fields = append(fields, "look-up "+name, said)
	}
	return fields
}

func (a *app) showText(p *printer, s shown) {
	now := a.now()
	req, err := statement.ParseRequest([]byte(s.Evidence.Request.Payload))
	if err != nil {
		p.Printf("%s  %s: %s\n", s.ID, p.state(s.State), s.Why)
		p.Printf("The request can't be read: %s\n", err)
		return
	}
	a.showRequest(p, s.Status, req)

	p.Printf("\n%s", p.state(s.State))
	if s.Why != "" {
		p.Printf(": %s", s.Why)
	}
	p.Printf("\n")
	name, handle, principals, refused := "certificate", "", "", ""
	if h := s.Handle; h != nil {
		if handle = "serial " + strconv.FormatUint(h.Serial, 10) + " of " + h.CA; h.Kind == catalog.KindVault {
			name, handle = "token", "accessor "+h.Accessor
		}
		principals = strings.Join(h.Principals, ", ")
	}
	if s.Refused > 0 {
		refused = strconv.Itoa(s.Refused) + " of the messages to it"
	}
	fields := a.askedFields(p, s.Status)
	if s.Standing.Ruling.Effect != "" { // it was ruled on
		fields = append(fields, "longest", s.Standing.Ruling.MaxDuration.String())
	}
	if s.Granted != nil {
		fields = append(fields, "granted", p.at(*s.Granted, now))
	}
	if s.Ends != nil {
		fields = append(fields, "ends", p.at(*s.Ends, now))
		if s.Handle != nil && s.Handle.Until != nil {
			fields = append(fields, "open sessions until", p.at(*s.Handle.Until, now))
		}
	}
	if s.EndedAt != nil {
		fields = append(fields, "ended", p.at(*s.EndedAt, now))
	}
	fields = append(fields, "ended by", s.By, "review", a.reviewedText(p, s), name, handle, "opens", principals, "refused", refused,
		"policy", s.Standing.Ruling.Digests.Policy,
		"directory", s.Standing.Ruling.Digests.Directory,
		"catalog", s.Standing.Ruling.Digests.Catalog,
	)
	fields = append(fields, contextFields(s.Standing.Ruling.Context)...)
	p.fields(fields...)

	for i, d := range s.Evidence.Decisions {
		decision, err := statement.ParseDecision([]byte(d.Payload))
		if err != nil {
			p.Printf("\nA decision that can't be read: %s\n", err)
			continue
		}
		narrowed := ""
		if decision.Duration > 0 {
			narrowed = "at most " + decision.Duration.String()
		}
		verb := map[access.Verdict]string{access.Approve: "approved", access.Deny: "denied"}[decision.Verdict]
		p.Printf("\n%s %s\n", p.bold(access.Who(decision.Signer, decision.For)), verb)
		p.fields("when", p.at(decision.Time, now), "duration", narrowed, "comment", decision.Comment,
			"signed by", s.Statements[i+1].By)
	}
	for _, dropped := range s.Standing.Dropped {
		p.Printf("\nDoesn't count any more: %s\n", dropped)
	}
	if s.Ended != nil {
		c := s.Statements[len(s.Statements)-1]
		if stop, reason, err := endedBy(*s.Ended, c.Type); err == nil {
			p.Printf("\n%s ended it: %s\n", p.bold(stop.Signer), string(stop.Type))
			p.fields("when", p.at(stop.Time, now), "reason", reason, "signed by", c.By)
		}
	}
	if len(s.Sessions) > 0 {
		p.Printf("\n%s\n", p.bold("sessions"))
		a.visitsText(p, s.Sessions)
	}
}
