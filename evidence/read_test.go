package evidence

import (
	"testing"
	"time"

	"hallpass/access"
	"hallpass/statement"
)

func TestCheckRead(t *testing.T) {
	now := asked.Add(time.Minute)
	here, there := access.Audience([]byte("here")), access.Audience([]byte("there"))
	for _, tt := range []struct {
		name  string
		key   string
		edit  func(*access.Read)
		after time.Duration
		code  access.Code
	}{
		{"good", "bob", nil, 0, ""},
		{"a second before its end", "bob", nil, 10*time.Minute - time.Second, ""},
		{"at its end", "bob", nil, 10 * time.Minute, access.CodeStale},
		{"clock ahead", "bob", func(r *access.Read) { r.Time = now.Add(access.ClockSkew) }, 0, ""},
		{"from the future", "bob", func(r *access.Read) { r.Time = now.Add(access.ClockSkew + time.Second) }, 0, access.CodeStale},
		{"for another service", "bob", func(r *access.Read) { r.Audience = there }, 0, access.CodeMismatch},
		{"by somebody else", "erin", nil, 0, access.CodeUnverified},
		{"by nobody's key", "nobody", nil, 0, access.CodeUnverified},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := access.Read{
				Header:   access.Header{Type: access.TypeRead, ID: statement.NewID(), Signer: "bob", Time: now},
				Audience: here, Until: now.Add(10 * time.Minute),
			}
			if tt.edit != nil {
				tt.edit(&r)
			}
			user, err := newWorld(t).book().CheckRead(sign(t, tt.key, r), here, now.Add(tt.after))
			if access.CodeOf(err) != tt.code || (err == nil) != (tt.code == "") || (err == nil) != (user.Name == "bob") {
				t.Errorf("%+v, %v", user, err)
			}
		})
	}
	// Who has left is nobody.
	r := access.Read{Header: access.Header{Type: access.TypeRead, ID: statement.NewID(), Signer: "bob", Time: now}, Audience: here, Until: now.Add(time.Minute)}
	left := newWorld(t).change(func(w *world) { delete(w.groups, "bob") }).book()
	if _, err := left.CheckRead(sign(t, "bob", r), here, now); access.CodeOf(err) != access.CodeUnverified {
		t.Errorf("after he left: %v", err)
	}
}
