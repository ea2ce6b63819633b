//go:build linux

// Package host is hallpass on the machines that people log in to: it keeps
// sshd's revocation list fresh and ends SSH sessions when their grant ends.
//
// Use Enroll once on a new host, Run for as long as the host lives, Hook from
// PAM, Check and Query when something is wrong. Stock sshd does the letting
// in; nothing here stands between a client and it.
//
// What is promised, with PAM and cgroup v2:
//
//   - A session that was opened with a certificate of hallpass is gone, with
//     every process that it started and that didn't leave its cgroup, within a
//     second of the certificate's end, where no more than about 100 end at
//     the same moment. That needs no message and no network.
//   - The same happens when the agent learns that the certificate is revoked.
//   - While the agent is down, nobody gets in with such a certificate, and the
//     sessions that are open stay; the next start takes them up again.
//   - A session that isn't tied to a certificate of hallpass is never touched,
//     and logins with other keys don't depend on the agent.
//
// What isn't: root on the host can leave its cgroup, and what at, cron or a
// service manager starts on somebody's behalf isn't part of a session.
// docs/hosts.md has the whole of it.
package host

import (
	"errors"
	"os"
	"path/filepath"
	"time"
)

// Layout says where files are. The zero value is the real place of each.
type Layout struct {
	Root string // put in front of every path; empty on a real host
}

func (l Layout) path(elem ...string) string {
	return filepath.Join(append([]string{"/", l.Root}, elem...)...)
}

// The folders. Only etc is read by others than root: sshd reads principals as
// the one who logs in.
func (l Layout) etc() string   { return l.path("etc", "hallpass-host") }
func (l Layout) state() string { return l.path("var", "lib", "hallpass-host") }
func (l Layout) run() string   { return l.path("run", "hallpass-host") }

func (l Layout) configFile() string  { return filepath.Join(l.etc(), "config.json") }
func (l Layout) agentKey() string    { return filepath.Join(l.etc(), "agent_key") }
func (l Layout) serviceCA() string   { return filepath.Join(l.etc(), "service_ca.pem") }
func (l Layout) userCAs() string     { return filepath.Join(l.etc(), "user_ca.pub") }
func (l Layout) trustedCA() string   { return filepath.Join(l.etc(), "trusted_ca") }
func (l Layout) hostCAs() string     { return filepath.Join(l.etc(), "host_ca.pub") }
func (l Layout) hostCert() string    { return filepath.Join(l.etc(), "host_key-cert.pub") }
func (l Layout) principals() string  { return filepath.Join(l.etc(), "principals") }
func (l Layout) revokedKeys() string { return filepath.Join(l.state(), "revoked_keys") }
func (l Layout) signedKRL() string   { return filepath.Join(l.state(), "krl.json") }
func (l Layout) queue() string       { return filepath.Join(l.state(), "queue") }
func (l Layout) socket() string      { return filepath.Join(l.run(), "agent.sock") }

// sessions is below /run, so that a reboot, which ends every session, also
// forgets it.
func (l Layout) sessions() string { return filepath.Join(l.run(), "sessions") }

// makeFolders makes what Run needs, private where it holds what nobody else
// has to see.
func (l Layout) makeFolders() error {
	for _, d := range []struct {
		path string
		mode os.FileMode
	}{
		{l.etc(), 0o755}, {l.state(), 0o755}, {l.queue(), 0o700}, {l.run(), 0o700}, {l.sessions(), 0o700},
	} {
		if err := os.MkdirAll(d.path, d.mode); err != nil {
			return err
		}
		if err := os.Chmod(d.path, d.mode); err != nil {
			return err
		}
	}
	return nil
}

// write replaces a file in one durable step: after a crash it is the old one
// or the new one.
func write(path string, data []byte, mode os.FileMode) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name())
		}
	}()
	_, err = f.Write(data)
	err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close())
	if err != nil {
		return err
	}
	if err = os.Rename(f.Name(), path); err != nil {
		return err
	}
	return syncFolder(filepath.Dir(path))
}

func syncFolder(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// pause is for waits that nothing can cut short: each is a fraction of a
// second, or measures.
func pause(d time.Duration) { <-time.After(d) }
