package worker

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"hallpass/access"
	"hallpass/audit"
	"hallpass/evidence"
	"hallpass/internal/wording"
)

const (
	recordTimeout = 10 * time.Second // for the audit log to take an event
	lookEvery     = time.Second      // at the rulebook's files, when nobody asks
)

// book gives out the rulebook of the moment and sees to it that every version
// is in the audit log before anything is judged by it, and that a version
// that can't be read is in there too.
//
// Where the audit log doesn't take a version, the version is given out all
// the same: judging by the old one would be worse, and what is judged by the
// new one can't be recorded, so nothing comes of it until it can.
type book struct {
	files *evidence.Files
	log   recorder
	slog  *slog.Logger

	mu         sync.Mutex
	recorded   access.Digests
	unrecorded string // why the latest isn't, as the log says
	broken     string // the error that is in the audit log
}

// recorder is the part of audit.Log that a book needs.
type recorder interface {
	RecordRulebook(context.Context, *evidence.Rulebook) error
	Append(context.Context, audit.Event) (int64, error)
}

func openBook(c *Config, log recorder, l *slog.Logger) (*book, error) {
	files, err := evidence.OpenFiles(c.Policy, c.Directory, c.Catalog, evidence.FilesOptions{Log: l})
	if err != nil {
		return nil, err
	}
	return &book{files: files, log: log, slog: l}, nil
}

// Rulebook looks at the files and returns what is in force.
func (b *book) Rulebook() *evidence.Rulebook {
	b.mu.Lock()
	defer b.mu.Unlock()
	r := b.files.Rulebook()
	ctx, cancel := context.WithTimeout(context.Background(), recordTimeout)
	defer cancel()
	if d := r.Digests(); d != b.recorded {
		if err := b.log.RecordRulebook(ctx, r); err != nil {
			if why := wording.Line(err.Error()); why != b.unrecorded {
				b.slog.Error("rulebook is not in the audit log; nothing can be decided by it until it is", "error", why, "hint", access.HintOf(err))
				b.unrecorded = why
			}
		} else {
			b.recorded, b.unrecorded = d, ""
		}
	}
	b.note(ctx, b.files.Broken())
	return r
}

// note records that the files are broken, once for each way in which they
// are.
func (b *book) note(ctx context.Context, err error) {
	if err == nil {
		b.broken = ""
		return
	}
	why := wording.Line(err.Error())
	if why == b.broken {
		return
	}
	if _, err := b.log.Append(ctx, audit.Event{Type: audit.RulebookBroken, Why: why}); err != nil {
		b.slog.Error("broken rulebook is not in the audit log", "error", err)
		return
	}
	b.broken = why
}

// watch looks at the files until ctx ends, so that a broken one is noticed
// when it is written and not when somebody asks for access.
func (b *book) watch(ctx context.Context) {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			b.Rulebook()
		}
	}
}
