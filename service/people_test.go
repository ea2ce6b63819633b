package service

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/crypto/ssh"

	"hallpass/access"
	"hallpass/evidence"
	"hallpass/statement"
	"hallpass/testsuite/openapitest"
	"hallpass/transport"
)

// hearing is what stands behind the service: it keeps what it is told.
type hearing struct {
	mu     sync.Mutex
	heard  []string
	status access.Status
	err    error
	asked  int
	on     func(asked int) // before a status is answered
}

func (h *hearing) hear(format string, args ...any) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.heard = append(h.heard, fmt.Sprintf(format, args...))
	return h.err
}

func (h *hearing) Submit(_ context.Context, in access.Submission, req access.Request) error {
	return h.hear("submit %s %s", req.ID, in.Request.Hash())
}

func (h *hearing) Status(context.Context, string) (access.Status, error) {
	h.mu.Lock()
	h.asked++
	on, asked := h.on, h.asked
	h.mu.Unlock()
	if on != nil {
		on(asked)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.status, h.err
}

func (h *hearing) List(_ context.Context, f transport.Filter) ([]transport.Summary, error) {
	return nil, h.hear("list %+v", f)
}

func (h *hearing) Send(_ context.Context, id, message, statementID string, st access.Statement) (access.Status, error) {
	return access.Status{ID: id, State: access.StatePending}, h.hear("send %s %s %s %s", id, message, statementID, st.Hash())
}

func (h *hearing) Lock(_ context.Context, st access.Statement, l access.Lock) (access.Locked, error) {
	return access.Locked{Lock: l}, h.hear("lock %s %s", l.ID, st.Hash())
}

func (h *hearing) Locks(context.Context) (evidence.Locks, error) { return nil, h.hear("locks") }

func (h *hearing) Review(_ context.Context, id, statementID string, st access.Statement) (access.ReviewTask, error) {
	return access.ReviewTask{Request: id}, h.hear("review %s %s %s", id, statementID, st.Hash())
}

func (h *hearing) Reviews(context.Context) ([]access.ReviewTask, error) {
	return nil, h.hear("reviews")
}

func (h *hearing) Delegate(_ context.Context, st access.Statement, d access.Delegation) (access.Delegated, error) {
	return access.Delegated{Delegation: d}, h.hear("delegate %s %s", d.ID, st.Hash())
}

func (h *hearing) Delegations(context.Context) (evidence.Delegations, error) {
	return nil, h.hear("delegations")
}

// lobby is the service with people before it.
type lobby struct {
	policy string // beside its only rule
	*hearing
	t       *testing.T
	people  map[string]ssh.Signer
	book    *evidence.Rulebook
	handler http.Handler
	now     time.Time
	bubble  bool     // it is the time in a bubble of synctest that counts
	traced  []string // calls that have a span, with the code that it ended with
}

var here = access.Audience([]byte("here"))

func newLobby(t *testing.T) *lobby {
	t.Helper()
	l := &lobby{hearing: &hearing{}, t: t, people: map[string]ssh.Signer{}, now: time.Now().Truncate(time.Second)}
	for _, name := range []string{"alice", "bob", "mallory"} {
		l.people[name] = newKey(t)
	}
	l.employ("alice", "bob")
	spec, err := openapitest.Parse(openAPI)
	if err != nil {
		t.Fatal(err)
	}
	l.handler = spec.Watch(New(Options{
		Log: quiet, Rulebook: func() *evidence.Rulebook { return l.book }, Audience: here,
		Requests: func() (Requests, error) { return l.hearing, nil },
		Now: func() time.Time {
			if l.bubble {
				return time.Now()
			}
			return l.now
		},
		Trace: func(r *http.Request) (context.Context, func(error)) {
			return r.Context(), func(err error) { l.traced = append(l.traced, r.Pattern+" "+string(access.CodeOf(err))) }
		},
	}), func(err error) { t.Error(err) })
	return l
}

// employ makes these people, and nobody else, those of the directory.
func (l *lobby) employ(names ...string) {
	l.t.Helper()
	directory := "users:\n"
	for _, name := range names {
		directory += "  " + name + ": {groups: [dev], keys: ['" + statement.MarshalKey(l.people[name].PublicKey()) + "']}\n"
	}
	policy := l.policy + "rules:\n  - {name: all, when: 'true', max_duration: 1h, approvals: none}\n"
	book, err := evidence.NewRulebook([]byte(policy), []byte(directory), []byte("resources:\n  ssh/web-1: {logins: [deploy]}\n"))
	if err != nil {
		l.t.Fatal(err)
	}
	l.book = book
}

func (l *lobby) sign(who string, payload any) access.Statement {
	l.t.Helper()
	st, err := statement.Sign(l.people[who], payload)
	if err != nil {
		l.t.Fatal(err)
	}
	return st
}

func (l *lobby) header(typ access.Type, who string) access.Header {
	return access.Header{Type: typ, ID: statement.NewID(), Signer: who, Time: statement.Time(l.now)}
}

// read is a read statement as a token.
func (l *lobby) read(who string, edit func(*access.Read)) string {
	l.t.Helper()
	r := access.Read{Header: l.header(access.TypeRead, who), Audience: here, Until: statement.Time(l.now.Add(10 * time.Minute))}
	if edit != nil {
		edit(&r)
	}
	return l.token(l.sign(who, r))
}

func (l *lobby) token(st access.Statement) string {
	l.t.Helper()
	token, err := statement.Token(st)
	if err != nil {
		l.t.Fatal(err)
	}
	return token
}

type answered struct {
	status int
	header http.Header
	body   string
}

func (l *lobby) call(method, path, authorization string, body any, headers ...string) answered {
	l.t.Helper()
	var data []byte
	switch b := body.(type) {
	case nil:
	case string:
		data = []byte(b)
	default:
		var err error
		if data, err = json.Marshal(b); err != nil {
			l.t.Fatal(err)
		}
	}
	r, err := http.NewRequestWithContext(l.t.Context(), method, path, bytes.NewReader(data))
	if err != nil {
		l.t.Fatal(err)
	}
	if authorization != "" {
		r.Header.Set("Authorization", authorization)
	}
	for i := 0; i+1 < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	w := &memory{header: http.Header{}, status: 200}
	l.handler.ServeHTTP(w, r)
	return answered{w.status, w.header, w.body.String()}
}

// memory is a ResponseWriter.
type memory struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (m *memory) Header() http.Header         { return m.header }
func (m *memory) WriteHeader(status int)      { m.status = status }
func (m *memory) Write(p []byte) (int, error) { return m.body.Write(p) }

func (r answered) code() string {
	var e access.Error
	_ = json.Unmarshal([]byte(r.body), &e)
	return string(e.Code)
}

// Whoever isn't in the directory, or can't show it for this service and now, is
// told nothing and gets nothing through.
func TestWhoMayCall(t *testing.T) {
	l := newLobby(t)
	l.status = access.Status{ID: statement.NewID(), State: access.StatePending}
	good := l.read("alice", nil)
	for _, tt := range []struct {
		name, authorization string
		status              int
		code                string
	}{
		{"good", "Bearer " + good, 200, ""},
		{"good, in lower case", "bearer " + good, 200, ""},
		{"nothing", "", 401, "unverified"},
		{"a password", "Basic YWxpY2U6eA==", 401, "unverified"},
		{"rubbish", "Bearer rubbish", 401, "malformed"},
		{"half of it", "Bearer " + good[:len(good)/2], 401, "malformed"},
		{"nobody", "Bearer " + l.read("mallory", nil), 401, "unverified"},
		{"somebody else's name", "Bearer " + l.token(l.sign("mallory", access.Read{
			Header: l.header(access.TypeRead, "alice"), Audience: here, Until: statement.Time(l.now.Add(time.Minute)),
		})), 401, "unverified"},
		{"over", "Bearer " + l.read("alice", func(r *access.Read) {
			r.Time, r.Until = r.Time.Add(-10*time.Minute), r.Time
		}), 401, "stale"},
		{"from the future", "Bearer " + l.read("alice", func(r *access.Read) {
			r.Time, r.Until = r.Time.Add(time.Hour), r.Time.Add(time.Hour+time.Minute)
		}), 401, "stale"},
		{"of another service", "Bearer " + l.read("alice", func(r *access.Read) { r.Audience = access.Audience([]byte("there")) }), 401, "mismatch"},
		{"another statement of hers", "Bearer " + l.token(l.sign("alice", access.Request{
			Header: l.header(access.TypeRequest, "alice"), Resource: "ssh/web-1", Duration: 60,
		})), 401, "unverified"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, path := range []string{"/v1/requests", "/v1/requests/" + l.status.ID, "/v1/locks", "/v1/reviews", "/v1/delegations"} {
				l.heard, l.asked = nil, 0
				r := l.call(http.MethodGet, path, tt.authorization, nil)
				if r.status != tt.status || r.code() != tt.code {
					t.Errorf("%s: %d %s", path, r.status, r.body)
				}
				if (r.status == 401) != (r.header.Get("WWW-Authenticate") != "") || (r.status == 401) != (len(l.heard)+l.asked == 0) {
					t.Errorf("%s: %v, heard %v", path, r.header, l.heard)
				}
			}
			l.heard, l.traced = nil, nil
			st := l.sign("alice", access.Request{Header: l.header(access.TypeRequest, "alice"), Resource: "ssh/web-1", Duration: 60})
			if r := l.call(http.MethodPost, "/v1/requests", tt.authorization, st); (r.status == 201) != (tt.status == 200) || (r.status == 201) != (len(l.heard) == 1) {
				t.Errorf("submit: %d %s, heard %v", r.status, r.body, l.heard)
			}
		})
	}
	l.employ("bob")
	if r := l.call(http.MethodGet, "/v1/requests", "Bearer "+good, nil); r.status != 401 || r.code() != "unverified" {
		t.Errorf("after she left: %d %s", r.status, r.body)
	}
}

