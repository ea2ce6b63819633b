package transport

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"hallpass/access"
	"hallpass/evidence"
	"hallpass/statement"
)

const (
	readLife  = 10 * time.Minute // of a read statement
	readSpare = 30 * time.Second // what has to be left of it for another call

	// answerTime is what the service may take beyond what it waits for.
	answerTime = 15 * time.Second

	maxAnswer   = 16 << 20         // bytes
	maxTold     = 16 << 10         // bytes of a refusal
	maxHolds    = 5                // how often a call is tried that comes too soon
	longestHold = 30 * time.Second // what the service may ask for between them
)

// HTTPSOptions are for NewHTTPS.
type HTTPSOptions struct {
	Address string // such as https://hallpass.example.com:7443
	CA      []byte // the one certificate, in PEM, that the service's own is signed by
	// Sign completes a read statement by its header and signs it.
	Sign func(access.Read) (access.Statement, error)
	Now  func() time.Time
	// Traces follow the calls that say something; nil: nobody does. Close
	// closes them.
	Traces Traces
}

// Traces are where spans go.
type Traces interface {
	// Begin begins the span of a call, such as "POST /v1/requests", tells the
	// service about it in the call's header, and returns what ends it.
	Begin(ctx context.Context, call string, header http.Header) (end func(error))
	Close()
}

// HTTPS talks to the service (service/openapi.yaml). Who asks is known by a
// read statement, which is signed when the first call needs it, kept in memory,
// and signed anew when it runs out.
//
// Only what shows a certificate of the CA is sent anything; redirects aren't
// followed.
type HTTPS struct {
	o        HTTPSOptions
	url      string // without a slash at the end
	audience string
	http     *http.Client

	mu    sync.Mutex
	token string
	until time.Time
	seen  map[string]seen // by request
}

// seen is a status as it was answered last.
type seen struct {
	tag    string
	answer StatusAnswer
}

// The answers that have more to them than one value. An Error beside a value is
// what Temporal's side returns with it.
type (
	// Submitted answers a request.
	Submitted struct {
		ID string `json:"id"`
	}
	// StatusAnswer answers with how a request stands; Error is of CodeEnded
	// where its workflow was ended from outside.
	StatusAnswer struct {
		Status access.Status `json:"status"`
		Error  *access.Error `json:"error,omitempty"`
	}
	// LockAnswer answers a lock; Error is of CodeUnavailable where what is
	// under it hasn't ended yet.
	LockAnswer struct {
		Locked access.Locked `json:"locked"`
		Error  *access.Error `json:"error,omitempty"`
	}
)

// CheckAddress says whether s can be the address of the service.
func CheckAddress(s string) error {
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "https" || u.Hostname() == "" || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil {
		return access.Errorf(access.CodeMalformed, "%.80q is not like https://hallpass.example.com:7443", s)
	}
	return nil
}

// ParseCA reads what people know the service by: one certificate of a CA, in PEM.
func ParseCA(data []byte) (*x509.Certificate, error) {
	block, rest := pem.Decode(data)
	if block == nil || block.Type != "CERTIFICATE" || len(bytes.TrimSpace(rest)) > 0 {
		return nil, access.Errorf(access.CodeMalformed, "service.ca doesn't hold one certificate in PEM and nothing else")
	}
	certificate, err := x509.ParseCertificate(block.Bytes)
	if err != nil || !certificate.IsCA {
		return nil, access.Errorf(access.CodeMalformed, "service.ca is not the certificate of a CA").
			WithHint("it is service_ca.pub.pem of the service")
	}
	return certificate, nil
}

// NewHTTPS prepares to talk to the service; it doesn't connect.
func NewHTTPS(o HTTPSOptions) (*HTTPS, error) {
	if err := CheckAddress(o.Address); err != nil {
		return nil, err
	}
	u, err := url.Parse(o.Address)
	if err != nil {
		return nil, err
	}
	certificate, err := ParseCA(o.CA)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	pool.AddCert(certificate)
	return &HTTPS{
		o: o, url: "https://" + u.Host, audience: access.Audience(certificate.Raw), seen: map[string]seen{},
		http: &http.Client{
			Transport: &http.Transport{
				Proxy:               http.ProxyFromEnvironment,
				DialContext:         (&net.Dialer{Timeout: callTimeout}).DialContext,
				TLSClientConfig:     &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS13},
				ForceAttemptHTTP2:   true,
				MaxIdleConnsPerHost: 2,
				IdleConnTimeout:     time.Minute,
				TLSHandshakeTimeout: callTimeout,
			},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}, nil
}

// Close closes connections that are idle, and the traces.
func (h *HTTPS) Close() {
	h.http.CloseIdleConnections()
	if h.o.Traces != nil {
		h.o.Traces.Close()
	}
}

