package ca

import (
	"strings"

	"hallpass/access"
)

// kind is the kind of the resources that SSH certificates open.
const kind = "ssh"

// keyIDPrefix tells hallpass's certificates from others in a host's log.
const keyIDPrefix = "hallpass"

// KeyID is the key id of the certificate for a request, which sshd writes to
// its log at every login: "hallpass:" request ":" requester. Neither part can
// hold a colon, so the id reads in one way only.
func KeyID(request, requester string) (string, error) {
	if !isUUIDv7(request) {
		return "", access.Errorf(access.CodeMalformed, "request id %.80q is not a lower-case UUIDv7", request)
	}
	if err := access.CheckName("requester", requester); err != nil {
		return "", err
	}
	return keyIDPrefix + ":" + request + ":" + requester, nil
}

// ParseKeyID reads what KeyID writes and refuses everything else.
func ParseKeyID(s string) (request, requester string, err error) {
	parts := strings.SplitN(s, ":", 3)
	if len(parts) != 3 || parts[0] != keyIDPrefix {
		return "", "", access.Errorf(access.CodeMalformed, "key id %.80q is not of the form hallpass:request:requester", s)
	}
	if _, err := KeyID(parts[1], parts[2]); err != nil {
		return "", "", access.Errorf(access.CodeMalformed, "key id %.80q: %v", s, err)
	}
	return parts[1], parts[2], nil
}

// Principal is the one principal that opens a login on a resource of kind ssh:
// "web-1/deploy" for ssh/web-1 and deploy. Hosts list the principals they
// honour; no host but web-1 lists this one.
func Principal(resource, login string) (string, error) {
	if err := access.CheckResource(resource); err != nil {
		return "", err
	}
	k, name := access.SplitResource(resource)
	if k != kind {
		return "", access.Errorf(access.CodeMalformed, "resource %s is not of kind %s", resource, kind)
	}
	if err := access.CheckLogin(login); err != nil {
		return "", err
	}
	return name + "/" + login, nil
}

// isUUIDv7 says whether s is a UUID of version 7 in its canonical lower-case
// form (RFC 9562, sections 4 and 5.7).
func isUUIDv7(s string) bool {
	if len(s) != 36 || s[14] != '7' || strings.IndexByte("89ab", s[19]) < 0 {
		return false
	}
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case i == 8 || i == 13 || i == 18 || i == 23:
			if c != '-' {
				return false
			}
		case (c < '0' || c > '9') && (c < 'a' || c > 'f'):
			return false
		}
	}
	return true
}
