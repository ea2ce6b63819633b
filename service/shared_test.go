package service

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// asking is somebody behind shared who answers with how often he was asked, after a
// minute, unless he is told that nobody wants to know any more.
type asking struct {
	shared[int]
	asked, spared int
}

func newAsking() *asking {
	a := &asking{}
	a.shared = shared[int]{timeout: time.Hour, ask: func(ctx context.Context) (int, error) {
		a.asked++
		answer := a.asked
		select {
		case <-time.After(time.Minute):
			return answer, nil
		case <-ctx.Done():
			a.spared++
			return 0, ctx.Err()
		}
	}}
	return a
}

// waits is somebody who asks, until he leaves; said gets what he hears.
func (a *asking) waits(t *testing.T, fresh bool) (leave func(), said <-chan int) {
	ctx, cancel := context.WithCancel(t.Context())
	heard := make(chan int, 1)
	go func() {
		answer, err := a.get(ctx, fresh, nil)
		if err != nil && !errors.Is(ctx.Err(), context.Canceled) {
			t.Errorf("who waits hears %v", err)
		}
		heard <- answer
	}()
	synctest.Wait()
	return func() { cancel(); synctest.Wait() }, heard
}

// What nobody waits for any more isn't asked on, and nobody is told of it.
func TestNobodyWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAsking()
		first, _ := a.waits(t, false)
		second, _ := a.waits(t, false)
		first()
		if a.asked != 1 || a.spared != 0 {
			t.Errorf("while one still waits: asked %d times, %d of them left", a.asked, a.spared)
		}
		second()
		if a.asked != 1 || a.spared != 1 {
			t.Errorf("while nobody waits: asked %d times, %d of them left", a.asked, a.spared)
		}
		if _, said := a.waits(t, false); <-said != 2 {
			t.Error("who comes next has no answer of his own")
		}
	})
}

// The next question is for those who still want it when its turn comes.
func TestNobodyWaitsForTheNext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAsking()
		_, said := a.waits(t, false)
		next, _ := a.waits(t, true)
		next()
		if <-said != 1 {
			t.Error("who asked first has another's answer")
		}
		synctest.Wait()
		if a.asked != 1 || a.spared != 0 {
			t.Errorf("asked %d times, %d of them left", a.asked, a.spared)
		}
	})
}

// Who comes before the one who answers has noticed that everybody has left waits for
// the next answer, not for that one.
func TestComesWhileAllLeave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAsking()
		ask, slow := a.ask, make(chan struct{})
		a.ask = func(ctx context.Context) (int, error) {
			answer, err := ask(ctx)
			if err != nil {
				<-slow
			}
			return answer, err
		}
		leave, _ := a.waits(t, false)
		leave()
		_, said := a.waits(t, false)
		if a.asked != 1 {
			t.Error("two are asked at the same moment")
		}
		close(slow)
		if answer := <-said; answer != 2 {
			t.Errorf("he hears %d", answer)
		}
	})
}
