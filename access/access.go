// Package access is hallpass's vocabulary: what is asked for, what is decided,
// what is granted, and the names of the messages that carry it. Every other
// package speaks in these types; this one imports the standard library alone
// and does nothing but hold, compare and check words.
//
// Times are UTC with whole seconds wherever they are signed. Durations are
// whole seconds.
package access

import (
	"crypto/sha256"
	"encoding/hex"
	"maps"
	"slices"
	"time"
)

// Type is the type of a statement: what its signature is good for.
type Type string

// The types of statement.
const (
	TypeRequest  Type = "request"  // asks for access
	TypeDecision Type = "decision" // approves or denies one request
	TypeRelease  Type = "release"  // the requester gives a running grant back
	TypeRevoke   Type = "revoke"   // somebody else takes a running grant away
	TypeCancel   Type = "cancel"   // the requester withdraws a request not yet granted
	TypeReview   Type = "review"   // signs off an access that somebody took by break-glass
	TypeLock     Type = "lock"     // locks a user, resource or host, or lifts a lock

	// TypeDelegation lets somebody decide in another's place, or ends that.
	TypeDelegation Type = "delegation"
)

// Namespace is the SSHSIG namespace that statements of this type are signed
// under (PROTOCOL.sshsig, section 3).
func (t Type) Namespace() string { return string(t) + "@hallpass" }

// Statement is a signed message. Payload is kept and compared byte for byte
// and never encoded again; Signature is an armored SSHSIG over exactly those
// bytes. A Statement by itself proves nothing: package statement verifies it.
type Statement struct {
	Payload   string `json:"payload"`
	Signature string `json:"signature"`
}

// Hash is the SHA-256 of the payload in lower-case hex. An approval names its
// request by this hash, so that what was approved is what is granted.
func (s Statement) Hash() string {
	sum := sha256.Sum256([]byte(s.Payload))
	return hex.EncodeToString(sum[:])
}

// Seconds is a duration in whole seconds, as statements carry it.
type Seconds int64

// Duration converts to the standard library's type.
func (s Seconds) Duration() time.Duration { return time.Duration(s) * time.Second }

// InSeconds converts from the standard library's type, dropping fractions.
func InSeconds(d time.Duration) Seconds { return Seconds(d / time.Second) }

func (s Seconds) String() string { return ShortDuration(s.Duration()) }

// Header is what every statement's payload names.
type Header struct {
	Type   Type      `json:"type"`
	ID     string    `json:"id"`     // UUIDv7; for a request also the request's id
	Signer string    `json:"signer"` // the user as the directory names him
	Time   time.Time `json:"time"`   // when it was signed; RFC 3339, UTC, whole seconds
}

// Request is the payload of a request statement. Its signer is the requester.
type Request struct {
	Header
	Resource  string     `json:"resource"`             // "kind/name", as the catalog names it
	Login     string     `json:"login,omitempty"`      // the account on the resource; kind ssh
	Actions   []string   `json:"actions,omitempty"`    // as the catalog names them
	Command   string     `json:"command,omitempty"`    // the only command the credential may run; kind ssh
	Duration  Seconds    `json:"duration"`             // how long the grant shall last
	Start     *time.Time `json:"start,omitempty"`      // not before; absent: as soon as it is approved
	Reason    string     `json:"reason,omitempty"`     // free text, one line
	Ticket    string     `json:"ticket,omitempty"`     // reference into the tracker
	PublicKey string     `json:"public_key,omitempty"` // key to certify: "type base64", no options, no comment
	Extends   string     `json:"extends,omitempty"`    // the request whose grant it extends; Duration is how much longer
	Mode      string     `json:"mode,omitempty"`       // ModeEmergency, or "" for what is usual
	Recipient string     `json:"recipient,omitempty"`  // age X25519 recipient to encrypt the secret to
}

// Verdict is what a decision says.
type Verdict string

