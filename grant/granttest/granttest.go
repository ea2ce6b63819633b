// Package granttest is the contract of grant.Kind as a test. Every kind's own
// test calls Run; a kind that passes can be driven by grant.Issuer.
package granttest

import (
	"context"
	"encoding/json"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"hallpass/access"
	"hallpass/grant"
)

// Harness tells Run about one kind.
type Harness struct {
	// Kind is what is tested. A kind that takes part of what it knows from
	// the ledger comes here with a Revoke that ends the request in the ledger
	// first, as grant.Issuer does.
	Kind grant.Kind

	// Order makes an order of a new request that lasts from now, by the
	// kind's own clock, for at least a minute.
	Order func(t testing.TB) grant.Order

	// Alive tries the credential: does it open anything at that time? A kind
	// that can't try another time than now compares it with what the
	// credential itself says of its end.
	Alive func(t testing.TB, c access.Credential, at time.Time) bool

	// Secrets returns what nobody may find in a handle or in the plain text
	// of a credential: tokens, passwords, private keys.
	Secrets func(t testing.TB, c access.Credential) []string
}

// Run runs the contract test. Each part makes requests of its own.
func Run(t *testing.T, h Harness) {
	for _, part := range []struct {
		name string
		test func(*testing.T, Harness)
	}{
		{"Prepare names the grant", prepare},
		{"Prepare chooses another identity each time", identities},
		{"Issue twice", issueTwice},
		{"Issue at the same time", issueTogether},
		{"Issue of another order", issueOther},
		{"Revoke before Issue", revokeBefore},
		{"Revoke after Issue", revokeAfter},
		{"Revoke one of two", revokeOne},
		{"expiry", expiry},
		{"nothing secret", nothingSecret},
	} {
		t.Run(part.name, func(t *testing.T) { part.test(t, h) })
	}
}

// handle prepares an order and passes the handle through JSON, as the ledger
// does.
func (h Harness) handle(t testing.TB, o grant.Order) access.Handle {
	t.Helper()
	before, err := h.Kind.Prepare(context.Background(), o)
	if err != nil {
		t.Fatalf("Prepare: %v", err)
	}
	data, err := json.Marshal(before)
	if err != nil {
		t.Fatal(err)
	}
	var after access.Handle
	if err := json.Unmarshal(data, &after); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, after); diff != "" {
		t.Errorf("the ledger changes the handle (-before +after):\n%s", diff)
	}
	return after
}

func (h Harness) issue(t testing.TB, o grant.Order, handle access.Handle) access.Credential {
	t.Helper()
	c, err := h.Kind.Issue(context.Background(), o, handle)
	if err != nil {
		t.Fatalf("Issue: %v", err)
	}
	if diff := cmp.Diff(handle, c.Handle); diff != "" {
		t.Errorf("the credential has another handle (-prepared +issued):\n%s", diff)
	}
	return c
}

func (h Harness) revoke(t testing.TB, handle access.Handle) {
	t.Helper()
	if err := h.Kind.Revoke(context.Background(), handle); err != nil {
		t.Errorf("Revoke: %v", err)
	}
}

// alive checks a credential in the middle of its grant.
func (h Harness) alive(t testing.TB, o grant.Order, c access.Credential, want bool) {
	t.Helper()
	if got := h.Alive(t, c, o.NotBefore.Add(o.NotAfter.Sub(o.NotBefore)/2)); got != want {
		t.Errorf("credential of request %s alive: %t, want %t", o.Request.ID, got, want)
	}
}

func prepare(t *testing.T, h Harness) {
	o := h.Order(t)
	got := h.handle(t, o)
	want := got // what else is in it is the kind's own
	want.Request, want.Kind, want.NotBefore, want.NotAfter = o.Request.ID, o.Resource.Kind, o.NotBefore, o.NotAfter
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("handle (-want +got):\n%s", diff)
	}
}

func identities(t *testing.T, h Harness) {
	o := h.Order(t)
	if a, b := h.handle(t, o), h.handle(t, o); cmp.Equal(a, b) {
		t.Errorf("two handles are the same: %+v", a)
	}
}