// bearer is a read statement that is good for another call.
func (h *HTTPS) bearer(afresh bool) (string, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := h.o.Now()
	if h.token != "" && !afresh && h.until.Sub(now) > readSpare {
		return h.token, nil
	}
	until := statement.Time(now.Add(readLife))
	st, err := h.o.Sign(access.Read{Audience: h.audience, Until: until})
	if err != nil {
		return "", err
	}
	if h.token, err = statement.Token(st); err != nil {
		return "", err
	}
	h.until = until
	return h.token, nil
}

// call is one call of the service.
type call struct {
	method, path string
	route        string // the path without what differs from request to request; "": there is nothing
	query        url.Values
	header       http.Header
	body         *access.Statement
	tag          string        // what is known already
	takes        time.Duration // what the service may wait for
	open         bool          // to anybody
}

// do makes a call and reads the answer into out. It comes back later when it is
// told to, and signs another read statement if the clocks differ so much that
// the first is over. It returns the answer's tag, and false if nothing is new.
func (h *HTTPS) do(ctx context.Context, c call, out any) (tag string, fresh bool, err error) {
	if c.body != nil && h.o.Traces != nil {
		c.header = http.Header{}
		end := h.o.Traces.Begin(ctx, c.method+" "+cmp.Or(c.route, c.path), c.header)
		defer func() { end(err) }()
	}
	afresh := false
	for holds := 0; ; {
		resp, data, err := h.once(ctx, c, afresh)
		if err != nil {
			return "", false, err
		}
		switch resp.StatusCode {
		case http.StatusNotModified:
			return c.tag, false, nil
		case http.StatusOK, http.StatusCreated:
			if err := json.Unmarshal(data, out); err != nil {
				return "", false, access.Errorf(access.CodeMalformed, "the answer of the service at %s can't be read", h.url)
			}
			return resp.Header.Get("ETag"), true, nil
		}
		refusal := h.refusal(resp, data)
		switch {
		case resp.StatusCode == http.StatusUnauthorized && access.CodeOf(refusal) == access.CodeStale && !afresh:
			afresh = true
			continue
		case resp.StatusCode == http.StatusTooManyRequests && holds < maxHolds:
			if err := hold(ctx, resp.Header.Get("Retry-After")); err != nil {
				return "", false, err
			}
			holds++
			continue
		}
		return "", false, refusal
	}
}

// hold waits as long as the service asks for.
func hold(ctx context.Context, after string) error {
	seconds, err := strconv.Atoi(after)
	if err != nil || seconds < 1 {
		seconds = 1
	}
	t := time.NewTimer(min(time.Duration(seconds)*time.Second, longestHold))
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// once sends a call and reads all of the answer.
func (h *HTTPS) once(ctx context.Context, c call, afresh bool) (*http.Response, []byte, error) {
	token := ""
	if !c.open {
		var err error
		if token, err = h.bearer(afresh); err != nil {
			return nil, nil, err
		}
	}
	parent := ctx
	ctx, cancel := context.WithTimeout(ctx, c.takes+answerTime)
	defer cancel()
	var body io.Reader
	if c.body != nil {
		data, err := json.Marshal(c.body)
		if err != nil {
			return nil, nil, err
		}
		body = bytes.NewReader(data)
	}
	address := h.url + c.path
	if len(c.query) > 0 {
		address += "?" + c.query.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, c.method, address, body)
	if err != nil {
		return nil, nil, err
	}
	maps.Copy(req.Header, c.header)
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	if c.body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if c.tag != "" {
		req.Header.Set("If-None-Match", c.tag)
	}
	resp, err := h.http.Do(req)
	if err != nil {
		return nil, nil, h.unreachable(parent, err)
	}
	defer func() { _ = resp.Body.Close() }()
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil {
		return nil, nil, h.unreachable(parent, err)
	}
	if len(data) > maxAnswer {
		return nil, nil, access.Errorf(access.CodeMalformed, "the answer of the service at %s is longer than %d bytes", h.url, maxAnswer)
	}
	return resp, data, nil
}

// refusal is the error that an answer carries. What no hallpass would say comes
// from something between here and the service.
func (h *HTTPS) refusal(resp *http.Response, data []byte) error {
	var e access.Error
	if json.Unmarshal(data, &e) == nil && says(&e) {
		return &e
	}
	if resp.StatusCode >= http.StatusInternalServerError || resp.StatusCode == http.StatusTooManyRequests {
		return access.Errorf(access.CodeUnavailable, "what answers at %s says %d and nothing that hallpass says", h.url, resp.StatusCode)
	}
	return access.Errorf(access.CodeMalformed, "what answers at %s is not the service of hallpass: it says %d", h.url, resp.StatusCode)
}

// says says whether an error is one: with a code to go by, and a message to show.
func says(e *access.Error) bool {
	return e.Code != "" && e.Message != "" && len(e.Message)+len(e.Hint) <= maxTold
}

// beside is the error that comes with a value, nil if there is none.
func (h *HTTPS) beside(e *access.Error) error {
	switch {
	case e == nil:
		return nil
	case !says(e):
		return access.Errorf(access.CodeMalformed, "the answer of the service at %s has an error that says nothing", h.url)
	}
	return e
}

// unreachable says in one line why a call had no answer. ctx is the caller's.
func (h *HTTPS) unreachable(ctx context.Context, err error) error {
	if errors.Is(ctx.Err(), context.Canceled) {
		return context.Canceled
	}
	var (
		unknown *tls.CertificateVerificationError
		invalid x509.CertificateInvalidError
		name    x509.HostnameError
		record  tls.RecordHeaderError
		late    net.Error
		dial    *net.OpError
		call    *url.Error
	)
	isnt := access.Errorf(access.CodeUnverified, "what answers at %s is not the service that is known here: its certificate isn't by the CA in service.ca", h.url).
		WithHint("service.ca is a copy of the service's service_ca.pub.pem")
	switch {
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return access.Errorf(access.CodeUnverified, "the certificate of the service at %s is good from %s to %s, and that isn't now", h.url,
			invalid.Cert.NotBefore.UTC().Format(time.RFC3339), invalid.Cert.NotAfter.UTC().Format(time.RFC3339)).
			WithHint("compare the clocks of the two machines")
	case errors.As(err, &name):
		return access.Errorf(access.CodeUnverified, "the certificate of the service at %s is for other names", h.url).
			WithHint("use one of them, or have this one added to service.names of the service")
	case errors.As(err, &unknown):
		return isnt
	case errors.As(err, &record), errors.Is(err, http.ErrSchemeMismatch):
		return access.Errorf(access.CodeUnavailable, "what answers at %s doesn't speak HTTPS", h.url)
	}
	why := err
	switch {
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &late) && late.Timeout():
		why = errors.New("no answer in time")
	case errors.As(err, &dial):
		why = dial.Err
	case errors.As(err, &call):
		why = call.Err
	}
	return access.Errorf(access.CodeUnavailable, "can't reach the service at %s: %v", h.url, why).
		WithHint("hallpass config show lists what is configured")
}

