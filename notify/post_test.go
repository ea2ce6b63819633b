package notify

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestOutside(t *testing.T) {
	for address, want := range map[string]bool{
		"8.8.8.8": true, "2606:4700:4700::1111": true, "::ffff:8.8.8.8": true, "172.32.0.1": true, "100.128.0.1": true,
		"127.0.0.1": false, "127.8.9.1": false, "::1": false, "0.0.0.0": false, "::": false, "0.1.2.3": false,
		"10.0.0.1": false, "172.16.0.1": false, "172.31.255.255": false, "192.168.1.1": false, "100.64.0.1": false,
		"169.254.169.254": false, "fe80::1": false, "fe80::1%eth0": false, "fd00:ec2::254": false, "fec0::1": false,
		"::ffff:127.0.0.1": false, "::ffff:169.254.169.254": false, "64:ff9b::a9fe:a9fe": false, "2002:7f00:1::": false, "2001::1": false,
		"224.0.0.1": false, "ff02::1": false, "255.255.255.255": false, "240.0.0.1": false, "198.18.0.1": false, "192.0.2.1": false,
	} {
		if got := outside(netip.MustParseAddr(address)); got != want {
			t.Errorf("%s is outside: %v", address, got)
		}
	}
}

// receiver is a web server that says what it got.
func receiver(t *testing.T, secure bool, handle http.HandlerFunc) (s *httptest.Server, roots *x509.CertPool) {
	t.Helper()
	if s = httptest.NewUnstartedServer(handle); secure {
		s.StartTLS()
		roots = x509.NewCertPool()
		roots.AddCert(s.Certificate())
	} else {
		s.Start()
	}
	t.Cleanup(s.Close)
	return s, roots
}

func local(t *testing.T, roots *x509.CertPool) *poster {
	p := newPoster([]netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")})
	p.secure.roots = roots
	t.Cleanup(p.client.CloseIdleConnections)
	return p
}

func TestPostRefusesInternalAddresses(t *testing.T) {
	reached := 0
	count := func(w http.ResponseWriter, _ *http.Request) { reached++ }
	secure, roots := receiver(t, true, count)
	plain, _ := receiver(t, false, count)
	_, port, _ := strings.Cut(strings.TrimPrefix(secure.URL, "https://"), ":")
	careful := newPoster(nil)
	careful.secure.roots = roots
	for name, to := range map[string]string{
		"by address":       secure.URL,
		"by a name":        "https://localhost:" + port, // what a name says when it is used is what counts, not what it said before
		"as a number":      "https://[::ffff:127.0.0.1]:" + port,
		"cloud metadata":   "https://169.254.169.254/latest/meta-data",
		"without TLS":      plain.URL,
		"metadata, no TLS": "http://169.254.169.254/",
	} {
		err := careful.post(context.Background(), to, []byte("{}"), nil)
		if err == nil || !strings.Contains(err.Error(), "allowed") {
			t.Errorf("%s: %v", name, err)
		}
		if err != nil && strings.Contains(err.Error(), "meta-data") {
			t.Errorf("%s: the address is in the error: %v", name, err)
		}
	}
	if reached != 0 {
		t.Fatalf("an internal server was reached %d times", reached)
	}
	if err := local(t, roots).post(context.Background(), secure.URL, []byte("{}"), nil); err != nil || reached != 1 {
		t.Errorf("where it is allowed: %v", err)
	}
	if err := local(t, nil).post(context.Background(), plain.URL, []byte("{}"), nil); err != nil || reached != 2 {
		t.Errorf("where it is allowed without TLS: %v", err)
	}
	if err := local(t, nil).post(context.Background(), secure.URL, []byte("{}"), nil); err == nil || reached != 2 {
		t.Errorf("with a certificate that nobody knows: %v", err)
	}
}

func TestPostAnswers(t *testing.T) {
	inner := 0
	target, _ := receiver(t, false, func(http.ResponseWriter, *http.Request) { inner++ })
	release := make(chan struct{})
	s, roots := receiver(t, true, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/redirect":
			http.Redirect(w, r, target.URL, http.StatusTemporaryRedirect)
		case "/broken":
			w.WriteHeader(http.StatusInternalServerError)
		case "/slow":
			<-release
		case "/endless":
			for range 1000 {
				if _, err := w.Write(make([]byte, 64<<10)); err != nil {
					return
				}
			}
		}
	})
	defer close(release)
	p := local(t, roots)
	for path, want := range map[string]string{
		"/": "", "/endless": "", "/redirect": "it answers 307, a redirect, which is not followed", "/broken": "it answers 500", "/slow": "context deadline exceeded",
	} {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		if path == "/slow" {
			cancel()
			ctx, cancel = context.WithTimeout(context.Background(), 100*time.Millisecond)
		}
		err := p.post(ctx, s.URL+path, []byte("{}"), nil)
		cancel()
		if err != nil {
			if got := err.Error(); got != want {
				t.Errorf("%s: %q, want %q", path, got, want)
			}
		} else if want != "" {
			t.Errorf("%s: no error, want %q", path, want)
		}
	}
	if inner != 0 {
		t.Error("a redirect was followed")
	}
}

