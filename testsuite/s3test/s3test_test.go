package s3test

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/xml"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"hallpass/access"
	"hallpass/audit"
)

// log is one with events to publish.
type log struct {
	*audit.Log
	t      *testing.T
	public string
	n      int
}

func newLog(t *testing.T) *log {
	t.Helper()
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	public, err := audit.CreateKey(at("key"), at("pub"), "audit.example.com")
	if err != nil {
		t.Fatal(err)
	}
	key, err := audit.ReadKey(at("key"))
	if err != nil {
		t.Fatal(err)
	}
	l, err := audit.Open(t.Context(), audit.Options{Database: at("audit.db"), Key: key})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return &log{Log: l, t: t, public: public}
}

func (l *log) grow() {
	l.t.Helper()
	l.n++
	if _, err := l.Append(l.t.Context(), audit.Event{Type: audit.RulebookBroken, Why: fmt.Sprint(l.n)}); err != nil {
		l.t.Fatal(err)
	}
}

// size is that of a checkpoint of this log.
func (l *log) size(msg string) int64 {
	l.t.Helper()
	c, err := audit.OpenCheckpoint([]byte(msg), l.public)
	if err != nil {
		l.t.Fatalf("%v: %q", err, msg)
	}
	return c.Size
}

// versions are those of an object, the oldest first.
func (s *Server) versions(t *testing.T, bucket string) (all []string) {
	t.Helper()
	status, answer := s.Do(t, s.Root, http.MethodGet, "/"+bucket+"?versions=", "")
	var list struct {
		Version []struct{ Key, VersionId string }
	}
	if err := xml.Unmarshal([]byte(answer), &list); status != http.StatusOK || err != nil {
		t.Fatalf("versions: %d, %v, %s", status, err, answer)
	}
	for _, v := range list.Version {
		status, answer := s.Do(t, s.Root, http.MethodGet, "/"+bucket+"/"+v.Key+"?versionId="+v.VersionId, "")
		if status != http.StatusOK {
			t.Fatalf("version %s: %d %s", v.VersionId, status, answer)
		}
		all = append([]string{answer}, all...)
	}
	return all
}

// Checkpoints are published by somebody who may do no more than docs/operate.md
// says, each is kept, and a witness who reads them there has what shows that the log
// was rewritten.
func TestPublish(t *testing.T) {
	s, l := Start(t), newLog(t)
	s.Bucket(t, "checkpoints")
	place := audit.Place{Name: s.Place("checkpoints", "a/hallpass"), Authorization: s.User.String()}
	for n := range int64(3) {
		for range 2 { // the second time there is nothing to do
			if size, err := l.Publish(t.Context(), place); err != nil || size != n {
				t.Fatalf("size %d, %v; want %d", size, err, n)
			}
		}
		status, there := s.Do(t, s.User, http.MethodGet, "/checkpoints/a/hallpass", "")
		if status != http.StatusOK || l.size(there) != n {
			t.Errorf("%d events: %d %s", n, status, there)
		}
		l.grow()
	}
	if kept := s.versions(t, "checkpoints"); len(kept) != 3 || l.size(kept[0]) != 0 || l.size(kept[1]) != 1 || l.size(kept[2]) != 2 {
		t.Errorf("kept are %q", kept)
	}
	if status, answer := s.Do(t, s.User, http.MethodDelete, "/checkpoints/a/hallpass", ""); status != http.StatusForbidden {
		t.Errorf("who publishes can delete: %d %s", status, answer)
	}

	// A witness cosigns what it reads there, and puts it back. Publishing goes on
	// from that.
	_, there := s.Do(t, s.User, http.MethodGet, "/checkpoints/a/hallpass", "")
	cosigned, witness := cosign(t, there)
	if status, answer := s.Do(t, s.Root, http.MethodPut, "/checkpoints/a/hallpass", cosigned); status != http.StatusOK {
		t.Fatalf("PUT: %d %s", status, answer)
	}
	_, there = s.Do(t, s.User, http.MethodGet, "/checkpoints/a/hallpass", "")
	verify := audit.VerifyOptions{Since: []byte(there), Witnesses: []string{witness}}
	if report, err := l.Verify(t.Context(), verify); err != nil || !report.OK {
		t.Errorf("verify: %v %v", err, report.Problems)
	}
	if size, err := l.Publish(t.Context(), place); err != nil || size != 3 {
		t.Errorf("size %d, %v; want 3", size, err)
	}

	// Another log isn't what was published, and changes nothing.
	other := newLog(t)
	if _, err := other.Publish(t.Context(), place); access.CodeOf(err) != access.CodeUnverified {
		t.Errorf("another log: %v", err)
	}
	if _, err := other.Verify(t.Context(), verify); access.CodeOf(err) != access.CodeUnverified {
		t.Errorf("another log verifies: %v", err)
	}
	if kept := s.versions(t, "checkpoints"); l.size(kept[len(kept)-1]) != 3 {
		t.Errorf("kept are %q", kept)
	}
}

