package grant_test

import (
	"context"
	"encoding/base64"
	"fmt"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"hallpass/access"
	"hallpass/audit"
	"hallpass/ca"
	"hallpass/ca/krl"
	"hallpass/grant"
	"hallpass/grant/granttest"
	"hallpass/statement"
	"hallpass/testsuite/measure"
	"hallpass/testsuite/sshdtest"
)

// order is an order for a new request of alice's.
func (w *world) order(edit func(*access.Request)) grant.Order {
	r := w.request(edit)
	return grant.Order{
		Request:  r,
		Resource: access.Resource{Name: r.Resource, Kind: "ssh", Logins: []string{r.Login}},
		Standing: access.Standing{
			Effect: access.EffectAllow, Duration: r.Duration, Request: r,
			Ruling: access.Ruling{SSH: access.SSHOptions{Extensions: []string{"permit-pty"}}},
		},
		NotBefore: w.now(), NotAfter: w.now().Add(r.Duration.Duration()),
	}
}

// numbered prepares an order, and gives the handle its serial as the ledger does.
func (w *world) numbered(k *grant.SSH, o grant.Order) (access.Handle, error) {
	h, err := k.Prepare(context.Background(), o)
	if err != nil {
		return h, err
	}
	series, _ := krl.Split(h.Serial)
	h.Serial, err = w.log.NextSerial(context.Background(), h.CA, series)
	return h, err
}

// ended has the serial from the ledger, and ends the request there before it is revoked.
type ended struct {
	*grant.SSH
	w *world
}

func (k ended) Prepare(_ context.Context, o grant.Order) (access.Handle, error) {
	return k.w.numbered(k.SSH, o)
}

func (k ended) Revoke(ctx context.Context, h access.Handle) error {
	if _, err := k.w.log.Reserve(ctx, "hash", h, audit.Event{}); err != nil && access.CodeOf(err) != access.CodeEnded {
		return err
	}
	if _, err := k.w.log.End(ctx, audit.End{Request: h.Request, State: access.StateReleased}); err != nil {
		return err
	}
	return k.SSH.Revoke(ctx, h)
}

// krl is the list that hosts would load now, empty if there is none.
func (w *world) krl() *krl.List {
	w.t.Helper()
	k, err := w.log.KRL(context.Background())
	if access.CodeOf(err) == access.CodeUnavailable {
		return &krl.List{}
	} else if err != nil {
		w.t.Fatal(err)
	}
	list, err := krl.Open(k.List, k.Signature, []ssh.PublicKey{w.ca.PublicKey()})
	if err != nil {
		w.t.Fatal(err)
	}
	if list.Version != k.Version {
		w.t.Errorf("list %d is stored as version %d", list.Version, k.Version)
	}
	return list
}

func TestSSHContract(t *testing.T) {
	w := newWorld(t)
	granttest.Run(t, granttest.Harness{
		Kind:  ended{w.ssh(), w},
		Order: func(testing.TB) grant.Order { return w.order(nil) },
		Alive: func(t testing.TB, c access.Credential, at time.Time) bool {
			checker := ssh.CertChecker{
				Clock:                    func() time.Time { return at },
				SupportedCriticalOptions: []string{"force-command", "source-address"},
			}
			cert := certificate(t, c)
			return checker.CheckCert("web-1/deploy", cert) == nil && !w.krl().Revoked(cert.SignatureKey, cert.Serial)
		},
		Secrets: func(t testing.TB, c access.Credential) []string {
			// What an OpenSSH file of the CA's key would hold of it.
			public := w.ca.PublicKey().Marshal()
			return []string{"PRIVATE KEY", base64.StdEncoding.EncodeToString(append([]byte("openssh-key-v1\x00"), public...))}
		},
	})
}

// What policy says of open sessions is in the certificate, for the host. It is
// no longer than what was prepared, whatever the rules say by then.
func TestSSHGrace(t *testing.T) {
	w := newWorld(t)
	ctx := context.Background()
	k := w.ssh()
	o := w.order(nil)
	o.Standing.Ruling.SSH.Grace, o.Standing.Ruling.SSH.Warn = 600, 120
	h, err := w.numbered(k, o)
	if err != nil {
		t.Fatal(err)
	}
	if h.Until == nil || !h.Until.Equal(o.NotAfter.Add(10*time.Minute)) || !h.Over().Equal(*h.Until) {
		t.Errorf("sessions may stay until %v, the grant ends at %s", h.Until, o.NotAfter)
	}
	for _, row := range []struct {
		ruled access.Seconds
		want  string
	}{{600, "10m"}, {3600, "10m"}, {60, "1m"}, {0, ""}} {
		o.Standing.Ruling.SSH.Grace = row.ruled
		cred, err := k.Issue(ctx, o, h)
		if err != nil {
			t.Fatal(err)
		}
		cert := certificate(t, cred)
		if got := cert.Extensions[access.ExtensionGrace]; got != row.want || cert.Extensions[access.ExtensionWarn] != "2m" {
			t.Errorf("grace %s: %q", row.ruled, cert.Extensions)
		}
		if int64(cert.ValidBefore) != o.NotAfter.Unix() {
			t.Error("the certificate itself has a grace")
		}
	}
	for _, o := range []access.SSHOptions{{Grace: -1}, {Warn: -1}, {Grace: access.InSeconds(access.MaxGrace) + 1}} {
		bad := w.order(nil)
		bad.Standing.Ruling.SSH = o
		if _, err := k.Prepare(ctx, bad); access.CodeOf(err) != access.CodeDenied {
			t.Errorf("%+v: %v", o, err)
		}
	}
}

