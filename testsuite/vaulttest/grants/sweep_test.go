package grants

import (
	"context"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"

	"hallpass/access"
	"hallpass/audit"
	"hallpass/grant"
	"hallpass/testsuite/vaulttest"
	"hallpass/vault"
)

// sweeper is an issuer that can sweep.
func (w *world) sweeper(grace time.Duration) *grant.Issuer {
	w.t.Helper()
	k := w.kind()
	k.Leases = func() []string { return access.VaultPaths(w.book.Catalog.Resources()) }
	i := w.issuer(k, nil)
	i.Grace = grace
	return i
}

// sweep goes through all there is.
func (w *world) sweep(i *grant.Issuer) (looked int, findings []access.Finding) {
	w.t.Helper()
	for cursor := ""; ; {
		out, err := i.Sweep(context.Background(), "vault", cursor)
		if err != nil {
			w.t.Fatal(err)
		}
		looked, findings = looked+out.Looked, append(findings, out.Findings...)
		if cursor = out.Next; cursor == "" {
			return looked, findings
		}
	}
}

// mint makes a token as root, by a path.
func (w *world) mint(path string, body map[string]any) *api.Client {
	w.t.Helper()
	s := w.vault.Write(w.t, path, body)
	return w.vault.ClientWithToken(w.t, s.Auth.ClientToken)
}

// lives says whether a client's token does.
func (w *world) lives(c *api.Client) bool {
	w.t.Helper()
	_, err := w.vault.Client(w.t).Auth().Token().Lookup(c.Token())
	return err == nil
}

// revoke ends a client's token.
func (w *world) revoke(c *api.Client) {
	w.t.Helper()
	if err := w.vault.Client(w.t).Auth().Token().RevokeTree(c.Token()); err != nil {
		w.t.Error(err)
	}
}

// What has no live grant is revoked: a token that an issuer left when it died
// after minting, and one whose end it did not live to carry out. Live grants,
// what is being made, and all tokens that aren't hallpass's stay.
func TestSweep(t *testing.T) {
	w := newWorld(t)
	ctx := context.Background()
	issuer := w.issuer(nil, nil)

	live := w.ask(time.Hour, "read")
	liveCred := w.issue(issuer, live)
	liveLogin := w.open(live, liveCred)[0]
	unread := w.ask(time.Hour, "read")
	unreadCred := w.issue(issuer, unread)
	// The ledger knows of the end, Vault doesn't.
	ended := w.ask(time.Hour, "dump")
	endedLogin := w.open(ended, w.issue(issuer, ended))[0]
	if _, err := w.log.End(ctx, audit.End{Request: ended.ID, State: access.StateRevoked, Why: "the issuer died"}); err != nil {
		t.Fatal(err)
	}
	// The ledger has another token of the request.
	lost, err := w.kind().Prepare(ctx, w.order(live))
	if err != nil {
		t.Fatal(err)
	}
	// The ledger has never heard of the request.
	never := w.ask(time.Hour, "read")
	if _, err := w.kind().Prepare(ctx, w.order(never)); err != nil {
		t.Fatal(err)
	}

	w.vault.Write(t, "auth/token/roles/other", map[string]any{"allowed_policies_glob": "*", "orphan": true})
	strangers := map[string]*api.Client{
		"root's own": w.vault.Client(t),
		"of another role": w.mint("auth/token/create/other", map[string]any{
			"policies": []string{"default"}, "meta": map[string]string{"hallpass_request": never.ID},
		}),
		"without a role": w.mint("auth/token/create", map[string]any{"policies": []string{"default"}, "meta": map[string]string{"hallpass_request": never.ID}}),
		"for no request": w.mint("auth/token/create/"+vault.DefaultTokenRole, map[string]any{"policies": []string{vault.GrantRole(vault.DefaultTokenRole)}}),
	}

	if looked, found := w.sweep(w.sweeper(time.Hour)); looked != 5 || len(found) != 0 {
		t.Errorf("within the grace: looked at %d, found %+v", looked, found)
	}
	k := w.kind() // which looks at no leases: without a grace, one that is on its way is stuck
	sweeper := w.issuer(k, nil)
	looked, found := w.sweep(sweeper)
	requests := map[string]int{}
	for _, f := range found {
		requests[f.Request]++
		if f.What != access.SweptRevoked || f.Kind != "vault" {
			t.Errorf("%+v", f)
		}
	}
	if want := map[string]int{ended.ID: 1, live.ID: 1, never.ID: 1}; looked != 5 || !maps.Equal(requests, want) {
		t.Errorf("looked at %d, found %v, want %v", looked, requests, want)
	}
	w.gone(endedLogin)
	w.works(liveLogin)
	w.works(w.open(unread, unreadCred)[0])
	if all := w.accessors(); slices.Contains(all, lost.Accessor) || !slices.Contains(all, liveCred.Handle.Accessor) {
		t.Errorf("%v", all)
	}
	for who, c := range strangers {
		if !w.lives(c) {
			t.Errorf("the token %s is gone", who)
		}
		if who != "root's own" {
			w.revoke(c)
		}
	}
	if looked, found := w.sweep(w.sweeper(0)); looked != 2 || len(found) != 0 {
		t.Errorf("the second time: looked at %d, found %+v", looked, found)
	}
	var events []string
	for rec, err := range w.log.Events(ctx, audit.Query{Type: "sweep."}) {
		if err != nil {
			t.Fatal(err)
		}
		events = append(events, rec.Event.Type)
		if rec.Event.Handle == nil || rec.Event.Handle.Accessor == "" || rec.Event.Handle.Sealed != "" || rec.Event.Handle.NotAfter.Before(time.Now()) {
			t.Errorf("%+v", rec.Event.Handle)
		}
	}
	slices.Sort(events)
	if want := []string{"sweep.revoked", "sweep.revoked", "sweep.revoked", "sweep.stray", "sweep.stray", "sweep.stray"}; !slices.Equal(events, want) {
		t.Errorf("events %v", events)
	}
	w.end(live, access.StateReleased)
	w.end(unread, access.StateReleased)
	w.clean()
}

