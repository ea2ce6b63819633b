package service

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"time"

	"hallpass/access"
	"hallpass/evidence"
)

// A message that would be a thousand times as long unpacked costs what it has
// itself, whatever it says that it is, and whatever the way in: nothing is unpacked.
func TestPostsLikeBombs(t *testing.T) {
	const most = 4 << 20 // bytes of memory for one
	squeeze := func(data []byte) string {
		var out bytes.Buffer
		w, err := gzip.NewWriterLevel(&out, gzip.BestCompression)
		if err == nil {
			_, err = w.Write(data)
		}
		if err == nil {
			err = w.Close()
		}
		if err != nil {
			t.Fatal(err)
		}
		return out.String()
	}
	l := newLobby(t)
	l.handler = New(Options{
		Log: quiet, Rulebook: func() *evidence.Rulebook { return l.book }, Audience: here, Hosts: newWorld(t, "deploy").log,
		Requests: func() (Requests, error) { return l.hearing, nil }, Now: func() time.Time { return l.now },
	})
	req := access.Request{Header: l.header(access.TypeRequest, "bob"), Resource: "ssh/web-1", Duration: 60}
	good := `{"payload":"` + strings.Repeat("a", 16<<20) + `"}`
	one := squeeze([]byte(good))
	signed, err := json.Marshal(l.sign("bob", req))
	if err != nil {
		t.Fatal(err)
	}
	bodies := map[string]string{
		"16 MiB":                one,
		"1 GiB":                 strings.Repeat(one, 64),
		"16 MiB in a statement": `{"payload":"` + base64.StdEncoding.EncodeToString([]byte(one)) + `","signature":"x"}`,
		"a good statement":      squeeze(signed),
	}
	if len(one) > maxStatement {
		t.Fatalf("%d bytes are too long to get anywhere", len(one))
	}
	bob, posts := "Bearer "+l.read("bob", nil), 0
	for _, route := range (&server{}).routes() {
		method, path, _ := strings.Cut(route.pattern, " ")
		if method != http.MethodPost {
			continue
		}
		posts++
		path = strings.NewReplacer("{id}", req.ID, "{message}", access.MessageDecision).Replace(path)
		for name, body := range bodies {
			for _, headers := range [][]string{nil, {"Content-Encoding", "gzip"}, {"Content-Encoding", "deflate"}, {"Content-Type", "application/gzip"}} {
				var before, after runtime.MemStats
				runtime.ReadMemStats(&before)
				r := l.call(method, path, bob, body, headers...)
				runtime.ReadMemStats(&after)
				none := path == "/v1/extensions" && strings.TrimSpace(r.body) == `{"certificates":[]}` // it passes over what it doesn't know
				if (r.status < 400 || r.status >= 500 || r.code() == "") && !none {
					t.Errorf("%s, %s, %q: %d %s", path, name, headers, r.status, r.body)
				}
				// Beside what is there already, and is copied on the way.
				if took := after.TotalAlloc - before.TotalAlloc; took > most+4*uint64(len(body)) {
					t.Errorf("%s, %s, %q: it took %d bytes", path, name, headers, took)
				}
			}
		}
	}
	if posts == 0 || len(l.heard) > 0 {
		t.Errorf("of %d ways in, heard %q", posts, l.heard)
	}
}
