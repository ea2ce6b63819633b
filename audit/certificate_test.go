package audit

import (
	"testing"
	"time"

	"hallpass/access"
)

// A credential of kind vault is what its handle names: what is sealed can't be
// exchanged between Reserve and Issued.
func TestCheckSealed(t *testing.T) {
	now := time.Date(2026, 11, 20, 10, 0, 0, 0, time.UTC)
	standing := access.Standing{
		Request:  access.Request{Header: access.Header{Time: now}},
		Resource: access.Resource{Kind: "vault"},
		Duration: 1800,
	}
	good := access.Credential{Sealed: "age", Handle: access.Handle{
		Kind: "vault", Accessor: "acc", Sealed: "age", NotBefore: now, NotAfter: now.Add(30 * time.Minute),
	}}
	for _, tt := range []struct {
		name   string
		change func(*access.Credential)
		want   string
	}{
		{"good", func(*access.Credential) {}, ""},
		{"no accessor", func(c *access.Credential) { c.Handle.Accessor = "" }, "the handle names no accessor to revoke by"},
		{"nothing sealed", func(c *access.Credential) { c.Sealed, c.Handle.Sealed = "", "" }, "the credential is not the one that its handle names"},
		{"something else sealed", func(c *access.Credential) { c.Sealed = "other" }, "the credential is not the one that its handle names"},
		{"a certificate too", func(c *access.Credential) { c.Certificate = "ssh-ed25519 …" }, "the credential has a certificate, which nobody asked for"},
		{"too long", func(c *access.Credential) { c.Handle.NotAfter = now.Add(31 * time.Minute) }, "the credential lives 31m, 30m was allowed"},
		{"another kind", func(c *access.Credential) { c.Handle.Kind = "ssh" }, "the credential is of the kind ssh, the resource of vault"},
	} {
		c := good
		tt.change(&c)
		var said string
		if err := checkCredential(c, standing, now); err != nil {
			said = err.Error()
		}
		if said != tt.want {
			t.Errorf("%s: got %q, want %q", tt.name, said, tt.want)
		}
	}
}
