package cli

import (
	"encoding/json"
	"strings"
	"time"

	"github.com/urfave/cli/v2"
	"golang.org/x/crypto/ssh"

	"hallpass/access"
	"hallpass/policy"
	"hallpass/statement"
)

// answer is what a command that says something to a request ends in.
type answer struct {
	ID      string       `json:"id"`
	State   access.State `json:"state"`
	Why     string       `json:"why"`
	Missing []access.Set `json:"missing,omitempty"`
	Ends    *time.Time   `json:"ends,omitempty"`
}

func answerOf(s access.Status) answer {
	return answer{ID: s.ID, State: s.State, Why: s.Why, Missing: s.Standing.Missing, Ends: s.Ends}
}

func (a *app) printAnswer(s access.Status, said string) error {
	return a.print(answerOf(s), func(p *printer) {
		p.Printf("%s. The request is %s", said, p.state(s.State))
		switch {
		case s.State == access.StatePending && len(s.Standing.Missing) > 0:
			p.Printf(": still %s", s.Standing.Why) // "needs …", and which denials there are
		case s.State == access.StateRevoking:
			p.Printf(": the issuer is taking it back")
		case s.State.Final():
			p.Printf("%s", adds(string(s.State), s.Why))
		}
		p.Printf(".\n")
	})
}

func (a *app) approveCommand() *cli.Command {
	return a.decisionCommand(access.Approve, &cli.Command{
		Name:  "approve",
		Usage: "approve a request, after showing what is approved",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "for", Usage: "approve only this `LONG`, if it is shorter than what is asked for"},
		},
	})
}

func (a *app) denyCommand() *cli.Command {
	return a.decisionCommand(access.Deny, &cli.Command{Name: "deny", Usage: "deny a request"})
}

const printHelp = "print the signed statement instead of sending it"

func (a *app) decisionCommand(v access.Verdict, c *cli.Command) *cli.Command {
	c.ArgsUsage, c.Category = "ID", categoryDecide
	c.Description = "Checks the requester's signature, shows the request, and signs a decision on\n" +
		"exactly that. With --print, anything that can signal a Temporal workflow can\n" +
		"deliver it: temporal workflow signal --workflow-id access-ID --name decision --input …"
	c.Flags = append(c.Flags,
		&cli.StringFlag{Name: "comment", Aliases: []string{"m"}, Usage: "`words` for requester and auditors to read"},
		&cli.StringFlag{Name: "in-place-of", Usage: "`USER` who has delegated that to you", DefaultText: "where your own say wouldn't count, who has"},
		&cli.BoolFlag{Name: "print", Usage: printHelp},
	)
	c.Action = func(c *cli.Context) error {
		args, err := arguments(c, "ID")
		if err != nil {
			return err
		}
		d := access.Decision{Verdict: v, Comment: c.String("comment"), For: c.String("in-place-of")}
		if c.IsSet("for") {
			long, err := access.ParseDuration(c.String("for"))
			if err != nil {
				return usagef("--for: %w", err)
			}
			if long <= 0 {
				return usagef("--for %s is no time at all", c.String("for"))
			}
			d.Duration = access.InSeconds(long)
		}
		return a.withBackend(func(b backend) error { return a.decide(b, args[0], d, c.Bool("print")) })
	}
	return c
}

// decide signs a decision on the request as its requester signed it.
func (a *app) decide(b backend, id string, d access.Decision, print bool) error {
	s, req, err := a.read(b, id)
	if err != nil {
		return err
	}
	if d.Duration > req.Duration {
		return usagef("--for %s is longer than the %s that are asked for", d.Duration, req.Duration)
	}
	if s.State.Final() {
		return access.TooLate(s)
	}
	shown := a.out
	if a.json || print {
		shown = a.err
	}
	a.showRequest(shown, s, req, a.brief(shown, s, req, d)...)
	return a.say(b, s, req, d, print)
}

// say signs a decision on a request that was shown, and sends or prints it.
func (a *app) say(b backend, s access.Status, req access.Request, d access.Decision, print bool) error {
	me, err := a.identify()
	if err != nil {
		return err
	}
	defer func() { _ = me.signer.Close() }()
	mine := false
	if d.For == "" {
		d.For, mine = a.sayIn(b, s, req, me.user)
	}
	if d.For != "" || !mine {
		if err := a.inPerson(b, s, req, me.user, d.For); err != nil {
			return err
		}
	}
	if d.For != "" {
		a.err.Printf("In the place of %s, who has delegated it to you.\n", d.For)
	}
	d.Header = a.header(access.TypeDecision, me)
	d.Request, d.RequestHash = req.ID, s.Evidence.Request.Hash()
	st, err := sign(a, me, d, statement.ParseDecision)
	if err != nil {
		return err
	}
	if print {
		return a.printStatement(st, s.ID, access.MessageDecision)
	}
	after, err := b.Send(a.ctx, s.ID, access.MessageDecision, d.ID, st)
	if err != nil {
		return a.refusal(err)
	}
	after = a.settled(b, after)
	said := "Approved"
	if d.Verdict == access.Deny {
		said = "Denied"
	}
	if d.For != "" {
		said += " in the place of " + d.For
	}
	return a.printAnswer(after, said)
}

// settled waits a moment for what a message leads to: the answer to it is the
// standing, and the next state comes right behind.
func (a *app) settled(b backend, s access.Status) access.Status {
	for delay := soonPoll; delay < time.Second && underWay(s); delay *= 2 {
		if a.sleep(a.ctx, delay) != nil {
			break
		}
		next, err := b.Status(a.ctx, s.ID)
		if err != nil {
			break
		}
		s = next
	}
	return s
}

