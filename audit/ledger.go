package audit

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"database/sql"

	"hallpass/access"
	"hallpass/ca/krl"
	"hallpass/statement"
)

// Entry is a request in the ledger.
type Entry struct {
	Request     string             `json:"request"`
	RequestHash string             `json:"request_hash,omitempty"` // of the request that the handle was chosen for; "" where there never was one
	Handle      *access.Handle     `json:"handle,omitempty"`       // from Reserve on
	Credential  *access.Credential `json:"credential,omitempty"`   // from Issued on
	Ended       access.State       `json:"ended,omitempty"`        // "" while it is open
	EndedAt     time.Time          `json:"ended_at,omitzero"`
}

// End says how a request ended.
type End struct {
	Request   string            `json:"request"`
	State     access.State      `json:"state"` // one of the final ones
	Why       string            `json:"why,omitempty"`
	By        string            `json:"by,omitempty"`        // whose word ended it, where it was somebody's
	Statement *access.Statement `json:"statement,omitempty"` // the release, revoke, cancel or denial
	Digests   *access.Digests   `json:"digests,omitempty"`   // the files that Statement was checked by; nil: the last recorded ones
}

// ending is the type of the statement that ended a request as state, or says
// why that can't be. What a word does depends on when it comes: before anything
// was granted, a release withdraws the request and a revoke denies it.
func ending(state access.State, st access.Statement) (access.Type, error) {
	words := map[access.State][]access.Type{
		access.StateDenied:    {access.TypeDecision, access.TypeRevoke, access.TypeLock},
		access.StateCancelled: {access.TypeCancel, access.TypeRelease},
		access.StateReleased:  {access.TypeRelease, access.TypeCancel},
		access.StateRevoked:   {access.TypeRevoke, access.TypeLock},
	}
	var header access.Header
	if err := json.Unmarshal([]byte(st.Payload), &header); err != nil {
		return "", access.Errorf(access.CodeMalformed, "the statement that ended it can't be read")
	}
	if !slices.Contains(words[state], header.Type) {
		return "", access.Errorf(access.CodeMalformed, "a statement of the type %q doesn't end a request as %s", clip(string(header.Type)), state)
	}
	return header.Type, nil
}

// NextSerial returns the next certificate serial of a series (package krl) of
// a CA key, which is named by its fingerprint; of series 0 that is 1, 2, 3, …
// It is durable before it is returned, so that none is ever given twice; some
// may never be used.
func (l *Log) NextSerial(ctx context.Context, ca string, series uint32) (uint64, error) {
	if ca == "" || series > krl.MaxSeries {
		return 0, access.Errorf(access.CodeMalformed, "serial for a CA without a fingerprint, or of no series")
	}
	return update(ctx, l, func(t *tx) (uint64, error) { return t.serial(ca, series) })
}

// serial is NextSerial within a transaction.
func (t *tx) serial(ca string, series uint32) (uint64, error) {
	counter := serialCounter(ca, series)
	var last int64
	if _, err := t.find([]any{&last}, "SELECT last FROM serials WHERE ca = ?", counter); err != nil {
		return 0, err
	}
	if last < 0 || last >= krl.MaxCount {
		return 0, access.Errorf(access.CodeMalformed, "no serials are left for CA %s", clip(counter))
	}
	last++
	t.write("INSERT INTO serials (ca, last) VALUES (?, ?) ON CONFLICT (ca) DO UPDATE SET last = excluded.last", counter, last)
	return krl.Serial(series, uint64(last)), nil
}

// number gives a handle its serial, where it has none yet but for the series.
func (t *tx) number(h *access.Handle) (err error) {
	if series, count := krl.Split(h.Serial); h.CA != "" && count == 0 {
		h.Serial, err = t.serial(h.CA, series)
	}
	return err
}

// serialCounter is the name of the counter of a series. That of series 0 is
// the CA's fingerprint alone: so the counters were called before there were
// others.
func serialCounter(ca string, series uint32) string {
	if series == 0 {
		return ca
	}
	return fmt.Sprintf("%s#%d", ca, series)
}

