package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"hallpass/access"
	"hallpass/evidence"
	"hallpass/sealed"
	"hallpass/statement"
)

const vaultCatalog = testCatalog + `  vault/orders-db:
    path: database/creds
    labels: {env: test}
    actions: {read: orders-ro, dump: orders-dump}
  vault/cloud:
    path: cloud
    labels: {env: test}
    actions:
      use: {role: aws, with: {ttl: 10m}}
  vault/cluster: {path: k8s, labels: {env: test}, actions: {deploy: token}}
  vault/paper: {path: pki, labels: {env: test}, actions: {sign: web}}
  vault/kv: {path: secret, labels: {env: test}, actions: {read: thing}}
  vault/gone: {path: nowhere, labels: {env: test}, actions: {read: x}}
  vault/crown: {path: database/creds, labels: {env: prod}, actions: {read: orders-ro}}
`

// fakeVault answers as Vault does, as far as a client sees it. Tests with a
// real one are in testsuite.
type fakeVault struct {
	*httptest.Server
	mu      sync.Mutex
	wrapped map[string]*fakeToken // by wrapping token
	tokens  map[string]*fakeToken // by token
	made    int
	asked   []string // method, path and token of every call
	sealed  int      // answers 503 so many times
	lost    bool     // the answer to the next unwrap is lost
	lease   int      // seconds
	with    map[string]any
}

type fakeToken struct {
	token, kind, path string
	meta              map[string]string
	dead              bool
}

func newFakeVault(t *testing.T) *fakeVault {
	v := &fakeVault{wrapped: map[string]*fakeToken{}, tokens: map[string]*fakeToken{}, lease: 3600}
	v.Server = httptest.NewServer(v)
	t.Cleanup(v.Close)
	return v
}

// mint makes a wrapped token for a request, as the issuer does.
func (v *fakeVault) mint(request string) (wrapping, accessor string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.made++
	accessor = fmt.Sprintf("accessor-%d", v.made)
	t := &fakeToken{
		token: fmt.Sprintf("hvb.token-%d", v.made), kind: "batch", path: "auth/token/create/hallpass-grant",
		meta: map[string]string{"hallpass_request": request, "hallpass_accessor": accessor},
	}
	wrapping = fmt.Sprintf("hvs.wrapping-%d", v.made)
	v.wrapped[wrapping], v.tokens[t.token] = t, t
	return wrapping, accessor
}

var fakeSecrets = map[string]map[string]any{
	"database/creds/orders-ro":   {"username": "v-ro", "password": "pw-ro-0123"},
	"database/creds/orders-dump": {"username": "v-dump", "password": "pw-dump-0123"},
	"cloud/aws":                  {"access_key": "AKIA", "secret_key": "s3cr3t", "security_token": nil},
	"k8s/token":                  {"service_account_token": "eyJ0", "service_account_namespace": "shop"},
	"pki/web":                    {"certificate": "-----BEGIN\nabc\n-----END", "ca_chain": []any{"one", "two"}, "serial": 7},
	"secret/thing":               {"value": "x"},
}

