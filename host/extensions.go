//go:build linux

package host

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/crypto/ssh"
)

// When the service is asked whether the grant of a session was extended: from a
// while before its end, or before the terminal is told of it, and the more often
// the closer that is. It is less than 30 times for a session of two minutes' warning.
const (
	askBefore = 2 * time.Minute
	askMargin = 30 * time.Second // on top of either
	askLeast  = time.Second      // between two questions
	askLate   = 30 * time.Second // and at most this long, so that a clock that was set shows
	askLimit  = 10 * time.Second // for an answer
	askAtOnce = 100              // certificates in one question; the service takes no more
)

// extending lets sessions go on whose grants were extended, which the service
// says with the certificate that does it. Where it doesn't answer, they end when
// they were to.
func (a *agent) extending(ctx context.Context) {
	for {
		lines, next := a.sessions.asks()
		var failed []error
		for some := range slices.Chunk(lines, askAtOnce) {
			failed = append(failed, a.extend(ctx, some))
		}
		if len(lines) > 0 && ctx.Err() == nil {
			a.noteAsking(errors.Join(failed...))
		}
		wait := askLate
		if !next.IsZero() {
			wait = min(wait, max(0, next.Sub(a.now())))
		}
		t := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			t.Stop()
			return
		case <-a.sessions.news:
			t.Stop()
		case <-t.C:
		}
	}
}

// noteAsking keeps what came of asking for hallpass-host status, and logs what is
// new.
func (a *agent) noteAsking(err error) {
	a.mu.Lock()
	before := a.asking
	a.asking = err
	a.mu.Unlock()
	if err != nil && (before == nil || before.Error() != err.Error()) {
		a.log.Warn("it isn't known whether grants were extended; their sessions end when they were to", "error", err)
	}
}

// extend asks what extends the grants of these certificates.
func (a *agent) extend(ctx context.Context, lines []string) error {
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	got, err := a.service.extensions(ctx, lines)
	if err != nil || len(got) == 0 {
		return err
	}
	trusted, err := readKeys(a.layout.userCAs())
	if err != nil {
		return err
	}
	var refused error
	for _, line := range got {
		g, err := signedGrant(line, trusted, a.now())
		if err != nil {
			refused = fmt.Errorf("the service says of a certificate that it extends another, and it is refused: %w", err)
			continue
		}
		a.sessions.goOn(g)
	}
	return refused
}

// extensions asks for the certificates that extend the grants of others.
func (s *service) extensions(ctx context.Context, lines []string) ([]string, error) {
	type certificates struct {
		Certificates []string `json:"certificates"`
	}
	var got certificates
	if err := s.post(ctx, "/v1/extensions", certificates{lines}, &got); err != nil {
		return nil, err
	}
	return got.Certificates, nil
}

// signedGrant reads a certificate of hallpass that no sshd has looked at: one of
// our CA keys has signed it, and it is good now.
func signedGrant(line string, trusted []ssh.PublicKey, now time.Time) (*grant, error) {
	g, err := recorded(line)
	if err != nil {
		return nil, err
	}
	if readGrant(g.cert, trusted) == nil || len(trusted) == 0 {
		return nil, errors.New("its certificate is by none of our CAs")
	}
	if len(g.cert.ValidPrincipals) == 0 {
		return nil, errors.New("its certificate is good for every login")
	}
	checker := ssh.CertChecker{
		Clock:                    func() time.Time { return now },
		SupportedCriticalOptions: []string{"force-command", "source-address"},
	}
	return g, checker.CheckCert(g.cert.ValidPrincipals[0], g.cert)
}

// asks are the certificates of which it is time to ask whether their grants were
// extended, and when it will be time to ask again; zero if there is nothing to
// ask.
func (s *sessions) asks() (lines []string, next time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	for _, x := range s.live {
		if x.ending {
			continue
		}
		over := x.until().over()
		from := over.Add(-askBefore)
		if t := s.warnAt(x); !t.IsZero() && t.Before(from) {
			from = t
		}
		from = from.Add(-askMargin)
		if x.ask.Before(from) { // not asked yet, or it goes on since
			x.ask = from
		}
		if !now.Before(x.ask) {
			if line := x.until().line(); !slices.Contains(lines, line) {
				lines = append(lines, line)
			}
			x.ask = now.Add(max(askLeast, over.Sub(now)/4))
		}
		if next.IsZero() || x.ask.Before(next) {
			next = x.ask
		}
	}
	return lines, next
}

// goOn lets the sessions go on whose grant this one extends, unless it opens
// nothing itself.
func (s *sessions) goOn(g *grant) {
	s.mu.Lock()
	if s.barredLocked(g) == "" {
		s.extend(g)
	}
	s.mu.Unlock()
	s.wake()
}