// The verdicts.
const (
	Approve Verdict = "approve"
	Deny    Verdict = "deny"
)

// Decision is the payload of a decision statement.
type Decision struct {
	Header
	Request     string  `json:"request"`            // the request's id
	RequestHash string  `json:"request_hash"`       // SHA-256 of the request's payload, lower-case hex
	Verdict     Verdict `json:"verdict"`            // approve or deny
	For         string  `json:"for,omitempty"`      // in whose place, who has delegated that; absent: in the signer's own
	Duration    Seconds `json:"duration,omitempty"` // approves at most this long; 0: as asked
	Comment     string  `json:"comment,omitempty"`
}

// Stop is the payload of a release, revoke or cancel statement.
type Stop struct {
	Header
	Request     string `json:"request"`
	RequestHash string `json:"request_hash"`
	Reason      string `json:"reason,omitempty"`
}

// Submission is the input of the AccessRequest workflow.
type Submission struct {
	Request Statement `json:"request"`
}

// Evidence is a request with the decisions made on it: all that the issuer
// needs, beside its own policy, directory and catalog, to judge for itself.
type Evidence struct {
	Request   Statement   `json:"request"`
	Decisions []Statement `json:"decisions,omitempty"`

	// Delegations are those that decisions in another's place rest on, as they
	// are recorded with a credential. They are for those who judge it later: the
	// issuer takes them from the record alone, and ignores what others send.
	Delegations []Statement `json:"delegations,omitempty"`
}

// User is a person or pipeline that the directory knows.
type User struct {
	Name   string   `json:"name"`
	Groups []string `json:"groups,omitempty"`
}

// Resource is one entry of the catalog.
type Resource struct {
	Name        string            `json:"name"` // "kind/name"
	Kind        string            `json:"kind"`
	Description string            `json:"description,omitempty"`
	Labels      map[string]string `json:"labels,omitempty"`
	Logins      []string          `json:"logins,omitempty"`  // kind ssh: accounts that may be asked for
	Hosts       []string          `json:"hosts,omitempty"`   // kind ssh: host names as people type them
	Address     string            `json:"address,omitempty"` // kind ssh: where ssh connects, "host" or "host:port"
	Actions     []string          `json:"actions,omitempty"` // what may be asked for, sorted where Roles says what it means

	// Kind vault: where the actions' roles are, and what each action is.
	Path  string               `json:"path,omitempty"` // such as "database/creds"
	Roles map[string]VaultRole `json:"roles,omitempty"`
}

// VaultRole is what one action of a resource of kind vault opens: the one path
// in Vault that is Resource.Path, a slash, and Role.
type VaultRole struct {
	Role string `json:"role"`

	// With makes it a write with exactly these parameters, or with none if it
	// is empty. Nil: a read.
	With map[string]string `json:"with,omitzero"`
}

// VaultPath is the path in Vault that an action of a resource of kind vault
// opens.
func (r Resource) VaultPath(action string) string { return r.Path + "/" + r.Roles[action].Role }

// VaultPaths are the paths in Vault that resources open, sorted.
func VaultPaths(resources []Resource) []string {
	paths := map[string]bool{}
	for _, r := range resources {
		for action := range r.Roles {
			paths[r.VaultPath(action)] = true
		}
	}
	return slices.Sorted(maps.Keys(paths))
}

// ShortName is the resource's name without its kind.
func (r Resource) ShortName() string {
	_, name := SplitResource(r.Name)
	return name
}

// Digests name the versions of the files that a ruling was made by: "sha256:"
// and the SHA-256 of the file's bytes in lower-case hex.
type Digests struct {
	Policy    string `json:"policy"`
	Directory string `json:"directory"`
	Catalog   string `json:"catalog"`
}

// Effect is what policy says of a request before anybody has decided on it.
type Effect string

// The effects.
const (
	EffectDeny  Effect = "deny"  // nobody can approve it
	EffectAsk   Effect = "ask"   // approvals are needed
	EffectAllow Effect = "allow" // nothing more is needed
)

