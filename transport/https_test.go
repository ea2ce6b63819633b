package transport

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"hallpass/access"
	"hallpass/statement"
)

// authority is a CA for services.
type authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

func newAuthority(t testing.TB) authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "service CA"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	check(t, err)
	certificate, err := x509.ParseCertificate(der)
	check(t, err)
	return authority{certificate, key}
}

func (a authority) pem() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.certificate.Raw})
}

// serve serves h with a certificate by the authority.
func (a authority) serve(t *testing.T, h http.HandlerFunc, edit func(*x509.Certificate)) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	if edit != nil {
		edit(template)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.certificate, key.Public(), a.key)
	check(t, err)
	s := httptest.NewUnstartedServer(h)
	s.TLS = &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.StartTLS()
	t.Cleanup(s.Close)
	return s.URL
}

// dial makes a client by alice, who signs as often as *signed says.
func dial(t testing.TB, address string, ca []byte, now func() time.Time, signed *int) *HTTPS {
	t.Helper()
	_, key, err := ed25519.GenerateKey(nil)
	check(t, err)
	signer, err := ssh.NewSignerFromKey(key)
	check(t, err)
	h, err := NewHTTPS(HTTPSOptions{Address: address, CA: ca, Now: now, Sign: func(r access.Read) (access.Statement, error) {
		*signed++
		r.Header = access.Header{Type: access.TypeRead, ID: statement.NewID(), Signer: "alice", Time: statement.Time(now())}
		return statement.Sign(signer, r)
	}})
	check(t, err)
	t.Cleanup(h.Close)
	return h
}

func reply(w http.ResponseWriter, status int, v any) {
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v)
}

func TestNewHTTPSRefuses(t *testing.T) {
	ca := newAuthority(t)
	leaf := *ca.certificate
	leaf.IsCA = false
	der, err := x509.CreateCertificate(rand.Reader, &leaf, &leaf, ca.key.Public(), ca.key)
	check(t, err)
	const good = "https://hallpass.example.com:7443"
	for _, tt := range []struct {
		name, address string
		ca            []byte
		ok            bool
	}{
		{"good", good, ca.pem(), true},
		{"a slash at the end", good + "/", ca.pem(), true},
		{"plain", "http://hallpass.example.com", ca.pem(), false},
		{"host and port", "hallpass.example.com:7443", ca.pem(), false},
		{"a path", good + "/v1", ca.pem(), false},
		{"a password", "https://a:b@hallpass.example.com", ca.pem(), false},
		{"no host", "https://:7443", ca.pem(), false},
		{"no certificate", good, nil, false},
		{"two", good, append(ca.pem(), ca.pem()...), false},
		{"a key", good, []byte(strings.ReplaceAll(string(ca.pem()), "CERTIFICATE", "PRIVATE KEY")), false},
		{"no CA's", good, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), false},
	} {
		_, err := NewHTTPS(HTTPSOptions{Address: tt.address, CA: tt.ca})
		if (err == nil) != tt.ok || err != nil && access.CodeOf(err) != access.CodeMalformed {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}

// A read statement is for the service whose CA is known here, and it is sent to
// nobody else: not to who shows another certificate, one that is over or for
// other names, or who sends one on.
func TestOnlyTheServiceIsTold(t *testing.T) {
	ca, other := newAuthority(t), newAuthority(t)
	var told atomic.Int32
	h := func(w http.ResponseWriter, r *http.Request) {
		told.Add(1)
		reply(w, http.StatusOK, []Summary{})
	}
	plain := httptest.NewServer(http.HandlerFunc(h))
	t.Cleanup(plain.Close)
	gone := httptest.NewServer(nil)
	gone.Close()
	for _, tt := range []struct {
		name, address string
		code          access.Code
		say           string
	}{
		{"another CA", other.serve(t, h, nil), access.CodeUnverified, "its certificate isn't by the CA in service.ca"},
		{"over", ca.serve(t, h, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }), access.CodeUnverified, "and that isn't now"},
		{"other names", ca.serve(t, h, func(c *x509.Certificate) { c.IPAddresses, c.DNSNames = nil, []string{"other.example.com"} }), access.CodeUnverified, "is for other names"},
		{"no TLS", strings.Replace(plain.URL, "http:", "https:", 1), access.CodeUnavailable, "doesn't speak HTTPS"},
		{"nobody", strings.Replace(gone.URL, "http:", "https:", 1), access.CodeUnavailable, "can't reach the service at https://127.0.0.1:"},
	} {
		signed := 0
		_, err := dial(t, tt.address, ca.pem(), time.Now, &signed).List(t.Context(), Filter{})
		if access.CodeOf(err) != tt.code || !strings.Contains(err.Error(), tt.say) || strings.Contains(err.Error(), "\n") || told.Load() != 0 {
			t.Errorf("%s: %v (%s), told %d times", tt.name, err, access.CodeOf(err), told.Load())
		}
	}
	elsewhere := ca.serve(t, h, nil)
	signed := 0
	moved := ca.serve(t, func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, elsewhere+r.URL.Path, http.StatusTemporaryRedirect)
	}, nil)
	_, err := dial(t, moved, ca.pem(), time.Now, &signed).List(t.Context(), Filter{})
	if access.CodeOf(err) != access.CodeMalformed || told.Load() != 0 {
		t.Errorf("sent on: %v, told %d times", err, told.Load())
	}
}

