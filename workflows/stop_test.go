package workflows_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/mock"
	"go.temporal.io/sdk/client"

	"hallpass/access"
	"hallpass/audit"
	"hallpass/workflows"
)

func (w *world) runStop(in access.Stopping, heard error) access.Stopped {
	w.t.Helper()
	w.env.RegisterWorkflow(workflows.Stop)
	w.env.OnSignalExternalWorkflow(mock.Anything, access.WorkflowID(in.Request), mock.Anything, access.MessageLook, mock.Anything).Return(heard).Maybe()
	w.env.SetStartWorkflowOptions(client.StartWorkflowOptions{ID: access.StopWorkflowID(w.header("x", "x").ID), TaskQueue: access.TaskQueue})
	w.env.ExecuteWorkflow(workflows.Stop, in)
	var out access.Stopped
	if err := errors.Join(w.env.GetWorkflowError(), w.env.GetWorkflowResult(&out)); err != nil {
		w.t.Fatal(err)
	}
	return out
}

// A flood uses up what a request hears; a word that ends its grant goes past
// it, whether the request notices or not.
func TestStopEndsTheDeaf(t *testing.T) {
	for message, c := range map[string]struct {
		by   string
		want access.State
	}{
		access.MessageRevoke:  {"trent", access.StateRevoked},
		access.MessageRelease: {"alice", access.StateReleased},
		access.MessageCancel:  {"alice", access.StateReleased},
	} {
		for how, heard := range map[string]error{"it looks": nil, "it takes no more signals": errors.New("exceeded workflow execution limit for signal events")} {
			t.Run(message+", "+how, func(t *testing.T) {
				w := newWorld(t)
				ids := w.received(1, true)
				got := w.runStop(access.Stopping{Request: ids[0], Message: message, Statement: w.stop(c.by, access.Type(message))}, heard)
				if got.Refused != nil || got.State != c.want {
					t.Errorf("%+v %v", got, got.Refused)
				}
				w.wantEnds(c.want, ids)
			})
		}
	}
}

// A request that nobody has granted yet is taken back in the same way, whatever
// it can be made not to hear: nothing is issued on it.
func TestStopBeforeTheGrant(t *testing.T) {
	for message, c := range map[string]struct {
		by   string
		want access.State
	}{
		access.MessageRevoke:  {"trent", access.StateDenied},
		access.MessageRelease: {"alice", access.StateCancelled},
		access.MessageCancel:  {"alice", access.StateCancelled},
	} {
		t.Run(message, func(t *testing.T) {
			w := newWorld(t)
			ids := w.received(1, false)
			got := w.runStop(access.Stopping{Request: ids[0], Message: message, Statement: w.stop(c.by, access.Type(message))}, nil)
			if got.Refused != nil || got.State != c.want {
				t.Errorf("%+v %v", got, got.Refused)
			}
			if _, err := w.issuer.Issue(context.Background(), access.Evidence{Request: w.request}); access.CodeOf(err) != access.CodeEnded {
				t.Errorf("issued after that: %v", err)
			}
			w.wantEnds(c.want, ids)
		})
	}
}

// What isn't good ends nothing, and is on record.
func TestStopRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		in   func(w *world) access.Stopping
		want access.Code
	}{
		"by nobody entitled": {func(w *world) access.Stopping {
			return access.Stopping{Request: w.req.ID, Message: access.MessageRevoke, Statement: w.stop("mallory", access.TypeRevoke)}
		}, access.CodeForbidden},
		"released by somebody else": {func(w *world) access.Stopping {
			return access.Stopping{Request: w.req.ID, Message: access.MessageRelease, Statement: w.stop("bob", access.TypeRelease)}
		}, access.CodeForbidden},
		"of another type": {func(w *world) access.Stopping {
			return access.Stopping{Request: w.req.ID, Message: access.MessageRevoke, Statement: w.stop("alice", access.TypeRelease)}
		}, access.CodeUnverified},
		"not signed": {func(w *world) access.Stopping {
			return access.Stopping{Request: w.req.ID, Message: access.MessageRelease, Statement: access.Statement{Payload: w.stop("alice", access.TypeRelease).Payload}}
		}, access.CodeUnverified},
		"of another request": {func(w *world) access.Stopping {
			mine := w.req.ID
			w.ask("ssh/dev-1", nil)
			return access.Stopping{Request: mine, Message: access.MessageRelease, Statement: w.stop("alice", access.TypeRelease)}
		}, access.CodeMismatch},
		"of a request under that id that nobody granted": {func(w *world) access.Stopping {
			st := w.sign("mallory", access.Stop{Header: w.header("mallory", access.TypeRelease), Request: w.req.ID, RequestHash: w.sign("mallory", w.req).Hash()})
			return access.Stopping{Request: w.req.ID, Message: access.MessageRelease, Statement: st}
		}, access.CodeForbidden},
		"of no request": {func(w *world) access.Stopping {
			w.ask("ssh/dev-1", nil)
			return access.Stopping{Request: w.req.ID, Message: access.MessageRelease, Statement: w.stop("alice", access.TypeRelease)}
		}, access.CodeNotFound},
		"a decision": {func(w *world) access.Stopping {
			return access.Stopping{Request: w.req.ID, Message: access.MessageDecision, Statement: w.decision("bob", access.Deny)}
		}, access.CodeMalformed},
		"a message of any length": {func(w *world) access.Stopping {
			return access.Stopping{Request: w.req.ID, Message: strings.Repeat("x", 1000), Statement: w.stop("alice", access.TypeRelease)}
		}, access.CodeMalformed},
		"of what is no id": {func(w *world) access.Stopping {
			return access.Stopping{Request: "a\x00b", Message: access.MessageRelease, Statement: w.stop("alice", access.TypeRelease)}
		}, access.CodeMalformed},
		"a lock": {func(w *world) access.Stopping {
			_, st := w.lock("trent", access.LockUser, "alice")
			return access.Stopping{Request: w.req.ID, Message: access.MessageLock, Statement: st}
		}, access.CodeMalformed},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			ids := w.received(1, true)
			got := w.runStop(c.in(w), nil)
			if got.Refused == nil || got.Refused.Code != c.want || got.State != "" {
				t.Errorf("%+v, want %s", got, c.want)
			}
			entry, _, err := w.log.Entry(context.Background(), ids[0])
			if err != nil || entry.Ended != "" || !slices.Contains(w.kind.living(), ids[0]) {
				t.Errorf("%+v, %v", entry, err)
			}
			n := 0
			for _, err := range w.log.Events(t.Context(), audit.Query{Type: audit.StatementRefused}) {
				if n++; err != nil {
					t.Fatal(err)
				}
			}
			if n != 1 {
				t.Errorf("%d refusals are on record", n)
			}
		})
	}
}
