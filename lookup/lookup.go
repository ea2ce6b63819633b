// Package lookup asks other systems for what policy wants to know of a request
// beside what is in it: who is on call, what state a ticket is in. Load reads
// which look-ups there are; Set.Look makes those that are asked for.
//
// What is promised:
//   - An answer is there within the look-up's time limit, or it has failed. An
//     answer that is too long, garbage, a redirect, or not what it should be
//     has failed, too. Nothing is ever made up, kept for later, or retried.
//   - Nothing inside our own networks is talked to that isn't allowed by the
//     file, and no name, redirect or value in a request leads there
//     (package notify's client).
//   - No address, password or token is in an error.
//
// What is not: that the answer is true. Whoever runs the other system, or the
// file, can say what he likes, so policy should only ask it where an approval
// isn't needed any more by its word, never where one wouldn't have been needed
// in the first place.
package lookup

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"hallpass/access"
)

// Caps in code: no file can loosen them.
const (
	DefaultTimeout = 3 * time.Second
	MaxTimeout     = 5 * time.Second // a workflow's local activity has ten
	MaxBody        = 1 << 20         // bytes of an answer
	MaxValue       = 4 << 10         // bytes of what is taken from it, as JSON
	maxLookups     = 32
)

// All is the name that asks for every look-up there is.
const All = "*"

// Set is all look-ups there are. It is safe for concurrent use.
type Set struct {
	lookups map[string]*lookup
	client  *http.Client
	now     func() time.Time
}

// lookup is one of them.
type lookup struct {
	name          string
	url           string // with {ticket}, {requester} and {resource} in it
	authorization string // header, "" for none
	timeout       time.Duration
	value         func(body []byte, now time.Time) (any, error) // what of an answer is the value
}

// failure is an error that may be shown.
type failure struct{ text string }

func (f failure) Error() string { return f.text }

func failf(format string, args ...any) error { return failure{fmt.Sprintf(format, args...)} }

// Look makes the look-ups of these names for a request, all at once, and waits
// for all. It never fails: a look-up that does, or that there isn't, is a fact
// that says so.
func (s *Set) Look(ctx context.Context, names []string, r access.Request) access.Facts {
	if slices.Contains(names, All) {
		// What is asked for by name as well stays: it may not be there.
		names = slices.DeleteFunc(slices.AppendSeq(slices.Clone(names), maps.Keys(s.lookups)), func(name string) bool { return name == All })
		slices.Sort(names)
		names = slices.Compact(names)
	}
	facts := access.Facts{}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for _, name := range names {
		wg.Go(func() {
			fact := s.fact(ctx, name, r)
			mu.Lock()
			defer mu.Unlock()
			facts[name] = fact
		})
	}
	wg.Wait()
	return facts
}

func (s *Set) fact(ctx context.Context, name string, r access.Request) access.Fact {
	fact := access.Fact{Time: s.now().UTC().Truncate(time.Second)}
	l, ok := s.lookups[name]
	if !ok {
		fact.Failed = "there is no look-up of that name here"
		return fact
	}
	value, err := l.ask(ctx, s.client, r, s.now())
	if err == nil {
		fact.Value, err = json.Marshal(value)
	}
	if err == nil && len(fact.Value) > MaxValue {
		err = failf("what it says is longer than %d bytes", MaxValue)
	}
	var v any
	if err == nil && json.Unmarshal(fact.Value, &v) != nil {
		err = failf("what it says has a number that is too large")
	}
	if err != nil {
		fact.Value, fact.Failed = nil, explain(err, l.timeout)
	}
	return fact
}

// explain says why a look-up failed, without anything of the other side's.
func explain(err error, timeout time.Duration) string {
	var f failure
	var timedOut net.Error
	switch {
	case errors.As(err, &f):
		return f.text
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &timedOut) && timedOut.Timeout():
		return fmt.Sprintf("no answer within %s", timeout)
	case errors.Is(err, context.Canceled):
		return "interrupted"
	}
	return "it can't be reached"
}

// ask makes one look-up.
func (l *lookup) ask(ctx context.Context, client *http.Client, r access.Request, now time.Time) (any, error) {
	to, err := l.address(r)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, l.timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, to, nil)
	if err != nil {
		return nil, failf("its address can't be used")
	}
	req.Header.Set("User-Agent", "hallpass")
	if l.authorization != "" {
		req.Header.Set("Authorization", l.authorization)
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	switch {
	case resp.StatusCode/100 == 3:
		return nil, failf("it answers %d, a redirect, which is not followed", resp.StatusCode)
	case resp.StatusCode != http.StatusOK:
		return nil, failf("it answers %d", resp.StatusCode)
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, MaxBody+1))
	if err != nil {
		return nil, err
	}
	if len(body) > MaxBody {
		return nil, failf("its answer is longer than %d bytes", MaxBody)
	}
	return l.value(body, now)
}

// address fills in what the request says. It can name what is asked for and
// never where: a value with anything but letters, digits and . _ @ + - in it,
// or of dots alone, is not looked up.
func (l *lookup) address(r access.Request) (string, error) {
	to := l.url
	for _, p := range []struct{ name, value string }{{"{ticket}", r.Ticket}, {"{requester}", r.Signer}, {"{resource}", r.Resource}} {
		if !strings.Contains(to, p.name) {
			continue
		}
		plain := p.value
		if p.name == "{resource}" {
			plain = strings.Replace(plain, "/", "", 1)
		}
		if plain == "" {
			return "", failf("the request has no %s to look up", strings.Trim(p.name, "{}"))
		}
		if strings.Trim(plain, ".") == "" || strings.ContainsFunc(plain, func(c rune) bool { return !strings.ContainsRune(plainText, c) }) {
			return "", failf("the %s has characters that are not looked up", strings.Trim(p.name, "{}"))
		}
		to = strings.ReplaceAll(to, p.name, url.QueryEscape(p.value))
	}
	return to, nil
}

const plainText = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._@+-"

// decode reads JSON, all of it.
func decode(body []byte) (any, error) {
	d := json.NewDecoder(bytes.NewReader(body))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		return nil, failf("its answer is not JSON")
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, failf("its answer is not JSON")
	}
	return v, nil
}
