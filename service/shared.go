package service

import (
	"context"
	"fmt"
	"runtime/debug"
	"sync"
	"time"
)

// shared asks for something on behalf of all who want to know it, one question at
// a time.
type shared[T any] struct {
	ask     func(context.Context) (T, error)
	timeout time.Duration // for one question, whoever still waits for its answer

	mu        sync.Mutex
	now, next *found[T] // that is asked for, and that is asked for after it; nil: none is
}

// found is an answer once done is closed.
type found[T any] struct {
	done  chan struct{}
	value T
	err   error
}

// get returns what is found out, or the error of ctx if that ends first. Those who come
// while something is asked share that answer, or the next one if it has to be fresh: found
// out after they asked. Where nothing is asked, nothing is if it isn't needed, by what all
// answers so far have led to; there is no value then. needed may be nil: it is.
func (s *shared[T]) get(ctx context.Context, fresh bool, needed func() bool) (value T, err error) {
	s.mu.Lock()
	f := s.now
	switch {
	case f == nil && needed != nil && !needed():
		s.mu.Unlock()
		return value, nil
	case f == nil:
		f = &found[T]{done: make(chan struct{})}
		s.now = f
		go s.work(context.WithoutCancel(ctx), f)
	case fresh && s.next == nil:
		s.next = &found[T]{done: make(chan struct{})}
		f = s.next
	case fresh:
		f = s.next
	}
	s.mu.Unlock()
	select {
	case <-f.done:
		return f.value, f.err
	case <-ctx.Done():
		return value, ctx.Err()
	}
}

// work asks until nobody wants to know anything any more.
func (s *shared[T]) work(ctx context.Context, f *found[T]) {
	for f != nil {
		ctx, cancel := context.WithTimeout(ctx, s.timeout)
		f.value, f.err = s.guarded(ctx)
		cancel()
		close(f.done)
		s.mu.Lock()
		f = s.next
		s.now, s.next = f, nil
		s.mu.Unlock()
	}
}

// guarded asks. Where a call panics, net/http logs it and ends that call alone; this
// isn't in any. The error is for the log: of what isn't an access.Error, nothing is told.
func (s *shared[T]) guarded(ctx context.Context) (value T, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
		}
	}()
	return s.ask(ctx)
}
