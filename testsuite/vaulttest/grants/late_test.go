package grants

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"

	"hallpass/access"
	"hallpass/grant"
	"hallpass/testsuite/postgrestest"
	"hallpass/testsuite/vaulttest"
)

// Vault asks for the token when a read begins. If the grant ends before the database has
// made the login, the token's leases are taken back without the one that comes then,
// which is nobody's. A sweep ends it where the catalog says that nobody
// else reads there.
func TestReadWhileTheGrantEnds(t *testing.T) {
	for _, how := range []struct {
		state access.State
		d     time.Duration
	}{{access.StateReleased, time.Hour}, {access.StateExpired, 5 * time.Second}} {
		t.Run(string(how.state), func(t *testing.T) {
			t.Parallel()
			ctx := context.Background()
			w := newWorldWith(t, strings.Replace(catalogYAML, "path:", "exclusive: true\n    path:", 1), vaulttest.Config{})
			a := w.ask(how.d, "read")
			cred := w.issue(w.issuer(nil, nil), a)
			s, token, err := w.unwrap(a, cred)
			if err != nil {
				t.Fatal(err)
			}
			tx, err := w.session(login{postgrestest.Admin, w.db.Postgres.Password}).Begin(ctx)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := tx.Exec(ctx, "LOCK TABLE pg_authid IN EXCLUSIVE MODE"); err != nil { // nobody makes a login meanwhile
				t.Fatal(err)
			}
			read := make(chan *api.Secret, 1)
			go func() {
				secret, err := token.Logical().Read(s.Reads[0].Path)
				if err != nil {
					t.Log(err)
				}
				read <- secret
			}()
			w.eventually("Vault waits for the database", func() bool {
				waits := false
				err := tx.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock')").Scan(&waits)
				return err == nil && waits
			})
			if how.state == access.StateExpired {
				w.eventually("the grant is over", func() bool { return time.Now().After(cred.Handle.NotAfter) && len(w.accessors()) == 0 })
			}
			w.end(a, how.state)
			if err := tx.Rollback(ctx); err != nil {
				t.Fatal(err)
			}
			secret := <-read
			if secret == nil {
				t.Fatal("Vault gave nothing: then docs/vault.md can promise more")
			}
			l := login{secret.Data["username"].(string), secret.Data["password"].(string)}
			w.note(l.password)
			sweeper := w.sweeper(0)
			sweeper.Kinds["vault"].(*grant.Vault).Settle = time.Second
			w.eventually("a sweep ends the login", func() bool {
				w.sweep(sweeper)
				return pgCode(w.try(l)) == "28P01"
			})
			w.clean()
		})
	}
}