// One statement serves the calls of a command, until it runs out.
func TestReadStatementIsKept(t *testing.T) {
	ca, now, signed := newAuthority(t), time.Now(), 0
	var tokens []string
	address := ca.serve(t, func(w http.ResponseWriter, r *http.Request) {
		tokens = append(tokens, r.Header.Get("Authorization"))
		reply(w, http.StatusOK, []Summary{})
	}, nil)
	h := dial(t, address, ca.pem(), func() time.Time { return now }, &signed)
	for range 3 {
		_, err := h.List(t.Context(), Filter{})
		check(t, err)
	}
	now = now.Add(readLife - readSpare - time.Second)
	_, err := h.List(t.Context(), Filter{})
	check(t, err)
	if signed != 1 || tokens[0] != tokens[3] {
		t.Errorf("signed %d times", signed)
	}
	now = now.Add(2 * time.Second)
	_, err = h.List(t.Context(), Filter{})
	check(t, err)
	if signed != 2 || tokens[4] == tokens[3] {
		t.Errorf("signed %d times", signed)
	}
	st, err := statement.ParseToken(strings.TrimPrefix(tokens[4], "Bearer "))
	check(t, err)
	r, err := statement.ParseRead([]byte(st.Payload))
	check(t, err)
	if r.Audience != access.Audience(ca.certificate.Raw) || r.Until.Sub(r.Time) > readLife {
		t.Errorf("%+v", r)
	}
}

// A clock that is behind costs another signature, and not the command; one that
// is wrong altogether is said.
func TestClockThatIsBehind(t *testing.T) {
	ca, signed, calls := newAuthority(t), 0, 0
	stale := access.Errorf(access.CodeStale, "the read statement was good until noon")
	address := ca.serve(t, func(w http.ResponseWriter, r *http.Request) {
		if calls++; calls == 2 || calls > 3 {
			reply(w, http.StatusUnauthorized, stale)
			return
		}
		reply(w, http.StatusOK, []Summary{})
	}, nil)
	h := dial(t, address, ca.pem(), time.Now, &signed)
	for range 2 {
		_, err := h.List(t.Context(), Filter{})
		check(t, err)
	}
	if signed != 2 {
		t.Errorf("signed %d times", signed)
	}
	if _, err := h.List(t.Context(), Filter{}); access.CodeOf(err) != access.CodeStale || calls != 5 {
		t.Errorf("%v after %d calls", err, calls)
	}
}

// Who is told to come back later does, a few times.
func TestComesBackLater(t *testing.T) {
	ca, signed, calls := newAuthority(t), 0, 0
	away := access.Errorf(access.CodeUnavailable, "too many calls by alice")
	address := ca.serve(t, func(w http.ResponseWriter, r *http.Request) {
		if calls++; calls == 1 {
			w.Header().Set("Retry-After", "1")
			reply(w, http.StatusTooManyRequests, away)
			return
		}
		reply(w, http.StatusOK, []Summary{})
	}, nil)
	h := dial(t, address, ca.pem(), time.Now, &signed)
	began := time.Now()
	_, err := h.List(t.Context(), Filter{})
	check(t, err)
	if d := time.Since(began); d < time.Second || calls != 2 || signed != 1 {
		t.Errorf("after %s, %d calls, signed %d times", d, calls, signed)
	}
	ctx, cancel := context.WithCancel(t.Context())
	calls = 0
	time.AfterFunc(50*time.Millisecond, cancel)
	if _, err := h.List(ctx, Filter{}); !errors.Is(err, context.Canceled) {
		t.Errorf("interrupted: %v", err)
	}
}

