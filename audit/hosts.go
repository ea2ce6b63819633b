package audit

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"hallpass/access"
	"hallpass/ca"
	"hallpass/statement"
)

// Types of events around hosts.
const (
	HostEnrolled  = "host.enrolled"  // Statement: the join; Host: the keys it is known by from here on
	HostCertified = "host.certified" // Host: a certificate for its key, durable before it leaves the issuer
	SessionOpened = "session.opened" // Statement: a host's report, as are the next two
	SessionClosed = "session.closed"
	SessionEnded  = "session.ended" // by hallpass

	// SessionRefused is a host's report about a certificate that hallpass never
	// gave out: that its CA's signature got it in shows that somebody else signs
	// with the CA's key. Statement, Code, Why.
	SessionRefused = "session.refused"
)

func hostTypes() []string {
	return []string{HostEnrolled, HostCertified, SessionOpened, SessionClosed, SessionEnded, SessionRefused}
}

// Host is an enrolled host. In an event it holds what the event is about.
type Host struct {
	Name        string    `json:"name"`                  // the resource without the kind
	Token       string    `json:"token,omitempty"`       // the id of the join it came by
	AgentKey    string    `json:"agent_key,omitempty"`   // "type base64": what it says is signed by it
	HostKey     string    `json:"host_key,omitempty"`    // "type base64"
	Certificate string    `json:"certificate,omitempty"` // the latest, "" if there is none
	At          time.Time `json:"at,omitzero"`           // when it enrolled
}

// Enrol takes a host in. The token is used up by the first keys that come with
// it; with the same ones it can be said again.
//
// Errors: CodeDuplicate for a token that others have used; CodeEnded for one
// after which the host has enrolled anew.
func (l *Log) Enrol(ctx context.Context, h Host, e Event) (Host, error) {
	if h.Name == "" || h.Token == "" || h.AgentKey == "" || h.HostKey == "" || e.Statement == nil || e.digests() == nil {
		return Host{}, access.Errorf(access.CodeMalformed, "a host can't enrol without name, keys and statement")
	}
	h.Certificate, h.At = "", time.Time{}
	e.Type, e.Request, e.Step = HostEnrolled, h.Token, HostEnrolled
	e.Host = &Host{Name: h.Name, AgentKey: h.AgentKey, HostKey: h.HostKey}
	if e.Time.IsZero() {
		e.Time = l.now()
	}
	return update(ctx, l, func(t *tx) (Host, error) {
		was, err := t.at(slot{e.Request, e.Step})
		if err != nil {
			return Host{}, err
		}
		if !was.found {
			if _, err := t.append(e); err != nil {
				return Host{}, err
			}
			h.At = e.Time.UTC().Truncate(time.Millisecond)
			t.write(putHost, h.Name, h.Token, h.AgentKey, h.HostKey, "", h.At.UnixMilli())
			return h, nil
		}
		first, err := ParseEvent(was.leaf)
		if err != nil || first.Host == nil {
			return Host{}, broken("the enrolment by token %s can't be read", clip(e.Request))
		}
		if first.Host.Name != h.Name || first.Host.AgentKey != h.AgentKey || first.Host.HostKey != h.HostKey {
			return Host{}, access.Errorf(access.CodeDuplicate, "this token has been used already, by another host or other keys").
				WithHint("make another one with: hallpass host token %s", h.Name)
		}
		have, found, err := t.host(h.Name)
		if err != nil {
			return Host{}, err
		}
		if !found || have.Token != h.Token {
			return Host{}, access.Errorf(access.CodeEnded, "%s has enrolled with another token since", h.Name).
				WithHint("make another one with: hallpass host token %s", h.Name)
		}
		return have, nil
	})
}

