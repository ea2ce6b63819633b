package grants

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"hallpass/access"
	"hallpass/audit"
	"hallpass/grant"
	"hallpass/grant/granttest"
	"hallpass/sealed"
	"hallpass/statement"
	"hallpass/vault"
)

func TestContract(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	resource, _ := w.book.Catalog.Resource("vault/orders")
	var mu sync.Mutex
	keys := map[string]asked{}
	granttest.Run(t, granttest.Harness{
		Kind: w.kind(),
		Order: func(testing.TB) grant.Order {
			a := w.ask(10*time.Minute, "read", "dump")
			mu.Lock()
			defer mu.Unlock()
			keys[a.ID] = a
			now := time.Now().UTC().Truncate(time.Second)
			return grant.Order{
				Request: a.Request, Resource: resource, NotBefore: now, NotAfter: now.Add(10 * time.Minute),
				Standing: access.Standing{Effect: access.EffectAllow, Duration: a.Duration, Request: a.Request},
			}
		},
		// Vault has no other time than now. Of other times its own word on the
		// token's end counts.
		Alive: func(t testing.TB, c access.Credential, at time.Time) bool {
			s, err := w.vault.Client(w.t).Auth().Token().LookupAccessor(c.Handle.Accessor)
			if err != nil {
				return false
			}
			end, err := time.Parse(time.RFC3339, s.Data["expire_time"].(string))
			if err != nil {
				t.Fatal(err)
			}
			if end.After(c.Handle.NotAfter) || end.Before(c.Handle.NotAfter.Add(-10*time.Second)) {
				t.Errorf("the token ends at %s, the grant at %s", end, c.Handle.NotAfter)
			}
			return !at.Before(c.Handle.NotBefore) && at.Before(c.Handle.NotAfter)
		},
		Secrets: func(t testing.TB, c access.Credential) []string {
			mu.Lock()
			a := keys[c.Handle.Request]
			mu.Unlock()
			s, client, err := w.unwrap(a, c)
			if err != nil {
				t.Fatal(err)
			}
			return []string{s.WrappingToken, client.Token(), a.key}
		},
	})
}

// The whole way, and each way in which it ends: the login works and then
// doesn't, and neither does a session that was open.
func TestGrant(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, state := range []access.State{access.StateReleased, access.StateRevoked} { // TestExpiry has the third
		t.Run(string(state), func(t *testing.T) {
			a := w.ask(10*time.Minute, "dump", "read")
			c := w.issue(w.issuer(nil, nil), a)
			if again := w.issue(w.issuer(nil, w.openLog()), a); !cmp.Equal(c, again) {
				t.Errorf("another process gives another credential: %s", cmp.Diff(c, again))
			}
			logins := w.open(a, c)
			if !strings.Contains(logins[0].user, "-orders-d") || !strings.Contains(logins[1].user, "-orders-r") {
				t.Errorf("logins %+v are not in the order of the actions", logins)
			}
			conn := w.session(logins[0])
			for _, l := range logins {
				w.works(l)
			}
			w.end(a, state)
			for _, l := range logins {
				w.gone(l)
			}
			if _, err := conn.Exec(context.Background(), "SELECT 1"); pgCode(err) != "57P01" {
				t.Errorf("the open session: %v", err)
			}
			w.end(a, state) // once more
			if _, err := w.issuer(nil, nil).Issue(context.Background(), a.evidence); access.CodeOf(err) != access.CodeEnded {
				t.Errorf("issued after the end: %v", err)
			}
		})
	}
	w.clean()
}

