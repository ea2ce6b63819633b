package cli

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"

	"hallpass/access"
	"hallpass/sealed"
)

// What people type behind --env, --file, --from and --until: it is refused as their
// mistake and in one line, or it means something that is bounded, and the same when
// it is written again.
func FuzzFlags(f *testing.F) {
	f.Add("PGPASSWORD={{.password}}")
	f.Add(`a/../b={{file "x"}}{{with kubeconfig}}:{{.}}{{end}}`)
	f.Add("../../etc/passwd=x")
	f.Add("C:\\x=/y")
	f.Add("A={{json .x | base64}}{{join .list \",\"}}")
	f.Add("A={{define \"A\"}}{{template \"A\"}}{{end}}")
	f.Add("A=@/nowhere")
	f.Add("+2h30m")
	f.Add("23:59")
	f.Add("2031-05-06T07:08:09+05:30")
	f.Add("0000-01-01 00:00")
	f.Add("9999-12-31T23:59:59-23:59")
	zone := time.FixedZone("X", 2*3600)
	now := time.Date(2031, 5, 6, 7, 8, 9, 0, time.UTC)
	a := &app{now: func() time.Time { return now }, out: &printer{zone: zone}}
	f.Fuzz(func(t *testing.T, s string) {
		refused := func(err error) {
			if exitCode(err) != ExitUsage && exitCode(err) != ExitError || err.Error() == "" || strings.ContainsAny(safe(err.Error()), "\n\x1b") {
				t.Errorf("%q with the exit code %d", err, exitCode(err))
			}
		}
		if at, err := a.parseTime("--from", s); err != nil {
			refused(err)
		} else if again, err := a.parseTime("--from", at.Format(time.RFC3339)); at.Year() >= 0 && at.Year() <= 9999 && (err != nil || !again.Equal(*at)) {
			t.Errorf("%q is %s, and written again %v (%v)", s, at, again, err)
		} else if !at.Equal(at.Truncate(time.Second)) || strings.HasPrefix(s, "+") && at.Before(now) {
			t.Errorf("%q is %s", s, at)
		}
		if _, text, _ := strings.Cut(s, "="); strings.HasPrefix(text, "@") {
			return // it names files of this machine
		}
		p, err := parsePattern("--env", s)
		if err != nil {
			refused(err)
		} else if again, err := parsePattern("--env", p.name+"="+p.text); err != nil || again != p {
			t.Errorf("%q is read as %q, and then as %q (%v)", s, p, again, err)
		}
		if all, err := parseTemplates("", []string{s}, nil); err != nil {
			refused(err)
		} else if len(all.env) != 1 || !variableName.MatchString(all.env[0].name) {
			t.Errorf("%q sets %q", s, all.env)
		}
		all, err := parseTemplates("", nil, []string{s})
		if err != nil {
			refused(err)
			return
		}
		dir := filepath.Join(string(filepath.Separator), "private")
		if path := filepath.Join(dir, all.files[0].name); !strings.HasPrefix(path, dir+string(filepath.Separator)) {
			t.Errorf("%q is written to %s", s, path)
		}
		if _, err := parseTemplates("", nil, []string{s, s}); access.CodeOf(err) != "" || exitCode(err) != ExitUsage {
			t.Errorf("the same file twice: %v", err)
		}
	})
}

// saying is a Vault that says the same to each kind of call, whatever it is.
type saying struct {
	status int
	said   map[string]string // by the end of the path; "": to all others
}

func (s *saying) RoundTrip(r *http.Request) (*http.Response, error) {
	said := s.said[""]
	for end, text := range s.said {
		if end != "" && strings.HasSuffix(r.URL.Path, end) {
			said = text
		}
	}
	return &http.Response{StatusCode: s.status, Header: http.Header{"Content-Type": {"application/json"}}, Body: io.NopCloser(strings.NewReader(said)), Request: r}, nil
}

