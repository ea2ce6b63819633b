package krl

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"math/big"
	mathrand "math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/crypto/ssh"

	"hallpass/access"
	"hallpass/testsuite/measure"
)

func newSigner(t testing.TB) ssh.Signer {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	s, err := ssh.NewSignerFromKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func span(first, last uint64) []uint64 {
	var out []uint64
	for s := first; s <= last; s++ {
		out = append(out, s)
	}
	return out
}

func every(step, first, last uint64) []uint64 {
	var out []uint64
	for s := first; s <= last; s += step {
		out = append(out, s)
	}
	return out
}

var shapes = map[string][]uint64{
	"none":                      nil,
	"the first":                 {1},
	"a few":                     {3, 17, 90_000},
	"two in a row":              {5, 6},
	"three in a row":            {5, 6, 7},
	"a long run":                span(1000, 9999),
	"every other":               every(2, 1, 2001),
	"one in eight":              every(8, 1, 80_001),
	"one in ten":                every(10, 1, 20_001),
	"as wide as a bitmap":       every(2, 1, 1+maxBitmap-2),
	"one wider":                 append(every(2, 1, maxBitmap-1), maxBitmap+1),
	"much wider than a bitmap":  every(3, 1, 5*maxBitmap),
	"runs and gaps":             slices.Concat(span(1, 40), span(60, 90), every(3, 100, 400), []uint64{1 << 40}),
	"serials of 64 bits":        {1, 1<<63 - 1, 1 << 63, 1<<64 - 1},
	"a run at the end of range": {1<<64 - 3, 1<<64 - 2, 1<<64 - 1},
}

func TestMarshalParse(t *testing.T) {
	key := newSigner(t).PublicKey()
	for name, serials := range shapes {
		t.Run(name, func(t *testing.T) {
			want := &List{Version: 7, Generated: time.Unix(1_800_000_000, 0).UTC()}
			if serials != nil {
				want.CAs = []CA{{Key: key, Ranges: Join(serials...)}}
			}
			data, err := want.Marshal()
			if err != nil {
				t.Fatal(err)
			}
			got, err := Parse(data)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(text(want), text(got)); diff != "" {
				t.Errorf("read back (-wrote +read):\n%s", diff)
			}
			for _, s := range serials {
				if !got.Revoked(key, s) {
					t.Fatalf("serial %d isn't revoked", s)
				}
			}
			if got.Revoked(newSigner(t).PublicKey(), 5) {
				t.Error("a serial of another CA is revoked")
			}
		})
	}
}

func text(l *List) string {
	var b strings.Builder
	fmt.Fprintln(&b, l.Version, l.Generated)
	for _, c := range l.CAs {
		fmt.Fprintln(&b, ssh.FingerprintSHA256(c.Key), c.Ranges)
	}
	return b.String()
}

func TestMarshalRefuses(t *testing.T) {
	a, now := newSigner(t).PublicKey(), time.Unix(1_800_000_000, 0)
	for name, l := range map[string]*List{
		"serial 0":          {Generated: now, CAs: []CA{{Key: a, Ranges: Join(0)}}},
		"repeated serial":   {Generated: now, CAs: []CA{{Key: a, Ranges: Join(4, 4)}}},
		"descending serial": {Generated: now, CAs: []CA{{Key: a, Ranges: Join(4, 3)}}},
		"CA twice":          {Generated: now, CAs: []CA{{Key: a, Ranges: Join(4)}, {Key: a, Ranges: Join(5)}}},
		"no date":           {CAs: []CA{{Key: a, Ranges: Join(4)}}},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := l.Marshal(); access.CodeOf(err) != access.CodeMalformed {
				t.Errorf("got %v", err)
			}
		})
	}
}

