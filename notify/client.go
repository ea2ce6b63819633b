package notify

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"syscall"
	"time"
)

// special are networks in which a receiver out on the Internet can't be, or
// which lead elsewhere (the IANA registries of special-purpose addresses).
// netip knows the rest: loopback, private, link-local, multicast, unspecified.
var special = func() (out []netip.Prefix) {
	for _, s := range []string{
		"0.0.0.0/8", "100.64.0.0/10", "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "198.18.0.0/15", "198.51.100.0/24",
		"203.0.113.0/24", "240.0.0.0/4",
		"64:ff9b::/96", "64:ff9b:1::/48", "100::/64", "2001::/23", "2001:db8::/32", "2002::/16", "fec0::/10", "5f00::/16",
	} {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}()

// outside says whether an address may be a receiver out on the Internet.
func outside(a netip.Addr) bool {
	a = a.Unmap()
	if !a.IsGlobalUnicast() || a.IsPrivate() || a.IsLoopback() || a.IsLinkLocalUnicast() || a.Zone() != "" {
		return false
	}
	return !within(a, special)
}

func within(a netip.Addr, networks []netip.Prefix) bool {
	for _, p := range networks {
		if p.Contains(a.Unmap()) {
			return true
		}
	}
	return false
}

// poster posts to addresses that people have configured, and to none inside
// our own networks unless that is allowed: whoever gets to name a receiver must
// not be able to talk to what only we can reach. It is the address that the
// connection is made to which is checked, after the name was looked up, so a
// name that changes its mind gains nothing. Redirects are not followed, and no
// proxy is used.
type poster struct {
	client *http.Client
	secure *tlsDialer
}

func newPoster(allow []netip.Prefix) *poster {
	dialer := &net.Dialer{Timeout: 5 * time.Second}
	dial := func(check func(netip.Addr) error) func(context.Context, string, string) (net.Conn, error) {
		return func(ctx context.Context, network, address string) (net.Conn, error) {
			d := *dialer
			d.ControlContext = func(_ context.Context, _, address string, _ syscall.RawConn) error {
				to, err := netip.ParseAddrPort(address)
				if err != nil {
					return fmt.Errorf("address %s: %w", address, err)
				}
				return check(to.Addr())
			}
			return d.DialContext(ctx, network, address)
		}
	}
	// A plain connection is for allowed addresses alone: over the Internet
	// anybody could read it.
	plain := dial(func(a netip.Addr) error {
		if !within(a, allow) {
			return fmt.Errorf("%s is not among the addresses allowed without TLS", a)
		}
		return nil
	})
	secure := &tlsDialer{dial: dial(func(a netip.Addr) error {
		if !outside(a) && !within(a, allow) {
			return fmt.Errorf("%s is an internal address, which is not allowed", a)
		}
		return nil
	})}
	return &poster{secure: secure, client: &http.Client{
		Transport: &http.Transport{
			DialContext: plain, DialTLSContext: secure.DialContext,
			TLSHandshakeTimeout: 5 * time.Second, ResponseHeaderTimeout: attempt, MaxIdleConns: 8, IdleConnTimeout: 30 * time.Second,
			MaxResponseHeaderBytes: 64 << 10,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// Client is an HTTP client that reaches what a channel may reach, with the same
// checks: the Internet over TLS, and inside our own networks only what is
// allowed. It follows no redirect.
func Client(allow []netip.Prefix) *http.Client { return newPoster(allow).client }

// post sends a body. Everything but a 2xx is an error. The address isn't in it:
// with Slack and Teams whoever knows it can write there.
func (p *poster) post(ctx context.Context, to string, body []byte, header http.Header) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, to, bytes.NewReader(body))
	if err != nil {
		return errors.New("the address can't be used")
	}
	for k, v := range header {
		req.Header[k] = v
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", "hallpass")
	resp, err := p.client.Do(req)
	if err != nil {
		var u *url.Error
		if errors.As(err, &u) {
			err = u.Err // without the address
		}
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10)) // so that the connection can be used again
	switch {
	case resp.StatusCode/100 == 3:
		return fmt.Errorf("it answers %d, a redirect, which is not followed", resp.StatusCode)
	case resp.StatusCode/100 != 2:
		return fmt.Errorf("it answers %d", resp.StatusCode)
	}
	return nil
}
