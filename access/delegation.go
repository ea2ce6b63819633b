package access

import (
	"strings"
	"time"
)

// Bounds on delegations. They stand in code: no file can loosen them.
const (
	MaxDelegation  = 14 * 24 * time.Hour // how long one lasts
	MaxDelegations = 20                  // of one giver, in force at once
	MaxGroups      = 16                  // that one names
	DelegationAge  = time.Hour           // how old it can be when it comes

	MaxDelegationPayload = 4 << 10 // bytes of the statement: all that are in force have to fit an answer
)

// What a delegation statement does.
const (
	ActionDelegate Action = "delegate" // somebody else decides in the signer's place
	ActionRevoke   Action = "revoke"   // ends one delegation
)

// Delegation is the payload of a delegation statement: until a time, somebody
// else may decide on requests in its signer's place; or one such is revoked.
type Delegation struct {
	Header
	Action     Action     `json:"action"`
	To         string     `json:"to"`                   // who decides; with revoke, who did
	Until      *time.Time `json:"until,omitempty"`      // with delegate: when it ends by itself
	Groups     []string   `json:"groups,omitempty"`     // with delegate: no more than the say of these; absent: of all the signer's groups
	Delegation string     `json:"delegation,omitempty"` // with revoke: the id of the delegation
	Reason     string     `json:"reason,omitempty"`     // free text, one line
}

// InForce says whether the delegation has begun and hasn't ended by itself at
// a time.
func (d Delegation) InForce(at time.Time) bool {
	return d.Action == ActionDelegate && d.Until != nil && !at.Before(d.Time) && at.Before(*d.Until)
}

// Why is the line about the delegation that people read, without its reason.
func (d Delegation) Why() string {
	why := d.To + " decides in the place of " + d.Signer
	if d.Groups != nil {
		why += " for " + strings.Join(d.Groups, ", ")
	}
	if d.Until != nil {
		why += " until " + d.Until.UTC().Format(time.RFC3339)
	}
	return why
}

// Delegating is the input of the workflow Delegate.
type Delegating struct {
	Statement Statement `json:"statement"`
}

// Delegated is the result of the workflow Delegate.
type Delegated struct {
	Delegation Delegation `json:"delegation"`
	Refused    *Error     `json:"refused,omitempty"` // the statement changed nothing, and why
}
