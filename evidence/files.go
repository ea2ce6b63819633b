package evidence

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"hallpass/access"
	"hallpass/internal/trusted"
)

// maxFile bounds what is read of a file. The parsers have lower bounds.
const maxFile = 16 << 20

// settle is how long after its last change a file is looked into each time,
// whatever its stamp says: a second write within one tick of the file system's
// clock leaves the stamp as it was. The coarsest clocks still in use tick in
// two seconds.
const settle = 2*time.Second + 100*time.Millisecond

// FilesOptions say who wants to know of changes. All may be left out.
type FilesOptions struct {
	Log *slog.Logger
	// OnChange is called with each new rulebook after the first, before
	// anybody gets it. Neither function may call back into Files.
	OnChange func(*Rulebook)
	// OnBroken is called once for each broken version of the files.
	OnBroken func(error)
}

// Files keeps a Rulebook fresh from its three files. There is no watcher to
// miss anything: each call of Rulebook looks at the files.
//
// A file is best replaced by renaming a finished one over it. A file written
// in place can be seen half written; then it counts as it is seen, for the
// moment until it is seen again. One that others than root and this process's
// user could change, or put another in the place of, is broken, whatever it says.
type Files struct {
	o     FilesOptions
	paths [3]string // policy, directory, catalog

	mu     sync.Mutex
	seen   [3]seen
	book   *Rulebook
	good   [3][sha256.Size]byte // digests of the files that book is of
	bad    string               // what was last told to OnBroken
	broken error
}

// seen is a file as it was last read.
type seen struct {
	stamp stamp
	fresh bool // changed so lately that the stamp proves nothing
	data  []byte
	sum   [sha256.Size]byte
}

// stamp is what stat tells of a file, as far as it changes when the file does.
// The change time is in it because, unlike the modification time, it can't be
// set back.
type stamp struct {
	dev, ino     uint64
	size         int64
	mtime, ctime unix.Timespec
}

// OpenFiles reads the three files. They have to be good to begin with.
func OpenFiles(policy, directory, catalog string, o FilesOptions) (*Files, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	f := &Files{o: o, paths: [3]string{policy, directory, catalog}}
	if _, err := f.read(); err != nil {
		return nil, err
	}
	book, err := f.parse()
	if err != nil {
		return nil, err
	}
	f.take(book)
	return f, nil
}

// Rulebook is the rulebook of this moment: of the files as they are now, or,
// where they are broken, as they last were good. It is never nil.
func (f *Files) Rulebook() *Rulebook {
	f.mu.Lock()
	defer f.mu.Unlock()
	changed, err := f.read()
	switch {
	case err != nil:
		f.breaks(err, err.Error())
	case changed || f.broken != nil:
		f.renew()
	}
	return f.book
}

// Broken is why the files, as last looked at, are not what Rulebook returned;
// nil if they are.
func (f *Files) Broken() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.broken
}

// renew makes a rulebook of what was read.
func (f *Files) renew() {
	sums := f.sums()
	if sums == f.good {
		if f.broken != nil {
			f.o.Log.Info("rulebook files are as they were before")
		}
		f.broken, f.bad = nil, ""
		return
	}
	version := fmt.Sprintf("%x", sums)
	if version == f.bad {
		return // broken, and has been told
	}
	book, err := f.parse()
	if err != nil {
		f.breaks(err, version)
		return
	}
	f.take(book)
	f.o.Log.Info("rulebook changed", "digests", book.Digests())
	if f.o.OnChange != nil {
		f.o.OnChange(book)
	}
}

func (f *Files) take(book *Rulebook) {
	f.book, f.good, f.broken, f.bad = book, f.sums(), nil, ""
}

// breaks notes that the files are broken, and tells so once per version.
func (f *Files) breaks(err error, version string) {
	f.broken = err
	if version == f.bad {
		return
	}
	f.bad = version
	f.o.Log.Error("rulebook files are broken; the last good ones stay in force", "error", err, "hint", access.HintOf(err))
	if f.o.OnBroken != nil {
		f.o.OnBroken(err)
	}
}

func (f *Files) parse() (*Rulebook, error) {
	var s [3]Source
	for i := range s {
		s[i] = Source{f.paths[i], f.seen[i].data}
	}
	return ReadRulebook(s[0], s[1], s[2])
}

func (f *Files) sums() (out [3][sha256.Size]byte) {
	for i := range out {
		out[i] = f.seen[i].sum
	}
	return out
}

// read looks at the files and reads again what may have changed. It says
// whether any of the bytes did.
func (f *Files) read() (changed bool, err error) {
	strangers := trusted.Paths(f.paths[:]...)
	for i, path := range f.paths {
		c, e := f.seen[i].look(path, strangers[i])
		changed = changed || c
		err = errors.Join(err, e)
	}
	return changed, err
}

// look does that with one file; stranger is why it isn't in the right hands.
func (s *seen) look(path string, stranger error) (changed bool, err error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return false, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG { // opening a pipe would wait
		return false, fmt.Errorf("%s is not a regular file", path)
	}
	if stranger != nil { // also where what it says is the same
		return false, stranger
	}
	now := stampOf(&st)
	if now == s.stamp && !s.fresh {
		return false, nil
	}
	data, now, err := readFile(path)
	if err != nil {
		return false, err
	}
	sum := sha256.Sum256(data)
	changed = sum != s.sum || s.data == nil
	age := time.Since(time.Unix(now.ctime.Unix()))
	*s = seen{stamp: now, fresh: age < settle, data: data, sum: sum}
	return changed, nil
}

// readFile reads a file and its stamp, from before the reading: a write that
// comes later changes it, or comes within the time that counts as fresh.
func readFile(path string) ([]byte, stamp, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, stamp{}, err
	}
	defer func() { _ = file.Close() }() // only read
	if err := trusted.File(file); err != nil {
		return nil, stamp{}, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(file.Fd()), &st); err != nil {
		return nil, stamp{}, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	data, err := io.ReadAll(io.LimitReader(file, maxFile+1))
	if err != nil {
		return nil, stamp{}, err
	}
	if len(data) > maxFile {
		return nil, stamp{}, fmt.Errorf("%s is larger than %d bytes", path, maxFile)
	}
	return data, stampOf(&st), nil
}

func stampOf(st *unix.Stat_t) stamp {
	return stamp{uint64(st.Dev), st.Ino, st.Size, st.Mtim, st.Ctim} //nolint:unconvert // Dev is an int32 on macOS
}