// Certified records a host's certificate before it is handed out. It fails
// with CodeEnded if the host has enrolled anew meanwhile.
func (l *Log) Certified(ctx context.Context, h Host, serial uint64) error {
	e := Event{
		Type: HostCertified, Request: h.Token, Step: fmt.Sprintf("certified:%d", serial), Actor: h.Name, Resource: "ssh/" + h.Name,
		Host: &Host{Name: h.Name, HostKey: h.HostKey, Certificate: h.Certificate},
	}
	_, err := update(ctx, l, func(t *tx) (struct{}, error) {
		none := struct{}{}
		have, found, err := t.host(h.Name)
		if err != nil {
			return none, err
		}
		if !found || have.Token != h.Token {
			return none, access.Errorf(access.CodeEnded, "%s has enrolled with another token meanwhile", h.Name)
		}
		if _, err := t.append(e); err != nil {
			return none, err
		}
		t.write("UPDATE hosts SET host_key = ?, certificate = ? WHERE host = ?", h.HostKey, h.Certificate, h.Name)
		return none, nil
	})
	return err
}

const hostQuery = "SELECT host, token, agent_key, host_key, certificate, at FROM hosts"

func scanHost(row scanner) (h Host, found bool, err error) {
	var at int64
	err = row.Scan(&h.Name, &h.Token, &h.AgentKey, &h.HostKey, &h.Certificate, &at)
	if errors.Is(err, sql.ErrNoRows) {
		return Host{}, false, nil
	} else if err != nil {
		return Host{}, false, fmt.Errorf("read hosts: %w", explain(err))
	}
	h.At = time.UnixMilli(at).UTC()
	return h, true, nil
}

func (t *tx) host(name string) (h Host, found bool, err error) {
	err = t.read(func(row scanner) error {
		h, found, err = scanHost(row)
		return err
	}, hostQuery+" WHERE host = ?", name)
	return h, found, err
}

const putHost = `INSERT INTO hosts (host, token, agent_key, host_key, certificate, at) VALUES (?, ?, ?, ?, ?, ?)
	ON CONFLICT (host) DO UPDATE SET token = excluded.token, agent_key = excluded.agent_key, host_key = excluded.host_key,
	certificate = excluded.certificate, at = excluded.at`

// Host looks an enrolled host up by its name, and says whether there is one.
func (r *Reader) Host(ctx context.Context, name string) (Host, bool, error) {
	return scanHost(r.db.QueryRowContext(ctx, hostQuery+" WHERE host = ?", name))
}

// Hosts lists the enrolled hosts by name.
func (r *Reader) Hosts(ctx context.Context) ([]Host, error) {
	return listHosts(ctx, r.db)
}

func listHosts(ctx context.Context, q querier) ([]Host, error) {
	rows, err := q.QueryContext(ctx, hostQuery+" ORDER BY host")
	if err != nil {
		return nil, fmt.Errorf("read hosts: %w", explain(err))
	}
	defer func() { _ = rows.Close() }()
	var hosts []Host
	for rows.Next() {
		h, _, err := scanHost(rows)
		if err != nil {
			return nil, err
		}
		hosts = append(hosts, h)
	}
	return hosts, rows.Err()
}

