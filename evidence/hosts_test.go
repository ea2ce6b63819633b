package evidence

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"hallpass/access"
	"hallpass/statement"
)

const hostsCatalog = `resources:
  ssh/web-1: {logins: [deploy, root], hosts: [web-1, web-1.example.com], address: "10.0.0.7:22"}
  ssh/web-2: {logins: [deploy]}
  ssh/web: {logins: [deploy], hosts: [web-1, web-2]}
`

// hostsBook lets group sec lock and take hosts in; erin, trent and victor are
// in it.
func hostsBook(t testing.TB) *Rulebook {
	t.Helper()
	w := withLocks(t)
	b, err := NewRulebook([]byte("hosts: {enroll: [sec]}\n"+w.policy), w.directory(), []byte(hostsCatalog))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestCheckJoin(t *testing.T) {
	now := asked.Add(time.Minute)
	for _, tt := range []struct {
		name  string
		edit  func(*access.Join)
		locks []access.Lock
		after time.Duration
		code  access.Code
	}{
		{"good", nil, nil, 0, ""},
		{"a second before its end", nil, nil, time.Hour - time.Second, ""},
		{"at its end", nil, nil, time.Hour, access.CodeStale},
		{"clock ahead", func(j *access.Join) { j.Time = now.Add(access.ClockSkew) }, nil, 0, ""},
		{"from the future", func(j *access.Join) { j.Time = now.Add(access.ClockSkew + time.Second) }, nil, 0, access.CodeStale},
		{"by somebody who may not", func(j *access.Join) { j.Signer = "alice" }, nil, 0, access.CodeForbidden},
		{"of no resource", func(j *access.Join) { j.Resource = "ssh/web-9" }, nil, 0, access.CodeNotFound},
		{"signer locked", nil, []access.Lock{lock(t, access.LockUser, "trent")}, 2 * time.Minute, access.CodeForbidden},
		{"resource locked", nil, []access.Lock{lock(t, access.LockResource, "ssh/web-1")}, 2 * time.Minute, access.CodeForbidden},
		{"host locked by its address", nil, []access.Lock{lock(t, access.LockHost, "10.0.0.7")}, 2 * time.Minute, access.CodeForbidden},
		{"another host locked", nil, []access.Lock{lock(t, access.LockHost, "web-9")}, 2 * time.Minute, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			j := access.Join{
				Header:   access.Header{Type: access.TypeHost, ID: statement.NewID(), Signer: "trent", Time: now},
				Resource: "ssh/web-1", Until: now.Add(time.Hour),
			}
			if tt.edit != nil {
				tt.edit(&j)
			}
			book := hostsBook(t).Under(held(t, tt.locks...))
			got, user, resource, err := book.CheckJoin(sign(t, j.Signer, j), now.Add(tt.after))
			if access.CodeOf(err) != tt.code || (err == nil) != (tt.code == "") {
				t.Fatalf("%v, want %q", err, tt.code)
			}
			if err == nil && (got.ID != j.ID || user.Name != "trent" || resource.Name != "ssh/web-1") {
				t.Errorf("%+v by %s of %s", got, user.Name, resource.Name)
			}
		})
	}
	// Nobody may where policy says nothing of it.
	silent := newWorld(t).book()
	j := access.Join{Header: access.Header{Type: access.TypeHost, ID: statement.NewID(), Signer: "erin", Time: now}, Resource: "ssh/web-1", Until: now.Add(time.Hour)}
	if _, _, _, err := silent.CheckJoin(sign(t, "erin", j), now); access.CodeOf(err) != access.CodeForbidden {
		t.Errorf("without the section: %v", err)
	}
}

// A host that is locked gets nothing new.
func TestCheckRenewalUnderALock(t *testing.T) {
	now := asked.Add(2 * time.Minute)
	r := access.Renewal{Header: access.Header{Type: access.TypeRenew, ID: statement.NewID(), Signer: "web-1", Time: now}, HostKey: publicKey("host")}
	st := sign(t, "agent", r)
	agent := signer("agent").PublicKey()
	book := hostsBook(t)
	if _, resource, err := book.CheckRenewal(st, agent, now); err != nil || resource.Name != "ssh/web-1" {
		t.Errorf("%s, %v", resource.Name, err)
	}
	locked := book.Under(held(t, lock(t, access.LockHost, "web-1")))
	if _, _, err := locked.CheckRenewal(st, agent, now); access.CodeOf(err) != access.CodeForbidden {
		t.Errorf("under a lock: %v", err)
	}
	if _, _, err := book.CheckRenewal(st, signer("erin").PublicKey(), now); access.CodeOf(err) != access.CodeUnverified {
		t.Errorf("by another key: %v", err)
	}
}

func TestPrincipals(t *testing.T) {
	book := hostsBook(t)
	for host, want := range map[string]map[string][]string{
		"ssh/web-1": {"deploy": {"web-1/deploy", "web/deploy"}, "root": {"web-1/root"}},
		"ssh/web-2": {"deploy": {"web-2/deploy", "web/deploy"}},
	} {
		r, ok := book.Catalog.Resource(host)
		if !ok {
			t.Fatal(host)
		}
		if d := cmp.Diff(want, book.Principals(r)); d != "" {
			t.Errorf("%s: %s", host, d)
		}
	}
	r, _ := book.Catalog.Resource("ssh/web-1")
	if d := cmp.Diff([]string{"web-1", "web-1.example.com", "10.0.0.7"}, HostNames(r)); d != "" {
		t.Error(d)
	}
}
