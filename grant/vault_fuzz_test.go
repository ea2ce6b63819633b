package grant

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"hallpass/access"
)

// FuzzVaultAnswers: what Vault says of a token is a handle, or the token isn't
// hallpass's, or it is an error of one line, however long and whatever it is that
// Vault says.
func FuzzVaultAnswers(f *testing.F) {
	k := &Vault{TokenRole: "hallpass-req"}
	f.Add([]byte(`{"path":"auth/token/create/hallpass-req","meta":{"hallpass_request":"0197a3c4-5d6e-7f80-9abc-def012345678"},"creation_time":1893456000,"explicit_max_ttl":3600,"issue_time":"2030-01-01T00:00:00.123456789Z"}`))
	f.Add([]byte(`{"path":"auth/token/create/hallpass-req","meta":{"hallpass_request":"x"},"creation_time":"now","explicit_max_ttl":1e400,"issue_time":7}`))
	f.Add([]byte(`{"path":"auth/token/create/hallpass-req","meta":{"hallpass_request":"x"},"creation_time":"\u001b[2J` + strings.Repeat("x", 400) + `","issue_time":"\u001b[2J` + strings.Repeat("x", 400) + `"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var token map[string]any
		d := json.NewDecoder(bytes.NewReader(data)) // as Vault's own client reads it
		d.UseNumber()
		if d.Decode(&token) != nil {
			return
		}
		short := func(err error) {
			t.Helper()
			if err != nil && access.CheckText("error", err.Error(), 300) != nil {
				t.Errorf("of %q is said: %q", data, err)
			}
		}
		at, err := issued(token)
		short(err)
		if err == nil && at.IsZero() && token["issue_time"] != "0001-01-01T00:00:00Z" {
			t.Logf("%q was issued at %s", data, at)
		}
		h, ours, err := k.handle("accessor", token)
		short(err)
		meta, _ := token["meta"].(map[string]any)
		if ours && (token["path"] != "auth/token/create/hallpass-req" || meta["hallpass_request"] == "" || h.Accessor != "accessor") {
			t.Errorf("%q is a token of hallpass's: %+v", data, h)
		}
		if h.Request != "" && uuid.Validate(h.Request) != nil {
			t.Errorf("%q is for request %q", data, h.Request)
		}
		if ours && err == nil && h.NotBefore.Location() != time.UTC {
			t.Errorf("%q begins at %s", data, h.NotBefore)
		}
	})
}
