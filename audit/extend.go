package audit

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/crypto/ssh"

	"hallpass/access"
	"hallpass/ca"
)

// extendedStep is the step of the event that says by what a grant is extended.
// Where that one ended without a credential, the next one's is this, a colon and
// that one's id.
const extendedStep = "extended"

// maxUnissued bounds how many extensions of one grant may end without a
// credential before no other one is taken.
const maxUnissued = 100

// Extended reads what there is to a grant that somebody wants to extend, false
// if the request was never granted.
func (r *Reader) Extended(ctx context.Context, request string) (x access.Extended, found bool, err error) {
	entry, found, err := r.Entry(ctx, request)
	if err != nil || !found || entry.Handle == nil || entry.Credential == nil {
		return x, false, err
	}
	x = access.Extended{Request: request, End: entry.Handle.NotAfter, Ended: entry.Ended}
	x.Begin, x.Row, err = beginning(entry, func(id string) (Entry, bool, error) { return r.Entry(ctx, id) })
	if err != nil {
		return x, false, err
	}
	for rec, err := range r.Events(ctx, Query{Request: request}) {
		if err != nil {
			return x, false, err
		}
		switch e := rec.Event; e.Type {
		case CredentialIssued:
			x.Statement = e.Evidence.Request
		case GrantExtended:
			x.By = e.Handle.Request
		}
	}
	if x.By != "" {
		by, _, err := r.Entry(ctx, x.By)
		if err != nil {
			return x, false, err
		}
		if by.unissued() {
			x.By = ""
		}
	}
	return x, true, nil
}

// Extension is the certificate that extends the grant of another, as text, "" if
// there is none that is out and wasn't taken back. It is for whoever has the
// other one, which holds 32 random bytes that nobody guesses.
func (r *Reader) Extension(ctx context.Context, of *ssh.Certificate) (string, error) {
	request, _, err := ca.ParseKeyID(of.KeyId)
	if err != nil {
		return "", nil
	}
	entry, found, err := r.Entry(ctx, request)
	if err != nil || !found || entry.Credential == nil || entry.Credential.Certificate != ca.Marshal(of) {
		return "", err
	}
	var by string
	for rec, err := range r.Events(ctx, Query{Request: request, Type: GrantExtended}) {
		if err != nil {
			return "", err
		}
		if rec.Event.Handle != nil {
			by = rec.Event.Handle.Request // the last one counts
		}
	}
	if by == "" {
		return "", nil
	}
	entry, _, err = r.Entry(ctx, by)
	if err != nil || entry.Ended != "" || entry.Credential == nil {
		return "", err
	}
	return entry.Credential.Certificate, nil
}

// unissued says whether the request has ended without a credential. If it was
// to extend a grant, it doesn't.
func (e Entry) unissued() bool { return e.Ended != "" && e.Credential == nil }

// beginning is when the first grant of the row began that the grant of an entry
// ends, and how many it extends. Of a longer row than there can be it is that of
// one in the middle.
func beginning(entry Entry, look func(request string) (Entry, bool, error)) (begin time.Time, row int, err error) {
	last := entry.Request
	for ; entry.Handle.Extends != "" && row <= access.MaxExtensions; row++ {
		var found bool
		if entry, found, err = look(entry.Handle.Extends); err != nil {
			return time.Time{}, 0, err
		}
		if !found || entry.Handle == nil {
			return time.Time{}, 0, broken("request %s extends what isn't there", clip(last))
		}
	}
	return entry.Handle.NotBefore.UTC(), row, nil
}