// Under a lock nothing is minted, what comes while it is set isn't handed out,
// and what is open ends.
func TestLock(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	sign := func(l access.Lock) access.Statement {
		l.Header = access.Header{Type: access.TypeLock, ID: statement.NewID(), Signer: "alice", Time: time.Now().UTC().Truncate(time.Second)}
		st, err := statement.Sign(w.alice, l)
		if err != nil {
			t.Fatal(err)
		}
		return st
	}
	lock := sign(access.Lock{Action: access.ActionLock, Kind: access.LockResource, Name: "vault/orders", Reason: "under investigation"})
	open := w.ask(10*time.Minute, "read")
	l := w.open(open, w.issue(w.issuer(nil, nil), open))[0]
	conn := w.session(l)

	late := w.ask(10*time.Minute, "read")
	i := w.issuer(ending{w.kind(), func() {
		if _, err := w.log.Lock(context.Background(), w.book, lock, time.Now()); err != nil {
			t.Error(err)
		}
	}}, nil)
	if _, err := i.Issue(context.Background(), late.evidence); access.CodeOf(err) != access.CodeDenied || !strings.Contains(err.Error(), "is locked by alice: under investigation") {
		t.Errorf("issued while the lock was set: %v", err)
	}
	before := len(w.accessors())
	if _, err := w.issuer(nil, nil).Issue(context.Background(), w.ask(time.Minute, "read").evidence); access.CodeOf(err) != access.CodeDenied {
		t.Errorf("issued under a lock: %v", err)
	}
	if after := len(w.accessors()); after != before {
		t.Errorf("minted %d tokens under a lock", after-before)
	}
	for _, a := range []asked{open, late} {
		end := audit.End{Request: a.ID, State: access.StateRevoked, By: "alice", Why: "locked", Statement: &lock}
		if a.ID == late.ID { // the workflow's event of its coming is not here
			end = audit.End{Request: a.ID, State: access.StateDenied, Why: "locked"}
		}
		if err := w.issuer(nil, nil).Revoke(context.Background(), end); err != nil {
			t.Error(err)
		}
	}
	w.gone(l)
	if _, err := conn.Exec(context.Background(), "SELECT 1"); pgCode(err) != "57P01" {
		t.Errorf("the open session: %v", err)
	}
	w.clean()
}

// What only runs out ends by itself: no part of hallpass does anything here.
func TestExpiry(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a := w.ask(8*time.Second, "read")
	c := w.issue(w.issuer(nil, nil), a)
	l := w.open(a, c)[0]
	w.works(l)
	conn := w.session(l)
	w.eventually("the login is refused", func() bool { return w.try(l) != nil })
	if late := time.Since(c.Handle.NotAfter); late > 10*time.Second {
		t.Errorf("worked until %s after the end", late)
	}
	w.gone(l)
	if _, err := conn.Exec(context.Background(), "SELECT 1"); pgCode(err) != "57P01" {
		t.Errorf("the open session: %v", err)
	}
	// One that nobody opened can't be opened any more.
	b := w.ask(8*time.Second, "read")
	cb := w.issue(w.issuer(nil, nil), b)
	w.eventually("the time is over", func() bool { return time.Now().After(cb.Handle.NotAfter) })
	if _, _, err := w.unwrap(b, cb); err == nil {
		t.Error("opened after the end")
	}
	w.end(a, access.StateExpired)
	w.end(b, access.StateExpired)
	w.clean()
}

// While Vault is away, nothing takes a login back: it works past the end of its
// grant, and no longer than its own end in the database, which the role says.
// What is logged in stays until Vault is back.
func TestExpiryWhileVaultIsAway(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	const life = 16 * time.Second // of what is read
	w.vault.Write(t, "database/roles/orders-ro", map[string]any{"default_ttl": life.String()})
	a := w.ask(8*time.Second, "read") // up to two less for the token
	c := w.issue(w.issuer(nil, nil), a)
	l := w.open(a, c)[0]
	read := time.Now()
	conn := w.session(l)
	w.vault.Kill()
	w.eventually("the grant is over", func() bool { return time.Now().After(c.Handle.NotAfter.Add(time.Second)) })
	if err := w.try(l); err != nil && time.Since(read) < life {
		t.Errorf("it doesn't work any more, so somebody has taken it back: %v", err)
	}
	w.eventually("the login is refused", func() bool { return pgCode(w.try(l)) == "28P01" })
	if late := time.Since(read.Add(life)); late > 10*time.Second { // Vault itself adds 5 s
		t.Errorf("worked until %s after its own end", late)
	}
	if _, err := conn.Exec(context.Background(), "SELECT 1"); err != nil {
		t.Errorf("the open session has ended by itself: say so in docs/vault.md: %v", err)
	}
	w.vault.Restart(t)
	w.eventually("Vault ends the open session", func() bool {
		_, err := conn.Exec(context.Background(), "SELECT 1")
		return err != nil
	})
	w.gone(l)
	w.end(a, access.StateExpired)
	w.clean()
}

