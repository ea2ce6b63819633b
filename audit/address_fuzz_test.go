package audit

import (
	"net/url"
	"strings"
	"testing"

	"hallpass/access"
)

// FuzzDatabaseAddress: an address of PostgreSQL that is taken has no password in it,
// its connection is encrypted and goes to whom it should unless it stays on the machine or the
// address says otherwise, and what is shown of it, in errors too, is a line without
// what stands in its query.
func FuzzDatabaseAddress(f *testing.F) {
	for _, variable := range []string{"PGHOST", "PGSSLMODE", "PGSERVICE", "PGSERVICEFILE", "PGPASSFILE", "PGPASSWORD", "PGUSER", "PGDATABASE", "PGPORT", "PGSSLROOTCERT", "PGSSLCERT", "PGSSLKEY"} {
		f.Setenv(variable, "")
	}
	f.Setenv("HOME", f.TempDir())
	f.Add("postgres://hallpass@db.example.com/audit")
	f.Add("postgres://localhost/audit?host=db.example.com")
	f.Fuzz(func(t *testing.T, address string) {
		address = "postgres://" + address
		// What names files is read, and that of this machine's is nobody's here.
		if low := strings.ToLower(address); strings.Contains(low, "file") || strings.Contains(low, "cert") || strings.Contains(low, "key") || strings.Contains(low, "service") || strings.Contains(low, "%") {
			return
		}
		p, err := newPostgres(address)
		if err != nil {
			if access.CodeOf(err) != access.CodeMalformed || access.CheckText("error", err.Error(), 2000) != nil {
				t.Errorf("%q is refused without a code, or not in one line: %q", address, err)
			}
			return
		}
		u, err := url.Parse(address)
		if err != nil {
			t.Fatalf("%q is taken: %v", address, err)
		}
		if _, password := u.User.Password(); password || strings.Contains(strings.ToLower(u.RawQuery), "password=") {
			t.Errorf("%q is taken with a password in it", address)
		}
		if strings.Contains(p.String(), "?") && u.RawQuery != "" && strings.Contains(p.String(), u.RawQuery) {
			t.Errorf("of %q is shown %q", address, p)
		}
		config, err := p.config()
		if err != nil {
			t.Fatalf("%q was taken before: %v", address, err)
		}
		if !u.Query().Has("sslmode") && !local(config.Host) && (config.TLSConfig == nil || config.TLSConfig.InsecureSkipVerify) {
			t.Errorf("%q leads to %q, which isn't checked", address, config.Host)
		}
		for _, to := range config.Fallbacks {
			if !u.Query().Has("sslmode") && !local(to.Host) && (to.TLSConfig == nil || to.TLSConfig.InsecureSkipVerify) {
				t.Errorf("%q leads to %q as well, which isn't checked", address, to.Host)
			}
		}
	})
}

// FuzzS3Place: a place in S3 that is taken leads to the bucket and key in it, at
// Amazon's or the endpoint in it, and needs no escaping; one that isn't is refused
// without repeating it, as a secret may stand in it.
func FuzzS3Place(f *testing.F) {
	f.Add("bucket/a/b?region=eu-central-1")
	f.Add("bucket.x/a?region=us-east-1&endpoint=http://127.0.0.1:9000")
	f.Fuzz(func(t *testing.T, name string) {
		name = "s3://" + name
		place, err := parseS3(name)
		if err != nil {
			const plain = "the place for checkpoints in S3: "
			rest, ok := strings.CutPrefix(err.Error(), plain)
			if access.CodeOf(err) != access.CodeMalformed || !ok || len(rest) > 150 || access.CheckText("error", err.Error(), 300) != nil {
				t.Errorf("%q is refused: %q", name, err)
			}
			return
		}
		in, err := url.Parse(name)
		if err != nil {
			t.Fatalf("%q is taken: %v", name, err)
		}
		to, err := url.Parse(place.url)
		if err != nil || to.EscapedPath() != to.Path || to.User != nil || to.RawQuery != "" || to.Fragment != "" || to.Opaque != "" {
			t.Fatalf("%q leads to %q: %v", name, place.url, err)
		}
		endpoint := in.Query().Get("endpoint")
		host := strings.TrimPrefix(strings.TrimPrefix(endpoint, "https://"), "http://")
		switch {
		case endpoint != "" && (to.Host != host || to.Path != "/"+in.Host+in.Path):
			t.Errorf("%q leads to %q", name, place.url)
		case endpoint == "" && (to.Scheme != "https" || !strings.HasSuffix(to.Host, ".s3."+place.region+".amazonaws.com") && to.Host != "s3."+place.region+".amazonaws.com" || !strings.HasSuffix(to.Host+to.Path, in.Path)):
			t.Errorf("%q leads to %q", name, place.url)
		}
		if strings.Contains(to.Path, "..") && !strings.Contains(name, "..") || strings.Contains(to.Path, "/../") || strings.HasSuffix(to.Path, "/..") {
			t.Errorf("%q leads to %q", name, place.url)
		}
	})
}

// FuzzS3Answers: of what a store says beside a status, at most a code is shown.
func FuzzS3Answers(f *testing.F) {
	f.Add([]byte("<?xml version=\"1.0\"?><Error><Code>NoSuchBucket</Code><Message>x</Message></Error>"))
	f.Fuzz(func(t *testing.T, body []byte) {
		if reason := reasonS3("s3://bucket/key?region=x", body); reason != "" && (len(reason) > 90 || access.CheckText("reason", reason, 90) != nil || !strings.HasPrefix(reason, ": ")) {
			t.Errorf("of %q is shown %q", body, reason)
		}
		if reason := reasonS3("https://example.com/checkpoint", body); reason != "" {
			t.Errorf("of what is not S3's is shown %q", reason)
		}
	})
}