// A host must never load a list that it understands in part.
func TestParseRefuses(t *testing.T) {
	l := &List{Version: 1, Generated: time.Unix(1_800_000_000, 0), CAs: []CA{{Key: newSigner(t).PublicKey(), Ranges: Join(slices.Concat(every(3, 100, 400), span(50_000, 50_100), []uint64{90_000})...)}}}
	good, err := l.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	refused := func(t *testing.T, data []byte) {
		t.Helper()
		if got, err := Parse(data); access.CodeOf(err) != access.CodeMalformed {
			t.Errorf("got %v, %v", got, err)
		}
	}
	t.Run("empty", func(t *testing.T) { refused(t, nil) }) // sshd would take it as revoking nothing
	t.Run("cut short anywhere", func(t *testing.T) {
		head := 8 + 4 + 8 + 8 + 8 + 4 + 4
		for n := range good {
			if n != head { // a list with nothing in it ends there
				refused(t, good[:n])
			}
		}
	})
	t.Run("something behind", func(t *testing.T) { refused(t, append(slices.Clone(good), 0)) })
	t.Run("too long", func(t *testing.T) { refused(t, make([]byte, MaxSize+1)) })
	edit := func(at int, b byte) []byte {
		c := slices.Clone(good)
		c[at] = b
		return c
	}
	t.Run("magic", func(t *testing.T) { refused(t, edit(0, 'X')) })
	t.Run("format version", func(t *testing.T) { refused(t, edit(11, 2)) })
	t.Run("flags", func(t *testing.T) { refused(t, edit(35, 1)) })
	t.Run("key ids", func(t *testing.T) {
		refused(t, bytes.Replace(good, []byte{certSerialRange, 0, 0, 0, 16}, []byte{0x23, 0, 0, 0, 16}, 1))
	})
	t.Run("a range of everything", func(t *testing.T) {
		c := slices.Clone(good)
		i := bytes.Index(c, []byte{certSerialRange, 0, 0, 0, 16})
		binary.BigEndian.PutUint64(c[i+5+8:], 1<<64-1)
		refused(t, c)
	})
	// bitmap is a list of one bitmap.
	bitmap := func(offset uint64, set int64) []byte {
		var section, b, w writer
		b.uint64(offset)
		b.mpint(big.NewInt(set))
		section.string(l.CAs[0].Key.Marshal())
		section.string(nil)
		section.section(certSerialBitmap, b.Bytes())
		w.Write(good[:8+4+8+8+8+4+4])
		w.section(sectionCertificates, section.Bytes())
		return w.Bytes()
	}
	if got, err := Parse(bitmap(7, 0b10001)); err != nil || !got.Revoked(l.CAs[0].Key, 11) {
		t.Fatal(got, err)
	}
	t.Run("a CA of which nothing is revoked", func(t *testing.T) { refused(t, bitmap(7, 0)) })
	t.Run("a bitmap beyond the last serial", func(t *testing.T) { refused(t, bitmap(1<<64-3, 0b10001)) })
	t.Run("a range backwards", func(t *testing.T) {
		c := slices.Clone(good)
		i := bytes.Index(c, []byte{certSerialRange, 0, 0, 0, 16})
		binary.BigEndian.PutUint64(c[i+5:], 60_000)
		refused(t, c)
	})
}

// OpenSSH says of each certificate what we say.
func TestOpenSSHAgrees(t *testing.T) {
	rng := mathrand.New(mathrand.NewPCG(1, 2))
	ca, other := newSigner(t), newSigner(t)
	subject := newSigner(t).PublicKey()
	sets := map[string][]uint64{}
	for name, serials := range shapes {
		sets[name] = serials
	}
	for i := range 12 {
		var serials []uint64
		density := rng.Float64()
		for s := uint64(1); s <= 5000; s++ {
			if rng.Float64() < density*density {
				serials = append(serials, s)
			}
		}
		sets[fmt.Sprintf("random %d", i)] = serials
	}
	for name, serials := range sets {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			l := &List{Version: 3, Generated: time.Unix(1_800_000_000, 0), CAs: []CA{{Key: ca.PublicKey(), Ranges: Join(serials...)}, {Key: other.PublicKey(), Ranges: Join(1 << 50)}}}
			data, err := l.Marshal()
			if err != nil {
				t.Fatal(err)
			}
			list := filepath.Join(dir, "krl")
			if err := os.WriteFile(list, data, 0o600); err != nil {
				t.Fatal(err)
			}
			// The edges of what is revoked, and around them.
			ask := map[uint64]bool{1: true, 2: true, 4999: true}
			for i, s := range serials {
				if i < 20 || i > len(serials)-20 || i%500 == 0 {
					ask[s-1], ask[s], ask[s+1] = true, true, true
				}
			}
			delete(ask, 0)
			args := []string{"-Q", "-f", list}
			want := map[string]bool{}
			for s := range ask {
				cert := &ssh.Certificate{Key: subject, Serial: s, CertType: ssh.UserCert, ValidPrincipals: []string{"x"}, ValidBefore: ssh.CertTimeInfinity}
				if err := cert.SignCert(rand.Reader, ca); err != nil {
					t.Fatal(err)
				}
				file := filepath.Join(dir, fmt.Sprintf("%d.pub", s))
				if err := os.WriteFile(file, ssh.MarshalAuthorizedKey(cert), 0o600); err != nil {
					t.Fatal(err)
				}
				args = append(args, file)
				want[file] = l.Revoked(ca.PublicKey(), s)
			}
			// It exits with an error where anything is revoked.
			out, _ := exec.Command("ssh-keygen", args...).CombinedOutput()
			got := map[string]bool{}
			for _, line := range strings.Split(strings.TrimSpace(string(out)), "\n") {
				file, verdict, _ := strings.Cut(line, ": ")
				file, _, _ = strings.Cut(file, " (") // the comment
				got[file] = verdict == "REVOKED"
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("ssh-keygen -Q disagrees (-we +ssh-keygen): %s\n%s", diff, out)
			}
		})
	}
}

