package audit

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"hallpass/access"
	"hallpass/ca/krl"
)

func TestNextSerialIsMonotonicAndNeverTwice(t *testing.T) {
	private, _ := testKey(t)
	path := newDatabase(t)
	var mu sync.Mutex
	given := map[uint64]int{}
	var wg sync.WaitGroup
	for range 2 {
		l := openLog(t, path, private)
		for range 4 {
			wg.Go(func() {
				last := uint64(0)
				for range 25 {
					n, err := l.NextSerial(context.Background(), "SHA256:a", 0)
					if err != nil || n <= last {
						t.Errorf("serial %d after %d, error %v", n, last, err)
						return
					}
					last = n
					mu.Lock()
					given[n]++
					mu.Unlock()
				}
			})
		}
	}
	wg.Wait()
	for n := uint64(1); n <= 200; n++ {
		if given[n] != 1 {
			t.Errorf("serial %d was given %d times", n, given[n])
		}
	}
	l := openLog(t, path, private)
	for _, row := range []struct {
		name, ca string
		series   uint32
		want     uint64
	}{
		{"another CA", "SHA256:b", 0, 1},
		{"a series", "SHA256:a", 7, 7<<32 | 1},
		{"the same series", "SHA256:a", 7, 7<<32 | 2},
		{"another series", "SHA256:a", 8, 8<<32 | 1},
		{"the same series of another CA", "SHA256:b", 7, 7<<32 | 1},
		{"the last series", "SHA256:a", krl.MaxSeries, krl.MaxSeries<<32 | 1},
		{"no series", "SHA256:a", krl.MaxSeries + 1, 0},
		{"no CA", "", 0, 0},
	} {
		if n, err := l.NextSerial(context.Background(), row.ca, row.series); n != row.want || (err == nil) != (n > 0) {
			t.Errorf("%s: serial %d, want %d, %v", row.name, n, row.want, err)
		}
	}
	// A series that is used up doesn't go on into the next one.
	if _, err := update(context.Background(), l, func(tx *tx) (struct{}, error) {
		tx.write("UPDATE serials SET last = ? WHERE ca = ?", int64(krl.MaxCount-1), "SHA256:a#7")
		return struct{}{}, nil
	}); err != nil {
		t.Fatal(err)
	}
	if n, err := l.NextSerial(context.Background(), "SHA256:a", 7); n != 8<<32-1 || err != nil {
		t.Errorf("the last of a series: %d, %v", n, err)
	}
	if n, err := l.NextSerial(context.Background(), "SHA256:a", 7); access.CodeOf(err) != access.CodeMalformed {
		t.Errorf("after the last of a series: %d, %v", n, err)
	}
}

// ready is a world with an approved request.
func ready(t *testing.T) (*world, access.Request, access.Evidence) {
	w := newWorld(t)
	r, st := w.ask("alice")
	yes := w.decision("bob", access.Approve, r, st)
	w.accept("bob", r, yes)
	return w, r, access.Evidence{Request: st, Decisions: []access.Statement{yes}}
}

