package audit

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"

	"golang.org/x/mod/sumdb/tlog"

	"hallpass/access"
	"hallpass/statement"
)

// proofFormat names the format of proofs.
const proofFormat = "hallpass-audit-proof/1"

// maxProof bounds a proof that is read, in bytes.
const maxProof = 64 << 20

// Proof is all that the log has on one request, with proof that it is in the
// log: whoever has it and the log's public key needs nothing else to verify
// every signature in it and to judge again what was issued. It can't show
// that its maker put all events of the request in, nor what was recorded after
// its checkpoint.
type Proof struct {
	Format     string   `json:"format"`
	Request    string   `json:"request"`
	Checkpoint string   `json:"checkpoint"` // a signed note
	Events     []Proven `json:"events"`     // the request's, the lock that ended it, the enrolment of hosts that report on it, and the rulebook files they cite, in the order of the log
}

// Proven is an event and its inclusion proof (RFC 6962, section 2.1.1).
type Proven struct {
	Index int64            `json:"index"`
	Leaf  string           `json:"leaf"`
	Path  tlog.RecordProof `json:"path"` // from the leaf's sibling up to the root's child, base64 each
}

// Prove collects the proof of a request, by its full id.
func (r *Reader) Prove(ctx context.Context, request string) (Proof, error) {
	conn, end, err := r.snapshot(ctx)
	if err != nil {
		return Proof{}, err
	}
	defer end()
	t, msg, err := loadTree(ctx, r.db, conn, r.open)
	if err != nil {
		return Proof{}, err
	}
	records := map[int64]Record{}
	take := func(q Query) (found []Record, err error) {
		for rec, err := range events(ctx, conn, q) {
			if err != nil {
				return nil, err
			}
			records[rec.Index] = rec
			found = append(found, rec)
		}
		return found, nil
	}
	own, err := take(Query{Request: request})
	if err != nil {
		return Proof{}, err
	}
	if request == "" || len(own) == 0 {
		return Proof{}, access.Errorf(access.CodeNotFound, "request %q is not in the audit log", clip(request))
	}
	for _, rec := range own {
		lock, err := statement.ParseLock(payloadOf(rec))
		if err != nil || rec.Event.Type == StatementRefused {
			continue
		}
		locks, err := take(Query{Type: LockSet, step: lockStep(lock.ID)})
		if err != nil {
			return Proof{}, err
		}
		own = append(own, locks...)
	}
	known, err := enrolments(ctx, conn, own)
	if err != nil {
		return Proof{}, err
	}
	for _, rec := range known {
		records[rec.Index] = rec
		own = append(own, rec)
	}
	for _, rec := range own {
		steps, err := filesOf(ctx, conn, rec)
		if err != nil {
			return Proof{}, err
		}
		for _, step := range steps {
			if _, err := take(Query{Type: RulebookChanged, step: step}); err != nil {
				return Proof{}, err
			}
		}
	}
	p := Proof{Format: proofFormat, Request: request, Checkpoint: string(msg)}
	reader := hashReader(ctx, conn)
	for _, rec := range records {
		path, err := tlog.ProveRecord(t.size, rec.Index, reader)
		if err != nil {
			return Proof{}, fmt.Errorf("prove event %d: %w", rec.Index, err)
		}
		p.Events = append(p.Events, Proven{Index: rec.Index, Leaf: string(rec.Leaf), Path: path})
	}
	slices.SortFunc(p.Events, func(a, b Proven) int { return int(a.Index - b.Index) })
	return p, nil
}

// payloadOf is what the statement in an event says, nil if there is none.
func payloadOf(rec Record) []byte {
	if rec.Event.Statement == nil {
		return nil
	}
	return []byte(rec.Event.Statement.Payload)
}