func (v *fakeVault) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	v.mu.Lock()
	defer v.mu.Unlock()
	path := strings.TrimPrefix(r.URL.Path, "/v1/")
	token := r.Header.Get("X-Vault-Token")
	v.asked = append(v.asked, strings.TrimSpace(r.Method+" "+path+" "+token))
	answer := func(code int, body any) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(code)
		_ = json.NewEncoder(w).Encode(body)
	}
	refuse := func(code int, why string) { answer(code, map[string]any{"errors": []string{why}}) }
	if v.sealed > 0 {
		v.sealed--
		refuse(http.StatusServiceUnavailable, "Vault is sealed")
		return
	}
	var body map[string]any
	_ = json.NewDecoder(r.Body).Decode(&body)
	const invalid = "wrapping token is not valid or does not exist"
	switch path {
	case "sys/wrapping/lookup":
		name, _ := body["token"].(string)
		t := v.wrapped[name]
		if t == nil {
			refuse(http.StatusBadRequest, invalid)
			return
		}
		answer(http.StatusOK, map[string]any{"data": map[string]any{"creation_path": t.path, "creation_ttl": 600}})
		return
	case "sys/wrapping/unwrap":
		t := v.wrapped[token]
		if t == nil {
			refuse(http.StatusBadRequest, invalid)
			return
		}
		delete(v.wrapped, token)
		if v.lost {
			v.lost = false
			panic(http.ErrAbortHandler)
		}
		answer(http.StatusOK, map[string]any{"auth": map[string]any{"client_token": t.token}})
		return
	}
	t := v.tokens[token]
	if t == nil || t.dead {
		refuse(http.StatusForbidden, "permission denied")
		return
	}
	if path == "auth/token/lookup-self" {
		answer(http.StatusOK, map[string]any{"data": map[string]any{"accessor": "", "type": t.kind, "meta": t.meta}})
		return
	}
	data, ok := fakeSecrets[path]
	switch {
	case !ok:
		refuse(http.StatusNotFound, "")
		return
	case (path == "cloud/aws") != (r.Method == http.MethodPut):
		refuse(http.StatusMethodNotAllowed, "unsupported operation")
		return
	}
	v.with = body
	out := map[string]any{"data": data, "lease_id": path + "/1", "lease_duration": v.lease}
	if path == "secret/thing" {
		out["lease_id"] = ""
	}
	answer(http.StatusOK, out)
}

// seal does the issuer's work for a request of kind vault.
func (s *service) seal(st *access.Status, now time.Time) {
	req, res := st.Standing.Request, st.Standing.Resource
	wrapping, accessor := s.vault.mint(req.ID)
	secret := sealed.Secret{Request: req.ID, WrappingToken: wrapping}
	for _, action := range req.Actions {
		secret.Reads = append(secret.Reads, sealed.Read{Action: action, Path: res.VaultPath(action), With: res.Roles[action].With})
	}
	text, err := sealed.Seal(req.Recipient, secret)
	if err != nil {
		panic(err)
	}
	end := now.Add(st.Standing.Duration.Duration())
	st.Handle = &access.Handle{Request: req.ID, Kind: "vault", Accessor: accessor, Sealed: text, NotBefore: now, NotAfter: end}
	st.Credential = &access.Credential{Handle: *st.Handle, Sealed: text}
	st.State, st.Granted, st.Ends = access.StateActive, &now, &end
}

// newVaultWorld is a world with resources of kind vault in it.
func newVaultWorld(t *testing.T) *world {
	t.Helper()
	w := newWorld(t)
	check(t, os.WriteFile(filepath.Join(w.dir, "catalog.yaml"), []byte(vaultCatalog), 0o600))
	users, err := os.ReadFile(filepath.Join(w.dir, "directory.yaml"))
	check(t, err)
	w.service.book, err = evidence.NewRulebook([]byte(testPolicy), users, []byte(vaultCatalog))
	check(t, err)
	w.vault = newFakeVault(t)
	w.service.vault = w.vault
	w.env["HALLPASS_VAULT_ADDRESS"] = w.vault.URL
	w.outTTY = true
	return w
}

// status is how the newest request stands.
func (w *world) newest() access.Status {
	w.t.Helper()
	w.service.mu.Lock()
	defer w.service.mu.Unlock()
	if len(w.service.order) == 0 {
		w.t.Fatal("there is no request")
	}
	return *w.service.requests[w.service.order[len(w.service.order)-1]]
}

// lastReason is the reason of the statement that ended the newest request.
func (w *world) lastReason() string {
	w.t.Helper()
	st := w.newest().Ended
	if st == nil {
		w.t.Fatal("nothing ended it")
	}
	var stop access.Stop
	check(w.t, json.Unmarshal([]byte(st.Payload), &stop))
	return stop.Reason
}