// Whoever opens it first is the only one; the other one notices. What was
// revoked before it was opened is dead when it is.
func TestUnwrapOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a := w.ask(10*time.Minute, "read")
	c := w.issue(w.issuer(nil, nil), a)
	l := w.open(a, c)[0]
	if _, _, err := w.unwrap(a, c); err == nil || !strings.Contains(err.Error(), "Code: 400") {
		t.Errorf("opened twice: %v", err)
	}
	w.works(l)
	b := w.ask(10*time.Minute, "read")
	cb := w.issue(w.issuer(nil, nil), b)
	w.end(b, access.StateReleased)
	if s, client, err := w.unwrap(b, cb); err == nil {
		if secret, err := client.Logical().Read(s.Reads[0].Path); err == nil {
			t.Errorf("read after the end: %v", secret.LeaseID)
		}
	}
	other := w.ask(10*time.Minute, "read")
	if _, err := sealed.Open(other.key, c.Sealed); access.CodeOf(err) != access.CodeMismatch {
		t.Errorf("opened with another's key: %v", err)
	}
	w.end(a, access.StateReleased)
	w.gone(l)
	w.clean()
}

// errCrash is where a process ends.
var errCrash = errors.New("crash")

// crashing is a ledger and a kind that end the process before or after one of
// their steps.
type crashing struct {
	grant.Ledger
	*grant.Vault
	at string
}

func (c crashing) step(name string, do func() error) error {
	if c.at == "before "+name {
		return errCrash
	}
	err := do()
	if c.at == "after "+name {
		return errCrash
	}
	return err
}

func (c crashing) Prepare(ctx context.Context, o grant.Order) (h access.Handle, err error) {
	err = c.step("prepare", func() (err error) { h, err = c.Vault.Prepare(ctx, o); return err })
	return h, err
}

func (c crashing) Reserve(ctx context.Context, hash string, h access.Handle, e audit.Event) (entry audit.Entry, err error) {
	err = c.step("reserve", func() (err error) { entry, err = c.Ledger.Reserve(ctx, hash, h, e); return err })
	return entry, err
}

func (c crashing) Issue(ctx context.Context, o grant.Order, h access.Handle) (cred access.Credential, err error) {
	err = c.step("issue", func() (err error) { cred, err = c.Vault.Issue(ctx, o, h); return err })
	return cred, err
}

func (c crashing) Issued(ctx context.Context, cred access.Credential, e audit.Event) error {
	return c.step("issued", func() error { return c.Ledger.Issued(ctx, cred, e) })
}

func (c crashing) End(ctx context.Context, end audit.End) (entry audit.Entry, err error) {
	err = c.step("end", func() (err error) { entry, err = c.Ledger.End(ctx, end); return err })
	return entry, err
}

func (c crashing) Revoke(ctx context.Context, h access.Handle) error {
	return c.step("revoke", func() error { return c.Vault.Revoke(ctx, h) })
}

// A crash anywhere, and Vault killed, sealed or gone on the spot: the next
// process goes on, there is one credential, and nothing of it is left.
func TestCrash(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	outages := map[string]struct{ down, up func() }{
		"nothing else": {func() {}, func() {}},
		"killed":       {w.vault.Kill, func() { w.vault.Restart(t) }},
		"sealed":       {func() { w.vault.Seal(t) }, func() { w.vault.Unseal(t) }},
	}
	for name, outage := range outages {
		for _, step := range []string{"prepare", "reserve", "issue", "issued", "end", "revoke"} {
			for _, when := range []string{"before ", "after "} {
				t.Run(name+" "+when+step, func(t *testing.T) {
					ctx := context.Background()
					crash := crashing{w.log, w.kind(), when + step}
					a := w.ask(10*time.Minute, "read")
					end := audit.End{Request: a.ID, State: access.StateReleased, Why: "test"}
					ending := step == "end" || step == "revoke"
					var first access.Credential
					var l login
					if ending {
						first = w.issue(w.issuer(nil, nil), a)
						l = w.open(a, first)[0]
						if err := w.issuer(crash, crash).Revoke(ctx, end); !errors.Is(err, errCrash) {
							t.Fatalf("no crash: %v", err)
						}
					} else if _, err := w.issuer(crash, crash).Issue(ctx, a.evidence); !errors.Is(err, errCrash) {
						t.Fatalf("no crash: %v", err)
					}
					outage.down()
					next := w.issuer(nil, nil) // has to log in
					if name != "nothing else" {
						down(t, w, next, a, end, ending)
					}
					outage.up()
					if !ending {
						first = w.issue(next, a)
						if again := w.issue(w.issuer(nil, nil), a); !cmp.Equal(first, again) {
							t.Errorf("two credentials: %s", cmp.Diff(first, again))
						}
						l = w.open(a, first)[0]
						w.works(l)
					}
					if err := next.Revoke(ctx, end); err != nil {
						t.Fatal(err)
					}
					w.gone(l)
					if prepared := w.count(audit.Query{Request: a.ID, Type: audit.CredentialPrepared}); prepared != 1 {
						t.Errorf("%d credentials were prepared", prepared)
					}
					// One that was minted and never written down, nobody can open.
					// The sweep takes it; here we do.
					for _, accessor := range w.accessors() {
						if when+step != "after prepare" && when+step != "before reserve" {
							t.Errorf("token %s is left", accessor)
						}
						if err := w.kind().Discard(ctx, access.Handle{Accessor: accessor}); err != nil {
							t.Error(err)
						}
					}
				})
			}
		}
	}
	w.clean()
}

