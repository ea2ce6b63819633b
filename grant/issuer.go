package grant

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"hallpass/access"
	"hallpass/audit"
	"hallpass/evidence"
	"hallpass/statement"
)

// maxEvidence bounds what is kept of the evidence with a refusal, in bytes. It
// is more than a request with all its decisions needs.
const maxEvidence = 256 << 10

// cleanUp bounds how long a credential that came too late is being revoked
// after its caller has gone away.
const cleanUp = 30 * time.Second

// Issuer issues credentials on evidence, and revokes them. Any number of
// Issuers may share a ledger. It is safe for concurrent use.
type Issuer struct {
	Kinds    map[string]Kind           // by the kind of resource
	Rulebook func() *evidence.Rulebook // the one of this moment; nil while there is none
	Ledger   Ledger
	MinGrant time.Duration    // the shortest grant; zero is access.MinGrant
	Lookups  evidence.Lookups // nil: there are none, so what policy wants to know of them fails
	Grace    time.Duration    // how old a credential has to be for Sweep to miss its grant
	Now      func() time.Time // nil: time.Now
}

// Issue judges the evidence and returns the credential of its request: the one
// that was issued before, or a new one. When it returns a credential, the
// ledger and the audit log have it.
//
// A refusal (*access.Error) is recorded before it is returned:
// the codes of evidence.Rulebook.Judge; CodeDenied if the evidence isn't
// enough, or the kind's caps are exceeded; CodeMismatch if the ledger has
// another request under the same id; CodeEnded if the request has ended, or
// its time is over; CodeLimited if policy's limits leave no room. A lock is CodeDenied, also one that comes while the
// credential is made. CodeUnavailable, and every error that isn't an
// *access.Error, means try again; so does calling before the request's start, and
// while a look-up fails which alone decides whether approvals are needed.
//
// A crash leaves: before Reserve, nothing, or a token that nobody can open; after it, a
// handle that the next call goes on with; after Kind.Issue, a credential that
// nobody has, which the next call makes again under the same identity, and
// which Revoke ends.
func (i *Issuer) Issue(ctx context.Context, ev access.Evidence) (access.Credential, error) {
	for {
		locks, err := i.Ledger.Locks(ctx)
		if err != nil {
			// Not even a refusal: what can't be read may well be a lock.
			return access.Credential{}, access.Errorf(access.CodeUnavailable, "find out what is locked: %v", err)
		}
		cred, err := i.issueUnder(ctx, ev, locks)
		if access.CodeOf(err) != access.CodeUnavailable {
			return cred, err
		}
		// If something was locked meanwhile it may be this request, and mostly
		// it is another. It goes round once for each lock that somebody signs.
		if now, lerr := i.Ledger.Locks(ctx); lerr != nil || now.Words == locks.Words {
			return cred, err
		}
	}
}

// issueUnder is Issue under the locks of a moment.
func (i *Issuer) issueUnder(ctx context.Context, ev access.Evidence, locks audit.Locks) (access.Credential, error) {
	book := i.book()
	if book == nil {
		return access.Credential{}, access.Errorf(access.CodeUnavailable, "the issuer has no policy, directory and catalog")
	}
	// What whoever carries the evidence says is delegated counts for nothing.
	ev.Delegations = nil
	given, err := i.Ledger.Delegations(ctx)
	if err != nil {
		return access.Credential{}, access.Errorf(access.CodeUnavailable, "find out what is delegated: %v", err)
	}
	now := i.now()
	ev, standing, counts, err := i.settle(ctx, book.Under(locks.Held).Through(given).Informed(ctx, i.Lookups, ev.Request, now), ev, now)
	if err == nil {
		var cred access.Credential
		// Only what counts is recorded with a credential.
		if cred, err = i.issue(ctx, counts, standing, now, locks.Words); err == nil {
			return cred, nil
		}
	}
	var refusal *access.Error
	if !errors.As(err, &refusal) || refusal.Code == access.CodeUnavailable {
		return access.Credential{}, err
	}
	// A refusal that isn't on record isn't one yet.
	if rerr := i.refuse(ctx, ev, standing, book.Digests(), refusal); rerr != nil {
		return access.Credential{}, fmt.Errorf("record that the credential was refused: %w", rerr)
	}
	return access.Credential{}, err
}

