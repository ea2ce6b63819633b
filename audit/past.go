package audit

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"hallpass/access"
)

// Bounds on how far Past looks back.
const (
	maxPast = 100 // grants and requests
	maxLast = 3   // grants that are named
)

// Past is what the log says of a requester's earlier requests, for people to
// compare a new one with. The request named is left out. It is what the columns,
// the ledger and the events of the last few grants say, unverified, and no more
// than the last hundred of each: somebody waits for it whenever people are asked,
// so no other event is read.
func (r *Reader) Past(ctx context.Context, requester, resource, request string) (access.Past, error) {
	var past access.Past
	conn, end, err := r.snapshot(ctx)
	if err != nil {
		return past, err
	}
	defer end()
	// Both are told by the index events_past alone.
	err = scan(ctx, conn, func(row scanner) error {
		var at int64
		if err := row.Scan(&at); err != nil {
			return err
		}
		if past.Hours == nil {
			past.Hours = make([]int, 24)
		}
		past.Asked++
		past.Hours[time.UnixMilli(at).UTC().Hour()]++
		return nil
	}, `SELECT time FROM events WHERE requester = ? AND requester <> '' AND type = ? AND request <> ? AND time >= 0 ORDER BY idx DESC LIMIT ?`,
		requester, RequestReceived, request, maxPast)
	if err != nil {
		return past, err
	}
	type issued struct {
		idx     int64
		request string
	}
	var last []issued
	err = scan(ctx, conn, func(row scanner) error {
		var i issued
		var text string
		if err := row.Scan(&i.idx, &i.request, &text); err != nil {
			return err
		}
		if len(last) < maxLast {
			last = append(last, i)
		}
		past.Grants++
		var h access.Handle
		if text == "" || json.Unmarshal([]byte(text), &h) != nil {
			return nil // verify says what is wrong with the ledger; this decides nothing
		}
		past.Longest = max(past.Longest, access.InSeconds(h.NotAfter.Sub(h.NotBefore)))
		return nil
	}, `SELECT those.idx, those.request, coalesce(ledger.handle, '') FROM
		(SELECT idx, request FROM events WHERE requester = ? AND requester <> '' AND type = ? AND resource = ? ORDER BY idx DESC LIMIT ?) AS those
		LEFT JOIN ledger ON ledger.request = those.request ORDER BY those.idx DESC`,
		requester, CredentialIssued, resource, maxPast)
	if err != nil {
		return past, err
	}
	for _, i := range last {
		var g Grant
		for rec, err := range events(ctx, conn, Query{Request: i.request, After: i.idx}) {
			switch {
			case err != nil:
				return past, err
			case rec.Index > i.idx:
				g.end(&rec.Event)
				continue
			}
			if g, err = grantOf(rec.Index, &rec.Event); err != nil {
				return past, broken("event %d: %v", rec.Index, err)
			}
		}
		past.Last = append(past.Last, access.PastGrant{
			Request: g.Request, From: g.From, Until: g.Until, Ended: g.Ended, Login: g.Login, ApprovedBy: g.ApprovedBy,
		})
	}
	return past, nil
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
