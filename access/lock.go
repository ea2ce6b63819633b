package access

import (
	"net/netip"
	"strings"
	"time"

	"hallpass/internal/wording"
)

// Action is what a lock statement does.
type Action string

// The actions.
const (
	ActionLock   Action = "lock"   // from now on, nobody gets or keeps what is locked
	ActionUnlock Action = "unlock" // lifts one lock
)

// What can be locked.
const (
	LockUser     = "user"     // a user: his requests, his grants, his say in others'
	LockResource = "resource" // a resource, "kind/name"
	LockHost     = "host"     // a host, as the catalog or people name it: every resource that reaches it
)

// Lock is the payload of a lock statement: it locks, or it lifts one lock.
type Lock struct {
	Header
	Action Action     `json:"action"`
	Kind   string     `json:"kind"`             // user, resource or host
	Name   string     `json:"name"`             // of that
	Until  *time.Time `json:"until,omitempty"`  // with lock: when it ends by itself; absent: never
	Lock   string     `json:"lock,omitempty"`   // with unlock: the id of the lock to lift
	Reason string     `json:"reason,omitempty"` // free text, one line; a lock must have one
}

// InForce says whether the lock hasn't ended by itself at now.
func (l Lock) InForce(now time.Time) bool { return l.Until == nil || now.Before(*l.Until) }

// Why is the line about the lock that people read.
func (l Lock) Why() string {
	var b strings.Builder
	b.WriteString(l.Kind + " " + l.Name + " is locked by " + l.Signer)
	if l.Until != nil {
		b.WriteString(" until " + l.Until.UTC().Format(time.RFC3339))
	}
	if l.Reason != "" {
		b.WriteString(": " + l.Reason)
	}
	return b.String()
}

// Locking is the input of the workflow Lock.
type Locking struct {
	Statement Statement `json:"statement"`
	Told      []string  `json:"told,omitempty"` // requests that the runs before this one have told
	Owed      []Live    `json:"owed,omitempty"` // those of them that somebody has to take back or end
}

// Live is a request that hasn't ended, as far as the log knows.
type Live struct {
	Request  string `json:"request"`
	Resource string `json:"resource"`
	Handed   bool   `json:"handed,omitempty"`  // it has a handle: the issuer has to end it
	Granted  bool   `json:"granted,omitempty"` // it has a credential: the issuer has to take it back
}

// Locked is the result of the workflow Lock.
type Locked struct {
	Lock    Lock     `json:"lock"`
	Refused *Error   `json:"refused,omitempty"` // the statement changed nothing, and why
	Told    []string `json:"told,omitempty"`    // the live requests that were told to end, by id
}

// CheckLocked checks what a lock names: its kind and its name.
func CheckLocked(kind, name string) error {
	switch kind {
	case LockUser:
		return CheckName("user", name)
	case LockResource:
		return CheckResource(name)
	case LockHost:
		return CheckHost(name)
	}
	return Errorf(CodeMalformed, "kind %q is not user, resource or host", wording.Short(kind))
}

// MaxHost is the length of a host name, in bytes (RFC 1035, section 2.3.4).
const MaxHost = 253

// CheckHost accepts host names and IP addresses in the one form that we
// compare: lower case, no trailing dot, no zone. None begins with "-", so none
// can pass for an option of ssh.
func CheckHost(s string) error {
	if a, err := netip.ParseAddr(s); err == nil {
		if a.Zone() != "" || a.String() != s {
			return Errorf(CodeMalformed, "host %q is not written as %s", wording.Short(s), a.WithZone(""))
		}
		return nil
	}
	if len(s) > MaxHost {
		return Errorf(CodeMalformed, "host is longer than %d bytes", MaxHost)
	}
	for _, label := range strings.Split(s, ".") {
		if label == "" || len(label) > MaxName || label[0] == '-' || strings.Trim(label, "abcdefghijklmnopqrstuvwxyz0123456789-_") != "" {
			return Errorf(CodeMalformed, "host %q is not a host name in lower case or an IP address", wording.Short(s))
		}
	}
	return nil
}