// Traces are of what is said by those whom the directory knows, each under the
// name of its kind. What strangers send makes none, nor does looking, which
// whoever waits does all the time, nor what is too much.
func TestWhatIsTraced(t *testing.T) {
	l := newLobby(t)
	l.status = access.Status{ID: statement.NewID(), State: access.StatePending}
	request := func(by string) access.Statement {
		return l.sign(by, access.Request{Header: l.header(access.TypeRequest, by), Resource: "ssh/web-1", Duration: 60})
	}
	const parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	for _, by := range []string{"", "Bearer rubbish", "Bearer " + l.read("mallory", nil)} {
		l.call(http.MethodPost, "/v1/requests", by, request("mallory"), "traceparent", parent)
	}
	alice := "Bearer " + l.read("alice", nil)
	l.call(http.MethodGet, "/v1/requests", alice, nil, "traceparent", parent)
	l.call(http.MethodGet, "/v1/requests/"+l.status.ID, alice, nil, "traceparent", parent)
	l.call(http.MethodPost, "/v1/nothing", alice, "{}", "traceparent", parent)
	if len(l.traced) > 0 {
		t.Errorf("there are spans of %q", l.traced)
	}
	l.call(http.MethodPost, "/v1/requests", alice, request("alice"))
	l.call(http.MethodPost, "/v1/requests", alice, request("bob"))
	l.call(http.MethodPost, "/v1/requests/"+l.status.ID+"/nothing", alice, "{}")
	want := "POST /v1/requests ;POST /v1/requests forbidden;POST /v1/requests/{id}/{message} not-found"
	if got := strings.Join(l.traced, ";"); got != want {
		t.Errorf("there are spans of %q, want %q", got, want)
	}
	l.traced = nil
	for l.call(http.MethodPost, "/v1/locks", alice, "{}").status != http.StatusTooManyRequests {
		if len(l.traced) > callsAtOnce {
			t.Fatal("nothing is too much")
		}
	}
	before := len(l.traced)
	if l.call(http.MethodPost, "/v1/locks", alice, "{}"); len(l.traced) != before {
		t.Errorf("what is too much has a span")
	}
}

