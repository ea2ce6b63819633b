package cli

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestHealth(t *testing.T) {
	for _, tt := range []struct {
		name, answer string
		status       int
		code         int
		out, err     string
	}{
		{"ready", `{"ready":true,"parts":[{"part":"temporal","ok":true,"detail":"127.0.0.1:7233"}]}`, 200, ExitOK, "ok   temporal          127.0.0.1:7233\n", ""},
		{"not ready", `{"ready":false,"parts":[{"part":"audit log","ok":false,"detail":"is read-only","hint":"name the primary"}]}`, 503, ExitUnreachable,
			"BAD  audit log         is read-only\n                       name the primary\n", "hallpass: the worker is not ready\n"},
		{"somebody else", `<html>`, 200, ExitError, "", " is not a worker of hallpass\n"},
		{"another's object", `{"status":"UP"}`, 200, ExitError, "", " is not a worker of hallpass\n"},
		{"another's error", `{"ready":true,"parts":[]}`, 404, ExitError, "", " is not a worker of hallpass\n"},
		{"an object of other types", `{"ready":"yes","parts":{}}`, 200, ExitError, "", " is not a worker of hallpass\n"},
		{"a list", `[1]`, 200, ExitError, "", " is not a worker of hallpass\n"},
		{"nothing", ``, 200, ExitError, "", " is not a worker of hallpass\n"},
		{"ready by half", `{"ready":true,"parts":[{"part":"temporal","ok":true,"detail":"x"}]}`, 503, ExitError, "", " is not a worker of hallpass\n"},
		{"nobody", "", 0, ExitUnreachable, "", "hallpass: no worker answers at 127.0.0.1:1: connect: connection refused\n"},
		{"not configured", "", -1, ExitNotFound, "", "health.address is not configured"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path != "/ready" {
					t.Errorf("asks for %s", r.URL.Path)
				}
				w.WriteHeader(tt.status)
				_, _ = w.Write([]byte(tt.answer))
			}))
			defer s.Close()
			env := map[string]string{"HOME": t.TempDir(), "HALLPASS_TEMPORAL_ADDRESS": "127.0.0.1:1"}
			switch tt.status {
			case -1:
			case 0:
				env["HALLPASS_HEALTH_ADDRESS"] = "127.0.0.1:1"
			default:
				env["HALLPASS_HEALTH_ADDRESS"] = strings.TrimPrefix(s.URL, "http://")
			}
			var out, errs bytes.Buffer
			code := Main(t.Context(), []string{"health"}, strings.NewReader(""), &out, &errs, func(name string) string { return env[name] })
			if code != tt.code || out.String() != tt.out || !strings.Contains(errs.String(), tt.err) {
				t.Errorf("exit code %d, want %d\n%q\n%q", code, tt.code, out.String(), errs.String())
			}
		})
	}
}