// Reserve writes the handle of a request into the ledger, with its event
// (credential.prepared), before any credential exists. The first one wins:
// where the request has a handle, nothing changes, and the entry returned has
// the winner's. A handle of a CA whose serial is a series without a count
// (krl.Serial(series, 0)) gets the next one of that series, as of NextSerial; it is
// spent only if the handle is taken.
//
// Errors: CodeEnded for a request that has ended, with its entry; CodeMismatch
// if the handle was chosen for another request of the same id; CodeLimited if
// the limits of the ruling in e leave no room for one more grant; CodeDenied if
// the grant that it extends doesn't run any more, or was extended before. That is counted
// in the same transaction, so of two at the same moment one is first.
func (l *Log) Reserve(ctx context.Context, requestHash string, h access.Handle, e Event) (Entry, error) {
	if h.Request == "" || requestHash == "" || e.Request != "" && e.Request != h.Request {
		return Entry{}, access.Errorf(access.CodeMalformed, "handle without the id and hash of its request")
	}
	if e.Type == "" {
		e.Type = CredentialPrepared
	}
	if e.Type != CredentialPrepared {
		return Entry{}, access.Errorf(access.CodeMalformed, "event %s with a new handle, want %s", e.Type, CredentialPrepared)
	}
	e.Request, e.RequestHash, e.Step, e.Extended = h.Request, requestHash, CredentialPrepared, nil
	type reply struct {
		entry   Entry
		ended   bool
		limited *access.Error
	}
	r, err := update(ctx, l, func(t *tx) (reply, error) {
		h := h // it may be done again, with another serial
		have, found, err := t.entry(h.Request)
		switch {
		case err != nil:
			return reply{}, err
		case found && have.Ended != "":
			return reply{entry: have, ended: true}, nil
		case found && have.RequestHash != requestHash:
			return reply{}, access.Errorf(access.CodeMismatch, "request %s is already in the ledger with another content", h.Request)
		case found:
			return reply{entry: have}, nil
		}
		if e.Time.IsZero() {
			e.Time = l.now()
		}
		// What can be refused is refused before a serial is spent.
		if d := e.digests(); d != nil {
			if err := t.recorded(d); err != nil {
				return reply{}, err
			}
		}
		if e.Ruling != nil {
			// Nothing can come between this and the entry.
			limited, err := t.room(*e.Ruling, h, e.Requester, e.Resource, e.Time)
			if err != nil || limited != nil {
				return reply{limited: limited}, err
			}
		}
		if h.Extends != "" {
			extended, refused, err := t.extend(&h, e.Time)
			if err != nil || refused != nil {
				return reply{limited: refused}, err
			}
			e.Extended = extended
		}
		if err := t.number(&h); err != nil {
			return reply{}, err
		}
		e.Handle = &h
		if _, err := t.append(e); err != nil {
			return reply{}, err
		}
		entry := Entry{Request: h.Request, RequestHash: requestHash, Handle: &h}
		return reply{entry: entry}, t.put(entry)
	})
	switch {
	case err == nil && r.ended:
		return r.entry, ended(r.entry)
	case err == nil && r.limited != nil:
		return r.entry, r.limited
	}
	return r.entry, err
}