// What ssh-keygen writes of serials, we read.
func TestReadsOpenSSH(t *testing.T) {
	dir := t.TempDir()
	ca := newSigner(t).PublicKey()
	file := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	want := slices.Concat(every(3, 1, 301), span(1000, 2000), []uint64{1 << 40})
	var spec strings.Builder
	for _, s := range want {
		fmt.Fprintf(&spec, "serial: %d\n", s)
	}
	out, err := exec.Command("ssh-keygen", "-k", "-f", filepath.Join(dir, "krl"), "-s", file("ca.pub", string(ssh.MarshalAuthorizedKey(ca))),
		"-z", "9", file("spec", spec.String())).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	data, err := os.ReadFile(filepath.Join(dir, "krl"))
	if err != nil {
		t.Fatal(err)
	}
	got, err := Parse(data)
	if err != nil {
		t.Fatal(err)
	}
	if got.Version != 9 || len(got.CAs) != 1 || !slices.Equal(got.CAs[0].Ranges, Join(want...)) {
		t.Errorf("read %s", text(got))
	}
}

// A list is never larger than its serials listed one by one, and much smaller
// where they are dense.
func TestSize(t *testing.T) {
	key := newSigner(t).PublicKey()
	for name, most := range map[string]int{"a long run": 160, "every other": 420, "much wider than a bitmap": 10_600, "one in eight": 80_200} {
		data, err := (&List{Generated: time.Unix(1, 0), CAs: []CA{{Key: key, Ranges: Join(shapes[name]...)}}}).Marshal()
		if err != nil {
			t.Fatal(err)
		}
		if len(data) > most {
			t.Errorf("%s takes %d bytes, more than %d", name, len(data), most)
		}
	}
	for name, serials := range shapes {
		data, err := (&List{Generated: time.Unix(1, 0), CAs: []CA{{Key: key, Ranges: Join(serials...)}}}).Marshal()
		if err != nil {
			t.Fatal(err)
		}
		if most := 160 + 8*len(serials); len(data) > most {
			t.Errorf("%s takes %d bytes, more than %d", name, len(data), most)
		}
	}
}

func FuzzParse(f *testing.F) {
	key := newSigner(f).PublicKey()
	for _, serials := range shapes {
		data, err := (&List{Version: 1, Generated: time.Unix(1, 0), CAs: []CA{{Key: key, Ranges: Join(serials...)}}}).Marshal()
		if err != nil {
			f.Fatal(err)
		}
		if len(data) < 4096 {
			f.Add(data)
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		l, err := Parse(data)
		if err != nil {
			return
		}
		again, err := l.Marshal()
		if err != nil {
			t.Fatalf("what was read can't be written: %v", err)
		}
		back, err := Parse(again)
		if err != nil {
			t.Fatalf("what was written can't be read: %v", err)
		}
		for _, c := range l.CAs {
			for _, r := range c.Ranges {
				if !back.Revoked(c.Key, r.First) || !back.Revoked(c.Key, r.Last) {
					t.Fatalf("the serials %d to %d got lost", r.First, r.Last)
				}
			}
		}
		if diff := cmp.Diff(text(l), text(back)); diff != "" {
			t.Fatalf("written and read again (-before +after):\n%s", diff)
		}
	})
}

func BenchmarkMarshal(b *testing.B) {
	key := newSigner(b).PublicKey()
	rng := mathrand.New(mathrand.NewPCG(3, 4))
	sparse := func(n int) []uint64 {
		var out []uint64
		s := uint64(0)
		for range n {
			s += 1 + rng.Uint64N(200)
			out = append(out, s)
		}
		return out
	}
	for _, c := range []struct {
		name    string
		serials []uint64
	}{
		{"10k-scattered", sparse(10_000)},
		{"100k-scattered", sparse(100_000)},
		{"1M-contiguous", span(1, 1_000_000)},
	} {
		b.Run(c.name, func(b *testing.B) {
			l := &List{Version: 1, Generated: time.Unix(1, 0), CAs: []CA{{Key: key, Ranges: Join(c.serials...)}}}
			var size int
			measure.Loop(b, func() {
				data, err := l.Marshal()
				if err != nil {
					b.Fatal(err)
				}
				size = len(data)
			})
			b.ReportMetric(float64(size), "bytes")
		})
	}
}