// The example of the Standard Webhooks specification's reference libraries.
func TestSignature(t *testing.T) {
	secret, err := parseSecret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
	if err != nil {
		t.Fatal(err)
	}
	got := sign(secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330", []byte(`{"test": 2432232314}`))
	if want := "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="; got != want {
		t.Errorf("signature %s, want %s", got, want)
	}
	for _, bad := range []string{"", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_", "whsec_MfKQ", "whsec_%%%"} {
		if _, err := parseSecret(bad); err == nil {
			t.Errorf("secret %q is taken", bad)
		}
	}
}

func TestWebhook(t *testing.T) {
	var got []byte
	var header http.Header
	s, roots := receiver(t, true, func(_ http.ResponseWriter, r *http.Request) {
		got, _ = io.ReadAll(r.Body)
		header = r.Header
	})
	secret := []byte(strings.Repeat("k", 32))
	w := &Webhook{url: s.URL, secret: secret, poster: local(t, roots), now: func() time.Time { return noon }}
	for range 2 { // a repeat has the same id
		if err := w.Send(context.Background(), news(Asked)); err != nil {
			t.Fatal(err)
		}
		if header.Get("Webhook-Id") != "0199.x" || header.Get("Webhook-Timestamp") != "1772452800" {
			t.Errorf("headers: %v", header)
		}
		if want := sign(secret, "0199.x", "1772452800", got); header.Get("Webhook-Signature") != want {
			t.Errorf("signature %s, want %s", header.Get("Webhook-Signature"), want)
		}
	}
	var e envelope
	if err := json.Unmarshal(got, &e); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(envelope{Asked, noon, news(Asked)}, e); diff != "" {
		t.Error(diff)
	}
}

// What people wrote can't become a link, a mention or a heading in a chat.
func TestChats(t *testing.T) {
	var got string
	s, roots := receiver(t, true, func(_ http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		got = string(b)
	})
	m := news(Asked)
	m.Login = "<!here>|`x`"
	for name, c := range map[string]struct {
		sender Sender
		want   []string
	}{
		"slack": {&Slack{s.URL, local(t, roots)}, []string{
			`"text":"alice wants ssh/web-1 as \u0026lt;!here\u0026gt;/'x' for 30m"`,
			`{"emoji":false,"text":"Reason: disk \u003c!channel\u003e \u0026 [click](https://evil.example.com)`, "`hallpass approve 0199`   \\u003chttps://ui.example.com/x/Temporal UI",
		}},
		"teams": {&Teams{s.URL, local(t, roots)}, []string{
			`"contentType":"application/vnd.microsoft.card.adaptive"`, `{"text":"disk \u003c!channel\u003e \u0026 [click](https://evil.example.com)","type":"TextRun"}`,
			`{"fontType":"Monospace","text":"hallpass approve 0199","type":"TextRun"}`, `"url":"https://ui.example.com/x"`,
		}},
	} {
		if err := c.sender.Send(context.Background(), m); err != nil {
			t.Fatal(err)
		}
		if !json.Valid([]byte(got)) {
			t.Errorf("%s: not JSON: %s", name, got)
		}
		for _, want := range c.want {
			if !strings.Contains(got, strings.Replace(want, "/x/Temporal", "/x|Temporal", 1)) {
				t.Errorf("%s: %s\nis not in\n%s", name, want, got)
			}
		}
		if strings.Contains(got, `"mrkdwn","text":"Reason`) || name == "teams" && strings.Contains(got, `"TextBlock"`) {
			t.Errorf("%s: what people wrote is read as markup: %s", name, got)
		}
	}
}
