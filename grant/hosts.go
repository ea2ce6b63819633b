package grant

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"hallpass/access"
	"hallpass/audit"
	"hallpass/ca"
	"hallpass/evidence"
	"hallpass/statement"
)

// A host certificate lives hostLife, and is made anew when a host asks in the
// last hostRenew of that.
const (
	hostLife  = ca.MaxHostLifetime
	hostRenew = hostLife / 3
)

// HostLedger is the part of audit.Log that Hosts needs. All of it is durable
// when it returns.
type HostLedger interface {
	Locks(ctx context.Context) (audit.Locks, error)
	// Enrol takes a host in, once per token.
	Enrol(ctx context.Context, h audit.Host, e audit.Event) (audit.Host, error)
	// Host looks an enrolled host up.
	Host(ctx context.Context, name string) (audit.Host, bool, error)
	// Certified records a certificate.
	Certified(ctx context.Context, h audit.Host, serial uint64) error
	// Append records an event, once per request and step.
	Append(ctx context.Context, e audit.Event) (int64, error)
}

// Hosts takes hosts in and certifies their keys. It promises of hosts what
// Issuer does of people: it checks the join token, or that the host's own
// agent asks, by the files of the moment; a token takes in one host; a certificate
// is on record before it is returned; and the CA signs what the host is told, which
// nobody between the two can change.
//
// It is safe for concurrent use.
type Hosts struct {
	Users      *ca.CA          // whose certificates hosts shall let in; it signs what they are told
	Trusted    []ssh.PublicKey // the CAs that they shall let in beside it; Users may be among them
	CA         *ca.CA          // of hosts; nil: hosts get no certificates
	Rulebook   func() *evidence.Rulebook
	Ledger     HostLedger
	NextSerial func(ctx context.Context, ca string, series uint32) (uint64, error)
	Now        func() time.Time // nil: time.Now
}

// Certify takes a host in, or tells one that is in how things are now: an
// access.Enrolled (statement.OpenEnrolled). Asked again for the same key, it gives the
// same certificate until it is time for another.
//
// Refusals (*access.Error) are recorded: those of evidence.CheckJoin and
// CheckRenewal; CodeMalformed and CodeForbidden for keys and names that can't
// be; CodeNotFound for a renewal by a host that isn't in; CodeDuplicate and
// CodeEnded for a token that is used up. All other errors mean try again.
func (h *Hosts) Certify(ctx context.Context, in access.Enrolment) (access.Statement, error) {
	book := h.Rulebook()
	if book == nil {
		return access.Statement{}, access.Errorf(access.CodeUnavailable, "the issuer has no policy, directory and catalog")
	}
	locks, err := h.Ledger.Locks(ctx)
	if err != nil {
		return access.Statement{}, access.Errorf(access.CodeUnavailable, "find out what is locked: %v", err)
	}
	out, err := h.certify(ctx, book.Under(locks.Held), in)
	var refusal *access.Error
	if err == nil || !errors.As(err, &refusal) || refusal.Code == access.CodeUnavailable {
		return out, err
	}
	digests := book.Digests()
	// Without the statement: a join token that wasn't used up is a secret.
	_, rerr := h.Ledger.Append(ctx, audit.Event{
		Type: audit.StatementRefused, Step: fmt.Sprintf("refused:%s:%s", refusal.Code, in.Statement.Hash()),
		Code: refusal.Code, Why: refusal.Message, Digests: &digests,
	})
	if rerr != nil {
		return access.Statement{}, fmt.Errorf("record that the host was refused: %w", rerr)
	}
	return access.Statement{}, err
}

func (h *Hosts) certify(ctx context.Context, book *evidence.Rulebook, in access.Enrolment) (access.Statement, error) {
	host, resource, err := h.enrol(ctx, book, in)
	if err != nil {
		return access.Statement{}, err
	}
	out := access.Enrolled{
		Answers:    in.Statement.Hash(),
		AgentKey:   host.AgentKey,
		Host:       host.Name,
		HostCAs:    []string{},
		Principals: book.Principals(resource),
		RenewAfter: h.now().Add(hostLife - hostRenew).UTC().Truncate(time.Second),
	}
	for _, key := range h.users() {
		out.UserCAs = append(out.UserCAs, statement.MarshalKey(key))
	}
	if h.CA == nil {
		return h.Users.SignEnrolled(out)
	}
	out.HostCAs = []string{statement.MarshalKey(h.CA.PublicKey())}
	names, err := hostNames(resource, in.Names)
	if err != nil {
		return access.Statement{}, err
	}
	cert := h.good(host, names)
	if cert == nil {
		if cert, err = h.sign(ctx, host, resource, names); err != nil {
			return access.Statement{}, err
		}
	}
	out.Certificate = ca.Marshal(cert)
	out.RenewAfter = time.Unix(int64(cert.ValidBefore), 0).Add(-hostRenew).UTC()
	return h.Users.SignEnrolled(out)
}

// users are the CAs that hosts shall let in, the one that signs first.
func (h *Hosts) users() []ssh.PublicKey {
	signs := h.Users.PublicKey()
	return append([]ssh.PublicKey{signs}, slices.DeleteFunc(slices.Clone(h.Trusted), func(k ssh.PublicKey) bool {
		return bytes.Equal(k.Marshal(), signs.Marshal())
	})...)
}

