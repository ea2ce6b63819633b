// Package audit is the record: an append-only log of everything that happened
// to requests, and the ledger of what was issued, in one SQLite file.
//
// Use a Log (Open) in the processes that decide and issue; it needs the log's
// private key. Use a Reader (OpenReader) to look, verify, prove and export; it
// needs the public key alone and never writes.
//
// What is promised:
//
//   - A method that writes returns nil only after the event is on disk
//     (write-ahead log, synchronous=FULL) and covered by a signed checkpoint.
//   - Events are the leaves of a Merkle tree (RFC 6962). Each transaction ends
//     with a checkpoint of the tree, signed with Ed25519. Whoever keeps a
//     checkpoint elsewhere finds out when an event up to there is changed,
//     removed, inserted or moved.
//   - Any number of goroutines and processes may write to one file: the size of
//     the tree is read inside the transaction that grows it, so the log never
//     forks. A log that doesn't fit its last checkpoint takes no more events.
//   - The first event of a (Request, Step) wins; saying it again changes nothing
//     and returns the same index. After an error nobody knows: say it again.
//   - The ledger and its events change in one transaction.
//
// What is not: whoever holds the log's private key and the file can write
// another history that verifies, up to the checkpoints kept elsewhere. Events
// after the last checkpoint kept elsewhere can be cut off by whoever owns the
// file.
package audit

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/mod/sumdb/note"

	"hallpass/access"
)

// Options are for Open.
type Options struct {
	Path string           // of the SQLite file; made with mode 0600 where there is none
	Key  string           // the log's private key, as ReadKey returns it
	Now  func() time.Time // nil: time.Now
}

// Log is an audit log that can be written to. It is safe for concurrent use,
// and so are several Logs, in one process or in many, on the same file.
type Log struct {
	*Reader
	signer note.Signer
	now    func() time.Time

	inForce atomic.Pointer[access.Digests] // of the last RecordRulebook

	db       *sql.DB
	conn     *sql.Conn            // the writer goroutine's own,
	prepared map[string]*sql.Stmt // and so are these
	last     Checkpoint           // the one it signed last
	lastMsg  []byte
	ops      chan *op
	closing  chan struct{}
	closed   chan struct{}
	once     sync.Once
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
		signer:   signer,
		now:      o.Now,
		prepared: map[string]*sql.Stmt{},
		ops:      make(chan *op),
		closing:  make(chan struct{}),
		closed:   make(chan struct{}),
	}
	if l.now == nil {
		l.now = time.Now
	}
	if err := createFile(o.Path); err != nil {
		return nil, err
	}
	name, err := dsn(o.Path, false)
	if err != nil {
		return nil, err
	}
	if l.db, err = sql.Open("sqlite", name); err != nil {
		return nil, fmt.Errorf("open audit log: %w", err)
	}
	if l.conn, err = connect(ctx, l.db); err != nil {
		return nil, errors.Join(fmt.Errorf("open audit log: %w", explain(err)), l.db.Close())
	}
	if err = l.create(ctx, verifier); err == nil {
		l.Reader, err = openReader(ctx, o.Path, verifier)
	}
	if err != nil {
		return nil, errors.Join(err, l.conn.Close(), l.db.Close())
	}
	go l.write()
	return l, nil
}

// create makes the tables where there are none, and checks what is there. Both
// happen with the write lock held, so that processes starting together make
// one log.
func (l *Log) create(ctx context.Context, verifier note.Verifier) (err error) {
	if _, err := l.conn.ExecContext(ctx, "BEGIN IMMEDIATE"); err != nil {
		return fmt.Errorf("open audit log: %w", explain(err))
	}
	defer func() {
		if err != nil {
			_, _ = l.conn.ExecContext(context.WithoutCancel(ctx), "ROLLBACK")
		}
	}()
	have, err := checkSchema(ctx, l.conn)
	switch {
	case errors.Is(err, errEmpty):
		err = l.createTables(ctx)
	case err == nil:
		err = l.bringUp(ctx, have)
	}
	if err != nil {
		return err
	}
	open := func(msg []byte) (Checkpoint, error) { return openCheckpoint(msg, verifier) }
	var first []byte
	if err := l.conn.QueryRowContext(ctx, "SELECT note FROM checkpoints WHERE size = 0").Scan(&first); err != nil {
		return broken("its first checkpoint is missing")
	}
	if _, err := open(first); err != nil {
		return err
	}
	if _, _, err := loadTree(ctx, l.conn, open); err != nil {
		return err
	}
	if _, err := l.conn.ExecContext(ctx, "COMMIT"); err != nil {
		return fmt.Errorf("open audit log: %w", explain(err))
	}
	return nil
}