// traces keeps what it is told, and names each span by its number.
type traces []string

func (s *traces) Begin(_ context.Context, call string, header http.Header) func(error) {
	*s = append(*s, call)
	n := len(*s) - 1
	header.Set("Traceparent", fmt.Sprint(n))
	return func(err error) { (*s)[n] += " " + string(access.CodeOf(err)) }
}

func (s *traces) Close() { *s = append(*s, "closed") }

// What is said has one span, however often it has to be sent, and the service
// hears of it. What is asked has none: whoever waits asks all the time.
func TestTraces(t *testing.T) {
	ca, signed := newAuthority(t), 0
	var heard []string
	address := ca.serve(t, func(w http.ResponseWriter, r *http.Request) {
		heard = append(heard, r.Method+" "+r.Header.Get("Traceparent"))
		switch {
		case len(heard) == 1:
			reply(w, http.StatusTooManyRequests, access.Errorf(access.CodeUnavailable, "too many calls"))
		case strings.HasSuffix(r.URL.Path, "decision"):
			reply(w, http.StatusForbidden, access.Errorf(access.CodeForbidden, "not you"))
		case r.Method == http.MethodPost:
			reply(w, http.StatusCreated, Submitted{ID: testID})
		default:
			reply(w, http.StatusOK, StatusAnswer{Status: access.Status{ID: testID}})
		}
	}, nil)
	h, spans := dial(t, address, ca.pem(), time.Now, &signed), &traces{}
	h.o.Traces = spans
	st := access.Statement{Payload: "p", Signature: "s"}
	check(t, h.Submit(t.Context(), access.Submission{Request: st}, access.Request{Header: access.Header{ID: testID}}))
	_, err := h.Status(t.Context(), testID)
	check(t, err)
	if _, err := h.Send(t.Context(), testID, access.MessageDecision, "", st); access.CodeOf(err) != access.CodeForbidden {
		t.Error(err)
	}
	h.Close()
	if got, want := strings.Join(heard, ";"), "POST 0;POST 0;GET ;POST 1"; got != want {
		t.Errorf("the service hears %q, want %q", got, want)
	}
	if got, want := strings.Join(*spans, ";"), "POST /v1/requests ;POST /v1/requests/{id}/decision forbidden;closed"; got != want {
		t.Errorf("there are spans %q, want %q", got, want)
	}
	h.o.Traces = nil // for the end of the test
}

