package audit

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"hallpass/access"
)

// shelf is an HTTP place: GET and PUT of one thing, with tags and a password.
type shelf struct {
	mu     sync.Mutex
	data   []byte
	puts   int
	before func() // is called before the next PUT is looked at
	status int    // to answer with, 0 for what is right
	weak   bool   // shows weak tags, for which no condition holds
}

func (s *shelf) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodPut && s.before != nil {
		before := s.before
		s.before = nil
		before()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	tag, shown := fmt.Sprintf(`"%d"`, s.puts), fmt.Sprintf(`"%d"`, s.puts)
	if r.Header.Get("Accept-Encoding") != "identity" { // as a web server that compresses
		shown = fmt.Sprintf(`"%d-gzip"`, s.puts)
	} else if s.weak {
		shown = "W/" + tag
	}
	switch {
	case s.status != 0:
		w.WriteHeader(s.status)
	case r.Header.Get("Authorization") != "Bearer t0ken":
		w.WriteHeader(http.StatusUnauthorized)
	case r.Method == http.MethodGet && s.data == nil:
		w.WriteHeader(http.StatusNotFound)
	case r.Method == http.MethodGet:
		w.Header().Set("ETag", shown)
		_, _ = w.Write(s.data)
	case r.Header.Get("If-Match") != "" && r.Header.Get("If-Match") != tag, r.Header.Get("If-None-Match") == "*" && s.data != nil:
		w.WriteHeader(http.StatusPreconditionFailed)
	default:
		s.data, _ = io.ReadAll(r.Body)
		s.puts++
		w.WriteHeader(http.StatusCreated)
	}
}

func TestPublish(t *testing.T) {
	ctx := context.Background()
	s := &shelf{}
	server := httptest.NewServer(s)
	defer server.Close()
	file := filepath.Join(t.TempDir(), "checkpoint")
	for _, place := range []Place{{Name: file}, {Name: server.URL + "/checkpoint", Authorization: "Bearer t0ken"}} {
		published := func() []byte {
			data := s.data
			if place.Name == file {
				var err error
				if data, err = os.ReadFile(file); err != nil {
					t.Fatal(err)
				}
			}
			return data
		}
		l, _, public := newLog(t)
		for n := range int64(4) {
			for range 2 { // the second time there is nothing to do
				if size, err := l.Publish(ctx, place); err != nil || size != n {
					t.Fatalf("%s: size %d, %v; want %d", place.Name, size, err, n)
				}
				if c, err := OpenCheckpoint(published(), public); err != nil || c.Size != n {
					t.Errorf("%s has %+v, %v", place.Name, c, err)
				}
			}
			if _, err := l.Append(ctx, newer(1, int(n))); err != nil {
				t.Fatal(err)
			}
		}
		// Another log's is left alone.
		other, _, _ := newLog(t)
		before := string(published())
		if _, err := other.Publish(ctx, place); access.CodeOf(err) != access.CodeUnverified || !strings.Contains(err.Error(), "is not a checkpoint of this log") {
			t.Errorf("another log: %v", err)
		}
		if string(published()) != before {
			t.Error("another log's checkpoint was replaced")
		}
	}
	if s.puts != 4 {
		t.Errorf("%d PUTs, want 4", s.puts)
	}
	if left, err := filepath.Glob(filepath.Dir(file) + "/.*"); err != nil || len(left) != 0 {
		t.Errorf("left are %q, %v", left, err)
	}
}

// No condition holds for a weak tag, so none is made of one.
func TestPublishByWeakTags(t *testing.T) {
	s := &shelf{weak: true}
	server := httptest.NewServer(s)
	defer server.Close()
	l, _, _ := newLog(t)
	for n := range int64(3) {
		if size, err := l.Publish(t.Context(), Place{Name: server.URL, Authorization: "Bearer t0ken"}); err != nil || size != n {
			t.Fatalf("size %d, %v; want %d", size, err, n)
		}
		if _, err := l.Append(t.Context(), newer(1, int(n))); err != nil {
			t.Fatal(err)
		}
	}
}