// bringUp makes the schema that of today. What is in the log stays as it is.
func (l *Log) bringUp(ctx context.Context, have int) error {
	if have == schemaVersion {
		return nil
	}
	for _, s := range append(slices.Concat(schemas[have:]...), fmt.Sprintf("PRAGMA user_version = %d", schemaVersion)) {
		if _, err := l.conn.ExecContext(ctx, s); err != nil {
			return fmt.Errorf("create audit log: %w", explain(err))
		}
	}
	return nil
}

func (l *Log) createTables(ctx context.Context) error {
	if _, err := l.conn.ExecContext(ctx, fmt.Sprintf("PRAGMA application_id = %d", applicationID)); err != nil {
		return fmt.Errorf("create audit log: %w", explain(err))
	}
	if err := l.bringUp(ctx, 0); err != nil {
		return err
	}
	// The empty log's checkpoint binds the file to its key.
	var empty tree
	msg, err := Checkpoint{l.signer.Name(), 0, empty.root()}.sign(l.signer)
	if err != nil {
		return err
	}
	if _, err := l.conn.ExecContext(ctx, "INSERT INTO checkpoints (size, note) VALUES (0, ?)", msg); err != nil {
		return fmt.Errorf("create audit log: %w", explain(err))
	}
	return nil
}

// Close waits for what is being written and closes the file. Calls that come
// after it fail with CodeUnavailable.
func (l *Log) Close() error {
	var err error
	l.once.Do(func() {
		close(l.closing)
		<-l.closed
		err = l.Reader.Close()
		for _, s := range l.prepared {
			err = errors.Join(err, s.Close())
		}
		err = errors.Join(err, l.conn.Close(), l.db.Close())
	})
	return err
}

// Reader is an audit log that can only be looked at. It is safe for concurrent
// use, and sees what others write meanwhile.
type Reader struct {
	db       *sql.DB
	verifier note.Verifier
	locks    lockCache
}

// OpenReader opens the log for reading. The key is the log's public key.
func OpenReader(ctx context.Context, path, key string) (*Reader, error) {
	v, err := parsePublicKey(key)
	if err != nil {
		return nil, err
	}
	return openReader(ctx, path, v)
}

func openReader(ctx context.Context, path string, v note.Verifier) (*Reader, error) {
	if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
		return nil, access.Errorf(access.CodeNotFound, "there is no audit log at %s", path)
	}
	name, err := dsn(path, true)
	if err != nil {
		return nil, err
	}
	db, err := sql.Open("sqlite", name)
	if err != nil {
		return nil, fmt.Errorf("open audit log: %w", err)
	}
	if _, err := checkSchema(ctx, db); err != nil {
		if errors.Is(err, errEmpty) {
			err = access.Errorf(access.CodeMalformed, "%s is not an audit log of hallpass: %v", path, err)
		}
		return nil, errors.Join(err, db.Close())
	}
	return &Reader{db: db, verifier: v}, nil
}

// Close closes the file.
func (r *Reader) Close() error { return r.db.Close() }

// PublicKey names the key that signs the log's checkpoints, as "name+hash".
func (r *Reader) PublicKey() string {
	return fmt.Sprintf("%s+%08x", r.verifier.Name(), r.verifier.KeyHash())
}

func (r *Reader) open(msg []byte) (Checkpoint, error) { return openCheckpoint(msg, r.verifier) }
