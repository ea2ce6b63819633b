package notify

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"mime"
	"mime/quotedprintable"
	"net"
	"net/smtp"
	"strings"
	"time"
)

// How the connection to a mail server is protected.
const (
	tlsStart  = "starttls" // plain at first, port 587 mostly
	tlsAlways = "tls"      // from the beginning, port 465 mostly
	tlsNone   = "none"     // a relay on the same machine, say
)

// Email sends messages through a mail server (RFC 5321).
type Email struct {
	server   string // host:port
	tls      string
	from     string
	to       []string
	user     string // "" for no login
	password string
	roots    *x509.CertPool // nil: the system's
}

// Send hands the message to the server.
func (e *Email) Send(ctx context.Context, m Message) (err error) {
	host, _, err := net.SplitHostPort(e.server)
	if err != nil {
		return err
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", e.server)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	if deadline, ok := ctx.Deadline(); ok {
		if err := conn.SetDeadline(deadline); err != nil {
			return err
		}
	}
	secure := &tls.Config{ServerName: host, MinVersion: tls.VersionTLS12, RootCAs: e.roots}
	if e.tls == tlsAlways {
		conn = tls.Client(conn, secure)
	}
	c, err := smtp.NewClient(conn, host)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	if err := c.Hello("hallpass"); err != nil {
		return err
	}
	if e.tls == tlsStart {
		if ok, _ := c.Extension("STARTTLS"); !ok {
			return errors.New("the mail server offers no STARTTLS, so nothing was sent")
		}
		if err := c.StartTLS(secure); err != nil {
			return err
		}
	}
	if e.user != "" {
		if err := c.Auth(smtp.PlainAuth("", e.user, e.password, host)); err != nil {
			return err
		}
	}
	if err := c.Mail(e.from); err != nil {
		return err
	}
	for _, to := range e.to {
		if err := c.Rcpt(to); err != nil {
			return err
		}
	}
	w, err := c.Data()
	if err != nil {
		return err
	}
	if _, err := w.Write(e.letter(m)); err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	_ = c.Quit() // it has the message
	return nil
}

// letter is the message as RFC 5322 wants it. The id is the same each time, so
// that mail programs show a repeat once.
func (e *Email) letter(m Message) []byte {
	var b bytes.Buffer
	header := func(name, value string) {
		value = strings.NewReplacer("\r", " ", "\n", " ").Replace(value)
		fmt.Fprintf(&b, "%s: %s\r\n", name, value)
	}
	header("From", e.from)
	header("To", strings.Join(e.to, ", "))
	header("Subject", mime.QEncoding.Encode("utf-8", "[hallpass] "+m.Title()))
	header("Date", m.Time.UTC().Format(time.RFC1123Z))
	header("Message-ID", "<"+m.ID+"@hallpass>")
	if m.Event != Asked {
		header("References", "<"+m.Request+"."+string(Asked)+"@hallpass>") // so that they stand together
	}
	header("Auto-Submitted", "auto-generated")
	header("MIME-Version", "1.0")
	header("Content-Type", "text/plain; charset=utf-8")
	header("Content-Transfer-Encoding", "quoted-printable")
	b.WriteString("\r\n")
	q := quotedprintable.NewWriter(&b)
	_, _ = q.Write([]byte(strings.ReplaceAll(m.Text(), "\n", "\r\n"))) // into memory: it never fails
	_ = q.Close()
	return b.Bytes()
}