// What is said goes on byte for byte, to where it is meant for, and only by whom
// it is.
func TestWhatIsSaid(t *testing.T) {
	l := newLobby(t)
	bob := "Bearer " + l.read("bob", nil)
	req := access.Request{Header: l.header(access.TypeRequest, "bob"), Resource: "ssh/web-1", Duration: 60}
	request := l.sign("bob", req)
	decision := access.Decision{Header: l.header(access.TypeDecision, "bob"), Request: req.ID, RequestHash: request.Hash(), Verdict: access.Deny}
	deny := l.sign("bob", decision)
	stop := access.Stop{Header: l.header(access.TypeRevoke, "bob"), Request: req.ID, RequestHash: request.Hash()}
	revoke := l.sign("bob", stop)
	lock := access.Lock{Header: l.header(access.TypeLock, "bob"), Action: access.ActionLock, Kind: access.LockUser, Name: "alice", Reason: "x"}
	locked := l.sign("bob", lock)
	look := access.Review{Header: l.header(access.TypeReview, "bob"), Request: req.ID, RequestHash: request.Hash()}
	reviewed := l.sign("bob", look)
	later := l.now.Add(time.Hour)
	delegation := access.Delegation{Header: l.header(access.TypeDelegation, "bob"), Action: access.ActionDelegate, To: "alice", Until: &later}
	delegated := l.sign("bob", delegation)
	broken := deny
	broken.Payload = strings.Replace(broken.Payload, `"deny"`, `"approve"`, 1)
	foreign := l.sign("mallory", decision)
	at := "/v1/requests/" + req.ID
	for _, tt := range []struct {
		name, path string
		body       any
		status     int
		code       string
		heard      string
	}{
		{"a request", "/v1/requests", request, 201, "", "submit " + req.ID + " " + request.Hash()},
		{"a decision", at + "/decision", deny, 200, "", "send " + req.ID + " decision " + decision.ID + " " + deny.Hash()},
		{"a revocation", at + "/revoke", revoke, 200, "", "send " + req.ID + " revoke " + stop.ID + " " + revoke.Hash()},
		{"a lock", "/v1/locks", locked, 200, "", "lock " + lock.ID + " " + locked.Hash()},
		{"a review", "/v1/reviews", reviewed, 200, "", "review " + req.ID + " " + look.ID + " " + reviewed.Hash()},
		{"a delegation", "/v1/delegations", delegated, 200, "", "delegate " + delegation.ID + " " + delegated.Hash()},
		{"a decision as a request", "/v1/requests", deny, 401, "unverified", ""},
		{"a decision as a revocation", at + "/revoke", deny, 401, "unverified", ""},
		{"about another request", "/v1/requests/" + statement.NewID() + "/decision", deny, 409, "mismatch", ""},
		{"of no request's id", "/v1/requests/x/decision", deny, 400, "malformed", ""},
		{"no message", at + "/look", deny, 404, "not-found", ""},
		{"changed on the way", at + "/decision", broken, 401, "unverified", ""},
		{"by nobody", at + "/decision", foreign, 401, "unverified", ""},
		{"with more around it", at + "/decision", `{"payload":"a","signature":"b","x":"y"}`, 400, "malformed", ""},
		{"no JSON", at + "/decision", `x`, 400, "malformed", ""},
		{"nothing", at + "/decision", nil, 400, "malformed", ""},
		{"too much", at + "/decision", `{"payload":"` + strings.Repeat("a", maxStatement) + `"}`, 400, "malformed", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l.heard = nil
			r := l.call(http.MethodPost, tt.path, bob, tt.body)
			if r.status != tt.status || r.code() != tt.code || strings.Join(l.heard, ";") != tt.heard {
				t.Errorf("%d %s, heard %v", r.status, r.body, l.heard)
			}
		})
	}
	// Alice may deliver nothing of his.
	l.heard = nil
	for path, st := range map[string]access.Statement{"/v1/requests": request, at + "/decision": deny, at + "/revoke": revoke, "/v1/locks": locked, "/v1/reviews": reviewed, "/v1/delegations": delegated} {
		if r := l.call(http.MethodPost, path, "Bearer "+l.read("alice", nil), st); r.status != 403 || r.code() != "forbidden" || len(l.heard) > 0 {
			t.Errorf("%s: %d %s, heard %v", path, r.status, r.body, l.heard)
		}
	}
}

