//go:build linux

package host

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"hallpass/access"
	"hallpass/ca/krl"
	"hallpass/internal/wording"
)

// longPoll is how long the service keeps a question for a list open when
// there is nothing new.
const longPoll = 25 * time.Second

// maxReply bounds what the service replies, lists aside.
const maxReply = 4 << 20

// service talks to hallpass's service role (docs/spec/service.md).
type service struct {
	url  string // without a slash at the end
	http *http.Client
	skew atomic.Int64 // how far this host's clock is ahead, as time.Duration

	offset time.Duration // how far this host's clock is off; tests only
}

// dialService prepares to talk to the service; it doesn't connect. Only a
// certificate of the CA in ca (PEM) is taken for the service's.
func dialService(address string, ca []byte) (*service, error) {
	u, err := url.Parse(address)
	if err != nil || u.Scheme != "https" || u.Host == "" || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.User != nil {
		return nil, access.Errorf(access.CodeMalformed, "service %.80q is not like https://hallpass.example.com:7443", address)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(ca) {
		return nil, access.Errorf(access.CodeMalformed, "CA file of the service has no certificate in PEM")
	}
	return &service{
		url: "https://" + u.Host,
		http: &http.Client{
			Transport: &http.Transport{
				Proxy:                 http.ProxyFromEnvironment,
				TLSClientConfig:       &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS13},
				ForceAttemptHTTP2:     true,
				MaxIdleConnsPerHost:   2,
				IdleConnTimeout:       2 * time.Minute,
				TLSHandshakeTimeout:   10 * time.Second,
				ResponseHeaderTimeout: longPoll + 15*time.Second,
			},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}, nil
}

// pinCA connects once, and returns the certificate in the chain that the
// service presents whose SHA-256 is the given one: the CA to trust from now on.
func pinCA(ctx context.Context, address, sum string) ([]byte, error) {
	want, err := hex.DecodeString(strings.ReplaceAll(strings.TrimPrefix(strings.ToLower(sum), "sha256:"), ":", ""))
	if err != nil || len(want) != sha256.Size {
		return nil, access.Errorf(access.CodeMalformed, "--ca-sha256 is not 64 hexadecimal digits")
	}
	u, err := url.Parse(address)
	if err != nil || u.Scheme != "https" || u.Host == "" {
		return nil, access.Errorf(access.CodeMalformed, "service %.80q is not like https://hallpass.example.com:7443", address)
	}
	host := u.Host
	if u.Port() == "" {
		host += ":443"
	}
	// Not verified yet: the caller verifies with what is found here, and
	// nothing is sent on this connection.
	d := tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS13}} //nolint:gosec // see above
	conn, err := d.DialContext(ctx, "tcp", host)
	if err != nil {
		return nil, unreachable(err)
	}
	chain := conn.(*tls.Conn).ConnectionState().PeerCertificates
	_ = conn.Close()
	for _, c := range chain {
		if got := sha256.Sum256(c.Raw); bytes.Equal(got[:], want) {
			return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}), nil
		}
	}
	return nil, access.Errorf(access.CodeUnverified, "no certificate that %s presents has this SHA-256", host).
		WithHint("pass the CA itself with --ca FILE")
}

func unreachable(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err
	}
	return access.Errorf(access.CodeUnavailable, "the service can't be reached: %v", err)
}

// list asks for a list newer than the given version and waits for one. ok is
// false if there is none.
func (s *service) list(ctx context.Context, after uint64, wait time.Duration) (got signedList, ok bool, err error) {
	path := fmt.Sprintf("/v1/krl?after=%d&wait=%ds", after, int(wait.Seconds()))
	resp, err := s.do(ctx, http.MethodGet, path, nil)
	if err != nil {
		return signedList{}, false, err
	}
	defer func() { _ = resp.Body.Close() }()
	switch resp.StatusCode {
	case http.StatusNotModified:
		return signedList{}, false, nil
	case http.StatusOK:
	default:
		return signedList{}, false, refusal(resp)
	}
	data, err := io.ReadAll(io.LimitReader(resp.Body, krl.MaxSize+1))
	if err != nil {
		return signedList{}, false, unreachable(err)
	}
	signature, err := krl.DecodeSignature(resp.Header.Get(krl.SignatureHeader))
	if err != nil {
		return signedList{}, false, err
	}
	return signedList{List: data, Signature: signature}, true, nil
}

// post sends JSON and reads JSON.
func (s *service) post(ctx context.Context, path string, body, reply any) error {
	data, err := json.Marshal(body)
	if err != nil {
		return err
	}
	resp, err := s.do(ctx, http.MethodPost, path, data)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode/100 != 2 {
		return refusal(resp)
	}
	data, err = io.ReadAll(io.LimitReader(resp.Body, maxReply))
	if err != nil {
		return unreachable(err)
	}
	if err := json.Unmarshal(data, reply); err != nil {
		return access.Errorf(access.CodeUnavailable, "reply of the service to %s can't be read: %v", path, err)
	}
	return nil
}

func (s *service) do(ctx context.Context, method, path string, body []byte) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, s.url+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := s.http.Do(req)
	if err != nil {
		return nil, unreachable(err)
	}
	if d, err := http.ParseTime(resp.Header.Get("Date")); err == nil {
		// The header's seconds are whole: half of one is the best guess.
		s.skew.Store(int64(time.Now().Add(s.offset).Sub(d.Add(500 * time.Millisecond))))
	}
	return resp, nil
}

// refusal is the error that a reply carries.
func refusal(resp *http.Response) error {
	data, _ := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	var e access.Error
	if json.Unmarshal(data, &e) == nil && e.Code != "" && e.Message != "" {
		e.Message, e.Hint = clean(e.Message), clean(e.Hint)
		return &e
	}
	// Whoever answers so isn't hallpass, but a proxy, say.
	return access.Errorf(access.CodeUnavailable, "the service answers %s", strconv.Quote(resp.Status))
}

// clean makes text from elsewhere one short line without characters that can't be
// seen or that steer a terminal.
func clean(s string) string { return wording.Clip(wording.Line(s), 500) }