// filesOf lists the steps of the files that an event was judged by.
func filesOf(ctx context.Context, q querier, rec Record) ([]string, error) {
	var steps []string
	if d := rec.Event.digests(); d != nil {
		for _, f := range each(d) {
			if f.digest != "" {
				steps = append(steps, fileStep(f.name, f.digest))
			}
		}
		return steps, nil
	}
	for _, name := range []string{FilePolicy, FileDirectory, FileCatalog} {
		var step string
		err := q.QueryRowContext(ctx, `SELECT coalesce(max(step), '') FROM events WHERE idx =
			(SELECT max(idx) FROM events WHERE request = '' AND type = ? AND substr(step, 1, ?) = ? AND idx < ?)`,
			RulebookChanged, len(name)+1, name+" ", rec.Index).Scan(&step)
		if err != nil {
			return nil, fmt.Errorf("read audit log: %w", explain(err))
		}
		if step != "" {
			steps = append(steps, step)
		}
	}
	return steps, nil
}

// ParseProof reads a proof strictly. It verifies nothing.
func ParseProof(data []byte) (Proof, error) {
	var p Proof
	if len(data) > maxProof {
		return p, access.Errorf(access.CodeMalformed, "proof is longer than %d bytes", maxProof)
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(&p); err != nil {
		return Proof{}, access.Errorf(access.CodeMalformed, "proof is not the JSON it should be: %v", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return Proof{}, access.Errorf(access.CodeMalformed, "proof has data after its end")
	}
	if p.Format != proofFormat {
		return Proof{}, access.Errorf(access.CodeMalformed, "proof has the format %q, not %s", clip(p.Format), proofFormat)
	}
	if p.Request == "" || len(p.Events) == 0 {
		return Proof{}, access.Errorf(access.CodeMalformed, "proof is of nothing")
	}
	return p, nil
}

// CheckProof verifies a proof (JSON, as Proof is written) with the log's
// public key and nothing else: the checkpoint's signature, that each event is
// in the log, every signature in the events, and that what was issued was
// allowed by the files of the day. What is wrong is in the report; the error
// says that it is no proof of this log at all.
func CheckProof(data []byte, key string) (Report, error) {
	verifier, err := parsePublicKey(key)
	if err != nil {
		return Report{}, err
	}
	p, err := ParseProof(data)
	if err != nil {
		return Report{}, err
	}
	c, err := openCheckpoint([]byte(p.Checkpoint), verifier)
	if err != nil {
		return Report{}, err
	}
	report := Report{Log: (&Reader{verifier: verifier}).PublicKey(), Request: p.Request, Checkpoint: p.Checkpoint, Size: c.Size}
	life := newReplay(&report)
	life.partial = true
	own := false
	last := int64(-1)
	for _, x := range p.Events {
		if x.Index <= last || x.Index >= c.Size {
			report.problem(x.Index, nil, "it is out of order, or not covered by the checkpoint of size %d", c.Size)
			continue
		}
		last = x.Index
		report.Events++
		e, err := ParseEvent([]byte(x.Leaf))
		if err != nil {
			report.problem(x.Index, nil, "%v", err)
			continue
		}
		if err := tlog.CheckRecord(x.Path, c.Size, c.Root, x.Index, tlog.RecordHash([]byte(x.Leaf))); err != nil {
			report.problem(x.Index, &e, "it is not in the log: its inclusion proof doesn't lead to the checkpoint's root")
			continue
		}
		if e.Request != p.Request && e.Type != RulebookChanged && e.Type != LockSet && e.Type != HostEnrolled {
			report.problem(x.Index, &e, "it is not about the request that the proof is of")
			continue
		}
		own = own || e.Request == p.Request
		life.event(x.Index, &e)
		if report.Grant != nil {
			report.Grant.end(&e)
		} else if e.Type == CredentialIssued {
			if g, err := grantOf(x.Index, &e); err != nil {
				report.problem(x.Index, &e, "%v", err)
			} else {
				report.Grant = &g
			}
		}
	}
	if !own {
		report.problem(-1, nil, "no event in the proof is about request %s", clip(p.Request))
	}
	report.OK = len(report.Problems) == 0
	return report, nil
}
