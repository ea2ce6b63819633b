package grants

import (
	"context"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
	"github.com/jackc/pgx/v5"

	"hallpass/access"
	"hallpass/audit"
	"hallpass/grant"
	"hallpass/testsuite/postgrestest"
)

// stalled is a read that Vault has let in and that waits for the database.
type stalled struct {
	asked
	access.Credential
	tx   pgx.Tx
	read chan *api.Secret
}

// stall has a grant read, and lets the database make no login meanwhile.
func (w *world) stall(issuer *grant.Issuer, d time.Duration) stalled {
	w.t.Helper()
	ctx := context.Background()
	s := stalled{asked: w.ask(d, "read"), read: make(chan *api.Secret, 1)}
	s.Credential = w.issue(issuer, s.asked)
	secret, token, err := w.unwrap(s.asked, s.Credential)
	if err != nil {
		w.t.Fatal(err)
	}
	if s.tx, err = w.session(login{postgrestest.Admin, w.db.Postgres.Password}).Begin(ctx); err != nil {
		w.t.Fatal(err)
	}
	if _, err := s.tx.Exec(ctx, "LOCK TABLE pg_authid IN EXCLUSIVE MODE"); err != nil {
		w.t.Fatal(err)
	}
	go func() {
		got, err := token.Logical().Read(secret.Reads[0].Path)
		if err != nil {
			w.t.Log(err)
		}
		s.read <- got
	}()
	w.eventually("Vault waits for the database", func() bool {
		waits := false
		err := s.tx.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock')").Scan(&waits)
		return err == nil && waits
	})
	return s
}

// goOn lets the database go on, and says what the read gave.
func (w *world) goOn(s stalled) login {
	w.t.Helper()
	if err := s.tx.Rollback(context.Background()); err != nil {
		w.t.Fatal(err)
	}
	secret := <-s.read
	if secret == nil {
		w.t.Fatal("Vault gave nothing: then docs/vault.md can promise more")
	}
	l := login{secret.Data["username"].(string), secret.Data["password"].(string)}
	w.note(l.password)
	return l
}

// endLate is an issuer that looks for what comes late.
func (w *world) endLate() *grant.Issuer {
	w.t.Helper()
	k := w.kind()
	i := w.issuer(k, nil)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		k.EndLate(ctx, i.RecordLease, func(err error) { w.t.Log(err) })
	}()
	w.t.Cleanup(func() { cancel(); <-done })
	return i
}

// Vault asks for the token when a read begins. If the grant ends before the database
// has made the login, the token's leases are taken back without the one that comes
// then. Where the grant's time is over, Vault ends that one as soon as it is there, and
// else the issuer does. Another grant that reads the same loses nothing by it.
func TestReadWhileTheGrantEnds(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		how access.State
		d   time.Duration
	}{{access.StateReleased, time.Hour}, {access.StateRevoked, 24 * time.Hour}, {access.StateExpired, 20 * time.Second}} {
		t.Run(string(tt.how), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.vault.Write(t, "database/roles/orders-ro", map[string]any{"default_ttl": "24h", "max_ttl": "24h"})
			issuer := w.issuer(nil, nil)
			if tt.how != access.StateExpired {
				issuer = w.endLate()
			}
			other := w.ask(tt.d+time.Hour, "read")
			if tt.d > 10*time.Hour {
				other = w.ask(tt.d, "read") // that ends when this one does
			}
			kept := w.open(other, w.issue(issuer, other))[0]
			s := w.stall(issuer, tt.d)
			if tt.how == access.StateExpired {
				w.eventually("the grant is over", func() bool { return time.Now().After(s.Handle.NotAfter) && len(w.accessors()) == 1 })
			}
			if err := issuer.Revoke(context.Background(), audit.End{Request: s.ID, State: tt.how, Why: "test"}); err != nil {
				t.Fatal(err)
			}
			w.gone(w.goOn(s))
			w.works(kept)
			if n := w.count(audit.Query{Type: audit.SweepLease}); n != 1 && tt.how != access.StateExpired {
				t.Errorf("%d leases on record", n)
			}
			w.end(other, access.StateReleased)
			w.clean()
		})
	}
}

// What came late on a grant whose issuer died a sweep ends, and if there is none
// either, the grant's own time.
func TestReadWhileTheGrantEndsAndItsIssuerDies(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	long := w.stall(w.issuer(nil, nil), time.Hour)
	w.end(long.asked, access.StateRevoked)
	left := w.goOn(long)
	w.works(left)
	if _, found := w.sweep(w.sweeper(0)); len(found) != 1 || found[0].What != access.SweptRevoked {
		t.Errorf("%+v", found)
	}
	w.gone(left)

	s := w.stall(w.issuer(nil, nil), 15*time.Second)
	w.end(s.asked, access.StateRevoked)
	l := w.goOn(s)
	w.works(l)
	worked := s.Handle.NotBefore // when the last login that did was begun
	w.eventually("the login ends with the grant's own time", func() bool {
		began := time.Now()
		err := w.try(l)
		if err == nil {
			worked = began
		}
		return pgCode(err) == "28P01"
	})
	if over := worked.Sub(s.Handle.NotAfter); over > 5*time.Second {
		t.Errorf("it worked %s after the grant's end", over)
	}
	w.clean()
}

// A lease in Vault ends with the token, and tells by its end whose it is.
func TestLeasesEndWithTheToken(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.vault.Write(t, "database/roles/orders-ro", map[string]any{"default_ttl": "24h", "max_ttl": "24h"})
	ends := map[int]bool{}
	for range 3 {
		a := w.ask(time.Hour, "read")
		c := w.issue(w.issuer(nil, nil), a)
		w.open(a, c)
		for _, id := range w.vault.Leases(t, "database/creds") {
			data := w.vault.Write(t, "sys/leases/lookup", map[string]any{"lease_id": id}).Data
			at, err := time.Parse(time.RFC3339Nano, data["expire_time"].(string))
			if err != nil || at.After(c.Handle.NotAfter) || at.Before(c.Handle.NotAfter.Add(-5*time.Second)) || ends[at.Nanosecond()] || at.Nanosecond() == 0 {
				t.Errorf("%v ends at %s, the grant at %s: %v", id, at, c.Handle.NotAfter, err)
			}
			ends[at.Nanosecond()] = true
		}
		w.end(a, access.StateReleased)
		w.eventually("its leases are gone", func() bool { return len(w.vault.Leases(t, "database/creds")) == 0 })
	}
	if len(ends) != 3 {
		t.Errorf("%v", ends)
	}
	w.clean()
}

// Whoever else reads the same loses nothing by it.
func TestEndLateLeavesOthersAlone(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	issuer := w.endLate()
	stranger := w.vault.Client(t)
	his, err := stranger.Logical().Read("database/creds/orders-ro")
	if err != nil {
		t.Fatal(err)
	}
	s := w.stall(issuer, time.Hour)
	if err := issuer.Revoke(context.Background(), audit.End{Request: s.ID, State: access.StateRevoked, Why: "test"}); err != nil {
		t.Fatal(err)
	}
	w.gone(w.goOn(s))
	w.works(login{his.Data["username"].(string), his.Data["password"].(string)})
	w.vault.Write(t, "sys/leases/revoke", map[string]any{"lease_id": his.LeaseID, "sync": true})
	w.clean()
}