// extend records on a grant that another extends it, or says why it doesn't:
// the grant has to run, is extended once, and ends no row that is long enough. What is on
// record is the handle with its serial, which it gets here.
func (t *tx) extend(h *access.Handle, now time.Time) (*Extended, *access.Error, error) {
	entry, found, err := t.entry(h.Extends)
	if err != nil {
		return nil, nil, err
	}
	if !found || entry.Handle == nil || entry.Credential == nil {
		return nil, access.Errorf(access.CodeDenied, "request %s, which this one extends, was never granted", clip(h.Extends)), nil
	}
	x := access.Extended{Request: h.Extends, End: entry.Handle.NotAfter, Ended: entry.Ended}
	var step string
	if x.By, step, err = t.extendedBy(h.Extends); err != nil {
		return nil, nil, err
	}
	if x.Begin, x.Row, err = beginning(entry, t.entry); err != nil {
		return nil, nil, err
	}
	if why := x.Refused(h.Request, now); why != "" {
		return nil, access.Errorf(access.CodeDenied, "%s", why), nil
	}
	if err := t.number(h); err != nil {
		return nil, nil, err
	}
	_, err = t.append(Event{
		Type: GrantExtended, Time: now, Request: h.Extends, RequestHash: entry.RequestHash, Step: step, Handle: h,
		Why: fmt.Sprintf("extended by request %s until %s", h.Request, h.NotAfter.UTC().Format(time.RFC3339)),
	})
	return &Extended{x.Begin, x.End.UTC()}, nil, err
}

// extendedBy is the request that extends another's grant, "" if none does, and
// the step of the event that says so or would. After many that ended without
// a credential the last one counts, whatever became of it.
func (t *tx) extendedBy(request string) (by, step string, err error) {
	step = extendedStep
	for n := 0; ; n++ {
		f, err := t.at(slot{request, step})
		if err != nil || !f.found {
			return "", step, err
		}
		e, err := ParseEvent(f.leaf)
		if err != nil || e.Handle == nil {
			return "", "", broken("event %d: %v", f.index, err)
		}
		entry, _, err := t.entry(e.Handle.Request)
		if err != nil || !entry.unissued() || n == maxUnissued {
			return e.Handle.Request, step, err
		}
		step = extendedStep + ":" + e.Handle.Request
	}
}

// endRow ends what is open of a row of grants that extend each other, of which
// one was given back or taken away: who takes away a grant means all of it.
func (t *tx) endRow(first Entry, e Event) error {
	if e.State != access.StateReleased && e.State != access.StateRevoked || first.Handle == nil {
		return nil
	}
	seen := map[string]bool{first.Request: true}
	for todo := []Entry{first}; len(todo) > 0; todo = todo[1:] {
		by, _, err := t.extendedBy(todo[0].Request)
		if err != nil {
			return err
		}
		for _, id := range []string{by, todo[0].Handle.Extends} {
			if id == "" || seen[id] {
				continue
			}
			seen[id] = true
			entry, found, err := t.entry(id)
			if err != nil {
				return err
			}
			if !found || entry.Handle == nil {
				continue
			}
			todo = append(todo, entry)
			if entry.Ended != "" {
				continue
			}
			_, err = t.append(Event{
				Type: e.Type, Time: e.Time, Request: id, RequestHash: entry.RequestHash, Step: stepEnded, State: e.State,
				Why: fmt.Sprintf("%s with request %s, which is of the same row of extensions", e.State, first.Request),
			})
			if err != nil {
				return err
			}
			entry.Ended, entry.EndedAt = e.State, e.Time.UTC().Truncate(time.Millisecond)
			if err := t.put(entry); err != nil {
				return err
			}
		}
	}
	return nil
}

// Row lists the handles of the other grants that a request extends, or that
// extend it, and that have ended.
func (r *Reader) Row(ctx context.Context, request string) (row []access.Handle, err error) {
	seen := map[string]bool{"": true, request: true}
	for todo := []string{request}; len(todo) > 0; todo = todo[1:] {
		entry, found, err := r.Entry(ctx, todo[0])
		if err != nil {
			return nil, err
		}
		if !found || entry.Handle == nil {
			continue
		}
		if todo[0] != request && entry.Ended != "" {
			row = append(row, *entry.Handle)
		}
		near := []string{entry.Handle.Extends}
		for rec, err := range r.Events(ctx, Query{Request: todo[0], Type: GrantExtended}) {
			if err != nil {
				return nil, err
			}
			if rec.Event.Handle != nil {
				near = append(near, rec.Event.Handle.Request)
			}
		}
		for _, id := range near {
			if !seen[id] {
				seen[id] = true
				todo = append(todo, id)
			}
		}
	}
	return row, nil
}
