package notify

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log"
	"mime"
	"mime/quotedprintable"
	"net"
	"net/http/httptest"
	"net/mail"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/emersion/go-sasl"
	"github.com/emersion/go-smtp"
)

// mailbox is a real mail server that keeps what it gets.
type mailbox struct {
	mu       sync.Mutex
	letters  []string
	to       []string
	loggedIn bool
	tls      bool
}

type session struct {
	box    *mailbox
	conn   *smtp.Conn
	logged bool
}

func (b *mailbox) NewSession(c *smtp.Conn) (smtp.Session, error) {
	return &session{box: b, conn: c}, nil
}

func (s *session) AuthMechanisms() []string { return []string{sasl.Plain} }
func (s *session) Auth(string) (sasl.Server, error) {
	return sasl.NewPlainServer(func(_, user, password string) error {
		if s.logged = user == "hallpass" && password == "secret"; !s.logged {
			return errors.New("who are you?")
		}
		return nil
	}), nil
}
func (s *session) Mail(string, *smtp.MailOptions) error { return nil }
func (s *session) Rcpt(to string, _ *smtp.RcptOptions) error {
	if strings.HasPrefix(to, "nobody@") {
		return &smtp.SMTPError{Code: 550, Message: "no such user"}
	}
	s.box.mu.Lock()
	defer s.box.mu.Unlock()
	s.box.to = append(s.box.to, to)
	return nil
}
func (s *session) Data(r io.Reader) error {
	data, err := io.ReadAll(r)
	s.box.mu.Lock()
	defer s.box.mu.Unlock()
	s.box.letters = append(s.box.letters, string(data))
	_, s.box.tls = s.conn.TLSConnectionState()
	s.box.loggedIn = s.logged
	return err
}
func (s *session) Reset()        {}
func (s *session) Logout() error { return nil }

// serve starts a mail server. With tlsAlways it speaks TLS from the beginning,
// with tlsStart it offers it.
func (b *mailbox) serve(t *testing.T, how string) (address string, roots *x509.CertPool) {
	t.Helper()
	web := httptest.NewTLSServer(nil) // for its certificate
	t.Cleanup(web.Close)
	roots = x509.NewCertPool()
	roots.AddCert(web.Certificate())
	config := &tls.Config{Certificates: web.TLS.Certificates, MinVersion: tls.VersionTLS12}
	s := smtp.NewServer(b)
	s.Domain, s.AllowInsecureAuth, s.ErrorLog = "mail.example.com", false, log.New(io.Discard, "", 0)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if how == tlsStart {
		s.TLSConfig = config
	}
	if how == tlsAlways {
		l = tls.NewListener(l, config)
	}
	done := make(chan struct{})
	go func() { defer close(done); _ = s.Serve(l) }()
	t.Cleanup(func() { _ = s.Close(); <-done })
	return l.Addr().String(), roots
}

func TestEmail(t *testing.T) {
	for _, how := range []string{tlsNone, tlsStart, tlsAlways} {
		t.Run(how, func(t *testing.T) {
			box := &mailbox{}
			server, roots := box.serve(t, how)
			e := &Email{server: server, tls: how, from: "hallpass@example.com", to: []string{"sre@example.com", "dba@example.com"}, roots: roots}
			if how != tlsNone {
				e.user, e.password = "hallpass", "secret"
			}
			m := news(Escalated)
			m.Reason = "ümläut\r\nBcc: everybody@example.com\r\n.\r\nquit"
			m.Login = "deploy\r\nBcc: everybody@example.com"
			if err := e.Send(context.Background(), m); err != nil {
				t.Fatal(err)
			}
			if len(box.letters) != 1 || strings.Join(box.to, " ") != "sre@example.com dba@example.com" {
				t.Fatalf("%d letters to %v", len(box.letters), box.to)
			}
			if box.tls != (how != tlsNone) || box.loggedIn != (how != tlsNone) {
				t.Errorf("TLS %v, logged in %v", box.tls, box.loggedIn)
			}
			letter, err := mail.ReadMessage(strings.NewReader(box.letters[0]))
			if err != nil {
				t.Fatal(err)
			}
			subject, err := new(mime.WordDecoder).DecodeHeader(letter.Header.Get("Subject"))
			if err != nil || !strings.HasPrefix(subject, "[hallpass] alice still wants ssh/web-1") {
				t.Errorf("subject %q, %v", subject, err)
			}
			for name, want := range map[string]string{
				"From": "hallpass@example.com", "To": "sre@example.com, dba@example.com", "Message-Id": "<0199.x@hallpass>",
				"References": "<0199.request.asked@hallpass>", "Auto-Submitted": "auto-generated", "Bcc": "", "Date": "Mon, 02 Mar 2026 12:00:00 +0000",
			} {
				if got := letter.Header.Get(name); got != want {
					t.Errorf("%s: %q, want %q", name, got, want)
				}
			}
			body, err := io.ReadAll(quotedprintable.NewReader(letter.Body))
			if err != nil || !strings.Contains(string(body), "ümläut") || !strings.Contains(string(body), "hallpass approve 0199") {
				t.Errorf("body %s, %v", body, err)
			}
		})
	}
}

func TestEmailRefuses(t *testing.T) {
	box := &mailbox{}
	plain, _ := box.serve(t, tlsNone)
	starts, roots := box.serve(t, tlsStart)
	for name, c := range map[string]struct {
		e    Email
		want string
	}{
		"no STARTTLS":        {Email{server: plain, tls: tlsStart, to: []string{"a@example.com"}}, "the mail server offers no STARTTLS, so nothing was sent"},
		"a stranger":         {Email{server: starts, tls: tlsStart, to: []string{"a@example.com"}}, "certificate"},
		"a wrong password":   {Email{server: starts, tls: tlsStart, to: []string{"a@example.com"}, roots: roots, user: "hallpass", password: "guess"}, "who are you?"},
		"an unknown mailbox": {Email{server: starts, tls: tlsStart, to: []string{"nobody@example.com"}, roots: roots}, "no such user"},
		"nobody there":       {Email{server: "127.0.0.1:1", tls: tlsNone, to: []string{"a@example.com"}}, "refused"},
	} {
		c.e.from = "hallpass@example.com"
		if err := c.e.Send(context.Background(), news(Asked)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %s", name, err, c.want)
		}
	}
	if len(box.letters) != 0 {
		t.Errorf("%d letters were sent", len(box.letters))
	}

	// One that says nothing costs no more than the time it is given.
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	e := &Email{server: l.Addr().String(), tls: tlsNone, from: "a@example.com", to: []string{"b@example.com"}}
	if err := e.Send(ctx, news(Asked)); err == nil {
		t.Error("a server that says nothing has taken a letter")
	}
}