// down tries what can't be done while Vault isn't there: it is to be tried
// again, and says why.
func down(t *testing.T, w *world, i *grant.Issuer, a asked, end audit.End, ending bool) {
	t.Helper()
	entry, found, err := w.log.Entry(context.Background(), a.ID)
	if err != nil {
		t.Fatal(err)
	}
	if ending {
		err = i.Revoke(context.Background(), end)
	} else {
		_, err = i.Issue(context.Background(), a.evidence)
	}
	if !ending && found && entry.Handle != nil {
		if err != nil {
			t.Errorf("what is prepared needs no Vault: %v", err)
		}
		return
	}
	if c := access.CodeOf(err); err == nil || c != "" && c != access.CodeUnavailable {
		t.Fatalf("got %v (code %q), want an error to try again on", err, c)
	}
	if said := err.Error(); !strings.Contains(said, "vault is sealed; it has to be unsealed") && !strings.Contains(said, "can't be reached") {
		t.Errorf("says %q", said)
	}
}

// count is how many events there are on record.
func (w *world) count(q audit.Query) (n int) {
	w.t.Helper()
	for _, err := range w.log.Events(context.Background(), q) {
		if err != nil {
			w.t.Fatal(err)
		}
		n++
	}
	return n
}

// Many issuers at once on one request: one credential, and the others' tokens
// are gone.
func TestIssuersRace(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	const n = 4
	for range 5 {
		a := w.ask(10*time.Minute, "read")
		var all sync.WaitGroup
		creds := make([]access.Credential, n)
		start := make(chan struct{})
		for i := range n {
			issuer := w.issuer(nil, w.openLog())
			all.Go(func() {
				<-start
				c, err := issuer.Issue(context.Background(), a.evidence)
				if err != nil {
					t.Errorf("Issue: %v", err)
				}
				creds[i] = c
			})
		}
		close(start)
		all.Wait()
		if t.Failed() {
			return
		}
		for _, c := range creds[1:] {
			if diff := cmp.Diff(creds[0], c); diff != "" {
				t.Errorf("two credentials: %s", diff)
			}
		}
		if diff := cmp.Diff([]string{creds[0].Handle.Accessor}, w.accessors()); diff != "" {
			t.Errorf("tokens that live: %s", diff)
		}
		l := w.open(a, creds[0])[0]
		w.end(a, access.StateReleased)
		w.gone(l)
	}
	w.clean()
}

// An end that comes while the token is being minted: it is taken back at once.
func TestEndWhileMinting(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a := w.ask(10*time.Minute, "read")
	i := w.issuer(ending{w.kind(), func() { w.end(a, access.StateCancelled) }}, nil)
	if _, err := i.Issue(context.Background(), a.evidence); access.CodeOf(err) != access.CodeEnded {
		t.Errorf("issued: %v", err)
	}
	if left := w.accessors(); len(left) != 0 {
		t.Errorf("tokens %v are left", left)
	}
	w.clean()
}

// ending does something when a token has been minted.
type ending struct {
	*grant.Vault
	then func()
}

func (k ending) Prepare(ctx context.Context, o grant.Order) (access.Handle, error) {
	h, err := k.Vault.Prepare(ctx, o)
	k.then()
	return h, err
}