// What is published shows that a log was cut off or forked, at once.
func TestPublishFindsARewrittenLog(t *testing.T) {
	ctx := context.Background()
	place := Place{Name: filepath.Join(t.TempDir(), "checkpoint")}
	private, _ := testKey(t)
	l := openLog(t, newDatabase(t), private)
	for i := range 3 {
		if _, err := l.Append(ctx, newer(1, i)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := l.Publish(ctx, place); err != nil {
		t.Fatal(err)
	}
	forged := openLog(t, newDatabase(t), private)
	for i := range 4 {
		if _, err := forged.Publish(ctx, place); access.CodeOf(err) != access.CodeUnverified || i < 3 && !strings.Contains(err.Error(), fmt.Sprintf("a checkpoint of 3 events is published at %s, the log has %d", place.Name, i)) ||
			i == 3 && !strings.Contains(err.Error(), "its first 3 events are not those") {
			t.Errorf("%d events: %v", i, err)
		}
		if _, err := forged.Append(ctx, newer(2, i)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := forged.Publish(ctx, place); access.CodeOf(err) != access.CodeUnverified {
		t.Errorf("4 events: %v", err)
	}
}

func TestPublishFails(t *testing.T) {
	ctx := context.Background()
	l, _, _ := newLog(t)
	s := &shelf{}
	server := httptest.NewServer(s)
	defer server.Close()
	good := Place{Name: server.URL, Authorization: "Bearer t0ken"}
	for _, row := range []struct {
		name  string
		place Place
		data  string // what is there, or the status of all answers
		code  access.Code
		want  string
	}{
		{"wrong token", Place{Name: server.URL, Authorization: "Bearer s3cr3t"}, "", access.CodeUnavailable, "401 Unauthorized"},
		{"not now", good, "503", access.CodeUnavailable, "503 Service Unavailable"},
		{"elsewhere", good, "302", access.CodeUnavailable, "302 Found"},
		{"rubbish", good, "hello", access.CodeUnverified, "is not a checkpoint of this log"},
		{"nobody there", Place{Name: "http://127.0.0.1:1/x", Authorization: "Bearer s3cr3t"}, "", access.CodeUnavailable, "connection refused"},
		{"password in the address", Place{Name: "https://alice:s3cr3t@example.com/x"}, "", access.CodeMalformed, "has a user or password in it"},
		{"no address", Place{Name: "https://"}, "", access.CodeMalformed, "is not of the form https://host/path"},
		{"no folder", Place{Name: filepath.Join(t.TempDir(), "no", "checkpoint")}, "", "", "no such file or directory"},
	} {
		s.data, s.status = nil, 0
		if n, err := strconv.Atoi(row.data); err == nil {
			s.status = n
		} else if row.data != "" {
			s.data = []byte(row.data)
		}
		_, err := l.Publish(ctx, row.place)
		if err == nil || access.CodeOf(err) != row.code || !strings.Contains(err.Error(), row.want) || strings.Contains(err.Error(), "s3cr3t") {
			t.Errorf("%s: %v, want %s %q", row.name, err, row.code, row.want)
		}
	}
	// Who comes second doesn't replace a later one, nor one where there was none.
	s.data, s.status = nil, 0
	s.before = func() {
		if size, err := l.Publish(ctx, good); err != nil || size != 0 {
			t.Errorf("size %d, %v", size, err)
		}
	}
	if _, err := l.Publish(ctx, good); access.CodeOf(err) != access.CodeUnavailable || !strings.Contains(err.Error(), "412") {
		t.Errorf("second where there was none: %v", err)
	}
	if _, err := l.Append(ctx, newer(1, 1)); err != nil {
		t.Fatal(err)
	}
	s.before = func() {
		if _, err := l.Append(ctx, newer(1, 2)); err != nil {
			t.Error(err)
		}
		if size, err := l.Publish(ctx, good); err != nil || size != 2 {
			t.Errorf("size %d, %v", size, err)
		}
	}
	if _, err := l.Publish(ctx, good); access.CodeOf(err) != access.CodeUnavailable || !strings.Contains(err.Error(), "412") {
		t.Errorf("second: %v", err)
	}
	if size, err := l.Publish(ctx, good); err != nil || size != 2 {
		t.Errorf("afterwards: size %d, %v", size, err)
	}
}
