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

	waiting int    // for it; under the lock of shared, as the next
	cancel  func() // what asks for it; nil: nothing does yet
}

// get returns what is found out, or the error of ctx if that ends first. Those who come
// while something is asked share that answer, or the next one if it has to be fresh: found
// out after they asked. Where nothing is asked, nothing is if it isn't needed, by what all
// answers so far have led to; there is no value then. needed may be nil: it is.
//
// What nobody waits for any more isn't asked on.
func (s *shared[T]) get(ctx context.Context, fresh bool, needed func() bool) (value T, err error) {
	s.mu.Lock()
	f := s.now
	switch {
	case f == nil && needed != nil && !needed():
		s.mu.Unlock()
		return value, nil
	case f == nil:
		f = &found[T]{done: make(chan struct{})}
		s.begin(context.WithoutCancel(ctx), f)
	case fresh || f.waiting == 0: // what everybody has left has no answer
		if s.next == nil {
			s.next = &found[T]{done: make(chan struct{})}
		}
		f = s.next
	}
	f.waiting++
	s.mu.Unlock()
	select {
	case <-f.done:
		return f.value, f.err
	case <-ctx.Done():
		s.leave(f)
		return value, ctx.Err()
	}
}

// leave is for who doesn't wait any more.
func (s *shared[T]) leave(f *found[T]) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f.waiting--
	switch {
	case f.waiting > 0:
	case f == s.next:
		s.next = nil
	default:
		f.cancel()
	}
}

// begin asks for f, under the lock.
func (s *shared[T]) begin(ctx context.Context, f *found[T]) {
	s.now, s.next = f, nil
	asking, cancel := context.WithTimeout(ctx, s.timeout)
	f.cancel = cancel
	go func() {
		f.value, f.err = s.guarded(asking)
		cancel()
		close(f.done)
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.now = nil; s.next != nil {
			s.begin(ctx, s.next)
		}
	}()
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