// Set asks for Count approvals from distinct people, each of them in at least
// one of Groups.
type Set struct {
	Count  int      `json:"count"`
	Groups []string `json:"groups"`
}

// Need is what one rule asks for: every one of its sets, by distinct people.
// The needs of different rules stand side by side, so one approval may count
// for several rules, and so may one denial.
type Need struct {
	Rule     string `json:"rule"`
	Sets     []Set  `json:"sets"`
	Denies   int    `json:"denies,omitempty"`    // so many denials of those who may approve end the request; 0: one
	Escalate []Step `json:"escalate,omitempty"`  // what happens while nobody answers, in order
	InPerson bool   `json:"in_person,omitempty"` // a decision in another's place counts for nothing here
}

// Step is one step of a rule's escalation.
type Step struct {
	After  Seconds  `json:"after"`            // the request has waited so long
	Ask    []string `json:"ask,omitempty"`    // groups that may decide from then on, for any of the rule's sets
	Notify []string `json:"notify,omitempty"` // groups that are only told
}

// Asking says who was asked when, beside those who could decide before.
type Asking struct {
	Step
	Time time.Time `json:"time"`
}

// SSHOptions is what policy puts into an SSH certificate.
type SSHOptions struct {
	Extensions    []string `json:"extensions,omitempty"`     // such as "permit-pty"
	ForceCommand  string   `json:"force_command,omitempty"`  // runs instead of what the client asks for
	SourceAddress []string `json:"source_address,omitempty"` // CIDRs the certificate may be used from
	Grace         Seconds  `json:"grace,omitempty"`          // how long past its end an open session may go on
	Warn          Seconds  `json:"warn,omitempty"`           // how long before its end a session is told; 0: as its host has it
}

// Extensions of an SSH certificate that sshd ignores and the host's agent
// heeds. Their data is a duration such as "5m".
const (
	ExtensionGrace = "grace@hallpass" // SSHOptions.Grace
	ExtensionWarn  = "warn@hallpass"  // SSHOptions.Warn

	// ExtensionExtends has the id of the request whose grant this one extends.
	ExtensionExtends = "extends@hallpass"
)

// Ruling is what policy says of one request: the sum of all rules that match.
type Ruling struct {
	Effect      Effect     `json:"effect"`
	Why         string     `json:"why"`                // one line for people
	Rules       []string   `json:"rules,omitempty"`    // the rules that matched, sorted
	Needs       []Need     `json:"needs,omitempty"`    // with EffectAsk
	MaxDuration Seconds    `json:"max_duration"`       // the longest grant that the rules allow
	Total       Seconds    `json:"total,omitempty"`    // the longest with all its extensions; 0: MaxDuration
	Window      Seconds    `json:"window"`             // how long approvers have
	Revokers    []string   `json:"revokers,omitempty"` // groups whose members may revoke, beside those who may approve
	Limits      Limits     `json:"limits,omitzero"`
	Emergency   *Emergency `json:"emergency,omitempty"` // with ModeEmergency, where the rules allow it
	SSH         SSHOptions `json:"ssh"`
	Digests     Digests    `json:"digests"`
	At          time.Time  `json:"at"`                // the time that conditions saw as now
	Context     Facts      `json:"context,omitempty"` // what look-ups said, where conditions asked
}

