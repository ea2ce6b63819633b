package service

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ssh"

	"hallpass/access"
	"hallpass/audit"
	"hallpass/evidence"
	"hallpass/statement"
)

// MaxReports is how many reports one message may carry.
const MaxReports = 500

// MaxExtensions is how many certificates one message may ask about.
const MaxExtensions = 100

// A body is sent along with its header, or soon after. perBody is what reading one
// takes in memory, whatever is in it.
const (
	bodyTimeout = 10 * time.Second
	perBody     = 16 << 10 // bytes
)

// certifyTimeout is how long a host waits for an issuer within one request.
const certifyTimeout = 20 * time.Second

// Hosts is the part of audit.Log that the service needs for hosts.
type Hosts interface {
	Host(ctx context.Context, name string) (audit.Host, bool, error)
	Locks(ctx context.Context) (audit.Locks, error)
	// Report records what a host says, once, after checking that it may.
	Report(ctx context.Context, st access.Statement, on func(host string) []access.Resource) error
	// Reported says whether the report with an id about a request is on record.
	Reported(ctx context.Context, request, id string) (bool, error)
	// CAKeys are the keys of all SSH CAs that there have been.
	CAKeys(ctx context.Context) ([]ssh.PublicKey, error)
	// Extension is the certificate that extends the grant of another, "" if none does.
	Extension(ctx context.Context, of *ssh.Certificate) (string, error)
}

// post makes a handler of a function that takes a message and returns what to
// answer. Whoever sends slowly, or nothing, takes nobody's place: a desk is for a
// message that is there.
func (s *server) post(do func(ctx context.Context, body []byte) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		body, drop, err := s.body(w, r)
		defer drop()
		if err != nil {
			s.fail(w, r, err)
			return
		}
		select {
		case s.desks <- struct{}{}:
			defer func() { <-s.desks }()
		default:
			s.fail(w, r, errBusy())
			return
		}
		out, err := do(r.Context(), body)
		if err != nil {
			s.fail(w, r, err)
			return
		}
		answer(w, http.StatusOK, out)
	}
}

func errBusy() error {
	return access.Errorf(access.CodeUnavailable, "there is too much to do at the moment")
}

// body reads what a stranger sends, for as long as bodyTimeout. drop is to be
// called when it isn't needed any more.
func (s *server) body(w http.ResponseWriter, r *http.Request) (body []byte, drop func(), err error) {
	in := metered{Reader: r.Body, of: &s.reading}
	drop = func() { s.reading.Add(-in.taken) }
	if !in.take(perBody) {
		return nil, drop, errBusy()
	}
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(bodyTimeout)) // where it isn't possible, the server's own counts
	body, err = io.ReadAll(&in)
	patience(w, writeTimeout)
	var known *access.Error
	var long *http.MaxBytesError
	if err != nil && !errors.As(err, &known) && !errors.As(err, &long) {
		err = access.Errorf(access.CodeMalformed, "the request ended early, or took longer than %s", access.ShortDuration(bodyTimeout))
	}
	return body, drop, err
}

// metered counts what is read, with all that others read, and stops at MaxReading.
type metered struct {
	io.Reader
	of    *atomic.Int64
	taken int64
}

func (m *metered) take(n int64) bool {
	m.taken += n
	return m.of.Add(n) <= MaxReading
}

func (m *metered) Read(p []byte) (int, error) {
	n, err := m.Reader.Read(p)
	if !m.take(int64(n)) {
		return n, errBusy()
	}
	return n, err
}

// read takes the JSON of a message apart. What it holds of statements is read
// strictly when they are opened; around them, fields that a newer host may
// send are ignored.
func read(body []byte, v any) error {
	if err := json.Unmarshal(body, v); err != nil {
		return access.Errorf(access.CodeMalformed, "the message is not the JSON it should be")
	}
	return nil
}

// rulebook is what is in force, under the locks of the moment.
func (s *server) rulebook(ctx context.Context) (*evidence.Rulebook, error) {
	book := s.Rulebook()
	if book == nil {
		return nil, access.Errorf(access.CodeUnavailable, "there is no policy, directory and catalog")
	}
	locks, err := s.Hosts.Locks(ctx)
	if err != nil {
		return nil, err
	}
	return book.Under(locks.Held), nil
}

// joining is what a host sends to be taken in.
type joining struct {
	Token    string   `json:"token"`
	HostKey  string   `json:"host_key"`
	AgentKey string   `json:"agent_key"`
	Names    []string `json:"names,omitempty"`
}

