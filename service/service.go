// Package service is hallpass over HTTPS: what hosts need, so that they talk
// to nothing else, and what people need who have no access to Temporal.
// docs/spec/service.md describes it for those who write clients, and
// openapi.yaml for their tools.
//
// Use New for the handler and Serve to serve it. What is served holds no key
// that could let anybody in: lists and certificates come signed from an
// issuer, what hosts report is signed by them, and what people say is signed
// and goes on to Temporal as it came, where it is judged. Whoever owns the
// service can delay and withhold; hosts notice a list that gets old.
//
// Anybody may ask. So everything is bounded: the size of what is read, how
// long it may take, how many wait at a time, how many connections there are,
// and how much one person may ask for.
package service

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"sync/atomic"
	"time"

	"hallpass/access"
	"hallpass/evidence"
)

// Bounds on what anybody can make the service do.
const (
	MaxBody        = 1 << 20 // bytes of a request's body
	MaxReading     = 1 << 27 // bytes of what hosts send that are kept at a time
	MaxWaiting     = 10_000  // long polls at a time
	MaxPosts       = 64      // messages of hosts that are worked on at a time
	MaxCalls       = 2000    // calls of people that are worked on, or wait, at a time
	MaxConnections = 12_000
	maxHeader      = 16 << 10
)

// Options are for New.
type Options struct {
	KRL      KRLSource
	Hosts    Hosts
	Rulebook func() *evidence.Rulebook

	// Certify has an issuer take a host in, or tell it how things are now. It
	// is called with what has passed the service's own checks, and the id of
	// its statement; the issuer makes the same checks, and others. It returns
	// CodeUnavailable if no issuer answers in time, which is worth a retry.
	Certify func(ctx context.Context, id string, in access.Enrolment) (access.Statement, error)

	// Requests is where what people say goes on to; an error while it isn't
	// there.
	Requests func() (Requests, error)
	// Audience is what read statements for this service name: see
	// access.Audience.
	Audience string

	// Trace begins the span of a call by which somebody says something whom the
	// directory knows, within the trace that the call names, and returns what
	// ends it; nil: nobody follows calls. Strangers make no spans.
	Trace func(*http.Request) (ctx context.Context, end func(error))

	Log   *slog.Logger
	Now   func() time.Time                           // nil: time.Now
	Sleep func(context.Context, time.Duration) error // between looks, while somebody waits; nil: sleeps
}

// New makes the handler of all that the service offers.
func New(o Options) http.Handler {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Sleep == nil {
		o.Sleep = sleep
	}
	s := &server{
		Options: o,
		krl:     newBoard(o.KRL, MaxWaiting),
		desks:   make(chan struct{}, MaxPosts),
		calls:   make(chan struct{}, MaxCalls),
		guests:  guests{now: o.Now, of: map[string]*guest{}},
		known:   newMachines(o.Now),
	}
	s.watches = watches{now: o.Now, sleep: o.Sleep, of: map[string]*watch{}, look: func(ctx context.Context, id string) (sight, error) {
		requests, err := s.Requests()
		if err != nil {
			return sight{}, err
		}
		return look(ctx, requests, id)
	}}
	mux := http.NewServeMux()
	for _, r := range s.routes() {
		mux.HandleFunc(r.pattern, r.handler)
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		s.fail(w, r, access.Errorf(access.CodeNotFound, "there is nothing at this address"))
	})
	return http.MaxBytesHandler(mux, MaxBody)
}

// route is one line of what the service offers.
type route struct {
	pattern string
	handler http.HandlerFunc
}

func (s *server) routes() []route {
	return []route{
		{"GET /v1/krl", s.getKRL},
		{"POST /v1/hosts", s.post(s.enrol)},
		{"POST /v1/hosts/renew", s.post(s.renew)},
		{"POST /v1/sessions", s.post(s.sessions)},
		{"POST /v1/extensions", s.post(s.extensions)},
		{"POST /v1/requests", s.people(s.submit)},
		{"GET /v1/requests", s.people(s.list)},
		{"GET /v1/requests/{id}", s.people(s.status)},
		{"POST /v1/requests/{id}/{message}", s.people(s.send)},
		{"POST /v1/locks", s.people(s.lock)},
		{"GET /v1/locks", s.people(s.locks)},
		{"POST /v1/reviews", s.people(s.review)},
		{"GET /v1/reviews", s.people(s.reviews)},
		{"POST /v1/delegations", s.people(s.delegate)},
		{"GET /v1/delegations", s.people(s.delegations)},
		{"GET /v1/me", s.people(s.me)},
		{"GET /openapi.yaml", getOpenAPI},
	}
}

type server struct {
	Options
	krl     *board
	desks   chan struct{} // each has one message that is being worked on
	calls   chan struct{} // the same for people
	guests  guests
	known   machines
	watches watches

	reading atomic.Int64 // bytes of the messages of hosts that are being read or worked on
}

// status is the HTTP status that goes with a code.
func status(code access.Code) int {
	switch code {
	case access.CodeMalformed:
		return http.StatusBadRequest
	case access.CodeUnverified:
		return http.StatusUnauthorized
	case access.CodeForbidden, access.CodeDenied, access.CodeLimited:
		return http.StatusForbidden
	case access.CodeNotFound:
		return http.StatusNotFound
	case access.CodeDuplicate, access.CodeMismatch, access.CodeStale:
		return http.StatusConflict
	case access.CodeEnded, access.CodeDeaf:
		return http.StatusGone
	}
	return http.StatusServiceUnavailable
}

// retryAfter is how long somebody shall wait who comes when it isn't possible,
// in seconds.
const retryAfter = "5"

// fail answers with an error. Of one that isn't an access.Error nothing is
// told but that it happened.
func (s *server) fail(w http.ResponseWriter, r *http.Request, err error) {
	if r.Context().Err() != nil && access.CodeOf(err) != access.CodeMalformed {
		// Either nobody listens any more, or the service stops: an answer that
		// nothing is written to would be 200.
		err = access.Errorf(access.CodeUnavailable, "the service is stopping")
	}
	var e *access.Error
	var long *http.MaxBytesError
	var turned *turnedAway
	switch {
	case errors.As(err, &turned):
		turned.header(w.Header())
		answer(w, turned.status, turned.error)
		return
	case errors.As(err, &e):
	case errors.As(err, &long):
		e = access.Errorf(access.CodeMalformed, "the request is longer than %d bytes", long.Limit)
	default:
		s.Log.Error("request failed", "path", r.URL.Path, "error", err)
		e = access.Errorf(access.CodeUnavailable, "the service can't do this at the moment")
	}
	code := status(e.Code)
	if code == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", retryAfter)
	}
	answer(w, code, e)
}

// answer writes v as JSON.
func answer(w http.ResponseWriter, code int, v any) {
	data, err := json.Marshal(v)
	if err != nil {
		code, data = http.StatusInternalServerError, []byte(`{"code":"unavailable","message":"the answer can't be written"}`)
	}
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("X-Content-Type-Options", "nosniff")
	if h.Get("Cache-Control") == "" {
		h.Set("Cache-Control", "no-store")
	}
	w.WriteHeader(code)
	_, _ = w.Write(append(data, '\n')) // who doesn't listen doesn't hear
}

// patience extends the connection's deadlines for one answer that takes long.
func patience(w http.ResponseWriter, d time.Duration) {
	c := http.NewResponseController(w)
	_ = c.SetReadDeadline(time.Now().Add(d)) // where it isn't possible, the answer comes too late
	_ = c.SetWriteDeadline(time.Now().Add(d))
}
