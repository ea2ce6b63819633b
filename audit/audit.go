// Package audit is the record: an append-only log of everything that happened
// to requests, and the ledger of what was issued, in one SQLite file or in a
// PostgreSQL database.
//
// Use a Log (Open) in the processes that decide and issue; it needs the log's
// private key. Use a Reader (OpenReader) to look, verify, prove and export; it
// needs the public key alone and never writes.
//
// What is promised:
//
//   - A method that writes returns nil only after the event is on disk (SQLite:
//     write-ahead log, synchronous=FULL; PostgreSQL: synchronous_commit and
//     fsync, looked at in each transaction) and covered by a signed checkpoint.
//   - Events are the leaves of a Merkle tree (RFC 6962). Each transaction ends
//     with a checkpoint of the tree, signed with Ed25519. Whoever keeps a
//     checkpoint elsewhere finds out when an event up to there is changed,
//     removed, inserted or moved.
//   - Any number of goroutines and processes may write to one log: the size of
//     the tree is read inside the transaction that grows it, so the log never
//     forks. A log that doesn't fit its last checkpoint takes no more events,
//     and a writer adds to none that is shorter than when it looked last.
//   - The first event of a (Request, Step) wins; saying it again changes nothing
//     and returns the same index. After an error nobody knows: say it again.
//   - The ledger and its events change in one transaction.
//
// What is not: whoever holds the log's private key and the database can write
// another history that verifies, up to the checkpoints kept elsewhere. Events
// after the last checkpoint kept elsewhere can be cut off by whoever owns the
// database.
package audit

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/mod/sumdb/note"

	"hallpass/access"
)

// Options are for Open.
type Options struct {
	Database string           // path of the SQLite file, made with mode 0600 where there is none, or a postgres:// address (CheckDatabase)
	Key      string           // the log's private key, as ReadKey returns it
	Now      func() time.Time // nil: time.Now
}

// Log is an audit log that can be written to. It is safe for concurrent use,
// and so are several Logs, in one process or in many, on the same database.
type Log struct {
	*Reader
	signer  note.Signer
	now     func() time.Time
	doubted bool // now is the machine's clock, which may be wrong

	inForce atomic.Pointer[access.Digests] // of the last RecordRulebook
	full    atomic.Int64                   // when no room was last found, in Unix nanoseconds; 0: a later one has

	db      *database
	session session         // the writer goroutine's own, nil where it has to connect; and so are these:
	files   map[string]bool // steps of rulebook files that are in the log
	last    Checkpoint      // the latest one, when it looked last
	lastMsg []byte
	ops     chan *op
	closing chan struct{}
	closed  chan struct{}
	once    sync.Once
}

// Open opens the log for writing, and makes one where there is none. It
// refuses a log that is signed with another key, that doesn't fit its last
// checkpoint, or that a newer hallpass has written.
func Open(ctx context.Context, o Options) (*Log, error) {
	signer, verifier, err := parseKey(o.Key)
	if err != nil {
		return nil, err
	}
	l := &Log{
		signer:  signer,
		now:     o.Now,
		doubted: o.Now == nil,
		files:   map[string]bool{},
		ops:     make(chan *op),
		closing: make(chan struct{}),
		closed:  make(chan struct{}),
	}
	if l.now == nil {
		l.now = time.Now
	}
	if l.db, err = openDatabase(o.Database, false); err != nil {
		return nil, err
	}
	if l.session, err = l.db.session(ctx, l.db.DB); err != nil {
		return nil, errors.Join(fmt.Errorf("open audit log: %w", explain(err)), l.db.Close())
	}
	if err = l.create(ctx, verifier); err == nil {
		l.Reader, err = openReader(ctx, o.Database, verifier)
	}
	if err != nil {
		return nil, errors.Join(err, l.session.Close(), l.db.Close())
	}
	l.findRoom(ctx)
	go l.write()
	return l, nil
}