// A refusal comes back as it was said, and of what is down nothing is told but
// that it is.
func TestWhatIsAnswered(t *testing.T) {
	l := newLobby(t)
	alice := "Bearer " + l.read("alice", nil)
	for _, tt := range []struct {
		err    error
		status int
		body   string
	}{
		{access.Errorf(access.CodeForbidden, "nobody decides on a request of his own").WithHint("ask bob"), 403,
			`{"code":"forbidden","message":"nobody decides on a request of his own","hint":"ask bob"}`},
		{access.Errorf(access.CodeLimited, "2 are running"), 403, `{"code":"limited","message":"2 are running"}`},
		{access.Errorf(access.CodeUnavailable, "can't reach Temporal at 10.0.0.9:7233"), 503,
			`{"code":"unavailable","message":"the service is there, but what stands behind it doesn't answer","hint":"what was sent may have been kept, and is handled then"}`},
		{io.ErrUnexpectedEOF, 503, `{"code":"unavailable","message":"the service can't do this at the moment"}`},
	} {
		l.err = tt.err
		r := l.call(http.MethodPost, "/v1/requests", alice, l.sign("alice", access.Request{Header: l.header(access.TypeRequest, "alice"), Resource: "ssh/web-1", Duration: 60}))
		if r.status != tt.status || r.body != tt.body+"\n" {
			t.Errorf("%v: %d %s", tt.err, r.status, r.body)
		}
	}
	id := statement.NewID()
	// One that will never hear again isn't worth a retry.
	l.err = access.Errorf(access.CodeDeaf, "it hears no more")
	deny := l.sign("alice", access.Decision{Header: l.header(access.TypeDecision, "alice"), Request: id, RequestHash: strings.Repeat("0", 64), Verdict: access.Deny})
	if r := l.call(http.MethodPost, "/v1/requests/"+id+"/decision", alice, deny); r.status != 410 || r.code() != "deaf" || r.header.Get("Retry-After") != "" {
		t.Errorf("%d %s", r.status, r.body)
	}
	// Of a workflow that was ended from outside there is the last status, too.
	l.status, l.err = access.Status{ID: id, State: access.StateActive}, access.Errorf(access.CodeEnded, "terminated")
	if r := l.call(http.MethodGet, "/v1/requests/"+id, alice, nil); r.status != 200 || !strings.Contains(r.body, `"error":{"code":"ended","message":"terminated"}`) {
		t.Errorf("%d %s", r.status, r.body)
	}
	l.status = access.Status{}
	if r := l.call(http.MethodGet, "/v1/requests/"+id, alice, nil); r.status != 410 || r.code() != "ended" {
		t.Errorf("%d %s", r.status, r.body)
	}
	l.err = access.Errorf(access.CodeUnavailable, "10.0.0.9 is slow")
	lock := l.sign("alice", access.Lock{Header: l.header(access.TypeLock, "alice"), Action: access.ActionLock, Kind: access.LockUser, Name: "bob", Reason: "x"})
	if r := l.call(http.MethodPost, "/v1/locks", alice, lock); r.status != 200 || strings.Contains(r.body, "10.0.0.9") || !strings.Contains(r.body, `"error":{"code":"unavailable"`) {
		t.Errorf("a lock that takes longer: %d %s", r.status, r.body)
	}
}