// Hello makes sure that the service is there, and the one that is known here. It
// takes no read statement.
func (h *HTTPS) Hello(ctx context.Context) error {
	resp, data, err := h.once(ctx, call{method: http.MethodGet, path: "/openapi.yaml", open: true}, false)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = h.refusal(resp, data)
	}
	return err
}

// Submit starts the request.
func (h *HTTPS) Submit(ctx context.Context, in access.Submission, req access.Request) error {
	var out Submitted
	_, _, err := h.do(ctx, call{method: http.MethodPost, path: "/v1/requests", body: &in.Request, takes: callTimeout}, &out)
	if err == nil && out.ID != req.ID {
		err = access.Errorf(access.CodeMismatch, "request %s was sent, the service answers about %.40q", req.ID, out.ID)
	}
	return err
}

// Status says how a request stands.
func (h *HTTPS) Status(ctx context.Context, id string) (access.Status, error) {
	return h.status(ctx, id, 0)
}

// Next is Status once that is another than was answered last, or as it is after
// a while. The service says how long it waits at most.
func (h *HTTPS) Next(ctx context.Context, id string, wait time.Duration) (access.Status, error) {
	return h.status(ctx, id, wait)
}

func (h *HTTPS) status(ctx context.Context, id string, wait time.Duration) (access.Status, error) {
	c := call{method: http.MethodGet, path: "/v1/requests/" + url.PathEscape(id), takes: callTimeout + wait}
	h.mu.Lock()
	known := h.seen[id]
	h.mu.Unlock()
	if wait > 0 {
		c.tag, c.query = known.tag, url.Values{"wait": {max(wait.Round(time.Millisecond), time.Millisecond).String()}}
	}
	var out StatusAnswer
	tag, fresh, err := h.do(ctx, c, &out)
	switch {
	case err != nil:
		return access.Status{}, err
	case !fresh && c.tag != "":
		out = known.answer
	case !fresh:
		return access.Status{}, access.Errorf(access.CodeMalformed, "the service at %s says that nothing is new to one who knows nothing", h.url)
	case out.Status.ID != id:
		return access.Status{}, elsewhere(id, out.Status.ID)
	default:
		h.mu.Lock()
		if out.Status.State.Final() || out.Error != nil {
			delete(h.seen, id) // nobody asks for news of it
		} else {
			h.seen[id] = seen{tag, out}
		}
		h.mu.Unlock()
	}
	return out.Status, h.beside(out.Error)
}