func TestRequestAndGetFromVault(t *testing.T) {
	w := newVaultWorld(t)
	r := w.must("request vault/orders-db --action dump --for 5m")
	id := w.newest().ID
	for _, want := range []string{"active vault/orders-db (dump) until", "hallpass get " + id + "\n", "hallpass run " + id + " -- COMMAND\n"} {
		if !strings.Contains(r.stdout, want) {
			t.Errorf("%q lacks %q", r.stdout, want)
		}
	}
	if !strings.Contains(r.stderr, "hallpass release "+id) || strings.Contains(r.stdout, "pw-dump") {
		t.Errorf("%s%s", r.stdout, r.stderr)
	}
	key, err := os.ReadFile(filepath.Join(w.home(), "requests", id, "key"))
	check(t, err)
	if !strings.HasPrefix(string(key), "AGE-SECRET-KEY-1") {
		t.Error("the key is not an age key")
	}
	dir := func(names ...string) map[string]os.FileMode {
		want := map[string]os.FileMode{".": 0o700 | os.ModeDir, "certs": 0o700 | os.ModeDir, "requests": 0o700 | os.ModeDir, "requests/" + id: 0o700 | os.ModeDir}
		for _, name := range names {
			want["requests/"+id+"/"+name] = 0o600
		}
		return want
	}
	files(t, w.home(), dir("key", "request.json"))
	if len(w.vault.asked) != 0 {
		t.Errorf("Vault was asked before anybody wanted it: %v", w.vault.asked)
	}

	r = w.must("get " + id)
	for _, want := range []string{"vault/orders-db until", "dump\n", "username  v-dump", "password  pw-dump-0123"} {
		if !strings.Contains(r.stdout, want) {
			t.Errorf("%q lacks %q", r.stdout, want)
		}
	}
	if !strings.Contains(r.stderr, "hallpass release "+id) || strings.Contains(r.stderr, "pw-dump") {
		t.Errorf("%s", r.stderr)
	}
	files(t, w.home(), dir("opened", "request.json")) // the key is gone
	want := "PUT sys/wrapping/lookup|PUT sys/wrapping/unwrap hvs.wrapping-1|GET auth/token/lookup-self hvb.token-1|GET database/creds/orders-dump hvb.token-1"
	if got := strings.Join(w.vault.asked, "|"); got != want {
		t.Errorf("asked Vault\n%s\nwant\n%s", got, want)
	}

	// Once.
	for _, line := range []string{"get " + id, "get vault/orders-db", "get -o json " + id, "run " + id + " -- true"} {
		if strings.HasPrefix(line, "run") {
			continue // would give it back
		}
		r = w.run(line)
		if r.code != ExitError || !strings.Contains(r.stderr, "was opened ") || !strings.Contains(r.stderr, "hallpass release "+id) || r.stdout != "" {
			t.Errorf("%s: exit %d, %s%s", line, r.code, r.stdout, r.stderr)
		}
	}
	if r := w.must("wait " + id); !strings.Contains(r.stdout, "was opened ") || strings.Contains(r.stdout, "hallpass get") {
		t.Errorf("%s", r.stdout)
	}
	w.must("release " + id)
	files(t, w.home(), map[string]os.FileMode{".": 0o700 | os.ModeDir, "certs": 0o700 | os.ModeDir, "requests": 0o700 | os.ModeDir})
	if r := w.run("get " + id); r.code != ExitError || !strings.Contains(r.stderr, "the request is released") {
		t.Errorf("exit %d, %s", r.code, r.stderr)
	}
}

func TestGetSeveralActionsAndShapes(t *testing.T) {
	w := newVaultWorld(t)
	w.must("request vault/orders-db --action read --action dump")
	w.outTTY = false
	if r := w.run("get vault/orders-db"); r.code != ExitUsage || !strings.Contains(r.stderr, "is not a terminal") || len(w.vault.asked) > 0 {
		t.Errorf("exit %d, %s", r.code, r.stderr)
	}
	var out got
	check(t, json.Unmarshal([]byte(w.must("get -o json vault/orders-db").stdout), &out))
	if out.ID != w.newest().ID || out.Resource != "vault/orders-db" || out.Credentials["dump"]["password"] != "pw-dump-0123" || out.Credentials["read"]["username"] != "v-ro" {
		t.Errorf("%+v", out)
	}
	w.outTTY = true
	w.must("request vault/paper")
	if r := w.must("get vault/paper"); !strings.Contains(r.stdout, "  certificate\n-----BEGIN\nabc\n-----END\n") || !strings.Contains(r.stdout, `["one","two"]`) {
		t.Errorf("%s", r.stdout)
	}
	// A lease that ends before the grant is the end that is shown.
	w.vault.lease = 60
	w.must("request vault/orders-db --action read --for 10m")
	check(t, json.Unmarshal([]byte(w.must("get -o json vault/orders-db").stdout), &out))
	if left := out.Ends.Sub(w.now.Now()); left > time.Minute || left < 50*time.Second {
		t.Errorf("ends in %v", left)
	}
}