// What answers as Vault may be anybody. Whatever it says, nothing is handed out but by a
// token that hallpass's issuer made for this grant, which leases can't outlive, and
// with a lease; and what is wrong is said in one line.
func FuzzVaultSays(f *testing.F) {
	const (
		made   = "auth/token/create/hallpass-grant"
		looked = `{"data":{"creation_path":"auth/token/create/hallpass-grant","creation_ttl":60}}`
		opened = `{"auth":{"client_token":"hvb.1","token_type":"batch"}}`
		whose  = `{"data":{"type":"batch","meta":{"hallpass_accessor":"a1","hallpass_request":"r1"}}}`
		gives  = `{"lease_id":"database/creds/x/1","lease_duration":60,"data":{"username":"u","password":"p"}}`
	)
	f.Add(uint8(0), looked, opened, whose, gives)
	f.Add(uint8(0), looked, opened, strings.Replace(whose, `"batch"`, `"service","type":"batch"`, 1), gives)
	f.Add(uint8(0), strings.Replace(looked, "-grant", "-grant-2", 1), opened, whose, gives)
	f.Add(uint8(0), looked, opened, strings.Replace(whose, `"a1"`, `["a1"]`, 1), gives)
	f.Add(uint8(0), looked, `{"auth":{"client_token":7}}`, whose, gives)
	f.Add(uint8(0), looked, opened, `{"data":{"type":"batch","meta":null}}`, gives)
	f.Add(uint8(0), looked, opened, whose, `{"lease_id":"","data":{"x":null}}`)
	f.Add(uint8(0), looked, opened, whose, `{"lease_id":"x","lease_duration":1e400,"data":{"x":"\u001b[2J\n"}}`)
	f.Add(uint8(1), `{"errors":["permission denied\n\u001b[2J"]}`, "", "", "")
	f.Add(uint8(2), `{"errors":["Vault is sealed"]}`, "null", "[]", "{")
	base := f.TempDir()
	if err := os.MkdirAll(filepath.Join(base, "requests", "r1"), 0o700); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, status uint8, look, unwrapped, self, read string) {
		now := time.Date(2031, 5, 6, 7, 8, 9, 0, time.UTC)
		vaults := &saying{[]int{200, 403, 503, 400, 404, 204, 302, 500, 429}[int(status)%9],
			map[string]string{"sys/wrapping/lookup": look, "sys/wrapping/unwrap": unwrapped, "auth/token/lookup-self": self, "": read}}
		conf := api.DefaultConfig()
		conf.Address, conf.MaxRetries, conf.HttpClient = "http://127.0.0.1:1", 0, &http.Client{Transport: vaults}
		client, err := api.NewClient(conf)
		if err != nil {
			t.Fatal(err)
		}
		client.SetMaxRetries(0)
		a := &app{ctx: t.Context(), err: &printer{w: io.Discard}, now: func() time.Time { return now }, sleep: func(_ context.Context, d time.Duration) error {
			now = now.Add(d)
			return nil
		}}
		v := &vaultClient{a, client, made}
		end := now.Add(time.Hour)
		if err := os.WriteFile(filepath.Join(base, "requests", "r1", "key"), nil, 0o600); err != nil { // goes once it is opened
			t.Fatal(err)
		}
		s := access.Status{ID: "r1", Credential: &access.Credential{Handle: access.Handle{Request: "r1", Accessor: "a1", NotAfter: end}}}
		token, err := v.unwrap(&folder{path: base}, s, sealed.Secret{Request: "r1", WrappingToken: "hvs.w"}, mark{})
		if err == nil {
			err = v.check(s, token)
		}
		var g given
		if err == nil {
			g, err = v.read(token, sealed.Read{Action: "read", Path: "database/creds/x"}, end)
		}
		if honest := look == looked && unwrapped == opened && self == whose && read == gives && vaults.status == http.StatusOK; honest && err != nil {
			t.Errorf("what Vault says is refused: %v", err)
		}
		if err != nil {
			if text := err.Error(); text == "" || strings.ContainsAny(text, "\n\r\x1b") || len(text) > 2000 {
				t.Errorf("it is said in more than a line: %.3000q", text)
			}
			return
		}
		var l, w struct {
			LeaseID string `json:"lease_id"`
			Data    map[string]any
			Auth    struct {
				ClientToken string `json:"client_token"`
			}
		}
		one := func(text string, into any) {
			t.Helper()
			if err := json.NewDecoder(strings.NewReader(text)).Decode(into); err != nil { // what is behind it counts for nothing
				t.Errorf("%q is taken: %v", text, err)
			}
		}
		one(look, &l)
		if l.Data["creation_path"] != made {
			t.Errorf("it was made by %v", l.Data["creation_path"])
		}
		l.Data = nil
		one(self, &l)
		meta, _ := l.Data["meta"].(map[string]any)
		if l.Data["type"] != "batch" || meta["hallpass_accessor"] != "a1" || meta["hallpass_request"] != "r1" {
			t.Errorf("the token of %v is taken", l.Data)
		}
		one(read, &w)
		if w.LeaseID == "" || len(w.Data) == 0 || g.Ends.After(end) {
			t.Errorf("%q until %s is handed out, of a grant until %s", read, g.Ends, end)
		}
	})
}
