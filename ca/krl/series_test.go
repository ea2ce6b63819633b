package krl

import (
	"math"
	mathrand "math/rand/v2"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// The numbers are in serials that are out: they must never change.
func TestSeries(t *testing.T) {
	for name, want := range map[string]uint32{"web-1": 108354, "web-2": 1015841, "db": 798095} {
		if got := Series(name); got != want {
			t.Errorf("series of %s is %d, want %d", name, got, want)
		}
	}
	for i := range 100_000 {
		if s := Series(strconv.Itoa(i)); s == 0 || s > MaxSeries {
			t.Fatalf("series %d of %d", s, i)
		}
	}
}

func TestSerial(t *testing.T) {
	for _, row := range []struct {
		serial, count uint64
		series        uint32
	}{
		{1, 1, 0},
		{MaxCount, MaxCount, 0},
		{1<<32 | 1, 1, 1},
		{1<<52 - 1, MaxCount, MaxSeries},
		{1 << 52, 1 << 52, 0}, // of none
		{math.MaxUint64, math.MaxUint64, 0},
	} {
		series, count := Split(row.serial)
		if series != row.series || count != row.count {
			t.Errorf("%d is %d of series %d", row.serial, count, series)
		}
		if count <= MaxCount && Serial(series, count) != row.serial {
			t.Errorf("%d put together is %d", row.serial, Serial(series, count))
		}
	}
	if Serial(MaxSeries, MaxCount) >= 1<<53 {
		t.Error("JSON would round the largest serial")
	}
	web, db := Serial(Series("web"), 1), Serial(Series("db"), 1)
	for _, row := range []struct {
		serial uint64
		name   string
		want   bool
	}{{web, "web", true}, {db, "web", false}, {5, "web", true}, {1 << 60, "web", true}} {
		if got := InSeries(row.serial, row.name); got != row.want {
			t.Errorf("%d for %s: %t", row.serial, row.name, got)
		}
	}
}

// A host's part has all that could open something on it, and all that isn't
// known.
func TestFor(t *testing.T) {
	a, b := newSigner(t).PublicKey(), newSigner(t).PublicKey()
	web, db, group := Series("web-1"), Series("db"), Series("web")
	all := slices.Sorted(slices.Values([]uint64{
		3, 4, Serial(web, 1), Serial(web, 2), Serial(db, 1), Serial(db, 9), Serial(group, 5), 1 << 55,
	}))
	l := &List{Version: 9, Generated: time.Unix(1_800_000_000, 0), CAs: []CA{
		{Key: a, Ranges: Join(all...)},
		// One entry over several series: nobody makes it, and everybody loads it.
		{Key: b, Ranges: []Range{{Serial(web, 1), Serial(web+2, 1)}}},
	}}
	got := l.For([]uint32{web, group})
	want := &List{Version: 9, Generated: l.Generated, CAs: []CA{
		{Key: a, Ranges: Join(slices.DeleteFunc(slices.Clone(all), func(s uint64) bool { return s>>32 == uint64(db) })...)},
		l.CAs[1],
	}}
	if diff := cmp.Diff(text(want), text(got)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if got := l.For(nil); got.Revoked(a, Serial(web, 1)) || !got.Revoked(a, 3) || !got.Revoked(a, 1<<55) {
		t.Errorf("for a host that serves nothing: %s", text(got))
	}
	if _, err := got.Marshal(); err != nil {
		t.Error(err)
	}
}

// What is in use never gets into a list by filling it up, what was revoked
// stays, and there are no more entries than there is in use.
func TestFill(t *testing.T) {
	rng := mathrand.New(mathrand.NewPCG(5, 6))
	for i := range 200 {
		var revoked, used []uint64
		series := uint64(1 + rng.IntN(3))
		for s := range series {
			for n := uint64(1); n < 300; n++ {
				switch rng.IntN(2 + i%20) {
				case 0:
					revoked = append(revoked, Serial(uint32(s), n))
				case 1:
					used = append(used, Serial(uint32(s), n))
				}
			}
		}
		filled := Fill(Join(revoked...), used)
		l := &List{Generated: time.Unix(1, 0), CAs: []CA{{Key: newSigner(t).PublicKey(), Ranges: filled}}}
		if _, err := l.Marshal(); err != nil {
			t.Fatal(err)
		}
		for _, s := range revoked {
			if !l.Revoked(l.CAs[0].Key, s) {
				t.Fatalf("%d isn't revoked any more", s)
			}
		}
		for _, s := range used {
			if l.Revoked(l.CAs[0].Key, s) {
				t.Fatalf("%d is revoked", s)
			}
		}
		if most := len(used) + int(series); len(filled) > most {
			t.Fatalf("%d entries, more than %d", len(filled), most)
		}
	}
}
