package audit

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"hallpass/access"
)

// Types of events of the sweep. They are hallpass's own word: nobody signs
// them, and they give nobody anything.
const (
	SweepOrphan  = "sweep.orphan"  // Why: an open grant for which nothing runs any more; its end comes next
	SweepStray   = "sweep.stray"   // Handle: a credential that exists, and that no open grant has
	SweepRevoked = "sweep.revoked" // Handle: such a credential, when it was revoked
	SweepLease   = "sweep.lease"   // Why: a lease in Vault of a grant that has ended; it is revoked next
	SweepStuck   = "sweep.stuck"   // Why: something that couldn't be taken back; somebody has to look
)

func sweepTypes() []string {
	return []string{SweepOrphan, SweepStray, SweepRevoked, SweepLease, SweepStuck}
}

// SweepStep is the step of an event about a credential that a sweep found.
func SweepStep(typ string, h access.Handle) string {
	sum := sha256.Sum256([]byte(identity(h)))
	return typ + ":" + hex.EncodeToString(sum[:])
}

// identity is what tells credentials apart, and isn't theirs for a while only.
func identity(h access.Handle) string {
	return fmt.Sprintf("%s %s %d %s", h.Kind, h.CA, h.Serial, h.Accessor)
}

// OpenGrants lists the handles of requests that haven't ended in the ledger,
// in the order of the requests' ids, from behind after on and at most limit
// of them.
func (r *Reader) OpenGrants(ctx context.Context, after string, limit int) (open []access.Handle, err error) {
	// The condition is that of the index ledger_open.
	rows, err := r.db.QueryContext(ctx, "SELECT handle FROM ledger WHERE ended = '' AND request > ? ORDER BY request LIMIT ?", after, limit)
	if err != nil {
		return nil, fmt.Errorf("read open grants: %w", explain(err))
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		var text string
		var h access.Handle
		if err := rows.Scan(&text); err != nil {
			return nil, fmt.Errorf("read open grants: %w", explain(err))
		}
		if err := json.Unmarshal([]byte(text), &h); err != nil {
			return nil, broken("the handle of an open grant can't be read: %v", err)
		}
		open = append(open, h)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("read open grants: %w", explain(err))
	}
	return open, nil
}

// CountOpen says how many requests there are that OpenGrants would list.
func (r *Reader) CountOpen(ctx context.Context) (n int64, err error) {
	if err := r.db.QueryRowContext(ctx, "SELECT count(*) FROM ledger WHERE ended = ''").Scan(&n); err != nil {
		return 0, fmt.Errorf("count open grants: %w", explain(err))
	}
	return n, nil
}

// Orphan records that nothing runs any more for an open grant, once, and says
// whether it still is open: what has ended meanwhile is no orphan.
func (l *Log) Orphan(ctx context.Context, request, why string) (bool, error) {
	return update(ctx, l, func(t *tx) (bool, error) {
		entry, found, err := t.entry(request)
		if err != nil || !found || entry.Handle == nil || entry.Ended != "" {
			return false, err
		}
		_, err = t.append(Event{Type: SweepOrphan, Request: request, Step: SweepOrphan, Why: why})
		return err == nil, err
	})
}

// Living is what is known of the open grants of a kind.
type Living struct{ credentials map[string]bool }

// Has says whether a credential is that of an open grant.
func (l Living) Has(h access.Handle) bool { return l.credentials[identity(h)] }