// create makes the tables where there are none, and checks what is there. Both
// happen with the write lock held, so that processes starting together make
// one log.
func (l *Log) create(ctx context.Context, verifier note.Verifier) (err error) {
	if _, err := l.session.send(ctx, l.db.lock()...); err != nil {
		return fmt.Errorf("open audit log: %w", explain(err))
	}
	defer func() {
		if err != nil {
			_, _ = l.session.send(context.WithoutCancel(ctx), stmt{query: "ROLLBACK"})
		}
	}()
	have, err := checkSchema(ctx, l.db, l.session)
	if err != nil && !errors.Is(err, errEmpty) {
		return err
	}
	if have == 0 {
		if err := create(ctx, l.db, l.session, have); err != nil {
			return err
		}
		msg, err := emptyCheckpoint(l.signer)
		if err != nil {
			return err
		}
		if _, err := l.session.send(ctx, insertCheckpoint(0, msg)); err != nil {
			return fmt.Errorf("create audit log: %w", explain(err))
		}
	}
	var first []byte
	if err := l.session.QueryRowContext(ctx, "SELECT note FROM checkpoints WHERE size = 0").Scan(&first); errors.Is(err, sql.ErrNoRows) {
		return broken("its first checkpoint is missing")
	} else if err != nil {
		return fmt.Errorf("open audit log: %w", explain(err))
	}
	if _, err := openCheckpoint(first, verifier); err != nil {
		return err
	}
	var h head
	if _, err := l.session.send(ctx, h.query(l.db)); err != nil {
		return fmt.Errorf("open audit log: %w", explain(err))
	}
	open := func(msg []byte) (Checkpoint, error) { return openCheckpoint(msg, verifier) }
	if _, l.last, err = h.tree(open); err != nil {
		return err
	}
	if err := h.durable(); err != nil {
		return err
	}
	// Whoever has another key, or a log that is damaged, changes nothing in it.
	if have > 0 {
		if err := create(ctx, l.db, l.session, have); err != nil {
			return err
		}
	}
	l.lastMsg = h.msg
	if _, err := l.session.send(ctx, stmt{query: commitWork}); err != nil {
		return fmt.Errorf("open audit log: %w", explain(err))
	}
	return nil
}

// emptyCheckpoint is that of the empty log, which binds the database to its key.
func emptyCheckpoint(s note.Signer) ([]byte, error) {
	var empty tree
	return Checkpoint{s.Name(), 0, empty.root()}.sign(s)
}

// Close waits for what is being written and closes the database. Calls that come
// after it fail with CodeUnavailable.
func (l *Log) Close() error {
	var err error
	l.once.Do(func() {
		close(l.closing)
		<-l.closed
		err = l.Reader.Close()
		if l.session != nil {
			err = errors.Join(err, l.session.Close())
		}
		err = errors.Join(err, l.db.Close())
	})
	return err
}

// Reader is an audit log that can only be looked at. It is safe for concurrent
// use, and sees what others write meanwhile.
type Reader struct {
	db          *database
	verifier    note.Verifier
	locks       lockCache
	delegations delegationCache
	past        pastCache
}

// OpenReader opens the log for reading: the SQLite file at a path, or the
// PostgreSQL database at an address (CheckDatabase). The key is the log's
// public key.
func OpenReader(ctx context.Context, database, key string) (*Reader, error) {
	v, err := parsePublicKey(key)
	if err != nil {
		return nil, err
	}
	return openReader(ctx, database, v)
}

func openReader(ctx context.Context, name string, v note.Verifier) (*Reader, error) {
	db, err := openDatabase(name, true)
	if err != nil {
		return nil, err
	}
	r := &Reader{db: db, verifier: v}
	// Whoever brings the tables up meanwhile has done it, or not yet.
	conn, end, err := r.snapshot(ctx)
	if err == nil {
		_, err = checkSchema(ctx, db, conn)
		end()
	}
	if errors.Is(err, errEmpty) {
		err = access.Errorf(access.CodeNotFound, "there is no audit log in %s yet: it is empty", db)
	}
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return r, nil
}

// Close closes the database.
func (r *Reader) Close() error { return r.db.Close() }

// PublicKey names the key that signs the log's checkpoints, as "name+hash".
func (r *Reader) PublicKey() string {
	return fmt.Sprintf("%s+%08x", r.verifier.Name(), r.verifier.KeyHash())
}

func (r *Reader) open(msg []byte) (Checkpoint, error) { return openCheckpoint(msg, r.verifier) }
