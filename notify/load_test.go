package notify

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestLoad(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil { // whatever the umask
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"slack.url": "https://hooks.example.com/services/T0/B0/secret\n", "hook.secret": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n",
		"bad.secret": "hunter2\n", "password": "secret\n", "odd.url": "ftp://x\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "open.url"), []byte("https://x.example.com\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	const mail = "type: email, server: 'mail.example.com:587', from: h@example.com, to: [a@example.com]"
	for name, c := range map[string]struct{ text, want string }{
		"all": {`allow: [10.1.0.0/16]
channels:
  chat: {type: slack, url_file: slack.url, groups: [sre], reason: included}
  teams: {type: teams, url: 'https://teams.example.com/x'}
  siem: {type: webhook, url: 'https://siem.example.com', secret_file: hook.secret}
  mail: {` + mail + `, user: hallpass, password_file: password}
  relay: {` + mail + `, tls: none}
`, ""},
		"nothing":           {"channels: {}\n", "no channels"},
		"unknown field":     {"channel: {}\n", `unknown field "channel"`},
		"unknown type":      {"channels: {a: {type: pager, url: 'https://x.example.com'}}\n", `channel a: type "pager" is not webhook, slack, teams or email`},
		"bad name":          {"channels: {A: {type: slack, url: 'https://x.example.com'}}\n", `channel "A" has a character outside`},
		"no address":        {"channels: {a: {type: slack}}\n", "it takes a url, or a url_file where the address is a secret"},
		"two addresses":     {"channels: {a: {type: slack, url: 'https://x.example.com', url_file: slack.url}}\n", "it takes a url, or a url_file"},
		"a password in it":  {"channels: {a: {type: slack, url: 'https://u:p@x.example.com'}}\n", "without a password in it"},
		"not the web":       {"channels: {a: {type: slack, url_file: odd.url}}\n", "its address is not https://"},
		"readable by all":   {"channels: {a: {type: slack, url_file: open.url}}\n", "chmod 600"},
		"missing file":      {"channels: {a: {type: slack, url_file: none.url}}\n", "no such file"},
		"webhook unsigned":  {"channels: {a: {type: webhook, url: 'https://x.example.com'}}\n", "a webhook needs a secret_file"},
		"webhook secret":    {"channels: {a: {type: webhook, url: 'https://x.example.com', secret_file: bad.secret}}\n", "a webhook's secret is whsec_"},
		"secret for slack":  {"channels: {a: {type: slack, url: 'https://x.example.com', secret_file: hook.secret}}\n", "type slack has no secret_file"},
		"mail for slack":    {"channels: {a: {type: slack, url: 'https://x.example.com', to: [a@example.com]}}\n", "type slack has no to"},
		"url for mail":      {"channels: {a: {" + mail + ", url: 'https://x.example.com'}}\n", "type email has no url"},
		"no server":         {"channels: {a: {type: email, from: h@example.com, to: [a@example.com]}}\n", `server "" is not host:port`},
		"no recipient":      {"channels: {a: {type: email, server: 'm:25', from: h@example.com}}\n", "at least one address in to"},
		"odd recipient":     {"channels: {a: {type: email, server: 'm:25', from: h@example.com, to: ['Bob <b@example.com>']}}\n", "is not an e-mail address"},
		"odd tls":           {"channels: {a: {" + mail + ", tls: maybe}}\n", `tls is starttls, tls or none, not "maybe"`},
		"password in clear": {"channels: {a: {" + mail + ", tls: none, user: h, password_file: password}}\n", "a password isn't sent without TLS"},
		"user alone":        {"channels: {a: {" + mail + ", user: h}}\n", "user and password_file go together"},
		"odd network":       {"allow: [internal]\nchannels: {a: {" + mail + "}}\n", `"internal" is not a network such as 10.1.2.0/24`},
		"odd reason":        {"channels: {a: {type: slack, url: 'https://x.example.com', reason: yes please}}\n", "reason is included or left-out"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(dir, "notify.yaml")
			if err := os.WriteFile(path, []byte(c.text), 0o600); err != nil {
				t.Fatal(err)
			}
			got, err := Load(path)
			if c.want != "" {
				if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "hunter2") {
					t.Errorf("error %v, want %s", err, c.want)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if len(got.Channels) != 5 || !got.Channels[0].Reason || got.Channels[0].Groups[0] != "sre" || got.Channels[1].Groups != nil {
				t.Errorf("%+v", got.Channels)
			}
		})
	}
}