// Report records what a host has said about a session, once per report, after
// checking that the host's agent has signed it, that the ledger has the
// certificate, and that the certificate is for this host: no host can write
// into the history of what was never granted on it. on are the resources that
// the host serves, by the catalog.
//
// A report about a certificate that isn't in the ledger is refused, and that is
// recorded.
//
// Errors: CodeNotFound for a host that isn't enrolled, or a request that isn't
// in the ledger; CodeUnverified for another key than the host's; CodeMismatch
// for another certificate than the request's; CodeForbidden for a certificate
// of another host; CodeStale for a report from the future.
func (l *Log) Report(ctx context.Context, st access.Statement, on func(host string) []access.Resource) error {
	report, key, err := statement.OpenSession(st)
	if err != nil {
		return err
	}
	signer := statement.MarshalKey(key)
	host, found, err := l.Host(ctx, report.Signer) // so that strangers take no lock
	if err != nil {
		return err
	}
	if err := signedBy(host, found, report, signer); err != nil {
		return err
	}
	if report.Time.After(l.now().Add(access.ClockSkew)) {
		return access.Errorf(access.CodeStale, "the report is dated more than %s in the future", access.ShortDuration(access.ClockSkew))
	}
	resources := on(report.Signer)
	e := Event{
		Type: sessionType(report.Event), Request: report.Request, Step: sessionStep(report.ID), Actor: report.Signer,
		Why: report.Why, Statement: &st,
	}
	refusal, err := update(ctx, l, func(t *tx) (*access.Error, error) {
		// Nothing can come between what it is judged by and its event: verify
		// judges by what is before that.
		host, found, err := t.host(report.Signer)
		if err != nil {
			return nil, err
		}
		if err := signedBy(host, found, report, signer); err != nil {
			return nil, err
		}
		entry, _, err := t.entry(report.Request)
		if err != nil {
			return nil, err
		}
		if refusal := judgeSession(report, entry, resources); refusal != nil {
			return refusal, t.refuseSession(host, report, st, refusal)
		}
		_, err = t.append(e)
		return nil, err
	}, slot{plain(e.Request), plain(e.Step)})
	if err == nil && refusal != nil {
		return refusal
	}
	return err
}

// Reported says whether a host's report with an id about a request is on record.
func (r *Reader) Reported(ctx context.Context, request, id string) (found bool, err error) {
	err = r.db.QueryRowContext(ctx, "SELECT count(*) > 0 FROM events WHERE request = ? AND step = ? AND step <> ''", plain(request), plain(sessionStep(id))).Scan(&found)
	if err != nil {
		err = fmt.Errorf("look for a report: %w", explain(err))
	}
	return found, err
}

// signedBy refuses a report that isn't signed by the key of the host that it
// names, as the log knows it.
func signedBy(h Host, found bool, report access.Session, key string) error {
	if !found {
		return access.Errorf(access.CodeNotFound, "host %s is not enrolled", report.Signer)
	}
	if key != h.AgentKey {
		return access.Errorf(access.CodeUnverified, "the report is signed by another key than the one that %s enrolled with", report.Signer)
	}
	return nil
}

// judgeSession says why a session can't have been opened with what the ledger has.
func judgeSession(report access.Session, entry Entry, on []access.Resource) *access.Error {
	if entry.Handle == nil || entry.Credential == nil {
		return access.Errorf(access.CodeNotFound, "there never was a certificate for request %s", report.Request)
	}
	if entry.Handle.Serial != report.Serial {
		return access.Errorf(access.CodeMismatch, "the certificate of request %s has serial %d, not %d", report.Request, entry.Handle.Serial, report.Serial)
	}
	key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(entry.Credential.Certificate))
	cert, ok := key.(*ssh.Certificate)
	if err != nil || !ok || cert.KeyId != report.KeyID {
		return access.Errorf(access.CodeMismatch, "the certificate of request %s has another key id than %q", report.Request, clip(report.KeyID))
	}
	for _, r := range on {
		if p, err := ca.Principal(r.Name, report.Login); err == nil && slices.Contains(entry.Handle.Principals, p) {
			return nil
		}
	}
	return access.Errorf(access.CodeForbidden, "the certificate of request %s opens nothing as %s on %s", report.Request, report.Login, report.Signer)
}

// maxRefused is how many refused reports of a host are recorded, until it
// enrols anew: one is enough for an alarm, and no host can fill the log. Those that
// may have an innocent reason (CodeForbidden) are counted by themselves, so that
// they silence no others.
const maxRefused = 100

