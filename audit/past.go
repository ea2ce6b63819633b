package audit

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

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
	err = scan(ctx, conn, func(row scanner) error {
		var hour, asked int
		if err := row.Scan(&hour, &asked); err != nil {
			return err
		}
		if past.Hours == nil {
			past.Hours = make([]int, 24)
		}
		past.Asked += asked
		past.Hours[hour] += asked
		return nil
	}, `SELECT time / 3600000 % 24, count(*) FROM
		(SELECT time FROM events WHERE requester = ? AND type = ? AND request <> ? AND time >= 0 ORDER BY idx DESC LIMIT ?) AS those GROUP BY 1`,
		requester, RequestReceived, request, maxPast)
	if err != nil {
		return past, err
	}
	err = scan(ctx, conn, func(row scanner) error {
		var text string
		if err := row.Scan(&text); err != nil {
			return err
		}
		past.Grants++
		var h access.Handle
		if text == "" || json.Unmarshal([]byte(text), &h) != nil {
			return nil // verify says what is wrong with the ledger; this decides nothing
		}
		past.Longest = max(past.Longest, access.InSeconds(h.NotAfter.Sub(h.NotBefore)))
		return nil
	}, `SELECT coalesce(ledger.handle, '') FROM
		(SELECT request FROM events WHERE requester = ? AND resource = ? AND type = ? ORDER BY idx DESC LIMIT ?) AS those
		LEFT JOIN ledger ON ledger.request = those.request`,
		requester, resource, CredentialIssued, maxPast)
	if err != nil {
		return past, err
	}
	var grants []Grant
	for rec, err := range events(ctx, conn, Query{Requester: requester, Resource: resource, Type: CredentialIssued, Limit: maxLast, Last: true}) {
		if err != nil {
			return past, err
		}
		g, err := grantOf(rec.Index, &rec.Event)
		if err != nil {
			return past, broken("event %d: %v", rec.Index, err)
		}
		grants = append(grants, g)
	}
	for _, g := range slices.Backward(grants) {
		for rec, err := range events(ctx, conn, Query{Request: g.Request, After: g.Index + 1}) {
			if err != nil {
				return past, err
			}
			g.end(&rec.Event)
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
