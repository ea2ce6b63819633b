package grant_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"hallpass/access"
	"hallpass/audit"
	"hallpass/ca"
	"hallpass/ca/krl"
	"hallpass/grant"
)

// counted is a store that counts lists, and can be held up or be down.
type counted struct {
	*audit.Log
	drafts atomic.Int64
	gate   chan struct{} // if set, each draft waits for it
	down   atomic.Bool
}

func (s *counted) DraftKRL(ctx context.Context, ca ssh.PublicKey) (krl.List, error) {
	s.drafts.Add(1)
	if s.gate != nil {
		<-s.gate
	}
	if s.down.Load() {
		return krl.List{}, errors.New("disk is full")
	}
	return s.Log.DraftKRL(ctx, ca)
}

func TestReleasedCertificatesAreInTheListOfEveryIssuer(t *testing.T) {
	w := newWorld(t)
	ctx := context.Background()
	first := w.issuer(nil, nil)
	mine := certificate(t, w.issue(first, must(w.approved(nil))))
	// Another issuer, with another CA, on the same ledger.
	otherCA, err := ca.New(newKey(t), w.now)
	if err != nil {
		t.Fatal(err)
	}
	log := w.openLog()
	second := w.issuer(&grant.SSH{CA: otherCA, KRL: &grant.KRL{CA: otherCA, Store: log, Now: w.now}}, log)
	ev := must(w.approved(nil))
	cred := w.issue(second, ev)
	theirs := certificate(t, cred)

	if err := second.Revoke(ctx, audit.End{Request: cred.Handle.Request, State: access.StateReleased}); err != nil {
		t.Fatal(err)
	}
	var versions []uint64
	look := func(signer *ca.CA, wantMine, wantTheirs bool) {
		t.Helper()
		k, err := w.log.KRL(ctx)
		if err != nil {
			t.Fatal(err)
		}
		list, err := krl.Open(k.List, k.Signature, []ssh.PublicKey{signer.PublicKey()})
		if err != nil {
			t.Fatal(err)
		}
		if got := list.Revoked(mine.SignatureKey, mine.Serial); got != wantMine {
			t.Errorf("mine is revoked: %t", got)
		}
		if got := list.Revoked(theirs.SignatureKey, theirs.Serial); got != wantTheirs {
			t.Errorf("theirs is revoked: %t", got)
		}
		if n := len(versions); n > 0 && versions[n-1] >= list.Version {
			t.Errorf("version %d after %v", list.Version, versions)
		}
		versions = append(versions, list.Version)
	}
	look(otherCA, false, true)
	// The first issuer's list has what the second's CA took back.
	request, _, err := ca.ParseKeyID(mine.KeyId)
	if err != nil {
		t.Fatal(err)
	}
	if err := first.Revoke(ctx, audit.End{Request: request, State: access.StateRevoked}); err != nil {
		t.Fatal(err)
	}
	look(w.ca, true, true)
	w.verify()
}

func must(ev access.Evidence, _ access.Request) access.Evidence { return ev }

// What ran to its end needs no list.
func TestNoListForWhatHasExpired(t *testing.T) {
	w := newWorld(t)
	store := &counted{Log: w.log}
	k := w.ssh()
	k.KRL = &grant.KRL{CA: w.ca, Store: store, Now: w.now}
	i := w.issuer(k, nil)
	cred := w.issue(i, must(w.approved(nil)))
	w.pass(time.Hour)
	if err := i.Revoke(context.Background(), audit.End{Request: cred.Handle.Request, State: access.StateExpired}); err != nil || store.drafts.Load() != 0 {
		t.Errorf("%v, %d lists", err, store.drafts.Load())
	}
}

