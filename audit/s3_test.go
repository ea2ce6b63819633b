package audit

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"hallpass/access"
)

// The examples of Amazon's documentation ("Signature Calculations for the
// Authorization Header", S3 API reference).
func TestSignS3(t *testing.T) {
	key := s3Key{"AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", ""}
	at := time.Date(2013, 5, 24, 0, 0, 0, 0, time.UTC)
	for _, row := range []struct {
		name, method, path, body string
		header                   map[string]string
		signed, signature        string
	}{
		{"get an object", "GET", "/test.txt", "", map[string]string{"Range": "bytes=0-9"},
			"host;range;x-amz-content-sha256;x-amz-date", "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"},
		{"put an object", "PUT", "/test%24file.text", "Welcome to Amazon S3.", map[string]string{"Date": "Fri, 24 May 2013 00:00:00 GMT", "X-Amz-Storage-Class": "REDUCED_REDUNDANCY"},
			"date;host;x-amz-content-sha256;x-amz-date;x-amz-storage-class", "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd"},
		{"a query without a value", "GET", "/?lifecycle", "", nil,
			"host;x-amz-content-sha256;x-amz-date", "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543"},
		{"a query", "GET", "/?max-keys=2&prefix=J", "", nil,
			"host;x-amz-content-sha256;x-amz-date", "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7"},
	} {
		r := httptest.NewRequest(row.method, "https://examplebucket.s3.amazonaws.com"+row.path, strings.NewReader(row.body))
		for name, value := range row.header {
			r.Header.Set(name, value)
		}
		key.sign(r, []byte(row.body), "us-east-1", at)
		want := "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request,SignedHeaders=" + row.signed + ",Signature=" + row.signature
		if got := r.Header.Get("Authorization"); got != want {
			t.Errorf("%s:\n%s, want\n%s", row.name, got, want)
		}
	}
}