// enrol finds out which host it is, and takes it in if it comes with a token.
func (h *Hosts) enrol(ctx context.Context, book *evidence.Rulebook, in access.Enrolment) (audit.Host, access.Resource, error) {
	fail := func(err error) (audit.Host, access.Resource, error) { return audit.Host{}, access.Resource{}, err }
	now := h.now()
	if renewal, err := statement.ParseRenewal([]byte(in.Statement.Payload)); err == nil {
		// Who it says it is says whose key it has to be signed by.
		host, found, err := h.Ledger.Host(ctx, renewal.Signer)
		if err != nil {
			return fail(err)
		}
		if !found {
			return fail(access.Errorf(access.CodeNotFound, "host %s is not enrolled", renewal.Signer))
		}
		agent, err := statement.ParseKey(host.AgentKey)
		if err != nil {
			return fail(err)
		}
		renewal, resource, err := book.CheckRenewal(in.Statement, agent, now)
		if err != nil {
			return fail(err)
		}
		host.HostKey = renewal.HostKey
		return host, resource, h.checkKey(book, renewal.HostKey)
	}
	join, user, resource, err := book.CheckJoin(in.Statement, now)
	if err != nil {
		return fail(err)
	}
	for _, key := range []string{in.HostKey, in.AgentKey} {
		if err := h.checkKey(book, key); err != nil {
			return fail(err)
		}
	}
	if _, err := hostNames(resource, in.Names); err != nil {
		return fail(err)
	}
	digests := book.Digests()
	host, err := h.Ledger.Enrol(ctx,
		audit.Host{Name: resource.ShortName(), Token: join.ID, AgentKey: in.AgentKey, HostKey: in.HostKey},
		audit.Event{Time: now, Actor: user.Name, Resource: resource.Name, Statement: &in.Statement, Digests: &digests},
	)
	return host, resource, err
}

// checkKey refuses a host's key that means something else already: a CA's, or
// one that a person signs with.
func (h *Hosts) checkKey(book *evidence.Rulebook, text string) error {
	key, err := statement.ParseKey(text)
	if err != nil {
		return err
	}
	wire := key.Marshal()
	isKey := func(k ssh.PublicKey) bool { return bytes.Equal(wire, k.Marshal()) }
	if slices.ContainsFunc(h.users(), isKey) || h.CA != nil && isKey(h.CA.PublicKey()) {
		return access.Errorf(access.CodeForbidden, "that is a CA's key, not a host's")
	}
	if owner, ok := book.Directory.Owner(key); ok {
		return access.Errorf(access.CodeForbidden, "that is a key of %s, not a host's", owner.Name)
	}
	return nil
}

// hostNames are the names that a certificate will have: those asked for, which
// the catalog must give the resource, or all that it gives.
func hostNames(resource access.Resource, asked []string) ([]string, error) {
	have := evidence.HostNames(resource)
	if len(asked) == 0 {
		return have, nil
	}
	for _, name := range asked {
		if !slices.Contains(have, name) {
			return nil, access.Errorf(access.CodeForbidden, "%s is not called %.80q in the catalog, but %s", resource.Name, name, strings.Join(have, ", "))
		}
	}
	return asked, nil
}

// good is the host's certificate, if it can go on with it for a while.
func (h *Hosts) good(host audit.Host, names []string) *ssh.Certificate {
	key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(host.Certificate))
	if err != nil {
		return nil
	}
	cert, ok := key.(*ssh.Certificate)
	if !ok || statement.MarshalKey(cert.Key) != host.HostKey || !slices.Equal(cert.ValidPrincipals, names) ||
		!bytes.Equal(cert.SignatureKey.Marshal(), h.CA.PublicKey().Marshal()) ||
		time.Unix(int64(cert.ValidBefore), 0).Sub(h.now()) <= hostRenew {
		return nil
	}
	return cert
}

// sign makes a certificate. Of two that are made at the same time both are
// good, and both are on record.
func (h *Hosts) sign(ctx context.Context, host audit.Host, resource access.Resource, names []string) (*ssh.Certificate, error) {
	key, err := statement.ParseKey(host.HostKey)
	if err != nil {
		return nil, err
	}
	begin := h.now().UTC().Truncate(time.Second)
	spec := ca.HostSpec{
		Resource: resource.Name, Names: names, PublicKey: key, Serial: 1,
		NotBefore: begin, NotAfter: begin.Add(hostLife),
	}
	if _, err := h.CA.PrepareHost(spec); err != nil {
		return nil, err // before a serial is spent
	}
	if spec.Serial, err = h.NextSerial(ctx, h.CA.Fingerprint(), 0); err != nil {
		return nil, fmt.Errorf("choose certificate serial: %w", err)
	}
	prepared, err := h.CA.PrepareHost(spec)
	if err != nil {
		return nil, err
	}
	cert, err := h.CA.Issue(prepared)
	if err != nil {
		return nil, err
	}
	host.Certificate = ca.Marshal(cert)
	if err := h.Ledger.Certified(ctx, host, spec.Serial); err != nil {
		return nil, fmt.Errorf("record the host certificate: %w", err)
	}
	return cert, nil
}

func (h *Hosts) now() time.Time {
	if h.Now == nil {
		return time.Now()
	}
	return h.Now()
}