// Handle is what is needed to revoke a credential, and nothing secret. It is
// in the ledger, under the request's id, before the credential exists.
type Handle struct {
	Request    string    `json:"request"` // the request's id
	Kind       string    `json:"kind"`
	Serial     uint64    `json:"serial,omitempty"` // kind ssh: certificate serial, from 1; before it is in the ledger, its series
	CA         string    `json:"ca,omitempty"`     // kind ssh: fingerprint of the CA key, "SHA256:…"
	Principals []string  `json:"principals,omitempty"`
	Accessor   string    `json:"accessor,omitempty"` // kind vault: of the request's token; revokes it, and opens nothing
	Sealed     string    `json:"sealed,omitempty"`   // kind vault: what only the requester can open; Credential.Sealed is the same
	Reads      []string  `json:"reads,omitempty"`    // kind vault: the paths that the token may read, where its leases are
	NotBefore  time.Time `json:"not_before"`
	NotAfter   time.Time `json:"not_after"` // the credential is dead from here on; the end of the grant
	// Until is when what the credential opened has to be gone, where that is
	// later than NotAfter: policy lets sessions finish.
	Until   *time.Time `json:"until,omitempty"`
	Extends string     `json:"extends,omitempty"` // the request whose grant this one extends
}

// Over is when nothing is left of the grant: no credential, and nothing that
// it opened.
func (h Handle) Over() time.Time {
	if h.Until != nil {
		return *h.Until
	}
	return h.NotAfter
}

// Grace is how long past the end of the grant what it opened may stay.
func (h Handle) Grace() Seconds { return InSeconds(h.Over().Sub(h.NotAfter)) }

// Credential is what the issuer hands out: public, or encrypted to the
// requester.
type Credential struct {
	Handle      Handle `json:"handle"`
	Certificate string `json:"certificate,omitempty"` // kind ssh: "type base64 key-id"
	Sealed      string `json:"sealed,omitempty"`      // armored age file for Request.Recipient; see package sealed
}

// State is where a request stands.
type State string

// The states. A request moves down this list and never up; the last six are
// its outcomes.
const (
	StatePending   State = "pending"   // waits for approvals
	StateScheduled State = "scheduled" // approved, waits for its start time
	StateIssuing   State = "issuing"   // waits for the issuer
	StateActive    State = "active"    // the credential is out and lives
	StateRevoking  State = "revoking"  // the grant has ended, the issuer is taking it back

	StateDenied    State = "denied"    // by policy, by an approver, or by the issuer
	StateTimedOut  State = "timed-out" // nobody decided in time
	StateCancelled State = "cancelled" // withdrawn before it was granted
	StateExpired   State = "expired"   // ran to its end
	StateReleased  State = "released"  // given back early
	StateRevoked   State = "revoked"   // taken back early
)

// States lists all states in the order in which a request can pass them.
func States() []State {
	return []State{
		StatePending, StateScheduled, StateIssuing, StateActive, StateRevoking,
		StateDenied, StateTimedOut, StateCancelled, StateExpired, StateReleased, StateRevoked,
	}
}

// Known says whether there is such a state.
func (s State) Known() bool { return slices.Contains(States(), s) }

// Final says whether nothing comes after this state.
func (s State) Final() bool {
	switch s {
	case StateDenied, StateTimedOut, StateCancelled, StateExpired, StateReleased, StateRevoked:
		return true
	}
	return false
}

// Voice is one counted decision, as shown to people.
type Voice struct {
	Signer   string    `json:"signer"`
	For      string    `json:"for,omitempty"` // in whose place
	Verdict  Verdict   `json:"verdict"`
	Duration Seconds   `json:"duration,omitempty"`
	Comment  string    `json:"comment,omitempty"`
	Time     time.Time `json:"time"`
}

// Who says whose word it is, for people.
func (v Voice) Who() string { return Who(v.Signer, v.For) }

// Who says whose word a decision is, for people: "bob", or "bob for alice
// (delegated)".
func Who(signer, giver string) string {
	if giver == "" {
		return signer
	}
	return signer + " for " + giver + " (delegated)"
}

