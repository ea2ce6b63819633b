package grants

import (
	"context"
	"slices"
	"testing"
	"time"

	"hallpass/access"
	"hallpass/audit"
	"hallpass/testsuite/vaulttest"
	"hallpass/vault"
)

// stopwatch keeps how long something took each time.
type stopwatch []time.Duration

func (s *stopwatch) time(do func() error) error {
	begun := time.Now()
	err := do()
	*s = append(*s, time.Since(begun))
	return err
}

// report reports the median.
func (s stopwatch) report(b *testing.B, name string) {
	slices.Sort(s)
	b.ReportMetric(float64(s[len(s)/2].Microseconds())/1000, name+"-ms")
}

// BenchmarkGrant issues grants and ends them. "one" is one after the other,
// and in turns with each the calls to Vault alone that this takes: mint two
// tokens, revoke. The rest is hallpass: evidence, ledger, sealing.
// "many" is 16 at a time, by one issuer on one Vault.
func BenchmarkGrant(b *testing.B) {
	ctx := context.Background()
	b.Run("one", func(b *testing.B) {
		w := newWorldOn(b, vaulttest.Config{})
		issuer, bare := w.issuer(nil, nil), w.kind()
		var mint, issue, revoke, end stopwatch
		var accessor string
		for b.Loop() {
			a := w.ask(10*time.Minute, "read")
			try := func(err error) {
				if err != nil {
					b.Fatal(err)
				}
			}
			try(mint.time(func() error {
				minted, err := bare.Vault.Mint(ctx, vault.DefaultTokenRole, vault.Spec{
					Policies: []string{vault.GrantPrefix(vault.DefaultTokenRole) + "orders@read"}, Life: 10 * time.Minute,
					Name: "hallpass", Meta: map[string]string{"hallpass_request": a.ID},
				})
				accessor = minted.Accessor
				return err
			}))
			try(issue.time(func() error { _, err := issuer.Issue(ctx, a.evidence); return err }))
			try(revoke.time(func() error { return bare.Revoke(ctx, access.Handle{Accessor: accessor}) }))
			try(end.time(func() error {
				return issuer.Revoke(ctx, audit.End{Request: a.ID, State: access.StateReleased, Why: "test"})
			}))
		}
		mint.report(b, "vault-mint")
		issue.report(b, "issue")
		revoke.report(b, "vault-revoke")
		end.report(b, "end")
	})
	b.Run("many", func(b *testing.B) {
		w := newWorldOn(b, vaulttest.Config{})
		issuer := w.issuer(nil, nil)
		b.SetParallelism(8) // times two cores
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				a := w.ask(10*time.Minute, "read")
				if _, err := issuer.Issue(ctx, a.evidence); err != nil {
					b.Error(err)
				}
				if err := issuer.Revoke(ctx, audit.End{Request: a.ID, State: access.StateReleased, Why: "test"}); err != nil {
					b.Error(err)
				}
			}
		})
		b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "grants/s")
	})
}
