package service

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"hallpass/access"
	"hallpass/audit"
	"hallpass/ca/krl"
)

var quiet = slog.New(slog.DiscardHandler)

func newKey(t testing.TB) ssh.Signer {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return signer
}

// lists is a source of lists of the test's making.
type lists struct {
	ca ssh.Signer

	mu    sync.Mutex
	last  audit.KRL
	looks int
	down  error
}

func (l *lists) publish(t testing.TB, version uint64, serials ...uint64) {
	t.Helper()
	list := krl.List{Version: version, Generated: time.Now(), CAs: []krl.CA{{Key: l.ca.PublicKey(), Ranges: krl.Join(serials...)}}}
	data, err := list.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	signature, err := krl.Sign(l.ca, data)
	if err != nil {
		t.Fatal(err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.last = audit.KRL{Version: version, List: data, Signature: signature}
}

func (l *lists) KRL(context.Context) (audit.KRL, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.down == nil && l.last.Version == 0 {
		return audit.KRL{}, access.Errorf(access.CodeUnavailable, "there is no key revocation list yet")
	}
	return l.last, l.down
}

func (l *lists) KRLVersion(context.Context) (uint64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.looks++
	return l.last.Version, l.down
}

// start serves a handler as Serve does, until the test ends.
func start(t testing.TB, h http.Handler) (*http.Client, string) {
	t.Helper()
	dir := t.TempDir()
	key, pub := filepath.Join(dir, "key"), filepath.Join(dir, "pub")
	if err := CreateAuthority(key, pub); err != nil {
		t.Fatal(err)
	}
	a, err := OpenAuthority(key, pub, []string{"127.0.0.1"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- Serve(ctx, l, a.TLS(), h, quiet) }()
	pool := x509.NewCertPool()
	pool.AddCert(a.Certificate())
	client := &http.Client{Timeout: time.Minute, Transport: &http.Transport{
		ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{RootCAs: pool},
	}}
	t.Cleanup(func() {
		cancel()
		client.CloseIdleConnections()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return client, "https://" + l.Addr().String()
}

type reply struct {
	status int
	header http.Header
	body   []byte
}

func get(t testing.TB, c *http.Client, address string, header ...string) reply {
	t.Helper()
	r, err := http.NewRequest(http.MethodGet, address, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	resp, err := c.Do(r)
	if err != nil {
		t.Error(err)
		return reply{}
	}
	defer resp.Body.Close() //nolint:errcheck // test
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Error(err)
	}
	return reply{resp.StatusCode, resp.Header, body}
}

func (r reply) error(t testing.TB) (e access.Error) {
	t.Helper()
	if err := json.Unmarshal(r.body, &e); err != nil {
		t.Errorf("%q is not an error: %v", r.body, err)
	}
	return e
}

func TestKRL(t *testing.T) {
	source := &lists{ca: newKey(t)}
	client, address := start(t, New(Options{KRL: source, Log: quiet}))

	r := get(t, client, address+"/v1/krl")
	if r.status != http.StatusServiceUnavailable || r.error(t).Code != access.CodeUnavailable || r.header.Get("Retry-After") == "" {
		t.Errorf("before there is one: %d %s", r.status, r.body)
	}
	source.publish(t, 41, 3, 5)
	r = get(t, client, address+"/v1/krl")
	if r.status != http.StatusOK || r.header.Get("ETag") != `"41"` || r.header.Get("Cache-Control") != "max-age=1" {
		t.Fatalf("%d, header %v", r.status, r.header)
	}
	signature, err := krl.DecodeSignature(r.header.Get(krl.SignatureHeader))
	if err != nil {
		t.Fatal(err)
	}
	list, err := krl.Open(r.body, signature, []ssh.PublicKey{source.ca.PublicKey()})
	if err != nil || list.Version != 41 || !list.Revoked(source.ca.PublicKey(), 5) {
		t.Errorf("list %+v, error %v", list, err)
	}

	for _, tt := range []struct {
		name, query string
		header      []string
		want        int
	}{
		{"older", "?after=40", nil, 200},
		{"the same", "?after=41", nil, 304},
		{"newer than ours", "?after=42", nil, 304},
		{"entity tag", "", []string{"If-None-Match", `"41"`}, 304},
		{"weak entity tag", "", []string{"If-None-Match", `W/"41"`}, 304},
		{"old entity tag", "", []string{"If-None-Match", `"40"`}, 200},
		{"foreign entity tag", "", []string{"If-None-Match", `"abc"`}, 200},
		{"waits, and nothing comes", "?after=41&wait=30ms", nil, 304},
		{"older, and would wait", "?after=40&wait=30s", nil, 200},
		{"no number", "?after=x", nil, 400},
		{"negative", "?after=-1", nil, 400},
		{"no duration", "?wait=5", nil, 400},
		{"negative wait", "?wait=-5s", nil, 400},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := get(t, client, address+"/v1/krl"+tt.query, tt.header...)
			if r.status != tt.want {
				t.Errorf("%d, want %d: %s", r.status, tt.want, r.body)
			}
			if tt.want != 400 && r.header.Get("ETag") != `"41"` {
				t.Errorf("ETag %q", r.header.Get("ETag"))
			}
			if tt.want == 304 && len(r.body) > 0 {
				t.Errorf("body %q", r.body)
			}
		})
	}
	source.mu.Lock()
	source.down = errors.New("disk on fire at /secret/path")
	source.mu.Unlock()
	if r := get(t, client, address+"/v1/krl"); r.status != 503 || r.error(t).Message != "the service can't do this at the moment" {
		t.Errorf("while the database is down: %d %s", r.status, r.body)
	}
	if r := get(t, client, address+"/v1/nothing"); r.status != 404 || r.error(t).Code != access.CodeNotFound {
		t.Errorf("another address: %d %s", r.status, r.body)
	}
}

// All who wait get the new list at once.
func TestKRLReachesAllWhoWait(t *testing.T) {
	source := &lists{ca: newKey(t)}
	source.publish(t, 1)
	client, address := start(t, New(Options{KRL: source, Log: quiet}))
	const n = 200
	var all sync.WaitGroup
	got := make(chan time.Time, n)
	for range n {
		all.Go(func() {
			if r := get(t, client, address+"/v1/krl?after=1&wait=50s"); r.status != 200 || r.header.Get("ETag") != `"2"` {
				t.Errorf("%d, %q", r.status, r.header.Get("ETag"))
			}
			got <- time.Now()
		})
	}
	// They wait: the source is being looked at all the time.
	for deadline := time.Now().Add(90 * time.Second); ; {
		source.mu.Lock()
		looks := source.looks
		source.mu.Unlock()
		if looks > n+3 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("nobody waits")
		}
		<-time.After(5 * time.Millisecond)
	}
	source.publish(t, 2, 7)
	published := time.Now()
	all.Wait()
	close(got)
	var last time.Duration
	for at := range got {
		last = max(last, at.Sub(published))
	}
	t.Logf("%d clients, the last after %s", n, last)
	if last > 40*time.Second { // they would have waited for 50
		t.Errorf("the last one had it after %s", last)
	}
}

// stuck is a source that answers once it may.
type stuck struct {
	*lists
	asked chan struct{}
	free  chan struct{}
}

func (s *stuck) KRLVersion(ctx context.Context) (uint64, error) {
	s.asked <- struct{}{}
	select {
	case <-s.free:
		return s.lists.KRLVersion(ctx)
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

// However many ask, the source is asked by one at a time, and everybody gets the
// list that is in force when he asks, or a later one.
func TestOneLookAtATime(t *testing.T) {
	source := &stuck{&lists{ca: newKey(t)}, make(chan struct{}), make(chan struct{})}
	source.publish(t, 1)
	b := newBoard(source, 1)
	var all sync.WaitGroup
	ask := func(ctx context.Context, version uint64, want error) {
		all.Go(func() {
			if k, err := b.newer(ctx, 0, 0); k.Version != version || !errors.Is(err, want) {
				t.Errorf("list %d, %v, want %d, %v", k.Version, err, version, want)
			}
		})
	}
	waiting := func() bool {
		b.looks.mu.Lock()
		defer b.looks.mu.Unlock()
		return b.looks.next != nil
	}
	gone, leave := context.WithCancel(t.Context())
	ask(gone, 0, context.Canceled)
	<-source.asked
	for range 100 {
		ask(t.Context(), 2, nil)
	}
	for !waiting() {
		<-time.After(time.Millisecond)
	}
	select {
	case <-source.asked:
		t.Fatal("two look at the same moment")
	case <-time.After(20 * time.Millisecond):
	}
	source.publish(t, 2)
	leave() // and with him who asked first his question, which is no reason for the others not to hear
	done := make(chan struct{})
	go func() { all.Wait(); close(done) }()
	for running := true; running; {
		select {
		case <-source.asked:
			source.free <- struct{}{}
		case <-done:
			running = false
		}
	}
	if source.looks > 50 {
		t.Errorf("%d looks for 101 who asked", source.looks)
	}
}

// broken is a source with a fault in it.
type broken struct{ *lists }

func (broken) KRLVersion(context.Context) (uint64, error) { panic("10.0.0.9 said: sesame") }

// A fault behind a look that several share ends it alone: it is logged with where it
// is, and nothing of it is told.
func TestAFaultBehindALook(t *testing.T) {
	var log bytes.Buffer
	h := New(Options{KRL: broken{}, Log: slog.New(slog.NewTextHandler(&log, nil))})
	for range 2 {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/v1/krl", nil))
		if w.Code != http.StatusServiceUnavailable || strings.Contains(w.Body.String(), "sesame") {
			t.Errorf("%d %s", w.Code, w.Body)
		}
	}
	if text := log.String(); !strings.Contains(text, "sesame") || !strings.Contains(text, "krl_test.go") {
		t.Errorf("the log says %q", text)
	}
}

// Those who wait are bounded; those who needn't are served all the same.
func TestKRLWaitersAreBounded(t *testing.T) {
	source := &lists{ca: newKey(t)}
	source.publish(t, 5)
	b := newBoard(source, 2)
	ctx, cancel := context.WithCancel(t.Context())
	var all sync.WaitGroup
	for range 2 {
		all.Go(func() {
			if _, err := b.newer(ctx, 5, time.Minute); !errors.Is(err, context.Canceled) {
				t.Errorf("waiting: %v", err)
			}
		})
	}
	for len(b.seats) < 2 {
		<-time.After(time.Millisecond)
	}
	if _, err := b.newer(ctx, 5, time.Minute); access.CodeOf(err) != access.CodeUnavailable {
		t.Errorf("one too many: %v", err)
	}
	if k, err := b.newer(ctx, 4, time.Minute); err != nil || k.Version != 5 {
		t.Errorf("who needn't wait: %v", err)
	}
	cancel()
	all.Wait()
	// Nobody waits, so nobody looks.
	for deadline := time.Now().Add(90 * time.Second); ; {
		b.mu.Lock()
		idle := b.changed == nil
		b.mu.Unlock()
		if idle {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("still looking")
		}
		<-time.After(time.Millisecond)
	}
}

func FuzzKRLQuery(f *testing.F) {
	f.Add("after=1&wait=25s", `"7"`)
	f.Add("after=18446744073709551615", `W/"x"`)
	f.Add("wait=9223372036854775807ns", "*")
	f.Fuzz(func(t *testing.T, query, tag string) {
		r := &http.Request{URL: &url.URL{RawQuery: query}, Header: http.Header{"If-None-Match": {tag}}}
		after, wait, err := krlQuery(r)
		if err == nil && (wait < 0 || wait > MaxWait) {
			t.Errorf("wait %s", wait)
		}
		if err != nil && access.CodeOf(err) != access.CodeMalformed {
			t.Error(err)
		}
		if v := matches(tag); v != "" {
			if n, perr := strconv.ParseUint(v, 10, 64); err == nil && perr == nil && after < n {
				t.Errorf("after %d with the tag %q", after, tag)
			}
		}
	})
}

func uintString(v uint64) string { return strconv.FormatUint(v, 10) }

// post calls a handler with an empty message.
func post(t testing.TB, h http.HandlerFunc) reply {
	t.Helper()
	r := httptest.NewRecorder()
	h(r, httptest.NewRequest(http.MethodPost, "/", strings.NewReader("{}")))
	return reply{r.Code, r.Header(), r.Body.Bytes()}
}

// Who waits when the service stops is told so, and not an empty list, which
// would look like one that somebody has tampered with.
func TestKRLWhileTheServiceStops(t *testing.T) {
	w := newWorld(t, "deploy")
	w.check(w.krl.Publish(context.Background()))
	list, err := w.log.KRL(context.Background())
	w.check(err)
	h := New(Options{KRL: w.log, Hosts: w.log, Log: quiet})
	ctx, stop := context.WithCancel(context.Background())
	stop() // as Serve does to those who wait
	r := httptest.NewRequestWithContext(ctx, http.MethodGet, "/v1/krl?wait=25s&after="+strconv.FormatUint(list.Version, 10), nil)
	got := httptest.NewRecorder()
	h.ServeHTTP(got, r)
	if got.Code != http.StatusServiceUnavailable || got.Header().Get("Retry-After") == "" || !strings.Contains(got.Body.String(), `"unavailable"`) {
		t.Errorf("status %d, %q", got.Code, got.Body)
	}
}