// underWay says whether the next state waits for a part of hallpass alone.
func underWay(s access.Status) bool {
	switch s.State {
	case access.StatePending:
		return s.Standing.Effect != access.EffectAsk
	case access.StateIssuing, access.StateRevoking:
		return true
	}
	return false
}

// header is the header of a new statement by me.
func (a *app) header(typ access.Type, me *identity) access.Header {
	return access.Header{Type: typ, ID: statement.NewID(), Signer: me.user.Name, Time: statement.Time(a.now())}
}

// refusal makes an error of the service's no: whatever is wrong with a
// statement that was sent, it was refused.
func (a *app) refusal(err error) error {
	switch code := access.CodeOf(err); code {
	case "", access.CodeUnavailable, access.CodeNotFound:
		return err
	default:
		return failf(ExitRefused, "refused: %w", err)
	}
}

// read fetches a request and opens it: what its requester signed, and not
// what the service says of it, is what people decide on. Where the directory
// is at hand, the signature must be the requester's own.
func (a *app) read(b backend, prefix string) (access.Status, access.Request, error) {
	id, err := a.find(b, prefix)
	if err != nil {
		return access.Status{}, access.Request{}, err
	}
	s, err := b.Status(a.ctx, id)
	if err != nil {
		return s, access.Request{}, err
	}
	req, err := a.open(s)
	if err != nil {
		return s, req, failf(ExitRefused, "request %s can't be trusted: %w", id, err).withHint("hallpass show %s", id)
	}
	return s, req, nil
}

func (a *app) open(s access.Status) (req access.Request, err error) {
	if dir := a.directoryOrNil(); dir != nil {
		req, _, err = statement.OpenRequest(s.Evidence.Request, dir)
	} else if _, err = statement.Verify(s.Evidence.Request, access.TypeRequest); err == nil {
		req, err = statement.ParseRequest([]byte(s.Evidence.Request.Payload))
	}
	if err == nil && req.ID != s.ID {
		err = access.Errorf(access.CodeMismatch, "the signed request is %s", req.ID)
	}
	return req, err
}

// printStatement prints a signed statement for others to deliver.
func (a *app) printStatement(st access.Statement, id, message string) error {
	data, err := json.Marshal(st)
	if err != nil {
		return err
	}
	a.out.Printf("%s\n", markup(data)) // base64 and JSON that has passed statement's checks
	a.err.Printf("%s temporal workflow signal --workflow-id %s --name %s --input '…'\n", a.err.dim("To deliver it:"), access.WorkflowID(id), message)
	return nil
}

// showRequest shows what a decision is about, and more fields below it.
func (a *app) showRequest(p *printer, s access.Status, req access.Request, more ...any) {
	now := a.now()
	p.Printf("%s %s %s", p.bold(req.Signer), access.Wants(req.Mode), p.bold(req.Resource))
	if req.Login != "" {
		p.Printf(" as %s", p.bold(req.Login))
	}
	if len(req.Actions) > 0 {
		p.Printf(" (%s)", p.bold(strings.Join(req.Actions, ", ")))
	}
	p.Printf(" for %s%s\n", p.bold(req.Duration.String()), access.Longer(req.Extends))
	p.fields(append(a.requestFields(p, s, req, now), more...)...)
}

func (a *app) requestFields(p *printer, s access.Status, req access.Request, now time.Time) []any {
	start, deadline, needs, personal, mode := "", "", "", "", req.Mode
	switch {
	case mode == access.ModeEmergency && s.Granted != nil:
		mode = "BREAK-GLASS"
	case mode == access.ModeEmergency:
		mode = "BREAK-GLASS, to be signed off afterwards"
	}
	by, _ := a.signedBy(s.Evidence.Request, access.TypeRequest, req.Signer)
	if req.Start != nil {
		start = p.at(*req.Start, now)
	}
	if s.Deadline != nil && s.State == access.StatePending {
		deadline = p.at(*s.Deadline, now)
	}
	if s.State == access.StatePending && len(s.Standing.Missing) > 0 {
		needs = policy.Describe(s.Standing.Missing)
		var rules []string
		for _, n := range s.Standing.Ruling.Needs {
			if n.InPerson {
				rules = append(rules, n.Rule)
			}
		}
		if rules != nil {
			personal = policy.WantsInPerson(rules)
		}
	}
	return []any{
		"request", req.ID,
		"extends", req.Extends,
		"mode", mode,
		"reason", req.Reason,
		"ticket", req.Ticket,
		"command", req.Command,
		"asked", p.at(req.Time, now),
		"start", start,
		"rules", strings.Join(s.Standing.Ruling.Rules, ", "),
		"still needs", needs,
		"in person", personal,
		"decide by", deadline,
		"signed by", by,
	}
}

// signedBy says whose key signed a statement, checked here and now. It is only
// verified if the directory says that the key is the signer's.
func (a *app) signedBy(st access.Statement, typ access.Type, signer string) (by string, verified bool) {
	v, err := statement.Verify(st, typ)
	if err != nil {
		return "NOT VERIFIED: " + err.Error(), false
	}
	key := ssh.FingerprintSHA256(v.Key)
	dir := a.directoryOrNil()
	if dir == nil {
		return key + " (signature is good; no directory here to say whose key it is)", false
	}
	owner, ok := dir.Owner(v.Key)
	switch {
	case !ok:
		return "NOT VERIFIED: nobody in the directory has the key " + key, false
	case owner.Name != signer:
		return "NOT VERIFIED: " + key + " is a key of " + owner.Name, false
	case dir.PinRequired(signer) && !v.UserVerified:
		return "NOT VERIFIED: " + key + " was used without the PIN that is required", false
	}
	return key + " (a key of " + signer + ", verified)", true
}
