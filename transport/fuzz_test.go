package transport

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"hallpass/access"
)

// wire answers every call with the same.
type wire struct {
	status int
	header http.Header
	body   []byte
}

func (w *wire) RoundTrip(r *http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: w.status, Header: w.header, Body: io.NopCloser(bytes.NewReader(w.body)), Request: r}, nil
}

// FuzzAnswers: whatever answers instead of the service, a call ends with what it
// asked for, or with an error that has a code and a bounded message, and nothing of
// another request passes for it. As the certificate of a CA only one is taken, and
// again when it is written again.
func FuzzAnswers(f *testing.F) {
	ca, signed := newAuthority(f), 0
	add := func(status uint16, tag string, v any) {
		data, err := json.Marshal(v)
		check(f, err)
		f.Add(status, tag, data)
	}
	add(200, `"7"`, StatusAnswer{Status: access.Status{ID: testID, State: access.StateActive}})
	add(200, "", StatusAnswer{Status: access.Status{ID: testID, State: access.StateActive}, Error: access.Errorf(access.CodeEnded, "terminated")})
	add(200, "", StatusAnswer{Status: access.Status{ID: "another"}, Error: &access.Error{}})
	add(200, "", LockAnswer{Error: &access.Error{Code: "x"}})
	add(201, "", Submitted{ID: testID})
	add(200, "", access.ReviewTask{Request: testID})
	add(200, "", access.Delegated{Delegation: access.Delegation{Header: access.Header{ID: testID}}})
	add(200, "", []Summary{{ID: testID}})
	add(401, "", access.Errorf(access.CodeStale, "clocks"))
	add(403, "", access.Errorf(access.CodeForbidden, "not \x1b[2Jyou\u202e").WithHint("bob may"))
	add(403, "", access.Errorf(access.CodeForbidden, "%s", strings.Repeat("long ", 10_000)))
	f.Add(uint16(304), `"7"`, []byte(nil))
	f.Add(uint16(429), "1000000000", []byte("{}"))
	f.Add(uint16(502), "", []byte("<html>"))
	f.Add(uint16(200), "", ca.pem())
	f.Add(uint16(200), "", append(ca.pem(), ca.pem()...))
	now := time.Now()
	h := dial(f, "https://127.0.0.1:1", ca.pem(), func() time.Time { return now }, &signed)
	f.Fuzz(func(t *testing.T, status uint16, tag string, body []byte) {
		w := &wire{status: 100 + int(status)%900, header: http.Header{"Etag": {tag}, "Retry-After": {tag}}, body: body}
		h.http.Transport = w
		clear(h.seen)
		ctx := t.Context()
		if w.status == http.StatusTooManyRequests { // it would be waited for
			var cancel context.CancelFunc
			ctx, cancel = context.WithCancel(ctx)
			cancel()
		}
		st := access.Statement{Payload: "p", Signature: "s"}
		about := func(id string, err error) error {
			if err == nil && id != testID {
				t.Errorf("asked about %s, and %q is the answer", testID, id)
			}
			return err
		}
		for name, call := range map[string]func() error{
			"hello":  func() error { return h.Hello(ctx) },
			"status": func() error { s, err := h.Status(ctx, testID); return about(s.ID, err) },
			"next": func() error {
				for range 2 { // the second one knows what the first was told
					if s, err := h.Next(ctx, testID, time.Second); err != nil {
						return about(s.ID, err)
					}
				}
				return nil
			},
			"submit": func() error {
				return h.Submit(ctx, access.Submission{Request: st}, access.Request{Header: access.Header{ID: testID}})
			},
			"send":   func() error { s, err := h.Send(ctx, testID, "decision", "", st); return about(s.ID, err) },
			"list":   func() error { _, err := h.List(ctx, Filter{}); return err },
			"lock":   func() error { _, err := h.Lock(ctx, st, access.Lock{}); return err },
			"locks":  func() error { _, err := h.Locks(ctx); return err },
			"review": func() error { r, err := h.Review(ctx, testID, "", st); return about(r.Request, err) },
			"reviews": func() error {
				_, err := h.Reviews(ctx)
				return err
			},
			"delegate": func() error {
				d, err := h.Delegate(ctx, st, access.Delegation{Header: access.Header{ID: testID}})
				return about(d.Delegation.ID, err)
			},
			"delegations": func() error { _, err := h.Delegations(ctx); return err },
			"me":          func() error { _, err := h.Me(ctx); return err },
		} {
			err := call()
			if err == nil || errors.Is(err, context.Canceled) {
				continue
			}
			var e *access.Error
			if !errors.As(err, &e) || e.Code == "" || e.Message == "" || len(e.Message)+len(e.Hint) > maxTold {
				t.Errorf("%s: %q", name, err)
			}
		}
		certificate, err := ParseCA(body)
		if err != nil {
			if access.CodeOf(err) != access.CodeMalformed || access.CheckText("error", err.Error(), 1000) != nil {
				t.Errorf("%q", err)
			}
			return
		}
		again, err := ParseCA(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate.Raw}))
		if err != nil || !again.Equal(certificate) || !again.IsCA {
			t.Errorf("written again it is %v (%v)", again, err)
		}
	})
}
