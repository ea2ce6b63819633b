package codec

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	commonpb "go.temporal.io/api/common/v1"
	failurepb "go.temporal.io/api/failure/v1"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"
	"google.golang.org/protobuf/proto"

	"hallpass/access"
)

// line is a key of one repeated byte.
func line(id string, b byte) string {
	return id + " " + base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{b}, keyLen)) + "\n"
}

func keyFile(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "codec.keys")
	replace(t, path, text)
	return path
}

// replace puts a file into the place of another, as people are told to.
func replace(t *testing.T, path, text string) {
	t.Helper()
	temp := path + ".new"
	if err := os.WriteFile(temp, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(temp, path); err != nil {
		t.Fatal(err)
	}
}

func ring(t *testing.T, text string) *Ring {
	t.Helper()
	r, err := Open(keyFile(t, text))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func payload(text string) *commonpb.Payload {
	return &commonpb.Payload{Metadata: map[string][]byte{converter.MetadataEncoding: []byte("json/plain")}, Data: []byte(text)}
}

func encode(t *testing.T, r *Ring, p *commonpb.Payload) *commonpb.Payload {
	t.Helper()
	out, err := r.Encode([]*commonpb.Payload{p})
	if err != nil {
		t.Fatal(err)
	}
	return out[0]
}

func TestEncodeAndDecode(t *testing.T) {
	r := ring(t, line("k1", 1))
	for _, p := range []*commonpb.Payload{payload(`"find out why"`), payload(""), {}, payload(strings.Repeat("x", 1<<20))} {
		sealed := encode(t, r, p)
		if again := encode(t, r, p); bytes.Equal(sealed.Data, again.Data) {
			t.Error("the same payload looks the same twice")
		}
		if bytes.Contains(sealed.Data, []byte("find out why")) || bytes.Contains(sealed.Data, []byte("json/plain")) {
			t.Error("it can be read")
		}
		clear, err := r.Decode([]*commonpb.Payload{sealed})
		if err != nil || !proto.Equal(clear[0], p) {
			t.Errorf("decodes to %v, %v", clear, err)
		}
	}
	plain := payload(`"from a client without keys"`)
	if out, err := r.Decode([]*commonpb.Payload{plain}); err != nil || !proto.Equal(out[0], plain) {
		t.Errorf("what isn't encrypted doesn't pass: %v, %v", out, err)
	}
}

// A new key in front encrypts, in a ring that is in use; the old one decrypts
// until it is taken out.
func TestRotate(t *testing.T) {
	path := keyFile(t, line("k1", 1))
	r, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	old := encode(t, r, payload("old"))
	for _, step := range []struct{ file, with, missing string }{
		{line("k1", 1) + line("k2", 2), "k1", ""},
		{"# since today\n" + line("k2", 2) + line("k1", 1), "k2", ""},
		{line("k2", 2), "k2", "k1"},
		{"half a fi", "k2", "k1"}, // the last good one counts
	} {
		replace(t, path, step.file)
		if got := string(encode(t, r, payload("new")).Metadata[KeyID]); got != step.with {
			t.Errorf("encrypts with %s, want %s", got, step.with)
		}
		_, err := r.Decode([]*commonpb.Payload{old})
		if (err != nil) != (step.missing != "") || err != nil && (access.CodeOf(err) != access.CodeNotFound || !strings.Contains(err.Error(), `"k1"`)) {
			t.Errorf("the old one: %v", err)
		}
	}
}

// Who has no keys at all waits for them too: what isn't encrypted passes as it
// is, and what is can be told from what can't be read.
func TestNoKeys(t *testing.T) {
	none := &Ring{}
	plain := payload("plain")
	if out, err := none.Encode([]*commonpb.Payload{plain}); err != nil || !proto.Equal(out[0], plain) {
		t.Errorf("encodes to %v, %v", out, err)
	}
	if out, err := none.Decode([]*commonpb.Payload{plain}); err != nil || !proto.Equal(out[0], plain) {
		t.Errorf("decodes to %v, %v", out, err)
	}
	if _, err := none.Decode([]*commonpb.Payload{encode(t, ring(t, line("k1", 1)), plain)}); access.CodeOf(err) != access.CodeNotFound || !strings.Contains(err.Error(), "temporal.codec is not configured") {
		t.Errorf("what is encrypted: %v", err)
	}
	failure := none.FailureConverter().ErrorToFailure(errors.New("why"))
	if failure.Message != "why" || failure.EncodedAttributes != nil {
		t.Errorf("a failure: %v", failure)
	}
}

// While the last good keys count, it can be told that the file isn't good.
func TestBroken(t *testing.T) {
	path := keyFile(t, line("k1", 1))
	r, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct {
		name string
		do   func() error
		want string
	}{
		{"good", func() error { return nil }, ""},
		{"half a file", func() error { replace(t, path, "half a fi"); return nil }, "has 3 words"},
		{"mended", func() error { replace(t, path, line("k2", 2)); return nil }, ""},
		{"others can read it", func() error { return os.Chmod(path, 0o644) }, "has mode 0644"},
		{"again they can't", func() error { return os.Chmod(path, 0o600) }, ""},
		{"gone", func() error { return os.Remove(path) }, "no such file"},
	} {
		if err := step.do(); err != nil {
			t.Fatal(err)
		}
		err := r.Broken()
		if (err == nil) != (step.want == "") || err != nil && !strings.Contains(err.Error(), step.want) {
			t.Errorf("%s: %v, want %q", step.name, err, step.want)
		}
		encode(t, r, payload("goes on")) // with the last good ones
	}
	if err := (&Ring{}).Broken(); err != nil {
		t.Errorf("no file: %v", err)
	}
}

func TestDecodeRefuses(t *testing.T) {
	r := ring(t, line("k1", 1)+line("k2", 2))
	for name, spoil := range map[string]func(*commonpb.Payload){
		"changed":      func(p *commonpb.Payload) { p.Data[len(p.Data)-20] ^= 1 },
		"cut off":      func(p *commonpb.Payload) { p.Data = p.Data[:len(p.Data)-1] },
		"no nonce":     func(p *commonpb.Payload) { p.Data = p.Data[:11] },
		"empty":        func(p *commonpb.Payload) { p.Data = nil },
		"other key's":  func(p *commonpb.Payload) { p.Metadata[KeyID] = []byte("k2") },
		"other's name": func(p *commonpb.Payload) { p.Metadata[KeyID] = []byte("k3") },
		"no name":      func(p *commonpb.Payload) { delete(p.Metadata, KeyID) },
	} {
		p := encode(t, r, payload("a text of some length"))
		spoil(p)
		if out, err := r.Decode([]*commonpb.Payload{p}); err == nil {
			t.Errorf("%s: decodes to %v", name, out)
		}
	}
}

func TestOpenRefuses(t *testing.T) {
	for _, tt := range []struct{ name, text, want string }{
		{"no key", "# nothing\n\n", "there is no key in"},
		{"one word", "k1\n", ":1: a line is an id and a key, this one has 1 words"},
		{"short", "\nk1 c2hvcnQ=\n", ":2: the key k1 is not the Base64 of 32 bytes"},
		{"not Base64", "k1 " + strings.Repeat("!", 44) + "\n", ":1: the key k1 is not the Base64 of 32 bytes"},
		{"twice", line("k1", 1) + line("k1", 2), ":2: the id k1 is there twice"},
		{"bad id", "k\x7f " + strings.Fields(line("x", 1))[1], ":1: "},
		{"too long", strings.Repeat("#", maxFile+1), "is longer than 16384 bytes"},
	} {
		_, err := Open(keyFile(t, tt.text))
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want %q", tt.name, err, tt.want)
		}
		if err != nil && strings.Contains(err.Error(), "c2hvcnQ") {
			t.Errorf("%s: the error shows the key", tt.name)
		}
	}
	path := keyFile(t, line("k1", 1))
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(path); err == nil || !strings.Contains(err.Error(), "has mode 0640, so others can read it") {
		t.Errorf("a key that others can read: %v", err)
	}
	if _, err := Open(path + "-not"); access.CodeOf(err) != access.CodeNotFound {
		t.Errorf("no file: %v", err)
	}
}

func TestNewKey(t *testing.T) {
	now := time.Date(2026, 11, 27, 9, 0, 0, 0, time.UTC)
	one, two := NewKey(now), NewKey(now)
	if one == two || !strings.HasPrefix(one, "20261127-") {
		t.Errorf("%s, %s", one, two)
	}
	ring(t, one+"\n"+two+"\n")
}

// For want of a key a workflow waits, and doesn't fail; a message is dropped.
func TestConverterWaitsForKeys(t *testing.T) {
	sealed, err := ring(t, line("k1", 1)).Converter().ToPayloads(access.Submission{})
	if err != nil {
		t.Fatal(err)
	}
	without := ring(t, line("k2", 2)).Converter()
	within := without.(workflow.ContextAware).WithWorkflowContext(nil)
	paniced := func(to any) (said any, err error) {
		defer func() { said = recover() }()
		return nil, within.FromPayloads(sealed, to)
	}
	if said, _ := paniced(new(access.Submission)); said == nil || !strings.Contains(said.(string), `"k1"`) {
		t.Errorf("what a workflow begins with: panics with %v", said)
	}
	if said, err := paniced(new(access.Statement)); access.CodeOf(err) != access.CodeNotFound || said != nil {
		t.Errorf("a message: %v, panics with %v", err, said)
	}
	var raw json.RawMessage
	if said, err := paniced(&raw); err != nil || said != nil || !strings.Contains(string(raw), `"k1"`) {
		t.Errorf("a message as it came: %q, %v, panics with %v", raw, err, said)
	}
	if err := without.FromPayloads(sealed, new(access.Submission)); access.CodeOf(err) != access.CodeNotFound {
		t.Errorf("elsewhere: %v", err)
	}
	sealed.Payloads[0].Data[20] ^= 1
	changed := ring(t, line("k1", 1)).Converter().(workflow.ContextAware).WithWorkflowContext(nil)
	if err := changed.FromPayloads(sealed, new(access.Submission)); access.CodeOf(err) != access.CodeUnverified {
		t.Errorf("what was changed: %v", err)
	}
	// The same as without the key: or who has it would replay it differently.
	raw = nil
	if err := changed.FromPayloads(sealed, &raw); err != nil || len(raw) == 0 {
		t.Errorf("a message that was changed: %q, %v", raw, err)
	}
	plain := &commonpb.Payloads{Payloads: []*commonpb.Payload{{Metadata: map[string][]byte{converter.MetadataEncoding: []byte("binary/odd")}}}}
	if err := within.FromPayloads(plain, &raw); err == nil {
		t.Error("a message in an encoding that nobody can read isn't dropped")
	}
}

// A failure's message and stack are encrypted with it.
func TestFailures(t *testing.T) {
	r := ring(t, line("k1", 1))
	fc := r.FailureConverter()
	failure := fc.ErrorToFailure(temporal.NewApplicationError("find out why", "t", "a detail"))
	text, err := proto.Marshal(failure)
	if err != nil {
		t.Fatal(err)
	}
	for _, secret := range []string{"find out why", "a detail"} {
		if bytes.Contains(text, []byte(secret)) {
			t.Errorf("%q can be read in a failure", secret)
		}
	}
	if err := fc.FailureToError(failure); !strings.Contains(err.Error(), "find out why") {
		t.Errorf("decodes to %v", err)
	}
}

// A workflow waits for the key of a refusal, too: it would take it for an
// activity that somebody has ended by hand.
func TestFailureConverterWaitsForKeys(t *testing.T) {
	sender, receiver := ring(t, line("k2", 2)+line("k1", 1)), ring(t, line("k1", 1))
	refusal := sender.FailureConverter().ErrorToFailure(temporal.NewNonRetryableApplicationError("find out why", "forbidden", nil, access.Error{Code: access.CodeForbidden}))
	within := receiver.FailureConverter().(converter.FailureConverterWithSerializationContext).WithSerializationContext(converter.ActivitySerializationContext{})
	detailed := proto.Clone(refusal).(*failurepb.Failure)
	detailed.EncodedAttributes = nil
	for name, f := range map[string]*failurepb.Failure{
		"message": {EncodedAttributes: refusal.EncodedAttributes},
		"details": detailed,
		"a cause": {Message: "activity error", FailureInfo: &failurepb.Failure_ActivityFailureInfo{ActivityFailureInfo: &failurepb.ActivityFailureInfo{}}, Cause: refusal},
	} {
		func() {
			defer func() {
				if said, _ := recover().(string); !strings.Contains(said, `"k2"`) {
					t.Errorf("%s without the key: panics with %q", name, said)
				}
			}()
			t.Errorf("%s without the key: %v", name, within.FailureToError(proto.Clone(f).(*failurepb.Failure)))
		}()
	}
	// A client is told what there is to tell.
	if err := receiver.FailureConverter().FailureToError(proto.Clone(refusal).(*failurepb.Failure)); err == nil {
		t.Error("a client hears nothing")
	}
	replace(t, receiver.path, line("k1", 1)+line("k2", 2))
	var app *temporal.ApplicationError
	var got access.Error
	if err := within.FailureToError(refusal); !errors.As(err, &app) || app.Message() != "find out why" || app.Details(&got) != nil || got.Code != access.CodeForbidden {
		t.Errorf("with the key: %v, %+v", err, got)
	}
}

func TestHandler(t *testing.T) {
	const origin = "http://127.0.0.1:8080"
	r := ring(t, line("k1", 1))
	s := httptest.NewServer(Handler(r, origin, "t0ken"))
	defer s.Close()
	var sent bytes.Buffer
	sent.WriteString(`{"payloads":[`)
	sealed := encode(t, r, payload(`"find out why"`))
	sent.WriteString(`{"metadata":{"encoding":"` + base64.StdEncoding.EncodeToString(sealed.Metadata[converter.MetadataEncoding]) +
		`","` + KeyID + `":"` + base64.StdEncoding.EncodeToString(sealed.Metadata[KeyID]) + `"},"data":"` + base64.StdEncoding.EncodeToString(sealed.Data) + `"}]}`)
	clear := base64.StdEncoding.EncodeToString([]byte(`"find out why"`))
	for _, tt := range []struct {
		name, method, path, origin, bearer string
		status                             int
	}{
		{"the UI", "POST", "/t0ken/decode", origin, "", 200},
		{"with a bearer token", "POST", "/decode", origin, "t0ken", 200},
		{"not a browser", "POST", "/t0ken/decode", "", "", 200},
		{"another page", "POST", "/t0ken/decode", "http://evil.example", "", 403},
		{"another page of no origin", "POST", "/t0ken/decode", "null", "", 403},
		{"no token", "POST", "/decode", origin, "", 404},
		{"wrong token", "POST", "/t0kem/decode", origin, "", 404},
		{"wrong bearer", "POST", "/decode", origin, "t0ke", 404},
		{"empty token", "POST", "//decode", origin, "", 404},
		{"somewhere else", "POST", "/t0ken/keys", origin, "", 404},
		{"preflight", "OPTIONS", "/t0ken/decode", origin, "", 204},
		{"preflight of another page", "OPTIONS", "/t0ken/decode", "http://evil.example", "", 403},
	} {
		t.Run(tt.name, func(t *testing.T) {
			request, err := http.NewRequest(tt.method, s.URL+tt.path, bytes.NewReader(sent.Bytes()))
			if err != nil {
				t.Fatal(err)
			}
			if tt.origin != "" {
				request.Header.Set("Origin", tt.origin)
			}
			if tt.bearer != "" {
				request.Header.Set("Authorization", "Bearer "+tt.bearer)
			}
			request.Header.Set("Content-Type", "application/json")
			answer, err := http.DefaultClient.Do(request)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = answer.Body.Close() }()
			var body bytes.Buffer
			if _, err := body.ReadFrom(answer.Body); err != nil {
				t.Fatal(err)
			}
			if answer.StatusCode != tt.status || strings.Contains(body.String(), clear) != (tt.status == 200) {
				t.Errorf("%s: %s", answer.Status, body.String())
			}
			if allowed := answer.Header.Get("Access-Control-Allow-Origin"); allowed != "" && allowed != origin {
				t.Errorf("lets %s read it", allowed)
			}
		})
	}
	answer := httptest.NewRecorder()
	Handler(r, origin, "").ServeHTTP(answer, httptest.NewRequest(http.MethodPost, "//decode", nil))
	if answer.Code != http.StatusNotFound {
		t.Errorf("without a token anybody gets in: %d", answer.Code)
	}
}

