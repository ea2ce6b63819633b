// Package krl writes and reads OpenSSH key revocation lists (PROTOCOL.krl):
// the file behind sshd's RevokedKeys, by which a host refuses certificates
// that were taken back before their end.
//
// A List revokes certificates by the serial that their CA gave them, which is
// the cheapest thing that sshd can look up. [List.Marshal] writes it as small
// as it gets; [Parse] reads what Marshal writes, strictly, and refuses
// everything else, also what OpenSSH would accept: hosts load only lists of
// ours, and a list that was understood in part would let somebody in.
//
// A list says nothing of who made it. Whoever passes it on signs it.
package krl

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"math"
	"math/big"
	"math/bits"
	"slices"
	"time"

	"golang.org/x/crypto/ssh"

	"hallpass/access"
)

// PROTOCOL.krl.
const (
	magic         = 0x5353484b524c0a00 // "SSHKRL\n\0"
	formatVersion = 1

	sectionCertificates = 1

	certSerialList   = 0x20
	certSerialRange  = 0x21
	certSerialBitmap = 0x22
)

// maxBitmap is how many serials one bitmap spans. OpenSSH 9.2 writes larger
// ones and then can't load them, which locks everybody out.
const maxBitmap = 16384

// MaxSize bounds what Parse reads, in bytes: about 4 million ranges. sshd reads the list for every key that is offered, so
// one anywhere near this has other problems.
const MaxSize = 32 << 20

// MaxAge is how old the list in force can be while all is well: issuers make
// a new one every minute, whether there is something new to say or not.
const MaxAge = 5 * time.Minute

// List is a key revocation list.
type List struct {
	Version   uint64    // grows with every list; hosts refuse to go back
	Generated time.Time // whole seconds
	CAs       []CA      // at most one for each key
}

// CA is what one CA has revoked.
type CA struct {
	Key    ssh.PublicKey
	Ranges []Range // ascending, without touching, from 1: zero can't be revoked by serial
}

// Range is a range of serials, both ends included.
type Range struct{ First, Last uint64 }

func (r Range) len() uint64 { return r.Last - r.First + 1 } // never the whole uint64 range: serials begin at 1

// Join makes ranges of ascending serials.
func Join(serials ...uint64) []Range {
	var ranges []Range
	for _, s := range serials {
		if n := len(ranges); n > 0 && ranges[n-1].Last+1 == s {
			ranges[n-1].Last = s
			continue
		}
		ranges = append(ranges, Range{s, s})
	}
	return ranges
}

// Revoked says whether the list revokes the certificate with this serial of
// this CA.
func (l *List) Revoked(ca ssh.PublicKey, serial uint64) bool {
	key := ca.Marshal()
	for _, c := range l.CAs {
		if bytes.Equal(c.Key.Marshal(), key) {
			_, found := slices.BinarySearchFunc(c.Ranges, serial, func(r Range, s uint64) int {
				switch {
				case r.Last < s:
					return -1
				case r.First > s:
					return 1
				}
				return 0
			})
			return found
		}
	}
	return false
}

// Len is how many serials the list revokes.
func (l *List) Len() int {
	n := uint64(0)
	for _, c := range l.CAs {
		for _, r := range c.Ranges {
			n += min(r.len(), math.MaxInt-n)
		}
	}
	return int(n)
}

// Entries is how many ranges the list has. That, and not Len, is what sshd pays
// for.
func (l *List) Entries() int {
	n := 0
	for _, c := range l.CAs {
		n += len(c.Ranges)
	}
	return n
}

// check says whether l is a list that can be written and read back.
func (l *List) check() error {
	if l.Generated.Unix() < 0 {
		return malformed("it is dated before 1970")
	}
	seen := map[string]bool{}
	for _, c := range l.CAs {
		key := string(c.Key.Marshal())
		if seen[key] {
			return malformed("CA %s is there twice", ssh.FingerprintSHA256(c.Key))
		}
		seen[key] = true
		last := uint64(0)
		for i, r := range c.Ranges {
			if r.First <= last || r.Last < r.First || i > 0 && r.First == last+1 {
				return malformed("the serials %d to %d come after %d", r.First, r.Last, last)
			}
			last = r.Last
		}
	}
	return nil
}