func TestParseS3(t *testing.T) {
	for name, want := range map[string]string{
		"s3://checkpoints/hallpass?region=eu-central-1":                                   "https://checkpoints.s3.eu-central-1.amazonaws.com/hallpass",
		"s3://check.points/a/b-1_2.txt?region=eu-central-1":                               "https://s3.eu-central-1.amazonaws.com/check.points/a/b-1_2.txt",
		"s3://checkpoints/hallpass?region=us-east-1&endpoint=https://s3.example.com":      "https://s3.example.com/checkpoints/hallpass",
		"s3://checkpoints/hallpass?endpoint=http://127.0.0.1:9000&region=us-east-1":       "http://127.0.0.1:9000/checkpoints/hallpass",
		"s3://checkpoints/hallpass?endpoint=http%3A%2F%2F127.0.0.1:9000&region=us-east-1": "http://127.0.0.1:9000/checkpoints/hallpass",
	} {
		if got, err := parseS3(name); err != nil || got.url != want {
			t.Errorf("%s: %+v, %v, want %s", name, got, err, want)
		}
		if err := CheckPlace(name); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, want := range map[string]string{
		"s3:":                                                           "a bucket's name",
		"s3:checkpoints/hallpass":                                       "a bucket's name",
		"s3://Checkpoints/x?region=r":                                   "a bucket's name",
		"s3://ab/x?region=r":                                            "a bucket's name",
		"s3://checkpoints?region=r":                                     "a key has",
		"s3://checkpoints/?region=r":                                    "a key has",
		"s3://checkpoints/a/?region=r":                                  "a key has",
		"s3://checkpoints/../x?region=r":                                "a key has",
		"s3://checkpoints/%2e%2e?region=r":                              "a key has",
		"s3://checkpoints/a b?region=r":                                 "a key has",
		"s3://checkpoints/x":                                            "which region?",
		"s3://checkpoints/x?region=evil.example.com/":                   "which region?",
		"s3://checkpoints/x?region=r&region=s":                          "each once",
		"s3://checkpoints/x?region=r&acl=public":                        "nothing else",
		"s3://checkpoints/x?region=r#y":                                 "can't be read",
		"s3://checkpoints/x?%zz":                                        "can't be read",
		"s3://AKID:s3cr3t@checkpoints/x?region=r":                       "has a user or password",
		"s3://checkpoints/x?region=r&endpoint=https://AKID:s3cr3t@host": "the endpoint is not",
		"s3://checkpoints/x?region=r&endpoint=https://host/path":        "the endpoint is not",
		"s3://checkpoints/x?region=r&endpoint=file:///etc":              "the endpoint is not",
	} {
		err := CheckPlace(name)
		if access.CodeOf(err) != access.CodeMalformed || !strings.Contains(err.Error(), strings.TrimPrefix(want, "has a user or password")) || strings.Contains(err.Error(), "s3cr3t") {
			t.Errorf("%s: %v, want %q", name, err, want)
		}
	}
}

// bucket is a store that speaks S3: it verifies the signature of what has
// arrived, and keeps to conditions and to versions.
type bucket struct {
	t         *testing.T
	mu        sync.Mutex
	versions  [][]byte
	before    func() // is called before the next PUT is looked at
	token     string // that has to come along
	forgetful bool   // it gives no tags
}

const bucketSecret = "s3cr3t/with+signs="

func (b *bucket) refuse(w http.ResponseWriter, status int, code string) {
	w.WriteHeader(status)
	_, _ = fmt.Fprintf(w, `<?xml version="1.0" encoding="UTF-8"?><Error><Code>%s</Code><Message>no</Message></Error>`, code)
}

// verify calculates the signature from what is on the wire.
func (b *bucket) verify(r *http.Request, body []byte) error {
	rest, ok := strings.CutPrefix(r.Header.Get("Authorization"), "AWS4-HMAC-SHA256 ")
	fields := map[string]string{}
	for _, f := range strings.Split(rest, ",") {
		name, value, _ := strings.Cut(f, "=")
		fields[name] = value
	}
	scope := strings.Split(fields["Credential"], "/")
	if !ok || len(scope) != 5 || scope[0] != "AKID" || scope[2] != "eu-test-1" || scope[3] != "s3" || scope[4] != "aws4_request" {
		return fmt.Errorf("credential %q", r.Header.Get("Authorization"))
	}
	stamp := r.Header.Get("X-Amz-Date")
	if at, err := time.Parse("20060102T150405Z", stamp); err != nil || time.Since(at).Abs() > 15*time.Minute || scope[1] != stamp[:8] {
		return fmt.Errorf("date %q", stamp)
	}
	if sum := fmt.Sprintf("%x", sha256.Sum256(body)); r.Header.Get("X-Amz-Content-Sha256") != sum {
		return fmt.Errorf("the body has the sum %s", sum)
	}
	if r.Header.Get("X-Amz-Security-Token") != b.token {
		return fmt.Errorf("token %q", r.Header.Get("X-Amz-Security-Token"))
	}
	path, query, _ := strings.Cut(r.RequestURI, "?")
	canonical := r.Method + "\n" + path + "\n" + query + "\n"
	covered := map[string]bool{}
	if strings.Contains(fields["SignedHeaders"], "accept-encoding") {
		return fmt.Errorf("what proxies and stores change on the way is signed: %s", fields["SignedHeaders"])
	}
	for _, name := range strings.Split(fields["SignedHeaders"], ";") {
		covered[name] = true
		value := r.Header.Get(name)
		if name == "host" {
			value = r.Host
		}
		canonical += name + ":" + value + "\n"
	}
	// What decides what comes of the request has to be covered.
	for _, name := range []string{"Host", "X-Amz-Date", "X-Amz-Content-Sha256", "X-Amz-Security-Token", "If-Match", "If-None-Match"} {
		if !covered[strings.ToLower(name)] && (name == "Host" || r.Header.Get(name) != "") {
			return fmt.Errorf("%s is not signed", name)
		}
	}
	canonical += "\n" + fields["SignedHeaders"] + "\n" + r.Header.Get("X-Amz-Content-Sha256")
	code := func(key []byte, data string) []byte {
		h := hmac.New(sha256.New, key)
		_, _ = io.WriteString(h, data)
		return h.Sum(nil)
	}
	date := code([]byte("AWS4"+bucketSecret), scope[1])
	signing := code(code(code(date, "eu-test-1"), "s3"), "aws4_request")
	want := code(signing, fmt.Sprintf("AWS4-HMAC-SHA256\n%s\n%s\n%x", stamp, strings.Join(scope[1:], "/"), sha256.Sum256([]byte(canonical))))
	if got, err := hex.DecodeString(fields["Signature"]); err != nil || !hmac.Equal(got, want) {
		return fmt.Errorf("the signature is not that of\n%s", canonical)
	}
	return nil
}

func (b *bucket) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodPut && b.before != nil {
		before := b.before
		b.before = nil
		before()
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	body, err := io.ReadAll(r.Body)
	if err != nil {
		b.t.Error(err)
	}
	if err := b.verify(r, body); err != nil {
		b.t.Log(err)
		b.refuse(w, 403, "SignatureDoesNotMatch")
		return
	}
	n := len(b.versions)
	tag := fmt.Sprintf(`"%d"`, n)
	switch {
	case r.URL.Path != "/checkpoints/a/hallpass":
		b.refuse(w, 404, "NoSuchBucket")
	case r.Method == http.MethodGet && n == 0:
		b.refuse(w, 404, "NoSuchKey")
	case r.Method == http.MethodGet:
		if !b.forgetful {
			w.Header().Set("ETag", tag)
		}
		_, _ = w.Write(b.versions[n-1])
	case r.Header.Get("If-None-Match") == "*" && n > 0, r.Header.Get("If-Match") != "" && r.Header.Get("If-Match") != tag:
		b.refuse(w, 412, "PreconditionFailed")
	case r.Header.Get("If-None-Match") == "" && r.Header.Get("If-Match") == "":
		b.t.Error("a PUT without a condition")
	default:
		b.versions = append(b.versions, body)
	}
}

func (b *bucket) serve() (place Place) {
	server := httptest.NewServer(b)
	b.t.Cleanup(server.Close)
	return Place{Name: "s3://checkpoints/a/hallpass?region=eu-test-1&endpoint=" + server.URL, Authorization: "AKID " + bucketSecret}
}

func TestPublishToS3(t *testing.T) {
	ctx := context.Background()
	for _, token := range []string{"", "temporary=="} {
		b := &bucket{t: t, token: token}
		place := b.serve()
		if token != "" {
			place.Authorization += " " + token
		}
		l, _, public := newLog(t)
		for n := range int64(3) {
			for range 2 { // the second time there is nothing to do
				if size, err := l.Publish(ctx, place); err != nil || size != n {
					t.Fatalf("size %d, %v; want %d", size, err, n)
				}
			}
			if c, err := OpenCheckpoint(b.versions[len(b.versions)-1], public); err != nil || c.Size != n || len(b.versions) != int(n)+1 {
				t.Errorf("version %d is %+v, %v", len(b.versions), c, err)
			}
			if _, err := l.Append(ctx, newer(1, int(n))); err != nil {
				t.Fatal(err)
			}
		}
		other, _, _ := newLog(t)
		if _, err := other.Publish(ctx, place); access.CodeOf(err) != access.CodeUnverified || len(b.versions) != 3 {
			t.Errorf("another log: %v", err)
		}
	}
}

// Of two that publish at the same time, the one with the older checkpoint is
// refused, also where there was nothing before.
func TestPublishToS3AtTheSameTime(t *testing.T) {
	ctx := context.Background()
	b := &bucket{t: t}
	place := b.serve()
	l, _, public := newLog(t)
	for n := range int64(2) { // versions are there already
		more := func(i int) {
			if _, err := l.Append(ctx, newer(int(n), i)); err != nil {
				t.Error(err)
			}
		}
		more(1)
		b.before = func() {
			more(2)
			if size, err := l.Publish(ctx, place); err != nil || size != 2*n+2 {
				t.Errorf("the quick one: %d, %v", size, err)
			}
		}
		if _, err := l.Publish(ctx, place); access.CodeOf(err) != access.CodeUnavailable || !strings.Contains(err.Error(), "412 Precondition Failed: PreconditionFailed") {
			t.Errorf("the slow one: %v", err)
		}
		if c, err := OpenCheckpoint(b.versions[n], public); err != nil || c.Size != 2*n+2 || len(b.versions) != int(n)+1 {
			t.Errorf("version %d of %d is %+v, %v", n, len(b.versions), c, err)
		}
	}
}

func TestPublishToS3Fails(t *testing.T) {
	ctx := context.Background()
	b := &bucket{t: t}
	good := b.serve()
	l, _, _ := newLog(t)
	elsewhere := strings.Replace(good.Name, "/a/", "/b/", 1)
	for _, row := range []struct {
		name  string
		place Place
		code  access.Code
		want  string
	}{
		{"wrong secret", Place{good.Name, "AKID another-s3cr3t"}, access.CodeUnavailable, "403 Forbidden: SignatureDoesNotMatch"},
		{"wrong id", Place{good.Name, "AKIB " + bucketSecret}, access.CodeUnavailable, "SignatureDoesNotMatch"},
		{"a token too many", Place{good.Name, good.Authorization + " s3cr3t"}, access.CodeUnavailable, "SignatureDoesNotMatch"},
		{"another region", Place{strings.Replace(good.Name, "eu-test-1", "eu-test-2", 1), good.Authorization}, access.CodeUnavailable, "SignatureDoesNotMatch"},
		{"no such bucket", Place{elsewhere, good.Authorization}, access.CodeUnavailable, "404 Not Found: NoSuchBucket"},
		{"no key", Place{good.Name, ""}, access.CodeMalformed, "doesn't say \"ID SECRET\""},
		{"a header", Place{good.Name, "Bearer"}, access.CodeMalformed, "doesn't say \"ID SECRET\""},
		{"too many words", Place{good.Name, "a s3cr3t c d"}, access.CodeMalformed, "doesn't say \"ID SECRET\""},
		{"a control character", Place{good.Name, "a s3cr3t\x01"}, access.CodeMalformed, "that no key has"},
		{"in the clear", Place{"s3://checkpoints/x?region=r&endpoint=http://192.0.2.1", good.Authorization}, access.CodeMalformed, "without TLS"},
		{"a token in the clear", Place{"http://192.0.2.1/x", "Bearer s3cr3t"}, access.CodeMalformed, "without TLS"},
		{"nobody there", Place{"s3://checkpoints/x?region=r&endpoint=http://127.0.0.1:1", good.Authorization}, access.CodeUnavailable, "connection refused"},
	} {
		_, err := l.Publish(ctx, row.place)
		if access.CodeOf(err) != row.code || !strings.Contains(err.Error(), row.want) || strings.Contains(err.Error(), "s3cr3t") {
			t.Errorf("%s: %v, want %s %q", row.name, err, row.code, row.want)
		}
	}
	if len(b.versions) != 0 {
		t.Errorf("%d versions were published", len(b.versions))
	}
	if _, err := l.Publish(ctx, good); err != nil {
		t.Fatal(err)
	}
	b.forgetful = true // conditions can't be made any more: nothing is replaced
	if _, err := l.Append(ctx, newer(1, 0)); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Publish(ctx, good); access.CodeOf(err) != access.CodeUnavailable || !strings.Contains(err.Error(), "no ETag") || len(b.versions) != 1 {
		t.Errorf("without tags: %v", err)
	}
}