// Issued records that a credential is about to leave the issuer, with its
// event (credential.issued): the evidence it was issued on and the files it
// was judged by. The issuer hands nothing out before Issued has returned nil.
//
// Saying it again with the same credential is fine. Errors: CodeEnded if the
// request ended meanwhile: revoke the handle; CodeDuplicate if another
// credential was recorded first: hand out that one (Entry); CodeMismatch if it
// isn't the credential of the reserved handle, or not of this evidence;
// CodeUnavailable if it was judged under other locks (Event.Locks) than there
// are now, by a clock that has been set meanwhile, or rests on a delegation that was
// revoked since: judge again.
func (l *Log) Issued(ctx context.Context, cred access.Credential, e Event) error {
	id := cred.Handle.Request
	if e.Type == "" {
		e.Type = CredentialIssued
	}
	if e.Type != CredentialIssued || e.Request != "" && e.Request != id {
		return access.Errorf(access.CodeMalformed, "event %s of request %s with a credential of request %s", e.Type, clip(e.Request), clip(id))
	}
	if e.Evidence == nil || e.digests() == nil {
		return access.Errorf(access.CodeMalformed, "a credential can't be recorded without its evidence and the digests it was judged by")
	}
	hash := e.Evidence.Request.Hash()
	e.Request, e.RequestHash, e.Step, e.Handle, e.Credential = id, hash, CredentialIssued, nil, &cred
	want, err := json.Marshal(cred)
	if err != nil {
		return fmt.Errorf("encode credential: %w", err)
	}
	_, err = update(ctx, l, func(t *tx) (struct{}, error) {
		none := struct{}{}
		have, found, err := t.entry(id)
		if err != nil {
			return none, err
		}
		if !found || have.Handle == nil && have.Ended == "" {
			return none, access.Errorf(access.CodeMismatch, "credential of request %s, which has no handle in the ledger", clip(id))
		}
		if have.Ended != "" {
			return none, ended(have)
		}
		if have.RequestHash != hash {
			return none, access.Errorf(access.CodeMismatch, "credential of request %s is issued on the evidence of another", id)
		}
		if same, err := equalJSON(have.Handle, &cred.Handle); err != nil || !same {
			return none, errors.Join(err, access.Errorf(access.CodeMismatch, "credential of request %s has another handle than the ledger", id))
		}
		if have.Credential != nil {
			if got, err := json.Marshal(have.Credential); err != nil || string(got) != string(want) {
				return none, access.Errorf(access.CodeDuplicate, "another credential of request %s was issued first", id)
			}
			return none, nil
		}
		if e.Time.IsZero() {
			e.Time = l.now()
		}
		if r := e.Ruling; r != nil && e.Time.Sub(r.At).Abs() > access.ClockSkew {
			return none, access.Errorf(access.CodeUnavailable, "the issuer's clock was set while the credential was issued")
		}
		if err := t.underLocks(e.Locks); err != nil {
			return none, err
		}
		if err := t.standing(e.Evidence.Delegations); err != nil {
			return none, err
		}
		if _, err := t.append(e); err != nil {
			return none, err
		}
		if e.Ruling != nil && e.Ruling.Emergency != nil {
			if err := t.broke(e); err != nil {
				return none, err
			}
		}
		have.Credential = &cred
		return none, t.put(have)
	})
	return err
}

// stepEnded is the step of the event that ends a request.
const stepEnded = "ended"

// End closes a request in the ledger for ever, with its event: no evidence,
// however good, issues it from here on. It works with or without a handle, and
// once: of a request that has ended, the entry is returned as it is. Where a grant
// is given back or taken away, those that it extends, or that extend it, end with
// it. That a grant has expired is CodeUnavailable until it has: what is no more
// in the ledger can't be revoked.
func (l *Log) End(ctx context.Context, end End) (Entry, error) {
	typ, ok := ends[end.State]
	if !ok || end.Request == "" {
		return Entry{}, access.Errorf(access.CodeMalformed, "request %q can't end as %q", clip(end.Request), clip(string(end.State)))
	}
	if end.Statement != nil {
		if _, err := ending(end.State, *end.Statement); err != nil {
			return Entry{}, err
		}
	}
	e := Event{
		Type: typ, Request: end.Request, Step: stepEnded, Actor: end.By, State: end.State, Why: end.Why,
		Statement: end.Statement, Digests: end.Digests, Time: l.now(),
	}
	return update(ctx, l, func(t *tx) (Entry, error) {
		entry, found, err := t.entry(end.Request)
		if err != nil || found && entry.Ended != "" {
			return entry, err
		}
		if end.State == access.StateExpired && entry.Handle != nil {
			over := entry.Handle.Over()
			// The event's time as well: the clock may be set between the two.
			if past, err := t.past(l); err != nil {
				return Entry{}, err
			} else if past.Before(over) || e.Time.Before(over) {
				return Entry{}, access.Errorf(access.CodeUnavailable, "the grant isn't over before %s", over.Format(time.RFC3339))
			}
		}
		e.RequestHash = entry.RequestHash
		if _, err := t.append(e); err != nil {
			return Entry{}, err
		}
		entry.Request, entry.Ended = end.Request, end.State
		entry.EndedAt = e.Time.UTC().Truncate(time.Millisecond)
		if err := t.put(entry); err != nil {
			return Entry{}, err
		}
		return entry, t.endRow(entry, e)
	})
}

// Entry looks a request up in the ledger, and says whether it is there.
func (r *Reader) Entry(ctx context.Context, request string) (Entry, bool, error) {
	return scanEntry(r.db.QueryRowContext(ctx, entryQuery+" WHERE request = ?", request))
}

// Received is when a request was first heard of, by the log's own word; false
// if it never was.
func (r *Reader) Received(ctx context.Context, request string) (time.Time, bool, error) {
	e, found, err := r.received(ctx, request)
	return e.Time, found, err
}