// settle judges the evidence, and where policy makes more of it than what is
// in the evidence, asks the record for that: since when the request waits, which
// its requester could have dated back, and which denials whoever carried the
// evidence has left out. One denial that ends a request has ended it in the
// ledger; only where it takes several has the ledger no end of the first ones.
func (i *Issuer) settle(ctx context.Context, book *evidence.Rulebook, ev access.Evidence, now time.Time) (access.Evidence, access.Standing, access.Evidence, error) {
	known := evidence.Known{MinGrant: i.MinGrant}
	if request, perr := statement.ParseRequest([]byte(ev.Request.Payload)); perr == nil && request.Extends != "" {
		x, found, err := i.Ledger.Extended(ctx, request.Extends)
		if err != nil {
			return ev, access.Standing{}, access.Evidence{}, access.Errorf(access.CodeUnavailable, "find out what it extends: %v", err)
		}
		if found {
			known.Extends = &x
		}
	}
	standing, counts, err := book.Settle(ev, now, known)
	waits := func(n access.Need) bool { return n.Denies > 1 || len(n.Escalate) > 0 }
	if err != nil || !slices.ContainsFunc(standing.Ruling.Needs, waits) {
		return ev, standing, counts, err
	}
	received, found, err := i.Ledger.Received(ctx, standing.Request.ID)
	if known.Asked = received; !found {
		known.Asked = now // it has waited for nobody
	}
	var denials []access.Statement
	if err == nil {
		denials, err = i.Ledger.Denials(ctx, standing.Request.ID)
	}
	if err != nil {
		return ev, standing, counts, access.Errorf(access.CodeUnavailable, "find out what is on record of the request: %v", err)
	}
	// What is on record goes first: nobody who decides in another's place takes
	// back what that one has said.
	all := slices.Clone(denials)
	for _, st := range ev.Decisions {
		if !slices.Contains(all, st) {
			all = append(all, st)
		}
	}
	ev.Decisions = all
	standing, counts, err = book.Settle(ev, now, known)
	return ev, standing, counts, err
}

// issue does what Issue says, of a request that has been judged.
func (i *Issuer) issue(ctx context.Context, ev access.Evidence, standing access.Standing, now time.Time, locks int64) (access.Credential, error) {
	none := access.Credential{}
	request := standing.Request
	kind, ok := i.Kinds[standing.Resource.Kind]
	if !ok {
		return none, access.Errorf(access.CodeUnavailable, "this issuer has no kind %q", standing.Resource.Kind)
	}
	entry, found, err := i.Ledger.Entry(ctx, request.ID)
	if err != nil {
		return none, err
	}
	if entry.Ended != "" {
		return none, ended(ctx, kind, entry)
	}
	if standing.Unsure {
		// What is down delays. It may take as long as the evidence is good.
		return none, access.Errorf(access.CodeUnavailable, "not allowed yet: %s", because(standing))
	}
	if standing.Effect != access.EffectAllow || standing.Duration <= 0 {
		return none, access.Errorf(access.CodeDenied, "not allowed: %s", because(standing))
	}
	if !found {
		if request.Start != nil && now.Before(*request.Start) {
			return none, access.Errorf(access.CodeUnavailable, "the grant begins at %s", request.Start.Format(time.RFC3339))
		}
		begin := now.UTC().Truncate(time.Second)
		if x := standing.Extends; x != nil {
			// Whether it can be, Reserve says for good; this is before the kind
			// has anything to do.
			if why := x.Refused(request.ID, now); why != "" {
				return none, access.Errorf(access.CodeDenied, "%s", why)
			}
		}
		h, err := kind.Prepare(ctx, order(standing, begin, standing.End(begin)))
		if err != nil {
			return none, err
		}
		h.Extends = request.Extends
		entry, err = i.Ledger.Reserve(ctx, ev.Request.Hash(), h, event(standing))
		discard(ctx, kind, h, entry, err)
		if err != nil && access.CodeOf(err) != access.CodeEnded {
			return none, err
		}
	}
	return i.fulfil(ctx, kind, ev, standing, entry, now, locks)
}

