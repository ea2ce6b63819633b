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
	"encoding/binary"
	"fmt"
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

// MaxSize bounds what Parse reads, in bytes: about 4 million serials that
// nothing can compress. sshd reads the list for every key that is offered, so
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
	Key     ssh.PublicKey
	Serials []uint64 // ascending, without repeats, from 1: zero can't be revoked by serial
}

// Revoked says whether the list revokes the certificate with this serial of
// this CA.
func (l *List) Revoked(ca ssh.PublicKey, serial uint64) bool {
	key := ca.Marshal()
	for _, c := range l.CAs {
		if bytes.Equal(c.Key.Marshal(), key) {
			_, found := slices.BinarySearch(c.Serials, serial)
			return found
		}
	}
	return false
}

// Len is how many certificates the list revokes.
func (l *List) Len() int {
	n := 0
	for _, c := range l.CAs {
		n += len(c.Serials)
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
		for _, s := range c.Serials {
			if s <= last {
				return malformed("serial %d comes after %d", s, last)
			}
			last = s
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
		if len(c.Serials) == 0 {
			continue
		}
		var section writer
		section.string(c.Key.Marshal())
		section.string(nil) // reserved
		section.serials(c.Serials)
		w.section(sectionCertificates, section.Bytes())
	}
	return w.Bytes(), nil
}

// run is a range of serials, both ends included.
type run struct{ first, last uint64 }

func (r run) len() uint64 { return r.last - r.first + 1 } // never the whole uint64 range: serials begin at 1

// What the forms cost in bytes, the five of a section's head included.
const (
	costRange     = 5 + 8 + 8
	costBitmap    = 5 + 8 + 4 + 1 // and one for each eight serials
	costListed    = 8
	listedInARun  = costRange / costListed // shorter runs are listed one by one
	bitmapWorthIt = 8                      // serials to a byte
)

// costAlone is what a run costs outside a bitmap. That the head of a list
// comes once doesn't matter.
func (r run) costAlone() uint64 {
	if r.len() <= listedInARun {
		return r.len() * costListed
	}
	return costRange
}

// serials writes ascending serials: long runs as ranges, dense stretches as
// bitmaps, the rest one by one.
func (w *writer) serials(serials []uint64) {
	var listed writer
	alone := func(r run) {
		if r.len() > listedInARun {
			var b writer
			b.uint64(r.first)
			b.uint64(r.last)
			w.section(certSerialRange, b.Bytes())
			return
		}
		for s := r.first; ; s++ {
			listed.uint64(s)
			if s == r.last {
				break
			}
		}
	}
	runs := runsOf(serials)
	for len(runs) > 0 {
		// A stretch goes on as long as its next run is cheaper as bits, gap
		// included, than by itself.
		n, cost := 1, runs[0].costAlone()
		for n < len(runs) && runs[n].last-runs[0].first < maxBitmap &&
			(runs[n].last-runs[n-1].last)/bitmapWorthIt < runs[n].costAlone() {
			cost += runs[n].costAlone()
			n++
		}
		stretch := runs[:n]
		runs = runs[n:]
		span := stretch[n-1].last - stretch[0].first + 1
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

// bitmap writes runs that span at most maxBitmap serials.
func (w *writer) bitmap(runs []run) {
	offset := runs[0].first
	var set big.Int
	one := big.NewInt(1)
	for _, r := range runs {
		// All bits of the run: (1<<len - 1) << (first - offset).
		ones := new(big.Int).Lsh(one, uint(r.len()))
		ones.Sub(ones, one)
		set.Or(&set, ones.Lsh(ones, uint(r.first-offset)))
	}
	var b writer
	b.uint64(offset)
	b.mpint(&set)
	w.section(certSerialBitmap, b.Bytes())
}

// runsOf joins ascending serials that follow one another.
func runsOf(serials []uint64) []run {
	var runs []run
	for _, s := range serials {
		if n := len(runs); n > 0 && runs[n-1].last+1 == s {
			runs[n-1].last = s
			continue
		}
		runs = append(runs, run{s, s})
	}
	return runs
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
	left := MaxSize / costListed // serials that may still come
	for r.more() {
		if typ := r.byte(); typ != sectionCertificates {
			r.fail("it has a section of type %d", typ)
		}
		c := r.ca(r.string(), &left)
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
func (r *reader) ca(data []byte, left *int) CA {
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
				c.add(list, run{first: list.uint64()}.single(), left)
			}
			s.err = list.err
		case certSerialRange:
			b := &reader{rest: s.string(), err: s.err}
			c.add(b, run{b.uint64(), b.uint64()}, left)
			b.end()
			s.err = b.err
		case certSerialBitmap:
			b := &reader{rest: s.string(), err: s.err}
			offset, set := b.uint64(), b.mpint()
			b.end()
			if set.BitLen() > maxBitmap {
				b.fail("a bitmap spans more than %d serials", maxBitmap)
			}
			for i := 0; b.err == nil && i < set.BitLen(); i++ {
				if set.Bit(i) == 1 {
					c.add(b, run{first: offset + uint64(i)}.single(), left)
				}
			}
			s.err = b.err
		default:
			s.fail("it has a section of type %d about certificates", typ)
		}
	}
	slices.Sort(c.Serials)
	r.err = s.err
	return c
}

func (r run) single() run { return run{r.first, r.first} }

// add takes in a range. That a list can't name more than so many serials keeps
// a range of 2⁶⁴ from filling the memory.
func (c *CA) add(r *reader, serials run, left *int) {
	switch {
	case r.err != nil:
	case serials.first == 0 || serials.last < serials.first:
		r.fail("it revokes the serials %d to %d", serials.first, serials.last)
	case serials.len() > uint64(*left):
		r.fail("it revokes more than %d serials", MaxSize/costListed)
	default:
		*left -= int(serials.len())
		for i := uint64(0); i < serials.len(); i++ {
			c.Serials = append(c.Serials, serials.first+i)
		}
	}
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