// The serial comes with the place in the ledger: whoever gets one has the other, and
// what is refused, or is there already, spends none.
func TestReserveChoosesTheSerial(t *testing.T) {
	w := newWorld(t)
	ctx, ca := context.Background(), w.ca.Fingerprint()
	other := openLog(t, w.path, w.private)
	unnumbered := func(r access.Request, series uint32) access.Handle {
		return access.Handle{Request: r.ID, Kind: "ssh", Serial: krl.Serial(series, 0), CA: ca, Principals: []string{"web-1/deploy"},
			NotBefore: w.now, NotAfter: w.now.Add(r.Duration.Duration())}
	}
	type asked struct {
		r    access.Request
		hash string
	}
	var requests []asked
	for range 20 {
		r, st := w.ask("alice")
		requests = append(requests, asked{r, st.Hash()})
	}
	var mu sync.Mutex
	given := map[uint64]string{}
	var wg sync.WaitGroup
	for i := range 4 * len(requests) { // each by two issuers, twice
		log := []*Log{w.log, other}[i/len(requests)%2]
		wg.Go(func() { // fails, so that those who share its transaction have theirs done again
			if _, err := update(ctx, log, func(tx *tx) (struct{}, error) {
				tx.write("INSERT INTO serials (ca, last) VALUES (?, ?)", "SHA256:unknown", nil)
				return struct{}{}, nil
			}); err == nil {
				t.Error("a serial that isn't one was written")
			}
		})
		wg.Go(func() {
			a := requests[i%len(requests)]
			entry, err := log.Reserve(ctx, a.hash, unnumbered(a.r, 7), Event{Digests: w.digests()})
			if err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			if had, ok := given[entry.Handle.Serial]; ok && had != a.r.ID {
				t.Errorf("serial %d is both %s's and %s's", entry.Handle.Serial, had, a.r.ID)
			}
			given[entry.Handle.Serial] = a.r.ID
		})
	}
	wg.Wait()
	for n := range uint64(len(requests)) {
		if given[krl.Serial(7, n+1)] == "" {
			t.Errorf("nobody has serial %d of the series", n+1)
		}
	}
	for _, a := range requests {
		entry, _, err := w.log.Entry(ctx, a.r.ID)
		if err != nil || given[entry.Handle.Serial] != a.r.ID {
			t.Errorf("request %s has serial %d in the ledger, which is %q's: %v", a.r.ID, entry.Handle.Serial, given[entry.Handle.Serial], err)
		}
	}
	r, st := w.ask("alice")
	if _, err := w.log.End(ctx, End{Request: r.ID, State: access.StateTimedOut}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.log.Reserve(ctx, st.Hash(), unnumbered(r, 7), Event{Digests: w.digests()}); access.CodeOf(err) != access.CodeEnded {
		t.Errorf("of a request that has ended: %v", err)
	}
	if _, err := w.log.Reserve(ctx, "another hash", unnumbered(requests[0].r, 7), Event{Digests: w.digests()}); access.CodeOf(err) != access.CodeMismatch {
		t.Errorf("of a changed request: %v", err)
	}
	odd := w.digests()
	odd.Policy = "sha256:00"
	r, st = w.ask("alice")
	if _, err := w.log.Reserve(ctx, st.Hash(), unnumbered(r, 7), Event{Digests: odd}); access.CodeOf(err) != access.CodeUnavailable {
		t.Errorf("by a policy that isn't on record: %v", err)
	}
	if n, err := w.log.NextSerial(ctx, ca, 7); err != nil || n != krl.Serial(7, uint64(len(requests)+1)) {
		t.Errorf("what was refused has spent a serial: the next is %d, %v", n, err)
	}
	// A series that is used up refuses, and has nothing on record.
	if _, err := update(ctx, w.log, func(tx *tx) (struct{}, error) {
		tx.write("UPDATE serials SET last = ? WHERE ca = ?", int64(krl.MaxCount), serialCounter(ca, 7))
		return struct{}{}, nil
	}); err != nil {
		t.Fatal(err)
	}
	r, st = w.ask("alice")
	if _, err := w.log.Reserve(ctx, st.Hash(), unnumbered(r, 7), Event{Digests: w.digests()}); access.CodeOf(err) != access.CodeMalformed {
		t.Errorf("out of a series that is used up: %v", err)
	}
	if _, found, err := w.log.Entry(ctx, r.ID); err != nil || found {
		t.Errorf("it is in the ledger all the same: %v", err)
	}
}

func TestReserveFirstOneWins(t *testing.T) {
	w, r, ev := ready(t)
	ctx := context.Background()
	first, second := w.handle(r), w.handle(r)
	got, err := w.log.Reserve(ctx, ev.Request.Hash(), first, Event{})
	if err != nil {
		t.Fatal(err)
	}
	want := Entry{Request: r.ID, RequestHash: ev.Request.Hash(), Handle: &first}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if got, err = w.log.Reserve(ctx, ev.Request.Hash(), second, Event{}); err != nil || cmp.Diff(want, got) != "" {
		t.Errorf("second Reserve: %v\n%s", err, cmp.Diff(want, got))
	}
	if got, found, err := w.log.Entry(ctx, r.ID); err != nil || !found || cmp.Diff(want, got) != "" {
		t.Errorf("Entry: %v, %v\n%s", found, err, cmp.Diff(want, got))
	}
	if _, err := w.log.Reserve(ctx, "another hash", second, Event{}); access.CodeOf(err) != access.CodeMismatch {
		t.Errorf("changed request: %v, want mismatch", err)
	}
	if report := w.verify(VerifyOptions{}); !report.OK {
		t.Error(report.Problems)
	}
}

func TestIssued(t *testing.T) {
	ctx := context.Background()
	for _, row := range []struct {
		name string
		do   func(w *world, r access.Request, ev access.Evidence, cred access.Credential) error
		want access.Code
	}{
		{"as it should be", func(w *world, r access.Request, ev access.Evidence, cred access.Credential) error {
			return w.log.Issued(ctx, cred, w.issued(ev))
		}, ""},
		{"again, the same", func(w *world, r access.Request, ev access.Evidence, cred access.Credential) error {
			if err := w.log.Issued(ctx, cred, w.issued(ev)); err != nil {
				return err
			}
			return w.log.Issued(ctx, cred, w.issued(ev))
		}, ""},
		{"again, signed anew", func(w *world, r access.Request, ev access.Evidence, cred access.Credential) error {
			if err := w.log.Issued(ctx, cred, w.issued(ev)); err != nil {
				return err
			}
			return w.log.Issued(ctx, w.certificate(cred.Handle, w.spec(r, cred.Handle)), w.issued(ev))
		}, access.CodeDuplicate},
		{"ended meanwhile", func(w *world, r access.Request, ev access.Evidence, cred access.Credential) error {
			w.end(End{Request: r.ID, State: access.StateRevoked})
			return w.log.Issued(ctx, cred, w.issued(ev))
		}, access.CodeEnded},
		{"another handle", func(w *world, r access.Request, ev access.Evidence, cred access.Credential) error {
			cred.Handle.Serial++
			return w.log.Issued(ctx, cred, w.issued(ev))
		}, access.CodeMismatch},
		{"another request's evidence", func(w *world, r access.Request, ev access.Evidence, cred access.Credential) error {
			e := w.issued(ev)
			_, st := w.request("alice")
			e.Evidence = &access.Evidence{Request: st}
			return w.log.Issued(ctx, cred, e)
		}, access.CodeMismatch},
		{"never reserved", func(w *world, r access.Request, ev access.Evidence, cred access.Credential) error {
			cred.Handle.Request = "other"
			return w.log.Issued(ctx, cred, Event{Evidence: &ev, Digests: w.digests()})
		}, access.CodeMismatch},
		{"without evidence", func(w *world, r access.Request, ev access.Evidence, cred access.Credential) error {
			return w.log.Issued(ctx, cred, Event{Digests: w.digests()})
		}, access.CodeMalformed},
		{"without digests", func(w *world, r access.Request, ev access.Evidence, cred access.Credential) error {
			return w.log.Issued(ctx, cred, Event{Evidence: &ev})
		}, access.CodeMalformed},
		{"by a policy that isn't recorded", func(w *world, r access.Request, ev access.Evidence, cred access.Credential) error {
			d := w.book.Digests()
			d.Policy = "sha256:00"
			return w.log.Issued(ctx, cred, Event{Evidence: &ev, Digests: &d})
		}, access.CodeUnavailable},
	} {
		t.Run(row.name, func(t *testing.T) {
			w, r, ev := ready(t)
			h := w.prepare(r, ev.Request)
			err := row.do(w, r, ev, w.certificate(h, w.spec(r, h)))
			if access.CodeOf(err) != row.want || row.want == "" && err != nil {
				t.Errorf("%v, want %q", err, row.want)
			}
			if report := w.verify(VerifyOptions{}); !report.OK {
				t.Error(report.Problems)
			}
			entry, _, err := w.log.Entry(context.Background(), r.ID)
			if err != nil || (entry.Credential != nil) != (row.want == "" || row.want == access.CodeDuplicate) {
				t.Errorf("entry %+v, %v", entry, err)
			}
		})
	}
}

func TestEndOnce(t *testing.T) {
	w, r, ev := ready(t)
	ctx := context.Background()
	first, err := w.log.End(ctx, End{Request: r.ID, State: access.StateDenied, Why: "no"})
	if err != nil || first.Ended != access.StateDenied || first.EndedAt != w.now.Truncate(time.Millisecond) || first.Handle != nil {
		t.Fatalf("End: %+v, %v", first, err)
	}
	w.tick()
	again, err := w.log.End(ctx, End{Request: r.ID, State: access.StateExpired})
	if err != nil || cmp.Diff(first, again) != "" {
		t.Errorf("second End: %v\n%s", err, cmp.Diff(first, again))
	}
	entry, err := w.log.Reserve(ctx, ev.Request.Hash(), w.handle(r), Event{})
	if access.CodeOf(err) != access.CodeEnded || entry.Ended != access.StateDenied {
		t.Errorf("Reserve after the end: %+v, %v", entry, err)
	}
	for _, s := range access.States() {
		_, err := w.log.End(ctx, End{Request: "other-" + string(s), State: s})
		if want := s.Final(); (err == nil) != want {
			t.Errorf("End as %s: %v", s, err)
		}
	}
	if report := w.verify(VerifyOptions{}); !report.OK {
		t.Error(report.Problems)
	}
}

// What Verify would call wrong isn't recorded in the first place.
func TestEndOnAWordOfAnotherKind(t *testing.T) {
	w, r, ev := ready(t)
	for _, state := range []access.State{access.StateRevoked, access.StateExpired, access.StateDenied, access.StateTimedOut} {
		end := End{Request: r.ID, State: state, By: "alice", Statement: w.stop("alice", access.TypeRelease, r, ev.Request), Digests: w.digests()}
		if _, err := w.log.End(context.Background(), end); access.CodeOf(err) != access.CodeMalformed {
			t.Errorf("a release ended it as %s: %v", state, err)
		}
	}
	if _, err := w.log.End(context.Background(), End{Request: r.ID, State: access.StateDenied, Statement: &access.Statement{Payload: "no"}}); access.CodeOf(err) != access.CodeMalformed {
		t.Errorf("a word that can't be read ended it: %v", err)
	}
	if entry, found, err := w.log.Entry(context.Background(), r.ID); err != nil || found && entry.Ended != "" {
		t.Errorf("entry %+v, %v", entry, err)
	}
}

// A workflow worker that keeps the request itself from the record keeps nothing
// from Verify: the evidence has it.
func TestReleaseOfWhatWasNeverReceived(t *testing.T) {
	w := newWorld(t)
	r, st := w.request("alice")
	yes := w.decision("bob", access.Approve, r, st)
	w.grant(r, access.Evidence{Request: st, Decisions: []access.Statement{yes}})
	w.end(End{Request: r.ID, State: access.StateReleased, By: "alice", Statement: w.stop("alice", access.TypeRelease, r, st), Digests: w.digests()})
	if report := w.verify(VerifyOptions{}); !report.OK {
		t.Error(report.Problems)
	}
}

// TestEndWhileIssuing: of an end and an issue at the same time, one comes
// first, and both sides are told the same.
func TestEndWhileIssuing(t *testing.T) {
	for range 8 {
		w, r, ev := ready(t)
		h := w.prepare(r, ev.Request)
		cred, e := w.certificate(h, w.spec(r, h)), w.issued(ev)
		var issued error
		var entry Entry
		var wg sync.WaitGroup
		wg.Go(func() { issued = w.log.Issued(context.Background(), cred, e) })
		wg.Go(func() {
			var err error
			entry, err = w.log.End(context.Background(), End{Request: r.ID, State: access.StateRevoked})
			if err != nil {
				t.Error(err)
			}
		})
		wg.Wait()
		if issued != nil && access.CodeOf(issued) != access.CodeEnded || (issued == nil) != (entry.Credential != nil) {
			t.Errorf("issued: %v; at the end there was a credential: %v", issued, entry.Credential != nil)
		}
		if report := w.verify(VerifyOptions{}); !report.OK {
			t.Error(report.Problems)
		}
		_ = w.log.Close()
	}
}

func TestEventsWithTheLedgerOnly(t *testing.T) {
	l, _, _ := newLog(t)
	for _, typ := range Types() {
		want := access.Code("")
		switch typ {
		case CredentialPrepared, CredentialIssued, RequestDenied, RequestTimedOut, RequestCancelled, GrantExpired, GrantReleased, GrantRevoked, LockSet, LockLifted, HostEnrolled, HostCertified, SweepOrphan, SweepStray,
			EmergencyGranted, ReviewOpened, GrantExtended, DelegationGiven, DelegationRevoked:
			want = access.CodeMalformed
		case RulebookChanged:
			continue // has a method of its own
		}
		if _, err := l.Append(context.Background(), Event{Type: typ, Asked: &access.Asking{}}); access.CodeOf(err) != want {
			t.Errorf("Append of %s: %v, want %q", typ, err, want)
		}
	}
}

// A clock that is set right while an end is on its way to the log: what is recorded is
// a time at which the grant was over, or nothing.
func TestExpiredWhileTheClockIsSet(t *testing.T) {
	for name, clocks := range map[string][2]time.Duration{"back and right again": {-26 * time.Hour, 0}, "right and back": {0, -26 * time.Hour}} {
		t.Run(name, func(t *testing.T) {
			w, r, ev := ready(t)
			w.grant(r, ev)
			w.until(r.ID)
			reads := 0
			other, err := Open(t.Context(), Options{Database: w.path, Key: w.private, Now: func() time.Time {
				reads++
				return w.now.Add(clocks[min(reads, len(clocks))-1])
			}})
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = other.Close() }()
			reads = 0
			entry, err := other.End(t.Context(), End{Request: r.ID, State: access.StateExpired})
			if err != nil && access.CodeOf(err) != access.CodeUnavailable {
				t.Fatal(err)
			}
			if err == nil && entry.EndedAt.Before(w.now) {
				t.Errorf("expired at %s, by a grant that was over at %s", entry.EndedAt, w.now)
			}
			if report := w.verify(VerifyOptions{}); !report.OK {
				t.Errorf("log: %+v", report.Problems)
			}
		})
	}
}

// A clock that is set between the judgement and the record: the credential isn't
// recorded, and so never leaves, or the log couldn't be verified from then on.
func TestIssuedWhileTheClockIsSet(t *testing.T) {
	for _, by := range []time.Duration{-26 * time.Hour, -access.ClockSkew - time.Second, access.ClockSkew + time.Second} {
		w, r, ev := ready(t)
		w.tick()
		entry, err := w.log.Reserve(t.Context(), ev.Request.Hash(), w.handle(r), Event{Digests: w.digests()})
		if err != nil {
			t.Fatal(err)
		}
		cred, e := w.certificate(*entry.Handle, w.spec(r, *entry.Handle)), w.issued(ev)
		was := w.now
		w.now = was.Add(by)
		if err := w.log.Issued(t.Context(), cred, e); access.CodeOf(err) != access.CodeUnavailable {
			t.Errorf("clock set by %s: %v", by, err)
		}
		w.now = was
		if err := w.log.Issued(t.Context(), cred, e); err != nil {
			t.Errorf("once the clock is right: %v", err)
		}
		if report := w.verify(VerifyOptions{}); !report.OK {
			t.Errorf("clock set by %s: log: %+v", by, report.Problems)
		}
	}
}
