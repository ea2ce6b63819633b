package service

import (
	"context"
	"sync"
	"time"
)

// How often a request is looked at while somebody waits for it. The longer nothing has
// changed, the less it matters when it is heard of: a pause is a quarter of that time.
const (
	firstLook = 50 * time.Millisecond
	quickLook = time.Second     // the longest pause where hallpass alone has something to do
	lastLook  = 5 * time.Second // the longest one where people have, or time has to pass
)

// forget is how long it is known of a request when it was looked at, once nobody waits
// any more: who waits on asks again and again, with a moment in between.
const forget = 30 * time.Second

// sight is how a request stands.
type sight struct {
	data []byte // as it is answered
	tag  string // of the data
	over bool   // no news can come any more
	soon bool   // the next state is up to hallpass alone
}

// watches has the requests that somebody waits for. Those who wait for the same one
// share what each of them sees.
type watches struct {
	look  func(ctx context.Context, id string) (sight, error)
	now   func() time.Time
	sleep func(context.Context, time.Duration) error

	mu    sync.Mutex
	of    map[string]*watch
	swept time.Time
}

// watch is one of them.
type watch struct {
	now   func() time.Time
	looks shared[sight]

	waiting int // this and the next under the lock of watches
	left    time.Time

	mu    sync.Mutex
	last  sight
	at    time.Time // when the look began that saw it last; zero: none has
	since time.Time // when it was first so
}

// news returns how a request stands as soon as it isn't as the tag says, and after
// the wait however it is.
func (w *watches) news(ctx context.Context, id, known string, wait time.Duration) (sight, error) {
	one := w.join(id)
	defer w.leave(id, one)
	began := w.now()
	for until := began.Add(wait); ; {
		if due, fresh := one.due(known, began); due || fresh {
			// Somebody else's look may have ended right here.
			needed := func() bool { due, fresh := one.due(known, began); return due || fresh }
			if _, err := one.looks.get(ctx, fresh, needed); err != nil {
				return sight{}, err
			}
		}
		now, pause := one.seen()
		left := until.Sub(w.now())
		if now.tag != known || left <= 0 {
			return now, nil
		}
		// A look may take longer than the pause that follows it.
		if pause = min(max(pause, firstLook), left); now.over {
			pause = left
		}
		if err := w.sleep(ctx, pause); err != nil {
			return sight{}, err
		}
	}
}

func (w *watches) join(id string) *watch {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := w.now()
	if now.Sub(w.swept) > forget {
		w.swept = now
		for id, one := range w.of {
			if one.waiting == 0 && now.Sub(one.left) > forget {
				delete(w.of, id)
			}
		}
	}
	one := w.of[id]
	if one == nil {
		one = &watch{now: w.now}
		one.looks = shared[sight]{timeout: sayTime, ask: func(ctx context.Context) (sight, error) {
			began := w.now()
			now, err := w.look(ctx, id)
			one.saw(began, now, err)
			return now, err
		}}
		w.of[id] = one
	}
	one.waiting++
	return one
}

func (w *watches) leave(id string, one *watch) {
	w.mu.Lock()
	defer w.mu.Unlock()
	one.waiting--
	if one.waiting > 0 {
		return
	}
	one.left = w.now()
	one.mu.Lock()
	defer one.mu.Unlock()
	one.last.data = nil // it is for those who began to wait before it was seen
	if one.at.IsZero() || one.last.over {
		delete(w.of, id)
	}
}

// saw takes in what a look found.
func (o *watch) saw(at time.Time, now sight, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if err != nil {
		o.at = time.Time{} // who comes next finds out for himself
		return
	}
	if now.tag != o.last.tag {
		o.since = o.now()
	}
	o.last, o.at = now, at
}

// due says whether it is time to look, for somebody who knows a tag, and whether it takes
// a look from now on, as what was seen last is another state and was seen before he began to
// wait: it may be an earlier one than he knows.
func (o *watch) due(known string, began time.Time) (due, fresh bool) {
	last, pause := o.seen()
	o.mu.Lock()
	defer o.mu.Unlock()
	if last.tag == known {
		return pause <= 0 && !last.over, false
	}
	return false, !o.at.After(began)
}

// seen is what was seen last, and how long it is until the next look: nothing or less
// where it is due, or nobody has looked.
func (o *watch) seen() (last sight, pause time.Duration) {
	o.mu.Lock()
	defer o.mu.Unlock()
	longest := lastLook
	if o.last.soon {
		longest = quickLook
	}
	if o.at.IsZero() {
		return o.last, 0
	}
	now := o.now()
	pause = min(max(now.Sub(o.since)/4, firstLook), longest)
	return o.last, pause - now.Sub(o.at)
}
