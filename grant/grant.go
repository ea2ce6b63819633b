// Package grant is the issuer: the only part of hallpass that holds a CA key,
// and the last to say no.
//
// Use Issuer to issue and to revoke; it judges the evidence itself, keeps the
// ledger, and drives a Kind, one per kind of resource, which knows how to make
// a credential and how to take it back. SSH is the kind for SSH certificates.
// Vault is the kind for secrets with a lease. A new kind is one file here, and a
// call of granttest.Run in its test; CONTRIBUTING.md lists what else has to know it.
//
// What an Issuer promises, whoever calls it and however often:
//
//   - No credential without evidence: signatures, policy, directory and catalog
//     are checked anew at every call, by the files of that moment.
//   - No credential without a record: the event with the evidence is durable
//     before the credential is returned.
//   - One credential per request: its identity and its validity are in the
//     ledger before it is made, and a repeat, here or in another process,
//     gives the same ones.
//   - None under a lock: the locks are read anew at every call, and a credential
//     isn't recorded, and so not returned, if one was set while it was made.
//   - None after the end: once Revoke has returned, and as soon as the ledger
//     knows of the end, nothing is issued on that request.
package grant

import (
	"context"
	"time"

	"hallpass/access"
	"hallpass/audit"
	"hallpass/evidence"
)

// Order is what a Kind is asked to fulfil. It has been judged and is allowed.
type Order struct {
	Request  access.Request
	Resource access.Resource
	Standing access.Standing

	// The grant: from NotBefore, which isn't in the future, up to, not
	// including, NotAfter. Whole seconds, UTC.
	NotBefore, NotAfter time.Time
}

// Kind makes and takes back the credentials of one kind of resource. Its
// methods may be called at the same time and in any order, by several
// processes, again and again; a crash may fall between and into them. Refusals
// are *access.Error; any other error, and access.CodeUnavailable, means that
// it wasn't done, or nobody knows, and will be tried again.
type Kind interface {
	// Prepare chooses the identity that a credential will have, and grants
	// nothing. What can be refused is refused here. The handle names the
	// order's request, kind, NotBefore and NotAfter, and holds nothing
	// secret; a serial's count is left to the ledger. A handle that never gets
	// into the ledger opens nothing and ends by itself, at NotAfter at the
	// latest; a second call chooses another identity, or has the ledger choose
	// one.
	Prepare(ctx context.Context, o Order) (access.Handle, error)

	// Issue makes the credential of a handle that is in the ledger. It is
	// repeated after a crash, and then makes the same credential: one that
	// Revoke of this handle ends as well. The credential's own end is
	// NotAfter, at the latest. What is secret in it is encrypted.
	Issue(ctx context.Context, o Order, h access.Handle) (access.Credential, error)

	// Revoke ends the credential of a handle, whether there ever was one or
	// not. Already gone is success.
	Revoke(ctx context.Context, h access.Handle) error
}

// Discarder is a Kind whose Prepare leaves something behind elsewhere.
type Discarder interface {
	// Discard takes back what Prepare left, of a handle that isn't in the
	// ledger and won't be.
	Discard(ctx context.Context, h access.Handle) error
}

// Ledger is the part of audit.Log that an Issuer needs. All of it is durable
// when it returns.
type Ledger interface {
	// Entry looks a request up, and says whether it is there.
	Entry(ctx context.Context, request string) (audit.Entry, bool, error)
	// Reserve writes down a handle, with the next serial of its series. The
	// first one wins; the entry has the winner's.
	Reserve(ctx context.Context, requestHash string, h access.Handle, e audit.Event) (audit.Entry, error)
	// Issued writes down the credential with its evidence. It fails with
	// CodeEnded if the request has ended, with CodeDuplicate if another
	// credential of the handle was first, and with CodeUnavailable if anything
	// was locked or unlocked since the locks that e.Locks counts, or a delegation
	// revoked that the evidence rests on.
	Issued(ctx context.Context, cred access.Credential, e audit.Event) error
	// End bars a request for ever and returns its entry.
	End(ctx context.Context, end audit.End) (audit.Entry, error)
	// Received is when a request was first heard of, by the log's own word.
	Received(ctx context.Context, request string) (time.Time, bool, error)
	// Extended is what is on record of a grant, false if the request has none.
	Extended(ctx context.Context, request string) (access.Extended, bool, error)
	// Row lists what has ended of the other grants in a row of extensions.
	Row(ctx context.Context, request string) ([]access.Handle, error)
	// Denials are the denials on record that didn't end the request by
	// themselves, as they were signed.
	Denials(ctx context.Context, request string) ([]access.Statement, error)
	// Locks says what is locked, as of now.
	Locks(ctx context.Context) (audit.Locks, error)
	// Delegations says what is delegated, as of now.
	Delegations(ctx context.Context) (evidence.Delegations, error)
	// Append records an event, once per request and step.
	Append(ctx context.Context, e audit.Event) (int64, error)
	// LiveHandles says which credentials are those of open grants of a kind.
	LiveHandles(ctx context.Context, kind string) (audit.Living, error)
	// EndedHandles lists those of a kind that ended early, and whose time is
	// over only after a point in time.
	EndedHandles(ctx context.Context, kind string, after time.Time) ([]access.Handle, error)
	// Stray records a credential that no open grant has, and says whether
	// that is so.
	Stray(ctx context.Context, h access.Handle, why string) (bool, error)
}