// Marshal writes the list. An error (access.CodeMalformed) means that the list
// breaks what the fields of List and CA ask for.
func (l *List) Marshal() ([]byte, error) {
	if err := l.check(); err != nil {
		return nil, err
	}
	var w writer
	w.uint64(magic)
	w.uint32(formatVersion)
	w.uint64(l.Version)
	w.uint64(uint64(l.Generated.Unix()))
	w.uint64(0)   // flags
	w.string(nil) // reserved
	w.string(nil) // comment
	for _, c := range l.CAs {
		if len(c.Ranges) == 0 {
			continue
		}
		var section writer
		section.string(c.Key.Marshal())
		section.string(nil) // reserved
		section.ranges(c.Ranges)
		w.section(sectionCertificates, section.Bytes())
	}
	return w.Bytes(), nil
}

// What the forms cost in bytes, the five of a section's head included.
const (
	costRange     = 5 + 8 + 8
	costBitmap    = 5 + 8 + 4 + 1 // and one for each eight serials
	costListed    = 8
	listedInARow  = costRange / costListed // shorter ranges are listed one by one
	bitmapWorthIt = 8                      // serials to a byte
)

// costAlone is what a range costs outside a bitmap. That the head of a list
// comes once doesn't matter.
func (r Range) costAlone() uint64 {
	if r.len() <= listedInARow {
		return r.len() * costListed
	}
	return costRange
}

// ranges writes ascending ranges: long ones as they are, dense stretches as
// bitmaps, the rest one by one.
func (w *writer) ranges(ranges []Range) {
	var listed writer
	alone := func(r Range) {
		if r.len() > listedInARow {
			var b writer
			b.uint64(r.First)
			b.uint64(r.Last)
			w.section(certSerialRange, b.Bytes())
			return
		}
		for s := r.First; ; s++ {
			listed.uint64(s)
			if s == r.Last {
				break
			}
		}
	}
	for len(ranges) > 0 {
		// A stretch goes on as long as its next range is cheaper as bits, gap
		// included, than by itself.
		n, cost := 1, ranges[0].costAlone()
		for n < len(ranges) && ranges[n].Last-ranges[0].First < maxBitmap &&
			(ranges[n].Last-ranges[n-1].Last)/bitmapWorthIt < ranges[n].costAlone() {
			cost += ranges[n].costAlone()
			n++
		}
		stretch := ranges[:n]
		ranges = ranges[n:]
		span := stretch[n-1].Last - stretch[0].First + 1
		if span <= maxBitmap && costBitmap+span/bitmapWorthIt < cost {
			w.bitmap(stretch)
			continue
		}
		for _, r := range stretch {
			alone(r)
		}
	}
	if listed.Len() > 0 {
		w.section(certSerialList, listed.Bytes())
	}
}

// bitmap writes ranges that span at most maxBitmap serials.
func (w *writer) bitmap(ranges []Range) {
	offset := ranges[0].First
	var set big.Int
	one := big.NewInt(1)
	for _, r := range ranges {
		// All bits of the range: (1<<len - 1) << (first - offset).
		ones := new(big.Int).Lsh(one, uint(r.len()))
		ones.Sub(ones, one)
		set.Or(&set, ones.Lsh(ones, uint(r.First-offset)))
	}
	var b writer
	b.uint64(offset)
	b.mpint(&set)
	w.section(certSerialBitmap, b.Bytes())
}

// Parse reads a list that Marshal wrote. Errors have the code
// access.CodeMalformed.
func Parse(data []byte) (*List, error) {
	if len(data) > MaxSize {
		return nil, malformed("it is longer than %d bytes", MaxSize)
	}
	r := &reader{rest: data}
	if r.uint64() != magic {
		r.fail("it doesn't begin as one")
	}
	if v := r.uint32(); v != formatVersion {
		r.fail("its format version is %d, not %d", v, formatVersion)
	}
	l := &List{Version: r.uint64()}
	generated := r.uint64()
	if generated > 1<<40 {
		r.fail("its date is %d seconds after 1970", generated)
	}
	l.Generated = time.Unix(int64(generated), 0).UTC()
	if r.uint64() != 0 || len(r.string()) != 0 || len(r.string()) != 0 {
		r.fail("it has flags, a comment or a reserved field")
	}
	for r.more() {
		if typ := r.byte(); typ != sectionCertificates {
			r.fail("it has a section of type %d", typ)
		}
		c := r.ca(r.string())
		l.CAs = append(l.CAs, c)
	}
	if r.err != nil {
		return nil, r.err
	}
	if err := l.check(); err != nil {
		return nil, err
	}
	return l, nil
}

