package ca

import (
	"strings"
	"testing"

	"hallpass/access"
)

func TestKeyID(t *testing.T) {
	got, err := KeyID(requestID, "alice")
	if want := "hallpass:" + requestID + ":alice"; err != nil || got != want {
		t.Fatalf("got %q, error %v, want %q", got, err, want)
	}
	request, requester, err := ParseKeyID(got)
	if err != nil || request != requestID || requester != "alice" {
		t.Errorf("got %q, %q, error %v", request, requester, err)
	}
}

func TestParseKeyID(t *testing.T) {
	const u = requestID
	for _, tt := range []struct {
		name, id string
		ok       bool
	}{
		{"good", "hallpass:" + u + ":alice", true},
		{"every character of a name", "hallpass:" + u + ":a.b_c@d+e-9", true},
		{"variant 8", "hallpass:00000000-0000-7000-8000-000000000000:a", true},
		{"variant b", "hallpass:ffffffff-ffff-7fff-bfff-ffffffffffff:a", true},
		{"variant 7", "hallpass:00000000-0000-7000-7000-000000000000:a", false},
		{"variant c", "hallpass:00000000-0000-7000-c000-000000000000:a", false},
		{"version 6", "hallpass:00000000-0000-6000-8000-000000000000:a", false},
		{"version 8", "hallpass:00000000-0000-8000-8000-000000000000:a", false},
		{"name of 63 bytes", "hallpass:" + u + ":" + strings.Repeat("a", 63), true},
		{"name of 64 bytes", "hallpass:" + u + ":" + strings.Repeat("a", 64), false},
		{"empty", "", false},
		{"another prefix", "Hallpass:" + u + ":alice", false},
		{"no requester", "hallpass:" + u, false},
		{"empty requester", "hallpass:" + u + ":", false},
		{"empty request", "hallpass::alice", false},
		{"a fourth part", "hallpass:" + u + ":alice:x", false},
		{"upper case id", "hallpass:" + strings.ToUpper(u) + ":alice", false},
		{"upper case name", "hallpass:" + u + ":Alice", false},
		{"id in braces", "hallpass:{" + u + "}:alice", false},
		{"id without hyphens", "hallpass:" + strings.ReplaceAll(u, "-", "") + ":alice", false},
		{"hyphen for a digit", "hallpass:0197a3c4-5d6e-7f80-9abc-def01234567-:alice", false},
		{"digit for a hyphen", "hallpass:0197a3c405d6e-7f80-9abc-def012345678:alice", false},
		{"leading space", " hallpass:" + u + ":alice", false},
		{"trailing newline", "hallpass:" + u + ":alice\n", false},
		{"NUL", "hallpass:" + u + ":alice\x00", false},
		{"look-alike letter", "hallpass:" + u + ":\u0430lice", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, _, err := ParseKeyID(tt.id)
			if (err == nil) != tt.ok {
				t.Fatalf("error %v, want one: %t", err, !tt.ok)
			}
			if err != nil && access.CodeOf(err) != access.CodeMalformed {
				t.Errorf("code %q", access.CodeOf(err))
			}
		})
	}
}

// What is read is exactly what would have been written: nobody finds a second
// spelling, and none that reads as another's.
func FuzzParseKeyID(f *testing.F) {
	f.Add("hallpass:" + requestID + ":alice")
	f.Add("hallpass:" + requestID + ":alice:bob")
	f.Add("hallpass::")
	f.Fuzz(func(t *testing.T, s string) {
		request, requester, err := ParseKeyID(s)
		if err != nil {
			if request != "" || requester != "" {
				t.Errorf("refused %q and yet read %q, %q", s, request, requester)
			}
			return
		}
		if again, err := KeyID(request, requester); err != nil || again != s {
			t.Errorf("%q is written %q, error %v", s, again, err)
		}
	})
}

// No two pairs share a key id, and what KeyID writes can be read.
func FuzzKeyID(f *testing.F) {
	f.Add(requestID, "alice")
	f.Add(requestID+":x", "y")
	f.Fuzz(func(t *testing.T, request, requester string) {
		s, err := KeyID(request, requester)
		if err != nil {
			return
		}
		r, who, err := ParseKeyID(s)
		if err != nil || r != request || who != requester {
			t.Errorf("KeyID(%q, %q) reads as %q, %q, error %v", request, requester, r, who, err)
		}
	})
}

func TestPrincipal(t *testing.T) {
	for _, tt := range []struct{ resource, login, want string }{
		{"ssh/web-1", "deploy", "web-1/deploy"},
		{"ssh/web-1", "_svc", "web-1/_svc"},
		{"ssh/web-1", "Administrator", "web-1/Administrator"},
		{"db/web-1", "deploy", ""},
		{"web-1", "deploy", ""},
		{"ssh/", "deploy", ""},
		{"ssh/web-1/x", "deploy", ""},
		{"ssh/WEB-1", "deploy", ""},
		{"ssh/web,1", "deploy", ""},
		{"ssh/web-1", "", ""},
		{"ssh/web-1", "a/b", ""},
		{"ssh/web-1", "a,b", ""},
		{"ssh/web-1", "-o", ""},
	} {
		got, err := Principal(tt.resource, tt.login)
		if got != tt.want || (err == nil) != (tt.want != "") {
			t.Errorf("Principal(%q, %q) = %q, error %v, want %q", tt.resource, tt.login, got, err, tt.want)
		}
	}
}
