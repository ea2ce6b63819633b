package access

import (
	"regexp"
	"time"
)

// The types of statement around hosts. The first is signed by a person of the
// directory, the others by the key of a host's agent.
const (
	TypeHost    Type = "host"    // invites one host to enrol; a join token is one
	TypeRenew   Type = "renew"   // a host asks for its certificate anew
	TypeSession Type = "session" // a host tells what happened to a session
)

// MaxJoin is how long a join token can be good for.
const MaxJoin = 7 * 24 * time.Hour

// Join is the payload of a host statement.
type Join struct {
	Header
	Resource string    `json:"resource"`      // of kind ssh, whose host it is
	Until    time.Time `json:"until"`         // good up to, not including
	CAs      []string  `json:"cas,omitempty"` // the SSH CAs of which one has to sign what the host is told, "SHA256:base64"; none: the host takes what it is told
}

// MaxJoinCAs is how many CAs a join token can name.
const MaxJoinCAs = 8

var fingerprintForm = regexp.MustCompile(`^SHA256:[A-Za-z0-9+/]{43}$`)

// CheckFingerprint checks the form of a key's fingerprint, as ssh-keygen -l writes it.
func CheckFingerprint(s string) error {
	if !fingerprintForm.MatchString(s) {
		return Errorf(CodeMalformed, "%.80q is not a fingerprint of the form SHA256:base64", s)
	}
	return nil
}

// Renewal is the payload of a renew statement. Its signer is the host.
type Renewal struct {
	Header
	HostKey string `json:"host_key"` // to certify, "type base64"
}

// What a session report tells.
const (
	SessionOpened = "opened"
	SessionClosed = "closed" // by its user, or because the connection broke
	SessionEnded  = "ended"  // by hallpass
)

// Session is the payload of a session statement. Its signer is the host.
type Session struct {
	Header
	Event   string `json:"event"`            // opened, closed or ended
	Request string `json:"request"`          // the request whose certificate it is
	Serial  uint64 `json:"serial"`           // of the certificate
	KeyID   string `json:"key_id"`           // of the certificate
	Login   string `json:"login"`            // the account
	Source  string `json:"source,omitempty"` // where it came from, "address:port"
	Session string `json:"session"`          // the host's own name for it, 1 to 100 printable bytes
	Why     string `json:"why,omitempty"`
}

// Enrolment is what a host sends to be taken in, with its join token, and, as
// part of a Renewal's message, later.
type Enrolment struct {
	Statement Statement `json:"statement"`           // of type host, or renew
	HostKey   string    `json:"host_key,omitempty"`  // to certify, with type host
	AgentKey  string    `json:"agent_key,omitempty"` // that signs what the host says, with type host
	Names     []string  `json:"names,omitempty"`     // that its certificate shall be good for; none: all that the catalog gives it
}

// Enrolled is what a host has to know. An SSH CA that the host trusts signs it
// (statement.SignEnrolled): whoever carries it there, and Temporal, can't change it.
type Enrolled struct {
	Answers     string              `json:"answers"`               // the hash of the statement that it answers, so that no other host's and no old answer passes for it
	AgentKey    string              `json:"agent_key"`             // that signs what the host says from now on
	Host        string              `json:"host"`                  // its name: the resource without the kind
	Certificate string              `json:"certificate,omitempty"` // for its host key, "type base64 key-id"; "" where there is no host CA
	UserCAs     []string            `json:"user_cas"`              // for TrustedUserCAKeys
	HostCAs     []string            `json:"host_cas"`              // for @cert-authority in known_hosts
	Principals  map[string][]string `json:"principals"`            // for AuthorizedPrincipals, by login
	RenewAfter  time.Time           `json:"renew_after"`
}

// Names that Temporal sees.
const (
	HostWorkflow       = "HostCertificate" // workflow type
	hostWorkflowPrefix = "host-"
)

// HostWorkflowID is the workflow id of an enrolment or renewal, by the id of
// its statement.
func HostWorkflowID(statement string) string { return hostWorkflowPrefix + statement }

var sessionForm = regexp.MustCompile(`^[!-~]{1,100}$`)

// CheckSession checks a host's name for a session.
func CheckSession(s string) error {
	if !sessionForm.MatchString(s) {
		return Errorf(CodeMalformed, "session is not 1 to 100 printable characters without spaces")
	}
	return nil
}