// Asked is the request as it was received; false if it never was.
func (r *Reader) Asked(ctx context.Context, request string) (access.Statement, bool, error) {
	e, found, err := r.received(ctx, request)
	if err != nil || !found || e.Statement == nil {
		return access.Statement{}, false, err
	}
	return *e.Statement, true, nil
}

func (r *Reader) received(ctx context.Context, request string) (Event, bool, error) {
	if request == "" {
		return Event{}, false, nil
	}
	for rec, err := range r.Events(ctx, Query{Request: request, Type: RequestReceived, Limit: 1}) {
		return rec.Event, err == nil, err
	}
	return Event{}, false, nil
}

// Denials are the denials of a request that are on record and didn't end it, as
// they were signed and in the order in which they were heard.
func (r *Reader) Denials(ctx context.Context, request string) ([]access.Statement, error) {
	var out []access.Statement
	if request == "" {
		return nil, nil
	}
	for rec, err := range r.Events(ctx, Query{Request: request, Type: DecisionAccepted}) {
		if err != nil {
			return nil, err
		}
		if st := rec.Event.Statement; st != nil {
			d, err := statement.ParseDecision([]byte(st.Payload))
			if err != nil {
				return nil, broken("event %d: %v", rec.Index, err)
			}
			if d.Verdict == access.Deny {
				out = append(out, *st)
			}
		}
	}
	return out, nil
}

func ended(e Entry) *access.Error {
	return access.Errorf(access.CodeEnded, "request %s has ended: %s at %s", e.Request, e.Ended, e.EndedAt.Format(time.RFC3339))
}

const entryQuery = "SELECT request, hash, handle, credential, ended, ended_at FROM ledger"

func scanEntry(row scanner) (e Entry, found bool, err error) {
	e, _, found, err = scanTexts(row)
	return e, found, err
}

// scanTexts is that with the texts that put has written.
func scanTexts(row scanner) (e Entry, t texts, found bool, err error) {
	var at int64
	err = row.Scan(&e.Request, &e.RequestHash, &t.handle, &t.credential, &e.Ended, &at)
	if errors.Is(err, sql.ErrNoRows) {
		return Entry{}, t, false, nil
	}
	if err == nil && t.handle != "" {
		err = json.Unmarshal([]byte(t.handle), &e.Handle)
	}
	if err == nil && t.credential != "" {
		err = json.Unmarshal([]byte(t.credential), &e.Credential)
	}
	if err != nil {
		return Entry{}, t, false, fmt.Errorf("read ledger: %w", explain(err))
	}
	if e.Ended != "" {
		e.EndedAt = time.UnixMilli(at).UTC()
	}
	return e, t, true, nil
}

func (t *tx) entry(request string) (e Entry, found bool, err error) {
	err = t.read(func(row scanner) error {
		e, found, err = scanEntry(row)
		return err
	}, entryQuery+" WHERE request = ?", request)
	return e, found, err
}

func (t *tx) put(e Entry) error {
	text, err := e.texts()
	if err != nil {
		return fmt.Errorf("write ledger: %w", err)
	}
	var at int64
	if e.Ended != "" {
		at = e.EndedAt.UnixMilli()
	}
	t.write(putEntry, e.Request, e.RequestHash, text.handle, text.credential, string(e.Ended), at)
	return nil
}

// texts are an entry's columns of JSON.
type texts struct{ handle, credential string }

func (e Entry) texts() (texts, error) {
	var handle, credential []byte
	var err error
	if e.Handle != nil {
		handle, err = json.Marshal(e.Handle)
	}
	if e.Credential != nil && err == nil {
		credential, err = json.Marshal(e.Credential)
	}
	return texts{string(handle), string(credential)}, err
}

const putEntry = `INSERT INTO ledger (request, hash, handle, credential, ended, ended_at) VALUES (?, ?, ?, ?, ?, ?)
	ON CONFLICT (request) DO UPDATE SET hash = excluded.hash, handle = excluded.handle, credential = excluded.credential,
	ended = excluded.ended, ended_at = excluded.ended_at`

func equalJSON(a, b any) (bool, error) {
	x, err := json.Marshal(a)
	if err != nil {
		return false, err
	}
	y, err := json.Marshal(b)
	return err == nil && string(x) == string(y), err
}