// What was taken back is in the list before anybody hears that it was, as long as
// some clock may not have reached its end: a host's that is behind, or all others
// where the issuer's is ahead.
func TestListForWhatHasJustRunOut(t *testing.T) {
	w := newWorld(t)
	store := &counted{Log: w.log}
	k := w.ssh()
	k.KRL = &grant.KRL{CA: w.ca, Store: store, Now: w.now}
	i := w.issuer(k, nil)
	cred := w.issue(i, must(w.approved(nil)))
	late := w.issue(i, must(w.approved(nil)))
	revoke := func(c access.Credential) {
		t.Helper()
		if err := i.Revoke(context.Background(), audit.End{Request: c.Handle.Request, State: access.StateReleased}); err != nil {
			t.Fatal(err)
		}
	}
	w.pass(cred.Handle.NotAfter.Sub(w.now()) + 30*time.Second)
	revoke(cred)
	if !w.krl().Revoked(w.ca.PublicKey(), cred.Handle.Serial) {
		t.Error("it was released 30 s ago by a clock that may be ahead, and isn't in the list")
	}
	lists := store.drafts.Load()
	w.pass(access.ClockSkew)
	if revoke(late); store.drafts.Load() != lists {
		t.Error("a list was made for what no host lets in any more")
	}
}

// Many who ask at a time share a list, and each gets one that was begun after
// it asked.
func TestPublishIsShared(t *testing.T) {
	w := newWorld(t)
	store := &counted{Log: w.log, gate: make(chan struct{})}
	k := &grant.KRL{CA: w.ca, Store: store, Now: w.now}
	var all sync.WaitGroup
	publish := func() {
		if err := k.Publish(context.Background()); err != nil {
			t.Error(err)
		}
	}
	all.Go(publish)
	for store.drafts.Load() == 0 {
		<-time.After(time.Millisecond)
	}
	started := make(chan struct{}, 50)
	for range 50 {
		all.Go(func() { started <- struct{}{}; publish() })
	}
	for range 50 {
		<-started
	}
	close(store.gate)
	all.Wait()
	if n := store.drafts.Load(); n < 2 || n > 5 {
		t.Errorf("%d lists for 51 who asked", n)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	store.gate = make(chan struct{})
	if err := k.Publish(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("after it was given up: %v", err)
	}
	close(store.gate)
}

func TestRefresh(t *testing.T) {
	w := newWorld(t)
	store := &counted{Log: w.log}
	k := &grant.KRL{CA: w.ca, Store: store, Now: w.now}
	ctx := context.Background()
	for _, row := range []struct {
		name string
		pass time.Duration
		want int64 // lists in all
	}{
		{"none yet", 0, 1},
		{"at once", 0, 1},
		{"before it is time", 49 * time.Second, 1},
		{"when it is time", time.Second, 2},
		{"clock put back", -time.Hour, 3},
		{"fresh again", 0, 3},
	} {
		w.pass(row.pass)
		if err := k.Refresh(ctx); err != nil || store.drafts.Load() != row.want {
			t.Errorf("%s: %d lists, want %d, %v", row.name, store.drafts.Load(), row.want, err)
		}
	}
	store.down.Store(true)
	w.pass(time.Hour)
	if err := k.Refresh(ctx); err == nil {
		t.Error("no error while the store is down")
	}
	// Who is revoked meanwhile isn't told that it is done.
	cred := w.issue(w.issuer(nil, nil), must(w.approved(nil)))
	kind := w.ssh()
	kind.KRL = k
	if err := w.issuer(kind, nil).Revoke(ctx, audit.End{Request: cred.Handle.Request, State: access.StateRevoked}); err == nil {
		t.Error("revoked without a list")
	}
	store.down.Store(false)
	if err := w.issuer(kind, nil).Revoke(ctx, audit.End{Request: cred.Handle.Request, State: access.StateRevoked}); err != nil {
		t.Error(err)
	}
	if !w.krl().Revoked(w.ca.PublicKey(), cred.Handle.Serial) {
		t.Error("not in the list")
	}
}

// BenchmarkRevoke is an early end until the list that says so is in force,
// with every step on disk.
func BenchmarkRevoke(b *testing.B) {
	w := newWorld(b)
	i := w.issuer(nil, nil)
	for b.Loop() {
		b.StopTimer()
		cred := w.issue(i, must(w.approved(nil)))
		b.StartTimer()
		if err := i.Revoke(context.Background(), audit.End{Request: cred.Handle.Request, State: access.StateReleased}); err != nil {
			b.Fatal(err)
		}
	}
}
