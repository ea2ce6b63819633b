//go:build linux

package host

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"hallpass/access"
)

// keyID is what package ca writes into every certificate of hallpass
// (docs/spec/certificate.md).
var keyID = regexp.MustCompile(`^hallpass:([0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}):([a-z0-9][a-z0-9._@+-]{0,62})$`)

// grant is a certificate of hallpass that opened a session.
type grant struct {
	cert      *ssh.Certificate
	request   string
	requester string
	extends   string    // the request whose grant it extends
	end       time.Time // the certificate's; it is dead from here on
	grace     time.Duration
	warn      time.Duration // -1: as configured
}

// over is when the session has to be gone.
func (g *grant) over() time.Time { return g.end.Add(g.grace) }

// line is the certificate as text.
func (g *grant) line() string { return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(g.cert))) }

// readGrant says whether a certificate is hallpass's: a user certificate, by
// one of our CA keys, for a request. Else it is nil. trusted == nil means that
// our CA keys aren't known, and any will do.
func readGrant(cert *ssh.Certificate, trusted []ssh.PublicKey) *grant {
	m := keyID.FindStringSubmatch(cert.KeyId)
	if m == nil || cert.CertType != ssh.UserCert {
		return nil
	}
	ours := func(k ssh.PublicKey) bool { return bytes.Equal(k.Marshal(), cert.SignatureKey.Marshal()) }
	if trusted != nil && !slices.ContainsFunc(trusted, ours) {
		return nil
	}
	g := &grant{cert: cert, request: m[1], requester: m[2], warn: -1}
	// A certificate without an end, which hallpass never makes, has ended.
	if cert.ValidBefore < 1<<40 {
		g.end = time.Unix(int64(cert.ValidBefore), 0).UTC()
	}
	if d, err := access.ParseDuration(cert.Extensions[access.ExtensionGrace]); err == nil {
		g.grace = min(max(d, 0), access.MaxGrace) // whatever a certificate says
	}
	if d, err := access.ParseDuration(cert.Extensions[access.ExtensionWarn]); err == nil {
		g.warn = max(d, 0)
	}
	g.extends = cert.Extensions[access.ExtensionExtends]
	return g
}

// continues says whether a grant goes on where another ends: the CA says that
// it extends that one's request, and it is for the same requester and login, with
// the same restrictions, such as a command.
func (g *grant) continues(of *grant) bool {
	return g.extends != "" && g.extends == of.request && g.requester == of.requester &&
		slices.Equal(g.cert.ValidPrincipals, of.cert.ValidPrincipals) && maps.Equal(g.cert.CriticalOptions, of.cert.CriticalOptions)
}

// readAuthInfo finds the grant in what sshd says of a login in
// SSH_AUTH_INFO_0: a line for each method that succeeded, such as
// "publickey ssh-ed25519-cert-v01@openssh.com AAAA…". Nil: there is none, and
// the session is no business of ours. An error: there is one, but not one that
// can be kept an eye on.
func readAuthInfo(info string, trusted []ssh.PublicKey) (*grant, error) {
	var found *grant
	for line := range strings.Lines(info) {
		f := strings.Fields(line)
		if len(f) < 3 || f[0] != "publickey" || !strings.HasSuffix(f[1], "-cert-v01@openssh.com") {
			continue
		}
		key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(f[1] + " " + f[2]))
		if err != nil {
			continue // sshd could read it; ours can be read by us too
		}
		cert, ok := key.(*ssh.Certificate)
		if !ok {
			continue
		}
		g := readGrant(cert, trusted)
		if g == nil {
			continue
		}
		if found != nil && !bytes.Equal(found.cert.Marshal(), cert.Marshal()) {
			return nil, errors.New("the login used two certificates of hallpass")
		}
		found = g
	}
	return found, nil
}

// readKeys reads public keys, one a line, as in TrustedUserCAKeys.
func readKeys(path string) ([]ssh.PublicKey, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var keys []ssh.PublicKey
	for line := range strings.Lines(string(data)) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(line))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		keys = append(keys, key)
	}
	if len(keys) == 0 {
		return nil, fmt.Errorf("%s has no key", path)
	}
	return keys, nil
}