// LiveHandles says which credentials of a kind are those of open grants, as of
// now.
func (r *Reader) LiveHandles(ctx context.Context, kind string) (_ Living, err error) {
	fail := func(err error) (Living, error) { return Living{}, err }
	rows, err := r.db.QueryContext(ctx, `SELECT coalesce(json_extract(handle, '$.ca'), ''), coalesce(json_extract(handle, '$.serial'), 0),
		coalesce(json_extract(handle, '$.accessor'), '') FROM ledger WHERE ended = '' AND json_extract(handle, '$.kind') = ?`, kind)
	if err != nil {
		return fail(fmt.Errorf("read open grants: %w", explain(err)))
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	live := Living{map[string]bool{}}
	for rows.Next() {
		h := access.Handle{Kind: kind}
		if err := rows.Scan(&h.CA, &h.Serial, &h.Accessor); err != nil {
			return fail(fmt.Errorf("read open grants: %w", explain(err)))
		}
		live.credentials[identity(h)] = true
	}
	if err := rows.Err(); err != nil {
		return fail(fmt.Errorf("read open grants: %w", explain(err)))
	}
	return live, nil
}

// endedQuery has the conditions of the index ledger_revoked, so that it reads of
// the ledger what was ended early and hardly anything else.
const endedQuery = `SELECT request, coalesce(json_extract(handle, '$.accessor'), ''), coalesce(json_extract(handle, '$.reads'), ''), json_extract(handle, '$.not_after') FROM ledger WHERE ended <> '' AND ended <> 'expired' AND handle <> ''
	AND json_extract(handle, '$.not_after') > ? AND json_extract(handle, '$.kind') = ?`

// EndedHandles lists the handles of a kind whose requests have ended before their
// grants' own time, which is after a point in time: what is of them and is still
// there doesn't go away by itself. They have accessor, what they read and NotAfter,
// and nothing else.
func (r *Reader) EndedHandles(ctx context.Context, kind string, after time.Time) (ended []access.Handle, err error) {
	rows, err := r.db.QueryContext(ctx, endedQuery, after.UTC().Format(time.RFC3339), kind)
	if err != nil {
		return nil, fmt.Errorf("read grants that ended early: %w", explain(err))
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		h := access.Handle{Kind: kind}
		var reads, end string
		if err := rows.Scan(&h.Request, &h.Accessor, &reads, &end); err != nil {
			return nil, fmt.Errorf("read grants that ended early: %w", explain(err))
		}
		if h.NotAfter, err = time.Parse(time.RFC3339, end); err != nil {
			return nil, broken("the end of a grant can't be read: %v", err)
		}
		if reads != "" {
			if err := json.Unmarshal([]byte(reads), &h.Reads); err != nil {
				return nil, broken("what a grant reads can't be read: %v", err)
			}
		}
		ended = append(ended, h)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("read grants that ended early: %w", explain(err))
	}
	return ended, nil
}

// Stray records a credential that exists and that no open grant has, once, and
// says whether that is so: what a grant has got meanwhile is none. Only then
// may a sweep revoke it.
func (l *Log) Stray(ctx context.Context, h access.Handle, why string) (bool, error) {
	return update(ctx, l, func(t *tx) (bool, error) {
		entry, found, err := t.entry(h.Request)
		if err != nil || found && has(entry.Handle, entry.Ended, h) {
			return false, err
		}
		_, err = t.append(Event{Type: SweepStray, Request: h.Request, Step: SweepStep(SweepStray, h), Handle: &h, Why: why})
		return err == nil, err
	})
}

// has says whether a request is open and has this credential.
func has(own *access.Handle, ended access.State, h access.Handle) bool {
	return own != nil && ended == "" && identity(*own) == identity(h)
}

// swept judges an event of the sweep, and says whether it is one.
func (p *replay) swept(e *Event) (bool, error) {
	if !slices.Contains(sweepTypes(), e.Type) {
		return false, nil
	}
	s := p.requests[e.Request]
	if s == nil {
		s = &story{}
	}
	switch h := e.Handle; {
	case e.Actor != "" || e.State != "" || e.Statement != nil || e.Evidence != nil || e.Ruling != nil || e.Credential != nil || e.File != nil || e.Host != nil:
		return true, fmt.Errorf("it says more than what a sweep found")
	case e.Type == SweepLease && (e.Request != "" || e.Handle != nil || e.Why == ""):
		return true, fmt.Errorf("it doesn't say which lease it is about, and that alone")
	case e.Type == SweepOrphan && s.handle == nil:
		return true, fmt.Errorf("no credential was prepared for the request")
	case e.Type == SweepOrphan && s.ended != "":
		return true, fmt.Errorf("the request had ended before: %s", s.ended)
	case e.Type == SweepOrphan || e.Type == SweepLease || e.Type == SweepStuck && h == nil:
		return true, nil
	case h == nil || h.Request != e.Request || e.Step != SweepStep(e.Type, *h):
		return true, fmt.Errorf("it doesn't name the credential that it is about")
	case has(s.handle, s.ended, *h):
		return true, fmt.Errorf("the credential is that of an open grant")
	}
	return true, nil
}
