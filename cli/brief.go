package cli

import (
	"fmt"
	"strings"
	"time"

	"hallpass/access"
	"hallpass/audit"
)

// What is enough to say that somebody never asks at some time of the day.
const (
	habit = 10 // requests, at least
	hours = 1  // hours on either side that count as the same time
)

// brief is what an approver signs, and what helps to judge it, as fields to
// print: the hash that the decision is about, the files it was judged by, what
// is granted if others or this decision narrow it, what the requester had
// before, and what is unusual about it.
func (a *app) brief(p *printer, s access.Status, req access.Request, d access.Decision) (fields []any) {
	digests := s.Standing.Ruling.Digests
	if d.Verdict == access.Approve {
		fields = append(fields, "leaves", leaves(s, req, d.Duration))
	}
	past, whose := a.past(s, req)
	if past != nil {
		fields = append(fields, "before", before(*past, req.Resource)+whose)
		for _, g := range past.Last {
			fields = append(fields, "", a.grantLine(p, g))
		}
		for i, odd := range unusual(*past, req, a.now()) {
			label := "unusual"
			if i > 0 {
				label = ""
			}
			fields = append(fields, label, odd)
		}
	}
	return append(fields,
		"signs", "the request sha256:"+s.Evidence.Request.Hash(),
		"policy", digests.Policy, "directory", digests.Directory, "catalog", digests.Catalog)
}

// leaves says what is left of the duration asked for, where somebody grants
// less; "" where nobody does.
func leaves(s access.Status, req access.Request, mine access.Seconds) string {
	left, by := req.Duration, ""
	for _, v := range s.Standing.Voices {
		if v.Verdict == access.Approve && v.Duration != 0 && v.Duration < left {
			left, by = v.Duration, v.Who()
		}
	}
	if mine != 0 && mine < left {
		left, by = mine, "you"
	}
	if by == "" {
		return ""
	}
	return fmt.Sprintf("%s of the %s asked for, narrowed by %s", left, req.Duration, by)
}

// past is what the requester had before: by the audit log where that is on this
// machine, else by the word of the service.
func (a *app) past(s access.Status, req access.Request) (_ *access.Past, whose string) {
	var past access.Past
	err := a.withLog(func(r *audit.Reader) (err error) {
		past, err = r.Past(a.ctx, req.Signer, req.Resource, req.ID)
		return err
	})
	if err == nil {
		return &past, ", by the audit log"
	}
	return s.Past, ", by the service's word"
}

func before(past access.Past, resource string) string {
	switch past.Grants {
	case 0:
		return "no grant of " + resource
	case 1:
		return fmt.Sprintf("1 grant of %s, for %s", resource, past.Longest)
	}
	return fmt.Sprintf("%d grants of %s, the longest for %s", past.Grants, resource, past.Longest)
}

func (a *app) grantLine(p *printer, g access.PastGrant) string {
	line := p.at(g.From, a.now())
	if g.Login != "" {
		line += " as " + g.Login
	}
	line += " for " + access.ShortDuration(g.Until.Sub(g.From))
	if g.Ended != "" {
		line += ", " + string(g.Ended)
	} else {
		line += ", still " + string(access.StateActive)
	}
	if len(g.ApprovedBy) > 0 {
		line += ", approved by " + strings.Join(g.ApprovedBy, ", ")
	}
	return line
}

// unusual says what about a request isn't as the requester's earlier ones.
func unusual(past access.Past, req access.Request, now time.Time) (out []string) {
	switch {
	case past.Asked == 0:
		out = append(out, fmt.Sprintf("the first request of %s on record", req.Signer))
	case past.Grants == 0:
		out = append(out, fmt.Sprintf("the first time for %s on %s", req.Signer, req.Resource))
	case req.Duration > past.Longest:
		out = append(out, "longer than any grant before it")
	}
	at := now
	if req.Start != nil && req.Start.After(now) {
		at = *req.Start
	}
	if past.Asked >= habit && len(past.Hours) == 24 {
		near := 0
		for h := -hours; h <= hours; h++ {
			near += past.Hours[(at.UTC().Hour()+h+24)%24]
		}
		if near == 0 {
			out = append(out, fmt.Sprintf("at %s UTC; none of %d requests before was made around that time", at.UTC().Format("15:04"), past.Asked))
		}
	}
	return out
}