// enrol takes a host in by its join token.
func (s *server) enrol(ctx context.Context, body []byte) (any, error) {
	var in joining
	if err := read(body, &in); err != nil {
		return nil, err
	}
	st, err := statement.ParseToken(in.Token)
	if err != nil {
		return nil, err
	}
	for _, key := range []string{in.HostKey, in.AgentKey} {
		if _, err := statement.ParseKey(key); err != nil {
			return nil, err
		}
	}
	book, err := s.rulebook(ctx)
	if err != nil {
		return nil, err
	}
	join, _, _, err := book.CheckJoin(st, s.Now())
	if err != nil {
		return nil, err
	}
	if wait := s.known.join(join.ID); wait > 0 {
		return nil, tooMany("enrolments", join.Resource, wait)
	}
	return s.certify(ctx, join.ID, access.Enrolment{Statement: st, HostKey: in.HostKey, AgentKey: in.AgentKey, Names: in.Names})
}

// renewing is what a host sends once it is in.
type renewing struct {
	Statement access.Statement `json:"statement"` // of type renew
	Names     []string         `json:"names,omitempty"`
}

// renew tells an enrolled host how things are now, by a statement that its
// agent has signed.
func (s *server) renew(ctx context.Context, body []byte) (any, error) {
	var in renewing
	if err := read(body, &in); err != nil {
		return nil, err
	}
	renewal, err := statement.ParseRenewal([]byte(in.Statement.Payload))
	if err != nil {
		return nil, err
	}
	host, err := s.host(ctx, renewal.Signer)
	if err != nil {
		return nil, err
	}
	agent, err := statement.ParseKey(host.AgentKey)
	if err != nil {
		return nil, err
	}
	book, err := s.rulebook(ctx)
	if err != nil {
		return nil, err
	}
	if _, _, err := book.CheckRenewal(in.Statement, agent, s.Now()); err != nil {
		return nil, err
	}
	leave, wait := s.known.renew(host.Name)
	if leave == nil {
		return nil, tooMany("renewals", host.Name, wait)
	}
	defer leave()
	return s.certify(ctx, renewal.ID, access.Enrolment{Statement: in.Statement, Names: in.Names})
}

func (s *server) certify(ctx context.Context, id string, in access.Enrolment) (any, error) {
	ctx, cancel := context.WithTimeout(ctx, certifyTimeout)
	defer cancel()
	out, err := s.Certify(ctx, id, in)
	if err != nil {
		return nil, err
	}
	return out, nil
}

func (s *server) host(ctx context.Context, name string) (audit.Host, error) {
	host, found, err := s.Hosts.Host(ctx, name)
	if err == nil && !found {
		err = access.Errorf(access.CodeNotFound, "host %.80q is not enrolled", name).
			WithHint("hallpass-host enroll, with a token from: hallpass host token NAME")
	}
	return host, err
}

// refused is a report that was not taken, and never will be.
type refused struct {
	ID      string      `json:"id"`
	Code    access.Code `json:"code"`
	Message string      `json:"message"`
}

// reporting is what a host tells; each report by the id of its statement.
type reporting struct {
	Host    string   `json:"host"`
	Reports []report `json:"reports"`
}

type report struct {
	ID        string           `json:"id"`
	Statement access.Statement `json:"statement"`
}

// reported is what became of the reports.
type reported struct {
	Accepted []string  `json:"accepted"` // ids
	Refused  []refused `json:"refused"`
}

// sessions records the reports of a host.
func (s *server) sessions(ctx context.Context, body []byte) (any, error) {
	var in reporting
	if err := read(body, &in); err != nil {
		return nil, err
	}
	if len(in.Reports) > MaxReports {
		return nil, access.Errorf(access.CodeMalformed, "%d reports in one message; at most %d are taken", len(in.Reports), MaxReports)
	}
	host, err := s.host(ctx, in.Host)
	if err != nil {
		return nil, err
	}
	opened, known, err := s.open(ctx, host, in.Reports)
	if err != nil {
		return nil, err
	}
	leave, wait := s.known.tell(host.Name, len(opened.fresh(known)))
	if leave == nil {
		return nil, tooMany("reports", host.Name, wait)
	}
	defer leave()
	out := reported{Accepted: []string{}, Refused: []refused{}}
	on := s.on()
	for i, r := range in.Reports {
		err := opened[i].err
		if id := opened[i].id; err == nil {
			var is bool
			if err, is = known[id]; !is {
				err = s.Hosts.Report(ctx, r.Statement, on)
				known[id] = err
				s.known.refuse(host.Name, id, err)
			}
		}
		var refusal *access.Error
		switch {
		case err == nil:
			out.Accepted = append(out.Accepted, r.ID)
		case errors.As(err, &refusal) && refusal.Code != access.CodeUnavailable:
			out.Refused = append(out.Refused, refused{r.ID, refusal.Code, refusal.Message})
		default:
			return nil, err // what was recorded is recorded once, when all come again
		}
	}
	return out, nil
}

