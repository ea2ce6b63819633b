package grant

import (
	"context"
	"slices"

	"hallpass/access"
	"hallpass/ca"
	"hallpass/ca/krl"
	"hallpass/statement"
)

// SSH is the kind "ssh": its credential is an OpenSSH user certificate for the
// key that the request names, with the one principal that opens the login on
// the resource.
type SSH struct {
	CA *ca.CA

	// KRL tells hosts what Revoke takes back.
	KRL *KRL
}

// Prepare chooses the series; the ledger gives the serial of it with the handle. All
// that the CA could refuse it refuses now, before a serial is spent.
func (k *SSH) Prepare(_ context.Context, o Order) (access.Handle, error) {
	spec, err := k.spec(o, 1)
	if err != nil {
		return access.Handle{}, err
	}
	if _, err := k.CA.Prepare(spec); err != nil {
		return access.Handle{}, err
	}
	h := access.Handle{
		Request:    o.Request.ID,
		Kind:       o.Resource.Kind,
		Serial:     krl.Serial(krl.Series(o.Resource.ShortName()), 0),
		CA:         k.CA.Fingerprint(),
		Principals: spec.Principals,
		NotBefore:  o.NotBefore,
		NotAfter:   o.NotAfter,
	}
	if grace := spec.Options.Grace; grace > 0 {
		until := o.NotAfter.Add(grace.Duration())
		h.Until = &until
	}
	return h, nil
}

// Issue signs. Copies of the certificate differ in nonce and signature alone.
//
// A handle of another CA key is CodeUnavailable, not refused: while keys are
// being exchanged, an issuer that still has the old one may come by.
func (k *SSH) Issue(_ context.Context, o Order, h access.Handle) (access.Credential, error) {
	if h.CA != k.CA.Fingerprint() {
		return access.Credential{}, access.Errorf(access.CodeUnavailable, "the certificate was prepared for the CA key %s, this issuer has %s", h.CA, k.CA.Fingerprint())
	}
	spec, err := k.spec(o, h.Serial)
	if err != nil {
		return access.Credential{}, err
	}
	if h.Request != o.Request.ID || !slices.Equal(h.Principals, spec.Principals) ||
		!h.NotBefore.Equal(o.NotBefore) || !h.NotAfter.Equal(o.NotAfter) {
		return access.Credential{}, access.Errorf(access.CodeMismatch, "the certificate was prepared for another order")
	}
	// The rules may have changed since; nothing waits for longer than Until.
	spec.Options.Grace = min(spec.Options.Grace, h.Grace())
	prepared, err := k.CA.Prepare(spec)
	if err != nil {
		return access.Credential{}, err
	}
	cert, err := k.CA.Issue(prepared)
	if err != nil {
		return access.Credential{}, err
	}
	return access.Credential{Handle: h, Certificate: ca.Marshal(cert)}, nil
}

// Revoke returns when a key revocation list that names the certificate is in
// force, if the ledger says that its request has ended: that is where the list
// takes its serials from, whether the certificate is out or not. A certificate
// that ran to its end needs no list, once the sessions that it opened are over too,
// and one that was taken back needs none once no host's clock lets it in any more.
func (k *SSH) Revoke(ctx context.Context, h access.Handle) error {
	if !k.KRL.now().Before(h.Over()) {
		// By this clock, which may be ahead.
		if unlisted, err := k.KRL.Store.Unlisted(ctx, h); err != nil || unlisted {
			return err
		}
	}
	return k.KRL.Publish(ctx)
}

func (k *SSH) spec(o Order, serial uint64) (ca.Spec, error) {
	key, err := statement.ParseKey(o.Request.PublicKey)
	if err != nil {
		return ca.Spec{}, err
	}
	principal, err := ca.Principal(o.Resource.Name, o.Request.Login)
	if err != nil {
		return ca.Spec{}, err
	}
	return ca.Spec{
		Request:    o.Request.ID,
		Requester:  o.Request.Signer,
		Principals: []string{principal},
		PublicKey:  key,
		Serial:     serial,
		NotBefore:  o.NotBefore,
		NotAfter:   o.NotAfter,
		Options:    o.Standing.Ruling.SSH,
		Command:    o.Request.Command,
		Extends:    o.Request.Extends,
	}, nil
}
