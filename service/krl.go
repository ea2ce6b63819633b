package service

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"hallpass/access"
	"hallpass/audit"
	"hallpass/ca/krl"
)

const (
	// MaxWait is how long a client may wait for a newer list.
	MaxWait = 55 * time.Second

	// lookEvery is how often the source is asked for its version while
	// somebody waits: half of it is the delay of a revocation here.
	lookEvery = 20 * time.Millisecond

	slack = 15 * time.Second // to write an answer in, on top of the wait
)

// KRLSource is the part of audit.Reader that the service needs for lists.
type KRLSource interface {
	KRL(ctx context.Context) (audit.KRL, error)
	KRLVersion(ctx context.Context) (uint64, error)
}

// getKRL gives out the list in force as sshd reads it. With after=VERSION, or
// If-None-Match, it answers 304 if there is none newer, with wait=DURATION
// only once that time is over.
func (s *server) getKRL(w http.ResponseWriter, r *http.Request) {
	after, wait, err := krlQuery(r)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	patience(w, wait+slack)
	list, err := s.krl.newer(r.Context(), after, wait)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	h := w.Header()
	h.Set("Cache-Control", "max-age=1")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("ETag", etag(list.Version))
	h.Set("Vary", "If-None-Match")
	if list.Version <= after {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	h.Set(krl.SignatureHeader, krl.EncodeSignature(list.Signature))
	h.Set("Content-Type", "application/octet-stream")
	h.Set("Content-Length", strconv.Itoa(len(list.List)))
	w.WriteHeader(http.StatusOK)
	if r.Method != http.MethodHead {
		_, _ = w.Write(list.List)
	}
}

func etag(version uint64) string { return `"` + strconv.FormatUint(version, 10) + `"` }

// krlQuery reads what is asked for: the version that the client has, 0 for
// none, and how long it will wait.
func krlQuery(r *http.Request) (after uint64, wait time.Duration, err error) {
	q := r.URL.Query()
	for _, s := range []string{q.Get("after"), matches(r.Header.Get("If-None-Match"))} {
		if s == "" {
			continue
		}
		v, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			return 0, 0, access.Errorf(access.CodeMalformed, "after is not the version of a list")
		}
		after = max(after, v)
	}
	wait, err = waitOf(q)
	return after, wait, err
}

// waitOf is how long a client will wait.
func waitOf(q url.Values) (time.Duration, error) {
	s := q.Get("wait")
	if s == "" {
		return 0, nil
	}
	wait, err := time.ParseDuration(s)
	if err != nil || wait < 0 {
		return 0, access.Errorf(access.CodeMalformed, "wait is not a duration such as 25s")
	}
	return min(wait, MaxWait), nil
}

// matches is the version in an entity tag of ours, weak or not, "" if it is
// none.
func matches(tag string) string {
	tag = strings.TrimPrefix(strings.TrimSpace(tag), "W/")
	if version := strings.Trim(tag, `"`); len(tag) == len(version)+2 && strings.Trim(version, "0123456789") == "" {
		return version
	}
	return ""
}

// board has the list that was seen last, and those who wait for another.
type board struct {
	source KRLSource
	seats  chan struct{}
	looks  shared[audit.KRL]

	mu      sync.Mutex
	last    audit.KRL
	waiting int
	changed chan struct{} // is closed when last changes; nil while nobody waits
}

func newBoard(source KRLSource, seats int) *board {
	b := &board{source: source, seats: make(chan struct{}, seats)}
	b.looks = shared[audit.KRL]{ask: b.look, timeout: slack}
	return b
}

// newer returns the list in force as soon as it is newer than a version, or
// after the wait whatever it is.
func (b *board) newer(ctx context.Context, after uint64, wait time.Duration) (audit.KRL, error) {
	list, err := b.looks.get(ctx, true, nil)
	if err != nil || list.Version > after || wait == 0 {
		return list, err
	}
	select {
	case b.seats <- struct{}{}:
		defer func() { <-b.seats }()
	default:
		return audit.KRL{}, access.Errorf(access.CodeUnavailable, "%d clients wait already", cap(b.seats))
	}
	timeout := time.NewTimer(wait)
	defer timeout.Stop()
	for {
		list, changed, leave := b.wait()
		if list.Version > after {
			leave()
			return list, nil
		}
		select {
		case <-changed:
			leave()
		case <-timeout.C:
			leave()
			return list, nil
		case <-ctx.Done():
			leave()
			return audit.KRL{}, ctx.Err()
		}
	}
}

// look returns the list in force. looks calls it, since anybody may ask.
func (b *board) look(ctx context.Context) (audit.KRL, error) {
	version, err := b.source.KRLVersion(ctx)
	if err != nil {
		return audit.KRL{}, err
	}
	b.mu.Lock()
	last := b.last
	b.mu.Unlock()
	if version != 0 && version == last.Version {
		return last, nil
	}
	list, err := b.source.KRL(ctx)
	if err != nil {
		return audit.KRL{}, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if list.Version > b.last.Version {
		b.last = list
		if b.changed != nil {
			close(b.changed)
			b.changed = make(chan struct{})
		}
	}
	return b.last, nil
}

// wait says what the list is and gives a channel that is closed when it
// changes. While anybody waits, one goroutine looks.
func (b *board) wait() (audit.KRL, <-chan struct{}, func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.waiting++
	if b.changed == nil {
		b.changed = make(chan struct{})
		go b.watch()
	}
	return b.last, b.changed, func() {
		b.mu.Lock()
		b.waiting--
		b.mu.Unlock()
	}
}

// watch looks until nobody waits any more. That the source is down for a
// moment is nothing to those who wait.
func (b *board) watch() {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for range tick.C {
		b.mu.Lock()
		if b.waiting == 0 {
			b.changed = nil
			b.mu.Unlock()
			return
		}
		b.mu.Unlock()
		_, _ = b.looks.get(context.Background(), false, nil)
	}
}
