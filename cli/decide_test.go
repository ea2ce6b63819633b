package cli

import (
	"context"
	"errors"
	"testing"
	"time"

	"hallpass/access"
)

// issuance is a service whose issuer is done some looks later, or never.
type issuance struct {
	backend
	looks, done int
	err         error
}

func (s *issuance) Status(_ context.Context, id string) (access.Status, error) {
	if s.looks++; s.looks >= s.done && s.done > 0 {
		return access.Status{ID: id, State: access.StateActive}, s.err
	}
	return access.Status{ID: id, State: access.StateIssuing}, s.err
}

// What a decision leads to is there within some milliseconds: a command doesn't
// sleep much longer than that, asks less and less often, and gives up in time.
func TestSettled(t *testing.T) {
	for _, c := range []struct {
		name  string
		from  access.State
		s     issuance
		want  access.State
		looks int
		most  time.Duration // that it sleeps
	}{
		{"at the first look", access.StateIssuing, issuance{done: 1}, access.StateActive, 1, 20 * time.Millisecond},
		{"at the second", access.StateIssuing, issuance{done: 2}, access.StateActive, 2, 60 * time.Millisecond},
		{"never", access.StateIssuing, issuance{}, access.StateIssuing, 7, 2 * time.Second},
		{"nothing to wait for", access.StateActive, issuance{done: 1}, access.StateActive, 0, 0},
		{"nobody says", access.StateIssuing, issuance{done: 1, err: errors.New("gone")}, access.StateIssuing, 1, 20 * time.Millisecond},
	} {
		t.Run(c.name, func(t *testing.T) {
			var slept time.Duration
			a := &app{ctx: t.Context(), sleep: func(_ context.Context, d time.Duration) error {
				slept += d
				return nil
			}}
			got := a.settled(&c.s, access.Status{ID: testID, State: c.from})
			if got.State != c.want || c.s.looks != c.looks || slept > c.most {
				t.Errorf("%s after %d looks and %s; want %s after %d and at most %s", got.State, c.s.looks, slept, c.want, c.looks, c.most)
			}
		})
	}
}
