package service

import (
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"hallpass/access"
	"hallpass/evidence"
	"hallpass/statement"
	"hallpass/transport"
)

const (
	// maxStatement bounds a statement as it is sent: payload and signature,
	// and what JSON makes of them.
	maxStatement = 2 * (access.MaxPayload + statement.MaxSignature)

	// sayTime is how long something that is said may take: longer than
	// Temporal is given for it.
	sayTime = 45 * time.Second

	mostListed = 10_000
)

// Requests is where what people say is heard: transport.Temporal. Statements go
// there as they came, and are judged there; nothing here is believed.
type Requests interface {
	Submit(ctx context.Context, in access.Submission, req access.Request) error
	Status(ctx context.Context, id string) (access.Status, error)
	List(ctx context.Context, f transport.Filter) ([]transport.Summary, error)
	Send(ctx context.Context, id, message, statementID string, st access.Statement) (access.Status, error)
	Lock(ctx context.Context, st access.Statement, l access.Lock) (access.Locked, error)
	Locks(ctx context.Context) (evidence.Locks, error)
	Review(ctx context.Context, id, statementID string, st access.Statement) (access.ReviewTask, error)
	Reviews(ctx context.Context) ([]access.ReviewTask, error)
	Delegate(ctx context.Context, st access.Statement, d access.Delegation) (access.Delegated, error)
	Delegations(ctx context.Context) (evidence.Delegations, error)
}

// visit is one call of somebody whom the directory knows.
type visit struct {
	*http.Request
	w        http.ResponseWriter
	who      access.User
	book     *evidence.Rulebook
	requests Requests
}

// turnedAway is a refusal with a status that its code alone doesn't have.
type turnedAway struct {
	error  *access.Error
	status int
	retry  time.Duration
}

func (t *turnedAway) Error() string { return t.error.Message }

func (t *turnedAway) header(h http.Header) {
	if t.status == http.StatusUnauthorized {
		h.Set("WWW-Authenticate", `Bearer realm="hallpass"`)
	}
	if t.retry > 0 {
		h.Set("Retry-After", strconv.Itoa(int(t.retry/time.Second)))
	}
}

// people makes a handler of what somebody may do who is in the directory. A
// handler that returns nil has answered.
func (s *server) people(do func(v visit) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		select {
		case s.calls <- struct{}{}:
			defer func() { <-s.calls }()
		default:
			s.fail(w, r, errBusy())
			return
		}
		out, err := s.admit(w, r, do)
		switch {
		case err != nil:
			s.fail(w, r, err)
		case out != nil:
			answer(w, http.StatusOK, out)
		}
	}
}

func (s *server) admit(w http.ResponseWriter, r *http.Request, do func(v visit) (any, error)) (_ any, err error) {
	book := s.Rulebook()
	if book == nil {
		return nil, access.Errorf(access.CodeUnavailable, "there is no policy, directory and catalog")
	}
	who, err := s.caller(r, book)
	if err != nil {
		return nil, err
	}
	leave, wait := s.guests.enter(who.Name, cost(r))
	if leave == nil {
		return nil, tooMany("calls", who.Name, wait)
	}
	defer leave()
	if s.Trace != nil && r.Method == http.MethodPost {
		ctx, end := s.Trace(r)
		defer func() { end(err) }()
		r = r.WithContext(ctx)
	}
	v := visit{Request: r, w: w, who: who, book: book}
	if v.requests, err = s.Requests(); err == nil {
		var out any
		if out, err = do(v); err == nil {
			return out, nil
		}
	}
	if access.CodeOf(err) == access.CodeUnavailable {
		// What stands behind the service is nobody's business.
		s.Log.Warn("what people asked for can't be done at the moment", "path", r.URL.Path, "user", who.Name, "error", err)
		err = access.Errorf(access.CodeUnavailable, "the service is there, but what stands behind it doesn't answer").
			WithHint("what was sent may have been kept, and is handled then")
	}
	return nil, err
}

// caller finds out who calls, by the read statement.
func (s *server) caller(r *http.Request, book *evidence.Rulebook) (access.User, error) {
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	var err error
	if !strings.EqualFold(scheme, "Bearer") {
		err = access.Errorf(access.CodeUnverified, "the call has no read statement: Authorization: Bearer …")
	} else {
		var st access.Statement
		if st, err = statement.ParseToken(token); err != nil {
			err = access.Errorf(access.CodeMalformed, "what Authorization has is not a read statement")
		} else {
			var who access.User
			if who, err = book.CheckRead(st, s.Audience, s.Now()); err == nil {
				return who, nil
			}
		}
	}
	var refusal *access.Error
	if !errors.As(err, &refusal) {
		return access.User{}, err
	}
	return access.User{}, &turnedAway{error: refusal, status: http.StatusUnauthorized}
}

// tooMany tells somebody, or a host, to come back later.
func tooMany(what, who string, wait time.Duration) error {
	return &turnedAway{
		error:  access.Errorf(access.CodeUnavailable, "these are too many %s by %s in too short a time", what, who),
		status: http.StatusTooManyRequests, retry: wait,
	}
}