func TestHTTPSAnswers(t *testing.T) {
	ca, signed := newAuthority(t), 0
	var answer func(http.ResponseWriter)
	address := ca.serve(t, func(w http.ResponseWriter, _ *http.Request) { answer(w) }, nil)
	h := dial(t, address, ca.pem(), time.Now, &signed)
	other := strings.Replace(testID, "0199", "019a", 1)
	st := access.Statement{Payload: "p", Signature: "s"}
	for _, tt := range []struct {
		name   string
		answer func(http.ResponseWriter)
		call   func() error
		code   access.Code
		say    string
	}{
		{"a refusal", func(w http.ResponseWriter) {
			reply(w, 403, access.Errorf(access.CodeForbidden, "not you").WithHint("bob may"))
		},
			func() error { _, err := h.Status(t.Context(), testID); return err }, access.CodeForbidden, "not you"},
		{"another request's status", func(w http.ResponseWriter) { reply(w, 200, StatusAnswer{Status: access.Status{ID: other}}) },
			func() error { _, err := h.Status(t.Context(), testID); return err }, access.CodeMismatch, "answers about"},
		{"another request's status to what was said", func(w http.ResponseWriter) { reply(w, 200, StatusAnswer{Status: access.Status{ID: other}}) },
			func() error { _, err := h.Send(t.Context(), testID, "decision", "", st); return err }, access.CodeMismatch, "answers about"},
		{"another request", func(w http.ResponseWriter) { reply(w, 201, Submitted{ID: other}) },
			func() error {
				return h.Submit(t.Context(), access.Submission{Request: st}, access.Request{Header: access.Header{ID: testID}})
			}, access.CodeMismatch, "answers about"},
		{"another review", func(w http.ResponseWriter) { reply(w, 200, access.ReviewTask{Request: other}) },
			func() error { _, err := h.Review(t.Context(), testID, "", st); return err }, access.CodeMismatch, "answers about"},
		{"nothing new, at the first time", func(w http.ResponseWriter) { w.WriteHeader(http.StatusNotModified) },
			func() error { _, err := h.Next(t.Context(), testID, time.Second); return err }, access.CodeMalformed, "knows nothing"},
		{"no JSON", func(w http.ResponseWriter) { _, _ = io.WriteString(w, "<html>") },
			func() error { _, err := h.List(t.Context(), Filter{}); return err }, access.CodeMalformed, "can't be read"},
		{"something in between", func(w http.ResponseWriter) { http.Error(w, "<html>bad gateway</html>", http.StatusBadGateway) },
			func() error { _, err := h.List(t.Context(), Filter{}); return err }, access.CodeUnavailable, "says 502"},
		{"something else", func(w http.ResponseWriter) { http.Error(w, "<html>", http.StatusNotFound) },
			func() error { _, err := h.List(t.Context(), Filter{}); return err }, access.CodeMalformed, "is not the service of hallpass"},
		{"without an end", func(w http.ResponseWriter) { _, _ = w.Write(make([]byte, maxAnswer+1)) },
			func() error { _, err := h.List(t.Context(), Filter{}); return err }, access.CodeMalformed, "longer than"},
		{"a sweep", nil, func() error { _, err := h.Sweep(t.Context()); return err }, access.CodeForbidden, "for those who operate"},
	} {
		answer = tt.answer
		if err := tt.call(); access.CodeOf(err) != tt.code || !strings.Contains(err.Error(), tt.say) {
			t.Errorf("%s: %v (%s)", tt.name, err, access.CodeOf(err))
		}
	}
	// What has a value beside its error has both here, too.
	ended := StatusAnswer{Status: access.Status{ID: testID, State: access.StateActive}, Error: access.Errorf(access.CodeEnded, "terminated")}
	answer = func(w http.ResponseWriter) { reply(w, 200, ended) }
	if s, err := h.Status(t.Context(), testID); s.State != access.StateActive || access.CodeOf(err) != access.CodeEnded {
		t.Errorf("%v, %v", s.State, err)
	}
	answer = func(w http.ResponseWriter) {
		reply(w, 200, LockAnswer{Locked: access.Locked{Lock: access.Lock{Name: "bob"}}, Error: access.Errorf(access.CodeUnavailable, "later")})
	}
	if out, err := h.Lock(t.Context(), st, access.Lock{}); out.Lock.Name != "bob" || access.CodeOf(err) != access.CodeUnavailable {
		t.Errorf("%+v, %v", out, err)
	}
}

// News are asked for by what is known.
func TestNext(t *testing.T) {
	ca, signed := newAuthority(t), 0
	var asked []string
	state := access.StatePending
	address := ca.serve(t, func(w http.ResponseWriter, r *http.Request) {
		tag := fmt.Sprintf(`"%s"`, state)
		asked = append(asked, r.URL.RawQuery+" "+r.Header.Get("If-None-Match"))
		w.Header().Set("ETag", tag)
		if r.Header.Get("If-None-Match") == tag {
			w.WriteHeader(http.StatusNotModified)
			return
		}
		reply(w, http.StatusOK, StatusAnswer{Status: access.Status{ID: testID, State: state}})
	}, nil)
	h := dial(t, address, ca.pem(), time.Now, &signed)
	next := func(want access.State) {
		t.Helper()
		if s, err := h.Next(t.Context(), testID, 1500*time.Millisecond); err != nil || s.State != want {
			t.Errorf("%v, %v", s.State, err)
		}
	}
	next("pending")
	next("pending")
	state = access.StateActive
	next("active")
	_, err := h.Status(t.Context(), testID)
	check(t, err)
	want := `wait=1.5s ;wait=1.5s "pending";wait=1.5s "pending"; `
	if got := strings.Join(asked, ";"); got != want {
		t.Errorf("%s", got)
	}
}
