//go:build linux

package host

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"hallpass/access"
)

// What isn't hallpass's answer is not the user's bad input: hallpass-host doesn't end as
// for wrong usage.
func TestExitCodesOfReplies(t *testing.T) {
	for _, tt := range []struct {
		status int
		body   string
		want   int
	}{
		{404, "<html>not here</html>", 5}, // of a proxy
		{403, "", 5},
		{404, `{"code":"not-found","message":"no such host"}`, 7},
		{400, `{"code":"malformed","message":"the token is none"}`, 2},
		{429, "slow down", 5},
		{502, "<html>bad gateway</html>", 5},
		{200, "<html>welcome</html>", 5},
	} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(tt.status)
			_, _ = w.Write([]byte(tt.body))
		}))
		s := &service{url: server.URL, http: server.Client()}
		var reply access.Statement
		err := s.post(t.Context(), "/v1/hosts", struct{}{}, &reply)
		server.Close()
		if err == nil || access.CodeOf(err).ExitCode() != tt.want {
			t.Errorf("%d %s: exit code %d, want %d: %v", tt.status, tt.body, access.CodeOf(err).ExitCode(), tt.want, err)
		}
	}
	if _, err := parseKeys(nil); access.CodeOf(err).ExitCode() != 6 {
		t.Errorf("no CA key: %v", err)
	}
	// A program that refuses every configuration.
	if err := (sshd{program: "/bin/false"}).test("/dev/null"); access.CodeOf(err).ExitCode() != 1 || access.HintOf(err) == "" {
		t.Errorf("sshd refuses: %v", err)
	}
}