// ca reads one section of certificates.
func (r *reader) ca(data []byte) CA {
	s := &reader{rest: data, err: r.err}
	var c CA
	key, err := ssh.ParsePublicKey(s.string())
	if err != nil {
		s.fail("a CA key can't be read")
	}
	c.Key = key
	if len(s.string()) != 0 {
		s.fail("a section has a reserved field")
	}
	for s.more() {
		switch typ := s.byte(); typ {
		case certSerialList:
			list := &reader{rest: s.string(), err: s.err}
			for list.more() {
				serial := list.uint64()
				c.add(list, Range{serial, serial})
			}
			s.err = list.err
		case certSerialRange:
			b := &reader{rest: s.string(), err: s.err}
			c.add(b, Range{b.uint64(), b.uint64()})
			b.end()
			s.err = b.err
		case certSerialBitmap:
			b := &reader{rest: s.string(), err: s.err}
			offset, set := b.uint64(), b.mpint()
			b.end()
			if set.BitLen() > maxBitmap {
				b.fail("a bitmap spans more than %d serials", maxBitmap)
			}
			if n := uint64(set.BitLen()); n > 0 && offset+n-1 < offset {
				b.fail("a bitmap goes beyond the last serial")
			}
			for i := 0; b.err == nil && i < set.BitLen(); i++ {
				if set.Bit(i) == 1 {
					c.add(b, Range{offset + uint64(i), offset + uint64(i)})
				}
			}
			s.err = b.err
		default:
			s.fail("it has a section of type %d about certificates", typ)
		}
	}
	if len(c.Ranges) == 0 { // Marshal leaves such a CA out
		s.fail("a section revokes nothing")
	}
	c.order()
	r.err = s.err
	return c
}

// add takes in a range.
func (c *CA) add(r *reader, serials Range) {
	switch n := len(c.Ranges); {
	case r.err != nil:
	case serials.First == 0 || serials.Last < serials.First:
		r.fail("it revokes the serials %d to %d", serials.First, serials.Last)
	case n > 0 && c.Ranges[n-1].Last+1 == serials.First:
		c.Ranges[n-1].Last = serials.Last
	default:
		c.Ranges = append(c.Ranges, serials)
	}
}

// order sorts the ranges and joins those that touch. Two that share a serial
// stay, for check to find.
func (c *CA) order() {
	slices.SortFunc(c.Ranges, func(a, b Range) int { return cmp.Compare(a.First, b.First) })
	kept := c.Ranges[:0]
	for _, r := range c.Ranges {
		if n := len(kept); n > 0 && kept[n-1].Last+1 == r.First {
			kept[n-1].Last = r.Last
			continue
		}
		kept = append(kept, r)
	}
	c.Ranges = kept
}

// writer writes the encodings of RFC 4251, section 5.
type writer struct{ bytes.Buffer }

func (w *writer) uint32(v uint32) { w.Write(binary.BigEndian.AppendUint32(nil, v)) }
func (w *writer) uint64(v uint64) { w.Write(binary.BigEndian.AppendUint64(nil, v)) }

func (w *writer) string(b []byte) {
	w.uint32(uint32(len(b)))
	w.Write(b)
}

func (w *writer) mpint(v *big.Int) {
	b := v.Bytes()
	if len(b) > 0 && bits.Len8(b[0]) == 8 {
		b = append([]byte{0}, b...) // else it would read as negative
	}
	w.string(b)
}

func (w *writer) section(typ byte, data []byte) {
	w.WriteByte(typ)
	w.string(data)
}

// reader reads them. The first failure stays; after it everything reads as
// zero.
type reader struct {
	rest []byte
	err  error
}

func (r *reader) fail(format string, args ...any) {
	if r.err == nil {
		r.err = malformed(format, args...)
	}
}

func (r *reader) more() bool { return r.err == nil && len(r.rest) > 0 }

func (r *reader) end() {
	if r.more() {
		r.fail("a section is longer than what it holds")
	}
}

func (r *reader) take(n uint64) []byte {
	if r.err == nil && uint64(len(r.rest)) < n {
		r.fail("it is cut short")
	}
	if r.err != nil {
		return nil
	}
	b := r.rest[:n]
	r.rest = r.rest[n:]
	return b
}

func (r *reader) byte() byte {
	if b := r.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (r *reader) uint32() uint32 {
	if b := r.take(4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

func (r *reader) uint64() uint64 {
	if b := r.take(8); b != nil {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

func (r *reader) string() []byte { return r.take(uint64(r.uint32())) }

func (r *reader) mpint() *big.Int {
	b := r.string()
	if len(b) > 0 && b[0]&0x80 != 0 {
		r.fail("a bitmap is negative")
	}
	return new(big.Int).SetBytes(b)
}

func malformed(format string, args ...any) error {
	return access.Errorf(access.CodeMalformed, "key revocation list can't be used: %s", fmt.Sprintf(format, args...))
}