// Values is the filter as the service is asked by it.
func (f Filter) Values() url.Values {
	q := url.Values{}
	for name, value := range map[string]string{"prefix": f.Prefix, "requester": f.Requester, "resource": f.Resource} {
		if value != "" {
			q.Set(name, value)
		}
	}
	for _, s := range f.States {
		q.Add("state", string(s))
	}
	if f.Limit > 0 {
		q.Set("limit", strconv.Itoa(f.Limit))
	}
	return q
}

// List finds requests.
func (h *HTTPS) List(ctx context.Context, f Filter) ([]Summary, error) {
	var found []Summary
	_, _, err := h.do(ctx, call{method: http.MethodGet, path: "/v1/requests", query: f.Values(), takes: callTimeout}, &found)
	return found, err
}

// Send delivers a statement to a request.
func (h *HTTPS) Send(ctx context.Context, id, message, _ string, st access.Statement) (access.Status, error) {
	var out StatusAnswer
	c := call{
		method: http.MethodPost, path: "/v1/requests/" + url.PathEscape(id) + "/" + url.PathEscape(message), route: "/v1/requests/{id}/" + message,
		body: &st, takes: sendTimeout,
	}
	if _, _, err := h.do(ctx, c, &out); err != nil {
		return access.Status{}, err
	}
	if out.Status.ID != id {
		return access.Status{}, elsewhere(id, out.Status.ID)
	}
	return out.Status, nil
}

// Lock delivers a lock or unlock.
func (h *HTTPS) Lock(ctx context.Context, st access.Statement, _ access.Lock) (access.Locked, error) {
	var out LockAnswer
	c := call{method: http.MethodPost, path: "/v1/locks", body: &st, takes: sendTimeout + callTimeout}
	if _, _, err := h.do(ctx, c, &out); err != nil {
		return access.Locked{}, err
	}
	return out.Locked, h.beside(out.Error)
}

// Locks lists the locks in force.
func (h *HTTPS) Locks(ctx context.Context) (evidence.Locks, error) {
	var held evidence.Locks
	_, _, err := h.do(ctx, call{method: http.MethodGet, path: "/v1/locks", takes: callTimeout}, &held)
	return held, err
}

// Review delivers a review.
func (h *HTTPS) Review(ctx context.Context, id, _ string, st access.Statement) (access.ReviewTask, error) {
	var task access.ReviewTask
	_, _, err := h.do(ctx, call{method: http.MethodPost, path: "/v1/reviews", body: &st, takes: sendTimeout}, &task)
	if err == nil && task.Request != id {
		err = elsewhere(id, task.Request)
	}
	return task, err
}

// Reviews lists what has to be reviewed.
func (h *HTTPS) Reviews(ctx context.Context) ([]access.ReviewTask, error) {
	var tasks []access.ReviewTask
	_, _, err := h.do(ctx, call{method: http.MethodGet, path: "/v1/reviews", takes: callTimeout}, &tasks)
	return tasks, err
}

// Delegate delivers a delegation, or what revokes one.
func (h *HTTPS) Delegate(ctx context.Context, st access.Statement, d access.Delegation) (access.Delegated, error) {
	var out access.Delegated
	_, _, err := h.do(ctx, call{method: http.MethodPost, path: "/v1/delegations", body: &st, takes: sendTimeout}, &out)
	if err == nil && out.Delegation.ID != d.ID {
		err = access.Errorf(access.CodeMismatch, "delegation %s was sent, the service answers about %.40q", d.ID, out.Delegation.ID)
	}
	return out, err
}

// Delegations lists those in force.
func (h *HTTPS) Delegations(ctx context.Context) (evidence.Delegations, error) {
	var given evidence.Delegations
	_, _, err := h.do(ctx, call{method: http.MethodGet, path: "/v1/delegations", takes: callTimeout}, &given)
	return given, err
}

// Me is who asks, by the service's directory.
func (h *HTTPS) Me(ctx context.Context) (access.User, error) {
	var me access.User
	_, _, err := h.do(ctx, call{method: http.MethodGet, path: "/v1/me", takes: callTimeout}, &me)
	return me, err
}

// Sweep isn't to be had here: it carries no statement, so it is for those who
// operate Temporal.
func (h *HTTPS) Sweep(context.Context) (access.Swept, error) {
	return access.Swept{}, access.Errorf(access.CodeForbidden, "a sweep is for those who operate hallpass: it takes access to Temporal, and the service starts none").
		WithHint("run hallpass sweep where temporal.address is configured and client.service isn't")
}

// elsewhere says that an answer is about another request.
func elsewhere(asked, answered string) error {
	return access.Errorf(access.CodeMismatch, "asked about request %s, the service answers about %.40q", asked, answered)
}
