package notify

import (
	"bytes"
	"encoding/base64"
	"path/filepath"
	"strings"
	"testing"

	"hallpass/access"
)

// A list of channels is refused in its place, in one line and without what is
// secret in it, or it can be used. So is the secret of a webhook.
func FuzzParse(f *testing.F) {
	f.Add([]byte("allow: [10.0.0.0/8]\nchannels:\n  ops: {type: slack, url: 'https://x.example.com/hook', groups: [sre], reason: left-out}\n"))
	f.Add([]byte("channels:\n  mail: {type: email, server: 'mail.example.com:587', from: a@example.com, to: [b@example.com], user: u, password_file: nowhere}\n"))
	f.Add([]byte("channels: {a: {type: webhook, url: 'https://u:p@x.example.com', secret_file: nowhere}}\n"))
	f.Add([]byte("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"))
	f.Add([]byte("whsec_" + strings.Repeat("QUFB", 22)))
	f.Add([]byte("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2La\r\nLaSw=="))
	path := filepath.Join(f.TempDir(), "notify.yaml") // it may name files beside it
	f.Fuzz(func(t *testing.T, data []byte) {
		secret, err := parseSecret(string(data))
		if err != nil {
			if access.CodeOf(err) != access.CodeMalformed || access.CheckText("error", err.Error(), 200) != nil || len(data) > 100 && strings.Contains(err.Error(), string(data)) {
				t.Errorf("%q", err)
			}
		} else if again, err := parseSecret("whsec_" + base64.StdEncoding.EncodeToString(secret)); len(secret) < 24 || len(secret) > 64 || err != nil || !bytes.Equal(again, secret) {
			t.Errorf("%d bytes of a secret, which are read again as %d (%v)", len(secret), len(again), err)
		}
		if strings.Contains(string(data), "_file") && strings.Contains(string(data), "/") {
			t.Skip("it names files of this machine")
		}
		c, err := parse(path, data)
		if err != nil {
			if text := err.Error(); !strings.HasPrefix(text, path+":") || access.CheckText("error", text, 10_000) != nil {
				t.Errorf("%q", text)
			}
			return
		}
		if len(c.Channels) == 0 || len(c.Channels) > maxChannels {
			t.Errorf("%d channels", len(c.Channels))
		}
		for _, one := range c.Channels {
			if access.CheckName("channel", one.Name) != nil {
				t.Errorf("channel %q", one.Name)
			}
		}
	})
}
