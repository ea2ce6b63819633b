//go:build linux

package host

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
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
	alone  bool   // sshd decides without the agent, which would look at the whole list when a session opens
	now    func() time.Time
	log    *slog.Logger

	mu      sync.Mutex
	list    *krl.List // the latest that was verified; nil: none yet
	least   uint64    // no version before it is taken, whatever list is
	old     uint64    // the version that was offered as the first, and was too old; the next one is waited for
	data    []byte    // its bytes
	good    *part     // what sshd's file has to be; nil: not known
	placed  os.FileInfo
	problem string      // why the latest one that was offered wasn't taken; empty if it was
	unkept  *signedList // the latest, as long as it isn't in both files; guard tries again
	said    string      // why guard couldn't write it, as the log has it
	refused verdict     // the last one of OpenSSH
}

// verdict is about a list that OpenSSH has refused. It is asked again some time later:
// it may have been updated.
type verdict struct {
	data []byte
	at   time.Time
	err  error
}

// askAgain is how long a refusal of OpenSSH's counts.
const askAgain = 10 * time.Minute

// errNotAsked is that OpenSSH couldn't be asked for its opinion.
var errNotAsked = errors.New("OpenSSH can't be asked whether it reads the list of revoked certificates")

// part is what of a list sshd has to know: all that could open something here.
type part struct {
	list   *krl.List // the whole
	series []uint32  // what it was made for
	all    bool      // it is the whole: what opens something here can't be told
	data   []byte
	n      int // entries
}

// maxEntries is how many entries sshd should have to read, which it does four
// times for each login: these take about 10 ms (docs/hosts.md). More are no danger,
// but felt.
const maxEntries = 8000

// signedList is the file signedKRL.
type signedList struct {
	List      []byte `json:"list"`
	Signature string `json:"signature"`
}

// load takes up what an earlier run kept, and makes sshd's file what it should
// be. Without a good list sshd's file is left alone, unless it is one that
// sshd would take for "nothing is revoked", or refuse every key for: then
// there is an empty list, and no session of hallpass opens until there is a
// real one. It never goes back: if what was kept is older than what sshd has,
// what sshd has is added to it until the service says more.
func (l *lists) load() (*krl.List, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	list, data, err := l.read()
	if err == nil {
		l.list, l.data = list, data
		all := list
		if plain := l.plain(); plain != nil && plain.Version > list.Version {
			l.least = l.floor(plain.Version)
			l.problem = fmt.Sprintf("sshd's is version %d, and the signed one that was kept is version %d", plain.Version, list.Version)
			l.log.Error("the kept list of revoked certificates is older than sshd's, which is added to it", "kept", list.Version, "sshd", plain.Version)
			all = both(list, plain)
		}
		p, err := l.part(all)
		if err != nil {
			return list, err
		}
		return list, l.place(p)
	}
	if plain := l.plain(); plain != nil {
		l.least = l.floor(plain.Version)
		return nil, err
	}
	empty, emptyErr := (&krl.List{Generated: l.now().Truncate(time.Second)}).Marshal()
	if emptyErr == nil {
		emptyErr = write(l.layout.revokedKeys(), empty, 0o644)
	}
	return nil, errors.Join(err, emptyErr)
}

// both is what either of two lists revokes. sshd's has only what concerned the
// principals of its time; the whole may be needed for those that come.
func both(list, plain *krl.List) *krl.List {
	out := &krl.List{Version: plain.Version, Generated: plain.Generated}
	for _, ca := range slices.Concat(list.CAs, plain.CAs) {
		i := slices.IndexFunc(out.CAs, func(c krl.CA) bool { return bytes.Equal(c.Key.Marshal(), ca.Key.Marshal()) })
		if i < 0 {
			out.CAs = append(out.CAs, krl.CA{Key: ca.Key, Ranges: ca.Ranges})
			continue
		}
		all := slices.Concat(out.CAs[i].Ranges, ca.Ranges)
		slices.SortFunc(all, func(a, b krl.Range) int { return cmp.Compare(a.First, b.First) })
		joined := all[:0]
		for _, r := range all {
			if n := len(joined); n > 0 && r.First-1 <= joined[n-1].Last {
				joined[n-1].Last = max(joined[n-1].Last, r.Last)
				continue
			}
			joined = append(joined, r)
		}
		out.CAs[i].Ranges = joined
	}
	return out
}