func TestVaultWishes(t *testing.T) {
	for _, tt := range []struct {
		args   string
		code   int
		stderr string
	}{
		{"request vault/orders-db", ExitUsage, "what for? vault/orders-db has dump, read\n  try: add --action dump"},
		{"request vault/orders-db --action drop", ExitUsage, "vault/orders-db has no action drop\n  try: its actions: dump, read"},
		{"request vault/orders-db --action read --action read", ExitUsage, "--action read is there twice"},
		{"request vault/orders-db --action read --as root", ExitUsage, "--as is not for vault/orders-db"},
		{"request vault/orders-db --action read --command ls", ExitUsage, "--command is not for vault/orders-db"},
		{"request vault/orders-db --action read --key k", ExitUsage, "--key is not for vault/orders-db"},
		{"request vault/nothing --action read", ExitNotFound, "no resource vault/nothing"},
		{"request vault/orders-db --action read --timeout 0s", ExitUsage, "--timeout 0s is no time at all"},
		{"request vault/orders-db --action read --timeout soon", ExitUsage, "--timeout: duration"},
		{"request vault/orders-db --action read --timeout 5m --no-wait", ExitUsage, "exclude each other"},
		{"ssh vault/orders-db", ExitUsage, "what for?"},
		{"get vault/orders-db", ExitNotFound, "no request for vault/orders-db"},
		{"get vault/UP", ExitUsage, "resource name"},
		{"get", ExitUsage, "ID|KIND/NAME is missing"},
		{"run vault/orders-db", ExitUsage, "COMMAND is missing"},
		{"run", ExitUsage, "KIND/NAME is missing"},
		{"run vault/orders-db --action read --env X -- true", ExitUsage, "--env X is not like NAME=TEMPLATE"},
		{"run vault/orders-db --action read --env 1X=a -- true", ExitUsage, "that is no name of a variable"},
		{"run vault/orders-db --action read --env X=a --env X=b -- true", ExitUsage, "X is set twice"},
		{"run vault/orders-db --action read --env X={{.a -- true", ExitUsage, "--env X: X:1: unclosed action"},
		{"run vault/orders-db --action read --env X={{no}} -- true", ExitUsage, `--env X: X:1: function "no" not defined`},
		{"run vault/orders-db --action read --env X=@/nosuch -- true", ExitError, "--env X: open /nosuch"},
		{"run vault/orders-db --action read --file ../x=a -- true", ExitUsage, "--file ../x is not a name inside"},
		{"run vault/orders-db --action read --file /x=a -- true", ExitUsage, "--file /x is not a name inside"},
		{"run vault/orders-db --action read --template oracle -- true", ExitUsage, "--template oracle is not one of postgres, mysql, aws, kubeconfig"},
		{"run vault/orders-db --action read -- nosuchcommand", ExitNoCommand, "nosuchcommand: command not found"},
		{"run vault/orders-db --action read -- /etc/passwd", ExitNoExec, "/etc/passwd can't be run: permission denied"},
		{"run 01990000-0000 --for 5m -- true", ExitUsage, "--for is for a new request"},
		{"run 01990000-0000-7000-8000-000000000000 -- true", ExitError, "this machine has no key for request"},
	} {
		t.Run(tt.args, func(t *testing.T) {
			w := newVaultWorld(t)
			r := w.run(tt.args)
			if r.code != tt.code || !strings.Contains(r.stderr, tt.stderr) || r.stdout != "" {
				t.Errorf("exit %d, stdout %q, stderr %q", r.code, r.stdout, r.stderr)
			}
			if len(w.service.order) != 0 {
				t.Error("somebody was asked")
			}
		})
	}
}

