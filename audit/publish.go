package audit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"hallpass/access"
	"hallpass/internal/wording"
)

// Place is where the latest checkpoint is published, for those who keep it or
// cosign it. Whoever holds an old one finds out when the log is rewritten, so
// it should be out of reach of whoever can change the database.
type Place struct {
	// Name is a file, an http(s) address that is read with GET and written with
	// PUT, or an object in S3 or what is compatible with it:
	// "s3://BUCKET/KEY?region=REGION", for others than Amazon's with
	// "&endpoint=https://HOST".
	Name string

	// Authorization is the header to send to an http(s) address, "" for none; for
	// S3 it is "ID SECRET", or "ID SECRET TOKEN" where the key is a temporary one.
	Authorization string
}

// publishTimeout is how long an HTTP place may take to answer.
const publishTimeout = 30 * time.Second

// CheckPlace says what is wrong with the name of a place, if anything. What is
// secret is not in the error.
func CheckPlace(name string) error {
	if isS3(name) {
		_, err := parseS3(name)
		return err
	}
	if !isHTTP(name) {
		return nil
	}
	u, err := url.Parse(name)
	if err != nil || u.Host == "" {
		return access.Errorf(access.CodeMalformed, "the place for checkpoints is not of the form https://host/path")
	}
	if u.User != nil {
		return access.Errorf(access.CodeMalformed, "the place for checkpoints has a user or password in it, which would be shown; leave it out").
			WithHint("put \"Basic …\" or \"Bearer …\" into the file audit.publish_authorization")
	}
	return nil
}

// checkSecrecy refuses to send a secret, or ask for a signature, where others
// can listen.
func checkSecrecy(u *url.URL) error {
	if u.Scheme == "https" {
		return nil
	}
	if ip, err := netip.ParseAddr(u.Hostname()); u.Hostname() == "localhost" || err == nil && ip.IsLoopback() {
		return nil
	}
	return access.Errorf(access.CodeMalformed, "the place for checkpoints is reached without TLS, and audit.publish_authorization would be shown on the way; use https")
}

func isHTTP(name string) bool {
	return strings.HasPrefix(name, "https:") || strings.HasPrefix(name, "http:")
}

// Publish puts the log's latest checkpoint into a place, unless it is there
// already or a later one is, and returns the size of the one that is there
// then. What is there has to be a checkpoint of this log, and the log has to go
// on from it.
//
// Errors: CodeUnverified if it doesn't: somebody has rewritten the log or cut it
// off, or what is published is another log's; nothing is published then.
// CodeUnavailable, worth another try, if the place doesn't answer or another
// process was quicker.
func (r *Reader) Publish(ctx context.Context, p Place) (size int64, err error) {
	if err := CheckPlace(p.Name); err != nil {
		return 0, err
	}
	old, tag, err := p.get(ctx)
	if err != nil {
		return 0, err
	}
	// Read after what is published, so that the log can't be behind it.
	conn, end, err := r.snapshot(ctx)
	if err != nil {
		return 0, err
	}
	defer end()
	tree, msg, err := loadTree(ctx, r.db, conn, r.open)
	if err != nil {
		return 0, err
	}
	if old != nil {
		was, err := r.open(old)
		if err != nil {
			return 0, access.Errorf(access.CodeUnverified, "what is published at %s is not a checkpoint of this log: %v", p.Name, err)
		}
		if was.Size > tree.size {
			return was.Size, broken("a checkpoint of %d events is published at %s, the log has %d", was.Size, p.Name, tree.size)
		}
		root, err := tlog.TreeHash(was.Size, hashReader(ctx, conn))
		if err != nil {
			return 0, fmt.Errorf("read audit log: %w", err)
		}
		if was.Size == 0 {
			root = was.Root
		}
		if root != was.Root {
			return was.Size, broken("its first %d events are not those that the checkpoint published at %s was signed for", was.Size, p.Name)
		}
		if was.Size == tree.size {
			return was.Size, nil
		}
	}
	return tree.size, p.put(ctx, msg, old != nil, tag)
}