// refuseSession records a refused report, once per certificate that was
// reported, and under no request: a host doesn't write into one's history.
func (t *tx) refuseSession(h Host, report access.Session, st access.Statement, refusal *access.Error) error {
	kind := refusedSteps(h.Token, refusal.Code)
	e := Event{Type: SessionRefused, Step: refusedStep(h.Token, refusal.Code, report), Actor: h.Name, Code: refusal.Code, Why: refusal.Message, Statement: &st}
	was, err := t.at(slot{"", e.Step})
	if err != nil || was.found {
		return err
	}
	var n int
	if _, err := t.find([]any{&n}, "SELECT count(*) FROM events INDEXED BY events_step WHERE request = '' AND step >= ? AND step < ? AND step <> ''",
		kind+":", kind+";"); err != nil || n >= maxRefused {
		return err
	}
	if n == maxRefused-1 {
		e.Why += "; no more like this of this host's are recorded before it enrols anew"
	}
	_, err = t.append(e)
	return err
}

// refusedSteps is what the steps begin with of all that is counted together, of a
// host by the token that it enrolled with.
func refusedSteps(token string, code access.Code) string {
	if code == access.CodeForbidden {
		return "forbidden:" + token
	}
	return "refused:" + token
}

// refusedStep names a certificate that a host has reported.
func refusedStep(token string, code access.Code, s access.Session) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%s %d %s", s.Request, s.Serial, s.KeyID))
	return refusedSteps(token, code) + ":" + hex.EncodeToString(sum[:])
}

func sessionType(event string) string { return "session." + event }
func sessionStep(id string) string    { return "session:" + id }

// Visit is a session on a host, as far as the host has told.
type Visit struct {
	Session   string    `json:"session"`
	Host      string    `json:"host"`
	Request   string    `json:"request"`
	Requester string    `json:"requester"`
	Resource  string    `json:"resource"`
	Login     string    `json:"login"`
	Source    string    `json:"source,omitempty"`
	Serial    uint64    `json:"serial"`
	Opened    time.Time `json:"opened,omitzero"` // by the host's clock
	Closed    time.Time `json:"closed,omitzero"` // zero while it is open
	Ended     bool      `json:"ended,omitempty"` // it was hallpass that closed it
	Why       string    `json:"why,omitempty"`
}

// Visits lists the sessions that hosts have told of, in the order in which
// they began: all that a query (Request, Requester, Resource, Actor for the
// host, From) selects.
func (r *Reader) Visits(ctx context.Context, q Query) ([]Visit, error) {
	q.Type, q.Limit = "session.", 0
	var order []string
	visits := map[string]*Visit{}
	for rec, err := range r.Events(ctx, q) {
		if err != nil {
			return nil, err
		}
		s, err := statement.ParseSession([]byte(rec.Event.Statement.Payload))
		if err != nil {
			return nil, broken("event %d: %v", rec.Index, err)
		}
		if rec.Event.Type == SessionRefused {
			continue // of no grant
		}
		key := s.Signer + " " + s.Session
		v := visits[key]
		if v == nil {
			v = &Visit{
				Session: s.Session, Host: s.Signer, Request: s.Request, Requester: rec.Event.Requester, Resource: rec.Event.Resource,
				Login: s.Login, Source: s.Source, Serial: s.Serial,
			}
			visits[key] = v
			order = append(order, key)
		}
		switch s.Event {
		case access.SessionOpened:
			v.Opened = s.Time
		default:
			// What comes second, that the connection is gone, says nothing new.
			if v.Closed.IsZero() || s.Event == access.SessionEnded {
				v.Closed, v.Why, v.Ended = s.Time, s.Why, s.Event == access.SessionEnded
			}
		}
	}
	out := make([]Visit, 0, len(order))
	for _, key := range order {
		out = append(out, *visits[key])
	}
	slices.SortStableFunc(out, func(a, b Visit) int { return a.Opened.Compare(b.Opened) })
	return out, nil
}

// hosts is what a replay has learned of hosts: the agent key of each.
type hosts map[string]*Host