func TestWaitForNews(t *testing.T) {
	synctest.Test(t, waitForNews)
}

func waitForNews(t *testing.T) {
	l := newLobby(t)
	l.bubble = true
	alice := "Bearer " + l.read("alice", nil)
	l.status = access.Status{ID: statement.NewID(), State: access.StatePending, Standing: access.Standing{Effect: access.EffectAsk}}
	at := "/v1/requests/" + l.status.ID
	var took time.Duration
	ask := func(query string, headers ...string) answered {
		t.Helper()
		began := time.Now()
		defer func() { took = time.Since(began) }()
		return l.call(http.MethodGet, at+query, alice, nil, headers...)
	}
	become := func(state access.State) {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.status.State, l.asked = state, 0
	}
	first := ask("")
	tag := first.header.Get("ETag")
	if first.status != 200 || tag == "" {
		t.Fatalf("%d %s", first.status, first.body)
	}
	if r := ask("", "If-None-Match", tag); r.status != 304 || took != 0 {
		t.Errorf("without a wait: %d after %s", r.status, took)
	}
	if r := ask("?wait=25s"); r.status != 200 || took != 0 {
		t.Errorf("who knows nothing waits: %d after %s", r.status, took)
	}
	become(access.StatePending)
	if r := ask("?wait=25s", "If-None-Match", tag); r.status != 304 || took != 25*time.Second || r.body != "" || r.header.Get("ETag") != tag {
		t.Errorf("nothing new: %d after %s", r.status, took)
	}
	if l.asked > 30 {
		t.Errorf("it was looked at %d times in 25 s", l.asked)
	}
	// Who asks again goes on waiting, and isn't the first to wait.
	become(access.StatePending)
	for range 10 {
		if r := ask("?wait=10s", "If-None-Match", tag); r.status != 304 {
			t.Errorf("nothing new: %d", r.status)
		}
		<-time.After(firstLook)
	}
	if l.asked > 25 {
		t.Errorf("it was looked at %d times in 100 s", l.asked)
	}
	time.AfterFunc(time.Minute/2, func() { become(access.StateIssuing) })
	if r := ask("?wait=50s", "If-None-Match", tag); r.status != 200 || !strings.Contains(r.body, `"issuing"`) || took > time.Minute/2+lastLook {
		t.Errorf("news after a while: %d after %s", r.status, took)
	} else {
		tag = r.header.Get("ETag")
	}
	time.AfterFunc(time.Second, func() { become(access.StateActive) })
	if r := ask("?wait=25s", "If-None-Match", tag); r.status != 200 || !strings.Contains(r.body, `"active"`) || took > time.Second*3/2 {
		t.Errorf("news soon after: %d after %s", r.status, took)
	}
	tag = ask("").header.Get("ETag")
	if r := ask("?wait=1s", "If-None-Match", "W/"+tag); r.status != 304 || took != time.Second {
		t.Errorf("by a weak tag: %d after %s", r.status, took)
	}
	if r := ask("?wait=24h", "If-None-Match", tag); r.status != 304 || took != MaxWait {
		t.Errorf("too long: %d after %s", r.status, took)
	}
	// What an issuer works on is never left alone for long.
	become(access.StateIssuing)
	tag = ask("").header.Get("ETag")
	become(access.StateIssuing)
	if r := ask("?wait=50s", "If-None-Match", tag); r.status != 304 || l.asked < 40 || l.asked > 70 {
		t.Errorf("while it is issued it was looked at %d times in 50 s", l.asked)
	}
	// What was seen before somebody heard of what is later isn't news to him.
	become(access.StateActive)
	tag = ask("").header.Get("ETag")
	if r := ask("?wait=100ms", "If-None-Match", tag); r.status != 304 {
		t.Errorf("%d %s", r.status, r.body)
	}
	// There is no more news of what is over.
	become(access.StateExpired)
	tag = ask("").header.Get("ETag")
	become(access.StateExpired)
	if r := ask("?wait=25s", "If-None-Match", tag); r.status != 304 || took != 25*time.Second || l.asked > 1 {
		t.Errorf("over: %d after %s, asked %d times", r.status, took, l.asked)
	}
	for _, wait := range []string{"soon", "-1s", "5"} {
		if r := ask("?wait=" + wait); r.status != 400 {
			t.Errorf("wait=%s: %d", wait, r.status)
		}
	}
	become(access.StatePending)
	tag = ask("").header.Get("ETag")
	time.AfterFunc(time.Second, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.err = access.Errorf(access.CodeNotFound, "no request")
	})
	if r := ask("?wait=25s", "If-None-Match", tag); r.status != 404 || took > 2*time.Second {
		t.Errorf("gone: %d after %s", r.status, took)
	}
	if r := ask(""); r.status != 404 {
		t.Errorf("%d %s", r.status, r.body)
	}
	if r := l.call(http.MethodGet, "/v1/requests/x", alice, nil); r.status != 400 {
		t.Errorf("%d %s", r.status, r.body)
	}
}

