package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// codecRun runs hallpass codec with a file of keys.
func codecRun(ctx context.Context, t *testing.T, out io.Writer, extra map[string]string, args ...string) (code int, stderr string) {
	t.Helper()
	env := map[string]string{"HOME": t.TempDir(), "HALLPASS_TEMPORAL_ADDRESS": "127.0.0.1:1", "HALLPASS_UI": "http://127.0.0.1:8080"}
	for name, value := range extra {
		env[name] = value
	}
	var errs bytes.Buffer
	code = Main(ctx, append([]string{"codec"}, args...), strings.NewReader(""), out, &errs, func(name string) string { return env[name] })
	return code, errs.String()
}

func keyRing(t *testing.T) string {
	t.Helper()
	var out bytes.Buffer
	if code, errs := codecRun(t.Context(), t, &out, nil, "key"); code != ExitOK {
		t.Fatal(errs)
	}
	path := filepath.Join(t.TempDir(), "codec.keys")
	if err := os.WriteFile(path, out.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// What is printed is an address at which the UI is answered, while it runs.
func TestCodecServe(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	r, w := io.Pipe()
	done := make(chan int, 1)
	go func() {
		code, errs := codecRun(ctx, t, w, map[string]string{"HALLPASS_TEMPORAL_CODEC": keyRing(t)}, "serve", "--address", "127.0.0.1:0", "--output", "json")
		_ = w.Close()
		if !strings.Contains(errs, "It runs until Ctrl-C.") {
			t.Errorf("says %q", errs)
		}
		done <- code
	}()
	var said struct{ Endpoint, Origin string }
	if err := json.NewDecoder(r).Decode(&said); err != nil {
		t.Fatal(err)
	}
	if said.Origin != "http://127.0.0.1:8080" || !strings.HasPrefix(said.Endpoint, "http://127.0.0.1:") {
		t.Errorf("%+v", said)
	}
	answer, err := http.Post(said.Endpoint+"/decode", "application/json", strings.NewReader(`{"payloads":[]}`))
	if err != nil {
		t.Fatal(err)
	}
	_ = answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		t.Errorf("answers %s", answer.Status)
	}
	cancel()
	if code := <-done; code != ExitOK {
		t.Errorf("exit code %d", code)
	}
}

func TestCodecServeRefuses(t *testing.T) {
	keys := keyRing(t)
	token := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(token, []byte("a-token-of-some-length\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	short := filepath.Join(t.TempDir(), "short")
	if err := os.WriteFile(short, []byte("short\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		env  map[string]string
		args []string
		code int
		want string
	}{
		{"nothing is encrypted", map[string]string{}, nil, ExitNotFound, "temporal.codec is not configured"},
		{"no file", map[string]string{"HALLPASS_TEMPORAL_CODEC": keys + "-not"}, nil, ExitNotFound, "there is no file of codec keys at"},
		{"no UI", map[string]string{"HALLPASS_TEMPORAL_CODEC": keys, "HALLPASS_UI": ""}, nil, ExitUsage, "--origin is missing"},
		{"no origin", map[string]string{"HALLPASS_TEMPORAL_CODEC": keys}, []string{"--origin", "nope"}, ExitUsage, "--origin nope is not an address such as http://127.0.0.1:8080"},
		{"this machine by name", map[string]string{"HALLPASS_TEMPORAL_CODEC": keys}, []string{"--address", "localhost:1"}, ExitUsage, "--address localhost:1 has a name in it: give 127.0.0.1:1"},
		{"no port", map[string]string{"HALLPASS_TEMPORAL_CODEC": keys}, []string{"--address", "127.0.0.1"}, ExitUsage, "--address 127.0.0.1 has no port: give 127.0.0.1:PORT"},
		{"an empty port", map[string]string{"HALLPASS_TEMPORAL_CODEC": keys}, []string{"--address", "127.0.0.1:"}, ExitUsage, "--address 127.0.0.1: has no port"},
		{"no such port", map[string]string{"HALLPASS_TEMPORAL_CODEC": keys}, []string{"--address", "127.0.0.1:99999"}, ExitUsage, "--address 127.0.0.1:99999: 99999 is not a port"},
		{"no token", map[string]string{"HALLPASS_TEMPORAL_CODEC": keys}, []string{"--token-file", token + "-not"}, ExitError, "try: (umask 077; openssl rand -hex 16 >"},
		{"to the world", map[string]string{"HALLPASS_TEMPORAL_CODEC": keys}, []string{"--address", "0.0.0.0:0"}, ExitUsage, "may not leave this machine"},
		{"by name", map[string]string{"HALLPASS_TEMPORAL_CODEC": keys}, []string{"--address", "example.com:80"}, ExitUsage, "may not leave this machine"},
		{"a token for all", map[string]string{"HALLPASS_TEMPORAL_CODEC": keys}, []string{"--token-file", token}, ExitRefused, "has mode 0644"},
		{"a short token", map[string]string{"HALLPASS_TEMPORAL_CODEC": keys}, []string{"--token-file", short}, ExitError, "is not a token: at least 16 letters and digits\n  try: (umask 077; openssl rand -hex 16 >"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			code, errs := codecRun(t.Context(), t, io.Discard, tt.env, append([]string{"serve"}, tt.args...)...)
			if code != tt.code || !strings.Contains(errs, tt.want) {
				t.Errorf("exit code %d, want %d: %s", code, tt.code, errs)
			}
		})
	}
}