// openedReports are reports as they were sent, each by what it is, or why it isn't the host's.
type openedReports []struct {
	id  reportID
	err error
}

// fresh are those of which nobody knows what became of them, each once.
func (all openedReports) fresh(known map[reportID]error) map[reportID]bool {
	fresh := map[reportID]bool{}
	for _, o := range all {
		if _, is := known[o.id]; o.err == nil && !is {
			fresh[o.id] = true
		}
	}
	return fresh
}

// open verifies reports, and says what became of those that the host has signed and that
// were sent before. They don't count, and others' don't: so nobody uses up what a host may
// tell, neither a stranger nor who has reports of its from the log.
func (s *server) open(ctx context.Context, host audit.Host, reports []report) (all openedReports, known map[reportID]error, err error) {
	all, known = make(openedReports, len(reports)), map[reportID]error{}
	for i, r := range reports {
		report, key, err := statement.OpenSession(r.Statement)
		switch {
		case err != nil:
		case report.ID != r.ID || report.Signer != host.Name:
			err = access.Errorf(access.CodeMismatch, "the report is not the one it is sent as")
		case statement.MarshalKey(key) != host.AgentKey:
			err = access.Errorf(access.CodeUnverified, "the report is signed by another key than the one that %s enrolled with", host.Name)
		}
		all[i].id, all[i].err = reportID{report.Request, report.ID}, err
	}
	for id := range all.fresh(known) {
		if refusal := s.known.refusal(host.Name, id); refusal != nil {
			known[id] = refusal
			continue
		}
		recorded, err := s.Hosts.Reported(ctx, id.request, id.id)
		if err != nil {
			return nil, nil, err
		}
		if recorded {
			known[id] = nil
		}
	}
	return all, known, nil
}

// certificates is what a host asks, and what it is answered: SSH certificates as
// text.
type certificates struct {
	Certificates []string `json:"certificates"`
}

// extensions answers with those that extend the grants of the ones asked about.
// Who has a certificate may know that: its host does, and nobody else finds out
// what there is. Of what isn't known nothing is said.
func (s *server) extensions(ctx context.Context, body []byte) (any, error) {
	var in certificates
	if err := read(body, &in); err != nil {
		return nil, err
	}
	if len(in.Certificates) > MaxExtensions {
		return nil, access.Errorf(access.CodeMalformed, "%d certificates in one message; at most %d are taken", len(in.Certificates), MaxExtensions)
	}
	asked, err := distinct(in.Certificates)
	if err != nil {
		return nil, err
	}
	out := certificates{[]string{}}
	if len(asked) == 0 {
		return out, nil
	}
	keys, err := s.Hosts.CAKeys(ctx)
	if err != nil {
		return nil, err
	}
	for _, cert := range asked {
		if !signed(cert, keys) {
			continue // looking for it would be work that anybody could make
		}
		by, err := s.Hosts.Extension(ctx, cert)
		if err != nil {
			return nil, err
		}
		if by != "" {
			out.Certificates = append(out.Certificates, by)
		}
	}
	return out, nil
}

// distinct reads certificates, each once, however often it is there.
func distinct(lines []string) ([]*ssh.Certificate, error) {
	var all []*ssh.Certificate
	seen := map[string]bool{}
	for _, line := range lines {
		key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(line))
		cert, ok := key.(*ssh.Certificate)
		if err != nil || !ok {
			return nil, access.Errorf(access.CodeMalformed, "what is asked about is not an SSH certificate")
		}
		if text := string(unsigned(cert)); !seen[text] {
			seen[text] = true
			all = append(all, cert)
		}
	}
	return all, nil
}

// signed says whether one of these keys has signed a certificate, whatever that is
// good for, and when.
func signed(cert *ssh.Certificate, keys []ssh.PublicKey) bool {
	by := cert.SignatureKey.Marshal()
	return slices.ContainsFunc(keys, func(k ssh.PublicKey) bool { return bytes.Equal(k.Marshal(), by) }) &&
		cert.SignatureKey.Verify(unsigned(cert), cert.Signature) == nil
}

// unsigned is what of a certificate is signed: all but the signature at its end
// (PROTOCOL.certkeys of OpenSSH), which can often be written in several ways.
func unsigned(cert *ssh.Certificate) []byte {
	c := *cert
	c.Signature = nil
	data := c.Marshal()
	return data[:len(data)-4] // the length of no signature
}

// on says which resources a host serves, by the catalog of the moment.
func (s *server) on() func(host string) []access.Resource {
	return func(host string) []access.Resource {
		book := s.Rulebook()
		if book == nil {
			return nil
		}
		resource, ok := book.Catalog.Resource("ssh/" + host)
		if !ok {
			return nil
		}
		return book.On(resource)
	}
}