// However many wait for a request, it is looked at as often as for one, and all of
// them hear in time.
func TestManyWaitForOneRequest(t *testing.T) {
	const news = 2 * time.Minute // after which there is some
	for _, n := range []int{1, 2 * callsOpen} {
		t.Run(strconv.Itoa(n), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLobby(t)
				l.bubble = true
				l.status = access.Status{ID: statement.NewID(), State: access.StatePending, Standing: access.Standing{Effect: access.EffectAsk}}
				at := "/v1/requests/" + l.status.ID
				people := []string{"Bearer " + l.read("alice", nil), "Bearer " + l.read("bob", nil)}
				tag := l.call(http.MethodGet, at, people[0], nil).header.Get("ETag")
				l.asked = 0
				began := time.Now()
				looks := func() int {
					l.mu.Lock()
					defer l.mu.Unlock()
					return l.asked
				}
				var first atomic.Int64
				time.AfterFunc(time.Minute, func() { first.Store(int64(looks())) })
				time.AfterFunc(news, func() {
					l.mu.Lock()
					defer l.mu.Unlock()
					l.status.State = access.StateActive
				})
				var all sync.WaitGroup
				heard := make(chan time.Duration, n)
				for i := range n {
					all.Go(func() {
						<-time.After(time.Duration(i) * 100 * time.Millisecond)
						for time.Since(began) < 2*news {
							r := l.call(http.MethodGet, at+"?wait=10s", people[i%2], nil, "If-None-Match", tag)
							if r.status == 200 {
								heard <- time.Since(began)
								return
							}
							if r.status != 304 {
								t.Errorf("%d %s", r.status, r.body)
								return
							}
							<-time.After(firstLook)
						}
					})
				}
				all.Wait()
				close(heard)
				if len(heard) != n {
					t.Errorf("%d of %d have heard", len(heard), n)
				}
				for after := range heard {
					if after < news || after > news+lastLook {
						t.Errorf("heard after %s", after)
					}
				}
				if one, next := first.Load(), int64(looks())-first.Load(); one > 35 || next > 16 {
					t.Errorf("it was looked at %d times in the first minute, and %d in the next", one, next)
				} else {
					t.Logf("looked at %d times in the first minute, %d in the next", one, next)
				}
			})
		})
	}
}

// A look that takes longer than the pause after it, as while workers are slow, makes
// nobody wait longer, and is followed by a pause all the same.
func TestWaitWhileLooksAreSlow(t *testing.T) {
	for _, state := range []access.State{access.StateIssuing, access.StatePending} {
		synctest.Test(t, func(t *testing.T) {
			l := newLobby(t)
			l.bubble = true
			l.status = access.Status{ID: statement.NewID(), State: state, Standing: access.Standing{Effect: access.EffectAsk}}
			at, alice := "/v1/requests/"+l.status.ID, "Bearer "+l.read("alice", nil)
			tag := l.call(http.MethodGet, at, alice, nil).header.Get("ETag")
			const slow, wait = 7 * time.Second, 30 * time.Second
			l.asked, l.on = 0, func(int) { <-time.After(slow) }
			began := time.Now()
			r := l.call(http.MethodGet, at+"?wait=30s", alice, nil, "If-None-Match", tag)
			if took := time.Since(began); r.status != 304 || took < wait || took > wait+slow {
				t.Errorf("%s: %d after %s", state, r.status, took)
			}
			if l.asked > 5 {
				t.Errorf("%s: looked at %d times", state, l.asked)
			}
		})
	}
}

// One person doesn't use up what a request hears.
func TestTooMuchToOneRequest(t *testing.T) {
	l := newLobby(t)
	id := statement.NewID()
	hash := l.sign("alice", access.Request{Header: l.header(access.TypeRequest, "alice"), Resource: "ssh/web-1", Duration: 60}).Hash()
	deny := func(who string) access.Statement {
		return l.sign(who, access.Decision{Header: l.header(access.TypeDecision, who), Request: id, RequestHash: hash, Verdict: access.Deny})
	}
	say := func(what, who, path string, st access.Statement, status int) {
		t.Helper()
		if r := l.call(http.MethodPost, path, "Bearer "+l.read(who, nil), st); r.status != status || status == 403 && !strings.Contains(r.body, "as one person may") {
			t.Errorf("%s: %d %s", what, r.status, r.body)
		}
	}
	at := "/v1/requests/" + id
	var last access.Statement
	for range saysToOne {
		last = deny("alice")
		say("room", "alice", at+"/decision", last, 200)
	}
	say("one more", "alice", at+"/decision", deny("alice"), 403)
	if len(l.heard) != saysToOne {
		t.Errorf("%d were heard", len(l.heard))
	}
	say("the same again", "alice", at+"/decision", last, 200)
	say("another kind", "alice", at+"/cancel", l.sign("alice", access.Stop{Header: l.header(access.TypeCancel, "alice"), Request: id, RequestHash: hash}), 200)
	say("somebody else", "bob", at+"/decision", deny("bob"), 200)
	for range saysToOne {
		say("a review", "bob", "/v1/reviews", l.sign("bob", access.Review{Header: l.header(access.TypeReview, "bob"), Request: id, RequestHash: hash}), 200)
	}
	say("one review more", "bob", "/v1/reviews", l.sign("bob", access.Review{Header: l.header(access.TypeReview, "bob"), Request: id, RequestHash: hash}), 403)
	l.now = l.now.Add(saysFor)
	say("the next day", "alice", at+"/decision", deny("alice"), 200)
	g := guests{now: time.Now, of: map[string]*guest{"alice": {}}}
	for i := range saysTo {
		if _, full, _ := g.say("alice", "decision", strconv.Itoa(i), "x"); !full.IsZero() {
			t.Fatal("full too early")
		}
	}
	if _, full, here := g.say("alice", "decision", "another", "x"); full.IsZero() || here {
		t.Error("it is kept without bound")
	}
	if unsay, full, _ := g.say("alice", "decision", "1", "y"); !full.IsZero() {
		t.Error("a request that was spoken to is full")
	} else {
		unsay()
		unsay()
	}
	if said := g.of["alice"].said["decision 1"]; !slices.Equal(said, []string{"x"}) {
		t.Errorf("what was taken back is kept: %v", said)
	}
}

