package access

import "time"

// ModeEmergency is the mode of a request that breaks the glass: access at once,
// without approvals, where policy allows that, and a review afterwards.
const ModeEmergency = "emergency"

// Emergency is what policy asks for when somebody breaks the glass.
type Emergency struct {
	Tell   []string `json:"tell"`   // groups that are told at once
	Review []Need   `json:"review"` // who has to sign it off; one set for each rule
	Within Seconds  `json:"within"` // how long they have; then the requester breaks no more glass until it is done
}

// Review is the payload of a review statement: its signer has looked at what
// was done with an access, and signs it off.
type Review struct {
	Header
	Request     string `json:"request"`
	RequestHash string `json:"request_hash"`
	Comment     string `json:"comment,omitempty"`
}

// ReviewTask is how the review of one break-glass access stands.
type ReviewTask struct {
	Request   string    `json:"request"`
	Statement Statement `json:"statement,omitzero"` // the request, as it was signed
	Requester string    `json:"requester,omitempty"`
	Resource  string    `json:"resource,omitempty"`
	Granted   time.Time `json:"granted,omitzero"`
	Due       time.Time `json:"due,omitzero"`
	Emergency Emergency `json:"emergency,omitzero"`
	Signed    []Voice   `json:"signed,omitempty"`  // in order
	Missing   []Set     `json:"missing,omitempty"` // who has yet to sign it off
	Done      bool      `json:"done,omitempty"`
	Reminded  int       `json:"reminded,omitempty"` // how often people were told of it
}

// MostReviews bounds how many open reviews are listed, the oldest first.
const MostReviews = 200

// Overdue says whether the review should have been done at now.
func (t ReviewTask) Overdue(now time.Time) bool { return !t.Done && !now.Before(t.Due) }