// Standing is how a request stands in the light of its evidence.
type Standing struct {
	Effect   Effect    `json:"effect"`            // allow: enough; ask: more needed; deny: refused
	Why      string    `json:"why"`               // one line for people
	Missing  []Set     `json:"missing,omitempty"` // with ask: what is still needed
	Unsure   bool      `json:"unsure,omitempty"`  // with ask: all of that only because look-ups failed that might have waived it
	Voices   []Voice   `json:"voices,omitempty"`  // the decisions that count, in order
	Dropped  []string  `json:"dropped,omitempty"` // decisions that don't count any more, each with why
	Duration Seconds   `json:"duration"`          // with allow: what would be granted
	Ruling   Ruling    `json:"ruling"`
	Request  Request   `json:"request"`
	Resource Resource  `json:"resource"`
	Extends  *Extended `json:"extends,omitempty"` // with an extension: what it extends
}

// End is when the grant ends that would begin at a time.
func (s Standing) End(begin time.Time) time.Time {
	if s.Extends != nil {
		begin = s.Extends.End
	}
	return begin.Add(s.Duration.Duration())
}

// Status answers the status query: all there is to say about one request.
type Status struct {
	ID         string      `json:"id"`
	State      State       `json:"state"`
	Ending     State       `json:"ending,omitempty"` // while revoking: the state that comes next
	Why        string      `json:"why"`              // one line for people: why it stands as it does
	By         string      `json:"by,omitempty"`
	Standing   Standing    `json:"standing"`
	Evidence   Evidence    `json:"evidence"`
	Ended      *Statement  `json:"ended,omitempty"`      // the release, revoke or cancel that ended it
	Credential *Credential `json:"credential,omitempty"` // while it lives
	Handle     *Handle     `json:"handle,omitempty"`     // once there is one
	Asked      time.Time   `json:"asked"`
	Deadline   *time.Time  `json:"deadline,omitempty"` // for the approvals
	Starts     *time.Time  `json:"starts,omitempty"`   // where a start was asked for
	Granted    *time.Time  `json:"granted,omitempty"`
	Ends       *time.Time  `json:"ends,omitempty"` // of the grant
	EndedAt    *time.Time  `json:"ended_at,omitempty"`
	Refused    int         `json:"refused,omitempty"` // messages that were refused
	Escalated  []Asking    `json:"escalated,omitempty"`
	Past       *Past       `json:"past,omitempty"` // where somebody has to decide
}

// TooLate refuses what is said to a request that has ended.
func TooLate(s Status) *Error {
	return Errorf(CodeEnded, "request %s is %s: nothing can be said to it any more", s.ID, s.State)
}

// Past is what is on record of a requester's earlier requests, for people to
// compare a new one with. It decides nothing. At most the last hundred of each
// are counted.
type Past struct {
	Grants  int         `json:"grants"`            // of the same resource
	Longest Seconds     `json:"longest,omitempty"` // of those
	Last    []PastGrant `json:"last,omitempty"`    // some of those, the latest first
	Asked   int         `json:"asked"`             // requests for whatever resource
	Hours   []int       `json:"hours,omitempty"`   // how many of those were made in each hour of the day, UTC
}

// PastGrant is one of them.
type PastGrant struct {
	Request    string    `json:"request"`
	Login      string    `json:"login,omitempty"`
	From       time.Time `json:"from"`
	Until      time.Time `json:"until"`           // when it ended, or will end
	Ended      State     `json:"ended,omitempty"` // "" while it runs
	ApprovedBy []string  `json:"approved_by,omitempty"`
}

// Stopping is the input of the workflow Stop.
type Stopping struct {
	Request   string    `json:"request"` // the request's id
	Message   string    `json:"message"` // MessageRelease, MessageRevoke or MessageCancel
	Statement Statement `json:"statement"`
}

// Stopped is the result of the workflow Stop.
type Stopped struct {
	State   State  `json:"state,omitempty"` // how the grant has ended
	Refused *Error `json:"refused,omitempty"`
}

// Outcome is the result of the workflow.
type Outcome struct {
	State   State   `json:"state"`
	Why     string  `json:"why"`
	By      string  `json:"by,omitempty"` // whose word ended it, where it was somebody's
	Handle  *Handle `json:"handle,omitempty"`
	Refused int     `json:"refused,omitempty"`
}