// Vault's refusals end no request: an operator can put them right, and then it
// goes on. What they say names what to do.
func TestRefusals(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	plan := vault.NewPlan(w.book.Catalog.Resources(), vault.Config{}, vault.DefaultTokenRole)
	noRole := func() {
		if _, err := w.vault.Client(t).Logical().Delete("auth/token/roles/hallpass"); err != nil {
			t.Fatal(err)
		}
	}
	role := func(policies string) {
		data := plan.Roles[0].Body()
		if policies != "" {
			data["allowed_policies"] = policies
		}
		w.vault.Write(t, "auth/token/roles/hallpass", data)
	}
	limit := func(rate int) {
		w.vault.Write(t, "sys/quotas/rate-limit/mint", map[string]any{"path": "auth/token/create/hallpass", "rate": rate, "interval": "1h"})
	}
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = silent.Close() })
	good := w.config
	const deny = "vault doesn't let the issuer revoke a token, and an operator has to see to it; run: hallpass vault check (vault answers 403 to auth/token/revoke-accessor: "
	const see = "vault mints no token for vault/orders by the token role hallpass, and an operator has to see to it; run: hallpass vault check ("
	for _, tt := range []struct {
		name   string
		broke  func()
		mend   func()
		want   string
		revoke string // what Revoke says; empty: it works
	}{
		{"no right to mint", func() {
			w.vault.Policy(t, vault.IssuerPolicy(vault.DefaultTokenRole), `path "x" { capabilities = ["read"] }`)
		},
			func() { w.vault.Policy(t, vault.IssuerPolicy(vault.DefaultTokenRole), plan.Issuer.Text) }, see + "vault answers 403 to auth/token/create/hallpass: 1 error occurred: * permission denied)", deny + "1 error occurred: * permission denied)"},
		{"no token role", noRole, func() { role("") }, see + "vault answers 400 to auth/token/create/hallpass: unknown role hallpass)", ""},
		{"a token role for others", func() { role("other") }, func() { role("") }, see + "vault answers 400 to auth/token/create/hallpass: ", ""},
		{"rate limit", func() { limit(1); _, _ = w.kind().Prepare(context.Background(), w.order(w.ask(time.Minute, "read"))) },
			func() {
				if _, err := w.vault.Client(t).Logical().Delete("sys/quotas/rate-limit/mint"); err != nil {
					t.Fatal(err)
				}
			}, "vault's rate limit is reached (429)", ""},
		{"silence", func() { w.config.Address, w.config.Timeout = "http://"+silent.Addr().String(), time.Second },
			func() { w.config = good }, "log in to vault by approle: vault at http://" + silent.Addr().String() + " doesn't answer in time", "log in to vault by approle: vault at http://" + silent.Addr().String() + " doesn't answer in time"},
		{"wrong secret id", func() { w.config.RoleID = "nobody" }, func() { w.config = good }, "log in to vault by approle: vault answers 400 to auth/approle/login: ", "log in to vault by approle: vault answers 400 to auth/approle/login: "},
	} {
		t.Run(tt.name, func(t *testing.T) {
			issued := w.ask(10*time.Minute, "read")
			w.issue(w.issuer(nil, nil), issued)
			a := w.ask(10*time.Minute, "read")
			tt.broke()
			broken := w.issuer(nil, nil)
			_, err := broken.Issue(context.Background(), a.evidence)
			if c := access.CodeOf(err); err == nil || c != "" && c != access.CodeUnavailable {
				t.Fatalf("got %v (code %q), want an error to try again on", err, c)
			}
			if !strings.HasPrefix(err.Error(), tt.want) {
				t.Errorf("got  %v\nwant %s", err, tt.want)
			}
			if _, found, err := w.log.Entry(context.Background(), a.ID); err != nil || found {
				t.Errorf("it is in the ledger: %v", err)
			}
			end := audit.End{Request: issued.ID, State: access.StateReleased, Why: "test"}
			if err := broken.Revoke(context.Background(), end); (err == nil) != (tt.revoke == "") || err != nil && !strings.Contains(err.Error(), tt.revoke) {
				t.Errorf("Revoke: %v\nwant %q", err, tt.revoke)
			}
			tt.mend()
			w.end(issued, access.StateReleased)
			w.issue(w.issuer(nil, nil), a)
			w.end(a, access.StateReleased)
		})
	}
	for _, accessor := range w.accessors() { // of the rate limit's
		if err := w.kind().Discard(context.Background(), access.Handle{Accessor: accessor}); err != nil {
			t.Error(err)
		}
	}
	w.clean()
}

