//go:build linux

package host

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"hallpass/access"
	"hallpass/statement"
)

// How often the service is asked for what the host has to know, and again
// after it couldn't say.
const (
	renewEvery = 24 * time.Hour // so that a login that the catalog gains is there the next day
	renewRetry = time.Minute
)

// renewing keeps the host certificate, the CA keys and the principals as the
// service has them.
func (a *agent) renewing(ctx context.Context) {
	for renewed := false; ; {
		wait := max(0, min(a.config.RenewAfter.Sub(a.now()), renewEvery))
		if a.config.ReloadOwed {
			wait = 0
		}
		a.mu.Lock()
		if a.renewal != nil || renewed {
			wait = max(wait, renewRetry) // by the issuer's clock it may not be time yet
		}
		a.mu.Unlock()
		t := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			t.Stop()
			return
		case <-t.C:
		case <-a.reload:
			t.Stop()
			a.log.Info("asks the service for CA keys, principals and host certificate")
		}
		err := a.settle() // the service isn't needed for it
		if err == nil {
			err = a.renew(ctx)
		}
		if ctx.Err() != nil {
			return
		}
		a.mu.Lock()
		a.renewal = err
		a.mu.Unlock()
		renewed = err == nil
		if err != nil {
			a.log.Warn("host certificate isn't renewed", "error", err)
		}
	}
}

// renew asks for what Enroll got, by a statement that the agent's key signs,
// and writes what has changed.
func (a *agent) renew(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	keys, err := readKeys(a.config.HostKey)
	if err != nil {
		return err
	}
	st, err := statement.Sign(a.reports.key, access.Renewal{
		Header:  access.Header{Type: access.TypeRenew, ID: statement.NewID(), Signer: a.config.Host, Time: statement.Time(a.now())},
		HostKey: statement.MarshalKey(keys[0]),
	})
	if err != nil {
		return err
	}
	var told access.Statement
	if err := a.service.post(ctx, "/v1/hosts/renew", access.Enrolment{Statement: st}, &told); err != nil {
		return err
	}
	var signer ssh.PublicKey
	j, err := openEnrolled(told, st, a.reports.key.PublicKey(), func(by ssh.PublicKey) error {
		signer = by
		return a.vouches(by)
	})
	if err != nil {
		return err
	}
	if err := checkEnrolled(j, keys[0], a.now()); err != nil {
		return err
	}
	if j.Host != a.config.Host {
		return access.Errorf(access.CodeMismatch, "the service takes this host for %s", j.Host)
	}
	if err := a.adopt(j); err != nil {
		return err
	}
	a.lists.distrust()
	// Root's word has been kept, if it was of this CA: from now on there is one to
	// know the next one by.
	if named, err := namedCA(a.layout); err != nil || named != ssh.FingerprintSHA256(signer) {
		return err
	}
	return os.Remove(a.layout.trustedCA())
}

// namedCA is the fingerprint of the CA that root has named with Trust, "" if none.
func namedCA(l Layout) (string, error) {
	named, err := os.ReadFile(l.trustedCA())
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	return string(named), err
}

// vouches refuses what isn't signed by a CA that this host has. Where root has named
// one, it is that one alone: the others may be somebody else's by now.
func (a *agent) vouches(by ssh.PublicKey) error {
	named, err := namedCA(a.layout)
	if err != nil {
		return err
	}
	fingerprint := ssh.FingerprintSHA256(by)
	switch named {
	case fingerprint:
		return nil
	case "":
	default:
		return access.Errorf(access.CodeUnverified, "the service answers with CA %s, and hallpass-host trust has named %s", fingerprint, named)
	}
	trusted, err := readKeys(a.layout.userCAs())
	if err != nil || among(trusted, by) {
		return err
	}
	return access.Errorf(access.CodeUnverified, "the service answers with CA %s, which none of this host's vouches for", fingerprint).
		WithHint("if hallpass ca show says the same: hallpass-host trust %s", fingerprint)
}

