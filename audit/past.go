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
// so no other event is read, and none twice. Each of the three is as of a moment
// within the call.
func (r *Reader) Past(ctx context.Context, requester, resource, request string) (access.Past, error) {
	var past access.Past
	// Both are told by the index events_past alone.
	requests, grants := [2]string{requester, ""}, [2]string{requester, resource}
	asked, err := r.past.get(requests).read(ctx, r.db, maxPast+1, func(row scanner, e *doneEvent) error {
		return row.Scan(&e.index, &e.request, &e.at)
	}, `SELECT idx, request, time FROM events WHERE requester = ? AND requester <> '' AND type = ? AND idx >= ? AND time >= 0 ORDER BY idx DESC LIMIT %d`,
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
	had, err := r.past.get(grants).read(ctx, r.db, maxPast, func(row scanner, e *doneEvent) error {
		var handle string
		err := row.Scan(&e.index, &e.request, &handle)
		var h access.Handle
		if handle != "" && json.Unmarshal([]byte(handle), &h) == nil { // verify says what is wrong with the ledger; this decides nothing
			e.length = access.InSeconds(h.NotAfter.Sub(h.NotBefore))
		}
		return err
	}, `SELECT those.idx, those.request, coalesce(ledger.handle, '') FROM
		(SELECT idx, request FROM events WHERE requester = ? AND requester <> '' AND type = ? AND resource = ? AND idx >= ? ORDER BY idx DESC LIMIT %d) AS those
		LEFT JOIN ledger ON ledger.request = those.request ORDER BY those.idx DESC`,
		requester, CredentialIssued, resource)
	if err != nil {
		return past, err
	}
	past.Grants = len(had.events)
	var last []Grant
	for i := range had.events {
		e := &had.events[i]
		past.Longest = max(past.Longest, e.length)
		if i >= maxLast {
			e.grant = nil
			continue
		}
		if err := e.issued(ctx, r.db); err != nil {
			return past, err
		}
		last = append(last, *e.grant)
	}
	if err := howEnded(ctx, r.db, last); err != nil {
		return past, err
	}
	for _, g := range last {
		past.Last = append(past.Last, access.PastGrant{
			Request: g.Request, From: g.From, Until: g.Until, Ended: g.Ended, Login: g.Login, ApprovedBy: g.ApprovedBy,
		})
	}
	r.past.put(grants, had)
	return past, nil
}

// read is d with the newest events of its kind, which a query tells after its arguments
// from where on, and in its text how many at most: SQLite looks at a limit that is an
// argument when it prepares the query, and would do that anew each time.
func (d done) read(ctx context.Context, q querier, most int, each func(scanner, *doneEvent) error, query string, args ...any) (done, error) {
	var found []doneEvent
	err := scan(ctx, q, func(row scanner) error {
		var e doneEvent
		err := each(row, &e)
		found = append(found, e)
		return err
	}, fmt.Sprintf(query, most), append(args, d.next)...)
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

// issued reads the grant whose event e is, as it was issued, if nobody has yet.
func (e *doneEvent) issued(ctx context.Context, q querier) error {
	if e.grant != nil {
		return nil
	}
	var leaf []byte
	if err := q.QueryRowContext(ctx, "SELECT leaf FROM events WHERE idx = ?", e.index).Scan(&leaf); err != nil {
		return fmt.Errorf("read audit log: %w", explain(err))
	}
	event, err := ParseEvent(leaf)
	if err == nil {
		var g Grant
		g, err = grantOf(e.index, &event)
		e.grant = &g
	}
	if err != nil {
		return broken("event %d: %v", e.index, err)
	}
	return nil
}

// howEnded says of grants how and when they ended, those that have.
func howEnded(ctx context.Context, q querier, grants []Grant) error {
	if len(grants) == 0 {
		return nil
	}
	var ids [maxLast]any // the query is the same for fewer
	for i := range ids {
		ids[i] = grants[min(i, len(grants)-1)].Request
	}
	return scan(ctx, q, func(row scanner) error {
		var index int64
		var leaf []byte
		if err := row.Scan(&index, &leaf); err != nil {
			return err
		}
		e, err := ParseEvent(leaf)
		if err != nil {
			return broken("event %d: %v", index, err)
		}
		for i := range grants {
			grants[i].end(&e)
		}
		return nil
	}, "SELECT idx, leaf FROM events WHERE request IN (?, ?, ?) AND step = '"+stepEnded+"' AND step <> ''", ids[:]...)
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
