package vault

import (
	"net/http"
	"testing"

	"github.com/hashicorp/vault/api"

	"hallpass/access"
)

// FuzzAnswer: what is shown of what Vault, or who answers in its place, says when
// it refuses is a line.
func FuzzAnswer(f *testing.F) {
	f.Add(http.StatusForbidden, "permission denied", "1 error occurred:\n\t* permission denied\n\n")
	f.Add(http.StatusServiceUnavailable, "Vault is sealed", "")
	f.Fuzz(func(t *testing.T, status int, one, two string) {
		err := (&Client{}).explain(&api.ResponseError{StatusCode: status, Errors: []string{one, two}, URL: "https://vault.example.com/v1/auth/token/create/hallpass-req"})
		if Status(err) != status {
			t.Errorf("status %d is %d", status, Status(err))
		}
		if access.CheckText("error", err.Error(), 1000) != nil {
			t.Errorf("of %d, %q, %q is said: %q", status, one, two, err)
		}
		_, _ = Gone(err), Interrupted(err)
	})
}
