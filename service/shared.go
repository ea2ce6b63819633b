package service

import (
	"context"
	"sync"
	"time"
)

// shared asks for something on behalf of all who want to know it. One question is
// on its way at a time, and those who come meanwhile share the next one: nobody gets
// what was found out before he asked.
type shared[T any] struct {
	ask     func(context.Context) (T, error)
	timeout time.Duration // for one question, whoever still waits for its answer

	mu   sync.Mutex
	next *found[T] // for those who come now; nil: nobody has
	busy bool      // a goroutine asks
}

// found is an answer once done is closed.
type found[T any] struct {
	done  chan struct{}
	value T
	err   error
}

// get returns what is found out from now on, or the error of ctx if that ends first.
func (s *shared[T]) get(ctx context.Context) (T, error) {
	s.mu.Lock()
	f := s.next
	if f == nil {
		f = &found[T]{done: make(chan struct{})}
		s.next = f
	}
	if !s.busy {
		s.busy = true
		go s.work(context.WithoutCancel(ctx))
	}
	s.mu.Unlock()
	select {
	case <-f.done:
		return f.value, f.err
	case <-ctx.Done():
		var none T
		return none, ctx.Err()
	}
}

// work asks until nobody wants to know anything any more.
func (s *shared[T]) work(ctx context.Context) {
	for {
		s.mu.Lock()
		f := s.next
		s.next, s.busy = nil, f != nil
		s.mu.Unlock()
		if f == nil {
			return
		}
		ctx, cancel := context.WithTimeout(ctx, s.timeout)
		f.value, f.err = s.ask(ctx)
		cancel()
		close(f.done)
	}
}