// cosign adds a witness's signature as C2SP tlog-cosignature has it, and says by
// which key that is checked.
func cosign(t *testing.T, msg string) (cosigned, key string) {
	t.Helper()
	const name, at = "witness.example.com/w", 1_700_000_000
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	wire := append([]byte{4}, public...)
	id := sha256.Sum256(append([]byte(name+"\n"), wire...))
	text, _, _ := strings.Cut(msg, "\n\n")
	signature := append(binary.BigEndian.AppendUint64(id[:4:4], at), ed25519.Sign(private, fmt.Appendf(nil, "cosignature/v1\ntime %d\n%s\n", at, text))...)
	return fmt.Sprintf("%s— %s %s\n", msg, name, base64.StdEncoding.EncodeToString(signature)),
		fmt.Sprintf("%s+%x+%s", name, id[:4], base64.StdEncoding.EncodeToString(wire))
}

// Of many that publish at the same time, none puts an older checkpoint in the place
// of a later one.
func TestPublishAtTheSameTime(t *testing.T) {
	s, l := Start(t), newLog(t)
	s.Bucket(t, "checkpoints")
	place := audit.Place{Name: s.Place("checkpoints", "hallpass"), Authorization: s.User.String()}
	if _, err := l.Publish(t.Context(), place); err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	grown := make(chan struct{})
	for range 4 {
		all.Go(func() {
			for ended := false; !ended; {
				select {
				case <-grown:
					ended = true // after this time
				default:
				}
				if _, err := l.Publish(t.Context(), place); err != nil && (access.CodeOf(err) != access.CodeUnavailable || !strings.Contains(err.Error(), "412 Precondition Failed: PreconditionFailed")) {
					t.Error(err)
				}
			}
		})
	}
	for range 20 {
		l.grow()
	}
	close(grown)
	all.Wait()
	kept, last := s.versions(t, "checkpoints"), int64(-1)
	for i, msg := range kept {
		size := l.size(msg)
		if size <= last {
			t.Errorf("version %d has %d events, the one before it %d", i, size, last)
		}
		last = size
	}
	if last != 20 {
		t.Errorf("the latest has %d events", last)
	}
}

// What the store refuses is said in one line, with nothing secret in it, and
// nothing is published.
func TestPublishFails(t *testing.T) {
	s, l := Start(t), newLog(t)
	s.Bucket(t, "checkpoints")
	if status, answer := s.Do(t, s.Root, http.MethodPut, "/others", ""); status != http.StatusOK {
		t.Fatalf("PUT: %d %s", status, answer)
	}
	good := s.Place("checkpoints", "hallpass")
	region := func(is string) string { return strings.Replace(good, Region, is, 1) }
	for _, row := range []struct {
		name, place string
		key         string
		want        string
	}{
		{"wrong secret", good, Key{s.User.ID, s.Root.Secret}.String(), "403 Forbidden: SignatureDoesNotMatch"},
		{"unknown key", good, Key{"AKID", s.User.Secret}.String(), "403 Forbidden: InvalidAccessKeyId"},
		{"a token that isn't one", good, s.User.String() + " s3cr3t", "400 Bad Request: InvalidToken"},
		{"another region", region("eu-test-2"), s.User.String(), "400 Bad Request: AuthorizationHeaderMalformed; is its region right?"},
		{"no such bucket", s.Place("nowhere", "hallpass"), s.User.String(), "404 Not Found: NoSuchBucket"},
		{"another's bucket", s.Place("others", "hallpass"), s.User.String(), "403 Forbidden: AccessDenied"},
	} {
		_, err := l.Publish(t.Context(), audit.Place{Name: row.place, Authorization: row.key})
		if access.CodeOf(err) != access.CodeUnavailable || !strings.Contains(err.Error(), row.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v, want %q", row.name, err, row.want)
		}
		for _, secret := range append(strings.Fields(row.key)[1:], s.User.Secret) {
			if err != nil && strings.Contains(err.Error(), secret) {
				t.Errorf("%s: the secret is in %v", row.name, err)
			}
		}
	}
	if kept := s.versions(t, "checkpoints"); len(kept) != 0 {
		t.Errorf("published were %q", kept)
	}
}