// discard takes a handle back that the ledger didn't take: another issuer was
// faster, or the end was. What can't be taken back now opens nothing and ends
// by itself.
func discard(ctx context.Context, kind Kind, h access.Handle, entry audit.Entry, err error) {
	d, ok := kind.(Discarder)
	if !ok {
		return
	}
	switch access.CodeOf(err) {
	case access.CodeEnded, access.CodeMismatch, access.CodeLimited, access.CodeDenied:
	default:
		if err != nil || reflect.DeepEqual(entry.Handle, &h) {
			return // ours, or nobody knows
		}
	}
	_ = d.Discard(ctx, h)
}

// fulfil brings the entry of a request to its credential.
func (i *Issuer) fulfil(ctx context.Context, kind Kind, ev access.Evidence, standing access.Standing, entry audit.Entry, now time.Time, locks int64) (access.Credential, error) {
	none := access.Credential{}
	if entry.Ended != "" {
		return none, ended(ctx, kind, entry)
	}
	if entry.Handle == nil || entry.RequestHash != ev.Request.Hash() {
		return none, access.Errorf(access.CodeMismatch, "request %s is in the ledger with another content", standing.Request.ID)
	}
	h := *entry.Handle
	// The handle may have been chosen on other evidence for the same request,
	// or by other rules. It can't be changed; it can be refused.
	if h.NotAfter.After(standing.End(h.NotBefore)) {
		return none, access.Errorf(access.CodeDenied, "a grant until %s was prepared, which is longer than the %s allowed now",
			h.NotAfter.Format(time.RFC3339), standing.Duration)
	}
	if entry.Credential != nil {
		return *entry.Credential, nil
	}
	if !now.Before(h.NotAfter) {
		return none, access.Errorf(access.CodeEnded, "the grant has ended at %s", h.NotAfter.Format(time.RFC3339))
	}
	cred, err := kind.Issue(ctx, order(standing, h.NotBefore, h.NotAfter), h)
	if err != nil {
		return none, err
	}
	e := event(standing)
	e.Evidence, e.Locks = &ev, locks
	err = i.Ledger.Issued(ctx, cred, e)
	switch access.CodeOf(err) {
	case access.CodeEnded:
		return none, tooLate(ctx, kind, &h, err)
	case access.CodeDuplicate:
		// Another issuer was faster: its copy is the one on record, and ours
		// was never handed out. This goes round once; there is a credential.
		entry, _, lerr := i.Ledger.Entry(ctx, standing.Request.ID)
		if lerr != nil {
			return none, lerr
		}
		if entry.Ended != "" || entry.Credential != nil {
			return i.fulfil(ctx, kind, ev, standing, entry, now, locks)
		}
	}
	if err != nil {
		return none, fmt.Errorf("record the credential: %w", err)
	}
	return cred, nil
}

// because is why a request isn't allowed, which look-ups have failed, and which
// decisions have stopped counting since they were made: that is mostly the
// reason.
func because(s access.Standing) string {
	const most = 3
	why := strings.Join(append(append([]string{s.Why}, s.Ruling.Context.Failed()...), s.Dropped[:min(len(s.Dropped), most)]...), "; ")
	if n := len(s.Dropped); n > most {
		why += fmt.Sprintf("; and %d more that don't count", n-most)
	}
	return why
}

// ended refuses a request that is over in the ledger.
func ended(ctx context.Context, kind Kind, e audit.Entry) error {
	return tooLate(ctx, kind, e.Handle, access.Errorf(access.CodeEnded, "request %s has ended: %s at %s",
		e.Request, e.Ended, e.EndedAt.Format(time.RFC3339)))
}

// tooLate passes on the refusal of a request that has ended. Whoever ended it
// has revoked its handle; but an Issue that ran beside that may have made the
// credential after it. So revoke again, and refuse only once that is done. It
// is done even if the caller has gone away: nobody else may come by.
func tooLate(ctx context.Context, kind Kind, h *access.Handle, refusal error) error {
	if h == nil {
		return refusal
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanUp)
	defer cancel()
	if err := kind.Revoke(ctx, *h); err != nil {
		return access.Errorf(access.CodeUnavailable, "revoke the credential of request %s, which has ended: %v", h.Request, err)
	}
	return refusal
}

