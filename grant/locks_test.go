package grant_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"hallpass/access"
	"hallpass/audit"
	"hallpass/grant"
	"hallpass/statement"
)

const lockPolicy = "locks: {groups: [security]}\n" + policyYAML

// secure is a world in which trent may lock.
func secure(t testing.TB) *world {
	t.Helper()
	w := newWorld(t)
	w.people["trent"] = newKey(t)
	book := w.book.Load()
	w.rules(lockPolicy, string(book.Directory.Data())+
		"  trent: {groups: [security], keys: ['"+statement.MarshalKey(w.people["trent"].PublicKey())+"']}\n", string(book.Catalog.Data()))
	return w
}

// lock sets a lock by trent and returns it.
func (w *world) lock(kind, name string, edit func(*access.Lock)) access.Lock {
	w.t.Helper()
	l := access.Lock{
		Header: access.Header{Type: access.TypeLock, ID: statement.NewID(), Signer: "trent", Time: w.now()},
		Action: access.ActionLock, Kind: kind, Name: name, Reason: "stolen",
	}
	if edit != nil {
		edit(&l)
	}
	if _, err := w.log.Lock(context.Background(), w.book.Load(), w.sign("trent", l), w.now()); err != nil {
		w.t.Fatal(err)
	}
	return l
}

func (w *world) unlock(l access.Lock) {
	w.t.Helper()
	w.lock(l.Kind, l.Name, func(u *access.Lock) { u.Action, u.Lock, u.Reason = access.ActionUnlock, l.ID, "" })
}

func TestIssueUnderLocks(t *testing.T) {
	for _, tt := range []struct{ kind, name, why string }{
		{access.LockUser, "alice", "not allowed: user alice is locked by trent: stolen"},
		{access.LockResource, "ssh/web-1", "not allowed: resource ssh/web-1 is locked by trent: stolen"},
		{access.LockHost, "web-1", "not allowed: host web-1 is locked by trent: stolen"},
		{access.LockUser, "bob", "not allowed: needs 1 approval from sre; approve by bob doesn't count: user bob is locked by trent: stolen"}, // who approved
		{access.LockUser, "dave", ""},
		{access.LockHost, "lab-1", ""},
	} {
		t.Run(tt.kind+" "+tt.name, func(t *testing.T) {
			w := secure(t)
			i := w.issuer(nil, nil)
			ev, _ := w.approved(nil)
			l := w.lock(tt.kind, tt.name, nil)
			if tt.why != "" {
				if err := w.refused(i, ev, access.CodeDenied); err.Error() != tt.why {
					t.Error(err)
				}
				if w.uses.n.Load() != 0 {
					t.Error("the CA key was used under a lock")
				}
				if refused := w.events(audit.Query{Type: audit.CredentialRefused}); len(refused) != 1 || refused[0].Why != tt.why {
					t.Errorf("%+v", refused)
				}
				w.unlock(l)
			}
			w.issue(i, ev)
			w.verify()
		})
	}
}

// A lock ends in the second that it names.
func TestIssueWhenALockEnds(t *testing.T) {
	w := secure(t)
	i := w.issuer(nil, nil)
	ev, _ := w.approved(nil)
	w.lock(access.LockUser, "alice", func(l *access.Lock) {
		end := w.now().Add(time.Hour)
		l.Until = &end
	})
	w.pass(time.Hour - time.Second)
	w.refused(i, ev, access.CodeDenied)
	w.pass(time.Second)
	w.issue(i, ev)
	w.verify()
}

// What was issued before isn't handed out once more.
func TestIssueAgainUnderALock(t *testing.T) {
	w := secure(t)
	i := w.issuer(nil, nil)
	ev, _ := w.approved(nil)
	w.issue(i, ev)
	w.lock(access.LockUser, "alice", nil)
	w.refused(i, ev, access.CodeDenied)
}

// A lock that comes while the kind makes the credential: it is neither recorded
// nor handed out.
func TestLockWhileTheKindIssues(t *testing.T) {
	w := secure(t)
	ev, request := w.approved(nil)
	kind := &tokens{}
	kind.issuing = sync.OnceFunc(func() { w.lock(access.LockUser, "alice", nil) })
	i := w.issuer(kind, nil)
	if err := w.refused(i, ev, access.CodeDenied); err.Error() != "not allowed: user alice is locked by trent: stolen" {
		t.Error(err)
	}
	if issued := w.events(audit.Query{Type: audit.CredentialIssued}); len(issued) != 0 {
		t.Errorf("%d credentials on record", len(issued))
	}
	if err := i.Revoke(context.Background(), audit.End{Request: request.ID, State: access.StateRevoked}); err != nil {
		t.Fatal(err)
	}
	if kind.alive(request.ID) {
		t.Error("the credential that came too late lives")
	}
}

// Somebody else's lock in the same moment changes nothing.
func TestAnotherLockWhileTheKindIssues(t *testing.T) {
	w := secure(t)
	ev, _ := w.approved(nil)
	kind := &tokens{}
	kind.issuing = sync.OnceFunc(func() { w.lock(access.LockUser, "dave", nil) })
	w.issue(w.issuer(kind, nil), ev)
	if issued := w.events(audit.Query{Type: audit.CredentialIssued}); len(issued) != 1 || issued[0].Locks != 1 {
		t.Errorf("%+v", issued)
	}
}

// Locks and issues at the same time, on logs of their own: afterwards each
// credential on record was recorded before the lock.
func TestLockRacesIssue(t *testing.T) {
	w := secure(t)
	const n = 8
	evidence := make([]access.Evidence, n)
	for k := range evidence {
		evidence[k], _ = w.approved(nil)
	}
	var wg sync.WaitGroup
	start := make(chan struct{})
	errs := make([]error, n)
	for k := range n {
		i := w.issuer(nil, w.openLog())
		wg.Go(func() {
			<-start
			_, errs[k] = i.Issue(context.Background(), evidence[k])
		})
	}
	wg.Go(func() {
		<-start
		w.lock(access.LockUser, "alice", nil)
	})
	close(start)
	wg.Wait()
	locked := false
	for _, e := range w.events(audit.Query{}) {
		locked = locked || e.Type == audit.LockSet
		if e.Type == audit.CredentialIssued && locked {
			t.Errorf("%s was issued under the lock", e.Request)
		}
	}
	for _, err := range errs {
		if err != nil && (access.CodeOf(err) != access.CodeDenied || !strings.Contains(err.Error(), "locked by trent")) {
			t.Error(err)
		}
	}
	w.verify()
}

// blind is a ledger that doesn't know what is locked.
type blind struct{ grant.Ledger }

func (blind) Locks(context.Context) (audit.Locks, error) {
	return audit.Locks{}, access.Errorf(access.CodeUnverified, "the audit log has been changed")
}

// Where the locks can't be read nothing is issued, and nothing refused for
// good.
func TestIssueWithoutKnowingTheLocks(t *testing.T) {
	w := secure(t)
	ev, _ := w.approved(nil)
	err := w.refused(w.issuer(nil, blind{w.log}), ev, access.CodeUnavailable)
	if !strings.Contains(err.Error(), "the audit log has been changed") || errors.Unwrap(err) != nil {
		t.Error(err)
	}
	if w.uses.n.Load() != 0 {
		t.Error("the CA key was used")
	}
}