// Without a catalog the names are taken as they are.
func TestVaultWithoutCatalog(t *testing.T) {
	w := newVaultWorld(t)
	check(t, os.Remove(filepath.Join(w.dir, "catalog.yaml")))
	if r := w.run("request vault/orders-db"); r.code != ExitUsage || !strings.Contains(r.stderr, "add --action ACTION") {
		t.Errorf("exit %d, %s", r.code, r.stderr)
	}
	if r := w.must("run vault/orders-db --action read --for 5m -- printenv PGUSER"); r.stdout != "v-ro\n" {
		t.Errorf("%s", r.stdout)
	}
}

func TestVaultResources(t *testing.T) {
	w := newVaultWorld(t)
	r := w.must("resources")
	for _, want := range []string{
		"LOGIN, ACTION", "hallpass run vault/orders-db --action dump -- COMMAND\n", "hallpass run vault/crown --action read --reason … -- COMMAND\n",
		"hallpass request ssh/test-1\n",
	} {
		if !strings.Contains(r.stdout, want) {
			t.Errorf("lacks %q:\n%s", want, r.stdout)
		}
	}
}

// What went through other hands is told loudly, and on record.
func TestVaultTampering(t *testing.T) {
	reseal := func(st *access.Status, change func(*sealed.Secret)) {
		req := st.Standing.Request
		secret := sealed.Secret{Request: req.ID, Reads: []sealed.Read{{Action: "read", Path: "database/creds/orders-ro"}}}
		wrapping := "hvs.wrapping-1"
		secret.WrappingToken = wrapping
		change(&secret)
		text, err := sealed.Seal(req.Recipient, secret)
		if err != nil {
			panic(err)
		}
		st.Credential.Sealed = text
	}
	for _, tt := range []struct {
		name, want string
		do         func(*testing.T, *world, *access.Status)
	}{
		{"opened by somebody", "somebody else has opened what Vault gives for request ID", func(_ *testing.T, w *world, _ *access.Status) {
			delete(w.vault.wrapped, "hvs.wrapping-1")
		}},
		{"the answer is lost", "what Vault gives for request ID is gone: its answer got lost, or somebody else has opened it", func(_ *testing.T, w *world, _ *access.Status) {
			w.vault.lost = true
		}},
		{"another path", "what is sealed for request ID was not made by hallpass's issuer: it comes from auth/approle/login in Vault", func(_ *testing.T, w *world, _ *access.Status) {
			w.vault.wrapped["hvs.wrapping-1"].path = "auth/approle/login"
		}},
		{"another accessor", "the token for request ID is not the one that is on record", func(_ *testing.T, w *world, _ *access.Status) {
			w.vault.wrapped["hvs.wrapping-1"].meta["hallpass_accessor"] = "accessor-9"
		}},
		{"another's token role", "what is sealed for request ID was not made by hallpass's issuer: it comes from auth/token/create/poller in Vault", func(_ *testing.T, w *world, _ *access.Status) {
			w.vault.wrapped["hvs.wrapping-1"].path = "auth/token/create/poller"
		}},
		{"a role with a name that goes on", "what is sealed for request ID was not made by hallpass's issuer: it comes from auth/token/create/hallpass-grant-2 in Vault", func(_ *testing.T, w *world, _ *access.Status) {
			w.vault.wrapped["hvs.wrapping-1"].path = "auth/token/create/hallpass-grant-2"
		}},
		{"a grant's own token", "what is sealed for request ID was not made by hallpass's issuer: it comes from auth/token/create/hallpass in Vault", func(_ *testing.T, w *world, _ *access.Status) {
			w.vault.wrapped["hvs.wrapping-1"].path = "auth/token/create/hallpass"
		}},
		{"a token that leases outlive", "the token for request ID is a service token, and what is read with it may outlive it", func(_ *testing.T, w *world, _ *access.Status) {
			w.vault.wrapped["hvs.wrapping-1"].kind = "service"
		}},
		{"another request's token", "the token for request ID was made for another request", func(_ *testing.T, w *world, _ *access.Status) {
			w.vault.wrapped["hvs.wrapping-1"].meta["hallpass_request"] = "other"
		}},
		{"no metadata", "the token for request ID is not the one that is on record", func(_ *testing.T, w *world, _ *access.Status) {
			w.vault.wrapped["hvs.wrapping-1"].meta = nil
		}},
		{"sealed to another key", "what the service hands out for request ID can't be opened: the sealed secret is for another key", func(t *testing.T, _ *world, st *access.Status) {
			_, recipient, err := sealed.NewKey()
			check(t, err)
			st.Credential.Sealed, err = sealed.Seal(recipient, sealed.Secret{
				Request: st.ID, WrappingToken: "x", Reads: []sealed.Read{{Action: "read", Path: "a"}},
			})
			check(t, err)
		}},
		{"changed", "what the service hands out for request ID can't be opened: ", func(_ *testing.T, _ *world, st *access.Status) {
			lines := strings.SplitAfter(st.Credential.Sealed, "\n")
			b := []byte(lines[len(lines)-4])
			b[5] ^= 1
			lines[len(lines)-4] = string(b)
			st.Credential.Sealed = strings.Join(lines, "")
		}},
		{"nothing sealed", "what the service hands out for request ID can't be opened: this is not a sealed secret", func(_ *testing.T, _ *world, st *access.Status) {
			st.Credential.Sealed = ""
		}},
		{"no accessor", "what the service hands out for request ID is not of its grant", func(_ *testing.T, _ *world, st *access.Status) {
			st.Credential.Handle.Accessor = ""
		}},
		{"another request's handle", "what the service hands out for request ID is not of its grant", func(_ *testing.T, _ *world, st *access.Status) {
			st.Credential.Handle.Request = "other"
		}},
		{"another request's secret", "what is sealed for request ID belongs to another one", func(_ *testing.T, _ *world, st *access.Status) {
			reseal(st, func(s *sealed.Secret) { s.Request = statement.NewID() })
		}},
		{"another action", "what is sealed for request ID belongs to another one", func(_ *testing.T, _ *world, st *access.Status) {
			reseal(st, func(s *sealed.Secret) { s.Reads[0].Action = "dump" })
		}},
	} {
		for _, command := range []string{"get", "run"} {
			t.Run(tt.name+", "+command, func(t *testing.T) {
				w := newVaultWorld(t)
				w.must("request vault/orders-db --action read")
				id := w.newest().ID
				// What is in the answer to status, not what is on record.
				cred := *w.service.requests[id].Credential
				w.service.requests[id].Credential = &cred
				tt.do(t, w, w.service.requests[id])
				line := "get " + id
				if command == "run" {
					line = "run " + id + " -- touch " + filepath.Join(w.dir, "ran")
				}
				r := w.run(line)
				want := "hallpass: " + strings.ReplaceAll(tt.want, "ID", id)
				if r.code != ExitTampered || !strings.Contains(r.stderr, want) || strings.Count(r.stderr, "hallpass: ") != 1 || r.stdout != "" {
					t.Errorf("exit %d\n%s\nwant %s", r.code, r.stderr, want)
				}
				if st := w.newest(); st.State != access.StateReleased {
					t.Errorf("the grant is %s", st.State)
				} else if got, want := w.lastReason(), "the client says: "+strings.ReplaceAll(tt.want, "ID", id); !strings.HasPrefix(got, want) {
					t.Errorf("on record is %q, want %q", got, want)
				}
				if _, err := os.Stat(filepath.Join(w.dir, "ran")); err == nil {
					t.Error("the command ran")
				}
				if left, _ := os.ReadDir(filepath.Join(w.home(), "requests")); len(left) != 0 {
					t.Errorf("left behind: %v", left)
				}
			})
		}
	}
}