// cost is how many calls one counts as.
func cost(r *http.Request) float64 {
	n, _ := strconv.Atoi(r.URL.Query().Get("limit"))
	return 1 + float64(max(0, n/listedPerCall))
}

// said reads the statement that was sent, which has to be the caller's own:
// so nobody's statements are counted as somebody else's.
func said[T any](v visit, open func(access.Statement, statement.Keys) (T, access.User, error)) (access.Statement, T, error) {
	var none T
	body, err := io.ReadAll(http.MaxBytesReader(v.w, v.Body, maxStatement))
	patience(v.w, sayTime)
	if err != nil {
		var long *http.MaxBytesError
		if !errors.As(err, &long) {
			err = access.Errorf(access.CodeMalformed, "the request ended early")
		}
		return access.Statement{}, none, err
	}
	st, err := statement.ParseEnvelope(body)
	if err != nil {
		return access.Statement{}, none, err
	}
	payload, signer, err := open(st, v.book.Directory)
	if err != nil {
		return access.Statement{}, none, err
	}
	if signer.Name != v.who.Name {
		return access.Statement{}, none, access.Errorf(access.CodeForbidden, "the statement is by %s, and %s sends it", signer.Name, v.who.Name)
	}
	return st, payload, nil
}

// submit starts a request.
func (s *server) submit(v visit) (any, error) {
	st, req, err := said(v, statement.OpenRequest)
	if err != nil {
		return nil, err
	}
	if err := s.begins(v, "requests"); err != nil {
		return nil, err
	}
	if err := v.requests.Submit(v.Context(), access.Submission{Request: st}, req); err != nil {
		return nil, err
	}
	answer(v.w, http.StatusCreated, transport.Submitted{ID: req.ID})
	return nil, nil
}

// begins counts what begins a workflow, by somebody who may have no right to it: only
// the workflow finds that out.
func (s *server) begins(v visit, what string) error {
	if wait := s.guests.ask(v.who.Name); wait > 0 {
		return tooMany(what, v.who.Name, wait)
	}
	return nil
}

// send delivers what somebody says to a request.
func (s *server) send(v visit) (any, error) {
	id, err := v.id()
	if err != nil {
		return nil, err
	}
	var st access.Statement
	var about, statementID string
	message := v.PathValue("message")
	switch message {
	case access.MessageDecision:
		var d access.Decision
		st, d, err = said(v, statement.OpenDecision)
		about, statementID = d.Request, d.ID
	case access.MessageRelease, access.MessageRevoke, access.MessageCancel:
		var stop access.Stop
		st, stop, err = said(v, func(st access.Statement, keys statement.Keys) (access.Stop, access.User, error) {
			return statement.OpenStop(st, access.Type(message), keys)
		})
		about, statementID = stop.Request, stop.ID
	default:
		return nil, access.Errorf(access.CodeNotFound, "there is no message %.40q", message)
	}
	if err != nil {
		return nil, err
	}
	if about != id {
		return nil, access.Errorf(access.CodeMismatch, "the statement is about another request")
	}
	answered, err := s.room(v, message, id, statementID)
	if err != nil {
		return nil, err
	}
	after, err := v.requests.Send(v.Context(), id, message, statementID, st)
	if answered(err); err != nil {
		return nil, err
	}
	return transport.StatusAnswer{Status: after}, nil
}

// room refuses what would use up what requests hear. answered is told what came of
// the statement: where nobody was there to hear it, it doesn't count.
func (s *server) room(v visit, kind, request, id string) (answered func(error), err error) {
	unsay, full, here := s.guests.say(v.who.Name, kind, request, id)
	until := full.UTC().Format(time.RFC3339)
	switch {
	case full.IsZero():
		return func(err error) {
			if access.CodeOf(err) == access.CodeUnavailable {
				unsay()
			}
		}, nil
	case here:
		return nil, access.Errorf(access.CodeForbidden, "%s has said as much to it as one person may until %s", v.who.Name, until)
	}
	return nil, access.Errorf(access.CodeForbidden, "%s has said something to as many requests as one person may until %s", v.who.Name, until).
		WithHint("hallpass lock ends all that a user has, or all there is of a resource")
}

func (v visit) id() (string, error) {
	id := v.PathValue("id")
	return id, statement.CheckID(id)
}

// status says how a request stands. With If-None-Match and wait=DURATION it is
// answered as soon as that is something else, and with 304 if it still is the
// same when the wait is over.
func (s *server) status(v visit) (any, error) {
	id, err := v.id()
	if err != nil {
		return nil, err
	}
	wait, err := waitOf(v.URL.Query())
	if err != nil {
		return nil, err
	}
	patience(v.w, wait+sayTime)
	known := strings.TrimPrefix(v.Header.Get("If-None-Match"), "W/")
	var now sight
	if known == "" || wait <= 0 {
		now, err = look(v.Context(), v.requests, id)
	} else {
		now, err = s.watches.news(v.Context(), id, known, wait)
	}
	if err != nil {
		return nil, err
	}
	v.w.Header().Set("ETag", now.tag)
	if now.tag == known {
		v.w.WriteHeader(http.StatusNotModified)
		return nil, nil
	}
	return json.RawMessage(now.data), nil
}