// judge judges the events around hosts, and says whether it is one.
func (known hosts) judge(p *replay, index int64, e *Event) (bool, error) {
	switch e.Type {
	case HostEnrolled:
		return true, known.enrolled(p, e)
	case HostCertified:
		return true, known.certified(p, index, e)
	case SessionOpened, SessionClosed, SessionEnded:
		return true, known.session(p, e)
	case SessionRefused:
		return true, known.refused(p, e)
	}
	return false, nil
}

func (known hosts) enrolled(p *replay, e *Event) error {
	if e.Statement == nil || e.Host == nil {
		return fmt.Errorf("the host is missing in it")
	}
	book, err := p.rulebook(p.digests(e))
	if err != nil {
		return err
	}
	join, user, resource, err := book.CheckJoin(*e.Statement, e.Time)
	if err != nil {
		return fmt.Errorf("the join: %w", err)
	}
	p.report.Statements++
	if e.Request != join.ID || e.Step != HostEnrolled || e.Actor != user.Name || e.Resource != join.Resource || e.Host.Name != resource.ShortName() {
		return fmt.Errorf("the join is %s's of %s, the event says %s and %s", user.Name, join.Resource, clip(e.Actor), clip(e.Resource))
	}
	if old := known[e.Host.Name]; old != nil && old.Token == e.Request {
		return fmt.Errorf("the token was used before")
	}
	for _, key := range []string{e.Host.AgentKey, e.Host.HostKey} {
		if _, err := statement.ParseKey(key); err != nil {
			return err
		}
	}
	h := *e.Host
	h.Token, h.At = e.Request, e.Time
	known[h.Name] = &h
	return nil
}

func (known hosts) certified(p *replay, index int64, e *Event) error {
	if e.Host == nil {
		return fmt.Errorf("the host is missing in it")
	}
	h := known[e.Host.Name]
	if h == nil || h.Token != e.Request {
		return fmt.Errorf("host %s has not enrolled by the token before it", clip(e.Host.Name))
	}
	key, _, _, rest, err := ssh.ParseAuthorizedKey([]byte(e.Host.Certificate))
	cert, ok := key.(*ssh.Certificate)
	if err != nil || !ok || len(rest) > 0 || ca.Marshal(cert) != e.Host.Certificate {
		return fmt.Errorf("the certificate is not in the form that the CA writes")
	}
	keyID, err := ca.HostKeyID("ssh/" + h.Name)
	if err != nil {
		return err
	}
	life := time.Duration(cert.ValidBefore-cert.ValidAfter) * time.Second
	switch {
	case cert.CertType != ssh.HostCert:
		return fmt.Errorf("the certificate is not a host's")
	case cert.KeyId != keyID:
		return fmt.Errorf("the certificate has the key id %q, not %q", clip(cert.KeyId), keyID)
	case statement.MarshalKey(cert.Key) != e.Host.HostKey:
		return fmt.Errorf("the certificate is for another key than the host's")
	case len(cert.ValidPrincipals) == 0 || len(cert.CriticalOptions)+len(cert.Extensions) > 0:
		return fmt.Errorf("the certificate is good for every host, or has options")
	case cert.ValidBefore <= cert.ValidAfter || life > ca.MaxHostLifetime+ca.BackDate:
		return fmt.Errorf("the certificate lives too long")
	}
	checker := ssh.CertChecker{Clock: func() time.Time { return e.Time }}
	if err := checker.CheckCert(cert.ValidPrincipals[0], cert); err != nil {
		return fmt.Errorf("the certificate: %w", err)
	}
	h.HostKey, h.Certificate = e.Host.HostKey, e.Host.Certificate
	return p.gave(ssh.FingerprintSHA256(cert.SignatureKey), cert.Serial, index)
}