func TestVaultTroubles(t *testing.T) {
	t.Run("sealed for a while", func(t *testing.T) {
		w := newVaultWorld(t)
		w.must("request vault/orders-db --action read")
		w.vault.sealed = 3
		if r := w.must("get vault/orders-db"); !strings.Contains(r.stdout, "pw-ro-0123") || !strings.Contains(r.stderr, "Vault is away; trying again") {
			t.Errorf("%s%s", r.stdout, r.stderr)
		}
	})
	t.Run("sealed for good", func(t *testing.T) {
		w := newVaultWorld(t)
		w.must("request vault/orders-db --action read")
		w.vault.sealed = 1 << 20
		if r := w.run("get vault/orders-db"); r.code != ExitUnreachable || !strings.Contains(r.stderr, "is sealed or not ready") {
			t.Errorf("exit %d, %s", r.code, r.stderr)
		}
		w.vault.mu.Lock()
		w.vault.sealed = 0
		w.vault.mu.Unlock()
		w.must("get vault/orders-db") // nothing was lost
	})
	t.Run("away", func(t *testing.T) {
		w := newVaultWorld(t)
		w.vault.Close()
		r := w.run("run vault/orders-db --action read -- true")
		if r.code != ExitUnreachable || !strings.Contains(r.stderr, "can't be reached") || w.newest().State != access.StateReleased {
			t.Errorf("exit %d, %s, %s", r.code, r.stderr, w.newest().State)
		}
	})
	t.Run("not configured", func(t *testing.T) {
		w := newVaultWorld(t)
		delete(w.env, "HALLPASS_VAULT_ADDRESS")
		t.Setenv("VAULT_ADDR", "")
		w.must("request vault/orders-db --action read")
		if r := w.run("get vault/orders-db"); r.code != ExitError || !strings.Contains(r.stderr, "isn't told where Vault is\n  try: set VAULT_ADDR") {
			t.Errorf("exit %d, %s", r.code, r.stderr)
		}
		w.env["VAULT_ADDR"] = w.vault.URL
		t.Setenv("VAULT_TOKEN", "hvs.mine")
		t.Setenv("VAULT_WRAP_TTL", "60s")
		w.must("get vault/orders-db")
		if strings.Contains(strings.Join(w.vault.asked, " "), "hvs.mine") {
			t.Error("the user's own token was used")
		}
	})
	t.Run("not https", func(t *testing.T) {
		w := newVaultWorld(t)
		w.env["HALLPASS_VAULT_ADDRESS"] = "http://vault.example.com:8200"
		w.must("request vault/orders-db --action read")
		if r := w.run("get vault/orders-db"); r.code != ExitError || !strings.Contains(r.stderr, "http://vault.example.com:8200 is not https") {
			t.Errorf("exit %d, %s", r.code, r.stderr)
		}
	})
	t.Run("not its certificate", func(t *testing.T) {
		w := newVaultWorld(t)
		server := httptest.NewUnstartedServer(w.vault)
		server.Config.ErrorLog = log.New(io.Discard, "", 0)
		server.StartTLS()
		defer server.Close()
		w.env["HALLPASS_VAULT_ADDRESS"] = server.URL
		w.must("request vault/orders-db --action read")
		if r := w.run("get vault/orders-db"); r.code != ExitError || !strings.Contains(r.stderr, "Vault's certificate is not good: ") || !strings.Contains(r.stderr, "VAULT_CACERT") {
			t.Errorf("exit %d, %s", r.code, r.stderr)
		}
	})
	t.Run("crashed while opening", func(t *testing.T) {
		w := newVaultWorld(t)
		w.must("request vault/orders-db --action read")
		id := w.newest().ID
		f := &folder{path: w.home(), now: w.now.Now}
		check(t, f.setMark(id, mark{At: w.now.Now()}))
		w.must("get " + id) // before it had been sent
		w.must("request vault/orders-db --action read")
		id = w.newest().ID
		check(t, f.setMark(id, mark{At: w.now.Now()}))
		delete(w.vault.wrapped, "hvs.wrapping-2")
		r := w.run("get " + id)
		if r.code != ExitError || !strings.Contains(r.stderr, "began to be opened ") || w.newest().State != access.StateActive {
			t.Errorf("exit %d, %s", r.code, r.stderr)
		}
	})
	t.Run("revoked before it was opened", func(t *testing.T) {
		w := newVaultWorld(t)
		w.must("request vault/orders-db --action read")
		w.vault.wrapped["hvs.wrapping-1"].dead = true
		if r := w.run("get vault/orders-db"); r.code != ExitError || !strings.Contains(r.stderr, "its token is dead in Vault") {
			t.Errorf("exit %d, %s", r.code, r.stderr)
		}
	})
	t.Run("the grant has ended", func(t *testing.T) {
		w := newVaultWorld(t)
		w.must("request vault/orders-db --action read --for 5m")
		w.now.advance(6 * time.Minute)
		w.vault.wrapped = nil
		if r := w.run("get vault/orders-db"); r.code != ExitError || !strings.Contains(r.stderr, "has ended") {
			t.Errorf("exit %d, %s", r.code, r.stderr)
		}
	})
	for name, want := range map[string]string{
		"kv": "what is at secret/thing in Vault has no lease", "gone": "there is nothing at nowhere/x in Vault",
	} {
		t.Run(name, func(t *testing.T) {
			w := newVaultWorld(t)
			r := w.run("run vault/" + name + " -- true")
			if r.code != ExitError || !strings.Contains(r.stderr, want) || w.newest().State != access.StateReleased {
				t.Errorf("exit %d, %s", r.code, r.stderr)
			}
		})
	}
	t.Run("pending", func(t *testing.T) {
		w := newVaultWorld(t)
		id := w.ask("vault/crown --reason x")
		if r := w.run("get " + id); r.code != ExitError || !strings.Contains(r.stderr, "it is pending\n  try: hallpass wait "+id) {
			t.Errorf("exit %d, %s", r.code, r.stderr)
		}
	})
	t.Run("elsewhere", func(t *testing.T) {
		w := newVaultWorld(t)
		w.must("request vault/orders-db --action read")
		w.env["HALLPASS_HOME"] = filepath.Join(w.dir, "elsewhere")
		for _, line := range []string{"get ", "wait "} {
			if r := w.run(line + w.newest().ID); r.code != ExitError || !strings.Contains(r.stderr, "not on this machine") {
				t.Errorf("exit %d, %s", r.code, r.stderr)
			}
		}
	})
	t.Run("a host", func(t *testing.T) {
		w := newVaultWorld(t)
		id := w.ask("ssh/test-1")
		if r := w.run("get " + id); r.code != ExitUsage || !strings.Contains(r.stderr, "is a host") {
			t.Errorf("exit %d, %s", r.code, r.stderr)
		}
	})
}