// oneKey is a ring of the key k1, the same in each process.
func oneKey(t testing.TB) *Ring {
	t.Helper()
	path := filepath.Join(t.TempDir(), "codec.keys")
	if err := os.WriteFile(path, []byte(line("k1", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	r, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func FuzzDecode(f *testing.F) {
	r := oneKey(f)
	f.Add("k1", []byte("0123456789abcdef0123456789abcdef"))
	// What r.Encode made of a payload: another each time, so it stands here.
	good, err := hex.DecodeString("2bfb20ccd4427cae2410fb1b2b8edbcc1fd9c49660e493262033489ea4f2743773aaa050f3a09f14a21f32e4b74c184c8159fdc13f99c31df9")
	if err != nil {
		f.Fatal(err)
	}
	f.Add("k1", good)
	f.Add("k2", good)
	f.Add("k1", good[:len(good)-1])
	f.Add("k1", append(bytes.Clone(good), 0))
	f.Fuzz(func(t *testing.T, id string, data []byte) {
		out, err := r.Decode([]*commonpb.Payload{{
			Metadata: map[string][]byte{converter.MetadataEncoding: []byte(Encoding), KeyID: []byte(id)}, Data: data,
		}})
		if is := id == "k1" && bytes.Equal(data, good); (err == nil) != is {
			t.Errorf("%v, %v: is it what was encrypted? %t", out, err, is)
		}
	})
}

// Whoever asks the codec, and for what: only who has the token, from where the UI is, is
// answered with what was encrypted.
func FuzzHandler(f *testing.F) {
	r := oneKey(f)
	const origin, token, body = "https://ui.example.com", "t0ken", `{"payloads":[{"metadata":{"encoding":"anNvbi9wbGFpbg=="},"data":"IngiCg=="}]}`
	h := Handler(r, origin, token)
	f.Add("POST", "/t0ken/encode", origin, "", body)
	f.Add("POST", "/encode", "", "Bearer t0ken", body)
	f.Add("POST", "//encode", origin, "Bearer ", body)
	f.Add("POST", "/t0ken/../t0ken/decode", "https://ui.example.com.evil", "t0ken", body)
	f.Add("OPTIONS", "/decode", origin, "", "")
	f.Add("GET", "/t0ken/decode", "", "", `{"payloads":[{"metadata":null},null]}`)
	f.Fuzz(func(t *testing.T, method, path, from, auth, body string) {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, (&http.Request{Method: method, URL: &url.URL{Path: path}, Header: http.Header{"Origin": {from}, "Authorization": {auth}},
			Body: io.NopCloser(strings.NewReader(body))}).WithContext(t.Context()))
		if w.Header().Get("Cache-Control") != "no-store" {
			t.Error("it may be kept")
		}
		if w.Code != http.StatusOK {
			return
		}
		given := strings.TrimPrefix(path, "/")
		inPath := given == token+"/decode" || given == token+"/encode"
		inHeader := (given == "decode" || given == "encode") && strings.TrimPrefix(auth, "Bearer ") == token
		if !inPath && !inHeader || from != "" && from != origin {
			t.Errorf("%q %q from %q, with %q, is answered", method, path, from, auth)
		}
	})
}

func FuzzParse(f *testing.F) {
	f.Add(line("k1", 1) + "# x\n" + line("k2", 2))
	f.Fuzz(func(t *testing.T, text string) {
		keys, err := parse("keys", text)
		if (err == nil) != (len(keys) > 0) {
			t.Errorf("%d keys and %v", len(keys), err)
		}
	})
}
