package ca

import (
	"slices"
	"time"

	"golang.org/x/crypto/ssh"

	"hallpass/access"
)

// MaxHostLifetime bounds the validity of a host certificate. A host renews it
// long before; the time is what a host that was given away can still be taken
// for itself.
const MaxHostLifetime = 30 * 24 * time.Hour

// maxHostNames bounds the names in one host certificate.
const maxHostNames = 64

// HostSpec is what is asked of PrepareHost.
type HostSpec struct {
	Resource  string        // of kind ssh, whose host it is
	Names     []string      // host names and IP addresses as clients type them, lower case; at least one
	PublicKey ssh.PublicKey // the host's key
	Serial    uint64        // from 1
	NotBefore time.Time     // whole seconds
	NotAfter  time.Time     // whole seconds
}

// PrepareHost is Prepare for a host certificate: it shows clients that a host
// is the one they mean, and opens nothing. Its CA must be another than that of
// users, so that neither can be taken for the other.
func (c *CA) PrepareHost(s HostSpec) (*Prepared, error) {
	keyID, err := HostKeyID(s.Resource)
	if err != nil {
		return nil, err
	}
	if s.Serial == 0 {
		return nil, access.Errorf(access.CodeMalformed, "certificate serial is 0; serials begin at 1")
	}
	if len(s.Names) == 0 {
		return nil, access.Errorf(access.CodeMalformed, "host certificate has no names; it would be good for every host")
	}
	if len(s.Names) > maxHostNames {
		return nil, access.Errorf(access.CodeDenied, "host certificate has %d names; at most %d are possible", len(s.Names), maxHostNames)
	}
	for i, name := range s.Names {
		if err := access.CheckHost(name); err != nil {
			return nil, err
		}
		if slices.Contains(s.Names[:i], name) {
			return nil, access.Errorf(access.CodeMalformed, "host name %q stands there twice", name)
		}
	}
	subject, err := c.checkSubject(s.PublicKey)
	if err != nil {
		return nil, err
	}
	if err := checkValidity(s.NotBefore, s.NotAfter, c.now(), MaxHostLifetime); err != nil {
		return nil, err
	}
	return &Prepared{ca: c, cert: ssh.Certificate{
		Key:             subject,
		Serial:          s.Serial,
		CertType:        ssh.HostCert,
		KeyId:           keyID,
		ValidPrincipals: slices.Clone(s.Names),
		ValidAfter:      uint64(s.NotBefore.Add(-BackDate).Unix()),
		ValidBefore:     uint64(s.NotAfter.Unix()),
	}}, nil
}

// HostKeyID is the key id of a host's certificate: "hallpass-host:" and the
// name of its resource.
func HostKeyID(resource string) (string, error) {
	if err := access.CheckResource(resource); err != nil {
		return "", err
	}
	k, name := access.SplitResource(resource)
	if k != kind {
		return "", access.Errorf(access.CodeMalformed, "resource %s is not of kind %s", resource, kind)
	}
	return keyIDPrefix + "-host:" + name, nil
}