// The waiting ends when it was said to, in a way that a script can tell.
func TestTimeout(t *testing.T) {
	w := newVaultWorld(t)
	before := w.now.Now()
	r := w.run("request vault/crown --reason x --timeout 10m")
	id := w.newest().ID
	if r.code != ExitGaveUp || r.stdout != id+"\n" || !strings.Contains(r.stderr, "hallpass: not granted within 10m\n  try: the request goes on: hallpass wait "+id) {
		t.Errorf("exit %d, %q, %s", r.code, r.stdout, r.stderr)
	}
	if waited := w.now.Now().Sub(before); waited < 10*time.Minute || waited > 10*time.Minute+lastPoll {
		t.Errorf("waited %v", waited)
	}
	r = w.run("wait -o json --timeout 1m " + id)
	var g granted
	check(t, json.Unmarshal([]byte(r.stdout), &g))
	if r.code != ExitGaveUp || g.ID != id || g.State != access.StatePending || g.Resource != "vault/crown" {
		t.Errorf("exit %d, %+v, %s", r.code, g, r.stderr)
	}
	if st := w.newest(); st.State != access.StatePending {
		t.Errorf("it is %s", st.State)
	}
	// run has no use for a grant that comes later.
	r = w.run("run vault/crown --reason x --timeout 1m -- true")
	if st := w.newest(); r.code != ExitGaveUp || st.State != access.StateCancelled || !strings.Contains(r.stderr, "not granted within 1m; the request was withdrawn") {
		t.Errorf("exit %d, %s, %s", r.code, st.State, r.stderr)
	}
	// Granted in time.
	if r := w.run("request vault/orders-db --action read --timeout 1m"); r.code != 0 {
		t.Errorf("exit %d, %s", r.code, r.stderr)
	}
	if _, err := w.service.Status(context.Background(), id); err != nil {
		t.Error(err)
	}
}