// get reads what is published, nil if nothing is. The tag is for put.
func (p Place) get(ctx context.Context) (msg []byte, tag string, err error) {
	if !isHTTP(p.Name) && !isS3(p.Name) {
		msg, err := os.ReadFile(p.Name)
		if errors.Is(err, os.ErrNotExist) {
			return nil, "", nil
		} else if err != nil {
			return nil, "", fmt.Errorf("read published checkpoint: %w", err)
		}
		return msg, "", nil
	}
	answer, msg, err := p.http(ctx, http.MethodGet, nil, nil)
	switch {
	case err != nil:
		return nil, "", err
	case answer.StatusCode == http.StatusNotFound:
		return nil, "", nil
	case answer.StatusCode != http.StatusOK:
		return nil, "", access.Errorf(access.CodeUnavailable, "read published checkpoint: %s answers %s%s", p.Name, answer.Status, reasonS3(p.Name, msg))
	}
	if tag = answer.Header.Get("ETag"); strings.HasPrefix(tag, "W/") {
		tag = "" // no condition holds for a weak one (RFC 9110, section 13.1.1)
	}
	if tag == "" && isS3(p.Name) {
		return nil, "", access.Errorf(access.CodeUnavailable, "read published checkpoint: %s has no ETag in its answer", p.Name)
	}
	return msg, tag, nil
}

// put publishes a checkpoint in the place of what get has found. S3, and an HTTP
// place that keeps to conditions (RFC 9110, section 13), refuse it if another
// process has published one since then; elsewhere a slow process may put an older
// one in the place of a later one, until the next is published.
func (p Place) put(ctx context.Context, msg []byte, there bool, tag string) error {
	if !isHTTP(p.Name) && !isS3(p.Name) {
		return writeWhole(p.Name, msg)
	}
	header := http.Header{"Content-Type": {"text/plain; charset=utf-8"}}
	switch {
	case !there:
		header.Set("If-None-Match", "*")
	case tag != "":
		header.Set("If-Match", tag)
	}
	answer, said, err := p.http(ctx, http.MethodPut, msg, header)
	if err != nil {
		return err
	}
	if answer.StatusCode < 200 || answer.StatusCode > 299 {
		return access.Errorf(access.CodeUnavailable, "publish checkpoint: %s answers %s%s", p.Name, answer.Status, reasonS3(p.Name, said))
	}
	return nil
}

func (p Place) http(ctx context.Context, method string, body []byte, header http.Header) (*http.Response, []byte, error) {
	ctx, cancel := context.WithTimeout(ctx, publishTimeout)
	defer cancel()
	address := p.Name
	var object s3
	if isS3(p.Name) {
		var err error
		if object, err = parseS3(p.Name); err != nil {
			return nil, nil, err
		}
		address = object.url
	}
	request, err := http.NewRequestWithContext(ctx, method, address, bytes.NewReader(body))
	if err != nil {
		return nil, nil, fmt.Errorf("publish checkpoint: %w", err)
	}
	maps.Copy(request.Header, header)
	if p.Authorization != "" || object.url != "" {
		if err := checkSecrecy(request.URL); err != nil {
			return nil, nil, err
		}
	}
	if object.url != "" {
		key, err := parseS3Key(p.Authorization)
		if err != nil {
			return nil, nil, err
		}
		key.sign(request, body, object.region, time.Now())
	} else if p.Authorization != "" {
		request.Header.Set("Authorization", p.Authorization)
	}
	// A compressed answer has another ETag, or a weak one. It isn't signed: stores
	// and proxies change it.
	request.Header.Set("Accept-Encoding", "identity")
	// No redirects: they would take the header along, or turn a PUT into a GET.
	client := http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	answer, err := client.Do(request)
	if err != nil {
		return nil, nil, access.Errorf(access.CodeUnavailable, "publish checkpoint: %s", wording.Line(err.Error()))
	}
	defer func() { _ = answer.Body.Close() }()
	data, err := io.ReadAll(io.LimitReader(answer.Body, maxCheckpoint+1))
	if err != nil {
		return nil, nil, access.Errorf(access.CodeUnavailable, "publish checkpoint: %s", wording.Line(err.Error()))
	}
	return answer, data, nil
}

// writeWhole replaces a file at once: whoever reads it finds the old one or the
// new one.
func writeWhole(path string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return fmt.Errorf("publish checkpoint: %w", err)
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Chmod(0o644), f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("publish checkpoint: %w", errors.Join(err, os.Remove(f.Name())))
	}
	return syncDir(filepath.Dir(path))
}
