package audit

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"time"

	"hallpass/access"
)

// Bounds on how far Past looks back.
const (
	maxPast = 100 // grants and requests
	maxLast = 3   // grants that are named
)

// maxPasts bounds of how many requesters, and of how many pairs of one with a resource,
// it is remembered what has been read. Each takes up to 10 KiB.
const maxPasts = 500

// pastCache is what a Reader has read so far of what people did: of each requester the
// last requests, with "" for the resource, and of both the last grants.
type pastCache struct {
	mu    sync.Mutex // of the map: nobody waits for what somebody else reads
	known map[[2]string]done
}

func (c *pastCache) get(key [2]string) done {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.known[key]
}

func (c *pastCache) put(key [2]string, d done) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.known[key]; !ok && (c.known == nil || len(c.known) >= maxPasts) {
		c.known = map[[2]string]done{}
	}
	c.known[key] = d
}

// done are the last things that somebody did, the latest first. That they took place
// doesn't change any more, nor does what is in a pastCache: who reads on has a copy.
type done struct {
	next   int64 // the events from here on haven't been read
	events []doneEvent
}

type doneEvent struct {
	index   int64
	request string
	at      int64          // of a request: milliseconds since 1970
	length  access.Seconds // of a grant
	grant   *Grant         // as it was issued; nil until it is asked for
}

// Past is what the log says of a requester's earlier requests, for people to
// compare a new one with. The request named is left out. It is what the columns,
// the ledger and the events of the last few grants say, unverified, and no more
// than the last hundred of each: somebody waits for it whenever people are asked,
// so no other event is read, and none twice but those that ended the last grants.
func (r *Reader) Past(ctx context.Context, requester, resource, request string) (access.Past, error) {
	var past access.Past
	conn, end, err := r.snapshot(ctx)
	if err != nil {
		return past, err
	}
	defer end()
	// Both are told by the index events_past alone.
	requests, grants := [2]string{requester, ""}, [2]string{requester, resource}
	asked, err := r.past.get(requests).read(ctx, conn, maxPast+1, func(row scanner, e *doneEvent) error {
		return row.Scan(&e.index, &e.request, &e.at)
	}, `SELECT idx, request, time FROM events WHERE requester = ? AND requester <> '' AND type = ? AND idx >= ? AND time >= 0 ORDER BY idx DESC LIMIT ?`,
		requester, RequestReceived)
	if err != nil {
		return past, err
	}
	r.past.put(requests, asked)
	for _, e := range asked.events {
		if e.request == request || past.Asked == maxPast {
			continue
		}
		if past.Hours == nil {
			past.Hours = make([]int, 24)
		}
		past.Asked++
		past.Hours[time.UnixMilli(e.at).UTC().Hour()]++
	}
	had, err := r.past.get(grants).read(ctx, conn, maxPast, func(row scanner, e *doneEvent) error {
		var handle string
		err := row.Scan(&e.index, &e.request, &handle)
		var h access.Handle
		if handle != "" && json.Unmarshal([]byte(handle), &h) == nil { // verify says what is wrong with the ledger; this decides nothing
			e.length = access.InSeconds(h.NotAfter.Sub(h.NotBefore))
		}
		return err
	}, `SELECT those.idx, those.request, coalesce(ledger.handle, '') FROM
		(SELECT idx, request FROM events WHERE requester = ? AND requester <> '' AND type = ? AND resource = ? AND idx >= ? ORDER BY idx DESC LIMIT ?) AS those
		LEFT JOIN ledger ON ledger.request = those.request ORDER BY those.idx DESC`,
		requester, CredentialIssued, resource)
	if err != nil {
		return past, err
	}
	past.Grants = len(had.events)
	for i := range had.events {
		e := &had.events[i]
		past.Longest = max(past.Longest, e.length)
		if i >= maxLast {
			e.grant = nil
			continue
		}
		g, err := e.granted(ctx, conn)
		if err != nil {
			return past, err
		}
		past.Last = append(past.Last, access.PastGrant{
			Request: g.Request, From: g.From, Until: g.Until, Ended: g.Ended, Login: g.Login, ApprovedBy: g.ApprovedBy,
		})
	}
	r.past.put(grants, had)
	return past, nil
}

// read is d with the newest events of its kind, which a query tells after its arguments
// from where on and how many at most.
func (d done) read(ctx context.Context, q querier, most int, each func(scanner, *doneEvent) error, query string, args ...any) (done, error) {
	var found []doneEvent
	err := scan(ctx, q, func(row scanner) error {
		var e doneEvent
		err := each(row, &e)
		found = append(found, e)
		return err
	}, query, append(args, d.next, most)...)
	if err != nil {
		return done{}, err
	}
	if len(found) > 0 {
		d.next = found[0].index + 1
	}
	all := slices.Concat(found, d.events)
	d.events = all[:min(len(all), most)]
	return d, nil
}

// granted is the grant whose event e is, as it stands.
func (e *doneEvent) granted(ctx context.Context, q querier) (Grant, error) {
	var g Grant
	from := e.index
	if e.grant != nil {
		g, from = *e.grant, from+1
	}
	for rec, err := range events(ctx, q, Query{Request: e.request, After: from}) {
		switch {
		case err != nil:
			return g, err
		case rec.Index > e.index:
			g.end(&rec.Event)
			continue
		}
		if g, err = grantOf(rec.Index, &rec.Event); err != nil {
			return g, broken("event %d: %v", rec.Index, err)
		}
		issued := g
		e.grant = &issued
	}
	return g, nil
}

// scan gives each row of a query's result to each.
func scan(ctx context.Context, q querier, each func(scanner) error, query string, args ...any) error {
	rows, err := q.QueryContext(ctx, query, args...)
	if err != nil {
		return fmt.Errorf("read audit log: %w", explain(err))
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		if err := each(rows); err != nil {
			return fmt.Errorf("read audit log: %w", explain(err))
		}
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("read audit log: %w", explain(err))
	}
	return nil
}