// A lease that Vault can't take back is reported, until it is gone.
func TestSweepStuckLease(t *testing.T) {
	// Vault tries six times, each after a longer wait than the one before.
	w := newWorldOn(t, vaulttest.Config{RevokeRetry: 100 * time.Millisecond})
	a := w.ask(time.Hour, "read")
	w.open(a, w.issue(w.issuer(nil, nil), a))
	sweeper := w.sweeper(0)
	if _, found := w.sweep(sweeper); len(found) != 0 {
		t.Errorf("%+v", found)
	}
	w.db.Postgres.Kill()
	w.end(a, access.StateReleased)
	var found []access.Finding
	w.eventually("the lease is stuck", func() bool { _, found = w.sweep(sweeper); return len(found) > 0 })
	if f := found[0]; f.What != access.SweptStuck || !strings.Contains(f.Why, "the lease database/creds/orders-ro/") || strings.Contains(f.Why, "\n") {
		t.Errorf("%+v", found)
	}
	if _, found := w.sweep(w.sweeper(time.Hour)); len(found) != 0 {
		t.Errorf("within the grace: %+v", found)
	}
	w.eventually("Vault gives up", func() bool {
		s, err := w.vault.Client(t).Logical().ReadWithData("sys/leases", map[string][]string{"type": {"irrevocable"}})
		if err != nil || s == nil {
			t.Fatal(s, err)
		}
		return fmt.Sprint(s.Data["lease_count"]) == "1"
	})
	_, again := w.sweep(sweeper)
	n := w.count(audit.Query{Type: audit.SweepStuck})
	if len(again) != 1 || n != 1 {
		t.Errorf("%d events of %d findings", n, len(again))
	}
	w.db.Postgres.Restart(t)
	// Vault may have given up meanwhile. Then somebody has to see to it.
	w.vault.Write(t, "sys/leases/revoke", map[string]any{"lease_id": w.vault.Leases(t, "database/creds")[0], "sync": true})
	w.clean()
}

// forgotten makes a grant, has Vault forget which leases its token has, as if
// it had crashed after it wrote the lease and before it wrote whose it is, and
// ends the grant. What is left is a login that works and a lease that is nobody's.
func (w *world) forgotten(actions ...string) login {
	w.t.Helper()
	a := w.ask(time.Hour, actions...)
	var l login
	made := w.kept("sys/expire/token/*", func() { l = w.open(a, w.issue(w.issuer(nil, nil), a))[0] })
	w.vault.Kill()
	for _, name := range made {
		if err := os.RemoveAll(name); err != nil {
			w.t.Fatal(err)
		}
	}
	w.vault.Restart(w.t)
	w.end(a, access.StateReleased)
	w.works(l)
	return l
}