// Revoke ends a request: in the ledger first, which bars every later Issue,
// and then at its kind, if it got that far. It needs neither evidence nor a
// workflow's word that there is something to revoke. After an error, call it
// again.
func (i *Issuer) Revoke(ctx context.Context, end audit.End) error {
	entry, err := i.Ledger.End(ctx, end)
	if err != nil {
		return fmt.Errorf("end request %s: %w", end.Request, err)
	}
	if entry.Handle == nil {
		return nil
	}
	kind, ok := i.Kinds[entry.Handle.Kind]
	if !ok {
		return access.Errorf(access.CodeUnavailable, "this issuer has no kind %q", entry.Handle.Kind)
	}
	if err := kind.Revoke(ctx, *entry.Handle); err != nil {
		return fmt.Errorf("revoke the credential of request %s: %w", end.Request, err)
	}
	if entry.Ended != access.StateReleased && entry.Ended != access.StateRevoked {
		return nil
	}
	// The ledger has ended with it what it extends, and what extends it.
	row, err := i.Row(ctx, end.Request)
	if err != nil {
		return err
	}
	for _, h := range row {
		if err := kind.Revoke(ctx, h); err != nil {
			return fmt.Errorf("revoke the credential of request %s: %w", h.Request, err)
		}
	}
	return nil
}

// Row lists the handles of what has ended of the grants that a request extends,
// or that extend it.
func (i *Issuer) Row(ctx context.Context, request string) ([]access.Handle, error) {
	row, err := i.Ledger.Row(ctx, request)
	if err != nil {
		return nil, fmt.Errorf("find what else ends with request %s: %w", request, err)
	}
	return row, nil
}

// refuse records a refusal, once for the same evidence and reason. It is filed
// under the request only if the request's own signature was good: else anybody
// could write into the history of another's request.
func (i *Issuer) refuse(ctx context.Context, ev access.Evidence, standing access.Standing, digests access.Digests, refusal *access.Error) error {
	hash, size := fingerprint(ev)
	e := audit.Event{
		Type:     audit.CredentialRefused,
		Step:     fmt.Sprintf("refused:%s:%s", refusal.Code, hash),
		Code:     refusal.Code,
		Why:      refusal.Message,
		Digests:  &digests,
		Evidence: &ev,
	}
	if request := standing.Request; request.ID != "" {
		e.Request, e.RequestHash = request.ID, ev.Request.Hash()
		e.Actor, e.Requester, e.Resource = request.Signer, request.Signer, request.Resource
	}
	if size > maxEvidence {
		e.Evidence = nil
		e.Why = fmt.Sprintf("%s (%d bytes of evidence with the hash %s)", e.Why, size, hash)
	}
	_, err := i.Ledger.Append(ctx, e)
	return err
}

// fingerprint tells evidence apart by every byte of it, and says how long it
// is.
func fingerprint(ev access.Evidence) (hash string, size int) {
	h := sha256.New()
	for _, st := range slices.Concat([]access.Statement{ev.Request}, ev.Decisions) {
		for _, s := range []string{st.Payload, st.Signature} {
			_, _ = fmt.Fprintf(h, "%d:%s", len(s), s) // a hash never fails
			size += len(s)
		}
	}
	return hex.EncodeToString(h.Sum(nil)), size
}

// event is what all events on an allowed request say.
func event(s access.Standing) audit.Event {
	return audit.Event{
		Request: s.Request.ID, Actor: s.Request.Signer, Requester: s.Request.Signer,
		Resource: s.Request.Resource, Ruling: &s.Ruling, Why: s.Why,
	}
}

func order(s access.Standing, notBefore, notAfter time.Time) Order {
	return Order{Request: s.Request, Resource: s.Resource, Standing: s, NotBefore: notBefore, NotAfter: notAfter}
}

func (i *Issuer) book() *evidence.Rulebook {
	if i.Rulebook == nil {
		return nil
	}
	return i.Rulebook()
}

func (i *Issuer) now() time.Time {
	if i.Now == nil {
		return time.Now()
	}
	return i.Now()
}