func issueTwice(t *testing.T, h Harness) {
	o := h.Order(t)
	handle := h.handle(t, o)
	first, second := h.issue(t, o, handle), h.issue(t, o, handle)
	// The first copy may be dead: nobody had it when the second was asked for.
	h.alive(t, o, second, true)
	h.revoke(t, handle)
	h.alive(t, o, first, false)
	h.alive(t, o, second, false)
}

func issueTogether(t *testing.T, h Harness) {
	o := h.Order(t)
	handle := h.handle(t, o)
	copies := make([]access.Credential, 4)
	var all sync.WaitGroup
	for i := range copies {
		all.Go(func() {
			c, err := h.Kind.Issue(context.Background(), o, handle)
			if err != nil {
				t.Errorf("Issue: %v", err)
			}
			copies[i] = c
		})
	}
	all.Wait()
	if t.Failed() {
		return
	}
	for _, c := range copies {
		if diff := cmp.Diff(handle, c.Handle); diff != "" {
			t.Errorf("a copy has another handle (-want +got):\n%s", diff)
		}
	}
	h.revoke(t, handle)
	for _, c := range copies {
		h.alive(t, o, c, false)
	}
}

func issueOther(t *testing.T, h Harness) {
	mine, other := h.Order(t), h.Order(t)
	handle := h.handle(t, mine)
	longer := mine
	longer.NotAfter = mine.NotAfter.Add(time.Second)
	for name, o := range map[string]grant.Order{"another request": other, "a longer grant": longer} {
		if c, err := h.Kind.Issue(context.Background(), o, handle); access.CodeOf(err) != access.CodeMismatch {
			t.Errorf("Issue for %s gave %+v, error %v; want code %s", name, c, err, access.CodeMismatch)
		}
	}
}

// revokeBefore: an Issue that comes after all is caught by the ledger, and
// grant.Issuer revokes again.
func revokeBefore(t *testing.T, h Harness) {
	o := h.Order(t)
	handle := h.handle(t, o)
	h.revoke(t, handle)
	h.revoke(t, handle)
	c, err := h.Kind.Issue(context.Background(), o, handle)
	if err != nil {
		return // the kind remembers, and is free to
	}
	h.revoke(t, handle)
	h.alive(t, o, c, false)
}

func revokeAfter(t *testing.T, h Harness) {
	o := h.Order(t)
	handle := h.handle(t, o)
	c := h.issue(t, o, handle)
	h.alive(t, o, c, true)
	h.revoke(t, handle)
	h.alive(t, o, c, false)
	h.revoke(t, handle)
}

func revokeOne(t *testing.T, h Harness) {
	one, two := h.Order(t), h.Order(t)
	first, second := h.handle(t, one), h.handle(t, two)
	h.issue(t, one, first)
	c := h.issue(t, two, second)
	h.revoke(t, first)
	h.alive(t, two, c, true)
	h.revoke(t, second)
}

func expiry(t *testing.T, h Harness) {
	o := h.Order(t)
	handle := h.handle(t, o)
	c := h.issue(t, o, handle)
	for _, row := range []struct {
		name string
		at   time.Time
		want bool
	}{
		{"before clocks can differ that much", o.NotBefore.Add(-access.ClockSkew - time.Second), false},
		{"at the beginning", o.NotBefore, true},
		{"a second before the end", o.NotAfter.Add(-time.Second), true},
		{"at the end", o.NotAfter, false},
		{"long after", o.NotAfter.Add(365 * 24 * time.Hour), false},
	} {
		if got := h.Alive(t, c, row.at); got != row.want {
			t.Errorf("%s: alive %t, want %t", row.name, got, row.want)
		}
	}
	h.revoke(t, handle)
}

func nothingSecret(t *testing.T, h Harness) {
	o := h.Order(t)
	handle := h.handle(t, o)
	c := h.issue(t, o, handle)
	data, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	for _, secret := range h.Secrets(t, c) {
		if secret == "" || strings.Contains(string(data), secret) {
			t.Error("handle or credential contains a secret in plain text")
		}
	}
	h.revoke(t, handle)
}
