package audit

import (
	"crypto/sha256"
	"fmt"

	"golang.org/x/mod/sumdb/tlog"
)

// tree is a Merkle tree (RFC 6962, section 2.1) that only grows: its size and
// the roots of the perfect subtrees it is made of, largest first. That is all
// it takes to add a leaf and to know the root.
type tree struct {
	size  int64
	peaks []tlog.Hash // as many as size has one bits
}

// add appends a leaf and returns the hashes that the new leaf completes: its
// own, then those of the subtrees that end with it, from the bottom up. They
// are what the log stores with the event (tlog.StoredHashes).
func (t *tree) add(leaf []byte) []tlog.Hash { return t.addHash(tlog.RecordHash(leaf)) }

// addHash is add for a leaf of which only the hash is known.
func (t *tree) addHash(h tlog.Hash) []tlog.Hash {
	hashes := []tlog.Hash{h}
	for n := t.size; n&1 == 1; n >>= 1 {
		last := len(t.peaks) - 1
		h = tlog.NodeHash(t.peaks[last], h)
		t.peaks = t.peaks[:last]
		hashes = append(hashes, h)
	}
	t.peaks = append(t.peaks, h)
	t.size++
	return hashes
}

// root is the tree's hash. The empty tree's is SHA-256 of nothing.
func (t *tree) root() tlog.Hash {
	if t.size == 0 {
		return sha256.Sum256(nil)
	}
	h := t.peaks[len(t.peaks)-1]
	for i := len(t.peaks) - 2; i >= 0; i-- {
		h = tlog.NodeHash(t.peaks[i], h)
	}
	return h
}

// place says where the hash of subtree n at a level is stored: with the last
// event that it covers, as the hash of that level.
func place(level int, n int64) (row int64) { return (n+1)<<level - 1 }

// hashAt picks the hash of a level out of what is stored with an event.
func hashAt(stored []byte, level int) (h tlog.Hash, err error) {
	if len(stored) < (level+1)*tlog.HashSize {
		return h, fmt.Errorf("stored hashes are %d bytes, too few for level %d", len(stored), level)
	}
	copy(h[:], stored[level*tlog.HashSize:])
	return h, nil
}
