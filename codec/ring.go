package codec

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"sync"
	"time"

	"hallpass/access"
)

const (
	keyLen  = 32 // bytes: AES-256
	maxKeys = 64
	maxFile = 16 << 10 // bytes
)

// Ring is a file of keys. It is read again when it has changed. Safe for
// concurrent use.
//
// The zero Ring has no file and no keys: it encrypts nothing, and of what is
// encrypted it says that it lacks the key.
type Ring struct {
	path string

	mu     sync.Mutex
	keys   []key
	read   stamp // of the file when it was read
	broken error // why the file, as last looked at, isn't what keys are from
}

// stamp tells a file from what it was.
type stamp struct {
	size int64
	time time.Time
	mode fs.FileMode
}

func stampOf(info fs.FileInfo) stamp { return stamp{info.Size(), info.ModTime(), info.Mode()} }

// NewKey makes a line for a file of keys: an id, from the day, and a secret.
func NewKey(now time.Time) string {
	random := make([]byte, 4+keyLen)
	_, _ = rand.Read(random) // never fails: crypto/rand
	return fmt.Sprintf("%s-%s %s", now.UTC().Format("20060102"), hex.EncodeToString(random[:4]), base64.StdEncoding.EncodeToString(random[4:]))
}

// Open reads a file of keys. Each line is an id and the Base64 of 32 bytes; the
// first encrypts, all of them decrypt; lines that begin with # say nothing. The
// file has to be its owner's alone.
func Open(path string) (*Ring, error) {
	r := &Ring{path: path}
	if _, err := r.current(); err != nil {
		return nil, err
	}
	return r, nil
}

// current is the ring as the file has it now. While the file can't be read,
// the last good one counts.
func (r *Ring) current() ([]key, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	info, err := os.Stat(r.path)
	if err == nil && r.keys != nil && r.read == stampOf(info) {
		r.broken = nil
		return r.keys, nil
	}
	var keys []key
	if err == nil {
		keys, err = read(r.path, info)
	}
	switch {
	case err == nil:
		r.keys, r.read, r.broken = keys, stampOf(info), nil
	case r.keys != nil: // it may be halfway through being replaced
		r.broken = err
	case errors.Is(err, fs.ErrNotExist):
		return nil, access.Errorf(access.CodeNotFound, "there is no file of codec keys at %s", r.path).
			WithHint("umask 077; hallpass codec key > %s", r.path)
	default:
		return nil, err
	}
	return r.keys, nil
}

// Broken is why the keys in use aren't those of the file as it is now; nil if
// they are.
func (r *Ring) Broken() error {
	if r.path == "" {
		return nil
	}
	if _, err := r.current(); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.broken
}

// key finds a key by its id.
func (r *Ring) key(id string) (key, error) {
	if r.path == "" {
		return key{}, access.Errorf(access.CodeNotFound, "what is in temporal is encrypted with the key %.64q, and temporal.codec is not configured", id).
			WithHint("get the file of keys from those who operate hallpass, and name it in hallpass.yaml")
	}
	keys, err := r.current()
	if err != nil {
		return key{}, err
	}
	for _, k := range keys {
		if k.id == id {
			return k, nil
		}
	}
	return key{}, access.Errorf(access.CodeNotFound, "what is in temporal is encrypted with the key %.64q, which %s doesn't have", id, r.path).
		WithHint("get the line with that key from those who operate hallpass")
}

func read(path string, info fs.FileInfo) ([]key, error) {
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return nil, access.Errorf(access.CodeForbidden, "%s has mode %04o, so others can read it", path, mode).WithHint("chmod 600 %s", path)
	}
	if info.Size() > maxFile {
		return nil, access.Errorf(access.CodeMalformed, "%s is longer than %d bytes", path, maxFile)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read codec keys: %w", err)
	}
	return parse(path, string(data))
}

// parse reads the lines of a file. What is wrong with a secret is said without
// it.
func parse(path, text string) ([]key, error) {
	var keys []key
	seen := map[string]bool{}
	n := 0
	for line := range strings.Lines(text) {
		n++
		wrong := func(format string, args ...any) error {
			return access.Errorf(access.CodeMalformed, "%s:%d: %s", path, n, fmt.Sprintf(format, args...)).WithHint("hallpass codec key makes a line")
		}
		if line = strings.TrimSpace(line); line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		words := strings.Fields(line)
		if len(words) != 2 {
			return nil, wrong("a line is an id and a key, this one has %d words", len(words))
		}
		if err := access.CheckName("id", words[0]); err != nil {
			return nil, wrong("%v", err)
		}
		if seen[words[0]] {
			return nil, wrong("the id %s is there twice", words[0])
		}
		seen[words[0]] = true
		secret, err := base64.StdEncoding.Strict().DecodeString(words[1])
		if err != nil || len(secret) != keyLen {
			return nil, wrong("the key %s is not the Base64 of %d bytes", words[0], keyLen)
		}
		k, err := newKey(words[0], secret)
		if err != nil {
			return nil, wrong("the key %s can't be used", words[0])
		}
		if keys = append(keys, k); len(keys) > maxKeys {
			return nil, wrong("there are more than %d keys", maxKeys)
		}
	}
	if len(keys) == 0 {
		return nil, access.Errorf(access.CodeMalformed, "there is no key in %s", path).WithHint("hallpass codec key makes a line")
	}
	return keys, nil
}