func TestSSHRefusesEarly(t *testing.T) {
	for _, tt := range []struct {
		name string
		edit func(*grant.Order)
		code access.Code
	}{
		{"no key", func(o *grant.Order) { o.Request.PublicKey = "" }, access.CodeMalformed},
		{"the CA's key", nil, access.CodeForbidden},
		{"no login", func(o *grant.Order) { o.Request.Login = "" }, access.CodeMalformed},
		{"another kind", func(o *grant.Order) { o.Resource.Name = "db/web-1" }, access.CodeMalformed},
		{"a day and a second", func(o *grant.Order) { o.NotAfter = o.NotBefore.Add(ca.MaxLifetime + time.Second) }, access.CodeDenied},
		{"unknown extension", func(o *grant.Order) { o.Standing.Ruling.SSH.Extensions = []string{"permit-all"} }, access.CodeDenied},
		{"over", func(o *grant.Order) { o.NotBefore, o.NotAfter = noon.Add(-time.Hour), noon }, access.CodeEnded},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			o := w.order(nil)
			if tt.edit == nil {
				o.Request.PublicKey = statement.MarshalKey(w.ca.PublicKey())
			} else {
				tt.edit(&o)
			}
			if h, err := w.ssh().Prepare(context.Background(), o); access.CodeOf(err) != tt.code {
				t.Errorf("Prepare gave %+v, error %v; want code %s", h, err, tt.code)
			}
			if serial, err := w.log.NextSerial(context.Background(), w.ca.Fingerprint(), krl.Series("web-1")); err != nil || serial != first || w.uses.n.Load() != 0 {
				t.Errorf("spent a serial or used the key: next %d, error %v, %d uses", serial, err, w.uses.n.Load())
			}
		})
	}
}

// A handle that another CA key was meant for waits for an issuer that has it.
func TestSSHAfterAChangeOfKeys(t *testing.T) {
	w := newWorld(t)
	o := w.order(nil)
	old := w.ssh()
	h, err := w.numbered(old, o)
	if err != nil {
		t.Fatal(err)
	}
	if w.ca, err = ca.New(newKey(t), w.now); err != nil {
		t.Fatal(err)
	}
	if _, err := w.ssh().Issue(context.Background(), o, h); access.CodeOf(err) != access.CodeUnavailable || !strings.Contains(err.Error(), h.CA) {
		t.Errorf("error %v", err)
	}
	unnumbered := h
	unnumbered.Serial = krl.Serial(krl.Series("web-1"), 0)
	if cred, err := old.Issue(context.Background(), o, unnumbered); access.CodeOf(err) != access.CodeMalformed {
		t.Errorf("a certificate that isn't in the ledger: %+v, %v", cred, err)
	}
	if _, err := old.Issue(context.Background(), o, h); err != nil {
		t.Error(err)
	}
}

// From signed statements to a shell on a real host, and not on another.
func TestSSHD(t *testing.T) {
	w := newWorld(t)
	user := sshdtest.User(t)
	w.rules(policyYAML, string(w.book.Load().Directory.Data()), strings.ReplaceAll(catalogYAML, "[deploy, root]", "[deploy, "+user+"]"))
	w.clock.Store(int64(time.Since(noon) / time.Second)) // hosts have the real time

	keyFile, key := sshdtest.NewKey(t)
	ev, _ := w.approved(func(r *access.Request) {
		r.Login, r.PublicKey = user, statement.MarshalKey(key)
	})
	certFile := sshdtest.WriteCert(t, certificate(t, w.issue(w.issuer(nil, nil), ev)))

	for host, want := range map[string]bool{"web-1": true, "web-2": false} {
		s := sshdtest.Start(t, sshdtest.Config{
			CA:         []ssh.PublicKey{w.ca.PublicKey()},
			Principals: map[string][]string{user: {host + "/" + user}},
		})
		if r := s.Login(t, keyFile, certFile, "true"); r.OK() != want || r.Refused() == want {
			t.Errorf("login on %s: want %t, got %s", host, want, r)
		}
	}
}

// BenchmarkIssue is the whole way: judge, reserve, sign, record, with every
// step on disk, of so many at a time.
func BenchmarkIssue(b *testing.B) {
	for _, flight := range []int{1, 16} {
		b.Run(fmt.Sprintf("flight=%d", flight), func(b *testing.B) {
			w := newWorld(b)
			i := w.issuer(nil, nil)
			all := make([]access.Evidence, b.N)
			for n := range all {
				all[n], _ = w.approved(nil)
			}
			measure.InFlight(b, flight, func(n int) error { _, err := i.Issue(b.Context(), all[n]); return err })
		})
	}
}