// Trust has the agent take what the SSH CA with this fingerprint says, the next time that
// it asks, though none that the host has vouches for it, and until then what no other
// says: the last one was lost, or is somebody else's too.
func Trust(l Layout, fingerprint string) error {
	if os.Geteuid() != 0 {
		return errNotRoot
	}
	if err := access.CheckFingerprint(fingerprint); err != nil {
		return err
	}
	if _, err := loadConfig(l); err != nil {
		return err
	}
	return write(l.trustedCA(), []byte(fingerprint), 0o600)
}

// adopt writes what has changed. A login that the catalog lost loses its file.
func (a *agent) adopt(j access.Enrolled) error {
	l, undo := a.layout, &changes{}
	if err := a.lists.expect(j.Principals); err != nil {
		return err
	}
	err := func() error {
		if err := change(undo, l.userCAs(), lines(j.UserCAs)); err != nil {
			return err
		}
		// Only where there is one: the line in sshd's configuration is
		// written at enrolment.
		if _, err := os.Stat(l.hostCert()); err == nil && j.Certificate != "" {
			certificate := lines([]string{j.Certificate})
			if old, err := os.ReadFile(l.hostCert()); err != nil || string(old) != string(certificate) {
				// Before it is there: whoever dies in between tells sshd once too often.
				if err := a.owe(true); err != nil {
					return err
				}
			}
			if err := errors.Join(change(undo, l.hostCert(), certificate), change(undo, l.hostCAs(), lines(j.HostCAs))); err != nil {
				return err
			}
		}
		for login, principals := range j.Principals {
			if slices.Contains(a.config.BreakGlass, login) {
				continue
			}
			if err := change(undo, filepath.Join(l.principals(), login), lines(principals)); err != nil {
				return err
			}
		}
		s := sshd{program: a.config.SSHD, config: a.config.SSHDConfig}
		return s.test(s.config)
	}()
	if err != nil {
		return errors.Join(err, undo.back())
	}
	entries, err := os.ReadDir(l.principals())
	if err != nil {
		return err
	}
	for _, e := range entries {
		if _, ok := j.Principals[e.Name()]; !ok && e.Type().IsRegular() {
			if err := os.Remove(filepath.Join(l.principals(), e.Name())); err != nil {
				return err
			}
		}
	}
	if len(undo.undo) == 0 && a.config.RenewAfter.Equal(j.RenewAfter) {
		return nil
	}
	before := a.config.RenewAfter
	a.config.RenewAfter = j.RenewAfter
	if err := a.config.save(l); err != nil {
		a.config.RenewAfter = before
		return err
	}
	// sshd reads the others at each login, and takes none while it reloads.
	if err := a.settle(); err != nil {
		return fmt.Errorf("CA keys, principals and host certificate are written, and sshd hasn't been told: %w", err)
	}
	a.log.Info("host certificate, CA keys and principals are as the service has them")
	return nil
}

// settle has sshd show a new host certificate from the next connection on, if
// it hasn't been told of it yet.
func (a *agent) settle() error {
	if !a.config.ReloadOwed {
		return nil
	}
	s := sshd{program: a.config.SSHD, config: a.config.SSHDConfig}
	set, err := s.settings(s.config, anyLogin)
	if err != nil {
		return err
	}
	if _, err := s.reload(set); err != nil {
		return err
	}
	return a.owe(false)
}

// owe keeps on disk whether sshd has to be told.
func (a *agent) owe(reload bool) error {
	a.config.ReloadOwed = reload
	return a.config.save(a.layout)
}

// change writes a file if that changes it.
func change(undo *changes, path string, data []byte) error {
	old, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err == nil && string(old) == string(data) {
		return nil
	}
	return undo.write(path, data, 0o644)
}

// readHostCert reads the host certificate that sshd shows.
func readHostCert(path string) (*ssh.Certificate, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	return parseHostCert(strings.TrimSuffix(string(data), "\n"))
}
