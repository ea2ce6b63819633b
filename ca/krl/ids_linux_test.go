package krl

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"hallpass/testsuite/sshdtest"
)

// BenchmarkNaming is what it costs to name certificates in a list by key ids, as
// hallpass writes them, or by serials that are drawn at random, as Vault's SSH
// engine draws them, beside serials that hallpass counts: bytes for each, and the
// processor time that OpenSSH takes to read the list once, beyond an empty one,
// the least of all rounds. docs/decisions/0006-not-vaults-ssh-engine.md has the
// figures.
func BenchmarkNaming(b *testing.B) {
	ca := newSigner(b)
	_, key := sshdtest.NewKey(b)
	cert := &ssh.Certificate{Key: key, Serial: 1 << 60, CertType: ssh.UserCert, KeyId: "bench", ValidBefore: ssh.CertTimeInfinity}
	if err := cert.SignCert(rand.Reader, ca); err != nil {
		b.Fatal(err)
	}
	dir, certFile := b.TempDir(), sshdtest.WriteCert(b, cert)
	caFile := filepath.Join(dir, "ca.pub")
	if err := os.WriteFile(caFile, ssh.MarshalAuthorizedKey(ca.PublicKey()), 0o600); err != nil {
		b.Fatal(err)
	}
	serials := func(all []uint64) func(string) error {
		return func(file string) error {
			l := &List{Version: 1, Generated: time.Unix(1, 0), CAs: []CA{{Key: ca.PublicKey(), Ranges: Join(all...)}}}
			data, err := l.Marshal()
			if err != nil {
				return err
			}
			return os.WriteFile(file, data, 0o600)
		}
	}
	drawn := func(n int) (all []uint64) {
		for range n {
			var eight [8]byte
			_, _ = rand.Read(eight[:]) // never fails
			all = append(all, max(1, binary.BigEndian.Uint64(eight[:])))
		}
		slices.Sort(all)
		return all
	}
	ids := func(n int) func(string) error {
		return func(file string) error {
			var lines strings.Builder
			for i := range n {
				fmt.Fprintf(&lines, "id: hallpass:0198f3a2-7c11-7abc-8def-%012x:alice\n", i)
			}
			cmd := exec.Command("ssh-keygen", "-q", "-k", "-f", file, "-s", caFile, "-")
			cmd.Stdin = strings.NewReader(lines.String())
			if out, err := cmd.CombinedOutput(); err != nil {
				return fmt.Errorf("%w: %s", err, out)
			}
			return nil
		}
	}
	series := func(n int) []uint64 { return every(3, Serial(7, 1), Serial(7, uint64(3*n))) } // every third is revoked
	type list struct {
		name  string
		n     int
		size  int64
		least time.Duration
	}
	lists := []*list{{name: "empty"}}
	writers := map[string]func(string) error{"empty": serials(nil)}
	for _, n := range []int{10_000, 100_000} {
		for how, write := range map[string]func(string) error{"counted": serials(series(n)), "drawn": serials(drawn(n)), "ids": ids(n)} {
			name := fmt.Sprintf("%s-%d", how, n)
			lists, writers[name] = append(lists, &list{name: name, n: n}), write
		}
	}
	for _, l := range lists {
		file := filepath.Join(dir, l.name)
		if err := writers[l.name](file); err != nil {
			b.Fatalf("%s: %v", l.name, err)
		}
		info, err := os.Stat(file)
		if err != nil {
			b.Fatal(err)
		}
		l.size = info.Size()
	}
	for b.Loop() {
		for _, l := range lists {
			cmd := exec.Command("ssh-keygen", "-Q", "-f", filepath.Join(dir, l.name), certFile)
			if out, err := cmd.CombinedOutput(); err != nil {
				b.Fatalf("%s: %v: %s", l.name, err, out)
			}
			if took := cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime(); l.least == 0 || took < l.least {
				l.least = took
			}
		}
	}
	b.ReportMetric(0, "ns/op")
	for _, l := range lists[1:] {
		b.ReportMetric(float64(l.size-lists[0].size)/float64(l.n), l.name+"-bytes")
		b.ReportMetric(float64((l.least-lists[0].least).Microseconds())/1000, l.name+"-ms")
	}
}