// plain reads sshd's file: nil if sshd would refuse every key for it, or there is
// none.
func (l *lists) plain() *krl.List {
	data, err := os.ReadFile(l.layout.revokedKeys())
	if err != nil {
		return nil
	}
	list, err := krl.Parse(data)
	if err != nil {
		return nil
	}
	return list
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

// distrust forgets how far lists have come if the CA that signed the last one isn't
// trusted any more: whoever has its key can have said any version. What sshd has
// stays until there is another, which has to be of the last few minutes.
func (l *lists) distrust() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.old = 0
	if l.list == nil {
		return
	}
	if _, _, err := l.read(); access.CodeOf(err) == access.CodeUnverified {
		l.least = l.floor(l.list.Version)
		l.list, l.data, l.unkept = nil, nil, nil
	}
}

// floor is the least version that comes after one that nobody vouches for any more. Issuers
// count milliseconds since 1970; a later one than now was made up, and tells nothing.
func (l *lists) floor(version uint64) uint64 {
	if version > uint64(l.now().Add(access.ClockSkew).UnixMilli()) {
		return 0
	}
	return version
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
		l.list, l.data, l.unkept, l.least, l.old = list, s.List, &s, 0, 0
		use(list)
		err = l.keep(ctx)
	}
	l.problem, l.said = "", ""
	if err != nil {
		l.problem, l.said = err.Error(), reason(err) // the caller says it
	}
	return err
}

var temporary = regexp.MustCompile(`\.(asked|new)-\d+`)

// reason is an error without the names of files that are others each time.
func reason(err error) string { return temporary.ReplaceAllString(err.Error(), "") }

// check verifies a list. The result is nil if it is the one there is.
func (l *lists) check(s signedList) (*krl.List, error) {
	list, err := l.open(s)
	switch {
	case err != nil:
		return nil, err
	case list.Version < l.least:
		return nil, access.Errorf(access.CodeStale, "list of revoked certificates goes back from version %d, which sshd has, to %d", l.least, list.Version)
	case l.list == nil:
		if err := recent(list, l.now()); err != nil {
			l.old = list.Version
			return nil, err
		}
		return list, nil
	case list.Version > l.list.Version:
		return list, nil
	case list.Version < l.list.Version:
		return nil, access.Errorf(access.CodeStale, "list of revoked certificates goes back from version %d to %d", l.list.Version, list.Version)
	case !bytes.Equal(s.List, l.data):
		return nil, access.Errorf(access.CodeMismatch, "two lists of revoked certificates have version %d", list.Version)
	}
	return nil, nil
}

// recent refuses a list that isn't one of the last few minutes. Where nobody knows how
// far lists had come, the service could begin with any that a CA has ever signed.
func recent(list *krl.List, now time.Time) error {
	age := now.Sub(list.Generated)
	if age < -access.ClockSkew {
		return access.Errorf(access.CodeStale, "the list of revoked certificates was made in %s from now", access.ShortDuration(-age.Truncate(time.Second))).
			WithHint("compare the clocks of the two machines")
	}
	if age > krl.MaxAge {
		return access.Errorf(access.CodeStale, "the list of revoked certificates was made %s ago, and the first one that a host takes is at most %s old",
			access.ShortDuration(age.Truncate(time.Second)), access.ShortDuration(krl.MaxAge)).WithHint("is the service's issuer running? compare the clocks of the two machines")
	}
	return nil
}

// keep writes the latest list to both files, the signed one first: that is the
// one that the next start goes by. If that fails, sshd gets to know all the
// same. One that OpenSSH refuses is in neither; one that OpenSSH couldn't be asked
// about is in the signed one alone. Whatever fails, guard tries it again: the
// service won't send the list a second time.
func (l *lists) keep(ctx context.Context) error {
	data, err := json.Marshal(l.unkept)
	if err != nil {
		return err
	}
	p, err := l.part(l.list)
	if err != nil {
		return err
	}
	err = l.ask(ctx, p.data)
	switch {
	case errors.Is(err, errNotAsked):
		err = errors.Join(err, write(l.layout.signedKRL(), data, 0o644))
	case err != nil:
		return err
	default:
		err = errors.Join(write(l.layout.signedKRL(), data, 0o644), l.place(p))
	}
	if err != nil {
		return fmt.Errorf("list %d of revoked certificates can't be written: %w", l.list.Version, err)
	}
	l.unkept = nil
	return nil
}

// part is sshd's part of a list. Extra are principals that are about to be
// honoured beside those that are.
func (l *lists) part(list *krl.List, extra ...string) (*part, error) {
	p := &part{list: list}
	var err error
	if p.series, err = l.series(extra); err != nil {
		if l.good == nil || !l.good.all {
			l.log.Warn("sshd gets the whole list of revoked certificates", "why", err)
		}
		p.all = true
	} else {
		list = list.For(p.series)
	}
	p.n = list.Entries()
	p.data, err = list.Marshal()
	return p, err
}

