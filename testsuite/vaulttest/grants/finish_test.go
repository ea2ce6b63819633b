package grants

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"hallpass/access"
	"hallpass/audit"
	"hallpass/grant"
	"hallpass/vault"
)

// interrupted has Vault fail in the middle of what it does: after it has marked
// a token that it revokes, and before it knows of the token's leases. It comes
// back without what it had in mind.
func (w *world) interrupted(do func()) {
	w.t.Helper()
	index := filepath.Join(w.vault.Storage(), "sys", "expire", "token")
	try := func(err error) {
		if err != nil {
			w.t.Fatal(err)
		}
	}
	try(os.Rename(index, index+".away"))
	try(os.WriteFile(index, nil, 0o600))
	do()
	try(os.Remove(index))
	try(os.Rename(index+".away", index))
	w.vault.Kill()
	w.vault.Restart(w.t)
}

// A revocation that Vault was interrupted in is gone on with: by itself it
// wouldn't, and the login would work to the end of the grant. Whatever else the
// token role has made stays.
func TestRevokeThatVaultWasInterruptedIn(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := context.Background()
	issuer := w.issuer(nil, nil)
	a, b, other := w.ask(time.Hour, "read"), w.ask(time.Hour, "dump"), w.ask(time.Hour, "read")
	lost := w.open(a, w.issue(issuer, a))[0]
	kept := w.open(b, w.issue(issuer, b))[0]
	otherCred := w.issue(issuer, other)
	stranger := w.mint("auth/token/create/"+vault.DefaultTokenRole, map[string]any{"policies": []string{vault.GrantRole(vault.DefaultTokenRole)}})

	end := audit.End{Request: a.ID, State: access.StateRevoked, Why: "test"}
	w.interrupted(func() {
		if err := issuer.Revoke(ctx, end); err == nil {
			t.Error("Vault wasn't interrupted")
		}
	})
	w.works(lost)
	if _, err := w.vault.Client(t).Logical().Write("auth/token/revoke-accessor", map[string]any{"accessor": w.handle(a).Accessor}); err == nil || !strings.Contains(err.Error(), "token not found") {
		t.Errorf("Vault says %v", err)
	}
	if err := issuer.Revoke(ctx, end); err != nil {
		t.Fatal(err)
	}
	w.gone(lost)
	w.works(kept)
	w.works(w.open(other, otherCred)[0])
	if !w.lives(stranger) {
		t.Error("another token of the role's is gone")
	}
	if err := issuer.Revoke(ctx, end); err != nil {
		t.Errorf("once more: %v", err)
	}
	w.revoke(stranger)
	for _, x := range []asked{b, other} {
		w.end(x, access.StateReleased)
	}
	w.clean()
}

// handle is what the ledger has of a request.
func (w *world) handle(a asked) access.Handle {
	w.t.Helper()
	entry, found, err := w.log.Entry(context.Background(), a.ID)
	if err != nil || !found || entry.Handle == nil {
		w.t.Fatalf("%+v, %v", entry, err)
	}
	return *entry.Handle
}

// kept are the files that Vault keeps of what f has it make, of those that the
// pattern matches in its storage.
func (w *world) kept(pattern string, f func()) []string {
	w.t.Helper()
	all := func() []string {
		files, err := filepath.Glob(filepath.Join(w.vault.Storage(), pattern))
		if err != nil {
			w.t.Fatal(err)
		}
		return files
	}
	before := all()
	f()
	return slices.DeleteFunc(all(), func(file string) bool { return slices.Contains(before, file) })
}

// tokensOf are the files in which Vault keeps the tokens that f has it make: the
// token itself, and the one that wraps it or the issuer's own.
func (w *world) tokensOf(f func()) []string {
	w.t.Helper()
	return w.kept("sys/token/id/*", f)
}

// prepare has Vault make what a grant takes.
func (w *world) prepare(k *grant.Vault) access.Handle {
	w.t.Helper()
	h, err := k.Prepare(context.Background(), w.order(w.ask(time.Hour, "read")))
	if err != nil {
		w.t.Fatal(err)
	}
	return h
}

// An accessor that leads nowhere, since Vault crashed when it made the token or
// ended it, keeps nobody from sweeping, nor does it hide that the issuer isn't
// allowed to look.
func TestSweepOfAnAccessorWithoutAToken(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var h access.Handle
	for _, file := range w.tokensOf(func() { h = w.prepare(w.kind()) }) {
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
	}
	w.vault.Kill()
	w.vault.Restart(t)
	list, err := w.vault.Client(t).Logical().List("auth/token/accessors")
	if err != nil || !slices.Contains(list.Data["keys"].([]any), any(h.Accessor)) {
		t.Fatalf("the accessor is gone: %v", err)
	}
	if _, found := w.sweep(w.sweeper(0)); len(found) != 0 {
		t.Errorf("found %+v", found)
	}
	w.vault.Policy(t, vault.IssuerPolicy(vault.DefaultTokenRole), `path "auth/token/accessors*" { capabilities = ["list", "sudo"] }`)
	if _, err := w.sweeper(0).Sweep(context.Background(), "vault", ""); err == nil || !strings.Contains(err.Error(), "403") {
		t.Errorf("without the right to look: %v", err)
	}
}

// Vault writes an accessor before its token. A sweep that looks in between finds
// no token, and finds it the next time.
func TestSweepBetweenAccessorAndToken(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	kind := w.kind()
	sweeper := w.sweeper(0)
	w.sweep(sweeper) // it is logged in
	w.prepare(kind)
	made, away := w.tokensOf(func() { w.prepare(kind) }), t.TempDir()
	move := func(back bool) {
		for _, file := range made {
			from, to := file, filepath.Join(away, filepath.Base(file))
			if back {
				from, to = to, from
			}
			if err := os.Rename(from, to); err != nil {
				t.Fatal(err)
			}
		}
		w.vault.Kill()
		w.vault.Restart(t)
	}
	move(false)
	if _, found := w.sweep(sweeper); len(found) != 1 {
		t.Errorf("while its token isn't there: %+v", found)
	}
	move(true)
	if _, found := w.sweep(sweeper); len(found) != 1 {
		t.Errorf("once it is: %+v", found)
	}
	w.clean()
}
