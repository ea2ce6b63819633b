// Package certfile reads a TLS certificate that something else renews, such as
// an ACME client, and takes the renewed one without a restart.
package certfile

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"os"
	"sync"
	"time"

	"hallpass/access"
)

// Pair is a certificate, with its chain, and its key, in two files. It may be
// used by several goroutines.
type Pair struct {
	cert, key string
	now       func() time.Time

	mu      sync.Mutex
	good    *tls.Certificate
	read    [2][]byte // what the files held when they were last read
	problem error     // with that; nil if it is good
}

// Open reads the files. They have to be a certificate that is good now and its
// key, which nobody but its owner may read. now may be nil.
func Open(cert, key string, now func() time.Time) (*Pair, error) {
	if now == nil {
		now = time.Now
	}
	p := &Pair{cert: cert, key: key, now: now}
	if _, err := p.Look(); err != nil {
		return nil, err
	}
	return p, nil
}

// Look reads the files and takes what is in them if it is new and good; taken
// says so. The error says what is wrong with them: then the last good
// certificate stays. A pair that is just being replaced, one file after the
// other, doesn't fit together for a moment.
func (p *Pair) Look() (taken bool, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var now [2][]byte
	for i, path := range []string{p.cert, p.key} {
		if now[i], err = os.ReadFile(path); err != nil {
			return false, fmt.Errorf("read TLS certificate: %w", err)
		}
	}
	info, err := os.Stat(p.key)
	if err != nil {
		return false, fmt.Errorf("read TLS certificate: %w", err)
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return false, access.Errorf(access.CodeForbidden, "TLS key %s has mode %04o, so others can read it", p.key, mode).WithHint("chmod 600 %s", p.key)
	}
	// What was wrong is looked at again: it may only have been too early.
	if p.good != nil && p.problem == nil && bytes.Equal(now[0], p.read[0]) && bytes.Equal(now[1], p.read[1]) {
		return false, nil
	}
	p.read = now
	pair, err := tls.X509KeyPair(now[0], now[1])
	switch {
	case err != nil:
		p.problem = access.Errorf(access.CodeMalformed, "TLS certificate %s and key %s: %v", p.cert, p.key, err)
	case p.now().After(pair.Leaf.NotAfter):
		p.problem = access.Errorf(access.CodeMalformed, "TLS certificate %s has expired, at %s", p.cert, pair.Leaf.NotAfter.UTC().Format(time.RFC3339)).
			WithHint("have it renewed; it is taken without a restart")
	case p.now().Before(pair.Leaf.NotBefore):
		p.problem = access.Errorf(access.CodeMalformed, "TLS certificate %s is not good before %s", p.cert, pair.Leaf.NotBefore.UTC().Format(time.RFC3339)).
			WithHint("is this machine's clock right?")
	default:
		p.good, p.problem = &pair, nil
		return true, nil
	}
	return false, p.problem
}

// Certificate is the last good one, which may have expired since. Callers don't
// change it.
func (p *Pair) Certificate() *tls.Certificate {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.good
}

// Ends is when it does.
func (p *Pair) Ends() time.Time { return p.Certificate().Leaf.NotAfter }
