//go:build linux

package host

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"

	"hallpass/access"
	"hallpass/ca/krl"
)

// lists keeps sshd's list of revoked keys: the latest one that a trusted CA
// key has signed. There are two files: the signed one, which is the truth
// after a restart, and the plain one that sshd reads.
type lists struct {
	layout Layout
	keygen string // ssh-keygen, which reads lists as sshd does; empty if there is none
	now    func() time.Time
	log    *slog.Logger

	mu      sync.Mutex
	list    *krl.List // the latest that was verified; nil: none yet
	data    []byte    // its bytes
	good    []byte    // what sshd's file has to be: data, unless OpenSSH can't read that
	placed  os.FileInfo
	problem string // why the latest one that was offered wasn't taken; empty if it was
}

// signedList is the file signedKRL.
type signedList struct {
	List      []byte `json:"list"`
	Signature string `json:"signature"`
}

// load takes up what an earlier run kept, and makes sshd's file what it should
// be. Without a good list sshd's file is left alone, unless it is one that
// sshd would take for "nothing is revoked", or refuse every key for: then
// there is an empty list, and no session of hallpass opens until there is a
// real one.
func (l *lists) load() (*krl.List, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	list, data, err := l.read()
	if err == nil {
		l.list, l.data = list, data
		return list, l.place(data)
	}
	if plain, readErr := os.ReadFile(l.layout.revokedKeys()); readErr == nil {
		if _, parseErr := krl.Parse(plain); parseErr == nil {
			return nil, err
		}
	}
	empty, emptyErr := (&krl.List{Generated: l.now().Truncate(time.Second)}).Marshal()
	if emptyErr == nil {
		emptyErr = write(l.layout.revokedKeys(), empty, 0o644)
	}
	return nil, errors.Join(err, emptyErr)
}

// read reads the file signedKRL.
func (l *lists) read() (*krl.List, []byte, error) {
	data, err := os.ReadFile(l.layout.signedKRL())
	if err != nil {
		return nil, nil, err
	}
	var s signedList
	if err := json.Unmarshal(data, &s); err != nil {
		return nil, nil, fmt.Errorf("%s: %w", l.layout.signedKRL(), err)
	}
	list, err := l.open(s)
	return list, s.List, err
}

func (l *lists) open(s signedList) (*krl.List, error) {
	trusted, err := readKeys(l.layout.userCAs())
	if err != nil {
		return nil, err
	}
	return krl.Open(s.List, s.Signature, trusted)
}

// take takes in a list from the service if it is signed by a CA key that this
// host trusts, reads well, and is newer than the one there is. Else the one
// there is stays, and the problem shows.
//
// use gets the new list before sshd does, since to write it safely takes a
// while. Whoever logs in meanwhile is caught when PAM opens his session.
func (l *lists) take(ctx context.Context, s signedList, use func(*krl.List)) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	list, err := l.check(s)
	if err == nil && list != nil {
		l.list, l.data = list, s.List
		use(list)
		if err = l.ask(ctx, s.List); err == nil {
			err = l.keep(s)
		}
	}
	l.problem = ""
	if err != nil {
		l.problem = err.Error()
	}
	return err
}

// check verifies a list. The result is nil if it is the one there is.
func (l *lists) check(s signedList) (*krl.List, error) {
	list, err := l.open(s)
	switch {
	case err != nil:
		return nil, err
	case l.list == nil || list.Version > l.list.Version:
		return list, nil
	case list.Version < l.list.Version:
		return nil, access.Errorf(access.CodeStale, "list of revoked certificates goes back from version %d to %d", l.list.Version, list.Version)
	case !bytes.Equal(s.List, l.data):
		return nil, access.Errorf(access.CodeMismatch, "two lists of revoked certificates have version %d", list.Version)
	}
	return nil, nil
}

// keep writes both files, sshd's first.
func (l *lists) keep(s signedList) error {
	data, err := json.Marshal(s)
	if err != nil {
		return err
	}
	return errors.Join(l.place(s.List), write(l.layout.signedKRL(), data, 0o644))
}

// ask asks OpenSSH whether it can read the list too: one that it can't would
// lock out everybody.
func (l *lists) ask(ctx context.Context, data []byte) (err error) {
	if l.keygen == "" {
		return nil
	}
	f, err := os.CreateTemp(filepath.Dir(l.layout.revokedKeys()), ".asked-*")
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(f.Name()) }()
	_, err = f.Write(data)
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, l.keygen, "-Q", "-l", "-f", f.Name())
	if err := cmd.Run(); err != nil {
		return access.Errorf(access.CodeMalformed, "OpenSSH can't read the list of revoked certificates: %v", err)
	}
	return nil
}

// place writes sshd's file.
func (l *lists) place(data []byte) error {
	path := l.layout.revokedKeys()
	if err := write(path, data, 0o644); err != nil {
		return err
	}
	l.good = data
	info, err := os.Stat(path)
	l.placed = info
	return err
}

// guard puts sshd's file back if somebody changed it: an empty one would let
// everybody in.
func (l *lists) guard() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.good == nil {
		return
	}
	info, err := os.Stat(l.layout.revokedKeys())
	if err == nil && l.placed != nil && os.SameFile(info, l.placed) &&
		info.Size() == l.placed.Size() && info.ModTime().Equal(l.placed.ModTime()) {
		return
	}
	l.log.Error("sshd's list of revoked keys was changed by somebody else; it is put back", "file", l.layout.revokedKeys())
	if err := l.place(l.good); err != nil {
		l.log.Error("sshd's list of revoked keys can't be put back", "error", err)
	}
}

// ListStatus is how the list of revoked certificates stands.
type ListStatus struct {
	Version   uint64    `json:"version"`
	Generated time.Time `json:"generated"`
	Revoked   int       `json:"revoked"` // certificates
	Size      int       `json:"size"`    // bytes
	Stale     bool      `json:"stale"`
	Problem   string    `json:"problem,omitempty"`
}

func (l *lists) status() ListStatus {
	l.mu.Lock()
	defer l.mu.Unlock()
	st := ListStatus{Problem: l.problem, Stale: true}
	if l.list != nil {
		st.Version, st.Generated = l.list.Version, l.list.Generated
		st.Revoked, st.Size = l.list.Len(), len(l.data)
		st.Stale = l.now().Sub(l.list.Generated) > krl.MaxAge
	}
	return st
}

func (l *lists) version() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.list == nil {
		return 0
	}
	return l.list.Version
}
