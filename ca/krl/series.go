package krl

import (
	"crypto/sha256"
	"encoding/binary"
	"slices"
)

// A serial has two parts: in its upper half the series, which is that of the
// resource that the certificate is for, and in its lower one a count from 1.
// So whoever has a list can tell what of it can't concern a host, from the
// names of what that host serves and nothing else ([List.For]). The whole
// stays below 2⁵³, up to where numbers in JSON are exact.
//
// Series 0 is that of serials that say nothing of a resource: those of host
// certificates, and all from before there were series.
const (
	MaxSeries = 1<<20 - 1 // the last series
	MaxCount  = 1<<32 - 1 // the last count of a series

	countBits = 32
)

// Series is the series of a resource of kind ssh by its name, such as "web-1".
// It is a hash, so nobody has to keep or be told a number. Two names may share
// a series: then their hosts load a little more than they need.
func Series(name string) uint32 {
	sum := sha256.Sum256([]byte(name))
	return 1 + binary.BigEndian.Uint32(sum[:])%MaxSeries
}

// Serial puts a serial together; the parts are within their bounds.
func Serial(series uint32, count uint64) uint64 { return uint64(series)<<countBits | count }

// Split takes a serial apart. One that can't be of any series is of series 0,
// with itself as its count.
func Split(serial uint64) (series uint32, count uint64) {
	if s := serial >> countBits; s <= MaxSeries {
		return uint32(s), serial & MaxCount
	}
	return 0, serial
}

// Counted says whether a serial has a count: without one it names its series, and is no
// certificate's.
func Counted(serial uint64) bool {
	_, count := Split(serial)
	return count != 0
}

// InSeries says whether a certificate for the resource with this name may have
// this serial: one of its series, or of series 0.
func InSeries(serial uint64, name string) bool {
	series, _ := Split(serial)
	return series == 0 || series == Series(name)
}

// For is the part of the list that can concern a host on which certificates of
// these series open something. What is of series 0 always can.
func (l *List) For(series []uint32) *List {
	out := &List{Version: l.Version, Generated: l.Generated}
	for _, ca := range l.CAs {
		part := CA{Key: ca.Key}
		for _, r := range ca.Ranges {
			first, _ := Split(r.First)
			last, _ := Split(r.Last)
			if first == 0 || first != last || slices.Contains(series, first) {
				part.Ranges = append(part.Ranges, r)
			}
		}
		out.CAs = append(out.CAs, part)
	}
	return out
}

// Fill adds to ascending ranges what lies between two of one series, if none of
// the serials there is in use (ascending): what has ended anyway may be revoked
// too, and ten thousand ranges become as many as there are certificates that
// haven't ended.
func Fill(ranges []Range, used []uint64) []Range {
	var out []Range
	for _, r := range ranges {
		n := len(out)
		if n > 0 {
			before, _ := Split(out[n-1].Last)
			series, _ := Split(r.First)
			i, _ := slices.BinarySearch(used, out[n-1].Last)
			if before == series && (i == len(used) || used[i] > r.First) {
				out[n-1].Last = r.Last
				continue
			}
		}
		out = append(out, r)
	}
	return out
}