// A lease that is of a grant that has ended, and that no revocation found, since Vault
// lost sight of it when it crashed, is revoked, and no other is: not of an older or
// younger grant that reads the same, nor an application's.
func TestSweepLeaseOfAnEndedGrant(t *testing.T) {
	w := newWorld(t)
	sweeper := w.sweeper(0)
	issuer := w.issuer(nil, nil)
	dump, old := w.ask(time.Hour, "dump"), w.ask(time.Hour, "read")
	dumpLogin, oldLogin := w.open(dump, w.issue(issuer, dump))[0], w.open(old, w.issue(issuer, old))[0]
	app, err := w.vault.Client(t).Logical().Read("database/creds/orders-ro")
	if err != nil {
		t.Fatal(err)
	}
	appLogin := login{app.Data["username"].(string), app.Data["password"].(string)}
	left := w.forgotten("read")
	now := w.ask(time.Hour, "read")
	nowLogin := w.open(now, w.issue(issuer, now))[0]

	if _, found := w.sweep(w.sweeper(time.Hour)); len(found) != 0 {
		t.Errorf("within the grace: %+v", found)
	}
	// It isn't allowed to as long as Vault hasn't been told.
	told := vault.NewPlan(w.book.Catalog.Resources(), vault.Config{}, vault.DefaultTokenRole).Issuer
	w.vault.Policy(t, told.Name, strings.Replace(told.Text, `, "database/creds/orders-dump/*", "database/creds/orders-ro/*"]`, "]", 1))
	_, found := w.sweep(sweeper)
	if len(found) != 1 || found[0].What != access.SweptStuck || !strings.Contains(found[0].Why, "it could not be revoked: vault answers 403") || !strings.Contains(found[0].Why, "run: hallpass vault setup --print") {
		t.Errorf("without the right: %+v", found)
	}
	w.works(left)
	w.vault.Policy(t, told.Name, told.Text)
	_, found = w.sweep(sweeper)
	if len(found) != 1 || found[0].What != access.SweptRevoked || !strings.HasPrefix(found[0].Why, "the lease database/creds/orders-ro/") || !strings.HasSuffix(found[0].Why, "; revoked") {
		t.Errorf("%+v", found)
	}
	w.gone(left)
	for _, l := range []login{dumpLogin, oldLogin, nowLogin, appLogin} {
		w.works(l)
	}
	if _, found := w.sweep(sweeper); len(found) != 0 {
		t.Errorf("once more: %+v", found)
	}
	if n, m := w.count(audit.Query{Type: audit.SweepLease}), w.count(audit.Query{Type: audit.SweepStuck}); n != 1 || m != 1 {
		t.Errorf("%d leases and %d stuck on record", n, m)
	}
	for _, a := range []asked{old, now, dump} {
		w.end(a, access.StateReleased)
	}
	w.vault.Write(t, "sys/leases/revoke", map[string]any{"lease_id": app.LeaseID, "sync": true})
	w.clean()
}

// While Vault is sealed, a sweep fails and concludes nothing.
func TestSweepOfASealedVault(t *testing.T) {
	w := newWorld(t)
	a := w.ask(time.Hour, "read")
	c := w.issue(w.issuer(nil, nil), a)
	sweeper := w.sweeper(0)
	w.vault.Seal(t)
	if _, err := sweeper.Sweep(context.Background(), "vault", ""); err == nil {
		t.Error("it was swept")
	}
	w.vault.Unseal(t)
	if _, found := w.sweep(sweeper); len(found) != 0 {
		t.Errorf("%+v", found)
	}
	w.works(w.open(a, c)[0])
	w.end(a, access.StateReleased)
	w.clean()
}

// BenchmarkSweep sweeps a Vault with many live grants, each with a secret that
// was read, and as many tokens of others. How many is in SWEEP_GRANTS; 200
// where it isn't said.
func BenchmarkSweep(b *testing.B) {
	n := 200
	if s := os.Getenv("SWEEP_GRANTS"); s != "" {
		var err error
		if n, err = strconv.Atoi(s); err != nil {
			b.Fatal(err)
		}
	}
	w := newWorldOf(b, `
resources:
  vault/cert:
    path: pki/issue
    actions: {get: {role: web, with: {common_name: web.example.com}}}
`, vaulttest.Config{})
	w.vault.Mount(b, "pki", "pki")
	w.vault.Write(b, "pki/root/generate/internal", map[string]any{"common_name": "example.com", "ttl": "48h", "key_type": "ec"})
	w.vault.Write(b, "pki/roles/web", map[string]any{
		"allowed_domains": "example.com", "allow_subdomains": true, "max_ttl": "24h", "generate_lease": true, "key_type": "ec",
	})
	issuer := w.issuer(nil, nil)
	var making sync.WaitGroup
	left := make(chan int)
	for range 16 {
		making.Go(func() {
			for range left {
				a := w.askFor("vault/cert", 20*time.Hour, "get")
				s, client, err := w.unwrap(a, w.issue(issuer, a))
				if err != nil {
					b.Error(err)
					continue
				}
				if _, err := client.Logical().Write(s.Reads[0].Path, map[string]any{"common_name": "web.example.com"}); err != nil {
					b.Error(err)
				}
				w.mint("auth/token/create", map[string]any{"policies": []string{"default"}})
			}
		})
	}
	for i := range n {
		left <- i
	}
	close(left)
	making.Wait()
	if leases := w.vault.Leases(b, "pki/issue/web"); len(leases) != n {
		b.Fatalf("%d leases", len(leases))
	}
	// The first sweep of a process looks at the tokens of others, once.
	for name, fresh := range map[string]bool{"first": true, "again": false} {
		b.Run(fmt.Sprintf("grants=%d/%s", n, name), func(b *testing.B) {
			sweeper := w.benchSweeper()
			if !fresh {
				w.sweep(sweeper)
			}
			for b.Loop() {
				if fresh {
					sweeper = w.benchSweeper()
				}
				if looked, found := w.sweep(sweeper); looked != n || len(found) > 0 {
					b.Fatalf("looked at %d, found %+v", looked, found)
				}
			}
		})
	}
}

func (w *world) benchSweeper() *grant.Issuer {
	k := w.kind()
	k.Leases = func() []string { return access.VaultPaths(w.book.Catalog.Resources()) }
	i := w.issuer(k, nil)
	i.Grace = 0
	return i
}
