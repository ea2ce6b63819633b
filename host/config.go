//go:build linux

package host

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"golang.org/x/crypto/ssh"

	"hallpass/access"
)

// DefaultWarn is how long before the end of a grant the terminal is told,
// where neither the certificate nor the configuration says otherwise.
const DefaultWarn = 2 * time.Minute

// Config is /etc/hallpass-host/config.json, which Enroll writes. Of it, only
// warn_before is meant to be changed.
type Config struct {
	Service    string    `json:"service"`               // https://host:port
	Host       string    `json:"host"`                  // as the catalog names it, such as web-1
	WarnBefore string    `json:"warn_before"`           // such as 2m; 0s: no warning
	BreakGlass []string  `json:"break_glass"`           // accounts that PAM lets in without us
	SSHD       string    `json:"sshd"`                  // the program
	SSHDConfig string    `json:"sshd_config"`           // its main configuration
	PAM        string    `json:"pam"`                   // the file of its PAM service; empty: sessions aren't looked after
	HostKey    string    `json:"host_key"`              // the public key that the host certificate is for
	RenewAfter time.Time `json:"renew_after"`           // of the host certificate
	ReloadOwed bool      `json:"reload_owed,omitempty"` // sshd hasn't been told of the host certificate yet
}

func loadConfig(l Layout) (*Config, error) {
	data, err := os.ReadFile(l.configFile())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, access.Errorf(access.CodeNotFound, "this host is not enrolled: %s is not there", l.configFile()).
			WithHint("hallpass-host enroll --service URL --ca FILE --token TOKEN")
	}
	if err != nil {
		return nil, err
	}
	var c Config
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&c); err != nil {
		return nil, access.Errorf(access.CodeMalformed, "%s: %v", l.configFile(), err)
	}
	if _, err := c.warn(); err != nil {
		return nil, err
	}
	return &c, nil
}

func (c *Config) save(l Layout) error {
	data, err := c.encode()
	if err != nil {
		return err
	}
	return write(l.configFile(), data, 0o644)
}

func (c *Config) encode() ([]byte, error) {
	data, err := json.MarshalIndent(c, "", "  ")
	return append(data, '\n'), err
}

func (c *Config) warn() (time.Duration, error) {
	if c.WarnBefore == "" {
		return DefaultWarn, nil
	}
	d, err := access.ParseDuration(c.WarnBefore)
	if err != nil || d < 0 {
		return 0, access.Errorf(access.CodeMalformed, "warn_before %.40q is not a duration such as 2m", c.WarnBefore)
	}
	return d, nil
}

// loadAgentKey reads the key that signs what this host reports.
func loadAgentKey(path string) (ssh.Signer, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, access.Errorf(access.CodeMalformed, "%s can be read by others than root", path).WithHint("chmod 600 %s", path)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	key, err := ssh.ParsePrivateKey(data)
	if err != nil { // which may quote what is in the file
		return nil, fmt.Errorf("%s: %s", path, clean(err.Error()))
	}
	return key, nil
}
