package grants

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"

	"hallpass/access"
	"hallpass/audit"
	"hallpass/grant"
	"hallpass/sealed"
	"hallpass/testsuite/vaulttest"
)

// many is how many grants there are at once: HALLPASS_GRANTS, 200 where it
// isn't said.
func many(t testing.TB) int {
	t.Helper()
	s := os.Getenv("HALLPASS_GRANTS")
	if s == "" {
		return 200
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 10 {
		t.Fatalf("HALLPASS_GRANTS=%s is not a number from 10", s)
	}
	return n
}

// still is how long Vault has to leave all leases as they are to be taken to be
// through with them.
const still = 5 * time.Second

// holder is one of many requests, from its signature to its end.
type holder struct {
	w       *world
	asked   asked
	issuer  *grant.Issuer
	login   login // empty: what it had opened was lost on the way
	retries int

	cut *atomic.Int32 // readings of all holders, as cutOff says
}

// until repeats what fails, as Temporal does, until it is done or failed for
// good.
func (h *holder) until(do func() error) error {
	deadline := time.Now().Add(2 * patience)
	for {
		err := do()
		if err == nil {
			return nil
		}
		h.retries++
		if c := access.CodeOf(err); c != "" && c != access.CodeUnavailable || time.Now().After(deadline) {
			return err
		}
		<-time.After(50 * time.Millisecond)
	}
}

// away says whether Vault couldn't answer: it is down, sealed or coming up.
func away(err error) bool {
	var r *api.ResponseError
	return err != nil && (!errors.As(err, &r) || r.StatusCode >= http.StatusInternalServerError)
}

// cutOff says whether Vault may have worked at what it was asked, and was killed
// over it: it was reached, and didn't answer. Only then can it leave something.
func cutOff(err error) bool {
	var r *api.ResponseError
	return err != nil && !errors.As(err, &r) && !errors.Is(err, syscall.ECONNREFUSED)
}

// read opens what was issued and reads, as the requester does. Whoever asks
// Vault to unwrap and gets no answer has lost it.
func (h *holder) read(c access.Credential) error {
	s, err := sealed.Open(h.asked.key, c.Sealed)
	if err != nil {
		return err
	}
	var wrapped *api.Secret
	unanswered := false
	err = h.until(func() (err error) {
		wrapped, err = h.w.vault.ClientWithToken(h.w.t, "").Logical().Unwrap(s.WrappingToken)
		if away(err) {
			unanswered = true
			return err
		}
		if err != nil && unanswered {
			wrapped = nil
			return nil
		}
		if err != nil {
			return access.Errorf(access.CodeMismatch, "unwrap: %v", err)
		}
		return nil
	})
	if err != nil || wrapped == nil {
		return err
	}
	client := h.w.vault.ClientWithToken(h.w.t, wrapped.Auth.ClientToken)
	return h.until(func() error {
		secret, err := client.Logical().Read(s.Reads[0].Path)
		if cutOff(err) {
			h.cut.Add(1)
		}
		if away(err) {
			return err
		}
		if err != nil {
			return access.Errorf(access.CodeMismatch, "read: %v", err)
		}
		h.login = login{secret.Data["username"].(string), secret.Data["password"].(string)}
		h.w.note(h.login.password)
		return nil
	})
}

// Many grants at once, and Vault is killed while they are issued, while they
// are read, and while they end. Each request comes to its end, each login that
// somebody has got works until then and not after. What is left is no more than
// Vault was killed over, and nobody's: tokens that were minted when the answer
// was lost, and leases and logins of readings that were cut off. The sweep takes
// the tokens and the leases, until Vault has none at all.
func TestVaultRestartsUnderManyGrants(t *testing.T) {
	w := newWorldWith(t, catalogYAML, vaulttest.Config{})
	n := many(t)
	ctx := context.Background()
	issuers := []*grant.Issuer{w.issuer(nil, nil), w.issuer(nil, w.openLog())}
	var issued, opened, ended, cut atomic.Int32
	logins := make(chan struct{}, 16) // PostgreSQL has 100 connections
	holders := make([]*holder, n)
	var all, allOpen sync.WaitGroup
	allOpen.Add(n)
	begun := time.Now()
	for i := range holders {
		h := &holder{w: w, asked: w.ask(20*time.Minute, "read"), issuer: issuers[i%len(issuers)], cut: &cut}
		holders[i] = h
		all.Go(func() {
			var c access.Credential
			err := h.until(func() (err error) { c, err = h.issuer.Issue(ctx, h.asked.evidence); return err })
			issued.Add(1)
			if err == nil {
				err = h.read(c)
			}
			if err == nil && h.login.user != "" {
				logins <- struct{}{}
				err = w.try(h.login)
				<-logins
			}
			if err != nil {
				t.Errorf("request %s: %v", h.asked.ID, err)
			}
			opened.Add(1)
			allOpen.Done()
			allOpen.Wait() // they are all open at once
			if err := h.until(func() error {
				return h.issuer.Revoke(ctx, audit.End{Request: h.asked.ID, State: access.StateReleased, Why: "test"})
			}); err != nil {
				t.Errorf("request %s: %v", h.asked.ID, err)
			}
			ended.Add(1)
		})
	}
	for _, step := range []struct {
		what    string
		counter *atomic.Int32
		sealed  bool
	}{{"issued", &issued, false}, {"opened", &opened, true}, {"ended", &ended, false}} {
		w.eventually("a third is "+step.what, func() bool { return int(step.counter.Load()) >= n/3 })
		t.Logf("%s: Vault is killed; issued %d, opened %d, ended %d of %d", time.Since(begun).Round(time.Millisecond), issued.Load(), opened.Load(), ended.Load(), n)
		w.vault.Kill()
		if step.sealed {
			w.vault.RestartSealed(t)
			w.vault.Unseal(t)
		} else {
			w.vault.Restart(t)
		}
	}
	all.Wait()
	lost, retries := 0, 0
	for _, h := range holders {
		retries += h.retries
		if h.login.user == "" {
			lost++
			continue
		}
		w.gone(h.login)
		if entry, found, err := w.log.Entry(ctx, h.asked.ID); err != nil || !found || entry.Ended != access.StateReleased {
			t.Errorf("request %s is %q, %v in the ledger", h.asked.ID, entry.Ended, err)
		}
	}
	most := int(cut.Load())
	var left []string
	var since time.Time
	w.eventually(fmt.Sprintf("no more is left than the %d readings that were cut off, and Vault takes nothing back any more", most), func() bool {
		now := w.vault.Leases(t, "database/creds")
		if since.IsZero() || !slices.Equal(left, now) {
			left, since = now, time.Now()
		}
		return len(left) <= most && len(w.users()) <= most && time.Since(since) > still
	})
	leases, tokens := len(left), len(w.accessors())
	sweeper := w.sweeper(0)
	found := map[bool]int{} // by whether it is a token
	w.eventually("the sweep has taken what is left", func() bool {
		_, findings := w.sweep(sweeper)
		for _, f := range findings {
			if f.What != access.SweptRevoked {
				t.Errorf("%+v", f)
			}
			found[f.Request != ""]++
		}
		return len(w.vault.Leases(t, "database/creds")) == 0
	})
	if found[true] != tokens || found[false] != leases {
		t.Errorf("the sweep finds %d of %d tokens, and %d of %d leases", found[true], tokens, found[false], leases)
	}
	users := w.users() // without a lease
	for _, h := range holders {
		if slices.Contains(users, h.login.user) {
			t.Errorf("the login of request %s is left", h.asked.ID)
		}
	}
	t.Logf("%d grants in %s: %d retries, %d unwrappings lost; for the sweep were left %d tokens that nobody could open, and, of %d readings that were cut off, %d leases; and %d logins without one",
		n, time.Since(begun).Round(time.Millisecond), retries, lost, tokens, most, leases, len(users))
	w.clean()
}

// users are the logins that Vault has made in PostgreSQL.
func (w *world) users() (all []string) {
	w.t.Helper()
	for name := range strings.FieldsSeq(w.db.Postgres.Value(w.t, w.db.Name, `SELECT coalesce(string_agg(rolname, ' '), '') FROM pg_roles WHERE rolname LIKE 'v-%'`)) {
		all = append(all, name)
	}
	return all
}
