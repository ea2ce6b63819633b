package activities

import (
	"context"

	"hallpass/access"
	"hallpass/grant"
)

// Certifying are the activities of an issuer that are about hosts.
type Certifying struct {
	Hosts *grant.Hosts
}

// CertifyHost has the issuer check the join token, or the renewal, for itself,
// and gives what the host has to know, signed. Repeated, it gives the same certificate.
func (c *Certifying) CertifyHost(ctx context.Context, in access.Enrolment) (access.Statement, error) {
	out, err := c.Hosts.Certify(ctx, in)
	if err != nil {
		return access.Statement{}, Fail(err)
	}
	return out, nil
}
