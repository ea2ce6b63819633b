package audit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"hallpass/access"
)

// Place is where the latest checkpoint is published, for those who keep it or
// cosign it. Whoever holds an old one finds out when the log is rewritten, so
// it should be out of reach of whoever can change the database.
type Place struct {
	Name          string // file, or http(s) address that is read with GET and written with PUT
	Authorization string // header to send with them; "" for none
}

// publishTimeout is how long an HTTP place may take to answer.
const publishTimeout = 30 * time.Second

// CheckPlace says what is wrong with the name of a place, if anything. What is
// secret is not in the error.
func CheckPlace(name string) error {
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
	return tree.size, p.put(ctx, msg, tag)
}

// get reads what is published, nil if nothing is. The tag is for put.
func (p Place) get(ctx context.Context) (msg []byte, tag string, err error) {
	if !isHTTP(p.Name) {
		msg, err := os.ReadFile(p.Name)
		if errors.Is(err, os.ErrNotExist) {
			return nil, "", nil
		} else if err != nil {
			return nil, "", fmt.Errorf("read published checkpoint: %w", err)
		}
		return msg, "", nil
	}
	answer, msg, err := p.http(ctx, http.MethodGet, nil, "")
	switch {
	case err != nil:
		return nil, "", err
	case answer.StatusCode == http.StatusNotFound:
		return nil, "", nil
	case answer.StatusCode != http.StatusOK:
		return nil, "", access.Errorf(access.CodeUnavailable, "read published checkpoint: %s answers %s", p.Name, answer.Status)
	}
	return msg, answer.Header.Get("ETag"), nil
}

// put publishes a checkpoint. An HTTP place that knows tags refuses it if another
// process has published one since get; elsewhere a slow process may put an
// older one in the place of a later one, until the next is published.
func (p Place) put(ctx context.Context, msg []byte, tag string) error {
	if !isHTTP(p.Name) {
		return writeWhole(p.Name, msg)
	}
	answer, _, err := p.http(ctx, http.MethodPut, msg, tag)
	if err != nil {
		return err
	}
	if answer.StatusCode < 200 || answer.StatusCode > 299 {
		return access.Errorf(access.CodeUnavailable, "publish checkpoint: %s answers %s", p.Name, answer.Status)
	}
	return nil
}

func (p Place) http(ctx context.Context, method string, body []byte, tag string) (*http.Response, []byte, error) {
	ctx, cancel := context.WithTimeout(ctx, publishTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, method, p.Name, bytes.NewReader(body))
	if err != nil {
		return nil, nil, fmt.Errorf("publish checkpoint: %w", err)
	}
	if p.Authorization != "" {
		request.Header.Set("Authorization", p.Authorization)
	}
	if method == http.MethodPut {
		request.Header.Set("Content-Type", "text/plain; charset=utf-8")
		if tag != "" {
			request.Header.Set("If-Match", tag)
		}
	}
	// No redirects: they would take the header along, or turn a PUT into a GET.
	client := http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	answer, err := client.Do(request)
	if err != nil {
		return nil, nil, access.Errorf(access.CodeUnavailable, "publish checkpoint: %s", oneLine(err))
	}
	defer func() { _ = answer.Body.Close() }()
	data, err := io.ReadAll(io.LimitReader(answer.Body, maxCheckpoint+1))
	if err != nil {
		return nil, nil, access.Errorf(access.CodeUnavailable, "publish checkpoint: %s", oneLine(err))
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