func (w *world) order(a asked) grant.Order {
	r, _ := w.book.Catalog.Resource(a.Resource)
	now := time.Now().UTC().Truncate(time.Second)
	return grant.Order{Request: a.Request, Resource: r, NotBefore: now, NotAfter: now.Add(a.Duration.Duration())}
}

// The issuer's own token may die: revoked, run out, at the end of its longest
// life. It logs in again, and no grant hangs on it.
func TestIssuersTokenDies(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	i := w.issuer(nil, nil)
	a := w.ask(10*time.Minute, "read")
	l := w.open(a, w.issue(i, a))[0]
	w.vault.Write(t, "sys/leases/revoke-prefix/auth/approle", nil)
	w.works(l)
	b := w.ask(10*time.Minute, "read")
	w.issue(i, b)
	w.vault.Write(t, "sys/leases/revoke-prefix/auth/approle", nil)
	for _, x := range []asked{a, b} {
		if err := i.Revoke(context.Background(), audit.End{Request: x.ID, State: access.StateReleased}); err != nil {
			t.Error(err)
		}
	}
	w.gone(l)
	w.clean()
}

// Revoke of what Vault never heard of, or has forgotten, is success.
func TestRevokeOfTheUnknown(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, accessor := range []string{"nobody", "hmac-abc", "0123456789abcdefghijklmn"} {
		if err := w.kind().Revoke(context.Background(), access.Handle{Request: "x", Accessor: accessor}); err != nil {
			t.Errorf("%s: %v", accessor, err)
		}
	}
	if err := w.kind().Revoke(context.Background(), access.Handle{Request: "x"}); access.CodeOf(err) != access.CodeMalformed {
		t.Errorf("without an accessor: %v", err)
	}
}

// A credential that would live longer than its grant isn't handed out: the
// clock says that minting took a minute.
func TestSlowMintingLivesNoLonger(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	k := w.kind()
	var ticks int
	begun := time.Now()
	k.Now = func() time.Time { // before and after each minting: 20 s, then none
		ticks++
		if ticks == 1 {
			return begun
		}
		return begun.Add(20 * time.Second)
	}
	o := w.order(w.ask(10*time.Minute, "read"))
	o.NotBefore, o.NotAfter = begun.UTC().Truncate(time.Second), begun.UTC().Truncate(time.Second).Add(10*time.Minute)
	h, err := k.Prepare(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{h.Accessor}, w.accessors()); diff != "" || ticks != 4 {
		t.Errorf("%d ticks; tokens that live: %s", ticks, diff)
	}
	s, err := w.vault.Client(t).Auth().Token().LookupAccessor(h.Accessor)
	if err != nil {
		t.Fatal(err)
	}
	if max, err := s.Data["explicit_max_ttl"].(json.Number).Int64(); err != nil || max > 600-20-40 {
		t.Errorf("lives %d seconds, %v", max, err)
	}
}

// Prepare refuses what it can before Vault is asked.
func TestPrepareRefuses(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, tt := range []struct {
		name string
		edit func(*grant.Order)
		code access.Code
	}{
		{"no recipient", func(o *grant.Order) { o.Request.Recipient = "" }, access.CodeMalformed},
		{"no actions", func(o *grant.Order) { o.Request.Actions = nil }, access.CodeMalformed},
		{"unknown action", func(o *grant.Order) { o.Request.Actions = []string{"drop"} }, access.CodeNotFound},
		{"another kind", func(o *grant.Order) { o.Resource.Kind = "ssh" }, access.CodeMalformed},
	} {
		o := w.order(w.ask(time.Minute, "read"))
		tt.edit(&o)
		if _, err := w.kind().Prepare(context.Background(), o); access.CodeOf(err) != tt.code {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
	if left := w.accessors(); len(left) != 0 {
		t.Errorf("tokens %v", left)
	}
}

// A grant that is too short for Vault is refused, and doesn't wait for ever; the
// shortest that isn't is made.
func TestShortGrants(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	issuer := w.issuer(nil, nil)
	for range 5 {
		a := w.ask(2*time.Second, "read")
		if _, err := issuer.Issue(context.Background(), a.evidence); access.CodeOf(err) != access.CodeMalformed {
			t.Errorf("2 s: %v", err)
		}
		a = w.ask(3*time.Second, "read")
		w.eventually("one of 3 s is made", func() bool { // Vault may be slow
			_, err := issuer.Issue(context.Background(), a.evidence)
			return err == nil
		})
		w.end(a, access.StateReleased)
	}
	w.clean()
}