// What nobody was there to hear doesn't count.
func TestUnheardDoesNotCount(t *testing.T) {
	l := newLobby(t)
	id, hash := statement.NewID(), strings.Repeat("a", 64)
	revoke := func() access.Statement {
		return l.sign("alice", access.Stop{Header: l.header(access.TypeRevoke, "alice"), Request: id, RequestHash: hash, Reason: "x"})
	}
	l.err = access.Errorf(access.CodeUnavailable, "no worker answers")
	for range 2 * saysToOne {
		if r := l.call(http.MethodPost, "/v1/requests/"+id+"/revoke", "Bearer "+l.read("alice", nil), revoke()); r.status != 503 {
			t.Fatalf("%d %s", r.status, r.body)
		}
	}
	l.err = nil
	if r := l.call(http.MethodPost, "/v1/requests/"+id+"/revoke", "Bearer "+l.read("alice", nil), revoke()); r.status != 200 {
		t.Errorf("%d %s", r.status, r.body)
	}
}

func TestListQuery(t *testing.T) {
	l := newLobby(t)
	alice := "Bearer " + l.read("alice", nil)
	r := l.call(http.MethodGet, "/v1/requests?prefix=0199&requester=bob&resource=ssh/web-1&state=active&state=pending&limit=7", alice, nil)
	want := "list {Prefix:0199 Requester:bob Resource:ssh/web-1 States:[active pending] Limit:7}"
	if r.status != 200 || r.body != "[]\n" || strings.Join(l.heard, ";") != want {
		t.Errorf("%d %s, heard %v", r.status, r.body, l.heard)
	}
	l.heard = nil
	for _, query := range []string{"state=gone", "limit=0", "limit=x", "limit=10001"} {
		if r := l.call(http.MethodGet, "/v1/requests?"+query, alice, nil); r.status != 400 || r.code() != "malformed" || len(l.heard) > 0 {
			t.Errorf("%s: %d %s", query, r.status, r.body)
		}
	}
}

// One person's haste costs the others nothing.
func TestTooManyCalls(t *testing.T) {
	l := newLobby(t)
	alice, bob := "Bearer "+l.read("alice", nil), "Bearer "+l.read("bob", nil)
	for i := range callsAtOnce {
		if r := l.call(http.MethodGet, "/v1/locks", alice, nil); r.status != 200 {
			t.Fatalf("call %d: %d %s", i, r.status, r.body)
		}
	}
	r := l.call(http.MethodGet, "/v1/locks", alice, nil)
	if r.status != 429 || r.code() != "unavailable" || r.header.Get("Retry-After") != "1" || !strings.Contains(r.body, "too many calls by alice") {
		t.Errorf("%d %v %s", r.status, r.header, r.body)
	}
	if r := l.call(http.MethodGet, "/v1/locks", bob, nil); r.status != 200 {
		t.Errorf("bob: %d %s", r.status, r.body)
	}
	l.now = l.now.Add(time.Second)
	for i := range int(callsPerSecond) {
		if r := l.call(http.MethodGet, "/v1/locks", alice, nil); r.status != 200 {
			t.Fatalf("a second later, call %d: %d", i, r.status)
		}
	}
	if r := l.call(http.MethodGet, "/v1/locks", alice, nil); r.status != 429 {
		t.Errorf("a second later: %d", r.status)
	}
	// A long list costs more, and can be had after a pause.
	l.now = l.now.Add(time.Minute)
	if r := l.call(http.MethodGet, "/v1/requests?limit=10000", alice, nil); r.status != 200 {
		t.Errorf("a long list: %d", r.status)
	}
	if r := l.call(http.MethodGet, "/v1/requests?limit=10000", alice, nil); r.status != 429 || r.header.Get("Retry-After") != "1" {
		t.Errorf("another: %d after %s", r.status, r.header.Get("Retry-After"))
	}
}

