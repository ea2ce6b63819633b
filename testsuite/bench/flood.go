package main

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"hallpass/access"
	"hallpass/statement"
	"hallpass/testsuite/measure"
)

const (
	floodRate = 1000 // that are offered a second
	floodEach = 2000 // signals to one request: Temporal takes no more
	floodOver = 16   // requests at a time: Temporal takes the signals of one in turn
	flooders  = 128  // on their way at a time

	// So many revocations, of which the slowest hundredth is more than one; or as
	// many as there are within so much time.
	floodRevoked = 200
	floodTime    = 10 * time.Minute

	warmRevocations = 3 // before any of them
)

// floods are what alice sends without end.
var floods = []struct {
	name  string
	taken string // what came of those that were taken
	begin func(*world) (flood, error)
}{
	{"bad signals", "taken", (*world).signals},
	{"requests", "taken", (*world).requests},
	{"statements through the service", "let in", (*world).statements},
}

// flood makes the next thing to send. It is called by one goroutine; what sends it,
// and says whether it was taken, is called by many.
type flood func(context.Context) (send func(context.Context) bool, err error)

// flood measures what the revocation of carol's grants takes by way of the service, and
// how much memory hallpass, before and while alice sends as many of something as she can,
// up to floodRate. Each flood has a world of its own.
func (b *bench) flood() error {
	roles := append(slices.Clone(making), "service")
	for _, f := range floods {
		err := b.apart(roles, bareTogether, func(w *world, parts []part) error {
			parts = parts[:1+len(roles)]
			send, err := f.begin(w)
			if err != nil {
				return err
			}
			if err := b.revocationsUnder(w, parts, f.name, nil, ""); err != nil {
				return err
			}
			return b.revocationsUnder(w, parts, f.name, send, f.taken)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// revocationsUnder measures revocations under a flood; nil: before it.
func (b *bench) revocationsUnder(w *world, parts []part, name string, f flood, taken string) error {
	n, within := b.times(floodRevoked), time.Duration(b.scale*float64(floodTime))
	grants, err := w.grants(b.ctx, "carol", n+warmRevocations)
	if err != nil {
		return err
	}
	env := append(w.env("bob"), "HALLPASS_SERVICE="+w.Service)
	if _, _, _, err := b.revocations(w, env, grants[:warmRevocations], time.Hour); err != nil {
		return err
	}
	grants = grants[warmRevocations:]
	for _, p := range parts {
		if err := forget(p.pid); err != nil {
			return err
		}
	}
	ctx, stop := context.WithCancel(b.ctx)
	defer stop()
	var sent sending
	done := make(chan error, 1)
	began := time.Now()
	go func() { done <- sent.pour(ctx, f) }()
	arrived, command, unanswered, err := b.revocations(w, env, grants, within)
	took := time.Since(began).Seconds()
	stop()
	if err := errors.Join(err, <-done); err != nil {
		return err
	}

	const list, answer = "command to list at the host", "command to its answer"
	before, under := ", before "+name, ", under "+name
	rows := []row{
		{Name: list + before, Also: map[string]float64{"revocations": float64(len(arrived))}},
		{Name: answer + before, Also: map[string]float64{}},
	}
	for k, t := range []measure.Times{arrived, command} {
		rows[k].P50, rows[k].P99, rows[k].N = t.At(0.5).Seconds(), t.At(0.99).Seconds(), len(t)
	}
	if f != nil {
		rows[0].Name, rows[0].Base = list+under, list+before
		rows[1].Name, rows[1].Base = answer+under, answer+before
		if unanswered > 0 {
			rows[1].Also["without an answer"] = float64(unanswered)
		}
		rows[0].Also["sent/s"], rows[0].Also[taken+"/s"] = float64(sent.all.Load())/took, float64(sent.taken.Load())/took
	}
	for _, p := range parts {
		mib, err := peak(p.pid)
		if err != nil {
			return err
		}
		rows[1].Also["MiB "+p.name] = mib
	}
	for _, r := range rows {
		b.add(r)
	}
	return nil
}

// sending counts what has been sent and answered.
type sending struct{ all, taken atomic.Int64 }

// pour sends what a flood makes until ctx ends.
func (s *sending) pour(ctx context.Context, f flood) error {
	if f == nil {
		return nil
	}
	var senders sync.WaitGroup
	defer senders.Wait()
	seats := make(chan struct{}, flooders)
	began := time.Now()
	for n := range time.Duration(1 << 40) {
		// Who was late catches up.
		due := time.NewTimer(time.Until(began.Add(n * time.Second / floodRate)))
		select {
		case <-ctx.Done():
			due.Stop()
			return nil
		case <-due.C:
		}
		send, err := f(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case seats <- struct{}{}:
		}
		senders.Go(func() {
			defer func() { <-seats }()
			taken := send(ctx)
			if ctx.Err() != nil {
				return
			}
			s.all.Add(1)
			if taken {
				s.taken.Add(1)
			}
		})
	}
	return nil
}

// signals are bad ones, to requests of alice's.
func (w *world) signals() (flood, error) {
	var targets []asked
	var bad [][]access.Statement
	n := 0
	names := []string{access.MessageDecision, access.MessageRevoke, access.MessageRelease}
	return func(ctx context.Context) (func(context.Context) bool, error) {
		if n%(floodEach*floodOver) == 0 {
			targets, bad = nil, nil
			for range floodOver {
				a, err := w.ask(ctx, "ssh/web-1", time.Hour)
				all, berr := w.bad(a)
				if err := errors.Join(err, berr); err != nil {
					return nil, err
				}
				targets, bad = append(targets, a), append(bad, all)
			}
		}
		to, k := n%floodOver, n/floodOver
		id, message, st := access.WorkflowID(targets[to].request.ID), names[k%len(names)], bad[to][k%len(bad[to])]
		n++
		return func(ctx context.Context) bool { return w.Client.SignalWorkflow(ctx, id, "", message, st) == nil }, nil
	}, nil
}

// requests are alice's, of which every other is granted by itself.
func (w *world) requests() (flood, error) {
	n := 0
	return func(context.Context) (func(context.Context) bool, error) {
		n++
		resource := []string{"ssh/web-2", "ssh/web-1"}[n%2]
		return func(ctx context.Context) bool {
			_, err := w.ask(ctx, resource, long)
			return err == nil
		}, nil
	}, nil
}

// statements are what alice sends to the service: a request, and then
// something bad about one.
func (w *world) statements() (flood, error) {
	c, ca, err := w.https()
	if err != nil {
		return nil, err
	}
	var about asked
	var token string
	n := 0
	return func(context.Context) (_ func(context.Context) bool, err error) {
		if n%(10*floodRate) == 0 { // long before the last one is over
			if token, err = w.token("alice", ca); err != nil {
				return nil, err
			}
		}
		path, st := "/v1/requests", access.Statement{}
		if n%2 == 0 {
			if about.request, about.signed, err = w.sign("alice", []string{"ssh/web-2", "ssh/web-1"}[n/2%2], long); err != nil {
				return nil, err
			}
			st = about.signed
		} else {
			bad, err := w.bad(about)
			if err != nil {
				return nil, err
			}
			path, st = path+"/"+about.request.ID+"/"+access.MessageDecision, bad[n/2%len(bad)]
		}
		n++
		with := token
		return func(ctx context.Context) bool {
			code, err := post(ctx, c, w.Service+path, with, st)
			return err == nil && code != http.StatusTooManyRequests
		}, nil
	}, nil
}

// token is a read statement of somebody's for the service with a CA.
func (w *world) token(who string, ca *x509.Certificate) (string, error) {
	h := w.people.Header(who, access.TypeRead)
	st, err := w.people.Sign(who, access.Read{Header: h, Audience: access.Audience(ca.Raw), Until: h.Time.Add(access.MaxRead)})
	if err != nil {
		return "", err
	}
	return statement.Token(st)
}

// post sends a statement to the service.
func post(ctx context.Context, c *http.Client, url, token string, st access.Statement) (code int, err error) {
	data, err := json.Marshal(st)
	if err != nil {
		return 0, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(data))
	if err != nil {
		return 0, err
	}
	req.Header.Set("Authorization", "Bearer "+token)
	req.Header.Set("Content-Type", "application/json")
	resp, err := c.Do(req)
	if err != nil {
		return 0, err
	}
	_, err = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode, errors.Join(err, resp.Body.Close())
}

// bad are statements that somebody may send and that change nothing.
func (w *world) bad(a asked) (all []access.Statement, err error) {
	own, err := w.people.Sign("alice", access.Decision{
		Header: w.people.Header("alice", access.TypeDecision), Request: a.request.ID, RequestHash: a.signed.Hash(), Verdict: access.Approve,
	})
	forged := own
	forged.Payload += " "
	return []access.Statement{own, forged, {}, {Payload: "{}"}, a.signed}, err
}