// series lists the series of the certificates that open something here, by the
// principals that sshd honours. An error means that it can't be told, or not
// relied on: a Match in sshd's configuration may have other principals for
// somebody.
func (l *lists) series(extra []string) ([]uint32, error) {
	if l.alone {
		return nil, errors.New("PAM is not set up, so the agent can't look again when a session opens")
	}
	entries, err := os.ReadDir(l.layout.principals())
	if err != nil {
		return nil, err
	}
	principals := slices.Clone(extra)
	for _, e := range entries {
		data, err := os.ReadFile(filepath.Join(l.layout.principals(), e.Name()))
		if err != nil {
			return nil, err
		}
		for line := range strings.Lines(string(data)) {
			if line = strings.TrimSpace(line); line != "" && line[0] != '#' {
				principals = append(principals, line)
			}
		}
	}
	var series []uint32
	for _, p := range principals {
		name, login, ok := strings.Cut(p, "/")
		if !ok || access.CheckResource("ssh/"+name) != nil || access.CheckLogin(login) != nil {
			return nil, access.Errorf(access.CodeMalformed, "principal %.80q is not of the form name/login", p)
		}
		series = append(series, krl.Series(name))
	}
	slices.Sort(series)
	return slices.Compact(series), nil
}

// expect makes sshd's file one that also has what concerns further principals,
// before they are honoured.
func (l *lists) expect(principals map[string][]string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.good == nil {
		return nil
	}
	p, err := l.part(l.good.list, slices.Concat(slices.Collect(maps.Values(principals))...)...)
	if err != nil {
		return err
	}
	return l.place(p)
}

// ask asks OpenSSH whether it can read the list too: one that it can't would
// lock out everybody. The error is errNotAsked where nobody knows.
func (l *lists) ask(ctx context.Context, data []byte) (err error) {
	if l.keygen == "" {
		return nil
	}
	if r := l.refused; r.err != nil && bytes.Equal(r.data, data) && l.now().Sub(r.at).Abs() < askAgain {
		return r.err
	}
	f, err := os.CreateTemp(filepath.Dir(l.layout.revokedKeys()), ".asked-*")
	if err != nil {
		return fmt.Errorf("%w: %w", errNotAsked, err)
	}
	defer func() { _ = os.Remove(f.Name()) }()
	_, err = f.Write(data)
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("%w: %w", errNotAsked, err)
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	err = exec.CommandContext(ctx, l.keygen, "-Q", "-l", "-f", f.Name()).Run()
	var exit *exec.ExitError
	switch {
	case err == nil:
		l.refused = verdict{}
		return nil
	case ctx.Err() != nil:
		return fmt.Errorf("%w: %w", errNotAsked, ctx.Err())
	case errors.As(err, &exit) && exit.Exited():
		l.refused = verdict{data, l.now(), access.Errorf(access.CodeMalformed, "OpenSSH can't read the list of revoked certificates: %v", err)}
		return l.refused.err
	}
	return fmt.Errorf("%w: %w", errNotAsked, err)
}

// place writes sshd's file.
func (l *lists) place(p *part) error {
	path := l.layout.revokedKeys()
	if err := write(path, p.data, 0o644); err != nil {
		return err
	}
	l.good = p
	info, err := os.Stat(path)
	l.placed = info
	return err
}

// guard puts sshd's file back if somebody changed it: an empty one would let
// everybody in. It also makes it anew if the principals have changed, and
// writes the latest list if that failed before. What fails is said once for each
// reason.
func (l *lists) guard(ctx context.Context) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.unkept != nil {
		err := l.keep(ctx)
		if err == nil {
			l.log.Info("list of revoked certificates is written at last", "version", l.list.Version)
			l.problem, l.said = "", ""
			return
		}
		if ctx.Err() != nil {
			return // the agent stops, and that is why
		}
		l.problem = err.Error()
		if why := reason(err); why != l.said {
			l.said = why
			l.log.Error("list of revoked certificates is not in force for sshd", "version", l.list.Version, "error", err)
		}
	}
	if l.good == nil {
		return
	}
	if series, err := l.series(nil); (err != nil) != l.good.all || !slices.Equal(series, l.good.series) {
		p, err := l.part(l.good.list)
		if err == nil {
			err = l.place(p)
		}
		if err != nil {
			l.log.Error("sshd's list of revoked keys can't be made anew", "error", err)
		}
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
	Here      int       `json:"here"`    // entries that sshd reads: those that can concern this host
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
	if l.good != nil {
		st.Here = l.good.n
	}
	return st
}

func (l *lists) version() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	last := max(l.old, max(l.least, 1)-1)
	if l.list != nil {
		last = max(last, l.list.Version)
	}
	return last
}