// Requests cost much more than calls: each is a workflow, and stays on record.
// Somebody who makes too many has his calls left for all else.
func TestTooManyRequests(t *testing.T) {
	l := newLobby(t)
	ask := func(who string, edit ...func(*access.Statement)) answered {
		t.Helper()
		st := l.sign(who, access.Request{
			Header: l.header(access.TypeRequest, who), Resource: "ssh/web-1", Login: "deploy", Duration: access.InSeconds(time.Hour),
			Reason: "because", PublicKey: statement.MarshalKey(l.people[who].PublicKey()),
		})
		for _, f := range edit {
			f(&st)
		}
		return l.call(http.MethodPost, "/v1/requests", "Bearer "+l.read(who, nil), st)
	}
	if r := ask("alice", func(st *access.Statement) { st.Payload += " " }); r.status != 401 {
		t.Errorf("what isn't hers: %d %s", r.status, r.body)
	}
	for i := range asksAtOnce {
		if r := ask("alice"); r.status != 201 {
			t.Fatalf("request %d: %d %s", i, r.status, r.body)
		}
	}
	r := ask("alice")
	if r.status != 429 || r.code() != "unavailable" || r.header.Get("Retry-After") != "1" || !strings.Contains(r.body, "too many requests by alice") {
		t.Errorf("%d %v %s", r.status, r.header, r.body)
	}
	if len(l.heard) != asksAtOnce {
		t.Errorf("%d were heard", len(l.heard))
	}
	if r := ask("bob"); r.status != 201 {
		t.Errorf("bob: %d %s", r.status, r.body)
	}
	if r := l.call(http.MethodGet, "/v1/locks", "Bearer "+l.read("alice", nil), nil); r.status != 200 {
		t.Errorf("something else: %d %s", r.status, r.body)
	}
	l.now = l.now.Add(time.Second)
	for i := range int(asksPerSecond) {
		if r := ask("alice"); r.status != 201 {
			t.Fatalf("a second later, request %d: %d %s", i, r.status, r.body)
		}
	}
	if r := ask("alice"); r.status != 429 {
		t.Errorf("a second later: %d", r.status)
	}
}

// So does all else that begins a workflow. Whoever may lock is not held up: it is what
// ends an attack.
func TestTooManyLocks(t *testing.T) {
	l := newLobby(t)
	id, later := statement.NewID(), l.now.Add(time.Hour)
	said := func(path, who string) answered {
		t.Helper()
		whom := map[string]string{"alice": "bob", "bob": "alice"}[who]
		var payload any
		switch path {
		case "/v1/locks":
			payload = access.Lock{Header: l.header(access.TypeLock, who), Action: access.ActionLock, Kind: access.LockUser, Name: whom, Reason: "x"}
		case "/v1/delegations":
			payload = access.Delegation{Header: l.header(access.TypeDelegation, who), Action: access.ActionDelegate, To: whom, Until: &later}
		case "/v1/reviews":
			payload = access.Review{Header: l.header(access.TypeReview, who), Request: id, RequestHash: strings.Repeat("a", 64)}
		}
		return l.call(http.MethodPost, path, "Bearer "+l.read(who, nil), l.sign(who, payload))
	}
	for i := range asksAtOnce {
		if r := said("/v1/locks", "alice"); r.status != 200 {
			t.Fatalf("lock %d: %d %s", i, r.status, r.body)
		}
	}
	for _, path := range []string{"/v1/locks", "/v1/delegations", "/v1/reviews"} {
		if r := said(path, "alice"); r.status != 429 || r.code() != "unavailable" || !strings.Contains(r.body, "by alice") {
			t.Errorf("one more to %s: %d %s", path, r.status, r.body)
		}
		if r := said(path, "bob"); r.status == 429 {
			t.Errorf("bob to %s: %s", path, r.body)
		}
	}
	l.policy = "locks: {groups: [dev]}\n"
	l.employ("alice", "bob")
	for i := range 2 * asksAtOnce {
		if r := said("/v1/locks", "bob"); r.status != 200 {
			t.Fatalf("lock %d by somebody who may: %d %s", i, r.status, r.body)
		}
	}
	if r := said("/v1/delegations", "bob"); r.status == 429 {
		t.Errorf("they count with the rest: %s", r.body)
	}
}

func TestTooManyAtATime(t *testing.T) {
	g := guests{now: time.Now, of: map[string]*guest{}}
	var leave func()
	for range callsOpen {
		if leave, _ = g.enter("alice", 1); leave == nil {
			t.Fatal("turned away too early")
		}
	}
	if again, wait := g.enter("alice", 1); again != nil || wait <= 0 {
		t.Error("one too many was let in")
	}
	leave()
	if again, _ := g.enter("alice", 1); again == nil {
		t.Error("turned away after one has left")
	}
}