// look asks how a request stands.
func look(ctx context.Context, requests Requests, id string) (sight, error) {
	status, err := requests.Status(ctx, id)
	out := transport.StatusAnswer{Status: status}
	if err != nil && (!errors.As(err, &out.Error) || out.Error.Code != access.CodeEnded || status.ID == "") {
		return sight{}, err
	}
	data, err := json.Marshal(out)
	if err != nil {
		return sight{}, err
	}
	sum := sha256.Sum256(data)
	now := sight{data: data, tag: `"` + hex.EncodeToString(sum[:16]) + `"`, over: status.State.Final() || out.Error != nil}
	switch status.State {
	case access.StatePending:
		now.soon = status.Standing.Effect == "" // nobody has ruled on it yet
	case access.StateIssuing, access.StateRevoking:
		now.soon = true
	}
	return now, nil
}

// sleep waits for d, or less if ctx ends first.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// list finds requests.
func (s *server) list(v visit) (any, error) {
	q := v.URL.Query()
	f := transport.Filter{Prefix: q.Get("prefix"), Requester: q.Get("requester"), Resource: q.Get("resource")}
	for _, name := range q["state"] {
		state := access.State(name)
		if !state.Known() {
			return nil, access.Errorf(access.CodeMalformed, "%.40q is not a state", name)
		}
		f.States = append(f.States, state)
	}
	if n := q.Get("limit"); n != "" {
		limit, err := strconv.Atoi(n)
		if err != nil || limit < 1 || limit > mostListed {
			return nil, access.Errorf(access.CodeMalformed, "limit is not a number from 1 to %d", mostListed)
		}
		f.Limit = limit
	}
	found, err := v.requests.List(v.Context(), f)
	if err != nil {
		return nil, err
	}
	return emptyNotNull(found), nil
}

// emptyNotNull is what JSON makes [] of.
func emptyNotNull[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}

// entitled says whether somebody may lock, or unlock, as far as can be told here. Then it
// isn't held up: it is what ends an attack.
func (s *server) entitled(v visit, st access.Statement) bool {
	book := v.book
	if s.Hosts != nil {
		if under, err := s.rulebook(v.Context()); err == nil {
			book = under
		}
	}
	_, _, err := book.CheckLock(st, s.Now())
	return err == nil
}

// lock delivers a lock or an unlock.
func (s *server) lock(v visit) (any, error) {
	st, l, err := said(v, statement.OpenLock)
	if err != nil {
		return nil, err
	}
	if !s.entitled(v, st) {
		if err := s.begins(v, "locks"); err != nil {
			return nil, err
		}
	}
	out := transport.LockAnswer{}
	out.Locked, err = v.requests.Lock(v.Context(), st, l)
	if err != nil && (out.Locked.Lock.ID != l.ID || access.CodeOf(err) != access.CodeUnavailable) {
		return nil, err
	}
	if err != nil {
		out.Error = access.Errorf(access.CodeUnavailable, "not everything under it has ended yet")
	}
	return out, nil
}

func (s *server) locks(v visit) (any, error) {
	held, err := v.requests.Locks(v.Context())
	if err != nil {
		return nil, err
	}
	return emptyNotNull(held), nil
}

// review delivers a review.
func (s *server) review(v visit) (any, error) {
	st, r, err := said(v, statement.OpenReview)
	if err != nil {
		return nil, err
	}
	if err := s.begins(v, "reviews"); err != nil {
		return nil, err
	}
	answered, err := s.room(v, string(access.TypeReview), r.Request, r.ID)
	if err != nil {
		return nil, err
	}
	task, err := v.requests.Review(v.Context(), r.Request, r.ID, st)
	answered(err)
	return task, err
}

// me says who calls, by the directory.
func (s *server) me(v visit) (any, error) { return v.who, nil }

func (s *server) reviews(v visit) (any, error) {
	tasks, err := v.requests.Reviews(v.Context())
	if err != nil {
		return nil, err
	}
	return emptyNotNull(tasks), nil
}

// delegate delivers a delegation, or what revokes one.
func (s *server) delegate(v visit) (any, error) {
	st, d, err := said(v, statement.OpenDelegation)
	if err != nil {
		return nil, err
	}
	if err := s.begins(v, "delegations"); err != nil {
		return nil, err
	}
	return v.requests.Delegate(v.Context(), st, d)
}

func (s *server) delegations(v visit) (any, error) {
	given, err := v.requests.Delegations(v.Context())
	if err != nil {
		return nil, err
	}
	return emptyNotNull(given), nil
}

//go:embed openapi.yaml
var openAPI []byte

// getOpenAPI describes all of this for tools. It is the same everywhere, so it
// needs no read statement.
func getOpenAPI(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/yaml")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	_, _ = w.Write(openAPI)
}
