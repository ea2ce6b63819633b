//go:build linux

package host

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"hallpass/access"
	"hallpass/statement"
)

// maxQueue bounds the reports that wait, about 150 MB. Beyond it new ones are
// dropped: the old ones are the ones that somebody may want gone.
const maxQueue = 100_000

// batch is how many reports go in one message.
const batch = 100

// reports is the queue on disk, a file for each report, named by its id and
// so in the order in which they were made. A report leaves it once the service
// has it in the audit log; that the service gets one twice does no harm.
type reports struct {
	dir  string
	host string
	key  ssh.Signer
	log  *slog.Logger
	now  func() time.Time

	wake chan struct{} // holds one

	mu      sync.Mutex
	count   int
	dropped int
}

func openReports(dir, host string, key ssh.Signer, now func() time.Time, log *slog.Logger) (*reports, error) {
	q := &reports{dir: dir, host: host, key: key, now: now, log: log, wake: make(chan struct{}, 1)}
	names, err := q.names()
	q.count = len(names)
	return q, err
}

// add queues what happened. It is on disk when add returns; that it can't be
// is an error in the log and no reason to keep a session alive.
func (q *reports) add(e event) {
	if err := q.try(e); err != nil {
		q.mu.Lock()
		q.dropped++
		q.mu.Unlock()
		q.log.Error("report is lost", "event", e.What, "session", e.Session.ID, "error", err)
	}
}

func (q *reports) try(e event) error {
	q.mu.Lock()
	full := q.count >= maxQueue
	q.mu.Unlock()
	if full {
		return fmt.Errorf("%d reports wait already", maxQueue)
	}
	h := access.Header{Type: access.TypeSession, ID: statement.NewID(), Signer: q.host, Time: statement.Time(q.now())}
	st, err := statement.Sign(q.key, access.Session{
		Header: h, Event: e.What, Request: e.grant.request, Serial: e.grant.cert.Serial, KeyID: e.grant.cert.KeyId,
		Login: e.Session.Login, Source: e.Session.Source, Session: e.Session.ID, Why: e.Why,
	})
	if err != nil {
		return err
	}
	data, err := json.Marshal(st)
	if err != nil {
		return err
	}
	if err := write(filepath.Join(q.dir, h.ID+".json"), data, 0o600); err != nil {
		return err
	}
	q.mu.Lock()
	q.count++
	q.mu.Unlock()
	q.poke()
	return nil
}

func (q *reports) poke() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// names are the reports that wait, oldest first.
func (q *reports) names() ([]string, error) {
	entries, err := os.ReadDir(q.dir)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if filepath.Ext(e.Name()) == ".json" && !e.IsDir() {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// sent is one report in a message.
type sent struct {
	ID        string           `json:"id"`
	Statement access.Statement `json:"statement"`
}

// deliver sends what waits, until nothing does. An error says why something
// still does.
func (q *reports) deliver(ctx context.Context, s *service) error {
	for {
		names, err := q.names()
		if err != nil || len(names) == 0 {
			return err
		}
		var message struct {
			Host    string `json:"host"`
			Reports []sent `json:"reports"`
		}
		message.Host = q.host
		for _, name := range names[:min(len(names), batch)] {
			data, err := os.ReadFile(filepath.Join(q.dir, name))
			if err != nil {
				return err
			}
			r := sent{ID: name[:len(name)-len(".json")]}
			if err := json.Unmarshal(data, &r.Statement); err != nil {
				if err := q.setAside(r.ID, "it can't be read"); err != nil {
					return err
				}
				continue
			}
			message.Reports = append(message.Reports, r)
		}
		if len(message.Reports) == 0 {
			continue
		}
		var reply struct {
			Accepted []string `json:"accepted"`
			Refused  []struct {
				ID      string      `json:"id"`
				Code    access.Code `json:"code"`
				Message string      `json:"message"`
			} `json:"refused"`
		}
		if err := s.post(ctx, "/v1/sessions", message, &reply); err != nil {
			return err
		}
		waiting := map[string]bool{}
		for _, r := range message.Reports {
			waiting[r.ID] = true
		}
		done := 0
		for _, id := range reply.Accepted {
			if !waiting[id] {
				continue
			}
			if err := os.Remove(filepath.Join(q.dir, id+".json")); err != nil {
				return err
			}
			q.left()
			done++
		}
		for _, r := range reply.Refused {
			if !waiting[r.ID] || r.Code == access.CodeUnavailable {
				continue
			}
			if err := q.setAside(r.ID, clean(r.Message)); err != nil {
				return err
			}
			done++
		}
		if done == 0 {
			return access.Errorf(access.CodeUnavailable, "the service took none of %d reports", len(message.Reports))
		}
	}
}

// setAside takes a report out of the queue that the service will never take.
// It is kept for people.
func (q *reports) setAside(id, why string) error {
	q.log.Error("report is refused", "report", id, "why", why)
	dir := filepath.Join(q.dir, "refused")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if err := os.Rename(filepath.Join(q.dir, id+".json"), filepath.Join(dir, id+".json")); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	q.left()
	return nil
}

func (q *reports) left() {
	q.mu.Lock()
	q.count--
	q.mu.Unlock()
}

// waiting says how many reports wait, and how many were lost since the start.
func (q *reports) waiting() (count, dropped int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.count, q.dropped
}