// report opens the report in an event, which has to be by the host that it names.
func (known hosts) report(p *replay, e *Event) (report access.Session, h *Host, err error) {
	if e.Statement == nil {
		return report, nil, fmt.Errorf("the report is missing in it")
	}
	report, key, err := statement.OpenSession(*e.Statement)
	if err != nil {
		return report, nil, fmt.Errorf("the report: %w", err)
	}
	p.report.Statements++
	h = known[report.Signer]
	switch {
	case h == nil:
		return report, nil, fmt.Errorf("host %s has not enrolled before it", report.Signer)
	case h.AgentKey != statement.MarshalKey(key):
		return report, nil, fmt.Errorf("the report is signed by another key than the one that %s enrolled with", report.Signer)
	case report.Signer != e.Actor:
		return report, nil, fmt.Errorf("the report is of %s, the event says %s", report.Signer, clip(e.Actor))
	}
	return report, h, nil
}

func (known hosts) session(p *replay, e *Event) error {
	report, _, err := known.report(p, e)
	if err != nil {
		return err
	}
	if report.Request != e.Request || sessionType(report.Event) != e.Type || sessionStep(report.ID) != e.Step {
		return fmt.Errorf("the report is of request %s on %s, the event says %s", report.Request, report.Signer, clip(e.Actor))
	}
	s := p.requests[e.Request]
	if s == nil || s.handle == nil {
		return fmt.Errorf("there is no certificate of the request in the log before it")
	}
	if s.handle.Serial != report.Serial {
		return fmt.Errorf("the report is about serial %d, the certificate has %d", report.Serial, s.handle.Serial)
	}
	return nil
}

// refused checks that a report was refused for a reason: what the log has of the
// certificate that it is about.
func (known hosts) refused(p *replay, e *Event) error {
	report, h, err := known.report(p, e)
	if err != nil {
		return err
	}
	if e.Request != "" || e.Step != refusedStep(h.Token, e.Code, report) || e.Why == "" {
		return fmt.Errorf("the event is not as one about a refused report is")
	}
	s := p.requests[report.Request]
	given := s != nil && s.handle != nil && (s.issued != nil || s.ended != "" && !s.unissued)
	switch {
	case e.Code == access.CodeNotFound && !given:
		return nil
	case e.Code == access.CodeMismatch && given:
		id, err := ca.KeyID(report.Request, s.requester)
		if s.handle.Serial != report.Serial || err != nil || id != report.KeyID {
			return nil
		}
	case e.Code == access.CodeForbidden && given: // by a catalog of its day
		return nil
	}
	return fmt.Errorf("the report was refused as %q, which it isn't by what is in the log before it", clip(string(e.Code)))
}

// finish compares the table of hosts with what the events told.
func (known hosts) finish(ctx context.Context, p *replay, q querier) error {
	if p.schema < 2 {
		return nil
	}
	have, err := listHosts(ctx, q)
	if err != nil {
		return err
	}
	for _, h := range have {
		want := known[h.Name]
		if want == nil || !want.same(h) {
			p.report.problem(-1, nil, "host %s is not as the events say", clip(h.Name))
		}
	}
	if len(have) != len(known) {
		p.report.problem(-1, nil, "there are %d hosts, the events make %d", len(have), len(known))
	}
	return nil
}

func (h *Host) same(o Host) bool {
	a, errA := json.Marshal(h)
	b, errB := json.Marshal(o)
	return errA == nil && errB == nil && string(a) == string(b)
}

// enrolments finds the events by which the hosts that have reported in these
// records were known, for a proof.
func enrolments(ctx context.Context, q querier, own []Record) ([]Record, error) {
	var found []Record
	for _, rec := range own {
		if !strings.HasPrefix(rec.Event.Type, "session.") {
			continue
		}
		var last *Record
		for e, err := range events(ctx, q, Query{Type: HostEnrolled, Resource: "ssh/" + rec.Event.Actor}) {
			if err != nil {
				return nil, err
			}
			if e.Index < rec.Index {
				last = &e
			}
		}
		if last != nil {
			found = append(found, *last)
		}
	}
	return found, nil
}
