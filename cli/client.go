package cli

import (
	"context"
	"strings"
	"time"

	"hallpass/access"
	"hallpass/evidence"
	"hallpass/transport"
)

// backend is all that the commands need of the service. It carries statements
// and answers; it is trusted with neither. Errors are *access.Error where the
// service refused something or can't be reached, and the context's own error
// when that ended.
type backend interface {
	// Submit starts the request. It returns when the request is durable;
	// submitting the same request again is CodeDuplicate.
	Submit(ctx context.Context, in access.Submission, req access.Request) error
	// Status says how the request with this full id stands. A request whose
	// workflow was ended from outside returns its last status and CodeEnded.
	Status(ctx context.Context, id string) (access.Status, error)
	// List finds requests: open ones first, then the latest to end.
	List(ctx context.Context, f transport.Filter) ([]transport.Summary, error)
	// Send delivers a statement and returns when it was accepted, with the
	// status then, or refused. Sending the same statement again, by its id,
	// changes nothing.
	Send(ctx context.Context, id, message, statementID string, st access.Statement) (access.Status, error)
	// Lock delivers a lock or unlock, and returns when everything under it has
	// ended. An error with a result means that it is in force, and that the
	// rest takes longer.
	Lock(ctx context.Context, st access.Statement, l access.Lock) (access.Locked, error)
	// Review delivers a review of the request with this full id.
	Review(ctx context.Context, id, statementID string, st access.Statement) (access.ReviewTask, error)
	// Reviews lists those that aren't done.
	Reviews(ctx context.Context) ([]access.ReviewTask, error)
	// Locks lists the locks in force.
	Locks(ctx context.Context) (evidence.Locks, error)
	// Delegate delivers a delegation, or what revokes one.
	Delegate(ctx context.Context, st access.Statement, d access.Delegation) (access.Delegated, error)
	// Delegations lists those in force.
	Delegations(ctx context.Context) (evidence.Delegations, error)
	// Sweep sweeps once and returns when that is done, or joins a sweep that
	// somebody else has asked for. An error with a result means that it goes
	// on, and that this is what it has done so far.
	Sweep(ctx context.Context) (access.Swept, error)
	Close()
}

// waiter is a backend that can be asked to wait for news.
type waiter interface {
	// Next is Status once that is another than was returned last, or after a
	// while whatever it is.
	Next(ctx context.Context, id string, wait time.Duration) (access.Status, error)
}

// knower is a backend that knows who asks.
type knower interface {
	Me(ctx context.Context) (access.User, error)
}

func notAnID(s string) *failure {
	return usagef("%s is not a request's id or the beginning of one", s).withHint("hallpass list shows them")
}

// shortIDs shortens ids as far as they stay apart from each other and keep
// the whole millisecond that they were made in.
func shortIDs(ids []string) map[string]string {
	const least = 13
	short := make(map[string]string, len(ids))
	for _, id := range ids {
		n := least
		for _, other := range ids {
			for other != id && n < len(id) && strings.HasPrefix(other, id[:min(n, len(id))]) {
				n++
			}
		}
		short[id] = id[:min(n, len(id))]
	}
	return short
}
